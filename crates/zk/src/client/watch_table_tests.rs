//! The watch table against a model of a server's, in random histories.
//!
//! The model follows `WatchManager.java` and `DataTree.java`, once as they are in 3.8, with one mode for
//! each path and connection, and once as from 3.9 on, with all modes side by side. Requests, replies and
//! events are on their way for any time; other clients change nodes; handles are dropped; connections are
//! lost.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use proptest::prelude::*;
use tokio::sync::oneshot;

use super::chroot::Chroot;
use super::watch_table::{Intent, OneShotKind, Target, Verdict, WatchTable, Wire};
use super::watcher::{Gap, Notification, Queue, WatchEvent};
use crate::path;
use crate::proto::watch::{AddWatchMode, EventKind};

const PATHS: [&str; 6] = ["/a", "/a/b", "/a/b/c", "/a/d", "/e", "/"];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Mode {
    OneShot,
    Persistent,
    Recursive,
}

type Table = HashMap<String, BTreeSet<Mode>>;

/// A request on its way to the server, with the watch it is to register.
enum Sent {
    Read {
        handle: usize,
        kind: ReadKind,
        intent: Intent,
        wire: Wire,
    },
    Add {
        handle: usize,
        intent: Intent,
        wire: Wire,
    },
    Remove(Arc<str>),
    SetWatches {
        relative: i64,
        paths: [Vec<Arc<str>>; 5],
    },
}

#[derive(Debug, Clone, Copy)]
enum ReadKind {
    Get,
    Exists,
    Children,
}

/// A message on its way to the client.
enum Received {
    Event(EventKind, String),
    Registered {
        intent: Intent,
        wire: Wire,
        verdict: Verdict,
        zxid: i64,
    },
    Restored {
        zxid: i64,
    },
}

struct Server {
    single_mode: bool,
    zxid: i64,
    /// Data and children were last changed by these transactions.
    nodes: BTreeMap<String, (i64, i64)>,
    data: Table,
    child: Table,
    /// What happened, as an ideal observer tells it.
    history: Vec<(EventKind, String)>,
}

impl Server {
    fn new(single_mode: bool) -> Self {
        let nodes = BTreeMap::from([("/".to_owned(), (0, 0))]);
        let (data, child, history) = (Table::new(), Table::new(), Vec::new());
        Self {
            single_mode,
            zxid: 0,
            nodes,
            data,
            child,
            history,
        }
    }

    fn add(single_mode: bool, table: &mut Table, path: &str, mode: Mode) {
        let modes = table.entry(path.to_owned()).or_default();
        if single_mode {
            modes.clear();
        }
        modes.insert(mode);
    }

    /// Whether the connection is told.
    fn trigger(table: &mut Table, kind: EventKind, path: &str) -> bool {
        let recursive = |table: &Table, path: &str| {
            table
                .get(path)
                .is_some_and(|modes| modes.contains(&Mode::Recursive))
        };
        let mut told = kind != EventKind::ChildrenChanged
            && path::with_ancestors(path).any(|path| recursive(table, path));
        if let Some(modes) = table.get_mut(path) {
            told |= modes.remove(&Mode::OneShot) | modes.contains(&Mode::Persistent);
        }
        told
    }

    /// Changes a node if that is possible.
    fn mutate(&mut self, kind: EventKind, path: &str, to_client: &mut VecDeque<Received>) {
        let parent = path::parent(path).map(str::to_owned);
        let exists = self.nodes.contains_key(path);
        let possible = match (kind, &parent) {
            (EventKind::Created, Some(parent)) => !exists && self.nodes.contains_key(parent),
            (EventKind::Deleted, Some(_)) => {
                exists
                    && !self
                        .nodes
                        .keys()
                        .any(|node| path::parent(node) == Some(path))
            }
            (EventKind::DataChanged, _) => exists,
            _ => false,
        };
        if !possible {
            return;
        }
        self.zxid += 1;
        match kind {
            EventKind::Created => {
                self.nodes.insert(path.to_owned(), (self.zxid, self.zxid));
            }
            EventKind::Deleted => {
                self.nodes.remove(path);
            }
            _ => self.nodes.get_mut(path).unwrap().0 = self.zxid,
        }
        let mut told = Self::trigger(&mut self.data, kind, path);
        if kind == EventKind::Deleted {
            told |= Self::trigger(&mut self.child, kind, path);
        }
        if told {
            to_client.push_back(Received::Event(kind, path.to_owned()));
        }
        self.history.push((kind, path.to_owned()));
        if let (EventKind::Created | EventKind::Deleted, Some(parent)) = (kind, parent) {
            self.nodes.get_mut(&parent).unwrap().1 = self.zxid;
            if Self::trigger(&mut self.child, EventKind::ChildrenChanged, &parent) {
                to_client.push_back(Received::Event(EventKind::ChildrenChanged, parent.clone()));
            }
            self.history.push((EventKind::ChildrenChanged, parent));
        }
    }

