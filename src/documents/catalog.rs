//! The catalog: which operations each document of a space is made of, kept in the index.
//!
//! Recording an operation touches only this; no document is loaded for it. Everything here is derived from the
//! admitted operations in the order in which they became visible, and is lost without harm: [`Catalog::applied`] says
//! what has to be applied again.
//!
//! ```text
//! area        suffix                              value
//! STATE       "counting"                        → Counting
//!             "visible"                         → position u64 ‖ documents u64
//!             "left out"                        → postcard(epochs), see [`Catalog::leave_out`]
//! AUTHOR      number u32                        → device id
//! APPLIED     number u32                        → sequence u64
//! DOCUMENT    key                               → flags u8 (1: exists) ‖ postcard(CatalogEntry)
//! REFERENCES  key ‖ 00 ‖ chunk u64              → postcard(Vec<Reference>), always REFERENCES_PER_CHUNK of them
//! FEED        first position u64                → postcard(FeedRecord), see feed.rs
//! SNAPSHOT    key                               → see snapshot.rs
//! BLOCKED     key                               → postcard(BlockedDocument)
//! WITHHELD    number u32 ‖ sequence u64         → nothing
//! UNSETTLED   key                               → nothing
//! ```
//!
//! Integers in suffixes are big-endian, in values little-endian. A key holds no control character, so the zero byte
//! ends it. All values of one batch of operations are written in one atomic batch of the index.

mod recording;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use rand_core::CryptoRng;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use syncline_model::planted::{Bug, planted};
use syncline_model::{DeviceId, DocumentKey};
use syncline_storage::{Area, Batch, IndexError, SpaceIndex};

pub(super) use self::recording::{Recording, Touched};
use super::error::DocumentError;
use super::feed::FeedRecord;
use super::version::{Incarnation, Version};

pub(super) const STATE: Area = Area::external(0x20);
pub(super) const AUTHOR: Area = Area::external(0x21);
pub(super) const APPLIED: Area = Area::external(0x22);
pub(super) const DOCUMENT: Area = Area::external(0x23);
pub(super) const REFERENCES: Area = Area::external(0x24);
pub(super) const FEED: Area = Area::external(0x25);
pub(super) const SNAPSHOT: Area = Area::external(0x26);
pub(super) const BLOCKED: Area = Area::external(0x27);
pub(super) const WITHHELD: Area = Area::external(0x28);
pub(super) const UNSETTLED: Area = Area::external(0x29);
const AREAS: [Area; 10] = [STATE, AUTHOR, APPLIED, DOCUMENT, REFERENCES, FEED, SNAPSHOT, BLOCKED, WITHHELD, UNSETTLED];

/// Version of this layout; another one is rebuilt.
const LAYOUT_VERSION: u32 = 2;
/// References that move from a document's entry to a key of their own together.
pub(super) const REFERENCES_PER_CHUNK: usize = 64;
/// Earlier countings whose versions are still understood.
const PAST_INCARNATIONS_MAX: usize = 16;
/// In the flags of a document: it exists.
const FLAG_EXISTS: u8 = 1;

/// A number that stands for an author in this index.
pub(super) type AuthorNumber = u32;

/// An operation, by its author's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct OperationRef {
    pub(super) author: AuthorNumber,
    pub(super) sequence: u64,
}

/// A change: an entry of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Reference {
    pub(super) operation: OperationRef,
    pub(super) entry: u32,
}

/// One author's part in a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AuthorMark {
    pub(super) author: AuthorNumber,
    /// The author's last operation with a change of the document.
    pub(super) last: u64,
    /// The author's changes up to here were deleted.
    pub(super) deleted: u64,
}

/// What the catalog knows of one document.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CatalogEntry {
    /// Rises whenever what was loaded before must not be built upon: a delete, or operations withheld.
    pub(super) generation: u32,
    /// How many deletes have taken something from it.
    pub(super) deletes: u32,
    /// Whether a transaction over several documents, of which another change may be blocked, touched it.
    pub(super) entangled: bool,
    /// All references before this one are deleted.
    pub(super) floor: u64,
    /// Full chunks of references, which precede the tail.
    pub(super) chunks: u64,
    /// By author number.
    pub(super) marks: Vec<AuthorMark>,
    pub(super) tail: Vec<Reference>,
}

