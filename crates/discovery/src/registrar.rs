//! Keeping an instance registered: a server that registers itself in three lines and drains on SIGTERM.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//!
//! use livegate_discovery::registrar::Registrar;
//! use livegate_zk::client::{Client, ConnectOptions};
//! use tokio::signal::unix::{SignalKind, signal};
//!
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
//! let client = Client::start(ConnectOptions::new("zk1:2181,zk2:2181")?);
//! let address = listener.local_addr()?.try_into()?;
//! let registration = Registrar::new(client, "orders", address).weight(20).start()?;
//! // ... serve ...
//! signal(SignalKind::terminate())?.recv().await;
//! registration.drain(Duration::from_secs(30)).await;
//! // ... no gateway has a request here any more: stop serving ...
//! # Ok(())
//! # }
//! ```
//!
//! What can be relied on while a [`Registration`] lives:
//!
//! - The node `ROOT/SERVICE/ADDRESS` is there, ephemeral, and belongs to this client's session. What a
//!   dead process left there under the same address is replaced, in one transaction.
//! - After the session is over it is registered again in the next one, within 200 ms, which are random so
//!   that the instances of a whole fleet do not come at once. When somebody deletes the node, it is
//!   created again. When that does not last, waits grow up to 10 s.
//! - Of two registrars of one address the newer one wins: the older one finds a node that was created
//!   later than its own, is [`Lost`](RegistrarState::Lost) and registers again only after the newer one's
//!   node has been gone for five seconds. They never take turns.
//! - The content is written once for each change that is made here. What somebody else writes into the
//!   node stays until then, and while draining.
//! - An unreachable registry is no error: it is tried again for ever, and said in the log.
//!
//! Start it when the instance serves, not before: registering is the promise that it does.

mod address;
pub(crate) mod backoff;
pub(crate) mod claim;
mod content;
mod keeper;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use livegate_zk::client::{Client, ExpiryCause};
use livegate_zk::path::{self, PathError};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

pub use address::{InstanceAddress, InstanceAddressError};
pub use content::{CONTENT_BYTES_MAX, Description};
use content::{Form, Registered};
use keeper::Keeper;

/// What to register. [`start`](Self::start) does it.
#[derive(Debug)]
pub struct Registrar {
    client: Client,
    service: String,
    address: InstanceAddress,
    root: String,
    form: Form,
    description: Description,
    check_interval: Duration,
}

/// Why something cannot be registered at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistrarError {
    /// The service cannot be the name of a node.
    #[error("{0:?} cannot be the name of a service: it is one node's name, without /")]
    Service(String),
    /// The root is not the path of a node.
    #[error("the root is not the path of a node: {0}")]
    Root(#[from] PathError),
    /// There is too much metadata.
    #[error("the metadata makes a node of {0} bytes, at most {CONTENT_BYTES_MAX} are allowed")]
    TooLong(usize),
}

/// What a registrar is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegistrarState {
    /// The instance has not been registered yet, or not again; it is tried.
    Registering,
    /// The instance is registered. That the connection is lost does not change this: the session, and the
    /// node with it, outlives that for a while.
    Registered {
        /// Since when, by this machine's clock.
        since: SystemTime,
        /// The instance's node.
        path: Arc<str>,
        /// The transaction that created it: the incarnation that gateways see.
        czxid: i64,
    },
    /// The instance was registered and is not any more, against the registrar's will.
    Lost {
        /// Why.
        cause: LostCause,
    },
    /// The instance is not registered because the caller [wants it so](Registration::withdraw).
    Withdrawn,
    /// The instance is still registered, gateways are asked to let go of it.
    Draining,
    /// The end: nothing more will happen.
    Gone(Departure),
}

/// Why a registration was lost.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LostCause {
    /// The session is over, and the node with it.
    #[error("the session is over: {0}")]
    SessionExpired(ExpiryCause),
    /// Somebody deleted the node.
    #[error("somebody deleted the node")]
    Deleted,
    /// A newer registrar of the same address has replaced the node.
    #[error("a newer process has registered the same address")]
    Superseded,
}

/// How an instance left.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Departure {
    /// Gateways that have let go of the instance.
    pub acknowledged: Vec<String>,
    /// Gateways that were there and did not say so within the time, or were not waited for.
    pub silent: Vec<String>,
    /// Whether the instance's node is known to be gone. Otherwise it goes with the session.
    pub removed: bool,
}

/// What the caller wants; whatever it is, the keeper makes it so.
#[derive(Debug, Clone)]
struct Wish {
    description: Description,
    /// Counts changes of the description.
    revision: u64,
    presence: Presence,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Presence {
    Withdrawn,
    Offered,
    Draining { until: Instant },
    Gone,
}

impl Registrar {
    /// The parent of all services.
    pub const DEFAULT_ROOT: &str = "/services";

