//! Silence while others answer.

use std::time::Duration;

use livegate_discovery::{Balance, Doubt, EndpointState, Pick};

use crate::fixture::{Service, answered, kinds};

const MILLI: Duration = Duration::from_millis(1);
const THREE: [(&str, u32); 3] = [("a", 1), ("b", 1), ("frozen", 1)];

/// A request to `name` that gets no answer.
fn hang(service: &Service, name: &str) -> Pick {
    loop {
        let pick = service
            .balancer
            .pick(None, &[], service.now)
            .expect("an endpoint");
        if pick.endpoint().id().as_str() == name {
            return pick;
        }
    }
}

/// Time passes in steps of the tick, with traffic that the two others answer in 2 ms.
fn pass(service: &mut Service, time: Duration) -> Vec<(String, String)> {
    let frozen = service.endpoint("frozen").key();
    let mut seen = Vec::new();
    let end = service.now + time;
    while service.now < end {
        for _ in 0..5 {
            let pick = service
                .balancer
                .pick(None, &[frozen], service.now)
                .expect("an endpoint");
            pick.heard(service.now + 2 * MILLI);
            pick.finish(answered(200, 2), service.now + 2 * MILLI);
        }
        let transitions = service.wait(100 * MILLI);
        seen.extend(
            transitions
                .into_iter()
                .map(|t| (t.instance.to_string(), t.kind.to_owned())),
        );
    }
    seen
}

fn one(name: &str, kind: &str) -> Vec<(String, String)> {
    vec![(name.to_owned(), kind.to_owned())]
}

#[test]
fn a_frozen_one_is_avoided_after_a_second() {
    let mut service = Service::new(Balance::RoundRobin, &THREE);
    service.requests(30);
    let hanging = hang(&service, "frozen");
    assert_eq!(pass(&mut service, 1000 * MILLI), []);
    assert_eq!(pass(&mut service, 200 * MILLI), one("frozen", "stalled"));
    assert_eq!(service.state("frozen"), EndpointState::Stalled);
    assert_eq!(service.state("frozen").public_name(), "ejected");
    assert!(hanging.endpoint().is_lost());
    assert!(!service.is_picked("frozen"));
    let doubts: Vec<_> = service
        .updater
        .doubts()
        .map(|(endpoint, doubt)| (endpoint.key(), doubt))
        .collect();
    assert_eq!(doubts, [(hanging.endpoint().key(), Doubt::Speaks)]);
    // That it accepts connections proves nothing.
    let endpoint = service.endpoint("frozen");
    service.updater.connected(&endpoint, service.now);
    hanging.connected(service.now);
    assert!(!service.is_picked("frozen"));
    // Nor does it help that its requests are given up.
    drop(hanging);
    assert_eq!(pass(&mut service, 5000 * MILLI), []);
    assert_eq!(
        kinds(&service.updater.spoke(&endpoint, service.now)),
        [("frozen", "resumed")]
    );
    assert!(service.is_picked("frozen"));
}

#[test]
fn any_byte_lifts_it() {
    let mut service = Service::new(Balance::RoundRobin, &THREE);
    service.requests(30);
    let hanging = hang(&service, "frozen");
    pass(&mut service, 1200 * MILLI);
    assert!(!service.is_picked("frozen"));
    hanging.heard(service.now);
    assert_eq!(pass(&mut service, 100 * MILLI), one("frozen", "resumed"));
    assert!(service.is_picked("frozen"));
}

#[test]
fn bytes_of_any_request_keep_it_in() {
    let mut service = Service::new(Balance::RoundRobin, &THREE);
    let _hanging = hang(&service, "frozen");
    for _ in 0..50 {
        let pick = hang(&service, "frozen");
        pick.heard(service.now);
        drop(pick);
        assert_eq!(pass(&mut service, 500 * MILLI), []);
    }
}

#[test]
fn a_tunnel_may_be_silent() {
    let mut service = Service::new(Balance::RoundRobin, &THREE);
    let tunnel = hang(&service, "frozen");
    tunnel.heard(service.now);
    assert_eq!(pass(&mut service, Duration::from_secs(60)), []);
    assert_eq!(tunnel.endpoint().in_flight(), 1);
}

#[test]
fn the_time_counts_from_the_first_request_that_waits() {
    let mut service = Service::new(Balance::RoundRobin, &THREE);
    service.requests(30);
    pass(&mut service, Duration::from_secs(30));
    let _hanging = hang(&service, "frozen");
    assert_eq!(pass(&mut service, 1000 * MILLI), []);
    assert_eq!(pass(&mut service, 200 * MILLI), one("frozen", "stalled"));
}

#[test]
fn a_slow_service_gets_twenty_times_its_latency() {
    let mut service = Service::new(Balance::RoundRobin, &THREE);
    for _ in 0..50 {
        service.end_with("frozen", answered(200, 400));
    }
    let _hanging = hang(&service, "frozen");
    assert_eq!(pass(&mut service, Duration::from_secs(8)), []);
    assert_eq!(pass(&mut service, 200 * MILLI), one("frozen", "stalled"));
}

#[test]
fn when_nobody_answers_nobody_is_stalled() {
    let mut service = Service::new(Balance::RoundRobin, &THREE);
    service.requests(30);
    let _hanging: Vec<_> = (0..30)
        .map(|_| service.balancer.pick(None, &[], service.now).unwrap())
        .collect();
    for _ in 0..100 {
        assert_eq!(kinds(&service.wait(100 * MILLI)), []);
    }
    let mut alone = Service::new(Balance::RoundRobin, &[("frozen", 1)]);
    let _hanging = hang(&alone, "frozen");
    assert_eq!(kinds(&alone.wait(Duration::from_secs(60))), []);
}

#[test]
fn false_alarms_make_it_more_patient_for_a_while() {
    let mut service = Service::new(Balance::RoundRobin, &THREE);
    service.requests(30);
    let hanging = hang(&service, "frozen");
    let endpoint = service.endpoint("frozen");
    for patience in [1000, 2000, 4000, 8000] {
        assert_eq!(pass(&mut service, patience * MILLI), []);
        assert_eq!(pass(&mut service, 200 * MILLI), one("frozen", "stalled"));
        service.updater.spoke(&endpoint, service.now);
    }
    drop(hanging);
    pass(&mut service, Duration::from_secs(61));
    let _hanging = hang(&service, "frozen");
    assert_eq!(pass(&mut service, 1200 * MILLI), one("frozen", "stalled"));
}
