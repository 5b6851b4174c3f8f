//! From the command line to what does it: the runtime, the connection, and the end of the session.

use livegate_zk::client::Client;
use livegate_zk::path;

use super::watch::Wanted;
use super::{Command, Connection, delete, hold, read, tree, watch, write};
use crate::cli::Usage;
use crate::cli::logging::start_logging;
use crate::cli::output::Output;
use crate::cli::signals::Interrupt;

/// Does what is asked for.
pub(super) fn run(connection: &Connection, command: &Command) -> anyhow::Result<()> {
    check(command)?;
    start_logging("off")?;
    // The client has a thread of its own: the session lives while a pager lets this one wait.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    runtime.block_on(act(connection, command))
}

/// What cannot be said in the declaration of the arguments.
fn check(command: &Command) -> anyhow::Result<()> {
    if let Command::Create(arguments) = command
        && !arguments.sequential
        && let Err(error) = path::validate(&arguments.path)
    {
        return Err(Usage(format!("{} cannot be created: {error}", arguments.path)).into());
    }
    if let Command::Delete { path, .. } = command
        && path == "/"
    {
        return Err(
            Usage("/ is the root and cannot be deleted: name a node below it".to_owned()).into(),
        );
    }
    Ok(())
}

async fn act(connection: &Connection, command: &Command) -> anyhow::Result<()> {
    // Before anything is done, so that nothing is when the data cannot be read.
    let data = match command {
        Command::Set { data, .. } => write::data(data)?,
        Command::Create(arguments) => write::data(&arguments.data)?,
        Command::Ls { .. }
        | Command::Get { .. }
        | Command::Delete { .. }
        | Command::Stat { .. }
        | Command::Tree { .. }
        | Command::Watch { .. } => Vec::new(),
    };
    let client = connection.connect().await?;
    let mut output = Output::new();
    let result = Box::pin(perform(&client, &mut output, command, &data)).await;
    let result = result.and_then(|()| output.flush());
    client.close().await;
    result
}

async fn perform(
    client: &Client,
    output: &mut Output,
    command: &Command,
    data: &[u8],
) -> anyhow::Result<()> {
    match command {
        Command::Ls {
            path,
            recursive,
            json,
        } => {
            if *recursive {
                tree::list(client, output, path, *json).await
            } else {
                read::ls(client, output, path, *json).await
            }
        }
        Command::Get { path, json } => read::get(client, output, path, *json).await,
        Command::Stat { path, json } => read::stat(client, output, path, *json).await,
        Command::Tree { path, json } => tree::draw(client, output, path, *json).await,
        Command::Set { path, version, .. } => {
            write::set(client, output, path, data, *version).await
        }
        Command::Create(arguments) if arguments.ephemeral => {
            let interrupt = Interrupt::new()?;
            hold::hold(client, output, arguments, data, &interrupt).await
        }
        Command::Create(arguments) => {
            let path = write::create(client, arguments, data).await?;
            output.line(&path)
        }
        Command::Delete {
            path,
            version,
            recursive,
        } => {
            if *recursive {
                delete::recursively(client, path).await
            } else {
                delete::delete(client, path, *version).await
            }
        }
        Command::Watch {
            path,
            children,
            data,
            recursive,
            json,
        } => {
            let wanted = Wanted {
                children: *children,
                data: *data,
                recursive: *recursive,
                json: *json,
            };
            let interrupt = Interrupt::new()?;
            watch::watch(client, output, path, wanted, &interrupt).await
        }
    }
}
