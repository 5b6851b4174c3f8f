//! The task behind a service client: joins what discovery, probes and calls say.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::finder::history::History;
use crate::policy::Policy;
use crate::probe::{self, CheckPolicy, Evidence, Probe, Probes, Purpose};
use crate::snapshot::Snapshot;
use crate::updater::{Transition, Updater};
use crate::watch::sleep_until;

/// How often the updater looks at time passing: ejections, stalls and warm-ups are that exact.
const TICK: Duration = Duration::from_millis(100);

/// Connections that probes have at once; more than that wait for each other.
const PROBES_MAX: usize = 256;

pub(super) struct Task {
    name: String,
    updater: Updater,
    probes: Probes,
    probing: JoinSet<(Probe, Evidence)>,
    connections: Arc<Semaphore>,
    check_timeout: Duration,
    connect_timeout: Duration,
    history: watch::Sender<History>,
    /// The last probe could not be made for want of something of ours.
    is_prevented: bool,
}

enum Event {
    Snapshot(Arc<Snapshot>),
    Policy(Policy),
    Found(Probe, Evidence),
    /// A call has changed something.
    Woken,
    /// A probe or a tick is due.
    Due,
    /// Nobody can call any more.
    End,
}

impl Task {
    pub(super) fn new(
        name: String,
        updater: Updater,
        checks: Option<CheckPolicy>,
        connect_timeout: Duration,
        history: watch::Sender<History>,
    ) -> Self {
        Self {
            name,
            updater,
            probes: Probes::new(checks, fastrand::u64(..)),
            probing: JoinSet::new(),
            connections: Arc::new(Semaphore::new(PROBES_MAX)),
            check_timeout: checks.map_or(connect_timeout, |checks| checks.timeout),
            connect_timeout,
            history,
            is_prevented: false,
        }
    }

    /// Takes in what is known already; the rest when the future is run.
    pub(super) fn start(
        mut self,
        mut snapshots: watch::Receiver<Arc<Snapshot>>,
        policies: watch::Receiver<Policy>,
    ) -> impl Future<Output = ()> {
        let first = Arc::clone(&snapshots.borrow_and_update());
        let transitions = self.updater.apply(&first, Instant::now());
        self.tell(transitions);
        self.run(snapshots, policies)
    }

    async fn run(
        mut self,
        mut snapshots: watch::Receiver<Arc<Snapshot>>,
        mut policies: watch::Receiver<Policy>,
    ) {
        let mut tick = Instant::now() + TICK;
        loop {
            self.start_probes();
            let event = self.next_event(&mut snapshots, &mut policies, tick).await;
            let now = Instant::now();
            let transitions = match event {
                Event::Snapshot(snapshot) => self.updater.apply(&snapshot, now),
                Event::Policy(policy) => self.updater.set_policy(policy, now),
                Event::Found(probe, evidence) => self.take_in(&probe, &evidence, now),
                Event::Woken => self.updater.tick(now),
                Event::Due => Vec::new(),
                Event::End => return,
            };
            self.tell(transitions);
            if now >= tick {
                tick = now + TICK;
                let transitions = self.updater.tick(now);
                self.tell(transitions);
            }
        }
    }

    /// Cancel-safe: what it takes, it returns.
    async fn next_event(
        &mut self,
        snapshots: &mut watch::Receiver<Arc<Snapshot>>,
        policies: &mut watch::Receiver<Policy>,
        tick: Instant,
    ) -> Event {
        let due = self.probes.next_due().map_or(tick, |due| due.min(tick));
        let woken = pin!(self.updater.woken());
        tokio::select! {
            Ok(()) = snapshots.changed() => Event::Snapshot(Arc::clone(&snapshots.borrow_and_update())),
            changed = policies.changed() => match changed {
                Ok(()) => Event::Policy(*policies.borrow_and_update()),
                Err(_) => Event::End,
            },
            // Probes do not panic, and nobody aborts them.
            Some(Ok((probe, evidence))) = self.probing.join_next() => Event::Found(probe, evidence),
            () = woken => Event::Woken,
            () = sleep_until(Some(due)) => Event::Due,
        }
    }

    fn start_probes(&mut self) {
        for probe in self.probes.take_due(&self.updater, Instant::now()) {
            let connections = Arc::clone(&self.connections);
            let patience = match probe.purpose() {
                Purpose::Check => self.check_timeout,
                Purpose::Trial(_) => self.connect_timeout,
            };
            self.probing.spawn(async move {
                // Never closed.
                let _permit = connections.acquire_owned().await;
                let address = probe.endpoint().address();
                let evidence = probe::ask(address, probe.purpose(), patience).await;
                (probe, evidence)
            });
        }
    }

    fn take_in(&mut self, probe: &Probe, evidence: &Evidence, now: Instant) -> Vec<Transition> {
        let was_prevented = self.is_prevented;
        self.is_prevented = matches!(evidence, Evidence::Prevented(_));
        if let Evidence::Prevented(error) = evidence
            && !was_prevented
        {
            tracing::warn!(service = self.name, %error, "an instance cannot be probed");
        }
        let health = evidence.health();
        self.probes
            .take_in(&mut self.updater, probe, evidence, health, now)
    }

    /// Records what has happened.
    fn tell(&self, transitions: Vec<Transition>) {
        if transitions.is_empty() {
            return;
        }
        for transition in &transitions {
            let Transition {
                instance,
                kind,
                cause,
                ..
            } = transition;
            tracing::debug!(service = self.name, %instance, kind, cause);
        }
        self.history.send_modify(|history| {
            transitions
                .into_iter()
                .for_each(|transition| history.push(transition));
        });
    }
}
