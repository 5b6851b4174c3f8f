//! How an operation reaches the task, and its answer the caller.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::timeout_at;

use super::command::{Command, Request};
use super::error::{Error, NotSent};
use super::outgoing::request_frame;
use super::ticket::Ticket;
use super::watch_table::Intent;
use super::{Client, deadline_after};
use crate::frame::LENGTH_BYTES;
use crate::jute::{Decode, Decoder, Encode};
use crate::proto::op_code::OpCode;

impl Client {
    /// Sends a frame and waits for its reply.
    pub(crate) async fn send(
        &self,
        encoded: Encoded,
        intent: Option<Intent>,
    ) -> Result<Bytes, Error> {
        let Encoded { op_code, frame } = encoded;
        let length = frame.len() - LENGTH_BYTES;
        let limit = self.shared.request_bytes_max;
        if length > limit {
            return Err(Error::RequestTooLong { length, limit });
        }
        let ticket = Arc::new(Ticket::default());
        let _abandon = AbandonOnDrop(&ticket);
        let (reply, answer) = oneshot::channel();
        let exchange = async {
            let share = u32::try_from(length).unwrap_or(u32::MAX);
            let permit = Arc::clone(&self.shared.bytes)
                .acquire_many_owned(share)
                .await;
            let permit = Some(permit.map_err(|_| NotSent::Closed)?);
            let ticket = Arc::clone(&ticket);
            let request = Request {
                frame,
                op_code,
                intent,
                ticket,
                reply,
                permit,
            };
            let sent = self.shared.commands.send(Command::Request(request)).await;
            sent.map_err(|_| NotSent::Closed)?;
            answer.await.map_err(|_| NotSent::Closed)
        };
        match timeout_at(deadline_after(self.operation_timeout), exchange).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) if ticket.is_sent() => Err(Error::ConnectionLoss),
            Ok(Err(closed)) => Err(Error::NotSent(closed)),
            Err(_) if ticket.abandon() => Err(Error::DeadlineExceeded),
            Err(_) => Err(Error::NotSent(NotSent::Deadline)),
        }
    }
}

/// Withdraws a request that has not been sent when its caller goes away.
pub(crate) struct AbandonOnDrop<'a>(pub(crate) &'a Ticket);

impl Drop for AbandonOnDrop<'_> {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// A request that is ready but for its xid.
pub(crate) struct Encoded {
    op_code: OpCode,
    frame: Vec<u8>,
}

pub(crate) fn encoded(op_code: OpCode, body: &impl Encode) -> Encoded {
    Encoded {
        op_code,
        frame: request_frame(0, op_code, body),
    }
}

pub(crate) fn decoded<'a, T: Decode<'a>>(body: &'a [u8]) -> Result<T, Error> {
    Ok(Decoder::new(body).read()?)
}
