//! Errors, one family per kind of call.

use std::time::Duration;

use libp2p::Multiaddr;
use syncline_model::DeviceId;

use super::config::{MAX_TOPIC_LENGTH, MAX_TOPICS};

/// Why a network did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// Another program listens there.
    #[error(
        "the address {address} is already in use: stop the program that uses it, or choose another address or port"
    )]
    AddressInUse {
        /// The address that was asked for.
        address: Multiaddr,
    },
    /// The address cannot be listened on.
    #[error(
        "cannot listen on {address}: {cause}; check that the address belongs to this machine and names a transport \
         that is switched on, such as /ip4/0.0.0.0/tcp/34569 or /ip4/0.0.0.0/udp/34569/quic-v1"
    )]
    Listen {
        /// The address that was asked for.
        address: Multiaddr,
        /// What the system said.
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A socket was opened but never reported an address.
    #[error(
        "listening on {address} did not begin within {} seconds: check that its network interface is up",
        .waited.as_secs()
    )]
    ListenTimeout {
        /// The address that was asked for.
        address: Multiaddr,
        /// How long it was waited for.
        waited: Duration,
    },
    /// Neither TCP nor QUIC is switched on.
    #[error("both TCP and QUIC are switched off: switch at least one of them on")]
    NoTransport,
    /// A part of the network stack could not be set up.
    #[error("cannot set up the network: {0}")]
    Setup(Box<dyn std::error::Error + Send + Sync>),
}

/// Why a request has no response.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The bytes could not be carried.
    #[error("the request could not be carried: {0}")]
    Transport(String),
    /// The peer does not speak the protocol.
    #[error("the peer does not answer this kind of request: its release may be older or newer than this one")]
    Protocol,
    /// The connection ended before the response.
    #[error("the connection closed before the response arrived")]
    ConnectionClosed,
    /// The peer is not connected.
    #[error("the peer is not connected")]
    PeerNotFound,
    /// The request or the response is larger than allowed, or malformed.
    #[error("the message is not acceptable: {0}")]
    Message(String),
    /// The peer read the request and chose not to answer, or refused to read it.
    #[error("the peer refused the request")]
    Refused,
    /// No response in time.
    #[error("no response within the time allowed")]
    Timeout,
    /// Too many requests are unanswered already.
    #[error("too many requests are unanswered: wait for some of them")]
    Overloaded,
    /// The network has been shut down.
    #[error("the network is shut down")]
    Internal,
}

impl RequestError {
    /// Whether the same request may succeed later without anything else changing.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Transport(_) | Self::ConnectionClosed | Self::Timeout | Self::Overloaded)
    }
}

/// Why a connection was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The address leads to this device.
    #[error("{0} is this device itself: give the address of another one")]
    OwnDevice(Multiaddr),
    /// The address cannot be dialled.
    #[error("{address} cannot be dialled: {reason}")]
    BadAddress {
        /// The address that was asked for.
        address: Multiaddr,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Another device answered than the address names.
    #[error("{address} is answered by another device ({found}) than the address names: ask its owner for a new one")]
    WrongDevice {
        /// The address that was asked for.
        address: Multiaddr,
        /// Who answered: a device id, or the libp2p peer id of something that is no device.
        found: String,
    },
    /// Nobody answered.
    #[error("no connection to {address}: {reason}; check that the other device is online and reachable")]
    Unreachable {
        /// The address that was asked for.
        address: Multiaddr,
        /// What the transports said.
        reason: String,
    },
    /// The peer, or this node, has no room for the connection.
    #[error("the connection to {address} was denied: {reason}")]
    Denied {
        /// The address that was asked for.
        address: Multiaddr,
        /// Which rule denied it.
        reason: String,
    },
    /// The peer is banned here.
    #[error("{device} is banned for another {} minutes: `syncline peers unban` ends that", .for_ms.div_ceil(60_000))]
    Banned {
        /// The peer.
        device: DeviceId,
        /// For how long, in milliseconds.
        for_ms: u64,
    },
    /// No outcome in time.
    #[error(
        "no connection to {address} within {} seconds: check that the other device is online and reachable",
        .waited.as_secs()
    )]
    Timeout {
        /// The address that was asked for.
        address: Multiaddr,
        /// How long it was waited for.
        waited: Duration,
    },
    /// As many peers are kept connected as allowed.
    #[error("too many peers are kept connected: disconnect from one first")]
    TooMany,
    /// The network has been shut down.
    #[error("the network is shut down")]
    Closed,
}

/// Why a text is not a topic.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a topic: it must begin with `syncline/` and have at most {MAX_TOPIC_LENGTH} bytes")]
pub struct TopicError(pub(super) String);

/// Why a topic was not subscribed to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// This node subscribes to as many topics as allowed.
    #[error("a node can follow {MAX_TOPICS} topics at most: leave a space first")]
    TooMany,
    /// The network has been shut down.
    #[error("the network is shut down")]
    Closed,
}
