//! An index in front of which the reserve is given up before the disk is full.

use std::sync::Arc;

use super::{Batch, Index, IndexError, KeyValue, Visit};
use crate::room::Room;

/// Another index, told to write only after its [`Room`] was looked at.
///
/// Sled writes its files later, in a thread of its own, and takes no room for the end: every call fails from then on
/// until it is opened anew. So the reserve goes when the disk is about to be full, not when it is. If that does not
/// help nothing is lost: the index is derived, the spaces stop, and the next start makes it from the logs.
#[derive(Debug)]
pub(crate) struct ReservingIndex {
    index: Arc<dyn Index>,
    room: Arc<Room>,
}

impl ReservingIndex {
    pub(crate) fn new(index: Arc<dyn Index>, room: Arc<Room>) -> Self {
        Self { index, room }
    }
}

impl Index for ReservingIndex {
    fn value(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        self.index.value(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<(), IndexError> {
        self.index.scan(from, to, visit)
    }

    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<KeyValue>, IndexError> {
        self.index.last(from, to)
    }

    fn apply(&self, batch: Batch) -> Result<(), IndexError> {
        self.room.before_index();
        self.index.apply(batch)
    }

    fn flush(&self) -> Result<(), IndexError> {
        self.room.before_index();
        self.index.flush()
    }

    fn size_bytes(&self) -> Result<u64, IndexError> {
        self.index.size_bytes()
    }
}
