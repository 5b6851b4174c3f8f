//! The tree of nodes: what is there, and the bookkeeping that ZooKeeper keeps of it.
//!
//! Nodes live in one vector and know each other by number; a hash table finds them by path. A node's
//! children are the numbers of its children, and a child knows its place among them, so every change takes
//! constant time whatever the size of the parent. The tree does as it is told: whether a change is allowed
//! was decided before.
//!
//! A snapshot is what the tree was at one moment, written while it goes on changing: whatever is about to
//! change and has not been written is written first ([`Tree::begin_snapshot`]).

mod restore;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};
use livegate_zk::path;
use livegate_zk::proto::acl::Acl;
use livegate_zk::proto::stat::Stat;

use super::acl::{AclId, AclTable};
use super::image;
use super::quota::Quotas;
pub(crate) use restore::TreeBuilder;

/// The number of a node while it is there; given to others afterwards.
pub(crate) type NodeId = u32;

/// The node above all.
pub(crate) const ROOT: NodeId = 0;

/// What ends a node's life besides being deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Nothing.
    None,
    /// The end of this session.
    Session(i64),
    /// Having no children any more.
    Container,
    /// Having no children and unchanged data for this long, in milliseconds.
    Ttl(i64),
}

/// A node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) path: Box<str>,
    /// Null and empty are told apart, as the protocol does.
    pub(crate) data: Option<Box<[u8]>>,
    pub(crate) czxid: i64,
    pub(crate) mzxid: i64,
    pub(crate) pzxid: i64,
    pub(crate) ctime: i64,
    pub(crate) mtime: i64,
    pub(crate) version: i32,
    /// How many children were ever created here; what clients see as `cversion` is derived from it.
    pub(crate) creations: i32,
    pub(crate) aversion: i32,
    pub(crate) owner: Owner,
    pub(crate) acl: AclId,
    /// The last transaction that changed anything a client can read of this node.
    pub(crate) changed: i64,
    pub(crate) children: Vec<NodeId>,
    pub(crate) parent: NodeId,
    /// Where this node stands among its parent's children.
    place: u32,
    /// The snapshot that this node has been written to, or was created after the beginning of.
    snapshot: u32,
}

impl Node {
    /// A node with empty data, as old as can be.
    pub(crate) fn new(path: Box<str>, acl: AclId, snapshot: u32) -> Self {
        Self {
            path,
            data: Some(Box::default()),
            czxid: 0,
            mzxid: 0,
            pzxid: 0,
            ctime: 0,
            mtime: 0,
            version: 0,
            creations: 0,
            aversion: 0,
            owner: Owner::None,
            acl,
            changed: 0,
            children: Vec::new(),
            parent: ROOT,
            place: 0,
            snapshot,
        }
    }

    /// What clients see.
    pub(crate) fn stat(&self) -> Stat {
        let num_children = i32::try_from(self.children.len()).unwrap_or(i32::MAX);
        Stat {
            czxid: self.czxid,
            mzxid: self.mzxid,
            ctime: self.ctime,
            mtime: self.mtime,
            version: self.version,
            // DataNode.copyStat: every creation and every deletion counts one.
            cversion: self.creations.wrapping_mul(2).wrapping_sub(num_children),
            aversion: self.aversion,
            ephemeral_owner: match self.owner {
                Owner::Session(session) => session,
                Owner::None | Owner::Container | Owner::Ttl(_) => 0,
            },
            data_length: i32::try_from(self.data.as_deref().map_or(0, <[u8]>::len))
                .unwrap_or(i32::MAX),
            num_children,
            pzxid: self.pzxid,
        }
    }

    pub(crate) fn name(&self) -> &str {
        path::name(&self.path)
    }
}

/// How to take back one change; what a failed multi does, backwards. Numbers of nodes can be kept here,
/// because taking back backwards gives each node the number that it had. Whoever does not take it back
/// [keeps](Tree::keep) it.
#[derive(Debug)]
#[must_use]
pub(crate) enum Undo {
    Create {
        id: NodeId,
        parent: ParentBefore,
    },
    Delete {
        node: Box<Node>,
        parent: ParentBefore,
    },
    SetData {
        id: NodeId,
        data: Option<Box<[u8]>>,
        version: i32,
        mzxid: i64,
        mtime: i64,
        changed: i64,
    },
}

