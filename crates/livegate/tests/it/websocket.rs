//! `Upgrade: websocket` from end to end, with a WebSocket library on both sides of the gateway.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rustix::process::Signal;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async, client_async};

use crate::conformance::{HIDDEN, replace, token};
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::origin::{Origin, Then};
use crate::harness::turn;
use crate::harness::wait::{PATIENCE, wait_until};

const HANDSHAKE: &str = "GET /%T% HTTP/1.1\r\nHost: shop.test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
                         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const ACCEPT: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Runs a test on a runtime of its own, with a deadline.
fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        tokio::time::timeout(PATIENCE * 2, test)
            .await
            .expect("the test comes to its end");
    });
}

/// A WebSocket server that refuses `/refused` and sends everything else back; it ends the conversation
/// itself when it gets the text `bye`, and vanishes without a word on `vanish`.
async fn echo_server() -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::task::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            connections.spawn(echo(stream));
        }
    });
    (address, task)
}

async fn echo(stream: TcpStream) {
    #[expect(clippy::result_large_err, reason = "the library's own signature")]
    let admit = |request: &Request, response: Response| {
        if request.uri().path() == "/refused" {
            let mut refusal = ErrorResponse::new(Some("members only".to_owned()));
            *refusal.status_mut() = tokio_tungstenite::tungstenite::http::StatusCode::FORBIDDEN;
            return Err(refusal);
        }
        assert_eq!(request.headers()["x-forwarded-for"], "127.0.0.1");
        Ok(response)
    };
    // A probe or a refused handshake: nothing to do.
    let Ok(mut socket) = accept_hdr_async(stream, admit).await else {
        return;
    };
    while let Some(Ok(message)) = socket.next().await {
        match &message {
            Message::Text(text) if text.as_str() == "bye" => {
                let frame = CloseFrame {
                    code: CloseCode::Away,
                    reason: "bye".into(),
                };
                socket.close(Some(frame)).await.unwrap();
            }
            Message::Text(text) if text.as_str() == "vanish" => return,
            Message::Text(_) | Message::Binary(_) => socket.send(message).await.unwrap(),
            // The library answers pings and closes by itself, when it reads on.
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => {}
        }
    }
}

async fn connect(gateway: &Gateway, path: &str) -> Result<WebSocketStream<TcpStream>, Error> {
    let stream = TcpStream::connect(gateway.address()).await.unwrap();
    client_async(format!("ws://shop.test{path}"), stream)
        .await
        .map(|(socket, _)| socket)
}

fn gateway_to(address: SocketAddr) -> Gateway {
    // No probes: the server would have to tell them from clients.
    Setup::service_with(
        &[address],
        "[services.origin.health_check]\ntype = \"none\"",
    )
    .start()
}

#[test]
fn messages_go_both_ways() {
    let _turn = turn::shared();
    run(async {
        let (address, _server) = echo_server().await;
        let gateway = gateway_to(address);
        let mut socket = connect(&gateway, "/chat").await.unwrap();
        for text in ["hello", "", "caf\u{e9}"] {
            socket.send(Message::text(text)).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap(), Message::text(text));
        }
        socket
            .send(Message::Ping("are you there".into()))
            .await
            .unwrap();
        assert_eq!(
            socket.next().await.unwrap().unwrap(),
            Message::Pong("are you there".into())
        );
        for size in [1, 125, 126, 65_535, 65_536, 1_000_000] {
            let data: Vec<u8> = (0..size).map(|at: u32| at.to_le_bytes()[0]).collect();
            socket.send(Message::binary(data.clone())).await.unwrap();
            assert!(
                socket.next().await.unwrap().unwrap() == Message::binary(data),
                "{size} bytes changed"
            );
        }
    });
}

#[test]
fn large_messages_in_both_directions_at_once() {
    let _turn = turn::shared();
    run(async {
        let (address, _server) = echo_server().await;
        let gateway = gateway_to(address);
        let (mut sender, mut receiver) = connect(&gateway, "/chat").await.unwrap().split();
        let message = |number: u8| Message::binary(vec![number; 4 * 1024 * 1024]);
        let send = async {
            for number in 0..8 {
                sender.send(message(number)).await.unwrap();
            }
        };
        let receive = async {
            for number in 0..8 {
                assert!(
                    receiver.next().await.unwrap().unwrap() == message(number),
                    "message {number} changed"
                );
            }
        };
        tokio::join!(send, receive);
    });
}

