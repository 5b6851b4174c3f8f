//! A new configuration while requests run: applied whole or not at all, and nothing is lost or reset.

use std::time::Instant;

use rustix::process::Signal;

use crate::conformance::token;
use crate::harness::client::HOST;
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::load::{Load, Method, assert_none};
use crate::harness::origin::{Ending, Origin, Then};
use crate::harness::port::Port;
use crate::harness::turn;
use crate::harness::wait::{Gate, holds_within, wait_until};

/// The base with one more route that answers `status` under `/marker`.
fn marked(base: &Setup, status: u16) -> Setup {
    base.clone()
        .and_route(&format!("path = \"/marker\"\nstatus = {status}"))
}

fn reload(gateway: &Gateway, setup: &Setup) {
    gateway.write_config(setup);
    gateway.signal(Signal::HUP);
}

fn wait_for_marker(gateway: &Gateway, status: u16) {
    wait_until(&format!("the new configuration ({status})"), || {
        gateway.get("/marker").status == status
    });
}

#[test]
fn reloads_under_load_cost_no_request_and_no_connection() {
    let _turn = turn::alone();
    let (a, b) = (Origin::start(), Origin::start());
    let base = Setup::service(&[a.address(), b.address()]);
    let gateway = marked(&base, 450).start();
    let load = Load::start(gateway.address(), 32, "get", Method::Get);
    let since = Instant::now();
    load.run_for(500);
    let requests_before = gateway.metric("livegate_requests_total", &[]);
    let connections = |origin: &Origin| origin.log().connections.len();
    for round in 0..20 {
        let status = 451 + round % 2;
        reload(&gateway, &marked(&base, status));
        wait_for_marker(&gateway, status);
        load.run_for(100);
    }
    let opened = connections(&a) + connections(&b);
    load.run_for(500);
    let report = load.finish();
    assert_none(&report.failures, since);
    let requests_after = gateway.metric("livegate_requests_total", &[]);
    assert!(
        requests_after >= requests_before + 3_000.0,
        "counters were reset: {requests_before} -> {requests_after}"
    );
    // 32 at once and two workers: pools that were thrown away at each reload would show as hundreds. (Probes are connections too.)
    let carried = a
        .log()
        .connections
        .iter()
        .chain(&b.log().connections)
        .filter(|connection| connection.requests > 0)
        .count();
    assert!(
        carried <= 160,
        "{carried} upstream connections carried requests ({opened} were opened)"
    );
}

#[test]
fn client_and_upstream_connections_outlive_a_reload() {
    let _turn = turn::shared();
    let origin = Origin::start();
    let keys = "[services.origin.health_check]\ntype = \"none\"\n";
    let base = Setup::service_with(&[origin.address()], keys).http("workers = 1");
    let gateway = marked(&base, 450).start();
    let mut client = gateway.connect();
    assert_eq!(client.get("/before").status, 200);
    for round in 0..5 {
        reload(&gateway, &marked(&base, 451 + round));
        wait_for_marker(&gateway, 451 + round);
        assert_eq!(
            client.get("/after").status,
            200,
            "the client's connection is kept"
        );
    }
    assert_eq!(
        origin.log().connections.len(),
        1,
        "the upstream connection is kept"
    );
    assert_eq!(origin.log().connections[0].ending, Ending::Open);
}

