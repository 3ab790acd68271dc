//! Backups: the logs of spaces and some small files as one stream, and back.
//!
//! ```text
//! backup     = "syncline backup\n" (16) ‖ version u32 ‖ frame …
//! frame      = kind u8 ‖ length u32 ‖ body
//!   1 file       whose u8 (0 the node, 1 the space before) ‖ name length u8 ‖ name ‖ bytes
//!   2 space      space id (32); its files and runs follow
//!   3 runs       (length u32 ‖ run) …, in order of arrival
//!   4 space end  runs u64 ‖ operations u64
//!   5 checkpoint hash (32)
//!   6 end        spaces u64 ‖ runs u64 ‖ operations u64, followed by one checkpoint
//! ```
//!
//! Integers are little-endian. A checkpoint's hash is BLAKE3 over the hash of the one before, nothing in the first, and
//! all bytes since: the last one covers the whole backup, and a check that was cut short goes on at any of them.
//! Runs carry their signatures and are verified again when they are read, so a backup can withhold but not forge.
//!
//! A backup of a space is a prefix of its log in order of arrival, taken beside its writer. Which small files go in,
//! and how they are sealed, is for whoever writes it to say; a restored log gets a new incarnation.

mod reading;
mod restoring;
mod writing;

use syncline_model::SpaceId;
use syncline_model::limits::RUN_ENCODED_BYTES_MAX;

pub use self::reading::{BackupItem, BackupReader};
pub use self::restoring::{RestoreFile, restore};
pub use self::writing::BackupWriter;
use crate::error::StorageError;
use crate::small_files::SMALL_FILE_BYTES_MAX;

const MAGIC: &[u8; 16] = b"syncline backup\n";
const VERSION: u32 = 1;
/// Bytes before the first frame.
const FRONT_BYTES: usize = MAGIC.len() + 4;
const FRAME_HEADER_BYTES: usize = 5;
/// About how many bytes of runs stand in one frame.
const RUNS_FRAME_BYTES: usize = 1 << 20;
/// A checkpoint follows once so many bytes were written since the last.
const CHECKPOINT_EVERY_BYTES: u64 = 16 << 20;
/// Longest body of a frame.
const FRAME_BYTES_MAX: usize = {
    let runs = RUNS_FRAME_BYTES + 4 + RUN_ENCODED_BYTES_MAX;
    let file = SMALL_FILE_BYTES_MAX as usize + 2 + u8::MAX as usize;
    if runs > file { runs } else { file }
};
const HASH_BYTES: usize = 32;
/// Small files of the node, and of each space, that a backup holds at most.
const FILES_MAX: u32 = 256;
/// Logs of a space, and branches of them, that a backup holds at most.
const LOGS_MAX: usize = 1 << 20;

const KIND_FILE: u8 = 1;
const KIND_SPACE: u8 = 2;
const KIND_RUNS: u8 = 3;
const KIND_SPACE_END: u8 = 4;
const KIND_CHECKPOINT: u8 = 5;
const KIND_END: u8 = 6;

/// Why a backup could not be written, read or restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// The backup's stream failed.
    #[error("cannot {action} the backup: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// The data directory failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The stream is something else.
    #[error("this is not a backup: check the file's name")]
    NotABackup,
    /// Written by a newer release.
    #[error("the backup has format {found}, this release knows up to {VERSION}: update Syncline")]
    NewerFormat {
        /// Its format.
        found: u32,
    },
    /// The stream ends before the backup does.
    #[error("the backup ends early, after {at} bytes: it was not written to the end, or copied in part")]
    EndsEarly {
        /// How many bytes there are.
        at: u64,
    },
    /// Bytes that are not what was written.
    #[error("the backup is damaged before byte {at}: {reason}; use another copy")]
    Damaged {
        /// Where that was noticed.
        at: u64,
        /// What is wrong.
        reason: &'static str,
    },
    /// The data directory to restore into is in use already.
    #[error("the data directory holds spaces already: restore into a new one")]
    NotEmpty,
    /// A small file was refused by whoever restores.
    #[error("the backup's file `{name}` cannot be restored: {source}")]
    File {
        /// Its name.
        name: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A small file in a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupFile {
    /// Its space; None for one of the node's.
    pub space: Option<SpaceId>,
    /// Its name.
    pub name: String,
    /// What stands in it, sealed or not as its writer chose.
    pub bytes: Vec<u8>,
}

/// What a backup holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BackupSummary {
    /// Spaces.
    pub spaces: u64,
    /// Runs of all of them.
    pub runs: u64,
    /// Operations in these.
    pub operations: u64,
    /// Runs that could not be read and are left out.
    pub damaged: u64,
    /// The whole stream's length.
    pub bytes: u64,
    /// The hash over all of it.
    pub hash: [u8; HASH_BYTES],
}

/// A place in a backup at which reading can go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackupCheckpoint {
    /// Bytes before it.
    pub offset: u64,
    hash: [u8; HASH_BYTES],
    place: Place,
}

/// Where in the order of frames a stream is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Place {
    spaces: u64,
    runs: u64,
    operations: u64,
    space: Option<SpaceId>,
    /// Small files since the start, or since the space began.
    files: u32,
    /// Runs and operations of the space so far.
    of_space: (u64, u64),
    ended: bool,
}
