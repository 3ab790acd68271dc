//! Automerge changes of strangers: to a document, and to desks that a hostile member's operations reach.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;
use sha2::{Digest, Sha256};
use syncline::documents::{Document, Edit, IncomingChange, Received, Step, StringMode, parse_change};
use syncline_model::{Action, Entry, Lineage, Past, Transaction};

use crate::desks::{Ledger, Replica, SPACE, device, key};
use crate::script::Script;

/// Changes in one batch.
const CHANGES_MAX: usize = 16;
/// Operations of strangers in one run.
const OPERATIONS_MAX: usize = 24;
/// Strangers, who write what they like.
const STRANGERS: usize = 3;
const KEYS: [&str; 2] = ["first", "second"];

/// The actor of a stranger's changes.
pub fn stranger(number: usize) -> [u8; 20] {
    Lineage([0; 16]).actor(&SPACE, &device(number as u8))
}

/// An Automerge change chunk around a body, with a checksum that holds: guessing it would take a fuzzer for ever.
///
/// Chunk = magic (4) ‖ SHA-256 of the rest (4) ‖ type (1 for a change) ‖ length in LEB128 ‖ body.
pub fn chunk(body: &[u8]) -> Vec<u8> {
    let mut rest = vec![1];
    let mut length = body.len();
    while length > 0x7f {
        rest.push(length as u8 | 0x80);
        length >>= 7;
    }
    rest.push(length as u8);
    rest.extend_from_slice(body);
    let checksum = Sha256::digest(&rest);
    [&[0x85, 0x6f, 0x4a, 0x83], &checksum[..4], &rest].concat()
}

/// The body of a change chunk.
pub fn body(chunk: &[u8]) -> &[u8] {
    let after_type = &chunk[9..];
    let length = after_type.iter().take_while(|byte| **byte & 0x80 != 0).count() + 1;
    &after_type[length..]
}

/// A document that the changes of seeds build on.
pub fn base() -> Document {
    let mut document = Document::new();
    let value = json!({"n": 1, "t": "text", "a": [1, "two", [3]], "o": {"b": true, "n": null}});
    let edits: [&[Edit]; 2] = [
        &[Edit::Put(value)],
        &[
            Edit::Increment { path: "/n".parse().expect("a pointer"), by: 2 },
            Edit::Splice { path: "/t".parse().expect("a pointer"), index: 2, delete: 1, insert: "🦀".to_owned() },
        ],
    ];
    for edits in edits {
        document.edit(&stranger(0), edits, StringMode::Scalar).expect("these edits can be made");
    }
    document
}

/// Changes that arrive at a document: whatever they are, the document can be read, saved and loaded, and the same
/// changes one by one make the same document.
///
/// Script: whether the document has content, then bodies of changes.
pub fn change(bytes: &[u8]) -> bool {
    let mut script = Script::new(bytes);
    let with_base = script.byte() % 2 == 1;
    let before = || if with_base { base() } else { Document::new() };
    let mut incoming = Vec::new();
    while !script.is_over() && incoming.len() < CHANGES_MAX {
        let bytes = chunk(script.bytes());
        let parsed = parse_change(&bytes);
        let expected_actor = parsed.ok().and_then(|header| header.actor.try_into().ok());
        incoming.push(IncomingChange { bytes, expected_actor });
    }
    let mut together = before();
    let applied = together.apply(incoming.clone());
    assert_eq!(applied.outcomes.len(), incoming.len());
    assert_eq!(applied.heads, together.heads());
    readable(&together);

    let mut one_by_one = before();
    let mut accepted = false;
    // What a batch refuses as a whole is not refused one by one, and what comes too early is offered again.
    for _ in 0..incoming.len() {
        for change in &incoming {
            let applied = one_by_one.apply(vec![change.clone()]);
            accepted |= matches!(applied.outcomes[0], Ok(Received::New(_)));
        }
    }
    readable(&one_by_one);
    if applied.outcomes.iter().all(Result::is_ok) {
        assert_eq!((together.heads(), together.view()), (one_by_one.heads(), one_by_one.view()));
    }
    accepted
}

fn readable(document: &Document) {
    assert!(!document.has_failed());
    let value = document.view();
    let loaded = Document::load(&document.save()).expect("what was saved can be loaded");
    assert_eq!((loaded.heads(), loaded.view()), (document.heads(), value));
}

