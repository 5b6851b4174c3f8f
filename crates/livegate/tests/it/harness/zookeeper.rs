//! A ZooKeeper under a test's control: a process, its own directory and port; killed on drop.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::command::livegate;
use super::port::Port;
use super::turn;
use super::wait::holds_within;

/// Where Debian's package `zookeeper` puts it, and what else it needs for TLS, which that package forgets to
/// name.
const JAR: &str = "/usr/share/java/zookeeper.jar";
const MORE_JARS: &str = "/usr/share/java/netty-codec.jar:/usr/share/java/netty-resolver.jar:\
                         /usr/share/java/netty-transport-native-unix-common.jar";

/// A Java machine starts slowly where many do.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// Which server it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `livegate registry`.
    Embedded,
    /// Only one runs at a time on a machine: tests are run in parallel, and a Java machine each would be
    /// too much.
    Apache,
}

/// A server.
pub(crate) struct ZooKeeper {
    kind: Kind,
    directory: tempfile::TempDir,
    port: Port,
    tick: Duration,
    /// More lines of its configuration.
    extra: String,
    process: Option<Child>,
    /// Released when the file is closed.
    _turn: Option<File>,
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
        let turn = match kind {
            Kind::Embedded => None,
            Kind::Apache => Some(turn_of_java()?),
        };
        let directory = tempfile::tempdir().unwrap();
        let mut server = ZooKeeper {
            kind,
            extra: extra(directory.path()),
            directory,
            port: Port::claim(),
            tick,
            process: None,
            _turn: turn,
        };
        server.run();
        Some(server)
    }

    /// The one place that says which server it is.
    fn command(&self) -> Command {
        let directory = self.directory.path();
        let config = format!(
            "tickTime={}\ndataDir={}\nclientPort={}\nclientPortAddress=127.0.0.1\n\
             admin.enableServer=false\n4lw.commands.whitelist=*\nmaxClientCnxns=0\n{}",
            self.tick.as_millis(),
            directory.join("data").display(),
            self.port.number(),
            self.extra,
        );
        let file = directory.join("zoo.cfg");
        std::fs::write(&file, config).unwrap();
        if self.kind == Kind::Embedded {
            let mut command = livegate(&["registry", "--zoo-cfg"]);
            command.arg(file);
            return command;
        }
        let mut command = Command::new("java");
        // A killed process loses nothing that the kernel has, so the disk need not be waited for.
        command
            .args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
            .args(["-cp", &format!("{JAR}:{MORE_JARS}")])
            .args([
                "-Dzookeeper.extendedTypesEnabled=true",
                "-Dzookeeper.forceSync=no",
            ])
            .arg("org.apache.zookeeper.server.quorum.QuorumPeerMain")
            .arg(file);
        command
    }

    /// Starts the process, which must not run, and waits until it serves.
    pub(crate) fn run(&mut self) {
        assert!(self.process.is_none());
        let log = File::create(self.directory.path().join("log")).unwrap();
        let process = self
            .command()
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(process);
        let serves = holds_within(START_PATIENCE, || {
            self.ask("srvr")
                .is_ok_and(|answer| answer.contains("Mode:"))
        });
        assert!(serves, "{}", self.log());
    }

    /// Ends the process at once.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Deletes everything the server, which must not run, has stored: its sessions, too.
    pub(crate) fn wipe(&self) {
        assert!(self.process.is_none());
        std::fs::remove_dir_all(self.directory.path().join("data")).unwrap();
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// The answer to a four-letter word. A server that is just starting may take the question and never
    /// answer.
    fn ask(&self, word: &str) -> std::io::Result<String> {
        let patience = Duration::from_secs(2);
        let mut stream = TcpStream::connect_timeout(&self.address(), patience)?;
        stream.set_read_timeout(Some(patience))?;
        stream.write_all(word.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for ZooKeeper {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The right to start a Java machine; `None`, with a line that says so, where there is no ZooKeeper.
fn turn_of_java() -> Option<File> {
    let java = Command::new("java")
        .arg("-version")
        .stderr(Stdio::null())
        .status();
    if !java.is_ok_and(|status| status.success()) || !Path::new(JAR).exists() {
        println!(
            "SKIPPED: needs Apache ZooKeeper: apt-get install -y --no-install-recommends zookeeper \
             default-jre-headless"
        );
        return None;
    }
    let turn = File::create(turn::directory().join("zookeeper")).unwrap();
    turn.lock().unwrap();
    Some(turn)
}
