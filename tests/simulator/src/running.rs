//! A device that runs: its replica with what a node does around it.
//!
//! What a node's pump and conductor do is done here without threads: queued messages are handed to the replica, one
//! settling makes them durable, and only then is anything that follows given to the world as [`Wish`]es.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use syncline::documents::Input as DeskInput;
use syncline::space::core::Event as CoreEvent;
use syncline::space::join::{JoinAnswer, JoinRefusal, JoinRequest};
use syncline::space::replica::{Input, Output};
use syncline::space::{Clock, SpaceReplica};
use syncline_model::membership::{Certificate, invitation_tag};
use syncline_model::{DeviceId, Ticket};
use syncline_storage::{FileScope, StorageError, Store};
use syncline_sync::{
    Effect as SyncEffect, Event as SyncEvent, FrameId, HelloAnswer, Message as SyncMessage, PeerTags, RequestId,
    Verdict,
};

use crate::device::{Device, EPOCH_MS, Frame, Message, Protocol, Purpose, SPACE_KEYS, Surroundings, Wish};
use crate::happening::Happening;

/// Messages taken into one step.
const STEP_MESSAGES_MAX: usize = 64;

/// The clocks of a device that started at `booted_us`.
pub(crate) fn clock(now_us: u64, booted_us: u64, skew_ms: i64) -> Clock {
    let wall_ms = (EPOCH_MS + skew_ms + (now_us / 1000) as i64).max(0) as u64;
    Clock { now_ms: (now_us - booted_us) / 1000, wall_ms }
}

/// A connected peer, as the node sees it.
#[derive(Debug, Default)]
pub(crate) struct Peer {
    tags: PeerTags,
    pub(crate) shares: bool,
}

/// A device that runs.
#[derive(Debug)]
pub(crate) struct Running {
    surroundings: Arc<Surroundings>,
    number: usize,
    pub(crate) skew_ms: i64,
    ticket: Option<Ticket>,
    store: Store,
    pub(crate) replica: SpaceReplica,
    random: ChaCha8Rng,
    pub(crate) booted_us: u64,
    pub(crate) inbox: VecDeque<Message>,
    pub(crate) step_due: bool,
    /// When the next timer event is on its way.
    pub(crate) timer_us: Option<u64>,
    numbers: u64,
    requests: BTreeMap<RequestId, u64>,
    joins: BTreeMap<u64, u64>,
    frames: BTreeMap<FrameId, (usize, Frame)>,
    seen: BTreeSet<[u8; 16]>,
    pub(crate) peers: BTreeMap<usize, Peer>,
    has_secret: bool,
    /// The invitations that the rest of the node knows of: what the replica last told it.
    invitations: BTreeSet<DeviceId>,
}

impl Running {
    /// A device that has just opened its replica.
    pub(crate) fn new(
        surroundings: &Arc<Surroundings>,
        device: &Device,
        booted_us: u64,
        store: Store,
        replica: SpaceReplica,
        random: ChaCha8Rng,
    ) -> Self {
        let mut running = Self {
            surroundings: surroundings.clone(),
            number: device.number,
            skew_ms: device.skew_ms,
            ticket: device.ticket.clone(),
            store,
            replica,
            random,
            booted_us,
            inbox: VecDeque::new(),
            step_due: false,
            timer_us: None,
            numbers: 0,
            requests: BTreeMap::new(),
            joins: BTreeMap::new(),
            frames: BTreeMap::new(),
            seen: BTreeSet::new(),
            peers: BTreeMap::new(),
            has_secret: false,
            invitations: BTreeSet::new(),
        };
        running.publish_facts();
        running
    }

    /// Opens what the documents have not seen; the first step.
    pub(crate) fn start(&mut self, clock: Clock, wishes: &mut Vec<Wish>) -> Result<(), StorageError> {
        self.replica.start(clock, &mut self.random)?;
        self.finish_step(clock, wishes)
    }

