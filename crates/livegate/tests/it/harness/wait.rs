//! Waiting for conditions. Nothing in these tests sleeps and hopes: a wait names what it waits for
//! and fails loudly when its patience runs out.

use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

/// How long anything that must happen may take. Far above what it takes on an idle machine, so that
/// a busy one does not fail a test; a test that passes never waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// Between two looks at something that cannot wake us (a process, `/proc`, a metric).
const LOOK: Duration = Duration::from_millis(2);

/// Gives the processor away until the next look.
pub(crate) fn breathe() {
    std::thread::park_timeout(LOOK);
}

/// Waits until `condition` holds; panics with `what` when `PATIENCE` runs out.
#[track_caller]
pub(crate) fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    assert!(
        holds_within(PATIENCE, condition),
        "waited {PATIENCE:?} for: {what}"
    );
}

/// True as soon as `condition` holds, false when it never did within `patience`.
pub(crate) fn holds_within(patience: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + patience;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        breathe();
    }
}

/// Keeps threads back until it is opened; then lets all through, for good.
#[derive(Default)]
pub(crate) struct Gate {
    open: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    pub(crate) fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.changed.notify_all();
    }

    /// False when nobody opened it within `PATIENCE`.
    pub(crate) fn pass(&self) -> bool {
        let guard = self.open.lock().unwrap();
        let (guard, _) = self
            .changed
            .wait_timeout_while(guard, PATIENCE, |open| !*open)
            .unwrap();
        *guard
    }
}

/// Waits until a measure has not changed for a while: whatever was under way is stuck or done.
#[track_caller]
pub(crate) fn wait_until_still<T: PartialEq>(mut measure: impl FnMut() -> T) {
    const STILL: Duration = Duration::from_millis(400);
    let mut last = (measure(), Instant::now());
    wait_until("no more change", || {
        let now = measure();
        if now != last.0 {
            last = (now, Instant::now());
        }
        last.1.elapsed() >= STILL
    });
}
