//! `Expect: 100-continue` and interim responses: RFC 9110 sections 10.1.1 and 15.2.

use std::sync::Arc;
use std::time::Duration;

use super::{HIDDEN, Table, request};
use crate::harness::origin::Then;
use crate::harness::wait::Gate;
use crate::harness::wire::WireError;

const EXPECT: &str = "Expect: 100-continue\r\nContent-Length: 5\r\n";

#[test]
fn expect_100_continue() {
    let mut table = Table::new();
    table.case(
        "the origin says 100: the client gets it, then the body goes",
        |case| {
            let mut client = case.send(request("POST", EXPECT, "").as_bytes());
            client.wire().patience(Duration::from_secs(15));
            let (status, _) = client.status_and_head().expect("an interim response");
            assert_eq!(status, 100);
            client.send("hello");
            assert_eq!(client.response("POST").status, 200);
            let request = case.origin.request(&case.token);
            assert_eq!(request.body.bytes, b"hello");
            client.expect_usable();
        },
    );
    table.case(
        "the expectation is passed on and the body not read before it must be",
        |case| {
            // The origin answers at once, without 100: had the gateway said 100 by itself, the client would see it.
            case.origin.script(case.token.clone(), |exchange| {
                exchange
                    .send(b"HTTP/1.1 417 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno");
                Then::Close
            });
            let mut client = case.send(request("POST", EXPECT, "").as_bytes());
            let response = client.read("POST").unwrap();
            assert_eq!(
                (response.status, response.interim.len()),
                (417, 0),
                "{:?}",
                response.interim
            );
            assert!(
                case.origin.requests(&case.token)[0]
                    .head
                    .lists("expect", "100-continue")
            );
        },
    );
    for (name, close) in [("keeps", false), ("closes", true)] {
        table.case(
            &format!("refused, and the origin {name} the connection: the body is no request"),
            |case| {
                case.origin.script(case.token.clone(), move |exchange| {
                    let connection = if close { "Connection: close\r\n" } else { "" };
                    exchange.send(
                        format!("HTTP/1.1 401 No\r\nContent-Length: 2\r\n{connection}\r\nno")
                            .as_bytes(),
                    );
                    if close { Then::Close } else { Then::Keep }
                });
                let body = String::from_utf8(case.fill(HIDDEN.as_bytes())).unwrap();
                let lines = format!("Expect: 100-continue\r\nContent-Length: {}\r\n", body.len());
                let mut client = case.send(request("POST", &lines, "").as_bytes());
                let response = client.read("POST").unwrap();
                assert_eq!(response.status, 401);
                // A client may send the body all the same (10.1.1); it must never be taken for a request.
                client.try_send(&body);
                if response.closes() {
                    client.expect_closed();
                } else {
                    client.expect_usable();
                }
            },
        );
    }
    table.case("a client that does not wait for the 100", |case| {
        let mut client = case.send(request("POST", EXPECT, "hello").as_bytes());
        assert_eq!(client.response("POST").status, 200);
        assert_eq!(case.origin.request(&case.token).body.bytes, b"hello");
        client.expect_usable();
    });
    table.case("chunked", |case| {
        let lines = "Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n";
        let mut client = case.send(request("POST", lines, "").as_bytes());
        client.wire().patience(Duration::from_secs(15));
        assert_eq!(
            client.status_and_head().expect("an interim response").0,
            100
        );
        client.send("5\r\nhello\r\n0\r\n\r\n");
        assert_eq!(client.response("POST").status, 200);
        assert_eq!(case.origin.request(&case.token).body.bytes, b"hello");
    });
    table.case("no 100 to HTTP/1.0", |case| {
        let bytes = "POST /%T% HTTP/1.0\r\nHost: %H%\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello";
        let response = case.send(bytes.as_bytes()).response("POST");
        assert_eq!((response.status, response.interim.len()), (200, 0));
    });
    for framing in ["Content-Length: 50\r\n", "Transfer-Encoding: chunked\r\n"] {
        table.case(
            &format!("a body that ends too early is never whole ({framing:?})"),
            |case| {
                let body = if framing.starts_with('C') {
                    "half"
                } else {
                    "4\r\nhalf\r\n"
                };
                for vanish in [false, true] {
                    let mut client = case.send(request("POST", framing, body).as_bytes());
                    case.origin.wait_for_request(&case.token);
                    if vanish {
                        client.reset();
                    } else {
                        client.wire().half_close();
                        // 400, or just the end: there is nobody who must be told.
                        if let Ok(response) = client.read("POST") {
                            assert!([400, 408].contains(&response.status), "{}", response.status);
                        }
                    }
                    case.origin.wait_for_end_of(&case.token);
                    let seen = case.origin.requests(&case.token);
                    assert!(
                        seen.iter().all(|request| !request.complete()),
                        "it was made whole: {seen:#?}"
                    );
                }
            },
        );
    }
    table.case("another expectation: 417, or passed on", |case| {
        let response = case
            .send(request("GET", "Expect: magic\r\n", "").as_bytes())
            .read("GET")
            .unwrap();
        assert!(
            [200, 400, 417].contains(&response.status),
            "{}",
            response.status
        );
    });
    table.case("an expectation without a body", |case| {
        let mut client = case.send(request("GET", "Expect: 100-continue\r\n", "").as_bytes());
        assert_eq!(client.response("GET").status, 200);
        client.expect_usable();
    });
    table.finish();
}

