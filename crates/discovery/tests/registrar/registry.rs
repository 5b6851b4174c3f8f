//! The registry that the tests run against, and looking at what is in it.

use std::net::SocketAddr;
use std::time::Duration;

use livegate_discovery::registrar::{Registrar, RegistrarState, Registration};
use livegate_zk::client::{Client, ConnectOptions};
use livegate_zk::proto::stat::Stat;

use crate::apache::{self, Apache};
use crate::embedded::Embedded;

/// Which server it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Apache,
    Embedded,
}

/// What the tests run against.
pub(crate) enum Registry {
    Apache(Apache),
    Embedded(Embedded),
}

/// Tests that take the kind of the server, for both kinds.
macro_rules! on_both {
    ($($test:ident)*) => {
        mod apache {
            $(#[tokio::test] async fn $test() { super::$test(crate::registry::Kind::Apache).await; })*
        }
        mod embedded {
            $(#[tokio::test] async fn $test() { super::$test(crate::registry::Kind::Embedded).await; })*
        }
    };
}
pub(crate) use on_both;

impl Registry {
    /// Starts a server with ticks of this length; sessions time out after 2 to 20 of them. `None`, with a
    /// line that says so, where there is no such server.
    pub(crate) async fn start(kind: Kind, tick: Duration) -> Option<Self> {
        match kind {
            Kind::Apache => Apache::start(tick).await.map(Self::Apache),
            Kind::Embedded => Some(Self::Embedded(Embedded::start(tick))),
        }
    }

    /// Starts it again, which must not run, and waits until it serves.
    pub(crate) async fn run(&mut self) {
        match self {
            Self::Apache(server) => server.run().await,
            Self::Embedded(server) => server.run(),
        }
    }

    /// Ends it at once.
    pub(crate) fn kill(&mut self) {
        match self {
            Self::Apache(server) => server.kill(),
            Self::Embedded(server) => server.kill(),
        }
    }

    /// Deletes everything the server, which must not run, has stored.
    pub(crate) fn wipe(&self) {
        match self {
            Self::Apache(server) => server.wipe(),
            Self::Embedded(server) => server.wipe(),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        match self {
            Self::Apache(server) => server.address(),
            Self::Embedded(server) => server.address(),
        }
    }

    /// Options to connect to it, with the shortest waits.
    pub(crate) fn options(&self) -> ConnectOptions {
        apache::options(&self.address().to_string())
    }

    /// A client of it.
    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.options()).await.unwrap()
    }
}

pub(crate) const PATH: &str = "/services/orders/10.0.0.3:8080";

/// Sessions of the tests whose end is waited for: ticks of 250 ms make it 500 ms at least.
pub(crate) const TICK: Duration = Duration::from_millis(250);

/// How long anything may take that must happen; enough for a machine with too much to do.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("it should have happened by now")
}

/// Waits until a condition that is looked up in the registry holds.
pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let done = tokio::time::timeout(PATIENCE, waiting).await;
    assert!(done.is_ok(), "waited {PATIENCE:?} for: {what}");
}

/// A client whose session ends soon after it is cut off.
pub(crate) async fn short_lived(connect_string: &str) -> Client {
    let options = ConnectOptions {
        session_timeout: Duration::from_millis(1500),
        ..apache::options(connect_string)
    };
    Client::connect(options).await.unwrap()
}

pub(crate) fn registrar(client: &Client) -> Registrar {
    let address = "10.0.0.3:8080".parse().unwrap();
    Registrar::new(client.clone(), "orders", address).weight(20)
}

/// Registered by this client, for certain.
pub(crate) async fn registered(client: &Client) -> Registration {
    let registration = registrar(client).start().unwrap();
    assert!(within(registration.registered()).await);
    registration
}

pub(crate) async fn stat(client: &Client) -> Option<Stat> {
    client.exists(PATH).await.unwrap()
}

pub(crate) async fn content(client: &Client) -> String {
    String::from_utf8(client.get(PATH).await.unwrap().0).unwrap()
}

pub(crate) async fn until_state(
    registration: &Registration,
    what: impl FnMut(&RegistrarState) -> bool,
) -> RegistrarState {
    let mut states = registration.states();
    within(states.wait_for(what)).await.unwrap().clone()
}
