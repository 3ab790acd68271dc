//! One space's core: what is written here, what arrives, what counts, what others are told. Sans-IO.
//!
//! Events come in, effects go out; time and randomness are arguments. Operations that are taken in one step share one
//! signature, one append and one sync: the caller drains its events, makes [`SpaceCore::take_batch`] durable, and only
//! then gives [`Event::Durable`], from which all acknowledgements, announcements and visible changes follow.

use std::collections::{BTreeSet, VecDeque};

use rand_core::CryptoRng;
use syncline_model::keys::{SEAL_OVERHEAD_BYTES, seal};
use syncline_model::limits::PAYLOAD_BYTES_MAX;
use syncline_model::membership::{Certificate, Facts, Genesis, KeyDelivery, Statement};
use syncline_model::planted::{Bug, planted};
use syncline_model::run::RunBuilder;
use syncline_model::{
    Action, Admitted, ContentKey, Dependency, DeviceId, DeviceKey, ForkProof, Header, Kind, OperationSummary, Past,
    Role, Run, RunSummary, Transaction, VerifiedRun,
};
use syncline_storage::Filed;
use syncline_sync::{Effect as SyncEffect, Engine, Event as SyncEvent};

use super::join::JoinRefusal;
use super::keys::SpaceKeys;
use super::log_state::LogState;
use super::opening::OpenQueue;
use super::quota::RelayQuota;
pub use super::refusal::WriteError;
use super::steward::Act;
use super::tails::KEEP_UNCOUNTED_MS;
use crate::documents::Opened;

/// How long another author's data stays unwitnessed by this device at most, in milliseconds; see
/// [`SpaceCore::witness_after`].
const WITNESS_AFTER_MS: u64 = 10 * 60 * 1000;
/// Dependencies beyond the cap go into merging operations before; more of them in a row than this is a bug.
const MERGING_OPERATIONS_MAX: usize = 256;

/// The two clocks of a step.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// Milliseconds that only grow, for timers.
    pub now_ms: u64,
    /// Milliseconds since 1970 as this device believes, shown to people.
    pub wall_ms: u64,
}

/// What happens to a space.
#[derive(Debug)]
pub enum Event {
    /// A transaction is to be written.
    Commit {
        /// Chosen by the caller, returned in the outcome.
        token: u64,
        /// What it does.
        transaction: Transaction,
    },
    /// The steward opens an invitation.
    Invite {
        /// Chosen by the caller.
        token: u64,
        /// The role that it gives.
        role: Role,
        /// How many devices it admits.
        uses: u32,
        /// When it ends, in ms since 1970.
        expires_ms: u64,
    },
    /// A device asks this one to sponsor it.
    Join {
        /// Chosen by the caller.
        token: u64,
        /// The application.
        certificate: Certificate,
    },
    /// A sponsor admitted this device and sent its keys.
    Admitted(KeyDelivery),
    /// Something for reconciliation.
    Sync(SyncEvent),
    /// The batch that was last taken is durable.
    Durable,
    /// Runs that [`Effect::Read`] asked for.
    Read {
        /// The log that they are in.
        log: DeviceId,
        /// The runs.
        runs: Vec<Run>,
    },
    /// What [`Effect::Prove`] asked for.
    Proven(ForkProof),
    /// What [`Effect::Show`] asked for.
    Shown(Vec<Run>),
    /// The steward governs, or whoever holds the recovery key.
    Govern {
        /// Chosen by the caller.
        token: u64,
        /// What is to be done.
        act: Act,
    },
    /// Time has passed.
    Tick,
}

