//! The client: one session with an ensemble, kept alive through whatever happens to connections.
//!
//! A [`Client`] is a handle on a task that owns the session. It connects and connects again by itself,
//! attaches the session to each new connection, replays identities and restores all watches. When the
//! session is over, by the server's word or because no server was heard from for too long, it makes a new
//! one and says so; watches are carried over, ephemeral nodes are gone.
//!
//! Requests of one caller are sent in the order in which they are made and answered in that order; many
//! may be under way at once. When a connection is lost, a request that was not yet written waits for the
//! next one, and a request that was written fails with an [unknown outcome](Outcome::Unknown): the client
//! never sends anything twice.

mod auth;
mod backoff;
mod chroot;
mod command;
mod connector;
mod credentials;
mod driver;
mod error;
mod handshake;
mod keepalive;
mod multi;
mod operations;
mod options;
mod outgoing;
mod restore;
mod send;
mod session;
mod state;
mod ticket;
#[cfg(feature = "tls")]
mod tls;
mod transport;
mod watch_table;
#[cfg(test)]
mod watch_table_tests;
mod watcher;
mod watching;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use command::Command;
use connector::Connector;
use driver::{CloseRequest, Driver};
use session::Session;
use watch_table::WatchTable;
use watcher::Released;

pub use auth::Identity;
pub use chroot::Chroot;
pub use error::{Error, NotSent, Outcome};
pub use multi::{Op, OpOutcome, ReadOp, ReadOutcome};
pub use options::{ConnectOptions, ConnectStringError, Credential, ServerAddress};
pub use state::{
    ConnectionState, DisconnectCause, ExpiryCause, SessionEvent, SessionEvents, SessionState,
};
#[cfg(feature = "tls")]
pub use tls::{TlsError, TlsOptions};
pub use watcher::{Gap, Notification, Watch, WatchEvent, Watcher};

/// A session with an ensemble. Clones share it.
///
/// Dropping the last clone ends the task and the connection at once, but not the session: like after a
/// crash, ephemeral nodes stay until the session times out. [`close`](Self::close) ends the session, too.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
    operation_timeout: Duration,
}

#[derive(Debug)]
struct Shared {
    commands: mpsc::Sender<Command>,
    closing: mpsc::Sender<CloseRequest>,
    /// Bytes of requests that may still be queued.
    bytes: Arc<Semaphore>,
    state: watch::Receiver<SessionState>,
    released: Arc<Released>,
    watches_made: AtomicU64,
    /// Whether an identity was configured, or added and taken.
    is_identified: AtomicBool,
    chroot: Chroot,
    request_bytes_max: usize,
    watch_queue_max: usize,
    /// The task; dropping the set aborts it.
    _task: JoinSet<()>,
}

/// Why [`Client::connect`] gave up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no session within {within:?}: {}", .cause.as_ref().map_or_else(|| "no server answered".to_owned(), ToString::to_string))]
pub struct ConnectError {
    /// How long it tried.
    pub within: Duration,
    /// Why the last attempt failed.
    pub cause: Option<DisconnectCause>,
}

