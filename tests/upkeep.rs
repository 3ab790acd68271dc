//! Keeping a data directory in order: another index, checking, repair, backup and restoring.

use serde_json::json;

use super::cli::{Serving, run};

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
