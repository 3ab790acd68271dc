//! The data directory: who may use it, what is in it, and the spaces stored there.

mod format;
mod repairing;

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use syncline_model::SpaceId;

use self::format::{FORMAT_FILE, check_format, mark_index, mark_keys_sealed};
use crate::disk::{Access, Disk, FileDisk, ReservingDisk};
use crate::error::StorageError;
use crate::index::{
    Batch, INDEX_CACHE_BYTES, Index, IndexError, IndexKind, RedbIndex, ReservingIndex, SledIndex, SpaceIndex,
    remove_range,
};
use crate::layout::{
    Area, LAYOUT_VERSION, NODE_NUMBER, SpaceEntry, area_key, decode_u32, number_end, space_suffix, successor,
};
use crate::log::{AppendLimits, Incarnation, IndexUse, SpaceLog, create_first_segment};
use crate::progress::{Activity, Progress};
use crate::room::Room;
use crate::small_files::{NODE_DIRECTORY, SmallFiles, read_whole, write_whole};

const LOCK_FILE: &str = "lock";
/// A file of this name asks the next start to make the index anew.
const CONDEMNED_FILE: &str = "index.condemned";
/// A file of this name is there while a backup is restored into the directory.
const RESTORING_FILE: &str = "restoring";
const DAMAGED_PREFIX: &str = "index.damaged-";
/// Indexes put aside that are kept for inspection; they hold nothing that is not in the log.
const DAMAGED_INDEXES_KEPT: usize = 2;
const SPACES_DIRECTORY: &str = "spaces";
const CREATING_PREFIX: &str = "creating-";
const REMOVING_PREFIX: &str = "removing-";
const LOG_DIRECTORY: &str = "log";
/// Bytes of the lock file that are shown to a person.
const HOLDER_BYTES_MAX: u64 = 64;

/// Sled is not opened with less than this left: it writes while it is opened, and what it cannot write damages it.
const OPENING_BYTES_MIN: u64 = 1 << 20;

/// How a data directory is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenOptions {
    /// Whether to create the directory when there is none.
    pub create: bool,
    /// What keeps the index of a directory that is created; an existing one has its own.
    pub index: IndexKind,
    /// When segments end and when the disk counts as full.
    pub limits: AppendLimits,
    /// Bytes of the disk to hold in reserve for when it is full; None: as many as there are.
    pub reserve_bytes: Option<u64>,
    /// Bytes that the directory may take before nothing new is taken in; None: no bound.
    pub use_bytes_max: Option<u64>,
    /// Bytes of memory for the index's cache; None: a default.
    pub index_cache_bytes: Option<u64>,
}

/// A data directory, held against other processes as long as it or anything made from it lives.
#[derive(Debug)]
pub struct Store {
    disk: Arc<dyn Disk>,
    index: Arc<dyn Index>,
    kind: IndexKind,
    limits: AppendLimits,
    room: Arc<Room>,
    open: OpenSpaces,
    /// Held while numbers are given to spaces.
    numbering: Mutex<()>,
}

impl Store {
    /// Opens a data directory, or creates one when the options say so.
    ///
    /// An index that does not open is put aside; the spaces then make theirs anew when they are opened.
    pub fn open(path: &Path, options: OpenOptions, progress: &mut dyn FnMut(Progress)) -> Result<Self, StorageError> {
        prepare_directory(path, options.create)?;
        let lock = Arc::new(lock_directory(path)?);
        let place = Place::new(path, &options)?;
        let disk = &place.disk;
        let kind = check_format(&**disk, options.index)?;
        // What a conversion that was cut short left over.
        for other in IndexKind::ALL.into_iter().filter(|other| *other != kind) {
            remove_directory_if_there(&**disk, index_directory(other))?;
        }
        if is_condemned(&**disk)? {
            put_index_aside(&**disk, kind, progress)?;
        }
        match Self::open_index_with_reserve(path, kind, &lock, &place, options) {
            // It is not damaged, and putting it aside would only take more room.
            Err(StorageError::Index(error)) if error.is_full() => {
                let available = disk.available_bytes().unwrap_or_default();
                Err(StorageError::NoRoomToOpen { available })
            }
            // Putting aside what another process uses would take it away from that one.
            Err(StorageError::Index(IndexError::Locked)) => {
                Err(StorageError::InUse { path: path.to_owned(), holder: "another process (its index)".to_owned() })
            }
            Err(StorageError::Index(error)) => {
                tracing::warn!("the index does not open and is made anew: {error}");
                put_index_aside(&**disk, kind, progress)?;
                Self::open_index_with_reserve(path, kind, &lock, &place, options)
            }
            other => other,
        }
    }

