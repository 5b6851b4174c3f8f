//! A server that registers itself in three lines and drains on SIGTERM:
//!
//! ```text
//! cargo run -p livegate-discovery --example server -- hello 127.0.0.1:9001 [ZOOKEEPER]
//! ```
//!
//! `livegate run` has a ZooKeeper; any other will do.

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use livegate_discovery::registrar::Registrar;
use livegate_zk::client::{Client, ConnectOptions};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (service, address, registry) = match &words[..] {
        [service, address] => (service, address, "127.0.0.1:2181"),
        [service, address, registry] => (service, address, &registry[..]),
        _ => return Err("usage: server SERVICE HOST:PORT [ZOOKEEPER]".into()),
    };
    let address: SocketAddr = address.parse()?;
    let mut terminate = signal(SignalKind::terminate())?;

    // It listens first: being registered is the promise to serve.
    let listener = TcpListener::bind(address).await?;

    let client = Client::start(ConnectOptions::new(registry)?);
    let registrar = Registrar::new(client.clone(), service, address.try_into()?);
    let registration = registrar.weight(20).start()?;

    let text = format!("{service} at {address}\n");
    let router = Router::new().fallback(async || text);
    let drained = async move {
        terminate.recv().await;
        // Gateways send nothing new, finish what runs and say so. Those who only watch the service see
        // that it drains, too.
        let departure = registration.drain(Duration::from_secs(30)).await;
        println!("drained: {departure:?}");
    };
    axum::serve(listener, router)
        .with_graceful_shutdown(drained)
        .await?;
    client.close().await;
    Ok(())
}
