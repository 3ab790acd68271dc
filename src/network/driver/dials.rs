//! Dialling: on request, on schedule, and after a discovery.

use std::time::Instant;

use libp2p::multiaddr::Protocol as Part;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{ConnectionId, DialError};
use libp2p::{Multiaddr, PeerId};
use syncline_model::DeviceId;
use tokio::sync::oneshot;

use super::super::config::DISCOVERY_JITTER;
use super::super::error::ConnectError;
use super::super::identity::{device_of, peer_of};
use super::super::listen::Kind;
use super::super::peers::without_peer_id;
use super::super::redial::Target;
use super::{Driver, jitter};

/// A dial whose outcome somebody waits for.
pub(super) enum Dial {
    /// The schedule does.
    Scheduled(Target),
    /// A caller of `connect` does.
    Asked { address: Multiaddr, done: oneshot::Sender<Result<DeviceId, ConnectError>> },
}

impl Driver {
    /// Keeps connected to the peers that the configuration names.
    pub(in super::super) fn keep_bootstrap(&mut self, addresses: &[Multiaddr]) {
        for address in addresses {
            let target = match self.parse(address) {
                Ok((Some(device), bare)) => {
                    self.peers.vouch(device, [bare]);
                    Target::Device(device)
                }
                Ok((None, bare)) => Target::Address(bare),
                Err(error) => {
                    tracing::warn!(%error, "a bootstrap address is left out");
                    continue;
                }
            };
            if self.redial.keep(target, false, Instant::now()).is_err() {
                tracing::warn!(%address, "a bootstrap address is left out: there are too many");
            }
        }
    }

    /// Dials everybody who is due.
    pub(super) fn dial_due(&mut self) {
        let now = Instant::now();
        while let Some(target) = self.redial.take_due(now) {
            let options = match &target {
                Target::Address(address) => {
                    DialOpts::unknown_peer_id().address(address.clone()).allocate_new_port().build()
                }
                Target::Device(device) if self.peers.is_connected(*device) => {
                    self.redial.connected(*device, Some(&target));
                    continue;
                }
                Target::Device(device) => {
                    let Ok(peer) = peer_of(*device) else {
                        self.redial.forget_target(&target);
                        continue;
                    };
                    let mut addresses = self.peers.addresses(*device);
                    addresses.retain(|address| Kind::of(address).is_some_and(|kind| self.kinds.contains(&kind)));
                    DialOpts::peer_id(peer).addresses(addresses).allocate_new_port().build()
                }
            };
            let id = options.connection_id();
            match self.swarm.dial(options) {
                Ok(()) => {
                    self.dials.insert(id, Dial::Scheduled(target));
                }
                Err(error) => self.scheduled_dial_failed(&target, &error),
            }
        }
    }

    /// Connects to whoever answers at an address.
    pub(super) fn connect(&mut self, address: Multiaddr, done: oneshot::Sender<Result<DeviceId, ConnectError>>) {
        let (device, bare) = match self.parse(&address) {
            Ok(parsed) => parsed,
            Err(error) => {
                let _gone = done.send(Err(error));
                return;
            }
        };
        let connected = match device {
            Some(device) => Some(device).filter(|device| self.peers.is_connected(*device)),
            None => self.peers.connected_at(&bare),
        };
        if let Some(device) = connected {
            let _gone = done.send(self.keep_connected(device));
            return;
        }
        // Naming a peer takes back that it was disconnected on purpose.
        if let Some(Err(error)) = device.map(|device| self.name_again(device)) {
            let _gone = done.send(Err(error));
            return;
        }
        let options = match device.and_then(|device| peer_of(device).ok()) {
            Some(peer) => {
                // The schedule may be dialling it at an old address; this dial must not be held back by that one.
                DialOpts::peer_id(peer)
                    .addresses(vec![bare])
                    .condition(libp2p::swarm::dial_opts::PeerCondition::Always)
                    .allocate_new_port()
                    .build()
            }
            None => DialOpts::unknown_peer_id().address(bare).allocate_new_port().build(),
        };
        let id = options.connection_id();
        match self.swarm.dial(options) {
            Ok(()) => {
                self.dials.insert(id, Dial::Asked { address, done });
            }
            Err(error) => {
                let _gone = done.send(Err(connect_error(address, error)));
            }
        }
    }

    /// Keeps a connected device connected.
    fn keep_connected(&mut self, device: DeviceId) -> Result<DeviceId, ConnectError> {
        let kept = self.redial.keep(Target::Device(device), true, Instant::now());
        kept.map(|()| device).map_err(|_| ConnectError::TooMany)
    }

    /// Keeps connected to a device, now or as soon as it can be reached.
    pub(super) fn keep(&mut self, device: DeviceId, addresses: Vec<Multiaddr>) {
        if peer_of(device).is_err() || device == self.device || self.parted.contains(&device) {
            return;
        }
        let connected = self.peers.is_connected(device);
        if self.redial.keep(Target::Device(device), connected, Instant::now()).is_err() {
            tracing::warn!(%device, "a peer is not kept connected: there are too many");
            return;
        }
        self.peers.vouch(device, addresses);
    }

