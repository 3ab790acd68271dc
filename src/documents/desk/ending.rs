//! How things end: requests given up, a desk closed, an index that failed.

use syncline_model::DocumentKey;
use syncline_storage::IndexError;

use super::read::Reader;
use super::{Desk, Purpose, Turn};
use crate::documents::error::DocumentError;
use crate::documents::request::{Input, Output, Token};

impl Desk {
    /// Gives up a request that is still open here.
    pub(super) fn cancel(&mut self, token: Token, turn: &mut Turn<'_>) {
        let mut found = false;
        for queries in self.waiting.values_mut() {
            let before = queries.len();
            queries.retain(|(waiting, _)| *waiting != token);
            found |= queries.len() < before;
        }
        self.waiting.retain(|_, queries| !queries.is_empty());
        for held in self.held.values_mut() {
            let before = held.len();
            held.retain(|held| held.token() != Some(token));
            found |= held.len() < before;
        }
        self.held.retain(|_, held| !held.is_empty());
        let gathers = self.gathers.len();
        self.gathers.retain(|_, gather| gather.token() != Some(token));
        found |= self.gathers.len() < gathers;
        let mut cancelled = Vec::new();
        for (id, task) in &mut self.tasks {
            match &task.purpose {
                Purpose::Read(Reader::Caller(reader)) if *reader == token => {
                    task.purpose = Purpose::Read(Reader::Nobody);
                    found = true;
                }
                Purpose::Transact(writer) if *writer == token && !task.running => cancelled.push(*id),
                _ => {}
            }
        }
        for id in cancelled {
            found = true;
            if let Some(task) = self.tasks.remove(&id) {
                self.leave(id, &task.keys);
            }
        }
        if found {
            turn.answer(token, Err(DocumentError::Cancelled));
        }
    }

    /// Stops for good: the index cannot be trusted any more.
    pub(super) fn fail(&mut self, error: &IndexError, turn: &mut Turn<'_>) {
        let reason = format!("the index failed ({error}); it is made anew at the next start");
        tracing::error!(space = %self.space.short(), %error, "the documents stopped");
        self.answer_all(turn, || DocumentError::Storage { reason: reason.clone() });
        self.failed = Some(reason);
    }

    /// Answers everything that is open, but for transactions that the core has.
    pub(super) fn answer_all(&mut self, turn: &mut Turn<'_>, error: impl Fn() -> DocumentError) {
        for (_, task) in std::mem::take(&mut self.tasks) {
            match task.purpose {
                Purpose::Transact(token) | Purpose::Read(Reader::Caller(token)) => turn.answer(token, Err(error())),
                Purpose::Read(_) | Purpose::Touch | Purpose::Settle => {}
            }
        }
        let waiting = std::mem::take(&mut self.waiting).into_values().flatten().map(|(token, _)| token);
        let held = std::mem::take(&mut self.held).into_values().flatten().filter_map(|held| held.token());
        let gathers = std::mem::take(&mut self.gathers).into_values().filter_map(|gather| gather.token());
        for token in waiting.chain(held).chain(gathers) {
            turn.answer(token, Err(error()));
        }
        for (token, watcher) in std::mem::take(&mut self.watchers) {
            let resume = self.catalog.version(watcher.position());
            turn.out.push(Output::Unwatched { token, resume, reason: error() });
        }
        self.ready.clear();
        self.gated.clear();
        self.settling = 0;
    }

    /// Ends: what is open is answered, what is in memory is kept for the next start.
    pub(super) fn close(&mut self, turn: &mut Turn<'_>) -> Result<(), IndexError> {
        self.closing = true;
        self.answer_all(turn, || DocumentError::Stopping);
        let keys: Vec<DocumentKey> = self.cache.keys().cloned().collect();
        for key in keys {
            if let Some(slot) = self.cache.get_mut(&key) {
                slot.queue.clear();
            }
            self.cache.rest(&key);
        }
        while let Some((key, loaded)) = self.cache.evict(true) {
            self.keep_snapshot(&key, &loaded, turn)?;
        }
        if self.pending.is_empty() { self.catalog.close() } else { Ok(()) }
    }

    /// Until the end only the core's verdicts on transactions matter.
    pub(super) fn handle_closing(&mut self, input: Input, turn: &mut Turn<'_>) {
        let handled = match input {
            Input::Committed { token, author, sequence, past } => {
                let recorded = self.committed(token, author, sequence, past.as_ref(), turn);
                recorded.and_then(|()| if self.pending.is_empty() { self.catalog.close() } else { Ok(()) })
            }
            Input::Aborted { token, reason } => {
                self.aborted(token, reason, turn);
                Ok(())
            }
            other => {
                refuse(&other, turn, || DocumentError::Stopping);
                Ok(())
            }
        };
        if let Err(error) = handled {
            self.fail(&error, turn);
        }
    }

    /// Forgets all that is derived, and counts anew.
    pub(super) fn rebuild(&mut self, turn: &mut Turn<'_>) -> Result<(), IndexError> {
        let resume = self.catalog.version(self.catalog.position());
        for (token, _) in std::mem::take(&mut self.watchers) {
            let reason = DocumentError::ForeignVersion { version: resume };
            turn.out.push(Output::Unwatched { token, resume, reason });
        }
        for (token, _) in std::mem::take(&mut self.waiting).into_values().flatten() {
            turn.answer(token, Err(DocumentError::ForeignVersion { version: resume }));
        }
        let keys: Vec<DocumentKey> = self.cache.keys().cloned().collect();
        for key in keys {
            self.cache.discard(&key);
        }
        self.lineage.stale = true;
        self.catalog.clear(turn.random)
    }
}

/// Answers an input that cannot be handled any more.
pub(super) fn refuse(input: &Input, turn: &mut Turn<'_>, error: impl Fn() -> DocumentError) {
    match input {
        Input::Transact { token, .. }
        | Input::Query { token, .. }
        | Input::Watch { token, .. }
        | Input::Committed { token, .. }
        | Input::Aborted { token, .. } => turn.answer(*token, Err(error())),
        Input::Apply(_)
        | Input::LeaveOut(_)
        | Input::Rebuild
        | Input::MakeRoom
        | Input::Taken { .. }
        | Input::Unwatch { .. }
        | Input::Cancel { .. }
        | Input::Worked(_)
        | Input::Close => {}
    }
}
