//! Transactions: from steps to one operation, and the core's verdict on it.

use std::collections::{BTreeMap, BTreeSet};

use rand_core::CryptoRng;
use serde_json::Value;
use syncline_model::limits::ENTRIES_PER_OPERATION_MAX;
use syncline_model::planted::{Bug, planted};
use syncline_model::{Action, DeviceId, DocumentKey, Entry, Lineage, Past, Transaction};
use syncline_storage::IndexError;

use super::read::{Held, Reader};
use super::record::{Deed, Recorded};
use super::{Desk, Purpose, Task, Turn};
use crate::documents::cache::{Place, Reset};
use crate::documents::catalog::CatalogEntry;
use crate::documents::edit::Edit;
use crate::documents::error::DocumentError;
use crate::documents::job::{EditedDocument, Part, Plan, Work};
use crate::documents::request::{Answer, Output, Step, Token, Written, WrittenDocument};

/// Bytes that one value of an edit is assumed to take in memory.
const VALUE_BYTES_ESTIMATE: usize = 24;

/// The lineage of the next transaction.
#[derive(Debug)]
pub(super) struct SavedLineage {
    pub(super) current: Lineage,
    /// Counts the lineages drawn since the desk was opened.
    pub(super) number: u64,
    /// The first durable operation made under it.
    first: Option<u64>,
    /// Some document in memory may lack changes made under it.
    pub(super) stale: bool,
}

impl SavedLineage {
    /// A fresh one.
    pub(super) fn draw(number: u64, random: &mut dyn CryptoRng) -> Self {
        let mut bytes = [0; 16];
        random.fill_bytes(&mut bytes);
        Self { current: Lineage(bytes), number, first: None, stale: false }
    }
}

/// A transaction that the core has and that is not durable yet.
#[derive(Debug)]
pub(super) struct Pending {
    token: Token,
    /// What each entry of the operation does.
    deeds: Vec<Deed>,
    documents: Vec<WrittenDocument>,
    lineage: u64,
    wall_time_ms: u64,
    /// Its caller was told already that it will not be written.
    doomed: bool,
}

impl Desk {
    /// Queues a transaction.
    pub(super) fn transact(&mut self, token: Token, steps: Vec<Step>, turn: &mut Turn<'_>) {
        let changes = |step: &Step| if let Step::Foreign { changes, .. } = step { changes.len() } else { 1 };
        if steps.iter().map(changes).sum::<usize>() > ENTRIES_PER_OPERATION_MAX {
            let error = DocumentError::TooLarge { what: "steps", limit: ENTRIES_PER_OPERATION_MAX };
            return turn.answer(token, Err(error));
        }
        let plans = plan(steps);
        let keys = plans.keys().cloned().collect::<Vec<_>>();
        let plans = plans.into_values().collect();
        if keys.is_empty() {
            let version = self.catalog.version(self.catalog.position());
            let written = Written { version, sequence: None, documents: Vec::new() };
            return turn.answer(token, Ok(Answer::Written(written)));
        }
        // The actor is decided when it starts.
        self.submit(keys, Purpose::Transact(token), Work::Edit { plans, actor: [0; 20] });
    }

    /// Checks a transaction that is about to start and chooses its lineage; false: it was answered.
    pub(super) fn prepare_transaction(
        &mut self,
        task: &mut Task,
        entries: &[CatalogEntry],
        turn: &mut Turn<'_>,
    ) -> bool {
        let Purpose::Transact(token) = task.purpose else { return false };
        let Some(Work::Edit { plans, actor }) = &mut task.work else { return false };
        let mut stale = self.lineage.stale;
        for (plan, entry) in plans.iter_mut().zip(entries) {
            if plan.delete && !self.exists_here(&plan.key, entry) {
                if !plan.created_before {
                    turn.answer(token, Err(DocumentError::NotFound { key: plan.key.clone() }));
                    return false;
                }
                plan.delete = false;
            }
            stale |= self.lacks_own_changes(plan, entry);
        }
        if stale && !planted(Bug::LineageReused) {
            self.lineage = SavedLineage::draw(self.lineage.number + 1, turn.random);
        }
        task.lineage = (self.lineage.number, self.lineage.current);
        *actor = self.lineage.current.actor(&self.space, &self.device);
        true
    }

