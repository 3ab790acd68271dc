//! The pump: one thread that owns one space, feeds its replica and carries out what the replica wants.
//!
//! It takes what has queued up, hands it to the replica, settles once (so that everything that queued up shares one
//! sync), and carries out the outputs. While a sync is under way the next batch gathers: that is the group commit.

mod healing;
mod members;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rand::rngs::StdRng;
use syncline_model::membership::{Certificate, KeyDelivery};
use syncline_model::{DeviceId, DeviceKey, DocumentKey, ReplicationSecret, Role, SpaceId, SpaceTag};
use syncline_storage::{LogReader, StorageError};
use syncline_sync::{
    Effect as SyncEffect, Event as SyncEvent, FrameId, Message as SyncMessage, Misbehaviour, PeerStatus, Replica,
    Request, RequestId, Token,
};
use tokio::sync::{Semaphore, mpsc as async_mpsc, oneshot, watch};

use self::healing::Lost;
use super::core::{Clock, Event, WriteError};
use super::join::JoinAnswer;
use super::keys::SpaceKeys;
use super::replica::{Input, Output, SpaceReplica};
use super::steward::Act;
use crate::documents::{
    Answer, AuditStart, ChangeEvent, DocumentError, Input as DeskInput, JobDone, Operations, Query, Step, SumPage,
    Version,
};
use crate::error::Error;
use crate::network::{self, Fault, GossipId, Network, Protocol, Reply, Topic};
use crate::node::Notice;
use crate::node::info::{InvitationInfo, MemberInfo, MembershipEvent, SpacePeer, UncountedStretch};

/// Requests of callers that may be open at once in one space; further callers wait.
const OPEN_REQUESTS_MAX: usize = 4096;
/// Messages from the network that may wait for a space; beyond it gossip is dropped and requests are refused.
const NETWORK_QUEUE_MAX: usize = 4096;
/// Epochs whose secrets peers are greeted with: who was away through more of them asks to be invited again.
const GREETED_EPOCHS_MAX: usize = 16;
/// Most messages taken into one step, so that answers are not held up by those that keep coming.
const STEP_MESSAGES_MAX: usize = 1024;

/// How long a step waits at most for callers that are expected back: about the time of one sync.
const GATHER_MAX: Duration = Duration::from_micros(150);
/// How long the thread stays awake for the caller that it has just answered.
const RETURN_MAX: Duration = Duration::from_micros(50);
/// Fewer callers than this are not waited for.
const GATHER_CALLERS_MIN: usize = 4;

/// What a watcher receives.
#[derive(Debug)]
pub(crate) enum Watched {
    /// Changes.
    Events(Vec<ChangeEvent>),
    /// The stream is over; it can be resumed after the version.
    Ended(Version, DocumentError),
    /// The same, after what was given last.
    Broken(DocumentError),
}

