//! The desk of one space: a state machine that turns requests into transactions and operations into documents.
//!
//! It is owned by one thread, reads the local index and log, and never waits, spawns or looks at a clock. See
//! [`super::request`] for what goes in and out.
//!
//! **Tasks.** Whatever needs a document's content is a task on one or several documents. It stands in the queue of
//! each of them and runs when it is first in all; since it enters all queues at once, no two tasks can wait for each
//! other. A task takes its documents into a [`Job`], which brings them up to date and does the work. Jobs on small
//! documents run at once, those with a large one go out and delay only the documents that they hold.
//!
//! **Durability.** An edit changes the document in memory and hands a transaction to the core. What is read from then
//! on is answered only when all transactions that the document contains are durable; [`Slot::pending`] names them.
//!
//! **Lineage.** Two changes with one (actor, sequence) must never be made. The actor follows from the lineage, the
//! sequence from what the document holds; so whenever a document may not hold all changes of the present lineage
//! (after a delete, an abort, or when one was blocked), the next transaction draws a new lineage.
//!
//! [`Slot::pending`]: super::cache::Slot

mod ending;
mod load;
mod read;
mod record;
#[cfg(test)]
mod tests;
mod transact;
mod watch;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use rand_core::CryptoRng;
use syncline_model::{ContentKey, DeviceId, DocumentKey, Lineage, SpaceId};
use syncline_storage::{IndexError, SpaceIndex};

use self::ending::refuse;
use self::load::weight;
use self::read::{Gather, Held, Reader};
use self::transact::{Pending, SavedLineage};
use self::watch::Watcher;
use super::budget::CacheBudget;
use super::cache::Cache;
use super::catalog::{Catalog, CatalogEntry};
use super::edit::StringMode;
use super::error::DocumentError;
use super::job::{Job, JobDone, Outcome, Returned, Shared, Work};
use super::operations::Operations;
use super::request::{Answer, Input, Output, Query, Stats, Token};

/// Bytes of documents kept in memory, unless configured.
pub const CACHE_BYTES: usize = 64 << 20;
/// Estimated bytes in memory from which a document counts as large, unless configured: about a millisecond of work.
pub const LARGE_DOCUMENT_BYTES: usize = 256 << 10;
/// Requests that may be open at once.
const OPEN_REQUESTS_MAX: usize = 16_384;
/// Changes up to which no snapshot is looked for or written: making the document anew is as fast.
const SNAPSHOT_CHANGES_MIN: u64 = 16;
/// Times that a task is tried again because its documents had to be settled first.
const ATTEMPTS_MAX: u32 = 16;
/// The latest references among which the carriers of a page of history are looked for.
const HISTORY_REFERENCES_MAX: u64 = 4096;

/// What a desk is opened with.
#[derive(Debug, Clone)]
pub struct DeskConfig {
    /// The space.
    pub space: SpaceId,
    /// This device.
    pub device: DeviceId,
    /// How JSON strings are stored.
    pub strings: StringMode,
    /// A key that never leaves this device; seals what is kept of documents in the index.
    pub seal_key: ContentKey,
    /// Bounds the documents kept in memory, those in use aside; spaces of one node share it.
    pub cache: CacheBudget,
    /// Estimated bytes from which jobs on a document go to a worker.
    pub large_document_bytes: usize,
}

/// The documents of one space; see the module's text.
#[derive(Debug)]
pub struct Desk {
    space: SpaceId,
    device: DeviceId,
    large_document_bytes: usize,
    shared: Arc<Shared>,
    catalog: Catalog,
    cache: Cache,
    lineage: SavedLineage,
    tasks: BTreeMap<u64, Task>,
    next_task: u64,
    ready: VecDeque<u64>,
    pending: BTreeMap<u64, Pending>,
    next_order: u64,
    /// Replies that show transactions up to an order.
    held: BTreeMap<u64, Vec<Held>>,
    /// Queries that wait for a position.
    waiting: BTreeMap<u64, Vec<(Token, Query)>>,
    gathers: BTreeMap<u64, Gather>,
    watchers: BTreeMap<Token, Watcher>,
    jobs_out: usize,
    /// Tasks of [`Purpose::Settle`] that are not done.
    settling: usize,
    /// Tasks that wait for those.
    gated: Vec<u64>,
    /// Why nothing works any more.
    failed: Option<String>,
    closing: bool,
}

