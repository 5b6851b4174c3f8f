//! The task that watches one service: carries questions and answers between the model and the client.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use livegate_zk::client::{
    Client, ConnectionState, Error, Gap, Notification, SessionState, Watcher,
};
use livegate_zk::proto::stat::Stat;
use livegate_zk::proto::watch::AddWatchMode;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinError, JoinSet};

use super::contact::Contact;
use super::model::{Failure, Job, Model};
use super::pace::Pace;
use super::roster::{Change, Roster};
use super::{ServiceOptions, WatchStats, Weights, backoff, look_up};
use crate::courtesy::{FEW, Turn, give_way_after};
use crate::snapshot::{Snapshot, Status};

/// What all services that are watched through one client share.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) stats: Arc<WatchStats>,
    /// Requests to the registry that may be under way.
    pub(super) reads: Arc<Semaphore>,
    pub(super) reads_max: usize,
    /// Names that may be looked up at once.
    pub(super) look_ups: Arc<Semaphore>,
    pub(super) coalesce: std::time::Duration,
    pub(super) reattach_jitter: std::time::Duration,
}

/// An answer from the registry.
enum Answer {
    Watching(Result<Watcher, Error>),
    Listed(Arc<str>, Result<(Vec<String>, Stat), Failure>),
    State(Arc<str>, u64, Result<Option<Stat>, Failure>),
    Data(Arc<str>, u64, Result<(Vec<u8>, Stat), Failure>),
}

/// Watches one service until it is aborted or the client is closed.
pub(super) struct Task {
    path: Arc<str>,
    shared: Shared,
    model: Model,
    pace: Pace,
    /// When to ask about what changed in a large service.
    asking: Pace,
    contact: Contact,
    watcher: Option<Watcher>,
    /// When to try again to set the watch.
    rewatch_at: Option<Instant>,
    rewatch_failures: u32,
    is_setting_watch: bool,
    /// When to begin a reconcile, and with which attachment.
    reconcile_at: Option<(Instant, u64)>,
    /// The attachment of the reconcile under way.
    reconciling: Option<u64>,
    answers: JoinSet<Answer>,
    look_ups: JoinSet<(Arc<str>, Result<IpAddr, String>)>,
    states: watch::Receiver<SessionState>,
    weights: watch::Receiver<Weights>,
    snapshots: watch::Sender<Arc<Snapshot>>,
}

/// More than the default that is shared by all of them would only be queued.
const LOOK_UPS_MAX: usize = 8;

impl Task {
    pub(super) fn new(
        path: &str,
        shared: Shared,
        options: ServiceOptions,
        weights: watch::Receiver<Weights>,
        snapshots: watch::Sender<Arc<Snapshot>>,
    ) -> Self {
        let label: Arc<str> = livegate_zk::path::name(path).into();
        let roster = Roster::new(Arc::clone(&label), options.weights);
        Self {
            path: path.into(),
            model: Model::new(options.layout, label, roster),
            pace: Pace::new(shared.coalesce),
            asking: Pace::new(shared.coalesce),
            contact: Contact::new(options.saved.as_deref()),
            watcher: None,
            rewatch_at: Some(Instant::now()),
            rewatch_failures: 0,
            is_setting_watch: false,
            reconcile_at: None,
            reconciling: None,
            answers: JoinSet::new(),
            look_ups: JoinSet::new(),
            states: shared.client.states(),
            weights,
            snapshots,
            shared,
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            let now = Instant::now();
            let state = self.states.borrow_and_update().clone();
            self.contact.session(&state, now, SystemTime::now());
            if state.connection == ConnectionState::Closed {
                self.publish_if_due(now);
                return;
            }
            self.act(now);
            let due = self.due(now);
            // Events first: an answer may be newer than they are, and then they say less.
            tokio::select! {
                biased;
                notification = next(self.watcher.as_mut()) => self.notified(notification, now),
                _ = self.states.changed() => {}
                Some(answer) = self.answers.join_next(), if !self.answers.is_empty() => {
                    self.answered(answer, Instant::now());
                }
                Some(found) = self.look_ups.join_next(), if !self.look_ups.is_empty() => {
                    if let Ok((host, outcome)) = found {
                        self.model.looked_up(&host, outcome, Instant::now());
                    }
                }
                Ok(()) = self.weights.changed() => {
                    let weights = self.weights.borrow_and_update().clone();
                    self.model.roster.set_weights(weights);
                }
                () = sleep_until(due) => {}
            }
        }
    }

