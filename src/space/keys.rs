//! What a device keeps of a space beside its log: the local name, the keys, and how far joining has come.
//!
//! Stored as one secret file per space, replaced atomically. It is never part of the log and never leaves the device.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use syncline_model::canonical::{self, DecodeError};
use syncline_model::keys::{WrappedSecret, open, seal};
use syncline_model::membership::{KeyDelivery, Member};
use syncline_model::planted::{Bug, planted};
use syncline_model::{ContentKey, DeviceId, DeviceKey, ReplicationSecret, Role, SpaceId};

use rand_core::CryptoRng;

/// One device's secrets and settings for one space.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpaceKeys {
    /// The space.
    pub space: SpaceId,
    /// The name it has on this device.
    pub name: String,
    /// The steward of the genesis: the only author believed before the genesis is held.
    pub founder: DeviceId,
    /// The ticket that this device joined with. It is kept, since an admission may turn out not to count: its sponsor
    /// was removed before, or forked. Then another member is asked.
    pub ticket: Option<String>,
    /// Content keys by epoch; a relay has none.
    pub content: BTreeMap<u32, ContentKey>,
    /// Replication secrets by epoch.
    pub replication: BTreeMap<u32, ReplicationSecret>,
}

impl SpaceKeys {
    /// The bytes to store.
    pub fn encode(&self) -> Vec<u8> {
        canonical::encode(self)
    }

    /// Parses what [`SpaceKeys::encode`] made.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        canonical::decode(bytes, "space key file")
    }

    /// The secret of the latest epoch.
    pub fn replication_secret(&self) -> Option<&ReplicationSecret> {
        self.replication.last_key_value().map(|(_, secret)| secret)
    }

    /// The latest epoch whose content key is here, with the key.
    pub fn content_key(&self) -> Option<(u32, &ContentKey)> {
        self.content.last_key_value().map(|(epoch, key)| (*epoch, key))
    }

    /// Wraps for a member the secrets of the latest epoch up to `known`, the one that the records here name last; None
    /// when its exchange key is unusable or no secret is here.
    ///
    /// Keys may come before the records. Who has them and gave them to others could give them to a device with whose
    /// removal their epoch began.
    pub fn deliver(
        &self,
        recipient: DeviceId,
        member: &Member,
        known: u32,
        random: &mut dyn CryptoRng,
    ) -> Option<KeyDelivery> {
        let delivery = self.deliver_held(recipient, member, known, random);
        delivery.filter(|delivery| delivery.content.is_some() || member.role == Role::Relay)
    }

    /// The same, but without the content key where this device, as a relay, has none itself.
    pub fn deliver_held(
        &self,
        recipient: DeviceId,
        member: &Member,
        known: u32,
        random: &mut dyn CryptoRng,
    ) -> Option<KeyDelivery> {
        let known = if planted(Bug::KeysGivenUnrecorded) { u32::MAX } else { known };
        let (epoch, replication) = self.replication.range(..=known).next_back()?;
        let mut wrap = |purpose: &str, secret: &[u8; 32]| {
            let info = KeyDelivery::info(&self.space, *epoch, &recipient, purpose);
            WrappedSecret::wrap(&member.exchange, &info, secret, &mut &mut *random)
        };
        let content = match self.content.get(epoch).filter(|_| member.role.reads()) {
            Some(key) => Some(wrap("content", &key.0)?),
            None => None,
        };
        Some(KeyDelivery { recipient, epoch: *epoch, content, replication: wrap("replication", &replication.0)? })
    }

    /// The secret that another one's name in gossip and greetings is made of, the latest first.
    pub fn replication_secrets(&self) -> impl Iterator<Item = (u32, &ReplicationSecret)> {
        self.replication.iter().rev().map(|(epoch, secret)| (*epoch, secret))
    }

    /// Takes the secrets of a delivery to this device; tells whether any was new.
    pub fn accept(&mut self, device: &DeviceKey, delivery: &KeyDelivery) -> bool {
        if delivery.recipient != device.id() {
            return false;
        }
        let unwrap = |purpose: &str, wrapped: &WrappedSecret| {
            wrapped.unwrap(device, &KeyDelivery::info(&self.space, delivery.epoch, &delivery.recipient, purpose)).ok()
        };
        let replication = unwrap("replication", &delivery.replication).map(ReplicationSecret);
        let content = delivery.content.as_ref().and_then(|wrapped| unwrap("content", wrapped)).map(ContentKey);
        let before = (self.replication.len(), self.content.len());
        if let Some(secret) = replication {
            self.replication.entry(delivery.epoch).or_insert(secret);
        }
        if let Some(key) = content {
            self.content.entry(delivery.epoch).or_insert(key);
        }
        before != (self.replication.len(), self.content.len())
    }
}

/// Seals an epoch's content key under the next one's, for the record that begins the next.
pub(super) fn seal_previous(
    space: &SpaceId,
    epoch: u32,
    key: &ContentKey,
    previous: &ContentKey,
    random: &mut dyn CryptoRng,
) -> Vec<u8> {
    seal(key, &previous_key_data(space, epoch), &previous.0, &mut &mut *random)
}

/// Opens what [`seal_previous`] made.
pub(super) fn open_previous(space: &SpaceId, epoch: u32, key: &ContentKey, sealed: &[u8]) -> Option<ContentKey> {
    let opened = open(key, &previous_key_data(space, epoch), sealed).ok()?;
    opened.try_into().ok().map(ContentKey)
}

fn previous_key_data(space: &SpaceId, epoch: u32) -> Vec<u8> {
    [b"syncline/previous-key/1\0".as_slice(), &space.0, &epoch.to_le_bytes()].concat()
}
