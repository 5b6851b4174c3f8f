//! How connections and sessions begin and end.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use livegate_zk::frame::append_frame;
use livegate_zk::jute::{Decoder, Encode, Encoder, List};
use livegate_zk::proto::acl::Acl;
use livegate_zk::proto::op_code::{OpCode, XID_PING};
use livegate_zk::proto::request::Create;
use livegate_zk::proto::session::{ConnectRequest, PASSWORD_BYTES};
use livegate_zk::proto::watch::{AddWatch, EventKind, WatcherEvent};

use crate::judged::{Pair, Settings};
use crate::raw::{Arrival, Connection, Greeting};

/// A server that has not answered by then does not.
const SILENCE: Duration = Duration::from_secs(2);

pub(crate) fn encoded(value: &impl Encode) -> Vec<u8> {
    let mut encoder = Encoder::default();
    encoder.write(value);
    encoder.into_bytes()
}

pub(crate) fn framed(body: &impl Encode) -> Vec<u8> {
    let mut bytes = Vec::new();
    append_frame(&mut bytes, body, &());
    bytes
}

pub(crate) const NEW: ConnectRequest<'static> = ConnectRequest {
    protocol_version: 0,
    last_zxid_seen: 0,
    timeout_ms: 10_000,
    session_id: 0,
    password: Some(&[0; PASSWORD_BYTES]),
    read_only: Some(false),
};

