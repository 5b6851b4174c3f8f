//! Holds: what the registry no longer names, but may have forgotten rather than lost.
//!
//! A single instance that leaves while contact with the registry is healthy has left. Many at once,
//! or any soon after contact was lost and regained, may as well be sessions that expired although
//! the processes are fine: watchers re-list before services register again. These are held, and
//! the evidence of probes decides.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::policy::HoldPolicy;
use crate::snapshot::{Snapshot, Status};
use crate::view::{EndpointState, Reason, Source};

/// What leaves within this time leaves together, however many snapshots that takes: the watcher
/// passes removals on one by one as they come. A registry that expires sessions does so for all that are due
/// at once, which is over in milliseconds.
pub(crate) const WINDOW: Duration = Duration::from_secs(1);

/// Where snapshots come from, and whether they can be relied on.
#[derive(Debug)]
pub(crate) struct Contact {
    pub(crate) status: Status,
    /// Since when it is that; `None` before the first snapshot.
    pub(crate) status_since: Option<Instant>,
    attachment: u64,
    /// When contact with the registry was last regained; not when it was first made.
    regained: Option<Instant>,
}

impl Contact {
    pub(crate) fn none() -> Self {
        Self {
            status: Status::Pending,
            status_since: None,
            attachment: 0,
            regained: None,
        }
    }

    /// Takes in what a snapshot says about contact. Returns whether it goes on from the one before
    /// without a gap, so that what is new in it is new.
    pub(crate) fn update(&mut self, snapshot: &Snapshot, now: Instant) -> bool {
        let before = std::mem::replace(&mut self.status, snapshot.status);
        if before != self.status || self.status_since.is_none() {
            self.status_since = Some(now);
        }
        let attachment = std::mem::replace(&mut self.attachment, snapshot.attachment);
        let goes_on = is_healthy(before) && attachment == self.attachment;
        // What is listed in a file was never out of contact, and who knows nothing has lost nothing.
        let had_registry = attachment > 0 || matches!(before, Status::Stale { .. });
        if self.is_healthy() && !self.is_file() && !goes_on && had_registry {
            self.regained = Some(now);
        }
        goes_on
    }

    /// Whether the last snapshot is what the registry (or the file) says now.
    pub(crate) fn is_healthy(&self) -> bool {
        is_healthy(self.status)
    }

    /// Whether instances are listed by hand: then what is not listed is not meant to be there.
    pub(crate) fn is_file(&self) -> bool {
        self.status == Status::Live && self.attachment == 0
    }

    /// How long ago contact was regained, if that is not longer than `grace`.
    pub(crate) fn settling(&self, grace: Duration, now: Instant) -> Option<Duration> {
        let since = now.saturating_duration_since(self.regained?);
        (since < grace).then_some(since)
    }
}

fn is_healthy(status: Status) -> bool {
    match status {
        Status::Live | Status::Absent => true,
        Status::Pending | Status::Stale { .. } => false,
    }
}

/// One endpoint's hold.
#[derive(Debug)]
pub(crate) struct Hold {
    pub(crate) since: Instant,
    cause: Arc<str>,
    /// Probes in a row that were not answered in time.
    unanswered: u32,
}

impl Hold {
    pub(crate) fn new(cause: &Arc<str>, now: Instant) -> Self {
        Self {
            since: now,
            cause: Arc::clone(cause),
            unanswered: 0,
        }
    }

    pub(crate) fn connected(&mut self) {
        self.unanswered = 0;
    }

    pub(crate) fn unanswered(&mut self) {
        self.unanswered = self.unanswered.saturating_add(1);
    }

    /// Why it is over, but for what probes found; `None` while it lasts.
    pub(crate) fn verdict(
        &self,
        policy: &HoldPolicy,
        contact: &Contact,
        now: Instant,
    ) -> Option<String> {
        if self.unanswered >= policy.fall.max(1) {
            return Some(format!("{} probes in a row timed out", self.unanswered));
        }
        let since = contact
            .regained
            .map_or(self.since, |regained| regained.max(self.since));
        let is_over = contact.is_healthy() && now.saturating_duration_since(since) >= policy.grace;
        is_over.then(|| {
            format!(
                "the registry can be asked and has not named it for {:?}",
                policy.grace
            )
        })
    }

    pub(crate) fn reason(&self) -> Reason {
        Reason {
            state: EndpointState::Held,
            source: Source::Registry,
            text: Arc::clone(&self.cause),
            since: self.since,
        }
    }
}
