//! How fast it is. Run in release: `cargo test --release -p syncline-storage -- --ignored --nocapture`.
#![allow(clippy::print_stdout, reason = "a measurement is for a person to read")]

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use syncline_model::VerifiedRun;
use syncline_storage::{AuthorRange, IndexKind, OpenOptions, SpaceLog, Store};

use super::workload::{Author, INCARNATION, SPACE};

const SINGLES: usize = 57_000;

fn open(path: &Path) -> (Store, SpaceLog) {
    let options = OpenOptions { create: true, ..OpenOptions::default() };
    let store = Store::open(path, options, &mut |_| {}).unwrap();
    if store.spaces().unwrap().is_empty() {
        store.create_space(SPACE, INCARNATION, &[]).unwrap();
    }
    let log = store.open_space(SPACE, &mut |_| {}).unwrap();
    (store, log)
}

fn report(what: &str, start: Instant, count: usize, bytes: u64) {
    let seconds = start.elapsed().as_secs_f64();
    println!("{what}: {seconds:.3} s, {:.0}/s, {:.1} MB/s", count as f64 / seconds, bytes as f64 / 1e6 / seconds);
}

/// What group commit reaches of the disk's own rate: `… -- --ignored --nocapture durable_writes`.
///
/// In turns, batch by batch: bytes of the same length appended to a plain file and synced, and runs to a log.
#[test]
#[ignore = "a measurement"]
fn durable_writes() {
    const ROUNDS: usize = 400;
    println!("| index | runs a sync | plain file, syncs/s | log, syncs/s | runs/s | of the plain file |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: |");
    for kind in IndexKind::ALL {
        for batch in [1, 16, 64, 256] {
            let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
            let mut raw = std::fs::File::create(directory.path().join("raw")).unwrap();
            let options = OpenOptions { create: true, index: kind, ..OpenOptions::default() };
            let store = Store::open(&directory.path().join("data"), options, &mut |_| {}).unwrap();
            store.create_space(SPACE, INCARNATION, &[]).unwrap();
            let mut log = store.open_space(SPACE, &mut |_| {}).unwrap();
            log.gather_index();
            let mut author = Author::new(1);
            let runs: Vec<VerifiedRun> = (0..ROUNDS * batch).map(|_| author.write(100)).collect();
            let (mut plain, mut logged, mut shares) = (Duration::ZERO, Duration::ZERO, Vec::new());
            for round in runs.chunks(batch * 20) {
                let started = Instant::now();
                for runs in round.chunks(batch) {
                    let bytes: usize = runs.iter().map(|run| run.bytes().len() + 16).sum();
                    raw.write_all(&vec![1; bytes]).unwrap();
                    raw.sync_data().unwrap();
                }
                let alone = started.elapsed();
                let started = Instant::now();
                for runs in round.chunks(batch) {
                    log.append(runs).unwrap();
                    log.sync().unwrap();
                    if log.index_backlog() > 256 {
                        log.write_index().unwrap();
                    }
                }
                let through_log = started.elapsed();
                shares.push(alone.as_secs_f64() / through_log.as_secs_f64());
                (plain, logged) = (plain + alone, logged + through_log);
            }
            shares.sort_by(f64::total_cmp);
            let (name, rate) = (kind.name(), |spent: Duration| ROUNDS as f64 / spent.as_secs_f64());
            let (alone, through_log, share) = (rate(plain), rate(logged), 100.0 * shares[shares.len() / 2]);
            let runs = through_log * batch as f64;
            println!("| {name} | {batch} | {alone:.0} | {through_log:.0} | {runs:.0} | {share:.0} % |");
            log.close().unwrap();
        }
    }
}

