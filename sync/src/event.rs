//! What goes into the engine and what comes out of it.

use std::collections::BTreeSet;

use syncline_model::{ContentKey, DeviceId, IdPrefix, OperationId, Run, SpaceId, VerifiedRun, VersionVector};

use crate::messages::{Request, Response};
use crate::page::Serving;

/// What the engine must know of the space it reconciles. Its owner answers from memory.
pub trait Replica {
    /// The space.
    fn space(&self) -> SpaceId;
    /// This device.
    fn local(&self) -> DeviceId;
    /// What is durable here and worth having: what peers are told of and sent. Equal for all who hold the same.
    fn vector(&self) -> &VersionVector;
    /// The author's head with what is still being written; `(0, OperationId::ZERO)` if nothing is held.
    fn taken(&self, author: &DeviceId) -> (u64, OperationId);
    /// The id at `sequence` of the author's log, if that is held.
    fn prefix_at(&self, author: &DeviceId, sequence: u64) -> Option<IdPrefix>;
    /// Whether the membership knows the author to have a log here; runs of others wait.
    fn may_write(&self, author: &DeviceId) -> bool;
    /// Whether a run begins a log that the membership need not know before: it proves itself.
    fn begins_by_itself(&self, run: &VerifiedRun) -> bool;
    /// Up to where the author's log is worth holding: without end, or as it was cut.
    fn worth(&self, author: &DeviceId) -> u64;
    /// The log that has this operation of the author, among those held here: the author's own or a branch.
    fn log_of(&self, author: &DeviceId, sequence: u64, id: &OperationId) -> Option<DeviceId>;
    /// Up to where a log is durable.
    fn durable(&self, log: &DeviceId) -> u64;
    /// The position after which a log has operations of its own: 0, or where a branch leaves another log.
    fn branches_after(&self, log: &DeviceId) -> u64;
    /// Operations that are needed and not held. Some may not exist, so that none must be asked for again and again
    /// before others.
    fn wanted_by_id(&self) -> BTreeSet<(DeviceId, u64, OperationId)>;
    /// Whether the peer is a current member of any role.
    fn serves(&self, peer: &DeviceId) -> bool;
    /// An operation that held but not yet admitted ones wait for.
    fn wanted(&self) -> Option<(DeviceId, u64)>;
    /// How many operations are held but not admitted.
    fn waiting_operations(&self) -> usize;
    /// The keys of gossip frames, the one in use first; those of earlier epochs may still be in use elsewhere.
    fn gossip_keys(&self) -> &[ContentKey];
}

/// A request of this engine that waits for its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token(pub u64);

/// A peer's request that waits for its answer; the pump chooses the number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// A gossip frame that waits for its verdict; the pump chooses the number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FrameId(pub u64);

/// What happened. Each event also lets the engine do what has become due.
#[derive(Debug, Clone)]
pub enum Event {
    /// A connected peer shares the space (by the hello).
    PeerShares {
        /// The peer.
        peer: DeviceId,
    },
    /// The peer's last connection closed, or it left the space.
    PeerGone {
        /// The peer.
        peer: DeviceId,
    },
    /// A peer asks something.
    Requested {
        /// The peer.
        peer: DeviceId,
        /// To be named in the answer.
        id: RequestId,
        /// What it asks.
        request: Request,
    },
    /// The answer to an [`Effect::Serve`] was handed to the network, or given up.
    Served {
        /// The peer.
        peer: DeviceId,
        /// The response's length; 0 if there was none.
        bytes: usize,
    },
    /// An [`Effect::Send`] was answered.
    Answered {
        /// Of the request.
        token: Token,
        /// The encoded response.
        bytes: Vec<u8>,
    },
    /// An [`Effect::Send`] will not be answered.
    Failed {
        /// Of the request.
        token: Token,
    },
    /// Own operations became durable.
    Written {
        /// One run; several operations that became durable together are best joined.
        run: VerifiedRun,
    },
    /// A gossip frame arrived.
    Gossip {
        /// The sealed frame.
        bytes: Vec<u8>,
        /// The peer that forwarded it.
        from: DeviceId,
        /// To be named in the verdict.
        id: FrameId,
    },
    /// Runs of one log that part, for peers that have not heard of that.
    Evidence {
        /// The runs.
        runs: Vec<Run>,
    },
    /// More became durable, or was admitted, or was taken in by another way than [`Effect::Ingest`].
    Taken,
    /// The membership changed: other authors may write, other peers are served.
    MembershipChanged,
    /// A deadline passed.
    Tick,
}

