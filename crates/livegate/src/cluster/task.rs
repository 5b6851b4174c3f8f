//! The task of one cluster: joins what discovery, probes, traffic and the operator say.
//!
//! Only waiting is async here. What arrives is handed to plain state that is told the time: the
//! [`Updater`] and the [`Probes`]. The probes run as tasks of their own, owned by this one, and end
//! with it.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use livegate_discovery::probe::{Probe, Probes, Purpose};
use livegate_discovery::{
    Balancer, Doubt, InstanceId, Snapshot, Transition, UnknownInstance, Updater,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use crate::cluster::policy;
use crate::config::{HealthCheckKind, ServiceConfig};
use crate::events::Events;
use crate::health::check;
use crate::health::probe::{self, Finding, Question};

/// How often the updater looks at time passing: ejections, stalls and warm-ups are that exact.
const TICK: Duration = Duration::from_millis(100);

/// Snapshots that follow one another closely wait three times as long as the last one took. That is
/// under 4 ms for one change among ten thousand instances (`change_cost` in livegate-discovery), but
/// one that changes all of them takes longer, and must not keep the core that probes need. Of those
/// that wait only the last one counts.
const PACE: u32 = 3;
/// They do not wait longer.
const PACE_MAX: Duration = Duration::from_millis(100);

/// What the operator wants of an instance.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) instance: InstanceId,
    pub(super) wish: Wish,
    pub(super) reply: oneshot::Sender<Result<(), UnknownInstance>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// No new requests to it.
    Drain,
    /// As before the drain.
    Undrain,
    /// No longer hold it.
    Drop,
}

/// Whence the task hears.
#[derive(Debug)]
pub(super) struct Inputs {
    pub(super) snapshots: watch::Receiver<Arc<Snapshot>>,
    /// The task ends when the other side is dropped.
    pub(super) configs: watch::Receiver<Arc<ServiceConfig>>,
    pub(super) commands: mpsc::Receiver<Command>,
}

/// Everything the task knows.
pub(super) struct Task {
    name: Arc<str>,
    updater: Updater,
    balancer: Balancer,
    config: Arc<ServiceConfig>,
    probes: Probes,
    /// From when on the next snapshot is taken in.
    listens: Instant,
    probing: JoinSet<Report>,
    events: Events,
    is_panic: bool,
    /// The last probe could not be made for want of something of ours.
    is_prevented: bool,
}

/// What a probe has found.
struct Report {
    probe: Probe,
    finding: Finding,
}

enum Event {
    Snapshot(Arc<Snapshot>),
    Config(Arc<ServiceConfig>),
    Command(Command),
    Report(Report),
    /// A request has changed something.
    Woken,
    /// A check, a trial or a tick is due.
    Due,
    /// The cluster is not wanted any more.
    End,
}

