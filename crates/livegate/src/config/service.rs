//! `[services.NAME]` and the tables under it.

use std::collections::BTreeMap;

use livegate_discovery::Balance;

use crate::config::section::{Entry, Section, Value, nearest};
use crate::config::units::{duration, positive_duration};
use crate::config::values::{
    header_name, host_and_port, is_token, request_target, statuses, upstream_path, weight, znode,
};
use crate::config::{
    Config, HashOn, HealthCheckConfig, HealthCheckKind, InstanceConfig, OutlierConfig, PoolConfig,
    RegistryMode, RetryConfig, ServiceConfig, TimeoutsConfig,
};

/// Reads one `[services.NAME]`; `config` holds the sections before the services.
pub(super) fn service(entry: &Entry<'_>, config: &Config) -> ServiceConfig {
    let name = entry.key;
    if !is_service_name(name) {
        entry.key_error(SERVICE_NAME);
    }
    let root = &config.discovery.root;
    let Some(mut section) = entry.value.parse(Value::section) else {
        return ServiceConfig::new(name, root, None);
    };
    let instances = section.get("instances");
    let listed = instances
        .as_ref()
        .map(|value| value.parse(listed_instances).unwrap_or_default());
    if listed.is_none() && config.registry.mode == RegistryMode::None {
        section.absent("has no \"instances\", and with registry.mode = \"none\" they cannot be found elsewhere");
    }
    let mut service = ServiceConfig::new(name, root, listed);
    service.hold_grace = config.discovery.hold_grace;
    section.set("path", &mut service.path, znode);
    section.set("upstream_path", &mut service.upstream_path, upstream_path);
    section.set("balance", &mut service.balance, |value| {
        value.choice(&Balance::ALL.map(|balance| (balance.name(), balance)))
    });
    section.set("hash_on", &mut service.hash_on, hash_on);
    section.set("default_weight", &mut service.default_weight, |value| {
        weight(value).and_then(|weight| match weight {
            0 => Err("a default weight of 0 would take every instance out".to_owned()),
            weight => Ok(weight),
        })
    });
    if let Some(value) = section.get("weights") {
        service.weights = weights(&value, service.instances.as_deref());
    }
    section.set("warm_up", &mut service.warm_up, duration);
    if let Some(table) = section.section("health_check") {
        health_check(table, &mut service.health_check);
    }
    if let Some(table) = section.section("outlier") {
        outlier(table, &mut service.outlier);
    }
    if let Some(table) = section.section("retry") {
        retry(table, &mut service.retry);
    }
    if let Some(table) = section.section("timeouts") {
        timeouts(table, &mut service.timeouts);
    }
    if let Some(table) = section.section("pool") {
        pool(table, &mut service.pool);
    }
    section.finish();
    service
}

/// What names of services are.
pub(super) const SERVICE_NAME: &str = "a service name is made of letters, digits, \".\", \"_\", \"-\" and \":\", for it is a part of paths";

/// Whether a service of this name can be a part of paths.
pub(crate) fn is_service_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:".contains(&byte);
    !name.is_empty() && name != "." && name != ".." && name.bytes().all(fits)
}

fn listed_instances(value: &Value<'_>) -> Result<Vec<InstanceConfig>, String> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut instances = Vec::new();
    for element in value.elements()? {
        let Some(mut section) = element.parse(Value::section) else {
            continue;
        };
        let address = section.get("address");
        let weight = section.read("weight", weight);
        if address.is_none() {
            section.absent("an instance needs an \"address\"");
        }
        section.finish();
        let Some(value) = address else { continue };
        let Some(address) = value.parse(|value| host_and_port(value.string()?)) else {
            continue;
        };
        let line = value.errors.line(value.span.start);
        match seen.get(&address) {
            Some(first) => value.error(format!("{address} is already listed in line {first}")),
            None => {
                seen.insert(address.clone(), line);
                instances.push(InstanceConfig { address, weight });
            }
        }
    }
    Ok(instances)
}

