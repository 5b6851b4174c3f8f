//! Refused, reset and timed-out connections.

use std::time::Duration;

use livegate_discovery::{Balance, Doubt, EndpointState, Health, Outcome, Policy};

use crate::fixture::{Service, answered, kinds};

const FOUR: [(&str, u32); 4] = [("a", 1), ("b", 1), ("c", 1), ("d", 1)];

fn doubts(service: &Service) -> Vec<(String, Doubt)> {
    service
        .updater
        .doubts()
        .map(|(endpoint, doubt)| (endpoint.id().to_string(), doubt))
        .collect()
}

#[test]
fn the_very_next_pick_avoids_it_whatever_the_balance() {
    for balance in Balance::ALL {
        for outcome in [Outcome::Refused, Outcome::Reset, Outcome::ConnectTimeout] {
            let service = Service::new(balance, &FOUR);
            service.end_with("b", outcome);
            // No tick, no new view.
            assert!(!service.is_picked("b"), "{balance}");
            assert!(
                (0..500).all(|key| service.request(Some(key)) != "b"),
                "{balance}"
            );
            assert_eq!(service.balancer.panic_picks(), 0);
        }
    }
}

#[test]
fn a_request_wakes_the_updater() {
    let service = Service::new(Balance::RoundRobin, &FOUR);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    service.end_with("b", Outcome::Refused);
    runtime.block_on(service.updater.woken());
    service.end_with("c", answered(500, 1));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let is_woken = std::pin::pin!(service.updater.woken())
        .poll(&mut context)
        .is_ready();
    assert!(!is_woken, "one failure is no news");
    for _ in 0..4 {
        service.end_with("c", answered(500, 1));
    }
    runtime.block_on(service.updater.woken());
}

#[test]
fn a_probe_that_connects_lifts_it() {
    let mut service = Service::new(Balance::RoundRobin, &FOUR);
    let endpoint = service.endpoint("b");
    service.end_with("b", Outcome::Refused);
    let transitions = service.updater.tick(service.now);
    assert_eq!(kinds(&transitions), [("b", "quarantined")]);
    assert_eq!(transitions[0].cause, "connection refused");
    assert_eq!(service.state("b"), EndpointState::Quarantined);
    assert_eq!(doubts(&service), [("b".to_owned(), Doubt::Connects)]);
    assert_eq!(
        kinds(
            &service
                .updater
                .refused(&endpoint, "still refused", service.now)
        ),
        []
    );
    assert_eq!(
        kinds(&service.updater.connected(&endpoint, service.now)),
        [("b", "released")]
    );
    assert_eq!(doubts(&service), []);
    assert!(service.is_picked("b"));
}

#[test]
fn a_probe_that_is_quicker_than_the_updater_leaves_no_blame() {
    let mut service = Service::new(Balance::RoundRobin, &FOUR);
    let endpoint = service.endpoint("b");
    service.end_with("b", Outcome::Refused);
    let transitions = service.updater.connected(&endpoint, service.now);
    assert_eq!(
        kinds(&transitions),
        [("b", "quarantined"), ("b", "released")]
    );
    assert!(service.is_picked("b"));
    // The next quarantine has a cause of its own.
    service.wait(Duration::from_secs(2));
    service.end_with("b", Outcome::Reset);
    assert_eq!(
        service.updater.tick(service.now)[0].cause,
        "connection reset"
    );
}

#[test]
fn so_does_a_request_that_connects() {
    let mut service = Service::new(Balance::RoundRobin, &FOUR);
    let slow = service.balancer.pick(None, &[], service.now).unwrap();
    let name = slow.endpoint().id().to_string();
    service.end_with(&name, Outcome::Refused);
    service.updater.tick(service.now);
    assert!(!service.is_picked(&name));
    slow.connected(service.now);
    assert!(!slow.endpoint().is_unfit());
    // The view is behind until the updater looks.
    assert_eq!(
        kinds(&service.updater.tick(service.now)),
        [(&*name, "released")]
    );
    assert!(service.is_picked(&name));
}

