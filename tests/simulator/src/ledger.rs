//! What people asked for in one space and what they were told: what must be true at the end follows from it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use syncline::documents::{ConflictPage, Version};
use syncline_model::{IdPrefix, Ticket, VersionVector};

use crate::governing::{Decided, RecordsKnown};
use crate::streams::{Stream, Told};
use crate::texts::Text;

/// What became of something that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Not answered yet.
    Open,
    /// Acknowledged: it must never be lost.
    Acknowledged,
    /// Answered by an error: it must never be seen.
    Refused,
    /// Acknowledged, and behind what counts of its device's log now: nothing of it may be seen at the end.
    Cut,
    /// Its device stopped before it answered: it may have been written or not, as a whole.
    Unanswered,
}

/// A transaction that somebody asked for.
#[derive(Debug, Clone)]
pub(crate) struct Tried {
    pub(crate) device: usize,
    pub(crate) fate: Fate,
    /// Documents that nobody else writes, with the values that they get.
    pub(crate) puts: Vec<(String, Value)>,
    /// Documents that nobody else writes and that it deletes.
    pub(crate) deletes: Vec<String>,
    /// A counter and what is added to it.
    pub(crate) adds: Option<(String, u64)>,
    /// Whether it edits its device's text.
    pub(crate) is_text: bool,
    /// What may be refused, and how.
    pub(crate) refusal: Refusal,
    /// Its position in its device's log.
    pub(crate) sequence: Option<u64>,
}

/// Whether a transaction may be refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Never: its device may write, and it fits.
    Never,
    /// It may not fit what others did to the document.
    Misfit,
    /// Its device is not admitted yet, as far as it knows.
    Stranger,
    /// Always: its device may not write.
    Always,
    /// Always: its device knows that it lost the right to write.
    Lost,
}

/// A question that somebody asked.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub(crate) device: usize,
    pub(crate) about: About,
}

/// What a question is about.
#[derive(Debug, Clone)]
pub(crate) enum About {
    /// One document, which its device must show if it is known to have shown or written it.
    Document { key: String, must_exist: bool },
    /// A document that its device wrote, by the causal token of the acknowledgement of this start.
    OwnWrite { key: String, boot: u64 },
    /// The text of its device.
    OwnText,
    /// Documents that come in pairs.
    Pairs,
    /// Anything else.
    Anything,
    /// All documents, at the end.
    Everything,
    /// The state of one document, at the end.
    Heads { key: String },
    /// All conflicts, at the end.
    Conflicts,
    /// All changes, at the end.
    Changes,
    /// Figures, at the end.
    Stats,
}

/// What one device shows at the end.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Shown {
    pub(crate) documents: BTreeMap<String, Value>,
    pub(crate) heads: BTreeMap<String, Option<Vec<syncline::documents::ChangeHash>>>,
    pub(crate) conflicts: Option<ConflictPage>,
}

/// The last write of a device that only it makes, with its causal token.
#[derive(Debug, Clone)]
pub(crate) struct LastWrite {
    pub(crate) key: String,
    pub(crate) version: Version,
    pub(crate) boot: u64,
}

