//! Failures in a row.

use std::time::Duration;

use livegate_discovery::{Balance, EndpointState, Outcome, OutlierPolicy, Policy};
use proptest::prelude::*;

use crate::fixture::{Service, answered, kinds};

const FOUR: [(&str, u32); 4] = [("a", 1), ("b", 1), ("c", 1), ("d", 1)];

fn fail(service: &Service, name: &str, times: usize) {
    for _ in 0..times {
        service.end_with(name, answered(500, 1));
    }
}

#[test]
fn five_failures_in_a_row_eject() {
    for outcome in [
        answered(500, 1),
        answered(599, 1),
        Outcome::HeadTimeout,
        Outcome::BadResponse,
        Outcome::BodyFailed,
    ] {
        let mut service = Service::new(Balance::RoundRobin, &FOUR);
        for _ in 0..4 {
            service.end_with("b", outcome);
        }
        assert_eq!(kinds(&service.updater.tick(service.now)), []);
        service.end_with("b", outcome);
        let transitions = service.updater.tick(service.now);
        assert_eq!(kinds(&transitions), [("b", "ejected")]);
        assert_eq!(transitions[0].cause, "5 failures in a row, for 10s");
        assert_eq!(service.state("b"), EndpointState::Ejected);
        assert!(!service.is_picked("b"));
    }
}

#[test]
fn a_success_in_between_starts_the_count_again() {
    let mut service = Service::new(Balance::RoundRobin, &FOUR);
    fail(&service, "b", 4);
    service.end_with("b", answered(404, 1));
    fail(&service, "b", 4);
    service.end_with("b", Outcome::Cancelled);
    assert_eq!(kinds(&service.updater.tick(service.now)), []);
    fail(&service, "b", 1);
    assert_eq!(
        kinds(&service.updater.tick(service.now)),
        [("b", "ejected")]
    );
}

#[test]
fn probation_ejects_again_at_once_and_for_longer() {
    let mut service = Service::new(Balance::RoundRobin, &FOUR);
    fail(&service, "b", 5);
    service.updater.tick(service.now);
    for times in 1u32..4 {
        let lasts = Duration::from_secs(10) * times;
        assert_eq!(kinds(&service.wait(lasts - Duration::from_millis(1))), []);
        assert_eq!(
            kinds(&service.wait(Duration::from_millis(1))),
            [("b", "probation")]
        );
        assert!(service.is_picked("b"));
        fail(&service, "b", 1);
        let transitions = service.updater.tick(service.now);
        assert_eq!(kinds(&transitions), [("b", "ejected")]);
        assert_eq!(
            transitions[0].cause,
            format!("failed again on probation, for {}s", 10 * (times + 1))
        );
    }
    service.wait(Duration::from_secs(40));
    service.end_with("b", answered(200, 1));
    assert_eq!(
        kinds(&service.updater.tick(service.now)),
        [("b", "probation_passed")]
    );
    fail(&service, "b", 4);
    assert_eq!(
        kinds(&service.updater.tick(service.now)),
        [],
        "it needs five again"
    );
    service.end_with("b", answered(200, 1));
    // The four ejections are forgotten one by one.
    for _ in 0..4 {
        service.wait(Duration::from_secs(10));
    }
    fail(&service, "b", 5);
    assert_eq!(
        service.updater.tick(service.now)[0].cause,
        "5 failures in a row, for 10s"
    );
}

#[test]
fn no_ejection_is_longer_than_five_minutes_unless_the_first_one_is() {
    for (base, again) in [(200, 300), (400, 400)] {
        let base_ejection = Duration::from_secs(base);
        let outlier = OutlierPolicy {
            base_ejection,
            ..OutlierPolicy::default()
        };
        let mut service = Service::with_policy(
            Policy {
                outlier,
                ..Policy::default()
            },
            &FOUR,
        );
        fail(&service, "b", 5);
        service.updater.tick(service.now);
        service.wait(base_ejection);
        fail(&service, "b", 1);
        let cause = format!("failed again on probation, for {again}s");
        assert_eq!(service.updater.tick(service.now)[0].cause, cause);
    }
}

