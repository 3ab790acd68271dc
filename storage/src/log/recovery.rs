//! What is done about the last segment when a log is opened.
//!
//! After a crash the system's page cache may hold records that the disk does not, above all after a failed sync: they
//! read well and vanish with the next power loss. So every record behind the last offset that is known to be durable
//! is copied to a new segment, which is synced before anybody sees its records. Three things prove an offset durable:
//! the segment's own header, the `synced` field of any record in it, and the watermark of the index, which is only
//! ever set after a sync. Together they make a marker of a clean end unnecessary: after one there is nothing to copy.
//! Zeros at the end of the file are room that the writer left there ([`super::AHEAD_BYTES_MAX`]).
//!
//! A crash at any step leaves either the old segment alone, or the new one under its name, which says where the old
//! one ends. The first damage behind what is durable is a torn tail: nothing after it was ever acknowledged.

use std::sync::Arc;

use syncline_model::SpaceId;
use syncline_model::planted::{Bug, planted};

use super::record::{Found, RECORD_HEADER_BYTES, RecordCodec, Walk};
use super::segment::{
    SEGMENT_HEADER_BYTES, SegmentHeader, TEMPORARY_SUFFIX, create_segment, incarnation_in, segment_number, segment_path,
};
use super::{Incarnation, LogParts};
use crate::disk::{Disk, DiskFile};
use crate::error::StorageError;
use crate::position::Position;
use crate::progress::{Activity, Progress};

/// Bytes that are copied at once.
const COPY_BYTES: usize = 4 << 20;
/// Bytes that are looked over at once for the end of what was written.
const ZEROS_BYTES: u32 = 64 << 10;

/// One segment as it is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) number: u32,
    /// Where its records end.
    pub(crate) end: u32,
    /// Up to where its header proves it durable.
    pub(crate) durable: u32,
    pub(crate) header_intact: bool,
    /// About how many bytes of the disk its file takes.
    pub(crate) allocated: u64,
}

impl Segment {
    pub(crate) fn path(&self, parts: &LogParts) -> String {
        segment_path(&parts.directory, self.number)
    }

    /// Bytes up to its end that take no room.
    pub(crate) fn holes(&self) -> u64 {
        u64::from(self.end).saturating_sub(self.allocated)
    }
}

/// The segments of a log before recovery.
#[derive(Debug)]
pub(crate) struct Survey {
    pub(crate) segments: Vec<Segment>,
    pub(crate) incarnation: Incarnation,
}

/// Removes what never got its name; only while nobody writes there.
pub(crate) fn remove_temporary_files(disk: &dyn Disk, directory: &str) -> Result<(), StorageError> {
    let names = disk.list(directory).map_err(StorageError::io("list", directory))?;
    for name in names.iter().filter(|name| name.ends_with(TEMPORARY_SUFFIX)) {
        let path = format!("{directory}/{name}");
        disk.remove_file(&path).map_err(StorageError::io("remove", path))?;
    }
    Ok(())
}

/// Reads the headers of all segments.
pub(crate) fn survey(disk: &dyn Disk, directory: &str, space: SpaceId) -> Result<Survey, StorageError> {
    let names = disk.list(directory).map_err(StorageError::io("list", directory))?;
    let (mut segments, mut incarnation, mut fallback) = (Vec::<Segment>::new(), None, None);
    for number in names.iter().filter_map(|name| segment_number(name)) {
        let path = segment_path(directory, number);
        let file = disk.open(&path).map_err(StorageError::io("open", &path))?;
        let length = file.length().map_err(StorageError::io("measure", &path))?;
        let allocated = file.allocated_bytes().map_err(StorageError::io("measure", &path))?;
        let mut bytes = [0; SEGMENT_HEADER_BYTES as usize];
        file.read_at(0, &mut bytes).map_err(StorageError::io("read", &path))?;
        let header = SegmentHeader::decode(&bytes, &path)?.filter(|header| header.number == number);
        fallback = fallback.or(Some(incarnation_in(&bytes)));
        if let Some(header) = &header {
            if header.space != space {
                return Err(StorageError::WrongSpace { what: "a segment", found: header.space, expected: space });
            }
            incarnation = incarnation.or(Some(header.incarnation));
            if let Some(before) = segments.last_mut().filter(|before| before.number + 1 == number) {
                before.end = header.previous_end;
            }
        }
        segments.push(Segment {
            number,
            end: u32::try_from(length).unwrap_or(u32::MAX).max(SEGMENT_HEADER_BYTES),
            durable: header.map_or(SEGMENT_HEADER_BYTES, |header| header.durable.max(SEGMENT_HEADER_BYTES)),
            header_intact: header.is_some(),
            allocated,
        });
    }
    let unreadable = StorageError::Unreadable { path: directory.to_owned(), reason: "the log has no segments" };
    let incarnation = incarnation.or(fallback).ok_or(unreadable)?;
    Ok(Survey { segments, incarnation })
}