    /// Opens the index, which writes while it is opened; on a full disk with the room of the reserve.
    fn open_index_with_reserve(
        path: &Path,
        kind: IndexKind,
        lock: &Arc<File>,
        place: &Place,
        options: OpenOptions,
    ) -> Result<Self, StorageError> {
        place.room.before_index();
        let available = place.disk.available_bytes().unwrap_or(u64::MAX);
        if kind == IndexKind::Sled && available < OPENING_BYTES_MIN {
            return Err(StorageError::NoRoomToOpen { available });
        }
        let seen = place.room.given_up();
        match Self::open_index(path, kind, lock, place, options) {
            Err(StorageError::Index(error)) if error.is_full() && place.room.give_up(seen) => {
                Self::open_index(path, kind, lock, place, options)
            }
            other => other,
        }
    }

    fn open_index(
        path: &Path,
        kind: IndexKind,
        lock: &Arc<File>,
        place: &Place,
        options: OpenOptions,
    ) -> Result<Self, StorageError> {
        let (directory, cache) = (index_directory(kind), options.index_cache_bytes.unwrap_or(INDEX_CACHE_BYTES));
        let index: Arc<dyn Index> = match kind {
            IndexKind::Sled => Arc::new(SledIndex::open(&path.join(directory), cache)?.holding(lock.clone())),
            IndexKind::Redb => {
                place.disk.create_directory(directory).map_err(StorageError::io("create", directory))?;
                Arc::new(RedbIndex::open_on(&*place.disk, directory, cache)?.holding(lock.clone()))
            }
        };
        Self::build(place.clone(), index, options)
    }

