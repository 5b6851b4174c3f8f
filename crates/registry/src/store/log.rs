//! The log thread: takes what was queued, makes it durable as one batch, says so.
//!
//! A batch is acknowledged or pending, never dropped. If a write or an fdatasync fails, the batch is written again to
//! a fresh file: after a failed fdatasync the kernel may have forgotten the pages, and the next one would succeed
//! without them.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;
use tracing::{debug, info, warn};

#[cfg(test)]
use super::faults::Faults;
use super::frame::first_sequence;
use super::segment::{AppendError, Room, Segment, bytes_of};

/// How often a disk without room is asked for some.
const ROOM_RETRY: Duration = Duration::from_secs(1);

/// The wait before the second attempt to write a batch; doubled up to [`FAILURE_RETRY_MAX`].
const FAILURE_RETRY_MIN: Duration = Duration::from_millis(50);
const FAILURE_RETRY_MAX: Duration = Duration::from_secs(2);

/// A buffer that a burst has made larger than this is not kept.
pub(super) const BUFFER_BYTES_KEPT: usize = 1024 * 1024;

/// What the core and the log thread share.
#[derive(Debug)]
pub(super) struct Shared {
    queue: Mutex<Queue>,
    /// There is something to do for the log thread.
    work: Condvar,
    /// `durable` has moved, for threads.
    progress: Condvar,
    /// The last sequence that is durable.
    durable: AtomicU64,
    /// The same in bytes of frames, counted since the store was opened.
    durable_bytes: AtomicU64,
    /// Up to which count of bytes of frames there is reserved room.
    room_end: AtomicU64,
    /// The disk has refused to reserve more.
    exhausted: AtomicBool,
    /// `durable` has moved, for the core.
    pub(super) durable_moved: Notify,
    trouble: Mutex<Option<String>>,
}

#[derive(Debug, Default)]
struct Queue {
    frames: Vec<u8>,
    /// A new segment begins after so many bytes of `frames`.
    rotate_at: Option<usize>,
    closing: bool,
}

impl Shared {
    pub(super) fn new(durable: u64) -> Shared {
        Shared {
            queue: Mutex::default(),
            work: Condvar::new(),
            progress: Condvar::new(),
            durable: AtomicU64::new(durable),
            durable_bytes: AtomicU64::new(0),
            room_end: AtomicU64::new(0),
            exhausted: AtomicBool::new(false),
            durable_moved: Notify::new(),
            trouble: Mutex::new(None),
        }
    }

    /// Queues the frames and leaves the buffer empty.
    pub(super) fn push(&self, frames: &mut Vec<u8>) {
        let mut queue = self.queue.lock();
        if queue.frames.is_empty() {
            std::mem::swap(&mut queue.frames, frames);
        } else {
            queue.frames.extend_from_slice(frames);
            frames.clear();
        }
        drop(queue);
        self.work.notify_one();
    }

    /// What is pushed from now on goes to a new segment, if the disk has room for one.
    pub(super) fn rotate(&self) {
        let mut queue = self.queue.lock();
        queue.rotate_at = Some(queue.frames.len());
        drop(queue);
        self.work.notify_one();
    }

    /// Ends the thread when it has written what was pushed, or at once if it cannot.
    pub(super) fn close(&self) {
        self.queue.lock().closing = true;
        self.work.notify_one();
    }

    pub(super) fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    pub(super) fn durable_bytes(&self) -> u64 {
        self.durable_bytes.load(Ordering::Acquire)
    }

    /// Whether the disk has refused room for this many bytes of frames, counted since the store was opened.
    pub(super) fn lacks_room(&self, bytes: u64) -> bool {
        self.exhausted.load(Ordering::Acquire) && bytes > self.room_end.load(Ordering::Acquire)
    }

    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }

    /// Waits for up to `patience` until this sequence is durable.
    pub(super) fn wait_durable(&self, sequence: u64, patience: Duration) -> bool {
        let mut queue = self.queue.lock();
        if self.durable() < sequence {
            self.progress.wait_for(&mut queue, patience);
        }
        self.durable() >= sequence
    }
}

