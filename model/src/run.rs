//! The run: consecutive operations of one log that end at a held signature.
//!
//! Runs are what is stored, gossiped and paged. Space, author, sequence and previous are said once or follow from the
//! position, so the receiver rebuilds every header, and the ids prove that it rebuilt the right ones. Only the last
//! operation carries its signature: the chain makes it vouch for the others.
//!
//! ```text
//! run       = version ‖ author ‖ varint first sequence ‖ previous id ‖ varint count ‖ operation{count} ‖ signature
//! operation = kind ‖ varint membership ‖ varint epoch ‖ varint n ‖ dependency{n} ‖ varint length ‖ payload
//! dependency = author ‖ varint sequence ‖ id
//! ```

use std::ops::{Deref, Range};
use std::sync::Arc;

use crate::canonical::{DecodeError, FORMAT_VERSION, strip_version};
use crate::ids::{DeviceId, OperationId, SpaceId};
use crate::keys::{DeviceKey, verify};
use crate::limits::{RUN_BYTES_MAX, RUN_ENCODED_BYTES_MAX, RUN_OPERATIONS_MAX};
use crate::operation::{Dependency, Header, Kind, check_shape, operation_id, write_varint};
use crate::planted::{Bug, planted};

const WHAT: &str = "run of operations";
const SIGNATURE_BYTES: usize = 64;

/// The signature at a run's end is not its author's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature over operation {sequence} of device {author:?} does not hold")]
pub struct SignatureError {
    /// The run's author.
    pub author: DeviceId,
    /// The run's last sequence.
    pub sequence: u64,
}

/// One operation inside a [`Run`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunOperation {
    /// The operation's id.
    pub id: OperationId,
    /// What it is for.
    pub kind: Kind,
    /// How many membership records its author knew.
    pub membership: u64,
    /// The epoch that seals it.
    pub epoch: u32,
    /// Other authors' operations that it builds on.
    pub dependencies: Vec<Dependency>,
    /// Where the encoded operation starts in the run's bytes.
    start: usize,
    /// Where its payload stands; the encoded operation ends with it.
    payload: Range<usize>,
}

/// A well-formed run whose chain and ids are computed, but whose signature nobody has checked yet. Clones are cheap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    space: SpaceId,
    author: DeviceId,
    first: u64,
    previous: OperationId,
    operations: Arc<Vec<RunOperation>>,
    bytes: Arc<[u8]>,
}

impl Run {
    /// Parses the encoded form and computes the ids.
    pub fn decode(space: SpaceId, bytes: impl Into<Arc<[u8]>>) -> Result<Self, DecodeError> {
        let bytes = bytes.into();
        if bytes.len() > RUN_ENCODED_BYTES_MAX {
            return Err(DecodeError::TooLarge { what: WHAT, limit: RUN_ENCODED_BYTES_MAX });
        }
        let position = bytes.len() - strip_version(&bytes, WHAT)?.len();
        let mut reader = Reader { bytes: &bytes, position, header: Vec::new() };
        let author = DeviceId(reader.array()?);
        let first = reader.varint()?;
        let previous = OperationId(reader.array()?);
        let count = reader.varint()? as usize;
        if count == 0 || count > RUN_OPERATIONS_MAX {
            return Err(DecodeError::TooLarge { what: WHAT, limit: RUN_OPERATIONS_MAX });
        }
        if (first == 1) != (previous == OperationId::ZERO) {
            return Err(DecodeError::NotCanonical { what: WHAT });
        }
        let mut operations = Vec::with_capacity(count.min(bytes.len() / 6));
        let mut head = previous;
        for index in 0..count as u64 {
            let sequence = first.checked_add(index).ok_or(DecodeError::Malformed { what: WHAT })?;
            let operation = reader.operation(space, author, sequence, head)?;
            head = operation.id;
            operations.push(operation);
        }
        if reader.bytes.len() - reader.position != SIGNATURE_BYTES {
            return Err(DecodeError::NotCanonical { what: WHAT });
        }
        Ok(Self { space, author, first, previous, operations: Arc::new(operations), bytes })
    }

