//! The client against Apache ZooKeeper and the embedded registry, against a server that misbehaves on demand, and against bytes that
//! are no protocol at all.

#[cfg(test)]
mod apache;
#[cfg(test)]
mod embedded;
#[cfg(test)]
mod ensemble;
#[cfg(test)]
mod fake;
#[cfg(test)]
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
mod quorum;
#[cfg(test)]
mod scale;
#[cfg(test)]
mod server;
#[cfg(test)]
mod sessions;
#[cfg(test)]
#[cfg(feature = "tls")]
mod tls;
#[cfg(test)]
mod watches;
