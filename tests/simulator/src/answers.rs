//! What people are told: it must be right when it is said, and must stay.

use serde_json::Value;
use syncline::documents::{Answer, ChangeEvent, DocumentError, List, Written};
use syncline_sync::Replica;

use crate::happening::Happening;
use crate::ledger::{About, Fate, LastWrite, Refusal};
use crate::message::SpaceInput;
use crate::world::World;

impl World {
    /// A device answers.
    pub(crate) fn answered(&mut self, device: usize, space: usize, token: u64, result: Result<Answer, DocumentError>) {
        let ledger = &mut self.ledgers[space];
        if let Some(tried) = ledger.tried.get(&token) {
            if ledger.open.remove(&token) != Some(device) || tried.device != device {
                return self.violate(format!("#{device} answers the transaction {token} twice"));
            }
            match result {
                Ok(Answer::Written(written)) => self.acknowledged(device, space, token, &written),
                Ok(other) => self.violate(format!("#{device} answers the transaction {token} with {other:?}")),
                Err(error) => self.refused(device, space, token, &error),
            }
        } else if let Some(question) = ledger.questions.remove(&token) {
            let happening = if result.is_ok() { Happening::ReadAnswered } else { Happening::ReadFailed };
            self.note(device, happening, [token, 0], || match &result {
                Ok(_) => format!("{token}"),
                Err(error) => format!("{token}: {error}"),
            });
            self.told(device, space, question.about, result);
        } else {
            match result {
                Ok(Answer::Watching(version)) => self.stream_begins(space, token, version),
                Ok(_) => {}
                Err(error) => self.unwatched(device, space, token, &error),
            }
        }
    }

    fn acknowledged(&mut self, device: usize, space: usize, token: u64, written: &Written) {
        let sequence = written.sequence;
        self.note(device, Happening::Acknowledged, [token, sequence.unwrap_or(0)], || {
            format!("{token} as {sequence:?}")
        });
        if !self.parted.is_empty() {
            self.trace.count(Happening::AcknowledgedParted, 1);
        }
        let (id, boot) = (self.surroundings.ids[device], self.devices[device].boots);
        let durable = self.hosted(device, space).map_or(0, |hosted| hosted.replica.core().state().durable(&id));
        let knows_itself_cut = self.knows_itself_cut(device, space);
        let ledger = &mut self.ledgers[space];
        let tried = ledger.tried.get_mut(&token).expect("it was just found");
        (tried.fate, tried.sequence) = (Fate::Acknowledged, sequence);
        let (refusal, own) = (tried.refusal, !tried.puts.is_empty() || tried.adds.is_some() || tried.is_text);
        if let Some((key, _)) = tried.puts.first() {
            let last = LastWrite { key: key.clone(), version: written.version, boot };
            ledger.last_writes.insert(device, last);
        }
        let in_order = !tried.is_text || ledger.texts.entry(device).or_default().acknowledged(token, sequence);
        let may_not = refusal == Refusal::Always || (refusal == Refusal::Lost && knows_itself_cut);
        if may_not && sequence.is_some() {
            self.violate(format!("#{device} wrote {token} and may not write"));
        } else if sequence.unwrap_or(0) > durable || (own && sequence.is_none()) {
            self.violate(format!("#{device} acknowledged {token} as {sequence:?}, durable is {durable}"));
        } else if !in_order {
            self.violate(format!("#{device} acknowledged the edit {token} of its text before an earlier one"));
        }
    }

    fn refused(&mut self, device: usize, space: usize, token: u64, error: &DocumentError) {
        self.note(device, Happening::Refused, [token, 0], || format!("{token}: {error}"));
        let was_damaged = !self.devices[device].damage.flipped.is_empty();
        let is_disk = self.may_fail_to_read(device, space) || self.devices[device].full.is_some() || was_damaged;
        let ledger = &mut self.ledgers[space];
        let tried = ledger.tried.get_mut(&token).expect("it was just found");
        tried.fate = Fate::Refused;
        let refusal = tried.refusal;
        if tried.is_text {
            let text = ledger.texts.entry(device).or_default();
            if is_disk { text.lost_track() } else { text.refused(token) }
        }
        let misfit = |error: &DocumentError| {
            use DocumentError::{BadEdit, NotFound, Undone};
            matches!(error, NotFound { .. } | BadEdit { .. } | Undone { .. })
        };
        use DocumentError::{BegunAnew, LostRight, NotYet};
        let is_cut = self.ledgers[space].decided.ever_cut.contains(&device);
        let is_governed = self.is_governed(device, space);
        let may_fork = self.plan().spaces[space].members.keys().any(|member| self.plan().lies(*member));
        match refusal {
            Refusal::Always => self.trace.count(Happening::RefusedRole, 1),
            Refusal::Stranger => self.trace.count(Happening::RefusedStranger, 1),
            // It was cut, and knew it when it was asked or came to know it before it answered.
            Refusal::Lost | Refusal::Never | Refusal::Misfit if is_cut && matches!(error, LostRight { .. }) => {
                self.trace.count(Happening::RefusedLost, 1);
            }
            Refusal::Lost if misfit(error) || matches!(error, BegunAnew) => {}
            Refusal::Misfit if misfit(error) => {}
            // An epoch began, and its key comes with a later operation.
            _ if is_governed && (matches!(error, NotYet { .. } | BegunAnew) || misfit(error)) => {
                self.trace.count(Happening::RefusedKey, 1);
            }
            // A fork came to light.
            _ if matches!(error, BegunAnew) && may_fork => {}
            // What was made on top of something refused does not fit any more.
            _ if is_disk && (is_unable(error) || misfit(error)) => {
                self.trace.count(Happening::RefusedDisk, 1);
            }
            _ => self.violate(format!("#{device} refuses {token}, which it has to write: {error}")),
        }
    }

