//! How commands are told which registry to use, and as whom.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use livegate_zk::client::{ConnectOptions, ConnectStringError};

use crate::access::{self, Login, TlsFiles};
use crate::cli::Usage;

const HEADING: &str = "Connection";

/// The servers, and how to be known there.
#[derive(Debug, Args)]
pub(super) struct EnsembleArguments {
    /// The servers, and perhaps the node to take for the root: zk1:2181,zk2:2181/chroot.
    #[arg(
        long,
        global = true,
        help_heading = HEADING,
        value_name = "HOSTS",
        env = "LIVEGATE_REGISTRY",
        default_value = "127.0.0.1:2181",
        value_parser = parse_registry
    )]
    registry: Registry,
    /// Who to be (scheme digest); may be given several times. Others on this machine can see it: see
    /// --auth-file.
    #[arg(
        long,
        global = true,
        help_heading = HEADING,
        value_name = "USER:PASSWORD",
        env = access::AUTH_VARIABLE,
        hide_env_values = true,
        value_parser = Login::parse
    )]
    auth: Vec<Login>,
    /// A file with USER:PASSWORD in each line.
    #[arg(
        long,
        global = true,
        help_heading = HEADING,
        value_name = "FILE",
        env = "LIVEGATE_REGISTRY_AUTH_FILE"
    )]
    auth_file: Option<PathBuf>,
    /// Encrypt, and trust servers whose certificates are from these authorities (PEM).
    #[arg(
        long,
        global = true,
        help_heading = HEADING,
        value_name = "FILE",
        env = "LIVEGATE_REGISTRY_TLS_CA"
    )]
    tls_ca: Option<PathBuf>,
    /// The certificate to show to servers that ask for one (PEM).
    #[arg(
        long,
        global = true,
        help_heading = HEADING,
        value_name = "FILE",
        env = "LIVEGATE_REGISTRY_TLS_CERT"
    )]
    tls_cert: Option<PathBuf>,
    /// Its key (PEM).
    #[arg(
        long,
        global = true,
        help_heading = HEADING,
        value_name = "FILE",
        env = "LIVEGATE_REGISTRY_TLS_KEY"
    )]
    tls_key: Option<PathBuf>,
    /// The name in the servers' certificates, where it is not the one in --registry.
    #[arg(
        long,
        global = true,
        help_heading = HEADING,
        value_name = "NAME",
        env = "LIVEGATE_REGISTRY_TLS_SERVER_NAME"
    )]
    tls_server_name: Option<String>,
}

/// A connect string that is one.
#[derive(Debug, Clone)]
struct Registry(ConnectOptions);

fn parse_registry(text: &str) -> Result<Registry, ConnectStringError> {
    ConnectOptions::new(text).map(Registry)
}

impl EnsembleArguments {
    /// What the client wants; reads the files.
    pub(super) fn options(&self) -> anyhow::Result<ConnectOptions> {
        let mut options = self.registry.0.clone();
        let in_file = given(&self.auth_file).map(|file| access::read_logins(&file));
        let in_file = in_file.transpose().context("--auth-file")?;
        let logins = self.auth.iter().chain(in_file.iter().flatten());
        options.credentials = logins.map(Login::credential).collect();
        let files = self.tls_files()?;
        options.tls = files.map(|files| files.load()).transpose()?;
        Ok(options)
    }

    fn tls_files(&self) -> Result<Option<TlsFiles>, Usage> {
        let identity = match (given(&self.tls_cert), given(&self.tls_key)) {
            (Some(chain), Some(key)) => Some((chain, key)),
            (None, None) => None,
            (Some(_), None) => return Err(Usage("--tls-cert needs --tls-key as well".to_owned())),
            (None, Some(_)) => return Err(Usage("--tls-key needs --tls-cert as well".to_owned())),
        };
        let name = self.tls_server_name.clone();
        let server_name = name.filter(|name| !name.is_empty());
        match given(&self.tls_ca) {
            Some(ca) => Ok(Some(TlsFiles {
                ca,
                identity,
                server_name,
            })),
            None if identity.is_some() || server_name.is_some() => Err(Usage(
                "TLS needs --tls-ca: the authorities that servers are trusted by".to_owned(),
            )),
            None => Ok(None),
        }
    }
}

/// An empty variable of the environment is none.
fn given(file: &Option<PathBuf>) -> Option<PathBuf> {
    file.clone().filter(|file| !file.as_os_str().is_empty())
}
