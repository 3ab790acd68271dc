//! Giving back the room of what is in quarantine, and of what was dropped.
//!
//! A segment that has ended is written again under a temporary name: every record where it stood, and in place of
//! damaged stretches a void, whose bytes are never written and so take no room. The new file then takes the old one's
//! name. Positions stay what they are, so neither the index nor anybody who reads has to know.

use std::collections::BTreeMap;

use super::SpaceLog;
use super::record::{Found, RECORD_HEADER_BYTES, Walk};
use super::recovery::survey;
use super::segment::{SEGMENT_HEADER_BYTES, TEMPORARY_SUFFIX, segment_path};
use super::tails::voids;
use crate::disk::{Access, DiskFile};
use crate::error::StorageError;
use crate::position::Position;

/// Shortest damaged stretch that is worth a void: less may free no block of the disk.
const STRETCH_BYTES_MIN: u32 = 4096;
/// Bytes that are copied at once.
const COPY_BYTES: u32 = 4 << 20;

/// What was given back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reclaimed {
    /// Segments that were written again.
    pub segments: u64,
    /// Bytes of them that no longer take room.
    pub bytes: u64,
}

/// Bytes of a segment, from where to where.
pub(super) type Stretch = (u32, u32);

impl SpaceLog {
    /// Gives back the room of damaged stretches in segments that have ended, as far as they are known.
    ///
    /// What stood there is gone for good then; what is known to be missing stays known, to be fetched from peers.
    ///
    /// # Errors
    /// When the disk fails. The log is as it was then, and can be appended to.
    pub fn reclaim(&mut self) -> Result<Reclaimed, StorageError> {
        let mut reclaimed = Reclaimed::default();
        for (number, known) in self.quarantined_in_ended_segments()? {
            let stretches = self.dead_stretches(number, &known)?;
            if stretches.is_empty() {
                continue;
            }
            self.write_again(number, &stretches)?;
            let bytes = stretches.iter().map(|(from, to)| u64::from(to - from)).sum::<u64>();
            self.log_use.add_reclaimed(bytes);
            reclaimed.segments += 1;
            reclaimed.bytes += bytes;
        }
        Ok(reclaimed)
    }

    /// The offsets at which quarantine begins, by segment.
    fn quarantined_in_ended_segments(&self) -> Result<BTreeMap<u32, Vec<u32>>, StorageError> {
        let mut known = BTreeMap::<u32, Vec<u32>>::new();
        for position in self.parts.quarantine()?.range(..Position::new(self.segment.number, 0)) {
            known.entry(position.segment()).or_default().push(position.offset());
        }
        Ok(known)
    }

    /// The stretches of a segment that cannot be read, and are in quarantine.
    fn dead_stretches(&self, number: u32, known: &[u32]) -> Result<Vec<Stretch>, StorageError> {
        let parts = &self.parts;
        let segments = survey(&*parts.disk, &parts.directory, parts.space)?.segments;
        let Some(segment) = segments.iter().find(|segment| segment.number == number && segment.header_intact) else {
            return Ok(Vec::new());
        };
        let file = parts.segment_file(number)?;
        let mut walk = Walk::new(&*file, parts.codec, number, SEGMENT_HEADER_BYTES, segment.end);
        let mut stretches = Vec::new();
        while let Some(found) = walk.step().map_err(StorageError::io("read", segment.path(parts)))? {
            if let Found::Damage { from, to } = found
                && to - from >= STRETCH_BYTES_MIN
                && known.iter().any(|offset| (from..to).contains(offset))
            {
                stretches.push((from, to));
            }
        }
        // Behind damage that stays a void counts as damage too.
        let mut front = [0; RECORD_HEADER_BYTES as usize];
        let mut is_void = |from: u32| -> std::io::Result<bool> {
            file.read_at(u64::from(from), &mut front)?;
            Ok(parts.codec.header(number, from, &front).is_some_and(|header| header.is_void))
        };
        let mut dead = Vec::new();
        for (from, to) in stretches {
            if !is_void(from).map_err(StorageError::io("read", segment.path(parts)))? {
                dead.push((from, to));
            }
        }
        Ok(dead)
    }

