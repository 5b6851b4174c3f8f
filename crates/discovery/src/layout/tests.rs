//! Real bytes of every layout, and bytes that are of none.

use proptest::prelude::*;

use super::*;

const CURATOR: &str = r#"{"name":"svc","id":"80353ec1-a462-4ffa-968d-932a9c6d2411","address":"10.0.0.1","port":80,"sslPort":443,"payload":"hello","registrationTimeUTC":1795338721825,"serviceType":"DYNAMIC","uriSpec":null}"#;
const SPRING: &str = r#"{"name":"waiter-service","id":"b1fdcb1e-27a8-4409-a703-3458260c450a","address":"10.133.11.150","port":53598,"sslPort":null,"payload":{"@class":"org.springframework.cloud.zookeeper.discovery.ZookeeperInstance","id":"waiter-service","name":"waiter-service","metadata":{"instance_status":"UP"}},"registrationTimeUTC":1618899361271,"serviceType":"DYNAMIC","uriSpec":{"parts":[{"value":"scheme","variable":true},{"value":"://","variable":false},{"value":"address","variable":true},{"value":":","variable":false},{"value":"port","variable":true}]}}"#;
const DUBBO_2: &str = "dubbo%3A%2F%2F192.168.0.102%3A20881%2Fcom.heyu.service.StudentService%3Fanyhost%3Dtrue%26application%3DmyProvider%26dubbo%3D2.0.2%26dynamic%3Dtrue%26interface%3Dcom.heyu.service.StudentService%26methods%3DgetStudent%26pid%3D20828%26release%3D2.7.5%26side%3Dprovider%26timestamp%3D1624334801215";
const DUBBO_3: &str = r#"{"name":"first-dubbo-provider","id":"30.221.146.35:20880","address":"30.221.146.35","port":20880,"sslPort":null,"payload":{"@class":"org.apache.dubbo.registry.zookeeper.ZookeeperInstance","id":"30.221.146.35:20880","name":"first-dubbo-provider","metadata":{"dubbo.endpoints":"[{\"port\":20880,\"protocol\":\"dubbo\"}]","timestamp":"1674960780647"}},"registrationTimeUTC":1674960781893,"serviceType":"DYNAMIC","uriSpec":null}"#;
const MEMBER: &str = r#"{"serviceEndpoint":{"host":"10.0.0.3","port":80},"additionalEndpoints":{"http":{"host":"10.0.0.2","port":80}},"status":"ALIVE","shard":0,"metadata":{"keyA":"valueA"}}"#;
const HERTZ: &str = r#"{"Weight":10,"Tags":null}"#;
const KRATOS: &str = r#"{"id":"8f14e45f","name":"helloworld","version":"v1","metadata":{"k":"v"},"endpoints":["http://127.0.0.1:8000","grpc://127.0.0.1:9000?isSecure=false"]}"#;
const OURS: &str = r#"{"name":"orders","id":"10.0.0.3:8080","address":"10.0.0.3","port":8080,"sslPort":null,"payload":{"metadata":{"weight":"20","zone":"a"}},"registrationTimeUTC":1795338721825,"serviceType":"DYNAMIC","uriSpec":null}"#;
const NERVE: &str =
    r#"{"host":"10.0.0.7","port":3000,"name":"i-1","weight":7,"labels":{"az":"us-1a","zone":"a"}}"#;
const SHEN_YU: &str = r#"{"appName":"http","host":"10.0.0.8","port":9195,"status":0,"weight":30}"#;

/// Reads with `auto` and with a layout by name, which must agree.
fn one(layout: Layout, name: &str, data: &str) -> Description {
    let read = |layout| match read(layout, name, data.as_bytes()) {
        Ok(Content::Instance(description)) => description,
        other => panic!("{layout:?}: {other:?}"),
    };
    let description = read(layout);
    assert_eq!(read(Layout::Auto), description);
    description
}

fn error(layout: Layout, name: &str, data: &str) -> String {
    match read(layout, name, data.as_bytes()) {
        Err(error) => error.to_string(),
        Ok(content) => panic!("{content:?}"),
    }
}

fn address(text: &str) -> Address {
    Address::parse(text).unwrap()
}

fn metadata(pairs: &[(&str, &str)]) -> Arc<BTreeMap<String, String>> {
    let pairs = pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    Arc::new(pairs.collect())
}

fn plain(id: &str, at: &str) -> Description {
    Description::at(address(at)).named(id)
}

#[test]
fn layouts_by_name() {
    for layout in Layout::ALL {
        assert_eq!(layout.name().parse(), Ok(layout));
    }
    let unknown = "Curator".parse::<Layout>().unwrap_err();
    assert!(
        unknown
            .to_string()
            .starts_with("\"Curator\" is not a layout; there are auto,")
    );
}

