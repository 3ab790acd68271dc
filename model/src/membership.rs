//! Membership: records written by the steward, admissions written by sponsors, and the state they add up to.
//!
//! Records travel as operations of kind [`Kind::MEMBERSHIP`](crate::Kind::MEMBERSHIP) in the steward's log and form a
//! chain of their own. A space's id is the hash of its genesis, so the first record proves itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::canonical::{self, DecodeError, signature_bytes};
use crate::ids::{DeviceId, OperationId, SpaceId};
use crate::keys::{DeviceKey, ExchangeKey, SpaceTag, WrappedSecret, verify};
use crate::limits::{CONTROL_PAYLOAD_BYTES_MAX, INVITATIONS_MAX, MEMBERS_MAX};
use crate::planted::{Bug, planted};

/// What a device may do in a space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Role {
    /// Writes documents and the membership log; exactly one at a time.
    Steward,
    /// Writes documents and admits devices.
    Writer,
    /// Reads documents.
    Reader,
    /// Stores and forwards operations that it cannot read.
    Relay,
}

impl Role {
    /// Whether it may have a log of its own.
    pub fn writes(self) -> bool {
        matches!(self, Self::Steward | Self::Writer)
    }

    /// Whether it is given content keys.
    pub fn reads(self) -> bool {
        self != Self::Relay
    }

    /// The name a person types and reads.
    pub fn name(self) -> &'static str {
        match self {
            Self::Steward => "steward",
            Self::Writer => "writer",
            Self::Reader => "reader",
            Self::Relay => "relay",
        }
    }
}

/// How a JSON string is stored in documents of a space.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Strings {
    /// As a scalar: the last writer wins, the other value stays readable as a conflict.
    #[default]
    Scalar,
    /// As collaborative text.
    Text,
}

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

/// How far the log of a device counts after it lost the right to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// Whose log.
    pub author: DeviceId,
    /// The last sequence that counts.
    pub sequence: u64,
    /// The operation there.
    pub id: OperationId,
}

/// What a membership record says.
///
/// This release acts on genesis, epoch and invitation. The others parse, are stored and forwarded.
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
    /// Devices are members no more.
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
        /// How far its log counts when it may write no more.
        cut: Option<Cut>,
    },
    /// Another device becomes the steward.
    Handover {
        /// Which.
        steward: DeviceId,
        /// Higher ones win.
        counter: u64,
    },
    /// The recovery key names a new steward.
    Takeover {
        /// Which.
        steward: DeviceId,
        /// Its exchange key.
        exchange: ExchangeKey,
        /// How far the former steward's log counts.
        cut: Cut,
        /// Higher ones win.
        counter: u64,
        /// By the recovery key over the rest.
        #[serde(with = "signature_bytes")]
        signature: [u8; 64],
    },
    /// Branches of forked or cut logs count up to these operations.
    Resolve {
        /// The branch heads.
        heads: Vec<Cut>,
    },
}

/// One record of the membership log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// 1, 2, 3 …
    pub sequence: u64,
    /// The hash of the record before it; zero for the genesis.
    pub previous: [u8; 32],
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

fn bounded(bytes: &[u8], what: &'static str) -> Result<(), DecodeError> {
    if bytes.len() > CONTROL_PAYLOAD_BYTES_MAX {
        return Err(DecodeError::TooLarge { what, limit: CONTROL_PAYLOAD_BYTES_MAX });
    }
    Ok(())
}

/// A device's application to be admitted: its own word for its exchange key, and the invitation's word for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Who wants to be admitted.
    pub device: DeviceId,
    /// The key to wrap secrets to.
    pub exchange: ExchangeKey,
    /// Under which invitation.
    pub invitation: DeviceId,
    /// By the device.
    #[serde(with = "signature_bytes")]
    device_signature: [u8; 64],
    /// By the invitation's key.
    #[serde(with = "signature_bytes")]
    invitation_signature: [u8; 64],
}

