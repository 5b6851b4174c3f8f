//! Who may do what: access control lists, and the identities they are held against.
//!
//! Nodes share their lists: each different list is kept once and known by a number.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use livegate_zk::jute::{Encoder, List};
use livegate_zk::proto::acl::{Acl, Permissions};
use livegate_zk::proto::error_code::ErrorCode;
use sha1::{Digest, Sha1};

/// The number of a list that some node has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AclId(u32);

impl AclId {
    /// Everybody may do everything; by far the most common.
    pub(crate) const OPEN: Self = Self(0);
}

/// Every different list, with the number of nodes that have it.
#[derive(Debug)]
pub(crate) struct AclTable {
    lists: Vec<Entry>,
    /// By the lists' encoding.
    numbers: HashMap<Box<[u8]>, u32>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Entry {
    list: Box<[Acl<'static>]>,
    nodes: usize,
}

impl AclTable {
    pub(crate) fn new() -> Self {
        Self {
            lists: vec![Entry {
                list: Acl::OPEN.into(),
                nodes: 0,
            }],
            numbers: HashMap::new(),
            free: Vec::new(),
        }
    }

    /// The number of a list, which one node more has now.
    pub(crate) fn intern(&mut self, list: &[Acl<'_>]) -> AclId {
        if list == Acl::OPEN {
            return AclId::OPEN;
        }
        let key = encoded(list);
        if let Some(&number) = self.numbers.get(&*key) {
            self.lists[number as usize].nodes += 1;
            return AclId(number);
        }
        let list = list.iter().cloned().map(Acl::into_owned).collect();
        let entry = Entry { list, nodes: 1 };
        let number = match self.free.pop() {
            Some(number) => {
                self.lists[number as usize] = entry;
                number
            }
            None => {
                self.lists.push(entry);
                u32::try_from(self.lists.len() - 1).expect("no more lists than nodes")
            }
        };
        self.numbers.insert(key.into(), number);
        AclId(number)
    }

    /// One node less has the list.
    pub(crate) fn release(&mut self, id: AclId) {
        if id == AclId::OPEN {
            return;
        }
        let entry = &mut self.lists[id.0 as usize];
        entry.nodes -= 1;
        if entry.nodes == 0 {
            self.numbers.remove(&*encoded(&entry.list));
            entry.list = Box::default();
            self.free.push(id.0);
        }
    }

    pub(crate) fn get(&self, id: AclId) -> &[Acl<'static>] {
        &self.lists[id.0 as usize].list
    }
}

fn encoded(list: &[Acl<'_>]) -> Vec<u8> {
    let mut output = Encoder::default();
    output.write(&List::new(list));
    output.into_bytes()
}

/// Who a connection is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) scheme: Cow<'static, str>,
    pub(crate) id: String,
}

impl Identity {
    /// What every connection has: its address.
    pub(crate) fn address(address: IpAddr) -> Self {
        Self {
            scheme: Cow::Borrowed("ip"),
            id: address.to_canonical().to_string(),
        }
    }

    /// The name without secrets, as whoAmI tells it.
    pub(crate) fn user(&self) -> &str {
        match &*self.scheme {
            "digest" => self.id.split(':').next().unwrap_or_default(),
            "ip" => &self.id,
            _ => "",
        }
    }
}

/// The identities that a claim proves; `None` when the scheme is unknown, or the claim is missing where
/// there is something to prove.
pub(crate) fn authenticate(
    scheme: &str,
    auth: Option<&[u8]>,
    address: IpAddr,
    super_digest: Option<&str>,
) -> Option<Vec<Identity>> {
    match scheme {
        "ip" => Some(vec![Identity::address(address)]),
        "digest" => {
            let id = digest_of(&String::from_utf8_lossy(auth?));
            let mut identities = Vec::with_capacity(2);
            if super_digest == Some(&*id) {
                identities.push(Identity {
                    scheme: Cow::Borrowed("super"),
                    id: String::new(),
                });
            }
            identities.push(Identity {
                scheme: Cow::Borrowed("digest"),
                id,
            });
            Some(identities)
        }
        _ => None,
    }
}

/// `user:base64(sha1(user:password))`.
pub(crate) fn digest_of(user_and_password: &str) -> String {
    let user = user_and_password.split(':').next().unwrap_or_default();
    let hash = BASE64.encode(Sha1::digest(user_and_password.as_bytes()));
    format!("{user}:{hash}")
}

/// Whether one of the identities has one of the rights.
pub(crate) fn allows(list: &[Acl<'_>], rights: Permissions, identities: &[Identity]) -> bool {
    if list == Acl::OPEN || list.is_empty() {
        return true;
    }
    identities.iter().any(|identity| identity.scheme == "super")
        || list
            .iter()
            .filter(|acl| acl.permissions.0 & rights.0 != 0)
            .any(|acl| match &*acl.scheme {
                "world" => acl.id == "anyone",
                "digest" => is_known(identities, "digest", |id| id == acl.id),
                "ip" => is_known(identities, "ip", |id| address_matches(id, &acl.id)),
                _ => false,
            })
}

fn is_known(identities: &[Identity], scheme: &str, matches: impl Fn(&str) -> bool) -> bool {
    identities
        .iter()
        .any(|identity| identity.scheme == scheme && matches(&identity.id))
}

/// Entries that a list may have before `auth` is replaced. Nobody can read more, and each access would
/// have to.
const ENTRIES_MAX: usize = 1000;

/// A list as it is to be kept: without doubles, checked, and with the caller's identities in place of
/// `auth`.
pub(crate) fn resolve<'a>(
    list: List<'a, Acl<'a>>,
    identities: &[Identity],
) -> Result<Cow<'a, [Acl<'a>]>, ErrorCode> {
    if list.len() == 1 && list.iter().eq(Acl::OPEN.iter().cloned()) {
        return Ok(Cow::Borrowed(Acl::OPEN));
    }
    if list.len() > ENTRIES_MAX {
        return Err(ErrorCode::InvalidAcl);
    }
    let mut resolved: Vec<Acl<'a>> = Vec::new();
    let mut given: HashSet<Acl<'a>> = HashSet::new();
    for acl in &list {
        if !given.insert(acl.clone()) {
            continue;
        }
        match &*acl.scheme {
            "world" if acl.id == "anyone" => resolved.push(acl),
            "auth" => {
                let before = resolved.len();
                // An address alone proves nothing.
                let proven = identities
                    .iter()
                    .filter(|identity| identity.scheme == "digest");
                resolved.extend(proven.map(|identity| Acl {
                    permissions: acl.permissions,
                    scheme: identity.scheme.clone(),
                    id: Cow::Owned(identity.id.clone()),
                }));
                if resolved.len() == before {
                    return Err(ErrorCode::InvalidAcl);
                }
            }
            "digest" if is_digest(&acl.id) => resolved.push(acl),
            "ip" if parse_network(&acl.id).is_some() => resolved.push(acl),
            _ => return Err(ErrorCode::InvalidAcl),
        }
    }
    if resolved.is_empty() {
        return Err(ErrorCode::InvalidAcl);
    }
    Ok(Cow::Owned(resolved))
}

/// The list with hashes masked, for who may not change it.
pub(crate) fn masked(list: &[Acl<'static>]) -> Vec<Acl<'static>> {
    let mask = |acl: &Acl<'static>| match (&*acl.scheme, acl.id.split_once(':')) {
        ("digest", Some((user, _))) => Acl {
            id: Cow::Owned(format!("{user}:x")),
            ..acl.clone()
        },
        _ => acl.clone(),
    };
    list.iter().map(mask).collect()
}

/// `String.split(":")` of it has two parts: trailing empty ones do not count.
fn is_digest(id: &str) -> bool {
    id.trim_end_matches(':').split(':').count() == 2
}

/// An address and a number of leading bits: `10.0.0.0/8`, `::1`.
fn parse_network(text: &str) -> Option<(IpAddr, u32)> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (text, None),
    };
    let address = parse_address(address)?;
    let bits_max = if address.is_ipv4() { 32 } else { 128 };
    let bits = bits.map_or(Some(bits_max), |bits| bits.parse().ok())?;
    (bits <= bits_max).then_some((address, bits))
}

/// Java's parser takes leading zeros for nothing, where Rust's refuses them.
fn parse_address(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        return text.parse().ok();
    }
    let mut octets = [0; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        *octet = parts.next()?.parse().ok()?;
    }
    parts.next().is_none().then(|| IpAddr::from(octets))
}

