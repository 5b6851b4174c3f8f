//! Watching services in a real registry: every layout, every kind of change, every outage.

#[cfg(test)]
#[path = "../../../zk/tests/support/apache.rs"]
mod apache;
#[cfg(test)]
mod changes;
#[cfg(test)]
#[path = "../../../zk/tests/support/connect.rs"]
mod connect;
#[cfg(test)]
#[path = "../../../zk/tests/support/embedded.rs"]
mod embedded;
#[cfg(test)]
mod fixture;
#[cfg(test)]
#[path = "../../../zk/tests/support/forwarder.rs"]
mod forwarder;
#[cfg(test)]
mod layouts;
#[cfg(test)]
mod outages;
#[cfg(test)]
mod scale;
#[cfg(test)]
#[path = "../../../zk/tests/support/server.rs"]
mod server;
