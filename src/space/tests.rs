//! Whole replicas of one space that exchange everything at once, without a network: what membership means end to end.
//!
//! The simulator draws histories at random; here they are scripted, one for each promise.

mod attacks;
mod membership;
mod relays;
mod tails;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use syncline_model::keys::open;
use syncline_model::membership::{Certificate, Genesis, KeyDelivery};
use syncline_model::{ContentKey, DeviceId, DeviceKey, Role, SpaceId, Strings};
use syncline_storage::{Filed, Incarnation, MemoryDisk, MemoryIndex, OpenOptions, Store};
use syncline_sync::{
    Config, Effect as SyncEffect, Engine, Event as SyncEvent, FrameId, Page, Request, RequestId, Response, RunBytes,
    Verdict,
};

use super::core::{Clock, Event, WriteError};
use super::join::JoinRefusal;
use super::replica::{Input, Output, SpaceReplica};
use super::{Act, SpaceCore, SpaceKeys};
use crate::documents::{Answer, DocumentError, Edit, Input as DeskInput, Query, Step};

/// Rounds of messages after which a net must have come to rest.
const ROUNDS_MAX: usize = 10_000;
/// How long a net is left alone between two looks, in milliseconds: longer than any timer of reconciliation.
const REST_MS: u64 = 70_000;

/// One replica, and what a node keeps beside it.
pub(super) struct Node {
    key: DeviceKey,
    store: Arc<Store>,
    pub(super) replica: SpaceReplica,
    online: bool,
    /// Peers that reconciliation was told of.
    told: BTreeSet<usize>,
    /// What was seen to be blamed on peers.
    pub(super) blamed: Vec<String>,
    /// How often the replica was opened again.
    pub(super) reopened: usize,
}

/// Replicas that hear each other at once whenever both are online.
pub(super) struct Net {
    pub(super) nodes: Vec<Node>,
    recovery: DeviceKey,
    genesis: Genesis,
    random: StdRng,
    now_ms: u64,
    tokens: u64,
    /// Frames, requests and answers on their way.
    wire: VecDeque<(usize, Wire)>,
    answers: BTreeMap<u64, Result<Answer, DocumentError>>,
    governed: BTreeMap<u64, Result<(), WriteError>>,
    invited: BTreeMap<u64, Result<DeviceKey, WriteError>>,
    joined: BTreeMap<u64, Result<KeyDelivery, JoinRefusal>>,
    /// What attackers answer when they are asked for operations.
    pages: BTreeMap<DeviceId, Vec<RunBytes>>,
    /// Who asked what: the asker and its token, by request.
    requests: BTreeMap<RequestId, (usize, syncline_sync::Token)>,
}

enum Wire {
    Event(SyncEvent),
    /// Heard by those who listen to the name that gossip has in this epoch.
    Frame {
        epoch: u32,
        from: usize,
        bytes: Vec<u8>,
    },
}

