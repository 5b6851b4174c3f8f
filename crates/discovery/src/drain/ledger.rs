//! What a gateway knows about drains: which are open, and which nodes are to be read for that.

use std::collections::{BTreeMap, BTreeSet};

use livegate_zk::client::Notification;
use livegate_zk::proto::watch::EventKind;

use super::{DRAINS, DrainRequest, InstancePath, czxid_in};

/// Drains that are kept in mind; more are ignored until others have ended. A drain lasts seconds, so
/// this is a fleet of tens of thousands that restarts at once.
const DRAINS_MAX: usize = 10_000;

/// The longest name of a drain: three times the longest path that is taken.
const NAME_BYTES_MAX: usize = 3 * 1024;

#[derive(Debug)]
pub(super) struct Ledger {
    /// By the name of the drain.
    drains: BTreeMap<String, (InstancePath, DrainRequest)>,
    /// Names whose data is to be read.
    unread: BTreeSet<String>,
    /// Whether there may be others than known.
    unlisted: bool,
}

impl Ledger {
    pub(super) const fn new() -> Self {
        Self {
            drains: BTreeMap::new(),
            unread: BTreeSet::new(),
            unlisted: true,
        }
    }

    /// Takes in what a recursive watcher of [`DRAINS`] says.
    pub(super) fn note(&mut self, notification: &Notification) {
        let event = match notification {
            Notification::Event(event) => event,
            Notification::Gap(_) => return self.forget_listing(),
        };
        let Some(below) = event.path.strip_prefix(DRAINS) else {
            return;
        };
        // The parent itself, or an acknowledgement.
        let Some(name) = below.strip_prefix('/').filter(|name| !name.contains('/')) else {
            return;
        };
        match event.kind {
            EventKind::Deleted => self.remove(name),
            EventKind::Created | EventKind::DataChanged => self.add_unread(name.to_owned()),
            EventKind::ChildrenChanged => {}
        }
    }

    /// Says that everything is to be listed and read again.
    pub(super) fn forget_listing(&mut self) {
        self.unlisted = true;
    }

    pub(super) const fn is_unlisted(&self) -> bool {
        self.unlisted
    }

    /// Takes in the names there are.
    pub(super) fn list(&mut self, names: Vec<String>) {
        let names: BTreeSet<String> = names.into_iter().collect();
        self.drains.retain(|name, _| names.contains(name));
        self.unread.clear();
        self.unlisted = false;
        for name in names {
            self.add_unread(name);
        }
    }

    fn add_unread(&mut self, name: String) {
        if name.len() <= NAME_BYTES_MAX && self.unread.len() < DRAINS_MAX {
            self.unread.insert(name);
        }
    }

    /// A name whose data is to be read.
    pub(super) fn next_unread(&self) -> Option<String> {
        self.unread.first().cloned()
    }

    /// Takes in the data of a drain.
    pub(super) fn read(&mut self, name: &str, data: &[u8]) {
        self.unread.remove(name);
        match (InstancePath::from_name(name), czxid_in(data)) {
            (Some(path), Some(czxid))
                if self.drains.contains_key(name) || self.drains.len() < DRAINS_MAX =>
            {
                let request = DrainRequest { czxid };
                self.drains.insert(name.to_owned(), (path, request));
            }
            (Some(_), Some(_)) => tracing::warn!("more than {DRAINS_MAX} drains: ignoring {name}"),
            (_, None) | (None, _) => {
                // Data that is empty is about to be written by other writers than ours.
                tracing::debug!("{DRAINS}/{name} is not a drain: ignoring it");
                self.drains.remove(name);
            }
        }
    }

    /// The drain is gone.
    pub(super) fn remove(&mut self, name: &str) {
        self.unread.remove(name);
        self.drains.remove(name);
    }

    /// The open drains by name.
    pub(super) const fn drains(&self) -> &BTreeMap<String, (InstancePath, DrainRequest)> {
        &self.drains
    }
}

#[cfg(test)]
mod tests {
    use livegate_zk::client::{Gap, WatchEvent};

    use super::*;

    fn event(kind: EventKind, below: &str) -> Notification {
        Notification::Event(WatchEvent {
            kind,
            path: format!("{DRAINS}{below}"),
            zxid: None,
        })
    }

    fn open(ledger: &Ledger) -> Vec<(&str, i64)> {
        let drains = ledger.drains().values();
        drains
            .map(|(path, request)| (path.as_str(), request.czxid))
            .collect()
    }

    #[test]
    fn only_what_changed_is_read() {
        let mut ledger = Ledger::new();
        assert!(ledger.is_unlisted());
        ledger.list(vec!["%2Fa".to_owned(), "%2Fb".to_owned()]);
        for _ in 0..2 {
            let name = ledger.next_unread().unwrap();
            ledger.read(&name, b"1");
        }
        assert_eq!(ledger.next_unread(), None);
        assert_eq!(open(&ledger), [("/a", 1), ("/b", 1)]);

        ledger.note(&event(EventKind::Created, "/%2Fa/gateway"));
        ledger.note(&event(EventKind::Created, ""));
        assert_eq!(ledger.next_unread(), None);
        ledger.note(&event(EventKind::DataChanged, "/%2Fa"));
        assert_eq!(ledger.next_unread().unwrap(), "%2Fa");
        ledger.read("%2Fa", b"2");
        ledger.note(&event(EventKind::Deleted, "/%2Fb"));
        assert_eq!(open(&ledger), [("/a", 2)]);

        ledger.note(&Notification::Gap(Gap::NewSession));
        assert!(ledger.is_unlisted());
        ledger.list(vec!["%2Fc".to_owned()]);
        assert_eq!(open(&ledger), []);
    }

    #[test]
    fn what_is_no_drain_is_ignored() {
        let mut ledger = Ledger::new();
        ledger.list(vec!["x".to_owned(), "%2Fa".to_owned()]);
        ledger.read("x", b"1");
        ledger.read("%2Fa", b"one");
        assert_eq!(open(&ledger), []);
        assert_eq!(ledger.next_unread(), None);
        ledger.list((0..DRAINS_MAX + 10).map(|n| format!("%2F{n}")).collect());
        while let Some(name) = ledger.next_unread() {
            ledger.read(&name, b"1");
        }
        assert_eq!(open(&ledger).len(), DRAINS_MAX);
    }
}
