//! Workers: one thread, one event loop and one listener each.
//!
//! What belongs to a worker (pools, pipes, log lines) is shared among its connections
//! without locks, for they all run on its thread. Connections are tasks that the worker's
//! runtime owns: when the runtime is dropped, so are they.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use arc_swap::cache::Cache;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::access_log::{AccessLogBuffer, AccessLogHandle};
use crate::control::Gateway;
use crate::metrics::{RouteMetrics, WorkerMetrics};
use crate::proxy;
use crate::proxy::splice::{Pipe, Pipes};
use crate::proxy::upstream::Pools;
use crate::target::Scratch;

/// Connections that the kernel keeps ready for a worker (`somaxconn` bounds it).
const BACKLOG: i32 = 4096;
/// How often a worker hands over log lines and looks at the clock.
const TICK: Duration = Duration::from_millis(250);
/// Ticks between two sweeps of the pools.
const TICKS_PER_SWEEP: u32 = 4;
/// How long a worker that cannot accept waits before it tries again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What all workers and the control side share.
pub struct Shared {
    /// Routes, clusters and limits of the present configuration.
    pub gateway: Arc<ArcSwap<Gateway>>,
    /// One per worker.
    pub workers: Box<[WorkerMetrics]>,
    /// Requests that found no route or could not be read.
    pub unrouted: RouteMetrics,
    /// Where log lines go.
    pub access_log: Option<AccessLogHandle>,
}

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
    sets: Vec<Vec<StdListener>>,
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

/// What workers are told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serve,
    Drain,
    Abandon,
}

/// All running workers.
pub struct Workers {
    phase: watch::Sender<Phase>,
    threads: Vec<JoinHandle<()>>,
    shared: Arc<Shared>,
}

impl Workers {
    /// Starts a thread for each set of listeners.
    ///
    /// # Errors
    ///
    /// A thread or its event loop cannot be made.
    pub fn start(listeners: Listeners, shared: &Arc<Shared>) -> io::Result<Self> {
        let (phase, _) = watch::channel(Phase::Serve);
        let mut threads = Vec::new();
        for (id, set) in listeners.sets.into_iter().enumerate() {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build_local(tokio::runtime::LocalOptions::default());
            drop(runtime?);
            let (shared, phase) = (Arc::clone(shared), phase.subscribe());
            let thread = std::thread::Builder::new()
                .name(format!("worker-{id}"))
                .spawn(move || run(id, set, shared, phase))?;
            threads.push(thread);
        }
        Ok(Self {
            phase,
            threads,
            shared: Arc::clone(shared),
        })
    }

    /// Stops accepting, lets running requests finish until `deadline` and ends the threads.
    /// Returns the number of connections that had to be cut.
    pub fn shut_down(self, deadline: Instant) -> u64 {
        self.phase.send_replace(Phase::Drain);
        let open = || {
            self.shared
                .workers
                .iter()
                .map(|worker| worker.downstream_connections.get())
                .sum::<u64>()
        };
        while Instant::now() < deadline && !self.threads.iter().all(JoinHandle::is_finished) {
            std::thread::park_timeout(Duration::from_millis(10));
        }
        let cut = open();
        self.phase.send_replace(Phase::Abandon);
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a worker panicked");
            }
        }
        cut
    }
}

fn run(id: usize, listeners: Vec<StdListener>, shared: Arc<Shared>, phase: watch::Receiver<Phase>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .expect("an event loop could be made a moment ago");
    shared.workers[id].set_runtime(runtime.metrics());
    let worker = Rc::new(Worker::new(id, shared));
    runtime.block_on(work(&worker, listeners, phase));
    // Connections that are still open end here.
    drop(runtime);
}

async fn work(worker: &Rc<Worker>, listeners: Vec<StdListener>, mut phase: watch::Receiver<Phase>) {
    let ticker = tokio::task::spawn_local(tick(Rc::clone(worker)));
    let acceptors: Vec<_> = listeners
        .into_iter()
        .map(|listener| {
            tokio::task::spawn_local(accept(Rc::clone(worker), listener, phase.clone()))
        })
        .collect();
    // An error means that the control side is gone: drain as well.
    let _: Result<_, _> = phase.wait_for(|phase| *phase != Phase::Serve).await;
    worker.stop();
    for acceptor in acceptors {
        let _: Result<(), _> = acceptor.await;
    }
    let emptied = async {
        while worker.metrics().downstream_connections.get() > 0 {
            worker.left.notified().await;
        }
    };
    tokio::select! {
        () = emptied => {}
        _ = phase.wait_for(|phase| *phase == Phase::Abandon) => {}
    }
    ticker.abort();
}

async fn tick(worker: Rc<Worker>) {
    let mut ticks = tokio::time::interval(TICK);
    let mut count = 0u32;
    loop {
        ticks.tick().await;
        worker.set_date();
        if let Some(log) = worker.log.borrow_mut().as_mut() {
            log.flush();
        }
        count = count.wrapping_add(1);
        if count.is_multiple_of(TICKS_PER_SWEEP) {
            worker.pools.borrow_mut().sweep(Instant::now());
            for cluster in &worker.gateway().clusters {
                cluster.metrics.refill_retries(worker.id);
            }
        }
    }
}

