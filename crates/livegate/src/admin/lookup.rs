//! Services and instances by name; whoever asks for one that is not there is told the nearest.

use std::sync::Arc;

use axum::http::StatusCode;

use crate::admin::refusal::Refusal;
use crate::cluster::Cluster;
use crate::control::Gateway;

/// Longer names are not compared: the time that takes is their product.
const NAME_MAX: usize = 128;
/// How many names are suggested.
const SUGGESTED: usize = 3;

/// The cluster of a service.
pub(super) fn cluster<'g>(gateway: &'g Gateway, name: &str) -> Result<&'g Arc<Cluster>, Refusal> {
    let clusters = &gateway.clusters;
    let found = clusters.iter().find(|cluster| *cluster.name == *name);
    found.ok_or_else(|| {
        let names = clusters.iter().map(|cluster| &*cluster.name);
        let detail = format!("no service \"{name}\"{}", suggest(name, names));
        Refusal::new(StatusCode::NOT_FOUND, "unknown_service", detail)
    })
}

/// The service has no such instance.
pub(super) fn unknown_instance(cluster: &Cluster, id: &str) -> Refusal {
    let view = cluster.balancer.view();
    let ids = view
        .members()
        .iter()
        .map(|member| member.instance.id.as_str());
    let detail = format!(
        "{} has no instance \"{id}\"{}",
        cluster.name,
        suggest(id, ids)
    );
    Refusal::new(StatusCode::NOT_FOUND, "unknown_instance", detail)
}

/// The rest of a sentence about an unknown name.
fn suggest<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> String {
    let mut known: Vec<&str> = known.collect();
    if known.is_empty() {
        return ", there are none".to_owned();
    }
    if name.len() > NAME_MAX {
        return String::new();
    }
    known.retain(|known| known.len() <= NAME_MAX);
    known.sort_by_cached_key(|known| strsim::damerau_levenshtein(name, known));
    known.truncate(SUGGESTED);
    let quoted: Vec<String> = known.iter().map(|known| format!("\"{known}\"")).collect();
    match &quoted[..] {
        [] => String::new(),
        [one] => format!(", the nearest name is {one}"),
        several => format!(", the nearest names are {}", several.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_names_are_suggested() {
        let suggest = |name: &str, known: &[&str]| suggest(name, known.iter().copied());
        assert_eq!(suggest("a", &[]), ", there are none");
        assert_eq!(
            suggest("ordrs", &["orders"]),
            ", the nearest name is \"orders\""
        );
        assert_eq!(
            suggest("ordrs", &["users", "basket", "orders", "order"]),
            ", the nearest names are \"orders\", \"order\", \"users\""
        );
        assert_eq!(suggest(&"a".repeat(1000), &["orders"]), "");
    }
}
