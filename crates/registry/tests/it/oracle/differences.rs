//! Where the registry is allowed to differ from Apache ZooKeeper 3.8, and why. Nothing else may.
//!
//! Not sent at all:
//!
//! - Two watches of different kinds by one connection on one path. ZooKeeper 3.8 keeps one mode for both:
//!   a one-shot watch turns a persistent one into a one-shot one (ZOOKEEPER-4466, mended in 3.9).
//! - Operations 20 (deleteContainer) and -10 (createSession), which servers send to themselves.

use super::step::Request;

/// Whether a request is one of those.
pub(crate) fn is_not_sent(_request: &Request) -> bool {
    false
}
