//! A sorted map whose copies share what they have in common.
//!
//! Snapshots and views are whole and immutable, and there is a new one for every change. With ten
//! thousand entries a copy must not cost ten thousand steps, nor must it to find out what changed.
//! Entries lie in sorted pieces of up to [`PIECE_MAX`]; a copy takes one step, the first change to a
//! copy one for each piece and one for each entry of the piece that changes, and
//! [`changes`](SharedMap::changes) skips the pieces that two maps share.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Index;
use std::sync::Arc;

/// A sorted map, cheap to copy: copies share their entries until one of them changes.
pub struct SharedMap<K, V> {
    /// None is empty.
    pieces: Arc<Vec<Arc<Piece<K, V>>>>,
    len: usize,
}

type Piece<K, V> = Vec<(K, V)>;

/// What became of an entry, from one map to another.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Difference<'m, K, V> {
    pub(crate) key: &'m K,
    pub(crate) before: Option<&'m V>,
    pub(crate) after: Option<&'m V>,
}

/// A change copies one piece and the list of pieces; with ten thousand entries these are about as long.
const PIECE_MAX: usize = 128;
/// A piece that shrinks below this is joined with the next one, if both fit into one.
const PIECE_MIN: usize = PIECE_MAX / 4;

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
        let entries = self.pieces.iter().flat_map(|piece| piece.iter());
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

    /// The value at a position in the order of keys.
    pub fn nth_value(&self, position: usize) -> Option<&V> {
        let mut left = position;
        for piece in self.pieces.iter() {
            match piece.get(left) {
                Some((_, value)) => return Some(value),
                None => left -= piece.len(),
            }
        }
        None
    }

    /// Whether they are one map, and not only equal.
    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.pieces, &other.pieces)
    }
}

impl<K: Ord, V> SharedMap<K, V> {
    /// The value under a key.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let piece = self.pieces.get(self.piece_of(key))?;
        let position = position_in(piece, key).ok()?;
        Some(&piece[position].1)
    }

    /// Whether there is a value under a key.
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// The piece where a key is or would be: the last one that does not begin after it.
    fn piece_of<Q: Ord + ?Sized>(&self, key: &Q) -> usize
    where
        K: Borrow<Q>,
    {
        let begins_after = |piece: &Arc<Piece<K, V>>| piece[0].0.borrow() > key;
        let after = self.pieces.partition_point(|piece| !begins_after(piece));
        after.saturating_sub(1)
    }
}

impl<K: Ord + Clone, V: Clone> SharedMap<K, V> {
    /// Puts a value under a key; returns the former one.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let index = self.piece_of(&key);
        let pieces = Arc::make_mut(&mut self.pieces);
        let Some(piece) = pieces.get_mut(index) else {
            pieces.push(Arc::new(vec![(key, value)]));
            self.len += 1;
            return None;
        };
        let piece = Arc::make_mut(piece);
        match position_in(piece, &key) {
            Ok(position) => Some(std::mem::replace(&mut piece[position].1, value)),
            Err(position) => {
                piece.insert(position, (key, value));
                self.len += 1;
                if piece.len() > PIECE_MAX {
                    let second = piece.split_off(PIECE_MAX / 2);
                    pieces.insert(index + 1, Arc::new(second));
                }
                None
            }
        }
    }

    /// Takes the value under a key out.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let index = self.piece_of(key);
        let position = position_in(self.pieces.get(index)?, key).ok()?;
        let pieces = Arc::make_mut(&mut self.pieces);
        let piece = Arc::make_mut(&mut pieces[index]);
        let (_, value) = piece.remove(position);
        self.len -= 1;
        let left = piece.len();
        if left == 0 {
            pieces.remove(index);
        } else if left < PIECE_MIN
            && let Some(next) = pieces.get(index + 1)
            && left + next.len() <= PIECE_MAX
        {
            let next = pieces.remove(index + 1);
            Arc::make_mut(&mut pieces[index]).extend(next.iter().cloned());
        }
        Some(value)
    }
}

