//! Watching services in ZooKeeper: from nodes to [`Snapshot`]s.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use livegate_discovery::{Discovery, DiscoveryOptions, ServiceOptions};
//! use livegate_zk::client::{Client, ConnectOptions};
//!
//! let client = Client::start(ConnectOptions::new("127.0.0.1:2181")?);
//! let discovery = Discovery::new(client, DiscoveryOptions::default());
//! let orders = discovery.service("/services/orders", ServiceOptions::default())?;
//! let mut snapshots = orders.snapshots();
//! while snapshots.changed().await.is_ok() {
//!     let snapshot = snapshots.borrow_and_update().clone();
//!     println!("{:?}: {} instances", snapshot.status, snapshot.instances.len());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Each service is watched with one recursive persistent watch, which servers have from ZooKeeper 3.6 on;
//! older ones close the connection when they are asked for it, so that services there stay
//! [`Pending`](crate::Status::Pending).
//!
//! What can be relied on:
//!
//! - Data is read once for each node that is new or changed. After a lost connection the children are
//!   listed again and known ones are asked for their state only.
//! - Removals, and changes that take an instance out of service, are published at once; additions at once
//!   after a quiet time, otherwise together with others.
//! - While contact is lost, and until everything has been compared after it is back, the list stays as it
//!   was and is [`Stale`](crate::Status::Stale). An error never shortens it.
//! - A node that cannot be read is in [`Snapshot::skipped`] with the cause, logged once, and hides no
//!   other. What failed is tried again, after 100 ms at first and 30 s at most.

mod backoff;
mod contact;
mod look_up;
mod model;
#[cfg(test)]
mod model_tests;
mod names;
mod pace;
mod root;
mod roster;
mod task;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use livegate_zk::client::Client;
use livegate_zk::path::{self, PathError};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::layout::Layout;
use crate::snapshot::{Snapshot, Status};
pub use root::{RootWatch, Services};
pub(crate) use task::sleep_until;
use task::{Shared, Task};

/// How to watch, for all services.
#[derive(Debug, Clone, Copy)]
pub struct DiscoveryOptions {
    /// How long additions may wait for others. Default 50 ms.
    pub coalesce: Duration,
    /// Reads that may be under way at once, over all services. Default 100: an Apache ZooKeeper begins to
    /// throttle at 1000 over all its clients, and a [`Client`] keeps 256 under way by default.
    pub reads_max: usize,
    /// After a reconnect each watch waits for a random time up to this before it lists again, so that not
    /// all clients of an ensemble that comes back do so at once. Lists are stale meanwhile. Default 250 ms.
    pub reattach_jitter: Duration,
}

impl Default for DiscoveryOptions {
    fn default() -> Self {
        Self {
            coalesce: Duration::from_millis(50),
            reads_max: 100,
            reattach_jitter: Duration::from_millis(250),
        }
    }
}

/// How to watch one service.
#[derive(Debug, Clone, Default)]
pub struct ServiceOptions {
    /// How its nodes are to be read. Default: each by what it looks like.
    pub layout: Layout,
    /// The weights of its instances.
    pub weights: Weights,
    /// What was known before this process started; served as [`Stale`](Status::Stale) until the registry
    /// has been read. A snapshot that is not stale counts as stale from now on.
    pub saved: Option<Arc<Snapshot>>,
}

/// Weights that do not come from the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weights {
    /// Of instances that carry none. Default 50.
    pub default: u32,
    /// By id, or by address as registered (`host:port`); these win over the registry.
    pub overrides: BTreeMap<String, u32>,
}

impl Default for Weights {
    fn default() -> Self {
        Self {
            default: 50,
            overrides: BTreeMap::new(),
        }
    }
}

/// Counts what watching costs, over all services of a [`Discovery`].
#[derive(Debug, Default)]
pub struct WatchStats {
    reads: AtomicU64,
    states: AtomicU64,
    listings: AtomicU64,
    snapshots: AtomicU64,
}

impl WatchStats {
    /// Nodes whose data was asked for: the new and the changed ones, and failures tried again.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// Nodes whose state alone was asked for, to compare it after a gap.
    pub fn states(&self) -> u64 {
        self.states.load(Ordering::Relaxed)
    }

    /// Times that children were listed.
    pub fn listings(&self) -> u64 {
        self.listings.load(Ordering::Relaxed)
    }

    /// Snapshots published.
    pub fn snapshots(&self) -> u64 {
        self.snapshots.load(Ordering::Relaxed)
    }

