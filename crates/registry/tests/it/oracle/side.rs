//! One of the two servers: does steps to it and tells what came of them in words that are the same for
//! servers that did the same.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use livegate_zk::jute::{Decoder, Encode, Encoder};
use livegate_zk::proto::error_code::ErrorCode;
use livegate_zk::proto::op_code::{OpCode, XID_AUTH, XID_PING};
use livegate_zk::proto::reply::{Children2Reply, Reply};
use livegate_zk::proto::request::{PathOnly, PathWatch};
use livegate_zk::proto::session::{Auth, ConnectRequest, PASSWORD_BYTES, ReplyHeader};

use super::step::{INSPECTOR, Request, SLOTS, Step};
use super::text::Words;
use crate::apache::ask;
use crate::raw::{Arrival, Connection, Greeting};

/// How long a server may take to notice that somebody is gone.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at a server that takes its time.
const LOOK: Duration = Duration::from_millis(10);

/// No session ends by itself while a test takes its time.
const LONG_MS: i32 = 3_600_000;

/// What is compared of `mntr`.
const COUNTS: &[&str] = &["zk_znode_count", "zk_watch_count", "zk_ephemerals_count"];

/// A server and everything that is known about it.
pub(crate) struct Side {
    address: SocketAddr,
    slots: Vec<Slot>,
    words: Words,
    /// Paths of nodes that were created since somebody asked.
    created: Vec<String>,
    /// All paths, as of the last inspection.
    tree: Vec<String>,
}

#[derive(Default)]
struct Slot {
    connection: Option<Connection>,
    session: Option<Session>,
}

#[derive(Clone)]
struct Session {
    id: i64,
    password: Vec<u8>,
}

pub(crate) fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(now.as_millis()).unwrap()
}

impl Side {
    /// Connects the inspector to an empty server.
    pub(crate) fn new(address: SocketAddr) -> Self {
        let mut side = Self {
            address,
            slots: (0..=SLOTS).map(|_| Slot::default()).collect(),
            words: Words::default(),
            created: Vec::new(),
            tree: Vec::new(),
        };
        side.connect(INSPECTOR, LONG_MS, Some(false));
        side.empower();
        let zxid = side.zxid();
        side.words.start(zxid);
        side
    }

    /// Lets the inspector do everything.
    fn empower(&mut self) {
        let credential = Auth {
            kind: 0,
            scheme: "digest",
            auth: Some(b"super:test"),
        };
        let (_, zxid) = self.ask(INSPECTOR, XID_AUTH, OpCode::Auth, &credential);
        assert_eq!(zxid, 0, "auth is answered without a zxid");
    }

    /// The server's newest transaction.
    fn zxid(&mut self) -> i64 {
        self.ask(INSPECTOR, XID_PING, OpCode::Ping, &()).1
    }

    /// Closes all connections.
    pub(crate) fn disconnect(&mut self) {
        for slot in &mut self.slots {
            slot.connection = None;
        }
    }

    pub(crate) fn is_connected(&self, slot: usize) -> bool {
        self.slots[slot].connection.is_some()
    }

    pub(crate) fn has_session(&self, slot: usize) -> bool {
        self.slots[slot].session.is_some()
    }

    pub(crate) fn take_created(&mut self) -> Vec<String> {
        std::mem::take(&mut self.created)
    }

    /// All paths, as of the last inspection; parents before their children.
    pub(crate) fn tree(&self) -> &[String] {
        &self.tree
    }

