//! What is known of a service's nodes and what is to be asked next: no I/O, no clock of its own.
//!
//! Events of a recursive watch say which nodes came, changed and went; only those are read. Listings are
//! needed only where events may be missing: in the beginning and after gaps. Then nodes that are known
//! already are asked for their state, and read only if their incarnation or their data is another one.
//!
//! Events and replies travel on different ways, so a reply may be older than an event that was seen
//! before it. What an event touched while a question was under way is therefore asked again, and
//! answers about a node that went meanwhile are thrown away.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use livegate_zk::proto::stat::Stat;
use livegate_zk::proto::watch::EventKind;

use super::backoff;
use super::names::Names;
use super::roster::Roster;
use crate::layout::{self, Layout};
use crate::snapshot::Incarnation;

/// The most nodes of one service that are looked at; the rest is not, and said to be skipped.
pub(super) const NODES_MAX: usize = 100_000;

/// How long a reconcile waits for names to be looked up before it goes on without them.
const NAMES_GRACE: Duration = Duration::from_secs(1);

/// The service's own node, and the directory of its children.
const SELF: &str = "";

/// Something to ask. Nodes are named by their path below the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Job {
    /// The names of a directory's children, and its state.
    List { directory: Arc<str> },
    /// The state of a node.
    State { node: Arc<str>, generation: u64 },
    /// The data and state of a node.
    Data { node: Arc<str>, generation: u64 },
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// There is no such node.
    NoNode,
    /// The connection was lost, or never there.
    NoContact,
    /// Anything else.
    Other(String),
}

/// Nodes are told apart by these; `version` starts again with each incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    czxid: i64,
    mzxid: i64,
}

impl Stamp {
    fn of(stat: &Stat) -> Self {
        Self {
            czxid: stat.czxid,
            mzxid: stat.mzxid,
        }
    }
}

/// What to ask about a node; the later includes the former.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Question {
    State,
    Data,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Idle,
    Queued(Question),
    /// The answer is awaited, and perhaps old already.
    UnderWay(Option<Question>),
    /// It failed, and is asked again after a while.
    Waiting(Question),
}

#[derive(Debug)]
struct Node {
    generation: u64,
    stamp: Option<Stamp>,
    work: Work,
    failures: u32,
    /// It was seen in this reconcile, or came after it.
    is_confirmed: bool,
    /// An event said that it is gone; it may come back in the same breath.
    is_gone: bool,
}

#[derive(Debug)]
struct Directory {
    work: Work,
    failures: u32,
    /// Created while the listing was under way.
    touched: HashSet<Arc<str>>,
    /// It was listed in this reconcile.
    is_listed: bool,
}

/// Something that is asked again later.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Again {
    Directory(Arc<str>),
    Node(Arc<str>),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Model {
    layout: Layout,
    /// What faults of the service's own node are called.
    label: Arc<str>,
    pub(super) roster: Roster,
    nodes: HashMap<Arc<str>, Node>,
    directories: BTreeMap<Arc<str>, Directory>,
    /// Whether the service's node is there.
    exists: bool,
    queue: VecDeque<Again>,
    later: BTreeSet<(Instant, Again)>,
    names: Names,
    generations: u64,
    gone: Vec<Arc<str>>,
    /// A reconcile is under way.
    is_reconciling: bool,
    unconfirmed: usize,
    names_awaited_until: Option<Instant>,
}

impl Model {
    pub(super) fn new(layout: Layout, label: Arc<str>, roster: Roster) -> Self {
        Self {
            layout,
            label,
            roster,
            nodes: HashMap::new(),
            directories: BTreeMap::new(),
            exists: false,
            queue: VecDeque::new(),
            later: BTreeSet::new(),
            names: Names::default(),
            generations: 0,
            gone: Vec::new(),
            is_reconciling: false,
            unconfirmed: 0,
            names_awaited_until: None,
        }
    }

    /// Whether the service's node is there, as far as is known.
    pub(super) fn exists(&self) -> bool {
        self.exists
    }

    /// Events may be missing: compares everything.
    pub(super) fn reconcile(&mut self) {
        self.is_reconciling = true;
        self.names_awaited_until = None;
        for node in self.nodes.values_mut() {
            node.is_confirmed = false;
            // The answer may be from before the gap.
            if let Work::UnderWay(again) = &mut node.work {
                *again = (*again).max(Some(Question::State));
            }
        }
        self.unconfirmed = self.nodes.len();
        for directory in self.directories.values_mut() {
            directory.is_listed = false;
        }
        self.want_listing(&SELF.into());
    }

