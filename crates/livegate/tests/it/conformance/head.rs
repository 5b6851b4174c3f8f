//! Request line and field lines: RFC 9112 sections 2, 3 and 5.

use super::{HIDDEN, Table, request};

#[test]
fn request_lines() {
    let mut table = Table::new();
    for line in [
        "GET /%T%", // HTTP/0.9
        "GET /%T% ",
        "GET",
        "GET  /%T% HTTP/1.1",
        "GET /%T%  HTTP/1.1",
        "GET /%T% HTTP/1.1 ",
        " GET /%T% HTTP/1.1",
        "GET\t/%T%\tHTTP/1.1",
        "GET /%T%\x0bHTTP/1.1",
        "GET /%T% x HTTP/1.1",
        "GET /a b/%T% HTTP/1.1",
        "GET /%T% http/1.1",
        "GET /%T% HTTP/1",
        "GET /%T% HTTP/1.",
        "GET /%T% HTTP/01.1",
        "GET /%T% HTTP/1.10",
        "GET /%T% HTTP/1.2",
        "GET /%T% HTTP/2.0",
        "GET /%T% HTTP/3.0",
        "GET /%T% HTTP/0.9",
        "GET /%T% HTTP/0.0",
        "GET /%T% HTTP/+1.1",
        "GET /%T% HTTP/1.1\0",
        "GET /%T% HTTPS/1.1",
        "GET /%T% HTP/1.1",
        "GET /%T% FTP/1.1",
        "GET HTTP/1.1",
        "/%T% HTTP/1.1",
        "G(T /%T% HTTP/1.1",
        "G\x01T /%T% HTTP/1.1",
        "GET: /%T% HTTP/1.1",
        "\"GET\" /%T% HTTP/1.1",
        "G\u{c9}T /%T% HTTP/1.1",
        "GET /%T%\0 HTTP/1.1",
        "GET /%T%\x7f HTTP/1.1",
        "GET /%T%\x01 HTTP/1.1",
        "GET /%T%\r HTTP/1.1",
    ] {
        table.refused(
            &format!("{line:?}"),
            &[400, 505],
            format!("{line}\r\nHost: %H%\r\n\r\n{HIDDEN}"),
        );
    }
    table.refused(
        "an HTTP/2 preface",
        &[400, 505],
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    );
    table.refused(
        "a TLS hello",
        &[400],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    );
    for method in [
        "OPTIONS",
        "PUT",
        "PATCH",
        "DELETE",
        "PROPFIND",
        "M-SEARCH",
        "X!#$%&'*+-.^_`|~1",
    ] {
        table.forwarded(
            method,
            request(method, "Content-Length: 0\r\n", ""),
            |request, _| {
                assert_eq!(request.method, method);
            },
        );
    }
    table.refused_or_forwarded(
        "methods are case-sensitive",
        &[400, 405, 501],
        request("GeT", "", ""),
        |request| {
            assert_eq!(request.method, "GeT");
        },
    );
    table.forwarded(
        "one empty line first (2.2)",
        format!("\r\n{}", request("GET", "", "")),
        |_, _| {},
    );
    table.case(
        "TRACE is not answered by the gateway with what it was sent",
        |case| {
            let mut client = case.send(request("TRACE", "Cookie: secret\r\n", "").as_bytes());
            let response = client.response("TRACE");
            assert!(!response.text().contains("secret"), "{}", response.text());
        },
    );
    table.finish();
}

