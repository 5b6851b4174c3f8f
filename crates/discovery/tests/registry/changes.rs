//! Changes while contact lasts.

use std::time::{Duration, Instant};

use livegate_discovery::{InstanceState, ServiceOptions, Status, Weights};
use livegate_zk::client::Op;
use livegate_zk::proto::acl::Acl;
use livegate_zk::proto::create_mode::CreateMode;

use crate::fixture::{create, create_all, discovery, ensure, ids, start, until};
use crate::server::{Kind, Server, on_both};

on_both! {
    changes
}

async fn changes(kind: Kind) {
    let Some(server) = start(kind).await else {
        return;
    };
    a_service_that_is_not_there_yet(&server).await;
    a_parent_that_is_reaped_and_made_again(&server).await;
    data_that_is_set(&server).await;
    weights_that_are_configured(&server).await;
    additions_come_together_and_removals_at_once(&server).await;
    a_watch_that_is_dropped_is_removed(&server).await;
}

async fn a_service_that_is_not_there_yet(server: &Server) {
    let client = server.client().await;
    let watch = discovery(&client)
        .service("/later/orders", ServiceOptions::default())
        .unwrap();
    assert_eq!(watch.latest().status, Status::Pending);
    let mut snapshots = watch.snapshots();
    let absent = until(&mut snapshots, |now| now.status != Status::Pending).await;
    assert_eq!((absent.status, absent.attachment), (Status::Absent, 1));
    ensure(&client, "/later/orders").await;
    let live = until(&mut snapshots, |now| now.status == Status::Live).await;
    assert!(live.instances.is_empty());
    create(&client, "/later/orders/10.0.0.1:80", "").await;
    let one = until(&mut snapshots, |now| !now.instances.is_empty()).await;
    assert_eq!(ids(&one), ["10.0.0.1:80"]);
    assert!(absent.revision < live.revision && live.revision < one.revision);
}

/// Curator makes the parents containers, which the server deletes when their last child has left.
async fn a_parent_that_is_reaped_and_made_again(server: &Server) {
    let client = server.client().await;
    let watch = discovery(&client)
        .service("/reaped", ServiceOptions::default())
        .unwrap();
    let mut snapshots = watch.snapshots();
    for _ in 0..3 {
        create(&client, "/reaped", "").await;
        create(&client, "/reaped/10.0.0.1:80", "").await;
        create(&client, "/reaped/10.0.0.2:80", "").await;
        until(&mut snapshots, |now| now.instances.len() == 2).await;
        for node in ["/reaped/10.0.0.1:80", "/reaped/10.0.0.2:80", "/reaped"] {
            client.delete(node, None).await.unwrap();
        }
        let absent = until(&mut snapshots, |now| now.status == Status::Absent).await;
        assert!(absent.instances.is_empty());
    }
}

async fn data_that_is_set(server: &Server) {
    let client = server.client().await;
    let discovery = discovery(&client);
    let data = |weight: u32, state: &str| {
        format!(
            r#"{{"address":"10.0.0.1","port":80,"payload":{{"metadata":{{"weight":"{weight}","state":"{state}"}}}},"serviceType":"DYNAMIC"}}"#
        )
    };
    create(&client, "/set", "").await;
    create(&client, "/set/i", &data(10, "up")).await;
    let watch = discovery
        .service("/set", ServiceOptions::default())
        .unwrap();
    let mut snapshots = watch.snapshots();
    until(&mut snapshots, |now| now.status == Status::Live).await;
    let before = discovery.stats().reads();
    for (weight, state, wanted) in [
        (20, "up", InstanceState::Up),
        (20, "draining", InstanceState::Draining),
        (5, "up", InstanceState::Up),
    ] {
        client
            .set("/set/i", data(weight, state).as_bytes(), None)
            .await
            .unwrap();
        until(&mut snapshots, |now| {
            let instance = now.instances.get("i").unwrap();
            (instance.weight, instance.state) == (weight, wanted)
        })
        .await;
    }
    assert_eq!(discovery.stats().reads() - before, 3);
}

