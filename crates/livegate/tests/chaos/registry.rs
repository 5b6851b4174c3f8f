//! The registry under a row: where it runs, how it dies, and the links through which others reach it.

use std::net::SocketAddr;
use std::time::Duration;

use livegate_zk::client::{Client, ConnectOptions};
use tokio::runtime::Handle;

use crate::forwarder::{Forwarder, Mode};
use crate::harness::port::Port;
use crate::harness::zookeeper::{self, ZooKeeper};
use crate::quorum::{Ensemble, SERVERS};

/// A second for ticks: servers give sessions of 2 s to 20 s.
const TICK: Duration = Duration::from_secs(1);

/// Which registry a row runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The one in the gateway's process.
    Embedded,
    /// `livegate registry`.
    Livegate,
    /// Apache ZooKeeper, one server.
    Apache,
    /// Three servers of Apache ZooKeeper.
    Ensemble,
}

impl Kind {
    pub(crate) const ALL: [Kind; 4] =
        [Kind::Embedded, Kind::Livegate, Kind::Apache, Kind::Ensemble];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Embedded => "embedded",
            Kind::Livegate => "livegate",
            Kind::Apache => "apache",
            Kind::Ensemble => "ensemble",
        }
    }

    /// The shortest session that it grants.
    pub(crate) fn session_timeout_min(self) -> Duration {
        match self {
            Kind::Embedded | Kind::Livegate | Kind::Apache => 2 * TICK,
            Kind::Ensemble => Duration::from_secs(6),
        }
    }
}

pub(crate) enum Registry {
    /// The gateway starts it here.
    Embedded(Port),
    Alone(ZooKeeper),
    Ensemble(Box<Ensemble>),
}

impl Registry {
    /// `None`, with a line that says so, where there is no such server.
    pub(crate) fn start(kind: Kind, handle: &Handle) -> Option<Registry> {
        match kind {
            Kind::Embedded => Some(Registry::Embedded(Port::claim())),
            Kind::Livegate => {
                ZooKeeper::start(zookeeper::Kind::Embedded, TICK).map(Registry::Alone)
            }
            Kind::Apache => ZooKeeper::start(zookeeper::Kind::Apache, TICK).map(Registry::Alone),
            Kind::Ensemble => {
                let ensemble = handle.block_on(Ensemble::start())?;
                Some(Registry::Ensemble(Box::new(ensemble)))
            }
        }
    }

    pub(crate) fn servers(&self) -> Vec<SocketAddr> {
        match self {
            Registry::Embedded(port) => vec![port.address()],
            Registry::Alone(server) => vec![server.address()],
            Registry::Ensemble(ensemble) => (0..SERVERS)
                .map(|number| ensemble.address(number))
                .collect(),
        }
    }

    /// SIGKILL for every server.
    pub(crate) fn kill(&mut self) {
        match self {
            Registry::Embedded(_) => panic!("it lives in the gateway"),
            Registry::Alone(server) => server.kill(),
            Registry::Ensemble(ensemble) => (0..SERVERS).for_each(|number| ensemble.kill(number)),
        }
    }

    /// Starts what is dead and waits until it serves.
    pub(crate) fn revive(&mut self, handle: &Handle) {
        match self {
            Registry::Embedded(_) => panic!("it lives in the gateway"),
            Registry::Alone(server) => server.run(),
            Registry::Ensemble(ensemble) => {
                let running = ensemble.running();
                for number in (0..SERVERS).filter(|number| !running.contains(number)) {
                    ensemble.launch(number);
                }
                handle.block_on(ensemble.all_serve());
            }
        }
    }

    /// Deletes what a dead server has stored.
    pub(crate) fn wipe(&mut self) {
        match self {
            Registry::Alone(server) => server.wipe(),
            Registry::Embedded(_) | Registry::Ensemble(_) => panic!("only a server alone is wiped"),
        }
    }

    pub(crate) fn ensemble(&mut self) -> &mut Ensemble {
        match self {
            Registry::Ensemble(ensemble) => ensemble,
            Registry::Embedded(_) | Registry::Alone(_) => panic!("there is only one server"),
        }
    }

    /// A session of the row's own, straight to the servers.
    pub(crate) fn client(&self, handle: &Handle) -> Client {
        let _runtime = handle.enter();
        Client::start(ConnectOptions {
            session_timeout: Duration::from_secs(20),
            operation_timeout: Duration::from_secs(60),
            ..ConnectOptions::new(&connect_string(&self.servers())).unwrap()
        })
    }
}

/// The network between somebody and the registry: one forwarder for each server.
pub(crate) struct Link(Vec<Forwarder>);

impl Link {
    pub(crate) fn to(registry: &Registry, handle: &Handle) -> Link {
        let servers = registry.servers().into_iter();
        Link(
            servers
                .map(|server| handle.block_on(Forwarder::start(server)))
                .collect(),
        )
    }

    pub(crate) fn hosts(&self) -> String {
        let addresses: Vec<_> = self.0.iter().map(|forwarder| forwarder.address).collect();
        connect_string(&addresses)
    }

    pub(crate) fn set(&self, mode: Mode) {
        for forwarder in &self.0 {
            forwarder.set(mode);
        }
    }
}

fn connect_string(addresses: &[SocketAddr]) -> String {
    let addresses: Vec<_> = addresses.iter().map(SocketAddr::to_string).collect();
    addresses.join(",")
}
