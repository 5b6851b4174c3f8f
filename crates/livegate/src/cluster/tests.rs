//! Clusters with real sockets: what happens to instances is noticed, and told.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::time::Duration;

use livegate_discovery::{Endpoint, EndpointState, Instance, NoEndpoint, Outcome, Pick, Status};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::*;
use crate::cluster::task::now;
use crate::config::{HealthCheckConfig, HealthCheckKind};

const MILLI: Duration = Duration::from_millis(1);

/// An instance whose answer can be changed; a status of 0 means that it never answers.
struct Origin {
    address: SocketAddr,
    status: Arc<AtomicU16>,
    _tasks: JoinSet<()>,
}

impl Origin {
    async fn start(status: u16) -> Self {
        Self::at(([127, 0, 0, 1], 0).into(), status).await
    }

    async fn at(address: SocketAddr, status: u16) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let status = Arc::new(AtomicU16::new(status));
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::clone(&status)));
        Self {
            address,
            status,
            _tasks: tasks,
        }
    }

    /// Ends it; connections to its address are refused from now on.
    async fn kill(mut self) -> SocketAddr {
        self._tasks.shutdown().await;
        self.address
    }
}

async fn accept(listener: TcpListener, status: Arc<AtomicU16>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        connections.spawn(serve(stream, Arc::clone(&status)));
    }
}

async fn serve(mut stream: TcpStream, status: Arc<AtomicU16>) {
    let mut request = [0; 1024];
    if matches!(stream.read(&mut request).await, Ok(0) | Err(_)) {
        return;
    }
    let status = status.load(Relaxed);
    if status == 0 {
        std::future::pending::<()>().await;
    }
    let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n");
    drop(stream.write_all(answer.as_bytes()).await);
}

/// A running cluster, and what it tells.
struct Service {
    handle: ClusterHandle,
    snapshots: watch::Sender<Arc<Snapshot>>,
    events: Events,
    tasks: TaskTracker,
}

impl Service {
    fn start(config: ServiceConfig, addresses: &[SocketAddr]) -> Self {
        let (snapshots, receiver) = watch::channel(snapshot(1, addresses));
        let (events, tasks) = (Events::new(1000), TaskTracker::new());
        let metrics = Arc::new(ServiceMetrics::new(1));
        let handle = start(
            "orders",
            Arc::new(config),
            metrics,
            receiver,
            events.clone(),
            &tasks,
        );
        Self {
            handle,
            snapshots,
            events,
            tasks,
        }
    }

    fn balancer(&self) -> &Balancer {
        &self.handle.cluster().balancer
    }

    fn state(&self, address: SocketAddr) -> EndpointState {
        let view = self.balancer().view();
        view.members()
            .iter()
            .find(|member| member.instance.address == address)
            .unwrap()
            .state()
    }

    fn endpoint(&self, address: SocketAddr) -> Arc<Endpoint> {
        let view = self.balancer().view();
        let member = view
            .members()
            .iter()
            .find(|member| member.instance.address == address);
        Arc::clone(&member.unwrap().endpoint)
    }

    /// A pick of this endpoint, which must be fit.
    fn pick(&self, address: SocketAddr) -> Pick {
        let picks = (0..1000).map(|_| self.balancer().pick(None, &[], now()).unwrap());
        let mut picks = picks.filter(|pick| pick.endpoint().address() == address);
        picks.next().expect("it is picked sooner or later")
    }

    fn is_picked(&self, address: SocketAddr) -> bool {
        (0..100).any(|_| {
            self.balancer()
                .pick(None, &[], now())
                .unwrap()
                .endpoint()
                .address()
                == address
        })
    }

    /// Waits for an event about an instance; its cause.
    async fn event(&self, address: SocketAddr, kind: &str) -> String {
        let id = address.to_string();
        let find = || {
            let events = self.events.since(0, Some("orders"));
            let found = events
                .iter()
                .rev()
                .find(|event| event.kind == kind && event.instance.as_deref() == Some(&id));
            found.map(|event| event.cause.clone())
        };
        until(kind, || find().is_some()).await;
        find().unwrap()
    }
}

