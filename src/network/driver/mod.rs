//! The task that owns the swarm and everything known about peers.
//!
//! One loop, four sources: commands of the node, responses of the node to peers, the swarm, and the schedule of dials.
//! Commands and responses are always taken; the swarm is polled only while every event so far has found room in the
//! reader's queue.

mod bans;
mod dials;
mod events;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use libp2p::gossipsub::{MessageAcceptance, PublishError, TopicHash};
use libp2p::metrics::Metrics;
use libp2p::request_response::{OutboundRequestId, ResponseChannel};
use libp2p::swarm::{ConnectionId, Swarm, SwarmEvent};
use libp2p::{Multiaddr, PeerId};
use syncline_model::DeviceId;
use tokio::sync::{mpsc, oneshot, watch};

use super::behaviour::{Behaviour, BehaviourEvent};
use super::conduct::{Conduct, Fault, Figures};
use super::config::{
    MAX_GOSSIP_FRAME, MAX_OUTSTANDING_REQUESTS, MAX_TOPICS, NetworkConfig, Protocol, SHUTDOWN_TIMEOUT,
};
use super::error::{RequestError, SubscribeError};
use super::event::{GossipId, NetworkEvent, Verdict};
use super::frame::Request;
use super::gossip::Topic;
use super::handle::{Command, RequestResult};
use super::identity::{device_of, peer_of};
use super::listen::Kind;
use super::peers::{PeerTable, Unreached};
use super::redial::Redial;
use dials::Dial;

/// What a driver is made of.
pub(super) struct DriverParts {
    pub(super) swarm: Swarm<Behaviour>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) events: mpsc::Sender<NetworkEvent>,
    pub(super) listening: watch::Sender<Arc<[Multiaddr]>>,
    pub(super) metrics: Metrics,
    pub(super) figures: Figures,
}

/// A response of the node to a peer, or none if it refuses.
type Response = (DeviceId, Protocol, ResponseChannel<Vec<u8>>, Option<Vec<u8>>);

/// What the loop does next.
enum Step {
    Command(Option<Command>),
    Response(Response),
    Swarm(SwarmEvent<BehaviourEvent>),
    Due,
}

/// The owner of all state.
pub(super) struct Driver {
    swarm: Swarm<Behaviour>,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<NetworkEvent>,
    /// Events that found the reader's queue full. Only one swarm event's worth, and what commands add to it.
    outbox: VecDeque<NetworkEvent>,
    listening: watch::Sender<Arc<[Multiaddr]>>,
    metrics: Metrics,
    device: DeviceId,
    kinds: Vec<Kind>,
    peers: PeerTable,
    redial: Redial,
    conduct: Conduct,
    /// Devices that were disconnected on purpose.
    parted: BTreeSet<DeviceId>,
    began: (Instant, SystemTime),
    dials: HashMap<ConnectionId, Dial>,
    topics: BTreeSet<Topic>,
    requests: BTreeMap<(Protocol, OutboundRequestId), oneshot::Sender<RequestResult>>,
    responses: FuturesUnordered<BoxFuture<'static, Response>>,
    response_bytes: usize,
}

impl Driver {
    pub(super) fn new(parts: DriverParts, device: DeviceId, config: &NetworkConfig) -> Self {
        let began = now();
        let conduct = Conduct::new(config.rates, &config.bans, parts.figures, milliseconds_since_1970(began.1));
        let mut driver = Self {
            swarm: parts.swarm,
            commands: parts.commands,
            events: parts.events,
            outbox: VecDeque::new(),
            listening: parts.listening,
            metrics: parts.metrics,
            device,
            kinds: [Kind::Tcp, Kind::Quic].into_iter().filter(|kind| kind.enabled(config)).collect(),
            peers: PeerTable::default(),
            redial: Redial::default(),
            conduct,
            parted: BTreeSet::new(),
            began,
            dials: HashMap::new(),
            topics: BTreeSet::new(),
            requests: BTreeMap::new(),
            responses: FuturesUnordered::new(),
            response_bytes: config.limits.response_bytes,
        };
        let banned: Vec<DeviceId> = driver.conduct.banned().collect();
        banned.into_iter().for_each(|device| driver.refuse(device));
        driver
    }