#[test]
fn interim_responses() {
    let mut table = Table::new();
    const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    table.case("103 Early Hints, then 200", |case| {
        case.origin_sends(
            format!("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n{OK}").as_bytes(),
            Then::Keep,
        );
        let mut client = case.send(request("GET", "", "").as_bytes());
        let response = client.response("GET");
        assert_eq!(response.text(), "ok");
        for (status, head) in &response.interim {
            // Relaying is a choice (15.2); what is relayed is what came.
            assert_eq!((*status, head.get("link")), (103, Some("</a>")));
        }
        client.expect_usable();
    });
    table.case("several, of several kinds", |case| {
        let interim =
            "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
                .repeat(3);
        case.origin_sends(format!("{interim}{OK}").as_bytes(), Then::Keep);
        let mut client = case.send(request("GET", "", "").as_bytes());
        assert_eq!(client.response("GET").text(), "ok");
        client.expect_usable();
    });
    table.case("100 that nobody asked for", |case| {
        case.origin_sends(
            format!("HTTP/1.1 100 Continue\r\n\r\n{OK}").as_bytes(),
            Then::Keep,
        );
        let mut client = case.send(request("GET", "", "").as_bytes());
        assert_eq!(client.response("GET").text(), "ok");
        client.expect_usable();
    });
    table.case("none to HTTP/1.0", |case| {
        case.origin_sends(
            format!("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n{OK}").as_bytes(),
            Then::Keep,
        );
        let response = case
            .send(b"GET /%T% HTTP/1.0\r\nHost: %H%\r\n\r\n")
            .response("GET");
        assert_eq!(
            (response.text().as_str(), response.interim.len()),
            ("ok", 0)
        );
    });
    table.case("with a HEAD", |case| {
        let head = "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n";
        case.origin_sends(head.as_bytes(), Then::Keep);
        let mut client = case.send(request("HEAD", "", "").as_bytes());
        assert_eq!(client.response("HEAD").get("content-length"), Some("7"));
        client.expect_usable();
    });
    table.case("without end: bounded", |case| {
        let stopped = Arc::new(Gate::default());
        let seen = Arc::clone(&stopped);
        case.origin.script(case.token.clone(), move |exchange| {
            for _ in 0..200_000 {
                if !exchange.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n") {
                    seen.open();
                    break;
                }
            }
            Then::Close
        });
        let mut client = case.send(request("GET", "", "").as_bytes());
        match client.read("GET") {
            Ok(response) => assert_eq!(response.status, 502),
            // Some interim responses are on their way to the client: the connection is all that can be ended.
            Err(error) => assert!(matches!(error, WireError::Closed(_)), "{error}"),
        }
        assert!(
            stopped.pass(),
            "the gateway went on reading interim responses"
        );
    });
    table.case(
        "with a body, which an interim response cannot have",
        |case| {
            case.origin_sends(
                format!("HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\nhello{OK}")
                    .as_bytes(),
                Then::Close,
            );
            let response = case
                .send(request("GET", "", "").as_bytes())
                .read("GET")
                .unwrap();
            assert_eq!(response.status, 502);
        },
    );
    table.case("101 that nobody asked for: 502, no tunnel", |case| {
        let switch =
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        case.origin_sends(switch.as_bytes(), Then::Keep);
        let mut client = case.send(request("GET", "", "").as_bytes());
        assert_eq!(client.response("GET").status, 502);
    });
    table.finish();
}
