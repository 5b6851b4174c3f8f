//! Which route is for a request: a tree over path segments, hosts beneath it.
//!
//! One walk down the tree passes every route whose path is a prefix of the request's; going back
//! up meets them longest first. Work is bounded by the length of the path, whatever the routes.

use std::cmp::{Ordering, Reverse};

use regex::bytes::Regex;

use crate::config::{PathMatch, RouteConfig};
use crate::route::RouteRequest;

/// The matching half of every route, and the tree over them.
#[derive(Debug)]
pub(super) struct Index {
    /// By the route's position in the file.
    rules: Vec<Rule>,
    /// The root, which stands for "/", comes first.
    nodes: Vec<Node>,
    regexes: Hosts,
}

/// What a route asks for besides its hosts and its plain path, which the tree knows.
#[derive(Debug)]
struct Rule {
    regex: Option<Regex>,
    methods: Vec<Box<[u8]>>,
    headers: Vec<(Box<str>, Box<[u8]>)>,
}

/// The place after a path's first segments.
#[derive(Debug)]
struct Node {
    parent: usize,
    /// Sorted by segment. An empty segment stands for a slash at the end of the path.
    children: Vec<(Box<[u8]>, usize)>,
    exact: Hosts,
    prefix: Hosts,
}

/// Routes of one path by host. Each list is in the order in which its routes are tried: more
/// headers first, then those with methods, then in file order.
#[derive(Debug, Default)]
struct Hosts {
    /// By host in lower case, sorted as by [`longest_first`].
    exact: Vec<(Box<[u8]>, Vec<usize>)>,
    /// By what follows the star (".example.com"), sorted likewise.
    wildcard: Vec<(Box<[u8]>, Vec<usize>)>,
    any: Vec<usize>,
}

impl Index {
    /// Fails when a regex of `routes` is not one.
    pub(super) fn new<'r>(
        routes: impl Iterator<Item = &'r RouteConfig>,
    ) -> Result<Self, regex::Error> {
        let mut index = Self {
            rules: Vec::new(),
            nodes: vec![Node::below(0)],
            regexes: Hosts::default(),
        };
        let mut order = Vec::new();
        for (number, route) in routes.enumerate() {
            index.rules.push(Rule::new(route)?);
            order.push((
                Reverse(route.headers.len()),
                route.methods.is_empty(),
                number,
                route,
            ));
        }
        order.sort_by_key(|&(headers, any_method, number, _)| (headers, any_method, number));
        for (_, _, number, route) in order {
            index.hosts_for(&route.path).insert(&route.hosts, number);
        }
        Ok(index)
    }

    /// The position of the most specific route that is for `request`.
    pub(super) fn find(&self, request: &RouteRequest<'_>) -> Option<usize> {
        let host = request.host.strip_suffix(b".").unwrap_or(request.host);
        let first = |hosts: &Hosts| hosts.find(host, |rule| self.rules[rule].matches(request));
        let (deepest, complete) = self.walk(request.path);
        if complete && let Some(rule) = first(&self.nodes[deepest].exact) {
            return Some(rule);
        }
        let mut node = deepest;
        loop {
            if let Some(rule) = first(&self.nodes[node].prefix) {
                return Some(rule);
            }
            if node == 0 {
                return first(&self.regexes);
            }
            node = self.nodes[node].parent;
        }
    }

    /// The deepest node on the way of `path`, and whether the way ends there.
    fn walk(&self, path: &[u8]) -> (usize, bool) {
        let Some(path) = path.strip_prefix(b"/") else {
            return (0, false);
        };
        let mut node = 0;
        for segment in path.split(|&byte| byte == b'/') {
            match self.nodes[node].child(segment) {
                Ok(at) => node = self.nodes[node].children[at].1,
                Err(_) => return (node, false),
            }
        }
        (node, true)
    }

    fn hosts_for(&mut self, path: &PathMatch) -> &mut Hosts {
        match path {
            PathMatch::Prefix(path) => {
                let node = self.node_for(path.trim_end_matches('/'));
                &mut self.nodes[node].prefix
            }
            PathMatch::Exact(path) => {
                let node = self.node_for(path);
                &mut self.nodes[node].exact
            }
            PathMatch::Regex(_) => &mut self.regexes,
        }
    }

    fn node_for(&mut self, path: &str) -> usize {
        let Some(path) = path.strip_prefix('/') else {
            return 0;
        };
        let mut node = 0;
        for segment in path.split('/').map(str::as_bytes) {
            node = match self.nodes[node].child(segment) {
                Ok(at) => self.nodes[node].children[at].1,
                Err(at) => {
                    let new = self.nodes.len();
                    self.nodes.push(Node::below(node));
                    self.nodes[node].children.insert(at, (segment.into(), new));
                    new
                }
            };
        }
        node
    }
}

