//! Instances come, go, change and come back.

use std::sync::Arc;
use std::time::Duration;

use livegate_discovery::{
    Balance, EndpointState, Incarnation, Instance, InstanceId, InstanceState, Move, Outcome, Status,
};

use crate::fixture::{Service, answered, instance, kinds};

#[test]
fn a_weight_or_metadata_change_resets_nothing() {
    let mut service = Service::new(Balance::WeightedRoundRobin, &[("a", 10), ("b", 10)]);
    service.end_with("a", Outcome::Reset);
    service.updater.tick(service.now);
    let before = service.endpoint("a");
    let failures = before.failures();
    let mut metadata = std::collections::BTreeMap::new();
    metadata.insert("version".to_owned(), "2".to_owned());
    let changed = Instance {
        metadata: Arc::new(metadata),
        ..instance("a", 99)
    };
    let transitions = service.publish(vec![changed, instance("b", 10)]);
    assert_eq!(kinds(&transitions), [("a", "weight_changed")]);
    assert_eq!(transitions[0].cause, "from 10 to 99");
    assert!(Arc::ptr_eq(&before, &service.endpoint("a")));
    assert_eq!(service.state("a"), EndpointState::Quarantined);
    assert_eq!(before.failures(), failures);
    assert_eq!(
        service.balancer.view().members()[0].instance.metadata["version"],
        "2"
    );
}

#[test]
fn one_that_is_back_within_a_second_is_the_same() {
    let mut service = Service::new(Balance::RoundRobin, &[("a", 1), ("b", 1)]);
    service.requests(10);
    let before = service.endpoint("a");
    let running = service
        .balancer
        .pick(None, &[service.endpoint("b").key()], service.now)
        .unwrap();
    assert_eq!(kinds(&service.list(&[("b", 1)])), [("a", "left")]);
    assert!(before.is_gone() && before.is_unfit() && !service.is_picked("a"));
    service.wait(Duration::from_millis(900));
    let again = Instance {
        incarnation: Incarnation {
            czxid: 7,
            ctime_ms: 7,
        },
        ..instance("a", 1)
    };
    let transitions = service.publish(vec![again, instance("b", 1)]);
    assert_eq!(kinds(&transitions), [("a", "rejoined")]);
    assert!(Arc::ptr_eq(&before, &service.endpoint("a")));
    assert_eq!(before.in_flight(), 1);
    assert!(!before.is_gone() && !before.is_unfit() && service.is_picked("a"));
    running.finish(answered(200, 1), service.now);
    assert_eq!(before.in_flight(), 0);
}

#[test]
fn one_that_is_back_later_or_elsewhere_is_another() {
    let mut service = Service::new(Balance::RoundRobin, &[("a", 1), ("b", 1)]);
    let before = service.endpoint("a");
    service.list(&[("b", 1)]);
    service.wait(Duration::from_millis(1100));
    assert_eq!(
        kinds(&service.list(&[("a", 1), ("b", 1)])),
        [("a", "joined")]
    );
    let after = service.endpoint("a");
    assert_ne!(before.key(), after.key());

    let elsewhere = Instance {
        id: InstanceId::from("a"),
        ..instance("elsewhere", 1)
    };
    let transitions = service.publish(vec![elsewhere, instance("b", 1)]);
    assert_eq!(kinds(&transitions), [("a", "left"), ("a", "joined")]);
    assert_ne!(after.key(), service.endpoint("a").key());
    assert!(
        before.is_unfit() && after.is_unfit(),
        "what is gone is not picked from an old view"
    );
}

#[test]
fn a_new_incarnation_lifts_quarantine() {
    let mut service = Service::new(Balance::RoundRobin, &[("a", 1), ("b", 1)]);
    service.end_with("a", Outcome::Refused);
    service.updater.tick(service.now);
    assert!(!service.is_picked("a"));
    let again = Instance {
        incarnation: Incarnation {
            czxid: 7,
            ctime_ms: 7,
        },
        ..instance("a", 1)
    };
    let transitions = service.publish(vec![again, instance("b", 1)]);
    assert_eq!(kinds(&transitions), [("a", "released")]);
    assert!(service.is_picked("a"));
}

#[test]
fn the_registry_drains_and_closes() {
    let mut service = Service::new(Balance::RoundRobin, &[("a", 1), ("b", 1)]);
    for (state, kind, expected) in [
        (InstanceState::Draining, "draining", EndpointState::Draining),
        (InstanceState::Down, "down", EndpointState::Unhealthy),
        (InstanceState::Up, "up", EndpointState::Fit),
    ] {
        let transitions = service.publish(vec![
            Instance {
                state,
                ..instance("a", 1)
            },
            instance("b", 1),
        ]);
        assert_eq!(kinds(&transitions)[0], ("a", kind));
        assert_eq!(service.state("a"), expected);
        assert_eq!(service.is_picked("a"), state == InstanceState::Up);
    }
}

