//! What happened to a document: its changes in order, and its value at any of them.

use automerge::{Automerge, ChangeMetadata};
use serde_json::Value;

use super::change::ChangeHash;
use super::document::Document;
use super::limits::MAX_HISTORY_PAGE;
use super::view::Reader;

/// One change in the history of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// Names the change.
    pub hash: ChangeHash,
    /// The Automerge actor that made it.
    pub actor: Vec<u8>,
    /// Position among the changes of its actor.
    pub sequence: u64,
    /// The changes that it was made on top of.
    pub dependencies: Vec<ChangeHash>,
    /// How many operations it holds.
    pub operations: u64,
    /// Seconds since 1970 as its author claims; our own changes say 0, their operation carries the time.
    pub time: i64,
    /// The message its author gave.
    pub message: Option<String>,
}

/// Which end of the history comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HistoryOrder {
    /// From the first change on.
    #[default]
    OldestFirst,
    /// From the last change back.
    NewestFirst,
}

/// Why a page of history or an old value cannot be given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HistoryError {
    /// A named change is not part of the document.
    #[error("the document holds no change {0}: take the hashes from its history")]
    UnknownChange(String),
}

impl Document {
    /// A page of the history: up to `limit` entries after the change `after`.
    ///
    /// Every change comes after its dependencies, and all replicas with the same changes show the same order.
    ///
    /// # Errors
    /// [`HistoryError::UnknownChange`] if `after` is not part of the document.
    pub fn history(
        &self,
        order: HistoryOrder,
        after: Option<&ChangeHash>,
        limit: usize,
    ) -> Result<Vec<HistoryEntry>, HistoryError> {
        let mut changes = self.automerge().get_changes_meta(&[]);
        // Operation counters grow along dependencies, so this order respects them.
        changes.sort_unstable_by(|a, b| (a.start_op, &a.actor, a.seq).cmp(&(b.start_op, &b.actor, b.seq)));
        if order == HistoryOrder::NewestFirst {
            changes.reverse();
        }
        let start = match after {
            None => 0,
            Some(after) => {
                let position = changes.iter().position(|change| change.hash.0 == *after);
                position.ok_or_else(|| unknown(after))? + 1
            }
        };
        Ok(changes.iter().skip(start).take(limit.min(MAX_HISTORY_PAGE)).map(entry).collect())
    }

    /// The value of the document as of the given changes and all that they depend on.
    ///
    /// # Errors
    /// [`HistoryError::UnknownChange`] if one of them is not part of the document.
    pub fn view_at(&self, heads: &[ChangeHash]) -> Result<Value, HistoryError> {
        let heads = self.known(heads)?;
        Ok(Reader::at(self.automerge(), &heads).root())
    }

    /// The raw chunks of the changes that are not among `heads` and their dependencies, in a usable order.
    ///
    /// # Errors
    /// [`HistoryError::UnknownChange`] if one of `heads` is not part of the document.
    pub fn changes_since(&self, heads: &[ChangeHash]) -> Result<Vec<Vec<u8>>, HistoryError> {
        let heads = self.known(heads)?;
        Ok(self.automerge().get_changes(&heads).iter().map(|change| change.raw_bytes().to_vec()).collect())
    }

    /// The raw chunk of one change.
    pub fn change(&self, hash: &ChangeHash) -> Option<Vec<u8>> {
        use automerge::ReadDoc;
        let change = self.automerge().get_change_by_hash(&automerge::ChangeHash(*hash))?;
        Some(change.raw_bytes().to_vec())
    }

    fn known(&self, heads: &[ChangeHash]) -> Result<Vec<automerge::ChangeHash>, HistoryError> {
        heads
            .iter()
            .map(|hash| {
                let found = holds(self.automerge(), hash);
                found.then_some(automerge::ChangeHash(*hash)).ok_or_else(|| unknown(hash))
            })
            .collect()
    }
}

fn holds(document: &Automerge, hash: &ChangeHash) -> bool {
    document.get_change_meta_by_hash(&automerge::ChangeHash(*hash)).is_some()
}

fn unknown(hash: &ChangeHash) -> HistoryError {
    HistoryError::UnknownChange(data_encoding::HEXLOWER.encode(hash))
}

fn entry(change: &ChangeMetadata<'_>) -> HistoryEntry {
    HistoryEntry {
        hash: change.hash.0,
        actor: change.actor.to_bytes().to_vec(),
        sequence: change.seq,
        dependencies: change.deps.iter().map(|hash| hash.0).collect(),
        operations: (change.max_op + 1).saturating_sub(change.start_op),
        time: change.timestamp,
        message: change.message.as_ref().map(ToString::to_string),
    }
}
