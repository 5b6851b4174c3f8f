//! The command line: what is asked for, and how it ended as an exit code.
//!
//! 0 is success, 1 that the thing asked failed, 2 wrong usage. Errors go to standard error and say
//! what to do.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::cli::admin_client::AdminArguments;
use crate::cli::output::OutputClosed;
use crate::config::{self, Config};

mod admin_client;
mod demo;
mod drain;
mod duration;
mod ensemble;
mod events;
mod explain;
mod logging;
mod output;
mod register;
mod registry;
mod run;
mod services;
mod signals;
mod table;
mod zk;

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
    /// Show what it does: a gateway, six instances of two services and a light load.
    #[command(after_help = demo::AFTER_HELP)]
    Demo,
    /// Is one instance of a sample service.
    #[command(
        name = "sample-instance",
        hide = true,
        after_help = "Example:\n  livegate sample-instance orders --listen 127.0.0.1:7101 --parent 4711"
    )]
    SampleInstance(demo::InstanceArguments),
    /// Run the embedded ZooKeeper-compatible registry alone.
    #[command(
        after_help = "Example:\n  livegate registry --listen 127.0.0.1:2181 --data-dir /var/lib/livegate\n\n\
        --zoo-cfg reads clientPort, clientPortAddress, dataDir, tickTime, minSessionTimeout, maxSessionTimeout,\n\
        maxClientCnxns and 4lw.commands.whitelist."
    )]
    Registry(registry::Arguments),
    /// Check a configuration and list everything that is wrong with it.
    #[command(after_help = "Example:\n  livegate check livegate.toml\n\n\
        Prints FILE:LINE:COLUMN: KEY: MESSAGE for each mistake; exit code 1 if there are any.")]
    Check {
        /// The configuration.
        file: PathBuf,
    },
    /// Read, change and watch ZooKeeper nodes.
    #[command(
        arg_required_else_help = true,
        after_help = "Example:\n  livegate zk create -p /config/limit 100\n  \
        livegate zk --registry zk1:2181,zk2:2181/chroot tree /\n\n\
        Exit code 1 when it could not be done, 2 when it was asked for wrongly."
    )]
    Zk(Box<zk::ZkArguments>),
    /// Keep an instance registered, with or without running it.
    #[command(after_help = register::AFTER_HELP)]
    Register(Box<register::RegisterArguments>),
    /// Becomes the command of `livegate register`, bound to its life.
    #[command(
        name = "bound-command",
        hide = true,
        after_help = "Example:\n  livegate bound-command 4711 -- ./orders --port 8080"
    )]
    Bound(register::BoundArguments),
    /// Show the services of the running gateway.
    #[command(after_help = "Example:\n  livegate services\n\n\
        USED is how many instances get requests now.")]
    Services {
        #[command(flatten)]
        admin: AdminArguments,
    },
    /// Show the instances of a service, or of all, and what speaks against them.
    #[command(after_help = "Example:\n  livegate instances orders")]
    Instances {
        /// The service; without it all.
        service: Option<String>,
        #[command(flatten)]
        admin: AdminArguments,
    },
    /// Show the routes of the running gateway.
    #[command(after_help = "Example:\n  livegate routes")]
    Routes {
        #[command(flatten)]
        admin: AdminArguments,
    },
    /// Show what happened to services and instances, and why.
    #[command(after_help = "Example:\n  livegate events -f orders\n\n\
        -f prints the last ten, then each as it happens; it goes on when the gateway restarts.\n\
        With --json that is one event a line.")]
    Events {
        /// Go on with what happens, until interrupted.
        #[arg(short, long)]
        follow: bool,
        /// The service; without it all.
        service: Option<String>,
        #[command(flatten)]
        admin: AdminArguments,
    },
    /// Say why each instance of a service is or is not used right now.
    #[command(
        after_help = "Example:\n  livegate explain orders\n  livegate explain orders 10.0.0.3:8080"
    )]
    Explain {
        /// The service.
        service: String,
        /// Its instance; without it all.
        instance: Option<String>,
        #[command(flatten)]
        admin: AdminArguments,
    },
    /// Send no new requests to an instance; running ones finish.
    #[command(
        after_help = "Example:\n  livegate drain orders 10.0.0.3:8080 --wait\n\n\
        It stays drained when it restarts, until 'livegate undrain', or the gateway restarts.\n\
        One that is held goes when nothing is in flight to it, and is drained when it comes back."
    )]
    Drain {
        /// The service.
        service: String,
        /// Its instance.
        instance: String,
        /// Return when nothing is in flight to it any more.
        #[arg(long)]
        wait: bool,
        /// How long to wait for that; exit code 1 when it is over.
        #[arg(long, value_name = "DURATION", default_value = "60s", requires = "wait", value_parser = humantime::parse_duration)]
        timeout: Duration,
        #[command(flatten)]
        admin: AdminArguments,
    },
    /// Send requests again to an instance that was drained.
    #[command(after_help = "Example:\n  livegate undrain orders 10.0.0.3:8080")]
    Undrain {
        /// The service.
        service: String,
        /// Its instance.
        instance: String,
        #[command(flatten)]
        admin: AdminArguments,
    },
    /// Give up instances that are held although the registry no longer names them.
    #[command(
        after_help = "Example:\n  livegate drop orders\n  livegate drop orders 10.0.0.3:8080\n\n\
        It is used again when it registers again."
    )]
    Drop {
        /// The service.
        service: String,
        /// Its instance; without it all that are held.
        instance: Option<String>,
        #[command(flatten)]
        admin: AdminArguments,
    },
}

