//! Backups and what becomes of them, repair, and looking for damage.

use std::io::Cursor;

use syncline_storage::{
    AuthorRange, BackupError, BackupFile, BackupItem, BackupReader, BackupSummary, BackupWriter, FileScope,
    Incarnation, SpaceLog, StorageError, Store, restore,
};

use super::workload::{Author, Machine, SPACE, segment, sequences, shown};

const NEW: Incarnation = Incarnation([9; 16]);

/// A log of several segments and two authors, its store and machine.
fn logged() -> (Machine, Store, SpaceLog) {
    let (machine, store, mut log) = Machine::with_log(3000);
    let (mut one, mut other) = (Author::new(1), Author::new(2));
    for number in 0..20 {
        let run = if number % 4 == 0 { other.write_joined(2, 100) } else { one.write(200) };
        log.append(&[run]).unwrap();
        log.sync().unwrap();
    }
    (machine, store, log)
}

pub(crate) fn back_up(log: &SpaceLog) -> (BackupSummary, Vec<u8>) {
    let mut writer = BackupWriter::new(Vec::new()).unwrap();
    writer.node_file("config.toml", b"name = \"a\"").unwrap();
    writer.space(&log.reader(), &[("keys", b"sealed keys")], &mut |_| {}).unwrap();
    writer.finish().unwrap()
}

pub(crate) fn restore_into(machine: &Machine, backup: &[u8]) -> Result<BackupSummary, BackupError> {
    let store = machine.start(3000)?;
    let mut unseal = |file: &BackupFile| -> Result<Option<Vec<u8>>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Some(if file.name == "keys" { b"opened keys".to_vec() } else { file.bytes.clone() }))
    };
    restore(Cursor::new(backup), &store, &mut || NEW, &mut unseal, &mut |_| {})
}

#[test]
fn a_backup_restores_runs_in_order_and_files_as_they_are_unsealed() {
    let (_machine, _store, log) = logged();
    let (written, backup) = back_up(&log);
    assert_eq!((written.spaces, written.runs, written.operations, written.bytes), (1, 20, 25, backup.len() as u64));
    let checked = BackupReader::new(Cursor::new(&backup)).unwrap().check(&mut |_| {}).unwrap();
    assert_eq!(checked, written);
    let machine = Machine::default();
    assert_eq!(restore_into(&machine, &backup).unwrap(), written);
    let (store, restored) = machine.reopen(3000);
    let runs = |log: &SpaceLog| shown(log).into_iter().map(|(_, summary)| summary).collect::<Vec<_>>();
    assert_eq!(runs(&restored), runs(&log));
    assert_eq!(restored.incarnation(), NEW, "cursors into the old log mean nothing in it");
    assert!(restored.reader().verify(&mut |_| {}).unwrap().is_sound());
    let file = |scope, name| store.files().read(scope, name).unwrap();
    assert_eq!(file(FileScope::Space(SPACE), "keys").as_deref(), Some(&b"opened keys"[..]));
    assert_eq!(file(FileScope::Node, "config.toml").as_deref(), Some(&b"name = \"a\""[..]));
    drop(restored);
    assert!(matches!(restore_into(&machine, &backup), Err(BackupError::NotEmpty)));
}

