//! Opening: admitted operations wait here, in causal order, until their sealed bytes are at hand and decrypted.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, PoisonError, RwLock};

use syncline_model::keys::open;
use syncline_model::planted::{Bug, planted};
use syncline_model::{Action, Admitted, ContentKey, DeviceId, Kind, Past, Run, Transaction, VerifiedRun};

use super::core::Effect;
use super::log_state::LogState;
use crate::documents::Opened;

/// Bytes of verified runs that are kept for opening; beyond it they are read from the log again.
const KEPT_BYTES_MAX: usize = 32 << 20;

/// What the documents see next.
#[derive(Debug)]
enum Item {
    /// A stretch of one log's admitted operations.
    Stretch { log: DeviceId, first: u64, last: u64 },
    /// This device's own transaction: the documents have its content already.
    Own { token: u64, sequence: u64, past: Option<Past> },
}

/// What the documents have not seen yet, and the runs that it is in.
#[derive(Debug, Default)]
pub(super) struct OpenQueue {
    items: VecDeque<Item>,
    kept: BTreeMap<DeviceId, VecDeque<VerifiedRun>>,
    kept_bytes: usize,
    read: VecDeque<(DeviceId, Run)>,
    reading: bool,
    /// Operations that no key here opens, or whose content is malformed.
    unreadable: u64,
    /// Epochs of those of them whose key is not here, that the documents were not told of.
    left_out: BTreeSet<u32>,
}

impl OpenQueue {
    /// Keeps a run's bytes at hand, as long as there is room.
    pub(super) fn keep(&mut self, log: DeviceId, run: &VerifiedRun) {
        if self.kept_bytes + run.bytes().len() <= KEPT_BYTES_MAX {
            self.kept_bytes += run.bytes().len();
            self.kept.entry(log).or_default().push_back(run.clone());
        }
    }

    /// Queues an admitted data operation.
    pub(super) fn admit(&mut self, admitted: &Admitted) {
        match self.items.back_mut() {
            Some(Item::Stretch { log, last, .. }) if *log == admitted.log && *last + 1 == admitted.sequence => {
                *last = admitted.sequence;
            }
            _ => self.items.push_back(Item::Stretch {
                log: admitted.log,
                first: admitted.sequence,
                last: admitted.sequence,
            }),
        }
    }

    /// Queues the acknowledgement of an own transaction behind what it builds on.
    pub(super) fn own(&mut self, token: u64, sequence: u64, past: Option<Past>) {
        self.items.push_back(Item::Own { token, sequence, past });
    }

    /// How many operations could not be opened.
    pub(super) fn unreadable(&self) -> u64 {
        self.unreadable
    }

    /// Takes runs that [`Effect::Read`] asked for.
    pub(super) fn give(&mut self, log: DeviceId, runs: Vec<Run>) {
        self.reading = false;
        self.read = runs.into_iter().map(|run| (log, run)).collect();
    }

    /// Opens as much as is at hand, and asks for what is missing.
    pub(super) fn advance(&mut self, state: &LogState, out: &mut Vec<Effect>) {
        let mut opened = Vec::new();
        while !self.reading {
            match self.items.front() {
                None => break,
                Some(Item::Own { .. }) => {
                    self.flush(&mut opened, out);
                    if let Some(Item::Own { token, sequence, past }) = self.items.pop_front() {
                        out.push(Effect::Committed { token, sequence, past });
                    }
                }
                Some(Item::Stretch { log, first, last }) => {
                    let (log, first, last) = (*log, *first, *last);
                    let reached = self.open_stretch(state, log, first, last, &mut opened);
                    self.shorten(reached);
                    if reached < last {
                        self.reading = true;
                        out.push(Effect::Read { log, after: reached, through: last });
                    }
                }
            }
        }
        // What was read and does not belong to the front is not needed: it was opened from memory.
        if self.items.is_empty() {
            self.read.clear();
        }
        self.flush(&mut opened, out);
    }

    fn flush(&mut self, opened: &mut Vec<Opened>, out: &mut Vec<Effect>) {
        if !self.left_out.is_empty() {
            out.push(Effect::LeaveOut(std::mem::take(&mut self.left_out)));
        }
        if !opened.is_empty() {
            out.push(Effect::Apply(std::mem::take(opened)));
        }
    }

