//! One replica of a space: core, documents and log under one owner, without threads, clocks or a network.
//!
//! The pump drives it in a node, the simulator in tests. A step is: [`SpaceReplica::handle`] any number of inputs, then
//! [`SpaceReplica::settle`] once, which makes durable what they wrote; only then are outputs to be carried out.

use std::sync::Arc;

use rand_core::CryptoRng;
use syncline_model::limits::PAYLOAD_BYTES_MAX;
use syncline_model::membership::{Facts, KeyDelivery};
use syncline_model::planted::{Bug, planted};
use syncline_model::{ContentKey, DeviceId, DeviceKey, ForkProof, Run, Strings};
use syncline_storage::{AuthorRange, LogReader, SpaceLog, StorageError};
use syncline_sync::{
    Effect as SyncEffect, Event as SyncEvent, Range, Replica as _, RequestId, Response, Serving, Verdict,
};

use super::core::{Clock, Effect, Event, SpaceCore, WriteError};
use super::join::JoinRefusal;
use super::opening::Keyring;
use super::tails::{TAIL_BYTES_MIN, Tails};
use super::withheld::{Sight, Withheld};
use crate::documents::{
    Answer, CacheBudget, ChangeEvent, Desk, DeskConfig, DocumentError, Input as DeskInput, Job, LARGE_DOCUMENT_BYTES,
    LogOperations, Output as DeskOutput, StringMode, Version,
};

/// How often what the log holds is taken in again until all is known beforehand that decides what counts. Forks and
/// takeovers are known after the first time, what they let records say after the second, and their cuts act in the
/// third.
const REPLAYS_MAX: usize = 4;
/// Bytes of runs that one read for opening asks of the log. Opened, inflated and on their way into the index they take
/// some hundred times as much, so this is what bounds the memory of an opening without an index.
const READ_BYTES_MAX: usize = 512 << 10;

/// How long the index gathers before it is written: it only has to be ahead of the next start.
const INDEX_DELAY_MS: u64 = 100;
/// Gathered changes of the index that are worth a batch of their own.
const INDEX_BACKLOG: usize = 256;

/// What a replica is told.
#[derive(Debug)]
pub enum Input {
    /// Something for the core.
    Core(Event),
    /// Something for the documents.
    Desk(DeskInput),
}

/// What a replica wants carried out, after it has settled.
#[derive(Debug)]
pub enum Output {
    /// The answer to a request about documents.
    Answer(u64, Result<Answer, DocumentError>),
    /// Something became visible to a watcher.
    Change(u64, Vec<ChangeEvent>),
    /// A stream of changes ended.
    Unwatched(u64, Version, DocumentError),
    /// A job for a worker thread.
    Work(Job),
    /// An invitation is durable, or cannot be made.
    Invited(u64, Result<DeviceKey, WriteError>),
    /// The answer to a device that asked for sponsorship.
    JoinAnswered(u64, Result<KeyDelivery, JoinRefusal>),
    /// A governing act is durable, or was refused.
    Governed(u64, Result<(), WriteError>),
    /// A frame for gossip, under the name that the space has in this epoch.
    Publish {
        /// The epoch.
        epoch: u32,
        /// The frame.
        bytes: Vec<u8>,
    },
    /// The space's keys are to be stored.
    StoreKeys,
    /// Roles, invitations or epochs changed.
    MembershipChanged,
    /// An answer to a peer.
    Reply(RequestId, Response),
    /// Anything else of reconciliation: requests, gossip, verdicts, blame.
    Sync(SyncEffect),
}

/// One replica of a space.
#[derive(Debug)]
pub struct SpaceReplica {
    core: SpaceCore,
    desk: Desk,
    log: SpaceLog,
    reader: LogReader,
    /// When the index is to be written at the latest.
    index_due_ms: Option<u64>,
    keyring: Keyring,
    /// Keys came after operations that they open had been left out of the documents.
    documents_outdated: bool,
    withheld: Withheld,
    tails: Tails,
    tails_due: bool,
    outputs: Vec<Output>,
}

