//! The commands that read and operate a running gateway, and what of its admin API they stand on.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::client::Client;
use crate::harness::gateway::{Gateway, Setup, binary};
use crate::harness::instance::{Instance, Kind, OnTerm};
use crate::harness::load::{Load, Method, assert_none};
use crate::harness::port::Port;
use crate::harness::turn;
use crate::harness::wait::{PATIENCE, wait_until};

/// What a command did.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Ran {
    fn of(output: &Output) -> Ran {
        Ran {
            code: output.status.code(),
            out: String::from_utf8(output.stdout.clone()).unwrap(),
            err: String::from_utf8(output.stderr.clone()).unwrap(),
        }
    }

    #[track_caller]
    fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        assert_eq!(self.err, "", "{self:?}");
        self.out
    }

    #[track_caller]
    fn json(self) -> Value {
        let text = self.ok();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// One sentence on standard error with these words, nothing on standard output.
    #[track_caller]
    fn fails(self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.out, "", "{self:?}");
        if code == 1 {
            assert_eq!(self.err.lines().count(), 1, "{self:?}");
        }
        for word in words {
            assert!(self.err.contains(word), "no {word:?}: {self:?}");
        }
    }
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command
        .args(arguments)
        .env_remove("LIVEGATE_ADMIN")
        .env_remove("LIVEGATE_TOKEN_FILE")
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null());
    command
}

fn livegate(arguments: &[&str]) -> Ran {
    Ran::of(&command(arguments).output().unwrap())
}

/// With the gateway's admin address in the environment.
fn at(gateway: &Gateway, arguments: &[&str]) -> Ran {
    let url = format!("http://{}", gateway.admin_address());
    Ran::of(
        &command(arguments)
            .env("LIVEGATE_ADMIN", url)
            .output()
            .unwrap(),
    )
}

struct Fleet {
    instances: Vec<Instance>,
    gateway: Gateway,
    _directory: tempfile::TempDir,
}

impl Fleet {
    fn of(count: usize, takes: Duration) -> Fleet {
        let directory = tempfile::tempdir().unwrap();
        let kind = Kind {
            on_term: OnTerm::Die,
            takes,
            journal: directory.path().join("journal"),
        };
        let instances: Vec<Instance> = (0..count).map(|_| Instance::start(kind.clone())).collect();
        let addresses: Vec<_> = instances.iter().map(Instance::address).collect();
        Fleet {
            instances,
            gateway: Setup::service(&addresses).start(),
            _directory: directory,
        }
    }

    fn id(&self, index: usize) -> String {
        self.instances[index].address().to_string()
    }
}

/// A command that goes on, read line by line.
struct Following {
    process: Child,
    lines: mpsc::Receiver<String>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Following {
    fn start(gateway: &Gateway, arguments: &[&str]) -> Following {
        let url = format!("http://{}", gateway.admin_address());
        let mut process = command(arguments)
            .env("LIVEGATE_ADMIN", url)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = process.stdout.take().expect("it is piped");
        let (tx, lines) = mpsc::sync_channel(1000);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let Ok(line) = line else { return };
                if tx.send(line).is_err() {
                    return;
                }
            }
        });
        Following {
            process,
            lines,
            reader: Some(reader),
        }
    }

    /// The next line with all of these words.
    #[track_caller]
    fn line(&self, words: &[&str]) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let patience = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(patience);
            let line = line.unwrap_or_else(|error| panic!("no line with {words:?}: {error}"));
            if words.iter().all(|word| line.contains(word)) {
                return line;
            }
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
        if let Some(reader) = self.reader.take() {
            drop(reader.join());
        }
    }
}

