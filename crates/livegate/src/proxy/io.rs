//! Non-blocking reads and writes between sockets and buffers, and a timer that is cheap
//! to move.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use crate::buffer::Buffer;

/// Reads once into the spare room of `buffer`, which must have some. 0 is the end of the
/// stream.
pub fn poll_fill(
    stream: &mut TcpStream,
    cx: &mut Context<'_>,
    buffer: &mut Buffer,
) -> Poll<io::Result<usize>> {
    let mut room = ReadBuf::new(buffer.spare());
    ready!(Pin::new(stream).poll_read(cx, &mut room))?;
    let count = room.filled().len();
    buffer.fill(count);
    Poll::Ready(Ok(count))
}

/// Writes once from `bytes`, which must not be empty.
pub fn poll_write(
    stream: &mut TcpStream,
    cx: &mut Context<'_>,
    bytes: &[u8],
) -> Poll<io::Result<usize>> {
    match ready!(Pin::new(stream).poll_write(cx, bytes))? {
        0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        count => Poll::Ready(Ok(count)),
    }
}

/// Writes once from `first` and then from the first `second_length` bytes of `second`, and
/// consumes what was written. Returns the bytes taken from `second`.
pub fn poll_write_both(
    stream: &mut TcpStream,
    cx: &mut Context<'_>,
    first: &mut Buffer,
    second: &mut Buffer,
    second_length: usize,
) -> Poll<io::Result<usize>> {
    let written = if first.is_empty() {
        ready!(poll_write(stream, cx, &second.filled()[..second_length]))?
    } else if second_length == 0 {
        ready!(poll_write(stream, cx, first.filled()))?
    } else {
        let slices = [
            IoSlice::new(first.filled()),
            IoSlice::new(&second.filled()[..second_length]),
        ];
        ready!(Pin::new(stream).poll_write_vectored(cx, &slices))?
    };
    if written == 0 {
        return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
    }
    let from_first = written.min(first.len());
    first.consume(from_first);
    second.consume(written - from_first);
    Poll::Ready(Ok(written - from_first))
}

/// A deadline that moves with every request without touching the timer wheel.
///
/// The wheel's entry is left where it is while it lies before the deadline; when it fires
/// early it is moved on. A connection under load so touches the wheel a few times a
/// second instead of several times a request.
pub struct Timer {
    sleep: Pin<Box<Sleep>>,
}

impl Timer {
    /// A timer; `first` is its first deadline.
    pub fn new(first: Instant) -> Self {
        Self {
            sleep: Box::pin(tokio::time::sleep_until(first.into())),
        }
    }

    /// Ready once `deadline` has passed; otherwise the task is woken then, or before.
    pub fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        if self.sleep.deadline().into_std() > deadline {
            self.sleep.as_mut().reset(deadline.into());
        }
        loop {
            ready!(self.sleep.as_mut().poll(cx));
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(deadline.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::time::Duration;

    #[tokio::test]
    async fn the_timer_waits_for_the_latest_deadline_given() {
        let start = Instant::now();
        let mut timer = Timer::new(start + Duration::from_millis(5));
        poll_fn(|cx| timer.poll(cx, start + Duration::from_millis(40))).await;
        assert!(start.elapsed() >= Duration::from_millis(40));
        let again = Instant::now();
        assert!(
            poll_fn(|cx| Poll::Ready(timer.poll(cx, again + Duration::from_secs(60))))
                .await
                .is_pending()
        );
        poll_fn(|cx| timer.poll(cx, again + Duration::from_millis(5))).await;
        assert!(again.elapsed() < Duration::from_secs(30));
    }
}
