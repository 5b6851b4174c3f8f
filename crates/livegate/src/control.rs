//! Control: from a checked configuration to what the workers read.
//!
//! A configuration is applied whole or not at all. What can fail (reading, checking, looking up
//! names) comes first; then clusters are started and changed, the new [`Gateway`] is published,
//! and what nobody leads to any more is stopped. Clusters of services that did not change are the
//! same objects as before, so nothing that is known about them resets.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use livegate_discovery::Status;
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};

use crate::cluster::Cluster;
use crate::config::{self, Config, HttpConfig, ServiceConfig};
use crate::control::overlay::{Overlay, Text};
use crate::control::registry::Registry;
use crate::control::resolve::ResolveError;
use crate::control::services::{Changes, Services};
use crate::control::table::RouteCounters;
use crate::events::Events;
use crate::route::RouteTable;

mod drains;
pub mod file;
mod names;
mod overlay;
pub mod registry;
pub mod resolve;
mod services;
mod table;
#[cfg(test)]
mod tests;
mod trouble;

/// One revision of everything that a request looks at. Workers load it once per request, so
/// routes, clusters and limits always belong together.
#[derive(Debug)]
pub struct Gateway {
    /// Counts the configurations applied, from 1.
    pub revision: u64,
    /// Limits and deadlines of the client side.
    pub http: Arc<HttpConfig>,
    /// Which route takes which request.
    pub routes: RouteTable,
    /// Every configured service, those that routes name, and those found in the registry.
    pub clusters: Vec<Arc<Cluster>>,
}

/// What is in effect, for those who only read.
#[derive(Debug, Clone)]
pub struct Published {
    /// What the workers read.
    pub gateway: Arc<ArcSwap<Gateway>>,
    /// The configuration it was made from.
    pub config: Arc<ArcSwap<Config>>,
}

/// Applies configurations. There is one, and it owns the clusters' tasks.
pub struct Control {
    services: Services,
    /// `None` when every service lists its instances.
    registry: Option<Registry>,
    /// The part of the configuration that is in the registry.
    overlay: Option<Overlay>,
    /// The text of that part that is in effect.
    overlay_text: Text,
    /// The part of the configuration that is in the file.
    base: Config,
    counters: RouteCounters,
    /// Services that routes lead to and that are nowhere, as far as that was told.
    missing: BTreeSet<String>,
    /// Services that are gone are not looked at before.
    forgets_from: Instant,
    workers: usize,
    events: Events,
    published: Published,
    /// What goes on beside, for as long as this lives.
    _tasks: JoinSet<()>,
}

/// What has changed in the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// There are services that were not there before.
    Services,
    /// The part of the configuration that is there is another.
    Configuration,
    /// Some have been gone for long.
    Gone,
}

/// Between two looks at services that are gone: some may have to be kept.
const FORGET_PAUSE: Duration = Duration::from_secs(1);

/// How long a start waits for what the registry says. Serving a little later is better than answering
/// 503; a registry that is away does not hold up services whose instances are known otherwise.
const REGISTRY_PATIENCE: Duration = Duration::from_secs(3);

/// The same, when lists from before are at hand.
const SAVED_PATIENCE: Duration = Duration::from_millis(300);

/// How long a change waits for the instances of services that it adds.
const FIRST_LIST_PATIENCE: Duration = Duration::from_millis(500);

