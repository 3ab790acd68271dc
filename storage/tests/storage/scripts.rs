//! Scripts of operations on a store, and what may and must be there after each call of them.

use std::sync::{Arc, Mutex, PoisonError};

use syncline_model::{OperationId, VerifiedRun};
use syncline_storage::disk::{DiskOperation, Fault, FaultKind, RecordingDisk};
use syncline_storage::{
    AppendLimits, Batch, Disk, FileScope, Incarnation, Index, IndexError, MemoryDisk, MemoryIndex, OpenOptions,
    SpaceLog, StorageError, Store, Tail,
};

use super::workload::{Author, SPACE, shown};

/// One thing that a script does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Appends a short run of the first author.
    Append,
    /// Appends runs of several authors in one write.
    AppendSeveral,
    /// Appends a run that fills a segment, so that the next append begins another.
    AppendLong,
    /// Syncs what was appended, and acknowledges it.
    Sync,
    /// Replaces the space's keys.
    WriteKeys,
    /// Ends cleanly and starts again.
    Restart,
    /// Ends without a word, the page cache survives, and starts again.
    Die,
    /// As [`Step::Die`], and the index is gone.
    DieWithoutIndex,
    /// Appends several runs with a write that fails half way, then another one in their place.
    AppendFailing,
    /// Appends a short run with a write for which there is room only once the reserve is given up.
    AppendFull,
    /// Drops what the second author wrote after its first operation.
    DropTail,
    /// Removes the space and creates it anew.
    Replace,
}

impl Step {
    pub(crate) const ALL: [Self; 10] = [
        Self::Append,
        Self::AppendSeveral,
        Self::AppendLong,
        Self::Sync,
        Self::WriteKeys,
        Self::Restart,
        Self::Die,
        Self::DieWithoutIndex,
        Self::AppendFailing,
        Self::Replace,
    ];
}

/// What may and must be there after a crash.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Promise {
    /// The space may be there.
    pub(crate) space_allowed: bool,
    /// The space must be there.
    pub(crate) space_required: bool,
    /// Every run handed in, in order.
    pub(crate) handed_in: Vec<OperationId>,
    /// So many of these were acknowledged.
    pub(crate) acknowledged: usize,
    /// Those that are being dropped: each may be there or not.
    pub(crate) dropping: Vec<OperationId>,
    /// What the keys may be.
    pub(crate) keys: Vec<Vec<u8>>,
}

/// An index that keeps every state it had, and when it was in it.
#[derive(Debug, Clone)]
pub(crate) struct RememberingIndex {
    pub(crate) index: MemoryIndex,
    disk: RecordingDisk,
    states: Arc<Mutex<Vec<(usize, MemoryIndex)>>>,
}

impl RememberingIndex {
    fn new(disk: RecordingDisk) -> Self {
        Self { index: MemoryIndex::new(), disk, states: Arc::default() }
    }

    /// The states that the index was in by the time of so many changes, in order.
    pub(crate) fn states_by(&self, changes: usize) -> Vec<MemoryIndex> {
        let states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        states.iter().take_while(|(at, _)| *at <= changes).map(|(_, state)| state.clone()).collect()
    }
}

