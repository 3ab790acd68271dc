//! The causal order of stored operations, read from the log when it is first asked for.

use std::collections::BTreeMap;

use syncline_model::{Causality, Dependency, DeviceId, OperationId};
use syncline_storage::{LogReader, Position, StorageError};

/// Who built on what, of all that is stored, log by log.
#[derive(Debug, Default)]
pub(super) struct Order {
    causality: Causality,
    reached: Option<Position>,
    /// The operations of branches of forked logs: dependencies name their author.
    of_branches: BTreeMap<(DeviceId, u64, OperationId), DeviceId>,
}

impl Order {
    /// Whether the first operation is in the causal past of the second, as far as was read.
    pub(super) fn precedes(&self, first: (DeviceId, u64), second: (DeviceId, u64)) -> bool {
        self.causality.precedes(first, second)
    }

    /// Takes in what was stored since the last time.
    pub(super) fn read_on(&mut self, reader: &LogReader) -> Result<(), StorageError> {
        let (mut runs, mut branched) = (Vec::new(), false);
        let branches = &mut self.of_branches;
        reader.replay_filed(self.reached, &mut |position, log, summary| {
            if log != summary.author {
                branched = true;
                let places = (summary.first..).zip(&summary.operations);
                branches.extend(places.map(|(at, operation)| ((summary.author, at, operation.id), log)));
            }
            runs.push((position, log, summary));
        })?;
        if branched && self.reached.is_some() {
            // What was taken in before may have named them.
            (self.causality, self.reached) = Default::default();
            return self.read_on(reader);
        }
        for (position, log, summary) in runs {
            for (sequence, operation) in (summary.first..).zip(&summary.operations) {
                let in_log = |dependency: &Dependency| {
                    let place = (dependency.author, dependency.sequence, dependency.id);
                    let author = self.of_branches.get(&place).copied().unwrap_or(dependency.author);
                    Dependency { author, ..*dependency }
                };
                let mut builds_on: Vec<Dependency> = operation.dependencies.iter().map(in_log).collect();
                if log != summary.author && sequence == summary.first && sequence > 1 {
                    let place = (summary.author, sequence - 1, summary.previous);
                    let author = self.of_branches.get(&place).copied().unwrap_or(summary.author);
                    if author != log {
                        builds_on.push(Dependency { author, sequence: sequence - 1, id: summary.previous });
                    }
                }
                self.causality.record(log, sequence, &builds_on);
            }
            self.reached = Some(position);
        }
        Ok(())
    }
}
