//! Who is told of which change.
//!
//! As in Apache ZooKeeper there are two tables: data watches, which hear of a node's creation, deletion and
//! data, and child watches, which hear of its children and of its deletion. A persistent watch stands in
//! both; a recursive one hears through the data table of everything below its node as well.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use livegate_zk::path;
use livegate_zk::proto::watch::{AddWatchMode, EventKind, WatchKind};

use super::ConnectionId;

/// A connection is to be told of something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) connection: ConnectionId,
    pub(crate) kind: EventKind,
    pub(crate) path: Arc<str>,
}

/// One of the two tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Table {
    Data,
    Child,
}

/// The ways in which a connection watches a path, as a set: one does not end another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Modes(u8);

impl Modes {
    const ONCE: Self = Self(1);
    const PERSISTENT: Self = Self(2);
    const RECURSIVE: Self = Self(4);

    fn has(self, mode: Self) -> bool {
        self.0 & mode.0 != 0
    }
}

/// All watches of all connections.
#[derive(Debug, Default)]
pub(crate) struct Watches {
    data: WatchTable,
    child: WatchTable,
}

#[derive(Debug, Default)]
struct WatchTable {
    /// For each path the connections, in the order of their numbers.
    by_path: HashMap<Arc<str>, Vec<(ConnectionId, Modes)>>,
    by_connection: HashMap<ConnectionId, HashSet<Arc<str>>>,
    recursive: usize,
}

impl WatchTable {
    fn add(&mut self, path: &str, connection: ConnectionId, mode: Modes) {
        let path = match self.by_path.get_key_value(path) {
            Some((path, _)) => Arc::clone(path),
            None => Arc::from(path),
        };
        let watchers = self.by_path.entry(Arc::clone(&path)).or_default();
        let added = match watchers.binary_search_by_key(&connection, |&(other, _)| other) {
            Ok(place) => {
                let modes = &mut watchers[place].1;
                let added = !modes.has(mode);
                modes.0 |= mode.0;
                added
            }
            Err(place) => {
                watchers.insert(place, (connection, mode));
                self.by_connection
                    .entry(connection)
                    .or_default()
                    .insert(path);
                true
            }
        };
        self.recursive += usize::from(added && mode == Modes::RECURSIVE);
    }

    fn contains(&self, path: &str, connection: ConnectionId) -> bool {
        self.by_connection
            .get(&connection)
            .is_some_and(|paths| paths.contains(path))
    }

    fn remove(&mut self, path: &str, connection: ConnectionId) -> bool {
        let Some(paths) = self.by_connection.get_mut(&connection) else {
            return false;
        };
        if !paths.remove(path) {
            return false;
        }
        if paths.is_empty() {
            self.by_connection.remove(&connection);
        }
        self.forget(path, connection);
        true
    }

    fn remove_connection(&mut self, connection: ConnectionId) {
        for path in self.by_connection.remove(&connection).unwrap_or_default() {
            self.forget(&path, connection);
        }
    }

    fn forget(&mut self, path: &str, connection: ConnectionId) {
        let Some(watchers) = self.by_path.get_mut(path) else {
            return;
        };
        if let Ok(place) = watchers.binary_search_by_key(&connection, |&(other, _)| other) {
            let (_, modes) = watchers.remove(place);
            self.recursive -= usize::from(modes.has(Modes::RECURSIVE));
        }
        if watchers.is_empty() {
            self.by_path.remove(path);
        }
    }

    /// Adds to `told` whoever watches just this path; watches for once are over then.
    fn fire(&mut self, path: &str, kind: EventKind, told: &mut Vec<ConnectionId>) {
        let Some(watchers) = self.by_path.get_mut(path) else {
            return;
        };
        let by_connection = &mut self.by_connection;
        watchers.retain_mut(|(connection, modes)| {
            if kind != EventKind::ChildrenChanged || modes.0 != Modes::RECURSIVE.0 {
                told.push(*connection);
            }
            modes.0 &= !Modes::ONCE.0;
            let stays = modes.0 != 0;
            if !stays && let Some(paths) = by_connection.get_mut(connection) {
                paths.remove(path);
                if paths.is_empty() {
                    by_connection.remove(connection);
                }
            }
            stays
        });
        if watchers.is_empty() {
            self.by_path.remove(path);
        }
    }

    fn len(&self) -> usize {
        self.by_connection.values().map(HashSet::len).sum()
    }
}

impl Watches {
    /// Watches a path until it fires.
    pub(crate) fn watch_once(&mut self, table: Table, path: &str, connection: ConnectionId) {
        self.table(table).add(path, connection, Modes::ONCE);
    }

    /// Watches a path until the watch is removed.
    pub(crate) fn watch(&mut self, path: &str, connection: ConnectionId, mode: AddWatchMode) {
        let mode = match mode {
            AddWatchMode::Persistent => Modes::PERSISTENT,
            AddWatchMode::PersistentRecursive => Modes::RECURSIVE,
        };
        self.data.add(path, connection, mode);
        self.child.add(path, connection, mode);
    }

