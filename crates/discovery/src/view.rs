//! What the balancer chooses from: all endpoints of a service at one moment, immutable but for the
//! endpoints' own counters and flags.

use std::collections::BTreeMap;
use std::ops::Index;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::balance::slots::{Slot, Slots};
use crate::balance::weights::Weights;
use crate::balance::{Chance, Rotation};
use crate::endpoint::{Endpoint, EndpointKey, Grade};
use crate::pick::NoEndpoint;
use crate::policy::Balance;
use crate::shared_map::SharedMap;
use crate::snapshot::{Instance, InstanceId, Status};

/// Whether and why not an endpoint is used; of several reasons the last in this order counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndpointState {
    /// Nothing speaks against it.
    Fit,
    /// Fit, with a share of traffic that still grows.
    Warming,
    /// The registry no longer names it, but it is kept while it accepts connections.
    Held,
    /// Its requests failed in a row.
    Ejected,
    /// Requests wait for it and no byte comes.
    Stalled,
    /// Its health check fails, or the registry says that it is down.
    Unhealthy,
    /// It refused or dropped a connection and has not accepted one since.
    Quarantined,
    /// Takes no new requests because the registry or the operator says so, or its weight is 0.
    Draining,
}

impl EndpointState {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Fit,
        Self::Warming,
        Self::Held,
        Self::Ejected,
        Self::Stalled,
        Self::Unhealthy,
        Self::Quarantined,
        Self::Draining,
    ];

    /// Its own name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fit => "fit",
            Self::Warming => "warming",
            Self::Held => "held",
            Self::Draining => "draining",
            Self::Ejected => "ejected",
            Self::Stalled => "stalled",
            Self::Unhealthy => "unhealthy",
            Self::Quarantined => "quarantined",
        }
    }

    /// Its name in the admin API and in metrics, which know fewer: a stalled endpoint is
    /// `ejected` (its traffic says so), a quarantined one `unhealthy` (it does not accept
    /// connections). The reasons tell the difference.
    pub const fn public_name(self) -> &'static str {
        match self {
            Self::Stalled => Self::Ejected.name(),
            Self::Quarantined => Self::Unhealthy.name(),
            Self::Fit
            | Self::Warming
            | Self::Held
            | Self::Draining
            | Self::Ejected
            | Self::Unhealthy => self.name(),
        }
    }
}

/// Who says something about an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// The registry, or the file that lists it.
    Registry,
    /// A health check, or another probe.
    Probe,
    /// Requests.
    Traffic,
    /// The operator.
    Operator,
}

/// One thing that speaks against an endpoint, or that there is to know about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// What it makes of the endpoint.
    pub state: EndpointState,
    /// Who says so.
    pub source: Source,
    /// In words: "connection refused", "health check: status 500".
    pub text: Arc<str>,
    /// Since when.
    pub since: Instant,
}

/// One endpoint of a view.
#[derive(Debug, Clone)]
pub struct Member {
    /// The live object.
    pub endpoint: Arc<Endpoint>,
    /// What discovery says about it.
    pub instance: Arc<Instance>,
    /// Its share of the traffic in tenths of its weight: 1 to 10, less than 10 while it warms up.
    pub warmth_tenths: u32,
    /// Everything that is known to speak against it.
    pub reasons: Arc<[Reason]>,
    /// Since when it is known here, under whatever id.
    pub known_since: Instant,
}

impl Member {
    /// What it is, by the reason that weighs most.
    pub fn state(&self) -> EndpointState {
        let worst = self.worst().map(|reason| reason.state);
        worst.unwrap_or(EndpointState::Fit)
    }

    /// The reason that weighs most; of several alike the first.
    pub fn worst(&self) -> Option<&Reason> {
        // Of equals `max_by_key` takes the last.
        self.reasons.iter().rev().max_by_key(|reason| reason.state)
    }

    /// Requests in flight.
    pub fn in_flight(&self) -> u32 {
        self.endpoint.in_flight()
    }

    /// Picks ever made of it.
    pub fn requests(&self) -> u64 {
        self.endpoint.requests()
    }

    /// Picks that failed.
    pub fn failures(&self) -> u64 {
        self.endpoint.failures()
    }

    /// Its usual time until the response head.
    pub fn latency(&self) -> Option<Duration> {
        self.endpoint.latency()
    }
}

/// The endpoints of a view, in the order of their ids. Views that follow one another share those that
/// did not change.
#[derive(Debug, Clone, Default)]
pub struct Members(SharedMap<InstanceId, Arc<Member>>);

impl Members {
    /// All of them.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Member> + Clone {
        self.0.values().map(Arc::as_ref)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The one with an id.
    pub fn get(&self, id: &str) -> Option<&Member> {
        self.0.get(id).map(Arc::as_ref)
    }

    pub(crate) fn put(&mut self, id: &InstanceId, member: Member) {
        self.0.insert(id.clone(), Arc::new(member));
    }

    pub(crate) fn remove(&mut self, id: &InstanceId) {
        self.0.remove(id);
    }
}

impl Index<usize> for Members {
    type Output = Member;

    /// # Panics
    /// If there are not so many.
    fn index(&self, position: usize) -> &Member {
        let mut members = self.0.values();
        members.nth(position).expect("a member at the position")
    }
}

