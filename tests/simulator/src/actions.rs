//! What people do at their devices: what they write and read.

use serde_json::{Value, json};
use syncline::documents::{ConflictScope, Edit, Pointer, Query, Step};
use syncline::space::WriteError;
use syncline_model::{DeviceKey, DocumentKey, Role, Strings, Ticket};

use crate::happening::Happening;
use crate::ledger::{About, Fate, Question, Refusal, Tried};
use crate::message::SpaceInput;
use crate::plan::{ActionKind, LARGE_BULK_WRITES, SECOND_US};
use crate::random::Choices;
use crate::texts::TextEdit;
use crate::world::{Violation, World};

/// Documents that everybody writes.
pub(crate) const SHARED_DOCUMENTS: u64 = 4;
/// Documents that have many changes.
const LONG_DOCUMENTS: u64 = 2;
/// Documents with a counter that everybody adds to.
const COUNTERS: u64 = 2;
/// Documents that one bulk of writing concerns.
const BULK_DOCUMENTS: u64 = 400;
/// Transactions that wait for their answer; who wants more waits, as a node makes its callers do.
const OPEN_MAX: usize = 4000;
/// How long founding and inviting may take.
const FOUNDING_US_MAX: u64 = 30 * SECOND_US;
/// Documents on one page of a list, at the end.
const LIST_PAGE: usize = 200;
/// Characters of a large value; documents of that size are worked on elsewhere.
const LARGE_CHARACTERS: u64 = 300_000;
/// When tickets expire: clocks that are wrong by years must not matter here.
const EXPIRES_MS: u64 = 1 << 50;

pub(crate) fn key(text: &str) -> DocumentKey {
    text.parse().expect("the keys of the simulator are well-formed")
}

fn pointer(text: &str) -> Pointer {
    text.parse().expect("the paths of the simulator are well-formed")
}

/// The name of the text that only this device writes.
pub(crate) fn text_of(device: usize) -> String {
    format!("text/{device}")
}

/// One person at one device in one space, for the length of one action.
struct Turn<'a> {
    device: usize,
    space: usize,
    refusal: Refusal,
    choices: &'a mut Choices,
}

impl World {
    /// The stewards found the spaces, make the counters, and invite the others.
    pub(crate) fn found(&mut self) -> Result<(), Violation> {
        for space in 0..self.ledgers.len() {
            let steward = self.plan().spaces[space].steward;
            self.devices[steward].spaces.insert(space, None);
        }
        let founds = |world: &Self, device: usize| !world.devices[device].spaces.is_empty();
        for device in (0..self.devices.len()).filter(|device| founds(self, *device)).collect::<Vec<_>>() {
            self.start(device);
        }
        for space in 0..self.ledgers.len() {
            let steward = self.plan().spaces[space].steward;
            for number in 0..COUNTERS {
                let name = format!("counter/{number}");
                let tried = self.tried(steward, Refusal::Never, |tried| tried.adds = Some((name.clone(), 1)));
                let token = self.write(steward, space, vec![increment(&name, 1)], tried);
                self.ledgers[space].counters.insert(name, Some(token));
            }
            self.invite(space);
        }
        let is_missing = |world: &Self, space: usize| {
            let ledger = &world.ledgers[space];
            ledger.tickets.len() + 1 < world.plan().spaces[space].members.len() || ledger.open_questions() > 0
        };
        while (0..self.ledgers.len()).any(|space| is_missing(self, space)) {
            if self.now_us > FOUNDING_US_MAX {
                return Err(Violation("the spaces were not founded in time".to_owned()));
            }
            self.run_until(self.now_us + SECOND_US / 10)?;
        }
        for ledger in &mut self.ledgers {
            for token in ledger.counters.values_mut() {
                *token = token.and_then(|token| ledger.tried[&token].sequence);
            }
        }
        Ok(())
    }

