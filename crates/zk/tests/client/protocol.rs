//! What happens on the wire in cases that a real server does not produce on demand.

use std::time::Duration;

use livegate_zk::client::{
    Client, ConnectOptions, ConnectionState, Credential, DisconnectCause, Error, ExpiryCause, Gap,
    NotSent, Notification, Outcome, SessionEvent, SessionState,
};
use livegate_zk::jute::{Decoder, List};
use livegate_zk::proto::acl::Acl;
use livegate_zk::proto::create_mode::CreateMode;
use livegate_zk::proto::error_code::ErrorCode;
use livegate_zk::proto::op_code::{OpCode, XID_AUTH, XID_PING, XID_SET_WATCHES};
use livegate_zk::proto::reply::{Children2Reply, DataReply, PathReply};
use livegate_zk::proto::request::{PathWatch, SetData};
use livegate_zk::proto::session::{ConnectReply, PASSWORD_BYTES};
use livegate_zk::proto::stat::Stat;
use livegate_zk::proto::watch::{AddWatch, AddWatchMode, EventKind, SetWatches, SetWatches2};
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::connect::options;
use crate::fake::{Asked, Fake, Peer, within};
use crate::sessions::until;

const TIMEOUT: Duration = Duration::from_secs(30);

fn data(bytes: &[u8]) -> DataReply<'_> {
    DataReply {
        data: Some(bytes),
        stat: Stat::default(),
    }
}

fn path_watch(asked: &Asked) -> PathWatch<'_> {
    Decoder::new(&asked.body).read().unwrap()
}

/// A client attached as session 1.
async fn attached(fake: &Fake) -> (Client, Peer) {
    attached_with(fake, fake.options()).await
}

async fn attached_with(fake: &Fake, options: ConnectOptions) -> (Client, Peer) {
    let (client, (peer, _)) = tokio::join!(Client::connect(options), fake.attach(1, TIMEOUT));
    (client.unwrap(), peer)
}

#[tokio::test]
async fn what_was_sent_is_never_sent_again_and_what_was_not_waits() {
    let fake = Fake::start().await;
    let mut options = fake.options();
    options.requests_max = 2;
    let (client, mut peer) = attached_with(&fake, options).await;
    let set = |value: &'static [u8]| {
        let client = client.clone();
        async move { client.set("/n", value, None).await }
    };
    let server = async {
        for expected in [&b"1"[..], b"2"] {
            let asked = peer.expect(OpCode::SetData).await;
            let request: SetData<'_> = Decoder::new(&asked.body).read().unwrap();
            assert_eq!(request.data, Some(expected));
        }
        // The bound holds: nothing comes while two are unanswered, not even a third that is ready.
        let more = tokio::time::timeout(Duration::from_millis(200), peer.request()).await;
        assert!(more.is_err(), "{more:?}");
        drop(peer);
        let (mut peer, connect) = fake.attach(1, TIMEOUT).await;
        assert_eq!(
            (connect.session_id, connect.password),
            (1, vec![7; PASSWORD_BYTES])
        );
        for expected in [&b"3"[..], b"4"] {
            let asked = peer.expect(OpCode::SetData).await;
            let request: SetData<'_> = Decoder::new(&asked.body).read().unwrap();
            assert_eq!(request.data, Some(expected));
            peer.reply(asked.xid, 5, 0, &Stat::default()).await;
        }
        peer
    };
    let (one, two, three, four, _peer) =
        tokio::join!(set(b"1"), set(b"2"), set(b"3"), set(b"4"), server);
    assert_eq!(
        (one.clone(), two),
        (Err(Error::ConnectionLoss), Err(Error::ConnectionLoss))
    );
    assert_eq!(one.unwrap_err().outcome(), Outcome::Unknown);
    assert_eq!((three, four), (Ok(Stat::default()), Ok(Stat::default())));
}