impl SpaceReplica {
    /// Ties a core to its log and documents, after replaying what the log holds.
    pub fn open(
        mut core: SpaceCore,
        mut log: SpaceLog,
        local_key: &ContentKey,
        cache: impl Into<CacheBudget>,
        random: &mut dyn CryptoRng,
    ) -> Result<Self, StorageError> {
        log.gather_index();
        let reader = log.reader();
        let keyring = Keyring::default();
        let opener = {
            let keyring = keyring.clone();
            Arc::new(move |run: &Run, sequence| keyring.open(run, sequence))
        };
        let config = DeskConfig {
            space: core.state().keys().space,
            device: core.state().device_id(),
            strings: StringMode::default(),
            seal_key: local_key.clone(),
            cache: cache.into(),
            large_document_bytes: LARGE_DOCUMENT_BYTES,
        };
        let operations = Arc::new(LogOperations::new(reader.clone(), opener));
        let mut desk = Desk::open(config, log.index().clone(), operations, random)?;
        replay(&mut core, &log, &desk)?;
        let tails = Tails::read(log.index(), core.keep_uncounted_ms).map_err(StorageError::from)?;
        let due = tails.due(core.state().uncounted_tails());
        if !due.is_empty() {
            match log.drop_tails(&due) {
                // Without room to write a segment again the rest stays for another time.
                Ok(_) | Err(StorageError::Full { .. }) => {}
                Err(error) => return Err(error),
            }
            core.replay_again(&Facts::default());
            replay(&mut core, &log, &desk)?;
        }
        if core.measures_stored() {
            let logs: Vec<DeviceId> = core.state().stored_logs();
            for log in logs {
                core.note_stored(log, reader.stored_bytes(&log)?);
            }
        }
        desk.set_strings(string_mode(&core));
        keyring.renew(core.state());
        // Documents that show what does not count any more are made anew.
        let admitted = core.state().admission().admitted();
        let cut = desk.applied_logs().iter().any(|(log, applied)| admitted.sequence(log) < *applied);
        let documents_outdated = cut || lacks_readable(&desk, &core);
        Ok(Self {
            core,
            desk,
            log,
            reader,
            index_due_ms: None,
            keyring,
            documents_outdated,
            withheld: Withheld::default(),
            tails,
            tails_due: false,
            outputs: Vec::new(),
        })
    }

    /// Whether something that does not count has been kept for long enough: the replica is to be opened again, which
    /// gives its room back.
    pub fn tails_due(&self) -> bool {
        self.tails_due
    }

    /// Looks now and then whether anything is kept that counts for nobody.
    fn look_for_tails(&mut self, clock: Clock) -> Result<(), StorageError> {
        if !self.tails.is_look_due(clock.now_ms) {
            return Ok(());
        }
        let mut worthwhile = Vec::new();
        for tail in self.core.state().uncounted_tails() {
            if self.reader.tail_bytes(tail)? >= TAIL_BYTES_MIN {
                worthwhile.push(tail);
            }
        }
        let due = self.tails.look(&worthwhile, clock.now_ms, self.log.index())?;
        // On a full disk nothing can be written again.
        self.tails_due = due && self.log.no_room()?.is_none();
        if self.tails_due {
            self.log.write_index()?;
        }
        Ok(())
    }

    /// Opens what the documents have not seen yet; once, before the first input.
    pub fn start(&mut self, clock: Clock, random: &mut dyn CryptoRng) -> Result<(), StorageError> {
        let mut effects = Vec::new();
        self.core.start(&mut effects);
        let carried_out = self.carry_out(effects, clock, random);
        if matches!(carried_out, Err(StorageError::Damaged { .. })) {
            self.stop_if_damaged()?;
        }
        carried_out
    }

    /// See [`SpaceCore::witness_after`].
    pub fn witness_after(&mut self, ms: u64) {
        self.core.witness_after(ms);
    }

