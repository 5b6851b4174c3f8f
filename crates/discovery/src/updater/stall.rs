//! Stall detection: requests wait for an endpoint, no byte comes from it for far longer than
//! usual, and its peers answer meanwhile. A frozen process still accepts connections, so only a
//! byte proves it alive: from a request that is still running, or from a probe that asks for one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::endpoint::{Endpoint, EndpointKey, flag};
use crate::policy::StallPolicy;
use crate::updater::Change;
use crate::view::{EndpointState, Reason, Source};

/// What silence has made of one endpoint.
#[derive(Debug, Default)]
pub(crate) struct Stall {
    stalled: Option<Stalled>,
    /// Silence is borne twice as long for each time that it turned out to be harmless.
    doublings: u32,
    lifted: Option<Instant>,
}

#[derive(Debug)]
struct Stalled {
    since: Instant,
    stamp: u64,
    cause: Arc<str>,
}

/// A minute of silence at the default minimum of a second, and then no longer.
const DOUBLINGS_MAX: u32 = 6;

/// False alarms are forgotten after this long without another one.
const FORGET_AFTER: Duration = Duration::from_secs(60);

impl Stall {
    pub(crate) fn is_stalled(&self) -> bool {
        self.stalled.is_some()
    }

    /// Whether time alone changes something.
    pub(crate) fn is_restless(&self) -> bool {
        self.is_stalled() || self.lifted.is_some()
    }

    /// Notices silence and its end. `peers_answered` is when any other endpoint last did.
    pub(crate) fn tick(
        &mut self,
        endpoint: &Endpoint,
        policy: &StallPolicy,
        peers_answered: u64,
        now: Instant,
    ) -> Option<Change> {
        if let Some(stalled) = &self.stalled {
            let heard = endpoint.last_heard() > stalled.stamp;
            return heard.then(|| self.lift(endpoint, "a byte came from it", now));
        }
        if self
            .lifted
            .is_some_and(|lifted| now.saturating_duration_since(lifted) >= FORGET_AFTER)
        {
            self.doublings = 0;
            self.lifted = None;
        }
        let stamp = endpoint.signal().stamp(now);
        let silent_since = endpoint.silent_since()?;
        let silence = Duration::from_nanos(stamp.saturating_sub(silent_since));
        let usual = endpoint.latency().unwrap_or_default();
        let bound = policy
            .silence_min
            .max(usual.saturating_mul(policy.latency_factor))
            * (1 << self.doublings);
        let is_stall =
            policy.latency_factor > 0 && silence > bound && peers_answered > silent_since;
        is_stall.then(|| {
            let cause = format!(
                "{} in flight and no byte for {:.1} s (usual latency {usual:.1?}) while others answer",
                endpoint.in_flight(),
                silence.as_secs_f64(),
            );
            self.stalled = Some(Stalled { since: now, stamp, cause: cause.as_str().into() });
            endpoint.set_flags(flag::STALLED, true);
            Change::new("stalled", cause)
        })
    }

    /// It gave a sign of life to somebody who asked for one.
    pub(crate) fn spoke(&mut self, endpoint: &Endpoint, now: Instant) -> Option<Change> {
        endpoint.heard(now);
        self.is_stalled()
            .then(|| self.lift(endpoint, "it answers a probe", now))
    }

    /// Forgets everything: whatever was silent is not there any more.
    pub(crate) fn forgive(&mut self, endpoint: &Endpoint) {
        *self = Self::default();
        endpoint.set_flags(flag::STALLED, false);
    }

    pub(crate) fn reason(&self) -> Option<Reason> {
        let stalled = self.stalled.as_ref()?;
        Some(Reason {
            state: EndpointState::Stalled,
            source: Source::Traffic,
            text: Arc::clone(&stalled.cause),
            since: stalled.since,
        })
    }

    fn lift(&mut self, endpoint: &Endpoint, cause: &'static str, now: Instant) -> Change {
        self.stalled = None;
        self.lifted = Some(now);
        self.doublings = (self.doublings + 1).min(DOUBLINGS_MAX);
        endpoint.set_flags(flag::STALLED, false);
        Change::new("resumed", cause)
    }
}

/// When each endpoint's peers last answered: the latest answer of all, and the latest of all others
/// than that one.
#[derive(Debug, Default)]
pub(crate) struct LatestAnswers {
    latest: Option<(EndpointKey, u64)>,
    second: u64,
}

impl LatestAnswers {
    /// Takes in when an endpoint last answered.
    pub(crate) fn take_in(&mut self, endpoint: &Endpoint) {
        let (key, answer) = (endpoint.key(), endpoint.last_answer());
        match &mut self.latest {
            Some((latest_key, latest)) if *latest_key == key => *latest = answer.max(*latest),
            Some((_, latest)) if *latest >= answer => self.second = self.second.max(answer),
            latest => {
                self.second = latest.map_or(0, |(_, answer)| answer);
                *latest = Some((key, answer));
            }
        }
    }

    pub(crate) fn by_others(&self, endpoint: &Endpoint) -> u64 {
        match self.latest {
            Some((key, _)) if key == endpoint.key() => self.second,
            Some((_, latest)) => latest,
            None => 0,
        }
    }
}
