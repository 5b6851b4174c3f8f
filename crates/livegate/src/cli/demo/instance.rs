//! One instance of a sample service: registers itself, says who it is, drains on SIGTERM.

use std::net::SocketAddr;
use std::process::id;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::extract::State;
use axum::http::Uri;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use clap::Args;
use livegate_discovery::registrar::Registrar;
use livegate_zk::client::{Client, ConnectOptions};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::cli::logging::start_logging;
use crate::cli::register::bound::bind_to;
use crate::cli::signals::Ends;

/// How long gateways may take to let go of it.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// How long running requests may take after that.
const FINISH_TIMEOUT: Duration = Duration::from_secs(2);

/// How long `/slow` takes, so that draining can be watched.
const SLOW: Duration = Duration::from_secs(5);

/// `livegate sample-instance ...`.
#[derive(Debug, Args)]
pub(in crate::cli) struct InstanceArguments {
    /// The service that it is an instance of.
    service: String,
    /// Where it serves.
    #[arg(long, value_name = "HOST:PORT")]
    listen: SocketAddr,
    /// The registry.
    #[arg(long, value_name = "HOSTS", default_value = "127.0.0.1:2181")]
    registry: String,
    /// The process to die with.
    #[arg(long, value_name = "PID")]
    parent: i32,
}

/// Who answers.
#[derive(Debug)]
struct Identity {
    service: String,
    instance: SocketAddr,
}

/// Serves until a signal ends it.
pub(in crate::cli) fn be_instance(arguments: &InstanceArguments) -> anyhow::Result<()> {
    // The gateway and the demo say what there is to say.
    start_logging("error")?;
    if !bind_to(arguments.parent).context("cannot bind the instance to livegate demo")? {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(arguments))
}

async fn serve(arguments: &InstanceArguments) -> anyhow::Result<()> {
    let mut ends = Ends::new()?;
    let listener = TcpListener::bind(arguments.listen).await?;
    let identity = Identity {
        service: arguments.service.clone(),
        instance: listener.local_addr()?,
    };
    let address = identity.instance.try_into()?;
    let client = Client::start(ConnectOptions::new(&arguments.registry)?);
    let registration = Registrar::new(client.clone(), &arguments.service, address).start()?;

    let stopping = CancellationToken::new();
    let mut server = JoinSet::new();
    let stopped = stopping.clone().cancelled_owned();
    let router = router(identity);
    server.spawn(async move {
        axum::serve(listener, router)
            .with_graceful_shutdown(stopped)
            .await
    });
    ends.next().await;
    tokio::select! {
        _ = registration.drain(DRAIN_TIMEOUT) => {}
        _ = ends.next() => {}
    }
    stopping.cancel();
    // Clients that keep their connection are not waited for.
    drop(timeout(FINISH_TIMEOUT, server.join_next()).await);
    client.with_operation_timeout(FINISH_TIMEOUT).close().await;
    Ok(())
}

fn router(identity: Identity) -> Router {
    Router::new()
        .route("/slow", get(slow))
        .fallback(answer)
        .with_state(Arc::new(identity))
}

async fn slow(uri: Uri, identity: State<Arc<Identity>>) -> impl IntoResponse {
    sleep(SLOW).await;
    answer(uri, identity).await
}

async fn answer(uri: Uri, State(identity): State<Arc<Identity>>) -> impl IntoResponse {
    let body = json!({
        "service": identity.service,
        "instance": identity.instance,
        "pid": id(),
        "path": uri.path(),
    });
    ([(CONTENT_TYPE, "application/json")], format!("{body}\n"))
}
