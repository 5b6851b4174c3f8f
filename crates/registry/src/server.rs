//! The server: one thread that owns everything, and tasks on it that wait.
//!
//! Tasks hold the [`Core`] by `Rc<RefCell<_>>` and borrow it for one turn at a time, never across an await:
//! that is all the synchronisation there is. Only the disk has threads of its own.

mod connection;
mod core;
mod four_letter;
mod latency;
mod outbox;

use std::cell::RefCell;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{MissedTickBehavior, interval, sleep};

use self::core::{Core, RECORD_OVERHEAD_BYTES};
use crate::machine::{Machine, Restorer, SECRET_BYTES, Settings};
use crate::options::Options;
use crate::store::{Durability, Recovered, SnapshotWriter, Store, StoreError, StoreOptions};

/// A running registry. Dropping it stops it.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stopping: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

/// Why a registry does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The data directory cannot be used.
    #[error("cannot use the data directory {}: {reason}", .directory.display())]
    DataDirectory {
        /// The directory.
        directory: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
    /// The system gives no thread, or no randomness.
    #[error("cannot start the registry: {0}")]
    System(io::Error),
}

/// Bytes of a snapshot that are made in one turn: some hundred microseconds.
const SNAPSHOT_PIECE_BYTES: usize = 64 * 1024;
/// After `accept` failed, most likely for want of descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

impl Server {
    /// Restores what the data directory holds and starts to serve, on a thread of its own.
    ///
    /// # Errors
    /// When the address is taken, the directory cannot be used, or what is in it is damaged; each says what
    /// to do.
    pub fn start(options: Options) -> Result<Self, StartError> {
        let listen_error = |source| StartError::Listen {
            address: options.listen,
            source,
        };
        let listener = StdListener::bind(options.listen).map_err(listen_error)?;
        listener.set_nonblocking(true).map_err(listen_error)?;
        let address = listener.local_addr().map_err(listen_error)?;
        let (machine, store) = restore(&options)?;
        let mut secret = [0; SECRET_BYTES];
        getrandom::fill(&mut secret)
            .map_err(|error| StartError::System(io::Error::other(error)))?;
        let stopping = Arc::new(Notify::new());
        let stop = Arc::clone(&stopping);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(StartError::System)?;
        let thread = std::thread::Builder::new()
            .name("registry".to_owned())
            .spawn(move || {
                let mut core = Core::new(options, address, machine, store);
                core.begin(secret);
                LocalSet::new().block_on(&runtime, run(core, listener, stop));
            })
            .map_err(StartError::System)?;
        Ok(Self {
            address,
            stopping,
            thread: Some(thread),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops it: what was acknowledged is on disk already, and the rest is written. Sessions live on in the
    /// data directory. Waits until that is done.
    pub fn stop(self) {
        drop(self);
    }

    /// Whether it serves; false when something has gone wrong that nobody foresaw.
    pub fn is_running(&self) -> bool {
        self.thread
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopping.notify_one();
        if let Some(thread) = self.thread.take() {
            // It has told of its panic on standard error.
            drop(thread.join());
        }
    }
}

/// The machine that the data directory holds.
fn restore(options: &Options) -> Result<(Machine, Store), StartError> {
    /// A snapshot comes before the records.
    enum Stage {
        Snapshot(Box<Restorer>),
        Log(Box<Machine>),
        /// An error took it.
        Gone,
    }
    impl Stage {
        fn into_machine(self) -> Result<Box<Machine>, String> {
            match self {
                Self::Snapshot(restorer) => restorer
                    .finish()
                    .map(Box::new)
                    .map_err(|error| error.to_string()),
                Self::Log(machine) => Ok(machine),
                Self::Gone => Err("what is in it was not understood".to_owned()),
            }
        }
    }
    let settings = Settings {
        tick_ms: u64::try_from(options.tick_time.as_millis())
            .unwrap_or(u64::MAX)
            .max(1),
        session_timeout_ms: options.session_timeouts_ms(),
        super_digest: options.super_digest.clone(),
    };
    let directory_error = |reason| StartError::DataDirectory {
        directory: options.data_dir.clone(),
        reason,
    };
    let mut stage = Stage::Snapshot(Box::new(Restorer::new(settings)));
    let replay = |recovered: Recovered<'_>| match recovered {
        Recovered::Piece(piece) => match &mut stage {
            Stage::Snapshot(restorer) => restorer.piece(piece).map_err(|error| error.to_string()),
            Stage::Log(_) | Stage::Gone => Err("a snapshot in the middle of the log".to_owned()),
        },
        Recovered::Record(_, record) => {
            let mut machine = std::mem::replace(&mut stage, Stage::Gone).into_machine()?;
            machine
                .restore_record(record)
                .map_err(|error| error.to_string())?;
            stage = Stage::Log(machine);
            Ok(())
        }
    };
    let mut store_options = StoreOptions::new(&options.data_dir);
    // No record is much longer than the request that it comes from.
    store_options.record_bytes_max = options.request_bytes_max + RECORD_OVERHEAD_BYTES;
    let store = Store::open(store_options, replay)
        .map_err(|error: StoreError| directory_error(error.to_string()))?;
    let machine = stage.into_machine().map_err(directory_error)?;
    Ok((*machine, store))
}

/// Runs until it is to stop.
async fn run(core: Core, listener: StdListener, stop: Arc<Notify>) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!("the registry cannot serve: {error}");
            return;
        }
    };
    let (tick, reap) = (core.options.tick_time, core.options.reap_interval);
    let durability = core.store.durability();
    let core = Rc::new(RefCell::new(core));
    let mut tasks = JoinSet::new();
    tasks.spawn_local(release_what_is_durable(Rc::clone(&core), durability));
    tasks.spawn_local(end_sessions(Rc::clone(&core), tick));
    tasks.spawn_local(reap_nodes(Rc::clone(&core), reap));
    tasks.spawn_local(take_snapshots(Rc::clone(&core)));
    tasks.spawn_local(accept(Rc::clone(&core), listener));
    stop.notified().await;
    tasks.shutdown().await;
}

