//! What the classic gateway does wrong, each with a test that it is right here: the real binary, real sockets,
//! a real registry.
//!
//! | the classic gateway ...                              | here                                               | and in depth                                                |
//! |------------------------------------------------------|----------------------------------------------------|-------------------------------------------------------------|
//! | empties the balancer when listing fails              | [`a_listing_that_fails_empties_nothing`]           | `discovery`: `registry::outages`, `watch::model_tests`      |
//! | skips creation when the stale ephemeral is there     | [`a_stale_registration_is_replaced`]               | `discovery`: `registrar::keeping`                           |
//! | registers before it listens                          | [`nothing_is_registered_before_it_listens`]        | `register_command`                                          |
//! | never registers again after expiry                   | [`an_expired_registration_is_made_again`]          | `discovery`: `registrar::keeping`                           |
//! | rebuilds the balancer without a lock                 | [`the_balancer_is_rebuilt_under_load`]             | `discovery`: `balancing::concurrency`, `balancing::model`   |
//! | answers 200 with an empty body for a dead upstream   | [`a_dead_upstream_is_an_error`]                    | `conformance::own_answers`, `kill`                          |
//! | has weights in the gateway only                      | [`weights_come_from_the_registry_to_all_gateways`] | `discovery`: `registry::layouts`, `registry::changes`       |

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use livegate_zk::client::{Client, ConnectOptions};
use livegate_zk::proto::acl::{Acl, Permissions};
use livegate_zk::proto::create_mode::CreateMode;
use livegate_zk::proto::stat::Stat;
use rustix::process::Signal;

use crate::apache::ask;
use crate::conformance::check_own_answer;
use crate::discovery::{Registry, service, states, wait_until_served};
use crate::harness::command::{Running, livegate};
use crate::harness::gateway::Gateway;
use crate::harness::load::{Load, Method};
use crate::harness::origin::Origin;
use crate::harness::port::Port;
use crate::harness::turn;
use crate::harness::wait::{holds_within, wait_until};

/// Ticks of half a second give sessions of ten at most.
const SESSION_PATIENCE: Duration = Duration::from_secs(60);

/// A registry, and a session of the test's own.
struct Scene {
    registry: Registry,
    client: Client,
    runtime: tokio::runtime::Runtime,
}

impl Scene {
    fn start() -> Scene {
        let registry = Registry::start();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let options = ConnectOptions {
            operation_timeout: Duration::from_secs(60),
            ..ConnectOptions::new(&registry.server.address().to_string()).unwrap()
        };
        let client = runtime.block_on(Client::connect(options)).unwrap();
        Scene {
            registry,
            client,
            runtime,
        }
    }

    /// `livegate register orders`, for whoever listens there.
    fn registrar(&self, address: SocketAddr) -> Running {
        self.registrar_of(address, &[])
    }

    /// The same, with a command.
    fn registrar_of(&self, address: SocketAddr, command: &[&str]) -> Running {
        let (address, registry) = (
            address.to_string(),
            self.registry.server.address().to_string(),
        );
        let mut words = vec![
            "register",
            "orders",
            "--address",
            &address,
            "--registry",
            &registry,
        ];
        words.extend(command);
        Running::start(&mut livegate(&words))
    }

    fn stat(&self, address: SocketAddr) -> Option<Stat> {
        self.runtime
            .block_on(self.client.exists(&path(address)))
            .unwrap()
    }

    /// Waits until the instance is registered by a session other than this.
    fn wait_until_owned(&self, address: SocketAddr, before: i64) -> Stat {
        wait_until("the instance is registered", || {
            self.stat(address)
                .is_some_and(|stat| stat.ephemeral_owner != before)
        });
        self.stat(address).unwrap()
    }

    fn wait_until_session_is_over(&self, session: i64) {
        let is_over = holds_within(SESSION_PATIENCE, || {
            let dump = ask(self.registry.server.address(), "dump").unwrap();
            !dump.contains(&format!("{session:#x}"))
        });
        assert!(is_over, "session {session:#x} does not end");
    }

    fn write(&self, address: SocketAddr, content: &str) {
        let path = path(address);
        let written = self.client.set(&path, content.as_bytes(), None);
        self.runtime.block_on(written).unwrap();
    }
}

fn path(address: SocketAddr) -> String {
    format!("/services/orders/{address}")
}

fn is_served(gateway: &Gateway) {
    assert_eq!(gateway.get("/orders/").status, 200);
}

