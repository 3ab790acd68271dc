//! An operation of a kind that this release does not know goes through its replicas all the same: stored, checked,
//! served, forwarded, backed up.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::json;
use syncline_model::membership::{Certificate, Genesis};
use syncline_model::{ContentKey, DeviceId, DeviceKey, Header, Kind, Role, RunSummary, Strings, VerifiedRun};
use syncline_storage::{
    BackupWriter, Incarnation, MemoryDisk, MemoryIndex, OpenOptions, SpaceLog, StorageError, Store, restore,
};
use syncline_sync::{Effect as SyncEffect, Engine, Event as SyncEvent, RequestId};

use super::SpaceKeys;
use super::core::{Clock, Event, SpaceCore};
use super::replica::{Input, Output, SpaceReplica};
use crate::documents::{Answer, Edit, Input as DeskInput, Query, Step};

/// No release has such operations yet.
const NEWER: Kind = Kind(201);
const PAYLOAD: &[u8] = b"what only a newer release understands";

/// A device with one space.
struct Device {
    key: DeviceKey,
    store: Store,
    replica: Option<SpaceReplica>,
    keys: SpaceKeys,
}

impl Device {
    fn new(key: DeviceKey, keys: SpaceKeys) -> Self {
        let store = store();
        store.create_space(keys.space, Incarnation([1; 16]), &[]).unwrap();
        Self { key, store, replica: None, keys }
    }

    fn open(&mut self, random: &mut StdRng) {
        let core = SpaceCore::new(self.key.clone(), self.keys.clone(), Engine::new(Default::default()));
        let replica = SpaceReplica::open(core, self.log(), &ContentKey([1; 32]), 1 << 20, random).unwrap();
        self.replica = Some(replica);
    }

    fn log(&self) -> SpaceLog {
        self.store.open_space(self.keys.space, &mut |_| {}).unwrap()
    }

    fn replica(&mut self) -> &mut SpaceReplica {
        self.replica.as_mut().unwrap()
    }

    fn id(&self) -> DeviceId {
        self.key.id()
    }
}

fn store() -> Store {
    let options = OpenOptions { create: true, ..OpenOptions::default() };
    Store::assemble(Arc::new(MemoryDisk::new()), Arc::new(MemoryIndex::new()), options).unwrap()
}

/// Devices whose messages are delivered at once, between those that are connected.
struct World {
    devices: Vec<Device>,
    links: Vec<(usize, usize)>,
    clock: Clock,
    random: StdRng,
    requests: u64,
    answers: Vec<(usize, Output)>,
}

impl World {
    /// A founder and two more devices that hold its tickets, so to speak.
    fn new() -> Self {
        let mut random = StdRng::seed_from_u64(5);
        let device = DeviceKey::generate(&mut random);
        let genesis = Genesis {
            steward: device.id(),
            steward_exchange: device.exchange_public(),
            recovery: DeviceKey::generate(&mut random).id(),
            strings: Strings::Scalar,
            nonce: [0; 16],
        };
        let keys = SpaceKeys {
            space: genesis.space(),
            name: String::new(),
            founder: device.id(),
            ticket: None,
            content: BTreeMap::new(),
            replication: BTreeMap::new(),
        };
        let others = [(); 2].map(|()| DeviceKey::generate(&mut random));
        let devices = [device].into_iter().chain(others).map(|key| Device::new(key, keys.clone())).collect();
        let clock = Clock { now_ms: 0, wall_ms: 1_000_000 };
        let mut world = Self { devices, links: Vec::new(), clock, random, requests: 0, answers: Vec::new() };
        world.devices.iter_mut().for_each(|device| device.open(&mut world.random));
        world.devices[0].replica.as_mut().unwrap().found(genesis, 0, &mut world.random).unwrap();
        (0..3).for_each(|number| world.start(number));
        world
    }

    fn start(&mut self, number: usize) {
        let (clock, random) = (self.clock, &mut self.random);
        self.devices[number].replica().start(clock, random).unwrap();
        self.settle(number);
    }

    fn ask(&mut self, number: usize, input: Input) {
        let (clock, random) = (self.clock, &mut self.random);
        self.devices[number].replica().handle(input, clock, random).unwrap();
        self.settle(number);
    }

