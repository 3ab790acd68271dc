//! Giving back the room of the ends of logs that count for nobody.
//!
//! Which operations count is not for the log to know: it is told, log by log, after which sequence nothing is worth its
//! room. Whole runs go, and only from a log's end on, so that what stays is what a device would hold to which the rest
//! never came. A segment with such runs is written again with voids in their place, as for damage.
//!
//! ```text
//! note the tails ─▶ from the last segment to the first: write it anew, name it, sync ─▶ take its runs out of the index
//! ```
//!
//! The index may be an older one after a crash, and then names runs in whose place there is a void. Which logs that may
//! concern is noted beside the segments before the first is written, so that an opening need not look at all of them.
//! From the last segment to the first, since a crash in between then leaves no gap in a log.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use syncline_model::DeviceId;

use super::indexing::Indexer;
use super::reader::{AuthorRange, LogReader, Planned};
use super::reclaim::{Reclaimed, Stretch};
use super::record::{Found, Walk};
use super::recovery::Segment;
use super::segment::SEGMENT_HEADER_BYTES;
use super::{LogParts, SpaceLog};
use crate::disk::Access;
use crate::error::StorageError;
use crate::layout::Watermark;
use crate::position::Position;
use crate::small_files::{read_whole, write_whole};

/// The file beside the segments that names the logs whose ends were dropped.
const DROPPED_FILE: &str = "dropped";
/// The first byte of that file.
const DROPPED_VERSION: u8 = 1;
/// Bytes of one log in it: its name, the sequence, and a CRC-32C of both.
const DROPPED_ENTRY_BYTES: usize = 32 + 8 + 4;
/// Logs whose ends were dropped, over the life of a space. More are kept.
const DROPPED_LOGS_MAX: usize = 1 << 16;

/// The end of a log: everything after a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tail {
    /// The log: its author's name, or a branch's.
    pub log: DeviceId,
    /// The sequence after which it begins.
    pub after: u64,
}

impl SpaceLog {
    /// Drops the runs of which every operation lies in one of the tails, and gives back their room.
    ///
    /// Nothing is dropped while the disk is too full to write a segment again. Whoever keeps in memory what the log
    /// holds has to forget them.
    ///
    /// # Errors
    /// When the disk or the index fails. What was dropped by then is gone, everything else is as it was.
    pub fn drop_tails(&mut self, tails: &[Tail]) -> Result<Reclaimed, StorageError> {
        self.sync()?;
        let mut reclaimed = Reclaimed::default();
        let segments = self.reader().segments_with(tails)?;
        if segments.is_empty() || self.no_room()?.is_some() || !note_dropped(&self.parts, tails)? {
            return Ok(reclaimed);
        }
        if segments.contains(&self.segment.number) {
            self.end_segment()?;
        }
        for number in segments.into_iter().rev() {
            let mut dead = self.reader().runs_of_tails(tails, Some(number))?;
            dead.sort_unstable_by_key(|planned| planned.position);
            let stretch = |planned: &Planned| (planned.position.offset(), planned.record_end());
            let stretches: Vec<Stretch> = dead.iter().map(stretch).collect();
            self.write_again(number, &stretches)?;
            let removed = self.indexer.remove(&dead);
            removed.map_err(|error| self.parts.index_failed(error))?;
            self.write_index()?;
            let bytes = stretches.iter().map(|(from, to)| u64::from(to - from)).sum::<u64>();
            self.log_use.add_reclaimed(bytes);
            reclaimed.segments += 1;
            reclaimed.bytes += bytes;
        }
        Ok(reclaimed)
    }
}

impl LogReader {
    /// How many bytes the runs have of which every operation lies in the tail, from the index alone.
    pub fn tail_bytes(&self, tail: Tail) -> Result<u64, StorageError> {
        let mut bytes = 0;
        self.visit_tail(tail, &mut |planned| bytes += u64::from(planned.length))?;
        Ok(bytes)
    }

    fn visit_tail(&self, tail: Tail, visit: &mut dyn FnMut(Planned)) -> Result<(), StorageError> {
        let range = AuthorRange { author: tail.log, after: tail.after, through: u64::MAX };
        self.scan_author(range, &mut |planned| {
            if planned.first > tail.after {
                visit(planned);
            }
            ControlFlow::Continue(())
        })
    }

    fn segments_with(&self, tails: &[Tail]) -> Result<BTreeSet<u32>, StorageError> {
        let mut segments = BTreeSet::new();
        for tail in tails {
            self.visit_tail(*tail, &mut |planned| {
                segments.insert(planned.position.segment());
            })?;
        }
        Ok(segments)
    }

