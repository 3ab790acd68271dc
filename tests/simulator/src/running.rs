//! A device that runs: its replicas with what a node does around them.
//!
//! What a node's pumps and conductor do is done here without threads: queued messages are handed to the replicas, one
//! settling of each makes them durable, and only then is anything that follows given to the world as [`Wish`]es.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use syncline::space::Clock;
use syncline::space::core::Event as CoreEvent;
use syncline::space::join::{JoinAnswer, JoinRefusal, JoinRequest};
use syncline::space::replica::Input;
use syncline_model::membership::{Certificate, invitation_tag};
use syncline_model::{DeviceId, Ticket};
use syncline_storage::{StorageError, Store};
use syncline_sync::{Event as SyncEvent, Hello, HelloAnswer, Message as SyncMessage, PeerTags, SharedSpace};

use crate::device::{Device, EPOCH_MS, Surroundings, open_replica};
use crate::happening::Happening;
use crate::hosted::Hosted;
use crate::message::{Blame, Frame, Message, Protocol, Purpose, Wish};

/// Messages taken into one step.
const STEP_MESSAGES_MAX: usize = 64;

/// The clocks of a device that started at `booted_us`.
pub(crate) fn clock(now_us: u64, booted_us: u64, skew_ms: i64) -> Clock {
    let wall_ms = (EPOCH_MS + skew_ms + (now_us / 1000) as i64).max(0) as u64;
    Clock { now_ms: (now_us - booted_us) / 1000, wall_ms }
}

/// A connected peer, as the node sees it.
#[derive(Debug, Default)]
struct Peer {
    tags: PeerTags,
    /// The spaces that it shares, each with the epoch under whose name.
    shares: BTreeMap<usize, u32>,
    /// The last hello, as long as it is not answered.
    unanswered: Option<Hello>,
}

/// A device that runs.
#[derive(Debug)]
pub(crate) struct Running {
    surroundings: Arc<Surroundings>,
    number: usize,
    pub(crate) skew_ms: i64,
    store: Store,
    pub(crate) hosted: BTreeMap<usize, Hosted>,
    random: ChaCha8Rng,
    booted_us: u64,
    pub(crate) inbox: VecDeque<Message>,
    pub(crate) step_due: bool,
    /// When the next timer event is on its way.
    pub(crate) timer_us: Option<u64>,
    peers: BTreeMap<usize, Peer>,
}

impl Running {
    /// A device that hosts nothing yet.
    pub(crate) fn new(
        surroundings: &Arc<Surroundings>,
        device: &Device,
        booted_us: u64,
        store: Store,
        random: ChaCha8Rng,
    ) -> Self {
        Self {
            surroundings: surroundings.clone(),
            number: device.number,
            skew_ms: device.skew_ms,
            store,
            hosted: BTreeMap::new(),
            random,
            booted_us,
            inbox: VecDeque::new(),
            step_due: false,
            timer_us: None,
            peers: BTreeMap::new(),
        }
    }

    /// Opens a space, and what its documents have not seen.
    pub(crate) fn open(
        &mut self,
        space: usize,
        ticket: Option<Ticket>,
        clock: Clock,
        wishes: &mut Vec<Wish>,
    ) -> Result<(), StorageError> {
        let place = (self.number, space);
        let Self { surroundings, store, random, .. } = &mut *self;
        let replica = open_replica(surroundings, store, place, ticket.as_ref(), random, wishes)?;
        let mut hosted = Hosted::new(space, ticket, replica);
        hosted.replica.start(clock, random)?;
        self.hosted.insert(space, hosted);
        self.settle(&BTreeSet::from([space]), clock, wishes)?;
        for peer in self.peers.keys().copied().collect::<Vec<_>>() {
            self.apply_at(peer, wishes);
        }
        Ok(())
    }

    /// The clocks of the device.
    pub(crate) fn clock(&self, now_us: u64) -> Clock {
        clock(now_us, self.booted_us, self.skew_ms)
    }

    /// Whether it takes part in a space's gossip.
    pub(crate) fn is_subscribed(&self, space: usize) -> bool {
        self.hosted.get(&space).is_some_and(|hosted| hosted.greeted > 0)
    }

