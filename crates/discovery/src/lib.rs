//! Find, register and balance service instances: the client-side discovery library of Livegate, which is its
//! first user.
//!
//! Services are registered in ZooKeeper, or in the registry that `livegate run` brings along, as ephemeral
//! nodes. This crate keeps an instance registered, finds the instances of a service, and spreads calls over
//! those that are alive. It speaks no HTTP: bring the client and the server that you have.
//!
//! # A server
//!
//! Three lines register it; a fourth lets it leave without losing a request:
//!
//! ```no_run
//! # async fn example(listener: tokio::net::TcpListener) -> Result<(), Box<dyn std::error::Error>> {
//! use livegate_discovery::registrar::Registrar;
//! use livegate_zk::client::{Client, ConnectOptions};
//!
//! let client = Client::start(ConnectOptions::new("zk1:2181,zk2:2181")?);
//! let address = listener.local_addr()?.try_into()?;
//! let registration = Registrar::new(client, "orders", address).start()?;
//! // ... serve; on SIGTERM:
//! registration.drain(std::time::Duration::from_secs(30)).await;
//! # Ok(())
//! # }
//! ```
//!
//! [`registrar`] says what can be relied on; `examples/server.rs` is a whole one.
//!
//! # A client
//!
//! A [`Finder`](finder::Finder) finds a service, of the registry or a fixed list, and keeps it up to date in
//! the background, with probes of its own. Each call picks an instance and says how it ended, which is
//! evidence for the next picks; picking again with those that were tried is a retry:
//!
//! ```no_run
//! # async fn get(address: std::net::SocketAddr) -> std::io::Result<u16> { Err(std::io::Error::other(format!("{address}"))) }
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::{Duration, Instant};
//!
//! use livegate_discovery::Outcome;
//! use livegate_discovery::finder::Finder;
//! use livegate_zk::client::{Client, ConnectOptions};
//!
//! let client = Client::start(ConnectOptions::new("zk1:2181,zk2:2181")?);
//! let orders = Finder::new(client, "orders").start()?;
//! // For each call, anywhere:
//! let mut tried = Vec::new();
//! let status = loop {
//!     orders.ready(Duration::from_secs(10)).await?;
//!     let pick = orders.pick(None, &tried)?;
//!     tried.push(pick.endpoint().key());
//!     let sent = Instant::now();
//!     match get(pick.endpoint().address()).await {
//!         Ok(status) => {
//!             let latency = sent.elapsed();
//!             pick.finish(Outcome::Answered { status, latency }, Instant::now());
//!             break status;
//!         }
//!         Err(error) => {
//!             pick.finish(Outcome::of_error(&error), Instant::now());
//!             if tried.len() == 3 {
//!                 return Err(error.into());
//!             }
//!         }
//!     }
//! };
//! # Ok(())
//! # }
//! ```
//!
//! How to balance may change at any time: `orders.policy()` is a subject that the balancer observes.
//! `orders.view()` shows every instance with the reasons for its state, `orders.events()` tells what happens
//! and why. `examples/client.rs` is a whole client with a common HTTP library.
//!
//! Underneath are parts that can be had alone, as the gateway has them: [`watch`] follows the instances of a
//! service as [`Snapshot`]s; [`channel`] makes the two halves of a balancer, of which the [`Updater`] takes
//! in snapshots and evidence and publishes immutable [`View`]s, and every [`Balancer`] picks from the latest
//! one without a lock; [`probe`] knows whom to probe when. All but the first are synchronous and are told the
//! time.
//!
//! # When something fails
//!
//! - **An instance is killed.** The first call that is refused puts it into quarantine before
//!   [`Pick::finish`] returns; nobody picks it again until a probe connects or it registers anew. Failures in
//!   a row eject it ([`OutlierPolicy`]), silence while others answer marks it as stalled ([`StallPolicy`]).
//! - **The registry is away.** The list stays as it was, as [`Status::Stale`]; an error never shortens it. With
//!   [`SavedSnapshots`] a process that starts meanwhile knows what the last one knew.
//! - **The registry is back, or many instances leave at once.** A deletion is a claim, not a fact: what leaves
//!   then is held for as long as its probes pass, up to [`HoldPolicy::grace`].
//! - **All are restarted at once.** [`ServiceClient::ready`](finder::ServiceClient::ready) waits for the
//!   first that is back.
//! - **Nobody is fit.** Then the least bad are picked, and [`Pick::is_panic`] says so. [`NoEndpoint`] tells why
//!   there is nothing at all to pick: not known yet, no such service, no instances, none that takes requests.
//! - **The registry is protected.** A client with an identity keeps others from changing what it registers, and
//!   lets everybody read it; parents that are missing are made so that others may add to them, not take away.
//! - **A session ends.** Registrations are made again in the next one, watches go on by themselves.
//!
//! [`drain`] is the handshake by which an instance leaves without losing a request, in which clients
//! [take part](finder::Finder::acknowledge_drains) if they want; [`layout`] is how other registrars' nodes are read.

mod acl;
mod balance;
mod balancer;
mod courtesy;
mod dice;
pub mod drain;
mod endpoint;
pub mod finder;
pub mod layout;
mod pick;
mod policy;
pub mod probe;
pub mod registrar;
mod saved;
mod shared_map;
mod snapshot;
mod updater;
mod view;
mod watch;

pub use balancer::{Balancer, channel, key_of};
pub use endpoint::{Endpoint, EndpointKey};
pub use pick::{NoEndpoint, Outcome, Pick};
pub use policy::{Balance, HoldPolicy, OutlierPolicy, Policy, StallPolicy, UnknownBalance};
pub use saved::{Keeper, SavedSnapshots};
pub use shared_map::SharedMap;
pub use snapshot::{Incarnation, Instance, InstanceId, InstanceState, Instances, Snapshot, Status};
pub use updater::{Doubt, Health, Move, Transition, UnknownInstance, Updater};
pub use view::{EndpointState, Member, Members, Reason, Shadowed, Source, View};
pub use watch::{
    Discovery, DiscoveryOptions, RootWatch, ServiceOptions, ServiceWatch, Services, WatchStats,
    Weights, watch,
};
