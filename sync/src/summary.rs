//! Comparing two version vectors in few bytes.
//!
//! Two peers that are thought to be equal exchange a digest of 16 bytes. Otherwise a space of few authors is compared
//! in one round trip: the asking side says its whole vector, the asked side learns what it lacks and answers with the
//! entries that go further. With many authors the asking side sends a hash for each of 256 buckets, the asked side
//! answers with its entries in the buckets that differ, and the asking side then lists where it is ahead.

use std::collections::BTreeMap;

use syncline_model::planted::{Bug, planted};
use syncline_model::vector::{VECTOR_BUCKETS, VectorEntry};
use syncline_model::{DeviceId, VersionVector};

use crate::limits::SUMMARY_ENTRIES_MAX;
use crate::messages::{Part, Scope, SummaryAnswer, SummaryEntry};

/// The short hash that two equal vectors share.
pub(crate) fn digest(vector: &VersionVector) -> [u8; 16] {
    vector.digest()[..16].try_into().expect("half of a hash")
}

/// The part that lets a peer compare everything; all entries when there are `few` authors at most.
pub(crate) fn whole(vector: &VersionVector, few: usize) -> Part {
    if vector.len() <= few { Part::Entries(vector.iter().map(entry).collect()) } else { buckets(vector, 0) }
}

/// The bucket digests, to be answered from bucket `from` on.
pub(crate) fn buckets(vector: &VersionVector, from: u8) -> Part {
    Part::Buckets { from, digests: vector.bucket_digests().to_vec() }
}

/// The answer to a peer's summary.
pub(crate) fn answer(vector: &VersionVector, theirs: [u8; 16], part: &Part, few: usize) -> SummaryAnswer {
    if digest(vector) == theirs {
        return SummaryAnswer::Equal;
    }
    match part {
        Part::Digest if vector.len() <= few => {
            SummaryAnswer::Entries { scope: Scope::All, entries: vector.iter().map(entry).collect(), next: None }
        }
        Part::Digest => SummaryAnswer::Differs,
        Part::Entries(entries) => bounded(Scope::All, beyond(vector, entries, |_| true)),
        Part::Listed(entries) => {
            let listed: BTreeMap<_, _> = entries.iter().map(|entry| (entry.author, ())).collect();
            bounded(Scope::Listed, beyond(vector, entries, |author| listed.contains_key(author)))
        }
        Part::Buckets { from, digests } => differing_buckets(vector, *from, digests),
    }
}

/// The entries of `vector` within a scope that go further than what a peer said there, or end at another operation,
/// at most [`SUMMARY_ENTRIES_MAX`].
pub(crate) fn ahead_of(vector: &VersionVector, scope: &Scope, said: &[SummaryEntry]) -> Vec<SummaryEntry> {
    let mut entries = match scope {
        Scope::All => beyond(vector, said, |_| true),
        Scope::Buckets(set) => beyond(vector, said, |author| contains(set, VersionVector::bucket_of(author))),
        Scope::Listed => Vec::new(),
    };
    entries.truncate(SUMMARY_ENTRIES_MAX);
    entries
}

/// Whether an answer with this scope speaks of `author`; `listed` is what the request listed.
pub(crate) fn covers(scope: &Scope, listed: &[SummaryEntry], author: &DeviceId) -> bool {
    match scope {
        Scope::All => true,
        Scope::Buckets(set) => contains(set, VersionVector::bucket_of(author)),
        Scope::Listed => listed.binary_search_by_key(author, |entry| entry.author).is_ok(),
    }
}

fn bounded(scope: Scope, entries: Vec<SummaryEntry>) -> SummaryAnswer {
    if entries.len() > SUMMARY_ENTRIES_MAX {
        return SummaryAnswer::Differs;
    }
    SummaryAnswer::Entries { scope, entries, next: None }
}

fn differing_buckets(vector: &VersionVector, from: u8, theirs: &[[u8; 8]]) -> SummaryAnswer {
    let ours = vector.bucket_digests();
    let mut by_bucket: BTreeMap<usize, Vec<SummaryEntry>> = BTreeMap::new();
    for (author, held) in vector.iter() {
        by_bucket.entry(VersionVector::bucket_of(author)).or_default().push(entry((author, held)));
    }
    let (mut set, mut entries, mut next) = ([0; 32], Vec::new(), None);
    for bucket in usize::from(from)..VECTOR_BUCKETS - usize::from(planted(Bug::BucketBoundary)) {
        if theirs.get(bucket) == Some(&ours[bucket]) {
            continue;
        }
        let found = by_bucket.remove(&bucket).unwrap_or_default();
        // One bucket always goes, so that asking on makes progress; members are few enough for it to fit.
        if !entries.is_empty() && entries.len() + found.len() > SUMMARY_ENTRIES_MAX {
            next = u8::try_from(bucket).ok();
            break;
        }
        set[bucket / 8] |= 1 << (bucket % 8);
        entries.extend(found);
    }
    entries.sort_by_key(|entry| entry.author);
    SummaryAnswer::Entries { scope: Scope::Buckets(set), entries, next }
}

