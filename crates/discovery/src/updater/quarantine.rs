//! Quarantine: a connection was refused, reset or not made in time, so whoever listened there may
//! be gone. The request that saw it sets the flag; here it gets its history, and its end.

use std::sync::Arc;
use std::time::Instant;

use crate::endpoint::{Blame, Endpoint, flag};
use crate::updater::Change;
use crate::view::{EndpointState, Reason};

/// What broken connections have made of one endpoint.
#[derive(Debug, Default)]
pub(crate) struct Quarantine {
    current: Option<Current>,
}

#[derive(Debug)]
struct Current {
    since: Instant,
    cause: Arc<str>,
    /// Nobody listened at some time: who listens next is another process.
    refused: bool,
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
    pub(crate) fn is_on(&self) -> bool {
        self.current.is_some()
    }

    /// Takes in what requests have done to the flag since the last time.
    pub(crate) fn tick(
        &mut self,
        endpoint: &Endpoint,
        now: Instant,
    ) -> Option<(Change, Option<Released>)> {
        let refused = endpoint.blame() == Blame::Refused;
        match &mut self.current {
            None if endpoint.flags() & flag::QUARANTINED != 0 => {
                Some((self.begin(endpoint.blame().text(), refused, now), None))
            }
            None => None,
            Some(current) => {
                current.refused |= refused;
                if endpoint.flags() & flag::QUARANTINED != 0 {
                    return None;
                }
                let (change, released) = self.end(endpoint, "a request connected");
                Some((change, Some(released)))
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
                current.refused = true;
                None
            }
            None => Some(self.begin(cause, true, now)),
        }
    }

    /// A probe connected.
    pub(crate) fn connected(&mut self, endpoint: &Endpoint) -> Option<(Change, Released)> {
        endpoint.set_flags(flag::QUARANTINED, false);
        self.is_on()
            .then(|| self.end(endpoint, "a probe connected"))
    }

    pub(crate) fn reason(&self) -> Option<Reason> {
        let current = self.current.as_ref()?;
        Some(Reason {
            state: EndpointState::Quarantined,
            text: Arc::clone(&current.cause),
            since: current.since,
        })
    }

    fn begin(&mut self, cause: &str, refused: bool, now: Instant) -> Change {
        self.current = Some(Current {
            since: now,
            cause: cause.into(),
            refused,
        });
        Change::new("quarantined", cause)
    }

    fn end(&mut self, endpoint: &Endpoint, cause: &'static str) -> (Change, Released) {
        endpoint.clear_blame();
        let refused = self.current.take().is_some_and(|current| current.refused);
        let released = if refused {
            Released::Another
        } else {
            Released::Same
        };
        (Change::new("released", cause), released)
    }
}
