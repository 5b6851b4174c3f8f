//! A TCP forwarder that can cut and freeze connections, and lose replies.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What a forwarder does with bytes and connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Passes everything on.
    Pass,
    /// Keeps connections open, accepts new ones, and passes nothing on.
    Freeze,
    /// Passes everything on, until a request has the content of an instance in it: that one is passed on,
    /// too, and from then on replies are lost.
    LoseReplyToContent,
    /// Passes requests on, and throws replies away.
    LoseReplies,
    /// Closes all connections, also new ones at once.
    Cut,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToServer,
    ToClient,
}

/// Forwards connections to a target until it is dropped.
pub(crate) struct Forwarder {
    pub(crate) address: SocketAddr,
    mode: Arc<watch::Sender<Mode>>,
    _task: JoinSet<()>,
}

impl Forwarder {
    pub(crate) async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mode = Arc::new(watch::Sender::new(Mode::Pass));
        let modes = Arc::clone(&mode);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                connections.spawn(forward(client, target, Arc::clone(&modes)));
                while connections.try_join_next().is_some() {}
            }
        });
        Self {
            address,
            mode,
            _task: task,
        }
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

async fn forward(client: TcpStream, target: SocketAddr, modes: Arc<watch::Sender<Mode>>) {
    let mut cut = modes.subscribe();
    let cut = cut.wait_for(|mode| *mode == Mode::Cut);
    let pass = async {
        let Ok(server) = TcpStream::connect(target).await else {
            return;
        };
        let (client_read, client_write) = client.into_split();
        let (server_read, server_write) = server.into_split();
        tokio::select! {
            () = pump(client_read, server_write, &modes, Direction::ToServer) => {}
            () = pump(server_read, client_write, &modes, Direction::ToClient) => {}
        }
    };
    tokio::select! {
        () = pass => {}
        _ = cut => {}
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    modes: &watch::Sender<Mode>,
    direction: Direction,
) {
    let mut buffer = vec![0; 64 * 1024];
    let mut lose = false;
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer).await else {
            return;
        };
        let mut seen = modes.subscribe();
        if seen.wait_for(|mode| *mode != Mode::Freeze).await.is_err() {
            return;
        }
        match (direction, *modes.borrow()) {
            (Direction::ToClient, Mode::LoseReplies) => continue,
            (Direction::ToServer, Mode::LoseReplyToContent) => {
                let content = b"registrationTimeUTC";
                if buffer[..count]
                    .windows(content.len())
                    .any(|bytes| bytes == content)
                {
                    lose = true;
                }
            }
            _ => {}
        }
        if std::mem::take(&mut lose) {
            modes.send_replace(Mode::LoseReplies);
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