/// What a change of the children changes of their parent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ParentBefore {
    creations: i32,
    pzxid: i64,
    changed: i64,
}

/// All nodes.
#[derive(Debug)]
pub(crate) struct Tree {
    slots: Vec<Option<Node>>,
    free: Vec<NodeId>,
    index: HashTable<NodeId>,
    hasher: DefaultHashBuilder,
    acls: AclTable,
    /// Nodes that end with their sessions.
    ephemerals: HashMap<i64, BTreeSet<NodeId>>,
    /// Nodes that end by themselves.
    transient: BTreeSet<NodeId>,
    quotas: Quotas,
    /// Bytes of paths and data (`approximate_data_size`).
    bytes: u64,
    snapshot: SnapshotState,
}

#[derive(Debug, Default)]
struct SnapshotState {
    /// Counts snapshots; nodes that carry it need not be written.
    number: u32,
    /// The next slot to write; `None` when no snapshot is being written.
    next: Option<usize>,
    /// Nodes that were about to change before their turn came.
    ahead: Vec<u8>,
}

impl Tree {
    /// A tree with the nodes every ZooKeeper has: the root, `/zookeeper`, its `quota` and its `config`.
    pub(crate) fn new() -> Self {
        let mut tree = Self::empty();
        tree.slots.push(Some(tree.blank("/")));
        tree.bytes = 1;
        tree.index_insert(ROOT);
        for (path, acl) in [
            ("/zookeeper", None),
            ("/zookeeper/quota", None),
            ("/zookeeper/config", Some(Acl::READ_ONLY)),
        ] {
            let acl = tree.acls.intern(acl.unwrap_or(Acl::OPEN));
            let parent = tree
                .find(path::parent(path).unwrap_or("/"))
                .expect("parents come first");
            let mut node = tree.blank(path);
            node.acl = acl;
            if path == "/zookeeper/config" {
                // As Apache ZooKeeper has it, which sets the list of this one when it starts.
                node.aversion = -1;
            }
            tree.attach(node, parent);
        }
        tree
    }

