//! Tables of cases from RFC 9110 and RFC 9112: what is sent, what must come of it.
//!
//! Every case runs on connections of its own and is followed by a canary: two requests on a fresh
//! connection that must get exactly their own answers. So a case that leaves a byte too many in an
//! upstream connection is found at once. One worker, so that the canary meets the same upstream pool.

mod chunked;
mod connection;
mod expect;
mod forwarding;
mod framing;
mod head;
mod host;
mod limits;
mod own_answers;
mod response_body;
mod response_head;
mod routes;
mod target;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::harness::client::{Client, HOST, Response};
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::origin::{Origin, Request};
use crate::harness::turn::{self, Turn};

/// A gateway in front of an origin, and the cases that failed so far.
pub(crate) struct Table {
    pub(crate) gateway: Gateway,
    pub(crate) origin: Origin,
    failed: Vec<String>,
    count: usize,
    _turn: Turn,
}

/// What a case works with.
pub(crate) struct Case<'a> {
    pub(crate) gateway: &'a Gateway,
    pub(crate) origin: &'a Origin,
    /// Stands in the target (or a field) of the case's own request.
    pub(crate) token: String,
    /// Stands in a request that must never be seen as one of its own.
    pub(crate) hidden: String,
}

impl Table {
    pub(crate) fn new() -> Table {
        Table::with(Setup::to)
    }

    pub(crate) fn with(setup: impl FnOnce(&Origin) -> Setup) -> Table {
        let turn = turn::shared();
        let origin = Origin::start();
        let gateway = setup(&origin).http("workers = 1").start();
        Table {
            gateway,
            origin,
            failed: Vec::new(),
            count: 0,
            _turn: turn,
        }
    }

    /// Runs one case; a panic in it is one failed case, and the next one runs.
    pub(crate) fn case(&mut self, name: &str, run: impl FnOnce(&Case<'_>)) {
        self.count += 1;
        let case = Case {
            gateway: &self.gateway,
            origin: &self.origin,
            token: token("own"),
            hidden: token("hidden"),
        };
        let result = catch_unwind(AssertUnwindSafe(|| {
            run(&case);
            case.nothing_hidden_was_seen();
        }));
        let canary = catch_unwind(AssertUnwindSafe(|| self.canary()));
        match (result, canary) {
            (Ok(()), Ok(())) => {}
            (Err(why), _) => self.failed.push(format!("{name}: {}", message(&*why))),
            (Ok(()), Err(why)) => self
                .failed
                .push(format!("{name}: canary: {}", message(&*why))),
        }
    }

    /// The gateway refuses: one of these statuses, `reason`, closed, and nothing reached the origin.
    pub(crate) fn refused(&mut self, name: &str, statuses: &[u16], bytes: impl AsRef<[u8]>) {
        self.case(name, |case| {
            case.refused(statuses, bytes.as_ref());
        });
    }

    /// The request reaches the origin once and whole, and its answer the client; then `check`.
    pub(crate) fn forwarded(
        &mut self,
        name: &str,
        bytes: impl AsRef<[u8]>,
        check: impl FnOnce(&Request, &Response),
    ) {
        self.case(name, |case| {
            let (request, response) = case.forwarded(bytes.as_ref());
            check(&request, &response);
        });
    }

    /// Either of the two: RFC 9112 leaves the choice.
    pub(crate) fn refused_or_forwarded(
        &mut self,
        name: &str,
        statuses: &[u16],
        bytes: impl AsRef<[u8]>,
        check: impl FnOnce(&Request),
    ) {
        self.case(name, |case| {
            let mut client = case.send(bytes.as_ref());
            let response = client
                .read(case.method(bytes.as_ref()))
                .unwrap_or_else(|error| panic!("no answer: {error}"));
            if response.status == 200 {
                check(&case.origin.request(&case.token));
            } else {
                case.check_refusal(statuses, &response, client);
            }
        });
    }

    /// Two requests on a fresh connection get their own answers and nothing else.
    fn canary(&self) {
        let mut client = self.gateway.connect();
        for _ in 0..2 {
            let token = token("canary");
            let response = client.get(&format!("/{token}"));
            assert_eq!(response.status, 200, "{}", response.text());
            assert_eq!(
                response.text(),
                format!("GET /{token}\n"),
                "a foreign answer"
            );
        }
        let malformed = std::mem::take(&mut self.origin.log().malformed);
        assert!(
            malformed.is_empty(),
            "the origin got what is not HTTP: {malformed:?}"
        );
    }

    /// Fails when any case did.
    #[track_caller]
    pub(crate) fn finish(self) {
        assert!(
            self.failed.is_empty(),
            "{} of {} cases failed:\n- {}",
            self.failed.len(),
            self.count,
            self.failed.join("\n- ")
        );
    }
}

impl Case<'_> {
    /// Fills in `%T%` (this case's token), `%S%` (the hidden one) and `%H%` (a host).
    pub(crate) fn fill(&self, bytes: &[u8]) -> Vec<u8> {
        let bytes = replace(bytes, b"%T%", self.token.as_bytes());
        let bytes = replace(&bytes, b"%S%", self.hidden.as_bytes());
        replace(&bytes, b"%H%", HOST.as_bytes())
    }

