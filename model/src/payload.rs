//! The sealed part of a data operation: one transaction on documents.
//!
//! Plaintext = length varint ‖ body ‖ zero padding. Body = codec byte ‖ data, where data is the postcard encoding of
//! [`Transaction`], compressed when that makes it smaller. The explicit length lets an author pad.

use std::fmt;
use std::str::FromStr;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::canonical::DecodeError;
use crate::ids::{DeviceId, SpaceId};
use crate::limits::{CHANGE_BYTES_MAX, DOCUMENT_KEY_BYTES_MAX, ENTRIES_PER_OPERATION_MAX, PLAINTEXT_BYTES_MAX};
use crate::operation::write_varint;

/// Data stands as it is.
const CODEC_NONE: u8 = 0;
/// Data is a zstd frame.
const CODEC_ZSTD: u8 = 1;
/// Shorter data does not shrink: one city's change grows by some bytes, a hundred shrink to half.
const COMPRESSION_BYTES_MIN: usize = 512;
const COMPRESSION_LEVEL: i32 = 3;

/// A path-like document name such as `cities/FR/00001`: segments of visible characters between single slashes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct DocumentKey(String);

/// Why a text is not a document key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{shown}` is not a document key: {reason}. A key is 1 to {DOCUMENT_KEY_BYTES_MAX} bytes of path segments between \
     single slashes, such as `cities/FR/00001`"
)]
pub struct KeyError {
    shown: String,
    reason: &'static str,
}

impl DocumentKey {
    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn fault(text: &str) -> Option<&'static str> {
        if text.is_empty() {
            return Some("it is empty");
        }
        if text.len() > DOCUMENT_KEY_BYTES_MAX {
            return Some("it is too long");
        }
        if text.chars().any(char::is_control) {
            return Some("it contains a control character");
        }
        text.split('/').find_map(|segment| match segment {
            "" => Some("it has an empty segment"),
            "." | ".." => Some("`.` and `..` are not segments"),
            _ => None,
        })
    }
}

impl FromStr for DocumentKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        match Self::fault(text) {
            None => Ok(Self(text.to_owned())),
            Some(reason) => Err(KeyError { shown: text.chars().take(80).collect(), reason }),
        }
    }
}

impl fmt::Display for DocumentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for DocumentKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// 16 random bytes drawn at each opening for writing; with space and author they make the Automerge actor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Lineage(pub [u8; 16]);

impl Lineage {
    /// The 20-byte Automerge actor of changes that `author` makes under this lineage.
    pub fn actor(&self, space: &SpaceId, author: &DeviceId) -> [u8; 20] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"syncline/actor/1\0");
        hasher.update(&space.0);
        hasher.update(&author.0);
        hasher.update(&self.0);
        hasher.finalize().as_bytes()[..20].try_into().expect("20 of 32 bytes")
    }
}

/// What a transaction does to one document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// A raw Automerge change chunk by this author's actor of the operation's lineage.
    Change(#[serde(with = "byte_string")] Vec<u8>),
    /// A raw Automerge change chunk made elsewhere: it keeps its actor, which is never 20 bytes long.
    ForeignChange(#[serde(with = "byte_string")] Vec<u8>),
    /// The document ends, as far as the operation's causal past reaches.
    Delete,
}

/// One document's part of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Which document.
    pub key: DocumentKey,
    /// What happens to it.
    pub action: Action,
}

/// The content of a data operation; empty entries make a merging operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transaction {
    /// The author's wall time in milliseconds since 1970: shown, never used to order.
    pub wall_time_ms: u64,
    /// From which the actor of [`Action::Change`] is derived.
    pub lineage: Lineage,
    /// In the order the author applied them.
    #[serde(deserialize_with = "bounded_entries")]
    pub entries: Vec<Entry>,
}

/// Stops at the limit, since millions of the shortest entries fit into an inflated plaintext.
fn bounded_entries<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Entry>, D::Error> {
    struct Entries;
    impl<'de> Visitor<'de> for Entries {
        type Value = Vec<Entry>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {ENTRIES_PER_OPERATION_MAX} entries")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Vec<Entry>, A::Error> {
            let announced = sequence.size_hint().unwrap_or(0);
            if announced > ENTRIES_PER_OPERATION_MAX {
                return Err(serde::de::Error::invalid_length(announced, &self));
            }
            let mut entries = Vec::with_capacity(announced.min(256));
            while let Some(entry) = sequence.next_element()? {
                if entries.len() == ENTRIES_PER_OPERATION_MAX {
                    return Err(serde::de::Error::invalid_length(entries.len() + 1, &self));
                }
                entries.push(entry);
            }
            Ok(entries)
        }
    }
    deserializer.deserialize_seq(Entries)
}

