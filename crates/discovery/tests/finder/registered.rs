//! Services of a registry, which comes and goes itself.

use std::net::SocketAddr;
use std::time::Duration;

use livegate_discovery::drain::GATEWAYS;
use livegate_discovery::finder::Finder;
use livegate_discovery::registrar::{Registrar, Registration};
use livegate_discovery::{EndpointState, NoEndpoint, SavedSnapshots, Status, Weights};
use livegate_zk::client::{Client, ConnectOptions};

use crate::calls::{Load, PATIENCE, call, event, state, until, until_state};
use crate::embedded::Embedded;
use crate::instance::Instance;

/// Sessions of the tests last 30 s, so that none ends on a machine with too much to do.
const TICK: Duration = Duration::from_millis(1500);

fn connect(registry: SocketAddr) -> Client {
    let options = ConnectOptions {
        session_timeout: 20 * TICK,
        operation_timeout: PATIENCE,
        backoff: (Duration::from_millis(10), Duration::from_millis(200)),
        ..ConnectOptions::new(&registry.to_string()).unwrap()
    };
    Client::start(options)
}

/// A process: an instance that registers itself.
struct Process {
    instance: Instance,
    registration: Registration,
    /// Its session.
    client: Client,
}

impl Process {
    async fn start(registry: &Embedded) -> Self {
        Self::of(Instance::start().await, registry).await
    }

    async fn of(instance: Instance, registry: &Embedded) -> Self {
        let client = connect(registry.address());
        let address = instance.address.try_into().unwrap();
        let registrar = Registrar::new(client.clone(), "orders", address);
        let registration = registrar.start().unwrap();
        assert!(registration.registered().await);
        Self {
            instance,
            registration,
            client,
        }
    }

    /// Kills it as the registry sees it first: not at all, until the session is over.
    async fn kill(self) -> (SocketAddr, Registration, Client) {
        (self.instance.kill().await, self.registration, self.client)
    }
}

#[tokio::test]
async fn killed_drained_and_registered_again_without_a_failed_call() {
    let registry = Embedded::start(TICK);
    let a = Process::start(&registry).await;
    let b = Process::start(&registry).await;
    let (first, second) = (a.instance.address, b.instance.address);
    let client = connect(registry.address());
    let service = Finder::new(client, "orders").start().unwrap();
    let load = Load::start(&service, 4);
    load.until_answered(first).await;
    load.until_answered(second).await;

    // Killed: its node lingers, its port refuses.
    let (_, ghost, _session) = a.kill().await;
    event(&service, first, "quarantined").await;
    load.until_answered(second).await;
    // Another process at its address, which takes the node over.
    let a = Process::of(Instance::at(first).await, &registry).await;
    load.until_answered(first).await;
    drop(ghost);

    // Drained: nothing new is sent to it while it is still there.
    b.registration.drain(PATIENCE).await;
    until("it has left", || state(&service, second).is_none()).await;
    let answers = load.answers_of(second);
    load.until_answered(first).await;
    assert_eq!(load.answers_of(second), answers);
    drop(b.instance);
    let c = Process::start(&registry).await;
    load.until_answered(c.instance.address).await;
    load.until_answered(a.instance.address).await;
    load.assert_no_failure();
}

#[tokio::test]
async fn an_outage_of_the_registry_is_not_one_of_the_service() {
    let mut registry = Embedded::start(TICK);
    let a = Process::start(&registry).await;
    let b = Process::start(&registry).await;
    let (first, second) = (a.instance.address, b.instance.address);
    let client = connect(registry.address());
    let service = Finder::new(client, "orders").start().unwrap();
    let load = Load::start(&service, 4);
    load.until_answered(first).await;
    load.until_answered(second).await;

    registry.kill();
    let is_stale = || matches!(service.view().status(), Status::Stale { .. });
    until("the list is stale", is_stale).await;
    // What happens meanwhile, probes find out.
    let (_, registration, session) = a.kill().await;
    event(&service, first, "quarantined").await;
    let back = Instance::at(first).await;
    load.until_answered(first).await;
    load.until_answered(second).await;

    // It comes back empty, and nobody has registered again: who accepts connections is held.
    drop((registration, session));
    drop((b.registration, b.client));
    registry.wipe();
    registry.run();
    event(&service, second, "held").await;
    until_state(&service, first, EndpointState::Held).await;
    load.until_answered(first).await;
    load.until_answered(second).await;
    let _a = Process::of(back, &registry).await;
    let _b = Process::of(b.instance, &registry).await;
    event(&service, second, "rejoined").await;
    until_state(&service, second, EndpointState::Fit).await;
    load.until_answered(second).await;
    load.assert_no_failure();
}

