//! Connections to instances, and the idle ones a worker keeps for reuse.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use livegate_discovery::{Endpoint, EndpointKey};
use rustix::net::RecvFlags;
use tokio::net::{TcpSocket, TcpStream};

use crate::buffer::Buffer;
use crate::config::PoolConfig;
use crate::worker::{Shared, Worker};

/// One connection to an instance.
pub struct Upstream {
    /// The socket.
    pub stream: TcpStream,
    /// Bytes received and not yet passed on.
    pub buffer: Buffer,
    /// True when it has carried an exchange before.
    pub reused: bool,
    open: Open,
}

/// Counts an open connection until it is dropped.
struct Open(Arc<Shared>, usize);

impl Open {
    fn new(worker: &Worker) -> Self {
        let metrics = worker.metrics();
        metrics.upstream_connections.increase();
        metrics.upstream_opened.add(1);
        Self(Arc::clone(&worker.shared), worker.id)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.workers[self.1].upstream_connections.decrease();
    }
}

/// Makes a connection. The caller bounds the time.
///
/// # Errors
///
/// What the kernel says; see [`is_local_shortage`](livegate_discovery::probe::is_local_shortage) for errors that are not the instance's.
///
/// # Cancel safety
///
/// Dropping the future closes the socket.
pub async fn connect(address: SocketAddr, worker: &Worker) -> io::Result<Upstream> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    socket.set_nodelay(true)?;
    let stream = socket.connect(address).await?;
    Ok(Upstream {
        stream,
        buffer: Buffer::none(),
        reused: false,
        open: Open::new(worker),
    })
}

struct Idle {
    stream: TcpStream,
    since: Instant,
    open: Open,
}

impl Idle {
    /// True when the instance closed it or said something unasked: either way of no use.
    /// Asks the kernel only when the event loop has seen something happen.
    fn is_spent(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        if self.stream.poll_read_ready(&mut cx).is_pending() {
            return false;
        }
        !matches!(self.stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// What a worker keeps of one endpoint, newest last.
struct Pool {
    endpoint: Arc<Endpoint>,
    idle: Vec<Idle>,
    idle_timeout: Duration,
}

/// All idle connections of one worker.
#[derive(Default)]
pub struct Pools {
    pools: HashMap<EndpointKey, Pool, BuildHasherDefault<KeyHasher>>,
    /// The keys of all pools, each once, in the order in which they are swept.
    round: VecDeque<EndpointKey>,
}

/// Pools that a step of a sweep looks at: some microseconds.
const SWEEP_STEP: usize = 64;
/// Connections that a step of a sweep closes, but for the last pool's: each takes some ten microseconds.
const SWEEP_CLOSES: usize = 4;

impl Pools {
    /// Takes the newest idle connection that is still good. With `surely`, the kernel is
    /// asked as well, for a request that must not be sent twice.
    pub fn take(&mut self, key: EndpointKey, surely: bool) -> Option<Upstream> {
        let pool = self.pools.get_mut(&key)?;
        while let Some(idle) = pool.idle.pop() {
            if idle.is_spent() || (surely && !is_silent(&idle.stream)) {
                continue;
            }
            return Some(Upstream {
                stream: idle.stream,
                buffer: Buffer::none(),
                reused: true,
                open: idle.open,
            });
        }
        None
    }

    /// Gives back a connection whose exchange ended cleanly; over the bound the oldest goes.
    pub fn put(
        &mut self,
        endpoint: &Arc<Endpoint>,
        upstream: Upstream,
        config: PoolConfig,
        now: Instant,
    ) {
        debug_assert!(
            upstream.buffer.is_empty(),
            "bytes left over from an exchange"
        );
        if config.idle_max == 0 || endpoint.is_gone() {
            return;
        }
        let pool = self.pools.entry(endpoint.key()).or_insert_with(|| {
            self.round.push_back(endpoint.key());
            Pool {
                endpoint: Arc::clone(endpoint),
                idle: Vec::new(),
                idle_timeout: config.idle_timeout,
            }
        });
        pool.idle_timeout = config.idle_timeout;
        if pool.idle.len() >= config.idle_max {
            pool.idle.remove(0);
        }
        pool.idle.push(Idle {
            stream: upstream.stream,
            since: now,
            open: upstream.open,
        });
    }

    /// Closes all idle connections of an endpoint: one of them has turned out dead.
    pub fn forget(&mut self, key: EndpointKey) {
        if let Some(pool) = self.pools.get_mut(&key) {
            pool.idle.clear();
        }
    }

    /// Closes what has idled for too long, was closed by the other side or belongs to an
    /// instance that is no longer listed, in the pools that come next; returns in how many it looked.
    /// A step is short, so that requests do not wait for it.
    pub fn sweep_some(&mut self, now: Instant) -> usize {
        let most = SWEEP_STEP.min(self.round.len());
        let (mut looked, mut closed) = (0, 0);
        while looked < most
            && closed < SWEEP_CLOSES
            && let Some(key) = self.round.pop_front()
        {
            looked += 1;
            let Some(pool) = self.pools.get_mut(&key) else {
                continue;
            };
            let before = pool.idle.len();
            if pool.endpoint.is_gone() {
                pool.idle.clear();
            }
            let timeout = pool.idle_timeout;
            pool.idle
                .retain(|idle| now.duration_since(idle.since) < timeout && !idle.is_spent());
            closed += before - pool.idle.len();
            if pool.idle.is_empty() {
                self.pools.remove(&key);
            } else {
                self.round.push_back(key);
            }
        }
        looked
    }

    /// How many endpoints there are connections to, or were a moment ago.
    pub fn len(&self) -> usize {
        self.round.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.round.is_empty()
    }

    /// Number of idle connections.
    pub fn idle(&self) -> usize {
        self.pools.values().map(|pool| pool.idle.len()).sum()
    }
}

/// Asks the kernel whether the other side has neither closed nor sent anything.
fn is_silent(stream: &TcpStream) -> bool {
    matches!(
        rustix::net::recv(
            stream,
            &mut [0u8; 1][..],
            RecvFlags::PEEK | RecvFlags::DONTWAIT
        ),
        Err(rustix::io::Errno::AGAIN)
    )
}

/// Endpoint keys count upwards; one multiplication spreads them.
#[derive(Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        // 2^64 divided by the golden ratio (Knuth, The Art of Computer Programming 6.4).
        self.0 = (self.0 ^ number)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use livegate_discovery::{Instance as Listed, Policy, Snapshot};
    use std::future::poll_fn;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    const LONG: Duration = Duration::from_secs(60);
    const CONFIG: PoolConfig = PoolConfig {
        idle_max: 3,
        idle_timeout: LONG,
    };

    fn endpoint() -> Arc<Endpoint> {
        let (mut updater, balancer) = livegate_discovery::channel(Policy::default(), 1);
        let instance = Listed::listed(([127, 0, 0, 1], 1).into(), 1);
        updater.apply(&Snapshot::live(1, [instance]), Instant::now());
        let pick = balancer
            .pick(None, &[], Instant::now())
            .expect("one instance");
        // Without its updater it would count as gone.
        std::mem::forget(updater);
        Arc::clone(pick.endpoint())
    }

    async fn pair(listener: &TcpListener) -> (Upstream, TcpStream) {
        let address = listener.local_addr().expect("bound");
        let worker = Worker::for_test();
        let (upstream, accepted) = tokio::join!(connect(address, &worker), listener.accept());
        (upstream.expect("connects"), accepted.expect("accepts").0)
    }

    #[tokio::test]
    async fn the_newest_good_connection_is_reused_first() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let (mut pools, endpoint) = (Pools::default(), endpoint());
        let now = Instant::now();
        let mut peers = Vec::new();
        for _ in 0..4 {
            let (upstream, peer) = pair(&listener).await;
            peers.push((upstream.stream.local_addr().expect("connected"), peer));
            pools.put(&endpoint, upstream, CONFIG, now);
        }
        assert_eq!(pools.idle(), 3, "the oldest made room");
        // The newest is closed by the instance, the one before says something unasked.
        let (_, closed) = peers.pop().expect("four");
        drop(closed);
        let (_, mut talker) = peers.pop().expect("three");
        talker
            .write_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
            .await
            .expect("writes");
        for idle in &pools.pools[&endpoint.key()].idle[1..] {
            poll_fn(|cx| idle.stream.poll_read_ready(cx))
                .await
                .expect("an event comes");
        }
        let (expected, _peer) = peers.pop().expect("two");
        let taken = pools.take(endpoint.key(), false).expect("one is good");
        assert_eq!(taken.stream.local_addr().expect("connected"), expected);
        assert!(taken.reused);
        assert!(pools.take(endpoint.key(), false).is_none());
    }

    #[tokio::test]
    async fn asking_surely_needs_no_event_loop() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let (mut pools, endpoint) = (Pools::default(), endpoint());
        let (upstream, peer) = pair(&listener).await;
        pools.put(&endpoint, upstream, CONFIG, Instant::now());
        drop(peer);
        assert!(pools.take(endpoint.key(), true).is_none());
    }

