//! Watches on one connection, against Apache ZooKeeper and the embedded registry.

use std::time::Duration;

use livegate_zk::client::{Client, Error, Notification, Watch, WatchEvent, Watcher};
use livegate_zk::proto::acl::Acl;
use livegate_zk::proto::create_mode::CreateMode;
use livegate_zk::proto::error_code::ErrorCode;
use livegate_zk::proto::watch::{AddWatchMode, EventKind, WatchKind};

use crate::fake::within;
use crate::server::{Kind, Server, on_both};

on_both! {
    watches
}

const TICK: Duration = Duration::from_millis(1500);

/// The next event of a watcher.
pub(crate) async fn event(watcher: &mut Watcher) -> (EventKind, String) {
    match within(watcher.next()).await {
        Some(Notification::Event(event)) => (event.kind, event.path),
        other => panic!("{other:?}"),
    }
}

/// What made a watch fire.
pub(crate) async fn fired(mut watch: Watch) -> (EventKind, String) {
    let WatchEvent { kind, path, .. } = within(watch.fired()).await.expect("the watch has ended");
    (kind, path)
}

pub(crate) async fn create(client: &Client, path: &str) {
    client
        .create(path, b"", CreateMode::Persistent, Acl::OPEN)
        .await
        .unwrap();
}

