//! The record: one run's bytes with lengths and checksums, and the walk over a segment's records.
//!
//! ```text
//! record = length u32 ‖ synced u32 ‖ CRC-32C of the body u32 ‖ CRC-32C of the header u32 ‖ body
//! ```
//!
//! Integers are little-endian. `synced` is the offset up to which the segment was known to be durable when the record
//! was written. The header's checksum also covers the space, the segment's number and the record's offset, so that
//! stale bytes of another place are never taken for a record. Because the header has a checksum of its own, a damaged
//! body does not hide the records after it, and no length is believed, or allocated, that was not written here.
//!
//! A *void* is a header without a body in place of bytes that were reclaimed: the highest bit of `length` is set, the
//! other bits say how many bytes after the header are to be passed over, and the body's checksum is zero. Those bytes
//! are a hole in the file, so that everything behind them stays where it is.

use std::io;

use syncline_model::SpaceId;
use syncline_model::limits::RUN_ENCODED_BYTES_MAX;
use syncline_model::planted::{Bug, planted};

use crate::disk::DiskFile;

/// Bytes before a record's body.
pub(crate) const RECORD_HEADER_BYTES: u32 = 16;
/// In the length of a record: it is a void.
const VOID: u32 = 1 << 31;
/// Bytes a walk reads at once.
const WALK_BYTES: u32 = 1 << 20;
/// False beginnings of a record that are tried in one damaged stretch before the rest of the segment is given up.
const FALSE_STARTS_MAX: u32 = 64;

/// A record's header whose checksum held.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RecordHeader {
    /// The body's length.
    pub(crate) length: u32,
    /// Up to where the segment was durable when this was written.
    pub(crate) synced: u32,
    body_crc: u32,
    /// Whether what follows was reclaimed.
    pub(crate) is_void: bool,
}

/// Writes and checks the records of one space.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RecordCodec {
    seed: u32,
}

impl RecordCodec {
    pub(crate) fn new(space: SpaceId) -> Self {
        Self { seed: crc32c::crc32c(space.as_bytes()) }
    }

    /// Appends the record of `body` that will stand at `offset`. The body is no longer than a run can be.
    pub(crate) fn write(&self, out: &mut Vec<u8>, segment: u32, offset: u32, synced: u32, body: &[u8]) {
        let fields = [body.len() as u32, synced, crc32c::crc32c(body)];
        out.extend_from_slice(&self.write_header(fields, segment, offset));
        out.extend_from_slice(body);
    }

    /// A void that stands at `offset` and takes `length` bytes, its header included.
    pub(crate) fn void(&self, segment: u32, offset: u32, length: u32) -> [u8; RECORD_HEADER_BYTES as usize] {
        self.write_header([length.saturating_sub(RECORD_HEADER_BYTES) | VOID, 0, 0], segment, offset)
    }

    fn write_header(&self, fields: [u32; 3], segment: u32, offset: u32) -> [u8; RECORD_HEADER_BYTES as usize] {
        let mut header = [0; RECORD_HEADER_BYTES as usize];
        for (place, field) in header.chunks_exact_mut(4).zip(fields) {
            place.copy_from_slice(&field.to_le_bytes());
        }
        let crc = self.header_crc(&header[..12], segment, offset);
        header[12..].copy_from_slice(&crc.to_le_bytes());
        header
    }

    /// The header at the front of `bytes`, if there is one.
    pub(crate) fn header(&self, segment: u32, offset: u32, bytes: &[u8]) -> Option<RecordHeader> {
        let (header, _) = bytes.split_first_chunk::<{ RECORD_HEADER_BYTES as usize }>()?;
        let field = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (length, synced, is_void) = (field(0) & !VOID, field(4), field(0) & VOID != 0);
        // No run is empty, and a quick no to zeros makes it cheap to walk over them.
        let intact = (is_void || (1..=RUN_ENCODED_BYTES_MAX).contains(&(length as usize)))
            && synced <= offset
            && field(12) == self.header_crc(&header[..12], segment, offset);
        intact.then(|| RecordHeader { length, synced, body_crc: field(8), is_void })
    }

