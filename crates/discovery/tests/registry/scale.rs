//! Two thousand instances: reads are counted.

use std::time::Instant;

use livegate_discovery::{DiscoveryOptions, ServiceOptions, Status};

use crate::fixture::{create, create_all, discovery, ensure, start, until};
use crate::server::{Kind, on_both};

const INSTANCES: usize = 2000;
const CHANGES: usize = 200;
const LAST_WEIGHT: u32 = 200;

fn path(number: usize) -> String {
    format!("/scale/10.0.{}.{}:80", number / 250, number % 250)
}

on_both! {
    two_thousand_instances
}

async fn two_thousand_instances(kind: Kind) {
    let Some(server) = start(kind).await else {
        return;
    };
    let client = server.client().await;
    let writer = server.client().await;
    ensure(&writer, "/scale").await;
    let paths: Vec<String> = (0..INSTANCES).map(path).collect();
    create_all(&writer, &paths, br#"{"Weight":10}"#).await;
    let discovery = discovery(&client);
    let stats = discovery.stats();
    let watch = discovery
        .service("/scale", ServiceOptions::default())
        .unwrap();
    let mut snapshots = watch.snapshots();
    let first = until(&mut snapshots, |now| now.status == Status::Live).await;
    assert_eq!(first.instances.len(), INSTANCES);
    assert_eq!(
        (stats.reads(), stats.listings(), stats.states()),
        (INSTANCES as u64, 1, 0)
    );

    // Each is seen before the next one is made.
    for number in 0..CHANGES {
        let path = path(number);
        let id = livegate_zk::path::name(&path);
        match number % 3 {
            0 => {
                writer.delete(&path, None).await.unwrap();
                until(&mut snapshots, |now| !now.instances.contains_key(id)).await;
            }
            1 => {
                writer.set(&path, br#"{"Weight":20}"#, None).await.unwrap();
                until(&mut snapshots, |now| now.instances[id].weight == 20).await;
            }
            _ => {
                let path = format!("/scale/10.1.0.{number}:80");
                create(&writer, &path, "").await;
                let id = livegate_zk::path::name(&path);
                until(&mut snapshots, |now| now.instances.contains_key(id)).await;
            }
        }
    }
    // Only what was set or created is read; nothing is listed again.
    let changed = (0..CHANGES).filter(|number| number % 3 != 0).count();
    assert_eq!(stats.reads(), (INSTANCES + changed) as u64);
    assert_eq!((stats.listings(), stats.states()), (1, 0));

    // What changes all the time is not read each time, and the last word counts.
    let (before, began) = (stats.reads(), Instant::now());
    let path = path(INSTANCES - 1);
    let id = livegate_zk::path::name(&path);
    for weight in 1..=LAST_WEIGHT {
        let data = format!(r#"{{"Weight":{weight}}}"#);
        writer.set(&path, data.as_bytes(), None).await.unwrap();
    }
    until(&mut snapshots, |now| {
        now.instances[id].weight == LAST_WEIGHT
    })
    .await;
    let coalesce = DiscoveryOptions::default().coalesce;
    let most = began.elapsed().as_millis() / coalesce.as_millis() + 2;
    let read = stats.reads() - before;
    assert!(u128::from(read) <= most, "{read} reads, not {most}");

    // More events at once than a watcher may leave unread are a gap, and nothing is missed.
    let more: Vec<String> = (0..INSTANCES)
        .map(|number| format!("/scale/10.2.{}.{}:80", number / 250, number % 250))
        .collect();
    let before = watch.latest().instances.len();
    create_all(&writer, &more, b"").await;
    let all = before + INSTANCES;
    until(&mut snapshots, |now| now.instances.len() == all).await;
    assert_eq!(watch.latest().status, Status::Live);
    assert_eq!(watch.latest().attachment, 1);
}
