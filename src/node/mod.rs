//! The node: one device's store, spaces and network under one handle.
//!
//! [`NodeBuilder`] opens the data directory and starts everything; [`Node`] is what callers hold; the `conductor` is
//! the one task that owns the list of spaces and the list of peers, and carries messages between them.

pub mod backup;
mod bans;
mod builder;
pub mod bytes;
mod conductor;
mod files;
pub mod info;
mod key_files;
mod metrics;
mod passphrase;
pub mod recovery;
mod scrubbing;
pub mod tokens;
pub mod uncounted;
pub mod upkeep;
pub mod verification;
mod workshop;

use std::sync::{Arc, Mutex};
use std::time::Instant;

use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::registry::Registry;
use syncline_model::{DeviceId, DeviceKey, DeviceText, SpaceId, Strings, Ticket};
use syncline_storage::{IndexKind, Room};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

pub use builder::NodeBuilder;

use self::bans::BanFile;
pub(crate) use self::conductor::Notice;
use self::conductor::{Command, SpaceEntry};
use self::info::{CreatedSpace, DiskInfo, NodeStatus, SpaceStatus, Standing, TrafficInfo, strings_name};
use self::key_files::KeyFiles;
use self::scrubbing::Scrubbing;
use self::tokens::Tokens;
use crate::error::Error;
use crate::network::{Multiaddr, Network, PeerInfo};
use crate::space::Space;

/// A running node. Clones share it.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    device: DeviceKey,
    index: IndexKind,
    keys: KeyFiles,
    room: Arc<Room>,
    /// Checks run one after another.
    checking: Arc<Semaphore>,
    /// So do backups, but for a few.
    backups: Arc<Semaphore>,
    scrubbing: Mutex<Option<Scrubbing>>,
    tokens: Arc<Tokens>,
    bans: BanFile,
    relay_spaces: Vec<SpaceId>,
    started: Instant,
    network: Option<Network>,
    registry: Mutex<Registry>,
    commands: mpsc::Sender<Command>,
    spaces: watch::Receiver<Arc<Vec<SpaceEntry>>>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Node({})", self.device().short())
    }
}

impl Node {
    /// How a node is configured and started.
    pub fn builder() -> NodeBuilder {
        NodeBuilder::default()
    }

    /// This device.
    pub fn device(&self) -> DeviceId {
        self.inner.device.id()
    }

    /// The text by which others address this device: its id and exchange key, joined by its signature.
    pub fn device_text(&self) -> DeviceText {
        DeviceText::new(&self.inner.device)
    }

    /// The libp2p peer id of the same key.
    pub fn peer_id(&self) -> String {
        crate::network::peer_id_text(&self.device())
    }

    /// The multiaddresses that the node listens on, with its peer id; none without a network.
    pub fn listen_addresses(&self) -> Vec<String> {
        let peer = self.peer_id();
        let listening = self.inner.network.as_ref().map(Network::listen_addresses).unwrap_or_default();
        listening.iter().map(|address| format!("{address}/p2p/{peer}")).collect()
    }

    /// The spaces on this device, by name.
    pub async fn spaces(&self) -> Vec<SpaceStatus> {
        let mut statuses = Vec::new();
        for entry in self.entries().iter() {
            match self.space_status(&self.space_of(entry)).await {
                Ok(status) => statuses.push(status),
                Err(error) => tracing::warn!(space = %entry.name, %error, "a space does not answer"),
            }
        }
        statuses
    }

    /// A space by its local name or its id.
    pub fn space(&self, name_or_id: &str) -> Result<Space, Error> {
        let entries = self.entries();
        let id = name_or_id.parse::<SpaceId>().ok();
        let found = entries.iter().find(|entry| entry.name == name_or_id || Some(entry.link.space) == id);
        found
            .map(|entry| self.space_of(entry))
            .ok_or_else(|| Error::unknown_space(name_or_id, entries.iter().map(|entry| entry.name.as_str())))
    }