    fn read(&mut self, kind: ReadKind, path: &str, watch: bool) -> Verdict {
        let exists = self.nodes.contains_key(path);
        let (table, verdict) = match (kind, exists) {
            (ReadKind::Get, true) => (&mut self.data, Verdict::OneShot(OneShotKind::Data)),
            (ReadKind::Exists, true) => (&mut self.data, Verdict::OneShot(OneShotKind::Data)),
            (ReadKind::Exists, false) => (&mut self.data, Verdict::OneShot(OneShotKind::Exist)),
            (ReadKind::Children, true) => (&mut self.child, Verdict::OneShot(OneShotKind::Child)),
            (ReadKind::Get | ReadKind::Children, false) => return Verdict::Refused,
        };
        if watch {
            Self::add(self.single_mode, table, path, Mode::OneShot);
        }
        verdict
    }

    fn add_watch(&mut self, path: &str, mode: AddWatchMode) {
        let (mode, both) = match mode {
            AddWatchMode::Persistent => (Mode::Persistent, true),
            AddWatchMode::PersistentRecursive => (Mode::Recursive, self.single_mode),
        };
        Self::add(self.single_mode, &mut self.data, path, mode);
        if both {
            Self::add(self.single_mode, &mut self.child, path, mode);
        }
    }

    fn set_watches(
        &mut self,
        relative: i64,
        [data, exist, child, persistent, recursive]: &[Vec<Arc<str>>; 5],
        to_client: &mut VecDeque<Received>,
    ) {
        let mut tell =
            |kind, path: &str| to_client.push_back(Received::Event(kind, path.to_owned()));
        for path in data {
            match self.nodes.get(&**path) {
                None => tell(EventKind::Deleted, path),
                Some((mzxid, _)) if *mzxid > relative => tell(EventKind::DataChanged, path),
                Some(_) => Self::add(self.single_mode, &mut self.data, path, Mode::OneShot),
            }
        }
        for path in exist {
            match self.nodes.get(&**path) {
                Some(_) => tell(EventKind::Created, path),
                None => Self::add(self.single_mode, &mut self.data, path, Mode::OneShot),
            }
        }
        for path in child {
            match self.nodes.get(&**path) {
                None => tell(EventKind::Deleted, path),
                Some((_, pzxid)) if *pzxid > relative => tell(EventKind::ChildrenChanged, path),
                Some(_) => Self::add(self.single_mode, &mut self.child, path, Mode::OneShot),
            }
        }
        for path in persistent {
            self.add_watch(path, AddWatchMode::Persistent);
        }
        for path in recursive {
            self.add_watch(path, AddWatchMode::PersistentRecursive);
        }
    }
}

/// A watch as a caller sees it.
struct Handle {
    path: Arc<str>,
    id: u64,
    state: HandleState,
    /// Where in the server's history it was registered, and as what.
    since: Option<(usize, Option<OneShotKind>)>,
}

enum HandleState {
    OneShot(oneshot::Receiver<WatchEvent>),
    Stream(Arc<Queue>),
    Gone,
}

struct World {
    server: Server,
    table: WatchTable,
    to_server: VecDeque<Sent>,
    to_client: VecDeque<Received>,
    handles: Vec<Handle>,
    seen_zxid: i64,
    restoring: bool,
    /// Where in the history the present connection began.
    connected_at: usize,
}