impl Certificate {
    /// Applies for `device` with the secret half of an invitation.
    pub fn new(space: &SpaceId, device: &DeviceKey, invitation: &DeviceKey) -> Self {
        let (id, exchange) = (device.id(), device.exchange_public());
        let text = Self::signed_text(space, &id, &exchange, &invitation.id());
        let (device_signature, invitation_signature) = (device.sign(&text), invitation.sign(&text));
        Self { device: id, exchange, invitation: invitation.id(), device_signature, invitation_signature }
    }

    /// Whether both signatures hold for `space`.
    pub fn holds(&self, space: &SpaceId) -> bool {
        let text = Self::signed_text(space, &self.device, &self.exchange, &self.invitation);
        verify(&self.device, &text, &self.device_signature)
            && verify(&self.invitation, &text, &self.invitation_signature)
    }

    fn signed_text(space: &SpaceId, device: &DeviceId, exchange: &ExchangeKey, invitation: &DeviceId) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("syncline admission certificate 1");
        for part in [&space.0, &device.0, &exchange.0, &invitation.0] {
            hasher.update(part);
        }
        *hasher.finalize().as_bytes()
    }
}

/// The payload of an admit operation: a sponsor lets a device in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admit {
    /// The device's application.
    pub certificate: Certificate,
}

impl Admit {
    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        canonical::encode(self)
    }

    /// Parses an admit operation's payload.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        bounded(bytes, "admission")?;
        canonical::decode(bytes, "admission")
    }
}

/// The payload of a key delivery: a holder wraps an epoch's secrets for one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyDelivery {
    /// For whom.
    pub recipient: DeviceId,
    /// Of which epoch.
    pub epoch: u32,
    /// The content key; relays get none.
    pub content: Option<WrappedSecret>,
    /// The replication secret.
    pub replication: WrappedSecret,
}

impl KeyDelivery {
    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        canonical::encode(self)
    }

    /// Parses a key delivery's payload.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        bounded(bytes, "key delivery")?;
        canonical::decode(bytes, "key delivery")
    }

    /// What binds a wrapped secret to its place.
    pub fn info(space: &SpaceId, epoch: u32, recipient: &DeviceId, purpose: &str) -> Vec<u8> {
        [b"syncline/key-delivery/1\0".as_slice(), &space.0, &epoch.to_le_bytes(), &recipient.0, purpose.as_bytes()]
            .concat()
    }
}

/// The tag by which a joiner and a sponsor recognise an invitation without naming it to others.
pub fn invitation_tag(invitation: &DeviceId, from: &DeviceId, to: &DeviceId) -> SpaceTag {
    SpaceTag::keyed(&blake3::derive_key("syncline invitation tag 1", &invitation.0), from, to)
}

/// A device in a space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// What it may do.
    pub role: Role,
    /// The key to wrap secrets to.
    pub exchange: ExchangeKey,
    /// What let it in, by sponsor and invitation, each with its first admission; empty for the genesis' steward.
    pub admissions: Vec<AdmittedBy>,
}

/// One admit operation that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdmittedBy {
    /// Who wrote it.
    pub sponsor: DeviceId,
    /// Where in the sponsor's log.
    pub sequence: u64,
    /// Under which invitation.
    pub invitation: DeviceId,
    /// The role it gave.
    pub role: Role,
}

/// An open invitation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Invitation {
    /// The role it gives.
    pub role: Role,
    /// How many devices it admits.
    pub uses: u32,
    /// When it ends, in ms since 1970.
    pub expires_ms: u64,
    /// The sequence of the record that opened it.
    pub record: u64,
}

/// An epoch's public facts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Epoch {
    /// What its content key must hash to.
    pub content_commitment: [u8; 32],
    /// What its replication secret must hash to.
    pub replication_commitment: [u8; 32],
    /// The sequence of the record that began it.
    pub record: u64,
}