fn beyond(
    vector: &VersionVector,
    said: &[SummaryEntry],
    mut within: impl FnMut(&DeviceId) -> bool,
) -> Vec<SummaryEntry> {
    let said: BTreeMap<DeviceId, &SummaryEntry> = said.iter().map(|entry| (entry.author, entry)).collect();
    // Of two logs of one length that differ the peer has to hear as well, since one of them is a fork.
    let is_news = |author: &DeviceId, held: &VectorEntry| match said.get(author) {
        Some(said) if said.sequence == held.sequence => said.id != held.id.prefix(),
        Some(said) => held.sequence > said.sequence,
        None => true,
    };
    vector.iter().filter(|(author, held)| within(author) && is_news(author, held)).map(entry).collect()
}

fn contains(set: &[u8; 32], bucket: usize) -> bool {
    set[bucket / 8] & (1 << (bucket % 8)) != 0
}

fn entry((author, held): (&DeviceId, &VectorEntry)) -> SummaryEntry {
    SummaryEntry { author: *author, sequence: held.sequence, id: held.id.prefix() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::SUMMARY_AUTHORS_FEW;
    use proptest::prelude::*;
    use syncline_model::OperationId;

    fn vector(authors: &[(u16, u64)]) -> VersionVector {
        let mut vector = VersionVector::default();
        for (author, sequence) in authors {
            let mut id = [0; 32];
            id[..2].copy_from_slice(&author.to_le_bytes());
            vector.advance(DeviceId(id), *sequence, OperationId([*sequence as u8; 32]));
        }
        vector
    }

    fn whole(vector: &VersionVector) -> Part {
        super::whole(vector, SUMMARY_AUTHORS_FEW)
    }

    fn answer(vector: &VersionVector, theirs: [u8; 16], part: &Part) -> SummaryAnswer {
        super::answer(vector, theirs, part, SUMMARY_AUTHORS_FEW)
    }

    fn entries(answer: SummaryAnswer) -> Vec<SummaryEntry> {
        match answer {
            SummaryAnswer::Entries { entries, next: None, .. } => entries,
            other => panic!("not a complete list: {other:?}"),
        }
    }

    #[test]
    fn few_authors_are_compared_in_one_round_trip() {
        let (ours, theirs) = (vector(&[(1, 5), (2, 5), (3, 1)]), vector(&[(1, 4), (2, 5), (4, 9)]));
        let news = entries(answer(&ours, digest(&theirs), &whole(&theirs)));
        let news: Vec<u64> = news.iter().map(|entry| entry.sequence).collect();
        assert_eq!(news, [5, 1], "what goes beyond theirs, and nothing else");
        assert_eq!(answer(&ours, digest(&ours), &Part::Digest), SummaryAnswer::Equal);
    }

    #[test]
    fn an_answer_of_too_many_entries_asks_for_buckets() {
        let many: Vec<(u16, u64)> = (0..SUMMARY_ENTRIES_MAX as u16 + 1).map(|author| (author, 1)).collect();
        let (ours, theirs) = (vector(&many), vector(&[]));
        assert_eq!(answer(&ours, digest(&theirs), &whole(&theirs)), SummaryAnswer::Differs);
        let mut from = 0;
        let mut seen = 0;
        loop {
            let SummaryAnswer::Entries { entries, next, .. } = answer(&ours, digest(&theirs), &buckets(&theirs, from))
            else {
                panic!("buckets are answered with entries");
            };
            assert!(entries.len() <= SUMMARY_ENTRIES_MAX);
            seen += entries.len();
            match next {
                Some(next) => from = next,
                None => break,
            }
        }
        assert_eq!(seen, many.len());
    }

    proptest! {
        #[test]
        fn buckets_find_exactly_what_each_side_lacks(
            ours in proptest::collection::btree_map(0u16..300, 1u64..4, 0..200),
            theirs in proptest::collection::btree_map(0u16..300, 1u64..4, 0..200),
        ) {
            let list = |map: &BTreeMap<u16, u64>| vector(&map.iter().map(|(a, s)| (*a, *s)).collect::<Vec<_>>());
            let (ours, theirs) = (list(&ours), list(&theirs));
            prop_assume!(ours != theirs);
            let SummaryAnswer::Entries { scope, entries, next: None } =
                answer(&ours, digest(&theirs), &buckets(&theirs, 0)) else { panic!("one answer") };
            let mut completed = theirs.clone();
            for entry in &entries {
                completed.advance(entry.author, entry.sequence, OperationId([entry.sequence as u8; 32]));
            }
            for entry in ahead_of(&theirs, &scope, &entries) {
                prop_assert!(ours.sequence(&entry.author) < entry.sequence);
                prop_assert!(covers(&scope, &[], &entry.author));
            }
            let mut joined = ours;
            joined.join(&theirs);
            prop_assert_eq!(completed, joined);
        }
    }
}
