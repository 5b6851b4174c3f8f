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
#[derive(Default)]
pub struct Timer {
    /// Made when first needed: many connections end before they have to wait.
    sleep: Option<Pin<Box<Sleep>>>,
    /// When the wheel will wake the task at the latest, once it has been told to.
    armed: Option<Instant>,
}

impl Timer {
    /// Ready once `deadline` has passed; otherwise the task is woken then, or before.
    ///
    /// `now` must have been read since the task was last woken: by it the timer knows, without
    /// asking the wheel, whether it was the one that woke it. It is brought up to date when
    /// it was.
    pub fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant, now: &mut Instant) -> Poll<()> {
        if self
            .armed
            .is_some_and(|armed| *now < armed && armed <= deadline)
        {
            return Poll::Pending;
        }
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline.into())));
        if sleep.deadline().into_std() > deadline {
            sleep.as_mut().reset(deadline.into());
        }
        loop {
            self.armed = None;
            if sleep.as_mut().poll(cx).is_pending() {
                self.armed = Some(sleep.deadline().into_std());
                return Poll::Pending;
            }
            *now = Instant::now();
            if *now >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::time::Duration;

    /// As a task does it: reads the clock each time it is woken.
    async fn wait(timer: &mut Timer, deadline: Instant) -> Instant {
        poll_fn(|cx| {
            let mut now = Instant::now();
            timer.poll(cx, deadline, &mut now).map(|()| now)
        })
        .await
    }

    #[tokio::test]
    async fn the_timer_waits_for_the_latest_deadline_given() {
        let start = Instant::now();
        let mut timer = Timer::default();
        let poll_once = |timer: &mut Timer, deadline| {
            let mut now = Instant::now();
            timer.poll(
                &mut Context::from_waker(std::task::Waker::noop()),
                deadline,
                &mut now,
            )
        };
        assert!(poll_once(&mut timer, start + Duration::from_millis(5)).is_pending());
        timer.armed = None;
        assert!(
            wait(&mut timer, start + Duration::from_millis(40)).await
                >= start + Duration::from_millis(40)
        );
        let again = Instant::now();
        assert!(poll_once(&mut timer, again + Duration::from_secs(60)).is_pending());
        assert!(
            wait(&mut timer, again + Duration::from_millis(5)).await
                < again + Duration::from_secs(30)
        );
    }
}
