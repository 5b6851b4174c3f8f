//! Apache ZooKeeper under a test's control.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::judged::{SUPER_DIGEST, Settings};

/// Where Debian's package `zookeeper` puts it.
const JAR: &str = "/usr/share/java/zookeeper.jar";

/// Waits for the machine's turn to run Java: tests run in parallel, and a JVM for each would be too much.
/// `None`, with a line that says so, where there is no Java or no ZooKeeper.
pub(crate) fn turn() -> Option<File> {
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
    // The same file as in the tests of the client.
    let turn = File::create(std::env::temp_dir().join("livegate-zk-tests.lock")).unwrap();
    turn.lock().unwrap();
    Some(turn)
}

/// A server of its own, with a data directory of its own.
pub(crate) struct Apache {
    address: SocketAddr,
    process: Child,
    directory: tempfile::TempDir,
}

impl Apache {
    /// An empty server, once it serves.
    pub(crate) fn start(settings: &Settings) -> Self {
        let address = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let directory = tempfile::tempdir().unwrap();
        let config = format!(
            "tickTime={}\nminSessionTimeout={}\nmaxSessionTimeout={}\ndataDir={}\nclientPort={}\n\
             clientPortAddress=127.0.0.1\nadmin.enableServer=false\n4lw.commands.whitelist={}\n\
             maxClientCnxns={}\n",
            settings.tick.as_millis(),
            settings.timeouts.0.as_millis(),
            settings.timeouts.1.as_millis(),
            directory.path().join("data").display(),
            address.port(),
            settings.whitelist,
            settings.connections_max,
        );
        let file = directory.path().join("zoo.cfg");
        std::fs::write(&file, config).unwrap();
        let log = File::create(directory.path().join("server.log")).unwrap();
        // The disk need not be waited for: nobody pulls the plug in these tests.
        let process = Command::new("java")
            .args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
            .args(["-cp", JAR])
            .args([
                "-Dzookeeper.extendedTypesEnabled=true",
                "-Dzookeeper.forceSync=no",
                "-Dreadonlymode.enabled=true",
                "-Dznode.container.checkIntervalMs=86400000",
            ])
            .arg(format!(
                "-Dzookeeper.DigestAuthenticationProvider.superDigest={SUPER_DIGEST}"
            ))
            .arg("org.apache.zookeeper.server.quorum.QuorumPeerMain")
            .arg(file)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let server = Self {
            address,
            process,
            directory,
        };
        server.wait_until_it_serves();
        server
    }

    /// `ruok` and `srvr` may not be whitelisted; a refusal is an answer too.
    fn wait_until_it_serves(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let serves = || {
            let answer = ask(self.address, "srvr").unwrap_or_default();
            answer.contains("Mode:") || answer.contains("whitelist")
        };
        while !serves() {
            let log = self.directory.path().join("server.log");
            assert!(
                Instant::now() < deadline,
                "{}",
                std::fs::read_to_string(log).unwrap_or_default()
            );
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Apache {
    fn drop(&mut self) {
        // It may have died by itself, which the test has noticed.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// The answer to a four-letter word.
pub(crate) fn ask(address: SocketAddr, word: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(word.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
