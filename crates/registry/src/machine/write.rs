//! Requests that change something: decided first, then done.
//!
//! Checks are made in Apache ZooKeeper's order (`PrepRequestProcessor.java`), because a request that is
//! wrong in two ways is answered for the first.

use std::borrow::Cow;

use livegate_zk::path;
use livegate_zk::proto::acl::{Acl, Permissions};
use livegate_zk::proto::create_mode::CreateMode;
use livegate_zk::proto::error_code::ErrorCode;
use livegate_zk::proto::multi::{MultiReply, MultiRequest, OpResult, WriteOp};
use livegate_zk::proto::reply::{CreateReply, PathReply};
use livegate_zk::proto::request::{Create, CreateTtl, PathVersion, Request, SetAcl, SetData};
use livegate_zk::proto::stat::Stat;

use super::acl::{allows, resolve};
use super::change::{self, Change};
use super::sessions::SECRET_BYTES;
use super::tree::{NewNode, NodeId, Owner, Undo};
use super::{Call, ConnectionId, Machine, Now, Peer, RestoreError, Room};

/// The answer to a write while the disk has no room for it: the nearest that clients know.
const NO_ROOM: ErrorCode = ErrorCode::QuotaExceeded;

/// Nodes that cannot be deleted.
const SPECIAL: [&str; 4] = ["/", "/zookeeper", "/zookeeper/quota", "/zookeeper/config"];

/// A containers that never had a child is left alone for this long (`znode.container.maxNeverUsedIntervalMs`
/// is off by default; five minutes are what its documentation suggests).
const CONTAINER_UNUSED_MAX_MS: i64 = 5 * 60 * 1000;

/// What kind of node a create asks for, beyond its flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Container,
    Ttl(i64),
}

impl Machine {
    pub(super) fn write(
        &mut self,
        call: &Call,
        request: &Request<'_>,
        output: &mut Vec<u8>,
    ) -> Result<(), ErrorCode> {
        let needed = if matches!(request, Request::Delete(_)) {
            Room::Reserve
        } else {
            Room::Plenty
        };
        if let Request::Multi(parts) = request {
            return self.multi(call, parts, output);
        }
        let change = match request {
            Request::Create(body) | Request::Create2(body) => {
                self.plan_create(call, body, Kind::Plain)
            }
            Request::CreateContainer(body) => self.plan_create(call, body, Kind::Container),
            Request::CreateTtl(body) => self.plan_create_ttl(call, body),
            Request::Delete(body) => self.plan_delete(call, body),
            Request::SetData(body) => self.plan_set_data(call, body),
            Request::SetAcl(body) => self.plan_set_acl(call, body),
            _ => Err(ErrorCode::Unimplemented),
        }?;
        if call.room < needed {
            return Err(NO_ROOM);
        }
        self.commit(call.now, self.zxid, std::slice::from_ref(&change));
        match (request, &change) {
            (Request::Create(_), Change::Create { path, .. }) => {
                call.reply(output, self.zxid, &PathReply { path });
            }
            (_, Change::Create { path, .. }) => {
                let stat = self.stat_of(path);
                call.reply(output, self.zxid, &CreateReply { path, stat });
            }
            (_, Change::SetData { path, .. } | Change::SetAcl { path, .. }) => {
                call.reply(output, self.zxid, &self.stat_of(path));
            }
            _ => call.reply(output, self.zxid, &()),
        }
        Ok(())
    }

