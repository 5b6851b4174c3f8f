//! What request heads and response heads have in common: finding the end, and the
//! rules that hold for every line.

use std::mem::MaybeUninit;

/// Header fields that fit on the stack; more are read through a vector.
pub const FIELDS_ON_STACK: usize = 128;

/// Memory for the fields of one head, filled by the parser.
pub type FieldSlots<'b> = [MaybeUninit<httparse::Header<'b>>; FIELDS_ON_STACK];

/// Fresh memory for the fields of one head.
pub const fn field_slots<'b>() -> FieldSlots<'b> {
    [const { MaybeUninit::uninit() }; FIELDS_ON_STACK]
}

/// Why a head cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// The bytes break a rule of RFC 9112 or could be read in two ways.
    #[error("{0}")]
    Malformed(&'static str),
    /// A transfer coding other than `chunked` (RFC 9112 section 6.1).
    #[error("transfer coding other than chunked")]
    UnknownCoding,
    /// The target alone is longer than a whole head may be.
    #[error("request target too long")]
    TargetTooLong,
    /// More bytes or more fields than the limits allow.
    #[error("header section too large")]
    TooLarge,
    /// A request that needs a length carries none.
    #[error("content-length required")]
    LengthRequired,
}

impl HeadError {
    /// The error for what the tokeniser refuses.
    pub fn from_tokeniser(error: httparse::Error) -> Self {
        match error {
            httparse::Error::HeaderName => Self::Malformed("invalid header field name"),
            httparse::Error::HeaderValue => Self::Malformed("invalid header field value"),
            httparse::Error::NewLine => Self::Malformed("invalid line end"),
            httparse::Error::Status => Self::Malformed("invalid status code"),
            httparse::Error::Token => Self::Malformed("invalid start line"),
            httparse::Error::TooManyHeaders => Self::TooLarge,
            httparse::Error::Version => Self::Malformed("HTTP version is neither 1.0 nor 1.1"),
        }
    }
}

/// Fails when a line does not end with CRLF: a bare LF is where parsers disagree.
pub fn check_line_ends(head: &[u8]) -> Result<(), HeadError> {
    let Some(rest) = head.get(1..) else {
        return Ok(());
    };
    // Without a branch per byte, so that it is done sixteen bytes at a time.
    let bare = head
        .iter()
        .zip(rest)
        .fold(head[0] == b'\n', |bare, (&before, &byte)| {
            bare | ((byte == b'\n') & (before != b'\r'))
        });
    if bare {
        return Err(HeadError::Malformed("line ended by a bare LF"));
    }
    Ok(())
}

/// Number of empty lines (CRLF) that a head may be preceded by (RFC 9112 section 2.2
/// asks for at least one).
const EMPTY_LINES_MAX: usize = 4;

/// Length of the empty lines before a head.
pub fn leading_empty_lines(bytes: &[u8]) -> usize {
    let mut length = 0;
    while length < EMPTY_LINES_MAX * 2 && bytes[length..].starts_with(b"\r\n") {
        length += 2;
    }
    length
}
