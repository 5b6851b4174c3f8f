//! What is tried again, what never is, and which upstream connections are used again.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::conformance::{check_own_answer, token};
use crate::harness::client::HOST;
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::origin::{Origin, Then};
use crate::harness::port::Port;
use crate::harness::turn;
use crate::harness::wait::Gate;

/// No probes and no ejection: only what requests themselves do is looked at.
const BARE: &str = "balance = \"round-robin\"\n[services.origin.health_check]\ntype = \"none\"\n\
                    [services.origin.outlier]\nconsecutive_failures = 1000000\n";

fn gateway_to(origins: &[&Origin], keys: &str) -> Gateway {
    let addresses: Vec<_> = origins.iter().map(|origin| origin.address()).collect();
    Setup::service_with(&addresses, &format!("{BARE}{keys}"))
        .http("workers = 1")
        .start()
}

fn post(target: &str) -> String {
    format!("POST {target} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 5\r\n\r\nhello")
}

/// How often each target was begun at any of these origins.
fn counts(origins: &[&Origin], text: &str) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for request in origins.iter().flat_map(|origin| origin.requests(text)) {
        *counts.entry(request.target).or_default() += 1;
    }
    counts
}

#[test]
fn a_closed_pooled_connection_is_noticed_before_it_is_used() {
    let _turn = turn::shared();
    let origin = Origin::start();
    let gateway = gateway_to(&[&origin], "");
    let mut client = gateway.connect();
    for round in 0..50 {
        assert_eq!(client.get("/warm").status, 200);
        origin.close_connections();
        // Even a POST: nothing of it was sent on the closed connection.
        let target = format!("/post/{round}");
        client.send(post(&target));
        assert_eq!(client.response("POST").status, 200, "round {round}");
    }
    assert!(
        counts(&[&origin], "/post/")
            .values()
            .all(|count| *count == 1)
    );
}

#[test]
fn a_pooled_connection_that_dies_when_used_costs_a_get_nothing() {
    let _turn = turn::shared();
    let origin = Origin::start();
    let gateway = gateway_to(&[&origin], "");
    origin.script("/dies", |exchange| {
        if exchange.request.index > 0 {
            Then::Close
        } else {
            exchange.answer_by_default()
        }
    });
    let mut client = gateway.connect();
    for _ in 0..10 {
        assert_eq!(client.get("/warm").status, 200);
        assert_eq!(
            client.get("/dies").status,
            200,
            "retried on a fresh connection"
        );
    }
}

#[test]
fn a_get_without_an_answer_is_tried_elsewhere() {
    let _turn = turn::shared();
    let (bad, good) = (Origin::start(), Origin::start());
    let gateway = gateway_to(&[&bad, &good], "");
    for then in [Then::Close, Then::Reset] {
        let tag = format!("/{then:?}/");
        bad.script(tag.clone(), move |_| then);
        let mut client = gateway.connect();
        for method in ["GET", "HEAD", "OPTIONS", "DELETE", "PUT"] {
            for number in 0..4 {
                // Idempotent by RFC 9110 9.2.2, and there is no body to replay.
                client.send(format!("{method} {tag}{method}/{number} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 0\r\n\r\n"));
                assert_eq!(
                    client.response(method).status,
                    200,
                    "{method} {number} {then:?}"
                );
            }
        }
    }
    assert!(
        !bad.log().requests.is_empty(),
        "the bad instance was never tried: nothing was shown"
    );
}

