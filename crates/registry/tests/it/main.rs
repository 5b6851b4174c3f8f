//! The registry beside Apache ZooKeeper: the same bytes to both, and the same answers from both.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that cannot go on fails"
)]

mod apache;
mod handshake;
mod judged;
mod oracle;
mod raw;
mod words;
