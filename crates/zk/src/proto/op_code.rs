//! What a request asks for (`ZooDefs.OpCode`).

macro_rules! op_codes {
    ($($(#[$meta:meta])* $name:ident = $code:literal,)*) => {
        /// What a request asks for; the `type` of a request header.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum OpCode { $($(#[$meta])* $name,)* }

        impl OpCode {
            /// All operations, in the order of their numbers where they have been given one.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The number on the wire.
            #[must_use]
            pub const fn code(self) -> i32 {
                match self { $(Self::$name => $code,)* }
            }

            /// The operation with this number.
            #[must_use]
            pub const fn from_code(code: i32) -> Option<Self> {
                match code { $($code => Some(Self::$name),)* _ => None }
            }
        }
    };
}

op_codes! {
    /// A watch event; only a server sends it, and with its own xid.
    Notification = 0,
    /// Creates a node, answered with its path.
    Create = 1,
    /// Deletes a node.
    Delete = 2,
    /// Reads a node's [`Stat`](super::stat::Stat), with a watch that also works while it is missing.
    Exists = 3,
    /// Reads a node's data and `Stat`.
    GetData = 4,
    /// Replaces a node's data.
    SetData = 5,
    /// Reads a node's access control list.
    GetAcl = 6,
    /// Replaces a node's access control list.
    SetAcl = 7,
    /// Lists a node's children.
    GetChildren = 8,
    /// Waits until this server has seen everything the leader had committed.
    Sync = 9,
    /// Keeps the session alive.
    Ping = 11,
    /// Lists a node's children, with its `Stat`.
    GetChildren2 = 12,
    /// Checks a node's version; only inside a multi.
    Check = 13,
    /// Several writes, all or nothing.
    Multi = 14,
    /// Creates a node, answered with its path and `Stat`.
    Create2 = 15,
    /// Changes the members of an ensemble.
    Reconfig = 16,
    /// Asks whether the server has a watch of this connection.
    CheckWatches = 17,
    /// Removes a watch of this connection.
    RemoveWatches = 18,
    /// Creates a container node.
    CreateContainer = 19,
    /// Deletes an empty container; servers among themselves.
    DeleteContainer = 20,
    /// Creates a node with a time to live.
    CreateTtl = 21,
    /// Several reads in one request.
    MultiRead = 22,
    /// Adds an identity to the connection.
    Auth = 100,
    /// Sets the one-shot watches of a new connection.
    SetWatches = 101,
    /// A step of a SASL exchange.
    Sasl = 102,
    /// Lists the paths of the session's ephemeral nodes.
    GetEphemerals = 103,
    /// Counts all nodes below a node.
    GetAllChildrenNumber = 104,
    /// Sets the watches of a new connection, persistent ones included.
    SetWatches2 = 105,
    /// Sets a persistent watch.
    AddWatch = 106,
    /// Reads the identities of the connection.
    WhoAmI = 107,
    /// Makes a session; servers among themselves and in logs.
    CreateSession = -10,
    /// Ends the session.
    CloseSession = -11,
    /// A failed write in a log, or a failed part of a multi.
    Error = -1,
}

/// The xid of a watch event.
pub const XID_NOTIFICATION: i32 = -1;
/// The xid of a ping and of its reply.
pub const XID_PING: i32 = -2;
/// The xid of an auth request and of its reply.
pub const XID_AUTH: i32 = -4;
/// The xid of setWatches and setWatches2 and of their replies.
pub const XID_SET_WATCHES: i32 = -8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_invertible() {
        for &op in OpCode::ALL {
            assert_eq!(OpCode::from_code(op.code()), Some(op));
        }
        assert_eq!(OpCode::from_code(10), None);
        assert_eq!(OpCode::from_code(999), None);
        assert_eq!(OpCode::ALL.len(), 33);
    }
}
