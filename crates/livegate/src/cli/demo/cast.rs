//! The instances of the sample services: processes that are started again when they die.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::gateway::{Addresses, program};
use super::place::{free_port, is_free};
use super::voice::Voice;
use crate::cli::register::child::Child;

/// A sample service and the ports that its instances get where these are free.
#[derive(Debug, Clone, Copy)]
pub(super) struct Service {
    pub(super) name: &'static str,
    pub(super) instances: [u16; 3],
}

pub(super) const SERVICES: [Service; 2] = [
    Service {
        name: "orders",
        instances: [7101, 7102, 7103],
    },
    Service {
        name: "prices",
        instances: [7201, 7202, 7203],
    },
];

/// How long an instance that died stays dead: long enough to ask why it is not used.
pub(super) const RESTART_PAUSE: Duration = Duration::from_secs(15);

/// An instance that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Running {
    pub(super) service: &'static str,
    pub(super) address: SocketAddr,
    pub(super) pid: u32,
}

/// All instances. Dropping it does not stop them: [`stop`](Self::stop) does, and the end of the process.
#[derive(Debug)]
pub(super) struct Cast {
    /// By the port that was wanted.
    running: Arc<Mutex<BTreeMap<u16, Running>>>,
    stopping: CancellationToken,
    keepers: JoinSet<()>,
}

impl Cast {
    /// Starts them in the background. `hurry` cuts their stopping short.
    pub(super) fn start(addresses: &Addresses, voice: &Voice, hurry: &CancellationToken) -> Self {
        let running = Arc::default();
        let stopping = CancellationToken::new();
        let mut keepers = JoinSet::new();
        for service in SERVICES {
            for port in service.instances {
                let keeper = Keeper {
                    service: service.name,
                    port,
                    address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
                    registry: addresses.registry,
                    running: Arc::clone(&running),
                    voice: voice.clone(),
                    stopping: stopping.clone(),
                    hurry: hurry.clone(),
                };
                keepers.spawn(keeper.run());
            }
        }
        Self {
            running,
            stopping,
            keepers,
        }
    }

    /// Those that run now.
    pub(super) fn instances(&self) -> Vec<Running> {
        self.running.lock().values().cloned().collect()
    }

    /// Lets all drain and end.
    pub(super) async fn stop(&mut self) {
        self.stopping.cancel();
        while self.keepers.join_next().await.is_some() {}
    }
}

/// Keeps one instance running.
struct Keeper {
    service: &'static str,
    /// The port that was wanted.
    port: u16,
    address: SocketAddr,
    registry: SocketAddr,
    running: Arc<Mutex<BTreeMap<u16, Running>>>,
    voice: Voice,
    stopping: CancellationToken,
    hurry: CancellationToken,
}

impl Keeper {
    async fn run(mut self) {
        let mut is_first = true;
        loop {
            if !is_free(self.address) {
                let other = free_port(self.port);
                self.address = other.unwrap_or(self.address);
            }
            let why = match self.start() {
                Ok((mut child, pid)) => {
                    if !is_first {
                        self.say(&format!("runs again, as pid {pid}"));
                    }
                    tokio::select! {
                        ended = child.ended() => {
                            self.running.lock().remove(&self.port);
                            match ended {
                                Ok(status) => format!("(pid {pid}) has ended ({status})"),
                                Err(error) => format!("(pid {pid}) is lost: {error}"),
                            }
                        }
                        () = self.stopping.cancelled() => {
                            // Whatever its end was, it is one.
                            drop(child.stop(self.hurry.cancelled()).await);
                            return;
                        }
                    }
                }
                Err(error) => format!("cannot be started: {error}"),
            };
            is_first = false;
            let seconds = RESTART_PAUSE.as_secs();
            self.say(&format!("{why}; it is started again in {seconds} s"));
            tokio::select! {
                () = sleep(RESTART_PAUSE) => {}
                () = self.stopping.cancelled() => return,
            }
        }
    }

    fn start(&self) -> std::io::Result<(Child, u32)> {
        let mut command = Command::new(program());
        command
            .args(["sample-instance", self.service])
            .args(["--listen", &self.address.to_string()])
            .args(["--registry", &self.registry.to_string()])
            .args(["--parent", &std::process::id().to_string()])
            .stdin(std::process::Stdio::null());
        let child = Child::spawn(&mut command)?;
        let pid = child.pid().map_or(0, |pid| pid.as_raw_nonzero().get());
        let pid = pid.cast_unsigned();
        let running = Running {
            service: self.service,
            address: self.address,
            pid,
        };
        self.running.lock().insert(self.port, running);
        Ok((child, pid))
    }

    fn say(&self, what: &str) {
        let Self {
            service, address, ..
        } = self;
        self.voice.tell(&format!("{service} {address} {what}"));
    }
}