/// Which way a run came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// In a gossip frame.
    Gossip,
    /// In a page that was pulled.
    Page,
}

/// What gossip shall do with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Fresh and valid: forward it.
    Accept,
    /// Nothing new, or not to be judged yet: do not forward it, blame nobody.
    Ignore,
    /// Invalid by itself: whoever forwarded it is at fault.
    Reject,
}

/// Why a peer is to be blamed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Misbehaviour {
    /// A response that does not decode.
    MalformedResponse,
    /// A response to another question.
    UnexpectedResponse,
    /// A page with more bytes than were asked for.
    OversizedPage,
    /// A run that does not decode.
    MalformedRun,
    /// A run, or a claim of a fork, that lies in none of the ranges asked for.
    NotAskedFor,
    /// A run whose signature does not hold.
    BadSignature,
}

/// What the owner shall do, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Ask a peer; ends in [`Event::Answered`] or [`Event::Failed`].
    Send {
        /// The peer.
        peer: DeviceId,
        /// To be named in the outcome.
        token: Token,
        /// What to ask.
        request: Request,
    },
    /// Answer a peer's request.
    Reply {
        /// The peer.
        peer: DeviceId,
        /// The request.
        id: RequestId,
        /// The answer.
        response: Response,
    },
    /// Read operations, answer a peer's request with [`Serving::page`], then report [`Event::Served`].
    Serve {
        /// The peer.
        peer: DeviceId,
        /// The request.
        id: RequestId,
        /// What to read.
        serving: Serving,
    },
    /// Take a run in: it follows the author's head. [`Replica::taken`] must say so before the next event.
    Ingest {
        /// The run.
        run: VerifiedRun,
        /// Who sent it.
        peer: DeviceId,
        /// Which way.
        path: Path,
    },
    /// A peer offers what lies behind the fork or the cut of a log. Said now and then as long as that is so.
    Contested {
        /// Whose log.
        author: DeviceId,
    },
    /// A run that parts from the author's held log, or that continues a branch of it: it proves a fork, or was wanted.
    Branch {
        /// The run.
        run: VerifiedRun,
        /// Who sent it.
        peer: DeviceId,
        /// Whether it was fetched since something builds on it.
        wanted: bool,
    },
    /// Hand a sealed frame to gossip.
    Publish {
        /// The frame.
        bytes: Vec<u8>,
    },
    /// Tell gossip about a frame.
    Verdict {
        /// The frame.
        id: FrameId,
        /// The peer that forwarded it.
        from: DeviceId,
        /// What to do.
        verdict: Verdict,
    },
    /// The peer holds, or claims to hold, another operation at this position. Said once for each author and peer;
    /// nothing more of the author is pulled from that peer.
    Equivocation {
        /// Whose log.
        author: DeviceId,
        /// A position at which the logs differ; not always the first one.
        sequence: u64,
        /// The peer.
        peer: DeviceId,
    },
    /// The peer did what no correct peer does. It is left alone for a while.
    Misbehaved {
        /// The peer.
        peer: DeviceId,
        /// What it did.
        reason: Misbehaviour,
    },
    /// Everything that the peer was heard to hold is taken in here. Said each time this becomes true.
    Synced {
        /// The peer.
        peer: DeviceId,
    },
}
