//! One request's hold on an endpoint, from the choice to the outcome.

use std::cell::Cell;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crate::endpoint::Endpoint;
use crate::probe::is_local_shortage;

/// Why there is nothing to pick. Clients are told which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoEndpoint {
    /// Discovery has not said anything yet.
    #[error("the registry has not answered yet")]
    Pending,
    /// There is no such service.
    #[error("the registry knows no such service")]
    Absent,
    /// The service has no instances.
    #[error("the service has no instances")]
    Empty,
    /// It has instances, but none that takes requests: all are draining, out of service or have
    /// weight 0. Bad health alone never leads here, for then the least bad are tried (unless the
    /// policy forbids panic).
    #[error("no instance of the service takes requests")]
    AllUnfit,
}

/// How an attempt at an endpoint ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A whole response head came (and its body, unless [`BodyFailed`](Outcome::BodyFailed)).
    Answered {
        /// Its status; 500 to 599 count as failures.
        status: u16,
        /// From the request being sent to the response head.
        latency: Duration,
    },
    /// The connection was refused, or there is no route to the host.
    Refused,
    /// The connection was not made in time.
    ConnectTimeout,
    /// The connection broke before a whole response head.
    Reset,
    /// No response head in time.
    HeadTimeout,
    /// What came was not a proper response.
    BadResponse,
    /// The connection broke after the response head.
    BodyFailed,
    /// The client left, or the attempt was given up for reasons that are not the endpoint's.
    Cancelled,
}

impl Outcome {
    /// What an error of a connection, as the system reports it, says about the endpoint. Errors that say that
    /// this host has run out of something are taken for [`Cancelled`](Self::Cancelled). A timeout is taken
    /// for that of the response head; who knows better says [`ConnectTimeout`](Self::ConnectTimeout).
    pub fn of_error(error: &io::Error) -> Self {
        match error.kind() {
            _ if is_local_shortage(error) => Self::Cancelled,
            ErrorKind::ConnectionRefused
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable => Self::Refused,
            ErrorKind::TimedOut => Self::HeadTimeout,
            ErrorKind::InvalidData => Self::BadResponse,
            _ => Self::Reset,
        }
    }
}

/// An endpoint chosen for one request, which counts as in flight until this is finished or
/// dropped; dropping it means [`Outcome::Cancelled`].
#[derive(Debug)]
pub struct Pick {
    endpoint: Arc<Endpoint>,
    started: Instant,
    /// No byte has come for this request yet. (A pick belongs to one task, so it needs no more than
    /// a cell; it can move to another thread, but not be shared.)
    waiting: Cell<bool>,
    panic: bool,
    /// Counted in [`Signal::bounded_in_flight`](crate::endpoint::Signal) as well.
    bounded: bool,
}

impl Pick {
    pub(crate) fn new(endpoint: Arc<Endpoint>, panic: bool, bounded: bool, now: Instant) -> Self {
        endpoint.begin(now);
        if bounded {
            endpoint.signal().bounded_in_flight.fetch_add(1, Relaxed);
        }
        Self {
            endpoint,
            started: now,
            waiting: Cell::new(true),
            panic,
            bounded,
        }
    }

    /// What was picked.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Whether it was picked although it is not fit, for lack of better ones.
    pub fn is_panic(&self) -> bool {
        self.panic
    }

    /// A new connection to the endpoint was made: lifts its quarantine.
    pub fn connected(&self, _now: Instant) {
        self.endpoint.connected();
    }

    /// A byte came from the endpoint for this request. The first call ends this request's waiting;
    /// silence after that (an idle tunnel, a slow stream) is no sign of a stall.
    pub fn heard(&self, now: Instant) {
        self.endpoint.heard(now);
        if self.waiting.replace(false) {
            self.endpoint.end_waiting();
        }
    }

    /// Ends the attempt. A refused, reset or timed-out connection puts the endpoint into
    /// quarantine before this returns: the very next pick on any thread avoids it.
    pub fn finish(self, outcome: Outcome, now: Instant) {
        self.endpoint.record(outcome, self.started, now);
    }
}

impl Drop for Pick {
    fn drop(&mut self) {
        self.endpoint.end(self.waiting.get());
        if self.bounded {
            self.endpoint
                .signal()
                .bounded_in_flight
                .fetch_sub(1, Relaxed);
        }
    }
}
