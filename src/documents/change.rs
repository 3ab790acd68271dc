//! One Automerge change as it travels: a raw, uncompressed change chunk.
//!
//! Automerge trusts its input. [`parse_change`] is the edge where bytes of strangers become a change: it surveys
//! the bytes within limits, lets Automerge decode them behind a panic guard, and checks the checksum, which
//! Automerge leaves unchecked for single changes.

use std::panic::{AssertUnwindSafe, catch_unwind};

use automerge::Change;

use super::columns::survey;
use super::limits::MAX_OPERATION_COUNTER;

/// The SHA-256 by which Automerge names a change.
pub type ChangeHash = [u8; 32];

/// The hash that a text of 64 hexadecimal characters spells out.
pub fn parse_hash(text: &str) -> Option<ChangeHash> {
    data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()?.try_into().ok()
}

/// The part of a change that the rules of order and admission look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeHeader {
    /// Names the change.
    pub hash: ChangeHash,
    /// The Automerge actor that made it.
    pub actor: Vec<u8>,
    /// Position among the changes of its actor, from 1.
    pub sequence: u64,
    /// Counter of its first operation.
    pub start_op: u64,
    /// The changes that it was made on top of.
    pub dependencies: Vec<ChangeHash>,
    /// How many operations it holds.
    pub operations: u64,
}

impl ChangeHeader {
    /// Counter of its last operation; one less than `start_op` for an empty change.
    pub fn max_op(&self) -> u64 {
        (self.start_op + self.operations).saturating_sub(1)
    }
}

/// Why bytes are not one acceptable change; the sender is at fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// The chunk is a document, a deflated change, a bundle or unknown.
    #[error("chunk type {0} is not accepted: send each change as a raw, uncompressed change chunk (type 1)")]
    NotAPlainChange(u8),
    /// Bytes follow the chunk.
    #[error("bytes follow the change: send one change at a time")]
    TrailingBytes,
    /// A column inside the change is deflated.
    #[error("the change holds a compressed column: send it uncompressed")]
    CompressedColumn,
    /// A column is not part of the format known to this release.
    #[error("the change holds the unknown column {0:#x}: update this node if it comes from a newer Automerge")]
    UnknownColumn(u64),
    /// Something exceeds its limit.
    #[error("the change exceeds the limit of {limit} for {what}: split it into smaller changes")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The bytes are damaged or invented.
    #[error("the change is malformed: {0}")]
    Malformed(&'static str),
    /// Automerge cannot decode the chunk.
    #[error("Automerge cannot decode the change: {0}")]
    Undecodable(String),
}

/// Reads the header of one change chunk after checking all of the chunk.
///
/// # Errors
/// Anything but one plain change within the limits of [`super::limits`] is refused. Never panics.
pub fn parse_change(chunk: &[u8]) -> Result<ChangeHeader, ChangeError> {
    ParsedChange::parse(chunk).map(|parsed| parsed.header)
}

/// A change that decodes, together with what was learned on the way.
#[derive(Debug, Clone)]
pub(super) struct ParsedChange {
    pub(super) header: ChangeHeader,
    pub(super) change: Change,
    pub(super) has_references: bool,
    pub(super) has_marks: bool,
}

impl ParsedChange {
    pub(super) fn parse(chunk: &[u8]) -> Result<Self, ChangeError> {
        let survey = survey(chunk)?;
        let change = catch_unwind(AssertUnwindSafe(|| Change::try_from(chunk)))
            .map_err(|_| ChangeError::Malformed("Automerge failed on it"))?
            .map_err(|error| ChangeError::Undecodable(error.to_string()))?;
        let header = header_of(&change);
        if header.hash[..4] != survey.checksum {
            return Err(ChangeError::Malformed("its checksum does not match"));
        }
        if header.sequence == 0 || header.max_op() > MAX_OPERATION_COUNTER {
            return Err(ChangeError::TooLarge { what: "operation counter", limit: MAX_OPERATION_COUNTER });
        }
        // Automerge writes the author once; a second one makes it refuse the whole batch.
        if header.sequence != 1 && change.author().is_some() {
            return Err(ChangeError::Malformed("only the first change of an actor names its author"));
        }
        let (has_references, has_marks) = (survey.has_references, survey.has_marks);
        Ok(Self { header, change, has_references, has_marks })
    }
}

/// The header of a change that Automerge holds.
pub(super) fn header_of(change: &Change) -> ChangeHeader {
    ChangeHeader {
        hash: change.hash().0,
        actor: change.actor_id().to_bytes().to_vec(),
        sequence: change.seq(),
        start_op: change.start_op().get(),
        dependencies: change.deps().iter().map(|hash| hash.0).collect(),
        operations: change.len() as u64,
    }
}
