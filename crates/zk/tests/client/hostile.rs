//! Servers that are out to harm: whatever they send, the client neither panics nor grows, and finds back to
//! a server that behaves.

use std::time::Duration;

use livegate_zk::client::{Client, ConnectOptions, DisconnectCause, Error, SessionEvent};
use livegate_zk::frame::append_frame;
use livegate_zk::proto::op_code::{OpCode, XID_AUTH, XID_NOTIFICATION, XID_PING, XID_SET_WATCHES};
use livegate_zk::proto::reply::DataReply;
use livegate_zk::proto::session::{ConnectReply, ReplyHeader};
use livegate_zk::proto::stat::Stat;
use livegate_zk::proto::watch::{AddWatchMode, EventKind, WatcherEvent};

use crate::fake::{Fake, Peer, within};

const TIMEOUT: Duration = Duration::from_secs(30);

/// Resident memory of this process in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.trim()
        .trim_end_matches(" kB")
        .parse::<usize>()
        .unwrap()
        * 1024
}

/// Attaches the next connection that comes and answers one read, as a good server does.
async fn behaves(fake: &Fake, client: &Client) {
    let reading = async {
        loop {
            match client.get("/n").await {
                Ok((data, _)) => break data,
                // It went to the server that is no good.
                Err(Error::ConnectionLoss) => {}
                Err(error) => panic!("{error}"),
            }
        }
    };
    let serving = async {
        loop {
            let (mut peer, _) = fake.attach(1, TIMEOUT).await;
            while let Some(asked) = peer.anything().await {
                if asked.op_code == OpCode::GetData {
                    let body = DataReply {
                        data: Some(b"good"),
                        stat: Stat::default(),
                    };
                    peer.reply(asked.xid, 1, 0, &body).await;
                }
            }
        }
    };
    tokio::select! {
        data = within(reading) => assert_eq!(data, b"good"),
        () = serving => {}
    }
}

async fn attached(fake: &Fake) -> (Client, Peer) {
    let (client, (peer, _)) =
        tokio::join!(Client::connect(fake.options()), fake.attach(1, TIMEOUT));
    (client.unwrap(), peer)
}

fn frame(xid: i32, body: &impl livegate_zk::jute::Encode) -> Vec<u8> {
    let mut frame = Vec::new();
    append_frame(
        &mut frame,
        &ReplyHeader {
            xid,
            zxid: 1,
            error: 0,
        },
        body,
    );
    frame
}

/// Sends these bytes on an attached connection; the client must hang up, or at least go on with the next.
async fn survives(bytes: &[u8]) -> Option<DisconnectCause> {
    let fake = Fake::start().await;
    let (client, mut peer) = attached(&fake).await;
    let mut events = client.session_events();
    peer.raw(bytes).await;
    drop(peer);
    let Some(SessionEvent::Disconnected { cause, .. }) = within(events.next()).await else {
        panic!()
    };
    behaves(&fake, &client).await;
    cause
}

#[tokio::test]
async fn nonsense_ends_the_connection_and_says_so() {
    let event = |kind, path| WatcherEvent {
        kind,
        state: 3,
        path,
    };
    let mut bad_utf8 = frame(XID_NOTIFICATION, &event(1, "/nn"));
    let last = bad_utf8.len() - 1;
    bad_utf8[last] = 0xff;
    for bytes in [
        &(-1_i32).to_be_bytes()[..],
        &[0, 0, 0, 0],
        &[0, 0, 0, 3, 1, 2, 3],
        // Replies to what was not asked.
        &frame(1, &()),
        &frame(-3, &()),
        &frame(XID_AUTH, &()),
        &frame(XID_SET_WATCHES, &()),
        // Events that are none.
        &frame(XID_NOTIFICATION, &()),
        &frame(XID_NOTIFICATION, &event(5, "/n")),
        &frame(XID_NOTIFICATION, &event(-1, "/n")),
        &bad_utf8,
    ] {
        let cause = survives(bytes).await;
        assert!(
            matches!(cause, Some(DisconnectCause::Protocol(_))),
            "{bytes:?}: {cause:?}"
        );
    }
    // These are odd, but harmless.
    for bytes in [
        &frame(XID_PING, &())[..],
        &frame(XID_PING, &7_i64),
        &frame(XID_NOTIFICATION, &event(3, "")),
        &frame(XID_NOTIFICATION, &event(1, "no/slash")),
        &frame(XID_NOTIFICATION, &event(2, "//")),
        &[0, 0],
    ] {
        assert_eq!(
            survives(bytes).await,
            Some(DisconnectCause::Closed),
            "{bytes:?}"
        );
    }
}

