//! Replicas and a network that lose, delay, reorder, repeat and part as a seed says, for tests.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use syncline_model::{
    ContentKey, Dependency, DeviceId, DeviceKey, IdPrefix, Kind, OperationId, Run, SpaceId, SpaceTag, VerifiedRun,
    VersionVector,
};

use crate::testing::{SPACE, SeededRandom, device, write};
use crate::{Config, Effect, Engine, Event, FrameId, Message, Replica, RequestId, Response, Token, Verdict};

/// A replica in memory that admits an operation when all that it builds on is admitted.
pub(crate) struct FakeReplica {
    pub(crate) key: DeviceKey,
    pub(crate) vector: VersionVector,
    taken: BTreeMap<DeviceId, (u64, OperationId)>,
    prefixes: BTreeMap<DeviceId, Vec<IdPrefix>>,
    operations: BTreeMap<(DeviceId, u64), (Vec<Dependency>, Option<DeviceId>)>,
    pub(crate) admitted: BTreeMap<DeviceId, (u64, OperationId)>,
    ids: BTreeMap<(DeviceId, u64), OperationId>,
    /// Durable runs in the order of their arrival.
    pub(crate) log: Vec<VerifiedRun>,
    writing: VecDeque<VerifiedRun>,
    pub(crate) writers: BTreeSet<DeviceId>,
    pub(crate) members: BTreeSet<DeviceId>,
    pub(crate) gossip_keys: Vec<ContentKey>,
    /// Reported in addition to what really waits.
    pub(crate) pretended_waiting: usize,
    /// Authors that are known to have forked, and where.
    pub(crate) forked: BTreeMap<DeviceId, u64>,
    pub(crate) wanted_by_id: BTreeSet<(DeviceId, u64, OperationId)>,
    /// Whose runs the space drops without a word.
    pub(crate) refuses: Option<DeviceId>,
}

impl Replica for FakeReplica {
    fn space(&self) -> SpaceId {
        SPACE
    }

    fn local(&self) -> DeviceId {
        self.key.id()
    }

    fn vector(&self) -> &VersionVector {
        &self.vector
    }

    fn taken(&self, author: &DeviceId) -> (u64, OperationId) {
        self.taken.get(author).copied().unwrap_or((0, OperationId::ZERO))
    }

    fn prefix_at(&self, author: &DeviceId, sequence: u64) -> Option<IdPrefix> {
        self.prefixes.get(author)?.get(usize::try_from(sequence.checked_sub(1)?).ok()?).copied()
    }

    fn may_write(&self, author: &DeviceId) -> bool {
        self.writers.contains(author)
    }

    fn serves(&self, peer: &DeviceId) -> bool {
        self.members.contains(peer)
    }

    fn wanted(&self) -> Option<(DeviceId, u64)> {
        self.taken.keys().find_map(|author| {
            let next = self.admitted_up_to(author) + 1;
            let (dependencies, _) = self.operations.get(&(*author, next))?;
            let missing = |dependency: &&Dependency| self.taken(&dependency.author).0 < dependency.sequence;
            dependencies.iter().find(missing).map(|dependency| (dependency.author, dependency.sequence))
        })
    }

    fn waiting_operations(&self) -> usize {
        let waiting = self.taken.iter().map(|(author, head)| head.0 - self.admitted_up_to(author));
        waiting.sum::<u64>() as usize + self.pretended_waiting
    }

    fn begins_by_itself(&self, _run: &VerifiedRun) -> bool {
        false
    }

    fn worth(&self, author: &DeviceId) -> u64 {
        self.forked.get(author).map_or(u64::MAX, |fork| fork - 1)
    }

    fn log_of(&self, author: &DeviceId, sequence: u64, id: &OperationId) -> Option<DeviceId> {
        (self.prefix_at(author, sequence) == Some(id.prefix())).then_some(*author)
    }

    fn durable(&self, log: &DeviceId) -> u64 {
        self.vector.sequence(log)
    }

    fn branches_after(&self, log: &DeviceId) -> u64 {
        self.forked.get(log).map_or(0, |fork| fork - 1)
    }

    fn wanted_by_id(&self) -> BTreeSet<(DeviceId, u64, OperationId)> {
        self.wanted_by_id.clone()
    }

