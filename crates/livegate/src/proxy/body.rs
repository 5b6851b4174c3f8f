//! A message body on its way from one connection to another: framing off, framing on.

use crate::buffer::{BODY_BYTES, Buffer};
use crate::http::Framing;
use crate::http::chunked::{self, ChunkError, Decoder, Step};

/// The connection ended before the body did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncated;

enum Source {
    Done,
    Length(u64),
    Chunked(Decoder),
    Close,
}

/// A body: how its bytes come, and whether they leave in chunks.
pub struct Body {
    source: Source,
    chunks_out: bool,
    /// Body bytes passed on so far, framing not counted.
    pub passed: u64,
}

impl Body {
    /// A body that comes with this framing. With `chunks_out` it leaves chunked unless its
    /// length is known.
    pub fn new(framing: Framing, chunks_out: bool) -> Self {
        let source = match framing {
            Framing::None => Source::Done,
            Framing::Length(length) => Source::Length(length),
            Framing::Chunked => Source::Chunked(Decoder::new()),
            Framing::Close => Source::Close,
        };
        let chunks_out = chunks_out && matches!(source, Source::Chunked(_) | Source::Close);
        Self {
            source,
            chunks_out,
            passed: 0,
        }
    }

    /// True when no byte is missing.
    pub fn is_done(&self) -> bool {
        matches!(self.source, Source::Done)
    }

    /// True when the body leaves in chunks.
    pub fn leaves_in_chunks(&self) -> bool {
        self.chunks_out
    }

    /// Bytes that may still pass from socket to socket untouched; 0 when the framing must be
    /// looked at.
    pub fn plain_left(&self) -> u64 {
        match self.source {
            Source::Length(left) => left,
            Source::Close if !self.chunks_out => u64::MAX,
            Source::Close | Source::Chunked(_) | Source::Done => 0,
        }
    }

    /// Bytes that are missing for sure.
    pub fn length_left(&self) -> Option<u64> {
        match self.source {
            Source::Done => Some(0),
            Source::Length(left) => Some(left),
            Source::Chunked(_) | Source::Close => None,
        }
    }

    /// Counts bytes that passed untouched, at most [`Body::plain_left`].
    pub fn pass(&mut self, count: u64) {
        self.passed += count;
        if let Source::Length(left) = &mut self.source {
            *left -= count;
            if *left == 0 {
                self.source = Source::Done;
            }
        }
    }

    /// Moves what is there from `from` to `into`, reframed, until the body is done, `from`
    /// is empty or `into` holds about [`BODY_BYTES`].
    ///
    /// # Errors
    ///
    /// [`ChunkError`] when the framing is bad; nothing may follow then.
    pub fn transfer(&mut self, from: &mut Buffer, into: &mut Buffer) -> Result<(), ChunkError> {
        while !from.is_empty() && into.len() < BODY_BYTES {
            match &mut self.source {
                Source::Done => break,
                Source::Length(left) => {
                    let count = usize::try_from(*left).unwrap_or(usize::MAX).min(from.len());
                    into.extend(&from.filled()[..count]);
                    from.consume(count);
                    self.pass(count as u64);
                }
                Source::Close => {
                    let count = from.len();
                    emit(self.chunks_out, from.filled(), into);
                    from.consume(count);
                    self.passed += count as u64;
                }
                Source::Chunked(decoder) => match decoder.step(from.filled())? {
                    Step::NeedMore => from.clear(),
                    Step::Data { skip, length } => {
                        emit(self.chunks_out, &from.filled()[skip..skip + length], into);
                        from.consume(skip + length);
                        self.passed += length as u64;
                    }
                    Step::End(used) => {
                        if self.chunks_out {
                            decoder.write_end(into)?;
                        }
                        from.consume(used);
                        self.source = Source::Done;
                    }
                },
            }
        }
        Ok(())
    }

    /// The connection that the body comes from has ended.
    ///
    /// # Errors
    ///
    /// [`Truncated`] unless that is how this body ends.
    pub fn end_of_input(&mut self, into: &mut Buffer) -> Result<(), Truncated> {
        match self.source {
            Source::Done => Ok(()),
            Source::Close => {
                if self.chunks_out {
                    into.extend(b"0\r\n\r\n");
                }
                self.source = Source::Done;
                Ok(())
            }
            Source::Length(_) | Source::Chunked(_) => Err(Truncated),
        }
    }
}

fn emit(in_chunks: bool, data: &[u8], into: &mut Buffer) {
    if in_chunks {
        chunked::write_chunk(into, data);
    } else {
        into.extend(data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transfer(framing: Framing, chunks_out: bool, input: &[u8]) -> (String, Body, usize) {
        let (mut body, mut from, mut into) = (
            Body::new(framing, chunks_out),
            Buffer::new(64),
            Buffer::new(64),
        );
        from.extend(input);
        body.transfer(&mut from, &mut into).expect("valid");
        let left = from.len();
        if !body.is_done() {
            body.end_of_input(&mut into).ok();
        }
        (
            String::from_utf8(into.filled().to_vec()).expect("text"),
            body,
            left,
        )
    }

    #[test]
    fn framings_are_translated() {
        let chunked = b"5\r\nhello\r\n3;x=y\r\nabc\r\n0\r\nT: v\r\n\r\nrest";
        let (text, body, left) = transfer(Framing::Chunked, true, chunked);
        assert_eq!(
            (text.as_str(), left, body.passed),
            ("5\r\nhello\r\n3\r\nabc\r\n0\r\nT: v\r\n\r\n", 4, 8)
        );
        assert!(body.is_done());
        let (text, ..) = transfer(Framing::Chunked, false, chunked);
        assert_eq!(text, "helloabc");
        let (text, ..) = transfer(Framing::Close, true, b"hello");
        assert_eq!(text, "5\r\nhello\r\n0\r\n\r\n");
        let (text, body, left) = transfer(Framing::Length(5), true, b"hellorest");
        assert_eq!((text.as_str(), left, body.is_done()), ("hello", 4, true));
    }

    #[test]
    fn what_is_cut_short_is_never_done() {
        for (framing, input) in [
            (Framing::Length(6), &b"hello"[..]),
            (Framing::Chunked, b"5\r\nhello\r\n"),
        ] {
            let (text, body, _) = transfer(framing, true, input);
            assert!(!body.is_done());
            assert!(!text.contains("0\r\n"));
        }
    }
}
