//! Local edits: what a person or an app can do to a document in one transaction.

use automerge::transaction::Transactable;
use automerge::{AutomergeError, ObjId, ObjType, Prop, ROOT, ReadDoc, ScalarValue, Value as Held};
use serde_json::{Map, Value};
use syncline_model::planted::{Bug, planted};

use super::change::{ChangeHash, ChangeHeader};
use super::limits::{MAX_CHANGE_BYTES, MAX_DEPTH, MAX_OPERATIONS};
use super::pointer::{Pointer, list_index};
use super::put::{Current, Writer};
use super::view::depth_of;

/// How JSON strings are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StringMode {
    /// As one value: compact, and of two concurrent writes one wins.
    #[default]
    Scalar,
    /// As collaborative text: concurrent edits merge, at one operation per character.
    Text,
}

/// One step of a transaction on a document.
#[derive(Debug, Clone, PartialEq)]
pub enum Edit {
    /// Makes the document equal to a JSON object, changing only what differs.
    ///
    /// Text and counters that are there stay text and counters; they take the difference.
    Put(Value),
    /// Applies a JSON merge patch (RFC 7396) to the document.
    Merge(Value),
    /// Deletes and inserts characters of a text; positions count Unicode code points.
    ///
    /// Nothing at the path becomes an empty text first (its parent must exist; `-` appends to a list), a plain
    /// string becomes a text with the same content.
    Splice {
        /// Where the text is.
        path: Pointer,
        /// Position of the first character concerned.
        index: usize,
        /// How many characters go.
        delete: usize,
        /// What comes in their place.
        insert: String,
    },
    /// The same by somebody who has seen the document at some changes only: positions refer to the text as of
    /// `heads`, and the change merges with whatever else is there as any concurrent one does.
    ///
    /// All edits of one document in a transaction are made at the same heads. These must cover this device's own
    /// earlier changes of the document.
    SpliceAt {
        /// Where the text is.
        path: Pointer,
        /// The changes that were seen; all that they depend on counts as seen too. None: an empty document.
        heads: Vec<ChangeHash>,
        /// Position of the first character concerned.
        index: usize,
        /// How many characters go.
        delete: usize,
        /// What comes in their place.
        insert: String,
    },
    /// Adds to a counter; concurrent additions all count.
    ///
    /// Nothing at the path becomes a counter that starts at 0, a plain integer one that starts there.
    Increment {
        /// Where the counter is.
        path: Pointer,
        /// What to add.
        by: i64,
    },
    /// Writes a value over all conflicting values at a path.
    Resolve {
        /// Where the conflict is.
        path: Pointer,
        /// The value that remains.
        value: Value,
    },
}

/// The Automerge change that a transaction made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EditedChange {
    /// The raw change chunk, as it is stored and sent.
    pub bytes: Vec<u8>,
    /// What the chunk says of itself.
    pub header: ChangeHeader,
}

