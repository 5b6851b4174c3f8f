//! An origin inside the test: reads requests strictly, records them all, and answers as told.
//!
//! Default answer: 200 with the body `METHOD target\n`, so that a response shows whose it is.
//! A script takes over for requests whose head contains a given text (usually a token in the target).

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::wait::PATIENCE;
use super::wire::{Body, Framing, Head, Wire, WireError, is_token_char};

/// A request as the origin saw it.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// Number of the connection (from 0) and of the request on it (from 0).
    pub(crate) connection: usize,
    pub(crate) index: usize,
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) version: String,
    pub(crate) head: Head,
    pub(crate) framing: Framing,
    pub(crate) body: Body,
}

impl Request {
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.head.get(name)
    }

    /// Did it come whole?
    pub(crate) fn complete(&self) -> bool {
        self.body.complete
    }
}

/// How a connection from the gateway ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Open,
    /// By the gateway, in order.
    Closed,
    /// By the gateway, with a reset.
    Reset,
    /// By the origin's own script.
    ByOrigin,
}

#[derive(Debug, Clone)]
pub(crate) struct Connection {
    pub(crate) ending: Ending,
    /// Bytes that came on it.
    pub(crate) received: u64,
    /// Requests (heads) that came on it.
    pub(crate) requests: usize,
}

/// Everything that happened.
#[derive(Default)]
pub(crate) struct Log {
    pub(crate) requests: Vec<Request>,
    pub(crate) connections: Vec<Connection>,
    /// What the gateway sent that no strict reader accepts.
    pub(crate) malformed: Vec<String>,
}

/// What a script wants to happen to the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    Keep,
    Close,
    Reset,
}

type Script = Arc<dyn Fn(&mut Exchange<'_>) -> Then + Send + Sync>;

struct Shared {
    log: Mutex<Log>,
    changed: Condvar,
    scripts: Mutex<Vec<(String, Script)>>,
    /// Duplicates of all connections, to end them on drop.
    streams: Mutex<Vec<TcpStream>>,
    stopped: AtomicBool,
}

impl Shared {
    /// A check that fails while it looks at the log is one failed case; the log is as good as before.
    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) struct Origin {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Origin {
    pub(crate) fn start() -> Origin {
        Origin::listen((Ipv4Addr::LOCALHOST, 0).into())
    }

    /// On an address that the test has claimed (or that an origin dropped before had).
    pub(crate) fn listen(address: SocketAddr) -> Origin {
        let listener = listen(address);
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            log: Mutex::default(),
            changed: Condvar::new(),
            scripts: Mutex::default(),
            streams: Mutex::default(),
            stopped: AtomicBool::new(false),
        });
        let acceptor = Arc::clone(&shared);
        std::thread::spawn(move || accept(&listener, &acceptor));
        Origin { address, shared }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests whose head contains `text` are answered by `script`, which runs once the head is read.
    pub(crate) fn script(
        &self,
        text: impl Into<String>,
        script: impl Fn(&mut Exchange<'_>) -> Then + Send + Sync + 'static,
    ) {
        self.shared
            .scripts
            .lock()
            .unwrap()
            .insert(0, (text.into(), Arc::new(script)));
    }

    /// Reads the request, then sends exactly these bytes.
    pub(crate) fn answer(&self, text: impl Into<String>, bytes: impl Into<Vec<u8>>, then: Then) {
        let bytes = bytes.into();
        self.script(text, move |exchange| {
            if exchange.read_body().is_err() {
                return Then::Close;
            }
            exchange.send(&bytes);
            then
        });
    }

    pub(crate) fn log(&self) -> MutexGuard<'_, Log> {
        self.shared.log()
    }

    /// All requests whose target contains `text`, complete or not.
    pub(crate) fn requests(&self, text: &str) -> Vec<Request> {
        self.log()
            .requests
            .iter()
            .filter(|request| request.target.contains(text))
            .cloned()
            .collect()
    }

    /// The one complete request whose target contains `text`.
    #[track_caller]
    pub(crate) fn request(&self, text: &str) -> Request {
        let mut requests = self.requests(text);
        assert_eq!(requests.len(), 1, "requests for {text}: {requests:#?}");
        let request = requests.remove(0);
        assert!(request.complete(), "incomplete request: {request:#?}");
        request
    }

    /// Waits until what happened satisfies `condition`.
    #[track_caller]
    pub(crate) fn wait_for(&self, what: &str, mut condition: impl FnMut(&Log) -> bool) {
        let log = self.log();
        let (_log, result) = self
            .shared
            .changed
            .wait_timeout_while(log, PATIENCE, |log| !condition(log))
            .unwrap();
        assert!(
            !result.timed_out(),
            "waited {PATIENCE:?} for the origin to see: {what}"
        );
    }

    #[track_caller]
    pub(crate) fn wait_for_request(&self, text: &str) {
        self.wait_for(text, |log| {
            log.requests
                .iter()
                .any(|request| request.target.contains(text))
        });
    }

    /// Waits until the gateway has ended every connection on which a request with `text` came.
    #[track_caller]
    pub(crate) fn wait_for_end_of(&self, text: &str) {
        self.wait_for(&format!("the end of the connection of {text}"), |log| {
            log.requests
                .iter()
                .filter(|request| request.target.contains(text))
                .all(|request| log.connections[request.connection].ending != Ending::Open)
        });
    }

    /// Ends all connections as a service does that closes its idle ones.
    pub(crate) fn close_connections(&self) {
        for stream in self.shared.streams.lock().unwrap().drain(..) {
            // Ended already: fine.
            drop(stream.shutdown(std::net::Shutdown::Both));
        }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the acceptor, which then closes the listener; refused means that it has.
        drop(TcpStream::connect(self.address));
        self.close_connections();
    }
}

/// A listener with a long queue: a thousand connections at once must not look like a dead instance.
pub(crate) fn listen(address: SocketAddr) -> TcpListener {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(4096).unwrap();
    socket.into()
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.stopped.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        shared
            .streams
            .lock()
            .unwrap()
            .push(stream.try_clone().unwrap());
        let connection = {
            let mut log = shared.log();
            log.connections.push(Connection {
                ending: Ending::Open,
                received: 0,
                requests: 0,
            });
            log.connections.len() - 1
        };
        let shared = Arc::clone(shared);
        std::thread::Builder::new()
            .stack_size(512 * 1024)
            .spawn(move || serve(Wire::new(stream), connection, &shared))
            .unwrap();
    }
}

