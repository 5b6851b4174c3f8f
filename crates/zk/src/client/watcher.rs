//! What a caller holds of a watch: a one-shot [`Watch`] or a persistent [`Watcher`].

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::proto::watch::{AddWatchMode, EventKind};

/// Something happened to a node that is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchEvent {
    /// What happened.
    pub kind: EventKind,
    /// To which node; for a recursive watcher one at or below the watched node.
    pub path: String,
    /// The transaction that did it, if the server tells (from 3.9 on, and not for what is caught up
    /// after a connection was lost).
    pub zxid: Option<i64>,
}

/// A watch that fires once. Dropping it removes it.
///
/// It lives through lost connections and through new sessions: when the node changed meanwhile, it fires
/// after the connection is back. One change cannot be seen then: a node that was missing, was created
/// and deleted again. After a session that ended because
/// [the servers are behind](super::ExpiryCause::ServersBehind) it fires in any case.
#[derive(Debug)]
pub struct Watch {
    outcome: WatchOutcome,
    registration: Registration,
}

#[derive(Debug)]
enum WatchOutcome {
    Waiting(oneshot::Receiver<WatchEvent>),
    Fired(WatchEvent),
    Ended,
}

impl Watch {
    pub(crate) fn new(receiver: oneshot::Receiver<WatchEvent>, registration: Registration) -> Self {
        Self {
            outcome: WatchOutcome::Waiting(receiver),
            registration,
        }
    }

    /// Waits until it fires. `None` when it never will, because it was removed or the client closed.
    ///
    /// # Cancel safety
    /// Cancelling loses nothing. When it has fired, each call returns the event.
    pub async fn fired(&mut self) -> Option<WatchEvent> {
        if let WatchOutcome::Waiting(receiver) = &mut self.outcome {
            self.outcome = receiver
                .await
                .map_or(WatchOutcome::Ended, WatchOutcome::Fired);
            self.registration.defuse();
        }
        match &self.outcome {
            WatchOutcome::Fired(event) => Some(event.clone()),
            WatchOutcome::Waiting(_) | WatchOutcome::Ended => None,
        }
    }
}

/// What a [`Watcher`] is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notification {
    /// Something happened.
    Event(WatchEvent),
    /// Things may have happened that no event tells. The watcher is in place again: what is read from
    /// now on, and the events that follow, are complete.
    Gap(Gap),
}

/// Why events may be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gap {
    /// The connection was lost, and the session attached again.
    Reattached,
    /// The session was over, and there is a new one.
    NewSession,
    /// Notifications were left unread until there were more than
    /// [`watch_queue_max`](super::ConnectOptions::watch_queue_max); they were thrown away.
    Overflow,
}

/// A persistent watch. Dropping it removes it.
///
/// It lives through lost connections and through new sessions, after which there is a
/// [gap](Notification::Gap). Servers send no event for what happened meanwhile.
#[derive(Debug)]
pub struct Watcher {
    queue: Arc<Queue>,
    /// Removes the watch when dropped.
    _registration: Registration,
}

impl Watcher {
    pub(crate) fn new(queue: Arc<Queue>, registration: Registration) -> Self {
        Self {
            queue,
            _registration: registration,
        }
    }

    /// Waits for the next notification. `None` when there will be no more, because the watch was removed
    /// or the client closed.
    ///
    /// # Cancel safety
    /// Cancelling loses nothing.
    pub async fn next(&mut self) -> Option<Notification> {
        loop {
            if let Some(next) = self.queue.pop() {
                return next;
            }
            self.queue.ready.notified().await;
        }
    }

    /// The next notification, if there is one already.
    pub fn try_next(&mut self) -> Option<Notification> {
        self.queue.pop().flatten()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.queue.state.lock().ended = true;
    }
}

/// Notifications on their way to a [`Watcher`]: bounded, and never waited for.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) mode: AddWatchMode,
    items_max: usize,
    state: Mutex<QueueState>,
    ready: Notify,
}

#[derive(Debug, Default)]
struct QueueState {
    items: VecDeque<Notification>,
    /// Nobody writes or nobody reads any more.
    ended: bool,
}

impl Queue {
    pub(crate) fn new(mode: AddWatchMode, items_max: usize) -> Self {
        Self {
            mode,
            items_max: items_max.max(1),
            state: Mutex::default(),
            ready: Notify::new(),
        }
    }