    fn invite(&mut self, space: usize) {
        let surroundings = self.surroundings.clone();
        let plan = &surroundings.plan.spaces[space];
        let joining: Vec<usize> = plan.members.keys().copied().filter(|device| *device != plan.steward).collect();
        let groups: Vec<Vec<usize>> = if plan.own_tickets {
            joining.iter().map(|device| vec![*device]).collect()
        } else {
            let of_role =
                |role: &Role| joining.iter().copied().filter(|device| plan.role(*device) == Some(*role)).collect();
            let groups = [Role::Writer, Role::Reader, Role::Relay].iter().map(of_role);
            groups.filter(|group: &Vec<usize>| !group.is_empty()).collect()
        };
        for group in groups {
            let role = plan.role(group[0]).expect("only members are invited");
            let (token, uses) = (self.number(), group.len() as u32);
            self.ledgers[space].invitations.insert(token, group);
            self.tell_space(plan.steward, space, SpaceInput::Invite { token, role, uses, expires_ms: EXPIRES_MS });
        }
    }

    pub(crate) fn invited(&mut self, space: usize, token: u64, outcome: Result<DeviceKey, WriteError>) {
        let key = match outcome {
            Ok(key) => key,
            Err(error) => return self.violate(format!("the steward cannot invite: {error}")),
        };
        let surroundings = self.surroundings.clone();
        let (plan, facts) = (&surroundings.plan.spaces[space], &surroundings.spaces[space]);
        for device in self.ledgers[space].invitations.remove(&token).unwrap_or_default() {
            let role = plan.role(device).expect("only members are invited");
            let ticket = Ticket::new(facts.id, "simulated", role, EXPIRES_MS, &key, facts.founder, Vec::new());
            self.note(plan.steward, Happening::Invited, [device as u64, space as u64], || {
                format!("#{device} as {} of space {space}", role.name())
            });
            self.ledgers[space].tickets.insert(device, ticket);
        }
    }

    /// Somebody does something of the plan.
    pub(crate) fn act(&mut self, place: usize) {
        let surroundings = self.surroundings.clone();
        let action = &surroundings.plan.actions[place];
        let (device, space) = (action.device, action.space);
        let mut choices = Choices::new(surroundings.plan.seed, "action", action.index);
        let hosts = self.devices[device].running.as_ref().is_some_and(|running| running.hosted.contains_key(&space));
        if self.healed || !(hosts || matches!(action.kind, ActionKind::TakeOver(_))) {
            return;
        }
        let refusal = self.refusal(device, space);
        // Who may not write tries it now and then.
        let may_write = refusal == Refusal::Never || choices.chance(30);
        let turn = &mut Turn { device, space, refusal, choices: &mut choices };
        match action.kind {
            ActionKind::Rotate => self.rotate(space),
            ActionKind::Remove(target) => self.remove(space, target, turn.choices),
            ActionKind::Demote(target) => self.demote(space, target, turn.choices),
            ActionKind::HandOver(target) => self.hand_over(space, target),
            ActionKind::TakeOver(taker) => self.take_over(space, taker, turn.choices),
            ActionKind::Watch => self.open_stream(device, space, turn.choices),
            ActionKind::ReadOwnWrite => self.read_own_write(turn),
            ActionKind::Read => self.read(turn),
            _ if !may_write => self.read(turn),
            ActionKind::WriteOwn => self.write_own(turn),
            ActionKind::WriteShared => self.write_shared(turn),
            ActionKind::WritePair => self.write_pair(turn),
            ActionKind::Add => self.add(turn),
            ActionKind::Burst => {
                for _ in 0..turn.choices.between(3, 12) {
                    if turn.choices.chance(50) {
                        self.write_own(turn);
                    } else {
                        self.write_shared(turn);
                    }
                }
            }
            ActionKind::Revise => self.revise(turn),
            ActionKind::DeleteOwn => self.delete_own(turn),
            ActionKind::Splice => {
                for _ in 0..turn.choices.between(1, 5) {
                    self.splice(turn);
                }
            }
            ActionKind::Bulk => self.write_bulk(turn),
            ActionKind::Fill(count) => self.write_small(turn, count),
        }
    }

