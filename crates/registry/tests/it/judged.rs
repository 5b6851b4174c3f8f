//! The server that is judged, and the pair of it and Apache ZooKeeper.

use std::fs::File;
use std::net::SocketAddr;
use std::time::Duration;

use livegate_registry::{Options, Server, Whitelist};

use crate::apache::{self, Apache};

/// What both servers are started with. Whoever has authenticated as `super:test` may do everything, and
/// nothing is reaped in the time that a test takes.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) tick: Duration,
    /// Shortest and longest session timeout.
    pub(crate) timeouts: (Duration, Duration),
    /// As in `4lw.commands.whitelist`.
    pub(crate) whitelist: &'static str,
    /// Connections that one address may have; 0 for as many as it likes.
    pub(crate) connections_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            tick: Duration::from_secs(2),
            timeouts: (Duration::from_secs(4), Duration::from_secs(40)),
            whitelist: "*",
            connections_max: 0,
        }
    }
}

/// `super:test`, as servers are told it.
pub(crate) const SUPER_DIGEST: &str = "super:D/InIHSb7yEEbrWz8b9l71RjZJU=";

/// The server that is judged.
pub(crate) struct Judged {
    server: Option<Server>,
    _directory: tempfile::TempDir,
}

impl Judged {
    /// An empty server.
    pub(crate) fn start(settings: &Settings) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listen = "127.0.0.1:0".parse().unwrap();
        let options = Options {
            tick_time: settings.tick,
            session_timeout_min: Some(settings.timeouts.0),
            session_timeout_max: Some(settings.timeouts.1),
            connections_per_address_max: settings.connections_max,
            four_letter_words: Whitelist::parse(settings.whitelist).0,
            super_digest: Some(SUPER_DIGEST.to_owned()),
            reap_interval: Duration::from_secs(86_400),
            ..Options::new(listen, directory.path())
        };
        Self {
            server: Some(Server::start(options).unwrap()),
            _directory: directory,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.as_ref().unwrap().address()
    }
}

impl Drop for Judged {
    fn drop(&mut self) {
        self.server.take().unwrap().stop();
    }
}

/// Both, empty, with the machine's turn to run Java.
pub(crate) struct Pair {
    pub(crate) reference: Apache,
    pub(crate) judged: Judged,
    _turn: File,
}

impl Pair {
    /// `None`, with a line that says so, where there is no Apache ZooKeeper.
    pub(crate) fn start(settings: &Settings) -> Option<Self> {
        let turn = apache::turn()?;
        Some(Self {
            reference: Apache::start(settings),
            judged: Judged::start(settings),
            _turn: turn,
        })
    }

    /// Both addresses: the reference first.
    pub(crate) fn addresses(&self) -> [SocketAddr; 2] {
        [self.reference.address(), self.judged.address()]
    }
}
