//! Canonical bytes: postcard behind a version byte, and bytes that would encode differently are refused.
//!
//! Hashes and signatures cover bytes, so one value must have one encoding. Postcard itself would accept varints that
//! are longer than needed and bytes after the end.

use serde::{Deserialize, Serialize};

use crate::planted::{Bug, planted};

/// Version of every format in this crate.
pub const FORMAT_VERSION: u8 = 1;

/// Why bytes are not the canonical form of a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Written by a newer release.
    #[error("format version {found} is newer than {FORMAT_VERSION}, the newest known here: update Syncline")]
    NewerVersion {
        /// The version byte found.
        found: u8,
    },
    /// Not an encoding of the value at all.
    #[error("malformed {what}")]
    Malformed {
        /// What was expected.
        what: &'static str,
    },
    /// An encoding, but not the only valid one.
    #[error("{what} is not in canonical form")]
    NotCanonical {
        /// What was expected.
        what: &'static str,
    },
    /// Longer than a limit.
    #[error("{what} exceeds the limit of {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// The named limit.
        limit: usize,
    },
}

/// The canonical bytes of a value: the version byte and its postcard encoding.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_extend(value, vec![FORMAT_VERSION]).expect("encoding to memory cannot fail")
}

/// The value whose canonical bytes these are.
pub fn decode<'a, T: Serialize + Deserialize<'a>>(bytes: &'a [u8], what: &'static str) -> Result<T, DecodeError> {
    let body = strip_version(bytes, what)?;
    let value: T = postcard::from_bytes(body).map_err(|_| DecodeError::Malformed { what })?;
    if encode(&value) != bytes && !planted(Bug::CanonicalFormUnchecked) {
        return Err(DecodeError::NotCanonical { what });
    }
    Ok(value)
}

/// The bytes after a version byte that is known here.
pub(crate) fn strip_version<'a>(bytes: &'a [u8], what: &'static str) -> Result<&'a [u8], DecodeError> {
    match bytes.split_first() {
        Some((&FORMAT_VERSION, body)) => Ok(body),
        Some((&found, _)) if found > FORMAT_VERSION => Err(DecodeError::NewerVersion { found }),
        _ => Err(DecodeError::Malformed { what }),
    }
}

/// Serde for 64-byte signatures: raw bytes, no length.
pub(crate) mod signature_bytes {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8; 64], serializer: S) -> Result<S::Ok, S::Error> {
        let halves: ([u8; 32], [u8; 32]) =
            (bytes[..32].try_into().expect("half"), bytes[32..].try_into().expect("half"));
        halves.serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 64], D::Error> {
        let (first, second) = <([u8; 32], [u8; 32])>::deserialize(deserializer)?;
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&first);
        bytes[32..].copy_from_slice(&second);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_canonical_form_is_accepted() {
        let bytes = encode(&(1u32, 300u64));
        assert_eq!(decode::<(u32, u64)>(&bytes, "pair").unwrap(), (1, 300));
        let padded_varint = [FORMAT_VERSION, 0x81, 0x00, 0xac, 0x02];
        assert_eq!(decode::<(u32, u64)>(&padded_varint, "pair"), Err(DecodeError::NotCanonical { what: "pair" }));
        let trailing = [bytes.as_slice(), &[0]].concat();
        assert_eq!(decode::<(u32, u64)>(&trailing, "pair"), Err(DecodeError::NotCanonical { what: "pair" }));
        assert_eq!(decode::<(u32, u64)>(&[9, 1, 1], "pair"), Err(DecodeError::NewerVersion { found: 9 }));
        assert_eq!(decode::<(u32, u64)>(&[], "pair"), Err(DecodeError::Malformed { what: "pair" }));
    }
}
