//! Failing calls, one by one: at every call of a workload in turn the disk fails in every way it can.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use syncline_model::{DeviceId, OperationId, VerifiedRun};
use syncline_storage::disk::{Access, DiskOperation, Fault, FaultKind};
use syncline_storage::{
    Batch, Disk, DiskFile, FileScope, Index, IndexError, MemoryDisk, MemoryIndex, SpaceLog, StorageError, Store, Tail,
};

use super::scripts::{RESERVED, SMALL, Sizes, start};
use super::workload::{Author, INCARNATION, SPACE, shown};

/// How the chosen call fails, and whether those after it do as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Failure {
    kind: FaultKind,
    lasting: bool,
}

/// When a disk fails, and how often it was called.
#[derive(Debug, Default)]
struct Schedule {
    calls: u64,
    fail_at: Option<(u64, Failure)>,
    fired: u64,
    /// What the last call that failed was to do.
    fired_at: Option<DiskOperation>,
}

impl Schedule {
    /// Whether the call that fails was made.
    fn has_come(&self) -> bool {
        self.fail_at.is_some_and(|(at, _)| self.calls >= at)
    }
}

/// A disk in memory of which any call fails, reads included.
#[derive(Debug, Clone)]
struct FailingDisk {
    disk: MemoryDisk,
    schedule: Arc<Mutex<Schedule>>,
}

impl FailingDisk {
    fn new(disk: MemoryDisk) -> Self {
        Self { disk, schedule: Arc::default() }
    }

    fn schedule(&self) -> std::sync::MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The call numbered `at` from now on fails.
    fn fail_at(&self, at: u64, failure: Failure) {
        let mut schedule = self.schedule();
        schedule.fail_at = Some((schedule.calls + at, failure));
    }

    fn heal(&self) {
        self.schedule().fail_at = None;
    }

    /// Makes the disk below fail this call, if its turn has come.
    fn call(&self, operation: Option<DiskOperation>) -> io::Result<()> {
        let mut schedule = self.schedule();
        schedule.calls += 1;
        let calls = schedule.calls;
        let due = schedule.fail_at.filter(|(at, failure)| calls == *at || failure.lasting && calls > *at);
        let Some((_, Failure { kind, .. })) = due else { return Ok(()) };
        // A full disk still takes a name away, a shorter length, and reads.
        let spared = matches!(
            operation,
            None | Some(DiskOperation::Read | DiskOperation::Remove | DiskOperation::SetLength | DiskOperation::Rename)
        );
        if kind == FaultKind::Full && spared {
            return Ok(());
        }
        schedule.fired += 1;
        schedule.fired_at = operation;
        match operation {
            Some(operation) => self.disk.inject(Fault { operation, skip: 0, kind }),
            None => return Err(io::Error::other("simulated disk failure")),
        }
        Ok(())
    }
}

#[derive(Debug)]
struct FailingFile {
    disk: FailingDisk,
    file: Arc<dyn DiskFile>,
}

