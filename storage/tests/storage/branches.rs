//! Branches of forked logs: filed under names of their own, and kept apart through everything a log goes through.

use syncline_model::{DeviceId, branch_log};
use syncline_storage::{Filed, SpaceLog, Store};

use super::keeping::{back_up, restore_into};
use super::workload::{Author, Machine, SPACE};

/// The stored runs as they are filed: log, first and last sequence.
fn filed(log: &SpaceLog) -> Vec<(DeviceId, u64, u64)> {
    let mut filed = Vec::new();
    log.replay_filed(None, &mut |_, log, summary| filed.push((log, summary.first, summary.last()))).unwrap();
    filed
}

/// A log of five operations, and a branch that leaves it after the second.
fn forked(segment_bytes: u32) -> (Machine, Store, SpaceLog, DeviceId) {
    let (machine, store, mut log) = Machine::with_log(segment_bytes);
    let mut author = Author::new(1);
    let common = author.write_joined(2, 20);
    let fork = author.head();
    let own = author.write_joined(3, 20);
    author.go_back_to(fork);
    let branch = [author.write_filled(20, 99), author.write_filled(20, 98)];
    let name = branch_log(&author.id(), &branch[0].last_id());
    log.append(&[common, own]).unwrap();
    log.file(&branch.map(|run| Filed { log: name, run })).unwrap();
    log.sync().unwrap();
    (machine, store, log, name)
}

#[test]
fn a_branch_is_read_under_its_own_name_and_its_log_without_it() {
    let (_machine, _store, log, branch) = forked(1 << 20);
    let author = Author::new(1).id();
    let reader = log.reader();
    let read = |log: &DeviceId, after: u64, through: u64| {
        let runs = reader.read(log, after, through, 1 << 20).unwrap();
        runs.iter().map(|run| (run.author() == author, run.first(), run.last())).collect::<Vec<_>>()
    };
    assert_eq!(read(&author, 0, 9), [(true, 1, 2), (true, 3, 5)]);
    assert_eq!(read(&branch, 0, 9), [(true, 3, 3), (true, 4, 4)]);
    assert_eq!(reader.run_at(&branch, 4).unwrap().unwrap().first(), 4);
    assert_ne!(reader.run_at(&branch, 3).unwrap(), reader.run_at(&author, 3).unwrap());
}

#[test]
fn a_branch_survives_a_restart_a_rebuilt_index_a_check_and_a_backup() {
    for segment_bytes in [700, 1 << 20] {
        let (machine, store, log, branch) = forked(segment_bytes);
        let before = filed(&log);
        assert_eq!(before[2..], [(branch, 3, 3), (branch, 4, 4)]);
        let report = log.reader().verify(&mut |_| {}).unwrap();
        assert!(report.is_sound() && report.unchained.count == 0 && report.missing.is_empty(), "{report:?}");
        let (_, backup) = back_up(&log);
        drop((log, store));
        let (store, log) = machine.reopen(segment_bytes);
        assert_eq!(filed(&log), before);
        drop((log, store));
        let anew = Machine { index: Default::default(), ..machine };
        let (_store, log) = anew.reopen(segment_bytes);
        assert_eq!(filed(&log), before, "without an index");
        let restored = Machine::default();
        restore_into(&restored, &backup).unwrap();
        let store = restored.start(segment_bytes).unwrap();
        assert_eq!(filed(&store.open_space(SPACE, &mut |_| {}).unwrap()), before, "from a backup");
    }
}

#[test]
fn a_backup_with_a_run_in_a_log_that_is_not_its_authors_is_refused() {
    let victim = || {
        let (machine, store, mut log) = Machine::with_log(1 << 20);
        let mut author = Author::new(1);
        let before = author.write_joined(2, 20);
        log.append(std::slice::from_ref(&before)).unwrap();
        (machine, store, log, author, before)
    };
    let refused = |log: &mut SpaceLog, filed: &[Filed]| {
        log.file(filed).unwrap();
        log.sync().unwrap();
        let (_, backup) = back_up(log);
        restore_into(&Machine::default(), &backup).unwrap_err().to_string()
    };

    // Signed rightly by another device, which continues a log that is not its own.
    let (_machine, _store, mut log, author, _) = victim();
    let mut other = Author::new(2);
    other.go_back_to(author.head());
    let run = other.write(20);
    let reason = refused(&mut log, &[Filed { log: author.id(), run: run.clone() }]);
    assert!(reason.contains("in the log of another device"), "{reason}");

    // In a log that nobody has: one that is neither its author's nor a branch of it.
    let (_machine, _store, mut log, _, _) = victim();
    let reason = refused(&mut log, &[Filed { log: DeviceId([7; 32]), run }]);
    assert!(reason.contains("not its author's"), "{reason}");

    // The other side of a fork in the place of what follows.
    let (_machine, _store, mut log, mut author, _) = victim();
    let third = author.write(20);
    let head = author.head();
    author.go_back_to((head.0 - 1, third.previous()));
    let branch = author.write_filled(20, 99);
    author.go_back_to((branch.last(), branch.last_id()));
    let reason = refused(&mut log, &[Filed::from(third), Filed::from(author.write(20))]);
    assert!(reason.contains("does not follow"), "{reason}");
}
