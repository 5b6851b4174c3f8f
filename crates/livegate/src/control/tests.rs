use std::time::{Duration, Instant};

use livegate_discovery::{NoEndpoint, Outcome, Status};

use super::*;
use crate::config::parse;
use crate::route::{Action, Route, RouteRequest};

const TWO: &str = r#"
    registry.mode = "none"
    services.a.instances = [{ address = "127.0.0.1:1001" }, { address = "127.0.0.1:1002" }]
    services.b.instances = [{ address = "127.0.0.1:2001" }]
    [[routes]]
    path = "/"
    service = "a"
    [[routes]]
    path = "/denied"
    status = 403
"#;

async fn start(text: &str) -> Control {
    Control::start(parse(text).unwrap(), 1, Events::new(100), None)
        .await
        .unwrap()
}

async fn apply(control: &mut Control, text: &str) {
    control.apply(parse(text).unwrap(), "test").await.unwrap();
}

impl Control {
    fn gateway(&self) -> Arc<Gateway> {
        self.published.gateway.load_full()
    }

    fn cluster(&self, name: &str) -> Arc<Cluster> {
        let gateway = self.gateway();
        Arc::clone(
            gateway
                .clusters
                .iter()
                .find(|cluster| &*cluster.name == name)
                .unwrap(),
        )
    }

    fn find(&self, path: &str) -> Option<Arc<Route>> {
        let gateway = self.gateway();
        let request = RouteRequest {
            host: b"",
            path: path.as_bytes(),
            method: b"GET",
            header: &|_| None,
        };
        gateway.routes.find(&request).cloned()
    }
}

fn ids(cluster: &Cluster) -> Vec<String> {
    let view = cluster.balancer.view();
    view.members()
        .iter()
        .map(|member| member.instance.id.to_string())
        .collect()
}

#[tokio::test]
async fn listed_services_can_be_used_at_once() {
    let control = start(TWO).await;
    assert_eq!(control.gateway().revision, 1);
    let cluster = control.cluster("a");
    assert_eq!(cluster.balancer.view().status(), Status::Live);
    assert_eq!(ids(&cluster), ["127.0.0.1:1001", "127.0.0.1:1002"]);
    assert!(cluster.balancer.pick(None, &[], Instant::now()).is_ok());
}

#[tokio::test]
async fn registered_services_are_pending() {
    let control = start("[services.a]").await;
    let pick = control
        .cluster("a")
        .balancer
        .pick(None, &[], Instant::now());
    assert!(matches!(pick, Err(NoEndpoint::Pending)));
}

#[tokio::test]
async fn services_answer_under_their_names_unless_a_route_takes_the_path() {
    let control = start(&format!("{TWO}\n[[routes]]\npath = \"/b\"\nstatus = 404")).await;
    let labels: Vec<String> = control
        .gateway()
        .routes
        .routes()
        .iter()
        .map(|route| route.label.to_string())
        .collect();
    assert_eq!(labels, ["/", "/denied", "/b", "/a"]);
    let auto = control.find("/a/x").unwrap();
    assert_eq!((auto.service(), auto.strip_segments), (Some("a"), 1));
    assert!(matches!(
        control.find("/b/x").unwrap().action,
        Action::Status(404)
    ));
    assert!(matches!(
        control.find("/denied/x").unwrap().action,
        Action::Status(403)
    ));
    let listed = control.find("/x").unwrap();
    assert_eq!((listed.service(), listed.strip_segments), (Some("a"), 0));

    let control = start(&format!("discovery.auto_routes = false\n{TWO}")).await;
    assert_eq!(control.gateway().routes.routes().len(), 2);
}

#[tokio::test]
async fn what_does_not_change_keeps_its_state() {
    let mut control = start(TWO).await;
    let (a, b) = (control.cluster("a"), control.cluster("b"));
    let route = control.find("/x").unwrap();
    route.metrics.count(0, 200);
    apply(&mut control, &TWO.replace("1002", "1003")).await;
    assert!(Arc::ptr_eq(&b, &control.cluster("b")));
    assert!(Arc::ptr_eq(&a.metrics, &control.cluster("a").metrics));
    assert_eq!(ids(&a), ["127.0.0.1:1001", "127.0.0.1:1003"]);
    let again = control.find("/x").unwrap();
    assert_eq!(again.metrics.totals(), [(200, 1)]);
    assert_eq!(control.gateway().revision, 2);
}

