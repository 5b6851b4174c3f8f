//! Regular checks of all endpoints of a service: when to ask whom, and what the answers mean.

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::sync::Arc;
use std::time::{Duration, Instant};

use livegate_discovery::{Endpoint, EndpointKey, Health, Move};

use crate::config::{HealthCheckConfig, HealthCheckKind, StatusRange};
use crate::health::probe::{Finding, Question};

/// The checks of one service.
#[derive(Debug)]
pub struct Checks {
    config: HealthCheckConfig,
    checks: BTreeMap<EndpointKey, Check>,
    /// Those that are not running, by when they are due.
    queue: BTreeSet<(Instant, EndpointKey)>,
    /// Counts changes of the configuration, so that answers to former questions are told apart.
    generation: u64,
    random: fastrand::Rng,
}

#[derive(Debug)]
struct Check {
    endpoint: Arc<Endpoint>,
    due: Instant,
    is_running: bool,
    /// Ask again as soon as the running probe ends.
    is_urgent: bool,
    failures: u32,
    successes: u32,
}

impl Check {
    fn new(endpoint: &Arc<Endpoint>, due: Instant) -> Self {
        Self {
            endpoint: Arc::clone(endpoint),
            due,
            is_running: false,
            is_urgent: false,
            failures: 0,
            successes: 0,
        }
    }
}

/// A probe to be run now.
#[derive(Debug)]
pub struct Due {
    /// Whom to ask.
    pub endpoint: Arc<Endpoint>,
    /// What to ask.
    pub question: Question,
    /// How long to wait for the answer.
    pub patience: Duration,
    /// To be handed back with the answer.
    pub generation: u64,
}

/// The first checks of a long list are spread out: so many start in a second at most.
const FIRST_CHECKS_PER_SECOND: u32 = 500;

/// Intervals vary by up to a tenth either way, so that gateways and endpoints fall out of step.
const JITTER: f64 = 0.1;

impl Checks {
    /// No checks yet; `seed` fixes the jitter.
    pub fn new(config: HealthCheckConfig, seed: u64) -> Self {
        Self {
            config,
            checks: BTreeMap::new(),
            queue: BTreeSet::new(),
            generation: 0,
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// Checks these endpoints from now on, and no others. New ones are due at once.
    pub fn watch<'a>(&mut self, endpoints: impl Iterator<Item = &'a Arc<Endpoint>>, now: Instant) {
        let mut before = std::mem::take(&mut self.checks);
        let mut spread = Spread::new(&self.config, now);
        for endpoint in endpoints {
            let check = before
                .remove(&endpoint.key())
                .unwrap_or_else(|| Check::new(endpoint, spread.next()));
            self.checks.insert(endpoint.key(), check);
        }
        self.queue_all();
    }

    /// The same, from what changed since the last time.
    pub fn follow<'a>(&mut self, moves: impl Iterator<Item = &'a Move>, now: Instant) {
        let mut spread = Spread::new(&self.config, now);
        // Who went and is back has been there all the time.
        let last: BTreeMap<EndpointKey, Option<&Arc<Endpoint>>> = moves
            .map(|last| match last {
                Move::Came(endpoint) => (endpoint.key(), Some(endpoint)),
                Move::Went(key) => (*key, None),
            })
            .collect();
        for (key, endpoint) in last {
            match (self.checks.entry(key), endpoint) {
                (Entry::Vacant(place), Some(endpoint)) => {
                    let check = place.insert(Check::new(endpoint, spread.next()));
                    self.queue.insert((check.due, key));
                }
                (Entry::Occupied(place), None) => {
                    self.queue.remove(&(place.remove().due, key));
                }
                (Entry::Vacant(_), None) | (Entry::Occupied(_), Some(_)) => {}
            }
        }
    }

    /// Takes in a changed configuration. What is known stays; all are asked anew if the question
    /// or the verdict on its answers has changed. Without checks, nothing that they found counts
    /// any longer: all endpoints are to be given the health that is returned.
    pub fn configure(&mut self, config: &HealthCheckConfig, now: Instant) -> Option<Health> {
        if self.config == *config {
            return None;
        }
        let is_other = self.config.kind != config.kind
            || self.config.path != config.path
            || self.config.expect != config.expect;
        let interval_before = std::mem::replace(&mut self.config, config.clone()).interval;
        self.generation += 1;
        let mut spread = Spread::new(&self.config, now);
        for check in self.checks.values_mut() {
            // Whatever runs asks the former question.
            check.is_running = false;
            check.is_urgent = false;
            if is_other {
                check.due = spread.next();
            } else if config.interval != interval_before {
                check.due = check.due.min(now + config.interval);
            }
        }
        self.queue_all();
        let is_off = config.kind == HealthCheckKind::None;
        if is_off {
            for check in self.checks.values_mut() {
                (check.failures, check.successes) = (0, 0);
            }
        }
        is_off.then_some(Health::Healthy)
    }