    fn empty() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            index: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            acls: AclTable::new(),
            ephemerals: HashMap::new(),
            transient: BTreeSet::new(),
            quotas: Quotas::default(),
            bytes: 0,
            snapshot: SnapshotState::default(),
        }
    }

    fn blank(&self, path: &str) -> Node {
        Node::new(path.into(), AclId::OPEN, self.snapshot.number)
    }

    /// The node at a path; the empty path is the root's other name.
    pub(crate) fn find(&self, path: &str) -> Option<NodeId> {
        let path = if path.is_empty() { "/" } else { path };
        let hash = self.hasher.hash_one(path);
        self.index
            .find(hash, |&id| &*self.node(id).path == path)
            .copied()
    }

    /// A node that is there.
    pub(crate) fn node(&self, id: NodeId) -> &Node {
        self.slots[id as usize]
            .as_ref()
            .expect("numbers of nodes are taken from the tree and not kept")
    }

    /// A node about to change: a snapshot takes it as it was.
    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        self.write_ahead(id);
        self.slots[id as usize]
            .as_mut()
            .expect("numbers of nodes are taken from the tree and not kept")
    }

    /// The access control list of a node.
    pub(crate) fn acl(&self, node: &Node) -> &[Acl<'static>] {
        self.acls.get(node.acl)
    }

    /// How many nodes there are.
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    /// Bytes of all paths and data.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many nodes there are below this one.
    pub(crate) fn count_below(&self, id: NodeId) -> usize {
        if id == ROOT {
            return self.len() - 1;
        }
        let mut count = 0;
        let mut open = vec![id];
        while let Some(next) = open.pop() {
            let children = &self.node(next).children;
            count += children.len();
            open.extend_from_slice(children);
        }
        count
    }

    /// The nodes that end with a session, by path.
    pub(crate) fn ephemerals(&self, session: i64) -> impl Iterator<Item = NodeId> {
        self.ephemerals.get(&session).into_iter().flatten().copied()
    }

    /// How many nodes end with sessions.
    pub(crate) fn ephemeral_count(&self) -> usize {
        self.ephemerals.values().map(BTreeSet::len).sum()
    }

    /// Sessions that own nodes, and these.
    pub(crate) fn ephemerals_by_session(&self) -> BTreeMap<i64, Vec<&str>> {
        let paths = |ids: &BTreeSet<NodeId>| ids.iter().map(|&id| &*self.node(id).path).collect();
        self.ephemerals
            .iter()
            .map(|(&session, ids)| (session, paths(ids)))
            .collect()
    }

    /// Containers that are empty after use, or for `unused_max` without any, and nodes whose time to live
    /// is over.
    pub(crate) fn reapable(&self, wall_ms: i64, unused_max: i64) -> impl Iterator<Item = &Node> {
        self.transient
            .iter()
            .map(|&id| self.node(id))
            .filter(move |node| {
                let idle = wall_ms.saturating_sub(node.mtime);
                node.children.is_empty()
                    && match node.owner {
                        Owner::Container => node.creations > 0 || idle > unused_max,
                        Owner::Ttl(ttl) => idle > ttl,
                        Owner::None | Owner::Session(_) => false,
                    }
            })
    }

    /// Creates a node under a parent that is there.
    pub(crate) fn create(
        &mut self,
        new: NewNode<'_>,
        parent: NodeId,
        zxid: i64,
        time: i64,
    ) -> Undo {
        let acl = self.acls.intern(new.acl);
        let mut node = self.blank(new.path);
        node.data = new.data.map(Into::into);
        (node.czxid, node.mzxid, node.pzxid) = (zxid, zxid, zxid);
        (node.ctime, node.mtime) = (time, time);
        node.changed = zxid;
        node.owner = new.owner;
        node.acl = acl;
        let above = self.node_mut(parent);
        let before = ParentBefore::of(above);
        above.creations = above.creations.wrapping_add(1);
        above.pzxid = zxid;
        above.changed = zxid;
        let id = self.attach(node, parent);
        self.count_for_quota(new.path, 1, data_bytes(new.data));
        self.quota_node_created(new.path);
        Undo::Create { id, parent: before }
    }

    /// Deletes a node without children.
    pub(crate) fn delete(&mut self, id: NodeId, zxid: i64) -> Undo {
        let parent = self.node(id).parent;
        let above = self.node_mut(parent);
        let before = ParentBefore::of(above);
        above.pzxid = zxid;
        above.changed = zxid;
        let node = self.detach(id);
        self.quota_node_deleted(&node.path);
        self.count_for_quota(&node.path, -1, -data_bytes(node.data.as_deref()));
        Undo::Delete {
            node: Box::new(node),
            parent: before,
        }
    }

    /// Replaces a node's data.
    pub(crate) fn set_data(
        &mut self,
        id: NodeId,
        data: Option<&[u8]>,
        version: i32,
        zxid: i64,
        time: i64,
    ) -> Undo {
        let node = self.node_mut(id);
        let (former_version, mzxid, mtime) = (node.version, node.mzxid, node.mtime);
        let former_changed = node.changed;
        let former = std::mem::replace(&mut node.data, data.map(Into::into));
        (node.version, node.mzxid, node.mtime) = (version, zxid, time);
        node.changed = zxid;
        self.data_replaced(id, former.as_deref());
        Undo::SetData {
            id,
            data: former,
            version: former_version,
            mzxid,
            mtime,
            changed: former_changed,
        }
    }

    /// Counts what replacing a node's data has changed.
    fn data_replaced(&mut self, id: NodeId, former: Option<&[u8]>) {
        let node = self.node(id);
        let difference = data_bytes(node.data.as_deref()) - data_bytes(former);
        self.bytes = self.bytes.saturating_add_signed(difference);
        if !self.quotas.is_empty() {
            let path = self.node(id).path.clone();
            self.count_for_quota(&path, 0, difference);
        }
    }

    /// Replaces a node's access control list.
    pub(crate) fn set_acl(&mut self, id: NodeId, acl: &[Acl<'_>], aversion: i32, zxid: i64) {
        let acl = self.acls.intern(acl);
        let node = self.node_mut(id);
        let former = std::mem::replace(&mut node.acl, acl);
        node.aversion = aversion;
        node.changed = zxid;
        self.acls.release(former);
    }

    /// Takes back a change; changes after it have been taken back already.
    pub(crate) fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Create { id, parent } => {
                let above = self.node(id).parent;
                let node = self.detach(id);
                self.acls.release(node.acl);
                self.quota_node_deleted(&node.path);
                self.count_for_quota(&node.path, -1, -data_bytes(node.data.as_deref()));
                parent.restore(self.node_mut(above));
            }
            Undo::Delete { node, parent } => {
                let (above, bytes) = (node.parent, data_bytes(node.data.as_deref()));
                let id = self.attach(*node, above);
                parent.restore(self.node_mut(above));
                let path = self.node(id).path.clone();
                self.count_for_quota(&path, 1, bytes);
                self.quota_node_created(&path);
            }
            Undo::SetData {
                id,
                data,
                version,
                mzxid,
                mtime,
                changed,
            } => {
                let node = self.node_mut(id);
                let former = std::mem::replace(&mut node.data, data);
                (node.version, node.mzxid, node.mtime) = (version, mzxid, mtime);
                node.changed = changed;
                self.data_replaced(id, former.as_deref());
            }
        }
    }

    /// Makes a change final.
    pub(crate) fn keep(&mut self, undo: Undo) {
        if let Undo::Delete { node, .. } = undo {
            self.acls.release(node.acl);
        }
    }

    /// Puts a node, whose list is interned, under its parent.
    fn attach(&mut self, mut node: Node, parent: NodeId) -> NodeId {
        node.parent = parent;
        self.bytes += node_bytes(&node);
        let owner = node.owner;
        let id = match self.free.pop() {
            Some(id) => {
                self.slots[id as usize] = Some(node);
                id
            }
            None => {
                self.slots.push(Some(node));
                NodeId::try_from(self.slots.len() - 1).expect("memory ends before 2^32 nodes")
            }
        };
        self.link(id);
        match owner {
            Owner::None => {}
            Owner::Session(session) => {
                self.ephemerals.entry(session).or_default().insert(id);
            }
            Owner::Container | Owner::Ttl(_) => {
                self.transient.insert(id);
            }
        }
        self.index_insert(id);
        id
    }

    /// Makes a node that knows its parent known to it.
    fn link(&mut self, id: NodeId) {
        let parent = self.node(id).parent;
        let children = &mut self.node_mut(parent).children;
        let place = u32::try_from(children.len()).expect("memory ends before 2^32 nodes");
        children.push(id);
        self.slots[id as usize]
            .as_mut()
            .expect("it was just put there")
            .place = place;
    }

    fn index_insert(&mut self, id: NodeId) {
        let hash = self.hasher.hash_one(&*self.node(id).path);
        let (slots, hasher) = (&self.slots, &self.hasher);
        self.index.insert_unique(hash, id, |&id| {
            let node = slots[id as usize].as_ref();
            hasher.hash_one(&*node.expect("the index names nodes that are there").path)
        });
    }

    /// Takes a node out. Its list stays interned.
    fn detach(&mut self, id: NodeId) -> Node {
        self.write_ahead(id);
        let hash = self.hasher.hash_one(&*self.node(id).path);
        if let Ok(entry) = self.index.find_entry(hash, |&other| other == id) {
            entry.remove();
        }
        let node = self.slots[id as usize].take().expect("it is there");
        let siblings = &mut self.node_mut(node.parent).children;
        siblings.swap_remove(node.place as usize);
        if let Some(&moved) = siblings.get(node.place as usize) {
            self.slots[moved as usize]
                .as_mut()
                .expect("children are there")
                .place = node.place;
        }
        match node.owner {
            Owner::None => {}
            Owner::Session(session) => {
                if let Some(ids) = self.ephemerals.get_mut(&session) {
                    ids.remove(&id);
                    if ids.is_empty() {
                        self.ephemerals.remove(&session);
                    }
                }
            }
            Owner::Container | Owner::Ttl(_) => {
                self.transient.remove(&id);
            }
        }
        self.bytes -= node_bytes(&node);
        self.free.push(id);
        node
    }

    fn count_for_quota(&mut self, path: &str, nodes: i64, bytes: i64) {
        if self.quotas.is_empty() {
            return;
        }
        let Some(stats) = self.quotas.stats_path_for(path) else {
            return;
        };
        let Some(id) = self.find(&stats) else { return };
        let node = self.node_mut(id);
        let counted = Quotas::counted(node.data.as_deref(), nodes, bytes);
        self.replace_quietly(id, counted);
    }

    fn quota_node_created(&mut self, path: &str) {
        if let Some(prefix) = self.quotas.limits_created(path) {
            self.quotas.insert(prefix);
        }
        if let Some(prefix) = Quotas::stats_created(path) {
            let (nodes, bytes) = self
                .find(prefix)
                .map_or((0, 0), |id| self.count_with_bytes(id));
            let counted = Quotas::counted(Some(b"count=0,bytes=0"), nodes, bytes);
            if let Some(id) = self.find(path) {
                self.replace_quietly(id, counted);
            }
        }
    }

    fn quota_node_deleted(&mut self, path: &str) {
        if !self.quotas.is_empty() {
            self.quotas.limits_deleted(path);
        }
    }

    fn count_with_bytes(&self, id: NodeId) -> (i64, i64) {
        let (mut nodes, mut bytes) = (0, 0);
        let mut open = vec![id];
        while let Some(next) = open.pop() {
            let node = self.node(next);
            nodes += 1;
            bytes += data_bytes(node.data.as_deref());
            open.extend_from_slice(&node.children);
        }
        (nodes, bytes)
    }

    /// Replaces data without any of the bookkeeping: how the server keeps the numbers of a quota.
    fn replace_quietly(&mut self, id: NodeId, data: Vec<u8>) {
        let node = self.node_mut(id);
        let former = node.data.replace(data.into());
        let difference = data_bytes(node.data.as_deref()) - data_bytes(former.as_deref());
        self.bytes = self.bytes.saturating_add_signed(difference);
    }
}

