//! The shapes of the admin API.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use livegate_discovery::{Member, Reason, Status};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::events::Event;
use crate::route::Route;

/// One service with its instances.
pub(super) fn service(cluster: &Cluster) -> Value {
    let view = cluster.balancer.view();
    let mut json = json!({
        "name": &*cluster.name,
        "status": status(view.status()),
        "revision": view.revision(),
        "balance": cluster.config.balance.name(),
        "panic": view.is_panic(),
        "instances": view.members().iter().map(instance).collect::<Vec<_>>(),
    });
    // Registered at the address of a newer instance, which stands for it.
    json["shadowed"] = view
        .shadowed()
        .iter()
        .map(|shadowed| {
            json!({
                "id": shadowed.instance.id.as_str(),
                "address": shadowed.instance.address,
                "by": shadowed.by.as_str(),
            })
        })
        .collect();
    if let Status::Stale { since } = view.status() {
        json["stale_since"] = json!(time(since));
    }
    json
}

/// One word for what is known about a service.
pub(super) fn status(status: Status) -> &'static str {
    match status {
        Status::Pending => "pending",
        Status::Live => "live",
        Status::Stale { .. } => "stale",
        Status::Absent => "absent",
    }
}

/// Whether a service in this status can be served.
pub(super) fn is_ready(status: Status) -> bool {
    match status {
        Status::Live | Status::Stale { .. } => true,
        Status::Pending | Status::Absent => false,
    }
}

fn instance(member: &Member) -> Value {
    json!({
        "id": member.instance.id.as_str(),
        "address": member.instance.address,
        "weight": member.instance.weight,
        "zone": member.instance.zone.as_deref(),
        "state": member.state().public_name(),
        "reasons": member.reasons.iter().map(reason).collect::<Vec<_>>(),
        "in_flight": member.in_flight(),
        "requests": member.requests(),
        "failures": member.failures(),
        // Seconds, as in the metrics; null before the first answer.
        "latency": member.latency().map(|latency| latency.as_secs_f64()),
    })
}

fn reason(reason: &Reason) -> Value {
    let age = Instant::now().saturating_duration_since(reason.since);
    json!({
        "state": reason.state.name(),
        "text": &*reason.text,
        "since": time(SystemTime::now() - age),
    })
}

/// One route: its label, its place in the configuration and what it does.
pub(super) fn route(route: &Arc<Route>) -> Value {
    let mut json = route.config.to_json();
    json["label"] = json!(&*route.label);
    json["requests"] = route
        .metrics
        .totals()
        .iter()
        .map(|(_, count)| count)
        .sum::<u64>()
        .into();
    json
}

/// One event.
pub(super) fn event(event: &Arc<Event>) -> Value {
    json!({
        "number": event.number,
        "at": time(event.at),
        "service": event.service.as_deref(),
        "instance": event.instance.as_deref(),
        "kind": event.kind,
        "cause": event.cause,
    })
}

fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}