#[tokio::test]
async fn who_starts_without_the_registry_knows_what_the_last_one_knew() {
    let mut registry = Embedded::start(TICK);
    let directory = tempfile::tempdir().unwrap();
    let saved = SavedSnapshots::new(directory.path());
    let a = Process::start(&registry).await;
    let find = || {
        let client = connect(registry.address());
        let finder = Finder::new(client, "orders").saved(&saved);
        finder.start().unwrap()
    };
    let service = find();
    service.ready(PATIENCE).await.unwrap();
    let on_disk = || saved.load("/services/orders").is_some();
    until("the list is on disk", on_disk).await;
    service.close().await;
    let second = find();
    assert!(second.pick(None, &[]).is_ok(), "before anything is read");
    drop(second);

    let address = registry.address();
    registry.kill();
    let client = connect(address);
    let service = Finder::new(client, "orders").saved(&saved).start().unwrap();
    assert!(matches!(service.view().status(), Status::Stale { .. }));
    assert_eq!(call(&service).await, Ok(a.instance.address));
}

#[tokio::test]
async fn what_is_not_there_is_waited_for() {
    let registry = Embedded::start(TICK);
    let client = connect(registry.address());
    let service = Finder::new(client.clone(), "orders").start().unwrap();
    until("there is no such service", || {
        service.balancer().obstacle() == Some(NoEndpoint::Absent)
    })
    .await;
    let soon = Duration::from_millis(10);
    assert_eq!(service.ready(soon).await, Err(NoEndpoint::Absent));
    let (a, answer) = tokio::join!(Process::start(&registry), call(&service));
    assert_eq!(answer, Ok(a.instance.address));
    // Weights of those that register without one.
    assert_eq!(service.view().members()[0].instance.weight, 50);
    service.set_weights(&Weights {
        default: 7,
        ..Weights::default()
    });
    let is_seven = || service.view().members()[0].instance.weight == 7;
    until("its weight is another one", is_seven).await;
    let elsewhere = Finder::new(client.clone(), "orders").root("/elsewhere/");
    let elsewhere = elsewhere.start().unwrap();
    until("there is none elsewhere", || {
        elsewhere.balancer().obstacle() == Some(NoEndpoint::Absent)
    })
    .await;
    assert!(Finder::new(client, "a//b").start().is_err());
}

#[tokio::test]
async fn an_instance_that_drains_waits_for_the_calls_of_a_client_that_acknowledges() {
    let registry = Embedded::start(TICK);
    let a = Process::start(&registry).await;
    let b = Process::start(&registry).await;
    let client = connect(registry.address());
    let finder = Finder::new(client.clone(), "orders").acknowledge_drains();
    let service = finder.start().unwrap();
    announced(&client, 1).await;
    until("both are known", || service.view().members().len() == 2).await;

    // A call to it is in flight.
    let (leaving, other) = (a.instance.address, b.instance.address);
    let pick = loop {
        let pick = service.pick(None, &[]).unwrap();
        if pick.endpoint().address() == leaving {
            break pick;
        }
    };
    let mut draining = tokio::task::JoinSet::new();
    draining.spawn(async move { a.registration.drain(PATIENCE).await });
    until_state(&service, leaving, EndpointState::Draining).await;
    for _ in 0..10 {
        let pick = service.pick(None, &[]).unwrap();
        assert_eq!(pick.endpoint().address(), other);
    }
    // Longer than it would wait if nobody were announced.
    let early = tokio::time::timeout(Duration::from_millis(1200), draining.join_next()).await;
    assert!(early.is_err(), "{early:?}");
    drop(pick);
    let departure = draining.join_next().await.unwrap().unwrap();
    assert_eq!(departure.acknowledged.len(), 1, "{departure:?}");
    assert!(
        departure.removed && departure.silent.is_empty(),
        "{departure:?}"
    );

    // A client that is closed is not waited for, nor one that is dropped.
    let second = Finder::new(client.clone(), "orders").acknowledge_drains();
    let second = second.start().unwrap();
    announced(&client, 2).await;
    drop(second);
    announced(&client, 1).await;
    service.close().await;
    assert_eq!(client.children(GATEWAYS).await.unwrap().len(), 0);
}

/// Waits until so many clients and gateways are waited for.
async fn announced(client: &Client, count: usize) {
    let wait = async {
        loop {
            match client.children(GATEWAYS).await {
                Ok(names) if names.len() == count => return,
                Err(error) if !error.is_no_node() => panic!("{error}"),
                Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
    };
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    waited.unwrap_or_else(|_| panic!("{count} announcements"));
}