impl Net {
    /// A space that its founder, number 0, has just founded.
    pub(super) fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let (founder, recovery) = (DeviceKey::generate(&mut random), DeviceKey::generate(&mut random));
        let genesis = Genesis {
            steward: founder.id(),
            steward_exchange: founder.exchange_public(),
            recovery: recovery.id(),
            strings: Strings::Scalar,
            nonce: [0; 16],
        };
        let mut net = Self {
            nodes: Vec::new(),
            recovery,
            genesis,
            random,
            now_ms: 0,
            tokens: 0,
            wire: VecDeque::new(),
            answers: BTreeMap::new(),
            governed: BTreeMap::new(),
            invited: BTreeMap::new(),
            joined: BTreeMap::new(),
            pages: BTreeMap::new(),
            requests: BTreeMap::new(),
        };
        net.host(founder, &[], true);
        net.settle();
        net
    }

    fn clock(&self) -> Clock {
        Clock { now_ms: self.now_ms, wall_ms: 1_800_000_000_000 + self.now_ms }
    }

    fn token(&mut self) -> u64 {
        self.tokens += 1;
        self.tokens
    }

    /// A device with a log of its own that holds some runs already.
    fn host(&mut self, key: DeviceKey, runs: &[Filed], founds: bool) -> usize {
        let store = Arc::new(empty_store());
        let space = self.genesis.space();
        store.create_space(space, Incarnation([self.nodes.len() as u8; 16]), &[]).unwrap();
        let mut core = Self::core(&key, empty_keys(&self.genesis));
        if founds {
            core.found(self.genesis.clone(), 0, &mut self.random).unwrap();
        }
        let mut log = store.open_space(space, &mut |_| {}).unwrap();
        log.file(runs).unwrap();
        log.sync().unwrap();
        let mut replica = SpaceReplica::open(core, log, &ContentKey([1; 32]), 1 << 20, &mut self.random).unwrap();
        replica.start(self.clock(), &mut self.random).unwrap();
        let (told, blamed) = Default::default();
        self.nodes.push(Node { key, store, replica, online: true, told, blamed, reopened: 0 });
        self.nodes.len() - 1
    }

    fn core(key: &DeviceKey, keys: SpaceKeys) -> SpaceCore {
        let engine = Engine::new(Config { anti_entropy_ms: 10_000, ..Config::default() });
        let mut core = SpaceCore::new(key.clone(), keys, engine).with_relay_quota(relays::QUOTA);
        // Time passes quickly here; a test about witnesses says when.
        core.witness_after(u64::MAX);
        core
    }

    /// A second copy of a device: the same key, the same keys of the space, the same log.
    pub(super) fn clone_device(&mut self, number: usize) -> usize {
        let keys = self.nodes[number].replica.core().state().keys().clone();
        let runs = self.stored(number);
        let key = self.nodes[number].key.clone();
        let copy = self.host(key, &runs, false);
        self.reopen(copy, keys);
        copy
    }

    /// All runs that a device has stored.
    pub(super) fn stored(&self, number: usize) -> Vec<Filed> {
        let reader = self.nodes[number].replica.log().reader();
        let mut filed = Vec::new();
        reader
            .replay_filed(None, &mut |position, log, _| {
                filed.push((position, log));
            })
            .unwrap();
        let run = |(position, log)| {
            let run = reader.run_by_position(position).unwrap().unwrap();
            Filed { log, run: run.verify().unwrap() }
        };
        filed.into_iter().map(run).collect()
    }

    /// Opens a replica again from what is stored, with these keys.
    fn reopen(&mut self, number: usize, keys: SpaceKeys) {
        let space = self.genesis.space();
        let node = self.nodes.remove(number);
        let Node { key, store, replica, online, blamed, reopened, .. } = node;
        drop(replica);
        let log = store.open_space(space, &mut |_| {}).unwrap();
        let core = Self::core(&key, keys);
        let mut replica = SpaceReplica::open(core, log, &ContentKey([1; 32]), 1 << 20, &mut self.random).unwrap();
        replica.start(self.clock(), &mut self.random).unwrap();
        let node = Node { key, store, replica, online, told: BTreeSet::new(), blamed, reopened: reopened + 1 };
        self.nodes.insert(number, node);
    }

    pub(super) fn id(&self, number: usize) -> DeviceId {
        self.nodes[number].key.id()
    }

    pub(super) fn online(&mut self, number: usize, online: bool) {
        self.nodes[number].online = online;
    }

    /// Gives a replica an input and carries out all that follows, here and elsewhere.
    pub(super) fn give(&mut self, number: usize, input: Input) {
        let clock = self.clock();
        self.nodes[number].replica.handle(input, clock, &mut self.random).unwrap();
        self.settle_one(number);
    }

    fn settle_one(&mut self, number: usize) {
        let clock = self.clock();
        self.nodes[number].replica.settle(clock, &mut self.random).unwrap();
        for output in self.nodes[number].replica.take_outputs() {
            self.carry_out(number, output);
        }
        let outdated = self.nodes[number].replica.documents_outdated();
        if outdated {
            self.nodes[number].replica.forget_documents(clock, &mut self.random).unwrap();
        }
        if outdated || self.nodes[number].replica.tails_due() {
            let keys = self.nodes[number].replica.core().state().keys().clone();
            self.reopen(number, keys);
            self.settle_one(number);
        }
    }

    fn carry_out(&mut self, number: usize, output: Output) {
        match output {
            Output::Answer(token, answer) => drop(self.answers.insert(token, answer)),
            Output::Governed(token, outcome) => drop(self.governed.insert(token, outcome)),
            Output::Invited(token, outcome) => drop(self.invited.insert(token, outcome)),
            Output::JoinAnswered(token, outcome) => drop(self.joined.insert(token, outcome)),
            Output::Work(job) => {
                let done = job.run();
                self.give(number, Input::Desk(DeskInput::Worked(done)));
            }
            Output::Publish { epoch, bytes } => {
                let secret = &self.nodes[number].replica.core().state().keys().replication[&epoch];
                let opened = open(&secret.gossip_key(), &gossip_data(self.genesis.space()), &bytes);
                assert!(opened.is_ok(), "a frame goes under the name of the keys that seal it");
                for other in self.others(number) {
                    self.wire.push_back((other, Wire::Frame { epoch, from: number, bytes: bytes.clone() }));
                }
            }
            Output::Reply(id, response) => {
                if let Some((asker, token)) = self.requests.remove(&id) {
                    let event = SyncEvent::Answered { token, bytes: response.encode() };
                    self.wire.push_back((asker, Wire::Event(event)));
                }
            }
            Output::Sync(SyncEffect::Send { peer, token, request }) => {
                let id = RequestId(self.token());
                if let (Some(runs), Request::Pull { .. }) = (self.pages.get(&peer), &request) {
                    let page = Page { runs: runs.clone(), ..Page::default() };
                    let event = SyncEvent::Answered { token, bytes: Response::Page(page).encode() };
                    self.wire.push_back((number, Wire::Event(event)));
                    return;
                }
                let found = self.others(number).into_iter().find(|other| self.id(*other) == peer);
                let event = match found {
                    Some(other) => {
                        self.requests.insert(id, (number, token));
                        (other, SyncEvent::Requested { peer: self.id(number), id, request })
                    }
                    None => (number, SyncEvent::Failed { token }),
                };
                self.wire.push_back((event.0, Wire::Event(event.1)));
            }
            Output::Sync(SyncEffect::Verdict { verdict: Verdict::Reject, from, .. }) => {
                self.nodes[number].blamed.push(format!("{} for a frame", from.short()));
            }
            Output::Sync(SyncEffect::Misbehaved { peer, reason }) => {
                self.nodes[number].blamed.push(format!("{} for {reason:?}", peer.short()));
            }
            _ => {}
        }
    }

    /// Others that are online; copies of one device do not meet.
    fn others(&self, number: usize) -> Vec<usize> {
        let meets = |other: &usize| {
            *other != number
                && self.nodes[*other].online
                && self.nodes[number].online
                && self.id(*other) != self.id(number)
        };
        (0..self.nodes.len()).filter(meets).collect()
    }

    /// Lets everybody who is online talk until there is nothing more to say.
    pub(super) fn settle(&mut self) {
        for _ in 0..4 {
            for number in 0..self.nodes.len() {
                let present: BTreeSet<usize> = self.others(number).into_iter().collect();
                let gone: Vec<usize> = self.nodes[number].told.difference(&present).copied().collect();
                for other in gone {
                    let event = SyncEvent::PeerGone { peer: self.id(other) };
                    self.nodes[number].told.remove(&other);
                    self.give(number, Input::Core(Event::Sync(event)));
                }
                for other in present {
                    if self.nodes[number].told.insert(other) {
                        let event = SyncEvent::PeerShares { peer: self.id(other) };
                        self.give(number, Input::Core(Event::Sync(event)));
                    }
                }
            }
            self.drain();
            self.now_ms += REST_MS;
            for number in 0..self.nodes.len() {
                self.give(number, Input::Core(Event::Tick));
            }
            self.drain();
        }
    }

    fn drain(&mut self) {
        for _ in 0..ROUNDS_MAX {
            match self.wire.pop_front() {
                None => return,
                Some((to, Wire::Event(event))) => self.give(to, Input::Core(Event::Sync(event))),
                Some((to, Wire::Frame { epoch, from, bytes })) => {
                    if self.nodes[to].replica.core().state().gossip_epoch() == epoch {
                        let event = SyncEvent::Gossip { bytes, from: self.id(from), id: FrameId(self.token()) };
                        self.give(to, Input::Core(Event::Sync(event)));
                    }
                }
            }
        }
        panic!("the net does not come to rest");
    }

    // What people do.

    /// Does a governing act and lets it spread.
    pub(super) fn govern(&mut self, number: usize, act: Act) -> Result<(), WriteError> {
        let outcome = self.govern_alone(number, act);
        self.settle();
        outcome
    }

    /// Does a governing act; others hear of it when they next talk.
    pub(super) fn govern_alone(&mut self, number: usize, act: Act) -> Result<(), WriteError> {
        let token = self.token();
        self.give(number, Input::Core(Event::Govern { token, act }));
        self.governed.remove(&token).expect("an act is answered")
    }

    pub(super) fn invite(&mut self, role: Role, uses: u32) -> Result<DeviceKey, WriteError> {
        let token = self.token();
        let (now_ms, steward) = (self.clock().wall_ms, self.steward());
        self.give(steward, Input::Core(Event::Invite { token, role, uses, expires_ms: now_ms + 1_000_000_000 }));
        let outcome = self.invited.remove(&token).expect("an invitation is answered");
        self.settle();
        outcome
    }

    /// Who is the steward, in the eyes of the first that is one.
    pub(super) fn steward(&self) -> usize {
        let is_steward = |node: &Node| node.replica.core().state().role() == Some(Role::Steward);
        self.nodes.iter().position(|node| is_steward(node) && node.online).expect("somebody is the steward")
    }

    /// A new device with nothing but a key.
    pub(super) fn device(&mut self) -> usize {
        let key = DeviceKey::generate(&mut self.random);
        let number = self.host(key, &[], false);
        self.nodes[number].online = false;
        number
    }

    /// A device asks a sponsor to be admitted.
    pub(super) fn join(&mut self, joiner: usize, sponsor: usize, invitation: &DeviceKey) -> Result<(), JoinRefusal> {
        let certificate = Certificate::new(&self.genesis.space(), &self.nodes[joiner].key, invitation);
        self.join_with(joiner, sponsor, certificate)
    }

    pub(super) fn join_with(
        &mut self,
        joiner: usize,
        sponsor: usize,
        certificate: Certificate,
    ) -> Result<(), JoinRefusal> {
        let token = self.token();
        self.give(sponsor, Input::Core(Event::Join { token, certificate }));
        let delivery = self.joined.remove(&token).expect("an application is answered")?;
        self.give(joiner, Input::Core(Event::Admitted(delivery)));
        self.nodes[joiner].online = true;
        self.settle();
        Ok(())
    }

    /// A device that the founder admitted in this role.
    pub(super) fn member(&mut self, role: Role) -> usize {
        let invitation = self.invite(role, 1).unwrap();
        let number = self.device();
        let steward = self.steward();
        self.join(number, steward, &invitation).unwrap();
        number
    }

    /// Writes a document; others hear of it when they next talk.
    #[allow(clippy::needless_pass_by_value, reason = "tests read better with json!(…) than with &json!(…)")]
    pub(super) fn put(&mut self, number: usize, key: &str, value: Value) -> Result<(), DocumentError> {
        let token = self.token();
        let step = Step::Edit { key: key.parse().unwrap(), edit: Edit::Put(json!({ "v": value })) };
        self.give(number, Input::Desk(DeskInput::Transact { token, steps: vec![step] }));
        self.answers.remove(&token).expect("a transaction is answered").map(drop)
    }

    /// Reads a document.
    pub(super) fn get(&mut self, number: usize, key: &str) -> Option<Value> {
        let token = self.token();
        let query = Query::Get { key: key.parse().unwrap(), wait_for: None };
        self.give(number, Input::Desk(DeskInput::Query { token, query }));
        match self.answers.remove(&token).expect("a question is answered") {
            Ok(Answer::Document(view)) => Some(view.value["v"].clone()),
            Ok(other) => panic!("{other:?}"),
            Err(DocumentError::NotFound { .. }) => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Which device the latest change of a document is told to be of, in its history and to watchers.
    pub(super) fn latest_author(&mut self, number: usize, key: &str) -> DeviceId {
        let token = self.token();
        let query = Query::History { key: key.parse().unwrap(), after: None, limit: 1 };
        self.give(number, Input::Desk(DeskInput::Query { token, query }));
        match self.answers.remove(&token) {
            Some(Ok(Answer::History(items))) => items[0].carried_by.unwrap().author,
            other => panic!("{other:?}"),
        }
    }

    /// Everybody among these shows this.
    #[allow(clippy::needless_pass_by_value, reason = "tests read better with json!(…) than with &json!(…)")]
    pub(super) fn all_show(&mut self, numbers: &[usize], key: &str, value: Option<Value>) {
        for number in numbers {
            assert_eq!(self.get(*number, key), value, "{key} at {number}");
        }
    }

    /// Devices agree on what is held and on what counts.
    pub(super) fn agree(&self, numbers: &[usize]) {
        let state = |number: usize| self.nodes[number].replica.core().state();
        use syncline_sync::Replica;
        for pair in numbers.windows(2) {
            let (one, other) = (state(pair[0]), state(pair[1]));
            assert_eq!(one.vector(), other.vector(), "{pair:?} hold the same");
            let members = |state: &super::log_state::LogState| {
                let members = state.membership().members().iter();
                members.map(|(device, member)| (*device, member.role)).collect::<Vec<_>>()
            };
            assert_eq!(members(one), members(other), "{pair:?} know the same members");
            assert_eq!(one.membership().epoch(), other.membership().epoch());
            assert_eq!(one.admission().waiting_operations(), 0, "nothing waits at {}", pair[0]);
        }
    }

    pub(super) fn role(&self, number: usize) -> Option<Role> {
        self.nodes[number].replica.core().state().role()
    }

    /// Epochs whose content keys a device has.
    pub(super) fn content_epochs(&self, number: usize) -> Vec<u32> {
        self.nodes[number].replica.core().state().keys().content.keys().copied().collect()
    }

    pub(super) fn recovery(&self) -> DeviceKey {
        self.recovery.clone()
    }
}

/// What a frame's seal covers beside the frame.
fn gossip_data(space: SpaceId) -> Vec<u8> {
    [&b"syncline/gossip-frame/1\0"[..], &space.0].concat()
}

fn empty_store() -> Store {
    let options = OpenOptions { create: true, ..OpenOptions::default() };
    Store::assemble(Arc::new(MemoryDisk::new()), Arc::new(MemoryIndex::new()), options).unwrap()
}

fn empty_keys(genesis: &Genesis) -> SpaceKeys {
    let (content, replication) = (BTreeMap::new(), BTreeMap::new());
    SpaceKeys {
        space: genesis.space(),
        name: String::new(),
        founder: genesis.steward,
        ticket: None,
        content,
        replication,
    }
}
