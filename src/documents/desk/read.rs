//! Questions, and the way of an answer: read, held until what it shows is durable, delivered.

use std::sync::Arc;

use serde_json::Value;
use syncline_model::DocumentKey;
use syncline_storage::IndexError;

use super::{Desk, HISTORY_REFERENCES_MAX, Purpose, Task, Turn};
use crate::documents::audit::{Anew, Comparison};
use crate::documents::cache::Place;
use crate::documents::catalog::{BlockedRecord, CatalogEntry};
use crate::documents::error::DocumentError;
use crate::documents::job::{Found, ReadKind, Work};
use crate::documents::operations::Content;
use crate::documents::request::{
    Answer, BlockedChange, ChangeEvent, ConflictPage, ConflictScope, DocumentConflicts, DocumentView, List, ListItem,
    Query, Token, Written,
};
use crate::documents::version::Version;

/// Most keys in one page of a list.
const LIST_KEYS_MAX: usize = 10_000;
/// Most documents whose content one request reads.
const LIST_VALUES_MAX: usize = 1000;
/// Most entries, those of deleted documents included, that one page goes over.
const LIST_VISITED_MAX: usize = 100_000;
/// Most events in one page of changes, but for a single larger operation.
const CHANGES_MAX: usize = 10_000;

/// Who reads a document.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reader {
    /// A caller, to be answered.
    Caller(Token),
    /// A caller that gave up.
    Nobody,
    /// A page that collects the content of several documents.
    Gather {
        /// Which page.
        id: u64,
        /// The document's place in it.
        place: usize,
    },
}

/// A reply that shows a transaction that is not durable yet.
#[derive(Debug)]
pub(super) enum Held {
    /// It was read already.
    Answer { reader: Reader, key: DocumentKey, kind: ReadKind, result: Result<Found, DocumentError>, position: u64 },
    /// It is to be read then.
    Repeat { reader: Reader, key: DocumentKey, kind: ReadKind },
    /// Documents are to be looked at then, for what is blocked in them.
    Look { keys: Vec<DocumentKey>, settles: bool },
    /// A transaction found everything as it wanted it.
    Unchanged { token: Token, key: DocumentKey, written: Written },
}

/// A page in the making: the content of its documents comes one by one.
#[derive(Debug)]
pub(super) struct Gather {
    purpose: GatherPurpose,
    keys: Vec<DocumentKey>,
    found: Vec<Option<Result<Found, DocumentError>>>,
    missing: usize,
}

#[derive(Debug)]
enum GatherPurpose {
    List { token: Token, next: Option<DocumentKey>, version: Version },
    Conflicts { token: Token, next: Option<DocumentKey> },
    Watch { token: Token, events: Vec<ChangeEvent> },
}

impl Gather {
    /// The request that it answers.
    pub(super) fn token(&self) -> Option<Token> {
        match self.purpose {
            GatherPurpose::List { token, .. } | GatherPurpose::Conflicts { token, .. } => Some(token),
            GatherPurpose::Watch { .. } => None,
        }
    }
}

impl Desk {
    /// Answers a question, now or when it can be.
    pub(super) fn query(&mut self, token: Token, query: Query, turn: &mut Turn<'_>) -> Result<(), IndexError> {
        if let Query::Get { wait_for: Some(version), .. } | Query::Version { wait_for: Some(version) } = &query {
            match self.catalog.position_of(*version) {
                Ok(position) if position > self.catalog.position() => {
                    self.waiting.entry(position).or_default().push((token, query));
                    return Ok(());
                }
                Ok(_) => {}
                Err(error) => {
                    turn.answer(token, Err(error));
                    return Ok(());
                }
            }
        }
        let reader = Reader::Caller(token);
        match query {
            Query::Get { key, .. } => self.read(reader, key, ReadKind::View),
            Query::ValueAt { key, heads } => self.read(reader, key, ReadKind::ViewAt(heads)),
            Query::History { key, after, limit } => {
                let kind = ReadKind::History { after, limit, recent: Vec::new(), authors: Default::default() };
                self.read(reader, key, kind);
            }
            Query::Chunks { key, heads } => self.read(reader, key, ReadKind::Chunks(heads)),
            Query::Conflicts { within: ConflictScope::Document(key) } => self.read(reader, key, ReadKind::Conflicts),
            Query::Conflicts { within: ConflictScope::Page { prefix, after, limit } } => {
                let limit = limit.min(LIST_VALUES_MAX);
                let (keys, next) = self.catalog.keys(&prefix, after.as_ref(), limit, LIST_VISITED_MAX)?;
                self.gather(keys, GatherPurpose::Conflicts { token, next }, &ReadKind::Conflicts, turn);
            }
            Query::List { prefix, after, limit, values } => {
                let limit = limit.min(if values { LIST_VALUES_MAX } else { LIST_KEYS_MAX });
                let (keys, next) = self.catalog.keys(&prefix, after.as_ref(), limit, LIST_VISITED_MAX)?;
                let version = self.catalog.version(self.catalog.position());
                if values {
                    self.gather(keys, GatherPurpose::List { token, next, version }, &ReadKind::View, turn);
                } else {
                    let item = |key| ListItem { key, value: None, error: None };
                    let items = keys.into_iter().map(item).collect();
                    turn.answer(token, Ok(Answer::List(List { items, next, version })));
                }
            }
            Query::Changes { since, limit } => {
                let page = match since.map_or(Ok(0), |version| self.catalog.position_of(version)) {
                    Ok(after) => self.changes_after(after, limit.clamp(1, CHANGES_MAX))?,
                    Err(error) => Err(error),
                };
                turn.answer(token, page.map(Answer::Changes));
            }
            Query::Version { .. } => {
                let version = self.catalog.version(self.catalog.position());
                turn.answer(token, Ok(Answer::Version(version)));
            }
            Query::Compare { key } => self.read(reader, key, ReadKind::Compare(Box::default())),
            Query::Stats => turn.answer(token, Ok(Answer::Stats(self.stats()))),
        }
        Ok(())
    }

