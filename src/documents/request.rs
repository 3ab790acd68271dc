//! What goes into the desk and what comes out of it: the closed vocabulary between callers, desk and space core.
//!
//! ```text
//! caller ── Transact, Query, Watch ──▶ desk ── Commit ──▶ core (seals, signs, chains, makes durable)
//! caller ◀── Answer, Change ────────── desk ◀── Committed, Aborted, Apply ── core
//!                                      desk ── Work ──▶ worker thread ── Worked ──▶ desk
//! ```
//!
//! Nothing is shown before it is durable: an [`Output::Answer`] to a transaction, and every value read, describes
//! operations that the core has reported as written.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::Value;
use syncline_model::{DeviceId, DocumentKey, Entry, Lineage, Past, Transaction};

use super::audit::Comparison;
use super::change::ChangeHash;
use super::edit::Edit;
use super::error::DocumentError;
use super::job::{Job, JobDone};
use super::version::Version;

/// Names a request; chosen by the caller, unique among the requests that are open.
pub type Token = u64;

/// What the desk is told.
#[derive(Debug)]
pub enum Input {
    /// Makes all steps one operation, atomically; answered by [`Answer::Written`] once it is durable.
    Transact {
        /// Names the answer.
        token: Token,
        /// In order; several may concern one document.
        steps: Vec<Step>,
    },
    /// A transaction handed out by [`Output::Commit`] is durable. The core reports them in the order of their output.
    Committed {
        /// The transaction.
        token: Token,
        /// This device.
        author: DeviceId,
        /// Its operation's position in this device's log.
        sequence: u64,
        /// Its causal past, itself included; needed when it deletes a document.
        past: Option<Past>,
    },
    /// A transaction handed out by [`Output::Commit`] will never be written; those stacked on it fail with it.
    Aborted {
        /// The transaction.
        token: Token,
        /// What its caller is told.
        reason: DocumentError,
    },
    /// Admitted operations in causal order, durable and decrypted; those that were applied before are skipped.
    Apply(Vec<Opened>),
    /// Operations of these epochs are passed over, since their keys are not here; comes before the
    /// [`Input::Apply`] of what follows them. Forgotten by [`Input::Rebuild`].
    LeaveOut(BTreeSet<u32>),
    /// Forgets all that is derived from operations, to be followed by [`Input::Apply`] of all of them: operations
    /// lost their admission, or became readable after later ones of their author had been applied.
    Rebuild,
    /// Lets go of documents if more are in memory than should be. Every other input does so as well.
    MakeRoom,
    /// Asks for something; answered by one [`Output::Answer`].
    Query {
        /// Names the answer.
        token: Token,
        /// The question.
        query: Query,
    },
    /// Opens a stream of [`Output::Change`], answered first by [`Answer::Watching`].
    Watch {
        /// Names the stream.
        token: Token,
        /// Only keys that begin with this text.
        prefix: String,
        /// Resume after this version instead of starting at the present.
        since: Option<Version>,
        /// Whether events carry the document's value.
        values: bool,
    },
    /// Credit for more events: the reader of the stream has taken `events` of them. A stream whose reader falls behind
    /// pauses and later goes on from the feed, so that nothing is lost and nothing piles up.
    Taken {
        /// The stream.
        token: Token,
        /// How many events.
        events: usize,
    },
    /// Ends a stream.
    Unwatch {
        /// The stream.
        token: Token,
    },
    /// Gives up a query, or a transaction that was not handed to the core yet; answered by
    /// [`DocumentError::Cancelled`] if it was still open.
    Cancel {
        /// The request.
        token: Token,
    },
    /// A job of [`Output::Work`] is done.
    Worked(JobDone),
    /// Answers everything open with [`DocumentError::Stopping`] and keeps what is worth keeping for the next start.
    Close,
}

