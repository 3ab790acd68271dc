//! Taking in changes that were made elsewhere.
//!
//! Automerge assumes that a change was made by Automerge. Each change is therefore held against the rules that
//! Automerge follows when it makes one, and the rules look only at the change and at its causal past, so that all
//! replicas judge alike:
//! 1. its dependencies are held; the previous change of its actor is among them or theirs;
//! 2. its sequence is the next of its actor, its operations are numbered after those of its dependencies;
//! 3. every operation that it names lies in its causal past.
//!
//! What passes is applied to a copy (copying is cheap: Automerge's columns are compact), behind a panic guard. The
//! copy takes the document's place only if it can be read and if every change can be written again from it as the
//! same bytes; a change that cannot would make each later snapshot unloadable.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use automerge::{ActorId, Automerge, Change, ChangeHash as Hash, ObjId, ReadDoc, legacy};

use super::change::{ChangeError, ChangeHash, ChangeHeader, ParsedChange};
use super::document::Document;
use super::limits::{ACTOR_BYTES, MAX_CHANGES_PER_APPLY, MAX_OPERATION_COUNTER, MAX_OPERATION_GAP};
use super::view::Reader;

/// A change that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IncomingChange {
    /// The raw change chunk.
    pub bytes: Vec<u8>,
    /// The actor that its operation allows, or `None` for a change of another Automerge program, which may use any
    /// actor that is not [`ACTOR_BYTES`] long.
    pub expected_actor: Option<[u8; ACTOR_BYTES]>,
}

/// What came of a batch of changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// For each change, in the order given, what came of it.
    pub outcomes: Vec<Result<Received, Rejected>>,
    /// The heads of the document now.
    pub heads: Vec<ChangeHash>,
}

/// A change that the document holds now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// It is new.
    New(ChangeHeader),
    /// The document held it before, or the batch held it twice.
    Duplicate(ChangeHeader),
}

/// Why the document does not hold a change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejected {
    /// The bytes are not an acceptable change.
    #[error(transparent)]
    Invalid(#[from] ChangeError),
    /// Changes that it depends on are not held; offer it again with them.
    #[error("the change depends on {} changes that are not held: apply those first", .0.len())]
    MissingDependencies(Vec<ChangeHash>),
    /// Another change with the same actor and sequence is held; which one counts is decided by [`super::select`].
    #[error("another change of the same actor has the same sequence: select one and rebuild the document")]
    Conflicts {
        /// The change that is held.
        existing: ChangeHash,
    },
    /// Its sequence does not follow the last one of its actor, although its dependencies are held.
    #[error("the sequence of the change does not follow its actor's last: expected {expected}")]
    SequenceGap {
        /// The next sequence of the actor.
        expected: u64,
    },
    /// It was not made on top of the previous change of its actor.
    #[error("the change does not depend on the previous change of its actor")]
    ForgetsItsActor,
    /// Its operations are not numbered after those of its dependencies.
    #[error("the operations of the change start at a wrong number: expected {expected}")]
    WrongStart {
        /// The number after the highest operation of its dependencies.
        expected: u64,
    },
    /// One of its operations names an operation outside of its causal past.
    #[error("the change refers to an operation that it cannot know")]
    UnknownReference,
    /// Its actor is not the one that its operation allows.
    #[error("the actor of the change is not the one of the operation that carries it")]
    WrongActor,
    /// A change of another program uses an actor of the length reserved for derived ones.
    #[error("actors of {ACTOR_BYTES} bytes are reserved: use another length")]
    ReservedActor,
    /// The batch holds too many changes.
    #[error("more than {MAX_CHANGES_PER_APPLY} changes at once: apply the rest in another batch")]
    BatchTooLarge,
    /// Automerge failed on it.
    #[error("Automerge failed on the change; the document is unharmed")]
    Panicked,
    /// Automerge took it, but it cannot be read or written again.
    #[error("the change is not one that Automerge makes: {0}")]
    Unusable(String),
    /// The document failed before and has to be loaded again.
    #[error("the document failed and has to be loaded again from its changes")]
    DocumentFailed,
}

