//! One of the two servers: does steps to it and tells what came of them in words that are the same for
//! servers that did the same.

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use livegate_zk::jute::{Decoder, Encode, Encoder};
use livegate_zk::proto::op_code::{OpCode, XID_AUTH, XID_PING};
use livegate_zk::proto::reply::{Children2Reply, Reply};
use livegate_zk::proto::request::{PathOnly, PathWatch};
use livegate_zk::proto::session::{Auth, ConnectRequest, PASSWORD_BYTES, ReplyHeader};

use super::step::{INSPECTOR, Request, SLOTS, Step};
use super::text::Words;
use crate::raw::{Arrival, Connection, Greeting};

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
        side.connect(INSPECTOR, 1, Some(false));
        let credential = Auth {
            kind: 0,
            scheme: "digest",
            auth: Some(b"super:test"),
        };
        let (_, zxid) = side.ask(INSPECTOR, XID_AUTH, OpCode::Auth, &credential);
        assert_eq!(zxid, 0, "auth is answered without a zxid");
        let (_, zxid) = side.ask(INSPECTOR, XID_PING, OpCode::Ping, &());
        side.words.start(zxid);
        side
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
            Step::Impostor { slot } => self.claim(*slot, 0, |session| session.password[3] ^= 1),
            Step::Stranger => {
                let password = vec![7; PASSWORD_BYTES];
                self.hello(&Session { id: 77, password }, 0)
            }
            Step::Ahead { slot } => self.claim(*slot, self.words.newest() + 1000, |_| {}),
            Step::Drop { slot } => {
                self.slots[*slot].connection = None;
                Vec::new()
            }
            Step::Request { slot, request } => self.request(*slot, request),
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

    fn request(&mut self, slot: usize, request: &Request) -> Vec<String> {
        let Some(mut connection) = self.slots[slot].connection.take() else {
            return vec!["not connected".to_owned()];
        };
        let mut body = request.body.clone();
        if let (Some(count), Some(field)) = (request.transactions_ago, body.first_chunk_mut::<8>())
        {
            *field = (self.words.newest() - count)
                .max(self.words.first())
                .to_be_bytes();
        }
        connection.request(request.xid, request.op_code, &body);
        let op_code = OpCode::from_code(request.op_code);
        let mut lines = Vec::new();
        loop {
            let arrival = connection.receive();
            lines.push(self.words.arrival(&arrival, op_code));
            match arrival {
                Arrival::Event(..) => continue,
                Arrival::Reply(header, body) => {
                    self.note_created(op_code, &header, &body);
                    self.slots[slot].connection = Some(connection);
                }
                Arrival::Scrap(_) | Arrival::Silence => {
                    self.slots[slot].connection = Some(connection);
                }
                Arrival::Closed => {}
            }
            break;
        }
        let closed = op_code == Some(OpCode::CloseSession);
        if closed && lines.last().is_some_and(|line| line.contains("ok")) {
            self.slots[slot].session = None;
        }
        lines
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
            if matches!(step, Step::Request { request, .. } if request.op_code == OpCode::CloseSession.code())
            {
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
