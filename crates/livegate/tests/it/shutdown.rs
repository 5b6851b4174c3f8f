//! SIGTERM: stop accepting, finish what runs, say `Connection: close`, and be gone in bounded time.

use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::client::HOST;
use crate::harness::gateway::Setup;
use crate::harness::origin::{Origin, Then};
use crate::harness::turn;
use crate::harness::wait::{Gate, PATIENCE, wait_until};
use crate::harness::wire::WireError;

#[test]
fn running_requests_are_finished() {
    for signal in [Signal::TERM, Signal::INT] {
        let _turn = turn::shared();
        let origin = Origin::start();
        let gate = Arc::new(Gate::default());
        let held = Arc::clone(&gate);
        origin.script("/slow", move |exchange| {
            if exchange.read_body().is_err() || !held.pass() {
                return Then::Close;
            }
            exchange.answer_by_default()
        });
        let second_half = Arc::new(Gate::default());
        let half = Arc::clone(&second_half);
        origin.script("/half", move |exchange| {
            exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst");
            half.pass();
            exchange.send(b"later");
            Then::Keep
        });
        let mut gateway = Setup::to(&origin).start();
        let mut idle = gateway.connect();
        assert_eq!(idle.get("/before").status, 200);
        let fresh = gateway.connect();
        let mut waiting = gateway.connect();
        waiting.send(format!(
            "POST /slow HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 2\r\n\r\nhi"
        ));
        let mut reading = gateway.connect();
        reading.send(format!("GET /half HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
        origin.wait_for_request("/slow");
        reading.wire().patience(PATIENCE);
        let (status, _) = reading.status_and_head().unwrap();
        assert_eq!(
            (status, reading.wire().take(5).unwrap()),
            (200, b"first".to_vec())
        );

        gateway.signal(signal);
        wait_until("no new connections", || {
            TcpStream::connect(gateway.address()).is_err()
        });
        idle.expect_closed();
        let mut fresh = fresh;
        fresh.expect_closed();
        assert!(!gateway.has_exited(), "it left with requests running");
        gate.open();
        second_half.open();
        let response = waiting.response("POST");
        assert_eq!(
            (response.status, response.text().as_str()),
            (200, "POST /slow\n")
        );
        assert!(
            response.closes(),
            "no Connection: close in {:?}",
            response.head
        );
        waiting.expect_closed();
        reading.wire().patience(PATIENCE);
        assert_eq!(reading.wire().take(5).unwrap(), b"later");
        reading.expect_closed();
        let status = gateway.wait_for_exit(PATIENCE);
        assert_eq!(status.code(), Some(0), "{signal:?}");
    }
}

#[test]
fn it_does_not_wait_for_ever() {
    let _turn = turn::shared();
    let origin = Origin::start();
    origin.script("/never", |exchange| {
        exchange.gateway_leaves();
        Then::Close
    });
    let mut gateway = Setup::to(&origin).http("shutdown_timeout = \"1s\"").start();
    let mut waiting = gateway.connect();
    waiting.send(format!("GET /never HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    let mut half_sent = gateway.connect();
    half_sent.send(format!(
        "POST /half-sent HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 100\r\n\r\nhalf"
    ));
    let mut half_head = gateway.connect();
    half_head.send("GET /half-head HTTP/1.1\r\nHo");
    origin.wait_for_request("/never");
    origin.wait_for_request("/half-sent");
    let since = Instant::now();
    gateway.signal(Signal::TERM);
    gateway.wait_for_exit(PATIENCE);
    let took = since.elapsed();
    assert!(
        took >= Duration::from_millis(900),
        "it gave a running request only {took:?} of the second it has"
    );
    assert!(
        took < Duration::from_secs(5),
        "shutdown_timeout is one second, it took {took:?}"
    );
    // The client is told, or cut off; it is never left hanging and never gets half an answer that looks whole.
    match waiting.read("GET") {
        Ok(response) => assert_eq!(
            (response.status, response.get("x-livegate-reason")),
            (503, Some("shutting_down"))
        ),
        Err(error) => assert!(
            matches!(error, WireError::Closed(_) | WireError::Reset),
            "{error}"
        ),
    }
}

#[test]
fn nothing_running_means_gone_at_once() {
    let _turn = turn::shared();
    let origin = Origin::start();
    let mut gateway = Setup::to(&origin).start();
    let mut idle: Vec<_> = (0..20).map(|_| gateway.connect()).collect();
    for client in &mut idle {
        assert_eq!(client.get("/before").status, 200);
    }
    let since = Instant::now();
    gateway.signal(Signal::TERM);
    let status = gateway.wait_for_exit(PATIENCE);
    assert_eq!(status.code(), Some(0));
    assert!(
        since.elapsed() < Duration::from_secs(5),
        "it took {:?} with shutdown_timeout = 30s and nothing to do",
        since.elapsed()
    );
}

/// The next request on a kept connection may cross the shutdown on its way: it is answered, or the connection ends
/// cleanly without a byte, so that a client may send it again; never half of an answer.
#[test]
fn no_answer_is_cut_by_a_shutdown() {
    let _turn = turn::shared();
    let origin = Origin::start();
    let mut gateway = Setup::to(&origin).start();
    let address = gateway.address();
    let threads: Vec<_> = (0..16)
        .map(|connection| {
            std::thread::spawn(move || {
                let mut client = crate::harness::client::Client::connect(address);
                for number in 0_u64.. {
                    let target = format!("/{connection}/{number}");
                    if !client.try_send(format!("GET {target} HTTP/1.1\r\nHost: {HOST}\r\n\r\n")) {
                        return (number, Ok(()));
                    }
                    match client.read("GET") {
                        Ok(response) if !response.complete => {
                            return (number, Err(format!("cut: {:?}", response.why)));
                        }
                        Ok(response) if response.closes() => return (number, Ok(())),
                        Ok(response) if response.text() == format!("GET {target}\n") => {}
                        Ok(response) => {
                            return (
                                number,
                                Err(format!("{} {}", response.status, response.text())),
                            );
                        }
                        Err(WireError::Closed(bytes)) if bytes.is_empty() => {
                            return (number, Ok(()));
                        }
                        Err(WireError::Reset) => return (number, Ok(())),
                        Err(error) => return (number, Err(error.to_string())),
                    }
                }
                (0, Ok(()))
            })
        })
        .collect();
    origin.wait_for("some traffic", |log| log.requests.len() > 500);
    gateway.signal(Signal::TERM);
    for thread in threads {
        let (number, result) = thread.join().unwrap();
        assert_eq!(result, Ok(()), "request {number}");
    }
    assert_eq!(gateway.wait_for_exit(PATIENCE).code(), Some(0));
}
