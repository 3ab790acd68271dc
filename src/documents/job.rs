//! A job on one or several documents: bring them up to date, then read or edit them.
//!
//! A job owns the documents it works on, so that it can run on any thread; the desk runs jobs on small documents at
//! once and hands those on large ones out.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use serde_json::Value;
use syncline_model::limits::{CHANGE_BYTES_MAX, PAYLOAD_BYTES_MAX};
use syncline_model::{Action, ContentKey, DeviceId, DocumentKey};

use super::assemble::{Assembled, Recipe, assemble};
use super::audit::{self, Anew, Comparison};
use super::catalog::{BlockedRecord, Reference};
use super::change::{ChangeHash, parse_change};
use super::document::Document;
use super::edit::{Edit, EditError, StringMode};
use super::error::DocumentError;
use super::history::{HistoryError, HistoryOrder};
use super::limits::ACTOR_BYTES;
use super::operations::Operations;
use super::pointer::Pointer;
use super::receive::{IncomingChange, Received};
use super::request::{Carrier, Chunks, ConflictChoice, ConflictPlace, HistoryItem};
use super::snapshot::{Loaded, Snapshot};

/// New changes since the last snapshot that make a job write another one.
pub(super) const SNAPSHOT_EVERY: u64 = 256;
/// Most bytes of all changes and keys of one transaction; the rest of a payload is for its frame.
pub(super) const TRANSACTION_BYTES_MAX: usize = PAYLOAD_BYTES_MAX - (64 << 10);

/// What all jobs of a space use.
pub(super) struct Shared {
    pub(super) operations: Arc<dyn Operations>,
    pub(super) seal_key: ContentKey,
    pub(super) strings: StringMode,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("operations", &self.operations).finish_non_exhaustive()
    }
}

/// Work on documents for a thread of its own.
#[derive(Debug)]
pub struct Job {
    pub(super) id: u64,
    pub(super) shared: Arc<Shared>,
    pub(super) documents: Vec<Assignment>,
    pub(super) work: Work,
}

/// One document of a job.
#[derive(Debug)]
pub(super) struct Assignment {
    pub(super) recipe: Recipe,
    /// What is known to be blocked; when that turns out to be wrong, the desk has to settle it first.
    pub(super) known_blocked: Vec<BlockedRecord>,
    /// A seed for sealing, when a snapshot may be written: the document holds nothing that is not durable.
    pub(super) save: Option<[u8; 32]>,
    /// The document holds changes that are not durable, so it cannot be loaded again when an edit fails half-way.
    pub(super) irreplaceable: bool,
}

/// What to do with documents that are up to date.
#[derive(Debug)]
pub(super) enum Work {
    /// Nothing more.
    Touch,
    /// Read the only document.
    Read(ReadKind),
    /// Edit each document by the plan of the same position.
    Edit {
        /// One for each document.
        plans: Vec<Plan>,
        /// The actor of the changes.
        actor: [u8; ACTOR_BYTES],
    },
}

/// What to read.
#[derive(Debug, Clone)]
pub(super) enum ReadKind {
    View,
    ViewAt(Vec<ChangeHash>),
    History {
        after: Option<ChangeHash>,
        limit: usize,
        /// The latest references, among which the carriers of the changes are looked for.
        recent: Vec<Reference>,
        authors: Arc<Vec<DeviceId>>,
    },
    Conflicts,
    Chunks(Vec<ChangeHash>),
    /// Made anew from all its operations, which the desk fills in.
    Compare(Box<Anew>),
}

/// What was read.
#[derive(Debug)]
pub(super) enum Found {
    View { value: Value, heads: Vec<ChangeHash> },
    History(Vec<HistoryItem>),
    Conflicts { places: Vec<ConflictPlace>, blocked: Vec<BlockedRecord> },
    Chunks(Chunks),
    Compared(Comparison),
}

/// One document's part of a transaction.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) key: DocumentKey,
    /// Whether it is deleted first.
    pub(super) delete: bool,
    /// Whether steps before the delete would have created it.
    pub(super) created_before: bool,
    pub(super) parts: Vec<Part>,
}

