//! Seeds that are made by the code which they test: `cargo test -p syncline-fuzz-targets -- --ignored` writes them,
//! after a change of format. Those of the model come from its golden files, those of texts are written by hand.

use std::path::Path;

use syncline::space::join::{JoinAnswer, JoinRefusal, JoinRequest};
use syncline_fuzz_targets::documents::{body, seeds};
use syncline_fuzz_targets::model::SPACE;
use syncline_fuzz_targets::script::instruction;
use syncline_model::membership::{Certificate, invitation_tag};
use syncline_model::{DeviceKey, Header, Kind, OperationId, VerifiedRun, canonical};
use syncline_sync::{Message, Page, Response, RunBytes, Scope, SummaryAnswer, SummaryEntry};

fn write(target: &str, name: &str, bytes: &[u8]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus").join(target);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(name), bytes).unwrap();
}

/// The log of a device as runs of one operation each.
fn log(seed: u8, count: u64) -> Vec<VerifiedRun> {
    let key = DeviceKey::from_seed(&[seed; 32]);
    let mut previous = OperationId::ZERO;
    let mut next = |sequence| {
        let header = Header {
            kind: Kind::DATA,
            space: SPACE,
            author: key.id(),
            sequence,
            previous,
            membership: 1,
            epoch: 1,
            dependencies: Vec::new(),
            payload_length: 60,
        };
        let run = VerifiedRun::author(&key, &header, |_| vec![sequence as u8; 60]).unwrap();
        previous = run.last_id();
        run
    };
    (1..=count).map(&mut next).collect()
}

fn entry(run: &VerifiedRun) -> SummaryEntry {
    SummaryEntry { author: run.author(), sequence: run.last(), id: run.last_id().prefix() }
}

/// A frame with a run: format version, which variant, the run's bytes behind their length.
fn frame(run: &VerifiedRun) -> Vec<u8> {
    let mut bytes = vec![canonical::FORMAT_VERSION, 0];
    bytes.extend_from_slice(&canonical::encode(&RunBytes(run.bytes().clone()))[1..]);
    bytes
}

fn page(runs: &[VerifiedRun], more: bool) -> Response {
    let runs = runs.iter().map(|run| RunBytes(run.bytes().clone())).collect();
    Response::Page(Page { runs, forked: Vec::new(), more })
}

/// A command of the engine's script: what happens, then bytes behind their length.
fn command(control: u8, bytes: &[u8]) -> Vec<u8> {
    [&[control][..], &instruction(bytes)].concat()
}

#[test]
#[ignore = "writes files"]
fn seeds_of_the_protocol_are_written() {
    let runs = log(1, 4);
    write("frame", "run", &frame(&runs[0]));
    let mut heads = vec![entry(&runs[3]), entry(&log(2, 2)[1])];
    heads.sort_by_key(|entry| entry.author);
    let encoded = canonical::encode(&heads);
    write("frame", "heads", &[&[canonical::FORMAT_VERSION, 1], &encoded[1..]].concat());
    let (device, invitation) = (DeviceKey::from_seed(&[1; 32]), DeviceKey::from_seed(&[2; 32]));
    let certificate = Certificate::new(&SPACE, &device, &invitation);
    let tag = invitation_tag(&invitation.id(), &device.id(), &invitation.id());
    write("join", "request", &[&[0][..], &JoinRequest { tag, certificate }.encode()].concat());
    write("join", "refusal", &[&[1][..], &JoinAnswer::Refused(JoinRefusal::Expired).encode()].concat());
    write("response", "page-of-runs", &page(&runs, true).encode());

    let entries = SummaryAnswer::Entries { scope: Scope::All, entries: heads, next: None };
    let answer = command(4, &Response::Summary(entries).encode());
    let (shares, tick) = (vec![0], vec![12, 0xff, 0x0f]);
    let pages = [command(4, &page(&runs[..2], true).encode()), command(4, &page(&runs[2..], false).encode())].concat();
    let pulled = [&shares[..], &tick, &answer, &pages, &[15], &tick].concat();
    write("engine", "pulled", &pulled);
    // In the wrong order, twice, then what was missing.
    let frames: Vec<u8> = [2, 2, 0, 1, 3].iter().flat_map(|number| command(9, &frame(&runs[*number]))).collect();
    write("engine", "gossip", &[&shares[..], &[0x40], &frames, &[15], &tick].concat());
    write("engine", "members-change", &[&[13][..], &shares, &frames, &[13, 15], &tick, &[1]].concat());
    let requests = ["pull", "summary-buckets", "summary-entries"].map(|name| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus/message");
        let bytes = std::fs::read(folder.join(name)).unwrap();
        assert!(Message::decode(&bytes).is_ok());
        command(2, &bytes)
    });
    write("engine", "requests", &[&shares[..], &frames, &[15], &requests.concat()].concat());
}

#[test]
#[ignore = "writes files"]
fn seeds_of_the_log_are_written() {
    write("segment", "flips", &[0, 0, 100, 0, 1, 1, 20, 0, 0x80, 2, 90, 0, 4]);
    write("segment", "flips-without-index", &[4, 0, 0, 1, 1, 0, 50, 1, 0xff]);
    write("segment", "cut", &[4, 2, 150, 0, 0]);
    write("segment", "not-ours", &[&[1][..], b"syncline", &[0; 90]].concat());
    let records: Vec<u8> =
        log(1, 3).iter().flat_map(|run| [&[0, 0, 0][..], &instruction(run.bytes())].concat()).collect();
    let header = [0, 0, 0, 0, 0, 80, 0];
    write("segment", "forged", &[&[6][..], &header, &records].concat());
    write("segment", "forged-indexed", &[&[2][..], &header, &records].concat());
    let nested = [&[1, 0, 0][..], &instruction(&[7; 40]), &records, &[4, 200, 0], &instruction(&[1; 30])].concat();
    write("segment", "forged-damaged", &[&[6][..], &header, &nested].concat());
}

