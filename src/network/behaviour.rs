//! The libp2p behaviours of a node, put together.

use std::time::Duration;

use libp2p::allow_block_list::{self, BlockedPeers};
use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::identity::Keypair;
use libp2p::request_response::{self, ProtocolSupport};
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{StreamProtocol, identify, mdns, ping};

use super::config::{MAX_PENDING_OUTGOING, NetworkConfig, PING_TIMEOUT, PROTOCOL_FAMILY, Protocol};
use super::error::NetworkError;
use super::frame::FrameCodec;
use super::gossip::{self, Gossip};

/// A request–response behaviour of this module.
pub(super) type Requests = request_response::Behaviour<FrameCodec>;

/// Everything that runs on a connection; limits and blocks come first, since they may deny it.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    limits: connection_limits::Behaviour,
    pub(super) blocked: allow_block_list::Behaviour<BlockedPeers>,
    pub(super) gossip: Gossip,
    sync: Requests,
    join: Requests,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    mdns: Toggle<mdns::tokio::Behaviour>,
}

impl Behaviour {
    pub(super) fn new(keypair: &Keypair, config: &NetworkConfig) -> Result<Self, NetworkError> {
        let limits = ConnectionLimits::default()
            .with_max_established(Some(config.limits.connections))
            .with_max_established_per_peer(Some(config.limits.connections_per_peer))
            .with_max_pending_incoming(Some(config.limits.pending_incoming))
            .with_max_pending_outgoing(Some(MAX_PENDING_OUTGOING));
        let identify = identify::Config::new(PROTOCOL_FAMILY.to_owned(), keypair.public())
            .with_agent_version(config.agent.clone())
            .with_push_listen_addr_updates(true)
            // Addresses are kept by the peer table, under its own caps.
            .with_cache_size(0);
        let ping = ping::Config::new().with_interval(config.ping_interval).with_timeout(PING_TIMEOUT);
        let codec = FrameCodec::new(&config.limits);
        Ok(Self {
            limits: connection_limits::Behaviour::new(limits),
            blocked: allow_block_list::Behaviour::default(),
            gossip: gossip::behaviour()?,
            sync: requests(Protocol::Sync, &codec, config),
            join: requests(Protocol::Join, &codec, config),
            identify: identify::Behaviour::new(identify),
            ping: ping::Behaviour::new(ping),
            mdns: discovery(keypair, config).into(),
        })
    }

    /// The behaviour of one request protocol.
    pub(super) fn requests(&mut self, protocol: Protocol) -> &mut Requests {
        match protocol {
            Protocol::Sync => &mut self.sync,
            Protocol::Join => &mut self.join,
        }
    }
}

/// One request protocol: libp2p negotiates per behaviour, so each name has one, and all share one codec and its budget.
fn requests(protocol: Protocol, codec: &FrameCodec, config: &NetworkConfig) -> Requests {
    let support = match config.serve.contains(&protocol) {
        true => ProtocolSupport::Full,
        false => ProtocolSupport::Outbound,
    };
    let settings = request_response::Config::default()
        .with_request_timeout(config.request_timeout)
        .with_max_concurrent_streams(config.limits.streams_per_connection);
    request_response::Behaviour::with_codec(codec.clone(), [(StreamProtocol::new(protocol.name()), support)], settings)
}

/// Discovery on the local network; a machine that forbids multicast does without.
fn discovery(keypair: &Keypair, config: &NetworkConfig) -> Option<mdns::tokio::Behaviour> {
    if !config.mdns {
        return None;
    }
    /// Other nodes hear of this one for so long after its last announcement.
    const TIME_TO_LIVE: Duration = Duration::from_secs(6 * 60);
    let settings = mdns::Config { ttl: TIME_TO_LIVE, ..mdns::Config::default() };
    match mdns::tokio::Behaviour::new(settings, keypair.public().to_peer_id()) {
        Ok(behaviour) => Some(behaviour),
        Err(error) => {
            tracing::warn!(%error, "peers on the local network will not be found: multicast DNS cannot be used");
            None
        }
    }
}