    /// Whether the connection watches the path so.
    pub(crate) fn contains(&self, path: &str, connection: ConnectionId, kind: WatchKind) -> bool {
        let (data, child) = Self::tables(kind);
        data && self.data.contains(path, connection)
            || child && self.child.contains(path, connection)
    }

    /// Removes the watches of the connection on the path; false when there was none.
    pub(crate) fn remove(&mut self, path: &str, connection: ConnectionId, kind: WatchKind) -> bool {
        let (data, child) = Self::tables(kind);
        let from_data = data && self.data.remove(path, connection);
        let from_child = child && self.child.remove(path, connection);
        from_data || from_child
    }

    /// Removes all watches of a connection.
    pub(crate) fn remove_connection(&mut self, connection: ConnectionId) {
        self.data.remove_connection(connection);
        self.child.remove_connection(connection);
    }

    /// A node was created. `may_see` says whether a connection that watches from above may know it.
    pub(crate) fn created(
        &mut self,
        path: &str,
        may_see: impl Fn(ConnectionId) -> bool,
        events: &mut Vec<Event>,
    ) {
        let told = self.fire_data(path, EventKind::Created, may_see);
        push(events, path, EventKind::Created, &told);
        self.children_changed(path, events);
    }

    /// A node was deleted.
    pub(crate) fn deleted(
        &mut self,
        path: &str,
        may_see: impl Fn(ConnectionId) -> bool,
        events: &mut Vec<Event>,
    ) {
        let mut told = self.fire_data(path, EventKind::Deleted, may_see);
        self.child.fire(path, EventKind::Deleted, &mut told);
        told.sort_unstable();
        told.dedup();
        push(events, path, EventKind::Deleted, &told);
        self.children_changed(path, events);
    }

    /// A node's data was set.
    pub(crate) fn data_changed(
        &mut self,
        path: &str,
        may_see: impl Fn(ConnectionId) -> bool,
        events: &mut Vec<Event>,
    ) {
        let told = self.fire_data(path, EventKind::DataChanged, may_see);
        push(events, path, EventKind::DataChanged, &told);
    }

    fn fire_data(
        &mut self,
        path: &str,
        kind: EventKind,
        may_see: impl Fn(ConnectionId) -> bool,
    ) -> Vec<ConnectionId> {
        let mut told = Vec::new();
        self.data.fire(path, kind, &mut told);
        if self.data.recursive > 0 {
            let just_this = told.len();
            for above in path::with_ancestors(path).skip(1) {
                let watchers = self.data.by_path.get(above).into_iter().flatten();
                let recursive = watchers.filter(|(_, modes)| modes.has(Modes::RECURSIVE));
                told.extend(
                    recursive
                        .map(|&(connection, _)| connection)
                        .filter(|&connection| may_see(connection)),
                );
            }
            if told.len() > just_this {
                told.sort_unstable();
                told.dedup();
            }
        }
        told
    }

    fn children_changed(&mut self, path: &str, events: &mut Vec<Event>) {
        let Some(parent) = path::parent(path) else {
            return;
        };
        let mut told = Vec::new();
        self.child
            .fire(parent, EventKind::ChildrenChanged, &mut told);
        push(events, parent, EventKind::ChildrenChanged, &told);
    }

    fn table(&mut self, table: Table) -> &mut WatchTable {
        match table {
            Table::Data => &mut self.data,
            Table::Child => &mut self.child,
        }
    }

    /// The tables in which such a watch stands: data, child. Kinds of newer servers, which tell the
    /// persistent ones apart, are taken for any.
    fn tables(kind: WatchKind) -> (bool, bool) {
        match kind {
            WatchKind::Data => (true, false),
            WatchKind::Children => (false, true),
            WatchKind::Any | WatchKind::Persistent | WatchKind::PersistentRecursive => (true, true),
        }
    }

    /// How many watches there are, those in both tables counted twice as Apache ZooKeeper does.
    pub(crate) fn len(&self) -> usize {
        self.data.len() + self.child.len()
    }

    /// Connections with data watches, paths with such, and their number: what `wchs` tells.
    pub(crate) fn summary(&self) -> (usize, usize, usize) {
        let data = &self.data;
        (data.by_connection.len(), data.by_path.len(), data.len())
    }

    /// The paths of data watches by connection.
    pub(crate) fn by_connection(&self) -> impl Iterator<Item = (ConnectionId, Vec<&str>)> {
        let by_connection = self.data.by_connection.iter();
        by_connection.map(|(&id, paths)| (id, paths.iter().map(|path| &**path).collect()))
    }

    /// The connections of data watches by path.
    pub(crate) fn by_path(&self) -> impl Iterator<Item = (&str, Vec<ConnectionId>)> {
        let by_path = self.data.by_path.iter();
        by_path.map(|(path, watchers)| (&**path, watchers.iter().map(|&(id, _)| id).collect()))
    }
}

fn push(events: &mut Vec<Event>, path: &str, kind: EventKind, told: &[ConnectionId]) {
    if told.is_empty() {
        return;
    }
    let path: Arc<str> = path.into();
    events.extend(told.iter().map(|&connection| Event {
        connection,
        kind,
        path: Arc::clone(&path),
    }));
}