    /// The runs of the tails, of one segment or of all.
    fn runs_of_tails(&self, tails: &[Tail], segment: Option<u32>) -> Result<Vec<Planned>, StorageError> {
        let mut runs = Vec::new();
        for tail in tails {
            self.visit_tail(*tail, &mut |planned| {
                if segment.is_none_or(|number| planned.position.segment() == number) {
                    runs.push(planned);
                }
            })?;
        }
        Ok(runs)
    }
}

/// Brings an index into line with what was dropped, when it is older than that.
///
/// Runs in whose place there is a void leave it, and a watermark within a void moves to where the void ends.
pub(super) fn forget_dropped(
    parts: &std::sync::Arc<LogParts>,
    segments: &[Segment],
    watermark: Watermark,
) -> Result<Watermark, StorageError> {
    let dropped = read_dropped(parts)?;
    if dropped.is_empty() || watermark.end == Position::START {
        return Ok(watermark);
    }
    let mut indexer = Indexer::new(parts.index.clone(), watermark);
    let tails: Vec<Tail> = dropped.into_iter().map(|(log, after)| Tail { log, after }).collect();
    let mut runs = BTreeMap::<u32, Vec<Planned>>::new();
    for planned in LogReader::new(parts.clone()).runs_of_tails(&tails, None)? {
        runs.entry(planned.position.segment()).or_default().push(planned);
    }
    let end = watermark.end;
    runs.entry(end.segment()).or_default();
    let is_known = |number: u32| segments.iter().find(|segment| segment.number == number);
    for (segment, mut runs) in runs.into_iter().filter_map(|(number, runs)| is_known(number).zip(Some(runs))) {
        let voids = voids(parts, segment)?;
        let void_at = |offset: u32| voids.iter().find(|(from, to)| (*from..*to).contains(&offset));
        runs.retain(|planned| void_at(planned.position.offset()).is_some());
        if let Some((_, to)) = void_at(end.offset()).filter(|_| segment.number == end.segment()) {
            indexer.move_to(Position::new(segment.number, *to));
        }
        if !runs.is_empty() {
            tracing::info!(space = %parts.space.short(), segment = segment.number, runs = runs.len(),
                "the index named runs that were dropped");
        }
        indexer.remove(&runs).map_err(|error| parts.index_failed(error))?;
    }
    Ok(*indexer.watermark())
}

/// The stretches of a segment that were reclaimed.
pub(super) fn voids(parts: &LogParts, segment: &Segment) -> Result<Vec<Stretch>, StorageError> {
    let file = parts.segment_file(segment.number)?;
    let mut walk = Walk::new(&*file, parts.codec, segment.number, SEGMENT_HEADER_BYTES, segment.end);
    let mut voids = Vec::new();
    while let Some(found) = walk.step().map_err(StorageError::io("read", segment.path(parts)))? {
        if let Found::Void { from, to } = found {
            voids.push((from, to));
        }
    }
    Ok(voids)
}

/// Notes durably whose tails are dropped from now on; false when these are too many.
fn note_dropped(parts: &LogParts, tails: &[Tail]) -> Result<bool, StorageError> {
    let mut dropped = read_dropped(parts)?;
    for Tail { log, after } in tails {
        let known = dropped.entry(*log).or_insert(*after);
        *known = (*known).min(*after);
    }
    if dropped.len() > DROPPED_LOGS_MAX {
        return Ok(false);
    }
    let mut bytes = vec![DROPPED_VERSION];
    for (log, after) in &dropped {
        let entry = [&log.0[..], &after.to_le_bytes()].concat();
        bytes.extend_from_slice(&entry);
        bytes.extend_from_slice(&crc32c::crc32c(&entry).to_le_bytes());
    }
    write_whole(&*parts.disk, &parts.directory, DROPPED_FILE, &bytes, Access::Default)?;
    Ok(true)
}

/// Whose tails were dropped. What of the file is damaged is passed over: then runs in voids are met as damage is.
fn read_dropped(parts: &LogParts) -> Result<BTreeMap<DeviceId, u64>, StorageError> {
    let path = format!("{}/{DROPPED_FILE}", parts.directory);
    let bytes = read_whole(&*parts.disk, &path)?.unwrap_or_default();
    let Some((&DROPPED_VERSION, entries)) = bytes.split_first() else { return Ok(BTreeMap::new()) };
    let decode = |bytes: &[u8]| {
        let (entry, sum) = bytes.split_last_chunk::<4>()?;
        let (log, after) = entry.split_first_chunk::<32>()?;
        let after = u64::from_le_bytes(after.try_into().ok()?);
        (crc32c::crc32c(entry) == u32::from_le_bytes(*sum)).then_some((DeviceId(*log), after))
    };
    Ok(entries.chunks_exact(DROPPED_ENTRY_BYTES).filter_map(decode).collect())
}
