//! Making a document out of the changes that its operations carry.
//!
//! Usually the missing changes are applied on top of what is loaded. When that fails (two changes claim one place, or
//! one builds on deleted content) the document is made anew by *selection*: of all changes ever, those that survive
//! the deletes and what they build on are taken, [`select`] decides between rivals, and what an operation loses in one
//! document it loses in all.
//!
//! Both ways depend on nothing but the set of admitted operations. This runs on a worker for large documents.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use syncline_model::{Action, ContentKey, DeviceId, DocumentKey, Entry};

use super::catalog::{BlockedRecord, CatalogEntry, OperationRef, Reference};
use super::change::{ChangeHash, ChangeHeader, ParsedChange, parse_change};
use super::document::Document;
use super::limits::{ACTOR_BYTES, MAX_CHANGES_PER_APPLY};
use super::operations::{Content, Operations, ReadError};
use super::receive::{IncomingChange, Received, Rejected};
use super::select::{Blocked, select};
use super::snapshot::{Loaded, Snapshot};

/// Changes that would unblock others, noted per document; beyond it every new change causes a selection.
const AWAITED_MAX: usize = 4096;
/// Longest reason kept for a blocked change, in bytes.
const REASON_BYTES_MAX: usize = 200;

/// What the making of a document starts from.
#[derive(Debug)]
pub(super) enum Base {
    /// Nothing.
    Empty,
    /// What was in memory.
    Loaded(Box<Loaded>),
    /// A snapshot.
    Snapshot(Snapshot),
}

/// How the missing changes are found.
#[derive(Debug)]
pub(super) enum Missing {
    /// These follow the base, in visible order; those that are deleted left out.
    After(Vec<Reference>),
    /// By selection among all references of the document; the base counts for nothing.
    Select {
        /// All references.
        all: Vec<Reference>,
        /// Tells which survive.
        entry: CatalogEntry,
    },
}

/// All that is needed to bring one document up to date.
#[derive(Debug)]
pub(super) struct Recipe {
    pub(super) key: DocumentKey,
    pub(super) base: Base,
    pub(super) missing: Missing,
    /// How many references the document has.
    pub(super) total: u64,
    pub(super) generation: u32,
    pub(super) authors: Arc<Vec<DeviceId>>,
    pub(super) withheld: Arc<BTreeSet<OperationRef>>,
}

/// What came of a recipe.
#[derive(Debug)]
pub(super) enum Assembled {
    /// The document is up to date.
    Ready(Box<Loaded>),
    /// It has to be made by selection.
    Select,
    /// Its snapshot is of no use.
    BadSnapshot,
    /// Its changes cannot be read.
    Failed(ReadError),
}

/// A change with the operation that carries it.
struct Carried {
    reference: Reference,
    change: IncomingChange,
}

/// Brings a document up to date.
pub(super) fn assemble(recipe: Recipe, operations: &dyn Operations, seal_key: &ContentKey) -> Assembled {
    match &recipe.missing {
        Missing::After(_) => extend(recipe, operations, seal_key),
        Missing::Select { .. } => select_all(&recipe, operations).unwrap_or_else(Assembled::Failed),
    }
}

fn extend(recipe: Recipe, operations: &dyn Operations, seal_key: &ContentKey) -> Assembled {
    let Recipe { key, base, missing, total, generation, authors, withheld } = recipe;
    let mut loaded = match base {
        Base::Empty => Box::new(Loaded::empty(generation, 0)),
        Base::Loaded(loaded) => loaded,
        Base::Snapshot(snapshot) => match snapshot.load(&key, seal_key) {
            Some(loaded) => Box::new(loaded),
            None => return Assembled::BadSnapshot,
        },
    };
    let Missing::After(references) = missing else { return Assembled::Select };
    if references.iter().any(|reference| withheld.contains(&reference.operation)) {
        return Assembled::Select;
    }
    let carried = match read_changes(&key, &references, &authors, operations) {
        Ok(carried) => carried,
        Err(error) => return Assembled::Failed(error),
    };
    for (reference, outcome) in apply(&mut loaded, carried) {
        match outcome {
            Ok(Received::New(header)) if changes_what_is_blocked(&loaded, &header) => return Assembled::Select,
            Ok(_) => {}
            // These are no changes, whatever else there is.
            Err(rejected @ (Rejected::Invalid(_) | Rejected::WrongActor | Rejected::ReservedActor)) => {
                loaded.blocked.push(blocked_record(reference, &rejected));
            }
            // What is blocked, and what with it, depends on all others.
            Err(_) => return Assembled::Select,
        }
    }
    loaded.complete = total;
    Assembled::Ready(loaded)
}

