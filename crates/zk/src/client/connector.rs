//! Finding a server that takes the session.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};

use super::backoff::Backoff;
use super::handshake::{Claim, Granted};
use super::options::{ConnectOptions, ServerAddress};
use super::state::DisconnectCause;
use super::transport::Stream;
use crate::frame::{Frame, FrameReader, append_frame};
use crate::proto::op_code::OpCode;
use crate::proto::session::{PASSWORD_BYTES, ReplyHeader, RequestHeader};

/// No connect reply is longer: 37 bytes in all versions, with room for passwords of another length.
const CONNECT_REPLY_BYTES_MAX: usize = 1024;

/// How many times a server must close without an answer before it is asked why. A server that is just
/// starting, or has lost its quorum, does that too.
const REFUSALS_BEFORE_PROBE: u32 = 2;

/// A connection that a server has attached to a session.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: Stream,
    /// Holds what arrived after the connect reply.
    pub(crate) frames: FrameReader,
    pub(crate) server: SocketAddr,
    pub(crate) granted: Granted,
}

/// What an attempt to find a server led to.
#[derive(Debug)]
pub(crate) enum Attempt {
    /// Here is a connection.
    Attached(Box<Connection>),
    /// A server says that the session is over.
    Expired,
    /// No server will ever take a client that has seen what this one has.
    ServersBehind,
    /// Not this time.
    Failed(DisconnectCause),
}

/// What a server did when it was last tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// No connection, or nothing intelligible on it.
    Unreachable,
    /// It closed this many times without an answer.
    Refused(u32),
    /// It did so with this client's past, while it took a client without one.
    Behind,
}

/// Goes through the servers until one takes the session.
#[derive(Debug)]
pub(crate) struct Connector {
    servers: Vec<ServerAddress>,
    connect_timeout: Duration,
    reply_bytes_max: usize,
    #[cfg(feature = "tls")]
    tls: Option<super::tls::TlsConnector>,
    backoff: Backoff,
    source: fastrand::Rng,
    /// Addresses still to be tried in this cycle.
    cycle: VecDeque<Candidate>,
    /// Whether the cycle has addresses for all servers.
    all_resolved: bool,
    /// What this cycle and the one before have shown.
    verdicts: HashMap<SocketAddr, Verdict>,
    /// The server of the last connection: it is tried last.
    previous: Option<SocketAddr>,
    pace: Pace,
}

#[derive(Debug, Clone)]
struct Candidate {
    address: SocketAddr,
    /// The name it was resolved from, which TLS verifies.
    #[cfg(feature = "tls")]
    host: String,
}

/// How long to wait before a cycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// Not at all: nothing has failed yet.
    AtOnce,
    /// A moment, so that not all clients of a server that died come at once.
    Soon,
    /// As the backoff says.
    BackOff,
}

impl Connector {
    pub(crate) fn new(options: &ConnectOptions, mut source: fastrand::Rng) -> Self {
        Self {
            servers: options.servers.clone(),
            connect_timeout: options.connect_timeout(),
            reply_bytes_max: options.reply_bytes_max,
            #[cfg(feature = "tls")]
            tls: options.tls.as_ref().map(super::tls::TlsOptions::connector),
            backoff: Backoff::new(options.backoff, source.fork()),
            source,
            cycle: VecDeque::new(),
            all_resolved: false,
            verdicts: HashMap::new(),
            previous: None,
            pace: Pace::AtOnce,
        }
    }

    /// A connection has been lost. If it was any good, the search begins afresh.
    pub(crate) fn lost(&mut self, server: SocketAddr, was_good: bool) {
        self.cycle.clear();
        self.verdicts.clear();
        self.previous = Some(server);
        if was_good {
            self.backoff.reset();
            self.pace = Pace::Soon;
        } else {
            self.pace = Pace::BackOff;
        }
    }

