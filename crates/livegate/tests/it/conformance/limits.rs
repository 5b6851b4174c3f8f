//! The limits and deadlines of `[http]`: how much, how many, how long.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::{Table, check_own_answer, request};
use crate::harness::client::Client;
use crate::harness::gateway::Setup;
use crate::harness::wait::PATIENCE;

#[test]
fn sizes() {
    let mut table = Table::with(|origin| {
        Setup::to(origin)
            .http("header_bytes_max = \"8KiB\"")
            .http("headers_max = 20")
            .http("body_bytes_max = \"64KiB\"")
    });
    table.case("a target over the limit: 414", |case| {
        case.refused(
            &[414],
            format!(
                "GET /%T%/{} HTTP/1.1\r\nHost: %H%\r\n\r\n",
                "a".repeat(9_000)
            )
            .as_bytes(),
        );
    });
    table.case("a target that never ends: 414", |case| {
        case.refused(
            &[414],
            format!("GET /%T%/{}", "a".repeat(20_000)).as_bytes(),
        );
    });
    table.case("a header section over the limit: 431", |case| {
        case.refused(
            &[431],
            request("GET", &format!("X-Big: {}\r\n", "a".repeat(9_000)), "").as_bytes(),
        );
    });
    table.case("a field that never ends: 431", |case| {
        case.refused(
            &[431],
            format!(
                "GET /%T% HTTP/1.1\r\nHost: %H%\r\nX-Big: {}",
                "a".repeat(20_000)
            )
            .as_bytes(),
        );
    });
    table.case("a field name that never ends: 431", |case| {
        case.refused(
            &[400, 431],
            format!("GET /%T% HTTP/1.1\r\nHost: %H%\r\n{}", "a".repeat(20_000)).as_bytes(),
        );
    });
    table.case("21 fields where 20 are allowed: 431", |case| {
        let mut lines = String::new();
        for number in 0..20 {
            writeln!(lines, "X-{number}: y\r").unwrap();
        }
        case.refused(&[431], request("GET", &lines, "").as_bytes());
    });
    table.case("20 fields where 20 are allowed", |case| {
        let mut lines = String::new();
        for number in 0..19 {
            writeln!(lines, "X-{number}: y\r").unwrap();
        }
        case.forwarded(request("GET", &lines, "").as_bytes());
    });
    table.case("10 000 fields: 431", |case| {
        let mut client = case.gateway.connect();
        client.try_send(case.fill(request("GET", &"X-Y: z\r\n".repeat(10_000), "").as_bytes()));
        let response = client
            .read("GET")
            .unwrap_or_else(|error| panic!("no answer: {error}"));
        assert_eq!(response.status, 431);
    });
    table.case("a head just under the limit", |case| {
        case.forwarded(request("GET", &format!("X-Big: {}\r\n", "a".repeat(7_800)), "").as_bytes());
    });
    for (name, lines, body) in [
        (
            "a length over the limit: 413",
            "Content-Length: 65537\r\n".to_owned(),
            "x".repeat(100),
        ),
        (
            "a huge length: 413",
            "Content-Length: 9223372036854775807\r\n".to_owned(),
            String::new(),
        ),
    ] {
        table.case(name, |case| {
            case.refused(&[413], request("POST", &lines, &body).as_bytes())
        });
    }
    table.case(
        "a length over the limit with an expectation: 413 and no 100",
        |case| {
            let bytes = request(
                "POST",
                "Expect: 100-continue\r\nContent-Length: 65537\r\n",
                "",
            );
            let response = case.send(bytes.as_bytes()).read("POST").unwrap();
            assert_eq!((response.status, response.interim.len()), (413, 0));
        },
    );
    table.case("a chunked body over the limit: 413", |case| {
        let body = format!(
            "{}0\r\n\r\n",
            format!("1000\r\n{}\r\n", "x".repeat(4096)).repeat(17)
        );
        let mut client =
            case.send(request("POST", "Transfer-Encoding: chunked\r\n", &body).as_bytes());
        let response = client
            .read("POST")
            .unwrap_or_else(|error| panic!("no answer: {error}"));
        check_own_answer(&response);
        assert_eq!(
            (response.status, response.closes()),
            (413, true),
            "{}",
            response.text()
        );
        case.origin.wait_for_end_of(&case.token);
        assert!(
            case.origin
                .requests(&case.token)
                .iter()
                .all(|request| !request.complete())
        );
    });
    table.case("a body of exactly the limit", |case| {
        let (request, _) = case.forwarded(
            request("POST", "Content-Length: 65536\r\n", &"x".repeat(65_536)).as_bytes(),
        );
        assert_eq!(request.body.bytes.len(), 65_536);
    });
    table.case("a chunked body of exactly the limit", |case| {
        let body = format!("10000\r\n{}\r\n0\r\n\r\n", "x".repeat(65_536));
        let (request, _) =
            case.forwarded(request("POST", "Transfer-Encoding: chunked\r\n", &body).as_bytes());
        assert_eq!(request.body.bytes.len(), 65_536);
    });
    table.finish();
}

