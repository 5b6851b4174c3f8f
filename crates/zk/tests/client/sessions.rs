//! Lost connections, lost servers and lost sessions, against Apache ZooKeeper and the embedded registry.

use std::time::Duration;

use livegate_zk::client::{
    Client, ConnectionState, Credential, DisconnectCause, Error, ExpiryCause, Gap, NotSent,
    Notification, SessionEvent, SessionEvents,
};
use livegate_zk::proto::acl::Acl;
use livegate_zk::proto::create_mode::CreateMode;
use livegate_zk::proto::error_code::ErrorCode;
use livegate_zk::proto::watch::{AddWatchMode, EventKind};

use crate::connect::{end_session, options};
use crate::fake::within;
use crate::forwarder::{Forwarder, Mode};
use crate::server::{Kind, Server, on_both};
use crate::watches::{create, event, fired};

on_both! {
    a_restarted_server_finds_session_watches_and_identities_in_place
    another_server_takes_the_session_over
    a_session_that_is_away_too_long_is_replaced
    a_session_that_the_server_ends_is_replaced
    a_server_that_lost_its_data_gets_a_new_session
}

/// Sessions of up to 30 s.
const TICK: Duration = Duration::from_millis(1500);

/// Waits for an event, whatever comes before it.
pub(crate) async fn until(events: &mut SessionEvents, wanted: &SessionEvent) {
    while within(events.next()).await.as_ref() != Some(wanted) {}
}

async fn until_disconnected(events: &mut SessionEvents) -> Option<DisconnectCause> {
    loop {
        if let Some(SessionEvent::Disconnected { cause, .. }) = within(events.next()).await {
            return cause;
        }
    }
}

async fn a_restarted_server_finds_session_watches_and_identities_in_place(kind: Kind) {
    let Some(mut server) = Server::start(kind, TICK).await else {
        return;
    };
    let forwarder = Forwarder::start(server.address()).await;
    let mut through = options(&forwarder.address.to_string());
    through
        .credentials
        .push(Credential::digest("configured", "1"));
    let client = Client::connect(through).await.unwrap();
    client
        .add_auth(Credential::digest("added", "2"))
        .await
        .unwrap();
    let mut events = client.session_events();
    let session_id = client.state().session_id;

    client
        .create("/s", b"", CreateMode::Ephemeral, Acl::OPEN)
        .await
        .unwrap();
    for path in [
        "/changed",
        "/kept",
        "/deleted",
        "/children",
        "/children-kept",
    ] {
        create(&client, path).await;
    }
    let (_, _, changed) = client.get_and_watch("/changed").await.unwrap();
    let (_, _, mut kept) = client.get_and_watch("/kept").await.unwrap();
    let (_, deleted) = client.exists_and_watch("/deleted").await.unwrap();
    let (_, created) = client.exists_and_watch("/created").await.unwrap();
    let (_, mut missing) = client.exists_and_watch("/missing").await.unwrap();
    let (_, _, children) = client.children_and_watch("/children").await.unwrap();
    let (_, _, mut children_kept) = client.children_and_watch("/children-kept").await.unwrap();
    let mut persistent = client
        .watch("/changed", AddWatchMode::Persistent)
        .await
        .unwrap();
    let mut recursive = client
        .watch("/", AddWatchMode::PersistentRecursive)
        .await
        .unwrap();

    // Things happen while the client is away, and after the server has been killed.
    forwarder.set(Mode::Cut);
    assert_eq!(
        until_disconnected(&mut events).await,
        Some(DisconnectCause::Closed)
    );
    assert!(matches!(
        client.state().connection,
        ConnectionState::Disconnected { .. }
    ));
    server.kill();
    server.run().await;
    let other = server.client().await;
    other.set("/changed", b"1", None).await.unwrap();
    other.delete("/deleted", None).await.unwrap();
    create(&other, "/created").await;
    create(&other, "/children/1").await;
    forwarder.set(Mode::Pass);
    until(&mut events, &SessionEvent::Reattached).await;

    assert_eq!(client.state().session_id, session_id);
    assert_eq!(client.state().sessions, 1);
    let is = |kind, path: &str| (kind, path.to_owned());
    assert_eq!(fired(changed).await, is(EventKind::DataChanged, "/changed"));
    assert_eq!(fired(deleted).await, is(EventKind::Deleted, "/deleted"));
    assert_eq!(fired(created).await, is(EventKind::Created, "/created"));
    assert_eq!(
        fired(children).await,
        is(EventKind::ChildrenChanged, "/children")
    );
    // A one-shot watch on the same path is caught up, and so the persistent one hears of it, too.
    assert_eq!(
        event(&mut persistent).await,
        is(EventKind::DataChanged, "/changed")
    );
    assert_eq!(
        within(persistent.next()).await,
        Some(Notification::Gap(Gap::Reattached))
    );
    loop {
        match within(recursive.next()).await {
            Some(Notification::Gap(gap)) => break assert_eq!(gap, Gap::Reattached),
            Some(Notification::Event(_)) => {}
            None => panic!("the watcher has ended"),
        }
    }

    // What was not touched is still watched.
    create(&other, "/missing").await;
    assert_eq!(
        within(missing.fired()).await.unwrap().kind,
        EventKind::Created
    );
    other.set("/kept", b"", None).await.unwrap();
    assert_eq!(
        within(kept.fired()).await.unwrap().kind,
        EventKind::DataChanged
    );
    create(&other, "/children-kept/1").await;
    assert_eq!(
        within(children_kept.fired()).await.unwrap().kind,
        EventKind::ChildrenChanged
    );
    other.set("/changed", b"2", None).await.unwrap();
    assert_eq!(
        event(&mut persistent).await,
        is(EventKind::DataChanged, "/changed")
    );
    for expected in [
        is(EventKind::Created, "/missing"),
        is(EventKind::DataChanged, "/kept"),
        is(EventKind::Created, "/children-kept/1"),
        is(EventKind::DataChanged, "/changed"),
    ] {
        assert_eq!(event(&mut recursive).await, expected);
    }

    let identities = client.who_am_i().await.unwrap();
    let mut users: Vec<_> = identities.into_iter().map(|who| who.user).collect();
    users.sort_unstable();
    assert_eq!(users, ["127.0.0.1", "added", "configured"]);
    let stat = client.exists("/s").await.unwrap().unwrap();
    assert_eq!(stat.ephemeral_owner, session_id);
}

