//! The configuration file as types.
//!
//! Text becomes these types once, in [`parse`]: every duration is a [`Duration`], every size a
//! number of bytes, every choice an enum, every default filled in. Fields are named exactly like
//! the keys of the file. Nothing here does I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use livegate_discovery::Balance;
use livegate_discovery::layout::Layout;
use thiserror::Error;
use toml::de::DeTable;

use crate::access::TlsFiles;
use crate::config::errors::Errors;
use crate::config::section::{Section, Value};
pub(crate) use crate::config::service::is_service_name;

mod document;
mod errors;
mod gateway;
mod render;
mod routes;
mod section;
mod service;
#[cfg(test)]
mod tests;
pub(crate) mod units;
mod values;

/// One mistake in a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{line}:{column}: {}{message}", if key_path.is_empty() { String::new() } else { format!("{key_path}: ") })]
pub struct ConfigError {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// Which key it is about, as in `services.orders.instances[1].address`; empty for the file.
    pub key_path: String,
    /// What is wrong and what to write instead.
    pub message: String,
}

/// Reads a configuration. All mistakes are reported at once, in the order of the text.
pub fn parse(text: &str) -> Result<Config, Vec<ConfigError>> {
    parse_with(text, read)
}

/// Adds the services and routes of another text, such as that of `registry.config_path`, to a
/// configuration. Its services win over those of the same name, its routes over those that take the same
/// requests; other sections are errors.
pub fn extend(base: &Config, text: &str) -> Result<Config, Vec<ConfigError>> {
    parse_with(text, |mut root| {
        let mut config = base.clone();
        read_services_and_routes(&mut root, &mut config);
        root.finish();
        config
    })
}

fn parse_with(
    text: &str,
    read: impl FnOnce(Section<'_>) -> Config,
) -> Result<Config, Vec<ConfigError>> {
    let mut errors = Errors::new(text);
    let text = document::readable(text, &mut errors);
    let config = match DeTable::parse(&text) {
        Ok(table) => read(Section::root(&table, &errors)),
        Err(_) => Config::default(),
    };
    let errors = errors.into_sorted();
    if errors.is_empty() {
        Ok(config)
    } else {
        Err(errors)
    }
}

fn read(mut root: Section<'_>) -> Config {
    let mut config = Config::default();
    if let Some(section) = root.section("http") {
        config.http = gateway::http(section);
    }
    if let Some(section) = root.section("admin") {
        config.admin = gateway::admin(section, &config.http);
    }
    if let Some(section) = root.section("registry") {
        config.registry = gateway::registry(section);
    }
    if let Some(section) = root.section("discovery") {
        config.discovery = gateway::discovery(section);
    }
    read_services_and_routes(&mut root, &mut config);
    root.finish();
    config
}

fn read_services_and_routes(root: &mut Section<'_>, config: &mut Config) {
    for entry in root.read("services", Value::entries).unwrap_or_default() {
        let service = service::service(&entry, config);
        config.services.insert(entry.key.to_owned(), service);
    }
    if let Some(value) = root.get("routes") {
        let routes = routes::routes(&value, &config.services, config.registry.mode);
        config.routes.splice(0..0, routes);
    }
}

/// A whole configuration, checked: every route names a service that is listed here, or may be found in the
/// registry. The default is what an empty file means.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Config {
    /// Listeners and limits of the client side.
    pub http: HttpConfig,
    /// The admin listener.
    pub admin: AdminConfig,
    /// The ZooKeeper registry, embedded or not.
    pub registry: RegistryConfig,
    /// How services are found in the registry.
    pub discovery: DiscoveryConfig,
    /// Services by name, those of the registry and those listed in the file.
    pub services: BTreeMap<String, ServiceConfig>,
    /// Routes in file order; precedence is decided by the route table.
    pub routes: Vec<RouteConfig>,
}

impl Config {
    /// The services that routes lead to and that are not in [`services`](Self::services): these have every
    /// default, and are to be found in the registry.
    pub fn routed_only(&self) -> BTreeSet<&str> {
        let routed = self.routes.iter().filter_map(|route| match &route.action {
            RouteAction::Service(name) => Some(name.as_str()),
            RouteAction::Status(_) | RouteAction::Redirect { .. } => None,
        });
        routed
            .filter(|name| !self.services.contains_key(*name))
            .collect()
    }

