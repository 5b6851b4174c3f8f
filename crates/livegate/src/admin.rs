//! The admin side: health, metrics and what the gateway knows, on a listener of its own.
//!
//! It reads what the other parts publish, gives the clusters the operator's word, and never touches
//! a worker's path.
//!
//! Everything under `/api/v1` is JSON, and so is every error: `{"error": REASON, "detail": "..."}`,
//! with `bad_request` 400, `unauthorized` 401, `foreign_origin` 403, `not_found`, `unknown_service`
//! and `unknown_instance` 404, `method_not_allowed` 405, `request_timeout` 408, `not_held` 409,
//! `body_too_large` 413, `bad_configuration` 422, `shutting_down`, `busy` and `too_many_streams` 503.

use std::io;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path as UrlPath, Query, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Value, json};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::control::Published;
use crate::events::Events;
use crate::metrics::WorkerMetrics;
use crate::worker;
use refusal::Refusal;

mod explain;
mod json;
mod lookup;
mod operate;
mod prometheus;
mod ready;
mod refusal;
mod stream;
#[cfg(test)]
mod tests;

/// What the admin side reads.
pub struct Admin {
    /// Gateway and configuration in effect.
    pub published: Published,
    /// Counters of the workers.
    pub shared: Arc<worker::Shared>,
    /// The flight recorder.
    pub events: Events,
    /// What every request but `/healthz` must carry.
    pub token: Option<Token>,
    /// Cancelled when the gateway is shutting down.
    pub stopping: CancellationToken,
    registry: Arc<dyn Fn() -> RegistryFacts + Send + Sync>,
    /// Whether `/readyz` has said yes.
    was_ready: AtomicBool,
    /// One for each stream of events that may be open.
    streams: Arc<Semaphore>,
    busy: Mutex<Busy>,
}

/// What there is to know about contact with the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RegistryFacts {
    /// Whether there is contact now; `None` without a registry.
    pub connected: Option<bool>,
    /// Reads of data ever asked of it.
    pub reads: u64,
}

/// Streams of events open at the same time; each holds a socket, and events when its reader is slow.
const STREAMS_MAX: usize = 64;

impl Admin {
    /// For a gateway that runs.
    pub fn new(
        published: Published,
        shared: Arc<worker::Shared>,
        events: Events,
        token: Option<Token>,
        stopping: CancellationToken,
    ) -> Self {
        Self {
            published,
            shared,
            events,
            token,
            stopping,
            registry: Arc::new(RegistryFacts::default),
            was_ready: AtomicBool::new(false),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            busy: Mutex::new(Busy::new()),
        }
    }

    /// Asks `facts` about the registry whenever somebody asks for the metrics.
    #[must_use]
    pub fn with_registry(
        mut self,
        facts: impl Fn() -> RegistryFacts + Send + Sync + 'static,
    ) -> Self {
        self.registry = Arc::new(facts);
        self
    }
}

/// A bearer token (RFC 6750).
#[derive(Clone)]
pub struct Token(Vec<u8>);

/// Why there is no token.
#[derive(Debug, Error)]
pub enum TokenError {
    /// The file cannot be read.
    #[error("cannot read admin.token_file {path}")]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The file has nothing in its first line.
    #[error("the first line of admin.token_file {path} is empty: write a token there")]
    Empty {
        /// The file.
        path: String,
    },
}

impl Token {
    /// The first line of a file, without spaces around it.
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let shown = || path.display().to_string();
        let text = std::fs::read(path).map_err(|source| TokenError::Unreadable {
            path: shown(),
            source,
        })?;
        let line = text
            .split(|&byte| byte == b'\n')
            .next()
            .unwrap_or_default()
            .trim_ascii();
        if line.is_empty() {
            return Err(TokenError::Empty { path: shown() });
        }
        Ok(Self(line.to_vec()))
    }

    /// The value of `Authorization` that carries this token.
    pub(crate) fn authorization(&self) -> Vec<u8> {
        [b"Bearer ", &self.0[..]].concat()
    }

    /// Whether `Authorization` carries this token; takes as long for any token of this length.
    fn is_in(&self, headers: &HeaderMap) -> bool {
        let value = headers
            .get(header::AUTHORIZATION)
            .map_or(&[][..], |value| value.as_bytes());
        let Some((scheme, given)) = value.split_at_checked("Bearer ".len()) else {
            return false;
        };
        let differing = self
            .0
            .iter()
            .zip(given)
            .fold(0, |differing, (a, b)| differing | (a ^ b));
        scheme.eq_ignore_ascii_case(b"Bearer ") && given.len() == self.0.len() && differing == 0
    }
}

/// Serves until the gateway has stopped.
pub async fn serve(
    listener: TcpListener,
    admin: Arc<Admin>,
    stopped: CancellationToken,
) -> io::Result<()> {
    axum::serve(listener, router(admin))
        .with_graceful_shutdown(stopped.cancelled_owned())
        .await
}

