//! Random steps, most of which make sense: paths are few, so that they meet; what is rare in life (bad
//! paths, bad lists, unknown operations, broken bodies) is common here.

use std::collections::HashMap;

use fastrand::Rng;
use livegate_zk::jute::{Encode, Encoder, List};
use livegate_zk::proto::acl::{Acl, Permissions};
use livegate_zk::proto::multi::{MultiHeader, MultiReadRequest, MultiRequest, ReadOp, WriteOp};
use livegate_zk::proto::op_code::{OpCode, XID_AUTH, XID_PING, XID_SET_WATCHES};
use livegate_zk::proto::request::{
    Create, CreateTtl, PathOnly, PathPrefix, PathVersion, PathWatch, Reconfig, Request as Body,
    SetAcl, SetData,
};
use livegate_zk::proto::session::{Auth, Sasl};
use livegate_zk::proto::watch::{AddWatch, SetWatches, SetWatches2, WatchSelection};

use super::differences;
use super::side::Side;
use super::step::{INSPECTOR, Request, SLOTS, Step};

/// Between two looks at the whole tree. At every second one it is emptied.
const INSPECTION_STEPS: usize = 200;

/// Between two restarts.
const RESTART_STEPS: usize = 2_000;

const PATHS: &[&str] = &[
    "/",
    "/a",
    "/a",
    "/a/b",
    "/a/b",
    "/a/b/c",
    "/a/b/c/d",
    "/a/e",
    "/b",
    "/b/c",
    "/b/c/d",
    "/e",
    "/e/x",
    "/a/s-",
    "/a/s-0000000000",
    "/s",
    "/é/ü",
    "/é",
    "/...",
    "/a/.b",
    "/a b/%",
    "/a b",
    "/\u{d7ff}",
    "/\u{f900}\u{ffef}",
    "/zookeeper",
    "/zookeeper/quota",
    "/zookeeper/config",
    "/zookeeper/x",
];

const BAD_PATHS: &[&str] = &[
    "",
    "a",
    "a/b",
    "/a/",
    "//",
    "/a//b",
    "/a/.",
    "/a/..",
    "/a/./b",
    "/../a",
    "/a/\0",
    "/a\0b",
    "/a/\u{1}",
    "/a/\u{1f}x",
    "/a/\u{7f}",
    "/a/\u{9f}",
    "/a/\u{e000}",
    "/a/\u{f8ff}",
    "/a/\u{fff0}",
    "/a/\u{ffff}",
    "/zookeeper/quota/",
];

/// Where nothing but quotas is written: servers take what is there at its word.
const QUOTA_PATHS: &[&str] = &[
    "/zookeeper/quota/a",
    "/zookeeper/quota/a/zookeeper_limits",
    "/zookeeper/quota/a/zookeeper_stats",
    "/zookeeper/quota/b",
    "/zookeeper/quota/b/c",
    "/zookeeper/quota/b/c/zookeeper_limits",
    "/zookeeper/quota/b/c/zookeeper_stats",
];

const BOB: &str = "bob:fyVmFCwVbTJYrznoSu1koqYEYF0=";
const ANN: &str = "ann:RYbu6l5aZwqon8VWmkcGvezdzfc=";

pub(crate) struct Generator {
    rng: Rng,
    xid: i32,
    slots: [SlotState; SLOTS],
    /// Some paths that were created, sequence numbers included.
    created: Vec<String>,
    steps: usize,
    /// Steps that are decided.
    queue: Vec<Step>,
    /// Whether the next request will not wait for an answer; see [`differences`].
    in_burst: bool,
}

