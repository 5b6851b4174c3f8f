//! The operations of a [`Client`].

use super::Client;
use super::error::Error;
use super::multi::{
    Op, OpOutcome, ReadOp, ReadOutcome, read_outcomes, server_path, server_path_to_create,
    wire_ttl, wire_version, write_outcomes,
};
use super::send::{decoded, encoded};
use super::watch_table::Intent;
use super::watcher::Watch;
use crate::jute::List;
use crate::path;
use crate::proto::acl::Acl;
use crate::proto::create_mode::CreateMode;
use crate::proto::error_code::ErrorCode;
use crate::proto::multi::{MultiReadRequest, MultiReply, MultiRequest};
use crate::proto::op_code::OpCode;
use crate::proto::reply::{
    AclReply, Children2Reply, ChildrenReply, CreateReply, DataReply, PathReply,
};
use crate::proto::request::{
    Create, CreateTtl, PathOnly, PathPrefix, PathVersion, PathWatch, SetAcl, SetData,
};
use crate::proto::stat::Stat;

/// # Operations
///
/// Every operation takes at most
/// [`operation_timeout`](super::ConnectOptions::operation_timeout), which includes waiting for a
/// connection and for the requests before it. [`Error::outcome`] tells for each failure whether the
/// operation may have taken effect. Besides the server's refusals that each operation names, all can fail
/// with [`Error::ConnectionLoss`], [`Error::DeadlineExceeded`], [`Error::NotSent`],
/// [`Error::InvalidPath`], [`Error::RequestTooLong`] and, from servers that are broken,
/// [`Error::MalformedReply`].
///
/// Versions are expectations: `None` takes any, `Some(version)` only this one.
impl Client {
    /// Creates a node and returns its path, which with a sequential mode ends with the number that the
    /// server chose.
    ///
    /// # Errors
    /// `NodeExists`; `NoNode` if the parent is missing; `NoChildrenForEphemerals`; `NoAuth`;
    /// `InvalidAcl`; `Unimplemented` for times to live where the server has them switched off. After an
    /// unknown outcome of a sequential mode, look for the node among the parent's children before
    /// creating another.
    ///
    /// # Cancel safety
    /// A request that has not been sent is withdrawn; the effect of one that has is unknown.
    pub async fn create(
        &self,
        path: &str,
        data: &[u8],
        mode: CreateMode,
        acl: &[Acl<'_>],
    ) -> Result<String, Error> {
        match mode {
            CreateMode::Persistent
            | CreateMode::Ephemeral
            | CreateMode::PersistentSequential
            | CreateMode::EphemeralSequential => {
                let path = server_path_to_create(&self.shared.chroot, path, mode)?;
                let (data, acl, flags) = (Some(data), List::new(acl), mode.flags());
                let body = Create {
                    path: &path,
                    data,
                    acl,
                    flags,
                };
                let reply = self.send(encoded(OpCode::Create, &body), None).await?;
                Ok(self.client_path(decoded::<PathReply<'_>>(&reply)?.path))
            }
            CreateMode::Container | CreateMode::PersistentTtl(_) | CreateMode::SequentialTtl(_) => {
                Ok(self.create2(path, data, mode, acl).await?.0)
            }
        }
    }

    /// Creates a node and returns its path and state.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    ///
    /// # Cancel safety
    /// A request that has not been sent is withdrawn; the effect of one that has is unknown.
    pub async fn create2(
        &self,
        path: &str,
        data: &[u8],
        mode: CreateMode,
        acl: &[Acl<'_>],
    ) -> Result<(String, Stat), Error> {
        let path = &*server_path_to_create(&self.shared.chroot, path, mode)?;
        let (data, acl, flags) = (Some(data), List::new(acl), mode.flags());
        let ttl_ms = wire_ttl(mode)?;
        let body = Create {
            path,
            data,
            acl,
            flags,
        };
        let reply = match mode {
            CreateMode::PersistentTtl(_) | CreateMode::SequentialTtl(_) => {
                let body = CreateTtl {
                    path,
                    data,
                    acl,
                    flags,
                    ttl_ms,
                };
                self.send(encoded(OpCode::CreateTtl, &body), None).await?
            }
            CreateMode::Container => {
                self.send(encoded(OpCode::CreateContainer, &body), None)
                    .await?
            }
            CreateMode::Persistent
            | CreateMode::Ephemeral
            | CreateMode::PersistentSequential
            | CreateMode::EphemeralSequential => {
                self.send(encoded(OpCode::Create2, &body), None).await?
            }
        };
        let reply: CreateReply<'_> = decoded(&reply)?;
        Ok((self.client_path(reply.path), reply.stat))
    }

    /// Makes sure that a node and everything above it are there; creates what is missing, without data.
    ///
    /// # Errors
    /// As [`create`](Self::create), but for `NodeExists`.
    ///
    /// # Cancel safety
    /// Some of the nodes may have been created.
    pub async fn ensure(&self, path: &str, mode: CreateMode, acl: &[Acl<'_>]) -> Result<(), Error> {
        path::validate(path)?;
        let mut missing: Vec<&str> = vec![path];
        while let Some(&next) = missing.last() {
            match self.create(next, b"", mode, acl).await {
                Ok(_) => {}
                Err(error) if error.is_node_exists() => {}
                Err(error) if error.is_no_node() => match path::parent(next) {
                    Some(parent) => {
                        missing.push(parent);
                        continue;
                    }
                    // The chroot itself is missing.
                    None => return Err(error),
                },
                Err(error) => return Err(error),
            }
            missing.pop();
        }
        Ok(())
    }

    /// Deletes a node.
    ///
    /// # Errors
    /// `NoNode`, `BadVersion`, `NotEmpty`, `NoAuth`.
    ///
    /// # Cancel safety
    /// A request that has not been sent is withdrawn; the effect of one that has is unknown.
    pub async fn delete(&self, path: &str, version: Option<i32>) -> Result<(), Error> {
        let path = server_path(&self.shared.chroot, path)?;
        let body = PathVersion {
            path: &path,
            version: wire_version(version),
        };
        self.send(encoded(OpCode::Delete, &body), None)
            .await
            .map(drop)
    }

    /// Reads a node's data and state. Data that is null reads as empty.
    ///
    /// # Errors
    /// `NoNode`, `NoAuth`; [`Error::ReplyTooLong`].
    ///
    /// # Cancel safety
    /// Cancelling has no effect but that the answer is lost.
    pub async fn get(&self, path: &str) -> Result<(Vec<u8>, Stat), Error> {
        self.get_with(path, None).await
    }

    /// Reads a node's data and state, and watches both: the watch fires when the data is set or the node
    /// deleted.
    ///
    /// # Errors
    /// As [`get`](Self::get); then nothing is watched.
    ///
    /// # Cancel safety
    /// Cancelling has no effect but that answer and watch are lost.
    pub async fn get_and_watch(&self, path: &str) -> Result<(Vec<u8>, Stat, Watch), Error> {
        let (watch, intent) = self.one_shot(path)?;
        let (data, stat) = self.get_with(path, Some(intent)).await?;
        Ok((data, stat, watch))
    }

    async fn get_with(&self, path: &str, intent: Option<Intent>) -> Result<(Vec<u8>, Stat), Error> {
        let path = server_path(&self.shared.chroot, path)?;
        let body = PathWatch {
            path: &path,
            watch: intent.is_some(),
        };
        let reply = self.send(encoded(OpCode::GetData, &body), intent).await?;
        let reply: DataReply<'_> = decoded(&reply)?;
        Ok((reply.data.unwrap_or_default().to_vec(), reply.stat))
    }

    /// Replaces a node's data and returns its new state.
    ///
    /// # Errors
    /// `NoNode`, `BadVersion`, `NoAuth`.
    ///
    /// # Cancel safety
    /// A request that has not been sent is withdrawn; the effect of one that has is unknown.
    pub async fn set(&self, path: &str, data: &[u8], version: Option<i32>) -> Result<Stat, Error> {
        let path = server_path(&self.shared.chroot, path)?;
        let body = SetData {
            path: &path,
            data: Some(data),
            version: wire_version(version),
        };
        let reply = self.send(encoded(OpCode::SetData, &body), None).await?;
        decoded(&reply)
    }

    /// Reads a node's state; `None` if there is no such node.
    ///
    /// # Errors
    /// Only those of every operation.
    ///
    /// # Cancel safety
    /// Cancelling has no effect but that the answer is lost.
    pub async fn exists(&self, path: &str) -> Result<Option<Stat>, Error> {
        self.exists_with(path, None).await
    }

    /// Reads a node's state, and watches it, whether it is there or not: the watch fires when the node is
    /// created, its data is set, or it is deleted.
    ///
    /// # Errors
    /// As [`exists`](Self::exists); then nothing is watched.
    ///
    /// # Cancel safety
    /// Cancelling has no effect but that answer and watch are lost.
    pub async fn exists_and_watch(&self, path: &str) -> Result<(Option<Stat>, Watch), Error> {
        let (watch, intent) = self.one_shot(path)?;
        let stat = self.exists_with(path, Some(intent)).await?;
        Ok((stat, watch))
    }

    async fn exists_with(&self, path: &str, intent: Option<Intent>) -> Result<Option<Stat>, Error> {
        let path = server_path(&self.shared.chroot, path)?;
        let body = PathWatch {
            path: &path,
            watch: intent.is_some(),
        };
        match self.send(encoded(OpCode::Exists, &body), intent).await {
            Ok(reply) => decoded(&reply).map(Some),
            Err(Error::Server(ErrorCode::NoNode)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Lists the names of a node's children, in no order.
    ///
    /// # Errors
    /// `NoNode`, `NoAuth`; [`Error::ReplyTooLong`].
    ///
    /// # Cancel safety
    /// Cancelling has no effect but that the answer is lost.
    pub async fn children(&self, path: &str) -> Result<Vec<String>, Error> {
        let path = server_path(&self.shared.chroot, path)?;
        let body = PathWatch {
            path: &path,
            watch: false,
        };
        let reply = self.send(encoded(OpCode::GetChildren, &body), None).await?;
        Ok(owned(decoded::<ChildrenReply<'_>>(&reply)?.children))
    }

    /// Lists the names of a node's children, in no order, and reads the node's state.
    ///
    /// # Errors
    /// As [`children`](Self::children).
    ///
    /// # Cancel safety
    /// Cancelling has no effect but that the answer is lost.
    pub async fn children2(&self, path: &str) -> Result<(Vec<String>, Stat), Error> {
        self.children_with(path, None).await
    }

    /// Lists the names of a node's children, in no order, reads the node's state, and watches the
    /// children: the watch fires when one is created or deleted, or the node itself is deleted.
    ///
    /// # Errors
    /// As [`children`](Self::children); then nothing is watched.
    ///
    /// # Cancel safety
    /// Cancelling has no effect but that answer and watch are lost.
    pub async fn children_and_watch(
        &self,
        path: &str,
    ) -> Result<(Vec<String>, Stat, Watch), Error> {
        let (watch, intent) = self.one_shot(path)?;
        let (children, stat) = self.children_with(path, Some(intent)).await?;
        Ok((children, stat, watch))
    }

    async fn children_with(
        &self,
        path: &str,
        intent: Option<Intent>,
    ) -> Result<(Vec<String>, Stat), Error> {
        let path = server_path(&self.shared.chroot, path)?;
        let body = PathWatch {
            path: &path,
            watch: intent.is_some(),
        };
        let reply = self
            .send(encoded(OpCode::GetChildren2, &body), intent)
            .await?;
        let reply: Children2Reply<'_> = decoded(&reply)?;
        Ok((owned(reply.children), reply.stat))
    }

    /// Reads a node's access control list and state. Hashes are masked for who may not change the list.
    ///
    /// # Errors
    /// `NoNode`, `NoAuth`.
    ///
    /// # Cancel safety
    /// Cancelling has no effect but that the answer is lost.
    pub async fn acl(&self, path: &str) -> Result<(Vec<Acl<'static>>, Stat), Error> {
        let path = server_path(&self.shared.chroot, path)?;
        let reply = self
            .send(encoded(OpCode::GetAcl, &PathOnly { path: &path }), None)
            .await?;
        let reply: AclReply<'_> = decoded(&reply)?;
        Ok((reply.acl.iter().map(Acl::into_owned).collect(), reply.stat))
    }

    /// Replaces a node's access control list and returns the node's new state. The version is that of the
    /// list, `aversion`.
    ///
    /// # Errors
    /// `NoNode`, `BadVersion`, `InvalidAcl`, `NoAuth`.
    ///
    /// # Cancel safety
    /// A request that has not been sent is withdrawn; the effect of one that has is unknown.
    pub async fn set_acl(
        &self,
        path: &str,
        acl: &[Acl<'_>],
        version: Option<i32>,
    ) -> Result<Stat, Error> {
        let path = server_path(&self.shared.chroot, path)?;
        let body = SetAcl {
            path: &path,
            acl: List::new(acl),
            version: wire_version(version),
        };
        let reply = self.send(encoded(OpCode::SetAcl, &body), None).await?;
        decoded(&reply)
    }

    /// Waits until the server has applied all that the ensemble had agreed on when it was asked; what is
    /// read afterwards is at least that new.
    ///
    /// # Errors
    /// Only those of every operation.
    ///
    /// # Cancel safety
    /// Cancelling has no effect but that the answer is lost.
    pub async fn sync(&self, path: &str) -> Result<(), Error> {
        let path = server_path(&self.shared.chroot, path)?;
        self.send(encoded(OpCode::Sync, &PathOnly { path: &path }), None)
            .await
            .map(drop)
    }

    /// Does several writes, all or none.
    ///
    /// # Errors
    /// [`Error::Multi`] names the first write that was refused, and why.
    ///
    /// # Cancel safety
    /// A request that has not been sent is withdrawn; the effect of one that has is unknown.
    pub async fn multi(&self, ops: &[Op<'_>]) -> Result<Vec<OpOutcome>, Error> {
        let chroot = &self.shared.chroot;
        let request = {
            let paths: Vec<_> = ops
                .iter()
                .map(|op| op.server_path(chroot))
                .collect::<Result<_, Error>>()?;
            let records: Vec<_> = ops
                .iter()
                .zip(&paths)
                .map(|(op, path)| op.record(path))
                .collect::<Result<_, Error>>()?;
            encoded(OpCode::Multi, &MultiRequest::new(&records))
        };
        let reply = self.send(request, None).await?;
        write_outcomes(ops, &decoded::<MultiReply<'_>>(&reply)?, chroot)
    }

    /// Does several reads, each of which succeeds or fails by itself.
    ///
    /// # Errors
    /// Only those of every operation. Servers before 3.6 say `Unimplemented` and close the connection.
    ///
    /// # Cancel safety
    /// Cancelling has no effect but that the answers are lost.
    pub async fn multi_read(
        &self,
        ops: &[ReadOp<'_>],
    ) -> Result<Vec<Result<ReadOutcome, ErrorCode>>, Error> {
        let chroot = &self.shared.chroot;
        let request = {
            let paths: Vec<_> = ops
                .iter()
                .map(|op| server_path(chroot, op.path()))
                .collect::<Result<_, Error>>()?;
            let records: Vec<_> = ops
                .iter()
                .zip(&paths)
                .map(|(op, path)| op.record(path))
                .collect();
            encoded(OpCode::MultiRead, &MultiReadRequest::new(&records))
        };
        let reply = self.send(request, None).await?;
        read_outcomes(ops, &decoded::<MultiReply<'_>>(&reply)?)
    }

    /// Succeeds if the node is there and has this version. A check is mostly part of a
    /// [`multi`](Self::multi); alone it is a multi of one.
    ///
    /// # Errors
    /// `NoNode`, `BadVersion`, `NoAuth`.
    ///
    /// # Cancel safety
    /// Cancelling has no effect but that the answer is lost.
    pub async fn check(&self, path: &str, version: Option<i32>) -> Result<(), Error> {
        match self.multi(&[Op::Check { path, version }]).await {
            Ok(_) => Ok(()),
            Err(Error::Multi { code, .. }) => Err(Error::Server(code)),
            Err(error) => Err(error),
        }
    }

    /// The paths of this session's ephemeral nodes that begin with a path, in no order.
    ///
    /// # Errors
    /// Servers before 3.6 say `Unimplemented` and close the connection.
    ///
    /// # Cancel safety
    /// Cancelling has no effect but that the answer is lost.
    pub async fn ephemerals(&self, prefix: &str) -> Result<Vec<String>, Error> {
        let path = server_path(&self.shared.chroot, prefix)?;
        let reply = self
            .send(
                encoded(
                    OpCode::GetEphemerals,
                    &PathPrefix {
                        prefix: Some(&path),
                    },
                ),
                None,
            )
            .await?;
        let paths: List<'_, &str> = decoded(&reply)?;
        Ok(paths.iter().map(|path| self.client_path(path)).collect())
    }

    /// How many nodes there are below a node, at all depths.
    ///
    /// # Errors
    /// `NoNode`. Servers before 3.6 say `Unimplemented` and close the connection.
    ///
    /// # Cancel safety
    /// Cancelling has no effect but that the answer is lost.
    pub async fn all_children_number(&self, path: &str) -> Result<u32, Error> {
        let path = server_path(&self.shared.chroot, path)?;
        let reply = self
            .send(
                encoded(OpCode::GetAllChildrenNumber, &PathOnly { path: &path }),
                None,
            )
            .await?;
        u32::try_from(decoded::<i32>(&reply)?).map_err(|_| Error::UnexpectedReply)
    }

    fn client_path(&self, path: &str) -> String {
        self.shared.chroot.to_client(path).to_owned()
    }
}

fn owned(names: List<'_, &str>) -> Vec<String> {
    names.iter().map(str::to_owned).collect()
}