/// One step of a transaction.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Edits a document; one that does not exist begins empty.
    Edit {
        /// Which document.
        key: DocumentKey,
        /// What to do.
        edit: Edit,
    },
    /// Deletes a document; edits of it in later steps begin a new one.
    Delete {
        /// Which document.
        key: DocumentKey,
    },
    /// Takes in raw Automerge changes made by another program; each becomes an entry of the operation.
    Foreign {
        /// Which document.
        key: DocumentKey,
        /// Raw change chunks, each after those that it depends on.
        changes: Vec<Vec<u8>>,
    },
}

impl Step {
    /// The document that the step concerns.
    pub fn key(&self) -> &DocumentKey {
        match self {
            Self::Edit { key, .. } | Self::Delete { key } | Self::Foreign { key, .. } => key,
        }
    }
}

/// An admitted operation with its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// The log that it is in: its author's, or a branch of that.
    pub author: DeviceId,
    /// Who wrote it.
    pub writer: DeviceId,
    /// Its position in its author's log.
    pub sequence: u64,
    /// Its author's wall time in milliseconds since 1970.
    pub wall_time_ms: u64,
    /// From which `actor` is derived.
    pub lineage: Lineage,
    /// The Automerge actor of its changes, as computed from space, author and lineage.
    pub actor: [u8; 20],
    /// What it does to documents.
    pub entries: Vec<Entry>,
    /// Its causal past, itself included; given when an entry deletes.
    pub past: Option<Past>,
    /// Whether this device wrote it (before a restart or a rebuild).
    pub own: bool,
}

/// A question about documents.
#[derive(Debug, Clone, PartialEq)]
pub enum Query {
    /// The value of a document; answered by [`Answer::Document`].
    Get {
        /// Which document.
        key: DocumentKey,
        /// Answer only when this version is visible.
        wait_for: Option<Version>,
    },
    /// The keys that exist, in order; answered by [`Answer::List`].
    List {
        /// Only keys that begin with this text.
        prefix: String,
        /// Only keys after this one.
        after: Option<DocumentKey>,
        /// How many at most; more than a named maximum is cut to it.
        limit: usize,
        /// Whether to add the documents' values.
        values: bool,
    },
    /// The changes of a document, newest first; answered by [`Answer::History`].
    History {
        /// Which document.
        key: DocumentKey,
        /// Continue after this change.
        after: Option<ChangeHash>,
        /// How many at most.
        limit: usize,
    },
    /// The value of a document as of some of its changes; answered by [`Answer::Document`].
    ValueAt {
        /// Which document.
        key: DocumentKey,
        /// The changes, with all that they depend on.
        heads: Vec<ChangeHash>,
    },
    /// Places with several concurrent values, and blocked changes; answered by [`Answer::Conflicts`].
    Conflicts {
        /// Which documents.
        within: ConflictScope,
    },
    /// The changes of a document as raw chunks, for programs that speak Automerge; answered by [`Answer::Chunks`].
    Chunks {
        /// Which document.
        key: DocumentKey,
        /// What the asker holds already.
        heads: Vec<ChangeHash>,
    },
    /// What became visible after a version; answered by [`Answer::Changes`].
    Changes {
        /// After which version; `None`: from the beginning.
        since: Option<Version>,
        /// How many events at most; a page ends with a whole operation.
        limit: usize,
    },
    /// The present version, once it has reached the given one; answered by [`Answer::Version`].
    Version {
        /// Answer only when this version is visible.
        wait_for: Option<Version>,
    },
    /// What is kept of a document against what its operations give; answered by [`Answer::Compared`].
    Compare {
        /// Which document.
        key: DocumentKey,
    },
    /// Figures about the space's documents; answered by [`Answer::Stats`].
    Stats,
}

/// Where to look for conflicts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConflictScope {
    /// In one document.
    Document(DocumentKey),
    /// In a page of the documents whose keys begin with a text.
    Page {
        /// Only keys that begin with this text.
        prefix: String,
        /// Only keys after this one.
        after: Option<DocumentKey>,
        /// How many documents to look at, at most.
        limit: usize,
    },
}

