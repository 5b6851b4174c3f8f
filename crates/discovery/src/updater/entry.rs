//! Everything the updater knows about one instance.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::endpoint::{Endpoint, Grade, flag};
use crate::policy::{HoldPolicy, OutlierPolicy};
use crate::snapshot::{Instance, InstanceState};
use crate::updater::hold::{Contact, Hold};
use crate::updater::outlier::Outlier;
use crate::updater::quarantine::{Quarantine, Released};
use crate::updater::stall::Stall;
use crate::updater::{Change, Health};
use crate::view::{EndpointState, Member, Reason, Source};

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) instance: Arc<Instance>,
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) seat: u32,
    pub(crate) quarantine: Quarantine,
    pub(crate) outlier: Outlier,
    pub(crate) stall: Stall,
    health: Option<Reason>,
    /// The registry no longer names it, and may be wrong.
    pub(crate) hold: Option<Hold>,
    /// Nothing is in flight to it while it drains, and that was told.
    is_idle: bool,
    known_since: Instant,
    /// Since when the registry says what it says.
    registered_since: Instant,
    drained_since: Option<Instant>,
    warming_since: Option<Instant>,
    tenths: u32,
    /// What the published view was made from.
    published: Option<(u32, u32)>,
}

/// A weight that is warm, in tenths.
pub(crate) const WARM: u32 = 10;

impl Entry {
    pub(crate) fn new(
        instance: Arc<Instance>,
        endpoint: Arc<Endpoint>,
        seat: u32,
        now: Instant,
    ) -> Self {
        Self {
            instance,
            endpoint,
            seat,
            quarantine: Quarantine::default(),
            outlier: Outlier::default(),
            stall: Stall::default(),
            health: None,
            hold: None,
            is_idle: false,
            known_since: now,
            registered_since: now,
            drained_since: None,
            warming_since: None,
            tenths: WARM,
            published: None,
        }
    }

    /// Takes in what discovery says now.
    pub(crate) fn update(
        &mut self,
        instance: &Arc<Instance>,
        warm_up: Duration,
        now: Instant,
    ) -> Vec<Change> {
        let before = Arc::clone(&self.instance);
        let mut changes = Vec::new();
        if self.hold.take().is_some() {
            self.published = None;
            changes.push(Change::new(
                "rejoined",
                "the registry names it again, nothing reset",
            ));
        }
        if before.weight != instance.weight {
            let cause = format!("from {} to {}", before.weight, instance.weight);
            changes.push(Change::new("weight_changed", cause));
        }
        if before.state != instance.state {
            self.registered_since = now;
            changes.push(match instance.state {
                InstanceState::Up => Change::new("up", "the registry says that it is up"),
                InstanceState::Draining => Change::new("draining", DRAINING),
                InstanceState::Down => Change::new("down", DOWN),
            });
        }
        if before.incarnation != instance.incarnation {
            let cause = format!("registered again (zxid {:#x})", instance.incarnation.czxid);
            let (change, released) = self.quarantine.connected(&self.endpoint, &cause);
            changes.extend(change);
            if let Some(released) = released {
                self.released(released, warm_up, now);
            }
        }
        if before != *instance {
            self.instance = Arc::clone(instance);
            self.published = None;
        }
        self.close(false);
        changes
    }

    /// What the operator said, or no longer says.
    pub(crate) fn drain(&mut self, since: Option<Instant>) {
        self.drained_since = since;
        self.close(false);
        self.published = None;
    }

    /// Sets whether it is closed to all traffic; one that is `gone` is.
    pub(crate) fn close(&self, gone: bool) {
        let closed = gone
            || self.instance.state != InstanceState::Up
            || self.instance.weight == 0
            || self.drained_since.is_some();
        self.endpoint.set_flags(flag::CLOSED, closed);
        self.endpoint.set_flags(flag::GONE, gone);
    }

    /// Keeps it although the registry no longer names it.
    pub(crate) fn begin_hold(&mut self, hold: Hold) {
        self.hold = Some(hold);
        self.close(false);
        self.published = None;
    }

    /// What shows that nobody is there to be held: a refused connection, or a failed health check.
    pub(crate) fn refutation(&self) -> Option<Arc<str>> {
        let health = self.health.as_ref().map(|health| &health.text);
        self.quarantine.refusal().or(health).cloned()
    }

    /// Why it is not to be held any longer.
    pub(crate) fn hold_verdict(
        &self,
        policy: &HoldPolicy,
        contact: &Contact,
        now: Instant,
    ) -> Option<String> {
        let hold = self.hold.as_ref()?;
        if let Some(refutation) = self.refutation() {
            return Some(refutation.to_string());
        }
        if self.drained_since.is_some() {
            return Some(DRAINED.to_owned());
        }
        hold.verdict(policy, contact, now)
    }

    /// Whether it is to finish what runs and get nothing new because somebody wants it so.
    pub(crate) fn is_draining(&self) -> bool {
        self.instance.state == InstanceState::Draining || self.drained_since.is_some()
    }

    /// Tells once that a drain is over.
    pub(crate) fn tell_idle(&mut self) -> Option<Change> {
        let is_idle = self.is_draining() && self.endpoint.is_idle();
        let was_idle = std::mem::replace(&mut self.is_idle, is_idle);
        (is_idle && !was_idle).then(|| Change::new("idle", "drained, nothing is in flight to it"))
    }