    /// The body of the record that `bytes` are, if it is undamaged.
    pub(crate) fn body<'a>(&self, segment: u32, offset: u32, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let header = self.header(segment, offset, bytes)?;
        let body = &bytes[RECORD_HEADER_BYTES as usize..];
        let intact = crc32c::crc32c(body) == header.body_crc || planted(Bug::ChecksumIgnored);
        (body.len() == header.length as usize && intact && !header.is_void).then_some(body)
    }

    fn header_crc(&self, fields: &[u8], segment: u32, offset: u32) -> u32 {
        let place = (u64::from(segment) << 32 | u64::from(offset)).to_le_bytes();
        crc32c::crc32c_append(crc32c::crc32c_append(self.seed, &place), fields)
    }
}

/// What a walk comes across.
#[derive(Debug)]
pub(crate) enum Found<'a> {
    /// A record with good checksums.
    Record {
        /// Where it starts.
        offset: u32,
        /// Up to where the segment was durable when it was written.
        synced: u32,
        /// The run's bytes.
        body: &'a [u8],
        /// Whether the walk had to search for a record's beginning before this one. Payloads are chosen by others and
        /// may imitate a record, so such a one counts only with a good signature.
        searched: bool,
    },
    /// Bytes that were reclaimed.
    Void {
        /// Where they start.
        from: u32,
        /// Where they end.
        to: u32,
    },
    /// Bytes that are no record.
    Damage {
        /// Where they start.
        from: u32,
        /// Where they end.
        to: u32,
    },
}

/// Goes over a stretch of a segment, record by record.
pub(crate) struct Walk<'a> {
    file: &'a dyn DiskFile,
    codec: RecordCodec,
    segment: u32,
    offset: u32,
    end: u32,
    buffer: Vec<u8>,
    buffer_offset: u32,
    searched: bool,
}

impl<'a> Walk<'a> {
    /// A walk from `from`, where a record starts, to `end`.
    pub(crate) fn new(file: &'a dyn DiskFile, codec: RecordCodec, segment: u32, from: u32, end: u32) -> Self {
        Self { file, codec, segment, offset: from, end, buffer: Vec::new(), buffer_offset: from, searched: false }
    }

    /// Where the next step begins.
    pub(crate) fn offset(&self) -> u32 {
        self.offset
    }

