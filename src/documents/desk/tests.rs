//! Scripted desks over an index in memory, with a core that seals, keeps and delivers operations.

mod properties;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::json;
use syncline_model::{Action, Entry, Past, Transaction};
use syncline_storage::{MemoryDisk, MemoryIndex, OpenOptions, Store};

use super::*;
use crate::documents::operations::{Content, ReadError};
use crate::documents::request::{ChangeEvent, ConflictScope, List, Opened, Step, Version};
use crate::documents::{Document, Edit, IncomingChange};

const SPACE: SpaceId = SpaceId([9; 32]);

/// All durable operations of a space, by author and sequence.
#[derive(Debug, Default)]
struct Ledger {
    written: Mutex<BTreeMap<(DeviceId, u64), (Transaction, Past)>>,
}

impl Ledger {
    fn operation(&self, author: DeviceId, sequence: u64) -> Option<(Transaction, Past)> {
        self.written.lock().unwrap().get(&(author, sequence)).cloned()
    }

    fn write(&self, author: DeviceId, sequence: u64, transaction: Transaction, past: Past) {
        assert!(self.written.lock().unwrap().insert((author, sequence), (transaction, past)).is_none());
    }
}

impl Operations for Ledger {
    fn read(
        &self,
        author: &DeviceId,
        after: u64,
        through: u64,
        visit: &mut dyn FnMut(Content),
    ) -> Result<(), ReadError> {
        for sequence in after + 1..=through {
            let missing = ReadError::Missing { author: *author, sequence };
            let (transaction, _) = self.operation(*author, sequence).ok_or(missing)?;
            visit(Content {
                sequence,
                wall_time_ms: transaction.wall_time_ms,
                actor: transaction.lineage.actor(&SPACE, author),
                entries: transaction.entries,
            });
        }
        Ok(())
    }

    fn precedes(&self, first: (DeviceId, u64), second: (DeviceId, u64)) -> Result<bool, ReadError> {
        let (_, past) = self.operation(second.0, second.1).unwrap();
        Ok(first != second && past.get(&first.0).is_some_and(|reached| *reached >= first.1))
    }
}

/// A desk with a core that does as it is told.
struct Replica {
    desk: Desk,
    device: DeviceId,
    ledger: Arc<Ledger>,
    index: MemoryIndex,
    store: Store,
    config: DeskConfig,
    random: StdRng,
    /// The core's vector: what it has admitted.
    admitted: Past,
    /// Sealed, not durable.
    sealed: VecDeque<(Token, u64, Transaction, Past)>,
    sealed_up_to: u64,
    answers: BTreeMap<Token, Result<Answer, DocumentError>>,
    changes: BTreeMap<Token, Vec<ChangeEvent>>,
    jobs: VecDeque<Job>,
    /// Whether jobs wait until they are told to run.
    holds_jobs: bool,
    tokens: Token,
    now_ms: u64,
}

fn device(name: u8) -> DeviceId {
    DeviceId([name; 32])
}

fn key(text: &str) -> DocumentKey {
    text.parse().unwrap()
}

fn put(text: &str, value: serde_json::Value) -> Step {
    Step::Edit { key: key(text), edit: Edit::Put(value) }
}

fn merge(text: &str, value: serde_json::Value) -> Step {
    Step::Edit { key: key(text), edit: Edit::Merge(value) }
}

fn delete(text: &str) -> Step {
    Step::Delete { key: key(text) }
}

impl Replica {
    fn new(name: u8, ledger: &Arc<Ledger>) -> Self {
        Self::with(name, ledger, CACHE_BYTES, LARGE_DOCUMENT_BYTES)
    }

    fn with(name: u8, ledger: &Arc<Ledger>, cache_bytes: usize, large_document_bytes: usize) -> Self {
        let index = MemoryIndex::new();
        let disk = Arc::new(MemoryDisk::new());
        let store = Store::assemble(disk, Arc::new(index.clone()), OpenOptions::default()).unwrap();
        let config = DeskConfig {
            space: SPACE,
            device: device(name),
            strings: StringMode::Scalar,
            seal_key: ContentKey([name; 32]),
            cache_bytes,
            large_document_bytes,
        };
        let mut random = StdRng::seed_from_u64(u64::from(name));
        let operations: Arc<dyn Operations> = ledger.clone();
        let desk = Desk::open(config.clone(), store.node_index(), operations, &mut random).unwrap();
        Self {
            desk,
            device: device(name),
            ledger: ledger.clone(),
            index,
            store,
            config,
            random,
            admitted: Past::new(),
            sealed: VecDeque::new(),
            sealed_up_to: 0,
            answers: BTreeMap::new(),
            changes: BTreeMap::new(),
            jobs: VecDeque::new(),
            holds_jobs: false,
            tokens: 1000,
            now_ms: 0,
        }
    }

    /// A new desk on the same index, or on an empty one; the core sends what the desk lacks.
    fn restart(&mut self, wipe: bool) {
        if wipe {
            self.index.erase();
            let disk = Arc::new(MemoryDisk::new());
            self.store = Store::assemble(disk, Arc::new(self.index.clone()), OpenOptions::default()).unwrap();
        }
        let operations: Arc<dyn Operations> = self.ledger.clone();
        let index = self.store.node_index();
        self.desk = Desk::open(self.config.clone(), index, operations, &mut self.random).unwrap();
        self.sealed.clear();
        self.sealed_up_to = self.admitted.get(&self.device).copied().unwrap_or(0);
        let admitted = std::mem::take(&mut self.admitted);
        while self.admitted != admitted {
            for (author, reached) in &admitted {
                let next = self.admitted.get(author).map_or(1, |sequence| sequence + 1);
                if next <= *reached {
                    self.deliver(*author, next);
                }
            }
        }
    }

