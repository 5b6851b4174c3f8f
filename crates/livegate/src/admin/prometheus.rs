//! `/metrics` in the Prometheus text format, version 0.0.4.
//!
//! <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>

use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::sync::Arc;
use std::time::SystemTime;

use livegate_discovery::{EndpointState, Status};

use crate::admin::{RegistryFacts, json};
use crate::cluster::Cluster;
use crate::control::Gateway;
use crate::metrics::{DURATION_BOUNDS, RouteMetrics, WorkerMetrics};
use crate::worker;

/// Everything there is to count, at this moment.
pub(super) fn render(
    shared: &worker::Shared,
    gateway: &Gateway,
    registry: RegistryFacts,
    busy_ratio: f64,
) -> String {
    let mut page = Page::default();
    requests(&mut page, gateway, &shared.unrouted);
    durations(&mut page, &gateway.clusters);
    attempts(&mut page, &gateway.clusters);
    endpoints(&mut page, &gateway.clusters);
    if let Some(connected) = registry.connected {
        self::registry(&mut page, &gateway.clusters, connected, registry.reads);
    }
    workers(&mut page, &shared.workers, busy_ratio);
    page.family(
        "config_revision",
        Kind::Gauge,
        "Configurations applied since the start.",
    );
    page.sample("", &[], gateway.revision);
    page.text
}

fn requests(page: &mut Page, gateway: &Gateway, unrouted: &RouteMetrics) {
    page.family(
        "requests_total",
        Kind::Counter,
        "Finished requests, by the status sent to the client.",
    );
    let mut routes: Vec<(&str, &str, &RouteMetrics)> = gateway
        .routes
        .routes()
        .iter()
        .map(|route| {
            (
                &*route.label,
                route.service().unwrap_or_default(),
                &*route.metrics,
            )
        })
        .collect();
    routes.push(("", "", unrouted));
    for (route, service, metrics) in routes {
        for (code, count) in metrics.totals() {
            let labels = [
                ("route", route),
                ("service", service),
                ("code", &code.to_string()),
            ];
            page.sample("", &labels, count);
        }
    }
}

fn durations(page: &mut Page, clusters: &[Arc<Cluster>]) {
    page.family(
        "request_duration_seconds",
        Kind::Histogram,
        "From the first byte of a request to the last of its response.",
    );
    for cluster in clusters {
        let (buckets, sum) = cluster.metrics.durations();
        let mut count = 0;
        for (index, in_bucket) in buckets.iter().enumerate() {
            count += in_bucket;
            let bound = DURATION_BOUNDS.get(index);
            let bound = bound.map_or("+Inf".to_owned(), |bound| bound.as_secs_f64().to_string());
            page.sample(
                "_bucket",
                &[("service", &cluster.name), ("le", &bound)],
                count,
            );
        }
        page.sample("_sum", &[("service", &cluster.name)], sum.as_secs_f64());
        page.sample("_count", &[("service", &cluster.name)], count);
    }
}

fn attempts(page: &mut Page, clusters: &[Arc<Cluster>]) {
    page.family(
        "upstream_attempts_total",
        Kind::Counter,
        "Attempts at instances, by how they ended.",
    );
    for cluster in clusters {
        for (outcome, count) in cluster.metrics.attempts() {
            page.sample(
                "",
                &[("service", &cluster.name), ("outcome", outcome.label())],
                count,
            );
        }
    }
    page.family(
        "retries_total",
        Kind::Counter,
        "Retries, by what made them necessary.",
    );
    for cluster in clusters {
        for (reason, count) in cluster.metrics.retries() {
            page.sample(
                "",
                &[("service", &cluster.name), ("reason", reason.label())],
                count,
            );
        }
    }
    page.family(
        "retries_refused_total",
        Kind::Counter,
        "Retries that the budget did not allow.",
    );
    for cluster in clusters {
        page.sample(
            "",
            &[("service", &cluster.name)],
            cluster.metrics.retries_refused(),
        );
    }
    page.family(
        "panic_picks_total",
        Kind::Counter,
        "Picks of endpoints that are not fit, for too few are.",
    );
    for cluster in clusters {
        page.sample(
            "",
            &[("service", &cluster.name)],
            cluster.balancer.panic_picks(),
        );
    }
}

