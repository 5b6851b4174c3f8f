//! `/readyz`: whether the gateway can do for its services what it is configured for.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::SystemTime;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use livegate_discovery::{Status, View};
use serde_json::{Value, json};

use crate::admin::{Admin, json as shape};

/// 200 once every configured service has been live, or served from what the registry said before
/// contact with it was lost; else 503. Once it was so it stays so: what a service lacks later is no
/// reason to send its clients elsewhere, where the same registry says the same. Of services that only routes
/// name it is enough to know whether they are there; those that are only found do not count.
///
/// `{"ready": BOOL, "reason": null | "services" | "shutting_down", "services": [{"service",
/// "status", "instances", "stale_since", "age_seconds"}], "waiting_for": [...]}`: of a service that
/// is `stale`, since when, and for how many seconds. `waiting_for` has those that are not ready.
pub(super) async fn readyz(State(admin): State<Arc<Admin>>) -> Response {
    let gateway = admin.published.gateway.load();
    let now = SystemTime::now();
    let config = admin.published.config.load();
    let routed = config.routed_only();
    let was_ready = admin.was_ready.load(Relaxed);
    let (mut services, mut waiting) = (Vec::new(), Vec::new());
    for cluster in &gateway.clusters {
        let view = cluster.balancer.view();
        let service = service(&cluster.name, &view, now);
        let waits = if config.services.contains_key(&*cluster.name) {
            !is_ready(&view)
        } else {
            routed.contains(&*cluster.name) && view.status() == Status::Pending
        };
        if waits && !was_ready {
            waiting.push(service.clone());
        }
        services.push(service);
    }
    let reason = if admin.stopping.is_cancelled() {
        Some("shutting_down")
    } else if waiting.is_empty() {
        admin.was_ready.store(true, Relaxed);
        None
    } else {
        Some("services")
    };
    let status = match reason {
        None => StatusCode::OK,
        Some(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    let body = json!({
        "ready": reason.is_none(),
        "reason": reason,
        "services": services,
        "waiting_for": waiting,
    });
    (status, Json(body)).into_response()
}

fn service(name: &str, view: &View, now: SystemTime) -> Value {
    let mut service = json!({
        "service": name,
        "status": shape::status(view.status()),
        "instances": view.members().len(),
    });
    if let Status::Stale { since } = view.status() {
        service["stale_since"] = json!(shape::time(since));
        service["age_seconds"] = json!(shape::age_seconds(since, now));
    }
    service
}

/// An old list with instances serves; an empty one does not.
fn is_ready(view: &View) -> bool {
    match view.status() {
        Status::Live => true,
        Status::Stale { .. } => !view.members().is_empty(),
        Status::Pending | Status::Absent => false,
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use livegate_discovery::{Instance, Policy, Snapshot, channel};

    use super::*;

    #[test]
    fn an_old_list_serves_and_says_how_old_it_is() {
        let now = SystemTime::now();
        let since = now - Duration::from_secs(12);
        let view = |status, addresses: &[&str]| {
            let (mut updater, balancer) = channel(Policy::default(), 1);
            let instances = addresses
                .iter()
                .map(|address| Instance::listed(address.parse().unwrap(), 1));
            let snapshot = Snapshot {
                status,
                ..Snapshot::live(1, instances)
            };
            updater.apply(&snapshot, Instant::now());
            balancer.view()
        };
        let stale = view(Status::Stale { since }, &["127.0.0.1:1", "127.0.0.1:2"]);
        assert!(is_ready(&stale));
        let shown = service("orders", &stale, now);
        assert_eq!(shown["status"], "stale");
        assert_eq!(shown["instances"], 2);
        assert_eq!(shown["age_seconds"], 12.0);
        assert_eq!(shown["stale_since"], shape::time(since));
        assert!(!is_ready(&view(Status::Stale { since }, &[])));
        assert!(is_ready(&view(Status::Live, &[])));
        assert!(!is_ready(&view(Status::Absent, &[])));
        assert!(!is_ready(&view(Status::Pending, &[])));
        let live = service("orders", &view(Status::Live, &["127.0.0.1:1"]), now);
        assert_eq!(live["age_seconds"], Value::Null);
    }
}
