//! What the next view shows, kept up to date endpoint by endpoint.
//!
//! Views and tables are made from flat lists of numbers here: with ten thousand endpoints it is not the
//! steps that cost, but the memory that each touches.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::balance::slots::{Place, Slot, Slots};
use crate::balance::weights::Weights;
use crate::endpoint::{EndpointKey, Grade};
use crate::snapshot::InstanceId;
use crate::view::{Member, Members};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Roll {
    /// Seats in the order of ids.
    order: Vec<u32>,
    /// Not in their place in it yet.
    fresh: Vec<u32>,
    /// Still in their place.
    gone: Vec<u32>,
    /// Who sits there, by seat.
    rows: Vec<Option<Row>>,
    /// By seat, apart from the rest because all are looked at for each view.
    standings: Vec<Standing>,
    tally: Tally,
    /// How many have each weight.
    by_weight: BTreeMap<u64, usize>,
    members: Members,
    slots: Slots,
}

#[derive(Debug)]
struct Row {
    id: InstanceId,
    key: EndpointKey,
    is_gone: bool,
}

#[derive(Debug, Clone, Copy)]
struct Standing {
    weight: u64,
    grade: Grade,
}

/// How many endpoints there are of each grade.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally([usize; Grade::Closed as usize + 1]);

impl Tally {
    pub(crate) fn add(&mut self, grade: Grade) {
        self.0[grade as usize] += 1;
    }

    pub(crate) fn take(&mut self, grade: Grade) {
        self.0[grade as usize] -= 1;
    }

    pub(crate) fn of(&self, grade: Grade) -> usize {
        self.0[grade as usize]
    }

    /// Those that are not closed.
    pub(crate) fn open(&self) -> usize {
        self.up_to(Grade::Dead)
    }

    fn up_to(&self, worst: Grade) -> usize {
        self.0[..=worst as usize].iter().sum()
    }
}

/// More than this are put in or taken out together, fewer one by one.
const FEW: usize = 16;

impl Roll {
    /// Takes in what is shown of an endpoint now. A seat that was somebody else's is taken over.
    pub(crate) fn put(&mut self, id: &InstanceId, place: Place, grade: Grade, member: Member) {
        let slot = Slot {
            endpoint: Arc::clone(&member.endpoint),
            weight: place.weight,
        };
        self.slots.set(place.seat, Some(slot));
        self.members.put(id, member);
        let seat = place.seat as usize;
        if self.rows.len() <= seat {
            self.rows.resize_with(seat + 1, || None);
            let nobody = Standing {
                weight: 0,
                grade: Grade::Closed,
            };
            self.standings.resize(seat + 1, nobody);
        }
        if let Some(Row { is_gone: true, .. }) = self.rows[seat] {
            self.settle();
        }
        match &mut self.rows[seat] {
            Some(row) => {
                debug_assert_eq!((&row.id, row.key), (id, place.key));
                self.uncount(seat);
            }
            row @ None => {
                *row = Some(Row {
                    id: id.clone(),
                    key: place.key,
                    is_gone: false,
                });
                self.fresh.push(place.seat);
            }
        }
        self.tally.add(grade);
        *self.by_weight.entry(place.weight).or_default() += 1;
        self.standings[seat] = Standing {
            weight: place.weight,
            grade,
        };
    }

    /// Who sits there is not shown any longer.
    pub(crate) fn remove(&mut self, seat: u32) {
        let Some(Some(row)) = self.rows.get_mut(seat as usize) else {
            return;
        };
        if !std::mem::replace(&mut row.is_gone, true) {
            self.members.remove(&row.id);
            self.slots.set(seat, None);
            self.gone.push(seat);
            self.uncount(seat as usize);
        }
    }

    fn uncount(&mut self, seat: usize) {
        let Standing { weight, grade } = self.standings[seat];
        self.tally.take(grade);
        if let Some(count) = self.by_weight.get_mut(&weight) {
            *count -= 1;
            if *count == 0 {
                self.by_weight.remove(&weight);
            }
        }
    }