    #[tokio::test]
    async fn sweeping_closes_what_idled_too_long() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let (mut pools, endpoint) = (Pools::default(), endpoint());
        let now = Instant::now();
        let (upstream, _peer) = pair(&listener).await;
        pools.put(&endpoint, upstream, CONFIG, now);
        assert_eq!(pools.sweep_some(now + LONG - Duration::from_secs(1)), 1);
        assert_eq!(pools.idle(), 1);
        assert_eq!(pools.sweep_some(now + LONG), 1);
        assert_eq!((pools.idle(), pools.pools.len(), pools.len()), (0, 0, 0));
    }

    #[tokio::test]
    async fn a_sweep_goes_round_in_short_steps() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let mut pools = Pools::default();
        let now = Instant::now();
        let mut peers = Vec::new();
        let endpoints: Vec<_> = (0..SWEEP_STEP + 10).map(|_| endpoint()).collect();
        for endpoint in &endpoints {
            let (upstream, peer) = pair(&listener).await;
            peers.push(peer);
            pools.put(endpoint, upstream, CONFIG, now);
        }
        // One that was forgotten and is used again is not swept twice.
        pools.forget(endpoints[0].key());
        let (upstream, _peer) = pair(&listener).await;
        pools.put(&endpoints[0], upstream, CONFIG, now);
        assert_eq!(pools.len(), endpoints.len());
        assert_eq!(pools.sweep_some(now), SWEEP_STEP);
        assert_eq!(pools.idle(), endpoints.len(), "all are good");
        // The next ten are those that were not looked at.
        let mut left = endpoints.len();
        while left > 0 {
            let closed = SWEEP_CLOSES.min(left);
            assert_eq!(pools.sweep_some(now + LONG), closed);
            left -= closed;
            assert_eq!((pools.idle(), pools.len()), (left, left));
            let oldest = endpoints[SWEEP_STEP].key();
            assert!(!pools.pools.contains_key(&oldest));
        }
        assert_eq!(pools.sweep_some(now), 0);
    }
}
