//! `delete`, of one node or of all below it.

use anyhow::anyhow;
use livegate_zk::client::{Client, Error, Op};
use livegate_zk::proto::error_code::ErrorCode;

use super::failure::{Act, failure, other_version};
use super::walk::{Step, Walk};

/// Nodes deleted with one request: far from the longest request that servers take, with names of usual
/// length.
const BATCH_MAX: usize = 128;

/// Bytes of paths in one request: a quarter of the longest request that servers take.
const BATCH_BYTES_MAX: usize = 256 << 10;

/// How often to begin again because others create nodes below the one that is being deleted.
const ROUNDS_MAX: usize = 5;

pub(super) async fn delete(
    client: &Client,
    path: &str,
    version: Option<i32>,
) -> anyhow::Result<()> {
    match client.delete(path, version).await {
        Ok(()) => Ok(()),
        Err(Error::Server(ErrorCode::BadVersion)) => {
            Err(other_version(client, Act::Delete, path, version.unwrap_or(-1)).await)
        }
        Err(error) => Err(failure(client, Act::Delete, path, &error)),
    }
}

/// Deletes a node and all below it, from the bottom up.
pub(super) async fn recursively(client: &Client, path: &str) -> anyhow::Result<()> {
    for round in 0..ROUNDS_MAX {
        match sweep(client, path).await {
            Ok(0) if round == 0 => {
                let missing = Error::Server(ErrorCode::NoNode);
                return Err(failure(client, Act::Delete, path, &missing));
            }
            Ok(_) => return Ok(()),
            Err((_, Error::Server(ErrorCode::NotEmpty))) => {}
            Err((path, error)) => return Err(failure(client, Act::Delete, &path, &error)),
        }
    }
    Err(anyhow!(
        "others keep creating nodes below {path}: stop them, then try again"
    ))
}

/// Deletes what is there now; how many nodes that was.
async fn sweep(client: &Client, path: &str) -> Result<usize, (String, Error)> {
    let mut walk = Walk::new(client.clone(), path);
    let mut batch = Vec::new();
    let (mut bytes, mut count) = (0, 0);
    while let Some(step) = walk.next().await? {
        let Step::Leave(path) = step else {
            continue;
        };
        (bytes, count) = (bytes + path.len(), count + 1);
        batch.push(path);
        if batch.len() == BATCH_MAX || bytes > BATCH_BYTES_MAX {
            delete_all(client, &batch).await?;
            batch.clear();
            bytes = 0;
        }
    }
    delete_all(client, &batch).await?;
    Ok(count)
}

/// Deletes these nodes in this order; those that are gone already do not matter.
async fn delete_all(client: &Client, paths: &[String]) -> Result<(), (String, Error)> {
    if paths.is_empty() {
        return Ok(());
    }
    let ops: Vec<_> = paths
        .iter()
        .map(|path| Op::Delete {
            path,
            version: None,
        })
        .collect();
    // All or none: one that is gone, or has a new child, makes it none.
    match client.multi(&ops).await {
        Ok(_) => return Ok(()),
        Err(Error::Multi { .. }) => {}
        Err(error) => return Err((paths.first().cloned().unwrap_or_default(), error)),
    }
    for path in paths {
        match client.delete(path, None).await {
            Ok(()) => {}
            Err(error) if error.is_no_node() => {}
            Err(error) => return Err((path.clone(), error)),
        }
    }
    Ok(())
}
