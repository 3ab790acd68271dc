//! Members and keys from the command line: real nodes that meet, part, are copied and are deleted.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cli::{Ended, Serving, command, eventually, run, run_with_input, with_space};

/// A device's data directory with a node on it.
struct Device {
    data: TempDir,
    serving: Option<Serving>,
}

impl Device {
    fn of(data: TempDir) -> Self {
        let serving = Some(Serving::start(data.path(), &["--api", "127.0.0.1:0"]));
        Self { data, serving }
    }

    fn new() -> Self {
        Self::of(tempfile::tempdir().unwrap())
    }

    fn data(&self) -> &Path {
        self.data.path()
    }

    fn serving(&self) -> &Serving {
        self.serving.as_ref().unwrap()
    }

    fn id(&self) -> String {
        self.serving().ready["device"].as_str().unwrap().to_owned()
    }

    fn stop(&mut self) {
        if let Some(serving) = self.serving.take() {
            assert_eq!(serving.stop(), 0);
        }
    }

    fn start(&mut self) {
        self.serving = Some(Serving::start(self.data(), &["--api", "127.0.0.1:0"]));
    }

    fn connect(&self, other: &Self) {
        self.run(&["connect", other.serving().address()]).ok();
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        run(self.data(), arguments)
    }

    fn status(&self) -> Value {
        self.run(&["space", "show", "notes", "--json"]).json()
    }

    fn role(&self) -> String {
        self.status()["role"].as_str().unwrap_or_default().to_owned()
    }