    /// Checks the signature, which makes every operation of the run authentic.
    pub fn verify(self) -> Result<VerifiedRun, SignatureError> {
        let holds = verify(&self.author, &self.last_id().0, &self.signature());
        if holds || (self.operations.len() > 1 && planted(Bug::SignatureSkippedWithinRun)) {
            Ok(VerifiedRun(self))
        } else {
            Err(SignatureError { author: self.author, sequence: self.last() })
        }
    }

    /// The space it belongs to.
    pub fn space(&self) -> SpaceId {
        self.space
    }

    /// Whose log it is a stretch of.
    pub fn author(&self) -> DeviceId {
        self.author
    }

    /// The first operation's sequence.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// The last operation's sequence.
    pub fn last(&self) -> u64 {
        self.first + self.operations.len() as u64 - 1
    }

    /// The id of the operation before the first one.
    pub fn previous(&self) -> OperationId {
        self.previous
    }

    /// The last operation's id, the one that is signed.
    pub fn last_id(&self) -> OperationId {
        self.operations.last().expect("a run is never empty").id
    }

    /// The operations, from the first.
    pub fn operations(&self) -> &[RunOperation] {
        &self.operations
    }

    /// The operation at `sequence`, if the run covers it.
    pub fn operation(&self, sequence: u64) -> Option<&RunOperation> {
        self.operations.get(usize::try_from(sequence.checked_sub(self.first)?).ok()?)
    }

    /// The sealed or public payload of one of this run's operations.
    pub fn payload(&self, operation: &RunOperation) -> &[u8] {
        &self.bytes[operation.payload.clone()]
    }

    /// The rebuilt header at `sequence`, if the run covers it.
    pub fn header(&self, sequence: u64) -> Option<Header> {
        let index = usize::try_from(sequence.checked_sub(self.first)?).ok()?;
        let operation = self.operations.get(index)?;
        let previous = index.checked_sub(1).map_or(self.previous, |before| self.operations[before].id);
        Some(Header {
            kind: operation.kind,
            space: self.space,
            author: self.author,
            sequence,
            previous,
            membership: operation.membership,
            epoch: operation.epoch,
            dependencies: operation.dependencies.clone(),
            payload_length: operation.payload.len() as u32,
        })
    }

    /// The encoded form.
    pub fn bytes(&self) -> &Arc<[u8]> {
        &self.bytes
    }

    /// The author's signature over the last id.
    pub fn signature(&self) -> [u8; SIGNATURE_BYTES] {
        self.bytes[self.bytes.len() - SIGNATURE_BYTES..].try_into().expect("decode checked the length")
    }

    /// Encodes the part after `sequence` (which the run must cover or directly follow); None when nothing remains.
    pub fn encode_after(&self, sequence: u64) -> Option<Vec<u8>> {
        encode_joined(&[self], sequence)
    }

    fn operation_bytes(&self, from: usize) -> &[u8] {
        &self.bytes[self.operations[from].start..self.bytes.len() - SIGNATURE_BYTES]
    }
}

/// Encodes consecutive runs of one log as one, without what lies at or before `after`; inner signatures go.
///
/// None when nothing remains, when the runs do not follow one another, or when they exceed a run's limits together.
pub fn encode_joined(runs: &[&Run], after: u64) -> Option<Vec<u8>> {
    let runs: Vec<&Run> = runs.iter().copied().skip_while(|run| run.last() <= after).collect();
    let follows = |pair: &[&Run]| pair[0].author == pair[1].author && pair[1].previous == pair[0].last_id();
    if !runs.windows(2).all(follows) {
        return None;
    }
    let (first_run, last_run) = (runs.first()?, runs.last()?);
    let skipped = usize::try_from((after + 1).saturating_sub(first_run.first)).ok()?;
    let first = first_run.first + skipped as u64;
    let count = last_run.last() - first + 1;
    let size: usize = runs.iter().map(|run| run.bytes.len()).sum();
    if runs.len() > 1 && (count > RUN_OPERATIONS_MAX as u64 || size > RUN_BYTES_MAX) {
        return None;
    }
    let previous = skipped.checked_sub(1).map_or(first_run.previous, |index| first_run.operations[index].id);
    let mut out = Vec::with_capacity(size);
    write_frame(&mut out, first_run.author, first, previous, count);
    out.extend_from_slice(first_run.operation_bytes(skipped));
    for run in &runs[1..] {
        out.extend_from_slice(run.operation_bytes(0));
    }
    out.extend_from_slice(&last_run.signature());
    Some(out)
}

