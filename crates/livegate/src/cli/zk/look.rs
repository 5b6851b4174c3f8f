//! Reads what is watched.

use std::collections::BTreeMap;

use livegate_zk::client::{Client, Error};
use livegate_zk::proto::error_code::ErrorCode;
use livegate_zk::proto::stat::Stat;

use super::change::Now;
use super::walk::{Step, Walk};

/// What of a node is of interest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Interest {
    pub(super) data: bool,
    pub(super) children: bool,
}

/// How often to look again at a node that is re-created between the reading of its data and that of its
/// children. After that they may be those of two incarnations, and the next notification corrects it.
const LOOKS_MAX: usize = 3;

/// Reads a node; `None` when it does not exist.
pub(super) async fn look(
    client: Client,
    path: String,
    interest: Interest,
) -> Result<Option<Now>, Error> {
    for look in 1.. {
        let (data, children) = tokio::join!(
            async {
                match interest.data {
                    true => client.get(&path).await.map(Some),
                    false => Ok(None),
                }
            },
            async {
                match interest.children {
                    true => client.children2(&path).await.map(Some),
                    false => Ok(None),
                }
            }
        );
        let now = match (data, children) {
            (Err(error), _) | (_, Err(error)) if error.is_no_node() => return Ok(None),
            (Err(error), _) | (_, Err(error)) => return Err(error),
            (Ok(Some((data, first))), Ok(Some((mut children, stat)))) => {
                if first.czxid != stat.czxid && look < LOOKS_MAX {
                    continue;
                }
                children.sort_unstable();
                // Each part is as new as its own state; a change in between is told by the next look.
                Now {
                    stat: Stat {
                        pzxid: stat.pzxid,
                        ..first
                    },
                    data: Some(data),
                    children: Some(children),
                }
            }
            (Ok(Some((data, stat))), Ok(None)) => Now {
                stat,
                data: Some(data),
                children: None,
            },
            (Ok(None), Ok(Some((mut children, stat)))) => {
                children.sort_unstable();
                Now {
                    stat,
                    data: None,
                    children: Some(children),
                }
            }
            (Ok(None), Ok(None)) => return exists(&client, &path).await,
        };
        return Ok(Some(now));
    }
    Ok(None)
}

/// The same for a node among many: one whose data may not be read is still there.
pub(super) async fn look_if_allowed(
    client: Client,
    path: String,
    interest: Interest,
) -> Result<Option<Now>, Error> {
    match look(client.clone(), path.clone(), interest).await {
        Err(Error::Server(ErrorCode::NoAuth)) => exists(&client, &path).await,
        result => result,
    }
}

async fn exists(client: &Client, path: &str) -> Result<Option<Now>, Error> {
    let stat = client.exists(path).await?;
    Ok(stat.map(|stat| Now {
        stat,
        data: None,
        children: None,
    }))
}

/// The state of a node and of all below it that may be read.
pub(super) async fn survey(client: Client, path: String) -> Result<BTreeMap<String, Stat>, Error> {
    let mut walk = Walk::new(client, &path);
    let mut found = BTreeMap::new();
    while let Some(step) = walk.next().await.map_err(|(_, error)| error)? {
        if let Step::Enter(node) = step
            && let Some(stat) = node.stat
        {
            found.insert(node.path, stat);
        }
    }
    Ok(found)
}
