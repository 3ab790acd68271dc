//! The behaviour of documents as a whole; algorithms are tested beside their code.

use std::io::Read;

use automerge::transaction::Transactable;
use automerge::{ActorId, AutoCommit, Change, ObjType, ROOT, ReadDoc, ScalarValue};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::limits::{ACTOR_BYTES, MAX_DEPTH, MAX_OPERATION_COUNTER, MAX_OPERATION_GAP};
use super::*;

const ALICE: [u8; ACTOR_BYTES] = [0xaa; ACTOR_BYTES];
const BOB: [u8; ACTOR_BYTES] = [0xbb; ACTOR_BYTES];
const CAROL: [u8; ACTOR_BYTES] = [0xcc; ACTOR_BYTES];

fn pointer(text: &str) -> Pointer {
    text.parse().expect("a pointer written in a test is correct")
}

fn edit(document: &mut Document, actor: [u8; ACTOR_BYTES], edits: &[Edit]) -> EditedChange {
    try_edit(document, actor, edits).expect("the edit is possible").expect("the edit changes something")
}

fn try_edit(
    document: &mut Document,
    actor: [u8; ACTOR_BYTES],
    edits: &[Edit],
) -> Result<Option<EditedChange>, EditError> {
    document.edit(&actor, edits, StringMode::Scalar)
}

fn put(document: &mut Document, actor: [u8; ACTOR_BYTES], value: Value) -> EditedChange {
    edit(document, actor, &[Edit::Put(value)])
}

fn splice(path: &str, index: usize, delete: usize, insert: &str) -> Edit {
    Edit::Splice { path: pointer(path), index, delete, insert: insert.to_owned() }
}

fn increment(path: &str, by: i64) -> Edit {
    Edit::Increment { path: pointer(path), by }
}

fn incoming(change: &EditedChange) -> IncomingChange {
    let expected_actor = change.header.actor.clone().try_into().ok();
    IncomingChange { bytes: change.bytes.clone(), expected_actor }
}

fn receive(document: &mut Document, changes: &[&EditedChange]) {
    let applied = document.apply(changes.iter().map(|change| incoming(change)).collect());
    for outcome in applied.outcomes {
        outcome.expect("a change made by a document is accepted");
    }
}

/// A document with one change, and an equal one for another device.
fn two_replicas(value: Value) -> (Document, Document) {
    let mut first = Document::new();
    let change = put(&mut first, CAROL, value);
    let mut second = Document::new();
    receive(&mut second, &[&change]);
    (first, second)
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-2.0..2.0_f64).prop_map(Value::from),
        any::<f64>().prop_filter("JSON has no infinities", |number| number.is_finite()).prop_map(Value::from),
        "[a-c😀é]{0,5}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map("[a-d]{0,1}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn json_object() -> impl Strategy<Value = Value> {
    prop::collection::btree_map("[a-d😀/~]{0,2}", json_value(), 0..5)
        .prop_map(|map| Value::Object(map.into_iter().collect()))
}

fn mode() -> impl Strategy<Value = StringMode> {
    prop_oneof![Just(StringMode::Scalar), Just(StringMode::Text)]
}

/// RFC 7396, as it is written there.
fn merged(target: Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else { return patch.clone() };
    let mut target = match target {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            let merged = merged(target.remove(key).unwrap_or(Value::Null), value);
            target.insert(key.clone(), merged);
        }
    }
    Value::Object(target)
}