#[test]
fn defaults() {
    let mut table = Table::new();
    table.case("a target of 8 000 bytes (RFC 9112 section 3)", |case| {
        case.forwarded(
            format!(
                "GET /%T%/{} HTTP/1.1\r\nHost: %H%\r\n\r\n",
                "a".repeat(7_900)
            )
            .as_bytes(),
        );
    });
    table.case("100 fields", |case| {
        case.forwarded(request("GET", &"X-Y: z\r\n".repeat(99), "").as_bytes());
    });
    table.case("101 fields: 431", |case| {
        case.refused(
            &[431],
            request("GET", &"X-Y: z\r\n".repeat(100), "").as_bytes(),
        );
    });
    table.case("31 KiB of fields", |case| {
        case.forwarded(
            request(
                "GET",
                &format!("X-Y: {}\r\n", "z".repeat(1_000)).repeat(31),
                "",
            )
            .as_bytes(),
        );
    });
    table.case("33 KiB of fields: 431", |case| {
        case.refused(
            &[431],
            request(
                "GET",
                &format!("X-Y: {}\r\n", "z".repeat(1_000)).repeat(34),
                "",
            )
            .as_bytes(),
        );
    });
    table.case("a body of 3 MiB arrives whole", |case| {
        let body = "0123456789abcdef".repeat(196_608);
        let bytes = request(
            "POST",
            &format!("Content-Length: {}\r\n", body.len()),
            &body,
        );
        let (request, _) = case.forwarded(bytes.as_bytes());
        assert!(
            request.body.bytes == body.as_bytes(),
            "the body was changed on the way"
        );
    });
    table.finish();
}

/// `header_timeout` counts from the first byte (or the connection) to the end of the head, however the bytes come.
#[test]
fn slow_heads_are_cut_off() {
    let mut table = Table::with(|origin| {
        Setup::to(origin)
            .http("header_timeout = \"500ms\"")
            .http("idle_timeout = \"60s\"")
    });
    let timed_out = |mut client: crate::harness::client::Client, since: Instant| {
        // 408 and close; nothing but close is fine where no byte of a request came.
        let answer = client.read("GET");
        assert!(
            since.elapsed() >= Duration::from_millis(450),
            "too early: {:?}",
            since.elapsed()
        );
        if let Ok(response) = answer {
            check_own_answer(&response);
            assert_eq!((response.status, response.closes()), (408, true));
            client.expect_closed();
        }
    };
    table.case("half a request line", |case| {
        let since = Instant::now();
        let mut client = case.gateway.connect();
        client.send("GET /");
        let response = client.read("GET").expect("RFC 9110 15.5.9: 408");
        check_own_answer(&response);
        assert_eq!((response.status, response.closes()), (408, true));
        client.expect_closed();
        assert!(
            since.elapsed() >= Duration::from_millis(450),
            "too early: {:?}",
            since.elapsed()
        );
        assert!(
            since.elapsed() < PATIENCE / 2,
            "too late: {:?}",
            since.elapsed()
        );
    });
    table.case("one byte at a time does not start it anew", |case| {
        let since = Instant::now();
        let mut client = case.gateway.connect();
        let mut sent = 0;
        for byte in
            case.fill(request("GET", &format!("X-Slow: {}\r\n", "a".repeat(2_000)), "").as_bytes())
        {
            if !client.try_send([byte]) {
                break;
            }
            sent += 1;
            let next = Instant::now() + Duration::from_millis(10);
            crate::harness::wait::holds_within(Duration::from_millis(10), || {
                Instant::now() >= next
            });
        }
        assert!(
            sent < 1_000,
            "{sent} bytes were taken in {:?}",
            since.elapsed()
        );
        timed_out(client, since);
    });
    table.case("the second head on a connection too", |case| {
        let mut client = case.gateway.connect();
        assert_eq!(client.get("/first").status, 200);
        let since = Instant::now();
        client.send("GET /second HTTP/1.1\r\nHost");
        timed_out(client, since);
    });
    table.case("but an idle connection is not a slow head", |case| {
        let mut client = case.gateway.connect();
        assert_eq!(client.get("/first").status, 200);
        let waited = Instant::now() + Duration::from_millis(900);
        crate::harness::wait::holds_within(Duration::from_secs(2), || Instant::now() >= waited);
        client.expect_usable();
    });
    table.finish();
}

