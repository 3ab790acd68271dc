//! Sequences of edits on several desks, held against plain JSON where one device writes, and against each other where
//! several do.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use syncline::documents::{Answer, DocumentError, Edit, Pointer, Step, StringMode};

use crate::desks::{Ledger, Replica, key};
use crate::script::Script;

/// Commands in one run.
const COMMANDS_MAX: usize = 32;
const STEPS_MAX: usize = 3;
const KEYS: [&str; 3] = ["a", "a/b", "c"];
const PATHS: [&str; 8] = ["/n", "/t", "/a/0", "/a/-", "/o/n", "/o/t", "", "/b/1/t"];

/// What the documents are, if only one device writes.
type Plain = BTreeMap<&'static str, Value>;

/// Two or three desks that edit, exchange operations, and start again.
///
/// Script: one byte for how many desks there are and which of them write, then commands as `command` reads them.
pub fn edits(bytes: &[u8]) -> bool {
    let mut script = Script::new(bytes);
    let flags = script.byte();
    let strings = if flags & 1 == 0 { StringMode::Scalar } else { StringMode::Text };
    let count = 2 + usize::from(flags >> 1 & 1);
    let alone = flags & 4 == 0;
    let ledger = Arc::new(Ledger::default());
    let small = |number: usize| flags >> (4 + number) & 1 == 1;
    let mut replicas: Vec<Replica> =
        (0..count).map(|number| Replica::new(number as u8 + 1, &ledger, strings, small(number))).collect();
    let mut plain = alone.then(Plain::new);
    for _ in 0..COMMANDS_MAX {
        if script.is_over() {
            break;
        }
        command(&mut script, &mut replicas, &mut plain);
    }
    while replicas.iter_mut().any(Replica::commit) {}
    let everything = ledger.everything();
    for (number, replica) in replicas.iter_mut().enumerate() {
        replica.deliver(&everything, number % 2 == 1);
    }
    let shown = replicas[0].shown();
    for replica in &mut replicas[1..] {
        assert_eq!(shown, replica.shown(), "all hold the same operations");
        replica.restart(true);
        assert_eq!(shown, replica.shown(), "made anew from the operations");
    }
    replicas[0].restart(false);
    assert_eq!(shown, replicas[0].shown(), "after a restart");
    if let Some(plain) = plain {
        compare(&mut replicas[1], &plain);
    }
    !shown.is_empty()
}

/// One command: who does it, what it is, and what that takes.
fn command(script: &mut Script<'_>, replicas: &mut [Replica], plain: &mut Option<Plain>) {
    let (control, count) = (script.byte(), replicas.len());
    let number = if plain.is_some() { 0 } else { usize::from(control >> 4) % count };
    match control & 15 {
        0..=7 => {
            let steps: Vec<Step> = (0..=script.below(STEPS_MAX)).map(|_| step(script)).collect();
            let result = replicas[number].write(steps.clone());
            if let Some(plain) = plain {
                judge(plain, &steps, result);
                compare(&mut replicas[0], plain);
            }
        }
        // Not durable yet: later edits are stacked on it, and reads wait. With an oracle it has to be.
        8 | 9 if plain.is_none() => drop(replicas[number].transact(vec![step(script)])),
        10 | 11 => {
            let from = script.below(count);
            while replicas[from].commit() {}
            let held = replicas[from].admitted.clone();
            replicas[usize::from(control >> 4) % count].deliver(&held, control & 1 == 1);
        }
        12 | 13 => {
            let (author, sequence) = (replicas[script.below(count)].device, u64::from(script.byte()));
            replicas[usize::from(control >> 4) % count].repeat(author, sequence);
        }
        14 => replicas[usize::from(control >> 4) % count].restart(script.byte() & 1 == 1),
        _ => drop(replicas[number].commit()),
    }
}

fn step(script: &mut Script<'_>) -> Step {
    let control = script.byte();
    let key = key(KEYS[usize::from(control >> 4) % KEYS.len()]);
    let mut path = || PATHS[script.below(PATHS.len())].parse::<Pointer>().expect("a pointer");
    let edit = match control & 15 {
        0..=2 => Edit::Put(script.object(3).into()),
        3..=5 => Edit::Merge(script.object(3).into()),
        6..=8 => {
            let path = path();
            Edit::Splice { path, index: script.below(8), delete: script.below(4), insert: script.text() }
        }
        9..=11 => {
            let path = path();
            let by = if script.byte() == 255 { i64::MAX } else { i64::from(script.byte()) - 100 };
            Edit::Increment { path, by }
        }
        12 => Edit::Resolve { path: path(), value: script.value(2) },
        _ => return Step::Delete { key },
    };
    Step::Edit { key, edit }
}

