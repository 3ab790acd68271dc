//! Bringing a space's log and index into order again.

use syncline_model::SpaceId;

use super::Store;
use crate::error::StorageError;
use crate::index::IndexError;
use crate::layout::Quarantined;
use crate::log::{Held, IndexUse, RepairReport, held_ranges, keep_known, known_quarantine, missing_ranges};
use crate::position::Position;
use crate::progress::{Activity, Progress};
use crate::store::condemn_index;

/// Bytes that are read at once.
const SCRUB_BYTES: usize = 4 << 20;

/// What the index says before it is made anew.
#[derive(Default)]
struct Before {
    held: Held,
    /// Quarantine of which is known what stood in it.
    known: Vec<(Position, Quarantined)>,
}

impl Store {
    /// Makes a space's index anew from its log, with damaged records left out, and says what is missing then.
    ///
    /// The log must not be open. Every signature is checked. What can be read stays where it is; what cannot gives its
    /// room back, and is fetched again at the next contact with a peer that has it. What others derived and kept in
    /// the space's part of the index is gone, as whenever an index is made anew.
    pub fn repair_space(
        &self,
        space: SpaceId,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<RepairReport, StorageError> {
        let Before { held, known } = match self.before_repair(space, progress) {
            Ok(before) => before,
            // What the index said cannot be known then. It is made anew in any case.
            Err(StorageError::Index(IndexError::Damaged(_))) => Before::default(),
            Err(error) => return Err(error),
        };
        let open = self.open.enter(space)?;
        let mut log = self.open_log(open, IndexUse::Anew, progress)?;
        let stats = log.stats()?;
        let mut report = RepairReport {
            runs: stats.runs,
            operations: stats.operations,
            quarantined: stats.quarantined,
            ..RepairReport::default()
        };
        let reader = log.reader();
        missing_ranges(&held, &held_ranges(&reader, false)?, &mut report);
        report.reclaimed_bytes = log.reclaim()?.bytes;
        log.close()?;
        keep_known(&reader, &known)?;
        Ok(report)
    }

    /// Asks the next start to make the whole index anew.
    pub fn rebuild_index_at_next_start(&self) {
        condemn_index(&*self.disk);
    }

    /// What the index that is there says, after its proof of what is durable went into the log itself.
    ///
    /// Everything is read first: whose operations stood in a damaged record only the index knows.
    fn before_repair(&self, space: SpaceId, progress: &mut dyn FnMut(Progress)) -> Result<Before, StorageError> {
        let mut log = self.open_space(space, progress)?;
        let reader = log.reader();
        let (mut after, mut done, total) = (None, 0, log.stats()?.log_bytes);
        loop {
            let step = reader.scrub(after, SCRUB_BYTES)?;
            (after, done) = (Some(step.reached), done + step.bytes);
            progress(Progress { activity: Activity::Verifying, space: Some(space), done: done.min(total), total });
            if step.complete {
                break;
            }
        }
        let (held, known) = (held_ranges(&reader, true)?, known_quarantine(&reader)?);
        log.end_segment()?;
        log.close()?;
        Ok(Before { held, known })
    }
}
