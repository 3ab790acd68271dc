//! Appending, syncing, failing.

use syncline_model::{SpaceId, VerifiedRun};
use syncline_storage::disk::{DiskOperation, Fault, FaultKind};
use syncline_storage::{Disk, OpenOptions, Progress, StorageError, Store};

use super::workload::{Author, INCARNATION, Machine, SPACE, segment, sequences, shown};

fn fault(operation: DiskOperation, kind: FaultKind) -> Fault {
    Fault { operation, skip: 0, kind }
}

#[test]
fn nothing_is_shown_before_it_is_synced() {
    let (_machine, _store, mut log) = Machine::with_log(1 << 20);
    let mut author = Author::new(1);
    let reader = log.reader();
    let positions = log.append(&[author.write(10), author.write(20)]).unwrap();
    assert_eq!(sequences(&log), Vec::<u64>::new());
    assert!(reader.read(&author.id(), 0, u64::MAX, 1 << 20).unwrap().is_empty());
    log.sync().unwrap();
    assert_eq!(shown(&log).iter().map(|(position, _)| *position).collect::<Vec<_>>(), positions);
    assert_eq!(reader.read(&author.id(), 0, u64::MAX, 1 << 20).unwrap().len(), 2);
    let stats = log.stats().unwrap();
    assert_eq!((stats.operations, stats.runs, stats.segments, stats.quarantined), (2, 2, 1, 0));
}

#[test]
fn a_reopened_log_shows_the_same_and_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("data");
    let options = OpenOptions { create: true, ..OpenOptions::default() };
    let mut author = Author::new(1);
    let mut before = Vec::new();
    for round in 0..4 {
        let store = Store::open(&path, options, &mut |_| {}).unwrap();
        if round == 0 {
            store.create_space(SPACE, INCARNATION, &[("keys", b"secret")]).unwrap();
        }
        let mut log = store.open_space(SPACE, &mut |_| {}).unwrap();
        assert_eq!(log.incarnation(), INCARNATION);
        assert_eq!(shown(&log), before);
        log.append(&[author.write(100), author.write_joined(5, 10)]).unwrap();
        log.sync().unwrap();
        before = shown(&log);
        if round % 2 == 0 {
            log.close().unwrap();
        }
    }
    assert_eq!(before.len(), 8);
}

#[test]
fn segments_end_at_their_size_and_stay_readable() {
    let (machine, store, mut log) = Machine::with_log(2000);
    let mut author = Author::new(1);
    for _ in 0..10 {
        log.append(&[author.write(400)]).unwrap();
        log.append(&[author.write(400)]).unwrap();
        log.sync().unwrap();
    }
    let before = shown(&log);
    assert!(log.stats().unwrap().segments > 5);
    let bytes = log.stats().unwrap().log_bytes;
    drop((log, store));
    let (_store, log) = machine.reopen(2000);
    assert_eq!(shown(&log), before);
    assert_eq!(log.stats().unwrap().log_bytes, bytes);
    assert!(log.reader().verify(&mut |_| {}).unwrap().is_sound());
}

#[test]
fn a_failed_sync_poisons_the_log_for_good() {
    let (machine, store, mut log) = Machine::with_log(1 << 20);
    let mut author = Author::new(1);
    log.append(&[author.write(10)]).unwrap();
    log.sync().unwrap();
    log.append(&[author.write(10)]).unwrap();
    machine.disk.inject(fault(DiskOperation::Sync, FaultKind::Error));
    assert!(matches!(log.sync(), Err(StorageError::Io { action: "sync", .. })));
    assert!(matches!(log.sync(), Err(StorageError::Poisoned { .. })));
    assert!(matches!(log.append(&[author.write(10)]), Err(StorageError::Poisoned { .. })));
    assert_eq!(sequences(&log), [1], "reading goes on, without what is in doubt");
    drop((log, store));

    // The page cache still has the record. Once it is shown, no power loss may take it back.
    machine.disk.restart();
    let (store, log) = machine.reopen(1 << 20);
    assert_eq!(sequences(&log), [1, 2]);
    drop((log, store));
    machine.disk.lose_power(&mut |_| 0);
    machine.index.lose_power(&mut |_| 0);
    assert_eq!(sequences(&machine.reopen(1 << 20).1), [1, 2]);
    assert_eq!(machine.disk.faults_fired(), 1);
}

#[test]
fn a_failed_write_leaves_the_log_as_it_was() {
    for (kind, full) in [(FaultKind::HalfWritten, false), (FaultKind::Error, false), (FaultKind::Full, true)] {
        let (machine, store, mut log) = Machine::with_log(1 << 20);
        let mut author = Author::new(1);
        log.append(&[author.write(10)]).unwrap();
        machine.disk.inject(fault(DiskOperation::Write, kind));
        let (second, third) = (author.write(1000), author.write(1000));
        let error = log.append(&[second.clone(), third.clone()]).unwrap_err();
        assert_eq!(matches!(error, StorageError::Full { .. }), full, "{error}");
        log.append(&[second, third]).unwrap();
        log.sync().unwrap();
        assert_eq!(sequences(&log), [1, 2, 3]);
        drop((log, store));
        machine.index.erase();
        let (_store, log) = machine.reopen(1 << 20);
        assert_eq!(sequences(&log), [1, 2, 3]);
        assert_eq!((log.stats().unwrap().quarantined, machine.disk.faults_fired()), (0, 1));
    }
}