    /// Whether the reconcile is complete; true once for each.
    pub(super) fn take_reconciled(&mut self, now: Instant) -> bool {
        if !self.is_reconciling
            || self.unconfirmed > 0
            || !self
                .directories
                .values()
                .all(|directory| directory.is_listed)
        {
            return false;
        }
        if self.roster.awaits_names() {
            let until = *self
                .names_awaited_until
                .get_or_insert_with(|| now + NAMES_GRACE);
            if now < until {
                return false;
            }
        }
        self.is_reconciling = false;
        true
    }

    /// Something happened to a node, named by its path below the service.
    pub(super) fn event(&mut self, kind: EventKind, node: &str) {
        if node == SELF {
            return self.event_of_service(kind);
        }
        if self.layout.ignores(node) {
            return;
        }
        let directory = match node.rsplit_once('/') {
            Some((directory, _)) if self.layout.has_directory(directory) => directory,
            Some(_) => return,
            None => SELF,
        };
        if self.layout.has_directory(node) {
            return match kind {
                EventKind::Created => self.directory_created(&node.into()),
                EventKind::Deleted => self.directory_gone(node),
                EventKind::DataChanged | EventKind::ChildrenChanged => {}
            };
        }
        let node: Arc<str> = node.into();
        match kind {
            EventKind::Created | EventKind::DataChanged => {
                self.exists = true;
                if let Some(directory) = self.directories.get_mut(directory)
                    && matches!(directory.work, Work::UnderWay(_))
                {
                    directory.touched.insert(Arc::clone(&node));
                }
                self.came(&node);
            }
            EventKind::Deleted => self.went(&node),
            EventKind::ChildrenChanged => {}
        }
    }

    fn event_of_service(&mut self, kind: EventKind) {
        match kind {
            EventKind::Created => {
                self.exists = true;
                self.directory_created(&SELF.into());
                if self.layout.may_list_in_service_node() {
                    self.came(&SELF.into());
                }
            }
            EventKind::DataChanged => {
                if self.layout.may_list_in_service_node() {
                    self.came(&SELF.into());
                }
            }
            EventKind::Deleted => {
                self.exists = false;
                for directory in self.directories.keys().cloned().collect::<Vec<_>>() {
                    self.directory_gone(&directory);
                }
                self.went(&SELF.into());
            }
            EventKind::ChildrenChanged => {}
        }
    }

    /// What it will hold is told by events; only a listing under way may be older than it.
    fn directory_created(&mut self, directory: &Arc<str>) {
        if let Some(parent) = self.directories.get_mut(SELF)
            && matches!(parent.work, Work::UnderWay(_))
        {
            parent.touched.insert(Arc::clone(directory));
        }
        match self.directories.get_mut(directory) {
            Some(known) => {
                if let Work::UnderWay(again) = &mut known.work {
                    *again = Some(Question::State);
                }
            }
            None => {
                let known = Directory {
                    work: Work::Idle,
                    failures: 0,
                    touched: HashSet::new(),
                    is_listed: true,
                };
                self.directories.insert(Arc::clone(directory), known);
            }
        }
    }

    fn directory_gone(&mut self, directory: &str) {
        for node in self.nodes_in(directory) {
            self.went(&node);
        }
        if let Some(known) = self.directories.get_mut(directory)
            && let Work::UnderWay(again) = &mut known.work
        {
            *again = Some(Question::State);
        } else if directory != SELF {
            self.directories.remove(directory);
            self.roster
                .set_fault(&self.label_of_directory(directory), None);
        }
    }

    /// Forgets the nodes that went and did not come back. To be called after a batch of events.
    pub(super) fn bury(&mut self) {
        for node in std::mem::take(&mut self.gone) {
            if self.nodes.get(&node).is_some_and(|known| known.is_gone) {
                self.forget(&node);
            }
        }
    }

    /// Whether there may be something to ask.
    pub(super) fn has_jobs(&self) -> bool {
        !self.queue.is_empty()
    }

    /// How many nodes there are.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The next thing to ask.
    pub(super) fn next_job(&mut self) -> Option<Job> {
        while let Some(next) = self.queue.pop_front() {
            match next {
                Again::Directory(directory) => {
                    let Some(known) = self.directories.get_mut(&directory) else {
                        continue;
                    };
                    if matches!(known.work, Work::Queued(_)) {
                        known.work = Work::UnderWay(None);
                        known.touched.clear();
                        return Some(Job::List { directory });
                    }
                }
                Again::Node(node) => {
                    let Some(known) = self.nodes.get_mut(&node) else {
                        continue;
                    };
                    if let Work::Queued(question) = known.work {
                        known.work = Work::UnderWay(None);
                        let generation = known.generation;
                        return Some(match question {
                            Question::State => Job::State { node, generation },
                            Question::Data => Job::Data { node, generation },
                        });
                    }
                }
            }
        }
        None
    }

