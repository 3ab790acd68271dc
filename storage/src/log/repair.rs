//! What a log holds of each author, and what is missing from it.

use std::collections::BTreeMap;

use syncline_model::DeviceId;

use super::reader::{AuthorRange, LogReader};
use crate::error::StorageError;
use crate::index::Batch;
use crate::layout::{Area, Quarantined, Watermark, decode_arrival, decode_position, position_suffix};
use crate::position::Position;

/// Ranges that a report lists; the counts go on.
const LISTED_MAX: usize = 1000;

/// What a repair of one space's log did and what it could not bring back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RepairReport {
    /// Runs that can be read.
    pub runs: u64,
    /// Operations in them.
    pub operations: u64,
    /// Stretches of the log that cannot be read and are left out.
    pub quarantined: u64,
    /// Bytes of such stretches whose room was given back.
    pub reclaimed_bytes: u64,
    /// Operations that were held before, or stand between others that are held, and cannot be read. The next contact
    /// with a peer that has them fetches them again.
    pub missing_operations: u64,
    /// The first of the ranges they lie in.
    pub missing: Vec<AuthorRange>,
}

/// Per author, the sequences held: ranges of first and last, sorted, apart from each other.
pub(crate) type Held = BTreeMap<DeviceId, Vec<(u64, u64)>>;

/// What an index says is held, what it knows to be in quarantine included: that was held once.
pub(crate) fn held_ranges(reader: &LogReader, with_quarantine: bool) -> Result<Held, StorageError> {
    let mut ranges = Held::new();
    reader.scan_arrivals(None, &mut |_, value| {
        let arrival = decode_arrival(value)?;
        // A branch lacks nothing of what lies before it.
        let first = if arrival.is_branch { 1 } else { arrival.first };
        ranges.entry(arrival.author).or_default().push((first, arrival.last));
        Ok(std::ops::ControlFlow::Continue(()))
    })?;
    if with_quarantine {
        let index = &reader.parts.index;
        let mut add = |value: &[u8]| {
            // One that cannot be understood says nothing; the log is what is repaired.
            if let Ok(Quarantined { author, first, count: count @ 1.., .. }) = Quarantined::decode(value) {
                ranges.entry(author).or_default().push((first, first.saturating_add(u64::from(count) - 1)));
            }
        };
        let scanned = index.scan(Area::QUARANTINE, &[], None, &mut |_, value| {
            add(value);
            std::ops::ControlFlow::Continue(())
        });
        scanned.map_err(|error| reader.parts.index_failed(error))?;
    }
    ranges.values_mut().for_each(join_ranges);
    Ok(ranges)
}

/// The stretches in quarantine of which the index knows what stood in them.
pub(crate) fn known_quarantine(reader: &LogReader) -> Result<Vec<(Position, Quarantined)>, StorageError> {
    let (index, mut known) = (&reader.parts.index, Vec::new());
    let scanned = index.scan(Area::QUARANTINE, &[], None, &mut |suffix, value| {
        if let (Ok(position), Ok(entry @ Quarantined { count: 1.., .. })) =
            (decode_position(suffix), Quarantined::decode(value))
        {
            known.push((position, entry));
        }
        std::ops::ControlFlow::Continue(())
    });
    scanned.map_err(|error| reader.parts.index_failed(error))?;
    Ok(known)
}

/// Tells an index that was made anew what is known of its quarantine, in one batch.
///
/// A record counts as one that was held and lost, so the watermark counts it as well.
pub(crate) fn keep_known(reader: &LogReader, known: &[(Position, Quarantined)]) -> Result<(), StorageError> {
    let index = &reader.parts.index;
    let keep = || {
        let watermark = index.value(Area::WATERMARK, &[])?;
        let mut watermark = watermark.map_or(Ok(Watermark::START), |bytes| Watermark::decode(&bytes))?;
        let mut batch = Batch::default();
        for (position, entry) in known {
            if index.value(Area::ARRIVAL, &position_suffix(*position))?.is_some() {
                continue;
            }
            batch.put(index.key(Area::QUARANTINE, &position_suffix(*position)), entry.encode());
            watermark.runs += 1;
            watermark.operations += u64::from(entry.count);
            watermark.bytes += u64::from(entry.length);
        }
        batch.put(index.key(Area::WATERMARK, &[]), watermark.encode());
        index.apply(batch)
    };
    if known.is_empty() { Ok(()) } else { keep().map_err(|error| reader.parts.index_failed(error)) }
}

fn join_ranges(ranges: &mut Vec<(u64, u64)>) {
    ranges.sort_unstable();
    let mut joined: Vec<(u64, u64)> = Vec::with_capacity(ranges.len());
    for &(first, last) in &*ranges {
        match joined.last_mut().filter(|before| first <= before.1.saturating_add(1)) {
            Some(before) => before.1 = before.1.max(last),
            None => joined.push((first, last)),
        }
    }
    *ranges = joined;
}

/// What `now` lacks of every author's log up to the last sequence that it or `before` knows of.
pub(crate) fn missing_ranges(before: &Held, now: &Held, report: &mut RepairReport) {
    let mut ends: BTreeMap<DeviceId, u64> = BTreeMap::new();
    for (author, ranges) in before.iter().chain(now) {
        let end = ends.entry(*author).or_default();
        *end = (*end).max(ranges.last().map_or(0, |range| range.1));
    }
    for (author, end) in ends {
        let mut after = 0;
        let held = now.get(&author).map_or(&[][..], Vec::as_slice);
        // What lies beyond the last held range counts up to what was held before.
        let beyond = (end.saturating_add(1), end);
        for (first, last) in held.iter().copied().chain([beyond]) {
            if let Some(through) = first.checked_sub(1).filter(|through| *through > after) {
                report.missing_operations += through - after;
                if report.missing.len() < LISTED_MAX {
                    report.missing.push(AuthorRange { author, after, through });
                }
            }
            after = after.max(last);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_and_lost_ends_are_missing_and_nothing_else() {
        let (one, two) = (DeviceId([1; 32]), DeviceId([2; 32]));
        let mut ranges = vec![(7, 9), (1, 2), (3, 4), (8, 12)];
        join_ranges(&mut ranges);
        assert_eq!(ranges, [(1, 4), (7, 12)]);
        let before = Held::from([(one, vec![(1, 15)]), (two, vec![(1, 3)])]);
        let mut report = RepairReport::default();
        missing_ranges(&before, &Held::from([(one, ranges)]), &mut report);
        let range = |author, after, through| AuthorRange { author, after, through };
        assert_eq!(report.missing, [range(one, 4, 6), range(one, 12, 15), range(two, 0, 3)]);
        assert_eq!(report.missing_operations, 2 + 3 + 3);
        let mut report = RepairReport::default();
        missing_ranges(&before, &before, &mut report);
        assert_eq!(report, RepairReport::default());
    }
}
