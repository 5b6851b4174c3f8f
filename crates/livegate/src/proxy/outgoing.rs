//! A request on its way to an instance: the head written by the gateway, then the body as
//! the client sends it.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::net::TcpStream;

use crate::buffer::{BODY_BYTES, Buffer, HEAD_BYTES};
use crate::proxy::body::Body;
use crate::proxy::downstream::Downstream;
use crate::proxy::error::ProxyError;
use crate::proxy::io::{poll_fill, poll_write};
use crate::proxy::splice::{Moved, SPLICE_BYTES_MIN, SpliceError};
use crate::worker::{PipeLease, Worker};

/// Why a request cannot be sent to its end.
#[derive(Debug, PartialEq, Eq)]
pub enum SendError {
    /// The instance takes no more.
    Upstream,
    /// The client left before the end of its request.
    ClientGone,
    /// The client's request is at fault.
    Client(ProxyError),
}

/// Whom an unfinished request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// The client, for more of the body.
    Client,
    /// The instance, to take what is there.
    Upstream,
}

/// A request, from its first byte to its last.
pub struct Outgoing {
    /// The head and as much of the body as came with it. Kept, so that it can be sent again.
    head: Buffer,
    head_sent: usize,
    /// Body bytes in their outgoing framing that are not written yet.
    pump: Buffer,
    body: Body,
    body_bytes_max: u64,
    /// Bytes of the body went out that are not in `head`.
    body_touched: bool,
    waiting: Waiting,
    progress: bool,
    pipe: Option<PipeLease>,
}

impl Outgoing {
    /// A request whose head is written to `head`. Takes the part of the body that is
    /// already in `received`.
    ///
    /// # Errors
    ///
    /// [`ProxyError`] when that part is bad.
    pub fn new(
        mut head: Buffer,
        mut body: Body,
        received: &mut Buffer,
        body_bytes_max: Option<u64>,
    ) -> Result<Self, ProxyError> {
        let body_bytes_max = body_bytes_max.unwrap_or(u64::MAX);
        if !body.is_done() {
            body.transfer(received, &mut head)
                .map_err(|_| ProxyError::BadRequest("invalid chunked coding"))?;
            if body.passed > body_bytes_max {
                return Err(ProxyError::BodyTooLarge);
            }
        }
        Ok(Self {
            head,
            head_sent: 0,
            pump: Buffer::none(),
            body,
            body_bytes_max,
            body_touched: false,
            waiting: Waiting::Upstream,
            progress: false,
            pipe: None,
        })
    }

    /// True when the whole request can be sent once more.
    pub fn is_replayable(&self) -> bool {
        !self.body_touched
    }

    /// True when not one byte was sent.
    pub fn is_unsent(&self) -> bool {
        self.head_sent == 0
    }

    /// True when body bytes were read from the client after the head.
    pub fn is_body_touched(&self) -> bool {
        self.body_touched
    }

    /// True when the whole body was received from the client.
    pub fn is_body_received(&self) -> bool {
        self.body.is_done()
    }

    /// Whom the last call waited for.
    pub fn waiting(&self) -> Waiting {
        self.waiting
    }

    /// True when bytes moved since the last call.
    pub fn take_progress(&mut self) -> bool {
        std::mem::take(&mut self.progress)
    }

    /// Starts over, for another instance. Only when [`Outgoing::is_replayable`].
    pub fn rewind(&mut self) {
        debug_assert!(self.is_replayable(), "what went out cannot be sent again");
        self.head_sent = 0;
    }

    /// Sends as much as can be sent. Ready when the request is complete.
    pub fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        down: &mut Downstream,
        up: &mut TcpStream,
        worker: &Rc<Worker>,
    ) -> Poll<Result<(), SendError>> {
        loop {
            self.waiting = Waiting::Upstream;
            if self.head_sent < self.head.len() {
                let rest = &self.head.filled()[self.head_sent..];
                self.head_sent +=
                    ready!(poll_write(up, cx, rest)).map_err(|_| SendError::Upstream)?;
            } else if !self.pump.is_empty() {
                let count = ready!(poll_write(up, cx, self.pump.filled()))
                    .map_err(|_| SendError::Upstream)?;
                self.pump.consume(count);
            } else if self.body.is_done() && self.pipe.as_ref().is_none_or(|pipe| pipe.is_empty()) {
                self.pipe = None;
                self.pump = Buffer::none();
                return Poll::Ready(Ok(()));
            } else {
                ready!(self.poll_body(cx, down, up, worker))?;
            }
            self.progress = true;
        }
    }

    /// Moves the body one step: from the client's socket, or from its buffer.
    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        down: &mut Downstream,
        up: &mut TcpStream,
        worker: &Rc<Worker>,
    ) -> Poll<Result<(), SendError>> {
        if down.buffer.is_empty() {
            if self.pipe.is_none() && self.body.plain_left() >= SPLICE_BYTES_MIN {
                self.pipe = worker.take_pipe();
            }
            if self.pipe.is_some() {
                return self.poll_splice(cx, down, up);
            }
            if down.buffer.capacity() <= HEAD_BYTES {
                let is_short = self
                    .body
                    .length_left()
                    .is_some_and(|left| left <= HEAD_BYTES as u64);
                down.buffer = Buffer::new(if is_short { HEAD_BYTES } else { BODY_BYTES });
            }
            self.waiting = Waiting::Client;
            match ready!(poll_fill(&mut down.stream, cx, &mut down.buffer)) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Poll::Ready(Err(SendError::ClientGone)),
            }
        }
        self.body_touched = true;
        let plain = usize::try_from(self.body.plain_left())
            .unwrap_or(usize::MAX)
            .min(down.buffer.len());
        if plain > 0 {
            self.waiting = Waiting::Upstream;
            let written = ready!(poll_write(up, cx, &down.buffer.filled()[..plain]));
            let count = written.map_err(|_: io::Error| SendError::Upstream)?;
            down.buffer.consume(count);
            self.body.pass(count as u64);
            return Poll::Ready(Ok(()));
        }
        self.body
            .transfer(&mut down.buffer, &mut self.pump)
            .map_err(|_| SendError::Client(ProxyError::BadRequest("invalid chunked coding")))?;
        if self.body.passed > self.body_bytes_max {
            return Poll::Ready(Err(SendError::Client(ProxyError::BodyTooLarge)));
        }
        Poll::Ready(Ok(()))
    }

    fn poll_splice(
        &mut self,
        cx: &mut Context<'_>,
        down: &Downstream,
        up: &TcpStream,
    ) -> Poll<Result<(), SendError>> {
        let pipe = self.pipe.as_mut().expect("the caller has looked");
        self.waiting = if pipe.is_empty() {
            Waiting::Client
        } else {
            Waiting::Upstream
        };
        match ready!(pipe.poll_step(cx, &down.stream, up, self.body.plain_left())) {
            Ok(Moved::In(count)) => {
                self.body_touched = true;
                self.body.pass(count as u64);
                Poll::Ready(Ok(()))
            }
            Ok(Moved::Out(_)) => Poll::Ready(Ok(())),
            Ok(Moved::End) | Err(SpliceError::Source(_)) => Poll::Ready(Err(SendError::ClientGone)),
            Err(SpliceError::Sink(_)) => Poll::Ready(Err(SendError::Upstream)),
        }
    }
}
