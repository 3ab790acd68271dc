//! Bringing a space's log and index into order again.

use syncline_model::SpaceId;

use super::Store;
use crate::error::StorageError;
use crate::index::IndexError;
use crate::log::{Held, IndexUse, RepairReport, held_ranges, missing_ranges};
use crate::progress::Progress;
use crate::store::condemn_index;

impl Store {
    /// Makes a space's index anew from its log, with damaged records left out, and says what is missing then.
    ///
    /// The log must not be open. Every signature is checked. Nothing is removed from it: what can be read is kept, and what cannot is fetched
    /// again at the next contact with a peer that has it. What others derived and kept in the space's part of the
    /// index is gone, as whenever an index is made anew.
    pub fn repair_space(
        &self,
        space: SpaceId,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<RepairReport, StorageError> {
        let before = match self.held_before_repair(space, progress) {
            Ok(before) => before,
            // What the index said cannot be known then. It is made anew in any case.
            Err(StorageError::Index(IndexError::Damaged(_))) => Held::new(),
            Err(error) => return Err(error),
        };
        let open = self.open.enter(space)?;
        let log = self.open_log(open, IndexUse::Anew, progress)?;
        let stats = log.stats()?;
        let mut report = RepairReport {
            runs: stats.runs,
            operations: stats.operations,
            quarantined: stats.quarantined,
            ..RepairReport::default()
        };
        missing_ranges(&before, &held_ranges(&log.reader(), false)?, &mut report);
        log.close()?;
        Ok(report)
    }

    /// Asks the next start to make the whole index anew.
    pub fn rebuild_index_at_next_start(&self) {
        condemn_index(&*self.disk);
    }

    /// What the index that is there says, after its proof of what is durable went into the log itself.
    fn held_before_repair(&self, space: SpaceId, progress: &mut dyn FnMut(Progress)) -> Result<Held, StorageError> {
        let mut log = self.open_space(space, progress)?;
        let held = held_ranges(&log.reader(), true)?;
        log.end_segment()?;
        log.close()?;
        Ok(held)
    }
}
