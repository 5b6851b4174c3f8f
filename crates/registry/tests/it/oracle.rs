//! The same random operations to Apache ZooKeeper and to the registry.
//!
//! - `LIVEGATE_ORACLE_SEED` repeats a run; a failure says which one.
//! - `LIVEGATE_ORACLE_OPS` is the number of operations: 2 000, or 10 000 where `CI` is set.
//!
//! A failure is replayed in parts, to say with how few steps it happens; `LIVEGATE_ORACLE_SHRINK=0` leaves
//! that out.

mod differences;
mod generator;
mod side;
mod step;
mod text;

use std::fmt::Write;
use std::time::{Duration, Instant};

use self::generator::Generator;
use self::side::Side;
use self::step::Step;
use crate::judged::{Pair, Settings};

/// Steps that a failure shows.
const SHOWN: usize = 15;

/// How long a failure may be replayed.
const SHRINKING: Duration = Duration::from_secs(120);

/// A session can be over soon, if it wants that.
fn settings() -> Settings {
    Settings {
        tick: Duration::from_millis(200),
        timeouts: (Duration::from_millis(400), Duration::from_secs(7_200)),
        ..Settings::default()
    }
}

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is not a number: {text}")),
    )
}

#[test]
fn random_operations_are_answered_as_apache_zookeeper_answers_them() {
    let usual = if std::env::var("CI").is_ok_and(|value| value == "true") {
        10_000
    } else {
        2_000
    };
    let count = setting("LIVEGATE_ORACLE_OPS").unwrap_or(usual);
    let seed = setting("LIVEGATE_ORACLE_SEED").unwrap_or_else(|| fastrand::u64(..1_000_000));
    println!("LIVEGATE_ORACLE_SEED={seed} LIVEGATE_ORACLE_OPS={count}");
    let Some(pair) = Pair::start(&settings()) else {
        return;
    };
    let mut run = Run::new(pair);
    let mut generator = Generator::new(seed);
    let mut steps = Vec::new();
    for number in 0..=count {
        let step = if number == count {
            Step::Inspect
        } else {
            generator.next(run.reference.tree())
        };
        steps.push(step.clone());
        let difference = run.apply(&step);
        if let Some(difference) = difference {
            drop(run);
            panic!("{}", report(seed, &steps, &difference));
        }
        generator.learn(&mut run.reference);
    }
    println!("{}", run.summary());
}

/// Both servers in the middle of a run.
struct Run {
    pair: Pair,
    reference: Side,
    judged: Side,
    /// How often each kind of answer came.
    answers: std::collections::BTreeMap<String, usize>,
}

impl Run {
    fn new(pair: Pair) -> Self {
        let [reference, judged] = pair.addresses();
        Self {
            pair,
            reference: Side::new(reference),
            judged: Side::new(judged),
            answers: std::collections::BTreeMap::new(),
        }
    }

    /// Does a step to both; the difference between what came of it.
    fn apply(&mut self, step: &Step) -> Option<String> {
        if matches!(step, Step::Restart) {
            self.reference.disconnect();
            self.judged.disconnect();
            self.pair.restart();
        }
        let (expected, found) = std::thread::scope(|scope| {
            let judged = scope.spawn(|| self.judged.apply(step));
            (self.reference.apply(step), judged.join().unwrap())
        });
        self.count(step, &expected);
        if expected == found {
            return None;
        }
        let mut text = String::new();
        for line in diff(&expected, &found) {
            writeln!(text, "  {line}").unwrap();
        }
        Some(text)
    }

