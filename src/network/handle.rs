//! The node's hold on its network: commands to the task that owns the swarm.

use std::sync::Arc;
use std::time::Duration;

use libp2p::Multiaddr;
use prometheus_client::registry::Registry;
use syncline_model::DeviceId;
use tokio::sync::{mpsc, oneshot, watch};

use super::conduct::{Ban, Fault, TooManyBans};
use super::config::{NetworkConfig, Protocol};
use super::error::{ConnectError, NetworkError, RequestError, SubscribeError};
use super::event::{GossipId, NetworkEvents, Verdict};
use super::gossip::Topic;
use super::peers::{PeerInfo, Unreached};
use super::start;
use super::traffic::{Traffic, TrafficMeter};

/// What the task that owns the swarm is asked to do.
pub(super) enum Command {
    Subscribe { topic: Topic, done: oneshot::Sender<Result<(), SubscribeError>> },
    Unsubscribe { topic: Topic },
    Publish { topic: Topic, data: Vec<u8> },
    Report { id: GossipId, from: DeviceId, verdict: Verdict },
    Request { peer: DeviceId, protocol: Protocol, bytes: Vec<u8>, response: oneshot::Sender<RequestResult> },
    Connect { address: Multiaddr, done: oneshot::Sender<Result<DeviceId, ConnectError>> },
    Disconnect { peer: DeviceId, done: oneshot::Sender<()> },
    Keep { peer: DeviceId, addresses: Vec<Multiaddr> },
    Release { peer: DeviceId },
    Blame { peer: DeviceId, fault: Fault },
    Ban { peer: DeviceId, lasts: Duration, done: oneshot::Sender<Result<Vec<Ban>, TooManyBans>> },
    Unban { peer: DeviceId, done: oneshot::Sender<(bool, Vec<Ban>)> },
    Peers { done: oneshot::Sender<Vec<PeerInfo>> },
    Unreached { done: oneshot::Sender<Vec<Unreached>> },
    Shutdown { done: oneshot::Sender<()> },
}

/// A response, or why there is none.
pub(super) type RequestResult = Result<Vec<u8>, RequestError>;

/// A running network; clones share it, and it ends with the last of them or with [`Network::shutdown`].
#[derive(Debug, Clone)]
pub struct Network {
    pub(super) device: DeviceId,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) listening: watch::Receiver<Arc<[Multiaddr]>>,
    pub(super) meter: TrafficMeter,
    pub(super) request_bytes: usize,
    pub(super) connect_timeout: Duration,
}

impl Network {
    /// Starts a network and returns once it listens.
    ///
    /// Its metrics are registered in `registry`.
    ///
    /// # Errors
    /// When an address cannot be listened on, above all because it is in use.
    pub async fn start(config: NetworkConfig, registry: &mut Registry) -> Result<(Self, NetworkEvents), NetworkError> {
        start::start(config, registry).await
    }

    /// This device.
    pub fn device(&self) -> DeviceId {
        self.device
    }

    /// The addresses this node listens on now, without its peer id.
    pub fn listen_addresses(&self) -> Vec<Multiaddr> {
        self.listening.borrow().to_vec()
    }

    /// Follows a topic.
    ///
    /// # Errors
    /// When too many topics are followed, or after a shutdown.
    pub async fn subscribe(&self, topic: Topic) -> Result<(), SubscribeError> {
        self.ask(|done| Command::Subscribe { topic, done }).await.unwrap_or(Err(SubscribeError::Closed))
    }

    /// Follows a topic no more.
    pub async fn unsubscribe(&self, topic: Topic) {
        self.tell(Command::Unsubscribe { topic }).await;
    }

    /// Sends a frame to everybody who follows the topic, as far as they are connected.
    ///
    /// Gossip may be lost; when the command queue is full the frame is dropped at once.
    pub fn publish(&self, topic: Topic, data: Vec<u8>) {
        self.offer(Command::Publish { topic, data });
    }

    /// Decides what becomes of a received frame.
    pub fn report(&self, id: GossipId, from: DeviceId, verdict: Verdict) {
        self.offer(Command::Report { id, from, verdict });
    }

