//! Devices, logs and random numbers that depend on nothing but their arguments.

use std::convert::Infallible;

use rand_core::{TryCryptoRng, TryRng};
use syncline_model::{Dependency, DeviceKey, Header, Kind, OperationId, SpaceId, VerifiedRun};

pub(crate) const SPACE: SpaceId = SpaceId([1; 32]);

/// The device with this number.
pub(crate) fn device(number: u8) -> DeviceKey {
    DeviceKey::from_seed(&[number; 32])
}

/// The operation that follows `previous` in the device's log.
pub(crate) fn write(
    key: &DeviceKey,
    kind: Kind,
    (sequence, previous): (u64, OperationId),
    dependencies: Vec<Dependency>,
    payload: Vec<u8>,
) -> VerifiedRun {
    let header = Header {
        kind,
        space: SPACE,
        author: key.id(),
        sequence: sequence + 1,
        previous,
        membership: 0,
        epoch: 0,
        dependencies,
        payload_length: payload.len() as u32,
    };
    VerifiedRun::author(key, &header, |_| payload).expect("a well-formed operation")
}

/// A log of `count` operations with payloads of `size` bytes, one run each.
pub(crate) fn log(key: &DeviceKey, count: u64, size: usize) -> Vec<VerifiedRun> {
    let mut head = (0, OperationId::ZERO);
    let mut next = |sequence: u64| {
        let run = write(key, Kind::DATA, head, Vec::new(), vec![sequence as u8; size]);
        head = (run.last(), run.last_id());
        run
    };
    (1..=count).map(&mut next).collect()
}

/// BLAKE3's extendable output as a generator.
pub(crate) struct SeededRandom(blake3::OutputReader);

impl SeededRandom {
    pub(crate) fn new(seed: u64) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes());
        Self(hasher.finalize_xof())
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        u64::from_le_bytes(bytes) % limit
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

impl TryRng for SeededRandom {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.0.fill(&mut bytes);
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill(bytes);
        Ok(())
    }
}

impl TryCryptoRng for SeededRandom {}
