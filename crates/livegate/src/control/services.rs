//! The running clusters: started, changed and stopped as configurations come and go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use livegate_discovery::{Instance, Snapshot};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::cluster::{self, Cluster, ClusterHandle};
use crate::config::{Config, ServiceConfig};
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
    /// As listed; `None` for a service that is found in the registry.
    instances: Option<Vec<Instance>>,
    snapshots: watch::Sender<Arc<Snapshot>>,
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
    ) -> Changes {
        let mut changes = Changes::default();
        for (name, service) in &config.services {
            let instances = listed.remove(name);
            match self.running.get_mut(name) {
                None => {
                    let running = self.start(name, service, instances);
                    self.running.insert(name.clone(), running);
                    changes.added.push(name.clone());
                }
                Some(running) => {
                    if running.change(service, instances) {
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
            instances,
            snapshots,
        }
    }
}

impl Running {
    /// Returns false when everything is as it was.
    fn change(&mut self, service: &ServiceConfig, instances: Option<Vec<Instance>>) -> bool {
        let same_policy = *self.handle.cluster().config == *service;
        let same_instances = self.instances == instances;
        if !same_instances {
            let revision = self.snapshots.borrow().revision + 1;
            self.snapshots
                .send_replace(snapshot(revision, instances.as_deref()));
            self.instances = instances;
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
