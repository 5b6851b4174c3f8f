//! The session: what is sent, what is waited for, and what a reply or an event means.
//!
//! No I/O and no clock in here: the task feeds it frames and the time, and writes what it queues.
//!
//! Replies come in the order of the requests, with three exceptions that have numbers of their own: events,
//! replies to auth (which servers answer ahead of what is before it) and replies to setWatches.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::command::Command;
use super::credentials::Credentials;
use super::error::Error;
use super::handshake::{Claim, Granted};
use super::keepalive::{Due, Keepalive};
use super::options::Credential;
use super::outgoing::{Outgoing, Purpose, Waiting, request_frame};
use super::restore::set_watches_frames;
use super::state::DisconnectCause;
use super::watch_table::{OneShotKind, Restore, Target, Verdict, WatchTable};
use super::watcher::Gap;
use crate::frame::Frame;
use crate::jute::Decoder;
use crate::proto::error_code::ErrorCode;
use crate::proto::op_code::{OpCode, XID_AUTH, XID_NOTIFICATION, XID_PING, XID_SET_WATCHES};
use crate::proto::session::{PASSWORD_BYTES, ReplyHeader};
use crate::proto::watch::{EventKind, WatchKind, WatchSelection, WatcherEvent};

/// Frames offered to one write.
pub(crate) const WRITE_FRAMES_MAX: usize = 64;

/// What a frame led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// The connection goes on.
    Continue,
    /// The server has closed the session, as it was asked to.
    SessionClosed,
}

/// A session and the requests made in it.
#[derive(Debug)]
pub(crate) struct Session {
    timeout_wanted: Duration,
    granted: Option<Granted>,
    /// The newest transaction a reply has told of.
    last_zxid: i64,
    /// The newest transaction up to which no watch has missed anything. It stands still while watches are
    /// being restored: they are compared with what was known when the connection was lost.
    watched_zxid: i64,
    watches: WatchTable,
    credentials: Credentials,
    requests_max: usize,
    next_xid: i32,
    outgoing: VecDeque<Outgoing>,
    /// Bytes of the first outgoing frame that have been written.
    front_written: usize,
    in_flight: VecDeque<InFlight>,
    auths_in_flight: VecDeque<u64>,
    set_watches_in_flight: usize,
    /// Requests that set watches and have no reply yet, be they sent or not.
    restoring: usize,
    keepalive: Keepalive,
}

/// A request that has been written and is answered in order.
#[derive(Debug)]
struct InFlight {
    xid: i32,
    /// `None` for what the client asks for itself and does not need the answer of.
    waiting: Option<Box<Waiting>>,
    closes: bool,
    written_at: Instant,
}

impl Session {
    pub(crate) fn new(
        timeout_wanted: Duration,
        requests_max: usize,
        credentials: Vec<Credential>,
        watches: WatchTable,
        now: Instant,
    ) -> Self {
        let mut session = Self {
            timeout_wanted,
            granted: None,
            last_zxid: 0,
            watched_zxid: 0,
            watches,
            credentials: Credentials::default(),
            requests_max: requests_max.max(1),
            next_xid: 1,
            outgoing: VecDeque::new(),
            front_written: 0,
            in_flight: VecDeque::new(),
            auths_in_flight: VecDeque::new(),
            set_watches_in_flight: 0,
            restoring: 0,
            keepalive: Keepalive::new(timeout_wanted, now),
        };
        for credential in credentials {
            session.credentials.add(credential, None);
        }
        session
    }

    /// What to present to a server.
    pub(crate) fn claim_session(&self) -> Claim {
        let (session_id, password) = match &self.granted {
            Some(granted) => (granted.session_id, granted.password.clone()),
            None => (0, vec![0; PASSWORD_BYTES]),
        };
        Claim {
            session_id,
            password,
            last_zxid: self.last_zxid,
            timeout: self.timeout_wanted,
        }
    }

    /// The present session, if there is one.
    pub(crate) fn granted(&self) -> Option<&Granted> {
        self.granted.as_ref()
    }

    /// When the server was last heard from.
    pub(crate) fn heard(&self) -> Instant {
        self.keepalive.heard()
    }

    /// When the session is to be given up unless a server is heard from.
    pub(crate) fn expires_at(&self) -> Option<Instant> {
        self.granted.as_ref().map(|_| self.keepalive.expires_at())
    }

    /// The session is over.
    pub(crate) fn expire(&mut self) {
        self.granted = None;
    }

    /// The servers know nothing of what this client has seen: nothing it knows can be compared with what
    /// they have, so every one-shot watch is to fire.
    pub(crate) fn forget_history(&mut self) {
        self.last_zxid = 0;
        self.watched_zxid = -1;
    }