impl World {
    fn new(single_mode: bool) -> Self {
        Self {
            server: Server::new(single_mode),
            table: WatchTable::new(Chroot::default()),
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
            handles: Vec::new(),
            seen_zxid: 0,
            restoring: false,
            connected_at: 0,
        }
    }

    fn ask(&mut self, path: &str, kind: Option<ReadKind>, mode: AddWatchMode) {
        let path: Arc<str> = path.into();
        let handle = self.handles.len();
        let id = handle as u64;
        let (target, state) = if kind.is_some() {
            let (sender, receiver) = oneshot::channel();
            (Target::OneShot(sender), HandleState::OneShot(receiver))
        } else {
            let queue = Arc::new(Queue::new(mode, 10_000));
            (
                Target::Stream(Arc::clone(&queue)),
                HandleState::Stream(queue),
            )
        };
        let intent = Intent {
            path: Arc::clone(&path),
            id,
            target,
        };
        self.handles.push(Handle {
            path,
            id,
            state,
            since: None,
        });
        let wire = self.table.begin(&intent);
        self.to_server.push_back(match kind {
            Some(kind) => Sent::Read {
                handle,
                kind,
                intent,
                wire,
            },
            None => Sent::Add {
                handle,
                intent,
                wire,
            },
        });
    }

    fn follow_up(&mut self) {
        for path in self.table.take_unwanted() {
            self.to_server.push_back(Sent::Remove(path));
        }
        let uncovered = self.table.take_uncovered();
        assert_eq!(
            uncovered,
            super::watch_table::Restore::default(),
            "no addWatch is refused here"
        );
    }

    fn server_step(&mut self) {
        let Some(sent) = self.to_server.pop_front() else {
            return;
        };
        let zxid = self.server.zxid;
        let now = self.server.history.len();
        match sent {
            Sent::Read {
                handle,
                kind,
                intent,
                wire,
            } => {
                let verdict = self
                    .server
                    .read(kind, &intent.path, wire == Wire::Flag(true));
                if let Verdict::OneShot(kind) = verdict {
                    self.handles[handle].since = Some((now, Some(kind)));
                }
                self.to_client.push_back(Received::Registered {
                    intent,
                    wire,
                    verdict,
                    zxid,
                });
            }
            Sent::Add {
                handle,
                intent,
                wire,
            } => {
                let Wire::Mode(mode) = wire else {
                    panic!("{wire:?}")
                };
                self.server.add_watch(&intent.path, mode);
                self.handles[handle].since = Some((now, None));
                let verdict = Verdict::Stream;
                self.to_client.push_back(Received::Registered {
                    intent,
                    wire,
                    verdict,
                    zxid,
                });
            }
            Sent::Remove(path) => {
                self.server.data.remove(&*path);
                self.server.child.remove(&*path);
            }
            Sent::SetWatches { relative, paths } => {
                self.server
                    .set_watches(relative, &paths, &mut self.to_client);
                self.connected_at = now;
                self.to_client.push_back(Received::Restored { zxid });
            }
        }
    }

    fn client_step(&mut self) {
        let Some(received) = self.to_client.pop_front() else {
            return;
        };
        let zxid = match received {
            Received::Event(kind, path) => {
                self.table.dispatch(kind, &path, None);
                None
            }
            Received::Registered {
                intent,
                wire,
                verdict,
                zxid,
            } => {
                self.table.finish(intent, wire, verdict);
                Some(zxid)
            }
            Received::Restored { zxid } => {
                self.restoring = false;
                self.table.restored();
                Some(zxid)
            }
        };
        if let (Some(zxid), false) = (zxid, self.restoring) {
            self.seen_zxid = zxid;
        }
        self.follow_up();
    }

    fn drop_handle(&mut self, index: usize) {
        if let Some(handle) = self.handles.get_mut(index) {
            if let HandleState::Stream(queue) = &handle.state {
                queue.end();
            }
            handle.state = HandleState::Gone;
            let (path, id) = (Arc::clone(&handle.path), handle.id);
            self.table.release(&path, id);
            self.follow_up();
        }
    }

