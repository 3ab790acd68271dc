//! Choices drawn from a seed.

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

/// A stream of choices; the same seed and purpose give the same stream.
#[derive(Debug, Clone)]
pub(crate) struct Choices(ChaCha8Rng);

/// What choices are drawn for, so that drawing more for one purpose does not shift the others.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Purpose {
    /// What happens to the process of one node.
    Process(usize),
    /// When links carry nothing.
    Partitions,
    /// When links are slow, and when connections break.
    Links,
    /// When the disk is full.
    Disk,
    /// What one observer looks at.
    Observer(usize),
    /// Where one causal chain runs.
    Chain(usize),
    /// What one counting client adds, and where.
    Counting(usize),
}

impl Purpose {
    fn stream(self) -> u64 {
        let (kind, number) = match self {
            Self::Process(number) => (1, number),
            Self::Partitions => (2, 0),
            Self::Links => (3, 0),
            Self::Disk => (4, 0),
            Self::Observer(number) => (5, number),
            Self::Chain(number) => (6, number),
            Self::Counting(number) => (7, number),
        };
        kind << 32 | number as u64
    }
}

impl Choices {
    /// The stream for one purpose of one seed.
    pub(crate) fn new(seed: u64, purpose: Purpose) -> Self {
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        generator.set_stream(purpose.stream());
        Self(generator)
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
}
