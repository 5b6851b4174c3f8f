//! `/api/v1/explain/NAME`: why each instance of a service is, or is not, used right now.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path as UrlPath, Query, State};
use axum::response::Json;
use livegate_discovery::{EndpointState, Member, Reason, Source, Status, View};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::admin::json::Clock;
use crate::admin::refusal::Refusal;
use crate::admin::{Admin, json as shape, lookup};
use crate::cluster::Cluster;
use crate::config::{HealthCheckKind, units};
use crate::events::Event;

/// Transitions told of each instance, and of the service as a whole.
const TRANSITIONS_MAX: usize = 10;

#[derive(Deserialize)]
pub(super) struct ExplainQuery {
    instance: Option<String>,
}

/// `{"service", "status", "since", "revision", "panic", "reason", "summary", "instances": [...],
/// "shadowed": [{"id", "address", "by"}], "skipped": {NODE: WHY}, "transitions": [...]}`.
///
/// `reason` is that of the 503 with which requests are answered now, or null. An instance is `{"id", "address", "weight", "zone", "state", "used", "verdict", "registry",
/// "probes", "traffic", "operator", "transitions"}`. The four witnesses are objects with what they
/// say (`"says"`) and since when (`"since"`, or null); `registry` also has `source` (`file` or
/// `registry`), `state`, `czxid`, `ctime`, `zone` and `metadata`; `traffic` also has `in_flight`,
/// `requests`, `failures` and `latency` in seconds. Transitions are the last events of it, newest
/// last. With `?instance=ID` only that one; one that left is explained by its transitions, with
/// `"state": "gone"`.
pub(super) async fn explain(
    State(admin): State<Arc<Admin>>,
    name: Result<UrlPath<String>, PathRejection>,
    query: Result<Query<ExplainQuery>, QueryRejection>,
) -> Result<Json<Value>, Refusal> {
    let (name, only) = (name?.0, query?.0.instance);
    let gateway = admin.published.gateway.load();
    let cluster = lookup::cluster(&gateway, &name)?;
    let events = admin.events.since(0, Some(&name));
    let explained = of_service(cluster, &events, only.as_deref());
    explained
        .map(Json)
        .ok_or_else(|| lookup::unknown_instance(cluster, only.as_deref().unwrap_or_default()))
}

/// `None` when nothing is known of the one instance that is asked for.
fn of_service(cluster: &Cluster, events: &[Arc<Event>], only: Option<&str>) -> Option<Value> {
    let view = cluster.balancer.view();
    let clock = Clock::now();
    let mut transitions = last_transitions(events);
    let wanted = |id: &str| only.is_none_or(|only| only == id);
    let mut instances: Vec<Value> = view
        .members()
        .iter()
        .filter(|member| wanted(member.instance.id.as_str()))
        .map(|member| {
            let last = transitions.remove(&Some(member.instance.id.as_str()));
            of_instance(cluster, &view, member, &last.unwrap_or_default(), &clock)
        })
        .collect();
    let shadowed: Vec<Value> = view
        .shadowed()
        .iter()
        .filter(|shadowed| wanted(shadowed.instance.id.as_str()))
        .map(shape::shadowed)
        .collect();
    let skipped: HashMap<&String, &String> = view
        .skipped()
        .iter()
        .filter(|(node, _)| wanted(node))
        .collect();
    if let Some(only) = only
        && instances.is_empty()
        && shadowed.is_empty()
        && skipped.is_empty()
    {
        instances.push(gone(only, &transitions.remove(&Some(only))?));
    }
    let status = shape::status(view.status());
    Some(json!({
        "service": &*cluster.name,
        "status": status,
        "since": since_of_status(&view, &clock),
        "revision": view.revision(),
        "panic": view.is_panic(),
        "reason": shape::refusal(&view),
        "summary": summary(&view),
        "instances": instances,
        "shadowed": shadowed,
        "skipped": skipped,
        "transitions": shown(&transitions.remove(&None).unwrap_or_default()),
    }))
}

/// The latest events of each instance, and of the service itself (`None`); oldest first.
fn last_transitions(events: &[Arc<Event>]) -> HashMap<Option<&str>, Vec<&Arc<Event>>> {
    let mut last: HashMap<Option<&str>, Vec<&Arc<Event>>> = HashMap::new();
    for event in events.iter().rev() {
        let of_it = last.entry(event.instance.as_deref()).or_default();
        if of_it.len() < TRANSITIONS_MAX {
            of_it.push(event);
        }
    }
    last.values_mut().for_each(|events| events.reverse());
    last
}