    /// Makes durable what a device wrote, and carries out what it wants.
    fn settle(&mut self, number: usize) {
        let (clock, random) = (self.clock, &mut self.random);
        let replica = self.devices[number].replica();
        replica.settle(clock, random).unwrap();
        for output in replica.take_outputs() {
            match output {
                Output::StoreKeys => {
                    let device = &mut self.devices[number];
                    device.keys = device.replica.as_ref().unwrap().core().state().keys().clone();
                }
                Output::Sync(SyncEffect::Send { peer, token, request }) => {
                    let answer = self.request(number, peer, request);
                    let event = match answer {
                        Some(bytes) => SyncEvent::Answered { token, bytes },
                        None => SyncEvent::Failed { token },
                    };
                    self.ask(number, sync(event));
                }
                // Nothing is heard of by gossip here, so that it has to be pulled.
                Output::Sync(_) => {}
                other => self.answers.push((number, other)),
            }
        }
    }

    fn request(&mut self, from: usize, to: DeviceId, request: syncline_sync::Request) -> Option<Vec<u8>> {
        let number = self.devices.iter().position(|device| device.id() == to)?;
        let is_linked = self.links.contains(&(from, number)) || self.links.contains(&(number, from));
        self.devices[number].replica.as_ref().filter(|_| is_linked)?;
        self.requests += 1;
        let (id, peer) = (RequestId(self.requests), self.devices[from].id());
        self.ask(number, sync(SyncEvent::Requested { peer, id, request }));
        let is_reply = |(_, output): &(usize, Output)| matches!(output, Output::Reply(of, _) if *of == id);
        let at = self.answers.iter().position(is_reply)?;
        match self.answers.remove(at).1 {
            Output::Reply(_, response) => Some(response.encode()),
            _ => None,
        }
    }

    /// Connects two devices and lets them reconcile for a while.
    fn connect(&mut self, one: usize, other: usize) {
        self.links.push((one, other));
        for (number, peer) in [(one, other), (other, one)] {
            let peer = self.devices[peer].id();
            self.ask(number, sync(SyncEvent::PeerShares { peer }));
        }
        for _ in 0..200 {
            self.clock.now_ms += 500;
            for number in [one, other] {
                self.ask(number, Input::Core(Event::Tick));
            }
        }
        self.links.clear();
        for (number, peer) in [(one, other), (other, one)] {
            let peer = self.devices[peer].id();
            self.ask(number, sync(SyncEvent::PeerGone { peer }));
        }
    }

    /// The founder admits a device.
    fn admit(&mut self, number: usize) {
        let invite = Event::Invite { token: 1, role: Role::Writer, uses: 1, expires_ms: u64::MAX };
        self.ask(0, Input::Core(invite));
        let Output::Invited(_, Ok(invitation)) = self.last(|output| matches!(output, Output::Invited(..))) else {
            panic!("no invitation")
        };
        let certificate = Certificate::new(&self.devices[0].keys.space, &self.devices[number].key, &invitation);
        self.ask(0, Input::Core(Event::Join { token: 2, certificate }));
        let Output::JoinAnswered(_, Ok(delivery)) = self.last(|output| matches!(output, Output::JoinAnswered(..)))
        else {
            panic!("no delivery")
        };
        self.ask(number, Input::Core(Event::Admitted(delivery)));
    }

    fn last(&mut self, wanted: impl Fn(&Output) -> bool) -> Output {
        let at = self.answers.iter().rposition(|(_, output)| wanted(output)).expect("such an answer");
        self.answers.remove(at).1
    }

    fn put(&mut self, number: usize, key: &str, value: serde_json::Value) {
        let step = Step::Edit { key: key.parse().unwrap(), edit: Edit::Put(value) };
        self.ask(number, Input::Desk(DeskInput::Transact { token: 9, steps: vec![step] }));
        let answer = self.last(|output| matches!(output, Output::Answer(..)));
        assert!(matches!(answer, Output::Answer(_, Ok(_))), "{answer:?}");
    }

    fn value(&mut self, number: usize, key: &str) -> serde_json::Value {
        let query = Query::Get { key: key.parse().unwrap(), wait_for: None };
        self.ask(number, Input::Desk(DeskInput::Query { token: 9, query }));
        match self.last(|output| matches!(output, Output::Answer(..))) {
            Output::Answer(_, Ok(Answer::Document(view))) => view.value,
            other => panic!("{other:?}"),
        }
    }