/// Holds the answer to a transaction against what plain JSON makes of its steps.
fn judge(plain: &mut Plain, steps: &[Step], result: Result<Answer, DocumentError>) {
    let mut after = plain.clone();
    let fault = (0..steps.len()).find(|number| make(&mut after, steps, *number).is_none());
    match (result, fault) {
        (Ok(Answer::Written(_)), None) => *plain = after,
        (Err(DocumentError::BadEdit { .. } | DocumentError::NotFound { .. }), Some(_)) => {}
        (result, fault) => panic!("{steps:?} on {plain:?}: the oracle says {fault:?}, the desk {result:?}"),
    }
}

/// Makes a step on plain JSON; none if it cannot be made.
fn make(plain: &mut Plain, steps: &[Step], number: usize) -> Option<()> {
    let step = &steps[number];
    let key = *KEYS.iter().find(|key| **key == step.key().as_str())?;
    let deletes = |step: &Step| matches!(step, Step::Delete { .. }) && step.key().as_str() == key;
    // What a later step deletes is never made, so nothing can be wrong with it.
    if steps[number + 1..].iter().any(deletes) {
        return Some(());
    }
    let Step::Edit { edit, .. } = step else {
        let first = steps.iter().position(deletes).unwrap_or(number);
        let begun = steps[..first].iter().any(|step| step.key().as_str() == key);
        return (plain.remove(key).is_some() || begun).then_some(());
    };
    // An edit of a document that does not exist begins it, be the edit empty or not.
    let mut document = plain.remove(key).unwrap_or_else(|| json!({}));
    match edit {
        Edit::Put(value) => document = value.clone(),
        Edit::Merge(patch) => merge(&mut document, patch),
        Edit::Splice { path, index, delete, insert } => {
            let place = place(&mut document, path)?;
            let characters: Vec<char> = match &place {
                Place::Free(..) | Place::End(_) => Vec::new(),
                Place::Held(Value::String(text)) => text.chars().collect(),
                Place::Held(_) => return None,
            };
            let kept = characters.get(..*index)?.iter().copied().chain(insert.chars());
            let text: String = kept.chain(characters.get(index + delete..)?.iter().copied()).collect();
            place.set(text.into());
        }
        Edit::Increment { path, by } => {
            let place = place(&mut document, path)?;
            let start = match &place {
                Place::Free(..) | Place::End(_) => 0,
                Place::Held(value) => value.as_i64()?,
            };
            place.set(start.checked_add(*by)?.into());
        }
        Edit::Resolve { path, value } => match place(&mut document, path)? {
            Place::Held(held) => *held = value.clone(),
            Place::Free(..) | Place::End(_) => return None,
        },
        Edit::SpliceAt { .. } => return None,
    }
    plain.insert(key, document);
    Some(())
}

/// RFC 7396.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else { return *target = patch.clone() };
    if !target.is_object() {
        *target = json!({});
    }
    let Some(target) = target.as_object_mut() else { return };
    for (field, value) in patch {
        if value.is_null() {
            target.remove(field);
        } else {
            merge(target.entry(field.clone()).or_insert(Value::Null), value);
        }
    }
}

/// The place that a path names.
enum Place<'a> {
    Held(&'a mut Value),
    Free(&'a mut Map<String, Value>, String),
    End(&'a mut Vec<Value>),
}

impl Place<'_> {
    fn set(self, value: Value) {
        match self {
            Self::Held(held) => *held = value,
            Self::Free(map, field) => drop(map.insert(field, value)),
            Self::End(list) => list.push(value),
        }
    }
}

fn place<'a>(document: &'a mut Value, path: &Pointer) -> Option<Place<'a>> {
    let text = path.to_string();
    let (parents, last) = text.rsplit_once('/')?;
    let parent = document.pointer_mut(parents)?;
    match parent {
        Value::Object(map) => {
            if map.contains_key(last) {
                return map.get_mut(last).map(Place::Held);
            }
            Some(Place::Free(map, last.to_owned()))
        }
        Value::Array(list) => {
            let index = if last == "-" { list.len() } else { last.parse().ok()? };
            if index == list.len() { Some(Place::End(list)) } else { list.get_mut(index).map(Place::Held) }
        }
        _ => None,
    }
}

/// Holds a desk against plain JSON.
fn compare(replica: &mut Replica, plain: &Plain) {
    assert_eq!(replica.keys(), plain.keys().copied().collect::<Vec<_>>());
    for (key, value) in plain {
        assert_eq!(replica.value(key).as_ref(), Some(value), "{key}");
    }
}
