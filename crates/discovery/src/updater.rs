//! The writing half: keeps endpoints while their incarnation lives, weighs the evidence about
//! them, and publishes views.
//!
//! Discovery says who exists ([`Updater::apply`]); probes ([`Updater::set_health`],
//! [`Updater::connected`], [`Updater::refused`], [`Updater::spoke`]) and traffic (through the
//! endpoints' own counters, looked at by [`Updater::tick`]) say who is fit; the operator says who
//! may ([`Updater::set_drained`]). None overrules another: an endpoint is picked when nobody
//! objects. Only when discovery stops naming an endpoint under doubtful circumstances is it held
//! until probes, time or the operator tell.
//!
//! Work is in proportion to what changes: a snapshot is compared with the one before where they are not
//! shared, and a tick looks at endpoints that had requests and at those that are restless, which is
//! all of which time or a request can make something else.

mod entry;
mod hold;
mod listing;
mod membership;
mod outlier;
mod quarantine;
mod roll;
mod seats;
mod stall;
mod transition;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::balance::Rotation;
use crate::balance::slots::Place;
use crate::balancer::Shared;
use crate::courtesy::{FEW, Turn, give_way_after};
use crate::endpoint::{Endpoint, EndpointKey, Grade, nanos};
use crate::policy::{Balance, Policy};
use crate::snapshot::{Instance, InstanceId, Instances};
use crate::view::{Shadowed, View};
use entry::Entry;
use hold::{Contact, WINDOW};
use listing::Listing;
use roll::{Roll, Tally};
use seats::Seats;
use stall::LatestAnswers;
use transition::Change;
pub use transition::Transition;

/// Writes what the [`Balancer`](crate::Balancer)s of one service read. There is exactly one.
#[derive(Debug)]
pub struct Updater {
    policy: Policy,
    shared: Arc<Shared>,
    contact: Contact,
    revision: u64,
    /// The wall clock at an instant, for ages of registrations.
    clock: (Instant, SystemTime),
    /// One for each address: those that are named, and those that are held.
    entries: HashMap<InstanceId, Entry>,
    /// Under which id each address is found in `entries`.
    addresses: HashMap<SocketAddr, InstanceId>,
    /// Those of `entries` that the next tick must look at: all that may become news without a
    /// request, and all that are news.
    restless: BTreeSet<InstanceId>,
    /// Who had requests.
    seats: Seats,
    answers: LatestAnswers,
    /// What the next view is made from.
    roll: Roll,
    /// Grows when endpoints come or go.
    membership: u64,
    /// The last of them.
    moves: VecDeque<Move>,
    /// The last snapshot's.
    instances: Instances,
    listing: Listing,
    shadowed: Arc<[Shadowed]>,
    /// Nodes of the last snapshot that are no instances, and why.
    skipped: Arc<BTreeMap<String, String>>,
    /// Those that left a moment ago.
    departed: BTreeMap<SocketAddr, Departed>,
    /// Instances that the operator drained; known or not, for an instance that restarts stays
    /// drained.
    drained: BTreeMap<InstanceId, Drain>,
    /// Whether there were any instances yet; the first ones are not new.
    has_begun: bool,
    is_dirty: bool,
    /// The next view is not made before.
    view_due: Option<Instant>,
    /// The table for keys is not made anew before.
    table_due: Option<Instant>,
}

/// An endpoint that left. It is the same if it is back within [`WINDOW`]: Curator deletes and makes
/// its nodes anew on every reconnect.
#[derive(Debug)]
struct Departed {
    entry: Entry,
    left: Instant,
    /// It left alone; if many follow, it is one of them.
    is_doubtful: bool,
}

/// The operator's word about an instance.
#[derive(Debug)]
struct Drain {
    since: Instant,
    address: SocketAddr,
}