    /// What a newer release on the founder's device writes: an operation of its own kind, in the founder's log.
    fn write_as_newer_release(&mut self) -> VerifiedRun {
        let device = &mut self.devices[0];
        drop(device.replica.take());
        let mut log = device.log();
        let (mut head, mut records) = (None, 0);
        log.replay(None, &mut |_, summary| {
            if summary.author == device.key.id() {
                records += summary.operations.iter().filter(|operation| operation.kind == Kind::MEMBERSHIP).count();
                head = Some((summary.last(), summary.last_id()));
            }
        })
        .unwrap();
        let (last, previous) = head.unwrap();
        let header = Header {
            kind: NEWER,
            space: device.keys.space,
            author: device.key.id(),
            sequence: last + 1,
            previous,
            membership: records as u64,
            epoch: 1,
            dependencies: Vec::new(),
            payload_length: PAYLOAD.len() as u32,
        };
        let run = VerifiedRun::author(&device.key, &header, |_| PAYLOAD.to_vec()).unwrap();
        log.append(std::slice::from_ref(&run)).unwrap();
        log.sync().unwrap();
        log.close().unwrap();
        self.devices[0].open(&mut self.random);
        self.start(0);
        run
    }

    /// The operation as a device stores it.
    fn stored(&mut self, number: usize, run: &VerifiedRun) -> Option<Vec<u8>> {
        let reader = self.devices[number].replica().log().reader();
        let found = reader.read(&run.author(), run.first() - 1, run.first(), 1 << 20).unwrap();
        let stored = found.iter().find_map(|found| Some((found, found.operation(run.first())?)))?;
        assert_eq!((stored.1.id, stored.1.kind), (run.last_id(), NEWER));
        Some(stored.0.payload(stored.1).to_vec())
    }
}

fn sync(event: SyncEvent) -> Input {
    Input::Core(Event::Sync(event))
}

#[test]
fn an_operation_of_an_unknown_kind_is_stored_served_forwarded_and_backed_up() -> Result<(), StorageError> {
    let mut world = World::new();
    world.admit(1);
    world.admit(2);
    world.put(0, "before", json!({"n": 1}));
    let newer = world.write_as_newer_release();
    world.put(0, "after", json!({"n": 2}));

    // The third device never meets the one that wrote it.
    world.connect(0, 1);
    assert_eq!(world.stored(1, &newer).as_deref(), Some(PAYLOAD));
    drop(world.devices[0].replica.take());
    assert_eq!(world.stored(2, &newer), None);
    world.connect(1, 2);
    assert_eq!(world.stored(2, &newer).as_deref(), Some(PAYLOAD), "forwarded as it was");
    for number in [1, 2] {
        assert_eq!(world.value(number, "before"), json!({"n": 1}));
        assert_eq!(world.value(number, "after"), json!({"n": 2}), "what follows it in its log counts");
        let state = world.devices[number].replica().core();
        assert_eq!((state.unreadable(), state.state().admission().waiting_operations()), (0, 0));
        assert!(state.state().admission().refused().is_empty());
        let report = world.devices[number].replica().log().reader().verify(&mut |_| {})?;
        assert!(report.is_sound(), "{report:?}");
    }
    // Those who do not know it write on after it.
    world.put(2, "later", json!({"n": 3}));
    world.connect(1, 2);
    assert_eq!(world.value(1, "later"), json!({"n": 3}));

    let mut backup = BackupWriter::new(Vec::new()).unwrap();
    backup.space(&world.devices[2].replica().log().reader(), &[], &mut |_| {}).unwrap();
    let (_, bytes) = backup.finish().unwrap();
    let (copy, space) = (store(), world.devices[2].keys.space);
    restore(&bytes[..], &copy, &mut || Incarnation([7; 16]), &mut |_| Ok(None), &mut |_| {}).unwrap();
    let mut kinds = Vec::new();
    copy.open_space(space, &mut |_| {})?.replay(None, &mut |_, summary: RunSummary| {
        kinds.extend(summary.operations.iter().map(|operation| operation.kind));
    })?;
    assert!(kinds.contains(&NEWER));
    Ok(())
}