    /// The core, for its state.
    pub fn core(&self) -> &SpaceCore {
        &self.core
    }

    /// Founds the space; what it writes is durable after [`SpaceReplica::settle`].
    pub fn found(
        &mut self,
        genesis: syncline_model::membership::Genesis,
        wall_ms: u64,
        random: &mut dyn CryptoRng,
    ) -> Result<(), WriteError> {
        self.core.found(genesis, wall_ms, random)?;
        self.keyring.renew(self.core.state());
        self.desk.set_strings(string_mode(&self.core));
        Ok(())
    }

    /// The documents, for what is kept of them.
    pub fn desk(&self) -> &Desk {
        &self.desk
    }

    /// Whether the documents show something else than what counts: keys came after operations that they may open had
    /// been left out, or what was shown was cut.
    ///
    /// They are put right when the replica is opened again, after [`SpaceReplica::forget_documents`].
    pub fn documents_outdated(&self) -> bool {
        self.documents_outdated || self.core.is_outdated()
    }

    /// Forgets what is kept of the documents, so that the next opening makes them anew from all operations.
    pub fn forget_documents(&mut self, clock: Clock, random: &mut dyn CryptoRng) -> Result<(), StorageError> {
        self.handle(Input::Desk(DeskInput::Rebuild), clock, random)?;
        self.log.write_index()
    }

    /// The log's figures.
    pub fn log(&self) -> &SpaceLog {
        &self.log
    }

    /// When the next [`Event::Tick`] is due.
    pub fn next_deadline(&self) -> Option<u64> {
        self.core.next_deadline().into_iter().chain(self.index_due_ms).min()
    }

    /// Handles one input.
    pub fn handle(&mut self, input: Input, clock: Clock, random: &mut dyn CryptoRng) -> Result<(), StorageError> {
        let mut effects = Vec::new();
        let Some(input) = self.refuse_without_room(input)? else { return Ok(()) };
        match input {
            Input::Core(event) => self.core.handle(event, clock, random, &mut effects),
            Input::Desk(input) => self.ask_desk(input, clock, random, &mut effects),
        }
        let carried_out = self.carry_out(effects, clock, random);
        if matches!(carried_out, Err(StorageError::Damaged { .. })) {
            self.stop_if_damaged()?;
        }
        carried_out
    }

    /// Refuses an input that would add to the log while there is no room for anything new; gives the others back.
    ///
    /// Here nothing has been taken in yet. What the core has once chained, signed or counted as held it cannot give
    /// up again, so an append that fails ends the space.
    fn refuse_without_room(&mut self, input: Input) -> Result<Option<Input>, StorageError> {
        use Event::{Govern, Invite, Join, Sync};
        let adds = match &input {
            Input::Desk(input) => matches!(input, DeskInput::Transact { .. }),
            Input::Core(Sync(event)) => matches!(event, SyncEvent::Answered { .. } | SyncEvent::Gossip { .. }),
            Input::Core(event) => matches!(event, Govern { .. } | Invite { .. } | Join { .. }),
        };
        if !adds {
            return Ok(Some(input));
        }
        let Some(no_room) = self.log.no_room()? else { return Ok(Some(input)) };
        let refusal = match input {
            Input::Desk(DeskInput::Transact { token, .. }) => {
                Output::Answer(token, Err(DocumentError::NoRoom(no_room)))
            }
            Input::Core(Invite { token, .. }) => Output::Invited(token, Err(WriteError::Storage)),
            Input::Core(Govern { token, .. }) => Output::Governed(token, Err(WriteError::Storage)),
            Input::Core(Join { token, .. }) => Output::JoinAnswered(token, Err(JoinRefusal::Unavailable)),
            Input::Core(Sync(SyncEvent::Gossip { from, id, .. })) => {
                Output::Sync(SyncEffect::Verdict { id, from, verdict: Verdict::Ignore })
            }
            // The peer is left alone for a while, and asked again.
            Input::Core(Sync(SyncEvent::Answered { token, .. })) => {
                return Ok(Some(Input::Core(Sync(SyncEvent::Failed { token }))));
            }
            other => return Ok(Some(other)),
        };
        self.outputs.push(refusal);
        Ok(None)
    }