    /// Does a step; what came of it.
    pub(crate) fn apply(&mut self, step: &Step) -> Vec<String> {
        let mut lines = match step {
            Step::Connect {
                slot,
                timeout_ms,
                read_only,
            } => self.connect(*slot, *timeout_ms, *read_only),
            Step::Attach {
                slot,
                timeout_ms,
                tell_zxid,
            } => self.attach(*slot, *timeout_ms, *tell_zxid),
            Step::Impostor { slot } => {
                let lines = self.claim(*slot, 0, |session| session.password[3] ^= 1);
                // ZooKeeper has closed it, the registry has not: see `differences`.
                self.slots[*slot].connection = None;
                lines
            }
            Step::Stranger => {
                let password = vec![7; PASSWORD_BYTES];
                self.hello(&Session { id: 77, password }, 0)
            }
            Step::Ahead { slot } => self.claim(*slot, self.words.newest() + 1000, |_| {}),
            Step::Drop { slot } => {
                self.slots[*slot].connection = None;
                Vec::new()
            }
            Step::Expire { slot, timeout_ms } => self.expire(*slot, *timeout_ms),
            Step::Request { slot, request } => self.exchange(*slot, std::slice::from_ref(request)),
            Step::Burst { slot, requests } => self.exchange(*slot, requests),
            Step::Restart => {
                let before = self.words.newest();
                let lines = self.attach(INSPECTOR, LONG_MS, true);
                self.empower();
                let zxid = self.zxid();
                self.words.start_again(zxid, before);
                lines
            }
            Step::Inspect => self.inspect(),
        };
        lines.extend(self.settle(step));
        self.words.moment();
        lines.extend(self.words.take_complaints());
        lines
    }

    fn connect(&mut self, slot: usize, timeout_ms: i32, read_only: Option<bool>) -> Vec<String> {
        let mut connection = Connection::open(self.address);
        let greeting = connection.greet(&ConnectRequest {
            protocol_version: 0,
            last_zxid_seen: 0,
            timeout_ms,
            session_id: 0,
            password: Some(&[0; PASSWORD_BYTES]),
            read_only,
        });
        self.slots[slot] = Slot::default();
        if let Greeting::Answer {
            session_id,
            ref password,
            ..
        } = greeting
            && session_id != 0
        {
            self.words.session_begins(session_id);
            self.slots[slot] = Slot {
                connection: Some(connection),
                session: Some(Session {
                    id: session_id,
                    password: password.clone(),
                }),
            };
        }
        vec![self.words.greeting(&greeting)]
    }

    fn attach(&mut self, slot: usize, timeout_ms: i32, tell_zxid: bool) -> Vec<String> {
        let Some(session) = self.slots[slot].session.clone() else {
            return vec!["no session".to_owned()];
        };
        let mut connection = Connection::open(self.address);
        let greeting = connection.greet(&ConnectRequest {
            protocol_version: 0,
            last_zxid_seen: if tell_zxid { self.words.newest() } else { 0 },
            timeout_ms,
            session_id: session.id,
            password: Some(&session.password),
            read_only: Some(false),
        });
        let mut lines = vec![self.words.greeting(&greeting)];
        if let Greeting::Answer {
            session_id,
            password,
            ..
        } = greeting
            && session_id != 0
        {
            if password != session.password {
                lines.push("the password has changed".to_owned());
            }
            if let Some(mut old) = self.slots[slot].connection.replace(connection) {
                lines.push(format!("old connection: {}", self.rest(&mut old)));
            }
        }
        lines
    }

    /// Waits for the end of the slot's session, after making it a short one.
    fn expire(&mut self, slot: usize, timeout_ms: i32) -> Vec<String> {
        let mut lines = self.attach(slot, timeout_ms, false);
        self.slots[slot].connection = None;
        if self.slots[slot].session.take().is_some() {
            // Nobody else does anything meanwhile.
            let deadline = Instant::now() + PATIENCE;
            while self.zxid() <= self.words.newest() {
                if Instant::now() > deadline {
                    lines.push("the session does not end".to_owned());
                    break;
                }
                std::thread::park_timeout(LOOK);
            }
        }
        lines
    }

    /// Says hello with a changed session of a slot, on a connection that is not kept.
    fn claim(
        &mut self,
        slot: usize,
        last_zxid_seen: i64,
        change: impl FnOnce(&mut Session),
    ) -> Vec<String> {
        let Some(mut session) = self.slots[slot].session.clone() else {
            return vec!["no session".to_owned()];
        };
        change(&mut session);
        self.hello(&session, last_zxid_seen)
    }

    fn hello(&mut self, session: &Session, last_zxid_seen: i64) -> Vec<String> {
        let mut connection = Connection::open(self.address);
        let greeting = connection.greet(&ConnectRequest {
            protocol_version: 0,
            last_zxid_seen,
            timeout_ms: 30_000,
            session_id: session.id,
            password: Some(&session.password),
            read_only: Some(false),
        });
        vec![
            self.words.greeting(&greeting),
            format!("then: {}", self.rest(&mut connection)),
        ]
    }

