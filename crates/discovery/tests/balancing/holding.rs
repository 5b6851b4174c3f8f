//! What the registry no longer names: gone, or held.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use livegate_discovery::{
    Balance, Doubt, EndpointState, Health, HoldPolicy, Incarnation, Instance, InstanceId,
    InstanceState, NoEndpoint, Outcome, Policy, Snapshot, Status,
};

use crate::fixture::{Service, answered, instance, kinds};

const SECOND: Duration = Duration::from_secs(1);
const GRACE: Duration = Duration::from_secs(60);
const TEN: [&str; 10] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];

fn registered(name: &str, czxid: i64) -> Instance {
    Instance {
        incarnation: Incarnation { czxid, ctime_ms: 1 },
        ..instance(name, 1)
    }
}

fn list(names: &[&str]) -> Vec<Instance> {
    names.iter().map(|name| registered(name, 1)).collect()
}

/// A service that the registry names these for, contact with it being healthy.
fn service(names: &[&str]) -> Service {
    let mut service = Service::with_policy(Policy::default(), &[]);
    service.publish_from(Status::Pending, 0, vec![]);
    service.publish_from(Status::Live, 1, list(names));
    service
}

fn lost() -> Status {
    Status::Stale {
        since: SystemTime::now(),
    }
}

fn states(service: &Service, names: &[&str]) -> Vec<EndpointState> {
    names.iter().map(|name| service.state(name)).collect()
}

fn members(service: &Service) -> Vec<String> {
    let view = service.balancer.view();
    let ids = view
        .members()
        .iter()
        .map(|member| member.instance.id.to_string());
    ids.collect()
}

#[test]
fn one_that_leaves_alone_leaves_at_once() {
    let mut service = service(&["a", "b", "c"]);
    let endpoint = service.endpoint("a");
    let pick = (0..10).find_map(|_| {
        let pick = service.balancer.pick(None, &[], service.now).unwrap();
        (pick.endpoint().key() == endpoint.key()).then_some(pick)
    });
    let transitions = service.publish_from(Status::Live, 1, list(&["b", "c"]));
    assert_eq!(kinds(&transitions), [("a", "left")]);
    assert_eq!(transitions[0].cause, "no longer listed, 1 in flight");
    assert!(!service.is_picked("a") && endpoint.is_gone());
    pick.unwrap().finish(answered(200, 1), service.now);
    assert_eq!(endpoint.failures(), 0);
    // Another one a while later is alone again: one of two is not more than half.
    service.wait(2 * SECOND);
    let transitions = service.publish_from(Status::Live, 1, list(&["c"]));
    assert_eq!(kinds(&transitions), [("b", "left")]);
    // The last one is all there is.
    service.wait(2 * SECOND);
    let transitions = service.publish_from(Status::Absent, 1, vec![]);
    assert_eq!(kinds(&transitions), [("c", "held")]);
    assert_eq!(
        transitions[0].cause,
        "1 of 1 left within a second; kept while it accepts connections"
    );
    assert!(service.is_picked("c"));
}

#[test]
fn a_crowd_is_held_in_rotation_and_says_why() {
    let mut service = service(&TEN);
    service.wait(SECOND);
    let endpoint = service.endpoint("f");
    let transitions = service.publish_from(Status::Live, 1, list(&TEN[..4]));
    assert_eq!(
        kinds(&transitions),
        ["e", "f", "g", "h", "i", "j"].map(|name| (name, "held"))
    );
    assert_eq!(
        states(&service, &["a", "f"]),
        [EndpointState::Fit, EndpointState::Held]
    );
    assert!(service.is_picked("f") && !endpoint.is_unfit() && !endpoint.is_gone());
    let view = service.balancer.view();
    let member = &view.members()[5];
    let reason = &member.reasons[0];
    assert_eq!(&*reason.text, "6 of 10 left within a second");
    assert_eq!(reason.since, service.now);
    assert_eq!(service.updater.doubts().count(), 6);
    assert!(
        service
            .updater
            .doubts()
            .all(|(_, doubt)| doubt == Doubt::Held)
    );
    assert!(Arc::ptr_eq(&endpoint, &service.endpoint("f")));
}