fn changes_what_is_blocked(loaded: &Loaded, header: &ChangeHeader) -> bool {
    loaded.awaited.contains(&header.hash)
        || loaded.awaited.len() >= AWAITED_MAX
        || (!loaded.claimed.is_empty() && loaded.claimed.contains(&(header.actor.clone(), header.sequence)))
}

/// Applies changes in as few calls as the limit allows.
fn apply(loaded: &mut Loaded, carried: Vec<Carried>) -> Vec<(Reference, Result<Received, Rejected>)> {
    let mut outcomes = Vec::with_capacity(carried.len());
    let mut carried = carried.into_iter().peekable();
    while carried.peek().is_some() {
        let (references, changes): (Vec<_>, Vec<_>) =
            carried.by_ref().take(MAX_CHANGES_PER_APPLY).map(|carried| (carried.reference, carried.change)).unzip();
        outcomes.extend(references.into_iter().zip(loaded.document.apply(changes).outcomes));
    }
    outcomes
}

/// Reads the changes behind references; the result keeps their order.
fn read_changes(
    key: &DocumentKey,
    references: &[Reference],
    authors: &[DeviceId],
    operations: &dyn Operations,
) -> Result<Vec<Carried>, ReadError> {
    let mut found: BTreeMap<Reference, Option<IncomingChange>> = BTreeMap::new();
    let mut sorted: Vec<Reference> = references.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    for stretch in sorted.chunk_by(|a, b| {
        let (a, b) = (a.operation, b.operation);
        a.author == b.author && b.sequence - a.sequence <= 1
    }) {
        let (first, last) = (stretch[0].operation, stretch[stretch.len() - 1].operation);
        let missing = |sequence| ReadError::Missing { author: DeviceId([0; 32]), sequence };
        let author = authors.get(first.author as usize).ok_or_else(|| missing(first.sequence))?;
        let mut wanted = stretch.iter().copied().peekable();
        operations.read(author, first.sequence - 1, last.sequence, &mut |content| {
            while let Some(reference) = wanted.next_if(|next| next.operation.sequence <= content.sequence) {
                if reference.operation.sequence == content.sequence {
                    found.insert(reference, incoming(content, key, reference.entry));
                }
            }
        })?;
        let lost = stretch.iter().find(|reference| !found.contains_key(reference));
        if let Some(lost) = lost {
            return Err(ReadError::Missing { author: *author, sequence: lost.operation.sequence });
        }
    }
    let carried = references.iter().filter_map(|reference| {
        let change = found.get_mut(reference)?.take()?;
        Some(Carried { reference: *reference, change })
    });
    Ok(carried.collect())
}

/// The change in an entry of an operation, as [`super::Document::apply`] takes it.
fn incoming(content: &Content, key: &DocumentKey, entry: u32) -> Option<IncomingChange> {
    let actor = content.actor;
    let entry = content.entries.get(entry as usize).filter(|entry| entry.key == *key)?;
    match &entry.action {
        Action::Change(bytes) => Some(IncomingChange { bytes: bytes.clone(), expected_actor: Some(actor) }),
        Action::ForeignChange(bytes) => Some(IncomingChange { bytes: bytes.clone(), expected_actor: None }),
        Action::Delete => None,
    }
}

/// A change that decodes, and all operations that carry it.
struct Candidate {
    header: ChangeHeader,
    change: IncomingChange,
    carriers: Vec<Reference>,
}

impl Candidate {
    /// The carriers that no delete covers.
    fn surviving<'a>(&'a self, entry: &'a CatalogEntry) -> impl Iterator<Item = Reference> + 'a {
        self.carriers.iter().copied().filter(|carrier| entry.survives(carrier))
    }
}

