//! What stands in a log's segment files: bits that changed, and bytes that nobody of ours wrote.

use std::sync::Arc;

use syncline_model::{DeviceKey, Header, Kind, OperationId, Run, RunSummary, SpaceId, VerifiedRun};
use syncline_storage::disk::Access;
use syncline_storage::{
    AppendLimits, Disk, Incarnation, MemoryDisk, MemoryIndex, OpenOptions, Position, SpaceLog, StorageError, Store,
};

use crate::model::SPACE;
use crate::script::Script;

const INCARNATION: Incarnation = Incarnation([5; 16]);
const SEGMENT_HEADER_BYTES: usize = 80;
/// Changed bytes in one run.
const PATCHES_MAX: usize = 16;
/// Small, so that a few runs fill several segments.
const SEGMENT_BYTES: u32 = 1500;

/// A log whose segments are what the script says: it opens or says why not, shows nothing else when it is opened again,
/// goes on to take runs, and never takes chance changes for somebody's operations.
///
/// Script: one byte (bits 0 and 1: what is changed, bit 2: whether the index is lost), then what that kind takes.
pub fn segment(bytes: &[u8]) -> bool {
    let mut script = Script::new(bytes);
    let control = script.byte();
    let machine = Machine::default();
    let genuine = control & 3 < 2;
    machine.write_log();
    match control & 3 {
        0 => machine.patch(&mut script),
        1 => machine.replace(1, script.rest()),
        _ => machine.replace(1, &forged(&mut script)),
    }
    if control & 4 != 0 {
        machine.index.erase();
    }
    let Some((store, log)) = machine.open() else { return false };
    let before = shown(&log, genuine);
    log.reader().verify(&mut |_| {}).expect("a log that opens can be checked");
    drop((log, store));
    let (store, mut log) = machine.open().expect("what opened once opens again");
    // Reading may have put more into quarantine, nothing may come back.
    let again = shown(&log, genuine);
    assert!(again.iter().all(|run| before.contains(run)), "{again:?} of {before:?}");
    let run = author(9, 1, OperationId::ZERO, 64);
    if let Ok(positions) = log.append(&[run]) {
        log.sync().expect("a memory disk can be synced");
        let appended = shown(&log, genuine);
        assert!(again.iter().all(|run| appended.contains(run)));
        assert!(appended.iter().any(|(position, _)| *position == positions[0]));
        drop((log, store));
        let (_store, log) = machine.open().expect("what opened before opens again");
        assert_eq!(shown(&log, genuine), appended, "what was synced is there");
    }
    !before.is_empty()
}

/// What survives a process.
#[derive(Default)]
struct Machine {
    disk: MemoryDisk,
    index: MemoryIndex,
}

impl Machine {
    fn start(&self) -> Option<Store> {
        let limits = AppendLimits { segment_bytes: SEGMENT_BYTES, margin_bytes: 2000 };
        let options = OpenOptions { create: true, limits, ..OpenOptions::default() };
        Store::assemble(Arc::new(self.disk.clone()), Arc::new(self.index.clone()), options).ok()
    }

    fn open(&self) -> Option<(Store, SpaceLog)> {
        let store = self.start()?;
        let log = store.open_space(SPACE, &mut |_| {}).ok()?;
        Some((store, log))
    }

    /// Writes a log of several segments.
    fn write_log(&self) {
        let store = self.start().expect("an empty disk");
        store.create_space(SPACE, INCARNATION, &[]).expect("an empty disk");
        let mut log = store.open_space(SPACE, &mut |_| {}).expect("a new space");
        let mut previous = OperationId::ZERO;
        for sequence in 1..=6 {
            let run = author(1, sequence, previous, 200);
            previous = run.last_id();
            log.append(&[run]).expect("room for some runs");
            if sequence % 2 == 0 {
                log.sync().expect("a memory disk can be synced");
            }
        }
    }

    fn replace(&self, number: u32, bytes: &[u8]) {
        let path = segment_path(number);
        let file = self.disk.create(&path, Access::Default).expect("a memory disk takes it");
        file.write_at(0, bytes).expect("a memory disk takes it");
        file.sync().expect("a memory disk can be synced");
    }

