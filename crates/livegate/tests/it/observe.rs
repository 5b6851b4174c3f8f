//! What the gateway tells about itself: access log, metrics, health, and `livegate check`.

use std::process::Command;

use crate::harness::client::HOST;
use crate::harness::gateway::{Setup, binary};
use crate::harness::origin::{Origin, Then};
use crate::harness::port::Port;
use crate::harness::turn;
use crate::harness::wait::wait_until;

#[test]
fn the_access_log_has_a_line_for_every_request() {
    let _turn = turn::shared();
    let origin = Origin::start();
    let dead = Port::claim();
    let setup = Setup::to(&origin)
        .and_service(
            "dead",
            &[dead.address()],
            "[services.dead.retry]\nattempts = 1\n[services.dead.health_check]\ntype = \"none\"",
        )
        .and_route("path = \"/dead\"\nservice = \"dead\"")
        .http("access_log = \"access.log\"");
    let gateway = setup.start();
    origin.answer(
        "/teapot",
        "HTTP/1.1 418 Teapot\r\nContent-Length: 5\r\n\r\nshort",
        Then::Keep,
    );
    let mut client = gateway.connect();
    client.send(format!("POST /one?q=\"%22 HTTP/1.1\r\nHost: {HOST}\r\nX-Request-Id: my-id\r\nContent-Length: 2\r\n\r\nhi"));
    let status_of_odd_target = client.read("POST").unwrap().status;
    let mut client = gateway.connect();
    client.get("/teapot");
    client.get("/dead");
    client.send("BAD\r\n\r\n");
    drop(client.read("GET"));
    let mut lines = Vec::new();
    wait_until("four lines in the access log", || {
        let text = std::fs::read_to_string(gateway.file("access.log")).unwrap_or_default();
        lines = text
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON lines"))
            .collect();
        lines.len() >= 4
    });
    let find = |target: &str| {
        lines
            .iter()
            .find(|line| {
                line["target"]
                    .as_str()
                    .is_some_and(|t| t.starts_with(target))
            })
            .unwrap_or_else(|| panic!("{target}: {lines:?}"))
    };
    let one = find("/one");
    assert_eq!(
        (&one["method"], &one["status"]),
        (&"POST".into(), &status_of_odd_target.into())
    );
    let teapot = find("/teapot");
    assert_eq!(
        (&teapot["status"], &teapot["attempts"]),
        (&418.into(), &1.into())
    );
    assert_eq!(teapot["upstream"], origin.address().to_string());
    assert!(teapot["client"].as_str().unwrap().starts_with("127.0.0.1"));
    for key in ["time", "bytes"] {
        assert!(!teapot[key].is_null(), "{key}: {teapot}");
    }
    let object = teapot.as_object().unwrap();
    assert!(
        object.keys().any(|key| key.starts_with("duration")),
        "{teapot}"
    );
    assert!(
        object.keys().any(|key| key.contains("request_id")),
        "{teapot}"
    );
    if status_of_odd_target == 200 {
        assert!(one.to_string().contains("my-id"), "{one}");
    }
    let dead = find("/dead");
    assert_eq!(
        (&dead["status"], &dead["reason"]),
        (&502.into(), &"connect_failed".into())
    );
    assert!(
        lines
            .iter()
            .any(|line| line["status"] == 400 && line["reason"] == "bad_request"),
        "{lines:?}"
    );
}

/// Whatever a client sends, a line of the log is one line of valid JSON.
#[test]
fn the_access_log_cannot_be_written_into() {
    let _turn = turn::shared();
    let origin = Origin::start();
    let gateway = Setup::to(&origin)
        .http("access_log = \"access.log\"")
        .start();
    let requests: [&[u8]; 5] = [
        b"GET /caf\xe9\xff?\xc3( HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /a?\"},{\"status\":200 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /a HTTP/1.1\r\nHost: a\r\nX-Request-Id: a\"b\\\xe9\r\n\r\n",
        b"GET /a\x1b[31m HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x00\x01\x02\"\\\r\n\r\n",
    ];
    for bytes in requests {
        let mut client = gateway.connect();
        client.send(bytes);
        drop(client.read("GET"));
    }
    let mut text = String::new();
    wait_until("a line for each request", || {
        text = std::fs::read_to_string(gateway.file("access.log")).expect("UTF-8");
        text.lines().count() >= 4
    });
    for line in text.lines() {
        let entry: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(entry.is_object() && entry["status"].is_number(), "{line}");
        assert!(!line.contains('\x1b'), "{line:?}");
    }
}