proptest! {
    #[test]
    fn what_is_put_is_what_is_seen(values in prop::collection::vec(json_object(), 1..4), mode in mode()) {
        let mut document = Document::new();
        let mut replica = Document::new();
        for value in values {
            // Two edits go through Automerge even if the document is empty; the bytes must not tell.
            let detour = [Edit::Merge(json!({})), Edit::Put(value.clone())];
            let detour = document.clone().edit(&ALICE, &detour, mode).expect("the value can be put");
            let change = document.edit(&ALICE, &[Edit::Put(value.clone())], mode).expect("the value can be put");
            prop_assert_eq!(&detour, &change);
            prop_assert_eq!(document.view(), value.clone());
            prop_assert!(document.edit(&ALICE, &[Edit::Put(value)], mode).expect("again").is_none());
            if let Some(change) = change {
                prop_assert_eq!(parse_change(&change.bytes), Ok(change.header.clone()));
                receive(&mut replica, &[&change]);
            }
            prop_assert_eq!(replica.view(), document.view());
        }
        let loaded = Document::load(&document.save()).expect("a saved document loads");
        prop_assert_eq!(loaded.view(), document.view());
        prop_assert_eq!(loaded.heads(), document.heads());
    }

    #[test]
    fn merge_follows_the_rfc(start in json_object(), patch in json_object(), mode in mode()) {
        let mut document = Document::new();
        document.edit(&ALICE, &[Edit::Put(start.clone())], mode).expect("the start can be put");
        document.edit(&ALICE, &[Edit::Merge(patch.clone())], mode).expect("the patch can be applied");
        prop_assert_eq!(document.view(), merged(start, &patch));
    }

    #[test]
    fn replicas_converge_whatever_the_order_of_arrival(
        edits in prop::collection::vec((0..3_usize, json_object(), mode()), 1..10),
        seed in any::<u64>(),
    ) {
        let actors = [ALICE, BOB, CAROL];
        let mut replicas = vec![Document::new(), Document::new(), Document::new()];
        let mut changes: Vec<EditedChange> = Vec::new();
        for (step, (writer, value, mode)) in edits.into_iter().enumerate() {
            let made = replicas[writer].edit(&actors[writer], &[Edit::Put(value)], mode).expect("it can be put");
            changes.extend(made);
            // Now and then one device hears from the others.
            if (seed >> step) & 1 == 1 {
                let listener = (step + 1) % 3;
                receive(&mut replicas[listener], &changes.iter().collect::<Vec<_>>());
            }
        }
        for (rotation, replica) in replicas.iter_mut().enumerate() {
            let mut order: Vec<_> = changes.iter().collect();
            if !order.is_empty() {
                order.rotate_left(rotation % changes.len());
            }
            receive(replica, &order);
        }
        let mut one_by_one = Document::new();
        for change in &changes {
            receive(&mut one_by_one, &[change]);
        }
        for replica in &replicas {
            prop_assert_eq!(replica.view(), one_by_one.view());
            prop_assert_eq!(replica.heads(), one_by_one.heads());
            prop_assert_eq!(replica.conflicts(&Pointer::root()), one_by_one.conflicts(&Pointer::root()));
            let page = |document: &Document| document.history(HistoryOrder::OldestFirst, None, 100);
            prop_assert_eq!(page(replica), page(&one_by_one));
            prop_assert_eq!(Document::load(&replica.save()).map(|loaded| loaded.heads()), Ok(replica.heads()));
        }
    }

    #[test]
    fn a_loaded_document_is_the_one_that_was_saved_and_goes_on_like_it(
        edits in prop::collection::vec((0..2_usize, json_object(), mode()), 0..8),
        next in json_object(),
        mode in mode(),
    ) {
        let (mut one, mut other) = (Document::new(), Document::new());
        for (writer, value, mode) in edits {
            let (document, actor) = if writer == 0 { (&mut one, ALICE) } else { (&mut other, BOB) };
            document.edit(&actor, &[Edit::Put(value)], mode).expect("it can be put");
        }
        let bytes = other.changes_since(&[]).expect("nothing is asked for by name");
        let incoming = |bytes: &Vec<u8>| IncomingChange { bytes: bytes.clone(), expected_actor: Some(BOB) };
        one.apply(bytes.iter().map(incoming).collect());
        let mut loaded = Document::load(&one.save()).expect("what was saved can be loaded");
        let shown = |document: &Document| {
            let history = document.history(HistoryOrder::OldestFirst, None, 100);
            (document.view(), document.heads(), document.conflicts(&Pointer::root()), history)
        };
        prop_assert_eq!(shown(&loaded), shown(&one));
        let next = [Edit::Put(next)];
            let (ours, theirs) = (one.edit(&ALICE, &next, mode), loaded.edit(&ALICE, &next, mode));
        prop_assert_eq!(ours.expect("it can be put"), theirs.expect("it can be put"), "both make the same change");
        prop_assert_eq!(shown(&loaded), shown(&one));
    }

    #[test]
    fn text_is_spliced_by_code_points(
        start in "[a😀é\u{301}]{0,12}", at in 0..13_usize, delete in 0..5_usize, insert in "[x🦀]{0,4}",
    ) {
        let characters: Vec<char> = start.chars().collect();
        let mut document = Document::new();
        put(&mut document, ALICE, json!({"text": start}));
        let before = document.view();
        let made = try_edit(&mut document, ALICE, &[splice("/text", at, delete, &insert)]);
        if at + delete > characters.len() {
            let out_of_range = matches!(made, Err(EditError::SpliceOutOfRange { .. }));
            prop_assert!(out_of_range);
            prop_assert_eq!(document.view(), before);
        } else {
            made.expect("the splice is in range");
            let mut wanted = characters;
            wanted.splice(at..at + delete, insert.chars());
            prop_assert_eq!(document.view(), json!({"text": wanted.into_iter().collect::<String>()}));
        }
    }
}

#[test]
fn concurrent_edits_of_different_fields_both_survive() {
    let (mut alice, mut bob) = two_replicas(json!({"a": 1, "b": {"x": 1, "y": 1}, "list": [1, 2, 3, 4]}));
    let first = put(&mut alice, ALICE, json!({"a": 2, "b": {"x": 2, "y": 1}, "list": [0, 1, 2, 3, 4]}));
    let second = put(&mut bob, BOB, json!({"a": 1, "b": {"x": 1, "y": 2}, "list": [1, 2, 4], "c": true}));
    receive(&mut alice, &[&second]);
    receive(&mut bob, &[&first]);
    assert_eq!(alice.view(), json!({"a": 2, "b": {"x": 2, "y": 2}, "list": [0, 1, 2, 4], "c": true}));
    assert_eq!(bob.view(), alice.view());
}

