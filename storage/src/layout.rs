//! Every key and value of the index, in one place.
//!
//! All integers in keys are big-endian, so that byte order is number order; in values they are little-endian.
//!
//! ```text
//! key = number u32 ‖ area u8 ‖ suffix                            number 0 is the node itself, spaces follow from 1
//!
//! number 0
//!   00 layout                                                 → version u32 of what stands here
//!   01 space      ‖ space id                                  → number u32 ‖ incarnation of its log (16 bytes)
//!   02 last number                                            → u32, so that no number is used twice
//!   10 … ff       for others: what concerns the whole node
//!
//! number n, one space
//!   00 watermark                                              → end u64 ‖ runs u64 ‖ operations u64 ‖ bytes u64
//!   01 arrival    ‖ position u64                              → length u32 ‖ log ‖ first u64 ‖ count u32 ‖ summary
//!   02 author     ‖ log ‖ last sequence u64 ‖ position u64 → first sequence u64 ‖ length u32
//!   03 quarantine ‖ position u64                              → length u32 ‖ log ‖ first u64 ‖ count u32
//!   10 … ff       for others: what is derived from the space's operations
//! ```
//!
//! The watermark says up to where the log is indexed, and is set in the same batch as what it covers. Author entries
//! are ordered by a run's *last* sequence: a scan from the wanted sequence on then begins with the run that covers
//! it. A log is named by its author, a branch of a forked one by a name of its own. A quarantined record that was
//! damaged before it was indexed has no author; its count is 0.
//!
//! A space whose index does not fit its log gets a new number; the old entries, those of others included, go.

use syncline_model::limits::RUN_ENCODED_BYTES_MAX;
use syncline_model::{DeviceId, RunSummary, SpaceId};

use crate::index::IndexError;
use crate::log::Incarnation;
use crate::position::Position;

/// Version of this layout; an index with another one is made anew.
pub(crate) const LAYOUT_VERSION: u32 = 1;
/// The number of the node's own entries.
pub(crate) const NODE_NUMBER: u32 = 0;
/// Bytes before the summary in an arrival entry.
const ARRIVAL_FRONT_BYTES: usize = 4 + 32 + 8 + 4;
/// The first area that is not this crate's.
const EXTERNAL_AREA_FIRST: u8 = 0x10;

/// A range of keys with one meaning, below a space's number or the node's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Area(u8);

impl Area {
    pub(crate) const LAYOUT: Self = Self(0);
    pub(crate) const SPACE: Self = Self(1);
    pub(crate) const LAST_NUMBER: Self = Self(2);

    pub(crate) const WATERMARK: Self = Self(0);
    pub(crate) const ARRIVAL: Self = Self(1);
    pub(crate) const AUTHOR: Self = Self(2);
    pub(crate) const QUARANTINE: Self = Self(3);

    /// An area for what others derive and keep beside the log's own entries.
    ///
    /// # Panics
    /// When the number is below 16: those are this crate's. Use it for constants.
    pub const fn external(number: u8) -> Self {
        assert!(number >= EXTERNAL_AREA_FIRST, "areas below 16 are reserved");
        Self(number)
    }
}

/// The key of an entry.
pub(crate) fn area_key(number: u32, area: Area, suffix: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(5 + suffix.len());
    key.extend_from_slice(&number.to_be_bytes());
    key.push(area.0);
    key.extend_from_slice(suffix);
    key
}

/// The end of a number's keys. The greatest number is never given out, so that each has one.
pub(crate) fn number_end(number: u32) -> Vec<u8> {
    successor(&number.to_be_bytes()).unwrap_or_default()
}

/// The smallest byte string after all that begin with `prefix`; None when there is none.
pub(crate) fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return Some(end);
        }
    }
    None
}

/// Where a space's entries are and which log they were made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SpaceEntry {
    pub(crate) number: u32,
    pub(crate) incarnation: Incarnation,
}