/// A run whose signature was checked, or that this device signed: the only form that reaches storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedRun(Run);

impl Deref for VerifiedRun {
    type Target = Run;

    fn deref(&self) -> &Run {
        &self.0
    }
}

impl VerifiedRun {
    /// Joins consecutive verified runs of one log into one, dropping inner signatures; None as in [`encode_joined`].
    pub fn join(runs: &[VerifiedRun]) -> Option<Self> {
        let inner: Vec<&Run> = runs.iter().map(|run| &run.0).collect();
        let first = inner.first()?.first;
        let bytes: Arc<[u8]> = encode_joined(&inner, first - 1)?.into();
        // The ids are known: only the positions move.
        let count = inner.iter().map(|run| run.operations.len()).sum::<usize>();
        let mut frame = Vec::new();
        write_frame(&mut frame, inner[0].author, first, inner[0].previous, count as u64);
        let mut position = frame.len();
        let mut operations = Vec::with_capacity(count);
        for operation in inner.iter().flat_map(|run| run.operations.iter()) {
            let (length, offset) = (operation.payload.end - operation.start, operation.payload.start - operation.start);
            let mut moved = operation.clone();
            moved.start = position;
            moved.payload = position + offset..position + length;
            position += length;
            operations.push(moved);
        }
        let (space, author, previous) = (inner[0].space, inner[0].author, inner[0].previous);
        Some(Self(Run { space, author, first, previous, operations: Arc::new(operations), bytes }))
    }

    /// Writes one operation of the device's own log as a run of its own; see [`RunBuilder`].
    pub fn author(
        key: &DeviceKey,
        header: &Header,
        payload_of: impl FnOnce(&[u8]) -> Vec<u8>,
    ) -> Result<Self, DecodeError> {
        let mut builder = RunBuilder::new(header.space, header.author, header.sequence, header.previous);
        builder.push(header, payload_of)?;
        builder.finish(key).ok_or(DecodeError::Malformed { what: "operation header" })
    }
}

/// Writes consecutive operations of the device's own log and signs the last: operations that share a commit share
/// the signature, since the chain makes it cover them all.
#[derive(Debug)]
pub struct RunBuilder {
    space: SpaceId,
    author: DeviceId,
    first: u64,
    previous: OperationId,
    operations: Vec<RunOperation>,
    bytes: Vec<u8>,
}

impl RunBuilder {
    /// Begins after the operation `previous` at `first - 1`.
    pub fn new(space: SpaceId, author: DeviceId, first: u64, previous: OperationId) -> Self {
        Self { space, author, first, previous, operations: Vec::new(), bytes: Vec::new() }
    }

    /// The last operation's sequence and id, or those before the first.
    pub fn head(&self) -> (u64, OperationId) {
        let id = self.operations.last().map_or(self.previous, |operation| operation.id);
        (self.first + self.operations.len() as u64 - 1, id)
    }

    /// Whether another operation of some `bytes` fits into the run.
    pub fn has_room_for(&self, bytes: usize) -> bool {
        self.operations.is_empty()
            || (self.operations.len() < RUN_OPERATIONS_MAX && self.bytes.len() + bytes < RUN_BYTES_MAX)
    }

    /// Whether nothing was written yet.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Writes the next operation and returns what a summary keeps of it.
    ///
    /// `payload_of` is given the canonical header and returns the payload, which must have the header's length.
    pub fn push(
        &mut self,
        header: &Header,
        payload_of: impl FnOnce(&[u8]) -> Vec<u8>,
    ) -> Result<&RunOperation, DecodeError> {
        check_shape(header.author, header.sequence, &header.dependencies, header.payload_length as usize)?;
        let (sequence, previous) = self.head();
        let canonical = header.canonical_bytes();
        let payload = payload_of(&canonical);
        let follows = header.sequence == sequence + 1
            && header.previous == previous
            && (header.space, header.author) == (self.space, self.author);
        if !follows || payload.len() != header.payload_length as usize {
            return Err(DecodeError::Malformed { what: "operation header" });
        }
        let id = operation_id(&canonical, &blake3::hash(&payload));
        let start = self.bytes.len();
        write_operation_head(&mut self.bytes, header);
        let payload_start = self.bytes.len();
        self.bytes.extend_from_slice(&payload);
        self.operations.push(RunOperation {
            id,
            kind: header.kind,
            membership: header.membership,
            epoch: header.epoch,
            dependencies: header.dependencies.clone(),
            start,
            payload: payload_start..self.bytes.len(),
        });
        Ok(self.operations.last().expect("it was just pushed"))
    }

