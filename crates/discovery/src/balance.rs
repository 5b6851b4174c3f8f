//! The ways to choose, each as a table computed ahead for one view: choosing takes no lock and
//! allocates nothing.

pub(crate) mod draw;
pub(crate) mod ewma;
pub(crate) mod least;
pub(crate) mod sequence;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::dice::Dice;
use crate::endpoint::Endpoint;
use crate::policy::Balance;
use draw::Draw;
use least::Load;
use sequence::Sequence;

/// One endpoint that may be chosen.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    pub(crate) endpoint: Arc<Endpoint>,
    /// Effective weight, never 0.
    pub(crate) weight: u64,
}

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
    slots: Box<[Slot]>,
    /// Serves keyed choices without a key, too.
    draw: Draw,
    table: Table,
}

#[derive(Debug)]
enum Table {
    Random,
    Sequence(Sequence),
    Least(Load),
}

/// After so many unusable choices in a row it is better to look at all endpoints. Choices turn out
/// unusable only in the milliseconds between an endpoint's quarantine and the next view, and when
/// they are avoided because they were tried before.
const TRIES: usize = 4;

impl Rotation {
    pub(crate) fn new(balance: Balance, slots: Box<[Slot]>) -> Self {
        let weights: Vec<u64> = slots.iter().map(|slot| slot.weight).collect();
        let draw = Draw::new(&weights);
        let table = match balance {
            Balance::Random | Balance::ConsistentHash | Balance::Maglev => Table::Random,
            Balance::RoundRobin | Balance::WeightedRoundRobin => {
                Table::Sequence(Sequence::new(&weights))
            }
            Balance::LeastRequest => Table::Least(Load::requests(&weights)),
            Balance::PeakEwma => Table::Least(Load::latency(&weights)),
        };
        Self { slots, draw, table }
    }

    /// Chooses among those that `usable` accepts. `None` does not mean that there are none.
    pub(crate) fn choose(
        &self,
        chance: &Chance,
        _key: Option<u64>,
        stamp: u64,
        usable: impl Fn(&Endpoint) -> bool,
    ) -> Option<&Slot> {
        let usable_slot = |index: usize| {
            let slot = &self.slots[index];
            usable(&slot.endpoint).then_some(slot)
        };
        (0..TRIES).find_map(|_| match &self.table {
            Table::Random => usable_slot(self.draw.one(&chance.dice)?),
            Table::Sequence(sequence) => {
                usable_slot(sequence.at(chance.cursor.fetch_add(1, Relaxed))?)
            }
            Table::Least(load) => {
                let (first, second) = self.draw.two(&chance.dice)?;
                match (usable_slot(first), usable_slot(second)) {
                    (Some(a), Some(b)) => Some(if load.is_less(b, a, stamp) { b } else { a }),
                    (a, b) => a.or(b),
                }
            }
        })
    }
}
