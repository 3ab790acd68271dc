//! The corpora of the fuzz targets, with whatever once crashed one, go through the same functions at every test run.

use std::collections::BTreeSet;
use std::path::Path;

#[path = "../../../fuzz/src/model.rs"]
#[allow(unreachable_pub, reason = "the file is a library's module where it belongs")]
mod targets;

/// A name, the function, and whether bytes are well-formed, so that the function's assertions are reached.
type Target = (&'static str, fn(&[u8]), fn(&[u8]) -> bool);

const TARGETS: [Target; 8] = [
    ("run", targets::run, |bytes| {
        syncline_model::Run::decode(targets::SPACE, bytes).is_ok_and(|run| run.verify().is_ok())
    }),
    ("header", targets::header, |bytes| syncline_model::Header::from_canonical_bytes(bytes).is_ok()),
    ("transaction", targets::transaction, |bytes| syncline_model::Transaction::from_plaintext(bytes).is_ok()),
    ("record", targets::record, |bytes| syncline_model::membership::Record::decode(bytes).is_ok()),
    ("admit", targets::admit, |bytes| {
        syncline_model::membership::Admit::decode(bytes).is_ok_and(|admit| admit.certificate.holds(&targets::SPACE))
    }),
    ("key_delivery", targets::key_delivery, |bytes| syncline_model::membership::KeyDelivery::decode(bytes).is_ok()),
    ("ticket", targets::ticket, |bytes| {
        str::from_utf8(bytes).is_ok_and(|text| text.parse::<syncline_model::Ticket>().is_ok())
    }),
    ("run_summary", targets::run_summary, |bytes| syncline_model::RunSummary::decode(bytes).is_ok()),
];

#[test]
fn every_corpus_file_passes_its_target() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    for (name, target, accepts) in TARGETS {
        let mut accepted = 0;
        for file in std::fs::read_dir(corpora.join(name)).unwrap() {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            target(&bytes);
            accepted += usize::from(accepts(&bytes));
            // Near misses too: libFuzzer's first mutations, without libFuzzer.
            for index in 0..bytes.len() {
                let mut changed = bytes.clone();
                changed[index] ^= 1 << (index % 8);
                target(&changed);
                target(&bytes[..index]);
            }
        }
        assert!(accepted > 0, "no file in the corpus of {name} is well-formed");
    }
}

#[test]
fn every_target_of_the_model_is_replayed() {
    let source = include_str!("../../../fuzz/src/model.rs");
    let defined: BTreeSet<&str> =
        source.lines().filter_map(|line| line.strip_prefix("pub fn ")?.split('(').next()).collect();
    assert_eq!(defined, TARGETS.iter().map(|(name, ..)| *name).collect());
}
