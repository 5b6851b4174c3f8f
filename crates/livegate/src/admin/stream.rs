//! `/api/v1/events/stream`: the flight recorder as server-sent events.
//!
//! <https://html.spec.whatwg.org/multipage/server-sent-events.html>. Each event has the JSON of
//! `/api/v1/events` as its data, and as its id its number with what tells the numbers of this
//! process from those of the ones before (`7-1767225600000`). A stream starts with what comes from now
//! on, or after `Last-Event-ID` (else `?since=`) with what is still held. Nobody waits for a slow
//! reader: what was forgotten before it read on is told as an event `missed`, `{"missed": NUMBER}`
//! (of all services). An id of another process is answered by an event `restarted`, and
//! everything that is held. Streams end when the gateway shuts down.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event as Message, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, broadcast};
use tokio_util::sync::CancellationToken;

use crate::admin::refusal::Refusal;
use crate::admin::{Admin, EventQuery, STREAMS_MAX, json as shape};
use crate::events::{Event, Events};

/// A comment is sent so often when nothing happens, so that both sides notice a dead connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long a browser is to wait before it comes back.
const RETRY: Duration = Duration::from_secs(1);

pub(super) async fn stream(
    State(admin): State<Arc<Admin>>,
    headers: HeaderMap,
    query: Result<Query<EventQuery>, QueryRejection>,
) -> Result<Response, Refusal> {
    let query = query?.0;
    query.check(&admin)?;
    let unavailable =
        |error, detail: String| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, error, detail);
    if admin.stopping.is_cancelled() {
        let detail = "the gateway is shutting down".to_owned();
        return Err(unavailable("shutting_down", detail));
    }
    let permit = Arc::clone(&admin.streams).try_acquire_owned();
    let permit = permit.map_err(|_| {
        let detail = format!("{STREAMS_MAX} streams are open, close one of them");
        unavailable("too_many_streams", detail)
    })?;
    let last_id = headers.get("last-event-id");
    let last_id = last_id.map(|value| Since::read(value.to_str().ok()?, admin.events.epoch()));
    let since = match last_id {
        Some(None) => {
            let detail = "Last-Event-ID is the id of an event";
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "bad_request", detail));
        }
        Some(Some(since)) => since,
        None => query.since.map_or(Since::Now, Since::Number),
    };
    let stopping = admin.stopping.clone();
    let follower = Follower::new(&admin.events, query.service, since, stopping, permit);
    let messages = stream::unfold(follower, async |mut follower| {
        let message = follower.next().await?;
        Some((Ok::<_, Infallible>(message), follower))
    });
    let mut response = Sse::new(messages)
        .keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
        .into_response();
    // nginx in front of it must not collect events.
    let off = axum::http::HeaderValue::from_static("no");
    response.headers_mut().insert("x-accel-buffering", off);
    Ok(response)
}

/// Where a stream starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Since {
    /// With what comes from now on.
    Now,
    /// After this event.
    Number(u64),
    /// After an event of another process.
    Foreign,
}

impl Since {
    /// `NUMBER-EPOCH`, or only a number.
    fn read(id: &str, epoch: u64) -> Option<Self> {
        let Some((number, of)) = id.split_once('-') else {
            return id.parse().ok().map(Self::Number);
        };
        let (number, of) = (number.parse().ok()?, of.parse::<u64>().ok()?);
        Some(if of == epoch {
            Self::Number(number)
        } else {
            Self::Foreign
        })
    }
}

/// One reader.
struct Follower {
    events: Events,
    service: Option<String>,
    receiver: broadcast::Receiver<Arc<Event>>,
    /// To be sent next.
    ready: VecDeque<Message>,
    /// To be sent after that; at most as many as the recorder holds, and shared with it.
    held: VecDeque<Arc<Event>>,
    /// Everything up to this number was sent, is held, or is of another service.
    seen: u64,
    stopping: CancellationToken,
    /// One of the streams that may be open.
    _permit: OwnedSemaphorePermit,
}

impl Follower {
    fn new(
        events: &Events,
        service: Option<String>,
        since: Since,
        stopping: CancellationToken,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        let mut follower = Self {
            receiver: events.follow(),
            events: events.clone(),
            service,
            ready: VecDeque::from([Message::default().retry(RETRY)]),
            held: VecDeque::new(),
            seen: 0,
            stopping,
            _permit: permit,
        };
        match since {
            Since::Number(number) => follower.catch_up(number),
            // No number is that great, so that it is one that was not given yet.
            Since::Foreign => follower.catch_up(u64::MAX),
            Since::Now => follower.seen = events.last_number(),
        }
        follower
    }

