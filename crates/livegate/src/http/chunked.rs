//! Chunked transfer coding (RFC 9112 section 7.1), read strictly and written anew.

use super::field::{self, Field};
use crate::buffer::Buffer;

/// Bytes of chunk extensions that one message may carry in all; they mean nothing to a
/// gateway and are not passed on (CVE-2023-39326 and CVE-2024-22019 are floods of them).
const EXTENSION_BYTES_MAX: usize = 4 * 1024;
/// Bytes of a trailer section.
const TRAILER_BYTES_MAX: usize = 8 * 1024;
/// Fields of a trailer section.
const TRAILER_FIELDS_MAX: usize = 32;
/// Digits of a chunk size: 2^60 bytes is more than any body.
const SIZE_DIGITS_MAX: u8 = 15;

/// Why a chunked body cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ChunkError(&'static str);

/// What one step of the decoder found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The whole input was framing; more is needed.
    NeedMore,
    /// Body bytes: `skip` bytes of framing, then `length` bytes of data.
    Data {
        /// Framing bytes before the data.
        skip: usize,
        /// Data bytes, at least one.
        length: usize,
    },
    /// The message ended after this many bytes of input.
    End(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    SizeStart,
    Size,
    ExtensionName { empty: bool },
    ExtensionValue { empty: bool },
    Quoted,
    QuotedPair,
    AfterQuoted,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    Trailer,
    Done,
}

