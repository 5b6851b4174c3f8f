//! Full disks, frozen processes, moved sessions, starts on what is there, and starts on a lot.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use livegate_registry::{Options, Server, StartError};
use livegate_zk::frame::append_frame;
use livegate_zk::jute::{Encode, List};
use livegate_zk::proto::acl::Acl;
use livegate_zk::proto::op_code::OpCode;
use livegate_zk::proto::request::{Create, PathVersion, PathWatch};
use livegate_zk::proto::session::{ConnectRequest, RequestHeader};
use rustix::process::Signal;

use crate::handshake::{NEW, asked, encoded, framed, session};
use crate::process::{Process, TICK};
use crate::raw::{Arrival, Connection, Greeting};

const QUOTA_EXCEEDED: i32 = -125;
const NO_NODE: i32 = -101;
const PATIENCE: Duration = Duration::from_secs(30);

fn node<'a>(path: &'a str, data: &'a [u8], flags: i32) -> Create<'a> {
    Create {
        path,
        data: Some(data),
        acl: List::new(Acl::OPEN),
        flags,
    }
}

/// The error code of the reply to a request.
fn outcome(connection: &mut Connection, xid: i32, op_code: OpCode, body: &impl Encode) -> i32 {
    connection.request(xid, op_code.code(), &encoded(body));
    match connection.receive() {
        Arrival::Reply(header, _) if header.xid == xid => header.error,
        other => panic!("{other:?}"),
    }
}

fn exists(connection: &mut Connection, path: &str) -> bool {
    let body = PathWatch { path, watch: false };
    match outcome(connection, 1, OpCode::Exists, &body) {
        0 => true,
        NO_NODE => false,
        other => panic!("{path}: {other}"),
    }
}

/// A small disk, unmounted when dropped.
struct Disk(tempfile::TempDir);

impl Disk {
    /// `None`, with a line that says so, where that is not permitted.
    fn mount(bytes: usize) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"])
            .arg(directory.path())
            .stderr(Stdio::null())
            .status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self(directory));
        }
        println!("SKIPPED: a small disk cannot be mounted: needs to be root");
        None
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// A file that takes all the room that is left.
    fn fill(&self) -> PathBuf {
        let ballast = self.path().join("ballast");
        let file = std::fs::File::create(&ballast).unwrap();
        let chunk = vec![0; 64 * 1024];
        for size in [chunk.len(), 4096] {
            while std::io::Write::write_all(&mut &file, &chunk[..size]).is_ok() {}
        }
        ballast
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let status = Command::new("umount").arg("-l").arg(self.path()).status();
        println!("unmounted: {status:?}");
    }
}

/// Creates nodes until one is refused; the paths of those that were acknowledged.
fn create_until_refused(connection: &mut Connection, round: usize, data: &[u8]) -> Vec<String> {
    let mut paths = Vec::new();
    loop {
        let path = format!("/round-{round}-{}", paths.len());
        match outcome(connection, 1, OpCode::Create, &node(&path, data, 0)) {
            0 => paths.push(path),
            QUOTA_EXCEEDED => return paths,
            other => panic!("{path}: {other}"),
        }
        assert!(paths.len() < 10_000, "the disk is not full");
    }
}

#[test]
fn a_full_disk_refuses_writes_and_nothing_else() {
    let Some(disk) = Disk::mount(48 << 20) else {
        return;
    };
    let mut server = Process::start(disk.path());
    let data = vec![7; 50_000];
    let (mut connection, id, password) = session(server.address(), 10_000);
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        let ballast = disk.fill();
        let paths = create_until_refused(&mut connection, round, &data);
        println!("round {round}: {} nodes fitted in", paths.len());
        // It stays so, also for small ones, which may have found a gap: then soon.
        create_until_refused(&mut connection, 10 + round, &[]);
        if let Some(path) = paths.first() {
            let read = PathWatch { path, watch: false };
            asked(&mut connection, 2, OpCode::GetData, &read);
        }
        acknowledged.extend(paths);
        connection.ping();
        assert!(matches!(connection.receive(), Arrival::Reply(header, _) if header.error == 0));
        // Sessions begin, move and end.
        let (mut another, ..) = session(server.address(), 10_000);
        assert!(exists(&mut another, "/"));
        asked(&mut another, 3, OpCode::CloseSession, &());
        let mut moved = Connection::open(server.address());
        let back = ConnectRequest {
            session_id: id,
            password: Some(&password),
            ..NEW
        };
        assert!(
            matches!(moved.greet(&back), Greeting::Answer { session_id, .. } if session_id == id)
        );
        connection = moved;
        // What makes room is taken.
        if let Some(path) = acknowledged.pop() {
            let deletion = PathVersion {
                path: &path,
                version: -1,
            };
            asked(&mut connection, 4, OpCode::Delete, &deletion);
        }
        if round == 1 {
            // It starts on a full disk, too, with everything there.
            server.kill();
            server.run();
            let mut again = Connection::open(server.address());
            assert!(
                matches!(again.greet(&back), Greeting::Answer { session_id, .. } if session_id == id)
            );
            connection = again;
            for path in &acknowledged {
                assert!(exists(&mut connection, path), "{path} is lost");
            }
        }
        std::fs::remove_file(ballast).unwrap();
        let deadline = Instant::now() + PATIENCE;
        let path = format!("/again-{round}");
        while outcome(&mut connection, 1, OpCode::Create, &node(&path, &data, 0)) != 0 {
            assert!(Instant::now() < deadline, "it does not notice the room");
            std::thread::park_timeout(Duration::from_millis(20));
        }
        acknowledged.push(path);
    }
    server.kill();
    server.run();
    let (mut looker, ..) = session(server.address(), 10_000);
    for path in &acknowledged {
        assert!(exists(&mut looker, path), "{path} is lost");
    }
}