    /// What may be a mistake, and may not: each line says what to see to.
    pub fn notes(&self) -> Vec<String> {
        let root = &self.discovery.root;
        let note = |name: &str| {
            let meant = perhaps_meant(name, self.services.keys().map(String::as_str));
            format!(
                "a route leads to \"{name}\", which is not in [services]: it has to register below {root}{meant}"
            )
        };
        self.routed_only().into_iter().map(note).collect()
    }
}

/// The rest of a sentence about a service that is not there: which one may be meant.
pub(crate) fn perhaps_meant<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> String {
    /// Who differs in more letters is another word.
    const LETTERS_MAX: usize = 2;
    let other = section::nearest(name, known.filter(|known| *known != name));
    let other = other.filter(|other| strsim::damerau_levenshtein(name, other) <= LETTERS_MAX);
    other.map_or_else(String::new, |other| format!(", is \"{other}\" meant?"))
}

/// `[http]`: the client side of the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpConfig {
    /// Addresses that every worker listens on.
    pub listen: Vec<SocketAddr>,
    /// Worker threads; by default one per core that this process may use.
    pub workers: usize,
    /// For a whole request head, from its first byte.
    pub header_timeout: Duration,
    /// How long a client connection may wait for its next request.
    pub idle_timeout: Duration,
    /// Request line and header fields together, in bytes; over it: 431 (414 for the target alone).
    pub header_bytes_max: u64,
    /// Header fields of one request; over it: 431.
    pub headers_max: usize,
    /// Bytes of one request body; `None` is `"unlimited"`; over it: 413.
    pub body_bytes_max: Option<u64>,
    /// Networks whose `X-Forwarded-*` are kept and extended; those of others are replaced.
    pub trusted_proxies: Vec<IpNet>,
    /// How long running requests may take after SIGTERM.
    pub shutdown_timeout: Duration,
    /// Where one JSON line per request goes.
    pub access_log: AccessLog,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 8080))],
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            header_bytes_max: 32 * 1024,
            headers_max: 100,
            body_bytes_max: None,
            trusted_proxies: Vec::new(),
            shutdown_timeout: Duration::from_secs(30),
            access_log: AccessLog::Off,
        }
    }
}

/// `http.access_log`: where JSON lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessLog {
    /// `"off"`.
    Off,
    /// `"stdout"`.
    Stdout,
    /// Any other text: a file, appended to.
    File(PathBuf),
}

/// `[admin]`: the admin API and dashboard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminConfig {
    /// One address; other than loopback only together with `token_file`.
    pub listen: SocketAddr,
    /// A file whose first line is the bearer token that every request but `/healthz` must carry.
    pub token_file: Option<PathBuf>,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 9901)),
            token_file: None,
        }
    }
}

/// `[registry]`: the ZooKeeper that services register in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryConfig {
    /// Ours, somebody's, or none.
    pub mode: RegistryMode,
    /// Embedded: the address it listens on. External: a ZooKeeper connect string.
    pub hosts: String,
    /// Log and snapshots of the embedded registry.
    pub data_dir: PathBuf,
    /// The session timeout that the gateway's own client asks for.
    pub session_timeout: Duration,
    /// The znode that holds more services and routes, in the same format; it is watched.
    pub config_path: Option<String>,
    /// A file with `USER:PASSWORD` in each line: who to be in the registry.
    pub auth_file: Option<PathBuf>,
    /// Certificates in PEM of the authorities that servers are trusted by; with it connections are encrypted.
    pub tls_ca: Option<PathBuf>,
    /// The gateway's own chain of certificates in PEM; together with `tls_key`.
    pub tls_cert: Option<PathBuf>,
    /// Its key in PEM.
    pub tls_key: Option<PathBuf>,
    /// The name in the servers' certificates; by default each bears the name in `hosts`.
    pub tls_server_name: Option<String>,
}

impl RegistryConfig {
    /// Where certificates are, if connections are to be encrypted.
    pub fn tls_files(&self) -> Option<TlsFiles> {
        let identity = self.tls_cert.clone().zip(self.tls_key.clone());
        Some(TlsFiles {
            ca: self.tls_ca.clone()?,
            identity,
            server_name: self.tls_server_name.clone(),
        })
    }
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            mode: RegistryMode::Embedded,
            hosts: "127.0.0.1:2181".to_owned(),
            data_dir: PathBuf::from("livegate-data/registry"),
            session_timeout: Duration::from_secs(10),
            config_path: None,
            auth_file: None,
            tls_ca: None,
            tls_cert: None,
            tls_key: None,
            tls_server_name: None,
        }
    }
}