/// What a new node is to be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewNode<'a> {
    pub(crate) path: &'a str,
    pub(crate) data: Option<&'a [u8]>,
    pub(crate) acl: &'a [Acl<'a>],
    pub(crate) owner: Owner,
}

impl ParentBefore {
    fn of(parent: &Node) -> Self {
        Self {
            creations: parent.creations,
            pzxid: parent.pzxid,
            changed: parent.changed,
        }
    }

    fn restore(self, parent: &mut Node) {
        parent.creations = self.creations;
        parent.pzxid = self.pzxid;
        parent.changed = self.changed;
    }
}

fn data_bytes(data: Option<&[u8]>) -> i64 {
    i64::try_from(data.map_or(0, <[u8]>::len)).unwrap_or(i64::MAX)
}

fn node_bytes(node: &Node) -> u64 {
    (node.path.len() + node.data.as_deref().map_or(0, <[u8]>::len)) as u64
}

/// Snapshots.
impl Tree {
    /// Begins a snapshot of the tree as it is now; [`write_snapshot`](Self::write_snapshot) writes it. One
    /// that was not finished is given up.
    pub(crate) fn begin_snapshot(&mut self) {
        let snapshot = &mut self.snapshot;
        snapshot.number = snapshot.number.wrapping_add(1);
        snapshot.next = Some(0);
        snapshot.ahead.clear();
    }

