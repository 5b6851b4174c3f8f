//! `create` and `set`, and where their data comes from.

use std::io::Read;

use anyhow::{Context, bail};
use livegate_zk::client::{Client, Error};
use livegate_zk::frame::REQUEST_BYTES_MAX;
use livegate_zk::path;
use livegate_zk::proto::acl::Acl;
use livegate_zk::proto::create_mode::CreateMode;
use livegate_zk::proto::error_code::ErrorCode;

use super::CreateArguments;
use super::failure::{Act, failure, other_version};
use crate::cli::output::Output;

/// The data that an argument gives; `-` stands for standard input.
pub(super) fn data(argument: &str) -> anyhow::Result<Vec<u8>> {
    if argument != "-" {
        return Ok(argument.as_bytes().to_vec());
    }
    let mut data = Vec::new();
    let most = u64::try_from(REQUEST_BYTES_MAX)?;
    std::io::stdin()
        .take(most + 1)
        .read_to_end(&mut data)
        .context("cannot read the data from standard input")?;
    if data.len() > REQUEST_BYTES_MAX {
        bail!("the data is over the {most} bytes that a server takes: keep it elsewhere");
    }
    Ok(data)
}

pub(super) async fn set(
    client: &Client,
    output: &mut Output,
    path: &str,
    data: &[u8],
    version: Option<i32>,
) -> anyhow::Result<()> {
    match client.set(path, data, version).await {
        Ok(stat) => output.line(&format!("version {}", stat.version)),
        Err(Error::Server(ErrorCode::BadVersion)) => {
            Err(other_version(client, Act::Set, path, version.unwrap_or(-1)).await)
        }
        Err(error) => Err(failure(client, Act::Set, path, &error)),
    }
}

/// The kind of node that is asked for.
pub(super) fn mode(arguments: &CreateArguments) -> CreateMode {
    match (arguments.ttl, arguments.ephemeral, arguments.sequential) {
        (Some(ttl), _, false) => CreateMode::PersistentTtl(ttl),
        (Some(ttl), _, true) => CreateMode::SequentialTtl(ttl),
        (None, true, false) => CreateMode::Ephemeral,
        (None, true, true) => CreateMode::EphemeralSequential,
        (None, false, true) => CreateMode::PersistentSequential,
        (None, false, false) if arguments.container => CreateMode::Container,
        (None, false, false) => CreateMode::Persistent,
    }
}

/// Creates the node and returns its path.
pub(super) async fn create(
    client: &Client,
    arguments: &CreateArguments,
    data: &[u8],
) -> anyhow::Result<String> {
    create_parents(client, arguments).await?;
    let path = &arguments.path;
    let created = client.create(path, data, mode(arguments), Acl::OPEN).await;
    created.map_err(|error| failure(client, Act::Create, path, &error))
}

/// Creates what is missing above the node, if that is asked for.
pub(super) async fn create_parents(
    client: &Client,
    arguments: &CreateArguments,
) -> anyhow::Result<()> {
    let parent = path::parent(&arguments.path).filter(|parent| *parent != "/");
    let Some(parent) = parent.filter(|_| arguments.parents) else {
        return Ok(());
    };
    client
        .ensure(parent, CreateMode::Persistent, Acl::OPEN)
        .await
        .map_err(|error| failure(client, Act::Create, parent, &error))
}
