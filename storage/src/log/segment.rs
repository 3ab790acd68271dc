//! Segment files: their names, their headers, how they come to be.
//!
//! ```text
//! header = magic (8) ‖ version u32 ‖ number u32 ‖ space (32) ‖ incarnation (16) ‖ previous end u32 ‖ durable u32
//!          ‖ reserved (4) ‖ CRC-32C of all before u32
//! ```
//!
//! A segment is written under a temporary name, synced, renamed, and its directory synced, before a record is
//! appended to it or its predecessor counts as complete. `previous end` is where the segment before it ends: that one
//! was durable up to there, and whatever stands behind it was superseded. `durable` is where this segment ended when
//! it got its name.

use std::sync::Arc;

use syncline_model::SpaceId;
use syncline_model::planted::{Bug, planted};

use super::Incarnation;
use crate::disk::{Access, Disk, DiskFile};
use crate::error::StorageError;

/// Bytes before the first record.
pub(crate) const SEGMENT_HEADER_BYTES: u32 = 80;
const MAGIC: [u8; 8] = *b"syncline";
const VERSION: u32 = 1;
const SUFFIX: &str = ".log";
/// Behind the name of a file that is not complete.
pub(crate) const TEMPORARY_SUFFIX: &str = ".tmp";

/// What stands at the front of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) number: u32,
    pub(crate) space: SpaceId,
    pub(crate) incarnation: Incarnation,
    /// Where the segment before this one ends; 0 in the first.
    pub(crate) previous_end: u32,
    /// Up to where this segment was durable when it got its name.
    pub(crate) durable: u32,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(SEGMENT_HEADER_BYTES as usize);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.number.to_le_bytes());
        bytes.extend_from_slice(self.space.as_bytes());
        bytes.extend_from_slice(&self.incarnation.0);
        bytes.extend_from_slice(&self.previous_end.to_le_bytes());
        bytes.extend_from_slice(&self.durable.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        bytes
    }

    /// Ok(None) when the bytes are damaged.
    pub(crate) fn decode(
        bytes: &[u8; SEGMENT_HEADER_BYTES as usize],
        path: &str,
    ) -> Result<Option<Self>, StorageError> {
        let field = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        if bytes[..8] != MAGIC || field(76) != crc32c::crc32c(&bytes[..76]) {
            return Ok(None);
        }
        if field(8) > VERSION {
            return Err(StorageError::NewerFormat { what: path.to_owned(), found: field(8), known: VERSION });
        }
        let mut space = [0; 32];
        space.copy_from_slice(&bytes[16..48]);
        Ok(Some(Self {
            number: field(12),
            space: SpaceId(space),
            incarnation: incarnation_in(bytes),
            previous_end: field(64),
            durable: field(68),
        }))
    }
}

/// The incarnation's bytes, be the header intact or not.
pub(crate) fn incarnation_in(bytes: &[u8; SEGMENT_HEADER_BYTES as usize]) -> Incarnation {
    let mut incarnation = [0; 16];
    incarnation.copy_from_slice(&bytes[48..64]);
    Incarnation(incarnation)
}

/// The path of a segment.
pub(crate) fn segment_path(directory: &str, number: u32) -> String {
    format!("{directory}/{number:010}{SUFFIX}")
}

/// The number in a segment's file name.
pub(crate) fn segment_number(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(SUFFIX)?;
    let number = digits.parse().ok().filter(|number| *number > 0)?;
    (digits.len() == 10).then_some(number)
}

/// Creates a segment that holds what `fill` writes behind the header, durable under its name on return.
///
/// On failure nothing counts on it yet: either it has no name, or it is a complete segment that ends its predecessor
/// where that was durable. The latter is told by the flag in the error.
pub(crate) fn create_segment(
    disk: &dyn Disk,
    directory: &str,
    header: &SegmentHeader,
    fill: &mut dyn FnMut(&dyn DiskFile) -> Result<(), StorageError>,
) -> Result<Arc<dyn DiskFile>, CreateError> {
    let path = segment_path(directory, header.number);
    let temporary = format!("{path}{TEMPORARY_SUFFIX}");
    let written = write_temporary(disk, &temporary, header, fill);
    let file = match written {
        Ok(file) => file,
        Err(error) => {
            // Best effort: the next opening removes it as well.
            let _ = disk.remove_file(&temporary);
            return Err(CreateError { error, named: false });
        }
    };
    let name = || {
        disk.rename(&temporary, &path).map_err(StorageError::io("name", &path))?;
        if planted(Bug::SegmentNameNotSynced) {
            return Ok(());
        }
        disk.sync_directory(directory).map_err(StorageError::io("sync", directory))
    };
    name().map_err(|error| CreateError { error, named: true })?;
    Ok(file)
}

/// Why a segment was not created.
#[derive(Debug)]
pub(crate) struct CreateError {
    pub(crate) error: StorageError,
    /// Whether it may be there under its name nonetheless, so that its predecessor must not grow.
    pub(crate) named: bool,
}

fn write_temporary(
    disk: &dyn Disk,
    temporary: &str,
    header: &SegmentHeader,
    fill: &mut dyn FnMut(&dyn DiskFile) -> Result<(), StorageError>,
) -> Result<Arc<dyn DiskFile>, StorageError> {
    let file = disk.create(temporary, Access::Default).map_err(StorageError::io("create", temporary))?;
    file.write_at(0, &header.encode()).map_err(StorageError::io("write", temporary))?;
    fill(&*file)?;
    file.sync().map_err(StorageError::io("sync", temporary))?;
    Ok(file)
}

/// Creates the empty first segment of a space's log in an existing directory.
pub(crate) fn create_first_segment(
    disk: &dyn Disk,
    directory: &str,
    space: SpaceId,
    incarnation: Incarnation,
) -> Result<(), StorageError> {
    let header = SegmentHeader { number: 1, space, incarnation, previous_end: 0, durable: SEGMENT_HEADER_BYTES };
    create_segment(disk, directory, &header, &mut |_| Ok(())).map(drop).map_err(|failure| failure.error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SegmentHeader {
        let (space, incarnation) = (SpaceId([7; 32]), Incarnation([8; 16]));
        SegmentHeader { number: 3, space, incarnation, previous_end: 900, durable: 80 }
    }

    #[test]
    fn headers_round_trip_and_any_flip_is_noticed() {
        let bytes: [u8; 80] = header().encode().try_into().unwrap();
        assert_eq!(SegmentHeader::decode(&bytes, "x").unwrap(), Some(header()));
        for index in 0..bytes.len() {
            let mut damaged = bytes;
            damaged[index] ^= 1;
            assert_eq!(SegmentHeader::decode(&damaged, "x").unwrap(), None, "byte {index}");
        }
    }

    #[test]
    fn a_newer_version_is_refused() {
        let mut bytes = header().encode();
        bytes[8] = 2;
        let crc = crc32c::crc32c(&bytes[..76]);
        bytes[76..].copy_from_slice(&crc.to_le_bytes());
        let error = SegmentHeader::decode(&bytes.try_into().unwrap(), "segment").unwrap_err();
        assert!(error.to_string().contains("update Syncline"), "{error}");
    }

    #[test]
    fn only_segment_names_are_segments() {
        assert_eq!(segment_number("0000000012.log"), Some(12));
        assert_eq!(segment_path("d", 12), "d/0000000012.log");
        for name in ["0000000000.log", "12.log", "+000000012.log", "0000000012.log.tmp", "x.log", "9999999999.log"] {
            assert!(segment_number(name).is_none() || name.starts_with('+'), "{name}");
        }
    }
}
