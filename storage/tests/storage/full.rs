//! A full disk: the reserve that is given up then, the bound on what is taken, and what is told of both.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use syncline_model::SpaceId;
use syncline_storage::disk::{Access, DiskOperation, Fault, FaultKind};
use syncline_storage::{
    AppendLimits, Disk, DiskFile, Incarnation, IndexKind, MemoryDisk, MemoryIndex, NoRoom, OpenOptions, SpaceLog,
    StorageError, Store,
};

use super::workload::{Author, INCARNATION, SPACE, segment, sequences};

const CAPACITY: u64 = 256 << 10;
const RESERVE: u64 = 32 << 10;
const MARGIN: u64 = 16 << 10;

fn options() -> OpenOptions {
    let limits = AppendLimits { segment_bytes: 1 << 20, margin_bytes: MARGIN };
    OpenOptions { create: true, limits, reserve_bytes: Some(RESERVE), ..OpenOptions::default() }
}

/// A small disk with a data directory, and what else takes room on it.
struct Machine {
    disk: MemoryDisk,
    index: MemoryIndex,
    other: Arc<dyn DiskFile>,
}

impl Machine {
    fn new() -> Self {
        let disk = MemoryDisk::new();
        disk.set_capacity(Some(CAPACITY));
        let other = disk.create("other", Access::Default).unwrap();
        Self { disk, index: MemoryIndex::new(), other }
    }

    fn start(&self, options: OpenOptions) -> Store {
        Store::assemble(Arc::new(self.disk.clone()), Arc::new(self.index.clone()), options).unwrap()
    }

    fn with_log(options: OpenOptions) -> (Self, Store, SpaceLog) {
        let machine = Self::new();
        let store = machine.start(options);
        store.create_space(SPACE, INCARNATION, &[]).unwrap();
        let log = store.open_space(SPACE, &mut |_| {}).unwrap();
        (machine, store, log)
    }

    /// Something else takes all but `left` bytes of what is free.
    fn fill(&self, left: u64) {
        let taken = self.disk.available_bytes().unwrap().saturating_sub(left);
        self.other.write_at(self.other.length().unwrap(), &vec![0xff; taken as usize]).unwrap();
    }

    fn empty(&self) {
        self.other.set_length(0).unwrap();
    }

    fn reserve(&self) -> Option<u64> {
        self.disk.open("reserve").ok().map(|file| file.allocated_bytes().unwrap())
    }
}

#[test]
fn what_was_taken_in_is_written_to_the_reserve_and_nothing_more_is_taken_in() {
    let (machine, store, mut log) = Machine::with_log(options());
    let mut author = Author::new(1);
    assert_eq!((machine.reserve(), log.no_room().unwrap()), (Some(RESERVE), None));
    log.append(&[author.write(100)]).unwrap();
    log.sync().unwrap();

    // To the last byte, between the moment when something is taken in and the one when it is written.
    machine.fill(0);
    log.append(&[author.write(9000)]).unwrap();
    log.sync().unwrap();
    assert_eq!(machine.reserve(), None);
    assert!(matches!(log.no_room().unwrap(), Some(NoRoom::DiskFull { margin, .. }) if margin == MARGIN + RESERVE));
    let told = store.room().disk_use().unwrap();
    assert_eq!((told.reserve_bytes, told.reserve_bytes_wanted), (0, RESERVE));
    assert!(matches!(told.no_room, Some(NoRoom::DiskFull { .. })));
    assert_eq!(sequences(&log), [1, 2], "reading goes on");

    machine.empty();
    assert_eq!(log.no_room().unwrap(), None);
    assert_eq!((machine.reserve(), store.room().disk_use().unwrap().reserve_bytes), (Some(RESERVE), RESERVE));
    log.append(&[author.write(100)]).unwrap();
    log.sync().unwrap();
    assert_eq!(sequences(&log), [1, 2, 3]);
    drop((log, store));
    machine.index.erase();
    machine.disk.lose_power(&mut |_| 0);
    let store = machine.start(options());
    let log = store.open_space(SPACE, &mut |_| {}).unwrap();
    assert_eq!(sequences(&log), [1, 2, 3]);
    assert!(log.reader().verify(&mut |_| {}).unwrap().is_sound());
}