/// What a space is sent.
#[derive(Debug)]
pub(crate) enum Message {
    /// A transaction.
    Transact { token: u64, steps: Vec<Step>, reply: oneshot::Sender<Result<Answer, DocumentError>> },
    /// A question about documents.
    Query { token: u64, query: Query, reply: oneshot::Sender<Result<Answer, DocumentError>> },
    /// A stream of changes is to begin.
    Watch {
        token: u64,
        prefix: String,
        since: Option<Version>,
        values: bool,
        events: async_mpsc::UnboundedSender<Watched>,
        reply: oneshot::Sender<Result<Answer, DocumentError>>,
    },
    /// A watcher has taken events.
    Taken { token: u64, events: usize },
    /// A watcher is gone.
    Unwatch { token: u64 },
    /// A caller gave up.
    Cancel { token: u64 },
    /// A document job is done, of what began so many times.
    Worked(u64, JobDone),
    /// An invitation is wanted.
    Invite { role: Role, uses: u32, expires_ms: u64, reply: oneshot::Sender<Result<DeviceKey, WriteError>> },
    /// The steward governs.
    Govern { act: Act, reply: oneshot::Sender<Result<(), WriteError>> },
    /// A peer wants to be sponsored.
    Join { certificate: Certificate, reply: Reply },
    /// This device was admitted.
    Admitted(KeyDelivery),
    /// A peer shares the space.
    PeerShares { peer: DeviceId, tag: SpaceTag },
    /// A peer is gone.
    PeerGone { peer: DeviceId },
    /// A peer asks something.
    Requested { peer: DeviceId, request: Request, reply: Reply },
    /// A peer answered, or will not, what was asked after so many beginnings.
    Answered { token: Token, response: Option<Vec<u8>>, beginning: u64 },
    /// A gossip frame arrived.
    Gossip { bytes: Vec<u8>, from: DeviceId, id: GossipId },
    /// Other spaces are short of room for documents.
    MakeRoom,
    /// The replica's deadline came.
    Tick,
    /// How is it?
    Figures { reply: oneshot::Sender<Figures> },
    /// Something to read the log with is wanted.
    Reader { reply: oneshot::Sender<LogReader> },
    /// Documents are to be compared with their operations.
    AuditStart { reply: oneshot::Sender<AuditStart> },
    /// What does the catalog of documents say?
    AuditSums {
        after: Option<DocumentKey>,
        applied: Arc<BTreeMap<DeviceId, u64>>,
        reply: oneshot::Sender<Result<SumPage, StorageError>>,
    },
    /// Who is in?
    Members { reply: oneshot::Sender<Vec<MemberInfo>> },
    /// Which invitations are there?
    Invitations { reply: oneshot::Sender<Vec<InvitationInfo>> },
    /// Which of this device's operations do not count?
    Uncounted { reply: oneshot::Sender<Uncounted> },
    /// What was decided about members, and by whom?
    MembershipLog { reply: oneshot::Sender<Vec<MembershipEvent>> },
    /// End cleanly.
    Close { reply: oneshot::Sender<()> },
}

/// What [`Message::Uncounted`] is answered with.
#[derive(Debug, Clone)]
pub(crate) struct Uncounted {
    /// This device.
    pub(crate) device: DeviceId,
    /// The first and the last.
    pub(crate) range: Option<(u64, u64)>,
    /// To read them with.
    pub(crate) operations: Arc<dyn Operations>,
}

/// What [`Message::Figures`] is answered with.
#[derive(Debug, Clone)]
pub(crate) struct Figures {
    pub(crate) operations: u64,
    pub(crate) waiting: u64,
    pub(crate) unreadable: u64,
    pub(crate) log_bytes: u64,
    pub(crate) quarantined: u64,
    pub(crate) members: usize,
    pub(crate) peers: Vec<SpacePeer>,
    pub(crate) epoch: u32,
    pub(crate) newcomers_read_history: bool,
    pub(crate) uncounted: Vec<UncountedStretch>,
    pub(crate) problems: Vec<String>,
}

/// What the rest of the node may know of a space without asking it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    /// The secret whose name gossip has at present.
    pub(crate) gossip: Option<ReplicationSecret>,
    /// The secrets of the latest epochs.
    pub(crate) replication: Vec<(u32, ReplicationSecret)>,
    pub(crate) invitations: BTreeSet<DeviceId>,
    pub(crate) role: Option<Role>,
    pub(crate) strings: Option<syncline_model::Strings>,
    pub(crate) founder: Option<DeviceId>,
    /// Whether this device was removed.
    pub(crate) was_removed: bool,
    /// Why the space stopped.
    pub(crate) failure: Option<String>,
}

/// The sending side of a space's queue.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) space: SpaceId,
    sender: Sender<Message>,
    queued: Arc<AtomicUsize>,
    tokens: Arc<AtomicU64>,
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) facts: watch::Receiver<Arc<Facts>>,
}

impl Link {
    /// A token that nobody else uses.
    pub(crate) fn token(&self) -> u64 {
        self.tokens.fetch_add(1, Ordering::Relaxed)
    }

    /// Sends a message of the node itself; false when the space has ended.
    pub(crate) fn send(&self, message: Message) -> bool {
        self.queued.fetch_add(1, Ordering::Relaxed);
        self.sender.send(message).is_ok()
    }

    /// Sends a message that came from the network; drops it when too many wait.
    pub(crate) fn offer(&self, message: Message) -> bool {
        self.queued.load(Ordering::Relaxed) < NETWORK_QUEUE_MAX && self.send(message)
    }
}

