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

/// The operations of one batch, in visible order. The position of the last is in the record's key.
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

    /// The operations with a position after `after`, the record's last one being at `end`.
    fn operations(&self, end: u64, after: u64) -> impl Iterator<Item = Visible> {
        let count: u64 = self.stretches.iter().map(|stretch| stretch.count).sum();
        let operations = self.stretches.iter().flat_map(|stretch| {
            let operation = |sequence| OperationRef { author: stretch.author, sequence };
            (stretch.first..stretch.first + stretch.count).map(operation)
        });
        let positions = end.saturating_sub(count) + 1..;
        let visible = positions.zip(operations).map(|(position, operation)| Visible { position, operation });
        visible.skip_while(move |visible| visible.position <= after)
    }
}

impl Catalog {
    /// Up to `limit` operations that became visible after position `after`.
    pub(super) fn feed(&self, after: u64, limit: usize) -> Result<Vec<Visible>, IndexError> {
        let mut found = Vec::new();
        let mut damaged = None;
        let from = after.saturating_add(1).to_be_bytes();
        self.index().scan(FEED, &from, None, &mut |suffix, value| {
            let end = suffix.try_into().map(u64::from_be_bytes).ok();
            match (end, decode::<FeedRecord>(value, "the feed")) {
                (Some(end), Ok(record)) => found.extend(record.operations(end, after).take(limit - found.len())),
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
            let operations = record.operations(14, after);
            operations.map(|v| (v.position, v.operation.author, v.operation.sequence)).collect::<Vec<_>>()
        };
        assert_eq!(all(0), [(11, 0, 5), (12, 0, 6), (13, 1, 1), (14, 0, 7)]);
        assert_eq!(all(12), [(13, 1, 1), (14, 0, 7)]);
    }
}
