//! Apache ZooKeeper under a test's control: the one way to start it, for the tests of all crates.
//!
//! Waiting comes in two kinds, for tests that are threads and for those that are tasks (`_async`).
#![allow(
    dead_code,
    reason = "shared by tests that each need another part of it"
)]

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Where Debian's package `zookeeper` puts it.
const JAR: &str = "/usr/share/java/zookeeper.jar";

/// What else it needs for TLS, which that package forgets to name, and for a log worth reading.
const MORE_JARS: &str = "/usr/share/java/slf4j-simple.jar:/usr/share/java/netty-codec.jar:/usr/share/java/netty-resolver.jar:\
                     /usr/share/java/netty-transport-native-unix-common.jar";

/// How long a start on a busy machine may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at a server that starts.
const LOOK: Duration = Duration::from_millis(20);

/// How long a server may take for a four-letter word. One that is just starting may take the question and
/// never answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);

/// A server of its own, with a data directory of its own. Only one runs at a time on a machine: tests
/// are run in parallel, and a JVM each would be too much.
pub(crate) struct Apache {
    directory: tempfile::TempDir,
    address: SocketAddr,
    /// Lines of its configuration. Of two with one key the later one counts.
    config: String,
    /// More of its settings, those that are no configuration: `-Dname=value`.
    properties: Vec<String>,
    process: Option<Child>,
    /// Released when the file is closed.
    _turn: File,
}

impl Apache {
    /// A server with ticks of this length, which does not run yet; sessions time out after 2 to 20 of them.
    /// `None`, with a line that says so, where there is no Java or no ZooKeeper.
    pub(crate) fn new(tick: Duration) -> Option<Self> {
        let turn = take_turn()?;
        let directory = tempfile::tempdir().unwrap();
        let ip = own_ip();
        let address = SocketAddr::new(ip.into(), free_ports(ip, 1)[0]);
        let config = format!(
            "tickTime={}\ndataDir={}\nclientPort={}\nclientPortAddress={ip}\n\
             admin.enableServer=false\n4lw.commands.whitelist=*\nmaxClientCnxns=0\n",
            tick.as_millis(),
            directory.path().join("data").display(),
            address.port(),
        );
        Some(Self {
            directory,
            address,
            config,
            // Empty containers go at once, which is when it hurts.
            properties: vec!["-Dznode.container.checkIntervalMs=300".to_owned()],
            process: None,
            _turn: turn,
        })
    }

    /// With more lines in its configuration.
    pub(crate) fn with_config(mut self, lines: &str) -> Self {
        self.config.push_str(lines);
        self
    }

    /// With more settings that are no configuration: `-Dname=value`.
    pub(crate) fn with_property(mut self, property: &str) -> Self {
        self.properties.push(property.to_owned());
        self
    }

    /// Where its files are.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Starts the process, which must not run, and waits until it serves.
    pub(crate) fn run(&mut self) {
        self.launch();
        wait_until_it_serves(self.address, self.log_file());
    }

    /// [`Self::run`], waiting as a task does.
    pub(crate) async fn run_async(&mut self) {
        self.launch();
        let (address, log_file) = (self.address, self.log_file());
        tokio::task::spawn_blocking(move || wait_until_it_serves(address, log_file))
            .await
            .unwrap();
    }

    fn launch(&mut self) {
        assert!(self.process.is_none());
        std::fs::write(self.directory().join("zoo.cfg"), &self.config).unwrap();
        self.process = Some(spawn(self.directory(), &self.properties));
    }

    fn log_file(&self) -> PathBuf {
        log_file(self.directory())
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
        std::fs::remove_dir_all(self.directory().join("data")).unwrap();
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
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
pub(crate) fn spawn(directory: &Path, properties: &[String]) -> Child {
    let log = File::create(log_file(directory)).unwrap();
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
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

fn log_file(directory: &Path) -> PathBuf {
    directory.join("server.log")
}

/// What a server that was started in this directory has said.
pub(crate) fn log(directory: &Path) -> String {
    std::fs::read_to_string(log_file(directory)).unwrap_or_default()
}

fn wait_until_it_serves(address: SocketAddr, log_file: PathBuf) {
    let deadline = Instant::now() + PATIENCE;
    // `srvr` may not be whitelisted; a refusal is an answer, too.
    let serves = |answer: String| answer.contains("Mode:") || answer.contains("whitelist");
    while !ask(address, "srvr").is_ok_and(serves) {
        assert!(
            Instant::now() < deadline,
            "{}",
            std::fs::read_to_string(log_file).unwrap_or_default()
        );
        std::thread::park_timeout(LOOK);
    }
}

/// A server's answer to a four-letter word.
pub(crate) fn ask(address: SocketAddr, word: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_PATIENCE)?;
    stream.set_read_timeout(Some(ANSWER_PATIENCE))?;
    stream.write_all(word.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// [`ask`], waiting as a task does.
pub(crate) async fn ask_async(address: SocketAddr, word: &'static str) -> std::io::Result<String> {
    tokio::task::spawn_blocking(move || ask(address, word))
        .await
        .unwrap()
}

/// How many watches a server holds: one for each path, connection and table (data, children).
pub(crate) async fn watches(address: SocketAddr) -> usize {
    let answer = ask_async(address, "mntr").await.unwrap();
    let count = answer
        .lines()
        .find_map(|line| line.strip_prefix("zk_watch_count\t"))
        .unwrap();
    count.parse().unwrap()
}

/// An address that hardly anybody else uses. A killed server's port must be free when it comes back, and
/// connections to anywhere in 127/8 come from 127.0.0.1, so here nobody takes it meanwhile; nor does a client
/// that another test has left behind knock here.
pub(crate) fn own_ip() -> Ipv4Addr {
    let mut source = fastrand::Rng::new();
    Ipv4Addr::new(127, source.u8(1..), source.u8(..), source.u8(1..255))
}

/// Ports that are free now.
pub(crate) fn free_ports(ip: Ipv4Addr, count: usize) -> Vec<u16> {
    // All bound before the first is closed, so that they differ.
    let listeners: Vec<_> = (0..count)
        .map(|_| TcpListener::bind((ip, 0)).unwrap())
        .collect();
    listeners
        .iter()
        .map(|listener| listener.local_addr().unwrap().port())
        .collect()
}