#[test]
fn half_is_no_crowd() {
    let mut service = service(&TEN);
    let transitions = service.publish_from(Status::Live, 1, list(&TEN[..5]));
    assert!(
        transitions
            .iter()
            .all(|transition| transition.kind == "left")
    );
    assert_eq!(members(&service), &TEN[..5]);
}

/// However finely the watcher cuts a mass removal, the result is the same.
#[test]
fn a_burst_of_single_removals_is_a_crowd() {
    let mut service = service(&TEN);
    let endpoints: Vec<_> = TEN.iter().map(|name| service.endpoint(name)).collect();
    for left in 1..=10 {
        service.wait(Duration::from_millis(90));
        let transitions = service.publish_from(Status::Live, 1, list(&TEN[left..]));
        let kinds = kinds(&transitions);
        let name = TEN[left - 1];
        match left {
            1..=5 => assert_eq!(kinds, [(name, "left")]),
            // The five that left before were part of it.
            6 => assert_eq!(
                kinds,
                ["f", "a", "b", "c", "d", "e"].map(|name| (name, "held"))
            ),
            _ => assert_eq!(kinds, [(name, "held")]),
        }
    }
    assert_eq!(members(&service), TEN);
    for (name, endpoint) in TEN.iter().zip(endpoints) {
        assert!(service.is_picked(name) && !endpoint.is_gone());
        assert!(Arc::ptr_eq(&endpoint, &service.endpoint(name)));
    }
}

#[test]
fn a_slow_scaling_down_is_no_crowd() {
    let mut service = service(&TEN);
    for left in 1..=8 {
        service.wait(SECOND + Duration::from_millis(1));
        let transitions = service.publish_from(Status::Live, 1, list(&TEN[left..]));
        assert_eq!(kinds(&transitions), [(TEN[left - 1], "left")]);
    }
}

/// All are replaced within one snapshot: those that come take the traffic.
#[test]
fn a_swap_is_no_crowd() {
    let mut service = service(&["a", "b"]);
    let transitions = service.publish_from(Status::Live, 1, list(&["c", "d"]));
    let expected = [
        ("c", "joined"),
        ("d", "joined"),
        ("a", "left"),
        ("b", "left"),
    ];
    assert_eq!(kinds(&transitions), expected);
}

#[test]
fn those_that_said_goodbye_are_not_held() {
    let mut service = service(&["a", "b", "c", "d"]);
    let draining = |name| Instance {
        state: InstanceState::Draining,
        ..registered(name, 1)
    };
    service.publish_from(
        Status::Live,
        1,
        vec![
            draining("a"),
            draining("b"),
            draining("c"),
            registered("d", 1),
        ],
    );
    let transitions = service.publish_from(Status::Live, 1, list(&["d"]));
    assert_eq!(
        kinds(&transitions),
        ["a", "b", "c"].map(|name| (name, "left"))
    );
    // And they do not count when one leaves that did not.
    service.publish_from(Status::Live, 1, list(&["d", "e"]));
    let transitions = service.publish_from(Status::Live, 1, list(&["e"]));
    assert_eq!(kinds(&transitions), [("d", "left")]);
}

#[test]
fn losing_contact_removes_nothing_and_regaining_it_is_not_believed_at_once() {
    let mut service = service(&TEN);
    let stale = lost();
    assert_eq!(service.publish_from(stale, 1, list(&TEN)), []);
    service.wait(600 * SECOND);
    assert_eq!(
        service.publish_from(Status::Live, 2, list(&TEN[1..])).len(),
        1
    );
    assert_eq!(service.state("a"), EndpointState::Held);
    let view = service.balancer.view();
    let text = &view.members()[0].reasons[0].text;
    assert_eq!(
        &**text,
        "no longer listed 0.0 s after contact with the registry was regained"
    );
    // Also later within the grace, alone.
    service.wait(59 * SECOND);
    service
        .updater
        .connected(&service.endpoint("a"), service.now);
    let transitions = service.publish_from(Status::Live, 2, list(&TEN[2..]));
    assert_eq!(kinds(&transitions), [("b", "held")]);
    // After it, one that leaves alone has left.
    service.wait(2 * SECOND);
    let transitions = service.publish_from(Status::Live, 2, list(&TEN[3..]));
    assert_eq!(kinds(&transitions), [("c", "left")]);
}