/// A copy that shares nothing.
pub(crate) fn copy_of(index: &MemoryIndex) -> MemoryIndex {
    let (copy, mut batch) = (MemoryIndex::new(), Batch::default());
    index
        .scan(&[], &[0xff; 8], &mut |key, value| {
            batch.put(key.to_vec(), value.to_vec());
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    copy.apply(batch).unwrap();
    copy.flush().unwrap();
    copy
}

impl Index for RememberingIndex {
    fn value(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        self.index.value(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: syncline_storage::index::Visit<'_>) -> Result<(), IndexError> {
        self.index.scan(from, to, visit)
    }

    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<(Vec<u8>, Vec<u8>)>, IndexError> {
        self.index.last(from, to)
    }

    fn apply(&self, batch: Batch) -> Result<(), IndexError> {
        self.index.apply(batch)?;
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        states.push((self.disk.changes(), copy_of(&self.index)));
        Ok(())
    }

    fn flush(&self) -> Result<(), IndexError> {
        self.index.flush()
    }

    fn size_bytes(&self) -> Result<u64, IndexError> {
        self.index.size_bytes()
    }
}

/// How large things are in a script.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) segment_bytes: u32,
    pub(crate) short_bytes: usize,
    pub(crate) long_bytes: usize,
    pub(crate) reserve_bytes: u64,
}

/// Runs that go over a sector or two.
pub(crate) const SMALL: Sizes = Sizes { segment_bytes: 1300, short_bytes: 150, long_bytes: 700, reserve_bytes: 0 };
/// As [`SMALL`], with a reserve for when the disk is full.
pub(crate) const RESERVED: Sizes = Sizes { reserve_bytes: 4096, ..SMALL };
/// Runs that go over a page or two.
pub(crate) const LARGE: Sizes = Sizes { segment_bytes: 20_000, short_bytes: 1500, long_bytes: 9000, reserve_bytes: 0 };

/// A script as it is carried out on a disk that records it.
pub(crate) struct Running {
    memory: MemoryDisk,
    pub(crate) disk: RecordingDisk,
    pub(crate) index: RememberingIndex,
    sizes: Sizes,
    open: Option<(Store, SpaceLog)>,
    authors: Vec<Author>,
    promise: Promise,
    /// The promises, each with how many changes were made when it was given.
    promises: Vec<(usize, Promise)>,
    incarnation: u8,
    keys: u8,
}

impl Running {
    /// Creates the store and the space.
    pub(crate) fn begin(sizes: Sizes) -> Self {
        let memory = MemoryDisk::new();
        let disk = RecordingDisk::new(Arc::new(memory.clone())).unwrap();
        let index = RememberingIndex::new(disk.clone());
        let mut running = Self {
            memory,
            disk,
            index,
            sizes,
            open: None,
            authors: Vec::new(),
            promise: Promise::default(),
            promises: vec![(0, Promise::default())],
            incarnation: 0,
            keys: 0,
        };
        let store = running.start();
        running.create(store);
        running
    }

    /// What was promised by the time of so many changes.
    pub(crate) fn promise_at(&self, changes: usize) -> &Promise {
        &self.promises.iter().rev().find(|(at, _)| *at <= changes).expect("the first stands at the start").1
    }

    fn promise(&mut self, change: impl FnOnce(&mut Promise)) {
        change(&mut self.promise);
        self.promises.push((self.disk.changes(), self.promise.clone()));
    }

    fn start(&self) -> Store {
        start(Arc::new(self.disk.clone()), Arc::new(self.index.clone()), self.sizes).unwrap()
    }

    fn create(&mut self, store: Store) {
        self.incarnation += 1;
        self.keys += 1;
        let keys = vec![self.keys; 40];
        self.authors = (1..4).map(Author::new).collect();
        let allowed = keys.clone();
        self.promise(|promise| {
            *promise = Promise { space_allowed: true, keys: vec![allowed], ..Promise::default() };
        });
        store.create_space(SPACE, Incarnation([self.incarnation; 16]), &[("keys", &keys)]).unwrap();
        self.promise(|promise| promise.space_required = true);
        let log = store.open_space(SPACE, &mut |_| {}).unwrap();
        self.open = Some((store, log));
    }

    /// What the log shows must stay from now on.
    fn reopen(&mut self) {
        let store = self.start();
        let log = store.open_space(SPACE, &mut |_| {}).unwrap();
        let ids: Vec<OperationId> = shown(&log).iter().map(|(_, summary)| summary.last_id()).collect();
        assert_eq!(ids, self.promise.handed_in, "the page cache survives, so does all that was handed in");
        self.promise(|promise| promise.acknowledged = promise.handed_in.len());
        self.open = Some((store, log));
    }

    fn append(&mut self, runs: &[VerifiedRun]) -> Result<(), StorageError> {
        self.promise(|promise| promise.handed_in.extend(runs.iter().map(|run| run.last_id())));
        let (_, log) = self.open.as_mut().unwrap();
        log.append(runs).map(drop)
    }

    /// Carries out one step.
    pub(crate) fn step(&mut self, step: Step) {
        let Sizes { short_bytes, long_bytes, .. } = self.sizes;
        match step {
            Step::Append => {
                let run = self.authors[0].write(short_bytes);
                self.append(&[run]).unwrap();
            }
            Step::AppendSeveral => {
                let runs: Vec<VerifiedRun> = self.authors.iter_mut().map(|author| author.write(short_bytes)).collect();
                self.append(&runs).unwrap();
            }
            Step::AppendLong => {
                let run = self.authors[1].write(long_bytes);
                self.append(&[run]).unwrap();
            }
            Step::Sync => {
                self.open.as_mut().unwrap().1.sync().unwrap();
                self.promise(|promise| promise.acknowledged = promise.handed_in.len());
            }
            Step::WriteKeys => self.write_keys(),
            Step::Restart => {
                let (store, log) = self.open.take().unwrap();
                log.close().unwrap();
                drop(store);
                self.promise(|promise| promise.acknowledged = promise.handed_in.len());
                self.reopen();
            }
            Step::Die | Step::DieWithoutIndex => {
                self.open = None;
                if step == Step::DieWithoutIndex {
                    self.index.index.erase();
                }
                self.reopen();
            }
            Step::AppendFull => {
                self.memory.inject(Fault { operation: DiskOperation::Write, skip: 0, kind: FaultKind::Full });
                let run = self.authors[0].write(short_bytes);
                self.append(&[run]).unwrap();
            }
            Step::AppendFailing => self.append_failing(short_bytes / 8),
            Step::DropTail => self.drop_tail(),
            Step::Replace => {
                let (store, log) = self.open.take().unwrap();
                drop(log);
                self.promise(|promise| promise.space_required = false);
                store.remove_space(SPACE).unwrap();
                self.promise(|promise| *promise = Promise::default());
                self.create(store);
            }
        }
    }

    /// Half of several runs is written, then another run of the same length goes where the first of them stood.
    fn append_failing(&mut self, bytes: usize) {
        let heads: Vec<_> = self.authors.iter().map(Author::head).collect();
        let mut runs: Vec<VerifiedRun> = self.authors.iter_mut().map(|author| author.write(bytes)).collect();
        runs.push(self.authors[0].write(bytes));
        self.memory.inject(Fault { operation: DiskOperation::Write, skip: 0, kind: FaultKind::HalfWritten });
        self.append(&runs).unwrap_err();
        self.promise(|promise| promise.handed_in.truncate(promise.handed_in.len() - runs.len()));
        self.authors.iter_mut().zip(heads).for_each(|(author, head)| author.go_back_to(head));
        let run = self.authors[1].write_filled(bytes, 0xee);
        self.append(&[run]).unwrap();
    }

    /// What the second author wrote after its first operation counts for nobody.
    fn drop_tail(&mut self) {
        self.step(Step::Sync);
        let author = self.authors[1].id();
        let (_, log) = self.open.as_mut().unwrap();
        let runs = shown(log).into_iter().map(|(_, summary)| summary).filter(|summary| summary.author == author);
        let (kept, dropped): (Vec<_>, Vec<_>) = runs.partition(|summary| summary.first == 1);
        let ids: Vec<OperationId> = dropped.iter().map(|summary| summary.last_id()).collect();
        self.promise(|promise| promise.dropping.clone_from(&ids));
        let (_, log) = self.open.as_mut().unwrap();
        log.drop_tails(&[Tail { log: author, after: 1 }]).unwrap();
        assert_eq!(log.reader().tail_bytes(Tail { log: author, after: 1 }).unwrap(), 0);
        self.promise(|promise| {
            promise.dropping.clear();
            promise.handed_in.retain(|id| !ids.contains(id));
            promise.acknowledged = promise.handed_in.len();
        });
        self.authors[1].go_back_to(kept.first().map_or((0, OperationId::ZERO), |run| (run.last(), run.last_id())));
    }

    fn write_keys(&mut self) {
        self.keys += 1;
        let keys = vec![self.keys; 600];
        let written = keys.clone();
        self.promise(|promise| promise.keys.push(keys));
        let (store, _) = self.open.as_ref().unwrap();
        store.files().write_secret(FileScope::Space(SPACE), "keys", &written).unwrap();
        self.promise(|promise| promise.keys = vec![written]);
    }
}

/// A store with small segments.
pub(crate) fn start(disk: Arc<dyn Disk>, index: Arc<dyn Index>, sizes: Sizes) -> Result<Store, StorageError> {
    let limits = AppendLimits { segment_bytes: sizes.segment_bytes, margin_bytes: 2000 };
    Store::assemble(
        disk,
        index,
        OpenOptions { create: true, limits, reserve_bytes: Some(sizes.reserve_bytes), ..OpenOptions::default() },
    )
}
