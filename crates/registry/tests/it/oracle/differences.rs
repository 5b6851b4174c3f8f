//! Where the registry is allowed to differ from Apache ZooKeeper 3.8, and why. Nothing else may.
//!
//! Not looked at:
//!
//! - What becomes of the connection of a session that somebody else claims with a wrong password.
//!   ZooKeeper 3.8 closes it before it looks at the password, so that anybody who knows a session's id can
//!   disconnect it; the registry looks first.
//! - The zxids that the registry leaves out each time it starts, so that it can never give one twice, not even
//!   after losing its directory. ZooKeeper alone counts on.
//! - `zk_approximate_data_size`, for which ZooKeeper counts the characters of paths and the registry their
//!   bytes.
//!
//! Not sent at all:
//!
//! - Two watches of different kinds by one connection on one path. ZooKeeper 3.8 keeps one mode for both:
//!   a one-shot watch turns a persistent one into a one-shot one (ZOOKEEPER-4466, mended in 3.9).
//! - A multi with a create that has the flags of a time to live and none, while more requests are under way.
//!   ZooKeeper refuses it as one that it cannot read, and forgets to take back what its other parts have
//!   prepared: until its end is processed, later requests find nodes that never were.
//! - setACL while more requests are under way: ZooKeeper checks those that follow against the list as it was,
//!   until the new one is applied; the registry against the new one.
//! - A SASL token that is null, on which ZooKeeper closes the connection; the registry, which has no SASL either
//!   way, answers as to any other token.
//! - Operations 20 (deleteContainer) and -10 (createSession), which servers send to themselves.
//! - Operation 13 (check) outside a multi: ZooKeeper answers one that fails and never one that holds; the
//!   registry answers both.
//! - checkWatches: ZooKeeper 3.8 says yes when anybody watches the path; the registry, like later versions,
//!   when the caller does.
//! - Anything but quotas in the nodes of quotas: a ZooKeeper that cannot read the numbers in
//!   `zookeeper_stats` ends at the next write below that quota's path.
//! - Paths with characters beyond U+FFFF in what is answered with the path: ZooKeeper sends surrogates,
//!   which are not UTF-8. No node can have such a path.
//! - Texts with bytes that are not UTF-8: ZooKeeper takes U+FFFD for them, which no path may have; the
//!   registry refuses the request as one that it cannot read.
//! - IPv6 networks in access control lists, which ZooKeeper 3.8 refuses and the registry takes.
//! - setWatches with a made-up zxid that the registry has passed and ZooKeeper has not: one counts from the
//!   time, the other from nothing.
//! - createTTL with the flags of another kind and a negative time to live, on which ZooKeeper's server
//!   fails when everything else is right; for the registry that is a bad argument.

use livegate_zk::jute::Decoder;
use livegate_zk::proto::op_code::OpCode;
use livegate_zk::proto::request::CreateTtl;

use super::step::Request;

/// Whether a request is one of those.
pub(crate) fn is_not_sent(request: &Request) -> bool {
    match OpCode::from_code(request.op_code) {
        Some(OpCode::Check | OpCode::CheckWatches) => true,
        Some(OpCode::Sasl) => request.body.starts_with(&(-1_i32).to_be_bytes()),
        Some(OpCode::SetWatches | OpCode::SetWatches2) => {
            const BEYOND_BOTH: i64 = i64::MAX - u32::MAX as i64;
            let zxid = request.body.first_chunk().copied().map(i64::from_be_bytes);
            request.transactions_ago.is_none()
                && zxid.is_some_and(|zxid| (1..BEYOND_BOTH).contains(&zxid))
        }
        Some(OpCode::CreateTtl) => Decoder::new(&request.body)
            .read::<CreateTtl<'_>>()
            .is_ok_and(|body| !matches!(body.flags, 5 | 6) && body.ttl_ms < 0),
        _ => false,
    }
}
