//! Where an instance can be reached, as it is registered.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// Where an instance can be reached: a host (a name or an address) and a port. As text it is
/// `10.0.0.3:8080`, `orders-1.example.com:8080` or `[2001:db8::1]:8080`, which is also the name of the
/// instance's node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct InstanceAddress {
    host: String,
    port: u16,
}

/// Why a text, or a socket address, is not the address of an instance.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InstanceAddressError {
    /// There is no port.
    #[error("{0:?} has no port: write HOST:PORT, and an IPv6 address as [ADDRESS]:PORT")]
    NoPort(String),
    /// The port is not a number from 1 to 65535.
    #[error("{0:?} is not a port: write a number from 1 to 65535")]
    Port(String),
    /// The host cannot be one.
    #[error("{0:?} is not a host: write a name, an IPv4 address or an IPv6 address in brackets")]
    Host(String),
    /// It is `0.0.0.0` or `[::]`, which can be listened on but not connected to.
    #[error("{0} is not an address that others can connect to: name one of this machine's own")]
    Unspecified(IpAddr),
}

impl InstanceAddress {
    /// The host: a name, or an address without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    fn of_ip(ip: IpAddr, port: u16) -> Result<Self, InstanceAddressError> {
        if ip.is_unspecified() {
            return Err(InstanceAddressError::Unspecified(ip));
        }
        if port == 0 {
            return Err(InstanceAddressError::Port("0".to_owned()));
        }
        let host = ip.to_string();
        Ok(Self { host, port })
    }
}

impl FromStr for InstanceAddress {
    type Err = InstanceAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, port) = text
            .rsplit_once(':')
            .ok_or_else(|| InstanceAddressError::NoPort(text.to_owned()))?;
        let number = port.parse::<u16>().ok().filter(|number| *number != 0);
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        let port = number
            .filter(|_| digits)
            .ok_or_else(|| InstanceAddressError::Port(port.to_owned()))?;
        let wrong = || InstanceAddressError::Host(host.to_owned());
        if let Some(inner) = host.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or_else(wrong)?;
            let ip: Ipv6Addr = inner.parse().map_err(|_| wrong())?;
            return Self::of_ip(ip.into(), port);
        }
        if let Ok(ip) = host.parse::<IpAddr>() {
            return match ip {
                IpAddr::V4(_) => Self::of_ip(ip, port),
                IpAddr::V6(_) => Err(wrong()),
            };
        }
        // RFC 1123, section 2.1, and the underscore, which names in container networks have.
        let is_name = !host.is_empty()
            && host.len() <= 253
            && host.split('.').all(|label| !label.is_empty())
            && host
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
        if !is_name {
            return Err(wrong());
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl TryFrom<SocketAddr> for InstanceAddress {
    type Error = InstanceAddressError;

    fn try_from(address: SocketAddr) -> Result<Self, Self::Error> {
        Self::of_ip(address.ip(), address.port())
    }
}

impl fmt::Display for InstanceAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
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

    #[test]
    fn addresses_are_written_in_one_way() {
        let canonical = |text: &str| text.parse::<InstanceAddress>().unwrap().to_string();
        assert_eq!(canonical("10.0.0.3:8080"), "10.0.0.3:8080");
        assert_eq!(canonical("orders-1.local:80"), "orders-1.local:80");
        assert_eq!(canonical("[2001:DB8:0::1]:80"), "[2001:db8::1]:80");
        let address: InstanceAddress = "[::1]:80".parse().unwrap();
        assert_eq!((address.host(), address.port()), ("::1", 80));
    }

    #[test]
    fn what_nobody_can_connect_to_is_refused() {
        let error = |text: &str| text.parse::<InstanceAddress>().unwrap_err();
        let text = str::to_owned;
        assert_eq!(error("a"), InstanceAddressError::NoPort(text("a")));
        for port in ["0", "", "65536", "+80", "8o"] {
            assert_eq!(
                error(&format!("a:{port}")),
                InstanceAddressError::Port(text(port))
            );
        }
        for host in [
            "", "::1", "[::1", "[a]", "a/b", "a b", "a..b", ".", "..", "ä",
        ] {
            assert_eq!(
                error(&format!("{host}:80")),
                InstanceAddressError::Host(text(host))
            );
        }
        for host in ["0.0.0.0", "[::]"] {
            assert!(matches!(
                error(&format!("{host}:80")),
                InstanceAddressError::Unspecified(_)
            ));
        }
        let any: SocketAddr = "0.0.0.0:80".parse().unwrap();
        assert!(InstanceAddress::try_from(any).is_err());
    }
}
