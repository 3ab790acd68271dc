//! The index in sled, one tree.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::guard::guarded;
use super::{Batch, Index, IndexError, KeyValue, Visit};

/// How often sled writes out what is only in memory. What is lost in between is made anew from the log.
const FLUSH_EVERY_MS: u64 = 500;

/// How often, and how far apart, a locked database is tried before it counts as held by somebody else.
const LOCK_ATTEMPTS: u32 = 150;
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// An index in sled.
///
/// A damaged sled may panic rather than return an error; a panic comes out of every call here as
/// [`IndexError::Panicked`].
#[derive(Debug)]
pub struct SledIndex {
    db: sled::Db,
    /// Let go after the database is: fields drop in order.
    _lock: Option<Arc<File>>,
}

impl SledIndex {
    /// Opens or creates the index in the directory `path`, with so many bytes of memory for a cache.
    pub fn open(path: &Path, cache_bytes: u64) -> Result<Self, IndexError> {
        let config = sled::Config::new()
            .path(path)
            .cache_capacity(cache_bytes)
            .flush_every_ms(Some(FLUSH_EVERY_MS))
            .use_compression(false)
            .mode(sled::Mode::HighThroughput);
        // A database that was just dropped lets go of its lock a little later, when its threads have ended.
        for _ in 0..LOCK_ATTEMPTS {
            match guarded(|| config.open()) {
                Ok(db) => return Ok(Self { db, _lock: None }),
                Err(error) if is_locked(&error) => std::thread::sleep(LOCK_RETRY),
                Err(error) => return Err(error),
            }
        }
        Err(IndexError::Locked)
    }

    /// Keeps a lock file open as long as the index is.
    pub(crate) fn holding(self, lock: Arc<File>) -> Self {
        Self { _lock: Some(lock), ..self }
    }
}

impl Index for SledIndex {
    fn value(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        guarded(|| self.db.get(key)).map(|value| value.map(|value| value.to_vec()))
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<(), IndexError> {
        if from >= to {
            return Ok(());
        }
        // The visitor runs outside of the guard: its panics are not sled's.
        let mut entries = guarded(|| sled::Result::Ok(self.db.range(from..to)))?;
        while let Some((key, value)) = guarded(|| entries.next().transpose())? {
            if visit(&key, &value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<KeyValue>, IndexError> {
        if from >= to {
            return Ok(None);
        }
        let last = guarded(|| self.db.range(from..to).next_back().transpose())?;
        Ok(last.map(|(key, value)| (key.to_vec(), value.to_vec())))
    }

    fn apply(&self, batch: Batch) -> Result<(), IndexError> {
        let mut changes = sled::Batch::default();
        for (key, value) in batch.changes {
            match value {
                Some(value) => changes.insert(key, value),
                None => changes.remove(key),
            }
        }
        guarded(|| self.db.apply_batch(changes))
    }

    fn flush(&self) -> Result<(), IndexError> {
        guarded(|| self.db.flush()).map(drop)
    }

    fn size_bytes(&self) -> Result<u64, IndexError> {
        guarded(|| self.db.size_on_disk())
    }
}

/// Whether the database is held, by its own lock. Sled says so in words only.
fn is_locked(error: &IndexError) -> bool {
    matches!(error, IndexError::Failed(cause) if cause.to_string().contains("could not acquire lock"))
}