    /// Signs the last operation; None when nothing was written or the key is not the author's.
    pub fn finish(mut self, key: &DeviceKey) -> Option<VerifiedRun> {
        if self.operations.is_empty() || key.id() != self.author {
            return None;
        }
        let mut bytes = Vec::with_capacity(self.bytes.len() + 160);
        write_frame(&mut bytes, self.author, self.first, self.previous, self.operations.len() as u64);
        for operation in &mut self.operations {
            operation.start += bytes.len();
            operation.payload = operation.payload.start + bytes.len()..operation.payload.end + bytes.len();
        }
        bytes.extend_from_slice(&self.bytes);
        bytes.extend_from_slice(&key.sign(&self.head().1.0));
        let Self { space, author, first, previous, operations, .. } = self;
        let operations = Arc::new(operations);
        Some(VerifiedRun(Run { space, author, first, previous, operations, bytes: bytes.into() }))
    }
}

fn write_frame(out: &mut Vec<u8>, author: DeviceId, first: u64, previous: OperationId, count: u64) {
    out.push(FORMAT_VERSION);
    out.extend_from_slice(&author.0);
    write_varint(out, first);
    out.extend_from_slice(&previous.0);
    write_varint(out, count);
}

fn write_operation_head(out: &mut Vec<u8>, header: &Header) {
    out.push(header.kind.0);
    write_varint(out, header.membership);
    write_varint(out, u64::from(header.epoch));
    write_varint(out, header.dependencies.len() as u64);
    for dependency in &header.dependencies {
        out.extend_from_slice(&dependency.author.0);
        write_varint(out, dependency.sequence);
        out.extend_from_slice(&dependency.id.0);
    }
    write_varint(out, u64::from(header.payload_length));
}

struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
    /// The header being rebuilt, kept for its memory.
    header: Vec<u8>,
}

