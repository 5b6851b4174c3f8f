//! What a change costs on its way through the library, by balance and number of instances:
//! `cargo run --profile quick -p livegate-discovery --example change_cost`.
//!
//! Processor time in microseconds, medians: to make a snapshot with one change out of the one before, to take it
//! in and publish the view (one instance comes or goes; the table for keys of a large service is made at
//! once only after a quiet time), and a tick: of a quiet service, and of one with a request for every
//! ten endpoints since the last tick.
//!
//! On a core of a virtual machine (about 5 microseconds of each number are the measuring; a view of 10 000 that
//! follows closely on another waits, so it is in the first column of `apply` only):
//!
//! ```text
//! instances balance               snapshot  apply  apply, table kept  quiet tick  busy tick
//!      1000 random                     6.8     17                 14         5.3        7.3
//!      1000 round-robin                6.6     16                 13         5.3        6.8
//!      1000 weighted-round-robin       6.5     17                 13         5.1        7.1
//!      1000 least-request              6.9     16                 13         5.2        6.9
//!      1000 peak-ewma                  6.7     17                 14         5.3        7.4
//!      1000 consistent-hash            8.5    779                 23         3.3        4.3
//!      1000 maglev                    10.8   2601                 35         3.2        4.3
//!     10000 random                     5.1     19                 11         3.6       18.9
//!     10000 round-robin                7.1     28                 13         3.6       12.2
//!     10000 weighted-round-robin       5.4     21                 12         8.3       12.3
//!     10000 least-request              5.0     19                 11         3.6       22.0
//!     10000 peak-ewma                  5.1     21                 12         3.6       26.1
//!     10000 consistent-hash           14.3   1961                 32         5.7       48.5
//!     10000 maglev                    14.5   3053                 35         3.6       17.9
//! ```
//!
//! All have one weight here; of different ones a weighted sequence is computed step by step.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use livegate_discovery::{Balance, Instance, Outcome, Policy, Snapshot, channel};

const ROUNDS: u16 = 100;

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

    let (mut snapshots, mut applies, mut close_applies) = (vec![], vec![], vec![]);
    for round in 0..4 * ROUNDS {
        // In turn long after the last change, so that it is warm and the table is due, and soon.
        let is_close = round % 2 == 1;
        for _ in 0..if is_close { 0 } else { 3 } {
            now += Duration::from_secs(60);
            updater.tick(now);
        }
        now += Duration::from_millis(2);
        let other = instance(count + round / 2);
        let start = on_processor();
        let mut instances = snapshot.instances.clone();
        if round % 4 < 2 {
            instances.insert(other.id.clone(), Arc::new(other));
        } else {
            instances.remove(&instance(round).id);
        }
        let next = Arc::new(Snapshot {
            revision: snapshot.revision + 1,
            instances,
            ..Snapshot::clone(&snapshot)
        });
        let made = on_processor();
        updater.apply(&next, now);
        let took = on_processor() - made;
        snapshot = next;
        snapshots.push(made - start);
        if is_close {
            close_applies.push(took);
        } else {
            applies.push(took);
        }
    }

    now += Duration::from_secs(60);
    updater.tick(now);
    let mut tick = || {
        now += Duration::from_millis(100);
        let start = on_processor();
        updater.tick(now);
        (on_processor() - start, now)
    };
    let quiet_ticks = (0..ROUNDS).map(|_| tick().0).collect();
    let mut busy_ticks = vec![];
    let mut then = tick().1;
    for _ in 0..ROUNDS {
        for _ in 0..count / 10 {
            let pick = balancer.pick(None, &[], then).expect("endpoints");
            let latency = Duration::from_millis(1);
            pick.finish(
                Outcome::Answered {
                    status: 200,
                    latency,
                },
                then,
            );
        }
        let (took, now) = tick();
        busy_ticks.push(took);
        then = now;
    }
    println!(
        "{count:>9} {balance:<21} {:>8.1} {:>6.0} {:>18.0} {:>11.1} {:>10.1}",
        median(snapshots),
        median(applies),
        median(close_applies),
        median(quiet_ticks),
        median(busy_ticks),
    );
}

/// In microseconds.
fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e6
}

/// The time that Linux has given this thread so far, so that whatever else the machine does hardly counts.
fn on_processor() -> Duration {
    // It is up to date whenever the thread has been off the processor. The reading itself takes some
    // microseconds of it.
    thread::yield_now();
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    let nanos = stat.split(' ').next().expect("three numbers");
    Duration::from_nanos(nanos.parse().expect("a number"))
}
