//! Scripted desks over an index in memory.

mod audits;
mod convergence;
mod properties;
mod replica;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::json;
use syncline_model::{Action, Entry, Past, Transaction};
use syncline_storage::{MemoryDisk, MemoryIndex, OpenOptions, Store};

use self::replica::*;
use super::*;
use crate::documents::operations::{Content, ReadError};
use crate::documents::request::{ChangeEvent, ConflictScope, List, Opened, Step};
use crate::documents::version::{Incarnation, Version};
use crate::documents::{Document, Edit, IncomingChange};

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
fn what_was_left_out_is_remembered_until_the_documents_are_made_anew() {
    let (mut a, _) = pair();
    a.write(vec![put("k", json!({"n": 1}))]).unwrap();
    let epochs = BTreeSet::from([0, 2]);
    a.handle(Input::LeaveOut(epochs.clone()));
    assert_eq!(*a.desk.left_out(), epochs);
    a.restart(false);
    assert_eq!(*a.desk.left_out(), epochs);
    a.handle(Input::Rebuild);
    assert!(a.desk.left_out().is_empty());
    a.restart(false);
    assert!(a.desk.left_out().is_empty());
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
    let foreign = Version { incarnation: Incarnation([7; 8]), position: 1 };
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
fn the_spaces_of_a_node_share_one_bound() {
    let bound = 200_000;
    let budget = CacheBudget::new(bound);
    let mut busy = Replica::with(1, &Arc::new(Ledger::default()), budget.clone(), LARGE_DOCUMENT_BYTES);
    let mut late = Replica::with(2, &Arc::new(Ledger::default()), budget.clone(), LARGE_DOCUMENT_BYTES);
    let held = |replica: &Replica| replica.desk.stats().loaded_bytes;
    let fill = |replica: &mut Replica| {
        for n in 0..150 {
            replica.write(vec![put(&format!("k/{n}"), json!({"n": n}))]).unwrap();
            assert!(budget.used_bytes() <= bound, "{} of {bound}", budget.used_bytes());
        }
    };
    fill(&mut busy);
    assert!(held(&busy) > bound * 3 / 4, "a space that is alone in using documents has all the room");
    assert!(!budget.share_out(), "nobody was short of its share");
    fill(&mut late);
    assert!(held(&late) < bound / 2, "what another space holds is not taken away from here");
    assert!(budget.share_out());
    busy.handle(Input::MakeRoom);
    assert!(held(&busy) <= bound / 2, "an idle space keeps no more than its share");
    fill(&mut late);
    assert!(held(&late) > bound / 3, "and the other one has the room");
    assert_eq!(budget.used_bytes(), held(&busy) + held(&late));
    drop(busy);
    assert_eq!(budget.used_bytes(), held(&late), "a space that ends gives all of it back");
    assert!(!budget.share_out(), "nobody was short of its share any more");
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