    /// When the next check is due.
    pub fn next_due(&self) -> Option<Instant> {
        if self.config.kind == HealthCheckKind::None {
            return None;
        }
        self.queue.first().map(|(due, _)| *due)
    }

    /// The checks that are due. Each is taken to run until it is [recorded](Self::record); the
    /// next one of that endpoint is due an interval after the start of this one.
    pub fn take_due(&mut self, now: Instant) -> Vec<Due> {
        let question = match self.config.kind {
            HealthCheckKind::None => return Vec::new(),
            HealthCheckKind::Tcp => Question::Connect,
            HealthCheckKind::Http => Question::Get(self.config.path.clone()),
        };
        let mut all_due = Vec::new();
        while let Some((due, key)) = self.queue.pop_first() {
            if due > now {
                self.queue.insert((due, key));
                break;
            }
            let Some(check) = self.checks.get_mut(&key) else {
                continue;
            };
            check.is_running = true;
            let jitter = 1.0 + JITTER * (2.0 * self.random.f64() - 1.0);
            check.due = now + self.config.interval.mul_f64(jitter);
            all_due.push(Due {
                endpoint: Arc::clone(&check.endpoint),
                question: question.clone(),
                patience: self.config.timeout,
                generation: self.generation,
            });
        }
        all_due
    }

    /// Makes the next check of an endpoint due now, if its last one did not pass: there is reason
    /// to think that it would.
    pub fn hurry(&mut self, key: EndpointKey, now: Instant) {
        let Some(check) = self
            .checks
            .get_mut(&key)
            .filter(|check| check.successes == 0)
        else {
            return;
        };
        if check.is_running {
            check.is_urgent = true;
        } else {
            self.queue.remove(&(check.due, key));
            check.due = check.due.min(now);
            self.queue.insert((check.due, key));
        }
    }

    /// Takes in what a check found. Returns the endpoint's health, if that is enough to tell.
    pub fn record(
        &mut self,
        key: EndpointKey,
        generation: u64,
        finding: &Finding,
        now: Instant,
    ) -> Option<Health> {
        let check = self
            .checks
            .get_mut(&key)
            .filter(|_| generation == self.generation)?;
        check.is_running = false;
        if std::mem::take(&mut check.is_urgent) {
            check.due = now;
        }
        self.queue.insert((check.due, key));
        match judge(finding, &self.config.expect)? {
            Health::Healthy => {
                check.failures = 0;
                check.successes = check.successes.saturating_add(1);
                (check.successes >= self.config.rise).then_some(Health::Healthy)
            }
            health @ (Health::Failing { .. }
            | Health::Silent { .. }
            | Health::Unreachable { .. }) => {
                check.successes = 0;
                check.failures = check.failures.saturating_add(1);
                (check.failures >= self.config.fall).then_some(health)
            }
        }
    }
}

impl Checks {
    fn queue_all(&mut self) {
        let waiting = self.checks.iter().filter(|(_, check)| !check.is_running);
        self.queue = waiting.map(|(key, check)| (check.due, *key)).collect();
    }
}

/// What one finding says; nothing when nothing is known.
fn judge(finding: &Finding, expect: &[StatusRange]) -> Option<Health> {
    let cause = |text: &str| format!("health check: {text}");
    Some(match finding {
        Finding::Connected => Health::Healthy,
        Finding::Answered(status) if expect.iter().any(|range| range.contains(*status)) => {
            Health::Healthy
        }
        Finding::Answered(status) => Health::Failing {
            cause: cause(&format!("status {status}")),
        },
        Finding::Garbled(text) => Health::Failing { cause: cause(text) },
        Finding::Silent => Health::Silent {
            cause: cause("no answer in time"),
        },
        Finding::TimedOut => Health::Unreachable {
            cause: cause("connect timed out"),
        },
        Finding::Unreachable(error) => Health::Unreachable {
            cause: cause(error),
        },
        Finding::Prevented(_) => return None,
    })
}

/// Starting times of checks that would all be due at once.
struct Spread {
    next: Instant,
    last: Instant,
}

impl Spread {
    fn new(config: &HealthCheckConfig, now: Instant) -> Self {
        Self {
            next: now,
            last: now + config.interval,
        }
    }

    fn next(&mut self) -> Instant {
        let next = self.next;
        self.next = (next + Duration::from_secs(1) / FIRST_CHECKS_PER_SECOND).min(self.last);
        next
    }
}

#[cfg(test)]
mod tests {
    use livegate_discovery::{Instance, Policy, Snapshot, channel};

    use super::*;

