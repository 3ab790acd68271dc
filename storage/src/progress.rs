//! What a long-running step reports while it works.

use syncline_model::SpaceId;

/// What is going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Activity {
    /// The index did not open or was made for something else; it was put aside and is made anew.
    IndexPutAside,
    /// Records that may not have reached the disk before a crash are made durable.
    Recovering,
    /// The index is completed from the log.
    Indexing,
    /// Every record is checked.
    Verifying,
    /// A log is written to a backup; how much is left is not known.
    BackingUp,
    /// A log is read from a backup; how much is left is not known.
    Restoring,
}

/// How far a long-running step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is going on.
    pub activity: Activity,
    /// The space it concerns, if one.
    pub space: Option<SpaceId>,
    /// Bytes done.
    pub done: u64,
    /// Bytes to do.
    pub total: u64,
}
