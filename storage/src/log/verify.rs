//! Checking a whole log: every record, run, chain and signature, and the index against them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use syncline_model::{DeviceId, OperationId, Run, RunSummary};

use super::body::decode_body;
use super::reader::{AuthorRange, LogReader};
use super::record::{Found, Walk};
use super::recovery::survey;
use super::repair::{RepairReport, held_ranges, missing_ranges};
use super::segment::SEGMENT_HEADER_BYTES;
use crate::error::StorageError;
use crate::index::IndexError;
use crate::layout::{Area, Watermark, author_suffix, encode_arrival, encode_author_value, position_suffix};
use crate::position::Position;
use crate::progress::{Activity, Progress};

/// Positions of each kind of finding that a report lists; the counts go on.
const LISTED_MAX: usize = 100;
/// When not all signatures are checked, one of so many runs has its checked.
const SAMPLE_EVERY: u64 = 16;

/// Whose signatures a check looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Signatures {
    /// Every run's.
    #[default]
    All,
    /// Those of one in sixteen runs. Checksums are looked at all the same, so it is forgery that may be missed.
    Sample,
}

/// Places of one kind of finding.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// How many there are.
    pub count: u64,
    /// The first of them.
    pub first_positions: Vec<Position>,
}

impl Findings {
    fn add(&mut self, position: Position) {
        self.count += 1;
        if self.first_positions.len() < LISTED_MAX {
            self.first_positions.push(position);
        }
    }
}

/// What a check of the whole log found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Runs that were read.
    pub runs: u64,
    /// Operations in them.
    pub operations: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Signatures that were checked.
    pub signatures: u64,
    /// Bytes that are no readable record or run, and are not in quarantine.
    pub damaged: Findings,
    /// Stretches of such bytes that are in quarantine: they are known, and left out.
    pub quarantined: Findings,
    /// Runs whose signature does not hold.
    pub unsigned: Findings,
    /// Runs that do not continue their author's log as far as it arrived before: gaps, repetitions, branches.
    pub unchained: Findings,
    /// Runs that the index misses or describes wrongly.
    pub misindexed: Findings,
    /// Entries of the index for which there is no run.
    pub index_surplus: u64,
    /// Bytes of the segments that were reclaimed.
    pub reclaimed_bytes: u64,
    /// Operations that stand between others that are held, or were held once, and are not there. The next contact
    /// with a peer that has them fetches them again.
    pub missing_operations: u64,
    /// The first of the ranges they lie in.
    pub missing: Vec<AuthorRange>,
}

impl VerifyReport {
    /// Whether every stored byte that is not in quarantine is what it should be, and the index says what is stored.
    /// A broken chain alone is no damage: branches are stored too.
    pub fn is_sound(&self) -> bool {
        let findings = [&self.damaged, &self.unsigned, &self.misindexed];
        findings.iter().all(|findings| findings.count == 0) && self.index_surplus == 0
    }
}

impl LogReader {
    /// Checks everything that is synced. Runs beside the writer; reads the whole log, and changes nothing.
    pub fn verify(&self, progress: &mut dyn FnMut(Progress)) -> Result<VerifyReport, StorageError> {
        self.verify_with(Signatures::All, progress)
    }

    /// The same, with all signatures or some.
    pub fn verify_with(
        &self,
        signatures: Signatures,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<VerifyReport, StorageError> {
        let parts = &*self.parts;
        let failed = |error: IndexError| parts.index_failed(error);
        let end = parts.index.value(Area::WATERMARK, &[]).map_err(failed)?;
        let end = end.map_or(Ok(Watermark::START), |bytes| Watermark::decode(&bytes)).map_err(failed)?.end;
        let mut segments = survey(&*parts.disk, &parts.directory, parts.space)?.segments;
        segments.retain(|segment| segment.number <= end.segment());
        for segment in segments.iter_mut().filter(|segment| segment.number == end.segment()) {
            segment.end = end.offset();
        }
        let total = segments.iter().map(|segment| u64::from(segment.end)).sum();
        let quarantine = parts.quarantine()?;
        let (report, heads) = Default::default();
        let (mut check, mut done) = (Check { reader: self, signatures, quarantine, report, heads, indexed: 0 }, 0);
        for segment in &segments {
            if !segment.header_intact {
                check.damage(Position::new(segment.number, 0), SEGMENT_HEADER_BYTES);
            }
            let file = parts.segment_file(segment.number)?;
            let mut walk = Walk::new(&*file, parts.codec, segment.number, SEGMENT_HEADER_BYTES, segment.end);
            while let Some(found) = walk.step().map_err(StorageError::io("read", segment.path(parts)))? {
                check.found(segment.number, &found).map_err(failed)?;
                let (activity, space) = (Activity::Verifying, Some(parts.space));
                progress(Progress { activity, space, done: done + u64::from(walk.offset()), total });
            }
            done += u64::from(segment.end);
        }
        check.count_surplus(end)?;
        check.count_missing()?;
        Ok(check.report)
    }
}

struct Check<'a> {
    reader: &'a LogReader,
    signatures: Signatures,
    quarantine: BTreeSet<Position>,
    report: VerifyReport,
    heads: BTreeMap<DeviceId, (u64, OperationId)>,
    /// Runs that have an arrival entry, be it right or wrong.
    indexed: u64,
}

