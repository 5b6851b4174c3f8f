//! What the gateway adds and takes away: RFC 9110 section 7.6 and the contract.

use super::{Table, request};
use crate::harness::gateway::Setup;
use crate::harness::origin::Then;

#[test]
fn fields_that_are_added() {
    let mut table = Table::new();
    table.forwarded("the usual ones", request("GET", "", ""), |request, _| {
        assert_eq!(request.version, "HTTP/1.1");
        assert_eq!(request.get("host"), Some("shop.test"));
        assert_eq!(request.get("x-forwarded-for"), Some("127.0.0.1"));
        assert_eq!(request.get("x-forwarded-proto"), Some("http"));
        assert_eq!(request.get("x-forwarded-host"), Some("shop.test"));
        assert_eq!(request.get("via"), Some("1.1 livegate"));
        let id = request.get("x-request-id").expect("an id is made");
        assert!(
            id.len() >= 16 && id.chars().all(|c| c.is_ascii_graphic()),
            "{id:?}"
        );
    });
    table.forwarded(
        "the port belongs to the host",
        "GET /%T% HTTP/1.1\r\nHost: shop.test:81\r\n\r\n",
        |request, _| {
            assert_eq!(request.get("host"), Some("shop.test:81"));
            assert_eq!(request.get("x-forwarded-host"), Some("shop.test:81"));
        },
    );
    table.forwarded(
        "Via is extended",
        request("GET", "Via: 1.0 fred, 1.1 p.example\r\n", ""),
        |request, _| {
            assert_eq!(
                request.head.all("via").join(", "),
                "1.0 fred, 1.1 p.example, 1.1 livegate"
            );
        },
    );
    table.forwarded(
        "a request id is kept",
        request("GET", "X-Request-Id: abc-123\r\n", ""),
        |request, _| {
            assert_eq!(request.get("x-request-id"), Some("abc-123"));
        },
    );
    table.case("each request has its own id", |case| {
        let mut client = case.gateway.connect();
        let mut ids = std::collections::HashSet::new();
        for number in 0..50 {
            let target = format!("/{}/{number}", case.token);
            client.get(&target);
            ids.insert(
                case.origin
                    .request(&target[1..])
                    .get("x-request-id")
                    .unwrap()
                    .to_owned(),
            );
        }
        assert_eq!(ids.len(), 50);
    });
    let claims = "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil.test\r\n\
                  X-Forwarded-Port: 1\r\nX-Real-IP: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n";
    table.forwarded(
        "what strangers claim is replaced",
        request("GET", claims, ""),
        |request, _| {
            assert_eq!(request.get("x-forwarded-for"), Some("127.0.0.1"));
            assert_eq!(request.get("x-forwarded-proto"), Some("http"));
            assert_eq!(request.get("x-forwarded-host"), Some("shop.test"));
            for name in ["x-forwarded-port", "x-real-ip", "forwarded"] {
                let value = request.get(name).unwrap_or_default();
                assert!(
                    !value.contains("6.6.6.6") && value != "1",
                    "{name}: {value}"
                );
            }
        },
    );
    let connection = "Connection: close, X-Forwarded-For, X-Forwarded-Proto, X-Forwarded-Host, X-Request-Id, Via\r\n";
    table.forwarded(
        "Connection cannot take them away (E05)",
        request("GET", connection, ""),
        |request, _| {
            assert_eq!(request.get("x-forwarded-for"), Some("127.0.0.1"));
            assert_eq!(request.get("x-forwarded-proto"), Some("http"));
            assert_eq!(request.get("x-forwarded-host"), Some("shop.test"));
            assert!(request.get("x-request-id").is_some() && request.get("via").is_some());
        },
    );
    table.finish();
}

