//! From listed instances to addresses: names are looked up when a configuration is applied.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use livegate_discovery::Instance;
use thiserror::Error;
use tokio::task::JoinSet;

use crate::config::{Config, ServiceConfig};

/// For all names of a configuration together; a resolver that is down must not hold up a reload.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// A name of the configuration that has no address.
#[derive(Debug, Error)]
#[error("{key_path}: cannot look up \"{address}\": {source}")]
pub struct ResolveError {
    /// As in `services.orders.instances[1].address`.
    pub key_path: String,
    address: String,
    source: io::Error,
}

/// The instances of every service that lists them, by service; all errors at once.
///
/// A name stands for each of its addresses. When it has some of both families only those of IPv4
/// count, for they are the same machines once more.
pub(super) async fn instances(
    config: &Config,
) -> Result<BTreeMap<String, Vec<Instance>>, Vec<ResolveError>> {
    let mut lookups = JoinSet::new();
    let mut found: BTreeMap<&str, Vec<Option<Vec<SocketAddr>>>> = BTreeMap::new();
    let listed = config.services.iter().filter_map(|(name, service)| {
        service
            .instances
            .as_ref()
            .map(|instances| (name.as_str(), instances))
    });
    for (name, instances) in listed {
        let places = found.entry(name).or_default();
        for (index, instance) in instances.iter().enumerate() {
            match instance.address.parse::<SocketAddr>() {
                Ok(address) => places.push(Some(vec![address])),
                Err(_) => {
                    places.push(None);
                    let (name, address) = (name.to_owned(), instance.address.clone());
                    lookups.spawn(async move { (name, index, look_up(&address).await, address) });
                }
            }
        }
    }
    let mut errors = Vec::new();
    while let Some(lookup) = lookups.join_next().await {
        let Ok((name, index, result, address)) = lookup else {
            continue;
        };
        match result {
            Ok(addresses) => {
                if let Some(places) = found.get_mut(name.as_str()) {
                    places[index] = Some(addresses);
                }
            }
            Err(source) => {
                let key_path = format!("services.{name}.instances[{index}].address");
                errors.push(ResolveError {
                    key_path,
                    address,
                    source,
                });
            }
        }
    }
    if !errors.is_empty() {
        errors.sort_by(|a, b| a.key_path.cmp(&b.key_path));
        return Err(errors);
    }
    let service = |(name, places): (&str, Vec<Option<Vec<SocketAddr>>>)| {
        (name.to_owned(), weighted(&config.services[name], &places))
    };
    Ok(found.into_iter().map(service).collect())
}

async fn look_up(address: &str) -> io::Result<Vec<SocketAddr>> {
    let lookup = tokio::time::timeout(LOOKUP_TIMEOUT, tokio::net::lookup_host(address));
    let timed_out = |_| io::Error::new(io::ErrorKind::TimedOut, "no answer within 5 seconds");
    let mut addresses: Vec<SocketAddr> = lookup.await.map_err(timed_out)??.collect();
    if addresses.iter().any(SocketAddr::is_ipv4) {
        addresses.retain(SocketAddr::is_ipv4);
    }
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "it has no address"));
    }
    Ok(addresses)
}

/// The instances with their weights: `weights` wins over the instance's own, which wins over
/// `default_weight`.
fn weighted(service: &ServiceConfig, places: &[Option<Vec<SocketAddr>>]) -> Vec<Instance> {
    let mut instances = Vec::new();
    for (instance, addresses) in service.instances.iter().flatten().zip(places) {
        for address in addresses.iter().flatten() {
            let override_weight = service
                .weights
                .get(&instance.address)
                .or_else(|| service.weights.get(&address.to_string()));
            let weight = override_weight.copied().or(instance.weight);
            instances.push(Instance::listed(
                *address,
                weight.unwrap_or(service.default_weight),
            ));
        }
    }
    instances
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    async fn resolve(text: &str) -> Result<BTreeMap<String, Vec<Instance>>, Vec<ResolveError>> {
        instances(&parse(text).unwrap()).await
    }

    #[tokio::test]
    async fn weights_by_precedence() {
        let found = resolve(
            r#"
            [services.a]
            default_weight = 7
            instances = [
              { address = "10.0.0.1:1", weight = 5 },
              { address = "10.0.0.2:1", weight = 5 },
              { address = "10.0.0.3:1" },
              { address = "[::1]:1" },
            ]
            weights = { "10.0.0.2:1" = 9, "10.0.0.3:1" = 0 }
            [services.registered]
            "#,
        )
        .await
        .unwrap();
        assert_eq!(found.keys().collect::<Vec<_>>(), ["a"]);
        let weights: Vec<_> = found["a"]
            .iter()
            .map(|instance| (instance.id.as_str(), instance.weight))
            .collect();
        assert_eq!(
            weights,
            [
                ("10.0.0.1:1", 5),
                ("10.0.0.2:1", 9),
                ("10.0.0.3:1", 0),
                ("[::1]:1", 7)
            ]
        );
    }

    #[tokio::test]
    async fn a_name_of_both_families_is_one_instance() {
        let found = resolve(
            r#"services.a.instances = [{ address = "localhost:80" }]
            services.a.weights = { "localhost:80" = 3 }"#,
        )
        .await
        .unwrap();
        let [instance] = &found["a"][..] else {
            panic!("{found:?}")
        };
        assert_eq!((instance.id.as_str(), instance.weight), ("127.0.0.1:80", 3));
    }

    #[tokio::test]
    async fn all_names_without_an_address_are_errors_with_their_keys() {
        let errors = resolve(
            r#"services.a.instances = [{ address = "10.0.0.1:80" }, { address = "a.invalid:80" }]
            services.b.instances = [{ address = "b.invalid:80" }]"#,
        )
        .await
        .unwrap_err();
        let keys: Vec<_> = errors.iter().map(|error| error.key_path.as_str()).collect();
        assert_eq!(
            keys,
            [
                "services.a.instances[1].address",
                "services.b.instances[0].address"
            ]
        );
        assert!(
            errors[0]
                .to_string()
                .contains("cannot look up \"a.invalid:80\"")
        );
    }
}