#[test]
fn a_restarted_process_starts_with_a_clean_record() {
    let mut service = Service::new(Balance::RoundRobin, &FOUR);
    let endpoint = service.endpoint("b");
    // It is killed with ten requests in flight.
    let picks: Vec<_> = (0..40)
        .map(|_| service.balancer.pick(None, &[], service.now).unwrap())
        .collect();
    for pick in picks {
        if pick.endpoint().key() == endpoint.key() {
            pick.finish(Outcome::Reset, service.now);
        }
    }
    assert_eq!(
        kinds(&service.updater.tick(service.now)),
        [("b", "quarantined")]
    );
    service.wait(Duration::from_millis(50));
    service
        .updater
        .refused(&endpoint, "connection refused", service.now);
    service.wait(Duration::from_millis(800));
    let transitions = service.updater.connected(&endpoint, service.now);
    assert_eq!(
        kinds(&transitions),
        [("b", "released")],
        "no ejection for what the former process did"
    );
    assert!(service.is_picked("b"));
    // Its own failures count from one.
    for _ in 0..4 {
        service.end_with("b", answered(500, 1));
    }
    assert_eq!(kinds(&service.updater.tick(service.now)), []);
}

#[test]
fn an_ejected_one_that_restarts_is_used_again_at_once() {
    let mut service = Service::new(Balance::RoundRobin, &FOUR);
    let endpoint = service.endpoint("b");
    for _ in 0..5 {
        service.end_with("b", answered(500, 1));
    }
    service.updater.tick(service.now);
    assert_eq!(doubts(&service), [("b".to_owned(), Doubt::Connects)]);
    service.updater.connected(&endpoint, service.now);
    assert!(
        !service.is_picked("b"),
        "to connect is no answer to failures"
    );
    service
        .updater
        .refused(&endpoint, "connection refused", service.now);
    assert_eq!(
        kinds(&service.updater.connected(&endpoint, service.now)),
        [("b", "released")]
    );
    assert!(service.is_picked("b"));
}

#[test]
fn health_checks_set_and_clear() {
    let cause = || "status 500".to_owned();
    let mut service = Service::new(Balance::RoundRobin, &FOUR);
    let endpoint = service.endpoint("b");
    let transitions =
        service
            .updater
            .set_health(&endpoint, Health::Failing { cause: cause() }, service.now);
    assert_eq!(kinds(&transitions), [("b", "unhealthy")]);
    assert_eq!(transitions[0].cause, "status 500");
    assert!(!service.is_picked("b"));
    assert!(!endpoint.is_lost(), "it answers");
    let again =
        service
            .updater
            .set_health(&endpoint, Health::Failing { cause: cause() }, service.now);
    assert_eq!(again, [], "no news");
    service.updater.set_health(
        &endpoint,
        Health::Silent {
            cause: "timed out".to_owned(),
        },
        service.now,
    );
    assert!(endpoint.is_lost());
    assert_eq!(service.state("b"), EndpointState::Unhealthy);
    let transitions = service
        .updater
        .set_health(&endpoint, Health::Healthy, service.now);
    assert_eq!(kinds(&transitions), [("b", "healthy")]);
    assert!(service.is_picked("b"));
}

#[test]
fn evidence_about_an_endpoint_that_left_is_ignored() {
    let mut service = Service::with_policy(Policy::default(), &FOUR);
    let endpoint = service.endpoint("b");
    service.list(&FOUR[..1]);
    service.wait(Duration::from_secs(2));
    service.list(&FOUR);
    assert_eq!(
        service
            .updater
            .refused(&endpoint, "connection refused", service.now),
        []
    );
    assert_eq!(
        service.updater.set_health(
            &endpoint,
            Health::Failing {
                cause: String::new()
            },
            service.now
        ),
        []
    );
    assert!(service.is_picked("b"));
}
