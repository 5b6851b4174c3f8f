//! Maglev hashing (Eisenbud et al., NSDI 2016, section 3.4), weighted like Envoy's.
//!
//! Every endpoint has its own order of preference for the places of a table and takes its next free
//! one in turn, until the table is full. Shares are almost exact, and few places change hands when
//! an endpoint comes or goes. As with the ring, the table holds all open endpoints; keys of an
//! unfit one are hashed again, so that nobody else's move.

use crate::balance::slots::{Place, Slot, Slots};
use crate::courtesy::Turn;
use crate::dice::{index_below, mix};
use crate::endpoint::Endpoint;

/// A prime, and the paper's smaller table size: shares are exact within 1 % up to some 650
/// endpoints.
const TABLE_SIZE: u64 = 65_537;

/// The table.
#[derive(Debug)]
pub(crate) struct Maglev {
    slots: Slots,
    places: Box<[Place]>,
    /// Positions in `places`.
    table: Box<[u16]>,
}

/// How often a key is hashed again when its endpoint cannot be used.
const REHASHES: u64 = 16;

const FREE: u16 = u16::MAX;

impl Maglev {
    /// The table for the endpoints at `places`, who sit in `slots`; those beyond the 65535th get no
    /// place.
    pub(crate) fn new(slots: Slots, places: Box<[Place]>) -> Self {
        let table = fill(&slots, &places);
        Self {
            slots,
            places,
            table,
        }
    }

    /// What it was made from.
    pub(crate) fn places(&self) -> &[Place] {
        &self.places
    }

    /// The key's endpoint among those that `usable` accepts. `None` does not mean that there is
    /// none.
    pub(crate) fn find(&self, key: u64, usable: impl Fn(&Endpoint) -> bool) -> Option<&Slot> {
        (0..REHASHES).find_map(|attempt| {
            let place = index_below(mix(key.wrapping_add(mix(attempt))), self.table.len());
            let owner = usize::from(*self.table.get(place)?);
            let slot = self.slots.get(self.places[owner].seat)?;
            usable(&slot.endpoint).then_some(slot)
        })
    }
}

struct Candidate {
    /// Its position among all.
    owner: u16,
    next: u64,
    skip: u64,
    /// Its weight relative to the highest, and the turns it is owed so far.
    share: f64,
    owed: f64,
}

fn fill(slots: &Slots, places: &[Place]) -> Box<[u16]> {
    let weight_max = places.iter().map(|place| place.weight).max().unwrap_or(1) as f64;
    let candidate = |(owner, place): (u16, &Place)| {
        let slot = slots.get(place.seat)?;
        let [first, second] = slot.endpoint.address_hashes();
        Some(Candidate {
            owner,
            next: first % TABLE_SIZE,
            skip: second % (TABLE_SIZE - 1) + 1,
            share: place.weight as f64 / weight_max,
            owed: 0.0,
        })
    };
    let mut candidates: Vec<Candidate> = (0..FREE).zip(places).filter_map(candidate).collect();
    if candidates.is_empty() {
        return Box::default();
    }
    let mut table = vec![FREE; usize::try_from(TABLE_SIZE).expect("it is small")];
    let mut free = table.len();
    let mut turn = Turn::begin();
    loop {
        // As many steps as there are places, in rounds of one for each endpoint.
        turn.give_way();
        for candidate in &mut candidates {
            candidate.owed += candidate.share;
            if candidate.owed < 1.0 {
                continue;
            }
            candidate.owed -= 1.0;
            let place = candidate.next_free(&table);
            table[place] = candidate.owner;
            free -= 1;
            if free == 0 {
                return table.into();
            }
        }
    }
}

impl Candidate {
    /// Its next preference that is free. There is one: the skip is prime to the table's size.
    fn next_free(&mut self, table: &[u16]) -> usize {
        loop {
            let place = usize::try_from(self.next).expect("below the size of the table");
            self.next = (self.next + self.skip) % TABLE_SIZE;
            if table[place] == FREE {
                return place;
            }
        }
    }
}
