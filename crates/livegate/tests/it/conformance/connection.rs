//! Keep-alive, close, pipelining and bodies that are not there: RFC 9112 sections 6.3 and 9.

use std::fmt::Write as _;
use std::sync::Arc;

use super::{HIDDEN, Table, request, token};
use crate::harness::client::HOST;
use crate::harness::origin::Then;
use crate::harness::wait::Gate;
use crate::harness::wire::WireError;

#[test]
fn persistence() {
    let mut table = Table::new();
    table.case("1.1 keeps", |case| {
        let mut client = case.send(request("GET", "", "").as_bytes());
        assert!(!client.response("GET").closes());
        client.expect_usable();
    });
    for connection in [
        "close",
        "Close",
        "x, close",
        "close, x",
        "keep-alive, close",
    ] {
        table.case(
            &format!("1.1 with Connection: {connection} ends; what follows is not a request"),
            |case| {
                let bytes = format!(
                    "{}{HIDDEN}",
                    request("GET", &format!("Connection: {connection}\r\n"), "")
                );
                let mut client = case.send(bytes.as_bytes());
                let response = client.response("GET");
                assert!(
                    response.closes(),
                    "9.6: the response says so: {:?}",
                    response.head
                );
                client.expect_closed();
            },
        );
    }
    table.case("1.0 ends", |case| {
        let mut client =
            case.send(format!("GET /%T% HTTP/1.0\r\nHost: %H%\r\n\r\n{HIDDEN}").as_bytes());
        assert_eq!(client.response("GET").status, 200);
        client.expect_closed();
    });
    table.case("1.0 with keep-alive is kept, and told so", |case| {
        let bytes = "GET /%T% HTTP/1.0\r\nHost: %H%\r\nConnection: Keep-Alive\r\n\r\n";
        let mut client = case.send(bytes.as_bytes());
        let response = client.response("GET");
        assert!(
            response.head.lists("connection", "keep-alive"),
            "9.3: {:?}",
            response.head
        );
        client.expect_usable();
    });
    table.case("1.0 with keep-alive and close ends", |case| {
        let bytes = "GET /%T% HTTP/1.0\r\nHost: %H%\r\nConnection: keep-alive, close\r\n\r\n";
        let mut client = case.send(bytes.as_bytes());
        assert_eq!(client.response("GET").status, 200);
        client.expect_closed();
    });
    table.case(
        "an origin that closes does not close the client's connection",
        |case| {
            let close = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";
            case.origin_sends(close.as_bytes(), Then::Close);
            let mut client = case.send(request("GET", "", "").as_bytes());
            let response = client.response("GET");
            assert!(
                !response.closes(),
                "Connection is hop-by-hop: {:?}",
                response.head
            );
            client.expect_usable();
        },
    );
    table.case("a hundred requests in turn on one connection", |case| {
        let mut client = case.gateway.connect();
        for number in 0..100 {
            let target = format!("/{}/{number}", case.token);
            assert_eq!(client.get(&target).text(), format!("GET {target}\n"));
        }
        assert_eq!(case.origin.requests(&case.token).len(), 100);
    });
    table.case(
        "a client that shuts down its sending side gets its answer, or the end",
        |case| {
            // Nothing in RFC 9112 tells "no more requests" from "gone"; hanging and foreign answers are wrong.
            let mut client = case.send(request("GET", "", "").as_bytes());
            client.wire().half_close();
            match client.read("GET") {
                Ok(response) => assert_eq!(response.text(), format!("GET /{}\n", case.token)),
                Err(WireError::Closed(bytes)) => assert!(bytes.is_empty(), "cut short"),
                Err(error) => panic!("{error}"),
            }
            client.expect_closed();
        },
    );
    table.finish();
}

