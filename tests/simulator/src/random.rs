//! Choices drawn from a seed.

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

/// A stream of choices; the same seed, kind and index give the same stream.
///
/// Everything that can be left out of a run draws from a stream of its own, so that leaving it out does not change what
/// the others draw.
#[derive(Debug, Clone)]
pub(crate) struct Choices(ChaCha8Rng);

impl Choices {
    /// The stream for one of several things of a kind.
    pub(crate) fn new(seed: u64, kind: &str, index: u64) -> Self {
        Self(generator(seed, kind, index))
    }

    /// A number below `limit`, which is not zero.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0.next_u64() % limit
    }

    /// A number of the closed range.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True in so many of a hundred cases.
    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of several, which are not none.
    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// So many bytes.
    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.0.fill_bytes(&mut bytes);
        bytes
    }

    /// The generator itself, for what wants one.
    pub(crate) fn generator(&mut self) -> &mut ChaCha8Rng {
        &mut self.0
    }
}

/// A generator of random bytes for one of several things of a kind.
pub(crate) fn generator(seed: u64, kind: &str, index: u64) -> ChaCha8Rng {
    let mut hasher = blake3::Hasher::new_derive_key("syncline simulator choices 2");
    hasher.update(&seed.to_le_bytes());
    hasher.update(&index.to_le_bytes());
    hasher.update(kind.as_bytes());
    ChaCha8Rng::from_seed(*hasher.finalize().as_bytes())
}
