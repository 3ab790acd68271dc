//! The operation: one signed record in its author's log.
//!
//! A header that everybody may read, and a payload that is sealed (data) or public (control kinds). The id covers
//! both; the author signs the id. `previous` chains an author's operations, so a signature over one authenticates all
//! before it.

use serde::{Deserialize, Serialize};

use crate::canonical::{DecodeError, FORMAT_VERSION, strip_version};
use crate::ids::{DeviceId, OperationId, SpaceId};
use crate::limits::{DEPENDENCIES_MAX, PAYLOAD_BYTES_MAX};

/// What an operation is for. Kinds that this release does not know count in the chain, are stored and forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Kind(pub u8);

impl Kind {
    /// A transaction on documents, sealed with the epoch's content key.
    pub const DATA: Self = Self(0);
    /// A sponsor admits a device under an invitation.
    pub const ADMIT: Self = Self(1);
    /// A holder of an epoch's key wraps it for another device.
    pub const KEY_DELIVERY: Self = Self(2);
    /// The steward changes the membership.
    pub const MEMBERSHIP: Self = Self(3);
    /// The author has seen what it depends on; its payload is empty.
    pub const WITNESS: Self = Self(4);
    /// Reserved: history before this point may be cut.
    pub const CHECKPOINT: Self = Self(5);
    /// Somebody proves that an author wrote two operations at one position.
    pub const EQUIVOCATION: Self = Self(6);
}

/// Another author's operation that the author had admitted and that its earlier operations do not cover.
///
/// The author and sequence stand beside the id so that a causal past is a version vector without an index of ids, and
/// so that a receiver knows which range it lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Dependency {
    /// Whose log.
    pub author: DeviceId,
    /// Position in that log.
    pub sequence: u64,
    /// The operation there.
    pub id: OperationId,
}

/// The public part of an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// What the operation is for.
    pub kind: Kind,
    /// The space it belongs to.
    pub space: SpaceId,
    /// Who signs it.
    pub author: DeviceId,
    /// Position in the author's log, from 1.
    pub sequence: u64,
    /// The author's operation before it; [`OperationId::ZERO`] at sequence 1.
    pub previous: OperationId,
    /// How many membership records the author knew.
    pub membership: u64,
    /// The epoch whose content key seals the payload; 0 for control kinds.
    pub epoch: u32,
    /// Sorted by author, one per author, none of the author itself; at most [`DEPENDENCIES_MAX`].
    pub dependencies: Vec<Dependency>,
    /// Bytes of payload.
    pub payload_length: u32,
}

impl Header {
    /// The canonical bytes: what the id covers and what the seal authenticates.
    ///
    /// Equal to postcard's encoding behind the version byte (a test holds it to that), written by hand since every
    /// operation that arrives passes here.
    pub fn canonical_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(160 + self.dependencies.len() * 72);
        self.write_canonical(&mut out);
        out
    }

    /// Appends the canonical bytes.
    pub(crate) fn write_canonical(&self, out: &mut Vec<u8>) {
        out.push(FORMAT_VERSION);
        out.push(self.kind.0);
        out.extend_from_slice(&self.space.0);
        out.extend_from_slice(&self.author.0);
        write_varint(out, self.sequence);
        out.extend_from_slice(&self.previous.0);
        write_varint(out, self.membership);
        write_varint(out, u64::from(self.epoch));
        write_varint(out, self.dependencies.len() as u64);
        for dependency in &self.dependencies {
            out.extend_from_slice(&dependency.author.0);
            write_varint(out, dependency.sequence);
            out.extend_from_slice(&dependency.id.0);
        }
        write_varint(out, u64::from(self.payload_length));
    }

    /// Parses canonical bytes.
    pub fn from_canonical_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        const WHAT: &str = "operation header";
        let body = strip_version(bytes, WHAT)?;
        let header: Self = postcard::from_bytes(body).map_err(|_| DecodeError::Malformed { what: WHAT })?;
        if header.canonical_bytes() != bytes {
            return Err(DecodeError::NotCanonical { what: WHAT });
        }
        check_shape(header.author, header.sequence, &header.dependencies, header.payload_length as usize)?;
        Ok(header)
    }

    /// The id of the operation with this header and a payload that hashes to `payload_hash`.
    pub fn id(&self, payload_hash: &blake3::Hash) -> OperationId {
        operation_id(&self.canonical_bytes(), payload_hash)
    }
}

