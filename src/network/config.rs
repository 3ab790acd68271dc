//! What a network is started with, and every limit it keeps.

use std::fmt;
use std::time::Duration;

use libp2p::Multiaddr;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::conduct::Ban;
use super::rates::PeerRates;

/// The port that a node listens on unless it is told otherwise, for TCP and for QUIC.
pub const DEFAULT_PORT: u16 = 34569;
/// What identify names the protocol family.
pub(super) const PROTOCOL_FAMILY: &str = "/syncline/1";

/// How long a connection to a peer that is not a Syncline node may stay idle.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// The pause between two pings of one connection.
pub(super) const PING_INTERVAL: Duration = Duration::from_secs(15);
/// How long a ping may take.
pub(super) const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// After so many pings in a row without an answer a connection is closed: TCP alone would take a quarter of an hour.
pub(super) const PING_FAILURES_BEFORE_CLOSE: u32 = 2;
/// How long a request may take from its first byte to the last byte of its response.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);
/// How long [`Network::connect`](super::Network::connect) waits for an outcome.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long starting waits for the sockets to report their addresses.
pub(super) const LISTEN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long shutting down waits for connections to close cleanly.
pub(super) const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// The first pause before a lost peer is dialled again; it doubles up to [`BACKOFF_LIMIT`].
pub(super) const BACKOFF_START: Duration = Duration::from_secs(1);
/// The longest pause between two dials of a peer.
pub(super) const BACKOFF_LIMIT: Duration = Duration::from_secs(60);
/// A connection that lasted this long proves the peer healthy: its back-off starts anew.
pub(super) const STABLE_AFTER: Duration = Duration::from_secs(30);
/// A peer found by mDNS is dialled within this time by the device with the smaller id, and after it by the other one,
/// so that two nodes that find each other seldom dial at once.
pub(super) const DISCOVERY_JITTER: Duration = Duration::from_millis(500);

/// The largest gossip frame.
pub const MAX_GOSSIP_FRAME: usize = 64 * 1024;
/// The largest gossipsub message. It must hold a peer's whole list of subscriptions, which is sent in one piece on
/// connecting: [`MAX_TOPICS`] topics of [`MAX_TOPIC_LENGTH`] bytes and some framing each.
pub(super) const MAX_GOSSIP_RPC: usize = 256 * 1024;
/// How many topics this node, and every peer of it, may subscribe to.
pub const MAX_TOPICS: usize = 2048;
/// The longest topic name in bytes.
pub(super) const MAX_TOPIC_LENGTH: usize = 100;
/// How many gossip frames may wait for one slow peer before further ones are dropped.
pub(super) const GOSSIP_QUEUE_PER_PEER: usize = 1024;
/// How many frames one gossipsub message may carry.
pub(super) const MAX_FRAMES_PER_RPC: usize = 64;
/// The pause between two heartbeats of gossipsub, which mend the mesh; no frame waits for one.
pub(super) const GOSSIP_HEARTBEAT: Duration = Duration::from_secs(1);
/// How long after leaving a topic a peer may not be grafted into its mesh again.
pub(super) const UNSUBSCRIBE_BACKOFF: Duration = Duration::from_secs(1);

/// How many requests of our own may be unanswered at once.
pub(super) const MAX_OUTSTANDING_REQUESTS: usize = 4096;
/// How many requests of peers may be unanswered at once.
pub(super) const MAX_PENDING_REPLIES: usize = 1024;
/// How many bytes of received requests may be held at once, over all peers.
pub(super) const MAX_REQUEST_BYTES_HELD: usize = 128 * 1024 * 1024;

/// How many events may wait for the reader before the swarm stops being polled.
pub(super) const EVENT_QUEUE: usize = 1024;
/// How many commands may wait for the swarm's task.
pub(super) const COMMAND_QUEUE: usize = 4096;
/// How many connections may be half-open towards peers.
pub(super) const MAX_PENDING_OUTGOING: u32 = 64;
/// How many streams of one connection may be under negotiation.
pub(super) const MAX_NEGOTIATING_STREAMS: usize = 128;
/// How many peers and addresses are dialled again and again.
pub(super) const MAX_KEPT: usize = 1024;
/// How many addresses of one peer are remembered.
pub(super) const MAX_ADDRESSES_PER_PEER: usize = 16;
/// The longest address that is remembered, in bytes.
pub(super) const MAX_ADDRESS_LENGTH: usize = 256;
/// How much of a peer's own description (agent, one protocol name) is kept, in characters.
pub(super) const MAX_DESCRIPTION_LENGTH: usize = 128;
/// How many protocol names of a peer are kept.
pub(super) const MAX_PROTOCOLS_PER_PEER: usize = 32;