    /// Somebody writes at a device of which a stop was prepared, so that it is stopped while it writes.
    pub(crate) fn write_before_stop(&mut self, device: usize, choices: &mut Choices) {
        let Some(running) = &self.devices[device].running else { return };
        let spaces: Vec<usize> = running.hosted.keys().copied().collect();
        spaces.into_iter().for_each(|space| self.write_some(device, space, choices));
    }

    /// Somebody who may write does so, and adds to what others write too.
    pub(crate) fn write_some(&mut self, device: usize, space: usize, choices: &mut Choices) {
        let refusal = self.refusal(device, space);
        if refusal == Refusal::Never && !self.plan().lies(device) {
            let turn = &mut Turn { device, space, refusal, choices };
            self.write_own(turn);
            self.write_pair(turn);
            self.splice(turn);
            if turn.choices.chance(50) {
                self.write_shared(turn);
                self.add(turn);
                self.delete_own(turn);
            }
        }
    }

    /// Whether what a device writes now may be refused.
    fn refusal(&self, device: usize, space: usize) -> Refusal {
        let hosted = self.devices[device].running.as_ref().and_then(|running| running.hosted.get(&space));
        let role = hosted.and_then(|hosted| hosted.replica.core().state().role());
        if self.knows_itself_cut(device, space) {
            return Refusal::Lost;
        }
        match (self.plan().spaces[space].role(device).is_some_and(Role::writes), role) {
            (false, _) => Refusal::Always,
            (true, None) => Refusal::Stranger,
            (true, Some(_)) => Refusal::Never,
        }
    }

    fn tried(&self, device: usize, refusal: Refusal, describe: impl FnOnce(&mut Tried)) -> Tried {
        let (puts, deletes) = (Vec::new(), Vec::new());
        let mut tried =
            Tried { device, fate: Fate::Open, puts, deletes, adds: None, is_text: false, refusal, sequence: None };
        describe(&mut tried);
        tried
    }

    /// Asks for a transaction.
    fn write(&mut self, device: usize, space: usize, steps: Vec<Step>, tried: Tried) -> u64 {
        let token = self.number();
        self.write_as(token, device, space, steps, tried);
        token
    }

    fn write_as(&mut self, token: u64, device: usize, space: usize, steps: Vec<Step>, tried: Tried) {
        let refusal = tried.refusal;
        let ledger = &mut self.ledgers[space];
        for (name, _) in &tried.puts {
            ledger.puts.insert(name.clone(), token);
            ledger.own.entry(device).or_default().push(name.clone());
        }
        ledger.condemned.extend(tried.deletes.iter().cloned());
        ledger.tried.insert(token, tried);
        ledger.open.insert(token, device);
        self.note(device, Happening::Wrote, [token, steps.len() as u64], || {
            let keys: Vec<&str> = steps.iter().map(|step| step.key().as_str()).collect();
            format!("{token} {keys:?} in space {space}, refusal {refusal:?}")
        });
        self.tell_space(device, space, SpaceInput::Transact { token, steps });
    }

    fn write_own(&mut self, turn: &mut Turn<'_>) {
        let number = self.number();
        // As collaborative text each character is an operation of its own, which takes too long for large ones.
        let is_text = self.plan().spaces[turn.space].strings == Strings::Text;
        let (longest, large) = (if is_text { 2000 } else { 60_000 }, self.plan().large_values && !is_text);
        let characters = match turn.choices.below(20) {
            0..4 if large => LARGE_CHARACTERS,
            4 | 5 => turn.choices.between(1000, longest),
            _ => 10,
        };
        let name = format!("once/{number}");
        let value = json!({ "by": turn.device, "number": number, "text": hexadecimal(turn.choices, characters) });
        let steps = if turn.choices.chance(10) {
            let (before, path) = (json!({ "by": turn.device, "number": 0, "text": value["text"] }), pointer("/number"));
            let edit = Edit::Resolve { path, value: json!(number) };
            vec![put(&name, &before), Step::Edit { key: key(&name), edit }]
        } else {
            vec![put(&name, &value)]
        };
        let tried = self.tried(turn.device, turn.refusal, |tried| tried.puts = vec![(name, value)]);
        self.write(turn.device, turn.space, steps, tried);
    }

