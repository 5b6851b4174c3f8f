//! Texts with a grammar of their own: addresses, hosts, header names, paths, statuses.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;

use crate::config::StatusRange;
use crate::config::section::Value;
use crate::target::{Scratch, parse_target};

/// The largest weight, as in nginx.
pub(super) const WEIGHT_MAX: u32 = 65_535;

/// A weight; 0 takes an instance out of rotation.
pub(super) fn weight(value: &Value<'_>) -> Result<u32, String> {
    value.number(0..=WEIGHT_MAX)
}

/// An address to listen on.
pub(super) fn listen_address(value: &Value<'_>) -> Result<SocketAddr, String> {
    let text = value.string()?;
    text.parse().map_err(|_| match text.strip_prefix(':') {
        Some(port) => format!("\"{text}\" names no address: write \"0.0.0.0:{port}\" for all"),
        None => format!("\"{text}\" is not an IP address with a port, as in \"127.0.0.1:8080\""),
    })
}

/// A network, or one address.
pub(super) fn network(value: &Value<'_>) -> Result<IpNet, String> {
    let text = value.string()?;
    let network = text
        .parse()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    network.map_err(|_| format!("\"{text}\" is not a network, as in \"10.0.0.0/8\""))
}

/// A file or directory.
pub(super) fn path(value: &Value<'_>) -> Result<PathBuf, String> {
    value.text().map(PathBuf::from)
}

/// A file, or none for an empty text.
pub(super) fn optional_path(value: &Value<'_>) -> Result<Option<PathBuf>, String> {
    let text = value.string()?;
    Ok((!text.is_empty()).then(|| text.into()))
}

/// The name in a server's certificate, or none for an empty text.
pub(super) fn server_name(value: &Value<'_>) -> Result<Option<String>, String> {
    match value.string()? {
        "" => Ok(None),
        text if text.parse::<IpAddr>().is_ok() || is_host_name(text) => Ok(Some(text.to_owned())),
        text => Err(format!(
            "\"{text}\" is neither a host name nor an IP address"
        )),
    }
}

/// `host:port` with a name, an IPv4 address or an IPv6 address in brackets; names in lower case.
pub(super) fn host_and_port(text: &str) -> Result<String, String> {
    const HELP: &str = "write host:port, as in \"10.0.0.3:8080\" or \"[::1]:8080\"";
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() => (host, port),
        _ => return Err(format!("\"{text}\" has no port; {HELP}")),
    };
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    if !digits || port.parse::<u16>().map_or(true, |port| port == 0) {
        return Err(format!("\"{port}\" is not a port, 1 to 65535"));
    }
    let bracketed = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    if let Some(address) = bracketed {
        return match address.parse::<Ipv6Addr>() {
            Ok(_) => Ok(text.to_ascii_lowercase()),
            Err(_) => Err(format!("\"{address}\" is not an IPv6 address; {HELP}")),
        };
    }
    if host.contains(':') {
        return Err(format!(
            "\"{text}\" needs brackets around its IPv6 address; {HELP}"
        ));
    }
    if !is_host_name(host) {
        return Err(format!("\"{host}\" is not a host name; {HELP}"));
    }
    Ok(text.to_ascii_lowercase())
}

/// The host of a route, in lower case.
pub(super) fn route_host(value: &Value<'_>) -> Result<String, String> {
    let text = value.text()?;
    if text == "*" {
        return Err("for any host leave \"hosts\" out".to_owned());
    }
    let host = text.to_ascii_lowercase();
    let host = host.strip_suffix('.').unwrap_or(&host);
    if host.parse::<Ipv6Addr>().is_ok() {
        return Err(format!("an IPv6 address needs brackets: \"[{text}]\""));
    }
    let bracketed = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    if bracketed.is_some_and(|address| address.parse::<Ipv6Addr>().is_ok()) {
        return Ok(host.to_owned());
    }
    let name = host.strip_prefix("*.").unwrap_or(host);
    if is_host_name(name) {
        return Ok(host.to_owned());
    }
    Err(match name.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            format!("hosts are compared without their port: write \"{name}\"")
        }
        _ if name.contains('*') => {
            format!(
                "\"{text}\" has a star that is not a first label of its own, as in \"*.example.com\""
            )
        }
        _ => format!("\"{text}\" is not a host name"),
    })
}

