//! Whether what is known is what the registry says now.

use std::time::{Instant, SystemTime};

use livegate_zk::client::{ConnectionState, SessionState};

use crate::snapshot::{Snapshot, Status};

/// Follows the session. What is known is current while the connection is the one over which everything
/// was compared last.
#[derive(Debug)]
pub(super) struct Contact {
    is_connected: bool,
    /// The present attachment of the session.
    attachment: u64,
    /// The attachment at which everything was compared last; 0 if never.
    compared: u64,
    /// When contact was lost; set whenever what is known is not current.
    lost: Option<SystemTime>,
}

impl Contact {
    /// Nothing is known but what was saved.
    pub(super) fn new(saved: Option<&Snapshot>) -> Self {
        let lost = saved.map(|saved| match saved.status {
            Status::Stale { since } => since,
            Status::Pending | Status::Live | Status::Absent => SystemTime::now(),
        });
        Self {
            is_connected: false,
            attachment: 0,
            compared: 0,
            lost,
        }
    }

    /// The session's state, as seen now.
    pub(super) fn session(&mut self, state: &SessionState, now: Instant, wall: SystemTime) {
        let was_current = self.is_current();
        self.attachment = state.attachments;
        let heard = match &state.connection {
            ConnectionState::Connected { .. } => {
                self.is_connected = true;
                now
            }
            ConnectionState::Disconnected { since, .. } => {
                self.is_connected = false;
                *since
            }
            ConnectionState::Closed => {
                self.is_connected = false;
                now
            }
        };
        if was_current && !self.is_current() {
            let ago = now.saturating_duration_since(heard);
            self.lost = Some(wall.checked_sub(ago).unwrap_or(wall));
        }
    }

    /// Everything was compared over this attachment.
    pub(super) fn reconciled(&mut self, attachment: u64) {
        self.compared = attachment;
        if self.is_current() {
            self.lost = None;
        }
    }

    /// Whether what is known is what the registry says.
    pub(super) fn is_current(&self) -> bool {
        self.is_connected && self.compared > 0 && self.compared == self.attachment
    }

    pub(super) fn status(&self, exists: bool) -> Status {
        if self.is_current() {
            if exists { Status::Live } else { Status::Absent }
        } else {
            match self.lost {
                Some(since) => Status::Stale { since },
                None => Status::Pending,
            }
        }
    }

    /// The attachment over which the list was made.
    pub(super) fn compared_at(&self) -> u64 {
        self.compared
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn state(connected: bool, since: Instant, attachments: u64) -> SessionState {
        SessionState {
            connection: if connected {
                let server = ([127, 0, 0, 1], 1).into();
                ConnectionState::Connected { server }
            } else {
                ConnectionState::Disconnected { since, cause: None }
            },
            session_id: 1,
            session_timeout: Duration::from_secs(10),
            sessions: 1,
            expirations: 0,
            attachments,
            expired_because: None,
        }
    }

    #[test]
    fn it_is_current_only_over_the_connection_that_was_compared() {
        let now = Instant::now() + Duration::from_secs(100);
        let wall = SystemTime::now();
        let mut contact = Contact::new(None);
        contact.session(&state(false, now, 0), now, wall);
        assert_eq!(contact.status(false), Status::Pending);
        contact.session(&state(true, now, 1), now, wall);
        assert_eq!(contact.status(false), Status::Pending);
        contact.reconciled(1);
        assert_eq!(contact.status(true), Status::Live);
        assert_eq!(contact.status(false), Status::Absent);
        let since = wall - Duration::from_secs(3);
        contact.session(&state(false, now - Duration::from_secs(3), 1), now, wall);
        assert_eq!(contact.status(true), Status::Stale { since });
        contact.session(&state(true, now, 2), now, wall);
        assert_eq!(contact.status(true), Status::Stale { since });
        assert_eq!(contact.compared_at(), 1);
        // Compared over a connection that is gone already.
        contact.session(&state(true, now, 3), now, wall);
        contact.reconciled(2);
        assert_eq!(contact.status(true), Status::Stale { since });
        contact.reconciled(3);
        assert_eq!(contact.status(true), Status::Live);
        // The loss itself was missed.
        contact.session(&state(true, now, 4), now, wall);
        assert_eq!(contact.status(true), Status::Stale { since: wall });
    }
}
