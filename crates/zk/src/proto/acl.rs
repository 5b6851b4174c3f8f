//! Access control lists: who may do what with a node.

use std::borrow::Cow;
use std::fmt;

use super::record;
use crate::jute::{Decode, DecodeError, Decoder, Encode, Encoder};

/// A set of rights (`ZooDefs.Perms`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Permissions(pub i32);

impl Permissions {
    /// Read data and list children.
    pub const READ: Self = Self(1);
    /// Set data.
    pub const WRITE: Self = Self(1 << 1);
    /// Create children.
    pub const CREATE: Self = Self(1 << 2);
    /// Delete children.
    pub const DELETE: Self = Self(1 << 3);
    /// Set the access control list.
    pub const ADMIN: Self = Self(1 << 4);
    /// Everything.
    pub const ALL: Self = Self(31);

    /// Whether every right of `other` is in this set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The rights of both sets.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// As zkCli writes them: `cdrwa`, without those that are missing.
impl fmt::Display for Permissions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letters = [
            (Self::CREATE, "c"),
            (Self::DELETE, "d"),
            (Self::READ, "r"),
            (Self::WRITE, "w"),
            (Self::ADMIN, "a"),
        ];
        for (right, letter) in letters {
            if self.contains(right) {
                formatter.write_str(letter)?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Permissions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Permissions({:#x} {self})", self.0)
    }
}

/// One entry of an access control list: an identity and its rights.
///
/// The schemes are `world` (id `anyone`), `auth` (whoever sends it), `digest`
/// (`user:base64(sha1(user:password))`), `ip` (`address` or `address/bits`), `super` and `x509`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Acl<'a> {
    /// What the identity may do.
    pub permissions: Permissions,
    /// How the identity is established.
    pub scheme: Cow<'a, str>,
    /// Who it is, in the scheme's words.
    pub id: Cow<'a, str>,
}

impl<'a> Acl<'a> {
    /// An entry.
    #[must_use]
    pub const fn new(permissions: Permissions, scheme: &'a str, id: &'a str) -> Self {
        Self {
            permissions,
            scheme: Cow::Borrowed(scheme),
            id: Cow::Borrowed(id),
        }
    }

    /// Everybody may do everything (`OPEN_ACL_UNSAFE`).
    pub const OPEN: &'static [Acl<'static>] = &[Acl::new(Permissions::ALL, "world", "anyone")];

    /// Everybody may read (`READ_ACL_UNSAFE`).
    pub const READ_ONLY: &'static [Acl<'static>] =
        &[Acl::new(Permissions::READ, "world", "anyone")];

    /// The connection's own identities may do everything (`CREATOR_ALL_ACL`).
    pub const CREATOR: &'static [Acl<'static>] = &[Acl::new(Permissions::ALL, "auth", "")];

    /// The same entry with strings of its own.
    #[must_use]
    pub fn into_owned(self) -> Acl<'static> {
        Acl {
            permissions: self.permissions,
            scheme: Cow::Owned(self.scheme.into_owned()),
            id: Cow::Owned(self.id.into_owned()),
        }
    }
}

impl<'a> Decode<'a> for Acl<'a> {
    fn decode(input: &mut Decoder<'a>) -> Result<Self, DecodeError> {
        // A null scheme or id is as invalid as an empty one, and the server's answer is the same.
        let permissions = Permissions(input.read()?);
        let scheme: Option<&str> = input.read()?;
        let id: Option<&str> = input.read()?;
        Ok(Self::new(
            permissions,
            scheme.unwrap_or_default(),
            id.unwrap_or_default(),
        ))
    }
}

impl Encode for Acl<'_> {
    fn encode(&self, output: &mut Encoder) {
        output.write(&self.permissions.0);
        output.write(&&*self.scheme);
        output.write(&&*self.id);
    }
}

record! {
    /// An identity of a connection, as whoAmI tells it.
    pub struct ClientInfo<'a> {
        /// How the identity was established.
        pub scheme: &'a str,
        /// Who it is: for `digest` the user without the hash, for `ip` the address.
        pub user: Option<&'a str>,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_print_as_zkcli_does() {
        assert_eq!(Permissions::ALL.to_string(), "cdrwa");
        assert_eq!(
            Permissions::READ.union(Permissions::ADMIN).to_string(),
            "ra"
        );
        assert_eq!(Permissions(0).to_string(), "");
        assert!(Permissions::ALL.contains(Permissions::DELETE));
        assert!(!Permissions::READ.contains(Permissions::ALL));
    }

    #[test]
    fn null_strings_read_as_empty() {
        let mut bytes = vec![0, 0, 0, 31];
        bytes.extend_from_slice(&[0xff; 8]);
        assert_eq!(
            Decoder::new(&bytes).read(),
            Ok(Acl::new(Permissions::ALL, "", ""))
        );
    }
}
