//! The corpora of the fuzz targets, with whatever once crashed one, go through the same functions at every test run.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use syncline_fuzz_targets::{TARGETS, Target};

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The names in a folder, without what stands behind their first dot.
fn names(folder: &Path) -> BTreeSet<String> {
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let stem = |name: String| name.split('.').next().unwrap_or_default().to_owned();
    std::fs::read_dir(folder).unwrap().map(name).map(stem).collect()
}

/// Replays the targets whose place in the list is `part` of `parts`, so that tests share the processors.
fn replay(part: usize, parts: usize) {
    for target in TARGETS.iter().skip(part).step_by(parts) {
        replay_corpus(target);
    }
}

#[allow(clippy::print_stdout, reason = "a test that fails shows it: the last file named is the one")]
fn replay_corpus(target: &Target) {
    let mut accepted = 0;
    let folder = fuzz().join("corpus").join(target.name);
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    for file in files {
        println!("{}", file.display());
        let bytes = std::fs::read(file).unwrap();
        accepted += usize::from((target.run)(&bytes));
        // Near misses too: libFuzzer's first mutations, without libFuzzer.
        let step = bytes.len().div_ceil(target.near_misses).max(1);
        for index in (0..bytes.len()).step_by(step) {
            let mut changed = bytes.clone();
            changed[index] ^= 1 << (index % 8);
            (target.run)(&changed);
            (target.run)(&bytes[..index]);
        }
    }
    assert!(accepted > 0, "no file in the corpus of {} reaches the target's assertions", target.name);
}

#[test]
fn every_corpus_file_passes_its_target() {
    replay(0, 2);
}

#[test]
fn every_other_corpus_file_passes_its_target() {
    replay(1, 2);
}

#[test]
fn every_target_has_a_program_and_a_corpus_and_nothing_else_does() {
    let listed: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(listed.len(), TARGETS.len(), "two targets have one name");
    assert_eq!(names(&fuzz().join("fuzz_targets")), listed);
    assert_eq!(names(&fuzz().join("corpus")), listed);
    let manifest = std::fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    let programs = manifest.split("[[bin]]").skip(1).filter_map(|table| table.split('"').nth(1));
    assert_eq!(programs.map(str::to_owned).collect::<BTreeSet<_>>(), listed);
    for target in TARGETS {
        let program = fuzz().join("fuzz_targets").join(target.name).with_extension("rs");
        let text = std::fs::read_to_string(program).unwrap();
        assert!(text.contains(&format!("::{},", target.name)), "{} runs another target", target.name);
    }
}
