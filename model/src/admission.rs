//! Admission: which held operations count, as a pure function of the operations themselves.
//!
//! An operation is *held* once its run is verified and stored. It is *admitted* when all it builds on is: its
//! predecessor, its dependencies, the membership records that its author knew. Held operations wait in their author's
//! order. The outcome depends on causal pasts alone, never on arrival: two replicas that hold the same operations
//! admit the same.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::causality::Causality;
use crate::ids::{DeviceId, IdPrefix, OperationId};
use crate::limits::DEPENDENCIES_MAX;
use crate::membership::{Membership, MembershipError};
use crate::operation::{Dependency, Kind};
use crate::planted::{Bug, planted};
use crate::summary::{OperationSummary, RunSummary};
use crate::vector::VersionVector;

/// An operation that now counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// Whose.
    pub author: DeviceId,
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

/// Why an author's log does not count from some operation on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The first operation must build on the author's admission as a writer.
    #[error("its first operation does not build on its admission as a writer")]
    NotAdmitted,
    /// A dependency names an operation that is not the one held at its place.
    #[error("it depends on another branch of a forked log")]
    OtherBranch,
    /// Records stand in the steward's own log, so the steward knows those before its operation and no others.
    #[error("it claims membership records that its author cannot know")]
    UnknownRecords,
}

/// The incremental fold from held operations to admitted ones.
#[derive(Debug, Clone)]
pub struct Admission {
    membership: Membership,
    causality: Causality,
    admitted: VersionVector,
    /// The ids of all held operations, halved.
    prefixes: BTreeMap<DeviceId, Vec<IdPrefix>>,
    waiting: BTreeMap<DeviceId, VecDeque<OperationSummary>>,
    waiting_operations: usize,
    /// What the first waiting operation of an author lacks.
    lacks: BTreeMap<DeviceId, Lack>,
    /// The same the other way around, to find who waited for what without asking everybody.
    waiters: BTreeSet<(Lack, DeviceId)>,
    refused: BTreeMap<DeviceId, (u64, Refusal)>,
}

impl Admission {
    /// Nothing held yet.
    pub fn new(membership: Membership) -> Self {
        Self {
            membership,
            causality: Causality::default(),
            admitted: VersionVector::default(),
            prefixes: BTreeMap::new(),
            waiting: BTreeMap::new(),
            waiting_operations: 0,
            lacks: BTreeMap::new(),
            waiters: BTreeSet::new(),
            refused: BTreeMap::new(),
        }
    }

    /// The membership that the admitted operations add up to.
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// Who built on what.
    pub fn causality(&self) -> &Causality {
        &self.causality
    }

    /// How far each author's log is admitted.
    pub fn admitted(&self) -> &VersionVector {
        &self.admitted
    }

    /// Authors whose logs stopped to count, with the first operation that does not and the reason.
    pub fn refused(&self) -> &BTreeMap<DeviceId, (u64, Refusal)> {
        &self.refused
    }

    /// The highest sequence held of `author`, 0 when none is.
    pub fn held(&self, author: &DeviceId) -> u64 {
        self.prefixes.get(author).map_or(0, |prefixes| prefixes.len() as u64)
    }

    /// The first half of the id of a held operation.
    pub fn prefix_at(&self, author: &DeviceId, sequence: u64) -> Option<IdPrefix> {
        let index = usize::try_from(sequence.checked_sub(1)?).ok()?;
        self.prefixes.get(author)?.get(index).copied()
    }

    /// How many held operations wait for others.
    pub fn waiting_operations(&self) -> usize {
        self.waiting_operations
    }

    /// An operation that waiting ones lack and that is not held: what to pull first.
    pub fn wanted(&self) -> Option<(DeviceId, u64)> {
        let operation = |lack: &Lack| match *lack {
            Lack::Operation(author, sequence) => Some((author, sequence)),
            Lack::Records(count) => {
                // One record per operation at most, so this many more of the steward's operations are needed at least.
                let steward = self.membership.genesis()?.steward;
                let missing = count.saturating_sub(self.membership.records());
                Some((steward, self.admitted.sequence(&steward).saturating_add(missing)))
            }
        };
        self.lacks.values().filter_map(operation).find(|(author, sequence)| self.held(author) < *sequence)
    }

