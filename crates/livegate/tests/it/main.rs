//! The gateway from outside: `livegate run --config FILE` as a process, raw sockets on both sides of it.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that cannot go on fails"
)]

mod admin_commands;
#[path = "../../../zk/tests/support/apache.rs"]
mod apache;
mod classic;
mod conformance;
mod crowd;
mod demo;
mod discovery;
mod endpoints;
mod harness;
mod kill;
mod memory;
mod observe;
mod protected;
mod register_command;
mod registry_kill;
mod reload;
mod retry;
mod shutdown;
mod storm;
mod websocket;
mod zk_command;

/// Not a test of the gateway: the body of the processes that `harness::instance` starts.
#[test]
fn instance_process() {
    if let Ok(mode) = std::env::var(harness::instance::MODE) {
        harness::instance::serve(&mode);
    }
}
