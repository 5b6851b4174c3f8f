//! The registry, as the control side uses it: which services there are, and the instances of each.
//!
//! The embedded registry is reached over TCP like any ZooKeeper, so that both are the same here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use livegate_discovery::{
    Discovery, DiscoveryOptions, Keeper, RootWatch, SavedSnapshots, ServiceOptions, ServiceWatch,
    Services, Snapshot, Status, Weights,
};
use livegate_zk::client::{Client, ConnectOptions, ConnectionState, SessionEvent};
use livegate_zk::path;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::admin::RegistryFacts;
use crate::config::{Config, ServiceConfig, is_service_name};
use crate::control::names::Names;
use crate::control::{now, trouble};
use crate::events::Events;

/// A session with the registry, and what is watched through it.
#[derive(Debug)]
pub struct Registry {
    client: Client,
    discovery: Discovery,
    /// `None` without `discovery.auto_routes`.
    root: Option<Root>,
    saved: SavedSnapshots,
    /// What was on disk at the start, by the path of the service.
    known: BTreeMap<String, Arc<Snapshot>>,
    events: Events,
    tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Root {
    services: watch::Receiver<Arc<Services>>,
    path: String,
    names: Names,
    /// Names that cannot be a part of paths; each is told of once.
    refused: BTreeSet<Arc<str>>,
    events: Events,
    _watch: RootWatch,
}

/// The instances of one service on their way from the registry to its cluster. Dropping it stops the flow.
#[derive(Debug)]
pub(super) struct Feed {
    /// Shared with the task, which waits for its snapshots.
    watch: Arc<ServiceWatch>,
    _keeper: Keeper,
    _task: JoinSet<()>,
}

/// Writes the snapshots of one service; one feed, or nobody else, at a time.
pub(super) type SnapshotSender = Arc<watch::Sender<Arc<Snapshot>>>;

impl Registry {
    /// Connects in the background; nothing here waits for the registry. What is known from the disk is
    /// read first.
    pub async fn start(options: ConnectOptions, config: &Config, events: &Events) -> Self {
        let is_tls = options.tls.is_some();
        let client = Client::start(options);
        let discovery = Discovery::new(client.clone(), DiscoveryOptions::default());
        let saved = SavedSnapshots::new(&config.discovery.snapshot_dir);
        let known = load(&saved).await;
        for (path, snapshot) in &known {
            let (count, age) = (snapshot.instances.len(), age(snapshot));
            let cause = format!("{count} instances of {path}, as of {} s ago", age.as_secs());
            events.push(None, None, "snapshot_loaded", cause);
        }
        let root = config.discovery.auto_routes.then(|| {
            let watch = discovery
                .root(&config.discovery.root)
                .expect("the path was checked when the file was read");
            Root {
                services: watch.services(),
                path: config.discovery.root.clone(),
                names: names_below(&config.discovery.root, known.keys()),
                refused: BTreeSet::new(),
                events: events.clone(),
                _watch: watch,
            }
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(tell_of_sessions(client.clone(), events.clone()));
        tasks.spawn(trouble::tell_of_attempts(
            client.clone(),
            is_tls,
            events.clone(),
        ));
        if let Some(root) = &root {
            let (path, services) = (config.discovery.root.clone(), root.services.clone());
            tasks.spawn(trouble::tell_of_root(path, services, events.clone()));
        }
        Self {
            client,
            discovery,
            root,
            saved,
            known,
            events: events.clone(),
            tasks,
        }
    }

    /// The session's client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// What there is to know about it, whenever that is asked.
    pub fn facts(&self) -> impl Fn() -> RegistryFacts + Send + Sync + 'static {
        let (states, stats) = (self.client.states(), self.discovery.stats());
        move || RegistryFacts {
            connected: Some(matches!(
                states.borrow().connection,
                ConnectionState::Connected { .. }
            )),
            reads: stats.reads(),
        }
    }

    /// Resolves when services have come or gone: with true when there are some that were not there before.
    /// Never without `discovery.auto_routes`.
    ///
    /// Cancel-safe.
    pub async fn changed(&mut self) -> bool {
        let Some(root) = &mut self.root else {
            return std::future::pending().await;
        };
        if root.services.changed().await.is_err() {
            return std::future::pending().await;
        }
        root.take_in()
    }

    /// Whether something is known without the registry.
    pub(super) fn has_saved(&self) -> bool {
        !self.known.is_empty()
    }

    /// The services that were found below the root.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let root = self.root.iter();
        root.flat_map(|root| root.names.iter())
    }