fn shown(events: &[&Arc<Event>]) -> Vec<Value> {
    events.iter().map(|event| shape::event(event)).collect()
}

fn since_of_status(view: &View, clock: &Clock) -> Value {
    match view.status() {
        Status::Stale { since } => json!(shape::time(since)),
        Status::Pending | Status::Live | Status::Absent => {
            json!(view.status_since().map(|since| clock.show(since)))
        }
    }
}

/// One sentence about the service.
fn summary(view: &View) -> String {
    let members = view.members();
    let used = members.iter().filter(|member| view.uses(member)).count();
    let counted = match (used, members.len()) {
        (_, 0) => "there are no instances".to_owned(),
        (used, all) => format!("{used} of {all} instances used"),
    };
    let known = match view.status() {
        Status::Pending => "nothing is known about it yet",
        Status::Live => "",
        Status::Stale { .. } => "the registry cannot be asked, this is what it said last",
        Status::Absent => "the registry has no such service",
    };
    let panic = if view.is_panic() {
        "too few are fit, so that others are used as well"
    } else {
        ""
    };
    let refusal = shape::refusal(view).map(|reason| format!("requests are answered 503 {reason}"));
    let refusal = refusal.unwrap_or_default();
    let parts = [counted.as_str(), known, panic, &refusal];
    let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    parts.join("; ")
}

fn of_instance(
    cluster: &Cluster,
    view: &View,
    member: &Member,
    last: &[&Arc<Event>],
    clock: &Clock,
) -> Value {
    let used = view.uses(member);
    json!({
        "id": member.instance.id.as_str(),
        "address": member.instance.address,
        "weight": member.instance.weight,
        "zone": member.instance.zone.as_deref(),
        "state": member.state().public_name(),
        "used": used,
        "verdict": verdict(cluster, member, used, clock),
        "registry": registry(cluster, member, clock),
        "probes": probes(cluster, member, clock),
        "traffic": traffic(member, clock),
        "operator": operator(member, clock),
        "transitions": shown(last),
    })
}

/// One that is not there any more.
fn gone(id: &str, last: &[&Arc<Event>]) -> Value {
    let end = last.last().map_or_else(String::new, |event| {
        format!(
            "; last of it, at {}: {}: {}",
            shape::time(event.at),
            event.kind,
            event.cause
        )
    });
    json!({
        "id": id,
        "state": "gone",
        "used": false,
        "verdict": format!("not used: it is not listed{end}"),
        "transitions": shown(last),
    })
}

/// One sentence: whether it is used, why, and what would change that.
fn verdict(cluster: &Cluster, member: &Member, used: bool, clock: &Clock) -> String {
    let Some(worst) = member.worst() else {
        // Its flags are newer than its reasons.
        return if used {
            "used: fit"
        } else {
            "not used: something has just happened"
        }
        .to_owned();
    };
    let text = format!("{} since {}", worst.text, clock.show(worst.since));
    match (worst.state, used) {
        (EndpointState::Fit, _) => "used: fit".to_owned(),
        (EndpointState::Warming, true) => {
            format!(
                "used: {} while it warms up, since {}",
                worst.text,
                clock.show(worst.since)
            )
        }
        (EndpointState::Held, true) => format!(
            "used: held: {text}; it is kept while it accepts connections, until the registry names it or {} have passed",
            units::show_duration(cluster.config.hold_grace)
        ),
        (_, true) => format!("used although {text}: too few instances are fit"),
        (state, false) => format!(
            "not used: {text}; {}",
            remedy(cluster, member, worst, state)
        ),
    }
}