    /// Whether it takes part in gossip.
    pub(crate) fn is_subscribed(&self) -> bool {
        self.has_secret
    }

    /// Tells the rest of the node what it may know without asking the replica.
    fn publish_facts(&mut self) {
        self.invitations = self.replica.core().state().membership().invitations().keys().copied().collect();
    }

    /// When it wants a timer.
    pub(crate) fn deadline_us(&self) -> Option<u64> {
        self.replica.next_deadline().map(|deadline_ms| self.booted_us + deadline_ms * 1000)
    }

    /// Requests of peers and frames that wait for the replica: nothing may pile up.
    pub(crate) fn open_work(&self) -> usize {
        self.requests.len() + self.joins.len() + self.frames.len()
    }

    /// Takes what has queued up and carries out what follows, once that is durable.
    pub(crate) fn step(&mut self, now_us: u64, wishes: &mut Vec<Wish>) -> Result<(), StorageError> {
        let clock = clock(now_us, self.booted_us, self.skew_ms);
        let count = self.inbox.len().min(STEP_MESSAGES_MAX);
        let messages: Vec<Message> = self.inbox.drain(..count).collect();
        for message in messages {
            self.take(message, clock, wishes)?;
        }
        self.finish_step(clock, wishes)
    }

    /// Ends cleanly.
    pub(crate) fn close(mut self, now_us: u64) -> Result<(), StorageError> {
        let clock = clock(now_us, self.booted_us, self.skew_ms);
        let outputs = self.replica.close(clock, &mut self.random)?;
        drop(outputs);
        self.store.flush()
    }

    fn finish_step(&mut self, clock: Clock, wishes: &mut Vec<Wish>) -> Result<(), StorageError> {
        self.replica.settle(clock, &mut self.random)?;
        for output in self.replica.take_outputs() {
            self.carry_out(output, wishes)?;
        }
        let has_secret = self.replica.core().state().keys().replication_secret().is_some();
        if has_secret && !self.has_secret {
            self.has_secret = true;
            let peers: Vec<usize> = self.peers.keys().copied().collect();
            for peer in peers {
                self.greet(peer, wishes);
            }
        }
        Ok(())
    }

    fn take(&mut self, message: Message, clock: Clock, wishes: &mut Vec<Wish>) -> Result<(), StorageError> {
        match message {
            Message::Connected(peer) => {
                self.peers.insert(peer, Peer::default());
                self.greet(peer, wishes);
                self.apply_at(peer, wishes);
                Ok(())
            }
            Message::Disconnected(peer) => match self.peers.remove(&peer) {
                Some(Peer { shares: true, .. }) => self.sync(SyncEvent::PeerGone { peer: self.id_of(peer) }, clock),
                _ => Ok(()),
            },
            Message::Request { peer, protocol: Protocol::Sync, bytes, exchange } => {
                self.asked(peer, &bytes, exchange, clock, wishes)
            }
            Message::Request { peer, protocol: Protocol::Join, bytes, exchange } => {
                self.asked_to_sponsor(peer, &bytes, exchange, clock, wishes)
            }
            Message::Answered { peer, purpose, bytes } => self.answered(peer, purpose, bytes, clock, wishes),
            Message::Gossip { peer, frame, again } => self.hear(peer, frame, again, clock, wishes),
            Message::Transact { token, steps } => self.desk(DeskInput::Transact { token, steps }, clock),
            Message::Query { token, query } => self.desk(DeskInput::Query { token, query }, clock),
            Message::Watch { token, since } => {
                self.desk(DeskInput::Watch { token, prefix: String::new(), since, values: true }, clock)
            }
            Message::Taken { token, events } => self.desk(DeskInput::Taken { token, events }, clock),
            Message::Invite { token, role, uses, expires_ms } => {
                self.core(CoreEvent::Invite { token, role, uses, expires_ms }, clock)
            }
            Message::Worked(done) => self.desk(DeskInput::Worked(done), clock),
            Message::Tick => self.core(CoreEvent::Tick, clock),
            Message::Round => {
                self.round(wishes);
                Ok(())
            }
        }
    }

