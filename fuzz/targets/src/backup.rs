//! Backup files, which anybody may have made or changed.

use std::sync::Arc;

use syncline_model::Run;
use syncline_storage::{Incarnation, MemoryDisk, MemoryIndex, OpenOptions, Store, restore};

use crate::model::SPACE;
use crate::script::Script;
use crate::storage::shown;

const FRONT: &[u8] = b"syncline backup\n\x01\0\0\0";
const RUNS: u8 = 3;
const SPACE_END: u8 = 4;
const CHECKPOINT: u8 = 5;
const END: u8 = 6;

/// A backup that is what the script says: it is refused, or everything in it is sound, signed and shown again by a
/// store that opens it anew.
///
/// Script: one byte (bit 0: frames follow, whose hashes and counts are made to fit), then a kind and a body for each
/// frame; else the file as it is.
pub fn backup(bytes: &[u8]) -> bool {
    let mut script = Script::new(bytes);
    let file = if script.byte() & 1 == 0 { script.rest().to_vec() } else { framed(&mut script) };
    let (disk, index) = (MemoryDisk::new(), MemoryIndex::new());
    let open = || {
        let options = OpenOptions { create: true, ..OpenOptions::default() };
        Store::assemble(Arc::new(disk.clone()), Arc::new(index.clone()), options).map(Arc::new)
    };
    let store = open().expect("an empty disk");
    let restored =
        restore(&file[..], &store, &mut || Incarnation([5; 16]), &mut |file| Ok(Some(file.bytes.clone())), &mut |_| {});
    drop(store);
    let Ok(summary) = restored else { return false };
    let store = open().expect("what was restored as a whole opens");
    let mut operations = 0;
    for space in store.spaces().expect("a memory disk can be read") {
        let log = store.open_space(space, &mut |_| {}).expect("a restored log opens");
        let report = log.reader().verify(&mut |_| {}).expect("a log that opens can be checked");
        // What was damaged where it was made is missing in it, so logs may have gaps.
        let findings = [&report.damaged, &report.quarantined, &report.unsigned, &report.misindexed];
        assert!(findings.iter().all(|found| found.count == 0) && report.index_surplus == 0, "{report:?}");
        operations += shown(&log, true).iter().map(|(_, run)| run.operations.len() as u64).sum::<u64>();
    }
    assert_eq!(operations, summary.operations, "all that is in it is there");
    operations > 0
}

fn framed(script: &mut Script<'_>) -> Vec<u8> {
    let mut file = FRONT.to_vec();
    let (mut hashed, mut before) = (0, Vec::new());
    let (mut of_space, mut of_all, mut spaces) = ([0_u64; 2], [0_u64; 2], 0_u64);
    while !script.is_over() {
        let (kind, body) = (script.byte(), script.bytes());
        let numbers = |numbers: &[u64]| numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>();
        let body = match kind {
            RUNS => {
                let operations = Run::decode(SPACE, body.to_vec()).map_or(1, |run| run.operations().len() as u64);
                of_space = [of_space[0] + 1, of_space[1] + operations];
                [&(body.len() as u32).to_le_bytes()[..], body].concat()
            }
            SPACE_END if body.is_empty() => {
                of_all = [of_all[0] + of_space[0], of_all[1] + of_space[1]];
                spaces += 1;
                numbers(&std::mem::take(&mut of_space))
            }
            END if body.is_empty() => numbers(&[spaces, of_all[0], of_all[1]]),
            CHECKPOINT => {
                before = blake3::hash(&[&before[..], &file[hashed..]].concat()).as_bytes().to_vec();
                before.clone()
            }
            _ => body.to_vec(),
        };
        file.push(kind);
        file.extend_from_slice(&(body.len() as u32).to_le_bytes());
        file.extend_from_slice(&body);
        if kind == CHECKPOINT {
            hashed = file.len();
        }
    }
    file
}
