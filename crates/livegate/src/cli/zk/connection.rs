//! The connection, or the sentence that says why there is none.

use std::io::IsTerminal;
use std::time::Duration;

use anyhow::anyhow;
use livegate_zk::client::{Client, ConnectOptions, DisconnectCause};
use tokio::time::timeout;

use super::Connection;
use crate::access::Trouble;

/// After this long a person is told what is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

impl Connection {
    /// Connects to the first server that answers.
    pub(super) async fn connect(&self) -> anyhow::Result<Client> {
        let mut options = self.ensemble.options()?;
        options.operation_timeout = self.timeout;
        let (servers, is_tls) = (servers(&options), options.tls.is_some());
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
        connected.map_err(|error| no_server(&servers, is_tls, error.cause.as_ref()))
    }
}

fn servers(options: &ConnectOptions) -> String {
    let servers: Vec<_> = options.servers.iter().map(ToString::to_string).collect();
    servers.join(",")
}

fn no_server(servers: &str, is_tls: bool, cause: Option<&DisconnectCause>) -> anyhow::Error {
    let advice = match cause.and_then(|cause| Trouble::of(cause, is_tls)) {
        Some(Trouble::Login) => {
            return anyhow!(
                "ZooKeeper at {servers} refuses the password: give another USER:PASSWORD with --auth"
            );
        }
        Some(Trouble::Certificates) => {
            "check --tls-ca, --tls-server-name, and --tls-cert with --tls-key"
        }
        Some(Trouble::NoTls) => {
            "there seems to be no TLS: leave --tls-ca out, or name the port that has it"
        }
        Some(Trouble::OnlyTls) => "try again, or give --tls-ca if that is a port with TLS",
        None => "start one with 'livegate registry', or name yours with --registry",
    };
    let cause = cause.map_or_else(|| "no answer".to_owned(), ToString::to_string);
    anyhow!(
        "no ZooKeeper at {servers} ({}): {advice}",
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
}
