//! The registry in a process of its own, which can be killed, frozen and measured.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use livegate_registry::{Options, Server, Whitelist};
use rustix::process::{Pid, Signal, kill_process};

/// Tells a process of this test binary that it is a server, and where its data is.
const DIRECTORY: &str = "LIVEGATE_TEST_REGISTRY_DIRECTORY";
const LISTEN: &str = "LIVEGATE_TEST_REGISTRY_LISTEN";

/// Sessions last for 2 to 20 of these.
pub(crate) const TICK: Duration = Duration::from_millis(500);

const PATIENCE: Duration = Duration::from_secs(60);

/// Not a test: the body of the processes below.
#[test]
fn server_process() {
    let Some(directory) = std::env::var_os(DIRECTORY).map(PathBuf::from) else {
        return;
    };
    let listen = std::env::var(LISTEN).unwrap().parse().unwrap();
    let options = Options {
        tick_time: TICK,
        connections_per_address_max: 0,
        four_letter_words: Whitelist::All,
        ..Options::new(listen, directory.join("data"))
    };
    let server = Server::start(options).unwrap();
    let unfinished = directory.join("address.tmp");
    std::fs::write(&unfinished, server.address().to_string()).unwrap();
    std::fs::rename(unfinished, directory.join("address")).unwrap();
    while server.is_running() {
        std::thread::park_timeout(Duration::from_secs(1));
    }
}

/// A process, and the directory that it works in.
pub(crate) struct Process {
    directory: PathBuf,
    address: SocketAddr,
    child: Option<Child>,
}

impl Process {
    /// A server with its data below this directory, once it serves.
    pub(crate) fn start(directory: &Path) -> Self {
        let mut process = Self {
            directory: directory.to_owned(),
            address: "127.0.0.1:0".parse().unwrap(),
            child: None,
        };
        process.run();
        process
    }

    /// Starts it, which must not run, where it was.
    pub(crate) fn run(&mut self) {
        assert!(self.child.is_none());
        let told = self.directory.join("address");
        if told.exists() {
            std::fs::remove_file(&told).unwrap();
        }
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "process::server_process", "--nocapture"])
            .env(DIRECTORY, &self.directory)
            .env(LISTEN, self.address.to_string())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
        let deadline = Instant::now() + PATIENCE;
        while !told.exists() {
            assert!(Instant::now() < deadline, "the server does not serve");
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert_eq!(ended, None, "the server has ended");
            std::thread::park_timeout(Duration::from_millis(2));
        }
        self.address = std::fs::read_to_string(told).unwrap().parse().unwrap();
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Bytes of memory that it has.
    pub(crate) fn memory(&self) -> usize {
        let status = format!("/proc/{}/status", self.pid().as_raw_nonzero());
        let status = std::fs::read_to_string(status).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.unwrap().trim().trim_end_matches(" kB");
        kilobytes.parse::<usize>().unwrap() * 1024
    }

    fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
