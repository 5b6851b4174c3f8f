//! Sessions, and when each is over unless it is heard from.
//!
//! Like Apache ZooKeeper's, a session ends in the first tick that begins after its timeout: sessions are
//! kept by that tick, so hearing from one mostly changes nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use hmac::{Hmac, KeyInit, Mac};
use livegate_zk::proto::session::PASSWORD_BYTES;
use sha2::Sha256;

use super::ConnectionId;

/// Bytes of the secret that passwords are made of.
pub(crate) const SECRET_BYTES: usize = 32;

/// A session.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) timeout_ms: i32,
    /// Its connection, if it has one.
    pub(crate) connection: Option<ConnectionId>,
    /// The end of the tick in which it is over, by the machine's clock.
    expires: u64,
}

/// All sessions.
#[derive(Debug)]
pub(crate) struct Sessions {
    tick_ms: u64,
    secret: [u8; SECRET_BYTES],
    next_id: i64,
    sessions: HashMap<i64, Session>,
    by_expiry: BTreeMap<u64, BTreeSet<i64>>,
    /// When it was last asked whose time is over; `None` as long as nobody has.
    last_tick: Option<u64>,
}

impl Sessions {
    pub(crate) fn new(tick_ms: u64) -> Self {
        Self {
            tick_ms: tick_ms.max(1),
            secret: [0; SECRET_BYTES],
            next_id: 0,
            sessions: HashMap::new(),
            by_expiry: BTreeMap::new(),
            last_tick: None,
        }
    }

    pub(crate) fn set_secret(&mut self, secret: [u8; SECRET_BYTES]) {
        self.secret = secret;
    }

    pub(crate) fn secret(&self) -> &[u8; SECRET_BYTES] {
        &self.secret
    }

    /// Ids given from now on begin with the server's number and the time (`initializeNextSessionId`), and
    /// are above all that were given before.
    pub(crate) fn begin(&mut self, wall_ms: i64) {
        const SERVER: i64 = 1;
        let by_time = (wall_ms & 0xff_ffff_ffff) << 16 | SERVER << 56;
        self.next_id = self.next_id.max(by_time);
    }

