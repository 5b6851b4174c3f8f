//! Trials: endpoints in doubt are asked at once, and then again and again until the doubt is gone,
//! whatever the regular checks do. They cost no request its time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::endpoint::{Endpoint, EndpointKey};
use crate::updater::Doubt;

/// The trials of one service.
#[derive(Debug)]
pub(crate) struct Trials {
    trials: BTreeMap<EndpointKey, Trial>,
    /// Those whose doubt is gone, and since when.
    cleared: BTreeMap<EndpointKey, Instant>,
    /// How many are tried because they are held.
    held: u32,
    random: fastrand::Rng,
}

#[derive(Debug)]
struct Trial {
    endpoint: Arc<Endpoint>,
    doubt: Doubt,
    due: Instant,
    pause: Duration,
    is_running: bool,
}

/// Between the first trial and the second; it doubles from there.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Before the first trial of an endpoint that was cleared within the last second: one that drops
/// every tenth connection must not keep the gateway busy.
const PAUSE_AGAIN: Duration = Duration::from_millis(10);
/// How long that is remembered.
const CLEARED_FOR: Duration = Duration::from_secs(1);
/// A restarted instance is noticed within this time.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// A frozen process keeps every connection that it is tried with.
const SPEAK_PAUSE_MAX: Duration = Duration::from_secs(5);
/// Between two trials of one that is held.
const HELD_PAUSE: Duration = Duration::from_secs(1);
/// When many are held, so many trials are made in a second at most.
const HELD_PER_SECOND: u32 = 1000;
/// Pauses vary by up to a fifth either way, so that gateways fall out of step.
const JITTER: f64 = 0.2;

impl Trials {
    /// No trials yet; `seed` fixes the jitter.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            trials: BTreeMap::new(),
            cleared: BTreeMap::new(),
            held: 0,
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// Tries these from now on, and no others. New ones are due at once.
    pub(crate) fn watch<'a>(
        &mut self,
        doubts: impl Iterator<Item = (&'a Arc<Endpoint>, Doubt)>,
        now: Instant,
    ) {
        let mut before = std::mem::take(&mut self.trials);
        self.cleared
            .retain(|_, since| now.saturating_duration_since(*since) < CLEARED_FOR);
        let mut held = 0;
        for (endpoint, doubt) in doubts {
            let trial = match before.remove(&endpoint.key()) {
                Some(trial) if trial.doubt == doubt => trial,
                before => Trial {
                    endpoint: Arc::clone(endpoint),
                    doubt,
                    due: match self.cleared.remove(&endpoint.key()) {
                        _ if doubt == Doubt::Held => now + held * (HELD_PAUSE / HELD_PER_SECOND),
                        Some(_) if before.is_none() => now + PAUSE_AGAIN,
                        Some(_) | None => now,
                    },
                    pause: PAUSE_MIN,
                    is_running: false,
                },
            };
            held += u32::from(doubt == Doubt::Held);
            self.trials.insert(endpoint.key(), trial);
        }
        self.held = held;
        self.cleared
            .extend(before.into_keys().map(|key| (key, now)));
    }

    /// When the next trial is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.trials
            .values()
            .filter(|trial| !trial.is_running)
            .map(|trial| trial.due)
            .min()
    }

    /// The trials that are due. Each is taken to run until it is [recorded](Self::record).
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<(Arc<Endpoint>, Doubt)> {
        let mut due = Vec::new();
        for trial in self
            .trials
            .values_mut()
            .filter(|trial| !trial.is_running && trial.due <= now)
        {
            trial.is_running = true;
            due.push((Arc::clone(&trial.endpoint), trial.doubt));
        }
        due
    }

    /// A trial has ended; if the doubt stands, the next one follows after a pause.
    pub(crate) fn record(&mut self, key: EndpointKey, doubt: Doubt, now: Instant) {
        let Some(trial) = self
            .trials
            .get_mut(&key)
            .filter(|trial| trial.doubt == doubt)
        else {
            return;
        };
        let jitter = 1.0 + JITTER * (2.0 * self.random.f64() - 1.0);
        let (pause, pause_max) = match doubt {
            Doubt::Connects => (trial.pause, PAUSE_MAX),
            Doubt::Speaks => (trial.pause, SPEAK_PAUSE_MAX),
            Doubt::Held => {
                let pause = HELD_PAUSE.max(self.held * (HELD_PAUSE / HELD_PER_SECOND));
                (pause, pause)
            }
        };
        trial.is_running = false;
        trial.due = now + pause.mul_f64(jitter);
        trial.pause = (pause * 2).min(pause_max);
    }
}

