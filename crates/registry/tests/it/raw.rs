//! A client that sends what it is told, sense or nonsense, and shows what comes back.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use livegate_zk::frame::{Frame, FrameReader, append_frame};
use livegate_zk::jute::{Decoder, Encode};
use livegate_zk::proto::op_code::{OpCode, XID_NOTIFICATION, XID_PING};
use livegate_zk::proto::session::{ConnectReply, ConnectRequest, ReplyHeader, RequestHeader};

/// How long a server may take for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// The longest answer that is taken.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// What arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// A watch event: header and body.
    Event(ReplyHeader, Vec<u8>),
    /// Anything else after the handshake.
    Reply(ReplyHeader, Vec<u8>),
    /// A frame too short for a header.
    Scrap(Vec<u8>),
    /// The server has closed the connection.
    Closed,
    /// Nothing came.
    Silence,
}

/// What a handshake came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Greeting {
    /// The server's answer.
    Answer {
        timeout_ms: i32,
        session_id: i64,
        password: Vec<u8>,
        read_only: Option<bool>,
    },
    /// None: the server has closed the connection.
    Closed,
}

/// A connection.
pub(crate) struct Connection {
    stream: TcpStream,
    frames: FrameReader,
}

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            frames: FrameReader::new(ANSWER_BYTES_MAX),
        }
    }

    /// Sends bytes as they are. That the server has closed shows when reading.
    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).ok();
    }

    /// Sends a frame.
    pub(crate) fn send(&mut self, header: &impl Encode, body: &impl Encode) {
        let mut bytes = Vec::new();
        append_frame(&mut bytes, header, body);
        self.send_raw(&bytes);
    }

    /// Sends a request whose body is already bytes.
    pub(crate) fn request(&mut self, xid: i32, op_code: i32, body: &[u8]) {
        self.send(&RequestHeader { xid, op_code }, &Verbatim(body));
    }

    pub(crate) fn ping(&mut self) {
        self.request(XID_PING, OpCode::Ping.code(), &[]);
    }

    /// Says hello and reads the answer.
    pub(crate) fn greet(&mut self, hello: &ConnectRequest<'_>) -> Greeting {
        self.send(hello, &());
        self.greeting()
    }

    /// Reads the answer to a hello.
    pub(crate) fn greeting(&mut self) -> Greeting {
        let Ok(Some(frame)) = self.frame() else {
            return Greeting::Closed;
        };
        let mut input = Decoder::new(&frame);
        let reply: ConnectReply<'_> = input.read().unwrap();
        assert_eq!(reply.protocol_version, 0);
        assert_eq!(input.remaining(), [0_u8; 0]);
        Greeting::Answer {
            timeout_ms: reply.timeout_ms,
            session_id: reply.session_id,
            password: reply.password.unwrap_or_default().to_vec(),
            read_only: reply.read_only,
        }
    }

    /// The next frame after the handshake.
    pub(crate) fn receive(&mut self) -> Arrival {
        match self.frame() {
            Err(_) => Arrival::Silence,
            Ok(None) => Arrival::Closed,
            Ok(Some(frame)) => {
                let mut input = Decoder::new(&frame);
                let Ok(header) = input.read::<ReplyHeader>() else {
                    return Arrival::Scrap(frame);
                };
                let body = input.remaining().to_vec();
                if header.xid == XID_NOTIFICATION {
                    Arrival::Event(header, body)
                } else {
                    Arrival::Reply(header, body)
                }
            }
        }
    }

    /// The next frame; `None` when the server has closed, an error when it does nothing.
    fn frame(&mut self) -> Result<Option<Vec<u8>>, Silence> {
        let mut chunk = [0; 16 * 1024];
        loop {
            if let Some(Frame::Whole(frame)) = self.frames.next_frame().unwrap() {
                return Ok(Some(frame.to_vec()));
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => return Ok(None),
                Ok(count) => self.frames.space().extend_from_slice(&chunk[..count]),
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => return Err(Silence),
                    // Closed with something unread, or in the middle of our sending.
                    ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => return Ok(None),
                    other => panic!("{other}"),
                },
            }
        }
    }
}

struct Silence;

struct Verbatim<'a>(&'a [u8]);

impl Encode for Verbatim<'_> {
    fn encode(&self, output: &mut livegate_zk::jute::Encoder) {
        let mut bytes = std::mem::take(output).into_bytes();
        bytes.extend_from_slice(self.0);
        *output = livegate_zk::jute::Encoder::new(bytes);
    }
}
