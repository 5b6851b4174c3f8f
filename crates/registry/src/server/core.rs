//! The core: the machine, its store and everybody connected, owned by one thread.
//!
//! Whatever happens is one turn: a frame came, a record reached the disk, time passed. A turn runs to its
//! end without waiting; what it has to say goes into outboxes and from there, as far as the sockets take it
//! at once, out.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use livegate_zk::proto::op_code::OpCode;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::Notify;

use super::latency::Latency;
use super::outbox::Outbox;
use crate::machine::{ConnectionId, Handshake, Machine, Now, Room, SECRET_BYTES, append_event};
use crate::options::Options;
use crate::store::{Class, Position, Store};

/// With more than this waiting for a client, nothing more is read from it.
const OUTBOX_PAUSE_BYTES: usize = 1 << 20;
/// With more than this waiting for a client, it is cut off: it does not read what it asked to be told.
const OUTBOX_BYTES_MAX: usize = 16 << 20;
/// What a record may take beyond the request that it comes from.
pub(super) const RECORD_OVERHEAD_BYTES: usize = 512;

/// One client.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) id: ConnectionId,
    pub(super) address: SocketAddr,
    pub(super) outgoing: OwnedWriteHalf,
    pub(super) outbox: RefCell<Outbox>,
    /// Wakes the connection's task to look at everything anew.
    pub(super) wake: Notify,
    pub(super) ending: Cell<Ending>,
    pub(super) session: Cell<i64>,
    pub(super) numbers: RefCell<Numbers>,
    /// Whether nothing is read from it until the disk has caught up.
    is_stalled: Cell<bool>,
    /// Whether it is among those that were given something in this turn.
    is_touched: Cell<bool>,
    /// Whether it is among those that wait for the disk.
    is_waiting: Cell<bool>,
}

/// Whether a connection is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ending {
    No,
    /// When everything has been sent.
    AfterSending,
    Now,
}

/// What the four-letter words tell of a connection.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    pub(super) received: u64,
    pub(super) sent: u64,
    pub(super) latency: Latency,
    pub(super) last_op: Option<OpCode>,
    pub(super) last_xid: i32,
    pub(super) last_response: Option<SystemTime>,
    pub(super) established: Option<SystemTime>,
}

/// What the four-letter words tell of the server.
#[derive(Debug, Default)]
pub(super) struct Totals {
    pub(super) received: u64,
    pub(super) sent: u64,
    pub(super) latency: Latency,
    pub(super) refused_connections: u64,
    pub(super) expired_sessions: u64,
}

/// Everything that the server's thread owns.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) options: Options,
    pub(super) local_address: SocketAddr,
    pub(super) machine: Machine,
    pub(super) store: Store,
    pub(super) connections: HashMap<ConnectionId, Rc<Connection>>,
    pub(super) totals: Totals,
    by_address: HashMap<IpAddr, usize>,
    next_connection: ConnectionId,
    /// Records on their way to the disk, with the transaction each carries.
    pending: VecDeque<(Position, i64)>,
    /// Connections with frames held for the disk.
    waiting: Vec<Rc<Connection>>,
    /// Connections from which nothing is read until the disk has caught up.
    stalled: Vec<Rc<Connection>>,
    /// Connections that were given something in this turn.
    touched: Vec<Rc<Connection>>,
    started: Instant,
    scratch: Vec<u8>,
    frames: Vec<u8>,
    was_full: bool,
    /// What `stmk` sets and `gtmk` tells.
    pub(super) trace_mask: i64,
}

impl Core {
    pub(super) fn new(
        options: Options,
        local_address: SocketAddr,
        machine: Machine,
        store: Store,
    ) -> Self {
        Self {
            options,
            local_address,
            machine,
            store,
            connections: HashMap::new(),
            totals: Totals::default(),
            by_address: HashMap::new(),
            next_connection: 1,
            pending: VecDeque::new(),
            waiting: Vec::new(),
            stalled: Vec::new(),
            touched: Vec::new(),
            started: Instant::now(),
            scratch: Vec::new(),
            frames: Vec::new(),
            was_full: false,
            // What Apache ZooKeeper begins with (`ZooTrace.DEFAULT`).
            trace_mask: 306,
        }
    }

