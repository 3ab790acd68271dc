//! Equivocation: an author that wrote two operations at one position of its log, and the proof of it.
//!
//! A proof holds both stretches of the log as headers and payload hashes, from the first position at which they differ
//! to a signature each. Whoever reads it needs nothing else, so it can be passed on. It travels as the payload of an
//! operation of kind [`Kind::EQUIVOCATION`](crate::Kind::EQUIVOCATION) in the log of a device that saw both stretches.

use serde::{Deserialize, Serialize};

use crate::canonical::{self, DecodeError, signature_bytes};
use crate::ids::{DeviceId, OperationId, SpaceId};
use crate::keys::verify;
use crate::limits::{CONTROL_PAYLOAD_BYTES_MAX, RUN_OPERATIONS_MAX};
use crate::operation::{Dependency, Header, Kind};
use crate::planted::{Bug, planted};
use crate::run::Run;

/// The name under which a branch of a forked log is held: it stands where an author stands.
///
/// What a device holds first of a log keeps the author's own name; `first` is the branch's first operation that
/// differs from it.
pub fn branch_log(author: &DeviceId, first: &OperationId) -> DeviceId {
    let mut hasher = blake3::Hasher::new_derive_key("syncline branch of a log 1");
    hasher.update(&author.0);
    hasher.update(&first.0);
    DeviceId(*hasher.finalize().as_bytes())
}

/// Two stretches of one log that differ at their first operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForkProof {
    /// Whose log.
    pub author: DeviceId,
    /// The position at which it has two operations.
    pub sequence: u64,
    /// The operation before it.
    previous: OperationId,
    /// The stretches, the one with the smaller first id first.
    stretches: [Stretch; 2],
}

/// Operations from the fork to a signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stretch {
    links: Vec<Link>,
    #[serde(with = "signature_bytes")]
    signature: [u8; 64],
}

/// What an operation's id covers and its neighbours do not tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Link {
    kind: Kind,
    membership: u64,
    epoch: u32,
    dependencies: Vec<Dependency>,
    payload_length: u32,
    payload_hash: [u8; 32],
}

impl ForkProof {
    /// The proof that two runs of one log contain; None when they do not differ where they overlap, or when it would
    /// be longer than a control payload may be.
    pub fn of(one: &Run, other: &Run) -> Option<Self> {
        if one.author() != other.author() || one.space() != other.space() {
            return None;
        }
        let overlap = one.first().max(other.first())..=one.last().min(other.last());
        let differs = |sequence: &u64| {
            let ids = [one, other].map(|run| run.operation(*sequence).map(|operation| operation.id));
            ids[0] != ids[1]
        };
        let sequence = overlap.into_iter().find(differs)?;
        let previous = [one, other].map(|run| run.header(sequence).map(|header| header.previous));
        let [Some(previous), Some(same)] = previous else { return None };
        if previous != same {
            return None;
        }
        let mut runs = [one, other];
        runs.sort_by_key(|run| run.operation(sequence).map(|operation| operation.id));
        let stretches = runs.map(|run| Stretch::of(run, sequence));
        let proof = Self { author: one.author(), sequence, previous, stretches };
        (canonical::encode(&proof).len() <= CONTROL_PAYLOAD_BYTES_MAX).then_some(proof)
    }

    /// The operation before the fork.
    pub fn previous(&self) -> OperationId {
        self.previous
    }

    /// Whether both stretches are the author's.
    pub fn holds(&self, space: &SpaceId) -> bool {
        let begins = self.stretches.each_ref().map(|stretch| stretch.ids(space, self));
        let [Some(one), Some(other)] = begins else { return false };
        let signed = self.stretches.iter().zip([&one, &other]).all(|(stretch, ids)| {
            let last = ids.last().expect("a stretch has operations");
            verify(&self.author, &last.0, &stretch.signature) || planted(Bug::ForkUnproven)
        });
        one[0] < other[0] && signed
    }

    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        canonical::encode(self)
    }

    /// Parses a proof; whether it holds is another question.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        const WHAT: &str = "proof of a fork";
        if bytes.len() > CONTROL_PAYLOAD_BYTES_MAX {
            return Err(DecodeError::TooLarge { what: WHAT, limit: CONTROL_PAYLOAD_BYTES_MAX });
        }
        let proof: Self = canonical::decode(bytes, WHAT)?;
        let fits = |stretch: &Stretch| (1..=RUN_OPERATIONS_MAX).contains(&stretch.links.len());
        let begins = (proof.sequence == 1) == (proof.previous == OperationId::ZERO);
        let ends = proof.sequence > 0 && proof.sequence < u64::MAX - RUN_OPERATIONS_MAX as u64;
        if !proof.stretches.iter().all(fits) || !begins || !ends {
            return Err(DecodeError::Malformed { what: WHAT });
        }
        Ok(proof)
    }
}