impl<K: Ord, V: PartialEq> SharedMap<K, V> {
    /// The entries that are not the same in `after`, in the order of keys. Takes a step for each
    /// piece, and for each entry of those that are not shared.
    pub(crate) fn changes<'m>(&'m self, after: &'m Self) -> Vec<Difference<'m, K, V>> {
        let mut changes = Vec::new();
        if self.is_same(after) {
            return changes;
        }
        let (mut old, mut new) = (Cursor::new(self), Cursor::new(after));
        loop {
            if old.skip_shared(&mut new) {
                continue;
            }
            let (before, after) = (old.entry(), new.entry());
            let order = match (before, after) {
                (None, None) => return changes,
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some((a, _)), Some((b, _))) => a.cmp(b),
            };
            let before = before.filter(|_| order.is_le());
            let after = after.filter(|_| order.is_ge());
            if before.is_some() {
                old.step();
            }
            if after.is_some() {
                new.step();
            }
            let Some((key, _)) = after.or(before) else {
                return changes;
            };
            let (before, after) = (
                before.map(|(_, value)| value),
                after.map(|(_, value)| value),
            );
            if before != after {
                changes.push(Difference { key, before, after });
            }
        }
    }
}

/// A place in a map.
struct Cursor<'m, K, V> {
    pieces: &'m [Arc<Piece<K, V>>],
    position: usize,
}

impl<'m, K, V> Cursor<'m, K, V> {
    fn new(map: &'m SharedMap<K, V>) -> Self {
        Self {
            pieces: &map.pieces,
            position: 0,
        }
    }

    fn entry(&self) -> Option<(&'m K, &'m V)> {
        let (key, value) = self.pieces.first()?.get(self.position)?;
        Some((key, value))
    }

    fn step(&mut self) {
        self.position += 1;
        if let Some((piece, rest)) = self.pieces.split_first()
            && self.position >= piece.len()
        {
            self.pieces = rest;
            self.position = 0;
        }
    }

    /// Goes past a piece that both are about to enter.
    fn skip_shared(&mut self, other: &mut Self) -> bool {
        let (Some((piece, rest)), Some((other_piece, other_rest))) =
            (self.pieces.split_first(), other.pieces.split_first())
        else {
            return false;
        };
        let is_shared =
            self.position == 0 && other.position == 0 && Arc::ptr_eq(piece, other_piece);
        if is_shared {
            self.pieces = rest;
            other.pieces = other_rest;
        }
        is_shared
    }
}

fn position_in<K: Borrow<Q>, V, Q: Ord + ?Sized>(
    piece: &Piece<K, V>,
    key: &Q,
) -> Result<usize, usize> {
    piece.binary_search_by(|(other, _)| other.borrow().cmp(key))
}

impl<K, V> Clone for SharedMap<K, V> {
    fn clone(&self) -> Self {
        Self {
            pieces: Arc::clone(&self.pieces),
            len: self.len,
        }
    }
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        Self {
            pieces: Arc::default(),
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
        self.len == other.len && (self.is_same(other) || self.iter().eq(other.iter()))
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
        let mut pieces = Vec::with_capacity(len.div_ceil(PIECE_MAX / 2));
        let mut entries = sorted.into_iter().peekable();
        while entries.peek().is_some() {
            // Half full, so that the next entries find room.
            let piece: Piece<K, V> = entries.by_ref().take(PIECE_MAX / 2).collect();
            pieces.push(Arc::new(piece));
        }
        Self {
            pieces: Arc::new(pieces),
            len,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

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
        assert!(
            map.pieces
                .iter()
                .all(|piece| (1..=PIECE_MAX).contains(&piece.len()))
        );
        assert_eq!(
            map.pieces.iter().map(|piece| piece.len()).sum::<usize>(),
            map.len()
        );
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
                    Step::Copy => before = (model.clone(), map.clone()),
                }
                invariants(&map);
            }
            prop_assert!(map.iter().eq(model.iter()));
            prop_assert!(before.1.iter().eq(before.0.iter()), "a copy stays what it was");
            for key in 0..600 {
                prop_assert_eq!(map.get(&key), model.get(&key));
            }
            for position in [0, 1, 63, 64, 65, 127, 128, 300] {
                prop_assert_eq!(map.nth_value(position), model.values().nth(position));
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
                .into_iter()
                .map(|change| (*change.key, change.before, change.after))
                .collect();
            prop_assert_eq!(changes, expected);
        }
    }

    #[test]
    fn one_change_copies_one_piece() {
        let before: SharedMap<u32, u32> = (0..10_000).map(|number| (number, number)).collect();
        let mut after = before.clone();
        after.insert(5_000, 0);
        after.remove(&7_000);
        let shared = after
            .pieces
            .iter()
            .filter(|piece| before.pieces.iter().any(|other| Arc::ptr_eq(piece, other)));
        assert_eq!(shared.count(), before.pieces.len() - 2);
        assert_eq!(before.changes(&after).len(), 2);
        assert_eq!(before.get(&7_000), Some(&7_000));
    }
}
