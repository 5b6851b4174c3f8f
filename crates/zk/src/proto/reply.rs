//! Replies: the records and the enum of all of them.

use super::acl::{Acl, ClientInfo};
use super::multi::MultiReply;
use super::op_code::OpCode;
use super::record;
use super::session::Sasl;
use super::stat::Stat;
use crate::jute::{DecodeError, Decoder, Encode, Encoder, List};

record! {
    /// The path of a node (create, sync).
    pub struct PathReply<'a> {
        /// As created: with the sequence number.
        pub path: &'a str,
    }
}

record! {
    /// A node that was created (create2, createContainer, createTTL).
    pub struct CreateReply<'a> {
        /// As created: with the sequence number.
        pub path: &'a str,
        /// Its state.
        pub stat: Stat,
    }
}

record! {
    /// A node's data (getData, reconfig).
    pub struct DataReply<'a> {
        /// Null if it was created with null.
        pub data: Option<&'a [u8]>,
        /// Its state.
        pub stat: Stat,
    }
}

record! {
    /// A node's access control list.
    pub struct AclReply<'a> {
        /// Hashes are masked (`user:x`) for clients without the admin right.
        pub acl: List<'a, Acl<'a>>,
        /// Its state.
        pub stat: Stat,
    }
}

record! {
    /// Names of children.
    pub struct ChildrenReply<'a> {
        /// Without the parent's path, in no order.
        pub children: List<'a, &'a str>,
    }
}

record! {
    /// Names of children and the state of their parent.
    pub struct Children2Reply<'a> {
        /// Without the parent's path, in no order.
        pub children: List<'a, &'a str>,
        /// The parent's state.
        pub stat: Stat,
    }
}

/// The body of a reply whose header says success, by shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply<'a> {
    /// Nothing (delete, ping, checkWatches, removeWatches, auth, setWatches, closeSession).
    Empty,
    /// A path (create, sync).
    Path(PathReply<'a>),
    /// A path and a state (create2, createContainer, createTTL).
    Create(CreateReply<'a>),
    /// A state (exists, setData, setACL).
    Stat(Stat),
    /// Data and state (getData, reconfig).
    Data(DataReply<'a>),
    /// An access control list (getACL).
    Acl(AclReply<'a>),
    /// Names (getChildren).
    Children(ChildrenReply<'a>),
    /// Names and state (getChildren2).
    Children2(Children2Reply<'a>),
    /// Results (multi, multiRead).
    Multi(MultiReply<'a>),
    /// A token (sasl).
    Sasl(Sasl<'a>),
    /// Paths (getEphemerals).
    Ephemerals(List<'a, &'a str>),
    /// A number of nodes (getAllChildrenNumber).
    ChildrenNumber(i32),
    /// An error number, always 0 (addWatch).
    Error(i32),
    /// Identities (whoAmI).
    WhoAmI(List<'a, ClientInfo<'a>>),
}

impl<'a> Reply<'a> {
    /// Reads the body that follows a header without error, in reply to this operation.
    ///
    /// # Errors
    /// When the body is not the record that the operation is answered with.
    pub fn decode(op_code: OpCode, input: &mut Decoder<'a>) -> Result<Self, DecodeError> {
        Ok(match op_code {
            OpCode::Notification
            | OpCode::Delete
            | OpCode::Ping
            | OpCode::CheckWatches
            | OpCode::RemoveWatches
            | OpCode::DeleteContainer
            | OpCode::Auth
            | OpCode::SetWatches
            | OpCode::SetWatches2
            | OpCode::CreateSession
            | OpCode::CloseSession
            | OpCode::Error => Self::Empty,
            OpCode::Create | OpCode::Sync => Self::Path(input.read()?),
            OpCode::Create2 | OpCode::CreateContainer | OpCode::CreateTtl => {
                Self::Create(input.read()?)
            }
            // A lone check is not answered with success by any server; if it were, then like this.
            OpCode::Exists | OpCode::SetData | OpCode::SetAcl | OpCode::Check => {
                Self::Stat(input.read()?)
            }
            OpCode::GetData | OpCode::Reconfig => Self::Data(input.read()?),
            OpCode::GetAcl => Self::Acl(input.read()?),
            OpCode::GetChildren => Self::Children(input.read()?),
            OpCode::GetChildren2 => Self::Children2(input.read()?),
            OpCode::Multi | OpCode::MultiRead => Self::Multi(input.read()?),
            OpCode::Sasl => Self::Sasl(input.read()?),
            OpCode::GetEphemerals => Self::Ephemerals(input.read()?),
            OpCode::GetAllChildrenNumber => Self::ChildrenNumber(input.read()?),
            OpCode::AddWatch => Self::Error(input.read()?),
            OpCode::WhoAmI => Self::WhoAmI(input.read()?),
        })
    }
}

impl Encode for Reply<'_> {
    fn encode(&self, output: &mut Encoder) {
        match self {
            Self::Empty => {}
            Self::Path(body) => output.write(body),
            Self::Create(body) => output.write(body),
            Self::Stat(body) => output.write(body),
            Self::Data(body) => output.write(body),
            Self::Acl(body) => output.write(body),
            Self::Children(body) => output.write(body),
            Self::Children2(body) => output.write(body),
            Self::Multi(body) => output.write(body),
            Self::Sasl(body) => output.write(body),
            Self::Ephemerals(paths) => output.write(paths),
            Self::ChildrenNumber(number) | Self::Error(number) => output.write(number),
            Self::WhoAmI(identities) => output.write(identities),
        }
    }
}