/// Where the pump stores keys.
pub(crate) trait KeyStore: Send {
    /// Replaces the space's key file atomically.
    fn store(&self, keys: &SpaceKeys) -> Result<(), StorageError>;
}

/// What the pump needs beside the replica.
pub(crate) struct Surroundings {
    pub(crate) network: Option<Network>,
    pub(crate) runtime: tokio::runtime::Handle,
    pub(crate) keys: Box<dyn KeyStore>,
    /// Where to say that the facts changed.
    pub(crate) notices: async_mpsc::Sender<Notice>,
    pub(crate) started: Instant,
    pub(crate) random: StdRng,
    /// Opens the replica again, once the one before is gone.
    pub(crate) reopen: Reopen,
}

/// Opens a replica of the space from what is stored.
pub(crate) type Reopen = Box<dyn FnMut(&mut StdRng) -> Result<SpaceReplica, Error> + Send>;

/// Starts the thread of a space.
pub(crate) fn start(replica: SpaceReplica, surroundings: Surroundings) -> Link {
    let space = replica.core().state().keys().space;
    let (sender, receiver) = mpsc::channel();
    let (facts_sender, facts) = watch::channel(Arc::new(Facts::default()));
    let queued = Arc::new(AtomicUsize::new(0));
    let link = Link {
        space,
        sender: sender.clone(),
        queued: queued.clone(),
        tokens: Arc::new(AtomicU64::new(1)),
        permits: Arc::new(Semaphore::new(OPEN_REQUESTS_MAX)),
        facts,
    };
    let pump = Pump::new(replica, surroundings, sender, queued, facts_sender);
    let name = format!("space {}", space.short());
    std::thread::Builder::new()
        .name(name)
        .spawn(move || pump.run(&receiver))
        .expect("the system has threads left for a space");
    link
}

struct Pump {
    replica: SpaceReplica,
    surroundings: Surroundings,
    /// To itself, for the outcomes of what it started.
    sender: Sender<Message>,
    queued: Arc<AtomicUsize>,
    facts: watch::Sender<Arc<Facts>>,
    answers: BTreeMap<u64, oneshot::Sender<Result<Answer, DocumentError>>>,
    watchers: BTreeMap<u64, async_mpsc::UnboundedSender<Watched>>,
    invitations: BTreeMap<u64, oneshot::Sender<Result<DeviceKey, WriteError>>>,
    acts: BTreeMap<u64, oneshot::Sender<Result<(), WriteError>>>,
    joins: BTreeMap<u64, Reply>,
    /// How the space is named to its peers.
    tags: BTreeMap<DeviceId, SpaceTag>,
    requests: BTreeMap<RequestId, Reply>,
    frames: BTreeMap<FrameId, GossipId>,
    /// Numbers for the core's tokens, requests and frames.
    numbers: u64,
    /// Callers answered in the last step.
    answered: usize,
    /// How often the replica was opened again: what was started before concerns nobody any more.
    beginning: u64,
    /// What was lost to damage.
    lost: Vec<Lost>,
    /// When it last began anew for want of room.
    full_at_ms: Option<u64>,
    /// Who wants the space to end.
    closing: Option<oneshot::Sender<()>>,
}

/// Why the pump pauses.
enum Pause {
    /// It is told to close.
    Close,
    /// The documents lack operations that can be read by now.
    DocumentsOutdated,
    /// Operations that count for nobody were kept for long enough.
    TailsDue,
}

impl Pump {
    fn new(
        replica: SpaceReplica,
        surroundings: Surroundings,
        sender: Sender<Message>,
        queued: Arc<AtomicUsize>,
        facts: watch::Sender<Arc<Facts>>,
    ) -> Self {
        Self {
            replica,
            surroundings,
            sender,
            queued,
            facts,
            answers: BTreeMap::new(),
            watchers: BTreeMap::new(),
            invitations: BTreeMap::new(),
            acts: BTreeMap::new(),
            joins: BTreeMap::new(),
            tags: BTreeMap::new(),
            requests: BTreeMap::new(),
            frames: BTreeMap::new(),
            numbers: 0,
            answered: 0,
            beginning: 0,
            lost: Vec::new(),
            full_at_ms: None,
            closing: None,
        }
    }