#[tokio::test]
async fn a_deadline_tells_whether_the_request_was_sent() {
    let fake = Fake::start().await;
    let mut options = fake.options();
    options.requests_max = 1;
    let (client, mut peer) = attached_with(&fake, options).await;
    let patient = client.clone();
    let client = client.with_operation_timeout(Duration::from_secs(1));
    let (sent, waiting) = tokio::join!(client.get("/sent"), client.get("/waiting"));
    assert_eq!(sent, Err(Error::DeadlineExceeded));
    assert_eq!(waiting, Err(Error::NotSent(NotSent::Deadline)));
    assert_eq!(waiting.unwrap_err().outcome(), Outcome::NotApplied);
    let server = async {
        let asked = peer.expect(OpCode::GetData).await;
        assert_eq!(path_watch(&asked).path, "/sent");
        // Nobody waits for this answer any more; the next one must not be taken for it.
        peer.reply(asked.xid, 1, 0, &data(b"late")).await;
        let asked = peer.expect(OpCode::GetData).await;
        assert_eq!(
            path_watch(&asked).path,
            "/next",
            "what was given up is not sent"
        );
        peer.reply(asked.xid, 1, 0, &data(b"next")).await;
    };
    let start = Instant::now();
    let (next, ()) = tokio::join!(patient.get("/next"), server);
    assert_eq!(next.unwrap().0, b"next");
    // What was given up makes room at once, not when the next ping is due.
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn while_disconnected_requests_wait_until_their_deadline() {
    let fake = Fake::start().await;
    let client = Client::start(fake.options());
    let brief = client.with_operation_timeout(Duration::from_millis(100));
    assert_eq!(
        brief.get("/a").await,
        Err(Error::NotSent(NotSent::Deadline))
    );
    let server = async {
        let (mut peer, connect) = fake.attach(1, TIMEOUT).await;
        assert_eq!(
            (connect.session_id, connect.last_zxid, connect.timeout_ms),
            (0, 0, 30_000)
        );
        let asked = peer.expect(OpCode::GetData).await;
        assert_eq!(path_watch(&asked).path, "/b");
        peer.reply(asked.xid, 1, 0, &data(b"b")).await;
        peer
    };
    let (answer, _peer) = tokio::join!(client.get("/b"), server);
    assert_eq!(answer.unwrap().0, b"b");
}

#[tokio::test]
async fn connecting_gives_up_with_the_reason() {
    let fake = Fake::start().await;
    let mut options = options(&fake.address().to_string());
    options.operation_timeout = Duration::from_millis(300);
    drop(fake);
    let error = Client::connect(options).await.unwrap_err();
    assert!(
        matches!(error.cause, Some(DisconnectCause::Io(_))),
        "{error}"
    );
    assert!(
        error.to_string().starts_with("no session within 300ms: "),
        "{error}"
    );
}

#[tokio::test]
async fn pings_keep_a_quiet_connection_and_silence_ends_it() {
    let fake = Fake::start().await;
    let timeout = Duration::from_secs(3);
    let mut options = fake.options();
    options.session_timeout = timeout;
    let (client, (mut peer, _)) = tokio::join!(Client::connect(options), fake.attach(1, timeout));
    let client = client.unwrap();
    let mut events = client.session_events();
    let start = Instant::now();
    let mut pings = 0;
    while pings < 3 {
        // On a machine that stalls, the answer may come too late.
        let Some(asked) = peer.anything().await else {
            peer = fake.attach(1, timeout).await.0;
            continue;
        };
        assert_eq!((asked.op_code, asked.xid), (OpCode::Ping, XID_PING));
        peer.reply(XID_PING, 1, 0, &()).await;
        pings += 1;
    }
    assert!(
        start.elapsed() > timeout * 2 / 3,
        "3 pings in {:?}",
        start.elapsed()
    );
    // The next pings are not answered.
    loop {
        let event = within(events.next()).await;
        if let Some(SessionEvent::Disconnected { since, cause }) = event {
            assert_eq!(cause, Some(DisconnectCause::Silent));
            assert!(
                since.elapsed() >= timeout * 2 / 3,
                "since it was last heard"
            );
            break;
        }
    }
    let (_peer, connect) = fake.attach(1, timeout).await;
    assert_eq!(connect.session_id, 1);
    until(&mut events, &SessionEvent::Reattached).await;
}

#[tokio::test]
async fn bytes_that_never_become_a_frame_are_not_a_sign_of_life_for_ever() {
    let fake = Fake::start().await;
    let mut options = fake.options();
    options.session_timeout = Duration::from_secs(1);
    let timeout = Duration::from_secs(1);
    let (client, (mut peer, _)) = tokio::join!(Client::connect(options), fake.attach(1, timeout));
    let client = client.unwrap();
    let mut events = client.session_events();
    let dripping = async {
        peer.raw_length(1_000_000).await;
        loop {
            peer.raw(&[0]).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = dripping => {}
        event = within(events.next()) => {
            let Some(SessionEvent::Disconnected { cause, .. }) = event else { panic!("{event:?}") };
            assert_eq!(cause, Some(DisconnectCause::Silent));
        }
    }
}

/// A process that did not run for a while finds the timers late, but also the bytes that arrived.
#[tokio::test]
async fn a_stall_of_the_client_is_not_taken_for_silence_of_the_server() {
    let fake = Fake::start().await;
    let mut options = fake.options();
    options.session_timeout = Duration::from_secs(3);
    let timeout = Duration::from_secs(3);
    let (client, (mut peer, _)) = tokio::join!(Client::connect(options), fake.attach(1, timeout));
    let client = client.unwrap();
    for _ in 0..3 {
        // The server pings back in time, and this thread, which the client runs on, does nothing.
        peer.reply(XID_PING, 1, 0, &()).await;
        let stalled = std::time::Instant::now();
        while stalled.elapsed() < Duration::from_millis(2200) {
            std::hint::spin_loop();
        }
        let (read, ()) = tokio::join!(client.get("/n"), async {
            let asked = peer.expect(OpCode::GetData).await;
            peer.reply(asked.xid, 1, 0, &data(b"")).await;
        });
        read.unwrap();
    }
    assert_eq!(client.state().attachments, 1);
}

#[tokio::test]
async fn watches_are_restored_from_what_was_known_when_they_were_lost() {
    let fake = Fake::start().await;
    let (client, mut peer) = attached(&fake).await;
    let server = async {
        let asked = peer.expect(OpCode::GetData).await;
        assert!(path_watch(&asked).watch);
        peer.reply(asked.xid, 100, 0, &data(b"")).await;
        let asked = peer.expect(OpCode::Exists).await;
        peer.reply(asked.xid, 101, ErrorCode::NoNode.code(), &())
            .await;
        let asked = peer.expect(OpCode::GetChildren2).await;
        let reply = Children2Reply {
            children: List::default(),
            stat: Stat::default(),
        };
        peer.reply(asked.xid, 102, 0, &reply).await;
        let asked = peer.expect(OpCode::AddWatch).await;
        peer.reply(asked.xid, 103, 0, &0).await;
    };
    let asking = async {
        (
            client.get_and_watch("/d").await.unwrap().2,
            client.exists_and_watch("/e").await.unwrap().1,
            client.children_and_watch("/c").await.unwrap().2,
            client
                .watch("/r", AddWatchMode::PersistentRecursive)
                .await
                .unwrap(),
        )
    };
    let ((mut data_watch, _exists, _children, mut recursive), ()) = tokio::join!(asking, server);
    drop(peer);

    let restored = |asked: &Asked| {
        let request: SetWatches2<'_> = Decoder::new(&asked.body).read().unwrap();
        assert_eq!(request.data, List::new(&["/d"]));
        assert_eq!(request.exist, List::new(&["/e"]));
        assert_eq!(request.child, List::new(&["/c"]));
        assert_eq!(request.persistent, List::default());
        assert_eq!(request.recursive, List::new(&["/r"]));
        request.relative_zxid
    };
    let (mut peer, connect) = fake.attach(1, TIMEOUT).await;
    assert_eq!(connect.last_zxid, 103);
    let asked = peer.expect(OpCode::SetWatches2).await;
    assert_eq!((asked.xid, restored(&asked)), (XID_SET_WATCHES, 103));
    // The connection is lost before the watches are known to be restored. Meanwhile there is news.
    peer.reply(XID_PING, 200, 0, &()).await;
    drop(peer);
    let (mut peer, _) = fake.attach(1, TIMEOUT).await;
    let asked = peer.expect(OpCode::SetWatches2).await;
    assert_eq!(restored(&asked), 103);
    assert_eq!(
        recursive.try_next(),
        None,
        "there is no news of a gap before the watch is back"
    );
    peer.event(EventKind::DataChanged, "/d").await;
    peer.reply(XID_SET_WATCHES, 300, 0, &()).await;
    assert_eq!(within(data_watch.fired()).await.unwrap().path, "/d");
    assert_eq!(
        within(recursive.next()).await,
        Some(Notification::Gap(Gap::Reattached))
    );
    assert_eq!(recursive.try_next(), None);
    drop(peer);
    let (mut peer, connect) = fake.attach(1, TIMEOUT).await;
    assert_eq!(connect.last_zxid, 300);
    let asked = peer.expect(OpCode::SetWatches2).await;
    let request: SetWatches2<'_> = Decoder::new(&asked.body).read().unwrap();
    assert_eq!(
        (request.relative_zxid, request.data),
        (300, List::default())
    );
}

#[tokio::test]
async fn a_refused_persistent_watch_leaves_the_others_in_place() {
    let fake = Fake::start().await;
    let (client, mut peer) = attached(&fake).await;
    let server = async {
        let add = peer.expect(OpCode::AddWatch).await;
        // The read was sent after the persistent watch, so it relies on that.
        let read = peer.expect(OpCode::GetData).await;
        assert!(!path_watch(&read).watch);
        peer.reply(add.xid, 7, ErrorCode::NoAuth.code(), &()).await;
        peer.reply(read.xid, 8, 0, &data(b"")).await;
        let asked = peer.expect(OpCode::SetWatches).await;
        let request: SetWatches<'_> = Decoder::new(&asked.body).read().unwrap();
        assert_eq!(request.data, List::new(&["/n"]));
        peer.event(EventKind::DataChanged, "/n").await;
        peer.reply(XID_SET_WATCHES, 8, 0, &()).await;
        let read = peer.expect(OpCode::GetData).await;
        assert!(
            path_watch(&read).watch,
            "without the persistent watch reads set their own"
        );
        peer.reply(read.xid, 8, 0, &data(b"")).await;
    };
    let asking = async {
        let (added, read) = tokio::join!(
            client.watch("/n", AddWatchMode::Persistent),
            client.get_and_watch("/n"),
        );
        assert_eq!(added.unwrap_err(), Error::Server(ErrorCode::NoAuth));
        within(read.unwrap().2.fired()).await.unwrap();
        client.get_and_watch("/n").await.unwrap()
    };
    tokio::join!(asking, server);
}

#[tokio::test]
async fn a_recursive_watch_is_not_weakened_by_a_persistent_one() {
    let fake = Fake::start().await;
    let (client, mut peer) = attached(&fake).await;
    let server = async {
        for expected in [
            AddWatchMode::PersistentRecursive,
            AddWatchMode::PersistentRecursive,
        ] {
            let asked = peer.expect(OpCode::AddWatch).await;
            let request: AddWatch<'_> = Decoder::new(&asked.body).read().unwrap();
            assert_eq!(request.mode, expected.code());
            peer.reply(asked.xid, 1, 0, &0).await;
        }
        peer.event(EventKind::Created, "/n/c").await;
    };
    let asking = async {
        let recursive = client
            .watch("/n", AddWatchMode::PersistentRecursive)
            .await
            .unwrap();
        let persistent = client.watch("/n", AddWatchMode::Persistent).await.unwrap();
        (recursive, persistent)
    };
    let ((mut recursive, mut persistent), ()) = tokio::join!(asking, server);
    let Some(Notification::Event(event)) = within(recursive.next()).await else {
        panic!()
    };
    assert_eq!(
        (event.kind, event.path.as_str()),
        (EventKind::Created, "/n/c")
    );
    let Some(Notification::Event(event)) = within(persistent.next()).await else {
        panic!()
    };
    assert_eq!(
        (event.kind, event.path.as_str()),
        (EventKind::ChildrenChanged, "/n")
    );
}

#[tokio::test]
async fn a_read_that_nobody_waits_for_leaves_no_watch_behind() {
    let fake = Fake::start().await;
    let (client, mut peer) = attached(&fake).await;
    let brief = client.with_operation_timeout(Duration::from_millis(500));
    assert!(brief.get_and_watch("/n").await.is_err());
    let asked = peer.expect(OpCode::GetData).await;
    peer.reply(asked.xid, 1, 0, &data(b"")).await;
    let asked = peer.expect(OpCode::RemoveWatches).await;
    peer.reply(asked.xid, 1, 0, &()).await;
    drop(client);
}

#[tokio::test]
async fn identities_are_replayed_before_watches_and_requests() {
    let fake = Fake::start().await;
    let mut options = fake.options();
    options.credentials.push(Credential::digest("a", "1"));
    let (client, mut peer) = attached_with(&fake, options).await;
    assert_eq!(peer.expect(OpCode::Auth).await.xid, XID_AUTH);
    peer.reply(XID_AUTH, 0, 0, &()).await;
    let adding = client.add_auth(Credential::digest("b", "2"));
    let server = async {
        assert_eq!(peer.expect(OpCode::Auth).await.xid, XID_AUTH);
        // The connection is lost before the answer: who added it is told by the next one.
        drop(peer);
        let (mut peer, _) = fake.attach(1, TIMEOUT).await;
        for user in ["a:1", "b:2"] {
            let asked = peer.expect(OpCode::Auth).await;
            assert!(asked.body.ends_with(user.as_bytes()));
        }
        peer.reply(XID_AUTH, 0, 0, &()).await;
        peer.reply(XID_AUTH, 0, 0, &()).await;
        peer
    };
    let (added, mut peer) = tokio::join!(adding, server);
    added.unwrap();

    let getting = client.get_and_watch("/n");
    let server = async {
        let asked = peer.expect(OpCode::GetData).await;
        peer.reply(asked.xid, 5, 0, &data(b"")).await;
    };
    let (read, ()) = tokio::join!(getting, server);
    let _watch = read.unwrap().2;
    drop(peer);
    // Until the client knows, it would send the request to nobody.
    let mut states = client.states();
    let gone =
        |state: &SessionState| matches!(state.connection, ConnectionState::Disconnected { .. });
    within(states.wait_for(gone)).await.unwrap();
    let asking = client.get("/m");
    let server = async {
        let (mut peer, _) = fake.attach(1, TIMEOUT).await;
        peer.expect(OpCode::Auth).await;
        peer.expect(OpCode::Auth).await;
        peer.expect(OpCode::SetWatches).await;
        let asked = peer.expect(OpCode::GetData).await;
        // Auth is answered ahead of everything in real servers, or behind.
        peer.reply(XID_SET_WATCHES, 5, 0, &()).await;
        peer.reply(asked.xid, 5, 0, &data(b"")).await;
        peer.reply(XID_AUTH, 0, 0, &()).await;
        peer.reply(XID_AUTH, 0, 0, &()).await;
        peer
    };
    let (read, _peer) = tokio::join!(asking, server);
    read.unwrap();
}

#[tokio::test]
async fn configured_credentials_that_are_refused_are_tried_again() {
    let fake = Fake::start().await;
    let mut options = fake.options();
    options.credentials.push(Credential::digest("a", "1"));
    let (client, mut peer) = attached_with(&fake, options).await;
    peer.expect(OpCode::Auth).await;
    peer.reply(XID_AUTH, 0, ErrorCode::AuthFailed.code(), &())
        .await;
    let mut states = client.states();
    within(states.wait_for(|state| {
        let cause = Some(DisconnectCause::AuthFailed("digest".to_owned()));
        matches!(&state.connection, ConnectionState::Disconnected { cause: c, .. } if *c == cause)
    }))
    .await
    .unwrap();
    let (mut peer, _) = fake.attach(1, TIMEOUT).await;
    peer.expect(OpCode::Auth).await;
    peer.reply(XID_AUTH, 0, 0, &()).await;
    let (read, ()) = tokio::join!(client.get("/n"), async {
        let asked = peer.expect(OpCode::GetData).await;
        peer.reply(asked.xid, 5, 0, &data(b"")).await;
    });
    read.unwrap();
}

/// Accepts, reads the connect request and closes, as servers do that are behind, or not serving.
async fn refuse(fake: &Fake) -> (i64, i64) {
    let connect = fake.accept().await.connect_request().await;
    (connect.session_id, connect.last_zxid)
}

#[tokio::test]
async fn servers_that_do_not_serve_are_waited_for() {
    let fake = Fake::start().await;
    let (client, mut peer) = attached(&fake).await;
    let (read, ()) = tokio::join!(client.get("/n"), async {
        let asked = peer.expect(OpCode::GetData).await;
        peer.reply(asked.xid, 77, 0, &data(b"")).await;
    });
    read.unwrap();
    drop(peer);
    // Without a quorum a server refuses everybody, with a past or without.
    for _ in 0..20 {
        let presented = refuse(&fake).await;
        assert!([(1, 77), (0, 0)].contains(&presented), "{presented:?}");
    }
    // Then it serves: the session is still there.
    let mut events = client.session_events();
    loop {
        let mut peer = fake.accept().await;
        if peer.connect_request().await.session_id == 1 {
            peer.grant(1, TIMEOUT).await;
            until(&mut events, &SessionEvent::Reattached).await;
            break;
        }
        peer.grant(2, TIMEOUT).await;
        peer.expect(OpCode::CloseSession).await;
    }
    assert_eq!(client.state().sessions, 1);
}

#[tokio::test]
async fn only_when_all_servers_are_behind_the_past_is_given_up() {
    let (behind, up_to_date) = (Fake::start().await, Fake::start().await);
    let connect_string = format!("{},{}", behind.address(), up_to_date.address());
    let (client, mut peer) = tokio::join!(Client::connect(options(&connect_string)), async {
        let accepted = tokio::select! {
            accepted = behind.attach(1, TIMEOUT) => accepted,
            accepted = up_to_date.attach(1, TIMEOUT) => accepted,
        };
        accepted.0
    });
    let client = client.unwrap();
    let (read, ()) = tokio::join!(client.get_and_watch("/n"), async {
        let asked = peer.expect(OpCode::GetData).await;
        peer.reply(asked.xid, 77, 0, &data(b"")).await;
    });
    let _watch = read.unwrap().2;
    drop(peer);

    // One takes newcomers only; the other does not serve.
    let mut probes = 0;
    for _ in 0..12 {
        tokio::select! {
            mut peer = behind.accept() => {
                let connect = peer.connect_request().await;
                if connect.last_zxid == 0 {
                    assert_eq!((connect.session_id, connect.timeout_ms), (0, 1));
                    probes += 1;
                    peer.grant(1000 + probes, TIMEOUT).await;
                    let asked = peer.expect(OpCode::CloseSession).await;
                    peer.reply(asked.xid, 1, 0, &()).await;
                }
            }
            presented = refuse(&up_to_date) => {
                assert!([(1, 77), (0, 0)].contains(&presented), "{presented:?}");
            }
        }
    }
    assert!(probes > 0);
    assert_eq!(client.state().sessions, 1);
    // Now both take newcomers only: the data is gone.
    let mut events = client.session_events();
    let mut peer = loop {
        let mut peer = tokio::select! {
            peer = behind.accept() => peer,
            peer = up_to_date.accept() => peer,
        };
        let connect = peer.connect_request().await;
        if connect.last_zxid > 0 {
            continue;
        }
        peer.grant(2, TIMEOUT).await;
        if connect.timeout_ms > 1 {
            assert_eq!(connect.session_id, 0);
            break peer;
        }
        let asked = peer.expect(OpCode::CloseSession).await;
        peer.reply(asked.xid, 1, 0, &()).await;
    };
    let cause = Some(ExpiryCause::ServersBehind);
    until(&mut events, &SessionEvent::NewSession { cause }).await;
    // Whatever is there is news.
    let asked = peer.expect(OpCode::SetWatches).await;
    let request: SetWatches<'_> = Decoder::new(&asked.body).read().unwrap();
    assert_eq!(
        (request.relative_zxid, request.data),
        (-1, List::new(&["/n"]))
    );
}

#[tokio::test]
async fn a_session_that_is_over_is_replaced_at_once_and_by_the_same_server() {
    let fake = Fake::start().await;
    let (client, peer) = attached(&fake).await;
    let mut events = client.session_events();
    drop(peer);
    let mut peer = fake.accept().await;
    assert_eq!(peer.connect_request().await.session_id, 1);
    peer.connect_reply(&ConnectReply::expired(Some(false)))
        .await;
    let (_peer, connect) = fake.attach(2, TIMEOUT).await;
    assert_eq!(
        (connect.session_id, connect.password),
        (0, vec![0; PASSWORD_BYTES])
    );
    until(
        &mut events,
        &SessionEvent::NewSession {
            cause: Some(ExpiryCause::Server),
        },
    )
    .await;
    assert_eq!(client.state().session_id, 2);
}

#[tokio::test]
async fn an_old_server_without_the_read_only_flag_will_do() {
    let fake = Fake::start().await;
    let (client, ()) = tokio::join!(Client::connect(fake.options()), async {
        let mut peer = fake.accept().await;
        peer.connect_request().await;
        peer.connect_reply(&ConnectReply {
            protocol_version: 0,
            timeout_ms: 4000,
            session_id: 9,
            password: None,
            read_only: None,
        })
        .await;
    });
    let state = client.unwrap().state();
    assert_eq!(
        (state.session_id, state.session_timeout),
        (9, Duration::from_secs(4))
    );
}

#[tokio::test]
async fn closing_lets_sent_requests_finish_and_ends_the_session() {
    let fake = Fake::start().await;
    let (client, mut peer) = attached(&fake).await;
    let creating = async {
        client
            .create("/n", b"", CreateMode::Persistent, Acl::OPEN)
            .await
    };
    let closing = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        client.close().await;
    };
    let server = async {
        let create = peer.expect(OpCode::Create).await;
        let close = peer.expect(OpCode::CloseSession).await;
        peer.reply(create.xid, 1, 0, &PathReply { path: "/n" })
            .await;
        peer.reply(close.xid, 2, 0, &()).await;
        assert_eq!(peer.anything().await, None);
    };
    let (created, (), ()) = tokio::join!(creating, closing, server);
    assert_eq!(created.unwrap(), "/n");
    assert_eq!(client.state().connection, ConnectionState::Closed);
    assert_eq!(client.get("/n").await, Err(Error::NotSent(NotSent::Closed)));
    client.close().await;
    assert_eq!(client.session_events().next().await, None);
}

#[tokio::test]
async fn dropping_the_last_handle_drops_the_connection_but_not_the_session() {
    let fake = Fake::start().await;
    let (client, mut peer) = attached(&fake).await;
    let clone = client.clone();
    drop(client);
    let (read, ()) = tokio::join!(clone.get("/n"), async {
        let asked = peer.expect(OpCode::GetData).await;
        peer.reply(asked.xid, 1, 0, &data(b"")).await;
    });
    read.unwrap();
    let mut watcher = {
        let (watcher, ()) = tokio::join!(clone.watch("/n", AddWatchMode::Persistent), async {
            let asked = peer.expect(OpCode::AddWatch).await;
            peer.reply(asked.xid, 1, 0, &0).await;
        });
        watcher.unwrap()
    };
    drop(clone);
    assert_eq!(peer.anything().await, None);
    assert_eq!(within(watcher.next()).await, None);
}

/// The default time to connect to one of several servers is short, so that one that hangs does not cost
/// the session.
#[tokio::test]
async fn a_server_that_hangs_while_connecting_is_passed_over() {
    let hanging = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let fake = Fake::start().await;
    let connect_string = format!("{},{}", hanging.local_addr().unwrap(), fake.address());
    for _ in 0..3 {
        let start = Instant::now();
        let (client, _attached) = tokio::join!(
            Client::connect(options(&connect_string)),
            fake.attach(1, TIMEOUT)
        );
        client.unwrap();
        assert!(start.elapsed() < Duration::from_secs(4));
    }
}
