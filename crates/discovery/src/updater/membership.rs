//! Who exists: from one snapshot to the next, endpoints join, leave, are held, and come back.
//!
//! An endpoint belongs to an address. It lives on when the instance there registers again, under
//! whatever id, as long as the address was named or held meanwhile, or left less than a second
//! ago.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::courtesy::{Turn, give_way_after};
use crate::endpoint::{Endpoint, Grade};
use crate::shared_map::Difference;
use crate::snapshot::{Instance, InstanceId, Snapshot};
use crate::updater::entry::Entry;
use crate::updater::hold::{Hold, WINDOW};
use crate::updater::listing::Touched;
use crate::updater::transition::{Change, Transition};
use crate::updater::{Departed, MOVES_MAX, Move, Updater};

/// How old new endpoints of a snapshot are.
struct Ages {
    /// Nothing was missed since the snapshot before, so what is new has just come.
    goes_on: bool,
    /// The registry's clock, in milliseconds since 1970: ours, unless something was registered
    /// later than that. If ours is ahead, the young are taken for older by as much, and miss a
    /// part of their warm-up; nothing worse.
    registry_ms: i64,
}

impl Ages {
    /// How long ago this one was registered; `None` when it is old enough for anything.
    fn of(&self, instance: &Instance, has_begun: bool) -> Option<Duration> {
        match instance.incarnation.ctime_ms {
            _ if self.goes_on => has_begun.then_some(Duration::ZERO),
            0 => has_begun.then_some(Duration::ZERO),
            ctime_ms => {
                let age_ms = self.registry_ms.saturating_sub(ctime_ms);
                Some(Duration::from_millis(u64::try_from(age_ms).unwrap_or(0)))
            }
        }
    }
}

/// What a snapshot does to the endpoints that there are.
#[derive(Default)]
struct Moves {
    /// Their ids are named at other addresses; with the cause.
    superseded: Vec<(InstanceId, String)>,
    /// Their addresses are named under other ids: from, to.
    renamed: Vec<(InstanceId, InstanceId)>,
    /// Neither is named, and they are not held yet. In the order of ids.
    missing: Vec<InstanceId>,
}

impl Updater {
    /// Takes in a new snapshot and publishes the view it makes. Endpoints keep counters, health
    /// and running requests through changes of weight, metadata, state and id.
    pub fn apply(&mut self, snapshot: &Snapshot, now: Instant) -> Vec<Transition> {
        let was_file = self.contact.is_file();
        let status = self.contact.status;
        let goes_on = self.contact.update(snapshot, now);
        if status != self.contact.status {
            self.view_due = None;
        }
        // Others, too, have worked on the way of a snapshot here.
        let many = self.entries.len();
        give_way_after(many);
        self.revision = snapshot.revision;
        self.skipped = Arc::clone(&snapshot.skipped);
        let before = std::mem::replace(&mut self.instances, snapshot.instances.clone());
        let changes: Vec<_> = before.changes(&snapshot.instances).collect();
        let touched = self.listing.take_in(&changes);
        let ids = self.touched_ids(&changes, &touched);
        let ages = self.ages(snapshot, goes_on, now);
        let mut transitions = Vec::new();
        give_way_after(many);
        let mut turn = Turn::begin();
        let Moves {
            superseded,
            renamed,
            missing,
        } = self.moves(snapshot, &ids);
        for (id, cause) in superseded {
            transitions.extend(self.leave(&id, &cause, false, now));
            turn.give_way();
        }
        self.rename(renamed, &mut transitions, now);
        for instance in self.update(&touched, &mut transitions, now) {
            let changes = self.join(&instance, &ages, now).into_iter();
            transitions.extend(changes.map(|change| change.of(&instance.id, now)));
            turn.give_way();
        }
        let is_file = was_file || self.contact.is_file();
        self.judge(missing, is_file, snapshot, &mut transitions, now);
        if touched.is_shadow {
            self.show_shadowed(&mut transitions, now);
        }
        self.has_begun |= !self.entries.is_empty();
        self.is_dirty = true;
        give_way_after(many);
        transitions.extend(self.tick(now));
        transitions
    }

