//! Twenty thousand watches of all kinds, through a restart and through an expiry.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use livegate_zk::client::{
    Client, ExpiryCause, Gap, Notification, Op, SessionEvent, Watch, Watcher,
};
use livegate_zk::proto::acl::Acl;
use livegate_zk::proto::create_mode::CreateMode;
use livegate_zk::proto::watch::{AddWatchMode, EventKind};

use crate::connect::{end_session, options};
use crate::fake::within;
use crate::forwarder::{Forwarder, Mode};
use crate::server::{Kind, Server, on_both};
use crate::sessions::until;

on_both! {
    twenty_thousand_watches_survive_a_restart_and_an_expiry
}

/// Of each of the five kinds.
pub(crate) const EACH: usize = 4000;
/// Every so many of them is touched while the client is away.
pub(crate) const TOUCHED: usize = 10;

pub(crate) fn path(kind: &str, number: usize) -> String {
    format!("/watched/{kind}/node-with-a-long-name-{number:06}")
}

/// Does the same to many paths.
async fn for_all(client: &Client, paths: &[String], op: impl for<'a> Fn(&'a str) -> Op<'a>) {
    for chunk in paths.chunks(500) {
        let ops: Vec<_> = chunk.iter().map(|path| op(path)).collect();
        client.multi(&ops).await.unwrap();
    }
}

fn creation(path: &str) -> Op<'_> {
    Op::Create {
        path,
        data: b"",
        mode: CreateMode::Persistent,
        acl: Acl::OPEN,
    }
}

fn setting(path: &str) -> Op<'_> {
    Op::Set {
        path,
        data: b"touched",
        version: None,
    }
}

/// One-shot watches with their kinds and numbers, and persistent watchers likewise.
pub(crate) struct Watched {
    pub(crate) one_shot: Vec<(&'static str, usize, Watch)>,
    pub(crate) persistent: Vec<(&'static str, usize, Watcher)>,
}

/// Creates what is to be watched.
pub(crate) async fn create_nodes(other: &Client) {
    for kind in ["data", "child", "persistent", "recursive", "exist"] {
        other
            .ensure(
                &format!("/watched/{kind}"),
                CreateMode::Persistent,
                Acl::OPEN,
            )
            .await
            .unwrap();
        if kind != "exist" {
            let paths: Vec<_> = (0..EACH).map(|number| path(kind, number)).collect();
            for_all(other, &paths, creation).await;
        }
    }
}

pub(crate) async fn watch_everything(client: &Client) -> Watched {
    let mut watched = Watched {
        one_shot: Vec::new(),
        persistent: Vec::new(),
    };
    for start in (0..EACH).step_by(100) {
        let numbers = start..start + 100;
        let one_shot = numbers.clone().map(async |number| {
            let (data, exist, child) = (
                path("data", number),
                path("exist", number),
                path("child", number),
            );
            let (data, exist, child) = tokio::try_join!(
                client.get_and_watch(&data),
                client.exists_and_watch(&exist),
                client.children_and_watch(&child),
            )
            .unwrap();
            [
                ("data", number, data.2),
                ("exist", number, exist.1),
                ("child", number, child.2),
            ]
        });
        for watches in join_all(one_shot).await {
            watched.one_shot.extend(watches);
        }
        let persistent = numbers.map(async |number| {
            let (persistent, recursive) = (path("persistent", number), path("recursive", number));
            let (persistent, recursive) = tokio::try_join!(
                client.watch(&persistent, AddWatchMode::Persistent),
                client.watch(&recursive, AddWatchMode::PersistentRecursive),
            )
            .unwrap();
            [
                ("persistent", number, persistent),
                ("recursive", number, recursive),
            ]
        });
        for watchers in join_all(persistent).await {
            watched.persistent.extend(watchers);
        }
    }
    watched
}

/// Waits for all, which must be few enough to wait for one after the other.
async fn join_all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut pinned: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        let mut ready = true;
        for (future, output) in &mut pinned {
            if output.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(value) => *output = Some(value),
                    std::task::Poll::Pending => ready = false,
                }
            }
        }
        if ready {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    pinned
        .into_iter()
        .filter_map(|(_, output)| output)
        .collect()
}

/// Changes every tenth watched node, so that its watch has to fire.
pub(crate) async fn touch(other: &Client, round: usize) {
    let numbers: Vec<usize> = (round..EACH).step_by(TOUCHED).collect();
    let paths =
        |kind| -> Vec<String> { numbers.iter().map(|&number| path(kind, number)).collect() };
    for_all(other, &paths("data"), setting).await;
    for_all(other, &paths("persistent"), setting).await;
    for_all(other, &paths("recursive"), setting).await;
    for_all(other, &paths("exist"), creation).await;
    let children: Vec<_> = paths("child")
        .iter()
        .map(|path| format!("{path}/c"))
        .collect();
    for_all(other, &children, creation).await;
}