    /// Whether the document exists once all that was handed to the core is durable.
    fn exists_here(&self, key: &DocumentKey, entry: &CatalogEntry) -> bool {
        match self.cache.get(key) {
            Some(slot) if slot.reset.is_some() => slot.reset.is_some_and(|reset| reset.has_content),
            Some(slot) if !slot.pending.is_empty() => true,
            _ => entry.exists(),
        }
    }

    /// Whether the document may lack changes of this device's present lineage.
    fn lacks_own_changes(&self, plan: &Plan, entry: &CatalogEntry) -> bool {
        let deleted = self.catalog.number(&self.device).map_or(0, |number| entry.deleted_up_to(number));
        let was_deleted = self.lineage.first.is_some_and(|first| first <= deleted);
        let reset = self.cache.get(&plan.key).and_then(|slot| slot.reset);
        let is_reset = reset.is_some_and(|reset| reset.lineage == self.lineage.number && !plan.parts.is_empty());
        let starts_anew = plan.delete && !plan.parts.is_empty();
        was_deleted || is_reset || starts_anew || self.catalog.blocked().contains(&plan.key)
    }

    /// Hands the transaction of an edit to the core.
    pub(super) fn edited(
        &mut self,
        token: Token,
        keys: &[DocumentKey],
        work: Work,
        edited: Vec<EditedDocument>,
        (lineage_number, lineage): (u64, Lineage),
        position: u64,
        turn: &mut Turn<'_>,
    ) {
        let Work::Edit { plans, .. } = work else { return };
        if edited.iter().all(|document| document.actions.is_empty()) {
            let version = self.catalog.version(position);
            let written = Written { version, sequence: None, documents: Vec::new() };
            self.hold(keys, Held::Unchanged { token, key: keys[0].clone(), written }, turn);
            return;
        }
        let order = self.next_order;
        self.next_order += 1;
        let (mut entries, mut deeds, mut documents) = (Vec::new(), Vec::new(), Vec::new());
        for (plan, EditedDocument { actions, change, heads }) in plans.into_iter().zip(edited) {
            if actions.is_empty() {
                continue;
            }
            self.note_edit(&plan, &actions, order, lineage_number);
            for action in actions {
                deeds.push(Deed { key: plan.key.clone(), deletes: action == Action::Delete });
                entries.push(Entry { key: plan.key.clone(), action });
            }
            documents.push(WrittenDocument { key: plan.key, change, heads });
        }
        let wall_time_ms = turn.now_ms;
        let pending = Pending { token, deeds, documents, lineage: lineage_number, wall_time_ms, doomed: false };
        self.pending.insert(order, pending);
        turn.out.push(Output::Commit { token, transaction: Transaction { wall_time_ms, lineage, entries } });
    }

    fn note_edit(&mut self, plan: &Plan, actions: &[Action], order: u64, lineage: u64) {
        let slot = self.cache.slot(&plan.key);
        if !matches!(slot.place, Place::Here(_)) {
            // It was dropped while it was out, so nobody sees the change here before it is durable.
            self.lineage.stale = true;
            return;
        }
        slot.pending.insert(order);
        let has_changes = actions.iter().any(|action| *action != Action::Delete);
        if plan.delete {
            slot.reset = Some(Reset { order, lineage, has_content: has_changes });
        } else if let Some(reset) = &mut slot.reset {
            reset.has_content |= has_changes;
        }
    }

    /// A transaction is durable: records and shows it.
    pub(super) fn committed(
        &mut self,
        token: Token,
        author: DeviceId,
        sequence: u64,
        past: Option<&Past>,
        turn: &mut Turn<'_>,
    ) -> Result<(), IndexError> {
        let found = self.pending.iter().find(|(_, pending)| pending.token == token);
        let Some(order) = found.map(|(order, _)| *order) else { return Ok(()) };
        let Some(pending) = self.pending.remove(&order) else { return Ok(()) };
        if pending.lineage == self.lineage.number && self.lineage.first.is_none() {
            self.lineage.first = Some(sequence);
        }
        let Pending { deeds, documents, wall_time_ms, doomed, .. } = pending;
        let recorded = match self.record_own(author, sequence, wall_time_ms, &deeds, past, order) {
            Ok(recorded) => recorded,
            Err(error) => {
                let reason = format!("the transaction is written, but shows only after a restart: {error}");
                turn.answer(token, Err(DocumentError::Storage { reason }));
                return Err(error);
            }
        };
        let version = self.catalog.version(recorded.position);
        if !doomed {
            let written = Written { version, sequence: Some(sequence), documents };
            turn.answer(token, Ok(Answer::Written(written)));
        }
        self.release_held(turn);
        self.show(recorded, turn)
    }