#[test]
fn what_is_served_is_shown_in_tables_and_as_json() {
    let _turn = turn::shared();
    let fleet = Fleet::of(2, Duration::ZERO);
    for _ in 0..4 {
        assert_eq!(fleet.gateway.get("/x").status, 200);
    }
    let run = |arguments: &[&str]| at(&fleet.gateway, arguments);

    let text = run(&["services"]).ok();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("SERVICE  STATUS  "), "{text}");
    assert!(lines[1].starts_with("origin   live    2 of 2"), "{text}");
    assert_eq!(lines.len(), 2, "{text}");

    for arguments in [&["instances"][..], &["instances", "origin"]] {
        let text = run(arguments).ok();
        for index in 0..2 {
            let id = fleet.id(index);
            let line = text
                .lines()
                .find(|line| line.contains(&id))
                .unwrap_or_else(|| panic!("{text}"));
            assert!(line.contains(" fit "), "{text}");
        }
        assert_eq!(text.lines().count(), 3, "{text}");
    }

    let text = run(&["routes"]).ok();
    assert!(
        text.lines()
            .any(|line| line.starts_with("/  ") && line.contains("service origin")),
        "{text}"
    );

    let text = run(&["events", "origin"]).ok();
    assert_eq!(
        text.lines()
            .filter(|line| line.contains("  joined: "))
            .count(),
        2,
        "{text}"
    );

    let text = run(&["explain", "origin"]).ok();
    assert!(text.starts_with("origin: live for "), "{text}");
    assert!(text.contains("2 of 2 instances used"), "{text}");
    assert_eq!(text.matches("\n  used: fit\n").count(), 2, "{text}");
    let text = run(&["explain", "origin", &fleet.id(1)]).ok();
    assert!(
        text.contains(&fleet.id(1)) && !text.contains(&fleet.id(0)),
        "{text}"
    );

    // JSON is the API's, unchanged. Of two answers these do not differ.
    for (arguments, path) in [
        (&["routes", "--json"][..], "/api/v1/routes"),
        (&["events", "--json"], "/api/v1/events"),
    ] {
        let text = run(arguments).ok();
        assert_eq!(text.trim_end(), fleet.gateway.admin(path).text(), "{path}");
    }
    assert_eq!(
        run(&["services", "--json"]).json()["services"][0]["name"],
        "origin"
    );
    assert_eq!(
        run(&["instances", "origin", "--json"]).json()["name"],
        "origin"
    );
    assert_eq!(
        run(&["explain", "origin", "--json"]).json()["service"],
        "origin"
    );
    // The option does what the variable does.
    let url = format!("{}", fleet.gateway.admin_address());
    livegate(&["services", "--admin", &url]).ok();
}

#[test]
fn errors_say_what_to_do() {
    let _turn = turn::shared();
    let nobody = Port::claim();
    let url = format!("http://{}", nobody.address());
    let said = format!(
        "no gateway answers at {url} (connection refused): start it with 'livegate run', or name its admin address with --admin"
    );
    for arguments in [
        &["services"][..],
        &["instances"],
        &["routes"],
        &["events"],
        &["events", "-f"],
        &["explain", "orders"],
        &["drain", "orders", "a"],
        &["undrain", "orders", "a"],
    ] {
        let arguments = [arguments, &["--admin", &url]].concat();
        livegate(&arguments).fails(1, &[&said]);
    }
    livegate(&["services", "--admin", "https://127.0.0.1:9901"]).fails(2, &["only http://"]);
    livegate(&["drain", "orders"]).fails(2, &["<INSTANCE>"]);
    livegate(&["drain", "a", "b", "--wait", "--timeout", "5"]).fails(2, &["time unit"]);
    livegate(&["services", "--token-file", "/does/not/exist"])
        .fails(1, &["--token-file /does/not/exist"]);

    let fleet = Fleet::of(1, Duration::ZERO);
    let run = |arguments: &[&str]| at(&fleet.gateway, arguments);
    let id = fleet.id(0);
    for arguments in [
        &["instances", "orign"][..],
        &["explain", "orign"],
        &["events", "orign"],
        &["events", "-f", "orign"],
        &["drain", "orign", &id],
        &["undrain", "orign", &id],
    ] {
        run(arguments).fails(1, &["no service \"orign\", the nearest name is \"origin\""]);
    }
    for arguments in [
        &["explain", "origin", "127.0.0.1:1"][..],
        &["drain", "origin", "127.0.0.1:1"],
        &["undrain", "origin", "127.0.0.1:1"],
        &["drain", "origin", "a/b?c"],
    ] {
        run(arguments).fails(1, &["origin has no instance", &id]);
    }
    // Not an admin address, but a gateway's other one.
    let other = format!("http://{}", fleet.gateway.address());
    livegate(&["services", "--admin", &other]).fails(1, &["is no livegate admin API", "--admin"]);
}