    fn core(&mut self, event: CoreEvent, clock: Clock) -> Result<(), StorageError> {
        self.replica.handle(Input::Core(event), clock, &mut self.random)
    }

    fn sync(&mut self, event: SyncEvent, clock: Clock) -> Result<(), StorageError> {
        self.core(CoreEvent::Sync(event), clock)
    }

    fn desk(&mut self, input: DeskInput, clock: Clock) -> Result<(), StorageError> {
        self.replica.handle(Input::Desk(input), clock, &mut self.random)
    }

    fn id_of(&self, number: usize) -> DeviceId {
        self.surroundings.ids[number]
    }

    fn next_number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// Tells a peer by tags which space is here.
    fn greet(&mut self, peer: usize, wishes: &mut Vec<Wish>) {
        let (local, other) = (self.id_of(self.number), self.id_of(peer));
        let secret = self.replica.core().state().keys().replication_secret();
        let tags = PeerTags::new(&local, &other, secret.map(|secret| (self.surroundings.space, secret)));
        for hello in tags.hellos() {
            let bytes = SyncMessage::Hello(hello.clone()).encode();
            wishes.push(Wish::Request { peer, protocol: Protocol::Sync, bytes, purpose: Purpose::Hello(hello) });
        }
        self.peers.entry(peer).or_default().tags = tags;
    }

    /// Asks a peer to sponsor this device, unless it has its keys already.
    fn apply_at(&mut self, peer: usize, wishes: &mut Vec<Wish>) {
        let waits = self.replica.core().state().keys().replication_secret().is_none();
        let Some(ticket) = self.ticket.as_ref().filter(|_| waits) else { return };
        let (device, invitation) = (&self.surroundings.keys[self.number], ticket.invitation());
        let request = JoinRequest {
            tag: invitation_tag(&invitation.id(), &device.id(), &self.id_of(peer)),
            certificate: Certificate::new(&self.surroundings.space, device, &invitation),
        };
        wishes.push(Wish::Note(Happening::JoinAsked, [peer as u64, 0]));
        let bytes = request.encode();
        wishes.push(Wish::Request { peer, protocol: Protocol::Join, bytes, purpose: Purpose::Join });
    }

    fn round(&mut self, wishes: &mut Vec<Wish>) {
        let peers: Vec<(usize, bool)> = self.peers.iter().map(|(peer, known)| (*peer, known.shares)).collect();
        for (peer, shares) in peers {
            self.apply_at(peer, wishes);
            if !shares && self.has_secret {
                wishes.push(Wish::Note(Happening::GreetedAgain, [peer as u64, 0]));
                self.greet(peer, wishes);
            }
        }
    }

    fn shares(&mut self, peer: usize, clock: Clock, wishes: &mut Vec<Wish>) -> Result<(), StorageError> {
        let Some(known) = self.peers.get_mut(&peer).filter(|known| !known.shares) else { return Ok(()) };
        known.shares = true;
        wishes.push(Wish::Note(Happening::Greeted, [peer as u64, 0]));
        self.sync(SyncEvent::PeerShares { peer: self.id_of(peer) }, clock)
    }

    fn asked(
        &mut self,
        peer: usize,
        bytes: &[u8],
        exchange: u64,
        clock: Clock,
        wishes: &mut Vec<Wish>,
    ) -> Result<(), StorageError> {
        let known = self.peers.entry(peer).or_default();
        match SyncMessage::decode(bytes) {
            Ok(SyncMessage::Hello(hello)) => {
                let (answer, shared) = known.tags.answer(&hello);
                wishes.push(Wish::Reply { exchange, bytes: answer.encode() });
                if shared.is_empty() { Ok(()) } else { self.shares(peer, clock, wishes) }
            }
            Ok(SyncMessage::Space { tag, request }) => {
                // Who is not known to share the space gets no answer.
                if known.tags.space(&tag).is_none() {
                    return Ok(());
                }
                let id = RequestId(self.next_number());
                self.requests.insert(id, exchange);
                self.sync(SyncEvent::Requested { peer: self.id_of(peer), id, request }, clock)
            }
            Err(error) => {
                wishes.push(Wish::Violation(format!("a request of #{peer} does not decode: {error}")));
                Ok(())
            }
        }
    }

