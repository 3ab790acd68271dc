//! A deterministic random generator for tests.

use std::convert::Infallible;

use rand_core::{TryCryptoRng, TryRng};

/// Random bytes that depend on `seed` alone.
pub(crate) fn random(seed: u64) -> SeededRandom {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    SeededRandom(hasher.finalize_xof())
}

/// BLAKE3's extendable output as a generator.
pub(crate) struct SeededRandom(blake3::OutputReader);

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
