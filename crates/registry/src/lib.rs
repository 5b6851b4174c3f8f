//! Embedded single-node ZooKeeper-compatible registry server.
