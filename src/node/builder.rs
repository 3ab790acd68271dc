//! How a node is configured and started.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use prometheus_client::registry::Registry;
use rand::SeedableRng;
use rand::rngs::StdRng;
use syncline_model::SpaceId;
use syncline_model::keys::CRYPTOGRAPHY;
use syncline_storage::index::INDEX_CACHE_BYTES;
use syncline_storage::{IndexKind, OpenOptions, Progress, Store};

use super::bans::BanFile;
use super::conductor::Conductor;
use super::key_files::KeyFiles;
use super::passphrase::Passphrase;
use super::scrubbing::{SCRUB_BYTES_PER_SECOND, Scrub};
use super::tokens::Tokens;
use super::workshop::Workshop;
use super::{Inner, Node, files, parse_address};
use crate::documents::CacheBudget;
use crate::error::Error;
use crate::network::{Network, NetworkConfig, PeerRates};
use crate::space::RelayQuota;

/// Bytes of loaded documents that a node keeps in memory, for all spaces together, unless it is told otherwise.
const DOCUMENT_CACHE_BYTES: usize = 64 << 20;

/// Bytes of the disk that a node holds in reserve for when it is full, unless it is told otherwise.
const RESERVE_BYTES: u64 = 64 << 20;

/// Backups that are written at once; each waits for its reader.
const BACKUPS_AT_ONCE: usize = 4;

/// Settings of a node.
#[derive(Debug, Clone)]
pub struct NodeBuilder {
    directory: Option<PathBuf>,
    create: bool,
    index: IndexKind,
    online: bool,
    listen: Vec<String>,
    bootstrap: Vec<String>,
    mdns: bool,
    tcp: bool,
    quic: bool,
    document_cache_bytes: usize,
    peer_rates: PeerRates,
    relay_quota: RelayQuota,
    relay_spaces: Vec<SpaceId>,
    scrub_bytes_per_second: u64,
    passphrase: Option<Passphrase>,
    index_cache_bytes: u64,
    reserve_bytes: Option<u64>,
    disk_use_max_bytes: Option<u64>,
}

impl Default for NodeBuilder {
    fn default() -> Self {
        Self {
            directory: None,
            create: false,
            index: IndexKind::default(),
            online: true,
            listen: Vec::new(),
            bootstrap: Vec::new(),
            mdns: true,
            tcp: true,
            quic: true,
            document_cache_bytes: DOCUMENT_CACHE_BYTES,
            peer_rates: PeerRates::default(),
            relay_quota: RelayQuota::default(),
            relay_spaces: Vec::new(),
            scrub_bytes_per_second: SCRUB_BYTES_PER_SECOND,
            passphrase: None,
            index_cache_bytes: INDEX_CACHE_BYTES,
            reserve_bytes: Some(RESERVE_BYTES),
            disk_use_max_bytes: None,
        }
    }
}