#[test]
fn an_element_changed_in_place_takes_concurrent_edits_of_its_other_fields() {
    let (mut alice, mut bob) = two_replicas(json!({"tasks": [{"title": "a", "done": false}, {"title": "b"}]}));
    let first = put(&mut alice, ALICE, json!({"tasks": [{"title": "a", "done": true}, {"title": "b"}]}));
    let second = put(&mut bob, BOB, json!({"tasks": [{"title": "A", "done": false}, {"title": "b"}]}));
    receive(&mut alice, &[&second]);
    receive(&mut bob, &[&first]);
    assert_eq!(alice.view(), json!({"tasks": [{"title": "A", "done": true}, {"title": "b"}]}));
    assert_eq!(bob.view(), alice.view());
}

#[test]
fn a_string_put_on_text_keeps_concurrent_insertions() {
    let (mut alice, mut bob) = (Document::new(), Document::new());
    let start = edit(&mut alice, ALICE, &[splice("/text", 0, 0, "the quick fox")]);
    receive(&mut bob, &[&start]);
    let first = put(&mut alice, ALICE, json!({"text": "the quick brown fox"}));
    let second = edit(&mut bob, BOB, &[splice("/text", 13, 0, " 🦊!")]);
    receive(&mut alice, &[&second]);
    receive(&mut bob, &[&first]);
    assert_eq!(alice.view(), json!({"text": "the quick brown fox 🦊!"}));
    assert_eq!(bob.view(), alice.view());
}

#[test]
fn splicing_makes_text_of_nothing_and_of_strings_only() {
    let mut document = Document::new();
    put(&mut document, ALICE, json!({"list": ["ab"], "number": 1}));
    edit(
        &mut document,
        ALICE,
        &[splice("/new", 0, 0, "x"), splice("/list/0", 1, 1, "c"), splice("/list/-", 0, 0, "d")],
    );
    assert_eq!(document.view(), json!({"list": ["ac", "d"], "new": "x", "number": 1}));
    let refused = |document: &mut Document, edit: Edit| match try_edit(document, ALICE, &[edit]) {
        Err(error) => error.to_string(),
        Ok(_) => String::new(),
    };
    assert!(refused(&mut document, splice("/number", 0, 0, "x")).contains("not text"));
    assert!(refused(&mut document, splice("/list", 0, 0, "x")).contains("not text"));
    assert!(refused(&mut document, splice("", 0, 0, "x")).contains("needs a path"));
    assert!(refused(&mut document, splice("/no/where", 0, 0, "x")).contains("nothing exists at \"/no\""));
    assert!(refused(&mut document, splice("/number/x", 0, 0, "x")).contains("neither an object nor a list"));
    assert!(refused(&mut document, splice("/list/9", 0, 0, "x")).contains("0 to 2"));
}

#[test]
fn a_failed_transaction_leaves_nothing_behind() {
    for start in [json!({}), json!({"a": 1})] {
        let mut document = Document::new();
        if start != json!({}) {
            put(&mut document, BOB, start.clone());
        }
        let heads = document.heads();
        let edits = [Edit::Put(json!({"a": [1, {"b": 2}]})), increment("/n", 1), splice("/a", 0, 0, "x")];
        assert!(matches!(try_edit(&mut document, ALICE, &edits), Err(EditError::NotText(_))));
        assert_eq!((document.view(), document.heads()), (start, heads));
        // The device can go on, and its change is what the others expect.
        let change = put(&mut document, ALICE, json!({"b": 1}));
        assert_eq!(change.header.sequence, 1);
        assert_eq!(Document::load(&document.save()).map(|loaded| loaded.view()), Ok(json!({"b": 1})));
    }
}

#[test]
fn several_edits_are_one_change_without_time() {
    let mut document = Document::new();
    let edits = [Edit::Put(json!({"a": 1})), Edit::Merge(json!({"b": {"c": 2}})), increment("/b/c", 3)];
    let change = edit(&mut document, ALICE, &edits);
    assert_eq!(document.view(), json!({"a": 1, "b": {"c": 5}}));
    let history = document.history(HistoryOrder::OldestFirst, None, 10).expect("a page from the start");
    assert_eq!(history.len(), 1);
    assert_eq!((history[0].hash, history[0].time), (change.header.hash, 0));
    assert_eq!(document.change(&change.header.hash), Some(change.bytes));
}

#[test]
fn a_document_is_an_object_of_bounded_depth() {
    let mut document = Document::new();
    for value in [json!([1]), json!("text"), json!(null)] {
        assert!(matches!(
            try_edit(&mut document, ALICE, &[Edit::Put(value.clone())]),
            Err(EditError::DocumentMustBeObject)
        ));
        assert!(matches!(try_edit(&mut document, ALICE, &[Edit::Merge(value)]), Err(EditError::DocumentMustBeObject)));
    }
    let nested = |levels: usize| (1..levels).fold(json!({}), |inner, _| json!({"a": inner}));
    assert!(matches!(try_edit(&mut document, ALICE, &[Edit::Put(nested(MAX_DEPTH + 1))]), Err(EditError::TooDeep)));
    put(&mut document, ALICE, nested(MAX_DEPTH));
    assert_eq!(document.view(), nested(MAX_DEPTH));
}