    /// Looks whether peers keep something back that membership may depend on.
    fn look_for_withheld(&mut self, clock: Clock) {
        let (state, engine) = (self.core.state(), self.core.engine());
        let steward = state.membership().steward();
        let sight = Sight {
            steward,
            held: steward.map_or(0, |steward| state.taken(&steward).0),
            wanted: state.wanted(),
            claims: steward.map(|steward| engine.claims(&steward)).unwrap_or_default(),
            peers: engine.peers().collect(),
        };
        self.withheld.look(sight, clock.now_ms);
    }

    /// What a person should know, in words: what peers may keep back, and what a relay does not keep.
    pub fn problems(&self, clock: Clock) -> Vec<String> {
        let mut problems = self.withheld.problems(clock.now_ms);
        problems.extend(self.core.state().quota_problems());
        problems
    }

    /// Makes durable what the inputs since the last call wrote, and follows up until nothing is left to write.
    ///
    /// After an error the replica is of no use any more: what it shows may not be on the disk.
    pub fn settle(&mut self, clock: Clock, random: &mut dyn CryptoRng) -> Result<(), StorageError> {
        loop {
            let batch = self.core.take_batch();
            if batch.is_empty() {
                self.look_for_withheld(clock);
                self.look_for_tails(clock)?;
                self.stop_if_damaged()?;
                return self.write_index_when_due(clock);
            }
            if planted(Bug::VisibleBeforeDurable) {
                self.log.sync()?;
                self.log.file(&batch)?;
            } else {
                self.log.file(&batch)?;
                self.log.sync()?;
            }
            self.handle(Input::Core(Event::Durable), clock, random)?;
        }
    }

    /// Ends it when a damaged record was met, here or by a job on documents: core and documents count on operations
    /// that are gone. The next opening begins without them, so that they are fetched again.
    fn stop_if_damaged(&self) -> Result<(), StorageError> {
        let Some(damage) = self.reader.take_damage() else { return Ok(()) };
        // Only what the index says of the quarantine keeps the next start from ending in the same way.
        self.log.write_index()?;
        Err(damage)
    }

    /// Writes what the index has gathered, some time after it began to gather.
    fn write_index_when_due(&mut self, clock: Clock) -> Result<(), StorageError> {
        if self.log.index_backlog() == 0 {
            self.index_due_ms = None;
        } else if clock.now_ms >= *self.index_due_ms.get_or_insert(clock.now_ms + INDEX_DELAY_MS) {
            self.log.write_index()?;
            self.index_due_ms = None;
        }
        Ok(())
    }

    /// Writes what the index has gathered if it is much: best while callers are busy with their answers.
    pub fn tidy(&mut self) -> Result<(), StorageError> {
        if self.log.index_backlog() < INDEX_BACKLOG {
            return Ok(());
        }
        self.index_due_ms = None;
        self.log.write_index()
    }

