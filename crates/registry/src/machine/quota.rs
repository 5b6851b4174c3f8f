//! Quotas: how many nodes and bytes there are below the paths that somebody wants to know it of.
//!
//! Whoever creates `/zookeeper/quota/PATH/zookeeper_limits` asks for it, and `zookeeper_stats` beside it
//! then carries the numbers (`count=2,bytes=10`, `StatsTrack.java`). As in Apache ZooKeeper by default
//! (`enforceQuota` off), a limit that is exceeded refuses nothing.

use std::collections::BTreeMap;

use livegate_zk::path;

const ROOT: &str = "/zookeeper/quota";
const LIMITS: &str = "/zookeeper_limits";
const STATS: &str = "/zookeeper_stats";

/// Paths with a quota.
#[derive(Debug, Default)]
pub(crate) struct Quotas {
    prefixes: std::collections::BTreeSet<Box<str>>,
}

impl Quotas {
    pub(crate) fn is_empty(&self) -> bool {
        self.prefixes.is_empty()
    }

    pub(crate) fn insert(&mut self, prefix: Box<str>) {
        self.prefixes.insert(prefix);
    }

    /// The path whose quota begins with this node.
    pub(crate) fn limits_created(&self, path: &str) -> Option<Box<str>> {
        let prefix = path.strip_prefix(ROOT)?.strip_suffix(LIMITS)?;
        (!prefix.is_empty()).then(|| prefix.into())
    }

    /// The path that this node is to carry the numbers of.
    pub(crate) fn stats_created(path: &str) -> Option<&str> {
        let prefix = path.strip_prefix(ROOT)?.strip_suffix(STATS)?;
        (!prefix.is_empty()).then_some(prefix)
    }

    pub(crate) fn limits_deleted(&mut self, path: &str) {
        if let Some(prefix) = self.limits_created(path) {
            self.prefixes.remove(&prefix);
        }
    }

    /// The node that carries the numbers for a path: that of the longest path above it with a quota.
    pub(crate) fn stats_path_for(&self, path: &str) -> Option<String> {
        let prefix = path::with_ancestors(path).find(|above| self.prefixes.contains(*above))?;
        (prefix != "/zookeeper").then(|| format!("{ROOT}{prefix}{STATS}"))
    }

    /// The numbers `stats` plus `nodes` and `bytes`, in the form in which a node carries them.
    pub(crate) fn counted(stats: Option<&[u8]>, nodes: i64, bytes: i64) -> Vec<u8> {
        let text = String::from_utf8_lossy(stats.unwrap_or_default());
        let mut numbers: BTreeMap<&str, i64> = text
            .split([',', ';'])
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (key, value.trim_end_matches('=').parse().unwrap_or(-1)))
            .collect();
        let mut next = |key, more: i64| {
            let before = numbers.remove(key).unwrap_or(-1);
            before.saturating_add(more)
        };
        let mut text = format!(
            "count={},bytes={}",
            next("count", nodes),
            next("bytes", bytes)
        );
        // The extra "=" ends the numbers for parsers older than the other keys.
        for (index, (key, value)) in numbers.iter().enumerate() {
            let separator = if index == 0 { "=;" } else { ";" };
            text.push_str(&format!("{separator}{key}={value}"));
        }
        text.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_kept_in_javas_form() {
        assert_eq!(
            Quotas::counted(Some(b"count=1,bytes=2"), 1, 10),
            b"count=2,bytes=12"
        );
        assert_eq!(
            Quotas::counted(
                Some(b"count=1,bytes=2=;byteHardLimit=5;countHardLimit=7"),
                0,
                0
            ),
            b"count=1,bytes=2=;byteHardLimit=5;countHardLimit=7"
        );
        assert_eq!(Quotas::counted(Some(b"rubbish"), 1, 1), b"count=0,bytes=0");
    }

    #[test]
    fn the_longest_prefix_counts() {
        let mut quotas = Quotas::default();
        assert_eq!(
            quotas
                .limits_created("/zookeeper/quota/a/b/zookeeper_limits")
                .as_deref(),
            Some("/a/b")
        );
        quotas.insert("/a".into());
        quotas.insert("/a/b".into());
        assert_eq!(
            quotas.stats_path_for("/a/b/c").as_deref(),
            Some("/zookeeper/quota/a/b/zookeeper_stats")
        );
        assert_eq!(
            quotas.stats_path_for("/a/bb").as_deref(),
            Some("/zookeeper/quota/a/zookeeper_stats")
        );
        assert_eq!(quotas.stats_path_for("/b"), None);
        quotas.limits_deleted("/zookeeper/quota/a/b/zookeeper_limits");
        assert_eq!(
            quotas.stats_path_for("/a/b/c").as_deref(),
            Some("/zookeeper/quota/a/zookeeper_stats")
        );
    }
}