/// What the log thread works with.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) shared: Arc<Shared>,
    pub(super) directory: PathBuf,
    pub(super) room: Room,
    /// Where batches go; `None` after a failure.
    pub(super) segment: Option<Segment>,
    /// The sequence of the next record.
    pub(super) next: u64,
    #[cfg(test)]
    pub(super) faults: Faults,
}

impl Log {
    /// Begins a new segment with these frames, which recovery found and cannot tell to be durable. They do not
    /// count as bytes queued.
    ///
    /// If this fails, the frames are the log's first batch, and it tries on.
    pub(super) fn begin(&mut self, frames: &mut Vec<u8>) -> Result<(), AppendError> {
        self.write(frames)?;
        self.advance(frames, 0);
        self.reserve();
        Ok(())
    }

    /// The thread's loop. `left` is the batch that [`Log::begin`] could not write.
    pub(super) fn run(mut self, mut left: Vec<u8>) {
        if self.segment.is_none() {
            if self.persist(&mut left, 0).is_err() {
                return;
            }
            self.reserve();
        }
        drop(left);
        let mut batch = Vec::new();
        let mut after_rotation = Vec::new();
        while let Some(rotate) = self.take(&mut batch, &mut after_rotation) {
            if !batch.is_empty() {
                let length = bytes_of(&batch);
                if self.persist(&mut batch, length).is_err() {
                    break;
                }
            }
            if rotate && self.rotate().is_err() {
                break;
            }
            if !after_rotation.is_empty() {
                let length = bytes_of(&after_rotation);
                if self.persist(&mut after_rotation, length).is_err() {
                    break;
                }
                after_rotation = Vec::new();
            }
            self.reserve();
        }
        if let Some(segment) = self.segment
            && let Err(error) = segment.close()
        {
            debug!(%error, "the unused room of the log was not given back");
        }
    }

    /// Waits for work: fills the (used) buffers, and says whether a rotation is due between the two. `None` when
    /// the store has been closed.
    fn take(&self, batch: &mut Vec<u8>, after_rotation: &mut Vec<u8>) -> Option<bool> {
        batch.clear();
        batch.shrink_to(BUFFER_BYTES_KEPT);
        let mut queue = self.shared.queue.lock();
        // Whoever waits for progress either sees it or is waiting by now.
        self.shared.progress.notify_all();
        while queue.frames.is_empty() && queue.rotate_at.is_none() {
            if queue.closing {
                return None;
            }
            if self.shared.exhausted.load(Ordering::Relaxed) {
                if self
                    .shared
                    .work
                    .wait_for(&mut queue, ROOM_RETRY)
                    .timed_out()
                {
                    return Some(false);
                }
            } else {
                self.shared.work.wait(&mut queue);
            }
        }
        std::mem::swap(&mut queue.frames, batch);
        let rotate_at = queue.rotate_at.take();
        drop(queue);
        if let Some(at) = rotate_at {
            *after_rotation = batch.split_off(at);
        }
        Some(rotate_at.is_some())
    }

    /// Makes the batch durable, however long it takes. Fails only when the store is closed while the disk fails.
    fn persist(&mut self, batch: &mut Vec<u8>, queued_bytes: u64) -> Result<(), Closed> {
        let mut wait = Duration::ZERO;
        while let Err(error) = self.write(batch) {
            self.report(error);
            // The first retry is at once: a fresh file usually works, and nobody notices.
            if !wait.is_zero() {
                self.refuse();
                self.pause(wait)?;
            }
            wait = (wait * 2).clamp(FAILURE_RETRY_MIN, FAILURE_RETRY_MAX);
        }
        self.advance(batch, queued_bytes);
        Ok(())
    }

    /// One attempt.
    fn write(&mut self, batch: &mut Vec<u8>) -> Result<(), AppendError> {
        let first = first_sequence(batch).unwrap_or(self.next);
        if let Some(segment) = &mut self.segment {
            let appended = segment.append(batch, self.room);
            if let Err(AppendError::Failed(_)) = appended {
                self.abandon();
            }
            return appended;
        }
        let segment = Segment::create(
            &self.directory,
            first,
            batch,
            self.room,
            0,
            #[cfg(test)]
            self.faults.clone(),
        )?;
        self.segment = Some(segment);
        Ok(())
    }

