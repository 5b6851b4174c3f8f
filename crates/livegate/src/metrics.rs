//! Counters of the data plane.
//!
//! Every worker writes its own shard with plain loads and stores (one writer, so no
//! read-modify-write is needed); readers add the shards up. A reader may see a request
//! in one counter and not yet in another; nothing is ever counted twice.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A counter with a single writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`. Only the worker that owns the shard may call this.
    pub fn add(&self, count: u64) {
        self.0
            .store(self.get().wrapping_add(count), Ordering::Relaxed);
    }

    /// The value so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down, written by any worker. For what happens per
/// connection, not per request.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Adds one.
    pub fn increase(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes one away.
    pub fn decrease(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Requests of one route to one service, by status code.
#[derive(Debug)]
pub struct RouteMetrics {
    shards: Box<[RouteShard]>,
}

/// Status codes 100..=999 in hundreds; a hundred is allocated when first seen.
#[derive(Debug, Default)]
struct RouteShard {
    classes: [OnceLock<Box<[Counter; 100]>>; 9],
}

impl RouteMetrics {
    /// Counters at zero for this many workers.
    pub fn new(workers: usize) -> Self {
        Self {
            shards: (0..workers).map(|_| RouteShard::default()).collect(),
        }
    }

    /// Counts one finished request. `worker` is the caller's own number.
    pub fn count(&self, worker: usize, status: u16) {
        let class = usize::from(status / 100).clamp(1, 9) - 1;
        let counters = self.shards[worker].classes[class]
            .get_or_init(|| Box::new(std::array::from_fn(|_| Counter::default())));
        counters[usize::from(status % 100)].add(1);
    }

    /// Status codes seen, with their totals, in ascending order.
    pub fn totals(&self) -> Vec<(u16, u64)> {
        (100..1000u16)
            .filter_map(|status| {
                let total: u64 = self
                    .shards
                    .iter()
                    .filter_map(|shard| shard.classes[usize::from(status / 100) - 1].get())
                    .map(|counters| counters[usize::from(status % 100)].get())
                    .sum();
                (total > 0).then_some((status, total))
            })
            .collect()
    }
}

/// Upper bounds of the request duration buckets; the last bucket is unbounded.
pub const DURATION_BOUNDS: [Duration; 14] = [
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2_500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_millis(2_500),
    Duration::from_secs(10),
    Duration::from_secs(30),
];

/// How one attempt at an instance ended, as `livegate_upstream_attempts_total` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// A whole response head was received.
    Answered,
    /// No connection could be made.
    ConnectFailed,
    /// The connection ended before a whole response head.
    Reset,
    /// No response head in time.
    Timeout,
    /// The response could not be read without doubt.
    BadResponse,
    /// A pooled connection was found closed before a byte was sent.
    Stale,
    /// The client left.
    Cancelled,
}

impl AttemptOutcome {
    /// All outcomes, in the order of their counters.
    pub const ALL: [Self; 7] = [
        Self::Answered,
        Self::ConnectFailed,
        Self::Reset,
        Self::Timeout,
        Self::BadResponse,
        Self::Stale,
        Self::Cancelled,
    ];

    /// The label value.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::ConnectFailed => "connect_failed",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::BadResponse => "bad_response",
            Self::Stale => "stale",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What one service's requests did.
#[derive(Debug)]
pub struct ServiceMetrics {
    shards: Box<[ServiceShard]>,
}

/// Aligned so that two workers never write the same cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
struct ServiceShard {
    duration_buckets: [Counter; DURATION_BOUNDS.len() + 1],
    duration_nanos: Counter,
    attempts: [Counter; AttemptOutcome::ALL.len()],
    retries: [Counter; AttemptOutcome::ALL.len()],
    retries_refused: Counter,
    /// Retries that may still be made, in hundredths.
    retry_balance: AtomicU64,
    /// Body bytes of the last response.
    length_hint: AtomicU64,
}

/// The retry budget at rest, in retries: what a service that has seen little traffic may
/// spend at once, enough for the requests in flight on one lost instance.
const RETRY_FLOOR: u64 = 100;
/// The most that busy times may save up, in retries.
const RETRY_CEILING: u64 = 1_000;

impl ServiceMetrics {
    /// Counters at zero for this many workers.
    pub fn new(workers: usize) -> Self {
        let shard = || ServiceShard {
            retry_balance: AtomicU64::new(RETRY_FLOOR * 100),
            ..ServiceShard::default()
        };
        Self {
            shards: (0..workers).map(|_| shard()).collect(),
        }
    }

    /// Counts one finished request.
    pub fn observe_duration(&self, worker: usize, duration: Duration) {
        let shard = &self.shards[worker];
        let bucket = DURATION_BOUNDS
            .iter()
            .position(|&bound| duration <= bound)
            .unwrap_or(DURATION_BOUNDS.len());
        shard.duration_buckets[bucket].add(1);
        shard
            .duration_nanos
            .add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Counts one attempt at an instance.
    pub fn count_attempt(&self, worker: usize, outcome: AttemptOutcome) {
        self.shards[worker].attempts[outcome as usize].add(1);
    }

    /// Counts one retry and what made it necessary.
    pub fn count_retry(&self, worker: usize, reason: AttemptOutcome) {
        self.shards[worker].retries[reason as usize].add(1);
    }

    /// Adds a request's share to the retry budget.
    pub fn deposit_retry(&self, worker: usize, budget_percent: u8) {
        let balance = &self.shards[worker].retry_balance;
        let now = balance.load(Ordering::Relaxed);
        if now < RETRY_CEILING * 100 {
            balance.store(now + u64::from(budget_percent), Ordering::Relaxed);
        }
    }

    /// Takes one retry out of the budget; false when there is none left.
    pub fn withdraw_retry(&self, worker: usize) -> bool {
        let shard = &self.shards[worker];
        let now = shard.retry_balance.load(Ordering::Relaxed);
        let Some(rest) = now.checked_sub(100) else {
            shard.retries_refused.add(1);
            return false;
        };
        shard.retry_balance.store(rest, Ordering::Relaxed);
        true
    }

    /// Brings an exhausted budget back to a tenth of its floor, so that a quiet service
    /// may retry again. Called by the owning worker about once a second.
    pub fn refill_retries(&self, worker: usize) {
        let balance = &self.shards[worker].retry_balance;
        let now = balance.load(Ordering::Relaxed);
        if now < RETRY_FLOOR * 100 {
            balance.store(
                (now + RETRY_FLOOR * 10).min(RETRY_FLOOR * 100),
                Ordering::Relaxed,
            );
        }
    }

    /// About how long the next response will be, in bytes: as long as the last.
    pub fn length_hint(&self, worker: usize) -> u64 {
        self.shards[worker].length_hint.load(Ordering::Relaxed)
    }

    /// Remembers the length of a response body in bytes.
    pub fn set_length_hint(&self, worker: usize, length: u64) {
        self.shards[worker]
            .length_hint
            .store(length, Ordering::Relaxed);
    }

    /// Requests per bucket of [`DURATION_BOUNDS`] (not cumulative, the last is unbounded)
    /// and the sum of all durations.
    pub fn durations(&self) -> (Vec<u64>, Duration) {
        let buckets = (0..=DURATION_BOUNDS.len())
            .map(|bucket| {
                self.shards
                    .iter()
                    .map(|shard| shard.duration_buckets[bucket].get())
                    .sum()
            })
            .collect();
        let nanos = self
            .shards
            .iter()
            .map(|shard| shard.duration_nanos.get())
            .sum();
        (buckets, Duration::from_nanos(nanos))
    }

    /// Attempts by outcome.
    pub fn attempts(&self) -> impl Iterator<Item = (AttemptOutcome, u64)> + '_ {
        AttemptOutcome::ALL.into_iter().map(|outcome| {
            (
                outcome,
                self.shards
                    .iter()
                    .map(|shard| shard.attempts[outcome as usize].get())
                    .sum(),
            )
        })
    }

    /// Retries by what made them necessary.
    pub fn retries(&self) -> impl Iterator<Item = (AttemptOutcome, u64)> + '_ {
        AttemptOutcome::ALL.into_iter().map(|reason| {
            (
                reason,
                self.shards
                    .iter()
                    .map(|shard| shard.retries[reason as usize].get())
                    .sum(),
            )
        })
    }

    /// Retries that the budget did not allow.
    pub fn retries_refused(&self) -> u64 {
        self.shards
            .iter()
            .map(|shard| shard.retries_refused.get())
            .sum()
    }
}

/// What one worker is busy with.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct WorkerMetrics {
    /// Open client connections, and those on their way to this worker.
    pub downstream_connections: Gauge,
    /// Open connections to instances, idle ones included.
    pub upstream_connections: Gauge,
    /// Client connections accepted so far.
    pub accepted: Counter,
    /// Connections to instances made so far.
    pub upstream_opened: Counter,
    runtime: OnceLock<tokio::runtime::RuntimeMetrics>,
}