    fn run(mut self, receiver: &Receiver<Message>) {
        loop {
            let begun = match self.serve(receiver) {
                Ok(Pause::Close) => return self.close(),
                Ok(Pause::DocumentsOutdated | Pause::TailsDue) => self.begin_anew(),
                Err(error @ StorageError::Damaged { .. }) if self.closing.is_none() => self.heal(&error),
                Err(error @ StorageError::Full { .. }) if self.closing.is_none() => self.begin_on_full_disk(&error),
                Err(error) => self.stop(&error),
            };
            match begun {
                Some(begun) => self = begun,
                None => return,
            }
        }
    }

    /// Serves until it is told to close, or has to begin anew.
    fn serve(&mut self, receiver: &Receiver<Message>) -> Result<Pause, StorageError> {
        let clock = self.clock();
        self.publish_facts(None);
        self.replica.start(clock, &mut self.surroundings.random)?;
        let mut messages = Vec::new();
        loop {
            self.step(messages)?;
            if self.closing.is_some() {
                return Ok(Pause::Close);
            }
            if self.replica.documents_outdated() {
                self.replica.forget_documents(self.clock(), &mut self.surroundings.random)?;
                return Ok(Pause::DocumentsOutdated);
            }
            if self.replica.tails_due() {
                return Ok(Pause::TailsDue);
            }
            messages = vec![self.wait(receiver)];
            self.gather(receiver, &mut messages);
            self.queued.fetch_sub(messages.len(), Ordering::Relaxed);
        }
    }

    /// Takes what has queued up. Callers that were answered together come back together: as many are waited for, for a
    /// moment, so that they share the next sync as well.
    fn gather(&self, receiver: &Receiver<Message>, messages: &mut Vec<Message>) {
        let began = Instant::now();
        let expected = if self.answered < GATHER_CALLERS_MIN { 0 } else { self.answered };
        while messages.len() < STEP_MESSAGES_MAX {
            match receiver.try_recv() {
                Ok(message) => messages.push(message),
                Err(_) if messages.len() < expected && began.elapsed() < GATHER_MAX => std::thread::yield_now(),
                Err(_) => break,
            }
        }
    }

    /// The next message, or a tick when the replica's deadline comes first.
    fn wait(&mut self, receiver: &Receiver<Message>) -> Message {
        let tick = |_| {
            self.queued.fetch_add(1, Ordering::Relaxed);
            Message::Tick
        };
        // Whoever was just answered may be back sooner than a thread is put to sleep and woken.
        let began = Instant::now();
        while self.answered > 0 && began.elapsed() < RETURN_MAX {
            if let Ok(message) = receiver.try_recv() {
                return message;
            }
            std::thread::yield_now();
        }
        // The pump holds a sender itself, so the queue never ends.
        match self.replica.next_deadline() {
            None => receiver.recv().unwrap_or_else(|_| tick(RecvTimeoutError::Disconnected)),
            Some(deadline) => {
                let pause = Duration::from_millis(deadline.saturating_sub(self.clock().now_ms));
                receiver.recv_timeout(pause).unwrap_or_else(tick)
            }
        }
    }

    /// Hands messages to the replica, makes durable what they wrote, and carries out what follows.
    fn step(&mut self, messages: Vec<Message>) -> Result<(), StorageError> {
        let clock = self.clock();
        for message in messages {
            match message {
                Message::Close { reply } => self.closing = Some(reply),
                other => self.take(other, clock)?,
            }
        }
        self.replica.settle(clock, &mut self.surroundings.random)?;
        let outputs = self.replica.take_outputs();
        self.answered = outputs.iter().filter(|output| matches!(output, Output::Answer(..))).count();
        for output in outputs {
            self.carry_out(output)?;
        }
        self.replica.tidy()
    }

