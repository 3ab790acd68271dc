//! The first stratum: whether an operation is sound, and what a sound one changes.

use std::cell::OnceCell;

use super::{Admission, Lack, Log, Obstacle, Refusal, reaches};
use crate::equivocation::ForkProof;
use crate::ids::{DeviceId, OperationId};
use crate::membership::{MembershipError, Place};
use crate::operation::{Dependency, Kind};
use crate::planted::{Bug, planted};
use crate::summary::OperationSummary;

impl Admission {
    /// The positions in held logs that an operation builds on, or why it is not sound (yet).
    pub(super) fn check(&self, held: &Log, operation: &OperationSummary) -> Result<Vec<Dependency>, Obstacle> {
        let (author, sequence) = (held.author, held.sound + 1);
        let mut builds_on = Vec::with_capacity(operation.dependencies.len());
        for dependency in &operation.dependencies {
            match self.find(dependency) {
                Ok(log) => builds_on.push(Dependency { author: log, ..*dependency }),
                Err(_) if planted(Bug::DependencyUnchecked) => builds_on.push(*dependency),
                Err(lack) => return Err(Obstacle::Lacks(lack)),
            }
        }
        if let Some(parent) = held.parent.filter(|_| sequence == held.base + 1) {
            if self.sound(&parent) < held.base {
                return Err(Obstacle::Lacks(Lack::Operation(parent, held.base)));
            }
            builds_on.push(Dependency { author: parent, sequence: held.base, id: OperationId::ZERO });
        }
        // Whether a log may begin depends on the operation's past alone, so there is nothing to wait for.
        if sequence == 1 && !self.may_begin(&author, operation, &builds_on) {
            return Err(Obstacle::Refused(Refusal::NotAdmitted));
        }
        let before = match held.parent {
            Some(parent) if sequence == held.base + 1 => self.claimed_at(&parent, held.base),
            _ => held.known,
        };
        if operation.membership < before {
            return Err(Obstacle::Refused(Refusal::ForgottenRecords));
        }
        if operation.membership <= self.membership.seen_records() || planted(Bug::MembershipSequenceIgnored) {
            return Ok(builds_on);
        }
        Err(Obstacle::Lacks(Lack::Records(operation.membership)))
    }

    /// How many records the author of a log's sound operation claims to know there.
    pub(super) fn claimed_at(&self, log: &DeviceId, sequence: u64) -> u64 {
        let mut held = self.logs.get(log);
        while let Some(branch) = held.filter(|held| sequence <= held.base) {
            held = branch.parent.and_then(|parent| self.logs.get(&parent));
        }
        let claims = held.map(|held| held.claims.as_slice()).unwrap_or_default();
        let after = claims.partition_point(|(at, _)| *at <= sequence);
        after.checked_sub(1).map_or(0, |index| claims[index].1)
    }

    /// The held log in which a dependency is sound, or what is lacking for that.
    pub(super) fn find(&self, dependency: &Dependency) -> Result<DeviceId, Lack> {
        let Dependency { author, sequence, id } = *dependency;
        match self.log_of(&author, sequence, &id) {
            Some(log) if self.sound(&log) >= sequence => Ok(log),
            Some(log) => Err(Lack::Operation(log, sequence)),
            None if self.held(&author) < sequence => Err(Lack::Operation(author, sequence)),
            None => Err(Lack::Branch(author, sequence, id)),
        }
    }

    pub(super) fn may_begin(&self, author: &DeviceId, operation: &OperationSummary, builds_on: &[Dependency]) -> bool {
        let is_record = operation.kind == Kind::MEMBERSHIP;
        if is_record && builds_on.is_empty() && self.membership.is_genesis(author, &operation.control) {
            return true;
        }
        let past = OnceCell::new();
        let in_past = |log: &DeviceId, sequence: u64| {
            reaches(past.get_or_init(|| self.causality.past_of(builds_on)), log, sequence)
        };
        self.membership.may_begin(author, &in_past)
            || is_record && self.membership.is_takeover(author, &operation.control, &in_past)
    }

    /// Whether an operation that builds on these has the admission of its author in its past.
    pub(super) fn covers_admission(&self, author: &DeviceId, builds_on: &[Dependency]) -> bool {
        let past = self.causality.past_of(builds_on);
        self.membership.may_begin(author, &|log, sequence| reaches(&past, log, sequence))
    }

    /// Whether an operation that builds on these has all records of the chain in its past.
    pub(super) fn covers_records(&self, builds_on: &[Dependency]) -> bool {
        let past = self.causality.past_of(builds_on);
        self.membership.knows_all_records(&|log, sequence| reaches(&past, log, sequence))
    }

    pub(super) fn take_effect(&mut self, at: Place, operation: &OperationSummary) -> Result<(), MembershipError> {
        let (causality, past) = (&self.causality, OnceCell::new());
        let in_past = |log: &DeviceId, sequence: u64| {
            reaches(past.get_or_init(|| causality.past(at.log, at.sequence)), log, sequence)
        };
        match operation.kind {
            Kind::MEMBERSHIP => self.membership.apply_record(at, &operation.control, &in_past),
            Kind::ADMIT => self.membership.apply_admit(at, &operation.control, &in_past),
            Kind::DATA => {
                let epoch = operation.epoch;
                let held = self.logs.get_mut(&at.log).expect("it was looked at");
                // What has begun in an operation's past has begun in those of the operations after it.
                if held.sealed != Some(epoch) {
                    if !self.membership.epoch_has_begun(epoch, &in_past) {
                        return Err(MembershipError::WrongEpoch);
                    }
                    held.sealed = Some(epoch);
                }
                let ended = self.membership.epoch_has_ended(epoch, operation.membership, &in_past);
                if ended { Err(MembershipError::WrongEpoch) } else { Ok(()) }
            }
            Kind::EQUIVOCATION => {
                let proof = ForkProof::decode(&operation.control).map_err(|_| MembershipError::Malformed)?;
                if !proof.holds(&self.membership.space()) {
                    return Err(MembershipError::BadProof);
                }
                self.note_fork(proof.author, proof.sequence, proof.previous());
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