    /// Puts all in their places.
    pub(crate) fn settle(&mut self) {
        let gone = std::mem::take(&mut self.gone);
        // They may have left before they were in their place.
        let stays = |rows: &[Option<Row>], seat: u32| {
            rows[seat as usize].as_ref().is_some_and(|row| !row.is_gone)
        };
        self.fresh.retain(|seat| stays(&self.rows, *seat));
        if gone.len() > FEW {
            self.order.retain(|seat| stays(&self.rows, *seat));
        } else {
            for seat in &gone {
                if let Ok(position) = self.find(*seat)
                    && self.order[position] == *seat
                {
                    self.order.remove(position);
                }
            }
        }
        for seat in gone {
            self.rows[seat as usize] = None;
        }
        if self.fresh.len() > FEW {
            self.order.append(&mut self.fresh);
            let id = |seat: &u32| self.rows[*seat as usize].as_ref().map(|row| &row.id);
            self.order.sort_by(|a, b| id(a).cmp(&id(b)));
        }
        for seat in std::mem::take(&mut self.fresh) {
            let position = self.find(seat).unwrap_or_else(|position| position);
            self.order.insert(position, seat);
        }
        debug_assert_eq!(self.tally, self.counted());
    }

    fn counted(&self) -> Tally {
        let mut counted = Tally::default();
        for seat in &self.order {
            counted.add(self.standings[*seat as usize].grade);
        }
        counted
    }

    /// Where a seat is in the order, or would be.
    fn find(&self, seat: u32) -> Result<usize, usize> {
        let id = |seat: u32| self.rows[seat as usize].as_ref().map(|row| &row.id);
        let wanted = id(seat);
        self.order.binary_search_by(|other| id(*other).cmp(&wanted))
    }

    /// The seats of all endpoints in the order of their ids; settled.
    pub(crate) fn seats(&self) -> Arc<[u32]> {
        self.order.as_slice().into()
    }

    /// Those of `seats` where endpoints of a grade or a better one sit, and their weights.
    pub(crate) fn up_to(&self, worst: Grade, seats: &Arc<[u32]>) -> (Arc<[u32]>, Weights) {
        let standing = |seat: &u32| self.standings[*seat as usize];
        let seats = if self.tally.up_to(worst) == seats.len() {
            Arc::clone(seats)
        } else {
            let seats = seats.iter().copied();
            seats.filter(|seat| standing(seat).grade <= worst).collect()
        };
        let mut weights = self.by_weight.keys();
        let weights = match (weights.next(), weights.next()) {
            (Some(weight), None) => Weights::Equal {
                weight: *weight,
                count: seats.len(),
            },
            _ => Weights::Each(seats.iter().map(|seat| standing(seat).weight).collect()),
        };
        (seats, weights)
    }

    /// All that are not closed, in the order of their ids.
    pub(crate) fn open(&self) -> Box<[Place]> {
        let mut open = Vec::with_capacity(self.order.len());
        for &seat in &self.order {
            let Standing { weight, grade } = self.standings[seat as usize];
            if let Some(Row { key, .. }) = self.rows[seat as usize]
                && grade != Grade::Closed
            {
                open.push(Place { seat, key, weight });
            }
        }
        open.into()
    }

    /// How many there are of each grade.
    pub(crate) fn tally(&self) -> Tally {
        self.tally
    }

    /// As what the one on a seat is shown, if it is.
    pub(crate) fn grade(&self, seat: u32) -> Option<Grade> {
        let row = self.rows.get(seat as usize)?.as_ref()?;
        (!row.is_gone).then(|| self.standings[seat as usize].grade)
    }

    pub(crate) fn members(&self) -> &Members {
        &self.members
    }