    fn write_pair(&mut self, turn: &mut Turn<'_>) {
        let number = self.number();
        let names = [format!("pair/{number}/a"), format!("pair/{number}/b")];
        let value = json!({ "number": number });
        let steps = names.iter().map(|name| put(name, &value)).collect();
        let puts = names.into_iter().map(|name| (name, value.clone())).collect();
        let tried = self.tried(turn.device, turn.refusal, |tried| tried.puts = puts);
        self.write(turn.device, turn.space, steps, tried);
    }

    /// Writes many small things, as a program does.
    fn write_bulk(&mut self, turn: &mut Turn<'_>) {
        let refusal = if turn.refusal == Refusal::Never { Refusal::Misfit } else { turn.refusal };
        if self.ledgers[turn.space].open.len() > OPEN_MAX {
            return;
        }
        for number in 0..LARGE_BULK_WRITES {
            if number % 30 == 0 {
                self.write_own(turn);
                continue;
            }
            let name = format!("bulk/{}/{}", turn.device, turn.choices.below(BULK_DOCUMENTS));
            let field = format!("field {}", turn.choices.below(6));
            let steps = vec![Step::Edit { key: key(&name), edit: Edit::Merge(json!({ field: number })) }];
            let tried = self.tried(turn.device, refusal, |_| {});
            self.write(turn.device, turn.space, steps, tried);
        }
    }

    /// Writes so many small documents that nobody else writes.
    fn write_small(&mut self, turn: &Turn<'_>, count: u64) {
        for _ in 0..count {
            let number = self.number();
            let (name, value) = (format!("once/{number}"), json!({ "by": turn.device, "number": number }));
            let steps = vec![put(&name, &value)];
            let tried = self.tried(turn.device, turn.refusal, |tried| tried.puts = vec![(name, value)]);
            self.write(turn.device, turn.space, steps, tried);
        }
    }

    /// Writes a document that everybody writes.
    fn write_shared(&mut self, turn: &mut Turn<'_>) {
        let refusal = if turn.refusal == Refusal::Never { Refusal::Misfit } else { turn.refusal };
        let count = turn.choices.pick(&[1, 1, 1, 2, 3]);
        let steps = (0..count).map(|_| shared_step(turn.choices)).collect();
        let tried = self.tried(turn.device, refusal, |_| {});
        self.write(turn.device, turn.space, steps, tried);
    }

    /// Writes one document many times, now and then beginning anew.
    fn revise(&mut self, turn: &mut Turn<'_>) {
        let refusal = if turn.refusal == Refusal::Never { Refusal::Misfit } else { turn.refusal };
        let key = key(&format!("long/{}", turn.choices.below(LONG_DOCUMENTS)));
        if turn.choices.chance(40) {
            let tried = self.tried(turn.device, refusal, |_| {});
            self.write(turn.device, turn.space, vec![Step::Delete { key: key.clone() }], tried);
        }
        for _ in 0..turn.choices.between(10, 24) {
            let (field, number) = (format!("field {}", turn.choices.below(4)), turn.choices.below(1000));
            let step = Step::Edit { key: key.clone(), edit: Edit::Merge(json!({ field: number })) };
            let tried = self.tried(turn.device, refusal, |_| {});
            self.write(turn.device, turn.space, vec![step], tried);
        }
    }

    /// Adds to a counter, if it is there already: two that begin apart are two counters.
    fn add(&mut self, turn: &mut Turn<'_>) {
        let (name, by) = (format!("counter/{}", turn.choices.below(COUNTERS)), turn.choices.between(1, 9));
        let founder = self.surroundings.spaces[turn.space].founder;
        let hosted = self.devices[turn.device].running.as_ref().and_then(|running| running.hosted.get(&turn.space));
        let Some(hosted) = hosted else { return };
        let admitted = hosted.replica.core().state().admission().admitted().sequence(&founder);
        let made = self.ledgers[turn.space].counters.get(&name).copied().flatten();
        if made.is_none_or(|made| admitted < made) {
            return self.read(turn);
        }
        let tried = self.tried(turn.device, turn.refusal, |tried| tried.adds = Some((name.clone(), by)));
        self.write(turn.device, turn.space, vec![increment(&name, by)], tried);
    }