    fn count(&mut self, step: &Step, lines: &[String]) {
        let kind = match step {
            Step::Request { request, .. } => {
                let end = request.text.find(['(', ' ']).unwrap_or(request.text.len());
                request.text[..end].to_owned()
            }
            other => format!("{other:?}")
                .chars()
                .take_while(|&c| c != ' ')
                .collect(),
        };
        let error = lines
            .iter()
            .find_map(|line| line.strip_prefix("reply to "))
            .and_then(|line| line.split(' ').nth(3))
            .unwrap_or("-");
        // A multi always succeeds; its parts may not.
        let failed_part = lines.iter().any(|line| line.contains(" error "));
        let error = if failed_part { "part failed" } else { error };
        *self.answers.entry(format!("{kind} {error}")).or_default() += 1;
        let events = lines.iter().filter(|line| line.contains("event ")).count();
        *self.answers.entry("events".to_owned()).or_default() += events;
    }

    fn summary(&self) -> String {
        let counts: Vec<_> = self
            .answers
            .iter()
            .map(|(kind, count)| format!("{kind}: {count}"))
            .collect();
        counts.join(", ")
    }
}

/// Lines of both, those that differ marked.
fn diff(expected: &[String], found: &[String]) -> Vec<String> {
    let same = |lines: &mut dyn Iterator<Item = (&String, &String)>| {
        lines
            .take_while(|(expected, found)| expected == found)
            .count()
    };
    let before = same(&mut expected.iter().zip(found));
    let shorter = expected.len().min(found.len()) - before;
    let after = same(&mut expected.iter().rev().zip(found.iter().rev())).min(shorter);
    let marked = |mark: &'static str, lines: &[String]| {
        let shown = lines.iter().take(2 * SHOWN);
        shown
            .map(|line| format!("{mark} {line}"))
            .collect::<Vec<_>>()
    };
    // An inspection has hundreds of lines.
    let context = before.min(SHOWN);
    [
        marked("both  ", &expected[before - context..before]),
        marked("apache", &expected[before..expected.len() - after]),
        marked("judged", &found[before..found.len() - after]),
        marked(
            "both  ",
            &expected[expected.len() - after..][..after.min(SHOWN)],
        ),
    ]
    .concat()
}

fn report(seed: u64, steps: &[Step], difference: &str) -> String {
    let mut text = format!(
        "LIVEGATE_ORACLE_SEED={seed}: step {} differs. The last steps:\n",
        steps.len()
    );
    for (number, step) in steps
        .iter()
        .enumerate()
        .skip(steps.len().saturating_sub(SHOWN))
    {
        writeln!(text, "  {} {step:?}", number + 1).unwrap();
    }
    writeln!(text, "What came of the last one:\n{difference}").unwrap();
    if setting("LIVEGATE_ORACLE_SHRINK") != Some(0) {
        let (fewer, difference) = shrink(steps, difference);
        writeln!(text, "It also happens with these {} steps:", fewer.len()).unwrap();
        for step in fewer.iter().rev().take(2 * SHOWN).rev() {
            writeln!(text, "  {step:?}").unwrap();
        }
        writeln!(text, "What comes of the last one:\n{difference}").unwrap();
    }
    text
}

/// Leaves out steps as long as the last one still differs, and no other does.
fn shrink(steps: &[Step], difference: &str) -> (Vec<Step>, String) {
    let deadline = Instant::now() + SHRINKING;
    let mut best = (steps.to_vec(), difference.to_owned());
    let mut part = steps.len() / 2;
    while part > 0 && Instant::now() < deadline {
        let mut start = 0;
        while start + 1 < best.0.len() && Instant::now() < deadline {
            let end = (start + part).min(best.0.len() - 1);
            let mut fewer = best.0[..start].to_vec();
            fewer.extend_from_slice(&best.0[end..]);
            match replay(&fewer) {
                Some(difference) => best = (fewer, difference),
                None => start = end,
            }
        }
        part /= 2;
    }
    best
}

/// The difference that the last step makes on new servers, if it makes one and no other step does.
fn replay(steps: &[Step]) -> Option<String> {
    let mut run = Run::new(Pair::start(&settings())?);
    let (last, others) = steps.split_last()?;
    if others.iter().any(|step| run.apply(step).is_some()) {
        return None;
    }
    run.apply(last)
}