#[test]
fn counters_sum_and_stay_counters_when_numbers_are_put() {
    let (mut alice, mut bob) = two_replicas(json!({"plain": 10}));
    let start = edit(&mut alice, ALICE, &[increment("/count", 5), increment("/plain", 1)]);
    receive(&mut bob, &[&start]);
    let first = edit(&mut alice, ALICE, &[increment("/count", 2)]);
    let second = put(&mut bob, BOB, json!({"count": 1, "plain": 12}));
    receive(&mut alice, &[&second]);
    receive(&mut bob, &[&first]);
    assert_eq!(alice.view(), json!({"count": 3, "plain": 12}));
    assert_eq!(bob.view(), alice.view());
    assert!(matches!(try_edit(&mut alice, ALICE, &[increment("/count", i64::MAX)]), Err(EditError::CounterOverflow)));
    put(&mut alice, ALICE, json!({"count": 2.5}));
    assert!(matches!(try_edit(&mut alice, ALICE, &[increment("/count", 1)]), Err(EditError::NotACounter(_))));
}

#[test]
fn conflicts_are_shown_and_end_by_any_choice() {
    for choice in [json!("from alice"), json!("from bob"), json!({"both": true})] {
        let (mut alice, mut bob) = two_replicas(json!({"list": [{"a/b": "start"}], "other": 1}));
        let first = put(&mut alice, ALICE, json!({"list": [{"a/b": "from alice"}], "other": 1}));
        let second = put(&mut bob, BOB, json!({"list": [{"a/b": "from bob"}], "other": 1}));
        receive(&mut alice, &[&second]);
        receive(&mut bob, &[&first]);

        let conflicts = alice.conflicts(&Pointer::root());
        assert_eq!(conflicts, bob.conflicts(&pointer("/list/0")));
        assert_eq!(conflicts.len(), 1);
        assert_eq!(conflicts[0].path, pointer("/list/0/a~1b"));
        let values: Vec<_> = conflicts[0].values.iter().map(|value| (&value.value, value.winner)).collect();
        assert_eq!(values, [(&json!("from alice"), false), (&json!("from bob"), true)]);
        assert_eq!(conflicts[0].values[0].actor, "aa".repeat(ACTOR_BYTES));
        assert!(alice.conflicts(&pointer("/other")).is_empty());
        assert_eq!(alice.conflicts(&pointer("/list/0/a~1b")), conflicts);

        let resolve = Edit::Resolve { path: pointer("/list/0/a~1b"), value: choice.clone() };
        let resolved = edit(&mut alice, ALICE, &[resolve]);
        receive(&mut bob, &[&resolved]);
        for document in [&alice, &bob] {
            assert!(document.conflicts(&Pointer::root()).is_empty());
            assert_eq!(document.view()["list"][0]["a/b"], choice);
        }
    }
}

#[test]
fn documents_move_between_threads() {
    fn is_shareable<T: Send + Sync>(_: &T) {}
    is_shareable(&Document::new());
}

#[test]
fn resolving_what_is_not_there_is_an_error() {
    let mut document = Document::new();
    put(&mut document, ALICE, json!({"a": 1}));
    let resolve = Edit::Resolve { path: pointer("/b"), value: json!(1) };
    assert!(matches!(try_edit(&mut document, ALICE, &[resolve]), Err(EditError::PathMissing(_))));
}

#[test]
fn history_is_paged_and_shows_old_values() {
    let mut document = Document::new();
    let hashes: Vec<_> = (0..5).map(|n| put(&mut document, ALICE, json!({"n": n})).header.hash).collect();
    let page = |order, after, limit| -> Vec<ChangeHash> {
        let page = document.history(order, after, limit).expect("the change is known");
        page.into_iter().map(|entry| entry.hash).collect()
    };
    assert_eq!(page(HistoryOrder::OldestFirst, None, 2), hashes[..2]);
    assert_eq!(page(HistoryOrder::OldestFirst, Some(&hashes[1]), 2), hashes[2..4]);
    assert_eq!(page(HistoryOrder::NewestFirst, Some(&hashes[3]), 9), [hashes[2], hashes[1], hashes[0]]);
    assert_eq!(document.view_at(&hashes[2..3]), Ok(json!({"n": 2})));
    assert_eq!(document.view_at(&[]), Ok(json!({})));
    assert_eq!(document.changes_since(&hashes[2..3]).map(|changes| changes.len()), Ok(2));
    assert!(document.view_at(&[[7; 32]]).is_err());
    assert!(document.history(HistoryOrder::OldestFirst, Some(&[7; 32]), 1).is_err());
}

