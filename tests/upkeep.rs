//! Keeping a data directory in order: another index, checking, repair, backup and restoring.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::cli::{Serving, eventually, run, run_with_input, with_space};

#[test]
fn the_index_is_chosen_and_changed_without_losing_anything() {
    let directory = tempfile::tempdir().unwrap();
    let data = &directory.path().join("new");
    run(data, &["convert", "--index", "redb"]).failed(3, "no data directory");
    run(data, &["init", "--index", "redb"]).ok();
    run(data, &["init", "--index", "redb"]).ok();
    let refused = run(data, &["init", "--index", "sled"]);
    refused.failed(5, "redb");
    assert!(refused.err.contains("syncline convert --index sled"), "{refused:?}");
    run(data, &["space", "create", "notes"]).ok();
    run(data, &["put", "notes", "a", r#"{"n":1}"#]).ok();
    assert!(data.join("index-redb").exists() && !data.join("index").exists(), "nobody has to name it again");
    assert_eq!(run(data, &["status", "--json"]).json()["index"], "redb");

    let converted = |index: &str| run(data, &["convert", "--index", index, "--json"]).json();
    assert_eq!(converted("redb"), json!({"from": "redb", "to": "redb", "converted": false}));
    assert_eq!(converted("sled"), json!({"from": "redb", "to": "sled", "converted": true}));
    assert!(data.join("index").exists() && !data.join("index-redb").exists());
    assert_eq!(run(data, &["get", "notes", "a", "--json"]).ok(), r#"{"n":1}"#);
    assert!(run(data, &["convert", "--index", "redb"]).ok().contains("no longer in sled"));

    let serving = Serving::start(data, &["--api", "127.0.0.1:0"]);
    for needs_it_alone in [&["convert", "--index", "sled"][..], &["repair"]] {
        let refused = run(data, needs_it_alone);
        refused.failed(6, "in use");
        assert!(refused.err.contains("stop the node"), "{refused:?}");
    }
    assert_eq!(serving.stop(), 0);
    assert_eq!(run(data, &["get", "notes", "a", "--json"]).ok(), r#"{"n":1}"#);
    assert_eq!(run(data, &["convert"]).code, 2);
}

/// A node with a space `notes` of some documents, and a second device that holds a copy and is stopped.
struct Pair {
    _first: TempDir,
    second: TempDir,
    serving: Serving,
}

const DOCUMENTS: u64 = 200;

impl Pair {
    fn new() -> Self {
        let (first, second) = (with_space(), tempfile::tempdir().unwrap());
        let import = |range: std::ops::Range<u64>| {
            let line =
                |n| format!("{{\"key\":\"k/{n:04}\",\"value\":{{\"n\":{n},\"text\":\"some words of text\"}}}}\n");
            let lines: String = range.map(line).collect();
            run_with_input(first.path(), &["import", "notes", "-", "--per-transaction", "1"], lines.as_bytes()).ok();
        };
        import(0..DOCUMENTS / 2);
        let serving = Serving::start(first.path(), &["--api", "127.0.0.1:0"]);
        let ticket = run(first.path(), &["space", "invite", "notes", "--role", "writer"]).ok().to_owned();
        let joining = Serving::start(second.path(), &["--api", "127.0.0.1:0"]);
        run(second.path(), &["space", "join", &ticket]).ok();
        eventually("the join", || documents(second.path()) == DOCUMENTS / 2);
        // These come one by one.
        import(DOCUMENTS / 2..DOCUMENTS);
        eventually("the copy", || documents(second.path()) == DOCUMENTS);
        assert_eq!(joining.stop(), 0);
        Self { _first: first, second, serving }
    }

    /// Starts the second device, which finds the first.
    fn serve_second(&self) -> Serving {
        Serving::start(self.second.path(), &["--api", "127.0.0.1:0", "--bootstrap", self.serving.address()])
    }
}

fn documents(data: &Path) -> u64 {
    run(data, &["status", "notes", "--json"]).json()["documents"].as_u64().unwrap()
}

fn first_segment(data: &Path) -> PathBuf {
    let space = std::fs::read_dir(data.join("spaces")).unwrap().next().unwrap().unwrap().path();
    space.join("log/0000000001.log")
}

/// Flips a bit every so many bytes in the midst of the first segment of the only space.
fn damage(data: &Path) {
    let path = first_segment(data);
    let mut bytes = std::fs::read(&path).unwrap();
    let end = bytes.len();
    for place in [end / 3, end / 2, end / 2 + 5000] {
        bytes[place] ^= 0x10;
    }
    std::fs::write(&path, bytes).unwrap();
}

#[test]
fn damage_is_found_repaired_and_fetched_again_from_a_peer() {
    let pair = Pair::new();
    let data = pair.second.path();
    assert!(run(data, &["verify"]).ok().contains("sound"));
    let before = run(data, &["export", "notes"]).ok().to_owned();
    damage(data);

    let found = run(data, &["verify"]);
    found.failed(1, "`notes`");
    assert!(found.err.contains("syncline repair notes"), "{found:?}");
    assert!(found.out.contains("cannot be read, the first at segment 1 offset"), "{found:?}");
    let report = run(data, &["verify", "notes", "--json", "--signatures", "sample"]);
    assert_eq!(report.code, 1);
    let report: Value = serde_json::from_str(&report.out).unwrap();
    assert_eq!((&report["sound"], report["damaged"]["count"].as_u64() >= Some(1)), (&json!(false), true));

    run(data, &["repair", "absent"]).failed(3, "`notes`");
    let repaired = run(data, &["repair"]);
    assert!(repaired.ok().contains("in quarantine") && repaired.ok().contains("missing: operation"), "{repaired:?}");
    let missing = run(data, &["repair", "notes", "--json"]).json();
    assert!(missing["missing_operations"].as_u64() >= Some(2), "{missing}");
    let incomplete = run(data, &["verify"]);
    incomplete.failed(1, "`notes`");
    assert!(incomplete.out.contains("operations missing"), "{incomplete:?}");

    let serving = pair.serve_second();
    eventually("the return of what was lost", || run(data, &["verify", "notes"]).code == 0);
    let report = run(data, &["verify", "notes", "--json"]).json();
    assert_eq!((&report["sound"], &report["missing_operations"]), (&json!(true), &json!(0)));
    assert!(report["quarantined"]["count"].as_u64() >= Some(1), "{report}");
    assert_eq!(report["documents"]["compared"], DOCUMENTS);
    assert!(run(data, &["status", "notes"]).ok().contains("in quarantine"));
    assert_eq!(serving.stop(), 0);
    assert!(run(data, &["verify"]).ok().contains("in quarantine, left out"));
    assert_eq!(run(data, &["export", "notes"]).ok(), before);
}

#[test]
fn a_serving_node_heals_by_itself_when_it_meets_damage() {
    let pair = Pair::new();
    let data = pair.second.path();
    let before = run(data, &["export", "notes"]).ok().to_owned();
    damage(data);
    let serving = pair.serve_second();
    // Reading everything meets the damage; whoever asked is told to repeat.
    eventually("a whole export", || {
        let export = run(data, &["export", "notes"]);
        export.code == 0 && export.out.trim_end() == before
    });
    let status = run(data, &["status", "notes", "--json"]).json();
    assert!(status["quarantined"].as_u64() >= Some(2), "{status}");
    assert_eq!(status["problems"], json!([]), "all is here again");
    run(data, &["verify"]).ok();
    run(data, &["put", "notes", "k/0000", r#"{"n":"new"}"#]).ok();
    assert_eq!(serving.stop(), 0);
    run(data, &["verify"]).ok();
}
