//! Many threads pick and finish while one writes.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use livegate_discovery::{Balance, Outcome};

use crate::fixture::{Service, answered};

#[test]
fn no_count_is_lost() {
    const THREADS: u64 = 4;
    const PICKS: u64 = 5000;
    for balance in Balance::ALL {
        let mut service = Service::new(balance, &[("a", 3), ("b", 2), ("c", 1)]);
        let endpoints = ["a", "b", "c"].map(|name| service.endpoint(name));
        let done = AtomicBool::new(false);
        let balancer = service.balancer.clone();
        let failures: u64 = thread::scope(|scope| {
            let pickers: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let balancer = balancer.clone();
                    scope.spawn(move || {
                        let mut failures = 0;
                        for number in 0..PICKS {
                            let now = Instant::now();
                            let pick = balancer
                                .pick(Some(number), &[], now)
                                .expect("three endpoints");
                            match (number + thread) % 7 {
                                0 => drop(pick),
                                1 => {
                                    failures += 1;
                                    pick.finish(Outcome::Reset, now);
                                }
                                2 => {
                                    failures += 1;
                                    pick.finish(answered(502, 1), now);
                                }
                                3 => {
                                    pick.connected(now);
                                    pick.heard(now);
                                    pick.finish(Outcome::Cancelled, now);
                                }
                                _ => {
                                    pick.heard(now);
                                    pick.finish(answered(200, 1), now + Duration::from_millis(1));
                                }
                            }
                        }
                        failures
                    })
                })
                .collect();
            let writer = scope.spawn(|| {
                let mut weight = 1;
                while !done.load(Relaxed) {
                    weight = weight % 9 + 1;
                    service.now = Instant::now();
                    service.list(&[("a", weight), ("b", 2), ("c", 1), ("d", 0)]);
                    for endpoint in &endpoints {
                        service.updater.connected(endpoint, service.now);
                    }
                }
            });
            let failures = pickers
                .into_iter()
                .map(|picker| picker.join().unwrap())
                .sum();
            done.store(true, Relaxed);
            writer.join().unwrap();
            failures
        });
        assert!(
            endpoints.iter().all(|endpoint| endpoint.in_flight() == 0),
            "{balance}"
        );
        assert_eq!(
            endpoints
                .iter()
                .map(|endpoint| endpoint.requests())
                .sum::<u64>(),
            THREADS * PICKS,
            "{balance}"
        );
        assert_eq!(
            endpoints
                .iter()
                .map(|endpoint| endpoint.failures())
                .sum::<u64>(),
            failures,
            "{balance}"
        );
    }
}
