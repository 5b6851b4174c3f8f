//! The machine: what a ZooKeeper server does, without I/O, clock or randomness.
//!
//! It is told the time, given frames and answers with frames; whatever it changes it also says as a record
//! for the log ([`Machine::take_record`]), and whomever it has to tell of it, it names
//! ([`Machine::take_events`]). The same records applied to the same tree make the same tree.
//!
//! It runs ahead of the disk: a change is there as soon as it was made, while its record is still being
//! written. Every answer carries the transaction that it depends on ([`Turn::zxid`]), and whoever sends it
//! waits until that one is on disk. A read depends on the last change of what it read, so reads of what is
//! at rest never wait.

mod acl;
mod change;
mod dump;
mod image;
mod quota;
mod read;
mod sessions;
#[cfg(test)]
mod tests;
mod tree;
mod watches;
mod write;

use std::collections::HashMap;
use std::net::IpAddr;

use livegate_zk::frame::append_frame;
use livegate_zk::jute::{Decoder, Encode};
use livegate_zk::proto::error_code::ErrorCode;
use livegate_zk::proto::op_code::{OpCode, XID_NOTIFICATION};
use livegate_zk::proto::request::Request;
use livegate_zk::proto::session::{
    Auth, ConnectReply, ConnectRequest, ReplyHeader, RequestHeader, Sasl,
};
use livegate_zk::proto::watch::{STATE_SYNC_CONNECTED, WatcherEvent};

use acl::Identity;
use change::{Change, RecordError};
use image::ImageError;
pub(crate) use sessions::SECRET_BYTES;
use sessions::Sessions;
use tree::{Tree, TreeBuilder};
pub(crate) use watches::Event;
use watches::Watches;

/// The number of a connection, never given twice while the server runs.
pub(crate) type ConnectionId = u64;

/// The time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    /// Milliseconds since 1970.
    pub(crate) wall_ms: i64,
    /// Milliseconds by a clock that only goes forward.
    pub(crate) steady_ms: u64,
}

/// What differs from server to server.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) tick_ms: u64,
    /// Shortest and longest session timeout, in milliseconds.
    pub(crate) session_timeout_ms: (i32, i32),
    /// `user:base64(sha1(user:password))` of whoever may do everything.
    pub(crate) super_digest: Option<String>,
}

/// The state of a registry.
#[derive(Debug)]
pub(crate) struct Machine {
    settings: Settings,
    tree: Tree,
    watches: Watches,
    sessions: Sessions,
    peers: HashMap<ConnectionId, Peer>,
    /// The newest transaction.
    zxid: i64,
    /// The record of the last change; empty when it was taken.
    record: Vec<u8>,
    events: Vec<Event>,
    has_begun: bool,
}

/// Who is at the other end of a connection.
#[derive(Debug)]
struct Peer {
    session: i64,
    address: IpAddr,
    identities: Vec<Identity>,
}

/// Whether there is room on disk for what a request may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Room {
    /// For nothing.
    None,
    /// For sessions and deletions.
    Reserve,
    /// For everything.
    Plenty,
}

/// What a request has led to, besides the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Turn {
    pub(crate) xid: i32,
    pub(crate) op_code: Option<OpCode>,
    /// The answer may go out when this transaction is on disk.
    pub(crate) zxid: i64,
    /// Whether the connection ends after the answer.
    pub(crate) closes: bool,
}

/// How a handshake ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handshake {
    /// The connection carries a session. A former connection of it is to be closed.
    Attached {
        session: i64,
        timeout_ms: i32,
        former: Option<ConnectionId>,
        /// The answer may go out when this transaction is on disk.
        zxid: i64,
    },
    /// The answer says that the session is over; then the connection ends.
    Expired,
    /// The connection ends without an answer.
    Refused(&'static str),
}

/// Why what is on disk is not a registry.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RestoreError {
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error("transaction {0:#x} does not fit the ones before it")]
    Misfit(i64),
    #[error("the secret of the sessions has {0} bytes")]
    Secret(usize),
    #[error("a snapshot lacks its beginning")]
    NoHead,
}

