//! Clusters: the gateway's view of one service, with the policy for it.

use std::sync::Arc;

use livegate_discovery::Balancer;

use crate::config::ServiceConfig;
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
}
