//! `[http]`, `[admin]`, `[registry]`, `[discovery]`.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use livegate_discovery::layout::Layout;

use crate::config::section::{Section, Value};
use crate::config::units::{duration, positive_duration, size};
use crate::config::values::{
    host_and_port, listen_address, network, optional_path, path, server_name, znode,
};
use crate::config::{
    AccessLog, AdminConfig, DiscoveryConfig, HttpConfig, RegistryConfig, RegistryMode,
};

/// Below this not even a request of `curl` fits.
const HEADER_BYTES_MIN: u64 = 1 << 10;
/// Every client connection may hold so much.
const HEADER_BYTES_MAX: u64 = 1 << 20;

/// Reads `[http]`.
pub(super) fn http(mut section: Section<'_>) -> HttpConfig {
    let mut http = HttpConfig::default();
    section.set("listen", &mut http.listen, listen);
    section.set("workers", &mut http.workers, |value| value.number(1..=1024));
    section.set(
        "header_timeout",
        &mut http.header_timeout,
        positive_duration,
    );
    section.set("idle_timeout", &mut http.idle_timeout, positive_duration);
    section.set("header_bytes_max", &mut http.header_bytes_max, |value| {
        let bytes = size(value)?;
        if (HEADER_BYTES_MIN..=HEADER_BYTES_MAX).contains(&bytes) {
            Ok(bytes)
        } else {
            Err("is out of range, 1KiB to 1MiB".to_owned())
        }
    });
    section.set("headers_max", &mut http.headers_max, |value| {
        value.number(1..=1000)
    });
    section.set(
        "body_bytes_max",
        &mut http.body_bytes_max,
        |value| match value.string() {
            Ok("unlimited") => Ok(None),
            _ => size(value).map(Some),
        },
    );
    section.set("trusted_proxies", &mut http.trusted_proxies, |value| {
        value.list(network)
    });
    section.set("shutdown_timeout", &mut http.shutdown_timeout, duration);
    section.set("access_log", &mut http.access_log, access_log);
    section.finish();
    http
}

fn listen(value: &Value<'_>) -> Result<Vec<SocketAddr>, String> {
    let addresses = value.list(listen_address)?;
    if value.elements()?.is_empty() {
        return Err("needs at least one address".to_owned());
    }
    let mut seen = BTreeSet::new();
    for element in value.elements()? {
        // Port 0 stands for a different free port each time.
        if let Ok(address) = listen_address(&element)
            && address.port() != 0
            && !seen.insert(address)
        {
            element.error(format!("{address} is listed twice"));
        }
    }
    Ok(addresses)
}

fn access_log(value: &Value<'_>) -> Result<AccessLog, String> {
    Ok(match value.string()? {
        "" => return Err("must be \"off\", \"stdout\" or a file".to_owned()),
        "off" => AccessLog::Off,
        "stdout" => AccessLog::Stdout,
        file => AccessLog::File(file.into()),
    })
}

/// Reads `[admin]`; `http` is read already.
pub(super) fn admin(mut section: Section<'_>, http: &HttpConfig) -> AdminConfig {
    let mut admin = AdminConfig::default();
    section.set("token_file", &mut admin.token_file, optional_path);
    let listen = section.get("listen");
    if let Some(value) = &listen
        && let Some(address) = value.parse(listen_address)
    {
        admin.listen = address;
        if address.port() != 0 && http.listen.contains(&address) {
            value.error(format!("{address} is taken by http.listen"));
        }
        if !address.ip().is_loopback() && admin.token_file.is_none() {
            value.error(format!(
                "{address} can be reached from other machines: set \"token_file\" as well, or listen on 127.0.0.1"
            ));
        }
    }
    section.finish();
    admin
}

