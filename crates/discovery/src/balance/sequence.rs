//! Smooth weighted round-robin: nginx's sequence, computed ahead for one whole round.
//!
//! The classic algorithm adds each one's weight to its score, takes the highest score (the first
//! of equals) and subtracts the total from it. Scores depend on weights and counts only, and return
//! to zero after a round of as many steps as the weights sum up to, so a round is an array and a
//! pick is one addition to a shared cursor.

use crate::balance::weights::Weights;
use crate::courtesy::give_way_after;

/// One round, as indices from 0 to n-1.
#[derive(Debug)]
pub(crate) enum Sequence {
    /// Each once, in their order.
    Even(usize),
    Uneven(Box<[u32]>),
}

/// Rounds longer than this, or twice the number of endpoints, are shortened by rounding the
/// weights: 16384 steps are 64 KiB, and the rounding error of a share is below 1 / 32768.
const STEPS_MAX: u64 = 16_384;

/// So many steps are taken without letting others go first.
const STRETCH: i64 = 4096;

impl Sequence {
    /// A round for these weights. A weight of 0 never occurs.
    pub(crate) fn new(weights: &Weights) -> Self {
        match weights {
            Weights::Equal { weight: 0, .. } => Self::Even(0),
            Weights::Equal { count, .. } => Self::Even(*count),
            Weights::Each(weights) => Self::Uneven(round(weights)),
        }
    }

    /// The index at a step; rounds repeat for ever. `None` when there are none.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the remainder is below an usize"
    )]
    pub(crate) fn at(&self, step: u64) -> Option<usize> {
        match self {
            Self::Even(count) => Some(step.checked_rem(*count as u64)? as usize),
            Self::Uneven(round) => {
                let place = step.checked_rem(round.len() as u64)?;
                Some(round[place as usize] as usize)
            }
        }
    }
}

/// Those with one weight take turns among themselves, so only one of each weight can be next. Weights
/// that sum up to S have fewer than sqrt(2 S) different values, which bounds a step.
struct Class {
    weight: i64,
    /// The score of those that have not had this turn; that of the others is one total lower.
    score: i64,
    members: Vec<u32>,
    /// Which of them is next: those before it have had this turn.
    next: usize,
}

fn round(weights: &[u64]) -> Box<[u32]> {
    let mut classes: Vec<Class> = Vec::new();
    // Of which class those of a weight are, in the order of weights.
    let mut places: Vec<(u64, usize)> = Vec::new();
    for (weight, quantised) in quantised(weights) {
        let quantised = i64::try_from(quantised).expect("quantised weights are small");
        // Greater weights have greater quantised ones, or the same.
        if classes.last().is_none_or(|class| class.weight != quantised) {
            classes.push(Class {
                weight: quantised,
                score: 0,
                members: Vec::new(),
                next: 0,
            });
        }
        places.push((weight, classes.len() - 1));
    }
    for (index, &weight) in weights.iter().enumerate() {
        if let Ok(place) = places.binary_search_by_key(&weight, |(weight, _)| *weight) {
            let index = u32::try_from(index).expect("fewer than 2^32 endpoints");
            classes[places[place].1].members.push(index);
        }
    }
    let sums = classes.iter().map(|class| {
        let members = i64::try_from(class.members.len()).expect("fewer than 2^32 endpoints");
        class.weight * members
    });
    let total = sums.sum();
    let mut round = Vec::with_capacity(usize::try_from(total).unwrap_or(0));
    for steps in 0..total {
        if steps % STRETCH == 0 {
            give_way_after(weights.len());
        }
        round.push(step(&mut classes, total));
    }
    round.into()
}

fn step(classes: &mut [Class], total: i64) -> u32 {
    // In one pass, for a large service takes as many steps as it has endpoints, or twice that.
    let mut best = (i64::MIN, u32::MAX, 0);
    for (place, class) in classes.iter_mut().enumerate() {
        class.score += class.weight;
        let index = class.members[class.next];
        if class.score > best.0 || (class.score == best.0 && index < best.1) {
            best = (class.score, index, place);
        }
    }
    let (_, index, place) = best;
    let class = &mut classes[place];
    class.next += 1;
    if class.next == class.members.len() {
        class.next = 0;
        class.score -= total;
    }
    index
}