impl CatalogEntry {
    /// How many references there are.
    pub(super) fn total(&self) -> u64 {
        self.chunks * REFERENCES_PER_CHUNK as u64 + self.tail.len() as u64
    }

    /// Whether a change survives the deletes.
    pub(super) fn survives(&self, reference: &Reference) -> bool {
        reference.operation.sequence > self.deleted_up_to(reference.operation.author)
            || planted(Bug::DeletedFieldsReturn)
    }

    /// Up to which sequence an author's changes are deleted.
    pub(super) fn deleted_up_to(&self, author: AuthorNumber) -> u64 {
        self.mark(author).map_or(0, |mark| mark.deleted)
    }

    /// Whether some change survives.
    pub(super) fn exists(&self) -> bool {
        self.marks.iter().any(|mark| mark.last > mark.deleted)
    }

    /// Whether the author has made a change of it.
    pub(super) fn has_author(&self, author: AuthorNumber) -> bool {
        self.mark(author).is_some()
    }

    fn mark(&self, author: AuthorNumber) -> Option<&AuthorMark> {
        let found = self.marks.binary_search_by_key(&author, |mark| mark.author);
        found.ok().map(|at| &self.marks[at])
    }

    /// Notes the deletes of an operation; `covered` says up to where it covers an author.
    ///
    /// Only authors with changes so far need a mark: operations come in causal order, so a change that comes later
    /// is not in the past of this delete.
    fn delete(&mut self, covered: impl Fn(AuthorNumber) -> u64) {
        let mut changed = false;
        for mark in &mut self.marks {
            let deleted = covered(mark.author).min(mark.last);
            if deleted > mark.deleted {
                mark.deleted = deleted;
                changed = true;
            }
        }
        if changed {
            self.generation = self.generation.wrapping_add(1);
            self.deletes = self.deletes.wrapping_add(1);
            if !self.exists() && !planted(Bug::DeletedFieldsReturn) {
                self.floor = self.total();
            }
        }
    }

    /// Notes a change.
    fn add(&mut self, reference: Reference) {
        let OperationRef { author, sequence } = reference.operation;
        match self.marks.binary_search_by_key(&author, |mark| mark.author) {
            Ok(at) => self.marks[at].last = self.marks[at].last.max(sequence),
            Err(at) => self.marks.insert(at, AuthorMark { author, last: sequence, deleted: 0 }),
        }
        self.tail.push(reference);
    }

    fn encode(&self) -> Vec<u8> {
        let flags = if self.exists() { FLAG_EXISTS } else { 0 };
        postcard::to_extend(self, vec![flags]).expect("encoding to memory cannot fail")
    }

    fn decode(bytes: &[u8]) -> Result<Self, IndexError> {
        decode(bytes.get(1..).unwrap_or_default(), "a document")
    }
}

/// What is wrong with a change, kept so that it can be shown without loading the document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BlockedRecord {
    pub(super) reference: Reference,
    /// It is blocked only because operations are withheld.
    pub(super) derived: bool,
    pub(super) reason: String,
}

/// All that is blocked in a document.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BlockedDocument {
    /// Of how many references and deletes that is true.
    pub(super) basis: (u64, u32),
    pub(super) records: Vec<BlockedRecord>,
}

/// What the positions of versions mean.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Counting {
    layout: u32,
    incarnation: Incarnation,
    /// Earlier countings, each with the position up to which it agrees with the present one.
    past: Vec<(Incarnation, u64)>,
    /// Whether the index was closed in good order, so that no position can have been lost.
    closed: bool,
}

