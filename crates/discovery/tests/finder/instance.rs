//! Instances under a test's control: each answers every line with its address.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A running instance. Dropping it kills it: connections break, and new ones are refused.
pub(crate) struct Instance {
    pub(crate) address: SocketAddr,
    frozen: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Instance {
    pub(crate) async fn start() -> Self {
        Self::at(SocketAddr::from((host(), 0))).await
    }

    pub(crate) async fn at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (frozen, is_frozen) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, is_frozen));
        Self {
            address,
            frozen,
            tasks,
        }
    }

    /// Nobody listens there any more when this returns.
    pub(crate) async fn kill(mut self) -> SocketAddr {
        self.tasks.shutdown().await;
        self.address
    }

    /// It accepts connections, as the kernel does for a process that stands still, and does nothing else.
    pub(crate) fn freeze(&self, is_frozen: bool) {
        self.frozen.send_replace(is_frozen);
    }
}

/// An address of this host that nothing else uses, and from which no connection is made: its ports are given to
/// nobody else while an instance is restarted.
fn host() -> Ipv4Addr {
    static HOSTS: AtomicU16 = AtomicU16::new(1);
    let [high, low] = HOSTS.fetch_add(1, Relaxed).to_be_bytes();
    Ipv4Addr::new(127, 77, high, low)
}

async fn accept(listener: TcpListener, is_frozen: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        connections.spawn(serve(stream, is_frozen.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(mut stream: TcpStream, mut is_frozen: watch::Receiver<bool>) {
    let answer = format!("{}\n", stream.local_addr().unwrap());
    loop {
        if is_frozen.wait_for(|is_frozen| !is_frozen).await.is_err() {
            return;
        }
        if stream.read_u8().await.is_err() {
            return;
        }
        if is_frozen.wait_for(|is_frozen| !is_frozen).await.is_err()
            || stream.write_all(answer.as_bytes()).await.is_err()
        {
            return;
        }
    }
}

/// One exchange, over a connection of its own; the answer.
pub(crate) async fn exchange(address: SocketAddr, patience: Duration) -> std::io::Result<String> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"\n").await?;
        let mut answer = String::new();
        while !answer.ends_with('\n') {
            answer.push(char::from(stream.read_u8().await?));
        }
        Ok(answer.trim_end().to_owned())
    };
    match tokio::time::timeout(patience, exchange).await {
        Ok(result) => result,
        Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
    }
}
