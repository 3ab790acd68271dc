//! Admission: which held operations count, as a pure function of the operations themselves.
//!
//! An operation is *held* once its run is verified and stored. Three strata follow from what is held, each from the
//! ones before it alone:
//!
//! 1. It is *sound* when all it builds on is: its predecessor, its dependencies, and at the beginning of a log its
//!    author's admission, all within its causal past; and when as many membership records are as its author claims to
//!    know. Neither forks nor cuts nor takeovers have a say in it. Held operations wait in their author's order.
//! 2. It counts *by itself* when its author is a member (see [`Membership`]) and it lies within the author's limit: not
//!    behind a cut, nor at or behind a fork.
//! 3. It is *admitted* when it is sound, and counts by itself or lies in the causal past of a sound operation that
//!    does, or of one that a steward's record resolves. So honest work that was built on what was later cut stays
//!    readable, and all of one author's log that is admitted is a prefix of it, or of a branch.
//!
//! The outcome depends on causal pasts alone, never on arrival: two replicas that hold the same operations admit the
//! same. Soundness, and the limits that operations known so far give, only grow and only fall; when a limit falls below
//! what was admitted already, the fold [is outdated](Admission::is_outdated) and begins again with what is known by
//! then.

mod counting;
mod soundness;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::causality::{Causality, Past};
use crate::equivocation::branch_log;
use crate::ids::{DeviceId, IdPrefix, OperationId, SpaceId};
use crate::limits::{BRANCHES_PER_AUTHOR_MAX, DEPENDENCIES_MAX};
use crate::membership::{Cut, Facts, Membership, MembershipError, Place};
use crate::operation::{Dependency, Kind};
use crate::planted::{Bug, planted};
use crate::summary::{OperationSummary, RunSummary};
use crate::vector::{VectorEntry, VersionVector};

/// An operation that now counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// Whose.
    pub author: DeviceId,
    /// The log that it is in: the author's own, or a branch of it (see [`branch_log`]).
    pub log: DeviceId,
    /// Where in its author's log.
    pub sequence: u64,
    /// Its id.
    pub id: OperationId,
    /// What it is for.
    pub kind: Kind,
    /// The epoch that seals it.
    pub epoch: u32,
    /// Its public payload, for control kinds.
    pub control: Vec<u8>,
    /// Why it has no effect although it counts in the chain.
    pub fault: Option<MembershipError>,
}

/// Sound operations of one log, or of a branch of it, that do not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UncountedStretch {
    /// The first of them.
    pub first: u64,
    /// The last of them: a record that resolves it lets all of them count.
    pub head: Cut,
}

/// Why an author's log does not count from some operation on, whatever else arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The first operation must build on the author's admission as a writer.
    #[error("its first operation does not build on its admission as a writer")]
    NotAdmitted,
    /// Nobody forgets records.
    #[error("it claims to know fewer membership records than the operation before it")]
    ForgottenRecords,
}

/// A log that is held: an author's own, or a branch of a forked one.
#[derive(Debug, Clone)]
struct Log {
    author: DeviceId,
    /// The position before its first operation; not 0 for branches.
    base: u64,
    /// What a branch continues after its base.
    parent: Option<DeviceId>,
    /// The ids of its operations, halved.
    prefixes: Vec<IdPrefix>,
    /// What is sound so far of it, and how many records its author claims to know there.
    sound: u64,
    known: u64,
    /// Where that grew: sequence and number of records.
    claims: Vec<(u64, u64)>,
    /// The last epoch that was found to have begun in the past of an operation here.
    sealed: Option<u32>,
    waiting: VecDeque<OperationSummary>,
    /// Sound operations that do not count yet.
    shadow: VecDeque<Shadow>,
}

/// A sound operation with the positions in held logs that it builds on.
#[derive(Debug, Clone)]
struct Shadow {
    operation: Admitted,
    builds_on: Vec<Dependency>,
}

impl Log {
    fn held(&self) -> u64 {
        self.base + self.prefixes.len() as u64
    }
}

