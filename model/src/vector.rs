//! The version vector: how far each author's log is held.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{DeviceId, OperationId};
use crate::planted::{Bug, planted};

/// Buckets that a vector is hashed into, so that two peers exchange only those that differ.
pub const VECTOR_BUCKETS: usize = 256;

/// How far one author's log is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VectorEntry {
    /// The first sequence held; 1 as long as history is never cut.
    pub base: u64,
    /// The highest sequence up to which the log is held without a gap.
    pub sequence: u64,
    /// The operation there.
    pub id: OperationId,
}

/// Author → how far its log is held.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionVector {
    entries: BTreeMap<DeviceId, VectorEntry>,
}

impl VersionVector {
    /// How far `author`'s log is held.
    pub fn entry(&self, author: &DeviceId) -> Option<&VectorEntry> {
        self.entries.get(author)
    }

    /// The highest sequence held of `author`, 0 when none is.
    pub fn sequence(&self, author: &DeviceId) -> u64 {
        self.entries.get(author).map_or(0, |entry| entry.sequence)
    }

    /// The id of the last operation held of `author`; [`OperationId::ZERO`] when none is.
    pub fn head(&self, author: &DeviceId) -> OperationId {
        self.entries.get(author).map_or(OperationId::ZERO, |entry| entry.id)
    }

    /// Moves `author`'s entry forward; an entry never moves back.
    pub fn advance(&mut self, author: DeviceId, sequence: u64, id: OperationId) {
        let entry = self.entries.entry(author).or_insert(VectorEntry { base: 1, sequence, id });
        if sequence > entry.sequence {
            (entry.sequence, entry.id) = (sequence, if planted(Bug::VectorKeepsOldId) { entry.id } else { id });
        }
    }

    /// Replaces `author`'s entry, wherever it stood, or takes it out.
    pub fn replace(&mut self, author: DeviceId, entry: Option<VectorEntry>) {
        match entry {
            Some(entry) => self.entries.insert(author, entry),
            None => self.entries.remove(&author),
        };
    }

    /// All entries, by author.
    pub fn iter(&self) -> impl Iterator<Item = (&DeviceId, &VectorEntry)> {
        self.entries.iter()
    }

    /// How many authors have an entry.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no author has an entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many operations it covers.
    pub fn operations(&self) -> u64 {
        self.entries.values().fold(0, |sum, entry| sum.saturating_add((entry.sequence + 1).saturating_sub(entry.base)))
    }

    /// Whether everything that `other` covers is covered here.
    pub fn covers(&self, other: &Self) -> bool {
        other.iter().all(|(author, entry)| self.sequence(author) >= entry.sequence)
    }

    /// Takes the further entry of the two for each author.
    pub fn join(&mut self, other: &Self) {
        for (author, entry) in other.iter() {
            self.advance(*author, entry.sequence, entry.id);
        }
    }

    /// Which of the [`VECTOR_BUCKETS`] an author's entry falls into.
    pub fn bucket_of(author: &DeviceId) -> usize {
        usize::from(blake3::hash(&author.0).as_bytes()[0])
    }

    /// A hash over the whole vector.
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        for (author, entry) in self.entries.iter().skip(usize::from(planted(Bug::DigestIgnoresAuthor))) {
            hash_entry(&mut hasher, author, entry);
        }
        *hasher.finalize().as_bytes()
    }

    /// A hash per bucket; that of an empty bucket is zero.
    pub fn bucket_digests(&self) -> [[u8; 8]; VECTOR_BUCKETS] {
        let mut hashers: Vec<Option<blake3::Hasher>> = vec![None; VECTOR_BUCKETS];
        for (author, entry) in &self.entries {
            hash_entry(hashers[Self::bucket_of(author)].get_or_insert_default(), author, entry);
        }
        let digest = |hasher: &Option<blake3::Hasher>| {
            hasher
                .as_ref()
                .map_or([0; 8], |hasher| hasher.finalize().as_bytes()[..8].try_into().expect("8 of 32 bytes"))
        };
        std::array::from_fn(|bucket| digest(&hashers[bucket]))
    }
}

