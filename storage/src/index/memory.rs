//! An index in memory that can lose its latest batches.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::{Batch, Index, IndexError, KeyValue, Visit};

/// Batches that a power loss can take back; older ones count as written out, as a background flush would do.
const UNFLUSHED_BATCHES_MAX: usize = 256;

/// An index in memory; clones share it.
#[derive(Debug, Clone, Default)]
pub struct MemoryIndex {
    state: Arc<RwLock<State>>,
}

#[derive(Debug, Default)]
struct State {
    seen: BTreeMap<Vec<u8>, Vec<u8>>,
    flushed: BTreeMap<Vec<u8>, Vec<u8>>,
    unflushed: VecDeque<Batch>,
    failing: bool,
}

impl MemoryIndex {
    /// An empty index.
    pub fn new() -> Self {
        Self::default()
    }

    /// The machine lost power: the index goes back to the last flush and some of the batches since.
    ///
    /// `choose(n)` returns a number below `n`.
    pub fn lose_power(&self, choose: &mut dyn FnMut(u64) -> u64) {
        let mut state = self.write();
        let kept = choose(state.unflushed.len() as u64 + 1) as usize;
        let State { seen, flushed, unflushed, .. } = &mut *state;
        for batch in unflushed.drain(..).take(kept) {
            change(flushed, &batch);
        }
        seen.clone_from(flushed);
    }

    /// Loses everything, as when its files are removed.
    pub fn erase(&self) {
        *self.write() = State::default();
    }

    /// Makes every batch fail from now on, or no longer.
    pub fn set_failing(&self, failing: bool) {
        self.write().failing = failing;
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn change(map: &mut BTreeMap<Vec<u8>, Vec<u8>>, batch: &Batch) {
    for (key, value) in &batch.changes {
        match value {
            Some(value) => drop(map.insert(key.clone(), value.clone())),
            None => drop(map.remove(key)),
        }
    }
}

fn bounds<'a>(from: &'a [u8], to: &'a [u8]) -> (Bound<&'a [u8]>, Bound<&'a [u8]>) {
    // A range that ends before it starts is empty, where the map would panic.
    (Bound::Included(from), Bound::Excluded(to.max(from)))
}

impl Index for MemoryIndex {
    fn value(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        Ok(self.read().seen.get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<(), IndexError> {
        for (key, value) in self.read().seen.range::<[u8], _>(bounds(from, to)) {
            if visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<KeyValue>, IndexError> {
        let state = self.read();
        let last = state.seen.range::<[u8], _>(bounds(from, to)).next_back();
        Ok(last.map(|(key, value)| (key.clone(), value.clone())))
    }

    fn apply(&self, batch: Batch) -> Result<(), IndexError> {
        let mut state = self.write();
        if state.failing {
            return Err(IndexError::Failed("simulated failure of the index".into()));
        }
        change(&mut state.seen, &batch);
        state.unflushed.push_back(batch);
        if state.unflushed.len() > UNFLUSHED_BATCHES_MAX
            && let Some(oldest) = state.unflushed.pop_front()
        {
            change(&mut state.flushed, &oldest);
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), IndexError> {
        let mut state = self.write();
        let State { flushed, unflushed, .. } = &mut *state;
        for batch in unflushed.drain(..) {
            change(flushed, &batch);
        }
        Ok(())
    }

    fn size_bytes(&self) -> Result<u64, IndexError> {
        Ok(self.read().seen.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum())
    }
}
