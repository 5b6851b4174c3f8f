//! `Host` and the authority of an absolute target: RFC 9112 section 3.2, RFC 9110 section 7.2.

use super::Table;

#[test]
fn hosts() {
    let mut table = Table::new();
    table.refused("HTTP/1.1 without Host", &[400], "GET /%T% HTTP/1.1\r\n\r\n");
    table.refused(
        "two",
        &[400],
        "GET /%T% HTTP/1.1\r\nHost: %H%\r\nHost: evil.test\r\n\r\n",
    );
    table.refused(
        "the same twice",
        &[400],
        "GET /%T% HTTP/1.1\r\nHost: %H%\r\nHost: %H%\r\n\r\n",
    );
    table.refused(
        "two in HTTP/1.0",
        &[400],
        "GET /%T% HTTP/1.0\r\nHost: %H%\r\nHost: evil.test\r\n\r\n",
    );
    for host in [
        "", "a b", "a/b", "a@b", "user@a", "a:b", "a:80:80", "a:65536", "a:-1", ":80", "[::1",
        "[::1]x", "[a]", "::1", "a\\b", "a?b", "a#b", "a,b", "a, b", "<a>", "a\"b", "a%zz", "a%2",
        "http://a", "a\tb", "a\x0b",
    ] {
        // RFC 9112 3.2.3: an empty Host is legal only where the target has no authority; a list is two hosts.
        table.refused(
            &format!("{host:?}"),
            &[400],
            format!("GET /%T% HTTP/1.1\r\nHost: {host}\r\n\r\n"),
        );
    }
    table.refused(
        "not ASCII",
        &[400],
        b"GET /%T% HTTP/1.1\r\nHost: caf\xe9\r\n\r\n",
    );
    table.refused("NUL", &[400], b"GET /%T% HTTP/1.1\r\nHost: a\0b\r\n\r\n");
    for host in [
        "a",
        "A.Example",
        "a:80",
        "127.0.0.1",
        "127.0.0.1:8080",
        "[::1]",
        "[2001:db8::1]:443",
        "x_y.test",
        "a-b.test.",
    ] {
        let bytes = format!("GET /%T% HTTP/1.1\r\nHost: {host}\r\n\r\n");
        table.forwarded(&format!("{host:?} is kept"), bytes, |request, _| {
            assert_eq!(request.get("host"), Some(host))
        });
    }
    table.refused_or_forwarded(
        "HTTP/1.0 without Host",
        &[400],
        "GET /%T% HTTP/1.0\r\n\r\n",
        |request| {
            // Forwarded as 1.1 it needs one (the origin's own reader has checked that).
            assert_eq!(
                request.head.all("host").len(),
                usize::from(request.version == "HTTP/1.1")
            );
        },
    );
    table.finish();
}

#[test]
fn absolute_targets() {
    let mut table = Table::new();
    for (target, host) in [
        ("http://abs.test/%T%", "abs.test"),
        ("HTTP://abs.test/%T%", "abs.test"),
        ("http://abs.test:8080/%T%", "abs.test:8080"),
        ("http://[::1]:80/%T%", "[::1]:80"),
        ("http://abs.test?%T%", "abs.test"),
    ] {
        let bytes = format!("GET {target} HTTP/1.1\r\nHost: other.test\r\n\r\n");
        table.forwarded(target, bytes, |request, _| {
            assert_eq!(
                request.get("host"),
                Some(host),
                "3.2.2: the target's authority replaces Host"
            );
            assert!(
                request.target.starts_with('/'),
                "origin-form upstream: {}",
                request.target
            );
            assert_ne!(request.get("x-forwarded-host"), Some("other.test"));
        });
    }
    table.forwarded(
        "with a query",
        "GET http://abs.test/%T%?a=b HTTP/1.1\r\nHost: x\r\n\r\n",
        |request, _| {
            assert!(request.target.ends_with("?a=b"), "{}", request.target);
        },
    );
    for target in [
        "http://user@abs.test/%T%",
        "http://user:pass@abs.test/%T%",
        "http:///%T%",
        "http://:80/%T%",
        "http:/%T%",
        "http:%T%",
        "ftp://abs.test/%T%",
        "file:///%T%",
        "javascript:%T%",
        "http://a b/%T%",
        "http://abs.test:port/%T%",
        "http://abs.test\\@evil.test/%T%",
        "abs.test/%T%",
        "abs.test:80",
        "%H%:80",
        "http://[::1/%T%",
        "http://abs.test/%T%#fragment",
        "*",
        "*/%T%",
        "?%T%",
    ] {
        let bytes = format!("GET {target} HTTP/1.1\r\nHost: %H%\r\nX-Token: %T%\r\n\r\n");
        table.refused(target, &[400, 421], bytes);
    }
    table.refused(
        "Host must be there and valid all the same",
        &[400],
        "GET http://abs.test/%T% HTTP/1.1\r\n\r\n",
    );
    table.refused(
        "two Hosts all the same",
        &[400],
        "GET http://abs.test/%T% HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    );
    table.finish();
}

#[test]
fn other_forms() {
    let mut table = Table::new();
    for target in [
        "%H%:443",
        "abs.test:443",
        "/%T%",
        "*",
        "http://abs.test/%T%",
    ] {
        table.case(&format!("CONNECT {target}"), |case| {
            let bytes = format!("CONNECT {target} HTTP/1.1\r\nHost: %H%\r\nX-Token: %T%\r\n\r\n");
            let mut client = case.send(bytes.as_bytes());
            let response = client.response("GET");
            assert!(
                [400, 403, 404, 405, 501].contains(&response.status),
                "{}",
                response.status
            );
            client.try_send(case.fill(super::HIDDEN.as_bytes()));
            let seen = case
                .origin
                .log()
                .requests
                .iter()
                .any(|request| request.method == "CONNECT");
            assert!(!seen, "it reached the origin");
        });
    }
    table.case("OPTIONS *", |case| {
        let mut client = case.send(b"OPTIONS * HTTP/1.1\r\nHost: %H%\r\nX-Token: %T%\r\n\r\n");
        assert_eq!(client.response("OPTIONS").status, 200);
        let log = case.origin.log();
        let request = log
            .requests
            .iter()
            .find(|request| request.get("x-token") == Some(&case.token));
        let request = request
            .expect("asterisk-form is forwarded (issue: absolute-form and asterisk-form targets)");
        assert!(
            ["*", "/"].contains(&request.target.as_str()),
            "{}",
            request.target
        );
    });
    table.finish();
}