    /// Records an own transaction and brings the documents in memory in line with it.
    fn record_own(
        &mut self,
        author: DeviceId,
        sequence: u64,
        wall_time_ms: u64,
        deeds: &[Deed],
        past: Option<&Past>,
        order: u64,
    ) -> Result<Recorded, IndexError> {
        let recorded = self.record_one(author, sequence, wall_time_ms, deeds, past)?;
        let keys: BTreeSet<&DocumentKey> = deeds.iter().map(|deed| &deed.key).collect();
        for key in keys {
            let entry = recorded.entries.get(key).map(|touched| (&touched.entry, touched.total_before));
            let Some(slot) = self.cache.get_mut(key) else { continue };
            if !slot.pending.remove(&order) {
                continue;
            }
            let is_reset_by_this = slot.reset.is_some_and(|reset| reset.order == order);
            let mut lost = false;
            match (&mut slot.place, entry) {
                (Place::Here(loaded), Some((entry, _))) if is_reset_by_this => {
                    // What others did at the same time survives the delete and is not in memory.
                    if recorded.emptied.contains(key) {
                        (loaded.generation, loaded.complete) = (entry.generation, entry.total());
                        (loaded.saved, loaded.blocked) = (0, Vec::new());
                        slot.reset = None;
                    } else {
                        lost = true;
                    }
                }
                (_, _) if is_reset_by_this => lost = true,
                (Place::Here(loaded), Some((entry, total_before)))
                    if slot.reset.is_none()
                        && loaded.generation == entry.generation
                        && loaded.complete == total_before =>
                {
                    loaded.complete = entry.total();
                }
                // Otherwise the changes are met again, and known, when the document is brought up to date.
                _ => {}
            }
            if lost {
                slot.reset = None;
                let is_out = matches!(slot.place, Place::Out);
                self.lineage.stale |= self.cache.discard(key) || is_out;
            }
            self.cache.rest(key);
        }
        Ok(recorded)
    }

    /// A transaction will not be written: forgets it, and all that was made on top of it.
    ///
    /// The core cannot write those either: their operations would follow one that does not exist.
    pub(super) fn aborted(&mut self, token: Token, reason: DocumentError, turn: &mut Turn<'_>) {
        let found = self.pending.iter().find(|(_, pending)| pending.token == token);
        let Some(order) = found.map(|(order, _)| *order) else { return };
        let Some(aborted) = self.pending.remove(&order) else { return };
        if !aborted.doomed {
            turn.answer(token, Err(reason));
        }
        let mut lost: Vec<DocumentKey> = aborted.deeds.into_iter().map(|deed| deed.key).collect();
        for (_, later) in self.pending.range_mut(order..) {
            let shared = later.deeds.iter().find(|deed| lost.contains(&deed.key)).map(|deed| deed.key.clone());
            let Some(key) = shared else { continue };
            lost.extend(later.deeds.iter().map(|deed| deed.key.clone()));
            if !later.doomed {
                later.doomed = true;
                turn.answer(later.token, Err(DocumentError::Undone { key }));
            }
        }
        lost.sort_unstable();
        lost.dedup();
        for key in &lost {
            if !planted(Bug::AbortedEditKept) {
                self.cache.discard(key);
            }
        }
        self.lineage.stale = true;
        // What showed it has to be read anew.
        for (_, held) in self.held.split_off(&order) {
            for held in held {
                self.repeat(held, turn);
            }
        }
    }

    /// Reads again what showed a transaction that is gone.
    fn repeat(&mut self, held: Held, turn: &mut Turn<'_>) {
        match held {
            Held::Answer { reader, key, kind, .. } | Held::Repeat { reader, key, kind } => {
                self.submit(vec![key], Purpose::Read(reader), Work::Read(kind));
            }
            Held::Look { keys, settles } => self.look(keys, settles),
            Held::Unchanged { token, key, .. } => turn.answer(token, Err(DocumentError::Undone { key })),
        }
    }

