//! Finding a service and balancing calls over its instances: the client side, ready made.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::{Duration, Instant};
//!
//! use livegate_discovery::Outcome;
//! use livegate_discovery::finder::Finder;
//! use livegate_zk::client::{Client, ConnectOptions};
//!
//! let client = Client::start(ConnectOptions::new("zk1:2181,zk2:2181")?);
//! let orders = Finder::new(client, "orders").start()?;
//! orders.ready(Duration::from_secs(10)).await?;
//! let pick = orders.pick(None, &[])?;
//! let connected = tokio::net::TcpStream::connect(pick.endpoint().address()).await;
//! if let Err(error) = &connected {
//!     // The very next pick, on any thread, avoids it.
//!     pick.finish(Outcome::of_error(error), Instant::now());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A [`ServiceClient`] keeps itself up to date by one task: it takes in the instances, looks after those that
//! calls have found dead or silent with probes of its own, and publishes what there is to pick. Picking waits
//! for nobody and needs no runtime.
//!
//! What can be relied on while a [`ServiceClient`] lives:
//!
//! - An instance that refuses a call is avoided before [`Pick::finish`] returns, and probed until it accepts
//!   connections again: at once, after 50 ms, and ever more slowly, up to a second.
//! - The policy and the weights are observed: [change them](ServiceClient::policy) at any time, and nothing
//!   that is known about instances is lost.
//! - An unreachable registry is no error. The list stays as it was.
//! - Bounds: 256 probes are under way at once, 256 events are remembered, the queue of changes has room for
//!   the latest one, which is whole.

mod history;
mod task;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use livegate_zk::client::Client;
use livegate_zk::path::{self, PathError};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::balancer::{Balancer, channel};
use crate::drain::{Announcement, DrainBoard, InstancePath, has_let_go};
use crate::endpoint::EndpointKey;
use crate::layout::Layout;
use crate::pick::{NoEndpoint, Pick};
use crate::policy::Policy;
use crate::probe::CheckPolicy;
use crate::saved::SavedSnapshots;
use crate::snapshot::{Instance, Snapshot, Status};
use crate::view::View;
use crate::watch::{Discovery, ServiceOptions, Weights};
pub use history::Events;
use history::History;
use task::Task;

/// What to find. [`start`](Self::start) does it.
#[derive(Debug)]
pub struct Finder {
    source: Source,
    policy: Policy,
    weights: Weights,
    checks: Option<CheckPolicy>,
    connect_timeout: Duration,
}

/// Whence instances are known.
#[derive(Debug)]
enum Source {
    Registry {
        discovery: Discovery,
        root: String,
        service: String,
        layout: Layout,
        saved: Option<SavedSnapshots>,
        acknowledges_drains: bool,
    },
    List(Arc<[SocketAddr]>),
    Snapshots(watch::Receiver<Arc<Snapshot>>),
}

/// Saved lists older than this are of another time: whoever was there then is not expected any more.
const SAVED_AGE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

impl Finder {
    /// A service of the registry: a [`Client`] for this one, or a [`Discovery`]
    /// that is shared by many. Only instances in doubt are probed, for the registry says who lives.
    pub fn new(discovery: impl Into<Discovery>, service: &str) -> Self {
        let source = Source::Registry {
            discovery: discovery.into(),
            root: "/services".to_owned(),
            service: service.to_owned(),
            layout: Layout::default(),
            saved: None,
            acknowledges_drains: false,
        };
        Self::of(source, None)
    }

    /// Instances listed by hand. A list says nothing about who lives, so all are checked regularly.
    pub fn list(addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        let source = Source::List(addresses.into_iter().collect());
        Self::of(source, Some(CheckPolicy::default()))
    }

    /// Instances from anywhere: the latest [`Snapshot`] counts, also when its sender is gone. Only instances
    /// in doubt are probed.
    pub fn snapshots(snapshots: watch::Receiver<Arc<Snapshot>>) -> Self {
        Self::of(Source::Snapshots(snapshots), None)
    }

    fn of(source: Source, checks: Option<CheckPolicy>) -> Self {
        Self {
            source,
            policy: Policy::default(),
            weights: Weights::default(),
            checks,
            connect_timeout: Duration::from_secs(1),
        }
    }

    /// Where services are registered, instead of below `/services`. Of the registry only.
    #[must_use]
    pub fn root(mut self, path: &str) -> Self {
        if let Source::Registry { root, .. } = &mut self.source {
            path.clone_into(root);
        }
        self
    }

    /// How nodes are to be read, instead of each by what it looks like. Of the registry only.
    #[must_use]
    pub fn layout(mut self, as_this: Layout) -> Self {
        if let Source::Registry { layout, .. } = &mut self.source {
            *layout = as_this;
        }
        self
    }

