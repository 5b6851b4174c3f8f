//! Snapshots: the file, and the thread that writes it.
//!
//! ```text
//! file:  magic 8 | version u32 | checksum u32 | last sequence contained u64 | piece | piece | ... | end
//! piece: checksum u32 | length u32 | bytes
//! end:   checksum u32 | 0xffffffff | number of pieces u64 | log needed up to u64
//! ```
//!
//! Numbers are little-endian. A checksum is the CRC32C of what came before it in the file, chained, and of what
//! follows it in its piece: pieces that are lost, doubled or swapped are noticed.
//!
//! A snapshot is written while the state changes, so it may contain effects of records that came after its last
//! sequence, some of them not durable yet. It becomes valid only when all of these are: otherwise a crash could leave
//! half the effects of a change that nobody was told of, without the record that completes them.

use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::io::Errno;
use tokio::sync::Notify;
use tracing::{debug, info, warn};

use super::files;
use super::frame::{RECORD_BYTES_LIMIT, read_u32, read_u64};
use super::log::Shared;
use super::segment::bytes_of;
use super::{Busy, Recovered, StoreError};

const MAGIC: [u8; 8] = *b"LVGTSNAP";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 24;
const PIECE_HEADER_BYTES: usize = 8;
const END_BYTES: usize = 16;
const END_MARK: u32 = u32::MAX;

/// Pieces are handed to the thread in chunks of about this size, at most so many of them at once: the memory that a
/// snapshot takes.
const CHUNK_BYTES: usize = 256 * 1024;
const CHUNKS_MAX: usize = 4;

/// The file is synced each time so much has been written, so that the log's fdatasync never waits for a whole
/// snapshot to reach the disk.
const SYNC_BYTES: u64 = 4 * 1024 * 1024;

/// How often a waiting thread looks whether it should end.
const LOOK: Duration = Duration::from_millis(100);

/// What a whole snapshot says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Summary {
    pieces: u64,
    /// It is good only together with the log up to this sequence.
    pub(super) until: u64,
}

/// Reads a snapshot to its end. The inner error says what is wrong with the file.
pub(super) fn validate(
    path: &Path,
    last: u64,
) -> Result<Result<Summary, &'static str>, StoreError> {
    let mut file = match Source::open(path) {
        Ok(file) => file,
        Err(error) => return damage(path, error),
    };
    match file.header(path, last) {
        Ok(()) => {}
        Err(HeaderFailure::Io(error)) => return damage(path, error),
        Err(HeaderFailure::Fatal(error)) => return Err(error),
        Err(HeaderFailure::Damaged(what)) => return Ok(Err(what)),
    }
    let mut pieces = 0;
    loop {
        match file.piece() {
            Ok(Ok(Part::Piece(_))) => pieces += 1,
            Ok(Ok(Part::End(summary))) if summary.pieces == pieces => return Ok(Ok(summary)),
            Ok(Ok(Part::End(_))) => return Ok(Err("pieces are missing")),
            Ok(Err(what)) => return Ok(Err(what)),
            Err(error) => return damage(path, error),
        }
    }
}

/// A file that ends early or lies on bad blocks is damaged; other errors are not the file's fault.
fn damage(path: &Path, error: io::Error) -> Result<Result<Summary, &'static str>, StoreError> {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return Ok(Err("it ends too early"));
    }
    if error.raw_os_error() == Some(Errno::IO.raw_os_error()) {
        return Ok(Err("the disk cannot read it"));
    }
    Err(StoreError::io(path, error))
}