impl SpaceEntry {
    pub(crate) fn encode(&self) -> Vec<u8> {
        [&self.number.to_le_bytes()[..], &self.incarnation.0].concat()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, IndexError> {
        let mut fields = Fields { bytes, what: "a space" };
        let entry = Self { number: fields.u32()?, incarnation: Incarnation(fields.array()?) };
        if entry.number == NODE_NUMBER || entry.number == u32::MAX {
            return Err(IndexError::Damaged("a space"));
        }
        fields.end(entry)
    }
}

/// The space id in the suffix of a space entry.
pub(crate) fn space_suffix(suffix: &[u8]) -> Result<SpaceId, IndexError> {
    suffix.try_into().map(SpaceId).map_err(|_| IndexError::Damaged("a space"))
}

/// A lone number.
pub(crate) fn decode_u32(bytes: &[u8], what: &'static str) -> Result<u32, IndexError> {
    let mut fields = Fields { bytes, what };
    let number = fields.u32()?;
    fields.end(number)
}

/// Up to where the log is indexed, and what was indexed so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Watermark {
    pub(crate) end: Position,
    pub(crate) runs: u64,
    pub(crate) operations: u64,
    pub(crate) bytes: u64,
}

impl Watermark {
    pub(crate) const START: Self = Self { end: Position::START, runs: 0, operations: 0, bytes: 0 };

    pub(crate) fn encode(&self) -> Vec<u8> {
        [self.end.to_u64(), self.runs, self.operations, self.bytes]
            .iter()
            .flat_map(|field| field.to_le_bytes())
            .collect()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, IndexError> {
        let mut fields = Fields { bytes, what: "the watermark" };
        let watermark = Self {
            end: Position::from_u64(fields.u64()?),
            runs: fields.u64()?,
            operations: fields.u64()?,
            bytes: fields.u64()?,
        };
        fields.end(watermark)
    }
}

/// The suffix of arrival and quarantine entries.
pub(crate) fn position_suffix(position: Position) -> [u8; 8] {
    position.to_u64().to_be_bytes()
}

/// The position in the suffix of an arrival or quarantine entry.
pub(crate) fn decode_position(suffix: &[u8]) -> Result<Position, IndexError> {
    let bytes = suffix.try_into().map_err(|_| IndexError::Damaged("a position"))?;
    Ok(Position::from_u64(u64::from_be_bytes(bytes)))
}

/// What an arrival entry says without its summary being decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arrival {
    pub(crate) length: u32,
    pub(crate) author: DeviceId,
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// Whether the log is a branch, which begins somewhere in its author's.
    pub(crate) is_branch: bool,
}

/// An arrival entry. What chooses among runs stands in front, so that whole summaries need not be decoded for it.
pub(crate) fn encode_arrival(length: u32, log: &DeviceId, summary: &RunSummary) -> Vec<u8> {
    let count = (summary.operations.len() as u32).to_le_bytes();
    let mut value = [&length.to_le_bytes()[..], &log.0, &summary.first.to_le_bytes(), &count].concat();
    value.extend_from_slice(&summary.encode());
    value
}

/// The log under which a run is filed, and the summary in its arrival entry.
pub(crate) fn arrival_summary(value: &[u8]) -> Result<(DeviceId, RunSummary), IndexError> {
    let log = decode_arrival(value)?.author;
    let bytes = value.get(ARRIVAL_FRONT_BYTES..).ok_or(IndexError::Damaged("a run"))?;
    let summary = RunSummary::decode(bytes).map_err(|_| IndexError::Damaged("a run"))?;
    Ok((log, summary))
}

pub(crate) fn decode_arrival(value: &[u8]) -> Result<Arrival, IndexError> {
    let mut fields = Fields { bytes: value, what: "a run" };
    let (length, author) = (fields.run_length()?, DeviceId(fields.array()?));
    let (first, count) = (fields.u64()?, fields.u32()?);
    let last = first.checked_add(u64::from(count)).and_then(|end| end.checked_sub(1));
    // The summary begins with its version and the author.
    let is_branch = fields.bytes.get(1..33).is_some_and(|named| named != author.0);
    Ok(Arrival { length, author, first, last: last.ok_or(IndexError::Damaged("a run"))?, is_branch })
}

/// The suffix of an author entry.
pub(crate) fn author_suffix(author: &DeviceId, last: u64, position: Position) -> Vec<u8> {
    [&author.0[..], &last.to_be_bytes(), &position_suffix(position)].concat()
}

/// An author entry, the author aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AuthorEntry {
    pub(crate) position: Position,
    pub(crate) length: u32,
    pub(crate) first: u64,
    pub(crate) last: u64,
}

pub(crate) fn encode_author_value(first: u64, length: u32) -> Vec<u8> {
    [&first.to_le_bytes()[..], &length.to_le_bytes()].concat()
}

