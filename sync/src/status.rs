//! What a person or a metric may want to know of the engine.

use syncline_model::DeviceId;

/// How reconciliation with all peers stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// By device id.
    pub peers: Vec<PeerStatus>,
    /// Verified runs that wait for operations before them, or for their author to become known.
    pub pending_runs: usize,
    /// The memory that these take.
    pub pending_bytes: usize,
    /// Pulls that are not answered yet.
    pub pulls_in_flight: usize,
    /// What was counted since the start.
    pub counters: Counters,
}

/// How reconciliation with one peer stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// The peer.
    pub peer: DeviceId,
    /// Whether everything that it was heard to hold is held here.
    pub synced: bool,
    /// Operations that it was heard to hold and that are missing here.
    pub missing: u64,
    /// Whether it refuses to serve this device, which is not a member in its eyes.
    pub refuses: bool,
    /// When the vectors were last compared, on the clock that the events came with.
    pub last_summary_ms: Option<u64>,
    /// Requests to it that are not answered yet.
    pub in_flight: usize,
    /// Bytes of responses from it.
    pub received_bytes: u64,
    /// Bytes of operations sent to it in pages.
    pub served_bytes: u64,
}

/// What the engine keeps in memory, each bounded by a name in [`limits`](crate::limits).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// The memory of verified runs that wait for something.
    pub pending_bytes: usize,
    /// Pulls that are not answered yet.
    pub pulls_in_flight: usize,
    /// The memory of runs that were handed over and are not durable.
    pub unwritten_bytes: usize,
    /// How many those are.
    pub unwritten_runs: usize,
    /// Different logs that are remembered, by author and peer.
    pub forks: usize,
}

/// Totals since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Comparisons that were asked for.
    pub summaries_sent: u64,
    /// Comparisons that peers asked for.
    pub summaries_received: u64,
    /// Comparisons that found both vectors equal.
    pub summaries_equal: u64,
    /// Pulls that were sent.
    pub pulls_sent: u64,
    /// Pages that arrived.
    pub pages_received: u64,
    /// Bytes of responses that arrived.
    pub received_bytes: u64,
    /// Bytes of pages that were served.
    pub served_bytes: u64,
    /// Pulls that were refused because too many were being answered.
    pub busy: u64,
    /// Requests refused because the peer is no member.
    pub not_served: u64,
    /// Signatures that were checked.
    pub signatures_checked: u64,
    /// Runs that were handed over.
    pub runs_ingested: u64,
    /// Operations that were handed over.
    pub operations_ingested: u64,
    /// Operations that arrived and were held already.
    pub operations_duplicate: u64,
    /// Runs that arrived and were dropped for lack of room; they are pulled again.
    pub pending_dropped: u64,
    /// Ranges that a peer was thought to hold and did not send.
    pub fruitless_ranges: u64,
    /// Requests that failed or timed out.
    pub failures: u64,
    /// Acts of peers that no correct peer does.
    pub misbehaviour: u64,
    /// Different logs of one author that were seen, by author and peer.
    pub equivocations: u64,
    /// Gossip frames that were published.
    pub gossip_published: u64,
    /// Gossip frames that were fresh.
    pub gossip_accepted: u64,
    /// Gossip frames that held no news or cannot be judged yet.
    pub gossip_ignored: u64,
    /// Gossip frames that are invalid by themselves.
    pub gossip_rejected: u64,
}