    /// The swarm, for starting to listen.
    pub(super) fn swarm(&mut self) -> &mut Swarm<Behaviour> {
        &mut self.swarm
    }

    /// Runs until shut down, or until nobody holds the network any more.
    pub(super) async fn run(mut self) {
        let done = loop {
            let due = self.redial.next_due().into_iter().chain(self.next_ban_end()).min();
            let step = tokio::select! {
                command = self.commands.recv() => Step::Command(command),
                Some(response) = self.responses.next(), if !self.responses.is_empty() => Step::Response(response),
                permit = self.events.reserve(), if !self.outbox.is_empty() => {
                    match (permit, self.outbox.pop_front()) {
                        (Ok(permit), Some(event)) => permit.send(event),
                        // Nobody reads any more.
                        _ => self.outbox.clear(),
                    }
                    continue;
                }
                event = self.swarm.select_next_some(), if self.outbox.is_empty() => Step::Swarm(event),
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => Step::Due,
            };
            match step {
                Step::Command(None) => break None,
                Step::Command(Some(Command::Shutdown { done })) => break Some(done),
                Step::Command(Some(command)) => self.on_command(command),
                Step::Response((device, protocol, channel, bytes)) => self.respond(device, protocol, channel, bytes),
                Step::Swarm(event) => self.on_swarm_event(event),
                Step::Due => {
                    self.end_bans();
                    self.dial_due();
                }
            }
        };
        self.close().await;
        if let Some(done) = done {
            let _gone = done.send(());
        }
    }

