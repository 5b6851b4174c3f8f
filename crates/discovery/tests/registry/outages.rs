//! Contact is lost and comes back: the list stays, and is compared.

use std::sync::Arc;
use std::time::SystemTime;

use livegate_discovery::{ServiceOptions, ServiceWatch, Snapshot, Status, WatchStats};
use livegate_zk::client::Client;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::connect::{end_session, options};
use crate::fixture::{connect, create, create_all, discovery, ensure, ids, start, until};
use crate::forwarder::{Forwarder, Mode};
use crate::server::{Kind, Server, on_both};

on_both! {
    outages
}

const INSTANCES: usize = 200;

async fn outages(kind: Kind) {
    let Some(mut server) = start(kind).await else {
        return;
    };
    a_server_that_is_killed_and_started_again(&mut server).await;
    a_connection_that_is_cut(&server).await;
    a_connection_that_is_cut_again_and_again(&server).await;
    a_session_that_is_over(&server).await;
    a_list_that_was_saved(&server).await;
    a_client_that_is_closed(&server).await;
    a_server_that_lost_everything(&mut server).await;
}

fn path(service: &str, number: usize) -> String {
    format!("{service}/10.0.0.{number}:80")
}

/// A service of [`INSTANCES`], watched through a forwarder.
struct Watched {
    forwarder: Forwarder,
    _client: Client,
    watch: ServiceWatch,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    stats: Arc<WatchStats>,
    /// Fails when a snapshot has less than [`INSTANCES`] instances.
    full: JoinSet<()>,
}

impl Watched {
    async fn start(server: &Server, service: &str) -> Self {
        let other = server.client().await;
        ensure(&other, service).await;
        let paths: Vec<String> = (0..INSTANCES).map(|number| path(service, number)).collect();
        create_all(&other, &paths, b"").await;
        let forwarder = Forwarder::start(server.address()).await;
        let client = connect(forwarder.address).await;
        let discovery = discovery(&client);
        let watch = discovery
            .service(service, ServiceOptions::default())
            .unwrap();
        let mut snapshots = watch.snapshots();
        let first = until(&mut snapshots, |now| now.status == Status::Live).await;
        assert_eq!((first.instances.len(), first.attachment), (INSTANCES, 1));
        let mut full = JoinSet::new();
        let mut seen = snapshots.clone();
        full.spawn(async move {
            while seen.changed().await.is_ok() {
                let now = Arc::clone(&seen.borrow_and_update());
                assert!(now.instances.len() >= INSTANCES, "{now:?}");
            }
        });
        Self {
            forwarder,
            _client: client,
            watch,
            snapshots,
            stats: discovery.stats(),
            full,
        }
    }

    async fn until_stale(&mut self) -> Arc<Snapshot> {
        let is_stale = |now: &Arc<Snapshot>| matches!(now.status, Status::Stale { .. });
        until(&mut self.snapshots, is_stale).await
    }

    async fn until_live(&mut self) -> Arc<Snapshot> {
        until(&mut self.snapshots, |now| now.status == Status::Live).await
    }

    /// No snapshot had too few instances.
    async fn end(mut self) {
        drop(self.watch);
        while let Some(checked) = self.full.join_next().await {
            checked.unwrap();
        }
    }
}

async fn a_server_that_is_killed_and_started_again(server: &mut Server) {
    let began = SystemTime::now();
    let mut watched = Watched::start(server, "/killed").await;
    let before = watched.watch.latest();
    server.kill();
    let stale = watched.until_stale().await;
    assert_eq!(stale.instances, before.instances);
    assert_eq!(stale.attachment, 1);
    let Status::Stale { since } = stale.status else {
        panic!("{:?}", stale.status)
    };
    assert!((began..=SystemTime::now()).contains(&since));
    assert_eq!(watched.stats.reads(), INSTANCES as u64);
    server.run().await;
    let live = watched.until_live().await;
    assert_eq!(live.instances, before.instances);
    assert!(live.attachment > 1);
    // Compared, not read again.
    assert_eq!(watched.stats.reads(), INSTANCES as u64);
    assert!(watched.stats.states() >= INSTANCES as u64);
    watched.end().await;
}

async fn a_connection_that_is_cut(server: &Server) {
    let mut watched = Watched::start(server, "/cut").await;
    let other = server.client().await;
    watched.forwarder.set(Mode::Cut);
    watched.until_stale().await;
    // Things happen meanwhile: one goes, one is made anew, two come, one is set.
    other.delete(&path("/cut", 0), None).await.unwrap();
    other.delete(&path("/cut", 1), None).await.unwrap();
    create(&other, &path("/cut", 1), "").await;
    create(&other, &path("/cut", INSTANCES), "").await;
    create(&other, &path("/cut", INSTANCES + 1), "").await;
    let heavy = br#"{"Weight":7}"#;
    other.set(&path("/cut", 2), heavy, None).await.unwrap();
    let made_anew = other.exists(&path("/cut", 1)).await.unwrap().unwrap();
    let reads = watched.stats.reads();
    watched.forwarder.set(Mode::Pass);
    let live = watched.until_live().await;
    assert_eq!(live.attachment, 2);
    assert_eq!(live.instances.len(), INSTANCES + 1);
    assert!(!live.instances.contains_key("10.0.0.0:80"));
    let weight = live.instances.get("10.0.0.2:80").unwrap().weight;
    assert_eq!(weight, 7);
    let incarnation = live.instances.get("10.0.0.1:80").unwrap().incarnation;
    assert_eq!(incarnation.czxid, made_anew.czxid);
    assert_eq!(watched.stats.reads() - reads, 4);
    // Events come again.
    create(&other, &path("/cut", 0), "").await;
    let is_back = |now: &Arc<Snapshot>| now.instances.contains_key("10.0.0.0:80");
    until(&mut watched.snapshots, is_back).await;
    watched.end().await;
}