    /// What is to be carried out.
    pub fn take_outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }

    /// Ends it: everything open is answered, and what helps the next start is kept.
    pub fn close(mut self, clock: Clock, random: &mut dyn CryptoRng) -> Result<Vec<Output>, StorageError> {
        self.handle(Input::Desk(DeskInput::Close), clock, random)?;
        self.log.close()?;
        Ok(self.outputs)
    }

    /// Carries out what stays inside the replica and queues the rest.
    fn carry_out(
        &mut self,
        mut effects: Vec<Effect>,
        clock: Clock,
        random: &mut dyn CryptoRng,
    ) -> Result<(), StorageError> {
        while !effects.is_empty() {
            let mut next = Vec::new();
            for effect in effects {
                self.carry_out_one(effect, clock, random, &mut next)?;
            }
            effects = next;
        }
        Ok(())
    }

    fn carry_out_one(
        &mut self,
        effect: Effect,
        clock: Clock,
        random: &mut dyn CryptoRng,
        next: &mut Vec<Effect>,
    ) -> Result<(), StorageError> {
        match effect {
            Effect::Apply(opened) => self.ask_desk(DeskInput::Apply(opened), clock, random, next),
            Effect::LeaveOut(epochs) => self.ask_desk(DeskInput::LeaveOut(epochs), clock, random, next),
            Effect::Committed { token, sequence, past } => {
                let author = self.core.state().device_id();
                self.ask_desk(DeskInput::Committed { token, author, sequence, past }, clock, random, next);
            }
            Effect::Aborted { token, reason } => {
                let reason = document_error(reason);
                self.ask_desk(DeskInput::Aborted { token, reason }, clock, random, next);
            }
            Effect::Read { log, after, through } => {
                let runs = self.reader.read(&log, after, through, READ_BYTES_MAX)?;
                if !runs.iter().any(|run| run.operation(after + 1).is_some()) {
                    // Asking again would not end. A job on documents may just have met damage there.
                    self.stop_if_damaged()?;
                    let reason = "an operation that is held is not where the index looks for it";
                    return Err(StorageError::Unreadable {
                        path: format!("the log of {}", self.reader.space()),
                        reason,
                    });
                }
                self.core.handle(Event::Read { log, runs }, clock, random, next);
            }
            Effect::Invited { token, outcome } => self.outputs.push(Output::Invited(token, outcome)),
            Effect::JoinAnswered { token, outcome } => self.outputs.push(Output::JoinAnswered(token, outcome)),
            Effect::Governed { token, outcome } => self.outputs.push(Output::Governed(token, outcome)),
            Effect::Prove { author, branch, sequence } => {
                let stored = self.reader.run_at(&author, sequence)?.zip(self.reader.run_at(&branch, sequence)?);
                if let Some(proof) = stored.and_then(|(own, branch)| ForkProof::of(&own, &branch)) {
                    self.core.handle(Event::Proven(proof), clock, random, next);
                }
            }
            Effect::Show { author, branch, sequence } => {
                let stored = [self.reader.run_at(&author, sequence)?, self.reader.run_at(&branch, sequence)?];
                let shown = Event::Shown(stored.into_iter().flatten().collect());
                self.core.handle(shown, clock, random, next);
            }
            Effect::Publish { epoch, bytes } => self.outputs.push(Output::Publish { epoch, bytes }),
            Effect::StoreKeys => {
                self.keyring.renew(self.core.state());
                self.documents_outdated |= lacks_readable(&self.desk, &self.core);
                if !planted(Bug::KeysNotStored) {
                    self.outputs.push(Output::StoreKeys);
                }
            }
            Effect::MembershipChanged => {
                self.desk.set_strings(string_mode(&self.core));
                self.outputs.push(Output::MembershipChanged);
            }
            Effect::Sync(SyncEffect::Serve { peer, id, serving }) => {
                let stored = self.stored_runs(&serving)?;
                let response = serving.page(stored);
                let bytes = response.encode().len();
                self.outputs.push(Output::Reply(id, response));
                self.core.handle(Event::Sync(SyncEvent::Served { peer, bytes }), clock, random, next);
            }
            Effect::Sync(SyncEffect::Reply { id, response, .. }) => self.outputs.push(Output::Reply(id, response)),
            Effect::Sync(other) => self.outputs.push(Output::Sync(other)),
        }
        Ok(())
    }

    /// The stored runs that a page may need, in order of arrival.
    fn stored_runs(&self, serving: &Serving) -> Result<Vec<Run>, StorageError> {
        let wanted =
            |range: &Range| AuthorRange { author: serving.log(range), after: range.after, through: range.through };
        let ranges: Vec<AuthorRange> = serving.ranges.iter().map(wanted).collect();
        let (mut runs, mut bytes, mut after) = (Vec::new(), 0, None);
        while bytes < serving.bytes_max() {
            let page = self.reader.read_many(&ranges, after, serving.bytes_max() - bytes)?;
            bytes += page.runs.iter().map(|stored| stored.run.bytes().len()).sum::<usize>();
            runs.extend(page.runs.into_iter().map(|stored| stored.run));
            if page.complete {
                break;
            }
            after = Some(page.reached);
        }
        Ok(runs)
    }

    /// Gives the desk an input; its commits go to the core at once.
    fn ask_desk(&mut self, input: DeskInput, clock: Clock, random: &mut dyn CryptoRng, effects: &mut Vec<Effect>) {
        let mut outputs = Vec::new();
        self.desk.handle(input, clock.wall_ms, random, &mut outputs);
        for output in outputs {
            match output {
                // It was made without operations that can be read by now: as if nobody had written what they wrote.
                DeskOutput::Commit { token, .. } if self.documents_outdated => {
                    effects.push(Effect::Aborted { token, reason: WriteError::BegunAnew });
                }
                DeskOutput::Commit { token, transaction } => {
                    self.core.handle(Event::Commit { token, transaction }, clock, random, effects);
                }
                DeskOutput::Answer { token, result } => self.outputs.push(Output::Answer(token, result)),
                DeskOutput::Change { token, events } => self.outputs.push(Output::Change(token, events)),
                DeskOutput::Unwatched { token, resume, reason } => {
                    self.outputs.push(Output::Unwatched(token, resume, reason));
                }
                DeskOutput::Work(job) => self.outputs.push(Output::Work(job)),
                DeskOutput::Applied { .. } => {}
            }
        }
    }
}

