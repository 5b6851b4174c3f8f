//! Watches: setting, restoring and removing them, and the events they send.

use super::record;
use crate::jute::List;

/// What happened to a node (`Watcher.Event.EventType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EventKind {
    /// The node was created.
    Created,
    /// The node was deleted.
    Deleted,
    /// The node's data was set, be it to what it was.
    DataChanged,
    /// A child of the node was created or deleted.
    ChildrenChanged,
}

impl EventKind {
    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> i32 {
        match self {
            Self::Created => 1,
            Self::Deleted => 2,
            Self::DataChanged => 3,
            Self::ChildrenChanged => 4,
        }
    }

    /// The kind with this number. The others (-1, 5 to 7) never leave a Java client.
    #[must_use]
    pub const fn from_code(code: i32) -> Option<Self> {
        match code {
            1 => Some(Self::Created),
            2 => Some(Self::Deleted),
            3 => Some(Self::DataChanged),
            4 => Some(Self::ChildrenChanged),
            _ => None,
        }
    }
}

/// Kinds of watch that stay until they are removed (`AddWatchMode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AddWatchMode {
    /// Everything about one node: created, deleted, data changed, children changed.
    Persistent,
    /// Created, deleted and data changed of a node and of all below it; never children changed.
    PersistentRecursive,
}

impl AddWatchMode {
    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> i32 {
        match self {
            Self::Persistent => 0,
            Self::PersistentRecursive => 1,
        }
    }

    /// The mode with this number.
    #[must_use]
    pub const fn from_code(code: i32) -> Option<Self> {
        match code {
            0 => Some(Self::Persistent),
            1 => Some(Self::PersistentRecursive),
            _ => None,
        }
    }
}

/// Which watches of a node to check for or to remove (`Watcher.WatcherType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WatchKind {
    /// Set by reading the children.
    Children,
    /// Set by reading the data or by asking for existence.
    Data,
    /// All.
    Any,
    /// Persistent ones (servers from 3.10).
    Persistent,
    /// Persistent recursive ones (servers from 3.10).
    PersistentRecursive,
}

impl WatchKind {
    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> i32 {
        match self {
            Self::Children => 1,
            Self::Data => 2,
            Self::Any => 3,
            Self::Persistent => 4,
            Self::PersistentRecursive => 5,
        }
    }

    /// The kind with this number.
    #[must_use]
    pub const fn from_code(code: i32) -> Option<Self> {
        match code {
            1 => Some(Self::Children),
            2 => Some(Self::Data),
            3 => Some(Self::Any),
            4 => Some(Self::Persistent),
            5 => Some(Self::PersistentRecursive),
            _ => None,
        }
    }
}

/// The session state in an event: connected. Servers send no other.
pub const STATE_SYNC_CONNECTED: i32 = 3;

record! {
    /// A watch event (`WatcherEvent`).
    pub struct WatcherEvent<'a> {
        /// Number of an [`EventKind`].
        pub kind: i32,
        /// [`STATE_SYNC_CONNECTED`].
        pub state: i32,
        /// The node, with the chroot.
        pub path: &'a str,
    }
}

record! {
    /// Sets a persistent watch.
    pub struct AddWatch<'a> {
        /// The node, which need not exist.
        pub path: &'a str,
        /// Number of an [`AddWatchMode`].
        pub mode: i32,
    }
}

record! {
    /// Checks for or removes watches of this connection (`CheckWatchesRequest`,
    /// `RemoveWatchesRequest`).
    pub struct WatchSelection<'a> {
        /// The node.
        pub path: &'a str,
        /// Number of a [`WatchKind`].
        pub kind: i32,
    }
}

record! {
    /// Sets the one-shot watches of a new connection. Those whose node changed after `relative_zxid`
    /// fire at once instead.
    pub struct SetWatches<'a> {
        /// The newest transaction whose effects the client knows.
        pub relative_zxid: i64,
        /// Nodes that were there and whose data is watched.
        pub data: List<'a, &'a str>,
        /// Nodes that were missing.
        pub exist: List<'a, &'a str>,
        /// Nodes whose children are watched.
        pub child: List<'a, &'a str>,
    }
}

record! {
    /// [`SetWatches`] with persistent watches, for which nothing is caught up.
    pub struct SetWatches2<'a> {
        /// The newest transaction whose effects the client knows.
        pub relative_zxid: i64,
        /// Nodes that were there and whose data is watched.
        pub data: List<'a, &'a str>,
        /// Nodes that were missing.
        pub exist: List<'a, &'a str>,
        /// Nodes whose children are watched.
        pub child: List<'a, &'a str>,
        /// Nodes with a persistent watch.
        pub persistent: List<'a, &'a str>,
        /// Nodes with a persistent recursive watch.
        pub recursive: List<'a, &'a str>,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_javas() {
        for code in -2..8 {
            assert_eq!(
                EventKind::from_code(code).map(EventKind::code),
                (1..5).contains(&code).then_some(code)
            );
            assert_eq!(
                AddWatchMode::from_code(code).map(AddWatchMode::code),
                (0..2).contains(&code).then_some(code)
            );
            assert_eq!(
                WatchKind::from_code(code).map(WatchKind::code),
                (1..6).contains(&code).then_some(code)
            );
        }
    }
}
