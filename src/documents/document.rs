//! One document: an Automerge document that only ever holds checked changes.

use std::collections::BTreeMap;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use automerge::transaction::{CommitOptions, Transactable};
use automerge::{ActorId, Automerge, Change, LoadOptions, PatchLog, ReadDoc};
use serde_json::Value;

use super::change::{ChangeHash, ChangeHeader, header_of};
use super::edit::{Edit, EditError, EditedChange, StringMode};
use super::first::first_change;
use super::limits::{ACTOR_BYTES, MAX_CHANGE_BYTES, MAX_OPERATION_COUNTER, MAX_OPERATIONS, MAX_SNAPSHOT_BYTES};
use super::put::{TEXT_ENCODING, Writer};
use super::view::Reader;

/// A document with its history, ready to be read, edited and merged.
///
/// Its root is a JSON object. Changes enter it by [`Document::edit`], made here, and [`Document::apply`], made
/// elsewhere; a change that is refused leaves no trace.
#[derive(Debug, Clone)]
pub struct Document {
    /// Empty until it is needed, while `first` says it all; boxed, since it takes kilobytes by itself.
    automerge: OnceLock<Box<Automerge>>,
    /// The only change, of a document that nobody has looked at since it was put.
    first: Option<Change>,
    /// The last change of every actor. Automerge knows, but does not tell.
    tips: BTreeMap<ActorId, Tip>,
    /// Bytes of the snapshot and of the changes that came in since.
    bytes_taken: usize,
    failed: bool,
}

/// The last change of an actor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tip {
    pub(super) sequence: u64,
    pub(super) hash: ChangeHash,
}

/// Why a snapshot cannot be loaded; rebuild the document from its changes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The snapshot is larger than any that is written.
    #[error("the snapshot exceeds {MAX_SNAPSHOT_BYTES} bytes: rebuild the document from its changes")]
    TooLarge,
    /// The snapshot is damaged.
    #[error("the snapshot is damaged ({0}): rebuild the document from its changes")]
    Damaged(String),
}

impl Default for Document {
    fn default() -> Self {
        Self::new()
    }
}

impl Document {
    /// An empty document.
    pub fn new() -> Self {
        Self { automerge: OnceLock::new(), first: None, tips: BTreeMap::new(), bytes_taken: 0, failed: false }
    }

    /// Loads what [`Document::save`] wrote.
    ///
    /// # Errors
    /// [`LoadError`] for anything else; never panics.
    pub fn load(snapshot: &[u8]) -> Result<Self, LoadError> {
        if snapshot.len() > MAX_SNAPSHOT_BYTES {
            return Err(LoadError::TooLarge);
        }
        let damaged = |reason: &str| LoadError::Damaged(reason.to_owned());
        let load = || {
            let automerge = Automerge::load_with_options(snapshot, LoadOptions::new().text_encoding(TEXT_ENCODING))
                .map_err(|error| LoadError::Damaged(error.to_string()))?;
            if !automerge.get_missing_deps(&[]).is_empty() {
                return Err(damaged("changes are missing"));
            }
            let mut tips: BTreeMap<ActorId, Tip> = BTreeMap::new();
            for change in automerge.get_changes_meta(&[]) {
                let tip = tips.entry(change.actor.into_owned()).or_insert(Tip { sequence: 0, hash: [0; 32] });
                if tip.sequence < change.seq {
                    *tip = Tip { sequence: change.seq, hash: change.hash.0 };
                }
            }
            let bytes_taken = snapshot.len();
            Ok(Self { automerge: Box::new(automerge).into(), first: None, tips, bytes_taken, failed: false })
        };
        catch_unwind(AssertUnwindSafe(load)).unwrap_or_else(|_| Err(damaged("Automerge failed on it")))
    }

    /// The document with its history as bytes for [`Document::load`].
    pub fn save(&self) -> Vec<u8> {
        self.automerge().save()
    }

    /// The changes that no other change depends on, in ascending order; they name the version.
    pub fn heads(&self) -> Vec<ChangeHash> {
        match &self.first {
            Some(change) => vec![change.hash().0],
            None => self.automerge().get_heads().iter().map(|hash| hash.0).collect(),
        }
    }

    /// The present value, a JSON object.
    pub fn view(&self) -> Value {
        Reader::present(self.automerge()).root()
    }

    /// Whether the document holds no change.
    pub fn is_empty(&self) -> bool {
        self.tips.is_empty()
    }

