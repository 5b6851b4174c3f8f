//! Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam 2018).
//!
//! Every endpoint owns points on a circle in proportion to its weight; a key belongs to the next
//! point. An endpoint that has more than its share in flight passes a key on to the next one, so a
//! popular key cannot break its endpoint. The ring holds all endpoints that are open, fit or not:
//! an unfit one passes its keys on, and gets exactly those back. It depends on addresses and weights
//! only, so all gateways agree, also when instances register again under other ids. A ring is made from
//! the one before by what changed, and comes out as if it had been made from nothing.

mod points;

use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;

use crate::balance::slots::{Place, Slot, Slots};
use crate::courtesy::give_way_after;
use crate::dice::mix;
use crate::endpoint::{Endpoint, EndpointKey};
use points::{Change, Points};

/// Points of all endpoints, sorted by place.
#[derive(Debug)]
pub(crate) struct Ring {
    slots: Slots,
    /// What it was made from.
    made_from: Box<[Place]>,
    /// How many points each of them has.
    counts: Box<[u64]>,
    points: Points,
}

/// Points of an endpoint of usual weight (ketama's number: shares deviate by about 8 %).
const POINTS_USUAL: usize = 160;
/// Points in all, beyond which each endpoint gets fewer: they take 2 MB.
const POINTS_MAX: usize = 131_072;
/// Fewer points than this per endpoint are of no use, whatever the number of endpoints.
const POINTS_MIN: usize = 16;
/// How much more than average a usual weight may be taken to be lower, which bounds the points
/// that one outsized weight can demand.
const SKEW_MAX: f64 = 16.0;
/// An endpoint takes up to 1.25 times its share of the requests in flight (the paper's c, and
/// HAProxy's recommended `hash-balance-factor`) ...
const LOAD_FACTOR: f64 = 1.25;
/// ... and in any case this many, for less is no overload, and low load should stay sticky.
const LOAD_FLOOR: f64 = 8.0;
/// A walk around the circle ends after so many points.
const WALK_MAX: usize = 1024;

impl Ring {
    /// The ring of the endpoints at `made_from`, who sit in `slots`. Of the ring before, the points of
    /// those that did not change are taken over.
    pub(crate) fn new(slots: Slots, made_from: Box<[Place]>, before: Option<&Self>) -> Self {
        let counts: Box<[u64]> = point_counts(&made_from).collect();
        give_way_after(made_from.len());
        let changes = changes(&slots, &made_from, &counts, before);
        give_way_after(made_from.len());
        let address = |seat| Some(slots.get(seat)?.endpoint.address());
        let points = match before {
            Some(before) => before.points.changed(changes, address),
            None => Points::default().changed(changes, address),
        };
        Self {
            slots,
            made_from,
            counts,
            points,
        }
    }

    /// What it was made from.
    pub(crate) fn places(&self) -> &[Place] {
        &self.made_from
    }

    /// The key's endpoint among those that `usable` accepts, whose weights sum up to
    /// `weight_total`. `None` does not mean that there is none.
    pub(crate) fn find(
        &self,
        key: u64,
        weight_total: f64,
        usable: impl Fn(&Endpoint) -> bool,
    ) -> Option<&Slot> {
        let (after, before) = self.points.owners_from(mix(key));
        let anyone = self.slots.get(self.made_from.first()?.seat)?;
        let in_flight = anyone.endpoint.signal().bounded_in_flight.load(Relaxed);
        let load_total = LOAD_FACTOR * (in_flight + 1) as f64;
        let mut owners = after
            .iter()
            .chain(before)
            .take(WALK_MAX)
            .filter_map(|&owner| self.slots.get(owner));
        let mut overloaded = None;
        let found = owners.find(|slot| {
            if !usable(&slot.endpoint) {
                return false;
            }
            let load_max = (load_total * slot.weight as f64 / weight_total)
                .ceil()
                .max(LOAD_FLOOR);
            if f64::from(slot.endpoint.in_flight()) < load_max {
                return true;
            }
            overloaded.get_or_insert(*slot);
            false
        });
        found.or(overloaded)
    }
}

/// What is to come and to go for those at `made_from` to have so many points.
fn changes(
    slots: &Slots,
    made_from: &[Place],
    counts: &[u64],
    before: Option<&Ring>,
) -> Vec<Change> {
    // By seat: who has how many points.
    let mut had: Vec<Option<(EndpointKey, u64)>> = Vec::new();
    if let Some(before) = before {
        for (place, count) in before.made_from.iter().zip(&before.counts) {
            let seat = place.seat as usize;
            had.resize(had.len().max(seat + 1), None);
            had[seat] = Some((place.key, *count));
        }
    }
    let mut changes = Vec::new();
    for (place, &count) in made_from.iter().zip(counts) {
        let had = match had.get_mut(place.seat as usize) {
            Some(had @ Some(_)) if had.is_some_and(|(key, _)| key == place.key) => had.take(),
            Some(_) | None => None,
        };
        let had = had.map_or(0, |(_, count)| count);
        if had == count {
            continue;
        }
        let slot = slots.get(place.seat);
        changes.extend(points(place.seat, slot, had..count, true));
        changes.extend(points(place.seat, slot, count..had, false));
    }
    for (seat, had) in (0u32..).zip(had) {
        if let (Some((_, count)), Some(before)) = (had, before) {
            changes.extend(points(seat, before.slots.get(seat), 0..count, false));
        }
    }
    changes
}

