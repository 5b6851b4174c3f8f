//! The instances that a service's nodes amount to, kept up to date node by node.
//!
//! Nodes put in what they say; the roster applies weights and looked-up names, settles who counts when
//! two nodes claim one id, and remembers how pressing it is to publish what changed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::Weights;
use crate::layout::{Content, Description, Host, Vector, WEIGHT_MAX};
use crate::snapshot::{Incarnation, Instance, InstanceId, InstanceState, Instances};

/// How pressing a change is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) enum Change {
    /// Nothing changed.
    #[default]
    None,
    /// Something was added, or changed its share: can wait for more of the kind.
    Additive,
    /// Something must no longer be used: cannot wait.
    Urgent,
}

/// What a node says, with its incarnation.
#[derive(Debug)]
struct Entry {
    /// How the node is called in `skipped`.
    label: String,
    incarnation: Incarnation,
    content: Option<Result<Content, String>>,
    /// What that amounts to at present.
    instances: BTreeMap<InstanceId, Instance>,
    hosts: HashSet<Arc<str>>,
    skipped: Vec<String>,
}

/// A host name that instances use.
#[derive(Debug, Default)]
struct Name {
    users: HashSet<Arc<str>>,
    found: Option<IpAddr>,
    failure: Option<String>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Roster {
    service: Arc<str>,
    weights: Weights,
    entries: HashMap<Arc<str>, Entry>,
    vectors: BTreeMap<Arc<str>, Vector>,
    names: HashMap<Arc<str>, Name>,
    /// Names to look up.
    unknown: HashSet<Arc<str>>,
    /// The nodes that claim an id, with their creation.
    claims: HashMap<InstanceId, Vec<(i64, Arc<str>)>>,
    pub(super) instances: Instances,
    pub(super) skipped: Arc<BTreeMap<String, String>>,
    change: Change,
}

impl Roster {
    pub(super) fn new(service: Arc<str>, weights: Weights) -> Self {
        Self {
            service,
            weights,
            entries: HashMap::new(),
            vectors: BTreeMap::new(),
            names: HashMap::new(),
            unknown: HashSet::new(),
            claims: HashMap::new(),
            instances: Instances::default(),
            skipped: Arc::default(),
            change: Change::None,
        }
    }

    /// A node was read.
    pub(super) fn put(
        &mut self,
        node: &Arc<str>,
        label: &str,
        incarnation: Incarnation,
        content: Result<Content, String>,
    ) {
        let is_vector = matches!(content, Ok(Content::Vector(_)));
        let was_vector = self.vectors.remove(node).is_some();
        if let Ok(Content::Vector(vector)) = &content {
            self.vectors.insert(Arc::clone(node), vector.clone());
        }
        let hosts = hosts(&content);
        self.use_names(node, &hosts);
        let entry = self
            .entries
            .entry(Arc::clone(node))
            .or_insert_with(|| Entry {
                label: label.to_owned(),
                incarnation,
                content: None,
                instances: BTreeMap::new(),
                hosts: HashSet::new(),
                skipped: Vec::new(),
            });
        entry.incarnation = incarnation;
        entry.content = Some(content);
        let before = std::mem::replace(&mut entry.hosts, hosts.clone());
        self.leave_names(node, before.difference(&hosts));
        if is_vector || was_vector {
            self.refresh_all();
        } else {
            self.refresh(node);
        }
    }

    /// A node is gone.
    pub(super) fn remove(&mut self, node: &Arc<str>) {
        let Some(entry) = self.entries.remove(node) else {
            return;
        };
        self.leave_names(node, entry.hosts.iter());
        for key in entry.skipped {
            self.unskip(&key);
        }
        for id in entry.instances.keys() {
            self.unclaim(id, node);
        }
        if self.vectors.remove(node).is_some() {
            self.refresh_all();
        }
    }

    /// A name was looked up, or could not be: then the address it had before stays.
    pub(super) fn looked_up(&mut self, host: &Arc<str>, outcome: Result<IpAddr, String>) {
        let Some(name) = self.names.get_mut(host) else {
            return;
        };
        match outcome {
            Ok(address) => {
                name.found = Some(address);
                name.failure = None;
            }
            Err(cause) => name.failure = Some(cause),
        }
        for node in name.users.iter().cloned().collect::<Vec<_>>() {
            self.refresh(&node);
        }
    }

