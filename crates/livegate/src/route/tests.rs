use std::collections::BTreeMap;

use proptest::prelude::*;

use super::index::Index;
use super::*;
use crate::config::RouteAction;

fn route(hosts: &[&str], path: PathMatch) -> RouteConfig {
    RouteConfig {
        hosts: hosts.iter().map(|&host| host.to_owned()).collect(),
        path,
        methods: Vec::new(),
        headers: BTreeMap::new(),
        action: RouteAction::Status(200),
        strip_prefix: false,
    }
}

fn prefix(path: &str) -> PathMatch {
    PathMatch::Prefix(path.to_owned())
}

fn exact(path: &str) -> PathMatch {
    PathMatch::Exact(path.to_owned())
}

fn regex(path: &str) -> PathMatch {
    PathMatch::Regex(path.to_owned())
}

fn find(routes: &[RouteConfig], host: &str, path: &str) -> Option<usize> {
    find_request(routes, host, path, "GET", &[])
}

fn find_request(
    routes: &[RouteConfig],
    host: &str,
    path: &str,
    method: &str,
    headers: &[(&str, &str)],
) -> Option<usize> {
    let index = Index::new(routes.iter()).unwrap();
    find_in(&index, host, path, method, headers)
}

fn find_in(
    index: &Index,
    host: &str,
    path: &str,
    method: &str,
    headers: &[(&str, &str)],
) -> Option<usize> {
    let header = |name: &str| {
        let found = headers.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| value.as_bytes())
    };
    index.find(&RouteRequest {
        host: host.as_bytes(),
        path: path.as_bytes(),
        method: method.as_bytes(),
        header: &header,
    })
}

#[test]
fn prefixes_match_whole_segments() {
    let routes = [route(&[], prefix("/orders"))];
    for path in ["/orders", "/orders/", "/orders/1", "/orders/1/2"] {
        assert_eq!(find(&routes, "", path), Some(0), "{path}");
    }
    for path in [
        "/",
        "/ordersx",
        "/Orders",
        "/x/orders",
        "/orders%2F1",
        "*",
        "",
    ] {
        assert_eq!(find(&routes, "", path), None, "{path}");
    }
}

#[test]
fn the_root_prefix_is_every_path() {
    let routes = [route(&[], prefix("/"))];
    for path in ["/", "/a", "/a/b/", "*"] {
        assert_eq!(find(&routes, "", path), Some(0), "{path}");
    }
}

#[test]
fn exact_before_longest_prefix_before_regex() {
    let routes = [
        route(&[], regex("^/orders")),
        route(&[], prefix("/")),
        route(&[], prefix("/orders")),
        route(&[], prefix("/orders/new")),
        route(&[], exact("/orders/new")),
        route(&[], exact("/orders/")),
        route(&[], exact("/")),
    ];
    for (path, expected) in [
        ("/orders/new", 4),
        ("/orders/new/", 3),
        ("/orders/new/1", 3),
        ("/orders/newer", 2),
        ("/orders", 2),
        ("/orders/", 5),
        ("/", 6),
        ("/x", 1),
    ] {
        assert_eq!(find(&routes, "", path), Some(expected), "{path}");
    }
    assert_eq!(find(&routes[..1], "", "/orders/1"), Some(0));
    assert_eq!(find(&routes[..1], "", "/x/orders"), None);
}

#[test]
fn an_exact_path_for_another_host_does_not_hide_a_prefix() {
    let routes = [
        route(&["a.example"], exact("/x/y")),
        route(&[], prefix("/x")),
    ];
    assert_eq!(find(&routes, "a.example", "/x/y"), Some(0));
    assert_eq!(find(&routes, "b.example", "/x/y"), Some(1));
}

