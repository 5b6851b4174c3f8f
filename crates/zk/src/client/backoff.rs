//! Waits between attempts.

use std::time::Duration;

/// Decorrelated jitter: each wait is random between the shortest and three times the one before, up to
/// the longest. Clients that lost the same server spread out at once, and stay spread.
#[derive(Debug)]
pub(crate) struct Backoff {
    shortest: Duration,
    longest: Duration,
    last: Duration,
    source: fastrand::Rng,
}

impl Backoff {
    pub(crate) fn new((shortest, longest): (Duration, Duration), source: fastrand::Rng) -> Self {
        let longest = longest.max(shortest);
        Self {
            shortest,
            longest,
            last: shortest,
            source,
        }
    }

    /// How long to wait this time.
    pub(crate) fn next_wait(&mut self) -> Duration {
        self.last = self.between(self.shortest, self.last * 3).min(self.longest);
        self.last
    }

    /// A wait before the first attempt, shorter than the shortest.
    pub(crate) fn first_wait(&mut self) -> Duration {
        self.between(Duration::ZERO, self.shortest)
    }

    /// Begins again with the shortest.
    pub(crate) fn reset(&mut self) {
        self.last = self.shortest;
    }

    fn between(&mut self, low: Duration, high: Duration) -> Duration {
        low + high.saturating_sub(low).mul_f64(self.source.f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_at_random_within_their_bounds() {
        let bounds = (Duration::from_millis(50), Duration::from_secs(2));
        let mut backoff = Backoff::new(bounds, fastrand::Rng::with_seed(7));
        assert!(backoff.first_wait() < bounds.0);
        let waits: Vec<_> = (0..1000).map(|_| backoff.next_wait()).collect();
        assert!(
            waits
                .iter()
                .all(|wait| (bounds.0..=bounds.1).contains(wait))
        );
        assert!(waits[0] < bounds.0 * 3);
        let mean = waits.iter().sum::<Duration>() / 1000;
        assert!(
            (Duration::from_millis(700)..Duration::from_millis(1700)).contains(&mean),
            "{mean:?}"
        );
        backoff.reset();
        assert!(backoff.next_wait() < bounds.0 * 3);
    }
}
