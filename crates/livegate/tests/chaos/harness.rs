//! What the black-box tests stand on, as far as it is needed here.

#[path = "../it/harness/client.rs"]
pub(crate) mod client;
#[path = "../it/harness/command.rs"]
pub(crate) mod command;
#[path = "../it/harness/gateway.rs"]
pub(crate) mod gateway;
#[path = "../it/harness/instance.rs"]
pub(crate) mod instance;
#[path = "../it/harness/origin.rs"]
pub(crate) mod origin;
#[path = "../it/harness/port.rs"]
pub(crate) mod port;
#[path = "../it/harness/turn.rs"]
pub(crate) mod turn;
#[path = "../it/harness/wait.rs"]
pub(crate) mod wait;
#[path = "../it/harness/wire.rs"]
pub(crate) mod wire;
#[path = "../it/harness/zookeeper.rs"]
pub(crate) mod zookeeper;