/// An incremental decoder: the same bytes give the same result however they are cut.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    remaining: u64,
    digits: u8,
    extension_bytes: usize,
    trailer: Vec<u8>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// A decoder at the start of a body.
    pub const fn new() -> Self {
        Self {
            state: State::SizeStart,
            remaining: 0,
            digits: 0,
            extension_bytes: 0,
            trailer: Vec::new(),
        }
    }

    /// True after the last chunk and the trailer section were read.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Reads framing up to the next data or the end. The caller then has used up `skip + length`
    /// bytes ([`Step::Data`]), all of them ([`Step::NeedMore`]) or the number given
    /// ([`Step::End`]).
    ///
    /// # Errors
    ///
    /// [`ChunkError`] when the bytes break the grammar or a limit; the decoder is of no
    /// use afterwards.
    pub fn step(&mut self, input: &[u8]) -> Result<Step, ChunkError> {
        let mut at = 0;
        while at < input.len() {
            if self.state == State::Data {
                let length = usize::try_from(self.remaining)
                    .unwrap_or(usize::MAX)
                    .min(input.len() - at);
                self.remaining -= length as u64;
                if self.remaining == 0 {
                    self.state = State::DataCr;
                }
                return Ok(Step::Data { skip: at, length });
            }
            let byte = input[at];
            at += 1;
            self.state = match self.state {
                State::SizeStart | State::Size => self.size(byte)?,
                State::ExtensionName { .. }
                | State::ExtensionValue { .. }
                | State::Quoted
                | State::QuotedPair
                | State::AfterQuoted => self.extension(byte)?,
                State::SizeLf if byte != b'\n' => {
                    return Err(ChunkError("chunk size line not ended by CRLF"));
                }
                State::SizeLf if self.remaining == 0 => State::Trailer,
                State::SizeLf => State::Data,
                State::DataCr if byte != b'\r' => {
                    return Err(ChunkError("chunk longer than its size"));
                }
                State::DataCr => State::DataLf,
                State::DataLf if byte != b'\n' => {
                    return Err(ChunkError("chunk data not followed by CRLF"));
                }
                State::DataLf => {
                    self.digits = 0;
                    State::SizeStart
                }
                State::Trailer => self.trailer_byte(byte)?,
                State::Data | State::Done => {
                    unreachable!("data is taken above, and nobody reads on after the end")
                }
            };
            if self.state == State::Done {
                return Ok(Step::End(at));
            }
        }
        Ok(Step::NeedMore)
    }

    fn size(&mut self, byte: u8) -> Result<State, ChunkError> {
        if let Some(digit) = (byte as char).to_digit(16) {
            self.digits += 1;
            if self.digits > SIZE_DIGITS_MAX {
                return Err(ChunkError("chunk size too large"));
            }
            self.remaining = self.remaining << 4 | u64::from(digit);
            return Ok(State::Size);
        }
        match byte {
            _ if self.state == State::SizeStart => {
                Err(ChunkError("chunk size missing or not hexadecimal"))
            }
            b'\r' => Ok(State::SizeLf),
            b';' => self.count_extension(State::ExtensionName { empty: true }),
            _ => Err(ChunkError("chunk size not hexadecimal")),
        }
    }

    fn count_extension(&mut self, next: State) -> Result<State, ChunkError> {
        self.extension_bytes += 1;
        if self.extension_bytes > EXTENSION_BYTES_MAX {
            return Err(ChunkError("too many bytes of chunk extensions"));
        }
        Ok(next)
    }

    /// `chunk-ext = *( ";" name [ "=" ( token / quoted-string ) ] )`, without the bad
    /// whitespace that the grammar tolerates.
    fn extension(&mut self, byte: u8) -> Result<State, ChunkError> {
        let next = match (self.state, byte) {
            (State::Quoted, b'"') => State::AfterQuoted,
            (State::Quoted, b'\\') => State::QuotedPair,
            (State::Quoted | State::QuotedPair, b'\t' | b' '..=b'~' | 0x80..) => State::Quoted,
            (State::ExtensionName { empty: false }, b'=') => State::ExtensionValue { empty: true },
            (State::ExtensionValue { empty: true }, b'"') => State::Quoted,
            (
                State::ExtensionName { empty: false }
                | State::ExtensionValue { empty: false }
                | State::AfterQuoted,
                b'\r',
            ) => State::SizeLf,
            (
                State::ExtensionName { empty: false }
                | State::ExtensionValue { empty: false }
                | State::AfterQuoted,
                b';',
            ) => State::ExtensionName { empty: true },
            (State::ExtensionName { .. }, _) if is_token_byte(byte) => {
                State::ExtensionName { empty: false }
            }
            (State::ExtensionValue { .. }, _) if is_token_byte(byte) => {
                State::ExtensionValue { empty: false }
            }
            _ => return Err(ChunkError("invalid chunk extension")),
        };
        self.count_extension(next)
    }

    fn trailer_byte(&mut self, byte: u8) -> Result<State, ChunkError> {
        let after_cr = self.trailer.last() == Some(&b'\r');
        if after_cr != (byte == b'\n') {
            return Err(ChunkError("trailer line not ended by CRLF"));
        }
        self.trailer.push(byte);
        if self.trailer == b"\r\n" || self.trailer.ends_with(b"\r\n\r\n") {
            return Ok(State::Done);
        }
        if self.trailer.len() > TRAILER_BYTES_MAX {
            return Err(ChunkError("trailer section too large"));
        }
        Ok(State::Trailer)
    }

    /// Writes the last chunk and the trailer fields that may be passed on: those that do
    /// not frame, route or authenticate (RFC 9110 section 6.5.1). They stay trailers.
    ///
    /// # Errors
    ///
    /// [`ChunkError`] when the trailer section breaks the grammar of fields.
    pub fn write_end(&self, out: &mut Buffer) -> Result<(), ChunkError> {
        out.extend(b"0\r\n");
        if self.trailer.len() > 2 {
            let mut slots = [httparse::EMPTY_HEADER; TRAILER_FIELDS_MAX];
            let fields = match httparse::parse_headers(&self.trailer, &mut slots) {
                Ok(httparse::Status::Complete((_, fields))) => fields,
                Ok(httparse::Status::Partial) | Err(_) => {
                    return Err(ChunkError("invalid trailer field"));
                }
            };
            for header in fields.iter().filter(|header| may_be_trailer(header.name)) {
                out.extend(header.name.as_bytes());
                out.extend(b": ");
                out.extend(header.value);
                out.extend(b"\r\n");
            }
        }
        out.extend(b"\r\n");
        Ok(())
    }
}

const fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

fn may_be_trailer(name: &str) -> bool {
    const FORBIDDEN: [&str; 16] = [
        "age",
        "authorization",
        "cache-control",
        "content-encoding",
        "content-range",
        "content-type",
        "cookie",
        "expires",
        "location",
        "max-forwards",
        "pragma",
        "range",
        "set-cookie",
        "trailer",
        "vary",
        "www-authenticate",
    ];
    matches!(field::classify(name.as_bytes()), Field::Other)
        && !FORBIDDEN
            .iter()
            .any(|forbidden| name.eq_ignore_ascii_case(forbidden))
}

/// Writes one chunk. `data` is not empty: an empty chunk would end the body.
pub fn write_chunk(out: &mut Buffer, data: &[u8]) {
    debug_assert!(!data.is_empty(), "an empty chunk ends the body");
    write_size(out, data.len());
    out.extend(data);
    out.extend(b"\r\n");
}

