//! Who gets how much, through joins, leaves and changes of weight.

use std::collections::BTreeMap;
use std::time::Duration;

use livegate_discovery::{
    Balance, EndpointKey, NoEndpoint, Outcome, Policy, Snapshot, Status, channel,
};
use proptest::prelude::*;

use crate::fixture::{Service, answered, instance};

const UNKEYED: [Balance; 5] = [
    Balance::Random,
    Balance::RoundRobin,
    Balance::WeightedRoundRobin,
    Balance::LeastRequest,
    Balance::PeakEwma,
];

#[test]
fn the_weighted_sequence_is_exact() {
    let service = Service::new(Balance::WeightedRoundRobin, &[("a", 4), ("b", 3), ("c", 2)]);
    let sequence: Vec<String> = (0..18).map(|_| service.request(None)).collect();
    assert_eq!(sequence.concat(), "abcabacba".repeat(2));
}

#[test]
fn round_robin_takes_turns_whatever_the_weights() {
    let service = Service::new(
        Balance::RoundRobin,
        &[("a", 4), ("b", 3), ("c", 2), ("idle", 0)],
    );
    let sequence: Vec<String> = (0..6).map(|_| service.request(None)).collect();
    assert_eq!(sequence.concat(), "abcabc");
}

/// What a balance may be off by, of the whole, over 20 000 requests to an idle service.
fn tolerance(balance: Balance) -> f64 {
    match balance {
        Balance::RoundRobin | Balance::WeightedRoundRobin => 0.001,
        // Three standard deviations of the share are below 0.011.
        Balance::Random | Balance::LeastRequest | Balance::ConsistentHash | Balance::Maglev => {
            0.012
        }
        // All latencies are equal, but older ones have faded a little more: two choices by age.
        Balance::PeakEwma => 0.08,
    }
}

fn assert_in_proportion(service: &Service, balance: Balance, weights: &[(&str, u32)]) {
    let counts = service.requests(20_000);
    let weight = |weight: u32| {
        if balance == Balance::RoundRobin {
            weight.min(1)
        } else {
            weight
        }
    };
    let total: u32 = weights.iter().map(|(_, w)| weight(*w)).sum();
    assert_eq!(
        counts.len(),
        weights.iter().filter(|(_, w)| *w > 0).count(),
        "{balance} {counts:?}"
    );
    for (name, w) in weights.iter().filter(|(_, w)| *w > 0) {
        let share = counts[*name] as f64 / 20_000.0;
        let expected = f64::from(weight(*w)) / f64::from(total);
        assert!(
            (share - expected).abs() <= tolerance(balance),
            "{balance} {name}: {share} for {expected}"
        );
    }
}

#[test]
fn shares_follow_weights_through_joins_leaves_and_changes() {
    for balance in UNKEYED
        .into_iter()
        .chain([Balance::ConsistentHash, Balance::Maglev])
    {
        let mut weights = vec![("a", 40), ("b", 30), ("c", 20)];
        let mut service = Service::new(balance, &weights);
        assert_in_proportion(&service, balance, &weights);
        weights.push(("d", 50));
        service.list(&weights);
        assert_in_proportion(&service, balance, &weights);
        weights.remove(1);
        service.list(&weights);
        assert_in_proportion(&service, balance, &weights);
        weights[0] = ("a", 10);
        service.list(&weights);
        assert_in_proportion(&service, balance, &weights);
        weights[1] = ("c", 0);
        service.list(&weights);
        assert_in_proportion(&service, balance, &weights);
    }
}

#[test]
fn churn_favours_nobody() {
    // The list changes after every third request, which would send all of them to the first three
    // if the sequence began anew each time.
    for balance in [Balance::RoundRobin, Balance::WeightedRoundRobin] {
        let names: Vec<String> = (0..8).map(|number| format!("i{number}")).collect();
        let stable: Vec<(&str, u32)> = names.iter().map(|name| (name.as_str(), 50)).collect();
        let mut service = Service::new(balance, &stable);
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for round in 0..4000 {
            let mut list = stable.clone();
            if round % 2 == 0 {
                list.push(("zz", 50));
            }
            service.list(&list);
            for (name, count) in service.requests(3) {
                *counts.entry(name).or_default() += count;
            }
        }
        counts.remove("zz");
        let (min, max) = (
            counts.values().min().unwrap(),
            counts.values().max().unwrap(),
        );
        assert!(counts.len() == 8 && *max < 2 * *min, "{counts:?}");
    }
}

