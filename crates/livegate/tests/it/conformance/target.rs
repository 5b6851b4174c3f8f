//! Paths: what routes see, what services see, and that they see the same (contract, RFC 3986 section 6.2).

use super::{Table, replace};
use crate::harness::gateway::Setup;
use crate::harness::wire::latin1;

/// `%T%` in a target is the token; `sent -> forwarded`.
const FORWARDED: [(&str, &str); 31] = [
    ("/%T%", "/%T%"),
    ("/%T%/", "/%T%/"),
    ("/%T%?", "/%T%?"),
    ("/%T%?a=b&c=%20%2F|{}^", "/%T%?a=b&c=%20%2F|{}^"),
    ("/%T%?/../x", "/%T%?/../x"),
    ("/%T%?a?b", "/%T%?a?b"),
    ("/%T%/a%2Fb", "/%T%/a%2Fb"),
    ("/%T%/a%2fb%3F%23%25", "/%T%/a%2fb%3F%23%25"),
    ("/%T%/%41%c3%a9", "/%T%/%41%c3%a9"),
    ("/%T%/a;b=c", "/%T%/a;b=c"),
    ("/%T%/:@!$&'()*+,;=-._~", "/%T%/:@!$&'()*+,;=-._~"),
    ("/%T%/.a", "/%T%/.a"),
    ("/%T%/a.", "/%T%/a."),
    ("/%T%/...", "/%T%/..."),
    ("/%T%/..a", "/%T%/..a"),
    ("/%T%/a..", "/%T%/a.."),
    ("/./%T%", "/%T%"),
    ("/%T%/.", "/%T%/"),
    ("/%T%/./", "/%T%/"),
    ("/%T%/a/./b", "/%T%/a/b"),
    ("/%T%/a/../b", "/%T%/b"),
    ("/%T%/a/..", "/%T%/"),
    ("/%T%/a/../", "/%T%/"),
    ("/x/../%T%", "/%T%"),
    ("/%T%/a/b/../../c", "/%T%/c"),
    ("/%T%/%2e/a", "/%T%/a"),
    ("/%T%/a/%2e%2e/b", "/%T%/b"),
    ("/%T%/a/.%2E/b", "/%T%/b"),
    ("/%T%/a/%2E./b", "/%T%/b"),
    ("/%T%/a%2Fb/../c", "/%T%/c"),
    ("/%T%/%252e%252e/a", "/%T%/%252e%252e/a"),
];

#[test]
fn targets_are_forwarded_as_they_came() {
    let mut table = Table::new();
    for (sent, expected) in FORWARDED {
        table.case(sent, |case| {
            let (request, _) =
                case.forwarded(format!("GET {sent} HTTP/1.1\r\nHost: %H%\r\n\r\n").as_bytes());
            assert_eq!(
                request.target,
                latin1(&replace(expected.as_bytes(), b"%T%", case.token.as_bytes()))
            );
        });
    }
    table.case("raw UTF-8", |case| {
        let bytes = "GET /%T%/caf\u{e9} HTTP/1.1\r\nHost: %H%\r\n\r\n".as_bytes();
        let mut client = case.send(bytes);
        let response = client.response("GET");
        if response.status == 200 {
            let request = case.origin.request(&case.token);
            let target = request.target.to_ascii_lowercase();
            assert!(
                target.ends_with("caf\u{c3}\u{a9}") || target.ends_with("caf%c3%a9"),
                "{target:?}"
            );
        } else {
            assert_eq!(response.status, 400);
        }
    });
    table.finish();
}

#[test]
fn targets_that_are_refused() {
    let mut table = Table::new();
    for target in [
        "/../%T%",
        "/%T%/../..",
        "/%T%/../../x",
        "/..",
        "/%2e%2e/%T%",
        "/%T%/.%2e/%2e./x",
        "/%T%/a\\b",
        "/%T%/a%5cb",
        "/%T%/..\\x",
        "/%T%/%00",
        "/%T%/a%00b",
        "/%T%/%",
        "/%T%/%2",
        "/%T%/%zz",
        "/%T%/%2x",
        "/%T%/%u0041",
        "/%T%#a",
        "/%T%/#",
        "/%T%?a#b",
        "/%T%/a/..%2fb",
        "/%T%/a/..%2F..%2Fb",
        "/%T%/%2e%2e%2fb",
        "/%T%/a%2f..",
        "/%T%/a%2f../b",
        "/%T%/..;/b",
        "/%T%/..;x=y/b",
        "/%T%/.;/b",
        "/%T%/%2e%2e;/b",
    ] {
        let bytes = format!("GET {target} HTTP/1.1\r\nHost: %H%\r\nX-Token: %T%\r\n\r\n");
        table.refused(target, &[400], bytes);
    }
    for byte in [0x00_u8, 0x01, 0x09, 0x0b, 0x1f, 0x7f] {
        let mut bytes = b"GET /%T%/a".to_vec();
        bytes.push(byte);
        bytes.extend_from_slice(b"b HTTP/1.1\r\nHost: %H%\r\n\r\n");
        table.refused(&format!("raw byte {byte:#04x}"), &[400], bytes);
    }
    table.finish();
}