    /// Founds a space whose steward is this device.
    pub async fn create_space(&self, name: &str, strings: Strings) -> Result<CreatedSpace, Error> {
        check_name(name)?;
        let name = name.to_owned();
        let (id, recovery_key) = self.command(|reply| Command::Create { name, strings, reply }).await?;
        Ok(CreatedSpace { space: self.space(&id.to_string())?, recovery_key })
    }

    /// Takes a ticket: the space appears at once and fills as soon as a member that can admit this device is reached.
    pub async fn join(&self, ticket: &str, name: Option<&str>) -> Result<Space, Error> {
        let ticket: Ticket = ticket.parse()?;
        let name = name.unwrap_or(&ticket.name).to_owned();
        check_name(&name)?;
        if ticket.expires_ms < files::wall_ms() {
            return Err(Error::TicketExpired);
        }
        if !self.inner.relay_spaces.is_empty() && !self.inner.relay_spaces.contains(&ticket.space) {
            return Err(Error::NotRelayed { space: ticket.space });
        }
        let id = self.command(|reply| Command::Join { ticket, name, reply }).await?;
        self.space(&id.to_string())
    }

    /// The peers that are known, connected or not, and those that are banned.
    pub async fn peers(&self) -> Vec<PeerInfo> {
        match &self.inner.network {
            Some(network) => network.peers().await,
            None => Vec::new(),
        }
    }

    /// Connects to a peer and keeps the connection from then on.
    pub async fn connect(&self, address: &str) -> Result<DeviceId, Error> {
        let network = self.inner.network.as_ref().ok_or(Error::Offline)?;
        Ok(network.connect(parse_address(address)?).await?)
    }

    /// Ends the connections to a peer; it stays so until [`Node::connect`] names it again.
    pub async fn disconnect(&self, peer: DeviceId) -> Result<(), Error> {
        self.inner.network.as_ref().ok_or(Error::Offline)?.disconnect(peer).await;
        Ok(())
    }

    /// How the node is doing.
    pub async fn status(&self) -> NodeStatus {
        let connected = |peer: &PeerInfo| peer.connections > 0;
        let text = self.device_text();
        NodeStatus {
            device: self.device().to_string(),
            peer: self.peer_id(),
            exchange: text.exchange().to_string(),
            device_text: text.to_string(),
            release: env!("CARGO_PKG_VERSION").to_owned(),
            index: self.inner.index.name().to_owned(),
            uptime_ms: self.inner.started.elapsed().as_millis() as u64,
            listening: self.listen_addresses(),
            connected_peers: self.peers().await.iter().filter(|peer| connected(peer)).count(),
            traffic: self.traffic(),
            disk: self.disk_use().await,
            spaces: self.spaces().await,
        }
    }

    /// Bytes exchanged with peers since the start.
    pub fn traffic(&self) -> TrafficInfo {
        let traffic = self.inner.network.as_ref().map(Network::traffic);
        traffic.map(|traffic| TrafficInfo { received: traffic.received, sent: traffic.sent }).unwrap_or_default()
    }

    /// What the data directory takes of its disk; None when that cannot be measured now.
    pub async fn disk_use(&self) -> Option<DiskInfo> {
        let room = self.inner.room.clone();
        match builder::blocking(move || Ok(room.disk_use()?)).await {
            Ok(disk) => Some(DiskInfo::from(disk)),
            Err(error) => {
                tracing::warn!(%error, "what the data directory takes cannot be measured");
                None
            }
        }
    }

    /// The metrics in Prometheus' text format.
    pub async fn metrics(&self) -> String {
        let spaces = metrics::of_spaces(&self.spaces().await);
        let disk = metrics::of_disk(self.disk_use().await.as_ref());
        let registry = self.inner.registry.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _written = encode_registry(&mut text, &registry)
            .and_then(|()| encode_registry(&mut text, &spaces))
            .and_then(|()| encode_registry(&mut text, &disk))
            .and_then(|()| encode_eof(&mut text));
        text
    }

