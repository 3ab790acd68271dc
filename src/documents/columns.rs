//! A bounded look at the bytes of one change chunk, before Automerge decodes it.
//!
//! A change stores its operations as run-length encoded columns, so a hundred bytes can claim 2^60 operations, or
//! one long map key repeated a million times; Automerge expands whatever it is told. This reader walks the runs
//! without expanding them and refuses what exceeds the limits, or would make Automerge's arithmetic overflow.
//! Format: <https://automerge.org/automerge-binary-format-spec/>.

use super::change::ChangeError;
use super::limits::{
    MAX_ACTOR_BYTES, MAX_CHANGE_BYTES, MAX_COLUMNS, MAX_DEPENDENCIES, MAX_EXTRA_BYTES, MAX_INFLATED_NAME_BYTES,
    MAX_MESSAGE_BYTES, MAX_OPERATION_COUNTER, MAX_OPERATIONS, MAX_OTHER_ACTORS, MAX_PREDECESSORS,
};

const MAGIC: [u8; 4] = [0x85, 0x6f, 0x4a, 0x83];
const CHANGE_CHUNK: u8 = 1;
const HASH_BYTES: usize = 32;
const COMPRESSED_COLUMN: u64 = 0b1000;
/// The highest action is the one that begins or ends a mark.
const MARK_ACTION: u64 = 7;

// Column specifications: column id in the upper bits, type in the lower three.
const OBJECT_ACTOR: u64 = 0x01;
const OBJECT_COUNTER: u64 = 0x02;
const KEY_ACTOR: u64 = 0x11;
const KEY_COUNTER: u64 = 0x13;
const KEY_NAME: u64 = 0x15;
const INSERT: u64 = 0x34;
const ACTION: u64 = 0x42;
const VALUE_TYPE: u64 = 0x56;
const VALUE: u64 = 0x57;
const PREDECESSOR_COUNT: u64 = 0x70;
const PREDECESSOR_ACTOR: u64 = 0x71;
const PREDECESSOR_COUNTER: u64 = 0x73;
const EXPAND: u64 = 0x94;
const MARK_NAME: u64 = 0xa5;

/// What the bounded look learns that Automerge does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Survey {
    /// The checksum in the chunk's header; the caller compares it with the hash that Automerge computes.
    pub(super) checksum: [u8; 4],
    /// Whether any operation names another operation: an object, a list element or a predecessor.
    pub(super) has_references: bool,
    /// Whether any operation marks a span of text.
    pub(super) has_marks: bool,
}

/// Walks a chunk and refuses anything but one plain change within the limits.
pub(super) fn survey(chunk: &[u8]) -> Result<Survey, ChangeError> {
    if chunk.len() > MAX_CHANGE_BYTES {
        return Err(ChangeError::TooLarge { what: "bytes", limit: MAX_CHANGE_BYTES as u64 });
    }
    let mut input = Input(chunk);
    if input.take(MAGIC.len())? != MAGIC {
        return Err(ChangeError::Malformed("it does not start like an Automerge chunk"));
    }
    let mut checksum = [0; 4];
    checksum.copy_from_slice(input.take(4)?);
    let kind = input.take(1)?[0];
    if kind != CHANGE_CHUNK {
        return Err(ChangeError::NotAPlainChange(kind));
    }
    let length = input.unsigned()?;
    match u64::try_from(input.0.len()).unwrap_or(u64::MAX).cmp(&length) {
        std::cmp::Ordering::Less => return Err(ChangeError::Malformed("it is cut short")),
        std::cmp::Ordering::Greater => return Err(ChangeError::TrailingBytes),
        std::cmp::Ordering::Equal => {}
    }
    let other_actors = survey_header(&mut input)?;
    let found = survey_columns(&mut input, other_actors)?;
    if input.0.len() > MAX_EXTRA_BYTES {
        return Err(ChangeError::TooLarge { what: "extra bytes", limit: MAX_EXTRA_BYTES as u64 });
    }
    Ok(Survey { checksum, has_references: found.references, has_marks: found.marks })
}

/// Reads the fields up to the columns and returns the number of other actors.
fn survey_header(input: &mut Input<'_>) -> Result<u64, ChangeError> {
    let dependencies = input.bounded("dependencies", MAX_DEPENDENCIES)?;
    input.take(HASH_BYTES * dependencies as usize)?;
    survey_actor(input)?;
    let _sequence = input.unsigned()?;
    let start = input.unsigned()?;
    if start == 0 || start > MAX_OPERATION_COUNTER {
        return Err(ChangeError::TooLarge { what: "operation counter", limit: MAX_OPERATION_COUNTER });
    }
    let _time = input.signed()?;
    let message = input.bounded("message bytes", MAX_MESSAGE_BYTES)?;
    input.take(message as usize)?;
    let other_actors = input.bounded("other actors", MAX_OTHER_ACTORS)?;
    for _ in 0..other_actors {
        survey_actor(input)?;
    }
    Ok(other_actors)
}

