//! Admission: which held operations count, as a pure function of the operations themselves.
//!
//! An operation is *held* once its run is verified and stored. It is *admitted* when all it builds on is: its
//! predecessor, its dependencies, the membership records that its author knew. Held operations wait in their author's
//! order. The outcome depends on causal pasts alone, never on arrival: two replicas that hold the same operations
//! admit the same.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::causality::Causality;
use crate::ids::{DeviceId, IdPrefix, OperationId};
use crate::membership::{Membership, MembershipError};
use crate::operation::{Dependency, Kind};
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
    /// What the first waiting operation of an author lacks: author lacking → (author lacked, sequence lacked).
    lacks: BTreeMap<DeviceId, (DeviceId, u64)>,
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
        self.lacks.values().find(|(author, sequence)| self.held(author) < *sequence).copied()
    }

    /// Holds the part of a stored run that follows what is held of its author, and appends what is admitted by it.
    ///
    /// Runs of one author come in order; one that would leave a gap is not taken and false is returned.
    pub fn hold(&mut self, summary: &RunSummary, admitted: &mut Vec<Admitted>) -> bool {
        let held = self.held(&summary.author);
        if summary.first > held + 1 {
            return false;
        }
        let fresh = summary.operations.iter().skip((held + 1 - summary.first) as usize);
        let prefixes = self.prefixes.entry(summary.author).or_default();
        let queue = self.waiting.entry(summary.author).or_default();
        let before = prefixes.len();
        for operation in fresh {
            prefixes.push(operation.id.prefix());
            queue.push_back(operation.clone());
        }
        self.waiting_operations += prefixes.len() - before;
        self.advance(summary.author, admitted);
        true
    }

    /// Admits what can be, starting from `author`'s log and following who waited for whom.
    fn advance(&mut self, author: DeviceId, admitted: &mut Vec<Admitted>) {
        let mut open = BTreeSet::from([author]);
        while let Some(author) = open.pop_first() {
            let records = self.membership.records();
            if self.advance_author(author, admitted) {
                let reached = self.admitted.sequence(&author);
                let membership_moved = self.membership.records() != records;
                let woken = self
                    .lacks
                    .iter()
                    .filter(|(_, (lacked, sequence))| (*lacked == author && *sequence <= reached) || membership_moved)
                    .map(|(waiting, _)| *waiting);
                open.extend(woken);
            }
        }
    }

    /// Admits operations from the front of one author's queue; tells whether any was.
    fn advance_author(&mut self, author: DeviceId, admitted: &mut Vec<Admitted>) -> bool {
        let mut moved = false;
        while !self.refused.contains_key(&author) {
            let sequence = self.admitted.sequence(&author) + 1;
            let Some(operation) = self.waiting.get(&author).and_then(|queue| queue.front()) else {
                self.lacks.remove(&author);
                break;
            };
            match self.check(author, sequence, operation) {
                Ok(()) => {}
                Err(Obstacle::Lacks(lacked)) => {
                    self.lacks.insert(author, lacked);
                    break;
                }
                Err(Obstacle::Refused(refusal)) => {
                    self.lacks.remove(&author);
                    self.refused.insert(author, (sequence, refusal));
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
            self.check_dependency(dependency)?;
        }
        if operation.membership > self.membership.records() {
            if let Some(genesis) = self.membership.genesis() {
                // One record per operation at most, so this many more of the steward's operations are needed at least.
                let missing = operation.membership - self.membership.records();
                let needed = self.admitted.sequence(&genesis.steward) + missing;
                return if genesis.steward == author {
                    Err(Obstacle::Refused(Refusal::NotAdmitted))
                } else {
                    Err(Obstacle::Lacks((genesis.steward, needed)))
                };
            }
            return Err(Obstacle::Refused(Refusal::NotAdmitted));
        }
        if sequence == 1 && !self.may_begin(author, operation) {
            return Err(Obstacle::Refused(Refusal::NotAdmitted));
        }
        Ok(())
    }

    fn check_dependency(&self, dependency: &Dependency) -> Result<(), Obstacle> {
        if self.admitted.sequence(&dependency.author) < dependency.sequence {
            return Err(Obstacle::Lacks((dependency.author, dependency.sequence)));
        }
        match self.prefix_at(&dependency.author, dependency.sequence) {
            Some(prefix) if prefix == dependency.id.prefix() => Ok(()),
            _ => Err(Obstacle::Refused(Refusal::OtherBranch)),
        }
    }

    fn may_begin(&self, author: DeviceId, operation: &OperationSummary) -> bool {
        if self.membership.genesis().is_none() {
            // The genesis itself: `take_effect` checks that it is one and that this author is its steward.
            return operation.kind == Kind::MEMBERSHIP && operation.dependencies.is_empty();
        }
        let in_past = |sponsor: &DeviceId, sequence: u64| {
            operation.dependencies.iter().any(|dependency| {
                self.causality.precedes((*sponsor, sequence), (dependency.author, dependency.sequence))
            })
        };
        self.membership.may_begin(&author, in_past)
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

enum Obstacle {
    Lacks((DeviceId, u64)),
    Refused(Refusal),
}