    /// Waits until something on this device failed for good, and tells what. The node should end then.
    pub async fn failed(&self) -> String {
        let mut spaces = self.inner.spaces.clone();
        loop {
            let failure = spaces.borrow_and_update().iter().find_map(|entry| entry.link.facts.borrow().failure.clone());
            if let Some(failure) = failure {
                return failure;
            }
            if spaces.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Ends all spaces cleanly and closes all connections.
    pub async fn shutdown(self) {
        let scrubbing = self.inner.scrubbing.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(scrubbing) = scrubbing {
            scrubbing.end().await;
        }
        let (reply, done) = oneshot::channel();
        if self.inner.commands.send(Command::Shutdown { reply }).await.is_ok() {
            let _ended = done.await;
        }
    }

    pub(crate) async fn leave(&self, space: SpaceId) -> Result<(), Error> {
        self.command(|reply| Command::Leave { space, reply }).await
    }

    pub(crate) async fn space_status(&self, space: &Space) -> Result<SpaceStatus, Error> {
        let figures = space.figures().await?;
        let stats = space.stats().await?;
        let facts = space.link.facts.borrow().clone();
        let problem = self
            .entries()
            .iter()
            .find(|entry| entry.link.space == space.id())
            .and_then(|entry| entry.joining_problem.clone());
        let standing = match (facts.role, &problem) {
            (Some(_), _) => Standing::Member,
            _ if facts.was_removed => Standing::Removed,
            (None, Some(problem)) if problem.is_final => Standing::Refused,
            (None, _) => Standing::Joining,
        };
        Ok(SpaceStatus {
            id: space.id().to_string(),
            name: space.name().to_owned(),
            standing,
            role: facts.role.map(|role| role.name().to_owned()),
            strings: facts.strings.map(|strings| strings_name(strings).to_owned()),
            version: stats.version.to_string(),
            documents: stats.documents,
            operations: figures.operations,
            waiting: figures.waiting,
            unreadable: figures.unreadable,
            log_bytes: figures.log_bytes,
            quarantined: figures.quarantined,
            members: figures.members,
            peers: figures.peers,
            epoch: figures.epoch,
            newcomers_read_history: figures.newcomers_read_history,
            uncounted: figures.uncounted,
            problems: figures.problems,
            joining_problem: problem.filter(|_| facts.role.is_none() && !facts.was_removed).map(|problem| problem.text),
        })
    }

    fn entries(&self) -> Arc<Vec<SpaceEntry>> {
        self.inner.spaces.borrow().clone()
    }

    fn space_of(&self, entry: &SpaceEntry) -> Space {
        Space { node: self.clone(), link: entry.link.clone(), name: entry.name.clone() }
    }

    async fn command<T>(&self, command: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Command) -> Result<T, Error> {
        let (reply, outcome) = oneshot::channel();
        self.inner.commands.send(command(reply)).await.map_err(|_| Error::Stopping)?;
        outcome.await.map_err(|_| Error::Stopping)?
    }
}

pub(crate) fn parse_address(address: &str) -> Result<Multiaddr, Error> {
    address.parse().map_err(|_| Error::BadAddress { address: address.chars().take(200).collect() })
}

/// Stands in the HTTP API where a space's name would.
const RESERVED_NAME: &str = "join";

/// A space's name is typed in commands and stands in URLs, and must not be taken for an id.
fn check_name(name: &str) -> Result<(), Error> {
    let fits = !name.is_empty() && name.len() <= syncline_model::limits::NAME_BYTES_MAX;
    let plain = !name.chars().any(|character| character.is_control() || character == '/') && name.trim() == name;
    if fits && plain && name != RESERVED_NAME && name.parse::<SpaceId>().is_err() {
        Ok(())
    } else {
        Err(Error::BadName { name: name.chars().take(80).collect() })
    }
}
