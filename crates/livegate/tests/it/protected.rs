//! A registry whose nodes are protected, and one that is reached over TLS: the gateway and the commands say
//! who they are, what they write is theirs, and who is not let in is told what to do.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use livegate_zk::client::{Client, ConnectOptions, Credential};
use livegate_zk::proto::acl::{Acl, Permissions};
use livegate_zk::proto::create_mode::CreateMode;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustix::process::Signal;
use serde_json::Value;

use crate::harness::command::{Ended, Running, livegate, run};
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::origin::Origin;
use crate::harness::port::Port;
use crate::harness::wait::holds_within;
use crate::harness::zookeeper::{Kind, ZooKeeper, on_both};

const TICK: Duration = Duration::from_millis(500);

/// A registry with an ensemble of Java machines may take its time.
const PATIENCE: Duration = Duration::from_secs(60);

on_both! {
    a_gateway_reads_and_drains_what_only_its_identity_may
    what_is_registered_with_an_identity_is_changed_by_nobody_else
}

fn zk(server: &ZooKeeper, arguments: &[&str]) -> Ended {
    let address = server.address().to_string();
    let mut command = livegate(&["zk", "--registry", &address, "--timeout", "40s"]);
    run(command.args(arguments), b"")
}

fn register(registry: &str, address: SocketAddr, arguments: &[&str]) -> Command {
    let address = address.to_string();
    let words = ["register", "orders", "--address", &address];
    let mut command = livegate(&words);
    command.args(["--registry", registry]).args(arguments);
    command
}

fn events(gateway: &Gateway) -> String {
    gateway.admin("/api/v1/events").text()
}

fn wait_long_until(what: &str, condition: impl FnMut() -> bool) {
    assert!(holds_within(PATIENCE, condition), "waited for: {what}");
}

/// Does something as the one who may.
fn as_me<T>(server: &ZooKeeper, act: impl AsyncFnOnce(&Client) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut options = ConnectOptions::new(&server.address().to_string()).unwrap();
        options.operation_timeout = Duration::from_secs(40);
        options.credentials.push(Credential::digest("me", "hush"));
        let client = Client::connect(options).await.unwrap();
        let done = act(&client).await;
        client.close().await;
        done
    })
}

/// What an administrator does once: only `me` may do anything with services and with what gateways write.
fn protect(server: &ZooKeeper) {
    as_me(server, async |client| {
        for node in [
            "/services",
            "/services/orders",
            "/livegate",
            "/livegate/gateways",
            "/livegate/drains",
        ] {
            client
                .create(node, b"", CreateMode::Persistent, Acl::CREATOR)
                .await
                .unwrap();
        }
    });
}

fn acl_of(server: &ZooKeeper, path: &str) -> Vec<(Permissions, String)> {
    as_me(server, async |client| {
        let (list, _) = client.acl(path).await.unwrap();
        list.iter()
            .map(|acl| (acl.permissions, acl.scheme.to_string()))
            .collect()
    })
}

fn a_gateway_reads_and_drains_what_only_its_identity_may(kind: Kind) {
    let Some(server) = ZooKeeper::start(kind, TICK) else {
        return;
    };
    protect(&server);
    let registry = server.address().to_string();
    let origin = Origin::start();
    let directory = tempfile::tempdir().unwrap();
    let login = directory.path().join("login");
    std::fs::write(&login, "me:hush\n").unwrap();
    let setup = |lines: &str| {
        Setup::default()
            .registry("mode = \"external\"")
            .registry(&format!("hosts = \"{registry}\""))
            .registry("session_timeout = \"2s\"")
            .registry("config_path = \"/livegate/config\"")
            .registry(lines)
    };

    // Nobody in particular is told what it may not, and what to do.
    let outsider = setup("").start();
    wait_long_until("refusals are told of", || {
        let events = events(&outsider);
        [
            "the services below /services cannot be listed: not authorized: registry.auth_file must hold",
            "instances that drain do not wait for this gateway: not allowed to write below /livegate/gateways",
        ]
        .iter()
        .all(|text| events.contains(text))
    });
    drop(outsider);

    // One with a wrong password is nobody, too.
    std::fs::write(&login, "me:other\n").unwrap();
    let line = format!("auth_file = \"{}\"", login.display());
    let named = setup(&line).and("[services.orders]").start();
    wait_long_until("the service is told of", || {
        let of_service = named.admin("/api/v1/events?service=orders").text();
        of_service.contains("cannot be listed: not authorized: registry.auth_file must hold")
    });
    let explained = named.admin("/api/v1/explain/orders").text();
    assert!(explained.contains("not authorized"), "{explained}");
    drop(named);

    std::fs::write(&login, "\nme:hush\n").unwrap();
    let gateway = setup(&line).start();
    let mut registrar = Running::start(&mut register(
        &registry,
        origin.address(),
        &["--auth-file", login.to_str().unwrap()],
    ));
    wait_long_until("it is served", || gateway.get("/orders/").status == 200);
    // It is announced, and lets go: the registrar has waited for it.
    wait_long_until("it is announced", || {
        let ls = ["ls", "/livegate/gateways", "--auth", "me:hush"];
        zk(&server, &ls).text().lines().count() == 1
    });
    assert!(registrar.end(Signal::TERM).success());
    assert!(
        registrar.stderr().contains("let go"),
        "{}",
        registrar.stderr()
    );
    // The secret is nowhere to be seen.
    let config = gateway.admin("/api/v1/config").text();
    let shown: Value = serde_json::from_str(&config).unwrap();
    assert_eq!(shown["registry"]["auth_file"], "***");
    for text in [config, events(&gateway), gateway.log(), registrar.stderr()] {
        assert!(!text.contains("hush"), "{text}");
    }

    // Without an identity an instance is not registered, which is told.
    let registrar = Running::start(&mut register(&registry, origin.address(), &[]));
    registrar.wait_for("what to give", |_, error| {
        error.contains("not allowed to write /services/orders/")
            && error.contains("give the user and password that may")
    });
}

