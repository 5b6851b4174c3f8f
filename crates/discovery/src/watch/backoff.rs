//! How long to wait before trying again what failed.

use std::time::Duration;

const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(30);

/// After so many failures in a row: doubling from 100 ms to 30 s, and of that between half and all, so
/// that many who failed together do not try again together.
pub(super) fn delay(failures: u32) -> Duration {
    let doubled = SHORTEST.saturating_mul(1 << failures.saturating_sub(1).min(16));
    doubled.min(LONGEST).mul_f64(0.5 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_and_is_bounded() {
        for (failures, longest_ms) in [(0, 100), (1, 100), (2, 200), (5, 1600), (40, 30_000)] {
            for _ in 0..100 {
                let delay = delay(failures).as_millis();
                assert!(
                    (longest_ms / 2..=longest_ms).contains(&delay),
                    "{failures}: {delay}"
                );
            }
        }
    }
}