#[test]
fn values_without_a_json_kind_are_shown_and_survive_putting_them_back() {
    let mut foreign = AutoCommit::new().with_actor(ActorId::from(&[1_u8; 16][..]));
    foreign.put(ROOT, "bytes", ScalarValue::Bytes(vec![0, 255])).expect("bytes are storable");
    foreign.put(ROOT, "time", ScalarValue::Timestamp(1_700_000_000_000)).expect("times are storable");
    foreign.put(ROOT, "nan", f64::NAN).expect("floats are storable");
    foreign.put_object(ROOT, "table", ObjType::Table).expect("tables are storable");
    let mut document = Document::new();
    let applied = document.apply(foreign_changes(&mut foreign));
    assert!(applied.outcomes.iter().all(Result::is_ok), "{applied:?}");
    let view = document.view();
    assert_eq!(view, json!({"bytes": {BYTES_KEY: "AP8="}, "time": 1_700_000_000_000_i64, "nan": null, "table": {}}));
    assert!(try_edit(&mut document, ALICE, &[Edit::Put(view)]).is_ok_and(|change| change.is_none()));
}

#[test]
fn nesting_without_end_is_read_to_the_limit() {
    let mut foreign = AutoCommit::new().with_actor(ActorId::from(&[1_u8; 16][..]));
    let mut object = ROOT;
    for _ in 0..5000 {
        object = foreign.put_object(&object, "a", ObjType::Map).expect("a map can be nested");
    }
    let mut document = Document::new();
    let applied = document.apply(foreign_changes(&mut foreign));
    assert!(applied.outcomes.iter().all(Result::is_ok), "{applied:?}");
    let (mut value, mut levels) = (&document.view(), 0);
    while let Some(inner) = value.get("a") {
        (value, levels) = (inner, levels + 1);
    }
    assert_eq!((value, levels), (&Value::Null, MAX_DEPTH));
    assert!(document.conflicts(&Pointer::root()).is_empty());
}

fn foreign_changes(document: &mut AutoCommit) -> Vec<IncomingChange> {
    let changes = document.get_changes(&[]);
    changes.iter().map(|change| IncomingChange { bytes: change.raw_bytes().to_vec(), expected_actor: None }).collect()
}

// Hostile changes.

/// Writes the checksum that fits the bytes, where they can be read at all.
fn with_checksum(mut bytes: Vec<u8>) -> Vec<u8> {
    if super::columns::survey(&bytes).is_ok() {
        let hash = std::panic::catch_unwind(|| Change::try_from(&bytes[..]).map(|change| change.hash()));
        if let Ok(Ok(hash)) = hash {
            bytes[4..8].copy_from_slice(&hash.0[..4]);
        }
    }
    bytes
}

/// Offers one change that must leave no trace, and returns why it was refused.
fn refused(document: &mut Document, bytes: Vec<u8>, expected_actor: Option<[u8; ACTOR_BYTES]>) -> Rejected {
    let (view, heads) = (document.view(), document.heads());
    let mut applied = document.apply(vec![IncomingChange { bytes, expected_actor }]);
    assert_eq!((document.view(), document.heads()), (view, heads.clone()));
    assert_eq!(applied.heads, heads);
    applied.outcomes.remove(0).expect_err("the change is refused")
}

/// Makes a change differ from what a document made.
fn forge(change: &EditedChange, alter: impl FnOnce(&mut automerge::ExpandedChange)) -> Vec<u8> {
    let mut expanded = Change::try_from(&change.bytes[..]).expect("a real change").decode();
    alter(&mut expanded);
    Change::from(expanded).raw_bytes().to_vec()
}

/// A rightly made change of an actor, but for the number of its first operation.
pub(crate) fn change_numbered_from(actor: [u8; ACTOR_BYTES], start: u64) -> Vec<u8> {
    let edits = [Edit::Put(json!({"v": "forged"}))];
    let change = Document::new().edit(&actor, &edits, StringMode::Scalar).expect("it can be made").expect("it is new");
    forge(&change, |change| change.start_op = start.try_into().expect("not zero"))
}

/// A document of Alice and Bob, and a further change of Bob that it does not hold.
fn document_and_next() -> (Document, EditedChange) {
    let mut bob = Document::new();
    let first = edit(&mut bob, ALICE, &[splice("/text", 0, 0, "hello"), Edit::Merge(json!({"list": [1, {"a": 2}]}))]);
    let second = edit(&mut bob, BOB, &[splice("/text", 5, 0, " world"), increment("/n", 1)]);
    let mut document = Document::new();
    receive(&mut document, &[&first, &second]);
    let edits = [
        splice("/text", 2, 4, "🦀"),
        increment("/n", 2),
        Edit::Merge(json!({"list": [{"a": 3}, null, 7], "new": {"x": "y"}})),
    ];
    let next = edit(&mut bob, BOB, &edits);
    (document, next)
}