    fn endpoints(count: u8) -> Vec<Arc<Endpoint>> {
        let (mut updater, _) = channel(Policy::default(), 1);
        let instances = (0..count).map(|n| Instance::listed(([10, 0, 0, n], 80).into(), 1));
        updater.apply(&Snapshot::live(1, instances), Instant::now());
        updater.endpoints().cloned().collect()
    }

    fn config(kind: HealthCheckKind) -> HealthCheckConfig {
        HealthCheckConfig {
            kind,
            ..HealthCheckConfig::default()
        }
    }

    fn failing(cause: &str) -> Option<Health> {
        Some(Health::Failing {
            cause: format!("health check: {cause}"),
        })
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_first_check_is_due_at_once_and_the_next_after_the_interval() {
        let (mut checks, endpoints) = (Checks::new(config(HealthCheckKind::Tcp), 1), endpoints(3));
        let start = Instant::now();
        checks.watch(endpoints.iter(), start);
        assert_eq!(checks.next_due(), Some(start));
        let at = start + SECOND / 100;
        let due = checks.take_due(at);
        assert_eq!(due.len(), 3);
        assert_eq!(
            (&due[0].question, due[0].patience),
            (&Question::Connect, 2 * SECOND)
        );
        assert_eq!(checks.next_due(), None, "all are running");
        for due in &due {
            assert_eq!(
                checks.record(due.endpoint.key(), 0, &Finding::Connected, at),
                Some(Health::Healthy)
            );
        }
        let next = checks.next_due().unwrap();
        assert!(
            (4500..5500).contains(&(next - at).as_millis()),
            "{:?}",
            next - at
        );
        assert!(checks.take_due(next - Duration::from_nanos(1)).is_empty());
        assert_eq!(checks.take_due(next).len(), 1, "they fall out of step");
    }

    #[test]
    fn who_comes_is_checked_at_once_and_who_went_no_more() {
        let (mut checks, endpoints) = (Checks::new(config(HealthCheckKind::Tcp), 1), endpoints(3));
        let start = Instant::now();
        checks.watch(endpoints[..2].iter(), start);
        let at = start + SECOND / 100;
        assert_eq!(checks.take_due(at).len(), 2);
        let keys: Vec<EndpointKey> = endpoints.iter().map(|endpoint| endpoint.key()).collect();
        assert!(checks.record(keys[1], 0, &Finding::Connected, at).is_some());
        let moves = [
            Move::Went(keys[0]),
            Move::Went(keys[1]),
            Move::Came(Arc::clone(&endpoints[2])),
        ];
        checks.follow(moves.iter(), at);
        assert_eq!(checks.next_due(), Some(at));
        let due = checks.take_due(at);
        assert_eq!(due.len(), 1);
        assert_eq!(due[0].endpoint.key(), keys[2]);
        assert!(checks.record(keys[0], 0, &Finding::Connected, at).is_none());
        assert_eq!(checks.next_due(), None, "the one that is left is running");
        // Back before anybody noticed: its check goes on.
        let moves = [Move::Went(keys[2]), Move::Came(Arc::clone(&endpoints[2]))];
        checks.follow(moves.iter(), at);
        assert!(checks.take_due(at).is_empty());
    }

    #[test]
    fn a_slow_check_delays_no_other_and_never_overlaps_itself() {
        let (mut checks, endpoints) = (Checks::new(config(HealthCheckKind::Http), 1), endpoints(2));
        let mut now = Instant::now();
        checks.watch(endpoints.iter(), now);
        now += SECOND / 100;
        let slow = checks.take_due(now)[0].endpoint.key();
        let quick = endpoints
            .iter()
            .find(|endpoint| endpoint.key() != slow)
            .unwrap()
            .key();
        for _ in 0..3 {
            checks.record(quick, 0, &Finding::Answered(200), now);
            now += 6 * SECOND;
            let due: Vec<_> = checks
                .take_due(now)
                .iter()
                .map(|due| due.endpoint.key())
                .collect();
            assert_eq!(due, [quick]);
        }
        checks.record(slow, 0, &Finding::Silent, now);
        assert_eq!(checks.take_due(now).len(), 1, "it is overdue");
    }

    #[test]
    fn fall_and_rise() {
        let config = HealthCheckConfig {
            fall: 3,
            rise: 2,
            ..config(HealthCheckKind::Http)
        };
        let (mut checks, endpoints) = (Checks::new(config, 1), endpoints(1));
        let now = Instant::now();
        checks.watch(endpoints.iter(), now);
        let key = endpoints[0].key();
        let mut record = |finding| checks.record(key, 0, &finding, now);
        assert_eq!(record(Finding::Answered(500)), None);
        assert_eq!(record(Finding::Answered(500)), None);
        assert_eq!(record(Finding::Answered(204)), None, "one of two");
        assert_eq!(record(Finding::Answered(399)), Some(Health::Healthy));
        assert_eq!(record(Finding::Answered(400)), None);
        assert_eq!(record(Finding::Silent), None);
        assert_eq!(
            record(Finding::Prevented("too many open files".into())),
            None,
            "says nothing"
        );
        assert_eq!(record(Finding::Answered(503)), failing("status 503"));
        assert_eq!(record(Finding::Answered(200)), None);
        assert_eq!(
            record(Finding::Answered(500)),
            None,
            "what it was, it stays"
        );
        let refused = Finding::Unreachable("connection refused".to_owned());
        assert_eq!(record(refused.clone()), None);
        let cause = "health check: connection refused".to_owned();
        assert_eq!(record(refused), Some(Health::Unreachable { cause }));
    }

    #[test]
    fn long_lists_are_spread_out_within_an_interval() {
        let (mut checks, endpoints) =
            (Checks::new(config(HealthCheckKind::Tcp), 1), endpoints(200));
        let start = Instant::now();
        checks.watch(endpoints.iter(), start);
        assert_eq!(checks.take_due(start).len(), 1);
        assert_eq!(checks.take_due(start + SECOND / 10).len(), 50);
        assert_eq!(checks.take_due(start + SECOND).len(), 149);
    }

    #[test]
    fn those_that_leave_are_forgotten_and_the_others_stay() {
        let (mut checks, endpoints) = (Checks::new(config(HealthCheckKind::Http), 1), endpoints(2));
        let now = Instant::now();
        checks.watch(endpoints.iter(), now);
        checks.take_due(now + SECOND);
        let [a, b] = [endpoints[0].key(), endpoints[1].key()];
        checks.record(b, 0, &Finding::Answered(500), now);
        checks.watch(endpoints[1..].iter(), now);
        assert_eq!(checks.record(a, 0, &Finding::Answered(500), now), None);
        assert_eq!(
            checks.record(b, 0, &Finding::Answered(500), now),
            failing("status 500")
        );
    }

    #[test]
    fn a_doubt_that_is_gone_makes_the_next_check_due_unless_the_last_one_passed() {
        let (mut checks, endpoints) = (Checks::new(config(HealthCheckKind::Tcp), 1), endpoints(1));
        let mut now = Instant::now();
        let key = endpoints[0].key();
        checks.watch(endpoints.iter(), now);
        checks.take_due(now);
        checks.record(key, 0, &Finding::TimedOut, now);
        checks.hurry(key, now);
        assert_eq!(checks.take_due(now).len(), 1);
        // While one is running the next one follows it.
        now += SECOND / 10;
        checks.hurry(key, now);
        assert!(checks.take_due(now).is_empty());
        checks.record(key, 0, &Finding::TimedOut, now);
        assert_eq!(checks.take_due(now).len(), 1);
        checks.record(key, 0, &Finding::Connected, now);
        checks.hurry(key, now);
        assert!(checks.take_due(now).is_empty());
    }

    #[test]
    fn a_reload_keeps_what_is_known() {
        let (mut checks, endpoints) = (Checks::new(config(HealthCheckKind::Http), 1), endpoints(1));
        let now = Instant::now();
        let key = endpoints[0].key();
        checks.watch(endpoints.iter(), now);
        checks.take_due(now);
        checks.record(key, 0, &Finding::Answered(500), now);
        assert_eq!(checks.configure(&config(HealthCheckKind::Http), now), None);
        assert!(checks.take_due(now).is_empty(), "nothing has changed");
        let sooner = HealthCheckConfig {
            interval: SECOND,
            ..config(HealthCheckKind::Http)
        };
        assert_eq!(checks.configure(&sooner, now), None);
        assert!(checks.take_due(now).is_empty());
        assert_eq!(checks.take_due(now + SECOND).len(), 1);
        let elsewhere = HealthCheckConfig {
            path: "/ready".to_owned(),
            ..sooner
        };
        checks.configure(&elsewhere, now + SECOND);
        assert_eq!(
            checks.record(key, 1, &Finding::Answered(500), now),
            None,
            "an answer to the former question"
        );
        let due = checks.take_due(now + SECOND);
        assert_eq!(due[0].question, Question::Get("/ready".to_owned()));
        assert_eq!(
            checks.record(key, due[0].generation, &Finding::Answered(500), now),
            failing("status 500")
        );
        // Without checks nothing that they found counts.
        assert_eq!(
            checks.configure(&config(HealthCheckKind::None), now),
            Some(Health::Healthy)
        );
        assert_eq!(checks.next_due(), None);
        assert!(checks.take_due(now + 60 * SECOND).is_empty());
    }
}
