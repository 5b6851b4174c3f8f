//! Instances by address: who stands for each, and who is shadowed.
//!
//! Requests go to addresses, so an address has one endpoint, whatever is registered there. Two
//! registrations of one address are a process that was restarted before its former registration
//! expired: the newest incarnation stands for the address.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use crate::shared_map::Difference;
use crate::snapshot::{Instance, InstanceId};
use crate::view::Shadowed;

/// The instances of the last snapshot, kept up to date by what changes.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    by_address: HashMap<SocketAddr, Named>,
    shadowed: BTreeMap<InstanceId, Shadowed>,
}

/// Who is registered at one address.
#[derive(Debug)]
struct Named {
    stands: Arc<Instance>,
    /// Leftovers.
    others: Vec<Arc<Instance>>,
}

/// What changes do to a listing.
pub(crate) struct Touched {
    /// Where somebody came, went or changed.
    pub(crate) addresses: HashSet<SocketAddr>,
    /// Some of them were or are shadowed.
    pub(crate) is_shadow: bool,
}

impl Listing {
    /// Takes in what changed from one snapshot to the next.
    pub(crate) fn take_in(
        &mut self,
        changes: &[Difference<'_, InstanceId, Arc<Instance>>],
    ) -> Touched {
        let mut touched = Touched {
            addresses: HashSet::new(),
            is_shadow: false,
        };
        // All go before one comes, so that an address is crowded only if it stays so.
        for before in changes.iter().filter_map(|change| change.before) {
            touched.addresses.insert(before.address);
            touched.is_shadow |= self.take_out(before);
        }
        for after in changes.iter().filter_map(|change| change.after) {
            touched.addresses.insert(after.address);
            touched.is_shadow |= self.put_in(after);
        }
        touched
    }

    /// Who stands for an address.
    pub(crate) fn at(&self, address: &SocketAddr) -> Option<&Arc<Instance>> {
        self.by_address.get(address).map(|named| &named.stands)
    }

    /// In the order of their ids.
    pub(crate) fn shadowed(&self) -> Arc<[Shadowed]> {
        self.shadowed.values().cloned().collect()
    }

    /// Says whether there was more than one.
    fn take_out(&mut self, instance: &Arc<Instance>) -> bool {
        let Some(mut named) = self.by_address.remove(&instance.address) else {
            return false;
        };
        if named.others.is_empty() {
            return false;
        }
        for other in &named.others {
            self.shadowed.remove(&other.id);
        }
        if named.stands.id == instance.id {
            let newest = named.others.iter().enumerate();
            let newest = newest.max_by_key(|(_, other)| rank(other));
            let (newest, _) = newest.expect("there are others");
            named.stands = named.others.swap_remove(newest);
        } else {
            named.others.retain(|other| other.id != instance.id);
        }
        self.settle(named);
        true
    }

    /// Says whether there is more than one now.
    fn put_in(&mut self, instance: &Arc<Instance>) -> bool {
        let mut stands = Arc::clone(instance);
        let Some(mut named) = self.by_address.remove(&instance.address) else {
            let others = Vec::new();
            self.settle(Named { stands, others });
            return false;
        };
        if rank(&stands) > rank(&named.stands) {
            std::mem::swap(&mut stands, &mut named.stands);
        }
        named.others.push(stands);
        self.settle(named);
        true
    }

    fn settle(&mut self, named: Named) {
        for other in &named.others {
            let shadowed = Shadowed {
                instance: Arc::clone(other),
                by: named.stands.id.clone(),
            };
            self.shadowed.insert(other.id.clone(), shadowed);
        }
        self.by_address.insert(named.stands.address, named);
    }
}

/// The highest stands for the address: the newest, of equals the last in the order of ids.
fn rank(instance: &Instance) -> (i64, &InstanceId) {
    (instance.incarnation.czxid, &instance.id)
}
