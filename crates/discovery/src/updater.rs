//! The writing half: keeps endpoints while their incarnation lives, weighs the evidence about
//! them, and publishes views.
//!
//! Discovery says who exists ([`Updater::apply`]); probes ([`Updater::set_health`],
//! [`Updater::connected`], [`Updater::refused`], [`Updater::spoke`]) and traffic (through the
//! endpoints' own counters, looked at by [`Updater::tick`]) say who is fit; the operator says who
//! may ([`Updater::set_drained`]). None overrules another: an endpoint is picked when nobody
//! objects. Only when discovery stops naming an endpoint under doubtful circumstances is it held
//! until probes, time or the operator tell.

mod entry;
mod hold;
mod listing;
mod membership;
mod outlier;
mod quarantine;
mod stall;
mod transition;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crate::balance::{Rotation, Slot};
use crate::balancer::Shared;
use crate::endpoint::{Endpoint, Grade};
use crate::policy::{Balance, Policy};
use crate::snapshot::{Instance, InstanceId};
use crate::view::{Member, Shadowed, View};
use entry::{Entry, WARM};
use hold::{Contact, WINDOW};
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
    entries: BTreeMap<InstanceId, Entry>,
    /// Under which id each address is found in `entries`.
    addresses: HashMap<SocketAddr, InstanceId>,
    /// Grows when endpoints come or go.
    membership: u64,
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
            entries: BTreeMap::new(),
            addresses: HashMap::new(),
            membership: 0,
            shadowed: Arc::default(),
            skipped: Arc::default(),
            departed: BTreeMap::new(),
            drained: BTreeMap::new(),
            has_begun: false,
            is_dirty: false,
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
        for entry in self.entries.values_mut() {
            entry
                .outlier
                .apply_policy(&entry.endpoint, &policy.outlier, now);
        }
        self.is_dirty = true;
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
        }
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
        self.entries.values().filter_map(|entry| {
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

    /// The endpoints of the current snapshot, and those that are held.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.entries.values().map(|entry| &entry.endpoint)
    }

    /// Grows whenever [`endpoints`](Self::endpoints) has others than before.
    pub fn membership(&self) -> u64 {
        self.membership
    }

    /// The instances that the registry or the operator drains, and to which nothing is in flight
    /// from any thread, nor will be while they are drained: what a drain is acknowledged by. When
    /// the last request ends, the updater is [woken](Self::woken).
    pub fn drained_idle(&self) -> impl Iterator<Item = &Arc<Instance>> {
        let idle = self
            .entries
            .values()
            .filter(|entry| entry.is_draining() && entry.endpoint.is_idle());
        idle.map(|entry| &entry.instance)
    }

    /// Looks at what requests and time have done, and publishes a view if that changes anything.
    /// To be called every 100 ms or so, and when [woken](Self::woken).
    pub fn tick(&mut self, now: Instant) -> Vec<Transition> {
        let answers = LatestAnswers::of(self.entries.values().map(|entry| &*entry.endpoint));
        let policy = self.policy;
        let mut transitions = Vec::new();
        // One pass: with thousands of endpoints each costs more than what it does.
        let (mut is_due, mut is_held, mut is_news) = (false, false, false);
        for (id, entry) in &mut self.entries {
            let was_quarantined = entry.quarantine.is_on();
            let (quarantine, released) = entry.quarantine.tick(&entry.endpoint, now);
            if let Some(released) = released {
                entry.released(released, policy.warm_up, now);
            }
            let idle = entry.tell_idle();
            let peers_answered = answers.by_others(&entry.endpoint);
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
        self.departed
            .retain(|_, departed| now.saturating_duration_since(departed.left) <= WINDOW);
        if self.is_dirty || is_news {
            self.publish();
        }
        transitions
    }

    /// Ejects those that are due, as far as the bounds allow.
    fn eject(&mut self, now: Instant) -> Vec<Transition> {
        let policy = self.policy.outlier;
        let count = |grade: fn(Grade) -> bool| {
            self.entries
                .values()
                .filter(|entry| grade(entry.endpoint.grade()))
                .count()
        };
        let open = count(|grade| grade != Grade::Closed);
        let mut fit = count(|grade| grade == Grade::Fit);
        let mut ejected = self
            .entries
            .values()
            .filter(|entry| entry.outlier.is_ejected())
            .count();
        let ejected_max = (open * usize::from(policy.ejected_percent_max) / 100).max(1);
        let mut transitions = Vec::new();
        for (id, entry) in &mut self.entries {
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
        let mut transitions: Vec<Transition> = changes
            .into_iter()
            .map(|change| change.of(&entry.instance.id, now))
            .collect();
        if entry.is_news() {
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

    fn publish(&mut self) {
        self.is_dirty = false;
        let members: Box<[Member]> = self.entries.values_mut().map(Entry::publish).collect();
        // Each flag is read once, for requests may set one at any moment.
        let grades: Vec<Grade> = members
            .iter()
            .map(|member| member.endpoint.grade())
            .collect();
        let accepts = accepted(&grades, self.policy.panic_percent);
        let is_warming = members.iter().any(|member| member.warmth_tenths < WARM);
        let slot = |member: &Member| Slot {
            endpoint: Arc::clone(&member.endpoint),
            weight: match self.policy.balance {
                Balance::RoundRobin => 1,
                Balance::Random
                | Balance::WeightedRoundRobin
                | Balance::LeastRequest
                | Balance::PeakEwma
                | Balance::ConsistentHash
                | Balance::Maglev => u64::from(member.instance.weight),
            } * u64::from(if is_warming { member.warmth_tenths } else { 1 }),
        };
        let up_to = |worst: Grade| {
            let graded = members
                .iter()
                .zip(&grades)
                .filter(|(_, grade)| **grade <= worst);
            graded.map(|(member, _)| slot(member)).collect()
        };
        let before = self.shared.view.load();
        let open = if self.policy.balance.is_keyed() {
            up_to(Grade::Dead)
        } else {
            Box::default()
        };
        let rotation = Rotation::new(
            self.policy.balance,
            up_to(accepts),
            open,
            Some(&before.rotation),
        );
        self.shared.view.store(Arc::new(View {
            revision: self.revision,
            status: self.contact.status,
            status_since: self.contact.status_since,
            skipped: Arc::clone(&self.skipped),
            rotation,
            accepts,
            may_panic: self.policy.panic_percent > 0,
            members,
            shadowed: Arc::clone(&self.shadowed),
        }));
    }
}

/// The worst grade to pick from: only the fit, unless these are so few that panic sets in.
fn accepted(grades: &[Grade], panic_percent: u8) -> Grade {
    let open = || {
        grades
            .iter()
            .copied()
            .filter(|grade| *grade != Grade::Closed)
    };
    let fit = open().filter(|grade| *grade == Grade::Fit).count();
    if fit * 100 >= open().count() * usize::from(panic_percent) {
        return Grade::Fit;
    }
    let answering = open().filter(|grade| *grade <= Grade::Failing).max();
    answering.or_else(|| open().min()).unwrap_or(Grade::Fit)
}