/// A stretch of steps on one document; each step with its position in the transaction.
#[derive(Debug, Clone)]
pub(super) enum Part {
    /// Together they become one change.
    Edits(Vec<(usize, Edit)>),
    /// Changes made elsewhere.
    Foreign(usize, Vec<Vec<u8>>),
}

/// What a transaction did to one document.
#[derive(Debug)]
pub(super) struct EditedDocument {
    pub(super) actions: Vec<Action>,
    /// The last change that was made here.
    pub(super) change: Option<ChangeHash>,
    pub(super) heads: Vec<ChangeHash>,
}

/// What came of a job.
#[derive(Debug)]
pub struct JobDone {
    pub(super) id: u64,
    pub(super) documents: Vec<Returned>,
    /// None when a document is not up to date, or something about it has to be settled first: try again.
    pub(super) outcome: Option<Outcome>,
    /// The work, to be tried again.
    pub(super) work: Work,
}

/// A document that comes back.
#[derive(Debug)]
pub(super) struct Returned {
    pub(super) key: DocumentKey,
    /// None when it must be loaded again.
    pub(super) assembled: Option<Assembled>,
    pub(super) snapshot: Option<Vec<u8>>,
}

/// What the work gave.
#[derive(Debug)]
pub(super) enum Outcome {
    Touched,
    Read(Result<Found, DocumentError>),
    Edited(Result<Vec<EditedDocument>, DocumentError>),
}

impl Job {
    /// Does the work; takes from microseconds to seconds. Never panics.
    pub fn run(self) -> JobDone {
        let Self { id, shared, documents, work } = self;
        let keys: Vec<DocumentKey> = documents.iter().map(|assignment| assignment.recipe.key.clone()).collect();
        let attempt = catch_unwind(AssertUnwindSafe(|| perform(&shared, documents, &work)));
        let (documents, outcome) = attempt.unwrap_or_else(|_| {
            let lost = |key: &DocumentKey| Returned { key: key.clone(), assembled: None, snapshot: None };
            let error = DocumentError::Damaged {
                key: keys[0].clone(),
                reason: "Automerge failed on it; it is loaded again".to_owned(),
            };
            let outcome = match work {
                Work::Touch => Outcome::Touched,
                Work::Read(_) => Outcome::Read(Err(error)),
                Work::Edit { .. } => Outcome::Edited(Err(error)),
            };
            (keys.iter().map(lost).collect(), Some(outcome))
        });
        JobDone { id, documents, outcome, work }
    }
}

fn perform(shared: &Shared, assignments: Vec<Assignment>, work: &Work) -> (Vec<Returned>, Option<Outcome>) {
    let mut documents = Vec::with_capacity(assignments.len());
    let mut irreplaceable = Vec::with_capacity(assignments.len());
    let mut settled = true;
    for Assignment { recipe, known_blocked, save, irreplaceable: keep } in assignments {
        let key = recipe.key.clone();
        let mut assembled = assemble(recipe, &*shared.operations, &shared.seal_key);
        let mut snapshot = None;
        match &mut assembled {
            Assembled::Ready(loaded) => {
                settled &= loaded.blocked == known_blocked;
                if let Some(seed) = save.filter(|_| loaded.complete - loaded.saved >= SNAPSHOT_EVERY) {
                    snapshot = Snapshot::save(loaded, &key, &shared.seal_key, seed);
                    loaded.saved = loaded.complete;
                }
            }
            _ => settled = false,
        }
        irreplaceable.push(keep);
        documents.push(Returned { key, assembled: Some(assembled), snapshot });
    }
    if !settled {
        return (documents, None);
    }
    let outcome = match work {
        Work::Touch => Outcome::Touched,
        Work::Read(kind) => match documents.first().map(|document| (&document.key, &document.assembled)) {
            Some((key, Some(Assembled::Ready(loaded)))) => Outcome::Read(read(key, loaded, kind, shared)),
            _ => return (documents, None),
        },
        Work::Edit { plans, actor } => Outcome::Edited(edit_all(&mut documents, &irreplaceable, plans, actor, shared)),
    };
    (documents, Some(outcome))
}

