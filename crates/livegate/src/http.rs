//! HTTP/1.1 as bytes: strict reading of message heads and chunked bodies (RFC 9112),
//! and the facts about them that the proxy acts on. No I/O here.

pub mod chunked;
pub mod field;
pub mod head;
pub mod host;
pub mod request;
pub mod response;

/// How the end of a message body is found (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// No body follows the head.
    None,
    /// Exactly this many bytes follow.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// The body ends with the connection (responses only).
    Close,
}