fn snapshot(revision: u64, addresses: &[SocketAddr]) -> Arc<Snapshot> {
    let instances = addresses
        .iter()
        .map(|address| Instance::listed(*address, 50));
    Arc::new(Snapshot::live(revision, instances))
}

fn config(kind: HealthCheckKind, interval: Duration) -> ServiceConfig {
    let health_check = HealthCheckConfig {
        kind,
        interval,
        ..HealthCheckConfig::default()
    };
    ServiceConfig {
        health_check,
        ..ServiceConfig::new("orders", "/services", Some(Vec::new()))
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            sleep(2 * MILLI).await;
        }
    };
    timeout(Duration::from_secs(20), wait)
        .await
        .unwrap_or_else(|_| panic!("waited in vain: {what}"));
}

#[tokio::test]
async fn a_refused_one_is_avoided_at_once_and_used_again_when_it_is_back() {
    let (a, b) = (Origin::start(200).await, Origin::start(200).await);
    let service = Service::start(
        config(HealthCheckKind::None, MILLI),
        &[a.address, b.address],
    );
    let dead = a.kill().await;
    let pick = service.pick(dead);
    pick.finish(Outcome::Refused, now());
    assert!(!service.is_picked(dead));
    assert_eq!(
        service.event(dead, "quarantined").await,
        "connection refused"
    );
    assert_eq!(service.state(dead), EndpointState::Quarantined);
    let _back = Origin::at(dead, 200).await;
    assert_eq!(service.event(dead, "released").await, "a probe connected");
    assert!(service.is_picked(dead));
    assert_eq!(service.state(dead), EndpointState::Fit);
}

#[tokio::test]
async fn a_killed_one_is_not_ejected_for_the_requests_that_it_took_along() {
    let (a, b) = (Origin::start(200).await, Origin::start(200).await);
    let service = Service::start(
        config(HealthCheckKind::None, MILLI),
        &[a.address, b.address],
    );
    let picks: Vec<_> = (0..20).map(|_| service.pick(a.address)).collect();
    let dead = a.kill().await;
    for pick in picks {
        pick.finish(Outcome::Reset, now());
    }
    service.event(dead, "quarantined").await;
    // The probes see that nobody listens.
    sleep(100 * MILLI).await;
    let _back = Origin::at(dead, 200).await;
    service.event(dead, "released").await;
    until("it is fit", || service.state(dead) == EndpointState::Fit).await;
    assert!(service.is_picked(dead));
}

#[tokio::test]
async fn a_tcp_check_finds_a_dead_one_without_any_request_and_finds_it_again() {
    let (a, b) = (Origin::start(200).await, Origin::start(200).await);
    let service = Service::start(
        config(HealthCheckKind::Tcp, 50 * MILLI),
        &[a.address, b.address],
    );
    let dead = a.kill().await;
    assert!(service.event(dead, "quarantined").await.contains("refused"));
    assert!(
        service
            .event(dead, "unhealthy")
            .await
            .starts_with("health check: ")
    );
    assert_eq!(service.state(dead).public_name(), "unhealthy");
    let _back = Origin::at(dead, 200).await;
    service.event(dead, "healthy").await;
    until("it is picked", || service.is_picked(dead)).await;
    assert_eq!(service.state(b.address), EndpointState::Fit);
}

#[tokio::test]
async fn a_restarted_one_does_not_wait_for_its_next_regular_check() {
    let (a, b) = (Origin::start(200).await, Origin::start(200).await);
    let mut rare = config(HealthCheckKind::Http, 50 * MILLI);
    let mut service = Service::start(rare.clone(), &[a.address, b.address]);
    let dead = a.kill().await;
    service.event(dead, "unhealthy").await;
    // From here on the regular check comes once an hour.
    rare.health_check.interval = Duration::from_secs(3600);
    service.handle.configure(Arc::new(rare));
    let _back = Origin::at(dead, 200).await;
    service.event(dead, "healthy").await;
    assert!(service.is_picked(dead));
}

