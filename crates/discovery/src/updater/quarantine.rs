//! Quarantine: a connection was refused, reset or not made in time, so whoever listened there may
//! be gone. The request that saw it sets the flag; here it gets its history, and its end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::endpoint::{Blame, Endpoint, flag};
use crate::updater::Change;
use crate::view::{EndpointState, Reason, Source};

/// What broken connections have made of one endpoint.
#[derive(Debug, Default)]
pub(crate) struct Quarantine {
    current: Option<Current>,
    /// When one was last told of.
    told: Option<Instant>,
}

/// An endpoint that goes in and out many times a second is told of once: transitions are for
/// people, and kept in bounded numbers.
const TOLD_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Current {
    since: Instant,
    cause: Arc<str>,
    /// Who saw it first.
    source: Source,
    /// Nobody listened at some time: who listens next is another process.
    refused: bool,
    is_told: bool,
}

/// How a quarantine ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Released {
    /// By the process that was blamed; what else speaks against it stands.
    Same,
    /// By another process: nobody had listened in between. It starts with a clean record.
    Another,
}

impl Quarantine {
    /// Takes in what requests have done to the flag since the last time.
    pub(crate) fn tick(
        &mut self,
        endpoint: &Endpoint,
        now: Instant,
    ) -> (Option<Change>, Option<Released>) {
        let refused = endpoint.blame() == Blame::Refused;
        let is_flagged = endpoint.flags() & flag::QUARANTINED != 0;
        match &mut self.current {
            None if is_flagged => {
                let cause = endpoint.blame().text();
                (self.begin(cause, Source::Traffic, refused, now), None)
            }
            None => (None, None),
            Some(current) => {
                current.refused |= refused;
                if is_flagged {
                    return (None, None);
                }
                let (change, released) = self.end(endpoint, "a request connected");
                (change, Some(released))
            }
        }
    }

    /// A probe was refused, or found no way to the host.
    pub(crate) fn refused(
        &mut self,
        endpoint: &Endpoint,
        cause: &str,
        now: Instant,
    ) -> Option<Change> {
        endpoint.set_flags(flag::QUARANTINED, true);
        match &mut self.current {
            Some(current) => {
                if !std::mem::replace(&mut current.refused, true) {
                    current.cause = cause.into();
                    current.source = Source::Probe;
                }
                None
            }
            None => self.begin(cause, Source::Probe, true, now),
        }
    }

    /// A probe connected.
    pub(crate) fn connected(
        &mut self,
        endpoint: &Endpoint,
        cause: &str,
    ) -> (Option<Change>, Option<Released>) {
        endpoint.set_flags(flag::QUARANTINED, false);
        if self.current.is_none() {
            return (None, None);
        }
        let (change, released) = self.end(endpoint, cause);
        (change, Some(released))
    }

    pub(crate) fn is_on(&self) -> bool {
        self.current.is_some()
    }

    /// What a connection was refused with, if one was since the quarantine began.
    pub(crate) fn refusal(&self) -> Option<&Arc<str>> {
        let current = self.current.as_ref()?;
        current.refused.then_some(&current.cause)
    }

    pub(crate) fn reason(&self) -> Option<Reason> {
        let current = self.current.as_ref()?;
        Some(Reason {
            state: EndpointState::Quarantined,
            source: current.source,
            text: Arc::clone(&current.cause),
            since: current.since,
        })
    }

    fn begin(
        &mut self,
        cause: &str,
        source: Source,
        refused: bool,
        now: Instant,
    ) -> Option<Change> {
        let is_told = self
            .told
            .is_none_or(|told| now.saturating_duration_since(told) >= TOLD_EVERY);
        self.current = Some(Current {
            since: now,
            cause: cause.into(),
            source,
            refused,
            is_told,
        });
        is_told.then(|| {
            self.told = Some(now);
            Change::new("quarantined", cause)
        })
    }

    fn end(&mut self, endpoint: &Endpoint, cause: &str) -> (Option<Change>, Released) {
        endpoint.clear_blame();
        let ended = self.current.take();
        let refused = ended.as_ref().is_some_and(|ended| ended.refused);
        let is_told = ended.is_some_and(|ended| ended.is_told);
        let change = is_told.then(|| Change::new("released", cause));
        let released = if refused {
            Released::Another
        } else {
            Released::Same
        };
        (change, released)
    }
}