/// `registry.mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegistryMode {
    /// `"embedded"`: the registry inside this process.
    Embedded,
    /// `"external"`: the ensemble that `hosts` names.
    External,
    /// `"none"`: every service lists its instances.
    None,
}

/// `[discovery]`: how services and instances are read from the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiscoveryConfig {
    /// The znode whose children are services.
    pub root: String,
    /// Service NAME answers at `/NAME/...`, the prefix stripped, without a `[[routes]]` entry.
    pub auto_routes: bool,
    /// How instance znodes are read.
    pub layout: Layout,
    /// How long instances that left in numbers are kept while their probes pass.
    pub hold_grace: Duration,
    /// How long a found service whose node is gone stays a service, if nothing in the configuration names it.
    pub forget_after: Duration,
    /// Where the last good instance lists are kept.
    pub snapshot_dir: PathBuf,
}

impl Default for DiscoveryConfig {
    fn default() -> Self {
        Self {
            root: "/services".to_owned(),
            auto_routes: true,
            layout: Layout::Auto,
            hold_grace: Duration::from_secs(60),
            forget_after: Duration::from_secs(3600),
            snapshot_dir: PathBuf::from("livegate-data/snapshots"),
        }
    }
}

/// `[services.NAME]`: one service and the policy for it.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceConfig {
    /// Its znode; by default `discovery.root` + "/" + name.
    pub path: String,
    /// Put before the path that is sent upstream; starts with "/" and does not end with one.
    pub upstream_path: Option<String>,
    /// How an endpoint is picked.
    pub balance: Balance,
    /// What consistent-hash and maglev hash.
    pub hash_on: HashOn,
    /// For instances that carry no weight.
    pub default_weight: u32,
    /// Weights by instance address or id; these win over the registry and over `instances`.
    pub weights: BTreeMap<String, u32>,
    /// How long a new endpoint's share grows to its full weight; zero is off.
    pub warm_up: Duration,
    /// `discovery.hold_grace`.
    pub hold_grace: Duration,
    /// Active health checks.
    pub health_check: HealthCheckConfig,
    /// Outlier detection (passive).
    pub outlier: OutlierConfig,
    /// Retries and their budget.
    pub retry: RetryConfig,
    /// Deadlines of the service side.
    pub timeouts: TimeoutsConfig,
    /// Upstream connections kept for reuse.
    pub pool: PoolConfig,
    /// The listed instances; `None` when the service is found in the registry.
    pub instances: Option<Vec<InstanceConfig>>,
}

impl ServiceConfig {
    /// A service with every default: listed when there are instances, else found under `root`.
    pub fn new(name: &str, root: &str, instances: Option<Vec<InstanceConfig>>) -> Self {
        let kind = if instances.is_some() {
            HealthCheckKind::Tcp
        } else {
            HealthCheckKind::None
        };
        Self {
            path: format!("{}/{name}", root.trim_end_matches('/')),
            upstream_path: None,
            balance: Balance::WeightedRoundRobin,
            hash_on: HashOn::Uri,
            default_weight: 50,
            weights: BTreeMap::new(),
            warm_up: Duration::ZERO,
            hold_grace: DiscoveryConfig::default().hold_grace,
            health_check: HealthCheckConfig {
                kind,
                ..HealthCheckConfig::default()
            },
            outlier: OutlierConfig::default(),
            retry: RetryConfig::default(),
            timeouts: TimeoutsConfig::default(),
            pool: PoolConfig::default(),
            instances,
        }
    }
}

/// `hash_on`: what of a request is hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashOn {
    /// `"path"`.
    Path,
    /// `"uri"`: path and query.
    Uri,
    /// `"client-ip"`.
    ClientIp,
    /// `"header:NAME"`, the name in lower case.
    Header(String),
    /// `"cookie:NAME"`.
    Cookie(String),
    /// `"query:NAME"`.
    Query(String),
}