    /// A connection is attached. Queues what restores identities and watches, ahead of the requests that
    /// were waiting.
    pub(crate) fn attached(&mut self, granted: Granted, gap: Gap, now: Instant) {
        self.keepalive = Keepalive::new(granted.timeout, now);
        self.granted = Some(granted);
        let waiting = std::mem::take(&mut self.outgoing);
        for (number, frame) in self.credentials.present() {
            self.queue(frame, Purpose::Auth(number));
        }
        let restore = self.watches.restore(gap);
        self.queue_set_watches(self.watched_zxid, &restore);
        self.outgoing.extend(waiting);
        if self.restoring == 0 {
            self.watched_zxid = self.last_zxid;
        }
    }

    /// The connection is gone. What was sent fails with an unknown outcome; what was not waits.
    pub(crate) fn detached(&mut self) {
        for in_flight in std::mem::take(&mut self.in_flight) {
            if let Some(waiting) = in_flight.waiting {
                self.settle(*waiting, Err(Error::ConnectionLoss));
            }
        }
        self.front_written = 0;
        self.auths_in_flight.clear();
        (self.set_watches_in_flight, self.restoring) = (0, 0);
        for mut outgoing in std::mem::take(&mut self.outgoing) {
            let Purpose::Caller(waiting) = &mut outgoing.purpose else {
                continue;
            };
            if outgoing.claimed {
                waiting.wire = None;
                if let Some(intent) = &waiting.request.intent {
                    self.watches.withdraw(&intent.path);
                }
                if !waiting.request.ticket.unsend() {
                    continue;
                }
                outgoing.claimed = false;
            }
            self.outgoing.push_back(outgoing);
        }
        self.watches.disconnected();
    }

    /// How many more requests may be taken from the callers.
    pub(crate) fn room(&self) -> usize {
        self.requests_max
            .saturating_sub(self.outgoing.len() + self.in_flight.len())
    }

    /// Does, or queues, what a caller asks for.
    pub(crate) fn admit(&mut self, command: Command) {
        match command {
            Command::Request(mut request) => {
                let frame = std::mem::take(&mut request.frame);
                let waiting = Box::new(Waiting {
                    request,
                    wire: None,
                });
                self.queue(frame, Purpose::Caller(waiting));
            }
            Command::AddCredential {
                credential,
                ticket,
                reply,
            } => {
                if ticket.send() {
                    let (number, frame) = self.credentials.add(credential, Some(reply));
                    self.queue(frame, Purpose::Auth(number));
                }
            }
            Command::RemoveWatches {
                path,
                selection,
                reply,
            } => {
                let removed = self.watches.remove(&path, selection);
                let answer = if removed {
                    Ok(())
                } else {
                    Err(Error::Server(ErrorCode::NoWatcher))
                };
                // A caller who has gone does not need the answer.
                let _ = reply.send(answer);
                self.follow_up();
            }
        }
    }

    /// Callers have dropped these watches.
    pub(crate) fn release(&mut self, places: Vec<(Arc<str>, u64)>) {
        for (path, id) in places {
            self.watches.release(&path, id);
        }
        self.follow_up();
    }

    /// Queues the end of the session, after everything that is queued now.
    pub(crate) fn close(&mut self) {
        self.queue(
            request_frame(0, OpCode::CloseSession, &()),
            Purpose::CloseSession,
        );
    }

    fn queue(&mut self, frame: Vec<u8>, purpose: Purpose) {
        self.outgoing.push_back(Outgoing::new(frame, purpose));
    }

    /// Queues what a change of the watch table makes necessary. Without a connection there is nothing:
    /// then the server holds no watches.
    fn follow_up(&mut self) {
        for path in self.watches.take_unwanted() {
            let body = WatchSelection {
                path: &path,
                kind: WatchKind::Any.code(),
            };
            let frame = request_frame(0, OpCode::RemoveWatches, &body);
            self.queue(frame, Purpose::RemoveWatches);
        }
        // Nothing is known about what these have missed, so all whose node is there fire.
        let uncovered = self.watches.take_uncovered();
        self.queue_set_watches(0, &uncovered);
    }

    fn queue_set_watches(&mut self, relative_zxid: i64, restore: &Restore) {
        for frame in set_watches_frames(relative_zxid, restore) {
            self.queue(frame, Purpose::SetWatches);
            self.restoring += 1;
        }
    }

    /// Gets the next frames ready to be written and returns how many there are. From now on the callers
    /// they belong to cannot take them back; those whose callers have gone are dropped.
    pub(crate) fn claim(&mut self) -> usize {
        let mut claimed = 0;
        while claimed < WRITE_FRAMES_MAX && claimed < self.outgoing.len() {
            if !self.outgoing[claimed].claimed && !self.prepare(claimed) {
                self.outgoing.remove(claimed);
                continue;
            }
            claimed += 1;
        }
        claimed
    }

