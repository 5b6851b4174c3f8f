//! The writing half: keeps endpoints while their incarnation lives, and publishes views.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crate::balance::{Rotation, Slot};
use crate::balancer::Shared;
use crate::endpoint::{Endpoint, Grade, flag};
use crate::policy::{Balance, Policy};
use crate::snapshot::{Instance, InstanceId, InstanceState, Snapshot, Status};
use crate::view::{Member, View};

/// Writes what the [`Balancer`](crate::Balancer)s of one service read. There is exactly one.
#[derive(Debug)]
pub struct Updater {
    policy: Policy,
    shared: Arc<Shared>,
    status: Status,
    revision: u64,
    entries: BTreeMap<InstanceId, Entry>,
}

/// Something changed for an instance, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// Whom it is about.
    pub instance: InstanceId,
    /// What happened, in one or two words for programs: `joined`, `ejected`.
    pub kind: &'static str,
    /// Why, in words.
    pub cause: String,
    /// When.
    pub at: Instant,
}

#[derive(Debug)]
struct Entry {
    instance: Arc<Instance>,
    endpoint: Arc<Endpoint>,
}

impl Updater {
    pub(crate) fn new(policy: Policy, shared: Arc<Shared>) -> Self {
        Self {
            policy,
            shared,
            status: Status::Pending,
            revision: 0,
            entries: BTreeMap::new(),
        }
    }

    /// Takes in a new snapshot and publishes the view it makes.
    pub fn apply(&mut self, snapshot: &Snapshot, _now: Instant) -> Vec<Transition> {
        self.status = snapshot.status;
        self.revision = snapshot.revision;
        let mut before = std::mem::take(&mut self.entries);
        for instance in snapshot.instances.values() {
            let kept = before
                .remove(&instance.id)
                .filter(|entry| entry.instance.address == instance.address);
            let endpoint = kept.map_or_else(
                || {
                    Arc::new(Endpoint::new(
                        instance.id.clone(),
                        instance.address,
                        Arc::clone(&self.shared.signal),
                    ))
                },
                |entry| entry.endpoint,
            );
            let closed = instance.weight == 0 || instance.state != InstanceState::Up;
            endpoint.set_flags(flag::CLOSED, closed);
            self.entries.insert(
                instance.id.clone(),
                Entry {
                    instance: Arc::new(instance.clone()),
                    endpoint,
                },
            );
        }
        for entry in before.values() {
            entry.endpoint.set_flags(flag::CLOSED, true);
        }
        self.publish();
        Vec::new()
    }

    fn publish(&self) {
        let member = |entry: &Entry| Member {
            endpoint: Arc::clone(&entry.endpoint),
            instance: Arc::clone(&entry.instance),
            warmth_tenths: 10,
            reasons: Arc::default(),
        };
        let members: Box<[Member]> = self.entries.values().map(member).collect();
        let slots = members
            .iter()
            .filter(|member| member.endpoint.grade() == Grade::Fit)
            .map(|member| Slot {
                endpoint: Arc::clone(&member.endpoint),
                weight: match self.policy.balance {
                    Balance::RoundRobin => 1,
                    _ => u64::from(member.instance.weight),
                },
            })
            .collect();
        self.shared.view.store(Arc::new(View {
            revision: self.revision,
            status: self.status,
            members,
            rotation: Rotation::new(self.policy.balance, slots),
            accepts: Grade::Fit,
        }));
    }
}