    fn read(&mut self, reader: Reader, key: DocumentKey, kind: ReadKind) {
        self.submit(vec![key], Purpose::Read(reader), Work::Read(kind));
    }

    /// Checks a read that is about to start; false: it was answered or put off.
    pub(super) fn prepare_read(
        &mut self,
        task: &mut Task,
        entry: &CatalogEntry,
        turn: &mut Turn<'_>,
    ) -> Result<bool, IndexError> {
        let Purpose::Read(reader) = task.purpose else { return Ok(false) };
        let key = task.keys[0].clone();
        if !entry.exists() {
            let error = DocumentError::NotFound { key: key.clone() };
            self.deliver(reader, &key, Err(error), self.catalog.position(), turn);
            return Ok(false);
        }
        if let Some(reset) = self.cache.get(&key).and_then(|slot| slot.reset) {
            // What is in memory is what comes after a delete that nobody may see yet.
            if let Some(Work::Read(kind)) = task.work.take() {
                self.held.entry(reset.order).or_default().push(Held::Repeat { reader, key, kind });
            }
            return Ok(false);
        }
        if let Some(Work::Read(ReadKind::Compare(anew))) = &mut task.work {
            let is_loaded = self.cache.get(&key).is_some_and(|slot| !matches!(slot.place, Place::Absent));
            if !is_loaded && self.snapshot(&key, entry)?.is_none() {
                let nothing = Ok(Found::Compared(Comparison::NothingKept));
                self.deliver(reader, &key, nothing, self.catalog.position(), turn);
                return Ok(false);
            }
            if let Some(order) = self.cache.get(&key).and_then(|slot| slot.pending.last().copied()) {
                // It holds changes that are in no operation yet.
                let kind = ReadKind::Compare(Box::default());
                self.held.entry(order).or_default().push(Held::Repeat { reader, key, kind });
                return Ok(false);
            }
            **anew = Anew {
                all: self.catalog.references(&key, entry, 0)?,
                entry: entry.clone(),
                authors: Arc::clone(self.catalog.authors()),
                withheld: Arc::clone(self.catalog.withheld()),
            };
        }
        if let Some(Work::Read(ReadKind::History { recent, authors, .. })) = &mut task.work {
            let from = entry.total().saturating_sub(HISTORY_REFERENCES_MAX);
            *recent = self.catalog.references(&key, entry, from)?;
            authors.clone_from(self.catalog.authors());
        }
        Ok(true)
    }

    /// Delivers what was read, once all that it shows is durable.
    pub(super) fn hold_or_deliver(
        &mut self,
        reader: Reader,
        key: &DocumentKey,
        kind: ReadKind,
        result: Result<Found, DocumentError>,
        position: u64,
        turn: &mut Turn<'_>,
    ) {
        match self.shows_pending(std::slice::from_ref(key)) {
            Some(order) => {
                let held = Held::Answer { reader, key: key.clone(), kind, result, position };
                self.held.entry(order).or_default().push(held);
            }
            None => self.deliver(reader, key, result, position, turn),
        }
    }

    /// Gives what was read to whom it is for.
    pub(super) fn deliver(
        &mut self,
        reader: Reader,
        key: &DocumentKey,
        result: Result<Found, DocumentError>,
        position: u64,
        turn: &mut Turn<'_>,
    ) {
        match reader {
            Reader::Caller(token) => {
                let answer = result.map(|found| self.answer_of(key, found, position));
                turn.answer(token, answer);
            }
            Reader::Nobody => {}
            Reader::Gather { id, place } => {
                let Some(gather) = self.gathers.get_mut(&id) else { return };
                gather.missing -= usize::from(gather.found[place].is_none());
                gather.found[place] = Some(result);
                if gather.missing == 0
                    && let Some(gather) = self.gathers.remove(&id)
                {
                    self.gathered(gather, turn);
                }
            }
        }
    }