fn read(key: &DocumentKey, loaded: &Loaded, kind: &ReadKind, shared: &Shared) -> Result<Found, DocumentError> {
    let document = &loaded.document;
    let unknown = |error: HistoryError| match error {
        HistoryError::UnknownChange(hash) => DocumentError::UnknownChange { key: key.clone(), hash },
    };
    Ok(match kind {
        ReadKind::View => Found::View { value: document.view(), heads: document.heads() },
        ReadKind::ViewAt(heads) => {
            Found::View { value: document.view_at(heads).map_err(unknown)?, heads: heads.clone() }
        }
        ReadKind::History { after, limit, recent, authors } => {
            let page = document.history(HistoryOrder::NewestFirst, after.as_ref(), *limit).map_err(unknown)?;
            let mut items: Vec<HistoryItem> = page
                .into_iter()
                .map(|entry| HistoryItem {
                    hash: entry.hash,
                    actor: data_encoding::HEXLOWER.encode(&entry.actor),
                    sequence: entry.sequence,
                    dependencies: entry.dependencies,
                    operations: entry.operations,
                    carried_by: None,
                    message: entry.message,
                })
                .collect();
            name_carriers(key, &mut items, recent, authors, &*shared.operations);
            Found::History(items)
        }
        ReadKind::Conflicts => {
            let places = document.conflicts(&Pointer::root()).into_iter().map(|conflict| ConflictPlace {
                path: conflict.path.to_string(),
                values: conflict
                    .values
                    .into_iter()
                    .map(|value| ConflictChoice {
                        value: value.value,
                        winner: value.winner,
                        actor: value.actor,
                        operation: value.operation,
                    })
                    .collect(),
            });
            Found::Conflicts { places: places.collect(), blocked: loaded.blocked.clone() }
        }
        ReadKind::Compare(anew) => {
            let compared = audit::compare(key, loaded, anew, shared);
            Found::Compared(compared.map_err(|reason| DocumentError::Damaged { key: key.clone(), reason })?)
        }
        ReadKind::Chunks(heads) => {
            let changes = document.changes_since(heads).map_err(unknown)?;
            Found::Chunks(Chunks { changes, heads: document.heads() })
        }
    })
}

/// Finds out which operations carry the changes of a page of history, as far as the latest references go.
fn name_carriers(
    key: &DocumentKey,
    items: &mut [HistoryItem],
    recent: &[Reference],
    authors: &[DeviceId],
    operations: &dyn Operations,
) {
    let mut unnamed = items.len();
    for reference in recent.iter().rev() {
        if unnamed == 0 {
            return;
        }
        let Some(log) = authors.get(reference.operation.author as usize).copied() else { continue };
        let sequence = reference.operation.sequence;
        // What cannot be read stays unnamed.
        let _ = operations.read(&log, sequence - 1, sequence, &mut |content| {
            let entry = content.entries.get(reference.entry as usize).filter(|entry| entry.key == *key);
            let Some(Action::Change(bytes) | Action::ForeignChange(bytes)) = entry.map(|entry| &entry.action) else {
                return;
            };
            let Ok(header) = parse_change(bytes) else { return };
            if let Some(item) = items.iter_mut().find(|item| item.hash == header.hash && item.carried_by.is_none()) {
                item.carried_by =
                    Some(Carrier { author: content.author, sequence, wall_time_ms: content.wall_time_ms });
                unnamed -= 1;
            }
        });
    }
}

