//! Probes: asking endpoints whether they are well, instead of waiting for requests to find out.
//!
//! [`Probes`] knows whom to ask when, and what the answers mean: it asks every endpoint regularly if a
//! [`CheckPolicy`] says so, and those that are [in doubt](Updater::doubts) at once and often, until the doubt
//! is gone. It is plain state that is told the time. Who owns it makes the probes: as TCP connections with
//! [`ask`], or with questions in the protocol of the service.

mod checks;
mod trials;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout_at;

use crate::endpoint::Endpoint;
use crate::updater::{Doubt, Health, Transition, Updater};
pub use checks::CheckPolicy;
use checks::Checks;
use trials::Trials;

/// The probes of one service.
#[derive(Debug)]
pub struct Probes {
    checks: Checks,
    /// The membership that the checks are for.
    followed: u64,
    trials: Trials,
}

/// A probe to be made now. Its answer is to be [taken in](Probes::take_in), whatever it is.
#[derive(Debug)]
#[must_use]
pub struct Probe {
    endpoint: Arc<Endpoint>,
    purpose: Purpose,
    /// Tells answers to former questions apart.
    generation: u64,
}

/// What is to be found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Whether it is well, as every interval.
    Check,
    /// What there is doubt about.
    Trial(Doubt),
}

/// What a probe has shown about who listens there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Evidence {
    /// It accepts connections.
    Connected {
        /// A process runs there: it said something, or closed the connection.
        is_awake: bool,
    },
    /// It did not accept a connection in time.
    TimedOut,
    /// It refused the connection, or there is no way to its host; the text is the system's.
    Unreachable(String),
    /// This host has run out of something, so nothing is known about the endpoint.
    Prevented(String),
}

impl Probes {
    /// Probes of those in doubt, and regular ones if there are to be any; `seed` fixes the jitter.
    pub fn new(checks: Option<CheckPolicy>, seed: u64) -> Self {
        Self {
            checks: Checks::new(checks, seed),
            followed: 0,
            trials: Trials::new(seed.wrapping_add(1)),
        }
    }

    /// Takes in how to check from now on. What is known stays; all are asked anew if that `is_other`
    /// question, or its answers mean something else. Without checks, nothing that they found counts any
    /// longer.
    pub fn configure(
        &mut self,
        checks: Option<CheckPolicy>,
        is_other: bool,
        updater: &mut Updater,
        now: Instant,
    ) -> Vec<Transition> {
        let is_off = checks.is_none();
        if !self.checks.configure(checks, is_other, now) || !is_off {
            return Vec::new();
        }
        let mut endpoints: Vec<Arc<Endpoint>> = updater.endpoints().cloned().collect();
        endpoints.sort_unstable_by(|a, b| a.id().cmp(b.id()));
        let healthy = endpoints
            .iter()
            .flat_map(|endpoint| updater.set_health(endpoint, Health::Healthy, now));
        healthy.collect()
    }

    /// When the next probe is due.
    pub fn next_due(&self) -> Option<Instant> {
        let due = [self.checks.next_due(), self.trials.next_due()];
        due.into_iter().flatten().min()
    }

    /// The probes that are due. Takes a step for each endpoint that came, went or is in doubt.
    pub fn take_due(&mut self, updater: &Updater, now: Instant) -> Vec<Probe> {
        let followed = std::mem::replace(&mut self.followed, updater.membership());
        if followed != self.followed {
            match updater.moves_since(followed) {
                Some(moves) => self.checks.follow(moves, now),
                None => self.checks.watch(updater.endpoints(), now),
            }
        }
        self.trials.watch(updater.doubts(), now);
        let generation = self.checks.generation();
        let probe = |endpoint, purpose| Probe {
            endpoint,
            purpose,
            generation,
        };
        let checks = self.checks.take_due(now).into_iter();
        let checks = checks.map(|endpoint| probe(endpoint, Purpose::Check));
        let trials = self.trials.take_due(now).into_iter();
        let trials = trials.map(|(endpoint, doubt)| probe(endpoint, Purpose::Trial(doubt)));
        checks.chain(trials).collect()
    }