/// Takes the watches that fired, which must be those that were touched.
pub(crate) async fn take_fired(watched: &mut Watched, round: usize) {
    let mut left = Vec::new();
    for (kind, number, mut watch) in watched.one_shot.drain(..) {
        if number % TOUCHED == round {
            let event = within(watch.fired()).await.expect("the watch has ended");
            assert_eq!(event.path, path(kind, number));
        } else {
            left.push((kind, number, watch));
        }
    }
    watched.one_shot = left;
    for (kind, number, watch) in &mut watched.one_shot {
        let early = tokio::time::timeout(Duration::ZERO, watch.fired()).await;
        assert!(early.is_err(), "{kind} {number}: {early:?}");
    }
}

pub(crate) async fn take_gaps(watched: &mut Watched, gap: Gap) {
    for (kind, number, watcher) in &mut watched.persistent {
        let told = within(watcher.next()).await;
        assert_eq!(told, Some(Notification::Gap(gap)), "{kind} {number}");
        assert_eq!(watcher.try_next(), None, "{kind} {number}");
    }
}

/// Everything that is left works: touches it all and waits for it all.
pub(crate) async fn all_work(watched: Watched, other: &Client) {
    let done: HashSet<(&str, usize)> = watched
        .one_shot
        .iter()
        .map(|(kind, number, _)| (*kind, *number))
        .collect();
    let left = |kind: &'static str| -> Vec<String> {
        let numbers = (0..EACH).filter(|&number| done.contains(&(kind, number)));
        numbers.map(|number| path(kind, number)).collect()
    };
    for_all(other, &left("data"), setting).await;
    for_all(other, &left("exist"), creation).await;
    let children: Vec<_> = left("child")
        .iter()
        .map(|path| format!("{path}/c"))
        .collect();
    for_all(other, &children, creation).await;
    for (kind, number, mut watch) in watched.one_shot {
        assert_eq!(
            within(watch.fired()).await.unwrap().path,
            path(kind, number)
        );
    }
    for kind in ["persistent", "recursive"] {
        let paths: Vec<_> = (0..EACH).map(|number| path(kind, number)).collect();
        for_all(other, &paths, setting).await;
    }
    for (kind, number, mut watcher) in watched.persistent {
        let told = within(watcher.next()).await;
        let Some(Notification::Event(event)) = told else {
            panic!("{kind} {number}: {told:?}")
        };
        assert_eq!(
            (event.kind, event.path),
            (EventKind::DataChanged, path(kind, number))
        );
    }
}

async fn twenty_thousand_watches_survive_a_restart_and_an_expiry(kind: Kind) {
    let Some(mut server) = Server::start(kind, Duration::from_millis(1500)).await else {
        return;
    };
    let forwarder = Forwarder::start(server.address()).await;
    let client = Client::connect(options(&forwarder.address.to_string()))
        .await
        .unwrap();
    let other = server.client().await;
    create_nodes(&other).await;
    let start = Instant::now();
    let mut watched = watch_everything(&client).await;
    println!("{} watches set in {:?}", 5 * EACH, start.elapsed());
    assert_eq!(watched.one_shot.len() + watched.persistent.len(), 5 * EACH);
    // Persistent ones are in two of the server's tables.
    assert_eq!(server.watches().await, 3 * EACH + 2 * 2 * EACH);
    let session_id = client.state().session_id;
    let mut events = client.session_events();

    // The server is killed; before the client is back, every tenth node changes.
    forwarder.set(Mode::Cut);
    server.kill();
    server.run().await;
    // The one from before may not have noticed yet.
    let other = server.client().await;
    touch(&other, 0).await;
    let start = Instant::now();
    forwarder.set(Mode::Pass);
    until(&mut events, &SessionEvent::Reattached).await;
    take_gaps(&mut watched, Gap::Reattached).await;
    println!("restored after a restart in {:?}", start.elapsed());
    take_fired(&mut watched, 0).await;
    assert_eq!(client.state().session_id, session_id);
    let fired = 3 * EACH / TOUCHED;
    assert_eq!(server.watches().await, 3 * EACH - fired + 2 * 2 * EACH);

    // The session is ended while the client is away.
    forwarder.set(Mode::Cut);
    end_session(server.address(), &forwarder.connect_reply()).await;
    touch(&other, 1).await;
    let start = Instant::now();
    forwarder.set(Mode::Pass);
    until(
        &mut events,
        &SessionEvent::NewSession {
            cause: Some(ExpiryCause::Server),
        },
    )
    .await;
    take_gaps(&mut watched, Gap::NewSession).await;
    println!("restored after an expiry in {:?}", start.elapsed());
    take_fired(&mut watched, 1).await;
    assert_ne!(client.state().session_id, session_id);
    all_work(watched, &other).await;
    assert_eq!(client.state().attachments, 3);

    // Dropped all at once: the server forgets them, and requests go on meanwhile.
    let start = Instant::now();
    while server.watches().await > 0 {
        assert!(start.elapsed() < Duration::from_secs(30));
        client.sync("/").await.unwrap();
    }
    println!("removed in {:?}", start.elapsed());
}