    /// When it wants a timer.
    pub(crate) fn deadline_us(&self) -> Option<u64> {
        let deadlines = self.hosted.values().filter_map(|hosted| hosted.replica.next_deadline());
        deadlines.min().map(|deadline_ms| self.booted_us + deadline_ms * 1000)
    }

    /// Takes what has queued up and carries out what follows, once that is durable.
    pub(crate) fn step(&mut self, now_us: u64, wishes: &mut Vec<Wish>) -> Result<(), StorageError> {
        let clock = self.clock(now_us);
        let count = self.inbox.len().min(STEP_MESSAGES_MAX);
        let messages: Vec<Message> = self.inbox.drain(..count).collect();
        let mut touched = BTreeSet::new();
        for message in messages {
            self.take(message, clock, &mut touched, wishes)?;
        }
        self.settle(&touched, clock, wishes)
    }

    /// Ends cleanly.
    pub(crate) fn close(mut self, now_us: u64) -> Result<(), StorageError> {
        let clock = self.clock(now_us);
        for hosted in std::mem::take(&mut self.hosted).into_values() {
            drop(hosted.replica.close(clock, &mut self.random)?);
        }
        self.store.flush()
    }

    fn settle(&mut self, touched: &BTreeSet<usize>, clock: Clock, wishes: &mut Vec<Wish>) -> Result<(), StorageError> {
        let mut findable = false;
        for space in touched {
            let Self { surroundings, store, random, hosted, .. } = &mut *self;
            let Some(hosted) = hosted.get_mut(space) else { continue };
            findable |= hosted.settle(surroundings, store, clock, random, wishes)?;
        }
        if findable {
            for peer in self.peers.keys().copied().collect::<Vec<_>>() {
                self.greet(peer, wishes);
            }
        }
        // The device starts again for it: what others of its spaces answered in this step is told before.
        wishes.sort_by_key(|wish| matches!(wish, Wish::BeginAnew));
        Ok(())
    }

    fn take(
        &mut self,
        message: Message,
        clock: Clock,
        touched: &mut BTreeSet<usize>,
        wishes: &mut Vec<Wish>,
    ) -> Result<(), StorageError> {
        match message {
            Message::Connected(peer) => {
                self.peers.insert(peer, Peer::default());
                self.greet(peer, wishes);
                self.apply_at(peer, wishes);
                Ok(())
            }
            Message::Disconnected(peer) => {
                let shares = self.peers.remove(&peer).unwrap_or_default().shares;
                let event = SyncEvent::PeerGone { peer: self.id_of(peer) };
                shares
                    .into_keys()
                    .try_for_each(|space| self.core(space, CoreEvent::Sync(event.clone()), clock, touched))
            }
            Message::Request { peer, protocol: Protocol::Sync, bytes, exchange } => {
                self.asked(peer, &bytes, exchange, clock, touched, wishes)
            }
            Message::Request { peer, protocol: Protocol::Join, bytes, exchange } => {
                self.asked_to_sponsor(peer, &bytes, exchange, clock, touched, wishes)
            }
            Message::Answered { peer, purpose, bytes } => self.answered(peer, purpose, bytes, clock, touched, wishes),
            Message::Gossip { peer, frame, again } => self.hear(peer, frame, again, clock, touched, wishes),
            Message::Space { space, input } => self.handle(space, Hosted::input(input), clock, touched),
            Message::Tick => {
                let spaces: Vec<usize> = self.hosted.keys().copied().collect();
                spaces.into_iter().try_for_each(|space| self.core(space, CoreEvent::Tick, clock, touched))
            }
            Message::Round => {
                self.round(wishes);
                Ok(())
            }
        }
    }

    fn handle(
        &mut self,
        space: usize,
        input: Input,
        clock: Clock,
        touched: &mut BTreeSet<usize>,
    ) -> Result<(), StorageError> {
        let Some(hosted) = self.hosted.get_mut(&space) else { return Ok(()) };
        touched.insert(space);
        hosted.replica.handle(input, clock, &mut self.random)
    }

    fn core(
        &mut self,
        space: usize,
        event: CoreEvent,
        clock: Clock,
        touched: &mut BTreeSet<usize>,
    ) -> Result<(), StorageError> {
        self.handle(space, Input::Core(event), clock, touched)
    }

    fn id_of(&self, number: usize) -> DeviceId {
        self.surroundings.ids[number]
    }

