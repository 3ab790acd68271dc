//! The index: one ordered map with atomic batches, holding nothing that could not be made anew.
//!
//! Batches are atomic, not immediately durable: after a crash the index may be an older state of itself, never a
//! mixture. Whoever keeps something here therefore records in the same batch up to where in the log it is complete.

mod gathered;
mod guard;
mod memory;
mod redb;
mod reserving;
mod sled;

#[cfg(test)]
mod conformance;

use std::fmt::Debug;
use std::ops::ControlFlow;
use std::sync::Arc;

pub use self::gathered::GatheredIndex;
pub use self::memory::MemoryIndex;
pub use self::redb::RedbIndex;
pub(crate) use self::reserving::ReservingIndex;
pub use self::sled::SledIndex;
use crate::disk::is_full;
use crate::layout::{Area, area_key, successor};

/// Bytes of memory that an index may keep pages in, unless told otherwise. The operating system caches its files
/// besides.
pub const INDEX_CACHE_BYTES: u64 = 32 << 20;
/// Entries removed in one batch when a whole range goes.
const REMOVALS_PER_BATCH: usize = 4096;

/// Which store keeps the index of a data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum IndexKind {
    /// sled.
    #[default]
    Sled,
    /// redb.
    Redb,
}

impl IndexKind {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Sled, Self::Redb];

    /// Its name, as it stands in the format marker of a data directory.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sled => "sled",
            Self::Redb => "redb",
        }
    }

    /// The kind of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// Why a call on the index failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// The store underneath refused.
    #[error("{0}")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Somebody else has it open.
    #[error("it is open elsewhere")]
    Locked,
    /// The store underneath panicked.
    #[error("it panicked: {0}")]
    Panicked(String),
    /// An entry does not have the form it must have.
    #[error("its entry for {0} is damaged")]
    Damaged(&'static str),
}

impl IndexError {
    /// Whether there was no room on the disk.
    pub fn is_full(&self) -> bool {
        let Self::Failed(cause) = self else { return false };
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&**cause);
        while let Some(error) = cause {
            // Sled does not name what it wraps as its source.
            let wrapped = match error.downcast_ref::<::sled::Error>() {
                Some(::sled::Error::Io(wrapped)) => Some(wrapped),
                _ => error.downcast_ref::<std::io::Error>(),
            };
            if wrapped.is_some_and(is_full) {
                return true;
            }
            cause = error.source();
        }
        false
    }
}

/// Changes that happen together or not at all; later ones win.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    pub(crate) changes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Batch {
    /// Sets a key.
    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.changes.push((key, Some(value)));
    }

    /// Removes a key, if it is there.
    pub fn remove(&mut self, key: Vec<u8>) {
        self.changes.push((key, None));
    }

    /// How many changes it holds.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

/// What a scan calls for each key and value; breaking ends the scan.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// A key with its value.
pub type KeyValue = (Vec<u8>, Vec<u8>);

