//! Documents in and out of memory: what a job is given to bring one up to date, and what is kept of one that leaves.

use std::sync::Arc;

use syncline_model::DocumentKey;
use syncline_model::planted::{Bug, planted};
use syncline_storage::{Batch, IndexError};

use super::{Desk, SNAPSHOT_CHANGES_MIN, Turn};
use crate::documents::assemble::{Assembled, Base, Missing, Recipe};
use crate::documents::cache::Place;
use crate::documents::catalog::{BlockedDocument, Catalog, CatalogEntry, Reference, SNAPSHOT};
use crate::documents::job::Assignment;
use crate::documents::snapshot::{Loaded, Snapshot};

/// What one change is assumed to take in memory before it is read, in bytes.
const CHANGE_BYTES_ESTIMATE: usize = 512;

impl Desk {
    /// Drops what is in memory of a document if it cannot be built upon.
    pub(super) fn drop_stale(&mut self, key: &DocumentKey, entry: &CatalogEntry) {
        let stale = |loaded: &Loaded| loaded.generation != entry.generation || loaded.complete > entry.total();
        let is_stale = self.cache.get(key).is_some_and(|slot| match &slot.place {
            Place::Here(loaded) => slot.reset.is_none() && stale(loaded) && !planted(Bug::StaleDocumentKept),
            Place::Absent | Place::Out => false,
        });
        if is_stale {
            self.lineage.stale |= self.cache.discard(key);
        }
    }

    /// Takes a document and says how to bring it up to date.
    pub(super) fn assign(
        &mut self,
        key: &DocumentKey,
        entry: CatalogEntry,
        turn: &mut Turn<'_>,
    ) -> Result<Assignment, IndexError> {
        let is_reset = self.cache.slot(key).reset.is_some();
        let irreplaceable = !self.cache.slot(key).pending.is_empty();
        let select = self.cache.slot(key).select;
        let mut known_blocked = self.catalog.blocked_in(key)?.records;
        let (mut total, mut generation) = (entry.total(), entry.generation);
        let survivors = |catalog: &Catalog, from| -> Result<Missing, IndexError> {
            let mut references = catalog.references(key, &entry, from)?;
            references.retain(|reference| entry.survives(reference));
            Ok(Missing::After(references))
        };
        let (base, missing) = match self.cache.take(key) {
            // What others did is taken in when the delete is durable.
            Some(loaded) if is_reset => {
                (total, generation) = (loaded.complete, loaded.generation);
                known_blocked.clone_from(&loaded.blocked);
                (Base::Loaded(loaded), Missing::After(Vec::new()))
            }
            _ if select => {
                let all = self.catalog.references(key, &entry, 0)?;
                (Base::Empty, Missing::Select { all, entry })
            }
            Some(loaded) => {
                let missing = survivors(&self.catalog, loaded.complete)?;
                (Base::Loaded(loaded), missing)
            }
            None => match self.snapshot(key, &entry)? {
                Some(snapshot) => {
                    let missing = survivors(&self.catalog, snapshot.complete)?;
                    (Base::Snapshot(snapshot), missing)
                }
                None => (Base::Empty, survivors(&self.catalog, entry.floor)?),
            },
        };
        let recipe = Recipe {
            key: key.clone(),
            base,
            missing,
            total,
            generation,
            authors: Arc::clone(self.catalog.authors()),
            withheld: Arc::clone(self.catalog.withheld()),
        };
        let save = (!irreplaceable && !is_reset && total > SNAPSHOT_CHANGES_MIN).then(|| turn.seed());
        Ok(Assignment { recipe, known_blocked, save, irreplaceable })
    }

    /// The snapshot of a document, if it can be built upon.
    pub(super) fn snapshot(&self, key: &DocumentKey, entry: &CatalogEntry) -> Result<Option<Snapshot>, IndexError> {
        if entry.total() - entry.floor <= SNAPSHOT_CHANGES_MIN {
            return Ok(None);
        }
        let value = self.catalog.index().value(SNAPSHOT, key.as_str().as_bytes())?;
        let same = |found: &Snapshot| found.generation == entry.generation || planted(Bug::StaleSnapshotUsed);
        let fits = |found: &Snapshot| same(found) && found.complete <= entry.total();
        Ok(value.and_then(Snapshot::parse).filter(fits))
    }