#[test]
fn idle_connections_are_closed() {
    let mut table = Table::with(|origin| Setup::to(origin).http("idle_timeout = \"500ms\""));
    table.case("after a response", |case| {
        let mut client = case.gateway.connect();
        assert_eq!(client.get("/first").status, 200);
        let since = Instant::now();
        client.expect_closed();
        let after = since.elapsed();
        assert!(
            after >= Duration::from_millis(450) && after < PATIENCE / 2,
            "closed after {after:?}"
        );
    });
    table.case("before a first byte", |case| {
        let since = Instant::now();
        let mut client = case.gateway.connect();
        client.expect_closed();
        assert!(
            since.elapsed() < PATIENCE,
            "closed after {:?}",
            since.elapsed()
        );
    });
    table.finish();
}

/// `timeouts.idle`: between two reads or writes of a body; `response_head`: until the response head.
#[test]
fn timeouts_of_a_service() {
    let keys = "[services.origin.timeouts]\nresponse_head = \"600ms\"\nidle = \"600ms\"\n[services.origin.retry]\nattempts = 1";
    let mut table = Table::with(|origin| Setup::service_with(&[origin.address()], keys));
    use crate::harness::origin::Then;
    table.case("no response head: 504", |case| {
        case.origin.script(case.token.clone(), |exchange| {
            exchange.gateway_leaves();
            Then::Close
        });
        let since = Instant::now();
        let response = case.send(request("GET", "", "").as_bytes()).response("GET");
        check_own_answer(&response);
        assert_eq!(
            (response.status, response.get("x-livegate-reason")),
            (504, Some("upstream_timeout"))
        );
        assert!(
            since.elapsed() >= Duration::from_millis(550),
            "too early: {:?}",
            since.elapsed()
        );
        case.origin.wait_for_end_of(&case.token);
    });
    table.case("half a response head: 504 or 502", |case| {
        case.origin.script(case.token.clone(), |exchange| {
            exchange.send(b"HTTP/1.1 200 OK\r\nContent-");
            exchange.gateway_leaves();
            Then::Close
        });
        let response = case.send(request("GET", "", "").as_bytes()).response("GET");
        check_own_answer(&response);
        assert_eq!(response.status, 504, "{}", response.text());
    });
    table.case("a response body that stops: cut off, visibly", |case| {
        case.origin.script(case.token.clone(), |exchange| {
            exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
            exchange.gateway_leaves();
            Then::Close
        });
        let response = case
            .send(request("GET", "", "").as_bytes())
            .read("GET")
            .unwrap();
        assert_eq!(
            (response.text().as_str(), response.complete),
            ("half", false)
        );
        case.origin.wait_for_end_of(&case.token);
    });
    table.case(
        "a request body that stops: 408 or closed, upstream cancelled",
        |case| {
            let mut client =
                case.send(request("POST", "Content-Length: 100\r\n", "half").as_bytes());
            match client.read("POST") {
                Ok(response) => {
                    assert!([400, 408].contains(&response.status), "{}", response.status)
                }
                Err(error) => assert!(
                    matches!(error, crate::harness::wire::WireError::Closed(_)),
                    "{error}"
                ),
            }
            case.origin.wait_for_end_of(&case.token);
            assert!(
                case.origin
                    .requests(&case.token)
                    .iter()
                    .all(|request| !request.complete())
            );
        },
    );
    table.case(
        "a client that does not read its response: given up",
        |case| {
            case.origin.script(case.token.clone(), |exchange| {
                exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n");
                while exchange.send(&[b'x'; 65_536]) {}
                Then::Close
            });
            let mut client = Client::connect_small_window(case.gateway.address());
            client.send(case.fill(request("GET", "", "").as_bytes()));
            case.origin.wait_for_request(&case.token);
            // Nothing is read for longer than `idle`: the upstream connection is ended, and with it this one.
            case.origin.wait_for_end_of(&case.token);
            let response = client.read("GET").expect("the part that was under way");
            assert!(!response.complete, "{} bytes", response.body.len());
        },
    );
    table.case("slow but steady is fine both ways", |case| {
        case.origin.script(case.token.clone(), |exchange| {
            if exchange.read_body().is_err() {
                return Then::Close;
            }
            exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n");
            for _ in 0..8 {
                pause(Duration::from_millis(150));
                exchange.send(b"x");
            }
            Then::Keep
        });
        let mut client = case.send(request("POST", "Content-Length: 8\r\n", "").as_bytes());
        for _ in 0..8 {
            pause(Duration::from_millis(150));
            client.send("y");
        }
        let response = client.response("POST");
        assert_eq!(
            (response.status, response.text().as_str()),
            (200, "xxxxxxxx")
        );
        assert_eq!(case.origin.request(&case.token).body.bytes, b"yyyyyyyy");
    });
    table.finish();
}

/// Time that has to pass for a case (a slow sender); nothing is hoped for meanwhile.
fn pause(time: Duration) {
    let end = Instant::now() + time;
    crate::harness::wait::holds_within(time * 2, || Instant::now() >= end);
}