    pub(crate) fn slots(&self) -> &Slots {
        &self.slots
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use proptest::prelude::*;

    use super::*;
    use crate::endpoint::{Endpoint, Signal};
    use crate::policy::Policy;
    use crate::snapshot::Instance;
    use crate::updater::seats::Seats;

    #[derive(Debug, Clone)]
    enum Step {
        Put { id: u8, weight: u64, grade: Grade },
        Remove(u8),
        Settle,
    }

    fn step() -> impl Strategy<Value = Step> {
        let grade = prop_oneof![
            4 => Just(Grade::Fit),
            1 => Just(Grade::Failing),
            1 => Just(Grade::Dead),
            1 => Just(Grade::Closed),
        ];
        prop_oneof![
            6 => (0u8..40, 1u64..3, grade).prop_map(|(id, weight, grade)| Step::Put { id, weight, grade }),
            4 => (0u8..40).prop_map(Step::Remove),
            2 => Just(Step::Settle),
        ]
    }

    fn id_of(id: u8) -> InstanceId {
        format!("{id:02}").as_str().into()
    }

    /// What an endpoint is in the model.
    #[derive(Debug, Clone, Copy)]
    struct Known {
        place: Place,
        grade: Grade,
    }

    fn check(roll: &Roll, known: &BTreeMap<u8, Known>) {
        let those = |worst: Grade| known.values().filter(move |known| known.grade <= worst);
        let seats = roll.seats();
        let expected: Vec<u32> = those(Grade::Closed).map(|known| known.place.seat).collect();
        assert_eq!(*seats, *expected);
        for worst in [Grade::Fit, Grade::Failing, Grade::Dead] {
            let (chosen, weights) = roll.up_to(worst, &seats);
            let expected: Vec<u32> = those(worst).map(|known| known.place.seat).collect();
            assert_eq!(*chosen, *expected);
            let expected: Vec<u64> = those(worst).map(|known| known.place.weight).collect();
            match weights {
                Weights::Equal { weight, count } => assert_eq!(vec![weight; count], expected),
                Weights::Each(weights) => assert_eq!(weights, expected),
            }
        }
        let open: Vec<Place> = those(Grade::Dead).map(|known| known.place).collect();
        assert_eq!(*roll.open(), *open);
        assert_eq!(roll.tally().open(), open.len());
        let members: Vec<InstanceId> = roll
            .members()
            .iter()
            .map(|m| m.instance.id.clone())
            .collect();
        let ids: Vec<InstanceId> = known.keys().map(|id| id_of(*id)).collect();
        assert_eq!(members, ids);
        for known in known.values() {
            let slot = roll.slots().get(known.place.seat).unwrap();
            assert_eq!(slot.endpoint.key(), known.place.key);
            assert_eq!(slot.weight, known.place.weight);
            assert_eq!(roll.grade(known.place.seat), Some(known.grade));
        }
    }

    proptest! {
        /// Seats are used again at once, before those who left are taken out of the order.
        #[test]
        fn it_is_a_sorted_list(steps in prop::collection::vec(step(), 1..120)) {
            let signal = Arc::new(Signal::new(&Policy::default()));
            let (mut roll, mut seats) = (Roll::default(), Seats::default());
            let mut known: BTreeMap<u8, Known> = BTreeMap::new();
            let mut endpoints = BTreeMap::new();
            for step in steps.into_iter().chain([Step::Settle]) {
                match step {
                    Step::Put { id, weight, grade } => {
                        let address = ([10, 0, 0, id], 80).into();
                        let (seat, endpoint) = endpoints.entry(id).or_insert_with(|| {
                            let (seat, mark) = seats.reserve();
                            let endpoint = Endpoint::new(id_of(id), address, Arc::clone(&signal), mark);
                            (seat, Arc::new(endpoint))
                        });
                        let mut instance = Instance::listed(address, 1);
                        instance.id = id_of(id);
                        let place = Place { seat: *seat, key: endpoint.key(), weight };
                        let member = Member {
                            endpoint: Arc::clone(endpoint),
                            instance: Arc::new(instance),
                            warmth_tenths: 10,
                            reasons: Arc::default(),
                            known_since: Instant::now(),
                        };
                        roll.put(&id_of(id), place, grade, member);
                        known.insert(id, Known { place, grade });
                    }
                    Step::Remove(id) => {
                        known.remove(&id);
                        if let Some((seat, _)) = endpoints.remove(&id) {
                            roll.remove(seat);
                            prop_assert_eq!(roll.grade(seat), None);
                            seats.release(seat);
                        }
                    }
                    Step::Settle => {
                        roll.settle();
                        check(&roll, &known);
                    }
                }
            }
        }
    }
}
