//! A registrar, and looking at what is in the registry.

use std::time::Duration;

use livegate_discovery::registrar::{Registrar, RegistrarState, Registration};
use livegate_zk::client::{Client, ConnectOptions};
use livegate_zk::proto::stat::Stat;

use crate::connect::options;

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
        ..options(connect_string)
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
