//! The trace of a run: a hash over everything that happened, and, when wanted, its text.

use std::collections::VecDeque;

use crate::happening::{Coverage, Happening};

/// Lines kept when not all are wanted.
pub const TAIL_LINES: usize = 120;

/// How much of the trace is kept as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// None of it: only the hash and the counts.
    Hash,
    /// The last [`TAIL_LINES`].
    Tail,
    /// All of it.
    Whole,
}

/// What happened so far.
#[derive(Debug)]
pub(crate) struct Trace {
    detail: Detail,
    hasher: blake3::Hasher,
    lines: VecDeque<String>,
    dropped: u64,
    coverage: Coverage,
}

impl Trace {
    /// Nothing yet.
    pub(crate) fn new(detail: Detail) -> Self {
        let (lines, coverage) = (VecDeque::new(), Coverage::default());
        Self { detail, hasher: blake3::Hasher::new(), lines, dropped: 0, coverage }
    }

    /// Takes note of something at a device; the numbers go into the hash, the text is made only when it is kept.
    pub(crate) fn note(
        &mut self,
        now_us: u64,
        device: usize,
        happening: Happening,
        numbers: [u64; 2],
        text: impl FnOnce() -> String,
    ) {
        self.coverage.count(happening, 1);
        let mut bytes = [0; 33];
        bytes[0] = happening as u8;
        for (slot, number) in bytes[1..].chunks_exact_mut(8).zip([now_us, device as u64, numbers[0], numbers[1]]) {
            slot.copy_from_slice(&number.to_le_bytes());
        }
        self.hasher.update(&bytes);
        if self.detail == Detail::Hash {
            return;
        }
        if self.detail == Detail::Tail && self.lines.len() == TAIL_LINES {
            self.lines.pop_front();
            self.dropped += 1;
        }
        let (seconds, rest) = (now_us / 1_000_000, now_us % 1_000_000);
        let text = text();
        let gap = if text.is_empty() { "" } else { ": " };
        self.lines.push_back(format!("{seconds:5}.{rest:06} #{device} {}{gap}{text}", happening.text()));
    }

    /// Counts something that is no event of its own.
    pub(crate) fn count(&mut self, happening: Happening, times: u64) {
        self.coverage.count(happening, times);
    }

    /// Lets bytes go into the hash.
    pub(crate) fn hash(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    /// The hash, the kept lines, and how many lines before them were not kept.
    pub(crate) fn finish(self) -> (String, Coverage, Vec<String>, u64) {
        let hash = self.hasher.finalize().to_hex()[..16].to_owned();
        (hash, self.coverage, self.lines.into(), self.dropped)
    }
}
