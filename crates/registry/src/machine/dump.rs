//! What the machine tells about itself to people and monitors.

use std::fmt::Write;

use super::Machine;
use super::sessions::Session;

/// Numbers for monitors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counts {
    /// As Apache ZooKeeper counts: it knows the root by two names.
    pub(crate) nodes: usize,
    pub(crate) watches: usize,
    pub(crate) ephemerals: usize,
    pub(crate) sessions: usize,
    /// Bytes of paths and data.
    pub(crate) bytes: u64,
}

impl Machine {
    pub(crate) fn counts(&self) -> Counts {
        Counts {
            nodes: self.tree.len() + 1,
            watches: self.watches.len(),
            ephemerals: self.tree.ephemeral_count(),
            sessions: self.sessions.len(),
            bytes: self.tree.bytes(),
        }
    }

    /// Sessions by the time at which they are over, told as milliseconds from now.
    pub(crate) fn dump_sessions(&self, text: &mut String, now_ms: u64) {
        let by_expiry = self.sessions.by_expiry();
        let count = self.sessions.len();
        let _ = writeln!(text, "Session Sets ({})/({count}):", by_expiry.len());
        for (expires, ids) in by_expiry {
            let left = expires.saturating_sub(now_ms);
            let _ = writeln!(text, "{} expire in {left} ms:", ids.len());
            for id in ids {
                let _ = writeln!(text, "\t0x{id:x}");
            }
        }
    }

    /// The nodes that end with sessions.
    pub(crate) fn dump_ephemerals(&self, text: &mut String) {
        let by_session = self.tree.ephemerals_by_session();
        let _ = writeln!(text, "Sessions with Ephemerals ({}):", by_session.len());
        for (session, mut paths) in by_session {
            paths.sort_unstable();
            let _ = writeln!(text, "0x{session:x}:");
            for path in paths {
                let _ = writeln!(text, "\t{path}");
            }
        }
    }

    /// How many watches there are.
    pub(crate) fn dump_watch_summary(&self, text: &mut String) {
        let (connections, paths, watches) = self.watches.summary();
        let _ = writeln!(text, "{connections} connections watching {paths} paths");
        let _ = writeln!(text, "Total watches:{watches}");
    }

    /// Watches by session.
    pub(crate) fn dump_watches_by_session(&self, text: &mut String) {
        for (connection, mut paths) in self.watches.by_connection() {
            paths.sort_unstable();
            let _ = writeln!(text, "0x{:x}", self.session_of(connection));
            for path in paths {
                let _ = writeln!(text, "\t{path}");
            }
        }
    }

    /// Watches by path.
    pub(crate) fn dump_watches_by_path(&self, text: &mut String) {
        for (path, connections) in self.watches.by_path() {
            let _ = writeln!(text, "{path}");
            for connection in connections {
                let _ = writeln!(text, "\t0x{:x}", self.session_of(connection));
            }
        }
    }

    fn session_of(&self, connection: super::ConnectionId) -> i64 {
        self.peers.get(&connection).map_or(0, |peer| peer.session)
    }

    /// The timeout of a session in milliseconds; 0 when there is no such session.
    pub(crate) fn session_timeout_ms(&self, session: i64) -> i32 {
        self.sessions
            .get(session)
            .map_or(0, |session: &Session| session.timeout_ms)
    }
}
