//! Checking documents against the operations that they are made of.
//!
//! Two things are kept of documents and could differ from the operations: the catalog, which says which changes each
//! document has, and what stands in memory or in snapshots. The catalog is compared by sums, so that memory is bounded
//! whatever the number of documents: every change of every operation, and every reference of the catalog, is hashed
//! and added to one of [`BUCKETS`] sums, chosen by its document; two equal sums mean equal sets but for a chance of
//! one in 2^128. What is kept of a document is compared with the document made anew from nothing but its changes;
//! most are small and nothing is kept of them.
//!
//! Which changes a delete has taken is read from the catalog for both sides, and not checked.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use syncline_model::{Action, DeviceId, DocumentKey};
use syncline_storage::IndexError;

use super::assemble::{Assembled, Base, Missing, Recipe, assemble};
use super::catalog::{Catalog, CatalogEntry, DOCUMENT, OperationRef, Reference, key_of_suffix};
use super::desk::Desk;
use super::job::Shared;
use super::operations::{Content, Operations};
use super::snapshot::Loaded;

/// Sums that all documents share.
const BUCKETS: usize = 1 << 16;
/// Buckets whose documents are named when they differ.
const BUCKETS_NAMED_MAX: usize = 64;
/// Most documents of one page of sums.
const SUMS_MAX: usize = 1000;
/// References after which a page of sums ends: the desk does nothing else meanwhile.
const REFERENCES_MAX: u64 = 1 << 16;

/// A set of changes as one number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReferenceSum {
    count: u64,
    sum: u128,
}

impl ReferenceSum {
    fn add(&mut self, author: &DeviceId, sequence: u64, entry: u32) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&author.0).update(&sequence.to_le_bytes()).update(&entry.to_le_bytes());
        let mut bytes = [0; 16];
        hasher.finalize_xof().fill(&mut bytes);
        self.join(Self { count: 1, sum: u128::from_le_bytes(bytes) });
    }

    fn join(&mut self, other: Self) {
        self.count = self.count.wrapping_add(other.count);
        self.sum = self.sum.wrapping_add(other.sum);
    }
}

/// What an audit of documents begins with.
#[derive(Debug, Clone)]
pub struct AuditStart {
    /// Up to which of their operations the authors' changes are in the catalog.
    pub applied: Arc<BTreeMap<DeviceId, u64>>,
    /// The operations.
    pub operations: Arc<dyn Operations>,
}

/// What the catalog says of a stretch of documents, deleted ones included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SumPage {
    /// Their changes up to where the audit began.
    pub sums: Vec<(DocumentKey, ReferenceSum)>,
    /// The key to go on after, if there are more.
    pub next: Option<DocumentKey>,
}

/// What came of comparing a document with its operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub enum Comparison {
    /// Nothing is kept of it: it is made from its operations whenever it is read.
    NothingKept,
    /// They say the same.
    Same,
    /// The document has other heads: changes are missing or too many.
    OtherHeads,
    /// The changes are the same, and yet it reads differently.
    OtherValue,
}

/// Sums over all documents.
#[derive(Debug)]
pub struct Tally {
    sums: Vec<ReferenceSum>,
    /// The documents of some buckets, one by one.
    named: BTreeMap<usize, BTreeMap<DocumentKey, ReferenceSum>>,
}

impl Default for Tally {
    fn default() -> Self {
        Self { sums: vec![ReferenceSum::default(); BUCKETS], named: BTreeMap::new() }
    }
}

impl Tally {
    /// One that also remembers the documents of these buckets.
    pub fn naming(buckets: &BTreeSet<usize>) -> Self {
        let named = buckets.iter().take(BUCKETS_NAMED_MAX).map(|bucket| (*bucket, BTreeMap::new())).collect();
        Self { named, ..Self::default() }
    }

    /// Adds the changes of an operation.
    pub fn add_operation(&mut self, author: &DeviceId, content: &Content) {
        for (number, entry) in (0..).zip(&content.entries) {
            if matches!(entry.action, Action::Change(_) | Action::ForeignChange(_)) {
                let mut sum = ReferenceSum::default();
                sum.add(author, content.sequence, number);
                self.add(&entry.key, sum);
            }
        }
    }

    /// Adds what the catalog says of a document.
    pub fn add(&mut self, key: &DocumentKey, sum: ReferenceSum) {
        if sum.count == 0 {
            return;
        }
        let hash = blake3::hash(key.as_str().as_bytes());
        let bucket = usize::from(u16::from_le_bytes([hash.as_bytes()[0], hash.as_bytes()[1]])) % BUCKETS;
        self.sums[bucket].join(sum);
        if let Some(documents) = self.named.get_mut(&bucket) {
            documents.entry(key.clone()).or_default().join(sum);
        }
    }

    /// The buckets in which two tallies differ.
    pub fn differing(&self, other: &Self) -> BTreeSet<usize> {
        (0..BUCKETS).filter(|bucket| self.sums[*bucket] != other.sums[*bucket]).collect()
    }

    /// The named documents in which two tallies differ.
    pub fn differing_documents(&self, other: &Self) -> BTreeSet<DocumentKey> {
        let all = |tally: &Self| -> BTreeMap<DocumentKey, ReferenceSum> {
            tally.named.values().flatten().map(|(key, sum)| (key.clone(), *sum)).collect()
        };
        let (one, two) = (all(self), all(other));
        let differs = |key: &&DocumentKey| one.get(*key) != two.get(*key);
        one.keys().chain(two.keys()).filter(differs).cloned().collect()
    }
}

