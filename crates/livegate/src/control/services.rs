//! The running clusters: started, changed and stopped as configurations come and go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use livegate_discovery::{Instance, OutlierPolicy, Policy, Snapshot, Updater};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::cluster::Cluster;
use crate::config::{Config, ServiceConfig};
use crate::events::Events;
use crate::metrics::ServiceMetrics;

/// All running clusters by service.
pub(super) struct Services {
    running: BTreeMap<String, Running>,
    tasks: TaskTracker,
    events: Events,
    workers: usize,
}

struct Running {
    cluster: Arc<Cluster>,
    /// As listed; `None` for a service that is found in the registry.
    instances: Option<Vec<Instance>>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    configs: watch::Sender<Arc<ServiceConfig>>,
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
        let cluster =
            |(name, running): (&String, &Running)| (name.clone(), Arc::clone(&running.cluster));
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
        let config = Arc::new(service.clone());
        let (mut updater, balancer) =
            livegate_discovery::channel(policy(service), fastrand::u64(..));
        let snapshot = Arc::new(match &instances {
            Some(instances) => Snapshot::live(1, instances.iter().cloned()),
            None => Snapshot::pending(),
        });
        updater.apply(&snapshot, Instant::now());
        let (snapshots, snapshot_rx) = watch::channel(snapshot);
        let (configs, config_rx) = watch::channel(Arc::clone(&config));
        let cluster = Arc::new(Cluster {
            name: name.into(),
            balancer,
            config,
            metrics: Arc::new(ServiceMetrics::new(self.workers)),
        });
        self.tasks.spawn(keep(
            updater,
            snapshot_rx,
            config_rx,
            self.events.clone(),
            Arc::clone(&cluster.name),
        ));
        Running {
            cluster,
            instances,
            snapshots,
            configs,
        }
    }
}

impl Running {
    /// Returns false when everything is as it was.
    fn change(&mut self, service: &ServiceConfig, instances: Option<Vec<Instance>>) -> bool {
        let same_policy = *self.cluster.config == *service;
        let same_instances = self.instances == instances;
        if !same_instances {
            let revision = self.snapshots.borrow().revision + 1;
            let snapshot = match &instances {
                Some(instances) => Snapshot::live(revision, instances.iter().cloned()),
                None => Snapshot {
                    revision,
                    ..Snapshot::pending()
                },
            };
            self.snapshots.send_replace(Arc::new(snapshot));
            self.instances = instances;
        }
        if !same_policy {
            let config = Arc::new(service.clone());
            self.configs.send_replace(Arc::clone(&config));
            self.cluster = Arc::new(Cluster {
                name: Arc::clone(&self.cluster.name),
                balancer: self.cluster.balancer.clone(),
                config,
                metrics: Arc::clone(&self.cluster.metrics),
            });
        }
        !(same_policy && same_instances)
    }
}

async fn keep(
    mut updater: Updater,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    mut configs: watch::Receiver<Arc<ServiceConfig>>,
    events: Events,
    name: Arc<str>,
) {
    let mut ticks = tokio::time::interval(std::time::Duration::from_millis(100));
    loop {
        let transitions = tokio::select! {
            changed = snapshots.changed() => {
                if changed.is_err() {
                    return;
                }
                let snapshot = Arc::clone(&snapshots.borrow_and_update());
                updater.apply(&snapshot, Instant::now())
            }
            changed = configs.changed() => {
                if changed.is_err() {
                    return;
                }
                let policy = policy(&configs.borrow_and_update());
                updater.set_policy(policy, Instant::now())
            }
            _ = ticks.tick() => updater.tick(Instant::now()),
            () = updater.woken() => updater.tick(Instant::now()),
        };
        for transition in transitions {
            events.push(
                Some(Arc::clone(&name)),
                Some(transition.instance.to_shared()),
                transition.kind,
                transition.cause,
            );
        }
    }
}

fn policy(service: &ServiceConfig) -> Policy {
    Policy {
        balance: service.balance,
        warm_up: service.warm_up,
        outlier: OutlierPolicy {
            consecutive_failures: service.outlier.consecutive_failures,
            base_ejection: service.outlier.base_ejection,
            ejected_percent_max: service.outlier.ejected_percent_max,
        },
        ..Policy::default()
    }
}