/// A request–response protocol that Syncline speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Reconciliation between members: `/syncline/sync/1`.
    Sync,
    /// A joiner and its sponsor: `/syncline/join/1`.
    Join,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Sync, Self::Join];

    /// The name that libp2p negotiates.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sync => "/syncline/sync/1",
            Self::Join => "/syncline/join/1",
        }
    }
}

/// The caps that an operator or a test may want to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Established connections, in and out.
    pub connections: u32,
    /// Established connections to one peer.
    pub connections_per_peer: u32,
    /// Incoming connections whose handshake is not finished.
    pub pending_incoming: u32,
    /// Requests in flight on one connection, in each direction and for each protocol.
    pub streams_per_connection: usize,
    /// The largest request in bytes.
    pub request_bytes: usize,
    /// The largest response in bytes.
    pub response_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 200,
            connections_per_peer: 3,
            pending_incoming: 30,
            streams_per_connection: 100,
            request_bytes: 1024 * 1024,
            response_bytes: 10 * 1024 * 1024,
        }
    }
}

/// What [`Network::start`](super::Network::start) needs to know.
#[derive(Clone)]
pub struct NetworkConfig {
    /// The seed of the device's ed25519 key.
    pub secret: Zeroizing<[u8; 32]>,
    /// Where to listen; empty means [`DEFAULT_PORT`] on every interface, or a free port if that one is taken.
    pub listen: Vec<Multiaddr>,
    /// The port that an earlier start took, tried before [`DEFAULT_PORT`] when `listen` is empty.
    pub preferred_port: Option<u16>,
    /// Peers to connect to now and whenever the connection is lost.
    pub bootstrap: Vec<Multiaddr>,
    /// Whether to find peers on the local network.
    pub mdns: bool,
    /// Whether to use TCP.
    pub tcp: bool,
    /// Whether to use QUIC.
    pub quic: bool,
    /// The name and version that peers are told, such as `syncline/0.1.0`.
    pub agent: String,
    /// The request protocols that this node answers; it may ask under any of them.
    pub serve: Vec<Protocol>,
    /// The caps.
    pub limits: Limits,
    /// How much one peer may send and ask for.
    pub rates: PeerRates,
    /// Bans that persons set before.
    pub bans: Vec<Ban>,
    /// How long a connection to a peer that is not a Syncline node may stay idle.
    pub idle_timeout: Duration,
    /// The pause between two pings of one connection.
    pub ping_interval: Duration,
    /// How long a request may take.
    pub request_timeout: Duration,
    /// How long [`Network::connect`](super::Network::connect) waits for an outcome.
    pub connect_timeout: Duration,
}

impl NetworkConfig {
    /// The defaults of a node with this secret key.
    pub fn new(secret: [u8; 32]) -> Self {
        Self {
            secret: Zeroizing::new(secret),
            listen: Vec::new(),
            preferred_port: None,
            bootstrap: Vec::new(),
            mdns: true,
            tcp: true,
            quic: true,
            agent: concat!("syncline/", env!("CARGO_PKG_VERSION")).to_owned(),
            serve: Protocol::ALL.to_vec(),
            limits: Limits::default(),
            rates: PeerRates::default(),
            bans: Vec::new(),
            idle_timeout: IDLE_TIMEOUT,
            ping_interval: PING_INTERVAL,
            request_timeout: REQUEST_TIMEOUT,
            connect_timeout: CONNECT_TIMEOUT,
        }
    }
}

/// Everything but the secret.
impl fmt::Debug for NetworkConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetworkConfig")
            .field("listen", &self.listen)
            .field("preferred_port", &self.preferred_port)
            .field("bootstrap", &self.bootstrap)
            .field("mdns", &self.mdns)
            .field("tcp", &self.tcp)
            .field("quic", &self.quic)
            .field("agent", &self.agent)
            .field("serve", &self.serve)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
