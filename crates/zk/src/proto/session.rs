//! Records that make, keep and identify a session, and the headers of everything after that.

use super::record;
use crate::jute::{Decode, DecodeError, Decoder, Encode, Encoder};

/// Bytes of a session's password.
pub const PASSWORD_BYTES: usize = 16;

/// The first frame of a connection: asks for a session, new or existing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectRequest<'a> {
    /// Always 0.
    pub protocol_version: i32,
    /// The newest transaction the client has seen; a server that is behind closes without a reply.
    pub last_zxid_seen: i64,
    /// The session timeout the client would like, in milliseconds.
    pub timeout_ms: i32,
    /// The session to attach to, or 0 for a new one.
    pub session_id: i64,
    /// The session's password; null, empty or zeros for a new one.
    pub password: Option<&'a [u8]>,
    /// Whether a read-only server will do. Absent in clients before 3.4, which are answered without it.
    pub read_only: Option<bool>,
}

impl<'a> Decode<'a> for ConnectRequest<'a> {
    fn decode(input: &mut Decoder<'a>) -> Result<Self, DecodeError> {
        Ok(Self {
            protocol_version: input.read()?,
            last_zxid_seen: input.read()?,
            timeout_ms: input.read()?,
            session_id: input.read()?,
            password: input.read()?,
            read_only: optional_last(input)?,
        })
    }
}

impl Encode for ConnectRequest<'_> {
    fn encode(&self, output: &mut Encoder) {
        output.write(&self.protocol_version);
        output.write(&self.last_zxid_seen);
        output.write(&self.timeout_ms);
        output.write(&self.session_id);
        output.write(&self.password);
        if let Some(read_only) = self.read_only {
            output.write(&read_only);
        }
    }
}

/// The answer to a [`ConnectRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectReply<'a> {
    /// Always 0.
    pub protocol_version: i32,
    /// The session timeout that holds, in milliseconds; 0 when the session is over.
    pub timeout_ms: i32,
    /// The session, or 0 when the one asked for is over.
    pub session_id: i64,
    /// The session's password.
    pub password: Option<&'a [u8]>,
    /// Whether the server is read-only. Present when the request had it.
    pub read_only: Option<bool>,
}

impl ConnectReply<'_> {
    /// The answer that says that the session is unknown, over, or the password wrong.
    #[must_use]
    pub const fn expired(read_only: Option<bool>) -> Self {
        Self {
            protocol_version: 0,
            timeout_ms: 0,
            session_id: 0,
            password: Some(&[0; PASSWORD_BYTES]),
            read_only,
        }
    }
}

impl<'a> Decode<'a> for ConnectReply<'a> {
    fn decode(input: &mut Decoder<'a>) -> Result<Self, DecodeError> {
        Ok(Self {
            protocol_version: input.read()?,
            timeout_ms: input.read()?,
            session_id: input.read()?,
            password: input.read()?,
            read_only: optional_last(input)?,
        })
    }
}

impl Encode for ConnectReply<'_> {
    fn encode(&self, output: &mut Encoder) {
        output.write(&self.protocol_version);
        output.write(&self.timeout_ms);
        output.write(&self.session_id);
        output.write(&self.password);
        if let Some(read_only) = self.read_only {
            output.write(&read_only);
        }
    }
}

/// A field at the end of a record that older peers do not send.
fn optional_last<'a, T: Decode<'a>>(input: &mut Decoder<'a>) -> Result<Option<T>, DecodeError> {
    if input.remaining().is_empty() {
        Ok(None)
    } else {
        input.read().map(Some)
    }
}

record! {
    /// What every request after the first begins with.
    pub struct RequestHeader {
        /// The client's number for the request, which its reply repeats.
        pub xid: i32,
        /// An [`OpCode`](super::op_code::OpCode), or a number that is none.
        pub op_code: i32,
    }
}

record! {
    /// What every reply after the first, and every watch event, begins with.
    pub struct ReplyHeader {
        /// The request's number, or one of the fixed ones of [`op_code`](super::op_code).
        pub xid: i32,
        /// The newest transaction the server had applied; 0 in replies to auth, -1 in events of servers
        /// before 3.9.
        pub zxid: i64,
        /// 0, or the number of an [`ErrorCode`](super::error_code::ErrorCode); the body follows only
        /// with 0.
        pub error: i32,
    }
}

impl ReplyHeader {
    /// Bytes of an encoded header.
    pub const ENCODED_BYTES: usize = 16;
}

record! {
    /// Adds an identity to the connection (`AuthPacket`).
    pub struct Auth<'a> {
        /// Always 0.
        pub kind: i32,
        /// For instance `digest`.
        pub scheme: &'a str,
        /// In the scheme's format; for `digest` `user:password` in plain text.
        pub auth: Option<&'a [u8]>,
    }
}

record! {
    /// A step of a SASL exchange, either way.
    pub struct Sasl<'a> {
        /// In the mechanism's format.
        pub token: Option<&'a [u8]>,
    }
}