    fn asked_to_sponsor(
        &mut self,
        peer: usize,
        bytes: &[u8],
        exchange: u64,
        clock: Clock,
        wishes: &mut Vec<Wish>,
    ) -> Result<(), StorageError> {
        let Ok(JoinRequest { tag, certificate }) = JoinRequest::decode(bytes) else {
            wishes.push(Wish::Violation(format!("an application of #{peer} does not decode")));
            return Ok(());
        };
        let (local, other, invitation) = (self.id_of(self.number), self.id_of(peer), certificate.invitation);
        let named = invitation_tag(&invitation, &other, &local) == tag && certificate.device == other;
        if !(named && self.invitations.contains(&invitation)) {
            wishes.push(Wish::Note(Happening::JoinRefused, [peer as u64, 0]));
            wishes.push(Wish::Reply { exchange, bytes: JoinAnswer::Refused(JoinRefusal::Unknown).encode() });
            return Ok(());
        }
        let token = self.next_number();
        self.joins.insert(token, exchange);
        self.core(CoreEvent::Join { token, certificate }, clock)
    }

    fn answered(
        &mut self,
        peer: usize,
        purpose: Purpose,
        bytes: Option<Vec<u8>>,
        clock: Clock,
        wishes: &mut Vec<Wish>,
    ) -> Result<(), StorageError> {
        match (purpose, bytes) {
            (Purpose::Engine(token), Some(bytes)) => self.sync(SyncEvent::Answered { token, bytes }, clock),
            (Purpose::Engine(token), None) => self.sync(SyncEvent::Failed { token }, clock),
            (Purpose::Hello(hello), Some(bytes)) => {
                let (Ok(answer), Some(known)) = (HelloAnswer::decode(&bytes), self.peers.get(&peer)) else {
                    return Ok(());
                };
                if known.tags.shared(&hello, &answer).is_empty() { Ok(()) } else { self.shares(peer, clock, wishes) }
            }
            (Purpose::Join, Some(bytes)) => match JoinAnswer::decode(&bytes) {
                Ok(JoinAnswer::Admitted(delivery)) => self.core(CoreEvent::Admitted(delivery), clock),
                Ok(JoinAnswer::Refused(_)) => Ok(()),
                Err(error) => {
                    wishes.push(Wish::Violation(format!("the sponsor's answer does not decode: {error}")));
                    Ok(())
                }
            },
            (Purpose::Hello(_) | Purpose::Join, None) => Ok(()),
        }
    }

    fn hear(
        &mut self,
        peer: usize,
        frame: Frame,
        again: bool,
        clock: Clock,
        wishes: &mut Vec<Wish>,
    ) -> Result<(), StorageError> {
        if !self.seen.insert(frame.id) && !again {
            wishes.push(Wish::Note(Happening::GossipDeduplicated, [peer as u64, 0]));
            return Ok(());
        }
        let id = FrameId(self.next_number());
        let bytes = frame.bytes.to_vec();
        self.frames.insert(id, (peer, frame));
        self.sync(SyncEvent::Gossip { bytes, from: self.id_of(peer), id }, clock)
    }