    /// Asks a connected peer something; the request is on its way when this returns, whether or not the answer is
    /// awaited.
    ///
    /// # Errors
    /// See [`RequestError`]; a peer that is not connected is not dialled.
    pub fn send_request(
        &self,
        peer: DeviceId,
        protocol: Protocol,
        bytes: Vec<u8>,
    ) -> impl Future<Output = Result<Vec<u8>, RequestError>> + Send + 'static {
        let (response, answer) = oneshot::channel();
        let queued = if bytes.len() > self.request_bytes {
            let text = format!("a request of {} bytes, {} are allowed", bytes.len(), self.request_bytes);
            Err(RequestError::Message(text))
        } else {
            let command = Command::Request { peer, protocol, bytes, response };
            self.commands.try_send(command).map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => RequestError::Overloaded,
                mpsc::error::TrySendError::Closed(_) => RequestError::Internal,
            })
        };
        async move {
            queued?;
            answer.await.unwrap_or(Err(RequestError::Internal))
        }
    }

    /// Connects to whoever answers at an address, and keeps connected from then on.
    ///
    /// An address that ends in `/p2p/` and a peer id is answered by that peer or not at all.
    ///
    /// # Errors
    /// See [`ConnectError`]; after an error the address is not tried again.
    pub async fn connect(&self, address: Multiaddr) -> Result<DeviceId, ConnectError> {
        let waited = self.connect_timeout;
        let asked = address.clone();
        let outcome = self.ask(|done| Command::Connect { address: asked, done });
        match tokio::time::timeout(waited, outcome).await {
            Ok(outcome) => outcome.unwrap_or(Err(ConnectError::Closed)),
            Err(_) => Err(ConnectError::Timeout { address, waited }),
        }
    }

    /// Closes all connections to a peer and refuses new ones until the peer is named again or the node restarts.
    pub async fn disconnect(&self, peer: DeviceId) {
        self.ask(|done| Command::Disconnect { peer, done }).await;
    }

    /// Keeps connected to a peer, at these addresses and those it is known at, until it is released.
    pub async fn keep(&self, peer: DeviceId, addresses: Vec<Multiaddr>) {
        self.tell(Command::Keep { peer, addresses }).await;
    }

    /// No longer dials a peer when it is lost; an open connection stays.
    pub async fn release(&self, peer: DeviceId) {
        self.tell(Command::Release { peer }).await;
    }

    /// Holds a fault against a peer; for those that make it too bad, all connections end for some time.
    pub fn blame(&self, peer: DeviceId, fault: Fault) {
        self.offer(Command::Blame { peer, fault });
    }

    /// Ends all connections to a peer and refuses new ones for some time; gives the bans that are to be kept.
    ///
    /// # Errors
    /// When as many bans are kept as allowed. After a shutdown nothing is banned.
    pub async fn ban(&self, peer: DeviceId, lasts: Duration) -> Result<Vec<Ban>, TooManyBans> {
        self.ask(|done| Command::Ban { peer, lasts, done }).await.unwrap_or(Ok(Vec::new()))
    }

    /// Ends a ban and forgives the peer its faults; tells whether it was banned, and the bans that are to be kept.
    pub async fn unban(&self, peer: DeviceId) -> (bool, Vec<Ban>) {
        self.ask(|done| Command::Unban { peer, done }).await.unwrap_or_default()
    }

    /// All peers that are connected, kept or banned.
    pub async fn peers(&self) -> Vec<PeerInfo> {
        self.ask(|done| Command::Peers { done }).await.unwrap_or_default()
    }

    /// Bootstrap addresses where nobody has answered yet.
    pub async fn unreached(&self) -> Vec<Unreached> {
        self.ask(|done| Command::Unreached { done }).await.unwrap_or_default()
    }

    /// The bytes carried since the start.
    pub fn traffic(&self) -> Traffic {
        self.meter.read()
    }

    /// Closes all connections and ends the network; returns when that is done.
    pub async fn shutdown(&self) {
        self.ask(|done| Command::Shutdown { done }).await;
    }

    /// Sends a command that has an outcome; none after a shutdown.
    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (done, outcome) = oneshot::channel();
        self.commands.send(command(done)).await.ok()?;
        outcome.await.ok()
    }

    /// Sends a command, waiting for room in the queue.
    async fn tell(&self, command: Command) {
        if self.commands.send(command).await.is_err() {
            tracing::debug!("a command came after the network was shut down");
        }
    }

    /// Sends a command that may be lost.
    fn offer(&self, command: Command) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.commands.try_send(command) {
            tracing::warn!("the network is overloaded: a gossip frame is not passed on, or a fault not noted");
        }
    }
}
