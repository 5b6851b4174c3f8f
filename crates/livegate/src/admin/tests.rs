use std::collections::BTreeMap;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::*;
use crate::config::parse;
use crate::control::Control;

/// An admin side on a port of its own.
struct Side {
    address: SocketAddr,
    admin: Arc<Admin>,
    control: Control,
    /// Ends with the test.
    _serving: JoinSet<io::Result<()>>,
}

async fn start(text: &str, token: Option<&str>) -> Side {
    let events = Events::new(100);
    let control = Control::start(parse(text).unwrap(), 1, events.clone(), None)
        .await
        .unwrap();
    let published = control.published().clone();
    let shared = Arc::new(worker::Shared::new(Arc::clone(&published.gateway), 1, None));
    let token = token.map(|token| Token(token.into()));
    let admin = Arc::new(Admin::new(
        published,
        shared,
        events,
        token,
        CancellationToken::new(),
    ));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut serving = JoinSet::new();
    serving.spawn(serve(
        listener,
        Arc::clone(&admin),
        CancellationToken::new(),
    ));
    Side {
        address,
        admin,
        control,
        _serving: serving,
    }
}

struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Side {
    async fn get(&self, path: &str) -> Reply {
        self.request("GET", path, "").await
    }

    async fn request(&self, method: &str, path: &str, fields: &str) -> Reply {
        self.send(method, path, fields, "").await
    }

    async fn post(&self, path: &str, body: &str) -> Reply {
        self.send("POST", path, "", body).await
    }

    async fn send(&self, method: &str, path: &str, fields: &str, body: &str) -> Reply {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let length = match method {
            "GET" => String::new(),
            _ => format!("content-length: {}\r\n", body.len()),
        };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n{length}{fields}\r\n{body}",
            self.address
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Reply {
            status,
            head: head.to_owned(),
            body: body.to_owned(),
        }
    }

    async fn json(&self, path: &str) -> Value {
        let reply = self.get(path).await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.body);
        serde_json::from_str(&reply.body).unwrap()
    }
}

const LISTED: &str = r#"
    registry.mode = "none"
    services.a.instances = [{ address = "127.0.0.1:1", weight = 20 }, { address = "127.0.0.1:2" }]
    # No probe, no event but those of the tests.
    services.a.health_check.type = "none"
    [[routes]]
    path_regex = '^/\d+"'
    service = "a"
"#;

