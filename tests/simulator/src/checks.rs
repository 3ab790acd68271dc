//! What must hold: while it runs, after a device starts again, and once everything has healed.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use syncline_model::Role;
use syncline_sync::Replica;

use crate::happening::Happening;
use crate::ledger::{Fate, Shown, Tried};
use crate::world::{Violation, World};

/// Characters from which a value counts as large at the end.
const LARGE_CHARACTERS: usize = 900;

impl World {
    /// Remembers what a device now says to be durable; its own log must never have two operations at one place.
    pub(crate) fn remember_durable(&mut self, number: usize) {
        let id = self.surroundings.ids[number];
        let Some(running) = &self.devices[number].running else { return };
        let state = running.replica.core().state();
        let durable = state.vector();
        let known = self.ledger.durable.entry(number).or_default();
        if durable.operations() == known.operations() {
            return;
        }
        known.clone_from(durable);
        let log = self.ledger.logs.entry(number).or_default();
        let fresh: Vec<_> = (log.len() as u64 + 1..=durable.sequence(&id)).map(|at| state.prefix_at(&id, at)).collect();
        log.extend(fresh.into_iter().flatten());
        self.note(number, Happening::Appended, [0, 0], String::new);
    }

    /// A device that starts again holds all that it ever said to be durable.
    pub(crate) fn check_recovered(&mut self, number: usize) {
        let Some(running) = &self.devices[number].running else { return };
        let state = running.replica.core().state();
        let Some(before) = self.ledger.durable.get(&number) else { return };
        let mut lost = Vec::new();
        for (author, entry) in before.iter() {
            if state.prefix_at(author, entry.sequence) != Some(entry.id.prefix()) {
                let held = state.vector().sequence(author);
                let author = self.surroundings.number(author);
                lost.push(format!("operation {} of #{author:?} (held: {held})", entry.sequence));
            }
        }
        let log = self.ledger.logs.get(&number).into_iter().flatten();
        for (at, id) in (1..).zip(log) {
            if state.prefix_at(&self.surroundings.ids[number], at) != Some(*id) {
                lost.push(format!("its own operation {at}"));
            }
        }
        let operations = state.vector().operations();
        if !lost.is_empty() {
            return self.violate(format!("#{number} lost what was durable when it stopped: {}", lost.join(", ")));
        }
        if operations > 0 {
            self.note(number, Happening::Recovered, [operations, 0], || format!("{operations} operations"));
        }
    }

    /// What keeps the devices from agreeing; none when they do.
    pub(crate) fn disagreement(&self) -> Option<String> {
        let mut first = None;
        for (number, device) in self.devices.iter().enumerate() {
            let Some(running) = &device.running else { return Some(format!("#{number} does not run")) };
            let state = running.replica.core().state();
            if state.role() != Some(self.plan().roles[number]) {
                return Some(format!("#{number} knows itself as {:?}", state.role()));
            }
            let (vector, admission) = (state.vector(), state.admission());
            if let Some((author, (sequence, refusal))) = admission.refused().first_key_value() {
                let author = self.surroundings.number(author);
                return Some(format!("#{number} does not count #{author:?} from {sequence} on: {refusal}"));
            }
            let waiting = admission.waiting_operations();
            if waiting > 0 || admission.admitted().operations() != vector.operations() {
                return Some(format!("{waiting} operations wait at #{number} for {:?}", admission.wanted()));
            }
            let (other, expected) = *first.get_or_insert((number, vector));
            if expected != vector {
                let ahead = |one: &syncline_model::VersionVector| {
                    let sequences = self.surroundings.ids.iter().map(|id| one.sequence(id));
                    sequences.collect::<Vec<_>>()
                };
                return Some(format!("#{other} holds {:?}, #{number} {:?}", ahead(expected), ahead(vector)));
            }
        }
        let open = self.ledger.open_questions();
        (open > 0).then(|| format!("{open} transactions or questions are open"))
    }

