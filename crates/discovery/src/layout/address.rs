//! `host:port`, and the classic layout in which that is the node's name.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::{Description, Host, LayoutError, excerpt};

/// Where an instance listens, by address or by name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    /// The host.
    pub host: Host,
    /// The port; never 0.
    pub port: u16,
}

/// Why a text is not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// There is no port.
    #[error("{0:?} has no port")]
    NoPort(String),
    /// The port is not a number from 1 to 65535.
    #[error("{0:?} is not a port")]
    Port(String),
    /// The host is neither an address nor a name.
    #[error("{0:?} is not a host")]
    Host(String),
    /// Nobody can be reached at 0.0.0.0 or ::.
    #[error("{0} is an address to listen at, not one to connect to")]
    Unspecified(IpAddr),
}

impl Address {
    /// From host and port. IPv6 addresses may have brackets.
    ///
    /// # Errors
    /// When the host is neither an address nor a name, or the port is 0.
    pub fn new(host: &str, port: u16) -> Result<Self, AddressError> {
        if port == 0 {
            return Err(AddressError::Port("0".to_owned()));
        }
        let bare = host
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        let host = match bare.unwrap_or(host).parse::<IpAddr>() {
            Ok(ip) if ip.is_unspecified() => return Err(AddressError::Unspecified(ip)),
            Ok(ip) => Host::Ip(ip),
            Err(_) if bare.is_none() && is_name(host) => Host::Name(host.into()),
            Err(_) => return Err(AddressError::Host(excerpt(host))),
        };
        Ok(Self { host, port })
    }

    /// From `host:port`, with IPv6 addresses in brackets.
    ///
    /// # Errors
    /// When it is not that.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(AddressError::NoPort(excerpt(text)));
        };
        if host.contains(':') && !host.starts_with('[') {
            return Err(AddressError::Host(excerpt(text)));
        }
        let is_number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port
            .parse()
            .ok()
            .filter(|_| is_number)
            .ok_or_else(|| AddressError::Port(excerpt(port)))?;
        Self::new(host, port)
    }

    /// The socket address, if that takes no looking up.
    #[must_use]
    pub fn socket(&self) -> Option<SocketAddr> {
        match &self.host {
            Host::Ip(ip) => Some(SocketAddr::new(*ip, self.port)),
            Host::Name(_) => None,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(ip) => SocketAddr::new(*ip, self.port).fmt(formatter),
            Host::Name(name) => write!(formatter, "{name}:{}", self.port),
        }
    }
}

/// A last label of digits alone would be read as an IPv4 address in some odd notation by resolvers.
fn is_name(host: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    let is_number = |label: &str| {
        label.starts_with(|first: char| first.is_ascii_digit())
            && (label.bytes().all(|byte| byte.is_ascii_digit()) || label.starts_with("0x"))
    };
    host.len() <= 253
        && host.split('.').all(is_label)
        && !host.rsplit('.').next().is_some_and(is_number)
}

/// The name without the number that a sequential mode appends: an underscore and ten digits.
pub(super) fn without_sequence(name: &str) -> &str {
    match name
        .len()
        .checked_sub(11)
        .and_then(|at| name.split_at_checked(at))
    {
        Some((rest, suffix))
            if suffix.starts_with('_') && suffix[1..].bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            rest
        }
        Some(_) | None => name,
    }
}

/// The name is the address; where it is not, the data may be.
pub(super) fn read(name: &str, data: &[u8]) -> Result<Description, LayoutError> {
    let by_name = match Address::parse(without_sequence(name)) {
        Ok(address) => return Ok(Description::at(address)),
        Err(error) => error,
    };
    let text = data
        .get(..data.len().min(512))
        .and_then(|data| std::str::from_utf8(data).ok())
        .unwrap_or_default()
        .trim();
    match Address::parse(text) {
        Ok(address) => Ok(Description::at(address).named(name)),
        Err(_) if text.is_empty() => Err(by_name.into()),
        Err(by_data) => Err(by_data.into()),
    }
}
