//! What has changed since a node was last looked at.

use std::collections::BTreeMap;

use livegate_zk::proto::stat::Stat;

/// A node as it is now, as far as is of interest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Now {
    pub(super) stat: Stat,
    pub(super) data: Option<Vec<u8>>,
    /// In order.
    pub(super) children: Option<Vec<String>>,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// `None` when it was gone again before it could be read.
    Created(Option<Now>),
    Deleted,
    /// The data was set, be it to what it was.
    Data(Now),
    /// Children came or went, or went and came again.
    Children {
        now: Vec<String>,
        added: Vec<String>,
        removed: Vec<String>,
    },
}

/// What was last seen of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    czxid: i64,
    mzxid: i64,
    pzxid: i64,
    children: Vec<String>,
}

/// What was last seen of the nodes that are watched.
#[derive(Debug, Default)]
pub(super) struct Memory {
    seen: BTreeMap<String, Seen>,
}

impl Memory {
    /// Remembers what is there now, and tells what is different.
    pub(super) fn learn(&mut self, path: &str, now: Option<Now>) -> Vec<Change> {
        let Some(now) = now else {
            let known = self.seen.remove(path).is_some();
            return if known {
                vec![Change::Deleted]
            } else {
                Vec::new()
            };
        };
        let seen = Seen {
            czxid: now.stat.czxid,
            mzxid: now.stat.mzxid,
            pzxid: now.stat.pzxid,
            children: now.children.clone().unwrap_or_default(),
        };
        match self.seen.insert(path.to_owned(), seen) {
            None => vec![Change::Created(Some(now))],
            Some(before) if before.czxid != now.stat.czxid => {
                vec![Change::Deleted, Change::Created(Some(now))]
            }
            Some(before) => differences(&before, now),
        }
    }

    /// Something was created, and gone before it could be read: whether that is news.
    pub(super) fn knows(&self, path: &str) -> bool {
        self.seen.contains_key(path)
    }

    /// How many nodes are known.
    pub(super) fn len(&self) -> usize {
        self.seen.len()
    }

    /// Whether the node is known as it is now, children aside.
    pub(super) fn is_up_to_date(&self, path: &str, stat: &Stat) -> bool {
        self.seen
            .get(path)
            .is_some_and(|seen| (seen.czxid, seen.mzxid) == (stat.czxid, stat.mzxid))
    }

    /// The nodes that are known but not among these, the lower ones first.
    pub(super) fn others(&self, present: &BTreeMap<String, Stat>) -> Vec<String> {
        let others = self.seen.keys().rev();
        others
            .filter(|path| !present.contains_key(*path))
            .cloned()
            .collect()
    }
}

fn differences(before: &Seen, mut now: Now) -> Vec<Change> {
    let mut changes = Vec::new();
    let children = now.children.take();
    let children_changed = before.pzxid != now.stat.pzxid;
    // Without data nobody asks for it.
    if before.mzxid != now.stat.mzxid && now.data.is_some() {
        changes.push(Change::Data(now));
    }
    if let Some(children) = children
        && children_changed
    {
        let without = |these: &[String], those: &[String]| {
            let is_new = |name: &&String| those.binary_search(name).is_err();
            these.iter().filter(is_new).cloned().collect()
        };
        changes.push(Change::Children {
            added: without(&children, &before.children),
            removed: without(&before.children, &children),
            now: children,
        });
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(zxids: (i64, i64, i64), data: &[u8], children: &[&str]) -> Now {
        Now {
            stat: Stat {
                czxid: zxids.0,
                mzxid: zxids.1,
                pzxid: zxids.2,
                ..Stat::default()
            },
            data: Some(data.to_vec()),
            children: Some(children.iter().map(|&name| name.to_owned()).collect()),
        }
    }

    fn owned(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn each_difference_is_a_change() {
        let mut memory = Memory::default();
        assert_eq!(memory.learn("/a", None), []);
        let first = now((1, 1, 1), b"x", &[]);
        let created = Change::Created(Some(first.clone()));
        assert_eq!(memory.learn("/a", Some(first.clone())), [created]);
        assert_eq!(memory.learn("/a", Some(first)), []);

        // Set to what it was, while a child came.
        let second = now((1, 2, 3), b"x", &["b", "c"]);
        let changes = memory.learn("/a", Some(second.clone()));
        let data = Now {
            children: None,
            ..second
        };
        let children = Change::Children {
            now: owned(&["b", "c"]),
            added: owned(&["b", "c"]),
            removed: Vec::new(),
        };
        assert_eq!(changes, [Change::Data(data), children]);

        // A child went, another went and came.
        let third = now((1, 2, 6), b"x", &["b"]);
        let children = |removed: &[&str]| Change::Children {
            now: owned(&["b"]),
            added: Vec::new(),
            removed: owned(removed),
        };
        assert_eq!(memory.learn("/a", Some(third)), [children(&["c"])]);
        let fourth = now((1, 2, 8), b"x", &["b"]);
        assert_eq!(memory.learn("/a", Some(fourth)), [children(&[])]);

        let again = now((9, 9, 9), b"", &[]);
        assert_eq!(
            memory.learn("/a", Some(again.clone())),
            [Change::Deleted, Change::Created(Some(again))]
        );
        assert_eq!(memory.learn("/a", None), [Change::Deleted]);
        assert!(!memory.knows("/a"));
    }

    #[test]
    fn nobody_is_told_what_nobody_asked_for() {
        let mut memory = Memory::default();
        let plain = |zxids| Now {
            data: None,
            children: None,
            ..now(zxids, b"", &[])
        };
        memory.learn("/a", Some(plain((1, 1, 1))));
        assert_eq!(memory.learn("/a", Some(plain((1, 2, 3)))), []);
    }

    #[test]
    fn what_went_is_told_from_the_bottom() {
        let mut memory = Memory::default();
        for path in ["/a", "/a/b", "/a/b/c", "/d"] {
            memory.learn(path, Some(now((1, 1, 1), b"", &[])));
        }
        let present = BTreeMap::from([("/d".to_owned(), Stat::default())]);
        assert_eq!(memory.others(&present), ["/a/b/c", "/a/b", "/a"]);
        let stat = now((1, 1, 5), b"", &[]).stat;
        assert!(memory.is_up_to_date("/d", &stat));
        assert!(!memory.is_up_to_date("/e", &stat));
    }
}
