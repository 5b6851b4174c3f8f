//! The shapes of the admin API.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use livegate_discovery::{
    InstanceState, Member, NoEndpoint, Reason, Shadowed, Source, Status, View,
};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::events::{Event, Events};
use crate::proxy::error::ProxyError;
use crate::route::{Action, Route};

/// Translates instants of ours into times of the day, all at the same moment.
pub(super) struct Clock {
    instant: Instant,
    time: SystemTime,
}

impl Clock {
    pub(super) fn now() -> Self {
        Self {
            instant: Instant::now(),
            time: SystemTime::now(),
        }
    }

    pub(super) fn show(&self, instant: Instant) -> String {
        time(self.time - self.instant.saturating_duration_since(instant))
    }
}

/// One service with its instances: `{"name", "status", "status_since", "revision", "balance",
/// "source": "file" | "registry", "panic", "instances", "shadowed", "skipped", "stale_since"}`;
/// `stale_since` only when it is stale.
pub(super) fn service(cluster: &Cluster) -> Value {
    let view = cluster.balancer.view();
    let clock = Clock::now();
    let instance = |member| instance(member, view.uses(member), &clock);
    let mut json = json!({
        "name": &*cluster.name,
        "status": status(view.status()),
        "status_since": view.status_since().map(|since| clock.show(since)),
        "revision": view.revision(),
        "balance": cluster.config.balance.name(),
        "source": if cluster.config.instances.is_some() { "file" } else { "registry" },
        "panic": view.is_panic(),
        "instances": view.members().iter().map(instance).collect::<Vec<_>>(),
    });
    json["shadowed"] = view.shadowed().iter().map(shadowed).collect();
    json["skipped"] = json!(view.skipped());
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

/// What the registry says about an instance, in a word.
pub(super) fn instance_state(state: InstanceState) -> &'static str {
    match state {
        InstanceState::Up => "up",
        InstanceState::Draining => "draining",
        InstanceState::Down => "down",
    }
}

/// An instance whose address a newer one has, `by`.
pub(super) fn shadowed(shadowed: &Shadowed) -> Value {
    json!({
        "id": shadowed.instance.id.as_str(),
        "address": shadowed.instance.address,
        "by": shadowed.by.as_str(),
    })
}

/// `idle`: nothing is in flight; with `draining` nothing will be.
fn instance(member: &Member, used: bool, clock: &Clock) -> Value {
    json!({
        "id": member.instance.id.as_str(),
        "address": member.instance.address,
        "weight": member.instance.weight,
        "zone": member.instance.zone.as_deref(),
        "state": member.state().public_name(),
        "used": used,
        "reasons": member.reasons.iter().map(|reason| self::reason(reason, clock)).collect::<Vec<_>>(),
        "in_flight": member.in_flight(),
        "idle": member.endpoint.is_idle(),
        "requests": member.requests(),
        "failures": member.failures(),
        // Seconds, as in the metrics; null before the first answer.
        "latency": member.latency().map(|latency| latency.as_secs_f64()),
    })
}

fn reason(reason: &Reason, clock: &Clock) -> Value {
    json!({
        "state": reason.state.name(),
        "text": &*reason.text,
        "source": match reason.source {
            Source::Registry => "registry",
            Source::Probe => "probe",
            Source::Traffic => "traffic",
            Source::Operator => "operator",
        },
        "since": clock.show(reason.since),
    })
}

/// The reason with which requests for a service are refused now, as their clients see it; `None` when they
/// are sent to it.
pub(super) fn refusal(view: &View) -> Option<&'static str> {
    let mut members = view.members().iter();
    let error = match view.status() {
        _ if members.any(|member| view.uses(member)) => return None,
        _ if !view.members().is_empty() => NoEndpoint::AllUnfit,
        Status::Pending => NoEndpoint::Pending,
        Status::Absent => NoEndpoint::Absent,
        Status::Live | Status::Stale { .. } => NoEndpoint::Empty,
    };
    Some(ProxyError::from(error).reason())
}

/// One route: its label, its place in the configuration and what it does; of one to a service `reason`, with
/// which its requests are refused now, or null.
pub(super) fn route(route: &Arc<Route>) -> Value {
    let mut json = route.config.to_json();
    json["label"] = json!(&*route.label);
    if let Action::Service(cluster) = &route.action {
        json["reason"] = json!(refusal(&cluster.balancer.view()));
    }
    json["requests"] = route
        .metrics
        .totals()
        .iter()
        .map(|(_, count)| count)
        .sum::<u64>()
        .into();
    json
}

/// Names an event among those of all processes: its number, and the epoch of the recorder.
pub(super) fn event_id(events: &Events, number: u64) -> String {
    format!("{number}-{}", events.epoch())
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

pub(super) fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

/// A time by the registry's clock; `None` for what was never registered, or later than any year
/// that can be shown.
pub(super) fn registry_time(ms: i64) -> Option<String> {
    // Up to the year 9999, as far as RFC 3339 goes.
    const MS_MAX: u64 = 253_402_300_799_999;
    let ms = u64::try_from(ms)
        .ok()
        .filter(|ms| (1..=MS_MAX).contains(ms))?;
    Some(time(SystemTime::UNIX_EPOCH + Duration::from_millis(ms)))
}

/// How old something is, never negative.
pub(super) fn age_seconds(since: SystemTime, now: SystemTime) -> f64 {
    now.duration_since(since).unwrap_or_default().as_secs_f64()
}
