//! Finding a route: any table and any request give what a filter and a sort over all routes give.
#![no_main]

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use livegate::config::{PathMatch, RouteAction, RouteConfig};
use livegate::metrics::RouteMetrics;
use livegate::route::{Action, Route, RouteRequest, RouteTable};
use regex::Regex;

const SEGMENTS: [&str; 8] = ["", "a", "b", "ab", "%2F", "A", "a.b", "\u{e9}"];
const HOSTS: [&str; 8] = [
    "x.org",
    "y.x.org",
    "*.x.org",
    "*.y.x.org",
    "*.org",
    "org",
    "z.y.x.org",
    ".x.org",
];
const PATTERNS: [&str; 6] = ["^/a", "^/b/", "b$", "^/[ab]+/x?", "", "%2F"];
const METHODS: [&str; 4] = ["GET", "POST", "get", "M-SEARCH"];
const HEADERS: [(&str, &str); 4] = [("p", "1"), ("p", "2"), ("q", "1"), ("p", "")];

fn path(from: &mut Unstructured<'_>) -> Result<String> {
    let mut path = String::new();
    for _ in 0..from.int_in_range(0..=5)? {
        path.push('/');
        path.push_str(from.choose(&SEGMENTS)?);
    }
    if path.is_empty() {
        path.push('/');
    }
    while path.contains("//") {
        path = path.replace("//", "/");
    }
    Ok(path)
}

fn route(from: &mut Unstructured<'_>) -> Result<RouteConfig> {
    // Compiling a regex costs more than everything else here: few of them.
    let path = match from.int_in_range(0..=8)? {
        0 => PathMatch::Regex((*from.choose(&PATTERNS)?).to_owned()),
        1..=3 => PathMatch::Exact(path(from)?),
        _ => {
            let path = path(from)?;
            let trimmed = path.trim_end_matches('/');
            PathMatch::Prefix(if trimmed.is_empty() {
                "/".to_owned()
            } else {
                trimmed.to_owned()
            })
        }
    };
    let mut hosts = Vec::new();
    for _ in 0..from.int_in_range(0..=3)? {
        let host = (*from.choose(&HOSTS[..6])?).to_owned();
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    let mut methods = Vec::new();
    for _ in 0..from.int_in_range(0..=2)? {
        methods.push((*from.choose(&METHODS)?).to_owned());
    }
    let mut headers = BTreeMap::new();
    for _ in 0..from.int_in_range(0..=2)? {
        let (name, value) = *from.choose(&HEADERS)?;
        headers.insert(name.to_owned(), value.to_owned());
    }
    Ok(RouteConfig {
        hosts,
        path,
        methods,
        headers,
        action: RouteAction::Status(200),
        strip_prefix: false,
    })
}

/// The contract's rule for one route: nothing when it is not for the request, else its rank (least wins).
fn rank(
    route: &RouteConfig,
    host: &str,
    path: &str,
    method: &str,
    headers: &[(&str, &str)],
) -> Option<impl Ord + use<>> {
    let path_rank = match &route.path {
        PathMatch::Exact(exact) => (exact == path).then_some((0, Reverse(0)))?,
        PathMatch::Prefix(prefix) => {
            let below = prefix == "/" || path == prefix || path.starts_with(&format!("{prefix}/"));
            below.then_some((1, Reverse(prefix.len())))?
        }
        PathMatch::Regex(pattern) => {
            static REGEXES: LazyLock<Vec<Regex>> = LazyLock::new(|| {
                PATTERNS
                    .iter()
                    .map(|pattern| Regex::new(pattern).expect("a regex"))
                    .collect()
            });
            let at = PATTERNS
                .iter()
                .position(|known| known == pattern)
                .expect("one of ours");
            REGEXES[at].is_match(path).then_some((2, Reverse(0)))?
        }
    };
    let host_rank = |pattern: &String| match pattern.strip_prefix('*') {
        None => (pattern == host).then_some((0, Reverse(0))),
        Some(suffix) => (host.len() > suffix.len() && host.ends_with(suffix))
            .then_some((1, Reverse(suffix.len()))),
    };
    let host_rank = match route.hosts.as_slice() {
        [] => (2, Reverse(0)),
        hosts => hosts.iter().filter_map(host_rank).min()?,
    };
    let method_fits = route.methods.is_empty() || route.methods.iter().any(|known| known == method);
    let first = |name: &str| {
        headers
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| *value)
    };
    let headers_fit = route
        .headers
        .iter()
        .all(|(name, value)| first(name) == Some(value));
    (method_fits && headers_fit).then_some((
        path_rank,
        host_rank,
        Reverse(route.headers.len()),
        route.methods.is_empty(),
    ))
}

fn run(bytes: &[u8]) -> Result<()> {
    let mut from = Unstructured::new(bytes);
    let mut routes = Vec::new();
    for number in 0..from.int_in_range(0..=12)? {
        let config = route(&mut from)?;
        routes.push(Arc::new(Route {
            label: Arc::from(number.to_string()),
            action: Action::Status(200),
            strip_segments: 0,
            metrics: Arc::new(RouteMetrics::new(1)),
            config,
        }));
    }
    let table = RouteTable::new(routes).expect("the patterns are regexes");
    for _ in 0..from.int_in_range(0..=8)? {
        let host = if from.arbitrary()? {
            *from.choose(&HOSTS)?
        } else {
            ""
        };
        let path = path(&mut from)?;
        let method = *from.choose(&METHODS)?;
        let mut headers = Vec::new();
        for _ in 0..from.int_in_range(0..=2)? {
            headers.push(*from.choose(&HEADERS)?);
        }
        let header = |name: &str| {
            headers
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| value.as_bytes())
        };
        let upper = host.to_ascii_uppercase();
        let request = RouteRequest {
            host: upper.as_bytes(),
            path: path.as_bytes(),
            method: method.as_bytes(),
            header: &header,
        };
        let found = table
            .find(&request)
            .map(|route| route.label.parse::<usize>().expect("a number"));
        let ranked = table.routes().iter().enumerate();
        let ranked = ranked.filter_map(|(at, route)| {
            Some((rank(&route.config, host, &path, method, &headers)?, at))
        });
        let expected = ranked.min().map(|(_, at)| at);
        assert_eq!(
            found,
            expected,
            "{method} {host} {path} {headers:?} in {:#?}",
            table.routes()
        );
    }
    Ok(())
}

fuzz_target!(|bytes: &[u8]| {
    // Too few bytes for a whole case: nothing to look at.
    let _: Result<()> = run(bytes);
});
