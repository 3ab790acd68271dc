//! What a device tells of changes, in pages and as streams: each change once, in one order, none left out.

use std::collections::BTreeSet;

use syncline::documents::{ChangeEvent, ChangePage, Query, Version};
use syncline_model::{DeviceId, Role};

use crate::happening::Happening;
use crate::ledger::{About, Fate};
use crate::message::SpaceInput;
use crate::random::Choices;
use crate::world::{Violation, World};

/// Changes in one page.
const CHANGES_PAGE: usize = 500;

/// That an operation changed a document, as a device tells it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Told {
    key: String,
    author: DeviceId,
    sequence: u64,
}

impl Told {
    fn of(event: &ChangeEvent) -> Self {
        Self { key: event.key.as_str().to_owned(), author: event.author, sequence: event.sequence }
    }
}

/// A stream of changes that somebody opened.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) device: usize,
    /// What it was asked to begin after.
    asked: Option<Version>,
    /// Where it begins, once that was answered.
    begins: Option<u64>,
    given: Vec<Told>,
}

impl Stream {
    /// Takes note of events; false when they come before it is said where the stream begins.
    pub(crate) fn give(&mut self, events: &[ChangeEvent]) -> bool {
        self.given.extend(events.iter().map(Told::of));
        self.begins.is_some()
    }
}

impl World {
    /// Somebody opens a stream, from now on or from their last write on.
    pub(crate) fn open_stream(&mut self, device: usize, space: usize, choices: &mut Choices) {
        let token = self.number();
        let boot = self.devices[device].boots;
        let last = self.ledgers[space].last_writes.get(&device).filter(|last| last.boot == boot);
        let asked = last.map(|last| last.version).filter(|_| choices.chance(60));
        let stream = Stream { device, asked, begins: None, given: Vec::new() };
        self.ledgers[space].streams.insert(token, stream);
        self.note(device, Happening::Watched, [token, u64::from(asked.is_some())], String::new);
        if asked.is_some() {
            self.trace.count(Happening::WatchedSince, 1);
        }
        self.tell_space(device, space, SpaceInput::Watch { token, since: asked });
    }

    /// A stream begins.
    pub(crate) fn stream_begins(&mut self, space: usize, token: u64, present: Version) {
        if let Some(stream) = self.ledgers[space].streams.get_mut(&token) {
            stream.begins = Some(stream.asked.unwrap_or(present).position);
        }
    }

    /// Asks a device for all changes that it knows of.
    pub(crate) fn ask_changes(&mut self, device: usize, space: usize, since: Option<Version>) {
        self.ask(device, space, Query::Changes { since, limit: CHANGES_PAGE }, About::Changes);
    }

    pub(crate) fn told_changes(&mut self, device: usize, space: usize, page: &ChangePage) {
        let feed = self.ledgers[space].feeds.entry(device).or_default();
        feed.extend(page.events.iter().map(|event| (event.version.position, Told::of(event))));
        if page.more {
            self.ask_changes(device, space, Some(page.version));
        }
    }

    /// How many streams wait for changes that their devices know of.
    pub(crate) fn streams_behind(&self) -> usize {
        let is_behind = |(space, stream): (usize, &Stream)| {
            self.expected(space, stream).is_some_and(|expected| expected.len() > stream.given.len())
        };
        let streams = |space: usize| self.ledgers[space].streams.values().map(move |stream| (space, stream));
        (0..self.ledgers.len()).flat_map(streams).filter(|one| is_behind(*one)).count()
    }

    /// What a stream has to give, if its device told all that it knows.
    fn expected(&self, space: usize, stream: &Stream) -> Option<Vec<&Told>> {
        let (feed, begins) = (self.ledgers[space].feeds.get(&stream.device)?, stream.begins?);
        Some(feed.iter().filter(|(position, _)| *position > begins).map(|(_, told)| told).collect())
    }

    /// Compares all feeds with what was acknowledged, and all streams with the feeds.
    pub(crate) fn check_changes(&mut self) -> Result<(), Violation> {
        for space in 0..self.ledgers.len() {
            let ledger = &self.ledgers[space];
            let reads = |device: &usize| self.plan().spaces[space].role(*device) != Some(Role::Relay);
            for (device, feed) in ledger.feeds.iter().filter(|(device, _)| reads(device)) {
                let told: BTreeSet<&Told> = feed.iter().map(|(_, told)| told).collect();
                if told.len() < feed.len() {
                    return Err(Violation(format!("#{device} tells of a change twice in space {space}")));
                }
                for tried in ledger.tried.values() {
                    let fate = ledger.fate(tried);
                    if !matches!(fate, Fate::Acknowledged | Fate::Cut) {
                        continue;
                    }
                    let Some(sequence) = tried.sequence else { continue };
                    let author = self.surroundings.ids[tried.device];
                    let names = tried.puts.iter().map(|(name, _)| name).chain(&tried.deletes);
                    for key in names.cloned() {
                        let change = Told { key, author, sequence };
                        if told.contains(&change) != (fate == Fate::Acknowledged) {
                            let (Told { key, .. }, tells) =
                                (change, if fate == Fate::Cut { "tells" } else { "does not tell" });
                            return Err(Violation(format!("#{device} {tells} of operation {sequence} on {key}")));
                        }
                    }
                }
            }
            let mut compared = 0;
            for (token, stream) in &ledger.streams {
                let Some(expected) = self.expected(space, stream) else { continue };
                if !expected.iter().copied().eq(&stream.given) {
                    let (device, given, all) = (stream.device, stream.given.len(), expected.len());
                    return Err(Violation(format!(
                        "the stream {token} of #{device} gave {given} changes, of {all} or in another order"
                    )));
                }
                compared += 1;
            }
            self.trace.count(Happening::CheckedStreams, compared);
        }
        Ok(())
    }
}
