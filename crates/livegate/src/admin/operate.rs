//! What the admin side can be asked to do: drain an instance, drop one that is held, check a configuration.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path as UrlPath, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Json, Response};
use livegate_discovery::{EndpointState, Member};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::admin::refusal::Refusal;
use crate::admin::{Admin, lookup};
use crate::cluster::{Cluster, OperatorError};
use crate::config;

/// The task of a cluster obeys at once, unless the machine is busy.
const OBEY_TIMEOUT: Duration = Duration::from_secs(5);
/// A configuration with ten thousand listed instances has half of it.
const CONFIG_BYTES_MAX: usize = 1 << 20;
const CONFIG_TIMEOUT: Duration = Duration::from_secs(10);

/// Keeps pages of other sites, open in the operator's browser, from operating the gateway.
///
/// Browsers name the site of the page in `Origin` whenever they POST. Where no token protects, a
/// site could also give its own name our address (DNS rebinding) and be the same origin; then
/// `Host` is that name, while whoever means this gateway says an address or `localhost`.
pub(super) async fn same_origin(
    State(admin): State<Arc<Admin>>,
    request: Request,
    next: Next,
) -> Response {
    if is_foreign(request.headers(), admin.token.is_some()) {
        return Refusal::new(
            StatusCode::FORBIDDEN,
            "foreign_origin",
            "a page of another site must not operate this gateway",
        )
        .into_response();
    }
    next.run(request).await
}

fn is_foreign(headers: &HeaderMap, is_protected: bool) -> bool {
    let text = |name| {
        let value = headers.get(name)?;
        // What is not text equals nothing.
        Some(value.to_str().unwrap_or("\u{fffd}"))
    };
    let host = text(header::HOST).unwrap_or_default();
    let is_other = |origin: &str| {
        let authority = origin.split_once("://").map(|(_, authority)| authority);
        !authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
    };
    text(header::ORIGIN).is_some_and(is_other) || (!is_protected && !is_local_name(host))
}

/// Whether `HOST[:PORT]` is an address or `localhost`.
fn is_local_name(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        Some(_) | None => host,
    };
    let bare = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'));
    name.eq_ignore_ascii_case("localhost")
        || bare.unwrap_or(name).parse::<std::net::IpAddr>().is_ok()
}

/// `POST /api/v1/services/NAME/instances/ID/drain`: no new requests to the instance from now on.
///
/// `{"service", "instance", "drained": true, "in_flight": NUMBER, "idle": BOOL}`; `idle` once
/// nothing is in flight to it. An instance that restarts stays drained.
pub(super) async fn drain(
    State(admin): State<Arc<Admin>>,
    path: Result<UrlPath<(String, String)>, PathRejection>,
) -> Result<Json<Value>, Refusal> {
    let UrlPath((name, id)) = path?;
    set_drained(&admin, &name, &id, true).await
}

/// `POST /api/v1/services/NAME/instances/ID/undrain`: takes a drain back.
pub(super) async fn undrain(
    State(admin): State<Arc<Admin>>,
    path: Result<UrlPath<(String, String)>, PathRejection>,
) -> Result<Json<Value>, Refusal> {
    let UrlPath((name, id)) = path?;
    set_drained(&admin, &name, &id, false).await
}

async fn set_drained(
    admin: &Admin,
    name: &str,
    id: &str,
    drained: bool,
) -> Result<Json<Value>, Refusal> {
    let cluster = Arc::clone(lookup::cluster(&admin.published.gateway.load(), name)?);
    let command = cluster.operator.set_drained(id, drained);
    obeyed(&cluster, command)
        .await?
        .map_err(|error| match error {
            OperatorError::UnknownInstance => lookup::unknown_instance(&cluster, id),
            OperatorError::Gone => is_gone(&cluster),
        })?;
    let view = cluster.balancer.view();
    let endpoint = view
        .members()
        .iter()
        .find(|member| member.instance.id.as_str() == id)
        .map(|member| &member.endpoint);
    Ok(Json(json!({
        "service": name,
        "instance": id,
        "drained": drained,
        "in_flight": endpoint.map_or(0, |endpoint| endpoint.in_flight()),
        "idle": endpoint.is_none_or(|endpoint| endpoint.is_idle()),
    })))
}

/// `POST /api/v1/services/NAME/instances/ID/drop`: gives up an instance that is held.
///
/// `{"service", "dropped": [ID]}`; 409 `not_held` when the registry names it.
pub(super) async fn drop_one(
    State(admin): State<Arc<Admin>>,
    path: Result<UrlPath<(String, String)>, PathRejection>,
) -> Result<Json<Value>, Refusal> {
    let UrlPath((name, id)) = path?;
    let cluster = Arc::clone(lookup::cluster(&admin.published.gateway.load(), &name)?);
    let view = cluster.balancer.view();
    let mut members = view.members().iter();
    match members.find(|member| member.instance.id.as_str() == id) {
        None => return Err(lookup::unknown_instance(&cluster, &id)),
        Some(member) if !is_held(member) => {
            let detail = format!(
                "{id} is not held, so that it cannot be dropped: drain it with 'livegate drain {name} {id}'"
            );
            return Err(Refusal::new(StatusCode::CONFLICT, "not_held", detail));
        }
        Some(_) => {}
    }
    drop_held(&cluster, vec![id]).await
}