    /// The next host name to look up.
    pub(super) fn next_look_up(&mut self) -> Option<Arc<str>> {
        self.names.next(|host| self.roster.needs(host))
    }

    /// When [`wake`](Self::wake) has something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        let names = self.names_awaited_until.filter(|_| self.is_reconciling);
        let later = self.later.first().map(|(due, _)| *due);
        let times = [names, later, self.names.due()];
        times.into_iter().flatten().min()
    }

    /// Asks again what is due.
    pub(super) fn wake(&mut self, now: Instant) {
        self.names.wake(now);
        while let Some((due, _)) = self.later.first()
            && *due <= now
            && let Some((_, again)) = self.later.pop_first()
        {
            match again {
                Again::Directory(directory) => {
                    let work = self.directories.get(&directory).map(|known| known.work);
                    if let Some(Work::Waiting(_)) = work {
                        self.want_listing(&directory);
                    }
                }
                Again::Node(node) => {
                    if let Some(Work::Waiting(question)) =
                        self.nodes.get(&node).map(|known| known.work)
                    {
                        self.want(&node, question);
                    }
                }
            }
        }
    }

    /// A directory was listed, or could not be.
    pub(super) fn listed(
        &mut self,
        directory: &Arc<str>,
        outcome: Result<(Vec<String>, Stat), Failure>,
        now: Instant,
    ) {
        let Some(known) = self.directories.get_mut(directory) else {
            return;
        };
        let is_old = matches!(known.work, Work::UnderWay(Some(_)));
        known.work = Work::Idle;
        let touched = std::mem::take(&mut known.touched);
        if is_old {
            return self.want_listing(directory);
        }
        let label = self.label_of_directory(directory);
        let outcome = outcome.and_then(|(names, stat)| match names.len() {
            0..=NODES_MAX => Ok((names, stat)),
            many => Err(Failure::Other(format!(
                "{many} children are over the limit of {NODES_MAX}"
            ))),
        });
        match outcome {
            Ok((names, stat)) => {
                self.found(directory, names, &touched);
                if **directory == *SELF {
                    self.exists = true;
                    self.found_self(&stat);
                }
            }
            Err(Failure::NoNode) => {
                self.found(directory, Vec::new(), &touched);
                if **directory == *SELF {
                    self.exists = false;
                    self.forget(SELF);
                } else {
                    self.directories.remove(directory);
                }
            }
            Err(failure) => {
                if let Some(known) = self.directories.get_mut(directory) {
                    known.failures += 1;
                    known.work = Work::Waiting(Question::State);
                    let due = now + backoff::delay(known.failures);
                    self.later
                        .insert((due, Again::Directory(Arc::clone(directory))));
                }
                if let Failure::Other(cause) = failure {
                    let cause = format!("cannot be listed: {cause}");
                    self.roster.set_fault(&label, Some(cause));
                }
                return;
            }
        }
        self.roster.set_fault(&label, None);
        if let Some(known) = self.directories.get_mut(directory) {
            known.failures = 0;
            known.is_listed = true;
        }
    }

    /// Compares a directory's children with what is known.
    fn found(&mut self, directory: &str, names: Vec<String>, touched: &HashSet<Arc<str>>) {
        let mut found: HashSet<Arc<str>> = HashSet::with_capacity(names.len());
        let mut directories = Vec::new();
        for name in names {
            if directory != SELF {
                found.insert(format!("{directory}/{name}").into());
            } else if self.layout.has_directory(&name) {
                directories.push(Arc::from(name));
            } else if !self.layout.ignores(&name) {
                found.insert(name.into());
            }
        }
        if directory == SELF {
            for other in self.directories.keys().cloned().collect::<Vec<_>>() {
                if touched.contains(&other) {
                    directories.push(other);
                } else if *other != *SELF && !directories.contains(&other) {
                    self.directory_gone(&other);
                }
            }
            for directory in directories {
                self.want_listing(&directory);
            }
        }
        for node in self.nodes_in(directory) {
            if !found.contains(&node) && !touched.contains(&node) {
                self.forget(&node);
            }
        }
        if self.nodes.len() < NODES_MAX {
            self.roster.set_fault(&self.label_of_excess(), None);
        }
        for node in found {
            match self.nodes.get(&node) {
                Some(known) if known.is_confirmed && !known.is_gone => {}
                Some(known) if known.stamp.is_some() && !known.is_gone => {
                    self.want(&node, Question::State);
                }
                Some(_) | None => self.came(&node),
            }
        }
    }

    /// The state of the service's own node, which may hold a list. It may be older than what was read.
    fn found_self(&mut self, stat: &Stat) {
        if !self.layout.may_list_in_service_node() {
            return;
        }
        match self.nodes.get(SELF).map(|own| own.stamp) {
            Some(Some(stamp)) if stamp == Stamp::of(stat) => self.confirm(SELF),
            Some(Some(_)) => self.came(&SELF.into()),
            // It is being read.
            Some(None) => {}
            None if stat.data_length > 0 => self.came(&SELF.into()),
            None => {}
        }
    }

    /// A node's state was asked for, or could not be.
    pub(super) fn state(
        &mut self,
        node: &Arc<str>,
        generation: u64,
        outcome: Result<Option<Stat>, Failure>,
        now: Instant,
    ) {
        if !self.answered(node, generation) {
            return;
        }
        match outcome {
            Ok(Some(stat)) => {
                let Some(known) = self.nodes.get_mut(node) else {
                    return;
                };
                known.failures = 0;
                if known.stamp == Some(Stamp::of(&stat)) {
                    if known.work == Work::Idle {
                        self.confirm(node);
                    }
                } else {
                    self.want(node, Question::Data);
                }
            }
            Ok(None) | Err(Failure::NoNode) => self.missing(node),
            Err(failure) => self.failed(node, Question::State, failure, now),
        }
    }

    /// A node was read, or could not be.
    pub(super) fn data(
        &mut self,
        node: &Arc<str>,
        generation: u64,
        outcome: Result<(Vec<u8>, Stat), Failure>,
        now: Instant,
    ) {
        if !self.answered(node, generation) {
            return;
        }
        match outcome {
            Ok((data, stat)) => {
                let Some(known) = self.nodes.get_mut(node) else {
                    return;
                };
                known.failures = 0;
                known.stamp = Some(Stamp::of(&stat));
                let is_latest = known.work == Work::Idle;
                self.read(node, &data, &stat, now);
                if is_latest {
                    self.confirm(node);
                }
            }
            Err(Failure::NoNode) => self.missing(node),
            Err(failure) => self.failed(node, Question::Data, failure, now),
        }
    }

    fn read(&mut self, node: &Arc<str>, data: &[u8], stat: &Stat, now: Instant) {
        let incarnation = Incarnation {
            czxid: stat.czxid,
            ctime_ms: stat.ctime,
        };
        let label = self.label_of(node);
        let content = if **node == *SELF {
            match layout::read_service_node(self.layout, data) {
                Some(content) => content,
                None => return self.roster.remove(node),
            }
        } else {
            layout::read(self.layout, livegate_zk::path::name(node), data)
        };
        let content = content.map_err(|error| error.to_string());
        self.roster.put(node, &label, incarnation, content);
        for host in self.roster.take_unknown() {
            if !self.names.is_fresh(&host, now) || !self.roster.is_found(&host) {
                self.names.want(&host);
            }
        }
    }

    /// A name was looked up, or could not be.
    pub(super) fn looked_up(
        &mut self,
        host: &Arc<str>,
        outcome: Result<std::net::IpAddr, String>,
        now: Instant,
    ) {
        if self.roster.needs(host) {
            self.names.looked_up(host, outcome.is_ok(), now);
        } else {
            self.names.forget(host);
        }
        self.roster.looked_up(host, outcome);
    }

    /// Takes note of an answer; false if it is about a node that has gone since.
    fn answered(&mut self, node: &str, generation: u64) -> bool {
        let Some(known) = self.nodes.get_mut(node) else {
            return false;
        };
        if known.generation != generation {
            return false;
        }
        let again = match known.work {
            Work::UnderWay(again) => again,
            Work::Idle | Work::Queued(_) | Work::Waiting(_) => return false,
        };
        known.work = Work::Idle;
        if let Some(question) = again {
            self.want(&node.into(), question);
        }
        true
    }

    /// A node that is asked about is not there; but if it was created since, it is asked about again.
    fn missing(&mut self, node: &Arc<str>) {
        if self
            .nodes
            .get(node)
            .is_some_and(|known| known.work == Work::Idle)
        {
            self.forget(node);
        }
    }

    fn failed(&mut self, node: &Arc<str>, question: Question, failure: Failure, now: Instant) {
        let label = self.label_of(node);
        let Some(known) = self.nodes.get_mut(node) else {
            return;
        };
        known.failures += 1;
        let is_read = known.stamp.is_some();
        if known.work == Work::Idle {
            known.work = Work::Waiting(question);
            let due = now + backoff::delay(known.failures);
            self.later.insert((due, Again::Node(Arc::clone(node))));
        } else {
            // A weaker question must not stand in for this one.
            self.want(node, question);
        }
        if let Failure::Other(cause) = failure {
            let cause = format!("cannot be read: {cause}");
            if is_read {
                // What it said before stays.
                tracing::warn!(service = %self.label, node = %label, %cause, "not read again");
            } else {
                self.roster
                    .put(node, &label, Incarnation::default(), Err(cause));
            }
            self.confirm(node);
        }
    }

    /// A node is there, and its data is new.
    fn came(&mut self, node: &Arc<str>) {
        let is_full = self.nodes.len() >= NODES_MAX;
        match self.nodes.get_mut(node) {
            Some(known) => known.is_gone = false,
            None if is_full => {
                let cause = format!("more than {NODES_MAX} nodes; the rest is not looked at");
                return self.roster.set_fault(&self.label_of_excess(), Some(cause));
            }
            None => {
                self.generations += 1;
                self.unconfirmed += usize::from(self.is_reconciling);
                let known = Node {
                    generation: self.generations,
                    stamp: None,
                    work: Work::Idle,
                    failures: 0,
                    is_confirmed: !self.is_reconciling,
                    is_gone: false,
                };
                self.nodes.insert(Arc::clone(node), known);
            }
        }
        self.want(node, Question::Data);
    }

    /// An event said that a node is gone.
    fn went(&mut self, node: &Arc<str>) {
        if let Some(known) = self.nodes.get_mut(node) {
            // What was asked before is about the former node.
            self.generations += 1;
            known.generation = self.generations;
            known.work = Work::Idle;
            known.is_gone = true;
            self.gone.push(Arc::clone(node));
        }
    }

    fn want(&mut self, node: &Arc<str>, question: Question) {
        let Some(known) = self.nodes.get_mut(node) else {
            return;
        };
        match &mut known.work {
            Work::Idle | Work::Waiting(_) => {
                known.work = Work::Queued(question);
                self.queue.push_back(Again::Node(Arc::clone(node)));
            }
            Work::Queued(queued) => *queued = question.max(*queued),
            Work::UnderWay(again) => *again = (*again).max(Some(question)),
        }
    }

    fn want_listing(&mut self, directory: &Arc<str>) {
        let known = self
            .directories
            .entry(Arc::clone(directory))
            .or_insert_with(|| Directory {
                work: Work::Idle,
                failures: 0,
                touched: HashSet::new(),
                is_listed: false,
            });
        match &mut known.work {
            Work::Idle | Work::Waiting(_) => {
                known.work = Work::Queued(Question::State);
                self.queue
                    .push_back(Again::Directory(Arc::clone(directory)));
            }
            Work::Queued(_) => {}
            Work::UnderWay(again) => *again = Some(Question::State),
        }
    }

    fn confirm(&mut self, node: &str) {
        if let Some(known) = self.nodes.get_mut(node)
            && !known.is_confirmed
        {
            known.is_confirmed = true;
            self.unconfirmed = self.unconfirmed.saturating_sub(1);
        }
    }

    fn forget(&mut self, node: &str) {
        self.confirm(node);
        if let Some((node, _)) = self.nodes.remove_entry(node) {
            self.roster.remove(&node);
        }
    }

    /// The nodes in a directory, without the service's own.
    fn nodes_in(&self, directory: &str) -> Vec<Arc<str>> {
        let is_in = |node: &str| match node.rsplit_once('/') {
            Some((parent, _)) => parent == directory,
            None => directory == SELF && node != SELF,
        };
        self.nodes
            .keys()
            .filter(|node| is_in(node))
            .cloned()
            .collect()
    }

    /// What the nodes that are too many are called in `skipped`.
    fn label_of_excess(&self) -> String {
        format!("{}/...", self.label)
    }

    fn label_of_directory(&self, directory: &str) -> String {
        format!("{}/", self.label_of(directory))
    }

    /// What a node is called in `skipped`; a directory is called so with a slash.
    fn label_of(&self, node: &str) -> String {
        if node == SELF {
            self.label.to_string()
        } else {
            node.to_owned()
        }
    }
}
