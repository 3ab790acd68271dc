//! The room of a data directory: what it takes, what the disk has left, and a reserve for when nothing is left.
//!
//! ```text
//! free bytes │ margin and more: everything is taken in
//!            │ below the margin: nothing new is taken in, what was taken in before is still written
//!            │ below the floor, or a call that finds no room: the reserve is given up, and the call repeated once
//!            ▼ below the floor without a reserve: appends are refused
//! ```
//!
//! The reserve is a file whose room is really taken. Somebody else may fill the disk between the moment when something
//! was taken in and the moment when it is written; then the reserve is what it is written to, and what the index needs
//! to follow. It is made again once there is room for it.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use crate::disk::{Access, Disk, is_full};
use crate::error::StorageError;
use crate::index::{Index, IndexError};
use crate::store::OpenOptions;

/// The file.
pub(crate) const RESERVE_FILE: &str = "reserve";
/// Free bytes below which nothing new is taken in, unless told otherwise: what was taken in before, the index, a
/// recovery and a person who acts need some.
pub(crate) const MARGIN_BYTES: u64 = 128 << 20;
/// Appends are refused when less than this share of the margin would stay free.
const FLOOR_SHARE: u64 = 16;
/// The free space is measured again after this share of the margin was appended.
const MEASURE_SHARE: u64 = 128;
/// The reserve is made only if this share of the margin stays free beyond the margin: it must not end the intake.
const MAKING_SHARE: u64 = 4;
/// The reserve takes at most this share of what the data directory may take.
const RESERVE_SHARE_MAX: u64 = 8;

/// Why nothing new is taken in. Reading goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoRoom {
    /// The disk is as good as full.
    #[error(
        "the disk is full: {available} bytes are free, and writing goes on from {margin} on; free some space, reading \
         still works"
    )]
    DiskFull {
        /// Bytes that are free.
        available: u64,
        /// Bytes that have to be free.
        margin: u64,
    },
    /// The data directory takes as much as it may.
    #[error(
        "the data directory takes {used} bytes of the {max} that it may: raise `disk_use_max_mib` or leave a space, \
         reading still works"
    )]
    UseMax {
        /// Bytes that it takes.
        used: u64,
        /// Bytes that it may take.
        max: u64,
    },
}

/// What a data directory takes of its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskUse {
    /// Bytes of the logs that are open.
    pub log_bytes: u64,
    /// About how many bytes the index takes.
    pub index_bytes: u64,
    /// Bytes of the reserve; 0 while it is given up.
    pub reserve_bytes: u64,
    /// Bytes that the reserve is to have.
    pub reserve_bytes_wanted: u64,
    /// Bytes within the logs that were given back to the disk: damage, and what was dropped.
    pub reclaimed_bytes: u64,
    /// Bytes that are free on the disk.
    pub available_bytes: u64,
    /// Bytes that the data directory may take.
    pub use_bytes_max: Option<u64>,
    /// Why nothing new is taken in.
    pub no_room: Option<NoRoom>,
}

impl DiskUse {
    /// What counts against the bound: logs, index and reserve.
    pub fn used_bytes(&self) -> u64 {
        used(self.log_bytes, self.index_bytes, self.reserve_bytes)
    }
}

fn used(log_bytes: u64, index_bytes: u64, reserve_bytes: u64) -> u64 {
    log_bytes.saturating_add(index_bytes).saturating_add(reserve_bytes)
}

/// The room of a data directory, shared by everything that writes there.
#[derive(Debug)]
pub struct Room {
    disk: Arc<dyn Disk>,
    margin: u64,
    use_bytes_max: Option<u64>,
    reserve_wanted: u64,
    /// Bytes of the reserve.
    reserve: Mutex<u64>,
    /// How often the reserve was given up.
    given_up: AtomicU64,
    log_bytes: AtomicU64,
    reclaimed_bytes: AtomicU64,
    index: OnceLock<Weak<dyn Index>>,
}

