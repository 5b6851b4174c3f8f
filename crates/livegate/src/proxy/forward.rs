//! Attempts: one after another until an instance has answered, or none can.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use livegate_discovery::probe::is_local_shortage;
use livegate_discovery::{EndpointKey, Outcome, Pick};

use crate::buffer::Buffer;
use crate::cluster::Cluster;
use crate::metrics::AttemptOutcome;
use crate::proxy::downstream::Downstream;
use crate::proxy::error::ProxyError;
use crate::proxy::exchange::{Exchange, Failure, Setting};
use crate::proxy::outgoing::Outgoing;
use crate::proxy::prepare::Facts;
use crate::proxy::upstream::{self, Upstream};
use crate::worker::Worker;

/// Instances that one request may find closed before it gives up: what is never sent may
/// go anywhere, but not for ever.
const CONNECTS_MAX: u32 = 16;
/// How long a request that no instance accepts waits for one that does: the gap of a quick
/// restart.
const CONNECT_PATIENCE: Duration = Duration::from_millis(500);
/// The first pause between two rounds of connects; it doubles.
const CONNECT_PAUSE: Duration = Duration::from_millis(10);

/// One attempt at one instance.
pub struct Attempt {
    /// What is said and heard.
    pub exchange: Exchange,
    /// The hold on the endpoint.
    pub pick: Pick,
}

/// Why no instance has answered.
pub enum Unanswered {
    /// The client is to be told, after what was begun for it.
    Error(ProxyError, Buffer),
    /// There is no client left to tell.
    ClientGone,
}

/// What was tried so far, for the access log and for choosing the next.
#[derive(Default)]
pub struct Tried {
    keys: Vec<EndpointKey>,
    /// Instances tried.
    pub attempts: u32,
    /// The last of them.
    pub upstream: Option<SocketAddr>,
}

impl Tried {
    fn add(&mut self, pick: &Pick) {
        self.attempts += 1;
        self.upstream = Some(pick.endpoint().address());
    }

    fn avoid(&mut self, pick: &Pick) {
        let key = pick.endpoint().key();
        if !self.keys.contains(&key) {
            self.keys.push(key);
        }
    }
}

/// A request that is to be forwarded.
pub struct Forward<'a> {
    /// The client connection.
    pub down: &'a mut Downstream,
    /// The request.
    pub outgoing: &'a mut Outgoing,
    /// What is known of it.
    pub facts: &'a Facts,
    /// Where to.
    pub cluster: &'a Cluster,
    /// What keyed balancers hash.
    pub key: Option<u64>,
    /// The worker.
    pub worker: &'a Rc<Worker>,
}

