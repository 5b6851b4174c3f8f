use std::net::{IpAddr, Ipv4Addr};

use livegate_zk::frame::LENGTH_BYTES;
use livegate_zk::jute::{Encoder, List};
use livegate_zk::proto::acl::{Acl, Permissions};
use livegate_zk::proto::multi::{MultiRequest, WriteOp};
use livegate_zk::proto::reply::Reply;
use livegate_zk::proto::request::{
    Create, CreateTtl, PathOnly, PathVersion, PathWatch, SetAcl, SetData,
};
use livegate_zk::proto::watch::{AddWatch, EventKind};
use proptest::prelude::*;

use super::tree::ROOT;
use super::*;

const HOME: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A machine with what came out of it.
struct Bench {
    machine: Machine,
    now: Now,
    records: Vec<Vec<u8>>,
    room: Room,
}

fn settings() -> Settings {
    Settings {
        tick_ms: 2000,
        session_timeout_ms: (4000, 40_000),
        super_digest: None,
    }
}

impl Bench {
    fn new() -> Self {
        let now = Now {
            wall_ms: 1_700_000_000_000,
            steady_ms: 1000,
        };
        let mut bench = Self {
            machine: Machine::new(settings()),
            now,
            records: Vec::new(),
            room: Room::Plenty,
        };
        bench.machine.begin(now, [3; SECRET_BYTES]);
        bench.take_record();
        bench
    }

    fn take_record(&mut self) {
        let records = &mut self.records;
        self.machine
            .take_record(|record| records.push(record.to_vec()));
    }

    fn connect(&mut self, connection: ConnectionId) -> i64 {
        let request = ConnectRequest {
            protocol_version: 0,
            last_zxid_seen: 0,
            timeout_ms: 10_000,
            session_id: 0,
            password: None,
            read_only: Some(false),
        };
        let handshake = self.machine.connect(
            self.now,
            connection,
            HOME,
            self.room,
            &encoded(&request),
            &mut Vec::new(),
        );
        self.take_record();
        match handshake {
            Handshake::Attached { session, .. } => session,
            other => panic!("{other:?}"),
        }
    }

    /// Sends a request and returns the error of its answer, and the answer's body.
    fn send(&mut self, connection: ConnectionId, request: &Request<'_>) -> (i32, Vec<u8>) {
        let mut encoder = Encoder::default();
        encoder.write(&RequestHeader {
            xid: 1,
            op_code: request.op_code().code(),
        });
        encoder.write(request);
        let mut output = Vec::new();
        let before = self.machine.zxid();
        let turn = self.machine.request(
            self.now,
            connection,
            before,
            self.room,
            &encoder.into_bytes(),
            &mut output,
        );
        assert!(turn.zxid >= before);
        self.take_record();
        let mut input = Decoder::new(&output[LENGTH_BYTES..]);
        let header: ReplyHeader = input.read().unwrap();
        (header.error, input.remaining().to_vec())
    }

    fn create(&mut self, connection: ConnectionId, path: &str, flags: i32) -> i32 {
        let request = Request::Create(Create {
            path,
            data: Some(b"data"),
            acl: List::new(Acl::OPEN),
            flags,
        });
        self.send(connection, &request).0
    }

    fn events(&mut self) -> Vec<(ConnectionId, EventKind, String)> {
        self.machine
            .take_events()
            .map(|event| (event.connection, event.kind, event.path.to_string()))
            .collect()
    }
}

fn encoded(value: &impl Encode) -> Vec<u8> {
    let mut encoder = Encoder::default();
    encoder.write(value);
    encoder.into_bytes()
}

/// Everything that is to survive, as text.
fn dump(machine: &Machine) -> Vec<String> {
    let mut lines = Vec::new();
    let mut open = vec![ROOT];
    while let Some(id) = open.pop() {
        let node = machine.tree.node(id);
        let (stat, acl) = (node.stat(), machine.tree.acl(node));
        let (path, data) = (&node.path, &node.data);
        lines.push(format!("{path} {data:?} {stat:?} {:?} {acl:?}", node.owner));
        open.extend_from_slice(&node.children);
    }
    lines.extend(
        machine
            .sessions
            .iter()
            .map(|(id, session)| format!("session {id:x} {}", session.timeout_ms)),
    );
    for (session, mut paths) in machine.tree.ephemerals_by_session() {
        paths.sort_unstable();
        lines.push(format!("ephemerals {session:x} {paths:?}"));
    }
    lines.push(format!("{} {}", machine.tree.len(), machine.tree.bytes()));
    lines.sort_unstable();
    lines
}

