//! What the network tells the node.

use std::fmt;

use libp2p::Multiaddr;
use libp2p::gossipsub::MessageId;
use syncline_model::DeviceId;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::config::Protocol;
use super::gossip::Topic;

/// Something happened.
#[derive(Debug)]
#[non_exhaustive]
pub enum NetworkEvent {
    /// The first connection to a peer is open.
    Connected {
        /// The peer.
        peer: DeviceId,
    },
    /// The last connection to a peer is closed.
    Disconnected {
        /// The peer.
        peer: DeviceId,
    },
    /// A connected peer follows a topic that this node follows; told once whenever that becomes true.
    Subscribed {
        /// The peer.
        peer: DeviceId,
        /// The topic.
        topic: Topic,
    },
    /// A frame arrived; it goes no further until [`Network::report`](super::Network::report) accepts it.
    Gossip {
        /// The neighbour that sent it, not its author.
        from: DeviceId,
        /// The topic that it was sent under.
        topic: Topic,
        /// The frame.
        data: Vec<u8>,
        /// What it is called when reporting on it.
        id: GossipId,
    },
    /// A peer asks something.
    Request {
        /// The peer.
        peer: DeviceId,
        /// The protocol it asks under.
        protocol: Protocol,
        /// The request.
        bytes: Vec<u8>,
        /// Where the response goes; dropping it refuses the request.
        reply: Reply,
    },
    /// This node can be reached at an address of this machine.
    ListenAddress {
        /// The address.
        address: Multiaddr,
    },
    /// This node can no longer be reached there.
    ListenAddressExpired {
        /// The address.
        address: Multiaddr,
    },
}

/// The stream of events; see the module about reading it.
#[derive(Debug)]
pub struct NetworkEvents(pub(super) mpsc::Receiver<NetworkEvent>);

impl NetworkEvents {
    /// The next event, or none after the network was shut down.
    pub async fn next(&mut self) -> Option<NetworkEvent> {
        self.0.recv().await
    }

    /// The next event if one is waiting.
    pub fn try_next(&mut self) -> Option<NetworkEvent> {
        self.0.try_recv().ok()
    }
}

/// Names a received gossip frame: BLAKE3 over its topic and data.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GossipId(pub(super) MessageId);

impl fmt::Debug for GossipId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GossipId({})", self.0)
    }
}

/// What is to become of a received frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Valid: forward it.
    Accept,
    /// Not to be judged now: do not forward it, and hold it against nobody.
    Ignore,
    /// Invalid by its bytes alone: do not forward it.
    Reject,
}

/// Where the response to one request goes.
#[derive(Debug)]
pub struct Reply {
    pub(super) response: oneshot::Sender<Vec<u8>>,
    /// The request's share of the memory budget, given back when it is answered or refused.
    pub(super) _share: Option<OwnedSemaphorePermit>,
}

impl Reply {
    /// Sends the response; a peer that has given up does not get it.
    pub fn send(self, response: Vec<u8>) {
        let _gone = self.response.send(response);
    }

    /// Whether the peer still waits.
    pub fn is_wanted(&self) -> bool {
        !self.response.is_closed()
    }
}
