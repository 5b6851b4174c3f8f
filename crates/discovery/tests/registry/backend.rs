//! What tests need of a registry, and what they do with any.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use livegate_discovery::{Discovery, DiscoveryOptions, InstanceId, Snapshot};
use livegate_zk::client::{Client, ConnectOptions, Op};
use livegate_zk::proto::acl::Acl;
use livegate_zk::proto::create_mode::CreateMode;
use tokio::sync::watch;

/// A registry under a test's control. Tests are written against this, so that each is run on Apache
/// ZooKeeper and on the embedded one.
pub(crate) trait Backend {
    /// Where it listens, also after a restart.
    fn address(&self) -> SocketAddr;

    /// Ends it at once, as `kill -9` does.
    fn kill(&mut self);

    /// Starts it again, and waits until it serves.
    async fn run(&mut self);

    /// Deletes everything that it, which must not run, has stored.
    fn wipe(&self);

    /// A client of it.
    async fn client(&self) -> Client {
        connect(self.address()).await
    }
}

/// Tests that take an empty [`Backend`], for every server there is.
macro_rules! on_both {
    ($($test:ident)*) => {
        mod apache {
            $(#[tokio::test] async fn $test() {
                if let Some(server) = crate::apache::Apache::start().await {
                    super::$test(server).await;
                }
            })*
        }
        mod embedded {
            $(#[tokio::test] async fn $test() {
                super::$test(crate::embedded::Embedded::start()).await;
            })*
        }
    };
}
pub(crate) use on_both;

pub(crate) async fn connect(address: SocketAddr) -> Client {
    Client::connect(options(address)).await.unwrap()
}

/// Options for a test, with times that also do for a machine with too much to do.
pub(crate) fn options(address: SocketAddr) -> ConnectOptions {
    ConnectOptions {
        session_timeout: Duration::from_secs(30),
        operation_timeout: Duration::from_secs(60),
        connect_timeout: Some(Duration::from_secs(2)),
        backoff: (Duration::from_millis(10), Duration::from_millis(200)),
        ..ConnectOptions::new(&address.to_string()).unwrap()
    }
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
