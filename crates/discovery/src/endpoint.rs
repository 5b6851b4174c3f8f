//! The live object for one instance: what all workers know about it while its incarnation lives.
//!
//! Everything here is an atomic of its own. Requests write counters, latency and quarantine; the
//! [`Updater`](crate::Updater) writes the other flags. Nobody waits for anybody.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::balance::ewma::PeakEwma;
use crate::pick::Outcome;
use crate::policy::{Balance, Policy};
use crate::snapshot::InstanceId;

/// Identifies an [`Endpoint`] within this process: never used twice, so an instance that went and
/// came back has another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointKey(pub u64);

/// How much an endpoint can be relied on, best first. A request goes to the best grade there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Grade {
    /// Nothing speaks against it.
    Fit,
    /// It answers, but badly: ejected, or its health check gets wrong answers.
    Failing,
    /// It accepts connections and says nothing: stalled, or its health check times out.
    Silent,
    /// It does not accept connections, or dropped one just now.
    Dead,
    /// It is not to be used whatever its health: draining, out of service, weight 0, removed.
    Closed,
}

impl Grade {
    /// What flags amount to.
    pub(crate) fn of(flags: u32) -> Self {
        if flags == 0 {
            Self::Fit
        } else if flags & flag::CLOSED != 0 {
            Self::Closed
        } else if flags & (flag::QUARANTINED | flag::UNREACHABLE) != 0 {
            Self::Dead
        } else if flags & (flag::SILENT | flag::STALLED) != 0 {
            Self::Silent
        } else {
            Self::Failing
        }
    }
}

/// Why an endpoint is not fit, one bit per reason; each has one writer, but for quarantine.
pub(crate) mod flag {
    /// Requests failed in a row.
    pub(crate) const EJECTED: u32 = 1;
    /// The health check got wrong answers.
    pub(crate) const FAILING: u32 = 1 << 1;
    /// The health check got no answer.
    pub(crate) const SILENT: u32 = 1 << 2;
    /// Requests wait and nothing comes.
    pub(crate) const STALLED: u32 = 1 << 3;
    /// The health check could not connect.
    pub(crate) const UNREACHABLE: u32 = 1 << 4;
    /// A request's connection was refused, reset or timed out; set by the request itself.
    pub(crate) const QUARANTINED: u32 = 1 << 5;
    /// Not to be used whatever its health.
    pub(crate) const CLOSED: u32 = 1 << 6;
    /// No longer listed; comes with `CLOSED`.
    pub(crate) const GONE: u32 = 1 << 7;

    /// It is taken to be gone or frozen, so what it was sent will hardly be answered.
    pub(crate) const LOST: u32 = SILENT | STALLED | UNREACHABLE | QUARANTINED;
}

/// What all endpoints of one service share with their writer.
#[derive(Debug)]
pub(crate) struct Signal {
    /// Stamps count from here.
    epoch: Instant,
    /// Wakes the cluster task; at most one wake-up is stored.
    pub(crate) wake: Notify,
    /// So many failures in a row wake the cluster task; 0 never does.
    failures_max: AtomicU32,
    /// Whether latency peaks are asked for; they cost two atomic steps and an exponential.
    wants_peaks: AtomicBool,
    /// Requests in flight that were picked by key with bounded load.
    pub(crate) bounded_in_flight: AtomicU64,
}

impl Signal {
    pub(crate) fn new(policy: &Policy) -> Self {
        let now = Instant::now();
        let signal = Self {
            // A little before now, so that instants taken just before are told apart, too.
            epoch: now.checked_sub(Duration::from_secs(60)).unwrap_or(now),
            wake: Notify::new(),
            failures_max: AtomicU32::new(0),
            wants_peaks: AtomicBool::new(false),
            bounded_in_flight: AtomicU64::new(0),
        };
        signal.set_policy(policy);
        signal
    }

    pub(crate) fn set_policy(&self, policy: &Policy) {
        self.failures_max
            .store(policy.outlier.consecutive_failures, Relaxed);
        self.wants_peaks
            .store(policy.balance == Balance::PeakEwma, Relaxed);
    }