#[test]
fn a_listing_that_fails_empties_nothing() {
    let mut scene = Scene::start();
    let origins = [Origin::start(), Origin::start()];
    for origin in &origins {
        scene.registry.register("orders", origin.address());
    }
    let gateway = scene.registry.gateway("");
    wait_until_served(&gateway, "/orders/");
    // From now on nobody may list the children; that is tried on the next connection.
    let set_acl = |permissions| {
        let acl = [Acl::new(permissions, "world", "anyone")];
        let set = scene.client.set_acl("/services/orders", &acl, None);
        scene.runtime.block_on(set).unwrap();
    };
    set_acl(Permissions(Permissions::ALL.0 & !Permissions::READ.0));
    scene.registry.server.kill();
    scene.registry.server.run();
    wait_until("the listing fails", || {
        let skipped = service(&gateway, "orders")["skipped"].to_string();
        is_served(&gateway);
        skipped.contains("cannot be listed")
    });
    for _ in 0..20 {
        is_served(&gateway);
    }
    assert_eq!(states(&gateway, "orders").len(), 2);
    // What came meanwhile is found when it works again.
    let third = Origin::start();
    scene.registry.register("orders", third.address());
    set_acl(Permissions::ALL);
    wait_until("three instances", || {
        is_served(&gateway);
        states(&gateway, "orders").len() == 3
    });
}

#[test]
fn a_stale_registration_is_replaced() {
    let scene = Scene::start();
    let gateway = scene.registry.gateway("");
    let origin = Origin::start();
    let address = origin.address();
    let mut killed = scene.registrar(address);
    let stale = scene.wait_until_owned(address, 0);
    wait_until_served(&gateway, "/orders/");
    killed.end(Signal::KILL);
    assert_eq!(scene.stat(address), Some(stale), "it outlives its process");
    let _restarted = scene.registrar(address);
    let new = scene.wait_until_owned(address, stale.ephemeral_owner);
    assert!(new.czxid > stale.czxid);
    // The end of the old session takes nothing along.
    scene.wait_until_session_is_over(stale.ephemeral_owner);
    assert_eq!(scene.stat(address), Some(new));
    is_served(&gateway);
}

/// Says when it begins to listen, in milliseconds, which it does when it is told to.
const LATE: &str = "
import http.server, os, sys, time
os.write(1, b'waiting' + os.linesep.encode())
while not os.path.exists(sys.argv[2]):
    time.sleep(0.005)
os.write(1, ('listens %d' % (time.time() * 1000) + os.linesep).encode())
http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
";

#[test]
fn nothing_is_registered_before_it_listens() {
    let scene = Scene::start();
    let port = Port::claim();
    let directory = tempfile::tempdir().unwrap();
    let go = directory.path().join("go");
    let number = port.number().to_string();
    let command = ["--", "python3", "-c", LATE, &number, go.to_str().unwrap()];
    let registrar = scene.registrar_of(port.address(), &command);
    registrar.wait_for("the command runs", |out, _| out.contains("waiting"));
    assert_eq!(scene.stat(port.address()), None);
    std::fs::write(go, "").unwrap();
    let stat = scene.wait_until_owned(port.address(), 0);
    let out = registrar.stdout();
    let listens = out.lines().find_map(|line| line.strip_prefix("listens "));
    let listens: i64 = listens.unwrap().parse().unwrap();
    assert!(
        stat.ctime >= listens,
        "registered at {}, before it listened at {listens}",
        stat.ctime
    );
}

#[test]
fn an_expired_registration_is_made_again() {
    let scene = Scene::start();
    let gateway = scene.registry.gateway("");
    let origin = Origin::start();
    let address = origin.address();
    let registrar = scene.registrar(address);
    let first = scene.wait_until_owned(address, 0);
    wait_until_served(&gateway, "/orders/");
    // A pause that is longer than the session: the registry gives the instance up, which lives.
    registrar.signal(Signal::STOP);
    scene.wait_until_session_is_over(first.ephemeral_owner);
    wait_until("the registration is gone", || scene.stat(address).is_none());
    registrar.signal(Signal::CONT);
    let second = scene.wait_until_owned(address, first.ephemeral_owner);
    assert!(second.czxid > first.czxid);
    wait_until("the gateway uses it", || {
        states(&gateway, "orders") == [(address.to_string(), "fit".to_owned())]
    });
    is_served(&gateway);
}