#[test]
fn a_token_is_asked_for_and_given() {
    let _turn = turn::shared();
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, token: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, format!("{token}\n")).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (right, wrong) = (file("right", "s3cret"), file("wrong", "secret"));
    let gateway = Setup::default()
        .admin(&format!("token_file = \"{right}\""))
        .and_service("origin", &[], "")
        .start();
    at(&gateway, &["services"]).fails(1, &["wants a token", "--token-file"]);
    at(&gateway, &["events", "-f"]).fails(1, &["wants a token", "--token-file"]);
    at(&gateway, &["services", "--token-file", &wrong]).fails(1, &["does not accept", &wrong]);
    let text = at(&gateway, &["services", "--token-file", &right]).ok();
    assert!(text.contains("origin"), "{text}");
    let url = format!("http://{}", gateway.admin_address());
    let output = command(&["services"])
        .env("LIVEGATE_ADMIN", url)
        .env("LIVEGATE_TOKEN_FILE", &right)
        .output()
        .unwrap();
    assert_eq!(Ran::of(&output).ok(), text);
}

/// Sends a POST to the admin address as a browser's page of `origin` would.
fn post_as(gateway: &Gateway, path: &str, origin: &str) -> (u16, Value) {
    let mut client = Client::connect(gateway.admin_address());
    client.send(format!(
        "POST {path} HTTP/1.1\r\nHost: {}\r\nOrigin: {origin}\r\nContent-Length: 0\r\n\r\n",
        gateway.admin_address()
    ));
    let response = client.response("POST");
    let body = serde_json::from_str(&response.text()).unwrap();
    (response.status, body)
}

#[test]
fn pages_of_other_sites_cannot_drain() {
    let _turn = turn::shared();
    let fleet = Fleet::of(1, Duration::ZERO);
    let path = format!("/api/v1/services/origin/instances/{}/drain", fleet.id(0));
    for origin in [
        "https://evil.example",
        "null",
        &format!("http://{}", fleet.gateway.address()),
    ] {
        let (status, body) = post_as(&fleet.gateway, &path, origin);
        assert_eq!(
            (status, &body["error"]),
            (403, &"foreign_origin".into()),
            "{origin}"
        );
    }
    assert_eq!(fleet.gateway.get("/x").status, 200);
    let (status, body) = post_as(
        &fleet.gateway,
        &path,
        &format!("http://{}", fleet.gateway.admin_address()),
    );
    assert_eq!((status, &body["drained"]), (200, &true.into()));
    assert_eq!(fleet.gateway.get("/x").status, 503);
}

/// An instance is drained and taken back under load: no request fails, none reaches it meanwhile.
#[test]
fn a_drain_under_load_costs_no_request() {
    let _turn = turn::shared();
    let fleet = Fleet::of(2, Duration::from_millis(20));
    let id = fleet.id(0);
    let load = Load::start(fleet.gateway.address(), 16, "get", Method::Get);
    let since = Instant::now();
    load.run_for(200);
    let text = at(&fleet.gateway, &["drain", "origin", &id, "--wait"]).ok();
    assert!(
        text.contains(&format!("{id} takes no new requests")),
        "{text}"
    );
    assert!(text.contains("nothing is in flight to"), "{text}");
    let requests = || {
        let service = at(&fleet.gateway, &["instances", "origin", "--json"]).json();
        let instances = service["instances"].as_array().unwrap().clone();
        let instance = instances
            .iter()
            .find(|instance| instance["id"] == id.as_str());
        let instance = instance.expect("it is listed still");
        (
            instance["state"].clone(),
            instance["requests"].as_u64().unwrap(),
        )
    };
    let (state, before) = requests();
    assert_eq!(state, "draining");
    load.run_for(200);
    assert_eq!(requests().1, before, "a drained instance gets nothing");
    let text = at(&fleet.gateway, &["explain", "origin", &id]).ok();
    assert!(
        text.contains("not used: drained by the operator since "),
        "{text}"
    );
    assert!(
        text.contains("  operator  drained by the operator, for "),
        "{text}"
    );

    let text = at(&fleet.gateway, &["undrain", "origin", &id]).ok();
    assert!(text.contains("no longer drained"), "{text}");
    wait_until("it gets requests again", || requests().1 > before);
    assert_none(&load.finish().failures, since);
}