#[test]
fn hosts() {
    let routes = [
        route(&[], prefix("/")),
        route(&["*.example.com"], prefix("/")),
        route(&["*.eu.example.com"], prefix("/")),
        route(&["api.example.com", "www.example.org"], prefix("/")),
        route(&["[::1]"], prefix("/")),
    ];
    for (host, expected) in [
        ("api.example.com", 3),
        ("API.Example.COM", 3),
        ("api.example.com.", 3),
        ("www.example.org", 3),
        ("b.example.com", 1),
        ("c.b.example.com", 1),
        ("B.EXAMPLE.com.", 1),
        ("a.eu.example.com", 2),
        ("eu.example.com", 1),
        ("example.com", 0),
        (".example.com", 0),
        ("badexample.com", 0),
        ("[::1]", 4),
        ("", 0),
    ] {
        assert_eq!(find(&routes, host, "/"), Some(expected), "{host}");
    }
    assert_eq!(find(&routes[1..], "example.com", "/"), None);
}

#[test]
fn path_before_host_before_headers_before_methods() {
    let mut by_method = route(&[], prefix("/a"));
    by_method.methods = vec!["GET".into(), "HEAD".into()];
    let mut by_header = route(&[], prefix("/a"));
    by_header.headers = BTreeMap::from([("x-canary".into(), "1".into())]);
    let mut by_headers = by_header.clone();
    by_headers.headers.insert("x-user".into(), "me".into());
    let routes = [
        route(&[], prefix("/a")),
        by_method,
        by_header,
        by_headers,
        route(&["h.example"], prefix("/a")),
        route(&["h.example"], prefix("/")),
    ];
    let find = |host: &str, method: &str, headers: &[(&str, &str)]| {
        find_request(&routes, host, "/a", method, headers)
    };
    assert_eq!(find("", "GET", &[]), Some(1));
    assert_eq!(find("", "HEAD", &[]), Some(1));
    assert_eq!(find("", "get", &[]), Some(0));
    assert_eq!(find("", "POST", &[]), Some(0));
    assert_eq!(find("", "GET", &[("x-canary", "1")]), Some(2));
    assert_eq!(find("", "GET", &[("x-canary", "11")]), Some(1));
    assert_eq!(
        find("", "GET", &[("x-user", "me"), ("x-canary", "1")]),
        Some(3)
    );
    assert_eq!(
        find("h.example", "GET", &[("x-user", "me"), ("x-canary", "1")]),
        Some(4)
    );
}

#[test]
fn equal_routes_win_in_file_order() {
    let routes = [route(&[], regex("^/a")), route(&[], regex("/a$"))];
    assert_eq!(find(&routes, "", "/a"), Some(0));
    assert_eq!(find(&routes, "", "/b/a"), Some(1));
}

#[test]
fn regexes_see_bytes() {
    let routes = [route(&[], regex(r"^/v[0-9]+/(?-u:\xff)"))];
    let index = Index::new(routes.iter()).unwrap();
    let request = RouteRequest {
        host: b"",
        path: b"/v1/\xff",
        method: b"GET",
        header: &|_| None,
    };
    assert_eq!(index.find(&request), Some(0));
}

#[test]
fn labels_tell_routes_apart_without_header_values() {
    let mut route = route(&["a.example", "*.b.example"], prefix("/orders"));
    assert_eq!(label(&route), "a.example,*.b.example/orders");
    route.methods = vec!["GET".into()];
    route.headers = BTreeMap::from([("x-key".into(), "secret".into())]);
    route.path = exact("/x");
    assert_eq!(label(&route), "GET a.example,*.b.example=/x x-key");
}

#[test]
fn stripped_segments() {
    for (path, segments) in [
        (prefix("/"), 0),
        (prefix("/a"), 1),
        (prefix("/a/b"), 2),
        (exact("/a/"), 1),
        (regex("^/a"), 0),
    ] {
        assert_eq!(prefix_segments(&path), segments, "{path:?}");
    }
}

fn some_path() -> impl Strategy<Value = String> {
    let segment = proptest::sample::select(vec!["a", "b", "ab", ""]);
    proptest::collection::vec(segment, 0..4).prop_map(|segments| {
        let mut path = format!("/{}", segments.join("/"));
        while path.contains("//") {
            path = path.replace("//", "/");
        }
        path
    })
}

