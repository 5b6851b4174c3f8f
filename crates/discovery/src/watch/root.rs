//! Which services there are below a root.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use livegate_zk::client::{ConnectionState, Error, Gap, Notification, SessionState, Watcher};
use livegate_zk::path::{self, PathError};
use livegate_zk::proto::watch::{AddWatchMode, EventKind};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::contact::Contact;
use super::model::Failure;
use super::task::{Shared, failure, next, sleep_until};
use super::{Discovery, ServiceOptions, ServiceWatch, backoff};
use crate::snapshot::Status;

/// ZooKeeper's own node, which is no service.
const RESERVED: &str = "/zookeeper";

/// The services below a root at a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Services {
    /// Grows with every change.
    pub revision: u64,
    /// How far to trust it; the same facts as of a [`Snapshot`](crate::Snapshot).
    pub status: Status,
    /// Grows whenever contact with the registry was lost and is there again; 0 before the first.
    pub attachment: u64,
    /// The names of the root's children. Whether they have instances is not known here.
    pub names: Arc<BTreeSet<Arc<str>>>,
    /// Why the root cannot be read at present.
    pub fault: Option<Arc<str>>,
}

/// The services below a root, for as long as this is held. Dropping it ends the watch.
#[derive(Debug)]
pub struct RootWatch {
    path: Arc<str>,
    discovery: Discovery,
    services: watch::Receiver<Arc<Services>>,
    /// Dropping the set aborts the task.
    _task: JoinSet<()>,
}

impl RootWatch {
    pub(super) fn new(path: &str, discovery: &Discovery) -> Self {
        let first = Services {
            revision: 0,
            status: Status::Pending,
            attachment: 0,
            names: Arc::default(),
            fault: None,
        };
        let (sender, services) = watch::channel(Arc::new(first));
        let path: Arc<str> = path.into();
        let shared = discovery.shared.clone();
        let task = Task {
            path: Arc::clone(&path),
            states: shared.client.states(),
            contact: Contact::new(None),
            watcher: None,
            listing: None,
            work: JoinSet::new(),
            ask_at: Some(Instant::now()),
            failures: 0,
            exists: false,
            names: Arc::default(),
            fault: None,
            services: sender,
            shared,
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(task.run());
        Self {
            path,
            discovery: discovery.clone(),
            services,
            _task: tasks,
        }
    }

    /// The services from now on: the latest value counts. Ends when the watch is dropped or the client is
    /// closed.
    #[must_use]
    pub fn services(&self) -> watch::Receiver<Arc<Services>> {
        self.services.clone()
    }

    /// The services now.
    #[must_use]
    pub fn latest(&self) -> Arc<Services> {
        Arc::clone(&self.services.borrow())
    }

    /// Watches one of them, or one that is not there yet.
    ///
    /// # Errors
    /// When the name cannot be that of a node.
    ///
    /// # Panics
    /// Outside a Tokio runtime with time and I/O enabled.
    pub fn service(&self, name: &str, options: ServiceOptions) -> Result<ServiceWatch, PathError> {
        self.discovery
            .service(&path::join(&self.path, name), options)
    }
}

/// An answer from the registry.
enum Answer {
    Watching(Result<Watcher, Error>),
    Listed(Result<Vec<String>, Failure>),
}

/// The listing under way.
struct Listing {
    attachment: u64,
    /// Something happened since it was asked for.
    is_old: bool,
}

struct Task {
    path: Arc<str>,
    shared: Shared,
    states: watch::Receiver<SessionState>,
    contact: Contact,
    watcher: Option<Watcher>,
    listing: Option<Listing>,
    work: JoinSet<Answer>,
    /// When to set the watch, if there is none, or to list.
    ask_at: Option<Instant>,
    failures: u32,
    exists: bool,
    names: Arc<BTreeSet<Arc<str>>>,
    fault: Option<Arc<str>>,
    services: watch::Sender<Arc<Services>>,
}

impl Task {
    async fn run(mut self) {
        loop {
            let now = Instant::now();
            let state = self.states.borrow_and_update().clone();
            self.contact.session(&state, now, SystemTime::now());
            self.publish();
            if state.connection == ConnectionState::Closed {
                return;
            }
            if self.ask_at.is_some_and(|at| at <= now) && self.work.is_empty() {
                self.ask();
            }
            // Asks when the answer to the former question is there.
            let due = self.ask_at.filter(|_| self.work.is_empty());
            tokio::select! {
                biased;
                notification = next(self.watcher.as_mut()) => self.notified(notification, now),
                _ = self.states.changed() => {}
                Some(answer) = self.work.join_next(), if !self.work.is_empty() => match answer {
                    Ok(Answer::Watching(outcome)) => self.watching(outcome, Instant::now()),
                    Ok(Answer::Listed(outcome)) => self.listed(outcome, Instant::now()),
                    // Nothing aborts them, and they do not panic.
                    Err(_) => self.ask_at = Some(Instant::now()),
                },
                () = sleep_until(due) => {}
            }
        }
    }

