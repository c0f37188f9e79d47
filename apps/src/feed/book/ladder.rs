//! The price levels of each side in order: a small B+ tree a side, over two cache lines a node.
//!
//! Keys are prices turned so that the best one is the smallest. Leaves are chained, best first. A side of up to [`WIDTH`] levels is one leaf;
//! a deep one costs a node more for each factor of [`WIDTH`], so a level far from the best price is no walk. Nodes are freed when they are empty
//! and not merged before, which keeps them sparse only where levels come back soon.

use barewire_driver::huge::HugeSlice;

use super::slab::{NONE, Slab};

/// Entries of a node: with the links they fill two cache lines.
const WIDTH: usize = 14;
/// Entries that stay when a node is split.
const HALF: usize = WIDTH / 2;
/// Nodes from a root to a leaf at most. Every further one needs seven times as many insertions.
const HEIGHT: usize = 16;

/// A leaf, or an inner node, whose keys are lower bounds of its children. The first child of an inner node has no bound, which is written as zero.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(128))]
struct Node {
    keys: [u32; WIDTH],
    len: u32,
    /// The leaf with the next worse prices.
    worse: u32,
    /// Levels in a leaf, nodes above.
    values: [u32; WIDTH],
    /// The leaf with the next better prices.
    better: u32,
    /// Zero is a leaf.
    height: u32,
}

const EMPTY: Node =
    Node { keys: [u32::MAX; WIDTH], len: 0, worse: NONE, values: [NONE; WIDTH], better: NONE, height: 0 };

impl Node {
    /// Entries with a smaller key.
    #[inline]
    fn rank(&self, key: u32) -> usize {
        // Unused keys are the largest, so all may be compared: no branch but the last.
        self.keys.iter().filter(|at| **at < key).count()
    }

    /// Whether the entry at `at` is there and has `key`.
    #[inline]
    fn holds(&self, at: usize, key: u32) -> bool {
        at < self.len as usize && self.keys.get(at) == Some(&key)
    }

    /// The entry to descend into.
    #[inline]
    fn child(&self, key: u32) -> (usize, u32) {
        let after = self.keys.iter().filter(|at| **at <= key).count().min(self.len as usize);
        let at = after.saturating_sub(1);
        (at, self.value(at))
    }

    #[inline]
    fn value(&self, at: usize) -> u32 {
        self.values.get(at).copied().unwrap_or(NONE)
    }

    #[inline]
    fn insert(&mut self, at: usize, key: u32, value: u32) {
        insert(&mut self.keys, at, key);
        insert(&mut self.values, at, value);
        self.len = self.len.wrapping_add(1);
    }

    #[inline]
    fn remove(&mut self, at: usize) {
        remove(&mut self.keys, at, u32::MAX);
        remove(&mut self.values, at, NONE);
        self.len = self.len.wrapping_sub(1);
    }

    /// Moves the upper half into a new node.
    fn split(&mut self) -> Self {
        let mut upper = Self { height: self.height, len: (WIDTH - HALF) as u32, ..EMPTY };
        let keys = self.keys.iter_mut().skip(HALF).zip(&mut upper.keys);
        keys.for_each(|(from, to)| *to = std::mem::replace(from, u32::MAX));
        let values = self.values.iter_mut().skip(HALF).zip(&mut upper.values);
        values.for_each(|(from, to)| *to = std::mem::replace(from, NONE));
        self.len = HALF as u32;
        upper
    }

    /// Lets the first child of an inner node have every key below the second's.
    fn open_below(&mut self) {
        if let Some(first) = self.keys.first_mut() {
            *first = 0;
        }
    }

    #[inline]
    fn is_full(&self) -> bool {
        self.len as usize >= WIDTH
    }
}

/// Enters `value` at `at`: what stands from there on moves up, and the last falls out.
#[inline]
fn insert(places: &mut [u32; WIDTH], at: usize, value: u32) {
    if let Some(tail @ [_, ..]) = places.get_mut(at..) {
        tail.copy_within(..tail.len().wrapping_sub(1), 1);
        if let [first, ..] = tail {
            *first = value;
        }
    }
}

/// Takes out what stands at `at`: what stands behind it moves down, and `last` comes in.
#[inline]
fn remove(places: &mut [u32; WIDTH], at: usize, last: u32) {
    if let Some(tail @ [_, ..]) = places.get_mut(at..) {
        tail.copy_within(1.., 0);
    }
    let [.., place] = places;
    *place = last;
}

/// One side of a stock.
#[derive(Debug, Clone, Copy)]
struct Side {
    root: u32,
    /// The level at the best price, kept here for those who ask for nothing else.
    best: u32,
}

