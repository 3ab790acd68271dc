//! The feed: which operations became visible, in which order. It names operations; their keys are read from the log.

use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};
use syncline_storage::IndexError;

use super::catalog::{AuthorNumber, Catalog, FEED, OperationRef, decode};

/// A stretch of one author's operations that became visible one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Stretch {
    author: AuthorNumber,
    first: u64,
    count: u64,
}

/// Operations in one record of the index: those that come after go on in the same record until it is full, so that
/// many small transactions write one key.
const RECORD_OPERATIONS_MAX: u64 = 256;
/// Stretches in one record, since all of it is written whenever it grows.
const RECORD_STRETCHES_MAX: usize = 32;

/// Operations in visible order. The position of the first is in the record's key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FeedRecord {
    stretches: Vec<Stretch>,
}

/// An operation with its place in the visible order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Visible {
    pub(super) position: u64,
    pub(super) operation: OperationRef,
}

impl FeedRecord {
    pub(super) fn is_empty(&self) -> bool {
        self.stretches.is_empty()
    }

    /// Adds the next operation.
    pub(super) fn push(&mut self, author: AuthorNumber, sequence: u64) {
        match self.stretches.last_mut() {
            Some(last) if last.author == author && last.first + last.count == sequence => last.count += 1,
            _ => self.stretches.push(Stretch { author, first: sequence, count: 1 }),
        }
    }

    fn count(&self) -> u64 {
        self.stretches.iter().map(|stretch| stretch.count).sum()
    }

    /// This record with what comes after it, if both fit into one.
    pub(super) fn continued(&self, next: &Self) -> Option<Self> {
        let stretches = self.stretches.len() + next.stretches.len();
        if self.count() + next.count() > RECORD_OPERATIONS_MAX || stretches > RECORD_STRETCHES_MAX {
            return None;
        }
        let mut whole = self.clone();
        for stretch in &next.stretches {
            match whole.stretches.last_mut() {
                Some(last) if last.author == stretch.author && last.first + last.count == stretch.first => {
                    last.count += stretch.count;
                }
                _ => whole.stretches.push(*stretch),
            }
        }
        Some(whole)
    }

    /// The operations with a position after `after`, the record's first one being at `first`.
    fn operations(&self, first: u64, after: u64) -> impl Iterator<Item = Visible> {
        let operations = self.stretches.iter().flat_map(|stretch| {
            let operation = |sequence| OperationRef { author: stretch.author, sequence };
            (stretch.first..stretch.first + stretch.count).map(operation)
        });
        let positions = first..;
        let visible = positions.zip(operations).map(|(position, operation)| Visible { position, operation });
        visible.skip_while(move |visible| visible.position <= after)
    }
}

impl Catalog {
    /// Up to `limit` operations that became visible after position `after`.
    pub(super) fn feed(&self, after: u64, limit: usize) -> Result<Vec<Visible>, IndexError> {
        let mut found = Vec::new();
        let mut damaged = None;
        // The record that holds the next position begins with it or before it.
        let until = after.saturating_add(2).to_be_bytes();
        let from = self.index().last(FEED, &[], Some(&until))?.map(|(suffix, _)| suffix).unwrap_or_default();
        self.index().scan(FEED, &from, None, &mut |suffix, value| {
            let first = suffix.try_into().map(u64::from_be_bytes).ok();
            match (first, decode::<FeedRecord>(value, "the feed")) {
                (Some(first), Ok(record)) => found.extend(record.operations(first, after).take(limit - found.len())),
                _ => damaged = Some(IndexError::Damaged("the feed")),
            }
            if found.len() == limit || damaged.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        damaged.map_or(Ok(found), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_gives_back_its_operations_with_their_positions() {
        let mut record = FeedRecord::default();
        let pushed = [(0, 5), (0, 6), (1, 1), (0, 7)];
        for (author, sequence) in pushed {
            record.push(author, sequence);
        }
        assert_eq!(record.stretches.len(), 3);
        let all = |after| {
            let operations = record.operations(11, after);
            operations.map(|v| (v.position, v.operation.author, v.operation.sequence)).collect::<Vec<_>>()
        };
        assert_eq!(all(0), [(11, 0, 5), (12, 0, 6), (13, 1, 1), (14, 0, 7)]);
        assert_eq!(all(12), [(13, 1, 1), (14, 0, 7)]);
    }

    #[test]
    fn records_go_on_until_they_are_full() {
        let mut whole = FeedRecord::default();
        for sequence in 1..=RECORD_OPERATIONS_MAX {
            let mut next = FeedRecord::default();
            next.push(0, sequence);
            whole = whole.continued(&next).unwrap();
        }
        assert_eq!(whole.stretches, [Stretch { author: 0, first: 1, count: RECORD_OPERATIONS_MAX }]);
        let mut next = FeedRecord::default();
        next.push(1, 1);
        assert_eq!(whole.continued(&next), None);
        let mut apart = FeedRecord::default();
        (0..RECORD_STRETCHES_MAX as u64).for_each(|number| apart.push((number % 2) as AuthorNumber, number));
        assert_eq!(apart.continued(&next), None);
    }
}
