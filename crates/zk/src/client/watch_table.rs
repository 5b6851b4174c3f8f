//! Who watches what, and what the server holds of it for the present connection.
//!
//! A server keeps watches by connection and path, not by caller, and before 3.9 it keeps only one mode for
//! each: a one-shot watch set on a path with a persistent one turns that into a one-shot watch
//! (ZOOKEEPER-4466). So the table asks the server only for the strongest watch that a path needs and
//! serves the weaker ones from its events:
//!
//! - with a persistent watch on a path, reads of that path are sent without their watch flag;
//! - with a recursive one, so are persistent ones, and "children changed" is derived from the creation and
//!   deletion of children.
//!
//! A watch is registered when the reply comes that says it is set, in the order of the replies, so an event
//! never meets a watch that was set after it. Until then its path counts as in use. When nobody is left who
//! is interested in a path, the server is told to remove what it may still hold.
//!
//! Paths here are the server's, with the chroot.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::chroot::Chroot;
use super::watcher::{Gap, Notification, Queue, WatchEvent};
use crate::path;
use crate::proto::watch::{AddWatchMode, EventKind, WatchKind};

/// What a one-shot watch waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OneShotKind {
    /// The node was there; its data is watched.
    Data,
    /// The node was missing.
    Exist,
    /// The node was there; its children are watched.
    Child,
}

impl OneShotKind {
    fn fires_on(self, event: EventKind) -> bool {
        match self {
            Self::Data | Self::Exist => event != EventKind::ChildrenChanged,
            Self::Child => matches!(event, EventKind::ChildrenChanged | EventKind::Deleted),
        }
    }

    fn is_selected_by(self, selection: WatchKind) -> bool {
        match selection {
            WatchKind::Any => true,
            WatchKind::Data => self != Self::Child,
            WatchKind::Children => self == Self::Child,
            WatchKind::Persistent | WatchKind::PersistentRecursive => false,
        }
    }
}

/// A watch that a request is to set.
#[derive(Debug)]
pub(crate) struct Intent {
    pub(crate) path: Arc<str>,
    pub(crate) id: u64,
    pub(crate) target: Target,
}

/// Whom to tell.
#[derive(Debug)]
pub(crate) enum Target {
    OneShot(oneshot::Sender<WatchEvent>),
    Stream(Arc<Queue>),
}

/// How to send a request that sets a watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wire {
    /// A read, with this watch flag.
    Flag(bool),
    /// An addWatch, with this mode.
    Mode(AddWatchMode),
}

/// What became of a request that was to set a watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// A one-shot watch of this kind is set.
    OneShot(OneShotKind),
    /// A persistent watch is set.
    Stream,
    /// The server refused.
    Refused,
    /// The connection was lost first.
    Lost,
}

/// Paths to watch on a new connection.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Restore {
    pub(crate) data: Vec<Arc<str>>,
    pub(crate) exist: Vec<Arc<str>>,
    pub(crate) child: Vec<Arc<str>>,
    pub(crate) persistent: Vec<Arc<str>>,
    pub(crate) recursive: Vec<Arc<str>>,
}

/// All watches of a client.
#[derive(Debug)]
pub(crate) struct WatchTable {
    chroot: Chroot,
    entries: HashMap<Arc<str>, Entry>,
    /// Number of recursive streams: without any, events need not look at ancestors.
    recursive: usize,
    /// Paths that nobody is interested in any more, though the server may be.
    unwanted: Vec<Arc<str>>,
    /// Paths whose one-shot watches were to be served by a stronger one that failed.
    uncovered: Vec<Arc<str>>,
}

#[derive(Debug, Default)]
struct Entry {
    one_shots: Vec<OneShot>,
    streams: Vec<Stream>,
    /// Requests under way that may register here.
    pending: usize,
    armed: Armed,
}

#[derive(Debug)]
struct OneShot {
    id: u64,
    kind: OneShotKind,
    sender: oneshot::Sender<WatchEvent>,
}

#[derive(Debug)]
struct Stream {
    id: u64,
    queue: Arc<Queue>,
    /// Told once the watch is in place again.
    gap: Option<Gap>,
}

/// What the server may hold for this connection and a path.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Armed {
    data: bool,
    child: bool,
    /// The strongest persistent watch that was asked for.
    strong: Option<AddWatchMode>,
    /// That is a recursive one, and it is set: changes of children show in events about them.
    tells_children: bool,
}

impl Entry {
    fn is_unused(&self) -> bool {
        self.one_shots.is_empty() && self.streams.is_empty() && self.pending == 0
    }

    fn strongest_stream(&self) -> Option<AddWatchMode> {
        self.streams.iter().map(|stream| stream.queue.mode).max()
    }
}

impl WatchTable {
    pub(crate) fn new(chroot: Chroot) -> Self {
        Self {
            chroot,
            entries: HashMap::new(),
            recursive: 0,
            unwanted: Vec::new(),
            uncovered: Vec::new(),
        }
    }

