//! The command line: the real program, with and without a running node.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// How long something that takes a moment may take.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn command(data: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_syncline"));
    command.env_clear().env("HOME", data).env("SYNCLINE_DATA", data).env("SYNCLINE_LOG", "error");
    command
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ended {
    pub(crate) fn new(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let code = output.status.code().unwrap_or(-1);
        let ended = Self { code, out: text(&output.stdout), err: text(&output.stderr) };
        assert!(!ended.err.contains("panicked"), "{}", ended.err);
        ended
    }

    /// Asserts success and gives the output without its last line end.
    pub(crate) fn ok(&self) -> &str {
        assert_eq!(self.code, 0, "{self:?}");
        self.out.trim_end_matches('\n')
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(self.ok()).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Asserts this failure: one line that begins with `error: ` and contains `part`, and at most a hint.
    pub(crate) fn failed(&self, code: i32, part: &str) {
        assert_eq!(self.code, code, "{self:?}");
        assert!(self.err.contains(part), "{part}: {self:?}");
        let lines: Vec<&str> = self.err.lines().collect();
        assert!(lines[0].starts_with("error: "), "{self:?}");
        assert!(lines.len() == 1 || (lines.len() == 2 && lines[1].starts_with("hint: ")), "{self:?}");
    }
}

pub(crate) fn run(data: &Path, arguments: &[&str]) -> Ended {
    Ended::new(&command(data).args(arguments).stdin(Stdio::null()).output().unwrap())
}

pub(crate) fn run_with_input(data: &Path, arguments: &[&str], input: &[u8]) -> Ended {
    let mut child = command(data)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The command may end before it has read everything.
    let _written = child.stdin.take().unwrap().write_all(input);
    Ended::new(&child.wait_with_output().unwrap())
}

/// A data directory with a space named `notes`.
pub(crate) fn with_space() -> TempDir {
    let data = tempfile::tempdir().unwrap();
    run(data.path(), &["space", "create", "notes"]).ok();
    data
}

/// A running node; it ends with the test.
pub(crate) struct Serving {
    child: Child,
    pub(crate) ready: Value,
}

impl Serving {
    pub(crate) fn start(data: &Path, more: &[&str]) -> Self {
        let mut child = command(data)
            .args(["serve", "--json", "--no-mdns", "--no-quic", "--listen", "/ip4/127.0.0.1/tcp/0"])
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        Self { child, ready }
    }

    pub(crate) fn address(&self) -> &str {
        self.ready["listening"][0].as_str().unwrap()
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it with SIGTERM and gives its exit code.
    pub(crate) fn stop(mut self) -> i32 {
        terminate(&self.child);
        self.child.wait().unwrap().code().unwrap_or(-1)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It may have ended already.
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn terminate(child: &Child) {
    let status = Command::new("kill").arg("-TERM").arg(child.id().to_string()).status().unwrap();
    assert!(status.success());
}

pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn help_tells_what_exit_codes_mean() {
    let data = tempfile::tempdir().unwrap();
    let help = run(data.path(), &["--help"]);
    assert!(help.ok().contains("Exit codes:") && help.ok().contains("import"));
    assert_eq!(run(data.path(), &["--version"]).ok(), format!("syncline {}", env!("CARGO_PKG_VERSION")));
    assert_eq!(run(data.path(), &["explode"]).code, 2);
    assert_eq!(run(data.path(), &["put", "notes"]).code, 2);
    run(data.path(), &["device", "--log", "a=b=c"]).failed(2, "log filter");
}

#[test]
fn a_directory_becomes_a_device_once() {
    let data = tempfile::tempdir().unwrap();
    let fresh = data.path().join("new");
    for wanting in [vec!["device"], vec!["space", "list"], vec!["get", "notes", "a"], vec!["status"]] {
        let ended = run(&fresh, &wanting);
        assert_eq!(ended.code, 3, "{ended:?}");
        assert!(ended.err.contains("init"), "{ended:?}");
    }
    let made = run(&fresh, &["init", "--json"]).json();
    assert_eq!(run(&fresh, &["init", "--json"]).json()["device"], made["device"]);
    let shown = run(&fresh, &["device"]).ok().to_owned();
    for fact in ["device", "exchange", "text"] {
        assert!(shown.contains(made[fact].as_str().unwrap()), "{shown}");
    }
    assert!(made["text"].as_str().unwrap().starts_with("syncline-device:"));
    assert_eq!(run(&fresh, &["device", "--json"]).json()["peer"], made["peer"]);
    assert!(run(&fresh, &["status"]).ok().contains("no spaces yet"));
}

#[test]
fn documents_are_kept_without_a_node() {
    let data = with_space();
    let data = data.path();
    let version = run(data, &["put", "notes", "a/b", r#"{"title":"Hello","n":1}"#]).ok().to_owned();
    assert_eq!(run(data, &["get", "notes", "a/b", "--json", "--wait-for", &version]).json()["n"], 1);
    run_with_input(data, &["patch", "notes", "a/b", "-"], br#"{"n":2}"#).ok();
    assert_eq!(run(data, &["get", "notes", "a/b", "--json"]).ok(), r#"{"n":2,"title":"Hello"}"#);
    assert!(run(data, &["get", "notes", "a/b"]).ok().contains("\n  \"n\": 2"));
    run(data, &["put", "notes", "c", r#"{"n":0}"#]).ok();
    assert_eq!(run(data, &["list", "notes"]).ok(), "a/b\nc");
    assert_eq!(run(data, &["list", "notes", "a/", "--values", "--json"]).json()["value"]["n"], 2);
    let history = run(data, &["history", "notes", "a/b", "--json"]);
    let first: Value = serde_json::from_str(history.ok().lines().last().unwrap()).unwrap();
    assert_eq!(history.ok().lines().count(), 2);
    assert_eq!(run(data, &["history", "notes", "a/b", "--limit", "1"]).ok().lines().count(), 1);
    let before = run(data, &["get", "notes", "a/b", "--json", "--at", first["hash"].as_str().unwrap()]);
    assert_eq!(before.json()["n"], 1);
    run(data, &["resolve", "notes", "a/b", "/n", "--value", "-7"]).ok();
    assert_eq!(run(data, &["get", "notes", "a/b", "--json"]).json()["n"], -7);
    assert_eq!(run(data, &["conflicts", "notes"]).ok(), "");
    assert_eq!(run(data, &["conflicts", "notes", "a/b", "--json"]).ok(), "");
    let deleted = run(data, &["delete", "notes", "a/b", "--json"]).json();
    assert_eq!(deleted["documents"], json!([{"key": "a/b", "heads": []}]));
    run(data, &["get", "notes", "a/b"]).failed(3, "a/b");
    assert!(run(data, &["verify"]).ok().contains("sound"));
    assert_eq!(run(data, &["verify", "notes", "--json"]).json()["sound"], true);
    assert!(run(data, &["peers"]).ok().contains("syncline serve"));
}

#[test]
fn wrong_input_is_explained() {
    let data = with_space();
    let data = data.path();
    run(data, &["get", "nots", "a"]).failed(3, "`notes`");
    run(data, &["put", "notes", "a", "{title: 1}"]).failed(5, "not JSON");
    run(data, &["put", "notes", "a", "[1]"]).failed(5, "JSON object");
    run(data, &["put", "notes", "a//b", "{}"]).failed(5, "a//b");
    run(data, &["put", "notes", &"k".repeat(2000), "{}"]).failed(5, "1024 bytes");
    let large = format!("{{\"text\":\"{}\"}}", "x".repeat(12 << 20));
    run_with_input(data, &["put", "notes", "a", "-"], large.as_bytes()).failed(5, "");
    let larger = vec![b' '; 17 << 20];
    run_with_input(data, &["put", "notes", "a", "-"], &larger).failed(5, "16 MiB");
    run(data, &["get", "notes", "a", "--wait-for", "soon"]).failed(5, "soon");
    run(data, &["get", "notes", "a", "--wait-for", "0000000000000000-1"]).failed(5, "version");
    run(data, &["resolve", "notes", "a", "n", "--value", "1"]).failed(5, "/n");
    run(data, &["space", "create", "notes"]).failed(5, "notes");
    run(data, &["space", "create", "a/b"]).failed(5, "a/b");
    run(data, &["space", "members", "absent"]).failed(3, "absent");
    run(data, &["connect", "/ip4/127.0.0.1/tcp/1"]).failed(6, "syncline serve");
    let version = run(data, &["put", "notes", "a", r#"{"n":0}"#]).ok().to_owned();
    let later = format!("{version}999");
    let ended = run(data, &["get", "notes", "a", "--wait-for", &later, "--timeout", "100ms"]);
    assert!(ended.code == 7 || ended.code == 5, "{ended:?}");
}

#[test]
fn a_ticket_that_cannot_be_used_says_why() {
    let data = with_space();
    let other = tempfile::tempdir().unwrap();
    let invite = |more: &[&str]| {
        let mut arguments = vec!["space", "invite", "notes", "--role", "writer"];
        arguments.extend(more);
        run(data.path(), &arguments)
    };
    let invited = invite(&["--uses", "3", "--expires", "2h"]);
    let ticket = invited.ok();
    assert!(ticket.starts_with("syncline:") && !ticket.contains('\n'));
    assert!(invited.err.contains("3 devices") && invited.err.contains("2h"), "{}", invited.err);
    let short = invite(&["--expires", "1ms"]);
    std::thread::sleep(Duration::from_millis(20));
    let join = |ticket: &str| run(other.path(), &["space", "join", ticket]);
    join("hello").failed(5, "syncline:");
    join(&ticket[..ticket.len() - 3]).failed(5, "damaged");
    join(short.ok()).failed(5, "expired");
    run(data.path(), &["space", "join", ticket]).failed(5, "notes");
    assert_eq!(run(data.path(), &["space", "invite", "notes", "--role", "steward"]).code, 2);
    assert_eq!(run(data.path(), &["space", "invite", "notes", "--role", "writer", "--uses", "0"]).code, 5);
    let joined = run(other.path(), &["space", "join", ticket, "--name", "ours"]);
    assert!(joined.ok().contains("joining") && joined.err.contains("syncline serve"), "{joined:?}");
    assert!(run(other.path(), &["space", "list"]).ok().contains("ours"));
    run(other.path(), &["space", "leave", "ours"]).ok();
    assert!(!run(other.path(), &["space", "list"]).ok().contains("ours"));
}

#[test]
fn commands_use_the_running_node() {
    let data = with_space();
    let data = data.path();
    run(data, &["put", "notes", "before", r#"{"n":0}"#]).ok();
    let serving = Serving::start(data, &["--api", "127.0.0.1:0"]);
    assert!(run(data, &["device"]).ok().contains(serving.ready["device"].as_str().unwrap()));
    assert!(Path::new(serving.ready["token_file"].as_str().unwrap()).exists());
    run(data, &["put", "notes", "during", r#"{"n":1}"#]).ok();
    assert_eq!(run(data, &["list", "notes"]).ok(), "before\nduring");
    let status = run(data, &["status", "--json"]).json();
    assert_eq!(status["listening"], serving.ready["listening"]);
    assert!(run(data, &["status"]).ok().contains("running for"));
    assert!(run(data, &["status", "notes"]).ok().contains("steward"));
    let created = run(data, &["space", "create", "more", "--strings", "text", "--json"]).json();
    assert_eq!(run(data, &["space", "show", created["id"].as_str().unwrap(), "--json"]).json()["strings"], "text");
    let invitation = run(data, &["space", "invite", "more", "--role", "reader", "--json"]).json();
    assert!(!invitation["addresses"].as_array().unwrap().is_empty(), "{invitation}");
    assert!(run(data, &["space", "members", "more"]).ok().contains("this device"));
    run(data, &["space", "leave", "more"]).ok();
    run(data, &["get", "notes", "absent"]).failed(3, "absent");
    run(data, &["connect", "nowhere"]).failed(5, "nowhere");
    assert!(run(data, &["peers"]).ok().starts_with("DEVICE"));
    assert!(run(data, &["verify"]).ok().contains("sound"));
    let second = run(data, &["serve", "--no-mdns"]);
    second.failed(6, "in use");
    assert!(second.err.contains("http://127.0.0.1:"), "{second:?}");
    assert_eq!(serving.stop(), 0);
    assert_eq!(run(data, &["get", "notes", "during", "--json"]).ok(), r#"{"n":1}"#);
}

#[test]
fn a_wrong_token_is_forbidden() {
    let data = with_space();
    let data = data.path();
    let _serving = Serving::start(data, &["--api", "127.0.0.1:0"]);
    std::fs::write(data.join("api.token"), "another-token-of-sorts\n").unwrap();
    run(data, &["list", "notes"]).failed(4, "token");
}

#[test]
fn a_busy_api_address_is_an_error_only_if_it_was_asked_for() {
    let data = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let serve = ["serve", "--no-mdns", "--listen", "/ip4/127.0.0.1/tcp/0", "--api", &address];
    run(data.path(), &serve).failed(6, &address);
    let serving = Serving::start(data.path(), &[]);
    let api = serving.ready["api"].as_str().unwrap().to_owned();
    assert_eq!(serving.stop(), 0);
    let again = Serving::start(data.path(), &[]);
    assert_eq!(again.ready["api"], api.as_str(), "the port is remembered");
}

#[test]
fn a_busy_listen_port_that_was_asked_for_is_an_error() {
    let data = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let listen = format!("/ip4/127.0.0.1/tcp/{port}");
    let ended = run(data.path(), &["serve", "--no-mdns", "--no-quic", "--listen", &listen, "--api", "127.0.0.1:0"]);
    ended.failed(6, &port.to_string());
    run(data.path(), &["serve", "--no-mdns", "--listen", "nonsense"]).failed(5, "nonsense");
}

#[test]
fn the_configuration_file_is_read_and_its_mistakes_are_named() {
    let data = tempfile::tempdir().unwrap();
    run(data.path(), &["init"]).ok();
    let file = data.path().join("config.toml");
    std::fs::write(&file, "mdns = false\nlisen = []\n").unwrap();
    run(data.path(), &["serve"]).failed(2, "lisen");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    std::fs::write(&file, format!("mdns = false\nlisten = [\"/ip4/127.0.0.1/tcp/0\"]\napi = \"{address}\"\n")).unwrap();
    run(data.path(), &["serve"]).failed(6, &address.to_string());
    let variable = command(data.path()).args(["serve"]).env("SYNCLINE_API", "nonsense").output().unwrap();
    assert_eq!(Ended::new(&variable).code, 2);
    run(data.path(), &["serve", "--config", "/absent.toml"]).failed(2, "absent.toml");
}

#[test]
fn a_directory_of_a_newer_release_is_left_alone() {
    let data = tempfile::tempdir().unwrap();
    run(data.path(), &["init"]).ok();
    let marker = std::fs::read_dir(data.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.is_file() && std::fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"syncline")))
        .expect("a file that tells the format");
    let text = String::from_utf8(std::fs::read(&marker).unwrap()).unwrap();
    std::fs::write(&marker, text.replacen('1', "9999", 1)).unwrap();
    let ended = run(data.path(), &["device"]);
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.err.contains("update Syncline"), "{ended:?}");
}

#[test]
fn export_equals_import() {
    let data = with_space();
    let data = data.path();
    let lines: Vec<String> = (0..300)
        .map(|number| {
            let list = json!([1, null, {"a": []}]);
            let value = json!({"n": number, "f": 0.1 + f64::from(number), "text": "né\u{1f600}", "list": list});
            format!(r#"{{"key":"k/{number:05}","value":{value}}}"#)
        })
        .collect();
    let text = format!("{}\n", lines.join("\n"));
    let file = data.join("lines.ndjson");
    std::fs::write(&file, &text).unwrap();
    let report = run(data, &["import", "notes", file.to_str().unwrap(), "--per-transaction", "50", "--json"]).json();
    assert_eq!((&report["documents"], &report["transactions"]), (&json!(300), &json!(6)));
    let exported = run(data, &["export", "notes"]);
    assert_eq!(exported.ok(), text.trim_end());
    let sorted = |text: &str| {
        text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap().to_string()).collect::<Vec<_>>()
    };

    // Into another space, packed, through a running node.
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(text.as_bytes()).unwrap();
    let _serving = Serving::start(data, &["--api", "127.0.0.1:0"]);
    run(data, &["space", "create", "copy"]).ok();
    run_with_input(data, &["import", "copy", "-"], &packer.finish().unwrap()).ok();
    assert_eq!(sorted(run(data, &["export", "copy"]).ok()), sorted(&text));
    assert_eq!(run(data, &["export", "copy", "--prefix", "k/0000"]).ok().lines().count(), 10);
    run(data, &["export", "absent"]).failed(3, "absent");
}

#[test]
fn an_import_stops_at_a_bad_line_and_tells_what_was_written() {
    let data = with_space();
    let data = data.path();
    let good = |key: &str| format!("{{\"key\":\"{key}\",\"value\":{{\"n\":0}}}}\n");
    let text = format!("{}{}nonsense\n{}", good("a"), good("b"), good("c"));
    let ended = run_with_input(data, &["import", "notes", "-"], text.as_bytes());
    ended.failed(5, "line 3");
    assert!(ended.err.contains("2 documents were written"), "{ended:?}");
    assert_eq!(run(data, &["list", "notes"]).ok(), "a\nb");
    // A line that is JSON but not acceptable is found within its transaction.
    let text = format!("{}{}{}", good("d"), good("bad//key"), good("e"));
    let ended = run_with_input(data, &["import", "notes", "-"], text.as_bytes());
    ended.failed(5, "line 2");
    assert_eq!(run(data, &["list", "notes"]).ok(), "a\nb\nd");
    run(data, &["import", "notes", "/absent"]).failed(3, "/absent");
    run(data, &["import", "absent", "/absent"]).failed(3, "`notes`");
}

#[test]
fn of_two_lines_with_one_key_the_later_wins() {
    let data = with_space();
    let data = data.path();
    let text: String = (0..100).map(|number| format!("{{\"key\":\"k\",\"value\":{{\"n\":{number}}}}}\n")).collect();
    run_with_input(data, &["import", "notes", "-", "--per-transaction", "7"], text.as_bytes()).ok();
    assert_eq!(run(data, &["get", "notes", "k", "--json"]).json()["n"], 99);
}

#[test]
fn watch_prints_changes_until_it_is_ended() {
    let data = with_space();
    let data = data.path();
    let _serving = Serving::start(data, &["--api", "127.0.0.1:0"]);
    let since = run(data, &["put", "notes", "a/0", r#"{"n":0}"#]).ok().to_owned();
    let mut child = command(data)
        .args(["watch", "notes", "a/", "--json", "--values", "--since", &since])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    run(data, &["put", "notes", "b/1", r#"{"n":0}"#]).ok();
    run(data, &["put", "notes", "a/1", r#"{"n":5}"#]).ok();
    let change: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!((&change["key"], &change["value"]["n"]), (&json!("a/1"), &json!(5)));
    run(data, &["delete", "notes", "a/1"]).ok();
    let change: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(change["deleted"], true);
    terminate(&child);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_reader_that_has_enough_ends_a_command_quietly() {
    let data = with_space();
    let text: String =
        (0..3000).map(|number| format!("{{\"key\":\"k/{number:09}\",\"value\":{{\"n\":0}}}}\n")).collect();
    run_with_input(data.path(), &["import", "notes", "-"], text.as_bytes()).ok();
    let mut child =
        command(data.path()).args(["export", "notes"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::with_capacity(16, child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert!(first.contains("k/000000000"));
    let ended = Ended::new(&child.wait_with_output().unwrap());
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
}

#[test]
fn two_devices_share_a_space() {
    let (alice, bob) = (with_space(), tempfile::tempdir().unwrap());
    let (alice, bob) = (alice.path(), bob.path());
    run(alice, &["put", "notes", "from/alice", r#"{"n":1}"#]).ok();
    let serving = Serving::start(alice, &["--api", "127.0.0.1:0"]);
    let ticket = run(alice, &["space", "invite", "notes", "--role", "writer"]).ok().to_owned();
    run(bob, &["space", "join", &ticket]).ok();
    let other = Serving::start(bob, &["--api", "127.0.0.1:0"]);
    let connected = run(bob, &["connect", serving.address()]);
    assert_eq!(connected.ok(), serving.ready["device"].as_str().unwrap());
    eventually("bob reads what alice wrote", || run(bob, &["get", "notes", "from/alice"]).code == 0);
    run(bob, &["put", "notes", "from/bob", r#"{"n":0}"#]).ok();
    eventually("alice reads what bob wrote", || run(alice, &["get", "notes", "from/bob"]).code == 0);
    let peers = run(alice, &["peers", "--json"]).json();
    assert_eq!(peers["peers"][0]["device"], other.ready["device"]);
    assert_eq!(run(alice, &["space", "members", "notes", "--json"]).json()["members"].as_array().unwrap().len(), 2);
    assert_eq!(other.stop(), 0);
    assert_eq!(serving.stop(), 0);
}