fn restored(pieces: &[Vec<u8>], records: &[Vec<u8>]) -> Machine {
    let mut restorer = Restorer::new(settings());
    for piece in pieces {
        restorer.piece(piece).unwrap();
    }
    let mut machine = restorer.finish().unwrap();
    for record in records {
        machine.restore_record(record).unwrap();
    }
    machine
}

/// A step of a random history over a few paths, so that they meet.
#[derive(Debug, Clone)]
enum Step {
    Connect,
    Create(u8, u8, i32),
    Delete(u8),
    Set(u8, u8, i32),
    SetAcl(u8),
    Multi(Vec<(u8, u8)>),
    Close(u8),
    Quota(u8),
}

const PATHS: [&str; 8] = [
    "/a", "/b", "/a/x", "/a/y", "/b/x", "/a/x/1", "/a/x/2", "/q-",
];

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => Just(Step::Connect),
        6 => (any::<u8>(), any::<u8>(), 0..7_i32).prop_map(|(c, p, f)| Step::Create(c, p, f)),
        4 => any::<u8>().prop_map(Step::Delete),
        3 => (any::<u8>(), any::<u8>(), -1..3_i32).prop_map(|(p, d, v)| Step::Set(p, d, v)),
        1 => any::<u8>().prop_map(Step::SetAcl),
        4 => prop::collection::vec((any::<u8>(), 0..4_u8), 0..6).prop_map(Step::Multi),
        1 => any::<u8>().prop_map(Step::Close),
        1 => any::<u8>().prop_map(Step::Quota),
    ]
}

fn path(number: u8) -> &'static str {
    PATHS[number as usize % PATHS.len()]
}

fn take(bench: &mut Bench, connections: &mut Vec<ConnectionId>, step: &Step) {
    let first = connections[0];
    match step {
        Step::Connect => {
            let connection = connections.last().unwrap() + 1;
            bench.connect(connection);
            connections.push(connection);
        }
        Step::Create(connection, number, flags) => {
            let connection = connections[*connection as usize % connections.len()];
            let path = path(*number);
            match flags {
                4 => {
                    let request = Request::CreateContainer(Create {
                        path,
                        data: None,
                        acl: List::new(Acl::OPEN),
                        flags: 4,
                    });
                    bench.send(connection, &request);
                }
                5 | 6 => {
                    let request = Request::CreateTtl(CreateTtl {
                        path,
                        data: Some(b"ttl"),
                        acl: List::new(Acl::READ_ONLY),
                        flags: *flags,
                        ttl_ms: 1000,
                    });
                    bench.send(connection, &request);
                }
                flags => {
                    bench.create(connection, path, *flags);
                }
            }
        }
        Step::Delete(number) => {
            let (path, version) = (path(*number), -1);
            bench.send(first, &Request::Delete(PathVersion { path, version }));
        }
        Step::Set(number, data, version) => {
            let data = vec![7; *data as usize];
            let request = Request::SetData(SetData {
                path: path(*number),
                data: Some(&data),
                version: *version,
            });
            bench.send(first, &request);
        }
        Step::SetAcl(number) => {
            let list = [Acl::new(Permissions::ALL, "ip", "127.0.0.0/8")];
            let request = Request::SetAcl(SetAcl {
                path: path(*number),
                acl: List::new(&list),
                version: -1,
            });
            bench.send(first, &request);
        }
        Step::Multi(parts) => {
            let parts: Vec<WriteOp<'_>> = parts
                .iter()
                .map(|&(number, kind)| {
                    let path = path(number);
                    match kind {
                        0 => WriteOp::Create(Create {
                            path,
                            data: Some(b"m"),
                            acl: List::new(Acl::READ_ONLY),
                            flags: i32::from(number) % 4,
                        }),
                        1 => WriteOp::Delete(PathVersion { path, version: -1 }),
                        2 => WriteOp::SetData(SetData {
                            path,
                            data: Some(b"multi"),
                            version: -1,
                        }),
                        _ => WriteOp::Check(PathVersion { path, version: -1 }),
                    }
                })
                .collect();
            let before = dump(&bench.machine);
            let (_, body) = bench.send(first, &Request::Multi(MultiRequest::new(&parts)));
            let reply = Reply::decode(OpCode::Multi, &mut Decoder::new(&body)).unwrap();
            let Reply::Multi(results) = reply else {
                panic!("{reply:?}");
            };
            let failed = results
                .iter()
                .any(|result| matches!(result, livegate_zk::proto::multi::OpResult::Error(_)));
            if failed {
                assert_eq!(
                    dump(&bench.machine),
                    before,
                    "a failed multi changes nothing"
                );
            }
        }
        Step::Close(number) => {
            if connections.len() > 1 {
                let place = 1 + *number as usize % (connections.len() - 1);
                let connection = connections.remove(place);
                bench.send(connection, &Request::CloseSession(()));
                bench.machine.disconnect(connection);
            }
        }
        Step::Quota(number) => {
            for name in ["zookeeper_limits", "zookeeper_stats"] {
                let base = format!("/zookeeper/quota{}", path(*number));
                for above in livegate_zk::path::with_ancestors(&base)
                    .collect::<Vec<_>>()
                    .iter()
                    .rev()
                {
                    bench.create(first, above, 0);
                }
                bench.create(first, &format!("{base}/{name}"), 0);
            }
        }
    }
    bench.machine.take_events();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// The log alone, and a snapshot that was written while the machine went on with the log from there,
    /// give back what there was.
    #[test]
    fn what_was_logged_comes_back(
        steps in prop::collection::vec(step(), 1..80),
        begun in 0..80_usize,
        piece in 1..400_usize,
    ) {
        let mut bench = Bench::new();
        bench.connect(1);
        let mut connections = vec![1];
        let mut snapshot: Option<(Vec<Vec<u8>>, usize, Vec<String>)> = None;
        let mut is_more = false;
        for (index, step) in steps.iter().enumerate() {
            if index == begun {
                let head = bench.machine.begin_snapshot(bench.now);
                snapshot = Some((vec![head], bench.records.len(), dump(&bench.machine)));
                is_more = true;
            }
            take(&mut bench, &mut connections, step);
            if let Some((pieces, ..)) = snapshot.as_mut().filter(|_| is_more) {
                let mut bytes = Vec::new();
                is_more = bench.machine.write_snapshot(&mut bytes, piece);
                pieces.push(bytes);
            }
        }
        let now = dump(&bench.machine);
        prop_assert_eq!(&dump(&restored(&[], &bench.records)), &now);
        if let Some((mut pieces, records, at_begin)) = snapshot {
            while is_more {
                let mut bytes = Vec::new();
                is_more = bench.machine.write_snapshot(&mut bytes, piece);
                pieces.push(bytes);
            }
            prop_assert_eq!(&dump(&restored(&pieces, &[])), &at_begin);
            prop_assert_eq!(&dump(&restored(&pieces, &bench.records[records..])), &now);
        }
    }

    /// Bytes that are neither are refused, not believed.
    #[test]
    fn foreign_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut bench = Bench::new();
        bench.connect(1);
        let room = Room::Plenty;
        bench.machine.request(bench.now, 1, 0, room, &bytes, &mut Vec::new());
        bench.machine.connect(bench.now, 2, HOME, room, &bytes, &mut Vec::new());
        drop(bench.machine.restore_record(&bytes));
        let mut restorer = Restorer::new(settings());
        drop(restorer.piece(&bench.records[0]));
        drop(restorer.piece(&bytes));
        drop(restorer.finish());
    }
}

