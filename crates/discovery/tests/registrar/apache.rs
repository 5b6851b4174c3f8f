//! Apache ZooKeeper under a test's control.

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use livegate_zk::client::ConnectOptions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Where Debian's package `zookeeper` puts it.
const JAR: &str = "/usr/share/java/zookeeper.jar";

/// A server of its own, with a data directory of its own. Only one runs at a time on a machine: tests
/// are run in parallel, and a JVM each would be too much.
pub(crate) struct Apache {
    directory: tempfile::TempDir,
    address: SocketAddr,
    tick: Duration,
    process: Option<Child>,
    /// Released when the file is closed.
    _turn: File,
}

impl Apache {
    /// Starts a server with ticks of this length; sessions time out after 2 to 20 of them. `None`, with
    /// a line that says so, where there is no Java or no ZooKeeper.
    pub(crate) async fn start(tick: Duration) -> Option<Self> {
        let java = Command::new("java")
            .arg("-version")
            .stderr(Stdio::null())
            .status();
        if !java.is_ok_and(|status| status.success()) || !Path::new(JAR).exists() {
            println!(
                "SKIPPED: needs Apache ZooKeeper: apt-get install -y --no-install-recommends \
                 zookeeper default-jre-headless"
            );
            return None;
        }
        let turn = File::create(std::env::temp_dir().join("livegate-zk-tests.lock")).unwrap();
        turn.lock().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let directory = tempfile::tempdir().unwrap();
        let mut server = Self {
            directory,
            address: port,
            tick,
            process: None,
            _turn: turn,
        };
        server.run().await;
        Some(server)
    }

    /// Starts the process, which must not run, and waits until it serves.
    pub(crate) async fn run(&mut self) {
        assert!(self.process.is_none());
        let directory = self.directory.path();
        let config = format!(
            "tickTime={}\ndataDir={}\nclientPort={}\nclientPortAddress=127.0.0.1\n\
             admin.enableServer=false\n4lw.commands.whitelist=*\nmaxClientCnxns=0\n",
            self.tick.as_millis(),
            directory.join("data").display(),
            self.address.port(),
        );
        std::fs::write(directory.join("zoo.cfg"), config).unwrap();
        let log = File::create(directory.join("server.log")).unwrap();
        // A killed process loses nothing that the kernel has, so the disk need not be waited for.
        let process = Command::new("java")
            .args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
            .args(["-cp", JAR])
            .args([
                "-Dzookeeper.extendedTypesEnabled=true",
                "-Dzookeeper.forceSync=no",
                // Empty containers go at once, which is when it hurts.
                "-Dznode.container.checkIntervalMs=300",
            ])
            .arg("org.apache.zookeeper.server.quorum.QuorumPeerMain")
            .arg(directory.join("zoo.cfg"))
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(process);
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self
            .ask("srvr")
            .await
            .is_ok_and(|answer| answer.contains("Mode:"))
        {
            assert!(Instant::now() < deadline, "{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("server.log")).unwrap_or_default()
    }

    /// Ends the process at once, as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Deletes everything the server, which must not run, has stored.
    pub(crate) fn wipe(&self) {
        assert!(self.process.is_none());
        std::fs::remove_dir_all(self.directory.path().join("data")).unwrap();
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The answer to a four-letter word. A server that is just starting may take the question and never
    /// answer.
    pub(crate) async fn ask(&self, word: &str) -> std::io::Result<String> {
        let answer = async {
            let mut stream = TcpStream::connect(self.address).await?;
            stream.write_all(word.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            Ok(answer)
        };
        let timed_out = std::io::ErrorKind::TimedOut;
        tokio::time::timeout(Duration::from_secs(2), answer)
            .await
            .map_err(|_| timed_out)?
    }
}

impl Drop for Apache {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Options for a test, with times that also do for a machine with too much to do.
pub(crate) fn options(connect_string: &str) -> ConnectOptions {
    ConnectOptions {
        session_timeout: Duration::from_secs(30),
        operation_timeout: Duration::from_secs(60),
        connect_timeout: Some(Duration::from_secs(2)),
        backoff: (Duration::from_millis(10), Duration::from_millis(200)),
        ..ConnectOptions::new(connect_string).unwrap()
    }
}