impl Stretch {
    fn of(run: &Run, from: u64) -> Self {
        let link = |sequence: u64| {
            let (header, operation) = (run.header(sequence)?, run.operation(sequence)?);
            let Header { kind, membership, epoch, dependencies, payload_length, .. } = header;
            let payload_hash = *blake3::hash(run.payload(operation)).as_bytes();
            Some(Link { kind, membership, epoch, dependencies, payload_length, payload_hash })
        };
        Self { links: (from..=run.last()).filter_map(link).collect(), signature: run.signature() }
    }

    /// The ids of its operations.
    fn ids(&self, space: &SpaceId, proof: &ForkProof) -> Option<Vec<OperationId>> {
        let mut previous = proof.previous;
        let mut ids = Vec::with_capacity(self.links.len());
        for (link, sequence) in self.links.iter().zip(proof.sequence..) {
            let header = Header {
                kind: link.kind,
                space: *space,
                author: proof.author,
                sequence,
                previous,
                membership: link.membership,
                epoch: link.epoch,
                dependencies: link.dependencies.clone(),
                payload_length: link.payload_length,
            };
            previous = header.id(&blake3::Hash::from_bytes(link.payload_hash));
            ids.push(previous);
        }
        (!ids.is_empty()).then_some(ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::DeviceKey;
    use crate::run::{RunBuilder, VerifiedRun};

    const SPACE: SpaceId = SpaceId([1; 32]);

    fn run(key: &DeviceKey, after: u64, previous: OperationId, payloads: &[&[u8]]) -> VerifiedRun {
        let mut builder = RunBuilder::new(SPACE, key.id(), after + 1, previous);
        for payload in payloads {
            let (head, previous) = builder.head();
            let header = Header {
                kind: Kind::DATA,
                space: SPACE,
                author: key.id(),
                sequence: head + 1,
                previous,
                membership: 2,
                epoch: 1,
                dependencies: Vec::new(),
                payload_length: payload.len() as u32,
            };
            builder.push(&header, |_| payload.to_vec()).unwrap();
        }
        builder.finish(key).unwrap()
    }

    #[test]
    fn two_runs_that_part_are_a_proof_that_anybody_can_check() {
        let key = DeviceKey::from_seed(&[1; 32]);
        let one = run(&key, 0, OperationId::ZERO, &[b"a", b"b", b"c"]);
        let other = run(&key, 0, OperationId::ZERO, &[b"a", b"x", b"c", b"d"]);
        let proof = ForkProof::of(&one, &other).unwrap();
        assert_eq!((proof.author, proof.sequence), (key.id(), 2));
        assert_eq!(ForkProof::of(&other, &one).unwrap(), proof, "whoever finds it makes the same");
        let read = ForkProof::decode(&proof.encode()).unwrap();
        assert!(read.holds(&SPACE));
        assert!(!read.holds(&SpaceId([2; 32])), "it says nothing of another space");
        assert!(!ForkProof { author: DeviceKey::from_seed(&[2; 32]).id(), ..read.clone() }.holds(&SPACE));
        assert!(!ForkProof { sequence: 3, ..read.clone() }.holds(&SPACE));
        let mut changed = read.clone();
        changed.stretches[1].links[0].payload_hash[0] ^= 1;
        assert!(!changed.holds(&SPACE));
        let mut twice = read;
        twice.stretches[1] = twice.stretches[0].clone();
        assert!(!twice.holds(&SPACE), "one stretch is no fork");
    }

    #[test]
    fn one_log_in_two_pieces_is_no_proof() {
        let key = DeviceKey::from_seed(&[1; 32]);
        let whole = run(&key, 0, OperationId::ZERO, &[b"a", b"b", b"c"]);
        let part = run(&key, 1, whole.operation(1).unwrap().id, &[b"b"]);
        assert!(ForkProof::of(&whole, &part).is_none());
        let elsewhere = run(&key, 3, whole.last_id(), &[b"d"]);
        assert!(ForkProof::of(&whole, &elsewhere).is_none(), "they do not overlap");
    }
}