/// Each weight that occurs, but for 0, with what it is in the sequence: divided by the greatest common
/// divisor of all and, if a round is still too long, scaled down, though never to 0. In their order.
fn quantised(weights: &[u64]) -> Vec<(u64, u64)> {
    let sum: u128 = weights.iter().map(|&weight| u128::from(weight)).sum();
    // Mostly there are few, and there may be many endpoints.
    let mut distinct: Vec<u64> = Vec::new();
    for &weight in weights {
        if let Err(place) = distinct.binary_search(&weight)
            && weight > 0
        {
            distinct.insert(place, weight);
        }
    }
    let divisor = distinct.iter().fold(0, |a, &b| gcd(a, b)).max(1);
    let sum = sum / u128::from(divisor);
    let steps_max = u128::from(STEPS_MAX.max(2 * weights.len() as u64));
    let scale = |weight: u64| {
        let weight = weight / divisor;
        if sum <= steps_max {
            return weight;
        }
        let scaled = (u128::from(weight) * steps_max + sum / 2) / sum;
        u64::try_from(scaled.max(1)).expect("a share of a small number")
    };
    let scaled: Vec<u64> = distinct.iter().map(|&weight| scale(weight)).collect();
    let divisor = scaled.iter().fold(0, |a, &b| gcd(a, b)).max(1);
    let quantised = scaled.into_iter().map(|weight| weight / divisor);
    distinct.into_iter().zip(quantised).collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The algorithm as everybody knows it.
    fn classic(weights: &[u64], steps: usize) -> Vec<u32> {
        let total: i64 = weights
            .iter()
            .map(|&weight| i64::try_from(weight).unwrap())
            .sum();
        let mut scores = vec![0; weights.len()];
        let mut sequence = Vec::new();
        for _ in 0..steps {
            for (score, &weight) in scores.iter_mut().zip(weights) {
                *score += i64::try_from(weight).unwrap();
            }
            let mut best = 0;
            for index in 1..scores.len() {
                if scores[index] > scores[best] {
                    best = index;
                }
            }
            scores[best] -= total;
            sequence.push(u32::try_from(best).unwrap());
        }
        sequence
    }

    fn take(weights: &[u64], steps: u64) -> Vec<u32> {
        let sequence = Sequence::new(&weights.into());
        (0..steps)
            .map(|step| u32::try_from(sequence.at(step).unwrap()).unwrap())
            .collect()
    }

    #[test]
    fn four_three_two() {
        assert_eq!(take(&[4, 3, 2], 9), [0, 1, 2, 0, 1, 0, 2, 1, 0]);
        assert_eq!(
            take(&[200, 150, 100], 18),
            [take(&[4, 3, 2], 9), take(&[4, 3, 2], 9)].concat()
        );
    }

    #[test]
    fn five_one_one_is_nginx_documentation() {
        assert_eq!(take(&[5, 1, 1], 7), [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn nothing_gives_nothing() {
        assert_eq!(Sequence::new(&Weights::Each(Vec::new())).at(0), None);
        assert_eq!(Sequence::new(&[0, 0][..].into()).at(7), None);
        assert_eq!(take(&[0, 1], 3), [1, 1, 1]);
    }

    #[test]
    fn huge_weights_take_bounded_memory_and_keep_their_shares() {
        let weights = [4_294_967_291, 1_073_741_827, 1];
        let Sequence::Uneven(round) = Sequence::new(&weights[..].into()) else {
            panic!("they are uneven");
        };
        assert!(round.len() <= 16_386, "{}", round.len());
        let count = |index| round.iter().filter(|&&other| other == index).count() as f64;
        assert!((count(0) / count(1) - 4.0).abs() < 0.01);
        assert_eq!(count(2), 1.0);
    }

    #[test]
    fn endpoints_of_one_weight_take_turns() {
        assert_eq!(take(&[50; 5], 7), [0, 1, 2, 3, 4, 0, 1]);
        let uneven = Sequence::Uneven(round(&[50; 5]));
        assert!((0..20u32).all(|step| uneven.at(step.into()) == Some(step as usize % 5)));
    }

    proptest! {
        #[test]
        fn it_is_the_classic_sequence(weights in prop::collection::vec(1u64..40, 1..12)) {
            let steps = 2 * weights.iter().sum::<u64>();
            prop_assert_eq!(take(&weights, steps), classic(&weights, usize::try_from(steps).unwrap()));
        }
    }
}