    pub(crate) fn set_health(&mut self, health: Health, now: Instant) -> Option<Change> {
        const ALL: u32 = flag::FAILING | flag::SILENT | flag::UNREACHABLE;
        let (flag, cause) = match health {
            Health::Healthy => {
                self.endpoint.set_flags(ALL, false);
                let before = self.health.take()?;
                self.published = None;
                return Some(Change::new(
                    "healthy",
                    format!("passes its health check after {}", before.text),
                ));
            }
            Health::Failing { cause } => (flag::FAILING, cause),
            Health::Silent { cause } => (flag::SILENT, cause),
            Health::Unreachable { cause } => (flag::UNREACHABLE, cause),
        };
        // The new flag first: at no time does it look fit.
        self.endpoint.set_flags(flag, true);
        self.endpoint.set_flags(ALL & !flag, false);
        let since = self.health.as_ref().map_or(now, |health| health.since);
        let is_news = self
            .health
            .as_ref()
            .is_none_or(|health| *health.text != *cause);
        if is_news {
            let text = cause.as_str().into();
            self.health = Some(Reason {
                state: EndpointState::Unhealthy,
                source: Source::Probe,
                text,
                since,
            });
            self.published = None;
        }
        is_news.then(|| Change::new("unhealthy", cause))
    }

    /// Draws the conclusions from the end of a quarantine: another process starts with a clean
    /// record, and cold.
    pub(crate) fn released(&mut self, released: Released, warm_up: Duration, now: Instant) {
        match released {
            Released::Same => {}
            Released::Another => {
                self.outlier.forgive(&self.endpoint);
                self.stall.forgive(&self.endpoint);
                self.begin_warm_up(warm_up, now);
            }
        }
    }

    /// Starts at a tenth of the weight, or where one is that has started before.
    pub(crate) fn begin_warm_up(&mut self, warm_up: Duration, since: Instant) {
        if !warm_up.is_zero() {
            self.warming_since = Some(since);
            self.tenths = 1;
        }
    }

    /// Warms by steps of a tenth.
    pub(crate) fn warm(&mut self, warm_up: Duration, now: Instant) -> Option<Change> {
        let since = self.warming_since?;
        let passed = now.saturating_duration_since(since);
        if passed >= warm_up {
            self.warming_since = None;
            self.tenths = WARM;
            return Some(Change::new(
                "warm",
                format!("takes its full share after {warm_up:?}"),
            ));
        }
        let ninths = 9 * passed.as_nanos() / warm_up.as_nanos();
        self.tenths =
            1 + u32::try_from(ninths).expect("less than nine, for less than the whole has passed");
        None
    }

    /// What is published of it is not true any more.
    pub(crate) fn touch(&mut self) {
        self.published = None;
    }

    /// Whether a view must be published for it.
    pub(crate) fn is_news(&self) -> bool {
        self.published != Some((self.endpoint.flags(), self.tenths))
    }

    /// What a view shows of it, with its grade as it is from now on.
    pub(crate) fn publish(&mut self) -> (Member, Grade) {
        // Read once, for requests may set a flag at any moment.
        let flags = self.endpoint.flags();
        self.published = Some((flags, self.tenths));
        let member = Member {
            endpoint: Arc::clone(&self.endpoint),
            instance: Arc::clone(&self.instance),
            warmth_tenths: self.tenths,
            reasons: self.reasons().collect(),
            known_since: self.known_since,
        };
        (member, Grade::of(flags))
    }

    /// Whether the next tick may find something new about it, also when no request has touched it
    /// since this one.
    pub(crate) fn is_restless(&self, policy: &OutlierPolicy) -> bool {
        self.endpoint.is_unfit()
            || !self.endpoint.is_idle()
            || self.is_draining()
            || self.hold.is_some()
            || self.warming_since.is_some()
            || self.quarantine.is_on()
            || self.stall.is_restless()
            || self.outlier.is_restless()
            || self.outlier.is_due(&self.endpoint, policy)
            || self.is_news()
    }

    fn reasons(&self) -> impl Iterator<Item = Reason> {
        let reason = |state, source, text: &str, since| Reason {
            state,
            source,
            text: text.into(),
            since,
        };
        let registry = match self.instance.state {
            InstanceState::Up => None,
            InstanceState::Draining => Some((EndpointState::Draining, DRAINING)),
            InstanceState::Down => Some((EndpointState::Unhealthy, DOWN)),
        };
        let weightless =
            (self.instance.weight == 0).then_some((EndpointState::Draining, "its weight is 0"));
        let warming = self.warming_since.map(|since| {
            let text = format!("takes {} tenths of its share", self.tenths);
            reason(EndpointState::Warming, Source::Registry, &text, since)
        });
        let said = registry.into_iter().chain(weightless);
        let hold = self.hold.as_ref().map(Hold::reason);
        let drained = self
            .drained_since
            .map(|since| reason(EndpointState::Draining, Source::Operator, DRAINED, since));
        said.map(move |(state, text)| reason(state, Source::Registry, text, self.registered_since))
            .chain(drained)
            .chain(self.quarantine.reason())
            .chain(self.health.clone())
            .chain(self.stall.reason())
            .chain(self.outlier.reason())
            .chain(hold)
            .chain(warming)
    }
}

const DRAINING: &str = "the registry says that it is draining";
const DOWN: &str = "the registry says that it is out of service";
const DRAINED: &str = "drained by the operator";