    /// Does what is due, asks what there is to ask, and publishes.
    fn act(&mut self, now: Instant) {
        if self.watcher.is_none()
            && !self.is_setting_watch
            && self.rewatch_at.is_some_and(|at| at <= now)
        {
            self.rewatch_at = None;
            self.is_setting_watch = true;
            let (client, path) = (self.shared.client.clone(), Arc::clone(&self.path));
            self.answers.spawn(async move {
                let mode = AddWatchMode::PersistentRecursive;
                Answer::Watching(client.watch(&path, mode).await)
            });
        }
        if let Some((at, attachment)) = self.reconcile_at
            && at <= now
        {
            self.reconcile_at = None;
            self.reconciling = Some(attachment);
            self.model.reconcile();
        }
        self.model.wake(now);
        if self.model.take_reconciled(now)
            && let Some(attachment) = self.reconciling.take()
        {
            self.contact.reconciled(attachment);
        }
        if self.asking_due(now).is_some_and(|due| due <= now) {
            while self.answers.len() < self.shared.reads_max
                && let Some(job) = self.model.next_job()
            {
                self.ask(job);
            }
            if !self.model.has_jobs() {
                self.asking.done(now);
            }
        }
        while self.look_ups.len() < LOOK_UPS_MAX
            && let Some(host) = self.model.next_look_up()
        {
            let permits = Arc::clone(&self.shared.look_ups);
            self.look_ups.spawn(async move {
                // Never closed.
                let _permit = permits.acquire().await;
                let outcome = look_up::address(&host).await;
                (host, outcome)
            });
        }
        self.publish_if_due(now);
    }

