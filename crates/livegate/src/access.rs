//! How to be known to a registry that protects its nodes, and how to reach one over TLS: from files and
//! texts to what the client wants.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use livegate_zk::client::{Credential, DisconnectCause, TlsError, TlsOptions};
use thiserror::Error;

/// The environment variable with an identity.
pub const AUTH_VARIABLE: &str = "LIVEGATE_REGISTRY_AUTH";

/// Where certificates and keys are, all in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The authorities that servers are trusted by.
    pub ca: PathBuf,
    /// The client's own chain of certificates and its key, for servers that ask for them.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name in the servers' certificates; without it each bears the name that it is connected to by.
    pub server_name: Option<String>,
}

/// A user and a password, which are not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    user: String,
    password: String,
}

impl Login {
    /// From `USER:PASSWORD`; the password may have colons.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (user, password) = text.split_once(':').ok_or("write it as USER:PASSWORD")?;
        Ok(Self {
            user: user.to_owned(),
            password: password.to_owned(),
        })
    }

    /// For ZooKeeper's scheme `digest`.
    pub fn credential(&self) -> Credential {
        Credential::digest(&self.user, &self.password)
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Login")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// What is wrong with who the client says it is, or with how it says so, when it gets no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The user or the password.
    Login,
    /// The certificate of the server, or that of the client.
    Certificates,
    /// The server does not speak TLS there.
    NoTls,
    /// Perhaps the server speaks nothing but TLS there.
    OnlyTls,
}

impl Trouble {
    /// As far as the cause shows; `None` when it is something else.
    pub fn of(cause: &DisconnectCause, is_tls: bool) -> Option<Self> {
        match cause {
            DisconnectCause::AuthFailed(_) => Some(Self::Login),
            DisconnectCause::Io(text) if is_tls => {
                let says = |word: &str| text.contains(word);
                // In the words of rustls; an alert is what the server has against the client.
                if says("certificate") || says("alert") {
                    Some(Self::Certificates)
                } else if says("handshake eof") || says("corrupt message") {
                    Some(Self::NoTls)
                } else {
                    None
                }
            }
            DisconnectCause::Refused(_) if !is_tls => Some(Self::OnlyTls),
            DisconnectCause::Io(_)
            | DisconnectCause::Refused(_)
            | DisconnectCause::Resolve(_)
            | DisconnectCause::ConnectTimeout(_)
            | DisconnectCause::Closed
            | DisconnectCause::Silent
            | DisconnectCause::Protocol(_) => None,
        }
    }
}

/// Why somebody cannot be known or trusted. Never with a secret in it.
#[derive(Debug, Error)]
pub enum AccessError {
    /// A file cannot be read.
    #[error("cannot read {file}: {cause}")]
    Unreadable {
        /// The file.
        file: String,
        /// Why.
        cause: io::Error,
    },
    /// A line of a file is no identity.
    #[error("{file}:{line}: {problem}")]
    Line {
        /// The file.
        file: String,
        /// From 1.
        line: usize,
        /// What to write.
        problem: &'static str,
    },
    /// A file has no identity in it.
    #[error("{file} is empty: write USER:PASSWORD there")]
    Empty {
        /// The file.
        file: String,
    },
    /// Certificates or keys are not what they should be.
    #[error("cannot use {files}: {cause}")]
    Tls {
        /// The files.
        files: String,
        /// Why.
        cause: TlsError,
    },
}

/// The identities in a file with `USER:PASSWORD` in each line. Blocks on the disk.
pub fn read_logins(file: &Path) -> Result<Vec<Login>, AccessError> {
    let name = || file.display().to_string();
    let text = read(file)?;
    let text = String::from_utf8_lossy(&text);
    let mut logins = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let login = Login::parse(line.trim()).map_err(|problem| AccessError::Line {
            file: name(),
            line: index + 1,
            problem,
        });
        logins.push(login?);
    }
    if logins.is_empty() {
        return Err(AccessError::Empty { file: name() });
    }
    Ok(logins)
}

impl TlsFiles {
    /// Reads them. Blocks on the disk.
    pub fn load(&self) -> Result<TlsOptions, AccessError> {
        let refused = |cause| {
            let mut files = vec![self.ca.display().to_string()];
            if let Some((chain, key)) = &self.identity {
                files.extend([chain, key].map(|file| file.display().to_string()));
            }
            AccessError::Tls {
                files: files.join(", "),
                cause,
            }
        };
        let ca = read(&self.ca)?;
        let identity = match &self.identity {
            Some((chain, key)) => Some((read(chain)?, read(key)?)),
            None => None,
        };
        let identity = identity.as_ref().map(|(chain, key)| (&chain[..], &key[..]));
        let options = TlsOptions::new(&ca, identity).map_err(refused)?;
        match &self.server_name {
            Some(name) => options.with_server_name(name).map_err(refused),
            None => Ok(options),
        }
    }
}

fn read(file: &Path) -> Result<Vec<u8>, AccessError> {
    std::fs::read(file).map_err(|cause| AccessError::Unreadable {
        file: file.display().to_string(),
        cause,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_identities() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("auth");
        let write = |text: &str| std::fs::write(&file, text).unwrap();
        write("a:b:c\n\n  d:e \n");
        let pairs: Vec<_> = read_logins(&file)
            .unwrap()
            .into_iter()
            .map(|login| (login.user, login.password))
            .collect();
        let pair = |user: &str, password: &str| (user.to_owned(), password.to_owned());
        assert_eq!(pairs, [pair("a", "b:c"), pair("d", "e")]);
        let error = || read_logins(&file).unwrap_err().to_string();
        write("a:b\nsecret\n");
        assert!(error().ends_with("auth:2: write it as USER:PASSWORD"));
        write(" \n");
        assert!(error().ends_with("auth is empty: write USER:PASSWORD there"));
        std::fs::remove_file(&file).unwrap();
        assert!(error().starts_with("cannot read "), "{}", error());
    }

    #[test]
    fn secrets_are_not_printed() {
        let login = Login::parse("me:hush").unwrap();
        assert_eq!(format!("{login:?}"), "Login { user: \"me\", .. }");
    }

    #[test]
    fn certificates_that_are_none_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let ca = directory.path().join("ca.pem");
        std::fs::write(&ca, "nonsense").unwrap();
        let files = TlsFiles {
            ca,
            identity: None,
            server_name: None,
        };
        let error = files.load().unwrap_err().to_string();
        assert!(
            error.starts_with("cannot use ")
                && error.ends_with("ca.pem: certificate authorities: no certificate"),
            "{error}"
        );
    }
}