/// What a space wants done.
#[derive(Debug)]
pub enum Effect {
    /// Admitted, durable and decrypted operations for the documents, in causal order.
    Apply(Vec<Opened>),
    /// Operations of these epochs are passed over, since their keys are not here.
    LeaveOut(BTreeSet<u32>),
    /// A transaction of this device is durable.
    Committed {
        /// The event's token.
        token: u64,
        /// As which operation of this device.
        sequence: u64,
        /// The causal past, when the transaction deletes.
        past: Option<Past>,
    },
    /// A transaction was not written.
    Aborted {
        /// The event's token.
        token: u64,
        /// Why.
        reason: WriteError,
    },
    /// An invitation is durable.
    Invited {
        /// The event's token.
        token: u64,
        /// The invitation's key or why there is none.
        outcome: Result<DeviceKey, WriteError>,
    },
    /// The answer to a device that asked for sponsorship.
    JoinAnswered {
        /// The event's token.
        token: u64,
        /// Its keys, or why it is not admitted.
        outcome: Result<KeyDelivery, JoinRefusal>,
    },
    /// Stored operations are to be read and given back with [`Event::Read`].
    Read {
        /// The log that they are in.
        log: DeviceId,
        /// After this sequence.
        after: u64,
        /// Up to this one.
        through: u64,
    },
    /// A governing act is durable, or was refused.
    Governed {
        /// The event's token.
        token: u64,
        /// Why it was refused.
        outcome: Result<(), WriteError>,
    },
    /// The proof is to be made that an author forked, of the stored runs of its log and of a branch, and to be given
    /// back with [`Event::Proven`].
    Prove {
        /// Whose.
        author: DeviceId,
        /// The branch.
        branch: DeviceId,
        /// Where the branch leaves the log.
        sequence: u64,
    },
    /// The stored runs of an author's log and of a branch are to be given back with [`Event::Shown`].
    Show {
        /// Whose.
        author: DeviceId,
        /// The branch.
        branch: DeviceId,
        /// Where the branch leaves the log.
        sequence: u64,
    },
    /// A frame is to be handed to gossip, under the name that the space has in this epoch.
    Publish {
        /// The epoch.
        epoch: u32,
        /// The frame.
        bytes: Vec<u8>,
    },
    /// The space's keys changed and are to be stored.
    StoreKeys,
    /// Membership changed: roles, invitations or epochs.
    MembershipChanged,
    /// Something of reconciliation, other than taking a run.
    Sync(SyncEffect),
}

/// What waits for the current batch to be durable.
#[derive(Debug)]
pub(super) enum Waiting {
    Invite { token: u64, invitation: DeviceKey },
    Join { token: u64, delivery: KeyDelivery },
    Govern { token: u64 },
}

/// What the documents are to see once the current batch is durable.
#[derive(Debug)]
enum News {
    Foreign(Admitted),
    Own { token: u64, sequence: u64, past: Option<Past> },
}

/// One space's core.
#[derive(Debug)]
pub struct SpaceCore {
    pub(super) state: LogState,
    engine: Engine,
    open: OpenQueue,
    /// This device's operations of the current step.
    writing: Option<RunBuilder>,
    /// Finished runs of the current step, in the order to be appended.
    batch: Vec<Filed>,
    /// Taken by the caller, not yet durable.
    syncing: Vec<Filed>,
    /// Whether this device may owe others something: keys, or a rotation.
    duties_due: bool,
    /// Since when other authors' data is admitted here that nothing of this device builds on.
    pub(super) unwitnessed_since_ms: Option<u64>,
    pub(super) witness_after_ms: u64,
    /// For how long operations that do not count are kept.
    pub(super) keep_uncounted_ms: u64,
    /// What the current step admitted, in causal order.
    admitted: Vec<News>,
    pub(super) waiting: VecDeque<Waiting>,
    /// Whether other authors' operations were admitted since this device last wrote.
    news: bool,
    /// The membership's count of changes that others were told of.
    told_changes: u64,
    /// The last of this device's operations that the log was seen to hold, after a gap or not.
    own_written: u64,
}

impl SpaceCore {
    /// The core of a space of which nothing is held yet.
    pub fn new(device: DeviceKey, keys: SpaceKeys, engine: Engine) -> Self {
        Self {
            state: LogState::new(device, keys),
            engine,
            open: OpenQueue::default(),
            writing: None,
            batch: Vec::new(),
            syncing: Vec::new(),
            duties_due: true,
            unwitnessed_since_ms: None,
            witness_after_ms: WITNESS_AFTER_MS,
            keep_uncounted_ms: KEEP_UNCOUNTED_MS,
            admitted: Vec::new(),
            waiting: VecDeque::new(),
            news: true,
            told_changes: 0,
            own_written: 0,
        }
    }