fn address_matches(address: &str, network: &str) -> bool {
    let (Some(address), Some((network, bits))) = (parse_address(address), parse_network(network))
    else {
        return false;
    };
    match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => {
            let differing = u32::from(address) ^ u32::from(network);
            differing.leading_zeros() >= bits
        }
        (IpAddr::V6(address), IpAddr::V6(network)) => {
            let differing = u128::from(address) ^ u128::from(network);
            differing.leading_zeros() >= bits
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identities(pairs: &[(&'static str, &str)]) -> Vec<Identity> {
        let identity = |&(scheme, id): &(&'static str, &str)| Identity {
            scheme: Cow::Borrowed(scheme),
            id: id.to_owned(),
        };
        pairs.iter().map(identity).collect()
    }

    #[test]
    fn lists_are_kept_once() {
        let mut table = AclTable::new();
        assert_eq!(table.intern(Acl::OPEN), AclId::OPEN);
        let first = table.intern(Acl::READ_ONLY);
        assert_eq!(table.intern(Acl::READ_ONLY), first);
        table.release(first);
        assert_eq!(table.get(first), Acl::READ_ONLY);
        table.release(first);
        let other = [Acl::new(Permissions::ALL, "ip", "10.0.0.1")];
        assert_eq!(table.intern(&other), first, "the number is given again");
        assert_eq!(table.get(first), other);
    }

    #[test]
    fn digests_are_javas() {
        // The super digest of the oracle's README.
        assert_eq!(
            digest_of("super:test"),
            "super:D/InIHSb7yEEbrWz8b9l71RjZJU="
        );
        assert!(is_digest("a:b") && is_digest(":b") && is_digest("a:b:"));
        assert!(!is_digest("a") && !is_digest("a:") && !is_digest("a:b:c") && !is_digest(""));
    }

    #[test]
    fn rights() {
        let list = [
            Acl::new(Permissions::READ, "world", "anyone"),
            Acl::new(Permissions::ALL, "digest", "u:h"),
            Acl::new(Permissions::WRITE, "ip", "10.0.0.0/8"),
        ];
        let nobody = identities(&[("ip", "127.0.0.1")]);
        assert!(allows(&list, Permissions::READ, &nobody));
        assert!(!allows(&list, Permissions::WRITE, &nobody));
        let near = identities(&[("ip", "10.1.2.3")]);
        assert!(allows(&list, Permissions::WRITE, &near));
        assert!(!allows(&list, Permissions::ADMIN, &near));
        let user = identities(&[("ip", "127.0.0.1"), ("digest", "u:h")]);
        assert!(allows(&list, Permissions::ADMIN, &user));
        let root = identities(&[("super", "")]);
        assert!(allows(
            &[Acl::new(Permissions(0), "world", "anyone")],
            Permissions::ALL,
            &root
        ));
    }

    #[test]
    fn networks() {
        for (address, network, matches) in [
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3", "10.1.2.4", false),
            ("10.1.2.3", "10.1.2.4/29", true),
            ("10.1.2.3", "0.0.0.0/0", true),
            ("::1", "::1", true),
            ("::1", "::/0", true),
            ("::1", "0.0.0.0/0", false),
        ] {
            assert_eq!(
                address_matches(address, network),
                matches,
                "{address} {network}"
            );
        }
        for bad in [
            "",
            "10.0.0",
            "10.0.0.256",
            "10.0.0.1/33",
            "10.0.0.1/x",
            "::1/129",
            "a",
        ] {
            assert_eq!(parse_network(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_claim_without_a_credential_proves_only_the_address() {
        let address = IpAddr::from([127, 0, 0, 1]);
        let users = |scheme, auth| {
            let proven = authenticate(scheme, auth, address, None)?;
            Some(proven.iter().map(|who| who.user().to_owned()).collect())
        };
        let known = |user: &str| Some(vec![user.to_owned()]);
        assert_eq!(users("ip", None), known("127.0.0.1"));
        assert_eq!(users("digest", None), None);
        assert_eq!(users("digest", Some(b"")), known(""));
        assert_eq!(users("digest", Some(b"bob:secret")), known("bob"));
        assert_eq!(users("bogus", Some(b"x")), None);
    }

    #[test]
    fn auth_stands_for_what_was_proven() {
        let known = identities(&[("ip", "127.0.0.1"), ("digest", "a:1"), ("digest", "b:2")]);
        let auth = [Acl::new(Permissions::READ, "auth", "")];
        let resolved = resolve(List::new(&auth), &known).unwrap();
        assert_eq!(
            *resolved,
            [
                Acl::new(Permissions::READ, "digest", "a:1"),
                Acl::new(Permissions::READ, "digest", "b:2")
            ]
        );
        assert_eq!(
            resolve(List::new(&auth), &known[..1]),
            Err(ErrorCode::InvalidAcl)
        );
        assert_eq!(resolve(List::new(&[]), &known), Err(ErrorCode::InvalidAcl));
        let many: Vec<_> = (0..1001)
            .map(|rights| Acl::new(Permissions(rights), "world", "anyone"))
            .collect();
        assert!(resolve(List::new(&many[1..]), &known).is_ok());
        assert_eq!(
            resolve(List::new(&many), &known),
            Err(ErrorCode::InvalidAcl)
        );
        let bogus = [Acl::new(Permissions::READ, "bogus", "x")];
        assert_eq!(
            resolve(List::new(&bogus), &known),
            Err(ErrorCode::InvalidAcl)
        );
        assert_eq!(
            masked(
                &resolved
                    .iter()
                    .cloned()
                    .map(Acl::into_owned)
                    .collect::<Vec<_>>()
            )[0]
            .id,
            "a:x"
        );
    }
}
