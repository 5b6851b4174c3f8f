//! Three servers of Apache ZooKeeper that are one ensemble, under a test's control.

use std::fmt::Write;
use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, Instant};

use livegate_zk::client::{Client, ConnectOptions, ConnectionState};

use crate::apache::{ask_async, free_ports, log, own_ip, spawn, take_turn, watches};
use crate::connect::options;

/// How many servers there are.
pub(crate) const SERVERS: usize = 3;

/// Sessions are of 2 to 20 ticks, 6 s to a minute: three JVMs that start on a busy machine take their time.
const TICK: Duration = Duration::from_secs(3);

/// How long an election, or a start on a busy machine, may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// An ensemble of its own, with directories of its own.
pub(crate) struct Ensemble {
    directory: tempfile::TempDir,
    members: [Member; SERVERS],
    _turn: File,
}

struct Member {
    /// For clients.
    address: SocketAddr,
    process: Option<Child>,
}

impl Ensemble {
    /// Starts all servers and waits until they serve. `None`, with a line that says so, where there is no
    /// Java or no ZooKeeper.
    pub(crate) async fn start() -> Option<Self> {
        let turn = take_turn()?;
        let ip = own_ip();
        let ports = free_ports(ip, 3 * SERVERS);
        let directory = tempfile::tempdir().unwrap();
        let mut servers = String::new();
        for (number, ports) in ports.chunks(SERVERS).enumerate() {
            writeln!(servers, "server.{number}={ip}:{}:{}", ports[1], ports[2]).unwrap();
        }
        let mut ensemble = Self {
            members: std::array::from_fn(|number| Member {
                address: SocketAddr::new(ip.into(), ports[SERVERS * number]),
                process: None,
            }),
            directory,
            _turn: turn,
        };
        for number in 0..SERVERS {
            let home = ensemble.home(number);
            let data = home.join("data");
            std::fs::create_dir_all(&data).unwrap();
            std::fs::write(data.join("myid"), number.to_string()).unwrap();
            let config = format!(
                "tickTime={}\ninitLimit=10\nsyncLimit=5\ndataDir={}\nclientPort={}\n\
                 clientPortAddress={ip}\nadmin.enableServer=false\n4lw.commands.whitelist=*\n\
                 maxClientCnxns=0\n{servers}",
                TICK.as_millis(),
                data.display(),
                ensemble.members[number].address.port(),
            );
            std::fs::write(home.join("zoo.cfg"), config).unwrap();
            ensemble.launch(number);
        }
        ensemble.all_serve().await;
        Some(ensemble)
    }

    fn home(&self, number: usize) -> PathBuf {
        self.directory.path().join(number.to_string())
    }

    /// Starts a server, which must not run, and does not wait.
    pub(crate) fn launch(&mut self, number: usize) {
        assert!(self.members[number].process.is_none());
        // A server alone asks again for votes at least this often (the default is a minute).
        let properties = ["-Dzookeeper.fastleader.maxNotificationInterval=1000".to_owned()];
        self.members[number].process = Some(spawn(&self.home(number), &properties));
    }

    /// Ends a server at once, as `kill -9` does.
    pub(crate) fn kill(&mut self, number: usize) {
        if let Some(mut process) = self.members[number].process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Waits until all servers that run serve, and one of them leads.
    pub(crate) async fn all_serve(&self) {
        let deadline = Instant::now() + PATIENCE;
        for number in self.running() {
            while self.mode(number).await.is_none() {
                assert!(Instant::now() < deadline, "{}", self.log(number));
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    fn log(&self, number: usize) -> String {
        log(&self.home(number))
    }

    /// The servers that run.
    pub(crate) fn running(&self) -> Vec<usize> {
        (0..SERVERS)
            .filter(|&number| self.members[number].process.is_some())
            .collect()
    }

    /// What a server is: `leader` or `follower`, or `None` while it does not serve.
    async fn mode(&self, number: usize) -> Option<String> {
        let answer = ask_async(self.address(number), "srvr").await.ok()?;
        let mode = answer
            .lines()
            .find_map(|line| line.strip_prefix("Mode: "))?;
        Some(mode.to_owned())
    }

    /// The server that leads.
    pub(crate) async fn leader(&self) -> usize {
        let deadline = Instant::now() + PATIENCE;
        loop {
            for number in self.running() {
                if self.mode(number).await.as_deref() == Some("leader") {
                    return number;
                }
            }
            assert!(Instant::now() < deadline, "nobody leads");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn address(&self, number: usize) -> SocketAddr {
        self.members[number].address
    }

    /// Options to connect to any of the servers.
    pub(crate) fn options(&self) -> ConnectOptions {
        options_for(std::array::from_fn(|number| self.address(number)))
    }

    /// The server that a client is connected to.
    pub(crate) fn server_of(&self, client: &Client) -> Option<usize> {
        let ConnectionState::Connected { server } = client.state().connection else {
            return None;
        };
        (0..SERVERS).find(|&number| self.address(number) == server)
    }

    /// How many watches the servers hold together.
    pub(crate) async fn watches(&self) -> usize {
        let mut sum = 0;
        for number in self.running() {
            sum += watches(self.address(number)).await;
        }
        sum
    }
}

impl Drop for Ensemble {
    fn drop(&mut self) {
        for number in 0..SERVERS {
            self.kill(number);
        }
    }
}

/// Options to connect to any of these, which are servers or stand for them, with the longest session.
pub(crate) fn options_for(servers: [SocketAddr; SERVERS]) -> ConnectOptions {
    ConnectOptions {
        session_timeout: 20 * TICK,
        ..options(&servers.map(|server| server.to_string()).join(","))
    }
}