    /// Tells a peer by tags which spaces are here.
    fn greet(&mut self, peer: usize, wishes: &mut Vec<Wish>) {
        let (local, other) = (self.id_of(self.number), self.id_of(peer));
        let known = self.hosted.iter().filter(|(_, hosted)| hosted.greeted > 0);
        let spaces = known.flat_map(|(space, hosted)| {
            let id = self.surroundings.spaces[*space].id;
            hosted.secrets().map(move |(epoch, secret)| (id, epoch, secret))
        });
        let tags = PeerTags::new(&local, &other, spaces);
        let known = self.peers.entry(peer).or_default();
        for hello in tags.hellos() {
            known.unanswered = Some(hello.clone());
            let bytes = SyncMessage::Hello(hello.clone()).encode();
            wishes.push(Wish::Request { peer, protocol: Protocol::Sync, bytes, purpose: Purpose::Hello(hello) });
        }
        known.tags = tags;
    }

    /// Asks a peer to sponsor this device in the spaces whose keys are not here yet.
    fn apply_at(&self, peer: usize, wishes: &mut Vec<Wish>) {
        for (space, hosted) in &self.hosted {
            let Some(ticket) = hosted.ticket.as_ref().filter(|_| hosted.is_waiting()) else { continue };
            let (device, invitation) = (&self.surroundings.keys[self.number], ticket.invitation());
            let request = JoinRequest {
                tag: invitation_tag(&invitation.id(), &device.id(), &self.id_of(peer)),
                certificate: Certificate::new(&self.surroundings.spaces[*space].id, device, &invitation),
            };
            wishes.push(Wish::Note(Happening::JoinAsked, [peer as u64, *space as u64]));
            let (bytes, purpose) = (request.encode(), Purpose::Join { space: *space });
            wishes.push(Wish::Request { peer, protocol: Protocol::Join, bytes, purpose });
        }
    }

    fn round(&mut self, wishes: &mut Vec<Wish>) {
        let peers: Vec<(usize, bool)> =
            self.peers.iter().map(|(peer, known)| (*peer, known.unanswered.is_some())).collect();
        for (peer, is_ungreeted) in peers {
            self.apply_at(peer, wishes);
            if is_ungreeted {
                wishes.push(Wish::Note(Happening::GreetedAgain, [peer as u64, 0]));
                self.greet(peer, wishes);
            }
        }
    }

    /// A peer proved to know the secrets of some spaces.
    fn shares(
        &mut self,
        peer: usize,
        proven: &[SharedSpace],
        clock: Clock,
        touched: &mut BTreeSet<usize>,
        wishes: &mut Vec<Wish>,
    ) -> Result<(), StorageError> {
        let found = |shared: &SharedSpace| Some((self.surroundings.space(&shared.space)?, *shared));
        let spaces: Vec<(usize, SharedSpace)> = proven.iter().filter_map(found).collect();
        if spaces.len() > 1 {
            wishes.push(Wish::Note(Happening::GreetedSeveral, [peer as u64, spaces.len() as u64]));
        }
        for (space, shared) in spaces {
            let later = |known: &&mut Peer| known.shares.get(&space).is_none_or(|epoch| *epoch < shared.epoch);
            let Some(known) = self.peers.get_mut(&peer).filter(later) else { continue };
            known.shares.insert(space, shared.epoch);
            let id = self.id_of(peer);
            if let Some(hosted) = self.hosted.get_mut(&space) {
                hosted.tags.insert(id, shared.tag);
            }
            wishes.push(Wish::Note(Happening::Greeted, [peer as u64, space as u64]));
            let event = SyncEvent::PeerShares { peer: self.id_of(peer) };
            self.core(space, CoreEvent::Sync(event), clock, touched)?;
        }
        Ok(())
    }