/// An idempotent request with a body goes elsewhere with the same body, or not at all.
#[test]
fn a_body_is_repeated_whole_or_not_at_all() {
    let _turn = turn::shared();
    let (bad, good) = (Origin::start(), Origin::start());
    let gateway = gateway_to(&[&bad, &good], "");
    bad.script("/put/", |exchange| {
        drop(exchange.read_body());
        Then::Close
    });
    let mut retried = 0;
    for (number, size) in [
        5, 5, 1_000, 1_000, 10_000, 10_000, 100_000, 100_000, 1_000_000, 1_000_000,
    ]
    .into_iter()
    .enumerate()
    {
        for chunked in [false, true] {
            let target = format!("/put/{number}-{chunked}");
            let body = "0123456789".repeat(size / 10 + 1);
            let mut client = gateway.connect();
            client.send(match chunked {
                false => format!("PUT {target} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {}\r\n\r\n{body}", body.len()),
                true => format!("PUT {target} HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len()),
            });
            let response = client.response("PUT");
            assert!([200, 502].contains(&response.status), "{}", response.status);
            for request in good.requests(&target) {
                assert!(
                    request.complete() && request.body.bytes == body.as_bytes(),
                    "{target}: another body"
                );
            }
            if response.status == 200 {
                assert_eq!(good.requests(&target).len(), 1);
                retried += bad.requests(&target).len();
            }
        }
    }
    assert!(retried > 0, "not even a body of ten bytes was sent again");
}

#[test]
fn a_post_is_never_sent_twice() {
    let _turn = turn::shared();
    let (a, b) = (Origin::start(), Origin::start());
    let gateway = gateway_to(&[&a, &b], "");
    for origin in [&a, &b] {
        origin.script("/close/", |exchange| {
            drop(exchange.read_body());
            Then::Close
        });
        origin.script("/reset/", |exchange| {
            drop(exchange.read_body());
            Then::Reset
        });
        origin.script("/unread/", |_| Then::Close);
    }
    for way in ["close", "reset", "unread"] {
        for method in ["POST", "PATCH", "PROPPATCH"] {
            for number in 0..4 {
                let mut client = gateway.connect();
                let target = format!("/{way}/{method}/{number}");
                client.send(post(&target).replacen("POST", method, 1));
                let response = client.response(method);
                check_own_answer(&response);
                assert_eq!(
                    (response.status, response.get("x-livegate-reason")),
                    (502, Some("upstream_reset")),
                    "{target}"
                );
                assert_eq!(
                    counts(&[&a, &b], &target).get(&target),
                    Some(&1),
                    "{target}"
                );
            }
        }
    }
}

#[test]
fn a_request_that_was_never_sent_goes_elsewhere_whatever_its_method() {
    let _turn = turn::shared();
    let live = Origin::start();
    let dead = [Port::claim(), Port::claim(), Port::claim()];
    let mut addresses: Vec<_> = dead.iter().map(Port::address).collect();
    addresses.push(live.address());
    let keys = format!("{BARE}[services.origin.retry]\nattempts = 4\n");
    let gateway = Setup::service_with(&addresses, &keys)
        .http("workers = 1")
        .start();
    for number in 0..50 {
        let mut client = gateway.connect();
        let target = format!("/never-sent/{number}");
        client.send(post(&target));
        assert_eq!(client.response("POST").status, 200, "{target}");
        assert_eq!(live.request(&target).body.bytes, b"hello");
    }
}

/// Once a byte of a response has gone to the client there is no other attempt; before that, only a request that may be
/// repeated is.
#[test]
fn a_response_that_has_begun_is_not_begun_again() {
    let _turn = turn::shared();
    let (a, b) = (Origin::start(), Origin::start());
    let gateway = gateway_to(&[&a, &b], "");
    for origin in [&a, &b] {
        origin.answer("/half-head", "HTTP/1.1 200 OK\r\nContent-Le", Then::Close);
        let half = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n{}",
            "x".repeat(500_000)
        );
        origin.answer("/half-body", half, Then::Close);
    }
    let response = gateway.get("/half-head/get");
    check_own_answer(&response);
    assert_eq!(response.status, 502);
    for (method, target) in [
        ("GET", "/half-body/get"),
        ("POST", "/half-body/post"),
        ("POST", "/half-head/post"),
    ] {
        let mut client = gateway.connect();
        client.send(post(target).replacen("POST", method, 1));
        let response = client.read(method).unwrap();
        if target.starts_with("/half-head") {
            assert_eq!(response.status, 502);
        } else {
            assert!(
                !response.complete && response.body.len() <= 500_000,
                "{} bytes",
                response.body.len()
            );
        }
        assert_eq!(
            counts(&[&a, &b], target).get(target),
            Some(&1),
            "{method} {target}"
        );
    }
}

#[test]
fn attempts_are_counted() {
    let _turn = turn::shared();
    let origins = [
        Origin::start(),
        Origin::start(),
        Origin::start(),
        Origin::start(),
    ];
    let all: Vec<&Origin> = origins.iter().collect();
    for origin in &all {
        origin.script("/fails/", |_| Then::Close);
    }
    for (attempts, keys) in [
        (3, ""),
        (1, "[services.origin.retry]\nattempts = 1\n"),
        (2, "[services.origin.retry]\nattempts = 2\n"),
    ] {
        let gateway = gateway_to(&all, keys);
        let target = format!("/fails/{}", token("count"));
        let response = gateway.get(&target);
        assert_eq!(
            (response.status, response.get("x-livegate-reason")),
            (502, Some("upstream_reset"))
        );
        assert_eq!(
            counts(&all, &target).get(&target),
            Some(&attempts),
            "attempts = {attempts}"
        );
    }
}

