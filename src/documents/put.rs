//! Writing JSON into a transaction with the fewest operations, so that concurrent edits elsewhere survive.

use std::collections::HashMap;

use automerge::hydrate;
use automerge::transaction::{Transactable, Transaction};
use automerge::{ObjId, ObjType, Prop, ROOT, ReadDoc, ScalarValue, TextEncoding, Value as Held, ValueRef};
use serde_json::{Map, Value};

use super::difference::difference;
use super::edit::{EditError, StringMode};
use super::view::{Reader, scalar_to_json};

/// Texts are indexed by Unicode code points everywhere.
pub(super) const TEXT_ENCODING: TextEncoding = TextEncoding::UnicodeCodePoint;

/// Writes JSON values into one transaction.
pub(super) struct Writer<'t, 'd> {
    pub(super) transaction: &'t mut Transaction<'d>,
    pub(super) mode: StringMode,
}

/// A value in the document, and its object if it is one.
pub(super) struct Current {
    pub(super) value: Held<'static>,
    pub(super) object: Option<ObjId>,
}

impl Current {
    fn read(value: &ValueRef<'_>, id: impl FnOnce() -> ObjId) -> Self {
        // An id is costly to build, and only objects need theirs.
        let object = matches!(value, ValueRef::Object(_)).then(id);
        Self { value: value.clone().into_value(), object }
    }
}

impl Writer<'_, '_> {
    /// Makes the document equal to `wanted`.
    pub(super) fn put_root(&mut self, wanted: &Map<String, Value>) -> Result<(), EditError> {
        let is_new = self.transaction.base_heads().is_empty() && self.transaction.pending_ops() == 0;
        if is_new {
            // One bulk insertion instead of one search and splice per field.
            if wanted.is_empty() {
                return Ok(());
            }
            return Ok(self.transaction.init_root_from_hydrate(&self.hydrate_map(wanted))?);
        }
        self.put_map(&ROOT, wanted)
    }

    /// Applies a JSON merge patch (RFC 7396) to a map.
    pub(super) fn merge_map(&mut self, map: &ObjId, patch: &Map<String, Value>) -> Result<(), EditError> {
        for (key, wanted) in patch {
            let prop = Prop::Map(key.clone());
            let current = self.current(map, &prop)?;
            match (current, wanted) {
                (None, Value::Null) => {}
                (Some(_), Value::Null) => self.transaction.delete(map, prop)?,
                (Some(Current { value: Held::Object(ObjType::Map), object: Some(inner) }), Value::Object(patch)) => {
                    self.merge_map(&inner, patch)?;
                }
                (current, Value::Object(patch)) => {
                    self.write_or_update(map, prop, current, &Value::Object(without_nulls(patch)))?;
                }
                (current, wanted) => self.write_or_update(map, prop, current, wanted)?,
            }
        }
        Ok(())
    }

    /// The value at one place of a map or list.
    pub(super) fn current(&self, object: &ObjId, prop: &Prop) -> Result<Option<Current>, EditError> {
        let found = self.transaction.get(object, prop.clone())?;
        Ok(found.map(|(value, id)| {
            let object = value.is_object().then_some(id);
            Current { value: value.into_owned(), object }
        }))
    }

    /// Writes a new value over whatever is there (`insert`: between list elements).
    pub(super) fn write(
        &mut self,
        object: &ObjId,
        prop: Prop,
        wanted: &Value,
        insert: bool,
    ) -> Result<Option<ObjId>, EditError> {
        match (self.hydrate(wanted), prop) {
            (hydrate::Value::Scalar(scalar), Prop::Seq(index)) if insert => {
                self.transaction.insert(object, index, scalar)?;
                Ok(None)
            }
            (hydrate::Value::Scalar(scalar), prop) => {
                self.transaction.put(object, prop, scalar)?;
                Ok(None)
            }
            (value, prop) => Ok(Some(self.transaction.batch_create_object(object, prop, &value, insert)?)),
        }
    }

    fn put_map(&mut self, map: &ObjId, wanted: &Map<String, Value>) -> Result<(), EditError> {
        let mut held: HashMap<String, Current> = HashMap::new();
        let mut gone = Vec::new();
        for item in self.transaction.map_range(map, ..) {
            let current = Current::read(&item.value, || item.id());
            if wanted.contains_key(&*item.key) {
                held.insert(item.key.into_owned(), current);
            } else {
                gone.push(item.key.into_owned());
            }
        }
        for key in gone {
            self.transaction.delete(map, key)?;
        }
        for (key, wanted) in wanted {
            self.write_or_update(map, Prop::Map(key.clone()), held.remove(key), wanted)?;
        }
        Ok(())
    }

    fn write_or_update(
        &mut self,
        object: &ObjId,
        prop: Prop,
        current: Option<Current>,
        wanted: &Value,
    ) -> Result<(), EditError> {
        match current {
            Some(current) => self.update(object, prop, &current, wanted),
            None => self.write(object, prop, wanted, false).map(drop),
        }
    }

