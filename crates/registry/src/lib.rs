//! Embedded single-node ZooKeeper-compatible registry server.

#[allow(
    dead_code,
    reason = "the server that stores its changes here is built on top of it"
)]
mod store;
mod zoo_cfg;

pub use zoo_cfg::{FourLetterWords, ListenHost, ZooCfg, ZooCfgError};