    /// A request that sets a watch is about to be sent.
    pub(crate) fn begin(&mut self, intent: &Intent) -> Wire {
        let entry = self.entries.entry(Arc::clone(&intent.path)).or_default();
        entry.pending += 1;
        match &intent.target {
            Target::OneShot(_) => Wire::Flag(entry.armed.strong.is_none()),
            Target::Stream(queue) => {
                let mode = entry.armed.strong.unwrap_or(queue.mode).max(queue.mode);
                entry.armed.strong = Some(mode);
                Wire::Mode(mode)
            }
        }
    }

    /// The reply to such a request has come, or never will.
    pub(crate) fn finish(&mut self, intent: Intent, wire: Wire, verdict: Verdict) {
        let Intent { path, id, target } = intent;
        let entry = self.entries.entry(Arc::clone(&path)).or_default();
        entry.pending = entry.pending.saturating_sub(1);
        match (target, verdict) {
            (Target::OneShot(sender), Verdict::OneShot(kind)) => {
                if wire == Wire::Flag(true) {
                    match kind {
                        OneShotKind::Data | OneShotKind::Exist => entry.armed.data = true,
                        OneShotKind::Child => entry.armed.child = true,
                    }
                } else if entry.armed.strong.is_none() {
                    self.uncovered.push(Arc::clone(&path));
                }
                if !sender.is_closed() {
                    entry.one_shots.push(OneShot { id, kind, sender });
                }
            }
            (Target::Stream(queue), Verdict::Stream) => {
                if let Wire::Mode(mode) = wire {
                    entry.armed.strong = entry.armed.strong.max(Some(mode));
                    entry.armed.tells_children |= mode == AddWatchMode::PersistentRecursive;
                }
                if !queue.is_ended() {
                    self.recursive += usize::from(queue.mode == AddWatchMode::PersistentRecursive);
                    entry.streams.push(Stream {
                        id,
                        queue,
                        gap: None,
                    });
                }
            }
            (Target::Stream(_), Verdict::Refused) => {
                entry.armed.strong = entry.strongest_stream();
                if entry.armed.strong.is_none() && !entry.one_shots.is_empty() {
                    self.uncovered.push(Arc::clone(&path));
                }
            }
            (Target::OneShot(_) | Target::Stream(_), _) => {}
        }
        self.tidy(&path);
    }

    /// A request that was about to be sent was not, and will begin again.
    pub(crate) fn withdraw(&mut self, path: &str) {
        if let Some(entry) = self.entries.get_mut(path) {
            entry.pending = entry.pending.saturating_sub(1);
            self.tidy(path);
        }
    }

    /// Something happened to a node.
    pub(crate) fn dispatch(&mut self, kind: EventKind, path: &str, zxid: Option<i64>) {
        let event = WatchEvent {
            kind,
            path: self.chroot.to_client(path).to_owned(),
            zxid,
        };
        if kind == EventKind::ChildrenChanged {
            // From 3.9 on a server says so beside a recursive watch when a weaker one was set before it; here it
            // has been derived already. Not so what is caught up after a connection was lost, of which
            // watches for once have not heard and streams know from their gap.
            let is_derived = |entry: &Entry| entry.armed.tells_children;
            if self.entries.get(path).is_some_and(is_derived) {
                self.fire_one_shots(path, &event);
                self.tidy(path);
            } else {
                self.fire(path, &event);
            }
            return;
        }
        self.fire(path, &event);
        if self.recursive > 0 {
            for ancestor in path::with_ancestors(path).skip(1) {
                for stream in self
                    .entries
                    .get(ancestor)
                    .into_iter()
                    .flat_map(|entry| &entry.streams)
                {
                    if stream.queue.mode == AddWatchMode::PersistentRecursive {
                        stream.queue.push(Notification::Event(event.clone()));
                    }
                }
            }
        }
        if kind == EventKind::DataChanged {
            return;
        }
        if let Some(parent) = path::parent(path)
            && let Some(entry) = self.entries.get(parent)
            && entry.armed.tells_children
        {
            let path = self.chroot.to_client(parent).to_owned();
            self.fire(
                parent,
                &WatchEvent {
                    kind: EventKind::ChildrenChanged,
                    path,
                    zxid,
                },
            );
        }
    }

    fn fire(&mut self, path: &str, event: &WatchEvent) {
        self.fire_one_shots(path, event);
        let streams = self.entries.get(path).into_iter();
        for stream in streams.flat_map(|entry| &entry.streams) {
            let wanted = match stream.queue.mode {
                AddWatchMode::Persistent => true,
                AddWatchMode::PersistentRecursive => event.kind != EventKind::ChildrenChanged,
            };
            if wanted {
                stream.queue.push(Notification::Event(event.clone()));
            }
        }
        self.tidy(path);
    }

    fn fire_one_shots(&mut self, path: &str, event: &WatchEvent) {
        let Some(entry) = self.entries.get_mut(path) else {
            return;
        };
        match event.kind {
            EventKind::Created | EventKind::DataChanged => entry.armed.data = false,
            EventKind::ChildrenChanged => entry.armed.child = false,
            EventKind::Deleted => (entry.armed.data, entry.armed.child) = (false, false),
        }
        for one_shot in entry
            .one_shots
            .extract_if(.., |one_shot| one_shot.kind.fires_on(event.kind))
        {
            // Nobody listens any more: then nobody misses it.
            drop(one_shot.sender.send(event.clone()));
        }
    }

