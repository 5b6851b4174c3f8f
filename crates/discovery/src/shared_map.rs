//! A sorted map whose copies share what they have in common.
//!
//! Snapshots and views are whole and immutable, and there is a new one for every change. With ten
//! thousand entries a copy must not cost ten thousand steps, nor must it to find out what changed: a B-tree
//! whose nodes are counted references. A copy takes one step, a change copies the nodes from the root to one
//! leaf, and [`changes`](SharedMap::changes) skips the nodes that two maps share.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::ops::Index;
use std::sync::Arc;

/// A sorted map, cheap to copy: copies share their entries until one of them changes.
pub struct SharedMap<K, V> {
    root: Arc<Node<K, V>>,
    len: usize,
}

/// All leaves are at the same depth. No node but the root is empty.
enum Node<K, V> {
    Leaf(Vec<(K, V)>),
    Inner(Vec<Child<K, V>>),
}

struct Child<K, V> {
    /// Not above any key in the node, and above all of those before it.
    least: K,
    node: Arc<Node<K, V>>,
}

/// What became of an entry, from one map to another.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Difference<'m, K, V> {
    pub(crate) key: &'m K,
    pub(crate) before: Option<&'m V>,
    pub(crate) after: Option<&'m V>,
}

/// Each reference that is copied with a node touches memory of its own, mostly cold: that is what a change
/// costs. Wider nodes have more of them, narrower ones lie deeper and come to as many.
const NODE_MAX: usize = 16;
/// A node that shrinks below this is joined with one beside it, if both fit into one.
const NODE_MIN: usize = NODE_MAX / 4;

impl<K, V> SharedMap<K, V> {
    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All entries in the order of their keys.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &V)> + Clone {
        let mut leaves = Vec::with_capacity(self.len / NODE_MIN + 1);
        self.root.leaves(&mut leaves);
        let entries = leaves.into_iter().flatten();
        entries.map(|(key, value)| (key, value))
    }

    /// All keys in their order.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &K> + Clone {
        self.iter().map(|(key, _)| key)
    }

    /// All values in the order of their keys.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &V> + Clone {
        self.iter().map(|(_, value)| value)
    }
}

impl<K: Ord, V> SharedMap<K, V> {
    /// The value under a key.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let mut node = &*self.root;
        loop {
            match node {
                Node::Inner(children) => node = &*children.get(child_of(children, key))?.node,
                Node::Leaf(entries) => {
                    let position = position_in(entries, key).ok()?;
                    return Some(&entries[position].1);
                }
            }
        }
    }

    /// Whether there is a value under a key.
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }
}

impl<K: Ord + Clone, V: Clone> SharedMap<K, V> {
    /// Puts a value under a key; returns the former one.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let (before, second) = Node::insert(&mut self.root, key, value);
        self.len += usize::from(before.is_none());
        if let Some(second) = second {
            let first = Child {
                least: self.root.least().clone(),
                node: Arc::clone(&self.root),
            };
            self.root = Arc::new(Node::Inner(vec![first, second]));
        }
        before
    }

    /// Takes the value under a key out.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        if !self.contains_key(key) {
            return None;
        }
        let before = Node::remove(&mut self.root, key)?;
        self.len -= 1;
        while let Node::Inner(children) = &*self.root
            && let [only] = &**children
        {
            self.root = Arc::clone(&only.node);
        }
        Some(before)
    }
}

impl<K, V> Node<K, V> {
    fn len(&self) -> usize {
        match self {
            Self::Leaf(entries) => entries.len(),
            Self::Inner(children) => children.len(),
        }
    }

    fn leaves<'n>(&'n self, leaves: &mut Vec<&'n [(K, V)]>) {
        match self {
            Self::Leaf(entries) => leaves.push(entries),
            Self::Inner(children) => children.iter().for_each(|child| child.node.leaves(leaves)),
        }
    }

    /// Of a node that is not empty.
    fn least(&self) -> &K {
        match self {
            Self::Leaf(entries) => &entries[0].0,
            Self::Inner(children) => &children[0].least,
        }
    }

    fn height(&self) -> usize {
        match self {
            Self::Leaf(_) => 0,
            Self::Inner(children) => 1 + children[0].node.height(),
        }
    }
}

