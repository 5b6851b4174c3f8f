//! Several operations in one request.

use std::borrow::Cow;

use super::chroot::Chroot;
use super::error::Error;
use crate::jute::List;
use crate::path;
use crate::proto::acl::Acl;
use crate::proto::create_mode::CreateMode;
use crate::proto::error_code::ErrorCode;
use crate::proto::multi::{MultiReply, OpResult, ReadOp as ReadRecord, WriteOp};
use crate::proto::request::{Create, CreateTtl, PathVersion, PathWatch, SetData};
use crate::proto::stat::Stat;

/// A write of a multi.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op<'a> {
    /// Creates a node.
    Create {
        /// The node, or with a sequential mode what its name begins with.
        path: &'a str,
        /// Its data.
        data: &'a [u8],
        /// Its kind.
        mode: CreateMode,
        /// Who may do what.
        acl: &'a [Acl<'a>],
    },
    /// Deletes a node.
    Delete {
        /// The node.
        path: &'a str,
        /// The version it must have.
        version: Option<i32>,
    },
    /// Replaces a node's data.
    Set {
        /// The node.
        path: &'a str,
        /// Its new data.
        data: &'a [u8],
        /// The version it must have.
        version: Option<i32>,
    },
    /// Does nothing if a node is there with this version, and fails otherwise.
    Check {
        /// The node.
        path: &'a str,
        /// The version it must have.
        version: Option<i32>,
    },
}

/// What a write of a multi did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpOutcome {
    /// A node was created.
    Created {
        /// With the sequence number.
        path: String,
        /// Its state, if the server tells: Apache ZooKeeper does for containers and for nodes with a
        /// time to live only.
        stat: Option<Stat>,
    },
    /// The node was deleted.
    Deleted,
    /// The data was replaced.
    Set(Stat),
    /// The node is there and has the version.
    Checked,
}

/// A read of a multi-read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadOp<'a> {
    /// Reads a node's data.
    Get(&'a str),
    /// Lists a node's children.
    Children(&'a str),
}

/// What a read of a multi-read found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadOutcome {
    /// The data and state of a node.
    Data(Vec<u8>, Stat),
    /// The names of the children of a node.
    Children(Vec<String>),
}

/// The wire's number for "any version".
pub(crate) fn wire_version(version: Option<i32>) -> i32 {
    version.unwrap_or(-1)
}

/// The path of a node to be created, as the server knows it.
pub(crate) fn server_path_to_create<'a>(
    chroot: &'a Chroot,
    path: &'a str,
    mode: CreateMode,
) -> Result<Cow<'a, str>, Error> {
    if mode.is_sequential() {
        path::validate_sequential(path)?;
        Ok(chroot.to_server_sequential(path))
    } else {
        path::validate(path)?;
        Ok(chroot.to_server(path))
    }
}

/// The path of a node, as the server knows it.
pub(crate) fn server_path<'a>(chroot: &'a Chroot, path: &'a str) -> Result<Cow<'a, str>, Error> {
    path::validate(path)?;
    Ok(chroot.to_server(path))
}

/// The time to live in milliseconds; 0 for nodes without.
pub(crate) fn wire_ttl(mode: CreateMode) -> Result<i64, Error> {
    match mode.ttl() {
        None => Ok(0),
        Some(ttl) => {
            let ttl = i64::try_from(ttl.as_millis()).map_err(|_| Error::InvalidTtl)?;
            CreateMode::from_wire(mode.flags(), ttl)
                .map(|_| ttl)
                .ok_or(Error::InvalidTtl)
        }
    }
}

impl Op<'_> {
    pub(crate) fn server_path<'a>(&'a self, chroot: &'a Chroot) -> Result<Cow<'a, str>, Error> {
        match self {
            Self::Create { path, mode, .. } => server_path_to_create(chroot, path, *mode),
            Self::Delete { path, .. } | Self::Set { path, .. } | Self::Check { path, .. } => {
                server_path(chroot, path)
            }
        }
    }

    pub(crate) fn record<'a>(&'a self, path: &'a str) -> Result<WriteOp<'a>, Error> {
        Ok(match *self {
            Self::Create {
                data, mode, acl, ..
            } => {
                let (data, acl, flags) = (Some(data), List::new(acl), mode.flags());
                match mode {
                    CreateMode::PersistentTtl(_) | CreateMode::SequentialTtl(_) => {
                        let ttl_ms = wire_ttl(mode)?;
                        WriteOp::CreateTtl(CreateTtl {
                            path,
                            data,
                            acl,
                            flags,
                            ttl_ms,
                        })
                    }
                    CreateMode::Container => WriteOp::CreateContainer(Create {
                        path,
                        data,
                        acl,
                        flags,
                    }),
                    CreateMode::Persistent
                    | CreateMode::Ephemeral
                    | CreateMode::PersistentSequential
                    | CreateMode::EphemeralSequential => WriteOp::Create2(Create {
                        path,
                        data,
                        acl,
                        flags,
                    }),
                }
            }
            Self::Delete { version, .. } => WriteOp::Delete(PathVersion {
                path,
                version: wire_version(version),
            }),
            Self::Set { data, version, .. } => {
                let version = wire_version(version);
                WriteOp::SetData(SetData {
                    path,
                    data: Some(data),
                    version,
                })
            }
            Self::Check { version, .. } => WriteOp::Check(PathVersion {
                path,
                version: wire_version(version),
            }),
        })
    }

    fn outcome(&self, result: OpResult<'_>, chroot: &Chroot) -> Result<OpOutcome, Error> {
        match (self, result) {
            (Self::Create { .. }, OpResult::Create2(reply)) => Ok(OpOutcome::Created {
                path: chroot.to_client(reply.path).to_owned(),
                stat: Some(reply.stat),
            }),
            (Self::Create { .. }, OpResult::Create(reply)) => Ok(OpOutcome::Created {
                path: chroot.to_client(reply.path).to_owned(),
                stat: None,
            }),
            (Self::Delete { .. }, OpResult::Delete) => Ok(OpOutcome::Deleted),
            (Self::Set { .. }, OpResult::SetData(stat)) => Ok(OpOutcome::Set(stat)),
            (Self::Check { .. }, OpResult::Check) => Ok(OpOutcome::Checked),
            _ => Err(Error::UnexpectedReply),
        }
    }
}