    fn handle(&mut self, input: Input) {
        let mut out = Vec::new();
        self.now_ms += 1;
        self.desk.handle(input, self.now_ms, &mut self.random, &mut out);
        for output in out {
            match output {
                Output::Commit { token, transaction } => {
                    self.sealed_up_to += 1;
                    let mut past = self.admitted.clone();
                    past.insert(self.device, self.sealed_up_to);
                    transaction.check().unwrap();
                    self.sealed.push_back((token, self.sealed_up_to, transaction, past));
                }
                Output::Answer { token, result } => {
                    let before = self.answers.insert(token, result);
                    assert!(before.is_none(), "{token} was answered twice");
                }
                Output::Change { token, events } => self.changes.entry(token).or_default().extend(events),
                Output::Unwatched { .. } | Output::Applied { .. } => {}
                Output::Work(job) => self.jobs.push_back(job),
            }
        }
        while !self.holds_jobs && self.run_job() {}
    }

    fn run_job(&mut self) -> bool {
        let Some(job) = self.jobs.pop_front() else { return false };
        self.handle(Input::Worked(job.run()));
        true
    }

    fn token(&mut self) -> Token {
        self.tokens += 1;
        self.tokens
    }

    /// Hands a transaction in; it becomes durable later.
    fn transact(&mut self, steps: Vec<Step>) -> Token {
        let token = self.token();
        self.handle(Input::Transact { token, steps });
        token
    }

    /// Makes the next sealed transaction durable.
    fn commit(&mut self) -> bool {
        let Some((token, sequence, transaction, past)) = self.sealed.pop_front() else { return false };
        let deletes = transaction.entries.iter().any(|entry| entry.action == Action::Delete);
        self.ledger.write(self.device, sequence, transaction, past.clone());
        self.admitted.insert(self.device, sequence);
        let past = deletes.then_some(past);
        self.handle(Input::Committed { token, author: self.device, sequence, past });
        true
    }

    /// Hands a transaction in and makes it durable.
    fn write(&mut self, steps: Vec<Step>) -> Result<Answer, DocumentError> {
        let token = self.transact(steps);
        while self.commit() {}
        self.answers.remove(&token).expect("it is answered")
    }

    fn query(&mut self, query: Query) -> Token {
        let token = self.token();
        self.handle(Input::Query { token, query });
        token
    }

    fn ask(&mut self, query: Query) -> Result<Answer, DocumentError> {
        let token = self.query(query);
        self.answers.remove(&token).expect("it is answered")
    }

    fn value(&mut self, text: &str) -> Option<serde_json::Value> {
        match self.ask(Query::Get { key: key(text), wait_for: None }) {
            Ok(Answer::Document(view)) => Some(view.value),
            Err(DocumentError::NotFound { .. }) => None,
            other => panic!("{other:?}"),
        }
    }

    fn keys(&mut self) -> Vec<String> {
        let query = Query::List { prefix: String::new(), after: None, limit: usize::MAX, values: false };
        match self.ask(query) {
            Ok(Answer::List(list)) => list.items.into_iter().map(|item| item.key.to_string()).collect(),
            other => panic!("{other:?}"),
        }
    }

    fn version(&mut self) -> Version {
        self.desk.stats().version
    }

    fn opened(&self, author: DeviceId, sequence: u64) -> Opened {
        let (transaction, past) = self.ledger.operation(author, sequence).unwrap();
        let deletes = transaction.entries.iter().any(|entry| entry.action == Action::Delete);
        Opened {
            author,
            sequence,
            wall_time_ms: transaction.wall_time_ms,
            lineage: transaction.lineage,
            actor: transaction.lineage.actor(&SPACE, &author),
            entries: transaction.entries,
            past: deletes.then_some(past),
            own: author == self.device,
        }
    }

    /// Delivers an operation if its causal past is here.
    fn deliver(&mut self, author: DeviceId, sequence: u64) -> bool {
        let Some((_, past)) = self.ledger.operation(author, sequence) else { return false };
        let held = |author: &DeviceId| self.admitted.get(author).copied().unwrap_or(0);
        let ready = past.iter().all(|(other, reached)| held(other) + u64::from(*other == author) >= *reached);
        if !ready || held(&author) + 1 != sequence {
            return false;
        }
        self.admitted.insert(author, sequence);
        let opened = self.opened(author, sequence);
        self.handle(Input::Apply(vec![opened]));
        true
    }

    /// Delivers all that there is.
    fn catch_up(&mut self) {
        let authors: Vec<DeviceId> = {
            let mut all: Vec<DeviceId> =
                self.ledger.written.lock().unwrap().keys().map(|(author, _)| *author).collect();
            all.dedup();
            all
        };
        let mut progress = true;
        while progress {
            progress = false;
            for author in &authors {
                let next = self.admitted.get(author).map_or(1, |sequence| sequence + 1);
                progress |= self.deliver(*author, next);
            }
        }
    }

    /// All that can be seen of the documents, for comparison.
    fn everything(&mut self) -> BTreeMap<String, String> {
        let mut all = BTreeMap::new();
        for text in self.keys() {
            let view = match self.ask(Query::Get { key: key(&text), wait_for: None }) {
                Ok(Answer::Document(view)) => format!("{} {:?}", view.value, view.heads),
                other => format!("{other:?}"),
            };
            let conflicts = match self.ask(Query::Conflicts { within: ConflictScope::Document(key(&text)) }) {
                Ok(Answer::Conflicts(page)) => {
                    let mut blocked = page.documents[0].blocked.clone();
                    blocked.sort_by_key(|change| (change.author, change.sequence));
                    let blocked: Vec<_> = blocked.iter().map(|change| (change.author, change.sequence)).collect();
                    format!("{:?} {blocked:?}", page.documents[0].places)
                }
                other => format!("{other:?}"),
            };
            all.insert(text, format!("{view} {conflicts}"));
        }
        all
    }
}

fn pair() -> (Replica, Replica) {
    let ledger = Arc::new(Ledger::default());
    (Replica::new(1, &ledger), Replica::new(2, &ledger))
}

/// An author without a desk, who writes what it likes.
struct Stranger {
    device: DeviceId,
    ledger: Arc<Ledger>,
    written: u64,
}

impl Stranger {
    fn new(name: u8, ledger: &Arc<Ledger>) -> Self {
        Self { device: device(name), ledger: ledger.clone(), written: 0 }
    }

    fn actor(&self) -> [u8; 20] {
        Lineage([0; 16]).actor(&SPACE, &self.device)
    }