#[test]
fn a_backup_beside_a_writer_is_a_prefix_of_its_log() {
    let (_machine, _store, mut log) = Machine::with_log(1 << 20);
    let mut author = Author::new(1);
    // More than one piece, with writes between them.
    let large: Vec<_> = (0..6).map(|_| author.write(400_000)).collect();
    log.append(&large).unwrap();
    log.sync().unwrap();
    let mut writer = BackupWriter::new(Vec::new()).unwrap();
    let reader = log.reader();
    let mut pieces = 0;
    let damaged = writer.space(&reader, &[], &mut |_| {
        pieces += 1;
        log.append(&[author.write(10)]).unwrap();
        log.sync().unwrap();
    });
    assert!(damaged.unwrap().is_empty() && pieces > 1);
    let (summary, backup) = writer.finish().unwrap();
    assert_eq!(summary.runs, 6);
    let machine = Machine::default();
    restore_into(&machine, &backup).unwrap();
    assert_eq!(sequences(&machine.reopen(3000).1), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn a_backup_that_is_cut_or_changed_anywhere_is_refused() {
    let (_machine, _store, log) = logged();
    let (_, backup) = back_up(&log);
    let check = |bytes: &[u8]| BackupReader::new(Cursor::new(bytes)).and_then(|reader| reader.check(&mut |_| {}));
    for cut in (0..backup.len()).step_by(13).chain([backup.len() - 1]) {
        let error = check(&backup[..cut]).unwrap_err();
        assert!(matches!(error, BackupError::EndsEarly { .. } | BackupError::NotABackup), "{cut}: {error}");
    }
    for at in (0..backup.len()).step_by(23).chain(0..60) {
        let mut changed = backup.clone();
        changed[at] ^= 0x20;
        assert!(check(&changed).is_err(), "byte {at}");
    }
    let mut newer = backup.clone();
    newer[16] = 2;
    assert!(check(&newer).unwrap_err().to_string().contains("update Syncline"));
    assert!(matches!(check(b"syncline"), Err(BackupError::NotABackup)));
    check(&backup).unwrap();
}

#[test]
fn a_check_goes_on_at_a_checkpoint() {
    let (_machine, _store, mut log) = Machine::with_log(64 << 20);
    let mut author = Author::new(1);
    for _ in 0..12 {
        log.append(&[author.write(3 << 20)]).unwrap();
    }
    log.sync().unwrap();
    let (written, mut backup) = back_up(&log);
    let mut checkpoints = Vec::new();
    BackupReader::new(Cursor::new(&backup)).unwrap().check(&mut |checkpoint| checkpoints.push(checkpoint)).unwrap();
    assert!(checkpoints.len() >= 2, "{checkpoints:?}");
    let last = checkpoints[0];
    // What stands before it was checked already.
    backup[100] ^= 1;
    let rest = Cursor::new(&backup[last.offset as usize..]);
    assert_eq!(BackupReader::resume(rest, last).check(&mut |_| {}).unwrap(), written);
    let offset = last.offset as usize + 1000;
    backup[offset] ^= 1;
    let rest = Cursor::new(&backup[last.offset as usize..]);
    assert!(BackupReader::resume(rest, last).check(&mut |_| {}).is_err());
}

#[test]
fn a_restore_that_was_cut_short_says_so() {
    let (_machine, _store, log) = logged();
    let (_, backup) = back_up(&log);
    let machine = Machine::default();
    restore_into(&machine, &backup[..backup.len() - 60]).unwrap_err();
    let error = machine.start(3000).unwrap_err();
    assert!(matches!(error, StorageError::HalfRestored), "{error}");
}

#[test]
fn damaged_runs_are_left_out_of_a_backup_and_named() {
    let (machine, _store, log) = logged();
    let position = shown(&log)[3].0;
    machine.flip(&segment(position.segment()), u64::from(position.offset()) + 50);
    let mut writer = BackupWriter::new(Vec::new()).unwrap();
    let damaged = writer.space(&log.reader(), &[], &mut |_| {}).unwrap();
    assert_eq!(damaged.iter().map(|run| run.position).collect::<Vec<_>>(), [position]);
    let (summary, backup) = writer.finish().unwrap();
    assert_eq!((summary.runs, summary.damaged), (19, 1));
    let mut items = BackupReader::new(Cursor::new(backup)).unwrap();
    let mut runs = 0;
    while let Some(item) = items.next_item().unwrap() {
        runs += if let BackupItem::Runs(some) = item { some.len() } else { 0 };
    }
    assert_eq!(runs, 19);
}

#[test]
fn a_scrub_finds_every_damaged_run_whatever_its_pace() {
    for bytes_max in [0, 700, 1 << 20] {
        let (machine, _store, log) = logged();
        let all = shown(&log);
        for index in [2, 3, 11, 19] {
            let position = all[index].0;
            machine.flip(&segment(position.segment()), u64::from(position.offset()) + 40);
        }
        let reader = log.reader();
        let (mut after, mut found, mut bytes) = (None, Vec::new(), 0);
        loop {
            let step = reader.scrub(after, bytes_max).unwrap();
            assert!(step.complete || Some(step.reached) > after, "it goes forward");
            found.extend(step.damaged.iter().map(|run| run.position));
            bytes += step.bytes;
            after = Some(step.reached);
            if step.complete {
                break;
            }
        }
        assert_eq!(found, [2, 3, 11, 19].map(|index| all[index].0), "{bytes_max}");
        assert!(bytes > 4000);
        assert_eq!(log.stats().unwrap().quarantined, 4);
        let again = reader.scrub(None, 1 << 20).unwrap();
        assert!(again.damaged.is_empty() && again.complete, "they are left out from now on");
    }
}

#[test]
fn a_repair_keeps_what_can_be_read_and_names_what_is_missing() {
    let (machine, store, log) = logged();
    let all = shown(&log);
    // One in the midst, and one in the last group, where damage looks like a torn tail to an empty index.
    for index in [5, 18] {
        let position = all[index].0;
        machine.flip(&segment(position.segment()), u64::from(position.offset()) + 40);
    }
    drop(log);
    let report = store.repair_space(SPACE, &mut |_| {}).unwrap();
    let lost = [5, 18].map(|index| {
        let summary = &all[index].1;
        AuthorRange { author: summary.author, after: summary.first - 1, through: summary.last() }
    });
    assert_eq!((report.runs, report.quarantined, report.missing_operations), (18, 2, 2));
    assert_eq!(report.missing, lost);
    assert_eq!(store.repair_space(SPACE, &mut |_| {}).unwrap(), report, "what is missing is not forgotten");
    let log = store.open_space(SPACE, &mut |_| {}).unwrap();
    let (stats, checked) = (log.stats().unwrap(), log.reader().verify(&mut |_| {}).unwrap());
    assert!(checked.is_sound(), "{checked:?}");
    assert_eq!(checked.missing, lost);
    let left: Vec<_> = shown(&log).into_iter().map(|(_, summary)| summary).collect();
    let expected: Vec<_> =
        all.iter().enumerate().filter(|(index, _)| ![5, 18].contains(index)).map(|(_, (_, run))| run.clone()).collect();
    assert_eq!(left, expected);
    let operations = left.iter().map(|run| run.operations.len() as u64).sum();
    assert_eq!((stats.runs, stats.operations, stats.quarantined), (18, operations, 2));
    drop((log, store));
    machine.index.erase();
    assert_eq!(shown(&machine.reopen(3000).1).len(), 18, "without the index too");
}

#[test]
fn a_repair_of_a_sound_log_changes_nothing_that_is_shown() {
    let (machine, store, log) = logged();
    let before: Vec<_> = shown(&log).into_iter().map(|(_, summary)| summary).collect();
    assert!(matches!(store.repair_space(SPACE, &mut |_| {}), Err(StorageError::SpaceOpen(_))));
    drop(log);
    for _ in 0..3 {
        let report = store.repair_space(SPACE, &mut |_| {}).unwrap();
        assert_eq!((report.runs, report.quarantined, report.missing_operations), (20, 0, 0));
    }
    store.rebuild_index_at_next_start();
    drop(store);
    let (_store, log) = machine.reopen(3000);
    assert_eq!(shown(&log).into_iter().map(|(_, summary)| summary).collect::<Vec<_>>(), before);
}

#[test]
fn a_backup_with_files_that_are_named_as_paths_is_refused() {
    let (_machine, _store, log) = logged();
    let (_, backup) = back_up(&log);
    let name = b"config.toml";
    let at = backup.windows(name.len()).position(|window| window == name).unwrap();
    for trick in ["../../x.key", "/etc/passwd", "..\\..\\x.key", "device\0.key", "..........."] {
        let mut forged = backup.clone();
        forged[at..at + name.len()].copy_from_slice(trick.as_bytes());
        // With a hash that fits: it stands at the end, behind the head of its frame.
        let hashed = forged.len() - 37;
        let hash = blake3::hash(&forged[..hashed]);
        forged[hashed + 5..].copy_from_slice(hash.as_bytes());
        let error = restore_into(&Machine::default(), &forged).unwrap_err();
        assert!(error.to_string().contains("a file without a name"), "{trick:?}: {error}");
    }
    let mut without = backup;
    without[at - 1] = 0;
    assert!(restore_into(&Machine::default(), &without).is_err());
}
