//! What can happen in a run, as it is traced and counted.

macro_rules! happenings {
    ($($name:ident $text:literal $required:ident,)*) => {
        /// One kind of thing that happens.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        #[allow(missing_docs, reason = "the text of each says what it is")]
        #[repr(u8)]
        pub enum Happening {
            $($name,)*
        }

        impl Happening {
            /// All kinds.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// What it is, for a person.
            pub fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }

            /// Whether many seeds without it mean that the simulator no longer tests what it is for.
            pub fn is_required(self) -> bool {
                match self {
                    $(Self::$name => happenings!(@ $required),)*
                }
            }
        }
    };
    (@ required) => { true };
    (@ counted) => { false };
}

happenings! {
    Started "device starts" required,
    Stepped "steps" required,
    Appended "steps that made operations durable" required,
    Ticked "timer" required,
    Connected "connection opens" required,
    Disconnected "connection closes" required,
    Greeted "hello finds the space shared" required,
    GreetedAgain "hello repeated after a lost one" required,
    JoinAsked "asks to be sponsored" required,
    JoinRefused "sponsorship refused" required,
    JoinAdmitted "sponsorship granted" required,
    KeysStored "keys stored" required,
    Invited "invitation made" required,
    RequestSent "request sent" required,
    RequestServed "request arrives" required,
    RequestAnswered "request answered" required,
    RequestFailed "request fails" required,
    RequestLost "request or answer lost" required,
    RequestCut "connection cut with a request under way" required,
    Published "gossip published" required,
    GossipArrived "gossip arrives" required,
    GossipDeduplicated "gossip seen before" required,
    GossipForwarded "gossip forwarded" required,
    GossipIgnored "gossip not forwarded" required,
    GossipLost "gossip lost" required,
    GossipDuplicated "gossip delivered twice" required,
    Straggled "message takes very long" required,
    Blocked "message lost in a partition" required,
    PulledPages "pages pulled" required,
    Synced "in step with a peer" required,
    PartitionSymmetric "network parts both ways" required,
    PartitionAsymmetric "network parts one way" required,
    PartitionEnded "partition ends" required,
    CutConnection "connection cut" required,
    CutSilent "dead connection noticed" required,
    CrashedProcess "process dies, disk cache kept" required,
    CrashedPower "power lost" required,
    ClosedCleanly "closed cleanly" required,
    KillArmed "stop inside of a disk call prepared" required,
    KilledInDisk "stopped inside of a disk call" required,
    KilledInOpening "stopped inside of opening" counted,
    DiskErrorArmed "disk failure prepared" required,
    DiskFailed "disk call fails" required,
    IndexLost "index lost" required,
    Recovered "starts again with operations in its log" required,
    ClockJumped "wall clock jumps" required,
    Healed "everything heals" required,
    Converged "converged" required,
    Wrote "transaction asked for" required,
    Acknowledged "transaction acknowledged" required,
    AcknowledgedParted "transaction acknowledged while the network is parted" required,
    Refused "transaction refused" required,
    RefusedRole "transaction of a reader or relay refused" required,
    RefusedStranger "transaction before admission refused" required,
    Unanswered "transaction without answer, its device stopped" required,
    UnansweredKept "transaction without answer that was written" required,
    UnansweredGone "transaction without answer that was not written" required,
    WorkerStarted "job for a worker" required,
    WorkerDone "job of a worker done" required,
    WorkerLost "job of a worker lost with its device" counted,
    Read "read" required,
    ReadAnswered "read answered" required,
    ReadFailed "read answered by an error" required,
    Watched "stream of changes opened" required,
    Changed "changes given to a watcher" required,
    PairSeen "both documents of a transaction read" required,
    CheckedPlaces "places with concurrent values at the end" required,
    CheckedDeleted "deleted documents at the end" required,
    CheckedCounters "counters with increments of several devices" required,
    CheckedLarge "large values at the end" required,
    RestartedAtEnd "all devices started again and compared" required,
}

/// How often each kind happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coverage(Vec<u64>);

impl Default for Coverage {
    fn default() -> Self {
        Self(vec![0; Happening::ALL.len()])
    }
}

impl Coverage {
    /// Counts something.
    pub fn count(&mut self, happening: Happening, times: u64) {
        self.0[happening as usize] += times;
    }

    /// How often it happened.
    pub fn times(&self, happening: Happening) -> u64 {
        self.0[happening as usize]
    }

    /// Adds what another run counted.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            *mine += theirs;
        }
    }

    /// What is required and did not happen.
    pub fn missing(&self) -> Vec<Happening> {
        Happening::ALL.iter().copied().filter(|one| one.is_required() && self.times(*one) == 0).collect()
    }
}