/// Weights by instance. When the instances are listed, others are mistakes.
fn weights(value: &Value<'_>, listed: Option<&[InstanceConfig]>) -> BTreeMap<String, u32> {
    let mut weights = BTreeMap::new();
    for entry in value.parse(Value::entries).unwrap_or_default() {
        if let Some(listed) = listed
            && !value.errors.partial()
            && !listed.iter().any(|instance| instance.address == entry.key)
        {
            let addresses = listed.iter().map(|instance| instance.address.as_str());
            let hint = nearest(entry.key, addresses);
            let hint = hint
                .map(|name| format!(", the nearest is \"{name}\""))
                .unwrap_or_default();
            entry.key_error(format!("no instance with this address is listed{hint}"));
        }
        if let Some(weight) = entry.value.parse(weight) {
            weights.insert(entry.key.to_owned(), weight);
        }
    }
    weights
}

fn hash_on(value: &Value<'_>) -> Result<HashOn, String> {
    let text = value.string()?;
    let (kind, name) = match text.split_once(':') {
        Some((kind, name)) => (kind, Some(name)),
        None => (text, None),
    };
    match (kind, name) {
        ("path", None) => Ok(HashOn::Path),
        ("uri", None) => Ok(HashOn::Uri),
        ("client-ip", None) => Ok(HashOn::ClientIp),
        ("header", Some(name)) => header_name(name).map(HashOn::Header),
        ("cookie", Some(name)) if is_token(name) => Ok(HashOn::Cookie(name.to_owned())),
        ("cookie", Some(name)) => Err(format!("\"{name}\" is not a cookie name")),
        ("query", Some(name)) if !name.is_empty() => Ok(HashOn::Query(name.to_owned())),
        ("header" | "cookie" | "query", _) => Err(format!("needs a name, as in \"{kind}:NAME\"")),
        _ => {
            let known = [
                "path",
                "uri",
                "client-ip",
                "header:NAME",
                "cookie:NAME",
                "query:NAME",
            ];
            let names = known.map(|name| format!("\"{name}\"")).join(", ");
            let hint = nearest(text, known.into_iter()).unwrap_or_default();
            Err(format!(
                "\"{text}\" is not one of {names}, the nearest is \"{hint}\""
            ))
        }
    }
}

fn health_check(mut section: Section<'_>, check: &mut HealthCheckConfig) {
    let kinds = [
        ("tcp", HealthCheckKind::Tcp),
        ("http", HealthCheckKind::Http),
        ("none", HealthCheckKind::None),
    ];
    section.set("type", &mut check.kind, |value| value.choice(&kinds));
    section.set("path", &mut check.path, |value| {
        request_target(value).map(str::to_owned)
    });
    section.set("expect", &mut check.expect, statuses);
    section.set("interval", &mut check.interval, positive_duration);
    section.set("timeout", &mut check.timeout, positive_duration);
    section.set("fall", &mut check.fall, |value| value.number(1..=1000));
    section.set("rise", &mut check.rise, |value| value.number(1..=1000));
    section.finish();
}

fn outlier(mut section: Section<'_>, outlier: &mut OutlierConfig) {
    section.set(
        "consecutive_failures",
        &mut outlier.consecutive_failures,
        |value| value.number(0..=1_000_000),
    );
    section.set(
        "base_ejection",
        &mut outlier.base_ejection,
        positive_duration,
    );
    section.set(
        "ejected_percent_max",
        &mut outlier.ejected_percent_max,
        percent,
    );
    section.finish();
}

fn retry(mut section: Section<'_>, retry: &mut RetryConfig) {
    section.set("attempts", &mut retry.attempts, |value| {
        value.number(1..=20)
    });
    section.set("budget_percent", &mut retry.budget_percent, percent);
    section.finish();
}

fn timeouts(mut section: Section<'_>, timeouts: &mut TimeoutsConfig) {
    section.set("connect", &mut timeouts.connect, positive_duration);
    section.set(
        "response_head",
        &mut timeouts.response_head,
        positive_duration,
    );
    section.set("idle", &mut timeouts.idle, positive_duration);
    section.finish();
}

fn pool(mut section: Section<'_>, pool: &mut PoolConfig) {
    section.set("idle_max", &mut pool.idle_max, |value| {
        value.number(0..=100_000)
    });
    section.set("idle_timeout", &mut pool.idle_timeout, positive_duration);
    section.finish();
}

fn percent(value: &Value<'_>) -> Result<u8, String> {
    value.number(0..=100)
}
