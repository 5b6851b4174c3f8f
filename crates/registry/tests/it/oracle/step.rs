//! What is done to both servers.

use std::fmt;

/// Connections that act, each with a session of its own.
pub(crate) const SLOTS: usize = 4;

/// One more connection, which may do everything and which watches nothing: it looks and sweeps.
pub(crate) const INSPECTOR: usize = SLOTS;

/// One thing that is done. Steps do not depend on answers, so any part of a sequence of them can be done
/// by itself; those that need a connection which is not there do nothing.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// A new connection with a new session.
    Connect {
        slot: usize,
        timeout_ms: i32,
        read_only: Option<bool>,
    },
    /// A new connection for the slot's session, whether the old one is there or not.
    Attach {
        slot: usize,
        timeout_ms: i32,
        /// Tell the newest transaction that was seen, or none.
        tell_zxid: bool,
    },
    /// A connection that claims the slot's session with a wrong password.
    Impostor { slot: usize },
    /// A connection that claims a session that never was.
    Stranger,
    /// A connection for the slot's session that has seen what the server has not.
    Ahead { slot: usize },
    /// The slot's connection is closed, its session is not.
    Drop { slot: usize },
    /// The slot's session is made a short one and left alone until it is over.
    Expire { slot: usize, timeout_ms: i32 },
    /// A request on the slot's connection.
    Request { slot: usize, request: Request },
    /// Requests on the slot's connection that do not wait for each other's answers.
    Burst { slot: usize, requests: Vec<Request> },
    /// The server ends and starts again where it was.
    Restart,
    /// The whole tree is compared.
    Inspect,
}

/// A request, as bytes.
#[derive(Clone)]
pub(crate) struct Request {
    pub(crate) xid: i32,
    pub(crate) op_code: i32,
    pub(crate) body: Vec<u8>,
    /// The body begins with a zxid, to be replaced by the newest one less this.
    pub(crate) transactions_ago: Option<i64>,
    /// For people.
    pub(crate) text: String,
}

impl fmt::Debug for Request {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: String = self.text.chars().take(700).collect();
        write!(formatter, "xid {} type {}: {shown}", self.xid, self.op_code)?;
        match self.transactions_ago {
            Some(count) => write!(formatter, " (relative zxid: {count} before the newest)"),
            None => Ok(()),
        }
    }
}
