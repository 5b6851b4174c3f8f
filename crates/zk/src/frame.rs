//! Frames: a length of four bytes, then that many bytes.

use bytes::{Buf, Bytes, BytesMut};

use crate::jute::{Encode, Encoder};

/// The longest request a server takes unless told otherwise: 1 MiB - 1 (`jute.maxbuffer`). It closes the
/// connection of a client that announces more.
pub const REQUEST_BYTES_MAX: usize = 0xf_ffff;

/// Bytes of the length in front of a frame.
pub const LENGTH_BYTES: usize = 4;

/// A length that cannot be followed by a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// It is negative.
    #[error("negative frame length {0}")]
    Negative(i32),
    /// It is over the limit.
    #[error("frame of {length} bytes is over the limit of {limit}")]
    TooLong {
        /// Bytes announced.
        length: usize,
        /// Bytes allowed.
        limit: usize,
    },
}

/// What a [`FrameReader`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A frame, without its length.
    Whole(Bytes),
    /// A frame over the limit, of which only the beginning was kept.
    Cut {
        /// Its first bytes.
        head: Bytes,
        /// Its whole length.
        length: usize,
    },
}

/// Cuts a byte stream into frames.
///
/// Memory follows what has arrived, not what was announced: at most about twice the bytes of the frames
/// that are not complete, and 8 KiB.
#[derive(Debug)]
pub struct FrameReader {
    buffer: BytesMut,
    limit: usize,
    /// How many bytes of a frame over the limit to keep; `None` makes it an error.
    keep: Option<usize>,
    skipping: Option<Skipping>,
}

#[derive(Debug)]
struct Skipping {
    head: Bytes,
    length: usize,
    /// Bytes that are still to be thrown away.
    left: usize,
}

impl FrameReader {
    /// Least room to read into.
    const ROOM_MIN: usize = 2 * 1024;
    /// Room to make when there is less.
    const ROOM: usize = 8 * 1024;

    /// A reader for which a frame over `limit` bytes is an error.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            limit,
            keep: None,
            skipping: None,
        }
    }

    /// A reader that skips frames over `limit` bytes, but for their first `keep` bytes.
    #[must_use]
    pub fn cutting(limit: usize, keep: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            limit: limit.max(keep),
            keep: Some(keep),
            skipping: None,
        }
    }

    /// Where to put bytes that arrive; there is room in it.
    pub fn space(&mut self) -> &mut BytesMut {
        if self.buffer.capacity() - self.buffer.len() < Self::ROOM_MIN {
            self.buffer.reserve(Self::ROOM.max(self.buffer.len()));
        }
        &mut self.buffer
    }

    /// The first four bytes that have not been taken, for those who expect something else than a frame.
    #[must_use]
    pub fn peek_word(&self) -> Option<[u8; LENGTH_BYTES]> {
        self.buffer.first_chunk().copied()
    }

    /// Bytes that have arrived and not been taken.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// Takes the next frame, if it is there.
    ///
    /// # Errors
    /// When what follows cannot be a frame; every later call says the same.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        if self.skipping.is_some() {
            return Ok(self.skip());
        }
        let Some(length) = self.peek_word().map(i32::from_be_bytes) else {
            return Ok(None);
        };
        let length = usize::try_from(length).map_err(|_| FrameError::Negative(length))?;
        if length > self.limit {
            let keep = self.keep.ok_or(FrameError::TooLong {
                length,
                limit: self.limit,
            })?;
            if self.buffer.len() < LENGTH_BYTES + keep {
                return Ok(None);
            }
            self.buffer.advance(LENGTH_BYTES);
            let head = self.buffer.split_to(keep).freeze();
            self.skipping = Some(Skipping {
                head,
                length,
                left: length - keep,
            });
            return Ok(self.skip());
        }
        if self.buffer.len() < LENGTH_BYTES + length {
            return Ok(None);
        }
        self.buffer.advance(LENGTH_BYTES);
        Ok(Some(Frame::Whole(self.buffer.split_to(length).freeze())))
    }

    fn skip(&mut self) -> Option<Frame> {
        let skipping = self.skipping.as_mut()?;
        let now = skipping.left.min(self.buffer.len());
        self.buffer.advance(now);
        skipping.left -= now;
        if skipping.left > 0 {
            return None;
        }
        let Skipping { head, length, .. } = self.skipping.take()?;
        Some(Frame::Cut { head, length })
    }
}