#[test]
fn a_write_that_was_torn_by_the_end_of_the_disk_is_written_whole() {
    // What is known of the room lasts for a while, so the disk itself refuses: at the first byte or at a later one.
    let limits = AppendLimits { margin_bytes: 1280 << 10, ..options().limits };
    let options = || OpenOptions { limits, ..options() };
    for left in (0..12).map(|blocks| blocks * 512) {
        let machine = Machine::new();
        machine.disk.set_capacity(Some(8 << 20));
        let store = machine.start(options());
        store.create_space(SPACE, INCARNATION, &[]).unwrap();
        let mut log = store.open_space(SPACE, &mut |_| {}).unwrap();
        let mut author = Author::new(1);
        log.append(&[author.write(100)]).unwrap();
        log.sync().unwrap();
        machine.fill(left);
        let runs: Vec<_> = (0..8).map(|_| author.write(900)).collect();
        for run in &runs {
            log.append(std::slice::from_ref(run)).unwrap();
        }
        log.sync().unwrap();
        assert_eq!(machine.reserve(), None, "{left}");
        drop((log, store));
        machine.index.erase();
        machine.disk.lose_power(&mut |_| 0);
        let store = machine.start(OpenOptions { reserve_bytes: None, ..options() });
        let log = store.open_space(SPACE, &mut |_| {}).unwrap();
        assert_eq!(sequences(&log), (1..=9).collect::<Vec<u64>>(), "{left}");
        assert_eq!(log.stats().unwrap().quarantined, 0);
    }
}

#[test]
fn without_a_reserve_a_full_disk_refuses_and_the_log_goes_on_when_there_is_room() {
    let (machine, _store, mut log) = Machine::with_log(OpenOptions { reserve_bytes: Some(0), ..options() });
    let mut author = Author::new(1);
    machine.fill(0);
    let run = author.write(9000);
    assert!(matches!(log.append(std::slice::from_ref(&run)), Err(StorageError::Full { .. })));
    machine.empty();
    log.append(&[run]).unwrap();
    log.sync().unwrap();
    assert_eq!(sequences(&log), [1]);
}

#[test]
fn a_failed_sync_is_not_repeated_for_all_the_reserve() {
    let (machine, _store, mut log) = Machine::with_log(options());
    let mut author = Author::new(1);
    log.append(&[author.write(10)]).unwrap();
    machine.disk.inject(Fault { operation: DiskOperation::Sync, skip: 0, kind: FaultKind::Full });
    let calls = machine.disk.calls();
    log.sync().unwrap_err();
    assert_eq!((machine.disk.calls() - calls, machine.reserve()), (1, Some(RESERVE)));
    assert!(matches!(log.sync(), Err(StorageError::Poisoned { .. })));
}

#[test]
fn a_start_on_a_full_disk_uses_the_reserve_that_is_there() {
    let (machine, store, mut log) = Machine::with_log(options());
    let mut author = Author::new(1);
    log.append(&[author.write(3000)]).unwrap();
    drop((log, store));
    machine.fill(0);
    // Its tail has to be copied to a new segment before it is shown.
    machine.disk.restart();
    let store = machine.start(options());
    let mut log = store.open_space(SPACE, &mut |_| {}).unwrap();
    assert_eq!((sequences(&log), machine.reserve()), (vec![1], None));
    assert!(machine.disk.open(&segment(2)).is_ok());
    assert!(log.no_room().unwrap().is_some());
}