fn serve(mut wire: Wire, connection: usize, shared: &Shared) {
    let mut index = 0;
    let ending = loop {
        // A pooled connection may stay idle for longer than anything else is waited for.
        wire.patience(Duration::from_secs(600));
        let request = match read_head(&mut wire, connection, index) {
            Ok(request) => request,
            Err(WireError::Closed(bytes)) if bytes.is_empty() => break Ending::Closed,
            Err(WireError::Closed(bytes)) => {
                let mut log = shared.log();
                log.malformed
                    .push(format!("head cut short: {:?}", super::wire::latin1(&bytes)));
                break Ending::Closed;
            }
            Err(WireError::Malformed(what)) => {
                shared.log().malformed.push(what);
                break Ending::ByOrigin;
            }
            Err(WireError::Reset | WireError::Deadline(_)) => break Ending::Reset,
        };
        index += 1;
        let script = {
            let scripts = shared.scripts.lock().unwrap();
            scripts
                .iter()
                .find(|(text, _)| mentions(&request, text))
                .map(|(_, script)| Arc::clone(script))
        };
        let number = {
            let mut log = shared.log();
            log.connections[connection].requests += 1;
            log.requests.push(request.clone());
            log.requests.len() - 1
        };
        shared.changed.notify_all();
        let mut exchange = Exchange {
            wire: &mut wire,
            shared,
            request,
            number,
            body_read: false,
        };
        let then = match script {
            Some(script) => script(&mut exchange),
            None => exchange.answer_by_default(),
        };
        match then {
            Then::Keep => {}
            Then::Close => break Ending::ByOrigin,
            Then::Reset => {
                socket2::SockRef::from(wire.stream())
                    .set_linger(Some(Duration::ZERO))
                    .unwrap();
                break Ending::ByOrigin;
            }
        }
    };
    let received = wire.received();
    {
        let mut log = shared.log();
        log.connections[connection].ending = ending;
        log.connections[connection].received = received;
    }
    shared.changed.notify_all();
    // The duplicate in `streams` would keep the connection open.
    if ending == Ending::ByOrigin && !shared.stopped.load(Ordering::SeqCst) {
        let local = wire.stream().peer_addr();
        shared
            .streams
            .lock()
            .unwrap()
            .retain(|stream| stream.peer_addr().ok() != local.as_ref().ok().copied());
    }
}