    /// Gives a data directory that nobody uses an index of another kind, made from the logs.
    ///
    /// It counts only once it is complete and durable; the old one is removed then. What others derived and kept in
    /// the old index is gone, as whenever an index is made anew. Returns the kind that it had before: when that is the
    /// one asked for, nothing is done.
    pub fn convert_index(
        path: &Path,
        to: IndexKind,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<IndexKind, StorageError> {
        prepare_directory(path, false)?;
        let lock = Arc::new(lock_directory(path)?);
        let options = OpenOptions::default();
        let place = Place::new(path, &options)?;
        let disk = &place.disk;
        let from = check_format(&**disk, to)?;
        if from == to {
            return Ok(from);
        }
        if is_condemned(&**disk)? {
            // Otherwise the mark would be spent on the new one.
            put_index_aside(&**disk, from, progress)?;
        }
        remove_directory_if_there(&**disk, index_directory(to))?;
        let store = Self::open_index(path, to, &lock, &place, options)?;
        for space in store.spaces()? {
            store.open_space(space, progress)?.close()?;
        }
        store.flush()?;
        drop(store);
        mark_index(&**disk, to)?;
        remove_directory_if_there(&**disk, index_directory(from))?;
        Ok(from)
    }

    /// A store on a given disk and index, as a simulator needs it. Nothing locks the disk.
    pub fn assemble(disk: Arc<dyn Disk>, index: Arc<dyn Index>, options: OpenOptions) -> Result<Self, StorageError> {
        Self::build(Place::on(disk, &options)?, index, options)
    }

    fn build(place: Place, index: Arc<dyn Index>, options: OpenOptions) -> Result<Self, StorageError> {
        let Place { disk, room } = place;
        room.watch_index(&index);
        let index: Arc<dyn Index> = Arc::new(ReservingIndex::new(index, room.clone()));
        let kind = check_format(&*disk, options.index)?;
        if read_whole(&*disk, RESTORING_FILE)?.is_some() {
            return Err(StorageError::HalfRestored);
        }
        for directory in [NODE_DIRECTORY, SPACES_DIRECTORY] {
            disk.create_directory(directory).map_err(StorageError::io("create", directory))?;
        }
        disk.sync_directory("").map_err(StorageError::io("sync", "the data directory"))?;
        remove_leftovers(&*disk)?;
        let store = Self {
            disk,
            index,
            kind,
            limits: options.limits,
            room,
            open: OpenSpaces::default(),
            numbering: Mutex::default(),
        };
        store.tidy_index(is_condemned(&*store.disk)?)?;
        match store.disk.remove_file(CONDEMNED_FILE) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(StorageError::io("remove", CONDEMNED_FILE)(error));
            }
            _ => {}
        }
        store.room.tend()?;
        Ok(store)
    }

    /// Marks the directory as one whose key files are sealed under a passphrase, which releases that know of none then
    /// refuse, or takes the mark away.
    pub fn mark_keys_sealed(&self, sealed: bool) -> Result<(), StorageError> {
        mark_keys_sealed(&*self.disk, sealed)
    }

    /// The spaces stored here, sorted.
    pub fn spaces(&self) -> Result<Vec<SpaceId>, StorageError> {
        stored_spaces(&*self.disk)
    }

    /// Creates a space with an empty log and its first secret files, all at once or not at all.
    ///
    /// The incarnation is drawn at random by the caller.
    pub fn create_space(
        &self,
        space: SpaceId,
        incarnation: Incarnation,
        secrets: &[(&str, &[u8])],
    ) -> Result<(), StorageError> {
        let path = space_directory(space);
        if self.spaces()?.contains(&space) {
            return Err(StorageError::SpaceExists(space));
        }
        let disk = &*self.disk;
        let creating = format!("{SPACES_DIRECTORY}/{CREATING_PREFIX}{space}");
        remove_directory_if_there(disk, &creating)?;
        disk.create_directory(&creating).map_err(StorageError::io("create", &creating))?;
        for (name, bytes) in secrets {
            write_whole(disk, &creating, name, bytes, Access::Private)?;
        }
        let log = format!("{creating}/{LOG_DIRECTORY}");
        disk.create_directory(&log).map_err(StorageError::io("create", &log))?;
        create_first_segment(disk, &log, space, incarnation)?;
        disk.sync_directory(&creating).map_err(StorageError::io("sync", &creating))?;
        disk.rename(&creating, &path).map_err(StorageError::io("name", &path))?;
        disk.sync_directory(SPACES_DIRECTORY).map_err(StorageError::io("sync", SPACES_DIRECTORY))
    }

    /// Opens a space's log for appending: recovers it after an unclean end and completes its index.
    pub fn open_space(&self, space: SpaceId, progress: &mut dyn FnMut(Progress)) -> Result<SpaceLog, StorageError> {
        if !self.spaces()?.contains(&space) {
            return Err(StorageError::UnknownSpace(space));
        }
        let open = self.open.enter(space)?;
        self.open_log(open, IndexUse::Existing, progress)
    }

    fn open_log(
        &self,
        open: OpenSpace,
        index_use: IndexUse,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<SpaceLog, StorageError> {
        let directory = format!("{}/{LOG_DIRECTORY}", space_directory(open.space()));
        let index_of = |space, incarnation, index_use| self.index_of(space, incarnation, index_use);
        SpaceLog::open(&self.disk, directory, self.limits, &self.room, open, &index_of, index_use, progress)
    }

    /// Marks the directory as being restored into, or no longer.
    pub(crate) fn set_restoring(&self, restoring: bool) -> Result<(), StorageError> {
        if restoring {
            return write_whole(&*self.disk, "", RESTORING_FILE, &[], Access::Default);
        }
        self.disk.remove_file(RESTORING_FILE).map_err(StorageError::io("remove", RESTORING_FILE))?;
        self.disk.sync_directory("").map_err(StorageError::io("sync", "the data directory"))
    }

    /// Removes a space with everything stored of it, its keys included. Its log must not be open.
    pub fn remove_space(&self, space: SpaceId) -> Result<(), StorageError> {
        let _open = self.open.enter(space)?;
        if !self.spaces()?.contains(&space) {
            return Err(StorageError::UnknownSpace(space));
        }
        let removing = format!("{SPACES_DIRECTORY}/{REMOVING_PREFIX}{space}");
        remove_directory_if_there(&*self.disk, &removing)?;
        self.disk.rename(&space_directory(space), &removing).map_err(StorageError::io("name", &removing))?;
        self.disk.sync_directory(SPACES_DIRECTORY).map_err(StorageError::io("sync", SPACES_DIRECTORY))?;
        // From here on it is gone; what is left over by a crash goes at the next start.
        let _numbering = self.lock_numbering();
        let forget = || {
            if let Some(entry) = self.space_entry(space)? {
                self.remove_number(entry.number)?;
            }
            let mut batch = Batch::default();
            batch.remove(space_key(space));
            self.index.apply(batch)
        };
        forget().map_err(|error| self.index_failed(error))?;
        self.disk.remove_directory(&removing).map_err(StorageError::io("remove", removing))
    }

    /// The small files of the node and of its spaces.
    pub fn files(&self) -> SmallFiles {
        SmallFiles::new(self.disk.clone())
    }

    /// The part of the index for what concerns the whole node.
    pub fn node_index(&self) -> SpaceIndex {
        SpaceIndex::new(self.index.clone(), NODE_NUMBER)
    }

    /// Which store keeps the index.
    pub fn index_kind(&self) -> IndexKind {
        self.kind
    }

    /// What the directory takes of the disk, and what is left. It does not keep the directory locked.
    pub fn room(&self) -> Arc<Room> {
        self.room.clone()
    }

    /// About how many bytes the index takes.
    pub fn index_bytes(&self) -> Result<u64, StorageError> {
        self.index.size_bytes().map_err(|error| self.index_failed(error))
    }

    /// Writes out the index, so that the next opening has nothing to do.
    pub fn flush(&self) -> Result<(), StorageError> {
        self.index.flush().map_err(|error| self.index_failed(error))
    }

    fn index_of(
        &self,
        space: SpaceId,
        incarnation: Incarnation,
        index_use: IndexUse,
    ) -> Result<SpaceIndex, StorageError> {
        let _numbering = self.lock_numbering();
        let number = || {
            let existing = self.space_entry(space)?;
            match existing.filter(|entry| entry.incarnation == incarnation && index_use == IndexUse::Existing) {
                Some(entry) => Ok(entry.number),
                None => self.assign_number(space, incarnation, existing),
            }
        };
        let number = number().map_err(|error| self.index_failed(error))?;
        Ok(SpaceIndex::new(self.index.clone(), number))
    }

    /// Gives a space a new number and drops what stands under the old one.
    fn assign_number(
        &self,
        space: SpaceId,
        incarnation: Incarnation,
        existing: Option<SpaceEntry>,
    ) -> Result<u32, IndexError> {
        let last_key = area_key(NODE_NUMBER, Area::LAST_NUMBER, &[]);
        let last = self.index.value(&last_key)?.map_or(Ok(NODE_NUMBER), |bytes| decode_u32(&bytes, "last number"))?;
        let number = last.checked_add(1).filter(|number| *number < u32::MAX);
        let number = number.ok_or(IndexError::Damaged("last number"))?;
        let mut batch = Batch::default();
        batch.put(last_key, number.to_le_bytes().to_vec());
        batch.put(space_key(space), SpaceEntry { number, incarnation }.encode());
        self.index.apply(batch)?;
        if let Some(existing) = existing {
            self.remove_number(existing.number)?;
        }
        Ok(number)
    }

    fn space_entry(&self, space: SpaceId) -> Result<Option<SpaceEntry>, IndexError> {
        self.index.value(&space_key(space))?.map(|bytes| SpaceEntry::decode(&bytes)).transpose()
    }

    fn remove_number(&self, number: u32) -> Result<(), IndexError> {
        remove_range(&*self.index, &number.to_be_bytes(), &number_end(number))
    }

    /// Empties an index of another layout or one that was condemned, and removes what belongs to no stored space.
    fn tidy_index(&self, condemned: bool) -> Result<(), StorageError> {
        let spaces = self.spaces()?;
        let tidy = || {
            let layout_key = area_key(NODE_NUMBER, Area::LAYOUT, &[]);
            let layout = self.index.value(&layout_key)?;
            if condemned || layout.as_deref() != Some(&LAYOUT_VERSION.to_le_bytes()) {
                remove_range(&*self.index, &[], &[u8::MAX; 5])?;
                let mut batch = Batch::default();
                batch.put(layout_key, LAYOUT_VERSION.to_le_bytes().to_vec());
                self.index.apply(batch)?;
            }
            let numbers = self.forget_unknown_spaces(&spaces)?;
            self.remove_other_numbers(&numbers)
        };
        tidy().map_err(|error| self.index_failed(error))
    }

    /// Removes the entries of spaces that are not stored; returns the numbers of the others.
    fn forget_unknown_spaces(&self, spaces: &[SpaceId]) -> Result<BTreeSet<u32>, IndexError> {
        let (mut numbers, mut batch, mut damage) = (BTreeSet::new(), Batch::default(), None);
        self.node_index().scan(Area::SPACE, &[], None, &mut |suffix, value| {
            let entry = space_suffix(suffix).and_then(|space| Ok((space, SpaceEntry::decode(value)?)));
            match entry {
                Ok((space, entry)) if spaces.contains(&space) => drop(numbers.insert(entry.number)),
                Ok((space, _)) => batch.remove(space_key(space)),
                Err(error) => {
                    damage = Some(error);
                    return std::ops::ControlFlow::Break(());
                }
            }
            std::ops::ControlFlow::Continue(())
        })?;
        damage.map_or(Ok(()), Err)?;
        self.index.apply(batch)?;
        Ok(numbers)
    }

    /// Removes the entries under numbers that no stored space has.
    fn remove_other_numbers(&self, numbers: &BTreeSet<u32>) -> Result<(), IndexError> {
        let mut from = number_end(NODE_NUMBER);
        loop {
            let mut found = None;
            self.index.scan(&from, &[u8::MAX; 5], &mut |key, _| {
                found = key.first_chunk::<4>().map(|number| u32::from_be_bytes(*number));
                std::ops::ControlFlow::Break(())
            })?;
            let Some(number) = found else { return Ok(()) };
            if !numbers.contains(&number) {
                self.remove_number(number)?;
            }
            let Some(next) = successor(&number.to_be_bytes()) else { return Ok(()) };
            from = next;
        }
    }

    fn lock_numbering(&self) -> MutexGuard<'_, ()> {
        self.numbering.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn index_failed(&self, error: IndexError) -> StorageError {
        condemn_index(&*self.disk);
        StorageError::Index(error)
    }
}