#[tokio::test]
async fn an_http_check_tells_statuses_apart_and_a_slow_one_delays_no_other() {
    let (a, b, frozen) = (
        Origin::start(200).await,
        Origin::start(200).await,
        Origin::start(0).await,
    );
    let addresses = [a.address, b.address, frozen.address];
    let mut config = config(HealthCheckKind::Http, 20 * MILLI);
    config.health_check.timeout = 400 * MILLI;
    let service = Service::start(config, &addresses);
    for _ in 0..3 {
        a.status.store(503, Relaxed);
        until("it is noticed", || {
            service.state(a.address) == EndpointState::Unhealthy
        })
        .await;
        a.status.store(204, Relaxed);
        until("it is noticed", || {
            service.state(a.address) == EndpointState::Fit
        })
        .await;
    }
    assert_eq!(
        service.event(a.address, "unhealthy").await,
        "health check: status 503"
    );
    assert_eq!(
        service.event(frozen.address, "unhealthy").await,
        "health check: no answer in time"
    );
    assert!(service.endpoint(frozen.address).is_lost());
    assert!(!service.is_picked(frozen.address));
    frozen.status.store(200, Relaxed);
    service.event(frozen.address, "healthy").await;
    assert!(service.is_picked(frozen.address));
}

#[tokio::test]
async fn a_frozen_one_is_stalled_until_it_says_something() {
    let (a, frozen) = (Origin::start(200).await, Origin::start(0).await);
    let service = Service::start(
        config(HealthCheckKind::Tcp, 50 * MILLI),
        &[a.address, frozen.address],
    );
    let hanging = service.pick(frozen.address);
    let answer = || {
        let avoid = [hanging.endpoint().key()];
        let pick = service.balancer().pick(None, &avoid, now()).unwrap();
        pick.finish(
            Outcome::Answered {
                status: 200,
                latency: MILLI,
            },
            now(),
        );
    };
    until("it is stalled", || {
        answer();
        service.state(frozen.address) == EndpointState::Stalled
    })
    .await;
    // It goes on accepting connections, which proves nothing.
    sleep(200 * MILLI).await;
    assert!(hanging.endpoint().is_lost() && !service.is_picked(frozen.address));
    // The process goes on: any answer will do.
    frozen.status.store(501, Relaxed);
    assert_eq!(
        service.event(frozen.address, "resumed").await,
        "it answers a probe"
    );
    assert!(service.is_picked(frozen.address));
}

#[tokio::test]
async fn a_reload_changes_checks_and_keeps_what_is_known() {
    let (a, b) = (Origin::start(500).await, Origin::start(200).await);
    let mut config = config(HealthCheckKind::Http, 20 * MILLI);
    let mut service = Service::start(config.clone(), &[a.address, b.address]);
    service.event(a.address, "unhealthy").await;
    let pick = service.pick(b.address);
    let endpoint = service.endpoint(a.address);
    config.health_check.path = "/ready".to_owned();
    config.balance = livegate_discovery::Balance::LeastRequest;
    service.handle.configure(Arc::new(config.clone()));
    assert_eq!(service.handle.cluster().config.health_check.path, "/ready");
    assert!(endpoint.is_unfit());
    sleep(100 * MILLI).await;
    assert!(endpoint.is_unfit() && service.state(a.address) == EndpointState::Unhealthy);
    assert_eq!(service.endpoint(b.address).in_flight(), 1);
    drop(pick);
    // What fails one rule may pass the next.
    config.health_check.expect[0].last = 599;
    service.handle.configure(Arc::new(config.clone()));
    service.event(a.address, "healthy").await;
    config.health_check.expect[0].last = 399;
    service.handle.configure(Arc::new(config.clone()));
    until("it is noticed", || {
        service.state(a.address) == EndpointState::Unhealthy
    })
    .await;
    config.health_check.kind = HealthCheckKind::None;
    service.handle.configure(Arc::new(config));
    until("checks are forgotten", || {
        service.state(a.address) == EndpointState::Fit
    })
    .await;
    assert!(Arc::ptr_eq(&endpoint, &service.endpoint(a.address)));
}

