//! `create -e`: holds an ephemeral node until it is interrupted.
//!
//! A new session creates the node again. Whether it is ours is read from its owner, so what the session
//! before left behind is waited for, not taken for our own.

use std::io::Write;

use anyhow::anyhow;
use livegate_zk::client::{Client, Error, NotSent, Outcome};
use livegate_zk::proto::acl::Acl;

use super::CreateArguments;
use super::attend::{Attendant, SessionNews};
use super::failure::{Act, failure};
use super::write;
use crate::cli::output::Output;
use crate::cli::signals::Interrupt;

/// The node that is held.
struct Held<'a> {
    client: &'a Client,
    arguments: &'a CreateArguments,
    data: &'a [u8],
    path: String,
    /// The session that created it last.
    owner: i64,
    /// A creation may have made a node whose name, with its number, is not known.
    unknown: bool,
}

/// Creates the node and holds it until it is interrupted. Closing the session is up to the caller.
pub(super) async fn hold(
    client: &Client,
    output: &mut Output,
    arguments: &CreateArguments,
    data: &[u8],
    interrupt: &Interrupt,
) -> anyhow::Result<()> {
    let mut attendant = Attendant::new(client, interrupt);
    let path = write::create(client, arguments, data).await?;
    output.line(&path)?;
    output.flush()?;
    say(&format!("holding {path} until interrupted (Ctrl-C)"));
    let mut held = Held {
        client,
        arguments,
        data,
        path,
        owner: client.state().session_id,
        unknown: false,
    };
    loop {
        let looked = client.exists_and_watch(&held.path);
        let (stat, mut watch) = match attendant.wait(looked, tell).await? {
            None => return Ok(()),
            Some(Ok(looked)) => looked,
            Some(Err(error)) if is_passing(&error) => {
                if attendant.wait_for_connection(tell).await?.is_none() {
                    return Ok(());
                }
                continue;
            }
            Some(Err(error)) => return Err(failure(client, Act::Read, &held.path, &error)),
        };
        let session = client.state().session_id;
        let owner = stat.map(|stat| stat.ephemeral_owner);
        if owner == Some(session) {
            held.owner = session;
        } else if held.owner == session {
            return Err(anyhow!(
                "node {} was deleted by somebody else: create it again if it is still wanted",
                held.path
            ));
        } else if owner.is_none() || arguments.sequential {
            match attendant.wait(held.create_again(), tell).await? {
                None => return Ok(()),
                Some(Ok(created)) => {
                    if created {
                        output.line(&held.path)?;
                        output.flush()?;
                    }
                    continue;
                }
                Some(Err(error)) => return Err(error),
            }
        }
        // The session says so itself when it is a new one: the watch is carried over and fires then,
        // because the node went with the session before.
        if attendant.wait(watch.fired(), tell).await?.is_none() {
            return Ok(());
        }
    }
}

impl Held<'_> {
    /// Creates the node in a new session; whether it has another path now.
    async fn create_again(&mut self) -> anyhow::Result<bool> {
        let (client, arguments) = (self.client, self.arguments);
        let session = client.state().session_id;
        let created = match self.find_unknown().await {
            Ok(Some(path)) => Ok(path),
            Ok(None) => {
                write::create_parents(client, arguments).await?;
                let mode = write::mode(arguments);
                client
                    .create(&arguments.path, self.data, mode, Acl::OPEN)
                    .await
            }
            Err(error) => Err(error),
        };
        match created {
            Ok(path) => {
                say(&format!("the session was lost: created {path} again"));
                let is_new = path != self.path;
                (self.path, self.owner, self.unknown) = (path, session, false);
                Ok(is_new)
            }
            // Somebody was faster, or the session before lingers: the next look tells.
            Err(error) if error.is_node_exists() => Ok(false),
            Err(error) if is_passing(&error) => {
                self.unknown |= error.outcome() == Outcome::Unknown;
                Ok(false)
            }
            Err(error) => Err(failure(client, Act::Create, &arguments.path, &error)),
        }
    }

    /// The node that a creation with unknown outcome has made in this session after all.
    async fn find_unknown(&self) -> Result<Option<String>, Error> {
        if !self.unknown || !self.arguments.sequential {
            return Ok(None);
        }
        let ours = self.client.ephemerals(&self.arguments.path).await?;
        Ok(ours.into_iter().next())
    }
}

/// Whether it is only that there is no connection.
fn is_passing(error: &Error) -> bool {
    matches!(
        error,
        Error::ConnectionLoss | Error::DeadlineExceeded | Error::NotSent(NotSent::Deadline)
    )
}

fn tell(news: &SessionNews) -> anyhow::Result<()> {
    let cause = news.cause.as_ref();
    let cause = cause.map_or_else(String::new, |cause| format!(": {cause}"));
    say(&format!("{}{cause}", news.kind.words()));
    Ok(())
}

/// To the person who waits; that standard error is closed is no reason to let the node go.
fn say(text: &str) {
    drop(writeln!(std::io::stderr(), "{text}"));
}