    /// Sends on a fresh connection.
    pub(crate) fn send(&self, bytes: &[u8]) -> Client {
        let mut client = self.gateway.connect();
        client.send(self.fill(bytes));
        client
    }

    /// The method that a request begins with, for finding the end of its response.
    fn method(&self, bytes: &[u8]) -> &'static str {
        if bytes.starts_with(b"HEAD ") {
            "HEAD"
        } else {
            "GET"
        }
    }

    /// Answers to the case's own request come from here instead of the default.
    pub(crate) fn origin_sends(&self, bytes: &[u8], then: crate::harness::origin::Then) {
        self.origin.answer(self.token.clone(), bytes, then);
    }

    pub(crate) fn refused(&self, statuses: &[u16], bytes: &[u8]) {
        let mut client = self.send(bytes);
        let response = client
            .read("GET")
            .unwrap_or_else(|error| panic!("no answer: {error}"));
        self.check_refusal(statuses, &response, client);
    }

    pub(crate) fn check_refusal(&self, statuses: &[u16], response: &Response, mut client: Client) {
        check_own_answer(response);
        assert!(
            statuses.contains(&response.status),
            "{} instead of {statuses:?}: {}",
            response.status,
            response.text()
        );
        assert!(
            response.closes(),
            "no Connection: close in {:?}",
            response.head
        );
        client.expect_closed();
        let seen = self.origin.requests(&self.token);
        assert!(seen.is_empty(), "it reached the origin: {seen:#?}");
    }

    pub(crate) fn forwarded(&self, bytes: &[u8]) -> (Request, Response) {
        let mut client = self.send(bytes);
        let response = client.response(self.method(bytes));
        assert_eq!(response.status, 200, "{}", response.text());
        (self.origin.request(&self.token), response)
    }

    fn nothing_hidden_was_seen(&self) {
        let log = self.origin.log();
        let seen = log
            .requests
            .iter()
            .find(|request| request.target.contains(&self.hidden));
        assert!(
            seen.is_none(),
            "a hidden request was taken for one: {seen:#?}"
        );
    }
}

/// An answer that the gateway made itself: reason in the header and in a JSON body (contract).
#[track_caller]
pub(crate) fn check_own_answer(response: &Response) {
    let reason = response
        .get("x-livegate-reason")
        .unwrap_or_else(|| panic!("no x-livegate-reason: {:?}", response.head));
    assert!(response.complete, "incomplete: {:?}", response.why);
    if response.body.is_empty() {
        return; // to a HEAD
    }
    let json: serde_json::Value = serde_json::from_slice(&response.body)
        .unwrap_or_else(|error| panic!("{error}: {}", response.text()));
    assert_eq!(
        json["error"], reason,
        "error and x-livegate-reason differ: {json}"
    );
    assert!(json["detail"].is_string(), "no detail: {json}");
}

/// A text that occurs nowhere else.
pub(crate) fn token(kind: &str) -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!(
        "{kind}-{:06}-{:08x}",
        NEXT.fetch_add(1, Ordering::Relaxed),
        fastrand::u32(..)
    )
}

pub(crate) fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut result = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(at) = rest.windows(from.len()).position(|window| window == from) {
        result.extend_from_slice(&rest[..at]);
        result.extend_from_slice(to);
        rest = &rest[at + from.len()..];
    }
    result.extend_from_slice(rest);
    result
}

/// A request with these header lines and this body.
pub(crate) fn request(method: &str, lines: &str, body: &str) -> String {
    format!("{method} /%T% HTTP/1.1\r\nHost: %H%\r\n{lines}\r\n{body}")
}

/// A request that must stay part of what it stands in.
pub(crate) const HIDDEN: &str = "GET /%S% HTTP/1.1\r\nHost: %H%\r\n\r\n";

fn message(why: &(dyn std::any::Any + Send)) -> String {
    why.downcast_ref::<String>()
        .cloned()
        .or_else(|| why.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "panicked".to_owned())
}
