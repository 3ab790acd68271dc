//! One device: a disk, an index, and how its replica is founded, joined and opened on them.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use syncline::documents::{Answer, ChangeEvent, DocumentError, Job, JobDone, Query, Step, Version};
use syncline::space::{SpaceCore, SpaceKeys, SpaceReplica, WriteError};
use syncline_model::membership::Genesis;
use syncline_model::{ContentKey, DeviceId, DeviceKey, Role, SpaceId, Ticket};
use syncline_storage::{
    AppendLimits, FileScope, Incarnation, MemoryDisk, MemoryIndex, OpenOptions, StorageError, Store,
};
use syncline_sync::{Config, Engine, Hello, Token};

use crate::happening::Happening;
use crate::plan::Plan;
use crate::random::generator;
use crate::running::{Running, clock};

/// When all wall clocks that are right begin: 2025-01-01.
pub(crate) const EPOCH_MS: i64 = 1_735_689_600_000;
/// The name of the file with a space's keys.
pub(crate) const SPACE_KEYS: &str = "keys";

/// Two protocols are spoken between devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Sync,
    Join,
}

/// Why a request was sent.
#[derive(Debug, Clone)]
pub(crate) enum Purpose {
    Hello(Hello),
    Engine(Token),
    Join,
}

/// What a device is told.
#[derive(Debug)]
pub(crate) enum Message {
    Connected(usize),
    Disconnected(usize),
    Request {
        peer: usize,
        protocol: Protocol,
        bytes: Vec<u8>,
        exchange: u64,
    },
    Answered {
        peer: usize,
        purpose: Purpose,
        bytes: Option<Vec<u8>>,
    },
    Gossip {
        peer: usize,
        frame: Frame,
        again: bool,
    },
    Transact {
        token: u64,
        steps: Vec<Step>,
    },
    Query {
        token: u64,
        query: Query,
    },
    Watch {
        token: u64,
        since: Option<Version>,
    },
    Taken {
        token: u64,
        events: usize,
    },
    Invite {
        token: u64,
        role: Role,
        uses: u32,
        expires_ms: u64,
    },
    Worked(JobDone),
    Tick,
    /// Whatever a node does every few seconds.
    Round,
}

/// A gossip frame with the id that gossip knows it by.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) bytes: Arc<[u8]>,
    pub(crate) id: [u8; 16],
}

/// What a device wants of the world.
#[derive(Debug)]
pub(crate) enum Wish {
    Request {
        peer: usize,
        protocol: Protocol,
        bytes: Vec<u8>,
        purpose: Purpose,
    },
    Reply {
        exchange: u64,
        bytes: Vec<u8>,
    },
    Spread {
        frame: Frame,
        not_to: Option<usize>,
    },
    Work(Job),
    Answered {
        token: u64,
        result: Result<Answer, DocumentError>,
    },
    Changed {
        token: u64,
        events: Vec<ChangeEvent>,
    },
    Invited {
        token: u64,
        outcome: Result<DeviceKey, WriteError>,
    },
    Note(Happening, [u64; 2]),
    /// Something happened that must not happen among honest devices.
    Violation(String),
}

/// What the devices of a run have in common.
#[derive(Debug)]
pub(crate) struct Surroundings {
    pub(crate) plan: Plan,
    pub(crate) keys: Vec<DeviceKey>,
    pub(crate) ids: Vec<DeviceId>,
    pub(crate) genesis: Genesis,
    pub(crate) space: SpaceId,
}

impl Surroundings {
    pub(crate) fn new(plan: Plan) -> Self {
        let mut random = generator(plan.seed, "devices");
        let keys: Vec<DeviceKey> = plan.roles.iter().map(|_| DeviceKey::generate(&mut random)).collect();
        let genesis = Genesis {
            steward: keys[0].id(),
            steward_exchange: keys[0].exchange_public(),
            recovery: DeviceKey::generate(&mut random).id(),
            strings: plan.strings,
            nonce: [plan.seed as u8; 16],
        };
        let ids = keys.iter().map(DeviceKey::id).collect();
        Self { space: genesis.space(), plan, keys, ids, genesis }
    }