    fn put(&self, key: &str) {
        self.run(&["put", "notes", key, r#"{"n":1}"#]).ok();
    }

    fn has(&self, key: &str) -> bool {
        self.run(&["get", "notes", key]).code == 0
    }

    fn sees(&self, key: &str) {
        eventually(&format!("{key} arrives"), || self.has(key));
    }

    /// Joins by an invitation of another one, over a connection to it.
    fn join(&self, other: &Self, role: &str) {
        let ticket = other.run(&["space", "invite", "notes", "--role", role]).ok().to_owned();
        self.run(&["space", "join", &ticket]).ok();
        self.connect(other);
        eventually("the admission", || self.role() == role);
    }
}

/// The steward of a space named `notes`, and the recovery key.
fn steward() -> (Device, String) {
    let data = tempfile::tempdir().unwrap();
    let created = run(data.path(), &["space", "create", "notes", "--json"]).json();
    (Device::of(data), created["recovery_key"].as_str().unwrap().to_owned())
}

fn what_happened(device: &Device) -> Vec<String> {
    let log = device.run(&["space", "log", "notes", "--json"]).json();
    log["events"].as_array().unwrap().iter().map(|event| event["what"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_removed_device_reads_and_writes_nothing_that_comes_after() {
    let ((a, _), b, c) = (steward(), Device::new(), Device::new());
    b.join(&a, "writer");
    c.join(&a, "writer");
    b.connect(&c);
    a.put("by/a");
    b.put("by/b");
    for device in [&a, &b, &c] {
        device.sees("by/a");
        device.sees("by/b");
    }
    let removed = a.run(&["space", "remove", "notes", &b.id()[..8]]);
    assert!(!removed.ok().contains(&b.id()) && removed.err.contains("new epoch"), "{removed:?}");
    eventually("b's removal", || b.status()["standing"] == "removed");
    eventually("c's new key", || c.status()["epoch"] == 2);
    a.put("later/a");
    c.put("later/c");
    a.sees("later/c");
    c.sees("later/a");
    b.run(&["put", "notes", "later/b", "{}"]).failed(4, "removed");
    assert!(b.has("by/a") && !b.has("later/a") && !b.has("later/c"));
    let shown = b.run(&["space", "show", "notes"]);
    assert!(shown.ok().contains("removed from the space") && !shown.out.contains("ticket"), "{shown:?}");
    b.run(&["space", "uncounted", "notes"]).ok();

    let log = a.run(&["space", "log", "notes"]);
    for part in ["founded", "invited", "admitted", "removed", "epoch 2", "up to operation 1", &b.id()[..8]] {
        assert!(log.ok().contains(part), "{part}: {log:?}");
    }
    let expected = ["founded", "rotated", "invited", "admitted", "invited", "admitted", "removed", "rotated"];
    assert_eq!(what_happened(&c), expected);
    let invitations = a.run(&["space", "invitations", "notes", "--json"]).json();
    assert!(invitations["invitations"].as_array().unwrap().iter().all(|invitation| invitation["used"] == 1));
    a.run(&["space", "remove", "notes", &b.id()]).failed(3, "not a member");
    a.run(&["space", "add", "notes", &text_of(&b), "--role", "writer"]).failed(5, "never comes back");
}

fn text_of(device: &Device) -> String {
    device.run(&["device", "--json"]).json()["text"].as_str().unwrap().to_owned()
}

#[test]
fn what_was_written_without_knowing_of_a_lost_right_is_given_back() {
    let ((a, _), mut b) = (steward(), Device::new());
    let id = b.id();
    b.join(&a, "writer");
    b.run(&["put", "notes", "list", r#"{"items":["bread"]}"#]).ok();
    a.sees("list");
    b.stop();
    // As far as b knows all is well.
    b.run(&["patch", "notes", "list", r#"{"by":"b"}"#]).ok();
    b.run(&["put", "notes", "new", r#"{"n":1}"#]).ok();
    b.run(&["put", "notes", "gone", r#"{"n":1}"#]).ok();
    b.run(&["delete", "notes", "gone"]).ok();
    a.run(&["space", "role", "notes", &id, "reader"]).ok();
    a.run(&["patch", "notes", "list", r#"{"also":"a"}"#]).ok();
    b.start();
    b.connect(&a);
    eventually("the lost right", || b.role() == "reader");
    eventually("the loss", || !b.has("new"));
    eventually("a's write", || b.run(&["get", "notes", "list", "--json"]).json()["also"] == "a");
    let lines = b.run(&["space", "uncounted", "notes"]);
    let writes: Vec<Value> = lines.ok().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(writes.len(), 4, "{writes:?}");
    assert_eq!(writes[0]["value"], json!({"items": ["bread"], "by": "b", "also": "a"}));
    assert_eq!((&writes[1]["key"], &writes[1]["value"]), (&json!("new"), &json!({"n": 1})));
    assert_eq!((&writes[3]["deleted"], &writes[3]["value"]), (&json!(true), &Value::Null));
    assert!(writes[0]["at_ms"].as_u64().unwrap() > 1_600_000_000_000);
    let shown = b.status();
    assert_eq!(shown["uncounted"].as_array().unwrap().len(), 1, "{shown}");
    assert!(b.run(&["space", "show", "notes"]).ok().contains("syncline space uncounted"));

    let documents = b.run(&["space", "uncounted", "notes", "--documents"]);
    assert!(documents.err.contains("gone") && documents.ok().lines().count() == 2, "{documents:?}");
    run_with_input(a.data(), &["import", "notes", "-"], documents.out.as_bytes()).ok();
    let list = a.run(&["get", "notes", "list", "--json"]).json();
    assert_eq!(list, json!({"items": ["bread"], "by": "b", "also": "a"}));
}

#[test]
fn a_device_that_was_away_while_it_was_removed_is_told_that_nobody_serves_it() {
    let ((a, _), mut b) = (steward(), Device::new());
    let id = b.id();
    b.join(&a, "writer");
    b.stop();
    a.run(&["space", "remove", "notes", &id]).ok();
    b.start();
    b.connect(&a);
    let told = || b.run(&["space", "show", "notes"]).ok().contains("do not count this device as a member");
    eventually("the notice", told);
    assert_eq!(b.status()["peers"][0]["refuses"], true);
    a.put("later");
    assert!(!b.has("later"));
}

#[test]
fn roles_change_keys_rotate_and_the_space_is_handed_over() {
    let ((a, _), b, c) = (steward(), Device::new(), Device::new());
    b.join(&a, "writer");
    c.join(&a, "reader");
    c.run(&["put", "notes", "by/c", "{}"]).failed(4, "reader");
    let changed = a.run(&["space", "role", "notes", &c.id()[..10], "writer"]);
    assert!(changed.err.contains("may write"), "{changed:?}");
    eventually("the new role", || c.role() == "writer");
    c.put("by/c");
    a.sees("by/c");
    assert_eq!(a.run(&["space", "rotate", "notes"]).ok(), "epoch 2");
    assert_eq!(a.run(&["space", "rotate", "notes", "--json"]).json()["epoch"], 3);
    for device in [&b, &c] {
        eventually("the new key", || device.status()["epoch"] == 3);
    }
    b.put("by/b");
    a.sees("by/b");
    c.connect(&b);
    c.sees("by/b");

    a.run(&["space", "handover", "notes", &b.id()]).ok();
    assert_eq!(a.role(), "writer");
    a.run(&["space", "rotate", "notes"]).failed(4, "steward");
    eventually("b's rule", || b.role() == "steward");
    b.run(&["space", "role", "notes", &c.id(), "reader"]).ok();
    eventually("the lost role", || c.role() == "reader");
    c.run(&["put", "notes", "more/c", "{}"]).failed(4, "lost the right");
    b.run(&["space", "role", "notes", &c.id(), "writer"]).failed(5, "never gets it back");
    b.run(&["space", "role", "notes", &c.id(), "relay"]).ok();
    eventually("the relay", || c.role() == "relay");
    b.put("after");
    a.sees("after");
    assert!(!c.has("after"));
    assert!(what_happened(&a).contains(&"handed over".to_owned()));
}

#[test]
fn the_recovery_key_takes_the_space_over_when_the_stewards_directory_is_gone() {
    let ((a, key), b, c) = (steward(), Device::new(), Device::new());
    let (_, other_key) = steward();
    b.join(&a, "writer");
    c.join(&a, "writer");
    b.connect(&c);
    a.put("by/a");
    for device in [&b, &c] {
        device.sees("by/a");
    }
    let old_steward = a.id();
    drop(a);

    let file = b.data().join("key.txt");
    let recover = |text: &str| {
        std::fs::write(&file, text).unwrap();
        b.run(&["space", "recover", "notes", "--recovery-key-file", file.to_str().unwrap()])
    };
    recover("hello").failed(5, "begins with `syncline-recovery:`");
    recover(&key[..key.len() - 2]).failed(5, "damaged");
    recover(&other_key).failed(4, "not the recovery key of the space");
    b.run(&["space", "recover", "notes"]).failed(2, "recovery key is needed");
    b.run(&["space", "recover", "notes", "--recovery-key-file", "/absent"]).failed(3, "/absent");
    b.run(&["space", "recover", "absent"]).failed(3, "absent");
    b.run(&["space", "rotate", "notes"]).failed(4, "steward");

    let mut recovering = command(b.data());
    recovering.args(["space", "recover", "notes"]).env("SYNCLINE_RECOVERY_KEY", &key);
    let recovered = Ended::new(&recovering.output().unwrap());
    assert!(!recovered.ok().contains(&old_steward), "{recovered:?}");
    assert!(recovered.err.contains("syncline serve"), "{recovered:?}");
    assert_eq!(b.role(), "steward");
    eventually("the new epoch", || c.status()["epoch"] == 2);
    c.put("by/c");
    b.sees("by/c");
    b.run(&["space", "remove", "notes", &c.id()]).ok();
    eventually("c's removal", || c.status()["standing"] == "removed");
    assert!(what_happened(&b).contains(&"took over".to_owned()));
    recover(&key).failed(5, "is the steward");
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn a_copied_directory_is_noticed_and_the_steward_lets_a_branch_count() {
    let ((a, _), mut b) = (steward(), Device::new());
    b.join(&a, "writer");
    b.put("before");
    a.sees("before");
    b.stop();
    let twin = tempfile::tempdir().unwrap();
    copy(b.data(), twin.path());
    // Both go on, unaware of each other.
    b.put("by/one");
    run(twin.path(), &["put", "notes", "by/two", r#"{"n":2}"#]).ok();
    b.start();
    b.connect(&a);
    a.sees("by/one");
    b.stop();
    let twin = Device::of(twin);
    twin.connect(&a);
    let told = |device: &Device| {
        let told = || device.run(&["space", "show", "notes"]).ok().contains("data directory was copied");
        eventually("the notice", told);
        device.run(&["put", "notes", "more", "{}"]).failed(4, "two copies of this device");
        assert!(device.has("before"));
    };
    told(&twin);
    b.start();
    b.connect(&a);
    told(&b);
    eventually("a's notice", || !a.status()["uncounted"].as_array().unwrap().is_empty());
    assert!(a.run(&["space", "show", "notes"]).ok().contains("was cloned"));
    eventually("the loss", || !a.has("by/one") && !a.has("by/two"));
    // Each copy gives back what it wrote.
    let lost = twin.run(&["space", "uncounted", "notes", "--documents"]);
    assert_eq!(lost.json(), json!({"key": "by/two", "value": {"n": 2}}));

    // Every head that anybody shows can be resolved.
    let mut heads: Vec<String> = Vec::new();
    for device in [&a, &b, &twin] {
        let status = device.status();
        let shown = status["uncounted"].as_array().unwrap().iter();
        heads.extend(shown.map(|stretch| stretch["head"].as_str().unwrap().to_owned()));
    }
    heads.sort();
    heads.dedup();
    assert_eq!(heads.len(), 2, "{heads:?}");
    let log = a.run(&["space", "log", "notes"]);
    assert!(log.ok().contains("syncline space resolve notes "), "{log:?}");
    let mut arguments = vec!["space", "resolve", "notes"];
    arguments.extend(heads.iter().map(String::as_str));
    a.run(&arguments).ok();
    a.sees("by/one");
    a.sees("by/two");
    assert_eq!(a.run(&["get", "notes", "by/two", "--json"]).json()["n"], 2);
    for key in ["by/one", "by/two"] {
        let change = a.run(&["history", "notes", key, "--json"]).json();
        assert_eq!(change["carried_by"]["author"], b.id(), "a branch is the work of its device");
    }
    assert!(what_happened(&a).contains(&"resolved".to_owned()));
    assert_eq!(a.run(&["verify", "notes", "--json"]).json()["sound"], true);
}

#[test]
fn a_relay_hands_on_what_was_written_while_nobody_else_was_there() {
    let ((mut a, _), mut relay, b) = (steward(), Device::new(), Device::new());
    relay.join(&a, "relay");
    b.join(&a, "writer");
    let mut b = b;
    b.stop();
    // A new epoch: the relay gets the secret to take part, and no key to read with.
    a.run(&["space", "rotate", "notes"]).ok();
    a.put("later");
    let mine = a.status()["operations"].clone();
    eventually("the relay has it", || relay.status()["operations"] == mine);
    a.stop();
    assert!(!relay.has("later"));
    relay.stop();
    relay.start();
    b.start();
    b.connect(&relay);
    b.sees("later");
    assert_eq!(b.status()["epoch"], 2);
}

#[test]
fn two_devices_that_never_meet_share_a_space_through_a_relay() {
    let ((mut a, _), mut relay, mut b) = (steward(), Device::new(), Device::new());
    relay.join(&a, "relay");
    let text = b.run(&["device", "--json"]).json()["text"].as_str().unwrap().to_owned();
    a.run(&["space", "add", "notes", &text, "--role", "writer"]).ok();
    let ticket = a.run(&["space", "invite", "notes", "--role", "writer"]).ok().to_owned();
    a.put("of-a");
    let all = a.status()["operations"].clone();
    eventually("the relay has it", || relay.status()["operations"] == all);
    a.stop();

    b.run(&["space", "join", &ticket]).ok();
    b.connect(&relay);
    b.sees("of-a");
    b.put("of-b");
    let all = b.status()["operations"].clone();
    eventually("the relay has that too", || relay.status()["operations"] == all);
    b.stop();
    assert!(!relay.has("of-a") && !relay.has("of-b"));
    relay.stop();
    relay.start();

    a.start();
    a.connect(&relay);
    a.sees("of-b");
}

#[test]
fn newcomers_read_history_unless_it_is_withheld() {
    let ((a, _), b, c) = (steward(), Device::new(), Device::new());
    a.put("old");
    b.join(&a, "writer");
    b.sees("old");
    let said = a.run(&["space", "newcomers", "notes", "--history", "withheld"]);
    assert!(said.ok().contains("after they are invited"), "{said:?}");
    assert_eq!(a.status()["newcomers_read_history"], false);
    c.join(&a, "writer");
    a.put("new");
    c.sees("new");
    assert!(!c.has("old") && b.has("old"));
    assert_eq!(a.run(&["space", "newcomers", "notes"]).code, 2);
}

#[test]
fn an_invitation_is_ended_before_it_is_used() {
    let ((a, _), b) = (steward(), Device::new());
    let ticket = a.run(&["space", "invite", "notes", "--role", "writer"]).ok().to_owned();
    let listed = a.run(&["space", "invitations", "notes", "--json"]).json();
    let id = listed["invitations"][0]["invitation"].as_str().unwrap().to_owned();
    assert_eq!(listed["invitations"][0]["state"], "open");
    a.run(&["space", "revoke", "notes", &id[..8]]).ok();
    assert!(a.run(&["space", "invitations", "notes"]).ok().contains("closed"));
    b.run(&["space", "join", &ticket]).ok();
    b.connect(&a);
    eventually("the refusal", || b.status()["standing"] == "refused");
    a.run(&["space", "revoke", "notes", "zzzzzzzz"]).failed(3, "zzzzzzzz");
}

#[test]
fn a_restored_device_is_added_by_its_text() {
    let ((a, _), mut b) = (steward(), Device::new());
    b.join(&a, "writer");
    b.put("before");
    a.sees("before");
    b.stop();
    let file = a.data().join("b.backup");
    let passphrase = a.data().join("passphrase");
    std::fs::write(&passphrase, "a long enough passphrase\n").unwrap();
    let (file, passphrase) = (file.to_str().unwrap(), passphrase.to_str().unwrap());
    b.run(&["backup", file, "--with-keys", "--backup-passphrase-file", passphrase]).ok();
    let place = tempfile::tempdir().unwrap();
    let restored = place.path().join("restored");
    run(&restored, &["restore", file, "--backup-passphrase-file", passphrase]).ok();
    let text = run(&restored, &["device", "--json"]).json()["text"].as_str().unwrap().to_owned();
    let added = a.run(&["space", "add", "notes", &text, "--role", "writer"]);
    assert!(added.err.contains("writer"), "{added:?}");
    let restored_node = Serving::start(&restored, &["--api", "127.0.0.1:0"]);
    run(&restored, &["connect", a.serving().address()]).ok();
    eventually("the right to write", || run(&restored, &["put", "notes", "after", r#"{"n":1}"#]).code == 0);
    a.sees("after");
    assert_eq!(restored_node.stop(), 0);
    a.run(&["space", "add", "notes", &text, "--role", "writer"]).failed(5, "member already");
    assert!(what_happened(&a).contains(&"added".to_owned()));
}

#[test]
fn wrong_uses_say_what_is_wrong() {
    let data = with_space();
    let data = data.path();
    let me = run(data, &["device", "--json"]).json();
    let (device, text) = (me["device"].as_str().unwrap(), me["text"].as_str().unwrap());
    let unknown = "a".repeat(51) + "q";
    let strange = format!("{unknown}:1:{unknown}");
    for (arguments, code, part) in [
        (vec!["add", "notes", "hello", "--role", "writer"], 5, "syncline-device:"),
        (vec!["add", "notes", device, "--role", "writer"], 5, "syncline device"),
        (vec!["add", "notes", &text[..text.len() - 3], "--role", "reader"], 5, "damaged"),
        (vec!["add", "notes", text, "--role", "reader"], 5, "member already"),
        (vec!["remove", "notes", "abc"], 5, "8 characters"),
        (vec!["remove", "notes", "abcdefgh"], 3, "space members"),
        (vec!["remove", "notes", &unknown], 3, "not a member"),
        (vec!["remove", "notes", device], 5, "hand the space over"),
        (vec!["remove", "absent", device], 3, "absent"),
        (vec!["role", "notes", device, "reader"], 5, "handover"),
        (vec!["handover", "notes", device], 5, "only a writer"),
        (vec!["resolve", "notes", &strange], 5, "never heard of that device"),
        (vec!["resolve", "notes", "a:b:c"], 5, "DEVICE:SEQUENCE:OPERATION-ID"),
        (vec!["revoke", "notes", "abcdefgh"], 3, "space invitations"),
        (vec!["revoke", "notes", &unknown], 5, "no such invitation"),
        (vec!["log", "absent"], 3, "absent"),
        (vec!["uncounted", "absent"], 3, "absent"),
    ] {
        let mut all = vec!["space"];
        all.extend(&arguments);
        run(data, &all).failed(code, part);
    }
    for usage in [
        vec!["add", "notes", text],
        vec!["remove", "notes"],
        vec!["role", "notes", device, "steward"],
        vec!["resolve", "notes"],
        vec!["recover", "notes", "syncline-recovery:aaaa"],
    ] {
        let mut all = vec!["space"];
        all.extend(&usage);
        assert_eq!(run(data, &all).code, 2, "{usage:?}");
    }
    assert!(run(data, &["space", "uncounted", "notes"]).err.contains("counts"));
    assert!(run(data, &["space", "invitations", "notes"]).ok().contains("no invitations"));
}