#[test]
fn the_operator_drains_across_restarts() {
    let mut service = Service::new(Balance::RoundRobin, &[("a", 1), ("b", 1)]);
    let id = InstanceId::from("a");
    let transitions = service.updater.set_drained(&id, true, service.now).unwrap();
    assert_eq!(kinds(&transitions), [("a", "drained"), ("a", "idle")]);
    assert_eq!(
        service.updater.set_drained(&id, true, service.now),
        Ok(vec![]),
        "once is enough"
    );
    assert!(!service.is_picked("a"));
    service.list(&[("b", 1)]);
    service.wait(Duration::from_secs(60));
    service.list(&[("a", 1), ("b", 1)]);
    assert_eq!(service.state("a"), EndpointState::Draining);
    assert!(!service.is_picked("a"));
    let transitions = service
        .updater
        .set_drained(&id, false, service.now)
        .unwrap();
    assert_eq!(kinds(&transitions), [("a", "undrained")]);
    assert!(service.is_picked("a"));
    assert!(
        service
            .updater
            .set_drained(&InstanceId::from("x"), true, service.now)
            .is_err()
    );
}

#[test]
fn reasons_say_since_when() {
    let mut service = Service::new(Balance::RoundRobin, &[("a", 1), ("b", 1)]);
    service.wait(Duration::from_secs(5));
    service
        .updater
        .set_drained(&InstanceId::from("a"), true, service.now)
        .unwrap();
    let drained_at = service.now;
    service.wait(Duration::from_secs(5));
    let endpoint = service.endpoint("a");
    service
        .updater
        .refused(&endpoint, "connection refused (os error 111)", service.now);
    let view = service.balancer.view();
    let member = &view.members()[0];
    let reasons: Vec<_> = member
        .reasons
        .iter()
        .map(|reason| (reason.state, &*reason.text, reason.since))
        .collect();
    assert_eq!(
        reasons,
        [
            (
                EndpointState::Draining,
                "drained by the operator",
                drained_at
            ),
            (
                EndpointState::Quarantined,
                "connection refused (os error 111)",
                service.now
            ),
        ]
    );
    assert_eq!(member.state(), EndpointState::Draining);
}

#[test]
fn who_came_and_went_is_remembered_for_a_while() {
    let mut service = Service::new(Balance::RoundRobin, &[("a", 1), ("b", 1)]);
    let before = service.updater.membership();
    assert_eq!(service.updater.moves_since(before).unwrap().count(), 0);
    let gone = service.endpoint("a").key();
    service.list(&[("b", 1), ("c", 1)]);
    let moves: Vec<Move> = service
        .updater
        .moves_since(before)
        .unwrap()
        .cloned()
        .collect();
    let came = service.endpoint("c").key();
    let came = moves
        .iter()
        .filter(|event| matches!(event, Move::Came(endpoint) if endpoint.key() == came));
    assert_eq!(came.count(), 1);
    let went = moves
        .iter()
        .filter(|event| matches!(event, Move::Went(key) if *key == gone));
    assert_eq!(went.count(), 1);
    assert_eq!(moves.len(), 2);
    assert!(service.updater.moves_since(before + 3).is_none(), "not yet");
    for round in 0..600 {
        let name = format!("new-{round}");
        service.list(&[("b", 1), ("c", 1), (&name, 1)]);
        service.list(&[("b", 1), ("c", 1)]);
    }
    assert!(
        service.updater.moves_since(before).is_none(),
        "too long ago"
    );
    let last = service.updater.membership() - 1;
    assert_eq!(service.updater.moves_since(last).unwrap().count(), 1);
}

#[test]
fn views_of_a_large_service_are_not_made_for_each_change() {
    let names: Vec<String> = (0..1500).map(|number| format!("i{number}")).collect();
    let list = |range: std::ops::Range<usize>| -> Vec<Instance> {
        names[range].iter().map(|name| instance(name, 50)).collect()
    };
    let mut service = Service::new(Balance::WeightedRoundRobin, &[]);
    service.publish(list(1..1500));
    service.wait(Duration::from_secs(1));
    // After a quiet time at once.
    service.publish(list(0..1499));
    let members = |service: &Service| {
        let view = service.balancer.view();
        [&names[0], &names[1], &names[1499]].map(|name| view.members().get(name).is_some())
    };
    assert_eq!(members(&service), [true, true, false]);
    // Then together, but whoever left is not picked.
    service.wait(Duration::from_millis(1));
    service.publish(list(2..1500));
    assert_eq!(members(&service), [true, true, false]);
    let picked = service.requests(3000);
    assert_eq!(picked.len(), 1497);
    assert!(!picked.contains_key(&names[0]) && !picked.contains_key(&names[1]));
    service.wait(Duration::from_millis(20));
    assert_eq!(members(&service), [false, false, true]);
    // The operator does not wait, nor does the news that contact is lost.
    service.wait(Duration::from_millis(1));
    service
        .updater
        .set_drained(&names[5].as_str().into(), true, service.now)
        .unwrap();
    assert_eq!(service.state(&names[5]), EndpointState::Draining);
    service.wait(Duration::from_millis(1));
    let since = std::time::SystemTime::now();
    service.publish_from(Status::Stale { since }, 1, list(2..1500));
    assert_eq!(service.balancer.view().status(), Status::Stale { since });
}
