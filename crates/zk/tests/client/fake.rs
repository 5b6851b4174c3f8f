//! A server that does what a test says, frame by frame.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use livegate_zk::client::ConnectOptions;
use livegate_zk::frame::{Frame, FrameReader, LENGTH_BYTES, append_frame};
use livegate_zk::jute::{Decoder, Encode};
use livegate_zk::proto::op_code::{OpCode, XID_NOTIFICATION};
use livegate_zk::proto::session::{ConnectReply, ConnectRequest, ReplyHeader, RequestHeader};
use livegate_zk::proto::watch::{EventKind, STATE_SYNC_CONNECTED, WatcherEvent};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::connect;

/// A port that a test answers for.
pub(crate) struct Fake {
    listener: TcpListener,
}

impl Fake {
    pub(crate) async fn start() -> Self {
        Self {
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    pub(crate) fn options(&self) -> ConnectOptions {
        connect::options(&self.address().to_string())
    }

    /// The next connection.
    pub(crate) async fn accept(&self) -> Peer {
        let accepted = within(self.listener.accept()).await;
        Peer {
            stream: accepted.unwrap().0,
            frames: FrameReader::new(1 << 24),
        }
    }

    /// The next connection, attached to this session.
    pub(crate) async fn attach(&self, session_id: i64, timeout: Duration) -> (Peer, Connect) {
        let mut peer = self.accept().await;
        let connect = peer.connect_request().await;
        peer.grant(session_id, timeout).await;
        (peer, connect)
    }
}

/// What a client presents itself with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Connect {
    pub(crate) session_id: i64,
    pub(crate) password: Vec<u8>,
    pub(crate) last_zxid: i64,
    pub(crate) timeout_ms: i32,
}

/// A request, apart from what its body means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) xid: i32,
    pub(crate) op_code: OpCode,
    pub(crate) body: Bytes,
}

/// The server's end of a connection.
pub(crate) struct Peer {
    pub(crate) stream: TcpStream,
    frames: FrameReader,
}

impl Peer {
    /// The next frame, or `None` when the client has closed.
    pub(crate) async fn frame(&mut self) -> Option<Bytes> {
        loop {
            match self.frames.next_frame().unwrap() {
                Some(Frame::Whole(frame)) => return Some(frame),
                Some(Frame::Cut { .. }) => unreachable!("this reader does not cut"),
                None => {}
            }
            if !matches!(
                within(self.stream.read_buf(self.frames.space())).await,
                Ok(1..)
            ) {
                return None;
            }
        }
    }

    pub(crate) async fn connect_request(&mut self) -> Connect {
        self.try_connect_request()
            .await
            .expect("the client gave up connecting")
    }

    /// What the client presents, or `None` if it has given up this attempt.
    pub(crate) async fn try_connect_request(&mut self) -> Option<Connect> {
        let frame = self.frame().await?;
        let request: ConnectRequest<'_> = Decoder::new(&frame).read().unwrap();
        Some(Connect {
            session_id: request.session_id,
            password: request.password.unwrap().to_vec(),
            last_zxid: request.last_zxid_seen,
            timeout_ms: request.timeout_ms,
        })
    }

    pub(crate) async fn grant(&mut self, session_id: i64, timeout: Duration) {
        self.connect_reply(&ConnectReply {
            protocol_version: 0,
            timeout_ms: i32::try_from(timeout.as_millis()).unwrap(),
            session_id,
            password: Some(&[7; 16]),
            read_only: Some(false),
        })
        .await;
    }

    pub(crate) async fn connect_reply(&mut self, reply: &ConnectReply<'_>) {
        let mut frame = Vec::new();
        append_frame(&mut frame, reply, &());
        self.stream.write_all(&frame).await.unwrap();
    }

    /// The next request that is not a ping; pings are answered.
    pub(crate) async fn request(&mut self) -> Asked {
        loop {
            let asked = self.anything().await.expect("the client closed");
            if asked.op_code != OpCode::Ping {
                return asked;
            }
            self.reply(asked.xid, 0, 0, &()).await;
        }
    }

    /// The next request, ping or not; `None` when the client has closed.
    pub(crate) async fn anything(&mut self) -> Option<Asked> {
        let frame = self.frame().await?;
        let mut input = Decoder::new(&frame);
        let header: RequestHeader = input.read().unwrap();
        let body = frame.slice_ref(input.remaining());
        Some(Asked {
            xid: header.xid,
            op_code: OpCode::from_code(header.op_code).unwrap(),
            body,
        })
    }

    /// The next request, which must be this one; returns its xid and body.
    pub(crate) async fn expect(&mut self, op_code: OpCode) -> Asked {
        let asked = self.request().await;
        assert_eq!(asked.op_code, op_code);
        asked
    }

    pub(crate) async fn reply(&mut self, xid: i32, zxid: i64, error: i32, body: &impl Encode) {
        let mut frame = Vec::new();
        append_frame(&mut frame, &ReplyHeader { xid, zxid, error }, body);
        // A client that has closed meanwhile is part of some tests.
        drop(self.stream.write_all(&frame).await);
    }

    pub(crate) async fn event(&mut self, kind: EventKind, path: &str) {
        let header = ReplyHeader {
            xid: XID_NOTIFICATION,
            zxid: -1,
            error: 0,
        };
        let event = WatcherEvent {
            kind: kind.code(),
            state: STATE_SYNC_CONNECTED,
            path,
        };
        let mut frame = Vec::new();
        append_frame(&mut frame, &header, &event);
        self.stream.write_all(&frame).await.unwrap();
    }

    /// Sends bytes that need not be a frame.
    pub(crate) async fn raw(&mut self, bytes: &[u8]) {
        drop(self.stream.write_all(bytes).await);
    }

    /// Sends the length of a frame.
    pub(crate) async fn raw_length(&mut self, length: i32) {
        const { assert!(LENGTH_BYTES == 4) };
        self.raw(&length.to_be_bytes()).await;
    }
}

/// Fails a test that waits for ever.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(90), future)
        .await
        .expect("nothing happens")
}
