//! What all tests do with a registry.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use livegate_discovery::{Discovery, DiscoveryOptions, InstanceId, Snapshot};
use livegate_zk::client::{Client, Op};
use livegate_zk::proto::acl::Acl;
use livegate_zk::proto::create_mode::CreateMode;
use tokio::sync::watch;

use crate::connect::options;
use crate::server::{Kind, Server};

/// An empty registry, whose sessions time out after 3 to 30 s.
pub(crate) async fn start(kind: Kind) -> Option<Server> {
    Server::start(kind, Duration::from_millis(1500)).await
}

/// A client of whoever listens there.
pub(crate) async fn connect(address: SocketAddr) -> Client {
    let options = options(&address.to_string());
    Client::connect(options).await.unwrap()
}

pub(crate) fn discovery(client: &Client) -> Discovery {
    Discovery::new(client.clone(), DiscoveryOptions::default())
}

/// Waits for a value, with a deadline that only a hang reaches.
pub(crate) async fn until<T>(
    values: &mut watch::Receiver<Arc<T>>,
    wanted: impl FnMut(&Arc<T>) -> bool,
) -> Arc<T>
where
    T: std::fmt::Debug,
{
    let mut values_seen = values.clone();
    match tokio::time::timeout(Duration::from_secs(60), values.wait_for(wanted)).await {
        Ok(value) => Arc::clone(&value.unwrap()),
        Err(_) => panic!("still {:#?}", values_seen.borrow_and_update()),
    }
}

pub(crate) fn ids(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.instances.keys().map(InstanceId::as_str).collect()
}

pub(crate) async fn create(client: &Client, path: &str, data: &str) {
    let mode = CreateMode::Persistent;
    client
        .create(path, data.as_bytes(), mode, Acl::OPEN)
        .await
        .unwrap();
}

pub(crate) async fn ensure(client: &Client, path: &str) {
    let mode = CreateMode::Persistent;
    client.ensure(path, mode, Acl::OPEN).await.unwrap();
}

/// Creates many nodes, some hundreds in each transaction.
pub(crate) async fn create_all(client: &Client, paths: &[String], data: &[u8]) {
    for chunk in paths.chunks(250) {
        let op = |path| Op::Create {
            path,
            data,
            mode: CreateMode::Persistent,
            acl: Acl::OPEN,
        };
        let ops: Vec<_> = chunk.iter().map(|path| op(path)).collect();
        client.multi(&ops).await.unwrap();
    }
}
