//! Both ways between what libp2p calls a peer and what Syncline calls a device; the only place that does it.

use libp2p::PeerId;
use libp2p::identity::{PublicKey, ed25519};
use libp2p::multihash::Multihash;
use syncline_model::DeviceId;

/// The code of the multihash that holds its input itself: short keys such as ed25519 are spelled out in peer ids.
const IDENTITY_HASH: u64 = 0;

/// A peer whose libp2p key is no device key, or a device id that is no ed25519 key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an ed25519 key")]
pub(super) struct NotADevice;

/// The device that a peer id spells out.
pub(super) fn device_of(peer: &PeerId) -> Result<DeviceId, NotADevice> {
    let hash: &Multihash<64> = peer.as_ref();
    if hash.code() != IDENTITY_HASH {
        return Err(NotADevice);
    }
    let key = PublicKey::try_decode_protobuf(hash.digest()).map_err(|_| NotADevice)?;
    let key = key.try_into_ed25519().map_err(|_| NotADevice)?;
    Ok(DeviceId(key.to_bytes()))
}

/// The peer id of a device.
pub(super) fn peer_of(device: DeviceId) -> Result<PeerId, NotADevice> {
    let key = ed25519::PublicKey::try_from_bytes(device.as_bytes()).map_err(|_| NotADevice)?;
    Ok(PublicKey::from(key).to_peer_id())
}

/// The text of a device's peer id; empty for bytes that are no device.
pub fn peer_id_text(device: &DeviceId) -> String {
    peer_of(*device).map(|peer| peer.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use libp2p::identity::Keypair;

    #[test]
    fn a_device_and_its_peer_id_are_two_spellings_of_one_key() {
        let peer = Keypair::generate_ed25519().public().to_peer_id();
        let device = device_of(&peer).unwrap();
        assert_eq!(peer_of(device), Ok(peer));
    }

    #[test]
    fn peer_ids_that_spell_out_no_ed25519_key_are_refused() {
        assert_eq!(device_of(&PeerId::random()), Err(NotADevice));
        let hashed = Multihash::<64>::wrap(0x12, &[7; 32]).unwrap();
        assert_eq!(device_of(&PeerId::from_multihash(hashed).unwrap()), Err(NotADevice));
    }

    #[test]
    fn a_device_id_that_is_no_point_of_the_curve_has_no_peer_id() {
        let off_the_curve = (0..=u8::MAX).map(|byte| peer_of(DeviceId([byte; 32]))).filter(Result::is_err).count();
        assert!(off_the_curve > 0);
    }
}
