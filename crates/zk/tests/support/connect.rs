//! How tests connect, and how a session ends while its owner is away.

#![allow(
    dead_code,
    reason = "shared by tests that each need another part of it"
)]

use std::net::SocketAddr;
use std::time::Duration;

use livegate_zk::client::ConnectOptions;
use livegate_zk::frame::{LENGTH_BYTES, append_frame};
use livegate_zk::jute::Decoder;
use livegate_zk::proto::op_code::OpCode;
use livegate_zk::proto::session::{ConnectReply, ConnectRequest, RequestHeader};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Options for a test, with times that also do for a machine with too much to do.
pub(crate) fn options(connect_string: &str) -> ConnectOptions {
    ConnectOptions {
        session_timeout: Duration::from_secs(30),
        operation_timeout: Duration::from_secs(60),
        connect_timeout: Some(Duration::from_secs(2)),
        backoff: (Duration::from_millis(10), Duration::from_millis(200)),
        ..ConnectOptions::new(connect_string).unwrap()
    }
}

/// Ends a session as its owner could, over a connection of its own.
pub(crate) async fn end_session(address: SocketAddr, connect_reply: &[u8]) {
    let reply: ConnectReply<'_> = Decoder::new(&connect_reply[LENGTH_BYTES..]).read().unwrap();
    let mut frames = Vec::new();
    let request = ConnectRequest {
        protocol_version: 0,
        last_zxid_seen: 0,
        timeout_ms: reply.timeout_ms,
        session_id: reply.session_id,
        password: reply.password,
        read_only: Some(false),
    };
    append_frame(&mut frames, &request, &());
    let close = RequestHeader {
        xid: 1,
        op_code: OpCode::CloseSession.code(),
    };
    append_frame(&mut frames, &close, &());
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&frames).await.unwrap();
    stream.read_to_end(&mut Vec::new()).await.unwrap();
}
