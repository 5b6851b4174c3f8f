//! Load that counts every failure and retries nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::client::{Client, HOST};
use super::wait::wait_until;

/// What a connection does next.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Get,
    Post,
}

/// One answered request.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    /// When it was sent.
    pub(crate) sent: Instant,
    pub(crate) latency: Duration,
    pub(crate) target: String,
}

/// A request that got no right answer.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) sent: Instant,
    pub(crate) target: String,
    pub(crate) why: String,
}

#[derive(Default)]
pub(crate) struct Report {
    pub(crate) samples: Vec<Sample>,
    pub(crate) failures: Vec<Failure>,
}

impl Report {
    /// A latency that this share (0..=1) of the requests sent in `during` stayed below.
    pub(crate) fn quantile(&self, share: f64) -> Duration {
        let mut latencies: Vec<Duration> =
            self.samples.iter().map(|sample| sample.latency).collect();
        latencies.sort_unstable();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an index within the list"
        )]
        let index = ((latencies.len() as f64 * share) as usize).min(latencies.len() - 1);
        latencies[index]
    }

    pub(crate) fn slowest(&self) -> Duration {
        self.samples
            .iter()
            .map(|sample| sample.latency)
            .max()
            .unwrap_or_default()
    }
}

/// Keep-alive connections, each sending its next request when the answer to the last has come.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Report>>,
}

impl Load {
    /// `tag` becomes part of every target (`/TAG/CONNECTION/NUMBER`), so that logs can be told apart.
    pub(crate) fn start(
        gateway: SocketAddr,
        connections: usize,
        tag: &str,
        method: Method,
    ) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU64::new(0));
        let threads = (0..connections)
            .map(|connection| {
                let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
                let prefix = format!("/{tag}/{connection}");
                std::thread::Builder::new()
                    .stack_size(512 * 1024)
                    .spawn(move || run(gateway, &prefix, method, &stop, &answered))
                    .unwrap()
            })
            .collect();
        Load {
            stop,
            answered,
            threads,
        }
    }

    /// Right answers so far.
    pub(crate) fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Waits for this many more right answers, for as long as any come.
    #[track_caller]
    pub(crate) fn run_for(&self, count: u64) {
        let goal = self.answered() + count;
        while self.answered() < goal {
            let before = self.answered();
            wait_until("any answer at all", || self.answered() != before);
        }
    }

    /// Lets every connection finish its request, and adds up.
    pub(crate) fn finish(mut self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        let mut sum = Report::default();
        for thread in self.threads.drain(..) {
            let report = thread.join().unwrap();
            sum.samples.extend(report.samples);
            sum.failures.extend(report.failures);
        }
        sum
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn run(
    gateway: SocketAddr,
    prefix: &str,
    method: Method,
    stop: &AtomicBool,
    answered: &AtomicU64,
) -> Report {
    let mut report = Report::default();
    let mut client = None;
    let mut number = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        let target = format!("{prefix}/{number}");
        number += 1;
        let sent = Instant::now();
        match exchange(&mut client, gateway, &target, method) {
            Ok(()) => {
                report.samples.push(Sample {
                    sent,
                    latency: sent.elapsed(),
                    target,
                });
                answered.fetch_add(1, Ordering::Relaxed);
            }
            Err(why) => {
                report.failures.push(Failure { sent, target, why });
                client = None;
            }
        }
    }
    report
}

/// One request; the connection is kept unless the gateway announced its end.
fn exchange(
    client: &mut Option<Client>,
    gateway: SocketAddr,
    target: &str,
    method: Method,
) -> Result<(), String> {
    let connection = client.get_or_insert_with(|| Client::connect(gateway));
    let (name, rest) = match method {
        Method::Get => ("GET", "\r\n".to_owned()),
        Method::Post => (
            "POST",
            format!("Content-Length: {}\r\n\r\n{target}", target.len()),
        ),
    };
    if !connection.try_send(format!(
        "{name} {target} HTTP/1.1\r\nHost: {HOST}\r\n{rest}"
    )) {
        return Err("connection lost while sending".to_owned());
    }
    let response = connection
        .read_within(name, Duration::from_secs(60))
        .map_err(|error| error.to_string())?;
    if !response.complete {
        return Err(format!("{} cut short: {:?}", response.status, response.why));
    }
    if response.status != 200 {
        return Err(format!("{} {}", response.status, response.text()));
    }
    if response.text() != format!("{name} {target}\n") {
        return Err(format!("a foreign answer: {:?}", response.text()));
    }
    if response.closes() {
        *client = None;
    }
    Ok(())
}

/// All failures, when there are any, in a form that a person can read.
#[track_caller]
pub(crate) fn assert_none(failures: &[Failure], since: Instant) {
    let list: Vec<String> = failures
        .iter()
        .take(20)
        .map(|failure| {
            let at = failure.sent.checked_duration_since(since).map_or_else(
                || format!("-{:?}", since - failure.sent),
                |after| format!("+{after:?}"),
            );
            format!("{at} {}: {}", failure.target, failure.why)
        })
        .collect();
    assert!(
        failures.is_empty(),
        "{} failed requests:\n{}",
        failures.len(),
        list.join("\n")
    );
}