impl Document {
    /// Takes in changes of other devices, in any order, as one batch.
    ///
    /// Applying costs time in proportion to the document, once per call: give all that is at hand. The result does
    /// not depend on the order of the batch, except that of two changes with one (actor, sequence) the first wins
    /// here. Never panics; refused changes leave no trace.
    pub fn apply(&mut self, incoming: Vec<IncomingChange>) -> Applied {
        let mut outcomes: Vec<Option<Result<Received, Rejected>>> = Vec::with_capacity(incoming.len());
        let mut batch = Vec::new();
        let mut repeated = Vec::new();
        let mut seen: BTreeMap<ChangeHash, usize> = BTreeMap::new();
        for (index, incoming) in incoming.into_iter().enumerate() {
            let judged = if self.has_failed() {
                Err(Rejected::DocumentFailed)
            } else if index >= MAX_CHANGES_PER_APPLY {
                Err(Rejected::BatchTooLarge)
            } else {
                admit(&incoming)
            };
            match judged {
                Err(rejected) => outcomes.push(Some(Err(rejected))),
                Ok(parsed) => {
                    outcomes.push(None);
                    match seen.get(&parsed.header.hash) {
                        Some(first) => repeated.push((index, *first)),
                        None => {
                            seen.insert(parsed.header.hash, index);
                            batch.push(Arrival { index, parsed });
                        }
                    }
                }
            }
        }
        self.apply_batch(batch, &mut outcomes);
        for (index, first) in repeated {
            outcomes[index] = outcomes[first].clone().map(|outcome| outcome.map(Received::again));
        }
        // Every arrival is decided above; a gap would be a defect here, so it is reported as a refusal.
        let outcomes = outcomes.into_iter().map(|outcome| outcome.unwrap_or(Err(Rejected::Panicked))).collect();
        Applied { outcomes, heads: self.heads() }
    }

    fn apply_batch(&mut self, batch: Vec<Arrival>, outcomes: &mut [Option<Result<Received, Rejected>>]) {
        let mut batches = vec![batch];
        while let Some(batch) = batches.pop() {
            let Judgement { mut accepted, held, refused } = Plan::new(self).judge(batch);
            for arrival in held {
                outcomes[arrival.index] = Some(Ok(Received::Duplicate(arrival.parsed.header)));
            }
            let attempted = if accepted.is_empty() { Ok(None) } else { attempt(self.automerge(), &accepted).map(Some) };
            match attempted {
                Ok(automerge) => {
                    self.take_over(automerge, accepted, outcomes);
                    outcomes_of(refused, outcomes);
                }
                // What was refused may have been refused because of the culprit: judge it again without.
                Err(error) if accepted.len() == 1 => {
                    outcomes_of(accepted.into_iter().map(|culprit| (culprit, error.clone())), outcomes);
                    batches.push(refused.into_iter().map(|(arrival, _)| arrival).collect());
                }
                // Halving finds the culprits in few calls. The order is topological, so the first half stands
                // alone, and judging the second half again refuses what depends on a culprit.
                Err(_) => {
                    let mut second = accepted.split_off(accepted.len() / 2);
                    second.extend(refused.into_iter().map(|(arrival, _)| arrival));
                    batches.push(second);
                    batches.push(accepted);
                }
            }
        }
    }

    fn take_over(
        &mut self,
        automerge: Option<Automerge>,
        accepted: Vec<Arrival>,
        outcomes: &mut [Option<Result<Received, Rejected>>],
    ) {
        let Some(automerge) = automerge else { return };
        self.replace(automerge);
        for arrival in accepted {
            let ParsedChange { header, change, .. } = arrival.parsed;
            self.note(change.actor_id(), &header, change.raw_bytes().len());
            outcomes[arrival.index] = Some(Ok(Received::New(header)));
        }
    }
}

fn outcomes_of(
    refused: impl IntoIterator<Item = (Arrival, Rejected)>,
    outcomes: &mut [Option<Result<Received, Rejected>>],
) {
    for (arrival, rejected) in refused {
        outcomes[arrival.index] = Some(Err(rejected));
    }
}

impl Received {
    fn again(self) -> Self {
        match self {
            Self::New(header) | Self::Duplicate(header) => Self::Duplicate(header),
        }
    }
}

/// A decoded change on its way through a batch.
struct Arrival {
    /// Its position in what the caller gave.
    index: usize,
    parsed: ParsedChange,
}

/// Decodes a change and checks its actor.
fn admit(incoming: &IncomingChange) -> Result<ParsedChange, Rejected> {
    let parsed = ParsedChange::parse(&incoming.bytes)?;
    match &incoming.expected_actor {
        Some(expected) if parsed.header.actor != expected => Err(Rejected::WrongActor),
        None if parsed.header.actor.len() == ACTOR_BYTES => Err(Rejected::ReservedActor),
        _ => Ok(parsed),
    }
}

