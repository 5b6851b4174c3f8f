//! Find, register and balance service instances: the client-side discovery library of Livegate.
//!
//! [`channel`] makes the two halves of a balancer. The [`Updater`] takes in [`Snapshot`]s and
//! evidence about health and publishes immutable [`View`]s; every [`Balancer`] picks from the
//! latest view without a lock. Both are synchronous and are told the time.
//!
//! [`registrar`] keeps an instance registered for as long as it serves, and [`drain`] is how it leaves
//! without losing a request.

mod balance;
mod balancer;
mod dice;
pub mod drain;
mod endpoint;
pub mod layout;
mod pick;
mod policy;
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