    /// Tries the next server.
    ///
    /// # Cancel safety
    /// Cancelling gives up the attempt, and the server counts as tried.
    pub(crate) async fn attempt(&mut self, claim: &Claim) -> Attempt {
        if self.cycle.is_empty() {
            if self.all_are_behind(claim) {
                self.verdicts.clear();
                return Attempt::ServersBehind;
            }
            match self.pace {
                Pace::AtOnce => {}
                Pace::Soon => sleep(self.backoff.first_wait()).await,
                Pace::BackOff => sleep(self.backoff.next_wait()).await,
            }
            self.pace = Pace::BackOff;
            if let Err(cause) = self.begin_cycle().await {
                return Attempt::Failed(cause);
            }
        }
        let Some(candidate) = self.cycle.pop_front() else {
            return Attempt::Failed(DisconnectCause::Resolve("no address".to_owned()));
        };
        self.try_server(&candidate, claim).await
    }

    /// Whether it is certain that no server will take this client's past. A server that cannot be reached
    /// may be one that would; so while the session may live, every server must have shown that it will
    /// not, and after that every one that can be reached.
    fn all_are_behind(&self, claim: &Claim) -> bool {
        let verdicts = || self.verdicts.values();
        verdicts().any(|verdict| *verdict == Verdict::Behind)
            && (self.all_resolved || claim.session_id == 0)
            && verdicts().all(|verdict| match verdict {
                Verdict::Behind => true,
                Verdict::Unreachable => claim.session_id == 0,
                Verdict::Refused(_) => false,
            })
    }

    async fn begin_cycle(&mut self) -> Result<(), DisconnectCause> {
        let mut found: Vec<Candidate> = Vec::new();
        self.all_resolved = true;
        let mut failure = None;
        for server in &self.servers {
            let addresses = match server.host.parse::<IpAddr>() {
                Ok(address) => Ok(vec![SocketAddr::new(address, server.port)]),
                Err(_) => resolve(server, self.connect_timeout).await,
            };
            match addresses {
                Ok(addresses) => {
                    for address in addresses {
                        if !found.iter().any(|candidate| candidate.address == address) {
                            found.push(Candidate {
                                address,
                                #[cfg(feature = "tls")]
                                host: server.host.clone(),
                            });
                        }
                    }
                }
                Err(error) => {
                    self.all_resolved = false;
                    failure = Some(DisconnectCause::Resolve(format!(
                        "{}: {error}",
                        server.host
                    )));
                }
            }
        }
        if let (true, Some(failure)) = (found.is_empty(), failure) {
            return Err(failure);
        }
        self.source.shuffle(&mut found);
        found.sort_by_key(|candidate| Some(candidate.address) == self.previous);
        self.verdicts
            .retain(|address, _| found.iter().any(|candidate| candidate.address == *address));
        self.cycle = found.into();
        Ok(())
    }

    async fn try_server(&mut self, candidate: &Candidate, claim: &Claim) -> Attempt {
        let address = candidate.address;
        let before = self.verdicts.insert(address, Verdict::Unreachable);
        let mut answer = self.ask(candidate, claim).await;
        let refusals = match before {
            Some(Verdict::Refused(times)) => times + 1,
            Some(Verdict::Behind) => REFUSALS_BEFORE_PROBE,
            Some(Verdict::Unreachable) | None => 1,
        };
        if matches!(answer, Answer::Refused) && claim.last_zxid > 0 {
            self.verdicts.insert(address, Verdict::Refused(refusals));
            if refusals >= REFUSALS_BEFORE_PROBE && self.takes_newcomers(candidate).await {
                // It serves, but did it serve when it refused? Now it does.
                answer = self.ask(candidate, claim).await;
                if matches!(answer, Answer::Refused) {
                    self.verdicts.insert(address, Verdict::Behind);
                }
            }
        }
        match answer {
            Answer::Attached(connection) => {
                self.verdicts.clear();
                Attempt::Attached(connection)
            }
            Answer::Expired => {
                self.verdicts.remove(&address);
                if claim.session_id == 0 {
                    let refused = "the server makes no session".to_owned();
                    Attempt::Failed(DisconnectCause::Protocol(refused))
                } else {
                    // It serves: with a new session it is the best there is.
                    self.cycle.push_front(candidate.clone());
                    Attempt::Expired
                }
            }
            Answer::Refused => Attempt::Failed(DisconnectCause::Refused(address)),
            Answer::Failed(cause) => Attempt::Failed(cause),
        }
    }