    /// A change that puts a value into an empty document, as the first of its actor.
    fn first(&self, value: serde_json::Value) -> Action {
        let change = Document::new().edit(&self.actor(), &[Edit::Put(value)], StringMode::Scalar).unwrap();
        Action::Change(change.unwrap().bytes)
    }

    /// The second change of its actor, on top of a first one.
    fn second(&self, first: &Action, value: serde_json::Value) -> Action {
        let Action::Change(bytes) = first else { panic!("not a change") };
        let mut document = Document::new();
        let change = IncomingChange { bytes: bytes.clone(), expected_actor: Some(self.actor()) };
        assert!(document.apply(vec![change]).outcomes[0].is_ok());
        let change = document.edit(&self.actor(), &[Edit::Merge(value)], StringMode::Scalar).unwrap();
        Action::Change(change.unwrap().bytes)
    }

    fn write(&mut self, entries: Vec<(&str, Action)>, past: &Past) {
        self.written += 1;
        let mut past = past.clone();
        past.insert(self.device, self.written);
        let entries = entries.into_iter().map(|(text, action)| Entry { key: key(text), action }).collect();
        let transaction = Transaction { wall_time_ms: 1, lineage: Lineage([0; 16]), entries };
        self.ledger.write(self.device, self.written, transaction, past);
    }
}

/// A change by another Automerge program with a short actor.
fn foreign(actor: &[u8], value: i64) -> Action {
    use automerge::ReadDoc;
    use automerge::transaction::Transactable;
    let mut document = automerge::Automerge::new();
    document.set_actor(automerge::ActorId::from(actor));
    let mut transaction = document.transaction();
    transaction.put(automerge::ROOT, "foreign", value).unwrap();
    let (hash, _) = transaction.commit();
    Action::ForeignChange(document.get_change_by_hash(&hash.unwrap()).unwrap().raw_bytes().to_vec())
}

#[test]
fn a_document_is_put_read_listed_edited_and_deleted() {
    let (mut a, mut b) = pair();
    let answer = a.write(vec![put("cities/FR/1", json!({"name": "Paris", "n": 1}))]).unwrap();
    let Answer::Written(written) = answer else { panic!("{answer:?}") };
    assert_eq!((written.sequence, written.version), (Some(1), a.version()));
    assert_eq!(written.documents[0].heads.len(), 1);
    a.write(vec![merge("cities/FR/1", json!({"n": 2})), put("cities/DE/1", json!({"name": "Bonn"}))]).unwrap();
    b.catch_up();
    for replica in [&mut a, &mut b] {
        assert_eq!(replica.value("cities/FR/1"), Some(json!({"name": "Paris", "n": 2})));
        assert_eq!(replica.keys(), ["cities/DE/1", "cities/FR/1"]);
        assert_eq!(replica.value("cities/FR/2"), None);
    }
    b.write(vec![delete("cities/FR/1")]).unwrap();
    a.catch_up();
    for replica in [&mut a, &mut b] {
        assert_eq!(replica.value("cities/FR/1"), None);
        assert_eq!(replica.keys(), ["cities/DE/1"]);
        assert_eq!(replica.desk.stats().documents, 1);
    }
    let error = a.write(vec![delete("cities/FR/1")]).unwrap_err();
    assert!(matches!(error, DocumentError::NotFound { .. }), "{error}");
    assert_eq!(a.everything(), b.everything());
}

#[test]
fn pages_of_keys_follow_one_another() {
    let (mut a, _) = pair();
    for n in 0..10 {
        a.write(vec![put(&format!("k/{n}"), json!({"n": n})), put(&format!("other/{n}"), json!({"n": n}))]).unwrap();
    }
    a.write(vec![delete("k/3")]).unwrap();
    let (mut after, mut seen) = (None, Vec::new());
    loop {
        let query = Query::List { prefix: "k/".to_owned(), after, limit: 4, values: true };
        let Ok(Answer::List(list)) = a.ask(query) else { panic!("no list") };
        seen.extend(list.items.iter().map(|item| item.value.clone().unwrap()["n"].as_i64().unwrap()));
        after = list.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen, [0, 1, 2, 4, 5, 6, 7, 8, 9]);
}

#[test]
fn a_transaction_happens_as_a_whole_or_not_at_all_and_names_the_step_that_fails() {
    let (mut a, _) = pair();
    a.write(vec![put("a", json!({"n": 1}))]).unwrap();
    let bad = Step::Edit { key: key("b"), edit: Edit::Increment { path: "/x/y".parse().unwrap(), by: 1 } };
    let steps = vec![merge("a", json!({"n": 2})), put("b", json!({"m": 1})), bad, merge("c", json!({"n": 3}))];
    let error = a.write(steps).unwrap_err();
    assert!(matches!(&error, DocumentError::BadEdit { step: 2, key, .. } if key.as_str() == "b"), "{error}");
    assert_eq!(a.value("a"), Some(json!({"n": 1})));
    assert_eq!(a.keys(), ["a"]);
    a.write(vec![merge("a", json!({"n": 5}))]).unwrap();
    assert_eq!(a.value("a"), Some(json!({"n": 5})));
    a.restart(true);
    assert_eq!(a.value("a"), Some(json!({"n": 5})));
}

#[test]
fn a_transaction_that_changes_nothing_is_no_operation() {
    let (mut a, _) = pair();
    a.write(vec![put("a", json!({"n": 1}))]).unwrap();
    let Ok(Answer::Written(written)) = a.write(vec![put("a", json!({"n": 1}))]) else { panic!("not written") };
    assert_eq!(written.sequence, None);
    assert_eq!(a.version().position, 1);
}

#[test]
fn a_put_after_a_delete_does_not_bring_old_fields_back() {
    let (mut a, mut b) = pair();
    a.write(vec![put("k", json!({"old": 1, "both": 1}))]).unwrap();
    a.write(vec![merge("k", json!({"older": 2}))]).unwrap();
    a.write(vec![delete("k")]).unwrap();
    a.write(vec![merge("k", json!({"both": 2}))]).unwrap();
    b.catch_up();
    assert_eq!(b.value("k"), Some(json!({"both": 2})));
    assert_eq!(a.value("k"), Some(json!({"both": 2})));
    // In one transaction, twice.
    for n in 0..2 {
        a.write(vec![delete("k"), merge("k", json!({"n": n}))]).unwrap();
        b.catch_up();
        assert_eq!((a.value("k"), b.value("k")), (Some(json!({"n": n})), Some(json!({"n": n}))));
    }
    assert_eq!(a.everything(), b.everything());
}

