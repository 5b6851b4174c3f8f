//! The durable store: a log of opaque records, and snapshots that stand in for its beginning.
//!
//! - A record is durable when [`Store::durable`] has reached its position: then it survives `kill -9` and a power
//!   cut. Positions count the records from 1; recovery replays a prefix of what was appended, with everything durable
//!   in it, in order.
//! - The core thread never waits for a disk: a log thread writes what was queued as one batch with one fdatasync
//!   (`log`), a thread per snapshot writes that.
//! - A full disk refuses records before they are queued, because room is reserved ahead (`segment`). A failing disk
//!   delays records that were queued, and loses none.
//!
//! Files: `log.FIRST` with the records from sequence FIRST on (`frame`), `snapshot.LAST` with the effects of all
//! records up to LAST (`snapshot`), both in hexadecimal, and the same with `.tmp` while they are created. The directory
//! itself is locked.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tracing::warn;

#[cfg(test)]
mod faults;
mod files;
mod frame;
mod log;
mod recovery;
mod segment;
mod snapshot;
#[cfg(test)]
mod tests;

pub(crate) use snapshot::SnapshotWriter;

use frame::{FRAME_HEADER_BYTES, RECORD_BYTES_LIMIT, append_frame};
use log::{BUFFER_BYTES_KEPT, Log, Shared};
use segment::Room;
use snapshot::{Job, Progress, Running};

/// Where and how to store.
#[derive(Debug, Clone)]
pub(crate) struct StoreOptions {
    /// Created if missing. Nobody else writes into it.
    pub(crate) directory: PathBuf,
    /// Room on the disk is reserved in steps of this size, in smaller ones when the disk is nearly full. Default 4 MiB.
    pub(crate) reserve_step_bytes: u64,
    /// The part of the room that is for [`Class::Reserved`] alone. Default 1 MiB.
    pub(crate) reserved_bytes: u64,
    /// With more than this queued, [`Store::is_backlogged`]. Default 4 MiB: about 40 ms of a slow disk.
    pub(crate) backlog_bytes_max: u64,
    /// Longer records are refused. Default 8 MiB, at most 64 MiB.
    pub(crate) record_bytes_max: usize,
    /// A snapshot is wanted when the log has grown by this much since the last one. Default 64 MiB.
    pub(crate) snapshot_after_bytes: u64,
    /// After a failed snapshot the next one is wanted so much later. Default 30 s.
    pub(crate) snapshot_retry: Duration,
    #[cfg(test)]
    faults: faults::Faults,
}

impl StoreOptions {
    /// The defaults.
    pub(crate) fn new(directory: impl Into<PathBuf>) -> StoreOptions {
        StoreOptions {
            directory: directory.into(),
            reserve_step_bytes: 4 * 1024 * 1024,
            reserved_bytes: 1024 * 1024,
            backlog_bytes_max: 4 * 1024 * 1024,
            record_bytes_max: 8 * 1024 * 1024,
            snapshot_after_bytes: 64 * 1024 * 1024,
            snapshot_retry: Duration::from_secs(30),
            #[cfg(test)]
            faults: faults::Faults::default(),
        }
    }
}

/// The number of a record in the log. The first one is 1; 0 is before all records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Position(pub(crate) u64);

/// Which part of the room a record may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// What clients add and change.
    Regular,
    /// What must go on with a full disk: sessions, deletes. May use the reserve too.
    Reserved,
}

/// What recovery replays: first the pieces of a snapshot, if there is one, then the records that came after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recovered<'a> {
    /// As given to [`SnapshotWriter::try_write`].
    Piece(&'a [u8]),
    /// As given to [`Store::queue`]. Its effects may be in the snapshot already: a snapshot is taken while records
    /// are appended.
    Record(Position, &'a [u8]),
}

/// The thread has not yet written what it was given: try again when [`SnapshotWriter::ready`] says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Busy;

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("{path}: {error}", path = path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error(
        "{directory} is in use by another process: stop that one, or choose another data directory",
        directory = .0.display()
    )]
    Locked(PathBuf),
    #[error("{path} has format version {version}, which this version cannot read: run the version that wrote it", path = path.display())]
    Version { path: PathBuf, version: u32 },
    #[error(
        "{path} is damaged at byte {offset}: record {from}, which was durable, cannot be read. Restore the directory \
         from a backup, or move it away to start empty (services that are running register again)",
        path = path.display()
    )]
    Damaged {
        path: PathBuf,
        offset: u64,
        from: u64,
    },
    #[error(
        "{directory}: the log with the records {from} to {to} is missing. Put the missing files back, or move the \
         directory away to start empty (services that are running register again)",
        directory = directory.display()
    )]
    LogMissing {
        directory: PathBuf,
        from: u64,
        to: u64,
    },
    #[error("record {position} of the log makes no sense: {what}", position = position.0)]
    Replay { position: Position, what: String },
    #[error("{path} makes no sense: {what}", path = path.display())]
    ReplaySnapshot { path: PathBuf, what: String },
}

