//! What the swarm reports, and what follows from it.

use std::io;
use std::sync::Arc;

use libp2p::core::ConnectedPoint;
use libp2p::metrics::Recorder;
use libp2p::request_response::{self, InboundRequestId, OutboundFailure, ResponseChannel};
use libp2p::swarm::{ConnectionId, SwarmEvent};
use libp2p::{Multiaddr, PeerId, gossipsub, identify, mdns, ping};
use tokio::sync::oneshot;

use super::super::behaviour::BehaviourEvent;
use super::super::conduct::Passage;
use super::super::config::{MAX_GOSSIP_FRAME, MAX_PENDING_REPLIES, Protocol};
use super::super::error::RequestError;
use super::super::event::{GossipId, NetworkEvent, Reply, Verdict};
use super::super::frame::Request;
use super::super::gossip::Topic;
use super::super::identity::device_of;
use super::super::peers::Direction;
use super::{Driver, jitter, now};

type RequestEvent = request_response::Event<Request, Vec<u8>>;

impl Driver {
    /// Takes one event of the swarm.
    pub(in super::super) fn on_swarm_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        self.metrics.record(&event);
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour_event(event),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.opened(peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, cause, .. } => {
                if let Some(cause) = cause {
                    tracing::debug!(peer = %peer_id, %cause, "a connection closed");
                }
                self.closed(peer_id, connection_id);
            }
            SwarmEvent::OutgoingConnectionError { connection_id, peer_id, error } => {
                self.dial_failed(connection_id, peer_id, error);
            }
            SwarmEvent::NewListenAddr { address, .. } => self.listens(address),
            SwarmEvent::ExpiredListenAddr { address, .. } => self.listens_no_more(address),
            SwarmEvent::ListenerClosed { addresses, reason, .. } => {
                if let Err(error) = reason {
                    tracing::warn!(%error, ?addresses, "a listening socket closed");
                }
                addresses.into_iter().for_each(|address| self.listens_no_more(address));
            }
            SwarmEvent::ListenerError { error, .. } => tracing::warn!(%error, "a listening socket failed"),
            other => tracing::trace!(event = ?other, "an event of the swarm that needs no action"),
        }
    }

    fn opened(&mut self, peer: PeerId, id: ConnectionId, endpoint: &ConnectedPoint) {
        let Ok(device) = device_of(&peer) else {
            tracing::debug!(%peer, "a peer whose key is no device key is sent away");
            self.swarm.close_connection(id);
            return;
        };
        let direction = if endpoint.is_dialer() { Direction::Outgoing } else { Direction::Incoming };
        let first = self.peers.opened(device, id, endpoint.get_remote_address().clone(), direction, now());
        let via = self.dialled(id, device);
        self.redial.connected(device, via.as_ref());
        if first {
            tracing::debug!(%device, ?direction, "connected");
            self.emit(NetworkEvent::Connected { peer: device });
        }
    }

    fn closed(&mut self, peer: PeerId, id: ConnectionId) {
        let Ok(device) = device_of(&peer) else { return };
        let now = now();
        let Some(lasted) = self.peers.closed(device, id, now) else { return };
        tracing::debug!(%device, ?lasted, "disconnected");
        self.redial.lost(device, lasted, now.0, jitter());
        self.peers.prune(device, &self.redial);
        self.emit(NetworkEvent::Disconnected { peer: device });
    }

    fn listens(&mut self, address: Multiaddr) {
        let mut addresses = self.listening.borrow().to_vec();
        if addresses.contains(&address) {
            return;
        }
        addresses.push(address.clone());
        self.listening.send_replace(Arc::from(addresses));
        self.emit(NetworkEvent::ListenAddress { address });
    }

    fn listens_no_more(&mut self, address: Multiaddr) {
        let mut addresses = self.listening.borrow().to_vec();
        let before = addresses.len();
        addresses.retain(|known| *known != address);
        if addresses.len() < before {
            self.listening.send_replace(Arc::from(addresses));
            self.emit(NetworkEvent::ListenAddressExpired { address });
        }
    }

    fn on_behaviour_event(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Gossip(event) => self.on_gossip(event),
            BehaviourEvent::Sync(event) => self.on_request_event(Protocol::Sync, event),
            BehaviourEvent::Join(event) => self.on_request_event(Protocol::Join, event),
            BehaviourEvent::Identify(event) => {
                self.metrics.record(&event);
                self.on_identify(event);
            }
            BehaviourEvent::Ping(event) => {
                self.metrics.record(&event);
                self.on_ping(event);
            }
            BehaviourEvent::Mdns(mdns::Event::Discovered(found)) => {
                found.into_iter().for_each(|(peer, address)| self.discovered(peer, address));
            }
            BehaviourEvent::Mdns(mdns::Event::Expired(_)) => {}
            BehaviourEvent::Limits(never) => match never {},
            BehaviourEvent::Blocked(never) => match never {},
        }
    }

    fn on_gossip(&mut self, event: gossipsub::Event) {
        match event {
            gossipsub::Event::Message { propagation_source, message_id, message } => {
                let Ok(from) = device_of(&propagation_source) else { return };
                let id = GossipId(message_id);
                match self.conduct.frame(from, message.data.len(), self.now_ms()) {
                    Passage::Passed => {}
                    limited => {
                        self.report(&id, from, Verdict::Ignore);
                        if limited == Passage::Banned {
                            self.banned(from);
                        }
                        return;
                    }
                }
                match message.topic.as_str().parse::<Topic>() {
                    Ok(topic) if message.data.len() <= MAX_GOSSIP_FRAME => {
                        self.emit(NetworkEvent::Gossip { from, topic, data: message.data, id });
                    }
                    _ => {
                        tracing::debug!(device = %from, "an oversized or misnamed gossip frame is dropped");
                        self.report(&id, from, Verdict::Reject);
                    }
                }
            }
            gossipsub::Event::Subscribed { peer_id, topic } => {
                let (Ok(peer), Ok(topic)) = (device_of(&peer_id), topic.as_str().parse::<Topic>()) else { return };
                if self.topics.contains(&topic) {
                    self.emit(NetworkEvent::Subscribed { peer, topic });
                }
            }
            other => tracing::debug!(event = ?other, "gossip"),
        }
    }

    fn on_identify(&mut self, event: identify::Event) {
        match event {
            identify::Event::Received { peer_id, info, .. } => {
                let Ok(device) = device_of(&peer_id) else { return };
                let protocols = info.protocols.iter().map(ToString::to_string);
                self.peers.identified(device, &info.agent_version, protocols, info.listen_addrs);
            }
            identify::Event::Error { peer_id, error, .. } => tracing::debug!(peer = %peer_id, %error, "not identified"),
            identify::Event::Sent { .. } | identify::Event::Pushed { .. } => {}
        }
    }

    fn on_ping(&mut self, event: ping::Event) {
        let Ok(device) = device_of(&event.peer) else { return };
        let round_trip = match event.result {
            Ok(round_trip) => Some(round_trip),
            Err(ping::Failure::Unsupported) => return,
            Err(error) => {
                tracing::debug!(%device, %error, "a ping failed");
                None
            }
        };
        if self.peers.pinged(device, event.connection, round_trip, now().1) {
            tracing::debug!(%device, "a connection that answers no pings is closed");
            self.swarm.close_connection(event.connection);
        }
    }

    fn on_request_event(&mut self, protocol: Protocol, event: RequestEvent) {
        match event {
            RequestEvent::Message { peer, message, .. } => match message {
                request_response::Message::Request { request, channel, request_id } => {
                    self.on_request(peer, protocol, request, channel, request_id);
                }
                request_response::Message::Response { request_id, response } => {
                    if let Some(waiting) = self.requests.remove(&(protocol, request_id)) {
                        let _gone = waiting.send(Ok(response));
                    }
                }
            },
            RequestEvent::OutboundFailure { peer, request_id, error, .. } => {
                let connected = self.swarm.is_connected(&peer);
                if let Some(waiting) = self.requests.remove(&(protocol, request_id)) {
                    let _gone = waiting.send(Err(request_error(error, connected)));
                }
            }
            RequestEvent::InboundFailure { peer, error, .. } => {
                tracing::debug!(%peer, %error, "a peer's request failed");
            }
            RequestEvent::ResponseSent { .. } => {}
        }
    }

    fn on_request(
        &mut self,
        peer: PeerId,
        protocol: Protocol,
        request: Request,
        channel: ResponseChannel<Vec<u8>>,
        id: InboundRequestId,
    ) {
        let Ok(device) = device_of(&peer) else { return };
        match self.conduct.request(device, self.now_ms()) {
            Passage::Passed => {}
            limited => {
                tracing::debug!(%device, %id, "a request is refused: its sender asks too much");
                if limited == Passage::Banned {
                    self.banned(device);
                }
                return;
            }
        }
        if self.responses.len() >= MAX_PENDING_REPLIES {
            tracing::debug!(%device, %id, "a request is refused: too many wait for a response");
            return;
        }
        let (response, awaited) = oneshot::channel();
        self.await_response(device, protocol, channel, awaited);
        let reply = Reply { response, _share: request.share };
        self.emit(NetworkEvent::Request { peer: device, protocol, bytes: request.bytes, reply });
    }
}

/// What libp2p's failure means to who asked. The streams of a peer that is still connected end early only because the
/// peer ended them.
fn request_error(failure: OutboundFailure, connected: bool) -> RequestError {
    match failure {
        OutboundFailure::DialFailure => RequestError::PeerNotFound,
        OutboundFailure::Timeout => RequestError::Timeout,
        OutboundFailure::ConnectionClosed => RequestError::ConnectionClosed,
        OutboundFailure::UnsupportedProtocols => RequestError::Protocol,
        OutboundFailure::Io(error) => match error.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => RequestError::Message(error.to_string()),
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::WriteZero
                if connected =>
            {
                RequestError::Refused
            }
            _ => RequestError::Transport(error.to_string()),
        },
    }
}
