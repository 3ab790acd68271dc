//! People at their devices: what they write and read, and what they are told.

use serde_json::{Value, json};
use syncline::documents::{
    Answer, ChangeEvent, ConflictScope, DocumentError, Edit, List, Pointer, Query, Step, Written,
};
use syncline::space::WriteError;
use syncline_model::{DeviceKey, DocumentKey, Role, Strings, Ticket};

use crate::device::Message;
use crate::happening::Happening;
use crate::ledger::{About, Fate, Question, Refusal, Tried};
use crate::plan::SECOND_US;
use crate::world::{Violation, World};

/// Documents that everybody writes.
pub(crate) const SHARED_DOCUMENTS: u64 = 4;
/// Documents with a counter that everybody adds to.
const COUNTERS: u64 = 2;
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

impl World {
    /// The first device founds the space, makes the counters, and invites the others.
    pub(crate) fn found(&mut self) -> Result<(), Violation> {
        self.start(0);
        for number in 0..COUNTERS {
            let name = format!("counter/{number}");
            let steps = vec![increment(&name)];
            let token = self.write(0, steps, Refusal::Never, |tried| tried.adds = Some((name.clone(), 1)));
            self.ledger.counters.insert(name, Some(token));
        }
        let count = self.devices.len();
        let groups: Vec<Vec<usize>> = if self.plan().own_tickets {
            (1..count).map(|device| vec![device]).collect()
        } else {
            let roles = [Role::Writer, Role::Reader, Role::Relay];
            let of_role = |role: &Role| (1..count).filter(|device| self.plan().roles[*device] == *role).collect();
            roles.iter().map(of_role).filter(|group: &Vec<usize>| !group.is_empty()).collect()
        };
        for group in groups {
            let (token, role, uses) = (self.number(), self.plan().roles[group[0]], group.len() as u32);
            self.ledger.invitations.insert(token, group);
            self.tell(0, Message::Invite { token, role, uses, expires_ms: EXPIRES_MS });
        }
        while self.ledger.tickets.len() + 1 < count || self.ledger.open_questions() > 0 {
            if self.now_us > FOUNDING_US_MAX {
                return Err(Violation("the space was not founded in time".to_owned()));
            }
            self.run_until(self.now_us + SECOND_US / 10)?;
        }
        for token in self.ledger.counters.values_mut() {
            *token = token.and_then(|token| self.ledger.tried[&token].sequence);
        }
        Ok(())
    }

    pub(crate) fn invited(&mut self, token: u64, outcome: Result<DeviceKey, WriteError>) {
        let key = match outcome {
            Ok(key) => key,
            Err(error) => return self.violate(format!("the steward cannot invite: {error}")),
        };
        let (space, founder) = (self.surroundings.space, self.surroundings.ids[0]);
        for device in self.ledger.invitations.remove(&token).unwrap_or_default() {
            let role = self.plan().roles[device];
            let ticket = Ticket::new(space, "simulated", role, EXPIRES_MS, &key, founder, Vec::new());
            self.note(0, Happening::Invited, [device as u64, 0], || format!("#{device} as {}", role.name()));
            self.ledger.tickets.insert(device, ticket);
        }
    }

    /// A person pastes a ticket.
    pub(crate) fn join(&mut self, device: usize) {
        self.devices[device].ticket = self.ledger.tickets.get(&device).cloned();
        self.start(device);
    }

    /// Somebody does something.
    pub(crate) fn act(&mut self) {
        let device = self.people.below(self.devices.len() as u64) as usize;
        if self.healed || self.devices[device].running.is_none() {
            return;
        }
        let refusal = self.refusal(device);
        let may_write = refusal == Refusal::Never || self.people.chance(30);
        match self.people.below(100) {
            0..20 if may_write => self.write_once(device, refusal),
            20..35 if may_write => self.write_shared(device, refusal),
            35..45 if may_write => self.write_pair(device, refusal),
            45..55 if may_write => self.add(device, refusal),
            55..62 if may_write => {
                for _ in 0..self.people.between(3, 12) {
                    if self.people.chance(50) {
                        self.write_once(device, refusal);
                    } else {
                        self.write_shared(device, refusal);
                    }
                }
            }
            62..67 if may_write => self.delete_own(device, refusal),
            67..71 => self.watch(device),
            _ => self.read(device),
        }
    }

