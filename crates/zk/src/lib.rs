//! ZooKeeper's client protocol: the codec for both sides, and the client session.
//!
//! [`jute`], [`frame`] and [`proto`] are the codec. It does no I/O, borrows what it decodes and allocates
//! nothing while decoding. Entry points for foreign bytes are [`frame::FrameReader`] (a stream of either
//! side), [`proto::request::Request::decode`] and [`proto::session::ConnectRequest`] (what a server
//! reads), [`proto::reply::Reply::decode`], [`proto::session::ConnectReply`] and
//! [`proto::watch::WatcherEvent`] (what a client reads), and [`path::validate`].

//!
//! [`client`] is the client: [`Client`](client::Client) with
//! [`ConnectOptions`](client::ConnectOptions).

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
