//! The JSON value of a document.
//!
//! | Automerge | JSON |
//! | --- | --- |
//! | map, table | object |
//! | list | array |
//! | text, string | string |
//! | integer, counter, timestamp (ms) | number without a fraction |
//! | float | number; NaN and the infinities: null |
//! | bytes | `{"$bytes": "<base64>"}` |
//! | unknown | null |
//!
//! Values nested deeper than [`MAX_DEPTH`] read as null: reading recurses, and a remote change may nest without end.

use automerge::{
    Automerge, ChangeHash, ObjId, ObjType, ROOT, ReadDoc, ScalarValue, ScalarValueRef, Value as Held, ValueRef,
};
use data_encoding::BASE64;
use serde_json::{Map, Number, Value};

use super::limits::MAX_DEPTH;

/// The key under which bytes appear in JSON.
pub const BYTES_KEY: &str = "$bytes";

/// Reads values of one version of a document, or of a transaction in progress.
pub(super) struct Reader<'a, R> {
    document: &'a R,
    heads: Option<&'a [ChangeHash]>,
}

impl<'a> Reader<'a, Automerge> {
    /// Reads the version at `heads`.
    pub(super) fn at(document: &'a Automerge, heads: &'a [ChangeHash]) -> Self {
        Self { document, heads: Some(heads) }
    }
}

impl<'a, R: ReadDoc> Reader<'a, R> {
    /// Reads the present version.
    pub(super) fn present(document: &'a R) -> Self {
        Self { document, heads: None }
    }

    /// The whole document.
    pub(super) fn root(&self) -> Value {
        self.object(&ROOT, ObjType::Map, 0)
    }

    /// A value at nesting level `depth`, as `get` and `get_all` return it.
    pub(super) fn held(&self, value: &Held<'_>, id: &ObjId, depth: usize) -> Value {
        match value {
            Held::Object(kind) => self.object(id, *kind, depth),
            Held::Scalar(scalar) => scalar_to_json(scalar),
        }
    }

    /// An object at nesting level `depth`.
    pub(super) fn object(&self, id: &ObjId, kind: ObjType, depth: usize) -> Value {
        if depth >= MAX_DEPTH {
            return Value::Null;
        }
        match kind {
            ObjType::Map | ObjType::Table => self.map(id, depth),
            ObjType::List => self.list(id, depth),
            ObjType::Text => Value::String(self.text(id)),
        }
    }

    fn map(&self, id: &ObjId, depth: usize) -> Value {
        let items = match self.heads {
            None => self.document.map_range(id, ..),
            Some(heads) => self.document.map_range_at(id, .., heads),
        };
        let mut map = Map::new();
        for item in items {
            let value = match &item.value {
                ValueRef::Object(kind) => self.object(&item.id(), *kind, depth + 1),
                ValueRef::Scalar(scalar) => scalar_ref_to_json(scalar),
            };
            map.insert(item.key.into_owned(), value);
        }
        Value::Object(map)
    }

    fn list(&self, id: &ObjId, depth: usize) -> Value {
        let items = match self.heads {
            None => self.document.list_range(id, ..),
            Some(heads) => self.document.list_range_at(id, .., heads),
        };
        let read = |item: automerge::iter::ListRangeItem<'_>| match &item.value {
            ValueRef::Object(kind) => self.object(&item.id(), *kind, depth + 1),
            ValueRef::Scalar(scalar) => scalar_ref_to_json(scalar),
        };
        Value::Array(items.map(read).collect())
    }

    fn text(&self, id: &ObjId) -> String {
        let text = match self.heads {
            None => self.document.text(id),
            Some(heads) => self.document.text_at(id, heads),
        };
        // It fails only for an object that the document does not know, and `id` comes from the document.
        text.unwrap_or_default()
    }
}

fn scalar_ref_to_json(scalar: &ScalarValueRef<'_>) -> Value {
    match scalar {
        ScalarValueRef::Str(text) => Value::String(text.clone().into_owned()),
        ScalarValueRef::Int(number) | ScalarValueRef::Counter(number) | ScalarValueRef::Timestamp(number) => {
            Value::Number((*number).into())
        }
        ScalarValueRef::Uint(number) => Value::Number((*number).into()),
        ScalarValueRef::F64(number) => Number::from_f64(*number).map_or(Value::Null, Value::Number),
        ScalarValueRef::Boolean(flag) => Value::Bool(*flag),
        ScalarValueRef::Bytes(bytes) => bytes_to_json(bytes),
        ScalarValueRef::Unknown { .. } | ScalarValueRef::Null => Value::Null,
    }
}

/// The JSON value of a scalar.
pub(super) fn scalar_to_json(scalar: &ScalarValue) -> Value {
    match scalar {
        ScalarValue::Str(text) => Value::String(text.to_string()),
        ScalarValue::Int(number) | ScalarValue::Timestamp(number) => Value::Number((*number).into()),
        ScalarValue::Counter(counter) => Value::Number(i64::from(counter).into()),
        ScalarValue::Uint(number) => Value::Number((*number).into()),
        ScalarValue::F64(number) => Number::from_f64(*number).map_or(Value::Null, Value::Number),
        ScalarValue::Boolean(flag) => Value::Bool(*flag),
        ScalarValue::Bytes(bytes) => bytes_to_json(bytes),
        ScalarValue::Unknown { .. } | ScalarValue::Null => Value::Null,
    }
}

fn bytes_to_json(bytes: &[u8]) -> Value {
    Value::Object(Map::from_iter([(BYTES_KEY.to_owned(), Value::String(BASE64.encode(bytes)))]))
}

/// How deep a JSON value nests: 0 for a scalar; counting stops just past [`MAX_DEPTH`].
pub(super) fn depth_of(value: &Value) -> usize {
    fn descend(value: &Value, level: usize) -> usize {
        if level > MAX_DEPTH {
            return level;
        }
        match value {
            Value::Array(items) => items.iter().map(|item| descend(item, level + 1)).max().unwrap_or(level + 1),
            Value::Object(map) => map.values().map(|item| descend(item, level + 1)).max().unwrap_or(level + 1),
            _ => level,
        }
    }
    descend(value, 0)
}