/// Passes on the pieces of a snapshot that has been validated.
pub(super) fn replay(
    path: &Path,
    summary: Summary,
    replay: &mut dyn FnMut(Recovered<'_>) -> Result<(), String>,
) -> Result<(), StoreError> {
    let io_error = |error| StoreError::io(path, error);
    let changed = || {
        StoreError::io(
            path,
            io::Error::other("the file has changed while it was read"),
        )
    };
    let mut file = Source::open(path).map_err(io_error)?;
    let mut header = [0; HEADER_BYTES];
    file.read(&mut header).map_err(io_error)?;
    file.checksum = crc32c::crc32c(&header);
    for _ in 0..summary.pieces {
        match file.piece().map_err(io_error)? {
            Ok(Part::Piece(piece)) => {
                replay(Recovered::Piece(piece)).map_err(|what| StoreError::ReplaySnapshot {
                    path: path.to_owned(),
                    what,
                })?
            }
            Ok(Part::End(_)) | Err(_) => return Err(changed()),
        }
    }
    Ok(())
}

enum HeaderFailure {
    Io(io::Error),
    Fatal(StoreError),
    Damaged(&'static str),
}

enum Part<'a> {
    Piece(&'a [u8]),
    End(Summary),
}

/// A snapshot being read.
struct Source {
    file: BufReader<File>,
    left: u64,
    checksum: u32,
    piece: Vec<u8>,
}

impl Source {
    fn open(path: &Path) -> io::Result<Source> {
        let file = File::open(path)?;
        let left = file.metadata()?.len();
        Ok(Source {
            file: BufReader::with_capacity(CHUNK_BYTES, file),
            left,
            checksum: 0,
            piece: Vec::new(),
        })
    }

    fn read(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.left = self
            .left
            .checked_sub(bytes_of(bytes))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        self.file.read_exact(bytes)
    }

    fn header(&mut self, path: &Path, last: u64) -> Result<(), HeaderFailure> {
        let mut header = [0; HEADER_BYTES];
        self.read(&mut header).map_err(HeaderFailure::Io)?;
        if header[..8] != MAGIC || read_u32(&header, 12) != header_checksum(&header) {
            return Err(HeaderFailure::Damaged("its header is damaged"));
        }
        let version = read_u32(&header, 8);
        if version != VERSION {
            return Err(HeaderFailure::Fatal(StoreError::Version {
                path: path.to_owned(),
                version,
            }));
        }
        if read_u64(&header, 16) != last {
            return Err(HeaderFailure::Damaged("it has the name of another one"));
        }
        self.checksum = crc32c::crc32c(&header);
        Ok(())
    }

    fn piece(&mut self) -> io::Result<Result<Part<'_>, &'static str>> {
        let mut header = [0; PIECE_HEADER_BYTES];
        self.read(&mut header)?;
        let (checksum, length) = (read_u32(&header, 0), read_u32(&header, 4));
        let bytes = if length == END_MARK {
            END_BYTES
        } else {
            match usize::try_from(length) {
                Ok(bytes) if bytes <= RECORD_BYTES_LIMIT => bytes,
                Ok(_) | Err(_) => return Ok(Err("a piece has no possible length")),
            }
        };
        if u64::try_from(bytes).is_ok_and(|bytes| bytes > self.left) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut piece = std::mem::take(&mut self.piece);
        piece.resize(bytes, 0);
        let read = self.read(&mut piece);
        self.piece = piece;
        read?;
        self.checksum = piece_checksum(self.checksum, &header[4..], &self.piece);
        if self.checksum != checksum {
            return Ok(Err("a checksum is wrong"));
        }
        if length != END_MARK {
            return Ok(Ok(Part::Piece(&self.piece)));
        }
        if self.left != 0 {
            return Ok(Err("there is something after its end"));
        }
        Ok(Ok(Part::End(Summary {
            pieces: read_u64(&self.piece, 0),
            until: read_u64(&self.piece, 8),
        })))
    }
}

fn header(last: u64) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[16..].copy_from_slice(&last.to_le_bytes());
    let checksum = header_checksum(&header);
    header[12..16].copy_from_slice(&checksum.to_le_bytes());
    header
}

fn header_checksum(header: &[u8; HEADER_BYTES]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&header[..12]), &header[16..])
}

fn piece_checksum(previous: u32, length: &[u8], piece: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(previous, length), piece)
}

/// Appends a piece, or the end with its mark as length.
fn append_piece(buffer: &mut Vec<u8>, checksum: &mut u32, length: u32, piece: &[u8]) {
    *checksum = piece_checksum(*checksum, &length.to_le_bytes(), piece);
    buffer.extend_from_slice(&checksum.to_le_bytes());
    buffer.extend_from_slice(&length.to_le_bytes());
    buffer.extend_from_slice(piece);
}

/// Takes the pieces of a snapshot, without ever waiting for the disk. Dropped before [`Store::finish_snapshot`] there
/// is no snapshot.
#[derive(Debug)]
pub(crate) struct SnapshotWriter {
    pipe: Arc<Pipe>,
    chunk: Vec<u8>,
    pieces: u64,
    checksum: u32,
}