/// One ordered map from bytes to bytes with atomic batches.
pub trait Index: Send + Sync + Debug {
    /// The value of a key.
    fn value(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError>;

    /// Visits the keys from `from` up to but not including `to`, in order. The visitor must not use the index.
    fn scan(&self, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<(), IndexError>;

    /// The greatest key from `from` up to but not including `to`, with its value.
    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<KeyValue>, IndexError>;

    /// Makes all changes of a batch, or none.
    fn apply(&self, batch: Batch) -> Result<(), IndexError>;

    /// Writes out what is only in memory.
    fn flush(&self) -> Result<(), IndexError>;

    /// About how many bytes it occupies.
    fn size_bytes(&self) -> Result<u64, IndexError>;
}

/// Removes every key from `from` up to but not including `to`, in several batches.
pub(crate) fn remove_range(index: &dyn Index, from: &[u8], to: &[u8]) -> Result<(), IndexError> {
    loop {
        let mut batch = Batch::default();
        index.scan(from, to, &mut |key, _| {
            batch.remove(key.to_vec());
            if batch.len() == REMOVALS_PER_BATCH { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        let more = batch.len() == REMOVALS_PER_BATCH;
        index.apply(batch)?;
        if !more {
            return Ok(());
        }
    }
}

/// One space's part of the index, or the node's own: the same [`Area`]s under a number of their own.
#[derive(Debug, Clone)]
pub struct SpaceIndex {
    index: Arc<dyn Index>,
    number: u32,
}

impl SpaceIndex {
    pub(crate) fn new(index: Arc<dyn Index>, number: u32) -> Self {
        Self { index, number }
    }

    /// The same part of the index behind a gatherer of its own, which has to be told when to write.
    pub fn gathered(&self) -> (Self, Arc<GatheredIndex>) {
        let gathered = Arc::new(GatheredIndex::new(self.index.clone()));
        (Self { index: gathered.clone(), number: self.number }, gathered)
    }

    /// The number that its keys begin with. A space whose index is made anew gets a new one.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The full key for use in a [`Batch`].
    pub fn key(&self, area: Area, suffix: &[u8]) -> Vec<u8> {
        area_key(self.number, area, suffix)
    }

    /// The value at `suffix` in `area`.
    pub fn value(&self, area: Area, suffix: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        self.index.value(&self.key(area, suffix))
    }

    /// Visits the entries of `area` whose suffix is in `from..to`, in order; no `to` means to the area's end.
    ///
    /// The visitor is given suffixes and must not use the index.
    pub fn scan(&self, area: Area, from: &[u8], to: Option<&[u8]>, visit: Visit<'_>) -> Result<(), IndexError> {
        let (from, to) = (self.key(area, from), self.end(area, to));
        let skipped = self.key(area, &[]).len();
        self.index.scan(&from, &to, &mut |key, value| visit(&key[skipped..], value))
    }

    /// Up to `limit` entries of `area` whose suffix begins with `prefix`, in order, beginning after `start_after`.
    pub fn page(
        &self,
        area: Area,
        prefix: &[u8],
        start_after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<KeyValue>, IndexError> {
        let mut page = Vec::new();
        if limit == 0 {
            return Ok(page);
        }
        // The smallest suffix after another is that one with a zero byte behind it.
        let from = start_after.map_or_else(|| prefix.to_vec(), |after| [after, &[0]].concat()).max(prefix.to_vec());
        let to = successor(prefix);
        self.scan(area, &from, to.as_deref(), &mut |suffix, value| {
            page.push((suffix.to_vec(), value.to_vec()));
            if page.len() == limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        Ok(page)
    }

    /// The entry of `area` with the greatest suffix in `from..to`; no `to` means to the area's end.
    pub fn last(&self, area: Area, from: &[u8], to: Option<&[u8]>) -> Result<Option<KeyValue>, IndexError> {
        let skipped = self.key(area, &[]).len();
        let found = self.index.last(&self.key(area, from), &self.end(area, to))?;
        Ok(found.map(|(key, value)| (key[skipped..].to_vec(), value)))
    }

    /// Makes all changes of a batch, or none; its keys come from [`SpaceIndex::key`].
    pub fn apply(&self, batch: Batch) -> Result<(), IndexError> {
        self.index.apply(batch)
    }

    /// Empties an area, in several batches.
    pub fn clear(&self, area: Area) -> Result<(), IndexError> {
        remove_range(&*self.index, &self.key(area, &[]), &self.end(area, None))
    }

    /// Writes out what is only in memory.
    pub fn flush(&self) -> Result<(), IndexError> {
        self.index.flush()
    }

    fn end(&self, area: Area, to: Option<&[u8]>) -> Vec<u8> {
        match to {
            Some(to) => self.key(area, to),
            None => successor(&self.key(area, &[])).expect("a key of number and area has a successor"),
        }
    }
}
