//! The embedded registry under a test's control, in this process.

use std::net::SocketAddr;
use std::time::Duration;

use livegate_registry::{Options, Server, Whitelist};

use crate::backend::Backend;

/// A server of its own, with a data directory of its own.
pub(crate) struct Embedded {
    directory: tempfile::TempDir,
    address: SocketAddr,
    server: Option<Server>,
}

impl Embedded {
    /// Starts a server whose sessions time out after 3 to 30 s.
    pub(crate) fn start() -> Self {
        let mut server = Self {
            directory: tempfile::tempdir().unwrap(),
            address: "127.0.0.1:0".parse().unwrap(),
            server: None,
        };
        server.serve();
        server
    }

    /// Starts it, which must not run, where it was.
    fn serve(&mut self) {
        assert!(self.server.is_none());
        let options = Options {
            tick_time: Duration::from_millis(1500),
            connections_per_address_max: 0,
            four_letter_words: Whitelist::All,
            ..Options::new(self.address, self.directory.path().join("data"))
        };
        let server = Server::start(options).unwrap();
        self.address = server.address();
        self.server = Some(server);
    }
}

impl Backend for Embedded {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn kill(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop();
        }
    }

    async fn run(&mut self) {
        self.serve();
    }

    fn wipe(&self) {
        assert!(self.server.is_none());
        std::fs::remove_dir_all(self.directory.path().join("data")).unwrap();
    }
}