    /// A caller has dropped a watch.
    pub(crate) fn release(&mut self, path: &str, id: u64) {
        let Some(entry) = self.entries.get_mut(path) else {
            return;
        };
        entry.one_shots.retain(|one_shot| one_shot.id != id);
        for stream in entry.streams.extract_if(.., |stream| stream.id == id) {
            self.recursive -= usize::from(stream.queue.mode == AddWatchMode::PersistentRecursive);
        }
        self.tidy(path);
    }

    /// Ends all watches of a path that are of this kind; false if there are none.
    pub(crate) fn remove(&mut self, path: &str, selection: WatchKind) -> bool {
        let Some(entry) = self.entries.get_mut(path) else {
            return false;
        };
        let before = entry.one_shots.len() + entry.streams.len();
        entry
            .one_shots
            .retain(|one_shot| !one_shot.kind.is_selected_by(selection));
        let selected = |mode| match selection {
            WatchKind::Any => true,
            WatchKind::Persistent => mode == AddWatchMode::Persistent,
            WatchKind::PersistentRecursive => mode == AddWatchMode::PersistentRecursive,
            WatchKind::Data | WatchKind::Children => false,
        };
        for stream in entry
            .streams
            .extract_if(.., |stream| selected(stream.queue.mode))
        {
            self.recursive -= usize::from(stream.queue.mode == AddWatchMode::PersistentRecursive);
            stream.queue.end();
        }
        let removed = entry.one_shots.len() + entry.streams.len() < before;
        self.tidy(path);
        removed
    }

    /// Forgets a path that nobody uses.
    fn tidy(&mut self, path: &str) {
        if self.entries.get(path).is_some_and(Entry::is_unused)
            && let Some((path, entry)) = self.entries.remove_entry(path)
            && entry.armed != Armed::default()
        {
            self.unwanted.push(path);
        }
    }

    /// Paths of which the server may remove all watches.
    pub(crate) fn take_unwanted(&mut self) -> Vec<Arc<str>> {
        std::mem::take(&mut self.unwanted)
    }

    /// Watches that are to be set although nothing was lost.
    pub(crate) fn take_uncovered(&mut self) -> Restore {
        let mut restore = Restore::default();
        for path in std::mem::take(&mut self.uncovered) {
            if let Some(entry) = self.entries.get_mut(&path) {
                entry.arm_one_shots(&path, &mut restore);
            }
        }
        restore
    }

    /// The connection is gone, and with it all that the server held for it.
    pub(crate) fn disconnected(&mut self) {
        self.unwanted.clear();
        self.uncovered.clear();
        self.entries.retain(|_, entry| {
            entry.armed = Armed::default();
            !entry.is_unused()
        });
    }

    /// All that a new connection has to watch. [`restored`](Self::restored) is to be called when it does.
    pub(crate) fn restore(&mut self, gap: Gap) -> Restore {
        let mut restore = Restore::default();
        for (path, entry) in &mut self.entries {
            entry.arm_one_shots(path, &mut restore);
            entry.armed.strong = entry.strongest_stream();
            match entry.armed.strong {
                Some(AddWatchMode::Persistent) => restore.persistent.push(Arc::clone(path)),
                Some(AddWatchMode::PersistentRecursive) => {
                    restore.recursive.push(Arc::clone(path));
                    entry.armed.tells_children = true;
                }
                None => {}
            }
            for stream in &mut entry.streams {
                stream.gap = stream.gap.max(Some(gap));
            }
        }
        restore
    }

    /// Everything is watched again: tells the persistent watchers.
    pub(crate) fn restored(&mut self) {
        for stream in self
            .entries
            .values_mut()
            .flat_map(|entry| &mut entry.streams)
        {
            if let Some(gap) = stream.gap.take() {
                stream.queue.push(Notification::Gap(gap));
            }
        }
    }
}

impl Entry {
    fn arm_one_shots(&mut self, path: &Arc<str>, restore: &mut Restore) {
        let has = |kind| self.one_shots.iter().any(|one_shot| one_shot.kind == kind);
        let kinds = [
            (OneShotKind::Data, &mut restore.data),
            (OneShotKind::Exist, &mut restore.exist),
            (OneShotKind::Child, &mut restore.child),
        ];
        for (kind, paths) in kinds {
            if has(kind) {
                paths.push(Arc::clone(path));
            }
        }
        self.armed.data |= has(OneShotKind::Data) || has(OneShotKind::Exist);
        self.armed.child |= has(OneShotKind::Child);
    }
}

/// With the client everything it watched for ends.
impl Drop for WatchTable {
    fn drop(&mut self) {
        for stream in self.entries.values().flat_map(|entry| &entry.streams) {
            stream.queue.end();
        }
    }
}
