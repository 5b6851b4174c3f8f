//! The embedded registry: a single-node server that speaks ZooKeeper's client protocol, so that whatever
//! registers in ZooKeeper can register here.
//!
//! [`Server::start`] restores a data directory and serves on a thread of its own. Within, `machine` is what
//! a ZooKeeper server does, without I/O; `store` keeps it on disk; `server` joins them to sockets.
//!
//! ```no_run
//! use livegate_registry::{Options, Server};
//!
//! # fn main() -> Result<(), livegate_registry::StartError> {
//! let listen = "127.0.0.1:2181".parse().expect("an address");
//! let server = Server::start(Options::new(listen, "registry-data"))?;
//! println!("listening on {}", server.address());
//! server.stop();
//! # Ok(())
//! # }
//! ```

#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod machine;
mod options;
mod server;
mod store;
pub mod zoo_cfg;

pub use options::{Options, Whitelist};
pub use server::{Server, StartError};