/// Where a key that is not there would be entered: the leaf, none where the side is empty, and the place in it.
#[derive(Debug, Clone, Copy)]
pub struct Gap {
    leaf: u32,
    at: usize,
}

/// Where a key is, or would go: the node and the entry at each height, from the leaf up.
#[derive(Clone, Copy)]
struct Path {
    steps: [(u32, usize); HEIGHT],
    root: u32,
}

/// The levels of all sides.
#[derive(Debug)]
pub struct Ladders {
    sides: HugeSlice<Side>,
    /// Sides that ever had a level, and those before them.
    used: u32,
    nodes: Slab<Node>,
}

impl Ladders {
    /// Room for `nodes` nodes over `sides` sides.
    pub fn new(sides: usize, nodes: u32) -> Self {
        Self { sides: HugeSlice::new(sides, Side { root: NONE, best: NONE }), used: 0, nodes: Slab::new(nodes, EMPTY) }
    }

    /// The sides that have levels.
    pub fn sides(&self) -> impl Iterator<Item = u32> {
        (0..self.used).filter(|side| self.best(*side) != NONE)
    }

    /// The best level of a side.
    #[inline]
    pub fn best(&self, side: u32) -> u32 {
        self.sides.get(side as usize).map_or(NONE, |side| side.best)
    }

    /// The level with `key`, or the place where it would be entered.
    #[inline]
    pub fn find(&self, side: u32, key: u32) -> Result<u32, Gap> {
        let Some((leaf, node)) = self.leaf(side, key) else { return Err(Gap { leaf: NONE, at: 0 }) };
        let at = node.rank(key);
        if node.holds(at, key) { Ok(node.value(at)) } else { Err(Gap { leaf, at }) }
    }

    /// The leaf where `key` is or would be. `None` where the side is empty.
    #[inline]
    fn leaf(&self, side: u32, key: u32) -> Option<(u32, &Node)> {
        let mut at = self.sides.get(side as usize)?.root;
        for _ in 0..HEIGHT {
            let node = self.nodes.get(at)?;
            if node.height == 0 {
                return Some((at, node));
            }
            at = node.child(key).1;
        }
        None
    }

    /// Enters a level where [`Ladders::find`] has not found its key. `None`, and nothing happens, where nodes are used up.
    #[inline]
    pub fn insert(&mut self, side: u32, gap: Gap, key: u32, level: u32) -> Option<()> {
        let Gap { leaf, at } = gap;
        let Some(node) = self.nodes.get_mut(leaf) else { return self.plant(side, key, level) };
        let is_best = at == 0 && node.better == NONE;
        if node.is_full() {
            self.insert_splitting(side, at, key, level)?;
        } else {
            node.insert(at, key, level);
        }
        if is_best {
            self.sides.get_mut(side as usize)?.best = level;
        }
        Some(())
    }

    /// Enters the first level of a side.
    #[cold]
    fn plant(&mut self, side: u32, key: u32, level: u32) -> Option<()> {
        let planted = self.sides.get_mut(side as usize)?;
        let mut leaf = EMPTY;
        leaf.insert(0, key, level);
        *planted = Side { root: self.nodes.take(leaf)?, best: level };
        self.used = self.used.max(side.wrapping_add(1));
        Some(())
    }

    /// From `root` down to where `key` belongs.
    fn path(&self, root: u32, key: u32) -> Option<Path> {
        let mut path = Path { steps: [(NONE, 0); HEIGHT], root };
        let mut at = root;
        for _ in 0..HEIGHT {
            let node = self.nodes.get(at)?;
            let (entry, below) = if node.height == 0 { (0, NONE) } else { node.child(key) };
            *path.steps.get_mut(node.height as usize)? = (at, entry);
            if node.height == 0 {
                return Some(path);
            }
            at = below;
        }
        None
    }