#[test]
fn line_ends() {
    let mut table = Table::new();
    for (name, bytes) in [
        ("all LF", "GET /%T% HTTP/1.1\nHost: %H%\n\n"),
        ("request line LF", "GET /%T% HTTP/1.1\nHost: %H%\r\n\r\n"),
        (
            "a field line LF",
            "GET /%T% HTTP/1.1\r\nHost: %H%\nX: y\r\n\r\n",
        ),
        ("last field line LF", "GET /%T% HTTP/1.1\r\nHost: %H%\n\r\n"),
        ("empty line LF", "GET /%T% HTTP/1.1\r\nHost: %H%\r\n\n"),
        ("all CR", "GET /%T% HTTP/1.1\rHost: %H%\r\r\r\n\r\n"),
        ("CR CR LF", "GET /%T% HTTP/1.1\r\r\nHost: %H%\r\n\r\n"),
        ("LF CR", "GET /%T% HTTP/1.1\n\rHost: %H%\n\r\r\n\r\n"),
        (
            "CR in a value",
            "GET /%T% HTTP/1.1\r\nHost: %H%\r\nX: a\rb\r\n\r\n",
        ),
        (
            "CR at the end of a value",
            "GET /%T% HTTP/1.1\r\nHost: %H%\r\nX: a\r\r\n\r\n",
        ),
        (
            "CR in a name",
            "GET /%T% HTTP/1.1\r\nHost: %H%\r\nX\rY: a\r\n\r\n",
        ),
        ("CR before Host", "GET /%T% HTTP/1.1\r\n\rHost: %H%\r\n\r\n"),
        ("LF first", "\nGET /%T% HTTP/1.1\r\nHost: %H%\r\n\r\n"),
    ] {
        table.refused(name, &[400], format!("{bytes}{HIDDEN}"));
    }
    table.finish();
}

#[test]
fn field_lines() {
    let mut table = Table::new();
    for line in [
        "X : y",
        "X\t: y",
        " X: y",
        "\tX: y",
        "X y: z",
        "X",
        ": y",
        "X[]: y",
        "X(: y",
        "X/Y: z",
        "X@: y",
        "X{}: y",
        "X,Y: z",
        "X;Y: z",
        "X=Y: z",
        "X?: y",
        "\"X\": y",
        "X\\: y",
        "X\x01Y: z",
        "X\x7f: y",
        "X\0: y",
        "X: a\0b",
        "X: a\x01b",
        "X: a\x08b",
        "X: a\x0bb",
        "X: a\x1bb",
        "X: a\x7fb",
        "X: a\r\n b",
        "X: a\r\n\tb",
        "X:\r\n a",
        "X: a\r\n ",
    ] {
        table.refused(
            &format!("{line:?}"),
            &[400],
            request("GET", &format!("{line}\r\n"), HIDDEN),
        );
    }
    table.refused(
        "a name that is not ASCII",
        &[400],
        b"GET /%T% HTTP/1.1\r\nHost: %H%\r\nX\xe9: y\r\n\r\n",
    );
    table.refused(
        "a folded line right after the request line",
        &[400],
        "GET /%T% HTTP/1.1\r\n X: y\r\nHost: %H%\r\n\r\n",
    );
    table.case("obs-text in a value is passed on byte for byte", |case| {
        let (request, _) =
            case.forwarded(b"GET /%T% HTTP/1.1\r\nHost: %H%\r\nX-Text: caf\xe9 \xff\r\n\r\n");
        assert_eq!(request.get("x-text"), Some("caf\u{e9} \u{ff}"));
    });
    let lines = "X-A: 1\r\nX-B: x\r\nx-a: 2\r\nX-Empty:\r\nX-Space: \t a b\tc \t\r\nX-A:3\r\nX!#$%&'*+-.^_`|~9: t\r\n";
    table.forwarded(
        "order, case, empty values, white space",
        request("GET", lines, ""),
        |request, _| {
            assert_eq!(request.head.all("X-A"), ["1", "2", "3"]);
            assert_eq!(request.get("X-Empty"), Some(""));
            assert_eq!(request.get("X-Space"), Some("a b\tc"));
            assert_eq!(request.get("X!#$%&'*+-.^_`|~9"), Some("t"));
        },
    );
    table.case("byte by byte", |case| {
        let mut client = case.gateway.connect();
        for byte in case.fill(request("GET", "X-A: 1\r\n", "").as_bytes()) {
            client.send([byte]);
        }
        assert_eq!(client.response("GET").status, 200);
        assert_eq!(case.origin.request(&case.token).get("x-a"), Some("1"));
    });
    table.case("CRLF between two segments", |case| {
        let mut client = case.gateway.connect();
        for part in ["GET /%T% HTTP/1.1\r", "\nHost: %H%\r\n\r", "\n"] {
            client.send(case.fill(part.as_bytes()));
        }
        assert_eq!(client.response("GET").status, 200);
    });
    table.finish();
}
