//! Leaving without losing a request: how an instance and the gateways that use it agree that it may stop.
//!
//! The protocol is ours and lives in the registry, with paths relative to the client's chroot:
//!
//! - Each gateway, or other consumer that wants to be waited for, announces itself by an ephemeral node
//!   `/livegate/gateways/ID`. Its data is JSON: `{"version":"0.1.0","host":"gw-1","pid":4711}`.
//! - An instance that wants to leave creates the container `/livegate/drains/NAME`, where NAME is the path
//!   of its node, percent-encoded, and the data is the transaction that created that node (`czxid`), in
//!   decimal. Then it sets `payload.metadata.state` in its node to `draining`.
//! - A gateway that sees this sends the instance no new requests, and when none of its own is in flight
//!   there any more, it creates the ephemeral node `/livegate/drains/NAME/ID` with the same data. A gateway
//!   that does not use the instance does so at once.
//! - The instance waits until every gateway that was announced when it began, and still is, has done so;
//!   one whose announcement is missing for a second is gone. When no gateway is announced it waits a
//!   second, for readers of other kinds. Then it deletes its node, and what is in `/livegate/drains`.
//!
//! A drain counts for one incarnation only: when the instance has registered again, its node has another
//! czxid. Drains that nobody finished (the instance was killed meanwhile) are cleaned up by the gateways,
//! and by the instance's next incarnation when it drains itself.
//!
//! [`Registration::drain`](crate::registrar::Registration::drain) is the instance's side, [`DrainBoard`] is
//! the gateway's, and that of [clients](crate::finder::Finder::acknowledge_drains) that want to be waited for.

mod board;
mod ledger;
mod outgoing;

use std::fmt;
use std::sync::Arc;

use livegate_zk::path::{self, PathError};

use crate::snapshot::InstanceState;
use crate::view::{EndpointState, Member, Reason, View};
pub use board::{Announcement, DrainBoard};
pub(crate) use outgoing::Outgoing;

/// The parent of the announcements of gateways.
pub const GATEWAYS: &str = "/livegate/gateways";

/// The parent of the drains.
pub const DRAINS: &str = "/livegate/drains";

/// The path of an instance's node, relative to the client's chroot. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstancePath(Arc<str>);

/// An instance wants to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainRequest {
    /// The transaction that created the instance's node: which incarnation wants to leave. One that is
    /// registered with another czxid does not.
    pub czxid: i64,
}

impl InstancePath {
    /// A path from its text.
    ///
    /// # Errors
    /// When it is not the path of a node.
    pub fn new(path: &str) -> Result<Self, PathError> {
        path::validate(path)?;
        Ok(Self(path.into()))
    }

    pub(crate) const fn new_valid(path: Arc<str>) -> Self {
        Self(path)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of its drain.
    pub(crate) fn to_name(&self) -> String {
        use fmt::Write as _;
        let mut name = String::with_capacity(self.0.len() + 16);
        for byte in self.0.bytes() {
            // The unreserved characters of RFC 3986, section 2.3.
            if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
                name.push(char::from(byte));
            } else {
                write!(name, "%{byte:02X}").expect("text takes everything");
            }
        }
        name
    }

    /// The path whose drain has this name. `None` when it is not written as [`to_name`](Self::to_name)
    /// does: two names for one path would be two drains.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        let mut bytes = Vec::with_capacity(name.len());
        let mut rest = name.bytes();
        while let Some(byte) = rest.next() {
            if byte == b'%' {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                let value = digit()? * 16 + digit()?;
                bytes.push(u8::try_from(value).ok()?);
            } else {
                bytes.push(byte);
            }
        }
        let path = Self::new(std::str::from_utf8(&bytes).ok()?).ok()?;
        (path.to_name() == name).then_some(path)
    }
}

impl fmt::Display for InstancePath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.0)
    }
}

impl std::borrow::Borrow<str> for InstancePath {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Whether a balancer has let go of an instance that wants to leave, by its latest view: it knows that the
/// instance does, and no request of its own is in flight there; or it does not know this instance. `false` may be
/// because the balancer has not heard of it yet.
#[must_use]
pub fn has_let_go(view: &View, path: &InstancePath, request: DrainRequest) -> bool {
    let name = path::name(path.as_str());
    // A former incarnation at the same address: the view is from before the one that leaves.
    let concerns = |member: &&Member| {
        let czxid = member.instance.incarnation.czxid;
        czxid == request.czxid || czxid < request.czxid && member.instance.id.as_str() == name
    };
    // The registry has said so, or whoever operates the gateway.
    let leaves = |member: &Member| {
        let is_drained = |reason: &Reason| reason.state == EndpointState::Draining;
        member.instance.state != InstanceState::Up || member.reasons.iter().any(is_drained)
    };
    let mut members = view.members().iter().filter(concerns);
    members.all(|member| leaves(member) && member.endpoint.is_idle())
}

/// The czxid in the data of a drain or of an acknowledgement.
fn czxid_in(data: &[u8]) -> Option<i64> {
    std::str::from_utf8(data).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_of_drains() {
        let path = InstancePath::new("/services/orders/[::1]:80").unwrap();
        let name = "%2Fservices%2Forders%2F%5B%3A%3A1%5D%3A80";
        assert_eq!(path.to_name(), name);
        assert_eq!(InstancePath::from_name(name), Some(path));
        for name in [
            "", "a", "%2f", "/a", "%2Fa%", "%2Fa%2", "%2F%61", "%2Fa%2F", "%2F%FF", "%2F%+1",
            "%2F..",
        ] {
            assert_eq!(InstancePath::from_name(name), None, "{name}");
        }
        assert_eq!(czxid_in(b"42"), Some(42));
        assert_eq!(czxid_in(b"42 "), None);
        assert_eq!(czxid_in(b"\xff"), None);
    }

    proptest! {
        #[test]
        fn every_path_has_one_name(path in "(/[a-z%:.é\\[ ]{1,6}){1,4}") {
            if let Ok(path) = InstancePath::new(&path) {
                let name = path.to_name();
                prop_assert!(livegate_zk::path::validate(&path::join(DRAINS, &name)).is_ok());
                prop_assert!(!name.contains('/'));
                prop_assert_eq!(InstancePath::from_name(&name), Some(path));
            }
        }

        #[test]
        fn foreign_names_never_panic(name in ".{0,20}") {
            drop(InstancePath::from_name(&name));
        }
    }
}