#[test]
fn an_edit_concurrent_to_a_delete_restores_what_it_builds_on() {
    let (mut a, mut b) = pair();
    a.write(vec![put("k", json!({"x": 1, "y": 1}))]).unwrap();
    b.catch_up();
    b.write(vec![merge("k", json!({"y": 2}))]).unwrap();
    a.write(vec![merge("k", json!({"x": 5}))]).unwrap();
    a.write(vec![delete("k")]).unwrap();
    a.catch_up();
    b.catch_up();
    for replica in [&mut a, &mut b] {
        // What only the delete had seen (x: 5) is gone, what the edit builds on is back.
        assert_eq!(replica.value("k"), Some(json!({"x": 1, "y": 2})));
    }
    a.write(vec![merge("k", json!({"z": 3}))]).unwrap();
    b.catch_up();
    assert_eq!(b.value("k"), Some(json!({"x": 1, "y": 2, "z": 3})));
    assert_eq!(a.everything(), b.everything());
    a.restart(true);
    assert_eq!(a.everything(), b.everything());
}

#[test]
fn reads_wait_until_the_edits_that_they_show_are_durable() {
    let (mut a, _) = pair();
    a.write(vec![put("k", json!({"n": 0}))]).unwrap();
    let writes: Vec<Token> = (1..=3).map(|n| a.transact(vec![merge("k", json!({"n": n}))])).collect();
    assert_eq!(a.sealed.len(), 3, "later edits do not wait for earlier ones");
    let read = a.query(Query::Get { key: key("k"), wait_for: None });
    let unrelated = a.write_nothing_and_read("other");
    assert!(unrelated.is_err(), "other documents are read at once");
    for write in writes {
        assert!(!a.answers.contains_key(&read));
        assert!(a.commit());
        assert!(matches!(a.answers.remove(&write), Some(Ok(Answer::Written(_)))));
    }
    let Some(Ok(Answer::Document(view))) = a.answers.remove(&read) else { panic!("no answer") };
    assert_eq!(view.value, json!({"n": 3}));
}

impl Replica {
    fn write_nothing_and_read(&mut self, text: &str) -> Result<Answer, DocumentError> {
        self.ask(Query::Get { key: key(text), wait_for: None })
    }
}

#[test]
fn a_delete_that_is_not_durable_hides_nothing_and_edits_after_it_begin_anew() {
    let (mut a, mut b) = pair();
    a.write(vec![put("k", json!({"old": 1}))]).unwrap();
    b.catch_up();
    a.transact(vec![delete("k")]);
    let read = a.query(Query::Get { key: key("k"), wait_for: None });
    a.transact(vec![merge("k", json!({"new": 1}))]);
    a.transact(vec![merge("k", json!({"newer": 1}))]);
    assert!(!a.answers.contains_key(&read));
    // Something concurrent arrives while the delete is on its way.
    b.write(vec![merge("k", json!({"concurrent": 1}))]).unwrap();
    a.catch_up();
    while a.commit() {}
    b.catch_up();
    let expected = Some(json!({"old": 1, "concurrent": 1, "new": 1, "newer": 1}));
    assert_eq!((a.value("k"), b.value("k")), (expected.clone(), expected));
    a.write(vec![merge("k", json!({"last": 1}))]).unwrap();
    b.catch_up();
    assert_eq!(a.everything(), b.everything());
    assert!(matches!(a.ask(Query::Conflicts { within: ConflictScope::Document(key("k")) }),
        Ok(Answer::Conflicts(page)) if page.documents[0].blocked.is_empty()));
}

#[test]
fn an_aborted_transaction_is_forgotten_with_what_was_stacked_on_it() {
    let (mut a, _) = pair();
    a.write(vec![put("k", json!({"n": 0})), put("l", json!({"n": 0}))]).unwrap();
    let first = a.transact(vec![merge("k", json!({"n": 1}))]);
    let stacked = a.transact(vec![merge("k", json!({"m": 1})), merge("l", json!({"m": 1}))]);
    let on_top = a.transact(vec![merge("l", json!({"o": 1}))]);
    let read = a.query(Query::Get { key: key("l"), wait_for: None });
    let sealed = std::mem::take(&mut a.sealed);
    a.sealed_up_to -= 3;
    for (token, ..) in sealed {
        a.handle(Input::Aborted { token, reason: DocumentError::NotWritable { role: "reader" } });
    }
    assert!(matches!(a.answers.remove(&first), Some(Err(DocumentError::NotWritable { .. }))));
    assert!(matches!(a.answers.remove(&stacked), Some(Err(DocumentError::Undone { .. }))));
    assert!(matches!(a.answers.remove(&on_top), Some(Err(DocumentError::Undone { .. }))));
    let Some(Ok(Answer::Document(view))) = a.answers.remove(&read) else { panic!("no answer") };
    assert_eq!(view.value, json!({"n": 0}));
    assert_eq!(a.value("k"), Some(json!({"n": 0})));
    a.write(vec![merge("k", json!({"n": 7}))]).unwrap();
    assert_eq!(a.value("k"), Some(json!({"n": 7})));
    let before = a.everything();
    a.restart(true);
    assert_eq!(a.everything(), before);
}

