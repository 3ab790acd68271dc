//! Causal pasts as version vectors, from the dependencies alone.
//!
//! A causal past restricted to one author is always a prefix of that author's log, so it is a vector. Dependencies of
//! one author on another only grow, so each pair of authors keeps one sorted list of steps; a past is found by
//! following them to a fixpoint. That costs memory per dependency instead of a vector per operation.

use std::collections::BTreeMap;

use crate::ids::DeviceId;
use crate::operation::Dependency;
use crate::planted::{Bug, planted};
use crate::vector::VersionVector;

/// From `at` on, the author's log builds on the other log up to `covers`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Step {
    at: u64,
    covers: u64,
}

/// A causal past: author → the highest sequence in it.
pub type Past = BTreeMap<DeviceId, u64>;

/// Who built on whose operations, and up to where.
#[derive(Debug, Clone, Default)]
pub struct Causality {
    steps: BTreeMap<DeviceId, BTreeMap<DeviceId, Vec<Step>>>,
}

impl Causality {
    /// Records the dependencies of the operation at `sequence`; an author's operations come in order.
    pub fn record(&mut self, author: DeviceId, sequence: u64, dependencies: &[Dependency]) {
        if dependencies.is_empty() {
            return;
        }
        let onto = self.steps.entry(author).or_default();
        for dependency in dependencies {
            let steps = onto.entry(dependency.author).or_default();
            if steps.last().is_none_or(|last| last.covers < dependency.sequence) {
                steps.push(Step { at: sequence, covers: dependency.sequence });
            }
        }
    }

    /// The past of the operation at (`author`, `sequence`), itself included.
    pub fn past(&self, author: DeviceId, sequence: u64) -> Past {
        self.close(Past::from([(author, sequence)]), vec![(author, sequence)])
    }

    /// The past of an operation that names these dependencies, without the operations of its own author.
    pub fn past_of(&self, dependencies: &[Dependency]) -> Past {
        let positions = positions(dependencies);
        self.close(positions.iter().copied().collect(), positions)
    }

    /// Whether the first operation is in the causal past of the second one (an operation is in its own).
    pub fn precedes(&self, first: (DeviceId, u64), second: (DeviceId, u64)) -> bool {
        if first.0 == second.0 {
            return first.1 <= second.1;
        }
        self.past(second.0, second.1).get(&first.0).is_some_and(|sequence| *sequence >= first.1)
    }

    /// The heads that `author`'s next operation may name, given all that is admitted: what its log so far does not
    /// cover, without what another of them covers; sorted by author.
    pub fn heads(&self, author: DeviceId, written: u64, admitted: &VersionVector) -> Vec<Dependency> {
        let known = self.past(author, written);
        let mut heads: Vec<Dependency> = admitted
            .iter()
            .filter(|(other, entry)| **other != author && known.get(other).is_none_or(|at| *at < entry.sequence))
            .map(|(other, entry)| Dependency { author: *other, sequence: entry.sequence, id: entry.id })
            .collect();
        if heads.len() > 1 {
            // What the heads build on, without themselves: a head is in it when another one covers it.
            let built_on = self.close(Past::new(), positions(&heads));
            heads.retain(|head| built_on.get(&head.author).is_none_or(|at| *at < head.sequence));
        }
        heads
    }

    /// Adds to `past` what the operations in `open` build on.
    fn close(&self, mut past: Past, mut open: Vec<(DeviceId, u64)>) -> Past {
        while let Some((author, sequence)) = open.pop() {
            for (other, steps) in self.steps.get(&author).into_iter().flatten() {
                let Some(step) = steps.partition_point(|step| step.at <= sequence).checked_sub(1) else { continue };
                let reached = past.entry(*other).or_insert(0);
                if *reached < steps[step].covers {
                    *reached = steps[step].covers;
                    if !planted(Bug::PastNotTransitive) {
                        open.push((*other, *reached));
                    }
                }
            }
        }
        past
    }
}

fn positions(dependencies: &[Dependency]) -> Vec<(DeviceId, u64)> {
    dependencies.iter().map(|dependency| (dependency.author, dependency.sequence)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::OperationId;
    use proptest::prelude::*;

    fn device(n: u8) -> DeviceId {
        DeviceId([n; 32])
    }

    /// A random history: at each step one author writes after having seen some others' heads.
    fn history() -> impl Strategy<Value = Vec<(u8, Vec<u8>)>> {
        proptest::collection::vec((0u8..4, proptest::collection::vec(0u8..4, 0..3)), 1..40)
    }

    proptest! {
        #[test]
        fn pasts_equal_those_of_a_plain_recomputation(history in history()) {
            let mut causality = Causality::default();
            let mut admitted = VersionVector::default();
            let mut plain: BTreeMap<(u8, u64), Past> = BTreeMap::new();
            for (author, seen) in history {
                let written = admitted.sequence(&device(author));
                let mut visible = VersionVector::default();
                for other in seen.into_iter().filter(|other| *other != author) {
                    let sequence = admitted.sequence(&device(other));
                    if sequence > 0 {
                        visible.advance(device(other), sequence, OperationId([0; 32]));
                    }
                }
                let dependencies = causality.heads(device(author), written, &visible);
                let sequence = written + 1;
                causality.record(device(author), sequence, &dependencies);
                admitted.advance(device(author), sequence, OperationId([0; 32]));

                let mut past = plain.get(&(author, written)).cloned().unwrap_or_default();
                past.insert(device(author), sequence);
                for (other, entry) in visible.iter() {
                    for (author, sequence) in &plain[&(other.0[0], entry.sequence)] {
                        let reached = past.entry(*author).or_insert(0);
                        *reached = (*reached).max(*sequence);
                    }
                }
                prop_assert_eq!(&causality.past(device(author), sequence), &past);
                plain.insert((author, sequence), past);
            }
        }
    }
}
