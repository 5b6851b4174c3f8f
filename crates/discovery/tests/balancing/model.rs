//! Membership against a model of the world: processes that live and die, a registry that knows some
//! of them, contact with it that comes and goes, probes that tell the truth.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use livegate_discovery::{
    Balancer, Endpoint, EndpointKey, Incarnation, Instance, InstanceId, Policy, Snapshot, Status,
    Updater, channel,
};
use proptest::prelude::*;

const ADDRESSES: u8 = 6;

fn address(number: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, number], 80))
}

#[derive(Debug, Clone)]
enum Step {
    /// A process registers; under a new id, or under its usual one (deleted and made anew).
    Register {
        number: u8,
        new_id: bool,
    },
    /// All registrations of these addresses go, one by one or at once.
    Deregister {
        numbers: Vec<u8>,
        at_once: bool,
    },
    /// The oldest registration of an address goes.
    Expire(u8),
    Kill(u8),
    Start(u8),
    LoseContact,
    RegainContact,
    Drain(u8, bool),
    DropHeld(u8),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let number = 0..ADDRESSES;
    prop_oneof![
        6 => (number.clone(), any::<bool>())
            .prop_map(|(number, new_id)| Step::Register { number, new_id }),
        4 => (prop::collection::vec(number.clone(), 1..6), any::<bool>())
            .prop_map(|(numbers, at_once)| Step::Deregister { numbers, at_once }),
        2 => number.clone().prop_map(Step::Expire),
        2 => number.clone().prop_map(Step::Kill),
        3 => number.clone().prop_map(Step::Start),
        2 => Just(Step::LoseContact),
        3 => Just(Step::RegainContact),
        1 => (number.clone(), any::<bool>()).prop_map(|(number, on)| Step::Drain(number, on)),
        1 => number.prop_map(Step::DropHeld),
        6 => prop_oneof![Just(10), Just(300), Just(1001), Just(20_000), Just(61_000)]
            .prop_map(Step::Wait),
    ]
}

struct World {
    updater: Updater,
    balancer: Balancer,
    now: Instant,
    /// Whether a process listens at each address.
    alive: BTreeSet<SocketAddr>,
    registry: BTreeMap<InstanceId, Instance>,
    zxid: i64,
    has_contact: bool,
    attachment: u64,
    regained: Option<Instant>,
    revision: u64,
    last_listed: Vec<Instance>,
    /// What the last snapshot named.
    named: BTreeSet<SocketAddr>,
    last_named: BTreeMap<SocketAddr, Instant>,
    drained: BTreeSet<SocketAddr>,
    before: BTreeMap<SocketAddr, EndpointKey>,
}

