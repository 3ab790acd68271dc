//! The room that a data directory takes: told, bounded, given back, and a disk that something else fills.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::cli::{Serving, run, run_with_input, with_space};

/// What `status` tells of the disk.
fn disk(data: &Path) -> Value {
    run(data, &["status", "--json"]).json()["disk"].clone()
}

/// One document of so many bytes that no compression makes much smaller.
fn line(key: &str, bytes: usize) -> Vec<u8> {
    let mut state = key.bytes().fold(1_u64, |state, byte| state.wrapping_mul(31) + u64::from(byte));
    let mut text = String::with_capacity(bytes);
    while text.len() < bytes {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text.push(char::from(b'!' + ((state >> 40) % 64) as u8));
    }
    serde_json::to_vec(&json!({"key": key, "value": {"text": text}})).unwrap()
}

fn import(data: &Path, space: &str, key: &str, bytes: usize) -> super::cli::Ended {
    run_with_input(data, &["import", space, "-"], &line(key, bytes))
}

#[test]
fn a_directory_takes_what_it_may_and_leaving_a_space_gives_room_back() {
    let directory = with_space();
    let data = directory.path();
    run(data, &["space", "create", "other"]).ok();
    assert_eq!(disk(data)["reserve_wanted"], 0, "commands make no reserve");
    let serving = Serving::start(data, &["--api", "127.0.0.1:0", "--disk-use-max-mib", "16", "--reserve-mib", "1"]);
    let begun = disk(data);
    assert_eq!((&begun["reserve"], &begun["use_max"]), (&json!(1 << 20), &json!(16 << 20)));
    assert_eq!((&begun["no_room"], begun["index"].as_u64() > Some(0)), (&Value::Null, true));

    let refused = (0..60).find(|n| {
        let written = import(data, "other", &format!("k/{n}"), 900_000);
        let is_refused = written.code != 0;
        if is_refused {
            written.failed(6, "disk_use_max_mib");
            assert!(written.err.contains("nothing was written"), "{written:?}");
        }
        is_refused
    });
    assert!(refused.is_some_and(|count| count > 3), "{refused:?}");
    let full = disk(data);
    assert!(full["no_room"].as_str().unwrap().contains("leave a space"), "{full}");
    let used = ["log", "index", "reserve"].iter().map(|part| full[part].as_u64().unwrap()).sum::<u64>();
    assert!((16 << 20..20 << 20).contains(&used), "{full}");
    assert!(run(data, &["status"]).ok().contains("refused: the data directory takes"));
    run(data, &["get", "other", "k/0"]).ok();
    run(data, &["put", "notes", "a", "{}"]).failed(6, "disk_use_max_mib");

    run(data, &["space", "leave", "other"]).ok();
    let left = disk(data);
    assert!(left["log"].as_u64().unwrap() * 10 < full["log"].as_u64().unwrap(), "{left}");
    assert_eq!(std::fs::read_dir(data.join("spaces")).unwrap().count(), 1);
    assert_eq!(serving.stop(), 0);

    // The bound holds for commands that open the directory themselves as well.
    std::fs::write(data.join("config.toml"), "disk_use_max_mib = 1\n").unwrap();
    let mut imported = (0..10).map(|n| import(data, "notes", &format!("a/{n}"), 900_000));
    imported.find(|import| import.code != 0).expect("a refusal").failed(6, "disk_use_max_mib");
    std::fs::write(data.join("config.toml"), "disk_use_max_mib = 900\n").unwrap();
    import(data, "notes", "a", 900_000).ok();
}

/// A small file system of its own, for as long as it lives.
struct Mounted(tempfile::TempDir);

impl Mounted {
    /// None when this process may not mount.
    fn new(mebibytes: u64) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "syncline-test"]).arg(directory.path());
        let is_mounted = mount.stderr(Stdio::null()).status().is_ok_and(|status| status.success());
        is_mounted.then_some(Self(directory))
    }

    /// Something else fills it to the last byte.
    fn fill(&self) {
        let mut file = File::options().create(true).append(true).open(self.0.path().join("other")).unwrap();
        for size in [1 << 20, 4096, 1] {
            while file.write_all(&vec![0xff; size]).is_ok() {}
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

#[test]
#[allow(clippy::print_stderr)] // Whoever reads the outcome has to see what was not tried.
fn a_node_outlives_a_disk_that_is_filled_to_the_last_byte() {
    for index in ["sled", "redb"] {
        let Some(mounted) = Mounted::new(400) else {
            eprintln!("skipped: this process may not mount a file system");
            return;
        };
        let data = &mounted.0.path().join("data");
        run(data, &["init", "--index", index]).ok();
        run(data, &["space", "create", "notes"]).ok();
        let serving = Serving::start(data, &["--api", "127.0.0.1:0"]);
        let mut written = 0;
        for round in 0..2 {
            assert_eq!(disk(data)["no_room"], Value::Null);
            // What the node knows of the room lasts for a while, so the first of these are taken in, and then none.
            let put = |n: usize| import(data, "notes", &format!("k/{round}/{n}"), 60_000);
            put(0).ok();
            assert_eq!(disk(data)["reserve"], 64 << 20, "{index}");
            mounted.fill();
            let refused = (1..100).find(|n| put(*n).code != 0).expect("at some time nothing is taken in");
            put(refused).failed(6, "the disk is full");
            written += refused;
            let full = disk(data);
            assert_eq!(full["reserve"], 0, "{index}: it was given up");
            assert!(run(data, &["status"]).ok().contains("refused: the disk is full"));
            run(data, &["get", "notes", &format!("k/{round}/0")]).ok();
            std::fs::remove_file(mounted.0.path().join("other")).unwrap();
        }
        import(data, "notes", "last", 10).ok();
        assert_eq!(run(data, &["status", "notes", "--json"]).json()["documents"], written + 1, "{index}");
        assert_eq!(serving.stop(), 0, "{index}: it ran all the time");
        run(data, &["verify"]).ok();
    }
}