    /// Somebody writes at a device of which a stop was prepared, so that it is stopped while it writes.
    pub(crate) fn write_before_stop(&mut self, device: usize) {
        let refusal = self.refusal(device);
        if refusal == Refusal::Never {
            self.write_once(device, refusal);
            self.write_pair(device, refusal);
        }
    }

    /// Whether what a device writes now may be refused.
    fn refusal(&self, device: usize) -> Refusal {
        let role = self.devices[device].running.as_ref().and_then(|running| running.replica.core().state().role());
        match (self.plan().roles[device].writes(), role) {
            (false, _) => Refusal::Always,
            (true, None) => Refusal::Stranger,
            (true, Some(_)) => Refusal::Never,
        }
    }

    /// Asks for a transaction; `describe` says what it does to documents of its own and to counters.
    fn write(&mut self, device: usize, steps: Vec<Step>, refusal: Refusal, describe: impl FnOnce(&mut Tried)) -> u64 {
        let token = self.number();
        let (puts, deletes) = (Vec::new(), Vec::new());
        let mut tried = Tried { device, fate: Fate::Open, puts, deletes, adds: None, refusal, sequence: None };
        describe(&mut tried);
        for (name, _) in &tried.puts {
            self.ledger.puts.insert(name.clone(), token);
        }
        self.ledger.condemned.extend(tried.deletes.iter().cloned());
        self.ledger.tried.insert(token, tried);
        self.note(device, Happening::Wrote, [token, steps.len() as u64], || {
            let keys: Vec<&str> = steps.iter().map(|step| step.key().as_str()).collect();
            format!("{token} {keys:?} {refusal:?}")
        });
        self.tell(device, Message::Transact { token, steps });
        token
    }

    fn write_once(&mut self, device: usize, refusal: Refusal) {
        let number = self.number();
        // As collaborative text each character is an operation of its own, which takes too long for large ones.
        let is_text = self.plan().strings == Strings::Text;
        let (longest, large) = (if is_text { 2000 } else { 60_000 }, self.plan().large_values && !is_text);
        let characters = match self.people.below(20) {
            0..4 if large => LARGE_CHARACTERS,
            4 | 5 => self.people.between(1000, longest),
            _ => 10,
        };
        let name = format!("once/{number}");
        let value = json!({ "by": device, "number": number, "text": self.text(characters) });
        self.write(device, vec![put(&name, &value)], refusal, |tried| tried.puts = vec![(name, value)]);
    }

    fn write_pair(&mut self, device: usize, refusal: Refusal) {
        let number = self.number();
        let names = [format!("pair/{number}/a"), format!("pair/{number}/b")];
        let value = json!({ "number": number });
        let steps = names.iter().map(|name| put(name, &value)).collect();
        let puts = names.into_iter().map(|name| (name, value.clone())).collect();
        self.write(device, steps, refusal, |tried| tried.puts = puts);
    }

    /// Writes a document that everybody writes.
    fn write_shared(&mut self, device: usize, refusal: Refusal) {
        let refusal = if refusal == Refusal::Never { Refusal::Misfit } else { refusal };
        let steps = (0..self.people.pick(&[1, 1, 1, 2, 3])).map(|_| self.shared_step()).collect();
        self.write(device, steps, refusal, |_| {});
    }

    fn shared_step(&mut self) -> Step {
        let key = key(&format!("doc/{}", self.people.below(SHARED_DOCUMENTS)));
        let number = self.people.below(1000);
        let edit = match self.people.below(12) {
            0 | 1 => return Step::Delete { key },
            2..5 => {
                let tags: Vec<u64> = (0..self.people.below(5)).map(|_| self.people.below(9)).collect();
                Edit::Put(json!({ "title": format!("title {number}"), "tags": tags, "deep": { "n": number } }))
            }
            5..8 => match self.people.below(3) {
                0 => Edit::Merge(json!({ "title": format!("merged {number}") })),
                1 => Edit::Merge(json!({ "deep": { "m": number, "n": Value::Null } })),
                _ => Edit::Merge(json!({ format!("field {}", number % 5): number, "tags": Value::Null })),
            },
            8 | 9 => {
                let delete = if self.people.chance(30) { 1 } else { 0 };
                Edit::Splice { path: pointer("/text"), index: 0, delete, insert: format!("[{number}]") }
            }
            10 => Edit::Increment { path: pointer("/hits"), by: number as i64 - 500 },
            _ => Edit::Resolve { path: pointer("/title"), value: json!(format!("resolved {number}")) },
        };
        Step::Edit { key, edit }
    }