    fn gossip_keys(&self) -> &[ContentKey] {
        &self.gossip_keys
    }
}

impl FakeReplica {
    pub(crate) fn new(key: DeviceKey) -> Self {
        Self {
            key,
            vector: VersionVector::default(),
            taken: BTreeMap::new(),
            prefixes: BTreeMap::new(),
            operations: BTreeMap::new(),
            admitted: BTreeMap::new(),
            ids: BTreeMap::new(),
            log: Vec::new(),
            writing: VecDeque::new(),
            writers: BTreeSet::new(),
            members: BTreeSet::new(),
            gossip_keys: vec![ContentKey([7; 32])],
            pretended_waiting: 0,
            forked: BTreeMap::new(),
            wanted_by_id: BTreeSet::new(),
            refuses: None,
        }
    }

    /// Takes a run in that continues its log; true when this made other authors known.
    pub(crate) fn ingest(&mut self, run: &VerifiedRun) -> bool {
        let author = run.author();
        if self.refuses == Some(author) {
            return false;
        }
        let head = self.taken(&author);
        assert_eq!((run.first(), run.previous()), (head.0 + 1, head.1), "a run continues its log");
        assert!(self.may_write(&author), "an unknown author's run waits");
        for (operation, sequence) in run.operations().iter().zip(run.first()..) {
            self.prefixes.entry(author).or_default().push(operation.id.prefix());
            self.ids.insert((author, sequence), operation.id);
            let admits = (operation.kind == Kind::ADMIT).then(|| run.payload(operation).try_into().map(DeviceId));
            let admits = admits.and_then(Result::ok);
            self.operations.insert((author, sequence), (operation.dependencies.clone(), admits));
        }
        self.taken.insert(author, (run.last(), run.last_id()));
        self.writing.push_back(run.clone());
        self.admit()
    }

    /// Makes everything durable; returns own runs among it.
    pub(crate) fn sync(&mut self) -> Vec<VerifiedRun> {
        let local = self.local();
        let written: Vec<VerifiedRun> = self.writing.drain(..).collect();
        for run in &written {
            self.vector.advance(run.author(), run.last(), run.last_id());
        }
        self.log.extend(written.iter().cloned());
        written.into_iter().filter(|run| run.author() == local).collect()
    }

    /// Writes an operation that builds on everything admitted here.
    pub(crate) fn write(&mut self, kind: Kind, payload: Vec<u8>) {
        let local = self.local();
        let foreign = self.admitted.iter().filter(|(author, _)| **author != local);
        let dependencies =
            foreign.map(|(author, head)| Dependency { author: *author, sequence: head.0, id: head.1 }).collect();
        self.write_on(kind, payload, dependencies);
    }

    pub(crate) fn write_on(&mut self, kind: Kind, payload: Vec<u8>, dependencies: Vec<Dependency>) {
        let run = write(&self.key, kind, self.taken(&self.local()), dependencies, payload);
        self.ingest(&run);
    }

    fn admitted_up_to(&self, author: &DeviceId) -> u64 {
        self.admitted.get(author).map_or(0, |head| head.0)
    }

    fn admit(&mut self) -> bool {
        let mut learned = false;
        loop {
            let ready = self.taken.keys().find_map(|author| {
                let next = (*author, self.admitted_up_to(author) + 1);
                let (dependencies, admits) = self.operations.get(&next)?;
                let met = |dependency: &Dependency| self.admitted_up_to(&dependency.author) >= dependency.sequence;
                dependencies.iter().all(met).then_some((next, *admits))
            });
            let Some((position, admits)) = ready else { return learned };
            self.admitted.insert(position.0, (position.1, self.ids[&position]));
            if let Some(device) = admits {
                self.members.insert(device);
                learned |= self.writers.insert(device);
            }
        }
    }
}

/// An effect for the trace, without the bytes of operations.
fn described(effect: &Effect) -> String {
    match effect {
        Effect::Ingest { run, peer, path } => {
            format!("ingest {:?} {}..={} {peer:?} {path:?}", run.author(), run.first(), run.last())
        }
        Effect::Publish { bytes } => format!("publish {}", blake3::hash(bytes)),
        effect => format!("{effect:?}"),
    }
}

