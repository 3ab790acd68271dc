//! What is known about each peer, and what of it is shown.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol as Part;
use libp2p::swarm::ConnectionId;
use serde::Serialize;
use syncline_model::DeviceId;

use super::conduct::PeerConduct;
use super::config::{
    MAX_ADDRESS_LENGTH, MAX_ADDRESSES_PER_PEER, MAX_DESCRIPTION_LENGTH, MAX_PROTOCOLS_PER_PEER,
    PING_FAILURES_BEFORE_CLOSE,
};
use super::redial::{Redial, Standing};

/// Who opened a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// The peer did.
    Incoming,
    /// This node did.
    Outgoing,
}

/// How a peer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerState {
    /// At least one connection is open.
    Connected,
    /// A connection is being opened.
    Connecting,
    /// It will be dialled again.
    Waiting {
        /// In how many milliseconds.
        next_attempt_ms: u64,
    },
    /// It is left alone.
    Disconnected,
}

/// What is known about one peer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PeerInfo {
    /// Its device.
    pub device: DeviceId,
    /// How it stands.
    pub state: PeerState,
    /// Whether it is dialled again when the connection is lost.
    pub kept: bool,
    /// The addresses it can be dialled at, proven ones first.
    pub addresses: Vec<Multiaddr>,
    /// The other end of its oldest open connection.
    pub remote_address: Option<Multiaddr>,
    /// Who opened that connection.
    pub direction: Option<Direction>,
    /// How many connections to it are open.
    pub connections: usize,
    /// Since when it is connected, in milliseconds since 1970.
    pub connected_since_ms: Option<u64>,
    /// When it was last heard of, in milliseconds since 1970.
    pub last_seen_ms: Option<u64>,
    /// The last measured round trip in microseconds.
    pub latency_us: Option<u64>,
    /// What it says it runs; not proven.
    pub agent: Option<String>,
    /// The protocols it says it speaks.
    pub protocols: Vec<String>,
    /// How it conducts itself.
    pub conduct: PeerConduct,
}

impl PeerInfo {
    /// A peer of which nothing but its conduct is known.
    pub(super) fn absent(device: DeviceId, conduct: PeerConduct) -> Self {
        Peer::default().info(device, &Redial::default(), Instant::now(), conduct)
    }
}

/// An address that is dialled again and again where nobody has answered yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unreached {
    /// The address.
    pub address: Multiaddr,
    /// How often it was tried.
    pub attempts: u32,
    /// What went wrong last.
    pub error: Option<String>,
}

/// One open connection.
#[derive(Debug)]
struct Connection {
    id: ConnectionId,
    remote: Multiaddr,
    direction: Direction,
    ping_failures: u32,
}

#[derive(Debug, Default)]
struct Peer {
    /// Oldest first; the swarm bounds their number.
    connections: Vec<Connection>,
    /// Addresses that were dialled with success, or that this node's user or store vouches for.
    proven: Vec<Multiaddr>,
    /// Addresses that the peer claims; replaced as a whole, so that they never push a proven one out.
    claimed: Vec<Multiaddr>,
    connected_since: Option<(Instant, SystemTime)>,
    last_seen: Option<SystemTime>,
    latency: Option<Duration>,
    agent: Option<String>,
    protocols: Vec<String>,
}

/// All peers that are connected or kept.
#[derive(Debug, Default)]
pub(super) struct PeerTable {
    peers: BTreeMap<DeviceId, Peer>,
}

impl PeerTable {
    /// Notes an open connection and tells whether it is the peer's first.
    pub(super) fn opened(
        &mut self,
        device: DeviceId,
        id: ConnectionId,
        remote: Multiaddr,
        direction: Direction,
        now: (Instant, SystemTime),
    ) -> bool {
        let peer = self.peers.entry(device).or_default();
        if direction == Direction::Outgoing {
            peer.prove(without_peer_id(remote.clone()));
        }
        peer.connections.push(Connection { id, remote, direction, ping_failures: 0 });
        peer.last_seen = Some(now.1);
        let first = peer.connections.len() == 1;
        if first {
            peer.connected_since = Some(now);
        }
        first
    }

    /// Notes a closed connection; if it was the peer's last, tells for how long the peer was connected.
    pub(super) fn closed(
        &mut self,
        device: DeviceId,
        id: ConnectionId,
        now: (Instant, SystemTime),
    ) -> Option<Duration> {
        let peer = self.peers.get_mut(&device)?;
        peer.connections.retain(|connection| connection.id != id);
        peer.last_seen = Some(now.1);
        if !peer.connections.is_empty() {
            return None;
        }
        peer.latency = None;
        peer.connected_since.take().map(|(since, _)| now.0.saturating_duration_since(since))
    }

