//! The index in redb, one table in one file.
//!
//! A batch is one transaction, so it is never torn. Most transactions are not made durable: after an unclean end redb
//! opens at the last durable one, with an older state of the index, which the log then completes. Now and then a
//! transaction is made durable anyway, because redb reuses the pages of older states only then.

use std::fmt;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use redb::{Builder, Database, Durability, ReadableDatabase, StorageBackend, TableDefinition};

use super::guard::guarded;
use super::{Batch, Index, IndexError, KeyValue, Visit};
use crate::disk::{Access, Disk, DiskFile};

/// The table and its file.
const TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("index");
const FILE: &str = "index.redb";
/// Changes, and bytes of them, after which a batch is made durable: bounds how the file grows between.
const VOLATILE_CHANGES_MAX: usize = 1 << 15;
const VOLATILE_BYTES_MAX: usize = 8 << 20;

/// An index in redb.
///
/// The file stands on a [`Disk`], so that a power loss or a failing disk can be tried on it.
pub struct RedbIndex {
    database: Database,
    file: Arc<dyn DiskFile>,
    /// What was applied since the last durable transaction: changes and their bytes.
    volatile: Mutex<(usize, usize)>,
    /// Let go after the database is: fields drop in order.
    _lock: Option<Arc<File>>,
}

impl RedbIndex {
    /// Opens or creates the index in an existing directory of a disk, with so many bytes of memory for a cache. Nobody
    /// else may have it open.
    pub fn open_on(disk: &dyn Disk, directory: &str, cache_bytes: u64) -> Result<Self, IndexError> {
        let path = if directory.is_empty() { FILE.to_owned() } else { format!("{directory}/{FILE}") };
        let file = guarded(|| match disk.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let file = disk.create(&path, Access::Default)?;
                disk.sync_directory(directory)?;
                Ok(file)
            }
            other => other,
        })?;
        let database = open_checked(&file, cache_bytes)?;
        guarded(|| -> Result<(), redb::Error> {
            let transaction = database.begin_write()?;
            drop(transaction.open_table(TABLE)?);
            Ok(transaction.commit()?)
        })?;
        Ok(Self { database, file, volatile: Mutex::default(), _lock: None })
    }

    /// Keeps a lock file open as long as the index is.
    pub(crate) fn holding(self, lock: Arc<File>) -> Self {
        Self { _lock: Some(lock), ..self }
    }

    fn commit(&self, batch: &Batch, durability: Durability) -> Result<(), IndexError> {
        guarded(|| -> Result<(), redb::Error> {
            let mut transaction = self.database.begin_write()?;
            transaction.set_durability(durability)?;
            {
                let mut table = transaction.open_table(TABLE)?;
                for (key, value) in &batch.changes {
                    match value {
                        Some(value) => drop(table.insert(key.as_slice(), value.as_slice())?),
                        None => drop(table.remove(key.as_slice())?),
                    }
                }
            }
            Ok(transaction.commit()?)
        })
    }
}

/// Opens the database and checks all of it once: redb itself goes over the checksums of its pages only after an
/// unclean end, and would take a page that changed on the disk for good.
fn open_checked(file: &Arc<dyn DiskFile>, cache_bytes: u64) -> Result<Database, IndexError> {
    let checked = Arc::new(AtomicBool::new(false));
    let noted = checked.clone();
    let mut builder = Builder::new();
    let cache_bytes = usize::try_from(cache_bytes).unwrap_or(usize::MAX);
    builder.set_cache_size(cache_bytes).set_repair_callback(move |_| noted.store(true, Ordering::Relaxed));
    let mut database = guarded(|| builder.create_with_backend(OnDisk(file.clone())))?;
    if checked.load(Ordering::Relaxed) || guarded(|| database.check_integrity())? {
        Ok(database)
    } else {
        Err(IndexError::Damaged("a page of redb"))
    }
}

impl fmt::Debug for RedbIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedbIndex").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Index for RedbIndex {
    fn value(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        guarded(|| -> Result<_, redb::Error> {
            let table = self.database.begin_read()?.open_table(TABLE)?;
            Ok(table.get(key)?.map(|value| value.value().to_vec()))
        })
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<(), IndexError> {
        if from >= to {
            return Ok(());
        }
        // The visitor runs outside of the guard: its panics are not redb's.
        let mut entries = guarded(|| -> Result<_, redb::Error> {
            let table = self.database.begin_read()?.open_table(TABLE)?;
            Ok(table.range::<&[u8]>(from..to)?)
        })?;
        while let Some((key, value)) = guarded(|| entries.next().transpose())? {
            if visit(key.value(), value.value()).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<KeyValue>, IndexError> {
        if from >= to {
            return Ok(None);
        }
        guarded(|| -> Result<_, redb::Error> {
            let table = self.database.begin_read()?.open_table(TABLE)?;
            let last = table.range::<&[u8]>(from..to)?.next_back().transpose()?;
            Ok(last.map(|(key, value)| (key.value().to_vec(), value.value().to_vec())))
        })
    }

    fn apply(&self, batch: Batch) -> Result<(), IndexError> {
        if batch.is_empty() {
            return Ok(());
        }
        // Held meanwhile: there is one writer at a time in any case.
        let mut volatile = self.volatile.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = batch.changes.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len));
        let (changes, bytes) = (volatile.0 + batch.len(), volatile.1 + bytes.sum::<usize>());
        if changes > VOLATILE_CHANGES_MAX || bytes > VOLATILE_BYTES_MAX {
            self.commit(&batch, Durability::Immediate)?;
            *volatile = (0, 0);
        } else {
            self.commit(&batch, Durability::None)?;
            *volatile = (changes, bytes);
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), IndexError> {
        let mut volatile = self.volatile.lock().unwrap_or_else(PoisonError::into_inner);
        self.commit(&Batch::default(), Durability::Immediate)?;
        *volatile = (0, 0);
        Ok(())
    }

    fn size_bytes(&self) -> Result<u64, IndexError> {
        guarded(|| self.file.length())
    }
}

/// The file as redb wants it. The data directory's lock keeps other processes away.
#[derive(Debug)]
struct OnDisk(Arc<dyn DiskFile>);

impl StorageBackend for OnDisk {
    fn len(&self) -> io::Result<u64> {
        self.0.length()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let read = self.0.read_at(offset, out)?;
        if read == out.len() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.set_length(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, data)
    }
}