#[test]
fn a_reserve_is_made_only_when_there_is_room_and_again_when_its_size_changes() {
    let machine = Machine::new();
    machine.fill(RESERVE + MARGIN);
    drop(machine.start(options()));
    assert_eq!(machine.reserve(), None, "it would end the intake");
    machine.empty();
    drop(machine.start(options()));
    assert_eq!(machine.reserve(), Some(RESERVE));
    drop(machine.start(OpenOptions { reserve_bytes: None, ..options() }));
    assert_eq!(machine.reserve(), Some(RESERVE), "a command that asks for none leaves it alone");
    drop(machine.start(OpenOptions { reserve_bytes: Some(8192), ..options() }));
    assert_eq!(machine.reserve(), Some(8192));
    // A copy with holes takes no room, so it is no reserve.
    let file = machine.disk.open("reserve").unwrap();
    file.set_length(0).unwrap();
    file.set_length(8192).unwrap();
    drop(machine.start(OpenOptions { reserve_bytes: Some(8192), ..options() }));
    assert_eq!(machine.reserve(), Some(8192));
    drop(machine.start(OpenOptions { reserve_bytes: Some(0), ..options() }));
    assert_eq!(machine.reserve(), None);
}

#[test]
fn the_reserve_goes_before_the_index_is_written_on_a_disk_that_is_nearly_full() {
    let (machine, store, _log) = Machine::with_log(options());
    machine.fill(MARGIN / 8);
    store.flush().unwrap();
    assert_eq!(machine.reserve(), Some(RESERVE), "there is still room");
    machine.fill(100);
    store.flush().unwrap();
    assert_eq!(machine.reserve(), None);
}

#[test]
fn a_directory_takes_what_it_may_and_a_space_that_goes_gives_its_part_back() {
    const MAX: u64 = 40_000;
    let bounded = OpenOptions { reserve_bytes: Some(RESERVE), use_bytes_max: Some(MAX), ..options() };
    let (machine, store, mut log) = Machine::with_log(bounded);
    assert_eq!(machine.reserve(), Some(MAX / 8 / 512 * 512 + 512), "a reserve of an eighth, in whole blocks");
    let mut author = Author::new(1);
    let mut taken = 0;
    while log.no_room().unwrap().is_none() {
        log.append(&[author.write(1000)]).unwrap();
        log.sync().unwrap();
        taken += 1;
        assert!(taken < 100);
    }
    let told = store.room().disk_use().unwrap();
    assert!(matches!(told.no_room, Some(NoRoom::UseMax { max: MAX, .. })), "{told:?}");
    assert!((MAX..MAX + 3000).contains(&told.used_bytes()), "{told:?}");
    assert_eq!(told.log_bytes, log.stats().unwrap().log_bytes);
    assert_eq!(sequences(&log).len(), taken, "reading goes on");

    let other = SpaceId([9; 32]);
    store.create_space(other, Incarnation([3; 16]), &[]).unwrap();
    let mut small = store.open_space(other, &mut |_| {}).unwrap();
    assert!(small.no_room().unwrap().is_some(), "the bound is for all spaces together");
    let used = machine.disk.used_bytes();
    log.close().unwrap();
    store.remove_space(SPACE).unwrap();
    assert!(used - machine.disk.used_bytes() > 20_000);
    assert_eq!(small.no_room().unwrap(), None);
    assert_eq!(store.room().disk_use().unwrap().log_bytes, small.stats().unwrap().log_bytes);
}

/// A file system of its own, for as long as it lives.
struct Mounted(tempfile::TempDir);

