//! Peak-sensitive latency: Finagle's peak EWMA.
//!
//! A moving average that jumps to a peak at once and forgets it exponentially with time, so that a
//! slow endpoint is noticed at its first slow answer and tried again once the memory has faded.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::endpoint::nanos;

/// Memory fades to 1/e in this time (Finagle's default decay).
const TAU_NANOS: f64 = 10e9;

/// Latency of one endpoint. Updated by many threads without a lock: every stretch of time is
/// applied by exactly one of them, in some order.
#[derive(Debug, Default)]
pub(crate) struct PeakEwma {
    /// Nanoseconds as bits of an `f64`.
    cost: AtomicU64,
    /// When it was last observed.
    stamp: AtomicU64,
}

impl PeakEwma {
    /// Takes in one latency, seen at `stamp` (nanoseconds).
    pub(crate) fn observe(&self, latency: Duration, stamp: u64) {
        let before = self.stamp.fetch_max(stamp, Relaxed);
        let keep = fade(stamp.saturating_sub(before));
        let latency = to_f64(nanos(latency));
        let mut bits = self.cost.load(Relaxed);
        loop {
            let cost = f64::from_bits(bits);
            let next = if latency > cost {
                latency
            } else {
                cost * keep + latency * (1.0 - keep)
            };
            match self
                .cost
                .compare_exchange_weak(bits, next.to_bits(), Relaxed, Relaxed)
            {
                Ok(_) => return,
                Err(other) => bits = other,
            }
        }
    }

    /// The latency in nanoseconds as remembered at `stamp`; 0 when nothing was ever observed.
    pub(crate) fn at(&self, stamp: u64) -> f64 {
        let cost = f64::from_bits(self.cost.load(Relaxed));
        cost * fade(stamp.saturating_sub(self.stamp.load(Relaxed)))
    }
}

fn fade(elapsed: u64) -> f64 {
    (-to_f64(elapsed) / TAU_NANOS).exp()
}

fn to_f64(nanos: u64) -> f64 {
    nanos as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn it_jumps_up_and_fades_down() {
        let ewma = PeakEwma::default();
        assert_eq!(ewma.at(SECOND), 0.0);
        ewma.observe(Duration::from_millis(10), SECOND);
        assert_eq!(ewma.at(SECOND), 10e6);
        ewma.observe(Duration::from_millis(500), SECOND);
        assert_eq!(ewma.at(SECOND), 500e6);
        // One tau later a fast answer takes 63 % of the way down.
        ewma.observe(Duration::from_millis(10), 11 * SECOND);
        let expected = 500e6 * (-1f64).exp() + 10e6 * (1.0 - (-1f64).exp());
        assert!((ewma.at(11 * SECOND) - expected).abs() < 1.0);
        // Without any answers it is forgotten, so that a once slow endpoint is tried again.
        assert!(ewma.at(200 * SECOND) < 10.0);
    }

    #[test]
    fn a_late_observation_does_not_turn_time_back() {
        let ewma = PeakEwma::default();
        ewma.observe(Duration::from_millis(100), 10 * SECOND);
        ewma.observe(Duration::from_millis(1), 9 * SECOND);
        assert_eq!(ewma.at(10 * SECOND), 100e6);
    }
}