/// A replica with its engine.
pub(crate) struct Node {
    pub(crate) replica: FakeReplica,
    pub(crate) engine: Engine,
    random: SeededRandom,
    partners: BTreeSet<usize>,
    seen_frames: BTreeSet<[u8; 32]>,
    frames: BTreeMap<u64, Vec<u8>>,
}

/// What is on its way.
enum Delivery {
    Request { from: usize, to: usize, token: Token, bytes: Vec<u8> },
    Answer { to: usize, token: Token, bytes: Vec<u8> },
    Failed { to: usize, token: Token },
    Frame { from: usize, to: usize, bytes: Vec<u8> },
    Durable { node: usize },
}

/// A change to an encoded response.
pub(crate) type Tamper = fn(&[u8]) -> Vec<u8>;

/// How bad the network is.
#[derive(Clone, Copy)]
pub(crate) struct Conditions {
    pub(crate) delay_max_ms: u64,
    pub(crate) lost_percent: u64,
    pub(crate) repeated_percent: u64,
    pub(crate) gossip: bool,
}

pub(crate) const CALM: Conditions = Conditions { delay_max_ms: 1, lost_percent: 0, repeated_percent: 0, gossip: false };
pub(crate) const ROUGH: Conditions =
    Conditions { delay_max_ms: 400, lost_percent: 15, repeated_percent: 15, gossip: true };

/// What was sent, and how often faults fired.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) requests: u64,
    pub(crate) request_bytes: u64,
    pub(crate) response_bytes: u64,
    pub(crate) frames: u64,
    pub(crate) lost: u64,
    pub(crate) repeated: u64,
}

/// Nodes, links between them, and one queue of what happens next.
pub(crate) struct Simulation {
    pub(crate) nodes: Vec<Node>,
    pub(crate) now_ms: u64,
    pub(crate) conditions: Conditions,
    pub(crate) traffic: Traffic,
    /// Changes to the encoded responses of a node, to make it misbehave.
    pub(crate) tamper: BTreeMap<usize, Tamper>,
    /// Nodes that take requests and never answer.
    pub(crate) mute: BTreeSet<usize>,
    /// Effects that tests look at, with the node.
    pub(crate) reported: Vec<(usize, Effect)>,
    pub(crate) trace: blake3::Hasher,
    queue: BTreeMap<(u64, u64), Delivery>,
    order: u64,
    random: SeededRandom,
    awaited: BTreeMap<u64, (usize, Token)>,
}

impl Simulation {
    /// `count` devices that all know each other and write.
    pub(crate) fn new(seed: u64, count: u8, conditions: Conditions) -> Self {
        let keys: Vec<DeviceKey> = (1..=count).map(device).collect();
        let ids: BTreeSet<DeviceId> = keys.iter().map(DeviceKey::id).collect();
        let node = |(number, key): (u64, DeviceKey)| {
            let mut replica = FakeReplica::new(key);
            replica.writers = ids.clone();
            replica.members = ids.clone();
            Node {
                replica,
                engine: Engine::new(Config::default()),
                random: SeededRandom::new(seed * 100 + number),
                partners: BTreeSet::new(),
                seen_frames: BTreeSet::new(),
                frames: BTreeMap::new(),
            }
        };
        Self {
            nodes: (1..).zip(keys).map(node).collect(),
            now_ms: 0,
            conditions,
            traffic: Traffic::default(),
            tamper: BTreeMap::new(),
            mute: BTreeSet::new(),
            reported: Vec::new(),
            trace: blake3::Hasher::new(),
            queue: BTreeMap::new(),
            order: 0,
            random: SeededRandom::new(seed),
            awaited: BTreeMap::new(),
        }
    }

    pub(crate) fn id(&self, node: usize) -> DeviceId {
        self.nodes[node].replica.key.id()
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.random.below(limit)
    }

    pub(crate) fn connect(&mut self, a: usize, b: usize) {
        if self.nodes[a].partners.insert(b) {
            self.nodes[b].partners.insert(a);
            self.event(a, Event::PeerShares { peer: self.id(b) });
            self.event(b, Event::PeerShares { peer: self.id(a) });
        }
    }

    pub(crate) fn connect_all(&mut self) {
        for a in 0..self.nodes.len() {
            for b in a + 1..self.nodes.len() {
                self.connect(a, b);
            }
        }
    }