fn router(admin: Arc<Admin>) -> Router {
    let operations = Router::new()
        .route(
            "/api/v1/services/{name}/instances/{id}/drain",
            post(operate::drain),
        )
        .route(
            "/api/v1/services/{name}/instances/{id}/undrain",
            post(operate::undrain),
        )
        .route(
            "/api/v1/services/{name}/instances/{id}/drop",
            post(operate::drop_one),
        )
        .route("/api/v1/services/{name}/drop", post(operate::drop_all))
        .route("/api/v1/config/check", post(operate::check))
        .route_layer(from_fn_with_state(Arc::clone(&admin), operate::same_origin));
    Router::new()
        .route("/readyz", get(ready::readyz))
        .route("/metrics", get(metrics))
        .route("/api/v1/services", get(services))
        .route("/api/v1/services/{name}", get(service))
        .route("/api/v1/explain/{name}", get(explain::explain))
        .route("/api/v1/routes", get(routes))
        .route("/api/v1/events", get(events))
        .route("/api/v1/events/stream", get(stream::stream))
        .route("/api/v1/config", get(config))
        .merge(operations)
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(Arc::clone(&admin), authorize))
        .route("/healthz", get(async || "ok\n"))
        .with_state(admin)
}

async fn authorize(State(admin): State<Arc<Admin>>, request: Request, next: Next) -> Response {
    if admin
        .token
        .as_ref()
        .is_some_and(|token| !token.is_in(request.headers()))
    {
        let mut response = Refusal::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "send the token of admin.token_file as \"Authorization: Bearer TOKEN\"",
        )
        .into_response();
        let challenge = header::HeaderValue::from_static("Bearer");
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, challenge);
        return response;
    }
    next.run(request).await
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    let workers = &admin.shared.workers;
    let busy = workers.iter().map(WorkerMetrics::busy).sum();
    let mut clock = admin.busy.lock().expect("nothing under this lock panics");
    let ratio = clock.ratio(Instant::now(), busy, workers.len());
    drop(clock);
    let registry = (admin.registry)();
    let gateway = admin.published.gateway.load();
    let page = prometheus::render(&admin.shared, &gateway, registry, ratio);
    (
        [(
            header::CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8",
        )],
        page,
    )
        .into_response()
}

/// How busy the workers were between two looks.
struct Busy {
    looked: Instant,
    busy: Duration,
    ratio: f64,
}

impl Busy {
    /// A shorter time says little, and several readers would shorten it for each other.
    const PERIOD_MIN: Duration = Duration::from_secs(1);

    fn new() -> Self {
        Self {
            looked: Instant::now(),
            busy: Duration::ZERO,
            ratio: 0.0,
        }
    }

    fn ratio(&mut self, now: Instant, busy: Duration, workers: usize) -> f64 {
        let period = now.saturating_duration_since(self.looked);
        if period >= Self::PERIOD_MIN {
            let share = busy.saturating_sub(self.busy).as_secs_f64() / period.as_secs_f64();
            let workers = u32::try_from(workers).unwrap_or(u32::MAX).max(1);
            self.ratio = (share / f64::from(workers)).clamp(0.0, 1.0);
            (self.looked, self.busy) = (now, busy);
        }
        self.ratio
    }
}

async fn services(State(admin): State<Arc<Admin>>) -> Json<Value> {
    let gateway = admin.published.gateway.load();
    let services: Vec<Value> = gateway
        .clusters
        .iter()
        .map(|cluster| json::service(cluster))
        .collect();
    Json(json!({ "services": services }))
}

async fn service(
    State(admin): State<Arc<Admin>>,
    name: Result<UrlPath<String>, PathRejection>,
) -> Result<Json<Value>, Refusal> {
    let gateway = admin.published.gateway.load();
    let cluster = lookup::cluster(&gateway, &name?.0)?;
    Ok(Json(json::service(cluster)))
}

async fn routes(State(admin): State<Arc<Admin>>) -> Json<Value> {
    let gateway = admin.published.gateway.load();
    let routes: Vec<Value> = gateway.routes.routes().iter().map(json::route).collect();
    Json(json!({ "revision": gateway.revision, "routes": routes }))
}

/// Which events are asked for.
#[derive(Deserialize)]
struct EventQuery {
    service: Option<String>,
    /// Only events with a greater number.
    since: Option<u64>,
}

impl EventQuery {
    /// A service that is neither configured nor in the record is a mistake.
    fn check(&self, admin: &Admin) -> Result<(), Refusal> {
        let Some(name) = &self.service else {
            return Ok(());
        };
        match lookup::cluster(&admin.published.gateway.load(), name) {
            Err(refusal) if admin.events.since(0, Some(name)).is_empty() => Err(refusal),
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

/// `{"last": NUMBER, "last_id": ID, "events": [...]}`, the oldest first; the id is for
/// `Last-Event-ID` of the stream.
async fn events(
    State(admin): State<Arc<Admin>>,
    query: Result<Query<EventQuery>, QueryRejection>,
) -> Result<Json<Value>, Refusal> {
    let query = query?.0;
    query.check(&admin)?;
    let since = query.since.unwrap_or(0);
    let replay = admin.events.replay(since, query.service.as_deref());
    let last = replay.last_number;
    // A number that was not given yet has nothing after it.
    let events = replay.events.iter().filter(|event| event.number > since);
    let events: Vec<Value> = events.map(json::event).collect();
    Ok(Json(
        json!({ "last": last, "last_id": json::event_id(&admin.events, last), "events": events }),
    ))
}

async fn config(State(admin): State<Arc<Admin>>) -> Json<Value> {
    Json(admin.published.config.load().to_json())
}

async fn not_found() -> Refusal {
    Refusal::new(
        StatusCode::NOT_FOUND,
        "not_found",
        "see /api/v1/services, /api/v1/routes, /api/v1/events, /api/v1/explain/NAME, /api/v1/config, /metrics, /healthz, /readyz",
    )
}

async fn method_not_allowed(method: Method) -> Refusal {
    Refusal::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        format!("{method} does not work here, see the Allow field"),
    )
}
