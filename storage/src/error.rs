//! What can go wrong with a data directory or a log, and what to do about it.

use std::io;
use std::path::PathBuf;

use syncline_model::{DeviceId, SpaceId};

use crate::disk::is_full;
use crate::index::IndexError;
use crate::position::Position;

/// Why a call on a [`Store`](crate::Store), a [`SpaceLog`](crate::SpaceLog) or a [`LogReader`](crate::LogReader)
/// failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// The operating system refused something.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or directory.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The disk is as good as full: writes are refused, reads go on.
    #[error("the disk is full ({available} bytes free, {needed} needed): free some space, reading still works")]
    Full {
        /// Bytes that are free.
        available: u64,
        /// Bytes that have to be free.
        needed: u64,
    },
    /// The disk is so full that the index cannot be opened, and there is no reserve left to give up.
    #[error(
        "the disk is full ({available} bytes free) and the index cannot be opened: free some space and start again; \
         nothing is lost"
    )]
    NoRoomToOpen {
        /// Bytes that are free.
        available: u64,
    },
    /// The log stopped taking writes, because what it wrote may not be durable.
    #[error(
        "the log of space {} stopped after a failure: {reason}; restart to recover what reached the disk",
        space.short()
    )]
    Poisoned {
        /// The space.
        space: SpaceId,
        /// The first failure.
        reason: String,
    },
    /// A stored record is damaged; it was put in quarantine and later reads leave it out.
    #[error(
        "the record at {position} in the log of space {} is damaged (operations {first} to {last} of {author:?}): \
         it is left out from now on and can be fetched again from a peer",
        space.short()
    )]
    Damaged {
        /// The space.
        space: SpaceId,
        /// Where the record stands.
        position: Position,
        /// Whose operations it held.
        author: DeviceId,
        /// The first sequence it held.
        first: u64,
        /// The last sequence it held.
        last: u64,
    },
    /// The index failed; it is made anew at the next start.
    #[error("the index failed and will be rebuilt from the log at the next start; restart now: {0}")]
    Index(#[from] IndexError),
    /// Another process holds the data directory.
    #[error("{path} is in use by {holder}: stop it, or choose another directory with --data")]
    InUse {
        /// The data directory.
        path: PathBuf,
        /// The process, as far as it is known.
        holder: String,
    },
    /// There is no data directory where one was expected.
    #[error("there is no data directory at {path}: check the path given with --data, or create one")]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The directory holds something else.
    #[error("{path} is not a data directory and not empty: choose another directory with --data")]
    NotADataDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// A backup was being restored into the directory and that was cut short.
    #[error("a restore into this data directory was cut short: remove the directory and restore the backup again")]
    HalfRestored,
    /// The data directory is of a format that this release no longer opens.
    #[error(
        "the data directory has format {found}, this release opens {oldest} and later: open it with an earlier \
        release first, which brings it up to date"
    )]
    OlderFormat {
        /// Its format.
        found: u32,
        /// The oldest format known here.
        oldest: u32,
    },
    /// Written by a newer release.
    #[error("{what} has format {found}, this release knows up to {known}: update Syncline")]
    NewerFormat {
        /// What was read.
        what: String,
        /// Its format.
        found: u32,
        /// The newest format known here.
        known: u32,
    },
    /// A marker or header that cannot be understood.
    #[error("{path} is damaged: {reason}")]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        reason: &'static str,
    },
    /// The space is not in this data directory.
    #[error("space {} is not stored here", .0.short())]
    UnknownSpace(SpaceId),
    /// The space is already in this data directory.
    #[error("space {} is already stored here", .0.short())]
    SpaceExists(SpaceId),
    /// The space's log is open, and a log has one writer.
    #[error("the log of space {} is open already", .0.short())]
    SpaceOpen(SpaceId),
    /// Something that belongs to another space was handed in or found.
    #[error("{what} belongs to space {}, not to {}", found.short(), expected.short())]
    WrongSpace {
        /// What it is.
        what: &'static str,
        /// The space it belongs to.
        found: SpaceId,
        /// The space it was used for.
        expected: SpaceId,
    },
    /// More bytes than a named limit allows.
    #[error("{what} takes {size} bytes, more than the limit of {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// A name that cannot be that of a small file.
    #[error("`{0}` cannot be a file name here: use lower-case letters, digits, `-`, `_` and `.`, no leading `.`")]
    BadName(String),
}

impl StorageError {
    pub(crate) fn io(action: &'static str, path: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| {
            if is_full(&source) { Self::Full { available: 0, needed: 1 } } else { Self::Io { action, path, source } }
        }
    }
}