#[tokio::test]
async fn lists_are_taken_in_as_they_come() {
    let (a, b, c) = (
        Origin::start(200).await,
        Origin::start(200).await,
        Origin::start(500).await,
    );
    let service = Service::start(
        config(HealthCheckKind::Http, 20 * MILLI),
        &[a.address, b.address],
    );
    let endpoint = service.endpoint(a.address);
    service
        .snapshots
        .send_replace(snapshot(2, &[a.address, c.address]));
    assert!(
        service
            .event(c.address, "joined")
            .await
            .contains("weight 50")
    );
    service.event(b.address, "left").await;
    service.event(c.address, "unhealthy").await;
    assert_eq!(service.balancer().view().revision(), 2);
    assert!(Arc::ptr_eq(&endpoint, &service.endpoint(a.address)));
    assert!(!service.is_picked(b.address));
    // One that leaves and is back within a second is checked on.
    service.snapshots.send_replace(snapshot(3, &[a.address]));
    service.event(c.address, "left").await;
    service
        .snapshots
        .send_replace(snapshot(4, &[a.address, c.address]));
    service.event(c.address, "rejoined").await;
    assert_eq!(service.state(c.address), EndpointState::Unhealthy);
    c.status.store(200, Relaxed);
    service.event(c.address, "healthy").await;
}

#[tokio::test]
async fn failures_eject_and_panic_is_told() {
    let (a, b) = (Origin::start(200).await, Origin::start(500).await);
    let service = Service::start(
        config(HealthCheckKind::Http, 20 * MILLI),
        &[a.address, b.address],
    );
    service.event(b.address, "unhealthy").await;
    a.status.store(500, Relaxed);
    service.event(a.address, "unhealthy").await;
    let panics = |kind: &str| {
        service
            .events
            .since(0, None)
            .iter()
            .filter(|event| event.kind == kind)
            .count()
    };
    until("panic", || panics("panic") == 1).await;
    assert!(service.is_picked(a.address) && service.is_picked(b.address));
    a.status.store(200, Relaxed);
    until("the end of panic", || panics("panic_over") == 1).await;
    // Now by traffic.
    b.status.store(200, Relaxed);
    service.event(b.address, "healthy").await;
    for _ in 0..5 {
        service.pick(a.address).finish(Outcome::HeadTimeout, now());
    }
    assert_eq!(
        service.event(a.address, "ejected").await,
        "5 failures in a row, for 10s"
    );
    assert!(!service.is_picked(a.address));
}

#[tokio::test]
async fn the_operator_is_obeyed_at_once() {
    let (a, b) = (Origin::start(200).await, Origin::start(200).await);
    let service = Service::start(
        config(HealthCheckKind::Tcp, 50 * MILLI),
        &[a.address, b.address],
    );
    let operator = service.handle.cluster().operator.clone();
    let id = a.address.to_string();
    assert_eq!(operator.set_drained(&id, true).await, Ok(()));
    assert!(!service.is_picked(a.address));
    assert_eq!(service.event(a.address, "drained").await, "by the operator");
    assert_eq!(operator.set_drained(&id, false).await, Ok(()));
    assert!(service.is_picked(a.address));
    assert_eq!(
        operator.set_drained("10.9.8.7:1", true).await,
        Err(OperatorError::UnknownInstance)
    );
    let Service {
        handle,
        tasks,
        snapshots,
        ..
    } = service;
    drop(handle);
    tasks.close();
    timeout(Duration::from_secs(20), tasks.wait())
        .await
        .expect("the task ends with its handle");
    drop(snapshots);
    assert_eq!(
        operator.set_drained(&id, true).await,
        Err(OperatorError::Gone)
    );
}