impl Desk {
    /// What an audit begins with: it looks at nothing that comes later.
    pub fn audit_start(&self) -> AuditStart {
        let catalog = self.catalog();
        let applied = catalog.authors().iter().map(|author| (*author, catalog.applied(author))).collect();
        AuditStart { applied: Arc::new(applied), operations: Arc::clone(self.operations()) }
    }

    /// A page of what the catalog says.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn audit_sums(
        &self,
        after: Option<&DocumentKey>,
        applied: &BTreeMap<DeviceId, u64>,
    ) -> Result<SumPage, IndexError> {
        let catalog = self.catalog();
        let (keys, mut next) = catalog.all_keys(after, SUMS_MAX)?;
        let (mut sums, mut references) = (Vec::with_capacity(keys.len()), 0);
        for key in keys {
            let entry = catalog.entry(&key)?.unwrap_or_default();
            let mut sum = ReferenceSum::default();
            for Reference { operation, entry: number } in catalog.references(&key, &entry, 0)? {
                let author = catalog.author(operation.author).ok_or(IndexError::Damaged("references of a document"))?;
                if applied.get(&author).is_some_and(|applied| operation.sequence <= *applied) {
                    sum.add(&author, operation.sequence, number);
                }
            }
            references += entry.total();
            sums.push((key, sum));
            if references >= REFERENCES_MAX {
                next = sums.last().map(|(key, _)| key.clone());
                break;
            }
        }
        Ok(SumPage { sums, next })
    }
}

impl Catalog {
    /// The keys of all documents ever, after a key, and the key to go on after if there may be more.
    fn all_keys(
        &self,
        after: Option<&DocumentKey>,
        limit: usize,
    ) -> Result<(Vec<DocumentKey>, Option<DocumentKey>), IndexError> {
        // The smallest suffix after a key is that key with a zero byte behind it.
        let from = after.map_or_else(Vec::new, |after| [after.as_str().as_bytes(), &[0]].concat());
        let mut keys = Vec::new();
        self.index().scan(DOCUMENT, &from, None, &mut |suffix, _| {
            keys.push(suffix.to_vec());
            if keys.len() == limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        let keys: Vec<DocumentKey> = keys.iter().map(|suffix| key_of_suffix(suffix)).collect::<Result<_, _>>()?;
        let next = keys.last().filter(|_| keys.len() == limit).cloned();
        Ok((keys, next))
    }
}

/// All that is needed to make a document anew.
#[derive(Debug, Clone, Default)]
pub(super) struct Anew {
    pub(super) all: Vec<Reference>,
    pub(super) entry: CatalogEntry,
    pub(super) authors: Arc<Vec<DeviceId>>,
    pub(super) withheld: Arc<BTreeSet<OperationRef>>,
}

/// Makes a document anew and compares it with what is kept of it; the reason when that cannot be done.
pub(super) fn compare(key: &DocumentKey, kept: &Loaded, anew: &Anew, shared: &Shared) -> Result<Comparison, String> {
    let Anew { all, entry, authors, withheld } = anew.clone();
    let recipe = Recipe {
        key: key.clone(),
        base: Base::Empty,
        total: entry.total(),
        generation: entry.generation,
        missing: Missing::Select { all, entry },
        authors,
        withheld,
    };
    match assemble(recipe, &*shared.operations, &shared.seal_key) {
        Assembled::Ready(made) if made.document.heads() != kept.document.heads() => Ok(Comparison::OtherHeads),
        Assembled::Ready(made) if made.document.view() != kept.document.view() => Ok(Comparison::OtherValue),
        Assembled::Ready(_) => Ok(Comparison::Same),
        Assembled::Failed(error) => Err(error.to_string()),
        Assembled::Select | Assembled::BadSnapshot => Err("it cannot be made from its operations".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use syncline_model::Entry;

    fn content(sequence: u64, keys: &[&str]) -> Content {
        let entry = |key: &&str| Entry { key: key.parse().unwrap(), action: Action::Change(vec![1]) };
        Content {
            author: DeviceId([1; 32]),
            sequence,
            wall_time_ms: 0,
            actor: [0; 20],
            entries: keys.iter().map(entry).collect(),
        }
    }

    #[test]
    fn equal_sets_have_equal_sums_in_any_order_and_a_difference_names_its_document() {
        let author = DeviceId([1; 32]);
        let all = [content(1, &["a", "b"]), content(2, &["a"]), content(3, &["c"])];
        let tally = |contents: &[&Content], buckets: &BTreeSet<usize>| {
            let mut tally = Tally::naming(buckets);
            contents.iter().for_each(|content| tally.add_operation(&author, content));
            tally
        };
        let none = BTreeSet::new();
        let one = tally(&[&all[0], &all[1], &all[2]], &none);
        assert!(one.differing(&tally(&[&all[2], &all[0], &all[1]], &none)).is_empty());
        let buckets = one.differing(&tally(&[&all[0], &all[2]], &none));
        assert_eq!(buckets.len(), 1);
        let differing =
            tally(&[&all[0], &all[1], &all[2]], &buckets).differing_documents(&tally(&[&all[0], &all[2]], &buckets));
        assert_eq!(differing.into_iter().map(|key| key.to_string()).collect::<Vec<_>>(), ["a"]);
        assert!(!one.differing(&tally(&[&all[0], &all[1], &all[1], &all[2]], &none)).is_empty(), "one too many");
    }
}
