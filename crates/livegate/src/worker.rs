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
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};

use crate::access_log::{AccessLogBuffer, AccessLogHandle};
use crate::control::Gateway;
use crate::metrics::{RouteMetrics, WorkerMetrics};
use crate::proxy;
use crate::proxy::splice::{Pipe, Pipes};
use crate::proxy::upstream::Pools;
use crate::target::Scratch;
use crate::worker::accept::{HANDED_OVER_MAX, HandedOver};

mod accept;
mod listen;

pub use listen::{ListenError, Listeners};

/// How often a worker hands over log lines and looks at the clock.
const TICK: Duration = Duration::from_millis(250);
/// In so many ticks, a second, all pools are swept once.
const TICKS_PER_SWEEP: u32 = 4;
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
    /// How each worker is given connections that another accepted.
    doors: Box<[mpsc::Sender<HandedOver>]>,
    /// The other ends, until their workers start.
    rooms: Mutex<Vec<mpsc::Receiver<HandedOver>>>,
}

impl Shared {
    /// What this many workers share, with all counters at zero.
    pub fn new(
        gateway: Arc<ArcSwap<Gateway>>,
        workers: usize,
        access_log: Option<AccessLogHandle>,
    ) -> Self {
        let (doors, rooms): (Vec<_>, Vec<_>) =
            (0..workers).map(|_| mpsc::channel(HANDED_OVER_MAX)).unzip();
        Self {
            gateway,
            workers: (0..workers).map(|_| WorkerMetrics::default()).collect(),
            unrouted: RouteMetrics::new(workers),
            access_log,
            doors: doors.into(),
            rooms: Mutex::new(rooms),
        }
    }
}

/// What workers are told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
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
        let rooms = std::mem::take(&mut *shared.rooms.lock());
        for (id, (set, room)) in listeners.sets.into_iter().zip(rooms).enumerate() {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build_local(tokio::runtime::LocalOptions::default());
            drop(runtime?);
            let (shared, phase) = (Arc::clone(shared), phase.subscribe());
            let thread = std::thread::Builder::new()
                .name(format!("worker-{id}"))
                .spawn(move || run(id, set, room, shared, phase))?;
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

fn run(
    id: usize,
    listeners: Vec<StdListener>,
    room: mpsc::Receiver<HandedOver>,
    shared: Arc<Shared>,
    phase: watch::Receiver<Phase>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .expect("an event loop could be made a moment ago");
    shared.workers[id].set_runtime(runtime.metrics());
    let worker = Rc::new(Worker::new(id, shared));
    runtime.block_on(work(&worker, listeners, room, phase));
    // Connections that are still open end here.
    drop(runtime);
}

async fn work(
    worker: &Rc<Worker>,
    listeners: Vec<StdListener>,
    room: mpsc::Receiver<HandedOver>,
    mut phase: watch::Receiver<Phase>,
) {
    let helpers = [
        tokio::task::spawn_local(tick(Rc::clone(worker))),
        tokio::task::spawn_local(accept::receive(Rc::clone(worker), room)),
    ];
    let acceptors: Vec<_> = listeners
        .into_iter()
        .map(|listener| {
            tokio::task::spawn_local(accept::accept(Rc::clone(worker), listener, phase.clone()))
        })
        .collect();
    // An error means that the control side is gone: drain as well.
    drop(phase.wait_for(|phase| *phase != Phase::Serve).await);
    worker.stop();
    for acceptor in acceptors {
        if let Err(error) = acceptor.await {
            tracing::error!("accepting connections failed: {error}");
        }
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
    for helper in helpers {
        helper.abort();
    }
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
        let pools = worker.pools.borrow().len();
        let mut left = pools.div_ceil(TICKS_PER_SWEEP as usize);
        while left > 0 {
            let looked = worker.pools.borrow_mut().sweep_some(Instant::now());
            if looked == 0 {
                break;
            }
            left = left.saturating_sub(looked);
            // Requests go first.
            tokio::task::yield_now().await;
        }
        count = count.wrapping_add(1);
        if count.is_multiple_of(TICKS_PER_SWEEP) {
            for cluster in &worker.gateway().clusters {
                cluster.metrics.refill_retries(worker.id);
            }
        }
    }
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

    /// A worker without routes.
    #[cfg(test)]
    pub fn for_test() -> Self {
        let gateway = Gateway {
            revision: 1,
            http: Arc::default(),
            routes: crate::route::RouteTable::new(Vec::new()).expect("no regex, no error"),
            clusters: Vec::new(),
        };
        Self::new(
            0,
            Arc::new(Shared::new(
                Arc::new(ArcSwap::from_pointee(gateway)),
                1,
                None,
            )),
        )
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

    /// Serves a client that [`WorkerMetrics::downstream_connections`] counts already.
    fn serve(self: &Rc<Self>, stream: TcpStream, peer: SocketAddr) {
        self.metrics().accepted.add(1);
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