#[derive(Default)]
struct SlotState {
    is_connected: bool,
    has_session: bool,
    /// How this connection watches a path, the first time it does.
    watches: HashMap<String, Watching>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Watching {
    Once,
    /// With this mode.
    Always(i32),
}

impl Generator {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            rng: Rng::with_seed(seed),
            xid: 0,
            slots: Default::default(),
            created: Vec::new(),
            steps: 0,
            queue: Vec::new(),
            in_burst: false,
        }
    }

    /// Learns what the last step did, which it did to both servers.
    pub(crate) fn learn(&mut self, side: &mut Side) {
        for (number, slot) in self.slots.iter_mut().enumerate() {
            slot.is_connected = side.is_connected(number);
            slot.has_session = side.has_session(number);
            if !slot.is_connected {
                slot.watches.clear();
            }
        }
        for path in side.take_created() {
            if self.created.len() < 30 {
                self.created.push(path);
            } else {
                let at = self.rng.usize(..self.created.len());
                self.created[at] = path;
            }
        }
    }

    /// The next step; `tree` holds all paths, as of the last inspection.
    pub(crate) fn next(&mut self, tree: &[String]) -> Step {
        if let Some(step) = self.queue.pop() {
            return step;
        }
        self.steps += 1;
        if self.steps.is_multiple_of(INSPECTION_STEPS) {
            return Step::Inspect;
        }
        if self.steps % (2 * INSPECTION_STEPS) == 1 && self.steps > 1 {
            self.sweep(tree);
            if let Some(step) = self.queue.pop() {
                return step;
            }
        }
        if self.steps % RESTART_STEPS == RESTART_STEPS / 2 + 1 {
            self.queue.push(Step::Inspect);
            return Step::Restart;
        }
        let slot = self.rng.usize(..SLOTS);
        let state = &self.slots[slot];
        if !state.has_session {
            return self.connect(slot);
        }
        let roll = self.rng.u32(..1000);
        if !state.is_connected {
            return match roll {
                0..50 => Step::Impostor { slot },
                50..100 => Step::Ahead { slot },
                100..130 => self.expire(slot),
                130..230 => self.connect(slot),
                _ => self.attach(slot),
            };
        }
        match roll {
            0..12 => Step::Drop { slot },
            12..20 => self.attach(slot),
            20..24 => Step::Impostor { slot },
            24..28 => Step::Ahead { slot },
            28..31 => Step::Stranger,
            31..33 => self.expire(slot),
            33..73 => {
                let count = self.rng.usize(2..8);
                self.in_burst = true;
                let requests = (0..count).map(|_| self.plain_request(slot)).collect();
                self.in_burst = false;
                Step::Burst { slot, requests }
            }
            _ => {
                let request = self.any_request(slot);
                Step::Request { slot, request }
            }
        }
    }

    /// Deletes everything, children first.
    fn sweep(&mut self, tree: &[String]) {
        for path in tree {
            if matches!(
                path.as_str(),
                "/" | "/zookeeper" | "/zookeeper/quota" | "/zookeeper/config"
            ) {
                continue;
            }
            let request = self.finish(Body::Delete(PathVersion { path, version: -1 }));
            self.queue.push(Step::Request {
                slot: INSPECTOR,
                request,
            });
        }
    }

    fn connect(&mut self, slot: usize) -> Step {
        self.slots[slot].watches.clear();
        Step::Connect {
            slot,
            timeout_ms: self.timeout(),
            read_only: self.pick(&[None, Some(false), Some(true)]),
        }
    }

    fn attach(&mut self, slot: usize) -> Step {
        self.slots[slot].watches.clear();
        Step::Attach {
            slot,
            timeout_ms: self.timeout(),
            tell_zxid: self.rng.bool(),
        }
    }

    fn expire(&mut self, slot: usize) -> Step {
        Step::Expire {
            slot,
            timeout_ms: self.pick(&[i32::MIN, 0, 1, 500]),
        }
    }

    /// Long enough for the session not to end by itself.
    fn timeout(&mut self) -> i32 {
        self.pick(&[3_600_000, 5_000_000, i32::MAX])
    }

    /// One that leaves the connection as it is, and is answered in turn.
    fn plain_request(&mut self, slot: usize) -> Request {
        match self.rng.u32(..100) {
            0..30 => self.create(),
            30..40 => self.delete(),
            40..50 => self.set(),
            50..58 => self.read(slot, OpCode::GetData),
            58..66 => self.read(slot, OpCode::Exists),
            66..74 => self.read(slot, OpCode::GetChildren2),
            74..80 => {
                let path = self.path();
                self.finish(Body::GetAcl(PathOnly { path: &path }))
            }
            80..90 => self.multi(),
            90..94 => self.multi_read(),
            94..97 => self.add_watch(slot),
            _ => self.small(),
        }
    }

    fn any_request(&mut self, slot: usize) -> Request {
        let mut request = match self.rng.u32(..1000) {
            0..230 => self.create(),
            230..290 => self.delete(),
            290..370 => self.set(),
            370..450 => self.read(slot, OpCode::GetData),
            450..520 => self.read(slot, OpCode::Exists),
            520..560 => self.read(slot, OpCode::GetChildren),
            560..600 => self.read(slot, OpCode::GetChildren2),
            600..665 => self.access_control(),
            665..765 => self.multi(),
            765..790 => self.multi_read(),
            790..830 => self.add_watch(slot),
            830..870 => self.watch_selection(slot),
            870..905 => self.set_watches(slot),
            905..935 => self.auth(),
            935..960 => self.quota(),
            960..970 => self.finish(Body::CloseSession(())),
            970..978 => self.unusual(),
            _ => self.small(),
        };
        if self.rng.u32(..100) < 3 {
            self.break_body(&mut request);
        }
        request
    }

    fn create(&mut self) -> Request {
        let path = self.path_to_create();
        let data = self.data();
        let acl = self.acl();
        let flags = self.flags();
        let op_code = self.pick(&[
            OpCode::Create,
            OpCode::Create,
            OpCode::Create2,
            OpCode::Create2,
            OpCode::CreateContainer,
            OpCode::CreateTtl,
        ]);
        if op_code == OpCode::CreateTtl {
            let (flags, ttl_ms) = self.ttl(flags);
            return self.finish(Body::CreateTtl(CreateTtl {
                path: &path,
                data: data.as_deref(),
                acl: List::new(&acl),
                flags,
                ttl_ms,
            }));
        }
        let flags = if op_code == OpCode::CreateContainer && self.rng.u32(..4) > 0 {
            4
        } else {
            flags
        };
        let body = Create {
            path: &path,
            data: data.as_deref(),
            acl: List::new(&acl),
            flags,
        };
        match op_code {
            OpCode::Create => self.finish(Body::Create(body)),
            OpCode::Create2 => self.finish(Body::Create2(body)),
            _ => self.finish(Body::CreateContainer(body)),
        }
    }

    fn flags(&mut self) -> i32 {
        match self.rng.u32(..100) {
            0..50 => 0,
            50..65 => 1,
            65..78 => 2,
            78..88 => 3,
            _ => self.pick(&[4, 5, 6, 7, -1, 8, i32::MAX]),
        }
    }

    fn ttl(&mut self, flags: i32) -> (i32, i64) {
        let flags = match self.rng.u32(..10) {
            0..5 => 5,
            5..8 => 6,
            _ => flags,
        };
        let hour = 3_600_000;
        let ttl = self.pick(&[
            hour,
            hour,
            hour,
            0,
            -1,
            (1 << 40) - 1,
            1 << 40,
            i64::MAX,
            i64::MIN,
        ]);
        (flags, ttl)
    }

    fn delete(&mut self) -> Request {
        let path = self.path();
        let version = self.version();
        self.finish(Body::Delete(PathVersion {
            path: &path,
            version,
        }))
    }

    fn set(&mut self) -> Request {
        let path = self.path_to_set();
        let data = self.data();
        let version = self.version();
        self.finish(Body::SetData(SetData {
            path: &path,
            data: data.as_deref(),
            version,
        }))
    }

    fn read(&mut self, slot: usize, op_code: OpCode) -> Request {
        let path = self.path();
        let watch = self.rng.bool() && self.may_watch(slot, &path, Watching::Once);
        let body = PathWatch { path: &path, watch };
        match op_code {
            OpCode::GetData => self.finish(Body::GetData(body)),
            OpCode::Exists => self.finish(Body::Exists(body)),
            OpCode::GetChildren => self.finish(Body::GetChildren(body)),
            _ => self.finish(Body::GetChildren2(body)),
        }
    }

    fn access_control(&mut self) -> Request {
        let path = self.path();
        if self.rng.u32(..5) < 2 {
            return self.finish(Body::GetAcl(PathOnly { path: &path }));
        }
        // Without rights at the root nothing would happen any more.
        let path = if path == "/" { "/a" } else { &path };
        let acl = self.acl();
        let version = self.version();
        self.finish(Body::SetAcl(SetAcl {
            path,
            acl: List::new(&acl),
            version,
        }))
    }

    fn multi(&mut self) -> Request {
        struct Part {
            kind: usize,
            path: String,
            data: Option<Vec<u8>>,
            acl: Vec<Acl<'static>>,
            flags: i32,
            ttl_ms: i64,
            version: i32,
        }
        let count = self.rng.usize(..6);
        let parts: Vec<_> = (0..count)
            .map(|_| {
                let kind = self.pick(&[0, 0, 0, 1, 1, 2, 3, 3, 4, 4, 5, 6]);
                // A multi fails as a whole, so its parts are mostly good.
                let flags = self.flags();
                let (flags, ttl_ms) = match kind {
                    5 => (4, 0),
                    6 => self.ttl(flags),
                    _ if self.in_burst && matches!(flags, 5 | 6) => (0, 0),
                    _ => (flags, 0),
                };
                Part {
                    kind,
                    path: match kind {
                        0 | 1 | 5 | 6 => self.path_to_create(),
                        3 => self.path_to_set(),
                        _ => self.path(),
                    },
                    data: self.data(),
                    acl: self.acl(),
                    flags,
                    ttl_ms,
                    version: self.version(),
                }
            })
            .collect();
        let operations: Vec<_> = parts
            .iter()
            .map(|part| {
                let create = Create {
                    path: &part.path,
                    data: part.data.as_deref(),
                    acl: List::new(&part.acl),
                    flags: part.flags,
                };
                let path_version = PathVersion {
                    path: &part.path,
                    version: part.version,
                };
                match part.kind {
                    0 => WriteOp::Create(create),
                    1 => WriteOp::Create2(create),
                    2 => WriteOp::Delete(path_version),
                    3 => WriteOp::SetData(SetData {
                        path: &part.path,
                        data: part.data.as_deref(),
                        version: part.version,
                    }),
                    4 => WriteOp::Check(path_version),
                    5 => WriteOp::CreateContainer(create),
                    _ => WriteOp::CreateTtl(CreateTtl {
                        path: &part.path,
                        data: part.data.as_deref(),
                        acl: List::new(&part.acl),
                        flags: part.flags,
                        ttl_ms: part.ttl_ms,
                    }),
                }
            })
            .collect();
        self.finish(Body::Multi(MultiRequest::new(&operations)))
    }

    fn multi_read(&mut self) -> Request {
        let count = self.rng.usize(..5);
        let paths: Vec<_> = (0..count).map(|_| self.path()).collect();
        let parts: Vec<_> = paths
            .iter()
            .map(|path| {
                let body = PathWatch { path, watch: false };
                if self.rng.bool() {
                    ReadOp::GetData(body)
                } else {
                    ReadOp::GetChildren(body)
                }
            })
            .collect();
        self.finish(Body::MultiRead(MultiReadRequest::new(&parts)))
    }

    fn add_watch(&mut self, slot: usize) -> Request {
        let path = self.path();
        let mode = self.pick(&[0, 0, 0, 1, 1, 1, 2, -1]);
        if !self.may_watch(slot, &path, Watching::Always(mode)) {
            return self.watch_selection(slot);
        }
        self.finish(Body::AddWatch(AddWatch { path: &path, mode }))
    }

    /// Paths that the connection watches are the most likely.
    fn watch_selection(&mut self, slot: usize) -> Request {
        let mut watched: Vec<_> = self.slots[slot].watches.keys().cloned().collect();
        watched.sort_unstable();
        let path = if watched.is_empty() || self.rng.u32(..4) == 0 {
            self.path()
        } else {
            watched[self.rng.usize(..watched.len())].clone()
        };
        let kind = self.pick(&[1, 1, 2, 2, 3, 3, 0, 9, -1]);
        let body = WatchSelection { path: &path, kind };
        if self.rng.bool() {
            self.finish(Body::CheckWatches(body))
        } else {
            self.finish(Body::RemoveWatches(body))
        }
    }

    fn set_watches(&mut self, slot: usize) -> Request {
        let mut lists: [Vec<String>; 5] = Default::default();
        for (number, list) in lists.iter_mut().enumerate() {
            let watching = match number {
                0..3 => Watching::Once,
                3 => Watching::Always(0),
                _ => Watching::Always(1),
            };
            for _ in 0..self.rng.usize(..4) {
                let path = self.path();
                if self.may_watch(slot, &path, watching) {
                    list.push(path);
                }
            }
        }
        let lists = lists
            .each_ref()
            .map(|list| list.iter().map(String::as_str).collect::<Vec<_>>());
        let [data, exist, child, persistent, recursive] =
            lists.each_ref().map(|list| List::new(list));
        let far = self.pick(&[-1, 0, i64::MAX]);
        let mut request = if self.rng.bool() {
            self.finish(Body::SetWatches(SetWatches {
                relative_zxid: far,
                data,
                exist,
                child,
            }))
        } else {
            self.finish(Body::SetWatches2(SetWatches2 {
                relative_zxid: far,
                data,
                exist,
                child,
                persistent,
                recursive,
            }))
        };
        if self.rng.u32(..5) > 0 {
            request.transactions_ago = Some(self.rng.i64(-1..40));
        }
        request
    }

    fn auth(&mut self) -> Request {
        let credential: (&str, Option<&[u8]>) = match self.rng.u32(..100) {
            0..35 => ("digest", Some(b"bob:secret")),
            35..60 => ("digest", Some(b"ann:pw")),
            60..75 => ("digest", Some(b"super:test")),
            75..80 => ("digest", Some(b"super:wrong")),
            80..86 => ("ip", Some(b"127.0.0.1")),
            _ => self.pick(&[
                ("digest", Some(&b"no colon"[..])),
                ("digest", Some(b"")),
                ("digest", Some(b":")),
                ("digest", Some(b"a:b:c")),
                ("digest", Some(b"b\xffb:\xfe")),
                ("digest", None),
                ("x509", Some(b"CN=a")),
                ("sasl", Some(b"bob")),
                ("world", Some(b"anyone")),
                ("auth", Some(b"")),
                ("super", Some(b"super:test")),
                ("bogus", Some(b"x")),
                ("", Some(b"")),
            ]),
        };
        self.finish(Body::Auth(Auth {
            kind: 0,
            scheme: credential.0,
            auth: credential.1,
        }))
    }

    fn quota(&mut self) -> Request {
        let path = self.pick(QUOTA_PATHS);
        let data = self.pick(&[
            &b"count=3,bytes=100"[..],
            b"count=-1,bytes=-1",
            b"count=0,bytes=0",
        ]);
        let version = self.version();
        match self.rng.u32(..10) {
            0..5 => self.finish(Body::Create(Create {
                path,
                data: Some(data),
                acl: List::new(Acl::OPEN),
                flags: 0,
            })),
            5 => self.finish(Body::Delete(PathVersion { path, version })),
            6 => self.finish(Body::SetData(SetData {
                path,
                data: Some(data),
                version,
            })),
            _ => self.finish(Body::GetData(PathWatch { path, watch: false })),
        }
    }

    /// What hardly anybody sends.
    fn unusual(&mut self) -> Request {
        let path = self.path();
        match self.rng.u32(..8) {
            0 => self.finish(Body::Check(PathVersion {
                path: &path,
                version: 0,
            })),
            1 => self.finish(Body::Reconfig(Reconfig {
                joining: Some("server.2=localhost:2:3;4"),
                leaving: None,
                members: None,
                config_id: -1,
            })),
            2 => self.finish(Body::Sasl(Sasl {
                token: Some(b"token"),
            })),
            3 => {
                // Reads in a multi of writes, or the other way round.
                let mut encoder = Encoder::default();
                let read = ReadOp::GetData(PathWatch {
                    path: &path,
                    watch: false,
                });
                let write = WriteOp::Check(PathVersion {
                    path: &path,
                    version: -1,
                });
                encoder.write(&read);
                encoder.write(&write);
                encoder.write(&MultiHeader {
                    kind: -1,
                    done: true,
                    error: -1,
                });
                let op_code = self.pick(&[OpCode::Multi, OpCode::MultiRead]);
                self.finish_bytes(
                    op_code.code(),
                    encoder.into_bytes(),
                    format!("{op_code:?} of {read:?} and {write:?}"),
                )
            }
            4 => self.multi_of_something_else(),
            5 => self.longest(),
            _ => {
                let op_code = self.pick(&[999, 10, -1, -2, 0, 23, 108, i32::MIN, i32::MAX]);
                self.finish_bytes(op_code, Vec::new(), "an unknown operation".to_owned())
            }
        }
    }

    fn multi_of_something_else(&mut self) -> Request {
        let kind = self.pick(&[3, 6, 9, 14, 16, 20, 22, -1, 0, 999]);
        let mut encoder = Encoder::default();
        for (kind, done) in [(kind, false), (-1, true)] {
            encoder.write(&MultiHeader {
                kind,
                done,
                error: -1,
            });
            if !done {
                encoder.write(&PathWatch {
                    path: "/a",
                    watch: false,
                });
            }
        }
        let op_code = self.pick(&[OpCode::Multi, OpCode::MultiRead]);
        let text = format!("{op_code:?} of an operation {kind}");
        self.finish_bytes(op_code.code(), encoder.into_bytes(), text)
    }

    /// About as long as a request may be.
    fn longest(&mut self) -> Request {
        const LIMIT: usize = (1 << 20) - 1;
        let path = "/a";
        // Header, length of the path, path, length of the data, version.
        let overhead = 8 + 4 + path.len() + 4 + 4;
        let length = self.pick(&[LIMIT - 1, LIMIT, LIMIT + 1, LIMIT + 1000]);
        let mut request = self.finish(Body::SetData(SetData {
            path,
            data: Some(&vec![7; length - overhead]),
            version: -1,
        }));
        request.text = format!("Longest SetData, {length} bytes, of {path}");
        request
    }

    fn small(&mut self) -> Request {
        let path = self.path();
        let only = PathOnly { path: &path };
        match self.rng.u32(..5) {
            0 => self.finish(Body::Sync(PathPrefix {
                prefix: Some(only.path),
            })),
            1 => self.finish(Body::Ping(())),
            2 => self.finish(Body::WhoAmI(())),
            3 => {
                let prefix = (self.rng.u32(..4) > 0).then_some(only.path);
                self.finish(Body::GetEphemerals(PathPrefix { prefix }))
            }
            _ => self.finish(Body::GetAllChildrenNumber(only)),
        }
    }

    fn break_body(&mut self, request: &mut Request) {
        let what = match self.rng.u32(..6) {
            0..3 => {
                let length = self.rng.usize(..=request.body.len());
                request.body.truncate(length);
                format!("cut to {length} bytes")
            }
            3 => {
                request.body.extend_from_slice(b"more");
                "with four bytes more".to_owned()
            }
            _ => {
                let length = self.pick(&[-1, -2, i32::MIN, i32::MAX, 0x10_0000]);
                let body = &mut request.body;
                if let Some(field) = body.first_chunk_mut::<4>() {
                    *field = length.to_be_bytes();
                }
                format!("its first field {length}")
            }
        };
        request.transactions_ago = None;
        request.text = format!("broken, {what}: {}", request.text);
        if differences::is_not_sent(request) {
            *request = self.finish(Body::Ping(()));
        }
    }

    /// Whether the connection watches this path in this way alone; see [`differences`].
    fn may_watch(&mut self, slot: usize, path: &str, watching: Watching) -> bool {
        let watches = &mut self.slots[slot].watches;
        *watches.entry(path.to_owned()).or_insert(watching) == watching
    }

    fn path(&mut self) -> String {
        match self.rng.u32(..100) {
            0..5 => self.pick(BAD_PATHS).to_owned(),
            5..45 if !self.created.is_empty() => {
                self.created[self.rng.usize(..self.created.len())].clone()
            }
            _ => self.pick(PATHS).to_owned(),
        }
    }

    /// None where nothing but quotas is written.
    fn path_to_set(&mut self) -> String {
        let path = self.path();
        if path.starts_with("/zookeeper/quota") {
            return "/a".to_owned();
        }
        path
    }

    /// More often one whose parent is there.
    fn path_to_create(&mut self) -> String {
        let mut path = self.path_to_set();
        if self.rng.u32(..8) == 0 && path.len() < 100 {
            path.push_str(self.pick(&["/x", "/y", "/z-", "/", "/\u{1f600}"]));
        }
        path
    }

    fn version(&mut self) -> i32 {
        match self.rng.u32(..10) {
            0..6 => -1,
            6..9 => self.rng.i32(0..4),
            _ => self.pick(&[1000, -2, i32::MIN, i32::MAX]),
        }
    }

    fn data(&mut self) -> Option<Vec<u8>> {
        match self.rng.u32(..100) {
            0..10 => None,
            10..20 => Some(Vec::new()),
            99 => Some(vec![7; self.rng.usize(..300_000)]),
            _ => {
                let length = self.rng.usize(1..12);
                Some((0..length).map(|_| self.rng.u8(b'a'..=b'z')).collect())
            }
        }
    }

    fn acl(&mut self) -> Vec<Acl<'static>> {
        match self.rng.u32(..100) {
            0..80 => Acl::OPEN.to_vec(),
            80..83 => Acl::READ_ONLY.to_vec(),
            83..88 => Acl::CREATOR.to_vec(),
            88..90 => Vec::new(),
            _ => (0..self.rng.usize(1..4))
                .map(|_| self.acl_entry())
                .collect(),
        }
    }

    fn acl_entry(&mut self) -> Acl<'static> {
        let permissions = match self.rng.u32(..10) {
            0..4 => Permissions::ALL.0,
            4..9 => self.rng.i32(0..32),
            _ => self.pick(&[32, -1, i32::MIN, 63]),
        };
        let (scheme, id) = self.pick(&[
            ("world", "anyone"),
            ("world", "anyone"),
            ("world", "somebody"),
            ("world", ""),
            ("auth", ""),
            ("auth", "bob"),
            ("digest", BOB),
            ("digest", BOB),
            ("digest", ANN),
            ("digest", "no colon"),
            ("digest", "two:colons:here"),
            ("digest", ""),
            ("ip", "127.0.0.1"),
            ("ip", "127.0.0.0/8"),
            ("ip", "10.0.0.1"),
            ("ip", "127.0.0.1/32"),
            ("ip", "127.0.0.1/33"),
            ("ip", "127.0.0.1/x"),
            ("ip", "127.0.0"),
            ("ip", ""),
            ("x509", "CN=a"),
            ("sasl", "bob"),
            ("super", "super"),
            ("super", BOB),
            ("bogus", "x"),
            ("", ""),
        ]);
        Acl::new(Permissions(permissions), scheme, id)
    }

    fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.rng.usize(..items.len())]
    }

    #[expect(clippy::needless_pass_by_value, reason = "bodies are made in the call")]
    fn finish(&mut self, body: Body<'_>) -> Request {
        let mut encoder = Encoder::default();
        body.encode(&mut encoder);
        // Long data is all the same.
        let text = format!("{body:?}").replace("7, 7, 7, 7, 7, 7, 7, 7, ", "");
        let mut request = self.finish_bytes(body.op_code().code(), encoder.into_bytes(), text);
        match body.op_code() {
            OpCode::Ping => request.xid = XID_PING,
            OpCode::Auth => request.xid = XID_AUTH,
            OpCode::SetWatches | OpCode::SetWatches2 => request.xid = XID_SET_WATCHES,
            _ => {}
        }
        if differences::is_not_sent(&request) {
            return self.finish(Body::Ping(()));
        }
        request
    }

    fn finish_bytes(&mut self, op_code: i32, body: Vec<u8>, text: String) -> Request {
        self.xid += 1;
        Request {
            xid: self.xid,
            op_code,
            body,
            transactions_ago: None,
            text,
        }
    }
}