    /// Bounds what is stored while this device is a relay; before anything is taken in.
    #[must_use]
    pub fn with_relay_quota(mut self, quota: RelayQuota) -> Self {
        self.state.limit_relay(quota);
        self
    }

    /// Whether [`SpaceCore::note_stored`] is to be told what is stored.
    pub fn measures_stored(&self) -> bool {
        self.state.measures()
    }

    /// Takes note of bytes of an author that were stored before.
    pub fn note_stored(&mut self, author: DeviceId, bytes: u64) {
        self.state.note_stored(author, bytes);
    }

    /// Takes in what the log holds, run by run in the order of arrival, before the first event.
    ///
    /// `applied` tells how far each log's operations have reached the documents: later ones are opened again.
    pub fn replay(&mut self, log: DeviceId, summary: &RunSummary, applied: &dyn Fn(&DeviceId) -> u64) {
        let mut admitted = Vec::new();
        if log == self.state.device.id() {
            self.own_written = self.own_written.max(summary.last());
        }
        if self.state.hold(log, summary, &mut admitted) {
            self.state.made_durable(log, summary.last(), summary.last_id());
        }
        for operation in admitted {
            self.state.take_notes(&operation);
            let data = operation.kind == Kind::DATA && operation.fault.is_none();
            let seen = operation.sequence <= applied(&operation.log) && !planted(Bug::AppliedTwiceOnRecovery);
            if data && !seen {
                self.open.admit(&operation);
            }
        }
    }

    /// Ends a replay; false when it has to be done again, since what came late decides what counts of what came before.
    pub fn end_replay(&mut self, assumed: &mut Facts) -> bool {
        let facts = self.state.admission.facts();
        let settled = !self.state.admission.is_outdated() && (*assumed == facts || *assumed == Facts::default());
        if settled {
            self.state.offer_limited();
            self.state.refresh_keys();
        } else {
            self.replay_again(&facts);
            *assumed = facts;
        }
        settled
    }

    /// Forgets what was replayed, to take in what the log holds once more with these things known beforehand.
    pub(super) fn replay_again(&mut self, facts: &Facts) {
        self.state.begin_again(facts);
        self.open = OpenQueue::default();
        self.own_written = 0;
    }

    /// For how long operations that do not count are kept, in milliseconds, instead of [`KEEP_UNCOUNTED_MS`].
    pub fn keep_uncounted(&mut self, ms: u64) {
        self.keep_uncounted_ms = ms;
    }

    /// Whether something became known that takes back what was shown: the replica is to be opened again.
    pub fn is_outdated(&self) -> bool {
        self.state.admission.is_outdated()
    }

    /// Heads, membership and keys.
    pub fn state(&self) -> &LogState {
        &self.state
    }

    /// Reconciliation, for its status.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Operations that no key here opens, or whose content is malformed.
    pub fn unreadable(&self) -> u64 {
        self.open.unreadable()
    }

    /// When [`Event::Tick`] is due, in the clock of [`Clock::now_ms`].
    pub fn next_deadline(&self) -> Option<u64> {
        self.engine.next_deadline().into_iter().chain(self.witness_due_ms()).min()
    }

    /// Handles one event.
    pub fn handle(&mut self, event: Event, clock: Clock, random: &mut dyn CryptoRng, out: &mut Vec<Effect>) {
        self.dispatch(event, clock, random, out);
        // Whoever may write or be served may be another one now, by an own operation or by one that arrived.
        while self.told_changes != self.state.membership().changes() {
            self.told_changes = self.state.membership().changes();
            out.push(Effect::MembershipChanged);
            self.reconcile(SyncEvent::MembershipChanged, clock, random, out);
            self.duties_due = true;
        }
        // The engine leaves alone whom the space refused, until it is told that this may be over.
        if self.state.needs_anew() {
            self.reconcile(SyncEvent::MembershipChanged, clock, random, out);
        }
        if self.duties_due {
            self.duties_due = !self.do_duties(clock, random, out);
        }
        self.witness_when_due(clock);
    }