    /// What else arrives on a connection that the server should close.
    fn rest(&mut self, connection: &mut Connection) -> String {
        match connection.receive() {
            Arrival::Closed => "closed".to_owned(),
            other => self.words.arrival(&other, None),
        }
    }

    /// Sends requests, and then takes what comes until the last one is answered.
    fn exchange(&mut self, slot: usize, requests: &[Request]) -> Vec<String> {
        let Some(mut connection) = self.slots[slot].connection.take() else {
            return vec!["not connected".to_owned()];
        };
        for request in requests {
            let mut body = request.body.clone();
            if let (Some(count), Some(field)) =
                (request.transactions_ago, body.first_chunk_mut::<8>())
            {
                *field = self.words.ago(count).to_be_bytes();
            }
            connection.request(request.xid, request.op_code, &body);
        }
        let mut lines = Vec::new();
        let mut is_open = true;
        for request in requests {
            is_open = self.answer(slot, &mut connection, request, &mut lines);
            if !is_open {
                break;
            }
        }
        if is_open {
            self.slots[slot].connection = Some(connection);
        }
        lines
    }

    /// Takes what comes until a request is answered. Whether the connection is still there.
    fn answer(
        &mut self,
        slot: usize,
        connection: &mut Connection,
        request: &Request,
        lines: &mut Vec<String>,
    ) -> bool {
        let op_code = OpCode::from_code(request.op_code);
        let is_close = op_code == Some(OpCode::CloseSession);
        let mut events = Vec::new();
        loop {
            let arrival = connection.receive();
            let line = self.words.arrival(&arrival, op_code);
            if matches!(arrival, Arrival::Event(..)) {
                events.push(line);
                continue;
            }
            if is_close {
                // Of the ephemeral nodes, which go in no particular order.
                events.sort();
            }
            lines.append(&mut events);
            lines.push(line);
            return match arrival {
                Arrival::Event(..) | Arrival::Closed => false,
                Arrival::Scrap(_) | Arrival::Silence => true,
                Arrival::Reply(header, body) => {
                    self.note_created(op_code, &header, &body);
                    if is_close && header.error == 0 {
                        self.slots[slot].session = None;
                    }
                    let refused = [ErrorCode::Unimplemented, ErrorCode::AuthFailed];
                    let is_refused = refused.iter().any(|error| error.code() == header.error);
                    if is_refused {
                        // The server ends the connection; when, is its own affair.
                        lines.push(self.rest(connection));
                    }
                    !is_refused
                }
            };
        }
    }

    fn note_created(&mut self, op_code: Option<OpCode>, header: &ReplyHeader, body: &[u8]) {
        let Some(op_code) = op_code.filter(|_| header.error == 0) else {
            return;
        };
        match Reply::decode(op_code, &mut Decoder::new(body)) {
            Ok(Reply::Path(reply)) => self.created.push(reply.path.to_owned()),
            Ok(Reply::Create(reply)) => self.created.push(reply.path.to_owned()),
            _ => {}
        }
    }

    /// Waits until whatever the step caused has arrived everywhere: a ping on each connection comes back
    /// behind it.
    fn settle(&mut self, step: &Step) -> Vec<String> {
        for slot in &mut self.slots {
            if let Some(connection) = &mut slot.connection {
                connection.ping();
            }
        }
        let mut lines = Vec::new();
        for number in 0..self.slots.len() {
            let Some(mut connection) = self.slots[number].connection.take() else {
                continue;
            };
            let mut arrived = Vec::new();
            let is_open = loop {
                let arrival = connection.receive();
                let is_pong =
                    matches!(&arrival, Arrival::Reply(header, _) if header.xid == XID_PING);
                arrived.push(format!(
                    "connection {number}: {}",
                    self.words.arrival(&arrival, Some(OpCode::Ping))
                ));
                if is_pong {
                    break true;
                }
                if matches!(arrival, Arrival::Closed | Arrival::Silence) {
                    break false;
                }
            };
            if is_open {
                self.slots[number].connection = Some(connection);
            }
            // Ephemeral nodes of a session are deleted in no particular order.
            let ends_session = match step {
                Step::Request { request, .. } => request.op_code == OpCode::CloseSession.code(),
                Step::Expire { .. } => true,
                _ => false,
            };
            if ends_session {
                arrived.sort();
            }
            lines.extend(arrived);
        }
        lines
    }