#[tokio::test]
async fn a_changed_policy_keeps_endpoints_and_counters() {
    let mut control = start(TWO).await;
    let before = control.cluster("a");
    let pick = before.balancer.pick(None, &[], Instant::now()).unwrap();
    pick.finish(Outcome::Refused, Instant::now());
    apply(
        &mut control,
        &format!("services.a.balance = \"random\"\n{TWO}"),
    )
    .await;
    let after = control.cluster("a");
    assert_eq!(after.config.balance.name(), "random");
    assert!(Arc::ptr_eq(&before.metrics, &after.metrics));
    let requests: u64 = after
        .balancer
        .view()
        .members()
        .iter()
        .map(|m| m.requests())
        .sum();
    assert_eq!(requests, 1);
}

#[tokio::test]
async fn services_come_and_go() {
    let mut control = start(TWO).await;
    let text =
        "registry.mode = \"none\"\nservices.c.instances = [{ address = \"127.0.0.1:3001\" }]";
    apply(&mut control, text).await;
    let names: Vec<String> = control
        .gateway()
        .clusters
        .iter()
        .map(|cluster| cluster.name.to_string())
        .collect();
    assert_eq!(names, ["c"]);
    assert_eq!(control.find("/c").unwrap().service(), Some("c"));
    assert!(control.find("/x").is_none());
    let events = control.events.since(0, None);
    let applied = events
        .iter()
        .find(|event| event.kind == "config_applied")
        .unwrap();
    assert_eq!(
        applied.cause,
        "test: services added: c; services removed: a, b; routes changed: 0 listed"
    );
}

#[tokio::test]
async fn a_name_without_an_address_changes_nothing() {
    let mut control = start(TWO).await;
    let before = control.gateway();
    let text = TWO
        .replace("127.0.0.1:2001", "nowhere.invalid:1")
        .replace("403", "404");
    let errors = control
        .apply(parse(&text).unwrap(), "test")
        .await
        .unwrap_err();
    assert!(errors[0].starts_with("services.b.instances[0].address: "));
    assert!(Arc::ptr_eq(&before, &control.gateway()));
    assert_eq!(ids(&control.cluster("b")), ["127.0.0.1:2001"]);
}

#[tokio::test]
async fn what_needs_a_restart_stays_and_the_rest_applies() {
    let mut control = start(TWO).await;
    let text = format!(
        "http.listen = [\"127.0.0.1:1\"]\nhttp.workers = 7\nhttp.idle_timeout = \"7s\"\nadmin.listen = \"127.0.0.1:2\"\n{TWO}"
    );
    let workers = control.published.config.load().http.workers;
    apply(&mut control, &text).await;
    let config = control.published.config.load_full();
    assert_eq!(config.http.listen, Config::default().http.listen);
    assert_eq!(config.http.workers, workers);
    assert_eq!(config.admin, Config::default().admin);
    assert_eq!(control.gateway().http.idle_timeout, Duration::from_secs(7));
}

#[test]
fn the_keys_that_need_a_restart_are_named() {
    let before = Config::default();
    let text = "http.listen = [\"127.0.0.1:1\"]\nregistry.hosts = \"127.0.0.1:3\"\nhttp.access_log = \"stdout\"";
    let mut config = parse(text).unwrap();
    let keys = keep_what_needs_a_restart(&mut config, &before);
    assert_eq!(keys, ["http.listen", "http.access_log", "[registry]"]);
    assert_eq!(config, before);
}

#[tokio::test]
async fn routes_with_equal_labels_are_numbered() {
    let route = |value: &str| {
        format!("[[routes]]\npath = \"/\"\nstatus = 404\nheaders = {{ x = \"{value}\" }}\n")
    };
    let control = start(&(route("1") + &route("2") + &route("3"))).await;
    let labels: Vec<String> = control
        .gateway()
        .routes
        .routes()
        .iter()
        .map(|route| route.label.to_string())
        .collect();
    assert_eq!(labels, ["/ x", "/ x #2", "/ x #3"]);
}