/// What is asked for makes no sense: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

/// Does what the command line asks for.
pub fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run { config } => run::run(config.as_deref()),
        Command::Demo => demo::run(),
        Command::SampleInstance(arguments) => demo::be_instance(&arguments),
        Command::Registry(arguments) => registry::run(&arguments),
        Command::Check { file } => check(&file),
        Command::Zk(arguments) => zk::run(&arguments),
        Command::Register(arguments) => match register::run(&arguments) {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
        Command::Bound(arguments) => return register::become_bound(&arguments),
        Command::Services { admin } => services::services(&admin),
        Command::Instances { service, admin } => services::instances(&admin, service.as_deref()),
        Command::Routes { admin } => services::routes(&admin),
        Command::Events {
            follow: false,
            service,
            admin,
        } => events::events(&admin, service.as_deref()),
        Command::Events {
            follow: true,
            service,
            admin,
        } => events::follow(&admin, service.as_deref()),
        Command::Explain {
            service,
            instance,
            admin,
        } => explain::explain(&admin, &service, instance.as_deref()),
        Command::Drain {
            service,
            instance,
            wait,
            timeout,
            admin,
        } => drain::drain(&admin, &service, &instance, wait.then_some(timeout)),
        Command::Drop {
            service,
            instance,
            admin,
        } => drain::drop_held(&admin, &service, instance.as_deref()),
        Command::Undrain {
            service,
            instance,
            admin,
        } => drain::undrain(&admin, &service, &instance),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<OutputClosed>() => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody can be told that standard error is closed.
            drop(writeln!(std::io::stderr(), "{error:#}"));
            ExitCode::from(if error.is::<Usage>() { 2 } else { 1 })
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
    for note in config.notes() {
        eprintln!("{}: note: {note}", file.display());
    }
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
        check_examples("livegate", &Arguments::command());
    }

    fn check_examples(name: &str, command: &clap::Command) {
        for command in command.get_subcommands() {
            let name = format!("{name} {}", command.get_name());
            let help = command.get_after_help().map(ToString::to_string);
            let help = help.unwrap_or_default();
            assert!(help.contains(&name), "{name}: {help}");
            check_examples(&name, command);
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
