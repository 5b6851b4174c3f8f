//! The connection, or the sentence that says why there is none.

use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow};
use livegate_zk::client::{Client, ConnectOptions, Credential, DisconnectCause};
use tokio::time::timeout;

use super::{Auth, Connection, parse_auth};

/// After this long a person is told what is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

impl Connection {
    /// Connects to the first server that answers.
    pub(super) async fn connect(&self) -> anyhow::Result<Client> {
        let mut options = self.registry.options.clone();
        options.operation_timeout = self.timeout;
        let in_file = self.auth_file.as_deref().map(read_auth_file).transpose()?;
        let identities = self.auth.iter().chain(in_file.iter().flatten());
        options.credentials = identities
            .map(|auth| Credential::digest(&auth.user, &auth.password))
            .collect();
        let servers = servers(&options);
        let mut connecting = Box::pin(Client::connect(options));
        let connected = match timeout(PATIENCE.min(self.timeout), &mut connecting).await {
            Ok(connected) => connected,
            Err(_) => {
                if std::io::stderr().is_terminal() {
                    eprintln!("waiting for ZooKeeper at {servers}");
                }
                // Its own deadline may pass a moment later than the one here.
                connecting.await
            }
        };
        connected.map_err(|error| no_server(&servers, error.cause.as_ref()))
    }
}

fn servers(options: &ConnectOptions) -> String {
    let servers: Vec<_> = options.servers.iter().map(ToString::to_string).collect();
    servers.join(",")
}

fn no_server(servers: &str, cause: Option<&DisconnectCause>) -> anyhow::Error {
    if let Some(DisconnectCause::AuthFailed(_)) = cause {
        return anyhow!(
            "ZooKeeper at {servers} refuses the password: give another USER:PASSWORD with --auth"
        );
    }
    let cause = cause.map_or_else(|| "no answer".to_owned(), ToString::to_string);
    anyhow!(
        "no ZooKeeper at {servers} ({}): start one with 'livegate registry', or name yours with --registry",
        plain(&cause, servers)
    )
}

/// `127.0.0.1:2181: Connection refused (os error 111)` as `connection refused`.
fn plain(cause: &str, servers: &str) -> String {
    let cause = cause
        .strip_prefix(servers)
        .and_then(|cause| cause.strip_prefix(": "))
        .unwrap_or(cause);
    let cause = cause
        .split_once(" (os error ")
        .map_or(cause, |(cause, _)| cause);
    let mut characters = cause.chars();
    let first = characters.next().map(|first| first.to_ascii_lowercase());
    first.into_iter().chain(characters).collect()
}

fn read_auth_file(file: &Path) -> anyhow::Result<Vec<Auth>> {
    let name = file.display();
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read the file of --auth-file, {name}"))?;
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(index, line)| {
            parse_auth(line.trim()).map_err(|error| anyhow!("{name}:{}: {error}", index + 1))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_plain_words() {
        let servers = "127.0.0.1:2181";
        let refused = "127.0.0.1:2181: Connection refused (os error 111)";
        assert_eq!(plain(refused, servers), "connection refused");
        assert_eq!(
            plain(refused, "a:1,b:2"),
            "127.0.0.1:2181: Connection refused"
        );
        assert_eq!(plain("cannot resolve a", servers), "cannot resolve a");
    }

    #[test]
    fn a_file_of_identities() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("auth");
        std::fs::write(&file, "a:b:c\n\n  d:e \n").unwrap();
        let read: Vec<_> = read_auth_file(&file)
            .unwrap()
            .into_iter()
            .map(|auth| (auth.user, auth.password))
            .collect();
        let pair = |user: &str, password: &str| (user.to_owned(), password.to_owned());
        assert_eq!(read, [pair("a", "b:c"), pair("d", "e")]);
        std::fs::write(&file, "a:b\nsecret\n").unwrap();
        let error = read_auth_file(&file).unwrap_err().to_string();
        assert!(
            error.ends_with("auth:2: write it as USER:PASSWORD"),
            "{error}"
        );
    }
}
