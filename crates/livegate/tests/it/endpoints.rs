//! Which instance gets a request: balancing, health checks, ejection, and coming back.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::conformance::token;
use crate::harness::client::{Client, HOST};
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::origin::{Ending, Origin, Then};
use crate::harness::port::Port;
use crate::harness::turn;
use crate::harness::wait::{holds_within, wait_until};

/// Instances that answer with their letter: a, b, c ...
fn lettered(count: u8) -> Vec<Origin> {
    (0..count)
        .map(|number| named(Origin::start(), char::from(b'a' + number)))
        .collect()
}

fn named(origin: Origin, letter: char) -> Origin {
    origin.script("", move |exchange| {
        drop(exchange.read_body());
        exchange.send_ok(&letter.to_string());
        Then::Keep
    });
    origin
}

fn addresses(origins: &[Origin]) -> Vec<SocketAddr> {
    origins.iter().map(Origin::address).collect()
}

/// The letters that answer `count` requests on one connection.
fn letters(client: &mut Client, count: usize) -> String {
    (0..count)
        .map(|_| client.get(&format!("/{}", token("pick"))).text())
        .collect()
}

fn tally(letters: &str) -> BTreeMap<char, usize> {
    let mut tally = BTreeMap::new();
    for letter in letters.chars() {
        *tally.entry(letter).or_default() += 1;
    }
    tally
}

#[test]
fn smooth_weighted_round_robin_is_exact() {
    let _turn = turn::shared();
    let origins = lettered(3);
    let weights: String = origins
        .iter()
        .zip([4, 3, 2])
        .map(|(origin, weight)| format!("\"{}\" = {weight}, ", origin.address()))
        .collect();
    let keys = format!(
        "balance = \"weighted-round-robin\"\nweights = {{ {} }}",
        weights.trim_end_matches(", ")
    );
    let gateway = Setup::service_with(&addresses(&origins), &keys)
        .http("workers = 1")
        .start();
    let seen = letters(&mut gateway.connect(), 36);
    // The sequence of the classic algorithm, from wherever it stands.
    assert!("abcabacba".repeat(6).contains(&seen), "{seen}");
}

#[test]
fn every_balancer_uses_every_instance() {
    let _turn = turn::shared();
    for balance in [
        "random",
        "round-robin",
        "weighted-round-robin",
        "least-request",
        "peak-ewma",
    ] {
        let origins = lettered(4);
        let keys = format!("balance = \"{balance}\"");
        let gateway = Setup::service_with(&addresses(&origins), &keys).start();
        let mut seen = String::new();
        for _ in 0..10 {
            seen += &letters(&mut gateway.connect(), 40);
        }
        let tally = tally(&seen);
        assert_eq!(tally.len(), 4, "{balance}: {tally:?}");
        let least = match balance {
            "round-robin" | "weighted-round-robin" => 80,
            // One slow answer hides an instance for seconds: that is what it is for.
            "peak-ewma" => 1,
            _ => 10,
        };
        assert!(
            tally.values().all(|count| *count >= least),
            "{balance}: {tally:?}"
        );
    }
}

#[test]
fn equal_keys_stay_together() {
    let _turn = turn::shared();
    for balance in ["consistent-hash", "maglev"] {
        for (hash_on, request) in [
            ("path", "GET /key/%?x=! HTTP/1.1\r\nHost: h\r\n\r\n"),
            ("uri", "GET /key?k=% HTTP/1.1\r\nHost: h\r\nX: !\r\n\r\n"),
            (
                "header:X-User",
                "GET /! HTTP/1.1\r\nHost: h\r\nx-user: %\r\n\r\n",
            ),
            (
                "cookie:session",
                "GET /! HTTP/1.1\r\nHost: h\r\nCookie: a=b; session=%; c=d\r\n\r\n",
            ),
            (
                "query:user",
                "GET /!?a=b&user=%&c=! HTTP/1.1\r\nHost: h\r\n\r\n",
            ),
        ] {
            let origins = lettered(4);
            let keys = format!("balance = \"{balance}\"\nhash_on = \"{hash_on}\"");
            let gateway = Setup::service_with(&addresses(&origins), &keys).start();
            let mut used = String::new();
            for key in 0..40 {
                let mut letters = String::new();
                for other in 0..3 {
                    // A connection of its own each, so that both workers are asked.
                    let mut client = gateway.connect();
                    client.send(
                        request
                            .replace('%', &format!("key{key}"))
                            .replace('!', &format!("{other}{}", token("o"))),
                    );
                    letters += &client.response("GET").text();
                }
                assert_eq!(
                    tally(&letters).len(),
                    1,
                    "{balance} on {hash_on}: key {key} went to {letters}"
                );
                used += &letters;
            }
            assert!(
                tally(&used).len() >= 3,
                "{balance} on {hash_on}: 40 keys went to {:?}",
                tally(&used)
            );
        }
    }
}

