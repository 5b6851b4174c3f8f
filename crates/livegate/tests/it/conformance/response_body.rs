//! Response bodies: whole, of the right length, and visibly cut when they are cut (RFC 9112 sections 6.3, 7.1, 8).

use super::{Case, Table, request};
use crate::harness::origin::Then;
use crate::harness::wire::Framing;

/// A response of its own, in bytes that must not be taken for one.
const POISON: &str = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nPOISON";

/// Bytes in which a shift, a gap or a repetition shows.
fn pattern(length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 8);
    let mut number = 0_u64;
    while bytes.len() < length {
        bytes.extend_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        number += 1;
    }
    bytes.truncate(length);
    bytes
}

fn chunked(data: &[u8], size: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for chunk in data.chunks(size) {
        bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    bytes
}

fn with_head(lines: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 200 OK\r\n{lines}\r\n").into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// Sizes around the borders of buffers, and well above them.
const SIZES: [usize; 16] = [
    0, 1, 100, 4_095, 4_096, 4_097, 16_383, 16_384, 16_385, 65_535, 65_536, 65_537, 131_071,
    131_072, 131_073, 5_000_001,
];

#[test]
fn bodies_arrive_whole() {
    let mut table = Table::new();
    for size in SIZES {
        let data = pattern(size);
        table.case(&format!("{size} bytes by length"), |case| {
            case.origin_sends(
                &with_head(&format!("Content-Length: {size}\r\n"), &data),
                Then::Keep,
            );
            let mut client = case.send(request("GET", "", "").as_bytes());
            let response = client.response("GET");
            assert_eq!(
                response.framing,
                Some(Framing::Length(size as u64)),
                "the length is kept"
            );
            assert!(response.body == data, "changed on the way");
            client.expect_usable();
        });
        table.case(&format!("{size} bytes in chunks"), |case| {
            case.origin_sends(
                &with_head("Transfer-Encoding: chunked\r\n", &chunked(&data, 3_000)),
                Then::Keep,
            );
            let mut client = case.send(request("GET", "", "").as_bytes());
            let response = client.response("GET");
            assert_eq!(response.framing, Some(Framing::Chunked));
            assert!(response.body == data, "changed on the way");
            client.expect_usable();
        });
        table.case(&format!("{size} bytes until the connection ends"), |case| {
            case.origin_sends(&with_head("", &data), Then::Close);
            let mut client = case.send(request("GET", "", "").as_bytes());
            let response = client.response("GET");
            assert!(response.body == data, "changed on the way");
            match response.framing {
                Some(Framing::Chunked) => client.expect_usable(),
                _ => client.expect_closed(),
            }
        });
        table.case(&format!("{size} bytes of request body"), |case| {
            let mut client =
                case.send(request("POST", &format!("Content-Length: {size}\r\n"), "").as_bytes());
            client.send(&data);
            assert_eq!(client.response("POST").status, 200);
            assert!(
                case.origin.request(&case.token).body.bytes == data,
                "changed on the way"
            );
        });
    }
    table.case("two large bodies at once do not mix", |case| {
        let data = [
            pattern(3_000_000),
            pattern(3_000_000).into_iter().rev().collect::<Vec<u8>>(),
        ];
        for (number, data) in data.iter().enumerate() {
            let lines = format!("Content-Length: {}\r\n", data.len());
            case.origin.answer(
                format!("{}-{number}", case.token),
                with_head(&lines, data),
                Then::Keep,
            );
        }
        let mut clients = [case.gateway.connect(), case.gateway.connect()];
        for (number, client) in clients.iter_mut().enumerate() {
            client.send(format!(
                "GET /{}-{number} HTTP/1.1\r\nHost: x\r\n\r\n",
                case.token
            ));
        }
        for (client, data) in clients.iter_mut().zip(&data) {
            assert!(client.response("GET").body == *data, "changed on the way");
        }
    });
    table.finish();
}

#[test]
fn bodies_for_http_1_0() {
    let mut table = Table::new();
    let ask = b"GET /%T% HTTP/1.0\r\nHost: %H%\r\n\r\n";
    table.case("chunks are taken apart", |case| {
        case.origin_sends(
            &with_head(
                "Transfer-Encoding: chunked\r\n",
                b"5\r\nhello\r\n1\r\n!\r\n0\r\nX-T: 1\r\n\r\n",
            ),
            Then::Keep,
        );
        let response = case.send(ask).response("GET");
        assert_eq!(
            (response.text().as_str(), response.framing),
            ("hello!", Some(Framing::UntilClose))
        );
    });
    table.case("and keep-alive cannot be kept then", |case| {
        case.origin_sends(
            &with_head("Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n0\r\n\r\n"),
            Then::Keep,
        );
        let response = case
            .send(b"GET /%T% HTTP/1.0\r\nHost: %H%\r\nConnection: keep-alive\r\n\r\n")
            .response("GET");
        assert_eq!(
            (
                response.text().as_str(),
                response.head.lists("connection", "keep-alive")
            ),
            ("hello", false)
        );
    });
    table.case("until the connection ends", |case| {
        case.origin_sends(&with_head("", b"hello"), Then::Close);
        assert_eq!(case.send(ask).response("GET").text(), "hello");
    });
    table.case("by length", |case| {
        case.origin_sends(&with_head("Content-Length: 5\r\n", b"hello"), Then::Keep);
        let response = case.send(ask).response("GET");
        assert_eq!(
            (response.text().as_str(), response.framing),
            ("hello", Some(Framing::Length(5)))
        );
    });
    table.finish();
}

#[test]
fn trailers_and_extensions() {
    let mut table = Table::new();
    table.case("trailers are passed on", |case| {
        let body = b"5;ext=1\r\nhello\r\n0;last\r\nX-Sum: abc\r\nX-Two: 2\r\n\r\n";
        case.origin_sends(
            &with_head("Trailer: X-Sum\r\nTransfer-Encoding: chunked\r\n", body),
            Then::Keep,
        );
        let mut client =
            case.send(request("GET", "TE: trailers\r\nConnection: TE\r\n", "").as_bytes());
        let response = client.response("GET");
        let expected =
            [("X-Sum", "abc"), ("X-Two", "2")].map(|(n, v)| (n.to_owned(), v.to_owned()));
        assert_eq!(
            (response.text().as_str(), response.trailers),
            ("hello", expected.to_vec())
        );
        assert!(
            response.head.all("x-sum").is_empty(),
            "a trailer became a header"
        );
        client.expect_usable();
    });
    table.case("trailers that may not be", |case| {
        let body = b"5\r\nhello\r\n0\r\nContent-Length: 50\r\nTransfer-Encoding: x\r\nSet-Cookie: a\r\nConnection: close\r\n\r\n";
        case.origin_sends(&with_head("Transfer-Encoding: chunked\r\n", body), Then::Keep);
        let mut client = case.send(request("GET", "", "").as_bytes());
        let response = client.read("GET").unwrap();
        for name in ["content-length", "transfer-encoding", "connection"] {
            let there = response.trailers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
            assert!(!there, "{name} came as a trailer");
        }
    });
    table.finish();
}

/// The client must be able to tell that the body is not whole; and whoever comes next must not get the rest.
#[test]
fn bodies_that_are_cut() {
    let mut table = Table::new();
    let cases: [(&str, &str, &[u8], Then); 14] = [
        (
            "length, closed",
            "Content-Length: 100\r\n",
            b"hello",
            Then::Close,
        ),
        (
            "length, reset",
            "Content-Length: 100\r\n",
            b"hello",
            Then::Reset,
        ),
        (
            "length, closed before the first byte",
            "Content-Length: 100\r\n",
            b"",
            Then::Close,
        ),
        (
            "chunked, closed in a chunk",
            "Transfer-Encoding: chunked\r\n",
            b"5\r\nhel",
            Then::Close,
        ),
        (
            "chunked, closed between chunks",
            "Transfer-Encoding: chunked\r\n",
            b"5\r\nhello\r\n",
            Then::Close,
        ),
        (
            "chunked, closed in the last chunk",
            "Transfer-Encoding: chunked\r\n",
            b"5\r\nhello\r\n0\r\n",
            Then::Close,
        ),
        (
            "chunked, closed in the trailers",
            "Transfer-Encoding: chunked\r\n",
            b"5\r\nhello\r\n0\r\nX: y\r\n",
            Then::Close,
        ),
        (
            "chunked, reset",
            "Transfer-Encoding: chunked\r\n",
            b"5\r\nhello\r\n",
            Then::Reset,
        ),
        (
            "chunked, bad size",
            "Transfer-Encoding: chunked\r\n",
            b"5\r\nhello\r\nzz\r\nhello\r\n0\r\n\r\n",
            Then::Keep,
        ),
        (
            "chunked, LF",
            "Transfer-Encoding: chunked\r\n",
            b"5\r\nhello\n0\r\n\r\n",
            Then::Keep,
        ),
        (
            "chunked, data too long",
            "Transfer-Encoding: chunked\r\n",
            b"5\r\nhelloXX\r\n0\r\n\r\n",
            Then::Keep,
        ),
        (
            "chunked, huge size",
            "Transfer-Encoding: chunked\r\n",
            b"5\r\nhello\r\n10000000000000005\r\nhello\r\n",
            Then::Keep,
        ),
        (
            "chunked, bad trailer",
            "Transfer-Encoding: chunked\r\n",
            b"5\r\nhello\r\n0\r\nX : y\r\n\r\n",
            Then::Keep,
        ),
        ("until the end, reset", "", b"hello", Then::Reset),
    ];
    for (name, lines, body, then) in cases {
        table.case(name, |case| {
            case.origin.script(case.token.clone(), move |exchange| {
                drop(exchange.read_body());
                exchange.send(&with_head(lines, body));
                if then == Then::Reset {
                    // A reset destroys what the gateway has not read yet: wait for the client to have it.
                    exchange
                        .wire
                        .patience(std::time::Duration::from_millis(300));
                    drop(exchange.wire.fill());
                }
                then
            });
            cut(case);
        });
    }
    table.finish();
}

fn cut(case: &Case<'_>) {
    let mut client = case.send(request("GET", "", "").as_bytes());
    match client.read("GET") {
        Ok(response) if response.status == 502 => {}
        Ok(response) => {
            assert!(
                !response.complete,
                "{:?} was presented as whole: {:?}",
                response.text(),
                response.head
            );
            assert!(
                "hello".starts_with(&response.text()),
                "{:?}",
                response.text()
            );
        }
        // Malformed framing is how some gateways make a cut visible; ours ends the connection.
        Err(error) => panic!("{error}"),
    }
    case.origin.wait_for_end_of(&case.token);
}

/// Which upstream connections may carry another exchange: RFC 9112 section 9.3.
#[test]
fn connections_that_must_not_be_used_again() {
    let mut table = Table::new();
    for (name, head, reused) in [
        ("1.1", "HTTP/1.1 200 OK\r\n", true),
        (
            "1.1 with close",
            "HTTP/1.1 200 OK\r\nConnection: close\r\n",
            false,
        ),
        (
            "1.1 with a list that has close",
            "HTTP/1.1 200 OK\r\nConnection: x, Close\r\n",
            false,
        ),
        ("1.0", "HTTP/1.0 200 OK\r\n", false),
    ] {
        table.case(name, |case| {
            // The origin leaves it open: using it again would work, and be wrong.
            case.origin_sends(
                format!("{head}Content-Length: 2\r\n\r\nok").as_bytes(),
                Then::Keep,
            );
            let target = format!("/{}", case.token);
            let mut client = case.gateway.connect();
            assert_eq!(client.get(&target).text(), "ok");
            assert_eq!(client.get(&target).text(), "ok");
            let seen = case.origin.requests(&case.token);
            assert_eq!(seen[0].connection == seen[1].connection, reused, "{head:?}");
            if !reused {
                case.origin.wait_for_end_of(&case.token);
            }
        });
    }
    table.finish();
}

#[test]
fn bytes_that_belong_to_nothing() {
    let mut table = Table::new();
    for (name, bytes) in [
        (
            "a second response at once",
            format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok{POISON}"),
        ),
        (
            "after chunks",
            format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n{POISON}"
            ),
        ),
        (
            "a stray CRLF",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok\r\n".to_owned(),
        ),
    ] {
        table.case(name, |case| {
            case.origin_sends(bytes.as_bytes(), Then::Keep);
            let mut client = case.send(request("GET", "", "").as_bytes());
            assert_eq!(client.response("GET").text(), "ok");
            client.expect_usable();
            case.origin.wait_for_end_of(&case.token);
        });
    }
    table.case("a second response later, on the idle connection", |case| {
        case.origin.script(case.token.clone(), |exchange| {
            exchange.send_ok("ok");
            // Unsolicited, once the first is done with: RFC 9112 9.3 has no place for it.
            exchange.send(POISON.as_bytes());
            exchange.gateway_leaves();
            Then::Close
        });
        let mut client = case.send(request("GET", "", "").as_bytes());
        assert_eq!(client.response("GET").text(), "ok");
        client.expect_usable();
        client.expect_usable();
        case.origin.wait_for_end_of(&case.token);
    });
    table.case("a HEAD that is answered as chunked", |case| {
        case.origin_sends(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            Then::Keep,
        );
        let mut client = case.send(request("HEAD", "", "").as_bytes());
        assert_eq!(client.response("HEAD").status, 200);
        client.expect_usable();
    });
    table.case("a HEAD that is answered without any length", |case| {
        case.origin_sends(b"HTTP/1.1 200 OK\r\nX-A: b\r\n\r\n", Then::Keep);
        let mut client = case.send(request("HEAD", "", "").as_bytes());
        assert_eq!(client.response("HEAD").get("x-a"), Some("b"));
        client.expect_usable();
    });
    table.case("a body with HEAD", |case| {
        case.origin_sends(
            format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{POISON}",
                POISON.len()
            )
            .as_bytes(),
            Then::Keep,
        );
        let mut client = case.send(request("HEAD", "", "").as_bytes());
        assert_eq!(client.response("HEAD").status, 200);
        client.expect_usable();
    });
    for (name, status, lines) in [
        (
            "a body with 204",
            "204 No Content",
            format!("Content-Length: {}\r\n", POISON.len()),
        ),
        (
            "a chunked body with 204",
            "204 No Content",
            "Transfer-Encoding: chunked\r\n".to_owned(),
        ),
        (
            "a body with 304",
            "304 Not Modified",
            format!("Content-Length: {}\r\n", POISON.len()),
        ),
        (
            "a body with 204 and no length",
            "204 No Content",
            String::new(),
        ),
    ] {
        table.case(name, |case| {
            case.origin_sends(
                format!("HTTP/1.1 {status}\r\n{lines}\r\n{POISON}").as_bytes(),
                Then::Keep,
            );
            let mut client = case.send(request("GET", "", "").as_bytes());
            let response = client.response("GET");
            assert!(
                [204, 304, 502].contains(&response.status),
                "{}",
                response.status
            );
            if !response.closes() {
                client.expect_usable();
            }
        });
    }
    table.finish();
}