/// Why a control operation does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MembershipError {
    /// The payload does not parse.
    #[error("the payload does not parse")]
    Malformed,
    /// Only the steward writes membership records.
    #[error("its author is not the steward")]
    NotSteward,
    /// Only writers admit devices.
    #[error("its author may not write")]
    NotWriter,
    /// The genesis does not hash to the space's id.
    #[error("the genesis belongs to another space")]
    WrongGenesis,
    /// Records form a chain.
    #[error("the record does not follow the one before it")]
    BrokenChain,
    /// An epoch follows the one before it.
    #[error("the epoch does not follow the one before it")]
    WrongEpoch,
    /// No such invitation.
    #[error("there is no such invitation")]
    UnknownInvitation,
    /// An invitation is opened once.
    #[error("the invitation was opened before")]
    RepeatedInvitation,
    /// The certificate's signatures do not hold.
    #[error("the certificate's signatures do not hold")]
    BadCertificate,
    /// The named maximum is reached.
    #[error("the space has its maximum of members or invitations")]
    TooMany,
}

/// The state that admitted control operations add up to.
#[derive(Debug, Clone)]
pub struct Membership {
    space: SpaceId,
    genesis: Option<Genesis>,
    records: u64,
    last_record: [u8; 32],
    members: BTreeMap<DeviceId, Member>,
    invitations: BTreeMap<DeviceId, Invitation>,
    epochs: BTreeMap<u32, Epoch>,
    changes: u64,
}

impl Membership {
    /// The membership of a space of which nothing is known but its id.
    pub fn new(space: SpaceId) -> Self {
        Self {
            space,
            genesis: None,
            records: 0,
            last_record: [0; 32],
            members: BTreeMap::new(),
            invitations: BTreeMap::new(),
            epochs: BTreeMap::new(),
            changes: 0,
        }
    }

    /// How often it has changed: tells whether something is new without comparing.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// The first record, once it is known.
    pub fn genesis(&self) -> Option<&Genesis> {
        self.genesis.as_ref()
    }

    /// How many records are known.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// All members by device.
    pub fn members(&self) -> &BTreeMap<DeviceId, Member> {
        &self.members
    }

    /// All invitations by their key.
    pub fn invitations(&self) -> &BTreeMap<DeviceId, Invitation> {
        &self.invitations
    }

    /// How many devices came by an invitation.
    pub fn invitation_uses(&self, invitation: &DeviceId) -> u32 {
        let came_by = |member: &&Member| member.admissions.iter().any(|by| by.invitation == *invitation);
        self.members.values().filter(came_by).count() as u32
    }

    /// The role of a device, if it is a member.
    pub fn role(&self, device: &DeviceId) -> Option<Role> {
        self.members.get(device).map(|member| member.role)
    }

    /// The latest epoch's number, 0 before the first.
    pub fn epoch(&self) -> u32 {
        self.epochs.last_key_value().map_or(0, |(epoch, _)| *epoch)
    }

    /// An epoch's public facts.
    pub fn epoch_facts(&self, epoch: u32) -> Option<&Epoch> {
        self.epochs.get(&epoch)
    }

    /// The record that would say `statement` next.
    pub fn next_record(&self, statement: Statement) -> Record {
        Record { sequence: self.records + 1, previous: self.last_record, statement }
    }