/// The incremental fold from held operations to admitted ones.
#[derive(Debug, Clone)]
pub struct Admission {
    membership: Membership,
    causality: Causality,
    admitted: VersionVector,
    logs: BTreeMap<DeviceId, Log>,
    /// Author → the branches of its log.
    branches: BTreeMap<DeviceId, Vec<DeviceId>>,
    waiting_operations: usize,
    /// Logs with sound operations that do not count.
    shadowed: BTreeSet<DeviceId>,
    /// What the first waiting operation of a log lacks.
    lacks: BTreeMap<DeviceId, Lack>,
    /// The same the other way around, to find who waited for what without asking everybody.
    waiters: BTreeSet<(Lack, DeviceId)>,
    refused: BTreeMap<DeviceId, (u64, Refusal)>,
    /// How many of the resolved heads have been let in, by their place in the membership's list.
    resolved: BTreeSet<usize>,
    /// Author → where its fork is, and the operation before it.
    before_forks: BTreeMap<DeviceId, (u64, OperationId)>,
    outdated: bool,
}

impl Admission {
    /// Nothing held yet, and these things known beforehand: what an earlier fold [found](Admission::facts), or nothing.
    pub fn new(space: SpaceId, facts: &Facts) -> Self {
        Self {
            membership: Membership::with_facts(space, facts),
            causality: Causality::default(),
            admitted: VersionVector::default(),
            logs: BTreeMap::new(),
            branches: BTreeMap::new(),
            waiting_operations: 0,
            shadowed: BTreeSet::new(),
            lacks: BTreeMap::new(),
            waiters: BTreeSet::new(),
            refused: BTreeMap::new(),
            resolved: BTreeSet::new(),
            before_forks: BTreeMap::new(),
            outdated: false,
        }
    }

    /// The membership that the sound operations add up to.
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// Who built on what.
    pub fn causality(&self) -> &Causality {
        &self.causality
    }

    /// How far each log is admitted.
    pub fn admitted(&self) -> &VersionVector {
        &self.admitted
    }

    /// Whether something became known that takes back what was admitted: fold again, with [`Admission::facts`].
    pub fn is_outdated(&self) -> bool {
        self.outdated
    }

    /// What is known that decides what counts.
    pub fn facts(&self) -> Facts {
        self.membership.facts()
    }

    /// Logs that stopped to count, with the first operation that does not and the reason.
    pub fn refused(&self) -> &BTreeMap<DeviceId, (u64, Refusal)> {
        &self.refused
    }

    /// The highest sequence held of a log, 0 when none is.
    pub fn held(&self, log: &DeviceId) -> u64 {
        self.logs.get(log).map_or(0, Log::held)
    }

    /// Up to where a log is sound, 0 when nothing is.
    pub fn sound(&self, log: &DeviceId) -> u64 {
        self.logs.get(log).map_or(0, |log| log.sound)
    }

    /// The first half of the id of a held operation of a log.
    pub fn prefix_at(&self, log: &DeviceId, sequence: u64) -> Option<IdPrefix> {
        let mut held = self.logs.get(log)?;
        while sequence <= held.base {
            held = self.logs.get(&held.parent?)?;
        }
        let index = usize::try_from(sequence.checked_sub(held.base + 1)?).ok()?;
        held.prefixes.get(index).copied()
    }

    /// The held log that has this operation of an author, if one does.
    pub fn log_of(&self, author: &DeviceId, sequence: u64, id: &OperationId) -> Option<DeviceId> {
        let branches = self.branches.get(author).into_iter().flatten();
        let has = |log: &&DeviceId| {
            let within = self.logs.get(*log).is_some_and(|held| held.base < sequence);
            within && self.prefix_at(log, sequence) == Some(id.prefix())
        };
        std::iter::once(author).chain(branches).find(has).copied()
    }

    /// The branches that are held of an author's log.
    pub fn branches(&self, author: &DeviceId) -> &[DeviceId] {
        self.branches.get(author).map_or(&[], Vec::as_slice)
    }

    /// The log that a branch leaves, and the position after which it does.
    pub fn branching(&self, log: &DeviceId) -> Option<(DeviceId, u64)> {
        let held = self.logs.get(log)?;
        held.parent.map(|parent| (parent, held.base)).or((*log != held.author).then_some((held.author, 0)))
    }

    /// How many held operations wait for others.
    pub fn waiting_operations(&self) -> usize {
        self.waiting_operations
    }