/// Operations of hostile members that reach two desks in two causal orders: both show the same, can go on editing, and
/// show it again after a restart.
///
/// Script: one byte for the desks, then operations of entries as `entry` reads them.
pub fn hostile_changes(bytes: &[u8]) -> bool {
    let mut script = Script::new(bytes);
    let ledger = Arc::new(Ledger::default());
    let flags = script.byte();
    let strings = if flags & 1 == 0 { StringMode::Scalar } else { StringMode::Text };
    let mut one = Replica::new(0x80, &ledger, strings, flags & 2 != 0);
    let mut other = Replica::new(0x81, &ledger, strings, flags & 4 != 0);
    let mut written = false;
    for number in 0..OPERATIONS_MAX {
        if script.is_over() {
            break;
        }
        let control = script.byte();
        if control & 0xc0 == 0xc0 {
            // An honest member goes on with what it sees.
            let everything = ledger.everything();
            one.deliver(&everything, control & 1 != 0);
            let edit = Edit::Merge(json!({"honest": number}));
            one.write(vec![Step::Edit { key: key(KEYS[0]), edit }]).expect("an honest edit can be made");
            continue;
        }
        let author = device((control & 3) % STRANGERS as u8);
        let sees_everything = control & 4 != 0;
        let entries = (0..=usize::from(control >> 3 & 3)).filter_map(|_| entry(&mut script));
        let transaction = Transaction { wall_time_ms: 1, lineage: Lineage([0; 16]), entries: entries.collect() };
        if transaction.check().is_err() {
            continue;
        }
        written |= !transaction.entries.is_empty();
        let past = if sees_everything { ledger.everything() } else { own_past(&ledger, author) };
        ledger.write(author, transaction, past);
    }
    let everything = ledger.everything();
    one.deliver(&everything, false);
    other.deliver(&everything, true);
    let shown = one.shown();
    assert_eq!(shown, other.shown(), "two causal orders");
    one.restart(false);
    assert_eq!(shown, one.shown(), "after a restart");
    other.restart(true);
    assert_eq!(shown, other.shown(), "made anew from the operations");
    written && !shown.is_empty()
}

/// The causal past of an author who has looked at nothing since its last operation.
fn own_past(ledger: &Ledger, author: syncline_model::DeviceId) -> Past {
    ledger.past(author, ledger.head(author)).unwrap_or_default()
}

/// One entry: the document and the kind in a byte, then the body of a change.
fn entry(script: &mut Script<'_>) -> Option<Entry> {
    if script.is_over() {
        return None;
    }
    let control = script.byte();
    let action = match control >> 1 & 7 {
        0..=3 => Action::Change(chunk(script.bytes())),
        4 | 5 => Action::ForeignChange(chunk(script.bytes())),
        6 => Action::Delete,
        // Not even the header of a chunk.
        _ => Action::Change(script.bytes().to_vec()),
    };
    Some(Entry { key: key(KEYS[usize::from(control & 1)]), action })
}

/// Changes of each stranger for seeds, by document: some build on others, two claim one place.
pub fn seeds() -> BTreeMap<&'static str, Vec<Vec<u8>>> {
    let mut seeds = BTreeMap::new();
    for (number, name) in ["honest", "rival"].into_iter().enumerate() {
        let (mut document, mut changes) = (Document::new(), Vec::new());
        for step in 0..4 {
            let path = || "/t".parse().expect("a pointer");
            let edit = match step {
                0 => Edit::Put(json!({"n": number, "t": name, "a": [1, {"b": 2}]})),
                1 => Edit::Splice { path: path(), index: 1, delete: 2, insert: "é漢".to_owned() },
                2 => Edit::Increment { path: "/n".parse().expect("a pointer"), by: 7 },
                _ => Edit::Merge(json!({"a": [1, 2, 3], "t": null, "o": {"x": 1.5, "y": false}})),
            };
            let actor = stranger(step % 2);
            let change = document.edit(&actor, &[edit], StringMode::Scalar).expect("these edits can be made");
            changes.extend(change.map(|change| body(&change.bytes).to_vec()));
        }
        seeds.insert(name, changes);
    }
    let (mut document, mut changes) = (base(), Vec::new());
    for actor in [stranger(0), stranger(1)] {
        let edits = [
            Edit::Merge(json!({"a": [0, 1, "two"], "o": {"b": null}})),
            Edit::Resolve { path: "/t".parse().expect("a pointer"), value: json!("resolved") },
        ];
        let change = document.edit(&actor, &edits, StringMode::Text).expect("these edits can be made");
        changes.extend(change.map(|change| body(&change.bytes).to_vec()));
    }
    seeds.insert("base", changes);
    seeds
}