    /// Reads from the record what has come since `since`; the receiver is subscribed already, so
    /// that nothing falls between.
    fn catch_up(&mut self, since: u64) {
        let replay = self.events.replay(since, self.service.as_deref());
        if replay.is_foreign {
            let detail = "the gateway was started anew, numbers begin at 1 again";
            self.tell("restarted", &json!({ "detail": detail }));
        } else if replay.missed > 0 {
            self.tell("missed", &json!({ "missed": replay.missed }));
        }
        self.held = replay.events;
        self.seen = replay.last_number;
    }

    fn tell(&mut self, event: &str, data: &serde_json::Value) {
        let message = Message::default().event(event).data(data.to_string());
        self.ready.push_back(message);
    }

    /// The next message; `None` at the end.
    async fn next(&mut self) -> Option<Message> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Some(message);
            }
            if let Some(event) = self.held.pop_front() {
                return Some(self.message(&event));
            }
            let received = tokio::select! {
                biased;
                () = self.stopping.cancelled() => return None,
                received = self.receiver.recv() => received,
            };
            match received {
                Ok(event) if event.number <= self.seen => {}
                Ok(event) => {
                    self.seen = event.number;
                    let service = self.service.as_deref();
                    if service.is_none_or(|name| event.service.as_deref() == Some(name)) {
                        return Some(self.message(&event));
                    }
                }
                // The record holds more than the channel.
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    self.receiver = self.events.follow();
                    self.catch_up(self.seen);
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }

    fn message(&self, event: &Arc<Event>) -> Message {
        Message::default()
            .id(shape::event_id(&self.events, event.number))
            .data(shape::event(event).to_string())
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;

    fn follow(events: &Events, service: Option<&str>, since: Since) -> Follower {
        let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let service = service.map(str::to_owned);
        let mut follower = Follower::new(events, service, since, CancellationToken::new(), permit);
        // The first message says when to come back.
        assert!(follower.ready.pop_front().is_some());
        follower
    }

    fn push(events: &Events, service: &str, count: usize) {
        for _ in 0..count {
            events.push(Some(service.into()), None, "joined", "listed");
        }
    }

    /// Numbers held and announcements ready.
    fn state(follower: &Follower) -> (usize, Vec<u64>) {
        let held = follower.held.iter().map(|event| event.number).collect();
        (follower.ready.len(), held)
    }

    #[test]
    fn a_reader_starts_where_it_left_off() {
        let events = Events::new(3);
        push(&events, "a", 2);
        push(&events, "b", 3);
        assert_eq!(state(&follow(&events, None, Since::Now)), (0, vec![]));
        assert_eq!(
            state(&follow(&events, None, Since::Number(3))),
            (0, vec![4, 5])
        );
        assert_eq!(
            state(&follow(&events, None, Since::Number(0))),
            (1, vec![3, 4, 5])
        );
        assert_eq!(
            state(&follow(&events, Some("a"), Since::Number(2))),
            (0, vec![])
        );
        assert_eq!(
            state(&follow(&events, None, Since::Number(77))),
            (1, vec![3, 4, 5])
        );
    }

    #[test]
    fn ids_of_other_processes_are_foreign() {
        assert_eq!(Since::read("7-100", 100), Some(Since::Number(7)));
        assert_eq!(Since::read("7", 100), Some(Since::Number(7)));
        assert_eq!(Since::read("7-99", 100), Some(Since::Foreign));
        for id in ["", "x", "7-", "-7", "7-x"] {
            assert_eq!(Since::read(id, 100), None, "{id}");
        }
        let events = Events::new(3);
        push(&events, "a", 1);
        assert_eq!(state(&follow(&events, None, Since::Foreign)), (1, vec![1]));
    }

    #[tokio::test]
    async fn a_slow_reader_is_told_what_it_missed_and_goes_on() {
        let events = Events::new(2000);
        let mut follower = follow(&events, Some("a"), Since::Now);
        push(&events, "b", 5000);
        push(&events, "a", 2);
        assert!(follower.next().await.is_some());
        assert_eq!(
            state(&follower),
            (0, vec![5001, 5002]),
            "one was told: missed"
        );
        for _ in 0..2 {
            assert!(follower.next().await.is_some());
        }
        push(&events, "b", 10);
        push(&events, "a", 1);
        assert!(follower.next().await.is_some());
        assert_eq!(follower.seen, 5013);
        follower.stopping.cancel();
        assert!(follower.next().await.is_none());
    }
}