    pub(super) fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH);
        Now {
            wall_ms: wall.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(0)),
            steady_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(0),
        }
    }

    /// Everything up to this transaction is on disk.
    pub(super) fn durable_zxid(&self) -> i64 {
        // What failed after the last change depends on that change at most.
        self.pending
            .front()
            .map_or(self.machine.zxid(), |&(_, zxid)| zxid - 1)
    }

    /// Takes in a client, unless its address has too many connections.
    pub(super) fn accept(
        &mut self,
        outgoing: OwnedWriteHalf,
        address: SocketAddr,
    ) -> Option<Rc<Connection>> {
        // A socket of both families names IPv4 clients by addresses that are made up.
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        let of_address = self.by_address.entry(address.ip()).or_default();
        let max = self.options.connections_per_address_max;
        if max > 0 && *of_address >= max {
            self.totals.refused_connections += 1;
            tracing::warn!(
                "{} has {max} connections, the most an address may have: refused another \
                 (maxClientCnxns)",
                address.ip()
            );
            return None;
        }
        *of_address += 1;
        let id = self.next_connection;
        self.next_connection += 1;
        let connection = Rc::new(Connection {
            id,
            address,
            outgoing,
            outbox: RefCell::default(),
            wake: Notify::new(),
            ending: Cell::new(Ending::No),
            session: Cell::new(0),
            numbers: RefCell::new(Numbers {
                established: Some(SystemTime::now()),
                ..Numbers::default()
            }),
            is_stalled: Cell::new(false),
            is_touched: Cell::new(false),
            is_waiting: Cell::new(false),
        });
        self.connections.insert(id, Rc::clone(&connection));
        Some(connection)
    }

    /// A client is gone.
    pub(super) fn remove(&mut self, connection: &Connection) {
        self.connections.remove(&connection.id);
        self.stalled.retain(|stalled| stalled.id != connection.id);
        self.machine.disconnect(connection.id);
        if let Some(count) = self.by_address.get_mut(&connection.address.ip()) {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&connection.address.ip());
            }
        }
    }

    /// Answers a frame.
    pub(super) fn handle(&mut self, connection: &Rc<Connection>, frame: &[u8]) {
        let now = self.now();
        let received = Instant::now();
        let room = self.room(frame.len());
        self.totals.received += 1;
        self.frames.clear();
        let (zxid, ending) = if connection.session.get() == 0 {
            self.handshake(connection, now, room, frame)
        } else {
            let floor = self.durable_zxid().max(connection.outbox.borrow().newest());
            let turn =
                self.machine
                    .request(now, connection.id, floor, room, frame, &mut self.frames);
            let mut numbers = connection.numbers.borrow_mut();
            numbers.received += 1;
            numbers.last_op = turn.op_code;
            numbers.last_xid = turn.xid;
            let ending = if turn.closes {
                Ending::AfterSending
            } else {
                Ending::No
            };
            (turn.zxid, ending)
        };
        self.write_down();
        self.tell();
        if !self.frames.is_empty() {
            let frames = std::mem::take(&mut self.frames);
            self.push(connection, zxid, &frames, Some(received));
            self.frames = frames;
            if self.frames.capacity() > OUTBOX_PAUSE_BYTES {
                self.frames = Vec::new();
            }
        }
        connection.end(ending);
    }

    fn handshake(
        &mut self,
        connection: &Rc<Connection>,
        now: Now,
        room: Room,
        frame: &[u8],
    ) -> (i64, Ending) {
        let address = connection.address.ip();
        let handshake =
            self.machine
                .connect(now, connection.id, address, room, frame, &mut self.frames);
        match handshake {
            Handshake::Attached {
                session,
                timeout_ms,
                former,
                zxid,
            } => {
                tracing::debug!(
                    "session 0x{session:x} of {} with a timeout of {timeout_ms} ms",
                    connection.address
                );
                connection.session.set(session);
                if let Some(former) = former.and_then(|former| self.connections.get(&former)) {
                    former.end(Ending::Now);
                }
                (zxid, Ending::No)
            }
            Handshake::Expired => (self.durable_zxid(), Ending::AfterSending),
            Handshake::Refused(why) => {
                tracing::info!("closed the connection of {}: {why}", connection.address);
                (0, Ending::Now)
            }
        }
    }

    /// Whether a request of this length finds room on disk.
    fn room(&mut self, bytes: usize) -> Room {
        let bytes = bytes + RECORD_OVERHEAD_BYTES;
        let room = if self.store.has_room(Class::Regular, bytes) {
            Room::Plenty
        } else if self.store.has_room(Class::Reserved, bytes) {
            Room::Reserve
        } else {
            Room::None
        };
        let is_full = room < Room::Plenty;
        if is_full != self.was_full {
            self.was_full = is_full;
            if is_full {
                tracing::error!(
                    "no room on the disk of {}: writes are refused until there is",
                    self.options.data_dir.display()
                );
            } else {
                tracing::warn!("there is room on disk again: writes are taken");
            }
        }
        room
    }

    /// Hands the record of what was changed to the store.
    fn write_down(&mut self) {
        let (store, pending) = (&mut self.store, &mut self.pending);
        let zxid = self.machine.zxid();
        self.machine.take_record(|record| {
            pending.push_back((store.queue(record), zxid));
        });
    }

    /// Puts events into the outboxes of those who are to be told.
    fn tell(&mut self) {
        if !self.machine.has_events() {
            return;
        }
        let zxid = self.machine.zxid();
        for event in self.machine.take_events() {
            let Some(connection) = self.connections.get(&event.connection) else {
                continue;
            };
            self.scratch.clear();
            append_event(&mut self.scratch, &event);
            push(connection, zxid, &self.scratch, None, &mut self.touched);
        }
    }

    fn push(
        &mut self,
        connection: &Rc<Connection>,
        zxid: i64,
        frames: &[u8],
        since: Option<Instant>,
    ) {
        push(connection, zxid, frames, since, &mut self.touched);
    }

    /// Ends a turn: records go to the disk, and whatever may be sent is sent.
    pub(super) fn settle(&mut self) {
        self.store.flush();
        let durable = self.durable_zxid();
        for connection in std::mem::take(&mut self.touched) {
            connection.is_touched.set(false);
            self.send(&connection, durable);
            if connection.outbox.borrow().held() > 0 && !connection.is_waiting.replace(true) {
                self.waiting.push(connection);
            }
        }
    }

    /// More is on disk than before.
    pub(super) fn on_durable(&mut self, position: Position) {
        while self
            .pending
            .front()
            .is_some_and(|&(pending, _)| pending <= position)
        {
            self.pending.pop_front();
        }
        let durable = self.durable_zxid();
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.retain(|connection| {
            self.send(connection, durable);
            let waits =
                connection.outbox.borrow().held() > 0 && connection.ending.get() < Ending::Now;
            connection.is_waiting.set(waits);
            waits
        });
        waiting.append(&mut self.waiting);
        self.waiting = waiting;
        if !self.store.is_backlogged() {
            for connection in self.stalled.drain(..) {
                connection.is_stalled.set(false);
                connection.wake.notify_one();
            }
        }
    }

    /// Whether so much waits for the disk that nothing more is to be read; then the connection is woken
    /// when that is over.
    pub(super) fn stalls(&mut self, connection: &Rc<Connection>) -> bool {
        let stalls = self.store.is_backlogged();
        if stalls && !connection.is_stalled.replace(true) {
            self.stalled.push(Rc::clone(connection));
        }
        stalls
    }

    /// Sends what may be sent and the socket takes.
    fn send(&mut self, connection: &Connection, durable: i64) {
        let mut outbox = connection.outbox.borrow_mut();
        let mut numbers = connection.numbers.borrow_mut();
        let was_paused = outbox.len() > OUTBOX_PAUSE_BYTES;
        let held = outbox.held();
        outbox.release(
            durable,
            &mut [&mut self.totals.latency, &mut numbers.latency],
        );
        let released = (held - outbox.held()) as u64;
        numbers.sent += released;
        self.totals.sent += released;
        if released > 0 {
            numbers.last_response = Some(SystemTime::now());
        }
        drop(numbers);
        let mut is_blocked = false;
        while !outbox.ready().is_empty() && !is_blocked {
            match connection.outgoing.try_write(outbox.ready()) {
                Ok(count) if count > 0 => outbox.advance(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => is_blocked = true,
                // The client is gone. Its socket counts as writable from now on: whoever waited for that and
                // tried again would do so for ever, and nobody else had a turn.
                Ok(_) | Err(_) => {
                    drop(outbox);
                    connection.end(Ending::Now);
                    return;
                }
            }
        }
        let is_done = outbox.len() == 0 && connection.ending.get() == Ending::AfterSending;
        let is_resumed = was_paused && outbox.len() <= OUTBOX_PAUSE_BYTES;
        drop(outbox);
        // Its task waits for the socket, reads on, or ends.
        if is_blocked || is_done || is_resumed {
            connection.wake.notify_one();
        }
    }

    /// Sends what its socket takes by now.
    pub(super) fn flush(&mut self, connection: &Connection) {
        let durable = self.durable_zxid();
        self.send(connection, durable);
    }

    /// Time has passed: sessions end.
    pub(super) fn tick(&mut self) {
        let now = self.now();
        while self.room(0) > Room::None {
            let Some(expired) = self.machine.expire_one(now) else {
                break;
            };
            self.totals.expired_sessions += 1;
            tracing::info!("session 0x{:x} is over: not heard from", expired.session);
            self.write_down();
            self.tell();
            let connection = expired.connection.and_then(|id| self.connections.get(&id));
            if let Some(connection) = connection {
                connection.end(Ending::Now);
            }
        }
        self.settle();
    }

    /// Deletes some of the containers and nodes whose time has come. Returns whether there may be more.
    pub(super) fn reap(&mut self) -> bool {
        const AT_ONCE: usize = 100;
        let now = self.now();
        let paths = self.machine.reapable(now, AT_ONCE);
        for path in &paths {
            if self.room(path.len()) < Room::Reserve {
                return false;
            }
            self.machine.reap(now, path);
            self.write_down();
            self.tell();
        }
        self.settle();
        paths.len() == AT_ONCE
    }

    /// Sends the answer to a four-letter word, which ends the connection.
    pub(super) fn answer_word(&mut self, connection: &Rc<Connection>, text: &[u8]) {
        self.push(connection, 0, text, None);
        connection.end(Ending::AfterSending);
        self.settle();
    }

    /// Gives this start its epoch, which is the first thing that is written.
    pub(super) fn begin(&mut self, secret: [u8; SECRET_BYTES]) {
        self.machine.begin(self.now(), secret);
        self.write_down();
        self.settle();
    }
}

fn push(
    connection: &Rc<Connection>,
    zxid: i64,
    frames: &[u8],
    since: Option<Instant>,
    touched: &mut Vec<Rc<Connection>>,
) {
    if connection.ending.get() == Ending::Now {
        return;
    }
    let mut outbox = connection.outbox.borrow_mut();
    if outbox.len() > OUTBOX_BYTES_MAX {
        drop(outbox);
        tracing::warn!(
            "cut off {}: it leaves more than {OUTBOX_BYTES_MAX} bytes unread",
            connection.address
        );
        connection.end(Ending::Now);
        return;
    }
    outbox.push(zxid, frames, since);
    drop(outbox);
    if !connection.is_touched.replace(true) {
        touched.push(Rc::clone(connection));
    }
}

impl Connection {
    /// Has the connection end, at the latest like this.
    pub(super) fn end(&self, ending: Ending) {
        if ending > self.ending.get() {
            self.ending.set(ending);
            self.wake.notify_one();
        }
    }

    /// Whether more may be read from it.
    pub(super) fn accepts(&self) -> bool {
        self.ending.get() == Ending::No
            && !self.is_stalled.get()
            && self.outbox.borrow().len() <= OUTBOX_PAUSE_BYTES
    }
}