/// What the writes did, or which one was refused.
pub(crate) fn write_outcomes(
    ops: &[Op<'_>],
    reply: &MultiReply<'_>,
    chroot: &Chroot,
) -> Result<Vec<OpOutcome>, Error> {
    let errors = reply
        .iter()
        .enumerate()
        .filter_map(|(index, result)| match result {
            OpResult::Error(code) => ErrorCode::from_code(code).map(|code| (index, code)),
            _ => None,
        });
    // Those after the one that failed say that they were not tried.
    let failed =
        errors.min_by_key(|(index, code)| (*code == ErrorCode::RuntimeInconsistency, *index));
    if let Some((index, code)) = failed {
        return Err(Error::Multi { index, code });
    }
    if reply.len() != ops.len() {
        return Err(Error::UnexpectedReply);
    }
    ops.iter()
        .zip(reply.iter())
        .map(|(op, result)| op.outcome(result, chroot))
        .collect()
}

impl<'a> ReadOp<'a> {
    pub(crate) fn path(self) -> &'a str {
        match self {
            Self::Get(path) | Self::Children(path) => path,
        }
    }

    pub(crate) fn record(self, path: &str) -> ReadRecord<'_> {
        let body = PathWatch { path, watch: false };
        match self {
            Self::Get(_) => ReadRecord::GetData(body),
            Self::Children(_) => ReadRecord::GetChildren(body),
        }
    }
}

/// What each read found.
pub(crate) fn read_outcomes(
    ops: &[ReadOp<'_>],
    reply: &MultiReply<'_>,
) -> Result<Vec<Result<ReadOutcome, ErrorCode>>, Error> {
    if reply.len() != ops.len() {
        return Err(Error::UnexpectedReply);
    }
    let outcome = |(op, result): (&ReadOp<'_>, OpResult<'_>)| match (op, result) {
        (ReadOp::Get(_), OpResult::GetData(reply)) => Ok(Ok(ReadOutcome::Data(
            reply.data.unwrap_or_default().to_vec(),
            reply.stat,
        ))),
        (ReadOp::Children(_), OpResult::GetChildren(reply)) => Ok(Ok(ReadOutcome::Children(
            reply.children.iter().map(str::to_owned).collect(),
        ))),
        (_, OpResult::Error(code)) => ErrorCode::from_code(code)
            .map(Err)
            .ok_or(Error::UnexpectedReply),
        _ => Err(Error::UnexpectedReply),
    };
    ops.iter().zip(reply.iter()).map(outcome).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::proto::reply::{ChildrenReply, DataReply};

    #[test]
    fn the_refused_write_is_named() {
        let op = Op::Delete {
            path: "/a",
            version: None,
        };
        let ops = [op; 3];
        let results = [
            OpResult::Error(0),
            OpResult::Error(ErrorCode::NoNode.code()),
            OpResult::Error(ErrorCode::RuntimeInconsistency.code()),
        ];
        let outcome = |results| write_outcomes(&ops, &MultiReply::new(results), &Chroot::default());
        assert_eq!(
            outcome(&results),
            Err(Error::Multi {
                index: 1,
                code: ErrorCode::NoNode
            })
        );
        let deleted = [OpResult::Delete, OpResult::Delete, OpResult::Delete];
        assert_eq!(outcome(&deleted), Ok(vec![OpOutcome::Deleted; 3]));
        assert_eq!(outcome(&deleted[..2]), Err(Error::UnexpectedReply));
        assert_eq!(
            outcome(&[OpResult::Delete, OpResult::Check, OpResult::Delete]),
            Err(Error::UnexpectedReply)
        );
    }

    #[test]
    fn reads_fail_one_by_one() {
        let ops = [ReadOp::Get("/a"), ReadOp::Get("/b"), ReadOp::Children("/a")];
        let stat = Stat::default();
        let results = [
            OpResult::GetData(DataReply {
                data: Some(b"x"),
                stat,
            }),
            OpResult::Error(ErrorCode::NoNode.code()),
            OpResult::GetChildren(ChildrenReply {
                children: List::new(&["c"]),
            }),
        ];
        assert_eq!(
            read_outcomes(&ops, &MultiReply::new(&results)),
            Ok(vec![
                Ok(ReadOutcome::Data(b"x".to_vec(), stat)),
                Err(ErrorCode::NoNode),
                Ok(ReadOutcome::Children(vec!["c".to_owned()])),
            ])
        );
    }

    #[test]
    fn times_to_live_are_checked_before_sending() {
        assert_eq!(wire_ttl(CreateMode::Persistent), Ok(0));
        assert_eq!(
            wire_ttl(CreateMode::PersistentTtl(Duration::from_secs(1))),
            Ok(1000)
        );
        assert_eq!(
            wire_ttl(CreateMode::PersistentTtl(Duration::ZERO)),
            Err(Error::InvalidTtl)
        );
        assert_eq!(
            wire_ttl(CreateMode::SequentialTtl(Duration::MAX)),
            Err(Error::InvalidTtl)
        );
    }
}
