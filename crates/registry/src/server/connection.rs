//! One client: its bytes come in as frames, and what its outbox holds goes out.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use livegate_zk::four_letter::FourLetterWord;
use livegate_zk::frame::{Frame, FrameReader};
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::tcp::OwnedReadHalf;
use tokio::time::{Instant, sleep_until};

use super::core::{Connection, Core, Ending};
use super::four_letter;

/// How long a client may take to send its first frame.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// How long a client may leave what it is sent untouched.
const STUCK_MAX: Duration = Duration::from_secs(20);
/// How long what is left may take to be sent once the connection is to end.
const ENDING_MAX: Duration = Duration::from_secs(5);
/// Frames that are answered in one turn; then others have theirs.
const FRAMES_PER_TURN: usize = 256;

/// Serves a client until one side ends it.
pub(super) async fn serve(
    core: Rc<RefCell<Core>>,
    connection: Rc<Connection>,
    incoming: OwnedReadHalf,
) {
    let limit = core.borrow().options.request_bytes_max;
    let mut client = Client {
        core,
        connection,
        incoming,
        reader: FrameReader::new(limit),
        is_first: true,
        has_more: false,
    };
    match client.run().await {
        Ok(()) => {}
        Err(error) => tracing::debug!("connection of {}: {error}", client.connection.address),
    }
    client.core.borrow_mut().remove(&client.connection);
}

struct Client {
    core: Rc<RefCell<Core>>,
    connection: Rc<Connection>,
    incoming: OwnedReadHalf,
    reader: FrameReader,
    /// Nothing has been understood yet.
    is_first: bool,
    /// There may be whole frames in the reader.
    has_more: bool,
}

impl Client {
    async fn run(&mut self) -> io::Result<()> {
        let connection = Rc::clone(&self.connection);
        let began = Instant::now();
        let mut unsent = 0;
        let mut stuck_since = began;
        let mut ending_since = None;
        loop {
            match connection.ending.get() {
                Ending::Now => return Ok(()),
                Ending::AfterSending if connection.outbox.borrow().len() == 0 => return Ok(()),
                Ending::AfterSending => {
                    ending_since.get_or_insert_with(Instant::now);
                }
                Ending::No => {}
            }
            let is_stuck = {
                let outbox = connection.outbox.borrow();
                let left = outbox.ready().len();
                if left < unsent || left == 0 {
                    stuck_since = Instant::now();
                }
                unsent = left;
                left > 0
            };
            if self.has_more && connection.accepts() {
                self.answer_frames();
                tokio::task::yield_now().await;
                continue;
            }
            let deadlines = [
                (self.is_first).then_some(began + HANDSHAKE_MAX),
                is_stuck.then_some(stuck_since + STUCK_MAX),
                ending_since.map(|since| since + ENDING_MAX),
            ];
            let deadline = deadlines.into_iter().flatten().min();
            let interest = match (connection.accepts(), is_stuck) {
                (true, true) => Some(Interest::READABLE | Interest::WRITABLE),
                (true, false) => Some(Interest::READABLE),
                (false, true) => Some(Interest::WRITABLE),
                (false, false) => None,
            };
            tokio::select! {
                ready = ready(&self.incoming, interest) => {
                    let ready = ready?;
                    if ready.is_writable() && is_stuck {
                        self.core.borrow_mut().flush(&connection);
                    }
                    if ready.is_readable() && connection.accepts() && self.read().await? {
                        return Ok(());
                    }
                }
                () = connection.wake.notified() => {}
                () = until(deadline) => {
                    let why = if is_stuck { "it does not read" } else { "it says nothing" };
                    tracing::info!("closed the connection of {}: {why}", connection.address);
                    return Ok(());
                }
            }
        }
    }

    /// Takes what has come and answers it. Returns true when the client has ended.
    async fn read(&mut self) -> io::Result<bool> {
        // Polled once. Unlike `try_read_buf`, it knows from a short read that the socket is drained.
        let mut reading = pin!(self.incoming.read_buf(self.reader.space()));
        match poll_fn(|cx| Poll::Ready(reading.as_mut().poll(cx))).await {
            Poll::Ready(Ok(0)) => return Ok(true),
            Poll::Ready(Ok(_)) => {}
            Poll::Ready(Err(error)) => return Err(error),
            Poll::Pending => return Ok(false),
        }
        if self.is_first && self.answer_word() {
            return Ok(false);
        }
        self.answer_frames();
        Ok(false)
    }

    /// Answers the frames that have come whole, up to a turn's worth.
    fn answer_frames(&mut self) {
        let mut core = self.core.borrow_mut();
        self.has_more = true;
        for _ in 0..FRAMES_PER_TURN {
            if !self.connection.accepts() || core.stalls(&self.connection) {
                break;
            }
            match self.reader.next_frame() {
                Ok(Some(Frame::Whole(frame))) => {
                    self.is_first = false;
                    core.handle(&self.connection, &frame);
                }
                Ok(Some(Frame::Cut { .. }) | None) => {
                    self.has_more = false;
                    break;
                }
                Err(error) => {
                    tracing::info!(
                        "closed the connection of {}: {error}",
                        self.connection.address
                    );
                    self.connection.end(Ending::AfterSending);
                    break;
                }
            }
        }
        core.settle();
    }

    /// Answers a four-letter word, if that is what the client has sent.
    fn answer_word(&mut self) -> bool {
        let Some(word) = self.reader.peek_word().and_then(FourLetterWord::detect) else {
            return false;
        };
        const MASK_BYTES: usize = 8;
        let mut core = self.core.borrow_mut();
        let takes_mask =
            word == FourLetterWord::Stmk && core.options.four_letter_words.allows(word);
        if takes_mask && self.reader.buffered() < 4 + MASK_BYTES {
            return true;
        }
        self.is_first = false;
        let rest = self.reader.space().split_off(4);
        let text = four_letter::answer(&mut core, word, &rest);
        core.answer_word(&self.connection, text.as_bytes());
        true
    }
}

/// Waits for the socket; for ever when nothing is wanted of it.
async fn ready(
    incoming: &OwnedReadHalf,
    interest: Option<Interest>,
) -> io::Result<tokio::io::Ready> {
    match interest {
        Some(interest) => incoming.ready(interest).await,
        None => std::future::pending().await,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
