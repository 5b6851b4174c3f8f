//! What the next view shows, kept up to date endpoint by endpoint.
//!
//! Views and tables are made from flat lists here: with ten thousand endpoints it is not the steps
//! that cost, but the memory that each touches.

use std::sync::Arc;

use crate::balance::slots::{Place, Slot, Slots};
use crate::endpoint::Grade;
use crate::snapshot::InstanceId;
use crate::view::{Member, Members};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Roll {
    /// In the order of ids.
    rows: Vec<Row>,
    /// Not in their place yet.
    fresh: Vec<Row>,
    /// Still in their place.
    gone: Vec<InstanceId>,
    tally: Tally,
    members: Members,
    slots: Slots,
}

#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) id: InstanceId,
    pub(crate) place: Place,
    pub(crate) grade: Grade,
    is_gone: bool,
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
        self.0.iter().sum::<usize>() - self.of(Grade::Closed)
    }
}

/// More rows than this are put in or taken out together, fewer one by one.
const FEW: usize = 16;

impl Roll {
    /// Takes in what is shown of an endpoint now.
    pub(crate) fn put(&mut self, id: &InstanceId, place: Place, grade: Grade, member: Member) {
        let slot = Slot {
            endpoint: Arc::clone(&member.endpoint),
            weight: place.weight,
        };
        self.slots.set(place.seat, Some(slot));
        self.members.put(id, member);
        let row = Row {
            id: id.clone(),
            place,
            grade,
            is_gone: false,
        };
        self.tally.add(grade);
        match self.find(id) {
            Ok(position) => {
                let before = std::mem::replace(&mut self.rows[position], row);
                if !before.is_gone {
                    self.tally.take(before.grade);
                }
            }
            Err(_) => self.fresh.push(row),
        }
    }

    /// It is not shown any longer.
    pub(crate) fn remove(&mut self, id: &InstanceId) {
        if let Ok(position) = self.find(id)
            && !self.rows[position].is_gone
        {
            let row = &mut self.rows[position];
            row.is_gone = true;
            self.gone.push(id.clone());
            self.tally.take(row.grade);
            self.slots.set(row.place.seat, None);
            self.members.remove(id);
        }
    }

    /// Puts all rows in their places.
    pub(crate) fn settle(&mut self) {
        let gone = std::mem::take(&mut self.gone);
        if gone.len() > FEW {
            self.rows.retain(|row| !row.is_gone);
        } else {
            for id in gone {
                // It may be back.
                if let Ok(position) = self.find(&id)
                    && self.rows[position].is_gone
                {
                    self.rows.remove(position);
                }
            }
        }
        if self.fresh.len() > FEW {
            self.rows.append(&mut self.fresh);
            self.rows.sort_by(|a, b| a.id.cmp(&b.id));
        }
        for row in std::mem::take(&mut self.fresh) {
            let position = self.find(&row.id).unwrap_or_else(|position| position);
            self.rows.insert(position, row);
        }
        debug_assert_eq!(self.tally, self.counted());
    }

    fn counted(&self) -> Tally {
        let mut counted = Tally::default();
        self.rows.iter().for_each(|row| counted.add(row.grade));
        counted
    }

    /// All endpoints, in the order of their ids; settled.
    pub(crate) fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// How many of them there are of each grade.
    pub(crate) fn tally(&self) -> Tally {
        self.tally
    }

    /// As what one is shown, if it is.
    pub(crate) fn grade(&self, id: &InstanceId) -> Option<Grade> {
        let row = &self.rows[self.find(id).ok()?];
        (!row.is_gone).then_some(row.grade)
    }

    pub(crate) fn members(&self) -> &Members {
        &self.members
    }

    pub(crate) fn slots(&self) -> &Slots {
        &self.slots
    }

    fn find(&self, id: &InstanceId) -> Result<usize, usize> {
        self.rows.binary_search_by(|row| row.id.cmp(id))
    }
}
