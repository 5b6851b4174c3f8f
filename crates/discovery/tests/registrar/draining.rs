//! Instances leave, and gateways are waited for.

use std::time::{Duration, Instant};

use livegate_discovery::drain::{Announcement, DRAINS, DrainBoard, GATEWAYS, InstancePath};
use livegate_discovery::registrar::{Departure, RegistrarState, Registration};
use livegate_zk::client::Client;
use livegate_zk::proto::acl::Acl;
use livegate_zk::proto::create_mode::CreateMode;

use crate::forwarder::{Forwarder, Mode};
use crate::registry::{
    PATH, TICK, content, registered, short_lived, stat, until, until_state, within,
};
use crate::server::{Kind, Server, on_both};

on_both! {
    without_gateways_it_is_over_soon
    every_gateway_is_waited_for
    a_gateway_that_dies_meanwhile_is_not_waited_for
    a_gateway_that_never_answers_is_waited_for_until_the_timeout
    removal_cuts_a_drain_short
    a_new_session_of_a_gateway_announces_and_acknowledges_again
    the_drain_of_an_earlier_incarnation_does_not_count
    drains_that_nobody_finishes_are_cleaned_up
}

const LONG: Duration = Duration::from_secs(45);

async fn board(client: &Client, id: &str) -> DrainBoard {
    let announcement = Announcement {
        version: "0.1.0".to_owned(),
        host: "test".to_owned(),
        pid: 1,
    };
    let board = DrainBoard::start(client.clone(), id, &announcement).unwrap();
    within(board.announced().wait_for(|announced| *announced))
        .await
        .unwrap();
    board
}

/// Waits for the drain of the instance; its czxid.
async fn asked(board: &DrainBoard) -> (InstancePath, i64) {
    let path = InstancePath::new(PATH).unwrap();
    let mut drains = board.drains();
    let drains = within(drains.wait_for(|drains| drains.contains_key(&path)))
        .await
        .unwrap();
    let czxid = drains[&path].czxid;
    (path, czxid)
}

/// The drain as it goes on beside the test.
fn drain(registration: Registration, timeout: Duration) -> tokio::task::JoinSet<Departure> {
    let mut task = tokio::task::JoinSet::new();
    task.spawn(async move { registration.drain(timeout).await });
    task
}

async fn departed(mut task: tokio::task::JoinSet<Departure>) -> Departure {
    within(task.join_next()).await.unwrap().unwrap()
}

async fn assert_nothing_left(client: &Client) {
    assert_eq!(stat(client).await, None);
    until("the drain is cleaned up", async || {
        match client.children(DRAINS).await {
            Ok(drains) => drains.is_empty(),
            Err(error) => error.is_no_node(),
        }
    })
    .await;
}