/// Applies checked changes to a copy and makes sure that the copy is sound.
fn attempt(before: &Automerge, accepted: &[Arrival]) -> Result<Automerge, Rejected> {
    let unusable = |reason: &str| Rejected::Unusable(reason.to_owned());
    let apply = || {
        let mut after = before.clone();
        after
            .apply_changes(accepted.iter().map(|arrival| arrival.parsed.change.clone()))
            .map_err(|error| Rejected::Unusable(error.to_string()))?;
        if !after.get_missing_deps(&[]).is_empty() {
            return Err(unusable("Automerge kept a change waiting"));
        }
        if !accepted.iter().all(rewritten(before, &after, accepted.len())) {
            return Err(unusable("it cannot be written again as the same bytes"));
        }
        // A mark that ends before it begins is taken, and refused when loading. Only loading tells.
        if accepted.iter().any(|arrival| arrival.parsed.has_marks) && Document::load(&after.save_nocompress()).is_err()
        {
            return Err(unusable("its marks would make the document unloadable"));
        }
        // Reading must not fail either; a document that cannot be read is worth nothing.
        drop(Reader::present(&after).root());
        Ok(after)
    };
    catch_unwind(AssertUnwindSafe(apply)).unwrap_or(Err(Rejected::Panicked))
}

/// A check that `after` can write a change again as the bytes that arrived.
fn rewritten<'a>(before: &Automerge, after: &'a Automerge, count: usize) -> impl Fn(&Arrival) -> bool + 'a {
    // Rewriting all new changes in one pass beats one search per change, except for few of them.
    const FEW: usize = 8;
    let all: Option<BTreeMap<Hash, Change>> = (count > FEW)
        .then(|| after.get_changes(&before.get_heads()).into_iter().map(|change| (change.hash(), change)).collect());
    move |arrival| {
        let change = &arrival.parsed.change;
        match &all {
            Some(all) => all.get(&change.hash()).is_some_and(|found| found.raw_bytes() == change.raw_bytes()),
            None => {
                after.get_change_by_hash(&change.hash()).is_some_and(|found| found.raw_bytes() == change.raw_bytes())
            }
        }
    }
}

/// What a plan decided.
struct Judgement {
    /// In topological order.
    accepted: Vec<Arrival>,
    held: Vec<Arrival>,
    refused: Vec<(Arrival, Rejected)>,
}

/// Judges a batch against a document: which changes are accepted, in which order.
struct Plan<'a> {
    document: &'a Document,
    accepted: Vec<Arrival>,
    /// Position in `accepted` by hash.
    positions: BTreeMap<ChangeHash, usize>,
    /// What each accepted change has in its causal past.
    pasts: Vec<Past>,
    /// Positions in `accepted` by actor, in the order of their sequence.
    by_actor: BTreeMap<ActorId, Vec<usize>>,
    /// Heads of the document and the accepted changes.
    heads: BTreeSet<ChangeHash>,
    /// What the document holds beyond a set of its changes: per actor the first operation not covered.
    uncovered: BTreeMap<BTreeSet<ChangeHash>, Rc<BTreeMap<ActorId, u64>>>,
}

/// The causal past of a change: what it covers of the document and which accepted changes it includes.
#[derive(Clone, Default)]
struct Past {
    /// Changes of the document whose pasts together are the covered part; `None` if everything is covered.
    bases: Option<BTreeSet<ChangeHash>>,
    /// One bit for each accepted change.
    batch: Vec<u64>,
}

impl Past {
    fn includes(&self, position: usize) -> bool {
        self.batch.get(position / 64).is_some_and(|word| word & (1 << (position % 64)) != 0)
    }

    fn include(&mut self, position: usize) {
        if self.batch.len() <= position / 64 {
            self.batch.resize(position / 64 + 1, 0);
        }
        self.batch[position / 64] |= 1 << (position % 64);
    }

    fn merge(&mut self, other: &Self) {
        self.bases = match (self.bases.take(), &other.bases) {
            (Some(mut bases), Some(more)) => {
                bases.extend(more);
                Some(bases)
            }
            _ => None,
        };
        if self.batch.len() < other.batch.len() {
            self.batch.resize(other.batch.len(), 0);
        }
        for (word, more) in self.batch.iter_mut().zip(&other.batch) {
            *word |= more;
        }
    }
}

impl<'a> Plan<'a> {
    fn new(document: &'a Document) -> Self {
        Self {
            document,
            accepted: Vec::new(),
            positions: BTreeMap::new(),
            pasts: Vec::new(),
            by_actor: BTreeMap::new(),
            heads: document.heads().into_iter().collect(),
            uncovered: BTreeMap::new(),
        }
    }

