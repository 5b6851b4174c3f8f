//! A light load that counts every failure and retries nothing.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at};

use super::cast::SERVICES;
use super::fetch::{Answer, fetch};
use super::voice::Voice;

/// Between two requests to one service.
const PAUSE: Duration = Duration::from_millis(250);
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// Requests to one service that may be under way at once.
const IN_FLIGHT_MAX: usize = 64;

/// Answers that have not been counted yet; the load waits when there are more.
const RESULTS_MAX: usize = 64;

/// One request's end: who answered, or why it failed.
struct Outcome {
    service: &'static str,
    result: Result<String, String>,
}

/// Requests to all services.
pub(super) struct Load<'a> {
    gateway: SocketAddr,
    voice: &'a Voice,
    tally: Tally,
}

#[derive(Default)]
struct Tally {
    requests: u64,
    failures: u64,
    /// Since the last report, by service and instance.
    answers: BTreeMap<(&'static str, String), u64>,
}

impl<'a> Load<'a> {
    pub(super) fn new(gateway: SocketAddr, voice: &'a Voice) -> Self {
        Self {
            gateway,
            voice,
            tally: Tally::default(),
        }
    }

    /// Sends and reports for ever.
    pub(super) async fn run(mut self) {
        let (tx, mut rx) = mpsc::channel(RESULTS_MAX);
        let mut clients = JoinSet::new();
        for service in SERVICES {
            clients.spawn(send(self.gateway, service.name, tx.clone()));
        }
        let mut reports = interval_at(Instant::now() + REPORT_INTERVAL, REPORT_INTERVAL);
        loop {
            tokio::select! {
                Some(outcome) = rx.recv() => {
                    if let Some(failure) = self.tally.count(outcome) {
                        self.voice.warn(&failure);
                    }
                }
                _ = reports.tick() => self.voice.tell(&self.tally.report()),
            }
        }
    }
}

/// Does not wait for answers before it sends more, as clients that do not know of each other: an instance
/// that is frozen is noticed by what the others answer meanwhile.
async fn send(gateway: SocketAddr, service: &'static str, outcomes: mpsc::Sender<Outcome>) {
    let mut ticks = interval(PAUSE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut requests = JoinSet::new();
    loop {
        tokio::select! {
            _ = ticks.tick(), if requests.len() < IN_FLIGHT_MAX => {
                requests.spawn(async move {
                    let answer = fetch(gateway, &format!("/{service}/")).await;
                    let result = answer.and_then(|answer| who(&answer));
                    Outcome { service, result }
                });
            }
            Some(Ok(outcome)) = requests.join_next() => {
                if outcomes.send(outcome).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// The instance that answered.
fn who(answer: &Answer) -> Result<String, String> {
    if !answer.status.is_success() {
        let reason = answer.headers.get("x-livegate-reason");
        let reason = reason.and_then(|reason| reason.to_str().ok());
        return Err(format!("{} {}", answer.status, reason.unwrap_or_default()));
    }
    let json: Value = serde_json::from_slice(&answer.body)
        .map_err(|error| format!("an answer that is not the instance's: {error}"))?;
    let instance = json["instance"].as_str();
    instance.map_or_else(
        || Err("an answer that names no instance".to_owned()),
        |instance| Ok(instance.to_owned()),
    )
}

impl Tally {
    /// What to say about it, if it failed.
    fn count(&mut self, outcome: Outcome) -> Option<String> {
        let Outcome { service, result } = outcome;
        self.requests += 1;
        match result {
            Ok(instance) => {
                *self.answers.entry((service, instance)).or_default() += 1;
                None
            }
            Err(why) => {
                self.failures += 1;
                Some(format!("FAILED  GET /{service}/: {why}"))
            }
        }
    }

    /// All there was so far, and who answered since the last report.
    fn report(&mut self) -> String {
        let Self {
            requests, failures, ..
        } = self;
        let mut text = format!("{requests} requests, {failures} failed; last answers:");
        let mut last = "";
        for ((service, instance), count) in std::mem::take(&mut self.answers) {
            if service != last {
                let separator = if last.is_empty() { "" } else { "," };
                write!(text, "{separator} {service}").expect("a string takes everything");
                last = service;
            }
            let port = instance.rsplit(':').next().unwrap_or_default();
            write!(text, " {port}:{count}").expect("a string takes everything");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_and_answers_counted() {
        let mut tally = Tally::default();
        let mut count = |service, result: Result<&str, &str>| {
            let result = result.map(str::to_owned).map_err(str::to_owned);
            tally.count(Outcome { service, result })
        };
        assert_eq!(count("orders", Ok("127.0.0.1:7102")), None);
        assert_eq!(count("orders", Ok("127.0.0.1:7101")), None);
        assert_eq!(count("prices", Ok("127.0.0.1:7201")), None);
        assert_eq!(count("orders", Ok("127.0.0.1:7101")), None);
        assert_eq!(
            count("prices", Err("502 Bad Gateway connect_failed")).as_deref(),
            Some("FAILED  GET /prices/: 502 Bad Gateway connect_failed")
        );
        assert_eq!(
            tally.report(),
            "5 requests, 1 failed; last answers: orders 7101:2 7102:1, prices 7201:1"
        );
        assert_eq!(tally.report(), "5 requests, 1 failed; last answers:");
    }
}