impl Control {
    /// Applies the first configuration. `workers` is the number of shards of every counter.
    pub async fn start(
        config: Config,
        workers: usize,
        events: Events,
        mut registry: Option<Registry>,
    ) -> Result<Self, Vec<ResolveError>> {
        let base = config;
        let mut overlay = None;
        if let (Some(registry), Some(node)) = (&registry, &base.registry.config_path) {
            let client = registry.client().clone();
            let directory = &base.discovery.snapshot_dir;
            overlay = Some(Overlay::start(client, node, directory, &events).await);
        }
        // What was kept on disk was good when it was kept; what is wrong now is told of by the first change.
        let overlay_text = overlay.as_mut().and_then(Overlay::text);
        let extended = overlay_text
            .as_deref()
            .map(|text| config::extend(&base, text));
        let (config, overlay_text) = match extended {
            Some(Ok(config)) => (config, overlay_text),
            Some(Err(_)) | None => (base.clone(), None),
        };
        let instances = resolve::instances(&config).await?;
        let mut services = Services::new(events.clone(), workers);
        let patience = match &registry {
            Some(registry) if registry.has_saved() => SAVED_PATIENCE,
            _ => REGISTRY_PATIENCE,
        };
        let root_is_known = match &mut registry {
            Some(registry) => timeout(patience, registry.settled()).await.is_ok(),
            None => true,
        };
        let effective = effective(&config, registry.as_ref());
        services.apply(&effective, instances, registry.as_ref());
        let instances_are_known = timeout(patience, services.settled()).await.is_ok();
        services.settle().await;
        if !(root_is_known && instances_are_known) {
            tracing::warn!("the registry does not answer: serving what is known without it");
        }
        let mut counters = RouteCounters::new();
        let auto_routed = auto_routed(&config, registry.as_ref());
        let gateway = gateway(
            1,
            &effective,
            &auto_routed,
            &services,
            &mut counters,
            workers,
        );
        let published = Published {
            gateway: Arc::new(ArcSwap::from_pointee(gateway)),
            config: Arc::new(ArcSwap::from_pointee(config)),
        };
        let mut tasks = JoinSet::new();
        if let Some(registry) = &registry {
            let (client, gateway) = (registry.client().clone(), Arc::clone(&published.gateway));
            tasks.spawn(drains::acknowledge(client, gateway, events.clone()));
        }
        let mut control = Self {
            services,
            registry,
            overlay,
            overlay_text,
            base,
            counters,
            missing: BTreeSet::new(),
            forgets_from: now(),
            workers,
            events,
            published,
            _tasks: tasks,
        };
        control.tell_missing();
        Ok(control)
    }

    /// What is in effect, now and after every later change.
    pub fn published(&self) -> &Published {
        &self.published
    }

    /// The registry, if there is one.
    pub fn registry(&self) -> Option<&Registry> {
        self.registry.as_ref()
    }