#[test]
fn half_of_them_at_most_and_never_the_last() {
    let mut service = Service::new(Balance::RoundRobin, &FOUR);
    for (name, _) in FOUR {
        fail(&service, name, 5);
    }
    assert_eq!(
        kinds(&service.updater.tick(service.now)),
        [("a", "ejected"), ("b", "ejected")]
    );
    assert!(service.is_picked("c") && service.is_picked("d"));
    assert!(!service.balancer.view().is_panic());

    let mut service = Service::new(Balance::RoundRobin, &[("a", 1)]);
    fail(&service, "a", 50);
    assert_eq!(kinds(&service.updater.tick(service.now)), []);

    // With all others gone, the one that is left stays.
    let mut service = Service::new(Balance::RoundRobin, &FOUR);
    for name in ["a", "b", "c"] {
        let endpoint = service.endpoint(name);
        service
            .updater
            .refused(&endpoint, "connection refused", service.now);
    }
    fail(&service, "d", 50);
    assert_eq!(kinds(&service.updater.tick(service.now)), []);
    assert!(!service.endpoint("d").is_unfit());
}

#[test]
fn refused_connections_are_no_failures_in_a_row() {
    let mut service = Service::new(Balance::RoundRobin, &FOUR);
    let picks: Vec<_> = (0..40)
        .map(|_| service.balancer.pick(None, &[], service.now).unwrap())
        .collect();
    for pick in picks {
        if pick.endpoint().id().as_str() == "a" {
            pick.finish(Outcome::Refused, service.now);
        }
    }
    assert_eq!(
        kinds(&service.updater.tick(service.now)),
        [("a", "quarantined")]
    );
    assert_eq!(service.endpoint("a").failures(), 10);
}

#[test]
fn resets_of_a_living_process_eject_it_all_the_same() {
    let mut service = Service::new(Balance::RoundRobin, &FOUR);
    let endpoint = service.endpoint("b");
    let mut told = Vec::new();
    for _ in 0..5 {
        service.end_with("b", Outcome::Reset);
        assert!(!service.is_picked("b"));
        told.extend(service.updater.tick(service.now));
        // It listens on: the probe connects at once.
        service.wait(Duration::from_millis(1));
        told.extend(service.updater.connected(&endpoint, service.now));
    }
    assert!(!service.is_picked("b"));
    let expected = [("b", "quarantined"), ("b", "released"), ("b", "ejected")];
    assert_eq!(
        kinds(&told),
        expected,
        "going in and out within a second is told of once"
    );
}

#[test]
fn ejection_can_be_turned_off_at_any_time() {
    for outlier in [
        OutlierPolicy {
            consecutive_failures: 0,
            ..OutlierPolicy::default()
        },
        OutlierPolicy {
            ejected_percent_max: 0,
            ..OutlierPolicy::default()
        },
    ] {
        let off = Policy {
            outlier,
            balance: Balance::RoundRobin,
            ..Policy::default()
        };
        let mut service = Service::new(Balance::RoundRobin, &FOUR);
        fail(&service, "b", 5);
        service.updater.tick(service.now);
        assert!(!service.is_picked("b"));
        service.updater.set_policy(off, service.now);
        assert!(service.is_picked("b"));
        fail(&service, "b", 50);
        assert_eq!(kinds(&service.updater.tick(service.now)), []);
    }
}

proptest! {
    /// Whatever fails: at most half are ejected, or one of less than four, and one stays fit.
    #[test]
    fn the_bound_holds(
        count in 1usize..10,
        failures in prop::collection::vec((0usize..10, 1usize..8, 0u64..8000), 1..60),
    ) {
        let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
        let list: Vec<(&str, u32)> = names[..count].iter().map(|name| (*name, 1)).collect();
        let mut service = Service::new(Balance::RoundRobin, &list);
        for (index, times, wait) in failures {
            let endpoint = service.endpoint(names[index % count]);
            for _ in 0..times {
                if !endpoint.is_unfit() {
                    service.end_with(endpoint.id().as_str(), answered(503, 1));
                }
            }
            service.wait(Duration::from_millis(wait));
            let view = service.balancer.view();
            let ejected = view.members().iter().filter(|member| member.state() == EndpointState::Ejected).count();
            prop_assert!(ejected <= (count / 2).max(1) && ejected < count);
        }
    }
}