#[test]
fn pipelining() {
    let mut table = Table::new();
    table.case("answers come in the order of the requests", |case| {
        // The first answer is held back until the second request could long have been answered.
        let gate = Arc::new(Gate::default());
        let first = Arc::clone(&gate);
        let slow = format!("{}-slow", case.token);
        case.origin.script(slow.clone(), move |exchange| {
            if !first.pass() {
                return Then::Close;
            }
            exchange.answer_by_default()
        });
        let mut bytes = String::new();
        for target in [
            slow.clone(),
            format!("{}-b", case.token),
            format!("{}-c", case.token),
        ] {
            write!(bytes, "GET /{target} HTTP/1.1\r\nHost: {HOST}\r\n\r\n").unwrap();
        }
        let mut client = case.gateway.connect();
        client.send(&bytes);
        case.origin.wait_for_request(&slow);
        gate.open();
        for target in [
            slow,
            format!("{}-b", case.token),
            format!("{}-c", case.token),
        ] {
            assert_eq!(client.response("GET").text(), format!("GET /{target}\n"));
        }
    });
    table.case("many, with bodies, in one segment", |case| {
        let mut bytes = String::new();
        for number in 0..50 {
            let body = "x".repeat(number);
            write!(
                bytes,
                "POST /{}/{number} HTTP/1.1\r\nHost: {HOST}\r\n",
                case.token
            )
            .unwrap();
            if number % 2 == 0 {
                write!(bytes, "Content-Length: {number}\r\n\r\n{body}").unwrap();
            } else {
                write!(
                    bytes,
                    "Transfer-Encoding: chunked\r\n\r\n{number:x}\r\n{body}\r\n0\r\n\r\n"
                )
                .unwrap();
            }
        }
        let mut client = case.gateway.connect();
        client.send(&bytes);
        for number in 0..50 {
            assert_eq!(
                client.response("POST").text(),
                format!("POST /{}/{number}\n", case.token)
            );
        }
        let seen = case.origin.requests(&case.token);
        assert!(
            seen.iter()
                .enumerate()
                .all(|(number, request)| request.body.bytes.len() == number)
        );
    });
    table.case(
        "HEAD, 204 and 304 have no body: the next answer is right",
        |case| {
            let names = [
                ("204", "HTTP/1.1 204 No Content\r\n\r\n"),
                (
                    "304",
                    "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nContent-Length: 9\r\n\r\n",
                ),
            ];
            for (name, bytes) in names {
                case.origin
                    .answer(format!("{}-{name}", case.token), bytes, Then::Keep);
            }
            let mut client = case.gateway.connect();
            let mut bytes = format!("HEAD /{}-head HTTP/1.1\r\nHost: {HOST}\r\n\r\n", case.token);
            for name in ["204", "304", "end"] {
                write!(
                    bytes,
                    "GET /{}-{name} HTTP/1.1\r\nHost: {HOST}\r\n\r\n",
                    case.token
                )
                .unwrap();
            }
            client.send(&bytes);
            let head = client.response("HEAD");
            let length = format!("HEAD /{}-head\n", case.token).len().to_string();
            assert_eq!(
                head.get("content-length"),
                Some(length.as_str()),
                "9110 8.6: as a GET would have it"
            );
            let none = client.response("GET");
            assert_eq!(
                (none.status, none.get("content-length")),
                (204, None),
                "9110 8.6: none with a 204"
            );
            let unchanged = client.response("GET");
            assert_eq!(
                (unchanged.status, unchanged.get("etag")),
                (304, Some("\"a\""))
            );
            assert_eq!(
                client.response("GET").text(),
                format!("GET /{}-end\n", case.token)
            );
        },
    );
    table.case(
        "the answer to what is wrong comes after the answers to what is right",
        |case| {
            let mut client =
                case.send(format!("{}GET /%S%\r\n\r\n", request("GET", "", "")).as_bytes());
            assert_eq!(client.response("GET").status, 200);
            let response = client.response("GET");
            assert_eq!((response.status, response.closes()), (400, true));
            client.expect_closed();
        },
    );
    table.case(
        "a second request in the bytes of a first whose answer is slow",
        |case| {
            let (first, second) = (token("first"), token("second"));
            let gate = Arc::new(Gate::default());
            let held = Arc::clone(&gate);
            case.origin.script(first.clone(), move |exchange| {
                if held.pass() {
                    exchange.answer_by_default()
                } else {
                    Then::Close
                }
            });
            let mut client = case.gateway.connect();
            client.send(format!(
                "GET /{first} HTTP/1.1\r\nHost: {HOST}\r\n\r\nGET /{second} HTT"
            ));
            case.origin.wait_for_request(&first);
            client.send(format!("P/1.1\r\nHost: {HOST}\r\n\r\n"));
            gate.open();
            assert_eq!(client.response("GET").text(), format!("GET /{first}\n"));
            assert_eq!(client.response("GET").text(), format!("GET /{second}\n"));
        },
    );
    table.finish();
}
