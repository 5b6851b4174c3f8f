//! Which service gets a request, with which path; routes that answer by themselves.

use crate::harness::client::Client;
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::origin::{Origin, Then};
use crate::harness::turn;

/// An origin that answers with its name and the path that it was asked for.
fn named(name: &'static str) -> Origin {
    let origin = Origin::start();
    origin.script("", move |exchange| {
        drop(exchange.read_body());
        let answer = format!("{name} {}", exchange.request.target);
        exchange.send_ok(&answer);
        Then::Keep
    });
    origin
}

fn ask(gateway: &Gateway, method: &str, host: &str, target: &str, lines: &str) -> String {
    let mut client: Client = gateway.connect();
    client.send(format!(
        "{method} {target} HTTP/1.1\r\nHost: {host}\r\n{lines}\r\n"
    ));
    let response = client.response(method);
    match response.get("location") {
        Some(location) => format!("{} {location}", response.status),
        None if response.status == 200 => response.text(),
        None => response.status.to_string(),
    }
}

#[test]
fn the_most_specific_route_wins() {
    let _turn = turn::shared();
    let (a, b) = (named("a"), named("b"));
    let gateway = Setup::default()
        .and_service("a", &[a.address()], "")
        .and_service("b", &[b.address()], "")
        .and_route("path = \"/\"\nservice = \"a\"")
        .and_route("path = \"/orders\"\nservice = \"b\"")
        .and_route("path = \"/orders/special\"\nservice = \"a\"")
        .and_route("path_exact = \"/orders/special/one\"\nservice = \"b\"")
        .and_route("path_regex = \"^/v[0-9]+/orders\"\nservice = \"b\"")
        .and_route("hosts = [\"api.test\", \"*.api.test\"]\npath = \"/host\"\nservice = \"b\"")
        .and_route("hosts = [\"one.api.test\"]\npath = \"/host\"\nservice = \"a\"")
        .and_route("path = \"/method\"\nmethods = [\"DELETE\", \"PUT\"]\nservice = \"b\"")
        .and_route("path = \"/header\"\nheaders = { \"x-canary\" = \"1\" }\nservice = \"b\"")
        .start();
    let cases = [
        ("GET", "x", "/", "", "a /"),
        ("GET", "x", "/orders", "", "b /orders"),
        ("GET", "x", "/orders/", "", "b /orders/"),
        ("GET", "x", "/orders/1?q=1", "", "b /orders/1?q=1"),
        ("GET", "x", "/orders?q", "", "b /orders?q"),
        ("GET", "x", "/ordersx", "", "a /ordersx"),
        ("GET", "x", "/Orders", "", "a /Orders"),
        ("GET", "x", "/%6frders/1", "", "b /%6frders/1"),
        ("GET", "x", "/orders%2F1", "", "a /orders%2F1"),
        ("GET", "x", "//orders//1", "", "b //orders//1"),
        ("GET", "x", "/x/../orders/1", "", "b /orders/1"),
        ("GET", "x", "/orders/special", "", "a /orders/special"),
        (
            "GET",
            "x",
            "/orders/special/two",
            "",
            "a /orders/special/two",
        ),
        (
            "GET",
            "x",
            "/orders/special/one",
            "",
            "b /orders/special/one",
        ),
        (
            "GET",
            "x",
            "/orders/special/one/more",
            "",
            "a /orders/special/one/more",
        ),
        ("GET", "api.test", "/host", "", "b /host"),
        ("GET", "API.Test:8080", "/host", "", "b /host"),
        ("GET", "two.api.test", "/host", "", "b /host"),
        ("GET", "one.api.test", "/host", "", "a /host"),
        ("GET", "evilapi.test", "/host", "", "a /host"),
        ("GET", "api.test.evil", "/host", "", "a /host"),
        ("GET", "x", "/method", "", "a /method"),
        (
            "DELETE",
            "x",
            "/method",
            "Content-Length: 0\r\n",
            "b /method",
        ),
        ("GET", "x", "/header", "", "a /header"),
        ("GET", "x", "/header", "X-Canary: 1\r\n", "b /header"),
        ("GET", "x", "/header", "X-Canary: 2\r\n", "a /header"),
    ];
    for (method, host, target, lines, expected) in cases {
        assert_eq!(
            ask(&gateway, method, host, target, lines),
            expected,
            "{method} {host} {target} {lines}"
        );
    }
    // "/" as a prefix is less specific than a regex only in that any longer prefix wins first: exact > prefix > regex.
    assert_eq!(
        ask(&gateway, "GET", "x", "/v2/orders/1", ""),
        "a /v2/orders/1"
    );
}