#[test]
fn an_outage_that_nobody_told_of_shows_in_the_attachment() {
    let mut service = service(&["a", "b", "c"]);
    let transitions = service.publish_from(Status::Live, 2, list(&["b", "c"]));
    assert_eq!(kinds(&transitions), [("a", "held")]);
}

#[test]
fn the_first_contact_is_no_regained_one() {
    let mut service = Service::with_policy(Policy::default(), &[]);
    service.publish_from(Status::Pending, 0, vec![]);
    service.publish_from(Status::Live, 7, list(&["a", "b", "c"]));
    let transitions = service.publish_from(Status::Live, 7, list(&["b", "c"]));
    assert_eq!(kinds(&transitions), [("a", "left")]);
    // But it is for a list from disk.
    let mut service = Service::with_policy(Policy::default(), &[]);
    let stale = lost();
    service.publish_from(stale, 0, list(&["a", "b", "c"]));
    let transitions = service.publish_from(Status::Live, 1, list(&["b", "c"]));
    assert_eq!(kinds(&transitions), [("a", "held")]);
}

#[test]
fn without_contact_nothing_is_believed() {
    let mut service = service(&["a", "b", "c"]);
    let stale = lost();
    let transitions = service.publish_from(stale, 1, list(&["b", "c"]));
    assert_eq!(kinds(&transitions), [("a", "held")]);
    service.wait(10 * GRACE);
    service.publish_from(Status::Pending, 1, vec![]);
    service.wait(10 * GRACE);
    assert_eq!(members(&service), ["a", "b", "c"]);
}

#[test]
fn a_hold_ends_with_the_grace_if_the_registry_can_be_asked() {
    let mut service = service(&["a", "b"]);
    service.publish_from(Status::Absent, 1, vec![]);
    for _ in 0..59 {
        service.wait(SECOND);
        for name in ["a", "b"] {
            service
                .updater
                .connected(&service.endpoint(name), service.now);
        }
    }
    assert_eq!(states(&service, &["a", "b"]), [EndpointState::Held; 2]);
    assert!(service.balancer.pick(None, &[], service.now).is_ok());
    let transitions = service.wait(SECOND);
    assert_eq!(
        kinds(&transitions),
        [
            ("a", "hold_over"),
            ("a", "left"),
            ("b", "hold_over"),
            ("b", "left")
        ]
    );
    assert_eq!(
        transitions[0].cause,
        "the registry can be asked and has not named it for 60s"
    );
    assert_eq!(
        service.why_none(),
        NoEndpoint::Absent,
        "the operator can empty a service"
    );
}

#[test]
fn the_grace_starts_anew_when_contact_is_lost_meanwhile() {
    let mut service = service(&["a", "b"]);
    service.publish_from(Status::Live, 1, vec![]);
    service.wait(59 * SECOND);
    let stale = lost();
    service.publish_from(stale, 1, vec![]);
    assert_eq!(service.wait(10 * GRACE), [], "nobody can be asked");
    service.publish_from(Status::Live, 2, vec![]);
    assert_eq!(service.wait(GRACE - SECOND), []);
    assert_eq!(states(&service, &["a", "b"]), [EndpointState::Held; 2]);
    assert_eq!(service.wait(SECOND).len(), 4);
    assert_eq!(service.why_none(), NoEndpoint::Empty);
}

