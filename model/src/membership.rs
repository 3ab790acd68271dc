//! Membership: records written by the steward, admissions written by sponsors, and the state they add up to.
//!
//! Records travel as operations of kind [`Kind::MEMBERSHIP`](crate::Kind::MEMBERSHIP) in the steward's log and form a
//! chain of their own. A space's id is the hash of its genesis, so the first record proves itself.

mod admit;
mod record;
mod state;

use serde::{Deserialize, Serialize};

pub use self::admit::{Admit, Certificate, KeyDelivery, invitation_tag};
pub use self::record::{Cut, Genesis, Record, Statement, Takeover};
pub use self::state::{AdmittedBy, ChainRecord, Epoch, Facts, InPast, Invitation, Member, Membership, Place};

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
    /// Removals and revocations close invitations.
    #[error("the invitation was closed before")]
    ClosedInvitation,
    /// A record that contradicts what the ones before it say.
    #[error("the record contradicts those before it")]
    BadStatement,
    /// The steward's log has two operations at one position; what follows waits for the recovery key.
    #[error("the steward's log forked before it")]
    Disputed,
    /// A takeover by the recovery key left it out.
    #[error("a takeover left it out")]
    Superseded,
    /// The proof of a fork does not hold.
    #[error("the proof of a fork does not hold")]
    BadProof,
    /// The certificate's signatures do not hold.
    #[error("the certificate's signatures do not hold")]
    BadCertificate,
    /// The named maximum is reached.
    #[error("the space has its maximum of members or invitations")]
    TooMany,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{DeviceId, SpaceId};
    use crate::keys::DeviceKey;
    use crate::testing::random;

    fn place(author: &DeviceKey, sequence: u64) -> Place {
        Place { author: author.id(), log: author.id(), sequence }
    }

    fn everything(_: &DeviceId, _: u64) -> bool {
        true
    }

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
        let record = membership.next_record(Statement::Genesis(genesis), 0);
        membership.apply_record(place(&steward, 1), &record.encode(), &everything).unwrap();
        (membership, steward)
    }

    fn invite(membership: &mut Membership, steward: &DeviceKey, invitation: &DeviceKey, role: Role) {
        let statement = Statement::Invitation { invitation: invitation.id(), role, uses: 1, expires_ms: 0 };
        let record = membership.next_record(statement, 0);
        membership.apply_record(place(steward, record.sequence), &record.encode(), &everything).unwrap();
    }

    #[test]
    fn only_the_steward_writes_records_and_only_in_order() {
        let (mut membership, steward) = founded();
        let (eve, invitation) = (DeviceKey::generate(&mut random(9)), DeviceKey::generate(&mut random(8)));
        invite(&mut membership, &steward, &invitation, Role::Writer);
        let revoked = invitation.id();
        let record = membership.next_record(Statement::Revocation { invitation: revoked }, 0);
        assert_eq!(
            membership.apply_record(place(&eve, 1), &record.encode(), &everything),
            Err(MembershipError::NotSteward)
        );
        membership.apply_record(place(&steward, 3), &record.encode(), &everything).unwrap();
        assert_eq!(
            membership.apply_record(place(&steward, 4), &record.encode(), &everything),
            Err(MembershipError::BrokenChain)
        );
        assert_eq!(membership.apply_record(place(&steward, 5), b"x", &everything), Err(MembershipError::Malformed));
    }

    #[test]
    fn a_certificate_is_bound_to_space_device_and_invitation() {
        let (mut membership, steward) = founded();
        let mut random = random(2);
        let (invitation, joiner) = (DeviceKey::generate(&mut random), DeviceKey::generate(&mut random));
        invite(&mut membership, &steward, &invitation, Role::Writer);
        let space = membership.genesis().unwrap().space();
        let certificate = Certificate::new(&space, &joiner, &invitation);
        assert_eq!(membership.check_certificate(2, &certificate), Ok(Role::Writer));
        let early = membership.check_certificate(1, &certificate);
        assert_eq!(early, Err(MembershipError::UnknownInvitation), "the sponsor did not know it");
        assert!(!certificate.holds(&SpaceId([0; 32])));
        let mut stolen = certificate;
        stolen.device = steward.id();
        assert!(!stolen.holds(&space));
        let taken = Certificate::new(&SpaceId([0; 32]), &joiner, &invitation);
        assert_eq!(membership.check_certificate(2, &taken), Err(MembershipError::BadCertificate));
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
        let admit =
            |invitation| Admit { certificate: Certificate::new(&space, &joiner, invitation), wall_time_ms: 0 }.encode();
        for order in [[&reader, &writer], [&writer, &reader]] {
            let mut replica = membership.clone();
            for (sequence, invitation) in (1..).zip(order) {
                replica.apply_admit(place(&steward, sequence), &admit(invitation), &everything).unwrap();
            }
            assert_eq!(replica.role(&joiner.id()), Some(Role::Writer));
        }
    }
}
