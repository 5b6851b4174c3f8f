//! An instance stays registered, whatever happens.

use std::time::Duration;

use livegate_discovery::registrar::{LostCause, RegistrarState};
use livegate_zk::client::{Client, ConnectionState};
use livegate_zk::proto::acl::Acl;
use livegate_zk::proto::create_mode::CreateMode;

use crate::connect::options;
use crate::forwarder::{Forwarder, Mode};
use crate::registry::{
    PATH, TICK, content, registered, registrar, short_lived, stat, until, until_state, within,
};
use crate::server::{Kind, Server, on_both};

on_both! {
    an_instance_is_registered_changed_withdrawn_and_removed
    the_parents_are_containers_and_plain_is_plain
    a_node_that_a_dead_process_left_behind_is_replaced
    a_session_that_ends_is_followed_by_a_new_registration
    a_node_that_somebody_deletes_comes_back
    a_restarted_server_changes_nothing_and_a_wiped_one_is_written_into
    a_create_whose_reply_is_lost_makes_one_node
    a_replacement_whose_reply_is_lost_makes_one_node
    what_is_withdrawn_while_the_registry_is_away_goes_when_it_is_back
    of_two_registrars_the_newer_one_wins_and_the_older_one_takes_over_after_it
    a_superseded_registrar_leaves_without_a_drain
}

fn is_registered(state: &RegistrarState) -> bool {
    matches!(state, RegistrarState::Registered { .. })
}

/// How many requests the server has got from a client in this session's latest connection.
async fn requests(server: &Server, client: &Client) -> u64 {
    let answer = server.ask("cons").await.unwrap();
    let session = format!(",sid={:#x},", client.state().session_id);
    let connection = answer.lines().find(|line| line.contains(&session)).unwrap();
    let (_, count) = connection.split_once(",recved=").unwrap();
    count.split(',').next().unwrap().parse().unwrap()
}

/// Waits until a registrar, which does nothing else with its client, has looked this often after its node: with two
/// requests each time.
async fn until_it_has_looked(server: &Server, client: &Client, times: u64) {
    let before = requests(server, client).await;
    until("the registrar looks", async || {
        requests(server, client).await >= before + 2 * times
    })
    .await;
}

