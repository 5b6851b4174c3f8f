//! Chunked request bodies: RFC 9112 section 7.1.

use std::fmt::Write as _;

use super::{Case, HIDDEN, Table, check_own_answer, request};
use crate::harness::wire::Framing;

const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";

/// The gateway says 400 and closes; whatever the origin may have got of it by then, never got whole.
fn broken_off(case: &Case<'_>, body: &str) {
    let mut client = case.send(request("POST", CHUNKED, body).as_bytes());
    let response = client
        .read("POST")
        .unwrap_or_else(|error| panic!("no answer: {error}"));
    check_own_answer(&response);
    assert_eq!(
        (response.status, response.closes()),
        (400, true),
        "{}",
        response.text()
    );
    client.expect_closed();
    case.origin.wait_for_end_of(&case.token);
    let seen = case.origin.requests(&case.token);
    assert!(
        seen.iter().all(|request| !request.complete()),
        "it reached the origin whole: {seen:#?}"
    );
}

#[test]
fn bodies_that_are_not_chunked() {
    let mut table = Table::new();
    let hide = |size: &str| format!("{size}\r\nhello\r\n0\r\n\r\n{HIDDEN}");
    for size in [
        "0x5",
        "+5",
        "-5",
        "5g",
        "g5",
        "",
        " 5",
        "5 5",
        "\x0b5",
        "5\x0b",
        "_5",
        "5,5",
        "5.",
        "\"5\"",
        "10000000000000005",
        "fffffffffffffffff",
        "ffffffffffffffff",
        "00000000000000000000000000000000000000005x",
        "5\t;\x01a",
    ] {
        table.case(&format!("chunk size {size:?}"), |case| {
            broken_off(case, &hide(size))
        });
    }
    for (name, body) in [
        ("size line ended by LF", "5\nhello\r\n0\r\n\r\n".to_owned()),
        ("size line ended by CR", "5\rhello\r\n0\r\n\r\n".to_owned()),
        (
            "size line with CR CR LF",
            "5\r\r\nhello\r\n0\r\n\r\n".to_owned(),
        ),
        ("data ended by LF", format!("5\r\nhello\n0\r\n\r\n{HIDDEN}")),
        ("data ended by CR", "5\r\nhello\r0\r\n\r\n".to_owned()),
        ("data not ended", "5\r\nhello0\r\n\r\n".to_owned()),
        (
            "data longer than its size",
            format!("5\r\nhelloXX\r\n0\r\n\r\n{HIDDEN}"),
        ),
        (
            "data shorter than its size",
            format!("6\r\nhello\r\n0\r\n\r\n{HIDDEN}"),
        ),
        (
            "extension ended by LF",
            format!("2;\nxx\r\n4c\r\n0\r\n\r\n{HIDDEN}\r\n0\r\n\r\n"),
        ),
        (
            "CR inside an extension",
            "5;a\rb\r\nhello\r\n0\r\n\r\n".to_owned(),
        ),
        (
            "NUL inside an extension",
            "5;a\0b\r\nhello\r\n0\r\n\r\n".to_owned(),
        ),
        (
            "last chunk ended by LF",
            format!("5\r\nhello\r\n0\n\r\n{HIDDEN}"),
        ),
        (
            "empty line of the trailers is LF",
            format!("5\r\nhello\r\n0\r\n\n{HIDDEN}"),
        ),
        (
            "trailer ended by LF",
            format!("5\r\nhello\r\n0\r\nX: y\n\r\n{HIDDEN}"),
        ),
        (
            "trailer without colon",
            format!("5\r\nhello\r\n0\r\nnonsense\r\n\r\n{HIDDEN}"),
        ),
        (
            "trailer with a space before the colon",
            format!("5\r\nhello\r\n0\r\nX : y\r\n\r\n{HIDDEN}"),
        ),
        (
            "trailer with obs-fold",
            format!("5\r\nhello\r\n0\r\nX: y\r\n z\r\n\r\n{HIDDEN}"),
        ),
        (
            "trailer with NUL",
            format!("5\r\nhello\r\n0\r\nX: \0\r\n\r\n{HIDDEN}"),
        ),
        (
            "trailer with bare CR",
            format!("5\r\nhello\r\n0\r\nX: a\rb\r\n\r\n{HIDDEN}"),
        ),
    ] {
        table.case(name, |case| broken_off(case, &body));
    }
    table.case("endless size line", |case| {
        broken_off(case, &"0".repeat(70_000))
    });
    table.case("an extension of 64 KiB", |case| {
        // Refusing is right; ignoring it is allowed (RFC 9112 7.1.1), keeping it is not.
        broken_off(
            case,
            &format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(65_536)),
        );
    });
    table.case(
        "extensions of 16 bytes with each of 20 000 chunks of one byte",
        |case| {
            // CVE-2023-39326 (Go): a little data in a lot of framing. Bounded, or passed without the extensions.
            let mut body = String::new();
            for _ in 0..20_000 {
                body.push_str("1;aaaaaaaaaaaaaaa\r\nx\r\n");
            }
            body.push_str("0\r\n\r\n");
            let mut client = case.gateway.connect();
            client.try_send(case.fill(request("POST", CHUNKED, &body).as_bytes()));
            let response = client
                .read("POST")
                .unwrap_or_else(|error| panic!("no answer: {error}"));
            assert!([200, 400].contains(&response.status), "{}", response.status);
        },
    );
    table.case("endless trailers", |case| {
        let mut body = "5\r\nhello\r\n0\r\n".to_owned();
        for number in 0..20_000 {
            writeln!(body, "X-{number}: y\r").unwrap();
        }
        let mut client = case.gateway.connect();
        client.try_send(case.fill(request("POST", CHUNKED, &body).as_bytes()));
        let response = client
            .read("POST")
            .unwrap_or_else(|error| panic!("no answer: {error}"));
        assert!([400, 431].contains(&response.status), "{}", response.status);
        case.origin.wait_for_end_of(&case.token);
        assert!(
            case.origin
                .requests(&case.token)
                .iter()
                .all(|request| !request.complete())
        );
    });
    table.finish();
}

