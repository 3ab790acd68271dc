//! The hello: how two devices find the spaces that they share without telling of others.
//!
//! For each of its spaces the asking device shows a tag keyed by the space's replication secret and both device ids.
//! Who does not hold the secret sees random bytes. The answer names the shared ones and bears the tag of the opposite
//! direction for each, so that one round trip proves to both sides that the other one knows the secret. Neither proves
//! current membership: that is asked of the membership when something is to be served.
//!
//! A space has a secret for each epoch, and members learn of a new one at different times. Tags are shown for all that
//! a device holds, and the two devices use the latest that they share.
//!
//! The hello belongs to the node, not to a space, so its functions are pure and the engine knows nothing of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use syncline_model::canonical::{self, DecodeError};
use syncline_model::{DeviceId, ReplicationSecret, SpaceId, SpaceTag};

use crate::limits::{HELLO_TAGS_MAX, RESPONSE_BYTES_MAX};
use crate::messages::decode_capped;

const HELLO: &str = "hello";
const ANSWER: &str = "hello answer";

/// The spaces of one device, as they look towards another one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The tags from the asking to the asked device, sorted, at most [`HELLO_TAGS_MAX`].
    pub tags: Vec<SpaceTag>,
}

/// Which spaces of a hello are shared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloAnswer {
    /// The shared ones, by index.
    pub shared: Vec<Shared>,
}

/// One shared space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shared {
    /// Where its tag stands in the hello.
    pub index: u32,
    /// The tag from the answering to the asking device: the proof that it knows the secret too.
    pub proof: SpaceTag,
}

/// The tags of the spaces in common between the local device and one peer, in both directions.
#[derive(Debug, Clone, Default)]
pub struct PeerTags {
    /// From the local device to the peer → the space in an epoch and the peer's tag for it.
    outgoing: BTreeMap<SpaceTag, (SharedSpace, SpaceTag)>,
    /// From the peer to the local device → the space in an epoch.
    incoming: BTreeMap<SpaceTag, SharedSpace>,
}

/// A space that two devices share, as the local one names it to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SharedSpace {
    /// The space.
    pub space: SpaceId,
    /// The latest epoch of which both know the secret.
    pub epoch: u32,
    /// The tag from the local device to the peer.
    pub tag: SpaceTag,
}

impl PeerTags {
    /// Computes the tags of `spaces` in the epochs whose secrets are given, between `local` and `peer`.
    pub fn new<'a>(
        local: &DeviceId,
        peer: &DeviceId,
        spaces: impl IntoIterator<Item = (SpaceId, u32, &'a ReplicationSecret)>,
    ) -> Self {
        let mut tags = Self::default();
        for (space, epoch, secret) in spaces {
            let (tag, incoming) = (secret.tag(local, peer), secret.tag(peer, local));
            let shared = SharedSpace { space, epoch, tag };
            tags.outgoing.insert(tag, (shared, incoming));
            tags.incoming.insert(incoming, shared);
        }
        tags
    }

    /// What to ask the peer; spaces beyond [`HELLO_TAGS_MAX`] come in further hellos.
    pub fn hellos(&self) -> Vec<Hello> {
        let tags: Vec<SpaceTag> = self.outgoing.keys().copied().collect();
        tags.chunks(HELLO_TAGS_MAX).map(|tags| Hello { tags: tags.to_vec() }).collect()
    }

    /// The space that a tag from the peer names.
    pub fn space(&self, tag: &SpaceTag) -> Option<SpaceId> {
        self.incoming.get(tag).map(|shared| shared.space)
    }

    /// Answers the peer's hello, and says which spaces it proves to know.
    pub fn answer(&self, hello: &Hello) -> (HelloAnswer, Vec<SharedSpace>) {
        let known = hello.tags.iter().zip(0u32..);
        let found: Vec<(u32, SharedSpace)> =
            known.filter_map(|(tag, index)| Some((index, *self.incoming.get(tag)?))).collect();
        let shared = found.iter().map(|(index, shared)| Shared { index: *index, proof: shared.tag }).collect();
        (HelloAnswer { shared }, latest(found.into_iter().map(|(_, shared)| shared)))
    }

    /// The spaces that the peer's answer to `hello` proves to be shared; unproven claims are left out.
    pub fn shared(&self, hello: &Hello, answer: &HelloAnswer) -> Vec<SharedSpace> {
        let proven = |shared: &Shared| {
            let (space, incoming) = self.outgoing.get(hello.tags.get(shared.index as usize)?)?;
            (*incoming == shared.proof).then_some(*space)
        };
        latest(answer.shared.iter().filter_map(proven))
    }
}

/// Of each space the latest epoch.
fn latest(shared: impl Iterator<Item = SharedSpace>) -> Vec<SharedSpace> {
    let mut by_space = BTreeMap::new();
    for one in shared {
        let latest = by_space.entry(one.space).or_insert(one);
        *latest = one.max(*latest);
    }
    by_space.into_values().collect()
}