pub(crate) fn decode_author_entry(suffix: &[u8], value: &[u8]) -> Result<AuthorEntry, IndexError> {
    const WHAT: &str = "an author's run";
    let place = suffix.get(32..).and_then(|place| place.split_at_checked(8)).ok_or(IndexError::Damaged(WHAT))?;
    let last = u64::from_be_bytes(place.0.try_into().map_err(|_| IndexError::Damaged(WHAT))?);
    let mut fields = Fields { bytes: value, what: WHAT };
    let entry =
        AuthorEntry { position: decode_position(place.1)?, last, first: fields.u64()?, length: fields.run_length()? };
    fields.end(entry)
}

/// A record in quarantine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Quarantined {
    pub(crate) length: u32,
    pub(crate) author: DeviceId,
    pub(crate) first: u64,
    pub(crate) count: u32,
}

impl Quarantined {
    pub(crate) fn unknown(length: u32) -> Self {
        Self { length, author: DeviceId([0; 32]), first: 0, count: 0 }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let (length, count) = (self.length.to_le_bytes(), self.count.to_le_bytes());
        [&length[..], &self.author.0, &self.first.to_le_bytes(), &count].concat()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, IndexError> {
        let mut fields = Fields { bytes, what: "a quarantined record" };
        let quarantined = Self {
            length: fields.u32()?,
            author: DeviceId(fields.array()?),
            first: fields.u64()?,
            count: fields.u32()?,
        };
        fields.end(quarantined)
    }
}

struct Fields<'a> {
    bytes: &'a [u8],
    what: &'static str,
}

impl Fields<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], IndexError> {
        let (array, rest) = self.bytes.split_first_chunk::<N>().ok_or(IndexError::Damaged(self.what))?;
        self.bytes = rest;
        Ok(*array)
    }

    fn u32(&mut self) -> Result<u32, IndexError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// A length that will be allocated when the run is read.
    fn run_length(&mut self) -> Result<u32, IndexError> {
        let length = self.u32()?;
        if length as usize <= RUN_ENCODED_BYTES_MAX { Ok(length) } else { Err(IndexError::Damaged(self.what)) }
    }

    fn u64(&mut self) -> Result<u64, IndexError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn end<T>(self, value: T) -> Result<T, IndexError> {
        if self.bytes.is_empty() { Ok(value) } else { Err(IndexError::Damaged(self.what)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_round_trip_and_refuse_other_lengths() {
        let watermark = Watermark { end: Position::new(3, 80), runs: 1, operations: 2, bytes: 3 };
        assert_eq!(Watermark::decode(&watermark.encode()).unwrap(), watermark);
        assert!(Watermark::decode(&watermark.encode()[1..]).is_err());
        let entry = SpaceEntry { number: 7, incarnation: Incarnation([9; 16]) };
        assert_eq!(SpaceEntry::decode(&entry.encode()).unwrap(), entry);
        assert!(SpaceEntry::decode(&[entry.encode(), vec![0]].concat()).is_err());
        let quarantined = Quarantined { length: 9, author: DeviceId([1; 32]), first: 4, count: 2 };
        assert_eq!(Quarantined::decode(&quarantined.encode()).unwrap(), quarantined);
        let suffix = author_suffix(&DeviceId([5; 32]), 9, Position::new(1, 80));
        let entry = decode_author_entry(&suffix, &encode_author_value(8, 100)).unwrap();
        assert_eq!(entry, AuthorEntry { position: Position::new(1, 80), length: 100, first: 8, last: 9 });
        assert!(decode_author_entry(&suffix, &encode_author_value(8, u32::MAX)).is_err(), "no such run exists");
        assert!(decode_author_entry(&suffix[..40], &encode_author_value(8, 100)).is_err());
    }

    #[test]
    fn key_order_is_number_order_and_ends_enclose() {
        assert!(area_key(1, Area::ARRIVAL, &[0xff; 9]) < area_key(1, Area::AUTHOR, &[]));
        for number in [0, 255, 256, u32::MAX - 1] {
            assert!(area_key(number, Area::external(0xff), &[0xff; 99]) < number_end(number), "{number}");
        }
        assert!(number_end(255) <= area_key(256, Area::WATERMARK, &[]));
        assert_eq!(successor(&[1, 0xff]), Some(vec![2]));
        assert_eq!(successor(&[0xff]), None);
    }
}