    fn answer_of(&self, key: &DocumentKey, found: Found, position: u64) -> Answer {
        match found {
            Found::View { value, heads } => {
                let version = self.catalog.version(position);
                Answer::Document(DocumentView { key: key.clone(), value, version, heads })
            }
            Found::History(items) => Answer::History(items),
            Found::Chunks(chunks) => Answer::Chunks(chunks),
            Found::Compared(comparison) => Answer::Compared(comparison),
            Found::Conflicts { places, blocked } => {
                let blocked = self.blocked_changes(&blocked);
                let conflicts = DocumentConflicts { key: key.clone(), places, blocked };
                Answer::Conflicts(ConflictPage { documents: vec![conflicts], next: None })
            }
        }
    }

    fn blocked_changes(&self, records: &[BlockedRecord]) -> Vec<BlockedChange> {
        let change = |record: &BlockedRecord| {
            let operation = record.reference.operation;
            let log = self.catalog.author(operation.author)?;
            // What cannot be read any more keeps the name of its log.
            let (mut author, sequence) = (log, operation.sequence);
            let name = &mut |content: &Content| author = content.author;
            let _unreadable = self.shared.operations.read(&log, sequence - 1, sequence, name);
            Some(BlockedChange { author, sequence, reason: record.reason.clone() })
        };
        records.iter().filter_map(change).collect()
    }

    fn gather(&mut self, keys: Vec<DocumentKey>, purpose: GatherPurpose, kind: &ReadKind, turn: &mut Turn<'_>) {
        let (id, missing) = (self.next_task, keys.len());
        self.next_task += 1;
        let found = (0..missing).map(|_| None).collect();
        let gather = Gather { purpose, keys: keys.clone(), found, missing };
        if missing == 0 {
            return self.gathered(gather, turn);
        }
        self.gathers.insert(id, gather);
        for (place, key) in keys.into_iter().enumerate() {
            self.read(Reader::Gather { id, place }, key, kind.clone());
        }
    }

    /// Adds values to the events of a watcher.
    pub(super) fn gather_events(&mut self, token: Token, events: Vec<ChangeEvent>, turn: &mut Turn<'_>) {
        let mut keys: Vec<DocumentKey> = events.iter().map(|event| event.key.clone()).collect();
        keys.sort_unstable();
        keys.dedup();
        self.gather(keys, GatherPurpose::Watch { token, events }, &ReadKind::View, turn);
    }

    fn gathered(&mut self, gather: Gather, turn: &mut Turn<'_>) {
        let Gather { purpose, keys, found, .. } = gather;
        let found = keys.into_iter().zip(found.into_iter().flatten());
        match purpose {
            GatherPurpose::List { token, next, version } => {
                let items = found.filter_map(|(key, found)| list_item(key, found)).collect();
                turn.answer(token, Ok(Answer::List(List { items, next, version })));
            }
            GatherPurpose::Conflicts { token, next } => {
                let conflicts = |(key, found)| match found {
                    Ok(Found::Conflicts { places, blocked }) => {
                        let blocked = self.blocked_changes(&blocked);
                        let any = !places.is_empty() || !blocked.is_empty();
                        any.then_some(DocumentConflicts { key, places, blocked })
                    }
                    _ => None,
                };
                let documents = found.filter_map(conflicts).collect();
                turn.answer(token, Ok(Answer::Conflicts(ConflictPage { documents, next })));
            }
            GatherPurpose::Watch { token, mut events } => {
                let values: Vec<(DocumentKey, Value)> = found
                    .filter_map(|(key, found)| match found {
                        Ok(Found::View { value, .. }) => Some((key, value)),
                        _ => None,
                    })
                    .collect();
                for event in &mut events {
                    let place = values.binary_search_by(|(key, _)| key.cmp(&event.key)).ok();
                    event.value = place.map(|place| values[place].1.clone());
                }
                self.events_ready(token, events, turn);
            }
        }
    }
}

/// A document that was deleted in the meantime is left out.
fn list_item(key: DocumentKey, found: Result<Found, DocumentError>) -> Option<ListItem> {
    match found {
        Ok(Found::View { value, .. }) => Some(ListItem { key, value: Some(value), error: None }),
        Ok(_) | Err(DocumentError::NotFound { .. }) => None,
        Err(error) => Some(ListItem { key, value: None, error: Some(error.to_string()) }),
    }
}
