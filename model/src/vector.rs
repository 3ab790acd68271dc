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
        fn digests_differ_exactly_where_vectors_do(a in vector(), b in vector()) {
            prop_assert_eq!(a.digest() == b.digest(), a == b);
            let (left, right) = (a.bucket_digests(), b.bucket_digests());
            let differing: Vec<usize> = (0..VECTOR_BUCKETS).filter(|bucket| left[*bucket] != right[*bucket]).collect();
            prop_assert_eq!(differing.is_empty(), a == b);
        }
    }
}