fn what_is_registered_with_an_identity_is_changed_by_nobody_else(kind: Kind) {
    let Some(server) = ZooKeeper::start(kind, TICK) else {
        return;
    };
    let registry = server.address().to_string();
    let origin = Origin::start();
    let mut command = register(&registry, origin.address(), &[]);
    // As in a unit file, where others do not see it.
    let mut registrar = Running::start(command.env("LIVEGATE_REGISTRY_AUTH", "me:hush"));
    let node = format!("/services/orders/{}", origin.address());
    wait_long_until("it is registered", || {
        zk(&server, &["stat", &node]).code == Some(0)
    });
    let world = (Permissions::READ, "world".to_owned());
    let mine = (Permissions::ALL, "digest".to_owned());
    assert_eq!(acl_of(&server, &node), [mine.clone(), world.clone()]);
    assert_eq!(acl_of(&server, "/services/orders"), [mine.clone(), world]);
    let shared = Permissions::READ.union(Permissions::CREATE);
    assert_eq!(
        acl_of(&server, "/services"),
        [mine, (shared, "world".to_owned())]
    );
    // Anybody reads it, so a gateway needs no identity; and adds a service, but no instance to this one.
    let gateway = Setup::default()
        .registry("mode = \"external\"")
        .registry(&format!("hosts = \"{registry}\""))
        .start();
    wait_long_until("it is served", || gateway.get("/orders/").status == 200);
    for words in [
        &["set", &node, "x"][..],
        &["delete", &node],
        &["create", "/services/orders/127.0.0.1:9"],
        &["delete", "/services/orders"],
    ] {
        assert!(
            zk(&server, words).failure(1).starts_with("not allowed to "),
            "{words:?}"
        );
    }
    assert_eq!(
        zk(&server, &["create", "/services/other"]).text(),
        "/services/other\n"
    );
    // Gateways of another identity, or none, are waited for as well, and what was written goes.
    wait_long_until("it is announced", || {
        zk(&server, &["ls", "/livegate/gateways"]).stdout.len() > 1
    });
    assert!(registrar.end(Signal::TERM).success());
    assert!(
        registrar.stderr().contains("let go"),
        "{}",
        registrar.stderr()
    );
    // Its service may have gone with it: an empty container.
    let left = zk(&server, &["stat", &node]);
    assert!(left.failure(1).starts_with("no node "), "{left:?}");
    wait_long_until("the drain is cleaned up", || {
        zk(&server, &["ls", "/livegate/drains"]).stdout.is_empty()
    });
}

/// Issues certificates.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A certificate and its key, in PEM.
    fn issue(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap().pem();
        (certificate, key.serialize_pem())
    }
}

