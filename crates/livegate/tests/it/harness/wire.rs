//! HTTP/1.1 messages as they are on the wire: a reader with a deadline, and a strict parser of its own
//! (nothing of the gateway's code is used here), for both the client's and the origin's side.
//!
//! Text is kept as one `char` per byte, so that nothing is lost and everything can be printed.

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use super::wait::PATIENCE;

/// Why a message could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WireError {
    /// End of stream; what had come of the message until then.
    Closed(Vec<u8>),
    /// Reset by the peer.
    Reset,
    /// The deadline passed; what had come until then.
    Deadline(Vec<u8>),
    /// Not HTTP/1.1 as RFC 9112 has it.
    Malformed(String),
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WireError::Closed(bytes) => write!(f, "closed after {:?}", latin1(bytes)),
            WireError::Reset => f.write_str("reset"),
            WireError::Deadline(bytes) => write!(f, "nothing more came after {:?}", latin1(bytes)),
            WireError::Malformed(what) => write!(f, "malformed: {what}"),
        }
    }
}

/// One `char` per byte.
pub(crate) fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

/// A connection with what was read ahead of it.
pub(crate) struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
    used: usize,
    deadline: Instant,
    received: u64,
}

impl Wire {
    pub(crate) fn new(stream: TcpStream) -> Wire {
        stream.set_nodelay(true).unwrap();
        Wire {
            stream,
            buffer: Vec::new(),
            used: 0,
            deadline: Instant::now() + PATIENCE,
            received: 0,
        }
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// All bytes that came so far.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// Everything that is awaited from now on must come within this time.
    pub(crate) fn patience(&mut self, patience: Duration) {
        self.deadline = Instant::now() + patience;
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    pub(crate) fn half_close(&self) {
        // The peer may have closed already: then there is nothing left to do.
        drop(self.stream.shutdown(Shutdown::Write));
    }

    /// Closes with a reset instead of an orderly end.
    pub(crate) fn reset(self) {
        socket2::SockRef::from(&self.stream)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    }

    /// What has been read but not used.
    pub(crate) fn pending(&self) -> &[u8] {
        &self.buffer[self.used..]
    }

    /// Reads more; 0 means end of stream.
    pub(crate) fn fill(&mut self) -> Result<usize, WireError> {
        if self.used > 0 && self.used == self.buffer.len() {
            self.buffer.clear();
            self.used = 0;
        }
        let mut chunk = [0; 64 * 1024];
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(WireError::Deadline(self.pending().to_vec()));
            }
            self.stream.set_read_timeout(Some(left)).unwrap();
            match self.stream.read(&mut chunk) {
                Ok(count) => {
                    self.buffer.extend_from_slice(&chunk[..count]);
                    self.received += count as u64;
                    return Ok(count);
                }
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted | ErrorKind::WouldBlock | ErrorKind::TimedOut => {}
                    _ => return Err(WireError::Reset),
                },
            }
        }
    }

    fn more(&mut self) -> Result<(), WireError> {
        match self.fill()? {
            0 => Err(WireError::Closed(self.pending().to_vec())),
            _ => Ok(()),
        }
    }

    /// A line without its CRLF. A bare CR or LF is malformed.
    pub(crate) fn line(&mut self) -> Result<Vec<u8>, WireError> {
        let mut searched = 0;
        loop {
            if let Some(at) = self.pending()[searched..]
                .iter()
                .position(|byte| *byte == b'\n')
            {
                let line = self.take(searched + at + 1)?;
                let Some(text) = line.strip_suffix(b"\r\n") else {
                    return Err(WireError::Malformed(format!(
                        "bare LF after {:?}",
                        latin1(&line)
                    )));
                };
                if text.contains(&b'\r') || text.contains(&0) {
                    return Err(WireError::Malformed(format!(
                        "CR or NUL in {:?}",
                        latin1(text)
                    )));
                }
                return Ok(text.to_vec());
            }
            searched = self.pending().len();
            self.more()?;
        }
    }

    /// Exactly `count` bytes.
    pub(crate) fn take(&mut self, count: usize) -> Result<Vec<u8>, WireError> {
        while self.pending().len() < count {
            self.more()?;
        }
        let bytes = self.buffer[self.used..self.used + count].to_vec();
        self.used += count;
        if self.used == self.buffer.len() {
            self.buffer.clear();
            self.used = 0;
        }
        Ok(bytes)
    }

    /// Everything until the end of the stream; false when the end was a reset.
    pub(crate) fn rest(&mut self) -> Result<(Vec<u8>, bool), WireError> {
        loop {
            match self.fill() {
                Ok(0) => break Ok((self.take(self.pending().len())?, true)),
                Ok(_) => {}
                Err(WireError::Reset) => break Ok((self.take(self.pending().len())?, false)),
                Err(error) => break Err(error),
            }
        }
    }

    /// The next message head, strictly read.
    pub(crate) fn head(&mut self) -> Result<Head, WireError> {
        let start = latin1(&self.line()?);
        let fields = self.fields()?;
        Ok(Head { start, fields })
    }

    /// Field lines up to the empty line: a header or a trailer section.
    fn fields(&mut self) -> Result<Vec<(String, String)>, WireError> {
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(fields);
            }
            let text = latin1(&line);
            let bad = |why: &str| WireError::Malformed(format!("{why}: {text:?}"));
            let (name, value) = text.split_once(':').ok_or_else(|| bad("no colon"))?;
            if name.is_empty() || !name.chars().all(is_token_char) {
                return Err(bad("field name"));
            }
            let value = value.trim_matches([' ', '\t']);
            if value.chars().any(|c| (c < ' ' && c != '\t') || c == '\x7f') {
                return Err(bad("control byte in value"));
            }
            fields.push((name.to_owned(), value.to_owned()));
        }
    }

    /// A body framed as `framing` says; appended to `body` as it comes, so that a part is not lost.
    pub(crate) fn body(&mut self, framing: Framing, body: &mut Body) -> Result<(), WireError> {
        match framing {
            Framing::None => {}
            Framing::Length(length) => self.copy(length, &mut body.bytes)?,
            Framing::UntilClose => {
                let (bytes, orderly) = self.rest()?;
                body.bytes.extend(bytes);
                if !orderly {
                    return Err(WireError::Reset);
                }
            }
            Framing::Chunked => loop {
                let line = latin1(&self.line()?);
                let (size, extension) = match line.split_once(';') {
                    Some((size, extension)) => (size, Some(extension)),
                    None => (line.as_str(), None),
                };
                if size.is_empty() || !size.chars().all(|c| c.is_ascii_hexdigit()) {
                    return Err(WireError::Malformed(format!("chunk size {line:?}")));
                }
                let size = u64::from_str_radix(size, 16)
                    .map_err(|_| WireError::Malformed(format!("chunk size {line:?}")))?;
                body.extensions.extend(extension.map(str::to_owned));
                if size == 0 {
                    body.trailers = self.fields()?;
                    break;
                }
                self.copy(size, &mut body.bytes)?;
                if self.take(2)? != b"\r\n" {
                    return Err(WireError::Malformed(
                        "chunk data not followed by CRLF".to_owned(),
                    ));
                }
            },
        }
        body.complete = true;
        Ok(())
    }

    fn copy(&mut self, mut length: u64, bytes: &mut Vec<u8>) -> Result<(), WireError> {
        while length > 0 {
            if self.pending().is_empty() {
                self.more()?;
            }
            let count = self
                .pending()
                .len()
                .min(usize::try_from(length).unwrap_or(usize::MAX));
            bytes.extend(self.take(count)?);
            length -= count as u64;
        }
        Ok(())
    }
}

