//! Too few fit endpoints.

use livegate_discovery::{Balance, Health, NoEndpoint, Outcome, Policy};
use proptest::prelude::*;

use crate::fixture::{Service, answered};

const FOUR: [(&str, u32); 4] = [("a", 1), ("b", 1), ("c", 1), ("d", 1)];

fn failing() -> Health {
    Health::Failing {
        cause: "status 500".to_owned(),
    }
}

fn picked(service: &Service) -> String {
    FOUR.iter()
        .map(|(name, _)| *name)
        .filter(|name| service.is_picked(name))
        .collect()
}

fn set_health(service: &mut Service, name: &str, health: Health) {
    let endpoint = service.endpoint(name);
    service.updater.set_health(&endpoint, health, service.now);
}

#[test]
fn half_of_them_fit_is_no_panic() {
    for balance in Balance::ALL {
        let mut service = Service::new(balance, &FOUR);
        set_health(&mut service, "a", failing());
        set_health(&mut service, "b", failing());
        assert_eq!(picked(&service), "cd", "{balance}");
        assert!(!service.balancer.view().is_panic());
        assert_eq!(service.balancer.panic_picks(), 0);
    }
}

#[test]
fn fewer_make_all_that_answer_be_used() {
    for balance in Balance::ALL {
        let mut service = Service::new(balance, &FOUR);
        for name in ["a", "b", "c"] {
            set_health(&mut service, name, failing());
        }
        assert!(service.balancer.view().is_panic());
        assert_eq!(picked(&service), "abcd", "{balance}");
        assert!(service.balancer.panic_picks() > 0);
        let pick = service
            .balancer
            .pick(None, &[service.endpoint("d").key()], service.now)
            .unwrap();
        assert!(pick.is_panic());
        drop(pick);
        set_health(&mut service, "a", Health::Healthy);
        assert!(!service.balancer.view().is_panic());
        assert_eq!(picked(&service), "ad", "{balance}");
    }
}

#[test]
fn panic_never_turns_to_the_dead_or_frozen_while_anything_answers() {
    for balance in Balance::ALL {
        let mut service = Service::new(balance, &FOUR);
        service.end_with("a", Outcome::Refused);
        set_health(
            &mut service,
            "b",
            Health::Unreachable {
                cause: "no route to host".to_owned(),
            },
        );
        set_health(
            &mut service,
            "c",
            Health::Silent {
                cause: "timed out".to_owned(),
            },
        );
        assert_eq!(picked(&service), "d", "{balance}");
        assert_eq!(service.balancer.panic_picks(), 0, "d is fit");
        set_health(&mut service, "d", failing());
        assert_eq!(picked(&service), "d", "{balance}");
        service.end_with("d", Outcome::Refused);
        assert_eq!(
            picked(&service),
            "c",
            "to be silent is better than to be gone ({balance})"
        );
        service.updater.tick(service.now);
        assert_eq!(picked(&service), "c", "{balance}");
        service.end_with("c", Outcome::Reset);
        assert_eq!(
            picked(&service),
            "abcd",
            "all are gone: any may be back first ({balance})"
        );
        service.updater.tick(service.now);
        assert_eq!(picked(&service), "abcd", "{balance}");
        let endpoint = service.endpoint("b");
        service
            .updater
            .set_health(&endpoint, Health::Healthy, service.now);
        assert_eq!(picked(&service), "b", "{balance}");
    }
}

#[test]
fn two_of_four_killed_lose_nothing() {
    for balance in Balance::ALL {
        let mut service = Service::new(balance, &FOUR);
        service.end_with("a", Outcome::Reset);
        service.end_with("b", Outcome::Refused);
        assert_eq!(
            picked(&service),
            "cd",
            "before the updater knows ({balance})"
        );
        service.updater.tick(service.now);
        assert_eq!(picked(&service), "cd", "{balance}");
        service.end_with("c", Outcome::Refused);
        assert_eq!(picked(&service), "d", "{balance}");
        service.updater.tick(service.now);
        assert_eq!(picked(&service), "d", "{balance}");
    }
}