impl Hello {
    /// Checks that the tags are few enough and in order.
    pub(crate) fn check(&self) -> Result<(), DecodeError> {
        if self.tags.len() > HELLO_TAGS_MAX {
            return Err(DecodeError::TooLarge { what: HELLO, limit: HELLO_TAGS_MAX });
        }
        if !self.tags.windows(2).all(|pair| pair[0] < pair[1]) {
            return Err(DecodeError::NotCanonical { what: HELLO });
        }
        Ok(())
    }
}

impl HelloAnswer {
    /// The bytes to send.
    pub fn encode(&self) -> Vec<u8> {
        canonical::encode(self)
    }

    /// Parses received bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let answer: Self = decode_capped(bytes, ANSWER, RESPONSE_BYTES_MAX)?;
        if answer.shared.len() > HELLO_TAGS_MAX {
            return Err(DecodeError::TooLarge { what: ANSWER, limit: HELLO_TAGS_MAX });
        }
        if !answer.shared.windows(2).all(|pair| pair[0].index < pair[1].index) {
            return Err(DecodeError::NotCanonical { what: ANSWER });
        }
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::Message;

    const ALICE: DeviceId = DeviceId([1; 32]);
    const BOB: DeviceId = DeviceId([2; 32]);

    fn tags(local: &DeviceId, peer: &DeviceId, spaces: &[u8]) -> PeerTags {
        let secrets: Vec<_> =
            spaces.iter().map(|byte| (SpaceId([*byte; 32]), ReplicationSecret([*byte; 32]))).collect();
        PeerTags::new(local, peer, secrets.iter().map(|(space, secret)| (*space, 1, secret)))
    }

    fn spaces(shared: Vec<SharedSpace>) -> Vec<SpaceId> {
        shared.into_iter().map(|shared| shared.space).collect()
    }

    #[test]
    fn of_several_epochs_the_latest_common_one_is_used() {
        let space = SpaceId([1; 32]);
        let secrets: Vec<_> = (1..=4).map(|epoch| (epoch, ReplicationSecret([epoch as u8; 32]))).collect();
        let of = |local: &DeviceId, peer: &DeviceId, epochs: &[u32]| {
            let held = secrets.iter().filter(|(epoch, _)| epochs.contains(epoch));
            PeerTags::new(local, peer, held.map(|(epoch, secret)| (space, *epoch, secret)))
        };
        let (alice, bob) = (of(&ALICE, &BOB, &[1, 2, 3, 4]), of(&BOB, &ALICE, &[2, 3]));
        let hello = alice.hellos().remove(0);
        let (answer, seen_by_bob) = bob.answer(&hello);
        let seen_by_alice = alice.shared(&hello, &answer);
        assert_eq!(seen_by_alice.iter().map(|shared| shared.epoch).collect::<Vec<_>>(), [3]);
        assert_eq!(seen_by_bob.iter().map(|shared| shared.epoch).collect::<Vec<_>>(), [3]);
        assert_eq!(bob.space(&seen_by_alice[0].tag), Some(space));
        assert_eq!(alice.space(&seen_by_bob[0].tag), Some(space));
    }

    #[test]
    fn one_round_trip_proves_the_shared_spaces_to_both() {
        let (alice, bob) = (tags(&ALICE, &BOB, &[1, 2, 3]), tags(&BOB, &ALICE, &[2, 3, 4]));
        let hello = alice.hellos().remove(0);
        assert_eq!(Message::decode(&Message::Hello(hello.clone()).encode()), Ok(Message::Hello(hello.clone())));
        let (answer, seen_by_bob) = bob.answer(&hello);
        let answer = HelloAnswer::decode(&answer.encode()).unwrap();
        let (mut seen_by_alice, mut seen_by_bob) = (spaces(alice.shared(&hello, &answer)), spaces(seen_by_bob));
        seen_by_alice.sort();
        seen_by_bob.sort();
        assert_eq!(seen_by_alice, [SpaceId([2; 32]), SpaceId([3; 32])]);
        assert_eq!(seen_by_bob, seen_by_alice);
    }

    #[test]
    fn a_claim_without_the_secret_proves_nothing() {
        let alice = tags(&ALICE, &BOB, &[1]);
        let hello = alice.hellos().remove(0);
        let echoed = HelloAnswer { shared: vec![Shared { index: 0, proof: hello.tags[0] }] };
        assert!(alice.shared(&hello, &echoed).is_empty());
        let beyond = HelloAnswer { shared: vec![Shared { index: 9, proof: hello.tags[0] }] };
        assert!(alice.shared(&hello, &beyond).is_empty());
    }

    #[test]
    fn tags_shown_to_one_peer_say_nothing_to_another() {
        let eve = DeviceId([3; 32]);
        let hello = tags(&ALICE, &BOB, &[1]).hellos().remove(0);
        assert!(tags(&eve, &ALICE, &[1]).answer(&hello).1.is_empty());
        assert!(Message::decode(&Message::Hello(Hello { tags: vec![hello.tags[0]; 2] }).encode()).is_err());
    }
}