/// The catalog of one space.
#[derive(Debug)]
pub(super) struct Catalog {
    index: SpaceIndex,
    counting: Counting,
    position: u64,
    documents: u64,
    authors: Arc<Vec<DeviceId>>,
    numbers: BTreeMap<DeviceId, AuthorNumber>,
    applied: Vec<u64>,
    /// The record of the feed that was written last since the opening, with its first position.
    last_feed: Option<(u64, FeedRecord)>,
    /// Epochs of operations that were left out for want of a key.
    left_out: BTreeSet<u32>,
    withheld: Arc<BTreeSet<OperationRef>>,
    blocked: BTreeSet<DocumentKey>,
    /// Documents in which something may be blocked that nobody has looked for yet, with how often they are to be
    /// looked at.
    unsettled: BTreeMap<DocumentKey, usize>,
}

impl Catalog {
    /// Opens what the index holds, or begins anew.
    pub(super) fn open(index: SpaceIndex, random: &mut dyn CryptoRng) -> Result<Self, IndexError> {
        let counting = match index.value(STATE, b"counting")? {
            Some(bytes) => decode::<Counting>(&bytes, "the state of documents").ok(),
            None => None,
        };
        let fresh =
            Counting { layout: LAYOUT_VERSION, incarnation: draw_incarnation(random), past: Vec::new(), closed: false };
        let mut catalog = Self {
            index,
            counting: fresh,
            position: 0,
            documents: 0,
            authors: Arc::default(),
            numbers: BTreeMap::new(),
            applied: Vec::new(),
            last_feed: None,
            left_out: BTreeSet::new(),
            withheld: Arc::default(),
            blocked: BTreeSet::new(),
            unsettled: BTreeMap::new(),
        };
        match counting {
            Some(counting) if counting.layout == LAYOUT_VERSION => catalog.load(counting)?,
            _ => catalog.empty()?,
        }
        Ok(catalog)
    }

    /// Forgets everything and counts anew.
    pub(super) fn clear(&mut self, random: &mut dyn CryptoRng) -> Result<(), IndexError> {
        self.counting.incarnation = draw_incarnation(random);
        self.counting.past.clear();
        (self.position, self.documents) = (0, 0);
        self.authors = Arc::default();
        self.numbers.clear();
        self.applied.clear();
        self.last_feed = None;
        self.left_out.clear();
        self.withheld = Arc::default();
        self.blocked.clear();
        self.unsettled.clear();
        self.empty()
    }

    fn empty(&mut self) -> Result<(), IndexError> {
        // The state goes first: should this be cut short, the rest counts for nothing at the next start either.
        for area in AREAS {
            self.index.clear(area)?;
        }
        self.write_counting()
    }

    fn load(&mut self, counting: Counting) -> Result<(), IndexError> {
        if let Some(visible) = self.index.value(STATE, b"visible")? {
            (self.position, self.documents) = decode(&visible, "the position")?;
        }
        if let Some(epochs) = self.index.value(STATE, b"left out")? {
            self.left_out = decode(&epochs, "what was left out")?;
        }
        let (mut authors, mut applied) = (Vec::new(), Vec::new());
        self.scan_all(AUTHOR, |_, value| authors.push(value.try_into().map(DeviceId).ok()))?;
        let authors: Option<Vec<DeviceId>> = authors.into_iter().collect();
        let authors = authors.ok_or(IndexError::Damaged("an author"))?;
        self.scan_all(APPLIED, |_, value| applied.push(value.try_into().map(u64::from_le_bytes).ok()))?;
        let applied: Option<Vec<u64>> = applied.into_iter().collect();
        self.applied = applied.filter(|all| all.len() == authors.len()).ok_or(IndexError::Damaged("an author"))?;
        self.numbers = (0..).zip(&authors).map(|(number, author)| (*author, number)).collect();
        self.authors = Arc::new(authors);
        let (mut withheld, mut blocked) = (Vec::new(), Vec::new());
        self.scan_all(WITHHELD, |suffix, _| withheld.push(operation_of_suffix(suffix)))?;
        let withheld: Option<BTreeSet<OperationRef>> = withheld.into_iter().collect();
        self.withheld = Arc::new(withheld.ok_or(IndexError::Damaged("a withheld operation"))?);
        self.scan_all(BLOCKED, |suffix, _| blocked.push(key_of_suffix(suffix)))?;
        self.blocked = blocked.into_iter().collect::<Result<_, _>>()?;
        let mut unsettled = Vec::new();
        self.scan_all(UNSETTLED, |suffix, _| unsettled.push(key_of_suffix(suffix).map(|key| (key, 0))))?;
        self.unsettled = unsettled.into_iter().collect::<Result<_, _>>()?;

        if counting.closed {
            self.counting = counting;
        } else {
            // Positions given after what the index holds may be lost: they belonged to the earlier counting.
            self.counting.past = counting.past;
            for (_, end) in &mut self.counting.past {
                *end = self.position.min(*end);
            }
            self.counting.past.push((counting.incarnation, self.position));
            let surplus = self.counting.past.len().saturating_sub(PAST_INCARNATIONS_MAX);
            self.counting.past.drain(..surplus);
        }
        self.counting.closed = false;
        self.write_counting()
    }

