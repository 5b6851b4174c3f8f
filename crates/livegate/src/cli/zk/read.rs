//! `ls`, `get` and `stat`: one node.

use livegate_zk::client::{Client, Error};
use livegate_zk::proto::error_code::ErrorCode;
use serde::Serialize;

use super::failure::{Act, failure};
use super::json::{DataField, StatFields, stat_lines};
use crate::cli::output::Output;

#[derive(Serialize)]
pub(super) struct ChildrenObject<'a> {
    pub(super) path: &'a str,
    pub(super) children: &'a [String],
    #[serde(flatten)]
    pub(super) stat: StatFields,
}

pub(super) async fn ls(
    client: &Client,
    output: &mut Output,
    path: &str,
    json: bool,
) -> anyhow::Result<()> {
    let (mut children, stat) = client
        .children2(path)
        .await
        .map_err(|error| failure(client, Act::Read, path, &error))?;
    children.sort_unstable();
    if json {
        let stat = StatFields::new(&stat);
        return output.json(&ChildrenObject {
            path,
            children: &children,
            stat,
        });
    }
    children.iter().try_for_each(|child| output.line(child))
}

pub(super) async fn get(
    client: &Client,
    output: &mut Output,
    path: &str,
    json: bool,
) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct Object<'a> {
        path: &'a str,
        #[serde(flatten)]
        data: DataField<'a>,
        #[serde(flatten)]
        stat: StatFields,
    }
    let (data, stat) = client
        .get(path)
        .await
        .map_err(|error| failure(client, Act::Read, path, &error))?;
    if !json {
        return output.bytes(&data);
    }
    let (data, stat) = (DataField::new(&data), StatFields::new(&stat));
    output.json(&Object { path, data, stat })
}

pub(super) async fn stat(
    client: &Client,
    output: &mut Output,
    path: &str,
    json: bool,
) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct Object<'a> {
        path: &'a str,
        #[serde(flatten)]
        stat: StatFields,
    }
    let found = client.exists(path).await;
    let found = found.and_then(|stat| stat.ok_or(Error::Server(ErrorCode::NoNode)));
    let stat = found.map_err(|error| failure(client, Act::Read, path, &error))?;
    if !json {
        return stat_lines(&stat)
            .iter()
            .try_for_each(|line| output.line(line));
    }
    let stat = StatFields::new(&stat);
    output.json(&Object { path, stat })
}