/// Many short cuts in a row, also while everything is compared.
async fn a_connection_that_is_cut_again_and_again(server: &Server) {
    let mut watched = Watched::start(server, "/shaky").await;
    let other = server.client().await;
    for round in 0..20 {
        watched.forwarder.set(Mode::Cut);
        watched.until_stale().await;
        create(&other, &path("/shaky", INSTANCES + round), "").await;
        watched.forwarder.set(Mode::Pass);
        tokio::time::sleep(std::time::Duration::from_millis(20 * (round as u64 % 10))).await;
    }
    let all = INSTANCES + 20;
    let is_all = |now: &Arc<Snapshot>| now.status == Status::Live && now.instances.len() == all;
    let live = until(&mut watched.snapshots, is_all).await;
    assert!(live.attachment > 1);
    watched.end().await;
}

async fn a_session_that_is_over(server: &Server) {
    let mut watched = Watched::start(server, "/over").await;
    let other = server.client().await;
    let reads = watched.stats.reads();
    watched.forwarder.set(Mode::Cut);
    watched.until_stale().await;
    end_session(server.address(), &watched.forwarder.connect_reply()).await;
    create(&other, &path("/over", INSTANCES), "").await;
    watched.forwarder.set(Mode::Pass);
    let live = watched.until_live().await;
    assert_eq!(live.instances.len(), INSTANCES + 1);
    assert_eq!(live.attachment, 2);
    assert_eq!(watched.stats.reads() - reads, 1);
    create(&other, &path("/over", INSTANCES + 1), "").await;
    let is_there = |now: &Arc<Snapshot>| now.instances.len() == INSTANCES + 2;
    until(&mut watched.snapshots, is_there).await;
    watched.end().await;
}

/// What was saved is served until the registry has been read; then the number of the contact grows.
async fn a_list_that_was_saved(server: &Server) {
    let other = server.client().await;
    create(&other, "/saved", "").await;
    create(&other, "/saved/10.0.0.1:80", "").await;
    let since = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    let gone = livegate_discovery::Instance::listed(([10, 0, 0, 2], 80).into(), 1);
    let saved = Snapshot {
        status: Status::Stale { since },
        ..Snapshot::live(7, [gone])
    };
    let forwarder = Forwarder::start(server.address()).await;
    forwarder.set(Mode::Cut);
    let client = Client::start(options(&forwarder.address.to_string()));
    let options = ServiceOptions {
        saved: Some(Arc::new(saved.clone())),
        ..ServiceOptions::default()
    };
    let watch = discovery(&client).service("/saved", options).unwrap();
    assert_eq!(*watch.latest(), saved);
    forwarder.set(Mode::Pass);
    let live = until(&mut watch.snapshots(), |now| now.revision > 7).await;
    assert_eq!((live.status, live.attachment), (Status::Live, 1));
    assert_eq!(ids(&live), ["10.0.0.1:80"]);
}

async fn a_client_that_is_closed(server: &Server) {
    let client = server.client().await;
    let watch = discovery(&client)
        .service("/saved", ServiceOptions::default())
        .unwrap();
    let mut snapshots = watch.snapshots();
    until(&mut snapshots, |now| now.status == Status::Live).await;
    client.close().await;
    let is_stale = |now: &Arc<Snapshot>| matches!(now.status, Status::Stale { .. });
    let last = until(&mut snapshots, is_stale).await;
    assert_eq!(last.instances.len(), 1);
}

async fn a_server_that_lost_everything(server: &mut Server) {
    let mut watched = Watched::start(server, "/wiped").await;
    server.kill();
    watched.until_stale().await;
    server.wipe();
    server.run().await;
    watched.full.abort_all();
    let absent = until(&mut watched.snapshots, |now| now.status == Status::Absent).await;
    assert!(absent.instances.is_empty());
    assert!(absent.attachment > 1, "so that it is not taken for gone");
    let other = server.client().await;
    ensure(&other, "/wiped").await;
    create(&other, &path("/wiped", 3), "").await;
    let is_there = |now: &Arc<Snapshot>| now.instances.len() == 1;
    assert_eq!(
        until(&mut watched.snapshots, is_there).await.status,
        Status::Live
    );
}
