//! `livegate register` as a process, with a small program in Python as the service.

use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getpgid};

use super::harness::command::{Running, livegate, run};
use super::harness::port::Port;
use super::harness::wait::holds_within;
use super::harness::zookeeper::{Kind, ZooKeeper};

const PATIENCE: Duration = Duration::from_secs(60);

/// Long enough for sessions to survive what the tests do in between.
const TICK: Duration = Duration::from_millis(1000);

/// A server that tells which signals it gets. SIGTERM ends it with 3, SIGUSR1 with 7.
const SERVICE: &str = "
import http.server, os, signal, sys
def say(name, end=None):
    def handler(*_):
        os.write(1, (name + chr(10)).encode())
        if end is not None:
            os._exit(end)
    return handler
signal.signal(signal.SIGTERM, say('TERM', 3))
signal.signal(signal.SIGUSR1, say('USR1', 7))
signal.signal(signal.SIGINT, say('INT'))
signal.signal(signal.SIGHUP, say('HUP'))
signal.signal(signal.SIGWINCH, say('WINCH'))
os.write(1, ('pid %d' % os.getpid() + chr(10)).encode())
http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
";

/// Ignores SIGTERM.
const STUBBORN: &str = "
import http.server, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
";

/// `livegate register orders` with these options, running this program at this port.
fn register(registry: SocketAddr, port: &Port, options: &[&str], program: &str) -> Running {
    let (address, registry) = (port.address().to_string(), registry.to_string());
    let number = port.number().to_string();
    let mut arguments = vec!["register", "orders", "--address", &address];
    arguments.extend(["--registry", &registry]);
    arguments.extend(options);
    arguments.extend(["--", "python3", "-c", program, &number]);
    Running::start(&mut livegate(&arguments))
}

/// What `livegate zk` prints; `None` when it fails.
fn zk(registry: SocketAddr, arguments: &[&str]) -> Option<String> {
    let registry = registry.to_string();
    let mut words = vec!["zk", "--registry", &registry];
    words.extend(arguments);
    let ended = run(&mut livegate(&words), b"");
    (ended.code == Some(0)).then(|| String::from_utf8(ended.stdout).unwrap())
}

fn is_registered(registry: SocketAddr, port: &Port) -> bool {
    let names = zk(registry, &["ls", "/services/orders"]).unwrap_or_default();
    names.lines().any(|name| name == port.address().to_string())
}

#[track_caller]
fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    assert!(holds_within(PATIENCE, condition), "waited for: {what}");
}

#[track_caller]
fn wait_until_registered(running: &Running, registry: SocketAddr, port: &Port) {
    let registered = holds_within(PATIENCE, || is_registered(registry, port));
    assert!(registered, "not registered\n{}", running.stderr());
}

fn serves(port: &Port) -> bool {
    TcpStream::connect(port.address()).is_ok()
}

/// A gateway that has announced itself, and does nothing.
fn gateway(registry: SocketAddr) -> Running {
    let path = "/livegate/gateways/gw-1";
    let running = hold(registry, path, "{}");
    wait_until(path, || zk(registry, &["stat", path]).is_some());
    running
}

/// An ephemeral node, for as long as this runs.
fn hold(registry: SocketAddr, path: &str, data: &str) -> Running {
    let address = registry.to_string();
    let words = [
        "zk",
        "--registry",
        &address,
        "create",
        "-e",
        "-p",
        path,
        data,
    ];
    Running::start(&mut livegate(&words))
}

