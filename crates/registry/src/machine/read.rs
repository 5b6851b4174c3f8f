//! Requests that change nothing, or only who is told of changes.

use livegate_zk::jute::List;
use livegate_zk::path;
use livegate_zk::proto::acl::{ClientInfo, Permissions};
use livegate_zk::proto::error_code::ErrorCode;
use livegate_zk::proto::multi::{MultiReply, OpResult, ReadOp};
use livegate_zk::proto::reply::{AclReply, Children2Reply, ChildrenReply, DataReply};
use livegate_zk::proto::request::Request;
use livegate_zk::proto::watch::{AddWatchMode, EventKind, WatchKind};

use super::acl::{allows, masked};
use super::tree::Node;
use super::watches::{Event, Table};
use super::{Call, ConnectionId, Machine, Turn};

/// What was found at a path.
struct Found<'a> {
    node: Option<&'a Node>,
    /// The last change of what was found, or of what would know.
    changed: i64,
}

/// The paths of a setWatches request; the older form lacks the last two.
struct WatchesToRestore<'a> {
    relative_zxid: i64,
    data: List<'a, &'a str>,
    exist: List<'a, &'a str>,
    child: List<'a, &'a str>,
    persistent: List<'a, &'a str>,
    recursive: List<'a, &'a str>,
}

impl Machine {
    pub(super) fn read(
        &mut self,
        call: &Call,
        request: &Request<'_>,
        turn: &mut Turn,
        output: &mut Vec<u8>,
    ) -> Result<(), ErrorCode> {
        let depends_on = |turn: &mut Turn, changed: i64, newest: i64| {
            turn.zxid = if changed > call.floor {
                newest
            } else {
                call.floor
            };
        };
        let newest = self.zxid;
        match request {
            Request::Ping(()) => call.reply(output, turn.zxid, &()),
            Request::Exists(body) => {
                if body.path.contains('\0') {
                    return Err(ErrorCode::BadArguments);
                }
                let found = self.find(body.path);
                depends_on(turn, found.changed, newest);
                // Whether a node is there, and its state, everybody may know.
                let stat = found.node.map(Node::stat);
                if body.watch {
                    self.watches
                        .watch_once(Table::Data, body.path, call.connection);
                }
                call.reply(output, turn.zxid, &stat.ok_or(ErrorCode::NoNode)?);
            }
            Request::GetData(body) => {
                let found = self.find(body.path);
                depends_on(turn, found.changed, newest);
                let node = self.checked(call, found.node.ok_or(ErrorCode::NoNode)?)?;
                let (data, stat) = (node.data.as_deref(), node.stat());
                call.reply(output, turn.zxid, &DataReply { data, stat });
                if body.watch {
                    self.watches
                        .watch_once(Table::Data, body.path, call.connection);
                }
            }
            Request::GetChildren(body) | Request::GetChildren2(body) => {
                let found = self.find(body.path);
                depends_on(turn, found.changed, newest);
                let node = self.checked(call, found.node.ok_or(ErrorCode::NoNode)?)?;
                let names = self.names_of_children(node);
                let children = List::new(&names);
                if matches!(request, Request::GetChildren(_)) {
                    call.reply(output, turn.zxid, &ChildrenReply { children });
                } else {
                    let stat = node.stat();
                    call.reply(output, turn.zxid, &Children2Reply { children, stat });
                }
                if body.watch {
                    self.watches
                        .watch_once(Table::Child, body.path, call.connection);
                }
            }
            Request::GetAcl(body) => {
                let found = self.find(body.path);
                depends_on(turn, found.changed, newest);
                let node = found.node.ok_or(ErrorCode::NoNode)?;
                let (list, stat) = (self.tree.acl(node), node.stat());
                let identities = &self.peer(call.connection)?.identities;
                let may_read = Permissions::READ.union(Permissions::ADMIN);
                if !allows(list, may_read, identities) {
                    return Err(ErrorCode::NoAuth);
                }
                if allows(list, Permissions::ADMIN, identities) {
                    let acl = List::new(list);
                    call.reply(output, turn.zxid, &AclReply { acl, stat });
                } else {
                    let list = masked(list);
                    let acl = List::new(&list);
                    call.reply(output, turn.zxid, &AclReply { acl, stat });
                }
            }
            Request::MultiRead(parts) => {
                let mut changed = 0;
                let mut names = Vec::new();
                let mut results = Vec::with_capacity(parts.len().min(1024));
                for part in parts {
                    let (ReadOp::GetData(body) | ReadOp::GetChildren(body)) = &part;
                    let found = self.find(body.path);
                    changed = changed.max(found.changed);
                    let node = found.node.ok_or(ErrorCode::NoNode);
                    let node = node.and_then(|node| self.checked(call, node));
                    if let (ReadOp::GetChildren(_), Ok(node)) = (&part, &node) {
                        names.push(self.names_of_children(node));
                    }
                    results.push((part, node));
                }
                depends_on(turn, changed, newest);
                let mut names = names.iter();
                let results: Vec<OpResult<'_>> = results
                    .iter()
                    .map(|(part, node)| match (part, node) {
                        (_, Err(error)) => OpResult::Error(error.code()),
                        (ReadOp::GetData(_), Ok(node)) => OpResult::GetData(DataReply {
                            data: node.data.as_deref(),
                            stat: node.stat(),
                        }),
                        (ReadOp::GetChildren(_), Ok(_)) => OpResult::GetChildren(ChildrenReply {
                            children: List::new(names.next().map_or(&[][..], Vec::as_slice)),
                        }),
                    })
                    .collect();
                call.reply(output, turn.zxid, &MultiReply::new(&results));
            }
            Request::Sync(body) => {
                turn.zxid = newest;
                // As it came, null included.
                call.reply(output, newest, &body.prefix);
            }
            Request::AddWatch(body) => {
                let mode = AddWatchMode::from_code(body.mode).ok_or(ErrorCode::MarshallingError)?;
                self.watches.watch(body.path, call.connection, mode);
                call.reply(output, turn.zxid, &0);
            }
            Request::CheckWatches(body) => {
                let kind = WatchKind::from_code(body.kind).ok_or(ErrorCode::MarshallingError)?;
                if !self.watches.contains(body.path, call.connection, kind) {
                    return Err(ErrorCode::NoWatcher);
                }
                call.reply(output, turn.zxid, &());
            }
            Request::RemoveWatches(body) => {
                let kind = WatchKind::from_code(body.kind).ok_or(ErrorCode::MarshallingError)?;
                if !self.watches.remove(body.path, call.connection, kind) {
                    return Err(ErrorCode::NoWatcher);
                }
                call.reply(output, turn.zxid, &());
            }
            Request::SetWatches(body) => {
                turn.zxid = newest;
                self.restore_watches(
                    call.connection,
                    &WatchesToRestore {
                        relative_zxid: body.relative_zxid,
                        data: body.data,
                        exist: body.exist,
                        child: body.child,
                        persistent: List::default(),
                        recursive: List::default(),
                    },
                );
                call.reply(output, newest, &());
            }
            Request::SetWatches2(body) => {
                turn.zxid = newest;
                self.restore_watches(
                    call.connection,
                    &WatchesToRestore {
                        relative_zxid: body.relative_zxid,
                        data: body.data,
                        exist: body.exist,
                        child: body.child,
                        persistent: body.persistent,
                        recursive: body.recursive,
                    },
                );
                call.reply(output, newest, &());
            }
            Request::GetEphemerals(body) => {
                turn.zxid = newest;
                let prefix = body.prefix.unwrap_or_default();
                let paths: Vec<&str> = self
                    .tree
                    .ephemerals(call.session)
                    .map(|id| &*self.tree.node(id).path)
                    .filter(|path| matches!(prefix.trim(), "" | "/") || path.starts_with(prefix))
                    .collect();
                call.reply(output, newest, &List::new(&paths));
            }
            Request::GetAllChildrenNumber(body) => {
                turn.zxid = newest;
                let id = self.tree.find(body.path).ok_or(ErrorCode::NoNode)?;
                self.checked(call, self.tree.node(id))?;
                // Below the root's other name there is also "/".
                let count = self.tree.count_below(id) + usize::from(body.path.is_empty());
                let count = i32::try_from(count).unwrap_or(i32::MAX);
                call.reply(output, newest, &count);
            }
            Request::WhoAmI(()) => {
                let identities = &self.peer(call.connection)?.identities;
                let infos: Vec<ClientInfo<'_>> = identities
                    .iter()
                    .map(|identity| ClientInfo {
                        scheme: &identity.scheme,
                        user: Some(identity.user()),
                    })
                    .collect();
                call.reply(output, turn.zxid, &List::new(&infos));
            }
            _ => return Err(ErrorCode::Unimplemented),
        }
        Ok(())
    }