    /// Applies a membership operation's payload.
    pub fn apply_record(&mut self, author: &DeviceId, payload: &[u8]) -> Result<(), MembershipError> {
        let record = Record::decode(payload).map_err(|_| MembershipError::Malformed)?;
        if record.sequence != self.records + 1 || record.previous != self.last_record {
            return Err(MembershipError::BrokenChain);
        }
        let steward = match (&record.statement, self.genesis.is_some()) {
            (Statement::Genesis(genesis), false) if genesis.space() == self.space => genesis.steward == *author,
            (Statement::Genesis(_), _) | (_, false) => return Err(MembershipError::WrongGenesis),
            (_, true) => self.role(author) == Some(Role::Steward),
        };
        if !steward {
            return Err(MembershipError::NotSteward);
        }
        match &record.statement {
            Statement::Genesis(genesis) => self.begin(genesis.clone()),
            Statement::Epoch { epoch, content_commitment, replication_commitment, .. } => {
                if *epoch != self.epoch() + 1 {
                    return Err(MembershipError::WrongEpoch);
                }
                let facts = Epoch {
                    content_commitment: *content_commitment,
                    replication_commitment: *replication_commitment,
                    record: record.sequence,
                };
                self.epochs.insert(*epoch, facts);
            }
            Statement::Invitation { invitation, role, uses, expires_ms } => {
                // A second word on an invitation would change what admissions mean that knew the first.
                if self.invitations.contains_key(invitation) {
                    return Err(MembershipError::RepeatedInvitation);
                }
                if self.invitations.len() >= INVITATIONS_MAX {
                    return Err(MembershipError::TooMany);
                }
                let invited = Invitation { role: *role, uses: *uses, expires_ms: *expires_ms, record: record.sequence };
                self.invitations.insert(*invitation, invited);
            }
            _ => {}
        }
        self.changes += 1;
        self.records = record.sequence;
        self.last_record = record.hash();
        Ok(())
    }

    fn begin(&mut self, genesis: Genesis) {
        let steward = Member { role: Role::Steward, exchange: genesis.steward_exchange, admissions: Vec::new() };
        self.members.insert(genesis.steward, steward);
        self.genesis = Some(genesis);
    }

    /// Checks an application as an admit operation of `sponsor`, who knew `known` records, would be checked, and tells
    /// the role it gives.
    ///
    /// Only what the operation itself builds on counts, never what else has arrived, so every replica says the same.
    pub fn check_certificate(
        &self,
        sponsor: &DeviceId,
        known: u64,
        certificate: &Certificate,
    ) -> Result<Role, MembershipError> {
        if !self.role(sponsor).is_some_and(Role::writes) {
            return Err(MembershipError::NotWriter);
        }
        let invitation = self
            .invitations
            .get(&certificate.invitation)
            .filter(|invitation| invitation.record <= known)
            .ok_or(MembershipError::UnknownInvitation)?;
        // A steward is made by genesis, handover or takeover alone.
        if invitation.role == Role::Steward || !certificate.holds(&self.space) {
            return Err(MembershipError::BadCertificate);
        }
        Ok(invitation.role)
    }

    /// Applies an admit operation's payload.
    ///
    /// A device may be admitted more than once, at the same time by two sponsors or later to a further role: the
    /// furthest role counts, whichever arrives first. A sponsor's admissions come in the order of its log.
    pub fn apply_admit(
        &mut self,
        author: &DeviceId,
        sequence: u64,
        known: u64,
        payload: &[u8],
    ) -> Result<(), MembershipError> {
        let certificate = Admit::decode(payload).map_err(|_| MembershipError::Malformed)?.certificate;
        let role = self.check_certificate(author, known, &certificate)?;
        let by = AdmittedBy { sponsor: *author, sequence, invitation: certificate.invitation, role };
        let member = self.members.entry(certificate.device).or_insert(Member {
            role,
            exchange: certificate.exchange,
            admissions: Vec::new(),
        });
        self.changes += 1;
        member.role = member.role.min(role);
        // Devices sign one exchange key; of one that signed two, every replica takes the same.
        if member.role != Role::Steward {
            member.exchange = member.exchange.min(certificate.exchange);
        }
        let place = |by: &AdmittedBy| (by.sponsor, by.invitation);
        if let Err(at) = member.admissions.binary_search_by_key(&place(&by), place) {
            member.admissions.insert(at, by);
        }
        Ok(())
    }

    /// Whether a sponsor should turn new members away because the space is full.
    pub fn is_full(&self) -> bool {
        self.members.len() >= MEMBERS_MAX
    }