#[test]
fn a_command_is_registered_when_it_serves_and_drained_before_it_is_stopped() {
    let Some(registry) = ZooKeeper::start(Kind::Embedded, TICK) else {
        return;
    };
    let registry = registry.address();
    let port = Port::claim();
    let options = [
        "--weight",
        "20",
        "--zone",
        "a",
        "--meta",
        "version=7",
        "--check",
        "http:/",
    ];
    let mut running = register(registry, &port, &options, SERVICE);
    wait_until_registered(&running, registry, &port);
    assert!(serves(&port));
    let path = format!("/services/orders/{}", port.address());
    let content = zk(registry, &["get", &path]).unwrap();
    let expected = format!(
        r#"{{"name":"orders","id":"{0}","address":"127.0.0.1","port":{1},"sslPort":null,"payload":{{"metadata":{{"version":"7","weight":"20","zone":"a"}}}},"#,
        port.address(),
        port.number(),
    );
    assert!(content.starts_with(&expected), "{content}");

    // Signals that are not for livegate are for the command, which a terminal does not reach directly.
    running.signal(Signal::HUP);
    running.wait_for("SIGHUP is passed on", |out, _| out.contains("HUP"));
    running.signal(Signal::WINCH);
    running.wait_for("SIGWINCH is passed on", |out, _| out.contains("WINCH"));
    let out = running.stdout();
    let pid = out
        .lines()
        .find_map(|line| line.strip_prefix("pid "))
        .unwrap();
    let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
    assert_eq!(getpgid(Some(pid)).unwrap(), pid);

    let _gateway = gateway(registry);
    running.signal(Signal::INT);
    wait_until("the content says that it drains", || {
        let content = zk(registry, &["get", &path]).unwrap_or_default();
        content.contains(r#""state":"draining""#)
    });
    let name = zk(registry, &["ls", "/livegate/drains"]).unwrap();
    let drain = format!("/livegate/drains/{}", name.trim_end());
    let czxid = zk(registry, &["get", &drain]).unwrap();
    assert!(is_registered(registry, &port) && serves(&port));
    assert!(!running.stdout().contains("TERM") && !running.stdout().contains("INT"));
    // Removed by livegate as soon as it is seen.
    let _acknowledgement = hold(registry, &format!("{drain}/gw-1"), czxid.trim_end());
    assert_eq!(running.wait().code(), Some(3));
    assert!(running.stdout().contains("TERM"));
    assert!(
        running.stderr().contains("drained: gw-1 let go"),
        "{}",
        running.stderr()
    );
    assert!(!is_registered(registry, &port) && !serves(&port));
}

#[test]
fn a_command_that_ends_by_itself_takes_its_registration_with_it() {
    let Some(registry) = ZooKeeper::start(Kind::Embedded, TICK) else {
        return;
    };
    let registry = registry.address();
    let port = Port::claim();
    let mut running = register(registry, &port, &[], SERVICE);
    wait_until_registered(&running, registry, &port);
    let _gateway = gateway(registry);
    assert_eq!(running.end(Signal::USR1).code(), Some(7));
    assert!(!is_registered(registry, &port));

    // Killed by a signal: 128 and its number.
    let mut running = register(registry, &port, &[], SERVICE);
    wait_until_registered(&running, registry, &port);
    let out = running.stdout();
    let pid = out
        .lines()
        .find_map(|line| line.strip_prefix("pid "))
        .unwrap();
    let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
    assert_eq!(running.wait().code(), Some(137));
    assert!(!is_registered(registry, &port));
}

#[test]
fn more_signals_are_more_urgent() {
    let Some(registry) = ZooKeeper::start(Kind::Embedded, TICK) else {
        return;
    };
    let registry = registry.address();
    let _gateway = gateway(registry);
    let port = Port::claim();
    let options = ["--drain-timeout", "1h"];
    let mut running = register(registry, &port, &options, STUBBORN);
    wait_until_registered(&running, registry, &port);
    running.signal(Signal::TERM);
    running.wait_for("it drains", |_, error| error.contains("draining /services"));
    assert!(serves(&port));
    running.signal(Signal::TERM);
    running.wait_for("the drain is skipped", |_, error| {
        error.contains("not waiting for gateways")
    });
    wait_until("it is removed", || !is_registered(registry, &port));
    assert_eq!(running.end(Signal::INT).code(), Some(137));
    assert!(!serves(&port));
}

#[test]
fn the_command_does_not_outlive_livegate() {
    let Some(registry) = ZooKeeper::start(Kind::Embedded, TICK) else {
        return;
    };
    let registry = registry.address();
    let port = Port::claim();
    let mut running = register(registry, &port, &[], STUBBORN);
    wait_until_registered(&running, registry, &port);
    assert_eq!(running.end(Signal::KILL).signal(), Some(9));
    wait_until("the command is gone", || !serves(&port));
}

#[test]
fn a_registry_that_is_away_neither_stops_the_command_nor_keeps_it() {
    let Some(mut server) = ZooKeeper::start(Kind::Embedded, TICK) else {
        return;
    };
    let registry = server.address();
    server.kill();
    let port = Port::claim();
    let mut running = register(registry, &port, &[], SERVICE);
    running.wait_for("it says so", |_, error| {
        error.contains("cannot reach the registry")
    });
    assert!(serves(&port));
    server.run();
    wait_until_registered(&running, registry, &port);
    server.kill();
    let start = Instant::now();
    assert_eq!(running.end(Signal::TERM).code(), Some(3));
    println!(
        "stopped {:?} after the signal, without a registry",
        start.elapsed()
    );
    assert!(start.elapsed() < Duration::from_secs(30));
}

#[test]
fn without_a_command_the_check_decides() {
    let Some(registry) = ZooKeeper::start(Kind::Embedded, TICK) else {
        return;
    };
    let registry = registry.address();
    let port = Port::claim();
    let (address, number) = (port.address().to_string(), port.number().to_string());
    let hosts = registry.to_string();
    let words = [
        "register",
        "orders",
        "--plain",
        "--address",
        &address,
        "--registry",
        &hosts,
    ];
    let mut running = Running::start(&mut livegate(&words));
    let service = || {
        let mut command = std::process::Command::new("python3");
        Running::start(command.args(["-c", STUBBORN, &number]))
    };
    let first = service();
    wait_until_registered(&running, registry, &port);
    let path = format!("/services/orders/{address}");
    assert_eq!(zk(registry, &["get", &path]).unwrap().trim_end(), address);
    drop(first);
    wait_until("it is taken out", || !is_registered(registry, &port));
    let _second = service();
    wait_until_registered(&running, registry, &port);
    assert_eq!(running.end(Signal::TERM).code(), Some(0));
    assert!(!is_registered(registry, &port) && serves(&port));
}

#[test]
fn a_command_that_cannot_be_started_says_what_a_shell_would() {
    let register = |program| {
        let words = [
            "register",
            "orders",
            "--address",
            "127.0.0.1:9",
            "--",
            program,
        ];
        run(&mut livegate(&words), b"")
    };
    let missing = register("no-such-program");
    assert_eq!(
        missing.failure(127),
        "cannot find no-such-program, check the command after --"
    );
    let directory = register("/tmp");
    assert!(directory.failure(126).starts_with("cannot execute /tmp ("));
}

#[test]
fn wrong_usage_is_told_before_anything_is_started() {
    let error = |words: &[&str]| {
        let mut all = vec!["register"];
        all.extend(words);
        all.extend(["--", "false"]);
        run(&mut livegate(&all), b"").failure(2).to_owned()
    };
    let told = |words: &[&str], text: &str| {
        let error = error(words);
        assert!(error.contains(text), "{error}");
    };
    told(&["orders"], "--address");
    told(&["orders", "--address", "a"], "has no port");
    told(
        &["orders", "--address", "0.0.0.0:80"],
        "others can connect to",
    );
    let address = ["--address", "a:80"];
    let with = |words: &[&'static str]| [&["orders"], &address[..], words].concat();
    told(&with(&["--check", "udp"]), "write tcp, or http:");
    told(&with(&["--meta", "zone=a"]), "use --zone");
    told(&with(&["--plain", "--weight", "1"]), "cannot be used with");
    told(&with(&["--drain-timeout", "30"]), "30s for seconds");
    told(&with(&["--registry", "zk:x"]), "is not a port");
    told(
        &with(&["--root", "services"]),
        "the root is not the path of a node",
    );
    told(
        &["a/b", "--address", "a:80"],
        "cannot be the name of a service",
    );
}
