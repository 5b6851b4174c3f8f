//! Regular checks of all endpoints of a service: when to ask whom, and how many answers make a verdict.

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::endpoint::{Endpoint, EndpointKey};
use crate::updater::{Health, Move};

/// How often endpoints are checked, and how many answers in a row count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckPolicy {
    /// Between the starts of two checks of one endpoint.
    pub interval: Duration,
    /// How long a check may take.
    pub timeout: Duration,
    /// Failures in a row that make an endpoint unfit.
    pub fall: u32,
    /// Successes in a row that make it fit again.
    pub rise: u32,
}

impl Default for CheckPolicy {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            fall: 2,
            rise: 1,
        }
    }
}

/// The checks of one service.
#[derive(Debug)]
pub(crate) struct Checks {
    /// Nobody is checked without one.
    policy: Option<CheckPolicy>,
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

/// The first checks of a long list are spread out: so many start in a second at most.
const FIRST_CHECKS_PER_SECOND: u32 = 500;

/// Intervals vary by up to a tenth either way, so that gateways and endpoints fall out of step.
const JITTER: f64 = 0.1;

impl Checks {
    /// No checks yet; `seed` fixes the jitter.
    pub(crate) fn new(policy: Option<CheckPolicy>, seed: u64) -> Self {
        Self {
            policy,
            checks: BTreeMap::new(),
            queue: BTreeSet::new(),
            generation: 0,
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// Checks these endpoints from now on, and no others. New ones are due at once.
    pub(crate) fn watch<'a>(
        &mut self,
        endpoints: impl Iterator<Item = &'a Arc<Endpoint>>,
        now: Instant,
    ) {
        let mut before = std::mem::take(&mut self.checks);
        let mut spread = self.spread(now);
        for endpoint in endpoints {
            let check = before
                .remove(&endpoint.key())
                .unwrap_or_else(|| Check::new(endpoint, spread.next()));
            self.checks.insert(endpoint.key(), check);
        }
        self.queue_all();
    }

    /// The same, from what changed since the last time.
    pub(crate) fn follow<'a>(&mut self, moves: impl Iterator<Item = &'a Move>, now: Instant) {
        let mut spread = self.spread(now);
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

    /// Takes in how to check from now on; says whether that is a change. What is known stays; all are
    /// asked anew if that `is_other` question, or its answers mean something else.
    pub(crate) fn configure(
        &mut self,
        policy: Option<CheckPolicy>,
        is_other: bool,
        now: Instant,
    ) -> bool {
        let before = std::mem::replace(&mut self.policy, policy);
        if before == policy && !is_other {
            return false;
        }
        self.generation += 1;
        let interval = policy.map(|policy| policy.interval);
        let mut spread = self.spread(now);
        for check in self.checks.values_mut() {
            // Whatever runs asks the former question.
            check.is_running = false;
            check.is_urgent = false;
            match interval {
                None => (check.failures, check.successes) = (0, 0),
                Some(_) if is_other || before.is_none() => check.due = spread.next(),
                Some(interval) if Some(interval) != before.map(|before| before.interval) => {
                    check.due = check.due.min(now + interval);
                }
                Some(_) => {}
            }
        }
        self.queue_all();
        true
    }

    /// Tells the questions of one configuration from those of another one.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// When the next check is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.policy?;
        self.queue.first().map(|(due, _)| *due)
    }

    /// The checks that are due. Each is taken to run until it is [recorded](Self::record); the
    /// next one of that endpoint is due an interval after the start of this one.
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<Arc<Endpoint>> {
        let mut all_due = Vec::new();
        let Some(CheckPolicy { interval, .. }) = self.policy else {
            return all_due;
        };
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
            check.due = now + interval.mul_f64(jitter);
            all_due.push(Arc::clone(&check.endpoint));
        }
        all_due
    }

