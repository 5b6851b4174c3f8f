//! One client connection, from its first request to its last.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use livegate_discovery::Outcome;
use tokio::net::TcpStream;

use crate::access_log::Entry;
use crate::buffer::Buffer;
use crate::cluster::Cluster;
use crate::control::Gateway;
use crate::http::Framing;
use crate::proxy::answer;
use crate::proxy::body::Body;
use crate::proxy::downstream::{Downstream, Idle};
use crate::proxy::error::ProxyError;
use crate::proxy::exchange::{Broken, Setting};
use crate::proxy::forward::{Attempt, Forward, Tried, Unanswered};
use crate::proxy::outgoing::Outgoing;
use crate::proxy::prepare::{Facts, Note, Origin, Plan, Prepared, prepare};
use crate::proxy::tunnel;
use crate::route::{Action, Route};
use crate::worker::Worker;

/// The status that metrics and logs give a request whose client left before the response,
/// as nginx does.
const CLIENT_GONE: u16 = 499;

/// What becomes of a connection after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// The next request.
    Keep,
    /// An orderly end: what the client still sends is read, so that it can read to the end
    /// what it was sent.
    Close,
    /// An end at once: nothing more is to come from the client, or what it was sent shows
    /// by its framing that it is not whole.
    Cut,
    /// An end before the response's, which nothing else would show.
    Reset,
}

/// Serves one client until either side ends.
pub async fn serve(stream: TcpStream, peer: SocketAddr, worker: Rc<Worker>) {
    let _entered = poll_fn(|cx| Poll::Ready(worker.enter(cx.waker().clone()))).await;
    let mut idle_timeout = worker.gateway().http.idle_timeout;
    let mut down = Downstream::new(stream, peer);
    while down.await_request(&worker, idle_timeout).await == Idle::Request {
        let gateway = worker.gateway();
        idle_timeout = gateway.http.idle_timeout;
        // Boxed, so that an idle connection does not hold the room for an exchange.
        match Box::pin(request(&mut down, &worker, gateway)).await {
            Next::Keep => {}
            Next::Close => return down.linger().await,
            Next::Cut => return,
            Next::Reset => return reset(&down.stream),
        }
    }
}

/// Closes with a reset: a response without framing would look whole after a plain end.
fn reset(stream: &TcpStream) {
    if let Err(error) = rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO)) {
        tracing::debug!("a truncated response ends like a whole one: {error}");
    }
}

/// What is kept of a request for metrics and the access log.
struct Record {
    began: Instant,
    noted: Option<Noted>,
    tried: Tried,
    status: u16,
    bytes: u64,
    reason: Option<&'static str>,
    route: Option<Arc<Route>>,
}

#[derive(Default)]
struct Noted {
    text: Vec<u8>,
    method: usize,
    target: usize,
}

impl Note for Noted {
    fn note(&mut self, method: &str, target: &[u8], request_id: &[u8]) {
        self.text
            .reserve_exact(method.len() + target.len() + request_id.len());
        self.text.extend_from_slice(method.as_bytes());
        self.text.extend_from_slice(target);
        self.text.extend_from_slice(request_id);
        self.method = method.len();
        self.target = target.len();
    }
}

impl Record {
    fn cluster(&self) -> Option<&Arc<Cluster>> {
        match self.route.as_ref().map(|route| &route.action) {
            Some(Action::Service(cluster)) => Some(cluster),
            Some(Action::Status(_) | Action::Redirect { .. }) | None => None,
        }
    }

    fn write(&self, worker: &Worker, down: &Downstream) {
        let duration = down.now.saturating_duration_since(self.began);
        match &self.route {
            Some(route) => route.metrics.count(worker.id, self.status),
            None => worker.shared.unrouted.count(worker.id, self.status),
        }
        if let Some(cluster) = self.cluster() {
            cluster.metrics.observe_duration(worker.id, duration);
        }
        let mut log = worker.log.borrow_mut();
        let (Some(noted), Some(log)) = (&self.noted, log.as_mut()) else {
            return;
        };
        let (method, rest) = noted.text.split_at(noted.method);
        let (target, request_id) = rest.split_at(noted.target);
        log.push(&Entry {
            time: SystemTime::now() - duration,
            client: down.peer,
            method,
            target,
            status: self.status,
            bytes: self.bytes,
            duration,
            service: self.cluster().map(|cluster| &*cluster.name),
            upstream: self.tried.upstream,
            attempts: self.tried.attempts,
            reason: self.reason,
            request_id,
        });
    }
}