impl Reader<'_> {
    fn take(&mut self, length: usize) -> Result<Range<usize>, DecodeError> {
        let end = self.position.checked_add(length).filter(|end| *end <= self.bytes.len());
        let range = self.position..end.ok_or(DecodeError::Malformed { what: WHAT })?;
        self.position = range.end;
        Ok(range)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let range = self.take(N)?;
        Ok(self.bytes[range].try_into().expect("take returns what was asked"))
    }

    fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array::<1>()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                // A last group of zeros would be a second form of the same number.
                let canonical = shift == 0 || bits != 0 || planted(Bug::CanonicalFormUnchecked);
                return if canonical { Ok(value) } else { Err(DecodeError::NotCanonical { what: WHAT }) };
            }
        }
        Err(DecodeError::Malformed { what: WHAT })
    }

    fn operation(
        &mut self,
        space: SpaceId,
        author: DeviceId,
        sequence: u64,
        previous: OperationId,
    ) -> Result<RunOperation, DecodeError> {
        let start = self.position;
        let [kind] = self.array::<1>()?;
        let membership = self.varint()?;
        let epoch = u32::try_from(self.varint()?).map_err(|_| DecodeError::Malformed { what: WHAT })?;
        let count = self.varint()? as usize;
        if count > crate::limits::DEPENDENCIES_MAX {
            return Err(DecodeError::TooLarge { what: "dependency list", limit: crate::limits::DEPENDENCIES_MAX });
        }
        let mut dependencies = Vec::with_capacity(count);
        for _ in 0..count {
            let (author, sequence) = (DeviceId(self.array()?), self.varint()?);
            dependencies.push(Dependency { author, sequence, id: OperationId(self.array()?) });
        }
        let length = usize::try_from(self.varint()?).map_err(|_| DecodeError::Malformed { what: WHAT })?;
        check_shape(author, sequence, &dependencies, length)?;
        let payload = self.take(length)?;
        let header = Header {
            kind: Kind(kind),
            space,
            author,
            sequence,
            previous,
            membership,
            epoch,
            dependencies,
            payload_length: length as u32,
        };
        self.header.clear();
        header.write_canonical(&mut self.header);
        let id = operation_id(&self.header, &blake3::hash(&self.bytes[payload.clone()]));
        Ok(RunOperation { id, kind: Kind(kind), membership, epoch, dependencies: header.dependencies, start, payload })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random;

    const SPACE: SpaceId = SpaceId([1; 32]);

    fn log(key: &DeviceKey, count: u64) -> Vec<VerifiedRun> {
        let mut previous = OperationId::ZERO;
        let mut write = |sequence: u64| {
            let dependency = Dependency { author: DeviceId([9; 32]), sequence, id: OperationId([8; 32]) };
            let header = Header {
                kind: Kind::DATA,
                space: SPACE,
                author: key.id(),
                sequence,
                previous,
                membership: 2,
                epoch: 1,
                dependencies: if sequence.is_multiple_of(3) { vec![dependency] } else { Vec::new() },
                payload_length: 5,
            };
            let run = VerifiedRun::author(key, &header, |_| vec![sequence as u8; 5]).unwrap();
            previous = run.last_id();
            run
        };
        (1..=count).map(&mut write).collect()
    }

    #[test]
    fn one_signature_vouches_for_a_joined_run() {
        let key = DeviceKey::generate(&mut random(1));
        let log = log(&key, 9);
        let joined = VerifiedRun::join(&log).unwrap();
        let decoded = Run::decode(SPACE, joined.bytes().clone()).unwrap();
        assert_eq!(decoded, *joined);
        assert_eq!((decoded.first(), decoded.last()), (1, 9));
        for run in &log {
            let sequence = run.first();
            assert_eq!(decoded.operation(sequence).unwrap().id, run.last_id());
            assert_eq!(decoded.header(sequence), run.header(sequence));
            assert_eq!(decoded.payload(decoded.operation(sequence).unwrap()), [sequence as u8; 5]);
        }
        decoded.verify().unwrap();
    }

    #[test]
    fn the_part_after_a_sequence_verifies_by_itself() {
        let key = DeviceKey::generate(&mut random(1));
        let log = log(&key, 9);
        let joined = VerifiedRun::join(&log).unwrap();
        for after in 0..9 {
            let rest = Run::decode(SPACE, joined.encode_after(after).unwrap()).unwrap().verify().unwrap();
            assert_eq!((rest.first(), rest.last_id()), (after + 1, joined.last_id()));
        }
        assert_eq!(joined.encode_after(9), None);
        assert!(VerifiedRun::join(&[log[0].clone(), log[2].clone()]).is_none(), "a gap cannot be joined");
        assert!(VerifiedRun::join(&[log[2].clone(), log[0].clone()]).is_none(), "nor runs in the wrong order");
    }

    #[test]
    fn operations_written_together_share_a_signature() {
        let key = DeviceKey::generate(&mut random(1));
        let alone = log(&key, 4);
        let mut builder = RunBuilder::new(SPACE, key.id(), 1, OperationId::ZERO);
        for run in &alone {
            let payload = run.payload(&run.operations()[0]).to_vec();
            builder.push(&run.header(run.first()).unwrap(), |_| payload).unwrap();
        }
        assert_eq!(builder.head(), (4, alone[3].last_id()));
        assert!(builder.push(&alone[0].header(1).unwrap(), |_| vec![1; 5]).is_err(), "it does not follow");
        let together = builder.finish(&key).unwrap();
        assert_eq!(together, VerifiedRun::join(&alone).unwrap());
        Run::decode(SPACE, together.bytes().clone()).unwrap().verify().unwrap();
    }

    #[test]
    fn any_changed_byte_is_refused() {
        let key = DeviceKey::generate(&mut random(1));
        let joined = VerifiedRun::join(&log(&key, 4)).unwrap();
        for index in 0..joined.bytes().len() {
            let mut bytes = joined.bytes().to_vec();
            bytes[index] ^= 1;
            let accepted = Run::decode(SPACE, bytes).ok().and_then(|run| run.verify().ok());
            assert!(accepted.is_none(), "byte {index} is not covered");
        }
        for end in 0..joined.bytes().len() {
            assert!(Run::decode(SPACE, &joined.bytes()[..end]).is_err());
        }
        let other_space = Run::decode(SpaceId([2; 32]), joined.bytes().clone()).unwrap();
        assert!(other_space.verify().is_err(), "a run belongs to one space");
    }
}
