//! Registrars and drain boards against a real registry, through connections that fail.

#[cfg(test)]
#[path = "../../../zk/tests/support/apache.rs"]
mod apache;
#[cfg(test)]
#[path = "../../../zk/tests/support/connect.rs"]
mod connect;
#[cfg(test)]
mod draining;
#[cfg(test)]
#[path = "../../../zk/tests/support/embedded.rs"]
mod embedded;
#[cfg(test)]
#[path = "../../../zk/tests/support/forwarder.rs"]
mod forwarder;
#[cfg(test)]
mod keeping;
#[cfg(test)]
mod registry;
#[cfg(test)]
#[path = "../../../zk/tests/support/server.rs"]
mod server;
