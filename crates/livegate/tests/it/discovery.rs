//! Services found in the registry, as a user sees them: routes appear, weights follow, an outage removes
//! nothing, and part of the configuration can be there too.

use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::command::{Running, livegate, run};
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::origin::Origin;
use crate::harness::wait::{PATIENCE, wait_until};
use crate::harness::zookeeper::{Kind, ZooKeeper};

/// Sessions time out after one second at least.
const TICK: Duration = Duration::from_millis(500);

/// A registry, and the everyday commands on it.
pub(crate) struct Registry {
    pub(crate) server: ZooKeeper,
}

impl Registry {
    pub(crate) fn start() -> Registry {
        let server = ZooKeeper::start(Kind::Embedded, TICK).expect("it is this build");
        Registry { server }
    }

    /// What the command prints.
    fn zk(&self, arguments: &[&str]) -> String {
        let address = self.server.address().to_string();
        let mut command = livegate(&["zk", "--registry", &address]);
        let ended = run(command.args(arguments), b"");
        assert_eq!(ended.code, Some(0), "{arguments:?}: {}", ended.stderr);
        String::from_utf8(ended.stdout).unwrap()
    }

    /// Registers as the classic gateway's services do: the name is the address.
    pub(crate) fn register(&self, service: &str, address: SocketAddr) {
        let path = format!("/services/{service}/{address}");
        self.zk(&["create", "-p", &path, ""]);
    }

    pub(crate) fn deregister(&self, service: &str, address: SocketAddr) {
        self.zk(&["delete", &format!("/services/{service}/{address}")]);
    }

    fn setup(&self, lines: &str) -> Setup {
        let hosts = format!("hosts = \"{}\"", self.server.address());
        let setup = Setup::default().registry("mode = \"external\"");
        setup.registry(&hosts).registry(lines)
    }

    pub(crate) fn gateway(&self, lines: &str) -> Gateway {
        self.setup(lines).start()
    }
}

pub(crate) fn service(gateway: &Gateway, name: &str) -> Value {
    let response = gateway.admin(&format!("/api/v1/services/{name}"));
    serde_json::from_slice(&response.body).unwrap_or(Value::Null)
}

