//! The first change of a document, encoded straight from its value.
//!
//! Most documents of an import are written once and read later, if ever. Building Automerge's indexed columns only
//! to read the change back out of them costs five times as much as encoding the operations, so an empty document
//! that is put keeps just its change until somebody looks at it.

use std::collections::VecDeque;
use std::num::NonZeroU64;

use automerge::legacy::{ElementId, Key, ObjectId, Op, OpId, OpType};
use automerge::{ActorId, Change, ExpandedChange, ObjType, ScalarValue};
use serde_json::{Map, Value};

use super::edit::StringMode;
use super::limits::MAX_OPERATIONS;
use super::put::scalar_of;

/// The change that puts `value` into an empty document; `None` if it has more operations than a change may.
pub(super) fn first_change(actor: &ActorId, value: &Map<String, Value>, mode: StringMode) -> Option<Change> {
    let mut encoder = Encoder { actor, mode, operations: Vec::with_capacity(value.len()), open: VecDeque::new() };
    encoder.map(&ObjectId::Root, value);
    while let Some((object, content)) = encoder.open.pop_front() {
        match content {
            Value::Object(map) => encoder.map(&object, map),
            Value::Array(items) => encoder.list(&object, items),
            Value::String(text) => encoder.text(&object, text),
            // Only containers are put off.
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
        if encoder.operations.len() as u64 > MAX_OPERATIONS {
            return None;
        }
    }
    Some(Change::from(ExpandedChange {
        operations: encoder.operations,
        actor_id: actor.clone(),
        hash: None,
        seq: 1,
        start_op: NonZeroU64::MIN,
        time: 0,
        message: None,
        deps: Vec::new(),
        extra_bytes: Vec::new(),
        author: None,
    }))
}

struct Encoder<'a> {
    actor: &'a ActorId,
    mode: StringMode,
    operations: Vec<Op>,
    /// Containers that are made but not yet filled.
    open: VecDeque<(ObjectId, &'a Value)>,
}

impl<'a> Encoder<'a> {
    fn map(&mut self, object: &ObjectId, map: &'a Map<String, Value>) {
        for (key, value) in map {
            self.write(object, Key::Map(key.as_str().into()), value, false);
        }
    }

    fn list(&mut self, object: &ObjectId, items: &'a [Value]) {
        let mut after = ElementId::Head;
        for item in items {
            let id = self.write(object, Key::Seq(after), item, true);
            after = ElementId::Id(id);
        }
    }

    fn text(&mut self, object: &ObjectId, text: &str) {
        let mut after = ElementId::Head;
        for character in text.chars() {
            let id = self.next_id();
            self.push(object, Key::Seq(after), OpType::Put(ScalarValue::from(character)), true);
            after = ElementId::Id(id);
        }
    }

    fn write(&mut self, object: &ObjectId, key: Key, value: &'a Value, insert: bool) -> OpId {
        let id = self.next_id();
        let kind = match value {
            Value::Object(_) => Some(ObjType::Map),
            Value::Array(_) => Some(ObjType::List),
            Value::String(_) if self.mode == StringMode::Text => Some(ObjType::Text),
            _ => None,
        };
        match kind {
            Some(kind) => {
                self.push(object, key, OpType::Make(kind), insert);
                self.open.push_back((ObjectId::Id(id.clone()), value));
            }
            None => self.push(object, key, OpType::Put(scalar_of(value)), insert),
        }
        id
    }

    fn push(&mut self, object: &ObjectId, key: Key, action: OpType, insert: bool) {
        self.operations.push(Op { action, obj: object.clone(), key, pred: Vec::new().into(), insert });
    }

    fn next_id(&self) -> OpId {
        OpId::new(self.operations.len() as u64 + 1, self.actor)
    }
}
