//! Load on a ZooKeeper server, for benchmarks: one thread, raw sockets, as little work per request as possible.
//!
//! ```text
//! registry_load ADDRESS prepare NODES BYTES
//! registry_load ADDRESS create|set|get CLIENTS DEPTH WARM_UP SECONDS
//! registry_load ADDRESS clear
//! registry_load ADDRESS fill NODES BYTES
//! registry_load ADDRESS fanout WATCHERS ROUNDS
//! ```
//!
//! `prepare` makes the nodes that `set` and `get` use. A load keeps DEPTH requests under way on each of CLIENTS
//! connections; after WARM_UP seconds it prints `begin`, SECONDS later `end`, so that others can read the server's
//! counters at these moments, and then what it saw. `clear` deletes what `create` made. `fill` makes nodes for
//! their own sake. `fanout` sets a node that WATCHERS connections watch. Results are one line of JSON; anything
//! unexpected ends the program with a sentence and exit code 1, wrong usage with 2.
//!
//! Connections come from 127.0.0.2 and following, fifty from each, because servers limit connections by address.

mod fanout;
mod load;
mod nodes;
mod wire;

use std::fmt::Display;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use tokio::task::LocalSet;

/// Why the program ends early.
type Failure = Box<dyn std::error::Error>;

/// What the command line asks for.
enum Task {
    Prepare { nodes: usize, bytes: usize },
    Load(load::Options),
    Clear,
    Fill { nodes: usize, bytes: usize },
    Fanout { watchers: usize, rounds: usize },
}

fn number<T: FromStr<Err: Display>>(
    words: &[String],
    index: usize,
    name: &str,
) -> Result<T, String> {
    let word = words.get(index).ok_or(format!("{name} is missing"))?;
    word.parse()
        .map_err(|error| format!("{name}: {word:?}: {error}"))
}

fn seconds(words: &[String], index: usize, name: &str) -> Result<Duration, String> {
    Duration::try_from_secs_f64(number(words, index, name)?)
        .map_err(|error| format!("{name}: {error}"))
}

fn parse(words: &[String]) -> Result<(SocketAddr, Task), String> {
    let address = number(words, 0, "ADDRESS")?;
    let task = match words.get(1).map_or("", String::as_str) {
        "prepare" => Task::Prepare {
            nodes: number(words, 2, "NODES")?,
            bytes: number(words, 3, "BYTES")?,
        },
        "clear" => Task::Clear,
        "fill" => Task::Fill {
            nodes: number(words, 2, "NODES")?,
            bytes: number(words, 3, "BYTES")?,
        },
        "fanout" => Task::Fanout {
            watchers: number(words, 2, "WATCHERS")?,
            rounds: number(words, 3, "ROUNDS")?,
        },
        word => Task::Load(load::Options {
            operation: match word {
                "create" => load::Operation::Create,
                "set" => load::Operation::Set,
                "get" => load::Operation::Get,
                _ => return Err(format!("there is no task {word:?}")),
            },
            clients: number(words, 2, "CLIENTS")?,
            depth: number(words, 3, "DEPTH")?,
            warm_up: seconds(words, 4, "WARM_UP")?,
            seconds: seconds(words, 5, "SECONDS")?,
        }),
    };
    Ok((address, task))
}

async fn run(address: SocketAddr, task: Task) -> Result<(), Failure> {
    match task {
        Task::Prepare { nodes, bytes } => nodes::prepare(address, nodes, bytes).await,
        Task::Load(options) => load::run(address, options).await,
        Task::Clear => nodes::clear(address).await,
        Task::Fill { nodes, bytes } => nodes::fill(address, nodes, bytes).await,
        Task::Fanout { watchers, rounds } => fanout::run(address, watchers, rounds).await,
    }
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (address, task) = match parse(&words) {
        Ok(parsed) => parsed,
        Err(error) => {
            eprintln!(
                "registry_load: {error}; usage: registry_load ADDRESS prepare|create|set|get|clear|fill|fanout ..."
            );
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let done = runtime
        .map_err(Failure::from)
        .and_then(|runtime| LocalSet::new().block_on(&runtime, run(address, task)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("registry_load: {error}");
            ExitCode::FAILURE
        }
    }
}