    /// The highest transaction not yet durable that any of the documents contains.
    pub(super) fn shows_pending(&self, keys: &[DocumentKey]) -> Option<u64> {
        keys.iter().filter_map(|key| self.cache.get(key)?.pending.last().copied()).max()
    }

    /// Delivers a reply as soon as the transactions that it shows are durable.
    pub(super) fn hold(&mut self, keys: &[DocumentKey], held: Held, turn: &mut Turn<'_>) {
        match self.shows_pending(keys) {
            Some(order) => self.held.entry(order).or_default().push(held),
            None => self.release(held, turn),
        }
    }

    /// Delivers what waited for transactions that are durable now.
    pub(super) fn release_held(&mut self, turn: &mut Turn<'_>) {
        let open = self.pending.first_key_value().map_or(u64::MAX, |(order, _)| *order);
        while let Some(entry) = self.held.first_entry() {
            if *entry.key() >= open {
                break;
            }
            for held in entry.remove() {
                self.release(held, turn);
            }
        }
    }

    fn release(&mut self, held: Held, turn: &mut Turn<'_>) {
        match held {
            Held::Answer { reader, key, result, position, .. } => {
                self.deliver(reader, &key, result, position, turn);
            }
            Held::Repeat { reader, key, kind } => {
                self.submit(vec![key], Purpose::Read(reader), Work::Read(kind));
            }
            Held::Look { keys, settles } => self.look(keys, settles),
            Held::Unchanged { token, written, .. } => turn.answer(token, Ok(Answer::Written(written))),
        }
    }
}

impl Held {
    /// Whose reply it is.
    pub(super) fn token(&self) -> Option<Token> {
        match self {
            Self::Answer { reader: Reader::Caller(token), .. }
            | Self::Repeat { reader: Reader::Caller(token), .. }
            | Self::Unchanged { token, .. } => Some(*token),
            Self::Answer { .. } | Self::Repeat { .. } | Self::Look { .. } => None,
        }
    }
}

/// Sorts steps by document: a delete makes what came before it void.
fn plan(steps: Vec<Step>) -> BTreeMap<DocumentKey, Plan> {
    let mut plans: BTreeMap<DocumentKey, Plan> = BTreeMap::new();
    for (position, step) in steps.into_iter().enumerate() {
        let key = step.key().clone();
        let new = || Plan { key: key.clone(), delete: false, created_before: false, parts: Vec::new() };
        let plan = plans.entry(key.clone()).or_insert_with(new);
        match step {
            Step::Delete { .. } => {
                plan.created_before |= !plan.delete && !plan.parts.is_empty();
                plan.delete = true;
                plan.parts.clear();
            }
            Step::Foreign { changes, .. } => plan.parts.push(Part::Foreign(position, changes)),
            Step::Edit { edit, .. } => match plan.parts.last_mut() {
                Some(Part::Edits(edits)) => edits.push((position, edit)),
                _ => plan.parts.push(Part::Edits(vec![(position, edit)])),
            },
        }
    }
    plans
}

/// About how many bytes a plan writes.
pub(super) fn plan_bytes(plan: &Plan) -> usize {
    let part = |part: &Part| match part {
        Part::Edits(edits) => edits.iter().map(|(_, edit)| edit_bytes(edit)).sum(),
        // A change takes some times its bytes once it is applied.
        Part::Foreign(_, changes) => changes.iter().map(|change| change.len() * 8).sum::<usize>(),
    };
    plan.parts.iter().map(part).sum()
}

fn edit_bytes(edit: &Edit) -> usize {
    match edit {
        Edit::Put(value) | Edit::Merge(value) | Edit::Resolve { value, .. } => value_bytes(value),
        Edit::Splice { insert, .. } | Edit::SpliceAt { insert, .. } => insert.len(),
        Edit::Increment { .. } => VALUE_BYTES_ESTIMATE,
    }
}

/// Goes over the value without recursion: it is the caller's and not checked yet.
fn value_bytes(value: &Value) -> usize {
    let (mut bytes, mut open) = (0, vec![value]);
    while let Some(value) = open.pop() {
        bytes += VALUE_BYTES_ESTIMATE;
        match value {
            Value::String(text) => bytes += text.len(),
            Value::Array(items) => open.extend(items),
            Value::Object(map) => {
                bytes += map.keys().map(String::len).sum::<usize>();
                open.extend(map.values());
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    bytes
}
