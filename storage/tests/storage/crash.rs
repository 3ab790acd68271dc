//! Crashes at every call, of the process and of the machine.

use syncline_storage::{Disk, StorageError};

use super::workload::{Author, INCARNATION, Machine, Random, SPACE, segment, sequences, shown};

const SEGMENT_BYTES: u32 = 1500;

/// Creates a space and appends to it; returns the sequences that were acknowledged before the disk gave up.
fn work(machine: &Machine) -> Result<u64, (u64, StorageError)> {
    let mut acknowledged = 0;
    let mut steps = || {
        let store = machine.start(SEGMENT_BYTES)?;
        if store.spaces()?.is_empty() {
            store.create_space(SPACE, INCARNATION, &[("keys", b"secret")])?;
        }
        let mut log = store.open_space(SPACE, &mut |_| {})?;
        let mut author = Author::new(1);
        for group in 0..7 {
            let runs: Vec<_> = (0..=group % 3).map(|_| author.write(200)).collect();
            log.append(&runs[..1])?;
            log.append(&runs[1..])?;
            log.sync()?;
            acknowledged = runs.last().map_or(0, |run| run.last());
        }
        log.close()
    };
    let outcome = steps();
    outcome.map(|()| acknowledged).map_err(|error| (acknowledged, error))
}

/// Opens the store after a crash; returns the sequences shown, which must be the first ones without a gap.
fn sequences_after_crash(machine: &Machine, context: &str) -> u64 {
    let store = machine.start(SEGMENT_BYTES).unwrap_or_else(|error| panic!("{context}: {error}"));
    if store.spaces().unwrap().is_empty() {
        return 0;
    }
    assert_eq!(
        store.files().read(syncline_storage::FileScope::Space(SPACE), "keys").unwrap().as_deref(),
        Some(&b"secret"[..]),
        "{context}: a space appears with its keys"
    );
    let log = store.open_space(SPACE, &mut |_| {}).unwrap_or_else(|error| panic!("{context}: {error}"));
    let sequences = sequences(&log);
    let count = sequences.len() as u64;
    assert_eq!(sequences, (1..=count).collect::<Vec<_>>(), "{context}");
    assert_eq!(log.stats().unwrap().quarantined, 0, "{context}: a crash damages nothing that was durable");
    let report = log.reader().verify(&mut |_| {}).unwrap();
    assert!(report.is_sound() && report.runs == count && report.unchained.count == 0, "{context}: {report:?}");
    count
}

fn calls_of_all_work() -> u64 {
    let machine = Machine::default();
    assert_eq!(work(&machine).unwrap(), 13);
    machine.disk.calls()
}

#[test]
fn what_was_acknowledged_survives_a_power_loss_at_any_call() {
    for at in 0..calls_of_all_work() {
        for seed in 0..12 {
            let machine = Machine::default();
            machine.disk.kill_after(at);
            let (acknowledged, _) = work(&machine).unwrap_err();
            let mut random = Random(seed * 1000 + at);
            machine.disk.lose_power(&mut |bound| random.below(bound));
            match seed % 3 {
                0 => machine.index.lose_power(&mut |bound| random.below(bound)),
                1 => machine.index.erase(),
                _ => {}
            }
            let context = format!("call {at}, seed {seed}");
            let shown = sequences_after_crash(&machine, &context);
            assert!(shown >= acknowledged, "{context}: {acknowledged} acknowledged, {shown} shown");
            assert_eq!(machine.disk.faults_fired(), 1);
        }
    }
}

#[test]
fn what_was_shown_after_a_process_crash_survives_a_power_loss() {
    for at in 0..calls_of_all_work() {
        for keep_index in [true, false] {
            let machine = Machine::default();
            machine.disk.kill_after(at);
            let (acknowledged, _) = work(&machine).unwrap_err();
            machine.disk.restart();
            if !keep_index {
                machine.index.erase();
            }
            let context = format!("call {at}, index kept: {keep_index}");
            let shown = sequences_after_crash(&machine, &context);
            assert!(shown >= acknowledged, "{context}");
            machine.disk.lose_power(&mut |_| 0);
            machine.index.lose_power(&mut |_| 0);
            let later = sequences_after_crash(&machine, &context);
            assert_eq!(later, shown, "{context}: what was shown once stays");
        }
    }
}

