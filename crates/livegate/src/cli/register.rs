//! `livegate register`: keeps an instance registered, and runs it when there is a command.
//!
//! The order is what matters. At the start: run the command, wait until the check passes, register. At the
//! end: drain, wait until the gateways have let go, remove the registration, stop the command. When the
//! command dies by itself there is nothing to drain, and the registration goes at once. The registry being
//! away never stops the command, and never keeps it from stopping.

pub(super) mod bound;
mod check;
pub(super) mod child;
mod life;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use livegate_discovery::registrar::{InstanceAddress, Registrar};
use livegate_zk::client::Client;

use crate::cli::Usage;
use crate::cli::duration::parse_duration;
use crate::cli::ensemble::EnsembleArguments;
use crate::cli::logging::start_logging;
pub(super) use bound::{BoundArguments, become_bound};
use check::{Check, Checker};
use child::Child;
use life::Life;

pub(super) const AFTER_HELP: &str = "Example:
  livegate register orders --address 10.0.0.3:8080 --weight 20 -- ./orders --port 8080

Starts the command, waits until the check passes, and registers ROOT/SERVICE/HOST:PORT. SIGTERM or SIGINT \
drains: gateways send nothing new, finish what runs and say so; then the registration is removed and the \
command gets SIGTERM, and SIGKILL after 10 seconds. A second signal skips the drain, a third one kills. When \
the command ends by itself the registration goes at once. The exit code is the command's, 128 + N when \
signal N killed it. Other signals are passed on. The command runs in a process group of its own and is \
killed when livegate is.

With --auth others can read the instance, but not change it, nor add to its service.

Without a command it keeps registered what runs already, for as long as the check passes.";

/// How long saying goodbye to the registry may take.
const GOODBYE: Duration = Duration::from_secs(2);

/// `livegate register ...`.
#[derive(Debug, Args)]
pub(super) struct RegisterArguments {
    /// The service that it is an instance of.
    service: String,
    /// Where gateways reach it: its own address, not 0.0.0.0.
    #[arg(long, value_name = "HOST:PORT")]
    address: InstanceAddress,
    /// Its share of the traffic relative to the others'; without it the gateways decide.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=65_535))]
    weight: Option<u32>,
    /// Its availability zone.
    #[arg(long, value_name = "Z")]
    zone: Option<String>,
    /// One more thing to say about it; may be given several times.
    #[arg(long, value_name = "K=V", value_parser = parse_meta)]
    meta: Vec<(String, String)>,
    /// What must pass before it is registered: a connect to the address (tcp), or a GET that is answered
    /// with 200 to 399 (http:/healthz).
    #[arg(long, value_name = "tcp|http:/path", default_value = "tcp")]
    check: Check,
    /// Write the bare address into the registry instead of JSON.
    #[arg(long, conflicts_with_all = ["weight", "zone", "meta"])]
    plain: bool,
    /// How long gateways may take to let go of it.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    drain_timeout: Duration,
    /// The parent of all services.
    #[arg(long, value_name = "PATH", default_value = Registrar::DEFAULT_ROOT)]
    root: String,
    #[command(flatten)]
    ensemble: EnsembleArguments,
    /// The command to run, and its arguments.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

fn parse_meta(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write it as KEY=VALUE")?;
    match key {
        "" => Err("the key is empty: write it as KEY=VALUE".to_owned()),
        "weight" | "zone" => Err(format!("use --{key} instead")),
        "state" => Err("the state is set by draining".to_owned()),
        key => Ok((key.to_owned(), value.to_owned())),
    }
}

/// Runs until a signal or the command ends it; the exit code is the command's.
pub(super) fn run(arguments: &RegisterArguments) -> anyhow::Result<ExitCode> {
    start_logging("info")?;
    // The thread that starts the command has to be the one that lives longest: see `bound`.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let options = arguments.ensemble.options()?;
    runtime.block_on(async {
        let client = Client::start(options);
        let registrar = registrar(arguments, &client);
        registrar
            .check()
            .map_err(|error| Usage(error.to_string()))?;
        let checker = Checker::new(arguments.address.clone(), arguments.check.clone());
        // Signals are caught before there is a command that they could leave alone.
        let life = Life::new(registrar, checker, arguments.drain_timeout)?;
        let child = match &arguments.command[..] {
            [] => None,
            [program, words @ ..] => {
                Some(Child::start(program, words).context("cannot start the command")?)
            }
        };
        let code = match child {
            Some(child) => life.with_command(child).await?,
            None => life.without_command().await,
        };
        // Without it the registry would wait for the session to time out.
        client.with_operation_timeout(GOODBYE).close().await;
        Ok(ExitCode::from(code))
    })
}

fn registrar(arguments: &RegisterArguments, client: &Client) -> Registrar {
    let mut registrar = Registrar::new(
        client.clone(),
        &arguments.service,
        arguments.address.clone(),
    )
    .root(&arguments.root);
    if let Some(weight) = arguments.weight {
        registrar = registrar.weight(weight);
    }
    if let Some(zone) = &arguments.zone {
        registrar = registrar.zone(zone);
    }
    for (key, value) in &arguments.meta {
        registrar = registrar.metadata(key, value);
    }
    if arguments.plain {
        registrar = registrar.plain();
    }
    registrar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_taken_apart() {
        let pair = |key: &str, value: &str| Ok((key.to_owned(), value.to_owned()));
        assert_eq!(parse_meta("a=b=c"), pair("a", "b=c"));
        assert_eq!(parse_meta("a="), pair("a", ""));
        for text in ["a", "=b"] {
            assert!(parse_meta(text).unwrap_err().contains("KEY=VALUE"));
        }
        assert_eq!(parse_meta("zone=a").unwrap_err(), "use --zone instead");
    }
}