    /// Adds addresses that somebody trusted vouches for.
    pub(super) fn vouch(&mut self, device: DeviceId, addresses: impl IntoIterator<Item = Multiaddr>) {
        let peer = self.peers.entry(device).or_default();
        for address in addresses.into_iter().map(without_peer_id) {
            if !peer.proven.contains(&address) && peer.proven.len() < MAX_ADDRESSES_PER_PEER {
                peer.proven.push(address);
            }
        }
    }

    /// Takes over what a peer says about itself.
    pub(super) fn identified(
        &mut self,
        device: DeviceId,
        agent: &str,
        protocols: impl Iterator<Item = String>,
        addresses: Vec<Multiaddr>,
    ) {
        let Some(peer) = self.peers.get_mut(&device) else { return };
        let near = peer.connections.iter().any(|connection| is_loopback(&connection.remote));
        peer.agent = Some(shortened(agent));
        peer.protocols = protocols.take(MAX_PROTOCOLS_PER_PEER).map(|name| shortened(&name)).collect();
        peer.claimed = addresses
            .into_iter()
            .map(without_peer_id)
            // The loopback address of another machine would be dialled on this one.
            .filter(|address| address.len() <= MAX_ADDRESS_LENGTH && (near || !is_loopback(address)))
            .take(MAX_ADDRESSES_PER_PEER)
            .collect();
    }

    /// Notes the outcome of a ping and tells whether the connection counts as dead.
    pub(super) fn pinged(
        &mut self,
        device: DeviceId,
        id: ConnectionId,
        round_trip: Option<Duration>,
        now: SystemTime,
    ) -> bool {
        let Some(peer) = self.peers.get_mut(&device) else { return false };
        let Some(connection) = peer.connections.iter_mut().find(|connection| connection.id == id) else { return false };
        match round_trip {
            Some(round_trip) => {
                connection.ping_failures = 0;
                peer.latency = Some(round_trip);
                peer.last_seen = Some(now);
                false
            }
            None => {
                connection.ping_failures += 1;
                connection.ping_failures >= PING_FAILURES_BEFORE_CLOSE
            }
        }
    }

    /// Whether a connection to the device is open.
    pub(super) fn is_connected(&self, device: DeviceId) -> bool {
        self.peers.get(&device).is_some_and(|peer| !peer.connections.is_empty())
    }

    /// The device that this node has reached at an address and is still connected to.
    pub(super) fn connected_at(&self, address: &Multiaddr) -> Option<DeviceId> {
        let reached = |connection: &Connection| {
            connection.direction == Direction::Outgoing && without_peer_id(connection.remote.clone()) == *address
        };
        self.peers.iter().find(|(_, peer)| peer.connections.iter().any(reached)).map(|(device, _)| *device)
    }

    /// The addresses a device can be dialled at, proven ones first.
    pub(super) fn addresses(&self, device: DeviceId) -> Vec<Multiaddr> {
        self.peers.get(&device).map(Peer::addresses).unwrap_or_default()
    }

    /// Drops a peer that is neither connected nor a target.
    pub(super) fn prune(&mut self, device: DeviceId, redial: &Redial) {
        if !self.is_connected(device) && !redial.knows(device) {
            self.peers.remove(&device);
        }
    }

    /// What is shown of all peers.
    pub(super) fn infos(
        &self,
        redial: &Redial,
        now: Instant,
        conduct: impl Fn(DeviceId) -> PeerConduct,
    ) -> Vec<PeerInfo> {
        let info = |(device, peer): (&DeviceId, &Peer)| peer.info(*device, redial, now, conduct(*device));
        self.peers.iter().map(info).collect()
    }
}

impl Peer {
    fn prove(&mut self, address: Multiaddr) {
        self.proven.retain(|known| *known != address);
        self.proven.insert(0, address);
        self.proven.truncate(MAX_ADDRESSES_PER_PEER);
    }

    fn addresses(&self) -> Vec<Multiaddr> {
        let claimed = self.claimed.iter().filter(|address| !self.proven.contains(address));
        self.proven.iter().chain(claimed).take(MAX_ADDRESSES_PER_PEER).cloned().collect()
    }