/// Takes in what the log holds, as often as it takes until all is known beforehand that decides what counts.
fn replay(core: &mut SpaceCore, log: &SpaceLog, desk: &Desk) -> Result<(), StorageError> {
    let mut facts = Facts::default();
    for _ in 0..REPLAYS_MAX {
        let applied = |log: &DeviceId| desk.applied(log);
        log.replay_filed(None, &mut |_, filed, summary| core.replay(filed, &summary, &applied))?;
        if core.end_replay(&mut facts) {
            break;
        }
    }
    Ok(())
}

/// Whether the documents were made without operations that the keys here open.
fn lacks_readable(desk: &Desk, core: &SpaceCore) -> bool {
    desk.left_out().iter().any(|epoch| core.state().keys().content.contains_key(epoch))
}

/// What a caller of a transaction is told when the core does not write it.
fn document_error(reason: WriteError) -> DocumentError {
    match reason {
        WriteError::ReadOnly { role } => DocumentError::NotWritable { role },
        WriteError::BegunAnew => DocumentError::BegunAnew,
        lost @ (WriteError::Removed | WriteError::Cut | WriteError::Cloned) => {
            DocumentError::LostRight { reason: lost.to_string() }
        }
        WriteError::TooLarge => DocumentError::TooLarge { what: "bytes", limit: PAYLOAD_BYTES_MAX },
        waiting @ (WriteError::NotAdmitted | WriteError::NoKey | WriteError::Recovering) => {
            DocumentError::NotYet { reason: waiting.to_string() }
        }
        other => DocumentError::Storage { reason: other.to_string() },
    }
}