/// Where a data directory stands: its disk, with the reserve behind it.
#[derive(Debug, Clone)]
struct Place {
    disk: Arc<dyn Disk>,
    room: Arc<Room>,
}

impl Place {
    fn new(path: &Path, options: &OpenOptions) -> Result<Self, StorageError> {
        Self::on(Arc::new(FileDisk::new(path)), options)
    }

    fn on(disk: Arc<dyn Disk>, options: &OpenOptions) -> Result<Self, StorageError> {
        let room = Arc::new(Room::open(disk.clone(), options)?);
        Ok(Self { disk: Arc::new(ReservingDisk::new(disk, room.clone())), room })
    }
}

/// Which spaces' logs are open: each has one writer.
#[derive(Debug, Clone, Default)]
struct OpenSpaces(Arc<Mutex<BTreeSet<SpaceId>>>);

impl OpenSpaces {
    fn enter(&self, space: SpaceId) -> Result<OpenSpace, StorageError> {
        let entered = self.lock().insert(space);
        if entered { Ok(OpenSpace { space, open: self.clone() }) } else { Err(StorageError::SpaceOpen(space)) }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<SpaceId>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The right to be a space's one writer, given back when dropped.
#[derive(Debug)]
pub(crate) struct OpenSpace {
    space: SpaceId,
    open: OpenSpaces,
}

impl OpenSpace {
    pub(crate) fn space(&self) -> SpaceId {
        self.space
    }
}

impl Drop for OpenSpace {
    fn drop(&mut self) {
        self.open.lock().remove(&self.space);
    }
}

/// The directory of a space.
pub(crate) fn space_directory(space: SpaceId) -> String {
    format!("{SPACES_DIRECTORY}/{space}")
}

fn space_key(space: SpaceId) -> Vec<u8> {
    area_key(NODE_NUMBER, Area::SPACE, space.as_bytes())
}

/// Asks the next start to make the index anew.
pub(crate) fn condemn_index(disk: &dyn Disk) {
    // Best effort: without the mark a failing index fails again, and is condemned again.
    let marked = write_whole(disk, "", CONDEMNED_FILE, &[], Access::Default);
    if let Err(error) = marked {
        tracing::error!("cannot mark the index to be made anew: {error}");
    }
}

fn is_condemned(disk: &dyn Disk) -> Result<bool, StorageError> {
    Ok(read_whole(disk, CONDEMNED_FILE)?.is_some())
}

fn stored_spaces(disk: &dyn Disk) -> Result<Vec<SpaceId>, StorageError> {
    let names = disk.list(SPACES_DIRECTORY).map_err(StorageError::io("list", SPACES_DIRECTORY))?;
    let mut spaces: Vec<SpaceId> = names
        .iter()
        .filter_map(|name| name.parse::<SpaceId>().ok().filter(|space| space.to_string() == *name))
        .collect();
    spaces.sort_unstable();
    Ok(spaces)
}

fn remove_directory_if_there(disk: &dyn Disk, path: &str) -> Result<(), StorageError> {
    match disk.remove_directory(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        // Something else of that name is in the way all the same.
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
            disk.remove_file(path).map_err(StorageError::io("remove", path))
        }
        other => other.map_err(StorageError::io("remove", path)),
    }
}

/// Removes spaces whose creation or removal a crash cut short.
fn remove_leftovers(disk: &dyn Disk) -> Result<(), StorageError> {
    for name in disk.list(SPACES_DIRECTORY).map_err(StorageError::io("list", SPACES_DIRECTORY))? {
        if name.starts_with(CREATING_PREFIX) || name.starts_with(REMOVING_PREFIX) {
            remove_directory_if_there(disk, &format!("{SPACES_DIRECTORY}/{name}"))?;
        }
    }
    Ok(())
}

/// The directory of an index of this kind.
fn index_directory(kind: IndexKind) -> &'static str {
    match kind {
        IndexKind::Sled => "index",
        IndexKind::Redb => "index-redb",
    }
}