    /// Gives up the snapshot that is being written.
    pub(crate) fn end_snapshot(&mut self) {
        self.snapshot.next = None;
        self.snapshot.ahead = Vec::new();
    }

    /// Appends about `bytes` more of the snapshot to `output`. Returns false when that was all.
    pub(crate) fn write_snapshot(&mut self, output: &mut Vec<u8>, bytes: usize) -> bool {
        output.append(&mut self.snapshot.ahead);
        let Some(mut next) = self.snapshot.next else {
            return false;
        };
        let number = self.snapshot.number;
        while output.len() < bytes {
            let Some(slot) = self.slots.get_mut(next) else {
                self.snapshot.next = None;
                return false;
            };
            next += 1;
            if let Some(node) = slot.as_mut().filter(|node| node.snapshot != number) {
                node.snapshot = number;
                image::append(output, node, self.acls.get(node.acl));
            }
        }
        self.snapshot.next = Some(next);
        true
    }

    fn write_ahead(&mut self, id: NodeId) {
        if self.snapshot.next.is_none() {
            return;
        }
        let number = self.snapshot.number;
        let node = self.slots[id as usize].as_mut();
        if let Some(node) = node.filter(|node| node.snapshot != number) {
            node.snapshot = number;
            image::append(&mut self.snapshot.ahead, node, self.acls.get(node.acl));
        }
    }
}