#[test]
fn either_side_may_end_it() {
    let _turn = turn::shared();
    run(async {
        let (address, _server) = echo_server().await;
        let gateway = gateway_to(address);

        let mut socket = connect(&gateway, "/chat").await.unwrap();
        socket
            .close(Some(CloseFrame {
                code: CloseCode::Normal,
                reason: "done".into(),
            }))
            .await
            .unwrap();
        let answer = socket.next().await.unwrap().unwrap();
        assert!(
            matches!(answer, Message::Close(Some(ref frame)) if frame.code == CloseCode::Normal),
            "{answer:?}"
        );
        assert!(
            socket.next().await.is_none(),
            "the connection ends after the close"
        );

        let mut socket = connect(&gateway, "/chat").await.unwrap();
        socket.send(Message::text("bye")).await.unwrap();
        let answer = socket.next().await.unwrap().unwrap();
        assert!(
            matches!(answer, Message::Close(Some(ref frame)) if frame.reason == "bye"),
            "{answer:?}"
        );

        let mut socket = connect(&gateway, "/chat").await.unwrap();
        socket.send(Message::text("vanish")).await.unwrap();
        let answer = socket.next().await;
        assert!(
            !matches!(answer, Some(Ok(_))),
            "the server is gone: {answer:?}"
        );
    });
}

#[test]
fn a_refusal_reaches_the_client() {
    let _turn = turn::shared();
    run(async {
        let (address, _server) = echo_server().await;
        let gateway = gateway_to(address);
        match connect(&gateway, "/refused").await {
            Err(Error::Http(response)) => {
                assert_eq!(response.status(), 403);
            }
            other => panic!("{other:?}"),
        }
        // The library shows only what came of the body with the head.
        let mut client = gateway.connect();
        client.send(HANDSHAKE.replace("%T%", "refused"));
        let refusal = tokio::task::spawn_blocking(move || client.response("GET"));
        assert_eq!(refusal.await.unwrap().text(), "members only");
    });
}

#[test]
fn many_tunnels_at_once() {
    let _turn = turn::shared();
    run(async {
        let (address, _server) = echo_server().await;
        let gateway = gateway_to(address);
        let mut sockets = Vec::new();
        for _ in 0..100 {
            sockets.push(connect(&gateway, "/chat").await.unwrap());
        }
        for (number, socket) in sockets.iter_mut().enumerate() {
            socket
                .send(Message::text(format!("message {number}")))
                .await
                .unwrap();
        }
        for (number, socket) in sockets.iter_mut().enumerate() {
            let message = socket.next().await.unwrap().unwrap();
            assert_eq!(
                message,
                Message::text(format!("message {number}")),
                "a foreign message"
            );
        }
    });
}

fn raw() -> (Origin, Gateway, String, Vec<u8>) {
    let origin = Origin::start();
    let gateway = Setup::to(&origin).http("workers = 1").start();
    let token = token("socket");
    let handshake = replace(HANDSHAKE.as_bytes(), b"%T%", token.as_bytes());
    (origin, gateway, token, handshake)
}

#[test]
fn the_handshake_is_passed_on() {
    let _turn = turn::shared();
    let (origin, gateway, token, handshake) = raw();
    origin.script(token.clone(), |exchange| {
        exchange.send(ACCEPT);
        exchange.gateway_leaves();
        Then::Close
    });
    let mut client = gateway.connect();
    client.send(&handshake);
    client.wire().patience(PATIENCE);
    let (status, head) = client.status_and_head().unwrap();
    assert_eq!((status, head.get("upgrade")), (101, Some("websocket")));
    assert!(head.lists("connection", "upgrade"));
    assert_eq!(
        head.get("sec-websocket-accept"),
        Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    );
    let request = origin.request(&token);
    assert_eq!(request.get("upgrade"), Some("websocket"));
    assert!(request.head.lists("connection", "upgrade"));
    assert_eq!(
        request.get("sec-websocket-key"),
        Some("dGhlIHNhbXBsZSBub25jZQ==")
    );
    drop(client);
    origin.wait_for_end_of(&token);
}

