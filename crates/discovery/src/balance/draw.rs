//! Random draws in proportion to weights.

use crate::balance::weights::Weights;
use crate::dice::{Dice, below, index_below};

/// Draws indices from 0 to n-1.
#[derive(Debug, Default)]
pub(crate) struct Draw {
    count: usize,
    /// Running sums of the weights; empty when all are equal.
    sums: Box<[u64]>,
}

/// How often the second of two draws by weight is repeated when it equals the first. A bound,
/// because one index may hold nearly all of the weight.
const REDRAWS: usize = 4;

impl Draw {
    /// Draws among so many indices as there are weights. Weights of 0 are never drawn unless all
    /// are equal.
    pub(crate) fn new(weights: Weights) -> Self {
        let count = weights.len();
        let sums = match weights {
            Weights::Equal { .. } => Box::default(),
            Weights::Each(mut sums) => {
                let mut sum = 0u64;
                for weight in &mut sums {
                    sum = sum.saturating_add(*weight);
                    *weight = sum;
                }
                sums.into()
            }
        };
        Self { count, sums }
    }

    /// One index by weight; `None` when there are none.
    pub(crate) fn one(&self, dice: &Dice) -> Option<usize> {
        match self.sums.last() {
            Some(&total) => {
                let point = below(dice.roll(), total);
                Some(self.sums.partition_point(|&sum| sum <= point))
            }
            None if self.count == 0 => None,
            None => Some(index_below(dice.roll(), self.count)),
        }
    }

    /// Two indices by weight, different ones unless there is only one or a single one holds nearly
    /// all of the weight.
    pub(crate) fn two(&self, dice: &Dice) -> Option<(usize, usize)> {
        let first = self.one(dice)?;
        if self.count == 1 {
            return Some((first, first));
        }
        if self.sums.is_empty() {
            let step = 1 + index_below(dice.roll(), self.count - 1);
            return Some((first, (first + step) % self.count));
        }
        let second = (0..REDRAWS)
            .filter_map(|_| self.one(dice))
            .find(|&second| second != first);
        Some((first, second.unwrap_or(first)))
    }
}