/// Waits until the server holds this many watches.
async fn server_holds(server: &Server, count: usize) {
    for _ in 0..1000 {
        if server.watches().await == count {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{} watches instead of {count}", server.watches().await);
}

fn is(kind: EventKind, path: &str) -> (EventKind, String) {
    (kind, path.to_owned())
}

async fn watches(kind: Kind) {
    let Some(server) = Server::start(kind, TICK).await else {
        return;
    };
    let (client, other) = (server.client().await, server.client().await);
    one_shot_watches_fire_once(&client, &other).await;
    persistent_watchers_see_everything(&client, &other).await;
    server_holds(&server, 0).await;
    kinds_on_one_path_do_not_interfere(&client, &other).await;
    server_holds(&server, 0).await;
    dropped_watches_are_removed(&server, &client).await;
    removed_watches_end(&server, &client).await;
    an_event_comes_before_what_it_tells(&client).await;
    server_holds(&server, 0).await;
    let mut watcher = client.watch("/", AddWatchMode::Persistent).await.unwrap();
    let (_, _, mut watch) = client.get_and_watch("/").await.unwrap();
    client.close().await;
    assert_eq!(within(watcher.next()).await, None);
    assert_eq!(within(watch.fired()).await, None);
}

async fn one_shot_watches_fire_once(client: &Client, other: &Client) {
    let (stat, watch) = client.exists_and_watch("/n").await.unwrap();
    assert_eq!(stat, None);
    create(other, "/n").await;
    assert_eq!(fired(watch).await, is(EventKind::Created, "/n"));

    let (_, _, data) = client.get_and_watch("/n").await.unwrap();
    let (stat, exists) = client.exists_and_watch("/n").await.unwrap();
    let (_, _, children) = client.children_and_watch("/n").await.unwrap();
    assert_eq!(stat.unwrap().version, 0);
    other.set("/n", b"1", None).await.unwrap();
    assert_eq!(fired(data).await, is(EventKind::DataChanged, "/n"));
    assert_eq!(fired(exists).await, is(EventKind::DataChanged, "/n"));
    create(other, "/n/c").await;
    assert_eq!(fired(children).await, is(EventKind::ChildrenChanged, "/n"));
    other.delete("/n/c", None).await.unwrap();

    let (_, _, data) = client.get_and_watch("/n").await.unwrap();
    let (_, _, children) = client.children_and_watch("/n").await.unwrap();
    other.delete("/n", None).await.unwrap();
    assert_eq!(fired(data).await, is(EventKind::Deleted, "/n"));
    assert_eq!(fired(children).await, is(EventKind::Deleted, "/n"));

    for error in [
        client.get_and_watch("/n").await.map(drop).unwrap_err(),
        client.children_and_watch("/n").await.map(drop).unwrap_err(),
    ] {
        assert!(error.is_no_node());
    }
}

async fn persistent_watchers_see_everything(client: &Client, other: &Client) {
    let mut persistent = client.watch("/p", AddWatchMode::Persistent).await.unwrap();
    let mut recursive = client
        .watch("/p", AddWatchMode::PersistentRecursive)
        .await
        .unwrap();
    for _ in 0..3 {
        create(other, "/p").await;
        create(other, "/p/c").await;
        create(other, "/p/c/d").await;
        other.set("/p", b"", None).await.unwrap();
        other.set("/p/c/d", b"", None).await.unwrap();
        other.delete("/p/c/d", None).await.unwrap();
        other.delete("/p/c", None).await.unwrap();
        other.delete("/p", None).await.unwrap();
        for expected in [
            is(EventKind::Created, "/p"),
            is(EventKind::ChildrenChanged, "/p"),
            is(EventKind::DataChanged, "/p"),
            is(EventKind::ChildrenChanged, "/p"),
            is(EventKind::Deleted, "/p"),
        ] {
            assert_eq!(event(&mut persistent).await, expected);
        }
        for expected in [
            is(EventKind::Created, "/p"),
            is(EventKind::Created, "/p/c"),
            is(EventKind::Created, "/p/c/d"),
            is(EventKind::DataChanged, "/p"),
            is(EventKind::DataChanged, "/p/c/d"),
            is(EventKind::Deleted, "/p/c/d"),
            is(EventKind::Deleted, "/p/c"),
            is(EventKind::Deleted, "/p"),
        ] {
            assert_eq!(event(&mut recursive).await, expected);
        }
    }
    assert_eq!(persistent.try_next(), None);
    assert_eq!(recursive.try_next(), None);
}

/// Servers before 3.9 keep one mode for each path and connection.
async fn kinds_on_one_path_do_not_interfere(client: &Client, other: &Client) {
    create(other, "/k").await;
    let modes = [AddWatchMode::Persistent, AddWatchMode::PersistentRecursive];
    for order in [[modes[0], modes[1]], [modes[1], modes[0]]] {
        let (_, _, data_before) = client.get_and_watch("/k").await.unwrap();
        let (_, _, children_before) = client.children_and_watch("/k").await.unwrap();
        let mut first = client.watch("/k", order[0]).await.unwrap();
        let mut second = client.watch("/k", order[1]).await.unwrap();
        let (_, _, data_after) = client.get_and_watch("/k").await.unwrap();
        let (_, _, children_after) = client.children_and_watch("/k").await.unwrap();
        let (_, exists_after) = client.exists_and_watch("/k").await.unwrap();

        // One-shot watches leave the persistent ones as they are.
        other.set("/k", b"", None).await.unwrap();
        for watch in [data_before, data_after, exists_after] {
            assert_eq!(fired(watch).await, is(EventKind::DataChanged, "/k"));
        }
        create(other, "/k/c").await;
        for watch in [children_before, children_after] {
            assert_eq!(fired(watch).await, is(EventKind::ChildrenChanged, "/k"));
        }
        other.set("/k/c", b"", None).await.unwrap();
        other.delete("/k/c", None).await.unwrap();
        other.set("/k", b"", None).await.unwrap();

        let (persistent, recursive) = match order[0] {
            AddWatchMode::Persistent => (&mut first, &mut second),
            AddWatchMode::PersistentRecursive => (&mut second, &mut first),
        };
        for expected in [
            is(EventKind::DataChanged, "/k"),
            is(EventKind::ChildrenChanged, "/k"),
            is(EventKind::ChildrenChanged, "/k"),
            is(EventKind::DataChanged, "/k"),
        ] {
            assert_eq!(event(persistent).await, expected);
        }
        for expected in [
            is(EventKind::DataChanged, "/k"),
            is(EventKind::Created, "/k/c"),
            is(EventKind::DataChanged, "/k/c"),
            is(EventKind::Deleted, "/k/c"),
            is(EventKind::DataChanged, "/k"),
        ] {
            assert_eq!(event(recursive).await, expected);
        }
        assert_eq!(persistent.try_next(), None);
        assert_eq!(recursive.try_next(), None);
    }
    other.delete("/k", None).await.unwrap();
}

async fn dropped_watches_are_removed(server: &Server, client: &Client) {
    let (_, exists) = client.exists_and_watch("/d").await.unwrap();
    let (_, again) = client.exists_and_watch("/d").await.unwrap();
    let (_, _, children) = client.children_and_watch("/").await.unwrap();
    let persistent = client.watch("/e", AddWatchMode::Persistent).await.unwrap();
    let recursive = client
        .watch("/f", AddWatchMode::PersistentRecursive)
        .await
        .unwrap();
    // A persistent or recursive watch is in both of the server's tables.
    server_holds(server, 6).await;
    drop((exists, children));
    server_holds(server, 5).await;
    drop((again, persistent));
    server_holds(server, 2).await;
    drop(recursive);
    server_holds(server, 0).await;
    // A caller who goes away before the answer leaves nothing behind either.
    for _ in 0..100 {
        let asking = client.exists_and_watch("/d");
        drop(tokio::time::timeout(Duration::from_micros(200), asking).await);
    }
    client.sync("/").await.unwrap();
    server_holds(server, 0).await;
}

async fn removed_watches_end(server: &Server, client: &Client) {
    let (_, mut exists) = client.exists_and_watch("/r").await.unwrap();
    let mut persistent = client.watch("/r", AddWatchMode::Persistent).await.unwrap();
    client.remove_watches("/r", WatchKind::Data).await.unwrap();
    assert_eq!(within(exists.fired()).await, None);
    let again = client.remove_watches("/r", WatchKind::Data).await;
    assert_eq!(again, Err(Error::Server(ErrorCode::NoWatcher)));
    create(client, "/r").await;
    assert_eq!(event(&mut persistent).await, is(EventKind::Created, "/r"));
    client.remove_watches("/r", WatchKind::Any).await.unwrap();
    assert_eq!(within(persistent.next()).await, None);
    server_holds(server, 0).await;
    client.delete("/r", None).await.unwrap();
}

async fn an_event_comes_before_what_it_tells(client: &Client) {
    let mut watcher = client
        .watch("/o", AddWatchMode::PersistentRecursive)
        .await
        .unwrap();
    for _ in 0..100 {
        create(client, "/o").await;
        assert!(
            watcher.try_next().is_some(),
            "the event is there when the write returns"
        );
        client.delete("/o", None).await.unwrap();
        assert!(
            watcher.try_next().is_some(),
            "the event is there when the write returns"
        );
    }
}
