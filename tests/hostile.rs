//! Bytes from somebody who means harm, given to real processes: what a member wrote with other software, backups and
//! files to import. Memory is the peak that the system saw.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use flate2::Compression;
use flate2::write::GzEncoder;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::json;
use syncline::space::SpaceKeys;
use syncline_model::keys::{SEAL_OVERHEAD_BYTES, seal};
use syncline_model::{DeviceKey, Header, Kind, SpaceId, VerifiedRun};
use syncline_storage::{OpenOptions, Store};

use super::cli::{Ended, Serving, command, eventually, run, run_with_input, with_space};

/// What no process may take while it is told to inflate a gibibyte.
const MEMORY_KIB_MAX: u64 = 256 << 10;
const GIBIBYTE: u64 = 1 << 30;
/// The longest block of a zstd frame (RFC 8878, 3.1.1.2.4).
const BLOCK_BYTES: u64 = 128 << 10;

/// The peak of a running process's memory, in KiB.
fn peak_kib(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// Runs a command to its end and gives the peak of its memory as well.
fn run_measured(data: &Path, arguments: &[&str]) -> (Ended, u64) {
    let mut child = command(data).args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        peak = peak_kib(child.id()).unwrap_or(0).max(peak);
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    (Ended::new(&child.wait_with_output().unwrap()), peak)
}

/// A zstd frame of a gibibyte of zeros that says it holds `announced` bytes, or does not say.
fn inflating_frame(announced: Option<u32>) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd];
    match announced {
        // One segment, the size in four bytes.
        Some(size) => {
            frame.push(0xa0);
            frame.extend_from_slice(&size.to_le_bytes());
        }
        // A window of a mebibyte.
        None => frame.extend_from_slice(&[0x00, 0x50]),
    }
    let blocks = GIBIBYTE / BLOCK_BYTES;
    for block in 1..=blocks {
        // A byte to repeat, which one, and whether it is the last.
        let head = u32::from(block == blocks) | 1 << 1 | (BLOCK_BYTES as u32) << 3;
        frame.extend_from_slice(&head.to_le_bytes()[..3]);
        frame.push(0);
    }
    frame
}

/// A transaction's plaintext around a compressed body.
fn plaintext(frame: &[u8]) -> Vec<u8> {
    let mut plaintext = postcard::to_allocvec(&(frame.len() as u64 + 1)).unwrap();
    plaintext.push(1);
    plaintext.extend_from_slice(frame);
    plaintext
}

fn only_space(data: &Path) -> PathBuf {
    std::fs::read_dir(data.join("spaces")).unwrap().next().unwrap().unwrap().path()
}

/// Writes payloads to the log of a stopped device, signed and sealed as its own, as its software would not.
fn write_as(data: &Path, payloads: &[Vec<u8>]) {
    let seed = std::fs::read(data.join("node/device.key")).unwrap();
    let key = DeviceKey::from_seed(&seed.try_into().unwrap());
    let keys = SpaceKeys::decode(&std::fs::read(only_space(data).join("keys")).unwrap()).unwrap();
    let (epoch, content) = keys.content_key().unwrap();
    let store = Store::open(data, OpenOptions::default(), &mut |_| {}).unwrap();
    let mut log = store.open_space(keys.space, &mut |_| {}).unwrap();
    let (mut sequence, mut previous, mut membership) = (0, syncline_model::OperationId::ZERO, 0);
    log.replay(None, &mut |_, run| {
        if run.author == key.id() {
            (sequence, previous) = (run.last(), run.last_id());
            membership = run.operations.last().unwrap().membership;
        }
    })
    .unwrap();
    let mut random = StdRng::seed_from_u64(1);
    for payload in payloads {
        sequence += 1;
        let header = Header {
            kind: Kind::DATA,
            space: keys.space,
            author: key.id(),
            sequence,
            previous,
            membership,
            epoch,
            dependencies: Vec::new(),
            payload_length: (payload.len() + SEAL_OVERHEAD_BYTES) as u32,
        };
        let run = VerifiedRun::author(&key, &header, |bound| seal(content, bound, payload, &mut random)).unwrap();
        previous = run.last_id();
        log.append(&[run]).unwrap();
    }
    log.close().unwrap();
    store.flush().unwrap();
}

