//! The model against a registry that is a map, with events and answers in any order.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use livegate_zk::proto::stat::Stat;
use livegate_zk::proto::watch::EventKind;
use proptest::prelude::*;

use super::Weights;
use super::model::{Failure, Job, Model};
use super::roster::{Change, Roster};
use crate::layout::Layout;
use crate::snapshot::InstanceState;

const NODES: [&str; 6] = [
    "",
    "10.0.0.1:80",
    "10.0.0.2:80",
    "10.0.0.3:80",
    "providers",
    "providers/dubbo%3A%2F%2F10.0.0.4%3A80%2Fx%3Fweight%3D7",
];

#[derive(Debug, Clone)]
enum Step {
    Create(usize),
    Delete(usize),
    Set(usize),
    /// The model asks, the registry answers, and the answer is on its way.
    Ask,
    AskAndFail,
    SeeEvents(usize),
    /// The n-th of the answers that are on their way arrives.
    SeeAnswer(usize),
    LoseContact,
    RegainContact,
    LetTimePass,
}

fn step() -> impl Strategy<Value = Step> {
    let node = 0..NODES.len();
    prop_oneof![
        6 => node.clone().prop_map(Step::Create),
        4 => node.clone().prop_map(Step::Delete),
        3 => node.prop_map(Step::Set),
        8 => Just(Step::Ask),
        1 => Just(Step::AskAndFail),
        6 => (1usize..4).prop_map(Step::SeeEvents),
        8 => (0usize..8).prop_map(Step::SeeAnswer),
        1 => Just(Step::LoseContact),
        2 => Just(Step::RegainContact),
        1 => Just(Step::LetTimePass),
    ]
}

enum Answer {
    Listed(Arc<str>, Result<(Vec<String>, Stat), Failure>),
    State(Arc<str>, u64, Result<Option<Stat>, Failure>),
    Data(Arc<str>, u64, Result<(Vec<u8>, Stat), Failure>),
}

/// A registry, the model that watches it, and what is on its way between them.
struct World {
    model: Model,
    nodes: BTreeMap<&'static str, (Stat, Vec<u8>)>,
    zxid: i64,
    /// `None` is a gap.
    events: VecDeque<Option<(EventKind, &'static str)>>,
    answers: Vec<Answer>,
    is_connected: bool,
    now: Instant,
    reads: usize,
    writes: usize,
}

impl World {
    fn new() -> Self {
        let roster = Roster::new("orders".into(), Weights::default());
        let mut model = Model::new(Layout::Auto, "orders".into(), roster);
        model.reconcile();
        Self {
            model,
            nodes: BTreeMap::new(),
            zxid: 0,
            events: VecDeque::new(),
            answers: Vec::new(),
            is_connected: true,
            now: Instant::now(),
            reads: 0,
            writes: 0,
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Create(node) => self.create(NODES[*node]),
            Step::Delete(node) => self.delete(NODES[*node]),
            Step::Set(node) => self.set(NODES[*node]),
            Step::Ask => drop(self.ask(None)),
            Step::AskAndFail => drop(self.ask(Some(Failure::Other("no".to_owned())))),
            Step::SeeEvents(count) => self.see_events(*count),
            Step::SeeAnswer(which) => self.see_answer(*which),
            Step::LoseContact => self.is_connected = false,
            Step::RegainContact => {
                if !std::mem::replace(&mut self.is_connected, true) {
                    self.events.push_back(None);
                }
            }
            Step::LetTimePass => {
                self.now += Duration::from_secs(1);
                self.model.wake(self.now);
            }
        }
    }

    fn event(&mut self, kind: EventKind, node: &'static str) {
        self.writes += 1;
        if self.is_connected {
            self.events.push_back(Some((kind, node)));
        }
    }

    fn create(&mut self, node: &'static str) {
        let parent = node.rsplit_once('/').map_or("", |(parent, _)| parent);
        let is_orphan = !node.is_empty() && !self.nodes.contains_key(parent);
        if is_orphan || self.nodes.contains_key(node) {
            return;
        }
        self.zxid += 1;
        let stat = Stat {
            czxid: self.zxid,
            mzxid: self.zxid,
            ..Stat::default()
        };
        self.nodes.insert(node, (stat, Vec::new()));
        self.event(EventKind::Created, node);
    }

