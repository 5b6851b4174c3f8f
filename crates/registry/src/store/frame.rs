//! How records lie in a log file.
//!
//! ```text
//! segment: magic 8 | version u32 | checksum u32 | first sequence u64 | salt u64 | frame | frame | ... | zeros
//! frame:   checksum u32 | length u32 | sequence u64 | first sequence of its batch u64 | record
//! ```
//!
//! Numbers are little-endian. A frame's checksum is the CRC32C of the file's salt and of all that follows the
//! checksum. The salt is random: bytes that a client chose, or blocks of a deleted file, never pass for a frame.
//!
//! The batch tells a torn tail from damage. A batch is one write and one fdatasync, and the next one is written
//! when that has succeeded. So if a good frame follows a bad one, and is of a *later* batch, then the bad one was
//! durable once: its loss is damage. If it is of the same batch, the machine stopped amid the write.

/// What precedes a record.
pub(super) const FRAME_HEADER_BYTES: usize = 24;

/// What precedes the frames of a segment.
pub(super) const SEGMENT_HEADER_BYTES: usize = 32;

/// No record or piece is longer, whatever the options say: bounds what damaged bytes make recovery allocate.
pub(super) const RECORD_BYTES_LIMIT: usize = 64 * 1024 * 1024;

const SEGMENT_MAGIC: [u8; 8] = *b"LVGT-LOG";
const SEGMENT_VERSION: u32 = 1;

/// What a segment's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) first: u64,
    pub(super) salt: u64,
}

/// Why a header is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeaderError {
    Damaged,
    /// Written by another version of this program.
    Version(u32),
}

impl SegmentHeader {
    pub(super) fn encode(self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        bytes[..8].copy_from_slice(&SEGMENT_MAGIC);
        bytes[8..12].copy_from_slice(&SEGMENT_VERSION.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.first.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.salt.to_le_bytes());
        let checksum = header_checksum(&bytes);
        bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; SEGMENT_HEADER_BYTES]) -> Result<SegmentHeader, HeaderError> {
        if bytes[..8] != SEGMENT_MAGIC || read_u32(bytes, 12) != header_checksum(bytes) {
            return Err(HeaderError::Damaged);
        }
        match read_u32(bytes, 8) {
            SEGMENT_VERSION => Ok(SegmentHeader {
                first: read_u64(bytes, 16),
                salt: read_u64(bytes, 24),
            }),
            version => Err(HeaderError::Version(version)),
        }
    }
}

fn header_checksum(bytes: &[u8; SEGMENT_HEADER_BYTES]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..])
}

/// What precedes a record, not yet believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHeader {
    pub(super) checksum: u32,
    pub(super) length: usize,
    pub(super) sequence: u64,
    pub(super) batch_first: u64,
}

impl FrameHeader {
    /// `None` if no frame begins like this.
    pub(super) fn decode(bytes: &[u8; FRAME_HEADER_BYTES]) -> Option<FrameHeader> {
        let length = usize::try_from(read_u32(bytes, 4))
            .ok()
            .filter(|length| *length <= RECORD_BYTES_LIMIT)?;
        let header = FrameHeader {
            checksum: read_u32(bytes, 0),
            length,
            sequence: read_u64(bytes, 8),
            batch_first: read_u64(bytes, 16),
        };
        (header.batch_first <= header.sequence).then_some(header)
    }
}

/// Appends a frame whose batch and checksum [`seal`] fills in. The record must not be longer than
/// [`RECORD_BYTES_LIMIT`].
pub(super) fn append_frame(buffer: &mut Vec<u8>, sequence: u64, record: &[u8]) {
    let length = u32::try_from(record.len()).expect("the caller has checked the length");
    buffer.extend_from_slice(&[0; 4]);
    buffer.extend_from_slice(&length.to_le_bytes());
    buffer.extend_from_slice(&sequence.to_le_bytes());
    buffer.extend_from_slice(&[0; 8]);
    buffer.extend_from_slice(record);
}

/// Makes these frames one batch of the segment with this salt. Sealing again for another segment is fine.
pub(super) fn seal(frames: &mut [u8], salt: u64) {
    let Some(first) = first_sequence(frames) else {
        return;
    };
    let mut rest = frames;
    while !rest.is_empty() {
        let length = usize::try_from(read_u32(rest, 4)).expect("a u32 fits");
        let (frame, after) = rest.split_at_mut(FRAME_HEADER_BYTES + length);
        frame[16..24].copy_from_slice(&first.to_le_bytes());
        let checksum = frame_checksum(salt, &frame[4..]);
        frame[..4].copy_from_slice(&checksum.to_le_bytes());
        rest = after;
    }
}

/// The sequence of the first of these frames.
pub(super) fn first_sequence(frames: &[u8]) -> Option<u64> {
    (frames.len() >= FRAME_HEADER_BYTES).then(|| read_u64(frames, 8))
}

/// The checksum over what follows it in a frame.
pub(super) fn frame_checksum(salt: u64, covered: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&salt.to_le_bytes()), covered)
}

/// The number at `at`, which the caller knows to be within `bytes`.
pub(super) fn read_u32(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

/// The number at `at`, which the caller knows to be within `bytes`.
pub(super) fn read_u64(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}