/// The states of a service's instances by address.
pub(crate) fn states(gateway: &Gateway, name: &str) -> Vec<(String, String)> {
    let service = service(gateway, name);
    let instances = service["instances"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    instances
        .iter()
        .map(|instance| (text(&instance["address"]), text(&instance["state"])))
        .collect()
}

pub(crate) fn wait_until_served(gateway: &Gateway, target: &str) {
    wait_until(&format!("{target} is served"), || {
        gateway.get(target).status == 200
    });
}

#[test]
fn a_service_that_registers_has_a_route_and_its_data_is_followed() {
    let registry = Registry::start();
    let gateway = registry.gateway("");
    assert_eq!(gateway.get("/orders/").status, 404);
    let origin = Origin::start();
    registry.register("orders", origin.address());
    wait_until_served(&gateway, "/orders/a?b=c");
    assert_eq!(origin.requests("/a?b=c").len(), 1, "the prefix is stripped");
    assert_eq!(service(&gateway, "orders")["instances"][0]["weight"], 50);
    let path = format!("/services/orders/{}", origin.address());
    registry.zk(&["set", &path, r#"{"Weight":7,"Tags":null}"#]);
    wait_until("the weight is followed", || {
        service(&gateway, "orders")["instances"][0]["weight"] == 7
    });
    // Its last instance leaves: it is still a service, without instances.
    registry.deregister("orders", origin.address());
    drop(origin);
    wait_until("nobody is left", || {
        let response = gateway.get("/orders/");
        response.status == 503 && response.get("x-livegate-reason") == Some("service_empty")
    });
    registry.zk(&["delete", "/services/orders"]);
    wait_until("the service is absent", || {
        gateway.get("/orders/").get("x-livegate-reason") == Some("service_absent")
    });
}

#[test]
fn a_gateway_that_ends_is_not_waited_for() {
    let registry = Registry::start();
    registry.zk(&["create", "-p", "/livegate/gateways"]);
    let announced = || registry.zk(&["ls", "/livegate/gateways"]).lines().count();
    let mut gateway = registry.gateway("");
    wait_until("instances wait for it", || announced() == 1);
    gateway.signal(Signal::TERM);
    assert!(gateway.wait_for_exit(PATIENCE).success());
    // Long before its session of 10 s times out.
    assert_eq!(announced(), 0);
}

#[test]
fn a_node_that_cannot_be_read_hides_no_other() {
    let registry = Registry::start();
    let origin = Origin::start();
    registry.register("orders", origin.address());
    registry.zk(&["create", "/services/orders/nonsense", "{"]);
    let gateway = registry.gateway("");
    wait_until_served(&gateway, "/orders/");
    assert_eq!(states(&gateway, "orders").len(), 1);
    let skipped = service(&gateway, "orders")["skipped"].to_string();
    assert!(skipped.contains("nonsense"), "{skipped}");
}

#[test]
fn an_outage_removes_nothing_and_a_start_without_the_registry_serves() {
    let mut registry = Registry::start();
    let (a, b) = (Origin::start(), Origin::start());
    registry.register("orders", a.address());
    registry.register("orders", b.address());
    let mut gateway = registry.gateway("session_timeout = \"1s\"");
    wait_until_served(&gateway, "/orders/");
    wait_until("the list is on disk", || {
        let directory = gateway.file("livegate-data/snapshots");
        std::fs::read_dir(directory).is_ok_and(|mut files| {
            files.any(|file| {
                let text = file.map(|file| std::fs::read_to_string(file.path()));
                text.is_ok_and(|text| {
                    text.is_ok_and(|text| text.contains(&b.address().to_string()))
                })
            })
        })
    });
    registry.server.kill();
    wait_until("the list is stale", || {
        service(&gateway, "orders")["status"] == "stale"
    });
    for _ in 0..20 {
        assert_eq!(gateway.get("/orders/").status, 200);
    }
    gateway.restart();
    for _ in 0..20 {
        assert_eq!(gateway.get("/orders/").status, 200);
    }
    assert_eq!(states(&gateway, "orders").len(), 2);
    let ready = gateway.admin("/readyz");
    assert_eq!(ready.status, 200, "{}", ready.text());
    assert!(ready.text().contains("stale"), "{}", ready.text());
    // The registry comes back empty: its instances are not believed to be gone while they accept.
    registry.server.wipe();
    registry.server.run();
    wait_until("they are held", || {
        let states = states(&gateway, "orders");
        states.len() == 2 && states.iter().all(|(_, state)| state == "held")
    });
    for _ in 0..20 {
        assert_eq!(gateway.get("/orders/").status, 200);
    }
    registry.register("orders", a.address());
    wait_until("the one that is back is fit", || {
        let address = a.address().to_string();
        states(&gateway, "orders").contains(&(address, "fit".to_owned()))
    });
}

#[test]
fn services_and_routes_can_be_in_the_registry() {
    let registry = Registry::start();
    let (a, b) = (Origin::start(), Origin::start());
    let mut gateway = registry.gateway("config_path = \"/livegate/config\"");
    assert_eq!(gateway.get("/shop").status, 404);
    let config = |origin: &Origin| {
        format!(
            "[services.shop]\ninstances = [{{ address = \"{}\" }}]\n[[routes]]\npath = \"/shop\"\nservice = \"shop\"\n",
            origin.address()
        )
    };
    registry.zk(&["create", "-p", "/livegate/config", &config(&a)]);
    wait_until_served(&gateway, "/shop");
    assert!(!a.requests("/shop").is_empty());
    // A mistake changes nothing and is told of, with its place.
    registry.zk(&[
        "set",
        "/livegate/config",
        "[http]\nworkers = 9\n[[routes]]\n",
    ]);
    wait_until("the mistake is told of", || {
        let events = gateway.admin("/api/v1/events").text();
        events.contains("config_refused") && events.contains("/livegate/config:1:")
    });
    assert_eq!(gateway.get("/shop").status, 200);
    // Nor is it what a start without the registry begins with.
    wait_until("what is in effect is kept", || {
        let file = gateway.file("livegate-data/snapshots/config_path.toml");
        std::fs::read_to_string(file).is_ok_and(|kept| kept == config(&a))
    });
    registry.zk(&["set", "/livegate/config", &config(&b)]);
    wait_until("the other instance is asked", || {
        gateway.get("/shop");
        !b.requests("/shop").is_empty()
    });
    // A start without the registry has these routes as well.
    let mut registry = registry;
    registry.server.kill();
    gateway.restart();
    assert_eq!(gateway.get("/shop").status, 200);
}

#[test]
fn a_program_is_registered_with_one_command_and_leaves_without_a_failure() {
    let registry = Registry::start();
    let gateway = registry.gateway("");
    let (a, b) = (Origin::start(), Origin::start());
    let hosts = registry.server.address().to_string();
    let mut registrars: Vec<Running> = [&a, &b]
        .iter()
        .map(|origin| {
            let address = origin.address().to_string();
            Running::start(&mut livegate(&[
                "register",
                "hello",
                "--address",
                &address,
                "--registry",
                &hosts,
            ]))
        })
        .collect();
    wait_until("both are in", || states(&gateway, "hello").len() == 2);
    wait_until_served(&gateway, "/hello/");
    let status = registrars.remove(0).end(rustix::process::Signal::TERM);
    assert!(status.success(), "{status}");
    assert_eq!(
        states(&gateway, "hello"),
        [(b.address().to_string(), "fit".to_owned())],
        "it has left before its registrar ended"
    );
    assert_eq!(gateway.get("/hello/").status, 200);
    let events = gateway.admin("/api/v1/events?service=hello").text();
    for kind in ["draining", "idle", "left"] {
        assert!(events.contains(&format!("\"{kind}\"")), "{kind}: {events}");
    }
}

#[test]
fn a_route_may_lead_to_a_service_that_is_only_in_the_registry() {
    let registry = Registry::start();
    let origin = Origin::start();
    let setup = registry
        .setup("config_path = \"/livegate/config\"")
        .and_route("path = \"/shop\"\nservice = \"orders\"")
        .and_route("path = \"/typo\"\nservice = \"ordres\"");
    let gateway = setup.start();
    // Nobody is there yet, which everybody says who is asked.
    for (target, name) in [("/shop", "orders"), ("/typo", "ordres")] {
        wait_until("the service is absent", || {
            gateway.get(target).get("x-livegate-reason") == Some("service_absent")
        });
        let explained = gateway.admin(&format!("/api/v1/explain/{name}")).text();
        assert!(
            explained.contains("\"reason\":\"service_absent\""),
            "{explained}"
        );
        let events = gateway.admin(&format!("/api/v1/events?service={name}"));
        let events = events.text();
        assert!(
            events.contains("\"service_absent\"") && events.contains("nobody has registered below"),
            "{events}"
        );
        gateway.wait_for_log(&["warn", name, "is not in [services]"]);
        assert_eq!(
            gateway.get(&format!("/{name}/")).status,
            404,
            "only a route names it"
        );
    }
    assert_eq!(gateway.admin("/readyz").status, 200);
    let admin = format!("http://{}", gateway.admin_address());
    let routes = run(&mut livegate(&["routes", "--admin", &admin]), b"");
    assert!(
        routes
            .text()
            .contains("service ordres (now 503 service_absent)"),
        "{routes:?}"
    );
    // Then somebody is.
    registry.register("orders", origin.address());
    wait_until_served(&gateway, "/shop");
    wait_until_served(&gateway, "/orders/");
    let routes = gateway.admin("/api/v1/routes").text();
    let routes: Value = serde_json::from_str(&routes).unwrap();
    assert_eq!(routes["routes"][0]["reason"], Value::Null);
    assert_eq!(routes["routes"][1]["reason"], "service_absent");
    // The mistake is told again, with what may be meant, when the file is applied again.
    gateway.signal(rustix::process::Signal::HUP);
    gateway.wait_for_log(&["ordres", "is \"orders\" meant?"]);
    let file = gateway.file("gateway.toml");
    let checked = run(&mut livegate(&["check", file.to_str().unwrap()]), b"");
    assert_eq!(checked.code, Some(0), "{checked:?}");
    assert!(
        checked.stderr.contains("note: a route leads to \"ordres\""),
        "{checked:?}"
    );
    // The same with a route that is in the registry.
    registry.register("users", origin.address());
    registry.zk(&[
        "create",
        "-p",
        "/livegate/config",
        "[[routes]]\npath = \"/people\"\nservice = \"users\"\n",
    ]);
    wait_until_served(&gateway, "/people");
}

#[test]
fn a_service_that_is_long_gone_is_forgotten_unless_it_is_held_or_named() {
    let registry = Registry::start();
    let (kept, named, origin) = (Origin::start(), Origin::start(), Origin::start());
    let gateway = registry
        .setup("")
        .and("[discovery]\nforget_after = \"500ms\"")
        .and_route("path = \"/n\"\nservice = \"named\"")
        .start();
    registry.register("kept", kept.address());
    registry.register("named", named.address());
    for name in ["kept", "named"] {
        wait_until_served(&gateway, &format!("/{name}/"));
    }
    let admin = format!("http://{}", gateway.admin_address());
    let drop_held =
        |arguments: &[&str]| run(livegate(&["drop", "--admin", &admin]).args(arguments), b"");
    let address = kept.address().to_string();
    let refused = drop_held(&["kept", &address]);
    assert!(refused.failure(1).contains("is not held"), "{refused:?}");
    assert_eq!(drop_held(&["kept"]).text(), "no instance of kept is held\n");
    // The last instance of each is held; for as long as it is, its service is one.
    for name in ["kept", "named"] {
        registry.zk(&["delete", "-r", &format!("/services/{name}")]);
    }
    // Other services come and go meanwhile, and are forgotten one by one.
    let address = origin.address();
    for name in ["one", "two", "three"] {
        registry.register(name, address);
        wait_until_served(&gateway, &format!("/{name}/"));
        registry.zk(&["delete", "-r", &format!("/services/{name}")]);
        wait_until("its instances are held", || {
            states(&gateway, name)
                .iter()
                .any(|(_, state)| state == "held")
        });
        let id = address.to_string();
        assert_eq!(
            drop_held(&[name, &id]).text(),
            format!("{id} is no longer held\n")
        );
        wait_until("it is forgotten", || {
            gateway.admin(&format!("/api/v1/services/{name}")).status == 404
        });
        assert_eq!(gateway.get(&format!("/{name}/")).status, 404);
    }
    let metrics = gateway.admin("/metrics").text();
    assert!(!metrics.contains("service=\"two\""), "{metrics}");
    wait_until("its list is not on disk", || {
        let directory = std::fs::read_dir(gateway.file("livegate-data/snapshots"));
        directory.is_ok_and(|mut files| {
            !files.any(|file| file.unwrap().file_name().to_string_lossy().contains("two"))
        })
    });
    assert_eq!(gateway.get("/kept/").status, 200);
    assert_eq!(states(&gateway, "kept")[0].1, "held");
    for name in ["kept", "named"] {
        assert!(drop_held(&[name]).text().contains(" is no longer held"));
    }
    wait_until("it is forgotten", || gateway.get("/kept/").status == 404);
    let absent = gateway.get("/n");
    assert_eq!(absent.get("x-livegate-reason"), Some("service_absent"));
    // Who comes back is a service again.
    registry.register("kept", kept.address());
    wait_until_served(&gateway, "/kept/");
}
