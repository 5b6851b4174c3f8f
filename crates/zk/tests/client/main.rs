//! The client against Apache ZooKeeper and the embedded registry, against a server that misbehaves on demand, and against bytes that
//! are no protocol at all.

#[cfg(test)]
#[path = "../support/apache.rs"]
mod apache;
#[cfg(test)]
#[path = "../support/connect.rs"]
mod connect;
#[cfg(test)]
#[path = "../support/embedded.rs"]
mod embedded;
#[cfg(test)]
mod ensemble;
#[cfg(test)]
mod fake;
#[cfg(test)]
#[path = "../support/forwarder.rs"]
mod forwarder;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod ledger;
#[cfg(test)]
mod operations;
#[cfg(test)]
mod outcomes;
#[cfg(test)]
mod protocol;
#[cfg(test)]
#[path = "../support/quorum.rs"]
mod quorum;
#[cfg(test)]
mod scale;
#[cfg(test)]
#[path = "../support/server.rs"]
mod server;
#[cfg(test)]
mod sessions;
#[cfg(test)]
#[cfg(feature = "tls")]
mod tls;
#[cfg(test)]
mod watches;