fn survey_actor(input: &mut Input<'_>) -> Result<(), ChangeError> {
    let length = input.bounded("actor bytes", MAX_ACTOR_BYTES as u64)?;
    if length == 0 {
        return Err(ChangeError::Malformed("an actor id is empty"));
    }
    input.take(length as usize).map(drop)
}

fn survey_columns(input: &mut Input<'_>, other_actors: u64) -> Result<Found, ChangeError> {
    let count = input.bounded("columns", MAX_COLUMNS)?;
    let mut columns = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let (kind, length) = (input.unsigned()?, input.bounded("column bytes", MAX_CHANGE_BYTES as u64)?);
        if kind & COMPRESSED_COLUMN != 0 {
            return Err(ChangeError::CompressedColumn);
        }
        if columns.last().is_some_and(|(previous, _)| *previous >= kind) {
            return Err(ChangeError::Malformed("its columns are out of order"));
        }
        columns.push((kind, length as usize));
    }
    let mut found = Found::default();
    for (kind, length) in columns {
        let bytes = input.take(length)?;
        survey_column(kind, bytes, other_actors, &mut found)?;
    }
    if found.value_bytes != found.claimed_value_bytes {
        return Err(ChangeError::Malformed("its values do not match their lengths"));
    }
    Ok(found)
}

#[derive(Default)]
struct Found {
    references: bool,
    marks: bool,
    value_bytes: u64,
    claimed_value_bytes: u64,
}

fn survey_column(kind: u64, bytes: &[u8], other_actors: u64, found: &mut Found) -> Result<(), ChangeError> {
    match kind {
        OBJECT_ACTOR | KEY_ACTOR | PREDECESSOR_ACTOR => {
            found.references |= !bytes.is_empty();
            survey_integers(bytes, MAX_PREDECESSORS, other_actors).map(drop)
        }
        OBJECT_COUNTER => {
            found.references |= !bytes.is_empty();
            survey_integers(bytes, MAX_OPERATIONS, MAX_OPERATION_COUNTER).map(drop)
        }
        KEY_COUNTER | PREDECESSOR_COUNTER => survey_counters(bytes),
        KEY_NAME | MARK_NAME => survey_names(bytes),
        ACTION => {
            found.marks = survey_integers(bytes, MAX_OPERATIONS, MARK_ACTION)? == MARK_ACTION;
            Ok(())
        }
        PREDECESSOR_COUNT => {
            let total = sum_runs(bytes, |count| count)?;
            if total > MAX_PREDECESSORS {
                return Err(ChangeError::TooLarge { what: "predecessors", limit: MAX_PREDECESSORS });
            }
            Ok(())
        }
        VALUE_TYPE => {
            // The low four bits tell the type, the rest the length in the value column.
            found.claimed_value_bytes = sum_runs(bytes, |meta| meta >> 4)?;
            Ok(())
        }
        VALUE => {
            found.value_bytes = bytes.len() as u64;
            Ok(())
        }
        INSERT | EXPAND => Ok(()),
        _ => Err(ChangeError::UnknownColumn(kind)),
    }
}

/// Returns the highest value.
fn survey_integers(bytes: &[u8], most: u64, highest: u64) -> Result<u64, ChangeError> {
    let (mut total, mut found) = (0_u64, 0_u64);
    runs(bytes, Input::unsigned, |count, value| {
        total = total.saturating_add(count);
        if total > most {
            return Err(ChangeError::TooLarge { what: "operations", limit: most });
        }
        if value.is_some_and(|value| value > highest) {
            return Err(ChangeError::Malformed("an operation names an actor, action or counter that cannot exist"));
        }
        found = found.max(value.unwrap_or(0));
        Ok(())
    })?;
    Ok(found)
}

fn survey_counters(bytes: &[u8]) -> Result<(), ChangeError> {
    let mut current = 0_i128;
    let mut total = 0_u64;
    runs(bytes, Input::signed, |count, delta| {
        total = total.saturating_add(count);
        if total > MAX_PREDECESSORS {
            return Err(ChangeError::TooLarge { what: "references", limit: MAX_PREDECESSORS });
        }
        // A run steps in one direction, so checking its end checks every step.
        current += i128::from(delta.unwrap_or(0)) * i128::from(count);
        if (0..=i128::from(MAX_OPERATION_COUNTER)).contains(&current) {
            Ok(())
        } else {
            Err(ChangeError::TooLarge { what: "operation counter", limit: MAX_OPERATION_COUNTER })
        }
    })
}