    /// Publishes that the batch is durable.
    fn advance(&mut self, batch: &[u8], queued_bytes: u64) {
        let shared = &self.shared;
        self.next += count(batch);
        shared
            .durable_bytes
            .fetch_add(queued_bytes, Ordering::Release);
        // First the room: whoever sees that the log goes on can append again.
        self.publish_room();
        shared.durable.store(self.next - 1, Ordering::Release);
        shared.durable_moved.notify_one();
    }

    /// Goes on in a new segment, so that the old one can be purged when the snapshot is complete.
    fn rotate(&mut self) -> Result<(), Closed> {
        if self.segment.as_ref().is_none_or(Segment::is_empty) {
            return Ok(());
        }
        let created = Segment::create(
            &self.directory,
            self.next,
            &mut Vec::new(),
            self.room,
            self.room.ahead,
            #[cfg(test)]
            self.faults.clone(),
        );
        match created {
            Ok(segment) => {
                self.abandon();
                self.segment = Some(segment);
                self.publish_room();
            }
            Err(AppendError::NoRoom(error)) => {
                info!(%error, "no room for a new log file: the log stays in the old one")
            }
            // It may have got its name: then it would hide what is appended to the old one.
            Err(failed @ AppendError::Failed(_)) => {
                self.report(failed);
                self.abandon();
                self.persist(&mut Vec::new(), 0)?;
            }
        }
        Ok(())
    }

    fn abandon(&mut self) {
        if let Some(segment) = self.segment.take()
            && let Err(error) = segment.close()
        {
            debug!(%error, "the unused room of a log file was not given back");
        }
    }

    /// Sees to it that there is room ahead.
    fn reserve(&mut self) {
        let Some(segment) = &mut self.segment else {
            return;
        };
        if segment.room() >= self.room.ahead {
            self.restored();
            return;
        }
        match segment.reserve(self.room) {
            Ok(()) => self.restored(),
            Err(error) => {
                if !self.shared.exhausted.swap(true, Ordering::AcqRel) {
                    warn!(%error, directory = %self.directory.display(),
                        "the disk has no room for the registry's log: when the rest is used up writes are refused");
                }
                *self.shared.trouble.lock() = Some(format!(
                    "no room for the log in {}: {error}",
                    self.directory.display()
                ));
            }
        }
        self.publish_room();
    }

    /// All is well: says so if it was not.
    fn restored(&self) {
        self.shared.exhausted.store(false, Ordering::Release);
        if self.shared.trouble.lock().take().is_some() {
            info!(directory = %self.directory.display(), "the registry's log is written again");
        }
    }

    fn publish_room(&self) {
        let room = self.segment.as_ref().map_or(0, Segment::room);
        self.shared
            .room_end
            .store(self.shared.durable_bytes() + room, Ordering::Release);
    }

    /// Nothing more is accepted until a batch could be written.
    fn refuse(&self) {
        self.shared.room_end.store(0, Ordering::Release);
        self.shared.exhausted.store(true, Ordering::Release);
    }

    fn report(&self, error: AppendError) {
        let (what, error) = match error {
            AppendError::NoRoom(error) => ("there is no room", error),
            AppendError::Failed(error) => ("writing failed", error),
        };
        let mut trouble = self.shared.trouble.lock();
        if trouble.is_none() {
            warn!(%error, directory = %self.directory.display(),
                "the registry's log cannot be written ({what}): changes wait until it can");
        }
        *trouble = Some(format!(
            "the log in {} cannot be written, {what}: {error}",
            self.directory.display()
        ));
    }

    fn pause(&self, wait: Duration) -> Result<(), Closed> {
        let mut queue = self.shared.queue.lock();
        let until = std::time::Instant::now() + wait;
        // Being woken for new records is no reason to hurry.
        while !queue.closing && !self.shared.work.wait_until(&mut queue, until).timed_out() {}
        if queue.closing { Err(Closed) } else { Ok(()) }
    }
}

/// The store was closed.
struct Closed;

/// How many frames these are.
fn count(frames: &[u8]) -> u64 {
    use super::frame::{FRAME_HEADER_BYTES, read_u32};
    let mut rest = frames;
    let mut count = 0;
    while !rest.is_empty() {
        let length = usize::try_from(read_u32(rest, 4)).expect("a u32 fits");
        rest = &rest[FRAME_HEADER_BYTES + length..];
        count += 1;
    }
    count
}