fn mentions(request: &Request, text: &str) -> bool {
    request.target.contains(text)
        || request
            .head
            .fields
            .iter()
            .any(|(_, value)| value.contains(text))
}

fn read_head(wire: &mut Wire, connection: usize, index: usize) -> Result<Request, WireError> {
    let head = wire.head()?;
    let bad = |why: &str| WireError::Malformed(format!("{why}: {:?}", head.start));
    let parts: Vec<&str> = head.start.split(' ').collect();
    let [method, target, version] = parts.as_slice() else {
        return Err(bad("request line"));
    };
    if method.is_empty() || !method.chars().all(is_token_char) {
        return Err(bad("method"));
    }
    if target.is_empty() || target.chars().any(|c| c <= ' ' || c == '\x7f' || c == '#') {
        return Err(bad("target"));
    }
    if !matches!(*version, "HTTP/1.1" | "HTTP/1.0") {
        return Err(bad("version"));
    }
    if *version == "HTTP/1.1" && head.all("host").len() != 1 {
        return Err(bad("host fields"));
    }
    let framing = head.framing()?.unwrap_or(Framing::None);
    Ok(Request {
        connection,
        index,
        method: (*method).to_owned(),
        target: (*target).to_owned(),
        version: (*version).to_owned(),
        framing,
        body: Body {
            complete: framing == Framing::None,
            ..Body::default()
        },
        head,
    })
}

/// One request on its way through a script.
pub(crate) struct Exchange<'a> {
    pub(crate) wire: &'a mut Wire,
    pub(crate) request: Request,
    shared: &'a Shared,
    number: usize,
    body_read: bool,
}

impl Exchange<'_> {
    /// Reads the request's body (once) and records it, or the part of it that came.
    pub(crate) fn read_body(&mut self) -> Result<(), WireError> {
        if self.body_read {
            return Ok(());
        }
        self.body_read = true;
        self.wire.patience(PATIENCE * 4);
        let end = self.wire.body(self.request.framing, &mut self.request.body);
        let mut log = self.shared.log();
        if let Err(WireError::Malformed(what)) = &end {
            log.malformed.push(what.clone());
        }
        log.requests[self.number].body = self.request.body.clone();
        drop(log);
        self.shared.changed.notify_all();
        end
    }

    /// Sends these bytes; false when the gateway has gone.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> bool {
        self.wire.send(bytes).is_ok()
    }

    /// A 200 with this body.
    pub(crate) fn send_ok(&mut self, body: &str) -> bool {
        let response = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.send(response.as_bytes())
    }

    /// Waits for the gateway to end this connection; false when more bytes or nothing came.
    pub(crate) fn gateway_leaves(&mut self) -> bool {
        self.wire.patience(PATIENCE);
        matches!(self.wire.rest(), Ok((bytes, _)) if bytes.is_empty())
    }

    pub(crate) fn answer_by_default(&mut self) -> Then {
        if self.request.head.lists("expect", "100-continue")
            && !self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        {
            return Then::Close;
        }
        if self.read_body().is_err() {
            return Then::Close;
        }
        let body = format!("{} {}\n", self.request.method, self.request.target);
        let mut response = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        if self.request.method != "HEAD" {
            response.push_str(&body);
        }
        let head = &self.request.head;
        let close = head.lists("connection", "close")
            || (self.request.version == "HTTP/1.0" && !head.lists("connection", "keep-alive"));
        if self.send(response.as_bytes()) && !close {
            Then::Keep
        } else {
            Then::Close
        }
    }
}
