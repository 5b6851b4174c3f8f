//! Waits between attempts.

use std::time::{Duration, Instant};

/// The longest wait before the first attempt after a loss: sessions of many instances end together, and
/// this spreads what they do then.
const FIRST_MAX: Duration = Duration::from_millis(200);

/// The shortest and the longest wait after a failure.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(10);

/// What held for this long counts as success, after which waits are short again.
const LASTING: Duration = Duration::from_secs(10);

/// Each wait is random within a span that doubles, so that no two stay in step.
#[derive(Debug)]
pub(crate) struct Backoff {
    /// The longest the next wait after a failure may be; it is at least half of that.
    span: Duration,
    source: fastrand::Rng,
    held_since: Option<Instant>,
}

impl Backoff {
    pub(crate) fn new(source: fastrand::Rng) -> Self {
        Self {
            span: SHORTEST * 2,
            source,
            held_since: None,
        }
    }

    /// It has worked, or still does.
    pub(crate) fn holds(&mut self, now: Instant) {
        self.held_since.get_or_insert(now);
    }

    /// How long to wait after what held is lost. Short, unless it never holds for long.
    pub(crate) fn after_loss(&mut self, now: Instant) -> Duration {
        let held = self.held_since.take();
        if held.is_some_and(|since| now.saturating_duration_since(since) >= LASTING) {
            self.span = SHORTEST * 2;
            return self.between(Duration::ZERO, FIRST_MAX);
        }
        self.grow()
    }

    /// How long to wait after an attempt has failed.
    pub(crate) fn after_failure(&mut self) -> Duration {
        self.grow()
    }

    fn grow(&mut self) -> Duration {
        let span = self.span;
        self.span = (span * 2).min(LONGEST);
        self.between(span / 2, span)
    }

    fn between(&mut self, low: Duration, high: Duration) -> Duration {
        let share = self.source.f64();
        low + high.saturating_sub(low).mul_f64(share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lasting_registration_comes_back_fast_and_a_fight_slows_down() {
        let start = Instant::now();
        for seed in 0..100 {
            let mut backoff = Backoff::new(fastrand::Rng::with_seed(seed));
            let mut now = start;
            backoff.holds(now);
            now += LASTING;
            backoff.holds(now);
            assert!(backoff.after_loss(now) <= FIRST_MAX);
            // From now on it is lost as soon as it is there.
            let mut waits = Vec::new();
            for _ in 0..60 {
                backoff.holds(now);
                waits.push(backoff.after_loss(now));
            }
            assert!(waits[0] >= SHORTEST && waits[0] <= SHORTEST * 2);
            let late = &waits[10..];
            assert!(
                late.iter()
                    .all(|wait| (LONGEST / 2..=LONGEST).contains(wait))
            );
        }
    }
}