    /// Adds to a counter, if it is there already: two that begin apart are two counters.
    fn add(&mut self, device: usize, refusal: Refusal) {
        let name = format!("counter/{}", self.people.below(COUNTERS));
        let founder = self.surroundings.ids[0];
        let Some(running) = &self.devices[device].running else { return };
        let admitted = running.replica.core().state().admission().admitted().sequence(&founder);
        let made = self.ledger.counters.get(&name).copied().flatten();
        if made.is_none_or(|made| admitted < made) {
            return self.read(device);
        }
        let steps = vec![increment(&name)];
        self.write(device, steps, refusal, |tried| tried.adds = Some((name, 1)));
    }

    /// Deletes a document that only this device writes.
    fn delete_own(&mut self, device: usize, refusal: Refusal) {
        let own = |(name, token): (&String, &u64)| {
            let tried = &self.ledger.tried[token];
            let mine = tried.device == device && tried.fate == Fate::Acknowledged;
            (mine && name.starts_with("once/") && !self.ledger.condemned.contains(name)).then(|| name.clone())
        };
        let own: Vec<String> = self.ledger.puts.iter().filter_map(own).collect();
        if own.is_empty() {
            return self.write_once(device, refusal);
        }
        let name = own[self.people.below(own.len() as u64) as usize].clone();
        let steps = vec![Step::Delete { key: key(&name) }];
        self.write(device, steps, refusal, |tried| tried.deletes = vec![name]);
    }

    fn watch(&mut self, device: usize) {
        let token = self.number();
        self.ledger.streams.insert(token, device);
        self.note(device, Happening::Watched, [token, 0], String::new);
        self.tell(device, Message::Watch { token, since: None });
    }

    fn read(&mut self, device: usize) {
        let some =
            |names: Vec<&String>, choice: u64| names.get(choice as usize % names.len().max(1)).map(|n| (*n).clone());
        let (choice, kind) = (self.people.below(1 << 20), self.people.below(8));
        let prefix = String::new();
        let (query, about) = match kind {
            0..3 => {
                let own = self.ledger.puts.keys().collect::<Vec<_>>();
                let Some(name) = some(own, choice) else { return };
                let must_exist = self.must_exist(device, &name);
                (Query::Get { key: key(&name), wait_for: None }, About::Document { key: name, must_exist })
            }
            3 => {
                let prefix = "pair/".to_owned();
                (Query::List { prefix, after: None, limit: 1000, values: choice % 2 == 0 }, About::Pairs)
            }
            4 => {
                let key = key(&format!("doc/{}", choice % SHARED_DOCUMENTS));
                (Query::Get { key, wait_for: None }, About::Anything)
            }
            5 => {
                let key = key(&format!("doc/{}", choice % SHARED_DOCUMENTS));
                (Query::History { key, after: None, limit: 10 }, About::Anything)
            }
            6 => (Query::Changes { since: None, limit: 20 }, About::Anything),
            _ => (Query::List { prefix, after: None, limit: 20, values: true }, About::Anything),
        };
        self.ask(device, query, about);
    }

    /// Whether a device has shown or acknowledged a document that nobody deletes.
    fn must_exist(&self, device: usize, name: &str) -> bool {
        let seen = self.ledger.seen.get(name).is_some_and(|devices| devices.contains(&device));
        let own = |tried: &Tried| tried.device == device && tried.fate == Fate::Acknowledged;
        let written = self.ledger.expected(name).is_some_and(|(tried, _)| own(tried));
        (seen || written) && !self.ledger.condemned.contains(name)
    }

    pub(crate) fn ask(&mut self, device: usize, query: Query, about: About) {
        let token = self.number();
        self.note(device, Happening::Read, [token, 0], || format!("{token} {query:?}"));
        self.ledger.questions.insert(token, Question { device, about });
        self.tell(device, Message::Query { token, query });
    }

