//! Routes: which service, or which answer, a request gets.
//!
//! A table is built whole from a checked configuration and never changes; a reload builds another.
//! Finding is a pure function of the request. The most specific route wins: an exact path before
//! the longest prefix before a regex; among those of one path an exact host before a wildcard
//! (the longest first) before any host; then more headers, then methods, then file order.

use std::sync::Arc;

use crate::cluster::Cluster;
use crate::config::{PathMatch, RouteConfig};
use crate::metrics::RouteMetrics;
use crate::route::index::Index;

mod index;
#[cfg(test)]
mod tests;

/// What routing looks at.
#[derive(Clone, Copy)]
pub struct RouteRequest<'a> {
    /// The host without its port, in any case; empty when there is none.
    pub host: &'a [u8],
    /// The path as [`crate::target::Target::route_path`] gives it. One that does not start with
    /// "/" (`OPTIONS *`) is only for routes without a path.
    pub path: &'a [u8],
    /// The method, in the case it came in.
    pub method: &'a [u8],
    /// The value of a header field by its name in lower case.
    pub header: &'a dyn Fn(&str) -> Option<&'a [u8]>,
}

/// One route, as requests use it.
#[derive(Debug)]
pub struct Route {
    /// Its name in metrics and the admin API, unique in its table and the same after a reload.
    pub label: Arc<str>,
    /// What is done with the request.
    pub action: Action,
    /// How many segments are taken off the path that is sent upstream; 0 when the prefix stays.
    pub strip_segments: usize,
    /// Counters, kept over reloads.
    pub metrics: Arc<RouteMetrics>,
    /// What it was made from.
    pub config: RouteConfig,
}

impl Route {
    /// The service that its requests go to, if they do.
    pub fn service(&self) -> Option<&str> {
        match &self.action {
            Action::Service(cluster) => Some(&cluster.name),
            Action::Status(_) | Action::Redirect { .. } => None,
        }
    }
}

/// What a route does with its requests.
#[derive(Debug, Clone)]
pub enum Action {
    /// Forwards them.
    Service(Arc<Cluster>),
    /// Answers with this status.
    Status(u16),
    /// Answers with this status and `Location`.
    Redirect {
        /// 301, 302, 303, 307 or 308.
        status: u16,
        /// The value of `Location`.
        location: String,
    },
}

/// All routes of one configuration.
#[derive(Debug)]
pub struct RouteTable {
    /// In file order.
    routes: Vec<Arc<Route>>,
    index: Index,
}

impl RouteTable {
    /// Fails when a `path_regex` is not a regex, which a checked configuration rules out.
    pub fn new(routes: Vec<Arc<Route>>) -> Result<Self, regex::Error> {
        let index = Index::new(routes.iter().map(|route| &route.config))?;
        Ok(Self { routes, index })
    }

    /// The most specific route that is for `request`.
    pub fn find(&self, request: &RouteRequest<'_>) -> Option<&Arc<Route>> {
        self.index.find(request).map(|route| &self.routes[route])
    }

    /// Every route in file order, those made by `auto_routes` last.
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }
}

/// How many segments `strip_prefix` takes off for these paths.
pub fn prefix_segments(path: &PathMatch) -> usize {
    match path {
        PathMatch::Prefix(path) | PathMatch::Exact(path) => path
            .split('/')
            .filter(|segment| !segment.is_empty())
            .count(),
        PathMatch::Regex(_) => 0,
    }
}

/// A route's name: hosts and path, then what else it asks for. Header values stay out, for they
/// may be secrets.
pub fn label(route: &RouteConfig) -> String {
    let path = match &route.path {
        PathMatch::Prefix(path) => path.clone(),
        PathMatch::Exact(path) => format!("={path}"),
        PathMatch::Regex(regex) => format!("~{regex}"),
    };
    let mut label = format!("{}{path}", route.hosts.join(","));
    if !route.methods.is_empty() {
        label = format!("{} {label}", route.methods.join(","));
    }
    for name in route.headers.keys() {
        label = format!("{label} {name}");
    }
    label
}