#[test]
fn a_refused_probe_ends_it_at_once_and_a_request_is_a_probe() {
    let mut service = service(&["a", "b", "c"]);
    service.publish_from(Status::Live, 1, vec![]);
    let endpoint = service.endpoint("a");
    let refusal = "Connection refused (os error 111)";
    let transitions = service.updater.refused(&endpoint, refusal, service.now);
    assert_eq!(
        kinds(&transitions),
        [("a", "quarantined"), ("a", "hold_over"), ("a", "left")]
    );
    assert_eq!(transitions[1].cause, refusal);
    assert!(endpoint.is_gone());
    service.end_with("b", Outcome::Refused);
    assert!(!service.is_picked("b"));
    let transitions = service.wait(Duration::ZERO);
    assert_eq!(
        kinds(&transitions),
        [("b", "quarantined"), ("b", "hold_over"), ("b", "left")]
    );
    assert_eq!(members(&service), ["c"]);
    // A reset is no proof; whoever listens then is asked.
    service.end_with("c", Outcome::Reset);
    service.wait(Duration::ZERO);
    assert_eq!(service.state("c"), EndpointState::Quarantined);
    let endpoint = service.endpoint("c");
    service.updater.connected(&endpoint, service.now);
    assert_eq!(service.state("c"), EndpointState::Held);
    // Even the last one, if it is known to be gone.
    service.updater.refused(&endpoint, refusal, service.now);
    assert_eq!(service.why_none(), NoEndpoint::Empty);
}

#[test]
fn those_known_to_be_gone_are_not_held_in_the_first_place() {
    let mut service = service(&["a", "b", "c"]);
    let endpoint = service.endpoint("a");
    service
        .updater
        .refused(&endpoint, "connection refused", service.now);
    let cause = "status 500".to_owned();
    let endpoint = service.endpoint("b");
    service
        .updater
        .set_health(&endpoint, Health::Failing { cause }, service.now);
    let transitions = service.publish_from(Status::Live, 1, vec![]);
    assert_eq!(
        kinds(&transitions),
        [("a", "left"), ("b", "left"), ("c", "held")]
    );
    assert_eq!(
        transitions[1].cause,
        "no longer listed (status 500), 0 in flight"
    );
}

#[test]
fn the_last_fit_one_is_not_let_go_on_the_registrys_word() {
    let mut service = service(&["a", "b"]);
    let endpoint = service.endpoint("a");
    service
        .updater
        .refused(&endpoint, "connection refused", service.now);
    let transitions = service.publish_from(Status::Live, 1, list(&["a"]));
    assert_eq!(kinds(&transitions), [("b", "held")]);
    assert_eq!(
        transitions[0].cause,
        "1 of 1 left within a second; kept while it accepts connections"
    );
}

#[test]
fn timeouts_end_it_after_fall() {
    let hold = HoldPolicy {
        fall: 3,
        ..HoldPolicy::default()
    };
    let mut service = service(&["a", "b"]);
    service.updater.set_policy(
        Policy {
            hold,
            ..Policy::default()
        },
        service.now,
    );
    let endpoint = service.endpoint("a");
    for _ in 0..9 {
        service.updater.unanswered(&endpoint, service.now);
    }
    assert_eq!(service.state("a"), EndpointState::Fit, "it is not held");
    service.publish_from(Status::Live, 1, vec![]);
    for _ in 0..2 {
        assert_eq!(service.updater.unanswered(&endpoint, service.now), []);
    }
    service.updater.connected(&endpoint, service.now);
    for _ in 0..2 {
        assert_eq!(service.updater.unanswered(&endpoint, service.now), []);
    }
    let transitions = service.updater.unanswered(&endpoint, service.now);
    assert_eq!(kinds(&transitions), [("a", "hold_over"), ("a", "left")]);
    assert_eq!(transitions[0].cause, "3 probes in a row timed out");
    assert_eq!(members(&service), ["b"]);
}

#[test]
fn so_does_a_health_check_that_fails() {
    let mut service = service(&["a", "b"]);
    service.publish_from(Status::Live, 1, vec![]);
    let (endpoint, cause) = (service.endpoint("a"), "health check: status 503".to_owned());
    let transitions = service
        .updater
        .set_health(&endpoint, Health::Failing { cause }, service.now);
    assert_eq!(
        kinds(&transitions),
        [("a", "unhealthy"), ("a", "hold_over"), ("a", "left")]
    );
}