async fn another_server_takes_the_session_over(kind: Kind) {
    let Some(server) = Server::start(kind, TICK).await else {
        return;
    };
    let servers = [
        Forwarder::start(server.address()).await,
        Forwarder::start(server.address()).await,
        Forwarder::start(server.address()).await,
    ];
    let addresses: Vec<_> = servers
        .iter()
        .map(|server| server.address.to_string())
        .collect();
    let client = Client::connect(options(&addresses.join(",")))
        .await
        .unwrap();
    let mut events = client.session_events();
    let session_id = client.state().session_id;
    client
        .create("/e", b"", CreateMode::Ephemeral, Acl::OPEN)
        .await
        .unwrap();
    for lost in 1..=30 {
        let ConnectionState::Connected { server: now } = client.state().connection else {
            panic!("{:?}", client.state())
        };
        let current = servers.iter().find(|server| server.address == now).unwrap();
        current.set(Mode::Cut);
        until(&mut events, &SessionEvent::Reattached).await;
        current.set(Mode::Pass);
        let stat = client.exists("/e").await.unwrap().unwrap();
        assert_eq!(stat.ephemeral_owner, session_id);
        let state = client.state();
        assert_ne!(state.connection, ConnectionState::Connected { server: now });
        assert_eq!(
            (state.session_id, state.attachments),
            (session_id, lost + 1)
        );
    }
}

async fn a_session_that_is_away_too_long_is_replaced(kind: Kind) {
    let tick = Duration::from_millis(500);
    let Some(server) = Server::start(kind, tick).await else {
        return;
    };
    let forwarder = Forwarder::start(server.address()).await;
    let mut options = options(&forwarder.address.to_string());
    options.session_timeout = Duration::from_secs(6);
    let client = Client::connect(options).await.unwrap();
    assert_eq!(client.state().session_timeout, Duration::from_secs(6));
    let mut events = client.session_events();
    let first = client.state().session_id;
    let other = server.client().await;
    client
        .create("/e", b"", CreateMode::Ephemeral, Acl::OPEN)
        .await
        .unwrap();
    create(&client, "/n").await;
    let (_, exists) = client.exists_and_watch("/e").await.unwrap();
    let (_, _, mut data) = client.get_and_watch("/n").await.unwrap();
    let mut recursive = client
        .watch("/", AddWatchMode::PersistentRecursive)
        .await
        .unwrap();

    // Nothing comes through any more. A pending request has an unknown outcome, a later one is not sent.
    forwarder.set(Mode::Freeze);
    let frozen = tokio::time::Instant::now();
    let impatient = client.with_operation_timeout(Duration::from_secs(60));
    let asked = impatient.set("/n", b"x", None);
    let (asked, cause) = tokio::join!(asked, until_disconnected(&mut events));
    assert_eq!(asked, Err(Error::ConnectionLoss));
    assert_eq!(cause, Some(DisconnectCause::Silent));
    let silent = frozen.elapsed();
    let third = Duration::from_secs(2);
    // How late is up to the machine; the exact times are tested where they are computed.
    assert!(silent > 2 * third - third / 2, "{silent:?}");
    let brief = client.with_operation_timeout(Duration::from_millis(50));
    assert_eq!(
        brief.get("/n").await,
        Err(Error::NotSent(NotSent::Deadline))
    );
    until(
        &mut events,
        &SessionEvent::Expired {
            cause: ExpiryCause::Silence,
        },
    )
    .await;
    let expired = frozen.elapsed();
    assert!(expired > 4 * third - third / 2, "{expired:?}");
    assert_eq!(client.state().session_id, 0);

    // The server comes to the same conclusion.
    while other.exists("/e").await.unwrap().is_some() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    forwarder.set(Mode::Pass);
    until(
        &mut events,
        &SessionEvent::NewSession {
            cause: Some(ExpiryCause::Silence),
        },
    )
    .await;
    let state = client.state();
    assert_ne!(state.session_id, first);
    assert_eq!((state.sessions, state.expirations), (2, 1));
    assert_eq!(fired(exists).await, (EventKind::Deleted, "/e".to_owned()));
    while within(recursive.next()).await != Some(Notification::Gap(Gap::NewSession)) {}
    other.set("/n", b"y", None).await.unwrap();
    assert_eq!(
        within(data.fired()).await.unwrap().kind,
        EventKind::DataChanged
    );
    assert_eq!(
        event(&mut recursive).await,
        (EventKind::DataChanged, "/n".to_owned())
    );
}