/// Start line and fields, in the order and the case in which they came.
#[derive(Debug, Clone, Default)]
pub(crate) struct Head {
    pub(crate) start: String,
    pub(crate) fields: Vec<(String, String)>,
}

impl Head {
    /// All values of a field.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.fields
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.as_str())
            .collect()
    }

    /// The value of a field that is there at most once.
    #[track_caller]
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(
            all.len() <= 1,
            "{name} is there {} times: {:?}",
            all.len(),
            self.fields
        );
        all.first().copied()
    }

    /// Does a list field (all its lines) name this member?
    pub(crate) fn lists(&self, name: &str, member: &str) -> bool {
        self.all(name)
            .iter()
            .flat_map(|v| v.split(','))
            .any(|m| m.trim().eq_ignore_ascii_case(member))
    }

    /// Framing by the fields alone; an error for everything that two readers could read differently.
    pub(crate) fn framing(&self) -> Result<Option<Framing>, WireError> {
        let lengths = self.all("content-length");
        let codings = self.all("transfer-encoding");
        let bad = |why: &str| {
            Err(WireError::Malformed(format!(
                "{why}: {lengths:?} {codings:?}"
            )))
        };
        match (lengths.as_slice(), codings.as_slice()) {
            ([], []) => Ok(None),
            ([length], []) if !length.is_empty() && length.chars().all(|c| c.is_ascii_digit()) => {
                length.parse().map_or_else(
                    |_| bad("content-length"),
                    |length| Ok(Some(Framing::Length(length))),
                )
            }
            ([], [coding]) if coding.eq_ignore_ascii_case("chunked") => Ok(Some(Framing::Chunked)),
            _ => bad("ambiguous framing"),
        }
    }
}

/// How the end of a body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    None,
    Length(u64),
    Chunked,
    UntilClose,
}

/// A body, or the part of it that came.
#[derive(Debug, Clone, Default)]
pub(crate) struct Body {
    pub(crate) bytes: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
    pub(crate) extensions: Vec<String>,
    pub(crate) complete: bool,
}

/// `tchar` of RFC 9110 5.6.2.
pub(crate) fn is_token_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}