    fn update(&mut self, object: &ObjId, prop: Prop, current: &Current, wanted: &Value) -> Result<(), EditError> {
        match (&current.value, &current.object, wanted) {
            (Held::Object(ObjType::Map), Some(inner), Value::Object(wanted)) => self.put_map(inner, wanted),
            (Held::Object(ObjType::List), Some(inner), Value::Array(wanted)) => self.put_list(inner, wanted),
            (Held::Object(ObjType::Text), Some(inner), Value::String(wanted)) if self.put_text(inner, wanted)? => {
                Ok(())
            }
            (Held::Scalar(scalar), _, wanted) if scalar_to_json(scalar) == *wanted => Ok(()),
            (Held::Scalar(scalar), _, Value::Number(wanted)) if scalar.is_counter() && wanted.is_i64() => {
                let (held, wanted) = (scalar.as_i64().unwrap_or(0), wanted.as_i64().unwrap_or(0));
                let by = wanted.checked_sub(held).ok_or(EditError::CounterOverflow)?;
                Ok(self.transaction.increment(object, prop, by)?)
            }
            (Held::Object(kind @ ObjType::Table), Some(inner), wanted)
                if Reader::present(&*self.transaction).object(inner, *kind, 0) == *wanted =>
            {
                Ok(())
            }
            (_, _, wanted) => self.write(object, prop, wanted, false).map(drop),
        }
    }

    fn put_list(&mut self, list: &ObjId, wanted: &[Value]) -> Result<(), EditError> {
        let reader = Reader::present(&*self.transaction);
        let mut held = Vec::new();
        let mut held_json = Vec::new();
        for item in self.transaction.list_range(list, ..) {
            let current = Current::read(&item.value, || item.id());
            held_json.push(match &current.object {
                Some(id) => reader.held(&current.value, id, 0),
                None => reader.held(&current.value, &ROOT, 0),
            });
            held.push(current);
        }
        // From the end, so that the positions of earlier hunks stay as they are.
        for hunk in difference(&held_json, wanted).into_iter().rev() {
            let paired = hunk.old.len().min(hunk.new.len());
            let (old_end, new_end) = (hunk.old.start + paired, hunk.new.start + paired);
            let inserted: Vec<_> = wanted[new_end..hunk.new.end].iter().map(|value| self.hydrate(value)).collect();
            if !inserted.is_empty() {
                self.transaction.splice(list, old_end, 0, inserted)?;
            }
            for index in (old_end..hunk.old.end).rev() {
                self.transaction.delete(list, index)?;
            }
            for offset in 0..paired {
                let (index, wanted) = (hunk.old.start + offset, &wanted[hunk.new.start + offset]);
                self.update(list, Prop::Seq(index), &held[index], wanted)?;
            }
        }
        Ok(())
    }

    /// Edits a text in place; false when the text cannot take the wanted content.
    fn put_text(&mut self, text: &ObjId, wanted: &str) -> Result<bool, EditError> {
        let held = self.transaction.text(text)?;
        if held == wanted {
            return Ok(true);
        }
        let held: Vec<char> = held.chars().collect();
        let new: Vec<char> = wanted.chars().collect();
        for hunk in difference(&held, &new).into_iter().rev() {
            let deleted = isize::try_from(hunk.old.len()).map_err(|_| EditError::TooLarge)?;
            let inserted: String = new[hunk.new].iter().collect();
            self.transaction.splice_text(text, hunk.old.start, deleted, &inserted)?;
        }
        // Other programs may store several characters in one element, which a splice cannot divide.
        Ok(self.transaction.text(text)? == wanted)
    }

    fn hydrate(&self, value: &Value) -> hydrate::Value {
        match value {
            Value::String(text) if self.mode == StringMode::Text => hydrate::Value::text(TEXT_ENCODING, text),
            Value::Array(items) => {
                hydrate::Value::from(items.iter().map(|item| self.hydrate(item)).collect::<Vec<_>>())
            }
            Value::Object(map) => hydrate::Value::Map(self.hydrate_map(map)),
            scalar => hydrate::Value::Scalar(scalar_of(scalar)),
        }
    }

    fn hydrate_map(&self, map: &Map<String, Value>) -> hydrate::Map {
        let fields: HashMap<&str, hydrate::Value> =
            map.iter().map(|(key, value)| (key.as_str(), self.hydrate(value))).collect();
        hydrate::Map::from(fields)
    }
}

/// How a JSON scalar is stored; 1 and 1.0 stay apart, containers are none.
pub(super) fn scalar_of(value: &Value) -> ScalarValue {
    match value {
        Value::Bool(flag) => ScalarValue::Boolean(*flag),
        Value::String(text) => ScalarValue::Str(text.as_str().into()),
        Value::Number(number) => {
            let signed = number.as_i64().map(ScalarValue::Int);
            let whole = signed.or_else(|| number.as_u64().map(ScalarValue::Uint));
            whole.unwrap_or_else(|| ScalarValue::F64(number.as_f64().unwrap_or(f64::NAN)))
        }
        Value::Null | Value::Array(_) | Value::Object(_) => ScalarValue::Null,
    }
}

/// What a merge patch makes of nothing: itself without its nulls.
fn without_nulls(patch: &Map<String, Value>) -> Map<String, Value> {
    let keep = |(key, value): (&String, &Value)| {
        let value = match value {
            Value::Null => return None,
            Value::Object(patch) => Value::Object(without_nulls(patch)),
            other => other.clone(),
        };
        Some((key.clone(), value))
    };
    patch.iter().filter_map(keep).collect()
}
