//! What a caller is told when the desk does not do what it was asked for.

use syncline_model::DocumentKey;
use syncline_storage::NoRoom;

use super::edit::EditError;
use super::version::Version;

/// Why a request was not fulfilled; the variants differ in what the caller does next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// There is no such document: create it, or correct the key.
    #[error("there is no document `{key}`")]
    NotFound {
        /// The key asked for.
        key: DocumentKey,
    },
    /// A step cannot be made: correct it.
    #[error("step {step} on `{key}`: {source}")]
    BadEdit {
        /// Which step of the transaction, from 0.
        step: usize,
        /// Its document.
        key: DocumentKey,
        /// What is wrong with it.
        source: Box<EditError>,
    },
    /// A change made elsewhere cannot be part of the document: the program that made it has to be corrected.
    #[error("step {step} on `{key}`, change {change}: {reason}")]
    BadChange {
        /// Which step of the transaction, from 0.
        step: usize,
        /// Its document.
        key: DocumentKey,
        /// Which of its changes, from 0.
        change: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The request exceeds a limit: split it.
    #[error("too many {what} in one request: at most {limit}, so split it")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// This device may write to the space no more: it was removed, or its log was cut or forked.
    #[error("{reason}")]
    LostRight {
        /// Why.
        reason: String,
    },
    /// This device may not write to the space: ask a steward for the role.
    #[error("this device may not write here: it is a {role} of the space; ask the steward for the role of writer")]
    NotWritable {
        /// The role it has.
        role: &'static str,
    },
    /// The document holds a named change no more, or never did: take hashes from its history.
    #[error("`{key}` holds no change {hash}: take the hashes from its history")]
    UnknownChange {
        /// The document.
        key: DocumentKey,
        /// The change, in hexadecimal.
        hash: String,
    },
    /// The version comes from another replica, or from before this one was rebuilt: read again and go on from there.
    #[error("version {version} is not of this replica's present order: read anew and continue from the version given")]
    ForeignVersion {
        /// The version passed.
        version: Version,
    },
    /// This device cannot write until something comes from a peer: repeat it then.
    #[error("nothing was written: {reason}")]
    NotYet {
        /// What it waits for.
        reason: String,
    },
    /// A transaction that this one was made on top of was not written: make it again.
    #[error("an earlier transaction on `{key}` was not written, so this one was not either: repeat it")]
    Undone {
        /// A document that both touch.
        key: DocumentKey,
    },
    /// Too much is open at once: wait and repeat.
    #[error("the node is busy: {what} are limited to {limit} at once; repeat later")]
    Overloaded {
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// The document cannot be read from what is stored here: repair the space or fetch it again.
    #[error("`{key}` cannot be read: {reason}; run a repair of the space")]
    Damaged {
        /// The document.
        key: DocumentKey,
        /// What failed.
        reason: String,
    },
    /// There is no room for anything new: make some, and repeat.
    #[error("nothing was written: {0}")]
    NoRoom(NoRoom),
    /// The local storage failed: see the node's log.
    #[error("the local storage failed: {reason}")]
    Storage {
        /// What failed.
        reason: String,
    },
    /// A damaged record was met, keys came late, or the disk was full, and the documents began anew: repeat.
    #[error(
        "the space was opened again in the middle of this, after damage on the disk, on a full disk or for new keys: \
         repeat it"
    )]
    BegunAnew,
    /// The request was given up.
    #[error("the request was cancelled")]
    Cancelled,
    /// The space is closing: connect again later.
    #[error("the node is closing the space")]
    Stopping,
}