    /// The dependencies of `author`'s next operation, and whether some were left out: see
    /// [`Causality::dependencies`]. Those of a first operation include one that builds on its author's admission.
    pub fn dependencies(&self, author: DeviceId) -> (Vec<Dependency>, bool) {
        let written = self.admitted.sequence(&author);
        let mut heads = self.causality.heads(author, written, &self.admitted);
        let overflow = heads.len() > DEPENDENCIES_MAX;
        if overflow && written == 0 {
            let admits = |head: &Dependency| self.builds_on_admission(&author, std::slice::from_ref(head));
            if let Some(at) = heads.iter().position(admits) {
                heads.swap(0, at);
            }
        }
        heads.truncate(DEPENDENCIES_MAX);
        heads.sort_unstable();
        (heads, overflow)
    }

    /// Holds the part of a stored run that follows what is held of its author, and appends what is admitted by it.
    ///
    /// Runs of one author come in order; one that would leave a gap, or that continues another branch than the one
    /// held, is not taken and false is returned.
    pub fn hold(&mut self, summary: &RunSummary, admitted: &mut Vec<Admitted>) -> bool {
        if !self.follows(summary) {
            return false;
        }
        let prefixes = self.prefixes.entry(summary.author).or_default();
        let known = (prefixes.len() as u64 + 1 - summary.first) as usize;
        let fresh = summary.operations.get(known..).unwrap_or_default();
        prefixes.extend(fresh.iter().map(|operation| operation.id.prefix()));
        // What follows a refused operation never counts: nothing to wait for.
        if !fresh.is_empty() && !self.refused.contains_key(&summary.author) {
            self.waiting.entry(summary.author).or_default().extend(fresh.iter().cloned());
            self.waiting_operations += fresh.len();
            self.advance(summary.author, admitted);
        }
        true
    }

    /// Whether a run begins where the held log of its author ends, or inside it on the same branch.
    fn follows(&self, summary: &RunSummary) -> bool {
        let held = self.held(&summary.author);
        let Some(before) = summary.first.checked_sub(1).filter(|before| *before <= held) else { return false };
        // The ids form a chain, so the last operation in common speaks for all before it.
        let common = (held - before).min(summary.operations.len() as u64) as usize;
        let theirs = common.checked_sub(1).map_or(summary.previous, |index| summary.operations[index].id);
        let ours = self.prefix_at(&summary.author, before + common as u64).unwrap_or(OperationId::ZERO.prefix());
        ours == theirs.prefix() || planted(Bug::PreviousUnchecked)
    }

    /// Admits what can be, starting from `author`'s log and following who waited for whom.
    fn advance(&mut self, author: DeviceId, admitted: &mut Vec<Admitted>) {
        let mut open = BTreeSet::from([author]);
        while let Some(author) = open.pop_first() {
            if self.advance_author(author, admitted) {
                let (reached, records) = (self.admitted.sequence(&author), self.membership.records());
                if !planted(Bug::WaitersNotWoken) {
                    open.extend(self.waiters_between(Lack::Operation(author, 0), Lack::Operation(author, reached)));
                }
                open.extend(self.waiters_between(Lack::Records(0), Lack::Records(records)));
            }
        }
    }

    fn waiters_between(&self, first: Lack, last: Lack) -> impl Iterator<Item = DeviceId> {
        let (lowest, highest) = (DeviceId([0; 32]), DeviceId([u8::MAX; 32]));
        self.waiters.range((first, lowest)..=(last, highest)).map(|(_, waiter)| *waiter)
    }

    fn set_lack(&mut self, author: DeviceId, lack: Option<Lack>) {
        let before = match lack {
            Some(lack) => self.lacks.insert(author, lack),
            None => self.lacks.remove(&author),
        };
        if let Some(before) = before {
            self.waiters.remove(&(before, author));
        }
        if let Some(lack) = lack {
            self.waiters.insert((lack, author));
        }
    }