    /// The connection is lost and another one made.
    fn reconnect(&mut self) {
        for sent in std::mem::take(&mut self.to_server) {
            if let Sent::Read {
                handle,
                intent,
                wire,
                ..
            }
            | Sent::Add {
                handle,
                intent,
                wire,
            } = sent
            {
                self.handles[handle].since = None;
                self.handles[handle].state = HandleState::Gone;
                self.table.finish(intent, wire, Verdict::Lost);
            }
        }
        for received in std::mem::take(&mut self.to_client) {
            if let Received::Registered { intent, wire, .. } = received {
                let handle = usize::try_from(intent.id).unwrap();
                self.handles[handle].state = HandleState::Gone;
                self.table.finish(intent, wire, Verdict::Lost);
            }
        }
        self.table.disconnected();
        self.server.data.clear();
        self.server.child.clear();
        let restore = self.table.restore(Gap::Reattached);
        self.restoring = true;
        let paths = [
            restore.data,
            restore.exist,
            restore.child,
            restore.persistent,
            restore.recursive,
        ];
        self.to_server.push_back(Sent::SetWatches {
            relative: self.seen_zxid,
            paths,
        });
    }

    fn settle(&mut self) {
        while !self.to_server.is_empty() || !self.to_client.is_empty() {
            self.server_step();
            self.client_step();
        }
    }

    /// What a watch that was registered at this place in the history should have seen of it since `from`.
    fn expected(&self, handle: &Handle, from: usize) -> Vec<(EventKind, String)> {
        let Some((_, kind)) = handle.since else {
            return Vec::new();
        };
        let concerns = |(event, path): &&(EventKind, String)| match (&handle.state, kind) {
            (HandleState::Stream(queue), _) => match queue.mode {
                AddWatchMode::Persistent => **path == *handle.path,
                AddWatchMode::PersistentRecursive => {
                    *event != EventKind::ChildrenChanged
                        && path::with_ancestors(path).any(|above| *above == *handle.path)
                }
            },
            (_, Some(OneShotKind::Child)) => {
                **path == *handle.path
                    && matches!(event, EventKind::ChildrenChanged | EventKind::Deleted)
            }
            _ => **path == *handle.path && *event != EventKind::ChildrenChanged,
        };
        self.server.history[from..]
            .iter()
            .filter(concerns)
            .cloned()
            .collect()
    }
}

/// Whether `wanted` can be had from `found` by leaving out some of its "children changed".
fn has_all(found: &[(EventKind, String)], wanted: &[(EventKind, String)]) -> bool {
    let mut wanted = wanted.iter().peekable();
    for event in found {
        if wanted.peek() == Some(&event) {
            wanted.next();
        } else if event.0 != EventKind::ChildrenChanged {
            return false;
        }
    }
    wanted.peek().is_none()
}

#[derive(Debug, Clone)]
enum Step {
    Read(usize, u8),
    Add(usize, bool),
    Mutate(usize, u8),
    Server,
    Client,
    Drop(usize),
    Reconnect,
}

fn step(reconnects: u32) -> impl Strategy<Value = Step> {
    let path = 0..PATHS.len();
    prop_oneof![
        6 => (path.clone(), 0..3_u8).prop_map(|(path, kind)| Step::Read(path, kind)),
        3 => (path.clone(), any::<bool>()).prop_map(|(path, recursive)| Step::Add(path, recursive)),
        12 => (path, 0..3_u8).prop_map(|(path, kind)| Step::Mutate(path, kind)),
        14 => Just(Step::Server),
        14 => Just(Step::Client),
        3 => (0..40_usize).prop_map(Step::Drop),
        reconnects => Just(Step::Reconnect),
    ]
}

fn run(world: &mut World, steps: &[Step]) {
    for step in steps {
        match *step {
            Step::Read(path, kind) => {
                let kind = [ReadKind::Get, ReadKind::Exists, ReadKind::Children][usize::from(kind)];
                world.ask(PATHS[path], Some(kind), AddWatchMode::Persistent);
            }
            Step::Add(path, true) => {
                world.ask(PATHS[path], None, AddWatchMode::PersistentRecursive)
            }
            Step::Add(path, false) => world.ask(PATHS[path], None, AddWatchMode::Persistent),
            Step::Mutate(path, kind) => {
                let kinds = [
                    EventKind::Created,
                    EventKind::Deleted,
                    EventKind::DataChanged,
                ];
                let kind = kinds[usize::from(kind)];
                world.server.mutate(kind, PATHS[path], &mut world.to_client);
            }
            Step::Server => world.server_step(),
            Step::Client => world.client_step(),
            Step::Drop(handle) => world.drop_handle(handle),
            Step::Reconnect => world.reconnect(),
        }
    }
    world.settle();
}