#[tokio::test]
async fn random_bytes_are_survived_before_and_after_the_handshake() {
    let mut source = fastrand::Rng::with_seed(7);
    let fake = Fake::start().await;
    let mut options = fake.options();
    options.backoff = (Duration::ZERO, Duration::from_millis(2));
    let (client, (peer, _)) = tokio::join!(Client::connect(options), fake.attach(1, TIMEOUT));
    let client = client.unwrap();
    drop(peer);
    for round in 0..500 {
        let mut peer = fake.accept().await;
        let length = source.usize(..2000);
        // Small numbers make plausible lengths.
        let mut bytes: Vec<u8> = (0..length)
            .map(|_| {
                if source.u8(..3) > 0 {
                    source.u8(..3)
                } else {
                    source.u8(..)
                }
            })
            .collect();
        peer.connect_request().await;
        match round % 3 {
            0 => {}
            1 => peer.grant(1, TIMEOUT).await,
            _ => {
                peer.grant(1, TIMEOUT).await;
                // Whole frames of nonsense that claims to be an answer to something.
                let xids = [1, 0, XID_NOTIFICATION, XID_AUTH, XID_SET_WATCHES, XID_PING];
                let mut frames = Vec::new();
                for chunk in bytes.chunks(50) {
                    let header = ReplyHeader {
                        xid: xids[source.usize(..xids.len())],
                        zxid: 1,
                        error: 0,
                    };
                    append_frame(&mut frames, &header, &Some(chunk));
                }
                bytes = frames;
            }
        }
        peer.raw(&bytes).await;
    }
    behaves(&fake, &client).await;
}

#[tokio::test]
async fn handshakes_of_all_sorts_are_survived() {
    let fake = Fake::start().await;
    let client = Client::start(ConnectOptions {
        connect_timeout: Some(Duration::from_millis(800)),
        ..fake.options()
    });
    let password = vec![1; 900];
    let reply = |timeout_ms, session_id, password| ConnectReply {
        protocol_version: 0,
        timeout_ms,
        session_id,
        password,
        read_only: Some(false),
    };
    // Refusals.
    for reply in [reply(-1, 1, None), reply(0, 1, None), reply(1000, 0, None)] {
        let mut peer = fake.accept().await;
        peer.connect_request().await;
        peer.connect_reply(&reply).await;
    }
    // A session timeout of a millisecond does not make the client spin: it pings now and then, and gives
    // the connection and the session up soon.
    let mut peer = fake.accept().await;
    peer.connect_request().await;
    peer.connect_reply(&reply(1, 4, None)).await;
    let mut pings = 0;
    while peer.anything().await.is_some() {
        pings += 1;
    }
    assert!(pings <= 5, "{pings}");
    let mut peer = loop {
        let mut peer = fake.accept().await;
        if peer
            .try_connect_request()
            .await
            .is_some_and(|connect| connect.session_id == 0)
        {
            break peer;
        }
    };
    // A timeout of weeks does not overflow, and a long password is presented as it came.
    peer.connect_reply(&reply(i32::MAX, 5, Some(&password)))
        .await;
    within(client.states().wait_for(|state| state.session_id == 5))
        .await
        .unwrap();
    drop(peer);
    let mut peer = fake.accept().await;
    assert_eq!(peer.connect_request().await.password, password);
    peer.connect_reply(&ConnectReply::expired(Some(true))).await;
    // Too long, never complete, silent, and nothing at all.
    for bytes in [
        &[0, 0, 4, 1][..],
        &[0x7f, 0xff, 0xff, 0xff],
        &[0, 0, 0, 37, 0],
        &[],
        &[0, 0, 0, 0],
    ] {
        let mut peer = fake.accept().await;
        peer.connect_request().await;
        peer.raw(bytes).await;
        // The client gives up by itself.
        assert_eq!(within(peer.anything()).await, None);
    }
    behaves(&fake, &client).await;
}