#[test]
fn the_operator_ends_it() {
    let mut service = service(&["a", "b", "c"]);
    service.publish_from(Status::Live, 1, vec![]);
    let id = InstanceId::from;
    let transitions = service.updater.drop_held(&id("a"), service.now).unwrap();
    assert_eq!(kinds(&transitions), [("a", "hold_over"), ("a", "left")]);
    assert!(service.updater.drop_held(&id("a"), service.now).is_err());
    let transitions = service
        .updater
        .set_drained(&id("b"), true, service.now)
        .unwrap();
    let expected = [
        ("b", "drained"),
        ("b", "idle"),
        ("b", "hold_over"),
        ("b", "left"),
    ];
    assert_eq!(kinds(&transitions), expected);
    // Back again: the dropped one is in, the drained one is known and drained.
    service.wait(2 * SECOND);
    service.publish_from(Status::Live, 1, list(&["a", "b", "c"]));
    assert_eq!(
        states(&service, &["a", "b", "c"]),
        [
            EndpointState::Fit,
            EndpointState::Draining,
            EndpointState::Fit
        ]
    );
    assert_eq!(
        service.updater.drop_held(&id("c"), service.now),
        Ok(vec![]),
        "it is not held"
    );
    assert!(service.is_picked("c"));
}

#[test]
fn one_that_registers_again_is_in_again() {
    let mut service = service(&["a", "b"]);
    service.requests(10);
    let before = service.endpoint("a");
    service.end_with("a", answered(500, 1));
    service.publish_from(Status::Live, 1, vec![]);
    service.wait(30 * SECOND);
    let transitions = service.publish_from(
        Status::Live,
        1,
        vec![registered("a", 9), registered("b", 9)],
    );
    assert_eq!(kinds(&transitions), [("a", "rejoined"), ("b", "rejoined")]);
    assert!(Arc::ptr_eq(&before, &service.endpoint("a")));
    assert_eq!(before.failures(), 1);
    assert_eq!(service.state("a"), EndpointState::Fit);
    service.wait(2 * GRACE);
    assert_eq!(members(&service), ["a", "b"]);
}

fn at(name: &str, id: &str, czxid: i64) -> Instance {
    Instance {
        id: InstanceId::from(id),
        ..registered(name, czxid)
    }
}

#[test]
fn the_same_address_under_another_id_is_the_same_endpoint() {
    let held = |service: &mut Service| {
        service.publish_from(Status::Live, 1, vec![]);
        service.wait(30 * SECOND);
    };
    let left_before = |service: &mut Service| {
        service.publish_from(Status::Live, 1, list(&["b", "c"]));
        service.wait(SECOND / 2);
    };
    let at_once = |_: &mut Service| {};
    let ways: [&dyn Fn(&mut Service); 3] = [&held, &left_before, &at_once];
    for between in ways {
        let mut service = service(&["a", "b", "c"]);
        service.requests(30);
        let before = service.endpoint("a");
        let requests = before.requests();
        between(&mut service);
        let others = [registered("b", 1), registered("c", 1)];
        let again = others.into_iter().chain([at("a", "uuid", 7)]).collect();
        let transitions = service.publish_from(Status::Live, 1, again);
        assert!(
            kinds(&transitions).contains(&("uuid", "rejoined")),
            "{transitions:?}"
        );
        assert!(Arc::ptr_eq(&before, &service.endpoint("uuid")));
        assert_eq!(before.requests(), requests);
        assert!(!before.is_gone() && !before.is_unfit());
        assert_eq!(members(&service), ["b", "c", "uuid"]);
        // Evidence and the operator find it under its new id.
        service.updater.refused(&before, "refused", service.now);
        assert_eq!(service.state("uuid"), EndpointState::Quarantined);
        service.updater.connected(&before, service.now);
        assert!(
            service
                .updater
                .set_drained(&InstanceId::from("uuid"), true, service.now)
                .is_ok()
        );
    }
}

