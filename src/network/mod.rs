//! The libp2p swarm: the only code of Syncline that knows libp2p.
//!
//! One task owns the [`libp2p::Swarm`] and all state about peers; it runs one select loop (`driver`). The rest of the
//! node holds a cloneable [`Network`], which sends commands to that task, and reads one bounded stream of
//! [`NetworkEvent`]s. Outside this module a peer is a [`DeviceId`](syncline_model::DeviceId): the ed25519 key that its
//! libp2p peer id is made of, so that a connection proves which device is at its other end.
//!
//! What travels:
//! - **Gossip** (gossipsub): small frames, anonymous for libp2p because they are sealed and signed inside. A frame is
//!   forwarded only after [`Network::report`] has accepted it.
//! - **Requests** (request–response): opaque bytes with hard caps, under one libp2p protocol per [`Protocol`].
//!
//! Who is connected: peers that were named ([`Network::connect`], [`Network::keep`], `bootstrap`) are dialled again
//! with a jittered exponential back-off for as long as the node runs (`redial`); peers found by mDNS are dialled once
//! per discovery; a peer that was disconnected on purpose is refused until it is named again.
//!
//! An idle connection between nodes stays open, because gossipsub's streams count as use; the idle timeout is for
//! strangers that speak none of it.
//!
//! Everything that arrives is hostile: sizes are capped before memory is taken, queues are bounded, and what is not
//! understood is dropped with a debug line. What a peer sends beyond its allowance is dropped before anybody looks at
//! it (`rates`); what no correct peer does is held against it, and ends in a ban that ends again (`conduct`).
//! gossipsub's own scoring is off: it judges by deliveries and meshes, which a correct peer that knows less would
//! fail.
//!
//! *Invariant:* a reader of events must not wait for the network in the task that reads them. When it stops reading,
//! the swarm stops being polled (back-pressure down to the peers' sockets); commands are still taken.

mod behaviour;
mod conduct;
mod config;
mod driver;
mod error;
mod event;
mod frame;
mod gossip;
mod handle;
mod identity;
mod listen;
mod peers;
mod rates;
mod redial;
mod start;
mod traffic;

pub use conduct::{
    BAN_MAX_MS, BAN_MEMORY_MS, BAN_MS, BAN_SCORE, BANS_MAX, Ban, FLOOD_FRAME_BYTES, FLOOD_FRAMES, FLOOD_REQUESTS,
    Fault, FaultCount, PeerConduct, SCORE_HALF_LIFE_MS, TooManyBans,
};
pub use config::{CONNECT_TIMEOUT, DEFAULT_PORT, Limits, MAX_GOSSIP_FRAME, MAX_TOPICS, NetworkConfig, Protocol};
pub use error::{ConnectError, NetworkError, RequestError, SubscribeError, TopicError};
pub use event::{GossipId, NetworkEvent, NetworkEvents, Reply, Verdict};
pub use gossip::Topic;
pub use handle::Network;
pub use identity::peer_id_text;
pub use libp2p::Multiaddr;
pub use listen::port_of;
pub use peers::{Direction, PeerInfo, PeerState, Unreached};
pub use rates::{
    BURST_SECONDS, FRAME_BYTES_PER_SECOND, FRAMES_PER_SECOND, PeerRates, REQUESTS_PER_SECOND, SERVED_BYTES_PER_SECOND,
};
pub use traffic::Traffic;

#[cfg(test)]
mod tests;
