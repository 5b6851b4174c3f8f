//! A client that finds a service in ZooKeeper and balances its calls over the instances, or over a fixed list of
//! addresses that it probes itself:
//!
//! ```text
//! cargo run -p livegate-discovery --example client -- hello [ZOOKEEPER]
//! cargo run -p livegate-discovery --example client -- 127.0.0.1:9001,127.0.0.1:9002
//! ```
//!
//! It calls ten times a second until SIGINT and prints who answered. Start two of the example `server`, kill one,
//! start it again: no call fails.
//!
//! Two halves, as everywhere in this library: `Keeper` writes what is known about the instances, in the
//! background; `Caller` reads it for every call, without a lock and without waiting, so that a blocking HTTP
//! client such as `ureq` is as good as any.

use std::collections::BTreeSet;
use std::error::Error;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use livegate_discovery::{
    Balance, Balancer, Doubt, Endpoint, EndpointKey, Health, Instance, NoEndpoint, Outcome, Policy,
    ServiceOptions, ServiceWatch, Snapshot, Updater, channel, watch,
};
use livegate_zk::client::{Client, ConnectOptions};
use tokio::net::TcpStream;
use tokio::sync::watch::Receiver;
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};

/// How often the keeper looks at time passing, and tries endpoints that are in doubt.
const TICK: Duration = Duration::from_millis(100);

/// How often each address of a fixed list is probed: every tenth tick.
const PROBE_TICKS: u32 = 10;
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);

/// Attempts of one call, each at another instance as long as there are any.
const ATTEMPTS: usize = 3;

/// Between two calls.
const PAUSE: Duration = Duration::from_millis(100);

/// How long a call waits for the first instance to be found.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (target, registry) = match &words[..] {
        [target] => (target, "127.0.0.1:2181"),
        [target, registry] => (target, &registry[..]),
        _ => {
            return Err(
                "usage: client SERVICE [ZOOKEEPER] | client HOST:PORT,HOST:PORT,...".into(),
            );
        }
    };
    let policy = Policy {
        balance: Balance::LeastRequest,
        ..Policy::default()
    };
    // The seed tells this client's random choices from those of others.
    let (updater, balancer) = channel(policy, u64::from(std::process::id()));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let _inside = runtime.enter();
    let source = Source::find(target, registry)?;
    // Aborted when the set is dropped.
    let mut tasks = JoinSet::new();
    tasks.spawn(Keeper::new(updater, source).run());

    let caller = Caller::new(balancer);
    for number in 1u64.. {
        match caller.get("/") {
            Ok(body) => println!("{number}: {}", body.trim_end()),
            Err(failure) => println!("{number}: FAILED: {failure}"),
        }
        std::thread::park_timeout(PAUSE);
    }
    Ok(())
}

/// Where instances are known from.
enum Source {
    /// The registry, which says who exists; only those in doubt are probed.
    Registry(ServiceWatch),
    /// A list, which says nothing about who lives; all are probed all the time.
    List(Vec<SocketAddr>),
}

impl Source {
    fn find(target: &str, registry: &str) -> Result<Self, Box<dyn Error>> {
        if target.contains(':') {
            let list = target
                .split(',')
                .map(str::parse)
                .collect::<Result<_, _>>()?;
            return Ok(Self::List(list));
        }
        let client = Client::start(ConnectOptions::new(registry)?);
        let path = format!("/services/{target}");
        Ok(Self::Registry(watch(
            &client,
            &path,
            ServiceOptions::default(),
        )?))
    }
}

/// Keeps what is known about the instances up to date.
struct Keeper {
    updater: Updater,
    source: Source,
    probes: JoinSet<Finding>,
    /// Those that are being probed.
    probed: BTreeSet<EndpointKey>,
}

/// What a connect has found, and why it was made.
struct Finding {
    endpoint: Arc<Endpoint>,
    /// Nothing where only a fixed list is probed.
    doubt: Option<Doubt>,
    result: std::io::Result<()>,
}

impl Keeper {
    fn new(updater: Updater, source: Source) -> Self {
        Self {
            updater,
            source,
            probes: JoinSet::new(),
            probed: BTreeSet::new(),
        }
    }

    async fn run(mut self) {
        let mut snapshots = match &self.source {
            Source::Registry(watch) => Some(watch.snapshots()),
            Source::List(list) => {
                let instances = list.iter().map(|address| Instance::listed(*address, 1));
                let snapshot = Snapshot::live(1, instances);
                self.updater.apply(&snapshot, Instant::now());
                None
            }
        };
        let mut ticks = interval(TICK);
        let mut count = 0;
        loop {
            tokio::select! {
                snapshot = next(snapshots.as_mut()) => {
                    self.updater.apply(&snapshot, Instant::now());
                }
                // A call has found that something is wrong.
                () = self.updater.woken() => {
                    self.updater.tick(Instant::now());
                    self.probe_doubtful();
                }
                _ = ticks.tick() => {
                    self.updater.tick(Instant::now());
                    self.probe_doubtful();
                    if matches!(self.source, Source::List(_)) && count % PROBE_TICKS == 0 {
                        self.probe_all();
                    }
                    count += 1;
                }
                Some(Ok(finding)) = self.probes.join_next() => self.take_in(&finding),
            }
        }
    }