impl SnapshotWriter {
    /// Takes a piece, of at most 64 MiB. Afterwards [`SnapshotWriter::is_closed`] may be true, if the disk failed:
    /// then the remaining pieces are not needed, and are taken without effect.
    ///
    /// # Errors
    ///
    /// [`Busy`]: the piece was not taken.
    pub(crate) fn try_write(&mut self, piece: &[u8]) -> Result<(), Busy> {
        if self.chunk.len() >= CHUNK_BYTES {
            self.pipe.send(&mut self.chunk)?;
        }
        let length = u32::try_from(piece.len()).unwrap_or(END_MARK);
        if piece.len() > RECORD_BYTES_LIMIT {
            // Not written to the end, so never valid.
            self.pipe
                .fail(format!("a piece of {} bytes is too long", piece.len()));
            return Ok(());
        }
        append_piece(&mut self.chunk, &mut self.checksum, length, piece);
        self.pieces += 1;
        Ok(())
    }

    /// Waits until a piece will be taken.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(crate) async fn ready(&self) {
        loop {
            let moved = self.pipe.moved.notified();
            if self.chunk.len() < CHUNK_BYTES || self.pipe.has_place() {
                return;
            }
            moved.await;
        }
    }

    /// Whether the snapshot has failed already.
    pub(crate) fn is_closed(&self) -> bool {
        self.pipe.state.lock().closed
    }

    /// All pieces are there; `until` is the last sequence whose effects may be among them.
    pub(super) fn end(mut self, until: u64) {
        let mut end = [0; END_BYTES];
        end[..8].copy_from_slice(&self.pieces.to_le_bytes());
        end[8..].copy_from_slice(&until.to_le_bytes());
        append_piece(&mut self.chunk, &mut self.checksum, END_MARK, &end);
        let mut state = self.pipe.state.lock();
        if state.ending.is_none() {
            // One chunk over the bound: nothing follows it.
            state.chunks.push_back(std::mem::take(&mut self.chunk));
            state.ending = Some(Ending::Finished(until));
        }
        drop(state);
        self.pipe.filled.notify_one();
    }
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        self.pipe.fail("it was given up".to_owned());
    }
}

/// Between the core and the snapshot's thread.
#[derive(Debug, Default)]
struct Pipe {
    state: Mutex<PipeState>,
    filled: Condvar,
    moved: Notify,
}

#[derive(Debug, Default)]
struct PipeState {
    chunks: VecDeque<Vec<u8>>,
    spare: Vec<Vec<u8>>,
    ending: Option<Ending>,
    /// The thread takes no more.
    closed: bool,
}

#[derive(Debug, Clone)]
enum Ending {
    Finished(u64),
    Failed(String),
}

impl Pipe {
    /// Leaves an empty buffer in exchange.
    fn send(&self, chunk: &mut Vec<u8>) -> Result<(), Busy> {
        let mut state = self.state.lock();
        if state.closed {
            chunk.clear();
            return Ok(());
        }
        if state.chunks.len() >= CHUNKS_MAX {
            return Err(Busy);
        }
        let empty = state.spare.pop().unwrap_or_default();
        state.chunks.push_back(std::mem::replace(chunk, empty));
        drop(state);
        self.filled.notify_one();
        Ok(())
    }

    fn has_place(&self) -> bool {
        let state = self.state.lock();
        state.closed || state.chunks.len() < CHUNKS_MAX
    }

    /// Has no effect after the end.
    fn fail(&self, what: String) {
        self.state.lock().ending.get_or_insert(Ending::Failed(what));
        self.filled.notify_one();
    }

    /// The next chunk; after the last one how it ended.
    fn receive(&self, used: Option<Vec<u8>>) -> Result<Vec<u8>, Ending> {
        let mut state = self.state.lock();
        if let Some(mut used) = used
            && used.capacity() <= 2 * CHUNK_BYTES
        {
            used.clear();
            state.spare.push(used);
        }
        loop {
            if let Some(Ending::Failed(what)) = &state.ending {
                return Err(Ending::Failed(what.clone()));
            }
            if let Some(chunk) = state.chunks.pop_front() {
                drop(state);
                self.moved.notify_one();
                return Ok(chunk);
            }
            if let Some(ending) = &state.ending {
                return Err(ending.clone());
            }
            self.filled.wait(&mut state);
        }
    }

    fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.chunks.clear();
        drop(state);
        self.moved.notify_one();
    }
}

