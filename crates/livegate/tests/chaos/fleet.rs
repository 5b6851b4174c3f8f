//! Instances as processes that register by themselves, or are registered by `livegate register`.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use livegate_discovery::registrar::Registrar;
use livegate_zk::client::{Client, ConnectOptions};
use rustix::process::{Signal, kill_process};

use crate::harness::command::livegate;
use crate::harness::gateway::pid_of;
use crate::harness::instance::{MODE, journal, serve};
use crate::harness::port::Port;
use crate::harness::wait::holds_within;
use crate::registry::Link;

pub(crate) const SERVICE: &str = "orders";

/// Environment variable of an instance that registers itself: connect string, session timeout in ms.
const REGISTER: &str = "LIVEGATE_CHAOS_REGISTER";

const PATIENCE: Duration = Duration::from_secs(60);

/// How an instance comes into the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Registered {
    /// By a session of its own process, which dies with it and leaves the node to time out.
    ByItself,
    /// `livegate register -- INSTANCE`.
    ByCommand,
    /// By somebody else. It listens on all addresses of this machine.
    Not,
}

pub(crate) struct Instance {
    pub(crate) port: Port,
    pub(crate) link: Link,
    registered: Registered,
    session_timeout: Duration,
    takes: Duration,
    journal: PathBuf,
    process: Option<Child>,
}

impl Instance {
    pub(crate) fn start(
        directory: &Path,
        link: Link,
        registered: Registered,
        session_timeout: Duration,
        takes: Duration,
    ) -> Instance {
        let port = Port::claim();
        let mut instance = Instance {
            journal: directory.join(format!("journal-{}", port.number())),
            port,
            link,
            registered,
            session_timeout,
            takes,
            process: None,
        };
        instance.launch();
        instance
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.port.address()
    }

    pub(crate) fn launch(&mut self) {
        assert!(self.process.is_none(), "it still runs");
        let myself = std::env::current_exe().unwrap();
        let mut command = match self.registered {
            Registered::ByItself | Registered::Not => Command::new(myself),
            Registered::ByCommand => {
                let (address, hosts) = (self.address().to_string(), self.link.hosts());
                let words = [
                    "register",
                    SERVICE,
                    "--address",
                    &address,
                    "--registry",
                    &hosts,
                ];
                let mut command = livegate(&words);
                command.arg("--").arg(myself);
                command
            }
        };
        let listen: SocketAddr = match self.registered {
            Registered::Not => (Ipv4Addr::UNSPECIFIED, self.port.number()).into(),
            Registered::ByItself | Registered::ByCommand => self.address(),
        };
        let (takes, journal) = (self.takes.as_millis(), self.journal.display());
        command.env(MODE, format!("{listen} Die {takes} {journal}"));
        if self.registered == Registered::ByItself {
            let timeout = self.session_timeout.as_millis();
            command.env(REGISTER, format!("{} {timeout}", self.link.hosts()));
        }
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.journal.with_extension("log"))
            .unwrap();
        let process = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(process);
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(pid_of(self.process.as_ref().expect("it runs")), signal).unwrap();
    }

    /// Sends the signal and waits for the end.
    pub(crate) fn end(&mut self, signal: Signal) {
        self.signal(signal);
        let mut process = self.process.take().expect("it runs");
        let ended = holds_within(PATIENCE, || process.try_wait().unwrap().is_some());
        if !ended {
            drop(process.kill());
            drop(process.wait());
            panic!("{} does not end on {signal:?}", self.address());
        }
    }

    pub(crate) fn wait_until_listening(&self) {
        let listens = holds_within(PATIENCE, || TcpStream::connect(self.address()).is_ok());
        assert!(listens, "nobody listens on {}", self.address());
    }

    /// Targets of the POSTs that it began.
    pub(crate) fn journal(&self) -> Vec<String> {
        journal(&self.journal)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // `livegate register` takes its command along when it is killed.
            drop(process.kill());
            drop(process.wait());
        }
    }
}

/// The life of an instance's process, if this is one.
pub(crate) fn serve_if_told() {
    let Ok(mode) = std::env::var(MODE) else {
        return;
    };
    if let Ok(register) = std::env::var(REGISTER) {
        let address = mode.split(' ').next().unwrap().parse().unwrap();
        std::thread::spawn(move || keep_registered(&register, address));
    }
    serve(&mode);
}

fn keep_registered(register: &str, address: SocketAddr) {
    let listens = holds_within(PATIENCE, || TcpStream::connect(address).is_ok());
    assert!(listens, "nobody listens on {address}");
    let (hosts, timeout) = register.split_once(' ').unwrap();
    let options = ConnectOptions {
        session_timeout: Duration::from_millis(timeout.parse().unwrap()),
        ..ConnectOptions::new(hosts).unwrap()
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let registrar =
            Registrar::new(Client::start(options), SERVICE, address.try_into().unwrap());
        let _registration = registrar.start().unwrap();
        std::future::pending::<()>().await;
    });
}