#[test]
#[ignore = "a measurement"]
fn measure() {
    let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let mut raw = std::fs::File::create(directory.path().join("raw")).unwrap();
    let mut measure_raw = || {
        let start = Instant::now();
        for _ in 0..500 {
            raw.write_all(&[1; 266]).unwrap();
            raw.sync_data().unwrap();
        }
        report("raw write + fdatasync", start, 500, 500 * 266);
    };
    let mut author = Author::new(1);
    let singles: Vec<VerifiedRun> = (0..SINGLES).map(|_| author.write(100)).collect();
    let bytes: u64 = singles.iter().map(|run| run.bytes().len() as u64).sum();
    println!("one single-operation run: {} bytes", bytes / SINGLES as u64);

    let path = directory.path().join("singles");
    let (store, mut log) = open(&path);
    // In turns, because the disk is seldom ours alone.
    for runs in singles[..1000].chunks(250) {
        measure_raw();
        let start = Instant::now();
        for run in runs {
            log.append(std::slice::from_ref(run)).unwrap();
            log.sync().unwrap();
        }
        report("append + sync each", start, runs.len(), 250 * 253);
    }
    let start = Instant::now();
    for runs in singles[1000..].chunks(500) {
        log.append(runs).unwrap();
        log.sync().unwrap();
    }
    report("append singles, sync per 500", start, SINGLES - 1000, bytes);
    log.close().unwrap();
    println!("index: {} bytes a run", store.index_bytes().unwrap() / SINGLES as u64);
    drop(store);
    println!("index directory: {} bytes a run", directory_bytes(&path.join("index")) / SINGLES as u64);

    read(&path, author.id(), bytes);
    std::fs::remove_dir_all(path.join("index")).unwrap();
    let start = Instant::now();
    let (store, log) = open(&path);
    report("open, index made anew", start, SINGLES, bytes);
    log.close().unwrap();
    println!("index made anew: {} bytes a run", store.index_bytes().unwrap() / SINGLES as u64);
    joined(&directory.path().join("joined"));
}

fn read(path: &Path, author: syncline_model::DeviceId, bytes: u64) {
    let start = Instant::now();
    let (_store, log) = open(path);
    report("open with index", start, SINGLES, bytes);
    let (start, mut count) = (Instant::now(), 0);
    log.replay(None, &mut |_, _| count += 1).unwrap();
    report("replay with index", start, count, bytes);
    let reader = log.reader();
    let (start, mut after, mut count) = (Instant::now(), None, 0);
    loop {
        let page = reader.read_many(&[AuthorRange { author, after: 0, through: u64::MAX }], after, 1 << 20).unwrap();
        count += page.runs.len();
        after = Some(page.reached);
        if page.complete {
            break;
        }
    }
    report("read_many, pages of 1 MiB", start, count, bytes);
    let (start, mut sequence, mut count) = (Instant::now(), 0, 0);
    while let Some(last) = reader.read(&author, sequence, u64::MAX, 1 << 20).unwrap().last() {
        count += (last.last() - sequence) as usize;
        sequence = last.last();
    }
    report("read, pages of 1 MiB", start, count, bytes);
    let start = Instant::now();
    for sequence in 1..=10_000 {
        reader.run_at(&author, sequence * 5).unwrap().unwrap();
    }
    report("run_at", start, 10_000, bytes * 10 / 57);
    let start = Instant::now();
    assert!(reader.verify(&mut |_| {}).unwrap().is_sound());
    report("verify", start, SINGLES, bytes);
}

fn joined(path: &Path) {
    let mut author = Author::new(2);
    let runs: Vec<VerifiedRun> = (0..30).map(|_| author.write_joined(4096, 100)).collect();
    let bytes: u64 = runs.iter().map(|run| run.bytes().len() as u64).sum();
    let (_store, mut log) = open(path);
    let start = Instant::now();
    for runs in runs.chunks(2) {
        log.append(runs).unwrap();
        log.sync().unwrap();
    }
    report("append joined runs, operations", start, 30 * 4096, bytes);
}

fn directory_bytes(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap());
    entries
        .map(
            |entry| {
                if entry.path().is_dir() { directory_bytes(&entry.path()) } else { entry.metadata().unwrap().len() }
            },
        )
        .sum()
}