    fn dispatch(&mut self, event: Event, clock: Clock, random: &mut dyn CryptoRng, out: &mut Vec<Effect>) {
        match event {
            Event::Commit { token, transaction } => {
                if let Err(reason) = self.commit(token, &transaction, random) {
                    out.push(Effect::Aborted { token, reason });
                }
            }
            Event::Invite { token, role, uses, expires_ms } => {
                if let Err(error) = self.invite(token, (role, uses, expires_ms), clock, random, out) {
                    out.push(Effect::Invited { token, outcome: Err(error) });
                }
            }
            Event::Join { token, certificate } => match self.sponsor(token, certificate, clock, random) {
                Ok(None) => {}
                Ok(Some(delivery)) => out.push(Effect::JoinAnswered { token, outcome: Ok(delivery) }),
                Err(refusal) => out.push(Effect::JoinAnswered { token, outcome: Err(refusal) }),
            },
            Event::Govern { token, act } => match self.govern(act, clock, random, out) {
                Ok(()) => self.waiting.push_back(Waiting::Govern { token }),
                Err(error) => out.push(Effect::Governed { token, outcome: Err(error) }),
            },
            Event::Proven(proof) => self.publish_proof(&proof),
            Event::Shown(runs) => self.reconcile(SyncEvent::Evidence { runs }, clock, random, out),
            Event::Admitted(delivery) => {
                self.state.accept_delivery(&delivery);
                out.push(Effect::StoreKeys);
            }
            Event::Sync(event) => self.reconcile(event, clock, random, out),
            Event::Durable => self.durable(clock, random, out),
            Event::Read { log, runs } => {
                self.open.give(log, runs);
                self.open.advance(&self.state, out);
            }
            Event::Tick => self.reconcile(SyncEvent::Tick, clock, random, out),
        }
    }

    /// The runs of this step to append and sync, in this order; empty when there is nothing to write.
    ///
    /// # Panics
    /// When the previous batch was not confirmed with [`Event::Durable`]: that would acknowledge what may be lost.
    pub fn take_batch(&mut self) -> Vec<Filed> {
        assert!(self.syncing.is_empty(), "a batch is taken only after the one before it is durable");
        self.finish_writing();
        self.syncing = std::mem::take(&mut self.batch);
        self.syncing.clone()
    }

    /// Opens what replay found to be missing in the documents.
    pub fn start(&mut self, out: &mut Vec<Effect>) {
        self.open.advance(&self.state, out);
    }

    /// Writes the first operations of a new space: its genesis, its first epoch, and the steward's own key delivery.
    pub fn found(&mut self, genesis: Genesis, wall_ms: u64, random: &mut dyn CryptoRng) -> Result<(), WriteError> {
        let record = self.state.next_record(Statement::Genesis(genesis), wall_ms);
        self.write_control(Kind::MEMBERSHIP, record.encode())?;
        self.begin_epoch(wall_ms, random)?;
        self.state.refresh_keys();
        Ok(())
    }

    fn commit(&mut self, token: u64, transaction: &Transaction, random: &mut dyn CryptoRng) -> Result<(), WriteError> {
        self.check_writer()?;
        let epoch = self.state.membership().epoch();
        let key = self.state.keys.content.get(&epoch).cloned().ok_or(WriteError::NoKey)?;
        let deletes = transaction.entries.iter().any(|entry| entry.action == Action::Delete);
        let plaintext = transaction.to_plaintext(1);
        if plaintext.len() + SEAL_OVERHEAD_BYTES > PAYLOAD_BYTES_MAX {
            return Err(WriteError::TooLarge);
        }
        self.merge_overflow(transaction, epoch, &key, random)?;
        let sequence = self.write_sealed(epoch, &key, &plaintext, random)?;
        let past = deletes.then(|| self.state.admission.causality().past(self.state.device.id(), sequence));
        self.admitted.push(News::Own { token, sequence, past });
        Ok(())
    }

    /// Writes empty operations until the next one's dependencies fit.
    fn merge_overflow(
        &mut self,
        transaction: &Transaction,
        epoch: u32,
        key: &ContentKey,
        random: &mut dyn CryptoRng,
    ) -> Result<(), WriteError> {
        for _ in 0..MERGING_OPERATIONS_MAX {
            if !self.news || !self.dependencies().1 {
                return Ok(());
            }
            let Transaction { wall_time_ms, lineage, .. } = *transaction;
            let empty = Transaction { wall_time_ms, lineage, entries: Vec::new() };
            self.write_sealed(epoch, key, &empty.to_plaintext(1), random)?;
        }
        Err(WriteError::TooLarge)
    }