#[test]
fn a_new_desk_on_the_same_index_goes_on_and_one_on_an_empty_index_is_filled_again() {
    let (mut a, mut b) = pair();
    for n in 0..40 {
        a.write(vec![merge("k", json!({"n": n})), merge(&format!("d/{}", n % 7), json!({"n": n}))]).unwrap();
        b.catch_up();
        b.write(vec![merge("k", json!({"m": n}))]).unwrap();
        a.catch_up();
    }
    a.write(vec![delete("d/3")]).unwrap();
    let (everything, position, incarnation) = (a.everything(), a.version().position, a.version().incarnation);
    a.restart(false);
    assert_eq!(a.everything(), everything);
    assert_eq!(a.version().position, position);
    assert_ne!(a.version().incarnation, incarnation, "positions may have been lost");
    let old = Version { incarnation, position: 10 };
    let Ok(Answer::Changes(page)) = a.ask(Query::Changes { since: Some(old), limit: 1 }) else { panic!("no page") };
    assert_eq!(page.events[0].version.position, 11, "versions before a restart are still understood");

    a.handle(Input::Close);
    let incarnation = a.version().incarnation;
    a.restart(false);
    assert_eq!(a.everything(), everything);
    assert_eq!(a.version().incarnation, incarnation);

    a.restart(true);
    assert_eq!(a.everything(), everything);
    let error = a.ask(Query::Changes { since: Some(old), limit: 1 }).unwrap_err();
    assert!(matches!(error, DocumentError::ForeignVersion { .. }), "{error}");
    a.write(vec![merge("k", json!({"n": -1}))]).unwrap();
    b.catch_up();
    assert_eq!(a.everything(), b.everything());
}

#[test]
fn an_operation_is_applied_once() {
    let (mut a, mut b) = pair();
    let step = Step::Edit { key: key("k"), edit: Edit::Increment { path: "/n".parse().unwrap(), by: 1 } };
    a.write(vec![step]).unwrap();
    b.catch_up();
    let opened = b.opened(device(1), 1);
    b.handle(Input::Apply(vec![opened.clone(), opened]));
    assert_eq!(b.value("k"), Some(json!({"n": 1})));
    assert_eq!((b.version().position, b.desk.applied(&device(1))), (1, 1));
}

#[test]
fn history_names_the_operations_that_carry_its_changes() {
    let (mut a, mut b) = pair();
    a.write(vec![put("k", json!({"n": 1}))]).unwrap();
    b.catch_up();
    b.write(vec![merge("k", json!({"n": 2}))]).unwrap();
    a.catch_up();
    let Ok(Answer::History(items)) = a.ask(Query::History { key: key("k"), after: None, limit: 10 }) else {
        panic!("no history")
    };
    let carriers: Vec<_> = items.iter().map(|item| item.carried_by.unwrap().author).collect();
    assert_eq!(carriers, [device(2), device(1)]);
    let query = Query::ValueAt { key: key("k"), heads: vec![items[1].hash] };
    assert!(matches!(a.ask(query), Ok(Answer::Document(view)) if view.value == json!({"n": 1})));
    let error = a.ask(Query::ValueAt { key: key("k"), heads: vec![[7; 32]] }).unwrap_err();
    assert!(matches!(error, DocumentError::UnknownChange { .. }), "{error}");
    let Ok(Answer::Chunks(chunks)) = a.ask(Query::Chunks { key: key("k"), heads: vec![items[1].hash] }) else {
        panic!("no chunks")
    };
    assert_eq!((chunks.changes.len(), chunks.heads), (1, vec![items[0].hash]));
}

#[test]
fn conflicts_are_listed_until_they_are_resolved() {
    let (mut a, mut b) = pair();
    a.write(vec![put("k", json!({"x": 0})), put("quiet", json!({"x": 0}))]).unwrap();
    b.catch_up();
    a.write(vec![merge("k", json!({"x": 1}))]).unwrap();
    b.write(vec![merge("k", json!({"x": 2}))]).unwrap();
    a.catch_up();
    let page = Query::Conflicts { within: ConflictScope::Page { prefix: String::new(), after: None, limit: 10 } };
    let Ok(Answer::Conflicts(found)) = a.ask(page.clone()) else { panic!("no conflicts") };
    assert_eq!(found.documents.len(), 1);
    assert_eq!((found.documents[0].places[0].path.as_str(), found.documents[0].places[0].values.len()), ("/x", 2));
    let edit = Edit::Resolve { path: "/x".parse().unwrap(), value: json!(3) };
    a.write(vec![Step::Edit { key: key("k"), edit }]).unwrap();
    assert!(matches!(a.ask(page), Ok(Answer::Conflicts(found)) if found.documents.is_empty()));
}

#[test]
fn watchers_see_every_visible_commit_in_order_and_resume() {
    let (mut a, mut b) = pair();
    a.handle(Input::Watch { token: 1, prefix: "k/".to_owned(), since: None, values: false });
    a.handle(Input::Watch { token: 2, prefix: String::new(), since: None, values: true });
    let Some(Ok(Answer::Watching(start))) = a.answers.remove(&1) else { panic!("no stream") };
    a.write(vec![put("k/1", json!({"n": 1})), put("other", json!({"n": 1}))]).unwrap();
    b.catch_up();
    b.write(vec![put("k/2", json!({"n": 2}))]).unwrap();
    a.catch_up();
    a.write(vec![delete("k/1")]).unwrap();
    let seen = |events: &[ChangeEvent]| -> Vec<(String, bool, u64)> {
        events.iter().map(|e| (e.key.to_string(), e.deleted, e.version.position)).collect()
    };
    let expected = [("k/1".to_owned(), false, 1), ("k/2".to_owned(), false, 2), ("k/1".to_owned(), true, 3)];
    assert_eq!(seen(&a.changes[&1]), expected);
    let values: Vec<_> = a.changes[&2].iter().map(|event| event.value.clone()).collect();
    assert_eq!(values, [Some(json!({"n": 1})), Some(json!({"n": 1})), Some(json!({"n": 2})), None]);

    // Resumed, a stream says the same, but tells what does not exist any more.
    a.handle(Input::Watch { token: 3, prefix: "k/".to_owned(), since: Some(start), values: false });
    let resumed = [("k/1".to_owned(), true, 1), ("k/2".to_owned(), false, 2), ("k/1".to_owned(), true, 3)];
    assert_eq!(seen(&a.changes[&3]), resumed);
    let Ok(Answer::Changes(page)) = a.ask(Query::Changes { since: Some(start), limit: 1 }) else { panic!("no page") };
    assert_eq!((page.events.len(), page.version.position, page.more), (2, 1, true));
    a.handle(Input::Unwatch { token: 1 });
    a.write(vec![put("k/9", json!({"n": 9}))]).unwrap();
    assert_eq!(a.changes[&1].len(), 3);
}

