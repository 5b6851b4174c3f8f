//! The registry beside Apache ZooKeeper: the same bytes to both, and the same answers from both. And alone: hostile
//! clients, full disks, frozen and killed processes.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that cannot go on fails"
)]

#[path = "../../../zk/tests/support/apache.rs"]
mod apache;
mod endurance;
mod handshake;
mod hostile;
mod judged;
mod oracle;
mod process;
mod raw;
mod words;