    /// Every node with all there is to know about it.
    fn inspect(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut paths = vec!["/".to_owned()];
        let mut next = 0;
        while let Some(path) = paths.get(next).cloned() {
            next += 1;
            let only = PathOnly { path: &path };
            let watch = PathWatch {
                path: &path,
                watch: false,
            };
            for (op_code, body) in [
                (OpCode::GetData, &watch as &dyn ErasedEncode),
                (OpCode::GetAcl, &only),
                (OpCode::GetChildren2, &watch),
            ] {
                let body = body.bytes();
                let (arrival, _) = self.ask_bytes(INSPECTOR, 1, op_code, &body);
                lines.push(format!(
                    "{path:?} {op_code:?} {}",
                    self.words.arrival(&arrival, Some(op_code))
                ));
                if let Arrival::Reply(ReplyHeader { error: 0, .. }, body) = &arrival
                    && op_code == OpCode::GetChildren2
                {
                    let reply: Children2Reply<'_> = Decoder::new(body).read().unwrap();
                    let mut children: Vec<_> = reply.children.iter().collect();
                    children.sort_unstable();
                    let parent = if path == "/" { "" } else { &path };
                    paths.extend(children.iter().map(|child| format!("{parent}/{child}")));
                }
            }
        }
        self.tree = paths;
        lines.extend(self.counts());
        lines
    }

    /// What the server counts, once it has noticed who is gone.
    fn counts(&self) -> Vec<String> {
        let open = self.slots.iter().filter(|slot| slot.connection.is_some());
        // The one that asks is counted, too.
        let expected = format!("zk_num_alive_connections\t{}", open.count() + 1);
        let monitor = || ask(self.address, "mntr").unwrap();
        let deadline = Instant::now() + PATIENCE;
        while !monitor().lines().any(|line| line.trim_end() == expected) {
            if Instant::now() > deadline {
                return vec![format!("not {expected:?}")];
            }
            std::thread::park_timeout(LOOK);
        }
        let answer = monitor();
        let counted = |line: &&str| COUNTS.iter().any(|count| line.starts_with(count));
        let mut lines: Vec<_> = answer
            .lines()
            .filter(counted)
            .map(|line| line.trim_end().to_owned())
            .collect();
        lines.sort();
        let dump = ask(self.address, "dump").unwrap();
        let mut sessions: Vec<_> = dump
            .lines()
            .filter_map(|line| line.strip_prefix("\t0x"))
            .map(|id| {
                self.words
                    .session(i64::from_str_radix(id.trim_end(), 16).unwrap())
            })
            .collect();
        sessions.sort();
        lines.push(format!("sessions: {}", sessions.join(", ")));
        lines
    }

    /// Asks on a connection that nothing else arrives on; what arrived, and its zxid.
    fn ask(
        &mut self,
        slot: usize,
        xid: i32,
        op_code: OpCode,
        body: &impl Encode,
    ) -> (Arrival, i64) {
        self.ask_bytes(slot, xid, op_code, &body.bytes())
    }

    fn ask_bytes(&mut self, slot: usize, xid: i32, op_code: OpCode, body: &[u8]) -> (Arrival, i64) {
        let connection = self.slots[slot].connection.as_mut().unwrap();
        connection.request(xid, op_code.code(), body);
        match connection.receive() {
            Arrival::Reply(header, body) => (Arrival::Reply(header, body), header.zxid),
            other => (other, 0),
        }
    }
}

/// Any record as bytes.
trait ErasedEncode {
    fn bytes(&self) -> Vec<u8>;
}

impl<T: Encode> ErasedEncode for T {
    fn bytes(&self) -> Vec<u8> {
        let mut encoder = Encoder::default();
        encoder.write(self);
        encoder.into_bytes()
    }
}