/// What will bring it back.
fn remedy(cluster: &Cluster, member: &Member, worst: &Reason, state: EndpointState) -> String {
    match (state, worst.source) {
        (EndpointState::Quarantined, _) => {
            "a probe tries to connect every 50 ms to 1 s and lets it in when it accepts".to_owned()
        }
        (EndpointState::Stalled, _) => {
            "a probe asks for a sign of life every 50 ms to 5 s and lets it in when it answers"
                .to_owned()
        }
        (EndpointState::Ejected, _) => {
            "then it is on probation, and the first success lets it in".to_owned()
        }
        (EndpointState::Unhealthy, Source::Probe) => {
            let check = &cluster.config.health_check;
            let times = match check.rise {
                1 => "a success".to_owned(),
                rise => format!("{rise} successes in a row"),
            };
            format!(
                "it is checked every {}, and {times} let{} it in",
                units::show_duration(check.interval),
                if check.rise == 1 { "s" } else { "" },
            )
        }
        (EndpointState::Draining, Source::Operator) => format!(
            "until 'livegate undrain {} {}'",
            cluster.name, member.instance.id
        ),
        (EndpointState::Draining | EndpointState::Unhealthy, _) if is_listed(cluster) => {
            "until the configuration says otherwise".to_owned()
        }
        (EndpointState::Draining | EndpointState::Unhealthy, _) => {
            "until the registry says otherwise".to_owned()
        }
        (EndpointState::Fit | EndpointState::Warming | EndpointState::Held, _) => {
            "something has just happened".to_owned()
        }
    }
}

fn is_listed(cluster: &Cluster) -> bool {
    cluster.config.instances.is_some()
}

/// The first reason of this source that speaks against it.
fn said_by(member: &Member, source: Source) -> Option<&Reason> {
    let mut reasons = member.reasons.iter();
    reasons.find(|reason| reason.source == source && reason.state > EndpointState::Warming)
}

fn registry(cluster: &Cluster, member: &Member, clock: &Clock) -> Value {
    let instance = &member.instance;
    let (source, says) = if is_listed(cluster) {
        ("file", "listed in the configuration")
    } else {
        ("registry", "registered")
    };
    let ctime = shape::registry_time(instance.incarnation.ctime_ms);
    let (says, since) = match said_by(member, Source::Registry) {
        Some(reason) => (&*reason.text, clock.show(reason.since)),
        None => (
            says,
            ctime
                .clone()
                .unwrap_or_else(|| clock.show(member.known_since)),
        ),
    };
    json!({
        "says": says,
        "since": since,
        "source": source,
        "state": shape::instance_state(instance.state),
        "known_since": clock.show(member.known_since),
        "czxid": (instance.incarnation.czxid != 0).then_some(instance.incarnation.czxid),
        "ctime": ctime,
        "zone": instance.zone.as_deref(),
        "metadata": &*instance.metadata,
    })
}

fn probes(cluster: &Cluster, member: &Member, clock: &Clock) -> Value {
    if let Some(reason) = said_by(member, Source::Probe) {
        return json!({ "says": &*reason.text, "since": clock.show(reason.since) });
    }
    // Traffic saw it first; the probe that is to end it has not.
    let reasons = &member.reasons;
    if let Some(doubt) = reasons.iter().find(|reason| {
        matches!(
            reason.state,
            EndpointState::Quarantined | EndpointState::Stalled
        )
    }) {
        let says = if doubt.state == EndpointState::Stalled {
            "no sign of life"
        } else {
            "no connection"
        };
        return json!({ "says": says, "since": clock.show(doubt.since) });
    }
    let check = &cluster.config.health_check;
    let interval = units::show_duration(check.interval);
    let says = match check.kind {
        HealthCheckKind::Tcp => {
            format!("nothing against it, it is connected to every {interval}")
        }
        HealthCheckKind::Http => {
            format!("nothing against it, GET {} every {interval}", check.path)
        }
        HealthCheckKind::None => {
            "nothing: it has no health check, and is probed only when in doubt".to_owned()
        }
    };
    json!({ "says": says, "since": null })
}

fn traffic(member: &Member, clock: &Clock) -> Value {
    let reason = said_by(member, Source::Traffic);
    let says = reason.map_or("nothing against it", |reason| &reason.text);
    json!({
        "says": says,
        "since": reason.map(|reason| clock.show(reason.since)),
        "in_flight": member.in_flight(),
        "requests": member.requests(),
        "failures": member.failures(),
        "latency": member.latency().map(|latency: Duration| latency.as_secs_f64()),
    })
}

fn operator(member: &Member, clock: &Clock) -> Value {
    let reason = said_by(member, Source::Operator);
    json!({
        "says": reason.map_or("nothing", |reason| &reason.text),
        "since": reason.map(|reason: &Reason| clock.show(reason.since)),
    })
}
