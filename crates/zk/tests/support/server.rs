//! The servers that tests run against: the same tests for both.

#![allow(
    dead_code,
    reason = "shared by tests that each need another part of it"
)]

use std::net::SocketAddr;
use std::time::Duration;

use livegate_zk::client::{Client, ConnectOptions};

use crate::apache::{self, Apache};
use crate::connect;
use crate::embedded::Embedded;

/// Which server it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Apache,
    /// The registry of this project.
    Embedded,
}

/// A server of its own, with a data directory of its own.
pub(crate) enum Server {
    Apache(Apache),
    Embedded(Embedded),
}

/// Tests that take the kind of the server, for both kinds.
macro_rules! on_both {
    ($($test:ident)*) => {
        mod apache {
            $(#[tokio::test] async fn $test() { super::$test(crate::server::Kind::Apache).await; })*
        }
        mod embedded {
            $(#[tokio::test] async fn $test() { super::$test(crate::server::Kind::Embedded).await; })*
        }
    };
}
pub(crate) use on_both;

impl Server {
    /// Starts a server with ticks of this length; sessions time out after 2 to 20 of them. `None`, with
    /// a line that says so, where there is no such server.
    pub(crate) async fn start(kind: Kind, tick: Duration) -> Option<Self> {
        Some(match kind {
            Kind::Apache => {
                let mut server = Apache::new(tick)?;
                server.run_async().await;
                Self::Apache(server)
            }
            Kind::Embedded => Self::Embedded(Embedded::start(tick)),
        })
    }

    /// Starts it again, which must not run, and waits until it serves.
    pub(crate) async fn run(&mut self) {
        match self {
            Self::Apache(server) => server.run_async().await,
            Self::Embedded(server) => server.run(),
        }
    }

    /// Ends it at once.
    pub(crate) fn kill(&mut self) {
        match self {
            Self::Apache(server) => server.kill(),
            Self::Embedded(server) => server.kill(),
        }
    }

    /// Deletes everything the server, which must not run, has stored.
    pub(crate) fn wipe(&self) {
        match self {
            Self::Apache(server) => server.wipe(),
            Self::Embedded(server) => server.wipe(),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        match self {
            Self::Apache(server) => server.address(),
            Self::Embedded(server) => server.address(),
        }
    }

    /// Options to connect to it, with the shortest waits.
    pub(crate) fn options(&self) -> ConnectOptions {
        connect::options(&self.address().to_string())
    }

    /// A client of it.
    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.options()).await.unwrap()
    }

    /// The answer to a four-letter word.
    pub(crate) async fn ask(&self, word: &'static str) -> std::io::Result<String> {
        apache::ask_async(self.address(), word).await
    }

    /// How many watches the server holds: one for each path, connection and table (data, children).
    pub(crate) async fn watches(&self) -> usize {
        apache::watches(self.address()).await
    }
}