#[test]
fn events_name_everybody_once() {
    let mut bench = Bench::new();
    for connection in 1..=4 {
        bench.connect(connection);
    }
    bench.create(1, "/a", 0);
    let watch = |path, watch| PathWatch { path, watch };
    bench.send(1, &Request::GetData(watch("/a", true)));
    bench.send(1, &Request::GetChildren(watch("/a", true)));
    bench.send(2, &Request::AddWatch(AddWatch { path: "/", mode: 1 }));
    bench.send(
        3,
        &Request::AddWatch(AddWatch {
            path: "/a",
            mode: 0,
        }),
    );
    bench.send(4, &Request::Exists(watch("/a/b", true)));
    bench.events();
    bench.create(1, "/a/b", 0);
    let told = |c: ConnectionId, kind, path: &str| (c, kind, path.to_owned());
    assert_eq!(
        bench.events(),
        [
            told(2, EventKind::Created, "/a/b"),
            told(4, EventKind::Created, "/a/b"),
            told(1, EventKind::ChildrenChanged, "/a"),
            told(3, EventKind::ChildrenChanged, "/a"),
        ]
    );
    bench.send(
        1,
        &Request::Delete(PathVersion {
            path: "/a/b",
            version: -1,
        }),
    );
    assert_eq!(
        bench.events(),
        [
            told(2, EventKind::Deleted, "/a/b"),
            told(3, EventKind::ChildrenChanged, "/a"),
        ]
    );
    bench.send(
        1,
        &Request::Delete(PathVersion {
            path: "/a",
            version: -1,
        }),
    );
    assert_eq!(
        bench.events(),
        [
            told(1, EventKind::Deleted, "/a"),
            told(2, EventKind::Deleted, "/a"),
            told(3, EventKind::Deleted, "/a"),
        ]
    );
    bench.machine.disconnect(2);
    bench.create(1, "/a", 0);
    assert_eq!(bench.events(), [told(3, EventKind::Created, "/a")]);
    assert_eq!(bench.machine.watches.len(), 2, "both of a persistent one");
}