    /// Nanoseconds since the epoch, never 0, which stands for "never". Good for 584 years.
    pub(crate) fn stamp(&self, now: Instant) -> u64 {
        nanos(now.saturating_duration_since(self.epoch)).max(1)
    }
}

/// A duration in nanoseconds; durations beyond 584 years are taken for that.
pub(crate) fn nanos(duration: Duration) -> u64 {
    duration
        .as_secs()
        .saturating_mul(1_000_000_000)
        .saturating_add(u64::from(duration.subsec_nanos()))
}

/// One instance as the balancer sees it: identity and live counters.
#[derive(Debug)]
pub struct Endpoint {
    key: EndpointKey,
    id: InstanceId,
    address: SocketAddr,
    /// Of the address as text, for the tables of keyed balances; the same everywhere.
    address_hashes: [u64; 2],
    signal: Arc<Signal>,
    mark: Mark,
    flags: AtomicU32,
    /// The gravest [`Blame`] since the quarantine began.
    blame: AtomicU32,
    /// Failures since the last success.
    failures_in_row: AtomicU32,
    hot: Hot,
}

/// Says that an endpoint had requests since the updater last looked: one bit of a word that several
/// endpoints share.
#[derive(Debug)]
pub(crate) struct Mark {
    word: Arc<AtomicU64>,
    bit: u64,
}

impl Mark {
    pub(crate) fn new(word: Arc<AtomicU64>, bit: u64) -> Self {
        Self { word, bit }
    }

    fn set(&self) {
        // Mostly it is set already, and the word stays in everybody's cache.
        if self.word.load(SeqCst) & self.bit == 0 {
            self.word.fetch_or(self.bit, SeqCst);
        }
    }
}

/// What broken connection an endpoint is blamed for, gravest last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blame {
    None,
    TimedOut,
    Reset,
    Refused,
}

impl Blame {
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::None => "connection failed",
            Self::TimedOut => "connect timed out",
            Self::Reset => "connection reset",
            Self::Refused => "connection refused",
        }
    }
}

/// What every request writes, apart from what every request only reads. 128 bytes, because x86
/// fetches cache lines in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Hot {
    /// Requests in flight in the lower half, those of them without a first byte in the upper.
    load: AtomicU64,
    requests: AtomicU64,
    failures: AtomicU64,
    /// When the number of requests without a first byte last rose from 0.
    waiting_since: AtomicU64,
    last_heard: AtomicU64,
    last_answer: AtomicU64,
    /// Usual latency in nanoseconds; 0 before the first answer.
    latency: AtomicU64,
    peak: PeakEwma,
}

const IN_FLIGHT: u64 = 1;
const WAITING: u64 = 1 << 32;

/// The usual latency follows the last eight answers or so (the same gain as TCP's smoothed
/// round-trip time, RFC 6298).
const LATENCY_GAIN: u64 = 8;

impl Endpoint {
    pub(crate) fn new(
        id: InstanceId,
        address: SocketAddr,
        signal: Arc<Signal>,
        mark: Mark,
    ) -> Self {
        static KEYS: AtomicU64 = AtomicU64::new(1);
        let text = address.to_string();
        Self {
            key: EndpointKey(KEYS.fetch_add(1, Relaxed)),
            id,
            address,
            address_hashes: [0, 1].map(|seed| xxh3_64_with_seed(text.as_bytes(), seed)),
            signal,
            mark,
            flags: AtomicU32::new(0),
            blame: AtomicU32::new(Blame::None as u32),
            failures_in_row: AtomicU32::new(0),
            hot: Hot::default(),
        }
    }

    /// Identifies it within this process.
    pub fn key(&self) -> EndpointKey {
        self.key
    }

    /// The id that the instance was first known by. It may register again under another one; the
    /// [`Member`](crate::Member) of a view has the current one.
    pub fn id(&self) -> &InstanceId {
        &self.id
    }