#[test]
fn trusted_proxies() {
    let mut table = Table::with(|origin| {
        Setup::to(origin).http("trusted_proxies = [\"127.0.0.0/8\", \"fd00::/8\"]")
    });
    let claims = "X-Forwarded-For: 6.6.6.6, 7.7.7.7\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: public.test\r\n";
    table.forwarded(
        "what they say is kept and extended",
        request("GET", claims, ""),
        |request, _| {
            assert_eq!(
                request.head.all("x-forwarded-for").join(", "),
                "6.6.6.6, 7.7.7.7, 127.0.0.1"
            );
            assert_eq!(request.get("x-forwarded-proto"), Some("https"));
            assert_eq!(request.get("x-forwarded-host"), Some("public.test"));
        },
    );
    table.forwarded(
        "two lines",
        request(
            "GET",
            "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 7.7.7.7\r\n",
            "",
        ),
        |request, _| {
            assert_eq!(
                request.head.all("x-forwarded-for").join(", "),
                "6.6.6.6, 7.7.7.7, 127.0.0.1"
            );
        },
    );
    table.forwarded("nothing said", request("GET", "", ""), |request, _| {
        assert_eq!(request.get("x-forwarded-for"), Some("127.0.0.1"));
        assert_eq!(request.get("x-forwarded-proto"), Some("http"));
        assert_eq!(request.get("x-forwarded-host"), Some("shop.test"));
    });
    table.finish();

    let mut table =
        Table::with(|origin| Setup::to(origin).http("trusted_proxies = [\"10.0.0.0/8\"]"));
    table.forwarded(
        "we are not one of them",
        request("GET", claims, ""),
        |request, _| {
            assert_eq!(request.get("x-forwarded-for"), Some("127.0.0.1"));
            assert_eq!(request.get("x-forwarded-proto"), Some("http"));
            assert_eq!(request.get("x-forwarded-host"), Some("shop.test"));
        },
    );
    table.finish();
}

#[test]
fn hop_by_hop_fields_of_requests() {
    let mut table = Table::new();
    let lines = "Connection: X-Hop, keep-alive\r\nConnection: x-other\r\nX-Hop: 1\r\nX-OTHER: 2\r\nKeep-Alive: timeout=5\r\n\
                 Proxy-Connection: keep-alive\r\nX-Stays: 3\r\n";
    table.forwarded(
        "those named and those known",
        request("GET", lines, ""),
        |request, _| {
            for name in ["x-hop", "x-other", "keep-alive", "proxy-connection"] {
                assert!(request.head.all(name).is_empty(), "{name} was passed on");
            }
            assert!(!request.head.lists("connection", "x-hop"));
            assert_eq!(request.get("x-stays"), Some("3"));
        },
    );
    table.forwarded(
        "TE",
        request(
            "GET",
            "TE: trailers, deflate;q=0.5\r\nConnection: TE\r\n",
            "",
        ),
        |request, _| {
            assert!(
                ["", "trailers"].contains(&request.head.all("te").join(", ").as_str()),
                "{:?}",
                request.head.all("te")
            );
        },
    );
    table.forwarded(
        "Upgrade without Connection",
        request("GET", "Upgrade: websocket\r\n", ""),
        |request, _| {
            assert!(request.head.all("upgrade").is_empty());
        },
    );
    for protocol in ["h2c", "TLS/1.0", "foo"] {
        let lines = format!(
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: {protocol}\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"
        );
        table.refused_or_forwarded(
            &format!("Upgrade: {protocol}"),
            &[400, 426, 501],
            request("GET", &lines, ""),
            |request| {
                // RULES 21: only websocket. (h2c smuggling.)
                assert!(
                    request.head.all("upgrade").is_empty()
                        && request.head.all("http2-settings").is_empty()
                );
                assert!(!request.head.lists("connection", "upgrade"));
            },
        );
    }
    for named in [
        "host",
        "content-length",
        "transfer-encoding",
        "content-type",
        "cookie",
        "authorization",
    ] {
        let lines = format!(
            "Connection: {named}\r\nContent-Length: 5\r\nContent-Type: a/b\r\nCookie: c\r\nAuthorization: d\r\n"
        );
        let bytes = request("POST", &lines, "hello");
        table.refused_or_forwarded(&format!("Connection: {named}"), &[400], bytes, |request| {
            assert_eq!(request.body.bytes, b"hello", "framing stays");
            assert_eq!(request.get("host"), Some("shop.test"), "Host stays");
        });
    }
    let end_to_end = "Cookie: a=1\r\nAuthorization: Basic eA==\r\nAccept: */*\r\nUser-Agent: t\r\nCache-Control: no-cache\r\n\
                      Range: bytes=0-1\r\nIf-None-Match: \"x\"\r\nAccept-Encoding: gzip\r\nReferer: http://x/\r\nOrigin: null\r\n";
    table.forwarded(
        "end-to-end fields stay",
        request("GET", end_to_end, ""),
        |request, _| {
            for line in end_to_end.trim_end().split("\r\n") {
                let (name, value) = line.split_once(": ").unwrap();
                assert_eq!(request.get(name), Some(value));
            }
        },
    );
    table.finish();
}

