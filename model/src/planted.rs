//! Bugs that can be planted, to see whether the simulator finds them.
//!
//! Each stands in the code where it would be made: `if planted(Bug::…)`. Without the feature `planted-bugs` that is
//! the constant false and the compiler removes the branch. With it one choice of the whole process, made before
//! anything runs, tells which bug there is: a planted bug is a different program, not a state of one.

/// Where in the path of an operation a bug stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    /// The log and its index.
    Storage,
    /// Gossip and reconciliation.
    Sync,
    /// What counts as part of a space.
    Model,
    /// The core of a space.
    Space,
    /// What is made of the operations.
    Documents,
}

macro_rules! bugs {
    ($($layer:ident { $($name:ident $text:literal,)* })*) => {
        /// One bug.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        #[allow(missing_docs, reason = "the text of each says what it is")]
        #[repr(u8)]
        pub enum Bug {
            $($($name,)*)*
        }

        impl Bug {
            /// All bugs.
            pub const ALL: &'static [Self] = &[$($(Self::$name,)*)*];

            /// The name by which it is asked for.
            pub fn name(self) -> &'static str {
                match self {
                    $($(Self::$name => stringify!($name),)*)*
                }
            }

            /// What it does, for a person.
            pub fn text(self) -> &'static str {
                match self {
                    $($(Self::$name => $text,)*)*
                }
            }

            /// Where it stands.
            pub fn layer(self) -> Layer {
                match self {
                    $($(Self::$name => Layer::$layer,)*)*
                }
            }
        }
    };
}

bugs! {
    Storage {
        AcknowledgedBeforeSync "What was appended counts as durable without a sync.",
        FailedSyncIgnored "A sync that failed is taken for one that succeeded.",
        TornTailKept "The log goes on behind a torn tail instead of in its place.",
        WatermarkBeforeData "How far the index is complete is written before its entries are.",
        RecoveredTailNotSynced "What a crash left behind the last proof of durability is used without being synced.",
        SegmentNameNotSynced "A new segment is used before its name is durable.",
        IndexBatchLost "Completing the index at an opening writes how far it got and not the entries.",
        ScanMissesGathered "A scan of the index does not see the changes that are gathered.",
        RunPositionOffByOne "All runs of an append but the first are noted one byte too far.",
        ChecksumIgnored "A record is believed although its body does not have its checksum.",
        RollOverCutsLastRecord "A new segment says that the one before ends one byte before its last record's end.",
        ReadEndsEarly "A run that begins at the end of a range is not read.",
        SmallFileNotSynced "A small file gets its name before its content is durable.",
    }
    Sync {
        DigestIgnoresAuthor "The digest of a version vector leaves one author out.",
        BucketBoundary "The last bucket is left out when bucket digests are compared.",
        RangeEndsEarly "The last operation that is missing of a log is not asked for.",
        PageBeginsTooFar "A page begins one operation after the place from which it was asked for.",
        PageCutDropsLastRun "A page that is cut because it is full loses the run it ends with.",
        GossipMarkedDelivered "Gossip that has to wait for earlier operations counts as handed over.",
        AnnouncementIgnored "An announced head is not looked at.",
        FailedPullNeverFreed "A request that failed keeps its ranges claimed.",
        FailedPeerNeverRests "A peer that failed is asked again at once, before any other.",
        PendingGossipRejected "Gossip that has to wait is rejected as if it were invalid.",
        ServingNeverEnds "A page that left goes on counting among those that are being served.",
    }
    Model {
        SignatureSkippedWithinRun "A run of several operations is taken without a look at its signature.",
        PreviousUnchecked "A run is taken whatever operation it says to follow.",
        DependencyUnchecked "An operation is admitted before those that it depends on.",
        RoleUncheckedAtAdmission "The log of a member counts whether or not its role writes.",
        VectorKeepsOldId "An entry of a version vector moves on and keeps the id of where it was.",
        CanonicalFormUnchecked "Bytes are accepted that are not the canonical form of what they say.",
        MembershipSequenceIgnored "Operations are admitted before the membership records that their authors knew.",
        PendingQueueDropped "The operations behind one that has to wait are forgotten.",
        WaitersNotWoken "An operation that waits for another author's is not looked at when that one comes.",
        AnybodyWritesRecords "A membership record counts whoever wrote it.",
        CutSponsorAdmits "A device is a member by an admission that lies behind its sponsor's cut.",
        CutIgnored "What lies behind a cut counts like what lies before it.",
        VouchingForgotten "What lies behind a cut does not count though others built on it.",
        ForkUnproven "A proof of a fork is believed without a look at its signatures.",
        PastNotTransitive "A causal past reaches one step far.",
    }
    Space {
        VisibleBeforeDurable "A batch shows and is acknowledged once it is appended; the sync comes with the next.",
        RoleUncheckedAtWrite "Every member may write here, whatever its role.",
        DependenciesForgotten "An operation does not name what its author has admitted since the last one.",
        KeysNotStored "Keys that arrive are used and not stored.",
        FrameUnderLaterName "A frame goes under the name of keys that came with what it answers to.",
        KeysGivenUnrecorded "A sponsor gives keys of an epoch whose record it does not hold.",
        DeletePastForgotten "A delete that arrives covers its author's own operations and nothing else.",
    }
    Documents {
        AbortedEditKept "An edit whose operation is refused stays in the document in memory.",
        StaleDocumentKept "A document in memory is used although a delete that arrived made it another one.",
        ResolutionLost "Resolving a conflict is acknowledged and changes nothing.",
        DeleteBeatsConcurrentEdit "A delete also takes what was written at the same time and arrived before it.",
        TransactionHalfVisible "The last document of a transaction that arrives does not show.",
        AppliedTwiceOnRecovery "What the documents hold already is applied to them again at every start.",
        StaleSnapshotUsed "A document is loaded from a snapshot that was made before a delete.",
        WatcherSkipsEvent "A watcher that is behind misses the first operation that it should be given.",
        LineageReused "A document that may lack changes of this device is edited under the same actor again.",
        DeletedFieldsReturn "A put after a delete brings back what was deleted.",
    }
}

#[cfg(feature = "planted-bugs")]
mod choice {
    use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

    use super::Bug;

    /// No bug.
    const NONE: u8 = u8::MAX;

    /// Of the whole process, since its threads are many and the code is one.
    static PLANTED: AtomicU8 = AtomicU8::new(NONE);

    /// How often the present bug had its say.
    static ACTED: AtomicU64 = AtomicU64::new(0);

    /// Plants a bug instead of the one before; to be called while nothing runs.
    pub fn plant(bug: Option<Bug>) {
        ACTED.store(0, Ordering::SeqCst);
        PLANTED.store(bug.map_or(NONE, |bug| bug as u8), Ordering::SeqCst);
    }

    /// Whether this bug is planted.
    pub fn planted(bug: Bug) -> bool {
        let is_planted = PLANTED.load(Ordering::Relaxed) == bug as u8;
        if is_planted {
            ACTED.fetch_add(1, Ordering::Relaxed);
        }
        is_planted
    }

    /// How often the code came to where the planted bug makes a difference, or may make one.
    pub fn acted() -> u64 {
        ACTED.load(Ordering::SeqCst)
    }
}

#[cfg(feature = "planted-bugs")]
pub use choice::{acted, plant, planted};

/// Whether this bug is planted: never, in a build without the feature `planted-bugs`.
#[cfg(not(feature = "planted-bugs"))]
#[inline(always)]
pub const fn planted(_bug: Bug) -> bool {
    false
}