#[test]
#[ignore = "writes files"]
fn seeds_of_backups_are_written() {
    let part = |kind: u8, body: &[u8]| [&[kind][..], &instruction(body)].concat();
    let runs = |seed| log(seed, 3).iter().flat_map(|run| part(3, run.bytes())).collect::<Vec<u8>>();
    let (begin, end) = ([&[1][..], &part(2, &SPACE.0)].concat(), [part(4, &[]), part(6, &[]), part(5, &[])].concat());
    write("backup", "two-logs", &[&begin[..], &runs(1), &runs(2), &end].concat());
    write("backup", "checkpoint-within", &[&begin[..], &runs(1), &part(5, &[]), &runs(2), &end].concat());
    write("backup", "with-files", &[&[1][..], &part(1, b"\0\x04keysabc"), &begin[1..], &runs(1), &end].concat());
    write("backup", "backwards", &[&begin[..], &part(3, log(1, 2)[1].bytes()), &end].concat());
    write("backup", "no-frames", &[&[0][..], b"syncline backup\n\x01\0\0\0"].concat());
}

#[test]
#[ignore = "writes files"]
fn seeds_of_documents_are_written() {
    let seeds = seeds();
    for (name, changes) in &seeds {
        let control = u8::from(*name == "base");
        let bodies: Vec<u8> = changes.iter().flat_map(|change| instruction(change)).collect();
        write("change", name, &[&[control][..], &bodies].concat());
    }
    // What another program made: the same change by an actor of three bytes.
    let foreign = |change: &[u8]| {
        let rest = &change[22..];
        [&change[..1], &[3], b"abc", rest].concat()
    };
    let first = &seeds["honest"][0];
    assert_eq!((first[0], first[1]), (0, 20), "no dependencies, then the actor behind its length");
    write("change", "foreign", &[&[0][..], &instruction(&foreign(first))].concat());

    // Each operation has one entry; strangers 0 and 1 wrote the changes in turn.
    let operations = |changes: &[Vec<u8>], document: u8, control: u8| -> Vec<u8> {
        let written = changes.iter().zip(0..);
        written
            .flat_map(|(change, number)| [&[control | (number % 2)][..], &[document], &instruction(change)].concat())
            .collect()
    };
    let (honest, rival) = (&seeds["honest"], &seeds["rival"]);
    write("hostile_changes", "chained", &[&[0][..], &operations(honest, 0, 4), &[0xc0]].concat());
    let rivals = [&operations(honest, 0, 0)[..], &operations(rival, 0, 0), &[0xc1], &operations(honest, 1, 4)].concat();
    write("hostile_changes", "rivals", &[&[6][..], &rivals].concat());
    let delete = [4, 12];
    let deleted = [&operations(&honest[..2], 0, 4)[..], &delete, &operations(&honest[2..], 0, 0), &[0xc0]].concat();
    write("hostile_changes", "deleted", &[&[0][..], &deleted].concat());
    let both: Vec<u8> = [(0, &honest[0]), (1, &rival[0])]
        .iter()
        .flat_map(|(document, change)| [&[*document][..], &instruction(change)].concat())
        .collect();
    let entangled = [&[8][..], &both, &operations(&rival[..1], 0, 0), &operations(&honest[1..], 0, 4)].concat();
    write("hostile_changes", "entangled", &[&[2][..], &entangled].concat());
    let foreign = [&[2, 8][..], &instruction(&foreign(first)), &[2, 14], &instruction(body(&[0; 40]))].concat();
    write("hostile_changes", "foreign", &[&[1][..], &foreign, &[0xc0]].concat());

    let mut drawn = blake3::Hasher::new().update(b"edits").finalize_xof();
    for (name, flags) in
        [("alone", 0), ("alone-text", 1), ("alone-small", 0x70), ("several", 6), ("several-text", 0x57)]
    {
        let mut bytes = vec![0; 240];
        drawn.fill(&mut bytes);
        bytes[0] = flags;
        write("edits", name, &bytes);
    }
}

#[test]
#[ignore = "writes files"]
fn seeds_of_requests_are_written() {
    let at = format!("@documents/a?at={}", "ab".repeat(32));
    let history = format!("@history/a?limit=2&after={}", "0".repeat(64));
    let requests: [(&str, u8, &str, &str); 14] = [
        ("put", 1, "@documents/cities/FR/1", r#"{"name":"Paris","n":1}"#),
        ("put-long", 1, "@documents/a", r#"{"t":"text","a":[1,2.5,null,{"b":true}],"n":-3}"#),
        ("get", 0, "@documents/a", ""),
        ("get-at", 0, &at, ""),
        ("patch", 2, "@documents/a", r#"{"n":null,"o":{"x":1}}"#),
        ("delete", 3, "@documents/cities%2FFR/1", ""),
        ("list", 0, "@documents?prefix=a&limit=3&values=true&after=0", ""),
        ("history", 0, &history, ""),
        ("conflicts", 0, "@conflicts?prefix=&limit=1", ""),
        ("changes", 0, "@changes?since=0011223344556677-42&limit=9", ""),
        ("members", 0, "@members", ""),
        ("transaction", 4, "@transactions", include_str!("../../../corpus/body/transaction")),
        ("invitation", 4, "@invitations", r#"{"role":"reader","uses":2,"lasts_ms":1000}"#),
        ("status", 0, "/v1/status?token=x", ""),
    ];
    for (name, method, path, body) in requests {
        write("request", name, &[&[method][..], &instruction(path.as_bytes()), body.as_bytes()].concat());
    }
}