    pub(crate) fn part(&mut self, a: usize, b: usize) {
        if self.nodes[a].partners.remove(&b) {
            self.nodes[b].partners.remove(&a);
            self.event(a, Event::PeerGone { peer: self.id(b) });
            self.event(b, Event::PeerGone { peer: self.id(a) });
        }
    }

    /// Writes an operation that is durable a moment later.
    pub(crate) fn write(&mut self, node: usize, kind: Kind, payload: Vec<u8>) {
        self.nodes[node].replica.write(kind, payload);
        self.later(2, Delivery::Durable { node });
    }

    /// Writes durable operations that nobody is told of yet.
    pub(crate) fn write_offline(&mut self, node: usize, count: usize, payload: usize) {
        for number in 0..count {
            self.nodes[node].replica.write_on(Kind::DATA, vec![number as u8; payload], Vec::new());
        }
        self.nodes[node].replica.sync();
    }

    /// Lets time pass.
    pub(crate) fn run_until(&mut self, end_ms: u64) {
        loop {
            let deadlines =
                (0..self.nodes.len()).filter_map(|node| Some((self.nodes[node].engine.next_deadline()?, node))).min();
            let arrival = self.queue.first_key_value().map(|((time, _), _)| *time);
            let next = arrival.into_iter().chain(deadlines.map(|(time, _)| time)).min();
            let Some(next) = next.filter(|time| *time <= end_ms) else { break };
            self.now_ms = self.now_ms.max(next);
            match deadlines {
                Some((time, node)) if arrival.is_none_or(|arrival| time < arrival) => {
                    self.event(node, Event::Tick);
                    let after = self.nodes[node].engine.next_deadline();
                    assert!(after.is_none_or(|after| after > self.now_ms), "a deadline that passed is not asked for");
                }
                _ => {
                    let (_, delivery) = self.queue.pop_first().expect("there is an arrival");
                    self.deliver(delivery);
                }
            }
        }
        self.now_ms = end_ms;
    }

    /// Lets time pass until all replicas are equal; false if that takes longer than allowed.
    pub(crate) fn converges_within(&mut self, most_ms: u64) -> bool {
        let end = self.now_ms + most_ms;
        while self.now_ms < end && !self.converged() {
            self.run_until(self.now_ms + 50);
        }
        self.converged()
    }

    pub(crate) fn converged(&self) -> bool {
        let first = &self.nodes[0].replica;
        self.nodes.iter().all(|node| node.replica.vector == first.vector && node.replica.waiting_operations() == 0)
    }

    pub(crate) fn event(&mut self, node: usize, event: Event) {
        let mut effects = Vec::new();
        let Node { engine, replica, random, .. } = &mut self.nodes[node];
        engine.handle(event, self.now_ms, replica, random, &mut effects);
        for effect in &effects {
            self.trace.update(format!("{} {node} {}\n", self.now_ms, described(effect)).as_bytes());
        }
        let mut learned = false;
        for effect in effects {
            learned |= self.carry_out(node, effect);
        }
        if learned {
            self.event(node, Event::MembershipChanged);
        }
    }

    fn carry_out(&mut self, node: usize, effect: Effect) -> bool {
        match effect {
            Effect::Send { peer, token, request } => {
                let to = self.number(&peer);
                let bytes = Message::Space { tag: SpaceTag([0; 16]), request }.encode();
                self.traffic.requests += 1;
                self.traffic.request_bytes += bytes.len() as u64;
                if self.is_lost() {
                    self.fail(node, token);
                } else {
                    self.later_at_random(Delivery::Request { from: node, to, token, bytes });
                }
            }
            Effect::Reply { id, response, .. } => self.reply(node, id, &response),
            Effect::Serve { peer, id, serving } => {
                let stored: Vec<Run> = self.nodes[node].replica.log.iter().map(|run| Run::clone(run)).collect();
                let response = serving.page(stored);
                self.reply(node, id, &response);
                self.event(node, Event::Served { peer, bytes: response.encode().len() });
            }
            Effect::Ingest { run, .. } => {
                self.later(3, Delivery::Durable { node });
                return self.nodes[node].replica.ingest(&run);
            }
            Effect::Publish { bytes } => self.spread(node, node, &bytes),
            Effect::Verdict { id, from, verdict } => {
                let bytes = self.nodes[node].frames.remove(&id.0).unwrap_or_default();
                if verdict == Verdict::Accept {
                    let from = self.number(&from);
                    self.spread(node, from, &bytes);
                } else if verdict == Verdict::Reject {
                    self.reported.push((node, Effect::Verdict { id, from, verdict }));
                }
            }
            effect => self.reported.push((node, effect)),
        }
        false
    }