/// Serves one request.
async fn request(down: &mut Downstream, worker: &Rc<Worker>, gateway: Arc<Gateway>) -> Next {
    let mut record = Record {
        began: down.now,
        noted: worker.log.borrow().is_some().then(Noted::default),
        tried: Tried::default(),
        status: 0,
        bytes: 0,
        reason: None,
        route: None,
    };
    // Without memory until there is something to write.
    let mut out = Buffer::none();
    let next = match read_head(down, worker, &gateway, &mut out, &mut record).await {
        Head::Prepared(prepared) => {
            record.route = prepared.route;
            down.buffer.consume(prepared.head_length);
            act(
                down,
                worker,
                &gateway,
                prepared.facts,
                prepared.plan,
                out,
                &mut record,
            )
            .await
        }
        Head::Refused(error) => refuse(down, worker, None, &error, out, &mut record).await,
        // Not a request: nothing to count.
        Head::Nothing => return Next::Close,
    };
    record.write(worker, down);
    next
}

enum Head {
    Prepared(Prepared),
    Refused(ProxyError),
    Nothing,
}

async fn read_head(
    down: &mut Downstream,
    worker: &Rc<Worker>,
    gateway: &Gateway,
    out: &mut Buffer,
    record: &mut Record,
) -> Head {
    let bytes_max = usize::try_from(gateway.http.header_bytes_max).unwrap_or(usize::MAX);
    loop {
        match understand(down, worker, gateway, out, record) {
            Ok(Some(prepared)) => return Head::Prepared(prepared),
            Ok(None) => {}
            Err(error) => return Head::Refused(error),
        }
        if down.buffer.len() >= bytes_max {
            // Only empty lines before the head can hide this from the parser.
            return Head::Refused(ProxyError::HeadersTooLarge);
        }
        let deadline = record.began + gateway.http.header_timeout;
        let seen = down.buffer.len();
        // Whole lines only: a head that comes byte by byte is not parsed for every byte.
        loop {
            match down.read_more(bytes_max, deadline).await {
                Some(true)
                    if down.buffer.filled()[seen..].contains(&b'\n')
                        || down.buffer.len() >= bytes_max =>
                {
                    break;
                }
                Some(true) => {}
                Some(false) => return Head::Nothing,
                None => return Head::Refused(ProxyError::RequestTimeout),
            }
        }
    }
}

/// Reads what has come so far.
fn understand(
    down: &Downstream,
    worker: &Worker,
    gateway: &Gateway,
    out: &mut Buffer,
    record: &mut Record,
) -> Result<Option<Prepared>, ProxyError> {
    let origin = Origin {
        ip: down.peer.ip(),
        ip_text: down.ip_text(),
        local_host: &|| {
            down.stream
                .local_addr()
                .map(|address| address.to_string())
                .unwrap_or_default()
        },
    };
    let note = record.noted.as_mut().map(|noted| noted as &mut dyn Note);
    let mut scratch = worker.scratch.borrow_mut();
    prepare(
        down.buffer.filled(),
        gateway,
        origin,
        &mut scratch,
        out,
        note,
    )
}

/// Does what is to be done.
async fn act(
    down: &mut Downstream,
    worker: &Rc<Worker>,
    gateway: &Gateway,
    facts: Facts,
    plan: Plan,
    mut out: Buffer,
    record: &mut Record,
) -> Next {
    let (cluster, key) = match plan {
        Plan::Forward { cluster, key } => (cluster, key),
        Plan::Refuse(error) => {
            return refuse(down, worker, Some(&facts), &error, out, record).await;
        }
        Plan::Status(_) | Plan::Redirect(_) => {
            let closes = closes_after_own_answer(down, worker, &facts);
            let date = worker.date();
            let terms = facts.terms(closes, &date);
            match record.route.as_ref().map(|route| &route.action) {
                Some(Action::Redirect { status, location }) => {
                    answer::write_redirect(&mut out, *status, location, terms);
                    record.status = *status;
                }
                Some(Action::Status(status)) => {
                    answer::write_status(&mut out, *status, terms);
                    record.status = *status;
                }
                Some(Action::Service(_)) | None => {
                    unreachable!("the plan was made from this action")
                }
            }
            return send(down, gateway, out, closes, record).await;
        }
    };
    let body = Body::new(facts.framing, true);
    let mut outgoing = match Outgoing::new(out, body, &mut down.buffer, gateway.http.body_bytes_max)
    {
        Ok(outgoing) => outgoing,
        Err(error) => {
            return refuse(down, worker, Some(&facts), &error, Buffer::none(), record).await;
        }
    };
    if down.buffer.is_empty() {
        down.buffer = Buffer::none();
    }
    let mut slot = None;
    let mut forward = Forward {
        down,
        outgoing: &mut outgoing,
        facts: &facts,
        cluster: &cluster,
        key,
        worker,
    };
    match forward.run(&mut record.tried, &mut slot).await {
        Ok(()) => {
            relay(
                down,
                worker,
                &facts,
                &cluster,
                &mut outgoing,
                &mut slot,
                record,
            )
            .await
        }
        Err(Unanswered::ClientGone) => {
            record.status = CLIENT_GONE;
            Next::Cut
        }
        Err(Unanswered::Error(error, out)) => {
            let facts = Facts {
                // What is left of the body would be taken for the next request.
                framing: if outgoing.is_body_received() {
                    Framing::None
                } else {
                    facts.framing
                },
                ..facts
            };
            refuse(down, worker, Some(&facts), &error, out, record).await
        }
    }
}