#[test]
fn a_drain_that_takes_too_long_says_so() {
    let _turn = turn::shared();
    let fleet = Fleet::of(2, Duration::from_secs(3600));
    let id = fleet.id(0);
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut client = fleet.gateway.connect();
        client.send("GET /x HTTP/1.1\r\nHost: a\r\n\r\n");
        clients.push(client);
    }
    wait_until("one request at each", || {
        let service = at(&fleet.gateway, &["instances", "origin", "--json"]).json();
        let instances = service["instances"].as_array().unwrap().clone();
        instances.iter().all(|instance| instance["in_flight"] == 1)
    });
    let ran = at(
        &fleet.gateway,
        &["drain", "origin", &id, "--wait", "--timeout", "300ms"],
    );
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert_eq!(
        ran.out,
        format!("{id} takes no new requests, 1 in flight\n")
    );
    assert!(
        ran.err.starts_with(&format!(
            "1 in flight to {id} after 300ms: it stays drained"
        )),
        "{ran:?}"
    );
    // Without waiting it is done at once.
    let text = at(&fleet.gateway, &["drain", "origin", &id]).ok();
    assert_eq!(text, format!("{id} takes no new requests, 1 in flight\n"));
    // It is over when the client goes.
    drop(clients);
    at(&fleet.gateway, &["drain", "origin", &id, "--wait"]).ok();
}

/// kill -9, and the questions that follow.
#[test]
fn a_killed_instance_is_explained_and_its_events_are_followed() {
    let _turn = turn::shared();
    let mut fleet = Fleet::of(2, Duration::ZERO);
    let id = fleet.id(0);
    let following = Following::start(&fleet.gateway, &["events", "-f", "origin"]);
    following.line(&[&id, "joined: "]);
    fleet.instances[0].kill();
    for _ in 0..4 {
        assert_eq!(fleet.gateway.get("/x").status, 200);
    }
    let line = following.line(&[&id, "quarantined: connection "]);
    assert_eq!(
        line.split("  ").nth(1),
        Some(format!("origin {id}").as_str()),
        "{line}"
    );
    let mut text = String::new();
    wait_until("the explanation names the refusal", || {
        text = at(&fleet.gateway, &["explain", "origin", &id]).ok();
        text.contains("not used: connection refused since ")
    });
    assert!(text.contains("1 of 2 instances used"), "{text}");
    assert!(
        text.contains("a probe tries to connect every 50 ms to 1 s"),
        "{text}"
    );
    assert!(text.contains("  quarantined: connection "), "{text}");
    assert!(
        text.contains("  registry  listed in the configuration, for "),
        "{text}"
    );
    assert!(!text.contains("  probes    nothing against it"), "{text}");
    let table = at(&fleet.gateway, &["instances", "origin"]).ok();
    let row = table.lines().find(|line| line.contains(&id)).unwrap();
    assert!(
        row.contains(" unhealthy ") && row.contains("connection refused for "),
        "{table}"
    );

    fleet.instances[0].launch();
    fleet.instances[0].wait_until_listening();
    following.line(&[&id, "released: "]);
    wait_until("it is used again", || {
        let text = at(&fleet.gateway, &["explain", "origin", &id]).ok();
        text.contains("\n  used: fit\n")
    });
}

/// The gateway restarts on the same addresses; whoever follows its events goes on.
#[test]
fn events_are_followed_over_a_restart_of_the_gateway() {
    let _turn = turn::shared();
    let fleet = Fleet::of(1, Duration::ZERO);
    let mut gateway = fleet.gateway;
    let following = Following::start(&gateway, &["events", "-f", "--json"]);
    let joined = |line: &str| {
        let event: Value = serde_json::from_str(line).unwrap();
        assert_eq!(
            (&event["kind"], &event["service"]),
            (&"joined".into(), &"origin".into())
        );
        event["number"].as_u64().unwrap()
    };
    let number = joined(&following.line(&["joined"]));
    gateway.restart();
    assert_eq!(
        joined(&following.line(&["joined"])),
        number,
        "numbers begin again"
    );
}

/// Whoever has seen enough closes the pipe, and nobody complains.
#[test]
fn closed_pipes_end_quietly() {
    let _turn = turn::shared();
    let fleet = Fleet::of(1, Duration::ZERO);
    let url = format!("http://{}", fleet.gateway.admin_address());
    for arguments in [
        &["events"][..],
        &["events", "-f"],
        &["explain", "origin"],
        &["services", "--json"],
    ] {
        let mut process = command(arguments)
            .env("LIVEGATE_ADMIN", &url)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop::<Option<ChildStdout>>(process.stdout.take());
        let mut status = None;
        wait_until("it ends", || {
            status = process.try_wait().unwrap();
            status.is_some()
        });
        let mut said = String::new();
        let stderr = process.stderr.as_mut().expect("it is piped");
        stderr.read_to_string(&mut said).unwrap();
        assert_eq!(
            (status.unwrap().code(), said.as_str()),
            (Some(0), ""),
            "{arguments:?}"
        );
    }
}