    fn scan_all(&self, area: Area, mut visit: impl FnMut(&[u8], &[u8])) -> Result<(), IndexError> {
        self.index.scan(area, &[], None, &mut |suffix, value| {
            visit(suffix, value);
            ControlFlow::Continue(())
        })
    }

    fn write_counting(&self) -> Result<(), IndexError> {
        let mut batch = Batch::default();
        batch.put(self.index.key(STATE, b"counting"), encode(&self.counting));
        self.index.apply(batch)
    }

    /// Notes that everything is written, so that positions stay valid over the restart.
    pub(super) fn close(&mut self) -> Result<(), IndexError> {
        self.counting.closed = true;
        self.write_counting()?;
        self.index.flush()
    }

    /// The index, for the other areas.
    pub(super) fn index(&self) -> &SpaceIndex {
        &self.index
    }

    /// How far an author's operations were applied.
    pub(super) fn applied(&self, author: &DeviceId) -> u64 {
        self.numbers.get(author).map_or(0, |number| self.applied[*number as usize])
    }

    /// How far all logs' operations were applied.
    pub(super) fn applied_logs(&self) -> BTreeMap<DeviceId, u64> {
        self.authors.iter().copied().zip(self.applied.iter().copied()).collect()
    }

    /// The author with a number.
    pub(super) fn author(&self, number: AuthorNumber) -> Option<DeviceId> {
        self.authors.get(number as usize).copied()
    }

    /// All authors by number.
    pub(super) fn authors(&self) -> &Arc<Vec<DeviceId>> {
        &self.authors
    }

    /// The number of an author that has written something.
    pub(super) fn number(&self, author: &DeviceId) -> Option<AuthorNumber> {
        self.numbers.get(author).copied()
    }

    /// How many operations are visible.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// How many documents exist.
    pub(super) fn documents(&self) -> u64 {
        self.documents
    }

    /// The version at a position.
    pub(super) fn version(&self, position: u64) -> Version {
        Version { incarnation: self.counting.incarnation, position }
    }

    /// The position that a version means now.
    pub(super) fn position_of(&self, version: Version) -> Result<u64, DocumentError> {
        if version.incarnation == self.counting.incarnation {
            return Ok(version.position);
        }
        let past = self.counting.past.iter().find(|(incarnation, _)| *incarnation == version.incarnation);
        let (_, end) = past.ok_or(DocumentError::ForeignVersion { version })?;
        Ok(version.position.min(*end))
    }

    /// Epochs of operations that were left out for want of a key.
    pub(super) fn left_out(&self) -> &BTreeSet<u32> {
        &self.left_out
    }

    /// Notes that operations of these epochs are passed over, since their keys are not here.
    ///
    /// [`Catalog::applied`] goes past them with the next operation of their log; this is written before, so that a
    /// restart still knows what a key that comes late would open.
    pub(super) fn leave_out(&mut self, epochs: &BTreeSet<u32>) -> Result<(), IndexError> {
        let known = self.left_out.len();
        self.left_out.extend(epochs);
        if self.left_out.len() == known {
            return Ok(());
        }
        let mut batch = Batch::default();
        batch.put(self.index.key(STATE, b"left out"), encode(&self.left_out));
        self.index.apply(batch)
    }

    /// Operations of which no change is shown, since one of them is blocked.
    pub(super) fn withheld(&self) -> &Arc<BTreeSet<OperationRef>> {
        &self.withheld
    }