impl NodeBuilder {
    /// The data directory.
    #[must_use]
    pub fn data(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Whether to make the directory a new device when it holds none.
    #[must_use]
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// What keeps the index of a directory that is made; one that exists keeps its own.
    #[must_use]
    pub fn index(mut self, kind: IndexKind) -> Self {
        self.index = kind;
        self
    }

    /// An address to listen on; repeat for several. The default is port 34569 over TCP and QUIC.
    #[must_use]
    pub fn listen(mut self, address: &str) -> Self {
        self.listen.push(address.to_owned());
        self
    }

    /// A peer to connect to and keep; repeat for several.
    #[must_use]
    pub fn bootstrap(mut self, address: &str) -> Self {
        self.bootstrap.push(address.to_owned());
        self
    }

    /// Whether to find peers on the local network.
    #[must_use]
    pub fn mdns(mut self, on: bool) -> Self {
        self.mdns = on;
        self
    }

    /// Whether to use TCP.
    #[must_use]
    pub fn tcp(mut self, on: bool) -> Self {
        self.tcp = on;
        self
    }

    /// Whether to use QUIC.
    #[must_use]
    pub fn quic(mut self, on: bool) -> Self {
        self.quic = on;
        self
    }

    /// No network at all: documents, spaces and invitations work, peers do not.
    #[must_use]
    pub fn offline(mut self) -> Self {
        self.online = false;
        self
    }

    /// Bytes of loaded documents to keep in memory, for all spaces together.
    #[must_use]
    pub fn document_cache_bytes(mut self, bytes: usize) -> Self {
        self.document_cache_bytes = bytes;
        self
    }

    /// How much one peer may send and ask for in a second; what is beyond is dropped unread. No rate may be 0.
    #[must_use]
    pub fn peer_rates(mut self, rates: PeerRates) -> Self {
        self.peer_rates = rates;
        self
    }

    /// How much to store of each space in which this device is a relay.
    #[must_use]
    pub fn relay_quota(mut self, quota: RelayQuota) -> Self {
        self.relay_quota = quota;
        self
    }

    /// A space that this device is to keep as a relay; repeat for several. With any, it joins no other space, and as a
    /// relay it stores no more of others that it joined before.
    #[must_use]
    pub fn relay_space(mut self, space: SpaceId) -> Self {
        self.relay_spaces.push(space);
        self
    }

    /// How many stored bytes to go over in a second, to find damage before it is met; 0: none.
    #[must_use]
    pub fn scrub_bytes_per_second(mut self, bytes: u64) -> Self {
        self.scrub_bytes_per_second = bytes;
        self
    }

    /// The passphrase of the keys in the data directory; it is not looked at when they are under none.
    #[must_use]
    pub fn passphrase(mut self, passphrase: Passphrase) -> Self {
        self.passphrase = Some(passphrase);
        self
    }

    /// Bytes of memory for the cache of the index.
    #[must_use]
    pub fn index_cache_bytes(mut self, bytes: u64) -> Self {
        self.index_cache_bytes = bytes;
        self
    }

    /// Bytes of the disk to hold in reserve, so that what was taken in can be written when something else fills it.
    /// None: as many as are held already.
    #[must_use]
    pub fn reserve_bytes(mut self, bytes: Option<u64>) -> Self {
        self.reserve_bytes = bytes;
        self
    }

    /// Bytes that the data directory may take; at that nothing new is taken in, and reading goes on. None: no bound.
    #[must_use]
    pub fn disk_use_max_bytes(mut self, bytes: Option<u64>) -> Self {
        self.disk_use_max_bytes = bytes;
        self
    }

    /// Opens the data directory and starts everything. Must be called within a tokio runtime.
    pub async fn start(mut self) -> Result<Node, Error> {
        if !CRYPTOGRAPHY {
            tracing::error!("this build signs and seals NOTHING: it is for measurements alone, never for data");
        }
        let started = Instant::now();
        let directory = self.directory.clone().unwrap_or_else(|| PathBuf::from("."));
        let mut random: StdRng = rand::make_rng();
        let (options, passphrase) = (self.open_options(), self.passphrase.take());
        let mut file_random = StdRng::from_rng(&mut random);
        let (store, keys, device, local_key) = blocking(move || {
            let store = Store::open(&directory, options, &mut report)?;
            let keys = KeyFiles::open(store.files(), passphrase.as_ref())?;
            let device = match files::read_device(&keys)? {
                Some(device) => device,
                None if options.create => files::create_device(&keys, &mut file_random)?,
                None => return Err(Error::NotInitialised { directory }),
            };
            let local_key = files::local_key(&keys, &mut file_random)?;
            Ok((store, keys, device, local_key))
        })
        .await?;

        let bans = BanFile::new(store.files());
        let mut registry = Registry::with_prefix("syncline");
        let (network, events) = if self.online {
            let mut config = self.network_config(&device, &store)?;
            config.bans = bans.read();
            let (network, events) = Network::start(config, &mut registry).await?;
            files::write_port(&store.files(), &network.listen_addresses())?;
            (Some(network), Some(events))
        } else {
            (None, None)
        };
        let (kind, room) = (store.index_kind(), store.room());
        let tokens = Arc::new(Tokens::load(store.files())?);
        let workshop = Workshop {
            store: Arc::new(store),
            keys: keys.clone(),
            device: device.clone(),
            local_key,
            network: network.clone(),
            runtime: tokio::runtime::Handle::current(),
            started,
            relay_quota: self.relay_quota,
            relay_spaces: self.relay_spaces.iter().copied().collect(),
            cache: CacheBudget::new(self.document_cache_bytes),
        };
        let (commands, spaces) = Conductor::start(workshop, events, random).await?;
        let rate = self.scrub_bytes_per_second;
        let scrub = Scrub::register(&mut registry);
        let inner = Arc::new(Inner {
            device,
            index: kind,
            keys,
            room,
            checking: Arc::new(tokio::sync::Semaphore::new(1)),
            backups: Arc::new(tokio::sync::Semaphore::new(BACKUPS_AT_ONCE)),
            scrubbing: Mutex::default(),
            tokens,
            bans,
            relay_spaces: std::mem::take(&mut self.relay_spaces),
            started,
            network,
            registry: Mutex::new(registry),
            commands,
            spaces,
        });
        let scrubbing = scrub.start(Arc::downgrade(&inner), rate);
        *inner.scrubbing.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = scrubbing;
        Ok(Node { inner })
    }

    fn open_options(&self) -> OpenOptions {
        OpenOptions {
            create: self.create,
            index: self.index,
            reserve_bytes: self.reserve_bytes,
            use_bytes_max: self.disk_use_max_bytes,
            index_cache_bytes: Some(self.index_cache_bytes),
            ..OpenOptions::default()
        }
    }

    fn network_config(&self, device: &syncline_model::DeviceKey, store: &Store) -> Result<NetworkConfig, Error> {
        let parse = |addresses: &[String]| addresses.iter().map(|text| parse_address(text)).collect::<Result<_, _>>();
        let mut config = NetworkConfig::new(*device.seed());
        config.listen = parse(&self.listen)?;
        config.bootstrap = parse(&self.bootstrap)?;
        config.preferred_port = files::read_port(&store.files());
        config.rates = self.peer_rates;
        (config.mdns, config.tcp, config.quic) = (self.mdns, self.tcp, self.quic);
        Ok(config)
    }
}

/// Runs something that reads or writes files.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Error::Stopping),
    }
}

/// Tells the log about long-running steps, each tenth of the way.
pub(super) fn report(progress: Progress) {
    let tenth = (progress.total / 10).max(1);
    if progress.done == 0 || progress.done >= progress.total || progress.done % tenth < tenth / 16 {
        tracing::info!(activity = ?progress.activity, done = progress.done, total = progress.total, "preparing");
    }
}