impl Rule {
    fn new(route: &RouteConfig) -> Result<Self, regex::Error> {
        let regex = match &route.path {
            PathMatch::Regex(regex) => Some(Regex::new(regex)?),
            PathMatch::Prefix(_) | PathMatch::Exact(_) => None,
        };
        let methods = route
            .methods
            .iter()
            .map(|method| method.as_bytes().into())
            .collect();
        let header =
            |(name, value): (&String, &String)| (name.as_str().into(), value.as_bytes().into());
        Ok(Self {
            regex,
            methods,
            headers: route.headers.iter().map(header).collect(),
        })
    }

    fn matches(&self, request: &RouteRequest<'_>) -> bool {
        let method = self.methods.is_empty()
            || self
                .methods
                .iter()
                .any(|method| **method == *request.method);
        method
            && self
                .headers
                .iter()
                .all(|(name, value)| (request.header)(name).is_some_and(|seen| *seen == **value))
            && self
                .regex
                .as_ref()
                .is_none_or(|regex| regex.is_match(request.path))
    }
}

impl Node {
    fn below(parent: usize) -> Self {
        Self {
            parent,
            children: Vec::new(),
            exact: Hosts::default(),
            prefix: Hosts::default(),
        }
    }

    /// Where the child for `segment` is, or would be.
    fn child(&self, segment: &[u8]) -> Result<usize, usize> {
        self.children
            .binary_search_by(|(name, _)| (**name).cmp(segment))
    }
}

impl Hosts {
    fn insert(&mut self, hosts: &[String], rule: usize) {
        if hosts.is_empty() {
            self.any.push(rule);
        }
        for host in hosts {
            let (list, host) = match host.strip_prefix('*') {
                Some(suffix) => (&mut self.wildcard, suffix.as_bytes()),
                None => (&mut self.exact, host.as_bytes()),
            };
            match list.binary_search_by(|(known, _)| longest_first(known, host)) {
                Ok(at) => list[at].1.push(rule),
                Err(at) => list.insert(at, (host.into(), vec![rule])),
            }
        }
    }

    /// The first rule for `host` that `matches`, the most specific host first.
    fn find(&self, host: &[u8], matches: impl Fn(usize) -> bool) -> Option<usize> {
        let first = |rules: &[usize]| rules.iter().copied().find(|&rule| matches(rule));
        if let Ok(at) = self
            .exact
            .binary_search_by(|(known, _)| longest_first(known, host))
            && let Some(rule) = first(&self.exact[at].1)
        {
            return Some(rule);
        }
        for (suffix, rules) in &self.wildcard {
            let label = host
                .len()
                .checked_sub(suffix.len())
                .filter(|&label| label > 0);
            if label.is_some_and(|label| host[label..].eq_ignore_ascii_case(suffix))
                && let Some(rule) = first(rules)
            {
                return Some(rule);
            }
        }
        first(&self.any)
    }
}

/// Orders hosts by length, then by bytes; only `host` may hold upper case.
fn longest_first(known: &[u8], host: &[u8]) -> Ordering {
    let lower = host.iter().map(u8::to_ascii_lowercase);
    host.len()
        .cmp(&known.len())
        .then_with(|| known.iter().copied().cmp(lower))
}
