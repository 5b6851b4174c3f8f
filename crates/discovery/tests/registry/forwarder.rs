//! A TCP forwarder that can cut, freeze and refuse connections.

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
    /// Closes all connections, also new ones at once.
    Cut,
}

/// Forwards connections to a target until it is dropped.
pub(crate) struct Forwarder {
    pub(crate) address: SocketAddr,
    mode: watch::Sender<Mode>,
    /// The first frame that the target sent on the latest connection.
    first_reply: watch::Receiver<Vec<u8>>,
    _task: JoinSet<()>,
}

impl Forwarder {
    pub(crate) async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (mode, modes) = watch::channel(Mode::Pass);
        let (first, first_reply) = watch::channel(Vec::new());
        let first = Arc::new(first);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let (modes, first) = (modes.clone(), Arc::clone(&first));
                connections.spawn(async move { forward(client, target, modes, &first).await });
                while connections.try_join_next().is_some() {}
            }
        });
        Self {
            address,
            mode,
            first_reply,
            _task: task,
        }
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// The connect reply of the latest connection.
    pub(crate) fn connect_reply(&self) -> Vec<u8> {
        self.first_reply.borrow().clone()
    }
}

async fn forward(
    client: TcpStream,
    target: SocketAddr,
    modes: watch::Receiver<Mode>,
    first: &watch::Sender<Vec<u8>>,
) {
    let mut cut = modes.clone();
    let cut = cut.wait_for(|mode| *mode == Mode::Cut);
    let pass = async {
        let Ok(server) = TcpStream::connect(target).await else {
            return;
        };
        let (client_read, client_write) = client.into_split();
        let (server_read, server_write) = server.into_split();
        tokio::select! {
            () = pump(client_read, server_write, modes.clone(), |_| {}) => {}
            () = pump(server_read, client_write, modes.clone(), {
                let mut seen = false;
                move |bytes| {
                    if !std::mem::replace(&mut seen, true) {
                        first.send_replace(bytes.to_vec());
                    }
                }
            }) => {}
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
    mut modes: watch::Receiver<Mode>,
    mut see: impl FnMut(&[u8]),
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer).await else {
            return;
        };
        if modes.wait_for(|mode| *mode != Mode::Freeze).await.is_err() {
            return;
        }
        see(&buffer[..count]);
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