/// `POST /api/v1/services/NAME/drop`: gives up all instances of a service that are held; an answer like that
/// for one.
pub(super) async fn drop_all(
    State(admin): State<Arc<Admin>>,
    name: Result<UrlPath<String>, PathRejection>,
) -> Result<Json<Value>, Refusal> {
    let cluster = Arc::clone(lookup::cluster(&admin.published.gateway.load(), &name?.0)?);
    let view = cluster.balancer.view();
    let held = view.members().iter().filter(|member| is_held(member));
    let held = held.map(|member| member.instance.id.to_string()).collect();
    drop_held(&cluster, held).await
}

fn is_held(member: &Member) -> bool {
    let mut reasons = member.reasons.iter();
    reasons.any(|reason| reason.state == EndpointState::Held)
}

async fn drop_held(cluster: &Cluster, ids: Vec<String>) -> Result<Json<Value>, Refusal> {
    let mut dropped = Vec::new();
    for id in ids {
        match obeyed(cluster, cluster.operator.drop_held(&id)).await? {
            Ok(()) => dropped.push(id),
            // It went by itself a moment ago.
            Err(OperatorError::UnknownInstance) => {}
            Err(OperatorError::Gone) => return Err(is_gone(cluster)),
        }
    }
    Ok(Json(
        json!({ "service": &*cluster.name, "dropped": dropped }),
    ))
}

/// What became of a command, unless that takes too long.
async fn obeyed(
    cluster: &Cluster,
    command: impl Future<Output = Result<(), OperatorError>>,
) -> Result<Result<(), OperatorError>, Refusal> {
    timeout(OBEY_TIMEOUT, command).await.map_err(|_| {
        let detail = format!(
            "{} has not obeyed within {OBEY_TIMEOUT:?}, try again",
            cluster.name
        );
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail)
    })
}

fn is_gone(cluster: &Cluster) -> Refusal {
    let detail = format!("{} was removed from the configuration", cluster.name);
    Refusal::new(StatusCode::NOT_FOUND, "unknown_service", detail)
}

/// `POST /api/v1/config/check` with a configuration as its body: what `livegate check` says.
///
/// 200 `{"ok": true, "services": NUMBER, "routes": NUMBER, "notes": [TEXT]}`, or 422 `{"error":
/// "bad_configuration", "detail", "ok": false, "errors": [{"line", "column", "key", "message"}]}`.
pub(super) async fn check(body: Body) -> Result<Response, Refusal> {
    let bytes = timeout(CONFIG_TIMEOUT, to_bytes(body, CONFIG_BYTES_MAX)).await;
    let bytes = bytes.map_err(|_| {
        let detail = format!("the configuration has not come within {CONFIG_TIMEOUT:?}");
        Refusal::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", detail)
    })?;
    let bytes = bytes.map_err(|_| {
        let detail = format!("a configuration has at most {CONFIG_BYTES_MAX} bytes");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
    })?;
    let text = String::from_utf8(bytes.into()).map_err(|_| {
        Refusal::new(
            StatusCode::BAD_REQUEST,
            "bad_request",
            "the configuration is not UTF-8",
        )
    })?;
    // Reading a large one takes longer than clusters and probes should wait.
    let parsed = tokio::task::spawn_blocking(move || config::parse(&text)).await;
    let parsed = parsed.map_err(|_| {
        Refusal::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal_error",
            "the configuration could not be read",
        )
    })?;
    let errors = match parsed {
        Ok(config) => {
            let (services, routes) = (config.services.len(), config.routes.len());
            let notes = config.notes();
            let body =
                json!({ "ok": true, "services": services, "routes": routes, "notes": notes });
            return Ok(Json(body).into_response());
        }
        Err(errors) => errors,
    };
    let detail: Vec<String> = errors.iter().map(ToString::to_string).collect();
    let error = |error: &config::ConfigError| {
        json!({
            "line": error.line,
            "column": error.column,
            "key": error.key_path,
            "message": error.message,
        })
    };
    let body = json!({
        "error": "bad_configuration",
        "detail": detail.join("\n"),
        "ok": false,
        "errors": errors.iter().map(error).collect::<Vec<_>>(),
    });
    Ok((StatusCode::UNPROCESSABLE_ENTITY, Json(body)).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_other_sites_are_foreign() {
        let foreign = |host: &str, origin: Option<&str>, is_protected| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, origin.parse().unwrap());
            }
            is_foreign(&headers, is_protected)
        };
        for host in [
            "127.0.0.1:9901",
            "localhost:9901",
            "LOCALHOST",
            "[::1]:9901",
            "10.0.0.1",
        ] {
            assert!(!foreign(host, None, false), "{host}");
            assert!(
                !foreign(host, Some(&format!("http://{host}")), false),
                "{host}"
            );
            assert!(foreign(host, Some("http://evil.example"), false), "{host}");
            assert!(foreign(host, Some("http://evil.example"), true), "{host}");
            assert!(foreign(host, Some("null"), true), "{host}");
            assert!(
                foreign(host, Some(&format!("http://{host}.evil.example")), true),
                "{host}"
            );
        }
        assert!(foreign(
            "127.0.0.1:9901",
            Some("http://127.0.0.1:8080"),
            true
        ));
        // DNS rebinding: the same origin, but a name that is not ours.
        assert!(foreign(
            "evil.example:9901",
            Some("http://evil.example:9901"),
            false
        ));
        assert!(foreign("evil.example", None, false));
        assert!(!foreign("gw.example", Some("https://gw.example"), true));
        assert!(is_foreign(&HeaderMap::new(), false));
    }
}
