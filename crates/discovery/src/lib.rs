//! Find, register and balance service instances: the client-side discovery library of Livegate, which is its
//! first user.
//!
//! Services are registered in ZooKeeper, or in the registry that `livegate run` brings along, as ephemeral nodes.
//! This crate keeps an instance registered, finds the instances of a service, and spreads calls over those that
//! are alive. It speaks no HTTP: bring the client and the server that you have.
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
//! [`watch`] follows the instances of a service as [`Snapshot`]s. [`channel`] makes the two halves of a balancer:
//! the [`Updater`] takes in snapshots and what is found out about health and publishes immutable [`View`]s; every
//! [`Balancer`] picks from the latest view without a lock, on any thread. Both are synchronous and are told the
//! time.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Instant;
//!
//! use livegate_discovery::{Outcome, Policy, ServiceOptions, channel, watch};
//! use livegate_zk::client::{Client, ConnectOptions};
//!
//! let client = Client::start(ConnectOptions::new("zk1:2181,zk2:2181")?);
//! let orders = watch(&client, "/services/orders", ServiceOptions::default())?;
//! let mut snapshots = orders.snapshots();
//! let (mut updater, balancer) = channel(Policy::default(), 1);
//! // In a task: whenever there is another snapshot, and at regular times.
//! updater.apply(&snapshots.borrow_and_update(), Instant::now());
//! updater.tick(Instant::now());
//! // For each call, anywhere:
//! let pick = balancer.pick(None, &[], Instant::now())?;
//! println!("calling {}", pick.endpoint().address());
//! pick.finish(Outcome::Refused, Instant::now());
//! # Ok(())
//! # }
//! ```
//!
//! Every [`Pick`] ends with an [`Outcome`], which is evidence for the next picks; picking again with the endpoints
//! that were tried as `avoid` is a retry. `examples/client.rs` is a whole client, with probes and retries, over a
//! service of the registry or a fixed list of addresses.
//!
//! # When something fails
//!
//! - **An instance is killed.** The first call that is refused puts it into quarantine before
//!   [`Pick::finish`] returns; nobody picks it again until a probe connects ([`Updater::doubts`] says what to
//!   probe) or it registers anew. Failures in a row eject it ([`OutlierPolicy`]), silence while others answer
//!   marks it as stalled ([`StallPolicy`]).
//! - **The registry is away.** The list stays as it was, as [`Status::Stale`]; an error never shortens it. With
//!   [`SavedSnapshots`] a process that starts meanwhile knows what the last one knew.
//! - **The registry is back, or many instances leave at once.** A deletion is a claim, not a fact: what leaves
//!   then is held for as long as its probes pass, up to [`HoldPolicy::grace`].
//! - **Nobody is fit.** Then the least bad are picked, and [`Pick::is_panic`] says so. [`NoEndpoint`] tells why
//!   there is nothing at all to pick: not known yet, no such service, no instances, none that takes requests.
//! - **A session ends.** Registrations are made again in the next one, watches go on by themselves.
//!
//! [`drain`] is the handshake by which an instance leaves without losing a request, [`layout`] how other
//! registrars' nodes are read.

mod balance;
mod balancer;
mod dice;
pub mod drain;
mod endpoint;
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

pub use balancer::{Balancer, channel};
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