async fn an_instance_is_registered_changed_withdrawn_and_removed(kind: Kind) {
    let Some(server) = Server::start(kind, TICK).await else {
        return;
    };
    let client = server.client().await;
    let looker = server.client().await;
    let registration = registrar(&client)
        .zone("a")
        .metadata("version", "7")
        .check_interval(Duration::from_millis(100))
        .start()
        .unwrap();
    assert_eq!(registration.path(), PATH);
    assert!(within(registration.registered()).await);
    let first = stat(&looker).await.unwrap();
    assert_eq!(first.ephemeral_owner, client.state().session_id);
    let text = content(&looker).await;
    assert!(
        text.contains(r#""payload":{"metadata":{"version":"7","weight":"20","zone":"a"}}"#),
        "{text}"
    );

    registration
        .update(|description| description.weight = Some(5))
        .unwrap();
    let changed = text.replace(r#""weight":"20""#, r#""weight":"5""#);
    until("the weight changes", async || {
        content(&looker).await == changed
    })
    .await;
    assert_eq!(stat(&looker).await.unwrap().czxid, first.czxid);

    // What an operator writes stays, however often the registrar looks.
    looker.set(PATH, b"edited", None).await.unwrap();
    until_it_has_looked(&server, &client, 3).await;
    assert_eq!(content(&looker).await, "edited");
    registration.withdraw();
    until_state(&registration, |state| *state == RegistrarState::Withdrawn).await;
    assert_eq!(stat(&looker).await, None);
    registration.offer();
    until_state(&registration, is_registered).await;
    assert!(stat(&looker).await.unwrap().czxid > first.czxid);

    let departure = within(registration.remove()).await;
    assert!(departure.removed);
    assert_eq!(stat(&looker).await, None);
    registration.offer();
    assert!(matches!(registration.state(), RegistrarState::Gone(_)));
}

async fn the_parents_are_containers_and_plain_is_plain(kind: Kind) {
    let Some(server) = Server::start(kind, TICK).await else {
        return;
    };
    let client = server.client().await;
    let registration = registrar(&client).root("/a/b").plain().start().unwrap();
    assert!(within(registration.registered()).await);
    let (data, _) = client.get("/a/b/orders/10.0.0.3:8080").await.unwrap();
    assert_eq!(data, b"10.0.0.3:8080");
    assert!(within(registration.remove()).await.removed);
    // Which only happens to containers.
    until("the parents are removed by the server", async || {
        client.exists("/a").await.unwrap().is_none()
    })
    .await;
}

async fn a_node_that_a_dead_process_left_behind_is_replaced(kind: Kind) {
    let Some(server) = Server::start(kind, TICK).await else {
        return;
    };
    let client = server.client().await;
    client
        .ensure("/services/orders", CreateMode::Container, Acl::OPEN)
        .await
        .unwrap();
    let dead = server.client().await;
    dead.create(PATH, b"old", CreateMode::Ephemeral, Acl::OPEN)
        .await
        .unwrap();
    let old = stat(&client).await.unwrap();
    // The process is gone, and its session is not.
    drop(dead);
    let registration = registered(&client).await;
    let new = stat(&client).await.unwrap();
    assert!(new.czxid > old.czxid);
    assert_eq!(new.ephemeral_owner, client.state().session_id);
    // One that is ours already is kept, and gets our content.
    drop(registration);
    let _registration = registrar(&client).weight(7).start().unwrap();
    until("the new content", async || {
        content(&client).await.contains(r#""weight":"7""#)
    })
    .await;
    assert_eq!(stat(&client).await.unwrap().czxid, new.czxid);
}

async fn a_session_that_ends_is_followed_by_a_new_registration(kind: Kind) {
    let Some(server) = Server::start(kind, TICK).await else {
        return;
    };
    let looker = server.client().await;
    let forwarder = Forwarder::start(server.address()).await;
    let client = short_lived(&forwarder.address.to_string()).await;
    let registration = registered(&client).await;
    let first = stat(&looker).await.unwrap();

    forwarder.set(Mode::Freeze);
    until("the session ends", async || stat(&looker).await.is_none()).await;
    let lost = |state: &RegistrarState| {
        matches!(
            state,
            RegistrarState::Lost {
                cause: LostCause::SessionExpired(_)
            }
        )
    };
    until_state(&registration, lost).await;
    forwarder.set(Mode::Pass);
    let mut sessions = client.states();
    within(sessions.wait_for(|state| state.sessions == 2))
        .await
        .unwrap();
    until_state(&registration, is_registered).await;
    let second = stat(&looker).await.unwrap();
    assert!(second.czxid > first.czxid);
    assert_eq!(second.ephemeral_owner, client.state().session_id);
}

async fn a_node_that_somebody_deletes_comes_back(kind: Kind) {
    let Some(server) = Server::start(kind, TICK).await else {
        return;
    };
    let client = server.client().await;
    let looker = server.client().await;
    let registration = registered(&client).await;
    for _ in 0..3 {
        let before = stat(&looker).await.unwrap();
        looker.delete(PATH, None).await.unwrap();
        until("the node comes back", async || {
            stat(&looker)
                .await
                .is_some_and(|stat| stat.czxid > before.czxid)
        })
        .await;
    }
    until_state(&registration, is_registered).await;
    // With its parents, too.
    looker.delete(PATH, None).await.unwrap();
    drop(looker.delete("/services/orders", None).await);
    until("the node comes back", async || {
        stat(&looker).await.is_some()
    })
    .await;
}

async fn a_restarted_server_changes_nothing_and_a_wiped_one_is_written_into(kind: Kind) {
    let Some(mut server) = Server::start(kind, Duration::from_millis(1500)).await else {
        return;
    };
    let client = server.client().await;
    let _registration = registered(&client).await;
    let before = stat(&client).await.unwrap();
    server.kill();
    server.run().await;
    let mut sessions = client.states();
    within(sessions.wait_for(|state| state.attachments == 2))
        .await
        .unwrap();
    assert_eq!(stat(&client).await.unwrap(), before);

    server.kill();
    server.wipe();
    server.run().await;
    let looker = server.client().await;
    until("the instance is registered", async || {
        stat(&looker).await.is_some()
    })
    .await;
}

/// Registers through a connection that is lost after the node was written and before anybody heard of
/// it; what a dead process left there, if anything.
async fn register_without_a_reply(kind: Kind, stale: Option<&[u8]>) {
    let Some(server) = Server::start(kind, Duration::from_millis(1500)).await else {
        return;
    };
    let looker = server.client().await;
    looker
        .ensure("/services/orders", CreateMode::Persistent, Acl::OPEN)
        .await
        .unwrap();
    if let Some(stale) = stale {
        looker
            .create(PATH, stale, CreateMode::Ephemeral, Acl::OPEN)
            .await
            .unwrap();
    }
    let before = stat(&looker).await.map_or(0, |stat| stat.czxid);
    let forwarder = Forwarder::start(server.address()).await;
    let client = Client::connect(options(&forwarder.address.to_string()))
        .await
        .unwrap();
    forwarder.set(Mode::LoseRepliesFrom(b"registrationTimeUTC"));
    let registration = registrar(&client).start().unwrap();
    until("the node is created", async || {
        stat(&looker).await.is_some_and(|stat| stat.czxid > before)
    })
    .await;
    let created = stat(&looker).await.unwrap();
    assert_eq!(registration.state(), RegistrarState::Registering);
    forwarder.set(Mode::Cut);
    until("the connection is lost", async || {
        matches!(
            client.state().connection,
            ConnectionState::Disconnected { .. }
        )
    })
    .await;
    forwarder.set(Mode::Pass);
    assert!(within(registration.registered()).await);
    // The very node, found and not created once more.
    let RegistrarState::Registered { czxid, .. } = registration.state() else {
        panic!("{:?}", registration.state());
    };
    assert_eq!(czxid, created.czxid);
    assert_eq!(stat(&looker).await.unwrap().czxid, created.czxid);
    let children = looker.children("/services/orders").await.unwrap();
    assert_eq!(children, ["10.0.0.3:8080"]);
}

async fn a_create_whose_reply_is_lost_makes_one_node(kind: Kind) {
    register_without_a_reply(kind, None).await;
}

async fn a_replacement_whose_reply_is_lost_makes_one_node(kind: Kind) {
    register_without_a_reply(kind, Some(b"stale")).await;
}

async fn what_is_withdrawn_while_the_registry_is_away_goes_when_it_is_back(kind: Kind) {
    let Some(server) = Server::start(kind, Duration::from_millis(1500)).await else {
        return;
    };
    let looker = server.client().await;
    let forwarder = Forwarder::start(server.address()).await;
    let client = Client::connect(options(&forwarder.address.to_string()))
        .await
        .unwrap();
    let registration = registered(&client).await;
    forwarder.set(Mode::Cut);
    registration.withdraw();
    let refused = forwarder.connections() + 15;
    until("the registry is sought in vain", async || {
        forwarder.connections() >= refused
    })
    .await;
    assert!(is_registered(&registration.state()));
    assert!(stat(&looker).await.is_some());
    forwarder.set(Mode::Pass);
    until_state(&registration, |state| *state == RegistrarState::Withdrawn).await;
    assert_eq!(stat(&looker).await, None);
}

async fn of_two_registrars_the_newer_one_wins_and_the_older_one_takes_over_after_it(kind: Kind) {
    let Some(server) = Server::start(kind, TICK).await else {
        return;
    };
    let (old, new) = (server.client().await, server.client().await);
    let looker = server.client().await;
    let older = registered(&old).await;
    let newer = registered(&new).await;
    let superseded = |state: &RegistrarState| {
        *state
            == RegistrarState::Lost {
                cause: LostCause::Superseded,
            }
    };
    until_state(&older, superseded).await;
    let owner = stat(&looker).await.unwrap();
    assert_eq!(owner.ephemeral_owner, new.state().session_id);
    // They leave it at that, however often they look.
    drop(older);
    let older = registrar(&old)
        .check_interval(Duration::from_millis(100))
        .start()
        .unwrap();
    // Started again it is the newer one.
    assert!(within(older.registered()).await);
    until_state(&newer, superseded).await;
    let settled = stat(&looker).await.unwrap();
    assert_eq!(settled.ephemeral_owner, old.state().session_id);
    let before = requests(&server, &new).await;
    newer
        .update(|description| description.weight = Some(1))
        .unwrap();
    until(
        "the superseded one looks whether it may write",
        async || requests(&server, &new).await > before,
    )
    .await;
    until_it_has_looked(&server, &old, 3).await;
    assert_eq!(stat(&looker).await.unwrap(), settled);

    // A superseded registrar that leaves takes nothing with it; a remaining one takes over.
    assert!(within(older.remove()).await.removed);
    until_state(&newer, is_registered).await;
    assert_eq!(
        stat(&looker).await.unwrap().ephemeral_owner,
        new.state().session_id
    );
}

async fn a_superseded_registrar_leaves_without_a_drain(kind: Kind) {
    let Some(server) = Server::start(kind, TICK).await else {
        return;
    };
    let (old, new) = (server.client().await, server.client().await);
    let older = registered(&old).await;
    let _newer = registered(&new).await;
    until_state(&older, |state| matches!(state, RegistrarState::Lost { .. })).await;
    let before = (stat(&new).await, content(&new).await);
    within(older.drain(Duration::from_secs(30))).await;
    assert_eq!((stat(&new).await, content(&new).await), before);
}