impl Room {
    /// Looks what reserve there is. It is not made here: opening has to get by with what is there.
    pub(crate) fn open(disk: Arc<dyn Disk>, options: &OpenOptions) -> Result<Self, StorageError> {
        let held = reserve_held(&*disk)?;
        let largest = options.use_bytes_max.map_or(u64::MAX, |max| max / RESERVE_SHARE_MAX);
        Ok(Self {
            disk,
            margin: options.limits.margin_bytes,
            use_bytes_max: options.use_bytes_max,
            reserve_wanted: options.reserve_bytes.unwrap_or(held).min(largest),
            reserve: Mutex::new(held),
            given_up: AtomicU64::new(0),
            log_bytes: AtomicU64::new(0),
            reclaimed_bytes: AtomicU64::new(0),
            index: OnceLock::new(),
        })
    }

    /// What the directory takes now.
    pub fn disk_use(&self) -> Result<DiskUse, StorageError> {
        let reserve_bytes = *self.lock();
        let (available_bytes, index_bytes) = (self.available()?, self.index_bytes()?);
        Ok(DiskUse {
            log_bytes: self.log_bytes.load(Ordering::Relaxed),
            index_bytes,
            reserve_bytes,
            reserve_bytes_wanted: self.reserve_wanted,
            reclaimed_bytes: self.reclaimed_bytes.load(Ordering::Relaxed),
            available_bytes,
            use_bytes_max: self.use_bytes_max,
            no_room: self.spare(available_bytes, index_bytes, reserve_bytes).err(),
        })
    }

    /// The index whose size counts.
    pub(crate) fn watch_index(&self, index: &Arc<dyn Index>) {
        // A room belongs to one store, so nobody was faster.
        let _ = self.index.set(Arc::downgrade(index));
    }

    /// How many bytes may be taken in before this is to be asked again; makes the reserve first, if it is missing and
    /// there is room.
    pub(crate) fn intake(&self) -> Result<Result<u64, NoRoom>, StorageError> {
        let available = self.tend()?;
        let reserve = *self.lock();
        Ok(self.spare(available, self.index_bytes()?, reserve))
    }

    fn spare(&self, available: u64, index: u64, reserve: u64) -> Result<u64, NoRoom> {
        // What was given up is for what was taken in before, not for more.
        let given_up = if self.given_up() > 0 { self.reserve_wanted.saturating_sub(reserve) } else { 0 };
        let margin = self.margin.saturating_add(given_up);
        let Some(free) = available.checked_sub(margin).filter(|free| *free > 0) else {
            return Err(NoRoom::DiskFull { available, margin });
        };
        let used = used(self.log_bytes.load(Ordering::Relaxed), index, reserve);
        let below = match self.use_bytes_max {
            Some(max) => max.checked_sub(used).filter(|left| *left > 0).ok_or(NoRoom::UseMax { used, max })?,
            None => u64::MAX,
        };
        Ok(free.min(below).min(self.measure_after()))
    }

    /// How many bytes may be appended, `size` among them, before this is to be asked again. What is appended was taken
    /// in before, so the reserve goes first.
    pub(crate) fn append(&self, size: u64) -> Result<u64, StorageError> {
        let needed = size.saturating_add(self.margin / FLOOR_SHARE);
        let seen = self.given_up();
        let mut available = self.available()?;
        if available < needed && self.give_up(seen) {
            available = self.available()?;
        }
        match available.checked_sub(needed) {
            Some(left) => Ok(size + left.min(self.measure_after())),
            None => Err(StorageError::Full { available, needed }),
        }
    }

    fn measure_after(&self) -> u64 {
        (self.margin / MEASURE_SHARE).max(1)
    }

    /// Gives the reserve up if the disk is about to be full. The index writes later than it is told to, by itself, and
    /// of no room it dies.
    pub(crate) fn before_index(&self) {
        let seen = self.given_up();
        if *self.lock() > 0 && self.disk.available_bytes().is_ok_and(|available| available < self.margin / FLOOR_SHARE)
        {
            self.give_up(seen);
        }
    }

    /// Does something that takes room; if there is none, gives the reserve up and does it once more.
    pub(crate) fn with_reserve<T>(&self, call: impl Fn() -> io::Result<T>) -> io::Result<T> {
        let seen = self.given_up();
        match call() {
            Err(error) if is_full(&error) && self.give_up(seen) => call(),
            outcome => outcome,
        }
    }

    /// How often the reserve was given up.
    pub(crate) fn given_up(&self) -> u64 {
        self.given_up.load(Ordering::Acquire)
    }

