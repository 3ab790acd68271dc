//! Materialised documents kept in the index, so that loading does not begin at the first change.
//!
//! ```text
//! value = generation u32 ‖ complete u64 ‖ sealed(postcard(Body))
//! ```
//!
//! A snapshot counts only if its generation is the document's present one; `complete` says how many of the document's
//! references it contains. Both and the key are bound by the seal. The content is plain text of a member of the space,
//! so it is sealed with a key that never leaves this device.

use std::collections::BTreeSet;

use rand::SeedableRng;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};
use syncline_model::keys::{open, seal};
use syncline_model::{ContentKey, DocumentKey};

use super::catalog::{BlockedRecord, encode};
use super::change::ChangeHash;
use super::document::Document;

/// Largest snapshot that is kept, in bytes.
const SNAPSHOT_BYTES_MAX: usize = 256 << 20;
const HEADER_BYTES: usize = 12;

/// A document that contains the first `complete` of its references.
#[derive(Debug, Clone)]
pub(super) struct Loaded {
    pub(super) document: Document,
    /// The generation of the catalog entry that it was made from.
    pub(super) generation: u32,
    /// How many references of the document it is made of, those that are deleted or blocked included.
    pub(super) complete: u64,
    /// What `complete` was when it was last saved.
    pub(super) saved: u64,
    /// The changes that are not part of it, by reference.
    pub(super) blocked: Vec<BlockedRecord>,
    /// Changes that would unblock others if they came.
    pub(super) awaited: BTreeSet<ChangeHash>,
    /// Actors and sequences of blocked changes: another change with one of them is their rival.
    pub(super) claimed: BTreeSet<(Vec<u8>, u64)>,
}

impl Loaded {
    /// An empty document.
    pub(super) fn empty(generation: u32, complete: u64) -> Self {
        let document = Document::new();
        let (awaited, claimed) = (BTreeSet::new(), BTreeSet::new());
        Self { document, generation, complete, saved: 0, blocked: Vec::new(), awaited, claimed }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Body {
    heads: Vec<ChangeHash>,
    blocked: Vec<BlockedRecord>,
    awaited: BTreeSet<ChangeHash>,
    claimed: BTreeSet<(Vec<u8>, u64)>,
    document: Vec<u8>,
}

/// A snapshot whose frame was read.
#[derive(Debug, Clone)]
pub(super) struct Snapshot {
    pub(super) generation: u32,
    pub(super) complete: u64,
    sealed: Vec<u8>,
}

impl Snapshot {
    /// Reads the frame of a stored snapshot.
    pub(super) fn parse(mut value: Vec<u8>) -> Option<Self> {
        let (generation, rest) = value.split_first_chunk::<4>()?;
        let complete = rest.first_chunk::<8>()?;
        let (generation, complete) = (u32::from_le_bytes(*generation), u64::from_le_bytes(*complete));
        Some(Self { generation, complete, sealed: value.split_off(HEADER_BYTES) })
    }

    /// Opens and loads it; `None` when it is damaged, sealed with another key, or not what it says.
    pub(super) fn load(&self, key: &DocumentKey, seal_key: &ContentKey) -> Option<Loaded> {
        let header = header(self.generation, self.complete);
        let plain = open(seal_key, &bound(key, &header), &self.sealed).ok()?;
        let body: Body = postcard::from_bytes(&plain).ok()?;
        let document = Document::load(&body.document).ok()?;
        if document.heads() != body.heads {
            return None;
        }
        Some(Loaded {
            document,
            generation: self.generation,
            complete: self.complete,
            saved: self.complete,
            blocked: body.blocked,
            awaited: body.awaited,
            claimed: body.claimed,
        })
    }

    /// About how many bytes the document will take.
    pub(super) fn bytes(&self) -> usize {
        // Loaded documents take some times the bytes of their compressed form.
        self.sealed.len().saturating_mul(4)
    }

    /// The stored form of a document; `None` when it is too large to keep.
    pub(super) fn save(loaded: &Loaded, key: &DocumentKey, seal_key: &ContentKey, seed: [u8; 32]) -> Option<Vec<u8>> {
        let body = Body {
            heads: loaded.document.heads(),
            blocked: loaded.blocked.clone(),
            awaited: loaded.awaited.clone(),
            claimed: loaded.claimed.clone(),
            document: loaded.document.save(),
        };
        let plain = encode(&body);
        if plain.len() > SNAPSHOT_BYTES_MAX {
            return None;
        }
        let mut value = header(loaded.generation, loaded.complete).to_vec();
        let sealed = seal(seal_key, &bound(key, &value), &plain, &mut StdRng::from_seed(seed));
        value.extend_from_slice(&sealed);
        Some(value)
    }
}

fn header(generation: u32, complete: u64) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(&generation.to_le_bytes());
    header[4..].copy_from_slice(&complete.to_le_bytes());
    header
}

/// What the seal vouches for beside the content.
fn bound(key: &DocumentKey, header: &[u8]) -> Vec<u8> {
    [b"syncline/snapshot/1\0", header, key.as_str().as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documents::{Edit, StringMode};

    #[test]
    fn a_snapshot_loads_only_unchanged_and_with_its_key() {
        let key: DocumentKey = "a/b".parse().unwrap();
        let mut loaded = Loaded::empty(3, 9);
        let edit = Edit::Put(serde_json::json!({"x": 1}));
        loaded.document.edit(&[7; 20], &[edit], StringMode::Scalar).unwrap();
        let value = Snapshot::save(&loaded, &key, &ContentKey([1; 32]), [5; 32]).unwrap();
        let load = |value: &[u8], key: &DocumentKey, seal_key| Snapshot::parse(value.to_vec())?.load(key, &seal_key);
        let found = load(&value, &key, ContentKey([1; 32])).unwrap();
        assert_eq!((found.generation, found.complete), (3, 9));
        assert_eq!(found.document.view(), serde_json::json!({"x": 1}));
        assert!(load(&value, &key, ContentKey([2; 32])).is_none());
        assert!(load(&value, &"a/c".parse().unwrap(), ContentKey([1; 32])).is_none());
        for at in [0, 4, HEADER_BYTES, value.len() - 1] {
            let mut changed = value.clone();
            changed[at] ^= 1;
            assert!(load(&changed, &key, ContentKey([1; 32])).is_none(), "byte {at}");
        }
        assert!(Snapshot::parse(vec![0; 5]).is_none());
    }
}