impl StoreError {
    fn io(path: &Path, error: io::Error) -> StoreError {
        StoreError::Io {
            path: path.to_owned(),
            error,
        }
    }
}

/// An open store. Dropping it writes what was appended, unless the disk fails, and waits for that.
#[derive(Debug)]
pub(crate) struct Store {
    options: StoreOptions,
    shared: Arc<Shared>,
    /// Frames not handed to the log thread yet.
    pending: Vec<u8>,
    appended: u64,
    /// Bytes of frames appended since the store was opened.
    appended_bytes: u64,
    /// Bytes of frames that recovery replayed.
    recovered_bytes: u64,
    progress: Arc<Mutex<Progress>>,
    snapshot: Option<Running>,
    log_thread: Option<JoinHandle<()>>,
    /// Locked while it is open.
    _lock: File,
}

impl Store {
    /// Opens the directory and replays what it holds. An error of `replay` ends it.
    ///
    /// On a full disk it opens all the same: then nothing can be appended, and the records of the last batch may not
    /// be durable yet.
    pub(crate) fn open(
        options: StoreOptions,
        mut replay: impl FnMut(Recovered<'_>) -> Result<(), String>,
    ) -> Result<Store, StoreError> {
        let directory = options.directory.clone();
        let io_error = |error| StoreError::io(&directory, error);
        files::create_directory(&directory).map_err(io_error)?;
        let lock = File::open(&directory).map_err(io_error)?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => StoreError::Locked(directory.clone()),
            TryLockError::Error(error) => StoreError::io(&directory, error),
        })?;
        let mut recovery = recovery::recover(&directory, &mut replay)?;
        let next =
            frame::first_sequence(&recovery.last_batch).unwrap_or(recovery.last.saturating_add(1));
        let shared = Arc::new(Shared::new(next - 1));
        let mut log = Log {
            shared: shared.clone(),
            directory: directory.clone(),
            room: Room {
                step: options.reserve_step_bytes,
                // The core stops accepting when the backlog is full: up to there it never outruns the reserving.
                ahead: options.reserved_bytes + options.backlog_bytes_max,
            },
            segment: None,
            next,
            #[cfg(test)]
            faults: options.faults.clone(),
        };
        // With an error the thread tries on, and reports it.
        let _tried = log.begin(&mut recovery.last_batch);
        if let Err(error) = files::purge(&directory, &recovery.damaged) {
            warn!(directory = %directory.display(), %error, "files that are not needed any more cannot be removed");
        }
        let log_thread = std::thread::Builder::new()
            .name("registry-log".to_owned())
            .spawn(move || log.run(recovery.last_batch))
            .map_err(|error| StoreError::io(&directory, error))?;
        Ok(Store {
            options,
            shared,
            pending: Vec::new(),
            appended: recovery.last,
            appended_bytes: 0,
            recovered_bytes: recovery.log_bytes,
            progress: Arc::new(Mutex::new(Progress {
                damaged: recovery.damaged,
                ..Progress::default()
            })),
            snapshot: None,
            log_thread: Some(log_thread),
            _lock: lock,
        })
    }

    /// Whether a record of this length is allowed and there is room for it on the disk, as far as is known
    /// now.
    pub(crate) fn has_room(&self, class: Class, record_bytes: usize) -> bool {
        let kept_free = match class {
            Class::Regular => self.options.reserved_bytes,
            Class::Reserved => 0,
        };
        let bytes = frame_bytes(record_bytes);
        record_bytes <= self.options.record_bytes_max.min(RECORD_BYTES_LIMIT)
            && !self
                .shared
                .lacks_room(self.appended_bytes + bytes + kept_free)
    }

    /// Queues a record that cannot be refused any more, because what it says was done after
    /// [`has_room`](Self::has_room). If there is no room for it after all it is written when there is.
    pub(crate) fn queue(&mut self, record: &[u8]) -> Position {
        self.appended += 1;
        self.appended_bytes += frame_bytes(record.len());
        append_frame(&mut self.pending, self.appended, record);
        Position(self.appended)
    }

    /// Hands what was appended to the log thread. Called once per turn of the event loop.
    pub(crate) fn flush(&mut self) {
        if !self.pending.is_empty() {
            self.shared.push(&mut self.pending);
            self.pending.shrink_to(BUFFER_BYTES_KEPT);
        }
    }

    /// All records up to this one are on the disk.
    pub(crate) fn durable(&self) -> Position {
        Position(self.shared.durable())
    }

    /// Tells when more is durable, without holding the store.
    pub(crate) fn durability(&self) -> Durability {
        Durability {
            shared: Arc::clone(&self.shared),
        }
    }

    /// Whether so much is queued that no more requests should be read from clients, until more is durable.
    /// Appending is still possible: memory is bounded only if the caller obeys.
    pub(crate) fn is_backlogged(&self) -> bool {
        self.appended_bytes - self.shared.durable_bytes() > self.options.backlog_bytes_max
    }

    /// What keeps the log from being written, or from growing, at the moment.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.shared.trouble()
    }

    /// Whether the log has grown so much that a snapshot should be taken, and none is being written.
    pub(crate) fn wants_snapshot(&self) -> bool {
        let progress = self.progress.lock();
        let uncovered = self.recovered_bytes + self.appended_bytes - progress.covers_bytes;
        uncovered >= self.options.snapshot_after_bytes
            && !progress.running
            && progress
                .failed_at
                .is_none_or(|at| at.elapsed() >= self.options.snapshot_retry)
    }

    /// Begins a snapshot of the state after all records appended so far. The pieces may be given over several turns:
    /// they may then contain effects of later records, which recovery replays again. `None` if one is being written,
    /// or no thread can be started.
    pub(crate) fn begin_snapshot(&mut self) -> Option<SnapshotWriter> {
        if self.progress.lock().running {
            return None;
        }
        self.flush();
        self.shared.rotate();
        let job = Job {
            shared: self.shared.clone(),
            progress: self.progress.clone(),
            directory: self.options.directory.clone(),
            last: self.appended,
            covers_bytes: self.recovered_bytes + self.appended_bytes,
        };
        // The thread of the one before has ended.
        self.snapshot = None;
        match snapshot::start(job) {
            Ok((writer, running)) => {
                self.snapshot = Some(running);
                Some(writer)
            }
            Err(error) => {
                warn!(%error, "no thread for a snapshot");
                None
            }
        }
    }

    /// All pieces of the snapshot have been written. It counts when it is on the disk, with all records appended so
    /// far; then the files that it replaces are removed. If it fails the log is kept, and one is wanted again later.
    pub(crate) fn finish_snapshot(&mut self, writer: SnapshotWriter) {
        self.flush();
        writer.end(self.appended);
    }

    /// How many snapshots have been completed, and how many have failed, since the store was opened.
    pub(crate) fn snapshots(&self) -> (u64, u64) {
        let progress = self.progress.lock();
        (progress.completed, progress.failed)
    }
}

/// Tells when more is durable. For one waiter.
#[derive(Debug)]
pub(crate) struct Durability {
    shared: Arc<Shared>,
}

impl Durability {
    /// Waits until more is durable than `seen`, and says up to where.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(crate) async fn changed(&self, seen: Position) -> Position {
        loop {
            let durable = Position(self.shared.durable());
            if durable > seen {
                return durable;
            }
            self.shared.durable_moved.notified().await;
        }
    }
}

fn frame_bytes(record_bytes: usize) -> u64 {
    (record_bytes + FRAME_HEADER_BYTES) as u64
}

impl Drop for Store {
    fn drop(&mut self) {
        self.flush();
        // First: a snapshot that waits for the log is not waited for.
        self.snapshot = None;
        self.shared.close();
        if let Some(thread) = self.log_thread.take()
            && thread.join().is_err()
        {
            warn!("the log thread has panicked");
        }
    }
}