    /// To register an instance of a service at this address, which is where others reach it.
    #[must_use]
    pub fn new(client: Client, service: &str, address: InstanceAddress) -> Self {
        Self {
            client,
            service: service.to_owned(),
            address,
            root: Self::DEFAULT_ROOT.to_owned(),
            form: Form::default(),
            description: Description::default(),
            check_interval: Duration::from_secs(10),
        }
    }

    /// Its share of the traffic relative to the others'. Default: left to the gateways.
    #[must_use]
    pub fn weight(mut self, weight: u32) -> Self {
        self.description.weight = Some(weight);
        self
    }

    /// Its availability zone. Default: none.
    #[must_use]
    pub fn zone(mut self, zone: &str) -> Self {
        self.description.zone = Some(zone.to_owned());
        self
    }

    /// One more thing to say about it.
    #[must_use]
    pub fn metadata(mut self, key: &str, value: &str) -> Self {
        let metadata = &mut self.description.metadata;
        metadata.insert(key.to_owned(), value.to_owned());
        self
    }

    /// The parent of all services; it and the service's node are created as containers where missing, as
    /// Curator and Spring do. Default `/services`.
    #[must_use]
    pub fn root(mut self, root: &str) -> Self {
        root.clone_into(&mut self.root);
        self
    }

    /// Writes the bare address instead of Curator's JSON, for readers that want that; weight, zone and
    /// metadata have no place in it. (When it drains, JSON is written all the same.)
    #[must_use]
    pub fn plain(mut self) -> Self {
        self.form = Form::Plain;
        self
    }

    /// How often to look whether the node is still there and ours, besides watching it. Default 10 s.
    #[must_use]
    pub fn check_interval(mut self, interval: Duration) -> Self {
        self.check_interval = interval.max(Duration::from_millis(100));
        self
    }

    /// Whether it can be registered at all; the path of the node that it will have.
    ///
    /// # Errors
    /// What no registry would take.
    pub fn check(&self) -> Result<Arc<str>, RegistrarError> {
        path::validate(&self.root)?;
        let service_path = path::join(&self.root, &self.service);
        if self.service.contains('/') || path::validate(&service_path).is_err() {
            return Err(RegistrarError::Service(self.service.clone()));
        }
        check_length(&self.service, &self.address, self.form, &self.description)?;
        Ok(path::join(&service_path, &self.address.to_string()).into())
    }

    /// Registers the instance, in the background, and keeps it registered until the registration is
    /// [drained](Registration::drain), [removed](Registration::remove) or dropped.
    ///
    /// # Errors
    /// What no registry would take.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn start(self) -> Result<Registration, RegistrarError> {
        let path = self.check()?;
        let (wishes, wishes_receiver) = watch::channel(Wish {
            description: self.description,
            revision: 1,
            presence: Presence::Offered,
        });
        let (state, states) = watch::channel(RegistrarState::Registering);
        let keeper = Keeper::new(
            &self.client,
            keeper::Node {
                path: Arc::clone(&path),
                service: self.service.clone(),
                address: self.address.clone(),
                form: self.form,
            },
            self.check_interval,
            wishes_receiver,
            state,
        );
        let mut task = JoinSet::new();
        task.spawn(keeper.run());
        Ok(Registration {
            service: self.service,
            address: self.address,
            form: self.form,
            path,
            wishes,
            states,
            _task: task,
        })
    }
}

/// A registered instance, or one that is about to be.
///
/// Dropping it only stops looking after the node, which stays until the client's session ends:
/// [`drain`](Self::drain) or [`remove`](Self::remove) it before.
#[derive(Debug)]
pub struct Registration {
    service: String,
    address: InstanceAddress,
    form: Form,
    path: Arc<str>,
    wishes: watch::Sender<Wish>,
    states: watch::Receiver<RegistrarState>,
    /// The keeper; dropping the set aborts it.
    _task: JoinSet<()>,
}

impl Registration {
    /// The instance's node.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What the registrar is doing now.
    #[must_use]
    pub fn state(&self) -> RegistrarState {
        self.states.borrow().clone()
    }

    /// What the registrar is doing from now on: the latest state counts, those between may be missed.
    #[must_use]
    pub fn states(&self) -> watch::Receiver<RegistrarState> {
        self.states.clone()
    }

    /// Waits until the instance is registered, for ever if it never is. `false` when it never will be,
    /// because the registration has ended.
    ///
    /// # Cancel safety
    /// Cancelling has no effect.
    pub async fn registered(&self) -> bool {
        let mut states = self.states.clone();
        let state = states.wait_for(|state| {
            matches!(
                state,
                RegistrarState::Registered { .. } | RegistrarState::Gone(_)
            )
        });
        let state = state.await;
        state.is_ok_and(|state| matches!(*state, RegistrarState::Registered { .. }))
    }

    /// Changes what the instance says about itself; written in the background.
    ///
    /// # Errors
    /// When it gets too long; nothing is changed then.
    pub fn update(&self, change: impl FnOnce(&mut Description)) -> Result<(), RegistrarError> {
        let mut description = self.wishes.borrow().description.clone();
        change(&mut description);
        check_length(&self.service, &self.address, self.form, &description)?;
        self.wishes.send_if_modified(|wish| {
            let is_changed = wish.description != description;
            if is_changed {
                wish.description = description;
                wish.revision += 1;
            }
            is_changed
        });
        Ok(())
    }