    fn take(&mut self, message: Message, clock: Clock) -> Result<(), StorageError> {
        let input = match message {
            Message::Transact { token, steps, reply } => {
                self.answers.insert(token, reply);
                Input::Desk(DeskInput::Transact { token, steps })
            }
            Message::Query { token, query, reply } => {
                self.answers.insert(token, reply);
                Input::Desk(DeskInput::Query { token, query })
            }
            Message::Watch { token, prefix, since, values, events, reply } => {
                self.answers.insert(token, reply);
                self.watchers.insert(token, events);
                Input::Desk(DeskInput::Watch { token, prefix, since, values })
            }
            Message::Taken { token, events } => Input::Desk(DeskInput::Taken { token, events }),
            Message::Unwatch { token } => {
                self.watchers.remove(&token);
                Input::Desk(DeskInput::Unwatch { token })
            }
            Message::Cancel { token } => Input::Desk(DeskInput::Cancel { token }),
            Message::Worked(beginning, done) if beginning == self.beginning => Input::Desk(DeskInput::Worked(done)),
            Message::Worked(..) => return Ok(()),
            Message::Invite { role, uses, expires_ms, reply } => {
                let token = self.number();
                self.invitations.insert(token, reply);
                Input::Core(Event::Invite { token, role, uses, expires_ms })
            }
            Message::Govern { act, reply } => {
                let token = self.number();
                self.acts.insert(token, reply);
                Input::Core(Event::Govern { token, act })
            }
            Message::Join { certificate, reply } => {
                let token = self.number();
                self.joins.insert(token, reply);
                Input::Core(Event::Join { token, certificate })
            }
            Message::Admitted(delivery) => Input::Core(Event::Admitted(delivery)),
            Message::PeerShares { peer, tag } => {
                self.tags.insert(peer, tag);
                sync(SyncEvent::PeerShares { peer })
            }
            Message::PeerGone { peer } => {
                self.tags.remove(&peer);
                sync(SyncEvent::PeerGone { peer })
            }
            Message::Requested { peer, request, reply } => {
                let id = RequestId(self.number());
                self.requests.insert(id, reply);
                sync(SyncEvent::Requested { peer, id, request })
            }
            Message::Answered { beginning, .. } if beginning != self.beginning => return Ok(()),
            Message::Answered { token, response: Some(bytes), .. } => sync(SyncEvent::Answered { token, bytes }),
            Message::Answered { token, response: None, .. } => sync(SyncEvent::Failed { token }),
            Message::Gossip { bytes, from, id: name } => {
                let id = FrameId(self.number());
                self.frames.insert(id, name);
                sync(SyncEvent::Gossip { bytes, from, id })
            }
            Message::MakeRoom => Input::Desk(DeskInput::MakeRoom),
            Message::Tick => Input::Core(Event::Tick),
            Message::Figures { reply } => return ignore_gone(reply.send(self.figures())),
            Message::Reader { reply } => return ignore_gone(reply.send(self.replica.log().reader())),
            Message::AuditStart { reply } => return ignore_gone(reply.send(self.replica.desk().audit_start())),
            Message::AuditSums { after, applied, reply } => {
                let sums = self.replica.desk().audit_sums(after.as_ref(), &applied);
                return ignore_gone(reply.send(sums.map_err(StorageError::from)));
            }
            Message::Members { reply } => return ignore_gone(reply.send(members::list(self.replica.core().state()))),
            Message::Invitations { reply } => {
                return ignore_gone(reply.send(members::invitations(self.replica.core().state())));
            }
            Message::Uncounted { reply } => {
                let state = self.replica.core().state();
                let device = state.device_id();
                let range = state.admission().uncounted(&device);
                let operations = self.replica.desk().audit_start().operations;
                return ignore_gone(reply.send(Uncounted { device, range, operations }));
            }
            Message::MembershipLog { reply } => {
                return ignore_gone(reply.send(members::history(self.replica.core().state())));
            }
            Message::Close { .. } => return Ok(()),
        };
        self.replica.handle(input, clock, &mut self.surroundings.random)
    }

