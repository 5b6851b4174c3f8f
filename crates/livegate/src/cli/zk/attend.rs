//! Waiting for something while session and signals are attended to.

use std::pin::pin;

use livegate_zk::client::{Client, ConnectionState, SessionEvent, SessionEvents};

use crate::cli::signals::Interrupt;

/// What a person or a script is told about the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SessionNews {
    pub(super) kind: SessionKind,
    pub(super) cause: Option<String>,
}

/// What happened to the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SessionKind {
    ConnectionLost,
    ConnectedAgain,
    SessionExpired,
    NewSession,
}

impl SessionKind {
    /// For programs.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::ConnectionLost => "connection_lost",
            Self::ConnectedAgain => "connected_again",
            Self::SessionExpired => "session_expired",
            Self::NewSession => "new_session",
        }
    }

    /// For people.
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::ConnectionLost => "connection lost",
            Self::ConnectedAgain => "connected again",
            Self::SessionExpired => "session expired",
            Self::NewSession => "new session",
        }
    }
}

/// Whoever is told.
pub(super) trait Tell: FnMut(&SessionNews) -> anyhow::Result<()> {}

impl<F: FnMut(&SessionNews) -> anyhow::Result<()>> Tell for F {}

/// Tells what happens to the session, and stops waiting when the process is asked to end.
pub(super) struct Attendant<'a> {
    client: &'a Client,
    events: SessionEvents,
    interrupt: &'a Interrupt,
    /// It was told that the connection is lost, and not yet that there is one.
    lost: bool,
}

impl<'a> Attendant<'a> {
    pub(super) fn new(client: &'a Client, interrupt: &'a Interrupt) -> Self {
        Self {
            client,
            events: client.session_events(),
            interrupt,
            lost: false,
        }
    }

    /// Waits for a future; `None` when the process is asked to end first.
    pub(super) async fn wait<T>(
        &mut self,
        future: impl Future<Output = T>,
        mut tell: impl Tell,
    ) -> anyhow::Result<Option<T>> {
        let mut future = pin!(future);
        loop {
            let event = tokio::select! {
                biased;
                () = self.interrupt.asked() => return Ok(None),
                Some(event) = self.events.next() => event,
                done = &mut future => return Ok(Some(done)),
            };
            for news in self.news(&event) {
                tell(&news)?;
            }
        }
    }

    /// Waits until there is a connection; `None` when the process is asked to end first.
    pub(super) async fn wait_for_connection(
        &mut self,
        tell: impl Tell,
    ) -> anyhow::Result<Option<()>> {
        let mut states = self.client.states();
        let connected = async move {
            // Fails only when the client is closed, which is the end of this process.
            drop(
                states
                    .wait_for(|state| matches!(state.connection, ConnectionState::Connected { .. }))
                    .await,
            );
        };
        self.wait(connected, tell).await
    }

    /// Several changes may come as one event: that the connection was lost is told in any case.
    fn news(&mut self, event: &SessionEvent) -> Vec<SessionNews> {
        let news = |kind, cause| SessionNews { kind, cause };
        let mut told = Vec::new();
        if !std::mem::replace(&mut self.lost, true) {
            let cause = match event {
                SessionEvent::Disconnected { cause, .. } => cause.as_ref().map(ToString::to_string),
                SessionEvent::Reattached
                | SessionEvent::Expired { .. }
                | SessionEvent::NewSession { .. } => None,
            };
            told.push(news(SessionKind::ConnectionLost, cause));
        }
        match event {
            SessionEvent::Disconnected { .. } => {}
            SessionEvent::Reattached => {
                told.push(news(SessionKind::ConnectedAgain, None));
                self.lost = false;
            }
            SessionEvent::Expired { cause } => {
                told.push(news(SessionKind::SessionExpired, Some(cause.to_string())));
            }
            SessionEvent::NewSession { cause } => {
                let cause = cause.map(|cause| cause.to_string());
                told.push(news(SessionKind::NewSession, cause));
                self.lost = false;
            }
        }
        told
    }
}