impl<K: Ord + Clone, V: Clone> Node<K, V> {
    /// Returns the former value, and the second half of a node that has become too long.
    fn insert(node: &mut Arc<Self>, key: K, value: V) -> (Option<V>, Option<Child<K, V>>) {
        match Arc::make_mut(node) {
            Self::Leaf(entries) => match position_in(entries, &key) {
                Ok(position) => {
                    let before = std::mem::replace(&mut entries[position].1, value);
                    (Some(before), None)
                }
                Err(position) => {
                    entries.insert(position, (key, value));
                    let second = second_half(entries);
                    (None, second.map(|second| Self::Leaf(second).into_child()))
                }
            },
            Self::Inner(children) => {
                let index = child_of(children, &key);
                let child = &mut children[index];
                if key < child.least {
                    child.least = key.clone();
                }
                let (before, second) = Self::insert(&mut child.node, key, value);
                let Some(second) = second else {
                    return (before, None);
                };
                children.insert(index + 1, second);
                let second = second_half(children);
                (
                    before,
                    second.map(|second| Self::Inner(second).into_child()),
                )
            }
        }
    }

    fn remove<Q: Ord + ?Sized>(node: &mut Arc<Self>, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        match Arc::make_mut(node) {
            Self::Leaf(entries) => {
                let position = position_in(entries, key).ok()?;
                Some(entries.remove(position).1)
            }
            Self::Inner(children) => {
                let index = child_of(children, key);
                let before = Self::remove(&mut children[index].node, key)?;
                match children[index].node.len() {
                    0 => drop(children.remove(index)),
                    len if len < NODE_MIN => Self::join(children, index),
                    _ => {}
                }
                Some(before)
            }
        }
    }

    /// Joins a child with the one after or before it, if both fit into one.
    fn join(children: &mut Vec<Child<K, V>>, index: usize) {
        for first in [Some(index), index.checked_sub(1)].into_iter().flatten() {
            let Some([one, next]) = children.get(first..first + 2) else {
                continue;
            };
            if one.node.len() + next.node.len() > NODE_MAX {
                continue;
            }
            let next = Arc::unwrap_or_clone(children.remove(first + 1).node);
            match (Arc::make_mut(&mut children[first].node), next) {
                (Self::Leaf(entries), Self::Leaf(next)) => entries.extend(next),
                (Self::Inner(children), Self::Inner(next)) => children.extend(next),
                (Self::Leaf(_), Self::Inner(_)) | (Self::Inner(_), Self::Leaf(_)) => {
                    unreachable!("all leaves are at the same depth")
                }
            }
            return;
        }
    }

    fn into_child(self) -> Child<K, V> {
        Child {
            least: self.least().clone(),
            node: Arc::new(self),
        }
    }
}

/// The half that goes into a node of its own, if this is too long for one.
fn second_half<T>(content: &mut Vec<T>) -> Option<Vec<T>> {
    (content.len() > NODE_MAX).then(|| {
        let mut second = Vec::with_capacity(NODE_MAX + 1);
        second.extend(content.drain(NODE_MAX / 2..));
        second
    })
}

/// Where a key is or would be: in the last one that does not begin after it.
fn child_of<K: Borrow<Q>, V, Q: Ord + ?Sized>(children: &[Child<K, V>], key: &Q) -> usize {
    let after = children.partition_point(|child| child.least.borrow() <= key);
    after.saturating_sub(1)
}

fn position_in<K: Borrow<Q>, V, Q: Ord + ?Sized>(
    entries: &[(K, V)],
    key: &Q,
) -> Result<usize, usize> {
    entries.binary_search_by(|(other, _)| other.borrow().cmp(key))
}

impl<K: Ord, V: PartialEq> SharedMap<K, V> {
    /// The entries that are not the same in `after`, in the order of keys. Takes a step for each node that
    /// is not shared, and for each of its entries.
    pub(crate) fn changes<'m>(
        &'m self,
        after: &'m Self,
    ) -> impl Iterator<Item = Difference<'m, K, V>> {
        Changes {
            before: Cursor::new(self),
            after: Cursor::new(after),
        }
        .filter(|change| change.before != change.after)
    }
}

/// Goes through two maps at once.
struct Changes<'m, K, V> {
    before: Cursor<'m, K, V>,
    after: Cursor<'m, K, V>,
}

/// What lies ahead in a map, the next last.
struct Cursor<'m, K, V>(Vec<Ahead<'m, K, V>>);

enum Ahead<'m, K, V> {
    Entry(&'m K, &'m V),
    Node {
        /// Not above any key in it; `None` if it is the first.
        least: Option<&'m K>,
        node: &'m Arc<Node<K, V>>,
        height: usize,
    },
}

impl<'m, K, V> Cursor<'m, K, V> {
    fn new(map: &'m SharedMap<K, V>) -> Self {
        Self(vec![Ahead::Node {
            least: None,
            node: &map.root,
            height: map.root.height(),
        }])
    }