    fn find(&self, path: &str) -> Found<'_> {
        if let Some(id) = self.tree.find(path) {
            let node = self.tree.node(id);
            return Found {
                node: Some(node),
                changed: node.changed,
            };
        }
        // A deletion has changed the parent, or what was above that.
        let above = path::with_ancestors(path).find_map(|above| self.tree.find(above));
        Found {
            node: None,
            changed: above.map_or(self.zxid, |id| self.tree.node(id).changed),
        }
    }

    /// The node, if the caller may read it.
    fn checked<'a>(&self, call: &Call, node: &'a Node) -> Result<&'a Node, ErrorCode> {
        let identities = &self.peer(call.connection)?.identities;
        if allows(self.tree.acl(node), Permissions::READ, identities) {
            Ok(node)
        } else {
            Err(ErrorCode::NoAuth)
        }
    }

    fn names_of_children(&self, node: &Node) -> Vec<&str> {
        let names = node.children.iter().map(|&id| self.tree.node(id).name());
        names.collect()
    }

    /// Sets watches again after a new connection; those whose node has changed meanwhile fire at once.
    fn restore_watches(&mut self, connection: ConnectionId, restore: &WatchesToRestore<'_>) {
        let Self {
            tree,
            watches,
            events,
            ..
        } = self;
        let node = |path: &str| tree.find(path).map(|id| tree.node(id));
        let mut fire = |kind, path: &str| {
            events.push(Event {
                connection,
                kind,
                path: path.into(),
            });
        };
        for path in &restore.data {
            match node(path) {
                None => fire(EventKind::Deleted, path),
                Some(node) if node.mzxid > restore.relative_zxid => {
                    fire(EventKind::DataChanged, path);
                }
                Some(_) => watches.watch_once(Table::Data, path, connection),
            }
        }
        for path in &restore.exist {
            match node(path) {
                Some(_) => fire(EventKind::Created, path),
                None => watches.watch_once(Table::Data, path, connection),
            }
        }
        for path in &restore.child {
            match node(path) {
                None => fire(EventKind::Deleted, path),
                Some(node) if node.pzxid > restore.relative_zxid => {
                    fire(EventKind::ChildrenChanged, path);
                }
                Some(_) => watches.watch_once(Table::Child, path, connection),
            }
        }
        for path in &restore.persistent {
            watches.watch(path, connection, AddWatchMode::Persistent);
        }
        for path in &restore.recursive {
            watches.watch(path, connection, AddWatchMode::PersistentRecursive);
        }
    }
}
