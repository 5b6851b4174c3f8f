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

/// What else it needs for TLS, which that package forgets to name, and for a log worth reading.
const MORE_JARS: &str = "/usr/share/java/slf4j-simple.jar:/usr/share/java/netty-codec.jar:/usr/share/java/netty-resolver.jar:\
                     /usr/share/java/netty-transport-native-unix-common.jar";

/// A server of its own, with a data directory of its own. Only one runs at a time on a machine: tests
/// are run in parallel, and a JVM each would be too much.
pub(crate) struct Apache {
    directory: tempfile::TempDir,
    address: SocketAddr,
    tick: Duration,
    /// More lines of its configuration.
    extra: String,
    process: Option<Child>,
    /// Released when the file is closed.
    _turn: File,
}

impl Apache {
    /// Starts a server with ticks of this length; sessions time out after 2 to 20 of them. `None`, with
    /// a line that says so, where there is no Java or no ZooKeeper.
    pub(crate) async fn start(tick: Duration) -> Option<Self> {
        Self::start_with(tick, |_| String::new()).await
    }

    /// The same, with more lines in its configuration, which may name files in its directory.
    pub(crate) async fn start_with(
        tick: Duration,
        extra: impl FnOnce(&Path) -> String,
    ) -> Option<Self> {
        let turn = take_turn()?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let directory = tempfile::tempdir().unwrap();
        let mut server = Self {
            extra: extra(directory.path()),
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
             admin.enableServer=false\n4lw.commands.whitelist=*\nmaxClientCnxns=0\n{}",
            self.tick.as_millis(),
            directory.join("data").display(),
            self.address.port(),
            self.extra,
        );
        std::fs::write(directory.join("zoo.cfg"), config).unwrap();
        self.process = Some(spawn(directory, &[]));
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

    /// The answer to a four-letter word.
    pub(crate) async fn ask(&self, word: &str) -> std::io::Result<String> {
        ask(self.address, word).await
    }
}

impl Drop for Apache {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The right to run servers, until it is dropped; waits until others are done. `None`, with a line that
/// says so, where there is no Java or no ZooKeeper.
pub(crate) fn take_turn() -> Option<File> {
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
    Some(turn)
}

/// Starts a server with the `zoo.cfg` in this directory, and a log beside it.
pub(crate) fn spawn(directory: &Path, properties: &[&str]) -> Child {
    let log = File::create(directory.join("server.log")).unwrap();
    // A killed process loses nothing that the kernel has, so the disk need not be waited for.
    Command::new("java")
        .args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
        .args(["-cp", &format!("{JAR}:{MORE_JARS}")])
        .args([
            "-Dzookeeper.extendedTypesEnabled=true",
            "-Dzookeeper.forceSync=no",
        ])
        .args(properties)
        .arg("org.apache.zookeeper.server.quorum.QuorumPeerMain")
        .arg(directory.join("zoo.cfg"))
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// A server's answer to a four-letter word. One that is just starting may take the question and never
/// answer.
pub(crate) async fn ask(address: SocketAddr, word: &str) -> std::io::Result<String> {
    let answer = async {
        let mut stream = TcpStream::connect(address).await?;
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

/// How many watches a server holds: one for each path, connection and table (data, children).
pub(crate) async fn watches(address: SocketAddr) -> usize {
    let answer = ask(address, "mntr").await.unwrap();
    let count = answer
        .lines()
        .find_map(|line| line.strip_prefix("zk_watch_count\t"))
        .unwrap();
    count.parse().unwrap()
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