impl Forward<'_> {
    /// Tries instances until one has answered; that attempt is left in `slot`, and what
    /// remains is to pass the response on.
    pub async fn run(
        &mut self,
        tried: &mut Tried,
        slot: &mut Option<Attempt>,
    ) -> Result<(), Unanswered> {
        let metrics = &self.cluster.metrics;
        let retry = self.cluster.config.retry;
        metrics.deposit_retry(self.worker.id, retry.budget_percent);
        let mut sent_attempts = 0;
        loop {
            let (pick, up) = self.connect(tried).await?;
            sent_attempts += 1;
            let may_retry = sent_attempts < retry.attempts && self.facts.is_idempotent;
            let now = self.down.now;
            let exchange = Exchange::new(up, metrics.length_hint(self.worker.id), now);
            let Attempt { exchange, pick } = slot.insert(Attempt { exchange, pick });
            let mut setting = Setting {
                down: &mut *self.down,
                outgoing: &mut *self.outgoing,
                facts: self.facts,
                pick,
                timeouts: &self.cluster.config.timeouts,
                worker: self.worker,
                may_retry,
            };
            let failure = match poll_fn(|cx| exchange.poll_reply(cx, &mut setting)).await {
                Ok(()) => {
                    metrics.count_attempt(self.worker.id, AttemptOutcome::Answered);
                    return Ok(());
                }
                Err(failure) => failure,
            };
            let begun = exchange.bytes_out > 0;
            let Attempt { mut exchange, pick } = slot.take().expect("put there above");
            let unwritten = if begun {
                exchange.take_reply()
            } else {
                Buffer::none()
            };
            drop(exchange);
            let unsent = self.outgoing.is_unsent();
            let (attempt, outcome, error) = judge(&failure, unsent);
            metrics.count_attempt(self.worker.id, attempt);
            tried.avoid(&pick);
            if failure == Failure::Stale {
                self.worker.pools.borrow_mut().forget(pick.endpoint().key());
            }
            pick.finish(outcome, self.down.now);
            let Some(error) = error else {
                return Err(Unanswered::ClientGone);
            };
            let retryable = matches!(
                failure,
                Failure::Stale | Failure::Reset | Failure::Timeout { .. }
            );
            let is_free = unsent && sent_attempts < CONNECTS_MAX;
            if !(retryable && !begun && self.outgoing.is_replayable())
                || !(is_free || (may_retry && metrics.withdraw_retry(self.worker.id)))
            {
                return Err(Unanswered::Error(error, unwritten));
            }
            metrics.count_retry(self.worker.id, attempt);
            self.outgoing.rewind();
        }
    }

    /// A connection to the best instance that accepts one.
    async fn connect(&mut self, tried: &mut Tried) -> Result<(Pick, Upstream), Unanswered> {
        let mut connects = 0;
        let mut pause = CONNECT_PAUSE;
        let mut patience_ends = None;
        loop {
            let now = self.down.now;
            let picked = self.cluster.balancer.pick(self.key, &tried.keys, now);
            let pick =
                picked.map_err(|none| Unanswered::Error(ProxyError::from(none), Buffer::none()))?;
            let key = pick.endpoint().key();
            let pooled = self
                .worker
                .pools
                .borrow_mut()
                .take(key, !self.facts.is_idempotent);
            if let Some(up) = pooled {
                tried.add(&pick);
                return Ok((pick, up));
            }
            let is_again = tried.keys.contains(&key);
            tried.add(&pick);
            let connecting = upstream::connect(pick.endpoint().address(), self.worker);
            // Boxed: most requests find a connection in the pool.
            let connecting = Box::pin(tokio::time::timeout(
                self.cluster.config.timeouts.connect,
                connecting,
            ));
            let outcome = match connecting.await {
                Ok(Ok(up)) => {
                    self.down.now = Instant::now();
                    pick.connected(self.down.now);
                    return Ok((pick, up));
                }
                Ok(Err(error)) if is_local_shortage(&error) => {
                    report_shortage(&error);
                    Outcome::Cancelled
                }
                Ok(Err(_)) => Outcome::Refused,
                Err(_) => Outcome::ConnectTimeout,
            };
            self.cluster
                .metrics
                .count_attempt(self.worker.id, AttemptOutcome::ConnectFailed);
            tried.avoid(&pick);
            self.down.now = Instant::now();
            pick.finish(outcome, self.down.now);
            connects += 1;
            if connects >= CONNECTS_MAX {
                return Err(Unanswered::Error(ProxyError::ConnectFailed, Buffer::none()));
            }
            if is_again {
                // Every instance there is has refused.
                let now = self.down.now;
                if now + pause > *patience_ends.get_or_insert(now + CONNECT_PATIENCE) {
                    return Err(Unanswered::Error(ProxyError::ConnectFailed, Buffer::none()));
                }
                Box::pin(tokio::time::sleep(pause)).await;
                self.down.now = Instant::now();
                pause *= 2;
            }
            self.cluster
                .metrics
                .count_retry(self.worker.id, AttemptOutcome::ConnectFailed);
        }
    }
}

/// What a failed attempt means: for the counters, for the endpoint, and for the client.
fn judge(failure: &Failure, unsent: bool) -> (AttemptOutcome, Outcome, Option<ProxyError>) {
    match failure {
        // The instance closed a connection that it had every right to close.
        Failure::Stale => (
            AttemptOutcome::Stale,
            Outcome::Cancelled,
            Some(ProxyError::UpstreamReset),
        ),
        Failure::Reset if unsent => (
            AttemptOutcome::Reset,
            Outcome::Reset,
            Some(ProxyError::ConnectFailed),
        ),
        Failure::Reset => (
            AttemptOutcome::Reset,
            Outcome::Reset,
            Some(ProxyError::UpstreamReset),
        ),
        // Its own timeout has not passed: the endpoint was found lost, and need not be blamed again.
        Failure::Timeout { early: true } => (
            AttemptOutcome::Timeout,
            Outcome::Cancelled,
            Some(ProxyError::UpstreamTimeout),
        ),
        Failure::Timeout { early: false } => (
            AttemptOutcome::Timeout,
            Outcome::HeadTimeout,
            Some(ProxyError::UpstreamTimeout),
        ),
        Failure::Bad(detail) => (
            AttemptOutcome::BadResponse,
            Outcome::BadResponse,
            Some(ProxyError::BadUpstreamResponse(detail)),
        ),
        Failure::ClientGone => (AttemptOutcome::Cancelled, Outcome::Cancelled, None),
        Failure::Client(error) => (
            AttemptOutcome::Cancelled,
            Outcome::Cancelled,
            Some(error.clone()),
        ),
    }
}

fn report_shortage(error: &io::Error) {
    use std::sync::atomic::{AtomicU64, Ordering};
    static SEEN: AtomicU64 = AtomicU64::new(0);
    // Each power of two: a shortage must be seen, not flood the log.
    if SEEN.fetch_add(1, Ordering::Relaxed).is_power_of_two() || SEEN.load(Ordering::Relaxed) == 1 {
        tracing::error!(
            "cannot connect to instances: {error}; raise the limit of open files (ulimit -n) or of local ports"
        );
    }
}