#[test]
fn a_watcher_whose_reader_is_slow_pauses_and_misses_nothing() {
    let (mut a, _) = pair();
    a.handle(Input::Watch { token: 1, prefix: String::new(), since: None, values: false });
    let count = 5000;
    for n in 0..count / 50 {
        let steps = (0..50).map(|m| put(&format!("k/{n}/{m}"), json!({"n": n}))).collect();
        a.write(steps).unwrap();
    }
    let given = a.changes[&1].len();
    assert!(given < 4300, "{given} events were given to a reader that takes none");
    a.handle(Input::Taken { token: 1, events: given });
    assert_eq!(a.changes[&1].len(), count);
    let positions: Vec<u64> = a.changes[&1].iter().map(|event| event.version.position).collect();
    assert!(positions.is_sorted());
}

#[test]
fn a_query_waits_for_its_version() {
    let (mut a, _) = pair();
    let mut version = a.version();
    version.position = 2;
    let waiting = a.query(Query::Get { key: key("k"), wait_for: Some(version) });
    let given_up = a.query(Query::Version { wait_for: Some(version) });
    a.handle(Input::Cancel { token: given_up });
    assert!(matches!(a.answers.remove(&given_up), Some(Err(DocumentError::Cancelled))));
    a.write(vec![put("k", json!({"n": 1}))]).unwrap();
    assert!(!a.answers.contains_key(&waiting));
    a.write(vec![put("k", json!({"n": 2}))]).unwrap();
    assert!(matches!(a.answers.remove(&waiting), Some(Ok(Answer::Document(view))) if view.value == json!({"n": 2})));
    let foreign = Version { incarnation: crate::documents::request::Incarnation([7; 8]), position: 1 };
    let error = a.ask(Query::Version { wait_for: Some(foreign) }).unwrap_err();
    assert!(matches!(error, DocumentError::ForeignVersion { .. }), "{error}");
}

#[test]
fn jobs_on_a_large_document_delay_no_other() {
    let ledger = Arc::new(Ledger::default());
    let mut a = Replica::with(1, &ledger, CACHE_BYTES, 40 << 10);
    let text = "x".repeat(60_000);
    a.write(vec![put("large", json!({"text": text, "n": 0})), put("small", json!({"n": 0}))]).unwrap();
    a.holds_jobs = true;
    let large = a.transact(vec![merge("large", json!({"n": 1}))]);
    let both = a.transact(vec![merge("large", json!({"n": 2})), merge("small", json!({"both": 1}))]);
    let after = a.transact(vec![merge("small", json!({"after": 1}))]);
    let free = a.transact(vec![put("free", json!({"n": 1}))]);
    assert_eq!(a.jobs.len(), 1, "one job at a time on a document");
    assert_eq!(a.sealed.len(), 1);
    assert!(a.commit());
    assert!(a.answers.contains_key(&free) && !a.answers.contains_key(&large));
    assert_eq!(a.value("free"), Some(json!({"n": 1})));
    assert!(a.run_job());
    assert!(!a.answers.contains_key(&after), "it waits for the transaction that has the document");
    while a.run_job() {}
    let tokens: Vec<Token> = a.sealed.iter().map(|(token, ..)| *token).collect();
    assert_eq!(tokens, [large, both, after]);
    while a.commit() {}
    a.holds_jobs = false;
    assert_eq!(a.value("small"), Some(json!({"n": 0, "both": 1, "after": 1})));
    assert_eq!(a.value("large").unwrap()["n"], json!(2));
    let before = a.everything();
    a.restart(true);
    assert_eq!(a.everything(), before);
}

#[test]
fn the_cache_stays_within_its_bound() {
    let ledger = Arc::new(Ledger::default());
    let (bound, count) = (200_000, 300);
    let mut a = Replica::with(1, &ledger, bound, LARGE_DOCUMENT_BYTES);
    for n in 0..count {
        a.write(vec![put(&format!("k/{n}"), json!({"n": n}))]).unwrap();
    }
    for n in 0..count {
        assert_eq!(a.value(&format!("k/{n}")), Some(json!({"n": n})));
        assert!(a.desk.stats().loaded_bytes <= bound, "{:?}", a.desk.stats());
    }
    assert!(a.desk.stats().loaded > 3);
    assert!(a.desk.cache.keys().count() == a.desk.stats().loaded, "no slot is left behind");
}

#[test]
fn a_document_with_many_changes_is_loaded_from_its_snapshot() {
    let ledger = Arc::new(Ledger::default());
    // Nothing stays in memory.
    let mut a = Replica::with(1, &ledger, 0, LARGE_DOCUMENT_BYTES);
    for n in 0..200 {
        a.write(vec![merge("k", json!({"n": n, "deep": {n.to_string(): n}}))]).unwrap();
    }
    let entry = a.desk.catalog.entry(&key("k")).unwrap().unwrap();
    assert_eq!((entry.total(), entry.tail.len()), (200, 200 % 64));
    let snapshot = a.desk.snapshot(&key("k"), &entry).unwrap().unwrap();
    assert!(snapshot.complete > 150, "{}", snapshot.complete);
    let value = a.value("k");
    // A snapshot sealed with another key is of no use, and does no harm.
    a.config.seal_key = ContentKey([77; 32]);
    a.restart(false);
    assert_eq!(a.value("k"), value);
    a.write(vec![delete("k")]).unwrap();
    a.write(vec![merge("k", json!({"n": 1}))]).unwrap();
    assert_eq!(a.value("k"), Some(json!({"n": 1})), "a snapshot from before a delete is not used");
}

