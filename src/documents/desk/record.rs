//! Recording operations in the catalog, and settling what is blocked by them.
//!
//! Of an operation over several documents either all changes are shown or none. Which are blocked is found out by
//! making the documents, so operations that could lose a change are looked at when they arrive; all others (one
//! document, or only changes that build on nothing) cannot take anything else with them and stay unread.
//!
//! The operations that are *withheld* are the least set such that every operation with a blocked change is in it. It
//! is found by following the consequences: a blocked change withholds its operation, whose other documents are made
//! again without it, which may block more. When a change is blocked no more, the search begins anew. Both are rare:
//! they need a faulty or hostile author.

use std::collections::{BTreeMap, BTreeSet};

use syncline_model::planted::{Bug, planted};
use syncline_model::{Action, DeviceId, DocumentKey, Past};
use syncline_storage::IndexError;

use super::{Desk, Purpose, Turn};
use crate::documents::assemble::stands_alone;
use crate::documents::catalog::{BlockedDocument, OperationRef, Recording, Reference, Touched};
use crate::documents::job::Work;
use crate::documents::request::{ChangeEvent, Opened, Output};
use crate::documents::version::Version;

/// Operations that one batch of the index takes; larger batches cost more for each operation.
const OPERATIONS_PER_BATCH: usize = 256;

/// What one entry of an operation does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Deed {
    pub(super) key: DocumentKey,
    pub(super) deletes: bool,
}

/// An operation as the catalog takes it.
struct Operation<'a> {
    author: DeviceId,
    writer: DeviceId,
    sequence: u64,
    wall_time_ms: u64,
    past: Option<&'a Past>,
    /// What each entry does.
    deeds: &'a [Deed],
}

/// What a batch of operations changed.
#[derive(Debug, Default)]
pub(super) struct Recorded {
    /// The position of the last one.
    pub(super) position: u64,
    /// The position before the first one.
    pub(super) before: u64,
    /// The documents concerned, as they are now.
    pub(super) entries: BTreeMap<DocumentKey, Touched>,
    /// Documents of which a delete left nothing.
    pub(super) emptied: BTreeSet<DocumentKey>,
    /// What watchers are told.
    pub(super) events: Vec<ChangeEvent>,
}

impl Desk {
    /// Records admitted operations; those that were applied before are skipped.
    pub(super) fn apply(&mut self, operations: &[Opened], turn: &mut Turn<'_>) -> Result<(), IndexError> {
        operations.chunks(OPERATIONS_PER_BATCH).try_for_each(|batch| self.apply_batch(batch, turn))
    }

    fn apply_batch(&mut self, operations: &[Opened], turn: &mut Turn<'_>) -> Result<(), IndexError> {
        let mut recorded = Recorded { before: self.catalog.position(), ..Recorded::default() };
        let mut looked_at: Vec<Vec<DocumentKey>> = Vec::new();
        let blocked = self.blocked_while_withheld();
        let version = self.catalog.version(0);
        let mut recording = self.catalog.record();
        for opened in operations {
            if opened.sequence <= recording.applied(&opened.author) && !planted(Bug::AppliedTwiceOnRecovery) {
                continue;
            }
            let mut deeds: Vec<Deed> = opened.entries.iter().map(deed).collect();
            if deeds.len() > 1 && planted(Bug::TransactionHalfVisible) {
                deeds.pop();
            }
            let changed = changed_documents(&deeds);
            let entangles = changed.len() > 1 && may_lose_a_change(&mut recording, opened)?;
            let operation = Operation {
                author: opened.author,
                writer: opened.writer,
                sequence: opened.sequence,
                wall_time_ms: opened.wall_time_ms,
                past: opened.past.as_ref(),
                deeds: &deeds,
            };
            record(&mut recording, &operation, &mut recorded, version)?;
            if entangles {
                for key in &changed {
                    recording.document(key)?.entry.entangled = true;
                }
                looked_at.push(changed);
            } else {
                for key in deeds.iter().map(|deed| deed.key.clone()) {
                    let is_foreign = |entry: &syncline_model::Entry| matches!(entry.action, Action::ForeignChange(_));
                    // Of one author the earlier change counts, unless it comes back from before a delete.
                    let known = &recording.document(&key)?.entry;
                    let may_come_back = known.deletes > 0 || opened.entries.iter().any(is_foreign);
                    let contests = known.entangled && may_come_back;
                    if contests || blocked.contains(&key) {
                        looked_at.push(vec![key]);
                    }
                }
            }
        }
        recorded.position = recording.position();
        looked_at.dedup();
        for key in looked_at.iter().flatten() {
            recording.expect(key);
        }
        recorded.entries = recording.finish()?;
        for keys in looked_at {
            self.submit(keys, Purpose::Touch, Work::Touch);
        }
        turn.out.push(Output::Applied { operations: operations.len() });
        self.show(recorded, turn)
    }

