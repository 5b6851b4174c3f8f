//! Bytes that no client sends, and clients that take their time: nobody else is to notice.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use livegate_registry::{Options, Server};
use livegate_zk::frame::append_frame;
use livegate_zk::jute::List;
use livegate_zk::proto::acl::Acl;
use livegate_zk::proto::op_code::OpCode;
use livegate_zk::proto::request::{Create, PathWatch};
use livegate_zk::proto::session::RequestHeader;
use rustix::net::sockopt::set_socket_recv_buffer_size;

use crate::apache::ask;
use crate::handshake::{NEW, asked, encoded, framed, session};
use crate::process::Process;
use crate::raw::{Arrival, Connection, Greeting};

/// How long a server may need for what it does at once.
const SOON: Duration = Duration::from_secs(30);

/// How often the well-behaved client is served at least.
const SERVED_MIN: i32 = 20;

/// Longest request.
const LIMIT: usize = (1 << 20) - 1;

fn create(path: &str, data: &[u8]) -> Vec<u8> {
    encoded(&Create {
        path,
        data: Some(data),
        acl: List::new(Acl::OPEN),
        flags: 0,
    })
}

/// A well-behaved client, who is served all the time, until told to stop. Returns how long it waited at
/// most, and how often it was served.
fn behave(address: SocketAddr, stop: &AtomicBool) -> (Duration, i32) {
    let (mut connection, ..) = session(address, 10_000);
    // How long it was is judged at the end.
    connection.be_patient_for(Duration::from_secs(60));
    let (mut longest, mut count) = (Duration::ZERO, 0);
    // An attack of an instant would leave no time to notice anything.
    while !stop.load(Ordering::Relaxed) || count < SERVED_MIN {
        let began = Instant::now();
        count += 1;
        // A sequential node.
        let mut body = create("/behaved-", b"x");
        *body.last_mut().unwrap() = 2;
        connection.request(count, OpCode::Create.code(), &body);
        match connection.receive() {
            Arrival::Reply(header, _) if (header.xid, header.error) == (count, 0) => {}
            other => panic!("{other:?}"),
        }
        longest = longest.max(began.elapsed());
        std::thread::park_timeout(Duration::from_millis(5));
    }
    (longest, count)
}

/// Waits until the server has closed a connection; it may say something before.
fn until_closed(stream: &mut TcpStream, patience: Duration, what: &str) {
    let deadline = Instant::now() + patience;
    stream
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    let mut buffer = [0; 64 * 1024];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
            Err(error) => panic!("{what}: {error}"),
        }
        assert!(Instant::now() < deadline, "{what}: still open");
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_write_timeout(Some(SOON)).unwrap();
    stream
}

/// A connection with a session, whose answer to the hello has not been read.
fn greeted(address: SocketAddr) -> TcpStream {
    let mut stream = connect(address);
    stream.write_all(&framed(&NEW)).unwrap();
    stream
}

/// Runs an attack while somebody else is served, and says what it cost.
fn attack(server: &Process, what: &str, growth_max: usize, run: impl FnOnce(SocketAddr)) {
    let address = server.address();
    let before = server.memory();
    let stop = AtomicBool::new(false);
    let ended = AtomicBool::new(false);
    let ((longest, count), peak) = std::thread::scope(|scope| {
        let behaving = scope.spawn(|| behave(address, &stop));
        let measuring = scope.spawn(|| {
            let mut peak = 0;
            while !ended.load(Ordering::Relaxed) {
                peak = server.memory().max(peak);
                std::thread::park_timeout(Duration::from_millis(10));
            }
            peak
        });
        let attacking = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(address)));
        ended.store(true, Ordering::Relaxed);
        let peak = measuring.join().unwrap();
        stop.store(true, Ordering::Relaxed);
        let behaved = behaving.join().unwrap();
        if let Err(panic) = attacking {
            std::panic::resume_unwind(panic);
        }
        (behaved, peak)
    });
    let grown = peak.saturating_sub(before);
    println!(
        "{what}: {count} served, at most {longest:?}; memory grew by {} KiB",
        grown / 1024
    );
    assert!(longest < Duration::from_secs(10), "{what}: {longest:?}");
    assert!(grown <= growth_max, "{what}: memory grew by {grown} bytes");
}