const PROBED: &str = "balance = \"round-robin\"\n[services.origin.health_check]\ntype = \"http\"\npath = \"/healthz\"\n\
                      interval = \"100ms\"\ntimeout = \"200ms\"\nfall = 2\nrise = 1\n";

/// An instance whose `/healthz` says what `healthy` says.
fn probed(origin: &Origin, healthy: &Arc<AtomicBool>) {
    let healthy = Arc::clone(healthy);
    origin.script("/healthz", move |exchange| {
        drop(exchange.read_body());
        let status = if healthy.load(Ordering::SeqCst) {
            "200 OK"
        } else {
            "503 Not now"
        };
        exchange.send(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes());
        Then::Keep
    });
}

#[test]
fn an_instance_that_fails_its_checks_gets_no_requests_until_it_passes_again() {
    let _turn = turn::shared();
    let origins = lettered(2);
    let healthy = Arc::new(AtomicBool::new(true));
    probed(&origins[0], &Arc::new(AtomicBool::new(true)));
    probed(&origins[1], &healthy);
    let gateway = Setup::service_with(&addresses(&origins), PROBED).start();
    let mut client = gateway.connect();
    wait_until("both instances are used", || {
        tally(&letters(&mut client, 8)).len() == 2
    });
    healthy.store(false, Ordering::SeqCst);
    wait_until("b is not used", || !letters(&mut client, 16).contains('b'));
    // Two rounds of probes later still not.
    origins[1].wait_for("two more probes", {
        let before = probes(&origins[1]);
        move |log| {
            log.requests
                .iter()
                .filter(|request| request.target == "/healthz")
                .count()
                >= before + 2
        }
    });
    assert!(!letters(&mut client, 16).contains('b'));
    healthy.store(true, Ordering::SeqCst);
    wait_until("b is used again", || letters(&mut client, 8).contains('b'));
}

fn probes(origin: &Origin) -> usize {
    origin.requests("/healthz").len()
}

#[test]
fn a_slow_probe_delays_no_other() {
    let _turn = turn::shared();
    let origins = lettered(2);
    origins[0].script("/healthz", |exchange| {
        drop(exchange.read_body());
        exchange.gateway_leaves();
        Then::Close
    });
    probed(&origins[1], &Arc::new(AtomicBool::new(true)));
    let keys = PROBED.replace("timeout = \"200ms\"", "timeout = \"5s\"");
    let _gateway = Setup::service_with(&addresses(&origins), &keys).start();
    let since = Instant::now();
    origins[1].wait_for("ten probes", |log| {
        log.requests
            .iter()
            .filter(|request| request.target == "/healthz")
            .count()
            >= 10
    });
    assert!(
        since.elapsed() < Duration::from_secs(5),
        "ten probes 100 ms apart took {:?}",
        since.elapsed()
    );
}

/// A probe is bounded in what it reads, whatever it meets.
#[test]
fn probes_do_not_listen_for_ever() {
    let _turn = turn::shared();
    let origins = lettered(3);
    for (origin, beginning) in origins.iter().zip([
        "HTTP/1.1 200 OK\r\nX: ",
        "HTTP/1.1 2",
        "HTTP/1.1 200 OK\r\n\r\n",
    ]) {
        origin.script("/healthz", move |exchange| {
            drop(exchange.read_body());
            exchange.send(beginning.as_bytes());
            while exchange.send(&[b'0'; 65_536]) {}
            Then::Close
        });
    }
    let gateway = Setup::service_with(&addresses(&origins), PROBED).start();
    for origin in &origins {
        origin.wait_for("ten probes that were ended by the gateway", |log| {
            log.connections
                .iter()
                .filter(|connection| connection.ending != Ending::Open && connection.requests > 0)
                .count()
                >= 10
        });
    }
    assert!(
        gateway.memory() < 64 * 1024 * 1024,
        "{} bytes",
        gateway.memory()
    );
    assert_eq!(gateway.get("/still").status, 200);
}

