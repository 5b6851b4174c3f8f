//! One node, many watchers, each with a connection of its own.

use std::net::SocketAddr;
use std::time::Duration;

use livegate_zk::proto::op_code::OpCode;
use livegate_zk::proto::request::{PathWatch, SetData};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::Failure;
use crate::nodes::{ROOT, ensure, shared};
use crate::wire::Connection;

/// Between arming the watches and the set: whatever arming leaves to do is done by then.
const REST: Duration = Duration::from_millis(100);

/// Waits until the watch of this connection fires; when that was.
async fn told(mut connection: Connection) -> Result<(Connection, Instant), Failure> {
    let event = connection.reply().await?;
    if event.is_event {
        Ok((connection, Instant::now()))
    } else {
        Err("a reply instead of an event".into())
    }
}

pub(crate) async fn run(server: SocketAddr, watchers: usize, rounds: usize) -> Result<(), Failure> {
    let mut setter = Connection::open(server, 0).await?;
    ensure(&mut setter, ROOT, b"").await?;
    let path = &*shared(0);
    ensure(&mut setter, path, b"").await?;
    let mut connections = Vec::with_capacity(watchers);
    for number in 0..watchers {
        connections.push(Connection::open(server, number + 1).await?);
    }
    let mut lasts = Vec::new();
    let mut replies = Vec::new();
    for _ in 0..rounds {
        for connection in &mut connections {
            let request = PathWatch { path, watch: true };
            connection.ask(OpCode::GetData, &request).await?.check()?;
        }
        let mut waiting = JoinSet::new();
        for connection in connections.drain(..) {
            waiting.spawn_local(told(connection));
        }
        // All of them run until they wait.
        sleep(REST).await;
        let data = Some(&b"changed"[..]);
        let version = -1;
        let start = Instant::now();
        setter
            .ask(
                OpCode::SetData,
                &SetData {
                    path,
                    data,
                    version,
                },
            )
            .await?
            .check()?;
        replies.push(start.elapsed().as_micros());
        let mut last = start;
        while let Some(told) = waiting.join_next().await {
            let (connection, at) = told??;
            last = last.max(at);
            connections.push(connection);
        }
        lasts.push((last - start).as_micros());
    }
    println!("{{\"watchers\": {watchers}, \"last_us\": {lasts:?}, \"set_us\": {replies:?}}}");
    Ok(())
}
