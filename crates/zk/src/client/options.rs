//! Where to connect to, and how.

use std::time::Duration;

use super::chroot::Chroot;
use crate::frame::REQUEST_BYTES_MAX;
use crate::path::PathError;

/// Where to connect to, and how. Make one with [`ConnectOptions::new`] and change what should differ.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// The servers of the ensemble. They are tried in random order, and names are resolved again on each
    /// cycle through them.
    pub servers: Vec<ServerAddress>,
    /// What is put before every path.
    pub chroot: Chroot,
    /// The session timeout to ask for; a server gives 2 to 20 of its ticks. Default 10 s.
    pub session_timeout: Duration,
    /// How long an operation may take, waiting for a connection included. Default 10 s.
    pub operation_timeout: Duration,
    /// How long connecting to one server may take, until it has answered. Default: a third of the
    /// session timeout shared among the servers, within 500 ms and 2 s. A server that is just starting may
    /// accept a connection and never answer (seen with Apache ZooKeeper 3.8), so waiting long may cost the
    /// session.
    pub connect_timeout: Option<Duration>,
    /// Shortest and longest wait between two cycles through the servers. Within these, each wait is
    /// random up to three times the one before (decorrelated jitter, as in the AWS Architecture Blog's
    /// "Exponential Backoff And Jitter"). Default 50 ms to 2 s.
    pub backoff: (Duration, Duration),
    /// Identities to add to every connection.
    pub credentials: Vec<Credential>,
    /// Requests that may be queued or under way at once; more have to wait. Default 256: a server
    /// starts to throttle at 1000 over all its clients (`globalOutstandingLimit`).
    pub requests_max: usize,
    /// Bytes of requests that may be queued or under way at once. Default 8 MiB.
    pub request_queue_bytes_max: usize,
    /// The longest request to send. Default 1 MiB - 1, which is what servers take unless configured
    /// (`jute.maxbuffer`).
    pub request_bytes_max: usize,
    /// The longest reply to keep. Servers do not limit replies: a list of many children can be long.
    /// Default 16 MiB.
    pub reply_bytes_max: usize,
    /// Notifications that a persistent watcher may leave unread; beyond that it is told that there was a
    /// gap. Default 1024.
    pub watch_queue_max: usize,
    /// Encrypts connections. Default: plain text.
    #[cfg(feature = "tls")]
    pub tls: Option<super::tls::TlsOptions>,
}

/// A server, by name or address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServerAddress {
    /// A host name, or an IPv4 or IPv6 address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// An identity that a client claims.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// For instance `digest`.
    pub scheme: String,
    /// In the scheme's format.
    pub auth: Vec<u8>,
}

impl Credential {
    /// A user and a password in plain text, for the scheme `digest`.
    #[must_use]
    pub fn digest(user: &str, password: &str) -> Self {
        Self {
            scheme: "digest".to_owned(),
            auth: format!("{user}:{password}").into_bytes(),
        }
    }
}

/// Without the secret.
impl std::fmt::Debug for Credential {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Credential")
            .field("scheme", &self.scheme)
            .finish_non_exhaustive()
    }
}

/// Why a connect string is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectStringError {
    /// It names no server.
    #[error("no server is named")]
    Empty,
    /// A server has no host.
    #[error("{0:?} has no host")]
    NoHost(String),
    /// A port is not a number from 1 to 65535.
    #[error("{0:?} is not a port")]
    Port(String),
    /// An IPv6 address is not in brackets, or the brackets do not match.
    #[error("{0:?} is not a host: an IPv6 address is written [address]:port")]
    Brackets(String),
    /// What follows the servers is not a path.
    #[error("invalid chroot: {0}")]
    Chroot(#[from] PathError),
}

impl ConnectOptions {
    /// The port of servers that are named without one.
    pub const DEFAULT_PORT: u16 = 2181;

    /// Defaults for a connect string: servers, separated by commas, and perhaps a chroot, as in
    /// `zk1:2181,zk2,[::1]:2182/chroot`.
    ///
    /// # Errors
    /// When it is not a connect string.
    pub fn new(connect_string: &str) -> Result<Self, ConnectStringError> {
        let (servers, chroot) = match connect_string.find('/') {
            Some(slash) => connect_string.split_at(slash),
            None => (connect_string, "/"),
        };
        let servers = servers
            .split(',')
            .map(str::trim)
            .filter(|server| !server.is_empty())
            .map(ServerAddress::parse)
            .collect::<Result<Vec<_>, _>>()?;
        if servers.is_empty() {
            return Err(ConnectStringError::Empty);
        }
        Ok(Self {
            servers,
            chroot: Chroot::new(chroot.trim_end())?,
            session_timeout: Duration::from_secs(10),
            operation_timeout: Duration::from_secs(10),
            connect_timeout: None,
            backoff: (Duration::from_millis(50), Duration::from_secs(2)),
            credentials: Vec::new(),
            requests_max: 256,
            request_queue_bytes_max: 8 << 20,
            request_bytes_max: REQUEST_BYTES_MAX,
            reply_bytes_max: 16 << 20,
            watch_queue_max: 1024,
            #[cfg(feature = "tls")]
            tls: None,
        })
    }

