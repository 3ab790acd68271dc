//! One replica of a device that runs, with what a node's pump does around it.

use std::collections::{BTreeMap, BTreeSet};

use rand_chacha::ChaCha8Rng;
use syncline::documents::Input as DeskInput;
use syncline::space::core::Event as CoreEvent;
use syncline::space::join::JoinAnswer;
use syncline::space::replica::{Input, Output};
use syncline::space::{Clock, SpaceReplica};
use syncline_model::{DeviceId, ReplicationSecret, SpaceTag, Ticket};
use syncline_storage::{FileScope, StorageError, Store};
use syncline_sync::{
    Effect as SyncEffect, Event as SyncEvent, FrameId, Message as SyncMessage, Request, RequestId, Verdict,
};

use crate::device::{SPACE_KEYS, Surroundings};
use crate::happening::Happening;
use crate::message::{Blame, Frame, Protocol, Purpose, SpaceInput, Wish};

/// One replica that runs.
#[derive(Debug)]
pub(crate) struct Hosted {
    pub(crate) space: usize,
    pub(crate) ticket: Option<Ticket>,
    pub(crate) replica: SpaceReplica,
    numbers: u64,
    requests: BTreeMap<RequestId, u64>,
    joins: BTreeMap<u64, u64>,
    frames: BTreeMap<FrameId, (usize, Frame)>,
    seen: BTreeSet<[u8; 16]>,
    /// How many secrets are known to the rest of the node.
    pub(crate) greeted: usize,
    /// How the space is named to its peers.
    pub(crate) tags: BTreeMap<DeviceId, SpaceTag>,

    /// The invitations that the rest of the node knows of: what the replica last told it.
    pub(crate) invitations: BTreeSet<DeviceId>,
}

impl Hosted {
    pub(crate) fn new(space: usize, ticket: Option<Ticket>, replica: SpaceReplica) -> Self {
        let mut hosted = Self {
            space,
            ticket,
            replica,
            numbers: 0,
            requests: BTreeMap::new(),
            joins: BTreeMap::new(),
            frames: BTreeMap::new(),
            seen: BTreeSet::new(),
            greeted: 0,
            tags: BTreeMap::new(),

            invitations: BTreeSet::new(),
        };
        hosted.publish_facts();
        hosted
    }

    /// Tells the rest of the node what it may know without asking the replica.
    fn publish_facts(&mut self) {
        self.invitations = self.replica.core().state().membership().invitations().keys().copied().collect();
    }

