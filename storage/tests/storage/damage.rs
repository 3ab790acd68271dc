//! Bits that change on the disk.

use syncline_storage::disk::Access;
use syncline_storage::{Disk, Position, Reclaimed, Signatures, StorageError};

use super::workload::{Author, Machine, SPACE, segment, sequences, shown};

/// A log of five runs, synced in two groups, and where they stand.
fn five_runs() -> (Machine, Author, Vec<syncline_storage::Position>) {
    let (machine, store, mut log) = Machine::with_log(1 << 20);
    let mut author = Author::new(1);
    let mut positions = log.append(&[author.write(90), author.write(90), author.write(90)]).unwrap();
    log.sync().unwrap();
    positions.extend(log.append(&[author.write(90), author.write(90)]).unwrap());
    log.sync().unwrap();
    drop((log, store));
    (machine, author, positions)
}

#[test]
fn a_damaged_record_is_named_once_and_left_out_from_then_on() {
    let (machine, author, positions) = five_runs();
    let (store, log) = machine.reopen(1 << 20);
    machine.flip(&segment(1), u64::from(positions[1].offset()) + 100);
    let reader = log.reader();
    let report = reader.verify(&mut |_| {}).unwrap();
    assert_eq!(report.damaged.first_positions, [positions[1]], "nobody has met it yet");
    assert_eq!((report.index_surplus, report.missing_operations), (1, 0));
    let error = reader.read(&author.id(), 0, 9, 1 << 20).unwrap_err();
    let StorageError::Damaged { position, first, last, .. } = error else { panic!("{error}") };
    assert_eq!((position, first, last), (positions[1], 2, 2));
    let left: Vec<u64> = reader.read(&author.id(), 0, 9, 1 << 20).unwrap().iter().map(|run| run.first()).collect();
    assert_eq!(left, [1, 3, 4, 5]);
    let stats = log.stats().unwrap();
    assert_eq!((stats.operations, stats.runs, stats.quarantined), (4, 4, 1));
    let report = reader.verify(&mut |_| {}).unwrap();
    assert_eq!(report.quarantined.first_positions, [positions[1]]);
    assert!(report.is_sound(), "what is known and left out harms nobody: {report:?}");
    assert_eq!((report.missing_operations, report.missing.len()), (1, 1));
    assert_eq!((report.missing[0].after, report.missing[0].through), (1, 2));
    drop((log, reader, store));
    let (_store, log) = machine.reopen(1 << 20);
    assert_eq!(sequences(&log), [1, 3, 4, 5], "the gap shows, so that a peer is asked");
}

#[test]
fn a_reader_of_a_log_that_is_no_longer_open_leaves_the_next_opening_alone() {
    let (machine, author, positions) = five_runs();
    let (store, log) = machine.reopen(1 << 20);
    let old = log.reader();
    drop(log);
    let log = store.open_space(SPACE, &mut |_| {}).unwrap();
    machine.flip(&segment(1), u64::from(positions[1].offset()) + 100);
    for _ in 0..2 {
        assert!(matches!(old.read(&author.id(), 0, 9, 1 << 20), Err(StorageError::Damaged { .. })));
    }
    assert_eq!((log.stats().unwrap().quarantined, log.reader().take_damage().is_some()), (0, false));
    assert!(log.reader().read(&author.id(), 0, 9, 1 << 20).is_err());
    assert_eq!((log.stats().unwrap().quarantined, log.reader().take_damage().is_some()), (1, true));
}

#[test]
fn a_check_beside_the_writer_leaves_alone_what_that_is_about_to_name() {
    let (machine, _author, _positions) = five_runs();
    let (store, log) = machine.reopen(1 << 20);
    let temporary = format!("{}.tmp", segment(2));
    machine.disk.create(&temporary, Access::Default).unwrap();
    assert!(log.reader().verify(&mut |_| {}).unwrap().is_sound());
    assert!(machine.disk.open(&temporary).is_ok());
    drop((log, store));
    let (_store, log) = machine.reopen(1 << 20);
    assert_eq!(sequences(&log), [1, 2, 3, 4, 5]);
    assert!(machine.disk.open(&temporary).is_err(), "a new start removes what was never named");
}