    /// The claimed frames, without what has been written of the first.
    pub(crate) fn slices(&self, claimed: usize) -> [IoSlice<'_>; WRITE_FRAMES_MAX] {
        let mut slices = [IoSlice::new(&[]); WRITE_FRAMES_MAX];
        let mut skip = self.front_written;
        for (slice, outgoing) in slices.iter_mut().zip(self.outgoing.iter().take(claimed)) {
            *slice = IoSlice::new(&outgoing.frame[std::mem::take(&mut skip)..]);
        }
        slices
    }

    /// Fills in what is only known when a frame is sent; false if its caller has given up.
    fn prepare(&mut self, index: usize) -> bool {
        let outgoing = &mut self.outgoing[index];
        outgoing.claimed = true;
        let mut wire = None;
        let xid = match &mut outgoing.purpose {
            Purpose::Auth(_) => XID_AUTH,
            Purpose::SetWatches => XID_SET_WATCHES,
            Purpose::Ping => XID_PING,
            Purpose::RemoveWatches | Purpose::CloseSession => next_xid(&mut self.next_xid),
            Purpose::Caller(waiting) => {
                if waiting.request.reply.is_closed() || !waiting.request.ticket.send() {
                    return false;
                }
                wire = waiting
                    .request
                    .intent
                    .as_ref()
                    .map(|intent| self.watches.begin(intent));
                waiting.wire = wire;
                next_xid(&mut self.next_xid)
            }
        };
        outgoing.set_xid(xid);
        if let Some(wire) = wire {
            outgoing.set_wire(wire);
        }
        true
    }

    /// This many bytes of the claimed frames have been written.
    pub(crate) fn written(&mut self, mut bytes: usize, now: Instant) {
        if bytes > 0 {
            self.keepalive.bytes_sent(now);
        }
        while bytes > 0
            && let Some(front) = self.outgoing.front()
        {
            let left = front.frame.len() - self.front_written;
            if bytes < left {
                self.front_written += bytes;
                return;
            }
            bytes -= left;
            self.front_written = 0;
            if let Some(front) = self.outgoing.pop_front() {
                self.took_off(front, now);
            }
        }
    }

    fn took_off(&mut self, outgoing: Outgoing, now: Instant) {
        let xid = outgoing.xid();
        let (waiting, closes) = match outgoing.purpose {
            Purpose::Auth(number) => return self.auths_in_flight.push_back(number),
            Purpose::SetWatches => return self.set_watches_in_flight += 1,
            Purpose::Ping => return,
            Purpose::RemoveWatches => (None, false),
            Purpose::CloseSession => (None, true),
            Purpose::Caller(mut waiting) => {
                waiting.request.permit = None;
                (Some(waiting), false)
            }
        };
        self.in_flight.push_back(InFlight {
            xid,
            waiting,
            closes,
            written_at: now,
        });
    }

    /// Bytes have arrived.
    pub(crate) fn bytes_arrived(&mut self, now: Instant) {
        self.keepalive.bytes_arrived(now);
    }

    /// A frame has arrived.
    pub(crate) fn frame_arrived(
        &mut self,
        frame: Frame,
        limit: usize,
        now: Instant,
    ) -> Result<Progress, DisconnectCause> {
        self.keepalive.frame_arrived(now);
        let (bytes, cut) = match frame {
            Frame::Whole(bytes) => (bytes, None),
            Frame::Cut { head, length } => (head, Some(Error::ReplyTooLong { length, limit })),
        };
        let mut input = Decoder::new(&bytes);
        let header: ReplyHeader = input.read().map_err(protocol_error)?;
        match (header.xid, cut) {
            (XID_NOTIFICATION, None) => self.event(header, &mut input)?,
            (XID_PING, None) => {}
            (XID_AUTH, None) => self.auth_reply(header)?,
            (XID_SET_WATCHES, None) => self.set_watches_reply(header)?,
            (XID_NOTIFICATION | XID_PING | XID_AUTH | XID_SET_WATCHES, Some(error)) => {
                return Err(protocol_error(error));
            }
            (_, cut) => {
                let body = bytes.slice_ref(input.remaining());
                return self.reply(header, cut.map_or(Ok(body), Err));
            }
        }
        Ok(Progress::Continue)
    }

    fn event(
        &mut self,
        header: ReplyHeader,
        input: &mut Decoder<'_>,
    ) -> Result<(), DisconnectCause> {
        let event: WatcherEvent<'_> = input.read().map_err(protocol_error)?;
        let kind = EventKind::from_code(event.kind)
            .ok_or_else(|| protocol_error(format_args!("unknown event type {}", event.kind)))?;
        self.watches
            .dispatch(kind, event.path, (header.zxid > 0).then_some(header.zxid));
        self.follow_up();
        Ok(())
    }