/// All that was asked and told in one space.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) tried: BTreeMap<u64, Tried>,
    /// Transactions that are not answered, and whose device did not stop, with their devices.
    pub(crate) open: BTreeMap<u64, usize>,
    pub(crate) questions: BTreeMap<u64, Question>,
    /// The transaction that puts a document that nobody else writes.
    pub(crate) puts: BTreeMap<String, u64>,
    /// The documents that each device put and nobody else writes, in the order of asking.
    pub(crate) own: BTreeMap<usize, Vec<String>>,
    pub(crate) last_writes: BTreeMap<usize, LastWrite>,
    /// Documents of their own that were seen, and where.
    pub(crate) seen: BTreeMap<String, BTreeSet<usize>>,
    /// Documents whose deletion somebody asked for.
    pub(crate) condemned: BTreeSet<String>,
    /// Counters, with the founder's operation that made each.
    pub(crate) counters: BTreeMap<String, Option<u64>>,
    /// The text that each device writes.
    pub(crate) texts: BTreeMap<usize, Text>,
    /// The ids of the operations that each device made durable in its own log.
    pub(crate) logs: BTreeMap<usize, Vec<IdPrefix>>,
    /// What each device said to be durable when it last settled.
    pub(crate) durable: BTreeMap<usize, VersionVector>,
    pub(crate) shown: BTreeMap<usize, Shown>,
    /// What the records say.
    pub(crate) decided: Decided,
    /// Governing acts that are asked for: by whom, and what the records said then.
    pub(crate) acts: BTreeMap<u64, (usize, RecordsKnown)>,
    /// Whether a device stopped before it told what became of such an act.
    pub(crate) has_lost_acts: bool,
    /// Whether somebody was asked to take it over: until that is known nobody else is asked to govern, since what the
    /// former steward decided at the same time would be as if it had never been.
    pub(crate) is_being_taken_over: bool,
    /// At the end, how far the logs count that were cut.
    pub(crate) counts: BTreeMap<usize, u64>,
    /// For whom an invitation is made.
    pub(crate) invitations: BTreeMap<u64, Vec<usize>>,
    pub(crate) tickets: BTreeMap<usize, Ticket>,
    pub(crate) streams: BTreeMap<u64, Stream>,
    /// All changes that each device tells of, with the position of each.
    pub(crate) feeds: BTreeMap<usize, Vec<(u64, Told)>>,
}

impl Ledger {
    /// Of a space that this device founds.
    pub(crate) fn new(founder: usize) -> Self {
        Self { decided: Decided { steward: founder, ..Decided::default() }, ..Self::default() }
    }

    /// How many transactions and questions wait for their answer.
    pub(crate) fn open_questions(&self) -> usize {
        self.open.len() + self.questions.len()
    }

    /// A device stopped: what it had not answered remains unanswered.
    pub(crate) fn stopped(&mut self, device: usize) {
        for (token, _) in self.open.extract_if(.., |_, other| *other == device) {
            if let Some(tried) = self.tried.get_mut(&token) {
                tried.fate = Fate::Unanswered;
            }
        }
        if let Some(text) = self.texts.get_mut(&device) {
            text.stopped();
        }
        let lost = self.acts.extract_if(.., |_, (other, _)| *other == device).count();
        self.has_lost_acts |= lost > 0;
        self.questions.retain(|_, question| question.device != device);
        self.streams.retain(|_, stream| stream.device != device);
    }

    /// What a document that only one transaction writes must look like, if that is such a document.
    pub(crate) fn expected(&self, key: &str) -> Option<(&Tried, &Value)> {
        let tried = self.tried.get(self.puts.get(key)?)?;
        let (_, value) = tried.puts.iter().find(|(other, _)| other == key)?;
        Some((tried, value))
    }

    /// What became of a transaction, as far as its device's log counts at the end.
    pub(crate) fn fate(&self, tried: &Tried) -> Fate {
        let counts = self.counts.get(&tried.device).copied().unwrap_or(u64::MAX);
        match tried.fate {
            Fate::Acknowledged if tried.sequence.is_some_and(|sequence| sequence > counts) => Fate::Cut,
            fate => fate,
        }
    }

    /// Whether something may be gone at the end that somebody saw, since its author's log was cut before it.
    pub(crate) fn may_be_gone(&self, name: &str) -> bool {
        self.expected(name).is_some_and(|(tried, _)| {
            let counts = self.counts.get(&tried.device);
            counts.is_some_and(|counts| tried.sequence.is_none_or(|sequence| sequence > *counts))
        })
    }

    /// How many transactions were acknowledged.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.tried.values().filter(|tried| tried.fate == Fate::Acknowledged).count() as u64
    }
}
