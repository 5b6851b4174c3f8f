//! Response heads from the origin: what can be read in two ways becomes 502 (RFC 9112 sections 4, 5, 6.3).

use super::{Table, check_own_answer, request};
use crate::harness::origin::Then;

/// 502 for the client, one request at the origin, and its connection is not used again.
fn unusable(table: &mut Table, name: &str, bytes: &[u8]) {
    table.case(name, |case| {
        // Kept open on the origin's side: the gateway is the one who has to end it.
        case.origin.answer(case.token.clone(), bytes, Then::Keep);
        let mut client = case.send(request("GET", "", "").as_bytes());
        let response = client
            .read("GET")
            .unwrap_or_else(|error| panic!("no answer: {error}"));
        assert_eq!(response.status, 502, "{:?}", response.head);
        check_own_answer(&response);
        assert_eq!(
            response.get("x-livegate-reason"),
            Some("bad_upstream_response")
        );
        case.origin.wait_for_end_of(&case.token);
        assert_eq!(
            case.origin.requests(&case.token).len(),
            1,
            "a byte of the response was seen: no second attempt"
        );
        if !response.closes() {
            client.expect_usable();
        }
    });
}

#[test]
fn status_lines() {
    let mut table = Table::new();
    for line in [
        "HTTP/1.1 99 Low",
        "HTTP/1.1 099 Low",
        "HTTP/1.1 000 Zero",
        "HTTP/1.1 20 Short",
        "HTTP/1.1 2000 Long",
        "HTTP/1.1 2OO OK",
        "HTTP/1.1 -20 OK",
        "HTTP/1.1 +20 OK",
        "HTTP/1.1  200 OK",
        "HTTP/1.1\t200 OK",
        "HTTP/1.1",
        "HTTP/1.1 ",
        "HTTP/1.1 OK 200",
        " HTTP/1.1 200 OK",
        "HTTP/2 200 OK",
        "HTTP/2.0 200 OK",
        "HTTP/0.9 200 OK",
        "HTTP/1 200 OK",
        "HTTP/11 200 OK",
        "http/1.1 200 OK",
        "ICY 200 OK",
        "garbage",
        "<html>",
        "HTTP/1.1 200 O\0K",
        "HTTP/1.1 200 O\rK",
        "HTTP/1.1 200 O\x01K",
        "200 OK",
        "GET / HTTP/1.1",
    ] {
        unusable(
            &mut table,
            &format!("{line:?}"),
            format!("{line}\r\nContent-Length: 2\r\n\r\nok").as_bytes(),
        );
    }
    table.finish();
}

#[test]
fn fields() {
    let mut table = Table::new();
    for lines in [
        "X-A : b\r\n",
        "X-A\t: b\r\n",
        " X-A: b\r\n",
        "X-A: b\r\n c\r\n",
        "X-A\r\n",
        ": b\r\n",
        "X A: b\r\n",
        "X[]: b\r\n",
        "X-\0: b\r\n",
        "X-A: b\0c\r\n",
        "X-A: b\x01c\r\n",
        "X-A: a\rSet-Cookie: x=1\r\n",
        "X-A: a\nSet-Cookie: x=1\r\n",
        "X-A: a\r\r\n",
    ] {
        let bytes = format!("HTTP/1.1 200 OK\r\n{lines}Content-Length: 2\r\n\r\nok");
        unusable(&mut table, &format!("{lines:?}"), bytes.as_bytes());
    }
    unusable(
        &mut table,
        "all lines ended by LF",
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    );
    unusable(
        &mut table,
        "empty line LF",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\nok",
    );
    table.case("a head that never ends", |case| {
        case.origin.script(case.token.clone(), |exchange| {
            exchange.send(b"HTTP/1.1 200 OK\r\n");
            for number in 0..2_000_000 {
                if !exchange.send(format!("X-{number}: y\r\n").as_bytes()) {
                    return Then::Close;
                }
            }
            Then::Close
        });
        let response = case.send(request("GET", "", "").as_bytes()).response("GET");
        assert_eq!(
            (response.status, response.get("x-livegate-reason")),
            (502, Some("bad_upstream_response"))
        );
    });
    table.case("a head of 20 KiB is no problem", |case| {
        let fields = format!("X-Y: {}\r\n", "z".repeat(1_000)).repeat(20);
        case.origin_sends(
            format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 2\r\n\r\nok").as_bytes(),
            Then::Keep,
        );
        let response = case.send(request("GET", "", "").as_bytes()).response("GET");
        assert_eq!((response.status, response.head.all("x-y").len()), (200, 20));
    });
    table.case("byte by byte", |case| {
        case.origin.script(case.token.clone(), |exchange| {
            for byte in b"HTTP/1.1 200 OK\r\nX-A: b\r\nContent-Length: 2\r\n\r\nok" {
                exchange.send(&[*byte]);
            }
            Then::Keep
        });
        let response = case.send(request("GET", "", "").as_bytes()).response("GET");
        assert_eq!(
            (response.text().as_str(), response.get("x-a")),
            ("ok", Some("b"))
        );
    });
    table.finish();
}

#[test]
fn framing() {
    let mut table = Table::new();
    for value in [
        "+5",
        "-5",
        "0x5",
        "5a",
        "",
        "5 5",
        "5, 6",
        "5,5x",
        "18446744073709551621",
        "9223372036854775808",
        "1e0",
        "\"5\"",
    ] {
        let bytes = format!("HTTP/1.1 200 OK\r\nContent-Length: {value}\r\n\r\nhello");
        unusable(
            &mut table,
            &format!("Content-Length {value:?}"),
            bytes.as_bytes(),
        );
    }
    for (name, lines) in [
        ("two lengths", "Content-Length: 5\r\nContent-Length: 50\r\n"),
        (
            "two lengths, one of them nothing",
            "Content-Length: 5\r\nContent-Length:\r\n",
        ),
        (
            "length and coding",
            "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        ),
        (
            "coding and length",
            "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
        ),
        ("gzip", "Transfer-Encoding: gzip\r\n"),
        ("gzip, chunked", "Transfer-Encoding: gzip, chunked\r\n"),
        ("chunked, gzip", "Transfer-Encoding: chunked, gzip\r\n"),
        (
            "chunked, chunked",
            "Transfer-Encoding: chunked, chunked\r\n",
        ),
        (
            "chunked twice",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        ),
        ("xchunked", "Transfer-Encoding: xchunked\r\n"),
        ("identity", "Transfer-Encoding: identity\r\n"),
        ("nothing", "Transfer-Encoding:\r\n"),
        ("vertical tab", "Transfer-Encoding: \x0bchunked\r\n"),
    ] {
        let bytes = format!("HTTP/1.1 200 OK\r\n{lines}\r\n5\r\nhello\r\n0\r\n\r\n");
        unusable(&mut table, name, bytes.as_bytes());
    }
    unusable(
        &mut table,
        "chunked in HTTP/1.0",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    );
    table.case("the same length twice: 502, or one", |case| {
        case.origin_sends(
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
            Then::Keep,
        );
        let mut client = case.send(request("GET", "", "").as_bytes());
        let response = client.read("GET").unwrap();
        assert!(
            response.status == 502 || response.text() == "ok",
            "{response:?}"
        );
    });
    table.finish();
}
