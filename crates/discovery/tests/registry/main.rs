//! Watching services in a real registry: every layout, every kind of change, every outage.

#[cfg(test)]
mod apache;
#[cfg(test)]
mod backend;
#[cfg(test)]
mod changes;
#[cfg(test)]
mod embedded;
#[cfg(test)]
#[path = "../../../zk/tests/client/forwarder.rs"]
mod forwarder;
#[cfg(test)]
mod layouts;
#[cfg(test)]
mod outages;
#[cfg(test)]
mod scale;
