//! Holding one ephemeral node: there, and ours.
//!
//! Whatever the outcome of a write, known or not, the next step is to look; so nothing here depends on a
//! reply that may get lost, and it can be cancelled anywhere and begun again.

use livegate_zk::client::{Client, Error, NotSent, Op, Outcome, Watch};
use livegate_zk::path;
use livegate_zk::proto::acl::Acl;
use livegate_zk::proto::create_mode::CreateMode;
use livegate_zk::proto::error_code::ErrorCode;
use livegate_zk::proto::stat::Stat;

use crate::acl;

/// Looks in a row before giving up for now. Each is followed by at most one write, and another one is
/// only needed when somebody else was faster or a reply got lost.
const LOOKS_MAX: usize = 8;

/// How a claim ended.
#[derive(Debug)]
pub(crate) enum Claim {
    /// The node is there and ours.
    Ours {
        /// Its state.
        stat: Stat,
        /// Whether it was created just now.
        created: bool,
        /// Fires when that changes.
        watch: Watch,
    },
    /// Somebody else holds it who came after us.
    Theirs {
        /// Fires when that changes.
        watch: Watch,
    },
}

/// What to hold.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) path: &'a str,
    /// What to create it with.
    pub(crate) content: &'a [u8],
    /// Who may do what with its parent, when that has to be made.
    pub(crate) parent_acl: &'static [Acl<'static>],
    /// Whether to replace the content of a node that is there and ours. Otherwise it is left as it is,
    /// for somebody may have edited it.
    pub(crate) rewrite: bool,
    /// The transaction that created the node when it was ours last.
    pub(crate) czxid: Option<i64>,
}

/// Makes the node be there and ours.
///
/// A node of another session is replaced, in one transaction, when it may be what a dead process left
/// behind: always if we did not hold the node before, and also if it is the very node that we held in a
/// session that is over. If we held it and there is one that was created later, somebody has replaced
/// ours on purpose, and we give way: of two the newer one wins, once.
pub(crate) async fn claim(client: &Client, wanted: &Wanted<'_>) -> Result<Claim, Error> {
    let Wanted { path, content, .. } = *wanted;
    let mut created = false;
    for _ in 0..LOOKS_MAX {
        match client.get_and_watch(path).await {
            Ok((found, stat, watch)) if is_ours(client, &stat) => {
                if !wanted.rewrite || created || found == content {
                    return Ok(Claim::Ours {
                        stat,
                        created,
                        watch,
                    });
                }
                match client.set(path, content, Some(stat.version)).await {
                    Ok(stat) => {
                        return Ok(Claim::Ours {
                            stat,
                            created,
                            watch,
                        });
                    }
                    Err(error) => look_again(error)?,
                }
            }
            Ok((_, stat, watch)) => {
                if wanted.czxid.is_some_and(|ours| stat.czxid > ours) {
                    return Ok(Claim::Theirs { watch });
                }
                tracing::info!("{path} is there already, of another session: replacing it");
                let replace = [
                    Op::Delete {
                        path,
                        version: Some(stat.version),
                    },
                    Op::Create {
                        path,
                        data: content,
                        mode: CreateMode::Ephemeral,
                        acl: acl::ours(client),
                    },
                ];
                match client.multi(&replace).await {
                    Ok(_) => created = true,
                    Err(error) => {
                        created |= error.outcome() != Outcome::NotApplied;
                        look_again(error)?;
                    }
                }
            }
            Err(error) if error.is_no_node() => {
                match client
                    .create(path, content, CreateMode::Ephemeral, acl::ours(client))
                    .await
                {
                    Ok(_) => created = true,
                    Err(error) if error.is_no_node() => {
                        if let Err(error) = make_parents(client, wanted).await {
                            look_again(error)?;
                        }
                    }
                    Err(error) => {
                        created |= error.outcome() != Outcome::NotApplied;
                        look_again(error)?;
                    }
                }
            }
            Err(error) => return Err(error),
        }
    }
    // Others keep changing it: that is a failure to back off from.
    Err(Error::Server(ErrorCode::NodeExists))
}

/// Makes the parent and everything above it, as Curator and Spring do: as containers, which the server
/// removes when they are empty.
async fn make_parents(client: &Client, wanted: &Wanted<'_>) -> Result<(), Error> {
    let parent = path::parent(wanted.path).unwrap_or("/");
    let make = || client.create(parent, b"", CreateMode::Container, wanted.parent_acl);
    match make().await {
        Err(error) if error.is_no_node() => {
            let above = path::parent(parent).unwrap_or("/");
            client
                .ensure(above, CreateMode::Container, acl::added_to(client))
                .await?;
            make().await.map(drop)
        }
        made => made.map(drop),
    }
}

/// Whether the node belongs to the client's session.
pub(crate) fn is_ours(client: &Client, stat: &Stat) -> bool {
    // 0 is the owner of nodes that are not ephemeral, and the number of no session.
    stat.ephemeral_owner != 0 && stat.ephemeral_owner == client.state().session_id
}

/// Deletes the node if it is ours, or was in a session that is over. Whether it is gone for certain.
pub(crate) async fn release(client: &Client, path: &str, czxid: Option<i64>) -> Result<(), Error> {
    for _ in 0..LOOKS_MAX {
        let stat = match client.exists(path).await? {
            None => return Ok(()),
            Some(stat) => stat,
        };
        if !is_ours(client, &stat) && czxid != Some(stat.czxid) {
            return Ok(());
        }
        match client.delete(path, Some(stat.version)).await {
            Ok(()) => return Ok(()),
            Err(error) if error.is_no_node() => return Ok(()),
            Err(error) => look_again(error)?,
        }
    }
    Err(Error::Server(ErrorCode::BadVersion))
}

/// Whether an error only means that things have changed, or may have.
fn look_again(error: Error) -> Result<(), Error> {
    let code = match &error {
        Error::Server(code) | Error::Multi { code, .. } => Some(*code),
        Error::ConnectionLoss
        | Error::DeadlineExceeded
        | Error::NotSent(_)
        | Error::ReplyTooLong { .. }
        | Error::RequestTooLong { .. }
        | Error::InvalidPath(_)
        | Error::InvalidTtl
        | Error::MalformedReply(_)
        | Error::UnexpectedReply => None,
    };
    let is_overtaken = matches!(
        code,
        Some(ErrorCode::NoNode | ErrorCode::NodeExists | ErrorCode::BadVersion)
    );
    if is_overtaken || error.outcome() == Outcome::Unknown {
        Ok(())
    } else {
        Err(error)
    }
}

/// Whether the client is closed, so that nothing will ever work.
pub(crate) fn is_closed(error: &Error) -> bool {
    *error == Error::NotSent(NotSent::Closed)
}