    /// When [`act`](Self::act) has something to do without being told.
    fn due(&self, now: Instant) -> Option<Instant> {
        let reconcile = self.reconcile_at.map(|(at, _)| at);
        let publish = self.publish_due(now);
        // With the most under way the next answer makes room.
        let has_room = self.answers.len() < self.shared.reads_max;
        let asking = self.asking_due(now).filter(|_| has_room);
        [
            reconcile,
            publish,
            asking,
            self.rewatch_at,
            self.model.due(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// When to ask what there is to ask. In a large service something changes all the time, and answers
    /// that come together cost half of what they do one by one.
    fn asking_due(&self, now: Instant) -> Option<Instant> {
        if !self.model.has_jobs() {
            None
        } else if self.model.len() > FEW && self.reconciling.is_none() {
            self.asking.due(Change::Additive, now)
        } else {
            Some(now)
        }
    }

    fn ask(&mut self, job: Job) {
        let (client, path) = (self.shared.client.clone(), Arc::clone(&self.path));
        let (permits, stats) = (
            Arc::clone(&self.shared.reads),
            Arc::clone(&self.shared.stats),
        );
        self.answers.spawn(async move {
            // Never closed.
            let _permit = permits.acquire().await;
            match job {
                Job::List { directory } => {
                    stats.count_listing();
                    let listed = client.children2(&below(&path, &directory)).await;
                    Answer::Listed(directory, listed.map_err(failure))
                }
                Job::State { node, generation } => {
                    stats.count_state();
                    let state = client.exists(&below(&path, &node)).await;
                    Answer::State(node, generation, state.map_err(failure))
                }
                Job::Data { node, generation } => {
                    stats.count_read();
                    let data = client.get(&below(&path, &node)).await;
                    Answer::Data(node, generation, data.map_err(failure))
                }
            }
        });
    }

    fn notified(&mut self, notification: Option<Notification>, now: Instant) {
        let mut next = notification;
        while let Some(notification) = next {
            match notification {
                Notification::Event(event) => {
                    if let Some(node) = relative(&self.path, &event.path) {
                        self.model.event(event.kind, node);
                    }
                }
                Notification::Gap(gap) => self.begin_reconcile(gap, now),
            }
            let watcher = self.watcher.as_mut();
            next = watcher.and_then(Watcher::try_next);
            if next.is_none() {
                self.model.bury();
                // Many events must not keep answers waiting.
                if let Some(answer) = self.answers.try_join_next() {
                    self.answered(answer, now);
                }
                return;
            }
        }
        // The watch was removed behind our back, unless the client is closed.
        self.watcher = None;
        self.rewatch_at = Some(now + backoff::delay(1));
    }

    fn begin_reconcile(&mut self, gap: Gap, now: Instant) {
        // A gap is told after the new connection shows in the state.
        let attachment = self.states.borrow().attachments;
        let wait = match gap {
            Gap::Overflow => std::time::Duration::ZERO,
            Gap::Reattached | Gap::NewSession => {
                self.shared.reattach_jitter.mul_f64(fastrand::f64())
            }
        };
        self.reconcile_at = Some((now + wait, attachment));
    }

    fn answered(&mut self, answer: Result<Answer, JoinError>, now: Instant) {
        let mut next = Some(answer);
        let mut turn = Turn::begin();
        while let Some(answer) = next {
            match answer {
                Ok(Answer::Watching(outcome)) => self.watching(outcome, now),
                Ok(Answer::Listed(directory, outcome)) => {
                    self.model.listed(&directory, outcome, now)
                }
                Ok(Answer::State(node, generation, outcome)) => {
                    self.model.state(&node, generation, outcome, now);
                }
                Ok(Answer::Data(node, generation, outcome)) => {
                    self.model.data(&node, generation, outcome, now);
                }
                // Nothing aborts them, and they do not panic.
                Err(_) => {}
            }
            next = self.answers.try_join_next();
            if next.is_some() {
                turn.give_way();
            }
        }
    }

    fn watching(&mut self, outcome: Result<Watcher, Error>, now: Instant) {
        self.is_setting_watch = false;
        let label = "(watch)";
        match outcome {
            Ok(watcher) => {
                self.watcher = Some(watcher);
                self.rewatch_failures = 0;
                self.model.roster.set_fault(label, None);
                // If contact was lost meanwhile, a gap will follow.
                self.reconcile_at = Some((now, self.states.borrow().attachments));
            }
            Err(error) => {
                self.rewatch_failures += 1;
                self.rewatch_at = Some(now + backoff::delay(self.rewatch_failures));
                if let Failure::Other(cause) = failure(error) {
                    let cause = format!("the service cannot be watched: {cause}");
                    self.model.roster.set_fault(label, Some(cause));
                }
            }
        }
    }

    fn publish_due(&self, now: Instant) -> Option<Instant> {
        let change = self.model.roster.change();
        let last = self.snapshots.borrow();
        if self.status() != last.status || self.attachment() != last.attachment {
            return Some(now);
        }
        // Until everything has been compared, the list stays as it was.
        if self.contact.is_current() {
            self.pace.due(change, now)
        } else if *self.model.roster.skipped != *last.skipped {
            self.pace.due(Change::Additive, now)
        } else {
            None
        }
    }

    fn publish_if_due(&mut self, now: Instant) {
        if self.publish_due(now).is_none_or(|due| due > now) {
            return;
        }
        give_way_after(self.model.len());
        let last = Arc::clone(&self.snapshots.borrow());
        let is_current = self.contact.is_current();
        let snapshot = Snapshot {
            revision: last.revision + 1,
            status: self.status(),
            attachment: self.attachment(),
            instances: if is_current {
                self.model.roster.instances.clone()
            } else {
                last.instances.clone()
            },
            skipped: Arc::clone(&self.model.roster.skipped),
        };
        if is_current {
            self.model.roster.published();
        }
        self.pace.done(now);
        self.shared.stats.count_snapshot();
        self.snapshots.send_replace(Arc::new(snapshot));
    }

    fn status(&self) -> Status {
        self.contact.status(self.model.exists())
    }

    /// Over which attachment the list to publish was made.
    fn attachment(&self) -> u64 {
        if self.contact.is_current() {
            self.contact.compared_at()
        } else {
            self.snapshots.borrow().attachment
        }
    }
}

/// What a failure means for the model. Errors about the request itself cannot occur with valid paths.
pub(super) fn failure(error: Error) -> Failure {
    match error {
        Error::ConnectionLoss | Error::DeadlineExceeded | Error::NotSent(_) => Failure::NoContact,
        error if error.is_no_node() => Failure::NoNode,
        error => Failure::Other(error.to_string()),
    }
}

/// The path of a node below the service.
fn below(service: &str, node: &str) -> String {
    if node.is_empty() {
        service.to_owned()
    } else {
        livegate_zk::path::join(service, node)
    }
}

/// The reverse.
fn relative<'a>(service: &str, path: &'a str) -> Option<&'a str> {
    let rest = match service {
        "/" => path,
        service => path.strip_prefix(service)?,
    };
    match rest {
        "" | "/" => Some(""),
        rest => rest.strip_prefix('/'),
    }
}

/// Waits for ever without a watcher.
pub(super) async fn next(watcher: Option<&mut Watcher>) -> Option<Notification> {
    match watcher {
        Some(watcher) => watcher.next().await,
        None => std::future::pending().await,
    }
}

/// Waits for ever without a time.
pub(crate) async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
