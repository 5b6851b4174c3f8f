//! How long answers took, as the four-letter words tell it: in milliseconds.

use std::time::Duration;

/// Shortest, mean and longest of all answers since the last reset.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Latency {
    count: u64,
    total: Duration,
    shortest: Option<Duration>,
    longest: Duration,
    last: Duration,
}

impl Latency {
    pub(super) fn record(&mut self, elapsed: Duration) {
        self.count += 1;
        self.total += elapsed;
        self.shortest = Some(
            self.shortest
                .map_or(elapsed, |shortest| shortest.min(elapsed)),
        );
        self.longest = self.longest.max(elapsed);
        self.last = elapsed;
    }

    pub(super) fn min_ms(&self) -> u128 {
        self.shortest.unwrap_or_default().as_millis()
    }

    pub(super) fn max_ms(&self) -> u128 {
        self.longest.as_millis()
    }

    pub(super) fn last_ms(&self) -> u128 {
        self.last.as_millis()
    }

    /// Mean in milliseconds, with a fraction.
    pub(super) fn mean_ms(&self) -> f64 {
        if self.count == 0 {
            return 0.0;
        }
        #[expect(clippy::cast_precision_loss, reason = "a mean for people")]
        let count = self.count as f64;
        self.total.as_secs_f64() * 1000.0 / count
    }
}