    /// A rough figure of the memory that the document takes, in bytes, for deciding what to keep at hand.
    ///
    /// Automerge's empty columns dominate small documents; the factors fit documents of one record and of 100,000
    /// changes within a third.
    pub fn memory_estimate(&self) -> usize {
        const UNSEEN: usize = 2 << 10;
        const SEEN: usize = 20 << 10;
        const PER_OPERATION: u64 = 40;
        const PER_CHANGE: u64 = 100;
        /// What a change chunk says around its content; Automerge does not keep the chunk.
        const CHUNK_FRAME: u64 = 90;
        let taken = self.bytes_taken as u64;
        let Some(automerge) = self.automerge.get() else { return UNSEEN + self.bytes_taken };
        let stats = automerge.stats();
        let content = taken.saturating_sub(stats.num_changes * CHUNK_FRAME);
        let counted = content + stats.num_ops * PER_OPERATION + stats.num_changes * PER_CHANGE;
        SEEN + usize::try_from(counted).unwrap_or(usize::MAX / 2)
    }

    /// Makes `edits` in order as one change of `actor`.
    ///
    /// Returns `None` when the document already is as wanted. The change carries neither time nor message, since
    /// the operation around it does.
    ///
    /// # Errors
    /// The document is as before, except after [`EditError::Failed`]: then it is empty, refuses everything, and has
    /// to be loaded again.
    pub fn edit(
        &mut self,
        actor: &[u8; ACTOR_BYTES],
        edits: &[Edit],
        mode: StringMode,
    ) -> Result<Option<EditedChange>, EditError> {
        if self.failed {
            return Err(EditError::Failed);
        }
        edits.iter().try_for_each(Edit::check)?;
        let actor = ActorId::from(&actor[..]);
        let change = match edits {
            [Edit::Put(Value::Object(value))] if self.is_empty() && !value.is_empty() => {
                let change = first_change(&actor, value, mode).ok_or(EditError::TooLarge)?;
                check_size(&change)?;
                self.automerge = OnceLock::new();
                self.first = Some(change.clone());
                change
            }
            _ => match self.transact(&actor, edits, mode)? {
                Some(change) => change,
                None => return Ok(None),
            },
        };
        let header = header_of(&change);
        self.note(&actor, &header, change.raw_bytes().len());
        Ok(Some(EditedChange { bytes: change.raw_bytes().to_vec(), header }))
    }

    /// Makes an empty document exist: a change without operations, for a put of an empty object.
    pub(super) fn begin(&mut self, actor: &[u8; ACTOR_BYTES]) -> Result<EditedChange, EditError> {
        self.automerge();
        let Some(mut automerge) = self.automerge.take() else { return Err(self.fail()) };
        let actor = ActorId::from(&actor[..]);
        let attempt = || {
            automerge.set_actor(actor.clone());
            let hash = automerge.empty_commit(CommitOptions::default().with_time(0));
            automerge.get_change_by_hash(&hash)
        };
        let Ok(Some(change)) = catch_unwind(AssertUnwindSafe(attempt)) else { return Err(self.fail()) };
        self.automerge = automerge.into();
        self.first = None;
        let header = header_of(&change);
        self.note(&actor, &header, change.raw_bytes().len());
        Ok(EditedChange { bytes: change.raw_bytes().to_vec(), header })
    }

    /// Edits the Automerge document.
    fn transact(&mut self, actor: &ActorId, edits: &[Edit], mode: StringMode) -> Result<Option<Change>, EditError> {
        self.automerge();
        let Some(mut automerge) = self.automerge.take() else { return Err(self.fail()) };
        let before = automerge.get_heads();
        let attempt = || transact(&mut automerge, actor, edits, mode);
        let Ok(mut result) = catch_unwind(AssertUnwindSafe(attempt)) else { return Err(self.fail()) };
        if let Ok(Some(change)) = &result
            && let Err(error) = check_size(change)
        {
            // The size shows only after the commit, which Automerge cannot undo; it is rare enough to be slow.
            match catch_unwind(AssertUnwindSafe(|| automerge.fork_at(&before))) {
                Ok(Ok(earlier)) => *automerge = earlier,
                _ => return Err(self.fail()),
            }
            result = Err(error);
        }
        self.automerge = automerge.into();
        self.first = None;
        result
    }