    /// Takes the instance out of the registry until it is [offered](Self::offer) again, for instance
    /// while a health check fails. Without effect once it is drained or removed.
    pub fn withdraw(&self) {
        self.wish(|presence| match presence {
            Presence::Offered => Presence::Withdrawn,
            Presence::Withdrawn | Presence::Draining { .. } | Presence::Gone => presence,
        });
    }

    /// Registers the instance again after it was [withdrawn](Self::withdraw).
    pub fn offer(&self) {
        self.wish(|presence| match presence {
            Presence::Withdrawn => Presence::Offered,
            Presence::Offered | Presence::Draining { .. } | Presence::Gone => presence,
        });
    }

    /// Leaves without losing a request: says in the registry that the instance drains, waits until every
    /// [gateway](crate::drain) that is announced there has let go of it, and removes it. Takes at most
    /// `timeout` and five seconds for the removal; when the registry is away, seven seconds altogether.
    ///
    /// # Cancel safety
    /// Draining goes on when this is cancelled, and can be waited for again, by calling this again, with
    /// the timeout of the first call. [`remove`](Self::remove) cuts it short.
    pub async fn drain(&self, timeout: Duration) -> Departure {
        let now = Instant::now();
        let until = now
            .checked_add(timeout)
            .unwrap_or_else(|| now + Duration::from_secs(365 * 24 * 3600));
        self.wish(|presence| match presence {
            Presence::Offered | Presence::Withdrawn => Presence::Draining { until },
            Presence::Draining { .. } | Presence::Gone => presence,
        });
        self.gone().await
    }

    /// Removes the instance at once, also in the middle of draining. Takes at most five seconds.
    ///
    /// # Cancel safety
    /// The removal goes on when this is cancelled.
    pub async fn remove(&self) -> Departure {
        self.wish(|_| Presence::Gone);
        self.gone().await
    }

    fn wish(&self, change: impl FnOnce(Presence) -> Presence) {
        self.wishes.send_if_modified(|wish| {
            let before = wish.presence;
            wish.presence = change(before);
            wish.presence != before
        });
    }

    async fn gone(&self) -> Departure {
        let mut states = self.states.clone();
        let state = states.wait_for(|state| matches!(state, RegistrarState::Gone(_)));
        match state.await.as_deref() {
            Ok(RegistrarState::Gone(departure)) => departure.clone(),
            // The keeper never ends otherwise but with its runtime.
            Ok(_) | Err(_) => Departure::default(),
        }
    }
}

fn check_length(
    service: &str,
    address: &InstanceAddress,
    form: Form,
    description: &Description,
) -> Result<(), RegistrarError> {
    let registered = Registered {
        service,
        address,
        since_ms: u64::MAX,
    };
    match content::render(registered, form, description).len() {
        0..=CONTENT_BYTES_MAX => Ok(()),
        length => Err(RegistrarError::TooLong(length)),
    }
}

#[cfg(test)]
mod tests {
    use livegate_zk::client::ConnectOptions;

    use super::*;

    fn registrar(service: &str) -> Registrar {
        let client = Client::start(ConnectOptions::new("127.0.0.1:1").unwrap());
        Registrar::new(client, service, "10.0.0.3:80".parse().unwrap())
    }

    #[tokio::test]
    async fn what_no_registry_takes_is_refused_at_once() {
        let registration = registrar("orders").start().unwrap();
        assert_eq!(registration.path(), "/services/orders/10.0.0.3:80");
        for service in ["", "a/b", "..", "a\0"] {
            assert_eq!(
                registrar(service).start().unwrap_err(),
                RegistrarError::Service(service.to_owned())
            );
        }
        let relative = registrar("orders").root("services").start();
        assert_eq!(
            relative.unwrap_err(),
            RegistrarError::Root(PathError::Relative)
        );
        let registration = registrar("orders").root("/").start().unwrap();
        assert_eq!(registration.path(), "/orders/10.0.0.3:80");
        let long = "x".repeat(CONTENT_BYTES_MAX);
        let result = registrar("orders").metadata("k", &long).start();
        assert!(matches!(result, Err(RegistrarError::TooLong(_))));
        let result = registration.update(|description| description.zone = Some(long));
        assert!(matches!(result, Err(RegistrarError::TooLong(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn leaving_is_bounded_without_a_registry() {
        let registration = registrar("orders").start().unwrap();
        let start = Instant::now();
        let departure = registration.drain(Duration::from_secs(3600)).await;
        assert!(start.elapsed() <= Duration::from_secs(7));
        assert!(departure.acknowledged.is_empty() && departure.silent.is_empty());
        assert!(!registration.registered().await);
        assert_eq!(registration.remove().await, departure);
    }
}