    /// Names that are to be looked up, each once.
    pub(super) fn take_unknown(&mut self) -> HashSet<Arc<str>> {
        std::mem::take(&mut self.unknown)
    }

    /// Whether a name is still used.
    pub(super) fn needs(&self, host: &str) -> bool {
        self.names.contains_key(host)
    }

    /// Whether the address of a name is known.
    pub(super) fn is_found(&self, host: &str) -> bool {
        self.names
            .get(host)
            .is_some_and(|name| name.found.is_some())
    }

    /// Whether there are names that have never been looked up to the end.
    pub(super) fn awaits_names(&self) -> bool {
        self.names
            .values()
            .any(|name| name.found.is_none() && name.failure.is_none())
    }

    pub(super) fn set_weights(&mut self, weights: Weights) {
        if self.weights != weights {
            self.weights = weights;
            self.refresh_all();
        }
    }

    /// Says under a label of its own that something is wrong, or no longer is.
    pub(super) fn set_fault(&mut self, label: &str, cause: Option<String>) {
        match cause {
            Some(cause) => self.skip(label.to_owned(), cause),
            None => self.unskip(label),
        }
    }

    pub(super) fn change(&self) -> Change {
        self.change
    }

    pub(super) fn published(&mut self) {
        self.change = Change::None;
    }

    fn use_names(&mut self, node: &Arc<str>, hosts: &HashSet<Arc<str>>) {
        for host in hosts {
            let name = self.names.entry(Arc::clone(host)).or_default();
            name.users.insert(Arc::clone(node));
            // A changed node may mean that its name has another address now.
            self.unknown.insert(Arc::clone(host));
        }
    }

    fn leave_names<'a>(&mut self, node: &Arc<str>, hosts: impl Iterator<Item = &'a Arc<str>>) {
        for host in hosts {
            if let Some(name) = self.names.get_mut(host) {
                name.users.remove(node);
                if name.users.is_empty() {
                    self.names.remove(host);
                }
            }
        }
    }

    fn refresh_all(&mut self) {
        for node in self.entries.keys().cloned().collect::<Vec<_>>() {
            self.refresh(&node);
        }
    }

    /// Computes anew what a node amounts to.
    fn refresh(&mut self, node: &Arc<str>) {
        let Some(entry) = self.entries.get(node) else {
            return;
        };
        let (instances, faults) = self.amount(entry);
        let Some(entry) = self.entries.get_mut(node) else {
            return;
        };
        let czxid = entry.incarnation.czxid;
        let before = std::mem::replace(&mut entry.instances, instances);
        let skipped = faults.keys().cloned().collect();
        let skipped_before = std::mem::replace(&mut entry.skipped, skipped);
        let gone: Vec<_> = before
            .keys()
            .filter(|id| !entry.instances.contains_key(*id))
            .cloned()
            .collect();
        let ids: Vec<_> = entry.instances.keys().cloned().collect();
        for key in skipped_before {
            if !faults.contains_key(&key) {
                self.unskip(&key);
            }
        }
        for (key, cause) in faults {
            self.skip(key, cause);
        }
        for id in ids {
            self.claim(&id, node, czxid);
        }
        for id in gone {
            self.unclaim(&id, node);
        }
    }

    /// The instances of a node, and its faults.
    fn amount(&self, entry: &Entry) -> (BTreeMap<InstanceId, Instance>, BTreeMap<String, String>) {
        let (mut instances, mut skipped) = (BTreeMap::new(), BTreeMap::new());
        let one = |description: &Description| -> Result<Instance, String> {
            Ok(Instance {
                id: description.id.clone(),
                address: self.address(description)?,
                weight: self.weight(description),
                zone: description.zone.clone(),
                metadata: Arc::clone(&description.metadata),
                state: description.state,
                incarnation: entry.incarnation,
            })
        };
        match &entry.content {
            Some(Ok(Content::Instance(description))) => match one(description) {
                Ok(instance) => drop(instances.insert(instance.id.clone(), instance)),
                Err(cause) => drop(skipped.insert(entry.label.clone(), cause)),
            },
            Some(Ok(Content::List {
                instances: list,
                faults,
            })) => {
                for (index, error) in faults {
                    skipped.insert(format!("{}[{index}]", entry.label), error.to_string());
                }
                for description in list {
                    match one(description) {
                        Ok(instance) => drop(instances.insert(instance.id.clone(), instance)),
                        Err(cause) => {
                            skipped.insert(format!("{} {}", entry.label, description.id), cause);
                        }
                    }
                }
            }
            Some(Err(cause)) => drop(skipped.insert(entry.label.clone(), cause.clone())),
            Some(Ok(Content::Vector(_))) | None => {}
        }
        (instances, skipped)
    }

