//! Outlier detection: requests that fail in a row eject an endpoint for a while.
//!
//! Then it is on probation: one more failure ejects it again, for longer; one success makes it an
//! endpoint like any other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::endpoint::{Endpoint, flag};
use crate::policy::OutlierPolicy;
use crate::updater::Change;
use crate::view::{EndpointState, Reason, Source};

/// What failures have made of one endpoint.
#[derive(Debug, Default)]
pub(crate) struct Outlier {
    ejection: Option<Ejection>,
    on_probation: bool,
    /// Ejections that are not forgotten yet; the next one lasts as many times longer.
    times: u32,
    /// When the last ejection ended, or was last forgotten.
    calm_since: Option<Instant>,
}

#[derive(Debug)]
struct Ejection {
    since: Instant,
    until: Instant,
    cause: Arc<str>,
}

/// One ejection is forgotten per so much time without another one (Envoy's interval).
const FORGET_AFTER: Duration = Duration::from_secs(10);

impl Outlier {
    pub(crate) fn is_ejected(&self) -> bool {
        self.ejection.is_some()
    }

    /// Whether there is something that time, or a request, will change.
    pub(crate) fn is_restless(&self) -> bool {
        self.is_ejected() || self.on_probation || self.calm_since.is_some()
    }

    /// Whether enough failed. One in quarantine is dealt with already, and comes back sooner.
    pub(crate) fn is_due(&self, endpoint: &Endpoint, policy: &OutlierPolicy) -> bool {
        policy.consecutive_failures > 0
            && policy.ejected_percent_max > 0
            && endpoint.failures_in_row() >= policy.consecutive_failures
            && endpoint.flags() & (flag::EJECTED | flag::QUARANTINED | flag::CLOSED) == 0
    }

    pub(crate) fn eject(
        &mut self,
        endpoint: &Endpoint,
        policy: &OutlierPolicy,
        now: Instant,
    ) -> Change {
        self.times = self.times.saturating_add(1);
        let lasts = policy
            .base_ejection
            .saturating_mul(self.times)
            .min(OutlierPolicy::EJECTION_MAX.max(policy.base_ejection));
        let failed = if std::mem::take(&mut self.on_probation) {
            "failed again on probation".to_owned()
        } else {
            format!("{} failures in a row", endpoint.failures_in_row())
        };
        let cause = format!("{failed}, for {lasts:?}");
        self.ejection = Some(Ejection {
            since: now,
            until: now + lasts,
            cause: cause.as_str().into(),
        });
        endpoint.set_flags(flag::EJECTED, true);
        Change::new("ejected", cause)
    }

    /// Ends what is over.
    pub(crate) fn tick(
        &mut self,
        endpoint: &Endpoint,
        policy: &OutlierPolicy,
        now: Instant,
    ) -> Option<Change> {
        if let Some(ejection) = &self.ejection {
            if now < ejection.until {
                return None;
            }
            self.end(endpoint, now);
            // Where a single failure ejects, every endpoint is on probation all the time.
            self.on_probation = policy.consecutive_failures > 1;
            // So that one more failure is one too many, and a success sets it to 0.
            endpoint.set_failures_in_row(policy.consecutive_failures.saturating_sub(1));
            return Some(Change::new(
                "probation",
                "the ejection is over; one failure ejects it again",
            ));
        }
        if self.on_probation
            && endpoint.failures_in_row() < policy.consecutive_failures.saturating_sub(1)
        {
            self.on_probation = false;
            return Some(Change::new("probation_passed", "a request succeeded"));
        }
        match self.calm_since {
            Some(since) if now.saturating_duration_since(since) >= FORGET_AFTER => {
                self.times = self.times.saturating_sub(1);
                self.calm_since = (self.times > 0).then_some(now);
            }
            Some(_) | None => {}
        }
        None
    }

    /// Forgets everything: whatever failed is not there any more.
    pub(crate) fn forgive(&mut self, endpoint: &Endpoint) {
        *self = Self::default();
        endpoint.set_flags(flag::EJECTED, false);
        endpoint.set_failures_in_row(0);
    }

    /// Lets a changed policy take effect.
    pub(crate) fn apply_policy(
        &mut self,
        endpoint: &Endpoint,
        policy: &OutlierPolicy,
        now: Instant,
    ) {
        if self.on_probation {
            endpoint.set_failures_in_row(policy.consecutive_failures.saturating_sub(1));
        }
        let off = policy.consecutive_failures == 0 || policy.ejected_percent_max == 0;
        if off && self.is_ejected() {
            self.end(endpoint, now);
        }
    }

    pub(crate) fn reason(&self) -> Option<Reason> {
        let ejection = self.ejection.as_ref()?;
        Some(Reason {
            state: EndpointState::Ejected,
            source: Source::Traffic,
            text: Arc::clone(&ejection.cause),
            since: ejection.since,
        })
    }

    fn end(&mut self, endpoint: &Endpoint, now: Instant) {
        self.ejection = None;
        self.calm_since = Some(now);
        endpoint.set_flags(flag::EJECTED, false);
    }
}