    /// Resolves when something has changed in the registry: [`take_in`](Self::take_in) then. Cancel-safe.
    pub async fn found(&mut self) -> Found {
        loop {
            let after = self.published.config.load().discovery.forget_after;
            let registry = self.registry.as_ref();
            let forgets_at = registry.and_then(|registry| registry.forgets_at(after));
            let forgets_at = forgets_at.map(|at| at.max(self.forgets_from));
            let services = async {
                match &mut self.registry {
                    Some(registry) => registry.changed().await,
                    None => std::future::pending().await,
                }
            };
            let configuration = async {
                match &mut self.overlay {
                    Some(overlay) => overlay.changed().await,
                    None => std::future::pending().await,
                }
            };
            let gone = async {
                match forgets_at {
                    Some(at) => sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // When some have only gone, there is another time to forget them.
                is_news = services => if is_news {
                    return Found::Services;
                },
                () = configuration => return Found::Configuration,
                () = gone => return Found::Gone,
            }
        }
    }

    /// Takes in what has changed in the registry, or says why that cannot be.
    pub async fn take_in(&mut self, found: Found) {
        let cause = match found {
            Found::Services => "services found in the registry",
            Found::Configuration => "registry.config_path has changed",
            Found::Gone => "services gone from the registry for discovery.forget_after",
        };
        if found == Found::Gone && !self.forget() {
            return;
        }
        let text = match (found, &mut self.overlay) {
            (Found::Configuration, Some(overlay)) => overlay.text(),
            _ => self.overlay_text.clone(),
        };
        if let Err(reasons) = self.apply_both(self.base.clone(), text, cause).await {
            self.refuse(cause, &reasons);
        }
    }

    /// Forgets services that have been gone for long and that nobody needs: neither the configuration, nor an
    /// instance that is held. Returns whether there were any.
    fn forget(&mut self) -> bool {
        self.forgets_from = now() + FORGET_PAUSE;
        let Some(registry) = &mut self.registry else {
            return false;
        };
        let (config, gateway) = (self.published.config.load(), self.published.gateway.load());
        let routed = config.routed_only();
        let mut is_news = false;
        for name in registry.gone_for(config.discovery.forget_after, now()) {
            let cluster = gateway.clusters.iter().find(|known| *known.name == *name);
            let is_empty = cluster.is_none_or(|cluster| {
                let view = cluster.balancer.view();
                view.status() == Status::Absent && view.members().is_empty()
            });
            let is_named = config.services.contains_key(&name) || routed.contains(name.as_str());
            if is_empty && !is_named {
                registry.forget(&name);
                is_news = true;
            } else {
                registry.keep(&name, now());
            }
        }
        is_news
    }

    /// Tells of routes to services that are neither in the configuration nor in the registry, once.
    fn tell_missing(&mut self) {
        let (config, gateway) = (self.published.config.load(), self.published.gateway.load());
        let mut missing = BTreeSet::new();
        // Another one that is not there is not meant.
        let is_there = |cluster: &&Arc<Cluster>| cluster.balancer.view().status() != Status::Absent;
        let known = gateway.clusters.iter().filter(is_there);
        let known: Vec<&str> = known.map(|cluster| &*cluster.name).collect();
        for name in config.routed_only() {
            let cluster = gateway.clusters.iter().find(|known| *known.name == *name);
            let is_missing =
                cluster.is_some_and(|cluster| cluster.balancer.view().status() == Status::Absent);
            if !is_missing {
                continue;
            }
            if !self.missing.contains(name) {
                let cause = format!(
                    "a route leads to it, but it is not in [services], and nobody has registered below {}/{name} (yet){}",
                    config.discovery.root.trim_end_matches('/'),
                    config::perhaps_meant(name, known.iter().copied()),
                );
                tracing::warn!("service {name} is absent: {cause}");
                self.events
                    .push(Some(name.into()), None, "service_absent", cause);
            }
            missing.insert(name.to_owned());
        }
        self.missing = missing;
    }

    /// Applies another configuration of the file, or changes nothing: names are looked up before
    /// anything changes. An error has every reason. Not cancel-safe; what was begun is completed by
    /// the next one.
    pub async fn apply(&mut self, config: Config, cause: &str) -> Result<(), Vec<String>> {
        let text = self.overlay_text.clone();
        // Whoever changes the file wants to hear what is still wrong with it.
        self.missing.clear();
        self.apply_both(config, text, cause).await
    }

    async fn apply_both(
        &mut self,
        mut base: Config,
        text: Text,
        cause: &str,
    ) -> Result<(), Vec<String>> {
        let before = self.published.config.load_full();
        for key in keep_what_needs_a_restart(&mut base, &before) {
            tracing::warn!("{key} has changed: restart to apply it, until then it stays as it was");
        }
        let config = match &text {
            Some(text) => config::extend(&base, text).map_err(|errors| {
                let node = base.registry.config_path.as_deref().unwrap_or_default();
                let lines = errors.iter().map(|error| format!("{node}:{error}"));
                lines.collect::<Vec<_>>()
            })?,
            None => base.clone(),
        };
        let instances = resolve::instances(&config).await;
        let instances = instances
            .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        let effective = effective(&config, self.registry.as_ref());
        let changes = self
            .services
            .apply(&effective, instances, self.registry.as_ref());
        // Routes to a service are of use when its instances are known.
        drop(timeout(FIRST_LIST_PATIENCE, self.services.settled()).await);
        self.services.settle().await;
        let revision = self.published.gateway.load().revision + 1;
        let gateway = gateway(
            revision,
            &effective,
            &auto_routed(&config, self.registry.as_ref()),
            &self.services,
            &mut self.counters,
            self.workers,
        );
        let summary = summary(&before, &config, &changes);
        if let Some(overlay) = &self.overlay {
            overlay.applied(&text);
        }
        (self.base, self.overlay_text) = (base, text);
        self.published.gateway.store(Arc::new(gateway));
        self.published.config.store(Arc::new(config));
        self.services.retire(&changes.removed);
        tracing::info!("configuration applied ({cause}): {summary}");
        self.events
            .push(None, None, "config_applied", format!("{cause}: {summary}"));
        self.tell_missing();
        Ok(())
    }

    /// Records that a configuration could not be applied, and every reason.
    pub fn refuse(&self, cause: &str, reasons: &[String]) {
        for reason in reasons {
            tracing::error!("configuration not applied ({cause}): {reason}");
        }
        tracing::error!("the configuration before stays in effect");
        let reasons = reasons.join("\n");
        self.events
            .push(None, None, "config_refused", format!("{cause}: {reasons}"));
    }
}

/// The configuration with the services that were found in the registry, and those that only routes name.
fn effective(config: &Config, registry: Option<&Registry>) -> Config {
    let mut effective = config.clone();
    let found = registry.iter().flat_map(|registry| registry.names());
    for name in found.chain(config.routed_only()) {
        effective
            .services
            .entry(name.to_owned())
            .or_insert_with(|| ServiceConfig {
                hold_grace: config.discovery.hold_grace,
                ..ServiceConfig::new(name, &config.discovery.root, None)
            });
    }
    effective
}

/// The services that answer under their own names: those that are known, not those that only routes name.
fn auto_routed(config: &Config, registry: Option<&Registry>) -> BTreeSet<String> {
    if !config.discovery.auto_routes {
        return BTreeSet::new();
    }
    let found = registry.iter().flat_map(|registry| registry.names());
    let listed = config.services.keys().map(String::as_str);
    found.chain(listed).map(str::to_owned).collect()
}

/// The time, by a clock that tests can move.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn gateway(
    revision: u64,
    config: &Config,
    auto_routed: &BTreeSet<String>,
    services: &Services,
    counters: &mut RouteCounters,
    workers: usize,
) -> Gateway {
    let mut clusters = services.clusters();
    clusters.retain(|name, _| config.services.contains_key(name));
    let routes = table::build(config, auto_routed, &clusters, counters, workers);
    let clusters = clusters.into_values().collect();
    Gateway {
        revision,
        http: Arc::new(config.http.clone()),
        routes,
        clusters,
    }
}