#[test]
fn of_two_changes_in_one_place_every_replica_blocks_the_same_and_what_came_with_it() {
    let ledger = Arc::new(Ledger::default());
    let (mut a, mut b) = (Replica::new(1, &ledger), Replica::new(2, &ledger));
    a.write(vec![put("x", json!({"a": 1})), put("y", json!({"a": 1})), put("z", json!({"a": 1}))]).unwrap();
    let mut stranger = Stranger::new(3, &ledger);
    let none = Past::new();
    let first = stranger.first(json!({"s": 1}));
    stranger.write(vec![("x", first)], &none);
    // The same place in `x` again: it loses, and takes the change of `y` with it.
    stranger.write(vec![("x", stranger.first(json!({"s": 2}))), ("y", stranger.first(json!({"s": 2})))], &none);
    // It builds on the change of `y` that is withheld, so it is blocked, and `z` with it.
    let on_top = stranger.second(&stranger.first(json!({"s": 2})), json!({"t": 3}));
    stranger.write(vec![("y", on_top), ("z", stranger.first(json!({"s": 3})))], &none);
    a.catch_up();
    b.catch_up();
    for replica in [&mut a, &mut b] {
        assert_eq!(replica.value("x"), Some(json!({"a": 1, "s": 1})));
        assert_eq!(replica.value("y"), Some(json!({"a": 1})));
        assert_eq!(replica.value("z"), Some(json!({"a": 1})));
        assert_eq!(replica.desk.stats().blocked_documents, 3);
    }
    assert_eq!(a.everything(), b.everything());
    a.write(vec![merge("y", json!({"b": 1}))]).unwrap();
    b.catch_up();
    assert_eq!(a.everything(), b.everything());
    a.restart(false);
    assert_eq!(a.everything(), b.everything());
    a.restart(true);
    assert_eq!(a.everything(), b.everything());
}

#[test]
fn foreign_changes_in_one_place_are_decided_alike_whatever_arrives_first() {
    let ledger = Arc::new(Ledger::default());
    let (mut a, mut b) = (Replica::new(1, &ledger), Replica::new(2, &ledger));
    let (mut c, mut d) = (Stranger::new(3, &ledger), Stranger::new(4, &ledger));
    let (left, right) = (foreign(&[1; 16], 1), foreign(&[1; 16], 2));
    c.write(vec![("x", left), ("y", c.first(json!({"c": 1})))], &Past::new());
    d.write(vec![("x", right), ("z", d.first(json!({"d": 1})))], &Past::new());
    a.deliver(c.device, 1);
    assert_eq!(a.value("y"), Some(json!({"c": 1})));
    b.deliver(d.device, 1);
    assert_eq!(b.value("z"), Some(json!({"d": 1})));
    a.deliver(d.device, 1);
    b.deliver(c.device, 1);
    assert_eq!(a.everything(), b.everything());
    let values = (a.value("y"), a.value("z"));
    assert!(matches!(values, (Some(y), Some(z)) if (y == json!({})) != (z == json!({}))), "one is withheld");
}

#[test]
fn changes_made_elsewhere_are_taken_in_or_refused() {
    let (mut a, mut b) = pair();
    let Action::ForeignChange(bytes) = foreign(&[5; 16], 3) else { panic!("not foreign") };
    let step = Step::Foreign { key: key("k"), changes: vec![bytes] };
    a.write(vec![step.clone()]).unwrap();
    b.catch_up();
    assert_eq!((a.value("k"), b.value("k")), (Some(json!({"foreign": 3})), Some(json!({"foreign": 3}))));
    let Ok(Answer::Written(written)) = a.write(vec![step]) else { panic!("refused") };
    assert_eq!(written.sequence, None, "it was held already");
    let Action::ForeignChange(rival) = foreign(&[5; 16], 4) else { panic!("not foreign") };
    for bad in [rival, vec![1, 2, 3]] {
        let error = a.write(vec![Step::Foreign { key: key("k"), changes: vec![bad] }]).unwrap_err();
        assert!(matches!(error, DocumentError::BadChange { step: 0, change: 0, .. }), "{error}");
    }
    assert_eq!(a.value("k"), Some(json!({"foreign": 3})));
}

#[test]
fn closing_answers_everything_and_still_records_what_the_core_wrote() {
    let (mut a, _) = pair();
    a.write(vec![put("k", json!({"n": 1}))]).unwrap();
    let mut beyond = a.version();
    beyond.position += 5;
    let waiting = a.query(Query::Version { wait_for: Some(beyond) });
    let write = a.transact(vec![merge("k", json!({"n": 2}))]);
    a.handle(Input::Close);
    assert!(matches!(a.answers.remove(&waiting), Some(Err(DocumentError::Stopping))));
    assert!(a.commit());
    assert!(matches!(a.answers.remove(&write), Some(Ok(Answer::Written(_)))));
    assert!(matches!(a.ask(Query::Stats), Err(DocumentError::Stopping)));
    let incarnation = a.version().incarnation;
    a.restart(false);
    assert_eq!(a.version().incarnation, incarnation);
    assert_eq!(a.value("k"), Some(json!({"n": 2})));
}

#[test]
fn a_failing_index_stops_the_desk_and_says_so() {
    let (mut a, _) = pair();
    a.write(vec![put("k", json!({"n": 1}))]).unwrap();
    let write = a.transact(vec![merge("k", json!({"n": 2}))]);
    a.index.set_failing(true);
    let read = a.query(Query::Get { key: key("k"), wait_for: None });
    a.commit();
    assert!(matches!(a.answers.remove(&read), Some(Err(DocumentError::Storage { .. }))));
    assert!(matches!(a.answers.remove(&write), Some(Err(DocumentError::Storage { .. }))));
    assert!(a.desk.failure().is_some());
    assert!(matches!(a.ask(Query::Stats), Err(DocumentError::Storage { .. })));
    a.index.set_failing(false);
    a.restart(true);
    assert_eq!(a.value("k"), Some(json!({"n": 2})));
}

/// One move of a random history.
#[derive(Debug, Clone)]
enum Move {
    Write { replica: usize, kind: u8, key: usize, other: usize, number: u32 },
    Commit { replica: usize },
    Deliver { replica: usize, author: usize },
    Misbehave { stranger: usize, kind: u8, key: usize, other: usize, number: u32 },
    Read { replica: usize, key: usize },
    Restart { replica: usize, wipe: bool },
    RunJob { replica: usize },
}

const KEYS: [&str; 4] = ["a", "b", "c/d", "e"];