/// The budget: 20 % of the requests and a floor. When everything fails, retries do not multiply the load.
#[test]
fn retries_have_a_budget() {
    let _turn = turn::shared();
    let (a, b) = (Origin::start(), Origin::start());
    let gateway = gateway_to(&[&a, &b], "");
    for origin in [&a, &b] {
        origin.script("/fails/", |_| Then::Close);
    }
    let mut client = gateway.connect();
    let requests = 2_000;
    for number in 0..requests {
        assert_eq!(client.get(&format!("/fails/{number}")).status, 502);
    }
    let attempts = a.requests("/fails/").len() + b.requests("/fails/").len();
    assert!(
        attempts >= requests,
        "{attempts} attempts: every request is tried once"
    );
    // 1.2 x 2 000, and a floor of a few retries a second.
    assert!(
        attempts <= requests * 3 / 2,
        "{attempts} attempts for {requests} requests"
    );
}

#[test]
fn a_head_that_does_not_come_is_asked_for_elsewhere() {
    let _turn = turn::shared();
    let (slow, good) = (Origin::start(), Origin::start());
    let gateway = gateway_to(
        &[&slow, &good],
        "[services.origin.timeouts]\nresponse_head = \"400ms\"\n",
    );
    slow.script("/slow/", |exchange| {
        drop(exchange.read_body());
        exchange.gateway_leaves();
        Then::Close
    });
    for number in 0..4 {
        assert_eq!(
            gateway.get(&format!("/slow/get/{number}")).status,
            200,
            "an idempotent request is retried"
        );
    }
    let mut statuses = Vec::new();
    for number in 0..4 {
        let mut client = gateway.connect();
        let target = format!("/slow/post/{number}");
        client.send(post(&target));
        statuses.push(client.response("POST").status);
        assert_eq!(
            counts(&[&slow, &good], &target).get(&target),
            Some(&1),
            "{target}"
        );
    }
    assert!(
        statuses.iter().all(|status| [200, 504].contains(status)),
        "{statuses:?}"
    );
}

/// An instance that neither accepts nor refuses: `connect` bounds the wait, and another instance answers.
#[test]
fn a_connect_that_hangs_is_given_up() {
    let _turn = turn::shared();
    let live = Origin::start();
    // A listen queue that is full: further handshakes are not answered (Linux drops their SYN).
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    full.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into())
        .unwrap();
    full.listen(0).unwrap();
    let address = full.local_addr().unwrap().as_socket().unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) =
        std::net::TcpStream::connect_timeout(&address, Duration::from_millis(100))
    {
        waiting.push(stream);
        assert!(waiting.len() < 64, "the queue never fills up");
    }
    let keys = format!("{BARE}[services.origin.timeouts]\nconnect = \"300ms\"\n");
    let gateway = Setup::service_with(&[address, live.address()], &keys)
        .http("workers = 1")
        .start();
    for number in 0..6 {
        let since = Instant::now();
        let mut client = gateway.connect();
        client.send(post(&format!("/hangs/{number}")));
        assert_eq!(
            client.response("POST").status,
            200,
            "never sent: it may go elsewhere"
        );
        assert!(
            since.elapsed() < Duration::from_secs(3),
            "it took {:?}",
            since.elapsed()
        );
    }
    let alone = Setup::service_with(
        &[address],
        &format!("{keys}[services.origin.retry]\nattempts = 1\n"),
    )
    .start();
    let response = alone.get("/hangs");
    check_own_answer(&response);
    let reason = response.get("x-livegate-reason").unwrap_or_default();
    assert!([502, 504].contains(&response.status), "{}", response.status);
    assert!(
        ["connect_failed", "upstream_timeout"].contains(&reason),
        "{reason}"
    );
}

#[test]
fn instances_may_have_names() {
    let _turn = turn::shared();
    let origin = Origin::start();
    let service = format!(
        "[services.named]\ninstances = [{{ address = \"localhost:{}\" }}]\n[[routes]]\npath = \"/\"\nservice = \"named\"\n",
        origin.address().port()
    );
    let gateway = Setup::default().and(&service).start();
    crate::harness::wait::wait_until("the name is resolved", || {
        gateway.get("/named").status == 200
    });
}

#[test]
fn upstream_connections_are_used_again() {
    let _turn = turn::shared();
    let origin = Origin::start();
    let gateway = gateway_to(&[&origin], "");
    let mut client = gateway.connect();
    for number in 0..100 {
        assert_eq!(client.get(&format!("/again/{number}")).status, 200);
    }
    for number in 0..20 {
        assert_eq!(gateway.get(&format!("/others/{number}")).status, 200);
    }
    assert_eq!(
        origin.log().connections.len(),
        1,
        "one after the other, by several clients: one connection"
    );
}

