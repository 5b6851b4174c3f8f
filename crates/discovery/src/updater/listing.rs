//! A snapshot by address: who stands for each, and who is shadowed.
//!
//! Requests go to addresses, so an address has one endpoint, whatever is registered there. Two
//! registrations of one address are a process that was restarted before its former registration
//! expired: the newest incarnation stands for the address.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::snapshot::{Instance, Snapshot};
use crate::view::Shadowed;

pub(crate) struct Listing<'s> {
    by_address: HashMap<SocketAddr, &'s Instance>,
    /// In the order of their ids.
    pub(crate) shadowed: Arc<[Shadowed]>,
}

impl<'s> Listing<'s> {
    pub(crate) fn new(snapshot: &'s Snapshot) -> Self {
        let mut by_address: HashMap<SocketAddr, &Instance> =
            HashMap::with_capacity(snapshot.instances.len());
        let mut losers: Vec<&Instance> = Vec::new();
        // In the order of ids, so that of equals the last one wins.
        for instance in snapshot.instances.values() {
            let other = by_address.entry(instance.address).or_insert(instance);
            if other.id == instance.id {
                continue;
            }
            if instance.incarnation.czxid >= other.incarnation.czxid {
                losers.push(std::mem::replace(other, instance));
            } else {
                losers.push(instance);
            }
        }
        losers.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        let shadowed = losers.into_iter().map(|instance| Shadowed {
            instance: Arc::new(instance.clone()),
            by: by_address[&instance.address].id.clone(),
        });
        Self {
            shadowed: shadowed.collect(),
            by_address,
        }
    }

    /// Who stands for an address.
    pub(crate) fn at(&self, address: &SocketAddr) -> Option<&'s Instance> {
        self.by_address.get(address).copied()
    }

    /// Whether this one stands for its address.
    pub(crate) fn is_in(&self, instance: &Instance) -> bool {
        self.shadowed.is_empty()
            || self
                .at(&instance.address)
                .is_some_and(|other| other.id == instance.id)
    }
}