    /// Goes into the node that is next.
    fn enter(&mut self) {
        let Some(Ahead::Node { node, height, .. }) = self.0.pop() else {
            return;
        };
        match &**node {
            Node::Leaf(entries) => {
                let entries = entries.iter().rev();
                self.0
                    .extend(entries.map(|(key, value)| Ahead::Entry(key, value)));
            }
            Node::Inner(children) => {
                let children = children.iter().rev();
                self.0.extend(children.map(|child| Ahead::Node {
                    least: Some(&child.least),
                    node: &child.node,
                    height: height - 1,
                }));
            }
        }
    }

    fn take(&mut self) -> Option<&'m V> {
        match self.0.pop() {
            Some(Ahead::Entry(_, value)) => Some(value),
            Some(Ahead::Node { .. }) | None => None,
        }
    }
}

impl<'m, K: Ord, V> Iterator for Changes<'m, K, V> {
    type Item = Difference<'m, K, V>;

    /// The next entry of either outside of what they share.
    fn next(&mut self) -> Option<Self::Item> {
        use Ahead::{Entry, Node};
        let (before, after) = (&mut self.before, &mut self.after);
        loop {
            let (key, order) = match (before.0.last(), after.0.last()) {
                (None, None) => return None,
                (
                    Some(Node { node, height, .. }),
                    Some(Node {
                        node: other,
                        height: other_height,
                        ..
                    }),
                ) => {
                    let (height, other_height) = (*height, *other_height);
                    if Arc::ptr_eq(node, other) {
                        before.0.pop();
                        after.0.pop();
                        continue;
                    }
                    if height >= other_height {
                        before.enter();
                    }
                    if other_height >= height {
                        after.enter();
                    }
                    continue;
                }
                (Some(Entry(key, _)), Some(Entry(other, _))) => {
                    let order = key.cmp(other);
                    (if order.is_le() { *key } else { *other }, order)
                }
                (Some(Entry(key, _)), Some(Node { least, .. }))
                    if least.is_some_and(|least| *key < least) =>
                {
                    (*key, Ordering::Less)
                }
                (Some(Node { least, .. }), Some(Entry(key, _)))
                    if least.is_some_and(|least| *key < least) =>
                {
                    (*key, Ordering::Greater)
                }
                (Some(Entry(key, _)), None) => (*key, Ordering::Less),
                (None, Some(Entry(key, _))) => (*key, Ordering::Greater),
                (Some(Node { .. }), _) => {
                    before.enter();
                    continue;
                }
                (_, Some(Node { .. })) => {
                    after.enter();
                    continue;
                }
            };
            return Some(Difference {
                key,
                before: order.is_le().then(|| before.take()).flatten(),
                after: order.is_ge().then(|| after.take()).flatten(),
            });
        }
    }
}

impl<K, V> Clone for SharedMap<K, V> {
    fn clone(&self) -> Self {
        Self {
            root: Arc::clone(&self.root),
            len: self.len,
        }
    }
}

/// With room for what made the copy necessary.
impl<K: Clone, V: Clone> Clone for Node<K, V> {
    fn clone(&self) -> Self {
        fn copy<T: Clone>(content: &[T]) -> Vec<T> {
            let mut copy = Vec::with_capacity(NODE_MAX + 1);
            copy.extend_from_slice(content);
            copy
        }
        match self {
            Self::Leaf(entries) => Self::Leaf(copy(entries)),
            Self::Inner(children) => Self::Inner(copy(children)),
        }
    }
}

impl<K: Clone, V> Clone for Child<K, V> {
    fn clone(&self) -> Self {
        Self {
            least: self.least.clone(),
            node: Arc::clone(&self.node),
        }
    }
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        Self {
            root: Arc::default(),
            len: 0,
        }
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for SharedMap<K, V> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_map().entries(self.iter()).finish()
    }
}

impl<K: Ord, V: PartialEq> PartialEq for SharedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.changes(other).next().is_none()
    }
}

impl<K: Ord, V: Eq> Eq for SharedMap<K, V> {}

impl<K: Ord + Borrow<Q>, V, Q: Ord + ?Sized> Index<&Q> for SharedMap<K, V> {
    type Output = V;

    /// # Panics
    /// If there is no value under the key.
    fn index(&self, key: &Q) -> &V {
        self.get(key).expect("an entry under the key")
    }
}

/// Of two values under one key the later one counts.
impl<K: Ord + Clone, V: Clone> FromIterator<(K, V)> for SharedMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let sorted: std::collections::BTreeMap<K, V> = entries.into_iter().collect();
        let len = sorted.len();
        let mut level: Vec<Node<K, V>> = parts(sorted).map(Node::Leaf).collect();
        while level.len() > 1 {
            let children = level.into_iter().map(Node::into_child);
            level = parts(children).map(Node::Inner).collect();
        }
        let root = level.pop().map_or_else(Arc::default, Arc::new);
        Self { root, len }
    }
}