    /// Keeps the last good list on disk, and starts from it as long as the registry has not been asked: one
    /// that is younger than seven days. [`start`](Self::start) blocks while it reads that. Of the registry
    /// only.
    #[must_use]
    pub fn saved(mut self, on_disk: &SavedSnapshots) -> Self {
        if let Source::Registry { saved, .. } = &mut self.source {
            *saved = Some(on_disk.clone());
        }
        self
    }

    /// Instances that [drain](crate::drain) wait for this client as they do for gateways: until no call of its own
    /// is in flight there. For calls that nobody may repeat, on connections that are kept. Each drain costs the
    /// registry one more node, so without it the instances go when the gateways have let go of them, and calls
    /// that they refuse then go to others. Of the registry only.
    #[must_use]
    pub fn acknowledge_drains(mut self) -> Self {
        if let Source::Registry {
            acknowledges_drains,
            ..
        } = &mut self.source
        {
            *acknowledges_drains = true;
        }
        self
    }

    /// How to balance, and what speaks against an instance, to begin with.
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// The weights of instances that are listed or that carry none, to begin with.
    #[must_use]
    pub fn weights(mut self, weights: Weights) -> Self {
        self.weights = weights;
        self
    }

    /// Connects to every instance regularly, or (`None`) only to those in doubt.
    #[must_use]
    pub fn checks(mut self, checks: Option<CheckPolicy>) -> Self {
        self.checks = checks;
        self
    }

    /// How long a probe of an instance in doubt may take. Default 1 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Finds it from now on. What is known at once (a list, a snapshot, what was saved) can be picked from
    /// when this returns; of anything else, [`ServiceClient::ready`] tells.
    ///
    /// # Errors
    /// When the service or its root cannot be the path of a node. There is none for other sources.
    ///
    /// # Panics
    /// Outside a Tokio runtime with time and I/O enabled.
    pub fn start(self) -> Result<ServiceClient, PathError> {
        let (mut watch, mut keeper, mut registry) = (None, None, None);
        let (name, snapshots, weights) = match self.source {
            Source::Registry {
                discovery,
                root,
                service,
                layout,
                saved,
                acknowledges_drains,
            } => {
                let path = format!("{}/{service}", root.trim_end_matches('/'));
                registry = acknowledges_drains.then(|| discovery.client().clone());
                let known = saved.as_ref().and_then(|saved| saved.load(&path));
                let options = ServiceOptions {
                    layout,
                    weights: self.weights,
                    saved: known.filter(is_recent).map(Arc::new),
                };
                let service = discovery.service(&path, options)?;
                let snapshots = service.snapshots();
                keeper = saved.map(|saved| saved.keep(&path, snapshots.clone()));
                let weights = WeightSubject::Registry(service.weights().clone());
                watch = Some(service);
                (path, snapshots, weights)
            }
            Source::List(list) => {
                let first = listed(1, &list, &self.weights);
                let (sender, snapshots) = watch::channel(Arc::new(first));
                (
                    "a list".to_owned(),
                    snapshots,
                    WeightSubject::List(list, sender),
                )
            }
            Source::Snapshots(snapshots) => {
                ("snapshots".to_owned(), snapshots, WeightSubject::Snapshots)
            }
        };
        let (updater, balancer) = channel(self.policy, fastrand::u64(..));
        let (policy, policies) = watch::channel(self.policy);
        let (history, histories) = watch::channel(History::default());
        let acknowledging = registry.map(|client| Acknowledging::start(client, &name, &balancer));
        let task = Task::new(name, updater, self.checks, self.connect_timeout, history);
        let mut tasks = JoinSet::new();
        let run = task.start(snapshots, policies);
        tasks.spawn(async move {
            let _for_as_long = (watch, keeper);
            run.await;
        });
        Ok(ServiceClient {
            shared: Arc::new(Shared {
                balancer,
                policy,
                weights,
                histories,
                tasks: Mutex::new(tasks),
                acknowledging: Mutex::new(acknowledging),
            }),
        })
    }
}

/// Calls one service: picks an instance for each call, and is told how the call ended. Clones share everything;
/// when the last one is dropped, probes and watches end.
#[derive(Debug, Clone)]
pub struct ServiceClient {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    balancer: Balancer,
    policy: watch::Sender<Policy>,
    weights: WeightSubject,
    histories: watch::Receiver<History>,
    /// Dropping the set aborts the task.
    tasks: Mutex<JoinSet<()>>,
    acknowledging: Mutex<Option<Acknowledging>>,
}

/// Who is told of other weights.
#[derive(Debug)]
enum WeightSubject {
    Registry(watch::Sender<Weights>),
    List(Arc<[SocketAddr]>, watch::Sender<Arc<Snapshot>>),
    Snapshots,
}