#[test]
fn the_classic_layout() {
    let expected = plain("127.0.0.1:2003", "127.0.0.1:2003");
    for data in ["", "127.0.0.1:2003", "whatever"] {
        assert_eq!(one(Layout::Address, "127.0.0.1:2003", data), expected);
    }
    assert_eq!(
        one(Layout::Address, "127.0.0.1:2003_0000000042", ""),
        expected
    );
    assert_eq!(
        one(Layout::Address, "[::1]:80", ""),
        plain("[::1]:80", "[::1]:80")
    );
    assert_eq!(
        one(Layout::Address, "orders-1.internal:80", "")
            .address
            .host,
        Host::Name("orders-1.internal".into())
    );
    // The data may say what the name does not.
    assert_eq!(
        one(Layout::Address, "worker-1", "10.0.0.1:80\n"),
        plain("worker-1", "10.0.0.1:80")
    );
    for (name, cause) in [
        ("worker-1", "\"worker-1\" has no port"),
        ("::1:80", "\"::1:80\" is not a host"),
        ("a:0", "\"0\" is not a port"),
        ("a:+1", "\"+1\" is not a port"),
        ("a:65536", "\"65536\" is not a port"),
        (":80", "\"\" is not a host"),
        ("010.0.0.1:80", "\"010.0.0.1\" is not a host"),
        ("0x7f000001:80", "\"0x7f000001\" is not a host"),
        ("1:80", "\"1\" is not a host"),
        ("a..b:80", "\"a..b\" is not a host"),
        ("a b:80", "\"a b\" is not a host"),
        (
            "0.0.0.0:80",
            "0.0.0.0 is an address to listen at, not one to connect to",
        ),
    ] {
        assert_eq!(error(Layout::Auto, name, ""), cause);
    }
}

