//! ZooKeeper's client protocol: the codec for both sides, and the client session.
//!
//! [`jute`], [`frame`] and [`proto`] are the codec. It does no I/O, borrows what it decodes and allocates
//! nothing while decoding. Entry points for foreign bytes are [`frame::FrameReader`] (a stream of either
//! side), [`proto::request::Request::decode`] and [`proto::session::ConnectRequest`] (what a server
//! reads), [`proto::reply::Reply::decode`], [`proto::session::ConnectReply`] and
//! [`proto::watch::WatcherEvent`] (what a client reads), and [`path::validate`].

//!
//! [`client`] is the client: one session with an ensemble, kept alive with its watches through whatever
//! happens to connections.
//!
//! ```no_run
//! use livegate_zk::client::{Client, ConnectOptions, Notification};
//! use livegate_zk::proto::acl::Acl;
//! use livegate_zk::proto::create_mode::CreateMode;
//! use livegate_zk::proto::watch::AddWatchMode;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect(ConnectOptions::new("zk1:2181,zk2:2181/services")?).await?;
//! client.ensure("/orders", CreateMode::Container, Acl::OPEN).await?;
//! client.create("/orders/10.0.0.3:8080", b"", CreateMode::Ephemeral, Acl::OPEN).await?;
//!
//! // First the watch, then the list: nothing falls in between.
//! let mut watcher = client.watch("/orders", AddWatchMode::PersistentRecursive).await?;
//! println!("{:?}", client.children("/orders").await?);
//! while let Some(notification) = watcher.next().await {
//!     match notification {
//!         Notification::Event(event) => println!("{:?} {}", event.kind, event.path),
//!         Notification::Gap(_) => println!("{:?}", client.children("/orders").await?),
//!     }
//! }
//! # Ok(())
//! # }
//! ```

pub mod client;
pub mod four_letter;
pub mod frame;
pub mod jute;
pub mod path;
pub mod proto;

#[cfg(test)]
mod codec_tests;
#[cfg(test)]
mod sample;
