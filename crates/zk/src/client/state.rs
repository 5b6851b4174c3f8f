//! What a client tells about its session.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// The session as it is now. Counters only grow, so that comparing two states tells what happened in
/// between, however much that was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionState {
    /// Whether there is a connection.
    pub connection: ConnectionState,
    /// The session; 0 while there is none.
    pub session_id: i64,
    /// The session timeout that the server gave; zero before the first session.
    pub session_timeout: Duration,
    /// How many sessions there have been.
    pub sessions: u64,
    /// How many sessions are over, other than by closing the client.
    pub expirations: u64,
    /// How often a connection was attached to a session, the first time of each session included.
    pub attachments: u64,
    /// Why the last session that is over is over.
    pub expired_because: Option<ExpiryCause>,
}

/// Whether there is a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectionState {
    /// There is one, attached to the session.
    Connected {
        /// The server.
        server: SocketAddr,
    },
    /// There is none, and one is looked for.
    Disconnected {
        /// When the server was last heard from, or when the client started.
        since: Instant,
        /// Why the last connection or the last attempt ended; `None` before the first.
        cause: Option<DisconnectCause>,
    },
    /// The client is closed.
    Closed,
}

/// Why a connection, or an attempt to make one, ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DisconnectCause {
    /// The names of the servers could not be resolved.
    #[error("cannot resolve {0}")]
    Resolve(String),
    /// The network, or TLS, reported an error.
    #[error("{0}")]
    Io(String),
    /// Connecting took too long.
    #[error("{0} does not answer in time")]
    ConnectTimeout(SocketAddr),
    /// The server closed the connection.
    #[error("closed by the server")]
    Closed,
    /// The server closed the connection instead of answering the first request: it is not serving, or
    /// it does not know transactions that this client has seen.
    #[error("{0} closes without an answer: it is not serving, or is behind this client")]
    Refused(SocketAddr),
    /// Nothing was heard from the server for two thirds of the session timeout.
    #[error("the server is silent")]
    Silent,
    /// The server refused an identity.
    #[error("the server refused the credentials for scheme {0}")]
    AuthFailed(String),
    /// The server sent something that makes no sense.
    #[error("protocol error: {0}")]
    Protocol(String),
}

/// Why a session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ExpiryCause {
    /// The server said so.
    #[error("the server expired the session")]
    Server,
    /// No server was heard from for four thirds of the session timeout.
    #[error("no server was heard from for longer than the session timeout")]
    Silence,
    /// Every server refuses clients that have seen transactions as new as this client has, but takes
    /// others: the servers lost their data, or were set back. The next session starts from nothing.
    #[error("the servers are behind what this client has seen; their data was lost or set back")]
    ServersBehind,
}

/// A change of the session. Several changes that follow each other before they are read are one: what
/// counts is where it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionEvent {
    /// The connection is gone; the session may still live. What was read before may be stale from now
    /// on, but nothing is known to have changed.
    Disconnected {
        /// When the server was last heard from.
        since: Instant,
        /// Why.
        cause: Option<DisconnectCause>,
    },
    /// The session is attached again. One-shot watches fire for what changed meanwhile; persistent
    /// watchers are told that there was a gap.
    Reattached,
    /// The session is over, and its ephemeral nodes with it. There is no new one yet.
    Expired {
        /// Why.
        cause: ExpiryCause,
    },
    /// There is a new session: the first, or instead of one that is over. Watches were carried over as
    /// with [`Reattached`](Self::Reattached); ephemeral nodes were not.
    NewSession {
        /// Why the one before is over; `None` for the first.
        cause: Option<ExpiryCause>,
    },
}

/// The stream of [`SessionEvent`]s of a client.
#[derive(Debug)]
pub struct SessionEvents {
    states: watch::Receiver<SessionState>,
    sessions: u64,
    attachments: u64,
    expirations: u64,
    connected: bool,
}

impl SessionEvents {
    /// Events from `seen` on.
    pub(crate) fn after(seen: &SessionState, states: watch::Receiver<SessionState>) -> Self {
        Self {
            states,
            sessions: seen.sessions,
            attachments: seen.attachments,
            expirations: seen.expirations,
            connected: matches!(seen.connection, ConnectionState::Connected { .. }),
        }
    }

    /// The next event; `None` once the client is closed.
    ///
    /// # Cancel safety
    /// Cancelling loses nothing: the event is returned by the next call.
    pub async fn next(&mut self) -> Option<SessionEvent> {
        loop {
            let state = self.states.borrow_and_update().clone();
            if state.connection == ConnectionState::Closed {
                return None;
            }
            if let Some(event) = self.difference(&state) {
                return Some(event);
            }
            self.states.changed().await.ok()?;
        }
    }