fn edit_all(
    documents: &mut [Returned],
    irreplaceable: &[bool],
    plans: &[Plan],
    actor: &[u8; ACTOR_BYTES],
    shared: &Shared,
) -> Result<Vec<EditedDocument>, DocumentError> {
    // One edit of one document leaves the document as it was when it fails; anything else may stop half-way.
    let several = plans.len() > 1 || plans.iter().any(|plan| plan.parts.len() + usize::from(plan.delete) > 1);
    let mut backups: Vec<Option<Document>> = Vec::new();
    let mut edited = Vec::with_capacity(plans.len());
    let mut bytes = 0;
    let mut failure = None;
    for ((returned, plan), keep) in documents.iter_mut().zip(plans).zip(irreplaceable) {
        let Some(Assembled::Ready(loaded)) = &mut returned.assembled else { continue };
        backups.push((several && *keep).then(|| loaded.document.clone()));
        match edit_one(loaded, plan, actor, shared.strings) {
            Ok(document) => {
                let size = |action: &Action| match action {
                    Action::Change(bytes) | Action::ForeignChange(bytes) => bytes.len(),
                    Action::Delete => 0,
                };
                let sizes = document.actions.iter().map(|action| size(action) + plan.key.as_str().len() + 16);
                bytes += sizes.sum::<usize>();
                if document.actions.iter().any(|action| size(action) > CHANGE_BYTES_MAX) {
                    failure = Some(DocumentError::TooLarge { what: "bytes of one change", limit: CHANGE_BYTES_MAX });
                }
                edited.push(document);
            }
            Err(error) => failure = Some(error),
        }
        if bytes > TRANSACTION_BYTES_MAX {
            failure = Some(DocumentError::TooLarge { what: "bytes of changes", limit: TRANSACTION_BYTES_MAX });
        }
        if failure.is_some() {
            break;
        }
    }
    let Some(failure) = failure else { return Ok(edited) };
    // Nothing remains of the transaction: what it may have changed goes back, or is loaded again.
    for (returned, backup) in documents.iter_mut().zip(backups) {
        match (&mut returned.assembled, backup) {
            (Some(Assembled::Ready(loaded)), Some(backup)) => loaded.document = backup,
            (Some(Assembled::Ready(loaded)), None)
                if !several && edited.is_empty() && !loaded.document.has_failed() => {}
            (assembled, _) => *assembled = None,
        }
    }
    Err(failure)
}

fn edit_one(
    loaded: &mut Loaded,
    plan: &Plan,
    actor: &[u8; ACTOR_BYTES],
    strings: StringMode,
) -> Result<EditedDocument, DocumentError> {
    let mut actions = Vec::with_capacity(plan.parts.len() + usize::from(plan.delete));
    let mut change = None;
    if plan.delete {
        actions.push(Action::Delete);
        loaded.document = Document::new();
    }
    for part in &plan.parts {
        match part {
            Part::Edits(steps) => {
                let (positions, edits): (Vec<usize>, Vec<Edit>) = steps.iter().cloned().unzip();
                let made = match loaded.document.edit(actor, &edits, strings) {
                    // A put of an empty object makes the document exist all the same.
                    Ok(None) if loaded.document.is_empty() => loaded.document.begin(actor).map(Some),
                    made => made,
                };
                match made {
                    Ok(Some(made)) => {
                        change = Some(made.header.hash);
                        actions.push(Action::Change(made.bytes));
                    }
                    Ok(None) => {}
                    Err(source) => {
                        let step = positions[first_failing(&loaded.document, actor, &edits, strings, &source)];
                        return Err(DocumentError::BadEdit { step, key: plan.key.clone(), source: Box::new(source) });
                    }
                }
            }
            Part::Foreign(step, changes) => {
                let incoming = |bytes: &Vec<u8>| IncomingChange { bytes: bytes.clone(), expected_actor: None };
                let outcomes = loaded.document.apply(changes.iter().map(incoming).collect()).outcomes;
                for (position, (bytes, outcome)) in changes.iter().zip(outcomes).enumerate() {
                    match outcome {
                        Ok(Received::New(_)) => actions.push(Action::ForeignChange(bytes.clone())),
                        Ok(Received::Duplicate(_)) => {}
                        Err(rejected) => {
                            return Err(DocumentError::BadChange {
                                step: *step,
                                key: plan.key.clone(),
                                change: position,
                                reason: rejected.to_string(),
                            });
                        }
                    }
                }
            }
        }
    }
    Ok(EditedDocument { actions, change, heads: loaded.document.heads() })
}

/// Which of several edits is the first that cannot be made.
fn first_failing(
    document: &Document,
    actor: &[u8; ACTOR_BYTES],
    edits: &[Edit],
    strings: StringMode,
    error: &EditError,
) -> usize {
    if edits.len() < 2 || matches!(error, EditError::Failed) {
        return 0;
    }
    // Once an edit fails, so does every longer sequence: the shortest failing one ends with the culprit.
    let fails = |count: usize| document.clone().edit(actor, &edits[..count], strings).is_err();
    let (mut good, mut bad) = (0, edits.len());
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        if fails(middle) { bad = middle } else { good = middle }
    }
    bad - 1
}