    /// Writes a segment that has ended again, with voids in place of whole records or damage.
    pub(super) fn write_again(&self, number: u32, stretches: &[Stretch]) -> Result<(), StorageError> {
        let parts = &self.parts;
        let stretches = &self.with_earlier_voids(number, stretches)?;
        let path = segment_path(&parts.directory, number);
        let temporary = format!("{path}{TEMPORARY_SUFFIX}");
        let written =
            parts.segment_file(number).and_then(|old| self.copy_without(number, &*old, &temporary, stretches));
        let named = written.and_then(|()| {
            parts.disk.rename(&temporary, &path).map_err(StorageError::io("name", &path))?;
            parts.forget_file(number);
            parts.disk.sync_directory(&parts.directory).map_err(StorageError::io("sync", &parts.directory))
        });
        if named.is_err() {
            // Best effort: the next opening removes it as well.
            let _ = parts.disk.remove_file(&temporary);
        }
        named
    }

    /// The stretches together with those that are voids already, as few and as long as they can be: the room of a void
    /// is not taken again, and headers take none within it.
    fn with_earlier_voids(&self, number: u32, stretches: &[Stretch]) -> Result<Vec<Stretch>, StorageError> {
        let parts = &self.parts;
        let segments = survey(&*parts.disk, &parts.directory, parts.space)?.segments;
        let segment = segments.iter().find(|segment| segment.number == number);
        let mut all = segment.map_or(Ok(Vec::new()), |segment| voids(parts, segment))?;
        all.extend_from_slice(stretches);
        all.sort_unstable();
        let mut joined = Vec::<Stretch>::with_capacity(all.len());
        for (from, to) in all {
            match joined.last_mut().filter(|before| before.1 >= from) {
                Some(before) => before.1 = before.1.max(to),
                None => joined.push((from, to)),
            }
        }
        Ok(joined)
    }

    /// Writes a copy of a segment in which the stretches are voids, durably.
    fn copy_without(
        &self,
        number: u32,
        old: &dyn DiskFile,
        temporary: &str,
        stretches: &[Stretch],
    ) -> Result<(), StorageError> {
        let disk = &self.parts.disk;
        let path = segment_path(&self.parts.directory, number);
        let end = old.length().map_err(StorageError::io("measure", &path))?.min(u64::from(u32::MAX)) as u32;
        let copy = disk.create(temporary, Access::Default).map_err(StorageError::io("create", temporary))?;
        let failed = || StorageError::io("write", temporary);
        let mut at = 0;
        for (from, to) in stretches.iter().copied().chain([(end, end)]) {
            copy_bytes(old, &*copy, (at, from), &path, temporary)?;
            if from < to {
                let void = self.parts.codec.void(number, from, to - from);
                copy.write_at(u64::from(from), &void).map_err(failed())?;
            }
            at = to;
        }
        copy.set_length(u64::from(end)).map_err(failed())?;
        copy.sync().map_err(StorageError::io("sync", temporary))
    }
}

fn copy_bytes(
    from: &dyn DiskFile,
    to: &dyn DiskFile,
    (mut at, end): Stretch,
    path: &str,
    temporary: &str,
) -> Result<(), StorageError> {
    let mut buffer = vec![0; COPY_BYTES.min(end.saturating_sub(at)) as usize];
    while at < end {
        let wanted = &mut buffer[..COPY_BYTES.min(end - at) as usize];
        let read = from.read_at(u64::from(at), wanted).map_err(StorageError::io("read", path))?;
        if read < wanted.len() {
            return Err(StorageError::Unreadable { path: path.to_owned(), reason: "it ends before its records do" });
        }
        to.write_at(u64::from(at), wanted).map_err(StorageError::io("write", temporary))?;
        at += read as u32;
    }
    Ok(())
}

// A record is never shorter than its header, and a void takes at least a header's room.
const _: () = assert!(STRETCH_BYTES_MIN > RECORD_HEADER_BYTES);
