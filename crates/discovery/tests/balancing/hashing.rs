//! Keys and their endpoints.

use std::collections::BTreeMap;
use std::time::Duration;

use livegate_discovery::{Balance, Outcome, Policy};

use crate::fixture::Service;

const KEYED: [Balance; 2] = [Balance::ConsistentHash, Balance::Maglev];
const KEYS: u64 = 20_000;

fn names(count: usize) -> Vec<String> {
    (0..count)
        .map(|number| format!("10.0.0.{number}:8080"))
        .collect()
}

fn of_weight(names: &[String], weight: u32) -> Vec<(&str, u32)> {
    names.iter().map(|name| (name.as_str(), weight)).collect()
}

fn owners(service: &Service) -> Vec<String> {
    (0..KEYS).map(|key| service.request(Some(key))).collect()
}

fn moved(before: &[String], after: &[String]) -> f64 {
    before.iter().zip(after).filter(|(a, b)| a != b).count() as f64 / KEYS as f64
}

#[test]
fn a_key_stays_where_it_is() {
    for balance in KEYED {
        let service = Service::new(balance, &of_weight(&names(10), 50));
        assert_eq!(owners(&service), owners(&service));
        // Another process, another seed, another order of the list: the same owners.
        let mut reversed = names(10);
        reversed.reverse();
        let other = Service::new(balance, &of_weight(&reversed, 50));
        assert_eq!(owners(&service), owners(&other));
    }
}

#[test]
fn one_of_n_moves_one_nth_of_the_keys() {
    for (balance, extra) in [(Balance::ConsistentHash, 0.0), (Balance::Maglev, 0.02)] {
        for count in [4, 10, 50] {
            let names = names(count + 1);
            let mut service = Service::new(balance, &of_weight(&names[..count], 50));
            let before = owners(&service);
            // One leaves: its keys move, and (with the ring) no others.
            service.list(&of_weight(&names[1..count], 50));
            let after = owners(&service);
            let own =
                before.iter().filter(|owner| **owner == names[0]).count() as f64 / KEYS as f64;
            let share = moved(&before, &after);
            assert!(
                share >= own && share <= own + extra,
                "{balance} {count}: {share} moved, {own} owned"
            );
            assert!(
                share < 1.6 / count as f64 + extra,
                "{balance} {count}: {share}"
            );
            // Another one joins: what moves goes to it.
            service.list(&of_weight(&names[1..], 50));
            let joined = owners(&service);
            let share = moved(&after, &joined);
            let own = joined
                .iter()
                .filter(|owner| **owner == names[count])
                .count() as f64
                / KEYS as f64;
            assert!(
                share >= own && share <= own + extra,
                "{balance} {count}: {share} moved, {own} owned"
            );
        }
    }
}

#[test]
fn a_weight_change_moves_few_keys() {
    for (balance, extra) in [(Balance::ConsistentHash, 0.01), (Balance::Maglev, 0.06)] {
        let names = names(10);
        let mut weights = of_weight(&names, 50);
        let mut service = Service::new(balance, &weights);
        let before = owners(&service);
        weights[3].1 = 25;
        service.list(&weights);
        // It loses half of its tenth.
        let share = moved(&before, &owners(&service));
        assert!((0.03..0.07 + extra).contains(&share), "{balance}: {share}");
    }
}

#[test]
fn unfit_endpoints_lend_their_keys_and_get_them_back() {
    for balance in KEYED {
        let names = names(8);
        let mut service = Service::new(balance, &of_weight(&names, 50));
        let before = owners(&service);
        let endpoint = service.endpoint(&names[2]);
        service
            .updater
            .refused(&endpoint, "connection refused", service.now);
        let during = owners(&service);
        assert!(!during.contains(&names[2]));
        for (before, during) in before.iter().zip(&during) {
            assert!(
                before == during || *before == names[2],
                "nobody else's key moves"
            );
        }
        service.updater.connected(&endpoint, service.now);
        assert_eq!(owners(&service), before);
    }
}

#[test]
fn a_key_of_a_dead_endpoint_moves_before_the_next_view() {
    for balance in KEYED {
        let service = Service::new(balance, &of_weight(&names(4), 50));
        let pick = service.balancer.pick(Some(7), &[], service.now).unwrap();
        let dead = pick.endpoint().id().clone();
        pick.finish(Outcome::Refused, service.now);
        let next = service.request(Some(7));
        assert_ne!(next, dead.as_str());
        assert_eq!(
            service.request(Some(7)),
            next,
            "and stays with one of the others"
        );
    }
}

#[test]
fn shares_are_even() {
    for (balance, count, low, high) in [
        (Balance::ConsistentHash, 10, 0.75, 1.3),
        (Balance::Maglev, 10, 0.92, 1.08),
        (Balance::Maglev, 97, 0.8, 1.25),
    ] {
        let service = Service::new(balance, &of_weight(&names(count), 50));
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for owner in owners(&service) {
            *counts.entry(owner).or_default() += 1;
        }
        let even = KEYS as f64 / count as f64;
        for (name, owned) in counts {
            let share = owned as f64 / even;
            assert!((low..high).contains(&share), "{balance} {name}: {share}");
        }
    }
}

#[test]
fn shares_of_keys_follow_weights() {
    for balance in KEYED {
        let weights = [("a", 100), ("b", 50), ("c", 50), ("d", 200)];
        let service = Service::new(balance, &weights);
        let owners = owners(&service);
        for (name, weight) in weights {
            let share = owners.iter().filter(|owner| *owner == name).count() as f64 / KEYS as f64;
            let expected = f64::from(weight) / 400.0;
            assert!(
                (share / expected - 1.0).abs() < 0.2,
                "{balance} {name}: {share} for {expected}"
            );
        }
    }
}