    /// The next record or damaged stretch; None at the end.
    pub(crate) fn step(&mut self) -> io::Result<Option<Found<'_>>> {
        if self.offset >= self.end {
            return Ok(None);
        }
        let from = self.offset;
        // A payload may imitate a void as well, and nothing but what stands before it vouches for one.
        let Some(header) = self.header_at(from)?.filter(|header| !(header.is_void && self.searched)) else {
            let to = self.search(from)?;
            (self.offset, self.searched) = (to, true);
            return Ok(Some(Found::Damage { from, to }));
        };
        let to = self.end.min(from.saturating_add(RECORD_HEADER_BYTES + header.length));
        self.offset = to;
        if header.is_void {
            return Ok(Some(Found::Void { from, to }));
        }
        let (codec, segment, searched) = (self.codec, self.segment, self.searched);
        let bytes = self.window(from, to - from)?;
        Ok(Some(match codec.body(segment, from, bytes) {
            Some(body) => Found::Record { offset: from, synced: header.synced, body, searched },
            None => Found::Damage { from, to },
        }))
    }

    fn header_at(&mut self, offset: u32) -> io::Result<Option<RecordHeader>> {
        let (codec, segment) = (self.codec, self.segment);
        let bytes = self.window(offset, RECORD_HEADER_BYTES)?;
        Ok(codec.header(segment, offset, bytes))
    }

    /// Where the next whole record after `from` starts, or the end.
    fn search(&mut self, from: u32) -> io::Result<u32> {
        let mut false_starts = 0;
        for offset in from + 1..self.end {
            let (codec, segment) = (self.codec, self.segment);
            let front = self.window(offset, RECORD_HEADER_BYTES)?;
            if front.len() < RECORD_HEADER_BYTES as usize {
                break;
            }
            let Some(header) = codec.header(segment, offset, front) else { continue };
            let whole = self.window(offset, RECORD_HEADER_BYTES + header.length)?;
            if codec.body(segment, offset, whole).is_some() {
                return Ok(offset);
            }
            false_starts += 1;
            if false_starts == FALSE_STARTS_MAX {
                break;
            }
        }
        Ok(self.end)
    }

    /// The bytes at `offset`: `length` of them, or fewer where the stretch or the file ends.
    fn window(&mut self, offset: u32, length: u32) -> io::Result<&[u8]> {
        let length = length.min(self.end.saturating_sub(offset));
        let buffered = self.buffer_offset..self.buffer_offset + self.buffer.len() as u32;
        if !(buffered.contains(&offset) && offset + length <= buffered.end) {
            let wanted = length.max(WALK_BYTES.min(self.end.saturating_sub(offset)));
            self.buffer.resize(wanted as usize, 0);
            let read = self.file.read_at(u64::from(offset), &mut self.buffer)?;
            self.buffer.truncate(read);
            self.buffer_offset = offset;
        }
        let start = (offset - self.buffer_offset) as usize;
        Ok(&self.buffer[start..self.buffer.len().min(start + length as usize)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Access, Disk, MemoryDisk};
    use std::sync::Arc;

    const SPACE: SpaceId = SpaceId([3; 32]);

    fn file(bytes: &[u8]) -> Arc<dyn DiskFile> {
        let file = MemoryDisk::new().create("segment", Access::Default).unwrap();
        file.write_at(0, bytes).unwrap();
        file
    }

    fn records(bodies: &[&[u8]]) -> (Vec<u8>, Vec<u32>) {
        let (mut bytes, mut offsets) = (Vec::new(), Vec::new());
        for body in bodies {
            offsets.push(bytes.len() as u32);
            let offset = bytes.len() as u32;
            RecordCodec::new(SPACE).write(&mut bytes, 1, offset, 0, body);
        }
        (bytes, offsets)
    }

    fn walk(bytes: &[u8]) -> Vec<Result<Vec<u8>, (u32, u32)>> {
        let file = file(bytes);
        let mut walk = Walk::new(&*file, RecordCodec::new(SPACE), 1, 0, bytes.len() as u32);
        let mut found = Vec::new();
        while let Some(step) = walk.step().unwrap() {
            found.push(match step {
                Found::Record { body, .. } => Ok(body.to_vec()),
                Found::Damage { from, to } => Err((from, to)),
                Found::Void { .. } => continue,
            });
        }
        found
    }

    #[test]
    fn any_flipped_byte_costs_its_record_alone() {
        let (bytes, offsets) = records(&[b"first", b"second", b"third"]);
        assert_eq!(walk(&bytes), [Ok(b"first".to_vec()), Ok(b"second".to_vec()), Ok(b"third".to_vec())]);
        for index in offsets[1]..offsets[2] {
            let mut damaged = bytes.clone();
            damaged[index as usize] ^= 0x40;
            let expected = [Ok(b"first".to_vec()), Err((offsets[1], offsets[2])), Ok(b"third".to_vec())];
            assert_eq!(walk(&damaged), expected, "byte {index}");
        }
    }

    #[test]
    fn a_cut_is_damage_to_the_end() {
        let (bytes, offsets) = records(&[b"first", b"second"]);
        for end in offsets[1] + 1..bytes.len() as u32 {
            assert_eq!(walk(&bytes[..end as usize]), [Ok(b"first".to_vec()), Err((offsets[1], end))]);
        }
    }

    #[test]
    fn records_of_another_place_are_none() {
        let (bytes, _) = records(&[b"first", b"second"]);
        let codec = RecordCodec::new(SPACE);
        assert!(codec.header(1, 0, &bytes).is_some());
        assert!(codec.header(2, 0, &bytes).is_none());
        assert!(codec.header(1, 1, &bytes).is_none());
        assert!(RecordCodec::new(SpaceId([4; 32])).header(1, 0, &bytes).is_none());
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_with_a_good_checksum() {
        let mut bytes = Vec::new();
        RecordCodec::new(SPACE).write(&mut bytes, 1, 0, 0, &vec![0; RUN_ENCODED_BYTES_MAX + 1]);
        assert!(RecordCodec::new(SPACE).header(1, 0, &bytes).is_none());
    }
}
