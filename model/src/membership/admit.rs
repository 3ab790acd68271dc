//! How a device comes in: its certificate, the sponsor's admission, the keys that are sent to it.

use serde::{Deserialize, Serialize};

use super::record::bounded;
use crate::canonical::{self, DecodeError, signature_bytes};
use crate::ids::{DeviceId, SpaceId};
use crate::keys::{DeviceKey, ExchangeKey, SpaceTag, WrappedSecret, verify};

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
    /// When the sponsor's clock says it was, in ms since 1970: shown, never used to decide.
    pub wall_time_ms: u64,
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
