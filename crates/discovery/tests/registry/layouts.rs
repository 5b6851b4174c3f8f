//! Every layout, alone and mixed, and nodes that are none.

use std::collections::BTreeMap;

use livegate_discovery::layout::Layout;
use livegate_discovery::{InstanceState, ServiceOptions, Status};

use crate::fixture::{create, discovery, ensure, ids, start, until};
use crate::server::{Kind, Server, on_both};

on_both! {
    layouts
}

/// A layout, a path below its service, data, and the instance that it is: id and address.
type Case = (
    Layout,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
);

const CASES: [Case; 10] = [
    (
        Layout::Address,
        "127.0.0.1:2003",
        "",
        "127.0.0.1:2003",
        "127.0.0.1:2003",
    ),
    (
        Layout::Curator,
        "80353ec1-a462-4ffa-968d-932a9c6d2411",
        r#"{"name":"svc","id":"80353ec1-a462-4ffa-968d-932a9c6d2411","address":"10.0.0.1","port":80,"sslPort":443,"payload":"hello","registrationTimeUTC":1795338721825,"serviceType":"DYNAMIC","uriSpec":null}"#,
        "80353ec1-a462-4ffa-968d-932a9c6d2411",
        "10.0.0.1:80",
    ),
    (
        Layout::Spring,
        "b1fdcb1e-27a8-4409-a703-3458260c450a",
        r#"{"name":"waiter-service","id":"b1fdcb1e-27a8-4409-a703-3458260c450a","address":"10.133.11.150","port":53598,"sslPort":null,"payload":{"@class":"org.springframework.cloud.zookeeper.discovery.ZookeeperInstance","id":"waiter-service","name":"waiter-service","metadata":{"instance_status":"UP"}},"registrationTimeUTC":1618899361271,"serviceType":"DYNAMIC","uriSpec":{"parts":[{"value":"scheme","variable":true},{"value":"://","variable":false},{"value":"address","variable":true},{"value":":","variable":false},{"value":"port","variable":true}]}}"#,
        "b1fdcb1e-27a8-4409-a703-3458260c450a",
        "10.133.11.150:53598",
    ),
    (
        Layout::Dubbo2,
        "providers/dubbo%3A%2F%2F192.168.0.102%3A20881%2Fcom.heyu.service.StudentService%3Fanyhost%3Dtrue%26application%3DmyProvider%26dubbo%3D2.0.2%26dynamic%3Dtrue%26interface%3Dcom.heyu.service.StudentService%26methods%3DgetStudent%26pid%3D20828%26release%3D2.7.5%26side%3Dprovider%26timestamp%3D1624334801215",
        "",
        "192.168.0.102:20881",
        "192.168.0.102:20881",
    ),
    (
        Layout::Dubbo3,
        "30.221.146.35:20880",
        r#"{"name":"first-dubbo-provider","id":"30.221.146.35:20880","address":"30.221.146.35","port":20880,"sslPort":null,"payload":{"@class":"org.apache.dubbo.registry.zookeeper.ZookeeperInstance","id":"30.221.146.35:20880","name":"first-dubbo-provider","metadata":{"dubbo.endpoints":"[{\"port\":20880,\"protocol\":\"dubbo\"}]","timestamp":"1674960780647"}},"registrationTimeUTC":1674960781893,"serviceType":"DYNAMIC","uriSpec":null}"#,
        "30.221.146.35:20880",
        "30.221.146.35:20880",
    ),
    (
        Layout::ServerSet,
        "member_0000000007",
        r#"{"serviceEndpoint":{"host":"10.0.0.3","port":80},"additionalEndpoints":{"http":{"host":"10.0.0.2","port":80}},"status":"ALIVE","shard":0,"metadata":{"keyA":"valueA"}}"#,
        "member_0000000007",
        "10.0.0.3:80",
    ),
    (
        Layout::Nerve,
        "i-1_0000000003",
        r#"{"host":"10.0.0.7","port":3000,"name":"i-1","weight":7}"#,
        "i-1_0000000003",
        "10.0.0.7:3000",
    ),
    (
        Layout::Kitex,
        "127.0.0.1:8888",
        r#"{"Weight":10,"Tags":null}"#,
        "127.0.0.1:8888",
        "127.0.0.1:8888",
    ),
    (
        Layout::Kratos,
        "8f14e45f",
        r#"{"id":"8f14e45f","name":"helloworld","version":"v1","metadata":{"k":"v"},"endpoints":["http://127.0.0.1:8000","grpc://127.0.0.1:9000?isSecure=false"]}"#,
        "8f14e45f",
        "127.0.0.1:8000",
    ),
    (
        Layout::ShenYu,
        "10.0.0.8:9195",
        r#"{"appName":"http","host":"10.0.0.8","port":9195,"status":0,"weight":30}"#,
        "10.0.0.8:9195",
        "10.0.0.8:9195",
    ),
];