#[test]
fn bytes_that_are_not_one_plain_change_are_refused() {
    let (mut document, next) = document_and_next();
    let snapshot = document.save();
    assert_eq!(refused(&mut document, snapshot, None), Rejected::Invalid(ChangeError::NotAPlainChange(0)));
    for length in 0..next.bytes.len() {
        assert!(matches!(refused(&mut document, next.bytes[..length].to_vec(), Some(BOB)), Rejected::Invalid(_)));
    }
    let trailing = [&next.bytes[..], &[0]].concat();
    assert_eq!(refused(&mut document, trailing, Some(BOB)), Rejected::Invalid(ChangeError::TrailingBytes));
    let mut deflated = next.bytes.clone();
    deflated[8] = 2;
    assert_eq!(refused(&mut document, deflated, Some(BOB)), Rejected::Invalid(ChangeError::NotAPlainChange(2)));
    let mut unchecked = next.bytes.clone();
    unchecked[4] ^= 1;
    assert!(matches!(refused(&mut document, unchecked, Some(BOB)), Rejected::Invalid(ChangeError::Malformed(_))));
    receive(&mut document, &[&next]);
}

#[test]
fn a_deflated_chunk_is_not_inflated() {
    // What Automerge writes for changes past 256 bytes, blown up to a gigabyte.
    let mut bomb = Vec::new();
    let zeros = std::io::repeat(0).take(1 << 26);
    flate2::read::DeflateEncoder::new(zeros, flate2::Compression::best()).read_to_end(&mut bomb).expect("in memory");
    let mut chunk = vec![0x85, 0x6f, 0x4a, 0x83, 0, 0, 0, 0, 2];
    let mut length = bomb.len();
    while length >= 0x80 {
        chunk.push((length as u8 & 0x7f) | 0x80);
        length >>= 7;
    }
    chunk.push(length as u8);
    chunk.extend(bomb);
    assert_eq!(parse_change(&chunk), Err(ChangeError::NotAPlainChange(2)));
}

#[test]
fn flipped_bits_never_panic_and_leave_the_document_readable() {
    let (document, next) = document_and_next();
    let (mut refused, mut accepted) = (0, 0);
    for bit in 0..next.bytes.len() * 8 {
        for recheck in [false, true] {
            let mut bytes = next.bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            if recheck {
                bytes = with_checksum(bytes);
            }
            let mut target = document.clone();
            let before = (target.view(), target.heads());
            let expected_actor = Some(BOB);
            let applied = target.apply(vec![IncomingChange { bytes, expected_actor }, incoming(&next)]);
            // A change forged in the place of the real one keeps that out; otherwise the real one is unharmed.
            match &applied.outcomes[0] {
                Ok(_) => accepted += 1,
                Err(_) => {
                    refused += 1;
                    assert!(applied.outcomes[1].is_ok(), "bit {bit}: {:?}", applied.outcomes);
                }
            }
            assert_ne!((target.view(), target.heads()), before);
            let loaded = Document::load(&target.save()).map(|loaded| (loaded.view(), loaded.heads()));
            assert_eq!(loaded, Ok((target.view(), target.heads())), "bit {bit}");
        }
    }
    // Some flips make another well-formed change, for example with a different letter.
    assert!(refused > next.bytes.len() * 8 && accepted > 0, "{refused} refused, {accepted} accepted");
}

proptest! {
    #[test]
    fn mutated_changes_never_harm_a_document(
        mutations in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 1..5),
    ) {
        let (mut document, next) = document_and_next();
        let mut bytes = next.bytes.clone();
        for (place, byte, kind) in mutations {
            // The fields before are checked one by one elsewhere; the columns are where surprises hide.
            let place = 9 + place.index(bytes.len() - 9);
            match kind {
                0 => bytes[place] = byte,
                1 => bytes[place] ^= 1 << (byte % 8),
                2 => bytes[place] = bytes[place].wrapping_add(1),
                _ => bytes[place] = bytes[9 + usize::from(byte) % (bytes.len() - 9)],
            }
        }
        let mutated = IncomingChange { bytes: with_checksum(bytes), expected_actor: Some(BOB) };
        let applied = document.apply(vec![mutated, incoming(&next)]);
        prop_assert!(applied.outcomes.iter().any(Result::is_ok));
        let loaded = Document::load(&document.save()).map(|loaded| (loaded.view(), loaded.heads()));
        prop_assert_eq!(loaded, Ok((document.view(), document.heads())));
        put(&mut document, CAROL, json!({"text": "still editable"}));
    }
}