    fn carry_out(&mut self, output: Output) -> Result<(), StorageError> {
        match output {
            Output::Answer(token, result) => {
                if result.is_err() {
                    self.watchers.remove(&token);
                }
                if let Some(reply) = self.answers.remove(&token) {
                    return ignore_gone(reply.send(result));
                }
            }
            Output::Change(token, events) => {
                if let Some(watcher) = self.watchers.get(&token) {
                    return ignore_gone(watcher.send(Watched::Events(events)));
                }
            }
            Output::Unwatched(token, version, reason) => {
                if let Some(watcher) = self.watchers.remove(&token) {
                    return ignore_gone(watcher.send(Watched::Ended(version, reason)));
                }
            }
            Output::Work(job) => {
                let (sender, queued, beginning) = (self.sender.clone(), self.queued.clone(), self.beginning);
                self.surroundings.runtime.spawn_blocking(move || {
                    queued.fetch_add(1, Ordering::Relaxed);
                    let _ended = sender.send(Message::Worked(beginning, job.run()));
                });
            }
            Output::Invited(token, outcome) => {
                if let Some(reply) = self.invitations.remove(&token) {
                    return ignore_gone(reply.send(outcome));
                }
            }
            Output::Governed(token, outcome) => {
                if let Some(reply) = self.acts.remove(&token) {
                    return ignore_gone(reply.send(outcome));
                }
            }
            Output::Publish { epoch, bytes } => {
                if let (Some(network), Some(topic)) = (&self.surroundings.network, self.topic(epoch)) {
                    network.publish(topic, bytes);
                }
            }
            Output::JoinAnswered(token, outcome) => {
                if let Some(reply) = self.joins.remove(&token) {
                    let answer = outcome.map_or_else(JoinAnswer::Refused, JoinAnswer::Admitted);
                    reply.send(answer.encode());
                }
            }
            Output::StoreKeys => {
                self.surroundings.keys.store(self.replica.core().state().keys())?;
                self.publish_facts(None);
            }
            Output::MembershipChanged => self.publish_facts(None),
            Output::Reply(id, response) => {
                if let Some(reply) = self.requests.remove(&id) {
                    reply.send(response.encode());
                }
            }
            Output::Sync(effect) => self.carry_out_sync(effect),
        }
        Ok(())
    }

    fn carry_out_sync(&mut self, effect: SyncEffect) {
        let Some(network) = self.surroundings.network.clone() else { return };
        match effect {
            SyncEffect::Send { peer, token, request } => self.ask_peer(&network, peer, token, request),
            SyncEffect::Verdict { id, from, verdict } => {
                if let Some(name) = self.frames.remove(&id) {
                    network.report(name, from, verdict_for_network(verdict));
                }
            }
            SyncEffect::Misbehaved { peer, reason } => {
                tracing::warn!(space = %self.space().short(), peer = %peer.short(), ?reason, "a peer misbehaved");
                network.blame(peer, fault(reason));
            }
            SyncEffect::Equivocation { author, sequence, peer } => {
                tracing::error!(
                    space = %self.space().short(), author = %author.short(), sequence, peer = %peer.short(),
                    "a log has two different operations at one position: its device was cloned, or lies"
                );
            }
            SyncEffect::Synced { peer } => {
                tracing::debug!(space = %self.space().short(), peer = %peer.short(), "in sync");
            }
            // The replica serves, replies, takes runs in and names its topic by itself.
            SyncEffect::Serve { .. }
            | SyncEffect::Reply { .. }
            | SyncEffect::Ingest { .. }
            | SyncEffect::Branch { .. }
            | SyncEffect::Contested { .. }
            | SyncEffect::Publish { .. } => {}
        }
    }

    fn ask_peer(&mut self, network: &Network, peer: DeviceId, token: Token, request: Request) {
        let Some(tag) = self.tags.get(&peer).copied() else { return };
        let bytes = SyncMessage::Space { tag, request }.encode();
        let answer = network.send_request(peer, Protocol::Sync, bytes);
        let (sender, queued, beginning) = (self.sender.clone(), self.queued.clone(), self.beginning);
        self.surroundings.runtime.spawn(async move {
            let response = match answer.await {
                Ok(bytes) => Some(bytes),
                Err(error) => {
                    tracing::debug!(peer = %peer.short(), %error, "a request was not answered");
                    None
                }
            };
            queued.fetch_add(1, Ordering::Relaxed);
            let _ended = sender.send(Message::Answered { token, response, beginning });
        });
    }

    fn close(self) {
        let clock = self.clock();
        let (mut surroundings, reply) = (self.surroundings, self.closing);
        if let Err(error) = self.replica.close(clock, &mut surroundings.random) {
            tracing::error!(%error, "the space did not end cleanly; the next start recovers");
        }
        // Whoever waits may open the data directory again at once, which what is in there holds.
        drop(surroundings);
        if let Some(reply) = reply {
            let _gone = reply.send(());
        }
    }

