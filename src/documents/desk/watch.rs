//! Streams of changes: each watcher stands at a position and is fed from there.
//!
//! A watcher at the present is given what becomes visible. One that is behind, because it resumed an old position or
//! because its reader is slow, is fed from the feed as its reader takes events; so nothing piles up for anybody.

use std::collections::BTreeMap;

use syncline_model::DocumentKey;
use syncline_model::planted::{Bug, planted};
use syncline_storage::IndexError;

use super::record::{Recorded, deed};
use super::{Desk, Turn};
use crate::documents::error::DocumentError;
use crate::documents::feed::Visible;
use crate::documents::operations::Content;
use crate::documents::request::{Answer, ChangeEvent, ChangePage, Output, Token};
use crate::documents::version::Version;

/// Streams that may be open at once.
const WATCHERS_MAX: usize = 10_000;
/// Events given to a watcher that its reader has not taken yet, beyond which it pauses.
const WATCH_BACKLOG_MAX: usize = 4096;
/// Operations read from the feed at once for a watcher that is behind.
const WATCH_PAGE: usize = 256;
/// Most operations read for one page of changes.
const PAGE_OPERATIONS_MAX: usize = 10_000;

/// One stream.
#[derive(Debug)]
pub(super) struct Watcher {
    prefix: String,
    values: bool,
    /// All events up to here were given, or are in `gathering`.
    position: u64,
    /// Events given and not taken.
    backlog: usize,
    /// Where it stood before the events whose values are being read.
    gathering: Option<u64>,
}

impl Watcher {
    /// All events up to here were given.
    pub(super) fn position(&self) -> u64 {
        self.gathering.unwrap_or(self.position)
    }

    fn may_take(&self) -> bool {
        self.backlog < WATCH_BACKLOG_MAX && self.gathering.is_none()
    }
}

impl Desk {
    /// Opens a stream.
    pub(super) fn watch(
        &mut self,
        token: Token,
        prefix: String,
        since: Option<Version>,
        values: bool,
        turn: &mut Turn<'_>,
    ) {
        if self.watchers.len() >= WATCHERS_MAX {
            let error = DocumentError::Overloaded { what: "streams", limit: WATCHERS_MAX };
            return turn.answer(token, Err(error));
        }
        let present = self.catalog.position();
        let position = match since.map_or(Ok(present), |version| self.catalog.position_of(version)) {
            Ok(position) => position.min(present),
            Err(error) => return turn.answer(token, Err(error)),
        };
        turn.answer(token, Ok(Answer::Watching(self.catalog.version(position))));
        self.watchers.insert(token, Watcher { prefix, values, position, backlog: 0, gathering: None });
    }

    /// The reader of a stream has taken events.
    pub(super) fn taken(&mut self, token: Token, events: usize) {
        if let Some(watcher) = self.watchers.get_mut(&token) {
            watcher.backlog = watcher.backlog.saturating_sub(events);
        }
    }

    /// Gives what just became visible to the watchers at the present.
    pub(super) fn tell_watchers(&mut self, recorded: &Recorded, turn: &mut Turn<'_>) {
        let at_present = |watcher: &Watcher| watcher.may_take() && watcher.position == recorded.before;
        let told: Vec<Token> =
            self.watchers.iter().filter(|(_, watcher)| at_present(watcher)).map(|(token, _)| *token).collect();
        for token in told {
            self.give(token, &recorded.events, recorded.position, turn);
        }
    }

    /// Feeds the watchers that are behind, as far as their readers keep up.
    pub(super) fn advance_watchers(&mut self, turn: &mut Turn<'_>) -> Result<(), IndexError> {
        let present = self.catalog.position();
        let behind = |watcher: &Watcher| watcher.may_take() && watcher.position < present;
        let behind: Vec<Token> =
            self.watchers.iter().filter(|(_, watcher)| behind(watcher)).map(|(token, _)| *token).collect();
        for token in behind {
            while let Some(watcher) = self.watchers.get(&token)
                && watcher.may_take()
                && watcher.position < present
            {
                let after = watcher.position;
                let skipped = u64::from(planted(Bug::WatcherSkipsEvent));
                let visible = self.catalog.feed(after + skipped, WATCH_PAGE)?;
                // A feed that ends early is a damaged one; the watcher goes on with what comes.
                let reached = visible.last().map_or(present, |last| last.position);
                match self.events_of(&visible) {
                    Ok(events) => self.give(token, &events, reached, turn),
                    Err(reason) => {
                        self.watchers.remove(&token);
                        turn.out.push(Output::Unwatched { token, resume: self.catalog.version(after), reason });
                    }
                }
            }
        }
        Ok(())
    }

