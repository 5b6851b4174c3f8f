//! One attempt: a request to one instance and its response back to the client.
//!
//! Both directions are driven by one task and one struct. [`Exchange::poll_reply`] sends
//! the request while it waits for the response head; nothing of the response reaches the
//! client before it returns, so until then another instance may be tried.
//! [`Exchange::poll_relay`] passes the response on, and the rest of the request if the
//! instance answered early.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use livegate_discovery::Pick;

use crate::buffer::{BODY_BYTES, Buffer, HEAD_BYTES};
use crate::config::TimeoutsConfig;
use crate::http::head::HeadError;
use crate::http::{Framing, response};
use crate::proxy::answer;
use crate::proxy::body::Body;
use crate::proxy::downstream::Downstream;
use crate::proxy::error::ProxyError;
use crate::proxy::io::{poll_fill, poll_write, poll_write_both};
use crate::proxy::outgoing::{Outgoing, SendError, Waiting};
use crate::proxy::prepare::Facts;
use crate::proxy::splice::{Moved, SPLICE_BYTES_MIN, SpliceError};
use crate::proxy::upstream::Upstream;
use crate::worker::{PipeLease, Worker};

/// Interim responses that one exchange may have: enough for progress reports, too few to
/// keep a client busy for ever.
const INTERIM_MAX: u32 = 64;
/// A reused connection that ends this soon after the request was sent had been closed by
/// the instance before; later than that, the instance failed.
const STALE_WINDOW: Duration = Duration::from_millis(20);
/// How long the beginning of a short response waits for its end, so that an instance that
/// dies between two writes costs nothing.
const HOLD: Duration = Duration::from_millis(10);
/// Bodies up to this length are held.
const HOLD_BYTES_MAX: u64 = 8 * 1024;
/// How often a waiting exchange looks whether its endpoint has been found lost.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Why an attempt ended before anything of its response was passed on.
#[derive(Debug, PartialEq, Eq)]
pub enum Failure {
    /// A reused connection turned out to have been closed.
    Stale,
    /// The connection ended before a whole response head.
    Reset,
    /// No response head in time, or the endpoint was found lost meanwhile.
    Timeout {
        /// The deadline had not passed yet.
        early: bool,
    },
    /// The response could not be read without doubt.
    Bad(&'static str),
    /// The client left.
    ClientGone,
    /// The client broke its own request.
    Client(ProxyError),
}

/// Why passing on a response ended before its end. The client sees it: the connection is
/// closed without an end mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The instance's fault.
    Upstream,
    /// The client left or does not read.
    Client,
}

/// The state of one attempt.
pub struct Exchange {
    /// The connection to the instance.
    pub up: Upstream,
    length_hint: u64,
    /// Bytes for the client.
    reply: Buffer,
    /// The response body.
    body: Body,
    /// Status of the final response, 0 before.
    pub status: u16,
    /// Bytes passed on to the client, heads included.
    pub bytes_out: u64,
    /// The client connection must be closed after the response.
    pub closes_downstream: bool,
    /// Only the end of the connection will show the end of the response.
    pub is_unframed: bool,
    /// The response is 101: both connections become a tunnel.
    pub is_tunnel: bool,
    /// When the response head was complete.
    pub answered: Option<Instant>,
    keeps_upstream: bool,
    interim_seen: u32,
    continued: bool,
    /// The instance no longer takes bytes.
    send_broken: bool,
    sent: bool,
    /// When there was nothing more to send.
    pub sent_at: Option<Instant>,
    look_at: Instant,
    /// The client is looked after only in exchanges that last: quick ones notice when they write.
    watches_client: bool,
    clock_is_fresh: bool,
    /// Last time a byte moved.
    progressed: Instant,
    hold_until: Option<Instant>,
    pipe: Option<PipeLease>,
}

/// What an exchange works with.
pub struct Setting<'a> {
    /// The client connection.
    pub down: &'a mut Downstream,
    /// The request.
    pub outgoing: &'a mut Outgoing,
    /// What is known of it.
    pub facts: &'a Facts,
    /// The hold on the endpoint.
    pub pick: &'a Pick,
    /// The service's deadlines.
    pub timeouts: &'a TimeoutsConfig,
    /// The worker.
    pub worker: &'a Rc<Worker>,
    /// A failed attempt could be followed by another.
    pub may_retry: bool,
}