    fn asked(
        &mut self,
        peer: usize,
        bytes: &[u8],
        exchange: u64,
        clock: Clock,
        touched: &mut BTreeSet<usize>,
        wishes: &mut Vec<Wish>,
    ) -> Result<(), StorageError> {
        let known = self.peers.entry(peer).or_default();
        match SyncMessage::decode(bytes) {
            Ok(SyncMessage::Hello(hello)) => {
                let (answer, shared) = known.tags.answer(&hello);
                wishes.push(Wish::Reply { exchange, bytes: answer.encode(), space: None });
                self.shares(peer, &shared, clock, touched, wishes)
            }
            Ok(SyncMessage::Space { tag, request }) => {
                // Who is not known to share the space gets no answer.
                let space = known.tags.space(&tag).and_then(|id| self.surroundings.space(&id));
                let Some(space) = space else { return Ok(()) };
                let id = self.id_of(peer);
                let Some(hosted) = self.hosted.get_mut(&space) else { return Ok(()) };
                let event = hosted.requested(id, exchange, request);
                self.core(space, event, clock, touched)
            }
            Err(_) => {
                wishes.push(Wish::Blamed { peer, why: Blame::MalformedRequest });
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
        touched: &mut BTreeSet<usize>,
        wishes: &mut Vec<Wish>,
    ) -> Result<(), StorageError> {
        let Ok(JoinRequest { tag, certificate }) = JoinRequest::decode(bytes) else {
            wishes.push(Wish::Blamed { peer, why: Blame::MalformedRequest });
            return Ok(());
        };
        let (local, other, invitation) = (self.id_of(self.number), self.id_of(peer), certificate.invitation);
        let named = invitation_tag(&invitation, &other, &local) == tag && certificate.device == other;
        let found = self.hosted.values_mut().find(|hosted| hosted.invitations.contains(&invitation));
        let Some(hosted) = found.filter(|_| named) else {
            wishes.push(Wish::Note(Happening::JoinRefused, [peer as u64, 0]));
            let bytes = JoinAnswer::Refused(JoinRefusal::Unknown).encode();
            wishes.push(Wish::Reply { exchange, bytes, space: None });
            return Ok(());
        };
        let (space, event) = (hosted.space, hosted.join(exchange, certificate));
        self.core(space, event, clock, touched)
    }

    fn answered(
        &mut self,
        peer: usize,
        purpose: Purpose,
        bytes: Option<Vec<u8>>,
        clock: Clock,
        touched: &mut BTreeSet<usize>,
        wishes: &mut Vec<Wish>,
    ) -> Result<(), StorageError> {
        match (purpose, bytes) {
            (Purpose::Engine { space, token }, bytes) => {
                let event = match bytes {
                    Some(bytes) => SyncEvent::Answered { token, bytes },
                    None => SyncEvent::Failed { token },
                };
                self.core(space, CoreEvent::Sync(event), clock, touched)
            }
            (Purpose::Hello(hello), Some(bytes)) => {
                let (Ok(answer), Some(known)) = (HelloAnswer::decode(&bytes), self.peers.get_mut(&peer)) else {
                    return Ok(());
                };
                // The answer to an earlier hello says nothing of the spaces that came since.
                known.unanswered.take_if(|last| *last == hello);
                let proven = known.tags.shared(&hello, &answer);
                self.shares(peer, &proven, clock, touched, wishes)
            }
            (Purpose::Join { space }, Some(bytes)) => match JoinAnswer::decode(&bytes) {
                Ok(JoinAnswer::Admitted(delivery)) => self.core(space, CoreEvent::Admitted(delivery), clock, touched),
                Ok(JoinAnswer::Refused(_)) => Ok(()),
                Err(_) => {
                    wishes.push(Wish::Blamed { peer, why: Blame::MalformedJoinAnswer });
                    Ok(())
                }
            },
            (Purpose::Hello(_) | Purpose::Join { .. }, None) | (Purpose::Lie, _) | (Purpose::NotCanonical, None) => {
                Ok(())
            }
            (Purpose::NotCanonical, Some(_)) => {
                wishes.push(Wish::Violation(format!("#{peer} answers a request whose bytes are not canonical")));
                Ok(())
            }
        }
    }

    fn hear(
        &mut self,
        peer: usize,
        frame: Frame,
        again: bool,
        clock: Clock,
        touched: &mut BTreeSet<usize>,
        wishes: &mut Vec<Wish>,
    ) -> Result<(), StorageError> {
        let (space, id) = (frame.space, self.id_of(peer));
        let Some(hosted) = self.hosted.get_mut(&space) else { return Ok(()) };
        match hosted.heard((peer, id), frame, again) {
            Some(event) => self.core(space, event, clock, touched),
            None => {
                wishes.push(Wish::Note(Happening::GossipDeduplicated, [peer as u64, 0]));
                Ok(())
            }
        }
    }
}