    /// Puts a document back; returns what is wrong when it cannot be read.
    pub(super) fn take_back(
        &mut self,
        key: &DocumentKey,
        assembled: Option<Assembled>,
        settles: bool,
    ) -> Result<Option<String>, IndexError> {
        let slot = self.cache.slot(key);
        let was_selected = std::mem::replace(&mut slot.select, matches!(assembled, Some(Assembled::Select)));
        let discard = std::mem::take(&mut slot.discard);
        let mut damage = None;
        let loaded = match assembled {
            Some(Assembled::Ready(loaded)) => Some(loaded),
            Some(Assembled::BadSnapshot) => {
                self.store_snapshot(key, None)?;
                None
            }
            Some(Assembled::Failed(error)) => {
                damage = Some(error.to_string());
                None
            }
            Some(Assembled::Select) | None => None,
        };
        let found = loaded.as_ref().map(|loaded| (loaded.generation, loaded.complete, loaded.blocked.clone()));
        let is_reset = self.cache.slot(key).reset.is_some();
        let lost = loaded.is_none() || discard;
        self.cache.put(key, loaded.filter(|_| !discard));
        if lost {
            self.lineage.stale |= self.cache.discard(key);
            self.cache.slot(key);
        }
        if let Some((generation, complete, records)) = found
            && !is_reset
            && !discard
            && (settles || !records.is_empty() || self.catalog.blocked().contains(key))
        {
            // What was found under other circumstances does not count; it is looked for again.
            let entry = self.catalog.entry(key)?.unwrap_or_default();
            if entry.generation == generation {
                let blocked = BlockedDocument { basis: (complete, entry.deletes), records };
                self.settle(key, &blocked, was_selected, settles)?;
            }
        }
        Ok(damage)
    }

    pub(super) fn store_snapshot(&self, key: &DocumentKey, value: Option<Vec<u8>>) -> Result<(), IndexError> {
        let index = self.catalog.index();
        let mut batch = Batch::default();
        let place = index.key(SNAPSHOT, key.as_str().as_bytes());
        match value {
            Some(value) => batch.put(place, value),
            None => batch.remove(place),
        }
        index.apply(batch)
    }

    /// Lets go of documents that were idle the longest, until the cache is within its bound.
    pub(super) fn make_room(&mut self, turn: &mut Turn<'_>) -> Result<(), IndexError> {
        while let Some((key, loaded)) = self.cache.evict(false) {
            self.keep_snapshot(&key, &loaded, turn)?;
        }
        Ok(())
    }

    /// Writes a snapshot of a document that leaves memory, if making it anew would take long.
    pub(super) fn keep_snapshot(
        &self,
        key: &DocumentKey,
        loaded: &Loaded,
        turn: &mut Turn<'_>,
    ) -> Result<(), IndexError> {
        let is_worth_it = loaded.complete > SNAPSHOT_CHANGES_MIN
            && loaded.complete - loaded.saved > SNAPSHOT_CHANGES_MIN
            && !loaded.document.has_failed();
        let current = if is_worth_it { self.catalog.entry(key)? } else { None };
        let Some(entry) = current.filter(|entry| entry.generation == loaded.generation && entry.exists()) else {
            return Ok(());
        };
        if loaded.complete > entry.total() {
            return Ok(());
        }
        match Snapshot::save(loaded, key, &self.shared.seal_key, turn.seed()) {
            Some(value) => self.store_snapshot(key, Some(value)),
            None => Ok(()),
        }
    }
}

/// About how many bytes a document will take, which stands for the time that work on it takes.
pub(super) fn weight(recipe: &Recipe) -> usize {
    let base = match &recipe.base {
        Base::Empty => 0,
        Base::Loaded(loaded) => loaded.document.memory_estimate(),
        Base::Snapshot(snapshot) => snapshot.bytes(),
    };
    let changes: &Vec<Reference> = match &recipe.missing {
        Missing::After(references) => references,
        Missing::Select { all, .. } => all,
    };
    base + changes.len() * CHANGE_BYTES_ESTIMATE
}