impl Exchange {
    /// An attempt over this connection. `length_hint` is about how long the response will be.
    pub fn new(up: Upstream, length_hint: u64, now: Instant) -> Self {
        Self {
            up,
            length_hint,
            reply: Buffer::none(),
            body: Body::new(Framing::None, false),
            status: 0,
            bytes_out: 0,
            closes_downstream: true,
            is_unframed: false,
            is_tunnel: false,
            answered: None,
            keeps_upstream: false,
            interim_seen: 0,
            continued: false,
            send_broken: false,
            sent: false,
            sent_at: None,
            look_at: now + LOOK_INTERVAL,
            watches_client: false,
            clock_is_fresh: true,
            progressed: now,
            hold_until: None,
            pipe: None,
        }
    }

    /// Sends the request and waits for the response: its head, and the body too if it is
    /// short and comes at once.
    pub fn poll_reply(
        &mut self,
        cx: &mut Context<'_>,
        setting: &mut Setting<'_>,
    ) -> Poll<Result<(), Failure>> {
        self.read_clock(setting);
        let mut progress = false;
        loop {
            progress |= self.poll_send(cx, setting)?;
            if !self.poll_interim(cx, setting)? {
                break;
            }
            match self.poll_read_head(cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(1..)) => {
                    progress = true;
                    setting.pick.heard(setting.down.now);
                    if self.take_in(setting)? {
                        self.clock_is_fresh = true;
                        return Poll::Ready(Ok(()));
                    }
                    if self.up.buffer.is_full() {
                        self.up.buffer.grow(self.up.buffer.capacity() * 4);
                    }
                }
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(self.ended_early(setting)),
            }
        }
        if self.watches_client && self.sent && setting.down.poll_gone(cx).is_ready() {
            return Poll::Ready(Err(Failure::ClientGone));
        }
        if progress {
            self.progressed = setting.down.now;
        }
        self.poll_reply_deadline(cx, setting)
    }

    /// Reads once, into buffers that are not held while nothing comes: those that were used
    /// last are still in the processor's cache.
    fn poll_read_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.up.buffer.capacity() == 0 {
            ready!(self.up.stream.poll_read_ready(cx))?;
            self.reply = Buffer::new(HEAD_BYTES);
            self.up.buffer = match self.length_hint {
                0..=3_000 => Buffer::new(HEAD_BYTES),
                3_001..=15_000 => Buffer::new(BODY_BYTES),
                hint if hint < SPLICE_BYTES_MIN => Buffer::large_if_available(),
                _ => Buffer::new(HEAD_BYTES),
            };
        }
        poll_fill(&mut self.up.stream, cx, &mut self.up.buffer)
    }

    /// Once each time the task is woken.
    fn read_clock(&mut self, setting: &mut Setting<'_>) {
        if !std::mem::take(&mut self.clock_is_fresh) {
            setting.down.now = Instant::now();
        }
    }

    /// True when anything moved.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        setting: &mut Setting<'_>,
    ) -> Result<bool, Failure> {
        if self.sent || self.send_broken {
            return Ok(false);
        }
        match setting
            .outgoing
            .poll_send(cx, setting.down, &mut self.up.stream, setting.worker)
        {
            Poll::Pending => Ok(setting.outgoing.take_progress()),
            Poll::Ready(Ok(())) => {
                self.sent = true;
                self.sent_at = Some(setting.down.now);
                Ok(true)
            }
            // It may have answered before it closed: what it said is read to the end.
            Poll::Ready(Err(SendError::Upstream)) => {
                self.send_broken = true;
                self.sent_at = Some(setting.down.now);
                Ok(true)
            }
            Poll::Ready(Err(SendError::ClientGone)) => Err(Failure::ClientGone),
            Poll::Ready(Err(SendError::Client(error))) => Err(Failure::Client(error)),
        }
    }

    /// Passes interim responses on. False while the client does not take them.
    fn poll_interim(
        &mut self,
        cx: &mut Context<'_>,
        setting: &mut Setting<'_>,
    ) -> Result<bool, Failure> {
        while self.status == 0 && !self.reply.is_empty() {
            match poll_write(&mut setting.down.stream, cx, self.reply.filled()) {
                Poll::Pending => return Ok(false),
                Poll::Ready(Ok(count)) => {
                    self.reply.consume(count);
                    self.bytes_out += count as u64;
                }
                Poll::Ready(Err(_)) => return Err(Failure::ClientGone),
            }
        }
        Ok(true)
    }

    /// Reads what the instance said. True when the response may be passed on.
    fn take_in(&mut self, setting: &Setting<'_>) -> Result<bool, Failure> {
        if self.status == 0 && !self.take_in_head(setting)? {
            return Ok(false);
        }
        if self.hold_until.is_none() {
            return Ok(true);
        }
        self.body
            .transfer(&mut self.up.buffer, &mut self.reply)
            .map_err(|_| Failure::Bad("invalid chunked coding"))?;
        Ok(self.body.is_done() || self.reply.len() >= BODY_BYTES)
    }

    fn take_in_head(&mut self, setting: &Setting<'_>) -> Result<bool, Failure> {
        loop {
            let mut slots = response::Slots::new();
            let parsed =
                response::parse(self.up.buffer.filled(), &mut slots, setting.facts.is_head);
            let Some(head) = parsed.map_err(bad_head)? else {
                return Ok(false);
            };
            let length = head.length;
            if head.status >= 200 {
                let facts = setting.facts;
                self.is_unframed =
                    facts.minor == 0 && matches!(head.framing, Framing::Chunked | Framing::Close);
                self.closes_downstream = !facts.keep_alive
                    || !self.sent
                    || self.is_unframed
                    || setting.worker.is_stopping();
                self.keeps_upstream = head.keep_alive;
                self.status = head.status;
                self.body = Body::new(head.framing, facts.minor == 1);
                let date = setting.worker.date();
                answer::write_head(
                    &mut self.reply,
                    &head,
                    facts.terms(self.closes_downstream, &date),
                );
                if setting.may_retry && is_held(&head) {
                    self.hold_until = Some(setting.down.now + HOLD);
                }
                self.answered = Some(setting.down.now);
                self.up.buffer.consume(length);
                return Ok(true);
            }
            self.interim_seen += 1;
            if self.interim_seen > INTERIM_MAX {
                return Err(Failure::Bad("too many interim responses"));
            }
            if head.status == 101 {
                if !(setting.facts.upgrades && head.upgrades) {
                    return Err(Failure::Bad("101 without a matching upgrade request"));
                }
                self.status = 101;
                self.is_tunnel = true;
                answer::write_switching(&mut self.reply, &head);
                self.answered = Some(setting.down.now);
                self.up.buffer.consume(length);
                return Ok(true);
            }
            if setting.facts.minor == 1 && (head.status != 100 || setting.facts.expects_continue) {
                answer::write_interim(&mut self.reply, &head);
            }
            self.continued |= head.status == 100;
            self.up.buffer.consume(length);
        }
    }

    fn ended_early(&mut self, setting: &Setting<'_>) -> Result<(), Failure> {
        if self.status != 0 {
            // The head is here and its body was being waited for.
            return if self.body.end_of_input(&mut self.reply).is_ok() {
                Ok(())
            } else {
                Err(Failure::Reset)
            };
        }
        let untouched = self.up.buffer.is_empty() && self.interim_seen == 0;
        let soon = self
            .sent_at
            .is_none_or(|sent_at| setting.down.now.duration_since(sent_at) < STALE_WINDOW);
        let unsent = setting.outgoing.is_unsent();
        Err(if self.up.reused && untouched && (soon || unsent) {
            Failure::Stale
        } else {
            Failure::Reset
        })
    }

    fn poll_reply_deadline(
        &mut self,
        cx: &mut Context<'_>,
        setting: &mut Setting<'_>,
    ) -> Poll<Result<(), Failure>> {
        let timeouts = setting.timeouts;
        if let Some(hold_until) = self.hold_until {
            ready!(setting.down.poll_until(cx, hold_until));
            self.clock_is_fresh = true;
            return Poll::Ready(Ok(()));
        }
        let waits_for_continue = setting.facts.expects_continue
            && !self.continued
            && !setting.outgoing.is_body_touched();
        let waits_for_head = self.sent_at.is_some() || waits_for_continue;
        let deadline = match self.sent_at {
            Some(sent_at) => sent_at + timeouts.response_head,
            None if waits_for_continue => self.progressed + timeouts.response_head,
            None => self.progressed + timeouts.idle,
        };
        loop {
            let now = setting.down.now;
            if now >= deadline {
                let by_upstream = waits_for_head || setting.outgoing.waiting() == Waiting::Upstream;
                return Poll::Ready(Err(if by_upstream {
                    Failure::Timeout { early: false }
                } else {
                    Failure::Client(ProxyError::RequestTimeout)
                }));
            }
            if now >= self.look_at {
                if waits_for_head && setting.may_retry && setting.pick.endpoint().is_lost() {
                    return Poll::Ready(Err(Failure::Timeout { early: true }));
                }
                self.look_at = now + LOOK_INTERVAL;
                if self.sent && setting.down.poll_gone(cx).is_ready() {
                    return Poll::Ready(Err(Failure::ClientGone));
                }
                self.watches_client = true;
            }
            ready!(setting.down.poll_until(cx, self.look_at.min(deadline)));
        }
    }

    /// Passes the response on, to its end.
    pub fn poll_relay(
        &mut self,
        cx: &mut Context<'_>,
        setting: &mut Setting<'_>,
    ) -> Poll<Result<(), Broken>> {
        self.read_clock(setting);
        let mut progress = false;
        let waits_for_client = loop {
            match self.poll_send(cx, setting) {
                Ok(moved) => progress |= moved,
                // A request that its client leaves unfinished must not look finished.
                Err(_) => return Poll::Ready(Err(Broken::Client)),
            }
            match self.poll_write_reply(cx, setting) {
                Poll::Ready(Ok(true)) => progress = true,
                Poll::Ready(Ok(false)) => {}
                Poll::Ready(Err(broken)) => return Poll::Ready(Err(broken)),
                Poll::Pending => break true,
            }
            if self.pipe.is_none() && self.body.is_done() {
                return Poll::Ready(Ok(()));
            }
            let moved = if self.is_spliced(setting) {
                self.poll_splice(cx, setting)
            } else {
                self.poll_read_body(cx, setting)
            };
            match moved {
                Poll::Ready(Ok(())) => progress = true,
                Poll::Ready(Err(broken)) => return Poll::Ready(Err(broken)),
                Poll::Pending => break false,
            }
        };
        if !waits_for_client && self.sent && setting.down.poll_gone(cx).is_ready() {
            return Poll::Ready(Err(Broken::Client));
        }
        if progress {
            self.progressed = setting.down.now;
        }
        let deadline = self.progressed + setting.timeouts.idle;
        let broken = if waits_for_client {
            Broken::Client
        } else {
            Broken::Upstream
        };
        setting.down.poll_until(cx, deadline).map(|()| Err(broken))
    }

    /// Writes what there is for the client; `Ok(false)` when there is nothing.
    fn poll_write_reply(
        &mut self,
        cx: &mut Context<'_>,
        setting: &mut Setting<'_>,
    ) -> Poll<Result<bool, Broken>> {
        let mut moved = false;
        loop {
            let plain = usize::try_from(self.body.plain_left())
                .unwrap_or(usize::MAX)
                .min(self.up.buffer.len());
            if self.reply.is_empty() && plain == 0 {
                return Poll::Ready(Ok(moved));
            }
            let before = self.reply.len();
            let stream = &mut setting.down.stream;
            let written = ready!(poll_write_both(
                stream,
                cx,
                &mut self.reply,
                &mut self.up.buffer,
                plain
            ));
            let Ok(from_body) = written else {
                return Poll::Ready(Err(Broken::Client));
            };
            self.bytes_out += (before - self.reply.len() + from_body) as u64;
            self.body.pass(from_body as u64);
            moved = true;
        }
    }

    fn is_spliced(&mut self, setting: &Setting<'_>) -> bool {
        if self.pipe.is_none()
            && self.up.buffer.is_empty()
            && self.body.plain_left() >= SPLICE_BYTES_MIN
        {
            self.pipe = setting.worker.take_pipe();
            if self.pipe.is_some() {
                self.up.buffer = Buffer::none();
            }
        }
        self.pipe.is_some()
    }

    fn poll_splice(
        &mut self,
        cx: &mut Context<'_>,
        setting: &mut Setting<'_>,
    ) -> Poll<Result<(), Broken>> {
        let pipe = self.pipe.as_mut().expect("the caller has looked");
        let left = self.body.plain_left();
        if left == 0 && pipe.is_empty() {
            self.pipe = None;
            return Poll::Ready(Ok(()));
        }
        match ready!(pipe.poll_step(cx, &self.up.stream, &setting.down.stream, left)) {
            Ok(Moved::In(count)) => {
                setting.pick.heard(setting.down.now);
                self.body.pass(count as u64);
            }
            Ok(Moved::Out(count)) => self.bytes_out += count as u64,
            Ok(Moved::End) => {
                self.pipe = None;
                if self.body.end_of_input(&mut self.reply).is_err() {
                    return Poll::Ready(Err(Broken::Upstream));
                }
            }
            Err(SpliceError::Source(_)) => return Poll::Ready(Err(Broken::Upstream)),
            Err(SpliceError::Sink(_)) => return Poll::Ready(Err(Broken::Client)),
        }
        Poll::Ready(Ok(()))
    }

    /// Reads and reframes body bytes once.
    fn poll_read_body(
        &mut self,
        cx: &mut Context<'_>,
        setting: &mut Setting<'_>,
    ) -> Poll<Result<(), Broken>> {
        if !self.up.buffer.is_empty() {
            let moved = self.body.transfer(&mut self.up.buffer, &mut self.reply);
            return Poll::Ready(moved.map_err(|_| Broken::Upstream));
        }
        self.fit_buffer();
        match ready!(poll_fill(&mut self.up.stream, cx, &mut self.up.buffer)) {
            Ok(0) => {
                self.keeps_upstream = false;
                Poll::Ready(
                    self.body
                        .end_of_input(&mut self.reply)
                        .map_err(|_| Broken::Upstream),
                )
            }
            Ok(_) => {
                setting.pick.heard(setting.down.now);
                Poll::Ready(Ok(()))
            }
            Err(_) => Poll::Ready(Err(Broken::Upstream)),
        }
    }

    /// Chooses the room for the next read of a body by what is known to be missing, or by
    /// whether the last read filled its room.
    fn fit_buffer(&mut self) {
        let capacity = self.up.buffer.capacity();
        let wanted = self.body.length_left().unwrap_or(BODY_BYTES as u64);
        if wanted > BODY_BYTES as u64 && capacity <= BODY_BYTES {
            self.up.buffer = Buffer::large_if_available();
        } else if wanted > capacity as u64 {
            self.up.buffer = Buffer::new(BODY_BYTES);
        }
    }

    /// Body bytes of the response.
    pub fn body_bytes(&self) -> u64 {
        self.body.passed
    }

    /// The connection to the instance, if it can carry another exchange: everything was
    /// sent, everything was received, and nothing more.
    pub fn into_reusable(mut self) -> Option<Upstream> {
        let clean =
            self.sent && self.keeps_upstream && self.body.is_done() && self.up.buffer.is_empty();
        self.up.buffer = Buffer::none();
        clean.then_some(self.up)
    }

    /// The connection to the instance and what it has said after its 101.
    pub fn into_tunnel(self) -> Upstream {
        self.up
    }

    /// Bytes for the client that were not written yet.
    pub fn take_reply(&mut self) -> Buffer {
        std::mem::replace(&mut self.reply, Buffer::none())
    }
}

/// A response that is worth waiting a moment for: short, or chunked and not a stream of
/// events.
fn is_held(head: &response::ResponseHead<'_, '_>) -> bool {
    match head.framing {
        Framing::Length(length) => length <= HOLD_BYTES_MAX,
        Framing::Chunked => !head.fields.iter().any(|field| {
            field.name.eq_ignore_ascii_case("content-type")
                && field.value.starts_with(b"text/event-stream")
        }),
        Framing::None | Framing::Close => false,
    }
}

fn bad_head(error: HeadError) -> Failure {
    Failure::Bad(match error {
        HeadError::Malformed(detail) => detail,
        HeadError::TooLarge | HeadError::TargetTooLong => "response head too large",
        HeadError::UnknownCoding | HeadError::LengthRequired => "unknown transfer coding",
    })
}