#[test]
fn a_lost_run_is_taken_again() {
    let (machine, _, positions) = five_runs();
    machine.flip(&segment(1), u64::from(positions[1].offset()));
    machine.index.erase();
    let (store, mut log) = machine.reopen(1 << 20);
    assert_eq!(sequences(&log), [1, 3, 4, 5]);
    let mut author = Author::new(1);
    author.write(90);
    log.append(&[author.write(90)]).unwrap();
    log.sync().unwrap();
    let runs = log.reader().read(&author.id(), 0, 9, 1 << 20).unwrap();
    assert_eq!(runs.iter().map(|run| run.first()).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    drop((log, store));
}

#[test]
fn a_flip_anywhere_costs_at_most_its_record_when_the_index_is_made_anew() {
    let (_, _, positions) = five_runs();
    // The last group has no later record that proves it durable: there, damage cannot be told from a torn tail.
    for offset in 0..u64::from(positions[3].offset()) {
        let (machine, _author, _) = five_runs();
        machine.flip(&segment(1), offset);
        machine.index.erase();
        let store = machine.start(1 << 20).unwrap();
        let log = store.open_space(SPACE, &mut |_| {}).unwrap();
        let hit = positions.iter().rposition(|position| u64::from(position.offset()) <= offset);
        let expected: Vec<u64> =
            (1..=5).filter(|sequence| Some(*sequence as usize) != hit.map(|hit| hit + 1)).collect();
        assert_eq!(sequences(&log), expected, "offset {offset}");
        assert_eq!(log.stats().unwrap().quarantined, 1, "offset {offset}");
        let before = shown(&log);
        drop((log, store));
        assert_eq!(shown(&machine.reopen(1 << 20).1), before, "offset {offset}");
    }
}

#[test]
fn a_flip_behind_the_last_proof_never_costs_what_stands_before() {
    let (_, _, positions) = five_runs();
    let end = u64::from(positions[4].offset()) + u64::from(positions[4].offset() - positions[3].offset());
    for offset in u64::from(positions[3].offset())..end {
        let (machine, _author, _) = five_runs();
        machine.flip(&segment(1), offset);
        machine.index.erase();
        let expected: &[u64] = if offset < u64::from(positions[4].offset()) { &[1, 2, 3] } else { &[1, 2, 3, 4] };
        assert!(sequences(&machine.reopen(1 << 20).1).starts_with(expected), "offset {offset}");
    }
}

#[test]
fn a_missing_segment_is_reported_and_the_others_are_shown() {
    let (machine, store, mut log) = Machine::with_log(800);
    let mut author = Author::new(1);
    for _ in 0..8 {
        log.append(&[author.write(300)]).unwrap();
        log.sync().unwrap();
    }
    let count = log.stats().unwrap().segments;
    assert!(count >= 4);
    drop((log, store));
    syncline_storage::Disk::remove_file(&machine.disk, &segment(2)).unwrap();
    machine.index.erase();
    let (_store, log) = machine.reopen(800);
    let stats = log.stats().unwrap();
    // One is gone, and without an index the last record is moved to one of its own.
    assert_eq!((stats.segments, stats.quarantined), (count, 1));
    assert!(sequences(&log).contains(&8) && sequences(&log).contains(&1));
}

#[test]
fn hostile_records_inside_a_payload_are_not_believed() {
    // Between two good runs stands one whose payload imitates a record at the very offset where it lies; its own
    // header is damaged, so that the walk searches through the payload.
    let (machine, store, mut log) = Machine::with_log(1 << 20);
    let mut author = Author::new(1);
    let positions = log.append(&[author.write(90), author.write(2000), author.write(90)]).unwrap();
    log.sync().unwrap();
    log.append(&[author.write(90)]).unwrap();
    log.sync().unwrap();
    drop((log, store));
    let mut forger = Author::new(9);
    let forged = forger.write(300);
    let mut body = forged.bytes().to_vec();
    let last = body.len() - 1;
    body[last] ^= 1;
    let offset = positions[1].offset() + 500;
    let header = forged_header(1, offset, &body);
    let file = syncline_storage::Disk::open(&machine.disk, &segment(1)).unwrap();
    file.write_at(u64::from(offset), &[&header[..], &body].concat()).unwrap();
    file.write_at(u64::from(positions[1].offset()), &[0xff; 16]).unwrap();
    machine.index.erase();
    let (_store, log) = machine.reopen(1 << 20);
    let authors: Vec<_> = shown(&log).into_iter().map(|(_, summary)| (summary.author, summary.first)).collect();
    assert_eq!(authors, [(author.id(), 1), (author.id(), 3), (author.id(), 4)]);
    assert!(log.stats().unwrap().quarantined >= 2, "the damage and the forgery");
}

#[test]
fn a_run_whose_signature_does_not_hold_is_found_by_a_full_check_and_left_out_by_a_repair() {
    let (machine, store, mut log) = Machine::with_log(1 << 20);
    let mut author = Author::new(1);
    let runs = [author.write(90), author.write(90), author.write(90)];
    let positions = log.append(&runs).unwrap();
    log.sync().unwrap();
    let mut body = runs[1].bytes().to_vec();
    let last = body.len() - 1;
    body[last] ^= 1;
    let offset = positions[1].offset();
    let file = syncline_storage::Disk::open(&machine.disk, &segment(1)).unwrap();
    file.write_at(u64::from(offset), &[&forged_header(1, offset, &body)[..], &body].concat()).unwrap();

    let reader = log.reader();
    let all = reader.verify_with(Signatures::All, &mut |_| {}).unwrap();
    assert_eq!((all.signatures, all.unsigned.first_positions.as_slice()), (3, &positions[1..2]));
    assert!(!all.is_sound() && all.damaged.count == 0);
    let sample = reader.verify_with(Signatures::Sample, &mut |_| {}).unwrap();
    assert_eq!((sample.signatures, sample.unsigned.count, sample.runs), (1, 0, 3));
    drop((reader, log));
    let report = store.repair_space(SPACE, &mut |_| {}).unwrap();
    assert_eq!((report.runs, report.quarantined, report.missing_operations), (2, 1, 1));
    let log = store.open_space(SPACE, &mut |_| {}).unwrap();
    assert_eq!(sequences(&log), [1, 3]);
}

/// A record header as the format says it is, with good checksums.
fn forged_header(segment: u32, offset: u32, body: &[u8]) -> [u8; 16] {
    let mut header = [0; 16];
    header[..4].copy_from_slice(&(body.len() as u32).to_le_bytes());
    header[8..12].copy_from_slice(&crc32c::crc32c(body).to_le_bytes());
    let place = (u64::from(segment) << 32 | u64::from(offset)).to_le_bytes();
    let crc = crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(SPACE.as_bytes()), &place), &header[..12]);
    header[12..].copy_from_slice(&crc.to_le_bytes());
    header
}

