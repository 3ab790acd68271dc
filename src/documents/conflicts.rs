//! Places where concurrent writes left several values, of which Automerge shows one.

use automerge::{ObjId, ObjType, Prop, ROOT, ReadDoc, ValueRef};
use data_encoding::HEXLOWER;
use serde_json::Value;

use super::document::Document;
use super::limits::{MAX_CONFLICTS, MAX_DEPTH};
use super::pointer::{Pointer, list_index};
use super::view::Reader;

/// A place with several values; it ends with an `Edit::Resolve` at its path.
#[derive(Debug, Clone, PartialEq)]
pub struct Conflict {
    /// Where it is.
    pub path: Pointer,
    /// All values, the winner last.
    pub values: Vec<ConflictValue>,
}

/// One of several values at a place.
#[derive(Debug, Clone, PartialEq)]
pub struct ConflictValue {
    /// The value.
    pub value: Value,
    /// Whether readers of the document see this one.
    pub winner: bool,
    /// The Automerge actor that wrote it, in hexadecimal.
    pub actor: String,
    /// The operation that wrote it, as `counter@actor`.
    pub operation: String,
}

impl Document {
    /// The conflicts at `under` and below it, in document order, [`MAX_CONFLICTS`] at most.
    ///
    /// Conflicts inside a value that lost are not listed: no path leads there. A path that does not exist has none.
    pub fn conflicts(&self, under: &Pointer) -> Vec<Conflict> {
        let mut search = Search { document: self.automerge(), path: Pointer::root(), found: Vec::new() };
        search.descend(&ROOT, ObjType::Map, under.tokens());
        search.found
    }
}

struct Search<'a> {
    document: &'a automerge::Automerge,
    path: Pointer,
    found: Vec<Conflict>,
}

impl Search<'_> {
    /// Follows the remaining steps, then visits everything below.
    fn descend(&mut self, object: &ObjId, kind: ObjType, steps: &[String]) {
        let Some((step, rest)) = steps.split_first() else {
            return self.visit(object, kind);
        };
        let prop = match kind {
            ObjType::Map | ObjType::Table => Prop::Map(step.clone()),
            ObjType::List => match list_index(step) {
                Some(index) => Prop::Seq(index),
                None => return,
            },
            ObjType::Text => return,
        };
        let Ok(Some((value, id))) = self.document.get(object, prop.clone()) else { return };
        self.path.push(step.clone());
        if rest.is_empty() {
            self.record(object, prop);
        }
        if let Some(inner) = value.to_objtype() {
            self.descend(&id, inner, rest);
        }
        self.path.pop();
    }

    fn visit(&mut self, object: &ObjId, kind: ObjType) {
        if self.path.tokens().len() >= MAX_DEPTH {
            return;
        }
        let document = self.document;
        match kind {
            ObjType::Map | ObjType::Table => {
                for item in document.map_range(object, ..) {
                    let key = item.key.to_string();
                    let inner = inner_object(&item.value, || item.id());
                    self.visit_item(object, Prop::Map(key.clone()), key, item.conflict, inner);
                }
            }
            ObjType::List => {
                for item in document.list_range(object, ..) {
                    let inner = inner_object(&item.value, || item.id());
                    self.visit_item(object, Prop::Seq(item.index), item.index.to_string(), item.conflict, inner);
                }
            }
            ObjType::Text => {}
        }
    }

    fn visit_item(
        &mut self,
        object: &ObjId,
        prop: Prop,
        step: String,
        conflict: bool,
        inner: Option<(ObjId, ObjType)>,
    ) {
        if (!conflict && inner.is_none()) || self.found.len() >= MAX_CONFLICTS {
            return;
        }
        self.path.push(step);
        if conflict {
            self.record(object, prop);
        }
        if let Some((id, kind)) = inner {
            self.visit(&id, kind);
        }
        self.path.pop();
    }

    /// Notes the place at the present path if it holds several values.
    fn record(&mut self, object: &ObjId, prop: Prop) {
        let Ok(held) = self.document.get_all(object, prop) else { return };
        if held.len() < 2 {
            return;
        }
        let reader = Reader::present(self.document);
        let (last, depth) = (held.len() - 1, self.path.tokens().len());
        let values = held.iter().enumerate().map(|(position, (value, id))| {
            let (actor, operation) = match id {
                ObjId::Root => (String::new(), String::new()),
                ObjId::Id(counter, actor, _) => {
                    let actor = HEXLOWER.encode(actor.to_bytes());
                    let operation = format!("{counter}@{actor}");
                    (actor, operation)
                }
            };
            ConflictValue { value: reader.held(value, id, depth), winner: position == last, actor, operation }
        });
        let values = values.collect();
        self.found.push(Conflict { path: self.path.clone(), values });
    }
}

fn inner_object(value: &ValueRef<'_>, id: impl FnOnce() -> ObjId) -> Option<(ObjId, ObjType)> {
    match value {
        ValueRef::Object(kind) => Some((id(), *kind)),
        ValueRef::Scalar(_) => None,
    }
}
