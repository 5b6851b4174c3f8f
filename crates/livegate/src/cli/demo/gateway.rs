//! The gateway of the demo: `livegate run` as a process.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, anyhow, bail};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::fetch::fetch;
use super::place::{Directory, free_port};
use super::voice::Voice;
use super::{LOOK, START_PATIENCE};
use crate::cli::register::bound::BoundArguments;
use crate::cli::register::child::{Child, SELF};
use crate::config::Config;

/// Another process may take a port between our look and the gateway's start.
const ATTEMPTS: u32 = 3;

/// What of the log is shown when the gateway ends by itself.
const LAST_LINES: usize = 5;

/// Where the gateway is reached.
#[derive(Debug, Clone, Copy)]
pub(super) struct Addresses {
    pub(super) http: SocketAddr,
    pub(super) admin: SocketAddr,
    pub(super) registry: SocketAddr,
}

/// A gateway that is ready.
#[derive(Debug)]
pub(super) struct Gateway {
    child: Child,
    addresses: Addresses,
    log: std::path::PathBuf,
}

impl Gateway {
    /// Starts one, at the default addresses where these are free.
    pub(super) async fn start(directory: &Directory, voice: &Voice) -> anyhow::Result<Self> {
        let mut attempt = 1;
        loop {
            let (addresses, moved) = Addresses::choose()?;
            let mut gateway = Self::spawn(directory, addresses)?;
            match gateway.ready().await {
                Ok(()) => {
                    if !moved.is_empty() {
                        voice.say(&format!("{}\n", moved.join("\n")));
                    }
                    return Ok(gateway);
                }
                Err(error) if attempt == ATTEMPTS => return Err(error),
                Err(_) => attempt += 1,
            }
        }
    }

    fn spawn(directory: &Directory, addresses: Addresses) -> anyhow::Result<Self> {
        let config = directory.config();
        std::fs::write(&config, addresses.config())
            .with_context(|| format!("cannot write {}", config.display()))?;
        let log = directory.log();
        let output = std::fs::File::create(&log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        let words: [OsString; 3] = ["run".into(), "--config".into(), config.into()];
        let mut command = Command::new(SELF);
        command
            .args(BoundArguments::words(&program().into_os_string(), &words))
            // Its data lies below the directory it is started in.
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        Ok(Self {
            child: Child::spawn(&mut command).context("cannot start the gateway")?,
            addresses,
            log,
        })
    }

    pub(super) fn addresses(&self) -> Addresses {
        self.addresses
    }

    async fn ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_PATIENCE;
        let admin = self.addresses.admin;
        let answers = async {
            while !is_ours(admin).await {
                if Instant::now() > deadline {
                    return false;
                }
                sleep(LOOK).await;
            }
            true
        };
        let status = tokio::select! {
            biased;
            status = self.child.ended() => status?,
            answers = answers => {
                if !answers {
                    bail!("the gateway is not ready within {} s: try again", START_PATIENCE.as_secs());
                }
                return Ok(());
            }
        };
        Err(self.failure(status))
    }

    /// Waits for an end that nobody asked for. Cancel-safe.
    pub(super) async fn ended(&mut self) -> std::io::Result<ExitStatus> {
        self.child.ended().await
    }

    /// Why it has ended, as far as it said so.
    pub(super) fn failure(&self, status: ExitStatus) -> anyhow::Error {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
        anyhow!("the gateway has ended ({status}):\n{}", last.join("\n"))
    }

    /// Lets it finish running requests, unless `hurry` returns.
    pub(super) async fn stop(&mut self, hurry: impl Future<Output = ()>) -> std::io::Result<()> {
        self.child.stop(hurry).await.map(drop)
    }
}

/// Where this demo's registry keeps its data, below the gateway's directory.
fn data_dir() -> String {
    format!("registry-{}", std::process::id())
}

/// Whether this demo's gateway answers there: another one may have taken the address a moment ago, and ours is
/// about to end.
async fn is_ours(admin: SocketAddr) -> bool {
    let answer = fetch(admin, "/api/v1/config").await;
    let json: Option<Value> = answer
        .ok()
        .and_then(|answer| serde_json::from_slice(&answer.body).ok());
    json.is_some_and(|json| json["registry"]["data_dir"] == data_dir())
}

impl Addresses {
    /// The defaults, or others where they are taken, and what to say about that.
    fn choose() -> anyhow::Result<(Self, Vec<String>)> {
        let config = Config::default();
        let mut moved = Vec::new();
        let mut choose = |what: &str, default: SocketAddr| {
            let address = free_port(default.port())
                .with_context(|| format!("no port is free for the {what}"))?;
            if address != default {
                moved.push(format!(
                    "{default} is taken by another process: the {what} is at {address}."
                ));
            }
            anyhow::Ok(address)
        };
        let default = config.registry.hosts.parse();
        let addresses = Self {
            http: choose("gateway", config.http.listen[0])?,
            admin: choose("admin side", config.admin.listen)?,
            registry: choose(
                "registry",
                default.context("the default registry has no address")?,
            )?,
        };
        Ok((addresses, moved))
    }

    fn config(self) -> String {
        let Self {
            http,
            admin,
            registry,
        } = self;
        format!(
            "# The gateway of livegate demo. Applied when it is saved.\n\n\
             [http]\nlisten = [\"{http}\"]\n\n\
             [admin]\nlisten = \"{admin}\"\n\n\
             [registry]\nhosts = \"{registry}\"\ndata_dir = \"{}\"\n",
            data_dir()
        )
    }
}

/// This program under the name that `ps` is to show.
pub(super) fn program() -> std::path::PathBuf {
    let current = std::env::current_exe().ok().filter(|path| path.exists());
    current.unwrap_or_else(|| SELF.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_one() {
        let addresses = Addresses {
            http: "127.0.0.1:18080".parse().unwrap(),
            admin: "127.0.0.1:19901".parse().unwrap(),
            registry: "127.0.0.1:12181".parse().unwrap(),
        };
        let config = crate::config::parse(&addresses.config()).unwrap();
        let mut expected = Config::default();
        expected.http.listen = vec![addresses.http];
        expected.admin.listen = addresses.admin;
        expected.registry.hosts = addresses.registry.to_string();
        expected.registry.data_dir = data_dir().into();
        assert_eq!(config, expected);
    }
}