impl Machine {
    /// A registry with nothing in it, before its [genesis](Self::begin).
    pub(crate) fn new(settings: Settings) -> Self {
        let sessions = Sessions::new(settings.tick_ms);
        Self {
            settings,
            tree: Tree::new(),
            watches: Watches::default(),
            sessions,
            peers: HashMap::new(),
            zxid: 0,
            record: Vec::new(),
            events: Vec::new(),
            has_begun: false,
        }
    }

    /// Begins to serve, after a restore or with nothing. A start skips to the zxid of its time: the upper
    /// half are the seconds since 2020, and above the lower 22 bits of the other half stand the
    /// milliseconds; 2^22 transactions take longer than one. So no zxid is given twice: neither where some
    /// were lost, nor by a registry that lost its disk and has clients that have seen more. Where the clock
    /// was set back it is the next upper half. Sessions get their full timeout. `secret` is used when there is none yet.
    pub(crate) fn begin(&mut self, now: Now, secret: [u8; SECRET_BYTES]) {
        const YEAR_2020_MS: i64 = 1_577_836_800_000;
        const MILLISECOND: i64 = 1 << 22;
        let millis = (now.wall_ms - YEAR_2020_MS).max(1_000);
        let seconds = (millis / 1_000).min(i64::from(i32::MAX));
        let by_clock = (seconds << 32) + millis % 1_000 * MILLISECOND;
        self.zxid = if by_clock > self.zxid {
            by_clock
        } else {
            ((self.zxid >> 32) + 1) << 32
        };
        self.sessions.begin(now.wall_ms);
        self.sessions.touch_all(now.steady_ms);
        let first = if self.has_begun {
            Change::Epoch
        } else {
            self.sessions.set_secret(secret);
            Change::Genesis { secret: &secret }
        };
        change::encode(&mut self.record, self.zxid, now.wall_ms, &[first]);
        self.has_begun = true;
    }

    /// The newest transaction.
    pub(crate) fn zxid(&self) -> i64 {
        self.zxid
    }

    /// The record of what was changed since this was last asked, if anything was.
    pub(crate) fn take_record(&mut self, consume: impl FnOnce(&[u8])) {
        if !self.record.is_empty() {
            consume(&self.record);
            self.record.clear();
        }
    }

