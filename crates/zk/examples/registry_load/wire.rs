//! A connection with a session of its own: requests are appended, flushed together and answered in order.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bytes::Bytes;
use livegate_zk::frame::{Frame, FrameReader, append_frame};
use livegate_zk::jute::{Decoder, Encode};
use livegate_zk::proto::error_code::ErrorCode;
use livegate_zk::proto::op_code::{OpCode, XID_NOTIFICATION};
use livegate_zk::proto::session::{ConnectReply, ConnectRequest, ReplyHeader, RequestHeader};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::Failure;

/// Connections from one address; servers take 60 by default (`maxClientCnxns`).
const PER_ADDRESS: usize = 50;

/// A list of a hundred thousand children is under 3 MiB.
const FRAME_BYTES_MAX: usize = 64 << 20;

/// Longer than any run: nobody pings.
const SESSION_TIMEOUT_MS: i32 = 40_000;

/// A reply or an event.
pub(crate) struct Reply {
    pub(crate) is_event: bool,
    pub(crate) error: i32,
    frame: Bytes,
}

impl Reply {
    /// What follows the header.
    pub(crate) fn body(&self) -> Decoder<'_> {
        Decoder::new(&self.frame[ReplyHeader::ENCODED_BYTES..])
    }

    /// Whether it says that all is well.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        match ErrorCode::from_code(self.error) {
            None if self.error == 0 => Ok(()),
            Some(code) => Err(format!("the server answers: {code}").into()),
            None => Err(format!("the server answers: error {}", self.error).into()),
        }
    }
}

pub(crate) struct Connection {
    stream: TcpStream,
    frames: FrameReader,
    outgoing: Vec<u8>,
    /// Of the last request appended.
    xid: i32,
    /// Of the last reply.
    answered: i32,
}

impl Connection {
    /// The connection with this number, attached to a new session.
    pub(crate) async fn open(server: SocketAddr, number: usize) -> Result<Self, Failure> {
        let socket = if server.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        if server.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST) {
            let last =
                u8::try_from(2 + number / PER_ADDRESS).map_err(|_| "too many connections")?;
            socket.bind(SocketAddr::new(Ipv4Addr::new(127, 0, 0, last).into(), 0))?;
        }
        let stream = socket.connect(server).await?;
        stream.set_nodelay(true)?;
        let mut connection = Self {
            stream,
            frames: FrameReader::new(FRAME_BYTES_MAX),
            outgoing: Vec::new(),
            xid: 0,
            answered: 0,
        };
        let request = ConnectRequest {
            protocol_version: 0,
            last_zxid_seen: 0,
            timeout_ms: SESSION_TIMEOUT_MS,
            session_id: 0,
            password: Some(&[0; 16]),
            read_only: Some(false),
        };
        append_frame(&mut connection.outgoing, &request, &());
        connection.flush().await?;
        let frame = connection.frame().await?;
        let reply: ConnectReply<'_> = Decoder::new(&frame).read()?;
        if reply.session_id == 0 {
            return Err("the server makes no session".into());
        }
        Ok(connection)
    }

    /// Appends a request, to be sent with the next flush.
    pub(crate) fn append(&mut self, op_code: OpCode, body: &impl Encode) {
        self.xid += 1;
        let header = RequestHeader {
            xid: self.xid,
            op_code: op_code.code(),
        };
        append_frame(&mut self.outgoing, &header, body);
    }

    pub(crate) async fn flush(&mut self) -> Result<(), Failure> {
        self.stream.write_all(&self.outgoing).await?;
        self.outgoing.clear();
        Ok(())
    }

    /// The next reply or event, if it has arrived.
    pub(crate) fn next_reply(&mut self) -> Result<Option<Reply>, Failure> {
        let Some(frame) = self.next_frame()? else {
            return Ok(None);
        };
        let header: ReplyHeader = Decoder::new(&frame).read()?;
        let is_event = header.xid == XID_NOTIFICATION;
        if !is_event {
            self.answered += 1;
            if header.xid != self.answered {
                return Err(format!("reply {} instead of {}", header.xid, self.answered).into());
            }
        }
        Ok(Some(Reply {
            is_event,
            error: header.error,
            frame,
        }))
    }

    fn next_frame(&mut self) -> Result<Option<Bytes>, Failure> {
        match self.frames.next_frame()? {
            Some(Frame::Whole(frame)) => Ok(Some(frame)),
            Some(Frame::Cut { .. }) => Err("a frame was cut".into()),
            None => Ok(None),
        }
    }

    async fn frame(&mut self) -> Result<Bytes, Failure> {
        loop {
            if let Some(frame) = self.next_frame()? {
                return Ok(frame);
            }
            self.read().await?;
        }
    }

    /// Waits for bytes.
    pub(crate) async fn read(&mut self) -> Result<(), Failure> {
        match self.stream.read_buf(self.frames.space()).await? {
            0 => Err("the server has closed the connection".into()),
            _ => Ok(()),
        }
    }

    /// Waits for the next reply or event.
    pub(crate) async fn reply(&mut self) -> Result<Reply, Failure> {
        loop {
            if let Some(reply) = self.next_reply()? {
                return Ok(reply);
            }
            self.read().await?;
        }
    }

    /// Sends one request and waits for its reply.
    pub(crate) async fn ask(
        &mut self,
        op_code: OpCode,
        body: &impl Encode,
    ) -> Result<Reply, Failure> {
        self.append(op_code, body);
        self.flush().await?;
        self.reply().await
    }
}