    /// Records one transaction of this device.
    pub(super) fn record_one(
        &mut self,
        author: DeviceId,
        sequence: u64,
        wall_time_ms: u64,
        deeds: &[Deed],
        past: Option<&Past>,
    ) -> Result<Recorded, IndexError> {
        let before = self.catalog.position();
        let mut recorded = Recorded { before, position: before, ..Recorded::default() };
        let version = self.catalog.version(0);
        let changed = changed_documents(deeds);
        let blocked = self.blocked_while_withheld();
        let mut recording = self.catalog.record();
        if sequence <= recording.applied(&author) {
            // It was replayed in the meantime, after a rebuild.
            return Ok(recorded);
        }
        let mut entangles = false;
        for key in &changed {
            entangles |= changed.len() > 1 && recording.document(key)?.entry.total() > 0;
        }
        record(
            &mut recording,
            &Operation { author, writer: author, sequence, wall_time_ms, past, deeds },
            &mut recorded,
            version,
        )?;
        if entangles {
            for key in &changed {
                recording.document(key)?.entry.entangled = true;
            }
        }
        let mut looked_at: Vec<DocumentKey> = deeds.iter().map(|deed| deed.key.clone()).collect();
        looked_at.retain(|key| blocked.contains(key));
        looked_at.dedup();
        for key in &looked_at {
            recording.expect(key);
        }
        recorded.position = recording.position();
        recorded.entries = recording.finish()?;
        for key in looked_at {
            self.submit(vec![key], Purpose::Touch, Work::Touch);
        }
        Ok(recorded)
    }

    /// The documents with blocked changes, as long as these take others with them.
    fn blocked_while_withheld(&self) -> BTreeSet<DocumentKey> {
        if self.catalog.withheld().is_empty() { BTreeSet::new() } else { self.catalog.blocked().clone() }
    }

    /// Compares what is blocked in a document with what was known, and follows the consequences.
    ///
    /// `selected`: it was found by selection. `again`: also when nothing is new, since what is withheld may have been
    /// given up.
    pub(super) fn settle(
        &mut self,
        key: &DocumentKey,
        blocked: &BlockedDocument,
        selected: bool,
        again: bool,
    ) -> Result<(), IndexError> {
        let known = self.catalog.blocked_in(key)?;
        if known.records == blocked.records && known.basis == blocked.basis && !again {
            return Ok(());
        }
        if known != *blocked {
            self.catalog.set_blocked(key, blocked)?;
        }
        if !self.catalog.withheld().is_empty() && may_free(&known, blocked, selected) {
            return self.search_anew();
        }
        for record in &blocked.records {
            let operation = record.reference.operation;
            if !self.catalog.withheld().contains(&operation) {
                self.withhold(operation)?;
            }
        }
        Ok(())
    }

    /// Withholds an operation, if it has changes in several documents.
    fn withhold(&mut self, operation: OperationRef) -> Result<(), IndexError> {
        let documents = self.changed_by(operation);
        if documents.len() < 2 {
            return Ok(());
        }
        self.catalog.set_withheld(Some(operation), &documents)?;
        for key in documents {
            self.submit_settling(key);
        }
        Ok(())
    }

    /// Frees all operations and looks again at every document that they concern or that has a blocked change.
    fn search_anew(&mut self) -> Result<(), IndexError> {
        let mut documents = self.catalog.blocked().clone();
        for operation in self.catalog.withheld().iter().copied().collect::<Vec<_>>() {
            documents.extend(self.changed_by(operation));
        }
        self.catalog.set_withheld(None, &documents)?;
        for key in &documents {
            let mut blocked = self.catalog.blocked_in(key)?;
            let before = blocked.records.len();
            blocked.records.retain(|record| !record.derived);
            if blocked.records.len() < before {
                self.catalog.set_blocked(key, &blocked)?;
            }
        }
        for key in documents {
            self.submit_settling(key);
        }
        Ok(())
    }