    fn dependencies(&self) -> (Vec<Dependency>, bool) {
        self.state.admission.dependencies(self.state.device.id())
    }

    /// Whether this device may write now.
    ///
    /// Where damage took something from the log, the next operation would take the place of one that others hold, or
    /// would count before the own ones that wait for what is missing.
    pub(super) fn check_writer(&self) -> Result<(), WriteError> {
        let (held, _) = self.state.own_head();
        let (local, membership) = (self.state.device.id(), self.state.membership());
        if self.is_outdated() {
            return Err(WriteError::BegunAnew);
        }
        if membership.forks().contains_key(&local) {
            return Err(WriteError::Cloned);
        }
        if membership.is_removed(&local) {
            return Err(WriteError::Removed);
        }
        if membership.cuts().contains_key(&local) {
            return Err(WriteError::Cut);
        }
        let admitted = self.state.admission.admitted().sequence(&self.state.device.id());
        match self.state.role() {
            Some(role) if role.writes() && (held < self.own_written || admitted < held) => Err(WriteError::Recovering),
            Some(role) if role.writes() || planted(Bug::RoleUncheckedAtWrite) => Ok(()),
            Some(role) => Err(WriteError::ReadOnly { role: role.name() }),
            None => Err(WriteError::NotAdmitted),
        }
    }

    fn write_sealed(
        &mut self,
        epoch: u32,
        key: &ContentKey,
        plaintext: &[u8],
        random: &mut dyn CryptoRng,
    ) -> Result<u64, WriteError> {
        let length = plaintext.len() + SEAL_OVERHEAD_BYTES;
        self.write(Kind::DATA, epoch, length, &[], |header| seal(key, header, plaintext, &mut &mut *random))
    }

    pub(super) fn write_control(&mut self, kind: Kind, payload: Vec<u8>) -> Result<(), WriteError> {
        let control = payload.clone();
        self.write(kind, 0, payload.len(), &control, |_| payload).map(drop)
    }

    /// Writes the next operation of this device's log into the current step and admits it.
    fn write(
        &mut self,
        kind: Kind,
        epoch: u32,
        length: usize,
        control: &[u8],
        payload_of: impl FnOnce(&[u8]) -> Vec<u8>,
    ) -> Result<u64, WriteError> {
        let (dependencies, overflow) = if self.news { self.dependencies() } else { (Vec::new(), false) };
        let (head, previous) = self.state.own_head();
        let header = Header {
            kind,
            space: self.state.keys.space,
            author: self.state.device.id(),
            sequence: head + 1,
            previous,
            membership: self.state.admission.known_records(&self.state.device.id()),
            epoch,
            dependencies,
            payload_length: u32::try_from(length).map_err(|_| WriteError::TooLarge)?,
        };
        if self.writing.as_ref().is_some_and(|builder| !builder.has_room_for(length + 256)) {
            self.finish_writing();
        }
        let builder = self
            .writing
            .get_or_insert_with(|| RunBuilder::new(header.space, header.author, header.sequence, header.previous));
        let id = builder.push(&header, payload_of).map_err(|_| WriteError::TooLarge)?.id;
        let Header { membership, dependencies, .. } = header;
        let operation = OperationSummary { id, kind, membership, epoch, dependencies, control: control.to_vec() };
        let summary = RunSummary { author: header.author, first: head + 1, previous, operations: vec![operation] };
        let mut admitted = Vec::new();
        let held = self.state.hold(header.author, &summary, &mut admitted);
        debug_assert!(held, "an own operation follows the one before it");
        // A takeover counts once all is taken in again with it.
        debug_assert!(admitted.len() == 1 || kind == Kind::MEMBERSHIP, "an own operation builds on admitted ones");
        let mut lets_others_in = false;
        for operation in admitted {
            self.state.take_notes(&operation);
            let own = operation.log == header.author && operation.sequence > head;
            lets_others_in |= !own;
            if !own && operation.kind == Kind::DATA && operation.fault.is_none() {
                self.admitted.push(News::Foreign(operation));
            }
        }
        // Nobody else's operation can wait for one that was not sent; but a record may let in what is held already.
        // That is news, and so are dependencies that did not fit.
        self.news = overflow || lets_others_in;
        self.unwitnessed_since_ms = self.unwitnessed_since_ms.filter(|_| overflow);
        Ok(head + 1)
    }

