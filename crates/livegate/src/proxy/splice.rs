//! Long plain bodies go from socket to socket inside the kernel: splice(2) through a pipe.
//!
//! Measured on one core (`bench/run`): 0.78 of the CPU time of a 128 KiB buffer for 64 KiB
//! replies, 0.75 for 1 MiB, and no memory of this process holds a byte of them.

use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};

use rustix::pipe::{PipeFlags, SpliceFlags};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Shorter rests of a body are not worth a pipe.
pub const SPLICE_BYTES_MIN: u64 = 32 * 1024;
/// Room asked of the kernel for a pipe; unprivileged users may ask for 1 MiB.
const PIPE_BYTES: usize = 512 * 1024;
/// Idle pipes that a worker keeps.
const PIPES_IDLE_MAX: usize = 32;
/// Pipes in use at one time in one worker: each costs two file descriptors and, when its
/// reader is slow, [`PIPE_BYTES`] of kernel memory.
const PIPES_LIVE_MAX: usize = 128;

/// A pipe and what is in it.
pub struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    filled: usize,
}

/// The pipes of one worker.
#[derive(Default)]
pub struct Pipes {
    idle: Vec<Pipe>,
    live: usize,
}

impl Pipes {
    /// A pipe, unless too many are in use or the process has no descriptors left.
    pub fn take(&mut self) -> Option<Pipe> {
        if self.live >= PIPES_LIVE_MAX {
            return None;
        }
        let pipe = match self.idle.pop() {
            Some(pipe) => pipe,
            None => Pipe::new().ok()?,
        };
        self.live += 1;
        Some(pipe)
    }

    /// Gives a pipe back; one that is not empty is closed.
    pub fn put(&mut self, pipe: Pipe) {
        self.live -= 1;
        if pipe.filled == 0 && self.idle.len() < PIPES_IDLE_MAX {
            self.idle.push(pipe);
        }
    }
}

/// What one step moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// Bytes out of the source, into the pipe.
    In(usize),
    /// Bytes out of the pipe, into the sink.
    Out(usize),
    /// The source has ended.
    End,
}

/// Which side failed.
#[derive(Debug)]
pub enum SpliceError {
    /// Reading.
    Source(io::Error),
    /// Writing.
    Sink(io::Error),
}

impl Pipe {
    fn new() -> io::Result<Self> {
        let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
        // A smaller pipe works as well: the kernel refuses once a user has many.
        rustix::pipe::fcntl_setpipe_size(&writer, PIPE_BYTES).ok();
        Ok(Self {
            reader,
            writer,
            filled: 0,
        })
    }

    /// True when all that came in has gone out.
    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Moves up to `bytes_max` bytes one step further.
    pub fn poll_step(
        &mut self,
        cx: &mut Context<'_>,
        source: &TcpStream,
        sink: &TcpStream,
        bytes_max: u64,
    ) -> Poll<Result<Moved, SpliceError>> {
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        loop {
            if self.filled == 0 {
                let count = usize::try_from(bytes_max)
                    .unwrap_or(usize::MAX)
                    .min(PIPE_BYTES);
                let spliced = source.try_io(Interest::READABLE, || {
                    Ok(rustix::pipe::splice(
                        source,
                        None,
                        &self.writer,
                        None,
                        count,
                        flags,
                    )?)
                });
                match spliced {
                    Ok(0) => return Poll::Ready(Ok(Moved::End)),
                    Ok(count) => {
                        self.filled = count;
                        return Poll::Ready(Ok(Moved::In(count)));
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        ready!(source.poll_read_ready(cx)).map_err(SpliceError::Source)?;
                    }
                    Err(error) => return Poll::Ready(Err(SpliceError::Source(error))),
                }
            } else {
                let spliced = sink.try_io(Interest::WRITABLE, || {
                    Ok(rustix::pipe::splice(
                        &self.reader,
                        None,
                        sink,
                        None,
                        self.filled,
                        flags,
                    )?)
                });
                match spliced {
                    Ok(count) => {
                        self.filled -= count;
                        return Poll::Ready(Ok(Moved::Out(count)));
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        ready!(sink.poll_write_ready(cx)).map_err(SpliceError::Sink)?;
                    }
                    Err(error) => return Poll::Ready(Err(SpliceError::Sink(error))),
                }
            }
        }
    }
}
