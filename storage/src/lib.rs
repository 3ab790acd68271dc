//! The durable log of sealed operations, the index derived from it, and the data directory that holds both.
//!
//! The log is the truth: per space, segment files of records (length, checksums, the bytes of one run). An append is
//! one write, a group of appends shares one `fdatasync`, and nothing is shown to anybody before that returned. The
//! index is derived: where each run stands, by arrival and by author, and whatever others keep beside it. It lives in
//! sled or redb, one map for the whole node; a lost or damaged index is made anew from the log.
//!
//! ```text
//! DIR/lock                        held while a process uses the directory; names that process
//! DIR/format                      marks a data directory and its version
//! DIR/reserve                     room that is kept for when the disk is full
//! DIR/index/                      sled, or
//! DIR/index-redb/                 redb
//! DIR/index.damaged-N/            an index that did not open, kept for inspection
//! DIR/node/<name>                 small files of the node: device key, configuration
//! DIR/spaces/<id>/<name>          small files of a space: its keys
//! DIR/spaces/<id>/log/<number>.log  segments
//! ```
//!
//! [`Store`] is the directory, [`SpaceLog`] one space's log with its single writer, [`LogReader`] what any number of
//! threads read with. [`Disk`] and [`Index`] have real implementations and one in memory each; the in-memory ones
//! crash and fail on demand, and [`disk::RecordingDisk`] rebuilds what any power loss may leave. [`BackupWriter`] and
//! [`restore`] take logs out and in as one stream.

mod backup;
pub mod disk;
mod error;
pub mod index;
pub mod layout;
mod log;
mod position;
mod progress;
mod room;
mod small_files;
mod store;

pub use backup::{
    BackupCheckpoint, BackupError, BackupFile, BackupItem, BackupReader, BackupSummary, BackupWriter, RestoreFile,
    restore,
};
pub use disk::{Disk, DiskFile, FileDisk, MemoryDisk};
pub use error::StorageError;
pub use index::{Batch, GatheredIndex, Index, IndexError, IndexKind, MemoryIndex, RedbIndex, SledIndex, SpaceIndex};
pub use layout::Area;
pub use log::{
    AppendLimits, ArrivalPage, AuthorRange, DamagedRun, Filed, Findings, Incarnation, LogReader, LogStats, Reclaimed,
    RepairReport, ScrubStep, Signatures, SpaceLog, StoredRun, Tail, VerifyReport,
};
pub use position::Position;
pub use progress::{Activity, Progress};
pub use room::{DiskUse, NoRoom, Room};
pub use small_files::{FileScope, SmallFiles};
pub use store::{OpenOptions, Store};