impl Transaction {
    /// The plaintext to seal, padded with zeros to a multiple of `padding` bytes (1: none).
    pub fn to_plaintext(&self, padding: usize) -> Vec<u8> {
        let data = postcard::to_allocvec(self).expect("encoding to memory cannot fail");
        let compressed = (data.len() >= COMPRESSION_BYTES_MIN)
            .then(|| zstd::bulk::compress(&data, COMPRESSION_LEVEL).ok())
            .flatten()
            .filter(|compressed| compressed.len() < data.len());
        let (codec, data) = match compressed {
            Some(compressed) => (CODEC_ZSTD, compressed),
            None => (CODEC_NONE, data),
        };
        let mut out = Vec::with_capacity(data.len() + 8 + padding);
        write_varint(&mut out, data.len() as u64 + 1);
        out.push(codec);
        out.extend_from_slice(&data);
        out.resize(out.len().next_multiple_of(padding.max(1)), 0);
        out
    }

    /// Parses a plaintext; never inflates past [`PLAINTEXT_BYTES_MAX`].
    pub fn from_plaintext(plaintext: &[u8]) -> Result<Self, DecodeError> {
        const WHAT: &str = "transaction";
        let malformed = || DecodeError::Malformed { what: WHAT };
        let (length, rest) = postcard::take_from_bytes::<u64>(plaintext).map_err(|_| malformed())?;
        let (body, padding) =
            usize::try_from(length).ok().and_then(|at| rest.split_at_checked(at)).ok_or_else(malformed)?;
        if padding.iter().any(|byte| *byte != 0) {
            return Err(DecodeError::NotCanonical { what: WHAT });
        }
        let inflated;
        let data = match body.split_first() {
            Some((&CODEC_NONE, data)) => data,
            Some((&CODEC_ZSTD, data)) => {
                inflated = inflate(data)?;
                &inflated
            }
            _ => return Err(malformed()),
        };
        let (transaction, rest): (Self, _) = postcard::take_from_bytes(data).map_err(|_| malformed())?;
        if !rest.is_empty() {
            return Err(DecodeError::NotCanonical { what: WHAT });
        }
        transaction.check()?;
        Ok(transaction)
    }

    /// The limits that both an author and a receiver hold a transaction to.
    pub fn check(&self) -> Result<(), DecodeError> {
        if self.entries.len() > ENTRIES_PER_OPERATION_MAX {
            return Err(DecodeError::TooLarge { what: "transaction's documents", limit: ENTRIES_PER_OPERATION_MAX });
        }
        let too_large = |entry: &Entry| match &entry.action {
            Action::Change(bytes) | Action::ForeignChange(bytes) => bytes.len() > CHANGE_BYTES_MAX,
            Action::Delete => false,
        };
        if self.entries.iter().any(too_large) {
            return Err(DecodeError::TooLarge { what: "document change", limit: CHANGE_BYTES_MAX });
        }
        Ok(())
    }
}

fn inflate(data: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let too_large = DecodeError::TooLarge { what: "transaction's content", limit: PLAINTEXT_BYTES_MAX };
    // The frame names its content's size, so that memory is bounded before a byte is inflated.
    let size = match zstd::zstd_safe::get_frame_content_size(data) {
        Ok(Some(size)) => size,
        _ => return Err(DecodeError::Malformed { what: "compressed transaction" }),
    };
    match usize::try_from(size) {
        Ok(size) if size <= PLAINTEXT_BYTES_MAX => {
            zstd::bulk::decompress(data, size).map_err(|_| DecodeError::Malformed { what: "compressed transaction" })
        }
        _ => Err(too_large),
    }
}

/// Serde for byte strings without per-element calls.
mod byte_string {
    use std::fmt;

