//! Trying out operations that do not count on copies of documents, so that their outcome can be written again.

use std::collections::BTreeMap;

use serde_json::Value;
use syncline_model::{Action, DocumentKey};

use super::change::parse_change;
use super::document::Document;
use super::limits::MAX_CHANGES_PER_APPLY;
use super::operations::Content;
use super::receive::IncomingChange;

/// Copies of documents, with what was tried out on them.
#[derive(Debug)]
pub struct Rewriting {
    /// The changes that each document begins with, until it is touched.
    chunks: BTreeMap<DocumentKey, Vec<Vec<u8>>>,
    copies: BTreeMap<DocumentKey, Copy>,
}

/// A copy of a document, and what kept the last change from it.
#[derive(Debug, Default)]
struct Copy {
    document: Document,
    deleted: bool,
    reason: Option<String>,
}

/// What an operation did to a copy.
#[derive(Debug, Clone, PartialEq)]
pub struct Rewritten {
    /// Which document.
    pub key: DocumentKey,
    /// Whether it ended.
    pub deleted: bool,
    /// What it is now, if that was asked for.
    pub value: Option<Value>,
    /// Why that is not known.
    pub reason: Option<String>,
}

impl Rewriting {
    /// Begins with documents that hold these changes.
    pub fn new(chunks: BTreeMap<DocumentKey, Vec<Vec<u8>>>) -> Self {
        Self { chunks, copies: BTreeMap::new() }
    }

    /// Tries out an operation on the documents that this began with; the outcome for each of them that it concerns.
    pub fn write(&mut self, content: &Content, values: bool) -> Vec<Rewritten> {
        let mut touched: Vec<&DocumentKey> = Vec::new();
        for entry in &content.entries {
            let Some(chunks) = self.chunks.get_mut(&entry.key) else { continue };
            let copy = self.copies.entry(entry.key.clone()).or_insert_with(|| Copy::of(std::mem::take(chunks)));
            match &entry.action {
                Action::Change(bytes) => copy.apply(bytes, Some(content.actor)),
                Action::ForeignChange(bytes) => copy.apply(bytes, None),
                Action::Delete => *copy = Copy { deleted: true, ..Copy::default() },
            }
            if !touched.contains(&&entry.key) {
                touched.push(&entry.key);
            }
        }
        touched.into_iter().map(|key| self.copies[key].rewritten(key, values)).collect()
    }
}

impl Copy {
    fn of(chunks: Vec<Vec<u8>>) -> Self {
        let mut copy = Self::default();
        let mut incoming = Vec::new();
        for bytes in chunks {
            // They stood in a document already: each is allowed the actor that it has.
            let actor = parse_change(&bytes).ok().and_then(|header| header.actor.try_into().ok());
            incoming.push(IncomingChange { bytes, expected_actor: actor });
            if incoming.len() == MAX_CHANGES_PER_APPLY {
                copy.document.apply(std::mem::take(&mut incoming));
            }
        }
        copy.document.apply(incoming);
        copy
    }

    fn apply(&mut self, bytes: &[u8], expected_actor: Option<[u8; super::limits::ACTOR_BYTES]>) {
        let incoming = IncomingChange { bytes: bytes.to_vec(), expected_actor };
        let mut outcomes = self.document.apply(vec![incoming]).outcomes;
        match outcomes.pop() {
            Some(Ok(_)) => self.deleted = false,
            Some(Err(refused)) => {
                self.reason = Some(format!("it cannot be applied to the document as it is now: {refused}"));
            }
            None => {}
        }
    }

    fn rewritten(&self, key: &DocumentKey, values: bool) -> Rewritten {
        let known = values && !self.deleted && self.reason.is_none();
        Rewritten {
            key: key.clone(),
            deleted: self.deleted,
            value: known.then(|| self.document.view()),
            reason: self.reason.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::edit::{Edit, StringMode};
    use super::*;
    use crate::documents::limits::ACTOR_BYTES;
    use syncline_model::Entry;

    const ACTOR: [u8; ACTOR_BYTES] = [1; ACTOR_BYTES];

    fn operation(sequence: u64, key: &str, action: Action) -> Content {
        let entries = vec![Entry { key: key.parse().unwrap(), action }];
        Content { author: syncline_model::DeviceId([1; 32]), sequence, wall_time_ms: 0, actor: ACTOR, entries }
    }

    fn put(document: &mut Document, actor: [u8; ACTOR_BYTES], value: Value) -> Vec<u8> {
        document.edit(&actor, &[Edit::Merge(value)], StringMode::Scalar).unwrap().unwrap().bytes
    }

    #[test]
    fn what_was_lost_is_shown_merged_with_what_others_wrote_since() {
        let mut mine = Document::new();
        let first = put(&mut mine, ACTOR, json!({"a": 1}));
        let mut theirs = Document::new();
        theirs.apply(vec![IncomingChange { bytes: first.clone(), expected_actor: Some(ACTOR) }]);
        let second = put(&mut theirs, [2; ACTOR_BYTES], json!({"b": 2}));
        let lost = put(&mut mine, ACTOR, json!({"c": 3}));
        let key: DocumentKey = "k".parse().unwrap();
        let mut rewriting = Rewriting::new(BTreeMap::from([(key, vec![first, second])]));
        let written = rewriting.write(&operation(2, "k", Action::Change(lost)), true);
        assert_eq!(written[0].value, Some(json!({"a": 1, "b": 2, "c": 3})));
        assert!(rewriting.write(&operation(3, "other", Action::Delete), true).is_empty(), "not asked for");
        let deleted = &rewriting.write(&operation(4, "k", Action::Delete), true)[0];
        assert!(deleted.deleted && deleted.value.is_none());
    }

    #[test]
    fn a_change_to_a_document_that_is_gone_says_so() {
        let mut mine = Document::new();
        put(&mut mine, ACTOR, json!({"a": 1}));
        let lost = put(&mut mine, ACTOR, json!({"a": 2}));
        let key: DocumentKey = "k".parse().unwrap();
        let mut rewriting = Rewriting::new(BTreeMap::from([(key, Vec::new())]));
        let written = &rewriting.write(&operation(2, "k", Action::Change(lost)), true)[0];
        assert!(written.value.is_none() && written.reason.as_ref().unwrap().contains("not held"), "{written:?}");
    }
}