/// Letters, digits, hyphens and (seen in service names) underscores, in labels.
fn is_host_name(text: &str) -> bool {
    text.len() <= 253
        && text.split('.').all(|label| {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            (1..=63).contains(&label.len()) && label.bytes().all(fits)
        })
}

/// A token of RFC 9110 section 5.6.2: method and header names.
pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// A header name, in lower case.
pub(super) fn header_name(name: &str) -> Result<String, String> {
    if is_token(name) {
        Ok(name.to_ascii_lowercase())
    } else {
        Err(format!("\"{name}\" is not a header name"))
    }
}

/// Statuses and ranges of them: "200-299, 404".
pub(super) fn statuses(value: &Value<'_>) -> Result<Vec<StatusRange>, String> {
    let text = value.text()?;
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (status_number(first)?, status_number(last)?);
        if first > last {
            return Err(format!("\"{}\" is backwards", part.trim()));
        }
        Ok(StatusRange { first, last })
    };
    text.split(',').map(range).collect()
}

fn status_number(text: &str) -> Result<u16, String> {
    let text = text.trim();
    text.parse()
        .ok()
        .filter(|status| text.len() == 3 && (100..=599).contains(status))
        .ok_or_else(|| format!("\"{text}\" is not a status, 100 to 599, as in \"200-399\""))
}

/// A ZooKeeper path, without a slash at its end.
pub(super) fn znode(value: &Value<'_>) -> Result<String, String> {
    let text = value.text()?;
    let Some(rest) = text.strip_prefix('/') else {
        return Err(format!(
            "\"{text}\" is not a znode path: it starts with \"/\""
        ));
    };
    let bad = |name: &str| {
        name.is_empty() || name == "." || name == ".." || name.contains(|c: char| c.is_control())
    };
    if !rest.is_empty() && rest.split('/').any(bad) {
        return Err(format!(
            "\"{text}\" is not a znode path, as in \"/services/orders\""
        ));
    }
    Ok(text.to_owned())
}

/// What is put before the paths that are sent upstream: no dot segments, no query, no slash at
/// its end; nothing for "/".
pub(super) fn upstream_path(value: &Value<'_>) -> Result<Option<String>, String> {
    let text = request_target(value)?;
    if text.contains('?') {
        return Err("a path has no query".to_owned());
    }
    let path = text.trim_end_matches('/');
    Ok((!path.is_empty()).then(|| path.to_owned()))
}

/// A path, with a query if need be, as it is sent: no dot segments.
pub(super) fn request_target<'d>(value: &Value<'d>) -> Result<&'d str, String> {
    let text = value.string()?;
    let mut scratch = Scratch::default();
    let target = parse_target(text.as_bytes(), &mut scratch).map_err(|error| error.to_string())?;
    if !text.as_bytes().starts_with(target.path) {
        return Err("a path has no dot segments".to_owned());
    }
    Ok(text)
}

/// A path that routes compare with: decoded, repeated slashes one. It may be written as in a URL
/// or plainly, spaces and all.
pub(super) fn route_path(value: &Value<'_>) -> Result<String, String> {
    let text = value.string()?;
    if !text.starts_with('/') {
        return Err(format!("\"{text}\" does not start with \"/\""));
    }
    if text.contains(['?', '#']) {
        return Err("routes look at the path alone, without query and fragment".to_owned());
    }
    let spaced = text.replace(' ', "%20");
    let mut scratch = Scratch::default();
    let target =
        parse_target(spaced.as_bytes(), &mut scratch).map_err(|error| error.to_string())?;
    if target.path != spaced.as_bytes() {
        return Err("a path has no dot segments".to_owned());
    }
    String::from_utf8(target.route_path.to_vec()).map_err(|_| "the path is not UTF-8".to_owned())
}