async fn release_what_is_durable(core: Rc<RefCell<Core>>, durability: Durability) {
    let mut seen = core.borrow().store.durable();
    core.borrow_mut().on_durable(seen);
    loop {
        seen = durability.changed(seen).await;
        core.borrow_mut().on_durable(seen);
    }
}

async fn end_sessions(core: Rc<RefCell<Core>>, tick: Duration) {
    let step = (tick / 4).clamp(Duration::from_millis(5), Duration::from_millis(500));
    let mut steps = interval(step);
    steps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        steps.tick().await;
        core.borrow_mut().tick();
    }
}

async fn reap_nodes(core: Rc<RefCell<Core>>, every: Duration) {
    loop {
        sleep(every).await;
        while core.borrow_mut().reap() {
            tokio::task::yield_now().await;
        }
    }
}

async fn take_snapshots(core: Rc<RefCell<Core>>) {
    const LOOK: Duration = Duration::from_millis(500);
    loop {
        sleep(LOOK).await;
        let begun = {
            let mut core = core.borrow_mut();
            let core = &mut *core;
            if core.store.wants_snapshot() {
                let now = core.now();
                let writer = core.store.begin_snapshot();
                writer.map(|writer| (writer, core.machine.begin_snapshot(now)))
            } else {
                None
            }
        };
        if let Some((writer, head)) = begun {
            write_snapshot(&core, writer, head).await;
        }
    }
}

/// Writes what the tree was when the snapshot began, a piece a turn.
async fn write_snapshot(core: &RefCell<Core>, mut writer: SnapshotWriter, head: Vec<u8>) {
    let began = std::time::Instant::now();
    let mut piece = head;
    let mut is_more = true;
    loop {
        while writer.try_write(&piece).is_err() {
            if writer.is_closed() {
                core.borrow_mut().machine.abandon_snapshot();
                return;
            }
            writer.ready().await;
        }
        if !is_more {
            break;
        }
        piece.clear();
        is_more = core
            .borrow_mut()
            .machine
            .write_snapshot(&mut piece, SNAPSHOT_PIECE_BYTES);
        tokio::task::yield_now().await;
    }
    let mut core = core.borrow_mut();
    core.machine.abandon_snapshot();
    core.store.finish_snapshot(writer);
    tracing::info!("snapshot given to the disk after {:?}", began.elapsed());
}

async fn accept(core: Rc<RefCell<Core>>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, address)) => {
                    // Best effort: without it answers are only later.
                    drop(stream.set_nodelay(true));
                    let (incoming, outgoing) = stream.into_split();
                    let connection = core.borrow_mut().accept(outgoing, address);
                    if let Some(connection) = connection {
                        let core = Rc::clone(&core);
                        connections.spawn_local(connection::serve(core, connection, incoming));
                    }
                }
                Err(error) => {
                    tracing::warn!("cannot accept a connection: {error}");
                    sleep(ACCEPT_RETRY).await;
                }
            },
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended && error.is_panic() {
                    tracing::error!("a connection has failed: {error}");
                }
            }
        }
    }
}

/// Milliseconds since 1970.
fn millis_since_1970(time: SystemTime) -> u128 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis())
}