/// Instances come, go and change their weights as fast as they can while every worker picks: nobody sees a list
/// that is half made.
#[test]
fn the_balancer_is_rebuilt_under_load() {
    const CHANGES: u32 = 200;
    let _turn = turn::shared();
    let scene = Scene::start();
    let origins = [
        Origin::start(),
        Origin::start(),
        Origin::start(),
        Origin::start(),
    ];
    for origin in &origins {
        scene.registry.register("orders", origin.address());
    }
    let route = "config_path = \"/livegate/config\"";
    let config = "[services.orders]\n[[routes]]\npath = \"/\"\nservice = \"orders\"\n";
    scene.runtime.block_on(async {
        let acl = Acl::OPEN;
        scene
            .client
            .ensure("/livegate", CreateMode::Persistent, acl)
            .await
            .unwrap();
        let config = config.as_bytes();
        let created = scene
            .client
            .create("/livegate/config", config, CreateMode::Persistent, acl);
        created.await.unwrap();
    });
    let gateway = scene.registry.gateway(route);
    wait_until_served(&gateway, "/");
    let load = Load::start(gateway.address(), 16, "get", Method::Get);
    // The first one stays.
    for number in 0..CHANGES {
        let path = path(origins[1 + number as usize % 3].address());
        let weight = format!("{{\"Weight\":{}}}", number % 90 + 1);
        scene.runtime.block_on(async {
            let client = &scene.client;
            let exists = client.exists(&path).await.unwrap().is_some();
            match (exists, number % 2) {
                (true, 0) => client.delete(&path, None).await.unwrap(),
                (true, _) => drop(client.set(&path, weight.as_bytes(), None).await.unwrap()),
                (false, _) => {
                    let mode = CreateMode::Persistent;
                    let created = client.create(&path, weight.as_bytes(), mode, Acl::OPEN);
                    drop(created.await.unwrap());
                }
            }
        });
        load.run_for(4);
    }
    let report = load.finish();
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    // In the end it is what the registry has.
    let children = scene
        .runtime
        .block_on(scene.client.children("/services/orders"));
    let children: std::collections::BTreeSet<_> = children.unwrap().into_iter().collect();
    wait_until("the list is the registry's", || {
        let addresses = states(&gateway, "orders")
            .into_iter()
            .map(|(address, _)| address);
        addresses.collect::<std::collections::BTreeSet<_>>() == children
    });
}

#[test]
fn a_dead_upstream_is_an_error() {
    let scene = Scene::start();
    let gateway = scene.registry.gateway("");
    // One that was never there, and one that was.
    let dead = Port::claim();
    scene.registry.register("orders", dead.address());
    let killed = Origin::start();
    scene.registry.register("carts", killed.address());
    wait_until_served(&gateway, "/carts/");
    drop(killed);
    for target in ["/orders/", "/carts/"] {
        wait_until("there is a route", || gateway.get(target).status != 404);
        for _ in 0..3 {
            let response = gateway.get(target);
            assert!([502, 503].contains(&response.status), "{}", response.status);
            assert!(!response.body.is_empty());
            check_own_answer(&response);
        }
    }
}

#[test]
fn weights_come_from_the_registry_to_all_gateways() {
    let scene = Scene::start();
    let origins = [Origin::start(), Origin::start()];
    for origin in &origins {
        scene.registry.register("orders", origin.address());
    }
    let gateways = [scene.registry.gateway(""), scene.registry.gateway("")];
    for weights in [[1, 3], [50, 50], [9, 2]] {
        let mut expected = BTreeMap::new();
        for (origin, weight) in origins.iter().zip(weights) {
            scene.write(origin.address(), &format!("{{\"Weight\":{weight}}}"));
            expected.insert(origin.address().to_string(), weight);
        }
        for gateway in &gateways {
            wait_until("the gateway has the weights", || {
                let service = service(gateway, "orders");
                let instances = service["instances"].as_array().cloned().unwrap_or_default();
                let weights = instances.iter().filter_map(|instance| {
                    let address = instance["address"].as_str()?.to_owned();
                    Some((address, instance["weight"].as_u64()?))
                });
                weights.collect::<BTreeMap<_, _>>() == expected
            });
        }
    }
    // And they are what requests follow: 9 and 2 of 11, within what chance does to 440.
    for gateway in &gateways {
        let before = origins.each_ref().map(|origin| origin.requests("/").len());
        let mut client = gateway.connect();
        for _ in 0..440 {
            assert_eq!(client.get("/orders/").status, 200);
        }
        let share = origins[1].requests("/").len() - before[1];
        assert!((35..=130).contains(&share), "{share} of 440 with 2 of 11");
    }
}
