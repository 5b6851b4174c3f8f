//! `livegate registry`: the embedded registry alone.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use livegate_registry::zoo_cfg::{ListenHost, ZooCfg};
use livegate_registry::{Options, Server, StartError};

use crate::cli::logging::start_logging;
use crate::cli::run::raise_open_files_limit;
use crate::cli::signals::Ends;

/// Where it listens unless told otherwise.
const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 2181);
/// Where it keeps its data unless told otherwise.
const DATA_DIR: &str = "livegate-data/registry";
/// How often it is looked whether the server still runs.
const LOOK: Duration = Duration::from_secs(1);

/// What the command line says; it wins over a `zoo.cfg`, which wins over the defaults.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Where to listen [default: 127.0.0.1:2181].
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Where everything is kept [default: livegate-data/registry].
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Take settings from ZooKeeper's configuration file.
    #[arg(long, value_name = "FILE")]
    zoo_cfg: Option<PathBuf>,
}

/// Serves until a signal ends it.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    start_logging("info")?;
    raise_open_files_limit();
    let options = options(arguments)?;
    if !options.listen.ip().is_loopback() {
        tracing::warn!(
            "listening on {}, not only for this machine: whoever can connect can read and change \
             every node that has no access control list",
            options.listen
        );
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut ends = runtime.block_on(async { Ends::new() })?;
    let server = Server::start(options).map_err(advised)?;
    tracing::info!("registry on {}", server.address());
    runtime.block_on(async {
        loop {
            tokio::select! {
                name = ends.next() => {
                    tracing::info!("{name}: stopping");
                    return Ok(());
                }
                () = tokio::time::sleep(LOOK) => {
                    if !server.is_running() {
                        bail!("the registry has failed: see the lines above, and start it again");
                    }
                }
            }
        }
    })?;
    server.stop();
    tracing::info!("stopped");
    Ok(())
}

/// Why it does not start, and what to do.
fn advised(error: StartError) -> anyhow::Error {
    match error {
        StartError::Listen { address, source } if source.kind() == ErrorKind::AddrInUse => anyhow!(
            "cannot listen on {address}, because another program does: end it, or choose another \
             address with --listen"
        ),
        StartError::Listen { address, source } => {
            anyhow!("cannot listen on {address} ({source}): choose another address with --listen")
        }
        // These name their cause.
        error @ (StartError::DataDirectory { .. } | StartError::System(_)) => {
            anyhow!("{error}")
        }
    }
}

fn options(arguments: &Arguments) -> anyhow::Result<Options> {
    let cfg = match &arguments.zoo_cfg {
        Some(file) => read_zoo_cfg(file)?,
        None => ZooCfg::default(),
    };
    let listen = match arguments.listen {
        Some(listen) => listen,
        None => listen_of(&cfg)?,
    };
    let data_dir = arguments.data_dir.clone().or(cfg.data_dir);
    let mut options = Options::new(listen, data_dir.unwrap_or_else(|| DATA_DIR.into()));
    if let Some(tick_time) = cfg.tick_time {
        options.tick_time = tick_time;
    }
    options.session_timeout_min = cfg.session_timeout_min;
    options.session_timeout_max = cfg.session_timeout_max;
    if let Some(max) = cfg.client_connections_max {
        options.connections_per_address_max = usize::try_from(max)?;
    }
    if let Some(words) = cfg.four_letter_words {
        options.four_letter_words = words;
    }
    options.super_digest = cfg.super_digest;
    if let Some(bytes) = cfg.request_bytes_max {
        options.request_bytes_max = bytes;
    }
    if let Some(interval) = cfg.reap_interval {
        options.reap_interval = interval;
    }
    Ok(options)
}

fn read_zoo_cfg(file: &Path) -> anyhow::Result<ZooCfg> {
    let name = file.display();
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {name}"))?;
    let cfg = ZooCfg::parse(&text).with_context(|| format!("cannot use {name}"))?;
    for warning in &cfg.warnings {
        tracing::warn!("{name}: {warning}");
    }
    if !cfg.ignored.is_empty() {
        tracing::info!("{name}: without effect here: {}", cfg.ignored.join(", "));
    }
    Ok(cfg)
}

/// As ZooKeeper: on all addresses when only a port is given.
fn listen_of(cfg: &ZooCfg) -> anyhow::Result<SocketAddr> {
    let port = cfg.client_port.unwrap_or(LISTEN.port());
    Ok(match (&cfg.client_port_address, cfg.client_port) {
        (Some(ListenHost::Address(address)), _) => SocketAddr::new(*address, port),
        (Some(ListenHost::Name(name)), _) => (name.as_str(), port)
            .to_socket_addrs()
            .ok()
            .and_then(|mut addresses| addresses.next())
            .with_context(|| format!("clientPortAddress: {name} has no address"))?,
        (None, Some(port)) => SocketAddr::new(everywhere(), port),
        (None, None) => LISTEN,
    })
}

/// The address that stands for all: of both families, as Java has it, where the kernel takes both by one socket.
fn everywhere() -> IpAddr {
    let v6_takes_v4 = std::fs::read_to_string("/proc/sys/net/ipv6/bindv6only")
        .is_ok_and(|only_v6| only_v6.trim() == "0");
    if v6_takes_v4 && UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok() {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_wins_over_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("zoo.cfg");
        std::fs::write(
            &file,
            "tickTime=500\ndataDir=/var/lib/zookeeper\nclientPort=2182\nmaxClientCnxns=0\n\
             4lw.commands.whitelist=*\nznode.container.checkIntervalMs=1000\njute.maxbuffer=4194304\n\
             DigestAuthenticationProvider.superDigest=super:D/InIHSb7yEEbrWz8b9l71RjZJU=\n",
        )
        .unwrap();
        let mut arguments = Arguments {
            listen: None,
            data_dir: None,
            zoo_cfg: Some(file),
        };
        let from_file = options(&arguments).unwrap();
        assert!(from_file.listen.ip().is_unspecified());
        assert_eq!(from_file.listen.port(), 2182);
        assert_eq!(from_file.data_dir, Path::new("/var/lib/zookeeper"));
        assert_eq!(from_file.tick_time, Duration::from_millis(500));
        assert_eq!(from_file.connections_per_address_max, 0);
        assert_eq!(from_file.reap_interval, Duration::from_secs(1));
        assert_eq!(from_file.request_bytes_max, 4 << 20);
        assert!(from_file.super_digest.is_some());
        arguments.listen = Some("[::1]:1".parse().unwrap());
        arguments.data_dir = Some("here".into());
        let from_both = options(&arguments).unwrap();
        assert_eq!(from_both.listen, "[::1]:1".parse().unwrap());
        assert_eq!(from_both.data_dir, Path::new("here"));
        arguments.zoo_cfg = Some("/nonexistent/zoo.cfg".into());
        let error = format!("{:#}", options(&arguments).unwrap_err());
        assert!(
            error.starts_with("cannot read /nonexistent/zoo.cfg: "),
            "{error}"
        );
    }
}
