//! Changes: what a write does, decided and complete, and as a record of the log.
//!
//! A record says what the change was, not what was asked for: which number a sequential node got, which
//! session ended. Applying the records in order to an older tree gives the tree of today. This is a format
//! of our own: no other program reads it.

use std::borrow::Cow;

use livegate_zk::jute::{DecodeError, Decoder, Encoder};
use livegate_zk::proto::acl::Acl;

use super::image::{ImageError, read_acl, read_owner, write_acl, write_owner};
use super::tree::Owner;

/// What a write does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change<'a> {
    /// The registry begins, with the secret that session passwords are made of.
    Genesis {
        secret: &'a [u8],
    },
    /// Nothing but that there were transactions up to here.
    Epoch,
    /// A session begins, or another timeout holds for it.
    OpenSession {
        session: i64,
        timeout_ms: i32,
    },
    /// A session ends, and its nodes with it.
    CloseSession {
        session: i64,
    },
    Create {
        path: Cow<'a, str>,
        data: Option<&'a [u8]>,
        acl: Cow<'a, [Acl<'a>]>,
        owner: Owner,
    },
    Delete {
        path: Cow<'a, str>,
    },
    SetData {
        path: Cow<'a, str>,
        data: Option<&'a [u8]>,
        version: i32,
    },
    SetAcl {
        path: Cow<'a, str>,
        acl: Cow<'a, [Acl<'a>]>,
        version: i32,
    },
    /// A version was as expected: part of a multi, and no change.
    Check,
}

/// A record of the log: the parts of one transaction.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub(crate) zxid: i64,
    /// Milliseconds since 1970.
    pub(crate) time: i64,
    pub(crate) changes: Vec<Change<'a>>,
}

/// Why bytes are not a record.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    #[error("a record cannot be decoded: {0}")]
    Decode(#[from] DecodeError),
    #[error("a record cannot be decoded: {0}")]
    Image(#[from] ImageError),
    #[error("a record holds a change of kind {0}")]
    Kind(i32),
}

/// Replaces `output` by the record of these changes.
pub(crate) fn encode(output: &mut Vec<u8>, zxid: i64, time: i64, changes: &[Change<'_>]) {
    output.clear();
    let mut encoder = Encoder::new(std::mem::take(output));
    encoder.write(&zxid);
    encoder.write(&time);
    for change in changes {
        write(&mut encoder, change);
    }
    *output = encoder.into_bytes();
}

fn write(output: &mut Encoder, change: &Change<'_>) {
    match change {
        Change::Check => {}
        Change::Genesis { secret } => {
            output.write(&1);
            output.write(&Some(*secret));
        }
        Change::Epoch => output.write(&2),
        Change::OpenSession {
            session,
            timeout_ms,
        } => {
            output.write(&3);
            output.write(session);
            output.write(timeout_ms);
        }
        Change::CloseSession { session } => {
            output.write(&4);
            output.write(session);
        }
        Change::Create {
            path,
            data,
            acl,
            owner,
        } => {
            output.write(&5);
            output.write(&&**path);
            output.write(data);
            write_acl(output, acl);
            write_owner(output, *owner);
        }
        Change::Delete { path } => {
            output.write(&6);
            output.write(&&**path);
        }
        Change::SetData {
            path,
            data,
            version,
        } => {
            output.write(&7);
            output.write(&&**path);
            output.write(data);
            output.write(version);
        }
        Change::SetAcl { path, acl, version } => {
            output.write(&8);
            output.write(&&**path);
            write_acl(output, acl);
            output.write(version);
        }
    }
}

/// Reads a record.
pub(crate) fn decode(record: &[u8]) -> Result<Record<'_>, RecordError> {
    let mut input = Decoder::new(record);
    let (zxid, time) = (input.read()?, input.read()?);
    let mut changes = Vec::new();
    while !input.remaining().is_empty() {
        changes.push(read(&mut input)?);
    }
    Ok(Record {
        zxid,
        time,
        changes,
    })
}

fn read<'a>(input: &mut Decoder<'a>) -> Result<Change<'a>, RecordError> {
    let path = |input: &mut Decoder<'a>| input.read::<&str>().map(Cow::Borrowed);
    Ok(match input.read()? {
        1 => Change::Genesis {
            secret: input.read::<Option<&[u8]>>()?.unwrap_or_default(),
        },
        2 => Change::Epoch,
        3 => Change::OpenSession {
            session: input.read()?,
            timeout_ms: input.read()?,
        },
        4 => Change::CloseSession {
            session: input.read()?,
        },
        5 => Change::Create {
            path: path(input)?,
            data: input.read()?,
            acl: read_acl(input)?,
            owner: read_owner(input)?,
        },
        6 => Change::Delete { path: path(input)? },
        7 => Change::SetData {
            path: path(input)?,
            data: input.read()?,
            version: input.read()?,
        },
        8 => Change::SetAcl {
            path: path(input)?,
            acl: read_acl(input)?,
            version: input.read()?,
        },
        kind => return Err(RecordError::Kind(kind)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back() {
        let changes = [
            Change::Genesis { secret: b"secret" },
            Change::Epoch,
            Change::OpenSession {
                session: -5,
                timeout_ms: 4000,
            },
            Change::Create {
                path: "/a".into(),
                data: None,
                acl: Acl::OPEN.into(),
                owner: Owner::Session(-5),
            },
            Change::Create {
                path: "/b".into(),
                data: Some(b""),
                acl: Acl::READ_ONLY.into(),
                owner: Owner::Ttl(7),
            },
            Change::SetData {
                path: "/b".into(),
                data: Some(b"x"),
                version: 1,
            },
            Change::SetAcl {
                path: "/b".into(),
                acl: Acl::OPEN.into(),
                version: 1,
            },
            Change::Delete { path: "/b".into() },
            Change::CloseSession { session: -5 },
        ];
        let mut bytes = Vec::new();
        encode(&mut bytes, 7, 8, &changes);
        let record = decode(&bytes).unwrap();
        assert_eq!((record.zxid, record.time), (7, 8));
        assert_eq!(record.changes, changes);
        for end in 0..bytes.len() {
            if let Ok(record) = decode(&bytes[..end]) {
                assert!(record.changes.len() < changes.len());
            }
        }
    }
}