impl<K, V> Default for Node<K, V> {
    fn default() -> Self {
        Self::Leaf(Vec::new())
    }
}

/// The contents of nodes that are not full, so that the next entries find room.
fn parts<T>(content: impl IntoIterator<Item = T>) -> impl Iterator<Item = Vec<T>> {
    let mut content = content.into_iter();
    std::iter::from_fn(move || {
        let mut part = Vec::with_capacity(NODE_MAX + 1);
        part.extend(content.by_ref().take(NODE_MAX * 3 / 4));
        (!part.is_empty()).then_some(part)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashSet};

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Insert(u16, u8),
        Remove(u16),
        Copy,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u16..600, any::<u8>()).prop_map(|(key, value)| Step::Insert(key, value)),
            (0u16..600).prop_map(Step::Remove),
            Just(Step::Copy),
        ]
    }

    fn invariants(map: &SharedMap<u16, u8>) {
        /// The number of entries.
        fn check(node: &Node<u16, u8>, height: usize, is_root: bool) -> usize {
            let lens = if is_root { 0..=NODE_MAX } else { 1..=NODE_MAX };
            assert!(lens.contains(&node.len()));
            match node {
                Node::Leaf(entries) => {
                    assert_eq!(height, 0);
                    entries.len()
                }
                Node::Inner(children) => {
                    assert!(!is_root || children.len() > 1);
                    let keys = |child: &Child<u16, u8>| {
                        let mut leaves = Vec::new();
                        child.node.leaves(&mut leaves);
                        let keys = leaves.iter().flat_map(|leaf| leaf.iter());
                        keys.map(|(key, _)| *key).collect::<Vec<_>>()
                    };
                    for child in children {
                        assert!(keys(child).iter().all(|key| *key >= child.least));
                    }
                    for [one, next] in children.array_windows() {
                        assert!(keys(one).iter().all(|key| *key < next.least));
                    }
                    let lens = children
                        .iter()
                        .map(|child| check(&child.node, height - 1, false));
                    lens.sum()
                }
            }
        }
        assert_eq!(check(&map.root, map.root.height(), true), map.len());
    }

    proptest! {
        #[test]
        fn it_is_a_sorted_map_and_tells_what_changed(
            start in prop::collection::btree_map(0u16..600, any::<u8>(), 0..600),
            steps in prop::collection::vec(step(), 0..400),
        ) {
            let mut model = start.clone();
            let mut map: SharedMap<u16, u8> = start.into_iter().collect();
            let mut before = (model.clone(), map.clone());
            for step in steps {
                match step {
                    Step::Insert(key, value) => {
                        prop_assert_eq!(map.insert(key, value), model.insert(key, value));
                    }
                    Step::Remove(key) => prop_assert_eq!(map.remove(&key), model.remove(&key)),
                    Step::Copy => {
                        invariants(&map);
                        before = (model.clone(), map.clone());
                    }
                }
            }
            invariants(&map);
            prop_assert!(map.iter().eq(model.iter()));
            prop_assert!(before.1.iter().eq(before.0.iter()), "a copy stays what it was");
            for key in 0..600 {
                prop_assert_eq!(map.get(&key), model.get(&key));
            }
            let keys: BTreeMap<u16, ()> =
                before.0.keys().chain(model.keys()).map(|key| (*key, ())).collect();
            let expected: Vec<_> = keys
                .into_keys()
                .map(|key| (key, before.0.get(&key), model.get(&key)))
                .filter(|(_, before, after)| before != after)
                .collect();
            let changes: Vec<_> = before
                .1
                .changes(&map)
                .map(|change| (*change.key, change.before, change.after))
                .collect();
            prop_assert_eq!(changes, expected);
        }
    }

    #[test]
    fn a_change_copies_the_way_to_one_leaf() {
        let before: SharedMap<u32, u32> = (0..10_000).map(|number| (number, number)).collect();
        let mut after = before.clone();
        after.insert(5_000, 0);
        after.remove(&7_000);
        let leaves = |map: &SharedMap<u32, u32>| -> HashSet<*const (u32, u32)> {
            let mut leaves = Vec::new();
            map.root.leaves(&mut leaves);
            leaves.into_iter().map(<[_]>::as_ptr).collect()
        };
        assert_eq!(leaves(&before).difference(&leaves(&after)).count(), 2);
        assert_eq!(before.root.height(), 3);
        assert_eq!(before.changes(&after).count(), 2);
        assert_ne!(before, after);
        assert_eq!(before.get(&7_000), Some(&7_000));
    }
}