fn some_route() -> impl Strategy<Value = RouteConfig> {
    let hosts = proptest::sample::subsequence(
        vec!["x.org", "y.x.org", "*.x.org", "*.y.x.org", "*.org"],
        0..3,
    );
    let path = prop_oneof![
        4 => some_path().prop_map(|path| {
            let trimmed = path.trim_end_matches('/');
            prefix(if trimmed.is_empty() { "/" } else { trimmed })
        }),
        2 => some_path().prop_map(PathMatch::Exact),
        1 => proptest::sample::select(vec!["^/a", "^/b", "^/ab"]).prop_map(regex),
    ];
    let methods = proptest::sample::subsequence(vec!["GET", "POST"], 0..2);
    let headers = proptest::sample::subsequence(vec![("p", "1"), ("p", "2"), ("q", "1")], 0..3);
    (hosts, path, methods, headers).prop_map(|(hosts, path, methods, headers)| RouteConfig {
        methods: methods.into_iter().map(str::to_owned).collect(),
        headers: headers
            .into_iter()
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect(),
        ..route(&hosts, path)
    })
}

/// The rule of the contract, written as a filter and a sort.
fn brute_force(
    routes: &[RouteConfig],
    host: &str,
    path: &str,
    method: &str,
    headers: &[(&str, &str)],
) -> Option<usize> {
    let specificity = |route: &RouteConfig| {
        let path = match &route.path {
            PathMatch::Exact(exact) if exact == path => (0, 0),
            PathMatch::Prefix(prefix)
                if prefix == "/" || path == prefix || path.starts_with(&format!("{prefix}/")) =>
            {
                (1, usize::MAX - prefix.len())
            }
            PathMatch::Regex(regex) if path.starts_with(&regex[1..]) => (2, 0),
            PathMatch::Exact(_) | PathMatch::Prefix(_) | PathMatch::Regex(_) => return None,
        };
        let rank = |pattern: &String| match pattern.strip_prefix('*') {
            None => (pattern == host).then_some((0, 0)),
            Some(suffix) => (host.len() > suffix.len() && host.ends_with(suffix))
                .then_some((1, usize::MAX - suffix.len())),
        };
        let host = match route.hosts.as_slice() {
            [] => (2, 0),
            hosts => hosts.iter().filter_map(rank).min()?,
        };
        let method_fits = route.methods.is_empty() || route.methods.iter().any(|m| m == method);
        let headers_fit = route
            .headers
            .iter()
            .all(|(k, v)| headers.contains(&(k.as_str(), v.as_str())));
        (method_fits && headers_fit).then_some((
            path,
            host,
            usize::MAX - route.headers.len(),
            route.methods.is_empty(),
        ))
    };
    let candidates = routes.iter().enumerate();
    let ranked = candidates.filter_map(|(at, route)| Some((specificity(route)?, at)));
    ranked.min().map(|(_, at)| at)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn finds_what_brute_force_finds(
        routes in proptest::collection::vec(some_route(), 0..12),
        requests in proptest::collection::vec((
            proptest::sample::select(vec!["", "x.org", "y.x.org", "z.y.x.org", "org", "z.org"]),
            some_path(),
            proptest::sample::select(vec!["GET", "POST", "PUT"]),
            proptest::sample::select(vec![
                vec![], vec![("p", "1")], vec![("p", "2")], vec![("q", "1")],
                vec![("p", "1"), ("q", "1")],
            ]),
        ), 1..20),
    ) {
        let index = Index::new(routes.iter()).unwrap();
        for (host, path, method, headers) in requests {
            prop_assert_eq!(
                find_in(&index, host, &path, method, &headers),
                brute_force(&routes, host, &path, method, &headers),
                "{} {} {} {:?}", host, path, method, headers
            );
        }
    }
}