    /// Where to connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn address_hashes(&self) -> [u64; 2] {
        self.address_hashes
    }

    /// Whether new requests avoid it just now, for whatever reason (including draining and
    /// removal).
    pub fn is_unfit(&self) -> bool {
        self.flags.load(Relaxed) != 0
    }

    /// Whether it is taken to be gone or frozen (refused, reset, unreachable, stalled, or silent
    /// to its health check), so that a request already sent to it will hardly be answered. Cheap:
    /// made to be looked at while waiting for a response head.
    pub fn is_lost(&self) -> bool {
        self.flags.load(Relaxed) & flag::LOST != 0
    }

    /// Whether nothing is in flight to it. When it is closed to new requests, too,
    /// nothing will be: of a request that is counted in and a closing one sees the other.
    pub fn is_idle(&self) -> bool {
        lower_half(self.hot.load.load(SeqCst)) == 0
    }

    /// Whether it is not to be used whatever its health: draining, out of service, weight 0, gone.
    pub(crate) fn is_closed(&self) -> bool {
        self.flags.load(SeqCst) & flag::CLOSED != 0
    }

    /// Whether it is no longer listed, so that idle connections to it are of no use. An instance
    /// that is back within a second is not gone any more.
    pub fn is_gone(&self) -> bool {
        self.flags.load(Relaxed) & flag::GONE != 0
    }

    /// Requests in flight.
    pub fn in_flight(&self) -> u32 {
        lower_half(self.hot.load.load(Relaxed))
    }

    /// Picks ever made of it.
    pub fn requests(&self) -> u64 {
        self.hot.requests.load(Relaxed)
    }

    /// Picks that ended in a failure: no whole response, or a status of 500 to 599. Requests that
    /// clients gave up are none.
    pub fn failures(&self) -> u64 {
        self.hot.failures.load(Relaxed)
    }

    /// Its usual time until the response head; `None` before the first answer.
    pub fn latency(&self) -> Option<Duration> {
        match self.hot.latency.load(Relaxed) {
            0 => None,
            nanos => Some(Duration::from_nanos(nanos)),
        }
    }

    pub(crate) fn signal(&self) -> &Arc<Signal> {
        &self.signal
    }

    pub(crate) fn flags(&self) -> u32 {
        self.flags.load(Relaxed)
    }

    pub(crate) fn grade(&self) -> Grade {
        Grade::of(self.flags())
    }

    /// Sets or clears flags; says whether that changed anything.
    pub(crate) fn set_flags(&self, flags: u32, on: bool) -> bool {
        if on {
            self.flags.fetch_or(flags, SeqCst) & flags != flags
        } else {
            self.flags.fetch_and(!flags, SeqCst) & flags != 0
        }
    }

    pub(crate) fn blame(&self) -> Blame {
        let blame = self.blame.load(Relaxed);
        [Blame::TimedOut, Blame::Reset, Blame::Refused]
            .into_iter()
            .find(|other| *other as u32 == blame)
            .unwrap_or(Blame::None)
    }

    pub(crate) fn clear_blame(&self) {
        self.blame.store(Blame::None as u32, Relaxed);
    }

    pub(crate) fn failures_in_row(&self) -> u32 {
        self.failures_in_row.load(Relaxed)
    }

    pub(crate) fn set_failures_in_row(&self, failures: u32) {
        self.failures_in_row.store(failures, Relaxed);
    }

    /// When it last answered, 0 for never.
    pub(crate) fn last_answer(&self) -> u64 {
        self.hot.last_answer.load(Relaxed)
    }

    /// When the last byte came from it, 0 for never.
    pub(crate) fn last_heard(&self) -> u64 {
        self.hot.last_heard.load(Relaxed)
    }

    /// Since when requests wait without a byte from it; `None` when none waits.
    pub(crate) fn silent_since(&self) -> Option<u64> {
        let waiting = self.hot.load.load(Relaxed) / WAITING;
        let since = self.hot.waiting_since.load(Relaxed);
        (waiting > 0).then(|| since.max(self.last_heard()))
    }

    /// Peak-sensitive latency in nanoseconds at `stamp`.
    pub(crate) fn peak_latency(&self, stamp: u64) -> f64 {
        self.hot.peak.at(stamp)
    }

    /// Counts a request in.
    pub(crate) fn begin(&self, now: Instant) {
        let before = self.hot.load.fetch_add(IN_FLIGHT + WAITING, SeqCst);
        if before < WAITING {
            self.hot
                .waiting_since
                .store(self.signal.stamp(now), Relaxed);
            // Whoever waits already has set it, and is in flight until the updater sees it.
            self.mark.set();
        }
        self.hot.requests.fetch_add(1, Relaxed);
    }

    /// A first byte came for one of the requests that wait.
    pub(crate) fn end_waiting(&self) {
        self.hot.load.fetch_sub(WAITING, Relaxed);
    }

    /// Counts a request out.
    pub(crate) fn end(&self, waiting: bool) {
        let load = if waiting {
            IN_FLIGHT + WAITING
        } else {
            IN_FLIGHT
        };
        let before = self.hot.load.fetch_sub(load, SeqCst);
        if lower_half(before) == 1 && self.flags() & flag::CLOSED != 0 {
            // Somebody may wait for it to be let go.
            self.signal.wake.notify_one();
        }
    }

    pub(crate) fn heard(&self, now: Instant) {
        self.hot.last_heard.store(self.signal.stamp(now), Relaxed);
    }

    /// A connection was made: whoever listens there is alive.
    pub(crate) fn connected(&self) {
        if self.flags() & flag::QUARANTINED != 0 && self.set_flags(flag::QUARANTINED, false) {
            self.signal.wake.notify_one();
        }
    }

    pub(crate) fn record(&self, outcome: Outcome, started: Instant, now: Instant) {
        match outcome {
            Outcome::Answered { status, latency } => {
                self.answered(latency, now);
                if (500..=599).contains(&status) {
                    self.failed()
                } else {
                    self.succeeded()
                }
            }
            Outcome::Refused => {
                // Not a failure in a row: quarantine says all there is to say, and must not turn
                // into an ejection that outlasts it.
                self.hot.failures.fetch_add(1, Relaxed);
                self.quarantine(Blame::Refused);
            }
            Outcome::ConnectTimeout => {
                self.failed();
                self.quarantine(Blame::TimedOut);
            }
            Outcome::Reset => {
                self.failed();
                self.quarantine(Blame::Reset);
            }
            Outcome::HeadTimeout => {
                self.observe_peak(now.saturating_duration_since(started), now);
                self.failed();
            }
            Outcome::BadResponse | Outcome::BodyFailed => self.failed(),
            Outcome::Cancelled => {}
        }
    }

    fn answered(&self, latency: Duration, now: Instant) {
        let stamp = self.signal.stamp(now);
        self.hot.last_heard.store(stamp, Relaxed);
        self.hot.last_answer.store(stamp, Relaxed);
        self.observe_peak(latency, now);
        // Not one atomic step: an answer that gets lost here is one of thousands.
        let usual = self.hot.latency.load(Relaxed);
        let latency = nanos(latency).max(1);
        let usual = match usual {
            0 => latency,
            _ => usual - usual / LATENCY_GAIN + latency / LATENCY_GAIN,
        };
        self.hot.latency.store(usual.max(1), Relaxed);
    }

    fn observe_peak(&self, latency: Duration, now: Instant) {
        if self.signal.wants_peaks.load(Relaxed) {
            self.hot.peak.observe(latency, self.signal.stamp(now));
        }
    }

    fn succeeded(&self) {
        if self.failures_in_row() != 0 {
            self.set_failures_in_row(0);
        }
    }

    fn failed(&self) {
        self.hot.failures.fetch_add(1, Relaxed);
        let in_row = self.failures_in_row.fetch_add(1, Relaxed).saturating_add(1);
        if in_row == self.signal.failures_max.load(Relaxed) {
            self.signal.wake.notify_one();
        }
    }

    fn quarantine(&self, blame: Blame) {
        self.blame.fetch_max(blame as u32, Relaxed);
        if self.set_flags(flag::QUARANTINED, true) {
            self.signal.wake.notify_one();
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the lower half is what is asked for"
)]
fn lower_half(load: u64) -> u32 {
    load as u32
}