    /// Whom to tell of what was changed since this was last asked: before the answer to whoever changed it.
    pub(crate) fn take_events(&mut self) -> std::vec::Drain<'_, Event> {
        self.events.drain(..)
    }

    pub(crate) fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Answers the first frame of a connection.
    pub(crate) fn connect(
        &mut self,
        now: Now,
        connection: ConnectionId,
        address: IpAddr,
        room: Room,
        frame: &[u8],
        output: &mut Vec<u8>,
    ) -> Handshake {
        let Ok(request) = Decoder::new(frame).read::<ConnectRequest<'_>>() else {
            return Handshake::Refused("its first frame is not a request for a session");
        };
        if request.last_zxid_seen > self.zxid {
            return Handshake::Refused("it has seen transactions that this registry does not have");
        }
        let (shortest, longest) = self.settings.session_timeout_ms;
        let timeout_ms = request.timeout_ms.clamp(shortest, longest.max(shortest));
        let (session, former) = if request.session_id == 0 {
            if room == Room::None {
                return Handshake::Refused("the disk is full, and a session has to be written");
            }
            let session = self.sessions.new_id();
            self.zxid += 1;
            self.log_session(now, session, timeout_ms);
            (session, None)
        } else {
            let session = request.session_id;
            let claimed = request.password.unwrap_or_default();
            let known = self.sessions.get(session);
            let Some(known) = known.filter(|_| self.sessions.is_password(session, claimed)) else {
                append_connect(
                    output,
                    &ConnectReply::expired(request.read_only.map(|_| false)),
                );
                return Handshake::Expired;
            };
            let former = known.connection;
            if known.timeout_ms != timeout_ms && room > Room::None {
                self.log_session(now, session, timeout_ms);
            }
            self.sessions.touch(session, now.steady_ms);
            (session, former)
        };
        if let Some(former) = former {
            self.disconnect(former);
        }
        if let Some(session) = self.sessions.get_mut(session) {
            session.connection = Some(connection);
        }
        let identities = vec![Identity::address(address)];
        self.peers.insert(
            connection,
            Peer {
                session,
                address,
                identities,
            },
        );
        let reply = ConnectReply {
            protocol_version: 0,
            timeout_ms,
            session_id: session,
            password: Some(&self.sessions.password(session)),
            read_only: request.read_only.map(|_| false),
        };
        append_connect(output, &reply);
        Handshake::Attached {
            session,
            timeout_ms,
            former,
            zxid: self.zxid,
        }
    }

    fn log_session(&mut self, now: Now, session: i64, timeout_ms: i32) {
        self.sessions.open(session, timeout_ms, now.steady_ms);
        let change = Change::OpenSession {
            session,
            timeout_ms,
        };
        change::encode(&mut self.record, self.zxid, now.wall_ms, &[change]);
    }

    /// Answers a frame of a connection that carries a session. `floor` is the newest transaction that is on
    /// disk or that an answer to this connection has named.
    pub(crate) fn request(
        &mut self,
        now: Now,
        connection: ConnectionId,
        floor: i64,
        room: Room,
        frame: &[u8],
        output: &mut Vec<u8>,
    ) -> Turn {
        let mut input = Decoder::new(frame);
        let header: RequestHeader = match input.read() {
            Ok(header) => header,
            Err(_) => return Turn::end(floor),
        };
        let Some(peer) = self.peers.get(&connection) else {
            return Turn::end(floor);
        };
        let session = peer.session;
        self.sessions.touch(session, now.steady_ms);
        let op_code = OpCode::from_code(header.op_code);
        let mut turn = Turn {
            xid: header.xid,
            op_code,
            zxid: floor,
            closes: false,
        };
        let request = op_code.map(|op_code| Request::decode(op_code, &mut input));
        // A reconfiguration is looked at before it is given a zxid, other writes after.
        let is_write = op_code.is_some_and(is_write)
            && (op_code != Some(OpCode::Reconfig) || matches!(request, Some(Ok(_))));
        if is_write {
            self.zxid += 1;
            turn.zxid = self.zxid;
        }
        let call = Call {
            now,
            connection,
            session,
            xid: header.xid,
            floor,
            room,
        };
        let answer = match request {
            Some(Ok(Some(request))) => self.answer(&call, &request, &mut turn, output),
            Some(Ok(None)) | None => {
                turn.closes = true;
                Err(ErrorCode::Unimplemented)
            }
            // These are not requests like others: whoever cannot say them is not listened to.
            Some(Err(_)) if matches!(op_code, Some(OpCode::Auth | OpCode::Sasl)) => {
                return Turn::end(floor);
            }
            Some(Err(_)) => Err(ErrorCode::MarshallingError),
        };
        if let Err(error) = answer {
            // Apache ZooKeeper answers what it does not know before it has a zxid for it.
            let is_unknown = turn.closes && error == ErrorCode::Unimplemented;
            let header = ReplyHeader {
                xid: header.xid,
                zxid: if is_unknown { -1 } else { turn.zxid },
                error: error.code(),
            };
            append_frame(output, &header, &());
        }
        if is_write && self.record.is_empty() && self.zxid.trailing_zeros() >= 32 {
            // Failed writes are not logged; what they count is when it would be lost.
            change::encode(&mut self.record, self.zxid, now.wall_ms, &[Change::Epoch]);
        }
        turn
    }

    fn answer(
        &mut self,
        call: &Call,
        request: &Request<'_>,
        turn: &mut Turn,
        output: &mut Vec<u8>,
    ) -> Result<(), ErrorCode> {
        match request {
            Request::Create(_)
            | Request::Create2(_)
            | Request::CreateContainer(_)
            | Request::CreateTtl(_)
            | Request::Delete(_)
            | Request::SetData(_)
            | Request::SetAcl(_)
            | Request::Check(_)
            | Request::Multi(_) => self.write(call, request, output),
            Request::CloseSession(()) => {
                turn.closes = true;
                if call.room > Room::None {
                    self.close_session(call.now, call.session, self.zxid);
                }
                call.reply(output, self.zxid, &());
                Ok(())
            }
            Request::Auth(auth) => {
                // Such replies carry no zxid, and are sent when their turn comes.
                let added = self.authenticate(call.connection, auth);
                let header = ReplyHeader {
                    xid: call.xid,
                    zxid: 0,
                    error: added.err().map_or(0, ErrorCode::code),
                };
                append_frame(output, &header, &());
                turn.closes = added.is_err();
                Ok(())
            }
            Request::Sasl(_) => {
                // Without SASL configured a server has no token to give, and goes on.
                let header = ReplyHeader {
                    xid: call.xid,
                    zxid: 0,
                    error: 0,
                };
                append_frame(output, &header, &Sasl { token: None });
                Ok(())
            }
            Request::Reconfig(_) => Err(ErrorCode::ReconfigDisabled),
            Request::Exists(_)
            | Request::GetData(_)
            | Request::GetAcl(_)
            | Request::GetChildren(_)
            | Request::GetChildren2(_)
            | Request::MultiRead(_)
            | Request::Sync(_)
            | Request::Ping(())
            | Request::CheckWatches(_)
            | Request::RemoveWatches(_)
            | Request::SetWatches(_)
            | Request::SetWatches2(_)
            | Request::AddWatch(_)
            | Request::GetEphemerals(_)
            | Request::GetAllChildrenNumber(_)
            | Request::WhoAmI(()) => self.read(call, request, turn, output),
        }
    }

    fn authenticate(&mut self, connection: ConnectionId, auth: &Auth<'_>) -> Result<(), ErrorCode> {
        let peer = self.peers.get_mut(&connection);
        let peer = peer.ok_or(ErrorCode::SessionExpired)?;
        let super_digest = self.settings.super_digest.as_deref();
        let proven = acl::authenticate(auth.scheme, auth.auth, peer.address, super_digest);
        for identity in proven.ok_or(ErrorCode::AuthFailed)? {
            if !peer.identities.contains(&identity) {
                if peer.identities.len() >= IDENTITIES_MAX {
                    return Err(ErrorCode::AuthFailed);
                }
                peer.identities.push(identity);
            }
        }
        Ok(())
    }

    /// The connection is gone: so are its watches. Its session lives on.
    pub(crate) fn disconnect(&mut self, connection: ConnectionId) {
        self.watches.remove_connection(connection);
        if let Some(peer) = self.peers.remove(&connection)
            && let Some(session) = self.sessions.get_mut(peer.session)
            && session.connection == Some(connection)
        {
            session.connection = None;
        }
    }

    /// Ends one session that is over, if there is one, and returns the connection to be closed for it.
    pub(crate) fn expire_one(&mut self, now: Now) -> Option<Expired> {
        let session = self.sessions.next_expired(now.steady_ms)?;
        let connection = self
            .sessions
            .get(session)
            .and_then(|session| session.connection);
        self.zxid += 1;
        self.close_session(now, session, self.zxid);
        if let Some(connection) = connection {
            self.disconnect(connection);
        }
        Some(Expired {
            session,
            connection,
        })
    }

    /// A record of the log, when restoring.
    pub(crate) fn restore_record(&mut self, record: &[u8]) -> Result<(), RestoreError> {
        let record = change::decode(record)?;
        for change in &record.changes {
            self.redo(change, record.zxid, record.time)?;
        }
        self.zxid = self.zxid.max(record.zxid);
        Ok(())
    }
}