impl Check<'_> {
    fn found(&mut self, segment: u32, found: &Found<'_>) -> Result<(), IndexError> {
        match *found {
            Found::Damage { from, to } => self.damage(Position::new(segment, from), to - from),
            Found::Void { from, to } => self.report.reclaimed_bytes += u64::from(to - from),
            Found::Record { offset, body, .. } => {
                let position = Position::new(segment, offset);
                match decode_body(self.reader.parts.space, body) {
                    Some((log, run)) => self.run(position, log, run, body.len() as u32)?,
                    None => self.damage(position, body.len() as u32),
                }
            }
        }
        Ok(())
    }

    /// Notes bytes that cannot be read. What of them the index still takes for a run is counted by
    /// [`Check::count_surplus`], so it is enough that some of them are in quarantine.
    fn damage(&mut self, position: Position, length: u32) {
        let end = Position::new(position.segment(), position.offset().saturating_add(length.max(1)));
        match self.quarantine.range(position..end).next() {
            Some(_) => self.report.quarantined.add(position),
            None => self.report.damaged.add(position),
        }
    }

    fn run(&mut self, position: Position, log: DeviceId, run: Run, length: u32) -> Result<(), IndexError> {
        let report = &mut self.report;
        report.runs += 1;
        report.operations += run.operations().len() as u64;
        report.bytes += run.bytes().len() as u64;
        let head = self.heads.get(&log).copied().unwrap_or((0, OperationId::ZERO));
        // A branch begins where its log was left.
        let begins_branch = log != run.author() && !self.heads.contains_key(&log);
        if (head.0 + 1, head.1) != (run.first(), run.previous()) && !begins_branch {
            report.unchained.add(position);
        }
        if run.last() > head.0 {
            self.heads.insert(log, (run.last(), run.last_id()));
        }
        let index = &self.reader.parts.index;
        let arrival = index.value(Area::ARRIVAL, &position_suffix(position))?;
        let author = index.value(Area::AUTHOR, &author_suffix(&log, run.last(), position))?;
        self.indexed += u64::from(arrival.is_some());
        let expected = encode_arrival(length, &log, &RunSummary::of(&run));
        if arrival != Some(expected) || author != Some(encode_author_value(run.first(), length)) {
            report.misindexed.add(position);
        }
        if self.signatures == Signatures::All || report.runs % SAMPLE_EVERY == 1 {
            report.signatures += 1;
            if run.verify().is_err() {
                report.unsigned.add(position);
            }
        }
        Ok(())
    }

    fn count_missing(&mut self) -> Result<(), StorageError> {
        let (before, now) = (held_ranges(self.reader, true)?, held_ranges(self.reader, false)?);
        let mut found = RepairReport::default();
        missing_ranges(&before, &now, &mut found);
        self.report.missing_operations = found.missing_operations;
        self.report.missing = found.missing;
        Ok(())
    }

    fn count_surplus(&mut self, end: Position) -> Result<(), StorageError> {
        let mut entries = 0u64;
        self.reader.scan_arrivals(None, &mut |position, _| {
            entries += u64::from(position < end);
            Ok(ControlFlow::Continue(()))
        })?;
        self.report.index_surplus = entries.saturating_sub(self.indexed);
        Ok(())
    }
}