/// Panic mode: too few fit instances means that all are used, not none.
#[test]
fn when_all_checks_fail_all_instances_are_used() {
    let _turn = turn::shared();
    let origins = lettered(2);
    let healthy = Arc::new(AtomicBool::new(false));
    for origin in &origins {
        probed(origin, &healthy);
    }
    let gateway = Setup::service_with(&addresses(&origins), PROBED).start();
    for origin in &origins {
        origin.wait_for("four probes", |log| {
            log.requests
                .iter()
                .filter(|request| request.target == "/healthz")
                .count()
                >= 4
        });
    }
    let mut client = gateway.connect();
    assert_eq!(tally(&letters(&mut client, 16)).len(), 2);
}

#[test]
fn an_outlier_is_ejected_and_comes_back_on_probation() {
    let _turn = turn::shared();
    let origins = lettered(3);
    let failing = Arc::new(AtomicBool::new(true));
    let fails = Arc::clone(&failing);
    origins[1].script("", move |exchange| {
        drop(exchange.read_body());
        if fails.load(Ordering::SeqCst) {
            exchange.send(b"HTTP/1.1 500 Broken\r\nContent-Length: 1\r\n\r\n!");
        } else {
            exchange.send_ok("b");
        }
        Then::Keep
    });
    let keys = "balance = \"round-robin\"\n[services.origin.health_check]\ntype = \"none\"\n\
                [services.origin.outlier]\nconsecutive_failures = 5\nbase_ejection = \"1s\"\n";
    let gateway = Setup::service_with(&addresses(&origins), keys).start();
    let mut client = gateway.connect();
    let seen = letters(&mut client, 60);
    let failures = seen.matches('!').count();
    assert!(
        (5..=7).contains(&failures),
        "five failures in a row eject: {seen}"
    );
    let quiet = letters(&mut client, 30);
    assert!(!quiet.contains(['!', 'b']), "ejected: {quiet}");
    failing.store(false, Ordering::SeqCst);
    let since = Instant::now();
    wait_until("b is used again", || letters(&mut client, 6).contains('b'));
    assert!(
        since.elapsed() < Duration::from_secs(5),
        "base_ejection is one second, it took {:?}",
        since.elapsed()
    );
}

/// An instance that is back is used again at once: its first successful connect clears the blame.
#[test]
fn an_instance_that_is_back_is_used_at_once() {
    let _turn = turn::shared();
    let first = named(Origin::start(), 'a');
    let port = Port::claim();
    let second = named(Origin::listen(port.address()), 'b');
    let gateway = Setup::service_with(
        &[first.address(), port.address()],
        "balance = \"round-robin\"",
    )
    .start();
    let mut client = gateway.connect();
    wait_until("both are used", || {
        tally(&letters(&mut client, 8)).len() == 2
    });
    drop(second);
    assert_eq!(
        letters(&mut client, 40),
        "a".repeat(40),
        "one is gone: no request fails"
    );
    let _second = named(Origin::listen(port.address()), 'b');
    let since = Instant::now();
    let back = holds_within(Duration::from_secs(3), || {
        letters(&mut client, 4).contains('b')
    });
    assert!(back, "not used {:?} after it came back", since.elapsed());
}

#[test]
fn two_of_four_dead_cost_no_request() {
    let _turn = turn::shared();
    let origins = lettered(2);
    let dead = [Port::claim(), Port::claim()];
    let mut all = addresses(&origins);
    all.extend(dead.iter().map(Port::address));
    let gateway = Setup::service(&all).start();
    let mut client = gateway.connect();
    for number in 0..300 {
        client.send(format!(
            "POST /{number} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 2\r\n\r\nhi"
        ));
        assert_eq!(client.response("POST").status, 200);
    }
    check_only_used(&gateway, &origins);
}

fn check_only_used(gateway: &Gateway, origins: &[Origin]) {
    let seen = letters(&mut gateway.connect(), 100);
    assert_eq!(tally(&seen).len(), origins.len(), "{seen}");
}