/// Three segments; in the first two a long record that is damaged and was met.
fn long_damage() -> (Machine, Author, Vec<Position>) {
    let (machine, store, mut log) = Machine::with_log(20_000);
    let mut author = Author::new(1);
    let mut positions = Vec::new();
    for size in [90, 9000, 90, 9000, 90, 9000, 90, 9000, 90, 9000] {
        positions.extend(log.append(&[author.write(size)]).unwrap());
        log.sync().unwrap();
    }
    assert!(positions[9].segment() >= 3, "{positions:?}");
    for damaged in [1, 4, 5] {
        let position = positions[damaged];
        machine.flip(&segment(position.segment()), u64::from(position.offset()) + 50);
    }
    let step = log.reader().scrub(None, 1 << 20).unwrap();
    assert_eq!(step.damaged.len(), 3);
    log.close().unwrap();
    drop(store);
    (machine, author, positions)
}

#[test]
fn the_room_of_what_is_in_quarantine_is_given_back_and_nothing_moves() {
    let (machine, author, positions) = long_damage();
    let (store, mut log) = machine.reopen(20_000);
    let reader = log.reader();
    let before = reader.read(&author.id(), 0, 10, 1 << 20).unwrap();
    let reclaimed = log.reclaim().unwrap();
    assert!(reclaimed.segments == 2 && reclaimed.bytes > 18_000, "{reclaimed:?}: the short one is not worth it");
    assert_eq!(log.reclaim().unwrap(), Reclaimed::default(), "once is enough");
    assert_eq!(reader.read(&author.id(), 0, 10, 1 << 20).unwrap(), before);
    assert_eq!(before.iter().map(|run| run.first()).collect::<Vec<_>>(), [1, 3, 4, 7, 8, 9, 10]);
    let report = reader.verify(&mut |_| {}).unwrap();
    assert!(report.is_sound() && report.missing_operations == 3, "{report:?}");
    assert!(report.reclaimed_bytes > 9_000, "{report:?}");
    drop((log, reader, store));
    machine.index.erase();
    let (_store, log) = machine.reopen(20_000);
    assert_eq!(log.reader().read(&author.id(), 0, 10, 1 << 20).unwrap(), before, "a new index finds the same");
    assert_eq!(positions.len(), 10);
}

#[test]
fn a_power_loss_or_failure_at_any_call_of_giving_back_leaves_all_that_was_readable() {
    let mut calls = 0;
    for at in 0.. {
        let (machine, author, _) = long_damage();
        let (store, mut log) = machine.reopen(20_000);
        let before = log.reader().read(&author.id(), 0, 10, 1 << 20).unwrap();
        machine.disk.kill_after(at);
        let outcome = log.reclaim();
        drop((log, store));
        let mut choice = at;
        machine.disk.lose_power(&mut |bound| {
            choice = choice.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (choice >> 33) % bound
        });
        if at % 2 == 0 {
            machine.index.erase();
        }
        let (_store, log) = machine.reopen(20_000);
        assert_eq!(log.reader().read(&author.id(), 0, 10, 1 << 20).unwrap(), before, "call {at}");
        calls = at;
        if outcome.is_ok() {
            break;
        }
    }
    assert!(calls > 10, "{calls}");
}
