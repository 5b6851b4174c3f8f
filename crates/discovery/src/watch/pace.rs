//! When to publish: removals at once, additions at once if it has been quiet, otherwise together. And when to ask
//! about the nodes of a large service, likewise.

use std::time::{Duration, Instant};

use super::roster::Change;

#[derive(Debug)]
pub(super) struct Pace {
    /// How long additions may wait for each other.
    coalesce: Duration,
    last: Option<Instant>,
}

impl Pace {
    pub(super) fn new(coalesce: Duration) -> Self {
        Self {
            coalesce,
            last: None,
        }
    }

    /// When to deal with such a change; not before `now`. `None`: there is nothing to do.
    pub(super) fn due(&self, change: Change, now: Instant) -> Option<Instant> {
        match change {
            Change::None => None,
            Change::Urgent => Some(now),
            Change::Additive => {
                let quiet = self.last.and_then(|last| last.checked_add(self.coalesce));
                Some(quiet.map_or(now, |quiet| quiet.max(now)))
            }
        }
    }

    /// It was done.
    pub(super) fn done(&mut self, now: Instant) {
        self.last = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_addition_is_published_at_once_and_the_next_ones_together() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut pace = Pace::new(Duration::from_millis(50));
        assert_eq!(pace.due(Change::None, at(0)), None);
        assert_eq!(pace.due(Change::Additive, at(0)), Some(at(0)));
        pace.done(at(0));
        assert_eq!(pace.due(Change::Additive, at(1)), Some(at(50)));
        assert_eq!(pace.due(Change::Additive, at(49)), Some(at(50)));
        assert_eq!(pace.due(Change::Urgent, at(2)), Some(at(2)));
        pace.done(at(50));
        assert_eq!(pace.due(Change::Additive, at(101)), Some(at(101)));
    }
}
