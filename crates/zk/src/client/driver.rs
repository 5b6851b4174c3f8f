//! The task that owns the session and the connection: it connects, reads, writes and keeps time.

use std::io::{self, IoSlice};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::command::Command;
use super::connector::{Attempt, Connection, Connector};
use super::error::{Error, NotSent};
use super::session::{Progress, Session};
use super::state::{ConnectionState, DisconnectCause, ExpiryCause, SessionState};
use super::watcher::{Gap, Released};

/// How long a server that counts as silent may take to prove the contrary: as long as the runtime needs to
/// see bytes that arrived while the process did not run.
const SECOND_LOOK: Duration = Duration::from_millis(10);

/// A request to close the client, answered when that is done.
pub(crate) type CloseRequest = oneshot::Sender<()>;

/// Everything the task owns.
#[derive(Debug)]
pub(crate) struct Driver {
    pub(crate) session: Session,
    pub(crate) connector: Connector,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) closing: mpsc::Receiver<CloseRequest>,
    pub(crate) released: Arc<Released>,
    pub(crate) state: watch::Sender<SessionState>,
    pub(crate) reply_bytes_max: usize,
    pub(crate) backoff_longest: Duration,
}

/// Why a connection is no longer served.
enum Ended {
    Lost(DisconnectCause),
    Closed(CloseRequest),
}

impl Driver {
    /// Runs until the client is closed.
    pub(crate) async fn run(mut self) {
        let close = loop {
            let connection = match self.connect().await {
                Ok(connection) => connection,
                Err(close) => break close,
            };
            let server = connection.server;
            let attached_at = Instant::now();
            match self.serve(*connection).await {
                Ended::Closed(close) => break close,
                Ended::Lost(cause) => {
                    tracing::info!(%server, %cause, "registry connection lost");
                    self.session.detached();
                    let was_good = attached_at.elapsed() >= self.backoff_longest;
                    self.connector.lost(server, was_good);
                    self.disconnected(cause);
                }
            }
        };
        self.session.detached();
        self.commands.close();
        while let Ok(command) = self.commands.try_recv() {
            refuse(command);
        }
        drop(self.session);
        self.state.send_modify(|state| {
            state.connection = ConnectionState::Closed;
            state.session_id = 0;
        });
        // Whoever asked may have gone.
        let _ = close.send(());
    }

    /// Looks for a server until one takes the session, or a new one.
    async fn connect(&mut self) -> Result<Box<Connection>, CloseRequest> {
        loop {
            let claim = self.session.claim_session();
            let expires_at = self.session.expires_at();
            // `None` when the session expires first.
            let attempt = {
                let mut attempt = pin!(self.connector.attempt(&claim));
                let mut expiry = pin!(sleep_until(expires_at.unwrap_or_else(Instant::now)));
                loop {
                    tokio::select! {
                        attempt = &mut attempt => break Some(attempt),
                        () = &mut expiry, if expires_at.is_some() => break None,
                        Some(close) = self.closing.recv() => return Err(close),
                        () = self.released.ready.notified() => {
                            self.session.release(self.released.take());
                        }
                    }
                }
            };
            match attempt {
                Some(Attempt::Attached(connection)) => {
                    self.attached(&connection);
                    return Ok(connection);
                }
                Some(Attempt::Expired) => self.expired(ExpiryCause::Server),
                Some(Attempt::ServersBehind) => {
                    self.session.forget_history();
                    self.expired(ExpiryCause::ServersBehind);
                }
                Some(Attempt::Failed(cause)) => {
                    tracing::debug!(%cause, "registry connection attempt failed");
                    self.disconnected(cause);
                }
                None => self.expired(ExpiryCause::Silence),
            }
        }
    }

    fn attached(&mut self, connection: &Connection) {
        let same = self.session.granted().map(|granted| granted.session_id)
            == Some(connection.granted.session_id);
        if !same && self.session.granted().is_some() {
            self.expired(ExpiryCause::Server);
        }
        let gap = if same {
            Gap::Reattached
        } else {
            Gap::NewSession
        };
        self.session
            .attached(connection.granted.clone(), gap, Instant::now());
        let server = connection.server;
        let session_id = connection.granted.session_id;
        if same {
            tracing::info!(%server, session_id = format_args!("{session_id:#x}"), "registry session re-attached");
        } else {
            tracing::info!(%server, session_id = format_args!("{session_id:#x}"), "registry session made");
        }
        self.state.send_modify(|state| {
            state.connection = ConnectionState::Connected { server };
            state.session_id = session_id;
            state.session_timeout = connection.granted.timeout;
            state.sessions += u64::from(!same);
            state.attachments += 1;
        });
    }

    fn disconnected(&self, cause: DisconnectCause) {
        let since = self.session.heard().into_std();
        self.state.send_modify(|state| {
            state.connection = ConnectionState::Disconnected {
                since,
                cause: Some(cause),
            };
        });
    }