async fn accept(worker: Rc<Worker>, listener: StdListener, mut phase: watch::Receiver<Phase>) {
    let listener = TcpListener::from_std(listener)
        .expect("the listener is non-blocking and the event loop runs");
    let mut failing = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = phase.wait_for(|phase| *phase != Phase::Serve) => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                failing = false;
                worker.serve(stream, peer);
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
        if stream.set_nonblocking(true).is_ok()
            && let Ok(stream) = TcpStream::from_std(stream)
        {
            worker.serve(stream, peer);
        }
    }
}

fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    error.raw_os_error().is_some_and(|code| {
        [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM]
            .iter()
            .any(|errno| errno.raw_os_error() == code)
    })
}

/// One worker, as its connections see it.
pub struct Worker {
    /// Counts from 0; the shard of metrics that this worker writes.
    pub id: usize,
    /// What all workers share.
    pub shared: Arc<Shared>,
    /// Idle connections to instances.
    pub pools: RefCell<Pools>,
    /// For targets that must be rewritten.
    pub scratch: RefCell<Scratch>,
    /// Log lines, when the access log is on.
    pub log: RefCell<Option<AccessLogBuffer>>,
    gateway: RefCell<Cache<Arc<ArcSwap<Gateway>>, Arc<Gateway>>>,
    pipes: RefCell<Pipes>,
    stopping: Cell<bool>,
    date: Cell<[u8; 29]>,
    wakers: RefCell<Wakers>,
    left: tokio::sync::Notify,
}

/// The tasks of open connections, to be woken when the worker stops.
#[derive(Default)]
struct Wakers {
    slots: Vec<Option<Waker>>,
    free: Vec<usize>,
}

impl Worker {
    fn new(id: usize, shared: Arc<Shared>) -> Self {
        let worker = Self {
            id,
            pools: RefCell::default(),
            scratch: RefCell::default(),
            log: RefCell::new(shared.access_log.clone().map(AccessLogBuffer::new)),
            gateway: RefCell::new(Cache::new(Arc::clone(&shared.gateway))),
            pipes: RefCell::default(),
            stopping: Cell::new(false),
            date: Cell::new([0; 29]),
            wakers: RefCell::default(),
            left: tokio::sync::Notify::new(),
            shared,
        };
        worker.set_date();
        worker
    }

    /// The present configuration.
    pub fn gateway(&self) -> Arc<Gateway> {
        Arc::clone(self.gateway.borrow_mut().load())
    }

    /// This worker's own counters.
    pub fn metrics(&self) -> &WorkerMetrics {
        &self.shared.workers[self.id]
    }

    /// True when connections are to end as soon as they can.
    pub fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// The time as an HTTP date (RFC 9110 section 5.6.7), a quarter of a second old at most.
    pub fn date(&self) -> [u8; 29] {
        self.date.get()
    }

    fn set_date(&self) {
        let text = httpdate::fmt_http_date(SystemTime::now());
        if let Ok(date) = text.as_bytes().try_into() {
            self.date.set(date);
        }
    }

    /// A pipe for a long body, if one can be had.
    pub fn take_pipe(self: &Rc<Self>) -> Option<PipeLease> {
        let pipe = self.pipes.borrow_mut().take()?;
        Some(PipeLease {
            pipe: Some(pipe),
            worker: Rc::clone(self),
        })
    }

    fn serve(self: &Rc<Self>, stream: TcpStream, peer: SocketAddr) {
        let metrics = self.metrics();
        metrics.accepted.add(1);
        metrics.downstream_connections.increase();
        drop(tokio::task::spawn_local(proxy::connection::serve(
            stream,
            peer,
            Rc::clone(self),
        )));
    }

    fn stop(&self) {
        self.stopping.set(true);
        for waker in self.wakers.borrow().slots.iter().flatten() {
            waker.wake_by_ref();
        }
    }

    /// Has this task woken when the worker stops, until the guard is dropped.
    pub fn enter(self: &Rc<Self>, waker: Waker) -> Entered {
        let mut wakers = self.wakers.borrow_mut();
        let slot = wakers.free.pop().unwrap_or_else(|| {
            wakers.slots.push(None);
            wakers.slots.len() - 1
        });
        wakers.slots[slot] = Some(waker);
        Entered {
            worker: Rc::clone(self),
            slot,
        }
    }
}

/// An open client connection, as the worker counts it.
pub struct Entered {
    worker: Rc<Worker>,
    slot: usize,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut wakers = self.worker.wakers.borrow_mut();
        wakers.slots[self.slot] = None;
        wakers.free.push(self.slot);
        self.worker.metrics().downstream_connections.decrease();
        if self.worker.is_stopping() {
            self.worker.left.notify_one();
        }
    }
}

/// A pipe that goes back to its worker.
pub struct PipeLease {
    pipe: Option<Pipe>,
    worker: Rc<Worker>,
}

impl Deref for PipeLease {
    type Target = Pipe;

    fn deref(&self) -> &Pipe {
        self.pipe.as_ref().expect("taken only when dropped")
    }
}

impl DerefMut for PipeLease {
    fn deref_mut(&mut self) -> &mut Pipe {
        self.pipe.as_mut().expect("taken only when dropped")
    }
}

impl Drop for PipeLease {
    fn drop(&mut self) {
        if let Some(pipe) = self.pipe.take() {
            self.worker.pipes.borrow_mut().put(pipe);
        }
    }
}