    /// As [`Ladders::insert`] into a leaf that is full: splits it, and whatever above it is full too.
    #[cold]
    fn insert_splitting(&mut self, side: u32, at: usize, key: u32, level: u32) -> Option<()> {
        let path = self.path(self.sides.get(side as usize)?.root, key)?;
        let full = |(node, _): &&(u32, usize)| self.nodes.get(*node).is_some_and(Node::is_full);
        let splits = path.steps.iter().take_while(full).count();
        // One more for a new root, which a tree of the greatest height cannot have.
        if self.nodes.left() <= splits || splits >= HEIGHT {
            return None;
        }
        let (mut at, mut key, mut value) = (at, key, level);
        for (height, &(index, _)) in path.steps.iter().enumerate() {
            let node = self.nodes.get_mut(index)?;
            if !node.is_full() {
                node.insert(at, key, value);
                return Some(());
            }
            let mut upper = node.split();
            match at.checked_sub(HALF) {
                Some(at) if at > 0 => upper.insert(at, key, value),
                _ => node.insert(at, key, value),
            }
            let separator = upper.keys.first().copied()?;
            if height > 0 {
                upper.open_below();
            } else {
                (upper.better, upper.worse) = (index, node.worse);
            }
            let made = self.nodes.take(upper)?;
            if height == 0 {
                self.nodes.get_mut(index)?.worse = made;
                if let Some(worse) = self.nodes.get_mut(upper.worse) {
                    worse.better = made;
                }
            }
            if index == path.root {
                let mut root = Node { height: height as u32 + 1, ..EMPTY };
                root.insert(0, 0, index);
                root.insert(1, separator, made);
                self.sides.get_mut(side as usize)?.root = self.nodes.take(root)?;
                return Some(());
            }
            at = path.steps.get(height + 1)?.1 + 1;
            (key, value) = (separator, made);
        }
        None
    }

    /// Takes the level with `key` out.
    #[inline]
    pub fn remove(&mut self, side: u32, key: u32) -> Option<()> {
        let (leaf, _) = self.leaf(side, key)?;
        let node = self.nodes.get_mut(leaf)?;
        let at = node.rank(key);
        if !node.holds(at, key) {
            return None;
        }
        let (was_best, worse) = (at == 0 && node.better == NONE, node.worse);
        node.remove(at);
        let (is_empty, mut next) = (node.len == 0, node.value(0));
        if is_empty {
            next = self.nodes.get(worse).map_or(NONE, |worse| worse.value(0));
            self.prune(side, key)?;
        }
        if was_best {
            self.sides.get_mut(side as usize)?.best = next;
        }
        Some(())
    }

    /// Frees the empty leaf where `key` would be, the nodes above it that become empty with it, and a root that has one child left.
    #[cold]
    fn prune(&mut self, side: u32, key: u32) -> Option<()> {
        let path = self.path(self.sides.get(side as usize)?.root, key)?;
        let leaf = *self.nodes.get(path.steps.first()?.0)?;
        if let Some(better) = self.nodes.get_mut(leaf.better) {
            better.worse = leaf.worse;
        }
        if let Some(worse) = self.nodes.get_mut(leaf.worse) {
            worse.better = leaf.better;
        }
        for (height, &(index, entry)) in path.steps.iter().enumerate() {
            let node = self.nodes.get_mut(index)?;
            if height > 0 {
                node.remove(entry);
                node.open_below();
            }
            if node.len > 0 {
                break;
            }
            self.nodes.give(index);
            if index == path.root {
                self.sides.get_mut(side as usize)?.root = NONE;
                return Some(());
            }
        }
        let mut root = path.root;
        for _ in 0..HEIGHT {
            let node = self.nodes.get(root)?;
            if node.height == 0 || node.len > 1 {
                break;
            }
            let only = node.value(0);
            self.nodes.give(root);
            root = only;
        }
        self.sides.get_mut(side as usize)?.root = root;
        Some(())
    }

    /// The levels of a side, best first.
    pub fn levels(&self, side: u32) -> impl Iterator<Item = u32> {
        let mut first = self.sides.get(side as usize).and_then(|side| self.nodes.get(side.root));
        while let Some(inner) = first.filter(|node| node.height > 0) {
            first = self.nodes.get(inner.value(0));
        }
        let leaves = std::iter::successors(first, |leaf| self.nodes.get(leaf.worse));
        leaves.flat_map(|leaf| leaf.values.iter().copied().take(leaf.len as usize))
    }

    /// Asks for a side to be brought to the cache.
    #[inline]
    pub fn prefetch_side(&self, side: u32) {
        self.sides.prefetch(side as usize);
    }

    /// Asks for the uppermost node of a side to be brought to the cache; the side itself should be there.
    #[inline]
    pub fn prefetch_root(&self, side: u32) {
        if let Some(side) = self.sides.get(side as usize) {
            self.nodes.prefetch(side.root);
        }
    }

    /// Bytes allocated.
    pub fn memory_bytes(&self) -> usize {
        size_of_val(&*self.sides) + self.nodes.memory_bytes()
    }