#[test]
fn one_huge_weight_costs_no_memory_and_keeps_nearly_all_keys() {
    for balance in KEYED {
        let service = Service::new(balance, &[("a", 1), ("b", 1), ("huge", 4_000_000_000)]);
        let owners = owners(&service);
        let share = owners.iter().filter(|owner| *owner == "huge").count() as f64 / KEYS as f64;
        assert!(share > 0.99, "{balance}: {share}");
    }
}

#[test]
fn a_popular_key_overflows_to_others_within_the_bound() {
    let names = names(10);
    let service = Service::new(Balance::ConsistentHash, &of_weight(&names, 50));
    let mut picks = Vec::new();
    for _ in 0..400 {
        picks.push(service.balancer.pick(Some(99), &[], service.now).unwrap());
        let total = picks.len() as f64;
        let most = names
            .iter()
            .map(|name| service.endpoint(name).in_flight())
            .max()
            .unwrap();
        assert!(
            f64::from(most) <= (1.25 * total / 10.0).ceil().max(8.0),
            "{most} of {total}"
        );
    }
    picks.clear();
    // Back to one endpoint, when the load is gone.
    let home = service.request(Some(99));
    assert!((0..100).all(|_| service.request(Some(99)) == home));
}

#[test]
fn low_load_stays_sticky() {
    let service = Service::new(Balance::ConsistentHash, &of_weight(&names(10), 50));
    let picks: Vec<_> = (0..8)
        .map(|_| service.balancer.pick(Some(5), &[], service.now).unwrap())
        .collect();
    assert!(
        picks
            .iter()
            .all(|pick| pick.endpoint().key() == picks[0].endpoint().key())
    );
}

#[test]
fn the_bound_follows_weights_and_fit_endpoints() {
    let mut service = Service::new(
        Balance::ConsistentHash,
        &[("a", 300), ("b", 100), ("c", 100)],
    );
    let c = service.endpoint("c");
    service
        .updater
        .refused(&c, "connection refused", service.now);
    let mut picks = Vec::new();
    for key in 0..400 {
        picks.push(service.balancer.pick(Some(key), &[], service.now).unwrap());
    }
    assert_eq!(c.in_flight(), 0);
    assert!(f64::from(service.endpoint("b").in_flight()) <= 1.25 * 400.0 / 4.0 + 1.0);
    assert!(service.endpoint("a").in_flight() >= 275);
}

#[test]
fn a_change_of_balance_between_pick_and_finish_leaks_no_load() {
    use livegate_discovery::Policy;
    let names = names(4);
    let mut service = Service::new(Balance::ConsistentHash, &of_weight(&names, 50));
    let picks: Vec<_> = (0..100)
        .map(|key| service.balancer.pick(Some(key), &[], service.now).unwrap())
        .collect();
    service.updater.set_policy(
        Policy {
            balance: Balance::Random,
            ..Policy::default()
        },
        service.now,
    );
    drop(picks);
    let more: Vec<_> = (0..100)
        .map(|key| service.balancer.pick(Some(key), &[], service.now).unwrap())
        .collect();
    service.updater.set_policy(
        Policy {
            balance: Balance::ConsistentHash,
            ..Policy::default()
        },
        service.now,
    );
    drop(more);
    // If any load had been left over, the bound would be higher than the floor.
    let picks: Vec<_> = (0..8)
        .map(|_| service.balancer.pick(Some(5), &[], service.now).unwrap())
        .collect();
    let ninth = service.balancer.pick(Some(5), &[], service.now).unwrap();
    assert!(
        picks
            .iter()
            .all(|pick| pick.endpoint().key() != ninth.endpoint().key())
    );
}

#[test]
fn without_a_key_they_pick_at_random() {
    for balance in KEYED {
        let service = Service::new(balance, &of_weight(&names(4), 50));
        let counts = service.requests(4000);
        assert!(
            counts.len() == 4 && counts.values().all(|count| (850..1150).contains(count)),
            "{counts:?}"
        );
    }
}

#[test]
fn a_large_table_follows_who_left_at_once_and_who_came_soon() {
    for balance in KEYED {
        let names = names(1002);
        let policy = Policy {
            balance,
            warm_up: Duration::ZERO,
            ..Policy::default()
        };
        let mut service = Service::with_policy(policy, &of_weight(&names[..1000], 50));
        service.wait(Duration::from_secs(60));
        // After a quiet time it is made anew at once.
        let has = |service: &Service, name: &String| owners(service).contains(name);
        service.list(&of_weight(&names[..1001], 50));
        assert!(has(&service, &names[1000]), "{balance}");
        // Then these wait for each other, but for those that left.
        service.list(&of_weight(&names[1..], 50));
        assert!(!has(&service, &names[0]), "{balance}");
        assert!(!has(&service, &names[1001]), "{balance}");
        service.wait(Duration::from_millis(20));
        assert!(!has(&service, &names[1001]), "{balance}");
        service.wait(Duration::from_millis(40));
        assert!(has(&service, &names[1001]), "{balance}");
        // What comes of it is what another gateway has that knew no other list.
        let other = Service::new(balance, &of_weight(&names[1..], 50));
        service.wait(Duration::from_secs(60));
        assert_eq!(owners(&service), owners(&other), "{balance}");
    }
}
