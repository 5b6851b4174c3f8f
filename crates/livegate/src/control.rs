//! Control: from a checked configuration to what the workers read.

use std::sync::Arc;

use crate::cluster::Cluster;
use crate::config::HttpConfig;
use crate::route::RouteTable;

/// One revision of everything that a request looks at. Workers load it once per request, so
/// routes, clusters and limits always belong together.
#[derive(Debug)]
pub struct Gateway {
    /// Counts the configurations applied, from 1.
    pub revision: u64,
    /// Limits and deadlines of the client side.
    pub http: Arc<HttpConfig>,
    /// Which route takes which request.
    pub routes: RouteTable,
    /// Every configured service.
    pub clusters: Vec<Arc<Cluster>>,
}