/// Some of the points of an endpoint, by their numbers.
fn points(
    owner: u32,
    slot: Option<&Slot>,
    numbers: Range<u64>,
    comes: bool,
) -> impl Iterator<Item = Change> {
    let seed = slot.map(|slot| slot.endpoint.address_hashes()[0]);
    let point = move |(number, seed): (u64, u64)| Change {
        place: mix(seed.wrapping_add(mix(number))),
        owner,
        comes,
    };
    numbers
        .filter_map(move |number| Some((number, seed?)))
        .map(point)
}

/// How many points each gets. Nested: whoever gets more keeps those that it had.
fn point_counts(made_from: &[Place]) -> impl Iterator<Item = u64> {
    let mut weights: Vec<u64> = made_from.iter().map(|place| place.weight).collect();
    let mean =
        weights.iter().map(|&weight| weight as f64).sum::<f64>() / weights.len().max(1) as f64;
    // The median hardly moves when somebody joins or leaves, so that the others' points stay.
    let middle = weights.len() / 2;
    let median = match weights.get(middle) {
        Some(_) => *weights.select_nth_unstable(middle).1 as f64,
        None => 1.0,
    };
    let usual = median.max(mean / SKEW_MAX);
    let each = (POINTS_MAX / made_from.len().max(1)).clamp(POINTS_MIN, POINTS_USUAL) as f64;
    made_from
        .iter()
        .map(move |place| points_for(place.weight as f64 / usual * each))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "positive and bounded by the number of points in all"
)]
fn points_for(share: f64) -> u64 {
    share.round().max(1.0) as u64
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;

    use proptest::prelude::*;

    use super::*;
    use crate::endpoint::{Mark, Signal};
    use crate::policy::Policy;

    /// Endpoints as the updater seats them: in the order of names, on the seats that are free.
    struct Room {
        signal: Arc<Signal>,
        slots: Slots,
        places: Vec<(u16, Place)>,
        seats: u32,
        free: Vec<u32>,
    }

    impl Room {
        fn new() -> Self {
            Self {
                signal: Arc::new(Signal::new(&Policy::default())),
                slots: Slots::default(),
                places: Vec::new(),
                seats: 0,
                free: Vec::new(),
            }
        }

        fn come(&mut self, number: u16, weight: u64) {
            let Err(position) = self.find(number) else {
                return;
            };
            let seat = self.free.pop().unwrap_or_else(|| {
                self.seats += 1;
                self.seats - 1
            });
            let [high, low] = number.to_be_bytes();
            let mark = Mark::new(Arc::new(AtomicU64::new(0)), 1);
            let address = ([10, 0, high, low], 80).into();
            let signal = Arc::clone(&self.signal);
            let endpoint = Arc::new(Endpoint::new("a".into(), address, signal, mark));
            let key = endpoint.key();
            let place = Place { seat, key, weight };
            self.slots.set(seat, Some(Slot { endpoint, weight }));
            self.places.insert(position, (number, place));
        }

        fn go(&mut self, number: u16) {
            if let Ok(position) = self.find(number) {
                let (_, place) = self.places.remove(position);
                self.slots.set(place.seat, None);
                self.free.push(place.seat);
            }
        }

        fn weigh(&mut self, number: u16, weight: u64) {
            if let Ok(position) = self.find(number) {
                self.places[position].1.weight = weight;
            }
        }

        fn find(&self, number: u16) -> Result<usize, usize> {
            self.places
                .binary_search_by_key(&number, |(number, _)| *number)
        }

        fn ring(&self, before: Option<&Ring>) -> Ring {
            let places = self.places.iter().map(|(_, place)| *place);
            Ring::new(self.slots.clone(), places.collect(), before)
        }

        /// The ring made from the one before, which must be what comes of nothing.
        fn next(&self, before: Option<&Ring>) -> Ring {
            let ring = self.ring(before);
            assert_eq!(ring.points, self.ring(None).points);
            ring
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Come(u16, u64),
        Go(u16),
        Weigh(u16, u64),
        /// Another endpoint at the same address.
        Anew(u16, u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let weight = || prop_oneof![1u64..100, Just(10_000)];
        prop_oneof![
            (0u16..12, weight()).prop_map(|(number, weight)| Step::Come(number, weight)),
            (0u16..12).prop_map(Step::Go),
            (0u16..12, weight()).prop_map(|(number, weight)| Step::Weigh(number, weight)),
            (0u16..12, weight()).prop_map(|(number, weight)| Step::Anew(number, weight)),
        ]
    }

    proptest! {
        // A case makes some ten rings twice, of some thousand points each.
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn a_ring_is_the_same_whichever_way_it_came_about(
            steps in prop::collection::vec(prop::collection::vec(step(), 0..4), 1..10),
        ) {
            let mut room = Room::new();
            let mut ring = None;
            for step in steps.into_iter().chain([vec![]]) {
                for step in step {
                    match step {
                        Step::Come(number, weight) => room.come(number, weight),
                        Step::Go(number) => room.go(number),
                        Step::Weigh(number, weight) => room.weigh(number, weight),
                        Step::Anew(number, weight) => {
                            room.go(number);
                            room.come(number, weight);
                        }
                    }
                }
                ring = Some(room.next(ring.as_ref()));
            }
        }
    }

    /// From some number on, each endpoint that comes takes points from all others.
    #[test]
    fn also_where_everybody_loses_points() {
        let mut room = Room::new();
        (0..815).for_each(|number| room.come(number, 50));
        let mut ring = room.next(None);
        for number in 815..825 {
            room.come(number, 50);
            ring = room.next(Some(&ring));
        }
        (0..30).for_each(|number| room.go(number));
        ring = room.next(Some(&ring));
        (0..2000).for_each(|number| room.come(number, 50));
        room.next(Some(&ring));
    }
}
