//! The chaos suite: the promise as a test. Instances are killed, frozen and restarted, registries die,
//! come back empty or are cut off, while clients send steady load, count every failure and repeat nothing.
//!
//! `tests/chaos [--quick] [--rows NAME,...] [--registry NAME,...] [--rate N]`; it ends with 1 when a row
//! breaks the promise: no failed GET, of POSTs at most those in flight on a killed instance, none executed
//! twice, and a frozen instance costs less than one request in a hundred.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that cannot go on fails"
)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;

use registry::Kind;
use rows::{Allowed, ROWS, Row};
use stage::{Outcome, Pace, Stage};

#[path = "../../../zk/tests/support/apache.rs"]
mod apache;
#[path = "../../../zk/tests/support/connect.rs"]
mod connect;
mod fleet;
#[path = "../../../zk/tests/support/forwarder.rs"]
mod forwarder;
#[allow(dead_code, reason = "shared with the black-box tests")]
mod harness;
mod load;
#[path = "../../../zk/tests/support/quorum.rs"]
#[allow(dead_code, reason = "shared with the tests of the client")]
mod quorum;
mod registry;
mod rows;
mod stage;

/// The promise as a test.
#[derive(Parser)]
#[command(name = "tests/chaos")]
struct Arguments {
    /// Short faults and short sessions, each row on one registry unless --registry names others.
    #[arg(long)]
    quick: bool,
    /// Only these rows.
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Only these registries: embedded (in the gateway), livegate (a process), apache, ensemble.
    #[arg(long, value_delimiter = ',')]
    registry: Vec<String>,
    /// Requests a second.
    #[arg(long, default_value_t = 800)]
    rate: u32,
    /// More configuration for the gateway (TOML), for instance to see what a setting is good for:
    /// '[services.orders.retry]\nattempts = 1' breaks the promise.
    #[arg(long, default_value = "")]
    config: String,
    /// Shows the rows and ends.
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    fleet::serve_if_told();
    let arguments = Arguments::parse();
    if arguments.list {
        for row in ROWS {
            println!("{:<16} {}", row.name, row.what);
        }
        return ExitCode::SUCCESS;
    }
    let plan = match plan(&arguments) {
        Ok(plan) => plan,
        Err(unknown) => {
            eprintln!("tests/chaos: there is no {unknown:?}; --list shows the rows");
            return ExitCode::from(2);
        }
    };
    let pace = Pace {
        is_quick: arguments.quick,
        requests_per_second: arguments.rate,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    let mut table = vec![heading()];
    for (row, kind) in &plan {
        let began = Instant::now();
        let run = || {
            let mut stage =
                Stage::set(*kind, pace, row.fleet, &arguments.config, runtime.handle())?;
            (row.run)(&mut stage);
            Some(stage.finish())
        };
        let result = catch_unwind(AssertUnwindSafe(run));
        let line = match result {
            Ok(None) => {
                skipped += 1;
                format!("{:<16} {:<9} SKIPPED", row.name, kind.name())
            }
            Ok(Some(mut outcome)) => {
                let broken = broken(row.allowed, &outcome);
                if broken.is_empty() {
                    passed += 1;
                    if let Some(evidence) = outcome.evidence.take() {
                        drop(std::fs::remove_dir_all(evidence));
                    }
                } else {
                    failed += 1;
                }
                show(row, *kind, &outcome, &broken)
            }
            Err(_) => {
                failed += 1;
                format!(
                    "{:<16} {:<9} BROKEN: it could not go on, see above",
                    row.name,
                    kind.name()
                )
            }
        };
        println!("{line}\n  {} took {:.0?}", row.what, began.elapsed());
        table.push(line);
    }
    let skipped = match skipped {
        0 => String::new(),
        count => format!(", {count} skipped"),
    };
    println!(
        "\n{}\n\n{passed} passed, {failed} failed{skipped}",
        table.join("\n")
    );
    ExitCode::from(u8::from(failed > 0))
}

/// The rows to run, and on which registry.
fn plan(arguments: &Arguments) -> Result<Vec<(&'static Row, Kind)>, String> {
    static ALL: [Row; 13] = ROWS;
    let kinds = arguments.registry.iter().map(|name| {
        let mut kinds = Kind::ALL.into_iter();
        kinds
            .find(|kind| kind.name() == name)
            .ok_or_else(|| name.clone())
    });
    let kinds: Vec<Kind> = kinds.collect::<Result<_, _>>()?;
    let unknown = |name: &&String| !ALL.iter().any(|row| row.name == **name);
    if let Some(name) = arguments.rows.iter().find(unknown) {
        return Err(name.clone());
    }
    let mut plan = Vec::new();
    for row in &ALL {
        if !arguments.rows.is_empty() && !arguments.rows.iter().any(|name| name == row.name) {
            continue;
        }
        let registries = if arguments.quick && kinds.is_empty() {
            row.quick
        } else {
            row.registries
        };
        let registries = registries.iter();
        let chosen = registries.filter(|kind| kinds.is_empty() || kinds.contains(kind));
        plan.extend(chosen.map(|kind| (row, *kind)));
    }
    Ok(plan)
}

/// In which ways the promise was broken.
fn broken(allowed: Allowed, outcome: &Outcome) -> Vec<&'static str> {
    let gets: usize = outcome.get_failures.values().sum();
    let failures_are_too_many = match allowed {
        Allowed::InFlight => gets > 0 || outcome.posts_unexplained > 0,
        Allowed::OnePercent => outcome.failures() * 100 >= outcome.requests,
    };
    let ways = [
        (outcome.requests < 100, "there was hardly any load"),
        (failures_are_too_many, "requests failed"),
        (outcome.twice > 0, "POSTs were executed twice"),
        (outcome.never > 0, "answered POSTs were never executed"),
    ];
    let ways = ways.into_iter();
    ways.filter(|(is_so, _)| *is_so)
        .map(|(_, what)| what)
        .collect()
}

