//! A closed loop: each client keeps a number of requests under way.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::Write;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use livegate_zk::proto::op_code::OpCode;
use livegate_zk::proto::request::{PathWatch, SetData};
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, sleep_until};

use crate::Failure;
use crate::nodes::{ROOT, count_shared, create, ensure, shared};
use crate::wire::Connection;

/// Bytes that are written to a node.
const DATA: [u8; 100] = [b'y'; 100];

#[derive(Clone, Copy)]
pub(crate) enum Operation {
    Create,
    Set,
    Get,
}

#[derive(Clone, Copy)]
pub(crate) struct Options {
    pub(crate) operation: Operation,
    pub(crate) clients: usize,
    pub(crate) depth: usize,
    pub(crate) warm_up: Duration,
    pub(crate) seconds: Duration,
}

/// When replies count.
#[derive(Clone, Copy)]
struct Window {
    begin: Instant,
    end: Instant,
}

/// Latencies of replies within the window, in microseconds.
type Latencies = Rc<RefCell<Vec<u32>>>;

/// One client's requests, one after the other.
struct Requests {
    operation: Operation,
    own: String,
    number: usize,
    shared: Rc<Vec<String>>,
}

impl Requests {
    fn append_next(&mut self, connection: &mut Connection) {
        self.number += 1;
        let path = &*self.shared[self.number % self.shared.len()];
        match self.operation {
            Operation::Create => {
                let path = format!("{}-{}", self.own, self.number);
                connection.append(OpCode::Create, &create(&path, &DATA));
            }
            Operation::Set => {
                let data = Some(&DATA[..]);
                let version = -1;
                connection.append(
                    OpCode::SetData,
                    &SetData {
                        path,
                        data,
                        version,
                    },
                );
            }
            Operation::Get => connection.append(OpCode::GetData, &PathWatch { path, watch: false }),
        }
    }
}

async fn client(
    mut connection: Connection,
    mut requests: Requests,
    depth: usize,
    window: Window,
    latencies: Latencies,
) -> Result<(), Failure> {
    let mut sent: VecDeque<Instant> = VecDeque::with_capacity(depth);
    loop {
        let now = Instant::now();
        if now < window.end {
            while sent.len() < depth {
                requests.append_next(&mut connection);
                sent.push_back(now);
            }
            connection.flush().await?;
        } else if sent.is_empty() {
            return Ok(());
        }
        connection.read().await?;
        let now = Instant::now();
        while let Some(reply) = connection.next_reply()? {
            reply.check()?;
            let since = sent.pop_front().ok_or("a reply to no request")?;
            if now >= window.begin && now < window.end {
                let micros = (now - since).as_micros();
                latencies.borrow_mut().push(u32::try_from(micros)?);
            }
        }
    }
}

fn tell(word: &str) -> Result<(), Failure> {
    println!("{word}");
    Ok(std::io::stdout().flush()?)
}

/// The value that this share of the sorted values is not above.
fn quantile(sorted: &[u32], share: f64) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a place in a list of some millions"
    )]
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0)
}

pub(crate) async fn run(server: SocketAddr, options: Options) -> Result<(), Failure> {
    let mut first = Connection::open(server, 0).await?;
    let count = count_shared(&mut first).await?;
    let nodes = Rc::new((0..count).map(shared).collect::<Vec<_>>());
    // Nodes of an earlier run may be there.
    let run = std::process::id();
    let mut ready = Vec::new();
    for number in 0..options.clients {
        let own = format!("{ROOT}/c{number:03}");
        ensure(&mut first, &own, b"").await?;
        let requests = Requests {
            operation: options.operation,
            own: format!("{own}/n{run}"),
            // Each client is at another node.
            number: number * 17,
            shared: Rc::clone(&nodes),
        };
        ready.push((Connection::open(server, number).await?, requests));
    }
    let begin = Instant::now() + options.warm_up;
    let window = Window {
        begin,
        end: begin + options.seconds,
    };
    let latencies = Latencies::default();
    let mut clients = JoinSet::new();
    for (connection, requests) in ready {
        let latencies = Rc::clone(&latencies);
        clients.spawn_local(client(
            connection,
            requests,
            options.depth,
            window,
            latencies,
        ));
    }
    // With one request under way nearly all of the time is waiting: the generator does that awake, or the time
    // that it takes to wake up would be part of every figure.
    let awake = (options.clients * options.depth == 1).then(|| {
        tokio::task::spawn_local(async {
            loop {
                yield_now().await;
            }
        })
    });
    sleep_until(window.begin).await;
    tell("begin")?;
    sleep_until(window.end).await;
    tell("end")?;
    while let Some(done) = clients.join_next().await {
        done??;
    }
    if let Some(awake) = awake {
        awake.abort();
    }
    let mut latencies = latencies.take();
    latencies.sort_unstable();
    let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|share| quantile(&latencies, share));
    println!(
        "{{\"operations\": {}, \"seconds\": {}, \"p50_us\": {p50}, \"p99_us\": {p99}, \"p999_us\": {p999}, \"max_us\": {}}}",
        latencies.len(),
        options.seconds.as_secs_f64(),
        latencies.last().copied().unwrap_or(0),
    );
    Ok(())
}
