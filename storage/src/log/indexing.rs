//! Puts runs into the index, and completes the index from the log.

use std::io;

use syncline_model::planted::{Bug, planted};
use syncline_model::{DeviceId, Run, RunSummary};

use super::body::decode_body;
use super::reader::Planned;
use super::record::{Found, Walk};
use super::recovery::Segment;
use super::segment::SEGMENT_HEADER_BYTES;
use super::{IndexUse, LogParts};
use crate::error::StorageError;
use crate::index::{Batch, IndexError, SpaceIndex};
use crate::layout::{
    Area, Quarantined, Watermark, author_suffix, encode_arrival, encode_author_value, position_suffix,
};
use crate::position::Position;
use crate::progress::{Activity, Progress};

/// Runs that one batch of the index covers.
const RUNS_PER_BATCH: u64 = 1024;
/// Bytes after which a batch of the index is applied, whatever the number of runs: long runs have long summaries.
const BATCH_BYTES: usize = 4 << 20;

/// Adds runs to the index in order of arrival; the watermark moves with each batch.
#[derive(Debug)]
pub(crate) struct Indexer {
    index: SpaceIndex,
    watermark: Watermark,
    batch: Batch,
    batch_runs: u64,
    batch_bytes: usize,
}

impl Indexer {
    /// Goes on with another view of the same index.
    pub(super) fn use_index(&mut self, index: SpaceIndex) {
        self.index = index;
    }

    pub(crate) fn new(index: SpaceIndex, watermark: Watermark) -> Self {
        Self { index, watermark, batch: Batch::default(), batch_runs: 0, batch_bytes: 0 }
    }

    /// What is in the index, the pending batch included.
    pub(crate) fn watermark(&self) -> &Watermark {
        &self.watermark
    }

    /// Adds the run whose record stands at `position` and ends at `end`.
    pub(crate) fn add(
        &mut self,
        position: Position,
        end: Position,
        length: u32,
        (log, summary): (&DeviceId, &RunSummary),
    ) -> Result<(), IndexError> {
        let arrival = encode_arrival(length, log, summary);
        self.batch_bytes += arrival.len();
        self.batch.put(self.index.key(Area::ARRIVAL, &position_suffix(position)), arrival);
        let author = author_suffix(log, summary.last(), position);
        self.batch.put(self.index.key(Area::AUTHOR, &author), encode_author_value(summary.first, length));
        self.watermark.runs += 1;
        self.watermark.operations += summary.operations.len() as u64;
        self.watermark.bytes += u64::from(length);
        self.watermark.end = end;
        self.batch_runs += 1;
        if self.batch_runs == RUNS_PER_BATCH || self.batch_bytes >= BATCH_BYTES { self.commit(end) } else { Ok(()) }
    }

    /// Takes runs out again, whose records are gone for good.
    pub(super) fn remove(&mut self, runs: &[Planned]) -> Result<(), IndexError> {
        for Planned { position, length, author, first, last } in runs {
            self.batch.remove(self.index.key(Area::ARRIVAL, &position_suffix(*position)));
            self.batch.remove(self.index.key(Area::AUTHOR, &author_suffix(author, *last, *position)));
            self.watermark.runs = self.watermark.runs.saturating_sub(1);
            self.watermark.operations = self.watermark.operations.saturating_sub(last - first + 1);
            self.watermark.bytes = self.watermark.bytes.saturating_sub(u64::from(*length));
            if self.batch.len() as u64 >= RUNS_PER_BATCH {
                self.commit(self.watermark.end)?;
            }
        }
        self.commit(self.watermark.end)
    }

    /// Goes on at a later position: up to there nothing is left to index.
    pub(super) fn move_to(&mut self, end: Position) {
        self.watermark.end = end;
    }

    /// Takes note of a stretch that holds no readable run.
    pub(crate) fn quarantine(&mut self, position: Position, length: u32) {
        let key = self.index.key(Area::QUARANTINE, &position_suffix(position));
        self.batch.put(key, Quarantined::unknown(length).encode());
    }

    /// Applies what is pending; the index then is complete up to `end`.
    pub(crate) fn commit(&mut self, end: Position) -> Result<(), IndexError> {
        self.watermark.end = end;
        let mut batch = std::mem::take(&mut self.batch);
        (self.batch_runs, self.batch_bytes) = (0, 0);
        batch.put(self.index.key(Area::WATERMARK, &[]), self.watermark.encode());
        self.index.apply(batch)
    }
}

