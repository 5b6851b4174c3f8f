//! Which host names of a service are to be looked up, and when again. No I/O, no clock of its own.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backoff;

/// A node that is new or changed has its name looked up again, unless that was done so short a time ago.
const FRESH: Duration = Duration::from_secs(5);

/// How far the looking up of a host name is.
#[derive(Debug, Default)]
struct LookUp {
    /// It is queued or under way.
    is_asked: bool,
    failures: u32,
    found_at: Option<Instant>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Names {
    look_ups: HashMap<Arc<str>, LookUp>,
    queue: VecDeque<Arc<str>>,
    later: BTreeSet<(Instant, Arc<str>)>,
}

impl Names {
    /// A name is to be looked up, unless that goes on already.
    pub(super) fn want(&mut self, host: &Arc<str>) {
        let known = self.look_ups.entry(Arc::clone(host)).or_default();
        if !std::mem::replace(&mut known.is_asked, true) {
            self.queue.push_back(Arc::clone(host));
        }
    }

    /// Whether it was found a moment ago.
    pub(super) fn is_fresh(&self, host: &str, now: Instant) -> bool {
        let found_at = self.look_ups.get(host).and_then(|known| known.found_at);
        found_at.is_some_and(|at| now.saturating_duration_since(at) < FRESH)
    }

    /// The next one to look up; those that nobody uses any more are forgotten.
    pub(super) fn next(&mut self, is_used: impl Fn(&str) -> bool) -> Option<Arc<str>> {
        while let Some(host) = self.queue.pop_front() {
            if is_used(&host) {
                return Some(host);
            }
            self.look_ups.remove(&host);
        }
        None
    }

    /// It was looked up; if it was not found, that is tried again after a while.
    pub(super) fn looked_up(&mut self, host: &Arc<str>, is_found: bool, now: Instant) {
        let known = self.look_ups.entry(Arc::clone(host)).or_default();
        known.is_asked = false;
        if is_found {
            known.failures = 0;
            known.found_at = Some(now);
        } else {
            known.failures += 1;
            let due = now + backoff::delay(known.failures);
            self.later.insert((due, Arc::clone(host)));
        }
    }

    /// Nobody uses it.
    pub(super) fn forget(&mut self, host: &str) {
        self.look_ups.remove(host);
    }

    /// When [`wake`](Self::wake) has something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        self.later.first().map(|(due, _)| *due)
    }

    /// Looks up again what is due.
    pub(super) fn wake(&mut self, now: Instant) {
        while self.due().is_some_and(|due| due <= now)
            && let Some((_, host)) = self.later.pop_first()
        {
            self.want(&host);
        }
    }
}