    /// Admits operations from the front of one author's queue; tells whether any was.
    fn advance_author(&mut self, author: DeviceId, admitted: &mut Vec<Admitted>) -> bool {
        let mut moved = false;
        while !self.refused.contains_key(&author) {
            let sequence = self.admitted.sequence(&author) + 1;
            let Some(operation) = self.waiting.get(&author).and_then(|queue| queue.front()) else {
                self.set_lack(author, None);
                break;
            };
            match self.check(author, sequence, operation) {
                Ok(()) => {}
                Err(Obstacle::Lacks(lack)) => {
                    self.set_lack(author, Some(lack));
                    if planted(Bug::PendingQueueDropped) {
                        self.waiting_operations -= self.waiting.remove(&author).map_or(0, |queue| queue.len());
                    }
                    break;
                }
                Err(Obstacle::Refused(refusal)) => {
                    self.set_lack(author, None);
                    self.refused.insert(author, (sequence, refusal));
                    self.waiting_operations -= self.waiting.remove(&author).map_or(0, |queue| queue.len());
                    break;
                }
            }
            let operation = self.waiting.get_mut(&author).and_then(VecDeque::pop_front).expect("it was looked at");
            self.waiting_operations -= 1;
            self.causality.record(author, sequence, &operation.dependencies);
            self.admitted.advance(author, sequence, operation.id);
            let fault = self.take_effect(author, sequence, &operation).err();
            let OperationSummary { id, kind, epoch, control, .. } = operation;
            admitted.push(Admitted { author, sequence, id, kind, epoch, control, fault });
            moved = true;
        }
        moved
    }

    fn check(&self, author: DeviceId, sequence: u64, operation: &OperationSummary) -> Result<(), Obstacle> {
        for dependency in &operation.dependencies {
            let checked = self.check_dependency(dependency);
            if checked.is_err() && !planted(Bug::DependencyUnchecked) {
                return checked;
            }
        }
        // Before the membership is looked at: whether a log may begin depends on the operation's past alone.
        if sequence == 1 && !self.may_begin(&author, operation) {
            return Err(Obstacle::Refused(Refusal::NotAdmitted));
        }
        if operation.membership <= self.membership.records() || planted(Bug::MembershipSequenceIgnored) {
            return Ok(());
        }
        match self.membership.genesis() {
            Some(genesis) if genesis.steward != author => Err(Obstacle::Lacks(Lack::Records(operation.membership))),
            _ => Err(Obstacle::Refused(Refusal::UnknownRecords)),
        }
    }

    fn check_dependency(&self, dependency: &Dependency) -> Result<(), Obstacle> {
        if self.admitted.sequence(&dependency.author) < dependency.sequence {
            return Err(Obstacle::Lacks(Lack::Operation(dependency.author, dependency.sequence)));
        }
        match self.prefix_at(&dependency.author, dependency.sequence) {
            Some(prefix) if prefix == dependency.id.prefix() => Ok(()),
            _ => Err(Obstacle::Refused(Refusal::OtherBranch)),
        }
    }

    fn may_begin(&self, author: &DeviceId, operation: &OperationSummary) -> bool {
        if self.membership.genesis().is_none() {
            // Nothing but the genesis, or a stranger's first operation would count where it happens to come early.
            return operation.kind == Kind::MEMBERSHIP
                && operation.dependencies.is_empty()
                && self.membership.clone().apply_record(author, &operation.control).is_ok();
        }
        self.builds_on_admission(author, &operation.dependencies)
    }

    fn builds_on_admission(&self, author: &DeviceId, dependencies: &[Dependency]) -> bool {
        if !self.membership.members().contains_key(author) {
            return false;
        }
        let past = self.causality.past_of(dependencies);
        self.membership
            .may_begin(author, |sponsor, sequence| past.get(sponsor).is_some_and(|reached| *reached >= sequence))
    }

    fn take_effect(
        &mut self,
        author: DeviceId,
        sequence: u64,
        operation: &OperationSummary,
    ) -> Result<(), MembershipError> {
        match operation.kind {
            Kind::MEMBERSHIP => self.membership.apply_record(&author, &operation.control),
            Kind::ADMIT => self.membership.apply_admit(&author, sequence, operation.membership, &operation.control),
            Kind::DATA => match self.membership.epoch_facts(operation.epoch) {
                Some(epoch) if epoch.record <= operation.membership => Ok(()),
                _ => Err(MembershipError::WrongEpoch),
            },
            _ => Ok(()),
        }
    }
}

/// What a waiting operation waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Lack {
    /// The operation of that author at that sequence.
    Operation(DeviceId, u64),
    /// That many membership records.
    Records(u64),
}

enum Obstacle {
    Lacks(Lack),
    Refused(Refusal),
}
