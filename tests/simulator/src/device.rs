//! One device: a disk, an index, a clock, and how replicas of its spaces are founded, joined and opened on them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use syncline::space::{SpaceCore, SpaceKeys, SpaceReplica};
use syncline_model::membership::Genesis;
use syncline_model::{ContentKey, DeviceId, DeviceKey, SpaceId, Ticket};
use syncline_storage::{
    Activity, AppendLimits, FileScope, Incarnation, MemoryDisk, MemoryIndex, OpenOptions, StorageError, Store,
};
use syncline_sync::Engine;

use crate::damage::Damage;
use crate::happening::Happening;
use crate::liar::Liar;
use crate::message::Wish;
use crate::plan::Plan;
use crate::random::{Choices, generator};
use crate::running::{Running, clock};

/// When all wall clocks that are right begin: 2025-01-01.
pub(crate) const EPOCH_MS: i64 = 1_735_689_600_000;
/// The name of the file with a space's keys.
pub(crate) const SPACE_KEYS: &str = "keys";

/// One space, as all know it who may.
#[derive(Debug)]
pub(crate) struct SpaceFacts {
    pub(crate) id: SpaceId,
    pub(crate) genesis: Genesis,
    pub(crate) founder: DeviceId,
}

/// What the devices of a run have in common.
#[derive(Debug)]
pub(crate) struct Surroundings {
    pub(crate) plan: Plan,
    pub(crate) keys: Vec<DeviceKey>,
    pub(crate) ids: Vec<DeviceId>,
    pub(crate) spaces: Vec<SpaceFacts>,
}

impl Surroundings {
    pub(crate) fn new(plan: Plan) -> Self {
        let key = |number: usize| DeviceKey::generate(&mut generator(plan.seed, "device key", number as u64));
        let keys: Vec<DeviceKey> = (0..plan.devices.len()).map(key).collect();
        let space = |(number, space): (u64, &crate::plan::SpacePlan)| {
            let steward = &keys[space.steward];
            let genesis = Genesis {
                steward: steward.id(),
                steward_exchange: steward.exchange_public(),
                recovery: DeviceKey::generate(&mut generator(plan.seed, "recovery key", number)).id(),
                strings: space.strings,
                nonce: [number as u8; 16],
            };
            SpaceFacts { id: genesis.space(), genesis, founder: steward.id() }
        };
        let spaces = (0..).zip(&plan.spaces).map(space).collect();
        let ids = keys.iter().map(DeviceKey::id).collect();
        Self { plan, keys, ids, spaces }
    }

    /// The number of a device.
    pub(crate) fn number(&self, id: &DeviceId) -> Option<usize> {
        self.ids.iter().position(|other| other == id)
    }

    /// The number of a space.
    pub(crate) fn space(&self, id: &SpaceId) -> Option<usize> {
        self.spaces.iter().position(|other| other.id == *id)
    }
}

/// One device.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) number: usize,
    pub(crate) disk: MemoryDisk,
    pub(crate) index: MemoryIndex,
    /// The spaces that it founded or took a ticket for; a founder has no ticket.
    pub(crate) spaces: BTreeMap<usize, Option<Ticket>>,
    pub(crate) boots: u64,
    pub(crate) skew_ms: i64,
    /// What decides how it goes on after a stop or a failure that was prepared since it started.
    pub(crate) armed: Option<Choices>,
    /// Whether its disk is full.
    pub(crate) full: Option<Choices>,
    /// It does nothing before.
    pub(crate) paused_until_us: u64,
    pub(crate) damage: Damage,
    pub(crate) liar: Option<Liar>,
    pub(crate) running: Option<Running>,
}

impl Device {
    pub(crate) fn new(plan: &Plan, number: usize) -> Self {
        let device = &plan.devices[number];
        let disk = MemoryDisk::new();
        disk.set_sector_bytes(plan.sector_bytes);
        let lies = plan.ambient.lies > 0;
        Self {
            number,
            disk,
            index: MemoryIndex::new(),
            spaces: BTreeMap::new(),
            boots: 0,
            skew_ms: device.skew_ms,
            armed: None,
            full: None,
            paused_until_us: 0,
            damage: Damage::default(),
            liar: device.liar.filter(|_| lies).map(|kind| Liar::new(plan.seed, number, kind)),
            running: None,
        }
    }