#[tokio::test]
async fn malformed_replies_fail_their_request_only() {
    let fake = Fake::start().await;
    let (client, mut peer) = attached(&fake).await;
    let state = client.state();
    for body in [
        &b""[..],
        b"\0\0\0\x01",
        b"\x7f\xff\xff\xff",
        b"\xff\xff\xff\xfe",
        &[0; 71],
    ] {
        let (read, ()) = tokio::join!(client.get("/n"), async {
            let asked = peer.expect(OpCode::GetData).await;
            let mut frame = Vec::new();
            append_frame(
                &mut frame,
                &ReplyHeader {
                    xid: asked.xid,
                    zxid: 1,
                    error: 0,
                },
                &(),
            );
            let length = i32::try_from(frame.len() - 4 + body.len()).unwrap();
            frame[..4].copy_from_slice(&length.to_be_bytes());
            frame.extend_from_slice(body);
            peer.raw(&frame).await;
        });
        assert!(
            matches!(read, Err(Error::MalformedReply(_))),
            "{body:?}: {read:?}"
        );
    }
    assert_eq!(client.state(), state);
}

#[tokio::test]
async fn endless_replies_and_events_do_not_fill_memory() {
    let fake = Fake::start().await;
    let mut options = fake.options();
    options.reply_bytes_max = 1 << 20;
    options.watch_queue_max = 100;
    let (client, (mut peer, _)) = tokio::join!(Client::connect(options), fake.attach(1, TIMEOUT));
    let client = client.unwrap();
    let (watcher, ()) = tokio::join!(
        client.watch("/n", AddWatchMode::PersistentRecursive),
        async {
            let asked = peer.expect(OpCode::AddWatch).await;
            peer.reply(asked.xid, 1, 0, &0).await;
        }
    );
    let _unread = watcher.unwrap();
    let before = resident();

    // 256 MiB in one frame.
    let chunk = vec![0; 1 << 20];
    let (read, ()) = tokio::join!(client.get("/n"), async {
        let asked = peer.expect(OpCode::GetData).await;
        peer.raw_length(256 << 20).await;
        let mut head = frame(asked.xid, &());
        head.drain(..4);
        peer.raw(&head).await;
        peer.raw(&chunk[head.len()..]).await;
        for _ in 1..256 {
            peer.raw(&chunk).await;
        }
    });
    assert_eq!(
        read,
        Err(Error::ReplyTooLong {
            length: 256 << 20,
            limit: 1 << 20
        })
    );

    // 200 000 events of 1 KiB for a watcher that does not read, and as many for nobody.
    let long = format!("/n/{}", "x".repeat(1000));
    let mut events = Vec::new();
    for path in [long.as_str(), &long[2..]] {
        let event = WatcherEvent {
            kind: EventKind::Created.code(),
            state: 3,
            path,
        };
        events.extend(frame(XID_NOTIFICATION, &event).repeat(100));
    }
    for _ in 0..2000 {
        peer.raw(&events).await;
    }
    let (read, ()) = tokio::join!(client.get("/n"), async {
        let asked = peer.expect(OpCode::GetData).await;
        let body = DataReply {
            data: None,
            stat: Stat::default(),
        };
        peer.reply(asked.xid, 1, 0, &body).await;
    });
    assert_eq!(read.unwrap().0, b"");
    let grown = resident().saturating_sub(before);
    assert!(grown < 32 << 20, "{grown} bytes");
}

#[tokio::test]
async fn a_slow_server_is_read_to_the_end() {
    let fake = Fake::start().await;
    let (client, mut peer) = attached(&fake).await;
    let (read, ()) = tokio::join!(client.get("/n"), async {
        let asked = peer.expect(OpCode::GetData).await;
        let body = DataReply {
            data: Some(b"slow"),
            stat: Stat::default(),
        };
        for byte in frame(asked.xid, &body) {
            peer.raw(&[byte]).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    assert_eq!(read.unwrap().0, b"slow");
}