const ID_DOMAIN: &[u8] = b"syncline/operation-id/1\0";

/// The id of the operation with these canonical header bytes.
pub(crate) fn operation_id(header: &[u8], payload_hash: &blake3::Hash) -> OperationId {
    let mut hasher = blake3::Hasher::new();
    hasher.update(ID_DOMAIN);
    hasher.update(header);
    hasher.update(payload_hash.as_bytes());
    OperationId(*hasher.finalize().as_bytes())
}

/// The rules on an operation's shape that need no knowledge of other operations.
pub(crate) fn check_shape(
    author: DeviceId,
    sequence: u64,
    dependencies: &[Dependency],
    payload_length: usize,
) -> Result<(), DecodeError> {
    if payload_length > PAYLOAD_BYTES_MAX {
        return Err(DecodeError::TooLarge { what: "payload", limit: PAYLOAD_BYTES_MAX });
    }
    if dependencies.len() > DEPENDENCIES_MAX {
        return Err(DecodeError::TooLarge { what: "dependency list", limit: DEPENDENCIES_MAX });
    }
    let sorted = dependencies.windows(2).all(|pair| pair[0].author < pair[1].author);
    let foreign = dependencies.iter().all(|dependency| dependency.author != author && dependency.sequence > 0);
    // A last sequence is left unused so that `sequence + 1` never overflows anywhere.
    if !sorted || !foreign || sequence == 0 || sequence == u64::MAX {
        return Err(DecodeError::NotCanonical { what: "operation header" });
    }
    Ok(())
}

/// Appends a LEB128 varint, the form postcard uses.
pub(crate) fn write_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canonical;

    fn header() -> Header {
        Header {
            kind: Kind::DATA,
            space: SpaceId([1; 32]),
            author: DeviceId([2; 32]),
            sequence: 70_000,
            previous: OperationId([3; 32]),
            membership: 200,
            epoch: 1,
            dependencies: vec![
                Dependency { author: DeviceId([4; 32]), sequence: 9, id: OperationId([5; 32]) },
                Dependency { author: DeviceId([6; 32]), sequence: 900, id: OperationId([7; 32]) },
            ],
            payload_length: 1234,
        }
    }

    #[test]
    fn handwritten_header_bytes_are_postcard() {
        assert_eq!(header().canonical_bytes(), canonical::encode(&header()));
        assert_eq!(Header::from_canonical_bytes(&header().canonical_bytes()).unwrap(), header());
    }

    #[test]
    fn dependencies_must_be_sorted_unique_and_foreign() {
        for change in [
            (|h: &mut Header| h.dependencies.swap(0, 1)) as fn(&mut Header),
            |h| h.dependencies[1] = h.dependencies[0],
            |h| h.dependencies[0].author = h.author,
            |h| h.dependencies[0].sequence = 0,
            |h| h.sequence = 0,
            |h| h.sequence = u64::MAX,
        ] {
            let mut changed = header();
            change(&mut changed);
            assert!(Header::from_canonical_bytes(&changed.canonical_bytes()).is_err(), "{changed:?}");
        }
    }

    #[test]
    fn every_header_field_changes_the_id() {
        let payload_hash = blake3::hash(b"payload");
        let id = header().id(&payload_hash);
        for change in [
            (|h: &mut Header| h.kind = Kind::ADMIT) as fn(&mut Header),
            |h| h.space.0[0] ^= 1,
            |h| h.author.0[0] ^= 1,
            |h| h.sequence += 1,
            |h| h.previous.0[0] ^= 1,
            |h| h.membership += 1,
            |h| h.epoch += 1,
            |h| h.dependencies[0].sequence += 1,
            |h| h.payload_length += 1,
        ] {
            let mut changed = header();
            change(&mut changed);
            assert_ne!(changed.id(&payload_hash), id);
        }
        assert_ne!(header().id(&blake3::hash(b"other")), id);
    }
}