/// RULES 21: what the client sends before the 101 is held, and delivered after it.
#[test]
fn early_data_waits_for_the_101() {
    let _turn = turn::shared();
    let (origin, gateway, token, mut handshake) = raw();
    let frame = b"\x81\x85\x01\x02\x03\x04iggh\x6e";
    origin.script(token.clone(), move |exchange| {
        exchange.wire.patience(Duration::from_millis(300));
        drop(exchange.wire.fill());
        if !exchange.wire.pending().is_empty() {
            exchange
                .send(b"HTTP/1.1 500 Too early\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            return Then::Close;
        }
        exchange.send(ACCEPT);
        exchange.wire.patience(PATIENCE);
        let Ok(echo) = exchange.wire.take(frame.len()) else {
            return Then::Close;
        };
        exchange.send(&echo);
        exchange.gateway_leaves();
        Then::Close
    });
    handshake.extend_from_slice(frame);
    let mut client = gateway.connect();
    client.send(&handshake);
    client.wire().patience(PATIENCE);
    let (status, _) = client.status_and_head().unwrap();
    assert_eq!(status, 101);
    assert_eq!(client.wire().take(frame.len()).unwrap(), frame);
}

/// More of it than any buffer holds: the client is held back, nothing is lost.
#[test]
fn much_early_data_waits_too() {
    let _turn = turn::shared();
    let (origin, gateway, token, handshake) = raw();
    let gate = std::sync::Arc::new(crate::harness::wait::Gate::default());
    let held = std::sync::Arc::clone(&gate);
    let size = 8 * 1024 * 1024;
    origin.script(token.clone(), move |exchange| {
        if !held.pass() {
            return Then::Close;
        }
        exchange.send(ACCEPT);
        exchange.wire.patience(PATIENCE);
        let Ok(bytes) = exchange.wire.take(size) else {
            return Then::Close;
        };
        exchange.send(format!("{}", bytes.iter().filter(|byte| **byte == b'e').count()).as_bytes());
        Then::Close
    });
    let mut client = gateway.connect();
    client.send(&handshake);
    let mut stream = client.wire().stream().try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        use std::io::Write;
        stream.write_all(&vec![b'e'; size]).unwrap();
    });
    origin.wait_for_request(&token);
    gate.open();
    client.wire().patience(PATIENCE);
    assert_eq!(client.status_and_head().unwrap().0, 101);
    assert_eq!(client.wire().rest().unwrap().0, size.to_string().as_bytes());
    sender.join().unwrap();
}

/// A server may speak first, in the same segment as its 101.
#[test]
fn bytes_that_come_with_the_101_are_delivered() {
    let _turn = turn::shared();
    let (origin, gateway, token, handshake) = raw();
    let mut answer = ACCEPT.to_vec();
    answer.extend_from_slice(b"\x81\x05hello");
    origin.script(token.clone(), move |exchange| {
        exchange.send(&answer);
        exchange.gateway_leaves();
        Then::Close
    });
    let mut client = gateway.connect();
    client.send(&handshake);
    client.wire().patience(PATIENCE);
    assert_eq!(client.status_and_head().unwrap().0, 101);
    assert_eq!(client.wire().take(7).unwrap(), b"\x81\x05hello");
}

/// CVE-2026-2833: without a 101 there is no tunnel, whatever was asked for.
#[test]
fn a_refused_upgrade_is_ordinary_http() {
    let _turn = turn::shared();
    let (origin, gateway, token, mut handshake) = raw();
    let hidden = crate::conformance::token("hidden");
    handshake.extend_from_slice(&replace(
        &replace(HIDDEN.as_bytes(), b"%S%", hidden.as_bytes()),
        b"\r\n\r\n",
        b"\r\nBad Name : x\r\n\r\n",
    ));
    let mut client = gateway.connect();
    client.send(&handshake);
    let response = client.response("GET");
    assert_eq!(
        (response.status, response.text()),
        (200, format!("GET /{token}\n"))
    );
    // What came with it is the next request, and a bad one.
    if let Ok(response) = client.read("GET") {
        assert_eq!(response.status, 400);
    }
    assert!(
        origin.requests(&hidden).is_empty(),
        "raw bytes were tunnelled"
    );
    assert!(
        origin.log().malformed.is_empty(),
        "{:?}",
        origin.log().malformed
    );
}

