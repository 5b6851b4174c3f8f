//! New endpoints start slowly.

use std::time::Duration;

use livegate_discovery::{Balance, EndpointState, Outcome, Policy};

use crate::fixture::{Service, kinds};

const WARM_UP: Duration = Duration::from_secs(10);

fn service(balance: Balance) -> Service {
    let policy = Policy {
        balance,
        warm_up: WARM_UP,
        ..Policy::default()
    };
    Service::with_policy(policy, &[("a", 50), ("b", 50), ("c", 50)])
}

fn share(service: &Service) -> f64 {
    service.requests(10_000).get("new").copied().unwrap_or(0) as f64 / 10_000.0
}

#[test]
fn the_share_grows_with_time() {
    for balance in [
        Balance::Random,
        Balance::RoundRobin,
        Balance::WeightedRoundRobin,
    ] {
        let mut service = service(balance);
        assert_eq!(
            service.state("a"),
            EndpointState::Fit,
            "the first ones are not new"
        );
        service.list(&[("a", 50), ("b", 50), ("c", 50), ("new", 50)]);
        assert_eq!(service.state("new"), EndpointState::Warming);
        let expected = |tenths: f64| tenths / (30.0 + tenths);
        let tolerance = if balance == Balance::Random {
            0.015
        } else {
            0.001
        };
        assert!(
            (share(&service) - expected(1.0)).abs() < tolerance,
            "{balance}"
        );
        service.wait(WARM_UP / 2);
        assert!(
            (share(&service) - expected(5.0)).abs() < tolerance,
            "{balance}"
        );
        let transitions = service.wait(WARM_UP / 2);
        assert_eq!(kinds(&transitions), [("new", "warm")]);
        assert!((share(&service) - 0.25).abs() < tolerance, "{balance}");
        assert_eq!(service.state("new"), EndpointState::Fit);
    }
}

#[test]
fn views_change_only_at_the_steps() {
    let mut service = service(Balance::WeightedRoundRobin);
    service.list(&[("a", 50), ("new", 50)]);
    let mut views = 0;
    let mut before = service.balancer.view();
    for _ in 0..200 {
        service.wait(WARM_UP / 200);
        let view = service.balancer.view();
        views += u32::from(!std::sync::Arc::ptr_eq(&view, &before));
        before = view;
    }
    assert_eq!(views, 9);
}

#[test]
fn a_restarted_process_is_cold_again_and_a_reset_one_is_not() {
    let mut service = service(Balance::RoundRobin);
    let endpoint = service.endpoint("b");
    service.end_with("b", Outcome::Reset);
    service.updater.tick(service.now);
    service.updater.connected(&endpoint, service.now);
    assert_eq!(service.state("b"), EndpointState::Fit);
    service.end_with("b", Outcome::Refused);
    service.updater.tick(service.now);
    service.updater.connected(&endpoint, service.now);
    assert_eq!(service.state("b"), EndpointState::Warming);
}

#[test]
fn it_can_be_turned_off_on_the_way() {
    let mut service = service(Balance::RoundRobin);
    service.list(&[("a", 50), ("new", 50)]);
    let off = Policy {
        balance: Balance::RoundRobin,
        ..Policy::default()
    };
    let transitions = service.updater.set_policy(off, service.now);
    assert_eq!(kinds(&transitions), [("new", "warm")]);
    assert!((share(&service) - 0.5).abs() < 0.001);
}