/// What RFC 3986 makes of a path, plus what sloppy services do on top of it: merge slashes, decode `%2F`,
/// cut parameters off segments. (A first segment `denied%2Fx` or `denied;x` is not `denied` by the contract.)
fn readings(target: &str) -> Vec<String> {
    let path = target.split('?').next().unwrap();
    let mut all = Vec::new();
    for slash in [false, true] {
        for merge in [false, true] {
            for parameters in [false, true] {
                let mut decoded = decode(path, slash);
                if merge {
                    while decoded.contains("//") {
                        decoded = decoded.replace("//", "/");
                    }
                }
                let mut stack: Vec<&str> = Vec::new();
                for segment in decoded.split('/').skip(1) {
                    let segment = if parameters {
                        segment.split(';').next().unwrap()
                    } else {
                        segment
                    };
                    match segment {
                        ".." => drop(stack.pop()),
                        "." => {}
                        _ => stack.push(segment),
                    }
                }
                all.push(format!("/{}", stack.join("/")));
            }
        }
    }
    all
}

fn decode(path: &str, slash: bool) -> String {
    let mut decoded = String::new();
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        decoded.push_str(&rest[..at]);
        match rest
            .get(at + 1..at + 3)
            .and_then(|hex| u8::from_str_radix(hex, 16).ok())
        {
            Some(b'/') if !slash => decoded.push_str("%2F"),
            Some(byte) => decoded.push(char::from(byte)),
            None => decoded.push_str(&rest[at..(at + 3).min(rest.len())]),
        }
        rest = rest.get(at + 3..).unwrap_or_default();
    }
    decoded + rest
}

/// The rule `/denied` answers 403: no spelling of a path below it reaches the service.
#[test]
fn a_denied_prefix_has_no_other_spelling() {
    let mut table =
        Table::with(|origin| Setup::to(origin).and_route("path = \"/denied\"\nstatus = 403"));
    for target in [
        "/denied",
        "/denied/",
        "/denied?x",
        "/denied/%T%",
        "/%64enied/%T%",
        "/d%65nie%64/%T%",
        "/%64%65%6e%69%65%64",
        "//denied/%T%",
        "///denied//%T%",
        "/./denied/%T%",
        "/.//denied/%T%",
        "/x/../denied/%T%",
        "/x/..//denied/%T%",
        "/x/%2e%2e/denied/%T%",
        "/x/.%2e/%64enied/%T%",
        "/%2e/denied/%T%",
        "/x/..%2fdenied/%T%",
        "/x%2f..%2fdenied/%T%",
        "/denied/..%2f%T%",
        "/denied/.%2f%T%",
        "/;/denied/%T%",
        "/x;/../denied/%T%",
        "/x/..;/denied/%T%",
        "/.;/denied/%T%",
        "/x/%2e%2e;/denied/%T%",
        "/\\denied/%T%",
        "/x\\..\\denied/%T%",
        "/%5cdenied/%T%",
        "/denied\\%T%",
        "/denied%00/%T%",
        "/%00/denied/%T%",
        "/denied%20/../denied/%T%",
        "http://%H%/denied/%T%",
        "http://%H%//denied/%T%",
        "http://%H%/x/../denied/%T%",
        "/%2564enied/%T%",
        "/x/%252e%252e/denied/%T%",
        "/DENIED/../denied/%T%",
        "/%T%/../denied",
        "/%T%//../denied",
        "/%T%//..//denied",
        "/denied/../%T%",
        "/denied/%2e%2e/%T%",
        "/denied/x/../../%T%",
    ] {
        table.case(target, |case| {
            let bytes = format!("GET {target} HTTP/1.1\r\nHost: %H%\r\nX-Token: %T%\r\n\r\n");
            let response = case.send(bytes.as_bytes()).response("GET");
            let log = case.origin.log();
            let seen: Vec<&str> = log
                .requests
                .iter()
                .filter(|request| request.get("x-token") == Some(&case.token))
                .map(|request| request.target.as_str())
                .collect();
            for reading in seen.iter().flat_map(|target| readings(target)) {
                let denied = reading == "/denied" || reading.starts_with("/denied/");
                assert!(!denied, "the origin got {seen:?} and may read {reading}");
            }
            if seen.is_empty() {
                assert!([400, 403].contains(&response.status), "{}", response.status);
            }
        });
    }
    for target in ["/deniedx/%T%", "/denie/%T%", "/x/denied/%T%"] {
        table.forwarded(
            target,
            format!("GET {target} HTTP/1.1\r\nHost: %H%\r\n\r\n"),
            |_, _| {},
        );
    }
    table.finish();
}
