//! How long a change in the registry takes to the balancer, over sockets and through everything between:
//! `cargo run --profile quick -p livegate --example change_latency [INSTANCES] [PAUSE_MS] [ROUNDS]`.
//!
//! An embedded registry holds a service of so many instances (1000), which a cluster follows. Each 60 ms
//! (longer than additions wait for each other) an instance is registered, its data is changed, or it is
//! deregistered, and the time is taken from before the request to the registry until picks obey: until the
//! new instance is picked, the changed one has its new weight, the removed one is not there. The registry
//! syncs each change to disk, which is part of it. The watcher looks 20 times a millisecond.
//!
//! It prints JSON, as `bench/discovery` reads it: each time in microseconds, by the kind of change, and how
//! many nodes were read for how many that came or changed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use livegate::cluster;
use livegate::config::{HealthCheckConfig, HealthCheckKind, ServiceConfig};
use livegate::events::Events;
use livegate::metrics::ServiceMetrics;
use livegate_discovery::{Balance, Balancer, Discovery, DiscoveryOptions, ServiceOptions, Status};
use livegate_registry::{Options, Server};
use livegate_zk::client::{Client, ConnectOptions, Op};
use livegate_zk::proto::acl::Acl;
use livegate_zk::proto::create_mode::CreateMode;
use tokio_util::task::TaskTracker;

const ROOT: &str = "/services/orders";
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default| arguments.next().map_or(Ok(default), |text| text.parse());
    let (count, pause_ms, rounds): (usize, usize, usize) =
        (number(1000)?, number(60)?, number(300)?);
    let pause = Duration::from_millis(u64::try_from(pause_ms)?);

    let data = tempfile::tempdir()?;
    let server = Server::start(Options::new(([127, 0, 0, 1], 0).into(), data.path()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let connect = ConnectOptions::new(&server.address().to_string())?;
    let client = runtime.block_on(Client::connect(connect.clone()))?;
    let writer = runtime.block_on(Client::connect(connect))?;
    runtime.block_on(fill(&writer, count))?;

    let _context = runtime.enter();
    let discovery = Discovery::new(client, DiscoveryOptions::default());
    let watch = discovery.service(ROOT, ServiceOptions::default())?;
    let config = ServiceConfig {
        balance: Balance::RoundRobin,
        warm_up: Duration::ZERO,
        health_check: HealthCheckConfig {
            kind: HealthCheckKind::None,
            ..HealthCheckConfig::default()
        },
        ..ServiceConfig::new("orders", "/services", None)
    };
    let tasks = TaskTracker::new();
    let handle = cluster::start(
        "orders",
        Arc::new(config),
        Arc::new(ServiceMetrics::new(1)),
        watch.snapshots(),
        Events::new(1000),
        &tasks,
    );
    let balancer = &handle.cluster().balancer;
    until(|| {
        let view = balancer.view();
        view.status() == Status::Live && view.members().len() == count
    })?;

    let reads = discovery.stats().reads();

    let changes = [Change::Register, Change::SetData, Change::Deregister];
    let mut times: [Vec<u128>; 3] = Default::default();
    for round in 0..rounds {
        for (change, times) in changes.into_iter().zip(&mut times) {
            std::thread::park_timeout(pause);
            let id = id(count + round);
            let start = Instant::now();
            let done = runtime.spawn(write(writer.clone(), id.clone(), change));
            let end = until(|| is_obeyed(balancer, &id, change))?;
            times.push((end - start).as_micros());
            runtime.block_on(done)??;
        }
    }
    let [register, set_data, deregister] = times;
    println!(
        "{}",
        serde_json::json!({
            "instances": count,
            "times_us": {"register": register, "set data": set_data, "deregister": deregister},
            "reads": discovery.stats().reads() - reads,
            "to_read": 2 * rounds,
        })
    );
    Ok(())
}

#[derive(Clone, Copy)]
enum Change {
    Register,
    SetData,
    Deregister,
}

fn id(number: usize) -> String {
    format!(
        "10.{}.{}.{}:80",
        number / 62_500,
        number / 250 % 250,
        number % 250
    )
}

async fn fill(writer: &Client, count: usize) -> Result<()> {
    writer
        .ensure(ROOT, CreateMode::Persistent, Acl::OPEN)
        .await?;
    let paths: Vec<String> = (0..count)
        .map(|number| format!("{ROOT}/{}", id(number)))
        .collect();
    for paths in paths.chunks(250) {
        let op = |path| Op::Create {
            path,
            data: br#"{"Weight":50}"#,
            mode: CreateMode::Persistent,
            acl: Acl::OPEN,
        };
        let ops: Vec<_> = paths.iter().map(|path| op(path)).collect();
        writer.multi(&ops).await?;
    }
    Ok(())
}

async fn write(writer: Client, id: String, change: Change) -> Result<()> {
    let path = format!("{ROOT}/{id}");
    match change {
        Change::Register => {
            let data = br#"{"Weight":50}"#;
            writer
                .create(&path, data, CreateMode::Persistent, Acl::OPEN)
                .await?;
        }
        Change::SetData => drop(writer.set(&path, br#"{"Weight":20}"#, None).await?),
        Change::Deregister => writer.delete(&path, None).await?,
    }
    Ok(())
}

fn is_obeyed(balancer: &Balancer, id: &str, change: Change) -> bool {
    let view = balancer.view();
    let member = view.members().get(id);
    match change {
        Change::Register => {
            // Their turn comes within one round.
            let address: Option<SocketAddr> = member.map(|member| member.endpoint.address());
            address.is_some_and(|address| {
                (0..view.members().len()).any(|_| {
                    let pick = balancer.pick(None, &[], Instant::now());
                    pick.is_ok_and(|pick| pick.endpoint().address() == address)
                })
            })
        }
        Change::SetData => member.is_some_and(|member| member.instance.weight == 20),
        Change::Deregister => member.is_none(),
    }
}

/// Waits for something, and says when it was so.
fn until(is_so: impl Fn() -> bool) -> Result<Instant> {
    let start = Instant::now();
    while !is_so() {
        if start.elapsed() > PATIENCE {
            bail!("nothing after {PATIENCE:?}");
        }
        std::thread::park_timeout(Duration::from_micros(50));
    }
    Ok(Instant::now())
}
