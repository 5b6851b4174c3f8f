//! New endpoints start slowly.

use std::time::{Duration, SystemTime};

use livegate_discovery::{Balance, EndpointState, Incarnation, Instance, Outcome, Policy, Status};

use crate::fixture::{Service, instance, kinds};

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

fn millis(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    let millis = since.expect("after 1970").as_millis();
    i64::try_from(millis).expect("before the year 292 million")
}

fn registered(name: &str, age: Duration) -> Instance {
    let ctime_ms = millis(SystemTime::now() - age);
    Instance {
        incarnation: Incarnation {
            czxid: ctime_ms,
            ctime_ms,
        },
        ..instance(name, 50)
    }
}

fn warmth(service: &Service) -> Vec<u32> {
    let view = service.balancer.view();
    let warmth = view.members().iter().map(|member| member.warmth_tenths);
    warmth.collect()
}

#[test]
fn what_is_there_at_the_start_is_as_old_as_its_registration() {
    let policy = Policy {
        warm_up: WARM_UP,
        ..Policy::default()
    };
    let mut service = Service::with_policy(policy, &[]);
    service.publish_from(Status::Pending, 0, vec![]);
    let ages = [("a", 3600), ("b", 5), ("c", 0)];
    let list = ages.map(|(name, age)| registered(name, Duration::from_secs(age)));
    service.publish_from(Status::Live, 1, list.to_vec());
    let [a, b, c] = warmth(&service)[..] else {
        panic!("three of them")
    };
    assert_eq!((a, c), (10, 1));
    assert!((5..=6).contains(&b), "{b}");
    let transitions = service.wait(WARM_UP / 2 + Duration::from_millis(100));
    assert_eq!(kinds(&transitions), [("b", "warm")]);
    // One that comes while the gateway looks has just come, whatever the registry's clock says.
    let slow = registered("slow", Duration::from_secs(3600));
    service.publish_from(Status::Live, 1, [list.to_vec(), vec![slow]].concat());
    assert_eq!(service.state("slow"), EndpointState::Warming);
}

#[test]
fn after_an_outage_the_registration_tells_again() {
    let policy = Policy {
        warm_up: WARM_UP,
        ..Policy::default()
    };
    let mut service = Service::with_policy(policy, &[]);
    let since = SystemTime::now();
    let old = registered("a", Duration::from_secs(3600));
    service.publish_from(Status::Live, 1, vec![old.clone()]);
    service.publish_from(Status::Stale { since }, 1, vec![old.clone()]);
    let list = vec![
        old,
        registered("b", Duration::from_secs(3600)),
        registered("c", Duration::ZERO),
        instance("d", 50),
    ];
    service.publish_from(Status::Live, 2, list);
    assert_eq!(
        warmth(&service),
        [10, 10, 1, 1],
        "without a registration it is as old as it looks"
    );
}

#[test]
fn a_registry_whose_clock_is_ahead_makes_nobody_cold_for_long() {
    let policy = Policy {
        warm_up: WARM_UP,
        ..Policy::default()
    };
    let mut service = Service::with_policy(policy, &[]);
    let since = SystemTime::now();
    service.publish_from(Status::Stale { since }, 0, vec![]);
    let ctime_ms = millis(SystemTime::now() + Duration::from_secs(3600));
    let at = |name: &str, ctime_ms| Instance {
        incarnation: Incarnation { czxid: 1, ctime_ms },
        ..instance(name, 50)
    };
    // The newest registration tells the registry's time at least.
    let list = vec![at("a", ctime_ms), at("b", ctime_ms - 60_000)];
    service.publish_from(Status::Live, 1, list);
    assert_eq!(warmth(&service), [1, 10]);
    let hostile = vec![at("a", ctime_ms), at("b", i64::MIN), at("c", i64::MAX)];
    service.publish_from(Status::Live, 2, hostile);
    assert_eq!(warmth(&service), [1, 10, 1]);
    assert_eq!(service.wait(WARM_UP).len(), 2);
}

/// A client that reconnects makes its node anew: the process is as warm as it was.
#[test]
fn registering_again_cools_nobody() {
    let mut service = service(Balance::RoundRobin);
    let again = registered("a", Duration::ZERO);
    service.publish_from(Status::Live, 1, vec![again, instance("b", 50)]);
    assert_eq!(service.state("a"), EndpointState::Fit);
    // Unless nobody had listened there meanwhile.
    service.end_with("a", Outcome::Refused);
    service.updater.tick(service.now);
    let again = Instance {
        incarnation: Incarnation {
            czxid: 2,
            ctime_ms: 2,
        },
        ..instance("a", 50)
    };
    service.publish_from(Status::Live, 1, vec![again, instance("b", 50)]);
    assert_eq!(service.state("a"), EndpointState::Warming);
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
