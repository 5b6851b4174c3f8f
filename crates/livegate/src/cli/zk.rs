//! `livegate zk`: everyday ZooKeeper work on the command line.
//!
//! This is the one part of this crate that touches nodes, because that is what it is for. `livegate-zk`
//! does all protocol work; here is what a person types and sees.

mod acts;
mod attend;
mod change;
mod connection;
mod delete;
mod failure;
mod hold;
mod json;
mod look;
mod read;
mod report;
mod tree;
mod walk;
mod watch;
mod write;

use std::time::Duration;

use clap::{Args, Subcommand};
use livegate_zk::path::{self, PathError};

use crate::cli::duration::parse_duration;
use crate::cli::ensemble::EnsembleArguments;

/// `livegate zk ...`.
#[derive(Debug, Args)]
pub(super) struct ZkArguments {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: Command,
}

/// How to reach the servers.
#[derive(Debug, Args)]
struct Connection {
    #[command(flatten)]
    ensemble: EnsembleArguments,
    /// How long to wait for a server, and for each of its answers.
    #[arg(long, global = true, help_heading = "Connection", value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    timeout: Duration,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the children of a node.
    #[command(
        after_help = "Example:\n  livegate zk ls /services\n  livegate zk ls -R /services\n\n\
        --json prints {\"path\", \"children\", ...} with the fields of 'stat', with -R one such line for \
        each node."
    )]
    Ls {
        /// The node.
        #[arg(value_parser = parse_path)]
        path: String,
        /// The paths of the node and of all nodes below it.
        #[arg(short = 'R', long)]
        recursive: bool,
        /// For programs.
        #[arg(long)]
        json: bool,
    },
    /// Print the data of a node.
    #[command(
        after_help = "Example:\n  livegate zk get /config/limit\n  livegate zk get /config/limit >file\n\n\
        Bytes that a terminal cannot show are escaped there, and passed on as they are otherwise.\n\
        --json prints {\"path\", \"data\", ...} with the fields of 'stat'; data that is not UTF-8 is in \
        \"data_base64\" instead."
    )]
    Get {
        /// The node.
        #[arg(value_parser = parse_path)]
        path: String,
        /// For programs.
        #[arg(long)]
        json: bool,
    },
    /// Replace the data of a node and print its new version.
    #[command(
        after_help = "Example:\n  livegate zk set /config/limit 200\n  livegate zk set /config/limit -v 3 200\n  \
        livegate zk set /config/limit - <file"
    )]
    Set {
        /// The node.
        #[arg(value_parser = parse_path)]
        path: String,
        /// The data; - reads it from standard input.
        #[arg(allow_negative_numbers = true)]
        data: String,
        /// Only if the node has this version.
        #[arg(short, long, value_parser = clap::value_parser!(i32).range(0..))]
        version: Option<i32>,
    },
    /// Create a node and print its path.
    #[command(
        after_help = "Example:\n  livegate zk create -p /config/limit 100\n  livegate zk create -e /services/a/10.0.0.3:8080\n  \
        livegate zk create -s /queue/job-\n  livegate zk create -t 10m /cache/a\n\n\
        With -e it holds the node until it is interrupted."
    )]
    Create(CreateArguments),
    /// Delete a node.
    #[command(
        after_help = "Example:\n  livegate zk delete /config/limit\n  livegate zk delete -r /config"
    )]
    Delete {
        /// The node.
        #[arg(value_parser = parse_path)]
        path: String,
        /// Only if the node has this version.
        #[arg(short, long, value_parser = clap::value_parser!(i32).range(0..))]
        version: Option<i32>,
        /// All nodes below it, too.
        #[arg(short, long, conflicts_with = "version")]
        recursive: bool,
    },
    /// Print what the server knows about a node besides its data.
    #[command(after_help = "Example:\n  livegate zk stat /config/limit\n\n\
        Transactions and sessions are hexadecimal, in --json strings: they do not fit into the numbers \
        of all readers.")]
    Stat {
        /// The node.
        #[arg(value_parser = parse_path)]
        path: String,
        /// For programs.
        #[arg(long)]
        json: bool,
    },
    /// Draw a node and everything below it.
    #[command(after_help = "Example:\n  livegate zk tree /services\n\n\
        --json prints a line {\"path\", \"depth\", ...} with the fields of 'stat' for each node.")]
    Tree {
        /// The node.
        #[arg(value_parser = parse_path, default_value = "/")]
        path: String,
        /// For programs.
        #[arg(long)]
        json: bool,
    },
    /// Print each change of a node as it happens, until interrupted.
    #[command(
        after_help = "Example:\n  livegate zk watch /services/orders --children\n  \
        livegate zk watch /config --recursive --json\n\n\
        The node need not exist yet. Lost connections and sessions are told; what changed meanwhile is \
        printed when there is a connection again. Changes that follow each other faster than the node can \
        be read are one; the last is never missed.\n\
        --json prints a line {\"time\", \"kind\", \"path\", ...}; kinds are created, deleted, data, \
        children, connection_lost, connected_again, session_expired, new_session."
    )]
    Watch {
        /// The node.
        #[arg(value_parser = parse_path)]
        path: String,
        /// Changes of its list of children; with neither this nor --data both. That it was created or
        /// deleted is always told.
        #[arg(long)]
        children: bool,
        /// Changes of its data.
        #[arg(long)]
        data: bool,
        /// It and everything below it: what is created and deleted and, without --children, changes of
        /// data.
        #[arg(short, long)]
        recursive: bool,
        /// For programs.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
struct CreateArguments {
    /// The node; with -s what its name begins with.
    #[arg(value_parser = parse_path_to_create)]
    path: String,
    /// The data; - reads it from standard input.
    #[arg(
        default_value = "",
        hide_default_value = true,
        allow_negative_numbers = true
    )]
    data: String,
    /// A node that goes with its session: this command holds it until it is interrupted.
    #[arg(short, long)]
    ephemeral: bool,
    /// The server appends a number that counts up.
    #[arg(short, long)]
    sequential: bool,
    /// A node that the server deletes some time after its last child has gone.
    #[arg(short, long, conflicts_with_all = ["ephemeral", "sequential", "ttl"])]
    container: bool,
    /// The server deletes the node when it was not set for this long and has no children.
    #[arg(short, long, value_name = "DURATION", value_parser = parse_duration, conflicts_with = "ephemeral")]
    ttl: Option<Duration>,
    /// Create missing parents, too.
    #[arg(short, long)]
    parents: bool,
}

/// Does what is asked for.
pub(super) fn run(arguments: &ZkArguments) -> anyhow::Result<()> {
    acts::run(&arguments.connection, &arguments.command)
}

fn parse_path(text: &str) -> Result<String, PathError> {
    path::validate(text).map(|()| text.to_owned())
}

/// Whether it is good without a number is not known yet.
fn parse_path_to_create(text: &str) -> Result<String, PathError> {
    path::validate_sequential(text).map(|()| text.to_owned())
}