#[test]
fn ids_that_change_places_take_nothing_along() {
    let mut service = service(&["a", "b", "c"]);
    let (a, b) = (service.endpoint("a"), service.endpoint("b"));
    service.publish_from(
        Status::Live,
        1,
        vec![at("b", "a", 2), at("a", "b", 3), registered("c", 1)],
    );
    assert!(Arc::ptr_eq(&b, &service.endpoint("a")));
    assert!(Arc::ptr_eq(&a, &service.endpoint("b")));
    assert_eq!(members(&service), ["a", "b", "c"]);
}

#[test]
fn of_two_at_one_address_the_newest_counts() {
    let mut service = service(&["a", "b"]);
    let before = service.endpoint("a");
    // It was restarted and registers while its former registration lingers on.
    let transitions = service.publish_from(
        Status::Live,
        1,
        vec![registered("a", 1), at("a", "new", 5), registered("b", 1)],
    );
    assert_eq!(
        kinds(&transitions),
        [("new", "rejoined"), ("a", "shadowed")]
    );
    assert_eq!(members(&service), ["b", "new"]);
    assert!(Arc::ptr_eq(&before, &service.endpoint("new")));
    let view = service.balancer.view();
    assert_eq!(view.shadowed().len(), 1);
    assert_eq!(view.shadowed()[0].instance.id.as_str(), "a");
    assert_eq!(view.shadowed()[0].by.as_str(), "new");
    assert_eq!(service.requests(100)["a"], 50, "the address counts once");
    // The old registration expires.
    let transitions =
        service.publish_from(Status::Live, 1, vec![at("a", "new", 5), registered("b", 1)]);
    assert_eq!(kinds(&transitions), []);
    assert!(service.balancer.view().shadowed().is_empty());
    assert!(Arc::ptr_eq(&before, &service.endpoint("new")));
}

#[test]
fn a_drain_goes_with_the_address() {
    let mut service = service(&["a", "b"]);
    service
        .updater
        .set_drained(&InstanceId::from("a"), true, service.now)
        .unwrap();
    service.publish_from(
        Status::Live,
        1,
        vec![at("a", "again", 7), registered("b", 1)],
    );
    assert_eq!(service.state("again"), EndpointState::Draining);
    service.publish_from(Status::Live, 1, list(&["b"]));
    service.wait(60 * SECOND);
    service.publish_from(
        Status::Live,
        1,
        vec![at("a", "later", 9), registered("b", 1)],
    );
    assert_eq!(service.state("later"), EndpointState::Draining);
    service
        .updater
        .set_drained(&InstanceId::from("later"), false, service.now)
        .unwrap();
    assert_eq!(service.state("later"), EndpointState::Fit);
    assert!(
        service
            .updater
            .set_drained(&InstanceId::from("a"), true, service.now)
            .is_err()
    );
}

#[test]
fn a_new_registration_is_a_new_try_under_any_id() {
    let mut service = service(&["a", "b"]);
    service.end_with("a", Outcome::Refused);
    service.wait(Duration::ZERO);
    let again = vec![at("a", "again", 7), registered("b", 1)];
    let transitions = service.publish_from(Status::Live, 1, again);
    assert_eq!(
        kinds(&transitions),
        [("again", "rejoined"), ("again", "released")]
    );
    assert!(
        service.is_picked("a"),
        "endpoints keep the id they were first known by"
    );
}