    /// Asks all devices for all documents and compares.
    pub(crate) fn look_at_documents(&mut self) -> Result<(), Violation> {
        self.ledger.shown.clear();
        for device in 0..self.devices.len() {
            self.ask_everything(device);
        }
        self.run_until_answered()?;
        let shown = std::mem::take(&mut self.ledger.shown);
        let mut first: Option<(usize, &Shown)> = None;
        for (number, one) in &shown {
            let role = self.plan().roles[*number];
            if role == Role::Relay {
                self.check_relay(*number, one)?;
                continue;
            }
            self.check_reader(*number, one)?;
            let (other, expected) = *first.get_or_insert((*number, one));
            if expected != one {
                return Err(Violation(difference(other, expected, *number, one)));
            }
        }
        self.ledger.shown = shown;
        Ok(())
    }

    fn check_relay(&self, number: usize, shown: &Shown) -> Result<(), Violation> {
        let keys =
            self.devices[number].running.as_ref().map(|running| running.replica.core().state().keys().content.len());
        if keys != Some(0) {
            return Err(Violation(format!("the relay #{number} holds content keys")));
        }
        if !shown.documents.is_empty() {
            return Err(Violation(format!("the relay #{number} shows documents")));
        }
        Ok(())
    }

    fn check_reader(&self, number: usize, shown: &Shown) -> Result<(), Violation> {
        let unreadable = self.devices[number].running.as_ref().map_or(0, |running| running.replica.core().unreadable());
        if unreadable > 0 {
            return Err(Violation(format!("#{number} cannot open {unreadable} operations")));
        }
        let conflicts = shown.conflicts.iter().flat_map(|page| &page.documents);
        match conflicts.flat_map(|document| &document.blocked).next() {
            Some(blocked) => {
                Err(Violation(format!("#{number} blocks a change of an honest device: {}", blocked.reason)))
            }
            None => Ok(()),
        }
    }

    /// What was acknowledged is there, what was refused is not, and the rest is there as a whole or not at all.
    pub(crate) fn check_outcome(&mut self) -> Result<(), Violation> {
        let Some((_, shown)) = self.ledger.shown.first_key_value() else {
            return Err(Violation("nobody shows any documents".to_owned()));
        };
        let documents = shown.documents.clone();
        let places = shown.conflicts.iter().flat_map(|page| &page.documents).map(|document| document.places.len());
        self.trace.count(Happening::CheckedPlaces, places.sum::<usize>() as u64);
        for device in &self.devices {
            let counters = device.running.as_ref().map(|running| *running.replica.core().engine().counters());
            self.trace.count(Happening::PulledPages, counters.map_or(0, |counters| counters.pages_received));
        }
        for tried in self.ledger.tried.values().cloned().collect::<Vec<_>>() {
            self.check_held(&tried)?;
            self.check_own(&tried, &documents)?;
        }
        for (name, devices) in &self.ledger.seen {
            if !documents.contains_key(name) && !self.ledger.condemned.contains(name) {
                return Err(Violation(format!("{name} was seen at {devices:?} and is gone")));
            }
        }
        for name in self.ledger.counters.keys().cloned().collect::<Vec<_>>() {
            self.check_counter(&name, documents.get(&name))?;
        }
        let mut text = String::new();
        for (name, value) in &documents {
            text.push_str(&format!("{name}={value}\n"));
        }
        self.trace.hash(text.as_bytes());
        Ok(())
    }

    /// An acknowledged operation is held by everybody; the vectors are equal, so one device speaks for all.
    fn check_held(&self, tried: &Tried) -> Result<(), Violation> {
        let (Fate::Acknowledged, Some(sequence)) = (tried.fate, tried.sequence) else { return Ok(()) };
        let author = self.surroundings.ids[tried.device];
        let expected = self.ledger.logs.get(&tried.device).and_then(|log| log.get(sequence as usize - 1)).copied();
        for (number, device) in self.devices.iter().enumerate() {
            let state = device.running.as_ref().map(|running| running.replica.core().state());
            let held = state.and_then(|state| state.prefix_at(&author, sequence));
            let admitted = state.map_or(0, |state| state.admission().admitted().sequence(&author));
            if held != expected || expected.is_none() || admitted < sequence {
                let device = tried.device;
                return Err(Violation(format!(
                    "operation {sequence} of #{device} was acknowledged and #{number} lacks it"
                )));
            }
        }
        Ok(())
    }