#[test]
fn a_change_out_of_place_is_refused_with_the_reason() {
    let (mut document, next) = document_and_next();
    let mut check = |bytes: Vec<u8>| refused(&mut document, bytes, Some(BOB));
    let start = next.header.start_op;
    let forged = forge(&next, |change| change.deps = vec![automerge::ChangeHash([7; 32])]);
    assert_eq!(check(forged), Rejected::MissingDependencies(vec![[7; 32]]));
    assert_eq!(check(forge(&next, |change| change.seq = 7)), Rejected::SequenceGap { expected: 2 });
    assert!(matches!(check(forge(&next, |change| change.seq = 1)), Rejected::Conflicts { .. }));
    assert!(matches!(check(forge(&next, |change| change.deps = vec![])), Rejected::ForgetsItsActor));
    for wrong in [1, start - 1, start + MAX_OPERATION_GAP + 1, MAX_OPERATION_COUNTER - 100] {
        let forged = forge(&next, |change| change.start_op = wrong.try_into().expect("not zero"));
        let rejected = check(forged);
        assert!(
            matches!(rejected, Rejected::WrongStart { expected } if expected == start),
            "start {wrong}: {rejected:?}"
        );
    }
    // A gap is legal, but here the change's own references point into it.
    let shifted = forge(&next, |change| change.start_op = (start + 1).try_into().expect("not zero"));
    assert_eq!(check(shifted), Rejected::UnknownReference);
    for wrong in [MAX_OPERATION_COUNTER, u64::from(u32::MAX), u64::from(u32::MAX) + 1, u64::MAX] {
        let forged = forge(&next, |change| change.start_op = wrong.try_into().expect("not zero"));
        assert!(matches!(check(forged), Rejected::Invalid(_)), "start {wrong}");
    }
    assert_eq!(refused(&mut document, next.bytes.clone(), Some(ALICE)), Rejected::WrongActor);
    assert_eq!(refused(&mut document, next.bytes.clone(), None), Rejected::ReservedActor);
    receive(&mut document, &[&next]);
}

#[test]
fn a_rival_for_a_held_sequence_names_the_change_that_is_held() {
    let (mut document, next) = document_and_next();
    let rival = forge(&next, |change| change.message = Some("another".into()));
    receive(&mut document, &[&next]);
    assert_eq!(refused(&mut document, rival.clone(), Some(BOB)), Rejected::Conflicts { existing: next.header.hash });
    // Within one batch the first wins, and a duplicate is no rival.
    let (mut document, next) = document_and_next();
    let rival = IncomingChange { bytes: rival, expected_actor: Some(BOB) };
    let applied = document.apply(vec![incoming(&next), rival, incoming(&next)]);
    assert_eq!(applied.outcomes[0], Ok(Received::New(next.header.clone())));
    assert_eq!(applied.outcomes[1], Err(Rejected::Conflicts { existing: next.header.hash }));
    assert_eq!(applied.outcomes[2], Ok(Received::Duplicate(next.header.clone())));
    assert_eq!(document.apply(vec![incoming(&next)]).outcomes, [Ok(Received::Duplicate(next.header))]);
}

#[test]
fn a_reference_outside_of_the_causal_past_is_refused_even_if_the_operation_is_held() {
    let (mut alice, mut bob) = two_replicas(json!({"a": 1}));
    let unseen = put(&mut alice, ALICE, json!({"a": 2}));
    let change = put(&mut bob, BOB, json!({"a": 3}));
    let alice_actor = ActorId::from(&ALICE[..]);
    let forged = forge(&change, |change| {
        let seen = automerge::legacy::OpId::new(unseen.header.start_op, &alice_actor);
        change.operations[0].pred = vec![seen].into();
    });
    // Whether or not Alice's concurrent change is there, and also together with it.
    assert_eq!(refused(&mut alice, forged.clone(), Some(BOB)), Rejected::UnknownReference);
    let (mut fresh, _) = two_replicas(json!({"a": 1}));
    assert_eq!(refused(&mut fresh, forged.clone(), Some(BOB)), Rejected::UnknownReference);
    let forged = IncomingChange { bytes: forged, expected_actor: Some(BOB) };
    let applied = fresh.apply(vec![incoming(&unseen), forged]);
    assert!(applied.outcomes[0].is_ok());
    assert_eq!(applied.outcomes[1], Err(Rejected::UnknownReference));
}

#[test]
fn a_bad_change_takes_only_its_dependents_out_of_a_batch() {
    let (document, next) = document_and_next();
    // An insertion behind an element of another object passes the rules, and makes Automerge panic.
    let forged = forge(&next, |change| {
        let text = change.operations[0].obj.clone();
        let operation = change.operations.iter_mut().find(|operation| operation.obj != text && operation.insert);
        let elsewhere = automerge::legacy::OpId::new(2, &ActorId::from(&ALICE[..]));
        operation.expect("the change inserts into a list").key =
            automerge::legacy::Key::Seq(automerge::legacy::ElementId::Id(elsewhere));
    });
    let forged_header = parse_change(&forged).expect("it is well-formed");
    let mut carol = document.clone();
    let good = put(&mut carol, CAROL, json!({"good": true}));
    let better = put(&mut carol, CAROL, json!({"good": "better"}));
    let dependent = forge(&better, |change| {
        change.actor_id = ActorId::from(&ALICE[..]);
        change.seq = 2;
        change.deps.push(automerge::ChangeHash(forged_header.hash));
        change.start_op = (forged_header.max_op().max(good.header.max_op()) + 1).try_into().expect("not zero");
        for operation in &mut change.operations {
            operation.pred = Vec::new().into();
        }
    });
    let mut target = document;
    let applied = target.apply(vec![
        IncomingChange { bytes: dependent, expected_actor: Some(ALICE) },
        IncomingChange { bytes: forged, expected_actor: Some(BOB) },
        incoming(&better),
        incoming(&good),
    ]);
    assert_eq!(applied.outcomes[0], Err(Rejected::MissingDependencies(vec![forged_header.hash])));
    assert!(
        matches!(applied.outcomes[1], Err(Rejected::Panicked | Rejected::Unusable(_))),
        "{:?}",
        applied.outcomes[1]
    );
    assert_eq!(applied.outcomes[2], Ok(Received::New(better.header.clone())));
    assert_eq!(applied.outcomes[3], Ok(Received::New(good.header)));
    assert_eq!(applied.heads, [better.header.hash]);
    assert_eq!(target.view(), json!({"good": "better"}));
}