async fn layouts(kind: Kind) {
    let Some(server) = start(kind).await else {
        return;
    };
    alone(&server).await;
    mixed_with_bad_nodes(&server).await;
    lists_in_the_service_node(&server).await;
    vectors_give_weights(&server).await;
    names_are_looked_up(&server).await;
    services_below_a_root(&server).await;
}

async fn alone(server: &Server) {
    let client = server.client().await;
    let discovery = discovery(&client);
    for (layout, node, data, id, address) in CASES {
        let service = format!("/alone/{}", layout.name());
        let path = format!("{service}/{node}");
        ensure(&client, livegate_zk::path::parent(&path).unwrap()).await;
        create(&client, &path, data).await;
        for layout in [layout, Layout::Auto] {
            let options = ServiceOptions {
                layout,
                ..ServiceOptions::default()
            };
            let watch = discovery.service(&service, options).unwrap();
            let live = until(&mut watch.snapshots(), |now| now.status == Status::Live).await;
            assert!(live.skipped.is_empty(), "{:?}", live.skipped);
            assert_eq!(ids(&live), [id]);
            let instance = live.instances.values().next().unwrap();
            assert_eq!(instance.address.to_string(), address);
            assert_eq!(instance.state, InstanceState::Up);
            let stat = client.exists(&path).await.unwrap().unwrap();
            assert_eq!(instance.incarnation.czxid, stat.czxid);
            assert_eq!(instance.incarnation.ctime_ms, stat.ctime);
        }
    }
}