fn hash_entry(hasher: &mut blake3::Hasher, author: &DeviceId, entry: &VectorEntry) {
    hasher.update(&author.0);
    hasher.update(&entry.base.to_le_bytes());
    hasher.update(&entry.sequence.to_le_bytes());
    hasher.update(&entry.id.0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn vector() -> impl Strategy<Value = VersionVector> {
        proptest::collection::btree_map(0u8..6, 1u64..20, 0..6).prop_map(|entries| {
            let mut vector = VersionVector::default();
            for (author, sequence) in entries {
                vector.advance(DeviceId([author; 32]), sequence, OperationId([sequence as u8; 32]));
            }
            vector
        })
    }

    fn joined(a: &VersionVector, b: &VersionVector) -> VersionVector {
        let mut joined = a.clone();
        joined.join(b);
        joined
    }

    proptest! {
        #[test]
        fn join_is_a_least_upper_bound(a in vector(), b in vector(), c in vector()) {
            prop_assert_eq!(joined(&a, &b), joined(&b, &a));
            prop_assert_eq!(joined(&joined(&a, &b), &c), joined(&a, &joined(&b, &c)));
            prop_assert_eq!(&joined(&a, &a), &a);
            prop_assert!(joined(&a, &b).covers(&a) && joined(&a, &b).covers(&b));
            prop_assert_eq!(a.covers(&b), joined(&a, &b) == a);
        }

        #[test]
        fn covering_is_a_partial_order(a in vector(), b in vector(), c in vector()) {
            prop_assert!(a.covers(&a) && a.covers(&VersionVector::default()));
            prop_assert_eq!(a.covers(&b) && b.covers(&a), a == b);
            prop_assert!(!(a.covers(&b) && b.covers(&c)) || a.covers(&c));
            prop_assert!(!a.covers(&b) || a.operations() >= b.operations());
            prop_assert!(!(a.covers(&b) && a.operations() == b.operations()) || a == b);
        }

        #[test]
        fn an_entry_is_the_furthest_of_its_advances_in_whatever_order(
            advances in proptest::collection::vec((0u8..4, 1u64..20), 0..30),
            seed in any::<u64>(),
        ) {
            let advance = |vector: &mut VersionVector, (author, sequence): (u8, u64)| {
                vector.advance(DeviceId([author; 32]), sequence, OperationId([sequence as u8; 32]));
            };
            let (mut forward, mut shuffled, mut joined_up) = <(VersionVector, VersionVector, VersionVector)>::default();
            advances.iter().for_each(|one| advance(&mut forward, *one));
            let mut order = advances.clone();
            order.sort_by_key(|(author, sequence)| (u64::from(*author) * 31 + sequence).wrapping_mul(seed | 1));
            order.iter().for_each(|one| advance(&mut shuffled, *one));
            for one in advances.iter().rev() {
                let mut alone = VersionVector::default();
                advance(&mut alone, *one);
                joined_up.join(&alone);
            }
            prop_assert_eq!(&forward, &shuffled);
            prop_assert_eq!(&forward, &joined_up);
            for (author, entry) in forward.iter() {
                let of_author = advances.iter().filter(|(other, _)| DeviceId([*other; 32]) == *author);
                prop_assert_eq!(of_author.map(|(_, sequence)| *sequence).max(), Some(entry.sequence));
                prop_assert_eq!(entry.id, OperationId([entry.sequence as u8; 32]), "the id goes with the sequence");
            }
        }

        #[test]
        fn differing_buckets_are_those_of_the_differing_authors(a in vector(), b in vector()) {
            let (left, right) = (a.bucket_digests(), b.bucket_digests());
            let authors = a.iter().chain(b.iter()).map(|(author, _)| *author);
            let differs = |author: &DeviceId| a.entry(author) != b.entry(author);
            let expected: std::collections::BTreeSet<usize> =
                authors.filter(differs).map(|author| VersionVector::bucket_of(&author)).collect();
            let found = (0..VECTOR_BUCKETS).filter(|bucket| left[*bucket] != right[*bucket]);
            prop_assert_eq!(found.collect::<std::collections::BTreeSet<usize>>(), expected);
        }

        #[test]
        fn digests_differ_exactly_where_vectors_do(a in vector(), b in vector()) {
            prop_assert_eq!(a.digest() == b.digest(), a == b);
            let (left, right) = (a.bucket_digests(), b.bucket_digests());
            let differing: Vec<usize> = (0..VECTOR_BUCKETS).filter(|bucket| left[*bucket] != right[*bucket]).collect();
            prop_assert_eq!(differing.is_empty(), a == b);
        }
    }
}