    /// How many operations are sound and do not count: those behind cuts and forks on which nothing was built.
    pub fn uncounted_operations(&self) -> u64 {
        self.shadowed.iter().filter_map(|log| self.logs.get(log)).map(|log| log.shadow.len() as u64).sum()
    }

    /// The operations of a log that are sound and do not count: first and last.
    pub fn uncounted(&self, log: &DeviceId) -> Option<(u64, u64)> {
        let held = self.logs.get(log).filter(|held| !held.shadow.is_empty())?;
        Some((held.sound + 1 - held.shadow.len() as u64, held.sound))
    }

    /// Every stretch of sound operations that do not count, own and of branches, by log.
    pub fn uncounted_stretches(&self) -> impl Iterator<Item = UncountedStretch> {
        let stretch = |held: &Log| {
            let (first, last) = (held.shadow.front()?, held.shadow.back()?);
            let (first, last) = (first.operation.sequence, &last.operation);
            Some(UncountedStretch { first, head: Cut { author: last.author, sequence: last.sequence, id: last.id } })
        };
        self.shadowed.iter().filter_map(|log| self.logs.get(log)).filter_map(stretch)
    }

    /// An operation that waiting ones lack and that is not held: what to pull first.
    pub fn wanted(&self) -> Option<(DeviceId, u64)> {
        let operation = |lack: &Lack| match *lack {
            Lack::Operation(author, sequence) => Some((author, sequence)),
            Lack::Branch(..) => None,
            Lack::Records(count) => {
                // One record per operation at most, so this many more of the steward's operations are needed at least.
                let steward = self.membership.steward()?;
                let missing = count.saturating_sub(self.membership.seen_records());
                Some((steward, self.admitted.sequence(&steward).saturating_add(missing)))
            }
        };
        let resolved = self.membership.resolved().iter().map(|head| (head.author, head.sequence));
        let lacked = self.lacks.values().filter_map(operation);
        lacked.chain(resolved).find(|(author, sequence)| self.held(author) < *sequence)
    }

    /// The operation that the first waiting one of a log lacks, as far as it is one of an author's own log.
    pub fn lacked_by(&self, log: &DeviceId) -> Option<(DeviceId, u64)> {
        match *self.lacks.get(log)? {
            Lack::Operation(author, sequence) => Some((author, sequence)),
            Lack::Branch(..) | Lack::Records(_) => None,
        }
    }

    /// Operations that waiting ones or records name and that are not held. Where peers do not offer them, since their
    /// author forked, they are to be had by their ids. Some may not exist: whoever waits for them may lie.
    pub fn wanted_by_id(&self) -> BTreeSet<(DeviceId, u64, OperationId)> {
        let lacked = self.lacks.iter().filter_map(|(log, lack)| match *lack {
            Lack::Branch(author, sequence, id) => Some((author, sequence, id)),
            Lack::Operation(author, sequence) => {
                let named = &self.logs.get(log)?.waiting.front()?.dependencies;
                let named = named.iter().find(|on| on.author == author && on.sequence == sequence)?;
                Some((author, sequence, named.id))
            }
            Lack::Records(_) => None,
        });
        let named = self.membership.cuts().values().chain(self.membership.resolved());
        let named = named.filter(|cut| cut.sequence > 0).map(|cut| (cut.author, cut.sequence, cut.id));
        let missing =
            |(author, sequence, id): &(DeviceId, u64, OperationId)| self.log_of(author, *sequence, id).is_none();
        lacked.chain(named).filter(missing).collect()
    }

    /// Up to where a log is worth holding: without end for members and strangers, up to its limit, or what others built
    /// on or lack, for those whose log was cut.
    pub fn worth(&self, author: &DeviceId) -> u64 {
        if !self.membership.knows(author) {
            return u64::MAX;
        }
        let limit = self.membership.limit(author);
        if limit == u64::MAX {
            return limit;
        }
        let lacked = self.lacks.values().filter_map(|lack| match lack {
            Lack::Operation(of, sequence) if of == author => Some(*sequence),
            _ => None,
        });
        let resolved = self.membership.resolved().iter().filter(|head| head.author == *author);
        let named = lacked.chain(resolved.map(|head| head.sequence)).max().unwrap_or(0);
        limit.max(self.admitted.sequence(author)).max(named)
    }