#[test]
fn curator() {
    let name = "80353ec1-a462-4ffa-968d-932a9c6d2411";
    let expected = Description {
        metadata: metadata(&[("payload", "hello")]),
        ..plain(name, "10.0.0.1:80")
    };
    assert_eq!(one(Layout::Curator, name, CURATOR), expected);
    let disabled = CURATOR.replace("\"uriSpec\":null", "\"uriSpec\":null,\"enabled\":false");
    assert_eq!(
        one(Layout::Curator, name, &disabled).state,
        InstanceState::Down
    );
    let enabled = disabled.replace("\"enabled\":false", "\"enabled\":true");
    assert_eq!(
        one(Layout::Curator, name, &enabled).state,
        InstanceState::Up
    );
    let weighted = CURATOR.replace("\"hello\"", r#"{"weight":12,"zone":"b","deep":{}}"#);
    let weighted = one(Layout::Curator, name, &weighted);
    assert_eq!(
        (weighted.weight, weighted.zone.as_deref()),
        (Some(12), Some("b"))
    );
    let only_tls = CURATOR.replace("\"port\":80", "\"port\":null");
    assert_eq!(
        error(Layout::Auto, name, &only_tls),
        "no port, only an sslPort"
    );
    let nowhere = CURATOR.replace("\"10.0.0.1\"", "7");
    assert_eq!(
        error(Layout::Auto, name, &nowhere),
        "address: \"7\" makes no sense"
    );
}

#[test]
fn spring() {
    let name = "b1fdcb1e-27a8-4409-a703-3458260c450a";
    let expected = Description {
        metadata: metadata(&[("instance_status", "UP")]),
        ..plain(name, "10.133.11.150:53598")
    };
    assert_eq!(one(Layout::Spring, name, SPRING), expected);
    let out = SPRING.replace("\"UP\"", "\"OUT_OF_SERVICE\",\"weight\":\"3\"");
    let out = one(Layout::Spring, name, &out);
    assert_eq!((out.state, out.weight), (InstanceState::Down, Some(3)));
    let absent = SPRING.replace(r#""instance_status":"UP""#, "");
    assert_eq!(one(Layout::Spring, name, &absent).state, InstanceState::Up);
}

#[test]
fn dubbo_2() {
    let description = one(Layout::Dubbo2, DUBBO_2, "");
    assert_eq!(description.id.as_str(), "192.168.0.102:20881");
    assert_eq!(description.address, address("192.168.0.102:20881"));
    assert_eq!(
        (description.weight, description.state),
        (None, InstanceState::Up)
    );
    for (key, value) in [
        ("timestamp", "1624334801215"),
        ("interface", "com.heyu.service.StudentService"),
        ("protocol", "dubbo"),
    ] {
        assert_eq!(description.metadata.get(key).unwrap(), value);
    }
    let weighted = one(
        Layout::Dubbo2,
        &format!("{DUBBO_2}%26weight%3D200%26zone%3Db"),
        "",
    );
    assert_eq!(
        (weighted.weight, weighted.zone.as_deref()),
        (Some(200), Some("b"))
    );
    for out in ["%26disabled%3Dtrue", "%26enabled%3Dfalse"] {
        let out = one(Layout::Dubbo2, &format!("{DUBBO_2}{out}"), "");
        assert_eq!(out.state, InstanceState::Down);
    }
    let triple = "tri%3A%2F%2F10.0.0.1%3A50051%2Forg.Greeter%3Fversion%3D1";
    assert_eq!(
        one(Layout::Dubbo2, triple, "").address,
        address("10.0.0.1:50051")
    );
    assert_eq!(
        error(Layout::Auto, "dubbo%3A%2F%2Fh%3A1%", ""),
        "the name is not a percent-encoded URL"
    );
    assert_eq!(
        error(Layout::Auto, "dubbo%3A%2F%2Fh", ""),
        "\"h\" has no port"
    );
}

#[test]
fn dubbo_3() {
    let description = one(Layout::Dubbo3, "30.221.146.35:20880", DUBBO_3);
    assert_eq!(description.id.as_str(), "30.221.146.35:20880");
    assert_eq!(description.address, address("30.221.146.35:20880"));
    assert_eq!(
        description.metadata.get("timestamp").unwrap(),
        "1674960780647"
    );
    let elsewhere = DUBBO_3.replace("\"port\":20880,\"ssl", "\"port\":null,\"ssl");
    let elsewhere = one(
        Layout::Dubbo3,
        "x",
        &elsewhere.replace("\\\"port\\\":20880", "\\\"port\\\":50051"),
    );
    assert_eq!(elsewhere.address, address("30.221.146.35:50051"));
}

#[test]
fn server_sets() {
    let name = "member_0000000007";
    let expected = Description {
        metadata: metadata(&[("keyA", "valueA"), ("shard", "0")]),
        ..plain(name, "10.0.0.3:80")
    };
    let member = one(Layout::ServerSet, name, MEMBER);
    assert_eq!(member, expected);
    let dying = MEMBER.replace("ALIVE", "STOPPING");
    assert_eq!(
        one(Layout::ServerSet, name, &dying).state,
        InstanceState::Down
    );
    for (select, factor) in [
        ("inet=10.0.0.3:80", 0.5),
        ("inet=10.0.0.3", 0.5),
        ("inet=10.0.0.4", 1.0),
        ("member=member_0000000007", 0.5),
        ("member=0000000007", 0.5),
        ("shard=0", 0.5),
        ("shard=1", 1.0),
        ("planet=earth", 1.0),
    ] {
        let data = format!(r#"{{"vector":[{{"select":"{select}","weight":0.5,"priority":1}}]}}"#);
        let vector = match read(Layout::Auto, "vector_0000000001", data.as_bytes()) {
            Ok(Content::Vector(vector)) => vector,
            other => panic!("{other:?}"),
        };
        assert!((vector.factor(&member) - factor).abs() < 1e-9, "{select}");
    }
    let both = r#"{"vector":[{"select":"shard=0","weight":0.5},{"select":"inet=10.0.0.3","weight":3},{"select":"shard=0","weight":-1},7]}"#;
    let Ok(Content::Vector(vector)) = read(Layout::ServerSet, "vector_1", both.as_bytes()) else {
        panic!("not a vector")
    };
    assert!((vector.factor(&member) - 1.5).abs() < 1e-9);
}

#[test]
fn nerve() {
    let expected = Description {
        weight: Some(7),
        zone: Some("a".into()),
        metadata: metadata(&[("az", "us-1a"), ("zone", "a")]),
        ..plain("i-1_0000000003", "10.0.0.7:3000")
    };
    assert_eq!(one(Layout::Nerve, "i-1_0000000003", NERVE), expected);
    // python3 -c 'import base64; print(base64.urlsafe_b64encode(b"..."))'
    let encoded = "base64_120_eyJob3N0IjoiMTAuMC4wLjciLCJwb3J0IjozMDAwLCJuYW1lIjoiaS0xIiwid2VpZ2h0Ijo3LCJsYWJlbHMiOnsiYXoiOiJ1cy0xYSIsInpvbmUiOiJhIn19_0000000004";
    let expected = expected.named("10.0.0.7:3000");
    assert_eq!(one(Layout::Nerve, encoded, ""), expected);
    assert_eq!(
        error(Layout::Auto, "base64_12_!!!", ""),
        "the name is not base64_<length>_<base64>"
    );
}

#[test]
fn kitex_and_hertz() {
    let expected = Description {
        weight: Some(10),
        ..plain("127.0.0.1:8888", "127.0.0.1:8888")
    };
    assert_eq!(one(Layout::Kitex, "127.0.0.1:8888", HERTZ), expected);
    let tagged = one(
        Layout::Kitex,
        "127.0.0.1:8888",
        r#"{"Weight":0,"Tags":{"zone":"c"}}"#,
    );
    assert_eq!((tagged.weight, tagged.zone.as_deref()), (None, Some("c")));
}

#[test]
fn kratos() {
    let expected = Description {
        metadata: metadata(&[("k", "v"), ("version", "v1")]),
        ..plain("8f14e45f", "127.0.0.1:8000")
    };
    assert_eq!(one(Layout::Kratos, "8f14e45f", KRATOS), expected);
    let only_grpc = KRATOS.replace("\"http://127.0.0.1:8000\",", "");
    assert_eq!(
        one(Layout::Kratos, "8f14e45f", &only_grpc).address,
        address("127.0.0.1:9000")
    );
    assert_eq!(
        error(Layout::Auto, "x", r#"{"endpoints":[]}"#),
        "no endpoints"
    );
}

#[test]
fn shen_yu() {
    let expected = Description {
        weight: Some(30),
        ..plain("10.0.0.8:9195", "10.0.0.8:9195")
    };
    assert_eq!(one(Layout::ShenYu, "10.0.0.8:9195", SHEN_YU), expected);
    // As `RegistryListener` registers: neither number was ever set.
    let unset = SHEN_YU.replace("30", "0");
    assert_eq!(one(Layout::ShenYu, "10.0.0.8:9195", &unset).weight, None);
    let others = SHEN_YU
        .replace("\"appName\":\"http\",", "")
        .replace("30", "0");
    assert_eq!(one(Layout::Nerve, "10.0.0.8:9195", &others).weight, Some(0));
    for status in ["1", "2", "-1", "false", "\"DOWN\""] {
        let out = SHEN_YU.replace("\"status\":0", &format!("\"status\":{status}"));
        assert_eq!(
            one(Layout::ShenYu, "a:1", &out).state,
            InstanceState::Down,
            "{status}"
        );
    }
}

#[test]
fn what_our_registrar_writes() {
    let expected = Description {
        weight: Some(20),
        zone: Some("a".into()),
        metadata: metadata(&[("weight", "20"), ("zone", "a")]),
        ..plain("10.0.0.3:8080", "10.0.0.3:8080")
    };
    assert_eq!(one(Layout::Curator, "10.0.0.3:8080", OURS), expected);
    let draining = OURS.replace("\"zone\":\"a\"", "\"state\":\"draining\"");
    let draining = one(Layout::Curator, "10.0.0.3:8080", &draining);
    assert_eq!(draining.state, InstanceState::Draining);
}

#[test]
fn lists() {
    let data = br#" [{"host":"10.0.0.1","port":80,"weight":20},"10.0.0.2:80",{"host":"x"},7]"#;
    let Ok(Content::List { instances, faults }) = read(Layout::Auto, "orders", data) else {
        panic!("not a list")
    };
    let first = Description {
        weight: Some(20),
        ..plain("10.0.0.1:80", "10.0.0.1:80")
    };
    assert_eq!(instances, [first, plain("10.0.0.2:80", "10.0.0.2:80")]);
    let faults: Vec<_> = faults
        .iter()
        .map(|(index, error)| (*index, error.to_string()))
        .collect();
    assert_eq!(
        faults,
        [
            (2, "no port".to_owned()),
            (3, "the data is not a JSON object or address".to_owned())
        ]
    );
    assert!(read_service_node(Layout::Auto, data).is_some());
    assert!(read_service_node(Layout::Curator, data).is_none());
    assert!(read_service_node(Layout::Auto, b"10.0.0.1").is_none());
}

#[test]
fn nodes_that_are_no_instances() {
    for (name, data, cause) in [
        (
            "x",
            "{}",
            "neither the name nor the data looks like an instance",
        ),
        (
            "x",
            "{",
            "the data is not JSON: EOF while parsing an object at line 1 column 1",
        ),
        ("member_1", "[]", "the data is not a JSON object"),
        (
            "x",
            r#"{"host":"a","port":"x"}"#,
            "port: \"x\" makes no sense",
        ),
        (
            "x",
            r#"{"host":"a","port":1,"weight":-1}"#,
            "weight: \"-1\" makes no sense",
        ),
        ("x", r#"{"host":"a/b","port":1}"#, "\"a/b\" is not a host"),
    ] {
        assert_eq!(error(Layout::Auto, name, data), cause, "{name} {data}");
    }
    let deep = format!("{{\"payload\":{}", "[".repeat(100_000));
    assert!(error(Layout::Auto, "x", &deep).contains("over the limit"));
    let deep = &deep[..1000];
    assert!(error(Layout::Auto, "x", deep).contains("recursion limit exceeded"));
    let long = format!("{}:1", "é".repeat(500));
    assert!(error(Layout::Auto, &long, "").len() < 100);
}

#[test]
fn limits() {
    let many: Vec<String> = (0..1000)
        .map(|key| format!("\"key-{key:04}\":\"v\""))
        .collect();
    let data = format!(
        r#"{{"address":"a","port":1,"payload":{{"metadata":{{{},"a":"{}"}}}}}}"#,
        many.join(","),
        "x".repeat(METADATA_VALUE_BYTES_MAX + 1)
    );
    let description = one(Layout::Curator, "x", &data);
    assert_eq!(description.metadata.len(), METADATA_ENTRIES_MAX);
    assert_eq!(description.metadata.keys().next().unwrap(), "key-0000");
    let list = format!("[{}]", vec!["\"a:1\""; LIST_INSTANCES_MAX + 1].join(","));
    assert!(error(Layout::List, "x", &list).contains("10001 instances"));
    let list = format!("[{}]", " ".repeat(LIST_BYTES_MAX));
    assert!(error(Layout::List, "x", &list).contains("over the limit"));
    let names: Vec<String> = (0..LIST_NAMES_MAX + 2)
        .map(|host| format!("\"h{host}.a:1\""))
        .collect();
    let list = format!("[{},\"10.0.0.1:1\",\"h0.a:2\"]", names.join(","));
    let Ok(Content::List { instances, faults }) = read(Layout::List, "x", list.as_bytes()) else {
        panic!("not a list")
    };
    assert_eq!((instances.len(), faults.len()), (LIST_NAMES_MAX + 2, 2));
    for (text, weight) in [
        ("0", Some(0)),
        ("0.2", Some(1)),
        ("20", Some(20)),
        ("1e9", Some(WEIGHT_MAX)),
        ("-1", None),
        ("NaN", None),
        ("inf", None),
        ("", None),
    ] {
        assert_eq!(json::weight(text), weight, "{text}");
    }
}

/// Real data with some bytes changed, cut or doubled.
fn mangled() -> impl Strategy<Value = Vec<u8>> {
    let real = prop::sample::select(vec![
        CURATOR, SPRING, DUBBO_3, MEMBER, HERTZ, KRATOS, OURS, NERVE, SHEN_YU,
    ]);
    (
        real,
        prop::collection::vec((any::<usize>(), any::<u8>()), 0..6),
        any::<usize>(),
    )
        .prop_map(|(text, changes, cut)| {
            let mut bytes = text.as_bytes().to_vec();
            for (at, byte) in changes {
                let at = at % bytes.len();
                bytes[at] = byte;
            }
            bytes.truncate(1 + cut % (2 * text.len()));
            bytes
        })
}

proptest! {
    #[test]
    fn nothing_panics_and_everything_is_bounded(
        name in prop_oneof![
            "\\PC{0,80}",
            "(dubbo%3A%2F%2F|member_|vector_|base64_[0-9]{1,3}_)[a-zA-Z0-9%_.:-]{0,80}",
            "[0-9a-z.]{0,12}:[0-9]{0,6}(_[0-9]{10})?",
        ],
        data in prop_oneof![mangled(), prop::collection::vec(any::<u8>(), 0..200)],
    ) {
        for layout in Layout::ALL {
            match read(layout, &name, &data) {
                Ok(Content::Instance(description)) => {
                    prop_assert!(description.address.port > 0);
                    prop_assert!(description.metadata.len() <= METADATA_ENTRIES_MAX);
                    prop_assert!(description.weight.is_none_or(|weight| weight <= WEIGHT_MAX));
                    prop_assert_eq!(Address::parse(&description.address.to_string()), Ok(description.address));
                }
                Ok(Content::List { instances, faults }) => {
                    prop_assert!(instances.len() + faults.len() <= LIST_INSTANCES_MAX);
                }
                Ok(Content::Vector(_)) => {}
                Err(error) => prop_assert!(error.to_string().len() < 400),
            }
            drop(read_service_node(layout, &data));
        }
    }
}
