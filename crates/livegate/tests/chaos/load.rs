//! Steady load: paced connections that count every failure and repeat nothing. One request in five is a
//! POST with a target of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::harness::client::{Client, HOST};

/// Longer than anything a gateway may take (`response_head` is 30 s).
const PATIENCE: Duration = Duration::from_secs(60);

/// How the end of a request looked from the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    Answered,
    /// An answer that is not the right one, or none within the time.
    Wrong(String),
    /// The connection to the gateway was lost.
    Lost(String),
}

/// One request that was sent to a gateway that listened.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) sent: Instant,
    pub(crate) done: Instant,
    pub(crate) is_post: bool,
    /// As the instance sees it.
    pub(crate) target: String,
    pub(crate) end: End,
}

pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    refused: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Vec<Sample>>>,
}

impl Load {
    pub(crate) fn start(
        gateway: SocketAddr,
        service: &'static str,
        connections: u32,
        requests_per_second: u32,
    ) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let refused = Arc::new(AtomicU64::new(0));
        let interval = Duration::from_secs(1) * connections / requests_per_second;
        let threads = (0..connections).map(|connection| {
            let (stop, refused) = (Arc::clone(&stop), Arc::clone(&refused));
            std::thread::Builder::new()
                .stack_size(512 * 1024)
                .spawn(move || {
                    let offset = interval * connection / connections;
                    run(
                        gateway,
                        service,
                        connection,
                        (offset, interval),
                        &stop,
                        &refused,
                    )
                })
                .unwrap()
        });
        Load {
            threads: threads.collect(),
            stop,
            refused,
        }
    }

    /// Lets every connection finish its request; the requests, and how often nobody listened.
    pub(crate) fn finish(mut self) -> (Vec<Sample>, u64) {
        self.stop.store(true, Ordering::Relaxed);
        let mut samples = Vec::new();
        for thread in self.threads.drain(..) {
            samples.extend(thread.join().unwrap());
        }
        samples.sort_by_key(|sample| sample.done);
        (samples, self.refused.load(Ordering::Relaxed))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn run(
    gateway: SocketAddr,
    service: &str,
    connection: u32,
    (offset, interval): (Duration, Duration),
    stop: &AtomicBool,
    refused: &AtomicU64,
) -> Vec<Sample> {
    let mut samples = Vec::new();
    let mut client = None;
    let mut next = Instant::now() + offset;
    for number in 0_u64.. {
        std::thread::park_timeout(next.saturating_duration_since(Instant::now()));
        if stop.load(Ordering::Relaxed) {
            break;
        }
        // What came too late is not made up for.
        next = (next + interval).max(Instant::now());
        if client.is_none() {
            client = Client::try_connect(gateway);
        }
        let Some(connected) = &mut client else {
            refused.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        let is_post = number % 5 == 4;
        let target = format!("/r/{connection}/{number}");
        let sent = Instant::now();
        let (end, keeps) = exchange(connected, service, &target, is_post);
        if !keeps {
            client = None;
        }
        samples.push(Sample {
            sent,
            done: Instant::now(),
            is_post,
            target,
            end,
        });
    }
    samples
}

/// One request, and whether its connection can take another.
fn exchange(client: &mut Client, service: &str, target: &str, is_post: bool) -> (End, bool) {
    let (method, rest) = if is_post {
        let length = target.len();
        ("POST", format!("Content-Length: {length}\r\n\r\n{target}"))
    } else {
        ("GET", "\r\n".to_owned())
    };
    let request = format!("{method} /{service}{target} HTTP/1.1\r\nHost: {HOST}\r\n{rest}");
    if !client.try_send(request) {
        return (End::Lost("while sending".to_owned()), false);
    }
    let response = match client.read_within(method, PATIENCE) {
        Ok(response) => response,
        Err(error) => return (End::Lost(error.to_string()), false),
    };
    if !response.complete {
        return (End::Lost(format!("{:?}", response.why)), false);
    }
    let end = if response.status != 200 {
        let reason = response.get("x-livegate-reason").unwrap_or("no reason");
        End::Wrong(format!("{} {reason}", response.status))
    } else if response.text() == format!("{method} {target}\n") {
        End::Answered
    } else {
        End::Wrong(format!("a foreign answer: {:?}", response.text()))
    };
    (end, !response.closes())
}