    /// The dependencies of `author`'s next operation, and whether some were left out: see
    /// [`Causality::heads`]. Among too many are one that builds on all records and, for a first operation, one that
    /// builds on its author's admission.
    pub fn dependencies(&self, author: DeviceId) -> (Vec<Dependency>, bool) {
        let written = self.admitted.sequence(&author);
        let mut heads = self.causality.heads(author, written, &self.counting_by_itself());
        let overflow = heads.len() > DEPENDENCIES_MAX;
        if overflow {
            // What decides how the operation itself counts comes first.
            let admits = |head: &Dependency| self.covers_admission(&author, std::slice::from_ref(head));
            if let Some(at) = heads.iter().position(|head| written == 0 && admits(head)) {
                heads.swap(0, at);
            }
            let records = |head: &Dependency| self.covers_records(std::slice::from_ref(head));
            if let Some(at) = heads.iter().position(records).filter(|at| *at > 0) {
                heads.swap(1, at);
            }
        }
        heads.truncate(DEPENDENCIES_MAX);
        heads.sort_unstable();
        (heads, overflow)
    }

    /// How far each log is admitted by itself: what is admitted beyond a limit, and of branches, is so because others
    /// built on it, and they cover it.
    fn counting_by_itself(&self) -> Cow<'_, VersionVector> {
        let over = |log: &DeviceId, sequence: u64| sequence > self.membership.limit(log);
        let beyond = self.admitted.iter().filter(|(log, entry)| over(log, entry.sequence));
        let beyond: Vec<DeviceId> = beyond.map(|(log, _)| *log).collect();
        let mut counting = Cow::Borrowed(&self.admitted);
        for log in beyond {
            let entry = self.last_by_itself(&log);
            counting.to_mut().replace(log, entry);
        }
        counting
    }

    /// The last operation of a log that counts by itself, where others built on later ones.
    fn last_by_itself(&self, log: &DeviceId) -> Option<VectorEntry> {
        let sequence = self.membership.limit(log);
        let cut = self.membership.cuts().get(log).filter(|cut| cut.sequence == sequence).map(|cut| cut.id);
        let id = cut.or_else(|| self.before_fork(log).filter(|_| self.membership.forks()[log] == sequence + 1))?;
        (sequence > 0).then_some(VectorEntry { base: 1, sequence, id })
    }

    /// The operation before an author's fork.
    pub fn before_fork(&self, author: &DeviceId) -> Option<OperationId> {
        self.before_forks.get(author).map(|(_, id)| *id)
    }

    /// How many records `author`'s next operation says that it knows.
    pub fn known_records(&self, author: &DeviceId) -> u64 {
        self.membership.records().max(self.logs.get(author).map_or(0, |log| log.known))
    }

    /// Whether a run of which nothing else is held begins with a takeover: its first operation's payload and what it
    /// builds on.
    pub fn begins_with_takeover(&self, author: &DeviceId, payload: &[u8], dependencies: &[Dependency]) -> bool {
        let found = dependencies.iter().map(|on| self.find(on).map(|log| Dependency { author: log, ..*on }));
        let Ok(builds_on) = found.collect::<Result<Vec<_>, _>>() else { return false };
        let past = self.causality.past_of(&builds_on);
        self.membership.is_takeover(author, payload, &|log, sequence| reaches(&past, log, sequence))
    }

    /// Holds the part of a stored run that follows what is held of its author, and appends what is admitted by it.
    ///
    /// Runs of one author come in order; one that would leave a gap, or that continues another branch than the one
    /// held, is not taken and false is returned.
    pub fn hold(&mut self, summary: &RunSummary, admitted: &mut Vec<Admitted>) -> bool {
        self.hold_in(summary.author, summary, admitted)
    }

    /// The same for a run that is stored as a part of `log`: its author's own, or a branch.
    pub fn hold_in(&mut self, log: DeviceId, summary: &RunSummary, admitted: &mut Vec<Admitted>) -> bool {
        // Whoever files a run in another one's log, as a forged backup does, would else speak for that one.
        if self.logs.get(&log).is_some_and(|held| held.author != summary.author) {
            return false;
        }
        if log != summary.author && !self.logs.contains_key(&log) && !self.begin_branch(log, summary) {
            return false;
        }
        if !self.follows(&log, summary) {
            return false;
        }
        let held = self.logs.entry(log).or_insert_with(|| Log::new(summary.author));
        let known = (held.held() + 1 - summary.first) as usize;
        let fresh = summary.operations.get(known..).unwrap_or_default();
        held.prefixes.extend(fresh.iter().map(|operation| operation.id.prefix()));
        // What follows a refused operation never counts: nothing to wait for.
        if !fresh.is_empty() && !self.refused.contains_key(&log) {
            held.waiting.extend(fresh.iter().cloned());
            self.waiting_operations += fresh.len();
            self.advance(log, admitted);
        }
        true
    }

    /// The log that a run belongs to which does not follow its author's held one: a branch that it continues or begins,
    /// with the position of the first operation of the run that is new. None when something before it is missing, when
    /// nothing of it is new, or when there are too many branches.
    pub fn branch_for(&self, summary: &RunSummary) -> Option<(DeviceId, u64)> {
        let author = summary.author;
        let begins = summary.previous;
        let branches = self.branches(&author);
        let mut log = match summary.first {
            1 => author,
            first => self.log_of(&author, first - 1, &begins)?,
        };
        // Along what is held, from log to branch, as far as the run goes the same way.
        for (operation, sequence) in summary.operations.iter().zip(summary.first..) {
            if self.prefix_at(&log, sequence) == Some(operation.id.prefix()) {
                continue;
            }
            if let Some(other) = self.log_of(&author, sequence, &operation.id) {
                log = other;
                continue;
            }
            let continues = self.held(&log) + 1 == sequence;
            if continues {
                return Some((log, sequence));
            }
            let room = branches.len() < BRANCHES_PER_AUTHOR_MAX;
            return room.then(|| (branch_log(&author, &operation.id), sequence));
        }
        None
    }

    /// Takes note of a branch whose first run is this; false when what it leaves is not held.
    fn begin_branch(&mut self, log: DeviceId, summary: &RunSummary) -> bool {
        let author = summary.author;
        if branch_log(&author, &summary.operations[0].id) != log {
            return false;
        }
        let base = summary.first - 1;
        let parent = match base {
            0 => None,
            base => match self.log_of(&author, base, &summary.previous) {
                Some(parent) => Some(parent),
                None => return false,
            },
        };
        self.logs.insert(log, Log { base, parent, sound: base, ..Log::new(author) });
        self.branches.entry(author).or_default().push(log);
        self.note_fork(author, base + 1, summary.previous);
        true
    }

    /// Takes note that an author has two operations at `sequence`.
    fn note_fork(&mut self, author: DeviceId, sequence: u64, before: OperationId) {
        let known = self.before_forks.entry(author).or_insert((sequence, before));
        if sequence < known.0 {
            *known = (sequence, before);
        }
        if self.membership.add_fork(author, sequence) && self.sound(&author) >= sequence {
            self.outdated = true;
        }
    }

    /// Whether a run begins where the held log ends, or inside it on the same branch.
    fn follows(&self, log: &DeviceId, summary: &RunSummary) -> bool {
        let (held, base) = self.logs.get(log).map_or((0, 0), |held| (held.held(), held.base));
        let Some(before) = summary.first.checked_sub(1).filter(|before| (base..=held).contains(before)) else {
            return false;
        };
        // The ids form a chain, so the last operation in common speaks for all before it.
        let common = (held - before).min(summary.operations.len() as u64) as usize;
        let theirs = common.checked_sub(1).map_or(summary.previous, |index| summary.operations[index].id);
        let ours = self.prefix_at(log, before + common as u64).unwrap_or(OperationId::ZERO.prefix());
        ours == theirs.prefix() || planted(Bug::PreviousUnchecked)
    }

    /// Makes sound and admits what can be, starting from one log and following who waited for whom.
    fn advance(&mut self, log: DeviceId, admitted: &mut Vec<Admitted>) {
        let mut open = BTreeSet::from([log]);
        while let Some(log) = open.pop_first() {
            let changes = self.membership.changes();
            if self.advance_log(log, admitted) {
                let (reached, records) = (self.sound(&log), self.membership.seen_records());
                if !planted(Bug::WaitersNotWoken) {
                    open.extend(self.waiters_between(Lack::Operation(log, 0), Lack::Operation(log, reached)));
                }
                open.extend(self.waiters_between(Lack::Records(0), Lack::Records(records)));
                let author = self.logs[&log].author;
                // Who lacks an operation beyond the author's own log may find it on a branch.
                open.extend(self.waiters_between(Lack::Operation(author, 0), Lack::Operation(author, reached)));
                let (least, most) = (OperationId([0; 32]), OperationId([u8::MAX; 32]));
                let any = (Lack::Branch(author, 0, least), Lack::Branch(author, u64::MAX, most));
                open.extend(self.waiters_between(any.0, any.1));
                self.let_in_resolved(admitted);
            }
            if self.membership.changes() != changes {
                self.let_in_members(admitted);
                self.outdated |= self.membership.follows_another_takeover();
            }
        }
    }

    fn waiters_between(&self, first: Lack, last: Lack) -> impl Iterator<Item = DeviceId> {
        let (lowest, highest) = (DeviceId([0; 32]), DeviceId([u8::MAX; 32]));
        self.waiters.range((first, lowest)..=(last, highest)).map(|(_, waiter)| *waiter)
    }

    fn set_lack(&mut self, log: DeviceId, lack: Option<Lack>) {
        let before = match lack {
            Some(lack) => self.lacks.insert(log, lack),
            None => self.lacks.remove(&log),
        };
        if let Some(before) = before {
            self.waiters.remove(&(before, log));
        }
        if let Some(lack) = lack {
            self.waiters.insert((lack, log));
        }
    }

    /// Makes operations sound from the front of one log's queue; tells whether any became so.
    fn advance_log(&mut self, log: DeviceId, admitted: &mut Vec<Admitted>) -> bool {
        let mut moved = false;
        while !self.refused.contains_key(&log) {
            let Some(held) = self.logs.get(&log).filter(|held| !held.waiting.is_empty()) else {
                self.set_lack(log, None);
                break;
            };
            let (author, sequence) = (held.author, held.sound + 1);
            let builds_on = match self.check(held, &held.waiting[0]) {
                Ok(builds_on) => builds_on,
                Err(Obstacle::Lacks(lack)) => {
                    self.set_lack(log, Some(lack));
                    if planted(Bug::PendingQueueDropped) {
                        self.forget_waiting(log);
                    }
                    break;
                }
                Err(Obstacle::Refused(refusal)) => {
                    self.set_lack(log, None);
                    self.refused.insert(log, (sequence, refusal));
                    self.forget_waiting(log);
                    break;
                }
            };
            let held = self.logs.get_mut(&log).expect("it was looked at");
            let operation = held.waiting.pop_front().expect("it was looked at");
            held.sound = sequence;
            if held.known < operation.membership || held.claims.is_empty() {
                held.known = operation.membership;
                held.claims.push((sequence, held.known));
            }
            self.waiting_operations -= 1;
            self.causality.record(log, sequence, &builds_on);
            let place = Place { author, log, sequence };
            let limit = self.membership.limit(&author);
            let fault = self.take_effect(place, &operation).err();
            let OperationSummary { id, kind, epoch, control, .. } = operation;
            let operation = Admitted { author, log, sequence, id, kind, epoch, control, fault };
            self.count(Shadow { operation, builds_on }, limit, admitted);
            moved = true;
        }
        moved
    }

    fn forget_waiting(&mut self, log: DeviceId) {
        if let Some(held) = self.logs.get_mut(&log) {
            self.waiting_operations -= std::mem::take(&mut held.waiting).len();
        }
    }
}

impl Log {
    fn new(author: DeviceId) -> Self {
        let (prefixes, claims, waiting, shadow) = Default::default();
        Self { author, base: 0, parent: None, prefixes, sound: 0, known: 0, claims, sealed: None, waiting, shadow }
    }
}

fn reaches(past: &Past, log: &DeviceId, sequence: u64) -> bool {
    past.get(log).is_some_and(|reached| *reached >= sequence)
}

/// What a waiting operation waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Lack {
    /// The operation of that log at that sequence.
    Operation(DeviceId, u64),
    /// That operation of an author, of whom another one is held in its place.
    Branch(DeviceId, u64, OperationId),
    /// That many membership records.
    Records(u64),
}

enum Obstacle {
    Lacks(Lack),
    Refused(Refusal),
}