    fn count_read(&self) {
        self.reads.fetch_add(1, Ordering::Relaxed);
    }

    fn count_state(&self) {
        self.states.fetch_add(1, Ordering::Relaxed);
    }

    fn count_listing(&self) {
        self.listings.fetch_add(1, Ordering::Relaxed);
    }

    fn count_snapshot(&self) {
        self.snapshots.fetch_add(1, Ordering::Relaxed);
    }
}

/// Watches services through one client. Cheap to clone; clones share limits and counters.
#[derive(Debug, Clone)]
pub struct Discovery {
    shared: Shared,
}

/// Name look-ups that may be under way at once; each takes a thread.
const LOOK_UPS_MAX: usize = 8;

/// With the default options.
impl From<Client> for Discovery {
    fn from(client: Client) -> Self {
        Self::new(client, DiscoveryOptions::default())
    }
}

impl Discovery {
    /// Nothing happens until something is watched.
    #[must_use]
    pub fn new(client: Client, options: DiscoveryOptions) -> Self {
        let reads_max = options.reads_max.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            shared: Shared {
                client,
                stats: Arc::default(),
                reads: Arc::new(Semaphore::new(reads_max)),
                reads_max,
                look_ups: Arc::new(Semaphore::new(LOOK_UPS_MAX)),
                coalesce: options.coalesce,
                reattach_jitter: options.reattach_jitter,
            },
        }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.shared.client
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> Arc<WatchStats> {
        Arc::clone(&self.shared.stats)
    }

    /// Watches one service: the children of a node, which need not be there.
    ///
    /// # Errors
    /// When the path is none.
    ///
    /// # Panics
    /// Outside a Tokio runtime with time and I/O enabled.
    pub fn service(&self, path: &str, options: ServiceOptions) -> Result<ServiceWatch, PathError> {
        path::validate(path)?;
        let first = match &options.saved {
            Some(saved) => Snapshot {
                status: match saved.status {
                    Status::Stale { since } => Status::Stale { since },
                    Status::Pending | Status::Live | Status::Absent => Status::Stale {
                        since: SystemTime::now(),
                    },
                },
                attachment: 0,
                ..Snapshot::clone(saved)
            },
            None => Snapshot::pending(),
        };
        let options = ServiceOptions {
            saved: options.saved.map(|_| Arc::new(first.clone())),
            ..options
        };
        let (snapshots, receiver) = watch::channel(Arc::new(first));
        let (weights, weights_receiver) = watch::channel(options.weights.clone());
        let task = Task::new(
            path,
            self.shared.clone(),
            options,
            weights_receiver,
            snapshots,
        );
        let mut tasks = JoinSet::new();
        tasks.spawn(task.run());
        Ok(ServiceWatch {
            snapshots: receiver,
            weights,
            _task: tasks,
        })
    }

    /// Watches which services there are: the children of a root, which need not be there.
    ///
    /// # Errors
    /// When the path is none.
    ///
    /// # Panics
    /// Outside a Tokio runtime with time and I/O enabled.
    pub fn root(&self, path: &str) -> Result<RootWatch, PathError> {
        path::validate(path)?;
        Ok(RootWatch::new(path, self))
    }
}

/// Watches one service through a client of its own settings: the short form of [`Discovery::service`] for
/// those who watch only one.
///
/// # Errors
/// When the path is none.
///
/// # Panics
/// Outside a Tokio runtime with time and I/O enabled.
pub fn watch(
    client: &Client,
    path: &str,
    options: ServiceOptions,
) -> Result<ServiceWatch, PathError> {
    Discovery::new(client.clone(), DiscoveryOptions::default()).service(path, options)
}

/// The instances of one service, for as long as this is held. Dropping it ends the watch; receivers keep
/// the last snapshot.
#[derive(Debug)]
pub struct ServiceWatch {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    weights: watch::Sender<Weights>,
    /// Dropping the set aborts the task.
    _task: JoinSet<()>,
}

impl ServiceWatch {
    /// The instances from now on: the latest snapshot counts, those between may be missed. Ends when the
    /// watch is dropped or the client is closed.
    #[must_use]
    pub fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshots.clone()
    }

    /// The instances now.
    #[must_use]
    pub fn latest(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshots.borrow())
    }

    pub(crate) fn weights(&self) -> &watch::Sender<Weights> {
        &self.weights
    }

    /// Changes the weights that do not come from the registry; nothing is read again.
    pub fn set_weights(&self, weights: Weights) {
        self.weights.send_replace(weights);
    }
}