    fn check_own(&mut self, tried: &Tried, documents: &BTreeMap<String, Value>) -> Result<(), Violation> {
        let mut found = BTreeSet::new();
        for (name, value) in &tried.puts {
            if self.ledger.condemned.contains(name) {
                continue;
            }
            found.insert(documents.contains_key(name));
            match (tried.fate, documents.get(name)) {
                (_, Some(other)) if other != value => {
                    return Err(Violation(format!("{name} has another value than was written")));
                }
                (Fate::Acknowledged, None) => return Err(Violation(format!("{name} was acknowledged and is gone"))),
                (Fate::Refused, Some(_)) => return Err(Violation(format!("{name} was refused and is there"))),
                (_, Some(value)) if value["text"].as_str().is_some_and(|text| text.len() > LARGE_CHARACTERS) => {
                    self.trace.count(Happening::CheckedLarge, 1);
                }
                _ => {}
            }
        }
        if found.len() > 1 {
            return Err(Violation(format!("of {:?} only a part is there", tried.puts)));
        }
        if let (Fate::Unanswered, Some(kept)) = (tried.fate, found.first()) {
            let happening = if *kept { Happening::UnansweredKept } else { Happening::UnansweredGone };
            self.trace.count(happening, 1);
        }
        for name in &tried.deletes {
            match (tried.fate, documents.contains_key(name)) {
                (Fate::Acknowledged, true) => {
                    return Err(Violation(format!("the deletion of {name} was acknowledged and it is there")));
                }
                (Fate::Refused, false) => {
                    return Err(Violation(format!("the deletion of {name} was refused and it is gone")));
                }
                (Fate::Acknowledged, false) => self.trace.count(Happening::CheckedDeleted, 1),
                _ => {}
            }
        }
        self.trace.count(Happening::Unanswered, u64::from(tried.fate == Fate::Unanswered));
        Ok(())
    }

    /// A counter holds at least what was acknowledged and at most what was asked for.
    fn check_counter(&mut self, name: &str, document: Option<&Value>) -> Result<(), Violation> {
        let (mut least, mut most, mut devices) = (0, 0, BTreeSet::new());
        for tried in self.ledger.tried.values() {
            let Some((_, by)) = tried.adds.as_ref().filter(|(counter, _)| counter == name) else { continue };
            match tried.fate {
                Fate::Acknowledged => {
                    (least, most) = (least + by, most + by);
                    devices.insert(tried.device);
                }
                Fate::Unanswered => most += by,
                Fate::Refused | Fate::Open => {}
            }
        }
        let value = document.and_then(|document| document["count"].as_u64());
        if value.is_none_or(|value| value < least || value > most) {
            return Err(Violation(format!("{name} is {value:?}, which is not between {least} and {most}")));
        }
        self.trace.count(Happening::CheckedCounters, u64::from(devices.len() > 1));
        Ok(())
    }
}

/// The first thing in which two devices differ, for a person.
fn difference(number: usize, one: &Shown, other_number: usize, other: &Shown) -> String {
    let names: BTreeSet<&String> = one.documents.keys().chain(other.documents.keys()).collect();
    for name in names {
        let (here, there) = (one.documents.get(name), other.documents.get(name));
        if here != there {
            return format!("{name} is {here:?} at #{number} and {there:?} at #{other_number}");
        }
    }
    if one.heads != other.heads {
        return format!("the heads of documents at #{number} and #{other_number} differ");
    }
    format!("conflicts are {:?} at #{number} and {:?} at #{other_number}", one.conflicts, other.conflicts)
}