fn moves(with_strangers: bool) -> impl Strategy<Value = Vec<Move>> {
    let write = (0..3_usize, 0..8_u8, 0..4_usize, 0..4_usize, 0..1000_u32);
    let write = write.prop_map(|(replica, kind, key, other, number)| Move::Write { replica, kind, key, other, number });
    let misbehave = (0..2_usize, 0..6_u8, 0..4_usize, 0..4_usize, 0..3_u32);
    let misbehave = misbehave.prop_map(|(stranger, kind, key, other, number)| Move::Misbehave {
        stranger,
        kind,
        key,
        other,
        number,
    });
    let one = prop_oneof![
        5 => write,
        4 => (0..3_usize).prop_map(|replica| Move::Commit { replica }),
        6 => (0..3_usize, 0..5_usize).prop_map(|(replica, author)| Move::Deliver { replica, author }),
        if with_strangers { 4 } else { 1 } => misbehave,
        2 => (0..3_usize, 0..4_usize).prop_map(|(replica, key)| Move::Read { replica, key }),
        1 => (0..3_usize, any::<bool>()).prop_map(|(replica, wipe)| Move::Restart { replica, wipe }),
        2 => (0..3_usize).prop_map(|replica| Move::RunJob { replica }),
    ];
    prop::collection::vec(one, 1..60)
}

fn written_steps(kind: u8, first: &str, second: &str, number: u32) -> Vec<Step> {
    let increment = |text| Step::Edit { key: key(text), edit: Edit::Increment { path: "/n".parse().unwrap(), by: 1 } };
    match kind {
        0 => vec![put(first, json!({"v": number}))],
        1 => vec![merge(first, json!({"v": number, "w": {"x": number}}))],
        2 => vec![increment(first)],
        3 => vec![delete(first)],
        4 => vec![delete(first), merge(first, json!({"again": number}))],
        5 => vec![merge(first, json!({"m": number})), merge(second, json!({"m": number}))],
        6 => vec![merge(first, json!({"m": number})), delete(second)],
        _ => vec![put(first, json!({"p": number})), increment(second), merge(first, json!({"q": number}))],
    }
}

fn misbehave(stranger: &mut Stranger, kind: u8, first: &str, second: &str, number: u32, seen: &Past) {
    let n = i64::from(number);
    let one = stranger.first(json!({"s": n}));
    let two = stranger.second(&one, json!({"t": n}));
    let entries = match kind {
        0 => vec![(first, one)],
        1 => vec![(first, one.clone()), (second, one)],
        2 => vec![(first, two), (second, one)],
        3 => vec![(first, foreign(&[8; 16], n)), (second, one)],
        4 => vec![(first, foreign(&[8; 16], n))],
        _ => vec![(first, Action::Change(vec![1, 2, 3])), (second, one)],
    };
    stranger.write(entries, seen);
}

fn run(moves: Vec<Move>, strangers_write: bool) -> Result<(), TestCaseError> {
    let ledger = Arc::new(Ledger::default());
    let mut replicas: Vec<Replica> =
        (1..=3).map(|name| Replica::with(name, &ledger, 60_000 * usize::from(name - 1), 20 << 10)).collect();
    let mut strangers: Vec<Stranger> = (4..=5).map(|name| Stranger::new(name, &ledger)).collect();
    for replica in &mut replicas {
        replica.holds_jobs = true;
    }
    let authors: Vec<DeviceId> = (1..=5).map(device).collect();
    for step in moves {
        match step {
            Move::Write { replica, kind, key, other, number } => {
                replicas[replica].transact(written_steps(kind, KEYS[key], KEYS[other], number));
            }
            Move::Commit { replica } => {
                replicas[replica].commit();
            }
            Move::Deliver { replica, author } => {
                let next = replicas[replica].admitted.get(&authors[author]).map_or(1, |sequence| sequence + 1);
                if authors[author] != replicas[replica].device {
                    replicas[replica].deliver(authors[author], next);
                }
            }
            Move::Misbehave { stranger, kind, key, other, number } => {
                if strangers_write {
                    let seen = replicas[key % 3].admitted.clone();
                    misbehave(&mut strangers[stranger], kind, KEYS[key], KEYS[other], number, &seen);
                }
            }
            Move::Read { replica, key: position } => {
                replicas[replica].query(Query::Get { key: key(KEYS[position]), wait_for: None });
            }
            Move::Restart { replica, wipe } => {
                replicas[replica].jobs.clear();
                replicas[replica].restart(wipe);
            }
            Move::RunJob { replica } => {
                replicas[replica].run_job();
            }
        }
    }
    for replica in &mut replicas {
        replica.holds_jobs = false;
        while replica.run_job() || replica.commit() {}
    }
    for replica in &mut replicas {
        replica.catch_up();
        prop_assert_eq!(replica.admitted.clone(), replica.ledger.heads(), "everything is delivered");
        let open = (&replica.desk.tasks, &replica.desk.held);
        prop_assert!(open.0.is_empty() && open.1.is_empty(), "nothing is left open: {open:?} {:?}", replica.desk.ready);
    }
    let everything = replicas[0].everything();
    for replica in &mut replicas {
        prop_assert_eq!(&replica.everything(), &everything);
        for text in KEYS {
            let own = replica.ask(Query::Conflicts { within: ConflictScope::Document(key(text)) });
            if !strangers_write && let Ok(Answer::Conflicts(page)) = own {
                prop_assert!(page.documents[0].blocked.is_empty(), "honest replicas block nothing: {:?}", page);
            }
        }
    }
    let last = &mut replicas[2];
    last.restart(true);
    prop_assert_eq!(&last.everything(), &everything, "a replay of everything gives the same");
    Ok(())
}

impl Ledger {
    fn heads(&self) -> Past {
        let mut heads = Past::new();
        for (author, sequence) in self.written.lock().unwrap().keys() {
            heads.insert(*author, *sequence);
        }
        heads
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn replicas_that_exchange_operations_in_any_order_converge(moves in moves(false)) {
        run(moves, false)?;
    }

    #[test]
    fn replicas_converge_whatever_strangers_write(moves in moves(true)) {
        run(moves, true)?;
    }
}