    fn expired(&mut self, cause: ExpiryCause) {
        // Without a session there is none to lose: the history alone was given up.
        let had_session = self.session.granted().is_some();
        self.session.expire();
        tracing::warn!(%cause, "registry session is over");
        self.state.send_modify(|state| {
            state.session_id = 0;
            state.expired_because = Some(cause);
            state.expirations += u64::from(had_session);
        });
    }

    /// Serves a connection until it is lost or the client is closed.
    async fn serve(&mut self, connection: Connection) -> Ended {
        let Connection {
            stream, mut frames, ..
        } = connection;
        let (mut reader, mut writer) = tokio::io::split(stream);
        let session = &mut self.session;
        let mut batch = Vec::new();
        let mut close: Option<CloseRequest> = None;
        let mut flushed = true;
        loop {
            // What arrived together with the connect reply is here already.
            loop {
                match frames.next_frame() {
                    Ok(None) => break,
                    Ok(Some(frame)) => {
                        match session.frame_arrived(frame, self.reply_bytes_max, Instant::now()) {
                            Ok(Progress::Continue) => {}
                            Ok(Progress::SessionClosed) => match close {
                                Some(close) => return Ended::Closed(close),
                                None => return Ended::Lost(DisconnectCause::Closed),
                            },
                            Err(cause) => return ended(close, cause),
                        }
                    }
                    Err(error) => {
                        return ended(close, DisconnectCause::Protocol(error.to_string()));
                    }
                }
            }
            // Claiming may drop requests whose callers have gone, and so make room.
            let claimed = session.claim();
            let room = session.room();
            let timer = session.next_timer();
            let slices = session.slices(claimed);
            let woken = tokio::select! {
                read = read_some(&mut reader, &mut frames) => Woken::Read(read),
                written = write_some(&mut writer, &slices[..claimed]), if claimed > 0 || !flushed => {
                    Woken::Written(written)
                }
                _ = self.commands.recv_many(&mut batch, room), if room > 0 && close.is_none() => {
                    Woken::Commands
                }
                Some(request) = self.closing.recv(), if close.is_none() => Woken::Close(request),
                () = self.released.ready.notified() => Woken::Released,
                () = sleep_until(timer) => Woken::Timer,
            };
            let now = Instant::now();
            match woken {
                Woken::Read(Ok(0)) => return ended(close, DisconnectCause::Closed),
                Woken::Read(Ok(_)) => session.bytes_arrived(now),
                Woken::Read(Err(error)) | Woken::Written(Err(error)) => {
                    return ended(close, DisconnectCause::Io(error.to_string()));
                }
                Woken::Written(Ok(bytes)) => {
                    flushed = claimed == 0;
                    session.written(bytes, now);
                }
                Woken::Commands => batch.drain(..).for_each(|command| session.admit(command)),
                Woken::Close(request) => {
                    close = Some(request);
                    session.close();
                }
                Woken::Released => session.release(self.released.take()),
                Woken::Timer => {
                    if let Err(cause) = session.timer(now) {
                        // Was the server silent, or this process stalled? Then there is something to read.
                        let reading = read_some(&mut reader, &mut frames);
                        match timeout(SECOND_LOOK, reading).await {
                            Ok(Ok(1..)) => session.bytes_arrived(Instant::now()),
                            Ok(_) | Err(_) => return ended(close, cause),
                        }
                    }
                }
            }
        }
    }
}

enum Woken {
    Read(io::Result<usize>),
    Written(io::Result<usize>),
    Commands,
    Close(CloseRequest),
    Released,
    Timer,
}

/// How the end of a connection counts: after the session was asked to close, as that.
fn ended(close: Option<CloseRequest>, cause: DisconnectCause) -> Ended {
    close.map_or(Ended::Lost(cause), Ended::Closed)
}

async fn read_some(
    reader: &mut (impl AsyncRead + Unpin),
    frames: &mut crate::frame::FrameReader,
) -> io::Result<usize> {
    reader.read_buf(frames.space()).await
}

/// Writes some bytes, or flushes when there are none.
async fn write_some(
    writer: &mut (impl AsyncWrite + Unpin),
    slices: &[IoSlice<'_>],
) -> io::Result<usize> {
    if slices.is_empty() {
        writer.flush().await?;
        return Ok(0);
    }
    match writer.write_vectored(slices).await? {
        0 => Err(io::ErrorKind::WriteZero.into()),
        bytes => Ok(bytes),
    }
}

/// Tells a caller that the client is closed.
fn refuse(command: Command) {
    let error = Error::NotSent(NotSent::Closed);
    // Callers who have gone do not need the answer.
    match command {
        Command::Request(request) => {
            drop(request.reply.send(Err(error)));
        }
        Command::AddCredential { reply, .. } | Command::RemoveWatches { reply, .. } => {
            let _ = reply.send(Err(error));
        }
    }
}