    /// The documents that an operation changes; none when it cannot be read.
    fn changed_by(&self, operation: OperationRef) -> BTreeSet<DocumentKey> {
        let mut documents = BTreeSet::new();
        let Some(author) = self.catalog.author(operation.author) else { return documents };
        let sequence = operation.sequence;
        let read = self.shared.operations.read(&author, sequence - 1, sequence, &mut |content| {
            let deeds: Vec<Deed> = content.entries.iter().map(deed).collect();
            documents.extend(changed_documents(&deeds));
        });
        if let Err(error) = read {
            tracing::warn!(space = %self.space.short(), %error, "an operation with a blocked change cannot be read");
        }
        documents
    }

    /// Tells everybody what became visible.
    pub(super) fn show(&mut self, mut recorded: Recorded, turn: &mut Turn<'_>) -> Result<(), IndexError> {
        for event in &mut recorded.events {
            event.deleted = recorded.entries.get(&event.key).is_some_and(|touched| !touched.entry.exists());
        }
        self.tell_watchers(&recorded, turn);
        while let Some(entry) = self.waiting.first_entry() {
            if *entry.key() > recorded.position {
                break;
            }
            for (token, query) in entry.remove() {
                self.query(token, query, turn)?;
            }
        }
        Ok(())
    }
}

pub(super) fn deed(entry: &syncline_model::Entry) -> Deed {
    Deed { key: entry.key.clone(), deletes: entry.action == Action::Delete }
}

/// Whether something may be blocked no more.
///
/// More being withheld frees nothing. So a change that is blocked no more, or no more by itself, tells of something
/// else; and where a selection took in something new, an operation may be withheld for no reason but itself.
fn may_free(known: &BlockedDocument, blocked: &BlockedDocument, selected: bool) -> bool {
    let now: BTreeMap<Reference, bool> =
        blocked.records.iter().map(|record| (record.reference, record.derived)).collect();
    let is_less = |now: Option<&bool>, before: bool| now.is_none_or(|derived| *derived && !before);
    let is_freed = known.records.iter().any(|record| is_less(now.get(&record.reference), record.derived));
    is_freed || (selected && !known.records.is_empty() && known.basis != blocked.basis)
}

fn changed_documents(deeds: &[Deed]) -> Vec<DocumentKey> {
    if let [only] = deeds {
        return if only.deletes { Vec::new() } else { vec![only.key.clone()] };
    }
    let changed: BTreeSet<&DocumentKey> = deeds.iter().filter(|deed| !deed.deletes).map(|deed| &deed.key).collect();
    changed.into_iter().cloned().collect()
}

/// Whether a change of the operation could be blocked, now or later.
fn may_lose_a_change(recording: &mut Recording<'_>, opened: &Opened) -> Result<bool, IndexError> {
    let author = recording.number(&opened.author);
    let mut seen = BTreeSet::new();
    for entry in opened.entries.iter().filter(|entry| entry.action != Action::Delete) {
        let known = &recording.document(&entry.key)?.entry;
        let has_author = author.is_some_and(|author| known.has_author(author));
        if has_author || !seen.insert(&entry.key) || !stands_alone(entry, &opened.actor) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn record(
    recording: &mut Recording<'_>,
    operation: &Operation<'_>,
    recorded: &mut Recorded,
    version: Version,
) -> Result<(), IndexError> {
    let reference = recording.operation(operation.author, operation.sequence);
    let own_past;
    let past = match operation.past {
        Some(past) => past,
        // Without its past a delete covers what its author did before.
        None => {
            own_past = Past::from([(operation.author, operation.sequence)]);
            &own_past
        }
    };
    for deed in operation.deeds.iter().filter(|deed| deed.deletes) {
        recording.delete(&deed.key, reference, past)?;
        if recording.document(&deed.key)?.entry.exists() {
            recorded.emptied.remove(&deed.key);
        } else {
            recorded.emptied.insert(deed.key.clone());
        }
    }
    for (entry, deed) in (0..).zip(operation.deeds) {
        if !deed.deletes {
            recording.change(&deed.key, Reference { operation: reference, entry })?;
        }
    }
    let position = recording.position();
    let event = |key: &DocumentKey| ChangeEvent {
        key: key.clone(),
        deleted: false,
        version: Version { position, ..version },
        author: operation.writer,
        sequence: operation.sequence,
        wall_time_ms: operation.wall_time_ms,
        value: None,
    };
    match operation.deeds {
        [only] => recorded.events.push(event(&only.key)),
        several => {
            let keys: BTreeSet<&DocumentKey> = several.iter().map(|deed| &deed.key).collect();
            recorded.events.extend(keys.into_iter().map(event));
        }
    }
    Ok(())
}
