//! The node's small files: device key, remembered port, known peers, and each space's keys.

use std::time::{SystemTime, UNIX_EPOCH};

use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};
use syncline_model::{ContentKey, DeviceId, DeviceKey, SpaceId};
use syncline_storage::{FileScope, SmallFiles, StorageError};
use zeroize::Zeroizing;

use super::key_files::KeyFiles;
use crate::error::Error;
use crate::network::Multiaddr;
use crate::space::SpaceKeys;
use crate::space::pump::KeyStore;

pub(super) const DEVICE_KEY: &str = "device.key";
pub(super) const LOCAL_KEY: &str = "local.key";
const PORT: &str = "port";
const PEERS: &str = "peers.json";
/// In a backup as well.
pub(super) const SPACE_KEYS: &str = "keys";

/// Milliseconds since 1970.
pub(super) fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// A peer worth dialling at the next start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KnownPeer {
    pub(super) device: DeviceId,
    pub(super) addresses: Vec<String>,
}

/// The device's key; none when the directory has no device yet.
pub(super) fn read_device(keys: &KeyFiles) -> Result<Option<DeviceKey>, Error> {
    let Some(bytes) = keys.read(FileScope::Node, DEVICE_KEY)? else { return Ok(None) };
    let seed: &[u8; 32] = bytes.as_slice().try_into().map_err(|_| Error::DamagedFile { what: "the device key" })?;
    Ok(Some(DeviceKey::from_seed(seed)))
}

/// Makes the directory a device.
pub(super) fn create_device(keys: &KeyFiles, random: &mut impl CryptoRng) -> Result<DeviceKey, Error> {
    let device = DeviceKey::generate(random);
    keys.write(FileScope::Node, DEVICE_KEY, device.seed())?;
    Ok(device)
}

/// The key that seals what is derived from documents on this device; drawn at the first start.
pub(super) fn local_key(keys: &KeyFiles, random: &mut impl CryptoRng) -> Result<ContentKey, Error> {
    if let Some(bytes) = keys.read(FileScope::Node, LOCAL_KEY)? {
        let key = bytes.as_slice().try_into().map(ContentKey);
        return key.map_err(|_| Error::DamagedFile { what: "the local key" });
    }
    let key = ContentKey::generate(random);
    keys.write(FileScope::Node, LOCAL_KEY, &key.0)?;
    Ok(key)
}

/// What is kept of a space beside its log; None when that is missing.
pub(super) fn read_space(keys: &KeyFiles, space: SpaceId) -> Result<Option<SpaceKeys>, Error> {
    let bytes = keys.read(FileScope::Space(space), SPACE_KEYS)?;
    let decoded = bytes.map(|bytes| SpaceKeys::decode(&bytes)).transpose();
    decoded.map_err(|_| Error::DamagedFile { what: "the key file of a space" })
}

/// Replaces what is kept of a space beside its log.
pub(super) fn write_space(keys: &KeyFiles, space: &SpaceKeys) -> Result<(), StorageError> {
    keys.write(FileScope::Space(space.space), SPACE_KEYS, &Zeroizing::new(space.encode()))
}

/// The file with which a space is made, as it stands on the disk.
pub(super) fn first_space_file(keys: &KeyFiles, space: &SpaceKeys) -> (&'static str, Zeroizing<Vec<u8>>) {
    let encoded = Zeroizing::new(space.encode());
    (SPACE_KEYS, keys.stored(FileScope::Space(space.space), SPACE_KEYS, &encoded))
}

/// The port that an earlier start took.
pub(super) fn read_port(files: &SmallFiles) -> Option<u16> {
    let bytes = files.read(FileScope::Node, PORT).ok()??;
    std::str::from_utf8(&bytes).ok()?.trim().parse().ok()
}

/// Remembers the port for the next start, so that tickets and peers' memories stay good.
pub(super) fn write_port(files: &SmallFiles, addresses: &[Multiaddr]) -> Result<(), StorageError> {
    match crate::network::port_of(addresses) {
        Some(port) if read_port(files) != Some(port) => files.write(FileScope::Node, PORT, port.to_string().as_bytes()),
        _ => Ok(()),
    }
}

/// Peers that shared a space at the last start; a damaged file is as good as none.
pub(super) fn read_peers(files: &SmallFiles) -> Vec<KnownPeer> {
    let bytes = files.read(FileScope::Node, PEERS).ok().flatten().unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

/// Remembers peers for the next start.
pub(super) fn write_peers(files: &SmallFiles, peers: &[KnownPeer]) -> Result<(), StorageError> {
    let bytes = serde_json::to_vec_pretty(peers).unwrap_or_default();
    files.write(FileScope::Node, PEERS, &bytes)
}

/// A space's keys, as the pump replaces them.
pub(super) struct SpaceFiles {
    pub(super) keys: KeyFiles,
}

impl KeyStore for SpaceFiles {
    fn store(&self, keys: &SpaceKeys) -> Result<(), StorageError> {
        write_space(&self.keys, keys)
    }
}