impl Disk for FailingDisk {
    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.call(Some(DiskOperation::Read))?;
        Ok(Arc::new(FailingFile { disk: self.clone(), file: self.disk.open(path)? }))
    }

    fn create(&self, path: &str, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        self.call(Some(DiskOperation::Create))?;
        Ok(Arc::new(FailingFile { disk: self.clone(), file: self.disk.create(path, access)? }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.call(Some(DiskOperation::Rename))?;
        self.disk.rename(from, to)
    }

    fn remove_file(&self, path: &str) -> io::Result<()> {
        self.call(Some(DiskOperation::Remove))?;
        self.disk.remove_file(path)
    }

    fn remove_directory(&self, path: &str) -> io::Result<()> {
        self.call(Some(DiskOperation::Remove))?;
        self.disk.remove_directory(path)
    }

    fn create_directory(&self, path: &str) -> io::Result<()> {
        self.call(Some(DiskOperation::CreateDirectory))?;
        self.disk.create_directory(path)
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        self.call(Some(DiskOperation::Read))?;
        self.disk.list(path)
    }

    fn sync_directory(&self, path: &str) -> io::Result<()> {
        self.call(Some(DiskOperation::SyncDirectory))?;
        self.disk.sync_directory(path)
    }

    fn available_bytes(&self) -> io::Result<u64> {
        self.call(None)?;
        self.disk.available_bytes()
    }
}

impl DiskFile for FailingFile {
    fn length(&self) -> io::Result<u64> {
        self.disk.call(None)?;
        self.file.length()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.disk.call(Some(DiskOperation::Read))?;
        self.file.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.disk.call(Some(DiskOperation::Write))?;
        self.file.write_at(offset, bytes)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.disk.call(Some(DiskOperation::SetLength))?;
        self.file.set_length(length)
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        self.disk.call(Some(DiskOperation::Write))?;
        self.file.allocate(length)
    }

    fn allocated_bytes(&self) -> io::Result<u64> {
        self.disk.call(Some(DiskOperation::Read))?;
        self.file.allocated_bytes()
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.call(Some(DiskOperation::Sync))?;
        self.file.sync()
    }
}

/// An index of which any call fails.
#[derive(Debug, Clone)]
struct FailingIndex {
    index: MemoryIndex,
    /// Calls until the one that fails.
    left: Arc<Mutex<Option<u64>>>,
}

impl FailingIndex {
    fn call(&self) -> Result<(), IndexError> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        match left.as_mut() {
            Some(0) => {
                *left = None;
                Err(IndexError::Failed("simulated failure of the index".into()))
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn is_due(&self) -> bool {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

impl Index for FailingIndex {
    fn value(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        self.call()?;
        self.index.value(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: syncline_storage::index::Visit<'_>) -> Result<(), IndexError> {
        self.call()?;
        self.index.scan(from, to, visit)
    }

    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<(Vec<u8>, Vec<u8>)>, IndexError> {
        self.call()?;
        self.index.last(from, to)
    }

    fn apply(&self, batch: Batch) -> Result<(), IndexError> {
        self.call()?;
        self.index.apply(batch)
    }

    fn flush(&self) -> Result<(), IndexError> {
        self.call()?;
        self.index.flush()
    }

    fn size_bytes(&self) -> Result<u64, IndexError> {
        self.index.size_bytes()
    }
}

/// When a workload ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum End {
    /// After all of it.
    #[default]
    Whole,
    /// After the first thing that was acknowledged.
    First,
    /// Once something failed and what took its place is acknowledged.
    Failure,
}

/// What a workload was told.
#[derive(Debug, Default)]
struct Told {
    created: bool,
    /// Runs that were taken, in order.
    handed_in: Vec<OperationId>,
    /// Runs of the last append that was refused.
    refused: Vec<OperationId>,
    acknowledged: usize,
    /// What the keys may be, the last written for sure at the end.
    keys: Vec<Vec<u8>>,
    /// The log said that it takes no more.
    poisoned: bool,
    failures: usize,
    /// When the process ends.
    end: End,
}

const FIRST_KEYS: &[u8] = b"secret";

/// Writes as a space does: what is refused is tried once more, until the log says that it has stopped.
fn write(store: &Store, told: &mut Told, authors: &mut [Author]) -> Result<(), StorageError> {
    let mut log = store.open_space(SPACE, &mut |_| {})?;
    let first = ids(&log)?;
    assert!(first.len() >= told.acknowledged && told.handed_in.starts_with(&first));
    // Its authors go on from what they handed in, so all of it has to be there.
    assert_eq!(first.len(), told.handed_in.len());
    for (round, payload) in [150, 400, 900, 60].into_iter().enumerate() {
        append(&mut log, authors, 1 + round % authors.len(), payload, told)?;
        sync(&mut log, told)?;
        if told.end == End::First || told.end == End::Failure && told.failures > 0 {
            return Ok(());
        }
    }
    let keys = vec![7; 300];
    told.keys.push(keys.clone());
    let written = store.files().write_secret(FileScope::Space(SPACE), "keys", &keys);
    match written {
        Ok(()) => told.keys = vec![keys],
        Err(_) => told.failures += 1,
    }
    told.failures += usize::from(log.close().is_err());
    Ok(())
}

/// What a log shows, as long as reading it does not fail; nothing is ever taken for damaged.
fn ids(log: &SpaceLog) -> Result<Vec<OperationId>, StorageError> {
    let mut found = Vec::new();
    log.replay(None, &mut |position, summary| found.push((position, summary.last_id())))?;
    let reader = log.reader();
    for (position, id) in &found {
        match reader.run_by_position(*position) {
            Ok(run) => assert_eq!(run.map(|run| run.last_id()), Some(*id)),
            Err(StorageError::Damaged { .. }) => panic!("a failed read is no damage"),
            Err(error) => return Err(error),
        }
    }
    Ok(found.into_iter().map(|(_, id)| id).collect())
}

/// Appends runs of the first `count` authors; when that is refused, shorter ones in their place.
fn append(
    log: &mut SpaceLog,
    authors: &mut [Author],
    count: usize,
    payload: usize,
    told: &mut Told,
) -> Result<(), StorageError> {
    let heads: Vec<_> = authors.iter().map(Author::head).collect();
    for (payload, fill) in [(payload, 1), (payload / 3, 2)] {
        let runs: Vec<VerifiedRun> =
            authors[..count].iter_mut().map(|author| author.write_filled(payload, fill)).collect();
        let ids = runs.iter().map(|run| run.last_id());
        let Err(error) = log.append(&runs) else {
            // What was refused before is never shown.
            told.refused.clear();
            told.handed_in.extend(ids);
            return Ok(());
        };
        told.failures += 1;
        if matches!(error, StorageError::Poisoned { .. }) {
            // What stopped the log may be there.
            told.poisoned = true;
            return Err(error);
        }
        told.refused = ids.collect();
        authors.iter_mut().zip(&heads).for_each(|(author, head)| author.go_back_to(*head));
        if fill == 2 {
            return Err(error);
        }
    }
    Ok(())
}

fn sync(log: &mut SpaceLog, told: &mut Told) -> Result<(), StorageError> {
    match log.sync() {
        Ok(()) => {
            told.acknowledged = told.handed_in.len();
            Ok(())
        }
        Err(error) => {
            told.failures += 1;
            // Whatever it was, nothing is taken or acknowledged any more.
            assert!(matches!(log.sync(), Err(StorageError::Poisoned { .. })));
            assert!(matches!(log.append(&[]), Err(StorageError::Poisoned { .. })));
            told.poisoned = true;
            Err(error)
        }
    }
}

/// Everything from an empty disk on.
fn work(
    disk: &FailingDisk,
    index: &Arc<dyn Index>,
    sizes: Sizes,
    told: &mut Told,
    authors: &mut [Author],
) -> Result<(), StorageError> {
    let store = start(Arc::new(disk.clone()), index.clone(), sizes)?;
    if store.spaces()?.is_empty() {
        store.create_space(SPACE, INCARNATION, &[("keys", FIRST_KEYS)])?;
    }
    told.created = true;
    write(&store, told, authors)
}

fn authors() -> Vec<Author> {
    (1..4).map(Author::new).collect()
}

/// A log that ended uncleanly, its last runs not synced.
fn unclean(told: &mut Told, authors: &mut [Author]) -> (MemoryDisk, MemoryIndex) {
    let (memory, index) = (MemoryDisk::new(), MemoryIndex::new());
    let store = start(Arc::new(memory.clone()), Arc::new(index.clone()), SMALL).unwrap();
    store.create_space(SPACE, INCARNATION, &[("keys", FIRST_KEYS)]).unwrap();
    let mut log = store.open_space(SPACE, &mut |_| {}).unwrap();
    for payload in [300, 300, 700] {
        append(&mut log, authors, authors.len(), payload, told).unwrap();
        sync(&mut log, told).unwrap();
    }
    append(&mut log, authors, 1, 200, told).unwrap();
    (memory, index)
}

/// Starts again on a healthy disk and compares with what was told; returns what is shown.
fn check(disk: &MemoryDisk, index: &MemoryIndex, told: &Told, context: &str) -> Vec<OperationId> {
    let store = start(Arc::new(disk.clone()), Arc::new(index.clone()), SMALL);
    let store = store.unwrap_or_else(|error| panic!("{context}: {error}"));
    if store.spaces().unwrap().is_empty() {
        assert!(!told.created, "{context}: the space is lost");
        return Vec::new();
    }
    let keys = store.files().read(FileScope::Space(SPACE), "keys").unwrap().unwrap();
    assert!(told.keys.contains(&keys), "{context}: {keys:?}");
    let log = store.open_space(SPACE, &mut |_| {}).unwrap_or_else(|error| panic!("{context}: {error}"));
    let ids: Vec<OperationId> = shown(&log).iter().map(|(_, summary)| summary.last_id()).collect();
    let possible: Vec<OperationId> = told.handed_in.iter().chain(&told.refused).copied().collect();
    assert!(possible.starts_with(&ids), "{context}: shown twice, in another order, or refused and yet there");
    assert!(ids.len() >= told.acknowledged, "{context}: {} acknowledged, {} shown", told.acknowledged, ids.len());
    let report = log.reader().verify(&mut |_| {}).unwrap();
    assert!(report.is_sound() && report.unchained.count == 0, "{context}: {report:?}");
    assert_eq!(log.stats().unwrap().quarantined, 0, "{context}");
    ids
}

const FAILURES: [Failure; 6] = [
    Failure { kind: FaultKind::Error, lasting: false },
    Failure { kind: FaultKind::Error, lasting: true },
    Failure { kind: FaultKind::Full, lasting: false },
    Failure { kind: FaultKind::Full, lasting: true },
    Failure { kind: FaultKind::HalfWritten, lasting: false },
    Failure { kind: FaultKind::HalfWritten, lasting: true },
];

/// What a sweep begins with each time.
type Begin<'a> = &'a dyn Fn(&mut Told, &mut [Author]) -> (MemoryDisk, MemoryIndex);

/// Does the work once for every call that it makes and every failure; returns how many failed.
fn sweep(begin: Begin<'_>, with_index: bool, sizes: Sizes) -> u64 {
    let mut fired = 0;
    let ends = [End::Whole, End::First, End::Failure];
    let variants = ends.map(|end| [(end, false), (end, true)]).concat();
    for (failure, (end, power_first)) in
        FAILURES.iter().flat_map(|failure| variants.iter().map(|variant| (*failure, *variant)))
    {
        for at in 1.. {
            let (mut told, mut authors) = (Told { keys: vec![FIRST_KEYS.to_vec()], ..Told::default() }, authors());
            let (memory, index) = begin(&mut told, &mut authors);
            (told.failures, told.end) = (0, end);
            if !with_index {
                index.erase();
            }
            let disk = FailingDisk::new(memory.clone());
            disk.fail_at(at, failure);
            let done = work(&disk, &(Arc::new(index.clone()) as Arc<dyn Index>), sizes, &mut told, &mut authors);
            let reached = disk.schedule().has_come();
            disk.heal();
            let context = format!("{failure:?} at call {at}: {done:?}");
            fired += u64::from(disk.schedule().fired > 0);
            if power_first {
                memory.lose_power(&mut |_| 0);
                index.lose_power(&mut |_| 0);
                check(&memory, &index, &told, &format!("{context}, the power went at once"));
            } else {
                // The process starts again, what the system has in its cache is still there.
                memory.restart();
                let ids = check(&memory, &index, &told, &context);
                // What was shown once stays, the power lost or not.
                told.handed_in.extend(std::mem::take(&mut told.refused));
                told.handed_in.truncate(ids.len());
                told.acknowledged = ids.len();
                memory.lose_power(&mut |_| 0);
                index.lose_power(&mut |_| 0);
                check(&memory, &index, &told, &format!("{context}, then the power went"));
            }
            if !reached {
                assert!(at > 15, "the workload makes calls: {at}");
                break;
            }
        }
    }
    fired
}

#[test]
fn a_failure_at_any_call_of_a_first_start_loses_nothing_acknowledged() {
    for sizes in [SMALL, RESERVED] {
        let fired = sweep(&|_, _| (MemoryDisk::new(), MemoryIndex::new()), true, sizes);
        assert!(fired > 300, "{fired}");
    }
}

#[test]
fn no_room_once_at_any_call_ends_nothing_while_there_is_a_reserve() {
    let (mut fired, mut syncs) = (0, 0);
    for at in 1.. {
        let (mut told, mut authors) = (Told { keys: vec![FIRST_KEYS.to_vec()], ..Told::default() }, authors());
        let memory = MemoryDisk::new();
        let index = MemoryIndex::new();
        // The reserve has to be there first.
        drop(start(Arc::new(memory.clone()), Arc::new(index.clone()), RESERVED).unwrap());
        let disk = FailingDisk::new(memory.clone());
        disk.fail_at(at, Failure { kind: FaultKind::Full, lasting: false });
        let done = work(&disk, &(Arc::new(index.clone()) as Arc<dyn Index>), RESERVED, &mut told, &mut authors);
        let reached = disk.schedule().has_come();
        let failed = disk.schedule().fired_at;
        disk.heal();
        let context = format!("call {at}, {failed:?}: {done:?}");
        if matches!(failed, Some(DiskOperation::Sync | DiskOperation::SyncDirectory)) {
            // Nobody knows what the disk holds after that, so it is as with any other failure.
            syncs += 1;
        } else {
            assert!(done.is_ok() && told.failures == 0, "{context}");
            assert_eq!(told.acknowledged, told.handed_in.len(), "{context}");
            fired += u64::from(failed.is_some());
        }
        memory.restart();
        check(&memory, &index, &told, &context);
        if !reached {
            break;
        }
    }
    assert!(fired > 10 && syncs > 5, "{fired} {syncs}");
}

#[test]
fn a_failure_at_any_call_of_a_recovery_loses_nothing_acknowledged() {
    for (with_index, sizes) in [(true, SMALL), (false, SMALL), (false, RESERVED)] {
        let fired = sweep(&unclean, with_index, sizes);
        assert!(fired > 300, "{fired}");
    }
}

/// A log whose last segment has its name, but not durably.
fn unclean_name(told: &mut Told, authors: &mut [Author]) -> (MemoryDisk, MemoryIndex) {
    let (memory, index) = (MemoryDisk::new(), MemoryIndex::new());
    let store = start(Arc::new(memory.clone()), Arc::new(index.clone()), SMALL).unwrap();
    store.create_space(SPACE, INCARNATION, &[("keys", FIRST_KEYS)]).unwrap();
    let mut log = store.open_space(SPACE, &mut |_| {}).unwrap();
    append(&mut log, authors, 1, 900, told).unwrap();
    sync(&mut log, told).unwrap();
    memory.inject(Fault { operation: DiskOperation::SyncDirectory, skip: 0, kind: FaultKind::Error });
    append(&mut log, authors, 1, 900, told).unwrap_err();
    assert_eq!((memory.faults_fired(), told.poisoned), (1, true));
    // The segment was begun for runs that were never written.
    told.refused.clear();
    authors[0].go_back_to((1, told.handed_in[0]));
    memory.restart();
    (memory, index)
}

#[test]
fn a_failure_at_any_call_after_a_roll_over_that_failed_loses_nothing_acknowledged() {
    let fired = sweep(&unclean_name, true, SMALL);
    assert!(fired > 300, "{fired}");
}

#[test]
fn a_failure_of_the_index_at_any_call_loses_nothing_acknowledged() {
    for at in 0.. {
        let (mut told, mut authors) = (Told { keys: vec![FIRST_KEYS.to_vec()], ..Told::default() }, authors());
        let (memory, index) = unclean(&mut told, &mut authors);
        let failing = FailingIndex { index: index.clone(), left: Arc::new(Mutex::new(Some(at))) };
        let disk = FailingDisk::new(memory.clone());
        let done = work(&disk, &(Arc::new(failing.clone()) as Arc<dyn Index>), SMALL, &mut told, &mut authors);
        memory.restart();
        let context = format!("index call {at}: {done:?}");
        let ids = check(&memory, &index, &told, &context);
        assert!(ids.len() >= told.acknowledged, "{context}");
        if failing.is_due() {
            assert!(at > 20, "the workload calls the index: {at}");
            break;
        }
    }
}

#[test]
fn a_failed_removal_of_a_space_is_finished_by_the_next_one() {
    for failure in FAILURES {
        for at in 1.. {
            let (mut told, mut authors) = (Told { keys: vec![FIRST_KEYS.to_vec()], ..Told::default() }, authors());
            let (memory, index) = unclean(&mut told, &mut authors);
            let disk = FailingDisk::new(memory.clone());
            let store = start(Arc::new(disk.clone()), Arc::new(index.clone()), SMALL).unwrap();
            disk.fail_at(at, failure);
            let removed = store.remove_space(SPACE);
            let reached = disk.schedule().has_come();
            disk.heal();
            drop(store);
            memory.restart();
            let store = start(Arc::new(memory.clone()), Arc::new(index.clone()), SMALL).unwrap();
            let spaces = store.spaces().unwrap();
            let context = format!("{failure:?} at call {at}: {removed:?}");
            assert!(removed.is_err() || spaces.is_empty(), "{context}");
            assert_eq!(memory.list("spaces").unwrap().len(), spaces.len(), "{context}: leftovers stay");
            if !spaces.is_empty() {
                drop(store);
                check(&memory, &index, &Told { created: true, ..told }, &context);
            }
            if !reached {
                assert!(at > 4, "{at}");
                break;
            }
        }
    }
}

/// Does something on a failing disk once for each of its calls and each failure; returns how many failed.
fn sweep_calls(
    begin: &dyn Fn() -> (MemoryDisk, MemoryIndex),
    act: &dyn Fn(&FailingDisk, &MemoryIndex) -> bool,
    check: &dyn Fn(&MemoryDisk, &MemoryIndex, bool, &str),
) -> u64 {
    let mut fired = 0;
    for failure in FAILURES {
        for at in 1.. {
            let (memory, index) = begin();
            let disk = FailingDisk::new(memory.clone());
            disk.fail_at(at, failure);
            let done = act(&disk, &index);
            let reached = disk.schedule().has_come();
            fired += u64::from(disk.schedule().fired > 0);
            disk.heal();
            let context = format!("{failure:?} at call {at}, done: {done}");
            memory.restart();
            check(&memory, &index, done, &context);
            memory.lose_power(&mut |_| 0);
            index.lose_power(&mut |_| 0);
            check(&memory, &index, done, &format!("{context}, then the power went"));
            if !reached {
                assert!(at > 5 && done, "{context}");
                break;
            }
        }
    }
    fired
}

/// A log that ended cleanly, and its runs.
fn clean() -> (MemoryDisk, MemoryIndex, Told) {
    let (mut told, mut authors) = (Told { keys: vec![FIRST_KEYS.to_vec()], ..Told::default() }, authors());
    let (memory, index) = unclean(&mut told, &mut authors);
    let store = start(Arc::new(memory.clone()), Arc::new(index.clone()), SMALL).unwrap();
    store.open_space(SPACE, &mut |_| {}).unwrap().close().unwrap();
    told.acknowledged = told.handed_in.len();
    told.created = true;
    (memory, index, told)
}

#[test]
fn a_failure_at_any_call_of_a_repair_loses_nothing() {
    let told = clean().2;
    let repair = |disk: &FailingDisk, index: &MemoryIndex| {
        let store = start(Arc::new(disk.clone()), Arc::new(index.clone()), SMALL);
        store.and_then(|store| store.repair_space(SPACE, &mut |_| {})).is_ok()
    };
    let begin = || {
        let (memory, index, _) = clean();
        (memory, index)
    };
    let fired = sweep_calls(&begin, &repair, &|memory, index, _, context| {
        check(memory, index, &told, context);
    });
    assert!(fired > 100, "{fired}");
}

#[test]
fn a_failure_at_any_call_of_a_backup_leaves_the_log_alone_and_the_backup_unfinished() {
    let told = clean().2;
    let begin = || {
        let (memory, index, _) = clean();
        (memory, index)
    };
    let back_up = |disk: &FailingDisk, index: &MemoryIndex| {
        let write = || -> Result<u64, syncline_storage::BackupError> {
            let store = start(Arc::new(disk.clone()), Arc::new(index.clone()), SMALL)?;
            let log = store.open_space(SPACE, &mut |_| {})?;
            let mut writer = syncline_storage::BackupWriter::new(Vec::new())?;
            let damaged = writer.space(&log.reader(), &[], &mut |_| {})?;
            assert!(damaged.is_empty(), "a failed read is no damage");
            Ok(writer.finish()?.0.runs)
        };
        let written = write();
        assert!(written.as_ref().is_err() || written.is_ok_and(|runs| runs == told.acknowledged as u64));
        write().is_ok()
    };
    let fired = sweep_calls(&begin, &back_up, &|memory, index, _, context| {
        check(memory, index, &told, context);
    });
    assert!(fired > 50, "{fired}");
}

/// A stream that takes so many bytes and then fails.
struct Limited(usize);

impl io::Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(self.0);
        self.0 -= taken;
        if taken == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(taken) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_backup_is_finished_only_when_every_byte_was_taken() {
    let (memory, index, _) = clean();
    let store = start(Arc::new(memory), Arc::new(index), SMALL).unwrap();
    let log = store.open_space(SPACE, &mut |_| {}).unwrap();
    let write = |limit| {
        let mut writer = syncline_storage::BackupWriter::new(Limited(limit))?;
        writer.space(&log.reader(), &[("keys", b"sealed")], &mut |_| {})?;
        writer.finish()
    };
    let bytes = write(usize::MAX).unwrap().0.bytes as usize;
    for limit in (0..bytes).step_by(37).chain([bytes - 1]) {
        assert!(matches!(write(limit), Err(syncline_storage::BackupError::Io { .. })), "{limit}");
    }
    write(bytes).unwrap();
}

#[test]
fn a_failure_at_any_call_of_a_restore_leaves_all_of_it_or_a_directory_that_says_no() {
    let (memory, index, told) = clean();
    let backup = {
        let store = start(Arc::new(memory), Arc::new(index), SMALL).unwrap();
        let log = store.open_space(SPACE, &mut |_| {}).unwrap();
        let mut writer = syncline_storage::BackupWriter::new(Vec::new()).unwrap();
        writer.space(&log.reader(), &[("keys", FIRST_KEYS)], &mut |_| {}).unwrap();
        writer.finish().unwrap().1
    };
    let restore = |disk: &FailingDisk, index: &MemoryIndex| {
        let Ok(store) = start(Arc::new(disk.clone()), Arc::new(index.clone()), SMALL) else { return false };
        let mut keep = |file: &syncline_storage::BackupFile| Ok(Some(file.bytes.clone()));
        syncline_storage::restore(&backup[..], &store, &mut || INCARNATION, &mut keep, &mut |_| {}).is_ok()
    };
    let begin = || (MemoryDisk::new(), MemoryIndex::new());
    let fired = sweep_calls(&begin, &restore, &|memory, index, done, context| {
        match start(Arc::new(memory.clone()), Arc::new(index.clone()), SMALL) {
            Err(error) => assert!(!done && matches!(error, StorageError::HalfRestored), "{context}: {error}"),
            // The last call may have failed after it did its work.
            Ok(store) if done || !store.spaces().unwrap().is_empty() => {
                drop(store);
                let ids = check(memory, index, &told, context);
                assert_eq!(ids.len(), told.acknowledged, "{context}");
            }
            Ok(_) => {}
        }
    });
    assert!(fired > 100, "{fired}");
}

#[test]
fn a_failure_at_any_call_of_dropping_the_end_of_a_log_takes_nothing_else() {
    let author = authors()[1].id();
    let begin = || {
        let (memory, index, _) = clean();
        (memory, index)
    };
    let summaries = |memory: &MemoryDisk, index: &MemoryIndex, context: &str| {
        let store = start(Arc::new(memory.clone()), Arc::new(index.clone()), SMALL).unwrap();
        let log = store.open_space(SPACE, &mut |_| {}).unwrap_or_else(|error| panic!("{context}: {error}"));
        let report = log.reader().verify(&mut |_| {}).unwrap();
        assert!(report.is_sound() && report.unchained.count == 0, "{context}: {report:?}");
        assert_eq!(log.stats().unwrap().quarantined, 0, "{context}");
        shown(&log).into_iter().map(|(_, summary)| (summary.author, summary.last_id())).collect::<Vec<_>>()
    };
    let (memory, index) = begin();
    let before = summaries(&memory, &index, "before");
    let of_author = |runs: &[(DeviceId, OperationId)]| runs.iter().filter(|run| run.0 == author).count();
    assert!(of_author(&before) > 2);
    let drop_end = |disk: &FailingDisk, index: &MemoryIndex| {
        let store = start(Arc::new(disk.clone()), Arc::new(index.clone()), SMALL);
        let mut log = match store.and_then(|store| store.open_space(SPACE, &mut |_| {})) {
            Ok(log) => log,
            Err(_) => return false,
        };
        log.drop_tails(&[Tail { log: author, after: 1 }]).is_ok_and(|dropped| dropped.segments > 0)
    };
    let fired = sweep_calls(&begin, &drop_end, &|memory, index, done, context| {
        let after = summaries(memory, index, context);
        let left = of_author(&after);
        assert!(left >= 1 && (!done || left == 1), "{context}: {left} are left");
        // What is left of the author's is the beginning, so nothing of a log stands behind a gap.
        let mut counted = 0;
        let expected = before.iter().filter(|run| {
            counted += usize::from(run.0 == author);
            run.0 != author || counted <= left
        });
        assert_eq!(after, expected.copied().collect::<Vec<_>>(), "{context}");
    });
    assert!(fired > 100, "{fired}");
}