    fn clock(&self) -> Clock {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock { now_ms: self.surroundings.started.elapsed().as_millis() as u64, wall_ms: wall.as_millis() as u64 }
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn space(&self) -> SpaceId {
        self.replica.core().state().keys().space
    }

    /// The name of the space's gossip in an epoch.
    fn topic(&self, epoch: u32) -> Option<Topic> {
        self.replica.core().state().keys().replication.get(&epoch)?.topic().parse().ok()
    }

    fn publish_facts(&self, failure: Option<String>) {
        let state = self.replica.core().state();
        let membership = state.membership();
        let secret = |(epoch, secret): (u32, &ReplicationSecret)| (epoch, secret.clone());
        let facts = Facts {
            gossip: state.keys().replication.get(&state.gossip_epoch()).cloned(),
            replication: state.keys().replication_secrets().take(GREETED_EPOCHS_MAX).map(secret).collect(),
            // Closed ones too, so that whoever comes with one is told.
            invitations: membership.invitations().keys().copied().collect(),
            role: state.role(),
            strings: membership.genesis().map(|genesis| genesis.strings),
            founder: membership.genesis().map(|genesis| genesis.steward),
            was_removed: membership.is_removed(&state.device_id()),
            failure,
        };
        self.facts.send_replace(Arc::new(facts));
        // The conductor never waits for a space, so a full queue empties.
        let _ended = self.surroundings.notices.blocking_send(Notice::FactsChanged(self.space()));
    }

    fn figures(&self) -> Figures {
        let core = self.replica.core();
        let admission = core.state().admission();
        let stats = self.replica.log().stats();
        let problem = |(author, (sequence, refusal)): (&DeviceId, &(u64, syncline_model::admission::Refusal))| {
            format!("the log of {} does not count from operation {sequence} on: {refusal}", author.short())
        };
        Figures {
            operations: core.state().vector().operations(),
            waiting: admission.waiting_operations() as u64,
            unreadable: core.unreadable(),
            log_bytes: stats.as_ref().map(|stats| stats.log_bytes).unwrap_or_default(),
            members: admission.membership().members().len(),
            peers: core.engine().status(core.state()).peers.iter().map(space_peer).collect(),
            quarantined: stats.map(|stats| stats.quarantined).unwrap_or_default(),
            epoch: admission.membership().epoch(),
            newcomers_read_history: admission.membership().history_shared(),
            uncounted: members::uncounted(core.state()),
            problems: admission
                .refused()
                .iter()
                .map(problem)
                .chain(members::problems(core.state()))
                .chain(members::refusals(core.state(), &core.engine().status(core.state()).peers))
                .chain(self.lost_problems())
                .chain(self.replica.problems(self.clock()))
                .collect(),
        }
    }
}

fn space_peer(peer: &PeerStatus) -> SpacePeer {
    SpacePeer { device: peer.peer.to_string(), in_sync: peer.synced, behind: peer.missing, refuses: peer.refuses }
}

fn sync(event: SyncEvent) -> Input {
    Input::Core(Event::Sync(event))
}

/// An asker that went away does not concern the space.
fn ignore_gone<T, E>(_sent: Result<T, E>) -> Result<(), StorageError> {
    Ok(())
}

/// What the network calls it.
fn fault(reason: Misbehaviour) -> Fault {
    match reason {
        Misbehaviour::MalformedResponse => Fault::MalformedResponse,
        Misbehaviour::OversizedPage => Fault::OversizedPage,
        Misbehaviour::MalformedRun => Fault::MalformedRun,
        Misbehaviour::NotAskedFor => Fault::NotAskedFor,
        Misbehaviour::BadSignature => Fault::BadSignature,
        // What is new in the engine and has no name here yet is an answer that was not expected in any case.
        _ => Fault::UnexpectedResponse,
    }
}

fn verdict_for_network(verdict: syncline_sync::Verdict) -> network::Verdict {
    match verdict {
        syncline_sync::Verdict::Accept => network::Verdict::Accept,
        syncline_sync::Verdict::Ignore => network::Verdict::Ignore,
        syncline_sync::Verdict::Reject => network::Verdict::Reject,
    }
}