    /// How long connecting to one server may take.
    pub(crate) fn connect_timeout(&self) -> Duration {
        self.connect_timeout.unwrap_or_else(|| {
            let servers = u32::try_from(self.servers.len()).unwrap_or(u32::MAX).max(1);
            (self.session_timeout / 3 / servers)
                .clamp(Duration::from_millis(500), Duration::from_secs(2))
        })
    }
}

impl ServerAddress {
    fn parse(text: &str) -> Result<Self, ConnectStringError> {
        let brackets = || ConnectStringError::Brackets(text.to_owned());
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, rest) = rest.split_once(']').ok_or_else(brackets)?;
            match rest.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if rest.is_empty() => (host, None),
                None => return Err(brackets()),
            }
        } else {
            match text.split_once(':') {
                Some((_, port)) if port.contains(':') => return Err(brackets()),
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            }
        };
        if host.is_empty() {
            return Err(ConnectStringError::NoHost(text.to_owned()));
        }
        let port = match port {
            None => ConnectOptions::DEFAULT_PORT,
            Some(port) => match port.parse() {
                Ok(0) | Err(_) => return Err(ConnectStringError::Port(port.to_owned())),
                Ok(port) => port,
            },
        };
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl std::fmt::Display for ServerAddress {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(formatter, "[{}]:{}", self.host, self.port)
        } else {
            write!(formatter, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(connect_string: &str) -> Vec<String> {
        let options = ConnectOptions::new(connect_string).unwrap();
        options
            .servers
            .iter()
            .map(ServerAddress::to_string)
            .collect()
    }

    #[test]
    fn connect_strings() {
        assert_eq!(servers("zk1"), ["zk1:2181"]);
        assert_eq!(servers("zk1:1, zk2:2/a/b"), ["zk1:1", "zk2:2"]);
        assert_eq!(
            servers("[::1]:2182,[fe80::1]"),
            ["[::1]:2182", "[fe80::1]:2181"]
        );
        assert_eq!(
            ConnectOptions::new("zk1/a/b").unwrap().chroot,
            Chroot::new("/a/b").unwrap()
        );
        assert_eq!(
            ConnectOptions::new("zk1/").unwrap().chroot,
            Chroot::default()
        );
    }

    #[test]
    fn wrong_connect_strings() {
        let error = |text| ConnectOptions::new(text).unwrap_err();
        assert_eq!(error(""), ConnectStringError::Empty);
        assert_eq!(error(","), ConnectStringError::Empty);
        assert_eq!(error("/a"), ConnectStringError::Empty);
        assert_eq!(
            error(":2181"),
            ConnectStringError::NoHost(":2181".to_owned())
        );
        assert_eq!(error("zk:0"), ConnectStringError::Port("0".to_owned()));
        assert_eq!(error("zk:"), ConnectStringError::Port(String::new()));
        assert_eq!(
            error("zk:65536"),
            ConnectStringError::Port("65536".to_owned())
        );
        assert_eq!(error("::1"), ConnectStringError::Brackets("::1".to_owned()));
        assert_eq!(
            error("[::1"),
            ConnectStringError::Brackets("[::1".to_owned())
        );
        assert_eq!(
            error("[::1]2181"),
            ConnectStringError::Brackets("[::1]2181".to_owned())
        );
        assert_eq!(
            error("zk/a/"),
            ConnectStringError::Chroot(PathError::TrailingSlash)
        );
    }

    #[test]
    fn time_to_connect_is_shared_among_the_servers() {
        let timeout = |connect_string| {
            ConnectOptions::new(connect_string)
                .unwrap()
                .connect_timeout()
        };
        assert_eq!(timeout("a"), Duration::from_secs(2));
        assert_eq!(timeout("a,b,c,d"), Duration::from_secs(10) / 3 / 4);
    }

    #[test]
    fn secrets_are_not_printed() {
        let credential = Credential::digest("user", "secret");
        assert_eq!(credential.auth, b"user:secret");
        assert!(!format!("{credential:?}").contains("secret"));
    }
}
