//! What a server tells about a node besides its data.

use super::record;

record! {
    /// A node's bookkeeping, 68 bytes on the wire.
    pub struct Stat {
        /// Transaction that created the node.
        pub czxid: i64,
        /// Transaction that last set its data.
        pub mzxid: i64,
        /// When it was created, in milliseconds since 1970 by the server's clock.
        pub ctime: i64,
        /// When its data was last set, in milliseconds since 1970 by the server's clock.
        pub mtime: i64,
        /// How often its data was set.
        pub version: i32,
        /// How often its children changed.
        pub cversion: i32,
        /// How often its access control list was set.
        pub aversion: i32,
        /// The session that owns it if it is ephemeral, otherwise 0.
        pub ephemeral_owner: i64,
        /// Bytes of data.
        pub data_length: i32,
        /// Number of children.
        pub num_children: i32,
        /// Transaction that last created or deleted a child.
        pub pzxid: i64,
    }
}

impl Stat {
    /// Bytes of an encoded `Stat`.
    pub const ENCODED_BYTES: usize = 68;
}
