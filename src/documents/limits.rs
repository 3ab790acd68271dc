//! Every maximum of this folder.
//!
//! Limits that decide whether a remote change is accepted are part of the protocol: two replicas with
//! different values would keep different documents.

/// Length in bytes of the actors that this product derives for its own changes.
pub const ACTOR_BYTES: usize = 20;

/// Longest actor id accepted from other Automerge programs, in bytes.
pub const MAX_ACTOR_BYTES: usize = 128;

/// Largest change chunk, in bytes.
pub const MAX_CHANGE_BYTES: usize = 8 << 20;

/// Most operations in one change; a run-length encoded change of a hundred bytes can claim any number of them.
pub const MAX_OPERATIONS: u64 = 1 << 19;

/// Most predecessors that the operations of one change name together.
pub const MAX_PREDECESSORS: u64 = 1 << 20;

/// Most bytes of map keys, or of mark names, once the run-length encoding of one change is undone.
pub const MAX_INFLATED_NAME_BYTES: u64 = 32 << 20;

/// Most dependencies of one change.
pub const MAX_DEPENDENCIES: u64 = 4096;

/// Most other actors that one change refers to.
pub const MAX_OTHER_ACTORS: u64 = 65_536;

/// Most columns in one change; the format defines fourteen.
pub const MAX_COLUMNS: u64 = 32;

/// Longest commit message, in bytes.
pub const MAX_MESSAGE_BYTES: u64 = 64 << 10;

/// Most bytes that follow the columns of a change (Automerge keeps an author there).
pub const MAX_EXTRA_BYTES: usize = 4096;

/// Highest operation counter; Automerge keeps counters in 32 bits, and half of them stay free for arithmetic on it.
pub const MAX_OPERATION_COUNTER: u64 = (1 << 31) - 1;

/// How far a change of another Automerge program may start beyond its dependencies.
///
/// Such programs number an edit of an old version after everything that they hold, so a gap is legal; without a
/// bound one change could use up the counters of a document.
pub const MAX_OPERATION_GAP: u64 = 1 << 22;

/// Most changes that one call of `Document::apply` takes.
pub const MAX_CHANGES_PER_APPLY: usize = 4096;

/// Deepest nesting of a value: written values may not exceed it, read values are cut there.
pub const MAX_DEPTH: usize = 64;

/// Longest JSON pointer, in bytes.
pub const MAX_POINTER_BYTES: usize = 64 << 10;

/// Largest snapshot that is loaded, in bytes.
pub const MAX_SNAPSHOT_BYTES: usize = 1 << 30;

/// Most insertions and deletions searched for between two texts or lists; past it the differing part is replaced.
pub const MAX_EDIT_DISTANCE: usize = 256;

/// Most conflicts listed at once.
pub const MAX_CONFLICTS: usize = 1000;

/// Most entries in one page of history.
pub const MAX_HISTORY_PAGE: usize = 1000;