fn hellos() -> Vec<(String, Vec<u8>)> {
    let mut hellos = Vec::new();
    let mut add = |hello: ConnectRequest<'_>| hellos.push((format!("{hello:?}"), framed(&hello)));
    for timeout_ms in [
        i32::MIN,
        -1,
        0,
        1,
        3_999,
        4_000,
        4_001,
        39_999,
        40_000,
        40_001,
        i32::MAX,
    ] {
        add(ConnectRequest { timeout_ms, ..NEW });
    }
    for read_only in [None, Some(false), Some(true)] {
        for password in [None, Some(&b""[..]), Some(b"abc"), Some(&[9; 100])] {
            add(ConnectRequest {
                password,
                read_only,
                ..NEW
            });
        }
    }
    for protocol_version in [-1, 1, i32::MAX] {
        add(ConnectRequest {
            protocol_version,
            ..NEW
        });
    }
    for last_zxid_seen in [-1, i64::MIN, i64::MAX] {
        add(ConnectRequest {
            last_zxid_seen,
            ..NEW
        });
    }
    for session_id in [1, -1, i64::MIN, i64::MAX] {
        for read_only in [None, Some(false)] {
            add(ConnectRequest {
                session_id,
                read_only,
                ..NEW
            });
        }
    }
    let whole = encoded(&NEW);
    for length in 0..whole.len() {
        let mut bytes = i32::try_from(length).unwrap().to_be_bytes().to_vec();
        bytes.extend_from_slice(&whole[..length]);
        hellos.push((format!("cut to {length} bytes"), bytes));
    }
    let mut longer = whole;
    longer.extend_from_slice(b"more than there should be");
    let mut bytes = i32::try_from(longer.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend_from_slice(&longer);
    hellos.push(("with more bytes".to_owned(), bytes));
    for length in [-1, i32::MIN, 0x10_0000, 2 << 20, i32::MAX] {
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.extend_from_slice(&[0; 64]);
        hellos.push((format!("length {length}"), bytes));
    }
    hellos
}

/// Says hello; the answer in words, and whether the connection can be used then.
fn greeted(address: SocketAddr, hello: &[u8]) -> String {
    let mut connection = Connection::open(address);
    connection.be_patient_for(SILENCE);
    connection.send_raw(hello);
    let greeting = match connection.greeting() {
        Greeting::Closed => return "closed".to_owned(),
        Greeting::Answer {
            timeout_ms,
            session_id,
            password,
            read_only,
        } => format!(
            "timeout {timeout_ms}, session {}, password of {} bytes ({}), read-only {read_only:?}",
            if session_id == 0 { "none" } else { "new" },
            password.len(),
            if password.iter().all(|&byte| byte == 0) {
                "zeros"
            } else {
                "random"
            },
        ),
    };
    connection.ping();
    let then = match connection.receive() {
        Arrival::Reply(header, _) => format!("reply to {} error {}", header.xid, header.error),
        other => format!("{other:?}"),
    };
    format!("{greeting}, then {then}")
}

#[test]
fn handshakes_are_answered_as_apache_zookeeper_answers_them() {
    let Some(pair) = Pair::start(&Settings::default()) else {
        return;
    };
    let [reference, judged] = pair.addresses();
    let mut differences = Vec::new();
    for (text, bytes) in hellos() {
        let (expected, found) = std::thread::scope(|scope| {
            let found = scope.spawn(|| greeted(judged, &bytes));
            (greeted(reference, &bytes), found.join().unwrap())
        });
        if expected != found {
            differences.push(format!("{text}\n  apache {expected}\n  judged {found}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// A session on a connection of its own.
pub(crate) fn session(address: SocketAddr, timeout_ms: i32) -> (Connection, i64, Vec<u8>) {
    let mut connection = Connection::open(address);
    match connection.greet(&ConnectRequest { timeout_ms, ..NEW }) {
        Greeting::Answer {
            session_id,
            password,
            ..
        } if session_id != 0 => (connection, session_id, password),
        other => panic!("{other:?}"),
    }
}

/// The reply to a request that must succeed; its zxid and body.
pub(crate) fn asked(
    connection: &mut Connection,
    xid: i32,
    op_code: OpCode,
    body: &impl Encode,
) -> (i64, Vec<u8>) {
    connection.request(xid, op_code.code(), &encoded(body));
    match connection.receive() {
        Arrival::Reply(header, body) if (header.xid, header.error) == (xid, 0) => {
            (header.zxid, body)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn connections_of_one_address_are_limited() {
    let settings = Settings {
        connections_max: 3,
        ..Settings::default()
    };
    let Some(pair) = Pair::start(&settings) else {
        return;
    };
    for address in pair.addresses() {
        // The connection that asked whether the server serves may still be counted.
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut held = Vec::new();
        while held.len() < 3 {
            assert!(
                Instant::now() < deadline,
                "only {} at {address}",
                held.len()
            );
            let mut connection = Connection::open(address);
            if matches!(connection.greet(&NEW), Greeting::Answer { .. }) {
                held.push(connection);
            }
        }
        let mut fourth = Connection::open(address);
        assert_eq!(fourth.greet(&NEW), Greeting::Closed);
        held.pop();
        loop {
            assert!(Instant::now() < deadline, "no room again at {address}");
            let mut another = Connection::open(address);
            if matches!(another.greet(&NEW), Greeting::Answer { .. }) {
                break;
            }
        }
    }
}

/// What an expiry does: its ephemeral nodes go in one transaction, watchers are told, and the session is
/// refused from then on. The session lives as long as the timeout says, and not much longer.
#[test]
fn sessions_expire() {
    let settings = Settings {
        tick: Duration::from_millis(500),
        timeouts: (Duration::from_secs(2), Duration::from_secs(20)),
        ..Settings::default()
    };
    let Some(pair) = Pair::start(&settings) else {
        return;
    };
    for address in pair.addresses() {
        let (mut watcher, ..) = session(address, 20_000);
        let watch = AddWatch { path: "/", mode: 1 };
        asked(&mut watcher, 1, OpCode::AddWatch, &watch);
        let (mut mortal, id, password) = session(address, 2_000);
        let mut created = 0;
        for path in ["/a", "/b"] {
            let create = Create {
                path,
                data: None,
                acl: List::new(Acl::OPEN),
                flags: 1,
            };
            (created, _) = asked(&mut mortal, 1, OpCode::Create, &create);
        }
        let last_heard = Instant::now();
        drop(mortal);

        let mut events = Vec::new();
        while events.len() < 4 {
            watcher.be_patient_for(Duration::from_secs(5));
            match watcher.receive() {
                Arrival::Event(_, body) => {
                    let event: WatcherEvent<'_> = Decoder::new(&body).read().unwrap();
                    events.push((EventKind::from_code(event.kind), event.path.to_owned()));
                }
                other => panic!("{other:?} after {events:?} at {address}"),
            }
        }
        let lived = last_heard.elapsed();
        assert!(
            lived > Duration::from_millis(1_900),
            "{lived:?} at {address}"
        );
        events[2..].sort();
        let event = |kind, path: &str| (Some(kind), path.to_owned());
        assert_eq!(
            events,
            [
                event(EventKind::Created, "/a"),
                event(EventKind::Created, "/b"),
                event(EventKind::Deleted, "/a"),
                event(EventKind::Deleted, "/b"),
            ]
        );
        let (zxid, _) = asked(&mut watcher, XID_PING, OpCode::Ping, &());
        assert_eq!(zxid, created + 1, "one transaction, at {address}");
        let mut again = Connection::open(address);
        let greeting = again.greet(&ConnectRequest {
            session_id: id,
            password: Some(&password),
            ..NEW
        });
        assert_eq!(
            greeting,
            Greeting::Answer {
                timeout_ms: 0,
                session_id: 0,
                password: vec![0; PASSWORD_BYTES],
                read_only: Some(false),
            }
        );
        assert_eq!(again.receive(), Arrival::Closed);
    }
}
