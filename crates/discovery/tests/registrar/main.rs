//! Registrars and drain boards against a real registry, through connections that fail.

#[cfg(test)]
mod apache;
#[cfg(test)]
mod draining;
#[cfg(test)]
#[path = "../../../zk/tests/client/embedded.rs"]
mod embedded;
#[cfg(test)]
mod forwarder;
#[cfg(test)]
mod keeping;
#[cfg(test)]
mod registry;
