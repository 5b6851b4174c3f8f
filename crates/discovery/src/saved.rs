//! Last good snapshots on disk, so that a process that starts without its registry knows whom to ask.
//!
//! One file of JSON for each service, replaced as a whole: at any moment there is the old one or the new
//! one. What is loaded is [`Stale`](Status::Stale) since it was saved.

mod file;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::snapshot::{Snapshot, Status};

/// A service's file is not written more often than this.
const DEBOUNCE: Duration = Duration::from_secs(1);

/// Long lists are written less often, so much for each instance: to write one takes about 1.5
/// microseconds, and of a processor that requests may want a 300th is enough.
const PAUSE_EACH: Duration = Duration::from_micros(500);

/// The longest pause because of that.
const PAUSE_LONGEST: Duration = Duration::from_secs(30);

/// A list that has not changed is written again after this time, for its age.
const REFRESH: Duration = Duration::from_secs(300);

/// A list that is less than half as long as the one on disk is written only after it has been so short
/// for this time: a registry that comes back after an outage may be empty until services have come back.
const SHRINK_AFTER: Duration = Duration::from_secs(60);

/// The longest wait after writing failed.
const RETRY_LONGEST: Duration = Duration::from_secs(60);

/// Files that may be written at once; each takes a thread.
const WRITES_MAX: usize = 2;

/// A directory of last good snapshots. Cheap to clone; clones share the limit on writing.
///
/// Only one process at a time should use a directory. Services are named by any text, mostly the path of
/// their node; file names are derived from it, percent-encoded.
#[derive(Debug, Clone)]
pub struct SavedSnapshots {
    directory: Arc<Path>,
    writes: Arc<Semaphore>,
}

impl SavedSnapshots {
    /// Snapshots in this directory, which is made when the first one is written.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into().into(),
            writes: Arc::new(Semaphore::new(WRITES_MAX)),
        }
    }

    /// The last good snapshot of a service, stale since it was saved and with attachment 0; `None` if
    /// there is none. Blocks on the disk.
    ///
    /// A file that cannot be understood is renamed to end in `.bad`, and a warning is logged.
    #[must_use]
    pub fn load(&self, service: &str) -> Option<Snapshot> {
        let path = self.path(service);
        let (found, snapshot) = file::load(&path)?;
        if found != service {
            // Names too long for a file name are told apart by a hash.
            tracing::warn!(path = %path.display(), %found, %service, "saved for another service");
            return None;
        }
        Some(snapshot)
    }

    /// All of them by service, at most 10 000. Blocks on the disk; problems are as with
    /// [`load`](Self::load).
    #[must_use]
    pub fn load_all(&self) -> BTreeMap<String, Snapshot> {
        file::list(&self.directory)
            .iter()
            .filter_map(|path| file::load(path))
            .collect()
    }

    /// Writes a snapshot, whatever its status, as of `saved_at`. Blocks until the disk has it.
    ///
    /// # Errors
    /// When the directory or the file cannot be written; then the former file is as it was.
    pub fn save(&self, service: &str, snapshot: &Snapshot, saved_at: SystemTime) -> io::Result<()> {
        file::save(&self.path(service), service, snapshot, saved_at)
    }

    /// Forgets a service. Blocks on the disk.
    ///
    /// # Errors
    /// When there is a file that cannot be deleted.
    pub fn remove(&self, service: &str) -> io::Result<()> {
        match std::fs::remove_file(self.path(service)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Keeps a service's file up to date with its live snapshots, until the [`Keeper`] is dropped or the
    /// snapshots end: at most one write a second (of 10 000 instances one in five), on a thread for
    /// blocking work. Lists that shrank by more than half are written after a minute; one that does not
    /// change, every five minutes, so that the age is true to that. Failures are logged and tried again.
    ///
    /// # Panics
    /// Outside a Tokio runtime with time enabled.
    #[must_use]
    pub fn keep(&self, service: &str, snapshots: watch::Receiver<Arc<Snapshot>>) -> Keeper {
        let mut task = JoinSet::new();
        task.spawn(keep(self.clone(), service.into(), snapshots));
        Keeper { _task: task }
    }

    fn path(&self, service: &str) -> PathBuf {
        self.directory.join(file::name(service))
    }
}

/// Keeps the file of one service up to date. Dropping it ends that; a write under way is completed.
#[derive(Debug)]
pub struct Keeper {
    /// Dropping the set aborts the task.
    _task: JoinSet<()>,
}

async fn keep(
    store: SavedSnapshots,
    service: Arc<str>,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
) {
    let mut schedule = Schedule::default();
    loop {
        let now = Instant::now();
        let latest = Arc::clone(&snapshots.borrow_and_update());
        schedule.see(&latest, now);
        let due = schedule.due(&latest);
        if due.is_some_and(|due| due <= now) {
            let outcome = write(&store, &service, &latest).await;
            if let Err(error) = &outcome {
                tracing::warn!(%service, %error, "the snapshot cannot be saved");
            }
            schedule.wrote(&latest, outcome.is_ok(), Instant::now());
            continue;
        }
        tokio::select! {
            changed = snapshots.changed() => if changed.is_err() {
                return;
            },
            () = crate::watch::sleep_until(due) => {}
        }
    }
}

async fn write(
    store: &SavedSnapshots,
    service: &Arc<str>,
    snapshot: &Arc<Snapshot>,
) -> io::Result<()> {
    // Never closed.
    let permit = Arc::clone(&store.writes).acquire_owned().await;
    let (store, service) = (store.clone(), Arc::clone(service));
    let snapshot = Arc::clone(snapshot);
    let written = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        store.save(&service, &snapshot, SystemTime::now())
    });
    written
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// When to write.
#[derive(Debug, Default)]
struct Schedule {
    /// What is on disk, as far as is known.
    saved: Option<Arc<Snapshot>>,
    began: Option<Instant>,
    tried: Option<Instant>,
    failures: u32,
    /// Since when there is something else to write.
    changed: Option<Instant>,
    /// Since when the list has been less than half of what is on disk.
    short: Option<Instant>,
}