/// The time, by a clock that tests can move.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl Task {
    pub(super) fn new(
        name: Arc<str>,
        updater: Updater,
        balancer: Balancer,
        config: Arc<ServiceConfig>,
        events: Events,
    ) -> Self {
        let probes = Probes::new(check::policy(&config.health_check), fastrand::u64(..));
        Self {
            name,
            updater,
            balancer,
            config,
            probes,
            listens: now(),
            probing: JoinSet::new(),
            events,
            is_panic: false,
            is_prevented: false,
        }
    }

    /// Takes in the snapshot and publishes the view it makes.
    pub(super) fn apply(&mut self, snapshot: &Snapshot) {
        let now = now();
        let started = Instant::now();
        let transitions = self.updater.apply(snapshot, now);
        self.tell(transitions);
        self.listens = now + (started.elapsed() * (1 + PACE)).min(PACE_MAX);
    }

    /// Runs until the configuration is no longer wanted.
    pub(super) async fn run(mut self, mut inputs: Inputs) {
        let mut tick = now() + TICK;
        loop {
            self.start_what_is_due();
            let event = self.next_event(&mut inputs, tick).await;
            let is_tick = now() >= tick;
            let transitions = match event {
                Event::Snapshot(snapshot) => {
                    self.apply(&snapshot);
                    continue;
                }
                Event::Config(config) => self.configure(config),
                Event::Command(command) => self.obey(command),
                Event::Report(report) => self.weigh(&report),
                Event::Woken => self.updater.tick(now()),
                Event::Due => Vec::new(),
                Event::End => return,
            };
            self.tell(transitions);
            if is_tick {
                tick = now() + TICK;
                let transitions = self.updater.tick(now());
                self.tell(transitions);
                self.tell_panic();
            }
        }
    }

    /// Cancel-safe: what it takes, it returns.
    async fn next_event(&mut self, inputs: &mut Inputs, tick: Instant) -> Event {
        let due = self.probes.next_due().into_iter();
        let listens = now() >= self.listens;
        let due = due.chain((!listens).then_some(self.listens));
        let due = due.fold(tick, Instant::min);
        let woken = pin!(self.updater.woken());
        tokio::select! {
            Ok(()) = inputs.snapshots.changed(), if listens => {
                Event::Snapshot(Arc::clone(&inputs.snapshots.borrow_and_update()))
            }
            changed = inputs.configs.changed() => match changed {
                Ok(()) => Event::Config(Arc::clone(&inputs.configs.borrow_and_update())),
                Err(_) => Event::End,
            },
            Some(command) = inputs.commands.recv() => Event::Command(command),
            // Probes do not panic, and nobody aborts them.
            Some(Ok(report)) = self.probing.join_next() => Event::Report(report),
            () = woken => Event::Woken,
            () = sleep_until(due.into()) => Event::Due,
        }
    }

    fn configure(&mut self, config: Arc<ServiceConfig>) -> Vec<Transition> {
        let now = now();
        let before = std::mem::replace(&mut self.config, config);
        let mut transitions = self.updater.set_policy(policy(&self.config), now);
        let (before, after) = (&before.health_check, &self.config.health_check);
        transitions.extend(self.probes.configure(
            check::policy(after),
            check::is_other(before, after),
            &mut self.updater,
            now,
        ));
        transitions
    }

    fn obey(&mut self, command: Command) -> Vec<Transition> {
        let (instance, now) = (&command.instance, now());
        let result = match command.wish {
            Wish::Drain => self.updater.set_drained(instance, true, now),
            Wish::Undrain => self.updater.set_drained(instance, false, now),
            Wish::Drop => self.updater.drop_held(instance, now),
        };
        let (reply, transitions) = match result {
            Ok(transitions) => (Ok(()), transitions),
            Err(unknown) => (Err(unknown), Vec::new()),
        };
        // Whoever asked may have given up waiting; it is done all the same.
        let _ = command.reply.send(reply);
        transitions
    }

    /// Takes in what a probe has found.
    fn weigh(&mut self, report: &Report) -> Vec<Transition> {
        let Report { probe, finding } = report;
        if let Finding::Prevented(error) = finding
            && !self.is_prevented
        {
            tracing::warn!("cannot check instances of {}: {error}", self.name);
        }
        self.is_prevented = matches!(finding, Finding::Prevented(_));
        let health = check::judge(finding, &self.config.health_check.expect);
        let evidence = finding.evidence();
        self.probes
            .take_in(&mut self.updater, probe, &evidence, health, now())
    }

    fn start_what_is_due(&mut self) {
        let health_check = &self.config.health_check;
        for probe in self.probes.take_due(&self.updater, now()) {
            let (question, patience) = match probe.purpose() {
                Purpose::Check => (check::question(health_check), health_check.timeout),
                Purpose::Trial(Doubt::Connects | Doubt::Held) => {
                    (Question::Connect, self.config.timeouts.connect)
                }
                Purpose::Trial(Doubt::Speaks) if health_check.kind == HealthCheckKind::Http => (
                    Question::Get(health_check.path.clone()),
                    health_check.timeout,
                ),
                Purpose::Trial(Doubt::Speaks) => (Question::Speak, health_check.timeout),
            };
            self.probing.spawn(async move {
                let address = probe.endpoint().address();
                let finding = probe::ask(address, &question, patience).await;
                Report { probe, finding }
            });
        }
    }

    /// Records what has happened.
    fn tell(&mut self, transitions: Vec<Transition>) {
        for transition in transitions {
            let instance = transition.instance.to_shared();
            self.events.push(
                Some(Arc::clone(&self.name)),
                Some(instance),
                transition.kind,
                transition.cause,
            );
        }
    }

    /// Records the beginning and end of panic, as it is at the ticks: whoever is alone and resets
    /// connections goes in and out of it all the time.
    fn tell_panic(&mut self) {
        let view = self.balancer.view();
        if view.is_panic() == self.is_panic {
            return;
        }
        self.is_panic = view.is_panic();
        let fit = view
            .members()
            .iter()
            .filter(|member| !member.endpoint.is_unfit())
            .count();
        let cause = format!("{fit} of {} endpoints are fit", view.members().len());
        let kind = if self.is_panic { "panic" } else { "panic_over" };
        self.events
            .push(Some(Arc::clone(&self.name)), None, kind, cause);
    }
}