/// What a health check finds. The cause is shown to people: "status 500".
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It passes.
    Healthy,
    /// It answers, but wrongly.
    Failing {
        /// How.
        cause: String,
    },
    /// It accepts connections, but does not answer in time.
    Silent {
        /// How.
        cause: String,
    },
    /// It cannot be connected to.
    Unreachable {
        /// How.
        cause: String,
    },
}

/// What should be found out about an endpoint now, instead of at the next health check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    /// Whether it accepts connections.
    Connects,
    /// Whether it says anything at all, if only an error.
    Speaks,
    /// Whether it still accepts connections, though the registry no longer names it. To be asked
    /// every second or so for as long as it is held.
    Held,
}

/// An endpoint came or went.
#[derive(Debug, Clone)]
pub enum Move {
    /// It is one of them now.
    Came(Arc<Endpoint>),
    /// It no longer is.
    Went(EndpointKey),
}

/// Moves that are remembered. Whoever missed more looks at all endpoints.
const MOVES_MAX: usize = 1024;

/// The instance is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no such instance")]
pub struct UnknownInstance;

impl Updater {
    pub(crate) fn new(policy: Policy, shared: Arc<Shared>) -> Self {
        Self {
            policy,
            shared,
            contact: Contact::none(),
            revision: 0,
            clock: (Instant::now(), SystemTime::now()),
            entries: HashMap::new(),
            addresses: HashMap::new(),
            restless: BTreeSet::new(),
            seats: Seats::default(),
            answers: LatestAnswers::default(),
            roll: Roll::default(),
            membership: 0,
            moves: VecDeque::new(),
            instances: Instances::default(),
            listing: Listing::default(),
            shadowed: Arc::default(),
            skipped: Arc::default(),
            departed: BTreeMap::new(),
            drained: BTreeMap::new(),
            has_begun: false,
            is_dirty: false,
            view_due: None,
            table_due: None,
        }
    }

    /// Resolves when a request has changed something that [`tick`](Self::tick) should look at
    /// now. Wake-ups do not add up. Cancel-safe.
    pub async fn woken(&self) {
        self.shared.signal.wake.notified().await;
    }

    /// Takes in a new policy; nothing that is known about endpoints is lost.
    pub fn set_policy(&mut self, policy: Policy, now: Instant) -> Vec<Transition> {
        self.policy = policy;
        self.shared.signal.set_policy(&policy);
        for (id, entry) in &mut self.entries {
            entry
                .outlier
                .apply_policy(&entry.endpoint, &policy.outlier, now);
            // Weights count or do not.
            entry.touch();
            self.restless.insert(id.clone());
        }
        self.is_dirty = true;
        self.view_due = None;
        self.tick(now)
    }

    /// The operator drains an instance, or no longer does. It stays drained when it restarts. One
    /// that is held is dropped.
    pub fn set_drained(
        &mut self,
        id: &InstanceId,
        drained: bool,
        now: Instant,
    ) -> Result<Vec<Transition>, UnknownInstance> {
        let entry = self.entries.get_mut(id);
        let address = match (&entry, self.drained.get(id)) {
            (Some(entry), _) => entry.instance.address,
            (None, Some(drain)) => drain.address,
            (None, None) => return Err(UnknownInstance),
        };
        if drained == self.drained.contains_key(id) {
            return Ok(Vec::new());
        }
        let change = if drained {
            let since = now;
            self.drained.insert(id.clone(), Drain { since, address });
            Change::new("drained", "by the operator")
        } else {
            self.drained.remove(id);
            Change::new("undrained", "by the operator")
        };
        if let Some(entry) = entry {
            entry.drain(drained.then_some(now));
            self.restless.insert(id.clone());
        }
        self.view_due = None;
        let mut transitions = vec![change.of(id, now)];
        transitions.extend(self.tick(now));
        Ok(transitions)
    }