    /// All that a reading device can show, to be compared.
    pub(crate) fn ask_everything(&mut self, device: usize) {
        self.ask_list(device, None);
        for number in 0..SHARED_DOCUMENTS {
            let name = format!("doc/{number}");
            self.ask(device, Query::Get { key: key(&name), wait_for: None }, About::Heads { key: name });
        }
        let within = ConflictScope::Page { prefix: "doc/".to_owned(), after: None, limit: 100 };
        self.ask(device, Query::Conflicts { within }, About::Conflicts);
    }

    fn ask_list(&mut self, device: usize, after: Option<DocumentKey>) {
        let query = Query::List { prefix: String::new(), after, limit: LIST_PAGE, values: true };
        self.ask(device, query, About::Everything);
    }

    /// A device answers.
    pub(crate) fn answered(&mut self, device: usize, token: u64, result: Result<Answer, DocumentError>) {
        if let Some(tried) = self.ledger.tried.get(&token) {
            if tried.fate != Fate::Open || tried.device != device {
                return self.violate(format!("#{device} answers the transaction {token} twice"));
            }
            match result {
                Ok(Answer::Written(written)) => self.acknowledged(device, token, &written),
                Ok(other) => self.violate(format!("#{device} answers the transaction {token} with {other:?}")),
                Err(error) => self.refused(device, token, &error),
            }
        } else if let Some(question) = self.ledger.questions.remove(&token) {
            let happening = if result.is_ok() { Happening::ReadAnswered } else { Happening::ReadFailed };
            self.note(device, happening, [token, 0], || format!("{token}"));
            self.told(device, question.about, result);
        } else if let Err(error) = result {
            self.violate(format!("#{device} opens no stream: {error}"));
        }
    }

    fn acknowledged(&mut self, device: usize, token: u64, written: &Written) {
        let sequence = written.sequence;
        self.note(device, Happening::Acknowledged, [token, sequence.unwrap_or(0)], || {
            format!("{token} as {sequence:?}")
        });
        if !self.parted.is_empty() {
            self.trace.count(Happening::AcknowledgedParted, 1);
        }
        let id = self.surroundings.ids[device];
        let durable = self.ledger.durable.get(&device).map_or(0, |vector| vector.sequence(&id));
        let tried = self.ledger.tried.get_mut(&token).expect("it was just found");
        (tried.fate, tried.sequence) = (Fate::Acknowledged, sequence);
        let (refusal, own) = (tried.refusal, !tried.puts.is_empty() || tried.adds.is_some());
        if refusal == Refusal::Always && sequence.is_some() {
            self.violate(format!("#{device} wrote {token} and may not write"));
        } else if sequence.unwrap_or(0) > durable || (own && sequence.is_none()) {
            self.violate(format!("#{device} acknowledged {token} as {sequence:?}, durable is {durable}"));
        }
    }

    fn refused(&mut self, device: usize, token: u64, error: &DocumentError) {
        self.note(device, Happening::Refused, [token, 0], || format!("{token}: {error}"));
        let tried = self.ledger.tried.get_mut(&token).expect("it was just found");
        tried.fate = Fate::Refused;
        let refusal = tried.refusal;
        let misfit = |error: &DocumentError| {
            use DocumentError::{BadEdit, NotFound, Undone};
            matches!(error, NotFound { .. } | BadEdit { .. } | Undone { .. })
        };
        match refusal {
            Refusal::Always => self.trace.count(Happening::RefusedRole, 1),
            Refusal::Stranger => self.trace.count(Happening::RefusedStranger, 1),
            Refusal::Misfit if misfit(error) => {}
            _ => self.violate(format!("#{device} refuses {token}, which it has to write: {error}")),
        }
    }

    /// Something is shown to a person: what is seen must stay, and must be right.
    fn sees(&mut self, device: usize, name: &str, value: Option<&Value>) {
        let Some((tried, expected)) = self.ledger.expected(name) else { return };
        let (fate, wrong) = (tried.fate, value.is_some_and(|value| value != expected));
        if wrong {
            self.violate(format!("#{device} shows another value of {name} than was written"));
        } else if fate == Fate::Refused {
            self.violate(format!("#{device} shows {name}, which was refused"));
        }
        self.ledger.seen.entry(name.to_owned()).or_default().insert(device);
    }

