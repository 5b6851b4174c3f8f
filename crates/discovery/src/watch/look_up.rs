//! Addresses of host names.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// How long looking up a name may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The first address, of IPv4 if there is one; or why there is none.
pub(super) async fn address(host: &str) -> Result<IpAddr, String> {
    let found = tokio::time::timeout(TIMEOUT, tokio::net::lookup_host((host, 0))).await;
    let addresses = match found {
        Ok(Ok(addresses)) => addresses,
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err(io::Error::from(io::ErrorKind::TimedOut).to_string()),
    };
    let addresses: Vec<SocketAddr> = addresses.collect();
    let four = addresses.iter().find(|address| address.is_ipv4());
    let address = four.or(addresses.first()).ok_or("it has no address")?;
    Ok(address.ip())
}
