//! The flight recorder: the last transitions of the gateway, each with its cause.
//!
//! Events are written by the control side only (cluster tasks, reloads), never for a request, so
//! one short lock is cheap enough. The recorder holds a bounded number of events and forgets the
//! oldest; numbers never repeat within one process, so a reader can tell what it has missed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use tokio::sync::broadcast;

/// One transition and why it happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Counts up from 1, without gaps.
    pub number: u64,
    /// When it was recorded.
    pub at: SystemTime,
    /// The service it is about; `None` for the gateway as a whole.
    pub service: Option<Arc<str>>,
    /// The instance it is about.
    pub instance: Option<Arc<str>>,
    /// What happened, one lower-case word or two with an underscore: `joined`, `ejected`.
    pub kind: &'static str,
    /// Why, in words: "connection refused", "probe: status 500".
    pub cause: String,
}

/// Records events and hands them to readers. Clones share one record.
#[derive(Debug, Clone)]
pub struct Events {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    epoch: u64,
    record: Mutex<Record>,
    followers: broadcast::Sender<Arc<Event>>,
}

#[derive(Debug)]
struct Record {
    capacity: usize,
    last_number: u64,
    events: VecDeque<Arc<Event>>,
}

/// What a reader is to be told that was away for a while.
#[derive(Debug)]
pub struct Replay {
    /// The reader's number is not from this process.
    pub is_foreign: bool,
    /// How many events, of whatever service, are forgotten already.
    pub missed: u64,
    /// What is still held, oldest first.
    pub events: VecDeque<Arc<Event>>,
    /// The latest number of all; whoever followed before has everything after it.
    pub last_number: u64,
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// How many events a follower may lag behind before it is told that it has missed some.
const FOLLOWER_BACKLOG: usize = 1024;

impl Events {
    /// A recorder of the last `capacity` events (at least 1).
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.max(1);
        let (followers, _) = broadcast::channel(FOLLOWER_BACKLOG);
        let record = Record {
            capacity,
            last_number: 0,
            events: VecDeque::new(),
        };
        Self {
            shared: Arc::new(Shared {
                epoch: now_ms(),
                record: Mutex::new(record),
                followers,
            }),
        }
    }

    /// Records an event and returns its number.
    pub fn push(
        &self,
        service: Option<Arc<str>>,
        instance: Option<Arc<str>>,
        kind: &'static str,
        cause: impl Into<String>,
    ) -> u64 {
        let cause = cause.into();
        tracing::debug!(
            service = service.as_deref(),
            instance = instance.as_deref(),
            "{kind}: {cause}"
        );
        let mut record = self.record();
        record.last_number += 1;
        let number = record.last_number;
        let event = Arc::new(Event {
            number,
            at: SystemTime::now(),
            service,
            instance,
            kind,
            cause,
        });
        if record.events.len() == record.capacity {
            record.events.pop_front();
        }
        record.events.push_back(Arc::clone(&event));
        // Sent under the lock, so that followers see events in the order of their numbers; the
        // channel never blocks. No follower at all is the usual case and no error.
        drop(self.shared.followers.send(event));
        number
    }

    /// The events still held with a number greater than `since`, oldest first, of one service if
    /// one is named.
    pub fn since(&self, since: u64, service: Option<&str>) -> Vec<Arc<Event>> {
        let record = self.record();
        record
            .events
            .iter()
            .filter(|event| event.number > since)
            .filter(|event| service.is_none_or(|name| event.service.as_deref() == Some(name)))
            .cloned()
            .collect()
    }

    /// Tells this process' numbers from those of the ones before: when it began, in milliseconds.
    pub fn epoch(&self) -> u64 {
        self.shared.epoch
    }

    /// What a reader is to be told that has seen everything up to `since`, of one service if one is
    /// named. A number that was not given yet is from another process: then it starts over.
    pub fn replay(&self, since: u64, service: Option<&str>) -> Replay {
        let record = self.record();
        let is_foreign = since > record.last_number;
        let since = if is_foreign { 0 } else { since };
        let oldest = record.last_number + 1 - record.events.len() as u64;
        let events = record
            .events
            .iter()
            .filter(|event| event.number > since)
            .filter(|event| service.is_none_or(|name| event.service.as_deref() == Some(name)))
            .cloned()
            .collect();
        Replay {
            is_foreign,
            missed: oldest.saturating_sub(since + 1),
            events,
            last_number: record.last_number,
        }
    }

    /// The number of the latest event, 0 before the first.
    pub fn last_number(&self) -> u64 {
        self.record().last_number
    }

    /// Every event from now on. A follower that lags too far gets `RecvError::Lagged` and goes on
    /// with what is still held.
    pub fn follow(&self) -> broadcast::Receiver<Arc<Event>> {
        self.shared.followers.subscribe()
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.shared
            .record
            .lock()
            .expect("nothing under this lock panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(events: &[Arc<Event>]) -> Vec<u64> {
        events.iter().map(|event| event.number).collect()
    }

    #[test]
    fn the_oldest_are_forgotten_and_numbers_go_on() {
        let events = Events::new(3);
        for cause in ["a", "b", "c", "d", "e"] {
            events.push(None, None, "joined", cause);
        }
        assert_eq!(events.last_number(), 5);
        assert_eq!(numbers(&events.since(0, None)), [3, 4, 5]);
        assert_eq!(numbers(&events.since(4, None)), [5]);
        assert!(events.since(5, None).is_empty());
    }

    #[test]
    fn a_reader_that_was_away_is_told_what_it_missed() {
        let events = Events::new(3);
        for service in ["a", "b", "a", "b", "a"] {
            events.push(Some(service.into()), None, "joined", "");
        }
        let replay = |since, service| {
            let replay = events.replay(since, service);
            let events: Vec<u64> = replay.events.iter().map(|event| event.number).collect();
            assert_eq!(replay.last_number, 5);
            (replay.is_foreign, replay.missed, events)
        };
        assert_eq!(replay(0, None), (false, 2, vec![3, 4, 5]));
        assert_eq!(replay(1, Some("a")), (false, 1, vec![3, 5]));
        assert_eq!(replay(2, None), (false, 0, vec![3, 4, 5]));
        assert_eq!(replay(5, None), (false, 0, vec![]));
        assert_eq!(replay(6, Some("b")), (true, 2, vec![4]));
        assert_eq!(Events::new(3).replay(0, None).missed, 0);
    }

    #[test]
    fn one_service_can_be_asked_for() {
        let events = Events::new(10);
        events.push(
            Some("orders".into()),
            Some("10.0.0.1:80".into()),
            "ejected",
            "5 failures",
        );
        events.push(Some("users".into()), None, "live", "listed");
        events.push(None, None, "reloaded", "SIGHUP");
        assert_eq!(numbers(&events.since(0, Some("users"))), [2]);
        assert!(events.since(1, Some("orders")).is_empty());
    }

    #[test]
    fn followers_get_what_comes_after_they_subscribed_in_order() {
        let events = Events::new(2);
        events.push(None, None, "reloaded", "before");
        let mut follower = events.follow();
        for number in 2..=6 {
            assert_eq!(events.push(None, None, "reloaded", "after"), number);
        }
        for number in 2..=6 {
            assert_eq!(follower.try_recv().expect("an event").number, number);
        }
        assert!(follower.try_recv().is_err());
    }
}
