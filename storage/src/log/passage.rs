//! Going over everything that is stored, a piece at a time: for backups, and to find damage before it is needed.

use std::ops::ControlFlow;

use syncline_model::DeviceId;

use super::reader::{ArrivalPage, LogReader, Planned, planned_arrival};
use crate::error::StorageError;
use crate::layout::{Area, decode_position};
use crate::position::Position;

/// Runs that one piece holds at most, whatever their size.
const RUNS_PER_PIECE_MAX: usize = 1 << 16;
/// Bytes that one step of [`LogReader::scrub_segment`] reads.
const SCRUB_BYTES: usize = 1 << 20;

/// A stored run that could not be read; it is in quarantine, and missing until a peer sends it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DamagedRun {
    /// Where its record stands.
    pub position: Position,
    /// Whose operations it held.
    pub author: DeviceId,
    /// The first sequence it held.
    pub first: u64,
    /// The last sequence it held.
    pub last: u64,
}

/// What one step of a scrub found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScrubStep {
    /// Up to where everything was read: the `after` of the next step.
    pub reached: Position,
    /// Bytes of the runs that were read.
    pub bytes: u64,
    /// The runs that could not be read.
    pub damaged: Vec<DamagedRun>,
    /// Whether the end was reached. The next step may begin at the start again.
    pub complete: bool,
}

/// What is to be read next.
struct Piece {
    plan: Vec<Planned>,
    reached: Position,
    complete: bool,
}

impl LogReader {
    /// Reads the stored runs after a position, about `bytes_max` bytes of them, and reports the damaged ones.
    ///
    /// Damaged runs go into quarantine, so that they count as missing. How often it is called, with how many bytes,
    /// is how fast the disk is gone over; it may run beside everything else.
    pub fn scrub(&self, after: Option<Position>, bytes_max: usize) -> Result<ScrubStep, StorageError> {
        let piece = self.piece(after, Position::from_u64(u64::MAX), bytes_max)?;
        let bytes = piece.plan.iter().map(|planned| u64::from(planned.length)).sum();
        let mut damaged = Vec::new();
        // Together as a rule; one by one where that fails.
        if self.read_planned(&piece.plan, &mut damaged)?.is_none() {
            for planned in &piece.plan {
                self.read_planned(std::slice::from_ref(planned), &mut damaged)?;
            }
        }
        Ok(ScrubStep { reached: piece.reached, bytes, damaged, complete: piece.complete })
    }

    /// Reads all stored runs of one segment, as [`LogReader::scrub`] does; returns the damaged ones.
    pub fn scrub_segment(&self, segment: u32) -> Result<Vec<DamagedRun>, StorageError> {
        let (mut after, mut damaged) = (Position::new(segment, 0), Vec::new());
        loop {
            let step = self.scrub(Some(after), SCRUB_BYTES)?;
            damaged.extend(step.damaged.into_iter().filter(|run| run.position.segment() == segment));
            if step.complete || step.reached.segment() > segment {
                return Ok(damaged);
            }
            after = step.reached;
        }
    }

    /// The position of the last stored run.
    pub(crate) fn last_position(&self) -> Result<Option<Position>, StorageError> {
        let last = self.parts.index.last(Area::ARRIVAL, &[], None);
        let position = last.and_then(|last| last.map(|(suffix, _)| decode_position(&suffix)).transpose());
        position.map_err(|error| self.parts.index_failed(error))
    }

    /// The runs after a position up to another, in order of arrival, about `bytes_max` bytes of them. Damaged ones
    /// are left out and added to `damaged`.
    pub(crate) fn passage(
        &self,
        after: Option<Position>,
        through: Position,
        bytes_max: usize,
        damaged: &mut Vec<DamagedRun>,
    ) -> Result<ArrivalPage, StorageError> {
        let Piece { mut plan, reached, complete } = self.piece(after, through, bytes_max)?;
        loop {
            let known = damaged.len();
            if let Some(runs) = self.read_planned(&plan, damaged)? {
                return Ok(ArrivalPage { runs, reached, complete });
            }
            plan.retain(|planned| damaged[known..].iter().all(|run| run.position != planned.position));
        }
    }

    /// None when a run is damaged, which then is noted.
    fn read_planned(
        &self,
        plan: &[Planned],
        damaged: &mut Vec<DamagedRun>,
    ) -> Result<Option<Vec<super::StoredRun>>, StorageError> {
        match self.fetch(plan) {
            Ok(runs) => Ok(Some(runs)),
            Err(StorageError::Damaged { position, author, first, last, .. }) => {
                if damaged.iter().all(|run| run.position != position) {
                    damaged.push(DamagedRun { position, author, first, last });
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn piece(&self, after: Option<Position>, through: Position, bytes_max: usize) -> Result<Piece, StorageError> {
        let mut piece = Piece { plan: Vec::new(), reached: after.unwrap_or(Position::START), complete: true };
        let mut bytes = 0;
        self.scan_arrivals(after, &mut |position, value| {
            if position > through {
                return Ok(ControlFlow::Break(()));
            }
            if bytes > bytes_max || piece.plan.len() == RUNS_PER_PIECE_MAX {
                piece.complete = false;
                return Ok(ControlFlow::Break(()));
            }
            let planned = planned_arrival(position, value)?;
            bytes += planned.length as usize;
            piece.reached = position;
            piece.plan.push(planned);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(piece)
    }
}
