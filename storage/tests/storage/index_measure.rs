//! sled and redb side by side. Run in release:
//! `cargo test --release -p syncline-storage --test storage -- --ignored --nocapture measure_indexes`.
#![allow(clippy::print_stdout, reason = "a measurement is for a person to read")]

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use syncline_storage::index::INDEX_CACHE_BYTES;
use syncline_storage::{Batch, FileDisk, Index, IndexKind, RedbIndex, SledIndex};

use super::workload::Random;

const SIZES: [usize; 3] = [10_000, 100_000, 1_000_000];
/// Changes of one batch, as a group of small writes makes them.
const BATCH_CHANGES: usize = 256;
const VALUE_BYTES: usize = 100;
const READS: usize = 20_000;

fn open(kind: IndexKind, path: &Path) -> Box<dyn Index> {
    match kind {
        IndexKind::Redb => Box::new(RedbIndex::open_on(&FileDisk::new(path), "", INDEX_CACHE_BYTES).unwrap()),
        _ => Box::new(SledIndex::open(path, INDEX_CACHE_BYTES).unwrap()),
    }
}

/// A key as the index has them: a number, an area, an author, a sequence.
fn key(number: usize) -> Vec<u8> {
    let author = (number % 50) as u8;
    [&[0, 0, 0, 1, 2][..], &[author; 32], &(number as u64).to_be_bytes()].concat()
}

fn bytes_below(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { bytes_below(&path) } else { std::fs::metadata(path).unwrap().len() }).sum()
}

fn per_second(count: usize, start: Instant) -> f64 {
    count as f64 / start.elapsed().as_secs_f64()
}

#[test]
#[ignore = "a measurement"]
fn measure_indexes() {
    println!(
        "| index | entries | batched changes/s | point reads/s | scanned entries/s | flush ms | open ms | bytes/entry |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    for entries in SIZES {
        for kind in IndexKind::ALL {
            measure(kind, entries);
        }
    }
}

fn measure(kind: IndexKind, entries: usize) {
    let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let path = directory.path().join("index");
    let index = open(kind, &path);
    let start = Instant::now();
    for first in (0..entries).step_by(BATCH_CHANGES) {
        let mut batch = Batch::default();
        for number in first..entries.min(first + BATCH_CHANGES) {
            batch.put(key(number), vec![number as u8; VALUE_BYTES]);
        }
        index.apply(batch).unwrap();
    }
    let written = per_second(entries, start);
    let start = Instant::now();
    index.flush().unwrap();
    let flushed = start.elapsed().as_secs_f64() * 1e3;
    let (mut random, start) = (Random(7), Instant::now());
    for _ in 0..READS {
        assert!(index.value(&key(random.below(entries as u64) as usize)).unwrap().is_some());
    }
    let read = per_second(READS, start);
    let (mut seen, start) = (0, Instant::now());
    index
        .scan(&[0], &[1], &mut |_, _| {
            seen += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(seen, entries);
    let scanned = per_second(entries, start);
    drop(index);
    let bytes = bytes_below(&path) / entries as u64;
    let start = Instant::now();
    drop(open(kind, &path));
    let opened = start.elapsed().as_secs_f64() * 1e3;
    let name = kind.name();
    println!("| {name} | {entries} | {written:.0} | {read:.0} | {scanned:.0} | {flushed:.0} | {opened:.0} | {bytes} |");
}
