//! What discovery says: which instances of a service exist, at a revision.
//!
//! Snapshots are whole and immutable. A reader that misses one misses nothing, for the next one
//! says everything again. Snapshots of one service that follow one another share the instances that
//! did not change, so that a change costs what it changes.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use crate::shared_map::SharedMap;

/// Names an instance within its service: its address (`10.0.0.3:8080`) or the id under which it is
/// registered. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId(Arc<str>);

impl InstanceId {
    /// An id from its text. Any text will do; it is only compared, hashed and shown.
    pub fn new(id: impl Into<Arc<str>>) -> Self {
        Self(id.into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text, shared.
    pub fn to_shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.0)
    }
}

impl From<&str> for InstanceId {
    fn from(id: &str) -> Self {
        Self(id.into())
    }
}

impl From<SocketAddr> for InstanceId {
    fn from(address: SocketAddr) -> Self {
        Self(address.to_string().into())
    }
}

impl Borrow<str> for InstanceId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Tells one registration of an instance from the next one under the same name. Zeros for
/// instances that are listed in a file and therefore never registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Incarnation {
    /// The ZooKeeper transaction that created the instance's node.
    pub czxid: i64,
    /// When that was, in milliseconds since 1970 by the registry's clock.
    pub ctime_ms: i64,
}

/// What the registry says about an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum InstanceState {
    /// In service.
    #[default]
    Up,
    /// About to stop: no new requests, running ones finish.
    Draining,
    /// Registered but out of service (Spring's `OUT_OF_SERVICE`, Curator's `enabled: false`).
    Down,
}

/// One registered or listed instance: data, without any state of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Its name within the service.
    pub id: InstanceId,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its share of the traffic relative to the others'; 0 means none.
    pub weight: u32,
    /// Its availability zone, when it names one.
    pub zone: Option<Arc<str>>,
    /// Whatever else it says about itself.
    pub metadata: Arc<BTreeMap<String, String>>,
    /// Whether it wants traffic.
    pub state: InstanceState,
    /// Which registration this is.
    pub incarnation: Incarnation,
}

impl Instance {
    /// An instance listed by hand: named by its address, up, without zone or metadata.
    pub fn listed(address: SocketAddr, weight: u32) -> Self {
        Self {
            id: InstanceId::from(address),
            address,
            weight,
            zone: None,
            metadata: Arc::default(),
            state: InstanceState::Up,
            incarnation: Incarnation::default(),
        }
    }
}

/// How far a snapshot can be trusted. Four different facts, which clients are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Nothing is known yet.
    Pending,
    /// This is what the registry (or the file) says now.
    Live,
    /// This is what the registry said before contact with it was lost.
    Stale {
        /// When contact was lost.
        since: SystemTime,
    },
    /// The registry says that there is no such service.
    Absent,
}

/// The instances of a service by id. Cheap to copy.
pub type Instances = SharedMap<InstanceId, Arc<Instance>>;

/// The instances of one service at a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Grows with every snapshot of this service within one process.
    pub revision: u64,
    /// How far to trust it.
    pub status: Status,
    /// Grows whenever contact with the registry was lost and is there again, with the same session
    /// or a new one. What is missing for the first time in a snapshot with another number than the
    /// one before may not have come back yet, rather than be gone. 0 for instances listed in a file.
    pub attachment: u64,
    /// All instances by id.
    pub instances: Instances,
    /// Registered nodes that could not be read as instances, by node name, and why. They never
    /// hide the others.
    pub skipped: Arc<BTreeMap<String, String>>,
}

impl Snapshot {
    /// The snapshot before anything is known: revision 0, pending, empty.
    pub fn pending() -> Self {
        Self {
            revision: 0,
            status: Status::Pending,
            attachment: 0,
            instances: Instances::default(),
            skipped: Arc::default(),
        }
    }

    /// A live snapshot of these instances. Of two with the same id the later one counts.
    pub fn live(revision: u64, instances: impl IntoIterator<Item = Instance>) -> Self {
        let instances = instances
            .into_iter()
            .map(|instance| (instance.id.clone(), Arc::new(instance)))
            .collect();
        Self {
            revision,
            status: Status::Live,
            attachment: 0,
            instances,
            skipped: Arc::default(),
        }
    }
}
