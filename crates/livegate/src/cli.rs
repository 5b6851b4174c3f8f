//! The command line: what is asked for, and how it ended as an exit code.
//!
//! 0 is success, 1 that the thing asked failed, 2 wrong usage. Errors go to standard error and say
//! what to do.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::config::{self, Config};

mod run;

/// A microservice gateway that only sends requests to instances that are alive.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway.
    #[command(after_help = "Example:\n  livegate run --config livegate.toml\n\n\
        SIGHUP, or saving the file, applies it anew. SIGTERM finishes running requests, then ends.\n\
        LIVEGATE_LOG=debug (or RUST_LOG) logs more.")]
    Run {
        /// The configuration; without it every setting has its default.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Check a configuration and list everything that is wrong with it.
    #[command(after_help = "Example:\n  livegate check livegate.toml\n\n\
        Prints FILE:LINE:COLUMN: KEY: MESSAGE for each mistake; exit code 1 if there are any.")]
    Check {
        /// The configuration.
        file: PathBuf,
    },
}

/// Does what the command line asks for.
pub fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run { config } => run::run(config.as_deref()),
        Command::Check { file } => check(&file),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn check(file: &Path) -> anyhow::Result<()> {
    let config = read_config(file)?;
    let count = |number: usize, what: &str| match number {
        1 => format!("1 {what}"),
        number => format!("{number} {what}s"),
    };
    let services = count(config.services.len(), "service");
    let routes = count(config.routes.len(), "route");
    println!("{}: ok, {services}, {routes}", file.display());
    Ok(())
}

/// Reads and checks a configuration. The error has a line for every mistake.
fn read_config(file: &Path) -> anyhow::Result<Config> {
    let text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let text = String::from_utf8(text).map_err(|error| {
        let line = 1 + error.as_bytes()[..error.utf8_error().valid_up_to()]
            .iter()
            .filter(|&&byte| byte == b'\n')
            .count();
        anyhow::anyhow!("{}:{line}:1: is not UTF-8", file.display())
    })?;
    config::parse(&text).map_err(|errors| {
        let lines = errors
            .iter()
            .map(|error| format!("{}:{error}", file.display()));
        anyhow::anyhow!(lines.collect::<Vec<_>>().join("\n"))
    })
}