impl Schedule {
    fn see(&mut self, latest: &Arc<Snapshot>, now: Instant) {
        self.began.get_or_insert(now);
        if let Status::Stale { .. } = latest.status
            && self.tried.is_none()
        {
            // A list to start with is one that was loaded.
            self.saved.get_or_insert_with(|| Arc::clone(latest));
        }
        if latest.status != Status::Live && latest.status != Status::Absent {
            // What it says now may be half of the truth.
            self.short = None;
            return;
        }
        let saved = self.saved.as_ref().map(|saved| &saved.instances);
        if saved == Some(&latest.instances) {
            self.changed = None;
        } else {
            self.changed.get_or_insert(now);
        }
        let before = saved.map_or(0, |saved| saved.len());
        // Before the first write the file is of a former process and may be longer.
        let is_short =
            latest.instances.len() * 2 < before || (saved.is_none() && latest.instances.is_empty());
        if is_short {
            self.short.get_or_insert(now);
        } else {
            self.short = None;
        }
    }

    fn due(&self, latest: &Snapshot) -> Option<Instant> {
        match latest.status {
            Status::Live | Status::Absent => {}
            Status::Pending | Status::Stale { .. } => return None,
        }
        let pause = match self.failures {
            0 => {
                let written = self.saved.as_ref().map_or(0, |saved| saved.instances.len());
                let written = u32::try_from(written).unwrap_or(u32::MAX);
                PAUSE_EACH
                    .saturating_mul(written)
                    .clamp(DEBOUNCE, PAUSE_LONGEST)
            }
            failures => DEBOUNCE
                .saturating_mul(1 << failures.min(16))
                .min(RETRY_LONGEST),
        };
        let earliest = self.tried.map(|tried| tried + pause);
        let wanted = match (self.changed, self.short) {
            (Some(_), Some(short)) => short + SHRINK_AFTER,
            (Some(changed), None) => changed,
            (None, _) => self.tried.or(self.began)? + REFRESH,
        };
        Some(earliest.map_or(wanted, |earliest| earliest.max(wanted)))
    }

    fn wrote(&mut self, snapshot: &Arc<Snapshot>, is_ok: bool, now: Instant) {
        self.tried = Some(now);
        if is_ok {
            self.failures = 0;
            self.saved = Some(Arc::clone(snapshot));
            self.changed = None;
            self.short = None;
        } else {
            self.failures += 1;
        }
    }
}

#[cfg(test)]
mod tests;