#[test]
fn a_write_by_itself_costs_one_write_and_one_sync_and_many_together_cost_no_more() {
    let (machine, _store, mut log) = Machine::with_log(1 << 20);
    let mut author = Author::new(1);
    log.append(&[author.write(10)]).unwrap();
    log.sync().unwrap();
    let mut calls = |runs: Vec<VerifiedRun>| {
        let before = machine.disk.calls();
        log.append(&runs).unwrap();
        log.sync().unwrap();
        machine.disk.calls() - before
    };
    for _ in 0..5 {
        assert_eq!(calls(vec![author.write(100)]), 2);
    }
    assert_eq!(calls((0..100).map(|_| author.write(100)).collect()), 2);
}

#[test]
fn a_segment_grows_ahead_of_its_records_and_is_cut_when_it_ends() {
    let (machine, store, mut log) = Machine::with_log(4096);
    let mut author = Author::new(1);
    let length = |number| machine.disk.open(&segment(number)).unwrap().length().unwrap();
    log.append(&[author.write(10)]).unwrap();
    log.sync().unwrap();
    let (grown, records) = (length(1), log.stats().unwrap().log_bytes);
    assert!(grown > records, "{grown} bytes for {records}");
    log.append(&[author.write(10)]).unwrap();
    log.sync().unwrap();
    assert_eq!(length(1), grown, "the second record needs no new length");
    drop((log, store));

    let (store, mut log) = machine.reopen(4096);
    assert_eq!(sequences(&log), [1, 2]);
    assert_eq!(length(1), log.stats().unwrap().log_bytes, "opening cuts what was not used");
    log.append(&[author.write(10)]).unwrap();
    let rolled = log.stats().unwrap().log_bytes;
    log.append(&[author.write(4000)]).unwrap();
    log.sync().unwrap();
    assert_eq!(length(1), rolled, "so does the next segment's beginning");
    let all = log.stats().unwrap().log_bytes;
    log.close().unwrap();
    assert_eq!(length(1) + length(2), all, "and a clean end");
    drop(store);
}

#[test]
fn a_failed_write_that_cannot_be_taken_back_poisons() {
    let (machine, _store, mut log) = Machine::with_log(1 << 20);
    let mut author = Author::new(1);
    machine.disk.inject(fault(DiskOperation::Write, FaultKind::HalfWritten));
    // The first lets the file grow ahead.
    machine.disk.inject(Fault { skip: 1, ..fault(DiskOperation::SetLength, FaultKind::Error) });
    log.append(&[author.write(10)]).unwrap_err();
    assert!(matches!(log.sync(), Err(StorageError::Poisoned { .. })));
}

#[test]
fn a_full_disk_refuses_early_and_reading_goes_on() {
    let (machine, _store, mut log) = Machine::with_log(1 << 20);
    let mut author = Author::new(1);
    log.append(&[author.write(10)]).unwrap();
    log.sync().unwrap();
    machine.disk.limit_available(Some(1000));
    let run = author.write(900);
    assert!(matches!(
        log.append(std::slice::from_ref(&run)),
        Err(StorageError::Full { available: 1000, needed }) if needed > 1000
    ));
    assert_eq!(log.reader().read(&author.id(), 0, 9, 1 << 20).unwrap().len(), 1);
    log.sync().unwrap();
    machine.disk.limit_available(None);
    log.append(&[run]).unwrap();
    log.sync().unwrap();
    assert_eq!(sequences(&log), [1, 2]);
}

#[test]
fn nothing_new_is_taken_in_long_before_an_append_would_refuse() {
    let (machine, _store, mut log) = Machine::with_log(1 << 20);
    let mut author = Author::new(1);
    machine.disk.limit_available(Some(2016));
    assert_eq!(log.no_room().unwrap(), None);
    machine.disk.limit_available(Some(2000));
    log.append(&[author.write(500)]).unwrap();
    log.sync().unwrap();
    assert!(log.no_room().unwrap().is_some(), "what was taken in before is appended, nothing more is taken in");
    machine.disk.limit_available(None);
    assert_eq!(log.no_room().unwrap(), None);
}

