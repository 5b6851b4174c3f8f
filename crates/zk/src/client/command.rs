//! What callers ask the task to do.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::error::Error;
use super::options::Credential;
use super::ticket::Ticket;
use super::watch_table::Intent;
use crate::proto::op_code::OpCode;
use crate::proto::watch::WatchKind;

/// Something to do.
#[derive(Debug)]
pub(crate) enum Command {
    /// Send a request.
    Request(Request),
    /// Add an identity to this and later connections.
    AddCredential {
        credential: Credential,
        ticket: Arc<Ticket>,
        reply: oneshot::Sender<Result<(), Error>>,
    },
    /// Remove watches.
    RemoveWatches {
        path: Arc<str>,
        selection: WatchKind,
        reply: oneshot::Sender<Result<(), Error>>,
    },
}

/// A request of a caller.
#[derive(Debug)]
pub(crate) struct Request {
    /// The whole frame; the xid is filled in when it is sent, as are the watch flag or mode at its end
    /// if there is an intent.
    pub(crate) frame: Vec<u8>,
    pub(crate) op_code: OpCode,
    pub(crate) intent: Option<Intent>,
    pub(crate) ticket: Arc<Ticket>,
    /// Gets the body of the reply.
    pub(crate) reply: oneshot::Sender<Result<Bytes, Error>>,
    /// The share of the byte budget that is taken until the frame has been written.
    pub(crate) permit: Option<OwnedSemaphorePermit>,
}
