//! Data directories that earlier releases wrote: this one opens them, reads them and goes on with them.

use std::path::Path;
use std::process::Command;

use super::cli::{run, run_with_input};

/// Unpacks what the release that first wrote a format left; `kept/make` tells what is in it.
fn unpacked(format: u32) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let archive = format!("{}/tests/kept/format-{format}.tar.gz", env!("CARGO_MANIFEST_DIR"));
    let unpacked = Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(directory.path()).status().unwrap();
    assert!(unpacked.success());
    directory
}

fn text(directory: &Path, name: &str) -> String {
    std::fs::read_to_string(directory.join(name)).unwrap()
}

#[test]
fn a_directory_of_every_earlier_format_is_opened_read_and_written() {
    for format in 1..=1 {
        let directory = unpacked(format);
        let path = directory.path();
        let (ada, ben) = (&path.join("ada"), &path.join("ben"));
        let (notes, pages) = (text(path, "notes.ndjson"), text(path, "pages.ndjson"));
        for data in [ada, ben] {
            assert!(run(data, &["export", "notes"]).ok() == notes.trim_end(), "format {format}: {data:?}");
            run(data, &["verify"]).ok();
            let conflicts = run(data, &["conflicts", "notes", "shared", "--json"]);
            let shown = conflicts.ok();
            assert!(shown.contains("from ada") && shown.contains("from ben"), "{shown}");
            assert!(run(data, &["history", "notes", "often", "--json"]).ok().lines().count() > 20);
            run(data, &["patch", "notes", "shared", r#"{"title":"now"}"#]).ok();
            assert!(run(data, &["get", "notes", "shared"]).ok().contains("now"));
        }
        assert_eq!(run(ada, &["export", "pages"]).ok(), pages.trim_end());
        // What keeps the index may be chosen anew, and nothing else is needed of it.
        run(ada, &["convert", "--index", "redb"]).ok();
        std::fs::remove_dir_all(ben.join("index-redb")).unwrap();
        for data in [ada, ben] {
            run_with_input(data, &["import", "notes", "-"], b"{\"key\":\"later\",\"value\":{\"n\":1}}\n").ok();
            run(data, &["verify"]).ok();
        }
    }
}

#[test]
fn a_directory_of_a_later_format_is_refused_and_left_alone() {
    let directory = unpacked(1);
    let ada = &directory.path().join("ada");
    std::fs::write(ada.join("format"), "syncline data directory\nformat 999\n").unwrap();
    let refused = run(ada, &["list", "notes"]);
    assert!(refused.code != 0 && refused.err.contains("999") && refused.err.contains("update Syncline"), "{refused:?}");
    assert_eq!(text(ada, "format"), "syncline data directory\nformat 999\n");
}
