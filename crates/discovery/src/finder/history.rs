//! What happened lately, for those who ask why.

use std::collections::VecDeque;

use tokio::sync::watch;

use crate::updater::Transition;

/// So many events are remembered.
const EVENTS_MAX: usize = 256;

/// The last events, the oldest first.
#[derive(Debug, Default)]
pub(super) struct History {
    events: VecDeque<Transition>,
    /// The number of the next event.
    next: u64,
}

impl History {
    pub(super) fn push(&mut self, event: Transition) {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event);
        self.next += 1;
    }

    /// The first event that is remembered of those with this number or a higher one; with its number.
    fn from(&self, number: u64) -> Option<(u64, &Transition)> {
        let oldest = self.next - self.events.len() as u64;
        let number = number.max(oldest);
        let position = usize::try_from(number - oldest).ok()?;
        Some((number, self.events.get(position)?))
    }
}

/// Reads what happens to the instances of a service. Each reader hears everything, unless it lags by more
/// than 256 events: then it misses the oldest.
#[derive(Debug)]
pub struct Events {
    histories: watch::Receiver<History>,
    /// The number of the event that is read next.
    next: u64,
    missed: u64,
}

impl Events {
    pub(super) fn new(histories: watch::Receiver<History>) -> Self {
        Self {
            histories,
            next: 0,
            missed: 0,
        }
    }

    /// The next event; waits for it. `None` after the last one, when the service is closed.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no event.
    pub async fn next(&mut self) -> Option<Transition> {
        loop {
            if let Some(event) = self.try_next() {
                return Some(event);
            }
            self.histories.changed().await.ok()?;
        }
    }

    /// The next event, if it has happened.
    pub fn try_next(&mut self) -> Option<Transition> {
        let history = self.histories.borrow_and_update();
        let (number, event) = history.from(self.next)?;
        self.missed += number - self.next;
        self.next = number + 1;
        Some(event.clone())
    }

    /// How many events there were that this reader did not get to see.
    pub fn missed(&self) -> u64 {
        self.missed
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn event(number: usize) -> Transition {
        Transition {
            instance: number.to_string().as_str().into(),
            kind: "joined",
            cause: String::new(),
            at: Instant::now(),
        }
    }

    #[tokio::test]
    async fn readers_hear_everything_and_laggards_the_last() {
        let (history, histories) = watch::channel(History::default());
        let push = |number| history.send_modify(|history| history.push(event(number)));
        let mut early = Events::new(histories.clone());
        assert_eq!(early.try_next(), None);
        push(0);
        assert_eq!(early.next().await.unwrap().instance, "0".into());
        let mut lagging = Events::new(histories.clone());
        (1..=1000).for_each(push);
        let first = 1001 - EVENTS_MAX;
        assert_eq!(
            lagging.next().await.unwrap().instance,
            first.to_string().as_str().into()
        );
        assert_eq!((lagging.missed(), early.missed()), (first as u64, 0));
        drop(history);
        let mut heard = 0;
        while early.next().await.is_some() {
            heard += 1;
        }
        assert_eq!(heard, EVENTS_MAX);
        assert_eq!(early.missed(), 1000 - EVENTS_MAX as u64);
    }
}