    fn carry_out(&mut self, output: Output, wishes: &mut Vec<Wish>) -> Result<(), StorageError> {
        match output {
            Output::Answer(token, result) => wishes.push(Wish::Answered { token, result }),
            Output::Change(token, events) => wishes.push(Wish::Changed { token, events }),
            Output::Unwatched(token, _, reason) => {
                wishes.push(Wish::Violation(format!("the stream {token} ended: {reason}")));
            }
            Output::Work(job) => wishes.push(Wish::Work(job)),
            Output::Invited(token, outcome) => wishes.push(Wish::Invited { token, outcome }),
            Output::JoinAnswered(token, outcome) => {
                let happening = if outcome.is_ok() { Happening::JoinAdmitted } else { Happening::JoinRefused };
                wishes.push(Wish::Note(happening, [token, 1]));
                if let Some(exchange) = self.joins.remove(&token) {
                    let answer = outcome.map_or_else(JoinAnswer::Refused, JoinAnswer::Admitted);
                    wishes.push(Wish::Reply { exchange, bytes: answer.encode() });
                }
            }
            Output::StoreKeys => {
                let keys = self.replica.core().state().keys().encode();
                self.store.files().write_secret(FileScope::Space(self.surroundings.space), SPACE_KEYS, &keys)?;
                wishes.push(Wish::Note(Happening::KeysStored, [0, 0]));
                self.publish_facts();
            }
            Output::MembershipChanged => self.publish_facts(),
            Output::Reply(id, response) => {
                if let Some(exchange) = self.requests.remove(&id) {
                    wishes.push(Wish::Reply { exchange, bytes: response.encode() });
                }
            }
            Output::Sync(effect) => self.carry_out_sync(effect, wishes),
        }
        Ok(())
    }

    fn carry_out_sync(&mut self, effect: SyncEffect, wishes: &mut Vec<Wish>) {
        let surroundings = self.surroundings.clone();
        let number = |id: &DeviceId| surroundings.number(id).expect("only devices of the run take part");
        match effect {
            SyncEffect::Send { peer, token, request } => {
                let state = self.replica.core().state();
                let Some(secret) = state.keys().replication_secret() else { return };
                let tag = secret.tag(&state.device_id(), &peer);
                let bytes = SyncMessage::Space { tag, request }.encode();
                let (peer, purpose) = (number(&peer), Purpose::Engine(token));
                wishes.push(Wish::Request { peer, protocol: Protocol::Sync, bytes, purpose });
            }
            SyncEffect::Publish { bytes } => {
                let id = *blake3::hash(&bytes).as_bytes().first_chunk().expect("16 of 32 bytes");
                self.seen.insert(id);
                wishes.push(Wish::Note(Happening::Published, [bytes.len() as u64, 0]));
                wishes.push(Wish::Spread { frame: Frame { bytes: bytes.into(), id }, not_to: None });
            }
            SyncEffect::Verdict { id, verdict, .. } => {
                let Some((peer, frame)) = self.frames.remove(&id) else { return };
                match verdict {
                    Verdict::Accept => {
                        wishes.push(Wish::Note(Happening::GossipForwarded, [peer as u64, 0]));
                        wishes.push(Wish::Spread { frame, not_to: Some(peer) });
                    }
                    Verdict::Ignore => wishes.push(Wish::Note(Happening::GossipIgnored, [peer as u64, 0])),
                    Verdict::Reject => {
                        wishes.push(Wish::Violation(format!("a gossip frame of the honest #{peer} was rejected")));
                    }
                }
            }
            SyncEffect::Misbehaved { peer, reason } => {
                let text = format!("the honest #{} was blamed: {reason:?}", number(&peer));
                wishes.push(Wish::Violation(text));
            }
            SyncEffect::Equivocation { author, sequence, peer } => {
                let (author, peer) = (number(&author), number(&peer));
                let text = format!("#{author} was said to have forked at {sequence}, seen at #{peer}");
                wishes.push(Wish::Violation(text));
            }
            SyncEffect::Synced { peer } => wishes.push(Wish::Note(Happening::Synced, [number(&peer) as u64, 0])),
            SyncEffect::Serve { .. } | SyncEffect::Reply { .. } | SyncEffect::Ingest { .. } => {
                wishes.push(Wish::Violation("the replica let out what it has to do itself".to_owned()));
            }
        }
    }
}