    fn children(&self, node: &str) -> Vec<String> {
        let names = self.nodes.keys().filter(|name| !name.is_empty());
        let children = names.filter_map(|name| match name.rsplit_once('/') {
            Some((parent, name)) => (parent == node).then_some(name),
            None => node.is_empty().then_some(*name),
        });
        children.map(str::to_owned).collect()
    }

    fn delete(&mut self, node: &'static str) {
        if self.nodes.contains_key(node) && self.children(node).is_empty() {
            self.zxid += 1;
            self.nodes.remove(node);
            self.event(EventKind::Deleted, node);
        }
    }

    fn set(&mut self, node: &'static str) {
        if let Some((stat, data)) = self.nodes.get_mut(node) {
            self.zxid += 1;
            stat.mzxid = self.zxid;
            *data = if node.is_empty() {
                format!(
                    "[{{\"host\":\"10.0.0.9\",\"port\":80,\"weight\":{}}}]",
                    self.zxid
                )
            } else {
                format!("{{\"Weight\":{}}}", self.zxid)
            }
            .into_bytes();
            stat.data_length = i32::try_from(data.len()).unwrap();
            self.event(EventKind::DataChanged, node);
        }
    }

    fn ask(&mut self, failure: Option<Failure>) -> bool {
        let Some(job) = self.model.next_job() else {
            return false;
        };
        let failure = failure.or((!self.is_connected).then_some(Failure::NoContact));
        let found = |node: &str| match &failure {
            Some(failure) => Err(failure.clone()),
            None => self.nodes.get(node).cloned().ok_or(Failure::NoNode),
        };
        let answer = match job {
            Job::List { directory } => {
                let listed = found(&directory).map(|(stat, _)| (self.children(&directory), stat));
                Answer::Listed(directory, listed)
            }
            Job::State { node, generation } => {
                let state = match found(&node) {
                    Ok((stat, _)) => Ok(Some(stat)),
                    Err(Failure::NoNode) => Ok(None),
                    Err(failure) => Err(failure),
                };
                Answer::State(node, generation, state)
            }
            Job::Data { node, generation } => {
                self.reads += usize::from(failure.is_none());
                let data = found(&node).map(|(stat, data)| (data, stat));
                Answer::Data(node, generation, data)
            }
        };
        self.answers.push(answer);
        true
    }

    fn see_events(&mut self, count: usize) {
        for _ in 0..count {
            match self.events.pop_front() {
                Some(Some((kind, node))) => self.model.event(kind, node),
                Some(None) => self.model.reconcile(),
                None => break,
            }
        }
        self.model.bury();
    }

    fn see_answer(&mut self, which: usize) {
        if self.answers.is_empty() {
            return;
        }
        let now = self.now;
        match self.answers.remove(which % self.answers.len()) {
            Answer::Listed(directory, outcome) => self.model.listed(&directory, outcome, now),
            Answer::State(node, generation, outcome) => {
                self.model.state(&node, generation, outcome, now);
            }
            Answer::Data(node, generation, outcome) => {
                self.model.data(&node, generation, outcome, now);
            }
        }
    }

    /// Lets everything arrive.
    fn settle(&mut self) {
        self.step(&Step::RegainContact);
        for round in 0.. {
            assert!(round < 1000, "it asks for ever");
            self.see_events(usize::MAX);
            self.now += Duration::from_secs(60);
            self.model.wake(self.now);
            let mut is_busy = false;
            while self.ask(None) {
                is_busy = true;
            }
            while !self.answers.is_empty() {
                self.see_answer(0);
                is_busy = true;
            }
            if !is_busy && self.model.due().is_none() {
                break;
            }
        }
    }

    /// Instances and weights as the registry has them.
    fn expected(&self) -> BTreeMap<String, u32> {
        let mut expected = BTreeMap::new();
        for (node, (_, data)) in &self.nodes {
            let data = std::str::from_utf8(data).unwrap();
            let number = |text: &str| -> u32 { text.parse().unwrap() };
            match *node {
                "" if !data.is_empty() => {
                    let weight = data.rsplit(':').next().unwrap().trim_end_matches("}]");
                    expected.insert("10.0.0.9:80".to_owned(), number(weight));
                }
                "" | "providers" => {}
                node if node.starts_with("providers/") => {
                    expected.insert("10.0.0.4:80".to_owned(), 7);
                }
                node => {
                    let weight = data
                        .strip_prefix("{\"Weight\":")
                        .map(|rest| rest.trim_end_matches('}'));
                    expected.insert(node.to_owned(), weight.map_or(50, number));
                }
            }
        }
        expected
    }

