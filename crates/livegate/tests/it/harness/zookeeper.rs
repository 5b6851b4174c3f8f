//! A ZooKeeper under a test's control: a process, its own directory and port; killed on drop.

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use super::command::livegate;
use super::port::Port;
use super::wait::holds_within;
use crate::apache::{Apache, ask};

/// How long a start on a busy machine may take.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// Tests that take the kind of the server, for both kinds.
macro_rules! on_both {
    ($($test:ident)*) => {
        mod embedded {
            $(#[test] fn $test() { super::$test(super::Kind::Embedded); })*
        }
        mod apache {
            $(#[test] fn $test() { super::$test(super::Kind::Apache); })*
        }
    };
}
pub(crate) use on_both;

/// Which server it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `livegate registry`.
    Embedded,
    Apache,
}

/// A server.
pub(crate) enum ZooKeeper {
    Embedded(Registry),
    Apache(Apache),
}

impl ZooKeeper {
    /// Starts a server with ticks of this length; sessions time out after 2 to 20 of them. `None`, with
    /// a line that says so, where there is no such server.
    pub(crate) fn start(kind: Kind, tick: Duration) -> Option<ZooKeeper> {
        ZooKeeper::start_with(kind, tick, |_| String::new())
    }

    /// The same, with more lines in its configuration, which may name files in its directory.
    pub(crate) fn start_with(
        kind: Kind,
        tick: Duration,
        extra: impl FnOnce(&Path) -> String,
    ) -> Option<ZooKeeper> {
        let mut server = match kind {
            Kind::Embedded => ZooKeeper::Embedded(Registry::new(tick, extra)),
            Kind::Apache => {
                let server = Apache::new(tick)?;
                let extra = extra(server.directory());
                ZooKeeper::Apache(server.with_config(&extra))
            }
        };
        server.run();
        Some(server)
    }

    /// Starts the process, which must not run, and waits until it serves.
    pub(crate) fn run(&mut self) {
        match self {
            ZooKeeper::Embedded(server) => server.run(),
            ZooKeeper::Apache(server) => server.run(),
        }
    }

    /// Ends the process at once.
    pub(crate) fn kill(&mut self) {
        match self {
            ZooKeeper::Embedded(server) => server.kill(),
            ZooKeeper::Apache(server) => server.kill(),
        }
    }

    /// Deletes everything the server, which must not run, has stored: its sessions, too.
    pub(crate) fn wipe(&self) {
        match self {
            ZooKeeper::Embedded(server) => server.wipe(),
            ZooKeeper::Apache(server) => server.wipe(),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        match self {
            ZooKeeper::Embedded(server) => server.port.address(),
            ZooKeeper::Apache(server) => server.address(),
        }
    }
}

/// A process of `livegate registry`.
pub(crate) struct Registry {
    directory: tempfile::TempDir,
    port: Port,
    process: Option<Child>,
}

impl Registry {
    fn new(tick: Duration, extra: impl FnOnce(&Path) -> String) -> Registry {
        let directory = tempfile::tempdir().unwrap();
        let port = Port::claim();
        let config = format!(
            "tickTime={}\ndataDir={}\nclientPort={}\nclientPortAddress=127.0.0.1\n\
             admin.enableServer=false\n4lw.commands.whitelist=*\nmaxClientCnxns=0\n{}",
            tick.as_millis(),
            directory.path().join("data").display(),
            port.number(),
            extra(directory.path()),
        );
        std::fs::write(directory.path().join("zoo.cfg"), config).unwrap();
        Registry {
            directory,
            port,
            process: None,
        }
    }

    fn run(&mut self) {
        assert!(self.process.is_none());
        let log = self.directory.path().join("log");
        let output = File::create(&log).unwrap();
        let process = livegate(&["registry", "--zoo-cfg"])
            .arg(self.directory.path().join("zoo.cfg"))
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        self.process = Some(process);
        let serves = holds_within(START_PATIENCE, || {
            ask(self.port.address(), "srvr").is_ok_and(|answer| answer.contains("Mode:"))
        });
        let log = || std::fs::read_to_string(&log).unwrap_or_default();
        assert!(serves, "{}", log());
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    fn wipe(&self) {
        assert!(self.process.is_none());
        std::fs::remove_dir_all(self.directory.path().join("data")).unwrap();
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.kill();
    }
}