/// CVE-2024-23944: who watches from above is not told of what it may not read.
#[test]
fn who_watches_from_above_is_told_only_what_it_may_read() {
    let mut bench = Bench::new();
    bench.connect(1);
    bench.connect(2);
    bench.send(2, &Request::AddWatch(AddWatch { path: "/", mode: 1 }));
    let list = [Acl::new(Permissions::ALL, "digest", "somebody:else")];
    let secret = Request::Create(Create {
        path: "/secret",
        data: None,
        acl: List::new(&list),
        flags: 0,
    });
    assert_eq!(bench.send(1, &secret).0, 0);
    assert_eq!(bench.events(), []);
    bench.send(
        1,
        &Request::Delete(PathVersion {
            path: "/secret",
            version: -1,
        }),
    );
    assert_eq!(bench.events(), []);
}

#[test]
fn answers_name_the_transaction_that_they_depend_on() {
    let mut bench = Bench::new();
    bench.connect(1);
    bench.create(1, "/old", 0);
    let on_disk = bench.machine.zxid();
    bench.create(1, "/new", 0);
    let newest = bench.machine.zxid();
    let mut ask = |path| {
        let mut encoder = Encoder::default();
        encoder.write(&RequestHeader {
            xid: 1,
            op_code: OpCode::Exists.code(),
        });
        encoder.write(&PathWatch { path, watch: false });
        let mut output = Vec::new();
        let (now, frame) = (bench.now, encoder.into_bytes());
        let turn = bench
            .machine
            .request(now, 1, on_disk, Room::Plenty, &frame, &mut output);
        turn.zxid
    };
    assert_eq!(ask("/old"), on_disk, "at rest");
    assert_eq!(ask("/old/none"), on_disk, "missing below what is at rest");
    assert_eq!(ask("/new"), newest, "just created");
    assert_eq!(ask("/"), newest, "has a new child");
    assert_eq!(ask("/none"), newest, "its parent has changed");
}

#[test]
fn without_room_only_what_frees_some_is_taken() {
    let mut bench = Bench::new();
    bench.connect(1);
    assert_eq!(bench.create(1, "/a", 0), 0);
    bench.room = Room::Reserve;
    assert_eq!(bench.create(1, "/b", 0), ErrorCode::QuotaExceeded.code());
    let exists = Request::Exists(PathWatch {
        path: "/a",
        watch: false,
    });
    assert_eq!(bench.send(1, &exists).0, 0);
    let delete = Request::Delete(PathVersion {
        path: "/a",
        version: -1,
    });
    assert_eq!(bench.send(1, &delete).0, 0);
    assert_eq!(bench.connect(2) >> 56, 1, "sessions go on");
    bench.room = Room::None;
    assert_eq!(bench.send(1, &delete).0, ErrorCode::NoNode.code());
    bench.room = Room::Plenty;
    assert_eq!(bench.create(1, "/b", 0), 0);
}

#[test]
fn a_start_is_ahead_of_the_one_before() {
    let mut bench = Bench::new();
    bench.connect(1);
    bench.create(1, "/a", 0);
    let before = bench.machine.zxid();
    let mut again = restored(&[], &bench.records);
    again.begin(bench.now, [9; SECRET_BYTES]);
    assert_eq!(again.zxid() >> 32, (before >> 32) + 1);
    assert_eq!(
        again.sessions.secret(),
        &[3; SECRET_BYTES],
        "the first secret stays"
    );
    // Wiped later: ahead by the clock.
    let mut wiped = Machine::new(settings());
    let later = Now {
        wall_ms: bench.now.wall_ms + 5000,
        ..bench.now
    };
    wiped.begin(later, [9; SECRET_BYTES]);
    assert!(wiped.zxid() > before);
}

#[test]
fn the_parent_is_told_by_its_numbers() {
    let mut bench = Bench::new();
    bench.connect(1);
    bench.create(1, "/a", 0);
    bench.create(1, "/a/n-", 2);
    bench.create(1, "/a/n-", 2);
    bench.send(
        1,
        &Request::Delete(PathVersion {
            path: "/a/n-0000000000",
            version: -1,
        }),
    );
    let id = bench.machine.tree.find("/a").unwrap();
    let stat = bench.machine.tree.node(id).stat();
    assert_eq!((stat.cversion, stat.num_children), (3, 1));
    assert_eq!(stat.pzxid, bench.machine.zxid());
    bench.create(1, "/a/n-", 2);
    assert!(bench.machine.tree.find("/a/n-0000000002").is_some());
    let count = Request::GetAllChildrenNumber(PathOnly { path: "/" });
    assert_eq!(bench.send(1, &count).1, 6_i32.to_be_bytes());
}
