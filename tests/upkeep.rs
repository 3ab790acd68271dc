//! Keeping a data directory in order: another index, checking, repair, backup and restoring.

use std::collections::BTreeMap;
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
    first: TempDir,
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
        Self { first, second, serving }
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

    // The same when it is met while the index is made anew.
    damage(data);
    std::fs::remove_dir_all(data.join("index")).unwrap();
    let serving = pair.serve_second();
    eventually("the return of what was lost", || run(data, &["verify"]).code == 0);
    assert_eq!(documents(data), DOCUMENTS);
    assert!(run(data, &["status", "notes"]).ok().contains("in quarantine"));
    assert_eq!(serving.stop(), 0);
}

/// The sequences that each author of the space `notes` has here.
fn logs(data: &Path) -> BTreeMap<String, u64> {
    let members = run(data, &["space", "members", "notes", "--json"]).json();
    let logs = members["members"].as_array().unwrap().iter();
    logs.map(|member| (member["device"].as_str().unwrap().to_owned(), member["operations"].as_u64().unwrap())).collect()
}

#[test]
fn a_backup_becomes_a_new_device_that_writes_once_it_is_admitted() {
    let pair = Pair::new();
    let (data, directory) = (pair.second.path(), tempfile::tempdir().unwrap());
    let (file, passphrase) = (directory.path().join("all.backup"), directory.path().join("passphrase"));
    let (file, lock) = (file.to_str().unwrap(), ["--backup-passphrase-file", passphrase.to_str().unwrap()]);
    std::fs::write(&passphrase, "correct horse\n").unwrap();
    let exported = run(data, &["export", "notes"]).ok().to_owned();
    run(data, &["put", "notes", "own", r#"{"n":1}"#]).ok();
    let old = run(data, &["device", "--json"]).json()["device"].as_str().unwrap().to_owned();

    // Beside a node that goes on.
    let serving = pair.serve_second();
    let report = run(data, &["backup", file, lock[0], lock[1], "--json"]).json();
    assert_eq!((&report["spaces"], &report["keys"]), (&json!(1), &json!(true)));
    assert_eq!(run(data, &["backup", "--check", file, "--json"]).json(), report);
    run(data, &["backup", file]).failed(5, "exists");
    run(data, &["put", "notes", "later", r#"{"n":2}"#]).ok();
    let before = logs(data);
    eventually("the arrival", || run(pair.first.path(), &["get", "notes", "later"]).code == 0);
    assert_eq!(serving.stop(), 0);
    let key = std::fs::read(data.join("node/device.key")).unwrap();
    let bytes = std::fs::read(file).unwrap();
    assert!(!bytes.windows(key.len()).any(|window| window == key), "the device's key is not inside");

    let new = &directory.path().join("new");
    run(new, &["restore", file]).failed(2, "passphrase");
    assert!(!new.exists());
    let restored = run(new, &["restore", file, lock[0], lock[1], "--json"]).json();
    assert_ne!(restored["device"], old.as_str());
    run(new, &["restore", file, "--without-keys"]).failed(5, "holds a device already");
    run(directory.path(), &["restore", file, "--without-keys"]).failed(1, "not empty");
    assert_eq!(run(new, &["get", "notes", "own", "--json"]).ok(), r#"{"n":1}"#);
    assert!(run(new, &["export", "notes"]).ok().starts_with(&exported));
    let refused = run(new, &["put", "notes", "own", r#"{"n":3}"#]);
    refused.failed(6, "syncline space join");
    assert!(run(new, &["status", "notes"]).ok().contains("nobody has admitted this device"));
    run(new, &["verify"]).ok();

    let ticket = run(pair.first.path(), &["space", "invite", "notes", "--role", "writer"]).ok().to_owned();
    let serving = Serving::start(new, &["--api", "127.0.0.1:0"]);
    run(new, &["space", "join", &ticket]).ok();
    eventually("the admission", || run(new, &["put", "notes", "new", r#"{"n":4}"#]).code == 0);
    run(new, &["space", "join", &ticket]).failed(5, "already");
    eventually("the exchange", || run(pair.first.path(), &["get", "notes", "new"]).code == 0);
    eventually("what came after the backup", || run(new, &["get", "notes", "later"]).code == 0);
    let after = logs(new);
    assert_eq!(after[&old], before[&old], "the old device's log is as it left it");
    assert_eq!(after[restored["device"].as_str().unwrap()], 1, "the new one has a log of its own");
    run(new, &["verify"]).ok();
    assert_eq!(serving.stop(), 0);
}

#[test]
fn a_backup_without_keys_is_readable_once_its_device_is_admitted() {
    let pair = Pair::new();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("all.backup");
    let file = file.to_str().unwrap();
    let made = run(pair.second.path(), &["backup", file]);
    assert!(made.ok().contains("not inside") && made.err.contains("--with-keys"), "{made:?}");
    let new = &directory.path().join("new");
    let restored = run(new, &["restore", file]);
    assert!(restored.ok().contains("its keys come with the admission"), "{restored:?}");
    assert_eq!(documents(new), 0);
    run(new, &["get", "notes", "any"]).failed(3, "as far as can be read here");
    let serving = Serving::start(new, &["--api", "127.0.0.1:0"]);
    let ticket = run(pair.first.path(), &["space", "invite", "notes", "--role", "reader"]).ok().to_owned();
    run(new, &["space", "join", &ticket]).ok();
    eventually("all documents", || documents(new) == DOCUMENTS);
    run(new, &["verify"]).ok();
    assert_eq!(serving.stop(), 0);
    assert_eq!(run(new, &["status", "notes", "--json"]).json()["unreadable"], 0);
}

#[test]
fn a_backup_that_is_not_whole_is_refused() {
    let data = with_space();
    let data = data.path();
    run(data, &["put", "notes", "a", r#"{"n":1}"#]).ok();
    let file = data.join("all.backup");
    let file = file.to_str().unwrap();
    run(data, &["backup", file]).ok();
    let whole = std::fs::read(file).unwrap();
    let new = &data.join("new");
    let mut changed = whole.clone();
    changed[whole.len() / 2] ^= 1;
    for wrong in [whole[..whole.len() - 1].to_vec(), changed] {
        std::fs::write(file, wrong).unwrap();
        run(data, &["backup", "--check", file]).failed(5, "the backup");
        run(new, &["restore", file]).failed(5, "the backup");
        assert!(!new.exists(), "nothing is left of it");
    }
    std::fs::write(file, "something else").unwrap();
    run(data, &["backup", "--check", file]).failed(5, "not a backup");
    run(data, &["backup", "--check", "/absent"]).failed(3, "/absent");
    run(data, &["backup", "/absent/file"]).failed(1, "/absent");
}

#[test]
fn the_scrub_finds_damage_that_nobody_reads() {
    let pair = Pair::new();
    let data = pair.second.path();
    damage(data);
    let peer = ["--bootstrap", pair.serving.address()];
    let idle = Serving::start(data, &["--api", "127.0.0.1:0", "--scrub-bytes-per-second", "0", peer[0], peer[1]]);
    std::thread::sleep(std::time::Duration::from_millis(500));
    let quarantined = || run(data, &["status", "notes", "--json"]).json()["quarantined"].as_u64().unwrap();
    assert_eq!(quarantined(), 0, "without it nothing is looked at");
    assert_eq!(idle.stop(), 0);
    let serving =
        Serving::start(data, &["--api", "127.0.0.1:0", "--scrub-bytes-per-second", "10000000", peer[0], peer[1]]);
    eventually("the finding", || quarantined() >= 2);
    eventually("the return of what was lost", || run(data, &["verify"]).code == 0);
    assert_eq!(serving.stop(), 0);
}
