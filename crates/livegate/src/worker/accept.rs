//! Accepting connections, and giving some of them to workers that have fewer.
//!
//! The kernel spreads connections over the workers' listeners by hash, which is uneven
//! when they are few: eight of them over two workers are split 4:4 in one case of four.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::rc::Rc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

use super::{Phase, Worker};

/// A connection on its way to another worker.
pub(super) type HandedOver = (std::net::TcpStream, SocketAddr);

/// Connections that may be on their way to one worker.
pub(super) const HANDED_OVER_MAX: usize = 256;
/// How long a worker that cannot accept waits before it tries again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

pub(super) async fn accept(
    worker: Rc<Worker>,
    listener: StdListener,
    mut phase: watch::Receiver<Phase>,
) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!("a worker cannot listen: {error}");
            return;
        }
    };
    let mut failing = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = phase.wait_for(|phase| *phase != Phase::Serve) => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                failing = false;
                place(&worker, stream, peer);
            }
            Err(error) if is_shortage(&error) => {
                if !failing {
                    tracing::error!(
                        "cannot accept connections: {error}; they wait until others end (raise the limit of open files, ulimit -n)"
                    );
                }
                failing = true;
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            // The client left before it was accepted.
            Err(_) => {}
        }
    }
    // Clients that the kernel has let in already are served, too.
    let Ok(listener) = listener.into_std() else {
        return;
    };
    while let Ok((stream, peer)) = listener.accept() {
        worker.metrics().downstream_connections.increase();
        take_in(&worker, stream, peer);
    }
}

/// Serves connections that other workers have accepted.
pub(super) async fn receive(worker: Rc<Worker>, mut room: mpsc::Receiver<HandedOver>) {
    while let Some((stream, peer)) = room.recv().await {
        take_in(&worker, stream, peer);
    }
}

/// Serves a connection that is counted already and new to this worker's event loop.
fn take_in(worker: &Rc<Worker>, stream: std::net::TcpStream, peer: SocketAddr) {
    match stream
        .set_nonblocking(true)
        .and_then(|()| TcpStream::from_std(stream))
    {
        Ok(stream) => worker.serve(stream, peer),
        Err(error) => {
            tracing::warn!("a connection is lost: {error}");
            worker.metrics().downstream_connections.decrease();
        }
    }
}

/// Serves a new connection here, or has it served where there are clearly fewer.
fn place(worker: &Rc<Worker>, stream: TcpStream, peer: SocketAddr) {
    let all = &worker.shared.workers;
    let own = worker.metrics().downstream_connections.get();
    let least = (0..all.len()).min_by_key(|&other| all[other].downstream_connections.get());
    if let Some(other) = least.filter(|&other| other != worker.id)
        && own > all[other].downstream_connections.get() * 5 / 4
        && let Ok(permit) = worker.shared.doors[other].try_reserve()
    {
        all[other].downstream_connections.increase();
        match stream.into_std() {
            Ok(stream) => permit.send((stream, peer)),
            Err(_) => all[other].downstream_connections.decrease(),
        }
        return;
    }
    worker.metrics().downstream_connections.increase();
    worker.serve(stream, peer);
}

fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let shortages = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    error
        .raw_os_error()
        .is_some_and(|code| shortages.iter().any(|errno| errno.raw_os_error() == code))
}