/// `[services.NAME.health_check]`: active checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheckConfig {
    /// The key `type`; by default TCP for listed instances and none for registered ones.
    pub kind: HealthCheckKind,
    /// The target of the GET, for HTTP.
    pub path: String,
    /// Statuses that pass, for HTTP.
    pub expect: Vec<StatusRange>,
    /// Between the starts of two checks of one endpoint.
    pub interval: Duration,
    /// For connect, request and status line together.
    pub timeout: Duration,
    /// Failures in a row that make an endpoint unfit.
    pub fall: u32,
    /// Successes in a row that make it fit again.
    pub rise: u32,
}

impl Default for HealthCheckConfig {
    fn default() -> Self {
        Self {
            kind: HealthCheckKind::None,
            path: "/healthz".to_owned(),
            expect: vec![StatusRange {
                first: 200,
                last: 399,
            }],
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            fall: 2,
            rise: 1,
        }
    }
}

/// `health_check.type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthCheckKind {
    /// A TCP connection is made and closed.
    Tcp,
    /// GET of `health_check.path`.
    Http,
    /// No active checks.
    None,
}

/// Statuses from `first` to `last`, both included, within 100..=599.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusRange {
    /// The lowest status that passes.
    pub first: u16,
    /// The highest status that passes.
    pub last: u16,
}

impl StatusRange {
    /// Whether `status` lies in the range.
    pub fn contains(self, status: u16) -> bool {
        (self.first..=self.last).contains(&status)
    }
}

/// `[services.NAME.outlier]`: what traffic says about an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutlierConfig {
    /// Failures in a row that eject an endpoint; 0 turns ejection off.
    pub consecutive_failures: u32,
    /// The first ejection; it grows with every further one.
    pub base_ejection: Duration,
    /// At most this share of a service's endpoints is ejected at a time, 0..=100.
    pub ejected_percent_max: u8,
}

impl Default for OutlierConfig {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            base_ejection: Duration::from_secs(10),
            ejected_percent_max: 50,
        }
    }
}

/// `[services.NAME.retry]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryConfig {
    /// Attempts of one request including the first, at least 1.
    pub attempts: u32,
    /// Retries allowed per 100 requests, 0..=100 (a small floor is always allowed).
    pub budget_percent: u8,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self {
            attempts: 3,
            budget_percent: 20,
        }
    }
}

/// `[services.NAME.timeouts]`: deadlines of the service side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeoutsConfig {
    /// For a TCP connection to be made.
    pub connect: Duration,
    /// From the request until the whole response head.
    pub response_head: Duration,
    /// Between two reads or writes of a body.
    pub idle: Duration,
}

impl Default for TimeoutsConfig {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(1),
            response_head: Duration::from_secs(30),
            idle: Duration::from_secs(60),
        }
    }
}

/// `[services.NAME.pool]`: idle upstream connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolConfig {
    /// Idle connections kept, per worker and endpoint; 0 keeps none.
    pub idle_max: usize,
    /// How long an idle connection is kept.
    pub idle_timeout: Duration,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            idle_max: 64,
            idle_timeout: Duration::from_secs(60),
        }
    }
}

/// One entry of `instances`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceConfig {
    /// `host:port`, IPv6 in brackets; names are resolved when the configuration is applied.
    pub address: String,
    /// `None`: the service's `default_weight`.
    pub weight: Option<u32>,
}

/// One `[[routes]]` entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteConfig {
    /// Host names in lower case, `*.` in front matches one or more labels; empty: any host.
    pub hosts: Vec<String>,
    /// The keys `path`, `path_exact`, `path_regex`; at most one is given, none is any path.
    pub path: PathMatch,
    /// Methods; empty: any.
    pub methods: Vec<String>,
    /// Header fields that must be there with exactly this value; names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The keys `service`, `status`, `redirect`.
    pub action: RouteAction,
    /// The matched prefix is taken off the path that is sent upstream.
    pub strip_prefix: bool,
}

/// Which paths a route is for. Paths are decoded, without repeated slashes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathMatch {
    /// `path`: these whole segments and everything below; no slash at the end (root: "/").
    Prefix(String),
    /// `path_exact`: this path and no other.
    Exact(String),
    /// `path_regex`: searched in the decoded path, anchor it with `^`.
    Regex(String),
}

/// What a route does with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteAction {
    /// Forward to this service.
    Service(String),
    /// Answer with this status, 200..=599.
    Status(u16),
    /// Answer with a `Location`.
    Redirect {
        /// 301, 302, 303, 307 or 308.
        status: u16,
        /// The value of `Location`.
        location: String,
    },
}