    fn multi(
        &mut self,
        call: &Call,
        parts: &MultiRequest<'_>,
        output: &mut Vec<u8>,
    ) -> Result<(), ErrorCode> {
        let ops: Vec<WriteOp<'_>> = parts.iter().collect();
        let mut done: Vec<(Change<'_>, Option<Undo>, Stat)> = Vec::with_capacity(ops.len());
        let mut failed = None;
        for op in &ops {
            let planned = if call.room < Room::Plenty {
                Err(NO_ROOM)
            } else {
                self.plan_part(call, op)
            };
            match planned {
                Ok(change) => {
                    let undo = self.apply(&change, self.zxid, call.now.wall_ms);
                    let stat = match &change {
                        Change::Create { path, .. } | Change::SetData { path, .. } => {
                            self.stat_of(path)
                        }
                        _ => Stat::default(),
                    };
                    done.push((change, undo, stat));
                }
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        let results: Vec<OpResult<'_>> = if let Some(error) = failed {
            let before = done.len();
            for (_, undo, _) in done.drain(..).rev() {
                if let Some(undo) = undo {
                    self.tree.undo(undo);
                }
            }
            (0..ops.len())
                .map(|index| match index.cmp(&before) {
                    std::cmp::Ordering::Less => OpResult::Error(0),
                    std::cmp::Ordering::Equal => OpResult::Error(error.code()),
                    std::cmp::Ordering::Greater => {
                        OpResult::Error(ErrorCode::RuntimeInconsistency.code())
                    }
                })
                .collect()
        } else {
            done.iter()
                .map(|(change, _, stat)| match change {
                    Change::Create { path, owner, .. } => match owner {
                        Owner::Container | Owner::Ttl(_) => {
                            OpResult::Create2(CreateReply { path, stat: *stat })
                        }
                        Owner::None | Owner::Session(_) => OpResult::Create(PathReply { path }),
                    },
                    Change::SetData { .. } => OpResult::SetData(*stat),
                    Change::Check => OpResult::Check,
                    _ => OpResult::Delete,
                })
                .collect()
        };
        call.reply(output, self.zxid, &MultiReply::new(&results));
        drop(results);
        let (changes, undos): (Vec<_>, Vec<_>) = done
            .into_iter()
            .map(|(change, undo, _)| (change, undo))
            .unzip();
        self.log(call.now, self.zxid, &changes);
        for (change, undo) in changes.iter().zip(undos) {
            self.notify_and_keep(change, undo);
        }
        Ok(())
    }

    /// In a multi the flags alone say what is created (`Op.Create`).
    fn plan_part<'a>(&self, call: &Call, op: &WriteOp<'a>) -> Result<Change<'a>, ErrorCode> {
        match op {
            WriteOp::Create(body) | WriteOp::Create2(body) | WriteOp::CreateContainer(body) => {
                let kind = match body.flags {
                    4 => Kind::Container,
                    _ => Kind::Plain,
                };
                self.plan_create(call, body, kind)
            }
            WriteOp::CreateTtl(body) => self.plan_create_ttl(call, body),
            WriteOp::Delete(body) => self.plan_delete(call, body),
            WriteOp::SetData(body) => self.plan_set_data(call, body),
            WriteOp::Check(body) => {
                path::validate(body.path).map_err(|_| ErrorCode::BadArguments)?;
                let id = self.tree.find(body.path).ok_or(ErrorCode::NoNode)?;
                self.demand(call, id, Permissions::READ)?;
                next_version(self.tree.node(id).version, body.version)?;
                Ok(Change::Check)
            }
        }
    }