#[test]
fn least_request_keeps_load_in_proportion_to_weight() {
    let service = Service::new(
        Balance::LeastRequest,
        &[("a", 30), ("b", 10), ("c", 10), ("d", 10)],
    );
    let picks: Vec<_> = (0..600)
        .map(|_| service.balancer.pick(None, &[], service.now).unwrap())
        .collect();
    let load = |name| f64::from(service.endpoint(name).in_flight());
    assert!((270.0..330.0).contains(&load("a")), "{}", load("a"));
    for name in ["b", "c", "d"] {
        assert!(
            (85.0..115.0).contains(&load(name)),
            "{name}: {}",
            load(name)
        );
    }
    drop(picks);
    assert_eq!(load("a"), 0.0);
}

#[test]
fn least_request_avoids_the_busy_one() {
    let service = Service::new(Balance::LeastRequest, &[("a", 50), ("b", 50)]);
    let held = service
        .balancer
        .pick(None, &[service.endpoint("b").key()], service.now)
        .unwrap();
    assert_eq!(held.endpoint().id().as_str(), "a");
    assert_eq!(service.requests(1000)["b"], 1000);
}

#[test]
fn peak_ewma_prefers_the_fast_one_and_tries_the_slow_one_again() {
    let mut service = Service::new(Balance::PeakEwma, &[("fast", 50), ("slow", 50)]);
    let serve = |service: &mut Service, count: u32| {
        let mut slow = 0;
        for _ in 0..count {
            let pick = service.balancer.pick(None, &[], service.now).unwrap();
            let is_slow = pick.endpoint().id().as_str() == "slow";
            slow += u32::from(is_slow);
            service.now += Duration::from_millis(5);
            pick.finish(answered(200, if is_slow { 100 } else { 5 }), service.now);
        }
        slow
    };
    assert!(serve(&mut service, 1000) < 20);
    // Three times the decay later, 100 ms have faded to 5 ms.
    service.now += Duration::from_secs(30);
    assert!((1..20).contains(&serve(&mut service, 1000)));
}

#[test]
fn peak_ewma_gives_a_new_endpoint_one_request_at_a_time() {
    let mut service = Service::new(Balance::PeakEwma, &[("a", 50)]);
    service.requests(10);
    service.list(&[("a", 50), ("new", 50)]);
    let picks: Vec<_> = (0..50)
        .map(|_| service.balancer.pick(None, &[], service.now).unwrap())
        .collect();
    assert_eq!(service.endpoint("new").in_flight(), 1);
    drop(picks);
}

#[test]
fn what_was_tried_is_avoided_while_anything_else_is_fit() {
    for balance in Balance::ALL {
        let service = Service::new(balance, &[("a", 1), ("b", 1000), ("c", 0)]);
        let tried: [EndpointKey; 1] = [service.endpoint("b").key()];
        for key in 0..200 {
            let pick = service
                .balancer
                .pick(Some(key), &tried, service.now)
                .unwrap();
            assert_eq!(pick.endpoint().id().as_str(), "a", "{balance}");
            assert!(!pick.is_panic());
        }
        let both = [tried[0], service.endpoint("a").key()];
        let pick = service.balancer.pick(Some(1), &both, service.now).unwrap();
        assert!(
            ["a", "b"].contains(&pick.endpoint().id().as_str()),
            "tried ones are better than none"
        );
    }
}