#[test]
fn nobody_notices_hostile_bytes() {
    const MIB: usize = 1 << 20;
    let directory = tempfile::tempdir().unwrap();
    let server = Process::start(directory.path());
    let (mut writer, ..) = session(server.address(), 10_000);
    asked(
        &mut writer,
        1,
        OpCode::Create,
        &NodeBody("/large", &vec![7; 900_000]),
    );
    drop(writer);
    // What serving anybody takes: code, stacks, buffers that are kept.
    attack(&server, "nothing", 16 * MIB, |_| ());

    attack(&server, "random bytes", 16 * MIB, |address| {
        let mut source = fastrand::Rng::with_seed(7);
        for round in 0..300 {
            let mut stream = if round % 2 == 0 {
                connect(address)
            } else {
                greeted(address)
            };
            let bytes: Vec<u8> = (0..source.usize(1..5000)).map(|_| source.u8(..)).collect();
            // It may be closed before all is sent.
            drop(stream.write_all(&bytes));
        }
    });
    attack(&server, "lengths that cannot be", 16 * MIB, |address| {
        for length in [
            -1,
            i32::MIN,
            i32::MAX,
            0x10_0000,
            i32::from_be_bytes(*b"GET "),
        ] {
            for mut stream in [connect(address), greeted(address)] {
                stream.write_all(&length.to_be_bytes()).unwrap();
                drop(stream.write_all(&[0; 64]));
                until_closed(&mut stream, SOON, &format!("length {length}"));
            }
        }
    });
    attack(&server, "requests cut short", 16 * MIB, |address| {
        let mut whole = Vec::new();
        let header = RequestHeader {
            xid: 1,
            op_code: OpCode::Create.code(),
        };
        append_frame(&mut whole, &header, &NodeBody("/never", b"data"));
        let hello = framed(&NEW);
        for length in 0..hello.len() {
            connect(address).write_all(&hello[..length]).unwrap();
        }
        for length in 0..whole.len() {
            greeted(address).write_all(&whole[..length]).unwrap();
        }
        let (mut looker, ..) = session(address, 10_000);
        looker.request(
            1,
            OpCode::GetData.code(),
            &encoded(&PathWatch {
                path: "/never",
                watch: false,
            }),
        );
        assert!(matches!(looker.receive(), Arrival::Reply(header, _) if header.error == -101));
    });
    attack(&server, "words that are none", 16 * MIB, |address| {
        for word in [
            &b"ruokruokruok"[..],
            b"mntr\n\n\n",
            b"stmk",
            b"stmk\0",
            b"xxxx",
            b"\0\0\0\0",
            b"rt",
        ] {
            for _ in 0..20 {
                let mut stream = connect(address);
                stream.write_all(word).unwrap();
                stream.shutdown(std::net::Shutdown::Write).unwrap();
                until_closed(&mut stream, SOON, "a word that is none");
            }
        }
    });
    attack(&server, "a byte at a time", 16 * MIB, |address| {
        // A hello that takes longer than ten seconds is not waited for.
        let mut streams: Vec<_> = (0..50).map(|_| connect(address)).collect();
        let began = Instant::now();
        for byte in framed(&NEW).iter().take(20) {
            for stream in &mut streams {
                drop(stream.write_all(&[*byte]));
            }
            std::thread::park_timeout(Duration::from_millis(500));
        }
        for stream in &mut streams {
            until_closed(stream, SOON, "a byte at a time");
        }
        assert!(began.elapsed() > Duration::from_secs(9));
    });
    let before = server.memory();
    // Twice what was sent, for a buffer that grows is copied.
    attack(
        &server,
        "half of a long request",
        16 * MIB + 2 * 50 * MIB / 2,
        |address| {
            let mut streams: Vec<_> = (0..50).map(|_| greeted(address)).collect();
            for stream in &mut streams {
                stream
                    .write_all(&i32::try_from(LIMIT).unwrap().to_be_bytes())
                    .unwrap();
                stream.write_all(&vec![0; MIB / 2]).unwrap();
            }
            // They are held: this is about what that takes.
            let deadline = Instant::now() + SOON;
            while server.memory() < before + 50 * MIB / 4 {
                assert!(Instant::now() < deadline, "{} bytes", server.memory());
                std::thread::park_timeout(Duration::from_millis(20));
            }
        },
    );
    // Nothing is answered beyond a MiB that is not read: two replies for each, in a buffer with room.
    attack(
        &server,
        "answers that nobody reads",
        16 * MIB + 30 * 5 * MIB,
        |address| {
            let mut requests = Vec::new();
            for xid in 1..2000 {
                let header = RequestHeader {
                    xid,
                    op_code: OpCode::GetData.code(),
                };
                append_frame(
                    &mut requests,
                    &header,
                    &PathWatch {
                        path: "/large",
                        watch: false,
                    },
                );
            }
            let mut streams: Vec<_> = (0..30).map(|_| greeted(address)).collect();
            for stream in &mut streams {
                // The kernel would take a GiB for them, and then drop what others send.
                set_socket_recv_buffer_size(&*stream, 64 * 1024).unwrap();
                stream.set_nonblocking(true).unwrap();
                drop(stream.write_all(&requests));
            }
            // Who does not read for twenty seconds is cut off.
            let deadline = Instant::now() + Duration::from_secs(60);
            while alive(address) > 3 {
                assert!(
                    Instant::now() < deadline,
                    "{} are still open",
                    alive(address)
                );
                std::thread::park_timeout(Duration::from_millis(200));
            }
        },
    );
    let deadline = Instant::now() + SOON;
    while alive(server.address()) > 1 {
        assert!(Instant::now() < deadline, "connections are left behind");
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

/// A client that closes its session and leaves, with answers still on their way to it: what cannot be sent any more
/// is not tried for ever.
#[test]
fn who_leaves_without_reading_what_was_answered_holds_up_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let server = Process::start(directory.path());
    let (mut writer, ..) = session(server.address(), 10_000);
    let large = NodeBody("/large", &vec![7; 100_000]);
    asked(&mut writer, 1, OpCode::Create, &large);
    drop(writer);
    attack(&server, "hurried goodbyes", 64 << 20, |address| {
        let header = |xid, op_code: OpCode| RequestHeader {
            xid,
            op_code: op_code.code(),
        };
        let body = PathWatch {
            path: "/large",
            watch: false,
        };
        // As many answers as the sockets hold, and some more: it is not known how many those are.
        for count in 1..80 {
            let mut requests = Vec::new();
            for xid in 0..count {
                append_frame(&mut requests, &header(xid, OpCode::GetData), &body);
            }
            append_frame(&mut requests, &header(count, OpCode::CloseSession), &());
            let mut stream = greeted(address);
            set_socket_recv_buffer_size(&stream, 16 * 1024).unwrap();
            stream.write_all(&requests).unwrap();
            stream.peek(&mut [0]).unwrap();
            std::thread::park_timeout(Duration::from_millis(20));
        }
    });
    let deadline = Instant::now() + SOON;
    while alive(server.address()) > 1 {
        assert!(Instant::now() < deadline, "connections are left behind");
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

/// The body of a request that creates a node.
struct NodeBody<'a>(&'a str, &'a [u8]);

impl livegate_zk::jute::Encode for NodeBody<'_> {
    fn encode(&self, output: &mut livegate_zk::jute::Encoder) {
        output.write(&Create {
            path: self.0,
            data: Some(self.1),
            acl: List::new(Acl::OPEN),
            flags: 0,
        });
    }
}

/// Connections that the server has, the asking one included.
fn alive(address: SocketAddr) -> usize {
    let answer = ask(address, "mntr").unwrap();
    let count = answer
        .lines()
        .find_map(|line| line.strip_prefix("zk_num_alive_connections\t"));
    count.unwrap().trim().parse().unwrap()
}

/// A request of the longest length is taken, a longer one ends the connection, and only that.
#[test]
fn longer_requests_than_allowed_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options {
        request_bytes_max: 10_000,
        ..Options::new("127.0.0.1:0".parse().unwrap(), directory.path())
    };
    let server = Server::start(options).unwrap();
    let overhead = 8 + create("/n", b"").len();
    let (mut connection, ..) = session(server.address(), 10_000);
    let (mut other, ..) = session(server.address(), 10_000);
    asked(
        &mut connection,
        1,
        OpCode::Create,
        &NodeBody("/n", &vec![1; 10_000 - overhead]),
    );
    connection.request(
        2,
        OpCode::Create.code(),
        &create("/m", &vec![1; 10_001 - overhead]),
    );
    assert_eq!(connection.receive(), Arrival::Closed);
    asked(&mut other, 1, OpCode::Create, &NodeBody("/m", b""));
}

#[test]
fn connections_beyond_those_of_an_address_are_closed_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options {
        connections_per_address_max: 5,
        ..Options::new("127.0.0.1:0".parse().unwrap(), directory.path())
    };
    let server = Server::start(options).unwrap();
    let mut held: Vec<_> = (0..5).map(|_| session(server.address(), 10_000)).collect();
    for _ in 0..20 {
        assert_eq!(
            Connection::open(server.address()).greet(&NEW),
            Greeting::Closed
        );
    }
    let (first, ..) = &mut held[0];
    asked(first, 1, OpCode::Create, &NodeBody("/n", b""));
    held.pop();
    let deadline = Instant::now() + SOON;
    while Connection::open(server.address()).greet(&NEW) == Greeting::Closed {
        assert!(Instant::now() < deadline, "there is no room again");
    }
}
