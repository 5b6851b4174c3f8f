//! The points of a ring, sorted: found by place, and changed by merging what comes in and what goes out.

use std::net::SocketAddr;

use crate::courtesy::Turn;
use crate::dice::index_below;

/// Points on the circle in the order of their places, and of one place in that of their owners'
/// addresses, which is the same everywhere.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Points {
    places: Vec<u64>,
    /// Seats.
    owners: Vec<u32>,
    /// For each of 2^n equal arcs of the circle the first point in it or after it.
    starts: Box<[u32]>,
}

/// A point that comes or goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Change {
    pub(crate) place: u64,
    pub(crate) owner: u32,
    pub(crate) comes: bool,
}

impl Points {
    /// The points with these changes, as if they had been sorted anew: a step for each change, and a copy
    /// of what lies between. `address` knows all owners that are left.
    pub(crate) fn changed(
        &self,
        mut changes: Vec<Change>,
        address: impl Fn(u32) -> Option<SocketAddr>,
    ) -> Self {
        // Whoever sits on another one's seat comes after that one has gone.
        changes.sort_unstable_by_key(|change| (change.place, change.comes));
        let mut turn = Turn::begin();
        let room = self.places.len() + changes.len();
        let mut places = Vec::with_capacity(room);
        let mut owners = Vec::with_capacity(room);
        let mut copied = 0;
        for (index, run) in changes.chunk_by(|a, b| a.place == b.place).enumerate() {
            if index % 256 == 0 {
                turn.give_way();
            }
            let place = run[0].place;
            let rest = &self.places[copied..];
            let start = copied + rest.partition_point(|&other| other < place);
            let same = self.places[start..]
                .iter()
                .take_while(|&&other| other == place);
            let end = start + same.count();
            places.extend_from_slice(&self.places[copied..start]);
            owners.extend_from_slice(&self.owners[copied..end]);
            copied = end;
            let first = places.len();
            for change in run {
                if change.comes {
                    owners.push(change.owner);
                } else if let Some(gone) = owners[first..]
                    .iter()
                    .position(|&owner| owner == change.owner)
                {
                    owners.remove(first + gone);
                }
            }
            owners[first..].sort_by_key(|&owner| address(owner));
            places.resize(owners.len(), place);
        }
        places.extend_from_slice(&self.places[copied..]);
        owners.extend_from_slice(&self.owners[copied..]);
        turn.give_way();
        let starts = starts(&places);
        Self {
            places,
            owners,
            starts,
        }
    }

    /// The owners of all points in their order, from the first one at or after a place on, up to the end
    /// of the circle; and those before.
    pub(crate) fn owners_from(&self, place: u64) -> (&[u32], &[u32]) {
        if self.owners.is_empty() {
            return (&[], &[]);
        }
        let start = self.starts[arc(place, self.starts.len())] as usize;
        let before = self.places[start..]
            .iter()
            .take_while(|&&other| other < place);
        let (before, after) = self.owners.split_at(start + before.count());
        (after, before)
    }
}

fn starts(places: &[u64]) -> Box<[u32]> {
    let arcs = places.len().next_power_of_two();
    let mut next = u32::try_from(places.len()).expect("bounded number of points");
    let mut starts = vec![next; arcs].into_boxed_slice();
    // From the last one on: of the points in an arc the first one stays.
    for (point, place) in (0..next).zip(places).rev() {
        starts[arc(*place, arcs)] = point;
    }
    for start in starts.iter_mut().rev() {
        next = next.min(*start);
        *start = next;
    }
    starts
}

/// Which of `arcs` equal arcs of the circle a place lies in.
fn arc(place: u64, arcs: usize) -> usize {
    index_below(place, arcs)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Owners' addresses in another order than their seats.
    fn address(owner: u32) -> Option<SocketAddr> {
        let port = u16::try_from(100 - owner).unwrap();
        Some(([10, 0, 0, 1], port).into())
    }

    /// A place that few others have, or many.
    fn place() -> impl Strategy<Value = u64> {
        prop_oneof![0u64..8, any::<u64>(), (u64::MAX - 2)..=u64::MAX]
    }

    proptest! {
        /// Every way to the same set of points ends in the same table, also where many share a place,
        /// which hashes hardly ever do.
        #[test]
        fn changes_amount_to_sorting_anew(
            steps in prop::collection::vec(prop::collection::vec((place(), 0u32..9), 0..20), 1..8),
            looks in prop::collection::vec(place(), 10),
        ) {
            let mut model: BTreeSet<(u64, u32)> = BTreeSet::new();
            let mut points = Points::default();
            for step in steps {
                // Who is there goes, who is not comes.
                let step: BTreeSet<(u64, u32)> = step.into_iter().collect();
                let changes = step.iter().map(|&(place, owner)| {
                    let comes = !model.contains(&(place, owner));
                    Change { place, owner, comes }
                });
                points = points.changed(changes.collect(), address);
                model = model.symmetric_difference(&step).copied().collect();
                let mut sorted: Vec<(u64, u32)> = model.iter().copied().collect();
                sorted.sort_by_key(|&(place, owner)| (place, address(owner)));
                let (places, owners): (Vec<u64>, Vec<u32>) = sorted.iter().copied().unzip();
                prop_assert_eq!(&points.places, &places);
                prop_assert_eq!(&points.owners, &owners);
                for look in &looks {
                    let first = places.partition_point(|place| place < look);
                    prop_assert_eq!(points.owners_from(*look), (&owners[first..], &owners[..first]));
                }
            }
        }
    }
}