/// Makes sure that `path` is a data directory or may become one.
fn prepare_directory(path: &Path, create: bool) -> Result<(), StorageError> {
    let shown = path.display().to_string();
    if path.join(FORMAT_FILE).exists() {
        return Ok(());
    }
    if !create {
        return Err(StorageError::Missing { path: path.to_owned() });
    }
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(StorageError::io("create", &shown))?;
    // What a creation that was cut short may have left.
    let ours = |name: &std::ffi::OsStr| name == LOCK_FILE || name == "format.tmp";
    for entry in fs::read_dir(path).map_err(StorageError::io("list", &shown))? {
        if !ours(&entry.map_err(StorageError::io("list", &shown))?.file_name()) {
            return Err(StorageError::NotADataDirectory { path: path.to_owned() });
        }
    }
    if cfg!(unix)
        && let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty())
    {
        File::open(parent).and_then(|parent| parent.sync_all()).map_err(StorageError::io("sync", shown))?;
    }
    Ok(())
}

/// Takes the lock and writes this process's number into it.
fn lock_directory(path: &Path) -> Result<File, StorageError> {
    let lock_path = path.join(LOCK_FILE);
    let shown = lock_path.display().to_string();
    let open = File::options().read(true).write(true).create(true).truncate(false).open(&lock_path);
    let mut file = open.map_err(StorageError::io("open", &shown))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // On some systems a locked file cannot be read.
            let _ = file.take(HOLDER_BYTES_MAX).read_to_string(&mut holder);
            let holder = holder.trim();
            let holder = if holder.is_empty() { "another process" } else { holder };
            return Err(StorageError::InUse { path: path.to_owned(), holder: holder.to_owned() });
        }
        Err(TryLockError::Error(error)) => return Err(StorageError::io("lock", shown)(error)),
    }
    let write = file.set_len(0).and_then(|()| writeln!(file, "process {}", std::process::id()));
    write.map_err(StorageError::io("write", shown))?;
    Ok(file)
}