    fn auth_reply(&mut self, header: ReplyHeader) -> Result<(), DisconnectCause> {
        let number = self
            .auths_in_flight
            .pop_front()
            .ok_or_else(|| protocol_error("reply to an auth that was not sent"))?;
        self.credentials.answered(number, header.error)
    }

    fn set_watches_reply(&mut self, header: ReplyHeader) -> Result<(), DisconnectCause> {
        self.set_watches_in_flight = self
            .set_watches_in_flight
            .checked_sub(1)
            .ok_or_else(|| protocol_error("reply to a setWatches that was not sent"))?;
        if let Some(code) = ErrorCode::from_code(header.error) {
            return Err(protocol_error(format_args!(
                "watches were not restored: {code}"
            )));
        }
        self.restoring -= 1;
        self.saw(header.zxid);
        if self.restoring == 0 {
            self.watches.restored();
        }
        Ok(())
    }

    fn reply(
        &mut self,
        header: ReplyHeader,
        body: Result<Bytes, Error>,
    ) -> Result<Progress, DisconnectCause> {
        let in_flight = match self.in_flight.front() {
            Some(front) if front.xid == header.xid => self.in_flight.pop_front(),
            Some(front) => {
                let expected = front.xid;
                let xid = header.xid;
                return Err(protocol_error(format_args!(
                    "reply {xid} instead of {expected}"
                )));
            }
            None => None,
        };
        let in_flight = in_flight
            .ok_or_else(|| protocol_error(format_args!("reply {} to no request", header.xid)))?;
        self.saw(header.zxid);
        if let Some(waiting) = in_flight.waiting {
            let result = match ErrorCode::from_code(header.error) {
                Some(code) => Err(Error::Server(code)),
                None => body,
            };
            self.settle(*waiting, result);
            self.follow_up();
        }
        Ok(if in_flight.closes {
            Progress::SessionClosed
        } else {
            Progress::Continue
        })
    }

    fn saw(&mut self, zxid: i64) {
        self.last_zxid = self.last_zxid.max(zxid);
        if self.restoring == 0 {
            self.watched_zxid = self.last_zxid;
        }
    }

    /// Gives a caller the answer, after its watch has been registered.
    fn settle(&mut self, waiting: Waiting, result: Result<Bytes, Error>) {
        let Waiting { request, wire } = waiting;
        if let (Some(intent), Some(wire)) = (request.intent, wire) {
            let verdict = verdict(request.op_code, &intent.target, &result);
            self.watches.finish(intent, wire, verdict);
        }
        // A caller who has gone does not need the answer.
        drop(request.reply.send(result));
    }

    fn oldest_request(&self) -> Option<Instant> {
        self.in_flight.front().map(|in_flight| in_flight.written_at)
    }

    /// When [`timer`](Self::timer) is to be called next.
    pub(crate) fn next_timer(&self) -> Instant {
        self.keepalive.next(self.oldest_request())
    }

    /// Queues a ping, or gives the connection up, when it is time.
    pub(crate) fn timer(&mut self, now: Instant) -> Result<(), DisconnectCause> {
        match self.keepalive.due(self.oldest_request(), now) {
            Due::Nothing => {}
            Due::Silence => return Err(DisconnectCause::Silent),
            Due::Ping => {
                self.keepalive.bytes_sent(now);
                // What waits to be written is as good as a ping.
                if self.outgoing.is_empty() {
                    self.queue(request_frame(0, OpCode::Ping, &()), Purpose::Ping);
                }
            }
        }
        Ok(())
    }
}

fn verdict(op_code: OpCode, target: &Target, result: &Result<Bytes, Error>) -> Verdict {
    let set = match result {
        // A reply that was too long says success all the same.
        Ok(_) | Err(Error::ReplyTooLong { .. }) => true,
        Err(Error::ConnectionLoss) => return Verdict::Lost,
        Err(_) => false,
    };
    match (target, op_code) {
        (Target::Stream(_), _) if set => Verdict::Stream,
        (Target::OneShot(_), OpCode::GetChildren | OpCode::GetChildren2) if set => {
            Verdict::OneShot(OneShotKind::Child)
        }
        (Target::OneShot(_), _) if set => Verdict::OneShot(OneShotKind::Data),
        (Target::OneShot(_), OpCode::Exists)
            if *result == Err(Error::Server(ErrorCode::NoNode)) =>
        {
            Verdict::OneShot(OneShotKind::Exist)
        }
        _ => Verdict::Refused,
    }
}

fn next_xid(next: &mut i32) -> i32 {
    let xid = *next;
    // Negative numbers have meanings of their own.
    *next = if xid == i32::MAX { 1 } else { xid + 1 };
    xid
}

fn protocol_error(error: impl std::fmt::Display) -> DisconnectCause {
    DisconnectCause::Protocol(error.to_string())
}
