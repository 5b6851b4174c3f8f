//! Embedded single-node ZooKeeper-compatible registry server.

#[allow(
    dead_code,
    reason = "the server that stores its changes here is built on top of it"
)]
mod store;