/// Moves the index aside so that a new one is made.
fn put_index_aside(disk: &dyn Disk, kind: IndexKind, progress: &mut dyn FnMut(Progress)) -> Result<(), StorageError> {
    let directory = index_directory(kind);
    let names = disk.list("").map_err(StorageError::io("list", "the data directory"))?;
    if !names.iter().any(|name| name == directory) {
        return Ok(());
    }
    let number = |name: &String| name.strip_prefix(DAMAGED_PREFIX).and_then(|number| number.parse::<u32>().ok());
    let mut numbers: Vec<u32> = names.iter().filter_map(number).collect();
    numbers.sort_unstable();
    let next = numbers.last().map_or(Some(1), |last| last.checked_add(1)).unwrap_or(u32::MAX);
    while numbers.len() >= DAMAGED_INDEXES_KEPT || numbers.last() == Some(&u32::MAX) {
        remove_directory_if_there(disk, &format!("{DAMAGED_PREFIX}{}", numbers.remove(0)))?;
    }
    let aside = format!("{DAMAGED_PREFIX}{next}");
    disk.rename(directory, &aside).map_err(StorageError::io("name", &aside))?;
    disk.sync_directory("").map_err(StorageError::io("sync", "the data directory"))?;
    progress(Progress { activity: Activity::IndexPutAside, space: None, done: 0, total: 0 });
    Ok(())
}