/// Sessions get the time back in which the server could not hear their clients.
#[test]
fn a_frozen_server_ends_no_session() {
    let directory = tempfile::tempdir().unwrap();
    let server = Process::start(directory.path());
    let timeout = TICK * 4;
    let timeout_ms = i32::try_from(timeout.as_millis()).unwrap();
    let (mut connection, id, _) = session(server.address(), timeout_ms);
    asked(&mut connection, 1, OpCode::Create, &node("/e", b"", 1));
    // One whose client goes away meanwhile gets no more than that.
    let (mut mortal, ..) = session(server.address(), timeout_ms);
    asked(&mut mortal, 1, OpCode::Create, &node("/mortal", b"", 1));
    server.signal(Signal::STOP);
    drop(mortal);
    std::thread::park_timeout(timeout * 3);
    server.signal(Signal::CONT);
    let resumed = Instant::now();
    // The client does not hurry either.
    std::thread::park_timeout(timeout / 4);
    connection.ping();
    assert!(matches!(connection.receive(), Arrival::Reply(header, _) if header.error == 0));
    assert!(exists(&mut connection, "/e"));
    assert!(exists(&mut connection, "/mortal"));
    while exists(&mut connection, "/mortal") {
        assert!(
            resumed.elapsed() < PATIENCE,
            "a session without a client stays"
        );
        std::thread::park_timeout(Duration::from_millis(20));
    }
    let (_, stat) = asked(
        &mut connection,
        2,
        OpCode::Exists,
        &PathWatch {
            path: "/e",
            watch: false,
        },
    );
    assert!(stat.windows(8).any(|window| window == id.to_be_bytes()));
}

/// The newest connection has the session; the one before is closed, and takes nothing with it.
#[test]
fn a_session_moves_between_connections() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(Options::new(
        "127.0.0.1:0".parse().unwrap(),
        directory.path(),
    ))
    .unwrap();
    let (mut connection, id, password) = session(server.address(), 10_000);
    asked(&mut connection, 1, OpCode::Create, &node("/e", b"", 1));
    for _ in 0..50 {
        let mut next = Connection::open(server.address());
        let hello = ConnectRequest {
            session_id: id,
            password: Some(&password),
            ..NEW
        };
        assert!(
            matches!(next.greet(&hello), Greeting::Answer { session_id, .. } if session_id == id)
        );
        assert!(exists(&mut next, "/e"));
        assert_eq!(connection.receive(), Arrival::Closed);
        connection = next;
    }
    asked(&mut connection, 1, OpCode::CloseSession, &());
    let (mut other, ..) = session(server.address(), 10_000);
    assert!(!exists(&mut other, "/e"));
}

