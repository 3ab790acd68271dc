//! The membership log's records: what a steward, or the holder of the recovery key, states.

use serde::{Deserialize, Serialize};

use super::{Role, Strings};
use crate::canonical::{self, DecodeError, signature_bytes};
use crate::ids::{DeviceId, OperationId, SpaceId};
use crate::keys::{DeviceKey, ExchangeKey, verify};
use crate::limits::CONTROL_PAYLOAD_BYTES_MAX;

/// The first record of a space; its hash is the space's id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Genesis {
    /// Who writes the membership log at first.
    pub steward: DeviceId,
    /// The steward's exchange key.
    pub steward_exchange: ExchangeKey,
    /// The ed25519 key whose holder can take the space over when the steward is lost.
    pub recovery: DeviceId,
    /// How strings are stored.
    pub strings: Strings,
    /// Makes two spaces of one steward differ.
    pub nonce: [u8; 16],
}

impl Genesis {
    /// The id of the space that begins with this record.
    pub fn space(&self) -> SpaceId {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"syncline/space/1\0");
        hasher.update(&canonical::encode(self));
        SpaceId(*hasher.finalize().as_bytes())
    }
}

/// A position in a device's log: how far it counts after the device lost the right to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cut {
    /// Whose log.
    pub author: DeviceId,
    /// The last sequence that counts.
    pub sequence: u64,
    /// The operation there.
    pub id: OperationId,
}

/// What a membership record says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Statement {
    /// The space begins.
    Genesis(Genesis),
    /// A period under a new content key and a new replication secret begins.
    Epoch {
        /// 1, 2, 3 …
        epoch: u32,
        /// [`ContentKey::commitment`](crate::ContentKey::commitment) of its key.
        content_commitment: [u8; 32],
        /// [`ReplicationSecret::commitment`](crate::ReplicationSecret::commitment) of its secret.
        replication_commitment: [u8; 32],
        /// The previous epoch's key sealed under this one's, so that newcomers read history.
        previous_key: Option<Vec<u8>>,
    },
    /// Whoever holds this key's secret half may be admitted by any writer.
    Invitation {
        /// The invitation's ed25519 key; its name as well.
        invitation: DeviceId,
        /// The role that it gives.
        role: Role,
        /// How many devices it admits: the sponsor's policy, not a rule of validity.
        uses: u32,
        /// When it ends, in ms since 1970: the sponsor's policy too.
        expires_ms: u64,
    },
    /// An invitation is withdrawn.
    Revocation {
        /// Which.
        invitation: DeviceId,
    },
    /// A device is a member without an invitation.
    Addition {
        /// Which.
        device: DeviceId,
        /// Its exchange key.
        exchange: ExchangeKey,
        /// Its role.
        role: Role,
    },
    /// Devices are members no more, for good; open invitations are closed.
    Removal {
        /// How far each one's log counts.
        cuts: Vec<Cut>,
    },
    /// A device's role changes.
    RoleChange {
        /// Which.
        device: DeviceId,
        /// Its new role.
        role: Role,
        /// How far its log counts when it may write no more; it never writes again then.
        cut: Option<Cut>,
    },
    /// Another device becomes the steward, and the steward a writer.
    Handover {
        /// Which.
        steward: DeviceId,
        /// Its exchange key.
        exchange: ExchangeKey,
    },
    /// The recovery key names a new steward; the former one is removed.
    Takeover(Takeover),
    /// Branches of forked or cut logs count up to these operations.
    Resolve {
        /// The branch heads.
        heads: Vec<Cut>,
    },
    /// Whether newcomers are given the keys of what was written before.
    History {
        /// Whether.
        shared: bool,
    },
}

/// What the holder of the recovery key states in place of the steward. It stands in the new steward's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Takeover {
    /// Who becomes the steward, and writes this record.
    pub steward: DeviceId,
    /// Its exchange key.
    pub exchange: ExchangeKey,
    /// How far the former steward's log counts; nothing of it when the sequence is 0.
    pub cut: Cut,
    /// The highest one counts; of equal ones the record with the smaller hash.
    pub counter: u64,
    /// By the recovery key over the rest and the record's place.
    #[serde(with = "signature_bytes")]
    signature: [u8; 64],
}

impl Takeover {
    /// A takeover that stands in the chain after the record at `sequence - 1`, which hashes to `previous`.
    pub fn new(
        space: &SpaceId,
        (sequence, previous): (u64, [u8; 32]),
        (steward, exchange): (DeviceId, ExchangeKey),
        cut: Cut,
        counter: u64,
        recovery: &DeviceKey,
    ) -> Self {
        let mut takeover = Self { steward, exchange, cut, counter, signature: [0; 64] };
        takeover.signature = recovery.sign(&takeover.signed_text(space, sequence, previous));
        takeover
    }

    /// Whether the recovery key signed it for this place in the chain.
    pub fn holds(&self, space: &SpaceId, sequence: u64, previous: [u8; 32], recovery: &DeviceId) -> bool {
        verify(recovery, &self.signed_text(space, sequence, previous), &self.signature)
    }

    fn signed_text(&self, space: &SpaceId, sequence: u64, previous: [u8; 32]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("syncline takeover 1");
        for part in [&space.0, &previous, &self.steward.0, &self.exchange.0, &self.cut.author.0, &self.cut.id.0] {
            hasher.update(part);
        }
        for number in [sequence, self.cut.sequence, self.counter] {
            hasher.update(&number.to_le_bytes());
        }
        *hasher.finalize().as_bytes()
    }
}

/// One record of the membership log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// 1, 2, 3 …
    pub sequence: u64,
    /// The hash of the record before it; zero for the genesis.
    pub previous: [u8; 32],
    /// When its author's clock says it was written, in ms since 1970: shown, never used to decide.
    pub wall_time_ms: u64,
    /// What it says.
    pub statement: Statement,
}

impl Record {
    /// The canonical bytes: the payload of a membership operation.
    pub fn encode(&self) -> Vec<u8> {
        canonical::encode(self)
    }

    /// Parses a membership operation's payload.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        bounded(bytes, "membership record")?;
        canonical::decode(bytes, "membership record")
    }

    /// What the next record names as `previous`.
    pub fn hash(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"syncline/membership-record/1\0");
        hasher.update(&self.encode());
        *hasher.finalize().as_bytes()
    }
}

pub(super) fn bounded(bytes: &[u8], what: &'static str) -> Result<(), DecodeError> {
    if bytes.len() > CONTROL_PAYLOAD_BYTES_MAX {
        return Err(DecodeError::TooLarge { what, limit: CONTROL_PAYLOAD_BYTES_MAX });
    }
    Ok(())
}