    /// Starts it: opens its logs, recovers, and opens what its documents have not seen.
    pub(crate) fn start(
        &mut self,
        surroundings: &Arc<Surroundings>,
        now_us: u64,
        wishes: &mut Vec<Wish>,
    ) -> Result<(), StorageError> {
        self.boots += 1;
        let plan = &surroundings.plan;
        let limits = AppendLimits { segment_bytes: plan.segment_bytes, margin_bytes: 2 * plan.reserve_bytes };
        let options = OpenOptions { create: true, limits, ..OpenOptions::default() };
        let store = Store::assemble(Arc::new(self.disk.clone()), Arc::new(self.index.clone()), options)?;
        let random = generator(plan.seed, "device", self.number as u64 * 10_000 + self.boots);
        let mut running = Running::new(surroundings, self, now_us, store, random);
        for (space, ticket) in &self.spaces {
            running.open(*space, ticket.clone(), clock(now_us, now_us, self.skew_ms), wishes)?;
        }
        self.running = Some(running);
        Ok(())
    }

    /// Whether it runs, or has nothing to run for.
    pub(crate) fn is_settled(&self) -> bool {
        self.running.is_some() || self.boots == 0
    }

    /// The device stops; what it had not made durable may be lost.
    pub(crate) fn stop(&mut self) {
        self.running = None;
        self.armed = None;
    }
}

/// Opens one replica of a device; a space of which nothing is stored yet is founded or begun.
pub(crate) fn open_replica(
    surroundings: &Surroundings,
    store: &Store,
    (number, space): (usize, usize),
    ticket: Option<&Ticket>,
    random: &mut ChaCha8Rng,
    wishes: &mut Vec<Wish>,
) -> Result<SpaceReplica, StorageError> {
    let id = surroundings.spaces[space].id;
    let core = open_core(surroundings, store, (number, space), ticket, random)?;
    let mut activities = BTreeSet::new();
    let log = store.open_space(id, &mut |progress| {
        activities.insert(format!("{:?}", progress.activity));
    })?;
    for (activity, happening) in
        [(Activity::Recovering, Happening::TailCopied), (Activity::Indexing, Happening::IndexRebuilt)]
    {
        if activities.contains(&format!("{activity:?}")) {
            wishes.push(Wish::Note(happening, [space as u64, 0]));
        }
    }
    let local_key = ContentKey([number as u8 + 1; 32]);
    SpaceReplica::open(core, log, &local_key, surroundings.plan.cache_bytes, random)
}

/// The core of a space: of its stored keys, or a new one when nothing is stored yet.
fn open_core(
    surroundings: &Surroundings,
    store: &Store,
    (number, space): (usize, usize),
    ticket: Option<&Ticket>,
    random: &mut ChaCha8Rng,
) -> Result<SpaceCore, StorageError> {
    let (plan, facts) = (&surroundings.plan, &surroundings.spaces[space]);
    let device = surroundings.keys[number].clone();
    let config = plan.engine.clone();
    if store.spaces()?.contains(&facts.id) {
        let bytes = store.files().read(FileScope::Space(facts.id), SPACE_KEYS)?;
        let keys = bytes.and_then(|bytes| SpaceKeys::decode(&bytes).ok());
        let keys = keys.expect("a stored space has its keys, since they are replaced as a whole");
        let mut core = SpaceCore::new(device, keys, Engine::new(config));
        core.witness_after(plan.witness_after_ms);
        return Ok(core);
    }
    let keys = SpaceKeys {
        space: facts.id,
        name: "simulated".to_owned(),
        founder: facts.founder,
        ticket: ticket.map(Ticket::to_string),
        content: BTreeMap::new(),
        replication: BTreeMap::new(),
    };
    let founds = facts.founder == device.id();
    let mut core = SpaceCore::new(device, keys, Engine::new(config));
    core.witness_after(plan.witness_after_ms);
    if founds {
        core.found(facts.genesis.clone(), 0, random).expect("a space can be founded");
    }
    let mut incarnation = [0; 16];
    rand_core::Rng::fill_bytes(random, &mut incarnation);
    let keys = core.state().keys().encode();
    store.create_space(facts.id, Incarnation(incarnation), &[(SPACE_KEYS, &keys)])?;
    Ok(core)
}