fn endpoints(page: &mut Page, clusters: &[Arc<Cluster>]) {
    page.family("endpoints", Kind::Gauge, "Endpoints, by what they are now.");
    for cluster in clusters {
        let states = EndpointState::ALL
            .iter()
            .map(|state| (state.public_name(), 0));
        let mut counts: BTreeMap<&str, u64> = states.collect();
        for member in cluster.balancer.view().members().iter() {
            *counts.entry(member.state().public_name()).or_default() += 1;
        }
        for (state, count) in counts {
            page.sample("", &[("service", &cluster.name), ("state", state)], count);
        }
    }
}

/// Of services that are found in the registry; nothing when none is configured.
fn registry(page: &mut Page, clusters: &[Arc<Cluster>], connected: bool, reads: u64) {
    page.family(
        "registry_connected",
        Kind::Gauge,
        "Whether there is contact with the registry.",
    );
    page.sample("", &[], u8::from(connected));
    page.family(
        "registry_reads_total",
        Kind::Counter,
        "Reads of data asked of the registry.",
    );
    page.sample("", &[], reads);
    page.family(
        "registry_snapshot_age_seconds",
        Kind::Gauge,
        "For how long the registry has not confirmed the instances; 0 while it does.",
    );
    let now = SystemTime::now();
    let found = clusters
        .iter()
        .filter(|cluster| cluster.config.instances.is_none());
    for cluster in found {
        let age = match cluster.balancer.view().status() {
            Status::Pending => continue,
            Status::Live | Status::Absent => 0.0,
            Status::Stale { since } => json::age_seconds(since, now),
        };
        page.sample("", &[("service", &cluster.name)], age);
    }
}

fn workers(page: &mut Page, workers: &[WorkerMetrics], busy_ratio: f64) {
    page.family("connections", Kind::Gauge, "Open connections.");
    let sum = |count: fn(&WorkerMetrics) -> u64| workers.iter().map(count).sum::<u64>();
    let downstream = sum(|worker| worker.downstream_connections.get());
    let upstream = sum(|worker| worker.upstream_connections.get());
    page.sample("", &[("side", "downstream")], downstream);
    page.sample("", &[("side", "upstream")], upstream);
    page.family(
        "connections_accepted_total",
        Kind::Counter,
        "Client connections accepted.",
    );
    page.sample("", &[], sum(|worker| worker.accepted.get()));
    page.family(
        "workers_busy_ratio",
        Kind::Gauge,
        "Share of time that the workers did not wait, since the metrics were last read.",
    );
    page.sample("", &[], busy_ratio);
}

#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A page that grows family by family.
#[derive(Default)]
struct Page {
    text: String,
    /// The full name of the present family.
    family: String,
}

impl Page {
    fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let family = format!("livegate_{name}");
        self.write(format_args!(
            "# HELP {family} {help}\n# TYPE {family} {kind}\n"
        ));
        self.family = family;
    }

    fn sample(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        let mut line = format!("{}{suffix}", self.family);
        for (index, (name, value)) in labels.iter().enumerate() {
            line.push(if index == 0 { '{' } else { ',' });
            line.push_str(name);
            line.push_str("=\"");
            escape(value, &mut line);
            line.push('"');
        }
        if !labels.is_empty() {
            line.push('}');
        }
        self.write(format_args!("{line} {value}\n"));
    }

    fn write(&mut self, arguments: std::fmt::Arguments<'_>) {
        self.text
            .write_fmt(arguments)
            .expect("writing to a string does not fail");
    }
}

fn escape(value: &str, line: &mut String) {
    for c in value.chars() {
        match c {
            '\\' => line.push_str("\\\\"),
            '"' => line.push_str("\\\""),
            '\n' => line.push_str("\\n"),
            c => line.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_values_are_escaped() {
        let mut page = Page::default();
        page.family("requests_total", Kind::Counter, "Requests.");
        page.sample("", &[("route", "~^/\\d+\"\n"), ("code", "200")], 7);
        page.sample("", &[], 0.5);
        assert_eq!(
            page.text,
            "# HELP livegate_requests_total Requests.\n\
             # TYPE livegate_requests_total counter\n\
             livegate_requests_total{route=\"~^/\\\\d+\\\"\\n\",code=\"200\"} 7\n\
             livegate_requests_total 0.5\n"
        );
    }
}