/// What the desk wants done.
#[derive(Debug)]
pub enum Output {
    /// Seal, sign, chain and make durable, in the order of output; then [`Input::Committed`] or [`Input::Aborted`].
    Commit {
        /// The transaction.
        token: Token,
        /// Its content.
        transaction: Transaction,
    },
    /// The answer to a request.
    Answer {
        /// The request.
        token: Token,
        /// What came of it.
        result: Result<Answer, DocumentError>,
    },
    /// Something became visible to a watcher.
    Change {
        /// The stream.
        token: Token,
        /// In visible order.
        events: Vec<ChangeEvent>,
    },
    /// A stream ended; resume with the version.
    Unwatched {
        /// The stream.
        token: Token,
        /// All events up to here were given.
        resume: Version,
        /// Why it ended.
        reason: DocumentError,
    },
    /// Run the job on a worker thread and return what it gives by [`Input::Worked`].
    Work(Job),
    /// Flow credit: so many operations of [`Input::Apply`] are recorded.
    Applied {
        /// How many.
        operations: usize,
    },
}

/// What a request is answered with.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Answer {
    /// The transaction is durable.
    Written(Written),
    /// A document.
    Document(DocumentView),
    /// A page of keys.
    List(List),
    /// A page of a document's history.
    History(Vec<HistoryItem>),
    /// Conflicts and blocked changes.
    Conflicts(ConflictPage),
    /// Raw change chunks.
    #[serde(skip)]
    Chunks(Chunks),
    /// A page of changes.
    Changes(ChangePage),
    /// The present version.
    Version(Version),
    /// A stream began.
    Watching(Version),
    /// Whether a document is what its operations give.
    Compared(Comparison),
    /// Figures.
    Stats(Stats),
}

/// What a transaction became.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Written {
    /// The first version that shows it.
    pub version: Version,
    /// Its operation's position in this device's log; `None` if everything already was as wanted.
    pub sequence: Option<u64>,
    /// The documents that it changed, each with the heads it got, in key order; a deleted one has none.
    pub documents: Vec<WrittenDocument>,
}

/// One document of a written transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WrittenDocument {
    /// Which document.
    pub key: DocumentKey,
    /// The Automerge change that was made; none when the document was deleted.
    #[serde(serialize_with = "optional_hash_as_text")]
    pub change: Option<ChangeHash>,
    /// The Automerge heads right after the transaction; empty when it was deleted.
    #[serde(serialize_with = "hashes_as_text")]
    pub heads: Vec<ChangeHash>,
}

/// A document as it can be read.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DocumentView {
    /// Which document.
    pub key: DocumentKey,
    /// A JSON object.
    pub value: Value,
    /// The version of the space that it was read at.
    pub version: Version,
    /// The Automerge heads that name the document's state.
    #[serde(serialize_with = "hashes_as_text")]
    pub heads: Vec<ChangeHash>,
}

/// A page of keys.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct List {
    /// In key order.
    pub items: Vec<ListItem>,
    /// Pass it as `after` for the next page; `None` at the end. A page may be short of the limit and yet not the last.
    pub next: Option<DocumentKey>,
    /// The version of the space that the keys were read at.
    pub version: Version,
}

/// One document in a list.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ListItem {
    /// Its key.
    pub key: DocumentKey,
    /// Its value, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
    /// Why its value cannot be given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// One change in a document's history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HistoryItem {
    /// Names the change.
    #[serde(serialize_with = "hash_as_text")]
    pub hash: ChangeHash,
    /// The Automerge actor, in hexadecimal.
    pub actor: String,
    /// Position among the changes of its actor.
    pub sequence: u64,
    /// The changes that it was made on top of.
    #[serde(serialize_with = "hashes_as_text")]
    pub dependencies: Vec<ChangeHash>,
    /// How many Automerge operations it holds.
    pub operations: u64,
    /// Which operation carries it, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub carried_by: Option<Carrier>,
    /// The message that its author gave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// The operation that carries a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Carrier {
    /// Who wrote it.
    #[serde(serialize_with = "as_text")]
    pub author: DeviceId,
    /// Its position in its author's log.
    pub sequence: u64,
    /// Its author's wall time in milliseconds since 1970.
    pub wall_time_ms: u64,
}