    /// The next item; `Some(None)` at the end.
    #[expect(
        clippy::option_option,
        reason = "nothing yet, nothing any more, and something differ"
    )]
    pub(crate) fn pop(&self) -> Option<Option<Notification>> {
        let mut state = self.state.lock();
        match state.items.pop_front() {
            Some(item) => Some(Some(item)),
            None if state.ended => Some(None),
            None => None,
        }
    }

    /// Adds an item. When there are too many, all are replaced by the news that there was a gap.
    pub(crate) fn push(&self, item: Notification) {
        let mut state = self.state.lock();
        if state.ended || matches!(item, Notification::Gap(_)) && state.items.back() == Some(&item)
        {
            return;
        }
        if state.items.len() >= self.items_max {
            state.items.clear();
            state.items.push_back(Notification::Gap(Gap::Overflow));
        } else {
            state.items.push_back(item);
        }
        drop(state);
        self.ready.notify_one();
    }

    /// Says that nothing more will come.
    pub(crate) fn end(&self) {
        self.state.lock().ended = true;
        self.ready.notify_one();
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.state.lock().ended
    }
}

/// A place in the watch table, given back when dropped.
#[derive(Debug)]
pub(crate) struct Registration {
    pub(crate) path: Arc<str>,
    pub(crate) id: u64,
    released: Option<Arc<Released>>,
}

impl Registration {
    pub(crate) fn new(path: Arc<str>, id: u64, released: Arc<Released>) -> Self {
        Self {
            path,
            id,
            released: Some(released),
        }
    }

    /// Makes dropping it do nothing: the table has no such entry any more.
    fn defuse(&mut self) {
        self.released = None;
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(released) = &self.released {
            released
                .places
                .lock()
                .push((Arc::clone(&self.path), self.id));
            released.ready.notify_one();
        }
    }
}

/// Places given back that the task has not seen yet. The task empties it whether there is a connection
/// or not, so it holds no more than were dropped since the task last ran.
#[derive(Debug, Default)]
pub(crate) struct Released {
    places: Mutex<Vec<(Arc<str>, u64)>>,
    pub(crate) ready: Notify,
}

impl Released {
    pub(crate) fn take(&self) -> Vec<(Arc<str>, u64)> {
        std::mem::take(&mut *self.places.lock())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(path: &str) -> Notification {
        let path = path.to_owned();
        Notification::Event(WatchEvent {
            kind: EventKind::Created,
            path,
            zxid: None,
        })
    }

    #[test]
    fn an_overflow_becomes_a_gap() {
        let queue = Queue::new(AddWatchMode::Persistent, 2);
        queue.push(event("/1"));
        queue.push(event("/2"));
        queue.push(event("/3"));
        queue.push(event("/4"));
        assert_eq!(queue.pop(), Some(Some(Notification::Gap(Gap::Overflow))));
        assert_eq!(queue.pop(), Some(Some(event("/4"))));
        assert_eq!(queue.pop(), None);
        queue.push(event("/5"));
        queue.end();
        queue.push(event("/6"));
        assert_eq!(queue.pop(), Some(Some(event("/5"))));
        assert_eq!(queue.pop(), Some(None));
    }

    #[test]
    fn the_same_gap_is_told_once() {
        let queue = Queue::new(AddWatchMode::Persistent, 8);
        queue.push(Notification::Gap(Gap::Reattached));
        queue.push(Notification::Gap(Gap::Reattached));
        queue.push(Notification::Gap(Gap::NewSession));
        assert_eq!(queue.pop(), Some(Some(Notification::Gap(Gap::Reattached))));
        assert_eq!(queue.pop(), Some(Some(Notification::Gap(Gap::NewSession))));
        assert_eq!(queue.pop(), None);
    }

    #[tokio::test]
    async fn dropping_gives_the_place_back_unless_it_fired() {
        let released = Arc::new(Released::default());
        let registration = |id| Registration::new("/a".into(), id, Arc::clone(&released));
        let (sender, receiver) = oneshot::channel();
        let mut watch = Watch::new(receiver, registration(1));
        let fired = WatchEvent {
            kind: EventKind::Deleted,
            path: "/a".to_owned(),
            zxid: Some(7),
        };
        sender.send(fired.clone()).unwrap();
        assert_eq!(watch.fired().await, Some(fired.clone()));
        assert_eq!(watch.fired().await, Some(fired));
        drop(watch);
        let (sender, receiver) = oneshot::channel();
        let mut watch = Watch::new(receiver, registration(2));
        drop(sender);
        assert_eq!(watch.fired().await, None);
        drop(watch);
        assert!(released.take().is_empty());
        let (_sender, receiver) = oneshot::channel();
        drop(Watch::new(receiver, registration(3)));
        let queue = Arc::new(Queue::new(AddWatchMode::Persistent, 1));
        drop(Watcher::new(Arc::clone(&queue), registration(4)));
        assert!(queue.is_ended());
        assert_eq!(released.take(), [("/a".into(), 3), ("/a".into(), 4)]);
    }
}