/// Writes the size line of a chunk.
fn write_size(out: &mut Buffer, size: usize) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut line = [0u8; 18];
    let mut at = 16;
    let mut rest = size;
    while rest > 0 || at == 16 {
        at -= 1;
        line[at] = DIGITS[rest & 15];
        rest >>= 4;
    }
    line[16] = b'\r';
    line[17] = b'\n';
    out.extend(&line[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(input: &[u8], cut: usize) -> Result<(Vec<u8>, usize, Decoder), ChunkError> {
        let (mut decoder, mut body, mut used) = (Decoder::new(), Vec::new(), 0);
        for piece in input.chunks(cut) {
            let mut piece = piece;
            while !piece.is_empty() {
                match decoder.step(piece)? {
                    Step::NeedMore => {
                        used += piece.len();
                        piece = &[];
                    }
                    Step::Data { skip, length } => {
                        body.extend_from_slice(&piece[skip..skip + length]);
                        used += skip + length;
                        piece = &piece[skip + length..];
                    }
                    Step::End(length) => return Ok((body, used + length, decoder)),
                }
            }
        }
        Ok((body, used, decoder))
    }

    #[test]
    fn cutting_makes_no_difference() {
        let input =
            b"5\r\nhello\r\nA;a=b;c=\"d;\\\"e\"\r\n0123456789\r\n0\r\nX-T: v\r\n\r\nGET /next";
        for cut in 1..input.len() {
            let (body, used, decoder) = decode(input, cut).expect("valid");
            assert_eq!(body, b"hello0123456789");
            assert_eq!(used, input.len() - b"GET /next".len());
            assert!(decoder.is_done());
            let mut out = Buffer::new(64);
            decoder.write_end(&mut out).expect("valid trailer");
            assert_eq!(out.filled(), b"0\r\nX-T: v\r\n\r\n");
        }
    }

    #[test]
    fn anything_doubtful_is_refused() {
        for bad in [
            "0x5\r\nhello\r\n0\r\n\r\n",
            "+5\r\nhello\r\n0\r\n\r\n",
            "-5\r\nhello\r\n0\r\n\r\n",
            "5g\r\nhello\r\n0\r\n\r\n",
            "\r\nhello\r\n0\r\n\r\n",
            " 5\r\nhello\r\n0\r\n\r\n",
            "5 \r\nhello\r\n0\r\n\r\n",
            "5\nhello\r\n0\r\n\r\n",
            "5\rhello\r\n0\r\n\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "5\r\nhelloXX\r\n0\r\n\r\n",
            "5;\r\nhello\r\n0\r\n\r\n",
            "5;a=\r\nhello\r\n0\r\n\r\n",
            "5;a b\r\nhello\r\n0\r\n\r\n",
            "5;a=\"b\r\nhello\r\n0\r\n\r\n",
            "2;\nxx\r\n0\r\n\r\n",
            "1_0\r\nhello\r\n0\r\n\r\n",
            "10000000000000005\r\nhello\r\n0\r\n\r\n",
            "0\r\nX: y\n\r\n",
            "0\n\n",
            "0\r\n\n",
            "0\r\nX: y\rZ: a\r\n\r\n",
        ] {
            assert!(decode(bad.as_bytes(), 3).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn extensions_and_trailers_are_bounded() {
        let flood = format!(
            "5;{}\r\nhello\r\n0\r\n\r\n",
            "a".repeat(EXTENSION_BYTES_MAX)
        );
        assert!(decode(flood.as_bytes(), 1000).is_err());
        let spread = "1;a\r\nx\r\n".repeat(EXTENSION_BYTES_MAX);
        assert!(decode(spread.as_bytes(), 1000).is_err());
        let trailer = format!("0\r\nX: {}\r\n\r\n", "a".repeat(TRAILER_BYTES_MAX));
        assert!(decode(trailer.as_bytes(), 1000).is_err());
    }

    #[test]
    fn trailers_that_frame_or_route_are_dropped() {
        let input = b"0\r\nContent-Length: 3\r\nHost: evil\r\nX-Forwarded-For: 6.6.6.6\r\nX-Sum: 1\r\nAuthorization: x\r\n\r\n";
        let (_, _, decoder) = decode(input, 7).expect("valid");
        let mut out = Buffer::new(64);
        decoder.write_end(&mut out).expect("valid trailer");
        assert_eq!(out.filled(), b"0\r\nX-Sum: 1\r\n\r\n");
        let (_, _, decoder) = decode(b"0\r\nX Y: 1\r\n\r\n", 7).expect("framing is fine");
        assert!(decoder.write_end(&mut out).is_err());
    }

    #[test]
    fn chunks_are_written_in_hexadecimal() {
        let mut out = Buffer::new(64);
        write_chunk(&mut out, &[b'x'; 26]);
        assert_eq!(
            out.filled(),
            format!("1a\r\n{}\r\n", "x".repeat(26)).as_bytes()
        );
    }
}