    fn judge(mut self, batch: Vec<Arrival>) -> Judgement {
        let hashes: BTreeSet<ChangeHash> = batch.iter().map(|arrival| arrival.parsed.header.hash).collect();
        let mut waiting: BTreeMap<ChangeHash, Vec<ChangeHash>> = BTreeMap::new();
        let mut open: BTreeMap<ChangeHash, (usize, Arrival)> = BTreeMap::new();
        let mut ready = Vec::new();
        let (mut held, mut refused) = (Vec::new(), Vec::new());
        for arrival in batch.into_iter().rev() {
            let hash = arrival.parsed.header.hash;
            let inside: BTreeSet<_> =
                arrival.parsed.header.dependencies.iter().filter(|d| hashes.contains(*d)).collect();
            if inside.is_empty() {
                ready.push(arrival);
                continue;
            }
            for dependency in &inside {
                waiting.entry(**dependency).or_default().push(hash);
            }
            open.insert(hash, (inside.len(), arrival));
        }
        while let Some(arrival) = ready.pop() {
            let hash = arrival.parsed.header.hash;
            match self.check(&arrival) {
                Ok(Verdict::Held) => held.push(arrival),
                Ok(Verdict::New(past)) => self.accept(arrival, past),
                Err(rejected) => refused.push((arrival, rejected)),
            }
            for dependent in waiting.remove(&hash).unwrap_or_default() {
                if let Some((missing, _)) = open.get_mut(&dependent) {
                    *missing -= 1;
                    if *missing == 0 {
                        ready.extend(open.remove(&dependent).map(|(_, arrival)| arrival));
                    }
                }
            }
        }
        Judgement { accepted: self.accepted, held, refused }
    }

    fn accept(&mut self, arrival: Arrival, past: Past) {
        let position = self.accepted.len();
        let header = &arrival.parsed.header;
        for dependency in &header.dependencies {
            self.heads.remove(dependency);
        }
        self.heads.insert(header.hash);
        self.positions.insert(header.hash, position);
        self.by_actor.entry(arrival.parsed.change.actor_id().clone()).or_default().push(position);
        self.pasts.push(past);
        self.accepted.push(arrival);
    }

    fn check(&mut self, arrival: &Arrival) -> Result<Verdict, Rejected> {
        let header = &arrival.parsed.header;
        if self.max_op(&header.hash).is_some() {
            return Ok(Verdict::Held);
        }
        let (mut highest, mut missing) = (0, Vec::new());
        for dependency in &header.dependencies {
            match self.max_op(dependency) {
                Some(max_op) => highest = highest.max(max_op),
                None => missing.push(*dependency),
            }
        }
        if !missing.is_empty() {
            return Err(Rejected::MissingDependencies(missing));
        }
        let past = self.past_of(header);
        self.check_sequence(header, arrival.parsed.change.actor_id(), &past)?;
        let expected = highest + 1;
        // An edit as of earlier heads counts on from everything its author holds, so a gap is legal.
        // Automerge reads a document only if a change without operations leaves no gap: there is nothing to tell it by.
        let gap_max = if header.operations == 0 { 0 } else { MAX_OPERATION_GAP };
        let in_reach = header.start_op >= expected && header.start_op - expected <= gap_max;
        if !in_reach || header.max_op() > MAX_OPERATION_COUNTER {
            return Err(Rejected::WrongStart { expected });
        }
        if arrival.parsed.has_references {
            self.check_references(&arrival.parsed, &past)?;
        }
        Ok(Verdict::New(past))
    }

    /// The highest operation of a change that is held or accepted.
    fn max_op(&self, hash: &ChangeHash) -> Option<u64> {
        match self.positions.get(hash) {
            Some(position) => Some(self.accepted[*position].parsed.header.max_op()),
            None => self.document.automerge().get_change_meta_by_hash(&Hash(*hash)).map(|meta| meta.max_op),
        }
    }

    fn past_of(&self, header: &ChangeHeader) -> Past {
        let dependencies: BTreeSet<ChangeHash> = header.dependencies.iter().copied().collect();
        let mut past = Past { bases: Some(BTreeSet::new()), batch: Vec::new() };
        for dependency in &dependencies {
            match self.positions.get(dependency) {
                Some(position) => {
                    past.merge(&self.pasts[*position]);
                    past.include(*position);
                }
                None => drop(past.bases.as_mut().map(|bases| bases.insert(*dependency))),
            }
        }
        // Made on top of everything: the usual case, in which nothing has to be searched.
        if self.heads.is_subset(&dependencies) {
            past.bases = None;
        }
        past
    }