    fn address(&self, description: &Description) -> Result<SocketAddr, String> {
        let Host::Name(host) = &description.address.host else {
            return description.address.socket().ok_or_else(String::new);
        };
        let name = self.names.get(host);
        if let Some(found) = name.and_then(|name| name.found) {
            return Ok(SocketAddr::new(found, description.address.port));
        }
        Err(match name.and_then(|name| name.failure.as_ref()) {
            Some(failure) => format!("cannot look up {host}: {failure}"),
            None => format!("looking up {host}"),
        })
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to 0 to 65535 before"
    )]
    fn weight(&self, description: &Description) -> u32 {
        let overrides = &self.weights.overrides;
        if !overrides.is_empty() {
            let by_id = overrides.get(description.id.as_str());
            let weight = by_id.or_else(|| overrides.get(&description.address.to_string()));
            if let Some(weight) = weight {
                return (*weight).min(WEIGHT_MAX);
            }
        }
        let weight = description.weight.unwrap_or(self.weights.default);
        if self.vectors.is_empty() {
            return weight.min(WEIGHT_MAX);
        }
        let factors = self
            .vectors
            .values()
            .map(|vector| vector.factor(description));
        let weight = f64::from(weight) * factors.product::<f64>();
        let floor = if weight > 0.0 { 1.0 } else { 0.0 };
        weight.round().clamp(floor, f64::from(WEIGHT_MAX)) as u32
    }

    fn claim(&mut self, id: &InstanceId, node: &Arc<str>, czxid: i64) {
        let claims = self.claims.entry(id.clone()).or_default();
        match claims.iter_mut().find(|(_, name)| name == node) {
            Some(claim) => claim.0 = czxid,
            None => claims.push((czxid, Arc::clone(node))),
        }
        self.settle(id);
    }

    fn unclaim(&mut self, id: &InstanceId, node: &Arc<str>) {
        if let Some(claims) = self.claims.get_mut(id) {
            claims.retain(|(_, name)| name != node);
            if claims.is_empty() {
                self.claims.remove(id);
            }
        }
        self.settle(id);
    }

    /// The node that was created last counts.
    fn settle(&mut self, id: &InstanceId) {
        let latest = self.claims.get(id).and_then(|claims| claims.iter().max());
        let instance = latest
            .and_then(|(_, node)| self.entries.get(node))
            .and_then(|entry| entry.instances.get(id));
        let before = self.instances.get(id).map(Arc::as_ref);
        if instance == before {
            return;
        }
        self.change = self.change.max(match (before, instance) {
            (Some(before), Some(instance))
                if serves(before) <= serves(instance) && before.address == instance.address =>
            {
                Change::Additive
            }
            (None, Some(_)) => Change::Additive,
            (Some(_), Some(_) | None) | (None, None) => Change::Urgent,
        });
        match instance.cloned() {
            Some(instance) => drop(self.instances.insert(id.clone(), Arc::new(instance))),
            None => drop(self.instances.remove(id)),
        }
    }

    fn skip(&mut self, key: String, cause: String) {
        if self.skipped.get(&key) != Some(&cause) {
            tracing::warn!(service = %self.service, node = %key, %cause, "skipped");
            self.change = self.change.max(Change::Additive);
            Arc::make_mut(&mut self.skipped).insert(key, cause);
        }
    }

    fn unskip(&mut self, key: &str) {
        if self.skipped.contains_key(key) {
            self.change = self.change.max(Change::Additive);
            Arc::make_mut(&mut self.skipped).remove(key);
        }
    }
}

/// Whether it takes new requests.
fn serves(instance: &Instance) -> bool {
    instance.state == InstanceState::Up && instance.weight > 0
}

fn hosts(content: &Result<Content, String>) -> HashSet<Arc<str>> {
    let host = |description: &Description| match &description.address.host {
        Host::Name(name) => Some(Arc::clone(name)),
        Host::Ip(_) => None,
    };
    match content {
        Ok(Content::Instance(description)) => host(description).into_iter().collect(),
        Ok(Content::List { instances, .. }) => instances.iter().filter_map(host).collect(),
        Ok(Content::Vector(_)) | Err(_) => HashSet::new(),
    }
}