#[test]
fn regex_routes_and_no_route() {
    let _turn = turn::shared();
    let a = named("a");
    let gateway = Setup::default()
        .and_service("a", &[a.address()], "")
        .and_route("path_regex = \"^/v[0-9]+/orders\"\nservice = \"a\"")
        .and_route("path_regex = \"^/v\"\nstatus = 410")
        .start();
    assert_eq!(
        ask(&gateway, "GET", "x", "/v12/orders/3?x", ""),
        "a /v12/orders/3?x"
    );
    assert_eq!(ask(&gateway, "GET", "x", "/v/orders", ""), "410");
    assert_eq!(ask(&gateway, "GET", "x", "/other", ""), "404");
}

#[test]
fn prefixes_are_stripped_and_put_before() {
    let _turn = turn::shared();
    let (a, b) = (named("a"), named("b"));
    let gateway = Setup::default()
        .and_service("a", &[a.address()], "")
        .and_service("b", &[b.address()], "upstream_path = \"/base\"")
        .and_route("path = \"/shop/cart\"\nservice = \"a\"\nstrip_prefix = true")
        .and_route("path = \"/keep\"\nservice = \"b\"")
        .and_route("path = \"/strip\"\nservice = \"b\"\nstrip_prefix = true")
        .start();
    for (target, expected) in [
        ("/shop/cart", "a /"),
        ("/shop/cart/", "a /"),
        ("/shop/cart?x=/y", "a /?x=/y"),
        ("/shop/cart/1/2", "a /1/2"),
        ("/shop/cart/a%2Fb", "a /a%2Fb"),
        ("/shop//cart/1", "a /1"),
        ("/%73hop/cart/1", "a /1"),
        ("/shop/cart//1", "a /1"),
        ("/keep/1", "b /base/keep/1"),
        ("/strip/1?x", "b /base/1?x"),
    ] {
        assert_eq!(ask(&gateway, "GET", "x", target, ""), expected, "{target}");
    }
    // Never something that reads as another authority.
    let answer = ask(&gateway, "GET", "x", "/shop/cart//evil.test/x", "");
    assert!(!answer.starts_with("a //"), "{answer}");
}

#[test]
fn routes_that_answer_by_themselves() {
    let _turn = turn::shared();
    let a = named("a");
    let gateway = Setup::to(&a)
        .and_route("path = \"/internal\"\nstatus = 403")
        .and_route("path = \"/gone\"\nstatus = 410")
        .and_route("path = \"/moved\"\nredirect = \"https://example.com/orders\"\nstatus = 308")
        .and_route("path = \"/found\"\nredirect = \"/elsewhere\"\nstatus = 302")
        .start();
    assert_eq!(ask(&gateway, "GET", "x", "/internal/secret", ""), "403");
    assert_eq!(ask(&gateway, "HEAD", "x", "/internal", ""), "403");
    assert_eq!(ask(&gateway, "GET", "x", "/gone", ""), "410");
    assert_eq!(
        ask(&gateway, "GET", "x", "/moved/1?q", ""),
        "308 https://example.com/orders"
    );
    let found = ask(&gateway, "GET", "x", "/found", "");
    assert!(
        found.starts_with("30") && found.ends_with(" /elsewhere"),
        "{found}"
    );
    assert!(
        a.log().requests.is_empty(),
        "nothing of it reached the service"
    );
    // On one connection, one after the other.
    let mut client = gateway.connect();
    for _ in 0..3 {
        assert_eq!(client.get("/internal").status, 403);
        assert_eq!(client.get("/moved").status, 308);
        assert_eq!(client.get("/ok").text(), "a /ok");
    }
}