    fn ages(&self, snapshot: &Snapshot, goes_on: bool, now: Instant) -> Ages {
        let (then, wall) = self.clock;
        let wall = wall + now.saturating_duration_since(then);
        let ours = wall
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_millis());
        let ours = i64::try_from(ours).unwrap_or(i64::MAX);
        let instances = (!goes_on).then(|| snapshot.instances.values());
        let registered = instances.into_iter().flatten();
        let registered = registered.map(|instance| instance.incarnation.ctime_ms);
        Ages {
            goes_on,
            registry_ms: registered.fold(ours, i64::max),
        }
    }

    /// Whose endpoints may be concerned. The others are named as before, or held as before.
    fn touched_ids(
        &self,
        changes: &[Difference<'_, InstanceId, Arc<Instance>>],
        touched: &Touched,
    ) -> BTreeSet<InstanceId> {
        let named = changes.iter().map(|change| change.key);
        let addressed = touched
            .addresses
            .iter()
            .filter_map(|address| self.addresses.get(address));
        let held = self.held().map(|(id, _)| id);
        let held = held.filter(|_| self.contact.is_file());
        named.chain(addressed).chain(held).cloned().collect()
    }

    /// All that are held.
    fn held(&self) -> impl Iterator<Item = (&InstanceId, &Hold)> {
        // Whoever is held is restless.
        self.restless.iter().filter_map(|id| {
            let hold = self.entries.get(id)?.hold.as_ref()?;
            Some((id, hold))
        })
    }

    /// What a snapshot does to the endpoints that there are.
    fn moves(&self, snapshot: &Snapshot, ids: &BTreeSet<InstanceId>) -> Moves {
        let mut moves = Moves::default();
        for id in ids {
            let Some(entry) = self.entries.get(id) else {
                continue;
            };
            if let Some(instance) = self.listing.at(&entry.instance.address) {
                if instance.id != *id {
                    moves.renamed.push((id.clone(), instance.id.clone()));
                }
                continue;
            }
            match snapshot.instances.get(id) {
                Some(elsewhere) => {
                    let cause = format!("moved to {}", elsewhere.address);
                    moves.superseded.push((id.clone(), cause));
                }
                None if entry.hold.is_none() || self.contact.is_file() => {
                    moves.missing.push(id.clone());
                }
                None => {}
            }
        }
        moves
    }

    /// Tells the endpoints that there are what the snapshot says about them; returns the instances
    /// without one. All in the order of ids.
    fn update(
        &mut self,
        touched: &Touched,
        transitions: &mut Vec<Transition>,
        now: Instant,
    ) -> Vec<Arc<Instance>> {
        let addresses = touched.addresses.iter();
        let mut stand: Vec<Arc<Instance>> = addresses
            .filter_map(|address| self.listing.at(address).cloned())
            .collect();
        stand.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        stand.retain(|instance| {
            let Some(entry) = self.entries.get_mut(&instance.id) else {
                return true;
            };
            let changes = entry.update(instance, self.policy.warm_up, now);
            transitions.extend(
                changes
                    .into_iter()
                    .map(|change| change.of(&instance.id, now)),
            );
            self.restless.insert(instance.id.clone());
            false
        });
        stand
    }

    /// Files endpoints under the ids that stand for their addresses now.
    fn rename(
        &mut self,
        renamed: Vec<(InstanceId, InstanceId)>,
        transitions: &mut Vec<Transition>,
        now: Instant,
    ) {
        // All are taken out before one is put back, for two may have changed places.
        let taken: Vec<(InstanceId, InstanceId, Entry)> = renamed
            .into_iter()
            .filter_map(|(before, after)| {
                let mut entry = self.entries.remove(&before)?;
                entry.touch();
                self.roll.remove(entry.seat);
                Some((before, after, entry))
            })
            .collect();
        for (before, after, entry) in taken {
            let address = entry.instance.address;
            self.drained_since(&after, address);
            self.addresses.insert(address, after.clone());
            if entry.hold.is_none() {
                let cause = format!("registered again, before as {before}; nothing reset");
                transitions.push(Change::new("rejoined", cause).of(&after, now));
            }
            self.restless.insert(after.clone());
            self.entries.insert(after, entry);
        }
    }

    fn join(&mut self, instance: &Arc<Instance>, ages: &Ages, now: Instant) -> Vec<Change> {
        let drained = self.drained_since(&instance.id, instance.address);
        let departed = self.departed.remove(&instance.address);
        let departed = departed.filter(|departed| {
            let is_in_time = now.saturating_duration_since(departed.left) <= WINDOW;
            if !is_in_time {
                self.seats.release(departed.entry.seat);
            }
            is_in_time
        });
        let (mut entry, changes) = match departed {
            Some(Departed { mut entry, .. }) => {
                let mut changes = vec![Change::new(
                    "rejoined",
                    "back within a second, nothing reset",
                )];
                changes.extend(entry.update(instance, self.policy.warm_up, now));
                (entry, changes)
            }
            None => {
                let signal = Arc::clone(&self.shared.signal);
                let (seat, mark) = self.seats.reserve();
                let id = instance.id.clone();
                let endpoint = Arc::new(Endpoint::new(id, instance.address, signal, mark));
                let mut entry = Entry::new(Arc::clone(instance), endpoint, seat, now);
                let age = ages.of(instance, self.has_begun);
                if let Some(age) = age.filter(|age| *age < self.policy.warm_up) {
                    let since = now.checked_sub(age).unwrap_or(now);
                    entry.begin_warm_up(self.policy.warm_up, since);
                }
                let cause = format!(
                    "listed at {} with weight {}",
                    instance.address, instance.weight
                );
                (entry, vec![Change::new("joined", cause)])
            }
        };
        entry.drain(drained);
        self.put_in(instance.id.clone(), entry);
        changes
    }

    /// Lets those go that left for good, and holds those that may not have.
    fn judge(
        &mut self,
        missing: Vec<InstanceId>,
        is_file: bool,
        snapshot: &Snapshot,
        transitions: &mut Vec<Transition>,
        now: Instant,
    ) {
        if missing.is_empty() {
            return;
        }
        let (doubtful, gone): (Vec<InstanceId>, Vec<InstanceId>) =
            missing.into_iter().partition(|id| {
                let entry = &self.entries[id];
                !is_file && !entry.endpoint.is_closed() && entry.refutation().is_none()
            });
        for id in gone {
            let refutation = self.entries[&id].refutation();
            let cause = match refutation {
                Some(refutation) => format!("no longer listed ({refutation})"),
                None => "no longer listed".to_owned(),
            };
            transitions.extend(self.leave(&id, &cause, false, now));
        }
        if doubtful.is_empty() {
            return;
        }
        let Some(cause) = self.doubt(&doubtful, now) else {
            for id in doubtful {
                transitions.extend(self.leave(&id, "no longer listed", true, now));
            }
            return;
        };
        for id in doubtful {
            transitions.extend(self.hold(&id, &cause, now));
        }
        self.take_back(&cause, snapshot, transitions, now);
    }

    /// Why the registry is not believed when it no longer names these (in the order of their ids);
    /// `None` if it is.
    fn doubt(&self, missing: &[InstanceId], now: Instant) -> Option<Arc<str>> {
        let grace = self.policy.hold.grace;
        if grace.is_zero() {
            return None;
        }
        if !self.contact.is_healthy() {
            return Some("no longer listed, without contact with the registry".into());
        }
        if let Some(since) = self.contact.settling(grace, now) {
            let cause = format!(
                "no longer listed {:.1} s after contact with the registry was regained",
                since.as_secs_f64()
            );
            return Some(cause.into());
        }
        let is_recent = |since| now.saturating_duration_since(since) <= WINDOW;
        let left = self
            .departed
            .values()
            .filter(|departed| departed.is_doubtful && is_recent(departed.left));
        let held = self.held().filter(|(_, hold)| is_recent(hold.since));
        let removed = missing.len() + left.count() + held.count();
        // Those that can take the traffic, for the last of them must not go on the registry's word.
        let remaining = self.entries.iter().filter(|(id, entry)| {
            entry.hold.is_none()
                && entry.endpoint.grade() == Grade::Fit
                && missing.binary_search(id).is_err()
        });
        // Where as many remain it does not matter how many more there are.
        let remaining = remaining.take(removed).count();
        (removed > remaining).then(|| {
            let all = remaining + removed;
            format!("{removed} of {all} left within a second").into()
        })
    }

    fn hold(&mut self, id: &InstanceId, cause: &Arc<str>, now: Instant) -> Option<Transition> {
        let entry = self.entries.get_mut(id)?;
        entry.begin_hold(Hold::new(cause, now));
        self.restless.insert(id.clone());
        let cause = format!("{cause}; kept while it accepts connections");
        Some(Change::new("held", cause).of(id, now))
    }

    /// Those that left alone a moment ago turn out to be part of a crowd.
    fn take_back(
        &mut self,
        cause: &Arc<str>,
        snapshot: &Snapshot,
        transitions: &mut Vec<Transition>,
        now: Instant,
    ) {
        let back: Vec<_> = self
            .departed
            .iter()
            .filter(|(address, departed)| {
                departed.is_doubtful
                    && now.saturating_duration_since(departed.left) <= WINDOW
                    && !self.addresses.contains_key(*address)
                    && !self.entries.contains_key(&departed.entry.instance.id)
                    && !snapshot.instances.contains_key(&departed.entry.instance.id)
            })
            .map(|(address, _)| *address)
            .collect();
        for address in back {
            if let Some(Departed { mut entry, .. }) = self.departed.remove(&address) {
                let id = entry.instance.id.clone();
                let drained = self.drained_since(&id, address);
                entry.drain(drained);
                self.put_in(id.clone(), entry);
                transitions.extend(self.hold(&id, cause, now));
            }
        }
    }

    fn put_in(&mut self, id: InstanceId, entry: Entry) {
        self.addresses.insert(entry.instance.address, id.clone());
        self.seats.sit(entry.seat, &entry.endpoint);
        self.restless.insert(id.clone());
        self.remember(Move::Came(Arc::clone(&entry.endpoint)));
        self.entries.insert(id, entry);
    }

    fn remember(&mut self, event: Move) {
        self.membership += 1;
        if self.moves.len() == MOVES_MAX {
            self.moves.pop_front();
        }
        self.moves.push_back(event);
    }

    /// Takes an endpoint out: no new requests, running ones finish. `is_doubtful` if it may turn
    /// out to be one of many.
    pub(crate) fn leave(
        &mut self,
        id: &InstanceId,
        cause: &str,
        is_doubtful: bool,
        now: Instant,
    ) -> Option<Transition> {
        let mut entry = self.entries.remove(id)?;
        let address = entry.instance.address;
        self.addresses.remove(&address);
        self.seats.stand(entry.seat);
        self.roll.remove(entry.seat);
        // If it comes back, all is to be shown.
        entry.touch();
        self.remember(Move::Went(entry.endpoint.key()));
        self.is_dirty = true;
        entry.hold = None;
        entry.close(true);
        let cause = format!("{cause}, {} in flight", entry.endpoint.in_flight());
        self.departed.insert(
            address,
            Departed {
                entry,
                left: now,
                is_doubtful,
            },
        );
        Some(Change::new("left", cause).of(id, now))
    }

    /// Drops the held ones against which there is evidence, and those whose time is over.
    pub(crate) fn end_holds(&mut self, now: Instant) -> Vec<Transition> {
        let over: Vec<(InstanceId, String)> = self
            .held()
            .filter_map(|(id, _)| {
                let entry = self.entries.get(id)?;
                let cause = entry.hold_verdict(&self.policy.hold, &self.contact, now)?;
                Some((id.clone(), cause))
            })
            .collect();
        over.into_iter()
            .flat_map(|(id, cause)| self.end_hold(&id, &cause, now))
            .collect()
    }

    /// Drops a held one.
    pub(crate) fn end_hold(
        &mut self,
        id: &InstanceId,
        cause: &str,
        now: Instant,
    ) -> Vec<Transition> {
        let over = Change::new("hold_over", cause).of(id, now);
        let left = self.leave(id, "no longer listed or held", false, now);
        std::iter::once(over).chain(left).collect()
    }

    /// Since when the operator has drained the instance, also under another id before: the mark
    /// goes with the address.
    fn drained_since(&mut self, id: &InstanceId, address: std::net::SocketAddr) -> Option<Instant> {
        if self.drained.is_empty() {
            return None;
        }
        let known = match self.drained.get(id) {
            Some(_) => id.clone(),
            None => {
                let there = |(_, drain): &(&InstanceId, &super::Drain)| drain.address == address;
                self.drained.iter().find(there)?.0.clone()
            }
        };
        let mut drain = self.drained.remove(&known)?;
        drain.address = address;
        let since = drain.since;
        self.drained.insert(id.clone(), drain);
        Some(since)
    }

    fn show_shadowed(&mut self, transitions: &mut Vec<Transition>, now: Instant) {
        let after = self.listing.shadowed();
        for shadowed in &*after {
            let id = &shadowed.instance.id;
            // Both are in the order of ids.
            let known = self
                .shadowed
                .binary_search_by(|other| other.instance.id.cmp(id));
            let is_known = known.is_ok_and(|known| self.shadowed[known].by == shadowed.by);
            if !is_known {
                let cause = format!(
                    "{} is registered at the same address, and newer",
                    shadowed.by
                );
                transitions.push(Change::new("shadowed", cause).of(id, now));
            }
        }
        self.shadowed = after;
    }
}
