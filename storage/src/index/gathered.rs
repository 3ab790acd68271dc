//! An index that gathers batches, so that many small ones cost as much as one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use syncline_model::planted::{Bug, planted};

use super::{Batch, Index, IndexError, KeyValue, Visit};

/// Changes gathered before they are written even if nobody asks for it.
const GATHERED_MAX: usize = 4096;

/// Holds changes back until [`GatheredIndex::write`], and answers as if they were made.
///
/// What was gathered is lost in a crash, as the latest batches of any index may be. Batches are never torn: they are
/// written whole and in order.
#[derive(Debug)]
pub struct GatheredIndex {
    index: Arc<dyn Index>,
    changes: Mutex<BTreeMap<Vec<u8>, Option<Vec<u8>>>>,
}

impl GatheredIndex {
    /// Gathers in front of `index`.
    pub fn new(index: Arc<dyn Index>) -> Self {
        Self { index, changes: Mutex::default() }
    }

    /// Writes what was gathered, as one batch.
    pub fn write(&self) -> Result<(), IndexError> {
        self.write_all(&mut self.gathered())
    }

    /// How many changes are held back.
    pub fn backlog(&self) -> usize {
        self.gathered().len()
    }

    fn write_all(&self, changes: &mut BTreeMap<Vec<u8>, Option<Vec<u8>>>) -> Result<(), IndexError> {
        if changes.is_empty() {
            return Ok(());
        }
        self.index.apply(Batch { changes: std::mem::take(changes).into_iter().collect() })
    }

    fn gathered(&self) -> MutexGuard<'_, BTreeMap<Vec<u8>, Option<Vec<u8>>>> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Index for GatheredIndex {
    fn value(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        match self.gathered().get(key) {
            Some(value) => Ok(value.clone()),
            None => self.index.value(key),
        }
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<(), IndexError> {
        if !planted(Bug::ScanMissesGathered) {
            self.write()?;
        }
        self.index.scan(from, to, visit)
    }

    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<KeyValue>, IndexError> {
        self.write()?;
        self.index.last(from, to)
    }

    fn apply(&self, mut batch: Batch) -> Result<(), IndexError> {
        // A batch names last how far it takes whatever it is about.
        if planted(Bug::WatermarkBeforeData)
            && let Some(watermark) = batch.changes.pop()
        {
            self.index.apply(Batch { changes: vec![watermark] })?;
        }
        let mut gathered = self.gathered();
        gathered.extend(batch.changes);
        if gathered.len() >= GATHERED_MAX { self.write_all(&mut gathered) } else { Ok(()) }
    }

    fn flush(&self) -> Result<(), IndexError> {
        self.write()?;
        self.index.flush()
    }

    fn size_bytes(&self) -> Result<u64, IndexError> {
        self.index.size_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::MemoryIndex;

    #[test]
    fn nothing_is_written_before_it_is_asked_for_and_everything_after() {
        let index = Arc::new(MemoryIndex::default());
        let gathered = GatheredIndex::new(index.clone());
        let mut batch = Batch::default();
        batch.put(b"a".to_vec(), b"1".to_vec());
        gathered.apply(batch).unwrap();
        assert_eq!(gathered.value(b"a").unwrap(), Some(b"1".to_vec()));
        assert_eq!(index.value(b"a").unwrap(), None);
        gathered.write().unwrap();
        assert_eq!(index.value(b"a").unwrap(), Some(b"1".to_vec()));
    }
}
