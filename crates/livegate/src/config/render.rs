//! The configuration in effect as JSON, shaped and named like the file, secrets masked.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::config::units::{show_duration, show_size};
use crate::config::{
    AccessLog, Config, HashOn, HealthCheckKind, PathMatch, RegistryMode, RouteAction, RouteConfig,
    ServiceConfig,
};

/// What stands in place of a secret.
const MASK: &str = "***";

impl Config {
    /// For `GET /api/v1/config`: every value in effect, defaults included.
    pub fn to_json(&self) -> Value {
        let (http, registry, discovery) = (&self.http, &self.registry, &self.discovery);
        json!({
            "http": {
                "listen": http.listen,
                "workers": http.workers,
                "header_timeout": show_duration(http.header_timeout),
                "idle_timeout": show_duration(http.idle_timeout),
                "header_bytes_max": show_size(http.header_bytes_max),
                "headers_max": http.headers_max,
                "body_bytes_max": http.body_bytes_max.map_or("unlimited".to_owned(), show_size),
                "trusted_proxies": http.trusted_proxies.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "shutdown_timeout": show_duration(http.shutdown_timeout),
                "access_log": match &http.access_log {
                    AccessLog::Off => json!("off"),
                    AccessLog::Stdout => json!("stdout"),
                    AccessLog::File(file) => json!(file),
                },
            },
            "admin": {
                "listen": self.admin.listen,
                "token_file": self.admin.token_file.as_ref().map_or("", |_| MASK),
            },
            "registry": {
                "mode": match registry.mode {
                    RegistryMode::Embedded => "embedded",
                    RegistryMode::External => "external",
                    RegistryMode::None => "none",
                },
                "hosts": registry.hosts,
                "data_dir": registry.data_dir,
                "session_timeout": show_duration(registry.session_timeout),
                "config_path": registry.config_path.as_deref().unwrap_or_default(),
                "auth_file": registry.auth_file.as_ref().map_or("", |_| MASK),
                "tls_ca": registry.tls_ca.as_deref().unwrap_or(Path::new("")),
                "tls_cert": registry.tls_cert.as_deref().unwrap_or(Path::new("")),
                "tls_key": registry.tls_key.as_ref().map_or("", |_| MASK),
                "tls_server_name": registry.tls_server_name.as_deref().unwrap_or_default(),
            },
            "discovery": {
                "root": discovery.root,
                "auto_routes": discovery.auto_routes,
                "layout": discovery.layout.name(),
                "hold_grace": show_duration(discovery.hold_grace),
                "forget_after": show_duration(discovery.forget_after),
                "snapshot_dir": discovery.snapshot_dir,
            },
            "services": self.services.iter().map(|(name, service)| (name.clone(), service.to_json())).collect::<Map<_, _>>(),
            "routes": self.routes.iter().map(RouteConfig::to_json).collect::<Vec<_>>(),
        })
    }
}

impl ServiceConfig {
    fn to_json(&self) -> Value {
        let (check, outlier, retry) = (&self.health_check, &self.outlier, &self.retry);
        let mut json = json!({
            "path": self.path,
            "upstream_path": self.upstream_path.as_deref().unwrap_or("/"),
            "balance": self.balance.name(),
            "hash_on": match &self.hash_on {
                HashOn::Path => "path".to_owned(),
                HashOn::Uri => "uri".to_owned(),
                HashOn::ClientIp => "client-ip".to_owned(),
                HashOn::Header(name) => format!("header:{name}"),
                HashOn::Cookie(name) => format!("cookie:{name}"),
                HashOn::Query(name) => format!("query:{name}"),
            },
            "default_weight": self.default_weight,
            "weights": self.weights,
            "warm_up": show_duration(self.warm_up),
            "health_check": {
                "type": match check.kind {
                    HealthCheckKind::Tcp => "tcp",
                    HealthCheckKind::Http => "http",
                    HealthCheckKind::None => "none",
                },
                "path": check.path,
                "expect": check.expect.iter().map(|range| format!("{}-{}", range.first, range.last)).collect::<Vec<_>>().join(","),
                "interval": show_duration(check.interval),
                "timeout": show_duration(check.timeout),
                "fall": check.fall,
                "rise": check.rise,
            },
            "outlier": {
                "consecutive_failures": outlier.consecutive_failures,
                "base_ejection": show_duration(outlier.base_ejection),
                "ejected_percent_max": outlier.ejected_percent_max,
            },
            "retry": { "attempts": retry.attempts, "budget_percent": retry.budget_percent },
            "timeouts": {
                "connect": show_duration(self.timeouts.connect),
                "response_head": show_duration(self.timeouts.response_head),
                "idle": show_duration(self.timeouts.idle),
            },
            "pool": {
                "idle_max": self.pool.idle_max,
                "idle_timeout": show_duration(self.pool.idle_timeout),
            },
        });
        if let Some(instances) = &self.instances {
            let instance = |instance: &crate::config::InstanceConfig| match instance.weight {
                Some(weight) => json!({ "address": instance.address, "weight": weight }),
                None => json!({ "address": instance.address }),
            };
            json["instances"] = instances.iter().map(instance).collect();
        }
        json
    }
}

impl RouteConfig {
    /// Shaped like a `[[routes]]` entry; keys that say nothing are left out.
    pub fn to_json(&self) -> Value {
        let mut json = Map::new();
        if !self.hosts.is_empty() {
            json.insert("hosts".to_owned(), json!(self.hosts));
        }
        let (key, path) = match &self.path {
            PathMatch::Prefix(path) => ("path", path),
            PathMatch::Exact(path) => ("path_exact", path),
            PathMatch::Regex(regex) => ("path_regex", regex),
        };
        json.insert(key.to_owned(), json!(path));
        if !self.methods.is_empty() {
            json.insert("methods".to_owned(), json!(self.methods));
        }
        if !self.headers.is_empty() {
            json.insert("headers".to_owned(), json!(mask_headers(&self.headers)));
        }
        match &self.action {
            RouteAction::Service(service) => {
                json.insert("service".to_owned(), json!(service));
                json.insert("strip_prefix".to_owned(), json!(self.strip_prefix));
            }
            RouteAction::Status(status) => {
                json.insert("status".to_owned(), json!(status));
            }
            RouteAction::Redirect { status, location } => {
                json.insert("redirect".to_owned(), json!(mask_url(location)));
                json.insert("status".to_owned(), json!(status));
            }
        }
        Value::Object(json)
    }
}

/// The headers that a route asks for; the values of those that may be keys to it are masked.
fn mask_headers(headers: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    const SECRET: [&str; 6] = ["auth", "cookie", "key", "pass", "secret", "token"];
    let mask = |(name, value): (&String, &String)| {
        let secret = SECRET.iter().any(|word| name.contains(word));
        (
            name.clone(),
            if secret {
                MASK.to_owned()
            } else {
                value.clone()
            },
        )
    };
    headers.iter().map(mask).collect()
}

/// `https://user:password@host/` without the user and the password.
fn mask_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let authority = rest.find(['/', '?']).unwrap_or(rest.len());
    match rest[..authority].rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://{MASK}@{host}{}", &rest[authority..]),
        None => url.to_owned(),
    }
}