/// Something to be done with documents.
#[derive(Debug)]
struct Task {
    /// In order, each once.
    keys: Vec<DocumentKey>,
    purpose: Purpose,
    /// Taken by the job while it runs.
    work: Option<Work>,
    attempts: u32,
    running: bool,
    /// How many operations were visible when it last started.
    position: u64,
    /// The lineage of its changes.
    lineage: (u64, Lineage),
}

/// Who wants a task done.
#[derive(Debug)]
enum Purpose {
    Transact(Token),
    Read(Reader),
    /// Nobody: documents are looked at for what may be blocked in them.
    Touch,
    /// Nobody: a document is made again, since what is withheld has changed. It goes before all other tasks, and those
    /// on documents that it may concern wait until all of them are done.
    Settle,
}

/// What every step of a call needs.
struct Turn<'a> {
    now_ms: u64,
    random: &'a mut dyn CryptoRng,
    out: &'a mut Vec<Output>,
}

impl Turn<'_> {
    fn answer(&mut self, token: Token, result: Result<Answer, DocumentError>) {
        self.out.push(Output::Answer { token, result });
    }

    fn seed(&mut self) -> [u8; 32] {
        let mut seed = [0; 32];
        self.random.fill_bytes(&mut seed);
        seed
    }
}

impl Desk {
    /// Opens the documents of a space on their part of the index; an index without them is begun.
    ///
    /// # Errors
    /// When the index cannot be read; it then has to be made anew.
    pub fn open(
        config: DeskConfig,
        index: SpaceIndex,
        operations: Arc<dyn Operations>,
        random: &mut dyn CryptoRng,
    ) -> Result<Self, IndexError> {
        let catalog = Catalog::open(index, random)?;
        let unsettled = catalog.left_unsettled();
        let DeskConfig { space, device, strings, seal_key, cache, large_document_bytes } = config;
        let mut desk = Self {
            space,
            device,
            large_document_bytes,
            shared: Arc::new(Shared { operations, seal_key, strings }),
            catalog,
            cache: Cache::new(cache),
            lineage: SavedLineage::draw(0, random),
            tasks: BTreeMap::new(),
            next_task: 0,
            ready: VecDeque::new(),
            pending: BTreeMap::new(),
            next_order: 0,
            held: BTreeMap::new(),
            waiting: BTreeMap::new(),
            gathers: BTreeMap::new(),
            watchers: BTreeMap::new(),
            jobs_out: 0,
            settling: 0,
            gated: Vec::new(),
            failed: None,
            closing: false,
        };
        // The end may have come in the middle of settling.
        for key in unsettled {
            desk.submit_settling(key);
        }
        Ok(desk)
    }

    /// How strings are stored from now on: a device that joins learns it with the genesis, before it may write.
    pub fn set_strings(&mut self, strings: StringMode) {
        if self.shared.strings != strings {
            let Shared { operations, seal_key, .. } = &*self.shared;
            self.shared = Arc::new(Shared { operations: operations.clone(), seal_key: seal_key.clone(), strings });
        }
    }

    pub(super) fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    pub(super) fn operations(&self) -> &Arc<dyn Operations> {
        &self.shared.operations
    }

    /// How far an author's operations have been applied; what follows is to be given by [`Input::Apply`].
    pub fn applied(&self, author: &DeviceId) -> u64 {
        self.catalog.applied(author)
    }

    /// How far all logs' operations have been applied.
    pub fn applied_logs(&self) -> BTreeMap<DeviceId, u64> {
        self.catalog.applied_logs()
    }

    /// Epochs of operations that were left out for want of a key; see [`Input::LeaveOut`].
    pub fn left_out(&self) -> &BTreeSet<u32> {
        self.catalog.left_out()
    }

