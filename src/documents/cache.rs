//! The documents in memory: which are here, which are out with a job, and which go first when room is needed.
//!
//! Every document that a task concerns has a slot with a queue; tasks of one document run strictly in that order. A
//! slot that is of no further use goes away, so that memory depends on what is open and on the node's bound alone.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use syncline_model::DocumentKey;

use super::budget::CacheBudget;
use super::snapshot::Loaded;

/// Where a document is.
#[derive(Debug, Default)]
pub(super) enum Place {
    /// Not in memory.
    #[default]
    Absent,
    /// Here.
    Here(Box<Loaded>),
    /// With a job.
    Out,
}

/// A transaction that is not durable yet deleted the document, so that it is empty here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reset {
    /// The transaction.
    pub(super) order: u64,
    /// Which lineage was current: a new one is needed for the first edit after the delete.
    pub(super) lineage: u64,
    /// Whether it was edited since.
    pub(super) has_content: bool,
}

/// What is known of a document beside its content.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) place: Place,
    /// Transactions that it contains and that are not durable yet.
    pub(super) pending: BTreeSet<u64>,
    pub(super) reset: Option<Reset>,
    /// Tasks that concern it; the first one runs or waits for its other documents.
    pub(super) queue: VecDeque<u64>,
    /// It has to be made by selection.
    pub(super) select: bool,
    /// It is dropped when it comes back from its job.
    pub(super) discard: bool,
    bytes: usize,
    /// Its place in the order of eviction, if it may be evicted.
    tick: Option<u64>,
}

impl Slot {
    fn is_evictable(&self) -> bool {
        matches!(self.place, Place::Here(_)) && self.pending.is_empty() && self.reset.is_none() && self.queue.is_empty()
    }

    fn is_useless(&self) -> bool {
        matches!(self.place, Place::Absent) && self.pending.is_empty() && self.reset.is_none() && self.queue.is_empty()
    }
}

/// The slots, and the bound on what they hold together with those of other spaces.
#[derive(Debug)]
pub(super) struct Cache {
    slots: BTreeMap<DocumentKey, Slot>,
    idle: BTreeMap<u64, DocumentKey>,
    ticks: u64,
    bytes: usize,
    budget: CacheBudget,
    loaded: usize,
}

impl Cache {
    pub(super) fn new(budget: CacheBudget) -> Self {
        budget.join();
        Self { slots: BTreeMap::new(), idle: BTreeMap::new(), ticks: 0, bytes: 0, budget, loaded: 0 }
    }

    /// Documents here, and what they take.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.loaded, self.bytes)
    }

    pub(super) fn get(&self, key: &DocumentKey) -> Option<&Slot> {
        self.slots.get(key)
    }

    pub(super) fn get_mut(&mut self, key: &DocumentKey) -> Option<&mut Slot> {
        self.slots.get_mut(key)
    }

    /// The slot of a document, made if need be. Whoever changes it ends with [`Cache::rest`].
    pub(super) fn slot(&mut self, key: &DocumentKey) -> &mut Slot {
        if !self.slots.contains_key(key) {
            self.slots.insert(key.clone(), Slot::default());
        }
        self.slots.get_mut(key).expect("it was inserted above")
    }

    /// Takes the document for a job; `None` when it is not in memory.
    pub(super) fn take(&mut self, key: &DocumentKey) -> Option<Box<Loaded>> {
        let slot = self.slot(key);
        let (place, tick, bytes) = (std::mem::replace(&mut slot.place, Place::Out), slot.tick.take(), slot.bytes);
        slot.bytes = 0;
        if let Some(tick) = tick {
            self.idle.remove(&tick);
        }
        let Place::Here(loaded) = place else { return None };
        self.bytes -= bytes;
        self.budget.give_back(bytes);
        self.loaded -= 1;
        Some(loaded)
    }

    /// Puts the document back, or says that it is lost.
    pub(super) fn put(&mut self, key: &DocumentKey, loaded: Option<Box<Loaded>>) {
        drop(self.take(key));
        let bytes = loaded.as_ref().map_or(0, |loaded| loaded.document.memory_estimate() + key.as_str().len());
        self.bytes += bytes;
        self.budget.take(bytes);
        self.loaded += usize::from(loaded.is_some());
        let slot = self.slot(key);
        slot.bytes = bytes;
        slot.place = loaded.map_or(Place::Absent, Place::Here);
    }

    /// Drops the document and what depends on it being here. Returns whether that loses sight of changes that are not
    /// durable: then their lineage must not go on.
    pub(super) fn discard(&mut self, key: &DocumentKey) -> bool {
        let Some(slot) = self.slots.get_mut(key) else { return false };
        let loses = !slot.pending.is_empty() || slot.reset.is_some();
        slot.pending.clear();
        slot.reset = None;
        if matches!(slot.place, Place::Out) {
            slot.discard = true;
        } else {
            self.put(key, None);
        }
        self.rest(key);
        loses
    }

    /// Takes note that a slot may have become evictable or useless.
    pub(super) fn rest(&mut self, key: &DocumentKey) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        if slot.is_useless() {
            self.slots.remove(key);
        } else if slot.is_evictable() && slot.tick.is_none() {
            self.ticks += 1;
            slot.tick = Some(self.ticks);
            self.idle.insert(self.ticks, key.clone());
        } else if !slot.is_evictable()
            && let Some(tick) = slot.tick.take()
        {
            self.idle.remove(&tick);
        }
    }

    /// Takes out the document that was idle the longest, if there is not enough room, or if `all` have to go.
    pub(super) fn evict(&mut self, all: bool) -> Option<(DocumentKey, Box<Loaded>)> {
        if !all && !self.budget.is_exceeded(self.bytes) {
            return None;
        }
        let (_, key) = self.idle.pop_first()?;
        debug_assert!(self.slots.get(&key).is_some_and(Slot::is_evictable), "what is in use is not idle");
        let loaded = self.take(&key);
        self.slots.remove(&key);
        loaded.map(|loaded| (key, loaded))
    }

    /// The keys of all slots.
    pub(super) fn keys(&self) -> impl Iterator<Item = &DocumentKey> {
        self.slots.keys()
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.budget.leave(self.bytes);
    }
}