    use serde::de::Visitor;
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Vec<u8>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a byte string")
            }

            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transaction(count: usize) -> Transaction {
        let entry = |n: usize| Entry {
            key: format!("cities/FR/{n:05}").parse().unwrap(),
            action: if n == 0 { Action::Delete } else { Action::Change(vec![n as u8; 60]) },
        };
        Transaction {
            wall_time_ms: 1_700_000_000_000,
            lineage: Lineage([3; 16]),
            entries: (0..count).map(entry).collect(),
        }
    }

    #[test]
    fn plaintext_round_trips_plain_compressed_and_padded() {
        for count in [0, 1, 2, 100] {
            for padding in [1, 16, 256] {
                let plaintext = transaction(count).to_plaintext(padding);
                assert_eq!(plaintext.len() % padding, 0);
                assert_eq!(Transaction::from_plaintext(&plaintext).unwrap(), transaction(count));
            }
        }
        assert!(transaction(100).to_plaintext(1).len() < 2000, "a hundred similar entries shrink");
    }

    #[test]
    fn damaged_plaintext_is_an_error() {
        let plaintext = transaction(2).to_plaintext(16);
        for end in 0..plaintext.len() - 16 {
            assert!(Transaction::from_plaintext(&plaintext[..end]).is_err());
        }
        let mut padded = plaintext;
        padded.push(1);
        assert!(Transaction::from_plaintext(&padded).is_err());
    }

    /// A plaintext around the given encoding of a transaction.
    fn around(data: &[u8]) -> Vec<u8> {
        let mut plaintext = Vec::new();
        write_varint(&mut plaintext, data.len() as u64 + 1);
        plaintext.push(CODEC_NONE);
        plaintext.extend_from_slice(data);
        plaintext
    }

    #[test]
    fn nothing_hides_behind_the_entries() {
        let data = postcard::to_allocvec(&transaction(2)).unwrap();
        assert_eq!(Transaction::from_plaintext(&around(&data)).unwrap(), transaction(2));
        let hidden = around(&[data.as_slice(), b"more"].concat());
        assert_eq!(Transaction::from_plaintext(&hidden), Err(DecodeError::NotCanonical { what: "transaction" }));
    }

    #[test]
    fn entries_beyond_the_limit_are_refused_while_they_are_read() {
        let of = |count: usize| {
            let entry = Entry { key: "k".parse().unwrap(), action: Action::Delete };
            Transaction { entries: vec![entry; count], ..transaction(0) }
        };
        let full = of(ENTRIES_PER_OPERATION_MAX);
        assert_eq!(Transaction::from_plaintext(&full.to_plaintext(1)).unwrap(), full);
        let beyond = of(ENTRIES_PER_OPERATION_MAX + 1);
        assert!(beyond.check().is_err() && Transaction::from_plaintext(&beyond.to_plaintext(1)).is_err());
        // A count alone, with no entries behind it, costs no memory.
        let mut data = postcard::to_allocvec(&transaction(0)).unwrap();
        data.pop();
        write_varint(&mut data, u64::MAX >> 1);
        assert!(Transaction::from_plaintext(&around(&data)).is_err());
    }

    #[test]
    fn an_inflating_payload_is_refused_before_it_is_inflated() {
        let bomb = zstd::bulk::compress(&vec![0; PLAINTEXT_BYTES_MAX + 1], 19).unwrap();
        assert!(bomb.len() < 4096);
        let mut plaintext = Vec::new();
        write_varint(&mut plaintext, bomb.len() as u64 + 1);
        plaintext.push(CODEC_ZSTD);
        plaintext.extend_from_slice(&bomb);
        assert!(matches!(Transaction::from_plaintext(&plaintext), Err(DecodeError::TooLarge { .. })));
    }

    #[test]
    fn keys_are_paths() {
        for good in ["a", "cities/FR/00001", "a b/ü/日本", "x/..y"] {
            assert_eq!(good.parse::<DocumentKey>().unwrap().as_str(), good);
        }
        let long = "k".repeat(DOCUMENT_KEY_BYTES_MAX + 1);
        for bad in ["", "/a", "a/", "a//b", "a/../b", ".", "a\nb", "a\0", &long] {
            let error = bad.parse::<DocumentKey>().unwrap_err().to_string();
            assert!(error.contains("is not a document key") && error.len() < 300, "{error}");
        }
    }
}