    /// The operator drops a held instance: it is gone until the registry names it again. Nothing
    /// happens to one that the registry names.
    pub fn drop_held(
        &mut self,
        id: &InstanceId,
        now: Instant,
    ) -> Result<Vec<Transition>, UnknownInstance> {
        let entry = self.entries.get(id).ok_or(UnknownInstance)?;
        if entry.hold.is_none() {
            return Ok(Vec::new());
        }
        self.view_due = None;
        let mut transitions = self.end_hold(id, "dropped by the operator", now);
        transitions.extend(self.tick(now));
        Ok(transitions)
    }

    /// Takes in what a health check finds, after counting it against fall and rise.
    pub fn set_health(
        &mut self,
        endpoint: &Endpoint,
        health: Health,
        now: Instant,
    ) -> Vec<Transition> {
        self.weigh(endpoint, now, |entry, _| {
            entry.set_health(health, now).into_iter().collect()
        })
    }

    /// A probe connected to the endpoint: lifts its quarantine. If nobody had listened there at
    /// some time since the quarantine began, another process does now, and everything that spoke
    /// against the former one is forgotten, but for the health check's verdict.
    pub fn connected(&mut self, endpoint: &Endpoint, now: Instant) -> Vec<Transition> {
        self.weigh(endpoint, now, |entry, policy| {
            if let Some(hold) = &mut entry.hold {
                hold.connected();
            }
            // What requests have done so far comes first.
            let (so_far, lifted) = entry.quarantine.tick(&entry.endpoint, now);
            let (change, released) = entry
                .quarantine
                .connected(&entry.endpoint, "a probe connected");
            for released in [lifted, released].into_iter().flatten() {
                entry.released(released, policy.warm_up, now);
            }
            so_far.into_iter().chain(change).collect()
        })
    }

    /// A probe was refused, or found no way to the host: puts the endpoint into quarantine.
    pub fn refused(&mut self, endpoint: &Endpoint, cause: &str, now: Instant) -> Vec<Transition> {
        self.weigh(endpoint, now, |entry, _| {
            entry
                .quarantine
                .refused(&entry.endpoint, cause, now)
                .into_iter()
                .collect()
        })
    }

    /// A probe did not connect in time. That counts against an endpoint that is held, and means
    /// nothing otherwise: the health check has its own rules.
    pub fn unanswered(&mut self, endpoint: &Endpoint, now: Instant) -> Vec<Transition> {
        let entry = self.entry_of(endpoint);
        let Some(hold) = entry.and_then(|entry| entry.hold.as_mut()) else {
            return Vec::new();
        };
        hold.unanswered();
        self.tick(now)
    }

    /// A probe got a byte from the endpoint, be it an error: it is not frozen.
    pub fn spoke(&mut self, endpoint: &Endpoint, now: Instant) -> Vec<Transition> {
        self.weigh(endpoint, now, |entry, _| {
            entry
                .stall
                .spoke(&entry.endpoint, now)
                .into_iter()
                .collect()
        })
    }

    /// The endpoints that a probe should look at now, and every so often until it clears them.
    pub fn doubts(&self) -> impl Iterator<Item = (&Arc<Endpoint>, Doubt)> {
        let noticed = self.seats.noticed().filter(|endpoint| endpoint.is_unfit());
        let noticed = noticed
            .filter_map(|endpoint| self.addresses.get(&endpoint.address()))
            .filter(|id| !self.restless.contains(*id));
        let ids = self.restless.iter().chain(noticed);
        let entries = ids.filter_map(|id| self.entries.get(id));
        entries.filter_map(|entry| {
            let doubt = match entry.endpoint.grade() {
                Grade::Dead => Doubt::Connects,
                Grade::Silent if entry.stall.is_stalled() => Doubt::Speaks,
                Grade::Closed => return None,
                // To see whether it goes away and comes back as another process.
                _ if entry.outlier.is_ejected() => Doubt::Connects,
                _ if entry.hold.is_some() => Doubt::Held,
                Grade::Fit | Grade::Failing | Grade::Silent => return None,
            };
            Some((&entry.endpoint, doubt))
        })
    }