    /// Why the desk stopped, if it did: the index failed and has to be made anew.
    pub fn failure(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    /// Figures about the documents.
    pub fn stats(&self) -> Stats {
        let (loaded, loaded_bytes) = self.cache.size();
        Stats {
            version: self.catalog.version(self.catalog.position()),
            documents: self.catalog.documents(),
            loaded,
            loaded_bytes,
            pending_transactions: self.pending.len(),
            watchers: self.watchers.len(),
            blocked_documents: self.catalog.blocked().len(),
            jobs: self.jobs_out,
        }
    }

    /// Takes an input and appends what is to be done.
    ///
    /// The same inputs with the same random bytes give the same outputs.
    pub fn handle(&mut self, input: Input, now_ms: u64, random: &mut dyn CryptoRng, out: &mut Vec<Output>) {
        let mut turn = Turn { now_ms, random, out };
        if let Some(reason) = self.failed.clone() {
            refuse(&input, &mut turn, || DocumentError::Storage { reason: reason.clone() });
            return;
        }
        if self.closing {
            return self.handle_closing(input, &mut turn);
        }
        let handled = self.dispatch(input, &mut turn).and_then(|()| self.work_off(&mut turn));
        if let Err(error) = handled {
            self.fail(&error, &mut turn);
        }
    }

    fn dispatch(&mut self, input: Input, turn: &mut Turn<'_>) -> Result<(), IndexError> {
        match input {
            Input::Transact { token, steps } => {
                if self.has_room(token, turn) {
                    self.transact(token, steps, turn);
                }
                Ok(())
            }
            Input::Committed { token, author, sequence, past } => {
                self.committed(token, author, sequence, past.as_ref(), turn)
            }
            Input::Aborted { token, reason } => {
                self.aborted(token, reason, turn);
                Ok(())
            }
            Input::Apply(operations) => self.apply(&operations, turn),
            Input::LeaveOut(epochs) => self.catalog.leave_out(&epochs),
            Input::Rebuild => self.rebuild(turn),
            Input::Query { token, query } => {
                if self.has_room(token, turn) {
                    self.query(token, query, turn)
                } else {
                    Ok(())
                }
            }
            Input::Watch { token, prefix, since, values } => {
                self.watch(token, prefix, since, values, turn);
                Ok(())
            }
            Input::Taken { token, events } => {
                self.taken(token, events);
                Ok(())
            }
            Input::Unwatch { token } => {
                self.watchers.remove(&token);
                Ok(())
            }
            Input::Cancel { token } => {
                self.cancel(token, turn);
                Ok(())
            }
            Input::Worked(done) => {
                self.jobs_out -= 1;
                self.finish(done, turn)
            }
            Input::MakeRoom => Ok(()),
            Input::Close => self.close(turn),
        }
    }

    fn has_room(&self, token: Token, turn: &mut Turn<'_>) -> bool {
        let waiting: usize = self.waiting.values().map(Vec::len).sum();
        let open = self.tasks.len() + self.pending.len() + waiting;
        if open < OPEN_REQUESTS_MAX {
            return true;
        }
        turn.answer(token, Err(DocumentError::Overloaded { what: "open requests", limit: OPEN_REQUESTS_MAX }));
        false
    }

    /// Runs tasks and feeds watchers until nothing can go on by itself.
    fn work_off(&mut self, turn: &mut Turn<'_>) -> Result<(), IndexError> {
        loop {
            while let Some(id) = self.ready.pop_front() {
                self.start(id, turn)?;
            }
            self.advance_watchers(turn)?;
            if self.ready.is_empty() {
                break;
            }
        }
        self.make_room(turn)
    }

    /// Queues a task; it starts once it is first in the queues of all its documents.
    fn submit(&mut self, keys: Vec<DocumentKey>, purpose: Purpose, work: Work) {
        let id = self.next_task;
        self.next_task += 1;
        let mut first = true;
        for key in &keys {
            let queue = &mut self.cache.slot(key).queue;
            queue.push_back(id);
            first &= queue.len() == 1;
            self.cache.rest(key);
        }
        let lineage = (self.lineage.number, self.lineage.current);
        let task = Task { keys, purpose, work: Some(work), attempts: 0, running: false, position: 0, lineage };
        self.tasks.insert(id, task);
        if first {
            self.ready.push_back(id);
        }
    }

    /// Queues a task of [`Purpose::Settle`], before what waits already.
    fn submit_settling(&mut self, key: DocumentKey) {
        let id = self.next_task;
        self.next_task += 1;
        self.settling += 1;
        let running = self.cache.slot(&key).queue.front().copied();
        let running = running.filter(|front| self.tasks.get(front).is_none_or(|task| task.running));
        self.cache.slot(&key).queue.insert(usize::from(running.is_some()), id);
        self.cache.rest(&key);
        let lineage = (self.lineage.number, self.lineage.current);
        let (keys, work) = (vec![key], Some(Work::Touch));
        let task = Task { keys, purpose: Purpose::Settle, work, attempts: 0, running: false, position: 0, lineage };
        self.tasks.insert(id, task);
        if running.is_none() {
            self.ready.push_back(id);
        }
    }

    /// Lets the tasks of [`Purpose::Settle`] that came up meanwhile go before a task that is to be tried again.
    fn let_pass(&mut self, id: u64, keys: &[DocumentKey]) {
        for key in keys {
            let Some(slot) = self.cache.get_mut(key) else { continue };
            let tasks = &self.tasks;
            let settles = |queued: &&u64| tasks.get(queued).is_some_and(|task| matches!(task.purpose, Purpose::Settle));
            let ahead = slot.queue.iter().skip(1).take_while(settles).count();
            if ahead > 0 && slot.queue.front() == Some(&id) {
                slot.queue.pop_front();
                slot.queue.insert(ahead, id);
                self.ready.extend(slot.queue.front());
            }
        }
    }

    /// Makes a job of a task and runs it, or hands it out.
    fn start(&mut self, id: u64, turn: &mut Turn<'_>) -> Result<(), IndexError> {
        if !self.is_first_everywhere(id) {
            // A document has to be settled first.
            return Ok(());
        }
        let Some(mut task) = self.tasks.remove(&id) else { return Ok(()) };
        let entries = task.keys.iter().map(|key| self.catalog.entry(key)).collect::<Result<Vec<_>, _>>()?;
        let entries: Vec<CatalogEntry> = entries.into_iter().map(Option::unwrap_or_default).collect();
        let is_concerned = entries.iter().any(|entry| entry.entangled);
        if self.settling > 0 && is_concerned && !matches!(task.purpose, Purpose::Settle | Purpose::Touch) {
            self.tasks.insert(id, task);
            self.gated.push(id);
            return Ok(());
        }
        for (key, entry) in task.keys.iter().zip(&entries) {
            self.drop_stale(key, entry);
        }
        let may_start = match &task.purpose {
            Purpose::Transact(_) => self.prepare_transaction(&mut task, &entries, turn),
            Purpose::Read(_) => self.prepare_read(&mut task, &entries[0], turn)?,
            Purpose::Touch | Purpose::Settle => self.prepare_look(&task),
        };
        let work = task.work.take().filter(|_| may_start);
        let Some(work) = work else {
            self.leave(id, &task.keys);
            return Ok(());
        };
        let mut documents = Vec::with_capacity(task.keys.len());
        let mut large = edited_bytes(&work) >= self.large_document_bytes;
        for (key, entry) in task.keys.iter().zip(entries) {
            let assignment = self.assign(key, entry, turn)?;
            large |= weight(&assignment.recipe) >= self.large_document_bytes;
            documents.push(assignment);
        }
        task.position = self.catalog.position();
        task.running = true;
        self.tasks.insert(id, task);
        let job = Job { id, shared: Arc::clone(&self.shared), documents, work };
        if large {
            self.jobs_out += 1;
            turn.out.push(Output::Work(job));
            return Ok(());
        }
        self.finish(job.run(), turn)
    }

    /// Puts off looking at a document that a delete on its way to the core has emptied here; false: it was put off.
    fn prepare_look(&mut self, task: &Task) -> bool {
        let reset = |key| self.cache.get(key)?.reset.map(|reset| reset.order);
        let Some(order) = task.keys.iter().filter_map(reset).max() else { return true };
        let settles = matches!(task.purpose, Purpose::Settle);
        if settles {
            self.settled_one();
        }
        self.held.entry(order).or_default().push(Held::Look { keys: task.keys.clone(), settles });
        false
    }

    /// Takes note that a task of [`Purpose::Settle`] is over.
    fn settled_one(&mut self) {
        self.settling -= 1;
        if self.settling == 0 {
            self.ready.extend(std::mem::take(&mut self.gated));
        }
    }

    /// Looks at documents once more.
    fn look(&mut self, keys: Vec<DocumentKey>, settles: bool) {
        if settles {
            for key in keys {
                self.submit_settling(key);
            }
        } else {
            self.submit(keys, Purpose::Touch, Work::Touch);
        }
    }

    /// Takes back the documents of a job and does what follows from it.
    fn finish(&mut self, done: JobDone, turn: &mut Turn<'_>) -> Result<(), IndexError> {
        let JobDone { id, documents, outcome, work } = done;
        let settles = self.tasks.get(&id).is_some_and(|task| matches!(task.purpose, Purpose::Settle));
        let mut damage = None;
        for Returned { key, assembled, snapshot } in documents {
            if let Some(value) = snapshot {
                self.store_snapshot(&key, Some(value))?;
            }
            if let Some(reason) = self.take_back(&key, assembled, settles)? {
                damage.get_or_insert(DocumentError::Damaged { key, reason });
            }
        }
        let Some(mut task) = self.tasks.remove(&id) else { return Ok(()) };
        task.running = false;
        task.attempts += 1;
        if damage.is_none() && outcome.is_none() {
            if task.attempts < ATTEMPTS_MAX {
                task.work = Some(work);
                let keys = task.keys.clone();
                self.tasks.insert(id, task);
                self.ready.push_front(id);
                self.let_pass(id, &keys);
                return Ok(());
            }
            let reason = "what is blocked in it keeps changing".to_owned();
            damage = Some(DocumentError::Damaged { key: task.keys[0].clone(), reason });
        }
        let keys = std::mem::take(&mut task.keys);
        if matches!(task.purpose, Purpose::Settle | Purpose::Touch) {
            self.catalog.settled(&keys)?;
        }
        if settles {
            self.settled_one();
        }
        match (task.purpose, damage, outcome) {
            (Purpose::Transact(token), Some(error), _) => turn.answer(token, Err(error)),
            (Purpose::Transact(token), None, Some(Outcome::Edited(result))) => match result {
                Ok(edited) => self.edited(token, &keys, work, edited, task.lineage, task.position, turn),
                Err(error) => turn.answer(token, Err(error)),
            },
            (Purpose::Read(reader), Some(error), _) => self.deliver(reader, &keys[0], Err(error), task.position, turn),
            (Purpose::Read(reader), None, Some(Outcome::Read(result))) => {
                if let Work::Read(kind) = work {
                    self.hold_or_deliver(reader, &keys[0], kind, result, task.position, turn);
                }
            }
            _ => {}
        }
        self.leave(id, &keys);
        Ok(())
    }

    /// Removes a task from its queues and readies those that come first now.
    fn leave(&mut self, id: u64, keys: &[DocumentKey]) {
        for key in keys {
            if let Some(slot) = self.cache.get_mut(key) {
                slot.queue.retain(|queued| *queued != id);
            }
            let next = self.cache.get(key).and_then(|slot| slot.queue.front().copied());
            if let Some(next) = next
                && self.is_first_everywhere(next)
                && !self.ready.contains(&next)
            {
                self.ready.push_back(next);
            }
            self.cache.rest(key);
        }
    }

    fn is_first_everywhere(&self, id: u64) -> bool {
        let Some(task) = self.tasks.get(&id).filter(|task| !task.running) else { return false };
        let is_first = |key| self.cache.get(key).is_some_and(|slot| slot.queue.front() == Some(&id));
        task.keys.iter().all(is_first)
    }
}

/// About how many bytes a transaction writes.
fn edited_bytes(work: &Work) -> usize {
    match work {
        Work::Edit { plans, .. } => plans.iter().map(transact::plan_bytes).sum(),
        Work::Touch | Work::Read(_) => 0,
    }
}
