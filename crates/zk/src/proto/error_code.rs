//! Errors a server answers with (`KeeperException.Code`).

macro_rules! error_codes {
    ($($(#[$meta:meta])* $name:ident = $code:literal, $text:literal;)*) => {
        /// The error of a reply. Success (0) is not one of them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
        pub enum ErrorCode {
            $($(#[$meta])* #[error($text)] $name,)*
            /// A code this version does not know.
            #[error("error code {0}")]
            Other(i32),
        }

        impl ErrorCode {
            /// Every error that has a name.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The number on the wire.
            #[must_use]
            pub const fn code(self) -> i32 {
                match self { $(Self::$name => $code,)* Self::Other(code) => code }
            }

            /// The error with this number; `None` for 0, which is success.
            #[must_use]
            pub const fn from_code(code: i32) -> Option<Self> {
                match code { 0 => None, $($code => Some(Self::$name),)* other => Some(Self::Other(other)) }
            }
        }
    };
}

error_codes! {
    /// Anything that has no better name.
    SystemError = -1, "system error";
    /// In a multi: this operation came after the one that failed.
    RuntimeInconsistency = -2, "not tried, because an earlier operation failed";
    /// The server's state contradicts itself.
    DataInconsistency = -3, "data inconsistency";
    /// The connection was lost; clients report it, servers do not send it.
    ConnectionLoss = -4, "connection lost";
    /// The request could not be decoded.
    MarshallingError = -5, "request could not be decoded";
    /// The operation is unknown, or switched off.
    Unimplemented = -6, "operation not supported by this server";
    /// Clients report it, servers do not send it.
    OperationTimeout = -7, "operation timed out";
    /// An argument makes no sense, for instance an invalid path.
    BadArguments = -8, "bad arguments";
    /// The session is unknown.
    UnknownSession = -12, "unknown session";
    /// The proposed members have no quorum.
    NewConfigNoQuorum = -13, "no quorum of the new configuration is connected and up to date";
    /// Another reconfiguration runs.
    ReconfigInProgress = -14, "another reconfiguration is in progress";
    /// Lower bound of the errors that concern the arguments; not sent by itself.
    ApiError = -100, "api error";
    /// There is no such node.
    NoNode = -101, "no node";
    /// The node's access control list does not allow it.
    NoAuth = -102, "not authorized";
    /// The expected version is not the node's.
    BadVersion = -103, "version differs";
    /// The parent is ephemeral.
    NoChildrenForEphemerals = -108, "ephemeral nodes cannot have children";
    /// The node is there already.
    NodeExists = -110, "node exists";
    /// The node has children.
    NotEmpty = -111, "node has children";
    /// The session is over.
    SessionExpired = -112, "session expired";
    /// Clients report it, servers do not send it.
    InvalidCallback = -113, "invalid callback";
    /// The access control list is empty or has an invalid entry.
    InvalidAcl = -114, "invalid access control list";
    /// The identity was refused.
    AuthFailed = -115, "authentication failed";
    /// The session is attached to another server by now.
    SessionMoved = -118, "session moved to another connection";
    /// A write was sent to a read-only server.
    NotReadOnly = -119, "server is read-only";
    /// Local sessions cannot own ephemeral nodes.
    EphemeralOnLocalSession = -120, "local sessions cannot own ephemeral nodes";
    /// The connection has no such watch.
    NoWatcher = -121, "no such watch";
    /// The server did not finish in time.
    RequestTimeout = -122, "request timed out on the server";
    /// Reconfiguration is switched off.
    ReconfigDisabled = -123, "reconfiguration is disabled";
    /// The server wants SASL and closed the session.
    SessionClosedRequireSasl = -124, "session closed: the server requires SASL authentication";
    /// A quota would be exceeded.
    QuotaExceeded = -125, "quota exceeded";
    /// The server is overloaded and did not try.
    Throttled = -127, "server is overloaded, try again later";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_invertible() {
        for &error in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_code(error.code()), Some(error));
        }
        assert_eq!(ErrorCode::from_code(0), None);
        assert_eq!(ErrorCode::from_code(-9), Some(ErrorCode::Other(-9)));
        assert_eq!(ErrorCode::Other(-9).code(), -9);
    }
}
