//! Why an operation failed, and what that says about its effect.

use crate::jute::DecodeError;
use crate::path::PathError;
use crate::proto::error_code::ErrorCode;

/// Why an operation did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The server refused. Nothing was changed, unless the code says that something went wrong on the
    /// way.
    #[error(transparent)]
    Server(#[from] ErrorCode),
    /// One operation of a multi was refused. Nothing was changed.
    #[error("operation {index} of the multi: {code}")]
    Multi {
        /// Which one, counted from 0.
        index: usize,
        /// Why.
        code: ErrorCode,
    },
    /// The connection was lost after the request had been sent and before its reply came: whether it
    /// took effect is unknown.
    #[error("connection lost before the reply came; the outcome is unknown")]
    ConnectionLoss,
    /// The deadline passed after the request had been sent and before its reply came: whether it took
    /// effect, or still will, is unknown.
    #[error("no reply within the deadline; the outcome is unknown")]
    DeadlineExceeded,
    /// The request was never sent.
    #[error("not sent: {0}")]
    NotSent(NotSent),
    /// The reply is longer than [`reply_bytes_max`](super::ConnectOptions::reply_bytes_max) and was
    /// thrown away. The operation itself succeeded.
    #[error("reply of {length} bytes is over the limit of {limit}")]
    ReplyTooLong {
        /// Bytes of the reply.
        length: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The request is longer than [`request_bytes_max`](super::ConnectOptions::request_bytes_max). It was
    /// not sent, because a server closes the connection of a client that sends more than it takes.
    #[error("request of {length} bytes is over the limit of {limit}")]
    RequestTooLong {
        /// Bytes of the request.
        length: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The path cannot name a node. Nothing was sent.
    #[error("invalid path: {0}")]
    InvalidPath(#[from] PathError),
    /// The time to live is not in 1 ms to [`TTL_MAX`](crate::proto::create_mode::CreateMode::TTL_MAX).
    /// Nothing was sent.
    #[error("time to live is out of range")]
    InvalidTtl,
    /// The server reported success, but not in a form that can be understood.
    #[error("malformed reply: {0}")]
    MalformedReply(#[from] DecodeError),
    /// The server reported success, but answered something else than what was asked.
    #[error("reply does not fit the request")]
    UnexpectedReply,
}

/// Why a request was never sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotSent {
    /// The deadline passed while there was no connection, or while others were before it.
    #[error("the deadline passed before there was a connection for it")]
    Deadline,
    /// The client is closed.
    #[error("the client is closed")]
    Closed,
}

/// What a failed operation did to the server's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing, and it will not: it can be tried again.
    NotApplied,
    /// Perhaps nothing, perhaps everything that was asked: look before trying again.
    Unknown,
    /// Everything that was asked; only the reply is of no use.
    Applied,
}

impl Error {
    /// What the operation did to the server's state.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match self {
            // None of these is sent by Apache ZooKeeper, but by what stands between, perhaps.
            Self::Server(
                ErrorCode::ConnectionLoss
                | ErrorCode::OperationTimeout
                | ErrorCode::RequestTimeout
                | ErrorCode::SystemError,
            ) => Outcome::Unknown,
            Self::Server(_)
            | Self::Multi { .. }
            | Self::NotSent(_)
            | Self::RequestTooLong { .. }
            | Self::InvalidPath(_)
            | Self::InvalidTtl => Outcome::NotApplied,
            Self::ConnectionLoss | Self::DeadlineExceeded => Outcome::Unknown,
            Self::ReplyTooLong { .. } | Self::MalformedReply(_) | Self::UnexpectedReply => {
                Outcome::Applied
            }
        }
    }

    /// Whether this is the server's word that there is no such node.
    #[must_use]
    pub fn is_no_node(&self) -> bool {
        *self == Self::Server(ErrorCode::NoNode)
    }

    /// Whether this is the server's word that the node is there already.
    #[must_use]
    pub fn is_node_exists(&self) -> bool {
        *self == Self::Server(ErrorCode::NodeExists)
    }
}
