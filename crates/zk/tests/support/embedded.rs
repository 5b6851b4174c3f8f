//! The embedded registry under a test's control, in this process.

use std::net::SocketAddr;
use std::time::Duration;

use livegate_registry::{Options, Server, Whitelist};

use crate::apache::own_ip;

/// A server of its own, with a data directory of its own.
pub(crate) struct Embedded {
    directory: tempfile::TempDir,
    address: SocketAddr,
    tick: Duration,
    server: Option<Server>,
}

impl Embedded {
    /// Starts a server with ticks of this length; sessions time out after 2 to 20 of them.
    pub(crate) fn start(tick: Duration) -> Self {
        let mut server = Self {
            directory: tempfile::tempdir().unwrap(),
            address: (own_ip(), 0).into(),
            tick,
            server: None,
        };
        server.run();
        server
    }

    /// Starts it, which must not run, where it was.
    pub(crate) fn run(&mut self) {
        assert!(self.server.is_none());
        let options = Options {
            tick_time: self.tick,
            connections_per_address_max: 0,
            four_letter_words: Whitelist::All,
            // Empty containers go at once, which is when it hurts.
            reap_interval: Duration::from_millis(300),
            ..Options::new(self.address, self.directory.path().join("data"))
        };
        let server = Server::start(options).unwrap();
        self.address = server.address();
        self.server = Some(server);
    }

    /// Ends it and all its connections.
    pub(crate) fn kill(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop();
        }
    }

    /// Deletes everything that it, which must not run, has stored.
    pub(crate) fn wipe(&self) {
        assert!(self.server.is_none());
        std::fs::remove_dir_all(self.directory.path().join("data")).unwrap();
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}
