//! The server that is judged, and the pair of it and Apache ZooKeeper.

use std::net::SocketAddr;
use std::time::Duration;

use livegate_registry::{Options, Server, Whitelist};

use crate::apache::{Apache, own_ip};

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
    options: Options,
    server: Option<Server>,
    _directory: tempfile::TempDir,
}

impl Judged {
    /// An empty server.
    pub(crate) fn start(settings: &Settings) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listen = (own_ip(), 0).into();
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
        let server = Server::start(options.clone()).unwrap();
        Self {
            options: Options {
                listen: server.address(),
                ..options
            },
            server: Some(server),
            _directory: directory,
        }
    }

    /// Ends it and starts it again where it was.
    fn restart(&mut self) {
        self.server.take().unwrap().stop();
        self.server = Some(Server::start(self.options.clone()).unwrap());
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
}

impl Pair {
    /// `None`, with a line that says so, where there is no Apache ZooKeeper.
    pub(crate) fn start(settings: &Settings) -> Option<Self> {
        let mut reference = Apache::new(settings.tick)?
            .with_config(&format!(
                "minSessionTimeout={}\nmaxSessionTimeout={}\n4lw.commands.whitelist={}\nmaxClientCnxns={}\n",
                settings.timeouts.0.as_millis(),
                settings.timeouts.1.as_millis(),
                settings.whitelist,
                settings.connections_max,
            ))
            .with_property("-Dznode.container.checkIntervalMs=86400000")
            .with_property(&format!(
                "-Dzookeeper.DigestAuthenticationProvider.superDigest={SUPER_DIGEST}"
            ));
        reference.run();
        Some(Self {
            reference,
            judged: Judged::start(settings),
        })
    }

    /// Ends both and starts them again where they were.
    pub(crate) fn restart(&mut self) {
        self.reference.kill();
        self.reference.run();
        self.judged.restart();
    }

    /// Both addresses: the reference first.
    pub(crate) fn addresses(&self) -> [SocketAddr; 2] {
        [self.reference.address(), self.judged.address()]
    }
}