    /// The number of a device.
    pub(crate) fn number(&self, id: &DeviceId) -> Option<usize> {
        self.ids.iter().position(|other| other == id)
    }
}

/// One device.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) number: usize,
    pub(crate) disk: MemoryDisk,
    pub(crate) index: MemoryIndex,
    /// Set when it is taken; the founder never has one.
    pub(crate) ticket: Option<Ticket>,
    pub(crate) boots: u64,
    pub(crate) skew_ms: i64,
    /// A stop or a failure of the disk was prepared since it started.
    pub(crate) armed: bool,
    pub(crate) running: Option<Running>,
}

impl Device {
    pub(crate) fn new(number: usize, skew_ms: i64) -> Self {
        let (disk, index) = (MemoryDisk::new(), MemoryIndex::new());
        Self { number, disk, index, ticket: None, boots: 0, skew_ms, armed: false, running: None }
    }

    /// Starts it: opens its log, recovers, and opens what its documents have not seen.
    pub(crate) fn start(
        &mut self,
        surroundings: &Arc<Surroundings>,
        now_us: u64,
        wishes: &mut Vec<Wish>,
    ) -> Result<(), StorageError> {
        self.boots += 1;
        let plan = &surroundings.plan;
        let limits = AppendLimits { segment_bytes: plan.segment_bytes, ..AppendLimits::default() };
        let options = OpenOptions { create: true, limits };
        let store = Store::assemble(Arc::new(self.disk.clone()), Arc::new(self.index.clone()), options)?;
        let mut random = generator(plan.seed, &format!("device {} boot {}", self.number, self.boots));
        let core = self.core(surroundings, &store, &mut random)?;
        let log = store.open_space(surroundings.space, &mut |_| {})?;
        let clock = clock(now_us, now_us, self.skew_ms);
        let local_key = ContentKey([self.number as u8 + 1; 32]);
        let replica = SpaceReplica::open(core, log, &local_key, plan.cache_bytes, &mut random)?;
        let mut running = Running::new(surroundings, self, now_us, store, replica, random);
        running.start(clock, wishes)?;
        self.running = Some(running);
        Ok(())
    }

    /// The core of the space: of its stored keys, or a new one when nothing is stored yet.
    fn core(
        &self,
        surroundings: &Surroundings,
        store: &Store,
        random: &mut ChaCha8Rng,
    ) -> Result<SpaceCore, StorageError> {
        let plan = &surroundings.plan;
        let (space, device) = (surroundings.space, surroundings.keys[self.number].clone());
        let config = Config { anti_entropy_ms: plan.anti_entropy_ms, request_timeout_ms: plan.request_timeout_ms };
        if store.spaces()?.contains(&space) {
            let bytes = store.files().read(FileScope::Space(space), SPACE_KEYS)?;
            let keys = bytes.and_then(|bytes| SpaceKeys::decode(&bytes).ok());
            let keys = keys.expect("a stored space has its keys, since they are replaced as a whole");
            return Ok(SpaceCore::new(device, keys, Engine::new(config)));
        }
        let keys = SpaceKeys {
            space,
            name: "simulated".to_owned(),
            founder: surroundings.ids[0],
            ticket: self.ticket.as_ref().map(Ticket::to_string),
            content: BTreeMap::new(),
            replication: BTreeMap::new(),
        };
        let mut core = SpaceCore::new(device, keys, Engine::new(config));
        if self.number == 0 {
            core.found(surroundings.genesis.clone(), random).expect("a space can be founded");
        }
        let mut incarnation = [0; 16];
        rand_core::Rng::fill_bytes(random, &mut incarnation);
        let keys = core.state().keys().encode();
        store.create_space(space, Incarnation(incarnation), &[(SPACE_KEYS, &keys)])?;
        Ok(core)
    }

    /// The device stops; what it had not made durable may be lost.
    pub(crate) fn stop(&mut self) {
        self.running = None;
        self.armed = false;
    }
}