    /// Documents that are known to have blocked changes.
    pub(super) fn blocked(&self) -> &BTreeSet<DocumentKey> {
        &self.blocked
    }

    /// What is known to be blocked in a document.
    pub(super) fn blocked_in(&self, key: &DocumentKey) -> Result<BlockedDocument, IndexError> {
        if !self.blocked.contains(key) {
            return Ok(BlockedDocument::default());
        }
        match self.index.value(BLOCKED, key.as_str().as_bytes())? {
            Some(bytes) => decode(&bytes, "a blocked change"),
            None => Ok(BlockedDocument::default()),
        }
    }

    /// Replaces what is known to be blocked in a document.
    pub(super) fn set_blocked(&mut self, key: &DocumentKey, blocked: &BlockedDocument) -> Result<(), IndexError> {
        let mut batch = Batch::default();
        let place = self.index.key(BLOCKED, key.as_str().as_bytes());
        if blocked.records.is_empty() {
            batch.remove(place);
            self.blocked.remove(key);
        } else {
            batch.put(place, encode(blocked));
            self.blocked.insert(key.clone());
        }
        self.index.apply(batch)
    }

    /// Documents to look at, since the end came before that was done.
    pub(super) fn left_unsettled(&self) -> BTreeSet<DocumentKey> {
        self.unsettled.keys().chain(&self.blocked).cloned().collect()
    }

    /// Notes in a batch that somebody will look at the document.
    fn expect(&mut self, key: &DocumentKey, batch: &mut Batch) {
        match self.unsettled.get_mut(key) {
            Some(count) => *count += 1,
            None => {
                batch.put(self.index.key(UNSETTLED, key.as_str().as_bytes()), Vec::new());
                self.unsettled.insert(key.clone(), 1);
            }
        }
    }