fn heading() -> String {
    format!(
        "{:<16} {:<9} {:>8} {:>6} {:>6} {:>6} {:>7} {:>9} {:>9} {:>5}  {}",
        "row",
        "registry",
        "requests",
        "GETs",
        "POSTs",
        "twice",
        "retries",
        "gap",
        "slowest",
        ">1 s",
        "noticed"
    )
}

fn show(row: &Row, kind: Kind, outcome: &Outcome, broken: &[&str]) -> String {
    let noticed = outcome.noticed.as_ref();
    let mut line = format!(
        "{:<16} {:<9} {:>8} {:>6} {:>6} {:>6} {:>7} {:>6} ms {:>6} ms {:>5}  {}",
        row.name,
        kind.name(),
        outcome.requests,
        outcome.get_failures.values().sum::<usize>(),
        outcome.post_failures.values().sum::<usize>(),
        outcome.twice,
        outcome.retries,
        outcome.longest_gap.as_millis(),
        outcome.slowest.as_millis(),
        outcome.slow,
        noticed.map_or("-".to_owned(), |(after, kind)| format!(
            "{} ms ({kind})",
            after.as_millis()
        )),
    );
    for (method, failures) in [
        ("GET", &outcome.get_failures),
        ("POST", &outcome.post_failures),
    ] {
        for (reason, count) in failures {
            line += &format!("\n  {count} {method}: {reason}");
        }
    }
    if outcome.posts_unexplained > 0 && row.allowed == Allowed::InFlight {
        let count = outcome.posts_unexplained;
        line += &format!("\n  {count} failed POSTs were not in flight on a killed instance");
    }
    if outcome.unreached > 0 {
        let count = outcome.unreached;
        line += &format!("\n  {count} requests met no gateway while it was restarted");
    }
    if !broken.is_empty() {
        line += &format!("\n  BROKEN: {}", broken.join(", "));
    }
    if let Some(evidence) = &outcome.evidence {
        line += &format!("\n  see {}", evidence.display());
    }
    line
}
