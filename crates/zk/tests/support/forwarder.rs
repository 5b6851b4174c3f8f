//! A TCP forwarder that can cut, freeze and refuse connections, and lose replies.
#![allow(
    dead_code,
    reason = "shared by tests that each need another part of it"
)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

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
    /// Passes everything on, until these bytes are sent to the target: they are passed on, too, and from
    /// then on it is [`Mode::LoseReplies`].
    LoseRepliesFrom(&'static [u8]),
    /// Passes requests on, and throws replies away.
    LoseReplies,
    /// Closes all connections, also new ones at once.
    Cut,
}

/// Forwards connections to a target until it is dropped.
pub(crate) struct Forwarder {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    _task: JoinSet<()>,
}

struct Shared {
    target: SocketAddr,
    mode: watch::Sender<Mode>,
    /// The first frame that the target sent on the latest connection.
    first_reply: watch::Sender<Vec<u8>>,
    /// Connections that were accepted.
    connections: AtomicUsize,
}

impl Forwarder {
    pub(crate) async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            target,
            mode: watch::Sender::new(Mode::Pass),
            first_reply: watch::Sender::new(Vec::new()),
            connections: AtomicUsize::new(0),
        });
        let connected = Arc::clone(&shared);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                connected.connections.fetch_add(1, Ordering::Relaxed);
                let shared = Arc::clone(&connected);
                connections.spawn(async move { forward(client, &shared).await });
                while connections.try_join_next().is_some() {}
            }
        });
        Self {
            address,
            shared,
            _task: task,
        }
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.shared.mode.send_replace(mode);
    }

    /// How many connections there have been, those that were cut at once included.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// The connect reply of the latest connection.
    pub(crate) fn connect_reply(&self) -> Vec<u8> {
        self.shared.first_reply.borrow().clone()
    }
}

async fn forward(client: TcpStream, shared: &Shared) {
    let mut cut = shared.mode.subscribe();
    let cut = cut.wait_for(|mode| *mode == Mode::Cut);
    let pass = async {
        let Ok(server) = TcpStream::connect(shared.target).await else {
            return;
        };
        let (client_read, client_write) = client.into_split();
        let (server_read, server_write) = server.into_split();
        tokio::select! {
            () = pump(client_read, server_write, shared, |request| {
                let mode = *shared.mode.borrow();
                if let Mode::LoseRepliesFrom(bytes) = mode
                    && request.windows(bytes.len()).any(|window| window == bytes)
                {
                    shared.mode.send_replace(Mode::LoseReplies);
                }
                true
            }) => {}
            () = pump(server_read, client_write, shared, {
                let mut seen = false;
                move |reply| {
                    if !std::mem::replace(&mut seen, true) {
                        shared.first_reply.send_replace(reply.to_vec());
                    }
                    *shared.mode.borrow() != Mode::LoseReplies
                }
            }) => {}
        }
    };
    tokio::select! {
        () = pass => {}
        _ = cut => {}
    }
}

/// Passes on what `passes` says may be.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    shared: &Shared,
    mut passes: impl FnMut(&[u8]) -> bool,
) {
    let mut modes = shared.mode.subscribe();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer).await else {
            return;
        };
        if modes.wait_for(|mode| *mode != Mode::Freeze).await.is_err() {
            return;
        }
        if passes(&buffer[..count]) && to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