    /// When there is a name that has been gone for this long, or when there are too many.
    pub(super) fn forgets_at(&self, after: Duration) -> Option<Instant> {
        self.root.as_ref()?.names.forgets_at(after)
    }

    /// The names that have been gone for this long, or are too many.
    pub(super) fn gone_for(&self, after: Duration, now: Instant) -> Vec<String> {
        let root = self.root.as_ref();
        root.map(|root| root.names.gone_for(after, now))
            .unwrap_or_default()
    }

    /// Such a name is needed: from now on it counts as just gone.
    pub(super) fn keep(&mut self, name: &str, now: Instant) {
        if let Some(root) = &mut self.root {
            root.names.keep(name, now);
        }
    }

    /// Such a name is no service any more, neither here nor on the disk.
    pub(super) fn forget(&mut self, name: &str) {
        let Some(root) = &mut self.root else { return };
        root.names.forget(name);
        let path = path::join(&root.path, name);
        self.known.remove(&path);
        let saved = self.saved.clone();
        while self.tasks.try_join_next().is_some() {}
        self.tasks.spawn(async move {
            let removed = tokio::task::spawn_blocking(move || (saved.remove(&path), path));
            if let Ok((Err(error), path)) = removed.await {
                tracing::warn!("cannot remove the list of {path}, which is gone: {error}");
            }
        });
    }

    /// Resolves when it is known which services there are, or that this cannot be known now.
    pub(super) async fn settled(&mut self) {
        let Some(root) = &mut self.root else { return };
        let settled = root
            .services
            .wait_for(|services| services.status != Status::Pending)
            .await
            .is_ok();
        if settled {
            root.take_in();
        }
    }

