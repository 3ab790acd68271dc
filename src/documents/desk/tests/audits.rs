//! Documents that differ from what their operations give are found.

use std::collections::BTreeSet;

use super::*;
use crate::documents::audit::{Comparison, Tally};
use crate::documents::catalog::{DOCUMENT, REFERENCES_PER_CHUNK};

/// Some documents with a history: edited together, deleted, put again, many times changed, changed elsewhere.
fn with_history() -> (Replica, Replica) {
    let (mut a, mut b) = pair();
    a.write(vec![put("both/1", json!({"n": 1})), put("both/2", json!({"n": 1})), put("gone", json!({"n": 1}))])
        .unwrap();
    b.catch_up();
    a.write(vec![delete("gone")]).unwrap();
    a.write(vec![put("gone", json!({"again": true}))]).unwrap();
    b.write(vec![merge("both/1", json!({"b": 1}))]).unwrap();
    for n in 0..REFERENCES_PER_CHUNK * 2 {
        a.write(vec![merge("often", json!({"n": n}))]).unwrap();
    }
    a.catch_up();
    (a, b)
}

/// Tallies of what the operations carry and of what the catalog says.
fn tallies(replica: &Replica, buckets: &BTreeSet<usize>) -> (Tally, Tally) {
    let (mut operations, mut catalog) = (Tally::naming(buckets), Tally::naming(buckets));
    let start = replica.desk.audit_start();
    for (author, applied) in &*start.applied {
        let mut add = |content: &Content| operations.add_operation(author, content);
        start.operations.read(author, 0, *applied, &mut add).unwrap();
    }
    let mut after = None;
    loop {
        let page = replica.desk.audit_sums(after.as_ref(), &start.applied).unwrap();
        page.sums.iter().for_each(|(key, sum)| catalog.add(key, *sum));
        after = page.next;
        if after.is_none() {
            return (operations, catalog);
        }
    }
}

fn compare(replica: &mut Replica, text: &str) -> Comparison {
    match replica.ask(Query::Compare { key: key(text) }) {
        Ok(Answer::Compared(comparison)) => comparison,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_in_order_compares_as_the_same() {
    let (mut a, mut b) = with_history();
    for replica in [&mut a, &mut b] {
        replica.catch_up();
        let (operations, catalog) = tallies(replica, &BTreeSet::new());
        assert!(operations.differing(&catalog).is_empty());
        for text in ["both/1", "both/2", "gone", "often"] {
            replica.value(text).unwrap();
            assert_eq!(compare(replica, text), Comparison::Same, "{text}");
        }
    }
    // Only a snapshot is left then, of the only one that has many changes.
    a.handle(Input::Close);
    a.restart(false);
    assert_eq!(compare(&mut a, "often"), Comparison::Same);
    assert_eq!(compare(&mut a, "both/2"), Comparison::NothingKept);
    assert!(matches!(a.ask(Query::Compare { key: key("absent") }), Err(DocumentError::NotFound { .. })));
}

#[test]
fn a_reference_that_is_lost_from_the_catalog_is_found_and_its_document_named() {
    let (mut a, _) = with_history();
    let index = a.desk.catalog.index().clone();
    let mut entry = a.desk.catalog.entry(&key("both/1")).unwrap().unwrap();
    entry.tail.pop();
    let mut batch = syncline_storage::Batch::default();
    batch.put(index.key(DOCUMENT, b"both/1"), [&[1][..], &crate::documents::catalog::encode(&entry)].concat());
    index.apply(batch).unwrap();
    let (operations, catalog) = tallies(&a, &BTreeSet::new());
    let buckets = operations.differing(&catalog);
    assert_eq!(buckets.len(), 1);
    let (operations, catalog) = tallies(&a, &buckets);
    assert_eq!(operations.differing_documents(&catalog), BTreeSet::from([key("both/1")]));
    assert_eq!(compare(&mut a, "both/2"), Comparison::Same);
}

#[test]
fn a_kept_document_that_holds_something_else_is_found() {
    let (mut a, _) = with_history();
    a.value("both/1").unwrap();
    a.value("both/2").unwrap();
    let (mut one, mut two) = (a.desk.cache.take(&key("both/1")).unwrap(), a.desk.cache.take(&key("both/2")).unwrap());
    std::mem::swap(&mut one.document, &mut two.document);
    a.desk.cache.put(&key("both/1"), Some(one));
    a.desk.cache.put(&key("both/2"), Some(two));
    assert_eq!(compare(&mut a, "both/1"), Comparison::OtherHeads);
    assert_eq!(compare(&mut a, "both/2"), Comparison::OtherHeads);
}

#[test]
fn a_document_is_compared_once_its_edits_are_durable() {
    let (mut a, _) = with_history();
    a.transact(vec![merge("both/1", json!({"late": 1}))]);
    let asked = a.query(Query::Compare { key: key("both/1") });
    assert!(!a.answers.contains_key(&asked), "it holds a change that is in no operation yet");
    assert!(a.commit());
    assert!(matches!(a.answers.remove(&asked), Some(Ok(Answer::Compared(Comparison::Same)))));
}
