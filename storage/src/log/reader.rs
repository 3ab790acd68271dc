//! Reading a log while it is written.
//!
//! Readers find runs through the index, which is only told of what was synced, so they need no word with the writer.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use syncline_model::limits::RUN_OPERATIONS_MAX;
use syncline_model::planted::{Bug, planted};
use syncline_model::{DeviceId, Run, RunSummary, SpaceId};

use super::body::decode_body;
use super::record::RECORD_HEADER_BYTES;
use super::segment::segment_path;
use super::{Incarnation, LogParts};
use crate::error::StorageError;
use crate::index::{Batch, IndexError, SpaceIndex};
use crate::layout::{
    Area, AuthorEntry, Quarantined, Watermark, arrival_summary, author_suffix, decode_arrival, decode_author_entry,
    decode_position, position_suffix,
};
use crate::position::Position;

/// Most bytes of runs that one call returns, but for a single longer run; greater wishes are cut to this.
const READ_BYTES_MAX: usize = 16 << 20;
/// Runs of the wanted ranges up to which they are looked up by author and sorted; with more of them going over all
/// arrivals is cheaper, and a page never needs more memory than this.
const LOOKUP_RUNS_MAX: usize = 2048;
/// Arrivals that one call goes over before it returns what it has.
const ARRIVALS_PER_CALL_MAX: usize = 1 << 18;
/// Most bytes read from a segment at once.
const READ_AT_ONCE_BYTES: u32 = 1 << 20;
/// Bytes between two records that are read and dropped rather than skipped by a second read.
const READ_GAP_BYTES: u32 = 4096;

/// A stretch of one author's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuthorRange {
    /// Whose log.
    pub author: DeviceId,
    /// The sequence after which it begins.
    pub after: u64,
    /// Its last sequence.
    pub through: u64,
}

/// A run with where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRun {
    /// Where its record stands.
    pub position: Position,
    /// The log under which it is filed: its author's, or a branch of that.
    pub log: DeviceId,
    /// The run. It was verified before it was stored.
    pub run: Run,
}

/// Runs in order of arrival, and where to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArrivalPage {
    /// The runs.
    pub runs: Vec<StoredRun>,
    /// Every wanted run up to here is in this page or was in an earlier one: the `after` of the next call.
    pub reached: Position,
    /// Whether nothing is left to read.
    pub complete: bool,
}

/// What a log holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogStats {
    /// Operations that can be read.
    pub operations: u64,
    /// Runs that can be read.
    pub runs: u64,
    /// Bytes of the segment files.
    pub log_bytes: u64,
    /// Segment files.
    pub segments: u64,
    /// Damaged stretches that are left out.
    pub quarantined: u64,
}

/// What going over the arrival entries calls for each: its position and its bytes.
type VisitArrival<'a> = &'a mut dyn FnMut(Position, &[u8]) -> Result<ControlFlow<()>, IndexError>;

/// Where to read one run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Planned {
    pub(super) position: Position,
    pub(super) length: u32,
    pub(super) author: DeviceId,
    pub(super) first: u64,
    pub(super) last: u64,
}

impl Planned {
    fn record_bytes(&self) -> u32 {
        RECORD_HEADER_BYTES + self.length
    }

    pub(super) fn record_end(&self) -> u32 {
        self.position.offset().saturating_add(self.record_bytes())
    }
}

/// Reads what is synced; cheap to clone, usable from any thread, beside the writer.
#[derive(Debug, Clone)]
pub struct LogReader {
    pub(super) parts: Arc<LogParts>,
}

impl LogReader {
    pub(super) fn new(parts: Arc<LogParts>) -> Self {
        Self { parts }
    }

    /// The space.
    pub fn space(&self) -> SpaceId {
        self.parts.space
    }

    /// Which log it is; positions of another incarnation mean nothing here.
    pub fn incarnation(&self) -> Incarnation {
        self.parts.incarnation
    }

    /// The last damaged record that any reader of this log has met and put in quarantine; told once.
    ///
    /// Whoever keeps in memory what the log holds has to forget the record's operations, so that they are fetched
    /// again.
    pub fn take_damage(&self) -> Option<StorageError> {
        self.parts.damage().met.take()
    }

    /// The space's part of the index.
    pub fn index(&self) -> &SpaceIndex {
        &self.parts.index
    }

    /// Visits every run after `after` in order of arrival, from the index alone. The visitor must not use the index.
    pub fn replay(
        &self,
        after: Option<Position>,
        visit: &mut dyn FnMut(Position, RunSummary),
    ) -> Result<(), StorageError> {
        self.replay_filed(after, &mut |position, _, summary| visit(position, summary))
    }

