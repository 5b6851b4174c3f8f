//! What a change costs on its way through the library, by balance and number of instances:
//! `cargo run --profile quick -p livegate-discovery --example change_cost`.
//!
//! Processor time in microseconds: to make a snapshot with one change out of the one before, to take it
//! in and publish the view (one instance comes or goes; the table for keys of a large service is made at
//! once only after a quiet time), and a tick: of a quiet service, and of one with a request to every
//! tenth endpoint since the last tick.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use livegate_discovery::{Balance, Instance, Outcome, Policy, Snapshot, channel};

const ROUNDS: u32 = 100;

fn main() {
    println!(
        "instances balance               snapshot  apply  apply, table kept  quiet tick  busy tick"
    );
    for count in [1_000u16, 10_000] {
        for balance in Balance::ALL {
            measure(count, balance);
        }
    }
}

fn instance(number: u16) -> Instance {
    let [high, low] = number.to_be_bytes();
    Instance::listed(SocketAddr::from(([10, 0, high, low], 80)), 50)
}

fn measure(count: u16, balance: Balance) {
    let policy = Policy {
        balance,
        ..Policy::default()
    };
    let (mut updater, balancer) = channel(policy, 1);
    let mut now = Instant::now();
    let mut snapshot = Arc::new(Snapshot::live(1, (0..count).map(instance)));
    updater.apply(&snapshot, now);

    let (mut snapshots, mut applies, mut close_applies) = (0, 0, 0);
    for round in 0..4 * ROUNDS {
        // Long enough for the last one to be warm, and the table to be due; or not.
        let is_close = round % 4 == 1 || round % 4 == 3;
        now += Duration::from_millis(if is_close { 2 } else { 60_000 });
        updater.tick(now);
        let start = nanos_on_processor();
        let other = instance(count + u16::try_from(round / 2).expect("few rounds"));
        let mut instances = snapshot.instances.clone();
        if round % 4 < 2 {
            instances.insert(other.id.clone(), Arc::new(other));
        } else {
            instances.remove(&instance(u16::try_from(round).expect("few rounds")).id);
        }
        let next = Arc::new(Snapshot {
            revision: snapshot.revision + 1,
            instances,
            ..Snapshot::clone(&snapshot)
        });
        let made = nanos_on_processor();
        updater.apply(&next, now);
        let applied = nanos_on_processor();
        snapshot = next;
        snapshots += made - start;
        if is_close {
            close_applies += applied - made;
        } else {
            applies += applied - made;
        }
    }

    now += Duration::from_secs(60);
    updater.tick(now);
    let mut ticks = 0;
    for _ in 0..ROUNDS {
        now += Duration::from_millis(100);
        let start = nanos_on_processor();
        updater.tick(now);
        ticks += nanos_on_processor() - start;
    }
    let mut busy_ticks = 0;
    for _ in 0..ROUNDS {
        for number in 0..u64::from(count) / 10 {
            let pick = balancer.pick(Some(number), &[], now).expect("endpoints");
            let latency = Duration::from_millis(1);
            pick.finish(
                Outcome::Answered {
                    status: 200,
                    latency,
                },
                now,
            );
        }
        now += Duration::from_millis(100);
        let start = nanos_on_processor();
        updater.tick(now);
        busy_ticks += nanos_on_processor() - start;
    }
    let micros = |nanos: u64, rounds: u32| nanos as f64 / f64::from(rounds) / 1000.0;
    println!(
        "{count:>9} {balance:<21} {:>6.1} {:>6.0} {:>18.0} {:>11.1} {:>10.1}",
        micros(snapshots, 4 * ROUNDS),
        micros(applies, 2 * ROUNDS),
        micros(close_applies, 2 * ROUNDS),
        micros(ticks, ROUNDS),
        micros(busy_ticks, ROUNDS),
    );
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