/// What was learnt about instances stays: an unhealthy one is not tried again because a file was read again.
#[test]
fn health_is_not_forgotten() {
    let _turn = turn::shared();
    let good = Origin::start();
    let bad = Origin::start();
    bad.script("/healthz", |exchange| {
        drop(exchange.read_body());
        exchange.send(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n");
        Then::Keep
    });
    good.script("/healthz", |exchange| exchange.answer_by_default());
    let keys = "balance = \"round-robin\"\n[services.origin.health_check]\ntype = \"http\"\npath = \"/healthz\"\ninterval = \"200ms\"\n";
    let base = Setup::service_with(&[good.address(), bad.address()], keys);
    let gateway = marked(&base, 450).start();
    let mut client = gateway.connect();
    let mut is_used = |origin: &Origin| {
        let tag = token("use");
        for number in 0..20 {
            assert_eq!(client.get(&format!("/{tag}/{number}")).status, 200);
        }
        !origin.requests(&tag).is_empty()
    };
    wait_until("the bad instance is found out", || !is_used(&bad));
    for round in 0..10 {
        reload(&gateway, &marked(&base, 451 + round));
        // Looked at from the very first request under the new configuration.
        wait_until("the new configuration", || {
            assert!(!is_used(&bad), "round {round}: forgotten by a reload");
            gateway.get("/marker").status == 451 + round
        });
        assert!(!is_used(&bad), "round {round}: forgotten by a reload");
    }
}

#[test]
fn a_bad_file_changes_nothing_and_says_why() {
    let _turn = turn::shared();
    let origin = Origin::start();
    let base = Setup::to(&origin);
    let gateway = marked(&base, 450).start();
    let good = gateway.config_text();
    for (bad, words) in [
        (
            good.replace("[admin]", "[admin]\nlissten = \"x\""),
            vec!["lissten", "listen"],
        ),
        (
            good.replace("workers = 2", "workers = 2\nidle_timeout = 75"),
            vec!["idle_timeout"],
        ),
        ("this is not toml = = =".to_owned(), vec!["line"]),
        (
            good.replace("service = \"origin\"", "service = \"nowhere\""),
            vec!["nowhere"],
        ),
    ] {
        gateway.write_config_text(&bad);
        gateway.signal(Signal::HUP);
        gateway.wait_for_log(&words);
        assert_eq!(gateway.get("/marker").status, 450);
        assert_eq!(gateway.get("/still").text(), "GET /still\n");
    }
    // And it still takes a good one.
    reload(&gateway, &marked(&base, 451));
    wait_for_marker(&gateway, 451);
}

#[test]
fn saving_the_file_is_enough() {
    let _turn = turn::shared();
    let origin = Origin::start();
    let base = Setup::to(&origin);
    let gateway = marked(&base, 450).start();
    // By a rename, as most editors do it.
    gateway.write_config(&marked(&base, 451));
    wait_for_marker(&gateway, 451);
    // And in place.
    let text = gateway.config_text().replace("451", "452");
    std::fs::write(gateway.file("gateway.toml"), text).unwrap();
    wait_for_marker(&gateway, 452);
}

#[test]
fn instances_come_and_go_with_a_reload() {
    let _turn = turn::shared();
    let (old, new) = (Origin::start(), Origin::start());
    let held = std::sync::Arc::new(Gate::default());
    let gate = std::sync::Arc::clone(&held);
    old.script("/running", move |exchange| {
        if gate.pass() {
            exchange.answer_by_default()
        } else {
            Then::Close
        }
    });
    let pool = "[services.origin.pool]\nidle_timeout = \"1s\"\n";
    let to = |origin: &Origin| Setup::service_with(&[origin.address()], pool);
    let gateway = marked(&to(&old), 450).start();
    let mut running = gateway.connect();
    running.send(format!("GET /running HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    old.wait_for_request("/running");
    reload(&gateway, &marked(&to(&new), 451));
    wait_for_marker(&gateway, 451);
    for number in 0..50 {
        assert_eq!(gateway.get(&format!("/moved/{number}")).status, 200);
    }
    assert!(
        old.requests("/moved").is_empty(),
        "the removed instance still gets requests"
    );
    held.open();
    assert_eq!(
        running.response("GET").text(),
        "GET /running\n",
        "what ran on it is finished"
    );
    let gone = holds_within(crate::harness::wait::PATIENCE, || {
        old.log()
            .connections
            .iter()
            .all(|connection| connection.ending != Ending::Open)
    });
    assert!(gone, "connections to the removed instance are closed");
}

/// `[http] listen` is taken: the process must not die of a reload that it cannot carry out.
#[test]
fn a_reload_that_cannot_be_carried_out_is_survived() {
    let _turn = turn::shared();
    let origin = Origin::start();
    let base = Setup::to(&origin);
    let mut gateway = marked(&base, 450).start();
    let taken = Port::claim();
    let _holder = std::net::TcpListener::bind(taken.address()).unwrap();
    let text = gateway
        .config_text()
        .replace(&gateway.address().to_string(), &taken.address().to_string());
    gateway.write_config_text(&text);
    gateway.signal(Signal::HUP);
    // Whether listeners can be moved by a reload or not: the old one serves, and nothing dies.
    for _ in 0..20 {
        assert_eq!(gateway.get("/still").status, 200);
    }
    reload(&gateway, &marked(&base, 451));
    wait_for_marker(&gateway, 451);
    assert!(!gateway.has_exited());
}