/// Puts back what a running process cannot change; returns the keys of it that were to change.
fn keep_what_needs_a_restart(config: &mut Config, before: &Config) -> Vec<&'static str> {
    let mut keys = Vec::new();
    let mut keep = |differs: bool, key: &'static str| {
        if differs {
            keys.push(key);
        }
    };
    keep(config.http.listen != before.http.listen, "http.listen");
    keep(config.http.workers != before.http.workers, "http.workers");
    keep(
        config.http.access_log != before.http.access_log,
        "http.access_log",
    );
    keep(config.admin.listen != before.admin.listen, "admin.listen");
    keep(
        config.admin.token_file != before.admin.token_file,
        "admin.token_file",
    );
    keep(config.registry != before.registry, "[registry]");
    keep(
        config.discovery.root != before.discovery.root,
        "discovery.root",
    );
    keep(
        config.discovery.layout != before.discovery.layout,
        "discovery.layout",
    );
    config.http.listen.clone_from(&before.http.listen);
    config.http.workers = before.http.workers;
    config.http.access_log.clone_from(&before.http.access_log);
    config.admin.clone_from(&before.admin);
    config.registry.clone_from(&before.registry);
    config.discovery.root.clone_from(&before.discovery.root);
    config.discovery.layout = before.discovery.layout;
    keys
}

fn summary(before: &Config, after: &Config, changes: &Changes) -> String {
    let mut parts = Vec::new();
    for (what, names) in [
        ("added", &changes.added),
        ("changed", &changes.changed),
        ("removed", &changes.removed),
    ] {
        if !names.is_empty() {
            parts.push(format!("services {what}: {}", names.join(", ")));
        }
    }
    if before.routes != after.routes || before.discovery.auto_routes != after.discovery.auto_routes
    {
        parts.push(format!("routes changed: {} listed", after.routes.len()));
    }
    if before.http != after.http {
        parts.push("[http] changed".to_owned());
    }
    if parts.is_empty() {
        "nothing has changed".to_owned()
    } else {
        parts.join("; ")
    }
}