/// How snapshots have fared.
#[derive(Debug, Default, Clone)]
pub(super) struct Progress {
    pub(super) running: bool,
    pub(super) completed: u64,
    pub(super) failed: u64,
    pub(super) failed_at: Option<Instant>,
    /// Bytes of frames appended before the newest snapshot was begun.
    pub(super) covers_bytes: u64,
    /// Snapshots that cannot be read.
    pub(super) damaged: BTreeSet<u64>,
}

/// What the thread of one snapshot works with.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) shared: Arc<Shared>,
    pub(super) progress: Arc<Mutex<Progress>>,
    pub(super) directory: PathBuf,
    pub(super) last: u64,
    pub(super) covers_bytes: u64,
}

/// Lets the store end the snapshot.
#[derive(Debug)]
pub(super) struct Running {
    pipe: Arc<Pipe>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        {
            let mut state = self.pipe.state.lock();
            if !state.closed {
                state.ending = Some(Ending::Failed("the store was closed".to_owned()));
            }
        }
        self.pipe.filled.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            warn!("the snapshot thread has panicked");
        }
    }
}

/// Starts the thread.
pub(super) fn start(job: Job) -> io::Result<(SnapshotWriter, Running)> {
    let pipe = Arc::new(Pipe::default());
    let header = header(job.last);
    let writer = SnapshotWriter {
        pipe: pipe.clone(),
        chunk: header.to_vec(),
        pieces: 0,
        checksum: crc32c::crc32c(&header),
    };
    job.progress.lock().running = true;
    let progress = job.progress.clone();
    let thread = std::thread::Builder::new()
        .name("registry-snapshot".to_owned())
        .spawn({
            let pipe = pipe.clone();
            move || run(&job, &pipe)
        });
    match thread {
        Ok(thread) => Ok((
            writer,
            Running {
                pipe,
                thread: Some(thread),
            },
        )),
        Err(error) => {
            let mut progress = progress.lock();
            progress.running = false;
            progress.failed += 1;
            progress.failed_at = Some(Instant::now());
            Err(error)
        }
    }
}

fn run(job: &Job, pipe: &Pipe) {
    let path = files::snapshot_path(&job.directory, job.last);
    let written = write(job, pipe, &path);
    pipe.close();
    if let Err(what) = &written {
        warn!(path = %path.display(), what, "no snapshot was written: the log grows until one is");
        if let Err(error) = files::remove_if_there(&files::unfinished_path(&path)) {
            warn!(path = %path.display(), %error, "the unfinished snapshot cannot be removed");
        }
    }
    let damaged = {
        let mut progress = job.progress.lock();
        match written {
            Ok(()) => {
                progress.damaged.remove(&job.last);
                progress.completed += 1;
                progress.failed_at = None;
                progress.covers_bytes = job.covers_bytes;
            }
            Err(_) => {
                progress.failed += 1;
                progress.failed_at = Some(Instant::now());
            }
        }
        progress.damaged.clone()
    };
    if let Err(error) = files::purge(&job.directory, &damaged) {
        warn!(directory = %job.directory.display(), %error, "files that are not needed any more cannot be removed");
    }
    job.progress.lock().running = false;
}

fn write(job: &Job, pipe: &Pipe, path: &Path) -> Result<(), String> {
    let started = Instant::now();
    let told = |error: io::Error| error.to_string();
    let mut file = files::create_unfinished(path).map_err(told)?;
    let (mut total, mut unsynced) = (0, 0);
    let mut used = None;
    let until = loop {
        match pipe.receive(used.take()) {
            Ok(chunk) => {
                file.write_all(&chunk).map_err(told)?;
                unsynced += bytes_of(&chunk);
                total += bytes_of(&chunk);
                used = Some(chunk);
                if unsynced >= SYNC_BYTES {
                    file.sync_data().map_err(told)?;
                    unsynced = 0;
                }
            }
            Err(Ending::Finished(until)) => break until,
            Err(Ending::Failed(what)) => return Err(what),
        }
    };
    file.sync_all().map_err(told)?;
    while !job.shared.wait_durable(until, LOOK) {
        if let Some(Ending::Failed(what)) = &pipe.state.lock().ending {
            return Err(what.clone());
        }
        debug!(until, "the snapshot waits for the log");
    }
    files::publish(&job.directory, path).map_err(told)?;
    info!(path = %path.display(), bytes = total, elapsed = ?started.elapsed(), "snapshot written");
    Ok(())
}
