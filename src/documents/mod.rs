//! Documents: JSON-like values that merge, each an Automerge document.
//!
//! A [`Document`] is pure: bytes and edits in, bytes and values out; no clock, no files, no network. It makes local
//! edits into changes ([`Document::edit`]), takes in checked changes of others ([`Document::apply`]), and shows its
//! value, conflicts and history. A transaction on a document is exactly one Automerge change, carried as a raw,
//! uncompressed change chunk.
//!
//! Automerge trusts its input, so everything from outside is judged here first: see [`parse_change`] for a change by
//! itself, [`Document::apply`] for a change in its document, and [`select`] for changes that contradict each other.
//! Panics inside Automerge are caught; a build must therefore unwind on panic.

mod change;
mod columns;
mod conflicts;
mod difference;
mod document;
mod edit;
mod first;
mod history;
pub mod limits;
mod order;
mod pointer;
mod put;
mod receive;
mod select;
mod view;

#[cfg(test)]
pub(crate) mod tests;

pub use change::{ChangeError, ChangeHash, ChangeHeader, parse_change, parse_hash};
pub use conflicts::{Conflict, ConflictValue};
pub use document::{Document, LoadError};
pub use edit::{Edit, EditError, EditedChange, StringMode};
pub use history::{HistoryEntry, HistoryError, HistoryOrder};
pub use pointer::{Pointer, PointerError};
pub use receive::{Applied, IncomingChange, Received, Rejected};
pub use select::{Blocked, Selection, select};
pub use view::BYTES_KEY;

// The desk: the documents of one space over its index and log.
mod assemble;
mod audit;
mod budget;
mod cache;
mod catalog;
mod desk;
mod error;
mod feed;
mod job;
mod operations;
mod recent;
mod request;
mod rewriting;
mod snapshot;
mod version;

pub use audit::{AuditStart, Comparison, ReferenceSum, SumPage, Tally};
pub use budget::CacheBudget;
pub use desk::{CACHE_BYTES, Desk, DeskConfig, LARGE_DOCUMENT_BYTES};
pub use error::DocumentError;
pub use job::{Job, JobDone};
pub use operations::{Content, LogOperations, Opener, Operations, ReadError};
pub use request::{
    Answer, BlockedChange, Carrier, ChangeEvent, ChangePage, Chunks, ConflictChoice, ConflictPage, ConflictPlace,
    ConflictScope, DocumentConflicts, DocumentView, HistoryItem, Input, List, ListItem, Opened, Output, Query, Stats,
    Step, Token, Written, WrittenDocument,
};
pub use rewriting::{Rewriting, Rewritten};
pub use version::{Incarnation, Version, VersionError};
