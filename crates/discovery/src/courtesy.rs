//! Manners of a thread that shares its core with threads that serve requests.
//!
//! What follows a registry may be busy for milliseconds when a service is large, and a request that comes
//! meanwhile waits for it: since Linux 6.6 (EEVDF) a thread that wakes up gets the core when the running one
//! has used up its slice, whatever their priorities. Long work is therefore done in steps, and between them
//! whoever waits goes first. That costs a system call when nobody waits; on a core that others never leave it
//! costs the rest of a slice, some milliseconds.

use std::thread;
use std::time::{Duration, Instant};

/// A step over so many endpoints or fewer does not take long.
pub(crate) const FEW: usize = 1024;

/// Lets others go first, after a step over `many` endpoints.
pub(crate) fn give_way_after(many: usize) {
    if many > FEW {
        thread::yield_now();
    }
}

/// Work that consists of many short steps.
#[derive(Debug)]
pub(crate) struct Turn(Instant);

impl Turn {
    const LONG: Duration = Duration::from_micros(50);

    pub(crate) fn begin() -> Self {
        Self(Instant::now())
    }

    /// Lets others go first if this turn has become long; then another one begins. To be called after every
    /// few steps: it looks at the clock.
    pub(crate) fn give_way(&mut self) {
        if self.0.elapsed() >= Self::LONG {
            thread::yield_now();
            *self = Self::begin();
        }
    }
}
