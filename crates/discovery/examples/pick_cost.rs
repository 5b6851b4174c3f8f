//! What a pick and its end cost, by balance and number of threads:
//! `cargo run --release -p livegate-discovery --example pick_cost`.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use livegate_discovery::{Balance, Balancer, Instance, Outcome, Policy, Snapshot, channel};

const PICKS: u32 = 2_000_000;

fn main() {
    for count in [4u8, 100] {
        for balance in Balance::ALL {
            let policy = Policy {
                balance,
                ..Policy::default()
            };
            let (mut updater, balancer) = channel(policy, 1);
            let instances =
                (0..count).map(|n| Instance::listed(SocketAddr::from(([10, 0, 0, n], 80)), 50));
            updater.apply(&Snapshot::live(1, instances), Instant::now());
            let costs = [1, 2].map(|threads| nanos_per_pick(&balancer, threads));
            println!(
                "{count:>3} endpoints {balance:<21} 1 thread {:>4.0} ns, 2 threads {:>4.0} ns",
                costs[0], costs[1]
            );
        }
    }
}

/// Time on the processor, so that whatever else the machine does hardly counts.
fn nanos_per_pick(balancer: &Balancer, threads: u32) -> f64 {
    let now = Instant::now();
    let nanos: u64 = thread::scope(|scope| {
        let worker = || {
            let start = nanos_on_processor();
            for number in 0..PICKS {
                let pick = balancer
                    .pick(Some(u64::from(number)), &[], now)
                    .expect("endpoints");
                pick.heard(now);
                let latency = Duration::from_micros(u64::from(number % 512));
                pick.finish(
                    Outcome::Answered {
                        status: 200,
                        latency,
                    },
                    now,
                );
            }
            nanos_on_processor() - start
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        workers
            .into_iter()
            .map(|worker| worker.join().expect("it does not panic"))
            .sum()
    });
    nanos as f64 / f64::from(threads * PICKS)
}

/// Of this thread, as Linux counts it.
fn nanos_on_processor() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    stat.split(' ')
        .next()
        .expect("three numbers")
        .parse()
        .expect("a number")
}
