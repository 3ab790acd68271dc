//! One space's log: segment files that are the truth, and their entries in the index.
//!
//! ```text
//! append ─ one write ─▶ segment ─ sync: one fdatasync ─▶ one index batch ─▶ readers see it, callers acknowledge
//! ```
//!
//! Every record names the offset up to which its segment was known to be durable when it was written, and the index
//! names its watermark. After an unclean end these two say what surely is on the disk; what stands behind it is
//! copied to a new segment before anybody sees it ([`recovery`]).

pub(crate) mod body;
mod indexing;
mod passage;
mod reader;
mod reclaim;
mod record;
mod recovery;
mod repair;
mod segment;
mod tails;
mod verify;
mod writer;

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use syncline_model::SpaceId;

pub use self::body::Filed;
pub use self::passage::{DamagedRun, ScrubStep};
pub use self::reader::{ArrivalPage, AuthorRange, LogReader, LogStats, StoredRun};
pub use self::reclaim::Reclaimed;
use self::record::RecordCodec;
pub use self::repair::RepairReport;
pub(crate) use self::repair::{Held, held_ranges, keep_known, known_quarantine, missing_ranges};
pub(crate) use self::segment::create_first_segment;
use self::segment::segment_path;
pub use self::tails::Tail;
pub use self::verify::{Findings, Signatures, VerifyReport};
pub(crate) use self::writer::IndexUse;
pub use self::writer::SpaceLog;
use crate::disk::{Disk, DiskFile};
use crate::error::StorageError;
use crate::index::{IndexError, SpaceIndex};
use crate::layout::{Area, decode_position};
use crate::position::Position;
use crate::room::MARGIN_BYTES;
use crate::store::condemn_index;

/// A new segment begins once one has grown to this size.
pub(crate) const SEGMENT_BYTES: u32 = 64 << 20;
/// How far a segment's file grows ahead of its records at most. While a write stays within the file's length a sync
/// need not make a new length durable, which costs a file system as much again as the bytes do.
const AHEAD_BYTES_MAX: u32 = 1 << 20;
/// In small segments, this share of one at most.
const AHEAD_SHARE: u32 = 8;
/// Most bytes one append takes, so that an offset in a segment always fits 32 bits.
pub(crate) const APPEND_BYTES_MAX: u64 = 64 << 20;
/// Bytes appended since the last sync, after which an append syncs by itself: bounds what a recovery copies.
pub(crate) const UNSYNCED_BYTES_MAX: u64 = 64 << 20;
/// Runs appended since the last sync, after which an append syncs by itself: bounds what is held for the index.
pub(crate) const UNSYNCED_RUNS_MAX: usize = 1 << 16;
/// Segments that one space keeps open for reading.
const OPEN_SEGMENTS_MAX: usize = 16;

/// Which log it is: drawn when a space is created here, so that a cursor into another log is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Incarnation(pub [u8; 16]);

/// When segments end and when the disk counts as full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppendLimits {
    /// A new segment begins once one has grown to this many bytes.
    pub segment_bytes: u32,
    /// Nothing new is taken in while fewer bytes are free; what was taken in before is still appended, down to a small
    /// share of it.
    pub margin_bytes: u64,
}

impl Default for AppendLimits {
    fn default() -> Self {
        Self { segment_bytes: SEGMENT_BYTES, margin_bytes: MARGIN_BYTES }
    }
}

/// What readers have met; held while something goes into quarantine.
#[derive(Debug, Default)]
struct Damage {
    /// The last damaged record.
    met: Option<StorageError>,
    /// The log is no longer open, so it is for its next opening to put anything into quarantine: whoever opened it
    /// meanwhile would not hear of it.
    is_over: bool,
}

/// What the writer and the readers of one log share.
#[derive(Debug)]
pub(crate) struct LogParts {
    pub(crate) space: SpaceId,
    pub(crate) incarnation: Incarnation,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) directory: String,
    pub(crate) index: SpaceIndex,
    codec: RecordCodec,
    /// The most recently used last.
    open: Mutex<Vec<(u32, Arc<dyn DiskFile>)>>,
    damage: Arc<Mutex<Damage>>,
    /// Whether anything was ever put in quarantine: what is fetched again overlaps with runs that are still there.
    has_gaps: AtomicBool,
}

impl LogParts {
    fn new(
        space: SpaceId,
        incarnation: Incarnation,
        disk: Arc<dyn Disk>,
        directory: String,
        index: SpaceIndex,
    ) -> Self {
        let codec = RecordCodec::new(space);
        let (open, damage, has_gaps) = (Mutex::default(), Arc::default(), AtomicBool::new(false));
        Self { space, incarnation, disk, directory, index, codec, open, damage, has_gaps }
    }

    fn damage(&self) -> MutexGuard<'_, Damage> {
        self.damage.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Takes note of what the index knows to be in quarantine.
    fn look_for_gaps(&self) -> Result<(), StorageError> {
        let mut visit = |_: &[u8], _: &[u8]| {
            self.has_gaps.store(true, Ordering::Relaxed);
            ControlFlow::Break(())
        };
        self.index.scan(Area::QUARANTINE, &[], None, &mut visit).map_err(|error| self.index_failed(error))
    }

    /// Where stretches in quarantine begin.
    fn quarantine(&self) -> Result<BTreeSet<Position>, StorageError> {
        let (mut positions, mut damage) = (BTreeSet::new(), None);
        let scanned = self.index.scan(Area::QUARANTINE, &[], None, &mut |suffix, _| match decode_position(suffix) {
            Ok(position) => {
                positions.insert(position);
                ControlFlow::Continue(())
            }
            Err(error) => {
                damage = Some(error);
                ControlFlow::Break(())
            }
        });
        scanned.and(damage.map_or(Ok(()), Err)).map_err(|error| self.index_failed(error))?;
        Ok(positions)
    }

    /// The file of a segment, kept open for the next read.
    fn segment_file(&self, number: u32) -> Result<Arc<dyn DiskFile>, StorageError> {
        let mut open = self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(index) = open.iter().position(|(other, _)| *other == number) {
            let entry = open.remove(index);
            open.push(entry);
        } else {
            let path = segment_path(&self.directory, number);
            let file = self.disk.open(&path).map_err(StorageError::io("open", path))?;
            if open.len() == OPEN_SEGMENTS_MAX {
                open.remove(0);
            }
            open.push((number, file));
        }
        Ok(open[open.len() - 1].1.clone())
    }

    /// Opens a segment anew at the next read: another file has its name.
    fn forget_file(&self, number: u32) {
        let mut open = self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        open.retain(|(other, _)| *other != number);
    }

    /// Takes note that the index failed, so that the next start makes a new one.
    fn index_failed(&self, error: IndexError) -> StorageError {
        condemn_index(&*self.disk);
        StorageError::Index(error)
    }
}