    /// The endpoints of the current snapshot, and those that are held; in no order.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.entries.values().map(|entry| &entry.endpoint)
    }

    /// Grows by one whenever an endpoint comes to [`endpoints`](Self::endpoints) or goes from there.
    pub fn membership(&self) -> u64 {
        self.membership
    }

    /// Who came and went since the membership was this, in that order; `None` if that is too long
    /// ago to be remembered.
    pub fn moves_since(&self, membership: u64) -> Option<impl Iterator<Item = &Move>> {
        let missed = usize::try_from(self.membership.checked_sub(membership)?).ok()?;
        let known = self.moves.len().checked_sub(missed)?;
        Some(self.moves.range(known..))
    }

    /// The instances that the registry or the operator drains, and to which nothing is in flight
    /// from any thread, nor will be while they are drained: what a drain is acknowledged by. When
    /// the last request ends, the updater is [woken](Self::woken).
    pub fn drained_idle(&self) -> impl Iterator<Item = &Arc<Instance>> {
        // Whoever drains is restless.
        let idle = self
            .restless
            .iter()
            .filter_map(|id| self.entries.get(id))
            .filter(|entry| entry.is_draining() && entry.endpoint.is_idle());
        idle.map(|entry| &entry.instance)
    }

    /// Looks at what requests and time have done, and publishes a view if that changes anything.
    /// To be called every 100 ms or so, and when [woken](Self::woken).
    ///
    /// With more than a thousand endpoints a view that follows closely on another one waits for up to
    /// 100 ms, unless it is the policy, the operator or the status that has changed. Whoever leaves or
    /// is found unfit is not picked meanwhile, for picks look at the endpoints themselves.
    pub fn tick(&mut self, now: Instant) -> Vec<Transition> {
        self.look(now);
        let policy = self.policy;
        let mut transitions = Vec::new();
        let (mut is_due, mut is_held, mut is_news) = (false, false, false);
        for id in &self.restless {
            let Some(entry) = self.entries.get_mut(id) else {
                continue;
            };
            let was_quarantined = entry.quarantine.is_on();
            let (quarantine, released) = entry.quarantine.tick(&entry.endpoint, now);
            if let Some(released) = released {
                entry.released(released, policy.warm_up, now);
            }
            let idle = entry.tell_idle();
            let peers_answered = self.answers.by_others(&entry.endpoint);
            let stall = entry
                .stall
                .tick(&entry.endpoint, &policy.stall, peers_answered, now);
            let outlier = entry.outlier.tick(&entry.endpoint, &policy.outlier, now);
            let warm = entry.warm(policy.warm_up, now);
            let changes = [quarantine, stall, outlier, warm, idle]
                .into_iter()
                .flatten();
            let before = transitions.len();
            transitions.extend(changes.map(|change| change.of(id, now)));
            if transitions.len() > before || entry.quarantine.is_on() != was_quarantined {
                entry.touch();
            }
            is_due |= entry.outlier.is_due(&entry.endpoint, &policy.outlier);
            is_held |= entry.hold.is_some();
            is_news |= entry.is_news();
        }
        if is_held {
            transitions.extend(self.end_holds(now));
        }
        if is_due {
            transitions.extend(self.eject(now));
        }
        self.departed.retain(|_, departed| {
            let is_back_in_time = now.saturating_duration_since(departed.left) <= WINDOW;
            if !is_back_in_time {
                self.seats.release(departed.entry.seat);
            }
            is_back_in_time
        });
        let is_table_due = self.table_due.is_some_and(|due| due <= now);
        let may_lag = self.view_due.is_some_and(|due| due > now);
        if (self.is_dirty || is_news || is_table_due) && !may_lag {
            give_way_after(self.entries.len());
            self.publish(now);
            self.view_due = view_pause(self.entries.len()).map(|pause| now + pause);
        }
        self.restless.retain(|id| {
            let entry = self.entries.get(id);
            entry.is_some_and(|entry| entry.is_restless(&policy.outlier))
        });
        transitions
    }

    /// Looks at the endpoints that had requests for those that are more than busy.
    fn look(&mut self, now: Instant) {
        let Self {
            policy,
            seats,
            answers,
            addresses,
            restless,
            ..
        } = self;
        let stamp = self.shared.signal.stamp(now);
        let silence_min = nanos(policy.stall.silence_min);
        let failures_max = policy.outlier.consecutive_failures;
        seats.look(|endpoint| {
            answers.take_in(endpoint);
            let is_silent = || {
                let since = endpoint.silent_since();
                since.is_some_and(|since| stamp.saturating_sub(since) > silence_min)
            };
            let fails = || failures_max > 0 && endpoint.failures_in_row() >= failures_max;
            if (endpoint.is_unfit() || fails() || is_silent())
                && let Some(id) = addresses.get(&endpoint.address())
                && !restless.contains(id)
            {
                restless.insert(id.clone());
            }
        });
    }

    /// Ejects those that are due, as far as the bounds allow.
    fn eject(&mut self, now: Instant) -> Vec<Transition> {
        let policy = self.policy.outlier;
        // As they are shown, but for the restless, who may be something else by now.
        let mut tally = self.roll.tally();
        let mut ejected = 0;
        for id in &self.restless {
            let Some(entry) = self.entries.get(id) else {
                continue;
            };
            if let Some(shown) = self.roll.grade(entry.seat) {
                tally.take(shown);
            }
            tally.add(entry.endpoint.grade());
            ejected += usize::from(entry.outlier.is_ejected());
        }
        let (open, mut fit) = (tally.open(), tally.of(Grade::Fit));
        let ejected_max = (open * usize::from(policy.ejected_percent_max) / 100).max(1);
        let mut transitions = Vec::new();
        for id in &self.restless {
            let Some(entry) = self.entries.get_mut(id) else {
                continue;
            };
            if ejected >= ejected_max || !entry.outlier.is_due(&entry.endpoint, &policy) {
                continue;
            }
            let was_fit = entry.endpoint.grade() == Grade::Fit;
            if was_fit && fit <= 1 {
                continue;
            }
            transitions.push(
                entry
                    .outlier
                    .eject(&entry.endpoint, &policy, now)
                    .of(id, now),
            );
            entry.touch();
            self.is_dirty = true;
            ejected += 1;
            fit -= usize::from(was_fit);
        }
        transitions
    }

    /// Applies `evidence` to an endpoint, unless it has left meanwhile.
    fn weigh(
        &mut self,
        endpoint: &Endpoint,
        now: Instant,
        evidence: impl FnOnce(&mut Entry, &Policy) -> Vec<Change>,
    ) -> Vec<Transition> {
        let policy = self.policy;
        let Some(entry) = self.entry_of(endpoint) else {
            return Vec::new();
        };
        let before = entry.quarantine.reason();
        let changes = evidence(entry, &policy);
        if !changes.is_empty() || entry.quarantine.reason() != before {
            entry.touch();
        }
        let id = entry.instance.id.clone();
        let is_news = entry.is_news();
        let mut transitions: Vec<Transition> = changes
            .into_iter()
            .map(|change| change.of(&id, now))
            .collect();
        self.restless.insert(id);
        if is_news {
            transitions.extend(self.tick(now));
        }
        transitions
    }

    /// What is known about an endpoint, unless it has left.
    fn entry_of(&mut self, endpoint: &Endpoint) -> Option<&mut Entry> {
        let id = self.addresses.get(&endpoint.address())?;
        let entry = self.entries.get_mut(id)?;
        (entry.endpoint.key() == endpoint.key()).then_some(entry)
    }

    fn publish(&mut self, now: Instant) {
        self.is_dirty = false;
        let mut turn = Turn::begin();
        for id in &self.restless {
            let Some(entry) = self.entries.get_mut(id).filter(|entry| entry.is_news()) else {
                continue;
            };
            let (member, grade) = entry.publish();
            let weight = match self.policy.balance {
                Balance::RoundRobin => 1,
                Balance::Random
                | Balance::WeightedRoundRobin
                | Balance::LeastRequest
                | Balance::PeakEwma
                | Balance::ConsistentHash
                | Balance::Maglev => u64::from(member.instance.weight),
            };
            let place = Place {
                seat: entry.seat,
                key: entry.endpoint.key(),
                weight: weight * u64::from(member.warmth_tenths),
            };
            self.roll.put(id, place, grade, member);
            turn.give_way();
        }
        let many = self.entries.len();
        give_way_after(many);
        self.roll.settle();
        give_way_after(many);
        let accepts = accepted(&self.roll.tally(), self.policy.panic_percent);
        let seats = self.roll.seats();
        let places = self.roll.up_to(accepts, &seats);
        give_way_after(many);
        let is_keyed = self.policy.balance.is_keyed();
        let open: Box<[Place]> = if is_keyed {
            self.roll.open()
        } else {
            Box::default()
        };
        let before = self.shared.view.load();
        let is_other = is_keyed && before.rotation.keyed_places() != Some(&*open);
        let may_lag = is_other && self.table_due.is_some_and(|due| due > now);
        if !may_lag {
            self.table_due = is_other.then(|| now + table_pause(open.len()));
        }
        let rotation = Rotation::new(
            self.policy.balance,
            self.roll.slots(),
            places,
            open,
            Some(&before.rotation),
            may_lag,
        );
        drop(before);
        give_way_after(many);
        let view = View {
            revision: self.revision,
            status: self.contact.status,
            status_since: self.contact.status_since,
            skipped: Arc::clone(&self.skipped),
            rotation,
            accepts,
            may_panic: self.policy.panic_percent > 0,
            members: self.roll.members().clone(),
            seats,
            slots: self.roll.slots().clone(),
            shadowed: Arc::clone(&self.shadowed),
        };
        let before = self.shared.view.swap(Arc::new(view));
        self.shared.published.notify_waiters();
        give_way_after(many);
        drop(before);
        give_way_after(many);
    }
}