/// Time moves by itself here: an hour in no time.
#[tokio::test(start_paused = true)]
async fn ejections_begin_at_once_and_end_in_time() {
    let (a, b) = (Origin::start(200).await, Origin::start(200).await);
    let mut config = config(HealthCheckKind::None, MILLI);
    config.outlier.base_ejection = Duration::from_secs(3000);
    config.outlier.consecutive_failures = 2;
    let service = Service::start(config, &[a.address, b.address]);
    let start = now();
    for _ in 0..2 {
        let latency = MILLI;
        service.pick(a.address).finish(
            Outcome::Answered {
                status: 500,
                latency,
            },
            start,
        );
    }
    let is_ejected = || service.state(a.address) == EndpointState::Ejected;
    until("it is ejected", is_ejected).await;
    assert!(
        now() - start < 50 * MILLI,
        "a request that fails wakes the task"
    );
    sleep(Duration::from_secs(2998)).await;
    assert!(is_ejected());
    until("it is on probation", || !is_ejected()).await;
    assert!((3000..3001).contains(&(now() - start).as_secs()));
    service.event(a.address, "probation").await;
}

/// What a registry names, under ids that are the addresses.
fn registered(attachment: u64, status: Status, addresses: &[SocketAddr]) -> Snapshot {
    Snapshot {
        status,
        attachment,
        ..Snapshot::clone(&snapshot(0, addresses))
    }
}

impl Service {
    /// Publishes what the registry says, and waits until it is taken in.
    async fn hears(&self, snapshot: Snapshot) {
        let revision = self.snapshots.borrow().revision + 1;
        self.snapshots.send_replace(Arc::new(Snapshot {
            revision,
            ..snapshot
        }));
        until("the snapshot is taken in", || {
            self.balancer().view().revision() == revision
        })
        .await;
    }

    fn count(&self, kind: &str) -> usize {
        let events = self.events.since(0, Some("orders"));
        events.iter().filter(|event| event.kind == kind).count()
    }
}

#[tokio::test]
async fn a_crowd_is_held_while_its_probes_pass_and_a_refused_one_goes_at_once() {
    for kind in [HealthCheckKind::None, HealthCheckKind::Tcp] {
        let (a, b, c) = (
            Origin::start(200).await,
            Origin::start(200).await,
            Origin::start(200).await,
        );
        let all = [a.address, b.address, c.address];
        let service = Service::start(config(kind, Duration::from_secs(3600)), &all);
        service.hears(registered(1, Status::Live, &all)).await;
        // One has died already, and nobody has noticed.
        let dead = a.kill().await;
        service.hears(registered(1, Status::Absent, &[])).await;
        let cause = service.event(b.address, "held").await;
        // Unless its first check came just now.
        let is_noticed = cause.starts_with("2 of 2 ");
        let (count, cause) = cause.split_at("3 of 3 ".len());
        assert!(is_noticed || count == "3 of 3 ", "{count}");
        assert_eq!(
            cause,
            "left within a second; kept while it accepts connections"
        );
        if !is_noticed {
            let cause = service.event(dead, "hold_over").await;
            assert!(cause.contains("refused"), "{cause}");
        }
        service.event(dead, "left").await;
        assert_eq!(service.balancer().view().members().len(), 2);
        assert_eq!(service.state(b.address), EndpointState::Held);
        assert!(service.is_picked(b.address) && service.is_picked(c.address));
        // The next one dies while it is held; probes find that without any request.
        let dead = b.kill().await;
        service.event(dead, "hold_over").await;
        assert_eq!(service.count("hold_over"), if is_noticed { 1 } else { 2 });
        assert_eq!(service.state(c.address), EndpointState::Held);
        // The other one is named again.
        let endpoint = service.endpoint(c.address);
        service
            .hears(registered(1, Status::Live, &[c.address]))
            .await;
        service.event(c.address, "rejoined").await;
        assert_eq!(service.state(c.address), EndpointState::Fit);
        assert!(Arc::ptr_eq(&endpoint, &service.endpoint(c.address)));
    }
}