impl WorkerMetrics {
    /// Lets readers ask the worker's runtime how busy it is.
    pub fn set_runtime(&self, runtime: tokio::runtime::RuntimeMetrics) {
        self.runtime.get_or_init(|| runtime);
    }

    /// Time the worker was not waiting for the kernel, since it started.
    pub fn busy(&self) -> Duration {
        self.runtime.get().map_or(Duration::ZERO, |runtime| {
            runtime.worker_total_busy_duration(0)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_add_up() {
        let metrics = RouteMetrics::new(2);
        metrics.count(0, 200);
        metrics.count(1, 200);
        metrics.count(1, 503);
        metrics.count(1, 999);
        assert_eq!(metrics.totals(), [(200, 2), (503, 1), (999, 1)]);
    }

    #[test]
    fn the_retry_budget_is_a_share_of_requests_and_a_floor() {
        let metrics = ServiceMetrics::new(1);
        let spend = || (0..).take_while(|_| metrics.withdraw_retry(0)).count() as u64;
        assert_eq!(spend(), RETRY_FLOOR);
        for _ in 0..50 {
            metrics.deposit_retry(0, 20);
        }
        assert_eq!(spend(), 10);
        assert_eq!(metrics.retries_refused(), 2);
        for _ in 0..100 {
            metrics.refill_retries(0);
        }
        assert_eq!(spend(), RETRY_FLOOR);
        for _ in 0..1_000_000 {
            metrics.deposit_retry(0, 20);
        }
        assert!(spend() <= RETRY_CEILING + 1);
    }

    #[test]
    fn durations_fall_into_their_buckets() {
        let metrics = ServiceMetrics::new(1);
        metrics.observe_duration(0, Duration::from_millis(1));
        metrics.observe_duration(0, Duration::from_secs(100));
        let (buckets, sum) = metrics.durations();
        assert_eq!((buckets[1], buckets[DURATION_BOUNDS.len()]), (1, 1));
        assert_eq!(sum, Duration::from_millis(100_001));
    }
}
