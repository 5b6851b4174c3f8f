//! The route table of a configuration: routes meet their clusters and their counters.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::cluster::Cluster;
use crate::config::{Config, PathMatch, RouteAction, RouteConfig};
use crate::metrics::RouteMetrics;
use crate::route::{Action, Route, RouteTable, label, prefix_segments};

/// Counters by route label and service, so that they survive a reload.
pub(super) type RouteCounters = BTreeMap<(String, String), Arc<RouteMetrics>>;

/// Builds the table. `clusters` has every service of `config`, those in `auto_routed` answer under their names;
/// `counters` is what the table
/// before had, and becomes what this one has.
pub(super) fn build(
    config: &Config,
    auto_routed: &BTreeSet<String>,
    clusters: &BTreeMap<String, Arc<Cluster>>,
    counters: &mut RouteCounters,
    workers: usize,
) -> RouteTable {
    let mut labels = BTreeSet::new();
    let mut kept = RouteCounters::new();
    let mut routes = Vec::new();
    for route in config
        .routes
        .iter()
        .cloned()
        .chain(auto_routes(config, auto_routed))
    {
        let (action, service) = match &route.action {
            RouteAction::Service(name) => {
                let cluster = clusters.get(name).expect("a checked route has its service");
                (Action::Service(Arc::clone(cluster)), name.clone())
            }
            RouteAction::Status(status) => (Action::Status(*status), String::new()),
            RouteAction::Redirect { status, location } => (
                Action::Redirect {
                    status: *status,
                    location: location.clone(),
                },
                String::new(),
            ),
        };
        let label = unique(&label(&route), &mut labels);
        let key = (label.clone(), service);
        let metrics = counters
            .remove(&key)
            .unwrap_or_else(|| Arc::new(RouteMetrics::new(workers)));
        kept.insert(key, Arc::clone(&metrics));
        routes.push(Arc::new(Route {
            label: label.into(),
            action,
            strip_segments: if route.strip_prefix {
                prefix_segments(&route.path)
            } else {
                0
            },
            metrics,
            config: route,
        }));
    }
    *counters = kept;
    RouteTable::new(routes).expect("every regex was compiled when the file was read")
}

/// Service NAME at `/NAME`, prefix stripped, unless a listed route takes every request for it.
fn auto_routes<'c>(
    config: &'c Config,
    names: &'c BTreeSet<String>,
) -> impl Iterator<Item = RouteConfig> + 'c {
    let taken = |path: &PathMatch| {
        config.routes.iter().any(|route| {
            route.path == *path
                && route.hosts.is_empty()
                && route.methods.is_empty()
                && route.headers.is_empty()
        })
    };
    names
        .iter()
        .map(|name| RouteConfig {
            hosts: Vec::new(),
            path: PathMatch::Prefix(format!("/{name}")),
            methods: Vec::new(),
            headers: BTreeMap::new(),
            action: RouteAction::Service(name.clone()),
            strip_prefix: true,
        })
        .filter(move |route| !taken(&route.path))
}

/// Routes that differ only in what their labels do not show are numbered.
fn unique(label: &str, taken: &mut BTreeSet<String>) -> String {
    let mut unique = label.to_owned();
    let mut number = 1;
    while !taken.insert(unique.clone()) {
        number += 1;
        unique = format!("{label} #{number}");
    }
    unique
}
