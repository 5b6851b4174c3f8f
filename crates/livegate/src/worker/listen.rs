//! Binding the addresses that clients connect to.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that the kernel keeps ready for a worker (`somaxconn` bounds it).
const BACKLOG: i32 = 4096;
/// Why the gateway cannot listen.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}; {}", advice(.source))]
pub struct ListenError {
    address: SocketAddr,
    source: io::Error,
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another process has this address, choose another in http.listen or end that process"
        }
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need CAP_NET_BIND_SERVICE, choose a higher one in http.listen"
        }
        io::ErrorKind::AddrNotAvailable => "http.listen must name an address of this machine",
        _ => "check http.listen",
    }
}

/// Sockets that are bound and wait for their workers.
pub struct Listeners {
    /// One set per worker.
    pub(super) sets: Vec<Vec<StdListener>>,
    addresses: Vec<SocketAddr>,
}

impl Listeners {
    /// Binds every address once per worker.
    ///
    /// # Errors
    ///
    /// [`ListenError`] for the first address that cannot be bound.
    pub fn bind(addresses: &[SocketAddr], workers: usize) -> Result<Self, ListenError> {
        let mut sets: Vec<Vec<StdListener>> = (0..workers).map(|_| Vec::new()).collect();
        let mut bound = Vec::new();
        for &address in addresses {
            let with_address = |source| ListenError { address, source };
            let mut actual = address;
            // With SO_REUSEPORT the kernel would let a second gateway share the address.
            drop(listen_alone(address).map_err(with_address)?);
            for set in &mut sets {
                let listener = listen(actual).map_err(with_address)?;
                // With port 0 the first worker's choice is everybody's.
                actual = listener.local_addr().map_err(with_address)?;
                set.push(listener);
            }
            bound.push(actual);
        }
        Ok(Self {
            sets,
            addresses: bound,
        })
    }

    /// The addresses, with the ports that were chosen for port 0.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

fn listen_alone(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn listen(address: SocketAddr) -> io::Result<StdListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    // Accepted sockets inherit it, which saves a system call for each.
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