/// An instance that is registered at the address of another one, which is newer: a leftover of the
/// process that listened there before. It takes no part in balancing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shadowed {
    /// What discovery says about it.
    pub instance: Arc<Instance>,
    /// Who stands for the address.
    pub by: InstanceId,
}

/// All endpoints of a service at one moment.
#[derive(Debug)]
pub struct View {
    pub(crate) revision: u64,
    pub(crate) status: Status,
    pub(crate) status_since: Option<Instant>,
    pub(crate) skipped: Arc<BTreeMap<String, String>>,
    pub(crate) members: Members,
    /// Of all members, in their order.
    pub(crate) seats: Arc<[u32]>,
    pub(crate) slots: Slots,
    pub(crate) shadowed: Arc<[Shadowed]>,
    pub(crate) rotation: Rotation,
    /// The worst grade in the rotation.
    pub(crate) accepts: Grade,
    /// Whether endpoints that are not fit may be used for lack of better ones.
    pub(crate) may_panic: bool,
}

impl View {
    /// The view before anything is known.
    pub(crate) fn pending() -> Self {
        Self {
            revision: 0,
            status: Status::Pending,
            status_since: None,
            skipped: Arc::default(),
            members: Members::default(),
            seats: Arc::default(),
            slots: Slots::default(),
            shadowed: Arc::default(),
            rotation: Rotation::new(
                Balance::Random,
                &Slots::default(),
                (Arc::default(), Weights::Each(Vec::new())),
                Box::default(),
                None,
                false,
            ),
            accepts: Grade::Fit,
            may_panic: false,
        }
    }

    /// The revision of the snapshot it was made from.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The status of that snapshot.
    pub fn status(&self) -> Status {
        self.status
    }

    /// Since when it has had this status here; `None` before the first snapshot.
    pub fn status_since(&self) -> Option<Instant> {
        self.status_since
    }

    /// Registered nodes that could not be read as instances, by node name, and why.
    pub fn skipped(&self) -> &BTreeMap<String, String> {
        &self.skipped
    }

    /// All endpoints, in the order of their ids; no address occurs twice.
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// Instances whose address a newer one has, in the order of their ids.
    pub fn shadowed(&self) -> &[Shadowed] {
        &self.shadowed
    }

    /// Whether requests are sent to this one of its members at this moment: it is fit, or used for
    /// want of better ones.
    pub fn uses(&self, member: &Member) -> bool {
        let grade = member.endpoint.grade();
        grade != Grade::Closed && grade <= self.accepts
    }

    /// Whether so few endpoints are fit that others are used as well.
    pub fn is_panic(&self) -> bool {
        self.accepts > Grade::Fit
    }

    pub(crate) fn choose(
        &self,
        chance: &Chance,
        key: Option<u64>,
        avoid: &[EndpointKey],
        stamp: u64,
    ) -> Result<&Arc<Endpoint>, NoEndpoint> {
        if self.accepts <= Grade::Failing {
            let usable = |endpoint: &Endpoint| {
                endpoint.grade() <= self.accepts && !avoid.contains(&endpoint.key())
            };
            if let Some(slot) = self.rotation.choose(chance, key, stamp, usable) {
                return Ok(&slot.endpoint);
            }
        }
        self.least_bad(key.unwrap_or_else(|| chance.dice.roll()), avoid)
    }

    /// Looks at all endpoints, from a place that depends on `hint` on, for the first of the best.
    fn least_bad(&self, hint: u64, avoid: &[EndpointKey]) -> Result<&Arc<Endpoint>, NoEndpoint> {
        let (before, after) = self
            .seats
            .split_at(crate::dice::index_below(hint, self.seats.len()));
        let mut best = None;
        let slots = after.iter().chain(before);
        let slots = slots.filter_map(|seat| self.slots.get(*seat));
        for endpoint in slots.map(|slot| &slot.endpoint) {
            let grade = match endpoint.grade() {
                Grade::Closed => continue,
                grade if grade > Grade::Fit && !self.may_panic => continue,
                grade if grade <= self.accepts && grade <= Grade::Failing => Grade::Fit,
                grade => grade,
            };
            let rank = (grade, avoid.contains(&endpoint.key()));
            if best.is_none_or(|(best, _)| rank < best) {
                best = Some((rank, endpoint));
            }
            if rank == (Grade::Fit, false) {
                break;
            }
        }
        best.map(|(_, endpoint)| endpoint)
            .ok_or_else(|| self.nothing())
    }

    /// Why a call should not be made now. Mostly the first member that is looked at tells.
    pub(crate) fn obstacle(&self) -> Option<NoEndpoint> {
        let mut slots = self.seats.iter().filter_map(|seat| self.slots.get(*seat));
        let accepts = |slot: &Slot| slot.endpoint.grade() < Grade::Dead;
        (!slots.any(accepts)).then(|| self.nothing())
    }

    fn nothing(&self) -> NoEndpoint {
        match self.status {
            _ if !self.members.is_empty() => NoEndpoint::AllUnfit,
            Status::Pending => NoEndpoint::Pending,
            Status::Absent => NoEndpoint::Absent,
            Status::Live | Status::Stale { .. } => NoEndpoint::Empty,
        }
    }
}
