//! What travels between two devices over request–response, and its bytes.
//!
//! A request is a [`Message`]; what answers it is a [`Response`], or a [`HelloAnswer`](crate::HelloAnswer) for a hello.
//! All of it is canonical postcard, capped before it is decoded, and checked against the limits before it is used.

use std::fmt;
use std::sync::Arc;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use syncline_model::canonical::{self, DecodeError};
use syncline_model::vector::VECTOR_BUCKETS;
use syncline_model::{DeviceId, IdPrefix, OperationId, SpaceTag};

use crate::hello::Hello;
use crate::limits::{PEER_ENTRIES_MAX, RANGES_MAX, REQUEST_BYTES_MAX, RESPONSE_BYTES_MAX, RUNS_PER_PAGE_MAX};

/// The request–response protocol that all of this is spoken over.
pub const PROTOCOL: &str = "/syncline/sync/1";

const REQUEST: &str = "reconciliation request";
const RESPONSE: &str = "reconciliation response";

/// What one device asks another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Which spaces do we share?
    Hello(Hello),
    /// About one shared space, named by the tag from the asking to the asked device.
    Space {
        /// The space.
        tag: SpaceTag,
        /// The request.
        request: Request,
    },
}

impl Message {
    /// The bytes to send.
    pub fn encode(&self) -> Vec<u8> {
        canonical::encode(self)
    }

    /// Parses received bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let message: Self = decode_capped(bytes, REQUEST, REQUEST_BYTES_MAX)?;
        match &message {
            Self::Hello(hello) => hello.check()?,
            Self::Space { request, .. } => request.check()?,
        }
        Ok(message)
    }
}

/// A question about one space.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// What do you hold that I lack? Here is what I hold.
    Summary {
        /// The first half of the hash over the asking device's vector.
        digest: [u8; 16],
        /// As much of the vector as is worth saying.
        part: Part,
    },
    /// Send me these operations.
    Pull {
        /// What is asked for; never empty.
        ranges: Vec<Range>,
        /// Most bytes of runs that the page should have.
        bytes_max: u32,
    },
    /// Send me the stretch of a branch of an author's log that ends at this operation; answered with a page.
    Branch {
        /// Whose log.
        author: DeviceId,
        /// The operation's position.
        sequence: u64,
        /// The operation.
        id: OperationId,
    },
}

impl Request {
    fn check(&self) -> Result<(), DecodeError> {
        match self {
            Self::Summary { part, .. } => part.check(),
            Self::Pull { ranges, .. } => {
                if ranges.is_empty() || ranges.len() > RANGES_MAX {
                    return Err(DecodeError::TooLarge { what: "list of ranges", limit: RANGES_MAX });
                }
                ranges.iter().try_for_each(Range::check)
            }
            Self::Branch { sequence: 0 | u64::MAX, .. } => {
                Err(DecodeError::NotCanonical { what: "request for a branch" })
            }
            Self::Branch { .. } => Ok(()),
        }
    }
}

/// How much of the asking device's vector a summary says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    /// Only the digest: both sides are thought to be equal.
    Digest,
    /// The whole vector, by author.
    Entries(Vec<SummaryEntry>),
    /// A hash per bucket of the vector, for spaces of many authors.
    Buckets {
        /// The first bucket to be answered.
        from: u8,
        /// One for each of the [`VECTOR_BUCKETS`].
        digests: Vec<[u8; 8]>,
    },
    /// Some entries, by author, in which the asked device was seen to be behind.
    Listed(Vec<SummaryEntry>),
}

impl Part {
    fn check(&self) -> Result<(), DecodeError> {
        match self {
            Self::Digest => Ok(()),
            Self::Entries(entries) | Self::Listed(entries) => check_entries(entries),
            Self::Buckets { digests, .. } if digests.len() == VECTOR_BUCKETS => Ok(()),
            Self::Buckets { .. } => Err(DecodeError::Malformed { what: "bucket digests" }),
        }
    }
}

/// One author's entry in a version vector, as told to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SummaryEntry {
    /// Whose log.
    pub author: DeviceId,
    /// Up to where it is held.
    pub sequence: u64,
    /// The operation there.
    pub id: IdPrefix,
}