    /// Bytes of nodes ever used.
    pub fn touched_bytes(&self) -> usize {
        self.nodes.touched_bytes()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Every node is reached once, is sorted, and keeps its parent's bounds; the chain of leaves is the order of the tree.
    fn check(ladders: &Ladders, side: u32) {
        fn walk(ladders: &Ladders, index: u32, bounds: std::ops::Range<u64>, leaves: &mut Vec<u32>) -> usize {
            let node = ladders.nodes.get(index).unwrap();
            let len = node.len as usize;
            assert!((1..=WIDTH).contains(&len));
            assert!(node.keys[len..].iter().all(|key| *key == u32::MAX));
            assert!(node.keys[..len].is_sorted_by(|a, b| a < b), "{node:?}");
            if node.height == 0 {
                assert!(node.keys[..len].iter().all(|key| bounds.contains(&u64::from(*key))), "{node:?} {bounds:?}");
                leaves.push(index);
                return 1;
            }
            let children = 0..len;
            let count = children.map(|at| {
                let child = ladders.nodes.get(node.values[at]).unwrap();
                assert_eq!(child.height + 1, node.height);
                // Everything below the second bound goes into the first child.
                let from = if at == 0 { bounds.start } else { u64::from(node.keys[at]) };
                let to = if at + 1 == len { bounds.end } else { u64::from(node.keys[at + 1]) };
                walk(ladders, node.values[at], from..to, leaves)
            });
            1 + count.sum::<usize>()
        }
        let root = ladders.sides[side as usize].root;
        let (mut leaves, mut nodes) = (Vec::new(), 0);
        if root != NONE {
            nodes = walk(ladders, root, 0..1 << 32, &mut leaves);
        }
        assert_eq!(ladders.nodes.used(), nodes, "a node leaks");
        for (at, leaf) in leaves.iter().enumerate() {
            let leaf = ladders.nodes.get(*leaf).unwrap();
            assert_eq!(leaf.worse, leaves.get(at + 1).copied().unwrap_or(NONE));
            assert_eq!(leaf.better, at.checked_sub(1).map_or(NONE, |before| leaves[before]));
        }
    }

    /// Enters a key of side 0 that is not there.
    fn enter(ladders: &mut Ladders, key: u32, level: u32) -> Option<()> {
        let gap = ladders.find(0, key).unwrap_err();
        ladders.insert(0, gap, key, level)
    }

    /// Runs of neighbouring keys come and go, so that nodes fill, split, empty and vanish.
    fn acts() -> impl Strategy<Value = Vec<(bool, u32)>> {
        let key = prop_oneof![0u32..400, Just(u32::MAX), any::<u32>()];
        let run = (any::<bool>(), key, 1u32..120, any::<bool>());
        prop::collection::vec(run, 0..20).prop_map(|runs| {
            let run = |(insert, from, len, backwards): (bool, u32, u32, bool)| {
                let key = move |at| from.wrapping_add(if backwards { len - at } else { at });
                (0..len).map(move |at| (insert, key(at)))
            };
            runs.into_iter().flat_map(run).collect()
        })
    }

    proptest! {
        #[test]
        fn ladder_equals_an_ordered_map(acts in acts()) {
            let (mut ladders, mut naive) = (Ladders::new(1, 4096), BTreeMap::new());
            for (level, (insert, key)) in acts.into_iter().enumerate() {
                let level = level as u32;
                match naive.get(&key) {
                    None if insert => {
                        naive.insert(key, level);
                        prop_assert_eq!(enter(&mut ladders, key, level), Some(()));
                    }
                    Some(_) if !insert => {
                        naive.remove(&key);
                        prop_assert_eq!(ladders.remove(0, key), Some(()));
                    }
                    found => {
                        prop_assert_eq!(ladders.find(0, key).ok(), found.copied());
                    }
                }
                prop_assert_eq!(ladders.best(0), naive.first_key_value().map_or(NONE, |(_, level)| *level));
            }
            check(&ladders, 0);
            prop_assert!(ladders.levels(0).eq(naive.values().copied()));
            for (key, level) in &naive {
                prop_assert_eq!(ladders.find(0, *key).ok(), Some(*level));
            }
        }
    }

    #[test]
    fn insert_without_nodes_left_changes_nothing() {
        let mut ladders = Ladders::new(1, 4);
        let fits = (0..).take_while(|key| enter(&mut ladders, key * 2, *key).is_some()).count() as u32;
        check(&ladders, 0);
        assert!(fits > WIDTH as u32);
        assert_eq!(ladders.levels(0).count() as u32, fits);
        assert_eq!(ladders.remove(0, 1), None);
        (0..fits).for_each(|key| assert_eq!(ladders.remove(0, key * 2), Some(())));
        assert_eq!((ladders.best(0), ladders.nodes.used()), (NONE, 0));
    }
}