/// Passes the response on and puts everything back in its place.
async fn relay(
    down: &mut Downstream,
    worker: &Rc<Worker>,
    facts: &Facts,
    cluster: &Cluster,
    outgoing: &mut Outgoing,
    slot: &mut Option<Attempt>,
    record: &mut Record,
) -> Next {
    let Some(Attempt { exchange, pick }) = slot else {
        unreachable!("an answered request leaves its attempt")
    };
    record.status = exchange.status;
    let latency = match (exchange.sent_at, exchange.answered) {
        (Some(sent), Some(answered)) => answered.saturating_duration_since(sent),
        _ => Duration::ZERO,
    };
    let outcome = Outcome::Answered {
        status: exchange.status,
        latency,
    };
    if exchange.is_tunnel {
        let Some(Attempt { mut exchange, pick }) = slot.take() else {
            return Next::Cut;
        };
        let reply = exchange.take_reply();
        record.bytes = Box::pin(tunnel::run(down, exchange.into_tunnel(), reply, &pick)).await;
        down.now = Instant::now();
        pick.finish(outcome, down.now);
        return Next::Close;
    }
    let mut setting = Setting {
        down: &mut *down,
        outgoing,
        facts,
        pick,
        timeouts: &cluster.config.timeouts,
        worker,
        may_retry: false,
    };
    let relayed = poll_fn(|cx| exchange.poll_relay(cx, &mut setting)).await;
    let Some(Attempt { exchange, pick }) = slot.take() else {
        return Next::Cut;
    };
    let now = down.now;
    record.bytes = exchange.bytes_out;
    match relayed {
        Ok(()) => {
            cluster
                .metrics
                .set_length_hint(worker.id, exchange.body_bytes());
            let closes = exchange.closes_downstream;
            let is_read = outgoing.is_body_received();
            if let Some(up) = exchange.into_reusable() {
                worker
                    .pools
                    .borrow_mut()
                    .put(pick.endpoint(), up, cluster.config.pool, now);
            }
            pick.finish(outcome, now);
            match (closes, is_read && down.is_silent()) {
                (false, _) => Next::Keep,
                (true, true) => Next::Cut,
                (true, false) => Next::Close,
            }
        }
        Err(Broken::Upstream) => {
            record.reason = Some("upstream_truncated");
            pick.finish(Outcome::BodyFailed, now);
            if exchange.is_unframed {
                Next::Reset
            } else {
                Next::Cut
            }
        }
        Err(Broken::Client) => {
            record.reason = Some("client_gone");
            pick.finish(outcome, now);
            Next::Cut
        }
    }
}

/// The gateway's own answer can be followed by another request only if nothing of this one
/// is still to come.
fn closes_after_own_answer(down: &mut Downstream, worker: &Worker, facts: &Facts) -> bool {
    let body_is_here = match facts.framing {
        Framing::None => true,
        Framing::Length(length) => {
            let is_here = down.buffer.len() as u64 >= length;
            if is_here {
                down.buffer
                    .consume(usize::try_from(length).unwrap_or(usize::MAX));
            }
            is_here
        }
        Framing::Chunked | Framing::Close => false,
    };
    !facts.keep_alive || !body_is_here || worker.is_stopping()
}

/// Answers with an error, after what `out` holds already.
async fn refuse(
    down: &mut Downstream,
    worker: &Rc<Worker>,
    facts: Option<&Facts>,
    error: &ProxyError,
    mut out: Buffer,
    record: &mut Record,
) -> Next {
    let unread = Facts {
        minor: 1,
        keep_alive: false,
        is_head: false,
        framing: Framing::None,
        is_idempotent: false,
        expects_continue: false,
        upgrades: false,
    };
    let facts = facts.unwrap_or(&unread);
    let closes = closes_after_own_answer(down, worker, facts) || error.closes_downstream();
    let date = worker.date();
    let service = record.cluster().map(|cluster| Arc::clone(&cluster.name));
    answer::write_error(
        &mut out,
        error,
        service.as_deref(),
        facts.terms(closes, &date),
    );
    record.status = error.status();
    record.reason = Some(error.reason());
    let gateway = worker.gateway();
    send(down, &gateway, out, closes, record).await
}

async fn send(
    down: &mut Downstream,
    gateway: &Gateway,
    mut out: Buffer,
    closes: bool,
    record: &mut Record,
) -> Next {
    record.bytes = out.len() as u64;
    match down.write_all(&mut out, gateway.http.idle_timeout).await {
        Ok(()) if closes => Next::Close,
        Ok(()) => Next::Keep,
        Err(_) => Next::Cut,
    }
}
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_is_small() {
        fn size_of_future<A, B, C, F>(_: fn(A, B, C) -> F) -> usize {
            std::mem::size_of::<F>()
        }
        // With the socket, the timer and the task's own header this stays below 2 KiB.
        assert!(size_of_future(serve) <= 1024);
    }
}
