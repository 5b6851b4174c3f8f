//! What client and server tell each other when a connection begins.

use std::time::Duration;

use super::state::DisconnectCause;
use crate::frame::append_frame;
use crate::jute::Decoder;
use crate::proto::session::{ConnectReply, ConnectRequest};

/// What a server must know to attach a connection to the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    /// 0 for a new session.
    pub(crate) session_id: i64,
    pub(crate) password: Vec<u8>,
    pub(crate) last_zxid: i64,
    pub(crate) timeout: Duration,
}

impl Claim {
    /// The first frame of a connection.
    pub(crate) fn connect_frame(&self) -> Vec<u8> {
        let request = ConnectRequest {
            protocol_version: 0,
            last_zxid_seen: self.last_zxid,
            timeout_ms: i32::try_from(self.timeout.as_millis()).unwrap_or(i32::MAX),
            session_id: self.session_id,
            password: Some(&self.password),
            read_only: Some(false),
        };
        let mut frame = Vec::new();
        append_frame(&mut frame, &request, &());
        frame
    }
}

/// What a server granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Granted {
    pub(crate) session_id: i64,
    pub(crate) password: Vec<u8>,
    pub(crate) timeout: Duration,
}

impl Granted {
    /// Reads the reply to a connect frame; `None` when the session is over.
    pub(crate) fn decode(frame: &[u8]) -> Result<Option<Self>, DisconnectCause> {
        let reply: ConnectReply<'_> = Decoder::new(frame)
            .read()
            .map_err(|error| DisconnectCause::Protocol(format!("connect reply: {error}")))?;
        Ok(match u64::try_from(reply.timeout_ms) {
            Ok(timeout) if timeout > 0 && reply.session_id != 0 => Some(Self {
                session_id: reply.session_id,
                password: reply.password.unwrap_or_default().to_vec(),
                timeout: Duration::from_millis(timeout),
            }),
            _ => None,
        })
    }
}