/// What a handle has been told.
fn told(handle: &mut Handle) -> (Vec<(EventKind, String)>, bool) {
    match &mut handle.state {
        HandleState::OneShot(receiver) => {
            let event = receiver.try_recv().ok();
            (
                event
                    .into_iter()
                    .map(|event| (event.kind, event.path))
                    .collect(),
                false,
            )
        }
        HandleState::Stream(queue) => {
            let (mut events, mut gap) = (Vec::new(), false);
            while let Some(Some(notification)) = queue.pop() {
                match notification {
                    Notification::Event(event) => events.push((event.kind, event.path)),
                    // Only what comes after the last gap is promised to be complete.
                    Notification::Gap(_) => {
                        events.clear();
                        gap = true;
                    }
                }
            }
            (events, gap)
        }
        HandleState::Gone => (Vec::new(), false),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

    #[test]
    fn on_one_connection_every_watch_sees_exactly_what_it_should(
        single_mode: bool,
        steps in prop::collection::vec(step(0), 0..120),
    ) {
        let mut world = World::new(single_mode);
        run(&mut world, &steps);
        let mut handles = std::mem::take(&mut world.handles);
        for handle in &mut handles {
            let Some((since, _)) = handle.since else { continue };
            let expected = world.expected(handle, since);
            let one_shot = matches!(handle.state, HandleState::OneShot(_));
            let gone = matches!(handle.state, HandleState::Gone);
            let (found, gap) = told(handle);
            prop_assert!(!gap);
            let path = &handle.path;
            if one_shot {
                prop_assert_eq!(found.first(), expected.first(), "{}", path);
            } else if !gone && single_mode {
                prop_assert_eq!(&found, &expected, "{}", path);
            } else if !gone {
                // Where modes stand side by side, a change of the children may be told twice.
                prop_assert!(has_all(&found, &expected), "{}: {:?} {:?}", path, found, expected);
            }
        }
        // With the last handle the server's last watch goes.
        world.handles = handles;
        for handle in 0..world.handles.len() {
            world.drop_handle(handle);
        }
        world.settle();
        let held = |table: &Table| table.values().any(|modes| !modes.is_empty());
        prop_assert!(!held(&world.server.data) && !held(&world.server.child));
    }

    #[test]
    fn across_connections_every_watch_hears_of_what_happened(
        single_mode: bool,
        steps in prop::collection::vec(step(3), 0..120),
    ) {
        let mut world = World::new(single_mode);
        run(&mut world, &steps);
        let mut handles = std::mem::take(&mut world.handles);
        for handle in &mut handles {
            let Some((since, kind)) = handle.since else { continue };
            let connected_at = world.connected_at;
            let all = world.expected(handle, since);
            let since_connected = world.expected(handle, since.max(connected_at));
            let path = Arc::clone(&handle.path);
            match handle.state {
                HandleState::OneShot(_) => {
                    let (found, _) = told(handle);
                    // A node that was missing and is missing again is the one thing that cannot be seen.
                    let unseen = kind == Some(OneShotKind::Exist) && since_connected.is_empty();
                    if all.is_empty() {
                        prop_assert!(found.is_empty(), "{}: {:?}", path, found);
                    } else if !unseen {
                        prop_assert!(!found.is_empty(), "{}: {:?}", path, all);
                    }
                }
                HandleState::Stream(_) => {
                    let (found, gap) = told(handle);
                    prop_assert_eq!(gap, since < connected_at && connected_at > 0 || gap);
                    prop_assert!(has_all(&found, &since_connected), "{}: {:?} {:?}", path, found, since_connected);
                }
                HandleState::Gone => {}
            }
        }
    }
}