    /// Makes the next check of an endpoint due now, if its last one did not pass: there is reason
    /// to think that it would.
    pub(crate) fn hurry(&mut self, key: EndpointKey, now: Instant) {
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

    /// Takes in what a check found, which is nothing if it could not be made. Returns the endpoint's
    /// health, if that is enough to tell.
    pub(crate) fn record(
        &mut self,
        key: EndpointKey,
        generation: u64,
        health: Option<Health>,
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
        let CheckPolicy { fall, rise, .. } = self.policy?;
        match health? {
            Health::Healthy => {
                check.failures = 0;
                check.successes = check.successes.saturating_add(1);
                (check.successes >= rise).then_some(Health::Healthy)
            }
            health @ (Health::Failing { .. }
            | Health::Silent { .. }
            | Health::Unreachable { .. }) => {
                check.successes = 0;
                check.failures = check.failures.saturating_add(1);
                (check.failures >= fall).then_some(health)
            }
        }
    }

    fn queue_all(&mut self) {
        let waiting = self.checks.iter().filter(|(_, check)| !check.is_running);
        self.queue = waiting.map(|(key, check)| (check.due, *key)).collect();
    }

    fn spread(&self, now: Instant) -> Spread {
        let interval = self.policy.map_or(Duration::ZERO, |policy| policy.interval);
        Spread {
            next: now,
            last: now + interval,
        }
    }
}

/// Starting times of checks that would all be due at once.
struct Spread {
    next: Instant,
    last: Instant,
}

impl Spread {
    fn next(&mut self) -> Instant {
        let next = self.next;
        self.next = (next + Duration::from_secs(1) / FIRST_CHECKS_PER_SECOND).min(self.last);
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balancer::channel;
    use crate::policy::Policy;
    use crate::snapshot::{Instance, Snapshot};

    fn endpoints(count: u8) -> Vec<Arc<Endpoint>> {
        let (mut updater, _) = channel(Policy::default(), 1);
        let instances = (0..count).map(|n| Instance::listed(([10, 0, 0, n], 80).into(), 1));
        updater.apply(&Snapshot::live(1, instances), Instant::now());
        updater.endpoints().cloned().collect()
    }

    fn checks() -> Checks {
        Checks::new(Some(CheckPolicy::default()), 1)
    }

    fn failing(cause: &str) -> Health {
        Health::Failing {
            cause: cause.to_owned(),
        }
    }

    const HEALTHY: Option<Health> = Some(Health::Healthy);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_first_check_is_due_at_once_and_the_next_after_the_interval() {
        let (mut checks, endpoints) = (checks(), endpoints(3));
        let start = Instant::now();
        checks.watch(endpoints.iter(), start);
        assert_eq!(checks.next_due(), Some(start));
        let at = start + SECOND / 100;
        let due = checks.take_due(at);
        assert_eq!(due.len(), 3);
        assert_eq!(checks.next_due(), None, "all are running");
        for due in &due {
            assert_eq!(checks.record(due.key(), 0, HEALTHY, at), HEALTHY);
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
        let (mut checks, endpoints) = (checks(), endpoints(3));
        let start = Instant::now();
        checks.watch(endpoints[..2].iter(), start);
        let at = start + SECOND / 100;
        assert_eq!(checks.take_due(at).len(), 2);
        let keys: Vec<EndpointKey> = endpoints.iter().map(|endpoint| endpoint.key()).collect();
        assert!(checks.record(keys[1], 0, HEALTHY, at).is_some());
        let moves = [
            Move::Went(keys[0]),
            Move::Went(keys[1]),
            Move::Came(Arc::clone(&endpoints[2])),
        ];
        checks.follow(moves.iter(), at);
        assert_eq!(checks.next_due(), Some(at));
        let due = checks.take_due(at);
        assert_eq!(due.len(), 1);
        assert_eq!(due[0].key(), keys[2]);
        assert!(checks.record(keys[0], 0, HEALTHY, at).is_none());
        assert_eq!(checks.next_due(), None, "the one that is left is running");
        // Back before anybody noticed: its check goes on.
        let moves = [Move::Went(keys[2]), Move::Came(Arc::clone(&endpoints[2]))];
        checks.follow(moves.iter(), at);
        assert!(checks.take_due(at).is_empty());
    }

    #[test]
    fn a_slow_check_delays_no_other_and_never_overlaps_itself() {
        let (mut checks, endpoints) = (checks(), endpoints(2));
        let mut now = Instant::now();
        checks.watch(endpoints.iter(), now);
        now += SECOND / 100;
        let slow = checks.take_due(now)[0].key();
        let quick = endpoints.iter().map(|endpoint| endpoint.key());
        let quick = quick.into_iter().find(|key| *key != slow).unwrap();
        for _ in 0..3 {
            checks.record(quick, 0, HEALTHY, now);
            now += 6 * SECOND;
            let due = checks.take_due(now);
            let due: Vec<_> = due.iter().map(|endpoint| endpoint.key()).collect();
            assert_eq!(due, [quick]);
        }
        checks.record(slow, 0, Some(failing("slow")), now);
        assert_eq!(checks.take_due(now).len(), 1, "it is overdue");
    }

    #[test]
    fn fall_and_rise() {
        let policy = CheckPolicy {
            fall: 3,
            rise: 2,
            ..CheckPolicy::default()
        };
        let (mut checks, endpoints) = (Checks::new(Some(policy), 1), endpoints(1));
        let now = Instant::now();
        checks.watch(endpoints.iter(), now);
        let key = endpoints[0].key();
        let mut record = |health| checks.record(key, 0, health, now);
        assert_eq!(record(Some(failing("500"))), None);
        assert_eq!(record(Some(failing("500"))), None);
        assert_eq!(record(HEALTHY), None, "one of two");
        assert_eq!(record(HEALTHY), HEALTHY);
        assert_eq!(record(Some(failing("400"))), None);
        assert_eq!(record(Some(failing("silent"))), None);
        assert_eq!(record(None), None, "says nothing");
        assert_eq!(record(Some(failing("503"))), Some(failing("503")));
        assert_eq!(record(HEALTHY), None);
        assert_eq!(record(Some(failing("500"))), None, "what it was, it stays");
    }

    #[test]
    fn long_lists_are_spread_out_within_an_interval() {
        let (mut checks, endpoints) = (checks(), endpoints(200));
        let start = Instant::now();
        checks.watch(endpoints.iter(), start);
        assert_eq!(checks.take_due(start).len(), 1);
        assert_eq!(checks.take_due(start + SECOND / 10).len(), 50);
        assert_eq!(checks.take_due(start + SECOND).len(), 149);
    }

    #[test]
    fn those_that_leave_are_forgotten_and_the_others_stay() {
        let (mut checks, endpoints) = (checks(), endpoints(2));
        let now = Instant::now();
        checks.watch(endpoints.iter(), now);
        checks.take_due(now + SECOND);
        let [a, b] = [endpoints[0].key(), endpoints[1].key()];
        let failing = Some(failing("500"));
        checks.record(b, 0, failing.clone(), now);
        checks.watch(endpoints[1..].iter(), now);
        assert_eq!(checks.record(a, 0, failing.clone(), now), None);
        assert_eq!(checks.record(b, 0, failing.clone(), now), failing);
    }

    #[test]
    fn a_doubt_that_is_gone_makes_the_next_check_due_unless_the_last_one_passed() {
        let (mut checks, endpoints) = (checks(), endpoints(1));
        let mut now = Instant::now();
        let key = endpoints[0].key();
        checks.watch(endpoints.iter(), now);
        checks.take_due(now);
        checks.record(key, 0, Some(failing("timed out")), now);
        checks.hurry(key, now);
        assert_eq!(checks.take_due(now).len(), 1);
        // While one is running the next one follows it.
        now += SECOND / 10;
        checks.hurry(key, now);
        assert!(checks.take_due(now).is_empty());
        checks.record(key, 0, Some(failing("timed out")), now);
        assert_eq!(checks.take_due(now).len(), 1);
        checks.record(key, 0, HEALTHY, now);
        checks.hurry(key, now);
        assert!(checks.take_due(now).is_empty());
    }

    #[test]
    fn another_policy_keeps_what_is_known() {
        let (mut checks, endpoints) = (checks(), endpoints(1));
        let now = Instant::now();
        let key = endpoints[0].key();
        let failing = Some(failing("500"));
        checks.watch(endpoints.iter(), now);
        checks.take_due(now);
        checks.record(key, 0, failing.clone(), now);
        assert!(!checks.configure(Some(CheckPolicy::default()), false, now));
        assert!(checks.take_due(now).is_empty(), "nothing has changed");
        let sooner = CheckPolicy {
            interval: SECOND,
            ..CheckPolicy::default()
        };
        assert!(checks.configure(Some(sooner), false, now));
        assert!(checks.take_due(now).is_empty());
        assert_eq!(checks.take_due(now + SECOND).len(), 1);
        assert!(checks.configure(Some(sooner), true, now + SECOND));
        assert_eq!(
            checks.record(key, 1, failing.clone(), now),
            None,
            "an answer to the former question"
        );
        assert_eq!(checks.take_due(now + SECOND).len(), 1);
        assert_eq!(checks.record(key, 2, failing.clone(), now), failing);
        // Without checks nobody is asked, and what was known is forgotten.
        assert!(checks.configure(None, false, now));
        assert_eq!(checks.next_due(), None);
        assert!(checks.take_due(now + 60 * SECOND).is_empty());
        assert!(checks.configure(Some(sooner), false, now));
        assert_eq!(checks.take_due(now).len(), 1, "at once");
        assert_eq!(checks.record(key, 4, failing, now), None, "the first");
    }
}
