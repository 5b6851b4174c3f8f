//! Random numbers that all threads share without a lock.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// SplitMix64 (Steele, Lea, Flood 2014): a counter, and a function that scrambles it. Each number
/// is handed out once, whichever thread asks; a seed fixes the sequence.
#[derive(Debug)]
pub(crate) struct Dice(AtomicU64);

const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// 64 random bits.
    pub(crate) fn roll(&self) -> u64 {
        mix(self
            .0
            .fetch_add(GOLDEN_GAMMA, Relaxed)
            .wrapping_add(GOLDEN_GAMMA))
    }
}

/// Scrambles 64 bits: one to one, and every bit depends on all.
pub(crate) fn mix(bits: u64) -> u64 {
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// Random bits as a number below `bound` (Lemire's multiplication; its bias of at most
/// `bound` / 2^64 is no concern here). 0 for a bound of 0.
pub(crate) fn below(bits: u64, bound: u64) -> u64 {
    ((u128::from(bits) * u128::from(bound)) >> 64) as u64
}

/// [`below`] for indices.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the result is below an usize"
)]
pub(crate) fn index_below(bits: u64, bound: usize) -> usize {
    below(bits, bound as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_splitmix64() {
        // The first numbers of the reference implementation for seed 1234567.
        let dice = Dice::new(1_234_567);
        assert_eq!(dice.roll(), 6_457_827_717_110_365_317);
        assert_eq!(dice.roll(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn numbers_stay_below_their_bound() {
        let dice = Dice::new(1);
        let mut seen = [0; 5];
        for _ in 0..5000 {
            seen[index_below(dice.roll(), 5)] += 1;
        }
        assert!(
            seen.iter().all(|count| (900..1100).contains(count)),
            "{seen:?}"
        );
        assert_eq!(below(u64::MAX, 5), 4);
        assert_eq!(below(u64::MAX, 0), 0);
    }
}