impl World {
    fn new() -> Self {
        let (updater, balancer) = channel(Policy::default(), 7);
        let mut world = Self {
            updater,
            balancer,
            now: Instant::now(),
            alive: (0..ADDRESSES).map(address).collect(),
            registry: BTreeMap::new(),
            zxid: 0,
            has_contact: true,
            attachment: 1,
            regained: None,
            revision: 0,
            last_listed: Vec::new(),
            named: BTreeSet::new(),
            last_named: BTreeMap::new(),
            drained: BTreeSet::new(),
            before: BTreeMap::new(),
        };
        world.publish();
        world
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Register { number, new_id } => {
                let address = address(*number);
                if self.alive.contains(&address) {
                    self.zxid += 1;
                    let id = if *new_id {
                        InstanceId::from(&*format!("uuid-{}", self.zxid))
                    } else {
                        InstanceId::from(address)
                    };
                    let incarnation = Incarnation {
                        czxid: self.zxid,
                        ctime_ms: self.zxid,
                    };
                    let instance = Instance {
                        id: id.clone(),
                        incarnation,
                        ..Instance::listed(address, 1)
                    };
                    self.registry.insert(id, instance);
                    self.publish();
                }
            }
            Step::Deregister { numbers, at_once } => {
                let gone: BTreeSet<SocketAddr> =
                    numbers.iter().map(|number| address(*number)).collect();
                let ids = self.registry.values();
                let ids: Vec<InstanceId> = ids
                    .filter(|instance| gone.contains(&instance.address))
                    .map(|instance| instance.id.clone())
                    .collect();
                for id in ids {
                    self.registry.remove(&id);
                    if !at_once {
                        self.publish();
                    }
                }
                self.publish();
            }
            Step::Expire(number) => {
                let address = address(*number);
                let there = self.registry.values();
                let oldest = there
                    .filter(|instance| instance.address == address)
                    .min_by_key(|instance| instance.incarnation.czxid);
                if let Some(id) = oldest.map(|instance| instance.id.clone()) {
                    self.registry.remove(&id);
                    self.publish();
                }
            }
            Step::Kill(number) => {
                self.alive.remove(&address(*number));
            }
            Step::Start(number) => {
                self.alive.insert(address(*number));
            }
            Step::LoseContact => {
                self.has_contact = false;
                let since = SystemTime::now();
                self.apply(Status::Stale { since }, self.last_listed.clone());
            }
            Step::RegainContact => {
                if !self.has_contact {
                    self.has_contact = true;
                    self.attachment += 1;
                    self.regained = Some(self.now);
                    self.publish();
                }
            }
            Step::Drain(number, on) => {
                let address = address(*number);
                if let Some(id) = self.id_at(address) {
                    self.updater
                        .set_drained(&id, *on, self.now)
                        .expect("it is known");
                    if *on {
                        self.drained.insert(address);
                    } else {
                        self.drained.remove(&address);
                    }
                }
            }
            Step::DropHeld(number) => {
                if let Some(id) = self.id_at(address(*number)) {
                    self.updater.drop_held(&id, self.now).expect("it is known");
                }
            }
            Step::Wait(millis) => {
                self.now += Duration::from_millis(*millis);
                self.updater.tick(self.now);
            }
        }
    }

    fn id_at(&self, address: SocketAddr) -> Option<InstanceId> {
        let view = self.balancer.view();
        let mut members = view.members().iter();
        let member = members.find(|member| member.instance.address == address)?;
        Some(member.instance.id.clone())
    }

    fn listed(&self) -> Vec<Instance> {
        self.registry.values().cloned().collect()
    }

    /// The watcher passes on what changed in the registry, if it hears of it. The registry's word
    /// alone never takes the last endpoint away.
    fn publish(&mut self) {
        if !self.has_contact {
            return;
        }
        let was_fit = self.fit().count() > 0;
        let listed = self.listed();
        let status = if listed.is_empty() {
            Status::Absent
        } else {
            Status::Live
        };
        self.last_listed.clone_from(&listed);
        self.apply(status, listed);
        assert!(
            !was_fit || self.fit().count() > 0,
            "emptied by the registry alone"
        );
    }

    fn apply(&mut self, status: Status, instances: Vec<Instance>) {
        self.revision += 1;
        let snapshot = Snapshot {
            status,
            attachment: self.attachment,
            ..Snapshot::live(self.revision, instances)
        };
        self.updater.apply(&snapshot, self.now);
        // Up to this moment it was named if it was in the snapshot before.
        for address in &self.named {
            self.last_named.insert(*address, self.now);
        }
        let instances = self.last_listed.iter();
        self.named = instances.map(|instance| instance.address).collect();
        self.same_endpoints();
    }

    fn fit(&self) -> impl Iterator<Item = SocketAddr> {
        let view = self.balancer.view();
        let members = view.members().iter().map(|member| &member.endpoint);
        let fit = members.filter(|endpoint| !endpoint.is_unfit());
        fit.map(|endpoint| endpoint.address())
            .collect::<Vec<_>>()
            .into_iter()
    }

    /// Whoever was there and is there is the same, and nobody is there twice.
    fn same_endpoints(&mut self) {
        let view = self.balancer.view();
        let after: BTreeMap<SocketAddr, EndpointKey> = view
            .members()
            .iter()
            .map(|member| (member.instance.address, member.endpoint.key()))
            .collect();
        assert_eq!(
            after.len(),
            view.members().len(),
            "an address is there twice"
        );
        for (address, key) in &after {
            assert!(self.before.get(address).is_none_or(|before| before == key));
        }
        self.before = after;
    }

    /// One round of probes, as the cluster's task makes them, and one of all others.
    fn probe(&mut self) {
        let in_doubt = self.updater.doubts().map(|(endpoint, _)| endpoint.clone());
        let in_doubt: Vec<_> = in_doubt.collect();
        let mut others: Vec<_> = self.updater.endpoints().cloned().collect();
        others.sort_by_key(|endpoint| endpoint.key());
        let in_doubt = in_doubt.into_iter().chain(others);
        for endpoint in in_doubt {
            self.ask(&endpoint);
        }
        self.same_endpoints();
    }

    fn ask(&mut self, endpoint: &Endpoint) {
        if self.alive.contains(&endpoint.address()) {
            self.updater.connected(endpoint, self.now);
        } else {
            self.updater
                .refused(endpoint, "connection refused", self.now);
        }
    }

    /// What must hold after everybody was probed.
    fn check(&self) {
        let fit: BTreeSet<SocketAddr> = self.fit().collect();
        for address in &self.named {
            let is_usable = self.alive.contains(address) && !self.drained.contains(address);
            assert_eq!(fit.contains(address), is_usable, "{address} is named");
        }
        let view = self.balancer.view();
        for member in view.members().iter() {
            let address = member.instance.address;
            if self.named.contains(&address) {
                continue;
            }
            assert!(
                self.alive.contains(&address),
                "{address} refused and is not named"
            );
            assert!(
                !self.drained.contains(&address),
                "{address} is drained and not named"
            );
            let since = self.last_named[&address].max(self.regained.unwrap_or(self.now - GRACE));
            let is_over = self.has_contact && self.now - since >= GRACE;
            assert!(!is_over, "{address} is held for too long");
        }
        let pick = self.balancer.pick(None, &[], self.now);
        if !fit.is_empty() {
            let pick = pick.expect("there are fit ones");
            assert!(fit.contains(&pick.endpoint().address()));
        }
    }
}

const GRACE: Duration = Duration::from_secs(60);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn the_registry_alone_takes_nothing_away(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        for step in &steps {
            world.take(step);
            world.same_endpoints();
            world.probe();
            world.check();
        }
    }

    /// The same without a probe after each step, so that holds are ended by time alone.
    #[test]
    fn nor_does_it_between_probes(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        for (number, step) in steps.iter().enumerate() {
            world.take(step);
            world.same_endpoints();
            if number % 5 == 4 {
                world.probe();
                world.check();
            }
        }
    }
}