fn survey_names(bytes: &[u8]) -> Result<(), ChangeError> {
    let mut total = 0_u64;
    let mut inflated = 0_u64;
    let name_length = |input: &mut Input<'_>| {
        let length = input.bounded("name bytes", MAX_CHANGE_BYTES as u64)?;
        input.take(length as usize)?;
        Ok(length)
    };
    runs(bytes, name_length, |count, length| {
        total = total.saturating_add(count);
        inflated = inflated.saturating_add(count.saturating_mul(length.unwrap_or(0)));
        if total > MAX_OPERATIONS {
            return Err(ChangeError::TooLarge { what: "operations", limit: MAX_OPERATIONS });
        }
        if inflated > MAX_INFLATED_NAME_BYTES {
            return Err(ChangeError::TooLarge { what: "bytes of names", limit: MAX_INFLATED_NAME_BYTES });
        }
        Ok(())
    })
}

/// Adds up `measure` over a column of unsigned integers that holds one per operation.
fn sum_runs(bytes: &[u8], measure: impl Fn(u64) -> u64) -> Result<u64, ChangeError> {
    let (mut total, mut sum) = (0_u64, 0_u64);
    runs(bytes, Input::unsigned, |count, value| {
        total = total.saturating_add(count);
        sum = sum.saturating_add(count.saturating_mul(measure(value.unwrap_or(0))));
        if total > MAX_OPERATIONS {
            return Err(ChangeError::TooLarge { what: "operations", limit: MAX_OPERATIONS });
        }
        Ok(())
    })?;
    Ok(sum)
}

/// Visits the runs of a run-length encoded column: how often, and which value (`None` for nulls).
fn runs<'a, T>(
    bytes: &'a [u8],
    read: impl Fn(&mut Input<'a>) -> Result<T, ChangeError>,
    mut visit: impl FnMut(u64, Option<T>) -> Result<(), ChangeError>,
) -> Result<(), ChangeError> {
    let mut input = Input(bytes);
    while !input.0.is_empty() {
        match input.signed()? {
            0 => visit(input.unsigned()?, None)?,
            count if count > 0 => visit(count.unsigned_abs(), Some(read(&mut input)?))?,
            // A literal run: as many values follow, each of at least one byte, so the input bounds the loop.
            count => {
                for _ in 0..count.unsigned_abs() {
                    visit(1, Some(read(&mut input)?))?;
                }
            }
        }
    }
    Ok(())
}

/// The bytes not yet read.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], ChangeError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(ChangeError::Malformed("it is cut short"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn bounded(&mut self, what: &'static str, limit: u64) -> Result<u64, ChangeError> {
        let number = self.unsigned()?;
        if number > limit { Err(ChangeError::TooLarge { what, limit }) } else { Ok(number) }
    }

    fn unsigned(&mut self) -> Result<u64, ChangeError> {
        let (bits, _, _) = self.leb128()?;
        u64::try_from(bits).map_err(|_| ChangeError::Malformed("a number is too large"))
    }

    fn signed(&mut self) -> Result<i64, ChangeError> {
        let (bits, width, negative) = self.leb128()?;
        let value = if negative { bits as i128 - (1_i128 << width) } else { bits as i128 };
        i64::try_from(value).map_err(|_| ChangeError::Malformed("a number is too large"))
    }

    /// Returns the bits of a LEB128 number, how many there are, and whether the last byte carries a sign.
    fn leb128(&mut self) -> Result<(u128, u32, bool), ChangeError> {
        const MOST_BYTES: u32 = 10;
        let mut bits = 0_u128;
        for position in 0..MOST_BYTES {
            let byte = self.take(1)?[0];
            bits |= u128::from(byte & 0x7f) << (7 * position);
            if byte & 0x80 == 0 {
                return Ok((bits, 7 * (position + 1), byte & 0x40 != 0));
            }
        }
        Err(ChangeError::Malformed("a number is too large"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_leb128() {
        assert_eq!(Input(&[0xe5, 0x8e, 0x26]).unsigned(), Ok(624_485));
        assert_eq!(Input(&[0xc0, 0xbb, 0x78]).signed(), Ok(-123_456));
        assert_eq!(Input(&[0x7f]).signed(), Ok(-1));
        assert_eq!(Input(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x7f]).signed(), Ok(i64::MIN));
        assert!(Input(&[0xff; 11]).unsigned().is_err());
        assert!(Input(&[0x80]).unsigned().is_err());
    }

    #[test]
    fn runs_are_counted_without_being_expanded() {
        // 2^62 times the action 1.
        let huge = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0xc0, 0x00, 0x01];
        assert!(matches!(survey_integers(&huge, MAX_OPERATIONS, 7), Err(ChangeError::TooLarge { .. })));
        // Half a million times one name of 100 bytes.
        let mut names = vec![0x80, 0x80, 0x20, 100];
        names.extend([b'k'; 100]);
        assert!(matches!(survey_names(&names), Err(ChangeError::TooLarge { .. })));
        // A counter that steps past 32 bits.
        assert!(survey_counters(&[0x80, 0x80, 0x20, 0x80, 0x80, 0x20]).is_err());
        assert_eq!(survey_counters(&[0x02, 0x01, 0x7f, 0x7f]), Ok(()));
    }
}