impl Mounted {
    /// None when this process may not mount.
    fn new(mebibytes: u64) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let size = format!("size={mebibytes}m");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "syncline-test"]).arg(directory.path());
        let is_mounted = mount.stderr(std::process::Stdio::null()).status().is_ok_and(|status| status.success());
        is_mounted.then_some(Self(directory))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Something else fills it to the last byte.
    fn fill(&self) {
        let mut file = File::options().create(true).append(true).open(self.path().join("other")).unwrap();
        for size in [1 << 20, 4096, 1] {
            while file.write_all(&vec![0xff; size]).is_ok() {}
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}

#[test]
#[allow(clippy::print_stderr)] // Whoever reads the outcome has to see what was not tried.
fn a_real_file_system_that_is_filled_to_the_last_byte_ends_nothing() {
    for index in IndexKind::ALL {
        let Some(mounted) = Mounted::new(96) else {
            eprintln!("skipped: this process may not mount a file system");
            return;
        };
        let limits = AppendLimits { margin_bytes: 16 << 20, ..AppendLimits::default() };
        let options = OpenOptions { create: true, limits, index, reserve_bytes: Some(16 << 20), ..options() };
        let data = mounted.path().join("data");
        let store = Store::open(&data, options, &mut |_| {}).unwrap();
        store.create_space(SPACE, INCARNATION, &[]).unwrap();
        let mut log = store.open_space(SPACE, &mut |_| {}).unwrap();
        let mut author = Author::new(1);
        let reserve = data.join("reserve");
        for round in 0..3 {
            assert_eq!(log.no_room().unwrap(), None, "{index:?}, round {round}");
            assert!(reserve.exists());
            mounted.fill();
            for _ in 0..20 {
                log.append(&[author.write(100_000)]).unwrap();
                log.sync().unwrap();
            }
            assert!(!reserve.exists());
            assert!(matches!(log.no_room().unwrap(), Some(NoRoom::DiskFull { .. })));
            store.flush().unwrap();
            fs::remove_file(mounted.path().join("other")).unwrap();
        }
        assert_eq!(sequences(&log), (1..=60).collect::<Vec<u64>>());
        log.close().unwrap();
        drop(store);
        let store = Store::open(&data, options, &mut |_| {}).unwrap();
        let log = store.open_space(SPACE, &mut |_| {}).unwrap();
        assert_eq!(sequences(&log).len(), 60);
        assert!(log.reader().verify(&mut |_| {}).unwrap().is_sound());
    }
}

#[test]
#[allow(clippy::print_stderr)] // Whoever reads the outcome has to see what was not tried.
fn a_start_on_a_full_disk_uses_the_reserve_and_never_puts_a_good_index_aside() {
    for index in IndexKind::ALL {
        let Some(mounted) = Mounted::new(96) else {
            eprintln!("skipped: this process may not mount a file system");
            return;
        };
        let limits = AppendLimits { margin_bytes: 16 << 20, ..AppendLimits::default() };
        let options = OpenOptions { create: true, limits, index, reserve_bytes: Some(16 << 20), ..options() };
        let data = mounted.path().join("data");
        let mut store = Store::open(&data, options, &mut |_| {}).unwrap();
        store.create_space(SPACE, INCARNATION, &[]).unwrap();
        let mut log = store.open_space(SPACE, &mut |_| {}).unwrap();
        let mut author = Author::new(1);
        let put_aside = || data.join("index.damaged-1").exists();
        for round in 1..=20 {
            log.append(&[author.write(100_000)]).unwrap();
            log.sync().unwrap();
            if round % 10 == 0 {
                // What sled has not written yet when it is dropped it would write to the full disk.
                log.close().unwrap();
                store.flush().unwrap();
                drop(store);
                mounted.fill();
                // First with the reserve, then without one: whatever room there was is taken by somebody else.
                let opened = Store::open(&data, options, &mut |_| {});
                assert!(!put_aside(), "{index:?}");
                let opened = opened.unwrap();
                opened.open_space(SPACE, &mut |_| {}).unwrap().close().unwrap();
                opened.flush().unwrap();
                drop(opened);
                mounted.fill();
                match Store::open(&data, options, &mut |_| {}) {
                    Ok(_) | Err(StorageError::NoRoomToOpen { .. } | StorageError::Full { .. }) => {}
                    Err(other) => panic!("{index:?}: {other}"),
                }
                assert!(!put_aside(), "{index:?}");
                fs::remove_file(mounted.path().join("other")).unwrap();
                store = Store::open(&data, options, &mut |_| {}).unwrap();
                log = store.open_space(SPACE, &mut |_| {}).unwrap();
            }
        }
        assert!(!put_aside(), "{index:?}");
        assert_eq!(sequences(&log), (1..=20).collect::<Vec<u64>>());
        assert_eq!(log.no_room().unwrap(), None);
        assert!(log.reader().verify(&mut |_| {}).unwrap().is_sound());
    }
}
