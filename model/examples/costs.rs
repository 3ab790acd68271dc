//! What one operation costs in each step on its way: `cargo run --release -p syncline-model --example costs`.
#![allow(clippy::print_stdout, clippy::disallowed_methods, clippy::disallowed_types, reason = "it measures time")]

use std::convert::Infallible;
use std::hint::black_box;
use std::time::Instant;

use rand_core::{TryCryptoRng, TryRng};
use syncline_model::keys::{SEAL_OVERHEAD_BYTES, open, seal};
use syncline_model::limits::RUN_OPERATIONS_MAX;
use syncline_model::membership::{Facts, Genesis, Place, Statement};
use syncline_model::payload::{Action, Entry, Lineage, Transaction};
use syncline_model::run::RunBuilder;
use syncline_model::{
    Admission, Causality, ContentKey, Dependency, DeviceId, DeviceKey, Header, Kind, Membership, OperationId, Run,
    RunSummary, SpaceId, Strings, VerifiedRun, VersionVector,
};

/// Not random at all, and so costs nothing.
struct Counter(u64);

impl TryRng for Counter {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        self.try_next_u64().map(|number| number as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        self.0 += 1;
        Ok(self.0)
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for chunk in bytes.chunks_mut(8) {
            self.0 += 1;
            chunk.copy_from_slice(&self.0.to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

impl TryCryptoRng for Counter {}

/// The best of several rounds, in nanoseconds per unit: rounds are short, so that a busy machine leaves some alone.
fn measure<T>(what: &str, units: usize, mut work: impl FnMut() -> T) {
    let best = (0..50)
        .map(|_| {
            let began = Instant::now();
            black_box(work());
            began.elapsed().as_nanos()
        })
        .min()
        .unwrap_or_default();
    println!("{what:<64} {:>9} ns", best / units as u128);
}

fn transaction(documents: usize) -> Transaction {
    // A change of one small record: bytes that barely compress, as Automerge writes them.
    let change = |n: usize| (0..180).map(|at| (at * 37 + n * 101 + (at * at) / 7) as u8).collect();
    let entry =
        |n: usize| Entry { key: format!("cities/FR/{n:05}").parse().unwrap(), action: Action::Change(change(n)) };
    Transaction {
        wall_time_ms: 1_700_000_000_000,
        lineage: Lineage([9; 16]),
        entries: (0..documents).map(entry).collect(),
    }
}

struct Log {
    key: DeviceKey,
    content: ContentKey,
    space: SpaceId,
    genesis: Genesis,
}

impl Log {
    fn header(&self, kind: Kind, sequence: u64, previous: OperationId, length: usize) -> Header {
        Header {
            kind,
            space: self.space,
            author: self.key.id(),
            sequence,
            previous,
            membership: if kind == Kind::DATA { 2 } else { sequence - 1 },
            epoch: u32::from(kind == Kind::DATA),
            dependencies: Vec::new(),
            payload_length: length as u32,
        }
    }

    fn founding(&self) -> VerifiedRun {
        let mut membership = Membership::new(self.space);
        let mut builder = RunBuilder::new(self.space, self.key.id(), 1, OperationId::ZERO);
        for statement in [
            Statement::Genesis(self.genesis.clone()),
            Statement::Epoch {
                epoch: 1,
                content_commitment: [0; 32],
                replication_commitment: [0; 32],
                previous_key: None,
            },
        ] {
            let record = membership.next_record(statement, 0).encode();
            let (sequence, previous) = builder.head();
            let id = self.key.id();
            let place = Place { author: id, log: id, sequence: sequence + 1 };
            membership.apply_record(place, &record, &|_, _| true).unwrap();
            builder.push(&self.header(Kind::MEMBERSHIP, sequence + 1, previous, record.len()), |_| record).unwrap();
        }
        builder.finish(&self.key).unwrap()
    }

    fn write(&self, founding: &Run, plaintext: &[u8], count: usize) -> RunBuilder {
        let mut random = Counter(0);
        let mut builder = RunBuilder::new(self.space, self.key.id(), founding.last() + 1, founding.last_id());
        for _ in 0..count {
            let (sequence, previous) = builder.head();
            let header = self.header(Kind::DATA, sequence + 1, previous, plaintext.len() + SEAL_OVERHEAD_BYTES);
            builder.push(&header, |header| seal(&self.content, header, plaintext, &mut random)).unwrap();
        }
        builder
    }
}

fn main() {
    let key = DeviceKey::from_seed(&[1; 32]);
    let genesis = Genesis {
        steward: key.id(),
        steward_exchange: key.exchange_public(),
        recovery: DeviceId([2; 32]),
        strings: Strings::Scalar,
        nonce: [3; 16],
    };
    let log = Log { content: ContentKey([4; 32]), space: genesis.space(), genesis, key };
    let founding = log.founding();
    operations(&log, &founding);
    payloads();
    causality();
}

fn operations(log: &Log, founding: &VerifiedRun) {
    const COUNT: usize = RUN_OPERATIONS_MAX;
    let transaction = transaction(1);
    let plaintext = transaction.to_plaintext(16);
    println!("one document of 180 bytes per operation, {} bytes sealed, {COUNT} operations in a run", plaintext.len());
    measure("RunBuilder::push and seal, per operation", 64, || log.write(founding, &plaintext, 64));
    measure("seal alone", 64, || {
        (0..64).for_each(|n| drop(black_box(seal(&log.content, &[0; 120], &plaintext, &mut Counter(n)))));
    });
    measure("RunBuilder::finish: sign and lay out, per run of one", 1, || {
        log.write(founding, &plaintext, 1).finish(&log.key)
    });
    let run = log.write(founding, &plaintext, COUNT).finish(&log.key).unwrap();
    let bytes = run.bytes().clone();
    measure("Run::decode, per operation", COUNT, || Run::decode(log.space, bytes.clone()).unwrap());
    let decoded = Run::decode(log.space, bytes).unwrap();
    measure("Run::verify, per run", 1, || decoded.clone().verify().unwrap());
    measure("open and from_plaintext, per operation", 64, || {
        for (sequence, operation) in (run.first()..).zip(run.operations()).take(64) {
            let header = run.header(sequence).unwrap().canonical_bytes();
            let plaintext = open(&log.content, &header, run.payload(operation)).unwrap();
            black_box(Transaction::from_plaintext(&plaintext).unwrap());
        }
    });
    measure("RunSummary::of, per operation", COUNT, || RunSummary::of(&run));
    let (first, summary) = (RunSummary::of(founding), RunSummary::of(&run));
    measure("RunSummary::encode and decode, per operation", COUNT, || RunSummary::decode(&summary.encode()).unwrap());
    measure("Admission::hold, per operation", COUNT, || {
        let mut admission = Admission::new(log.space, &Facts::default());
        let mut admitted = Vec::with_capacity(COUNT + 2);
        assert!(admission.hold(&first, &mut admitted) && admission.hold(&summary, &mut admitted));
        assert_eq!(admitted.iter().filter(|operation| operation.fault.is_none()).count(), COUNT + 2);
        (admission, admitted)
    });
}

fn payloads() {
    for documents in [1, 100, 1000] {
        let transaction = transaction(documents);
        let plaintext = transaction.to_plaintext(16);
        println!("{documents} documents per transaction, {} bytes", plaintext.len());
        measure("Transaction::to_plaintext", 1, || transaction.to_plaintext(16));
        measure("Transaction::from_plaintext", 1, || Transaction::from_plaintext(&plaintext).unwrap());
    }
}

/// Authors who all build on one another's heads in turn, the densest history there is.
fn causality() {
    for authors in [4u64, 32, 128] {
        let device = |n: u64| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&n.to_be_bytes());
            DeviceId(id)
        };
        let (mut causality, mut admitted) = (Causality::default(), VersionVector::default());
        for sequence in 1..=100 {
            for author in 0..authors {
                let dependencies = if sequence % 10 == 0 {
                    causality.heads(device(author), sequence - 1, &admitted)
                } else {
                    let before = device((author + authors - 1) % authors);
                    let id = admitted.head(&before);
                    let dependency = Dependency { author: before, sequence: admitted.sequence(&before), id };
                    if dependency.sequence == 0 { vec![] } else { vec![dependency] }
                };
                causality.record(device(author), sequence, &dependencies);
                admitted.advance(device(author), sequence, OperationId([1; 32]));
            }
        }
        // Everybody writes once more without hearing of the others.
        (0..authors).for_each(|author| admitted.advance(device(author), 101, OperationId([1; 32])));
        println!("{authors} authors of 100 operations each");
        measure("Causality::heads, all others' heads new", 1, || causality.heads(device(0), 101, &admitted));
        measure("Causality::past", 1, || causality.past(device(0), 100));
    }
}