    /// Closes every connection, so that peers learn of it at once instead of by timeout.
    async fn close(&mut self) {
        let peers: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            // An error only says that the connection is gone already.
            let _gone = self.swarm.disconnect_peer_id(peer);
        }
        let closed = async {
            while self.swarm.network_info().num_peers() > 0 {
                self.swarm.select_next_some().await;
            }
        };
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, closed).await.is_err() {
            tracing::debug!("some connections did not close in time");
        }
    }

    /// Hands an event to the reader, or to the outbox when there is no room.
    fn emit(&mut self, event: NetworkEvent) {
        if !self.outbox.is_empty() {
            self.outbox.push_back(event);
            return;
        }
        if let Err(mpsc::error::TrySendError::Full(event)) = self.events.try_send(event) {
            self.outbox.push_back(event);
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Subscribe { topic, done } => {
                let _gone = done.send(self.subscribe(&topic));
            }
            Command::Unsubscribe { topic } => {
                self.swarm.behaviour_mut().gossip.unsubscribe(&topic.ident());
                self.topics.remove(&topic);
            }
            Command::Publish { topic, data } => self.publish(&topic, data),
            Command::Report { id, from, verdict } => self.report(&id, from, verdict),
            Command::Request { peer, protocol, bytes, response } => self.request(peer, protocol, bytes, response),
            Command::Connect { address, done } => self.connect(address, done),
            Command::Disconnect { peer, done } => {
                self.disconnect(peer);
                let _gone = done.send(());
            }
            Command::Keep { peer, addresses } => self.keep(peer, addresses),
            Command::Release { peer } => {
                self.redial.forget(peer);
                self.peers.prune(peer, &self.redial);
            }
            Command::Blame { peer, fault } => self.blame(peer, fault),
            Command::Ban { peer, lasts, done } => {
                let _gone = done.send(self.ban(peer, lasts));
            }
            Command::Unban { peer, done } => {
                let _gone = done.send(self.unban(peer));
            }
            Command::Peers { done } => {
                let _gone = done.send(self.infos());
            }
            Command::Unreached { done } => {
                let _gone = done.send(self.unreached());
            }
            // Taken by the loop.
            Command::Shutdown { .. } => {}
        }
    }

    fn subscribe(&mut self, topic: &Topic) -> Result<(), SubscribeError> {
        if self.topics.contains(topic) {
            return Ok(());
        }
        if self.topics.len() >= MAX_TOPICS {
            return Err(SubscribeError::TooMany);
        }
        let gossip = &mut self.swarm.behaviour_mut().gossip;
        if let Err(error) = gossip.subscribe(&topic.ident()) {
            // The filter lets every `Topic` pass, and announcing one cannot fail.
            tracing::error!(%topic, %error, "cannot subscribe");
        }
        let name = TopicHash::from_raw(topic.as_str());
        let followers: Vec<PeerId> =
            gossip.all_peers().filter(|(_, topics)| topics.contains(&&name)).map(|(peer, _)| *peer).collect();
        self.topics.insert(topic.clone());
        for peer in followers.iter().filter_map(|peer| device_of(peer).ok()) {
            self.emit(NetworkEvent::Subscribed { peer, topic: topic.clone() });
        }
        Ok(())
    }

    fn publish(&mut self, topic: &Topic, data: Vec<u8>) {
        if data.len() > MAX_GOSSIP_FRAME {
            tracing::error!(%topic, bytes = data.len(), "a gossip frame over {MAX_GOSSIP_FRAME} bytes is not sent");
            return;
        }
        match self.swarm.behaviour_mut().gossip.publish(topic.ident(), data) {
            Ok(_) | Err(PublishError::Duplicate | PublishError::NoPeersSubscribedToTopic) => {}
            Err(error) => tracing::debug!(%topic, %error, "a gossip frame is lost"),
        }
    }

    fn report(&mut self, id: &GossipId, from: DeviceId, verdict: Verdict) {
        let Ok(peer) = peer_of(from) else { return };
        if verdict == Verdict::Reject {
            self.blame(from, Fault::InvalidGossip);
        }
        let acceptance = match verdict {
            Verdict::Accept => MessageAcceptance::Accept,
            Verdict::Ignore => MessageAcceptance::Ignore,
            Verdict::Reject => MessageAcceptance::Reject,
        };
        self.swarm.behaviour_mut().gossip.report_message_validation_result(&id.0, &peer, acceptance);
    }

    fn request(
        &mut self,
        device: DeviceId,
        protocol: Protocol,
        bytes: Vec<u8>,
        response: oneshot::Sender<RequestResult>,
    ) {
        let refusal = match peer_of(device) {
            _ if self.requests.len() >= MAX_OUTSTANDING_REQUESTS => RequestError::Overloaded,
            // Asking libp2p all the same would make it dial, past the schedule.
            Ok(peer) if self.swarm.is_connected(&peer) => {
                let request = Request { bytes, share: None };
                let id = self.swarm.behaviour_mut().requests(protocol).send_request(&peer, request);
                self.requests.insert((protocol, id), response);
                return;
            }
            _ => RequestError::PeerNotFound,
        };
        let _gone = response.send(Err(refusal));
    }

    /// Sends a response; dropping the channel instead closes the stream, which the peer takes for a refusal.
    fn respond(
        &mut self,
        device: DeviceId,
        protocol: Protocol,
        channel: ResponseChannel<Vec<u8>>,
        bytes: Option<Vec<u8>>,
    ) {
        let Some(bytes) = bytes else { return };
        if bytes.len() > self.response_bytes {
            tracing::error!(bytes = bytes.len(), "a response over the limit is not sent");
            return;
        }
        let now_ms = self.now_ms();
        self.conduct.served(device, bytes.len(), now_ms);
        if self.swarm.behaviour_mut().requests(protocol).send_response(channel, bytes).is_err() {
            tracing::debug!("a response came after its peer had given up");
        }
    }

    /// Waits for the node's response to one request.
    fn await_response(
        &mut self,
        device: DeviceId,
        protocol: Protocol,
        channel: ResponseChannel<Vec<u8>>,
        response: oneshot::Receiver<Vec<u8>>,
    ) {
        self.responses.push(async move { (device, protocol, channel, response.await.ok()) }.boxed());
    }

    fn unreached(&self) -> Vec<Unreached> {
        let unreached = self.redial.unreached().map(|(address, attempts, error)| Unreached {
            address: address.clone(),
            attempts,
            error: error.map(str::to_owned),
        });
        unreached.collect()
    }
}

/// The two clocks: one to measure with, one to show.
fn now() -> (Instant, SystemTime) {
    (Instant::now(), SystemTime::now())
}

/// Milliseconds since 1970.
fn milliseconds_since_1970(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A random number from 0 to 1 that keeps nodes from acting in step.
fn jitter() -> f64 {
    rand::random::<f64>()
}