#[test]
fn bodies_that_are_chunked() {
    let mut table = Table::new();
    for (name, body, data) in [
        ("one chunk", "5\r\nhello\r\n0\r\n\r\n", "hello"),
        (
            "three chunks",
            "1\r\nh\r\n2\r\nel\r\n2\r\nlo\r\n0\r\n\r\n",
            "hello",
        ),
        (
            "upper and lower case sizes",
            "A\r\n0123456789\r\nb\r\n0123456789a\r\n0\r\n\r\n",
            "01234567890123456789a",
        ),
        ("leading zeros", "00000005\r\nhello\r\n000\r\n\r\n", "hello"),
        ("an extension", "5;a=b\r\nhello\r\n0;c\r\n\r\n", "hello"),
        (
            "a quoted extension",
            "5;a=\"b;c\"\r\nhello\r\n0\r\n\r\n",
            "hello",
        ),
        ("nothing", "0\r\n\r\n", ""),
        (
            "a chunk that looks like the end",
            "7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n",
            "\r\n0\r\n\r\n",
        ),
    ] {
        table.forwarded(name, request("POST", CHUNKED, body), |request, _| {
            assert_eq!(request.body.bytes, data.as_bytes());
            assert!(
                request.body.extensions.is_empty(),
                "extensions are not passed on: {:?}",
                request.body.extensions
            );
        });
    }
    table.forwarded(
        "a GET with a chunked body",
        request("GET", CHUNKED, "5\r\nhello\r\n0\r\n\r\n"),
        |request, _| {
            assert_eq!(
                (request.framing, request.body.bytes.as_slice()),
                (Framing::Chunked, &b"hello"[..])
            );
        },
    );
    let trailers = "5\r\nhello\r\n0\r\nX-Checksum: abc\r\nX-Other: 1\r\n\r\n";
    table.forwarded(
        "trailers",
        request("POST", CHUNKED, trailers),
        |request, _| {
            let expected = [("X-Checksum", "abc"), ("X-Other", "1")]
                .map(|(n, v)| (n.to_owned(), v.to_owned()));
            assert_eq!(
                request.body.trailers, expected,
                "the issue asks for trailers"
            );
            assert!(
                request.head.all("x-checksum").is_empty(),
                "a trailer became a header"
            );
        },
    );
    let evil = "5\r\nhello\r\n0\r\nContent-Length: 3\r\nHost: evil\r\nTransfer-Encoding: x\r\nX-Forwarded-For: 6.6.6.6\r\n\
                Authorization: x\r\nConnection: close\r\nX-Fine: 1\r\n\r\n";
    table.refused_or_forwarded(
        "trailers that may not be",
        &[400],
        request("POST", CHUNKED, evil),
        |request| {
            for name in [
                "content-length",
                "host",
                "transfer-encoding",
                "x-forwarded-for",
                "connection",
            ] {
                let there = request
                    .body
                    .trailers
                    .iter()
                    .any(|(n, _)| n.eq_ignore_ascii_case(name));
                assert!(!there, "{name} came as a trailer");
            }
            assert_eq!(request.get("host"), Some("shop.test"));
            assert_ne!(request.get("x-forwarded-for"), Some("6.6.6.6"));
        },
    );
    table.case("byte by byte", |case| {
        let bytes = case.fill(
            request(
                "POST",
                CHUNKED,
                "5;a\r\nhello\r\n1\r\n!\r\n0\r\nX-T: 1\r\n\r\n",
            )
            .as_bytes(),
        );
        let mut client = case.gateway.connect();
        for byte in bytes {
            client.send([byte]);
        }
        assert_eq!(client.response("POST").status, 200);
        assert_eq!(case.origin.request(&case.token).body.bytes, b"hello!");
    });
    table.case(
        "a hundred thousand small chunks, then a pipelined request",
        |case| {
            let mut body = "2\r\nab\r\n".repeat(100_000);
            body.push_str("0\r\n\r\n");
            let mut client = case.send(request("POST", CHUNKED, &body).as_bytes());
            assert_eq!(client.response("POST").status, 200);
            assert_eq!(case.origin.request(&case.token).body.bytes.len(), 200_000);
            client.expect_usable();
        },
    );
    table.finish();
}

/// A body is passed on as it comes, not when it is whole.
#[test]
fn chunks_do_not_wait_for_each_other() {
    let mut table = Table::new();
    table.case("first chunk arrives before the second is sent", |case| {
        let first = std::sync::Arc::new(crate::harness::wait::Gate::default());
        let seen = std::sync::Arc::clone(&first);
        case.origin.script(case.token.clone(), move |exchange| {
            // Before the body is read as a whole: its first chunk is enough.
            while !exchange
                .wire
                .pending()
                .windows(5)
                .any(|window| window == b"first")
            {
                if !matches!(exchange.wire.fill(), Ok(1..)) {
                    return crate::harness::origin::Then::Close;
                }
            }
            seen.open();
            exchange.answer_by_default()
        });
        let mut client = case.send(request("POST", CHUNKED, "5\r\nfirst\r\n").as_bytes());
        assert!(first.pass(), "the first chunk never reached the origin");
        client.send("6\r\nsecond\r\n0\r\n\r\n");
        assert_eq!(client.response("POST").status, 200);
        assert_eq!(case.origin.request(&case.token).body.bytes, b"firstsecond");
    });
    table.finish();
}