    /// Whether a failure inside Automerge made the document unusable; load it again.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    fn fail(&mut self) -> EditError {
        *self = Self { failed: true, ..Self::new() };
        EditError::Failed
    }

    pub(super) fn automerge(&self) -> &Automerge {
        self.automerge.get_or_init(|| {
            let mut automerge = Automerge::new_with_encoding(TEXT_ENCODING);
            let applied = automerge.apply_changes(self.first.clone());
            // The change was encoded here from a JSON value, and depends on nothing.
            debug_assert!(applied.is_ok(), "the first change applies: {applied:?}");
            Box::new(automerge)
        })
    }

    pub(super) fn tip(&self, actor: &ActorId) -> Option<&Tip> {
        self.tips.get(actor)
    }

    /// Takes over an Automerge document that holds more changes.
    pub(super) fn replace(&mut self, automerge: Automerge) {
        self.automerge = Box::new(automerge).into();
        self.first = None;
    }

    /// Notes a change that the Automerge document now holds.
    pub(super) fn note(&mut self, actor: &ActorId, header: &ChangeHeader, bytes: usize) {
        let tip = Tip { sequence: header.sequence, hash: header.hash };
        match self.tips.get_mut(actor) {
            Some(held) if held.sequence < tip.sequence => *held = tip,
            Some(_) => {}
            None => drop(self.tips.insert(actor.clone(), tip)),
        }
        self.bytes_taken = self.bytes_taken.saturating_add(bytes);
    }
}

/// Refuses a change that other devices would refuse.
fn check_size(change: &Change) -> Result<(), EditError> {
    if change.raw_bytes().len() > MAX_CHANGE_BYTES {
        Err(EditError::TooLarge)
    } else if change.max_op() > MAX_OPERATION_COUNTER {
        Err(EditError::CountersExhausted)
    } else {
        Ok(())
    }
}

/// Makes the edits in one transaction; nothing remains of them on an error.
fn transact(
    automerge: &mut Automerge,
    actor: &ActorId,
    edits: &[Edit],
    mode: StringMode,
) -> Result<Option<Change>, EditError> {
    automerge.set_actor(actor.clone());
    let seen = seen_heads(automerge, actor, edits)?;
    // A transaction rolls back when dropped. After a panic inside Automerge that could panic again, and end the
    // process; so it is never dropped.
    let mut transaction = ManuallyDrop::new(match seen {
        None => automerge.transaction(),
        Some(heads) => automerge.transaction_at(PatchLog::inactive(), &heads).map_err(|_| EditError::Failed)?,
    });
    let mut writer = Writer { transaction: &mut transaction, mode };
    let made = edits.iter().try_for_each(|edit| {
        writer.make(edit)?;
        // Checked after each edit: the next would only make it worse.
        if writer.transaction.pending_ops() as u64 > MAX_OPERATIONS { Err(EditError::TooLarge) } else { Ok(()) }
    });
    let transaction = ManuallyDrop::into_inner(transaction);
    if let Err(error) = made {
        transaction.rollback();
        return Err(error);
    }
    let (hash, _) = transaction.commit();
    let Some(hash) = hash else { return Ok(None) };
    let change = automerge.get_change_by_hash(&hash).ok_or(EditError::Failed)?;
    Ok(Some(change))
}

/// The heads that the edits are to be made at, unless these are the present ones.
fn seen_heads(
    automerge: &Automerge,
    actor: &ActorId,
    edits: &[Edit],
) -> Result<Option<Vec<automerge::ChangeHash>>, EditError> {
    let Some(seen) = edits.first().and_then(Edit::seen) else {
        return if edits.iter().any(|edit| edit.seen().is_some()) { Err(EditError::HeadsMismatch) } else { Ok(None) };
    };
    if edits.iter().any(|edit| edit.seen() != Some(seen)) {
        return Err(EditError::HeadsMismatch);
    }
    let mut heads: Vec<_> = seen.iter().map(|hash| automerge::ChangeHash(*hash)).collect();
    heads.sort_unstable();
    heads.dedup();
    if let Some(unknown) = heads.iter().find(|hash| automerge.get_change_by_hash(hash).is_none()) {
        return Err(EditError::UnknownHead { hash: unknown.to_string() });
    }
    let mut present = automerge.get_heads();
    present.sort_unstable();
    if heads == present {
        return Ok(None);
    }
    // Automerge would continue under another actor, which other devices would not take for this one.
    if automerge.get_changes_meta(&heads).iter().any(|unseen| *unseen.actor == *actor) {
        return Err(EditError::HeadsMismatch);
    }
    Ok(Some(heads))
}