#[test]
fn fields_of_responses() {
    let mut table = Table::new();
    table.case("hop-by-hop fields go, others stay as they came", |case| {
        let bytes = "HTTP/1.1 200 Fine\r\nConnection: X-Hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\
                     Proxy-Connection: x\r\nUpgrade: h2c\r\nSet-Cookie: a=1\r\nX-A: 1\r\nSet-Cookie: b=2, x\r\nServer: origin\r\n\
                     Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nset-cookie: c=3\r\nX-Empty:\r\nX-Text: caf\u{c3}\u{a9}\r\n\
                     Content-Length: 2\r\n\r\nok";
        let bytes: Vec<u8> = bytes.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
        case.origin_sends(&bytes, Then::Keep);
        let mut client = case.send(request("GET", "", "").as_bytes());
        let response = client.response("GET");
        assert_eq!(response.text(), "ok");
        for name in ["x-hop", "keep-alive", "proxy-connection", "upgrade"] {
            assert!(response.head.all(name).is_empty(), "{name} was passed on");
        }
        assert_eq!(response.head.all("set-cookie"), ["a=1", "b=2, x", "c=3"]);
        assert_eq!(response.get("server"), Some("origin"));
        assert_eq!(response.get("date"), Some("Sun, 06 Nov 1994 08:49:37 GMT"));
        assert_eq!(response.get("x-empty"), Some(""));
        assert_eq!(response.get("x-text"), Some("caf\u{c3}\u{a9}"));
        assert_eq!(response.get("x-livegate-reason"), None);
        client.expect_usable();
    });
    table.case("Connection cannot take the length away", |case| {
        case.origin_sends(
            b"HTTP/1.1 200 OK\r\nConnection: content-length\r\nContent-Length: 2\r\n\r\nok",
            Then::Keep,
        );
        let mut client = case.send(request("GET", "", "").as_bytes());
        let response = client.read("GET").unwrap();
        assert!(
            response.status == 502 || response.text() == "ok",
            "{response:?}"
        );
        if !response.closes() {
            client.expect_usable();
        }
    });
    table.case("every status and any reason phrase", |case| {
        for status in [
            200, 201, 202, 203, 206, 207, 226, 300, 301, 302, 307, 400, 401, 402, 403, 404, 409,
            418, 422, 429, 451, 500, 501, 502, 503, 599,
        ] {
            let target = format!("{}-{status}", case.token);
            case.origin.answer(
                target.clone(),
                format!("HTTP/1.1 {status} Any thing\r\nContent-Length: 1\r\n\r\nx"),
                Then::Keep,
            );
            assert_eq!(case.gateway.get(&format!("/{target}")).status, status);
        }
        for line in [
            "HTTP/1.1 200 ",
            "HTTP/1.0 200 OK",
            "HTTP/1.1 200 \u{e9}t\u{e9}",
        ] {
            let bytes: Vec<u8> = format!("{line}\r\nContent-Length: 1\r\n\r\nx")
                .chars()
                .map(|c| u8::try_from(u32::from(c)).unwrap())
                .collect();
            case.origin_sends(&bytes, Then::Close);
            assert_eq!(
                case.send(request("GET", "", "").as_bytes())
                    .response("GET")
                    .status,
                200,
                "{line:?}"
            );
        }
    });
    table.finish();
}