#[test]
fn a_segment_that_cannot_be_created_leaves_the_log_usable() {
    for operation in [DiskOperation::Create, DiskOperation::Write, DiskOperation::Sync] {
        let (machine, _store, mut log) = Machine::with_log(1000);
        let mut author = Author::new(1);
        log.append(&[author.write(900)]).unwrap();
        log.sync().unwrap();
        let run = author.write(900);
        machine.disk.inject(fault(operation, FaultKind::Full));
        assert!(matches!(log.append(std::slice::from_ref(&run)), Err(StorageError::Full { .. })), "{operation:?}");
        log.append(&[run]).unwrap();
        log.sync().unwrap();
        assert_eq!(sequences(&log), [1, 2]);
    }
    for operation in [DiskOperation::Rename, DiskOperation::SyncDirectory] {
        let (machine, _store, mut log) = Machine::with_log(1000);
        let mut author = Author::new(1);
        log.append(&[author.write(900)]).unwrap();
        machine.disk.inject(fault(operation, FaultKind::Error));
        log.append(&[author.write(900)]).unwrap_err();
        assert!(matches!(log.sync(), Err(StorageError::Poisoned { .. })), "{operation:?}");
    }
}

#[test]
fn a_failing_index_poisons_and_is_made_anew_at_the_next_start() {
    let (machine, store, mut log) = Machine::with_log(1 << 20);
    let mut author = Author::new(1);
    log.append(&[author.write(10)]).unwrap();
    log.sync().unwrap();
    log.append(&[author.write(10)]).unwrap();
    machine.index.set_failing(true);
    assert!(matches!(log.sync(), Err(StorageError::Index(_))));
    assert!(matches!(log.sync(), Err(StorageError::Poisoned { .. })));
    let number = log.index().number();
    drop((log, store));
    machine.index.set_failing(false);
    assert!(machine.disk.list("").unwrap().contains(&"index.condemned".to_owned()));
    let (store, log) = machine.reopen(1 << 20);
    assert_eq!(sequences(&log), [1, 2]);
    assert_eq!(number, log.index().number(), "the emptied index counts from the start");
    assert!(!machine.disk.list("").unwrap().contains(&"index.condemned".to_owned()));
    drop(store);
}

#[test]
fn an_index_that_ends_beyond_the_log_is_made_anew() {
    let (machine, store, mut log) = Machine::with_log(1 << 20);
    let mut author = Author::new(1);
    let positions = log.append(&[author.write(10), author.write(10)]).unwrap();
    log.sync().unwrap();
    let number = log.index().number();
    drop((log, store));
    machine.disk.open(&segment(1)).unwrap().set_length(u64::from(positions[1].offset())).unwrap();
    let mut reports: Vec<Progress> = Vec::new();
    let store = machine.start(1 << 20).unwrap();
    let log = store.open_space(SPACE, &mut |progress| reports.push(progress)).unwrap();
    assert_eq!(sequences(&log), [1]);
    assert_ne!(log.index().number(), number);
    let last = reports.last().unwrap();
    assert_eq!(last.done, last.total, "progress ends where it said it would");
    assert!(log.reader().verify(&mut |_| {}).unwrap().is_sound());
}

#[test]
fn an_index_made_for_another_log_is_not_used() {
    let (machine, store, mut log) = Machine::with_log(1 << 20);
    let mut author = Author::new(1);
    log.append(&[author.write(10)]).unwrap();
    log.sync().unwrap();
    drop((log, store));
    // Another log of the same space, as after restoring the directory from elsewhere.
    let (other, other_store, mut log) = Machine::with_log(1 << 20);
    log.append(&[author.write(10), author.write(10), author.write(10)]).unwrap();
    log.sync().unwrap();
    drop((log, other_store));
    let mixed = Machine { disk: other.disk, index: machine.index };
    assert_eq!(sequences(&mixed.reopen(1 << 20).1), [2, 3, 4]);
}

#[test]
fn runs_of_another_space_and_too_many_bytes_are_refused() {
    let (_machine, store, mut log) = Machine::with_log(1 << 20);
    let other = SpaceId([2; 32]);
    store.create_space(other, INCARNATION, &[]).unwrap();
    let mut other_log = store.open_space(other, &mut |_| {}).unwrap();
    let mut author = Author::new(1);
    let run = author.write(1 << 20);
    assert!(matches!(other_log.append(std::slice::from_ref(&run)), Err(StorageError::WrongSpace { .. })));
    assert!(matches!(log.append(&vec![run.clone(); 65]), Err(StorageError::TooLarge { .. })));
    assert!(matches!(store.open_space(SPACE, &mut |_| {}), Err(StorageError::SpaceOpen(_))));
    assert!(matches!(store.remove_space(SPACE), Err(StorageError::SpaceOpen(_))));
    log.append(&[]).unwrap();
    log.append(&[run]).unwrap();
    log.sync().unwrap();
    assert_eq!(sequences(&log), [1]);
}

#[test]
fn unsynced_bytes_are_bounded() {
    let (_machine, _store, mut log) = Machine::with_log(256 << 20);
    let mut author = Author::new(1);
    let large: Vec<_> = (0..12).map(|_| author.write(3 << 20)).collect();
    log.append(&large).unwrap();
    assert!(sequences(&log).is_empty());
    log.append(&large).unwrap();
    assert_eq!(shown(&log).len(), 12, "the append synced what was before it");
}