/// Checks that entries are few enough, in order, and name positions that exist.
pub(crate) fn check_entries(entries: &[SummaryEntry]) -> Result<(), DecodeError> {
    const WHAT: &str = "vector summary";
    if entries.len() > PEER_ENTRIES_MAX {
        return Err(DecodeError::TooLarge { what: WHAT, limit: PEER_ENTRIES_MAX });
    }
    let sorted = entries.windows(2).all(|pair| pair[0].author < pair[1].author);
    if !sorted || entries.iter().any(|entry| entry.sequence == 0 || entry.sequence == u64::MAX) {
        return Err(DecodeError::NotCanonical { what: WHAT });
    }
    Ok(())
}

/// A stretch of one author's log: what follows `after`, up to and with `through`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// Whose log.
    pub author: DeviceId,
    /// The last position that is not asked for; 0 for the start of the log.
    pub after: u64,
    /// The operation at `after`, if the asking device holds it: another one there means that the author forked.
    pub after_id: Option<IdPrefix>,
    /// The last position asked for.
    pub through: u64,
}

impl Range {
    fn check(&self) -> Result<(), DecodeError> {
        if self.after >= self.through || self.through == u64::MAX || (self.after == 0 && self.after_id.is_some()) {
            return Err(DecodeError::NotCanonical { what: "range of operations" });
        }
        Ok(())
    }

    /// How many operations it spans.
    pub fn operations(&self) -> u64 {
        self.through - self.after
    }
}

/// An answer about one space.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// To a summary.
    Summary(SummaryAnswer),
    /// To a pull.
    Page(Page),
    /// The asking device is not known here as a member.
    NotServed,
    /// Too much is being answered already: ask again later.
    Busy,
}

impl Response {
    /// The bytes to send.
    pub fn encode(&self) -> Vec<u8> {
        canonical::encode(self)
    }

    /// Parses received bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let response: Self = decode_capped(bytes, RESPONSE, RESPONSE_BYTES_MAX)?;
        match &response {
            Self::Summary(SummaryAnswer::Entries { entries, .. }) => check_entries(entries)?,
            Self::Page(page) if page.forked.len() > RANGES_MAX => {
                return Err(DecodeError::TooLarge { what: "list of forks", limit: RANGES_MAX });
            }
            Self::Page(page) if page.runs.len() > RUNS_PER_PAGE_MAX => {
                return Err(DecodeError::TooLarge { what: "list of runs", limit: RUNS_PER_PAGE_MAX });
            }
            _ => {}
        }
        Ok(response)
    }
}

/// How the asked device's vector compares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SummaryAnswer {
    /// Both vectors are the same.
    Equal,
    /// They differ, in more than can be said without bucket digests.
    Differs,
    /// The asked device's entries, by author. Where the request said entries, only those that go beyond them.
    Entries {
        /// Which authors the answer speaks of.
        scope: Scope,
        /// The entries.
        entries: Vec<SummaryEntry>,
        /// The bucket from which to ask on, if the answer had to end before the last one.
        next: Option<u8>,
    },
}

/// Which authors an answer speaks of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scope {
    /// All.
    All,
    /// Those in the buckets whose bit is set (bit `n % 8` of byte `n / 8`).
    Buckets([u8; 32]),
    /// Those that the request listed.
    Listed,
}

/// Operations that were pulled.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// Encoded runs in the order in which their beginnings arrived at the sender.
    pub runs: Vec<RunBytes>,
    /// Ranges whose `after_id` is not what the sender holds there.
    pub forked: Vec<Forked>,
    /// Whether the page's size cut it short.
    pub more: bool,
}

/// The sender of a page holds another operation at this position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forked {
    /// Whose log.
    pub author: DeviceId,
    /// The range's `after`.
    pub sequence: u64,
}

/// An encoded run.
#[derive(Clone, PartialEq, Eq)]
pub struct RunBytes(pub Arc<[u8]>);

impl fmt::Debug for RunBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RunBytes({} bytes)", self.0.len())
    }
}