    fn found(&self) -> BTreeMap<String, u32> {
        let instances = self.model.roster.instances.iter();
        instances
            .map(|(id, instance)| (id.to_string(), instance.weight))
            .collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn it_ends_with_what_the_registry_has(steps in prop::collection::vec(step(), 0..120)) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
        }
        world.settle();
        prop_assert_eq!(world.found(), world.expected());
        prop_assert_eq!(world.model.exists(), world.nodes.contains_key(""));
        prop_assert!(world.model.take_reconciled(world.now));
        prop_assert!(world.model.roster.skipped.is_empty(), "{:?}", world.model.roster.skipped);
        // Nothing is read without a reason: each reason is a write, or a listing that found something.
        prop_assert!(world.reads <= 2 * world.writes + 1, "{} reads, {} writes", world.reads, world.writes);
    }
}

#[test]
fn only_what_is_new_or_changed_is_read() {
    let mut world = World::new();
    for node in ["", "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"] {
        world.create(node);
    }
    world.events.clear();
    world.settle();
    assert_eq!(world.reads, 3);
    assert!(world.model.take_reconciled(world.now));

    // Events tell of each change.
    world.set("10.0.0.2:80");
    world.settle();
    assert_eq!(world.reads, 4);

    // After a gap only what differs is read, also where the version would be the same.
    world.step(&Step::LoseContact);
    world.set("10.0.0.1:80");
    world.delete("10.0.0.3:80");
    world.create("10.0.0.3:80");
    world.settle();
    assert_eq!(world.reads, 6);
    assert!(world.model.take_reconciled(world.now));
    assert_eq!(world.found(), world.expected());

    // And nothing if nothing does.
    world.step(&Step::LoseContact);
    world.settle();
    assert_eq!(world.reads, 6);
    assert!(world.model.take_reconciled(world.now));
}

#[test]
fn removals_are_urgent_and_additions_are_not() {
    let mut world = World::new();
    world.create("");
    world.create("10.0.0.1:80");
    world.settle();
    let change = |world: &mut World| {
        world.settle();
        let change = world.model.roster.change();
        world.model.roster.published();
        change
    };
    assert_eq!(change(&mut world), Change::Additive);
    world.create("10.0.0.2:80");
    assert_eq!(change(&mut world), Change::Additive);
    world.set("10.0.0.2:80");
    assert_eq!(change(&mut world), Change::Additive);
    world.delete("10.0.0.2:80");
    assert_eq!(change(&mut world), Change::Urgent);
    let (stat, data) = world.nodes.get_mut("10.0.0.1:80").unwrap();
    stat.mzxid = 1000;
    *data = br#"{"host":"10.0.0.1","port":80,"state":"draining"}"#.to_vec();
    world.event(EventKind::DataChanged, "10.0.0.1:80");
    assert_eq!(change(&mut world), Change::Urgent);
    let instance = world.model.roster.instances.values().next().unwrap();
    assert_eq!(instance.state, InstanceState::Draining);
    assert_eq!(change(&mut world), Change::None);
}

#[test]
fn deleted_and_created_in_one_breath_is_no_removal() {
    let mut world = World::new();
    world.create("");
    world.create("10.0.0.1:80");
    world.settle();
    world.model.roster.published();
    world.delete("10.0.0.1:80");
    world.create("10.0.0.1:80");
    world.see_events(2);
    assert_eq!(world.model.roster.change(), Change::None);
    world.settle();
    assert_eq!(world.model.roster.change(), Change::Additive);
    let instance = world.model.roster.instances.values().next().unwrap();
    assert_eq!(instance.incarnation.czxid, world.zxid);
}