    /// Something is shown to a person: what is seen must stay, and must be right and durable.
    fn sees(&mut self, device: usize, space: usize, name: &str, value: Option<&Value>) {
        if let Some(author) = name.strip_prefix("text/").and_then(|author| author.parse::<usize>().ok()) {
            return self.sees_text(device, space, author, value);
        }
        let Some((tried, expected)) = self.ledgers[space].expected(name) else { return };
        let (fate, author, sequence) = (tried.fate, tried.device, tried.sequence.unwrap_or(0));
        let wrong = value.is_some_and(|value| value != expected);
        let id = self.surroundings.ids[author];
        let durable = self.ledgers[space].durable.get(&device).map_or(0, |vector| vector.sequence(&id));
        // Of a log that was cut less counts as held than before.
        let is_cut = self.ledgers[space].decided.ever_cut.contains(&author);
        if wrong {
            self.violate(format!("#{device} shows another value of {name} than was written"));
        } else if fate == Fate::Refused {
            self.violate(format!("#{device} shows {name}, which was refused"));
        } else if sequence > durable && !self.devices[device].damage.is_healing(space) && !is_cut {
            // What damage keeps its core from holding may well be in its log and its documents.
            self.violate(format!("#{device} shows {name} before it is durable there"));
        }
        self.ledgers[space].seen.entry(name.to_owned()).or_default().insert(device);
    }

    fn sees_text(&mut self, device: usize, space: usize, author: usize, value: Option<&Value>) {
        let Some(found) = value.and_then(|value| value["text"].as_str()) else { return };
        self.trace.count(Happening::TextSeen, 1);
        let known = self.ledgers[space].texts.get(&author).is_some_and(|text| text.may_be_seen(found));
        if !known {
            self.violate(format!("#{device} shows the text of #{author} as it never was: {found:?}"));
        }
    }

    /// Whether a device's disk is in a state in which it may be unable to show or write something.
    pub(crate) fn may_fail_to_read(&self, device: usize, space: usize) -> bool {
        self.devices[device].damage.is_healing(space) || self.devices[device].armed.is_some()
    }

    fn told(&mut self, device: usize, space: usize, about: About, result: Result<Answer, DocumentError>) {
        let is_healing = self.devices[device].damage.is_healing(space);
        if result.as_ref().is_err_and(is_unable) && self.may_fail_to_read(device, space) {
            return self.trace.count(Happening::ReadUnable, 1);
        }
        match (about, result) {
            (About::Document { key, .. }, Ok(Answer::Document(view))) => {
                self.sees(device, space, &key, Some(&view.value));
            }
            (About::Document { key, must_exist }, Err(DocumentError::NotFound { .. })) => {
                if must_exist && !is_healing && !self.may_be_cut(space, &key) {
                    self.violate(format!("#{device} lost {key}, which it has shown or acknowledged"));
                }
            }
            (About::OwnWrite { key, boot }, result) => self.told_own_write(device, space, &key, boot, result),
            (About::OwnText, result) => self.told_own_text(device, space, &result),
            (About::Pairs, Ok(Answer::List(list))) => self.told_pairs(device, space, &list),
            (About::Anything, Err(DocumentError::NotFound { .. })) => {}
            (About::Anything, Ok(Answer::List(list))) => {
                for item in &list.items {
                    self.sees(device, space, item.key.as_str(), item.value.as_ref());
                }
            }
            (About::Anything, Ok(_)) => {}
            (About::Everything, Ok(Answer::List(list))) => self.told_everything(device, space, list),
            (About::Heads { key }, result) => {
                let heads = match result {
                    Ok(Answer::Document(view)) => Some(view.heads),
                    Err(DocumentError::NotFound { .. }) => None,
                    other => return self.violate(format!("#{device} cannot show {key}: {other:?}")),
                };
                self.ledgers[space].shown.entry(device).or_default().heads.insert(key, heads);
            }
            (About::Conflicts, Ok(Answer::Conflicts(page))) => {
                self.ledgers[space].shown.entry(device).or_default().conflicts = Some(page);
            }
            (About::Changes, Ok(Answer::Changes(page))) => self.told_changes(device, space, &page),
            (About::Stats, Ok(Answer::Stats(stats))) => {
                let cache_bytes = self.plan().cache_bytes;
                let idle = stats.jobs == 0 && stats.pending_transactions == 0;
                if idle && stats.loaded_bytes > cache_bytes {
                    let loaded = stats.loaded_bytes;
                    self.violate(format!("#{device} keeps {loaded} bytes of documents, more than {cache_bytes}"));
                }
            }
            (about, other) => self.violate(format!("#{device} answers a question about {about:?} with {other:?}")),
        }
    }