fn select_all(recipe: &Recipe, operations: &dyn Operations) -> Result<Assembled, ReadError> {
    let Missing::Select { all, entry } = &recipe.missing else { return Ok(Assembled::Select) };
    let mut unacceptable = Vec::new();
    let mut candidates: BTreeMap<ChangeHash, Candidate> = BTreeMap::new();
    let mut surviving: Vec<ChangeHash> = Vec::new();
    for Carried { reference, change } in read_changes(&recipe.key, all, &recipe.authors, operations)? {
        let survives = entry.survives(&reference);
        match judge(&change) {
            Ok(header) => {
                if survives {
                    surviving.push(header.hash);
                }
                let hash = header.hash;
                let new = || Candidate { header, change, carriers: Vec::new() };
                candidates.entry(hash).or_insert_with(new).carriers.push(reference);
            }
            Err(rejected) if survives => unacceptable.push(blocked_record(reference, &rejected)),
            Err(_) => {}
        }
    }
    let closure = closure(&candidates, surviving);
    let selection = select_among(&candidates, &closure, recipe, operations)?;
    let build = |withheld: &BTreeSet<OperationRef>| {
        let mut loaded = Loaded::empty(recipe.generation, recipe.total);
        loaded.blocked.clone_from(&unacceptable);
        note_losers(&mut loaded, &candidates, &selection.blocked, entry);
        let applied = apply_selected(&mut loaded, &candidates, &selection.order, withheld, entry);
        loaded.blocked.sort_by_key(|record| record.reference);
        loaded.blocked.dedup_by_key(|record| record.reference);
        let claim = |candidate: &Candidate| (candidate.header.actor.clone(), candidate.header.sequence);
        let absent = closure.iter().filter(|hash| !applied.contains(*hash));
        loaded.claimed = absent.filter_map(|hash| candidates.get(hash)).map(claim).collect();
        loaded
    };
    // What is wrong with the changes themselves must not depend on what is withheld because of it.
    let mut loaded = build(&BTreeSet::new());
    let is_withheld = |reference: &Reference| recipe.withheld.contains(&reference.operation);
    if all.iter().any(is_withheld) {
        let by_itself = std::mem::replace(&mut loaded, build(&recipe.withheld)).blocked;
        let known: BTreeSet<Reference> = by_itself.iter().map(|record| record.reference).collect();
        loaded.blocked.retain(|record| !known.contains(&record.reference));
        for record in &mut loaded.blocked {
            record.derived = true;
        }
        loaded.blocked.extend(by_itself);
        loaded.blocked.sort_by_key(|record| record.reference);
    }
    Ok(Assembled::Ready(Box::new(loaded)))
}

/// Applies the selected changes but for those that only withheld operations carry; returns those that are part of the
/// document.
fn apply_selected(
    loaded: &mut Loaded,
    candidates: &BTreeMap<ChangeHash, Candidate>,
    order: &[ChangeHash],
    withheld: &BTreeSet<OperationRef>,
    entry: &CatalogEntry,
) -> BTreeSet<ChangeHash> {
    let mut chosen = Vec::with_capacity(order.len());
    for (hash, candidate) in order.iter().filter_map(|hash| Some((hash, candidates.get(hash)?))) {
        match candidate.carriers.iter().find(|carrier| !withheld.contains(&carrier.operation)) {
            Some(carrier) => chosen.push(Carried { reference: *carrier, change: candidate.change.clone() }),
            None => {
                // Carried once more, by an operation that is not withheld, it would count.
                loaded.awaited.insert(*hash);
                loaded.blocked.extend(candidate.surviving(entry).map(withheld_record));
            }
        }
    }
    let hashes: BTreeMap<Reference, ChangeHash> = candidates
        .iter()
        .flat_map(|(hash, candidate)| candidate.carriers.iter().map(|carrier| (*carrier, *hash)))
        .collect();
    let mut applied = BTreeSet::new();
    for (reference, outcome) in apply(loaded, chosen) {
        let rejected = match outcome {
            Ok(Received::New(header) | Received::Duplicate(header)) => {
                applied.insert(header.hash);
                continue;
            }
            Err(rejected) => rejected,
        };
        if let Rejected::MissingDependencies(missing) = &rejected {
            loaded.awaited.extend(missing.iter().take(AWAITED_MAX));
        }
        let candidate = hashes.get(&reference).and_then(|hash| candidates.get(hash));
        let carriers = candidate.into_iter().flat_map(|candidate| candidate.surviving(entry));
        loaded.blocked.extend(carriers.map(|carrier| blocked_record(carrier, &rejected)));
    }
    applied
}

/// Whether a change is acceptable by itself.
fn judge(change: &IncomingChange) -> Result<ChangeHeader, Rejected> {
    let header = parse_change(&change.bytes)?;
    match &change.expected_actor {
        Some(actor) if header.actor != actor => Err(Rejected::WrongActor),
        None if header.actor.len() == ACTOR_BYTES => Err(Rejected::ReservedActor),
        _ => Ok(header),
    }
}