#[test]
fn a_change_that_would_not_be_written_again_is_refused() {
    // A deletion of nothing: Automerge keeps deletions only as marks on what they delete.
    let (mut document, next) = document_and_next();
    let forged = forge(&next, |change| {
        let deletion = automerge::legacy::Op {
            action: automerge::legacy::OpType::Delete,
            obj: automerge::legacy::ObjectId::Root,
            key: automerge::legacy::Key::Map("absent".into()),
            pred: Vec::new().into(),
            insert: false,
        };
        change.operations.insert(0, deletion);
    });
    let rejected = refused(&mut document, forged, Some(BOB));
    assert!(
        matches!(rejected, Rejected::Unusable(_) | Rejected::Panicked | Rejected::UnknownReference),
        "{rejected:?}"
    );
}

#[test]
fn a_damaged_snapshot_is_an_error() {
    let (document, _) = document_and_next();
    let snapshot = document.save();
    assert_eq!(Document::load(&snapshot).map(|loaded| loaded.view()), Ok(document.view()));
    for bit in 0..snapshot.len() * 8 {
        let mut damaged = snapshot.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(Document::load(&damaged).is_err(), "bit {bit}");
    }
    assert!(Document::load(&snapshot[..snapshot.len() - 1]).is_err());
}

#[test]
fn another_programs_edit_of_an_old_version_is_accepted() {
    let mut foreign = AutoCommit::new().with_actor(ActorId::from(&[1_u8; 16][..]));
    foreign.put(ROOT, "a", 1).expect("storable");
    let old = foreign.get_heads();
    for number in 0..50 {
        foreign.put(ROOT, "a", number).expect("storable");
        foreign.commit();
    }
    foreign.isolate(&old);
    foreign.put(ROOT, "b", "from the past").expect("storable");
    foreign.integrate();
    let mut document = Document::new();
    let applied = document.apply(foreign_changes(&mut foreign));
    assert!(applied.outcomes.iter().all(Result::is_ok), "{applied:?}");
    assert_eq!(document.view(), json!({"a": 49, "b": "from the past"}));
    assert_eq!(foreign.length(ROOT), 2);
}

#[test]
fn a_splice_at_earlier_heads_is_concurrent_with_what_came_since() {
    let (here, there, third) = ([1; 20], [2; 20], [3; 20]);
    let mut document = Document::new();
    let first = document.edit(&here, &[splice("/text", 0, 0, "abcdef")], StringMode::Scalar).unwrap().unwrap();
    let mut other = Document::new();
    other.apply(vec![IncomingChange { bytes: first.bytes.clone(), expected_actor: Some(here) }]);
    let remote = other.edit(&there, &[splice("/text", 1, 2, "XY")], StringMode::Scalar).unwrap().unwrap();
    document.apply(vec![IncomingChange { bytes: remote.bytes, expected_actor: Some(there) }]);
    assert_eq!(document.view()["text"], "aXYdef");

    // As of the first change "d" stands at 3, and "bc" at 1 is not gone yet.
    let at = |heads: &[ChangeHash], index, delete, insert: &str| Edit::SpliceAt {
        path: "/text".parse().unwrap(),
        heads: heads.to_vec(),
        index,
        delete,
        insert: insert.to_owned(),
    };
    let seen = [first.header.hash];
    let beyond = document.edit(&third, &[at(&seen, 7, 0, "!")], StringMode::Scalar);
    assert!(matches!(beyond, Err(EditError::SpliceOutOfRange { length: 6, .. })));
    let edit = [at(&seen, 4, 0, "-"), at(&seen, 2, 2, "")];
    let change = document.edit(&third, &edit, StringMode::Scalar).unwrap().unwrap();
    assert_eq!(change.header.dependencies, seen);
    assert_eq!(document.view()["text"], "aXY-ef", "c was gone already, d goes");
    let applied = other.apply(vec![IncomingChange { bytes: change.bytes, expected_actor: Some(third) }]);
    assert!(applied.outcomes[0].is_ok(), "{:?}", applied.outcomes);
    assert_eq!(other.view(), document.view());

    let again = document.edit(&third, &[at(&seen, 0, 0, "!")], StringMode::Scalar);
    assert!(matches!(again, Err(EditError::HeadsMismatch)), "its own change is not covered");
    let unknown = document.edit(&here, &[at(&[[9; 32]], 0, 0, "!")], StringMode::Scalar);
    assert!(matches!(unknown, Err(EditError::UnknownHead { .. })));
    assert_eq!(document.view(), other.view(), "refused edits leave nothing behind");
}