    /// A causal token waits for the write that it was given for; only a new start may make it mean nothing.
    fn told_own_write(
        &mut self,
        device: usize,
        space: usize,
        key: &str,
        boot: u64,
        result: Result<Answer, DocumentError>,
    ) {
        let is_gone = self.ledgers[space].condemned.contains(key)
            || self.devices[device].damage.is_healing(space)
            || self.may_be_cut(space, key);
        match result {
            Ok(Answer::Document(view)) => {
                self.trace.count(Happening::ReadOwnWrite, 1);
                self.sees(device, space, key, Some(&view.value));
            }
            Err(DocumentError::NotFound { .. }) if is_gone => {}
            Err(DocumentError::ForeignVersion { .. }) if boot != self.devices[device].boots => {
                self.trace.count(Happening::TokenForeign, 1);
            }
            other => self.violate(format!("#{device} does not show its own write {key} by its token: {other:?}")),
        }
    }

    /// The author of a text learns what became of its last edits.
    fn told_own_text(&mut self, device: usize, space: usize, result: &Result<Answer, DocumentError>) {
        if self.devices[device].damage.is_healing(space) {
            return;
        }
        let found = match result {
            Ok(Answer::Document(view)) => view.value["text"].as_str().unwrap_or_default(),
            Err(DocumentError::NotFound { .. }) => "",
            other => return self.violate(format!("#{device} cannot show its text: {other:?}")),
        };
        let is_cut = self.ledgers[space].decided.ever_cut.contains(&device);
        let text = self.ledgers[space].texts.entry(device).or_default();
        if !text.settled(found) && !is_cut {
            return self.violate(format!("#{device} shows its text as it cannot be: {found:?}"));
        }
        self.trace.count(Happening::TextSettled, 1);
    }

    /// A transaction on two documents is seen as a whole or not at all.
    fn told_pairs(&mut self, device: usize, space: usize, list: &List) {
        for item in &list.items {
            let name = item.key.as_str();
            let other = match name.strip_suffix("/a") {
                Some(stem) => format!("{stem}/b"),
                None => format!("{}/a", name.trim_end_matches("/b")),
            };
            if list.next.is_none() && !list.items.iter().any(|item| item.key.as_str() == other) {
                self.violate(format!("#{device} shows {name} without {other}"));
            }
            self.sees(device, space, name, item.value.as_ref());
            self.trace.count(Happening::PairSeen, 1);
        }
    }

    fn told_everything(&mut self, device: usize, space: usize, list: List) {
        for item in list.items {
            let name = item.key.as_str().to_owned();
            let Some(value) = item.value else {
                let why = item.error.unwrap_or_default();
                return self.violate(format!("#{device} cannot show {name}: {why}"));
            };
            self.ledgers[space].shown.entry(device).or_default().documents.insert(name, value);
        }
        self.ledgers[space].shown.entry(device).or_default();
        if let Some(next) = list.next {
            self.ask_list(device, space, Some(next));
        }
    }

    /// A stream does not begin, or ends: only where the disk fails.
    pub(crate) fn unwatched(&mut self, device: usize, space: usize, token: u64, reason: &DocumentError) {
        self.ledgers[space].streams.remove(&token);
        if !self.may_fail_to_read(device, space) {
            self.violate(format!("#{device} ends the stream {token}: {reason}"));
        }
    }

    /// Changes are shown to a watcher.
    pub(crate) fn changed(&mut self, device: usize, space: usize, token: u64, events: &[ChangeEvent]) {
        self.note(device, Happening::Changed, [token, events.len() as u64], String::new);
        let stream = self.ledgers[space].streams.get_mut(&token).filter(|stream| stream.device == device);
        if !stream.is_some_and(|stream| stream.give(events)) {
            return self.violate(format!("#{device} feeds a stream that nobody opened"));
        }
        for event in events {
            let durable = self.ledgers[space].durable.get(&device).map_or(0, |vector| vector.sequence(&event.author));
            let author = self.surroundings.number(&event.author);
            let is_cut = author.is_some_and(|author| self.ledgers[space].decided.ever_cut.contains(&author));
            if event.sequence > durable && !self.devices[device].damage.is_healing(space) && !is_cut {
                let sequence = event.sequence;
                self.violate(format!("#{device} shows operation {sequence} before it is durable"));
            }
            if !event.deleted {
                self.sees(device, space, event.key.as_str(), event.value.as_ref());
            }
        }
        self.tell_space(device, space, SpaceInput::Taken { token, events: events.len() });
    }
}

/// Whether an error says that the disk does not give or take something.
fn is_unable(error: &DocumentError) -> bool {
    use DocumentError::{Damaged, NoRoom, NotYet, Storage};
    matches!(error, Damaged { .. } | Storage { .. } | NoRoom(_) | NotYet { .. })
}
