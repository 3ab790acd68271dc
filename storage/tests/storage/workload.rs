//! Runs to store, and stores to put them in.

use std::sync::Arc;

use syncline_model::{DeviceKey, Header, Kind, OperationId, RunSummary, SpaceId, VerifiedRun};
use syncline_storage::{
    AppendLimits, Incarnation, MemoryDisk, MemoryIndex, OpenOptions, Position, SpaceLog, StorageError, Store,
};

pub(crate) const SPACE: SpaceId = SpaceId([1; 32]);
pub(crate) const INCARNATION: Incarnation = Incarnation([5; 16]);

/// One author's log as it grows.
pub(crate) struct Author {
    key: DeviceKey,
    sequence: u64,
    head: OperationId,
}

impl Author {
    pub(crate) fn new(seed: u8) -> Self {
        Self { key: DeviceKey::from_seed(&[seed; 32]), sequence: 0, head: OperationId::ZERO }
    }

    pub(crate) fn id(&self) -> syncline_model::DeviceId {
        self.key.id()
    }

    /// Goes on after a run of its own, or from the beginning: what it wrote since was lost.
    pub(crate) fn go_on_after(&mut self, run: Option<&VerifiedRun>) {
        self.sequence = run.map_or(0, |run| run.last());
        self.head = run.map_or(OperationId::ZERO, |run| run.last_id());
    }

    /// The next operation, its payload filled with its sequence.
    pub(crate) fn write(&mut self, payload_bytes: usize) -> VerifiedRun {
        self.write_filled(payload_bytes, (self.sequence + 1) as u8)
    }

    /// Forgets what it wrote since `head` was its last: nobody took it.
    pub(crate) fn go_back_to(&mut self, (sequence, head): (u64, OperationId)) {
        (self.sequence, self.head) = (sequence, head);
    }

    /// Its last sequence and id.
    pub(crate) fn head(&self) -> (u64, OperationId) {
        (self.sequence, self.head)
    }

    /// The next operation, its payload filled with `fill`.
    pub(crate) fn write_filled(&mut self, payload_bytes: usize, fill: u8) -> VerifiedRun {
        self.sequence += 1;
        let header = Header {
            kind: Kind::DATA,
            space: SPACE,
            author: self.key.id(),
            sequence: self.sequence,
            previous: self.head,
            membership: 1,
            epoch: 1,
            dependencies: Vec::new(),
            payload_length: payload_bytes as u32,
        };
        let run = VerifiedRun::author(&self.key, &header, |_| vec![fill; payload_bytes]).unwrap();
        self.head = run.last_id();
        run
    }

    /// The next `count` operations as one run.
    pub(crate) fn write_joined(&mut self, count: usize, payload_bytes: usize) -> VerifiedRun {
        let runs: Vec<VerifiedRun> = (0..count).map(|_| self.write(payload_bytes)).collect();
        VerifiedRun::join(&runs).unwrap()
    }
}

/// A machine: what survives its process.
#[derive(Clone, Default)]
pub(crate) struct Machine {
    pub(crate) disk: MemoryDisk,
    pub(crate) index: MemoryIndex,
}

impl Machine {
    pub(crate) fn start(&self, segment_bytes: u32) -> Result<Store, StorageError> {
        let limits = AppendLimits { segment_bytes, margin_bytes: 2000 };
        Store::assemble(
            Arc::new(self.disk.clone()),
            Arc::new(self.index.clone()),
            OpenOptions { create: true, limits, ..OpenOptions::default() },
        )
    }

    /// A new machine with an open, empty log.
    pub(crate) fn with_log(segment_bytes: u32) -> (Self, Store, SpaceLog) {
        let machine = Self::default();
        let store = machine.start(segment_bytes).unwrap();
        store.create_space(SPACE, INCARNATION, &[]).unwrap();
        let log = store.open_space(SPACE, &mut |_| {}).unwrap();
        (machine, store, log)
    }

    /// Starts again and opens the log.
    pub(crate) fn reopen(&self, segment_bytes: u32) -> (Store, SpaceLog) {
        let store = self.start(segment_bytes).unwrap();
        let log = store.open_space(SPACE, &mut |_| {}).unwrap();
        (store, log)
    }

    pub(crate) fn flip(&self, path: &str, offset: u64) {
        let file = syncline_storage::Disk::open(&self.disk, path).unwrap();
        let mut byte = [0];
        assert_eq!(file.read_at(offset, &mut byte).unwrap(), 1);
        file.write_at(offset, &[byte[0] ^ 0x10]).unwrap();
        file.sync().unwrap();
    }
}

pub(crate) fn segment(number: u32) -> String {
    format!("spaces/{SPACE}/log/{number:010}.log")
}

/// Everything a log shows, in order of arrival, read through the index and from the log.
pub(crate) fn shown(log: &SpaceLog) -> Vec<(Position, RunSummary)> {
    let mut shown = Vec::new();
    log.replay(None, &mut |position, summary| shown.push((position, summary))).unwrap();
    let reader = log.reader();
    for (position, summary) in &shown {
        let run = reader.run_by_position(*position).unwrap().expect("what is indexed can be read");
        assert_eq!(RunSummary::of(&run), *summary);
    }
    shown
}

pub(crate) fn sequences(log: &SpaceLog) -> Vec<u64> {
    shown(log).iter().flat_map(|(_, summary)| summary.first..=summary.last()).collect()
}

/// A small deterministic generator.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}