fn unreadable(data: &Path) -> u64 {
    run(data, &["status", "notes", "--json"]).json()["unreadable"].as_u64().unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn payloads_that_inflate_to_a_gibibyte_take_bounded_memory_from_peers_and_from_a_backup() {
    let (a, b) = (with_space(), tempfile::tempdir().unwrap());
    run(a.path(), &["put", "notes", "before", r#"{"n":1}"#]).ok();
    let first = Serving::start(a.path(), &["--api", "127.0.0.1:0"]);
    let second = Serving::start(b.path(), &["--api", "127.0.0.1:0"]);
    let ticket = run(a.path(), &["space", "invite", "notes", "--role", "writer"]).ok().to_owned();
    run(b.path(), &["space", "join", &ticket]).ok();
    eventually("the join", || run(b.path(), &["put", "notes", "by/b", r#"{"n":1}"#]).code == 0);
    eventually("the write", || run(a.path(), &["get", "notes", "by/b"]).code == 0);
    assert_eq!(second.stop(), 0);

    // What says how large it is, says nothing of it, or lies; and one of a kilobyte that only claims to be large.
    let frames = [Some(GIBIBYTE as u32), None, Some(16 << 20)].map(inflating_frame);
    let mut payloads: Vec<Vec<u8>> = frames.iter().map(|frame| plaintext(frame)).collect();
    payloads.push(plaintext(&frames[0][..1024]));
    assert!(payloads.iter().all(|payload| payload.len() < 40 << 10));
    write_as(b.path(), &payloads);

    // By pages and gossip, to a node that has run for a while.
    let second = Serving::start(b.path(), &["--api", "127.0.0.1:0", "--bootstrap", first.address()]);
    eventually("the arrival", || unreadable(a.path()) == payloads.len() as u64);
    run(a.path(), &["put", "notes", "after", r#"{"n":2}"#]).ok();
    eventually("what comes after", || run(b.path(), &["get", "notes", "after"]).code == 0);
    for process in [&first, &second] {
        let peak = peak_kib(process.id()).unwrap();
        assert!(peak < MEMORY_KIB_MAX, "a node took {peak} KiB");
    }
    assert_eq!(first.stop(), 0);

    // By a backup that is restored.
    let place = tempfile::tempdir().unwrap();
    let (file, passphrase) = (place.path().join("all.backup"), place.path().join("passphrase"));
    std::fs::write(&passphrase, "a long enough passphrase\n").unwrap();
    let lock = ["--backup-passphrase-file", passphrase.to_str().unwrap()];
    run(b.path(), &["backup", file.to_str().unwrap(), lock[0], lock[1]]).ok();
    assert_eq!(second.stop(), 0);
    let restored = &place.path().join("restored");
    let (made, restoring) = run_measured(restored, &["restore", file.to_str().unwrap(), lock[0], lock[1]]);
    made.ok();
    let (shown, opening) = run_measured(restored, &["export", "notes"]);
    assert_eq!(shown.ok().lines().count(), 3);
    assert_eq!(unreadable(restored), payloads.len() as u64);
    // Argon2id alone takes 64 MiB to open the backup's keys.
    assert!(restoring < MEMORY_KIB_MAX && opening < MEMORY_KIB_MAX, "{restoring} and {opening} KiB");
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_to_import_that_inflates_to_a_gibibyte_takes_bounded_memory() {
    let data = with_space();
    let file = data.path().join("bomb.ndjson.gz");
    // Members of one file follow each other (RFC 1952, 2.2): a line of a gibibyte.
    let member = {
        let mut packer = GzEncoder::new(Vec::new(), Compression::best());
        packer.write_all(&vec![b'x'; 16 << 20]).unwrap();
        packer.finish().unwrap()
    };
    let good = {
        let mut packer = GzEncoder::new(Vec::new(), Compression::best());
        packer.write_all(b"{\"key\":\"good\",\"value\":{\"n\":1}}\n{\"key\":\"").unwrap();
        packer.finish().unwrap()
    };
    std::fs::write(&file, [good, member.repeat(64)].concat()).unwrap();
    let (ended, peak) = run_measured(data.path(), &["import", "notes", file.to_str().unwrap()]);
    ended.failed(5, "line 2: it is longer than 16 MiB");
    assert!(peak < MEMORY_KIB_MAX, "the import took {peak} KiB");
    assert_eq!(run(data.path(), &["export", "notes"]).ok(), r#"{"key":"good","value":{"n":1}}"#);
}

#[test]
fn tricks_in_keys_are_refused_by_an_import_and_reach_no_file() {
    let data = with_space();
    let data = data.path();
    for trick in ["..", "../../canary", "a/../canary", "/canary", "//canary", "a//canary", "canary/", "./canary", ""] {
        let line = json!({"key": trick, "value": {"n": 1}}).to_string();
        run_with_input(data, &["import", "notes", "-"], line.as_bytes()).failed(5, "is not a document key");
    }
    for trick in ["canary\0", "canary\n", "\u{1b}[2Jcanary"] {
        let line = json!({"key": trick, "value": {"n": 1}}).to_string();
        let refused = run_with_input(data, &["import", "notes", "-"], line.as_bytes());
        refused.failed(5, "control character");
        assert!(!refused.err.contains('\u{1b}') && !refused.err.contains('\0'), "{refused:?}");
    }
    // What stands before it is written, what stands behind it is not.
    let lines =
        "{\"key\":\"good\",\"value\":{}}\n{\"key\":\"../canary\",\"value\":{}}\n{\"key\":\"late\",\"value\":{}}\n";
    run_with_input(data, &["import", "notes", "-"], lines.as_bytes()).failed(5, "line 2");
    assert_eq!(run(data, &["list", "notes"]).ok(), "good");
    let outside = data.parent().unwrap();
    assert!([data, outside].iter().all(|place| !place.join("canary").exists()));
}

#[test]
fn a_backup_with_an_operation_that_nobody_signed_is_refused_whole() {
    let (data, place) = (with_space(), tempfile::tempdir().unwrap());
    run(data.path(), &["put", "notes", "a", r#"{"n":1}"#]).ok();
    let file = place.path().join("all.backup");
    run(data.path(), &["backup", file.to_str().unwrap()]).ok();
    let whole = std::fs::read(&file).unwrap();
    // The last signature, with a hash over it that fits: the hash comes last, before it the frame's head and the two
    // ends with their heads (8 × 2 and 8 × 3 bytes).
    let hashed = whole.len() - 37;
    let signature = hashed - (5 + 24) - (5 + 16) - 64;
    for at in [signature, signature + 40, hashed - 1] {
        let mut forged = whole.clone();
        forged[at] ^= 1;
        let hash = blake3::hash(&forged[..hashed]);
        forged[hashed + 5..].copy_from_slice(hash.as_bytes());
        std::fs::write(&file, &forged).unwrap();
        let restored = place.path().join("restored");
        let reason = if at < hashed - 1 { "signature" } else { "names something else" };
        run(&restored, &["restore", file.to_str().unwrap()]).failed(5, reason);
        assert!(!restored.exists(), "nothing is left of it");
        run(data.path(), &["backup", "--check", file.to_str().unwrap()]).failed(5, reason);
    }
    // One that was moved to another space.
    let id = run(data.path(), &["space", "show", "notes", "--json"]).json()["id"].as_str().unwrap().to_owned();
    let id: SpaceId = id.parse().unwrap();
    let mut moved = whole.clone();
    let place_of_id = whole.windows(32).position(|window| window == id.as_bytes()).unwrap();
    moved[place_of_id] ^= 1;
    let hash = blake3::hash(&moved[..hashed]);
    moved[hashed + 5..].copy_from_slice(hash.as_bytes());
    std::fs::write(&file, &moved).unwrap();
    run(&place.path().join("moved"), &["restore", file.to_str().unwrap()]).failed(5, "signature");
    run(&place.path().join("whole"), &["restore", file.to_str().unwrap()]).failed(5, "signature");
    std::fs::write(&file, &whole).unwrap();
    run(&place.path().join("whole"), &["restore", file.to_str().unwrap()]).ok();
}