    fn info(&self, device: DeviceId, redial: &Redial, now: Instant, conduct: PeerConduct) -> PeerInfo {
        let oldest = self.connections.first();
        let state = match (oldest, redial.standing(device)) {
            (Some(_), _) => PeerState::Connected,
            (None, Some(Standing::Dialling)) => PeerState::Connecting,
            (None, Some(Standing::Waiting(due))) => {
                PeerState::Waiting { next_attempt_ms: milliseconds(due.saturating_duration_since(now)) }
            }
            (None, None) => PeerState::Disconnected,
        };
        PeerInfo {
            device,
            state,
            kept: redial.is_kept(device),
            addresses: self.addresses(),
            remote_address: oldest.map(|connection| connection.remote.clone()),
            direction: oldest.map(|connection| connection.direction),
            connections: self.connections.len(),
            connected_since_ms: self.connected_since.map(|(_, since)| since_1970_ms(since)),
            last_seen_ms: self.last_seen.map(since_1970_ms),
            latency_us: self.latency.map(|latency| u64::try_from(latency.as_micros()).unwrap_or(u64::MAX)),
            agent: self.agent.clone(),
            protocols: self.protocols.clone(),
            conduct,
        }
    }
}

/// An address without the peer id at its end, the form in which addresses are kept and compared.
pub(super) fn without_peer_id(mut address: Multiaddr) -> Multiaddr {
    if let Some(Part::P2p(_)) = address.iter().last() {
        address.pop();
    }
    address
}

fn is_loopback(address: &Multiaddr) -> bool {
    match address.iter().next() {
        Some(Part::Ip4(ip)) => ip.is_loopback(),
        Some(Part::Ip6(ip)) => ip.is_loopback(),
        _ => false,
    }
}

fn shortened(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(MAX_DESCRIPTION_LENGTH).collect()
}

fn since_1970_ms(time: SystemTime) -> u64 {
    milliseconds(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: DeviceId = DeviceId([1; 32]);

    fn now() -> (Instant, SystemTime) {
        (Instant::now(), SystemTime::now())
    }

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    fn connection(id: usize) -> ConnectionId {
        ConnectionId::new_unchecked(id)
    }

    #[test]
    fn a_peer_connects_with_its_first_connection_and_leaves_with_its_last() {
        let mut table = PeerTable::default();
        let remote = address("/ip4/192.0.2.1/tcp/1");
        assert!(table.opened(DEVICE, connection(1), remote.clone(), Direction::Incoming, now()));
        assert!(!table.opened(DEVICE, connection(2), remote, Direction::Outgoing, now()));
        assert_eq!(table.closed(DEVICE, connection(1), now()), None);
        assert!(table.closed(DEVICE, connection(2), now()).is_some());
        assert_eq!(table.closed(DEVICE, connection(2), now()), None);
    }

    #[test]
    fn claimed_addresses_are_capped_and_never_push_a_proven_one_out() {
        let mut table = PeerTable::default();
        let proven = address("/ip4/192.0.2.1/tcp/1");
        table.opened(DEVICE, connection(1), proven.clone(), Direction::Outgoing, now());
        let claimed = (2..100).map(|port| address(&format!("/ip4/192.0.2.1/tcp/{port}"))).collect();
        table.identified(DEVICE, &"a\n".repeat(1000), std::iter::empty(), claimed);
        let info = table.infos(&Redial::default(), Instant::now(), |_| PeerConduct::default()).remove(0);
        assert_eq!(info.addresses.len(), MAX_ADDRESSES_PER_PEER);
        assert_eq!(info.addresses[0], proven);
        assert_eq!(info.agent.unwrap(), "a".repeat(MAX_DESCRIPTION_LENGTH));
    }

    #[test]
    fn loopback_addresses_are_believed_only_of_peers_on_this_machine() {
        let mut table = PeerTable::default();
        let claimed = address("/ip4/127.0.0.1/tcp/22");
        for (id, remote, believed) in [(1, "/ip4/192.0.2.1/tcp/1", false), (2, "/ip4/127.0.0.1/tcp/1", true)] {
            table.opened(DEVICE, connection(id), address(remote), Direction::Incoming, now());
            table.identified(DEVICE, "x", std::iter::empty(), vec![claimed.clone()]);
            assert_eq!(table.addresses(DEVICE).contains(&claimed), believed);
        }
    }

    #[test]
    fn pings_without_an_answer_in_a_row_make_a_connection_dead() {
        let mut table = PeerTable::default();
        table.opened(DEVICE, connection(1), address("/ip4/192.0.2.1/tcp/1"), Direction::Incoming, now());
        let mut ping = |answer| table.pinged(DEVICE, connection(1), answer, SystemTime::now());
        assert!(!ping(None));
        assert!(!ping(Some(Duration::from_millis(1))));
        assert!(!ping(None));
        assert!(ping(None));
    }
}
