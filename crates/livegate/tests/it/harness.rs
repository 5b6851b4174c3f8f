//! What the tests stand on. Nothing in here uses the gateway's own code.

pub(crate) mod client;
pub(crate) mod command;
pub(crate) mod files;
pub(crate) mod gateway;
pub(crate) mod instance;
pub(crate) mod load;
pub(crate) mod origin;
pub(crate) mod port;
pub(crate) mod turn;
pub(crate) mod wait;
pub(crate) mod wire;
pub(crate) mod zookeeper;