#[cfg(test)]
mod tests {
    use crate::balancer::channel;
    use crate::policy::Policy;
    use crate::snapshot::{Instance, Snapshot};

    use super::*;

    fn endpoint() -> Arc<Endpoint> {
        let (mut updater, _) = channel(Policy::default(), 1);
        let instance = Instance::listed(([10, 0, 0, 1], 80).into(), 1);
        updater.apply(&Snapshot::live(1, [instance]), Instant::now());
        Arc::clone(updater.endpoints().next().unwrap())
    }

    #[test]
    fn at_once_then_ever_more_slowly() {
        for (doubt, longest) in [(Doubt::Connects, 1000), (Doubt::Speaks, 5000)] {
            let (mut trials, endpoint) = (Trials::new(1), endpoint());
            let mut now = Instant::now();
            let mut expected = 50;
            for _ in 0..12 {
                trials.watch([(&endpoint, doubt)].into_iter(), now);
                assert_eq!(trials.take_due(now).len(), 1);
                assert_eq!(trials.next_due(), None, "it is running");
                trials.record(endpoint.key(), doubt, now);
                let due = trials.next_due().unwrap();
                let pause = (due - now).as_millis();
                assert!(
                    (expected * 8 / 10..=expected * 12 / 10).contains(&pause),
                    "{pause} for {expected}"
                );
                assert!(trials.take_due(due - Duration::from_nanos(1)).is_empty());
                now = due;
                expected = (expected * 2).min(longest);
            }
        }
    }

    #[test]
    fn those_that_are_held_are_tried_at_once_and_every_second() {
        let (mut trials, endpoint) = (Trials::new(1), endpoint());
        let mut now = Instant::now();
        for _ in 0..5 {
            trials.watch([(&endpoint, Doubt::Held)].into_iter(), now);
            assert_eq!(trials.take_due(now).len(), 1);
            trials.record(endpoint.key(), Doubt::Held, now);
            let due = trials.next_due().unwrap();
            assert!((800..=1200).contains(&(due - now).as_millis()));
            now = due;
        }
    }

    #[test]
    fn a_great_crowd_is_tried_at_a_bounded_rate() {
        let (mut updater, _) = channel(Policy::default(), 1);
        let instances = (0..5000u16).map(|n| Instance::listed(([10, 0, 0, 1], n + 1).into(), 1));
        updater.apply(&Snapshot::live(1, instances), Instant::now());
        let doubts = || updater.endpoints().map(|endpoint| (endpoint, Doubt::Held));
        let mut trials = Trials::new(1);
        let start = Instant::now();
        let (mut now, mut tried) = (start, 0);
        while now < start + Duration::from_secs(20) {
            trials.watch(doubts(), now);
            for (endpoint, doubt) in trials.take_due(now) {
                trials.record(endpoint.key(), doubt, now);
                tried += 1;
            }
            now += Duration::from_millis(100);
        }
        assert!((15_000..=24_000).contains(&tried), "{tried} in 20 s");
    }

    #[test]
    fn no_doubt_no_trial_and_a_new_doubt_begins_anew() {
        let (mut trials, endpoint) = (Trials::new(1), endpoint());
        let now = Instant::now();
        trials.watch([(&endpoint, Doubt::Speaks)].into_iter(), now);
        trials.take_due(now);
        trials.watch(std::iter::empty(), now);
        trials.record(endpoint.key(), Doubt::Speaks, now);
        assert_eq!(trials.next_due(), None);
        trials.watch([(&endpoint, Doubt::Speaks)].into_iter(), now);
        trials.take_due(now);
        trials.watch([(&endpoint, Doubt::Connects)].into_iter(), now);
        assert_eq!(trials.take_due(now).len(), 1);
    }

    #[test]
    fn one_that_goes_in_and_out_is_not_tried_at_once_each_time() {
        let (mut trials, endpoint) = (Trials::new(1), endpoint());
        let mut now = Instant::now();
        for (wait, at_once) in [(0, 1), (500, 0), (500, 0), (1500, 1)] {
            now += Duration::from_millis(wait);
            trials.watch([(&endpoint, Doubt::Connects)].into_iter(), now);
            assert_eq!(trials.take_due(now).len(), at_once);
            now += PAUSE_AGAIN;
            assert_eq!(trials.take_due(now).len(), 1 - at_once);
            trials.watch(std::iter::empty(), now);
        }
    }
}
