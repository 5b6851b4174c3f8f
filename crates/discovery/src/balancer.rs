//! The reading half: picks endpoints, on any number of threads.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use xxhash_rust::xxh3::xxh3_64;

use crate::balance::Chance;
use crate::dice::Dice;
use crate::endpoint::{EndpointKey, Signal};
use crate::pick::{NoEndpoint, Pick};
use crate::policy::Policy;
use crate::updater::Updater;
use crate::view::View;

/// The two halves for one service: one writer, any number of readers. `seed` fixes the random
/// choices; give each service and process another one.
pub fn channel(policy: Policy, seed: u64) -> (Updater, Balancer) {
    let signal = Arc::new(Signal::new(&policy));
    let shared = Arc::new(Shared {
        view: ArcSwap::from_pointee(View::pending()),
        chance: Chance {
            dice: Dice::new(seed),
            cursor: AtomicU64::new(0),
        },
        panic_picks: AtomicU64::new(0),
        published: Notify::new(),
        signal,
    });
    (
        Updater::new(policy, Arc::clone(&shared)),
        Balancer { shared },
    )
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) view: ArcSwap<View>,
    chance: Chance,
    panic_picks: AtomicU64,
    /// Tells those who wait that there is another view.
    pub(crate) published: Notify,
    pub(crate) signal: Arc<Signal>,
}

/// The key of a call, from what calls of a kind have in common: a user's name, a path. The gateway makes its
/// keys alike, so that a key has the same home from everywhere.
pub fn key_of(bytes: &[u8]) -> u64 {
    xxh3_64(bytes)
}

/// Picks endpoints of one service. Clones share everything.
#[derive(Debug, Clone)]
pub struct Balancer {
    shared: Arc<Shared>,
}

impl Balancer {
    /// Picks an endpoint, which counts as in flight from then on. Takes no lock, allocates nothing.
    ///
    /// `key` is the hash of what requests of a kind have in common, for the balances that
    /// [are keyed](crate::Balance::is_keyed); without one these pick at random. `avoid` are the
    /// endpoints this request has tried already: they are picked again only when nothing else is
    /// fit.
    pub fn pick(
        &self,
        key: Option<u64>,
        avoid: &[EndpointKey],
        now: Instant,
    ) -> Result<Pick, NoEndpoint> {
        let view = self.shared.view.load();
        let stamp = self.shared.signal.stamp(now);
        let bounded = key.is_some() && view.rotation.is_bounded();
        loop {
            let endpoint = view.choose(&self.shared.chance, key, avoid, stamp)?;
            let panic = endpoint.is_unfit();
            let pick = Pick::new(Arc::clone(endpoint), panic, bounded, now);
            if endpoint.is_closed() {
                // Just now: whoever closed it may not have seen this request in flight, and told
                // the instance that there is none. It is not chosen again.
                continue;
            }
            if panic {
                self.shared.panic_picks.fetch_add(1, Relaxed);
            }
            return Ok(pick);
        }
    }

    /// Why a call should not be made just now: there is nothing to pick, or nothing that accepts
    /// connections, as far as is known. The latter is [`NoEndpoint::AllUnfit`], too.
    pub fn obstacle(&self) -> Option<NoEndpoint> {
        self.shared.view.load().obstacle()
    }

    /// Resolves when there is no [obstacle](Self::obstacle).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn ready(&self) {
        loop {
            // Before the look, so that nothing is missed that comes after it.
            let mut published = pin!(self.shared.published.notified());
            published.as_mut().enable();
            if self.obstacle().is_none() {
                return;
            }
            published.await;
        }
    }

    /// All endpoints with state, reasons and counters.
    pub fn view(&self) -> Arc<View> {
        self.shared.view.load_full()
    }

    /// How many picks ever went to an endpoint that was not fit, for lack of better ones.
    pub fn panic_picks(&self) -> u64 {
        self.shared.panic_picks.load(Relaxed)
    }
}
