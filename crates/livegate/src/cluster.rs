//! Clusters: the gateway's view of one service, with the policy for it.
//!
//! A [`Cluster`] is what routes hold and requests use. Behind it runs one task, which keeps the
//! balancer's view up to date with what discovery, probes, traffic and the operator say; a
//! [`ClusterHandle`] owns that task.

mod task;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use livegate_discovery::{
    Balancer, HoldPolicy, InstanceId, OutlierPolicy, Policy, Snapshot, channel,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::TaskTracker;

use crate::cluster::task::{Command, Inputs, Task, Wish};
use crate::config::ServiceConfig;
use crate::events::Events;
use crate::metrics::ServiceMetrics;

/// One service as routes hold it. Immutable; a reload that changes its policy makes another.
#[derive(Debug)]
pub struct Cluster {
    /// The service's name.
    pub name: Arc<str>,
    /// Picks an endpoint for a request.
    pub balancer: Balancer,
    /// The policy of the configuration.
    pub config: Arc<ServiceConfig>,
    /// Counters, kept over reloads.
    pub metrics: Arc<ServiceMetrics>,
    /// Takes the operator's commands.
    pub operator: Operator,
}

/// Takes the operator's commands for one service. Clones give them to the same one.
#[derive(Debug, Clone)]
pub struct Operator {
    commands: mpsc::Sender<Command>,
}

/// Why a command was not obeyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OperatorError {
    /// The service has no such instance.
    #[error("the service has no such instance")]
    UnknownInstance,
    /// The service was removed from the configuration.
    #[error("the service is gone")]
    Gone,
}

/// Commands that may wait for the task; whoever gives more than that waits.
const COMMANDS_MAX: usize = 16;

impl Operator {
    /// Takes no new requests to an instance, or takes them again. Done when this returns: the next
    /// pick obeys. An instance that restarts stays drained; one that is held is dropped.
    pub async fn set_drained(&self, instance: &str, drained: bool) -> Result<(), OperatorError> {
        let wish = if drained { Wish::Drain } else { Wish::Undrain };
        self.command(instance, wish).await
    }

    /// No longer holds an instance that the registry does not name; it is in again when it is
    /// registered again. Does nothing to one that is not held.
    pub async fn drop_held(&self, instance: &str) -> Result<(), OperatorError> {
        self.command(instance, Wish::Drop).await
    }

    async fn command(&self, instance: &str, wish: Wish) -> Result<(), OperatorError> {
        let (reply, answer) = oneshot::channel();
        let command = Command {
            instance: InstanceId::from(instance),
            wish,
            reply,
        };
        self.commands
            .send(command)
            .await
            .map_err(|_| OperatorError::Gone)?;
        let result = answer.await.map_err(|_| OperatorError::Gone)?;
        result.map_err(|_| OperatorError::UnknownInstance)
    }
}

/// Owns a running cluster; dropping it ends the cluster's task and probes. The balancer goes on
/// with its last view, for requests that still hold it.
#[derive(Debug)]
pub struct ClusterHandle {
    cluster: Arc<Cluster>,
    configs: watch::Sender<Arc<ServiceConfig>>,
}

impl ClusterHandle {
    /// What routes are to hold now.
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// Takes in a changed policy. Nothing that is known about endpoints is lost; routes made from
    /// now on hold another [`Cluster`], which shares everything else with the former one.
    pub fn configure(&mut self, config: Arc<ServiceConfig>) {
        self.configs.send_replace(Arc::clone(&config));
        self.cluster = Arc::new(Cluster {
            name: Arc::clone(&self.cluster.name),
            balancer: self.cluster.balancer.clone(),
            config,
            metrics: Arc::clone(&self.cluster.metrics),
            operator: self.cluster.operator.clone(),
        });
    }
}

/// Starts the cluster of a service. The snapshot of the moment is in effect when this returns;
/// later ones are taken in as they come. For as long as the sender of `snapshots` lives and after
/// that the last one counts.
pub fn start(
    name: &str,
    config: Arc<ServiceConfig>,
    metrics: Arc<ServiceMetrics>,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    events: Events,
    tasks: &TaskTracker,
) -> ClusterHandle {
    let name: Arc<str> = name.into();
    let (updater, balancer) = channel(policy(&config), fastrand::u64(..));
    let mut task = Task::new(
        Arc::clone(&name),
        updater,
        balancer.clone(),
        Arc::clone(&config),
        events,
    );
    task.apply(&snapshots.borrow_and_update());
    let (configs, config_rx) = watch::channel(Arc::clone(&config));
    let (commands, command_rx) = mpsc::channel(COMMANDS_MAX);
    tasks.spawn(task.run(Inputs {
        snapshots,
        configs: config_rx,
        commands: command_rx,
    }));
    let cluster = Cluster {
        name,
        balancer,
        config,
        metrics,
        operator: Operator { commands },
    };
    ClusterHandle {
        cluster: Arc::new(cluster),
        configs,
    }
}

/// What the configuration of a service means for its balancer.
fn policy(config: &ServiceConfig) -> Policy {
    Policy {
        balance: config.balance,
        warm_up: config.warm_up,
        outlier: OutlierPolicy {
            consecutive_failures: config.outlier.consecutive_failures,
            base_ejection: config.outlier.base_ejection,
            ejected_percent_max: config.outlier.ejected_percent_max,
        },
        hold: HoldPolicy {
            grace: config.hold_grace,
            fall: config.health_check.fall,
        },
        ..Policy::default()
    }
}
