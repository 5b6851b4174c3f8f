//! Requests on their way to the server.

use super::command::Request;
use super::watch_table::Wire;
use crate::frame::{LENGTH_BYTES, append_frame};
use crate::jute::Encode;
use crate::proto::op_code::OpCode;
use crate::proto::session::RequestHeader;

/// A frame that has not been written, or only in part.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) frame: Vec<u8>,
    pub(crate) purpose: Purpose,
    /// Its xid is set and, for a request of a caller, it can no longer be withdrawn.
    pub(crate) claimed: bool,
}

/// What a frame is for.
#[derive(Debug)]
pub(crate) enum Purpose {
    /// A caller asks.
    Caller(Box<Waiting>),
    /// Presents the identity with this number.
    Auth(u64),
    /// Restores watches.
    SetWatches,
    /// Removes watches that nobody wants.
    RemoveWatches,
    /// Keeps the session alive.
    Ping,
    /// Ends the session.
    CloseSession,
}

/// A caller's request without its frame.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) request: Request,
    /// How it was sent, if it sets a watch.
    pub(crate) wire: Option<Wire>,
}

impl Outgoing {
    pub(crate) fn new(frame: Vec<u8>, purpose: Purpose) -> Self {
        Self {
            frame,
            purpose,
            claimed: false,
        }
    }

    pub(crate) fn xid(&self) -> i32 {
        self.frame[LENGTH_BYTES..]
            .first_chunk()
            .copied()
            .map_or(0, i32::from_be_bytes)
    }

    pub(crate) fn set_xid(&mut self, xid: i32) {
        self.frame[LENGTH_BYTES..LENGTH_BYTES + 4].copy_from_slice(&xid.to_be_bytes());
    }

    /// Sets the watch flag or the mode, which are the last fields of their records.
    pub(crate) fn set_wire(&mut self, wire: Wire) {
        match wire {
            Wire::Flag(flag) => {
                if let Some(last) = self.frame.last_mut() {
                    *last = u8::from(flag);
                }
            }
            Wire::Mode(mode) => {
                if let Some(last) = self.frame.last_chunk_mut::<4>() {
                    *last = mode.code().to_be_bytes();
                }
            }
        }
    }
}

/// The frame of a request.
pub(crate) fn request_frame(xid: i32, op_code: OpCode, body: &impl Encode) -> Vec<u8> {
    let mut frame = Vec::with_capacity(64);
    append_frame(
        &mut frame,
        &RequestHeader {
            xid,
            op_code: op_code.code(),
        },
        body,
    );
    frame
}