fn write(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn an_ensemble_is_reached_over_tls() {
    let authority = Authority::new();
    let files = tempfile::tempdir().unwrap();
    let ca = write(files.path(), "ca.pem", &authority.0.pem());
    let stranger = write(files.path(), "stranger.pem", &Authority::new().0.pem());
    let (certificate, key) = authority.issue("gateway");
    let cert = write(files.path(), "cert.pem", &certificate);
    let key = write(files.path(), "key.pem", &key);
    let (certificate, server_key) = authority.issue("127.0.0.1");
    let port = Port::claim();
    let server = ZooKeeper::start_with(Kind::Apache, TICK, |directory| {
        let store = write(
            directory,
            "server.pem",
            &format!("{server_key}{certificate}"),
        );
        let trusted = write(directory, "trusted.pem", &authority.0.pem());
        format!(
            "serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory\n\
             secureClientPort={}\nsecureClientPortAddress=127.0.0.1\n\
             ssl.keyStore.location={}\nssl.trustStore.location={}\n\
             ssl.clientAuth=need\nssl.hostnameVerification=false\n",
            port.number(),
            store.display(),
            trusted.display()
        )
    });
    let Some(server) = server else { return };
    let (registry, text) = (port.address().to_string(), |path: &Path| {
        path.display().to_string()
    });
    let (ca, stranger, cert, key) = (text(&ca), text(&stranger), text(&cert), text(&key));

    // The commands.
    let tls = ["--tls-ca", &ca, "--tls-cert", &cert, "--tls-key", &key];
    let over_tls = |arguments: &[&str]| {
        let mut command = livegate(&["zk", "--registry", &registry, "--timeout", "5s"]);
        run(command.args(arguments), b"")
    };
    let ls = over_tls(&[&["ls", "/"], &tls[..]].concat());
    assert_eq!(ls.text(), "zookeeper\n");
    let refused = over_tls(&["ls", "/", "--tls-ca", &stranger]);
    assert!(refused.failure(1).contains("check --tls-ca"), "{refused:?}");
    let anonymous = over_tls(&["ls", "/", "--tls-ca", &ca]);
    assert!(anonymous.failure(1).contains("--tls-cert"), "{anonymous:?}");
    let plain = over_tls(&["ls", "/"]);
    assert!(plain.failure(1).contains("or give --tls-ca"), "{plain:?}");
    let on_plain_port = zk(&server, &["ls", "/", "--tls-ca", &ca, "--timeout", "5s"]);
    assert!(
        on_plain_port.failure(1).contains("no TLS"),
        "{on_plain_port:?}"
    );
    let half = over_tls(&["ls", "/", "--tls-cert", &cert]);
    assert_eq!(half.failure(2), "--tls-cert needs --tls-key as well");

    // The gateway.
    let setup = |lines: &str| {
        let hosts = format!("hosts = \"{registry}\"");
        let setup = Setup::default().registry("mode = \"external\"");
        setup.registry(&hosts).registry(lines)
    };
    let mistaken = setup(&format!("tls_ca = \"{stranger}\"")).start();
    wait_long_until("what is wrong is told", || {
        let events = events(&mistaken);
        events.contains("registry_unreachable") && events.contains("check registry.tls_ca")
    });
    drop(mistaken);
    let lines = format!("tls_ca = \"{ca}\"\ntls_cert = \"{cert}\"\ntls_key = \"{key}\"");
    let gateway = setup(&lines).start();
    let origin = Origin::start();
    let mut registrar = Running::start(&mut register(&registry, origin.address(), &tls));
    wait_long_until("it is served", || gateway.get("/orders/").status == 200);
    assert!(registrar.end(Signal::TERM).success());
}

#[test]
fn files_that_are_not_what_they_should_be_end_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let start = |lines: &str| {
        let config = write(
            directory.path(),
            "gateway.toml",
            &format!(
                "[http]\nlisten = [\"127.0.0.1:0\"]\n[admin]\nlisten = \"127.0.0.1:0\"\n\
             [registry]\nmode = \"external\"\n{lines}\n"
            ),
        );
        let ended = run(
            &mut livegate(&["run", "--config", config.to_str().unwrap()]),
            b"",
        );
        assert_eq!(ended.code, Some(1), "{ended:?}");
        ended.stderr
    };
    let missing = start("auth_file = \"/nonexistent/login\"");
    assert!(
        missing.contains("registry.auth_file: cannot read /nonexistent/login: "),
        "{missing}"
    );
    assert_eq!(missing.matches("No such file").count(), 1, "{missing}");
    let login = write(directory.path(), "login", "secret\n");
    let wrong = start(&format!("auth_file = \"{}\"", login.display()));
    assert!(
        wrong.contains("login:1: write it as USER:PASSWORD"),
        "{wrong}"
    );
    assert!(!wrong.contains("secret"), "{wrong}");
    let none = start(&format!("tls_ca = \"{}\"", login.display()));
    assert!(none.contains("no certificate"), "{none}");
}