    fn ask(&mut self) {
        self.ask_at = None;
        let (client, path) = (self.shared.client.clone(), Arc::clone(&self.path));
        if self.watcher.is_none() {
            self.work.spawn(async move {
                Answer::Watching(client.watch(&path, AddWatchMode::Persistent).await)
            });
            return;
        }
        self.listing = Some(Listing {
            attachment: self.states.borrow().attachments,
            is_old: false,
        });
        let stats = Arc::clone(&self.shared.stats);
        self.work.spawn(async move {
            stats.count_listing();
            Answer::Listed(client.children(&path).await.map_err(failure))
        });
    }

    fn notified(&mut self, notification: Option<Notification>, now: Instant) {
        let mut next = notification;
        while let Some(notification) = next {
            let wait = match notification {
                // Nothing that the list tells.
                Notification::Event(event) if event.kind == EventKind::DataChanged => None,
                Notification::Event(_) => Some(Duration::ZERO),
                Notification::Gap(Gap::Overflow) => Some(Duration::ZERO),
                Notification::Gap(Gap::Reattached | Gap::NewSession) => {
                    Some(self.shared.reattach_jitter.mul_f64(fastrand::f64()))
                }
            };
            if let Some(wait) = wait {
                self.ask_at = Some(self.ask_at.unwrap_or(now + wait).max(now + wait));
                if let Some(listing) = &mut self.listing {
                    listing.is_old = true;
                }
            }
            next = self.watcher.as_mut().and_then(Watcher::try_next);
            if next.is_none() {
                return;
            }
        }
        // The watch was removed behind our back, unless the client is closed.
        self.watcher = None;
        self.ask_at = Some(now + backoff::delay(1));
    }

    fn watching(&mut self, outcome: Result<Watcher, Error>, now: Instant) {
        match outcome {
            Ok(watcher) => {
                self.watcher = Some(watcher);
                self.failures = 0;
                self.ask_at = Some(now);
            }
            Err(error) => self.failed(failure(error), now),
        }
    }

    fn listed(&mut self, outcome: Result<Vec<String>, Failure>, now: Instant) {
        let Some(listing) = self.listing.take() else {
            return;
        };
        let names = match outcome {
            Ok(names) => {
                self.exists = true;
                names
            }
            Err(Failure::NoNode) => {
                self.exists = false;
                Vec::new()
            }
            Err(failure) => return self.failed(failure, now),
        };
        self.failures = 0;
        self.fault = None;
        let names: BTreeSet<Arc<str>> = names
            .into_iter()
            .filter(|name| path::join(&self.path, name) != RESERVED)
            .map(Arc::from)
            .collect();
        if names != *self.names {
            self.names = Arc::new(names);
        }
        self.contact.reconciled(listing.attachment);
        if listing.is_old {
            // Not more often than additions are published.
            let due = now + self.shared.coalesce;
            self.ask_at = Some(self.ask_at.map_or(due, |at| at.max(due)));
        }
    }

    fn failed(&mut self, failure: Failure, now: Instant) {
        self.failures += 1;
        self.ask_at = Some(now + backoff::delay(self.failures));
        if let Failure::Other(cause) = failure {
            if self.fault.as_deref() != Some(&*cause) {
                tracing::warn!(root = %self.path, %cause, "the services cannot be listed");
            }
            self.fault = Some(cause.into());
        }
    }

    fn publish(&mut self) {
        let status = self.contact.status(self.exists);
        let is_current = self.contact.is_current();
        let last = Arc::clone(&self.services.borrow());
        let next = Services {
            revision: last.revision,
            status,
            attachment: if is_current {
                self.contact.compared_at()
            } else {
                last.attachment
            },
            names: Arc::clone(if is_current { &self.names } else { &last.names }),
            fault: self.fault.clone(),
        };
        if next != *last {
            self.services.send_replace(Arc::new(Services {
                revision: last.revision + 1,
                ..next
            }));
        }
    }
}
