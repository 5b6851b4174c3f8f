//! `livegate demo` as a new user meets it: what it prints works, and nothing is left when it ends.

use std::net::SocketAddr;
use std::path::PathBuf;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use super::harness::client::Client;
use super::harness::command::{COMMAND_PATIENCE, Running, livegate, run};
use super::harness::turn;
use super::harness::wait::holds_within;

/// A demo that has printed what to try.
struct Demo {
    running: Running,
}

#[derive(Debug)]
struct Instance {
    service: String,
    address: SocketAddr,
    pid: Pid,
}

impl Demo {
    fn start() -> Self {
        let running = Running::start(&mut livegate(&["demo"]));
        running.wait_for("the demo is on", |out, _| out.contains("Ctrl-C stops"));
        Self { running }
    }

    /// What a line of the head of the output names: `  gateway   http://127.0.0.1:8080`.
    #[track_caller]
    fn named(&self, what: &str) -> String {
        let out = self.running.stdout();
        let mut lines = out.lines().filter(|line| line.starts_with("  "));
        let line = lines.find(|line| line.split_whitespace().next() == Some(what));
        let line = line.unwrap_or_else(|| panic!("{what}: {out}"));
        line.split_whitespace().nth(1).unwrap().to_owned()
    }

    fn gateway(&self) -> SocketAddr {
        let url = self.named("gateway");
        url.strip_prefix("http://").unwrap().parse().unwrap()
    }

    fn instances(&self) -> Vec<Instance> {
        let out = self.running.stdout();
        let words = out
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>());
        words
            .filter_map(|words| match words[..] {
                [service, address, "pid", pid] => Some(Instance {
                    service: service.to_owned(),
                    address: address.parse().unwrap(),
                    pid: Pid::from_raw(pid.parse().unwrap()).unwrap(),
                }),
                _ => None,
            })
            .collect()
    }

    /// How many requests its load has made and how many of them failed, from its last report.
    fn counted(&self) -> Option<(u64, u64)> {
        let out = self.running.stdout();
        let report = out.lines().rfind(|line| line.contains(" requests, "))?;
        let words: Vec<&str> = report.split_whitespace().collect();
        Some((words[1].parse().unwrap(), words[3].parse().unwrap()))
    }
}

/// The instance that answers a GET.
#[track_caller]
fn answering(gateway: SocketAddr, path: &str) -> serde_json::Value {
    let mut client = Client::connect(gateway);
    client.send(format!("GET {path} HTTP/1.1\r\nHost: demo\r\n\r\n"));
    let response = client.response("GET");
    assert_eq!(response.status, 200, "{}", response.text());
    serde_json::from_slice(&response.body).unwrap()
}

#[track_caller]
fn wait_until(what: &str, demo: &Demo, condition: impl FnMut() -> bool) {
    let holds = holds_within(COMMAND_PATIENCE, condition);
    assert!(holds, "waited for: {what}\n{}", demo.running.stdout());
}

/// Whether a process is gone, or waits to be reaped by somebody else.
fn is_gone(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    let is_zombie = |stat: &str| stat.rsplit(") ").next().unwrap().starts_with('Z');
    test_kill_process(pid).is_err() || stat.is_ok_and(|stat| is_zombie(&stat))
}

#[test]
fn the_demo_shows_a_kill_that_costs_nothing_and_leaves_nothing_behind() {
    // Two demos at once would take each other's ports while an instance is down.
    let _turn = turn::alone();
    let mut demo = Demo::start();
    let (gateway, instances) = (demo.gateway(), demo.instances());
    assert_eq!(instances.len(), 6, "{}", demo.running.stdout());
    for service in ["orders", "prices"] {
        let answer = answering(gateway, &format!("/{service}/a"));
        assert_eq!(answer["service"], service);
        assert_eq!(answer["path"], "/a");
        let of = |instance: &&Instance| instance.service == service;
        let pids: Vec<i64> = instances
            .iter()
            .filter(of)
            .map(|instance| instance.pid.as_raw_nonzero().get().into())
            .collect();
        assert_eq!(pids.len(), 3);
        assert!(pids.contains(&answer["pid"].as_i64().unwrap()), "{answer}");
    }

    let killed = &instances[0];
    kill_process(killed.pid, Signal::KILL).unwrap();
    let address = killed.address.to_string();
    demo.running.wait_for("the death is told", |out, _| {
        out.contains(&format!("{} {address} (pid ", killed.service))
            && out.contains("SIGKILL")
            && out.contains("started again in")
    });
    let admin = demo.named("admin");
    let words = ["explain", "orders", &address, "--admin", &admin];
    wait_until("it is explained", &demo, || {
        assert_ne!(answering(gateway, "/orders/")["instance"], address);
        let explained = run(&mut livegate(&words), b"");
        explained.text().contains("not used: connection refused")
    });
    demo.running.wait_for("it runs again", |out, _| {
        out.contains(&format!("{address} runs again, as pid "))
    });
    wait_until("it is used again", &demo, || {
        answering(gateway, "/orders/")["instance"] == address
    });
    wait_until("the load is counted", &demo, || demo.counted().is_some());
    let (requests, failures) = demo.counted().unwrap();
    assert!(requests > 0, "{}", demo.running.stdout());
    assert_eq!(failures, 0, "{}", demo.running.stdout());
    assert!(
        !demo.running.stdout().contains("FAILED"),
        "{}",
        demo.running.stdout()
    );

    let directory = PathBuf::from(demo.named("files"));
    assert!(directory.join("livegate.toml").exists());
    assert_eq!(demo.running.end(Signal::TERM).code(), Some(0));
    assert_eq!(demo.running.stderr(), "");
    assert!(!directory.exists());
    for instance in instances {
        assert!(is_gone(instance.pid), "{instance:?}");
    }
    assert!(std::net::TcpStream::connect(gateway).is_err());
}

#[test]
fn a_killed_demo_takes_everything_along() {
    // Two demos at once would take each other's ports while an instance is down.
    let _turn = turn::alone();
    let mut demo = Demo::start();
    let (gateway, instances) = (demo.gateway(), demo.instances());
    let directory = PathBuf::from(demo.named("files"));
    demo.running.end(Signal::KILL);
    wait_until("no process is left", &demo, || {
        instances.iter().all(|instance| is_gone(instance.pid))
            && std::net::TcpStream::connect(gateway).is_err()
    });
    std::fs::remove_dir_all(directory).unwrap();
}
