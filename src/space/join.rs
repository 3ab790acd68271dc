//! The join exchange: a device with a ticket asks a member to sponsor it.
//!
//! The joiner names the invitation by a tag that only ticket holders and members recognise, and shows a certificate.
//! The sponsor writes an admit operation and a key delivery, makes both durable, and answers with the delivery.

use serde::{Deserialize, Serialize};
use syncline_model::SpaceTag;
use syncline_model::canonical::{self, DecodeError};
use syncline_model::membership::{Certificate, KeyDelivery};

/// Longest request or answer, in bytes.
pub const JOIN_MESSAGE_BYTES_MAX: usize = 4096;

/// What a joiner sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// [`invitation_tag`](syncline_model::membership::invitation_tag) from joiner to sponsor.
    pub tag: SpaceTag,
    /// The application.
    pub certificate: Certificate,
}

/// What a sponsor answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum JoinAnswer {
    /// The device is a member; its keys are here.
    Admitted(KeyDelivery),
    /// It is not.
    Refused(JoinRefusal),
}

/// Why a sponsor does not admit a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum JoinRefusal {
    /// No space here has this invitation: the peer is no member, or has not heard of it yet.
    #[error("this peer does not know the invitation (yet)")]
    Unknown,
    /// This member may not admit devices.
    #[error("this peer may not admit devices; a writer of the space must be online")]
    NotASponsor,
    /// The invitation's time is over.
    #[error("the ticket has expired; ask for a new one")]
    Expired,
    /// The invitation was used as often as allowed.
    #[error("the ticket was used as often as it allows; ask for a new one")]
    UsedUp,
    /// The certificate's signatures do not hold.
    #[error("the ticket's proof does not hold; ask for a new ticket")]
    BadCertificate,
    /// The space is full.
    #[error("the space has its maximum of members")]
    Full,
    /// The sponsor cannot write at the moment.
    #[error("this peer cannot write at the moment; it may work later or with another peer")]
    Unavailable,
    /// The device was removed.
    #[error("this device was removed from the space; make a new device (`syncline init`) and have it invited")]
    Removed,
    /// The invitation was withdrawn, or closed when somebody was removed.
    #[error("the ticket was withdrawn; ask for a new one")]
    Closed,
}

impl JoinRequest {
    /// The bytes to send.
    pub fn encode(&self) -> Vec<u8> {
        canonical::encode(self)
    }

    /// Parses received bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        bounded(bytes, "join request")?;
        canonical::decode(bytes, "join request")
    }
}

impl JoinAnswer {
    /// The bytes to send.
    pub fn encode(&self) -> Vec<u8> {
        canonical::encode(self)
    }

    /// Parses received bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        bounded(bytes, "join answer")?;
        canonical::decode(bytes, "join answer")
    }
}

fn bounded(bytes: &[u8], what: &'static str) -> Result<(), DecodeError> {
    if bytes.len() > JOIN_MESSAGE_BYTES_MAX {
        return Err(DecodeError::TooLarge { what, limit: JOIN_MESSAGE_BYTES_MAX });
    }
    Ok(())
}

impl JoinRefusal {
    /// Whether asking this or another peer later can help.
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Unknown | Self::NotASponsor | Self::Unavailable)
    }
}
