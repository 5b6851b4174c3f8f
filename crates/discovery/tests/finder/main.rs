//! The ready-made client with real sockets and a real registry: whatever dies and comes back, no call fails.

#[cfg(test)]
#[path = "../../../zk/tests/support/apache.rs"]
mod apache;
#[cfg(test)]
mod calls;
#[cfg(test)]
#[path = "../../../zk/tests/support/embedded.rs"]
mod embedded;
#[cfg(test)]
mod instance;
#[cfg(test)]
mod lists;
#[cfg(test)]
mod registered;