    /// The same, with the log under which each is filed: its author's, or a branch.
    pub fn replay_filed(
        &self,
        after: Option<Position>,
        visit: &mut dyn FnMut(Position, DeviceId, RunSummary),
    ) -> Result<(), StorageError> {
        self.scan_arrivals(after, &mut |position, value| {
            let (log, summary) = arrival_summary(value)?;
            visit(position, log, summary);
            Ok(ControlFlow::Continue(()))
        })
    }

    /// The stored runs of `author` that hold a sequence in (`after`, `through`], by last sequence, then arrival.
    ///
    /// Stops once `bytes_max` is passed, but returns at least one run when there is one. Branches of a log are read
    /// under their own names; a run that starts beyond `through` ends the search.
    ///
    /// # Errors
    /// [`StorageError::Damaged`] names a run that could not be read; it is in quarantine then and the same call
    /// succeeds without it.
    pub fn read(
        &self,
        author: &DeviceId,
        after: u64,
        through: u64,
        bytes_max: usize,
    ) -> Result<Vec<Run>, StorageError> {
        let (mut plan, mut bytes) = (Vec::new(), 0);
        let bytes_max = bytes_max.min(READ_BYTES_MAX);
        self.scan_author(AuthorRange { author: *author, after, through }, &mut |planned| {
            bytes += planned.length as usize;
            plan.push(planned);
            if bytes > bytes_max { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        Ok(self.fetch(&plan)?.into_iter().map(|stored| stored.run).collect())
    }

    /// How many bytes the stored runs of a log have, from the index alone.
    pub fn stored_bytes(&self, author: &DeviceId) -> Result<u64, StorageError> {
        let mut bytes = 0;
        let range = AuthorRange { author: *author, after: 0, through: u64::MAX };
        self.scan_author(range, &mut |planned| {
            bytes += u64::from(planned.length);
            ControlFlow::Continue(())
        })?;
        Ok(bytes)
    }

    /// The first stored run of `author` that covers `sequence`.
    pub fn run_at(&self, author: &DeviceId, sequence: u64) -> Result<Option<Run>, StorageError> {
        let Some(after) = sequence.checked_sub(1) else { return Ok(None) };
        let mut plan = Vec::new();
        self.scan_author(AuthorRange { author: *author, after, through: sequence }, &mut |planned| {
            plan.push(planned);
            ControlFlow::Break(())
        })?;
        Ok(self.fetch(&plan)?.pop().map(|stored| stored.run))
    }

    /// The run whose record stands at `position`, if one does.
    pub fn run_by_position(&self, position: Position) -> Result<Option<Run>, StorageError> {
        let value = self.parts.index.value(Area::ARRIVAL, &position_suffix(position));
        let planned = value.and_then(|value| value.map(|value| planned_arrival(position, &value)).transpose());
        let planned = planned.map_err(|error| self.parts.index_failed(error))?;
        Ok(self.fetch(planned.as_slice())?.pop().map(|stored| stored.run))
    }

    /// The stored runs that hold a sequence of one of `ranges`, in order of arrival, after the position `after`.
    ///
    /// Stops once `bytes_max` is passed, but returns at least one run when one was found. A page may be empty and yet
    /// not complete, when wanted runs are few among many: call again with what it reached.
    ///
    /// # Errors
    /// As [`LogReader::read`].
    pub fn read_many(
        &self,
        ranges: &[AuthorRange],
        after: Option<Position>,
        bytes_max: usize,
    ) -> Result<ArrivalPage, StorageError> {
        let bytes_max = bytes_max.min(READ_BYTES_MAX);
        let (plan, reached, complete) = match self.plan_by_author(ranges, after)? {
            Some(plan) => cut_plan(plan, after, bytes_max),
            None => self.plan_by_arrival(ranges, after, bytes_max)?,
        };
        Ok(ArrivalPage { runs: self.fetch(&plan)?, reached, complete })
    }

    pub(super) fn stats(&self, watermark: &Watermark, segments: u64, log_bytes: u64) -> Result<LogStats, StorageError> {
        let (mut quarantined, mut lost_runs, mut lost_operations) = (0, 0, 0);
        let mut damage = None;
        let scanned =
            self.parts.index.scan(Area::QUARANTINE, &[], None, &mut |_, value| match Quarantined::decode(value) {
                Ok(entry) => {
                    quarantined += 1;
                    lost_runs += u64::from(entry.count > 0);
                    lost_operations += u64::from(entry.count);
                    ControlFlow::Continue(())
                }
                Err(error) => {
                    damage = Some(error);
                    ControlFlow::Break(())
                }
            });
        scanned.and(damage.map_or(Ok(()), Err)).map_err(|error| self.parts.index_failed(error))?;
        Ok(LogStats {
            operations: watermark.operations.saturating_sub(lost_operations),
            runs: watermark.runs.saturating_sub(lost_runs),
            log_bytes,
            segments,
            quarantined,
        })
    }

    /// Visits arrival entries after a position.
    pub(super) fn scan_arrivals(&self, after: Option<Position>, visit: VisitArrival<'_>) -> Result<(), StorageError> {
        let from = position_suffix(after.map_or(Position::START, Position::next));
        let mut damage = None;
        let scanned =
            self.parts.index.scan(Area::ARRIVAL, &from, None, &mut |suffix, value| match decode_position(suffix)
                .and_then(|position| visit(position, value))
            {
                Ok(flow) => flow,
                Err(error) => {
                    damage = Some(error);
                    ControlFlow::Break(())
                }
            });
        scanned.and(damage.map_or(Ok(()), Err)).map_err(|error| self.parts.index_failed(error))
    }

    /// Visits the runs of one range, by last sequence.
    pub(super) fn scan_author(
        &self,
        range: AuthorRange,
        visit: &mut dyn FnMut(Planned) -> ControlFlow<()>,
    ) -> Result<(), StorageError> {
        let AuthorRange { author, after, through } = range;
        if after >= through {
            return Ok(());
        }
        let from = author_suffix(&author, after + 1, Position::START);
        // Runs follow each other, but those that were fetched again for damaged ones may end after others that begin
        // later. None is longer than a run may be.
        let has_gaps = self.parts.has_gaps.load(Ordering::Relaxed);
        let last = if has_gaps { through.saturating_add(RUN_OPERATIONS_MAX as u64) } else { u64::MAX };
        let to = author_suffix(&author, last, Position::from_u64(u64::MAX));
        let mut damage = None;
        let scanned =
            self.parts.index.scan(Area::AUTHOR, &from, Some(&to), &mut |suffix, value| match decode_author_entry(
                suffix, value,
            ) {
                Ok(AuthorEntry { first, .. }) if first > through && has_gaps => ControlFlow::Continue(()),
                Ok(AuthorEntry { first, .. }) if first > through - u64::from(planted(Bug::ReadEndsEarly)) => {
                    ControlFlow::Break(())
                }
                Ok(AuthorEntry { position, length, first, last }) => {
                    visit(Planned { position, length, author, first, last })
                }
                Err(error) => {
                    damage = Some(error);
                    ControlFlow::Break(())
                }
            });
        scanned.and(damage.map_or(Ok(()), Err)).map_err(|error| self.parts.index_failed(error))
    }

    /// All wanted runs in order of arrival; None when they are too many to be looked up.
    fn plan_by_author(
        &self,
        ranges: &[AuthorRange],
        after: Option<Position>,
    ) -> Result<Option<Vec<Planned>>, StorageError> {
        let (mut plan, mut looked_up) = (Vec::new(), 0);
        for range in ranges {
            self.scan_author(*range, &mut |planned| {
                looked_up += 1;
                if Some(planned.position) > after {
                    plan.push(planned);
                }
                if looked_up > LOOKUP_RUNS_MAX { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
            if looked_up > LOOKUP_RUNS_MAX {
                return Ok(None);
            }
        }
        plan.sort_unstable_by_key(|planned| planned.position);
        plan.dedup_by_key(|planned| planned.position);
        Ok(Some(plan))
    }

    /// The next wanted runs, found by going over all arrivals.
    fn plan_by_arrival(
        &self,
        ranges: &[AuthorRange],
        after: Option<Position>,
        bytes_max: usize,
    ) -> Result<(Vec<Planned>, Position, bool), StorageError> {
        let mut wanted: BTreeMap<DeviceId, Vec<AuthorRange>> = BTreeMap::new();
        for range in ranges {
            wanted.entry(range.author).or_default().push(*range);
        }
        let (mut plan, mut bytes, mut visited) = (Vec::new(), 0, 0);
        let (mut reached, mut complete) = (after.unwrap_or(Position::START), true);
        self.scan_arrivals(after, &mut |position, value| {
            let planned = planned_arrival(position, value)?;
            let holds = |range: &AuthorRange| planned.first <= range.through && planned.last > range.after;
            if bytes > bytes_max || visited == ARRIVALS_PER_CALL_MAX {
                complete = false;
                return Ok(ControlFlow::Break(()));
            }
            if wanted.get(&planned.author).is_some_and(|ranges| ranges.iter().any(holds)) {
                bytes += planned.length as usize;
                plan.push(planned);
            }
            (visited, reached) = (visited + 1, position);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok((plan, reached, complete))
    }

    /// Reads the planned runs, records that stand close together with one read.
    pub(super) fn fetch(&self, plan: &[Planned]) -> Result<Vec<StoredRun>, StorageError> {
        let mut runs = Vec::with_capacity(plan.len());
        let mut buffer = Vec::new();
        let mut rest = plan;
        while let Some(start) = rest.first() {
            let joins = |end: u32, next: &Planned| {
                next.position.segment() == start.position.segment()
                    && (end..=end.saturating_add(READ_GAP_BYTES)).contains(&next.position.offset())
                    && next.record_end() - start.position.offset() <= READ_AT_ONCE_BYTES
            };
            let (mut count, mut end) = (1, start.record_end());
            while let Some(next) = rest.get(count).filter(|next| joins(end, next)) {
                (count, end) = (count + 1, next.record_end());
            }
            let (together, later) = rest.split_at(count);
            self.fetch_together(together, end, &mut buffer, &mut runs)?;
            rest = later;
        }
        Ok(runs)
    }

    fn fetch_together(
        &self,
        plan: &[Planned],
        end: u32,
        buffer: &mut Vec<u8>,
        runs: &mut Vec<StoredRun>,
    ) -> Result<(), StorageError> {
        let (segment, start) = (plan[0].position.segment(), plan[0].position.offset());
        let file = self.parts.segment_file(segment)?;
        buffer.resize((end - start) as usize, 0);
        let path = segment_path(&self.parts.directory, segment);
        let read = file.read_at(u64::from(start), buffer).map_err(StorageError::io("read", path))?;
        for planned in plan {
            let from = (planned.position.offset() - start) as usize;
            let record = buffer[..read].get(from..from + planned.record_bytes() as usize);
            let body = record.and_then(|record| self.parts.codec.body(segment, planned.position.offset(), record));
            let run = body.and_then(|body| decode_body(self.parts.space, body));
            let is_planned = |(log, run): &(DeviceId, Run)| {
                (*log, run.first(), run.last()) == (planned.author, planned.first, planned.last)
            };
            match run.filter(is_planned) {
                Some((log, run)) => runs.push(StoredRun { position: planned.position, log, run }),
                None => return Err(self.put_in_quarantine(planned)),
            }
        }
        Ok(())
    }

    /// Takes a damaged run out of the index, so that it counts as missing and can be fetched again.
    fn put_in_quarantine(&self, planned: &Planned) -> StorageError {
        let Planned { position, length, author, first, last } = *planned;
        let count = u32::try_from(last - first + 1).unwrap_or(u32::MAX);
        let index = &self.parts.index;
        let space = self.parts.space;
        let damaged = || StorageError::Damaged { space, position, author, first, last };
        let mut damage = self.parts.damage();
        if damage.is_over {
            return damaged();
        }
        let mut batch = Batch::default();
        batch.remove(index.key(Area::ARRIVAL, &position_suffix(position)));
        batch.remove(index.key(Area::AUTHOR, &author_suffix(&author, last, position)));
        let entry = Quarantined { length, author, first, count };
        batch.put(index.key(Area::QUARANTINE, &position_suffix(position)), entry.encode());
        if let Err(error) = index.apply(batch) {
            return self.parts.index_failed(error);
        }
        self.parts.has_gaps.store(true, Ordering::Relaxed);
        tracing::error!("{}", damaged());
        damage.met = Some(damaged());
        damaged()
    }
}

pub(super) fn planned_arrival(position: Position, value: &[u8]) -> Result<Planned, IndexError> {
    let arrival = decode_arrival(value)?;
    let crate::layout::Arrival { length, author, first, last, .. } = arrival;
    Ok(Planned { position, length, author, first, last })
}

/// As much of a sorted plan as fits, the position it reaches, and whether that is all of it.
fn cut_plan(mut plan: Vec<Planned>, after: Option<Position>, bytes_max: usize) -> (Vec<Planned>, Position, bool) {
    let mut bytes = 0;
    let fitting = plan.iter().take_while(|planned| {
        let room = bytes <= bytes_max;
        bytes += planned.length as usize;
        room
    });
    let count = fitting.count();
    let complete = count == plan.len();
    plan.truncate(count);
    let reached = plan.last().map_or(after.unwrap_or(Position::START), |planned| planned.position);
    (plan, reached, complete)
}