    /// The secrets by which devices find each other, as far as they are here.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = (u32, &ReplicationSecret)> {
        self.replica.core().state().keys().replication_secrets()
    }

    /// The secret in use.
    pub(crate) fn latest_secret(&self) -> Option<(u32, &ReplicationSecret)> {
        self.secrets().next()
    }

    /// Whether this device is to be admitted, for the first time or again.
    pub(crate) fn is_waiting(&self) -> bool {
        let state = self.replica.core().state();
        state.role().is_none() && !state.membership().is_removed(&state.device_id())
    }

    /// Requests of peers and frames that wait for the replica: nothing may pile up.
    pub(crate) fn open_work(&self) -> usize {
        self.requests.len() + self.joins.len() + self.frames.len()
    }

    fn next_number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// A peer asks something.
    pub(crate) fn requested(&mut self, peer: DeviceId, exchange: u64, request: Request) -> CoreEvent {
        let id = RequestId(self.next_number());
        self.requests.insert(id, exchange);
        CoreEvent::Sync(SyncEvent::Requested { peer, id, request })
    }

    /// A peer asks to be sponsored.
    pub(crate) fn join(&mut self, exchange: u64, certificate: syncline_model::membership::Certificate) -> CoreEvent {
        let token = self.next_number();
        self.joins.insert(token, exchange);
        CoreEvent::Join { token, certificate }
    }

    /// A frame arrives; none when it was seen before, or when it bears another epoch's name.
    pub(crate) fn heard(&mut self, peer: (usize, DeviceId), frame: Frame, again: bool) -> Option<CoreEvent> {
        let is_subscribed = frame.epoch == self.replica.core().state().gossip_epoch();
        if !is_subscribed || (!self.seen.insert(frame.id) && !again) {
            return None;
        }
        let id = FrameId(self.next_number());
        let bytes = frame.bytes.to_vec();
        self.frames.insert(id, (peer.0, frame));
        Some(CoreEvent::Sync(SyncEvent::Gossip { bytes, from: peer.1, id }))
    }

    /// What people want.
    pub(crate) fn input(input: SpaceInput) -> Input {
        match input {
            SpaceInput::Transact { token, steps } => Input::Desk(DeskInput::Transact { token, steps }),
            SpaceInput::Query { token, query } => Input::Desk(DeskInput::Query { token, query }),
            SpaceInput::Watch { token, since } => {
                Input::Desk(DeskInput::Watch { token, prefix: String::new(), since, values: true })
            }
            SpaceInput::Taken { token, events } => Input::Desk(DeskInput::Taken { token, events }),
            SpaceInput::Invite { token, role, uses, expires_ms } => {
                Input::Core(CoreEvent::Invite { token, role, uses, expires_ms })
            }
            SpaceInput::Govern { token, act } => Input::Core(CoreEvent::Govern { token, act }),
            SpaceInput::Worked(done) => Input::Desk(DeskInput::Worked(done)),
        }
    }

    /// Makes durable what was written and carries out what follows; tells whether the space has just become findable
    /// under another name.
    pub(crate) fn settle(
        &mut self,
        surroundings: &Surroundings,
        store: &Store,
        clock: Clock,
        random: &mut ChaCha8Rng,
        wishes: &mut Vec<Wish>,
    ) -> Result<bool, StorageError> {
        self.replica.settle(clock, random)?;
        for output in self.replica.take_outputs() {
            self.carry_out(surroundings, store, output, wishes)?;
        }
        self.replica.tidy()?;
        if self.replica.documents_outdated() {
            self.replica.forget_documents(clock, random)?;
            wishes.push(Wish::BeginAnew);
        }
        let secrets = self.secrets().count();
        Ok(std::mem::replace(&mut self.greeted, secrets) < secrets)
    }

    fn carry_out(
        &mut self,
        surroundings: &Surroundings,
        store: &Store,
        output: Output,
        wishes: &mut Vec<Wish>,
    ) -> Result<(), StorageError> {
        let space = self.space;
        match output {
            Output::Answer(token, result) => wishes.push(Wish::Answered { space, token, result }),
            Output::Change(token, events) => wishes.push(Wish::Changed { space, token, events }),
            Output::Unwatched(token, _, reason) => {
                wishes.push(Wish::Unwatched { space, token, reason });
            }
            Output::Work(job) => wishes.push(Wish::Work { space, job }),
            Output::Invited(token, outcome) => wishes.push(Wish::Invited { space, token, outcome }),
            Output::Governed(token, outcome) => wishes.push(Wish::Governed { space, token, outcome }),
            Output::Publish { epoch, bytes } => {
                let frame = Frame::new((space, epoch), bytes);
                self.seen.insert(frame.id);
                wishes.push(Wish::Note(Happening::Published, [frame.bytes.len() as u64, 0]));
                wishes.push(Wish::Spread { frame, not_to: None });
            }
            Output::JoinAnswered(token, outcome) => {
                let happening = if outcome.is_ok() { Happening::JoinAdmitted } else { Happening::JoinRefused };
                wishes.push(Wish::Note(happening, [token, 1]));
                if let Some(exchange) = self.joins.remove(&token) {
                    let answer = outcome.map_or_else(JoinAnswer::Refused, JoinAnswer::Admitted);
                    wishes.push(Wish::Reply { exchange, bytes: answer.encode(), space: None });
                }
            }
            Output::StoreKeys => {
                let keys = self.replica.core().state().keys().encode();
                store.files().write_secret(FileScope::Space(surroundings.spaces[space].id), SPACE_KEYS, &keys)?;
                wishes.push(Wish::Note(Happening::KeysStored, [0, 0]));
                self.publish_facts();
            }
            Output::MembershipChanged => self.publish_facts(),
            Output::Reply(id, response) => {
                if let Some(exchange) = self.requests.remove(&id) {
                    wishes.push(Wish::Reply { exchange, bytes: response.encode(), space: Some(space) });
                }
            }
            Output::Sync(effect) => self.carry_out_sync(surroundings, effect, wishes),
        }
        Ok(())
    }

    fn carry_out_sync(&mut self, surroundings: &Surroundings, effect: SyncEffect, wishes: &mut Vec<Wish>) {
        let space = self.space;
        let number = |id: &DeviceId| surroundings.number(id).expect("only devices of the run take part");
        match effect {
            SyncEffect::Send { peer, token, request } => {
                let Some(tag) = self.tags.get(&peer).copied() else { return };
                let bytes = SyncMessage::Space { tag, request }.encode();
                let (peer, purpose) = (number(&peer), Purpose::Engine { space, token });
                wishes.push(Wish::Request { peer, protocol: Protocol::Sync, bytes, purpose });
            }
            SyncEffect::Verdict { id, verdict, .. } => {
                let Some((peer, frame)) = self.frames.remove(&id) else { return };
                match verdict {
                    Verdict::Accept => {
                        wishes.push(Wish::Note(Happening::GossipForwarded, [peer as u64, 0]));
                        wishes.push(Wish::Spread { frame, not_to: Some(peer) });
                    }
                    Verdict::Ignore => wishes.push(Wish::Note(Happening::GossipIgnored, [peer as u64, 0])),
                    Verdict::Reject => wishes.push(Wish::Blamed { peer, why: Blame::Rejected }),
                }
            }
            SyncEffect::Misbehaved { peer, reason } => {
                wishes.push(Wish::Blamed { peer: number(&peer), why: Blame::Misbehaviour(reason) });
            }
            SyncEffect::Equivocation { author, sequence, peer } => {
                let author = surroundings.number(&author).unwrap_or(usize::MAX);
                wishes.push(Wish::Blamed { peer: number(&peer), why: Blame::Equivocation { author, sequence } });
            }
            SyncEffect::Synced { peer } => wishes.push(Wish::Note(Happening::Synced, [number(&peer) as u64, 0])),
            SyncEffect::Serve { .. }
            | SyncEffect::Reply { .. }
            | SyncEffect::Ingest { .. }
            | SyncEffect::Branch { .. }
            | SyncEffect::Contested { .. }
            | SyncEffect::Publish { .. } => {
                wishes.push(Wish::Violation("the replica let out what it has to do itself".to_owned()));
            }
        }
    }
}