/// Why an edit was not made; the document is as before, except after [`EditError::Failed`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EditError {
    /// The top level is not an object.
    #[error("a document is a JSON object: wrap the value, for example as {{\"value\": …}}")]
    DocumentMustBeObject,
    /// A value nests too deep.
    #[error("the value nests deeper than {MAX_DEPTH} levels: flatten it, or split it into several documents")]
    TooDeep,
    /// The transaction is too large for one change.
    #[error(
        "the edit is too large for one change ({MAX_OPERATIONS} operations, {MAX_CHANGE_BYTES} bytes): \
         write it in several transactions"
    )]
    TooLarge,
    /// The path names the whole document.
    #[error("this edit needs a path to a field, for example \"/title\"")]
    PathIsRoot,
    /// A step of the path does not exist.
    #[error("nothing exists at \"{0}\": put a value there first")]
    PathMissing(Pointer),
    /// A step of the path leads into something that has no fields.
    #[error("the value at \"{0}\" is neither an object nor a list, so it has no fields")]
    NotAContainer(Pointer),
    /// A step into a list is not a position in it.
    #[error("\"{path}\" is not a position in its list of {length}: use 0 to {length}, or \"-\" to append")]
    BadListIndex {
        /// The path up to the step.
        path: Pointer,
        /// The length of the list.
        length: usize,
    },
    /// The value to splice is no text.
    #[error("the value at \"{0}\" is not text, so it cannot be spliced")]
    NotText(Pointer),
    /// A splice reaches outside of its text.
    #[error("the splice at {index} deleting {delete} reaches outside of the text of {length} characters (code points)")]
    SpliceOutOfRange {
        /// Position of the splice.
        index: usize,
        /// Characters to delete.
        delete: usize,
        /// Length of the text.
        length: usize,
    },
    /// A change that the editor claims to have seen is not here.
    #[error(
        "the document does not hold the change {hash}: wait until it has arrived, or name changes from its history"
    )]
    UnknownHead {
        /// The change.
        hash: String,
    },
    /// The edits of one document do not agree on what was seen, or it does not include this device's own changes.
    #[error(
        "the edits of a document in one transaction must name the same heads, and these must cover what this device \
         wrote to it before"
    )]
    HeadsMismatch,
    /// The value to increment is no whole number.
    #[error("the value at \"{0}\" is not a counter or a whole number, so it cannot be incremented")]
    NotACounter(Pointer),
    /// A counter would leave its range.
    #[error("the counter would leave the range of 64-bit integers")]
    CounterOverflow,
    /// The operation counters of the document are used up.
    #[error("the document has reached the end of its operation counters: copy its value to a new document")]
    CountersExhausted,
    /// Automerge refused an operation.
    #[error("Automerge refused the edit: {0}")]
    Automerge(#[from] AutomergeError),
    /// Automerge failed, now or before, and left the document in an unknown state.
    #[error("the document failed and has to be loaded again from its changes")]
    Failed,
}

impl EditError {
    /// Whether splitting the edit helps.
    pub fn is_too_large(&self) -> bool {
        matches!(self, Self::TooLarge)
    }
}

impl Edit {
    /// The changes that the editor has seen, when it says so.
    pub(super) fn seen(&self) -> Option<&[ChangeHash]> {
        match self {
            Self::SpliceAt { heads, .. } => Some(heads),
            _ => None,
        }
    }

    /// Refuses values that no document may hold, before anything is written.
    pub(super) fn check(&self) -> Result<(), EditError> {
        let (steps, value) = match self {
            Self::Put(value) | Self::Merge(value) => {
                if !value.is_object() {
                    return Err(EditError::DocumentMustBeObject);
                }
                (0, value)
            }
            Self::Resolve { path, value } => (path.tokens().len(), value),
            Self::Splice { .. } | Self::SpliceAt { .. } | Self::Increment { .. } => return Ok(()),
        };
        if steps + depth_of(value) > MAX_DEPTH { Err(EditError::TooDeep) } else { Ok(()) }
    }
}

/// The place that a path names: an existing value, a free field, or the end of a list.
struct Place {
    object: ObjId,
    prop: Prop,
    current: Option<Current>,
    insert: bool,
}

impl Writer<'_, '_> {
    /// Makes one edit.
    pub(super) fn make(&mut self, edit: &Edit) -> Result<(), EditError> {
        match edit {
            Edit::Put(value) => self.put_root(object_of(value)?),
            Edit::Merge(patch) => self.merge_map(&ROOT, object_of(patch)?),
            Edit::Splice { path, index, delete, insert } => self.splice(path, *index, *delete, insert),
            Edit::SpliceAt { path, index, delete, insert, .. } => self.splice(path, *index, *delete, insert),
            Edit::Increment { path, by } => self.increment(path, *by),
            Edit::Resolve { path, value } => self.resolve(path, value),
        }
    }

