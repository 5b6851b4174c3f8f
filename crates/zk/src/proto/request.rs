//! Requests: the records and the enum of all of them.

use super::acl::Acl;
use super::multi::{MultiReadRequest, MultiRequest};
use super::op_code::OpCode;
use super::record;
use super::session::{Auth, Sasl};
use super::watch::{AddWatch, SetWatches, SetWatches2, WatchSelection};
use crate::jute::{Decode, DecodeError, Decoder, Encode, Encoder, List};

record! {
    /// Creates a node (create, create2, createContainer).
    pub struct Create<'a> {
        /// The node, or with a sequential mode what its name begins with.
        pub path: &'a str,
        /// Its data; null is kept apart from empty.
        pub data: Option<&'a [u8]>,
        /// Who may do what; a server refuses an empty list.
        pub acl: List<'a, Acl<'a>>,
        /// See [`CreateMode::flags`](super::create_mode::CreateMode::flags).
        pub flags: i32,
    }
}

record! {
    /// Creates a node with a time to live.
    pub struct CreateTtl<'a> {
        /// The node, or with a sequential mode what its name begins with.
        pub path: &'a str,
        /// Its data; null is kept apart from empty.
        pub data: Option<&'a [u8]>,
        /// Who may do what; a server refuses an empty list.
        pub acl: List<'a, Acl<'a>>,
        /// See [`CreateMode::flags`](super::create_mode::CreateMode::flags).
        pub flags: i32,
        /// Time to live in milliseconds.
        pub ttl_ms: i64,
    }
}

record! {
    /// A path and an expected version (delete, check).
    pub struct PathVersion<'a> {
        /// The node.
        pub path: &'a str,
        /// The version it must have; -1 for any.
        pub version: i32,
    }
}

record! {
    /// Reads something of a node and perhaps watches it (exists, getData, getChildren, getChildren2).
    pub struct PathWatch<'a> {
        /// The node.
        pub path: &'a str,
        /// Whether to set a one-shot watch.
        pub watch: bool,
    }
}

record! {
    /// A path alone (getACL, getAllChildrenNumber).
    pub struct PathOnly<'a> {
        /// The node.
        pub path: &'a str,
    }
}

record! {
    /// A path that may be missing: what paths begin with (getEphemerals), or anything at all (sync).
    pub struct PathPrefix<'a> {
        /// Null stands for any.
        pub prefix: Option<&'a str>,
    }
}

record! {
    /// Replaces a node's data.
    pub struct SetData<'a> {
        /// The node.
        pub path: &'a str,
        /// The new data; null is kept apart from empty.
        pub data: Option<&'a [u8]>,
        /// The version the node must have; -1 for any.
        pub version: i32,
    }
}

record! {
    /// Replaces a node's access control list.
    pub struct SetAcl<'a> {
        /// The node.
        pub path: &'a str,
        /// The new list.
        pub acl: List<'a, Acl<'a>>,
        /// The `aversion` the node must have; -1 for any.
        pub version: i32,
    }
}

record! {
    /// Changes the members of an ensemble.
    pub struct Reconfig<'a> {
        /// Members to add, comma-separated.
        pub joining: Option<&'a str>,
        /// Numbers of members to remove, comma-separated.
        pub leaving: Option<&'a str>,
        /// The members from now on, instead of the other two.
        pub members: Option<&'a str>,
        /// Version the current configuration must have; -1 for any.
        pub config_id: i64,
    }
}

macro_rules! requests {
    ($($(#[$meta:meta])* $name:ident($body:ty),)*) => {
        /// A request of a client, without its header. Each variant is named for its [`OpCode`].
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Request<'a> { $($(#[$meta])* $name($body),)* }

        impl<'a> Request<'a> {
            /// The operations that a client can ask for.
            pub const OP_CODES: &'static [OpCode] = &[$(OpCode::$name,)*];

            /// The operation.
            #[must_use]
            pub const fn op_code(&self) -> OpCode {
                match self { $(Self::$name(_) => OpCode::$name,)* }
            }

            /// Reads the body of a request for this operation. `None` for operations that no client
            /// can ask for, which are to be answered like unknown numbers.
            ///
            /// # Errors
            /// When the body is not the record that the operation takes.
            pub fn decode(op_code: OpCode, input: &mut Decoder<'a>) -> Result<Option<Self>, DecodeError> {
                match op_code {
                    $(OpCode::$name => Ok(Some(Self::$name(Decode::decode(input)?))),)*
                    OpCode::Notification
                    | OpCode::DeleteContainer
                    | OpCode::CreateSession
                    | OpCode::Error => Ok(None),
                }
            }
        }

        impl Encode for Request<'_> {
            fn encode(&self, output: &mut Encoder) {
                match self { $(Self::$name(body) => output.write(body),)* }
            }
        }

        #[cfg(test)]
        impl crate::sample::Sample for Request<'_> {
            fn sample(source: &mut fastrand::Rng) -> Self {
                let op_code = Self::OP_CODES[source.usize(..Self::OP_CODES.len())];
                match op_code {
                    $(OpCode::$name => Self::$name(crate::sample::Sample::sample(source)),)*
                    other => unreachable!("{other:?} is not in OP_CODES"),
                }
            }
        }
    };
}

requests! {
    /// Answered with a path.
    Create(Create<'a>),
    /// Answered with nothing.
    Delete(PathVersion<'a>),
    /// Answered with a `Stat`.
    Exists(PathWatch<'a>),
    /// Answered with data and `Stat`.
    GetData(PathWatch<'a>),
    /// Answered with a `Stat`.
    SetData(SetData<'a>),
    /// Answered with a list and a `Stat`.
    GetAcl(PathOnly<'a>),
    /// Answered with a `Stat`.
    SetAcl(SetAcl<'a>),
    /// Answered with names.
    GetChildren(PathWatch<'a>),
    /// Answered with the path.
    Sync(PathPrefix<'a>),
    /// Answered with nothing.
    Ping(()),
    /// Answered with names and a `Stat`.
    GetChildren2(PathWatch<'a>),
    /// Alone it is not implemented by any server.
    Check(PathVersion<'a>),
    /// Answered with a result for each part.
    Multi(MultiRequest<'a>),
    /// Answered with a path and a `Stat`.
    Create2(Create<'a>),
    /// Answered with data and `Stat` of the configuration.
    Reconfig(Reconfig<'a>),
    /// Answered with nothing.
    CheckWatches(WatchSelection<'a>),
    /// Answered with nothing.
    RemoveWatches(WatchSelection<'a>),
    /// Answered with a path and a `Stat`.
    CreateContainer(Create<'a>),
    /// Answered with a path and a `Stat`.
    CreateTtl(CreateTtl<'a>),
    /// Answered with a result for each part.
    MultiRead(MultiReadRequest<'a>),
    /// Answered with nothing.
    Auth(Auth<'a>),
    /// Answered with nothing.
    SetWatches(SetWatches<'a>),
    /// Answered with a token.
    Sasl(Sasl<'a>),
    /// Answered with paths.
    GetEphemerals(PathPrefix<'a>),
    /// Answered with a number.
    GetAllChildrenNumber(PathOnly<'a>),
    /// Answered with nothing.
    SetWatches2(SetWatches2<'a>),
    /// Answered with an error of 0.
    AddWatch(AddWatch<'a>),
    /// Answered with identities.
    WhoAmI(()),
    /// Answered with nothing, then the server closes.
    CloseSession(()),
}