    fn give(&mut self, token: Token, events: &[ChangeEvent], reached: u64, turn: &mut Turn<'_>) {
        let Some(watcher) = self.watchers.get_mut(&token) else { return };
        let wanted = |event: &&ChangeEvent| event.key.as_str().starts_with(&watcher.prefix);
        let events: Vec<ChangeEvent> = events.iter().filter(wanted).cloned().collect();
        let before = std::mem::replace(&mut watcher.position, reached);
        if events.is_empty() {
            return;
        }
        watcher.backlog += events.len();
        if watcher.values {
            watcher.gathering = Some(before);
            self.gather_events(token, events, turn);
        } else {
            turn.out.push(Output::Change { token, events });
        }
    }

    /// The values of events are there.
    pub(super) fn events_ready(&mut self, token: Token, events: Vec<ChangeEvent>, turn: &mut Turn<'_>) {
        if let Some(watcher) = self.watchers.get_mut(&token) {
            watcher.gathering = None;
            turn.out.push(Output::Change { token, events });
        }
    }

    /// A page of what became visible after a position.
    pub(super) fn changes_after(
        &self,
        after: u64,
        limit: usize,
    ) -> Result<Result<ChangePage, DocumentError>, IndexError> {
        let present = self.catalog.position();
        let (mut events, mut reached) = (Vec::new(), after.min(present));
        let mut read = 0;
        while events.len() < limit && reached < present && read < PAGE_OPERATIONS_MAX {
            let visible = self.catalog.feed(reached, limit.min(WATCH_PAGE))?;
            let Some(last) = visible.last() else {
                reached = present;
                break;
            };
            read += visible.len();
            let mut end = last.position;
            match self.events_of(&visible) {
                Ok(more) => {
                    for event in more {
                        // A page ends with a whole operation.
                        if events.len() >= limit
                            && events.last().is_some_and(|last: &ChangeEvent| last.version != event.version)
                        {
                            end = event.version.position - 1;
                            break;
                        }
                        events.push(event);
                    }
                }
                Err(error) => return Ok(Err(error)),
            }
            reached = end;
        }
        let version = self.catalog.version(reached);
        Ok(Ok(ChangePage { events, version, more: reached < present }))
    }

    /// The events of operations; one that cannot be opened any more has none.
    fn events_of(&self, visible: &[Visible]) -> Result<Vec<ChangeEvent>, DocumentError> {
        let mut events = Vec::new();
        let mut exists: BTreeMap<DocumentKey, bool> = BTreeMap::new();
        let follows = |a: &Visible, b: &Visible| {
            a.operation.author == b.operation.author && a.operation.sequence + 1 == b.operation.sequence
        };
        for stretch in visible.chunk_by(follows) {
            let (first, last) = (stretch[0], stretch[stretch.len() - 1]);
            let Some(log) = self.catalog.author(first.operation.author) else { continue };
            let (after, through) = (first.operation.sequence - 1, last.operation.sequence);
            let read = self.shared.operations.read(&log, after, through, &mut |content| {
                let position = first.position + (content.sequence - first.operation.sequence);
                let mut keys: Vec<DocumentKey> = content.entries.iter().map(|entry| deed(entry).key).collect();
                keys.sort_unstable();
                keys.dedup();
                let event = |key| self.event(key, position, content);
                events.extend(keys.into_iter().map(event));
            });
            read.map_err(|error| DocumentError::Storage { reason: error.to_string() })?;
        }
        for event in &mut events {
            if !exists.contains_key(&event.key) {
                let entry = self.catalog.entry(&event.key);
                let entry = entry.map_err(|error| DocumentError::Storage { reason: error.to_string() })?;
                exists.insert(event.key.clone(), entry.is_some_and(|entry| entry.exists()));
            }
            event.deleted = !exists[&event.key];
        }
        Ok(events)
    }

    fn event(&self, key: DocumentKey, position: u64, content: &Content) -> ChangeEvent {
        let Content { author, sequence, wall_time_ms, .. } = *content;
        let version = self.catalog.version(position);
        ChangeEvent { key, deleted: false, version, author, sequence, wall_time_ms, value: None }
    }
}
