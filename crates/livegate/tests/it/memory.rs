//! Memory stays bounded when peers do not read or do not finish: less than 16 MiB more in each case.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::harness::client::{Client, HOST};
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::origin::{Origin, Then};
use crate::harness::turn;
use crate::harness::wait::{Gate, PATIENCE, wait_until_still};

const MIB: u64 = 1024 * 1024;
const BOUND: u64 = 16 * MIB;

/// Memory in use once the gateway has done everything once.
fn baseline(gateway: &Gateway) -> u64 {
    for number in 0..50 {
        assert_eq!(gateway.get(&format!("/warm/{number}")).status, 200);
    }
    gateway.forget_memory_peak();
    gateway.memory()
}

#[track_caller]
fn check_growth(gateway: &Gateway, before: u64, what: &str) {
    let growth = gateway.memory_peak().saturating_sub(before);
    println!("{what}: memory grew by {} KiB", growth / 1024);
    assert!(
        growth < BOUND,
        "{what}: memory grew by {} KiB",
        growth / 1024
    );
}

/// `connections` x `size` = 256 MiB of responses; every one is read in the end, and whole.
fn unread_responses(connections: usize, size: u64) {
    let origin = Origin::start();
    let sent = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&sent);
    origin.script("/big", move |exchange| {
        drop(exchange.read_body());
        exchange.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n").as_bytes());
        let block = [b'x'; 16 * 1024];
        for _ in 0..size / block.len() as u64 {
            if !exchange.send(&block) {
                return Then::Close;
            }
            counter.fetch_add(block.len() as u64, Ordering::Relaxed);
        }
        Then::Keep
    });
    let gateway = Setup::to(&origin).start();
    let before = baseline(&gateway);
    let mut clients: Vec<Client> = (0..connections)
        .map(|_| Client::connect_small_window(gateway.address()))
        .collect();
    for client in &mut clients {
        client.send(format!("GET /big HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    }
    wait_until_still(|| sent.load(Ordering::Relaxed));
    let stuck = sent.load(Ordering::Relaxed);
    let what = format!(
        "{connections} responses of {} MiB that nobody reads",
        size / MIB
    );
    check_growth(&gateway, before, &what);
    if size >= 8 * MIB {
        // Smaller ones may fit into the kernel's buffers on the way.
        assert!(
            stuck < connections as u64 * size,
            "the origin was not held back: it sent {stuck} bytes"
        );
    }
    // Normal traffic goes on meanwhile.
    assert_eq!(gateway.get("/meanwhile").status, 200);
    for client in &mut clients {
        client.wire().patience(PATIENCE * 2);
        let (status, head) = client.status_and_head().unwrap();
        assert_eq!(
            (status, head.get("content-length")),
            (200, Some(size.to_string().as_str()))
        );
        let mut left = size;
        while left > 0 {
            let count = left.min(256 * 1024);
            let bytes = client.wire().take(usize::try_from(count).unwrap()).unwrap();
            assert!(bytes.iter().all(|byte| *byte == b'x'));
            left -= count;
        }
    }
    check_growth(&gateway, before, &format!("{what}, and then reads"));
}

#[test]
fn responses_that_nobody_reads() {
    let _turn = turn::alone();
    for (connections, size) in [(16, 16 * MIB), (64, 4 * MIB), (256, MIB)] {
        unread_responses(connections, size);
    }
}

/// The same in chunks, which cannot be moved without being read.
#[test]
fn chunked_responses_that_nobody_reads() {
    let _turn = turn::alone();
    let origin = Origin::start();
    let (connections, chunks) = (64, 256);
    let sent = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&sent);
    origin.script("/big", move |exchange| {
        exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        let chunk = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
        for _ in 0..chunks {
            if !exchange.send(chunk.as_bytes()) {
                return Then::Close;
            }
            counter.fetch_add(1, Ordering::Relaxed);
        }
        exchange.send(b"0\r\n\r\n");
        Then::Keep
    });
    let gateway = Setup::to(&origin).start();
    let before = baseline(&gateway);
    let mut clients: Vec<Client> = (0..connections)
        .map(|_| Client::connect_small_window(gateway.address()))
        .collect();
    for client in &mut clients {
        client.send(format!("GET /big HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    }
    wait_until_still(|| sent.load(Ordering::Relaxed));
    check_growth(
        &gateway,
        before,
        "64 chunked responses of 4 MiB that nobody reads",
    );
    for client in &mut clients {
        let response = client.response("GET");
        assert_eq!(response.body.len(), chunks * 0x4000);
    }
    check_growth(
        &gateway,
        before,
        "64 chunked responses of 4 MiB, and then reads",
    );
}

#[test]
fn heads_that_never_end() {
    let _turn = turn::alone();
    let origin = Origin::start();
    let gateway = Setup::to(&origin)
        .http("header_bytes_max = \"64KiB\"")
        .http("header_timeout = \"60s\"")
        .start();
    let before = baseline(&gateway);
    let head = format!(
        "GET /never HTTP/1.1\r\nHost: {HOST}\r\n{}",
        format!("X-Field: {}\r\n", "x".repeat(1000)).repeat(56)
    );
    let mut clients = Vec::new();
    for _ in 0..200 {
        let mut client = gateway.connect();
        client.send(&head);
        clients.push(client);
    }
    wait_until_still(|| gateway.processor_time());
    check_growth(&gateway, before, "200 unfinished heads of 56 KiB");
    // They were held, not dropped: each can still be finished.
    for client in &mut clients {
        client.send("\r\n");
        assert_eq!(client.response("GET").status, 200);
    }
    check_growth(&gateway, before, "200 heads of 56 KiB, finished");
}

#[test]
fn an_upload_that_the_origin_does_not_read() {
    let _turn = turn::alone();
    let size = 64 * MIB;
    for (framing, chunked) in [
        (format!("Content-Length: {size}\r\n"), false),
        ("Transfer-Encoding: chunked\r\n".to_owned(), true),
    ] {
        let origin = Origin::start();
        let gate = Arc::new(Gate::default());
        let held = Arc::clone(&gate);
        origin.script("/upload", move |exchange| {
            if !held.pass() || exchange.read_body().is_err() {
                return Then::Close;
            }
            let length = exchange.request.body.bytes.len();
            exchange.send_ok(&length.to_string());
            Then::Keep
        });
        let gateway = Setup::to(&origin).start();
        let before = baseline(&gateway);
        let mut client = gateway.connect();
        client.send(format!(
            "POST /upload HTTP/1.1\r\nHost: {HOST}\r\n{framing}\r\n"
        ));
        let sent = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&sent);
        let mut stream = client.wire().stream().try_clone().unwrap();
        let sender = std::thread::spawn(move || {
            let block = [b'x'; 16 * 1024];
            for _ in 0..size / block.len() as u64 {
                if chunked {
                    stream.write_all(b"4000\r\n").unwrap();
                }
                stream.write_all(&block).unwrap();
                if chunked {
                    stream.write_all(b"\r\n").unwrap();
                }
                counter.fetch_add(block.len() as u64, Ordering::Relaxed);
            }
            if chunked {
                stream.write_all(b"0\r\n\r\n").unwrap();
            }
        });
        wait_until_still(|| sent.load(Ordering::Relaxed));
        let stuck = sent.load(Ordering::Relaxed);
        check_growth(
            &gateway,
            before,
            &format!(
                "an upload of 64 MiB ({}) that the origin does not read",
                framing.trim_end()
            ),
        );
        assert!(
            stuck < size,
            "the client was not held back: it sent {stuck} bytes"
        );
        gate.open();
        sender.join().unwrap();
        assert_eq!(client.response("POST").text(), size.to_string());
        check_growth(&gateway, before, "the same upload, read in the end");
    }
}

/// A client that pipelines without end and reads nothing is not read without end.
#[test]
fn pipelined_requests_whose_answers_nobody_reads() {
    let _turn = turn::alone();
    let origin = Origin::start();
    let gateway = Setup::to(&origin).start();
    let before = baseline(&gateway);
    let sent = Arc::new(AtomicU64::new(0));
    let mut clients: Vec<Client> = (0..16)
        .map(|_| Client::connect_small_window(gateway.address()))
        .collect();
    let mut senders = Vec::new();
    for client in &mut clients {
        let mut stream = client.wire().stream().try_clone().unwrap();
        let counter = Arc::clone(&sent);
        senders.push(std::thread::spawn(move || {
            let block = format!("GET /pipelined HTTP/1.1\r\nHost: {HOST}\r\n\r\n").repeat(100);
            // Until the test ends the connection.
            for _ in 0..20_000 {
                if stream.write_all(block.as_bytes()).is_err() {
                    return true;
                }
                counter.fetch_add(1, Ordering::Relaxed);
            }
            false
        }));
    }
    wait_until_still(|| sent.load(Ordering::Relaxed));
    check_growth(&gateway, before, "16 clients that pipeline and do not read");
    assert_eq!(gateway.get("/meanwhile").status, 200);
    for client in &mut clients {
        // Wakes its sender.
        drop(client.wire().stream().shutdown(std::net::Shutdown::Both));
    }
    drop(clients);
    for sender in senders {
        assert!(sender.join().unwrap(), "the client was never held back");
    }
}

/// Memory that a burst took is given back; nothing leaks per connection or per request.
#[test]
fn a_thousand_bursts_leave_nothing_behind() {
    let _turn = turn::alone();
    let origin = Origin::start();
    let gateway = Setup::to(&origin).start();
    let burst = || {
        let mut clients: Vec<Client> = (0..100).map(|_| gateway.connect()).collect();
        for client in &mut clients {
            client.send(format!(
                "POST /burst HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 20000\r\n\r\n{}",
                "x".repeat(20_000)
            ));
        }
        for client in &mut clients {
            assert_eq!(client.response("POST").status, 200);
        }
    };
    for _ in 0..5 {
        burst();
    }
    let before = gateway.memory();
    for _ in 0..50 {
        burst();
    }
    let growth = gateway.memory().saturating_sub(before);
    println!(
        "after 50 bursts of 100 connections: {} KiB more",
        growth / 1024
    );
    assert!(
        growth < 4 * MIB,
        "{} KiB more after the same again fifty times",
        growth / 1024
    );
    crate::harness::wait::wait_until("closed connections are given up", || gateway.files() < 150);
}