    /// Notes that documents were looked at.
    pub(super) fn settled(&mut self, keys: &[DocumentKey]) -> Result<(), IndexError> {
        let mut batch = Batch::default();
        for key in keys {
            let Some(count) = self.unsettled.get_mut(key) else { continue };
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.unsettled.remove(key);
                batch.remove(self.index.key(UNSETTLED, key.as_str().as_bytes()));
            }
        }
        if batch.is_empty() { Ok(()) } else { self.index.apply(batch) }
    }

    /// Adds an operation to the withheld ones, or frees all, and raises the generation of the documents concerned.
    ///
    /// Each of them is to be looked at, and [`Catalog::settled`] called.
    pub(super) fn set_withheld(
        &mut self,
        add: Option<OperationRef>,
        documents: &BTreeSet<DocumentKey>,
    ) -> Result<(), IndexError> {
        let mut batch = Batch::default();
        let withheld = Arc::make_mut(&mut self.withheld);
        if let Some(operation) = add {
            withheld.insert(operation);
            batch.put(self.index.key(WITHHELD, &suffix_of_operation(operation)), Vec::new());
        } else {
            for operation in std::mem::take(withheld) {
                batch.remove(self.index.key(WITHHELD, &suffix_of_operation(operation)));
            }
        }
        for key in documents {
            if let Some(mut entry) = self.entry(key)? {
                entry.generation = entry.generation.wrapping_add(1);
                entry.entangled = true;
                batch.put(self.index.key(DOCUMENT, key.as_str().as_bytes()), entry.encode());
            }
            self.expect(key, &mut batch);
        }
        self.index.apply(batch)
    }

    /// What is known of a document.
    pub(super) fn entry(&self, key: &DocumentKey) -> Result<Option<CatalogEntry>, IndexError> {
        let value = self.index.value(DOCUMENT, key.as_str().as_bytes())?;
        value.map(|bytes| CatalogEntry::decode(&bytes)).transpose()
    }

    /// The references of a document from position `from` on.
    pub(super) fn references(
        &self,
        key: &DocumentKey,
        entry: &CatalogEntry,
        from: u64,
    ) -> Result<Vec<Reference>, IndexError> {
        let per_chunk = REFERENCES_PER_CHUNK as u64;
        let mut all = Vec::new();
        let first_chunk = from / per_chunk;
        if first_chunk < entry.chunks {
            let (start, end) = (chunk_suffix(key, first_chunk), chunk_suffix(key, entry.chunks));
            let mut damaged = None;
            self.index.scan(REFERENCES, &start, Some(&end), &mut |_, value| {
                match decode::<Vec<Reference>>(value, "references of a document") {
                    Ok(chunk) => all.extend(chunk),
                    Err(error) => {
                        damaged = Some(error);
                        return ControlFlow::Break(());
                    }
                }
                ControlFlow::Continue(())
            })?;
            if let Some(error) = damaged {
                return Err(error);
            }
            if all.len() as u64 != (entry.chunks - first_chunk) * per_chunk {
                return Err(IndexError::Damaged("references of a document"));
            }
            all.drain(..(from - first_chunk * per_chunk) as usize);
            all.extend_from_slice(&entry.tail);
        } else {
            let skipped = (from - entry.chunks * per_chunk) as usize;
            all.extend_from_slice(entry.tail.get(skipped..).unwrap_or_default());
        }
        Ok(all)
    }

    /// The keys of documents that exist, beginning with `prefix`, after a key; at most `limit`, going over at most
    /// `visited_max`. Also returns the key to go on after, if there may be more.
    pub(super) fn keys(
        &self,
        prefix: &str,
        after: Option<&DocumentKey>,
        limit: usize,
        visited_max: usize,
    ) -> Result<(Vec<DocumentKey>, Option<DocumentKey>), IndexError> {
        let prefix = prefix.as_bytes();
        // The smallest suffix after a key is that key with a zero byte behind it.
        let after = after.map_or_else(Vec::new, |after| [after.as_str().as_bytes(), &[0]].concat());
        let from = after.max(prefix.to_vec());
        let (mut keys, mut visited, mut last) = (Vec::new(), 0, None);
        self.index.scan(DOCUMENT, &from, None, &mut |suffix, value| {
            if !suffix.starts_with(prefix) {
                last = None;
                return ControlFlow::Break(());
            }
            if keys.len() == limit || visited == visited_max {
                return ControlFlow::Break(());
            }
            visited += 1;
            last = Some(suffix.to_vec());
            if value.first().is_some_and(|flags| flags & FLAG_EXISTS != 0) {
                keys.push(suffix.to_vec());
            }
            ControlFlow::Continue(())
        })?;
        let full = keys.len() == limit || visited == visited_max;
        let keys = keys.iter().map(|suffix| key_of_suffix(suffix)).collect::<Result<_, _>>()?;
        let next = last.filter(|_| full).map(|suffix| key_of_suffix(&suffix)).transpose()?;
        Ok((keys, next))
    }
}

fn draw_incarnation(random: &mut dyn CryptoRng) -> Incarnation {
    let mut bytes = [0; 8];
    random.fill_bytes(&mut bytes);
    Incarnation(bytes)
}

pub(super) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_allocvec(value).expect("encoding to memory cannot fail")
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8], what: &'static str) -> Result<T, IndexError> {
    postcard::from_bytes(bytes).map_err(|_| IndexError::Damaged(what))
}

fn chunk_suffix(key: &DocumentKey, chunk: u64) -> Vec<u8> {
    [key.as_str().as_bytes(), &[0], &chunk.to_be_bytes()].concat()
}

fn suffix_of_operation(operation: OperationRef) -> Vec<u8> {
    [&operation.author.to_be_bytes()[..], &operation.sequence.to_be_bytes()].concat()
}

fn operation_of_suffix(suffix: &[u8]) -> Option<OperationRef> {
    let (author, sequence) = suffix.split_first_chunk::<4>()?;
    let sequence = u64::from_be_bytes(sequence.try_into().ok()?);
    Some(OperationRef { author: u32::from_be_bytes(*author), sequence })
}

pub(super) fn key_of_suffix(suffix: &[u8]) -> Result<DocumentKey, IndexError> {
    let text = std::str::from_utf8(suffix).ok().and_then(|text| text.parse().ok());
    text.ok_or(IndexError::Damaged("a document's key"))
}