    fn finish_writing(&mut self) {
        if let Some(run) = self.writing.take().and_then(|builder| builder.finish(&self.state.device)) {
            self.batch.push(Filed::from(run));
        }
    }

    /// Gives reconciliation an event and takes the runs it brings.
    fn reconcile(&mut self, event: SyncEvent, clock: Clock, random: &mut dyn CryptoRng, out: &mut Vec<Effect>) {
        let mut effects = Vec::new();
        // What a run brings may be later keys; frames are sealed under those of before.
        let epoch = self.state.gossip_epoch();
        self.engine.handle(event, clock.now_ms, &self.state, random, &mut effects);
        for effect in effects {
            match effect {
                SyncEffect::Ingest { run, .. } | SyncEffect::Branch { run, .. } if !self.state.has_room(&run) => {}
                SyncEffect::Ingest { run, .. } => self.ingest(run.author(), run, clock, out),
                SyncEffect::Contested { author } => self.contest(author, out),
                SyncEffect::Branch { run, wanted, .. } => self.take_branch(run, wanted, clock, out),
                SyncEffect::Publish { bytes } => {
                    let later = self.state.gossip_epoch();
                    let epoch = if planted(Bug::FrameUnderLaterName) { later } else { epoch };
                    out.push(Effect::Publish { epoch, bytes });
                }
                other => out.push(Effect::Sync(other)),
            }
        }
    }

    /// Takes a verified run that follows what is held of a log.
    pub(super) fn ingest(&mut self, log: DeviceId, run: VerifiedRun, clock: Clock, out: &mut Vec<Effect>) {
        let mut admitted = Vec::new();
        if !self.state.hold(log, &RunSummary::of(&run), &mut admitted) {
            return;
        }
        let mut new_keys = false;
        for operation in admitted {
            new_keys |= self.state.take_notes(&operation);
            if operation.kind == Kind::DATA && operation.fault.is_none() {
                self.unwitnessed_since_ms.get_or_insert(clock.now_ms);
                self.admitted.push(News::Foreign(operation));
            }
        }
        if new_keys {
            out.push(Effect::StoreKeys);
        }
        self.news = !planted(Bug::DependenciesForgotten);
        self.state.note_stored(run.author(), run.bytes().len() as u64);
        self.open.keep(log, &run);
        self.batch.push(Filed { log, run });
    }

    fn durable(&mut self, clock: Clock, random: &mut dyn CryptoRng, out: &mut Vec<Effect>) {
        let local = self.state.device.id();
        let runs = std::mem::take(&mut self.syncing);
        for Filed { log, run } in &runs {
            self.state.made_durable(*log, run.last(), run.last_id());
        }
        self.state.offer_limited();
        for news in std::mem::take(&mut self.admitted) {
            match news {
                News::Foreign(admitted) => self.open.admit(&admitted),
                News::Own { token, sequence, past } => self.open.own(token, sequence, past),
            }
        }
        self.open.advance(&self.state, out);
        while let Some(waiting) = self.waiting.pop_front() {
            out.push(match waiting {
                Waiting::Invite { token, invitation } => Effect::Invited { token, outcome: Ok(invitation) },
                Waiting::Join { token, delivery } => Effect::JoinAnswered { token, outcome: Ok(delivery) },
                Waiting::Govern { token } => Effect::Governed { token, outcome: Ok(()) },
            });
        }
        for Filed { log, run } in runs {
            if log == local {
                self.reconcile(SyncEvent::Written { run }, clock, random, out);
            }
        }
        // What begins an epoch was told under the name of the one before, which those know who are to hear it.
        self.state.refresh_keys();
        self.reconcile(SyncEvent::Taken, clock, random, out);
    }
}
