//! Kinds of nodes.

use std::time::Duration;

/// How a node is created: how its name is made and when it goes away (`CreateMode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CreateMode {
    /// Stays until it is deleted.
    #[default]
    Persistent,
    /// Goes away with the session that created it.
    Ephemeral,
    /// Persistent; the server appends ten digits that count up.
    PersistentSequential,
    /// Ephemeral; the server appends ten digits that count up.
    EphemeralSequential,
    /// Deleted by the server some time after its last child has gone.
    Container,
    /// Deleted by the server when it has no children and its data was not set for this long.
    PersistentTtl(Duration),
    /// The same, with ten digits appended that count up.
    SequentialTtl(Duration),
}

impl CreateMode {
    /// The longest time to live a server accepts: 2^40 - 1 ms, some 34 years (`EphemeralType.TTL`).
    pub const TTL_MAX: Duration = Duration::from_millis((1 << 40) - 1);

    /// The flags of a create request.
    #[must_use]
    pub const fn flags(self) -> i32 {
        match self {
            Self::Persistent => 0,
            Self::Ephemeral => 1,
            Self::PersistentSequential => 2,
            Self::EphemeralSequential => 3,
            Self::Container => 4,
            Self::PersistentTtl(_) => 5,
            Self::SequentialTtl(_) => 6,
        }
    }

    /// The mode with these flags and this time to live in milliseconds, which only flags 5 and 6 look
    /// at. `None` when the flags are unknown, or the time is not in 1 ms to [`Self::TTL_MAX`].
    #[must_use]
    pub fn from_wire(flags: i32, ttl_ms: i64) -> Option<Self> {
        let ttl = || {
            let ttl = Duration::from_millis(u64::try_from(ttl_ms).ok()?);
            (!ttl.is_zero() && ttl <= Self::TTL_MAX).then_some(ttl)
        };
        match flags {
            0 => Some(Self::Persistent),
            1 => Some(Self::Ephemeral),
            2 => Some(Self::PersistentSequential),
            3 => Some(Self::EphemeralSequential),
            4 => Some(Self::Container),
            5 => ttl().map(Self::PersistentTtl),
            6 => ttl().map(Self::SequentialTtl),
            _ => None,
        }
    }

    /// The time to live.
    #[must_use]
    pub const fn ttl(self) -> Option<Duration> {
        match self {
            Self::PersistentTtl(ttl) | Self::SequentialTtl(ttl) => Some(ttl),
            Self::Persistent
            | Self::Ephemeral
            | Self::PersistentSequential
            | Self::EphemeralSequential
            | Self::Container => None,
        }
    }

    /// Whether the node goes away with its session.
    #[must_use]
    pub const fn is_ephemeral(self) -> bool {
        matches!(self, Self::Ephemeral | Self::EphemeralSequential)
    }

    /// Whether the server appends a number to the name.
    #[must_use]
    pub const fn is_sequential(self) -> bool {
        matches!(
            self,
            Self::PersistentSequential | Self::EphemeralSequential | Self::SequentialTtl(_)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_javas() {
        let hour = Duration::from_secs(3600);
        let modes = [
            CreateMode::Persistent,
            CreateMode::Ephemeral,
            CreateMode::PersistentSequential,
            CreateMode::EphemeralSequential,
            CreateMode::Container,
            CreateMode::PersistentTtl(hour),
            CreateMode::SequentialTtl(hour),
        ];
        for (flags, mode) in (0..).zip(modes) {
            assert_eq!(mode.flags(), flags);
            assert_eq!(CreateMode::from_wire(flags, 3_600_000), Some(mode));
        }
        assert_eq!(CreateMode::from_wire(7, 1), None);
        assert_eq!(CreateMode::from_wire(-1, 1), None);
    }

    #[test]
    fn times_to_live_have_bounds() {
        assert_eq!(CreateMode::from_wire(5, 0), None);
        assert_eq!(CreateMode::from_wire(5, -1), None);
        assert_eq!(CreateMode::from_wire(6, 1 << 40), None);
        assert_eq!(
            CreateMode::from_wire(6, (1 << 40) - 1),
            Some(CreateMode::SequentialTtl(CreateMode::TTL_MAX))
        );
        assert_eq!(CreateMode::from_wire(0, -1), Some(CreateMode::Persistent));
    }
}