#[tokio::test]
async fn a_registry_that_comes_back_empty_empties_nothing_before_the_grace_is_over() {
    let (a, b) = (Origin::start(200).await, Origin::start(200).await);
    let both = [a.address, b.address];
    let mut config = config(HealthCheckKind::None, MILLI);
    let mut service = Service::start(config.clone(), &both);
    service.hears(registered(1, Status::Live, &both)).await;
    let since = std::time::SystemTime::now();
    service
        .hears(registered(1, Status::Stale { since }, &both))
        .await;
    service
        .hears(registered(2, Status::Live, &[a.address]))
        .await;
    let cause = service.event(b.address, "held").await;
    assert!(cause.contains("after contact with the registry was regained"));
    service.hears(registered(2, Status::Absent, &[])).await;
    service.event(a.address, "held").await;
    // They are asked about every second, and pass.
    let asked = service.endpoint(a.address);
    sleep(1500 * MILLI).await;
    assert!(!asked.is_unfit() && service.count("hold_over") == 0);
    // A reload shortens the grace.
    config.hold_grace = 100 * MILLI;
    service.handle.configure(Arc::new(config));
    let cause = service.event(a.address, "hold_over").await;
    assert_eq!(
        cause,
        "the registry can be asked and has not named it for 100ms"
    );
    service.event(b.address, "left").await;
    let pick = service.balancer().pick(None, &[], now());
    assert_eq!(pick.err(), Some(NoEndpoint::Absent));
}

#[tokio::test]
async fn a_held_one_that_fails_its_health_check_goes() {
    let (a, b) = (Origin::start(200).await, Origin::start(200).await);
    let both = [a.address, b.address];
    let service = Service::start(config(HealthCheckKind::Http, 20 * MILLI), &both);
    service.hears(registered(1, Status::Live, &both)).await;
    service.hears(registered(1, Status::Live, &[])).await;
    service.event(a.address, "held").await;
    a.status.store(503, Relaxed);
    let cause = service.event(a.address, "hold_over").await;
    assert_eq!(cause, "health check: status 503");
    assert_eq!(service.state(b.address), EndpointState::Held);
    // Nobody is asked any more who is not there.
    let members = service.balancer().view().members().len();
    assert_eq!(members, 1);
    let operator = service.handle.cluster().operator.clone();
    let id = b.address.to_string();
    assert_eq!(operator.drop_held(&id).await, Ok(()));
    let cause = service.event(b.address, "hold_over").await;
    assert_eq!(cause, "dropped by the operator");
    assert_eq!(
        operator.drop_held(&id).await,
        Err(OperatorError::UnknownInstance)
    );
}

/// A host that vanished answers nothing: the connect times out.
#[tokio::test]
async fn timeouts_end_a_hold_after_fall() {
    let a = Origin::start(200).await;
    // A listener whose backlog is full drops what comes, as a host does that is not there.
    let full = tokio::net::TcpSocket::new_v4().unwrap();
    full.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let full = full.listen(1).unwrap();
    let silent = full.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = timeout(200 * MILLI, TcpStream::connect(silent)).await {
        waiting.push(stream.unwrap());
        assert!(waiting.len() < 100, "the backlog has a bound");
    }
    let both = [a.address, silent];
    let mut config = config(HealthCheckKind::None, MILLI);
    config.timeouts.connect = 50 * MILLI;
    config.health_check.fall = 2;
    let service = Service::start(config, &both);
    service.hears(registered(1, Status::Live, &both)).await;
    service.hears(registered(2, Status::Live, &[])).await;
    let cause = service.event(silent, "hold_over").await;
    assert_eq!(cause, "2 probes in a row timed out");
    assert_eq!(service.state(a.address), EndpointState::Held);
}