    fn splice(&mut self, path: &Pointer, index: usize, delete: usize, insert: &str) -> Result<(), EditError> {
        let place = self.locate(path)?;
        let in_range = |length: usize| {
            if index > length || delete > length - index {
                return Err(EditError::SpliceOutOfRange { index, delete, length });
            }
            Ok(())
        };
        let content = match &place.current {
            Some(Current { value: Held::Object(ObjType::Text), object: Some(text) }) => {
                in_range(self.transaction.length(text))?;
                let delete = isize::try_from(delete).map_err(|_| EditError::TooLarge)?;
                return Ok(self.transaction.splice_text(text, index, delete, insert)?);
            }
            Some(Current { value: Held::Scalar(scalar), .. }) => match scalar.as_ref() {
                ScalarValue::Str(content) => content.to_string(),
                _ => return Err(EditError::NotText(path.clone())),
            },
            Some(_) => return Err(EditError::NotText(path.clone())),
            None => String::new(),
        };
        in_range(content.chars().count())?;
        let kept = content.chars().take(index).chain(insert.chars()).chain(content.chars().skip(index + delete));
        let content: String = kept.collect();
        let text = match place.prop {
            Prop::Seq(index) if place.insert => self.transaction.insert_object(&place.object, index, ObjType::Text)?,
            prop => self.transaction.put_object(&place.object, prop, ObjType::Text)?,
        };
        Ok(self.transaction.splice_text(&text, 0, 0, &content)?)
    }

    fn increment(&mut self, path: &Pointer, by: i64) -> Result<(), EditError> {
        let place = self.locate(path)?;
        let start = match &place.current {
            None => 0,
            Some(Current { value: Held::Scalar(scalar), .. }) => match scalar.as_ref() {
                ScalarValue::Counter(counter) => {
                    i64::from(counter).checked_add(by).ok_or(EditError::CounterOverflow)?;
                    return Ok(self.transaction.increment(&place.object, place.prop, by)?);
                }
                ScalarValue::Int(number) => *number,
                ScalarValue::Uint(number) => i64::try_from(*number).map_err(|_| EditError::CounterOverflow)?,
                _ => return Err(EditError::NotACounter(path.clone())),
            },
            Some(_) => return Err(EditError::NotACounter(path.clone())),
        };
        let counter = ScalarValue::counter(start.checked_add(by).ok_or(EditError::CounterOverflow)?);
        match place.prop {
            Prop::Seq(index) if place.insert => self.transaction.insert(&place.object, index, counter)?,
            prop => self.transaction.put(&place.object, prop, counter)?,
        }
        Ok(())
    }

    fn resolve(&mut self, path: &Pointer, value: &Value) -> Result<(), EditError> {
        let place = self.locate(path)?;
        if place.current.is_none() {
            return Err(EditError::PathMissing(path.clone()));
        }
        if planted(Bug::ResolutionLost) {
            return Ok(());
        }
        // Every operation visible at the place becomes a predecessor of this one. A scalar equal to the winner is
        // the exception: Automerge then deletes the others and keeps the winner, which ends the conflict as well.
        self.write(&place.object, place.prop, value, false).map(drop)
    }

    fn locate(&self, path: &Pointer) -> Result<Place, EditError> {
        let (last, parents) = path.tokens().split_last().ok_or(EditError::PathIsRoot)?;
        let (mut object, mut kind) = (ROOT, ObjType::Map);
        for (step, token) in parents.iter().enumerate() {
            let here = path.prefix(step + 1);
            let (prop, _) = self.prop(&object, kind, token, &here)?;
            match self.current(&object, &prop)? {
                None => return Err(EditError::PathMissing(here)),
                Some(Current { value: Held::Object(inner @ (ObjType::Map | ObjType::List)), object: Some(id) }) => {
                    (object, kind) = (id, inner);
                }
                Some(_) => return Err(EditError::NotAContainer(here)),
            }
        }
        let (prop, insert) = self.prop(&object, kind, last, path)?;
        let current = if insert { None } else { self.current(&object, &prop)? };
        Ok(Place { object, prop, current, insert })
    }

    /// Reads a step as a field or position, and tells whether it is the end of a list.
    fn prop(&self, object: &ObjId, kind: ObjType, token: &str, here: &Pointer) -> Result<(Prop, bool), EditError> {
        if kind != ObjType::List {
            return Ok((Prop::Map(token.to_owned()), false));
        }
        let length = self.transaction.length(object);
        let index = if token == "-" { Some(length) } else { list_index(token) };
        match index {
            Some(index) if index <= length => Ok((Prop::Seq(index), index == length)),
            _ => Err(EditError::BadListIndex { path: here.clone(), length }),
        }
    }
}

fn object_of(value: &Value) -> Result<&Map<String, Value>, EditError> {
    value.as_object().ok_or(EditError::DocumentMustBeObject)
}