async fn without_gateways_it_is_over_soon(kind: Kind) {
    let Some(server) = Server::start(kind, TICK).await else {
        return;
    };
    let client = server.client().await;
    let looker = server.client().await;
    let registration = registered(&client).await;
    let plain = content(&looker).await;
    let mut states = registration.states();
    let start = Instant::now();
    let task = drain(registration, LONG);
    let draining = plain.replace(r#""weight""#, r#""state":"draining","weight""#);
    until("the content says so", async || {
        content(&looker).await == draining
    })
    .await;
    within(states.wait_for(|state| *state == RegistrarState::Draining))
        .await
        .unwrap();
    let departure = departed(task).await;
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert!(start.elapsed() < LONG / 2);
    assert_eq!(
        departure,
        Departure {
            removed: true,
            ..Departure::default()
        }
    );
    assert_nothing_left(&looker).await;
}

async fn every_gateway_is_waited_for(kind: Kind) {
    let Some(server) = Server::start(kind, TICK).await else {
        return;
    };
    let client = server.client().await;
    let (one, two) = (server.client().await, server.client().await);
    let (first, second) = (board(&one, "gw-1").await, board(&two, "gw-2").await);
    let (announcement, owner) = one.get(&format!("{GATEWAYS}/gw-1")).await.unwrap();
    assert_eq!(
        announcement,
        br#"{"version":"0.1.0","host":"test","pid":1}"#
    );
    assert_eq!(owner.ephemeral_owner, one.state().session_id);

    let registration = registered(&client).await;
    let expected = stat(&client).await.unwrap().czxid;
    let task = drain(registration, LONG);
    let (path, czxid) = asked(&first).await;
    assert_eq!(czxid, expected);
    // A wrong acknowledgement counts for nothing, a right one counts once.
    first.acknowledge(&path, czxid - 1);
    first.acknowledge(&path, czxid);
    first.acknowledge(&path, czxid);
    let acknowledgement = format!("{DRAINS}/%2Fservices%2Forders%2F10.0.0.3%3A8080/gw-1");
    until("the acknowledgement", async || {
        one.exists(&acknowledgement).await.unwrap().is_some()
    })
    .await;
    let (data, _) = one.get(&acknowledgement).await.unwrap();
    assert_eq!(data, czxid.to_string().as_bytes());
    assert!(stat(&client).await.is_some());

    let (path, czxid) = asked(&second).await;
    let start = Instant::now();
    second.acknowledge(&path, czxid);
    let departure = departed(task).await;
    println!("left {:?} after the last acknowledgement", start.elapsed());
    assert_eq!(departure.acknowledged, ["gw-1", "gw-2"]);
    assert!(departure.silent.is_empty() && departure.removed);
    assert_nothing_left(&client).await;
    within(first.drains().wait_for(|drains| drains.is_empty()))
        .await
        .unwrap();
}

async fn a_gateway_that_dies_meanwhile_is_not_waited_for(kind: Kind) {
    let Some(server) = Server::start(kind, TICK).await else {
        return;
    };
    let client = server.client().await;
    let (one, two) = (server.client().await, server.client().await);
    let (first, second) = (board(&one, "gw-1").await, board(&two, "gw-2").await);
    let start = Instant::now();
    let task = drain(registered(&client).await, LONG);
    asked(&second).await;
    two.close().await;
    let (path, czxid) = asked(&first).await;
    first.acknowledge(&path, czxid);
    let departure = departed(task).await;
    assert!(start.elapsed() < LONG);
    assert_eq!(departure.acknowledged, ["gw-1"]);
    assert!(departure.silent.is_empty());
    assert_nothing_left(&client).await;
}

async fn a_gateway_that_never_answers_is_waited_for_until_the_timeout(kind: Kind) {
    let Some(server) = Server::start(kind, TICK).await else {
        return;
    };
    let client = server.client().await;
    let one = server.client().await;
    let _board = board(&one, "gw-1").await;
    let timeout = Duration::from_secs(2);
    let start = Instant::now();
    let departure = departed(drain(registered(&client).await, timeout)).await;
    assert!(start.elapsed() >= timeout);
    assert_eq!(departure.silent, ["gw-1"]);
    assert!(departure.removed && departure.acknowledged.is_empty());
    assert_nothing_left(&client).await;
}

async fn removal_cuts_a_drain_short(kind: Kind) {
    let Some(server) = Server::start(kind, TICK).await else {
        return;
    };
    let client = server.client().await;
    let one = server.client().await;
    let _board = board(&one, "gw-1").await;
    let registration = registered(&client).await;
    let start = Instant::now();
    tokio::select! {
        _ = registration.drain(Duration::from_secs(3600)) => panic!("nobody has acknowledged"),
        _ = until_state(&registration, |state| *state == RegistrarState::Draining) => {}
    }
    let departure = within(registration.remove()).await;
    assert!(start.elapsed() < Duration::from_secs(60));
    assert!(departure.removed);
    assert_nothing_left(&client).await;
}

async fn a_new_session_of_a_gateway_announces_and_acknowledges_again(kind: Kind) {
    let Some(server) = Server::start(kind, TICK).await else {
        return;
    };
    let client = server.client().await;
    let other = server.client().await;
    let forwarder = Forwarder::start(server.address()).await;
    let one = short_lived(&forwarder.address.to_string()).await;
    let first = board(&one, "gw-1").await;
    // Keeps the drain open.
    let _second = board(&other, "gw-2").await;
    let task = drain(registered(&client).await, LONG);
    let (path, czxid) = asked(&first).await;
    first.acknowledge(&path, czxid);
    let nodes = [
        format!("{GATEWAYS}/gw-1"),
        format!("{DRAINS}/%2Fservices%2Forders%2F10.0.0.3%3A8080/gw-1"),
    ];
    for node in &nodes {
        until("it is there", async || {
            client.exists(node).await.unwrap().is_some()
        })
        .await;
    }
    forwarder.set(Mode::Freeze);
    for node in &nodes {
        until("it is gone", async || {
            client.exists(node).await.unwrap().is_none()
        })
        .await;
    }
    forwarder.set(Mode::Pass);
    for node in &nodes {
        until("it is there again", async || {
            let stat = client.exists(node).await.unwrap();
            stat.is_some_and(|stat| stat.ephemeral_owner == one.state().session_id)
        })
        .await;
    }
    drop(task);
}

async fn the_drain_of_an_earlier_incarnation_does_not_count(kind: Kind) {
    let Some(server) = Server::start(kind, TICK).await else {
        return;
    };
    let client = server.client().await;
    let one = server.client().await;
    let drain_path = format!("{DRAINS}/%2Fservices%2Forders%2F10.0.0.3%3A8080");
    client
        .ensure(DRAINS, CreateMode::Container, Acl::OPEN)
        .await
        .unwrap();
    client
        .create(&drain_path, b"1", CreateMode::Container, Acl::OPEN)
        .await
        .unwrap();
    let first = board(&one, "gw-1").await;
    let (path, czxid) = asked(&first).await;
    assert_eq!(czxid, 1);
    first.acknowledge(&path, czxid);
    let acknowledgement = format!("{drain_path}/gw-1");
    until("the acknowledgement", async || {
        one.exists(&acknowledgement).await.unwrap().is_some()
    })
    .await;

    let registration = registered(&client).await;
    let incarnation = stat(&client).await.unwrap().czxid;
    let task = drain(registration, LONG);
    let mut drains = first.drains();
    within(drains.wait_for(|drains| drains[&path].czxid == incarnation))
        .await
        .unwrap();
    assert!(stat(&client).await.is_some());
    first.acknowledge(&path, incarnation);
    assert_eq!(departed(task).await.acknowledged, ["gw-1"]);
    assert_nothing_left(&client).await;
}

async fn drains_that_nobody_finishes_are_cleaned_up(kind: Kind) {
    let Some(server) = Server::start(kind, TICK).await else {
        return;
    };
    let client = server.client().await;
    let (one, two) = (server.client().await, server.client().await);
    let announcement = Announcement {
        version: "0.1.0".to_owned(),
        host: "test".to_owned(),
        pid: 1,
    };
    let board = |client: &Client, id| {
        let interval = Duration::from_millis(100);
        DrainBoard::start_with(client.clone(), id, &announcement, interval).unwrap()
    };
    let boards = [board(&one, "gw-1"), board(&two, "gw-2")];
    for board in &boards {
        within(board.announced().wait_for(|announced| *announced))
            .await
            .unwrap();
    }
    let killed = server.client().await;
    let registration = registered(&killed).await;
    let task = drain(registration, LONG);
    let mut acknowledgements = Vec::new();
    for board in &boards {
        acknowledgements.push(asked(board).await);
    }
    // Killed in the middle; then both acknowledge, for a registrar that is gone.
    drop(task);
    for (board, (path, czxid)) in boards.iter().zip(&acknowledgements) {
        board.acknowledge(path, *czxid);
    }
    killed.close().await;
    for board in &boards {
        within(board.drains().wait_for(|drains| drains.is_empty()))
            .await
            .unwrap();
    }
    assert_nothing_left(&client).await;
}