#[test]
fn without_endpoints_one_is_told_why() {
    let (mut updater, balancer) = channel(Policy::default(), 1);
    let now = std::time::Instant::now();
    let reason = || balancer.pick(None, &[], now).unwrap_err();
    assert_eq!(reason(), NoEndpoint::Pending);
    updater.apply(
        &Snapshot {
            status: Status::Absent,
            ..Snapshot::pending()
        },
        now,
    );
    assert_eq!(reason(), NoEndpoint::Absent);
    updater.apply(&Snapshot::live(2, []), now);
    assert_eq!(reason(), NoEndpoint::Empty);
    updater.apply(&Snapshot::live(3, [instance("a", 0)]), now);
    assert_eq!(reason(), NoEndpoint::AllUnfit);
    updater.apply(&Snapshot::live(4, [instance("a", 1)]), now);
    assert!(balancer.pick(None, &[], now).is_ok());
}

fn outcome() -> impl Strategy<Value = Option<Outcome>> {
    prop_oneof![
        Just(None),
        Just(Some(answered(200, 3))),
        Just(Some(answered(503, 3))),
        Just(Some(Outcome::Refused)),
        Just(Some(Outcome::ConnectTimeout)),
        Just(Some(Outcome::Reset)),
        Just(Some(Outcome::HeadTimeout)),
        Just(Some(Outcome::BadResponse)),
        Just(Some(Outcome::BodyFailed)),
        Just(Some(Outcome::Cancelled)),
    ]
}

proptest! {
    /// Whatever happens to picks, in whatever order, with or without a first byte, and to the
    /// list meanwhile: nothing stays in flight, nothing is counted twice.
    #[test]
    fn nothing_leaks(
        balance in prop::sample::select(Balance::ALL.to_vec()),
        steps in prop::collection::vec((outcome(), any::<bool>(), 0usize..8, 0u32..4), 1..200),
    ) {
        let mut service = Service::new(balance, &[("a", 3), ("b", 2), ("c", 1)]);
        let endpoints: Vec<_> = ["a", "b", "c"].map(|name| service.endpoint(name)).into();
        let mut held = Vec::new();
        let mut picked = 0;
        for (outcome, heard, index, weight) in steps {
            if weight == 3 {
                service.list(&[("a", 3), ("b", weight), ("c", 1)]);
            }
            let Ok(pick) = service.balancer.pick(Some(index as u64), &[], service.now) else { continue };
            picked += 1;
            if heard {
                pick.heard(service.now);
                pick.heard(service.now);
            }
            held.push((pick, outcome));
            if index < held.len() {
                match held.swap_remove(index) {
                    (pick, Some(outcome)) => pick.finish(outcome, service.now),
                    (pick, None) => drop(pick),
                }
            }
            service.now += Duration::from_millis(7);
            service.updater.tick(service.now);
        }
        let in_flight: u32 = endpoints.iter().map(|endpoint| endpoint.in_flight()).sum();
        prop_assert_eq!(in_flight as usize, held.len());
        held.clear();
        prop_assert!(endpoints.iter().all(|endpoint| endpoint.in_flight() == 0));
        prop_assert_eq!(endpoints.iter().map(|endpoint| endpoint.requests()).sum::<u64>(), picked);
    }

    /// The load of an idle service stays within twice its share through any sequence of lists.
    #[test]
    fn nobody_gets_twice_its_share(
        balance in prop::sample::select(vec![Balance::RoundRobin, Balance::WeightedRoundRobin]),
        lists in prop::collection::vec(prop::collection::btree_map("[a-h]", 1u32..100, 2..8), 1..12),
    ) {
        let mut service = Service::new(balance, &[]);
        for list in lists {
            let list: Vec<(&str, u32)> = list.iter().map(|(name, weight)| (name.as_str(), *weight)).collect();
            service.list(&list);
            let total: u32 = list.iter().map(|(_, weight)| weight).sum();
            let counts = service.requests(u64::from(total) * 3);
            for (name, weight) in list.iter().copied() {
                let share = if balance == Balance::RoundRobin {
                    f64::from(total) * 3.0 / list.len() as f64
                } else {
                    f64::from(weight) * 3.0
                };
                let count = counts.get(name).copied().unwrap_or(0) as f64;
                prop_assert!((count - share).abs() < 1.0, "{} of {} for {}", count, share, name);
            }
        }
    }
}
