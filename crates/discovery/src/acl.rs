//! Who may do what with the nodes that are written here.
//!
//! A client without an identity leaves everything open, for it could not keep anybody out but itself. One
//! with an identity keeps what it wrote: nobody else changes or replaces it, and everybody reads it, so that
//! gateways need no identity, or may have another one. Parents that are missing are made so that everybody
//! may add to them but not take away, like `/tmp`: services and gateways with different identities can
//! share a root that none of them owns. Whoever wants it stricter makes the parents beforehand; their lists
//! are not touched.

use livegate_zk::client::Client;
use livegate_zk::proto::acl::{Acl, Permissions};

const READ_AND_ADD: Permissions = Permissions::READ.union(Permissions::CREATE);

const OURS: &[Acl<'static>] = &[
    Acl::new(Permissions::ALL, "auth", ""),
    Acl::new(Permissions::READ, "world", "anyone"),
];
const ADDED_TO: &[Acl<'static>] = &[
    Acl::new(Permissions::ALL, "auth", ""),
    Acl::new(READ_AND_ADD, "world", "anyone"),
];
const EXCHANGED: &[Acl<'static>] = &[
    Acl::new(Permissions::ALL, "auth", ""),
    Acl::new(READ_AND_ADD.union(Permissions::DELETE), "world", "anyone"),
];

/// Of instances, and of the services that hold them: whoever may add an instance may have its traffic.
pub(crate) fn ours(client: &Client) -> &'static [Acl<'static>] {
    if client.has_identity() {
        OURS
    } else {
        Acl::OPEN
    }
}

/// Of parents that several identities put their own nodes into.
pub(crate) fn added_to(client: &Client) -> &'static [Acl<'static>] {
    if client.has_identity() {
        ADDED_TO
    } else {
        Acl::OPEN
    }
}

/// Of a drain: gateways put their acknowledgements into it and take them back, also those of a former
/// session, which are somebody else's by then.
pub(crate) fn exchanged(client: &Client) -> &'static [Acl<'static>] {
    if client.has_identity() {
        EXCHANGED
    } else {
        Acl::OPEN
    }
}
