//! What can happen in a run, as it is traced and counted.

macro_rules! happenings {
    ($($name:ident $text:literal $level:ident $($fault:ident)?;)*) => {
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

            /// In how many seeds it must have happened at least once, or the simulator no longer tests what it is for.
            pub fn required_within(self) -> Option<u64> {
                match self {
                    $(Self::$name => happenings!(@ $level),)*
                }
            }

            /// Whether it is something that was made to go wrong.
            pub fn is_fault(self) -> bool {
                match self {
                    $(Self::$name => happenings!(# $($fault)?),)*
                }
            }
        }
    };
    (@ required) => { Some(COVERED_SEEDS) };
    (@ rare) => { Some(COVERED_SEEDS_RARE) };
    (@ counted) => { None };
    (# fault) => { true };
    (#) => { false };
}

/// Seeds from which on everything that is required must have happened.
const COVERED_SEEDS: u64 = 300;
/// The same for what is rare.
const COVERED_SEEDS_RARE: u64 = 3_000;

happenings! {
    Started "device starts" required;
    Stepped "steps" required;
    Appended "steps that made operations durable" required;
    Ticked "timer" required;
    Connected "connection opens" required;
    Disconnected "connection closes" required;
    Greeted "hello finds a space shared" required;
    GreetedAgain "hello repeated after a lost one" required;
    GreetedSeveral "hello finds several spaces shared" required;
    JoinAsked "asks to be sponsored" required;
    JoinRefused "sponsorship refused" required;
    JoinAdmitted "sponsorship granted" required;
    JoinedWhileRunning "space added to a device that runs" required;
    KeysStored "keys stored" required;
    Invited "invitation made" required;
    RefusedKey "write refused until the epoch's key is there" required;
    Governed "governing act" required;
    WriterRemoved "writer removed" required;
    OtherRemoved "member that does not write removed" required;
    RoleLost "right to write taken" rare;
    HandedOver "space handed over" rare;
    TakenOver "space taken over with the recovery key" rare;
    Revoked "removal that all who are connected know of" required;
    RefusedLost "write of a device refused that was removed or lost the right to write" required;
    WriteCut "acknowledged write behind a cut" required;
    BehindCutVouched "operations behind a cut that others built on" rare;
    CheckedRemoved "removed device has no later key" required;
    RequestSent "request sent" required;
    RequestServed "request arrives" required;
    RequestAnswered "request answered" required;
    RequestFailed "request fails" required;
    RequestLost "request or answer lost" required fault;
    RequestCut "connection cut with a request under way" required;
    Published "gossip published" required;
    GossipArrived "gossip arrives" required;
    GossipDeduplicated "gossip seen before" required;
    GossipForwarded "gossip forwarded" required;
    GossipIgnored "gossip not forwarded" required;
    GossipRejected "gossip of a liar rejected" required;
    GossipLost "gossip lost" required fault;
    GossipDuplicated "gossip delivered twice" required fault;
    Straggled "message takes very long" required fault;
    Blocked "message lost in a partition" required fault;
    Slowed "message on a slow link" required fault;
    Clogged "message held up on a clogged link" required fault;
    Throttled "message waits for bandwidth" required;
    Synced "in step with a peer" required;
    PulledPages "pages pulled" required;
    PageCutShort "page that its size cut short" rare;
    PageResumed "page that goes on where one ended" rare;
    EngineDuplicates "operations that arrived twice" required;
    EngineFruitless "ranges that a peer was thought to hold and did not send" required;
    EngineBusy "pulls refused because too many were being answered" required;
    EngineNotServed "requests refused because the peer is no member" required;
    EngineFailures "engine requests that failed" required;
    EngineEqual "comparisons that found both sides equal" required;
    EngineDropped "runs dropped for lack of room" counted;
    PartitionSymmetric "network parts both ways" required fault;
    PartitionAsymmetric "network parts one way" required fault;
    PartitionEnded "partition ends" required;
    CutConnection "connection cut" required fault;
    CutInPage "connection cut in the middle of a page" required fault;
    CutSilent "dead connection noticed" required;
    SlowLink "link becomes slow" required fault;
    ClogBegan "link is clogged" required fault;
    CrashedProcess "process dies, disk cache kept" required fault;
    CrashedPower "power lost" required fault;
    ClosedCleanly "closed cleanly" required fault;
    KillArmed "stop inside of a disk call prepared" required;
    KilledInDisk "stopped inside of a disk call" required fault;
    StartFailed "start ends in the storage" required;
    DiskErrorArmed "disk failure prepared" required;
    DiskFailed "disk call fails" required fault;
    DiskFilled "disk becomes full" required fault;
    DiskRefused "full disk refuses" required fault;
    DiskFreed "disk has room again" required;
    IndexLost "index lost" required fault;
    IndexRebuilt "index completed from the log" required;
    TailCopied "what may not be durable copied to a new segment" required;
    BitFlipped "bit of a stored operation flips" required fault;
    DamageMet "damaged operation met while running" required;
    DamageHealed "device holds again what damage took" required;
    BegunAnew "starts again because keys came late" counted;
    Recovered "starts again with operations in its log" required;
    Paused "device pauses" required fault;
    ClockJumped "wall clock jumps" required fault;
    LieForged "lie: run whose signature does not hold" required fault;
    LieMalformedRun "lie: run that does not decode" required fault;
    LieReplayed "lie: run of another space" required fault;
    LieNotAskedFor "lie: run that was not asked for" required fault;
    LieWithheld "lie: operations withheld" required fault;
    LieWrongAnswer "lie: answer to another question" required fault;
    LieMalformed "lie: malformed answer" required fault;
    LieOversized "lie: page larger than asked for" required fault;
    LieFork "lie: claim of a fork" required fault;
    LieClaim "lie: claim to hold what does not exist" required fault;
    LieRefusal "lie: busy, or no member" required fault;
    LieFrame "lie: gossip frame of garbage" required fault;
    LieSealedFrame "lie: sealed gossip frame with a forged or malformed run" required fault;
    LieStranger "lie: run of an author that nobody admitted" required fault;
    LieGapped "lie: run without those before it" required fault;
    LieRequest "lie: malformed request" required fault;
    LieFlood "lie: request of a flood" required fault;
    LieMute "lie: no answer, after the claim to hold something" required fault;
    LieNotCanonical "lie: request in another form than the canonical one" required fault;
    LieUnentitled "lie: operation that its author is not entitled to" required fault;
    LieJoin "lie: application with a forged certificate" required fault;
    RequestMalformed "request of a liar that does not decode" required;
    FloodRefused "request beyond those that may be under way" required;
    BlamedMalformedResponse "blamed for a malformed answer" required;
    BlamedUnexpectedResponse "blamed for an answer to another question" required;
    BlamedOversizedPage "blamed for a page larger than asked for" required;
    BlamedMalformedRun "blamed for a run that does not decode" required;
    BlamedNotAskedFor "blamed for what was not asked for" required;
    BlamedBadSignature "blamed for a signature that does not hold" required;
    Equivocation "liar said to hold another log" required;
    Healed "everything heals" required;
    Converged "converged" required;
    Wrote "transaction asked for" required;
    Acknowledged "transaction acknowledged" required;
    AcknowledgedParted "transaction acknowledged while the network is parted" required;
    Refused "transaction refused" required;
    RefusedRole "transaction of a reader or relay refused" required;
    RefusedStranger "transaction before admission refused" required;
    RefusedDisk "transaction refused by a full or damaged disk" counted;
    Unanswered "transaction without answer, its device stopped" required;
    UnansweredKept "transaction without answer that was written" required;
    UnansweredGone "transaction without answer that was not written" required;
    WorkerStarted "job for a worker" required;
    WorkerDone "job of a worker done" required;
    WorkerLost "job of a worker lost with its device" counted;
    Read "read" required;
    ReadAnswered "read answered" required;
    ReadFailed "read answered by an error" required;
    ReadUnable "read refused while the disk fails or is damaged" counted;
    ReadOwnWrite "own write read by its causal token" required;
    TokenForeign "causal token of before a restart refused" counted;
    Watched "stream of changes opened" required;
    WatchedSince "stream of changes opened from an earlier write on" required;
    Changed "changes given to a watcher" required;
    PairSeen "both documents of a transaction read" required;
    TextSeen "text of one author read" required;
    TextSettled "text read again after an unanswered write" required;
    CheckedPlaces "places with concurrent values at the end" required;
    CheckedDeleted "deleted documents at the end" required;
    CheckedCounters "counters with increments of several devices" required;
    CheckedTexts "texts of one author compared at the end" required;
    CheckedRelays "relays without content keys at the end" required;
    KeptUnentitled "operations of liars that are kept and do not count" required;
    CheckedLogs "logs verified at the end" required;
    CheckedStreams "streams compared with all changes at the end" required;
    CheckedLarge "large values at the end" required;
    RestartedAtEnd "all devices started again and compared" required;
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

    /// How much was made to go wrong: each lost, doubled, late or blocked message, each cut, stop, failure of a disk,
    /// flipped bit, pause, jump of a clock and lie is one.
    pub fn faults(&self) -> u64 {
        Happening::ALL.iter().filter(|one| one.is_fault()).map(|one| self.times(*one)).sum()
    }

    /// Adds what another run counted.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            *mine += theirs;
        }
    }

    /// What should have happened in so many runs and did not.
    pub fn missing(&self, runs: u64) -> Vec<Happening> {
        let is_due = |one: &Happening| one.required_within().is_some_and(|seeds| runs >= seeds);
        Happening::ALL.iter().copied().filter(|one| is_due(one) && self.times(*one) == 0).collect()
    }
}
