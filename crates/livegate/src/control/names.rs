//! The names of the services that were found in the registry, and which of them can be forgotten.
//!
//! A service whose node is gone is still a service for a while: it has no instances, which its clients are
//! told, and it may come back. Services that come and go under ever new names must not add up for ever.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// More names that are gone are not remembered, however short a time ago they were there.
const GONE_MAX: usize = 1000;

/// Every name that was there and is not forgotten.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// With the time since when it is gone.
    known: BTreeMap<String, Option<Instant>>,
}

impl FromIterator<String> for Names {
    fn from_iter<T: IntoIterator<Item = String>>(names: T) -> Self {
        Self {
            known: names.into_iter().map(|name| (name, None)).collect(),
        }
    }
}

impl Names {
    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        self.known.keys().map(String::as_str)
    }

    /// A name is there. Returns whether it is new.
    pub(super) fn is_there(&mut self, name: &str) -> bool {
        match self.known.get_mut(name) {
            Some(gone) => {
                *gone = None;
                false
            }
            None => {
                self.known.insert(name.to_owned(), None);
                true
            }
        }
    }

    /// All others than these are gone.
    pub(super) fn others_are_gone(&mut self, there: &BTreeSet<Arc<str>>, now: Instant) {
        for (name, gone) in &mut self.known {
            if !there.contains(name.as_str()) {
                gone.get_or_insert(now);
            }
        }
    }

    /// When there is one that has been gone for this long, or when there are too many.
    pub(super) fn forgets_at(&self, after: Duration) -> Option<Instant> {
        let gone = self.gone();
        let (first, _) = gone.first()?;
        Some(if gone.len() > GONE_MAX {
            *first
        } else {
            *first + after
        })
    }

    /// Those that have been gone for this long, and of those that are too many the ones that went first.
    pub(super) fn gone_for(&self, after: Duration, now: Instant) -> Vec<String> {
        let gone = self.gone();
        let excess = gone.len().saturating_sub(GONE_MAX);
        let is_over = |(index, (since, _)): &(usize, (Instant, &str))| {
            *index < excess || now.saturating_duration_since(*since) >= after
        };
        let over = gone.into_iter().enumerate().take_while(is_over);
        over.map(|(_, (_, name))| name.to_owned()).collect()
    }

    /// One that is gone is needed: it counts as just gone.
    pub(super) fn keep(&mut self, name: &str, now: Instant) {
        if let Some(Some(since)) = self.known.get_mut(name) {
            *since = now;
        }
    }

    pub(super) fn forget(&mut self, name: &str) {
        self.known.remove(name);
    }

    /// The names that are gone, and since when; those that went first come first.
    fn gone(&self) -> Vec<(Instant, &str)> {
        let known = self.known.iter();
        let mut gone: Vec<(Instant, &str)> = known
            .filter_map(|(name, since)| Some(((*since)?, name.as_str())))
            .collect();
        gone.sort_unstable();
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn set(names: &[&str]) -> BTreeSet<Arc<str>> {
        names.iter().map(|name| Arc::from(*name)).collect()
    }

    #[test]
    fn a_name_is_forgotten_when_it_was_gone_for_long_and_nobody_needs_it() {
        let start = Instant::now();
        let mut names: Names = ["a".to_owned()].into_iter().collect();
        assert!(!names.is_there("a"));
        assert!(names.is_there("b"));
        assert_eq!(names.forgets_at(HOUR), None);
        names.others_are_gone(&set(&["b"]), start);
        let later = start + HOUR / 2;
        names.others_are_gone(&set(&[]), later);
        assert_eq!(names.forgets_at(HOUR), Some(start + HOUR));
        assert!(names.gone_for(HOUR, later).is_empty());
        assert_eq!(names.gone_for(HOUR, start + HOUR), ["a"]);
        names.keep("a", start + HOUR);
        assert_eq!(names.forgets_at(HOUR), Some(later + HOUR));
        // Back again, it is as if it had never gone.
        assert!(!names.is_there("b"));
        assert_eq!(names.gone_for(HOUR, start + 2 * HOUR), ["a"]);
        names.forget("a");
        assert_eq!(names.iter().collect::<Vec<_>>(), ["b"]);
        assert_eq!(names.forgets_at(HOUR), None);
    }

    #[test]
    fn names_that_are_gone_do_not_add_up() {
        let start = Instant::now();
        let mut names = Names::default();
        let mut now = start;
        for number in 0..GONE_MAX + 2 {
            names.is_there(&format!("n{number}"));
            now = start + Duration::from_millis(u64::try_from(number).unwrap());
            names.others_are_gone(&set(&[]), now);
        }
        assert_eq!(names.forgets_at(HOUR), Some(start));
        assert_eq!(names.gone_for(HOUR, now), ["n0", "n1"]);
        names.keep("n0", now);
        names.forget("n1");
        names.forget("n2");
        assert_eq!(names.gone_for(HOUR, now), [""; 0]);
    }
}
