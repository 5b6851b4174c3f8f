//! What a failed operation says about its effect is true, however connections and servers fail.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use livegate_zk::client::{Client, ConnectOptions, Outcome};
use livegate_zk::proto::acl::Acl;
use livegate_zk::proto::create_mode::CreateMode;
use tokio::task::JoinSet;

use crate::connect::options;
use crate::fake::within;
use crate::forwarder::{Forwarder, Mode};
use crate::server::{Kind, Server, on_both};

on_both! {
    acknowledged_writes_are_there_and_writes_not_applied_are_not
}

/// Creates nodes until told to stop; what became of each.
async fn create_many(
    client: Client,
    worker: usize,
    stop: tokio::sync::watch::Receiver<bool>,
) -> Vec<(String, Option<Outcome>)> {
    let mut outcomes = Vec::new();
    while !*stop.borrow() {
        let name = format!("{worker}-{:06}", outcomes.len());
        let path = format!("/load/{name}");
        let created = client
            .create(&path, b"", CreateMode::Persistent, Acl::OPEN)
            .await;
        outcomes.push((name, created.err().map(|error| error.outcome())));
    }
    outcomes
}

async fn acknowledged_writes_are_there_and_writes_not_applied_are_not(kind: Kind) {
    let Some(mut server) = Server::start(kind, Duration::from_millis(1500)).await else {
        return;
    };
    let direct = server.client().await;
    direct
        .create("/load", b"", CreateMode::Persistent, Acl::OPEN)
        .await
        .unwrap();
    let forwarder = Forwarder::start(server.address()).await;
    let client = Client::connect(ConnectOptions {
        // Some requests are given up while they wait, some while they are under way.
        operation_timeout: Duration::from_millis(100),
        requests_max: 8,
        ..options(&forwarder.address.to_string())
    })
    .await
    .unwrap();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut workers = JoinSet::new();
    for worker in 0..24 {
        workers.spawn(create_many(client.clone(), worker, stopped.clone()));
    }
    let mut source = fastrand::Rng::with_seed(3);
    for round in 0..24 {
        tokio::time::sleep(Duration::from_millis(source.u64(20..150))).await;
        match round % 3 {
            0 => forwarder.set(Mode::Cut),
            1 => forwarder.set(Mode::Freeze),
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(source.u64(20..250))).await;
        if round == 12 {
            server.kill();
            server.run().await;
        }
        forwarder.set(Mode::Pass);
    }
    within(client.states().wait_for(|state| state.session_id != 0))
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    stop.send_replace(true);
    let outcomes: Vec<_> = workers.join_all().await.into_iter().flatten().collect();

    direct.sync("/").await.unwrap();
    let there: HashSet<String> = direct
        .children("/load")
        .await
        .unwrap()
        .into_iter()
        .collect();
    let mut counts = BTreeMap::new();
    for (name, outcome) in &outcomes {
        let is_there = there.contains(name);
        let key = (outcome.map(|outcome| format!("{outcome:?}")), is_there);
        *counts.entry(key).or_insert(0) += 1;
        match outcome {
            None | Some(Outcome::Applied) => assert!(is_there, "{name} was acknowledged"),
            Some(Outcome::NotApplied) => assert!(!is_there, "{name} was not sent"),
            Some(Outcome::Unknown) => {}
        }
    }
    println!("{counts:?}");
    let not_applied = (Some("NotApplied".to_owned()), false);
    assert!(counts[&(None, true)] > 100 && counts[&not_applied] > 10);
    assert!(
        outcomes
            .iter()
            .any(|(_, outcome)| *outcome == Some(Outcome::Unknown))
    );
}