    /// An id that no session has had.
    pub(crate) fn new_id(&mut self) -> i64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    /// The password of a session: nobody can make it who does not know the secret.
    pub(crate) fn password(&self, session: i64) -> [u8; PASSWORD_BYTES] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.secret)
            .expect("a key for HMAC may have any length");
        mac.update(&session.to_be_bytes());
        let mut password = [0; PASSWORD_BYTES];
        password.copy_from_slice(&mac.finalize().into_bytes()[..PASSWORD_BYTES]);
        password
    }

    /// Whether this is the password of the session, without telling by the time taken how much of it is.
    pub(crate) fn is_password(&self, session: i64, claimed: &[u8]) -> bool {
        let password = self.password(session);
        claimed.len() == password.len()
            && claimed
                .iter()
                .zip(password)
                .fold(0, |differing, (a, b)| differing | (a ^ b))
                == 0
    }

    /// Begins a session, or gives it another timeout.
    pub(crate) fn open(&mut self, id: i64, timeout_ms: i32, now_ms: u64) {
        self.next_id = self.next_id.max(id.saturating_add(1));
        let session = self.sessions.entry(id).or_insert(Session {
            timeout_ms,
            connection: None,
            expires: 0,
        });
        session.timeout_ms = timeout_ms;
        self.touch(id, now_ms);
    }

    /// Ends a session; false when there is none.
    pub(crate) fn close(&mut self, id: i64) -> bool {
        let Some(session) = self.sessions.remove(&id) else {
            return false;
        };
        self.unschedule(session.expires, id);
        true
    }

    pub(crate) fn get(&self, id: i64) -> Option<&Session> {
        self.sessions.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: i64) -> Option<&mut Session> {
        self.sessions.get_mut(&id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (i64, &Session)> {
        self.sessions.iter().map(|(&id, session)| (id, session))
    }

    pub(crate) fn len(&self) -> usize {
        self.sessions.len()
    }

    /// The session was heard from.
    pub(crate) fn touch(&mut self, id: i64, now_ms: u64) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let timeout = u64::try_from(session.timeout_ms).unwrap_or(0);
        let expires = (now_ms.saturating_add(timeout) / self.tick_ms + 1) * self.tick_ms;
        // It may also be earlier than before, after another timeout was agreed on.
        if expires == session.expires {
            return;
        }
        let before = std::mem::replace(&mut session.expires, expires);
        self.unschedule(before, id);
        self.by_expiry.entry(expires).or_default().insert(id);
    }

    fn unschedule(&mut self, expires: u64, id: i64) {
        if let Some(ids) = self.by_expiry.get_mut(&expires) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_expiry.remove(&expires);
            }
        }
    }

    /// A session that is over, if there is one.
    ///
    /// When this was not asked for more than two ticks, the process did not run: its clients may have been
    /// heard from by the kernel, and all sessions get the time that was lost.
    pub(crate) fn next_expired(&mut self, now_ms: u64) -> Option<i64> {
        let last_tick = self.last_tick.replace(now_ms);
        let lost = now_ms.saturating_sub(last_tick.unwrap_or(now_ms));
        if lost > 2 * self.tick_ms {
            tracing::warn!("the registry did not run for {lost} ms: sessions are given that time");
            self.postpone(lost.div_ceil(self.tick_ms) * self.tick_ms);
        }
        let (&expires, ids) = self.by_expiry.first_key_value()?;
        (expires <= now_ms).then(|| ids.first().copied()).flatten()
    }

    fn postpone(&mut self, by_ms: u64) {
        for (expires, ids) in std::mem::take(&mut self.by_expiry) {
            for id in &ids {
                if let Some(session) = self.sessions.get_mut(id) {
                    session.expires = expires + by_ms;
                }
            }
            self.by_expiry.insert(expires + by_ms, ids);
        }
    }

    /// All sessions get their full timeout from now on, as after a start.
    pub(crate) fn touch_all(&mut self, now_ms: u64) {
        self.by_expiry.clear();
        let ids: Vec<i64> = self.sessions.keys().copied().collect();
        for id in ids {
            if let Some(session) = self.sessions.get_mut(&id) {
                session.expires = 0;
            }
            self.touch(id, now_ms);
        }
    }

    /// Sessions by the tick in which they are over.
    pub(crate) fn by_expiry(&self) -> &BTreeMap<u64, BTreeSet<i64>> {
        &self.by_expiry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sessions() -> Sessions {
        let mut sessions = Sessions::new(1000);
        sessions.set_secret([7; SECRET_BYTES]);
        sessions.begin(1_700_000_000_000);
        sessions
    }

    #[test]
    fn a_session_is_over_within_a_tick_of_its_timeout() {
        let mut sessions = sessions();
        let id = sessions.new_id();
        assert_eq!(id >> 56, 1);
        sessions.open(id, 4000, 10_500);
        for now in (11_000..15_000).step_by(1000) {
            assert_eq!(sessions.next_expired(now), None, "{now}");
        }
        assert_eq!(sessions.next_expired(15_000), Some(id));
        sessions.touch(id, 15_000);
        assert_eq!(sessions.next_expired(15_000), None);
        assert!(sessions.close(id));
        assert!(!sessions.close(id));
        assert!(sessions.by_expiry().is_empty());
    }

    #[test]
    fn another_timeout_counts_at_once() {
        let mut sessions = sessions();
        let id = sessions.new_id();
        sessions.open(id, 3_600_000, 10_500);
        assert_eq!(sessions.next_expired(11_000), None);
        sessions.open(id, 1000, 11_000);
        assert_eq!(sessions.next_expired(12_000), None);
        assert_eq!(sessions.next_expired(13_000), Some(id));
        sessions.open(id, 4000, 13_000);
        assert_eq!(sessions.next_expired(14_000), None);
        assert_eq!(sessions.by_expiry().len(), 1);
    }

    #[test]
    fn time_that_the_process_did_not_have_is_not_counted() {
        let mut sessions = sessions();
        let id = sessions.new_id();
        sessions.open(id, 4000, 10_000);
        assert_eq!(sessions.next_expired(11_000), None);
        assert_eq!(sessions.next_expired(61_000), None);
        let over = (62_000..70_000)
            .step_by(1000)
            .find(|&now| sessions.next_expired(now).is_some());
        assert_eq!(over, Some(65_000));
    }

    #[test]
    fn not_even_right_after_the_start() {
        let mut sessions = sessions();
        let id = sessions.new_id();
        assert_eq!(sessions.next_expired(0), None);
        sessions.open(id, 4000, 0);
        assert_eq!(sessions.next_expired(60_000), None);
    }

    #[test]
    fn passwords_are_told_from_others() {
        let sessions = sessions();
        let password = sessions.password(5);
        assert!(sessions.is_password(5, &password));
        assert!(!sessions.is_password(6, &password));
        assert!(!sessions.is_password(5, &password[..15]));
        assert!(!sessions.is_password(5, &[0; PASSWORD_BYTES]));
    }

    #[test]
    fn ids_are_never_given_twice() {
        let mut sessions = sessions();
        let later = sessions.new_id() + 1000;
        sessions.open(later, 4000, 0);
        sessions.begin(1_700_000_000_000);
        assert_eq!(sessions.new_id(), later + 1);
    }
}