/// How long a view is good for, though something else is known meanwhile. To make one costs some 100
/// nanoseconds for each endpoint, of which a 100th of a processor is spent on it at most: requests may
/// be waiting for that processor. Of few endpoints it is made at once.
fn view_pause(endpoints: usize) -> Option<Duration> {
    const PAUSE_EACH: Duration = Duration::from_micros(10);
    const PAUSE_LONGEST: Duration = Duration::from_millis(100);
    let endpoints = u32::try_from(endpoints).unwrap_or(u32::MAX);
    let pause = PAUSE_EACH.saturating_mul(endpoints).min(PAUSE_LONGEST);
    (endpoints as usize > FEW).then_some(pause)
}

/// How long a table for keys is good for, though others have come meanwhile: those that went are
/// passed over in any table. To make one costs 1 to 3 milliseconds, of which a 25th of a processor is
/// spent on it at most. Of few endpoints it is made at once.
fn table_pause(open: usize) -> Duration {
    const FEW: usize = 256;
    const PAUSE: Duration = Duration::from_millis(50);
    const PAUSE_EACH: Duration = Duration::from_micros(4);
    match u32::try_from(open) {
        _ if open <= FEW => Duration::ZERO,
        Ok(open) => PAUSE + PAUSE_EACH * open,
        Err(_) => Duration::from_secs(60),
    }
}

/// The worst grade to pick from: only the fit, unless these are so few that panic sets in.
fn accepted(tally: &Tally, panic_percent: u8) -> Grade {
    if tally.of(Grade::Fit) * 100 >= tally.open() * usize::from(panic_percent) {
        return Grade::Fit;
    }
    // Those that answer, however badly; if there are none, the next best.
    let is_there = |grade: &Grade| tally.of(*grade) > 0;
    let order = [Grade::Failing, Grade::Fit, Grade::Silent, Grade::Dead];
    order.into_iter().find(is_there).unwrap_or(Grade::Fit)
}