#[tokio::test]
async fn alive_and_ready() {
    let side = start(LISTED, None).await;
    assert_eq!(side.get("/healthz").await.status, 200);
    assert_eq!(
        side.json("/readyz").await,
        json!({
            "ready": true,
            "reason": null,
            "services": [{ "service": "a", "status": "live", "instances": 2 }],
            "waiting_for": [],
        })
    );
    side.admin.stopping.cancel();
    let reply = side.get("/readyz").await;
    assert_eq!(reply.status, 503);
    assert!(reply.body.contains("shutting_down"));
    assert_eq!(side.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn a_service_that_nothing_is_known_of_is_not_ready() {
    let side = start("[services.b]\n[services.c]\ninstances = []", None).await;
    let reply = side.get("/readyz").await;
    assert_eq!(reply.status, 503);
    let body: Value = serde_json::from_str(&reply.body).unwrap();
    assert_eq!(
        body["waiting_for"],
        json!([{ "service": "b", "status": "pending", "instances": 0 }])
    );
    assert_eq!(body["services"][1]["status"], "live");
}

#[tokio::test]
async fn everything_but_healthz_needs_the_token() {
    let side = start(LISTED, Some("s3cret")).await;
    assert_eq!(side.get("/healthz").await.status, 200);
    for path in [
        "/readyz",
        "/metrics",
        "/api/v1/services",
        "/api/v1/config",
        "/",
        "/nothing",
    ] {
        let reply = side.get(path).await;
        assert_eq!(reply.status, 401, "{path}");
        assert!(
            reply.head.contains("www-authenticate: Bearer"),
            "{}",
            reply.head
        );
    }
    for (fields, status) in [
        ("authorization: Bearer s3cret\r\n", 200),
        ("authorization: bearer s3cret\r\n", 200),
        ("authorization: Bearer s3cre\r\n", 401),
        ("authorization: Bearer s3crets\r\n", 401),
        ("authorization: Bearer S3cret\r\n", 401),
        ("authorization: Bearer \r\n", 401),
        ("authorization: Bearer\r\n", 401),
        ("authorization: Basic s3cret\r\n", 401),
        ("authorization: s3cret\r\n", 401),
    ] {
        assert_eq!(
            side.request("GET", "/readyz", fields).await.status,
            status,
            "{fields}"
        );
    }
}

#[test]
fn a_token_is_the_first_line_of_its_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    assert!(matches!(
        Token::read(&file),
        Err(TokenError::Unreadable { .. })
    ));
    std::fs::write(&file, "  abc \r\nmore\n").unwrap();
    assert_eq!(Token::read(&file).unwrap().0, b"abc");
    std::fs::write(&file, " \nabc").unwrap();
    assert!(matches!(Token::read(&file), Err(TokenError::Empty { .. })));
}

#[tokio::test]
async fn services_with_their_instances() {
    let side = start(LISTED, None).await;
    let json = side.json("/api/v1/services/a").await;
    assert_eq!(json["name"], "a");
    assert_eq!(json["status"], "live");
    assert_eq!(json["revision"], 1);
    let first = &json["instances"][0];
    assert_eq!(first["id"], "127.0.0.1:1");
    assert_eq!(first["address"], "127.0.0.1:1");
    assert_eq!(first["weight"], 20);
    for key in ["in_flight", "requests", "failures"] {
        assert!(first[key].is_u64(), "{key}: {first}");
    }
    assert!(first["state"].is_string() && first["reasons"].is_array());
    assert!(first.as_object().unwrap().contains_key("latency"));
    assert_eq!(
        side.json("/api/v1/services").await["services"][0]["name"],
        "a"
    );
    let reply = side.get("/api/v1/services/b").await;
    assert_eq!(reply.status, 404);
    assert!(
        reply.body.contains("no service \\\"b\\\""),
        "{}",
        reply.body
    );
}

#[tokio::test]
async fn routes_and_configuration() {
    let side = start(LISTED, None).await;
    let json = side.json("/api/v1/routes").await;
    assert_eq!(json["revision"], 1);
    let route = &json["routes"][0];
    assert_eq!(route["label"], "~^/\\d+\"");
    assert_eq!(route["service"], "a");
    assert_eq!(json["routes"][1]["path"], "/a");
    let config = side.json("/api/v1/config").await;
    assert_eq!(config["services"]["a"]["instances"][0]["weight"], 20);
    assert_eq!(config["http"]["idle_timeout"], "75s");
}

#[tokio::test]
async fn events_since_a_number_and_of_a_service() {
    let side = start(LISTED, None).await;
    let base = side.admin.events.last_number();
    side.admin.events.push(
        Some("a".into()),
        Some("127.0.0.1:1".into()),
        "ejected",
        "5 failures",
    );
    side.admin
        .events
        .push(Some("z".into()), None, "live", "listed");
    let json = side
        .json(&format!("/api/v1/events?service=a&since={base}"))
        .await;
    assert_eq!(json["last"], base + 2);
    let [event] = &json["events"].as_array().unwrap()[..] else {
        panic!("{json}")
    };
    assert_eq!(event["number"], base + 1);
    assert_eq!(event["instance"], "127.0.0.1:1");
    assert_eq!(
        (&event["kind"], &event["cause"]),
        (&json!("ejected"), &json!("5 failures"))
    );
    assert!(event["at"].as_str().unwrap().ends_with('Z'));
    assert_eq!(side.get("/api/v1/events?since=x").await.status, 400);
}

#[tokio::test]
async fn unknown_paths_and_methods_are_told_in_json() {
    let side = start(LISTED, None).await;
    let reply = side.get("/api/v2").await;
    assert_eq!(reply.status, 404);
    assert!(serde_json::from_str::<Value>(&reply.body).unwrap()["error"] == "not_found");
    let reply = side.post("/metrics", "").await;
    assert_eq!(reply.status, 405);
    assert!(reply.body.contains("method_not_allowed"));
    let drain = "/api/v1/services/a/instances/127.0.0.1:1/drain";
    assert_eq!(side.get(drain).await.status, 405);
    assert_eq!(
        refused(&side.get("/api/v1/services/%ff").await),
        (400, "bad_request".to_owned())
    );
    assert_eq!(
        refused(&side.get("/api/v1/events?since=x").await),
        (400, "bad_request".to_owned())
    );
    assert_eq!(
        refused(&side.get("/api/v1/events?service=b").await),
        (404, "unknown_service".to_owned())
    );
}

/// Status and reason of an answer that is an error; it must say something to people, too.
fn refused(reply: &Reply) -> (u16, String) {
    let body: Value = serde_json::from_str(&reply.body).expect(&reply.body);
    assert!(
        body["detail"]
            .as_str()
            .is_some_and(|detail| !detail.is_empty())
    );
    (reply.status, body["error"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn the_operator_drains_and_undrains() {
    let side = start(LISTED, None).await;
    let path = |service: &str, id: &str, what: &str| {
        format!("/api/v1/services/{service}/instances/{id}/{what}")
    };
    let reply = side.post(&path("a", "127.0.0.1:1", "drain"), "").await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    assert_eq!(
        serde_json::from_str::<Value>(&reply.body).unwrap(),
        json!({
            "service": "a",
            "instance": "127.0.0.1:1",
            "drained": true,
            "in_flight": 0,
            "idle": true,
        })
    );
    let drained = |json: &Value| json["instances"][0]["state"] == "draining";
    let json = side.json("/api/v1/services/a").await;
    assert!(drained(&json), "{json}");
    let reasons = json["instances"][0]["reasons"].as_array().unwrap().clone();
    assert!(
        reasons.iter().any(|reason| reason["source"] == "operator"),
        "{json}"
    );
    let json = side.json("/api/v1/explain/a?instance=127.0.0.1:1").await;
    let verdict = json["instances"][0]["verdict"].as_str().unwrap();
    assert!(
        verdict.starts_with("not used: drained by the operator since "),
        "{verdict}"
    );
    assert!(
        verdict.ends_with("; until 'livegate undrain a 127.0.0.1:1'"),
        "{verdict}"
    );
    // Percent-encoded it is the same instance.
    let reply = side.post(&path("a", "127.0.0.1%3A1", "undrain"), "").await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    assert!(!drained(&side.json("/api/v1/services/a").await));
    for (service, id, reason) in [
        ("b", "127.0.0.1:1", "unknown_service"),
        ("a", "127.0.0.1:9", "unknown_instance"),
        ("a", "x%2Fy", "unknown_instance"),
    ] {
        let reply = side.post(&path(service, id, "drain"), "").await;
        assert_eq!(refused(&reply), (404, reason.to_owned()));
        assert!(
            reply.body.contains(&id.replace("%2F", "/")) || service == "b",
            "{}",
            reply.body
        );
    }
}

#[tokio::test]
async fn foreign_pages_operate_nothing() {
    let side = start(LISTED, None).await;
    for path in [
        "/api/v1/services/a/instances/127.0.0.1:1/drain",
        "/api/v1/services/a/instances/127.0.0.1:1/undrain",
        "/api/v1/config/check",
    ] {
        let own = format!("origin: http://{}\r\n", side.address);
        assert_ne!(side.send("POST", path, &own, "").await.status, 403);
        let foreign = "origin: https://evil.example\r\n";
        let reply = side.send("POST", path, foreign, "").await;
        assert_eq!(refused(&reply), (403, "foreign_origin".to_owned()));
    }
}

#[tokio::test]
async fn a_configuration_is_checked_and_not_applied() {
    let side = start(LISTED, None).await;
    let reply = side.post("/api/v1/config/check", "[services.b]\n").await;
    assert_eq!(reply.status, 200);
    assert_eq!(
        serde_json::from_str::<Value>(&reply.body).unwrap(),
        json!({ "ok": true, "services": 1, "routes": 0, "notes": [] })
    );
    let reply = side
        .post("/api/v1/config/check", "[http]\nworkers = 0\nx = 1\n")
        .await;
    assert_eq!(refused(&reply), (422, "bad_configuration".to_owned()));
    let body: Value = serde_json::from_str(&reply.body).unwrap();
    assert_eq!(
        body["errors"][0],
        json!({
            "line": 2,
            "column": 11,
            "key": "http.workers",
            "message": "0 is out of range, 1 to 1024",
        })
    );
    assert_eq!(body["errors"][1]["line"], 3);
    let large = "#".repeat((1 << 20) + 1);
    let reply = side.post("/api/v1/config/check", &large).await;
    assert_eq!(refused(&reply), (413, "body_too_large".to_owned()));
    assert_eq!(side.get("/api/v1/services/b").await.status, 404);
}

#[tokio::test]
async fn instances_are_explained() {
    let side = start(LISTED, None).await;
    side.admin.events.push(
        Some("a".into()),
        Some("127.0.0.9:9".into()),
        "left",
        "no longer listed",
    );
    let json = side.json("/api/v1/explain/a").await;
    assert_eq!(
        (&json["service"], &json["status"]),
        (&json!("a"), &json!("live"))
    );
    assert!(
        json["summary"]
            .as_str()
            .unwrap()
            .contains("of 2 instances used"),
        "{json}"
    );
    let [first, second] = &json["instances"].as_array().unwrap()[..] else {
        panic!("{json}")
    };
    assert_eq!(second["id"], "127.0.0.1:2");
    for witness in ["registry", "probes", "traffic", "operator"] {
        let witness = &first[witness];
        assert!(witness["says"].is_string(), "{first}");
        assert!(
            witness.as_object().unwrap().contains_key("since"),
            "{first}"
        );
    }
    assert_eq!(first["registry"]["source"], "file");
    assert!(first["registry"]["since"].as_str().unwrap().ends_with('Z'));
    assert_eq!(first["traffic"]["in_flight"], 0);
    assert_eq!(first["transitions"][0]["kind"], "joined");
    let json = side.json("/api/v1/explain/a?instance=127.0.0.9:9").await;
    assert_eq!(json["instances"][0]["state"], "gone");
    assert_eq!(json["instances"][0]["used"], false);
    let verdict = json["instances"][0]["verdict"].as_str().unwrap();
    assert!(verdict.ends_with(": left: no longer listed"), "{verdict}");
    let reply = side.get("/api/v1/explain/a?instance=127.0.0.1:3").await;
    assert_eq!(refused(&reply), (404, "unknown_instance".to_owned()));
    assert!(
        reply.body.contains("the nearest names are"),
        "{}",
        reply.body
    );
    assert_eq!(side.get("/api/v1/explain/b").await.status, 404);
}

/// Reads a stream until `enough` says so.
async fn read_stream(side: &Side, query: &str, fields: &str, enough: fn(&str) -> bool) -> String {
    let mut stream = TcpStream::connect(side.address).await.unwrap();
    let request = format!("GET /api/v1/events/stream{query} HTTP/1.1\r\nhost: a\r\n{fields}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    while !enough(&text) {
        let mut buffer = [0; 4096];
        let read = stream.read(&mut buffer);
        let count = tokio::time::timeout(Duration::from_secs(20), read).await;
        let count = count.expect("in time").unwrap();
        assert!(count > 0, "the stream ended: {text}");
        text.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
    }
    text
}

#[tokio::test]
async fn events_are_streamed_from_where_a_reader_left_off() {
    let side = start(LISTED, None).await;
    let base = side.admin.events.last_number();
    let push = |service: &str, cause: &str| {
        side.admin
            .events
            .push(Some(service.into()), None, "live", cause);
    };
    push("a", "first");
    push("z", "other");
    push("a", "second");
    let since = format!("?service=a&since={base}");
    let text = read_stream(&side, &since, "", |text| text.contains("second")).await;
    assert!(text.contains("content-type: text/event-stream"), "{text}");
    assert!(
        text.contains(&format!("id: {}-{}\n", base + 1, side.admin.events.epoch())),
        "{text}"
    );
    assert!(!text.contains("other"), "{text}");
    let field = format!("last-event-id: {}\r\n", base + 1);
    let text = read_stream(&side, &since, &field, |text| text.contains("second")).await;
    assert!(!text.contains("first") && !text.contains("other"), "{text}");
    let text = read_stream(&side, "", "last-event-id: 999999\r\n", |text| {
        text.contains("second")
    })
    .await;
    assert!(
        text.contains("event: restarted\n") && text.contains("first"),
        "{text}"
    );
    let reply = side
        .request("GET", "/api/v1/events/stream", "last-event-id: x\r\n")
        .await;
    assert_eq!(refused(&reply), (400, "bad_request".to_owned()));
}

#[tokio::test]
async fn streams_are_bounded_and_end_with_the_gateway() {
    let side = start(LISTED, None).await;
    let mut streams = Vec::new();
    for _ in 0..STREAMS_MAX {
        let mut stream = TcpStream::connect(side.address).await.unwrap();
        let request = "GET /api/v1/events/stream HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut buffer = [0; 1024];
        assert!(stream.read(&mut buffer).await.unwrap() > 0);
        streams.push(stream);
    }
    let reply = side.get("/api/v1/events/stream").await;
    assert_eq!(refused(&reply), (503, "too_many_streams".to_owned()));
    side.admin.stopping.cancel();
    for mut stream in streams {
        let mut rest = Vec::new();
        let read = stream.read_to_end(&mut rest);
        tokio::time::timeout(Duration::from_secs(20), read)
            .await
            .expect("it ends")
            .unwrap();
    }
    let reply = side.get("/api/v1/events/stream").await;
    assert_eq!(refused(&reply), (503, "shutting_down".to_owned()));
}

#[tokio::test]
async fn contact_with_the_registry_is_measured_when_there_is_one() {
    let side = start("[services.b]\n[services.c]\ninstances = []", None).await;
    let none = side.get("/metrics").await.body;
    assert!(!none.contains("livegate_registry_"), "{none}");
    let page = |connected| {
        let facts = RegistryFacts {
            connected: Some(connected),
            reads: 7,
        };
        let gateway = side.control.published().gateway.load();
        prometheus::render(&side.admin.shared, &gateway, facts, 0.0)
    };
    assert!(page(true).contains("\nlivegate_registry_connected 1\n"));
    let page = page(false);
    assert!(page.contains("\nlivegate_registry_connected 0\n"), "{page}");
    assert!(
        page.contains("\nlivegate_registry_reads_total 7\n"),
        "{page}"
    );
    // Nothing is known of b yet, and c is listed.
    assert!(!page.contains("registry_snapshot_age_seconds{"), "{page}");
    drop(families(&page));
}

/// Reads the page as Prometheus does: a family's HELP and TYPE, then all of its samples.
fn families(page: &str) -> BTreeMap<String, (String, Vec<(String, f64)>)> {
    let mut families: BTreeMap<String, (String, Vec<(String, f64)>)> = BTreeMap::new();
    let mut present = String::new();
    for line in page.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, text) = help.split_once(' ').unwrap();
            assert!(!text.is_empty() && !families.contains_key(name), "{line}");
            present = name.to_owned();
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert_eq!(name, present);
            families.insert(present.clone(), (kind.to_owned(), Vec::new()));
        } else {
            let (sample, value) = line.rsplit_once(' ').unwrap();
            let name = sample.split('{').next().unwrap();
            let suffix = name
                .strip_prefix(&present)
                .unwrap_or_else(|| panic!("{line}"));
            let (kind, samples) = families.get_mut(&present).unwrap();
            let suffixes: &[&str] = match kind.as_str() {
                "histogram" => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            assert!(suffixes.contains(&suffix), "{line}");
            samples.push((sample.to_owned(), value.parse().unwrap()));
        }
    }
    families
}

#[tokio::test]
async fn metrics_are_well_formed_and_count() {
    let side = start(LISTED, None).await;
    let gateway = side.control.published().gateway.load_full();
    gateway.routes.routes()[0].metrics.count(0, 200);
    gateway.routes.routes()[0].metrics.count(0, 200);
    side.admin.shared.unrouted.count(0, 404);
    gateway.clusters[0]
        .metrics
        .observe_duration(0, Duration::from_millis(700));
    gateway.clusters[0]
        .metrics
        .observe_duration(0, Duration::from_millis(100_000));
    let reply = side.get("/metrics").await;
    assert!(
        reply
            .head
            .contains("content-type: text/plain; version=0.0.4"),
        "{}",
        reply.head
    );
    let families = families(&reply.body);
    let value = |sample: &str| {
        let name = sample.split('{').next().unwrap();
        let family = name.trim_end_matches("_bucket").trim_end_matches("_sum");
        let family = &families[family.strip_suffix("_count").unwrap_or(family)];
        let found = family.1.iter().find(|(known, _)| known == sample);
        found
            .unwrap_or_else(|| panic!("{sample} in {}", reply.body))
            .1
    };
    for (sample, expected) in [
        (
            r#"livegate_requests_total{route="~^/\\d+\"",service="a",code="200"}"#,
            2.0,
        ),
        (
            r#"livegate_requests_total{route="",service="",code="404"}"#,
            1.0,
        ),
        (
            r#"livegate_request_duration_seconds_bucket{service="a",le="0.5"}"#,
            0.0,
        ),
        (
            r#"livegate_request_duration_seconds_bucket{service="a",le="1"}"#,
            1.0,
        ),
        (
            r#"livegate_request_duration_seconds_bucket{service="a",le="30"}"#,
            1.0,
        ),
        (
            r#"livegate_request_duration_seconds_bucket{service="a",le="+Inf"}"#,
            2.0,
        ),
        (
            r#"livegate_request_duration_seconds_sum{service="a"}"#,
            100.7,
        ),
        (
            r#"livegate_request_duration_seconds_count{service="a"}"#,
            2.0,
        ),
        (
            r#"livegate_upstream_attempts_total{service="a",outcome="answered"}"#,
            0.0,
        ),
        (r#"livegate_retries_total{service="a",reason="reset"}"#, 0.0),
        (r#"livegate_endpoints{service="a",state="held"}"#, 0.0),
        (r#"livegate_connections{side="downstream"}"#, 0.0),
        (r#"livegate_connections{side="upstream"}"#, 0.0),
        ("livegate_workers_busy_ratio", 0.0),
    ] {
        let seen = value(sample);
        assert!((seen - expected).abs() < 1e-9, "{sample}: {seen}");
    }
    let states: f64 = families["livegate_endpoints"]
        .1
        .iter()
        .map(|(_, count)| count)
        .sum();
    assert!((states - 2.0).abs() < 1e-9);
}

#[test]
fn busy_workers_are_measured_between_looks() {
    let start = Instant::now();
    let mut busy = Busy::new();
    busy.looked = start;
    let at = |seconds: u64| start + Duration::from_secs(seconds);
    let close = |ratio: f64, expected: f64| assert!((ratio - expected).abs() < 1e-9, "{ratio}");
    close(busy.ratio(at(10), Duration::from_secs(5), 2), 0.25);
    close(busy.ratio(at(10), Duration::from_secs(9), 2), 0.25);
    close(busy.ratio(at(20), Duration::from_secs(25), 2), 1.0);
    close(busy.ratio(at(30), Duration::from_secs(25), 2), 0.0);
}