    /// Whether a client that has seen nothing is taken.
    async fn takes_newcomers(&self, candidate: &Candidate) -> bool {
        let newcomer = Claim {
            session_id: 0,
            password: vec![0; PASSWORD_BYTES],
            last_zxid: 0,
            // The shortest that the server gives.
            timeout: Duration::from_millis(1),
        };
        let Answer::Attached(mut connection) = self.ask(candidate, &newcomer).await else {
            return false;
        };
        let mut frame = Vec::new();
        let header = RequestHeader {
            xid: 1,
            op_code: OpCode::CloseSession.code(),
        };
        append_frame(&mut frame, &header, &());
        // If closing fails, the session times out.
        let closing = async {
            connection.stream.write_all(&frame).await?;
            connection.stream.flush().await?;
            connection.stream.read_buf(connection.frames.space()).await
        };
        drop(timeout(self.connect_timeout, closing).await);
        true
    }

    /// Connects, presents the claim and reads the reply.
    async fn ask(&self, candidate: &Candidate, claim: &Claim) -> Answer {
        match timeout(self.connect_timeout, self.exchange(candidate, claim)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => Answer::Failed(DisconnectCause::Io(format!(
                "{}: {error}",
                candidate.address
            ))),
            Err(_) => Answer::Failed(DisconnectCause::ConnectTimeout(candidate.address)),
        }
    }

    async fn exchange(&self, candidate: &Candidate, claim: &Claim) -> io::Result<Answer> {
        let mut stream = self.open(candidate).await?;
        stream.write_all(&claim.connect_frame()).await?;
        stream.flush().await?;
        let mut frames = FrameReader::cutting(self.reply_bytes_max, ReplyHeader::ENCODED_BYTES);
        let frame = loop {
            if let Some(word) = frames.peek_word() {
                let length = i32::from_be_bytes(word);
                if usize::try_from(length).is_ok_and(|length| length > CONNECT_REPLY_BYTES_MAX) {
                    return Ok(protocol("the connect reply is too long"));
                }
            }
            match frames.next_frame() {
                Ok(Some(Frame::Whole(frame))) => break frame,
                Ok(Some(Frame::Cut { .. })) => {
                    return Ok(protocol("the connect reply is too long"));
                }
                Err(error) => return Ok(protocol(&error.to_string())),
                Ok(None) => {}
            }
            match stream.read_buf(frames.space()).await {
                Ok(0) if frames.buffered() == 0 => return Ok(Answer::Refused),
                Ok(0) => return Ok(protocol("the connect reply ends too early")),
                Ok(_) => {}
                // The server may close before it has read everything.
                Err(error)
                    if error.kind() == io::ErrorKind::ConnectionReset && frames.buffered() == 0 =>
                {
                    return Ok(Answer::Refused);
                }
                Err(error) => return Err(error),
            }
        };
        Ok(match Granted::decode(&frame) {
            Ok(Some(granted)) => {
                let server = candidate.address;
                Answer::Attached(Box::new(Connection {
                    stream,
                    frames,
                    server,
                    granted,
                }))
            }
            Ok(None) => Answer::Expired,
            Err(cause) => Answer::Failed(cause),
        })
    }

    async fn open(&self, candidate: &Candidate) -> io::Result<Stream> {
        let stream = Stream::connect(candidate.address).await?;
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return Ok(Stream::Tls(Box::new(
                tls.connect(&candidate.host, stream).await?,
            )));
        }
        Ok(Stream::Plain(stream))
    }
}

/// What a server answers to a claim.
#[derive(Debug)]
enum Answer {
    Attached(Box<Connection>),
    Expired,
    /// It closed without an answer.
    Refused,
    Failed(DisconnectCause),
}

fn protocol(what: &str) -> Answer {
    Answer::Failed(DisconnectCause::Protocol(what.to_owned()))
}

async fn resolve(server: &ServerAddress, within: Duration) -> io::Result<Vec<SocketAddr>> {
    let lookup = tokio::net::lookup_host((server.host.as_str(), server.port));
    match timeout(within, lookup).await {
        Ok(addresses) => Ok(addresses?.collect()),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}