    fn check_sequence(&mut self, header: &ChangeHeader, actor: &ActorId, past: &Past) -> Result<(), Rejected> {
        let held = self.document.tip(actor).copied();
        let (last, is_past) = match (self.by_actor.get(actor).and_then(|positions| positions.last()), held) {
            (Some(position), _) => (self.accepted[*position].parsed.header.sequence, past.includes(*position)),
            (None, Some(tip)) => (tip.sequence, !self.uncovered_by(past).contains_key(actor)),
            (None, None) => (0, true),
        };
        if header.sequence <= last {
            return Err(Rejected::Conflicts { existing: self.change_at(actor, header.sequence) });
        }
        if header.sequence != last + 1 {
            return Err(Rejected::SequenceGap { expected: last + 1 });
        }
        if is_past { Ok(()) } else { Err(Rejected::ForgetsItsActor) }
    }

    /// The change of an actor at a sequence that is known to be taken.
    fn change_at(&self, actor: &ActorId, sequence: u64) -> ChangeHash {
        let accepted = self.by_actor.get(actor).into_iter().flatten().map(|position| &self.accepted[*position]);
        let mut headers = accepted.map(|arrival| &arrival.parsed.header);
        if let Some(header) = headers.find(|header| header.sequence == sequence) {
            return header.hash;
        }
        if let Some(tip) = self.document.tip(actor).filter(|tip| tip.sequence == sequence) {
            return tip.hash;
        }
        let held = self.document.automerge().get_changes_meta(&[]);
        let found = held.iter().find(|change| change.seq == sequence && *change.actor == *actor);
        found.map_or([0; 32], |change| change.hash.0)
    }

    fn uncovered_by(&mut self, past: &Past) -> Rc<BTreeMap<ActorId, u64>> {
        let Some(bases) = &past.bases else { return Rc::default() };
        if let Some(known) = self.uncovered.get(bases) {
            return Rc::clone(known);
        }
        let heads: Vec<Hash> = bases.iter().map(|hash| Hash(*hash)).collect();
        let mut first: BTreeMap<ActorId, u64> = BTreeMap::new();
        for change in self.document.automerge().get_changes_meta(&heads) {
            let start = first.entry(change.actor.into_owned()).or_insert(change.start_op);
            *start = change.start_op.min(*start);
        }
        let first = Rc::new(first);
        self.uncovered.insert(bases.clone(), Rc::clone(&first));
        first
    }

    /// Checks that every operation named by the change lies in its causal past.
    fn check_references(&mut self, parsed: &ParsedChange, past: &Past) -> Result<(), Rejected> {
        let decoded = catch_unwind(AssertUnwindSafe(|| parsed.change.decode())).map_err(|_| Rejected::Panicked)?;
        let uncovered = self.uncovered_by(past);
        let start = parsed.header.start_op;
        let mut made = BTreeSet::new();
        for (operation, counter) in decoded.operations.iter().zip(start..) {
            let object = match &operation.obj {
                legacy::ObjectId::Root => None,
                legacy::ObjectId::Id(id) => Some(id),
            };
            let element = match &operation.key {
                legacy::Key::Seq(legacy::ElementId::Id(id)) => Some(id),
                _ => None,
            };
            for legacy::OpId(named, actor) in object.into_iter().chain(element).chain(operation.pred.iter()) {
                let own = actor == &decoded.actor_id && *named >= start;
                let known = if own { *named < counter } else { self.knows(past, &uncovered, *named, actor) };
                if !known {
                    return Err(Rejected::UnknownReference);
                }
            }
            // What stands in an object made by the change itself must name the operation that made it.
            let own_object = object.filter(|id| id.1 == decoded.actor_id && id.0 >= start);
            if own_object.is_some_and(|id| !made.contains(&id.0)) {
                return Err(Rejected::UnknownReference);
            }
            if matches!(operation.action, legacy::OpType::Make(_)) {
                made.insert(counter);
            }
        }
        Ok(())
    }

    /// Whether an operation exists within a past.
    fn knows(&self, past: &Past, uncovered: &BTreeMap<ActorId, u64>, counter: u64, actor: &ActorId) -> bool {
        let id = ObjId::Id(counter, actor.clone(), 0);
        if self.document.automerge().hash_for_opid(&id).is_some() {
            return uncovered.get(actor).is_none_or(|first| counter < *first);
        }
        // Operations of one actor are numbered upwards, so the last change that starts before it would hold it.
        let positions = self.by_actor.get(actor).map_or(&[][..], |positions| positions);
        let header = |position: usize| &self.accepted[position].parsed.header;
        let after = positions.partition_point(|position| header(*position).start_op <= counter);
        let candidate = after.checked_sub(1).map(|index| positions[index]);
        candidate.is_some_and(|position| past.includes(position) && counter <= header(position).max_op())
    }
}

/// What a check finds of a change that is not refused.
enum Verdict {
    Held,
    New(Past),
}
