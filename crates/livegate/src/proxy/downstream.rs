//! One client connection: waiting for its requests, and parting from it.

use std::fmt::Write as _;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use crate::buffer::{Buffer, HEAD_BYTES};
use crate::proxy::io::{Timer, poll_fill, poll_write};
use crate::worker::Worker;

/// How long a client that has ended its sending side may wait for the rest of its
/// response: it may have half-closed (RFC 9112 section 9.6) or have left.
const HALF_CLOSED_GRACE: Duration = Duration::from_secs(1);
/// How long and how much is still read from a client whose connection is being closed, so
/// that the response is not destroyed by a reset (RFC 9112 section 9.6).
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES_MAX: usize = 1024 * 1024;

/// A client connection.
pub struct Downstream {
    /// The socket.
    pub stream: TcpStream,
    /// Bytes received and not yet used; without memory while there are none.
    pub buffer: Buffer,
    timer: Timer,
    /// When the connection's task was last woken with something to do: reading the clock
    /// for every decision would cost more than any of them.
    pub now: Instant,
    /// The client's address.
    pub peer: SocketAddr,
    /// When the client ended its sending side.
    ended: Option<Instant>,
    ip_text: IpText,
}

/// Why there is no further request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Bytes are there.
    Request,
    /// The client left, idled for too long, or the worker is going down.
    Closed,
}

impl Downstream {
    /// A connection that was just accepted.
    pub fn new(stream: TcpStream, peer: SocketAddr) -> Self {
        // A dual-stack listener shows IPv4 clients as IPv6 ones.
        let ip = peer.ip().to_canonical();
        let now = Instant::now();
        Self {
            stream,
            buffer: Buffer::none(),
            timer: Timer::default(),
            now,
            peer: SocketAddr::new(ip, peer.port()),
            ended: None,
            ip_text: IpText::new(ip),
        }
    }

    /// The client's address as text.
    pub fn ip_text(&self) -> &[u8] {
        self.ip_text.as_bytes()
    }

    /// Ready once `deadline` has passed; else the task is woken then, or before.
    pub fn poll_until(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        self.timer.poll(cx, deadline, &mut self.now)
    }

    /// True when nothing has come that was not asked for, as far as the event loop knows.
    pub fn is_silent(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        self.buffer.is_empty() && self.stream.poll_read_ready(&mut cx).is_pending()
    }

    /// Waits for the first byte of a request, holding no buffer.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub async fn await_request(&mut self, worker: &Rc<Worker>, idle_timeout: Duration) -> Idle {
        if !self.buffer.is_empty() {
            return Idle::Request;
        }
        self.buffer = Buffer::none();
        if self.ended.is_some() {
            return Idle::Closed;
        }
        let deadline = self.now + idle_timeout;
        let mut woken = false;
        let event = poll_fn(|cx| {
            loop {
                match self.stream.poll_read_ready(cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(_)) => return Poll::Ready(Idle::Closed),
                    Poll::Pending => break,
                }
                self.buffer = Buffer::new(HEAD_BYTES);
                match poll_fill(&mut self.stream, cx, &mut self.buffer) {
                    Poll::Ready(Ok(1..)) => return Poll::Ready(Idle::Request),
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Idle::Closed),
                    Poll::Pending => self.buffer = Buffer::none(),
                }
            }
            if worker.is_stopping() {
                return Poll::Ready(Idle::Closed);
            }
            // Woken for another reason than time, the clock was not read.
            if std::mem::replace(&mut woken, true) {
                self.now = Instant::now();
            }
            self.poll_until(cx, deadline).map(|()| Idle::Closed)
        })
        .await;
        self.now = Instant::now();
        event
    }

    /// Reads more of a head into the buffer. False when the client ended or failed;
    /// `None` when the deadline passed.
    ///
    /// # Cancel safety
    ///
    /// Bytes read are in the buffer.
    pub async fn read_more(&mut self, bytes_max: usize, deadline: Instant) -> Option<bool> {
        if self.buffer.is_full() {
            // In few steps: what each leaves behind is not given back at once.
            let room = self.buffer.capacity() * 4;
            self.buffer.grow(room.min(bytes_max));
        }
        poll_fn(|cx| {
            if let Poll::Ready(read) = poll_fill(&mut self.stream, cx, &mut self.buffer) {
                return Poll::Ready(Some(matches!(read, Ok(1..))));
            }
            self.now = Instant::now();
            self.poll_until(cx, deadline).map(|()| None)
        })
        .await
    }

    /// Looks after a client that should be waiting for its response. Ready when it is gone.
    ///
    /// Bytes of a next request are kept, as many as fit into the buffer. The task is woken
    /// when there is news, but not when the grace of a half-closed connection runs out:
    /// callers ask again every so often.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(ended) = self.ended {
                return if ended.elapsed() > HALF_CLOSED_GRACE {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                };
            }
            if self.buffer.is_full() && self.buffer.capacity() > 0 {
                return Poll::Pending;
            }
            match self.stream.poll_read_ready(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(())) => {}
            }
            self.buffer.grow(HEAD_BYTES);
            match poll_fill(&mut self.stream, cx, &mut self.buffer) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0)) => self.ended = Some(Instant::now()),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(()),
            }
        }
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    ///
    /// What the socket says, and [`io::ErrorKind::TimedOut`] when the client takes nothing
    /// for `idle_timeout`.
    pub async fn write_all(
        &mut self,
        bytes: &mut Buffer,
        idle_timeout: Duration,
    ) -> io::Result<()> {
        let mut deadline = None;
        poll_fn(|cx| {
            while !bytes.is_empty() {
                match poll_write(&mut self.stream, cx, bytes.filled()) {
                    Poll::Ready(Ok(count)) => {
                        bytes.consume(count);
                        deadline = None;
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => {
                        self.now = Instant::now();
                        let deadline = *deadline.get_or_insert(self.now + idle_timeout);
                        return self
                            .poll_until(cx, deadline)
                            .map(|()| Err(io::ErrorKind::TimedOut.into()));
                    }
                }
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// Ends the sending side and reads what the client still sends, within bounds.
    pub async fn linger(mut self) {
        if rustix::net::shutdown(&self.stream, rustix::net::Shutdown::Write).is_err()
            || self.ended.is_some()
        {
            return;
        }
        let deadline = self.now + LINGER;
        let mut read = 0;
        self.buffer.grow(HEAD_BYTES);
        poll_fn(|cx| {
            while read < LINGER_BYTES_MAX {
                self.buffer.clear();
                match poll_fill(&mut self.stream, cx, &mut self.buffer) {
                    Poll::Ready(Ok(count)) if count > 0 => read += count,
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => {
                        self.now = Instant::now();
                        return self.poll_until(cx, deadline);
                    }
                }
            }
            Poll::Ready(())
        })
        .await;
    }
}

/// An IP address as text without an allocation.
struct IpText {
    bytes: [u8; 45],
    length: u8,
}

impl IpText {
    fn new(ip: IpAddr) -> Self {
        let mut text = Self {
            bytes: [0; 45],
            length: 0,
        };
        write!(text, "{ip}").expect("45 bytes hold any address (RFC 4291 section 2.2)");
        text
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl std::fmt::Write for IpText {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let start = usize::from(self.length);
        let room = self
            .bytes
            .get_mut(start..start + text.len())
            .ok_or(std::fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.length += u8::try_from(text.len()).map_err(|_| std::fmt::Error)?;
        Ok(())
    }
}
