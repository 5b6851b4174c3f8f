//! How a service wants to be balanced: plain values, changed at any time by a reload.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// The ways to choose among fit endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Balance {
    /// At random, in proportion to the weights.
    Random,
    /// In turn; weights do not count, but for 0.
    RoundRobin,
    /// In turn by the smooth weighted sequence of nginx: weights 4, 3, 2 give a b c a b a c b a.
    #[default]
    WeightedRoundRobin,
    /// The less loaded of two drawn by weight.
    LeastRequest,
    /// The one of two drawn by weight with the lower peak-sensitive latency times its load
    /// (Finagle's `p2cPeakEwma`).
    PeakEwma,
    /// A hash ring with bounded load: equal keys go to one endpoint as long as it can take them.
    ConsistentHash,
    /// Google's Maglev table: like the ring, spread more evenly, without a bound on load.
    Maglev,
}

impl Balance {
    /// All of them, in the order in which the documentation names them.
    pub const ALL: [Self; 7] = [
        Self::Random,
        Self::RoundRobin,
        Self::WeightedRoundRobin,
        Self::LeastRequest,
        Self::PeakEwma,
        Self::ConsistentHash,
        Self::Maglev,
    ];

    /// The name used in configuration files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::RoundRobin => "round-robin",
            Self::WeightedRoundRobin => "weighted-round-robin",
            Self::LeastRequest => "least-request",
            Self::PeakEwma => "peak-ewma",
            Self::ConsistentHash => "consistent-hash",
            Self::Maglev => "maglev",
        }
    }

    /// Whether [`pick`](crate::Balancer::pick) looks at its key.
    pub const fn is_keyed(self) -> bool {
        matches!(self, Self::ConsistentHash | Self::Maglev)
    }
}

impl fmt::Display for Balance {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

/// The text names no way of balancing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown balance; one of random, round-robin, weighted-round-robin, least-request, peak-ewma, consistent-hash, maglev"
)]
pub struct UnknownBalance;

impl FromStr for Balance {
    type Err = UnknownBalance;

    fn from_str(text: &str) -> Result<Self, UnknownBalance> {
        Self::ALL
            .into_iter()
            .find(|balance| balance.name() == text)
            .ok_or(UnknownBalance)
    }
}

/// When traffic itself shows that an endpoint is bad. The defaults are Envoy's, but for the base
/// ejection, which it sets to 30 s: probes bring a restarted instance back much sooner than that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutlierPolicy {
    /// So many failed requests in a row eject an endpoint; 0 turns ejection off.
    pub consecutive_failures: u32,
    /// The first ejection lasts so long, the n-th n times as long, up to
    /// [`EJECTION_MAX`](OutlierPolicy::EJECTION_MAX).
    pub base_ejection: Duration,
    /// At most this share of a service's endpoints is ejected at a time (one at least, never the
    /// last fit one); 0 turns ejection off.
    pub ejected_percent_max: u8,
}

impl OutlierPolicy {
    /// No ejection is longer, unless the first one is to be (Envoy's `max_ejection_time`).
    pub const EJECTION_MAX: Duration = Duration::from_secs(300);
}

impl Default for OutlierPolicy {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            base_ejection: Duration::from_secs(10),
            ejected_percent_max: 50,
        }
    }
}

/// When silence shows that an endpoint is stuck although it accepts connections (a frozen process,
/// a deadlock): requests wait for a first byte, none comes, and its peers answer meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StallPolicy {
    /// Silence shorter than this is never a stall. One second is beyond a garbage collection or a
    /// retransmission, and far below any response timeout.
    pub silence_min: Duration,
    /// Nor is silence shorter than so many times the endpoint's usual latency; 0 turns stall
    /// detection off.
    pub latency_factor: u32,
}

impl Default for StallPolicy {
    fn default() -> Self {
        Self {
            silence_min: Duration::from_secs(1),
            latency_factor: 20,
        }
    }
}

/// When endpoints that the registry no longer names are kept all the same: a deletion is a claim,
/// not a fact, when many leave at once or contact with the registry was lost a moment ago.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HoldPolicy {
    /// How long they are kept while their probes pass and the registry can be asked. As long after
    /// contact with the registry was regained, whatever leaves is held. Zero never holds.
    pub grace: Duration,
    /// So many probes in a row that are not answered in time end a hold; a refused one does at
    /// once.
    pub fall: u32,
}

impl Default for HoldPolicy {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(60),
            fall: 2,
        }
    }
}

/// Everything that decides how the endpoints of one service are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// How to choose.
    pub balance: Balance,
    /// A new endpoint's weight grows from a tenth to the whole over this time; zero turns that
    /// off. How old an endpoint of the first snapshot is, its registration tells; those without
    /// one are not new.
    pub warm_up: Duration,
    /// Ejection by failures.
    pub outlier: OutlierPolicy,
    /// Avoidance by silence.
    pub stall: StallPolicy,
    /// What happens to those that the registry no longer names.
    pub hold: HoldPolicy,
    /// When less than this share of the usable endpoints is fit, those that still answer, however
    /// badly, are used as well, lest the few that are left break down under the load of all
    /// (Envoy's panic threshold); 0 turns that off.
    pub panic_percent: u8,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            balance: Balance::default(),
            warm_up: Duration::ZERO,
            outlier: OutlierPolicy::default(),
            stall: StallPolicy::default(),
            hold: HoldPolicy::default(),
            panic_percent: 50,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_balance_is_found_by_its_name() {
        for balance in Balance::ALL {
            assert_eq!(balance.name().parse(), Ok(balance));
        }
        assert_eq!("leastrequest".parse::<Balance>(), Err(UnknownBalance));
    }
}