/// Identities that a connection may add up.
const IDENTITIES_MAX: usize = 64;

/// A session that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Expired {
    pub(crate) session: i64,
    pub(crate) connection: Option<ConnectionId>,
}

/// What a request comes with.
#[derive(Debug, Clone, Copy)]
struct Call {
    now: Now,
    connection: ConnectionId,
    session: i64,
    xid: i32,
    floor: i64,
    room: Room,
}

impl Call {
    fn reply(&self, output: &mut Vec<u8>, zxid: i64, body: &impl Encode) {
        let header = ReplyHeader {
            xid: self.xid,
            zxid,
            error: 0,
        };
        append_frame(output, &header, body);
    }
}

impl Turn {
    /// The connection ends without an answer.
    fn end(zxid: i64) -> Self {
        Self {
            xid: 0,
            op_code: None,
            zxid,
            closes: true,
        }
    }
}

/// Operations that use up a zxid, whether they succeed or not.
fn is_write(op_code: OpCode) -> bool {
    matches!(
        op_code,
        OpCode::Create
            | OpCode::Create2
            | OpCode::CreateContainer
            | OpCode::CreateTtl
            | OpCode::Delete
            | OpCode::SetData
            | OpCode::SetAcl
            | OpCode::Multi
            | OpCode::Check
            | OpCode::Reconfig
            | OpCode::CloseSession
    )
}

