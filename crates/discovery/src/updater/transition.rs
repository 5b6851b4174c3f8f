//! What changed for an instance, and why.

use std::time::Instant;

use crate::snapshot::InstanceId;

/// Something changed for an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// Whom it is about.
    pub instance: InstanceId,
    /// What happened, one lower-case word or two with an underscore, for programs: `joined`,
    /// `ejected`, `probation_passed`.
    pub kind: &'static str,
    /// Why, in words.
    pub cause: String,
    /// When.
    pub at: Instant,
}

/// A [`Transition`] that does not know yet to whom and when it happened.
#[derive(Debug)]
pub(crate) struct Change {
    kind: &'static str,
    cause: String,
}

impl Change {
    pub(crate) fn new(kind: &'static str, cause: impl Into<String>) -> Self {
        Self {
            kind,
            cause: cause.into(),
        }
    }

    pub(crate) fn of(self, instance: &InstanceId, at: Instant) -> Transition {
        Transition {
            instance: instance.clone(),
            kind: self.kind,
            cause: self.cause,
            at,
        }
    }
}
