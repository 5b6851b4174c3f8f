//! The running clusters: started, changed and stopped as configurations come and go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use livegate_discovery::{Instance, Snapshot, Status};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::cluster::{self, Cluster, ClusterHandle};
use crate::config::{Config, ServiceConfig};
use crate::control::registry::{Feed, Registry, SnapshotSender};
use crate::events::Events;
use crate::metrics::ServiceMetrics;

/// A cluster's task takes a snapshot in as soon as it runs.
const SETTLE_LOOK: Duration = Duration::from_millis(1);
/// A reload does not wait longer, whatever keeps the tasks from running.
const SETTLE_MAX: Duration = Duration::from_secs(1);

/// All running clusters by service.
pub(super) struct Services {
    running: BTreeMap<String, Running>,
    tasks: TaskTracker,
    events: Events,
    workers: usize,
}

struct Running {
    handle: ClusterHandle,
    source: Source,
    snapshots: SnapshotSender,
}

/// Whence the instances of a service come.
enum Source {
    Listed(Vec<Instance>),
    Registered(Feed),
    /// They would come from a registry, but there is none.
    Nowhere,
}

/// What a configuration makes of the services.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) added: Vec<String>,
    pub(super) changed: Vec<String>,
    pub(super) removed: Vec<String>,
}

impl Services {
    pub(super) fn new(events: Events, workers: usize) -> Self {
        Self {
            running: BTreeMap::new(),
            tasks: TaskTracker::new(),
            events,
            workers,
        }
    }

    /// The cluster of every service.
    pub(super) fn clusters(&self) -> BTreeMap<String, Arc<Cluster>> {
        let cluster = |(name, running): (&String, &Running)| {
            (name.clone(), Arc::clone(running.handle.cluster()))
        };
        self.running.iter().map(cluster).collect()
    }

    /// Starts what is new and changes what has changed; what is the same stays as it is, and what
    /// is gone runs on until [`retire`](Self::retire).
    pub(super) fn apply(
        &mut self,
        config: &Config,
        mut listed: BTreeMap<String, Vec<Instance>>,
        registry: Option<&Registry>,
    ) -> Changes {
        let mut changes = Changes::default();
        for (name, service) in &config.services {
            let instances = listed.remove(name);
            match self.running.get_mut(name) {
                None => {
                    let mut running = self.start(name, service, instances);
                    running.find(config, service, registry);
                    self.running.insert(name.clone(), running);
                    changes.added.push(name.clone());
                }
                Some(running) => {
                    if running.change(config, service, instances, registry) {
                        changes.changed.push(name.clone());
                    }
                }
            }
        }
        let gone = self
            .running
            .keys()
            .filter(|name| !config.services.contains_key(*name));
        changes.removed = gone.cloned().collect();
        changes
    }

    /// Waits until the registry has said, or cannot say, what it knows of every service.
    pub(super) async fn settled(&self) {
        for running in self.running.values() {
            if matches!(running.source, Source::Registered(_)) {
                let mut snapshots = running.snapshots.subscribe();
                let known = snapshots.wait_for(|latest| latest.status != Status::Pending);
                // The sender is in this same struct.
                drop(known.await);
            }
        }
    }

    /// Waits until the clusters have taken in their instances, so that a request under the new
    /// routes is not sent to one that is no longer listed.
    pub(super) async fn settle(&self) {
        let is_behind = |running: &Running| {
            running.handle.cluster().balancer.view().revision()
                < running.snapshots.borrow().revision
        };
        let settled = async {
            while self.running.values().any(is_behind) {
                tokio::time::sleep(SETTLE_LOOK).await;
            }
        };
        if tokio::time::timeout(SETTLE_MAX, settled).await.is_err() {
            tracing::warn!("clusters have not taken in their instances yet");
        }
    }

    /// Stops the clusters that no route leads to any more.
    pub(super) fn retire(&mut self, removed: &[String]) {
        self.running.retain(|name, _| !removed.contains(name));
    }

    fn start(
        &self,
        name: &str,
        service: &ServiceConfig,
        instances: Option<Vec<Instance>>,
    ) -> Running {
        let (snapshots, latest) = watch::channel(snapshot(1, instances.as_deref()));
        let handle = cluster::start(
            name,
            Arc::new(service.clone()),
            Arc::new(ServiceMetrics::new(self.workers)),
            latest,
            self.events.clone(),
            &self.tasks,
        );
        Running {
            handle,
            source: instances.map_or(Source::Nowhere, Source::Listed),
            snapshots: Arc::new(snapshots),
        }
    }
}

impl Running {
    /// Watches the registry for a service that is not listed.
    fn find(&mut self, config: &Config, service: &ServiceConfig, registry: Option<&Registry>) {
        if let (Source::Nowhere, Some(registry)) = (&self.source, registry) {
            let snapshots = Arc::clone(&self.snapshots);
            let name = &self.handle.cluster().name;
            let feed = registry.feed(name, config, service, snapshots);
            self.source = Source::Registered(feed);
        }
    }

    /// Returns false when everything is as it was.
    fn change(
        &mut self,
        config: &Config,
        service: &ServiceConfig,
        instances: Option<Vec<Instance>>,
        registry: Option<&Registry>,
    ) -> bool {
        let before = Arc::clone(&self.handle.cluster().config);
        let same_policy = *before == *service;
        let mut same_instances = true;
        match (&self.source, instances) {
            (Source::Listed(former), Some(listed)) if *former == listed => {}
            (Source::Registered(_), None) if before.path != service.path => {
                same_instances = false;
                self.source = Source::Nowhere;
                self.find(config, service, registry);
            }
            (Source::Registered(feed), None) => feed.set_weights(service),
            (Source::Nowhere, None) => {}
            (_, listed) => {
                same_instances = false;
                let revision = self.snapshots.borrow().revision + 1;
                // First the feed stops, then somebody else writes.
                self.source = Source::Nowhere;
                self.snapshots
                    .send_replace(snapshot(revision, listed.as_deref()));
                self.source = listed.map_or(Source::Nowhere, Source::Listed);
                self.find(config, service, registry);
            }
        }
        if !same_policy {
            self.handle.configure(Arc::new(service.clone()));
        }
        !(same_policy && same_instances)
    }
}

/// What is known about a service without a registry: its listed instances, or nothing.
fn snapshot(revision: u64, instances: Option<&[Instance]>) -> Arc<Snapshot> {
    Arc::new(match instances {
        Some(instances) => Snapshot::live(revision, instances.iter().cloned()),
        None => Snapshot {
            revision,
            ..Snapshot::pending()
        },
    })
}