/// Reads `[registry]`.
pub(super) fn registry(mut section: Section<'_>) -> RegistryConfig {
    let mut registry = RegistryConfig::default();
    let modes = [
        ("embedded", RegistryMode::Embedded),
        ("external", RegistryMode::External),
        ("none", RegistryMode::None),
    ];
    let mode = match section.get("mode") {
        Some(value) => value.parse(|value| value.choice(&modes)),
        None => Some(registry.mode),
    };
    section.set("hosts", &mut registry.hosts, |value| match mode {
        Some(RegistryMode::Embedded) => listen_address(value).map(|address| address.to_string()),
        Some(RegistryMode::External) => connect_string(value),
        Some(RegistryMode::None) | None => value.string().map(str::to_owned),
    });
    registry.mode = mode.unwrap_or(registry.mode);
    section.set("data_dir", &mut registry.data_dir, path);
    section.set(
        "session_timeout",
        &mut registry.session_timeout,
        positive_duration,
    );
    section.set("config_path", &mut registry.config_path, |value| {
        let text = value.string()?;
        if text.is_empty() {
            return Ok(None);
        }
        if registry.mode == RegistryMode::None {
            return Err("needs a registry, and registry.mode is \"none\"".to_owned());
        }
        znode(value).map(Some)
    });
    let mode = registry.mode;
    section.set("auth_file", &mut registry.auth_file, |value| {
        let file = optional_path(value)?;
        if file.is_some() && mode == RegistryMode::None {
            return Err("needs a registry, and registry.mode is \"none\"".to_owned());
        }
        Ok(file)
    });
    registry_tls(&mut section, &mut registry);
    section.finish();
    registry
}

/// `tls_ca` and what goes with it.
fn registry_tls(section: &mut Section<'_>, registry: &mut RegistryConfig) {
    let (ca, cert, key) = (
        section.get("tls_ca"),
        section.get("tls_cert"),
        section.get("tls_key"),
    );
    let name = section.get("tls_server_name");
    let file = |value: &Option<Value<'_>>| value.as_ref()?.parse(optional_path).flatten();
    (registry.tls_ca, registry.tls_cert, registry.tls_key) = (file(&ca), file(&cert), file(&key));
    registry.tls_server_name = name
        .as_ref()
        .and_then(|value| value.parse(server_name).flatten());
    let given = [
        (&ca, registry.tls_ca.is_some()),
        (&cert, registry.tls_cert.is_some()),
        (&key, registry.tls_key.is_some()),
        (&name, registry.tls_server_name.is_some()),
    ];
    let mut given = given
        .iter()
        .filter(|(_, is_given)| *is_given)
        .filter_map(|(value, _)| value.as_ref());
    let Some(first) = given.next() else { return };
    if registry.mode != RegistryMode::External {
        return first.error(
            "only an ensemble is reached over TLS: set registry.mode = \"external\", or leave this out",
        );
    }
    // What is missing may stand where the file could not be read.
    if first.errors.partial() {
        return;
    }
    if registry.tls_ca.is_none() {
        first.error("needs \"tls_ca\" as well: the authorities that servers are trusted by");
    }
    match (&registry.tls_cert, &registry.tls_key, &cert, &key) {
        (Some(_), None, Some(cert), _) => cert.error("needs \"tls_key\" as well"),
        (None, Some(_), _, Some(key)) => key.error("needs \"tls_cert\" as well"),
        _ => {}
    }
}

/// `zk1:2181,zk2:2181/chroot`.
fn connect_string(value: &Value<'_>) -> Result<String, String> {
    let text = value.text()?;
    let hosts = text.find('/').map_or(text, |chroot| &text[..chroot]);
    for host in hosts.split(',') {
        host_and_port(host.trim()).map_err(|error| {
            format!("{error} (several are separated by commas: \"zk1:2181,zk2:2181/chroot\")")
        })?;
    }
    Ok(text.to_owned())
}

/// Reads `[discovery]`.
pub(super) fn discovery(mut section: Section<'_>) -> DiscoveryConfig {
    let mut discovery = DiscoveryConfig::default();
    section.set("root", &mut discovery.root, znode);
    section.set("auto_routes", &mut discovery.auto_routes, Value::boolean);
    section.set("layout", &mut discovery.layout, |value| {
        value.choice(&Layout::ALL.map(|layout| (layout.name(), layout)))
    });
    section.set("hold_grace", &mut discovery.hold_grace, duration);
    section.set(
        "forget_after",
        &mut discovery.forget_after,
        positive_duration,
    );
    section.set("snapshot_dir", &mut discovery.snapshot_dir, path);
    section.finish();
    discovery
}