/// The surviving changes and all that they build on.
fn closure(candidates: &BTreeMap<ChangeHash, Candidate>, surviving: Vec<ChangeHash>) -> BTreeSet<ChangeHash> {
    let mut closure = BTreeSet::new();
    let mut open = surviving;
    while let Some(hash) = open.pop() {
        let Some(candidate) = candidates.get(&hash) else { continue };
        if closure.insert(hash) {
            open.extend_from_slice(&candidate.header.dependencies);
        }
    }
    closure
}

fn select_among(
    candidates: &BTreeMap<ChangeHash, Candidate>,
    closure: &BTreeSet<ChangeHash>,
    recipe: &Recipe,
    operations: &dyn Operations,
) -> Result<super::select::Selection, ReadError> {
    let failure = RefCell::new(None);
    let carriers = |hash: &ChangeHash| {
        let references = candidates.get(hash).map_or(&[][..], |candidate| &candidate.carriers);
        let named = references.iter().filter_map(|reference| {
            let author = recipe.authors.get(reference.operation.author as usize)?;
            Some((*author, reference.operation.sequence))
        });
        named.collect::<Vec<_>>()
    };
    let before = |first, second| {
        operations.precedes(first, second).unwrap_or_else(|error| {
            *failure.borrow_mut() = Some(error);
            false
        })
    };
    // A change may be carried several times: it precedes another one if each carrier of that one has one of its
    // carriers before it. That is a strict partial order, as `select` requires.
    let precedes = |a: &ChangeHash, b: &ChangeHash| {
        let firsts = carriers(a);
        carriers(b).iter().all(|second| firsts.iter().any(|first| before(*first, *second)))
    };
    let among = closure.iter().filter_map(|hash| candidates.get(hash)).map(|candidate| &candidate.header);
    let selection = select(among, precedes);
    match failure.into_inner() {
        Some(error) => Err(error),
        None => Ok(selection),
    }
}

fn note_losers(
    loaded: &mut Loaded,
    candidates: &BTreeMap<ChangeHash, Candidate>,
    losers: &BTreeMap<ChangeHash, Blocked>,
    entry: &CatalogEntry,
) {
    for (hash, why) in losers {
        if let Blocked::MissingDependency { dependency } = why
            && loaded.awaited.len() < AWAITED_MAX
        {
            loaded.awaited.insert(*dependency);
        }
        let reason = match why {
            Blocked::Superseded { by } => format!("another change has its actor and sequence: {}", hex(by)),
            Blocked::DependsOnBlocked { dependency } => format!("it builds on a blocked change: {}", hex(dependency)),
            Blocked::MissingDependency { dependency } => format!("it builds on an unknown change: {}", hex(dependency)),
        };
        let record = |reference| BlockedRecord { reference, derived: false, reason: reason.clone() };
        let surviving = candidates.get(hash).into_iter().flat_map(|candidate| candidate.surviving(entry));
        loaded.blocked.extend(surviving.map(record));
    }
}

fn withheld_record(reference: Reference) -> BlockedRecord {
    let reason = "another change of the same transaction is blocked".to_owned();
    BlockedRecord { reference, derived: true, reason }
}

fn blocked_record(reference: Reference, rejected: &Rejected) -> BlockedRecord {
    let mut reason = rejected.to_string();
    let end = (0..=REASON_BYTES_MAX.min(reason.len())).rev().find(|at| reason.is_char_boundary(*at));
    reason.truncate(end.unwrap_or(0));
    BlockedRecord { reference, derived: false, reason }
}

fn hex(hash: &ChangeHash) -> String {
    data_encoding::HEXLOWER.encode(hash)
}

/// Whether the change in an entry is acceptable by itself and builds on nothing: then nothing can ever block it but an
/// earlier change of the same author.
///
/// A change that names no operation, not even its own, is only decoded. Should Automerge refuse it all the same, that
/// shows when its document is first read.
pub(super) fn stands_alone(entry: &Entry, actor: &[u8; ACTOR_BYTES]) -> bool {
    let Action::Change(bytes) = &entry.action else { return false };
    let Ok(parsed) = ParsedChange::parse(bytes) else { return false };
    let header = &parsed.header;
    let is_first = header.sequence == 1 && header.start_op == 1 && header.dependencies.is_empty();
    if !is_first || header.actor != actor {
        return false;
    }
    if !parsed.has_references && !parsed.has_marks {
        return true;
    }
    let change = IncomingChange { bytes: bytes.clone(), expected_actor: Some(*actor) };
    matches!(Document::new().apply(vec![change]).outcomes.as_slice(), [Ok(_)])
}