#[test]
fn what_is_no_handshake_makes_no_tunnel() {
    let _turn = turn::shared();
    let origin = Origin::start();
    let gateway = Setup::to(&origin).http("workers = 1").start();
    origin.answer("no-tunnel", ACCEPT, Then::Keep);
    for (name, start, lines) in [
        (
            "POST",
            "POST",
            "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n",
        ),
        (
            "a body",
            "GET",
            "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n\r\nhello",
        ),
        ("no Connection", "GET", "Upgrade: websocket\r\n"),
        (
            "another protocol",
            "GET",
            "Connection: Upgrade\r\nUpgrade: chat\r\n",
        ),
    ] {
        let mut client = gateway.connect();
        client.send(format!(
            "{start} /no-tunnel HTTP/1.1\r\nHost: x\r\n{lines}\r\n"
        ));
        let response = client
            .read(start)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(
            [400, 502].contains(&response.status),
            "{name}: {}",
            response.status
        );
    }
    let mut client = gateway.connect();
    client.send(
        "GET /no-tunnel HTTP/1.0\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    );
    assert_eq!(
        client.read("GET").unwrap().status,
        502,
        "RFC 9110 7.8: Upgrade in HTTP/1.0 is ignored"
    );
}

/// Bytes still go the other way when one side has said its last.
#[test]
fn a_tunnel_may_be_closed_in_one_direction() {
    let _turn = turn::shared();
    let (origin, gateway, token, handshake) = raw();
    origin.script(token.clone(), |exchange| {
        exchange.send(ACCEPT);
        exchange.wire.patience(PATIENCE);
        let Ok((bytes, _)) = exchange.wire.rest() else {
            return Then::Close;
        };
        // Said after the end of what the client had to say.
        exchange.send(format!("{} bytes", bytes.len()).as_bytes());
        Then::Close
    });
    let mut client = gateway.connect();
    client.send(&handshake);
    client.wire().patience(PATIENCE);
    assert_eq!(client.status_and_head().unwrap().0, 101);
    client.send("the last words");
    client.wire().half_close();
    let (bytes, orderly) = client.wire().rest().unwrap();
    assert_eq!((bytes, orderly), (b"14 bytes".to_vec(), true));
}

#[test]
fn tunnels_outlive_a_reload_and_end_with_a_shutdown() {
    let _turn = turn::shared();
    let origin = Origin::start();
    let setup = Setup::to(&origin).http("shutdown_timeout = \"1s\"");
    let mut gateway = setup.start();
    let token = token("socket");
    origin.script(token.clone(), |exchange| {
        exchange.send(ACCEPT);
        exchange.wire.patience(PATIENCE * 2);
        while let Ok(bytes) = exchange.wire.take(4) {
            exchange.send(&bytes);
        }
        Then::Close
    });
    let mut client = gateway.connect();
    client.send(replace(HANDSHAKE.as_bytes(), b"%T%", token.as_bytes()));
    client.wire().patience(PATIENCE);
    assert_eq!(client.status_and_head().unwrap().0, 101);
    client.send("ping");
    assert_eq!(client.wire().take(4).unwrap(), b"ping");
    gateway.write_config(&setup.clone().and_route("path = \"/marker\"\nstatus = 450"));
    gateway.signal(Signal::HUP);
    wait_until("the new configuration", || {
        gateway.get("/marker").status == 450
    });
    client.send("pong");
    assert_eq!(client.wire().take(4).unwrap(), b"pong");
    gateway.signal(Signal::TERM);
    gateway.wait_for_exit(PATIENCE);
    client.expect_closed();
}

/// A tunnel whose peer does not read holds the sender back instead of filling memory.
#[test]
fn tunnels_hold_back() {
    let _turn = turn::shared();
    let (origin, gateway, token, handshake) = raw();
    let gate = std::sync::Arc::new(crate::harness::wait::Gate::default());
    let held = std::sync::Arc::clone(&gate);
    origin.script(token.clone(), move |exchange| {
        exchange.send(ACCEPT);
        held.pass();
        let mut count = 0_u64;
        exchange.wire.patience(PATIENCE * 2);
        while count < 64 * 1024 * 1024 {
            let Ok(bytes) = exchange.wire.take(1024 * 1024) else {
                return Then::Close;
            };
            count += bytes.len() as u64;
        }
        exchange.send(b"all");
        Then::Close
    });
    let mut client = gateway.connect();
    client.send(&handshake);
    client.wire().patience(PATIENCE);
    assert_eq!(client.status_and_head().unwrap().0, 101);
    gateway.forget_memory_peak();
    let before = gateway.memory();
    let stream = client.wire().stream().try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        use std::io::Write;
        let mut stream = stream;
        let block = vec![7; 1024 * 1024];
        for _ in 0..64 {
            stream.write_all(&block).unwrap();
        }
    });
    // Stuck: the kernel's buffers are full on the whole way, and stay so.
    crate::harness::wait::wait_until_still(|| gateway.processor_time());
    let growth = gateway.memory_peak().saturating_sub(before);
    assert!(growth < 4 * 1024 * 1024, "memory grew by {growth} bytes");
    gate.open();
    client.wire().patience(PATIENCE * 2);
    assert_eq!(client.wire().take(3).unwrap(), b"all");
    sender.join().unwrap();
}