impl Client {
    /// Starts a client, which connects in the background. Operations wait for the connection.
    ///
    /// # Panics
    /// Outside a Tokio runtime with time and I/O enabled.
    #[must_use]
    pub fn start(options: ConnectOptions) -> Self {
        let now = Instant::now();
        let (state, states) = watch::channel(SessionState {
            connection: ConnectionState::Disconnected {
                since: now.into_std(),
                cause: None,
            },
            session_id: 0,
            session_timeout: Duration::ZERO,
            sessions: 0,
            expirations: 0,
            attachments: 0,
            expired_because: None,
        });
        let requests_max = options.requests_max.max(1);
        let (commands, commands_receiver) = mpsc::channel(requests_max);
        let (closing, closing_receiver) = mpsc::channel(1);
        let released = Arc::new(Released::default());
        let connector = Connector::new(&options, fastrand::Rng::new());
        let is_identified = AtomicBool::new(!options.credentials.is_empty());
        let session = Session::new(
            options.session_timeout,
            requests_max,
            options.credentials,
            WatchTable::new(options.chroot.clone()),
            now,
        );
        let driver = Driver {
            session,
            connector,
            commands: commands_receiver,
            closing: closing_receiver,
            released: Arc::clone(&released),
            state,
            reply_bytes_max: options.reply_bytes_max,
            backoff_longest: options.backoff.1,
        };
        let mut task = JoinSet::new();
        task.spawn(driver.run());
        // A semaphore counts with 32 bits at a time.
        let bytes_max = options
            .request_queue_bytes_max
            .max(options.request_bytes_max);
        Self {
            shared: Arc::new(Shared {
                commands,
                closing,
                bytes: Arc::new(Semaphore::new(bytes_max.min(Semaphore::MAX_PERMITS))),
                state: states,
                released,
                watches_made: AtomicU64::new(0),
                is_identified,
                chroot: options.chroot,
                request_bytes_max: options.request_bytes_max,
                watch_queue_max: options.watch_queue_max,
                _task: task,
            }),
            operation_timeout: options.operation_timeout,
        }
    }

    /// Starts a client and waits for its first session, for as long as an operation may take.
    ///
    /// # Errors
    /// When there is no session by then. To go on trying, use [`start`](Self::start).
    ///
    /// # Cancel safety
    /// Cancelling ends the client.
    pub async fn connect(options: ConnectOptions) -> Result<Self, ConnectError> {
        let within = options.operation_timeout;
        let client = Self::start(options);
        let mut states = client.shared.state.clone();
        let connected = states.wait_for(|state| state.sessions > 0);
        match timeout_at(deadline_after(within), connected).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => {
                let cause = match &client.state().connection {
                    ConnectionState::Disconnected { cause, .. } => cause.clone(),
                    ConnectionState::Connected { .. } | ConnectionState::Closed => None,
                };
                return Err(ConnectError { within, cause });
            }
        }
        Ok(client)
    }

    /// The same session, with another limit on how long an operation may take.
    #[must_use]
    pub fn with_operation_timeout(&self, operation_timeout: Duration) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            operation_timeout,
        }
    }

    /// The node that this client sees as its root.
    #[must_use]
    pub fn chroot(&self) -> &Chroot {
        &self.shared.chroot
    }

    /// The session as it is now.
    #[must_use]
    pub fn state(&self) -> SessionState {
        self.shared.state.borrow().clone()
    }

    /// The session as it is from now on: the latest state counts, those between may be missed.
    #[must_use]
    pub fn states(&self) -> watch::Receiver<SessionState> {
        self.shared.state.clone()
    }

    /// What happens to the session from now on.
    #[must_use]
    pub fn session_events(&self) -> SessionEvents {
        let states = self.shared.state.clone();
        let seen = states.borrow().clone();
        SessionEvents::after(&seen, states)
    }

    /// Ends the session: its ephemeral nodes go, and so does the connection. Requests that have been sent
    /// are answered first, those that wait are not sent. Waits as long as an operation may take; without
    /// a connection only the client ends, and the session times out.
    ///
    /// # Cancel safety
    /// Cancelling does not stop the closing.
    pub async fn close(&self) {
        let (request, done) = oneshot::channel();
        // Fails when the client is closed already, or somebody else is closing it: then the state tells.
        drop(self.shared.closing.try_send(request));
        let mut states = self.shared.state.clone();
        let closed = async {
            // An error means that the request was dropped with the task, which is as good.
            let _ = done.await;
            drop(
                states
                    .wait_for(|state| state.connection == ConnectionState::Closed)
                    .await,
            );
        };
        // The server does not answer: the rest is up to the drop.
        let _ = timeout_at(deadline_after(self.operation_timeout), closed).await;
    }
}

/// The end of a span that begins now. A span that is too long to have one ends in a thousand years.
fn deadline_after(span: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(span)
        .unwrap_or_else(|| now + Duration::from_secs(1000 * 365 * 24 * 3600))
}