    fn reply(&mut self, node: usize, id: RequestId, response: &Response) {
        let Some((to, token)) = self.awaited.remove(&id.0) else { return };
        if self.mute.contains(&node) {
            return;
        }
        let mut bytes = response.encode();
        if let Some(tamper) = self.tamper.get(&node) {
            bytes = tamper(&bytes);
        }
        self.traffic.response_bytes += bytes.len() as u64;
        if self.is_lost() {
            self.fail(to, token);
        } else {
            self.later_at_random(Delivery::Answer { to, token, bytes });
        }
    }

    /// A lost request is noticed by the transport half the time, otherwise by the deadline only.
    fn fail(&mut self, to: usize, token: Token) {
        if self.random.chance(50) {
            self.later(200, Delivery::Failed { to, token });
        }
    }

    fn deliver(&mut self, delivery: Delivery) {
        match delivery {
            Delivery::Request { from, to, token, bytes } => {
                let Ok(Message::Space { request, .. }) = Message::decode(&bytes) else { panic!("a valid request") };
                if !self.nodes[to].partners.contains(&from) {
                    return;
                }
                let id = RequestId(self.order);
                self.order += 1;
                self.awaited.insert(id.0, (from, token));
                self.event(to, Event::Requested { peer: self.id(from), id, request });
            }
            Delivery::Answer { to, token, bytes } => self.event(to, Event::Answered { token, bytes }),
            Delivery::Failed { to, token } => self.event(to, Event::Failed { token }),
            Delivery::Frame { from, to, bytes } => self.frame(from, to, bytes),
            Delivery::Durable { node } => {
                for run in self.nodes[node].replica.sync() {
                    self.event(node, Event::Written { run });
                }
                self.event(node, Event::Taken);
            }
        }
    }

    pub(crate) fn frame(&mut self, from: usize, to: usize, bytes: Vec<u8>) {
        if self.nodes[to].seen_frames.insert(blake3::hash(&bytes).into()) {
            let id = self.order;
            self.order += 1;
            self.nodes[to].frames.insert(id, bytes.clone());
            self.event(to, Event::Gossip { bytes, from: self.id(from), id: FrameId(id) });
        }
    }

    fn spread(&mut self, node: usize, except: usize, bytes: &[u8]) {
        self.nodes[node].seen_frames.insert(blake3::hash(bytes).into());
        if !self.conditions.gossip {
            return;
        }
        let partners: Vec<usize> = self.nodes[node].partners.iter().copied().filter(|to| *to != except).collect();
        for to in partners {
            self.traffic.frames += 1;
            if self.is_lost() {
                continue;
            }
            self.later_at_random(Delivery::Frame { from: node, to, bytes: bytes.to_vec() });
            if self.random.chance(self.conditions.repeated_percent) {
                self.traffic.repeated += 1;
                self.nodes[to].seen_frames.remove(blake3::hash(bytes).as_bytes());
                self.later_at_random(Delivery::Frame { from: node, to, bytes: bytes.to_vec() });
            }
        }
    }

    fn is_lost(&mut self) -> bool {
        let lost = self.random.chance(self.conditions.lost_percent);
        self.traffic.lost += u64::from(lost);
        lost
    }

    fn number(&self, id: &DeviceId) -> usize {
        self.nodes.iter().position(|node| node.replica.key.id() == *id).expect("only nodes are peers")
    }

    fn later_at_random(&mut self, delivery: Delivery) {
        let delay = 1 + self.random.below(self.conditions.delay_max_ms);
        self.later(delay, delivery);
    }

    fn later(&mut self, delay_ms: u64, delivery: Delivery) {
        self.order += 1;
        self.queue.insert((self.now_ms + delay_ms, self.order), delivery);
    }
}