    /// Takes in what a probe has found: whatever its purpose, that is evidence. `health` is what it says as
    /// a check, if it says anything; for TCP that is [`Evidence::health`].
    pub fn take_in(
        &mut self,
        updater: &mut Updater,
        probe: &Probe,
        evidence: &Evidence,
        health: Option<Health>,
        now: Instant,
    ) -> Vec<Transition> {
        let endpoint = &probe.endpoint;
        let mut transitions = match evidence {
            Evidence::Connected { .. } => updater.connected(endpoint, now),
            Evidence::Unreachable(error) => updater.refused(endpoint, error, now),
            Evidence::TimedOut | Evidence::Prevented(_) => Vec::new(),
        };
        if *evidence == (Evidence::Connected { is_awake: true }) {
            transitions.extend(updater.spoke(endpoint, now));
        }
        match probe.purpose {
            Purpose::Check => {
                let health = self
                    .checks
                    .record(endpoint.key(), probe.generation, health, now);
                let health = health.map(|health| updater.set_health(endpoint, health, now));
                transitions.extend(health.into_iter().flatten());
            }
            Purpose::Trial(doubt) => {
                if *evidence == Evidence::TimedOut {
                    transitions.extend(updater.unanswered(endpoint, now));
                }
                self.trials.record(endpoint.key(), doubt, now);
                if let Evidence::Connected { .. } = evidence {
                    self.checks.hurry(endpoint.key(), now);
                }
            }
        }
        transitions
    }
}

impl Probe {
    /// Whom to ask.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// What to find out.
    pub fn purpose(&self) -> Purpose {
        self.purpose
    }
}

impl Evidence {
    /// What this says as a check that wants a connection and no more; `None` when it says nothing.
    pub fn health(&self) -> Option<Health> {
        let unreachable = |cause: &str| Health::Unreachable {
            cause: format!("health check: {cause}"),
        };
        match self {
            Self::Connected { .. } => Some(Health::Healthy),
            Self::TimedOut => Some(unreachable("connect timed out")),
            Self::Unreachable(error) => Some(unreachable(error)),
            Self::Prevented(_) => None,
        }
    }
}

/// Makes a probe over TCP, whatever protocol the service speaks; takes no longer than `patience`.
///
/// Whether an endpoint [speaks](Doubt::Speaks) is found out by ending our side of the connection at once: a
/// process that runs closes its side then, or says something; a frozen one does neither.
///
/// # Cancel safety
///
/// Dropping the future closes the connection.
pub async fn ask(address: SocketAddr, purpose: Purpose, patience: Duration) -> Evidence {
    let deadline = tokio::time::Instant::now() + patience;
    let mut stream = match timeout_at(deadline, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) if is_local_shortage(&error) => {
            return Evidence::Prevented(error.to_string());
        }
        Ok(Err(error)) => return Evidence::Unreachable(error.to_string()),
        Err(_) => return Evidence::TimedOut,
    };
    let is_awake = match purpose {
        Purpose::Check | Purpose::Trial(Doubt::Connects | Doubt::Held) => false,
        Purpose::Trial(Doubt::Speaks) => {
            let closes = async {
                // Whether that fails or not, reading tells.
                drop(stream.shutdown().await);
                drop(stream.read_u8().await);
            };
            timeout_at(deadline, closes).await.is_ok()
        }
    };
    Evidence::Connected { is_awake }
}

/// Whether an error of making a connection says nothing about the other side: this process or this host has
/// run out of something.
pub fn is_local_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    error.raw_os_error().is_some_and(|code| {
        [
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOBUFS,
            Errno::NOMEM,
            Errno::ADDRNOTAVAIL,
        ]
        .iter()
        .any(|errno| errno.raw_os_error() == code)
    })
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);
    const SPEAK: Purpose = Purpose::Trial(Doubt::Speaks);

    #[tokio::test]
    async fn who_closes_when_we_do_is_awake_and_who_does_not_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        // The kernel accepts for it, up to the backlog.
        let short = Duration::from_millis(50);
        let frozen = ask(address, SPEAK, short).await;
        assert_eq!(frozen, Evidence::Connected { is_awake: false });
        let connects = ask(address, Purpose::Check, PATIENCE).await;
        assert_eq!(connects, Evidence::Connected { is_awake: false });
        let close = async {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                drop(stream.read_u8().await);
            }
        };
        let asked = async {
            assert_eq!(
                ask(address, SPEAK, PATIENCE).await,
                Evidence::Connected { is_awake: true }
            )
        };
        tokio::select! {
            () = close => {}
            () = asked => {}
        }
        drop(listener);
        let nobody = ask(address, SPEAK, PATIENCE).await;
        assert!(matches!(nobody, Evidence::Unreachable(_)), "{nobody:?}");
        assert!(matches!(nobody.health(), Some(Health::Unreachable { .. })));
    }
}
