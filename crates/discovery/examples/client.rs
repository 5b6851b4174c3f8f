//! A client that finds a service in ZooKeeper and balances its calls over the instances, or over a fixed list
//! of addresses that it probes itself:
//!
//! ```text
//! cargo run -p livegate-discovery --example client -- hello [ZOOKEEPER]
//! cargo run -p livegate-discovery --example client -- 127.0.0.1:9001,127.0.0.1:9002
//! ```
//!
//! It calls ten times a second until SIGINT and prints who answered. Start two of the example `server`, kill
//! one or both, start them again: no call fails. Picking waits for nobody, so that a blocking HTTP client is
//! as good as any.

use std::error::Error;
use std::time::{Duration, Instant};

use livegate_discovery::finder::{Finder, ServiceClient};
use livegate_discovery::{Balance, Outcome, Policy};
use livegate_zk::client::{Client, ConnectOptions};
use tokio::runtime::{Handle, Runtime};

/// Attempts of one call, each at another instance as long as there are any.
const ATTEMPTS: usize = 3;
/// How long each of them waits for an instance to be there.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (target, registry) = match &words[..] {
        [target] => (target, "127.0.0.1:2181"),
        [target, registry] => (target, &registry[..]),
        _ => return Err("usage: client SERVICE [ZOOKEEPER] | client HOST:PORT,...".into()),
    };
    // Keeps the service up to date in the background.
    let runtime = Runtime::new()?;
    let _inside = runtime.enter();
    let finder = if target.contains(':') {
        let list: Result<Vec<_>, _> = target.split(',').map(str::parse).collect();
        Finder::list(list?)
    } else {
        Finder::new(Client::start(ConnectOptions::new(registry)?), target)
    };
    let policy = Policy {
        balance: Balance::LeastRequest,
        ..Policy::default()
    };
    let service = finder.policy(policy).start()?;
    let agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_connect(Some(Duration::from_secs(1)))
        .timeout_global(Some(Duration::from_secs(5)));
    let agent = agent.build().into();
    for number in 1u64.. {
        match get(&service, &agent, "/") {
            Ok(body) => println!("{number}: {}", body.trim_end()),
            Err(failure) => println!("{number}: FAILED: {failure}"),
        }
        std::thread::park_timeout(Duration::from_millis(100));
    }
    Ok(())
}

/// One call. A GET may be repeated whatever went wrong; a call that must not happen twice may be repeated
/// only when it was refused.
fn get(service: &ServiceClient, agent: &ureq::Agent, path: &str) -> Result<String, Box<dyn Error>> {
    let mut tried = Vec::new();
    loop {
        Handle::current().block_on(service.ready(PATIENCE))?;
        let pick = service.pick(None, &tried)?;
        tried.push(pick.endpoint().key());
        let url = format!("http://{}{path}", pick.endpoint().address());
        let sent = Instant::now();
        let answer = agent.get(url).call().and_then(|mut response| {
            pick.heard(Instant::now());
            let latency = sent.elapsed();
            let body = response.body_mut().read_to_string()?;
            Ok((response.status().as_u16(), latency, body))
        });
        let outcome = match &answer {
            Ok((status, latency, _)) => Outcome::Answered {
                status: *status,
                latency: *latency,
            },
            Err(ureq::Error::Io(error)) => Outcome::of_error(error),
            Err(ureq::Error::ConnectionFailed) => Outcome::Refused,
            Err(ureq::Error::Timeout(ureq::Timeout::Connect)) => Outcome::ConnectTimeout,
            Err(ureq::Error::Timeout(_)) => Outcome::HeadTimeout,
            Err(_) => Outcome::BadResponse,
        };
        // An instance that refuses is avoided by the very next pick, on any thread.
        pick.finish(outcome, Instant::now());
        match answer {
            Ok((status, _, body)) if status < 500 => return Ok(body),
            _ if tried.len() < ATTEMPTS => {}
            Ok((status, ..)) => return Err(format!("status {status}").into()),
            Err(error) => return Err(error.into()),
        }
    }
}
