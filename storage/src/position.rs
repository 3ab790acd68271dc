//! Where a record stands in a space's log.

use std::fmt;

/// Where a record starts: its segment's number and the offset there; later arrivals have greater positions.
///
/// Recovery may move records that nobody was ever shown to a later segment, so positions only grow and a position
/// kept as a cursor at worst leads to seeing some runs twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(u64);

impl Position {
    /// Before every record.
    pub const START: Self = Self(0);

    /// The position at `offset` bytes into segment `segment`.
    pub const fn new(segment: u32, offset: u32) -> Self {
        Self(((segment as u64) << 32) | offset as u64)
    }

    /// The segment's number.
    pub const fn segment(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Bytes from the segment's start.
    pub const fn offset(self) -> u32 {
        self.0 as u32
    }

    /// As one number, for cursors on the wire.
    pub const fn to_u64(self) -> u64 {
        self.0
    }

    /// From what [`Position::to_u64`] gave; any number is a position, if not one where a record stands.
    pub const fn from_u64(number: u64) -> Self {
        Self(number)
    }

    /// The smallest position after this one.
    pub(crate) fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "segment {} offset {}", self.segment(), self.offset())
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.segment(), self.offset())
    }
}