    /// Changes single bytes, and may cut a segment.
    fn patch(&self, script: &mut Script<'_>) {
        for _ in 0..PATCHES_MAX {
            if script.is_over() {
                return;
            }
            let Ok(file) = self.disk.open(&segment_path(1 + u32::from(script.byte() % 3))) else { continue };
            let length = file.length().expect("a memory disk knows");
            let offset = u64::from(script.short()) % length.max(1);
            match script.byte() {
                0 => file.set_length(offset).expect("a memory disk can cut"),
                mask => {
                    let mut byte = [0];
                    file.read_at(offset, &mut byte).expect("a memory disk can be read");
                    file.write_at(offset, &[byte[0] ^ mask]).expect("a memory disk takes it");
                }
            }
            file.sync().expect("a memory disk can be synced");
        }
    }
}

fn segment_path(number: u32) -> String {
    format!("spaces/{SPACE}/log/{number:010}.log")
}

fn author(seed: u8, sequence: u64, previous: OperationId, payload_bytes: usize) -> VerifiedRun {
    let key = DeviceKey::from_seed(&[seed; 32]);
    let header = Header {
        kind: Kind::DATA,
        space: SPACE,
        author: key.id(),
        sequence,
        previous,
        membership: 1,
        epoch: 1,
        dependencies: Vec::new(),
        payload_length: payload_bytes as u32,
    };
    VerifiedRun::author(&key, &header, |_| vec![sequence as u8; payload_bytes]).expect("a well-formed operation")
}

/// A segment with good checksums over whatever the script has: the fields of its header, then records.
fn forged(script: &mut Script<'_>) -> Vec<u8> {
    let mut bytes = b"syncline".to_vec();
    bytes.extend_from_slice(&u32::from(1 + script.byte() / 128).to_le_bytes());
    bytes.extend_from_slice(&u32::from(1 + script.byte() / 128).to_le_bytes());
    let space = if script.byte() == 255 { SpaceId([0; 32]) } else { SPACE };
    bytes.extend_from_slice(&space.0);
    bytes.extend_from_slice(&INCARNATION.0);
    for field in [script.short(), script.short(), 0, 0] {
        bytes.extend_from_slice(&u32::from(field).to_le_bytes());
    }
    bytes.truncate(SEGMENT_HEADER_BYTES - 4);
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    while !script.is_over() {
        let (control, synced, body) = (script.byte(), script.short(), script.bytes());
        if control & 1 == 1 {
            // No record at all.
            bytes.extend_from_slice(body);
            continue;
        }
        let synced = if control & 2 == 0 { u32::from(synced) } else { bytes.len() as u32 };
        let length = if control & 4 == 0 { body.len() as u32 } else { u32::from(synced as u16) << 12 };
        let fields = [length.to_le_bytes(), synced.to_le_bytes(), crc32c::crc32c(body).to_le_bytes()].concat();
        let place = (1_u64 << 32 | bytes.len() as u64).to_le_bytes();
        let seed = crc32c::crc32c(&SPACE.0);
        let crc = crc32c::crc32c_append(crc32c::crc32c_append(seed, &place), &fields);
        bytes.extend_from_slice(&fields);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes.extend_from_slice(body);
    }
    bytes
}

/// Everything that the log shows, read from the index and from the log. Somebody who can write good checksums into
/// the files can put anything there; chance cannot, so then every signature holds.
pub(crate) fn shown(log: &SpaceLog, genuine: bool) -> Vec<(Position, RunSummary)> {
    let mut shown = Vec::new();
    log.replay(None, &mut |position, summary| shown.push((position, summary))).expect("the index can be read");
    let reader = log.reader();
    // A run that turns out to be damaged is told once and in quarantine from then on.
    let readable = |(position, summary): &(Position, RunSummary)| {
        let run = match reader.run_by_position(*position) {
            Ok(Some(run)) => run,
            Ok(None) => return false,
            Err(StorageError::Damaged { .. }) => {
                assert!(reader.run_by_position(*position).is_ok_and(|run| run.is_none()));
                return false;
            }
            Err(error) => panic!("{error}"),
        };
        assert_eq!(RunSummary::of(&run), *summary);
        assert!(!genuine || Run::verify(run).is_ok(), "a signature that does not hold");
        true
    };
    shown.retain(readable);
    shown
}
