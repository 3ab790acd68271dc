//! Every maximum and every delay of gossip and reconciliation, by name.

use syncline_model::limits::{MEMBERS_MAX, RUN_ENCODED_BYTES_MAX};

/// Longest request that is decoded, in bytes.
pub const REQUEST_BYTES_MAX: usize = 1 << 20;
/// Longest response that is decoded, in bytes: a page, or one run of the greatest size.
pub const RESPONSE_BYTES_MAX: usize = RUN_ENCODED_BYTES_MAX + PAGE_BYTES_MAX;
/// Most spaces that one hello asks about.
pub const HELLO_TAGS_MAX: usize = 1024;

/// Up to how many authors a summary says the whole vector, so that a reconnect takes one round trip.
pub const SUMMARY_AUTHORS_FEW: usize = 48;
/// Most vector entries that a node puts into one summary; further buckets come in the next one.
pub const SUMMARY_ENTRIES_MAX: usize = 4096;
/// Most vector entries that are accepted in one summary, and remembered of one peer.
pub const PEER_ENTRIES_MAX: usize = MEMBERS_MAX;

/// Most ranges in one pull.
pub const RANGES_MAX: usize = 64;
/// Most runs in one page: one for each range, and some that a run's limits make end sooner.
pub const RUNS_PER_PAGE_MAX: usize = 4 * RANGES_MAX;
/// Most bytes of runs in one page, unless it is a single run.
pub const PAGE_BYTES_MAX: usize = 2 << 20;
/// Fewest bytes that a page is asked to have; a slow peer's pages shrink down to this.
pub const PAGE_BYTES_MIN: usize = 64 << 10;
/// Bytes asked of a peer that has not answered a pull yet.
pub const PAGE_BYTES_FIRST: usize = 1 << 20;
/// Most pulls in flight to one peer.
pub const PULLS_PER_PEER_MAX: usize = 4;
/// Most pulls in flight in one space.
pub const PULLS_MAX: usize = 16;
/// Most pulls of one peer that are being answered at a time; further ones are told to come back.
pub const SERVING_PER_PEER_MAX: usize = 8;
/// Most peers with which one space is reconciled.
pub const PEERS_MAX: usize = 1024;

/// Most memory that verified runs take while operations before them are missing, in bytes.
pub const GAPS_BYTES_MAX: usize = 32 << 20;
/// The same for one author.
pub const GAPS_BYTES_PER_AUTHOR_MAX: usize = 16 << 20;
/// Most memory that runs of authors unknown to the membership take, in bytes.
pub const STRANGERS_BYTES_MAX: usize = 8 << 20;
/// The same for one author: its first page.
pub const STRANGERS_BYTES_PER_AUTHOR_MAX: usize = 4 << 20;
/// What a decoded operation is taken to need in memory beside its bytes.
pub const OPERATION_MEMORY_BYTES: usize = 160;
/// How many bytes of runs may be handed over and not yet durable before nothing more is pulled.
pub const UNWRITTEN_BYTES_MAX: usize = 32 << 20;
/// The same in runs.
pub const UNWRITTEN_RUNS_MAX: usize = 4096;
/// From how many held but not admitted operations on only what they wait for is pulled.
pub const WAITING_OPERATIONS_PAUSE: usize = 1 << 16;
/// Most authors that are followed from one wanted operation to the next.
pub const WANTED_AUTHORS_MAX: usize = 64;
/// Most authors whose log at one peer is remembered as different from the one held here.
pub const FORKS_PER_PEER_MAX: usize = 64;
/// The same over all peers.
pub const FORKS_MAX: usize = 4096;

/// Most memory that the runs of a branch take that is fetched, until they join what is held; in bytes.
pub const BRANCH_BYTES_MAX: usize = 32 << 20;
/// Most searches for the places where peers' logs part from the ones here.
pub const SEARCHES_MAX: usize = 256;

/// Longest gossip frame that carries operations; beyond it only heads are announced. In bytes, sealed.
pub const GOSSIP_INLINE_BYTES_MAX: usize = 48 << 10;
/// Longest run that is shown to everybody as evidence of a fork, in bytes.
pub const EVIDENCE_BYTES_MAX: usize = GOSSIP_INLINE_BYTES_MAX;
/// How long after a peer was contested that is said again, at least.
pub const CONTESTED_MS: u64 = 5_000;
/// Longest gossip frame that is opened, in bytes.
pub const GOSSIP_FRAME_BYTES_MAX: usize = 64 << 10;
/// Most heads in one announcement.
pub const HEADS_PER_FRAME_MAX: usize = 512;

/// How long after the last comparison two peers compare again, before jitter.
pub const ANTI_ENTROPY_MS: u64 = 10_000;
/// How long a request may take.
pub const REQUEST_TIMEOUT_MS: u64 = 30_000;
/// How long the device with the greater id waits for the other one's first summary.
pub const FIRST_SUMMARY_PATIENCE_MS: u64 = 2_000;
/// How long a gap that gossip left is expected to be filled by gossip.
pub const GAP_PATIENCE_MS: u64 = 250;
/// How long pulled heads are collected before they are announced to others, while pulls go on.
pub const ANNOUNCE_DELAY_MS: u64 = 1_000;
/// How long after gossip got another name vectors are compared: what gave it that is durable by then.
pub const RENAMED_DELAY_MS: u64 = 200;
/// How long a peer is left alone after a failed request; doubles with each further one.
pub const FAILURE_BACKOFF_MS: u64 = 1_000;
/// The longest such time.
pub const FAILURE_BACKOFF_MAX_MS: u64 = 60_000;
/// How long a peer is asked nothing after it sent what no correct peer sends.
pub const MISBEHAVIOUR_BACKOFF_MS: u64 = 60_000;