/// Makes durable what the last segment holds, cuts its torn tail, and returns the file to append to.
///
/// `indexed` is where the index ends, a position that fits these segments.
pub(crate) fn settle_last_segment(
    parts: &LogParts,
    segments: &mut Vec<Segment>,
    indexed: Position,
    progress: &mut dyn FnMut(Progress),
) -> Result<Arc<dyn DiskFile>, StorageError> {
    let last = segments.last_mut().expect("a survey without segments fails");
    let path = last.path(parts);
    let file = parts.disk.open(&path).map_err(StorageError::io("open", &path))?;
    let known = if indexed.segment() == last.number { indexed.offset().max(last.durable) } else { last.durable };
    let tail = Tail::read(&*file, parts.codec, last, known).map_err(StorageError::io("read", &path))?;
    let seen_end = last.end;
    let is_torn = tail.records.is_empty() && tail.content_end > tail.durable;
    last.end = if is_torn && planted(Bug::TornTailKept) { tail.content_end } else { tail.durable };
    if tail.records.is_empty() && last.header_intact {
        if is_torn {
            tracing::warn!(space = %parts.space.short(), segment = last.number,
                bytes = tail.content_end - tail.durable, "a torn tail of the log was cut");
        }
        if seen_end > last.end {
            file.set_length(u64::from(last.end)).map_err(StorageError::io("truncate", &path))?;
            file.sync().map_err(StorageError::io("sync", &path))?;
        }
        // A process that died, or a call that failed, may have left the segment under a name that is not durable.
        parts.disk.sync_directory(&parts.directory).map_err(StorageError::io("sync", &parts.directory))?;
        return Ok(file);
    }
    let (moved, new_file) = copy_tail(parts, last, &*file, &tail, progress)?;
    // Housekeeping: the new segment's header already says where this one ends.
    if seen_end > tail.durable {
        let _ = file.set_length(u64::from(tail.durable));
    }
    segments.push(moved);
    Ok(new_file)
}

/// What stands behind the durable part of a segment.
struct Tail {
    durable: u32,
    /// Behind it there are zeros only.
    content_end: u32,
    /// Offset and length with header, each following the one before, the first at `durable`.
    records: Vec<(u32, u32)>,
}

impl Tail {
    fn read(file: &dyn DiskFile, codec: RecordCodec, segment: &Segment, known: u32) -> std::io::Result<Self> {
        let content_end = content_end(file, known, segment.end)?;
        let mut walk = Walk::new(file, codec, segment.number, known, segment.end);
        let (mut durable, mut records) = (known, Vec::new());
        while walk.offset() < content_end
            && let Some(found) = walk.step()?
        {
            if let Found::Record { offset, synced, body, .. } = found {
                durable = durable.max(synced);
                records.push((offset, RECORD_HEADER_BYTES + body.len() as u32));
            }
        }
        let mut end = durable;
        records.retain(|(offset, length)| {
            let follows = *offset == end;
            end = if follows { offset + length } else { end };
            follows
        });
        if !records.is_empty() && planted(Bug::RecoveredTailNotSynced) {
            return Ok(Self { durable: end, content_end, records: Vec::new() });
        }
        Ok(Self { durable, content_end, records })
    }
}

/// The end of what is not zero in a stretch of a file, or the stretch's beginning.
fn content_end(file: &dyn DiskFile, from: u32, to: u32) -> std::io::Result<u32> {
    let (mut end, mut buffer) = (to, vec![0; ZEROS_BYTES.min(to.saturating_sub(from)) as usize]);
    while end > from {
        let start = from.max(end.saturating_sub(ZEROS_BYTES));
        let window = &mut buffer[..(end - start) as usize];
        let read = file.read_at(u64::from(start), window)?;
        if let Some(last) = window[..read].iter().rposition(|byte| *byte != 0) {
            return Ok(start + last as u32 + 1);
        }
        end = start;
    }
    Ok(from)
}

/// Copies the records of a tail to a segment of their own.
fn copy_tail(
    parts: &LogParts,
    last: &Segment,
    file: &dyn DiskFile,
    tail: &Tail,
    progress: &mut dyn FnMut(Progress),
) -> Result<(Segment, Arc<dyn DiskFile>), StorageError> {
    let number = next_number(last.number, &parts.directory)?;
    let total: u32 = tail.records.iter().map(|(_, length)| length).sum();
    let end = SEGMENT_HEADER_BYTES + total;
    tracing::info!(space = %parts.space.short(), records = tail.records.len(), bytes = total,
        "making durable what was written before an unclean end");
    let header = SegmentHeader {
        number,
        space: parts.space,
        incarnation: parts.incarnation,
        previous_end: tail.durable,
        durable: end,
    };
    let path = last.path(parts);
    let mut fill = |copy: &dyn DiskFile| {
        let mut walk = Walk::new(file, parts.codec, last.number, tail.durable, tail.durable + total);
        let (mut offset, mut buffer) = (SEGMENT_HEADER_BYTES, Vec::new());
        while offset + (buffer.len() as u32) < end {
            let found = walk.step().map_err(StorageError::io("read", &path))?;
            let Some(Found::Record { body, .. }) = found else {
                // It was a record a moment ago.
                return Err(StorageError::Unreadable { path: path.clone(), reason: "its records change while read" });
            };
            let at = offset + buffer.len() as u32;
            parts.codec.write(&mut buffer, number, at, SEGMENT_HEADER_BYTES, body);
            if buffer.len() >= COPY_BYTES || at + (RECORD_HEADER_BYTES + body.len() as u32) == end {
                let target = segment_path(&parts.directory, number);
                copy.write_at(u64::from(offset), &buffer).map_err(StorageError::io("write", target))?;
                offset += buffer.len() as u32;
                buffer.clear();
                let (activity, done) = (Activity::Recovering, u64::from(offset - SEGMENT_HEADER_BYTES));
                progress(Progress { activity, space: Some(parts.space), done, total: u64::from(total) });
            }
        }
        Ok(())
    };
    let new_file =
        create_segment(&*parts.disk, &parts.directory, &header, &mut fill).map_err(|failure| failure.error)?;
    Ok((Segment { number, end, durable: end, header_intact: true, allocated: u64::from(end) }, new_file))
}

/// The number after a segment's.
pub(crate) fn next_number(number: u32, directory: &str) -> Result<u32, StorageError> {
    let full = StorageError::Unreadable { path: directory.to_owned(), reason: "its segment numbers are used up" };
    number.checked_add(1).ok_or(full)
}