/// The frame that tells a connection of an event.
pub(crate) fn append_event(output: &mut Vec<u8>, event: &Event) {
    let header = ReplyHeader {
        xid: XID_NOTIFICATION,
        zxid: -1,
        error: 0,
    };
    let body = WatcherEvent {
        kind: event.kind.code(),
        state: STATE_SYNC_CONNECTED,
        path: &event.path,
    };
    append_frame(output, &header, &body);
}

/// The answer to a handshake has no header.
fn append_connect(output: &mut Vec<u8>, reply: &ConnectReply<'_>) {
    append_frame(output, &(), reply);
}

/// A machine that is being put together from a snapshot.
#[derive(Debug)]
pub(crate) struct Restorer {
    machine: Machine,
    tree: Option<TreeBuilder>,
}

impl Restorer {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            machine: Machine::new(settings),
            tree: None,
        }
    }

    /// A piece of a snapshot; the first one holds everything but the tree.
    pub(crate) fn piece(&mut self, piece: &[u8]) -> Result<(), RestoreError> {
        match &mut self.tree {
            Some(tree) => tree.add(piece)?,
            None => {
                self.machine.restore_record(piece)?;
                self.tree = Some(TreeBuilder::new());
            }
        }
        Ok(())
    }

    /// The machine as it was when the snapshot began; records follow.
    pub(crate) fn finish(mut self) -> Result<Machine, RestoreError> {
        if let Some(tree) = self.tree {
            self.machine.tree = tree.finish()?;
            if !self.machine.has_begun {
                return Err(RestoreError::NoHead);
            }
        }
        Ok(self.machine)
    }
}

/// Snapshots.
impl Machine {
    /// Begins a snapshot of the state of this moment. Returns its first piece; the others come from
    /// [`write_snapshot`](Self::write_snapshot) while the machine goes on.
    pub(crate) fn begin_snapshot(&mut self, now: Now) -> Vec<u8> {
        self.tree.begin_snapshot();
        let mut changes = vec![Change::Genesis {
            secret: self.sessions.secret(),
        }];
        changes.extend(
            self.sessions
                .iter()
                .map(|(id, session)| Change::OpenSession {
                    session: id,
                    timeout_ms: session.timeout_ms,
                }),
        );
        let mut head = Vec::new();
        change::encode(&mut head, self.zxid, now.wall_ms, &changes);
        head
    }

    /// Appends about `bytes` more of the snapshot to `output`. Returns false when that was all.
    pub(crate) fn write_snapshot(&mut self, output: &mut Vec<u8>, bytes: usize) -> bool {
        self.tree.write_snapshot(output, bytes)
    }

    /// Gives up the snapshot that is being written.
    pub(crate) fn abandon_snapshot(&mut self) {
        self.tree.end_snapshot();
    }
}

/// The nodes of a piece of a snapshot, each by itself.
#[cfg(feature = "fuzzing")]
pub(crate) fn split_nodes(piece: &[u8]) -> Vec<Vec<u8>> {
    image::read(piece)
        .map(|image| {
            let image = image.expect("what was written can be read");
            let mut bytes = Vec::new();
            image::append(&mut bytes, &image.node, &image.acl);
            bytes
        })
        .collect()
}