impl Serialize for RunBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for RunBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl<'de> Visitor<'de> for Bytes {
            type Value = RunBytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<RunBytes, E> {
                Ok(RunBytes(bytes.into()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<RunBytes, A::Error> {
                Err(A::Error::custom("a run is a byte string"))
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

/// Decodes canonical bytes that are not longer than `limit`.
pub(crate) fn decode_capped<'a, T: Serialize + Deserialize<'a>>(
    bytes: &'a [u8],
    what: &'static str,
    limit: usize,
) -> Result<T, DecodeError> {
    if bytes.len() > limit {
        return Err(DecodeError::TooLarge { what, limit });
    }
    canonical::decode(bytes, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(author: u8, sequence: u64) -> SummaryEntry {
        SummaryEntry { author: DeviceId([author; 32]), sequence, id: IdPrefix([3; 16]) }
    }

    fn space(request: Request) -> Message {
        Message::Space { tag: SpaceTag([1; 16]), request }
    }

    #[test]
    fn an_idle_round_takes_less_than_100_bytes() {
        let asked = space(Request::Summary { digest: [1; 16], part: Part::Digest }).encode().len();
        let answered = Response::Summary(SummaryAnswer::Equal).encode().len();
        assert!(asked + answered < 100, "{asked} + {answered}");
    }

    #[test]
    fn messages_round_trip() {
        let range = Range { author: DeviceId([1; 32]), after: 3, after_id: Some(IdPrefix([2; 16])), through: 900 };
        for request in [
            Request::Summary { digest: [1; 16], part: Part::Entries(vec![entry(1, 1), entry(2, 9)]) },
            Request::Summary { digest: [1; 16], part: Part::Buckets { from: 7, digests: vec![[1; 8]; 256] } },
            Request::Summary { digest: [1; 16], part: Part::Listed(vec![entry(1, 1)]) },
            Request::Pull { ranges: vec![range], bytes_max: 9 },
            Request::Branch { author: DeviceId([1; 32]), sequence: 7, id: OperationId([2; 32]) },
        ] {
            let message = space(request);
            assert_eq!(Message::decode(&message.encode()).unwrap(), message);
        }
        let page = Page { runs: vec![RunBytes(vec![1, 2, 3].into())], forked: vec![], more: true };
        for response in [
            Response::Summary(SummaryAnswer::Entries {
                scope: Scope::Buckets([3; 32]),
                entries: vec![entry(1, 4)],
                next: Some(3),
            }),
            Response::Page(page),
            Response::NotServed,
            Response::Busy,
        ] {
            assert_eq!(Response::decode(&response.encode()).unwrap(), response);
        }
    }

    #[test]
    fn shapes_that_no_correct_peer_sends_are_refused() {
        let range = Range { author: DeviceId([1; 32]), after: 3, after_id: None, through: 9 };
        let pull = |ranges: Vec<Range>| Request::Pull { ranges, bytes_max: 9 };
        let entries = |entries: Vec<SummaryEntry>| Request::Summary { digest: [1; 16], part: Part::Entries(entries) };
        for request in [
            pull(vec![]),
            pull(vec![range; RANGES_MAX + 1]),
            pull(vec![Range { through: 3, ..range }]),
            pull(vec![Range { through: u64::MAX, ..range }]),
            pull(vec![Range { after: 0, after_id: Some(IdPrefix([0; 16])), ..range }]),
            entries(vec![entry(2, 1), entry(1, 1)]),
            entries(vec![entry(1, 1), entry(1, 1)]),
            entries(vec![entry(1, 0)]),
            entries(vec![entry(1, u64::MAX)]),
            Request::Branch { author: DeviceId([1; 32]), sequence: 0, id: OperationId([2; 32]) },
            Request::Summary { digest: [1; 16], part: Part::Buckets { from: 0, digests: vec![[1; 8]; 255] } },
        ] {
            assert!(Message::decode(&space(request.clone()).encode()).is_err(), "{request:?}");
        }
        assert!(matches!(Response::decode(&vec![1; RESPONSE_BYTES_MAX + 1]), Err(DecodeError::TooLarge { .. })));
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
            known in any::<bool>(),
        ) {
            if known && !bytes.is_empty() {
                bytes[0] = 1;
            }
            let _ = Message::decode(&bytes);
            let _ = Response::decode(&bytes);
        }
    }
}