impl ServiceClient {
    /// Picks an instance for a call, which counts as in flight until the pick is finished or dropped. Takes no
    /// lock, waits for nobody; from any thread.
    ///
    /// `key` is for the balances that [are keyed](crate::Balance::is_keyed); [`key_of`](crate::key_of) makes
    /// one. A retry passes the [keys](crate::Endpoint::key) of the endpoints that were tried as `avoid`:
    /// these are picked again only when nothing else is fit.
    ///
    /// # Errors
    /// Why there is nothing to pick.
    pub fn pick(&self, key: Option<u64>, avoid: &[EndpointKey]) -> Result<Pick, NoEndpoint> {
        self.shared.balancer.pick(key, avoid, Instant::now())
    }

    /// Waits until there is an instance that accepts connections, as far as is known; mostly there is one,
    /// and this returns at once. Called before each attempt it bridges the moment in which the last instance
    /// is restarted.
    ///
    /// # Errors
    /// What is the matter after `patience`. When there are instances, but all of them refuse connections,
    /// that is [`NoEndpoint::AllUnfit`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn ready(&self, patience: Duration) -> Result<(), NoEndpoint> {
        let balancer = &self.shared.balancer;
        match timeout(patience, balancer.ready()).await {
            Ok(()) => Ok(()),
            Err(_) => balancer.obstacle().map_or(Ok(()), Err),
        }
    }

    /// All instances with state, reasons and counters, and the status of the list.
    pub fn view(&self) -> Arc<View> {
        self.shared.balancer.view()
    }

    /// What picks, for those who are to do nothing else.
    pub fn balancer(&self) -> &Balancer {
        &self.shared.balancer
    }

    /// The subject that the balancer observes: whatever is sent here applies to the picks that follow within
    /// moments, and nothing that is known about instances is lost.
    pub fn policy(&self) -> &watch::Sender<Policy> {
        &self.shared.policy
    }

    /// Changes the weights of instances that are listed or that carry none; nothing else changes. Those of
    /// [snapshots](Finder::snapshots) come with these.
    pub fn set_weights(&self, weights: &Weights) {
        match &self.shared.weights {
            WeightSubject::Registry(subject) => {
                subject.send_replace(weights.clone());
            }
            WeightSubject::List(list, subject) => subject.send_modify(|snapshot| {
                *snapshot = Arc::new(listed(snapshot.revision + 1, list, weights));
            }),
            WeightSubject::Snapshots => {}
        }
    }

    /// What happens to instances and why, from the oldest that is remembered on.
    #[must_use]
    pub fn events(&self) -> Events {
        Events::new(self.shared.histories.clone())
    }

    /// Ends probes and watches, for all clones, and waits for that. Picks go on from what was known last, and
    /// instances that drain do not wait for them.
    ///
    /// # Cancel safety
    ///
    /// Everything ends all the same, but unobserved.
    pub async fn close(&self) {
        let acknowledging = take(&self.shared.acknowledging);
        let mut tasks = take(&self.shared.tasks);
        tasks.shutdown().await;
        if let Some(acknowledging) = acknowledging {
            acknowledging.end().await;
        }
    }
}

/// Tells instances that drain when no call is in flight to them any more. Ends when it is dropped, too.
#[derive(Debug)]
struct Acknowledging {
    /// Never used but by being dropped.
    until: oneshot::Sender<()>,
    tasks: TaskTracker,
}

impl Acknowledging {
    fn start(client: Client, service: &str, balancer: &Balancer) -> Self {
        let id = format!("{:016x}", fastrand::u64(..));
        let announcement = Announcement::of_this_process(env!("CARGO_PKG_VERSION"));
        let board =
            DrainBoard::start(client, &id, &announcement).expect("sixteen digits are a name");
        let (until, ended) = oneshot::channel();
        let (service, balancer) = (service.to_owned(), balancer.clone());
        let tasks = TaskTracker::new();
        tasks.spawn(async move {
            let lets_go = |instance: &InstancePath, request| {
                path::parent(instance.as_str()) != Some(service.as_str())
                    || has_let_go(&balancer.view(), instance, request)
            };
            tokio::select! {
                never = board.acknowledge_when(lets_go) => match never {},
                _ = ended => {}
            }
            board.end().await;
        });
        tasks.close();
        Self { until, tasks }
    }

    async fn end(self) {
        drop(self.until);
        self.tasks.wait().await;
    }
}

fn take<T: Default>(shared: &Mutex<T>) -> T {
    std::mem::take(&mut *shared.lock().unwrap_or_else(PoisonError::into_inner))
}

fn listed(revision: u64, addresses: &[SocketAddr], weights: &Weights) -> Snapshot {
    let instance = |address: &SocketAddr| {
        let weight = weights.overrides.get(&address.to_string());
        Instance::listed(*address, weight.copied().unwrap_or(weights.default))
    };
    Snapshot::live(revision, addresses.iter().map(instance))
}

fn is_recent(snapshot: &Snapshot) -> bool {
    match snapshot.status {
        Status::Stale { since } => SystemTime::now()
            .duration_since(since)
            .is_ok_and(|age| age <= SAVED_AGE_MAX),
        Status::Pending | Status::Live | Status::Absent => true,
    }
}
