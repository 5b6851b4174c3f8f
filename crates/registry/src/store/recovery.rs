//! Reading a directory back: the newest snapshot that is whole, then the log after it.
//!
//! A segment is read up to the first sequence of the next one. What it holds beyond that is of no account: a batch
//! whose write failed is written again to a fresh segment.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tracing::{info, warn};

use super::files::{self, Listing};
use super::frame::{
    FRAME_HEADER_BYTES, FrameHeader, HeaderError, SEGMENT_HEADER_BYTES, SegmentHeader,
    frame_checksum,
};
use super::segment::bytes_of;
use super::snapshot;
use super::{Position, Recovered, StoreError};

/// Files are read in pieces of this size; longer records are read whole.
const READ_BYTES: usize = 256 * 1024;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Recovery {
    /// The last sequence that the snapshot or the log contains.
    pub(super) last: u64,
    /// The frames of the last batch: whether they have reached the disk is not known.
    pub(super) last_batch: Vec<u8>,
    /// The bytes of the frames that were replayed.
    pub(super) log_bytes: u64,
    /// Snapshots that cannot be read.
    pub(super) damaged: BTreeSet<u64>,
}

/// Replays the directory, and cuts a torn tail off its log.
pub(super) fn recover(
    directory: &Path,
    replay: &mut dyn FnMut(Recovered<'_>) -> Result<(), String>,
) -> Result<Recovery, StoreError> {
    let mut listing = Listing::read(directory).map_err(|error| StoreError::io(directory, error))?;
    listing
        .remove_unfinished()
        .map_err(|error| StoreError::io(directory, error))?;
    let mut recovery = Recovery::default();
    // Up to where the log is known to have been durable.
    let mut needed = 0;
    for &last in listing.snapshots.iter().rev() {
        let path = files::snapshot_path(directory, last);
        match snapshot::validate(&path, last)? {
            Ok(summary) => {
                snapshot::replay(&path, summary, replay)?;
                recovery.last = last;
                needed = summary.until;
                break;
            }
            Err(what) => {
                warn!(path = %path.display(), what, "a snapshot is damaged: using the one before it");
                recovery.damaged.insert(last);
            }
        }
    }
    replay_log(directory, &listing.segments, &mut recovery, replay)?;
    if recovery.last < needed {
        return Err(StoreError::LogMissing {
            directory: directory.to_owned(),
            from: recovery.last + 1,
            to: needed,
        });
    }
    Ok(recovery)
}

fn replay_log(
    directory: &Path,
    segments: &BTreeSet<u64>,
    recovery: &mut Recovery,
    replay: &mut dyn FnMut(Recovered<'_>) -> Result<(), String>,
) -> Result<(), StoreError> {
    let start = recovery.last.saturating_add(1);
    let Some(&covering) = segments.range(..=start).next_back() else {
        // A snapshot always has a log file beside it, a log without snapshots begins with the first record.
        return match segments.first() {
            None if start == 1 && recovery.damaged.is_empty() => Ok(()),
            first => Err(StoreError::LogMissing {
                directory: directory.to_owned(),
                from: start,
                to: first.map_or(start, |first| first - 1),
            }),
        };
    };
    let mut from = segments.range(covering..).copied().peekable();
    while let Some(first) = from.next() {
        replay_segment(
            directory,
            first,
            from.peek().copied(),
            start,
            recovery,
            replay,
        )?;
    }
    Ok(())
}

/// Replays the records of one segment from sequence `start` on, and before `next`, the first one of the next segment.
fn replay_segment(
    directory: &Path,
    first: u64,
    next: Option<u64>,
    start: u64,
    recovery: &mut Recovery,
    replay: &mut dyn FnMut(Recovered<'_>) -> Result<(), String>,
) -> Result<(), StoreError> {
    let path = files::segment_path(directory, first);
    let Some(mut reader) = SegmentReader::open(&path, first, next.is_none())? else {
        recovery.last_batch.clear();
        return Ok(());
    };
    let mut batch_first = 0;
    while next.is_none_or(|next| reader.expected < next) {
        let Some(frame) = reader
            .next()
            .map_err(|error| StoreError::io(&path, error))?
        else {
            break;
        };
        if next.is_none() {
            if frame.header.batch_first != batch_first {
                recovery.last_batch.clear();
                batch_first = frame.header.batch_first;
            }
            recovery.last_batch.extend_from_slice(frame.bytes);
        }
        let sequence = frame.header.sequence;
        if sequence >= start {
            replay(Recovered::Record(
                Position(sequence),
                &frame.bytes[FRAME_HEADER_BYTES..],
            ))
            .map_err(|what| StoreError::Replay {
                position: Position(sequence),
                what,
            })?;
            recovery.log_bytes += bytes_of(frame.bytes);
            recovery.last = sequence;
        }
    }
    match next {
        Some(next) if reader.expected < next => Err(StoreError::Damaged {
            path,
            offset: reader.offset,
            from: reader.expected,
        }),
        Some(_) => Ok(()),
        None => {
            if reader.expected <= recovery.last {
                // The snapshot goes further than the log: the new segment begins after the snapshot.
                recovery.last_batch.clear();
            }
            reader.cut_tail(path)
        }
    }
}

/// A good frame.
struct Frame<'a> {
    header: FrameHeader,
    /// With the header.
    bytes: &'a [u8],
}

/// Reads a segment from its beginning.
struct SegmentReader {
    file: File,
    file_bytes: u64,
    salt: u64,
    /// Where the next frame begins.
    offset: u64,
    /// The sequence it must have.
    expected: u64,
    buffer: Vec<u8>,
    /// Where in the file the buffer begins.
    buffer_offset: u64,
}

impl SegmentReader {
    /// `None`: the last segment was being created when the machine stopped.
    fn open(path: &Path, first: u64, is_last: bool) -> Result<Option<SegmentReader>, StoreError> {
        let io_error = |error| StoreError::io(path, error);
        let file = OpenOptions::new()
            .read(true)
            .write(is_last)
            .open(path)
            .map_err(io_error)?;
        let file_bytes = file.metadata().map_err(io_error)?.len();
        let mut header = [0; SEGMENT_HEADER_BYTES];
        if file_bytes < bytes_of(&header) && is_last {
            warn!(path = %path.display(), bytes = file_bytes, "the last log file ends within its header: it holds no record");
            return Ok(None);
        }
        let damaged = || StoreError::Damaged {
            path: path.to_owned(),
            offset: 0,
            from: first,
        };
        if file_bytes < bytes_of(&header) {
            return Err(damaged());
        }
        file.read_exact_at(&mut header, 0).map_err(io_error)?;
        let header = match SegmentHeader::decode(&header) {
            Ok(header) if header.first == first => header,
            Ok(_) | Err(HeaderError::Damaged) => return Err(damaged()),
            Err(HeaderError::Version(version)) => {
                return Err(StoreError::Version {
                    path: path.to_owned(),
                    version,
                });
            }
        };
        Ok(Some(SegmentReader {
            file,
            file_bytes,
            salt: header.salt,
            offset: bytes_of(&[0; SEGMENT_HEADER_BYTES]),
            expected: first,
            buffer: Vec::new(),
            buffer_offset: 0,
        }))
    }

    /// The next frame; `None` at the end, and before bytes that are no frame.
    fn next(&mut self) -> io::Result<Option<Frame<'_>>> {
        if !self.fill(FRAME_HEADER_BYTES)? {
            return Ok(None);
        }
        let Some(header) = self
            .peek_header()
            .filter(|header| header.sequence == self.expected)
        else {
            return Ok(None);
        };
        let length = FRAME_HEADER_BYTES + header.length;
        if !self.fill(length)? {
            return Ok(None);
        }
        let begin = self.buffer_position();
        if frame_checksum(self.salt, &self.buffer[begin + 4..begin + length]) != header.checksum {
            return Ok(None);
        }
        self.offset += bytes_of(&self.buffer[begin..begin + length]);
        self.expected = self.expected.saturating_add(1);
        Ok(Some(Frame {
            header,
            bytes: &self.buffer[begin..begin + length],
        }))
    }

    /// The buffer holds the header.
    fn peek_header(&self) -> Option<FrameHeader> {
        let begin = self.buffer_position();
        let mut header = [0; FRAME_HEADER_BYTES];
        header.copy_from_slice(&self.buffer[begin..begin + FRAME_HEADER_BYTES]);
        FrameHeader::decode(&header)
    }

    fn buffer_position(&self) -> usize {
        usize::try_from(self.offset - self.buffer_offset).expect("within the buffer")
    }

    /// Makes the buffer hold so many bytes from `offset` on. False if the file ends before.
    fn fill(&mut self, bytes: usize) -> io::Result<bool> {
        let left =
            usize::try_from(self.file_bytes.saturating_sub(self.offset)).unwrap_or(usize::MAX);
        if left < bytes {
            return Ok(false);
        }
        let begin = self.buffer_position().min(self.buffer.len());
        if self.buffer.len() - begin < bytes {
            self.buffer.drain(..begin);
            self.buffer_offset = self.offset;
            let held = self.buffer.len();
            let wanted = bytes.max(READ_BYTES).min(left);
            let held_bytes = bytes_of(&self.buffer);
            self.buffer.resize(wanted, 0);
            self.file
                .read_exact_at(&mut self.buffer[held..], self.offset + held_bytes)?;
        }
        Ok(true)
    }

    /// Cuts off what follows the last good frame, if the machine stopped while it was written.
    fn cut_tail(mut self, path: PathBuf) -> Result<(), StoreError> {
        let io_error = |error| StoreError::io(&path, error);
        let end = self.offset;
        let bad = self.expected;
        let mut garbage_end = None;
        let scanned = self.scan(|found| match found {
            Found::Nonzero(offset) => {
                garbage_end = Some(offset + 1);
                ControlFlow::Continue(())
            }
            // Written after the bad one had become durable.
            Found::Frame(header) if header.batch_first > bad => ControlFlow::Break(()),
            Found::Frame(_) => ControlFlow::Continue(()),
        });
        if scanned.map_err(io_error)?.is_break() {
            return Err(StoreError::Damaged {
                path,
                offset: end,
                from: bad,
            });
        }
        if let Some(garbage_end) = garbage_end {
            let bytes = garbage_end - end;
            warn!(path = %path.display(), bytes, "the log ends in a record that was not written to its end: cut off");
        } else if self.file_bytes > end {
            info!(path = %path.display(), bytes = self.file_bytes - end, "the log was not closed: unused room given back");
        }
        if self.file_bytes > end {
            self.file
                .set_len(end)
                .and_then(|()| self.file.sync_all())
                .map_err(io_error)?;
        }
        Ok(())
    }

    /// Looks for frames at every offset after the good ones.
    fn scan(
        &mut self,
        mut found: impl FnMut(Found) -> ControlFlow<()>,
    ) -> io::Result<ControlFlow<()>> {
        let mut record = Vec::new();
        let expected = self.expected;
        while self.offset < self.file_bytes {
            let left = usize::try_from(self.file_bytes - self.offset).unwrap_or(usize::MAX);
            let chunk = left.min(READ_BYTES);
            self.fill(chunk)?;
            let begin = self.buffer_position();
            // A header may lie across the end of the chunk: the next one begins before it.
            let advance = if chunk == left {
                chunk
            } else {
                chunk - FRAME_HEADER_BYTES
            };
            let bytes = &self.buffer[begin..begin + chunk];
            if let Some(last) = last_nonzero(bytes) {
                if found(Found::Nonzero(self.offset + bytes_of(&bytes[..last]))).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
                for at in 0..advance.min(chunk.saturating_sub(FRAME_HEADER_BYTES - 1)) {
                    let mut header = [0; FRAME_HEADER_BYTES];
                    header.copy_from_slice(&bytes[at..at + FRAME_HEADER_BYTES]);
                    let Some(header) = FrameHeader::decode(&header) else {
                        continue;
                    };
                    // No more frames than this fit between: almost all other bytes fail here, without a checksum.
                    let offset = self.offset + bytes_of(&bytes[..at]);
                    let possible = expected..=expected.saturating_add(self.file_bytes);
                    let length = FRAME_HEADER_BYTES + header.length;
                    let fits =
                        usize::try_from(self.file_bytes - offset).is_ok_and(|left| left >= length);
                    if !fits || !possible.contains(&header.sequence) {
                        continue;
                    }
                    record.resize(length, 0);
                    self.file.read_exact_at(&mut record, offset)?;
                    if frame_checksum(self.salt, &record[4..]) == header.checksum
                        && found(Found::Frame(header)).is_break()
                    {
                        return Ok(ControlFlow::Break(()));
                    }
                }
            }
            self.offset += u64::try_from(advance).expect("a chunk is small");
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// What the tail of a log holds.
enum Found {
    /// The last byte of a chunk that is not zero, at this offset.
    Nonzero(u64),
    /// A good frame.
    Frame(FrameHeader),
}

/// Most tails are long and all zeros: compared in blocks, which is fast.
fn last_nonzero(bytes: &[u8]) -> Option<usize> {
    const ZEROS: [u8; 4096] = [0; 4096];
    let mut end = bytes.len();
    for block in bytes.rchunks(ZEROS.len()) {
        if block != &ZEROS[..block.len()] {
            let last = block.iter().rposition(|byte| *byte != 0)?;
            return Some(end - block.len() + last);
        }
        end -= block.len();
    }
    None
}
