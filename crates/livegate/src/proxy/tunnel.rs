//! After a 101: bytes both ways until either side ends (RFC 9110 section 7.8).

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use livegate_discovery::Pick;
use rustix::net::Shutdown;
use tokio::net::TcpStream;

use crate::buffer::{BODY_BYTES, Buffer};
use crate::proxy::downstream::Downstream;
use crate::proxy::io::{poll_fill, poll_write};
use crate::proxy::upstream::Upstream;

/// A tunnel in which nothing moves for this long is closed. WebSocket applications ping
/// every minute or so; NATs forget in a few.
const IDLE: Duration = Duration::from_secs(3_600);

/// One direction.
struct Flow {
    buffer: Buffer,
    ended: bool,
    shut: bool,
}

impl Flow {
    fn new(buffer: Buffer) -> Self {
        Self {
            buffer,
            ended: false,
            shut: false,
        }
    }

    fn is_over(&self) -> bool {
        self.ended && self.buffer.is_empty() && self.shut
    }

    /// Moves bytes while any can be moved. True when any moved.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut TcpStream,
        sink: &mut TcpStream,
        moved: &mut u64,
    ) -> io::Result<bool> {
        let mut progress = false;
        loop {
            if !self.buffer.is_empty() {
                let Poll::Ready(count) = poll_write(sink, cx, self.buffer.filled())? else {
                    return Ok(progress);
                };
                self.buffer.consume(count);
                *moved += count as u64;
            } else if self.ended {
                if !self.shut {
                    self.shut = true;
                    rustix::net::shutdown(&*sink, Shutdown::Write)?;
                }
                return Ok(progress);
            } else {
                // No buffer is held while nothing comes.
                if source.poll_read_ready(cx)?.is_pending() {
                    self.buffer = Buffer::none();
                    return Ok(progress);
                }
                self.buffer.grow(BODY_BYTES);
                let Poll::Ready(count) = poll_fill(source, cx, &mut self.buffer)? else {
                    self.buffer = Buffer::none();
                    return Ok(progress);
                };
                self.ended = count == 0;
            }
            progress = true;
        }
    }
}

/// Runs the tunnel to its end and returns the bytes sent to the client. `reply` is what is
/// still to be written to the client, the head of the 101 first.
pub async fn run(down: &mut Downstream, mut up: Upstream, mut reply: Buffer, pick: &Pick) -> u64 {
    reply.extend(up.buffer.filled());
    let mut to_client = Flow::new(reply);
    let mut to_instance = Flow::new(std::mem::replace(&mut down.buffer, Buffer::none()));
    let mut bytes_out = 0;
    let mut ignored = 0;
    let mut progressed = Instant::now();
    poll_fn(|cx| {
        let out = to_client.poll(cx, &mut up.stream, &mut down.stream, &mut bytes_out);
        let back = to_instance.poll(cx, &mut down.stream, &mut up.stream, &mut ignored);
        let (Ok(out), Ok(back)) = (out, back) else {
            return Poll::Ready(());
        };
        if to_client.is_over() && to_instance.is_over() {
            return Poll::Ready(());
        }
        if out || back {
            progressed = Instant::now();
            pick.heard(progressed);
        }
        down.now = Instant::now();
        down.poll_until(cx, progressed + IDLE)
    })
    .await;
    bytes_out
}