async fn a_session_that_the_server_ends_is_replaced(kind: Kind) {
    let Some(server) = Server::start(kind, TICK).await else {
        return;
    };
    let forwarder = Forwarder::start(server.address()).await;
    let client = Client::connect(options(&forwarder.address.to_string()))
        .await
        .unwrap();
    let mut events = client.session_events();
    let mut sessions = vec![client.state().session_id];
    create(&client, "/n").await;
    let mut watcher = client.watch("/n", AddWatchMode::Persistent).await.unwrap();
    for _ in 0..5 {
        client
            .create("/e", b"", CreateMode::Ephemeral, Acl::OPEN)
            .await
            .unwrap();
        end_session(server.address(), &forwarder.connect_reply()).await;
        let cause = Some(ExpiryCause::Server);
        until(&mut events, &SessionEvent::NewSession { cause }).await;
        sessions.push(client.state().session_id);
        assert_eq!(client.exists("/e").await.unwrap(), None);
        while within(watcher.next()).await != Some(Notification::Gap(Gap::NewSession)) {}
        client.set("/n", b"", None).await.unwrap();
        assert_eq!(
            event(&mut watcher).await,
            (EventKind::DataChanged, "/n".to_owned())
        );
    }
    sessions.sort_unstable();
    sessions.dedup();
    assert_eq!(sessions.len(), 6);
}

async fn a_server_that_lost_its_data_gets_a_new_session(kind: Kind) {
    let Some(mut server) = Server::start(kind, TICK).await else {
        return;
    };
    let client = server.client().await;
    let mut events = client.session_events();
    for number in 0..20 {
        create(&client, &format!("/n{number}")).await;
    }
    let (_, _, data) = client.get_and_watch("/n1").await.unwrap();
    let (_, mut missing) = client.exists_and_watch("/other").await.unwrap();
    let mut watcher = client.watch("/n2", AddWatchMode::Persistent).await.unwrap();
    server.kill();
    server.wipe();
    server.run().await;
    // Zxids of the registry never go back, so it does not turn the client away.
    let cause = Some(match kind {
        Kind::Apache => ExpiryCause::ServersBehind,
        Kind::Embedded => ExpiryCause::Server,
    });
    until(&mut events, &SessionEvent::NewSession { cause }).await;
    assert_eq!(fired(data).await, (EventKind::Deleted, "/n1".to_owned()));
    while within(watcher.next()).await != Some(Notification::Gap(Gap::NewSession)) {}
    assert_eq!(
        client.get("/n1").await,
        Err(Error::Server(ErrorCode::NoNode))
    );
    create(&client, "/other").await;
    assert_eq!(
        within(missing.fired()).await.unwrap().kind,
        EventKind::Created
    );
    create(&client, "/n2").await;
    assert_eq!(
        event(&mut watcher).await,
        (EventKind::Created, "/n2".to_owned())
    );
    // Nothing of the search is left behind on the server.
    let sessions = server.ask("dump").await.unwrap();
    let count = sessions
        .lines()
        .find(|line| line.starts_with("Session Sets"))
        .unwrap();
    assert!(count.ends_with("/(1):"), "{sessions}");
}
