//! The command line: what is asked for, and how it ended as an exit code.
//!
//! 0 is success, 1 that the thing asked failed, 2 wrong usage. Errors go to standard error and say
//! what to do.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{self, Config};

mod registry;
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
    /// Run the embedded ZooKeeper-compatible registry alone.
    #[command(after_help = "Example:\n  livegate registry --listen 127.0.0.1:2181 --data-dir /var/lib/livegate\n\n\
        --zoo-cfg reads clientPort, clientPortAddress, dataDir, tickTime, minSessionTimeout, maxSessionTimeout,\n\
        maxClientCnxns and 4lw.commands.whitelist.")]
    Registry(registry::Arguments),
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
        Command::Registry(arguments) => registry::run(&arguments),
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
    let config = read_config(file).map_err(|errors| several(&errors))?;
    let count = |number: usize, what: &str| match number {
        1 => format!("1 {what}"),
        number => format!("{number} {what}s"),
    };
    let services = count(config.services.len(), "service");
    let routes = count(config.routes.len(), "route");
    println!("{}: ok, {services}, {routes}", file.display());
    Ok(())
}

/// Reads and checks a configuration; an error has every mistake, with the file in front.
fn read_config(file: &Path) -> Result<Config, Vec<String>> {
    let name = file.display();
    let text = std::fs::read(file).map_err(|error| vec![format!("cannot read {name}: {error}")])?;
    let text = String::from_utf8(text).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + memchr::memchr_iter(b'\n', good).count();
        vec![format!("{name}:{line}:1: this line is not UTF-8")]
    })?;
    config::parse(&text).map_err(|errors| {
        let lines = errors.iter().map(|error| format!("{name}:{error}"));
        lines.collect()
    })
}

/// One error of several, a line for each.
fn several(errors: &[String]) -> anyhow::Error {
    anyhow::anyhow!(errors.join("\n"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example() {
        for command in Arguments::command().get_subcommands() {
            let help = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(
                help.contains(&format!("livegate {}", command.get_name())),
                "{help}"
            );
        }
    }

    #[test]
    fn mistakes_have_their_file_and_place() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.toml");
        let name = file.display();
        let missing = read_config(&file).unwrap_err();
        assert!(
            missing[0].starts_with(&format!("cannot read {name}: ")),
            "{missing:?}"
        );
        std::fs::write(&file, b"[http]\n# \xff\n").unwrap();
        assert_eq!(
            read_config(&file).unwrap_err(),
            [format!("{name}:2:1: this line is not UTF-8")]
        );
        std::fs::write(&file, "[http]\nworkers = 0\nx = 1\n").unwrap();
        assert_eq!(
            read_config(&file).unwrap_err(),
            [
                format!("{name}:2:11: http.workers: 0 is out of range, 1 to 1024"),
                format!("{name}:3:1: http.x: unknown key, the nearest known one is \"listen\""),
            ]
        );
    }
}