#[test]
fn a_node_that_cannot_be_read_hides_no_other_and_is_tried_again() {
    let mut world = World::new();
    for node in ["", "10.0.0.1:80", "10.0.0.2:80"] {
        world.create(node);
    }
    world.events.clear();
    world.ask(None);
    world.see_answer(0);
    world.ask(Some(Failure::Other("too long".to_owned())));
    world.ask(None);
    world.see_answer(0);
    world.see_answer(0);
    assert!(
        world.model.take_reconciled(world.now),
        "it does not hold up the others"
    );
    assert_eq!(world.found().len(), 1);
    let skipped = world.model.roster.skipped.values().next().unwrap();
    assert_eq!(skipped, "cannot be read: too long");
    assert!(!world.ask(None), "not at once");
    assert!(world.model.due().is_some());
    world.settle();
    assert_eq!(world.found(), world.expected());
    assert!(world.model.roster.skipped.is_empty());
    // What was known stays when reading it again fails.
    world.set("10.0.0.1:80");
    world.see_events(1);
    world.ask(Some(Failure::Other("too long".to_owned())));
    world.see_answer(0);
    assert_eq!(world.found().len(), 2);
    assert!(world.model.roster.skipped.is_empty());
}

#[test]
fn of_two_nodes_with_one_id_the_later_counts() {
    const STALE: &str = "10.0.0.1:80_0000000001";
    let mut world = World::new();
    world.create("");
    world.create(STALE);
    world.create("10.0.0.1:80");
    world.settle();
    let incarnation = |world: &World| {
        let instances = &world.model.roster.instances;
        assert_eq!(instances.len(), 1);
        instances.values().next().unwrap().incarnation.czxid
    };
    assert_eq!(incarnation(&world), 3);
    world.delete("10.0.0.1:80");
    world.settle();
    assert_eq!(incarnation(&world), 2);
    world.delete(STALE);
    world.settle();
    assert!(world.found().is_empty());
}

#[test]
fn weights_by_precedence() {
    let mut world = World::new();
    for node in ["", "10.0.0.1:80", "10.0.0.2:80"] {
        world.create(node);
    }
    world.set("10.0.0.2:80");
    world.settle();
    let found = |world: &World| world.found().into_values().collect::<Vec<_>>();
    assert_eq!(found(&world), [50, 4]);
    world.model.roster.set_weights(Weights {
        default: 7,
        overrides: BTreeMap::new(),
    });
    assert_eq!(found(&world), [7, 4]);
    world.model.roster.set_weights(Weights {
        default: 7,
        overrides: [("10.0.0.2:80".to_owned(), 9)].into(),
    });
    assert_eq!(found(&world), [7, 9]);
}

#[test]
fn names_are_looked_up_once_and_again_when_that_fails() {
    let mut world = World::new();
    world.create("");
    world.create("orders.internal:80");
    world.create("orders.internal:81");
    world.settle_names_pending();
    let host: Arc<str> = "orders.internal".into();
    assert_eq!(world.model.next_look_up(), Some(Arc::clone(&host)));
    assert_eq!(world.model.next_look_up(), None);
    assert!(
        !world.model.take_reconciled(world.now),
        "it waits for the name"
    );
    let skipped = |world: &World| world.model.roster.skipped.values().next().cloned();
    assert_eq!(skipped(&world).unwrap(), "looking up orders.internal");
    world
        .model
        .looked_up(&host, Err("no such host".to_owned()), world.now);
    assert_eq!(
        skipped(&world).unwrap(),
        "cannot look up orders.internal: no such host"
    );
    assert!(world.model.take_reconciled(world.now));
    assert_eq!(world.model.next_look_up(), None);
    world.step(&Step::LetTimePass);
    assert_eq!(world.model.next_look_up(), Some(Arc::clone(&host)));
    let address = [10, 0, 0, 5].into();
    world.model.looked_up(&host, Ok(address), world.now);
    assert_eq!(skipped(&world), None);
    let addresses: Vec<_> = world
        .model
        .roster
        .instances
        .values()
        .map(|instance| instance.address.to_string())
        .collect();
    assert_eq!(addresses, ["10.0.0.5:80", "10.0.0.5:81"]);
    // A later node with the same name has it at once.
    world.create("orders.internal:82");
    world.settle_names_pending();
    assert_eq!(world.model.next_look_up(), None);
    assert_eq!(world.found().len(), 3);
    // A node that changes has it looked up again, and serves meanwhile.
    world.now += Duration::from_secs(6);
    world.set("orders.internal:80");
    world.settle_names_pending();
    assert_eq!(world.model.next_look_up(), Some(Arc::clone(&host)));
    assert_eq!(world.found().len(), 3);
}

impl World {
    /// Lets everything arrive but looked-up names.
    fn settle_names_pending(&mut self) {
        self.see_events(usize::MAX);
        while self.ask(None) {}
        while !self.answers.is_empty() {
            self.see_answer(0);
            while self.ask(None) {}
        }
    }
}
