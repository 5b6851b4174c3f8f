//! What went wrong, in one sentence that says what to do.

use anyhow::anyhow;
use livegate_zk::client::{Client, Error, NotSent, Outcome};
use livegate_zk::path;
use livegate_zk::proto::error_code::ErrorCode;

/// What was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    Read,
    Create,
    Set,
    Delete,
}

impl Act {
    const fn verb(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Create => "create",
            Self::Set => "set",
            Self::Delete => "delete",
        }
    }

    const fn done(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Create => "created",
            Self::Set => "set",
            Self::Delete => "deleted",
        }
    }
}

/// The sentence for an error of an operation on a node.
pub(super) fn failure(client: &Client, act: Act, path: &str, error: &Error) -> anyhow::Error {
    sentence(client.chroot().path(), act, path, error)
}

fn sentence(chroot: &str, act: Act, path: &str, error: &Error) -> anyhow::Error {
    let (verb, done) = (act.verb(), act.done());
    if let Error::Server(code) = error
        && let Some(sentence) = refusal(chroot, act, path, *code)
    {
        return sentence;
    }
    match error {
        Error::RequestTooLong { length, limit } => anyhow!(
            "cannot {verb} {path}: {length} bytes are over the {limit} that a server takes; keep the data elsewhere"
        ),
        Error::NotSent(NotSent::Deadline) => anyhow!(
            "cannot {verb} {path}: the connection was lost; try again, or wait longer with --timeout"
        ),
        error if error.outcome() == Outcome::Unknown => {
            let why = match error {
                Error::ConnectionLoss => {
                    "the connection was lost before the answer came".to_owned()
                }
                Error::DeadlineExceeded => "no answer came in time".to_owned(),
                error => error.to_string(),
            };
            if act == Act::Read {
                anyhow!("cannot read {path}: {why}; try again, or wait longer with --timeout")
            } else {
                anyhow!("{why}, so whether {path} was {done} is unknown: look, then try again")
            }
        }
        error => anyhow!("cannot {verb} {path}: {error}"),
    }
}

/// The sentence for what a server refuses; `None` when its own words have to do.
fn refusal(chroot: &str, act: Act, path: &str, code: ErrorCode) -> Option<anyhow::Error> {
    let verb = act.verb();
    Some(match code {
        ErrorCode::NoNode => no_node(chroot, act, path),
        ErrorCode::NodeExists => {
            anyhow!("node {path} exists already: change it with set, or choose another path")
        }
        ErrorCode::NotEmpty => anyhow!("node {path} has children: delete them, too, with -r"),
        ErrorCode::NoChildrenForEphemerals => {
            let parent = path::parent(path).unwrap_or("/");
            anyhow!(
                "node {parent} is ephemeral and cannot have children: create {path} somewhere else"
            )
        }
        ErrorCode::NoAuth => {
            anyhow!("not allowed to {verb} {path}: say who you are with --auth USER:PASSWORD")
        }
        ErrorCode::QuotaExceeded => {
            anyhow!(
                "cannot {verb} {path}: a quota would be exceeded; delete something, or raise it"
            )
        }
        ErrorCode::BadArguments if act == Act::Delete => {
            anyhow!("node {path} belongs to the server and cannot be deleted")
        }
        ErrorCode::Unimplemented if act == Act::Create => anyhow!(
            "the server does not have nodes of this kind: create {path} without -t or -c, or start the \
             server with extendedTypesEnabled=true"
        ),
        ErrorCode::NotReadOnly => anyhow!(
            "cannot {verb} {path}: the server is cut off from its ensemble and read-only; try again, or \
             name another with --registry"
        ),
        _ => return None,
    })
}

fn no_node(chroot: &str, act: Act, path: &str) -> anyhow::Error {
    let missing = match act {
        Act::Create => path::parent(path).unwrap_or("/"),
        Act::Read | Act::Set | Act::Delete => path,
    };
    match act {
        _ if missing == "/" => anyhow!(
            "no node {chroot}, which --registry names as the root: create it with -p and a --registry \
             that names only the servers"
        ),
        Act::Delete => anyhow!("no node {path}: there is nothing to delete"),
        Act::Read | Act::Create | Act::Set => {
            anyhow!("no node {missing}: create it, or its parent with -p")
        }
    }
}

/// The sentence for a version that is not the node's.
pub(super) async fn other_version(
    client: &Client,
    act: Act,
    path: &str,
    version: i32,
) -> anyhow::Error {
    match client.exists(path).await {
        Ok(Some(stat)) => anyhow!(
            "node {path} is at version {}, not {version}: look at it, then name that version or none",
            stat.version
        ),
        Ok(None) => no_node(client.chroot().path(), act, path),
        Err(_) => anyhow!(
            "node {path} is not at version {version}: look at it, then name its version or none"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(act: Act, path: &str, error: &Error) -> String {
        sentence("/", act, path, error).to_string()
    }

    #[test]
    fn no_node_names_the_one_that_is_missing() {
        let missing = Error::Server(ErrorCode::NoNode);
        let advice = "no node /a: create it, or its parent with -p";
        assert_eq!(said(Act::Read, "/a", &missing), advice);
        assert_eq!(said(Act::Set, "/a", &missing), advice);
        assert_eq!(said(Act::Create, "/a/b", &missing), advice);
        assert_eq!(said(Act::Create, "/a/", &missing), advice);
        assert_eq!(
            said(Act::Delete, "/a", &missing),
            "no node /a: there is nothing to delete"
        );
        let rooted = sentence("/x", Act::Create, "/a", &missing).to_string();
        assert!(
            rooted.starts_with("no node /x, which --registry"),
            "{rooted}"
        );
    }

    #[test]
    fn an_unknown_outcome_is_called_that() {
        assert_eq!(
            said(Act::Create, "/a", &Error::ConnectionLoss),
            "the connection was lost before the answer came, so whether /a was created is unknown: look, \
             then try again"
        );
        let read = said(Act::Read, "/a", &Error::DeadlineExceeded);
        assert!(read.starts_with("cannot read /a: "), "{read}");
        let other = Error::Server(ErrorCode::Throttled);
        assert_eq!(
            said(Act::Set, "/a", &other),
            "cannot set /a: server is overloaded, try again later"
        );
    }
}