/// What cannot be started says why, in one sentence, and exits with 1.
#[test]
fn a_start_that_fails_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("gateway.toml");
    let taken = Port::claim();
    let _holder = std::net::TcpListener::bind(taken.address()).unwrap();
    let admin = Port::claim();
    let run = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let output = Command::new(binary())
            .args(["run", "--config"])
            .arg(&file)
            .current_dir(directory.path())
            .env("RUST_BACKTRACE", "0")
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let rest = format!(
        "[admin]\nlisten = \"{}\"\n[registry]\nmode = \"none\"\n",
        admin.address()
    );
    let (code, text) = run(&format!(
        "[http]\nlisten = [\"{}\"]\n{rest}",
        taken.address()
    ));
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains(&taken.number().to_string()) && !text.contains("panicked"),
        "{text}"
    );
    let (code, text) = run(&format!(
        "[http]\nlisten = [\"nonsense\"]\nidle_timeout = 5\n{rest}"
    ));
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains("listen") && text.contains("idle_timeout"),
        "all errors at once:\n{text}"
    );
}

#[test]
fn metrics_count_what_happened() {
    let _turn = turn::shared();
    let origin = Origin::start();
    let gateway = Setup::to(&origin)
        .and_route("path = \"/no\"\nstatus = 403")
        .start();
    let mut client = gateway.connect();
    for number in 0..30 {
        assert_eq!(client.get(&format!("/{number}")).status, 200);
    }
    for _ in 0..5 {
        assert_eq!(client.get("/no").status, 403);
    }
    wait_until("30 requests are counted", || {
        gateway.metric(
            "livegate_requests_total",
            &["service=\"origin\"", "code=\"200\""],
        ) == 30.0
    });
    wait_until("5 refusals are counted", || {
        gateway.metric("livegate_requests_total", &["code=\"403\""]) == 5.0
    });
    assert_eq!(
        gateway.metric("livegate_upstream_attempts_total", &["service=\"origin\""]),
        30.0
    );
    assert_eq!(
        gateway.metric(
            "livegate_request_duration_seconds_count",
            &["service=\"origin\""]
        ),
        30.0
    );
    assert_eq!(
        gateway.metric(
            "livegate_endpoints",
            &["service=\"origin\"", "state=\"fit\""]
        ),
        1.0
    );
    assert!(gateway.metric("livegate_connections", &["side=\"downstream\""]) >= 1.0);
    assert!(gateway.metric("livegate_connections", &["side=\"upstream\""]) >= 1.0);
    let text = gateway.admin("/metrics").text();
    for name in [
        "requests_total",
        "request_duration_seconds",
        "upstream_attempts_total",
        "endpoints",
        "connections",
    ] {
        assert!(
            text.contains(&format!("# TYPE livegate_{name}"))
                || text.contains(&format!(
                    "# TYPE livegate_{}",
                    name.trim_end_matches("_total")
                )),
            "{name}: {text}"
        );
    }
}

#[test]
fn healthz_and_readyz() {
    let _turn = turn::shared();
    let origin = Origin::start();
    let gateway = Setup::to(&origin).start();
    assert_eq!(gateway.admin("/healthz").status, 200);
    wait_until("ready", || gateway.admin("/readyz").status == 200);
    assert_eq!(gateway.admin("/nothing").status, 404);
}

#[test]
fn check_tells_all_errors_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("gateway.toml");
    let check = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let output = Command::new(binary())
            .arg("check")
            .arg(&file)
            .output()
            .unwrap();
        let all = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        (output.status.code(), all)
    };
    let good = "[http]\nlisten = [\"127.0.0.1:8080\"]\n[services.a]\ninstances = [ { address = \"127.0.0.1:1\" } ]\n\
                [[routes]]\npath = \"/\"\nservice = \"a\"\n";
    let (code, text) = check(good);
    assert_eq!(code, Some(0), "{text}");
    let bad = "[http]\nlisten = [\"127.0.0.1:8080\"]\nidle_timeout = 75\nheader_byte_max = \"1KiB\"\n\
               [services.a]\nbalance = \"rond-robin\"\ninstances = [ { address = \"127.0.0.1:1\" } ]\n\
               [[routes]]\npath = \"/\"\nservice = \"b\"\n";
    let (code, text) = check(bad);
    assert_eq!(code, Some(1), "{text}");
    for words in [
        "idle_timeout",
        "header_bytes_max",
        "round-robin",
        "services.a.balance",
    ] {
        assert!(text.contains(words), "no {words} in:\n{text}");
    }
    for place in [":3:", ":4:", ":6:"] {
        let line = place.trim_matches(':');
        assert!(
            text.contains(place) || text.contains(&format!("line {line}")),
            "no line {line} in:\n{text}"
        );
    }
    let output = Command::new(binary()).arg("check").output().unwrap();
    assert_eq!(output.status.code(), Some(2), "wrong usage");
    let output = Command::new(binary())
        .arg("check")
        .arg("/does/not/exist.toml")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn the_examples_are_good() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples");
    let files: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "toml")
        })
        .collect();
    assert!(!files.is_empty(), "no examples in {directory}");
    for file in files {
        let output = Command::new(binary())
            .arg("check")
            .arg(&file)
            .output()
            .unwrap();
        assert_eq!(
            output.status.code(),
            Some(0),
            "{}: {output:?}",
            file.display()
        );
    }
}