#[test]
fn a_crash_at_any_call_of_the_recovery_loses_nothing() {
    // A process that dies before the last sync leaves records to copy, and a second one dies copying them.
    let all = calls_of_all_work();
    for at in (all / 2..all).step_by(3) {
        let mut reached_the_end = false;
        for recovery_at in 0..40 {
            for seed in 0..4 {
                let machine = Machine::default();
                machine.disk.kill_after(at);
                let (acknowledged, _) = work(&machine).unwrap_err();
                machine.disk.restart();
                if seed % 2 == 0 {
                    machine.index.erase();
                }
                machine.disk.kill_after(recovery_at);
                let opened = machine.start(SEGMENT_BYTES).and_then(|store| store.open_space(SPACE, &mut |_| {}));
                let seen = opened.as_ref().map_or(0, |log| sequences(log).len() as u64);
                reached_the_end |= opened.is_ok();
                drop(opened);
                let mut random = Random(seed + 77 * recovery_at);
                machine.disk.lose_power(&mut |bound| random.below(bound));
                machine.index.lose_power(&mut |bound| random.below(bound));
                let context = format!("call {at}, recovery call {recovery_at}, seed {seed}");
                let shown = sequences_after_crash(&machine, &context);
                assert!(shown >= acknowledged.max(seen), "{context}: {acknowledged}, {seen}, {shown}");
            }
        }
        assert!(reached_the_end, "call {at}: the crash points cover the whole recovery");
    }
}

#[test]
fn work_goes_on_after_a_crash_at_any_call() {
    for at in 0..calls_of_all_work() {
        let machine = Machine::default();
        machine.disk.kill_after(at);
        work(&machine).unwrap_err();
        let mut random = Random(at);
        machine.disk.lose_power(&mut |bound| random.below(bound));
        machine.index.lose_power(&mut |bound| random.below(bound));
        let before = sequences_after_crash(&machine, "after the crash");
        if before == 0 {
            continue;
        }
        let (store, mut log) = machine.reopen(SEGMENT_BYTES);
        let mut author = Author::new(1);
        for _ in 0..before {
            author.write(200);
        }
        let mut next = author.write(200);
        for _ in 0..3 {
            log.append(&[next]).unwrap();
            log.sync().unwrap();
            next = author.write(200);
        }
        drop((log, store));
        machine.disk.lose_power(&mut |_| 0);
        machine.index.erase();
        assert_eq!(sequences_after_crash(&machine, "later"), before + 3);
    }
}

#[test]
fn openings_without_new_records_copy_nothing() {
    let machine = Machine::default();
    machine.disk.kill_after(calls_of_all_work() - 2);
    work(&machine).unwrap_err();
    machine.disk.restart();
    machine.index.erase();
    sequences_after_crash(&machine, "first");
    let files = machine.disk.list(&format!("spaces/{SPACE}/log")).unwrap();
    for _ in 0..3 {
        machine.index.erase();
        sequences_after_crash(&machine, "again");
        assert_eq!(machine.disk.list(&format!("spaces/{SPACE}/log")).unwrap(), files);
    }
}

#[test]
fn a_tail_torn_at_any_byte_is_cut_and_the_rest_shown() {
    let (machine, store, mut log) = Machine::with_log(1 << 20);
    let mut author = Author::new(1);
    log.append(&[author.write(50), author.write(50)]).unwrap();
    log.sync().unwrap();
    let end = Disk::open(&machine.disk, &segment(1)).unwrap().length().unwrap();
    let expected = shown(&log);
    log.append(&[author.write(300)]).unwrap();
    drop((log, store));
    let mut whole = vec![0; 4096];
    let length = Disk::open(&machine.disk, &segment(1)).unwrap().read_at(0, &mut whole).unwrap();
    for cut in end..length as u64 {
        for zeros in [false, true] {
            if zeros && whole[cut as usize..length].iter().all(|byte| *byte == 0) {
                continue; // Then nothing is torn.
            }
            let torn = Machine { index: machine.index.clone(), ..Machine::default() };
            for directory in ["spaces", &format!("spaces/{SPACE}"), &format!("spaces/{SPACE}/log")] {
                torn.disk.create_directory(directory).unwrap();
            }
            let file = torn.disk.create(&segment(1), syncline_storage::disk::Access::Default).unwrap();
            file.write_at(0, &whole[..cut as usize]).unwrap();
            if zeros {
                // Some file systems leave zeros where data did not arrive.
                file.write_at(cut, &vec![0; length - cut as usize]).unwrap();
            }
            let (_store, log) = torn.reopen(1 << 20);
            assert_eq!(shown(&log), expected, "cut at {cut}");
            assert_eq!(file.length().unwrap(), end);
            assert_eq!(log.stats().unwrap().quarantined, 0);
        }
    }
}