    /// Edits the text that only this device writes, or reads it where it is not known what became of the last edit.
    fn splice(&mut self, turn: &mut Turn<'_>) {
        let name = text_of(turn.device);
        let uncertain = self.ledgers[turn.space].texts.get(&turn.device).is_some_and(|text| text.is_uncertain());
        if uncertain {
            return self.ask(turn.device, turn.space, Query::Get { key: key(&name), wait_for: None }, About::OwnText);
        }
        // One that is refused anyway is not an edit.
        if turn.refusal != Refusal::Never {
            return self.write_own(turn);
        }
        let token = self.number();
        let text = self.ledgers[turn.space].texts.entry(turn.device).or_default();
        let TextEdit { index, delete, insert } = text.edit(token, turn.choices);
        let edit = Edit::Splice { path: pointer("/text"), index, delete, insert };
        let tried = self.tried(turn.device, turn.refusal, |tried| tried.is_text = true);
        self.write_as(token, turn.device, turn.space, vec![Step::Edit { key: key(&name), edit }], tried);
    }

    /// Deletes a document that only this device writes.
    fn delete_own(&mut self, turn: &mut Turn<'_>) {
        let ledger = &self.ledgers[turn.space];
        let is_there = |name: &&String| {
            let fate = ledger.puts.get(*name).map(|token| ledger.tried[token].fate);
            name.starts_with("once/") && fate == Some(Fate::Acknowledged) && !ledger.condemned.contains(*name)
        };
        let own = ledger.own.get(&turn.device).map_or(&[][..], Vec::as_slice);
        let from = turn.choices.below(own.len().max(1) as u64) as usize;
        let Some(name) = own[from.min(own.len())..].iter().chain(own).find(is_there).cloned() else {
            return self.write_own(turn);
        };
        let steps = vec![Step::Delete { key: key(&name) }];
        let tried = self.tried(turn.device, turn.refusal, |tried| tried.deletes = vec![name]);
        self.write(turn.device, turn.space, steps, tried);
    }

    /// Reads the last own write by the causal token of its acknowledgement.
    fn read_own_write(&mut self, turn: &mut Turn<'_>) {
        let Some(last) = self.ledgers[turn.space].last_writes.get(&turn.device).cloned() else {
            return self.read(turn);
        };
        let query = Query::Get { key: key(&last.key), wait_for: Some(last.version) };
        self.ask(turn.device, turn.space, query, About::OwnWrite { key: last.key, boot: last.boot });
    }

    fn read(&mut self, turn: &mut Turn<'_>) {
        let (device, space) = (turn.device, turn.space);
        let (choice, kind) = (turn.choices.below(1 << 20), turn.choices.below(10));
        let (prefix, shared) = (String::new(), key(&format!("doc/{}", choice % SHARED_DOCUMENTS)));
        let (query, about) = match kind {
            0..3 => {
                let puts = &self.ledgers[space].puts;
                let Some(name) = puts.keys().nth(choice as usize % puts.len().clamp(1, 1000)).cloned() else { return };
                let must_exist = self.must_exist(device, space, &name);
                (Query::Get { key: key(&name), wait_for: None }, About::Document { key: name, must_exist })
            }
            3 => {
                let prefix = "pair/".to_owned();
                (Query::List { prefix, after: None, limit: 1000, values: choice % 2 == 0 }, About::Pairs)
            }
            4 => (Query::Get { key: shared, wait_for: None }, About::Anything),
            5 => (Query::History { key: shared, after: None, limit: 10 }, About::Anything),
            6 => (Query::Changes { since: None, limit: 20 }, About::Anything),
            7 | 8 => {
                let name = text_of(choice as usize % self.devices.len());
                (Query::Get { key: key(&name), wait_for: None }, About::Document { key: name, must_exist: false })
            }
            _ => (Query::List { prefix, after: None, limit: 20, values: true }, About::Anything),
        };
        self.ask(device, space, query, about);
    }