    /// Parts from a device until it is named again.
    pub(super) fn disconnect(&mut self, device: DeviceId) {
        let Ok(peer) = peer_of(device) else { return };
        self.redial.forget(device);
        self.parted.insert(device);
        // Closes its connections and denies new ones: otherwise the peer, which does not know, would be back at once.
        self.swarm.behaviour_mut().blocked.block_peer(peer);
        self.peers.prune(device, &self.redial);
    }

    /// Plans to dial a device that was found on the local network.
    pub(super) fn discovered(&mut self, peer: PeerId, address: Multiaddr) {
        let Ok(device) = device_of(&peer) else { return };
        let blocked = self.swarm.behaviour().blocked.blocked_peers().contains(&peer);
        if device == self.device || blocked || self.parse(&address).is_err() {
            return;
        }
        let wait = DISCOVERY_JITTER.mul_f64(jitter());
        let wait = if self.device < device { wait } else { DISCOVERY_JITTER + wait };
        if !self.peers.is_connected(device) && self.redial.once(device, Instant::now() + wait).is_err() {
            return;
        }
        self.peers.vouch(device, [address]);
    }

    /// Takes note that a dial led to a connection.
    pub(super) fn dialled(&mut self, id: ConnectionId, device: DeviceId) -> Option<Target> {
        match self.dials.remove(&id)? {
            Dial::Scheduled(target) => Some(target),
            Dial::Asked { done, .. } => {
                // A caller that has given up was told that the peer is not kept.
                if !done.is_closed() {
                    let _gone = done.send(self.keep_connected(device));
                }
                None
            }
        }
    }

    /// Takes note that a dial failed.
    pub(super) fn dial_failed(&mut self, id: ConnectionId, peer: Option<PeerId>, error: DialError) {
        match self.dials.remove(&id) {
            Some(Dial::Scheduled(target)) => self.scheduled_dial_failed(&target, &error),
            Some(Dial::Asked { address, done }) => {
                let denied = matches!(error, DialError::Denied { .. });
                // An address that does not name its peer turned out to lead to one that was disconnected on purpose.
                let named = peer.filter(|_| denied).and_then(|peer| device_of(&peer).ok());
                match named.map(|device| self.name_again(device)) {
                    Some(Ok(true)) => self.connect(address, done),
                    Some(Err(banned)) => {
                        let _gone = done.send(Err(banned));
                    }
                    Some(Ok(false)) | None => {
                        let _gone = done.send(Err(connect_error(address, error)));
                    }
                }
            }
            None => {}
        }
    }

    fn scheduled_dial_failed(&mut self, target: &Target, error: &DialError) {
        if let DialError::LocalPeerId { address } = error {
            tracing::warn!(%address, "an address leads to this device itself and is not dialled again");
            self.redial.forget_target(target);
            return;
        }
        let reason = reason(error);
        tracing::debug!(?target, %reason, "a peer is not reached");
        self.redial.failed(target, reason, Instant::now(), jitter());
        if let Target::Device(device) = target {
            self.peers.prune(*device, &self.redial);
        }
    }

    /// Splits an address into the device it names, if any, and the rest, and checks that it can be dialled.
    fn parse(&self, address: &Multiaddr) -> Result<(Option<DeviceId>, Multiaddr), ConnectError> {
        let bad = |reason| ConnectError::BadAddress { address: address.clone(), reason };
        let device = match address.iter().last() {
            Some(Part::P2p(peer)) => Some(device_of(&peer).map_err(|_| bad("it names a peer that is no device"))?),
            _ => None,
        };
        if device == Some(self.device) {
            return Err(ConnectError::OwnDevice(address.clone()));
        }
        let kind = Kind::of(address)
            .ok_or_else(|| bad("expected /ip4/…/tcp/PORT, /ip4/…/udp/PORT/quic-v1, or the same with ip6 or dns"))?;
        if !self.kinds.contains(&kind) {
            return Err(bad("its transport is switched off"));
        }
        let bare = without_peer_id(address.clone());
        if device.is_none() && self.listening.borrow().contains(&bare) {
            return Err(ConnectError::OwnDevice(address.clone()));
        }
        Ok((device, bare))
    }
}

/// What a failed dial means to who asked for it.
fn connect_error(address: Multiaddr, error: DialError) -> ConnectError {
    match error {
        DialError::LocalPeerId { .. } => ConnectError::OwnDevice(address),
        DialError::WrongPeerId { obtained, .. } => {
            let found = device_of(&obtained).map_or_else(|_| obtained.to_string(), |device| device.to_string());
            ConnectError::WrongDevice { address, found }
        }
        DialError::Denied { cause } => ConnectError::Denied { address, reason: cause.to_string() },
        error => ConnectError::Unreachable { address, reason: reason(&error) },
    }
}

/// A failed dial in a person's words: libp2p's own spread over several lines.
fn reason(error: &DialError) -> String {
    match error {
        DialError::NoAddresses => "no address of it is known".to_owned(),
        DialError::Transport(errors) => {
            let causes: Vec<String> =
                errors.iter().map(|(address, error)| format!("{address}: {}", innermost(error))).collect();
            causes.join("; ")
        }
        error => error.to_string(),
    }
}

/// The cause at the bottom of a chain of errors.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(cause) = error.source() {
        error = cause;
    }
    error.to_string()
}