    /// Whether `device`'s log may begin with an operation whose causal past is `past`.
    pub fn may_begin(&self, device: &DeviceId, past: impl Fn(&DeviceId, u64) -> bool) -> bool {
        self.members.get(device).is_some_and(|member| {
            member.role == Role::Steward
                || member.admissions.iter().any(|by| {
                    (by.role.writes() || planted(Bug::RoleUncheckedAtAdmission)) && past(&by.sponsor, by.sequence)
                })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random;

    fn founded() -> (Membership, DeviceKey) {
        let mut random = random(1);
        let (steward, recovery) = (DeviceKey::generate(&mut random), DeviceKey::generate(&mut random));
        let genesis = Genesis {
            steward: steward.id(),
            steward_exchange: steward.exchange_public(),
            recovery: recovery.id(),
            strings: Strings::Scalar,
            nonce: [5; 16],
        };
        let mut membership = Membership::new(genesis.space());
        let record = membership.next_record(Statement::Genesis(genesis));
        membership.apply_record(&steward.id(), &record.encode()).unwrap();
        (membership, steward)
    }

    fn invite(membership: &mut Membership, steward: &DeviceKey, invitation: &DeviceKey, role: Role) {
        let statement = Statement::Invitation { invitation: invitation.id(), role, uses: 1, expires_ms: 0 };
        let record = membership.next_record(statement);
        membership.apply_record(&steward.id(), &record.encode()).unwrap();
    }

    #[test]
    fn only_the_steward_writes_records_and_only_in_order() {
        let (mut membership, steward) = founded();
        let eve = DeviceKey::generate(&mut random(9));
        let record = membership.next_record(Statement::Revocation { invitation: eve.id() });
        assert_eq!(membership.apply_record(&eve.id(), &record.encode()), Err(MembershipError::NotSteward));
        membership.apply_record(&steward.id(), &record.encode()).unwrap();
        assert_eq!(membership.apply_record(&steward.id(), &record.encode()), Err(MembershipError::BrokenChain));
        assert_eq!(membership.apply_record(&steward.id(), b"x"), Err(MembershipError::Malformed));
    }

    #[test]
    fn a_certificate_is_bound_to_space_device_and_invitation() {
        let (mut membership, steward) = founded();
        let mut random = random(2);
        let (invitation, joiner) = (DeviceKey::generate(&mut random), DeviceKey::generate(&mut random));
        invite(&mut membership, &steward, &invitation, Role::Writer);
        let space = membership.genesis().unwrap().space();
        let certificate = Certificate::new(&space, &joiner, &invitation);
        assert_eq!(membership.check_certificate(&steward.id(), 2, &certificate), Ok(Role::Writer));
        let early = membership.check_certificate(&steward.id(), 1, &certificate);
        assert_eq!(early, Err(MembershipError::UnknownInvitation), "the sponsor did not know it");
        assert!(!certificate.holds(&SpaceId([0; 32])));
        let stolen = Certificate { device: steward.id(), ..certificate };
        assert!(!stolen.holds(&space));
        let by_stranger = membership.check_certificate(&joiner.id(), 2, &certificate);
        assert_eq!(by_stranger, Err(MembershipError::NotWriter));
    }

    #[test]
    fn concurrent_admissions_give_one_role_in_either_order() {
        let (mut membership, steward) = founded();
        let mut random = random(3);
        let (reader, writer) = (DeviceKey::generate(&mut random), DeviceKey::generate(&mut random));
        let joiner = DeviceKey::generate(&mut random);
        invite(&mut membership, &steward, &reader, Role::Reader);
        invite(&mut membership, &steward, &writer, Role::Writer);
        let space = membership.genesis().unwrap().space();
        let admit = |invitation| Admit { certificate: Certificate::new(&space, &joiner, invitation) }.encode();
        for order in [[&reader, &writer], [&writer, &reader]] {
            let mut replica = membership.clone();
            for (sequence, invitation) in (1..).zip(order) {
                replica.apply_admit(&steward.id(), sequence, 3, &admit(invitation)).unwrap();
            }
            assert_eq!(replica.role(&joiner.id()), Some(Role::Writer));
        }
    }
}
