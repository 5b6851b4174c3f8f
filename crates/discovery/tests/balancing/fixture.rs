//! A service under a clock that the test moves.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use livegate_discovery::{
    Balance, Balancer, Endpoint, EndpointState, Instance, InstanceId, NoEndpoint, Outcome, Policy,
    Snapshot, Status, Transition, Updater, channel,
};

pub(crate) struct Service {
    pub(crate) updater: Updater,
    pub(crate) balancer: Balancer,
    pub(crate) now: Instant,
    revision: u64,
}

/// The instance called `name`, at an address of its own.
pub(crate) fn instance(name: &str, weight: u32) -> Instance {
    let number = name.bytes().fold(0u32, |number, byte| {
        number.wrapping_mul(31).wrapping_add(u32::from(byte))
    });
    let [_, b, c, d] = number.to_be_bytes();
    Instance {
        id: InstanceId::from(name),
        ..Instance::listed(SocketAddr::from(([10, b, c, d], 80)), weight)
    }
}

pub(crate) fn answered(status: u16, millis: u64) -> Outcome {
    Outcome::Answered {
        status,
        latency: Duration::from_millis(millis),
    }
}

impl Service {
    pub(crate) fn new(balance: Balance, instances: &[(&str, u32)]) -> Self {
        Self::with_policy(
            Policy {
                balance,
                ..Policy::default()
            },
            instances,
        )
    }

    pub(crate) fn with_policy(policy: Policy, instances: &[(&str, u32)]) -> Self {
        let (updater, balancer) = channel(policy, 42);
        let mut service = Self {
            updater,
            balancer,
            now: Instant::now(),
            revision: 0,
        };
        service.list(instances);
        service
    }

    /// Publishes a new list of names and weights.
    pub(crate) fn list(&mut self, instances: &[(&str, u32)]) -> Vec<Transition> {
        self.publish(
            instances
                .iter()
                .map(|(name, weight)| instance(name, *weight))
                .collect(),
        )
    }

    pub(crate) fn publish(&mut self, instances: Vec<Instance>) -> Vec<Transition> {
        self.revision += 1;
        self.updater
            .apply(&Snapshot::live(self.revision, instances), self.now)
    }

    /// The next snapshot, of a registry.
    pub(crate) fn snapshot(
        &mut self,
        status: Status,
        attachment: u64,
        instances: Vec<Instance>,
    ) -> Snapshot {
        self.revision += 1;
        Snapshot {
            status,
            attachment,
            ..Snapshot::live(self.revision, instances)
        }
    }

    /// Publishes what the registry says.
    pub(crate) fn publish_from(
        &mut self,
        status: Status,
        attachment: u64,
        instances: Vec<Instance>,
    ) -> Vec<Transition> {
        let snapshot = self.snapshot(status, attachment, instances);
        self.updater.apply(&snapshot, self.now)
    }

    /// Why nothing can be picked.
    pub(crate) fn why_none(&self) -> NoEndpoint {
        let pick = self.balancer.pick(None, &[], self.now);
        pick.expect_err("nothing can be picked")
    }

    pub(crate) fn wait(&mut self, time: Duration) -> Vec<Transition> {
        self.now += time;
        self.updater.tick(self.now)
    }

    pub(crate) fn endpoint(&self, name: &str) -> Arc<Endpoint> {
        let view = self.balancer.view();
        let member = view
            .members()
            .iter()
            .find(|member| member.instance.id.as_str() == name);
        Arc::clone(&member.expect("a member of that name").endpoint)
    }

    pub(crate) fn state(&self, name: &str) -> EndpointState {
        let view = self.balancer.view();
        let member = view
            .members()
            .iter()
            .find(|member| member.instance.id.as_str() == name);
        member.expect("a member of that name").state()
    }

    /// One request that is answered at once; where it went.
    pub(crate) fn request(&self, key: Option<u64>) -> String {
        let pick = self.balancer.pick(key, &[], self.now).expect("an endpoint");
        let name = pick.endpoint().id().to_string();
        pick.finish(answered(200, 1), self.now);
        name
    }

    /// So many requests, by name.
    pub(crate) fn requests(&self, count: u64) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for _ in 0..count {
            *counts.entry(self.request(None)).or_default() += 1;
        }
        counts
    }

    /// Sends requests until one goes to `name`, and ends that one with `outcome`; the others are
    /// given up.
    pub(crate) fn end_with(&self, name: &str, outcome: Outcome) {
        for _ in 0..10_000 {
            let pick = self
                .balancer
                .pick(None, &[], self.now)
                .expect("an endpoint");
            if pick.endpoint().id().as_str() == name {
                pick.finish(outcome, self.now);
                return;
            }
        }
        panic!("{name} is never picked");
    }

    pub(crate) fn is_picked(&self, name: &str) -> bool {
        (0..500).any(|_| {
            let pick = self
                .balancer
                .pick(None, &[], self.now)
                .expect("an endpoint");
            pick.endpoint().id().as_str() == name
        })
    }
}

pub(crate) fn kinds(transitions: &[Transition]) -> Vec<(&str, &str)> {
    transitions
        .iter()
        .map(|transition| (transition.instance.as_str(), transition.kind))
        .collect()
}