    /// Whether a device has shown or acknowledged a document that nobody deletes.
    fn must_exist(&self, device: usize, space: usize, name: &str) -> bool {
        let ledger = &self.ledgers[space];
        let seen = ledger.seen.get(name).is_some_and(|devices| devices.contains(&device));
        let own = |tried: &Tried| tried.device == device && tried.fate == Fate::Acknowledged;
        let written = ledger.expected(name).is_some_and(|(tried, _)| own(tried));
        (seen || written) && !ledger.condemned.contains(name) && !self.may_be_cut(space, name)
    }

    pub(crate) fn ask(&mut self, device: usize, space: usize, query: Query, about: About) {
        let token = self.number();
        self.note(device, Happening::Read, [token, space as u64], || format!("{token} {query:?}"));
        self.ledgers[space].questions.insert(token, Question { device, about });
        self.tell_space(device, space, SpaceInput::Query { token, query });
    }

    /// All that a reading device can show, to be compared.
    pub(crate) fn ask_everything(&mut self, device: usize, space: usize) {
        self.ask_list(device, space, None);
        for number in 0..SHARED_DOCUMENTS {
            let name = format!("doc/{number}");
            let query = Query::Get { key: key(&name), wait_for: None };
            self.ask(device, space, query, About::Heads { key: name });
        }
        let within = ConflictScope::Page { prefix: "doc/".to_owned(), after: None, limit: 100 };
        self.ask(device, space, Query::Conflicts { within }, About::Conflicts);
        self.ask_changes(device, space, None);
        self.ask(device, space, Query::Stats, About::Stats);
    }

    pub(crate) fn ask_list(&mut self, device: usize, space: usize, after: Option<DocumentKey>) {
        let query = Query::List { prefix: String::new(), after, limit: LIST_PAGE, values: true };
        self.ask(device, space, query, About::Everything);
    }
}

fn shared_step(choices: &mut Choices) -> Step {
    let key = key(&format!("doc/{}", choices.below(SHARED_DOCUMENTS)));
    let number = choices.below(1000);
    let edit = match choices.below(12) {
        0 | 1 => return Step::Delete { key },
        2..5 => {
            let tags: Vec<u64> = (0..choices.below(5)).map(|_| choices.below(9)).collect();
            Edit::Put(json!({ "title": format!("title {number}"), "tags": tags, "deep": { "n": number } }))
        }
        5..8 => match choices.below(4) {
            0 => Edit::Merge(json!({ "title": format!("merged {number}") })),
            1 => Edit::Merge(json!({ "deep": { "m": number, "n": Value::Null } })),
            2 => Edit::Merge(json!({ "tags": [number, { "in": [number % 7] }, "last"] })),
            _ => Edit::Merge(json!({ format!("field {}", number % 5): number, "tags": Value::Null })),
        },
        8 | 9 => {
            let delete = if choices.chance(30) { 1 } else { 0 };
            Edit::Splice { path: pointer("/text"), index: 0, delete, insert: format!("[{number}]") }
        }
        10 => Edit::Increment { path: pointer("/hits"), by: number as i64 - 500 },
        _ => Edit::Resolve { path: pointer("/title"), value: json!(format!("resolved {number}")) },
    };
    Step::Edit { key, edit }
}

/// A text that does not compress much.
fn hexadecimal(choices: &mut Choices, characters: u64) -> String {
    let mut text = String::with_capacity(characters as usize + 16);
    while (text.len() as u64) < characters {
        text.push_str(&format!("{:016x}", choices.below(u64::MAX)));
    }
    text.truncate(characters as usize);
    text
}

fn put(name: &str, value: &Value) -> Step {
    Step::Edit { key: key(name), edit: Edit::Put(value.clone()) }
}

fn increment(name: &str, by: u64) -> Step {
    Step::Edit { key: key(name), edit: Edit::Increment { path: pointer("/count"), by: by as i64 } }
}