#[test]
fn the_pool_is_bounded_and_gives_idle_connections_up() {
    let _turn = turn::shared();
    let origin = Origin::start();
    let gateway = gateway_to(
        &[&origin],
        "[services.origin.pool]\nidle_max = 2\nidle_timeout = \"500ms\"\n",
    );
    let gate = Arc::new(Gate::default());
    let held = Arc::clone(&gate);
    origin.script("/together/", move |exchange| {
        if held.pass() {
            exchange.answer_by_default()
        } else {
            Then::Close
        }
    });
    let mut clients: Vec<_> = (0..8).map(|_| gateway.connect()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(format!(
            "GET /together/{number} HTTP/1.1\r\nHost: {HOST}\r\n\r\n"
        ));
    }
    origin.wait_for("eight requests at once", |log| log.requests.len() == 8);
    gate.open();
    for client in &mut clients {
        assert_eq!(client.response("GET").status, 200);
    }
    let open = |log: &crate::harness::origin::Log| {
        log.connections
            .iter()
            .filter(|connection| connection.ending == crate::harness::origin::Ending::Open)
            .count()
    };
    origin.wait_for("no more than two idle connections", |log| open(log) <= 2);
    origin.wait_for("no idle connection after idle_timeout", |log| {
        open(log) == 0
    });
}

/// RULES 24: an early final response is relayed; what is left of the request never meets another one.
#[test]
fn early_responses() {
    let _turn = turn::shared();
    let origin = Origin::start();
    let gateway = gateway_to(&[&origin], "");
    for (name, connection, then) in [
        ("keep", "", Then::Keep),
        ("close", "Connection: close\r\n", Then::Close),
    ] {
        let answer = format!("HTTP/1.1 413 Too large\r\nContent-Length: 3\r\n{connection}\r\nbig");
        origin.script(format!("/early/{name}"), move |exchange| {
            exchange.send(answer.as_bytes());
            then
        });
        let mut client = gateway.connect();
        client.send(format!(
            "POST /early/{name} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 300000\r\n\r\n{}",
            "x".repeat(1000)
        ));
        let response = client.response("POST");
        assert_eq!(
            (response.status, response.text().as_str()),
            (413, "big"),
            "{name}"
        );
        client.try_send("y".repeat(299_000));
        if !response.closes() {
            client.expect_usable();
        }
        for number in 0..4 {
            let target = format!("/canary/{name}/{number}");
            assert_eq!(gateway.get(&target).text(), format!("GET {target}\n"));
        }
    }
    // The origin keeps reading after its early answer: garbage there would be the rest of the body.
    let malformed = std::mem::take(&mut origin.log().malformed);
    assert!(
        malformed
            .iter()
            .all(|what| what.contains("xxxx") || what.contains("yyyy")),
        "{malformed:?}"
    );
    let foreign = origin.log().requests.iter().any(|request| {
        !request.target.starts_with("/early")
            && !request.target.starts_with("/canary")
            && !request.target.starts_with("/still")
    });
    assert!(!foreign);
}

/// RULES 25: the client is gone; the upstream request is cancelled, and its late answer goes to nobody.
#[test]
fn a_client_that_leaves_takes_its_request_along() {
    let _turn = turn::shared();
    let origin = Origin::start();
    let gateway = gateway_to(&[&origin], "");
    for (name, body) in [("get", false), ("post", true)] {
        let target = format!("/late/{name}/{}", token("gone"));
        let cancelled = Arc::new(Gate::default());
        let seen = Arc::clone(&cancelled);
        origin.script(target.clone(), move |exchange| {
            if !body {
                drop(exchange.read_body());
            }
            if exchange.gateway_leaves() || body {
                seen.open();
            }
            exchange.send_ok("LATE");
            Then::Keep
        });
        let mut client = gateway.connect();
        if body {
            client.send(format!(
                "POST {target} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 1000\r\n\r\nhalf"
            ));
        } else {
            client.send(format!("GET {target} HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
        }
        origin.wait_for_request(&target);
        client.reset();
        assert!(
            cancelled.pass(),
            "{name}: the upstream request was not cancelled"
        );
        for number in 0..4 {
            let canary = format!("/canary/{name}/{number}");
            assert_eq!(gateway.get(&canary).text(), format!("GET {canary}\n"));
        }
    }
    // In the middle of a response that the client was reading.
    let target = format!("/endless/{}", token("gone"));
    origin.script(target.clone(), |exchange| {
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
        while exchange.send(&[b'x'; 65_536]) {}
        Then::Close
    });
    let mut client = gateway.connect();
    client.send(format!("GET {target} HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    client.wire().patience(crate::harness::wait::PATIENCE);
    client.wire().take(1_000_000).unwrap();
    client.reset();
    origin.wait_for_end_of(&target);
}