    /// Gives the reserve up; false when there is none, and was none when it had been given up `seen` times.
    pub(crate) fn give_up(&self, seen: u64) -> bool {
        let mut reserve = self.lock();
        if self.given_up() != seen {
            return true;
        }
        if *reserve == 0 {
            return false;
        }
        // Cutting gives room back at once; removing may leave that for later.
        if let Err(error) = self.disk.open(RESERVE_FILE).and_then(|file| file.set_length(0)) {
            tracing::error!(%error, "the disk is full, and its reserve cannot be given up");
            return false;
        }
        // A file without content is in nobody's way.
        let _ = self.disk.remove_file(RESERVE_FILE);
        tracing::warn!(
            bytes = *reserve,
            margin = self.margin,
            "the disk is full: the reserve was given up for what was taken in before; nothing new is taken in until \
             there is room again"
        );
        *reserve = 0;
        self.given_up.fetch_add(1, Ordering::Release);
        true
    }

    /// Brings the reserve to its size if there is room for it; returns how many bytes are free then.
    pub(crate) fn tend(&self) -> Result<u64, StorageError> {
        let available = self.available()?;
        let mut reserve = self.lock();
        let missing = self.reserve_wanted.saturating_sub(*reserve);
        let needed = missing.saturating_add(self.margin).saturating_add(self.margin / MAKING_SHARE);
        if *reserve == self.reserve_wanted || missing > 0 && available < needed {
            return Ok(available);
        }
        let had = std::mem::take(&mut *reserve);
        match self.make_reserve() {
            Ok(()) => {
                *reserve = self.reserve_wanted;
                tracing::info!(bytes = *reserve, had, "a reserve for a full disk stands ready");
            }
            // The next time will do.
            Err(error) => tracing::warn!(%error, "no reserve for a full disk could be made"),
        }
        drop(reserve);
        self.available()
    }

    fn make_reserve(&self) -> io::Result<()> {
        match self.disk.remove_file(RESERVE_FILE) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ if self.reserve_wanted == 0 => return self.disk.sync_directory(""),
            _ => {}
        }
        let file = self.disk.create(RESERVE_FILE, Access::Default)?;
        let made = file.allocate(self.reserve_wanted).and_then(|()| file.sync());
        made.and_then(|()| self.disk.sync_directory("")).inspect_err(|_| {
            let _ = file.set_length(0);
            let _ = self.disk.remove_file(RESERVE_FILE);
        })
    }

    fn available(&self) -> Result<u64, StorageError> {
        self.disk.available_bytes().map_err(StorageError::io("measure", "the disk"))
    }

    fn index_bytes(&self) -> Result<u64, IndexError> {
        self.index.get().and_then(Weak::upgrade).map_or(Ok(0), |index| index.size_bytes())
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        self.reserve.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes of the reserve that is there. One whose room is not really taken is none, such as a copy with holes.
fn reserve_held(disk: &dyn Disk) -> Result<u64, StorageError> {
    let measured = disk.open(RESERVE_FILE).and_then(|file| Ok((file.length()?, file.allocated_bytes()?)));
    match measured {
        Ok((length, allocated)) => Ok(if allocated >= length { length } else { 0 }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(StorageError::io("measure", RESERVE_FILE)(error)),
    }
}

/// What one open log takes, as part of the whole.
#[derive(Debug)]
pub(crate) struct LogUse {
    pub(crate) room: Arc<Room>,
    bytes: u64,
    reclaimed: u64,
}

impl LogUse {
    pub(crate) fn new(room: Arc<Room>) -> Self {
        Self { room, bytes: 0, reclaimed: 0 }
    }

    /// The log takes so many bytes now.
    pub(crate) fn set(&mut self, bytes: u64) {
        self.room.log_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.room.log_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = bytes;
    }

    /// So many bytes of the log take no room.
    pub(crate) fn add_reclaimed(&mut self, bytes: u64) {
        self.room.reclaimed_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.reclaimed += bytes;
    }
}

impl Drop for LogUse {
    fn drop(&mut self) {
        self.room.log_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.room.reclaimed_bytes.fetch_sub(self.reclaimed, Ordering::Relaxed);
    }
}