    /// Those that calls found dead, and those that the registry lost sight of in a doubtful way.
    fn probe_doubtful(&mut self) {
        let doubts: Vec<_> = self
            .updater
            .doubts()
            .map(|(endpoint, doubt)| (Arc::clone(endpoint), doubt))
            .collect();
        for (endpoint, doubt) in doubts {
            self.probe(endpoint, Some(doubt));
        }
    }

    fn probe_all(&mut self) {
        let endpoints: Vec<_> = self.updater.endpoints().cloned().collect();
        for endpoint in endpoints {
            self.probe(endpoint, None);
        }
    }

    fn probe(&mut self, endpoint: Arc<Endpoint>, doubt: Option<Doubt>) {
        if !self.probed.insert(endpoint.key()) {
            return;
        }
        self.probes.spawn(async move {
            let connect = TcpStream::connect(endpoint.address());
            let result = match timeout(PROBE_TIMEOUT, connect).await {
                Ok(result) => result.map(drop),
                Err(_) => Err(ErrorKind::TimedOut.into()),
            };
            Finding {
                endpoint,
                doubt,
                result,
            }
        });
    }

    fn take_in(&mut self, finding: &Finding) {
        let Finding {
            endpoint,
            doubt,
            result,
        } = finding;
        let now = Instant::now();
        self.probed.remove(&endpoint.key());
        match result {
            Ok(()) => {
                self.updater.connected(endpoint, now);
                // A connect says nothing about whether a process that was silent speaks again; one that
                // has nothing else to go by takes it for that.
                if *doubt == Some(Doubt::Speaks) {
                    self.updater.spoke(endpoint, now);
                }
            }
            Err(error) if error.kind() == ErrorKind::TimedOut => {
                self.updater.unanswered(endpoint, now);
            }
            Err(error) => {
                self.updater.refused(endpoint, &error.to_string(), now);
            }
        }
        if matches!(self.source, Source::List(_)) {
            let health = match result {
                Ok(()) => Health::Healthy,
                Err(error) => Health::Unreachable {
                    cause: error.to_string(),
                },
            };
            self.updater.set_health(endpoint, health, now);
        }
    }
}

/// The next snapshot; never without a watch, or when it has ended. Cancel-safe.
async fn next(snapshots: Option<&mut Receiver<Arc<Snapshot>>>) -> Arc<Snapshot> {
    let Some(snapshots) = snapshots else {
        return std::future::pending().await;
    };
    if snapshots.changed().await.is_err() {
        return std::future::pending().await;
    }
    Arc::clone(&snapshots.borrow_and_update())
}

/// Calls the service.
struct Caller {
    balancer: Balancer,
    agent: ureq::Agent,
}

impl Caller {
    fn new(balancer: Balancer) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(1)))
            .timeout_recv_response(Some(Duration::from_secs(5)))
            .timeout_recv_body(Some(Duration::from_secs(5)))
            .build();
        Self {
            balancer,
            agent: config.into(),
        }
    }

    /// One call. A GET may be repeated whatever went wrong; a call that must not happen twice may be repeated
    /// only when it was refused.
    fn get(&self, path: &str) -> Result<String, Box<dyn Error>> {
        let deadline = Instant::now() + PATIENCE;
        let mut tried = Vec::new();
        loop {
            let pick = match self.balancer.pick(None, &tried, Instant::now()) {
                Ok(pick) => pick,
                Err(NoEndpoint::Pending | NoEndpoint::Absent | NoEndpoint::Empty)
                    if Instant::now() < deadline =>
                {
                    std::thread::park_timeout(TICK);
                    continue;
                }
                Err(nobody) => return Err(nobody.into()),
            };
            tried.push(pick.endpoint().key());
            let url = format!("http://{}{path}", pick.endpoint().address());
            let sent = Instant::now();
            let failure: Box<dyn Error> = match self.agent.get(url).call() {
                Ok(mut response) => {
                    let now = Instant::now();
                    pick.heard(now);
                    let status = response.status();
                    match response.body_mut().read_to_string() {
                        Ok(body) => {
                            let outcome = Outcome::Answered {
                                status: status.as_u16(),
                                latency: now - sent,
                            };
                            pick.finish(outcome, Instant::now());
                            if !status.is_server_error() {
                                return Ok(body);
                            }
                            format!("status {status}").into()
                        }
                        Err(error) => {
                            pick.finish(Outcome::BodyFailed, Instant::now());
                            error.into()
                        }
                    }
                }
                Err(error) => {
                    // The very next pick, on any thread, avoids an instance that refuses.
                    pick.finish(outcome(&error), Instant::now());
                    error.into()
                }
            };
            if tried.len() == ATTEMPTS {
                return Err(failure);
            }
        }
    }
}

/// What an error says about the instance.
fn outcome(error: &ureq::Error) -> Outcome {
    match error {
        ureq::Error::Io(error) => match error.kind() {
            ErrorKind::ConnectionRefused | ErrorKind::HostUnreachable => Outcome::Refused,
            _ => Outcome::Reset,
        },
        ureq::Error::ConnectionFailed => Outcome::Refused,
        ureq::Error::Timeout(ureq::Timeout::Connect) => Outcome::ConnectTimeout,
        ureq::Error::Timeout(_) => Outcome::HeadTimeout,
        _ => Outcome::BadResponse,
    }
}
