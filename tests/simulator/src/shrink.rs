//! The shortest reproduction of a failure: parts of the plan are left out as long as the run goes on failing alike.
//!
//! Whole kinds of parts go first, then single devices, then ever smaller groups of faults and actions (delta debugging,
//! Zeller and Hildebrandt, 2002). What is left out draws from streams of its own, so the rest stays as it was.

use std::collections::BTreeSet;

use crate::plan::{Ambient, LARGE_SEEDS, Plan};
use crate::reduction::Reduction;
use crate::trace::Detail;
use crate::{Outcome, run};

/// Most runs that shrinking one failure takes.
pub const SHRINK_RUNS_MAX: usize = 400;
/// The same for a large run.
pub const SHRINK_RUNS_LARGE_MAX: usize = 12;
/// Letters of a violation by which two are told to be alike.
const ALIKE_LETTERS: usize = 24;

/// A search for less.
struct Search {
    seed: u64,
    likeness: String,
    least: Outcome,
    runs_left: usize,
}

/// Leaves out as much as possible; gives back the outcome of the smallest run found that fails alike.
pub fn shrink(failed: Outcome) -> Outcome {
    let Some(violation) = &failed.violation else { return failed };
    let runs_left = if LARGE_SEEDS.contains(&failed.seed) { SHRINK_RUNS_LARGE_MAX } else { SHRINK_RUNS_MAX };
    let mut search = Search { seed: failed.seed, likeness: likeness(violation), least: failed, runs_left };
    let plan = Plan::draw(search.seed, &search.least.reduction);
    let ambient = (0..Ambient::KINDS.len() as u64).collect();
    let faults: BTreeSet<u64> = plan.faults.iter().map(|fault| fault.index).collect();
    let spaces: BTreeSet<u64> = (1..plan.spaces.len() as u64).collect();
    let devices: BTreeSet<u64> = plan.present().into_iter().map(|device| device as u64).collect();
    let actions: BTreeSet<u64> = plan.actions.iter().map(|action| action.index).collect();
    search.minimise(ambient, |reduction| &mut reduction.ambient);
    search.minimise(spaces, |reduction| &mut reduction.spaces);
    search.minimise(faults, |reduction| &mut reduction.faults);
    search.minimise(devices, |reduction| &mut reduction.devices);
    search.minimise(actions, |reduction| &mut reduction.actions);
    search.least
}

impl Search {
    /// Whether the run fails alike with this left out too; keeps it if so.
    fn try_without(&mut self, left_out: &BTreeSet<u64>, part: impl Fn(&mut Reduction) -> &mut BTreeSet<u64>) -> bool {
        if self.runs_left == 0 || left_out.is_empty() {
            return false;
        }
        self.runs_left -= 1;
        let mut reduction = self.least.reduction.clone();
        part(&mut reduction).extend(left_out);
        let outcome = run(self.seed, &reduction, Detail::Tail);
        let alike = outcome.violation.as_deref().is_some_and(|violation| likeness(violation) == self.likeness);
        if alike {
            self.least = outcome;
        }
        alike
    }

    /// Leaves out as many of some parts as possible, in groups that become smaller.
    fn minimise(&mut self, parts: BTreeSet<u64>, part: impl Fn(&mut Reduction) -> &mut BTreeSet<u64> + Copy) {
        let mut kept: Vec<u64> = parts.into_iter().collect();
        let mut size = kept.len();
        while size > 0 && self.runs_left > 0 {
            let mut at = 0;
            while at < kept.len() {
                let group: BTreeSet<u64> = kept[at..kept.len().min(at + size)].iter().copied().collect();
                if self.try_without(&group, part) {
                    kept.retain(|one| !group.contains(one));
                } else {
                    at += size;
                }
            }
            size /= 2;
        }
    }
}

/// What a violation is about: its letters, without numbers and names.
fn likeness(violation: &str) -> String {
    violation.chars().filter(|letter| letter.is_alphabetic()).take(ALIKE_LETTERS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn violations_are_alike_without_their_numbers() {
        assert_eq!(likeness("#1 refuses 22, which it has"), likeness("#14 refuses 3, which it has"));
        assert_ne!(likeness("#1 refuses 22"), likeness("#1 lost once/22"));
    }
}