/// Appends a frame that holds `header` and `body`.
///
/// # Panics
/// When the frame is longer than `i32::MAX`.
pub fn append_frame(output: &mut Vec<u8>, header: &impl Encode, body: &impl Encode) {
    let start = output.len();
    output.extend_from_slice(&[0; LENGTH_BYTES]);
    let mut encoder = Encoder::new(std::mem::take(output));
    encoder.write(header);
    encoder.write(body);
    *output = encoder.into_bytes();
    let length = i32::try_from(output.len() - start - LENGTH_BYTES)
        .expect("senders limit a record to far less than 2 GiB");
    output[start..start + LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(reader: &mut FrameReader, bytes: &[u8]) {
        reader.space().extend_from_slice(bytes);
    }

    #[test]
    fn frames_come_out_whole_however_they_arrive() {
        let mut stream = Vec::new();
        append_frame(&mut stream, &7_i32, &"abc");
        append_frame(&mut stream, &8_i32, &());
        for step in 1..stream.len() {
            let mut reader = FrameReader::new(64);
            let mut frames = Vec::new();
            for chunk in stream.chunks(step) {
                feed(&mut reader, chunk);
                while let Some(Frame::Whole(frame)) = reader.next_frame().unwrap() {
                    frames.push(frame);
                }
            }
            assert_eq!(frames, [&b"\0\0\0\x07\0\0\0\x03abc"[..], b"\0\0\0\x08"]);
            assert_eq!(reader.buffered(), 0);
        }
    }

    #[test]
    fn bad_lengths_are_errors_before_anything_is_allocated() {
        let mut reader = FrameReader::new(REQUEST_BYTES_MAX);
        feed(&mut reader, &[0, 0x10, 0, 0]);
        assert_eq!(
            reader.next_frame(),
            Err(FrameError::TooLong {
                length: 0x10_0000,
                limit: REQUEST_BYTES_MAX
            })
        );
        assert!(reader.buffer.capacity() <= FrameReader::ROOM);
        let mut reader = FrameReader::new(REQUEST_BYTES_MAX);
        feed(&mut reader, &[0xff, 0xff, 0xff, 0xff]);
        assert_eq!(reader.next_frame(), Err(FrameError::Negative(-1)));
        let mut reader = FrameReader::new(REQUEST_BYTES_MAX);
        feed(&mut reader, &[0, 0x0f, 0xff, 0xff]);
        assert_eq!(reader.next_frame(), Ok(None));
    }

    #[test]
    fn long_frames_are_cut_without_being_kept() {
        let mut reader = FrameReader::cutting(100, 4);
        feed(&mut reader, &1_000_000_i32.to_be_bytes());
        feed(&mut reader, b"head");
        let mut left = 1_000_000 - 4;
        while left > 0 {
            assert_eq!(reader.next_frame(), Ok(None));
            let now = left.min(1000);
            feed(&mut reader, &vec![0; now]);
            left -= now;
        }
        feed(&mut reader, &[0, 0, 0, 1, 9]);
        assert_eq!(
            reader.next_frame(),
            Ok(Some(Frame::Cut {
                head: Bytes::from_static(b"head"),
                length: 1_000_000
            }))
        );
        assert_eq!(
            reader.next_frame(),
            Ok(Some(Frame::Whole(Bytes::from_static(&[9]))))
        );
        assert!(reader.buffer.capacity() <= 2 * FrameReader::ROOM);
    }
}
