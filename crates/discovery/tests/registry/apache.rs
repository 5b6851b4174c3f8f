//! Apache ZooKeeper under a test's control.

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::backend::Backend;

/// Where Debian's package `zookeeper` puts it.
const JAR: &str = "/usr/share/java/zookeeper.jar";

/// A server of its own, with a data directory of its own. Only one runs at a time on a machine, those of
/// the client's tests included: a JVM each would be too much.
pub(crate) struct Apache {
    directory: tempfile::TempDir,
    address: SocketAddr,
    process: Option<Child>,
    /// Released when the file is closed.
    _turn: File,
}

impl Apache {
    /// Starts a server whose sessions time out after 3 to 30 s. `None`, with a line that says so, where
    /// there is no Java or no ZooKeeper.
    pub(crate) async fn start() -> Option<Self> {
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
        let address = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let directory = tempfile::tempdir().unwrap();
        let config = format!(
            "tickTime=1500\ndataDir={}\nclientPort={}\nclientPortAddress=127.0.0.1\n\
             admin.enableServer=false\n4lw.commands.whitelist=*\nmaxClientCnxns=0\n",
            directory.path().join("data").display(),
            address.port(),
        );
        std::fs::write(directory.path().join("zoo.cfg"), config).unwrap();
        let mut server = Self {
            directory,
            address,
            process: None,
            _turn: turn,
        };
        server.run().await;
        Some(server)
    }

    /// The answer to a four-letter word. A server that is just starting may take the question and never
    /// answer.
    async fn ask(&self, word: &str) -> std::io::Result<String> {
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

impl Backend for Apache {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    async fn run(&mut self) {
        assert!(self.process.is_none());
        let directory = self.directory.path();
        let log = File::create(directory.join("server.log")).unwrap();
        // A killed process loses nothing that the kernel has, so the disk need not be waited for.
        let process = Command::new("java")
            .args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
            .args(["-cp", JAR, "-Dzookeeper.forceSync=no"])
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
            let log = || std::fs::read_to_string(directory.join("server.log"));
            assert!(Instant::now() < deadline, "{:?}", log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn wipe(&self) {
        assert!(self.process.is_none());
        std::fs::remove_dir_all(self.directory.path().join("data")).unwrap();
    }
}

impl Drop for Apache {
    fn drop(&mut self) {
        self.kill();
    }
}
