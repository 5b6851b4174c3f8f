//! The examples together: servers that register themselves, and clients that must not notice when one of them
//! is killed, drained and started again.
#![cfg(test)]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that cannot go on fails"
)]

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use livegate_registry::{Options, Server};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The folder of the examples, built by the cargo that builds the tests.
fn examples() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        // target/PROFILE/deps/examples-HASH
        let test = std::env::current_exe().unwrap();
        let profile = test.parent().unwrap().parent().unwrap();
        let built = Command::new(env!("CARGO"))
            .args([
                "build",
                "--quiet",
                "--locked",
                "--package",
                "livegate-discovery",
            ])
            .args(["--example", "client", "--example", "server"])
            .arg("--target-dir")
            .arg(profile.parent().unwrap())
            .args(["--profile", "dev"])
            .status();
        assert!(built.unwrap().success());
        profile.parent().unwrap().join("debug/examples")
    })
}

/// A process, killed on drop, and what it prints.
struct Process {
    child: Child,
    output: PathBuf,
}

impl Process {
    fn start(example: &str, words: &[&str], output: PathBuf) -> Self {
        let child = Command::new(examples().join(example))
            .args(words)
            .stdin(Stdio::null())
            .stdout(File::create(&output).unwrap())
            .spawn()
            .unwrap();
        Self { child, output }
    }

    fn printed(&self) -> String {
        std::fs::read_to_string(&self.output).unwrap()
    }

    /// How many calls of a client were answered by this server.
    fn answers_of(&self, server: SocketAddr) -> usize {
        let answer = format!(" hello at {server}");
        let is_answer = |line: &&str| line.ends_with(&answer);
        self.printed().lines().filter(is_answer).count()
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and wait until it has ended by itself.
    fn terminate(&mut self) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status();
        assert!(sent.unwrap().success());
        let mut status = None;
        until("the server ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        assert!(status.unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[track_caller]
fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for: {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// Waits until a client has been answered by a server some times more.
#[track_caller]
fn until_answered(client: &Process, server: SocketAddr) {
    let goal = client.answers_of(server) + 5;
    until(&format!("answers of {server}"), || {
        client.answers_of(server) >= goal
    });
}

#[test]
fn clients_do_not_notice_that_servers_die_and_come_back() {
    let directory = tempfile::tempdir().unwrap();
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let registry = Server::start(Options::new(listen, directory.path().join("registry"))).unwrap();
    let registry_address = registry.address().to_string();
    let file = |name: &str| directory.path().join(name);
    // Below the range from which the system takes ports for connections, so that a server that was killed
    // gets its port back.
    let mut ports = (11_000u16..32_000).filter(|port| {
        port.is_multiple_of(7) && TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok()
    });
    let addresses =
        [(); 2].map(|()| SocketAddr::from((Ipv4Addr::LOCALHOST, ports.next().unwrap())));
    let [first, second] = addresses;
    let serve = |address: SocketAddr| {
        let words = ["hello", &address.to_string(), &registry_address];
        Process::start(
            "server",
            &words,
            file(&format!("server-{}", address.port())),
        )
    };
    let mut servers = addresses.map(serve);

    let finding = Process::start("client", &["hello", &registry_address], file("finding"));
    until_answered(&finding, first);
    until_answered(&finding, second);
    let list = format!("{first},{second}");
    let probing = Process::start("client", &[&list], file("probing"));
    for client in [&finding, &probing] {
        until_answered(client, first);
        until_answered(client, second);
    }

    // Killed, and back where it was.
    servers[0].kill();
    for client in [&finding, &probing] {
        until_answered(client, second);
    }
    servers[0] = serve(first);
    for client in [&finding, &probing] {
        until_answered(client, first);
    }

    // Drained, and back.
    servers[1].terminate();
    assert!(
        servers[1].printed().starts_with("drained: Departure"),
        "{}",
        servers[1].printed()
    );
    for client in [&finding, &probing] {
        until_answered(client, first);
    }
    servers[1] = serve(second);
    for client in [&finding, &probing] {
        until_answered(client, second);
    }

    // All of them killed: calls wait for the first that is back.
    for server in &mut servers {
        server.kill();
    }
    servers[0] = serve(first);
    for client in [&finding, &probing] {
        until_answered(client, first);
    }
    servers[1] = serve(second);
    for client in [&finding, &probing] {
        until_answered(client, second);
        assert!(!client.printed().contains("FAILED"), "{}", client.printed());
    }
    drop(servers);
    registry.stop();
}
