//! When to ping, when a connection counts as dead, and when the session does.

use std::time::Duration;

use tokio::time::Instant;

/// The shortest session timeout that timers follow, so that no server can make the client spin.
const TIMEOUT_MIN: Duration = Duration::from_millis(100);

/// When something last happened on a connection.
///
/// With a session timeout of T the client pings after T/3 without sending, and gives the connection up
/// after 2T/3 without a byte from the server, so that a third is left to find another one. After 4T/3 it
/// takes the session for expired, as Java does from 3.10 on: no server will have kept it that long. A
/// connection on which there are bytes but no whole frame, or no reply to a request, is given up after 2T.
#[derive(Debug)]
pub(crate) struct Keepalive {
    timeout: Duration,
    /// When bytes last arrived.
    heard: Instant,
    /// When a frame was last complete.
    framed: Instant,
    /// When bytes were last written, or a ping was queued.
    sent: Instant,
}

/// What time it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// Time to wait.
    Nothing,
    /// Time to send something.
    Ping,
    /// Time to look for another server.
    Silence,
}

impl Keepalive {
    pub(crate) fn new(timeout: Duration, now: Instant) -> Self {
        Self {
            timeout: timeout.max(TIMEOUT_MIN),
            heard: now,
            framed: now,
            sent: now,
        }
    }

    pub(crate) fn bytes_arrived(&mut self, now: Instant) {
        self.heard = now;
    }

    pub(crate) fn frame_arrived(&mut self, now: Instant) {
        self.framed = now;
    }

    pub(crate) fn bytes_sent(&mut self, now: Instant) {
        self.sent = now;
    }

    /// When the server was last heard from.
    pub(crate) fn heard(&self) -> Instant {
        self.heard
    }

    /// When the session is to be given up.
    pub(crate) fn expires_at(&self) -> Instant {
        self.heard + self.timeout * 4 / 3
    }

    fn silent_at(&self, oldest_request: Option<Instant>) -> Instant {
        let oldest = oldest_request.map_or(self.framed, |oldest| oldest.min(self.framed));
        (self.heard + self.timeout * 2 / 3).min(oldest + self.timeout * 2)
    }

    /// When to look again. `oldest_request` is when the request was written whose reply is next.
    pub(crate) fn next(&self, oldest_request: Option<Instant>) -> Instant {
        self.silent_at(oldest_request)
            .min(self.sent + self.timeout / 3)
    }

    /// What is to be done now.
    pub(crate) fn due(&self, oldest_request: Option<Instant>, now: Instant) -> Due {
        if now >= self.silent_at(oldest_request) {
            Due::Silence
        } else if now >= self.sent + self.timeout / 3 {
            Due::Ping
        } else {
            Due::Nothing
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Duration = Duration::from_secs(9);

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn a_quiet_connection_is_pinged_and_a_silent_one_given_up() {
        let start = Instant::now();
        let mut keepalive = Keepalive::new(T, start);
        assert_eq!(keepalive.next(None), after(start, 3));
        assert_eq!(keepalive.due(None, after(start, 2)), Due::Nothing);
        assert_eq!(keepalive.due(None, after(start, 3)), Due::Ping);
        keepalive.bytes_sent(after(start, 3));
        assert_eq!(keepalive.next(None), after(start, 6));
        assert_eq!(keepalive.due(None, after(start, 6)), Due::Silence);
        keepalive.bytes_arrived(after(start, 4));
        assert_eq!(keepalive.due(None, after(start, 6)), Due::Ping);
        assert_eq!(keepalive.expires_at(), after(start, 16));
    }

    #[test]
    fn bytes_without_frames_and_requests_without_replies_end_it_too() {
        let start = Instant::now();
        let mut keepalive = Keepalive::new(T, start);
        keepalive.bytes_arrived(after(start, 17));
        assert_eq!(keepalive.due(None, after(start, 17)), Due::Ping);
        assert_eq!(keepalive.due(None, after(start, 18)), Due::Silence);
        keepalive.frame_arrived(after(start, 17));
        assert_eq!(
            keepalive.due(Some(after(start, 1)), after(start, 18)),
            Due::Ping
        );
        assert_eq!(keepalive.due(Some(start), after(start, 18)), Due::Silence);
    }

    #[test]
    fn no_timeout_makes_the_client_spin() {
        let start = Instant::now();
        let keepalive = Keepalive::new(Duration::ZERO, start);
        assert!(keepalive.next(None) > start + Duration::from_millis(30));
    }
}
