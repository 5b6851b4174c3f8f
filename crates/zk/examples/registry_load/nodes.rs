//! Nodes that a load needs, or leaves behind.

use std::net::SocketAddr;

use livegate_zk::jute::List;
use livegate_zk::proto::acl::Acl;
use livegate_zk::proto::error_code::ErrorCode;
use livegate_zk::proto::multi::{MultiReply, MultiRequest, OpResult, WriteOp};
use livegate_zk::proto::op_code::OpCode;
use livegate_zk::proto::reply::ChildrenReply;
use livegate_zk::proto::request::{Create, PathOnly, PathVersion, PathWatch};

use crate::Failure;
use crate::wire::Connection;

/// Below this is everything that a load uses.
pub(crate) const ROOT: &str = "/bench";

/// Operations in one request; with 100 bytes each far from the limit of 1 MiB.
const BATCH: usize = 200;

pub(crate) fn create<'a>(path: &'a str, data: &'a [u8]) -> Create<'a> {
    Create {
        path,
        data: Some(data),
        acl: List::new(Acl::OPEN),
        flags: 0,
    }
}

/// Creates a node unless it is there.
pub(crate) async fn ensure(
    connection: &mut Connection,
    path: &str,
    data: &[u8],
) -> Result<(), Failure> {
    let reply = connection.ask(OpCode::Create, &create(path, data)).await?;
    if ErrorCode::from_code(reply.error) == Some(ErrorCode::NodeExists) {
        return Ok(());
    }
    reply.check()
}

/// The node that `set` and `get` use.
pub(crate) fn shared(number: usize) -> String {
    format!("{ROOT}/s{number:05}")
}

pub(crate) async fn prepare(server: SocketAddr, nodes: usize, bytes: usize) -> Result<(), Failure> {
    let mut connection = Connection::open(server, 0).await?;
    ensure(&mut connection, ROOT, b"").await?;
    for number in 0..nodes {
        ensure(&mut connection, &shared(number), &vec![b'x'; bytes]).await?;
    }
    println!("{{\"nodes\": {nodes}}}");
    Ok(())
}

/// How many nodes `set` and `get` can use.
pub(crate) async fn count_shared(connection: &mut Connection) -> Result<usize, Failure> {
    let names = children(connection, ROOT).await?;
    match names.iter().filter(|name| name.starts_with('s')).count() {
        0 => Err("there are no nodes to use: run prepare first".into()),
        count => Ok(count),
    }
}

async fn children(connection: &mut Connection, path: &str) -> Result<Vec<String>, Failure> {
    let request = PathWatch { path, watch: false };
    let reply = connection.ask(OpCode::GetChildren, &request).await?;
    reply.check()?;
    let reply: ChildrenReply<'_> = reply.body().read()?;
    Ok(reply.children.iter().map(str::to_owned).collect())
}

/// Does many things in one request.
async fn multi(connection: &mut Connection, ops: &[WriteOp<'_>]) -> Result<(), Failure> {
    let reply = connection
        .ask(OpCode::Multi, &MultiRequest::new(ops))
        .await?;
    reply.check()?;
    let results: MultiReply<'_> = reply.body().read()?;
    match results
        .iter()
        .find(|result| matches!(result, OpResult::Error(_)))
    {
        Some(result) => Err(format!("a multi fails: {result:?}").into()),
        None => Ok(()),
    }
}

pub(crate) async fn clear(server: SocketAddr) -> Result<(), Failure> {
    let mut connection = Connection::open(server, 0).await?;
    let mut count = 0;
    for name in children(&mut connection, ROOT).await? {
        if !name.starts_with('c') {
            continue;
        }
        let own = format!("{ROOT}/{name}");
        let names = children(&mut connection, &own).await?;
        let paths: Vec<_> = names.iter().map(|name| format!("{own}/{name}")).collect();
        for chunk in paths.chunks(BATCH) {
            let ops: Vec<_> = chunk
                .iter()
                .map(|path| WriteOp::Delete(PathVersion { path, version: -1 }))
                .collect();
            multi(&mut connection, &ops).await?;
        }
        count += paths.len();
    }
    println!("{{\"deleted\": {count}}}");
    Ok(())
}

pub(crate) async fn fill(server: SocketAddr, nodes: usize, bytes: usize) -> Result<(), Failure> {
    let mut connection = Connection::open(server, 0).await?;
    ensure(&mut connection, "/fill", b"").await?;
    let data = vec![b'x'; bytes];
    for group in 0..nodes.div_ceil(1000) {
        let own = format!("/fill/group-{group:04}");
        ensure(&mut connection, &own, b"").await?;
        let numbers = group * 1000..nodes.min((group + 1) * 1000);
        let paths: Vec<_> = numbers
            .map(|number| format!("{own}/node-{number:07}"))
            .collect();
        for chunk in paths.chunks(BATCH) {
            let ops: Vec<_> = chunk
                .iter()
                .map(|path| WriteOp::Create(create(path, &data)))
                .collect();
            multi(&mut connection, &ops).await?;
        }
    }
    // Reading it back is the proof.
    let request = PathOnly { path: "/fill" };
    let reply = connection
        .ask(OpCode::GetAllChildrenNumber, &request)
        .await?;
    reply.check()?;
    let count: i32 = reply.body().read()?;
    println!("{{\"nodes\": {count}}}");
    Ok(())
}