    /// Watches a service for its cluster.
    pub(super) fn feed(
        &self,
        name: &str,
        config: &Config,
        service: &ServiceConfig,
        snapshots: SnapshotSender,
    ) -> Feed {
        // What is known stays until the registry has been read.
        let latest = Arc::clone(&snapshots.borrow());
        let saved = match latest.status {
            Status::Pending => self.known.get(&service.path).cloned(),
            Status::Live | Status::Stale { .. } | Status::Absent => Some(latest),
        };
        let keeper = self.saved.keep(&service.path, snapshots.subscribe());
        let options = ServiceOptions {
            layout: config.discovery.layout,
            weights: weights(service),
            saved,
        };
        let watch = self
            .discovery
            .service(&service.path, options)
            .expect("the path was checked when the file was read");
        let watch = Arc::new(watch);
        let mut task = JoinSet::new();
        let (name, events) = (name.into(), self.events.clone());
        task.spawn(pass_on(Arc::clone(&watch), snapshots, name, events));
        Feed {
            watch,
            _keeper: keeper,
            _task: task,
        }
    }
}

impl Feed {
    /// Takes in other weights of the configuration; nothing is read again.
    pub(super) fn set_weights(&self, service: &ServiceConfig) {
        self.watch.set_weights(weights(service));
    }
}

impl Root {
    /// Returns whether there are other services now.
    fn take_in(&mut self) -> bool {
        let services = Arc::clone(&self.services.borrow_and_update());
        let mut is_news = false;
        for name in services.names.iter() {
            if !is_service_name(name) {
                if self.refused.insert(Arc::clone(name)) {
                    let cause = format!(
                        "{name:?} below the root cannot be a part of paths, so it has no route: \
                         list it in [services] under another name, with its path"
                    );
                    tracing::warn!("{cause}");
                    self.events.push(None, None, "service_refused", cause);
                }
                continue;
            }
            is_news |= self.names.is_there(name);
        }
        // What cannot be asked has not gone.
        if matches!(services.status, Status::Live | Status::Absent) {
            self.names.others_are_gone(&services.names, now());
            self.refused.retain(|name| services.names.contains(name));
        }
        is_news
    }
}

/// Lists older than this are of another time: whoever was there then is not expected any more.
const SAVED_AGE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

async fn load(saved: &SavedSnapshots) -> BTreeMap<String, Arc<Snapshot>> {
    let saved = saved.clone();
    let loaded = tokio::task::spawn_blocking(move || {
        let mut loaded = saved.load_all();
        loaded.retain(|path, snapshot| {
            let is_recent = age(snapshot) <= SAVED_AGE_MAX;
            if !is_recent && let Err(error) = saved.remove(path) {
                tracing::warn!("cannot remove the old list of {path}: {error}");
            }
            is_recent
        });
        loaded
    });
    let loaded = loaded.await.unwrap_or_default();
    loaded
        .into_iter()
        .map(|(path, snapshot)| (path, Arc::new(snapshot)))
        .collect()
}

fn age(snapshot: &Snapshot) -> Duration {
    match snapshot.status {
        Status::Stale { since } => SystemTime::now().duration_since(since).unwrap_or_default(),
        Status::Pending | Status::Live | Status::Absent => Duration::ZERO,
    }
}

/// The names of services that are children of the root.
fn names_below<'a>(root: &str, paths: impl Iterator<Item = &'a String>) -> Names {
    paths
        .filter(|path| path::parent(path) == Some(root))
        .map(|path| path::name(path).to_owned())
        .filter(|name| is_service_name(name))
        .collect()
}

fn weights(service: &ServiceConfig) -> Weights {
    Weights {
        default: service.default_weight,
        overrides: service.weights.clone(),
    }
}

/// Passes every snapshot on to the cluster, under numbers that only grow; one that says nothing yet, only to
/// show why.
async fn pass_on(watch: Arc<ServiceWatch>, sender: SnapshotSender, name: Arc<str>, events: Events) {
    let mut snapshots = watch.snapshots();
    let mut before = Arc::clone(&snapshots.borrow());
    loop {
        let snapshot = Arc::clone(&snapshots.borrow_and_update());
        trouble::tell_of_service(&name, &before, &snapshot, &events);
        if snapshot.status != Status::Pending || snapshot.skipped != before.skipped {
            sender.send_modify(|latest| {
                *latest = Arc::new(Snapshot {
                    revision: latest.revision + 1,
                    ..Snapshot::clone(&snapshot)
                });
            });
        }
        before = snapshot;
        if snapshots.changed().await.is_err() {
            return;
        }
    }
}

/// Records what happens to the session.
async fn tell_of_sessions(client: Client, events: Events) {
    let mut session = client.session_events();
    while let Some(event) = session.next().await {
        let (kind, cause) = match event {
            SessionEvent::Disconnected { cause, .. } => (
                "registry_lost",
                cause.map_or_else(|| "connection lost".to_owned(), |cause| cause.to_string()),
            ),
            SessionEvent::Reattached => (
                "registry_regained",
                "connected again, with the same session".to_owned(),
            ),
            SessionEvent::Expired { cause } => ("registry_session_over", cause.to_string()),
            SessionEvent::NewSession { cause: None } => {
                ("registry_connected", "a first session".to_owned())
            }
            SessionEvent::NewSession { cause: Some(cause) } => (
                "registry_connected",
                format!("a new session, because {cause}"),
            ),
        };
        tracing::info!("{}: {cause}", kind.replace('_', " "));
        events.push(None, None, kind, cause);
    }
}
