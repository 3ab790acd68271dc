//! What the parts of a write and of a join cost by themselves: `cargo bench --bench parts`.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use syncline::documents::{Document, Edit, IncomingChange, StringMode};
use syncline_model::keys::{SEAL_OVERHEAD_BYTES, open, seal, verify};
use syncline_model::run::RunBuilder;
use syncline_model::{
    Action, ContentKey, DeviceKey, Entry, Header, Kind, Lineage, OperationId, Run, SpaceId, Transaction, VerifiedRun,
};

const SPACE: SpaceId = SpaceId([1; 32]);
const ACTOR: [u8; 20] = [7; 20];
/// Operations of the run that a cold join is measured with.
const RUN: u64 = 4096;

fn city() -> Value {
    json!({"name": "Vila", "lat": 42.53176, "lng": 1.56654, "country": "AD", "admin1": "03", "admin2": ""})
}

/// The change that a city's first put makes.
fn change() -> Vec<u8> {
    let mut document = Document::new();
    let edited = document.edit(&ACTOR, &[Edit::Put(city())], StringMode::Scalar);
    edited.ok().flatten().map(|change| change.bytes).unwrap_or_default()
}

fn plaintext() -> Vec<u8> {
    let key = "cities/AD/00001".parse().expect("a key");
    let entries = vec![Entry { key, action: Action::Change(change()) }];
    Transaction { wall_time_ms: 1_700_000_000_000, lineage: Lineage([3; 16]), entries }.to_plaintext(1)
}

fn header(key: &DeviceKey, (sequence, previous): (u64, OperationId), length: usize) -> Header {
    Header {
        kind: Kind::DATA,
        space: SPACE,
        author: key.id(),
        sequence: sequence + 1,
        previous,
        membership: 2,
        epoch: 1,
        dependencies: Vec::new(),
        payload_length: length as u32,
    }
}

/// A run of sealed cities.
fn run(key: &DeviceKey, content: &ContentKey, random: &mut StdRng, count: u64) -> VerifiedRun {
    let plaintext = plaintext();
    let mut builder = RunBuilder::new(SPACE, key.id(), 1, OperationId::ZERO);
    for _ in 0..count {
        let header = header(key, builder.head(), plaintext.len() + SEAL_OVERHEAD_BYTES);
        let pushed = builder.push(&header, |bytes| seal(content, bytes, &plaintext, random));
        assert!(pushed.is_ok(), "the operation follows");
    }
    builder.finish(key).expect("operations were pushed")
}

fn operations(criterion: &mut Criterion) {
    let mut random = StdRng::seed_from_u64(1);
    let (key, content) = (DeviceKey::generate(&mut random), ContentKey::generate(&mut random));
    let plaintext = plaintext();
    let mut group = criterion.benchmark_group("operation");
    group.bench_function("sign", |bencher| bencher.iter(|| key.sign(black_box(&[7; 32]))));
    let signature = key.sign(&[7; 32]);
    group.bench_function("verify", |bencher| bencher.iter(|| verify(&key.id(), black_box(&[7; 32]), &signature)));
    group.bench_function("seal", |bencher| bencher.iter(|| seal(&content, b"header", &plaintext, &mut random)));
    let sealed = seal(&content, b"header", &plaintext, &mut random);
    group.bench_function("open and parse", |bencher| {
        bencher.iter(|| open(&content, b"header", &sealed).map(|plain| Transaction::from_plaintext(&plain)));
    });
    group.bench_function("seal, chain and sign alone", |bencher| {
        bencher.iter(|| run(&key, &content, &mut random, 1));
    });
    group.finish();

    let joined = run(&key, &content, &mut random, RUN);
    let mut group = criterion.benchmark_group("run of 4096");
    group.throughput(Throughput::Elements(RUN)).sample_size(20);
    group.bench_function("seal, chain and sign", |bencher| bencher.iter(|| run(&key, &content, &mut random, RUN)));
    group.bench_function("decode and verify", |bencher| {
        bencher.iter(|| Run::decode(SPACE, joined.bytes().clone()).map(Run::verify));
    });
    group.finish();
}

fn documents(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("document");
    group.bench_function("first put of a city", |bencher| {
        bencher.iter(|| Document::new().edit(&ACTOR, &[Edit::Put(city())], StringMode::Scalar).is_ok());
    });
    let change = change();
    group.bench_function("receive and view a city", |bencher| {
        bencher.iter(|| {
            let mut document = Document::new();
            document.apply(vec![IncomingChange { bytes: change.clone(), expected_actor: Some(ACTOR) }]);
            document.view()
        });
    });
    group.finish();
}

criterion_group!(parts, operations, documents);
criterion_main!(parts);
