//! A map bounded by weight. Evicts by SIEVE (Zhang et al., NSDI 2024): a queue in order of insertion and one bit an entry,
//! set by a hit; a hand walks from old to new, clears bits, and takes the first entry whose bit is clear. A hit moves
//! nothing, and one pass over many cold keys does not push the hot ones out.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

type Index = usize;

/// A map whose entries weigh at most `weight_max` together.
pub(super) struct Sieve<K, V> {
    index: HashMap<K, Index>,
    nodes: Vec<Option<Node<K, V>>>,
    free: Vec<Index>,
    /// The entry inserted last.
    newest: Option<Index>,
    /// The entry inserted first.
    oldest: Option<Index>,
    hand: Option<Index>,
    weight: usize,
    weight_max: usize,
}

struct Node<K, V> {
    key: K,
    value: V,
    weight: usize,
    visited: bool,
    newer: Option<Index>,
    older: Option<Index>,
}

impl<K: Hash + Eq + Clone, V> Sieve<K, V> {
    pub(super) fn new(weight_max: usize) -> Self {
        Self {
            index: HashMap::new(),
            nodes: Vec::new(),
            free: Vec::new(),
            newest: None,
            oldest: None,
            hand: None,
            weight: 0,
            weight_max,
        }
    }

    /// Returns the value of a key, which is marked as used.
    pub(super) fn get<Q>(&mut self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let node = self.nodes.get_mut(*self.index.get(key)?)?.as_mut()?;
        node.visited = true;
        Some(&node.value)
    }

    /// Returns the value of a key, to change it without a change of its weight.
    pub(super) fn get_mut<Q>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let node = self.nodes.get_mut(*self.index.get(key)?)?.as_mut()?;
        Some(&mut node.value)
    }

    /// Replaces the value of a key, evicting others until it fits. One that can never fit is not kept.
    pub(super) fn insert(&mut self, key: K, value: V, weight: usize) {
        self.remove(&key);
        if weight > self.weight_max {
            return;
        }
        while self.weight + weight > self.weight_max && self.evict() {}
        let node = Node { key: key.clone(), value, weight, visited: false, newer: None, older: self.newest };
        let index = match self.free.pop() {
            Some(index) => {
                self.nodes[index] = Some(node);
                index
            }
            None => {
                self.nodes.push(Some(node));
                self.nodes.len() - 1
            }
        };
        match self.newest.and_then(|newest| self.nodes[newest].as_mut()) {
            Some(newest) => newest.newer = Some(index),
            None => self.oldest = Some(index),
        }
        self.newest = Some(index);
        self.index.insert(key, index);
        self.weight += weight;
    }

    /// Removes a key.
    pub(super) fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let index = self.index.remove(key)?;
        self.unlink(index).map(|node| node.value)
    }

    /// Evicts one entry; returns false when there is none.
    fn evict(&mut self) -> bool {
        let mut at = self.hand.or(self.oldest);
        while let Some(index) = at {
            let Some(node) = self.nodes[index].as_mut() else { return false };
            if !node.visited {
                self.hand = Some(index);
                if let Some(node) = self.unlink(index) {
                    self.index.remove(&node.key);
                }
                return true;
            }
            node.visited = false;
            at = node.newer.or(self.oldest);
        }
        false
    }

    fn unlink(&mut self, index: Index) -> Option<Node<K, V>> {
        let node = self.nodes[index].take()?;
        match node.newer.and_then(|newer| self.nodes[newer].as_mut()) {
            Some(newer) => newer.older = node.older,
            None => self.newest = node.older,
        }
        match node.older.and_then(|older| self.nodes[older].as_mut()) {
            Some(older) => older.newer = node.newer,
            None => self.oldest = node.newer,
        }
        if self.hand == Some(index) {
            self.hand = node.newer;
        }
        self.weight -= node.weight;
        self.free.push(index);
        Some(node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hot_entries_survive_a_scan() {
        let mut map = Sieve::new(100);
        for key in 0..10 {
            map.insert(key, key, 10);
        }
        for key in 0..3 {
            assert_eq!(map.get(&key), Some(&key));
        }
        for key in 100..150 {
            map.insert(key, key, 10);
            map.get(&0);
            map.get(&1);
            map.get(&2);
        }
        assert!((0..3).all(|key| map.get(&key).is_some()), "a scan pushed the hot entries out");
        assert_eq!((map.weight, map.index.len()), (100, 10));
    }

    #[test]
    fn oversized_entry_removes_the_old_one() {
        let mut map = Sieve::new(100);
        map.insert("a", 1, 10);
        map.insert("a", 2, 101);
        assert_eq!(map.get("a"), None);
        assert_eq!(map.weight, 0);
    }

    /// Random operations against a plain map: what is there is right, weight and links add up.
    #[test]
    fn sieve_matches_plain_map() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut map = Sieve::new(500);
            let mut model = HashMap::new();
            for step in 0..400 {
                let key = random.u32(..40);
                match random.u8(..4) {
                    0 => {
                        map.remove(&key);
                        model.remove(&key);
                    }
                    1 | 2 => {
                        map.insert(key, step, random.usize(1..120));
                        model.insert(key, step);
                    }
                    _ => {
                        if let Some(value) = map.get(&key) {
                            assert_eq!(Some(value), model.get(&key), "seed {seed}");
                        }
                    }
                }
                let mut at = map.oldest;
                let (mut count, mut weight, mut last) = (0, 0, None);
                while let Some(index) = at {
                    let node = map.nodes[index].as_ref().expect("linked");
                    assert_eq!((map.index.get(&node.key), node.older), (Some(&index), last), "seed {seed}");
                    (count, weight, last) = (count + 1, weight + node.weight, Some(index));
                    at = node.newer;
                }
                assert_eq!(last, map.newest, "seed {seed}");
                assert_eq!((count, weight), (map.index.len(), map.weight), "seed {seed}");
                assert!(map.weight <= 500, "seed {seed}");
            }
        }
    }
}