#[test]
fn lists_in_files_are_believed() {
    let mut service = Service::new(Balance::RoundRobin, &[("a", 1), ("b", 1)]);
    assert_eq!(service.list(&[]).len(), 2);
    assert_eq!(service.why_none(), NoEndpoint::Empty);
    // From the file to the registry and back.
    service.list(&[("a", 1)]);
    service.wait(2 * SECOND);
    let transitions = service.publish_from(Status::Pending, 0, vec![]);
    assert_eq!(kinds(&transitions), [("a", "left")]);
    assert_eq!(service.why_none(), NoEndpoint::Pending);
    service.publish_from(Status::Live, 1, list(&["b"]));
    service.publish_from(Status::Live, 1, vec![]);
    assert_eq!(service.state("b"), EndpointState::Held);
    let transitions = service.list(&[("c", 1)]);
    assert_eq!(kinds(&transitions), [("c", "joined"), ("b", "left")]);
}

#[test]
fn holding_can_be_turned_off() {
    let hold = HoldPolicy {
        grace: Duration::ZERO,
        ..HoldPolicy::default()
    };
    let off = Policy {
        hold,
        ..Policy::default()
    };
    let mut service = service(&["a", "b"]);
    service.publish_from(Status::Live, 1, list(&["a"]));
    service.wait(2 * SECOND);
    service.publish_from(Status::Live, 1, vec![]);
    assert_eq!(service.state("a"), EndpointState::Held);
    let transitions = service.updater.set_policy(off, service.now);
    assert_eq!(kinds(&transitions), [("a", "hold_over"), ("a", "left")]);
    service.publish_from(Status::Live, 1, list(&["a", "b"]));
    let transitions = service.publish_from(Status::Live, 2, vec![]);
    assert_eq!(kinds(&transitions), [("a", "left"), ("b", "left")]);
}

#[test]
fn one_that_moves_is_not_held_where_it_was() {
    let mut service = service(&["a"]);
    let elsewhere = Instance {
        address: SocketAddr::from(([10, 9, 9, 9], 80)),
        ..registered("a", 5)
    };
    let transitions = service.publish_from(Status::Live, 2, vec![elsewhere]);
    assert_eq!(kinds(&transitions), [("a", "left"), ("a", "joined")]);
    assert_eq!(transitions[0].cause, "moved to 10.9.9.9:80, 0 in flight");
}

#[test]
fn what_is_drained_and_idle_is_told() {
    let mut service = service(&["a", "b"]);
    let endpoint = service.endpoint("a");
    let pick = (0..10).find_map(|_| {
        let pick = service.balancer.pick(None, &[], service.now).unwrap();
        (pick.endpoint().key() == endpoint.key()).then_some(pick)
    });
    let idle = |service: &Service| {
        let idle = service.updater.drained_idle();
        idle.map(|instance| instance.id.to_string())
            .collect::<Vec<_>>()
    };
    let draining = Instance {
        state: InstanceState::Draining,
        ..registered("a", 1)
    };
    let list = vec![draining, registered("b", 1)];
    let transitions = service.publish_from(Status::Live, 1, list.clone());
    assert_eq!(kinds(&transitions), [("a", "draining")]);
    assert!(idle(&service).is_empty());
    drop(pick);
    // The end of the last request wakes the updater.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(service.updater.woken());
    assert_eq!(kinds(&service.wait(Duration::ZERO)), [("a", "idle")]);
    assert_eq!(idle(&service), ["a"]);
    assert_eq!(service.wait(SECOND), [], "once");
    service
        .updater
        .set_drained(&InstanceId::from("b"), true, service.now)
        .unwrap();
    assert_eq!(idle(&service), ["a", "b"]);
    let transitions = service.publish_from(Status::Live, 1, vec![registered("a", 1)]);
    assert_eq!(kinds(&transitions), [("a", "up"), ("b", "left")]);
    assert!(idle(&service).is_empty());
}

/// The same list under a new revision, as a reader of the whole would see it.
#[test]
fn views_tell_status_and_revision() {
    let mut service = service(&["a"]);
    for (status, attachment) in [(lost(), 1), (Status::Live, 2), (Status::Absent, 2)] {
        let snapshot: Snapshot = service.snapshot(status, attachment, list(&["a"]));
        service.updater.apply(&snapshot, service.now);
        let view = service.balancer.view();
        assert_eq!(
            (view.status(), view.revision()),
            (status, snapshot.revision)
        );
    }
}
