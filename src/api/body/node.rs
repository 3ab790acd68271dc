//! The node and its peers.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::network;

/// The peers that are connected, kept or banned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PeerList {
    /// By device.
    pub peers: Vec<Peer>,
}

/// How a peer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PeerStanding {
    /// At least one connection is open.
    Connected,
    /// A connection is being opened.
    Connecting,
    /// It will be dialled again.
    Waiting,
    /// It is left alone.
    Disconnected,
}

/// Who opened a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ConnectionDirection {
    /// The peer did.
    Incoming,
    /// This node did.
    Outgoing,
}

/// What is known about one peer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Peer {
    /// Its device id.
    pub device: String,
    /// How it stands.
    pub state: PeerStanding,
    /// In how many milliseconds it is dialled again, while it waits.
    pub next_attempt_ms: Option<u64>,
    /// Whether it is dialled again when the connection is lost.
    pub kept: bool,
    /// The addresses that it can be dialled at, proven ones first.
    pub addresses: Vec<String>,
    /// The other end of its oldest open connection.
    pub remote_address: Option<String>,
    /// Who opened that connection.
    pub direction: Option<ConnectionDirection>,
    /// How many connections to it are open.
    pub connections: usize,
    /// Since when it is connected, in milliseconds since 1970.
    pub connected_since_ms: Option<u64>,
    /// When it was last heard of, in milliseconds since 1970.
    pub last_seen_ms: Option<u64>,
    /// The last measured round trip, in microseconds.
    pub latency_us: Option<u64>,
    /// What it says it runs; not proven.
    pub agent: Option<String>,
    /// The protocols that it says it speaks.
    pub protocols: Vec<String>,
    /// The points of its faults that are not forgotten; at 100 it is banned for some time.
    #[serde(default)]
    pub score: u32,
    /// What it did that no correct peer does.
    #[serde(default)]
    pub faults: Vec<PeerFault>,
    /// Until when it is banned, in milliseconds since 1970.
    #[serde(default)]
    pub banned_until_ms: Option<u64>,
    /// Whether a person banned it.
    #[serde(default)]
    pub banned_by_person: bool,
    /// Gossip frames of it that were dropped unopened, since it sent more than it may.
    #[serde(default)]
    pub frames_limited: u64,
    /// Requests of it that were dropped unread, since it asked more than it may.
    #[serde(default)]
    pub requests_limited: u64,
}

/// How often a peer was at one fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PeerFault {
    /// What it did: `bad-signature`, `malformed-run`, `malformed-response`, `unexpected-response`, `not-asked-for`,
    /// `oversized-page`, `invalid-gossip`, `malformed-request` or `flood`.
    pub fault: String,
    /// How often.
    pub count: u64,
    /// When it did so last, in milliseconds since 1970.
    pub last_ms: u64,
}

/// For how long to ban a peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BanRequest {
    /// For so many milliseconds from now.
    pub lasts_ms: u64,
}

/// A peer that was banned by a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BannedPeer {
    /// Its device id.
    pub device: String,
    /// Until when, in milliseconds since 1970.
    pub until_ms: u64,
}

impl From<network::PeerInfo> for Peer {
    fn from(peer: network::PeerInfo) -> Self {
        let (state, next_attempt_ms) = match peer.state {
            network::PeerState::Connected => (PeerStanding::Connected, None),
            network::PeerState::Connecting => (PeerStanding::Connecting, None),
            network::PeerState::Waiting { next_attempt_ms } => (PeerStanding::Waiting, Some(next_attempt_ms)),
            network::PeerState::Disconnected => (PeerStanding::Disconnected, None),
        };
        Self {
            device: peer.device.to_string(),
            state,
            next_attempt_ms,
            kept: peer.kept,
            addresses: peer.addresses.iter().map(ToString::to_string).collect(),
            remote_address: peer.remote_address.map(|address| address.to_string()),
            direction: peer.direction.map(|direction| match direction {
                network::Direction::Incoming => ConnectionDirection::Incoming,
                network::Direction::Outgoing => ConnectionDirection::Outgoing,
            }),
            connections: peer.connections,
            connected_since_ms: peer.connected_since_ms,
            last_seen_ms: peer.last_seen_ms,
            latency_us: peer.latency_us,
            agent: peer.agent,
            protocols: peer.protocols,
            score: peer.conduct.score,
            faults: peer.conduct.faults.into_iter().map(PeerFault::from).collect(),
            banned_until_ms: peer.conduct.banned_until_ms,
            banned_by_person: peer.conduct.banned_by_person,
            frames_limited: peer.conduct.frames_limited,
            requests_limited: peer.conduct.requests_limited,
        }
    }
}

impl From<network::FaultCount> for PeerFault {
    fn from(fault: network::FaultCount) -> Self {
        Self { fault: fault.fault.name().to_owned(), count: fault.count, last_ms: fault.last_ms }
    }
}

impl From<network::Ban> for BannedPeer {
    fn from(ban: network::Ban) -> Self {
        Self { device: ban.device.to_string(), until_ms: ban.until_ms }
    }
}

/// What a backup with keys needs.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BackupRequest {
    /// The passphrase that the keys are sealed under.
    pub passphrase: String,
}

impl std::fmt::Debug for BackupRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BackupRequest(…)")
    }
}

/// Where to connect to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConnectRequest {
    /// A multiaddress, such as `/ip4/192.0.2.1/tcp/34569`.
    pub address: String,
}

/// A peer that was connected to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConnectedPeer {
    /// Its device id.
    pub device: String,
}

/// The answer of a node that works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// Always `ok`.
    pub status: String,
}