async fn mixed_with_bad_nodes(server: &Server) {
    let client = server.client().await;
    ensure(&client, "/mixed/providers").await;
    ensure(&client, "/mixed/consumers").await;
    let mut expected = BTreeMap::new();
    for (_, node, data, id, address) in CASES {
        create(&client, &format!("/mixed/{node}"), data).await;
        expected.insert(id.to_owned(), address.to_owned());
    }
    create(&client, "/mixed/bad-json", "{").await;
    create(&client, "/mixed/unknown", "what?").await;
    create(&client, "/mixed/list", r#"["10.9.9.9:80", 7]"#).await;
    expected.insert("10.9.9.9:80".to_owned(), "10.9.9.9:80".to_owned());
    let watch = discovery(&client)
        .service("/mixed", ServiceOptions::default())
        .unwrap();
    let mut snapshots = watch.snapshots();
    let live = until(&mut snapshots, |now| now.status == Status::Live).await;
    let found: BTreeMap<_, _> = live
        .instances
        .values()
        .map(|instance| (instance.id.to_string(), instance.address.to_string()))
        .collect();
    assert_eq!(found, expected);
    let skipped: Vec<_> = live.skipped.keys().map(String::as_str).collect();
    assert_eq!(skipped, ["bad-json", "list[1]", "unknown"]);

    // Good data heals a bad node, and bad data spoils a good one, alone.
    client
        .set("/mixed/bad-json", b"10.8.8.8:80", None)
        .await
        .unwrap();
    let healed = until(&mut snapshots, |now| now.instances.contains_key("bad-json")).await;
    assert_eq!(healed.instances.len(), expected.len() + 1);
    client.set("/mixed/8f14e45f", b"{", None).await.unwrap();
    let spoilt = until(&mut snapshots, |now| now.skipped.contains_key("8f14e45f")).await;
    assert_eq!(spoilt.instances.len(), expected.len());
    client.delete("/mixed/unknown", None).await.unwrap();
    until(&mut snapshots, |now| !now.skipped.contains_key("unknown")).await;
}

async fn lists_in_the_service_node(server: &Server) {
    let client = server.client().await;
    let list = r#"[{"host":"10.0.0.1","port":80,"weight":20},{"host":"10.0.0.2","port":80}]"#;
    create(&client, "/listed", list).await;
    for layout in [Layout::List, Layout::Auto] {
        let options = ServiceOptions {
            layout,
            ..ServiceOptions::default()
        };
        let watch = discovery(&client).service("/listed", options).unwrap();
        let mut snapshots = watch.snapshots();
        let live = until(&mut snapshots, |now| now.status == Status::Live).await;
        assert_eq!(ids(&live), ["10.0.0.1:80", "10.0.0.2:80"]);
        let weights: Vec<_> = live
            .instances
            .values()
            .map(|instance| instance.weight)
            .collect();
        assert_eq!(weights, [20, 50]);
        client
            .set("/listed", br#"["10.0.0.3:80"]"#, None)
            .await
            .unwrap();
        let next = until(&mut snapshots, |now| now.revision > live.revision).await;
        assert_eq!(ids(&next), ["10.0.0.3:80"]);
        client.set("/listed", list.as_bytes(), None).await.unwrap();
        until(&mut snapshots, |now| now.instances.len() == 2).await;
    }
}

async fn vectors_give_weights(server: &Server) {
    let client = server.client().await;
    create(&client, "/weighted", "").await;
    for (number, host) in [(1, "10.0.0.1"), (2, "10.0.0.2")] {
        let path = format!("/weighted/member_000000000{number}");
        let data =
            format!(r#"{{"serviceEndpoint":{{"host":"{host}","port":80}},"status":"ALIVE"}}"#);
        create(&client, &path, &data).await;
    }
    let watch = discovery(&client)
        .service("/weighted", ServiceOptions::default())
        .unwrap();
    let mut snapshots = watch.snapshots();
    let weights = |snapshot: &livegate_discovery::Snapshot| -> Vec<u32> {
        snapshot
            .instances
            .values()
            .map(|instance| instance.weight)
            .collect()
    };
    let live = until(&mut snapshots, |now| now.status == Status::Live).await;
    assert_eq!(weights(&live), [50, 50]);
    let vector = r#"{"vector":[{"select":"inet=10.0.0.2:80","weight":0.1,"priority":1}]}"#;
    create(&client, "/weighted/vector_0000000003", vector).await;
    until(&mut snapshots, |now| weights(now) == [50, 5]).await;
    client
        .delete("/weighted/vector_0000000003", None)
        .await
        .unwrap();
    until(&mut snapshots, |now| weights(now) == [50, 50]).await;
}

async fn names_are_looked_up(server: &Server) {
    let client = server.client().await;
    create(&client, "/named", "").await;
    create(&client, "/named/localhost:80", "").await;
    create(&client, "/named/no-such-host.invalid:80", "").await;
    create(&client, "/named/10.0.0.1:80", "").await;
    let watch = discovery(&client)
        .service("/named", ServiceOptions::default())
        .unwrap();
    let found = until(&mut watch.snapshots(), |now| now.instances.len() == 2).await;
    assert_eq!(found.status, Status::Live);
    let local = found.instances.get("localhost:80").unwrap();
    assert!(local.address.ip().is_loopback());
    let cause = &found.skipped["no-such-host.invalid:80"];
    assert!(cause.contains("no-such-host.invalid"), "{cause}");
}

async fn services_below_a_root(server: &Server) {
    let client = server.client().await;
    let discovery = discovery(&client);
    let root = discovery.root("/root").unwrap();
    let mut services = root.services();
    until(&mut services, |now| now.status == Status::Absent).await;
    ensure(&client, "/root/a").await;
    create(&client, "/root/b", "").await;
    let names = |now: &livegate_discovery::Services| -> Vec<String> {
        now.names.iter().map(ToString::to_string).collect()
    };
    until(&mut services, |now| names(now) == ["a", "b"]).await;
    let watch = root.service("b", ServiceOptions::default()).unwrap();
    create(&client, "/root/b/10.0.0.1:80", "").await;
    until(&mut watch.snapshots(), |now| now.instances.len() == 1).await;
    client.delete("/root/a", None).await.unwrap();
    let left = until(&mut services, |now| names(now) == ["b"]).await;
    assert_eq!(left.status, Status::Live);
    let top = discovery.root("/").unwrap();
    let top = until(&mut top.services(), |now| now.status == Status::Live).await;
    assert!(top.names.contains("root") && !top.names.contains("zookeeper"));
}
