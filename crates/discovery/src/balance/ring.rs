//! Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam 2018).
//!
//! Every endpoint owns points on a circle in proportion to its weight; a key belongs to the next
//! point. An endpoint that has more than its share in flight passes a key on to the next one, so a
//! popular key cannot break its endpoint. The ring holds all endpoints that are open, fit or not:
//! an unfit one passes its keys on, and gets exactly those back. It depends on addresses and weights
//! only, so all gateways agree, also when instances register again under other ids.

use std::sync::atomic::Ordering::Relaxed;

use xxhash_rust::xxh3::xxh3_64;

use crate::balance::slots::{Place, Slot, Slots};
use crate::dice::mix;
use crate::endpoint::Endpoint;

/// Points of all endpoints, sorted by place.
#[derive(Debug)]
pub(crate) struct Ring {
    slots: Slots,
    /// What it was made from.
    made_from: Box<[Place]>,
    places: Box<[u64]>,
    /// Seats.
    owners: Box<[u32]>,
    /// For each of 2^n equal arcs of the circle the first point in it or after it.
    starts: Box<[u32]>,
}

/// Points of an endpoint of usual weight (ketama's number: shares deviate by about 8 %).
const POINTS_USUAL: usize = 160;
/// Points in all, beyond which each endpoint gets fewer: sorting as many takes some 5 ms.
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
    /// The ring of the endpoints at `made_from`, who sit in `slots`.
    pub(crate) fn new(slots: Slots, made_from: Box<[Place]>) -> Self {
        let mut points: Vec<(u64, u32)> = Vec::new();
        // Owners by their position first: of points in one place the order is the same everywhere.
        for (owner, (place, count)) in (0u32..).zip(made_from.iter().zip(point_counts(&made_from)))
        {
            let Some(slot) = slots.get(place.seat) else {
                continue;
            };
            let seed = xxh3_64(slot.endpoint.address().to_string().as_bytes());
            points.extend((0..count).map(|point| (mix(seed.wrapping_add(mix(point))), owner)));
        }
        points.sort_unstable();
        let starts = starts(&points);
        let seated = |(place, owner): (u64, u32)| (place, made_from[owner as usize].seat);
        let (places, owners): (Vec<u64>, Vec<u32>) = points.into_iter().map(seated).unzip();
        Self {
            slots,
            places: places.into(),
            owners: owners.into(),
            starts,
            made_from,
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
        let first = self.point_at(mix(key));
        let anyone = self.slots.get(*self.owners.first()?)?;
        let in_flight = anyone.endpoint.signal().bounded_in_flight.load(Relaxed);
        let load_total = LOAD_FACTOR * (in_flight + 1) as f64;
        let (before, after) = self.owners.split_at(first);
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

    /// The first point at or after a place on the circle.
    fn point_at(&self, place: u64) -> usize {
        let start = self.starts[arc(place, self.starts.len())] as usize;
        let point = start
            + self.places[start..]
                .iter()
                .take_while(|&&other| other < place)
                .count();
        if point == self.places.len() { 0 } else { point }
    }
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

fn starts(points: &[(u64, u32)]) -> Box<[u32]> {
    let arcs = points.len().next_power_of_two();
    let mut starts = Vec::with_capacity(arcs);
    let mut point = 0;
    for index in 0..arcs {
        while points
            .get(point)
            .is_some_and(|(place, _)| arc(*place, arcs) < index)
        {
            point += 1;
        }
        starts.push(u32::try_from(point).expect("bounded number of points"));
    }
    starts.into()
}

/// Which of `arcs` equal arcs of the circle a place lies in.
fn arc(place: u64, arcs: usize) -> usize {
    crate::dice::index_below(place, arcs)
}
