//! Many who do nothing, or little, must not be felt by those who work: idle connections, slow senders, and
//! file descriptors running out.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::client::{Client, HOST};
use crate::harness::files;
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::load::{Load, Method, assert_none};
use crate::harness::origin::{Origin, Then};
use crate::harness::turn;
use crate::harness::wait::{PATIENCE, holds_within, wait_until};

/// p99 of normal traffic: the best of three goes, for what the machine does besides is not ours to measure.
fn usual_p99(gateway: &Gateway) -> Duration {
    (0..3)
        .map(|_| {
            let load = Load::start(gateway.address(), 8, "normal", Method::Get);
            load.run_for(4_000);
            let report = load.finish();
            assert_none(&report.failures, Instant::now());
            report.quantile(0.99)
        })
        .min()
        .expect("three goes")
}

#[test]
fn slow_senders_and_idle_connections_are_not_felt() {
    let _turn = turn::alone();
    let room = files::raise_limit();
    let (slow, idle) = if room >= 18_000 {
        (2_000, 10_000)
    } else {
        (room / 16, room / 3)
    };
    let origin = Origin::start();
    // One instance may be asked by all of them at once; heads take as long as bodies here.
    let gateway = Setup::to(&origin)
        .http("header_timeout = \"300s\"")
        .http("idle_timeout = \"300s\"")
        .start();
    let before_p99 = usual_p99(&gateway);
    let before = gateway.memory();

    let idle: Vec<TcpStream> = (0..idle)
        .map(|_| TcpStream::connect(gateway.address()).unwrap())
        .collect();
    let mut senders: Vec<TcpStream> = (0..slow)
        .map(|number| {
            let mut stream = TcpStream::connect(gateway.address()).unwrap();
            if number % 2 == 0 {
                write!(
                    stream,
                    "GET /slow/{number} HTTP/1.1\r\nHost: {HOST}\r\nX-Slow: "
                )
                .unwrap();
            } else {
                write!(
                    stream,
                    "POST /slow/{number} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 100000\r\n\r\n"
                )
                .unwrap();
            }
            stream
        })
        .collect();
    let bodies = senders.len() / 2;
    origin.wait_for("the slow bodies begin", |log| {
        log.requests
            .iter()
            .filter(|r| r.target.starts_with("/slow/"))
            .count()
            == bodies
    });

    // One byte a second each, evenly over the second.
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let dripper = std::thread::spawn(move || {
        let part = senders.len() / 100 + 1;
        let start = Instant::now();
        let mut tick = 0_u32;
        let mut lost = 0;
        while !stopped.load(Ordering::Relaxed) {
            for at in 0..part {
                let number = (tick as usize * part + at) % senders.len();
                lost += usize::from(senders[number].write_all(b"x").is_err());
            }
            tick += 1;
            let next = start + Duration::from_millis(10) * tick;
            holds_within(Duration::from_millis(50), || Instant::now() >= next);
        }
        lost
    });
    let with_p99 = usual_p99(&gateway);
    let growth = gateway.memory().saturating_sub(before);
    stop.store(true, Ordering::Relaxed);
    let lost = dripper.join().unwrap();
    let ratio = with_p99.as_secs_f64() / before_p99.as_secs_f64();
    println!(
        "{slow} slow senders and {} idle connections: p99 {before_p99:?} -> {with_p99:?} (x{ratio:.2}), memory +{} KiB",
        idle.len(),
        growth / 1024
    );
    assert_eq!(lost, 0, "slow senders were cut off");
    // Twice is what is asked for; the floor is what a busy machine's clock and scheduler do to any figure.
    assert!(
        ratio <= 2.0 || with_p99 < Duration::from_millis(2),
        "p99 {before_p99:?} -> {with_p99:?}"
    );
    let bound = (idle.len() as u64) * 4 * 1024 + slow * 32 * 1024;
    assert!(
        growth < bound,
        "memory grew by {} KiB, more than {} KiB",
        growth / 1024,
        bound / 1024
    );
}

#[test]
fn running_out_of_file_descriptors_is_survived() {
    let _turn = turn::alone();
    let origin = Origin::start();
    let gateway = Setup::to(&origin)
        .http("workers = 1")
        .files_max(100)
        .start();
    let mut early = gateway.connect();
    assert_eq!(early.get("/before").status, 200);

    // Twice as many as there is room for; those beyond wait in the listen queue.
    let crowd: Vec<Client> = (0..200).map(|_| gateway.connect()).collect();
    gateway.wait_for_log(&["file"]);
    let log = gateway.log().to_lowercase();
    assert!(
        log.lines()
            .any(|line| line.contains("too many open files") || line.contains("file descriptors")),
        "no clear log line:\n{log}"
    );
    // Who is in already is served (a pooled upstream connection is there for it).
    for number in 0..20 {
        assert_eq!(early.get(&format!("/during/{number}")).status, 200);
    }
    // It waits instead of trying in a circle, and does not flood its log.
    let (used, lines) = (gateway.processor_time(), gateway.log().lines().count());
    let end = Instant::now() + Duration::from_secs(1);
    holds_within(Duration::from_secs(2), || Instant::now() >= end);
    let used = gateway.processor_time().checked_sub(used).unwrap();
    assert!(
        used < Duration::from_millis(300),
        "it used {used:?} of processor time in a second of nothing"
    );
    assert!(
        gateway.log().lines().count() < lines + 50,
        "it wrote {} log lines in a second",
        gateway.log().lines().count() - lines
    );

    drop(crowd);
    wait_until("new clients are served again", || {
        let mut client = gateway.connect();
        client.send(format!("GET /after HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
        client
            .read_within("GET", PATIENCE)
            .is_ok_and(|response| response.status == 200)
    });
    for number in 0..20 {
        assert_eq!(
            gateway.get(&format!("/after/{number}")).status,
            200,
            "the instance was not blamed for it"
        );
    }
}

/// A connection that waits in the listen queue or hangs in a handshake delays nobody on another worker or connection.
#[test]
fn a_client_that_hangs_delays_no_other() {
    let _turn = turn::shared();
    let origin = Origin::start();
    origin.script("/hangs", |exchange| {
        exchange.gateway_leaves();
        Then::Close
    });
    let gateway = Setup::to(&origin).http("workers = 1").start();
    let mut hanging: Vec<Client> = (0..50).map(|_| gateway.connect()).collect();
    for (number, client) in hanging.iter_mut().enumerate() {
        match number % 3 {
            0 => client.send("GET /"),
            1 => client.send(format!(
                "POST /hangs HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 10\r\n\r\nhalf"
            )),
            _ => client.send(format!("GET /hangs HTTP/1.1\r\nHost: {HOST}\r\n\r\n")),
        }
    }
    let since = Instant::now();
    let mut client = gateway.connect();
    for number in 0..100 {
        assert_eq!(client.get(&format!("/normal/{number}")).status, 200);
    }
    assert!(
        since.elapsed() < Duration::from_secs(5),
        "a hundred requests took {:?}",
        since.elapsed()
    );
}
