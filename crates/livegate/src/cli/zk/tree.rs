//! `tree` and `ls -R`: a node and everything below it.

use livegate_zk::client::{Client, Error};
use livegate_zk::path;
use livegate_zk::proto::error_code::ErrorCode;
use serde::Serialize;

use super::failure::{Act, failure};
use super::json::StatFields;
use super::read::ChildrenObject;
use super::walk::{Node, Step, Walk};
use crate::cli::output::Output;

/// Prints the path of each node.
pub(super) async fn list(
    client: &Client,
    output: &mut Output,
    path: &str,
    json: bool,
) -> anyhow::Result<()> {
    each(client, path, |node| match (&node.stat, json) {
        (Some(stat), true) => output.json(&ChildrenObject {
            path: &node.path,
            children: &node.children,
            stat: StatFields::new(stat),
        }),
        (None, true) => output.json(&unreadable(node)),
        (_, false) => output.line(&node.path),
    })
    .await
}

/// Draws the nodes as a tree.
pub(super) async fn draw(
    client: &Client,
    output: &mut Output,
    path: &str,
    json: bool,
) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct Object<'a> {
        path: &'a str,
        depth: usize,
        #[serde(flatten)]
        stat: StatFields,
    }
    let mut branches = Branches::default();
    each(client, path, |node| match (&node.stat, json) {
        (Some(stat), true) => output.json(&Object {
            path: &node.path,
            depth: node.depth,
            stat: StatFields::new(stat),
        }),
        (None, true) => output.json(&unreadable(node)),
        (_, false) => output.line(&branches.line(node)),
    })
    .await
}

#[derive(Serialize)]
struct Unreadable<'a> {
    path: &'a str,
    depth: usize,
    error: &'static str,
}

fn unreadable(node: &Node) -> Unreadable<'_> {
    Unreadable {
        path: &node.path,
        depth: node.depth,
        error: "not authorized",
    }
}

async fn each(
    client: &Client,
    path: &str,
    mut see: impl FnMut(&Node) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut walk = Walk::new(client.clone(), path);
    let mut found = false;
    loop {
        match walk.next().await {
            Ok(Some(Step::Enter(node))) => {
                found = true;
                see(&node)?;
            }
            Ok(Some(Step::Leave(_))) => {}
            Ok(None) if found => return Ok(()),
            Ok(None) => {
                let missing = Error::Server(ErrorCode::NoNode);
                return Err(failure(client, Act::Read, path, &missing));
            }
            Err((path, error)) => return Err(failure(client, Act::Read, &path, &error)),
        }
    }
}

/// The lines of the drawing.
#[derive(Debug, Default)]
struct Branches {
    /// For each depth but the first, whether the present node there is the last of its siblings.
    last: Vec<bool>,
}

impl Branches {
    fn line(&mut self, node: &Node) -> String {
        let mut line = String::new();
        let name = match node.depth {
            0 => node.path.as_str(),
            depth => {
                self.last.truncate(depth - 1);
                for last in &self.last {
                    line.push_str(if *last { "    " } else { "│   " });
                }
                line.push_str(if node.last {
                    "└── "
                } else {
                    "├── "
                });
                self.last.push(node.last);
                path::name(&node.path)
            }
        };
        line.push_str(name);
        match &node.stat {
            Some(stat) if stat.ephemeral_owner != 0 => line.push_str(" (ephemeral)"),
            Some(_) => {}
            None => line.push_str(" (not allowed to read)"),
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use livegate_zk::proto::stat::Stat;

    use super::*;

    fn node(path: &str, depth: usize, last: bool, stat: Option<Stat>) -> Node {
        Node {
            path: path.to_owned(),
            children: Vec::new(),
            stat,
            depth,
            last,
        }
    }

    #[test]
    fn a_tree_is_drawn() {
        let persistent = Some(Stat::default());
        let ephemeral = Some(Stat {
            ephemeral_owner: 1,
            ..Stat::default()
        });
        let mut branches = Branches::default();
        let lines = [
            node("/a", 0, true, persistent),
            node("/a/b", 1, false, persistent),
            node("/a/b/c", 2, true, persistent),
            node("/a/b/c/d", 3, true, ephemeral),
            node("/a/e", 1, true, None),
        ]
        .map(|node| branches.line(&node));
        assert_eq!(
            lines,
            [
                "/a",
                "├── b",
                "│   └── c",
                "│       └── d (ephemeral)",
                "└── e (not allowed to read)",
            ]
        );
    }
}