/// How the space stores strings; a joiner learns it with the genesis.
fn string_mode(core: &SpaceCore) -> StringMode {
    match core.state().membership().genesis().map(|genesis| genesis.strings) {
        Some(Strings::Text) => StringMode::Text,
        Some(Strings::Scalar) | None => StringMode::Scalar,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::SeedableRng;
    use rand::rngs::StdRng;
    use serde_json::json;
    use syncline_model::membership::Genesis;
    use syncline_storage::{Incarnation, MemoryDisk, MemoryIndex, OpenOptions, Store};
    use syncline_sync::{Engine, FrameId};

    use super::*;
    use crate::documents::{Edit, Query, Step};
    use crate::space::SpaceKeys;

    const CLOCK: Clock = Clock { now_ms: 0, wall_ms: 0 };

    /// A founder's replica on a disk of its own.
    fn founder(disk: &MemoryDisk, random: &mut StdRng) -> SpaceReplica {
        let device = DeviceKey::generate(random);
        let genesis = Genesis {
            steward: device.id(),
            steward_exchange: device.exchange_public(),
            recovery: DeviceKey::generate(random).id(),
            strings: Strings::Scalar,
            nonce: [0; 16],
        };
        let (space, founder, name) = (genesis.space(), device.id(), String::new());
        let (content, replication) = (BTreeMap::new(), BTreeMap::new());
        let keys = SpaceKeys { space, name, founder, ticket: None, content, replication };
        let mut core = SpaceCore::new(device, keys, Engine::new(Default::default()));
        core.found(genesis, 0, random).unwrap();
        let options = OpenOptions { create: true, ..OpenOptions::default() };
        let store = Store::assemble(Arc::new(disk.clone()), Arc::new(MemoryIndex::new()), options).unwrap();
        store.create_space(space, Incarnation([0; 16]), &[]).unwrap();
        let log = store.open_space(space, &mut |_| {}).unwrap();
        let mut replica = SpaceReplica::open(core, log, &ContentKey([1; 32]), 1 << 20, random).unwrap();
        replica.start(CLOCK, random).unwrap();
        replica.settle(CLOCK, random).unwrap();
        replica.take_outputs();
        replica
    }

    #[test]
    fn a_full_disk_refuses_what_is_new_and_ends_nothing() {
        let (disk, mut random) = (MemoryDisk::new(), StdRng::seed_from_u64(1));
        let mut replica = founder(&disk, &mut random);
        let mut ask = |input: Input| {
            replica.handle(input, CLOCK, &mut random).unwrap();
            replica.settle(CLOCK, &mut random).unwrap();
            replica.take_outputs()
        };
        // A document each, since large ones are left to worker threads.
        let key = |token: u64| format!("k/{token}").parse().unwrap();
        let write = |token: u64| {
            let step = Step::Edit { key: key(token), edit: Edit::Put(json!({"n": token})) };
            Input::Desk(DeskInput::Transact { token, steps: vec![step] })
        };
        let read =
            |token: u64| Input::Desk(DeskInput::Query { token, query: Query::Get { key: key(token), wait_for: None } });
        let shown = |outputs: Vec<Output>| match &outputs[..] {
            [Output::Answer(_, Ok(Answer::Document(view)))] => view.value["n"].clone(),
            other => panic!("{other:?}"),
        };
        assert!(matches!(&ask(write(1))[..], [Output::Answer(1, Ok(_)), ..]));

        // Too little to take anything in, and enough for what was taken in before.
        disk.limit_available(Some(100 << 20));
        // What is known of the room lasts for a share of the reserve.
        let without_room = |outputs: &[Output]| matches!(outputs, [Output::Answer(_, Err(DocumentError::NoRoom(_)))]);
        let refused = (2..20_000).find(|token| without_room(&ask(write(*token))));
        let last = refused.expect("at some time there is no room") - 1;
        assert_eq!(shown(ask(read(last))), last, "reading goes on");
        let from = DeviceId([2; 32]);
        let frame = SyncEvent::Gossip { bytes: vec![0], from, id: FrameId(7) };
        let ignored = ask(Input::Core(Event::Sync(frame)));
        let verdict = SyncEffect::Verdict { id: FrameId(7), from, verdict: Verdict::Ignore };
        assert!(matches!(&ignored[..], [Output::Sync(effect)] if *effect == verdict), "{ignored:?}");

        disk.limit_available(None);
        let after = last + 1;
        assert!(matches!(&ask(write(after))[..], [Output::Answer(_, Ok(_)), ..]));
        assert_eq!(shown(ask(read(after))), after);
    }
}