/// Conflicts of one or several documents.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ConflictPage {
    /// The documents that have any, in key order.
    pub documents: Vec<DocumentConflicts>,
    /// Pass it as `after` for the next page; `None` at the end.
    pub next: Option<DocumentKey>,
}

/// What disagrees in one document.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DocumentConflicts {
    /// Which document.
    pub key: DocumentKey,
    /// Places with several values.
    pub places: Vec<ConflictPlace>,
    /// Changes that are not part of the document.
    pub blocked: Vec<BlockedChange>,
}

/// A place where concurrent writes left several values.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ConflictPlace {
    /// The JSON pointer of the place.
    pub path: String,
    /// All values, the winner last.
    pub values: Vec<ConflictChoice>,
}

/// One of the values at a place.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ConflictChoice {
    /// The value.
    pub value: Value,
    /// Whether readers see this one.
    pub winner: bool,
    /// The Automerge actor that wrote it, in hexadecimal.
    pub actor: String,
    /// The Automerge operation that wrote it.
    pub operation: String,
}

/// A change that an admitted operation carries but that is not part of its document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BlockedChange {
    /// Who wrote the operation.
    #[serde(serialize_with = "as_text")]
    pub author: DeviceId,
    /// The operation's position in its author's log.
    pub sequence: u64,
    /// What is wrong.
    pub reason: String,
}

/// Raw change chunks of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunks {
    /// In a usable order.
    pub changes: Vec<Vec<u8>>,
    /// The heads of the document.
    pub heads: Vec<ChangeHash>,
}

/// A page of what became visible.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChangePage {
    /// In visible order.
    pub events: Vec<ChangeEvent>,
    /// Pass it as `since` for what follows.
    pub version: Version,
    /// Whether more was visible already.
    pub more: bool,
}

/// A document changed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChangeEvent {
    /// Which document.
    pub key: DocumentKey,
    /// Whether the document does not exist now.
    pub deleted: bool,
    /// The first version that shows it.
    pub version: Version,
    /// Who wrote the operation.
    #[serde(serialize_with = "as_text")]
    pub author: DeviceId,
    /// The operation's position in its author's log.
    pub sequence: u64,
    /// The author's wall time in milliseconds since 1970.
    pub wall_time_ms: u64,
    /// The document's value at this version or a later one, if asked for; none when it cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
}

/// Figures about the documents of a space.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// The present version.
    pub version: Version,
    /// Documents that exist.
    pub documents: u64,
    /// Documents held in memory.
    pub loaded: usize,
    /// What those take, in bytes, roughly.
    pub loaded_bytes: usize,
    /// Transactions that are not durable yet.
    pub pending_transactions: usize,
    /// Streams that are open.
    pub watchers: usize,
    /// Documents with blocked changes.
    pub blocked_documents: usize,
    /// Jobs that are out on workers.
    pub jobs: usize,
}

fn as_text<S: Serializer>(value: &impl fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn hash_as_text<S: Serializer>(hash: &ChangeHash, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&data_encoding::HEXLOWER.encode(hash))
}

fn optional_hash_as_text<S: Serializer>(hash: &Option<ChangeHash>, serializer: S) -> Result<S::Ok, S::Error> {
    match hash {
        Some(hash) => hash_as_text(hash, serializer),
        None => serializer.serialize_none(),
    }
}

fn hashes_as_text<S: Serializer>(hashes: &[ChangeHash], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(hashes.iter().map(|hash| data_encoding::HEXLOWER.encode(hash)))
}
