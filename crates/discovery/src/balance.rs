//! The ways to choose, each as a table computed ahead for one view: choosing takes no lock and
//! allocates nothing.

pub(crate) mod draw;
pub(crate) mod ewma;
pub(crate) mod least;
pub(crate) mod maglev;
pub(crate) mod ring;
pub(crate) mod sequence;
pub(crate) mod slots;
pub(crate) mod weights;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::dice::Dice;
use crate::endpoint::Endpoint;
use crate::policy::Balance;
use draw::Draw;
use least::Load;
use maglev::Maglev;
use ring::Ring;
use sequence::Sequence;
use slots::{Place, Slot, Slots};
use weights::Weights;

/// What choices depend on beside the view; it survives changes of the view, so that these favour
/// nobody.
#[derive(Debug)]
pub(crate) struct Chance {
    pub(crate) dice: Dice,
    pub(crate) cursor: AtomicU64,
}

/// The endpoints to choose from, and how.
#[derive(Debug)]
pub(crate) struct Rotation {
    slots: Slots,
    /// Those to choose from in the usual way.
    seats: Arc<[u32]>,
    /// Serves keyed choices without a key, too.
    draw: Draw,
    table: Table,
    weight_total: f64,
}

#[derive(Debug)]
enum Table {
    Random,
    Sequence(Sequence),
    Least(Load),
    /// Over all open endpoints, and therefore good for many views.
    Ring(Arc<Ring>),
    Maglev(Arc<Maglev>),
}

/// After so many unusable choices in a row it is better to look at all endpoints. Choices turn out
/// unusable only in the milliseconds between an endpoint's quarantine and the next view, and when
/// they are avoided because they were tried before.
const TRIES: usize = 4;

impl Rotation {
    /// A rotation over `seats` with these `weights`; `open` are these and those that are not fit just now,
    /// which keyed balances keep in their tables. Tables of `before` are used again if they are the same,
    /// and also if they are not when `may_lag`.
    pub(crate) fn new(
        balance: Balance,
        slots: &Slots,
        (seats, weights): (Arc<[u32]>, Weights),
        open: Box<[Place]>,
        before: Option<&Self>,
        may_lag: bool,
    ) -> Self {
        let serves = |places: &[Place]| may_lag || *places == *open;
        let table = match balance {
            Balance::Random => Table::Random,
            Balance::RoundRobin | Balance::WeightedRoundRobin => {
                Table::Sequence(Sequence::new(&weights))
            }
            Balance::LeastRequest => Table::Least(Load::requests(&weights)),
            Balance::PeakEwma => Table::Least(Load::latency(&weights)),
            Balance::ConsistentHash => Table::Ring(match before.map(|before| &before.table) {
                Some(Table::Ring(ring)) if serves(ring.places()) => Arc::clone(ring),
                Some(Table::Ring(ring)) => Arc::new(Ring::new(slots.clone(), open, Some(ring))),
                _ => Arc::new(Ring::new(slots.clone(), open, None)),
            }),
            Balance::Maglev => Table::Maglev(match before.map(|before| &before.table) {
                Some(Table::Maglev(maglev)) if serves(maglev.places()) => Arc::clone(maglev),
                _ => Arc::new(Maglev::new(slots.clone(), open)),
            }),
        };
        let (draw, weight_total) = match &table {
            // Neither is asked for.
            Table::Sequence(_) => (Draw::default(), 0.0),
            Table::Random | Table::Least(_) | Table::Ring(_) | Table::Maglev(_) => {
                let total = weights.total();
                (Draw::new(weights), total)
            }
        };
        Self {
            draw,
            slots: slots.clone(),
            seats,
            table,
            weight_total,
        }
    }

    /// What the table for keys was made from; `None` if there is none.
    pub(crate) fn keyed_places(&self) -> Option<&[Place]> {
        match &self.table {
            Table::Ring(ring) => Some(ring.places()),
            Table::Maglev(maglev) => Some(maglev.places()),
            Table::Random | Table::Sequence(_) | Table::Least(_) => None,
        }
    }

    /// Whether picks by key must be counted to bound the load.
    pub(crate) fn is_bounded(&self) -> bool {
        matches!(self.table, Table::Ring(_))
    }

    /// Chooses among those that `usable` accepts. `None` does not mean that there are none.
    pub(crate) fn choose(
        &self,
        chance: &Chance,
        key: Option<u64>,
        stamp: u64,
        usable: impl Fn(&Endpoint) -> bool,
    ) -> Option<&Slot> {
        let usable_slot = |index: usize| {
            let slot = self.slots.get(self.seats[index])?;
            usable(&slot.endpoint).then_some(slot)
        };
        match (&self.table, key) {
            (Table::Ring(ring), Some(key)) => ring.find(key, self.weight_total, &usable),
            (Table::Maglev(maglev), Some(key)) => maglev.find(key, &usable),
            (Table::Random, _) | (Table::Ring(_) | Table::Maglev(_), None) => {
                (0..TRIES).find_map(|_| usable_slot(self.draw.one(&chance.dice)?))
            }
            (Table::Sequence(sequence), _) => (0..TRIES)
                .find_map(|_| usable_slot(sequence.at(chance.cursor.fetch_add(1, Relaxed))?)),
            (Table::Least(load), _) => (0..TRIES).find_map(|_| {
                let (first, second) = self.draw.two(&chance.dice)?;
                match (usable_slot(first), usable_slot(second)) {
                    (Some(a), Some(b)) => Some(if load.is_less(b, a, stamp) { b } else { a }),
                    (a, b) => a.or(b),
                }
            }),
        }
    }
}