    fn told(&mut self, device: usize, about: About, result: Result<Answer, DocumentError>) {
        match (about, result) {
            (About::Document { key, .. }, Ok(Answer::Document(view))) => {
                self.sees(device, &key, Some(&view.value));
            }
            (About::Document { key, must_exist }, Err(DocumentError::NotFound { .. })) => {
                if must_exist {
                    self.violate(format!("#{device} lost {key}, which it has shown or acknowledged"));
                }
            }
            (About::Pairs, Ok(Answer::List(list))) => self.told_pairs(device, &list),
            (About::Anything, Err(DocumentError::NotFound { .. })) => {}
            (About::Anything, Ok(Answer::List(list))) => {
                for item in &list.items {
                    self.sees(device, item.key.as_str(), item.value.as_ref());
                }
            }
            (About::Anything, Ok(_)) => {}
            (About::Everything, Ok(Answer::List(list))) => self.told_everything(device, list),
            (About::Heads { key }, result) => match result {
                Ok(Answer::Document(view)) => {
                    self.ledger.shown.entry(device).or_default().heads.insert(key, Some(view.heads));
                }
                Err(DocumentError::NotFound { .. }) => {
                    self.ledger.shown.entry(device).or_default().heads.insert(key, None);
                }
                other => self.violate(format!("#{device} cannot show {key}: {other:?}")),
            },
            (About::Conflicts, Ok(Answer::Conflicts(page))) => {
                self.ledger.shown.entry(device).or_default().conflicts = Some(page);
            }
            (about, other) => self.violate(format!("#{device} answers a question about {about:?} with {other:?}")),
        }
    }

    /// A transaction on two documents is seen as a whole or not at all.
    fn told_pairs(&mut self, device: usize, list: &List) {
        for item in &list.items {
            let name = item.key.as_str();
            let other = match name.strip_suffix("/a") {
                Some(stem) => format!("{stem}/b"),
                None => format!("{}/a", name.trim_end_matches("/b")),
            };
            if list.next.is_none() && !list.items.iter().any(|item| item.key.as_str() == other) {
                self.violate(format!("#{device} shows {name} without {other}"));
            }
            self.sees(device, name, item.value.as_ref());
            self.trace.count(Happening::PairSeen, 1);
        }
    }

    fn told_everything(&mut self, device: usize, list: List) {
        for item in list.items {
            let name = item.key.as_str().to_owned();
            let Some(value) = item.value else {
                let why = item.error.unwrap_or_default();
                return self.violate(format!("#{device} cannot show {name}: {why}"));
            };
            self.ledger.shown.entry(device).or_default().documents.insert(name, value);
        }
        self.ledger.shown.entry(device).or_default();
        if let Some(next) = list.next {
            self.ask_list(device, Some(next));
        }
    }

    /// Changes are shown to a watcher.
    pub(crate) fn changed(&mut self, device: usize, token: u64, events: &[ChangeEvent]) {
        self.note(device, Happening::Changed, [token, events.len() as u64], String::new);
        if self.ledger.streams.get(&token) != Some(&device) {
            return self.violate(format!("#{device} feeds a stream that nobody opened"));
        }
        for event in events {
            let durable = self.ledger.durable.get(&device).map_or(0, |vector| vector.sequence(&event.author));
            if event.sequence > durable {
                let sequence = event.sequence;
                self.violate(format!("#{device} shows operation {sequence} before it is durable"));
            }
            if !event.deleted {
                self.sees(device, event.key.as_str(), event.value.as_ref());
            }
        }
        self.tell(device, Message::Taken { token, events: events.len() });
    }

    /// A text that does not compress much.
    fn text(&mut self, characters: u64) -> String {
        let mut text = String::with_capacity(characters as usize);
        while (text.len() as u64) < characters {
            text.push_str(&format!("{:016x}", self.people.below(u64::MAX)));
        }
        text.truncate(characters as usize);
        text
    }
}

fn put(name: &str, value: &Value) -> Step {
    Step::Edit { key: key(name), edit: Edit::Put(value.clone()) }
}

fn increment(name: &str) -> Step {
    Step::Edit { key: key(name), edit: Edit::Increment { path: pointer("/count"), by: 1 } }
}
