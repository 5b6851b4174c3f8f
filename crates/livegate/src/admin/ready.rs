//! `/readyz`: whether the gateway can do for its services what it is configured for.

use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use livegate_discovery::{Status, View};
use serde_json::{Value, json};

use crate::admin::{Admin, json as shape};

/// 200 when every configured service is live, or served from what the registry said before contact
/// with it was lost; else 503.
///
/// `{"ready": BOOL, "reason": null | "services" | "shutting_down", "services": [{"service",
/// "status", "instances", "stale_since", "age_seconds"}], "waiting_for": [...]}`: of a service that
/// is `stale`, since when, and for how many seconds. `waiting_for` has those that are not ready.
pub(super) async fn readyz(State(admin): State<Arc<Admin>>) -> Response {
    let gateway = admin.published.gateway.load();
    let now = SystemTime::now();
    let (mut services, mut waiting) = (Vec::new(), Vec::new());
    for cluster in &gateway.clusters {
        let view = cluster.balancer.view();
        let service = service(&cluster.name, &view, now);
        if !is_ready(&view) {
            waiting.push(service.clone());
        }
        services.push(service);
    }
    let reason = if admin.stopping.is_cancelled() {
        Some("shutting_down")
    } else if waiting.is_empty() {
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