/// Why a server does not start there.
fn refusal(directory: &Path) -> String {
    let listen = "127.0.0.1:0".parse().unwrap();
    match Server::start(Options::new(listen, directory)) {
        Err(error @ StartError::DataDirectory { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_cannot_be_started_on_is_named_in_a_sentence() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let mut server = Process::start(directory.path());
    let text = refusal(&data);
    assert!(
        text.ends_with(
            "is in use by another process: stop that one, or choose another data directory"
        ),
        "{text}"
    );
    let (mut connection, ..) = session(server.address(), 10_000);
    for number in 0..50 {
        asked(
            &mut connection,
            1,
            OpCode::Create,
            &node(&format!("/n{number}"), &[7; 1000], 0),
        );
    }
    server.kill();

    // A byte in the middle of the log.
    let log = std::fs::read_dir(&data)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let log = log.filter(|path| {
        path.file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .starts_with("log.")
    });
    let log = log.max().unwrap();
    let whole = std::fs::read(&log).unwrap();
    let mut damaged = whole.clone();
    damaged[20_000] ^= 1;
    std::fs::write(&log, damaged).unwrap();
    let text = refusal(&data);
    assert!(text.contains("is damaged at byte "), "{text}");
    assert!(text.contains("move it away to start empty"), "{text}");
    std::fs::write(&log, whole).unwrap();
    server.run();
    let (mut connection, ..) = session(server.address(), 10_000);
    assert!(exists(&mut connection, "/n49"));
    drop(server);

    let occupied = tempfile::tempdir().unwrap();
    let file = occupied.path().join("file");
    std::fs::write(&file, b"something else").unwrap();
    let text = refusal(&file);
    assert!(!text.contains('\n') && text.contains("file"), "{text}");
    // Files with names of ours that another program has written.
    let foreign = occupied.path().join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(
        foreign.join("log.0000000000000001"),
        "2026-01-01 a line of a log\n".repeat(1000),
    )
    .unwrap();
    let text = refusal(&foreign);
    assert!(
        !text.contains('\n') && text.contains("log.0000000000000001"),
        "{text}"
    );
    // Files that are not ours do not matter, and stay.
    let shared = occupied.path().join("shared");
    std::fs::create_dir_all(shared.join("version-2")).unwrap();
    std::fs::write(shared.join("version-2/log.1"), b"ZKLG").unwrap();
    let listen: SocketAddr = "127.0.0.1:0".parse().unwrap();
    Server::start(Options::new(listen, &shared)).unwrap().stop();
    assert_eq!(
        std::fs::read(shared.join("version-2/log.1")).unwrap(),
        b"ZKLG"
    );
}

#[test]
fn ten_thousand_sessions_and_a_hundred_thousand_nodes_are_there_after_a_restart() {
    const SESSIONS: usize = 10_000;
    const NODES: usize = 100_000;
    const AT_ONCE: usize = 1_000;
    let directory = tempfile::tempdir().unwrap();
    let mut server = Process::start(directory.path());
    let mut sessions = Vec::new();
    for _ in 0..SESSIONS / 100 {
        // Their connections are lost at once.
        let mut connections: Vec<_> = (0..100)
            .map(|_| Connection::open(server.address()))
            .collect();
        for connection in &mut connections {
            connection.send_raw(&framed(&ConnectRequest {
                timeout_ms: 10_000,
                ..NEW
            }));
        }
        for connection in &mut connections {
            let Greeting::Answer {
                session_id,
                password,
                ..
            } = connection.greeting()
            else {
                panic!("closed");
            };
            sessions.push((session_id, password));
        }
    }
    let (mut writer, ..) = session(server.address(), 10_000);
    for start in (0..NODES).step_by(AT_ONCE) {
        let mut frames = Vec::new();
        for number in start..start + AT_ONCE {
            let header = RequestHeader {
                xid: i32::try_from(number).unwrap(),
                op_code: OpCode::Create.code(),
            };
            append_frame(
                &mut frames,
                &header,
                &node(&format!("/node-{number}"), &[7; 100], 0),
            );
        }
        writer.send_raw(&frames);
        for _ in 0..AT_ONCE {
            assert!(matches!(writer.receive(), Arrival::Reply(header, _) if header.error == 0));
        }
    }
    server.kill();
    let began = Instant::now();
    server.run();
    let started = began.elapsed();
    println!(
        "{SESSIONS} sessions and {NODES} nodes restored in {started:?}, {} MiB",
        server.memory() >> 20
    );
    assert!(started < PATIENCE, "{started:?}");
    let (mut looker, ..) = session(server.address(), 10_000);
    for number in (0..NODES).step_by(997) {
        assert!(exists(&mut looker, &format!("/node-{number}")));
    }
    assert!(exists(&mut looker, &format!("/node-{}", NODES - 1)));
    // The last ones have lost least of their time; each is known by its password.
    for (id, password) in sessions.iter().rev().take(100) {
        let hello = ConnectRequest {
            session_id: *id,
            password: Some(password),
            ..NEW
        };
        let answer = Connection::open(server.address()).greet(&hello);
        assert!(
            matches!(answer, Greeting::Answer { session_id, .. } if session_id == *id),
            "{answer:?}"
        );
    }
}