    fn difference(&mut self, state: &SessionState) -> Option<SessionEvent> {
        if state.sessions > self.sessions {
            self.sessions = state.sessions;
            self.attachments = state.attachments;
            // Unless that one is over, too.
            self.expirations = self.expirations.max(state.sessions - 1);
            self.connected = true;
            let cause = state.expired_because.filter(|_| state.sessions > 1);
            return Some(SessionEvent::NewSession { cause });
        }
        if state.attachments > self.attachments {
            self.attachments = state.attachments;
            self.connected = true;
            return Some(SessionEvent::Reattached);
        }
        if let ConnectionState::Disconnected { since, cause } = &state.connection
            && self.connected
        {
            self.connected = false;
            return Some(SessionEvent::Disconnected {
                since: *since,
                cause: cause.clone(),
            });
        }
        if state.expirations > self.expirations {
            self.expirations = state.expirations;
            return state
                .expired_because
                .map(|cause| SessionEvent::Expired { cause });
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states() -> (watch::Sender<SessionState>, SessionEvents) {
        let state = SessionState {
            connection: ConnectionState::Disconnected {
                since: Instant::now(),
                cause: None,
            },
            session_id: 0,
            session_timeout: Duration::ZERO,
            sessions: 0,
            expirations: 0,
            attachments: 0,
            expired_because: None,
        };
        let (sender, receiver) = watch::channel(state.clone());
        (sender, SessionEvents::after(&state, receiver))
    }

    fn attach(state: &mut SessionState) {
        state.connection = ConnectionState::Connected {
            server: ([127, 0, 0, 1], 1).into(),
        };
        state.attachments += 1;
    }

    fn new_session(state: &mut SessionState) {
        state.sessions += 1;
        attach(state);
    }

    fn disconnect(state: &mut SessionState) {
        let cause = Some(DisconnectCause::Closed);
        state.connection = ConnectionState::Disconnected {
            since: Instant::now(),
            cause,
        };
    }

    fn expire(state: &mut SessionState) {
        state.expirations += 1;
        state.expired_because = Some(ExpiryCause::Silence);
    }

    /// Events that are there without waiting.
    async fn ready(events: &mut SessionEvents) -> Vec<SessionEvent> {
        let mut found = Vec::new();
        while let Ok(Some(event)) = tokio::time::timeout(Duration::ZERO, events.next()).await {
            found.push(event);
        }
        found
    }

    #[tokio::test]
    async fn each_change_is_an_event() {
        let (states, mut events) = states();
        assert_eq!(ready(&mut events).await, []);
        states.send_modify(new_session);
        assert_eq!(
            ready(&mut events).await,
            [SessionEvent::NewSession { cause: None }]
        );
        states.send_modify(disconnect);
        assert!(matches!(
            ready(&mut events).await[..],
            [SessionEvent::Disconnected { .. }]
        ));
        states.send_modify(attach);
        assert_eq!(ready(&mut events).await, [SessionEvent::Reattached]);
        states.send_modify(disconnect);
        states.send_modify(expire);
        assert!(matches!(
            ready(&mut events).await[..],
            [
                SessionEvent::Disconnected { .. },
                SessionEvent::Expired {
                    cause: ExpiryCause::Silence
                }
            ]
        ));
        states.send_modify(new_session);
        assert_eq!(
            ready(&mut events).await,
            [SessionEvent::NewSession {
                cause: Some(ExpiryCause::Silence)
            }]
        );
        states.send_modify(|state| state.connection = ConnectionState::Closed);
        assert_eq!(events.next().await, None);
    }

    #[tokio::test]
    async fn unread_changes_become_one() {
        let (states, mut events) = states();
        states.send_modify(new_session);
        states.send_modify(disconnect);
        states.send_modify(expire);
        states.send_modify(new_session);
        assert_eq!(
            ready(&mut events).await,
            [SessionEvent::NewSession {
                cause: Some(ExpiryCause::Silence)
            }]
        );
        states.send_modify(disconnect);
        states.send_modify(attach);
        assert_eq!(ready(&mut events).await, [SessionEvent::Reattached]);
        states.send_modify(disconnect);
        states.send_modify(attach);
        states.send_modify(disconnect);
        assert!(matches!(
            ready(&mut events).await[..],
            [SessionEvent::Reattached, SessionEvent::Disconnected { .. }]
        ));
    }

    #[tokio::test]
    async fn an_expiry_after_the_new_session_is_told_too() {
        let (states, mut events) = states();
        states.send_modify(new_session);
        states.send_modify(disconnect);
        states.send_modify(expire);
        assert!(matches!(
            ready(&mut events).await[..],
            [
                SessionEvent::NewSession { .. },
                SessionEvent::Disconnected { .. },
                SessionEvent::Expired { .. }
            ]
        ));
    }
}
