//! What a device testifies of others: that it has seen their data, and that a log forked.

use syncline_model::{DeviceId, ForkProof, Kind, Run, RunSummary, VerifiedRun};

use super::core::{Clock, Effect, SpaceCore};

impl SpaceCore {
    /// How long other authors' data may wait for an operation of this device that builds on it; then it writes an empty
    /// one that does, a *witness*.
    ///
    /// What a device has witnessed stays readable when its author's log is cut before it. A witness is written for
    /// data only, never for other witnesses alone, so that idle devices do not answer each other for ever, and at most
    /// once in this time.
    pub fn witness_after(&mut self, ms: u64) {
        self.witness_after_ms = ms;
    }

    pub(super) fn witness_due_ms(&self) -> Option<u64> {
        let since = self.unwitnessed_since_ms.filter(|_| self.check_writer().is_ok())?;
        since.checked_add(self.witness_after_ms)
    }

    /// Writes a witness when other authors' data has waited long enough for one.
    pub(super) fn witness_when_due(&mut self, clock: Clock) {
        if self.witness_due_ms().is_some_and(|due| due <= clock.now_ms) {
            // One that finds no room is tried again after the same time.
            self.unwitnessed_since_ms = self.write_control(Kind::WITNESS, Vec::new()).err().map(|_| clock.now_ms);
        }
    }

    /// Takes a run of a branch: when it proves a fork that is not known, and when somebody built on it.
    pub(super) fn take_branch(&mut self, run: VerifiedRun, wanted: bool, clock: Clock, out: &mut Vec<Effect>) {
        if !wanted && self.state.membership().forks().contains_key(&run.author()) {
            return;
        }
        let Some((log, first)) = self.state.admission.branch_for(&RunSummary::of(&run)) else { return };
        let fresh = match run.encode_after(first - 1) {
            Some(bytes) if first > run.first() => {
                Run::decode(run.space(), bytes).ok().and_then(|run| run.verify().ok())
            }
            _ => Some(run),
        };
        if let Some(fresh) = fresh {
            self.ingest(log, fresh, clock, out);
        }
    }

    /// A peer offers what lies behind a fork, so it has not heard of it. Who writes has proven it in its log, where the
    /// peer will find it; anybody else shows both stretches to all.
    pub(super) fn contest(&self, author: DeviceId, out: &mut Vec<Effect>) {
        if !self.state.is_proven(&author)
            && self.check_writer().is_err()
            && let Some((branch, sequence)) = self.first_branch(&author)
        {
            out.push(Effect::Show { author, branch, sequence });
        }
    }

    /// A held branch that leaves an author's own log, and where it has its first operation.
    fn first_branch(&self, author: &DeviceId) -> Option<(DeviceId, u64)> {
        let admission = self.state.admission();
        let leaves = |branch: &DeviceId| {
            let (log, base) = admission.branching(branch)?;
            (log == *author).then_some((*branch, base + 1))
        };
        admission.branches(author).iter().find_map(leaves)
    }

    /// Writes down a proof that an author forked, so that all learn of it.
    pub(super) fn publish_proof(&mut self, proof: &ForkProof) {
        let known = self.state.is_proven(&proof.author);
        if !known && self.check_writer().is_ok() && proof.holds(&self.state.keys.space) {
            // One that finds no room is written by whoever meets the fork next.
            let _unwritten = self.write_control(Kind::EQUIVOCATION, proof.encode());
        }
    }

    /// Has proofs made of forks of which this device holds both branches and nobody has told yet.
    pub(super) fn prove_forks(&self, out: &mut Vec<Effect>) {
        let unproven = self.state.membership().forks().keys().filter(|author| !self.state.is_proven(author));
        for author in unproven {
            if let Some((branch, sequence)) = self.first_branch(author) {
                out.push(Effect::Prove { author: *author, branch, sequence });
            }
        }
    }
}