    /// Opens a stretch as far as its bytes are at hand; returns the last sequence opened (`first - 1`: none).
    fn open_stretch(
        &mut self,
        state: &LogState,
        log: DeviceId,
        first: u64,
        last: u64,
        opened: &mut Vec<Opened>,
    ) -> u64 {
        let mut reached = first - 1;
        while reached < last {
            let next = reached + 1;
            let through = if let Some(run) = self.kept_run(log, next) {
                let through = run.last().min(last);
                self.open_run(state, (log, &run), (next, through), opened);
                through
            } else if let Some(at) = self.read.iter().position(|(of, run)| *of == log && run.operation(next).is_some())
            {
                let (_, run) = self.read.remove(at).expect("it was just found");
                let through = run.last().min(last);
                self.open_run(state, (log, &run), (next, through), opened);
                if through < run.last() {
                    self.read.push_front((log, run));
                }
                through
            } else {
                break;
            };
            reached = through;
        }
        reached
    }

    /// Opens a stretch of a run; takes note of what cannot be opened.
    fn open_run(
        &mut self,
        state: &LogState,
        (log, run): (DeviceId, &Run),
        (first, last): (u64, u64),
        opened: &mut Vec<Opened>,
    ) {
        for sequence in first..=last {
            if let Some(operation) = open_operation(state, log, run, sequence) {
                opened.push(operation);
            } else if let Some(operation) = run.operation(sequence).filter(|operation| operation.kind == Kind::DATA) {
                self.unreadable += 1;
                if !state.keys.content.contains_key(&operation.epoch) {
                    self.left_out.insert(operation.epoch);
                }
            }
        }
    }

    /// The kept run that covers `sequence`; earlier runs of the author are no longer needed.
    fn kept_run(&mut self, log: DeviceId, sequence: u64) -> Option<VerifiedRun> {
        let runs = self.kept.get_mut(&log)?;
        while let Some(run) = runs.pop_front_if(|run| run.last() < sequence) {
            self.kept_bytes -= run.bytes().len();
        }
        let run = runs.front().filter(|run| run.operation(sequence).is_some()).cloned();
        if runs.is_empty() {
            self.kept.remove(&log);
        }
        run
    }

    fn shorten(&mut self, reached: u64) {
        if let Some(Item::Stretch { first, last, .. }) = self.items.front_mut() {
            *first = reached + 1;
            if *first > *last {
                self.items.pop_front();
            }
        }
    }
}

/// Decrypts one operation; None when no key here opens it or its content is malformed, which is its author's fault.
///
/// The documents know operations by the log that they are in: of an author that forked there may be several.
fn open_operation(state: &LogState, log: DeviceId, run: &Run, sequence: u64) -> Option<Opened> {
    let transaction = open_transaction(&state.keys.content, run, sequence)?;
    let deletes = transaction.entries.iter().any(|entry| entry.action == Action::Delete);
    Some(Opened {
        author: log,
        writer: run.author(),
        sequence,
        wall_time_ms: transaction.wall_time_ms,
        lineage: transaction.lineage,
        actor: transaction.lineage.actor(&run.space(), &run.author()),
        entries: transaction.entries,
        past: (deletes && !planted(Bug::DeletePastForgotten)).then(|| state.admission.causality().past(log, sequence)),
        own: log == state.device.id(),
    })
}

/// Decrypts the transaction at `sequence` with the key of its epoch.
fn open_transaction(keys: &BTreeMap<u32, ContentKey>, run: &Run, sequence: u64) -> Option<Transaction> {
    let operation = run.operation(sequence)?;
    let key = keys.get(&operation.epoch)?;
    let header = run.header(sequence)?.canonical_bytes();
    let plaintext = open(key, &header, run.payload(operation)).ok()?;
    Transaction::from_plaintext(&plaintext).ok()
}

/// The content keys as whoever reads operations from the log again needs them, on whichever thread.
#[derive(Debug, Clone, Default)]
pub(super) struct Keyring(Arc<RwLock<BTreeMap<u32, ContentKey>>>);

impl Keyring {
    /// Takes over the keys that are here now.
    pub(super) fn renew(&self, state: &LogState) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).clone_from(&state.keys.content);
    }

    /// Decrypts the transaction at `sequence`.
    pub(super) fn open(&self, run: &Run, sequence: u64) -> Option<Transaction> {
        open_transaction(&self.0.read().unwrap_or_else(PoisonError::into_inner), run, sequence)
    }
}