#[test]
fn the_only_instance_is_tried_again_after_a_reset() {
    for balance in Balance::ALL {
        let mut service = Service::new(balance, &FOUR[..1]);
        service.end_with("a", Outcome::Reset);
        service.updater.tick(service.now);
        let pick = service.balancer.pick(Some(1), &[], service.now).unwrap();
        assert!(pick.is_panic());
        pick.connected(service.now);
        pick.finish(answered(200, 1), service.now);
        assert!(!service.endpoint("a").is_unfit());
    }
}

#[test]
fn the_drained_are_not_even_used_in_panic() {
    let mut service = Service::new(Balance::RoundRobin, &FOUR);
    for name in ["a", "b", "c"] {
        let id = service.endpoint(name).id().clone();
        service.updater.set_drained(&id, true, service.now).unwrap();
    }
    assert_eq!(picked(&service), "d");
    assert!(!service.balancer.view().is_panic(), "one of one is fit");
    service.end_with("d", Outcome::Refused);
    assert_eq!(picked(&service), "d");
    let id = service.endpoint("d").id().clone();
    service.updater.set_drained(&id, true, service.now).unwrap();
    assert_eq!(
        service.balancer.pick(None, &[], service.now).unwrap_err(),
        NoEndpoint::AllUnfit
    );
}

#[test]
fn panic_can_be_forbidden() {
    for balance in Balance::ALL {
        let policy = Policy {
            balance,
            panic_percent: 0,
            ..Policy::default()
        };
        let mut service = Service::with_policy(policy, &FOUR);
        for name in ["a", "b", "c"] {
            set_health(&mut service, name, failing());
        }
        assert_eq!(picked(&service), "d");
        service.end_with("d", Outcome::Refused);
        assert_eq!(
            service.balancer.pick(None, &[], service.now).unwrap_err(),
            NoEndpoint::AllUnfit
        );
    }
}

#[derive(Debug, Clone, Copy)]
enum Event {
    Refuse,
    Reset,
    Connect,
    Fail,
    Pass,
    Tick,
}

proptest! {
    /// In any history, a quarantined endpoint is picked only when all others are as bad, on any
    /// balance, with the view up to date or behind.
    #[test]
    fn the_quarantined_come_last(
        balance in prop::sample::select(Balance::ALL.to_vec()),
        events in prop::collection::vec((0usize..4, prop::sample::select(vec![
            Event::Refuse, Event::Reset, Event::Connect, Event::Fail, Event::Pass, Event::Tick,
        ])), 1..60),
    ) {
        let mut service = Service::new(balance, &FOUR);
        let endpoints = FOUR.map(|(name, _)| service.endpoint(name));
        let mut dead = [false; 4];
        for (index, event) in events {
            let endpoint = &endpoints[index];
            // The pick is made by exclusion, so that any endpoint can be hit.
            let others: Vec<_> = endpoints.iter().filter(|e| e.key() != endpoint.key()).map(|e| e.key()).collect();
            let hit = service.balancer.pick(Some(3), &others, service.now).unwrap();
            let is_hit = hit.endpoint().key() == endpoint.key();
            match event {
                Event::Refuse if is_hit => { hit.finish(Outcome::Refused, service.now); dead[index] = true; }
                Event::Reset if is_hit => { hit.finish(Outcome::Reset, service.now); dead[index] = true; }
                Event::Connect => {
                    drop(hit);
                    service.updater.connected(endpoint, service.now);
                    dead[index] = false;
                }
                Event::Fail => { drop(hit); service.updater.set_health(endpoint, failing(), service.now); }
                Event::Pass => { drop(hit); service.updater.set_health(endpoint, Health::Healthy, service.now); }
                Event::Tick => { drop(hit); service.updater.tick(service.now); }
                Event::Refuse | Event::Reset => drop(hit),
            }
            for key in 0..20 {
                let pick = service.balancer.pick(Some(key), &[], service.now).unwrap();
                let picked = endpoints.iter().position(|e| e.key() == pick.endpoint().key()).unwrap();
                prop_assert!(!dead[picked] || dead == [true; 4], "{balance} {dead:?}");
            }
        }
    }
}