    fn plan_create_ttl<'a>(
        &self,
        call: &Call,
        body: &CreateTtl<'a>,
    ) -> Result<Change<'a>, ErrorCode> {
        let create = Create {
            path: body.path,
            data: body.data,
            acl: body.acl,
            flags: body.flags,
        };
        self.plan_create(call, &create, Kind::Ttl(body.ttl_ms))
    }

    fn plan_create<'a>(
        &self,
        call: &Call,
        body: &Create<'a>,
        kind: Kind,
    ) -> Result<Change<'a>, ErrorCode> {
        let ttl = match kind {
            Kind::Ttl(ttl) => ttl,
            Kind::Plain | Kind::Container => 0,
        };
        let mode = CreateMode::from_wire(body.flags, ttl).ok_or(ErrorCode::BadArguments)?;
        if mode.ttl().is_none() && matches!(kind, Kind::Ttl(_)) {
            return Err(ErrorCode::BadArguments);
        }
        let slash = body.path.rfind('/').ok_or(ErrorCode::BadArguments)?;
        if body.path.contains('\0') {
            return Err(ErrorCode::BadArguments);
        }
        let identities = &self.peer(call.connection)?.identities;
        let acl = resolve(body.acl, identities)?;
        let parent = self.tree.find(&body.path[..slash]);
        let parent = parent.ok_or(ErrorCode::NoNode)?;
        self.demand(call, parent, Permissions::CREATE)?;
        let parent = self.tree.node(parent);
        let path = if mode.is_sequential() {
            Cow::Owned(format!("{}{:010}", body.path, parent.creations))
        } else {
            Cow::Borrowed(body.path)
        };
        path::validate(&path).map_err(|_| ErrorCode::BadArguments)?;
        if self.tree.find(&path).is_some() {
            return Err(ErrorCode::NodeExists);
        }
        if matches!(parent.owner, Owner::Session(_)) {
            return Err(ErrorCode::NoChildrenForEphemerals);
        }
        let owner = match kind {
            Kind::Container => Owner::Container,
            Kind::Ttl(ttl) => Owner::Ttl(ttl),
            Kind::Plain if mode.is_ephemeral() => Owner::Session(call.session),
            Kind::Plain => Owner::None,
        };
        Ok(Change::Create {
            path,
            data: body.data,
            acl,
            owner,
        })
    }

    fn plan_delete<'a>(
        &self,
        call: &Call,
        body: &PathVersion<'a>,
    ) -> Result<Change<'a>, ErrorCode> {
        let slash = body.path.rfind('/').ok_or(ErrorCode::BadArguments)?;
        if body.path.contains('\0') || SPECIAL.contains(&body.path) {
            return Err(ErrorCode::BadArguments);
        }
        let parent = self.tree.find(&body.path[..slash]);
        self.demand(call, parent.ok_or(ErrorCode::NoNode)?, Permissions::DELETE)?;
        let id = self.tree.find(body.path).ok_or(ErrorCode::NoNode)?;
        let node = self.tree.node(id);
        next_version(node.version, body.version)?;
        if !node.children.is_empty() {
            return Err(ErrorCode::NotEmpty);
        }
        Ok(Change::Delete {
            path: Cow::Borrowed(body.path),
        })
    }

    fn plan_set_data<'a>(&self, call: &Call, body: &SetData<'a>) -> Result<Change<'a>, ErrorCode> {
        path::validate(body.path).map_err(|_| ErrorCode::BadArguments)?;
        let id = self.tree.find(body.path).ok_or(ErrorCode::NoNode)?;
        self.demand(call, id, Permissions::WRITE)?;
        Ok(Change::SetData {
            path: Cow::Borrowed(body.path),
            data: body.data,
            version: next_version(self.tree.node(id).version, body.version)?,
        })
    }

    fn plan_set_acl<'a>(&self, call: &Call, body: &SetAcl<'a>) -> Result<Change<'a>, ErrorCode> {
        path::validate(body.path).map_err(|_| ErrorCode::BadArguments)?;
        let identities = &self.peer(call.connection)?.identities;
        let acl = resolve(body.acl, identities)?;
        let id = self.tree.find(body.path).ok_or(ErrorCode::NoNode)?;
        self.demand(call, id, Permissions::ADMIN)?;
        Ok(Change::SetAcl {
            path: Cow::Borrowed(body.path),
            acl,
            version: next_version(self.tree.node(id).aversion, body.version)?,
        })
    }

    fn demand(&self, call: &Call, id: NodeId, right: Permissions) -> Result<(), ErrorCode> {
        let list = self.tree.acl(self.tree.node(id));
        if allows(list, right, &self.peer(call.connection)?.identities) {
            Ok(())
        } else {
            Err(ErrorCode::NoAuth)
        }
    }

    pub(super) fn peer(&self, connection: ConnectionId) -> Result<&Peer, ErrorCode> {
        self.peers.get(&connection).ok_or(ErrorCode::SessionExpired)
    }

    /// The state of a node that was just written.
    fn stat_of(&self, path: &str) -> Stat {
        let id = self.tree.find(path).expect("it was just written");
        self.tree.node(id).stat()
    }

    /// Does what was planned, says it for the log and names whom to tell.
    fn commit(&mut self, now: Now, zxid: i64, changes: &[Change<'_>]) {
        self.log(now, zxid, changes);
        for change in changes {
            let undo = self.apply(change, zxid, now.wall_ms);
            self.notify_and_keep(change, undo);
        }
    }

    fn log(&mut self, now: Now, zxid: i64, changes: &[Change<'_>]) {
        if changes.iter().any(|change| *change != Change::Check) {
            change::encode(&mut self.record, zxid, now.wall_ms, changes);
        }
    }

    /// Changes the tree as planned.
    fn apply(&mut self, change: &Change<'_>, zxid: i64, time: i64) -> Option<Undo> {
        self.try_apply(change, zxid, time)
            .expect("what was planned can be done")
    }

    /// Changes the tree. An error means that the change does not fit the tree.
    fn try_apply(
        &mut self,
        change: &Change<'_>,
        zxid: i64,
        time: i64,
    ) -> Result<Option<Undo>, RestoreError> {
        let misfit = RestoreError::Misfit(zxid);
        let undo = match change {
            Change::Create {
                path,
                data,
                acl,
                owner,
            } => {
                let parent = path
                    .rfind('/')
                    .and_then(|slash| self.tree.find(&path[..slash]));
                let Some(parent) = parent.filter(|_| self.tree.find(path).is_none()) else {
                    return Err(misfit);
                };
                let new = NewNode {
                    path,
                    data: *data,
                    acl,
                    owner: *owner,
                };
                self.tree.create(new, parent, zxid, time)
            }
            Change::Delete { path } => {
                let id = self.tree.find(path).filter(|&id| {
                    id != super::tree::ROOT && self.tree.node(id).children.is_empty()
                });
                self.tree.delete(id.ok_or(misfit)?, zxid)
            }
            Change::SetData {
                path,
                data,
                version,
            } => {
                let id = self.tree.find(path).ok_or(misfit)?;
                self.tree.set_data(id, *data, *version, zxid, time)
            }
            Change::SetAcl { path, acl, version } => {
                let id = self.tree.find(path).ok_or(misfit)?;
                self.tree.set_acl(id, acl, *version, zxid);
                return Ok(None);
            }
            Change::Check
            | Change::Genesis { .. }
            | Change::Epoch
            | Change::OpenSession { .. }
            | Change::CloseSession { .. } => return Ok(None),
        };
        Ok(Some(undo))
    }

    /// Names whom to tell of a change that was made, and makes it final.
    fn notify_and_keep(&mut self, change: &Change<'_>, undo: Option<Undo>) {
        let Self {
            tree,
            watches,
            events,
            peers,
            ..
        } = self;
        let may_see = |list: &[Acl<'_>], connection: ConnectionId| {
            peers
                .get(&connection)
                .is_some_and(|peer: &Peer| allows(list, Permissions::READ, &peer.identities))
        };
        match change {
            Change::Create { path, acl, .. } => {
                watches.created(path, |connection| may_see(acl, connection), events);
            }
            Change::Delete { path } => {
                let list = match &undo {
                    Some(Undo::Delete { node, .. }) => tree.acl(node),
                    _ => &[],
                };
                watches.deleted(path, |connection| may_see(list, connection), events);
            }
            Change::SetData { path, .. } => {
                let list = tree
                    .find(path)
                    .map_or(&[][..], |id| tree.acl(tree.node(id)));
                watches.data_changed(path, |connection| may_see(list, connection), events);
            }
            Change::Genesis { .. }
            | Change::Epoch
            | Change::OpenSession { .. }
            | Change::CloseSession { .. }
            | Change::SetAcl { .. }
            | Change::Check => {}
        }
        if let Some(undo) = undo {
            self.tree.keep(undo);
        }
    }

    /// Ends a session: its nodes go, all in one transaction.
    pub(super) fn close_session(&mut self, now: Now, session: i64, zxid: i64) {
        if !self.sessions.close(session) {
            return;
        }
        self.log(now, zxid, &[Change::CloseSession { session }]);
        for change in self.deletions_of(session) {
            let undo = self.apply(&change, zxid, now.wall_ms);
            self.notify_and_keep(&change, undo);
        }
    }

    fn deletions_of(&self, session: i64) -> Vec<Change<'static>> {
        let mut paths: Vec<String> = self
            .tree
            .ephemerals(session)
            .map(|id| self.tree.node(id).path.to_string())
            .collect();
        paths.sort_unstable();
        let deletion = |path| Change::Delete {
            path: Cow::Owned(path),
        };
        paths.into_iter().map(deletion).collect()
    }

    /// The containers and nodes with a time to live whose time has come, at most `count`.
    pub(crate) fn reapable(&self, now: Now, count: usize) -> Vec<String> {
        let nodes = self.tree.reapable(now.wall_ms, CONTAINER_UNUSED_MAX_MS);
        nodes
            .take(count)
            .map(|node| node.path.to_string())
            .collect()
    }

    /// Deletes a container or a node with a time to live, unless it has come to life again.
    pub(crate) fn reap(&mut self, now: Now, path: &str) {
        let is_idle = self.tree.find(path).is_some_and(|id| {
            let node = self.tree.node(id);
            node.children.is_empty() && matches!(node.owner, Owner::Container | Owner::Ttl(_))
        });
        if is_idle {
            self.zxid += 1;
            let path = Cow::Borrowed(path);
            self.commit(now, self.zxid, &[Change::Delete { path }]);
        }
    }

    /// Does again what a record says.
    pub(super) fn redo(
        &mut self,
        change: &Change<'_>,
        zxid: i64,
        time: i64,
    ) -> Result<(), RestoreError> {
        match change {
            Change::Genesis { secret } => {
                let secret: [u8; SECRET_BYTES] = (*secret)
                    .try_into()
                    .map_err(|_| RestoreError::Secret(secret.len()))?;
                self.sessions.set_secret(secret);
                self.has_begun = true;
            }
            Change::OpenSession {
                session,
                timeout_ms,
            } => self.sessions.open(*session, *timeout_ms, 0),
            Change::CloseSession { session } => {
                self.sessions.close(*session);
                for deletion in self.deletions_of(*session) {
                    if let Some(undo) = self.try_apply(&deletion, zxid, time)? {
                        self.tree.keep(undo);
                    }
                }
            }
            Change::Epoch
            | Change::Create { .. }
            | Change::Delete { .. }
            | Change::SetData { .. }
            | Change::SetAcl { .. }
            | Change::Check => {
                if let Some(undo) = self.try_apply(change, zxid, time)? {
                    self.tree.keep(undo);
                }
            }
        }
        Ok(())
    }
}

/// The version after this one, if this one is as expected. -1 is never a version, for as an expectation
/// it stands for any.
fn next_version(current: i32, expected: i32) -> Result<i32, ErrorCode> {
    if expected != -1 && expected != current {
        return Err(ErrorCode::BadVersion);
    }
    Ok(match current.wrapping_add(1) {
        -1 => 0,
        next => next,
    })
}