async fn weights_that_are_configured(server: &Server) {
    let client = server.client().await;
    let discovery = discovery(&client);
    create(&client, "/configured", "").await;
    create(&client, "/configured/10.0.0.1:80", "").await;
    create(&client, "/configured/10.0.0.2:80", "").await;
    let watch = discovery
        .service("/configured", ServiceOptions::default())
        .unwrap();
    let mut snapshots = watch.snapshots();
    until(&mut snapshots, |now| now.instances.len() == 2).await;
    let before = discovery.stats().reads();
    watch.set_weights(Weights {
        default: 7,
        overrides: [("10.0.0.2:80".to_owned(), 3)].into(),
    });
    until(&mut snapshots, |now| {
        let mut weights = now.instances.values().map(|instance| instance.weight);
        weights.by_ref().eq([7, 3])
    })
    .await;
    assert_eq!(discovery.stats().reads(), before);
}

async fn additions_come_together_and_removals_at_once(server: &Server) {
    let client = server.client().await;
    let discovery = discovery(&client);
    create(&client, "/paced", "").await;
    let watch = discovery
        .service("/paced", ServiceOptions::default())
        .unwrap();
    let mut snapshots = watch.snapshots();
    until(&mut snapshots, |now| now.status == Status::Live).await;
    let path = |number: usize| format!("/paced/10.0.{}.{}:80", number / 250, number % 250);
    let all: Vec<String> = (0..500).map(path).collect();
    let (before, start) = (discovery.stats().snapshots(), Instant::now());
    create_all(&client, &all, b"").await;
    until(&mut snapshots, |now| now.instances.len() == 500).await;
    let published = discovery.stats().snapshots() - before;
    // The first at once, then one in 50 ms.
    let most = 2 + start.elapsed().as_millis() / 50;
    assert!(u128::from(published) <= most, "{published} of {most}");

    // A removal does not wait for the 50 ms after an addition: the fastest of some shows it.
    let mut fastest = Duration::MAX;
    for number in 0..20 {
        create(&client, "/paced/10.1.0.1:80", "").await;
        until(&mut snapshots, |now| {
            now.instances.contains_key("10.1.0.1:80")
        })
        .await;
        let start = Instant::now();
        client.delete(&path(number), None).await.unwrap();
        until(&mut snapshots, |now| now.instances.len() == 500 - number).await;
        fastest = fastest.min(start.elapsed());
        client.delete("/paced/10.1.0.1:80", None).await.unwrap();
        until(&mut snapshots, |now| {
            !now.instances.contains_key("10.1.0.1:80")
        })
        .await;
    }
    assert!(fastest < Duration::from_millis(40), "{fastest:?}");

    // Made anew in one transaction, as a client that reconnects may do.
    let path = "/paced/10.0.0.100:80";
    let made = async || client.exists(path).await.unwrap().unwrap().czxid;
    let before = made().await;
    let ops = [
        Op::Delete {
            path,
            version: None,
        },
        Op::Create {
            path,
            data: b"",
            mode: CreateMode::Persistent,
            acl: Acl::OPEN,
        },
    ];
    client.multi(&ops).await.unwrap();
    let after = made().await;
    assert_ne!(before, after);
    until(&mut snapshots, |now| {
        let instance = now.instances.get("10.0.0.100:80");
        instance.is_some_and(|instance| instance.incarnation.czxid == after)
    })
    .await;
}

async fn a_watch_that_is_dropped_is_removed(server: &Server) {
    let client = server.client().await;
    let watch = discovery(&client)
        .service("/paced", ServiceOptions::default())
        .unwrap();
    let mut snapshots = watch.snapshots();
    until(&mut snapshots, |now| now.status == Status::Live).await;
    drop(watch);
    let ended = tokio::time::timeout(Duration::from_secs(60), async {
        while snapshots.changed().await.is_ok() {}
    });
    ended.await.unwrap();
    assert_eq!(snapshots.borrow().status, Status::Live);
}