/// Brings the index from its watermark to the end of the log.
pub(crate) fn complete_index(
    parts: &LogParts,
    segments: &[Segment],
    watermark: Watermark,
    index_use: IndexUse,
    progress: &mut dyn FnMut(Progress),
) -> Result<Watermark, StorageError> {
    let Some(last) = segments.last() else { return Ok(watermark) };
    let end = Position::new(last.number, last.end);
    if watermark.end == end {
        return Ok(watermark);
    }
    let from = |segment: &Segment| match segment.number.cmp(&watermark.end.segment()) {
        std::cmp::Ordering::Less => segment.end,
        std::cmp::Ordering::Equal => watermark.end.offset(),
        std::cmp::Ordering::Greater => SEGMENT_HEADER_BYTES,
    };
    let total = segments.iter().map(|segment| u64::from(segment.end.saturating_sub(from(segment)))).sum();
    let mut state = Completion {
        parts,
        index_use,
        indexer: Indexer::new(parts.index.clone(), watermark),
        done: 0,
        total,
        progress,
    };
    let mut expected = watermark.end.segment() + 1;
    for segment in segments.iter().filter(|segment| segment.number >= watermark.end.segment()) {
        for missing in expected..segment.number {
            tracing::error!(space = %parts.space.short(), segment = missing, "a segment of the log is missing");
            state.indexer.quarantine(Position::new(missing, 0), 0);
        }
        expected = segment.number + 1;
        if !segment.header_intact && segment.number > watermark.end.segment() {
            state.indexer.quarantine(Position::new(segment.number, 0), SEGMENT_HEADER_BYTES);
        }
        state.segment(segment, from(segment))?;
    }
    if planted(Bug::IndexBatchLost) {
        state.indexer.batch = Batch::default();
    }
    state.indexer.commit(end).map_err(|error| parts.index_failed(error))?;
    Ok(*state.indexer.watermark())
}

struct Completion<'a> {
    parts: &'a LogParts,
    index_use: IndexUse,
    indexer: Indexer,
    done: u64,
    total: u64,
    progress: &'a mut dyn FnMut(Progress),
}

impl Completion<'_> {
    fn segment(&mut self, segment: &Segment, from: u32) -> Result<(), StorageError> {
        let parts = self.parts;
        let file = parts.segment_file(segment.number)?;
        let mut walk = Walk::new(&*file, parts.codec, segment.number, from, segment.end);
        let failed = |error: io::Error| StorageError::io("read", segment.path(parts))(error);
        let mut at = from;
        while let Some(found) = walk.step().map_err(failed)? {
            let next = match found {
                Found::Record { offset, body, searched, .. } => {
                    let (position, length) = (Position::new(segment.number, offset), body.len() as u32);
                    let next = offset + super::record::RECORD_HEADER_BYTES + length;
                    let doubted = searched || self.index_use == IndexUse::Anew;
                    match readable_run(parts, body, doubted) {
                        Some((log, run)) => {
                            let end = Position::new(segment.number, next);
                            let added = self.indexer.add(position, end, length, (&log, &RunSummary::of(&run)));
                            added.map_err(|error| parts.index_failed(error))?;
                        }
                        None => self.damaged(position, length),
                    }
                    next
                }
                Found::Void { to, .. } => to,
                Found::Damage { from, to } => {
                    self.damaged(Position::new(segment.number, from), to - from);
                    to
                }
            };
            self.done += u64::from(next - at);
            at = next;
            let (activity, space) = (Activity::Indexing, Some(parts.space));
            (self.progress)(Progress { activity, space, done: self.done, total: self.total });
        }
        Ok(())
    }

    fn damaged(&mut self, position: Position, length: u32) {
        tracing::error!(space = %self.parts.space.short(), %position, length, "damaged bytes in the log are left out");
        self.indexer.quarantine(position, length);
    }
}

/// The run in a record's body, if there is one that may be believed.
fn readable_run(parts: &LogParts, body: &[u8], doubted: bool) -> Option<(DeviceId, Run)> {
    let (log, run) = decode_body(parts.space, body)?;
    if doubted { run.clone().verify().ok().map(|_| (log, run)) } else { Some((log, run)) }
}
