//! Nodes that replicate over real loopback connections, through the library.

use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use flate2::read::GzDecoder;
use serde_json::{Value, json};
use syncline::documents::{Edit, Step};
use syncline::node::info::{InvitationTerms, Standing};
use syncline::{ErrorKind, Node, Role, Space, Strings};
use tempfile::TempDir;

/// How long something that takes a moment may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Cities that are replicated: a part of the file, for the sake of unoptimised builds.
const CITIES: usize = 3000;

struct Device {
    node: Node,
    directory: TempDir,
}

impl Device {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let node = Self::open(&directory).await;
        Self { node, directory }
    }

    async fn open(directory: &TempDir) -> Node {
        let builder = Node::builder().data(directory.path()).create(true).mdns(false).quic(false);
        builder.listen("/ip4/127.0.0.1/tcp/0").start().await.unwrap()
    }

    /// Ends the node cleanly and starts it again on the same directory.
    async fn restart(self) -> Self {
        let Self { node, directory } = self;
        node.shutdown().await;
        let node = Self::open(&directory).await;
        Self { node, directory }
    }
}

async fn ticket(space: &Space, role: Role) -> String {
    space.invite(InvitationTerms { role, uses: 10, lasts_ms: 600_000 }).await.unwrap().to_string()
}

async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let started = Instant::now();
    while !holds().await {
        assert!(started.elapsed() < PATIENCE, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn value(space: &Space, key: &str) -> Option<Value> {
    space.get(key).await.unwrap().map(|document| document.value)
}

async fn holds(space: &Space, key: &str, expected: &Value) {
    eventually(&format!("{key} = {expected}"), || async { value(space, key).await.as_ref() == Some(expected) }).await;
}

async fn admitted(space: &Space) {
    eventually("the admission", || async { space.status().await.unwrap().standing == Standing::Member }).await;
}

async fn export(space: &Space) -> Vec<(String, Option<Value>)> {
    let (mut all, mut after) = (Vec::new(), None::<String>);
    loop {
        let page = space.list("", after.as_deref(), 1000, true).await.unwrap();
        all.extend(page.items.into_iter().map(|item| (item.key.to_string(), item.value)));
        match page.next {
            Some(next) => after = Some(next.to_string()),
            None => return all,
        }
    }
}

fn cities() -> Vec<(String, Value)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/data/cities.ndjson.gz");
    let lines = BufReader::new(GzDecoder::new(std::fs::File::open(path).unwrap())).lines();
    let record = |line: std::io::Result<String>| {
        let record: Value = serde_json::from_str(&line.unwrap()).unwrap();
        (record["key"].as_str().unwrap().to_owned(), record["value"].clone())
    };
    lines.take(CITIES).map(record).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_join_brings_everything_and_a_restart_keeps_it() {
    let (a, b) = (Device::start().await, Device::start().await);
    let space = a.node.create_space("cities", Strings::Scalar).await.unwrap().space;
    let cities = cities();
    for chunk in cities.chunks(500) {
        let step =
            |(key, value): &(String, Value)| Step::Edit { key: key.parse().unwrap(), edit: Edit::Put(value.clone()) };
        space.transact(chunk.iter().map(step).collect()).await.unwrap();
    }
    let copy = b.node.join(&ticket(&space, Role::Writer).await, Some("places")).await.unwrap();
    eventually("the cold join", || async { copy.stats().await.unwrap().documents == CITIES as u64 }).await;
    assert_eq!(export(&copy).await, export(&space).await);
    let expected: Vec<_> = cities.into_iter().map(|(key, value)| (key, Some(value))).collect();
    assert_eq!(export(&copy).await, expected, "what went in comes out");

    let b = b.restart().await;
    let copy = b.node.space("places").unwrap();
    assert_eq!(export(&copy).await, expected, "and is there after a restart");
    assert!(b.node.verify(&copy).await.unwrap().is_sound());
    // Peers that shared a space are dialled again without being named.
    space.put("news", json!({"n": 1})).await.unwrap();
    holds(&copy, "news", &json!({"n": 1})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_both_sides_write_offline_converges_after_reconnecting() {
    let (a, b) = (Device::start().await, Device::start().await);
    let space = a.node.create_space("notes", Strings::Scalar).await.unwrap().space;
    space.put("note", json!({"title": "t", "count": 0, "list": ["a"]})).await.unwrap();
    space.increment("note", "/votes", 1).await.unwrap();
    space.splice("note", "/text", 0, 0, "Hello").await.unwrap();
    let copy = b.node.join(&ticket(&space, Role::Writer).await, None).await.unwrap();
    eventually("the note", || async { value(&copy, "note").await == value(&space, "note").await }).await;

    a.node.disconnect(b.node.device()).await.unwrap();
    eventually("the cut", || async { b.node.status().await.connected_peers == 0 }).await;
    space.patch("note", json!({"title": "from a"})).await.unwrap();
    copy.patch("note", json!({"list": ["a", "b"]})).await.unwrap();
    for space in [&space, &copy] {
        space.increment("note", "/votes", 2).await.unwrap();
    }
    space.splice("note", "/text", 5, 0, ", world").await.unwrap();
    copy.splice("note", "/text", 0, 1, "J").await.unwrap();
    space.put("only-a", json!({"a": 1})).await.unwrap();
    copy.put("only-b", json!({"b": 1})).await.unwrap();

    a.node.connect(&b.node.listen_addresses()[0]).await.unwrap();
    let merged = json!({"title": "from a", "count": 0, "list": ["a", "b"], "votes": 5, "text": "Jello, world"});
    for space in [&space, &copy] {
        holds(space, "note", &merged).await;
        holds(space, "only-a", &json!({"a": 1})).await;
        holds(space, "only-b", &json!({"b": 1})).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_scalars_conflict_and_are_resolved_everywhere() {
    let (a, b) = (Device::start().await, Device::start().await);
    let space = a.node.create_space("notes", Strings::Scalar).await.unwrap().space;
    space.put("note", json!({"title": "first"})).await.unwrap();
    let copy = b.node.join(&ticket(&space, Role::Writer).await, None).await.unwrap();
    holds(&copy, "note", &json!({"title": "first"})).await;
    a.node.disconnect(b.node.device()).await.unwrap();
    eventually("the cut", || async { b.node.status().await.connected_peers == 0 }).await;
    space.put("note", json!({"title": "a's"})).await.unwrap();
    copy.put("note", json!({"title": "b's"})).await.unwrap();
    a.node.connect(&b.node.listen_addresses()[0]).await.unwrap();

    let conflicted = |space: &Space| {
        let space = space.clone();
        async move { space.conflicts("note").await.unwrap().documents.iter().any(|found| !found.places.is_empty()) }
    };
    for space in [&space, &copy] {
        eventually("the conflict", || conflicted(space)).await;
        let page = space.conflicts("note").await.unwrap();
        let values: Vec<_> = page.documents[0].places[0].values.iter().map(|choice| choice.value.clone()).collect();
        assert!(values.contains(&json!("a's")) && values.contains(&json!("b's")), "{values:?}");
    }
    copy.resolve("note", "/title", json!("both")).await.unwrap();
    for space in [&space, &copy] {
        holds(space, "note", &json!({"title": "both"})).await;
        eventually("the end of the conflict", || async { !conflicted(space).await }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_ends_a_document_unless_it_was_edited_at_the_same_time() {
    let (a, b) = (Device::start().await, Device::start().await);
    let space = a.node.create_space("notes", Strings::Scalar).await.unwrap().space;
    for key in ["gone", "edited", "again"] {
        space.put(key, json!({"old": true})).await.unwrap();
    }
    let copy = b.node.join(&ticket(&space, Role::Writer).await, None).await.unwrap();
    eventually("three documents", || async { copy.stats().await.unwrap().documents == 3 }).await;
    a.node.disconnect(b.node.device()).await.unwrap();
    eventually("the cut", || async { b.node.status().await.connected_peers == 0 }).await;
    for key in ["gone", "edited", "again"] {
        space.delete(key).await.unwrap();
    }
    space.put("again", json!({"new": 1})).await.unwrap();
    copy.patch("edited", json!({"saved": 1})).await.unwrap();
    a.node.connect(&b.node.listen_addresses()[0]).await.unwrap();
    for space in [&space, &copy] {
        holds(space, "edited", &json!({"old": true, "saved": 1})).await;
        holds(space, "again", &json!({"new": 1})).await;
        assert_eq!(value(space, "gone").await, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_carries_what_it_cannot_read_between_devices_that_never_meet() {
    let (a, relay, b) = (Device::start().await, Device::start().await, Device::start().await);
    let space = a.node.create_space("notes", Strings::Scalar).await.unwrap().space;
    space.put("note", json!({"n": 1})).await.unwrap();
    let for_b = ticket(&space, Role::Writer).await;
    let blind = relay.node.join(&ticket(&space, Role::Relay).await, None).await.unwrap();
    admitted(&blind).await;
    let operations = || async { blind.status().await.unwrap().operations };
    let copy = b.node.join(&for_b, None).await.unwrap();
    admitted(&copy).await;
    holds(&copy, "note", &json!({"n": 1})).await;
    let address = relay.node.listen_addresses()[0].clone();
    b.node.shutdown().await;
    let before = operations().await;
    space.put("later", json!({"n": 2})).await.unwrap();
    eventually("the relay to have it", || async { operations().await > before }).await;
    assert_eq!(blind.stats().await.unwrap().documents, 0, "a relay has no documents");
    assert!(export(&blind).await.is_empty());
    let refused = blind.put("note", json!({"n": 3})).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Forbidden, "{refused}");
    a.node.shutdown().await;

    let b = Device { node: Device::open(&b.directory).await, directory: b.directory };
    b.node.connect(&address).await.unwrap();
    let copy = b.node.space("notes").unwrap();
    holds(&copy, "later", &json!({"n": 2})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_reads_and_is_told_that_it_cannot_write() {
    let (a, b) = (Device::start().await, Device::start().await);
    let space = a.node.create_space("notes", Strings::Text).await.unwrap().space;
    space.put("note", json!({"n": "text"})).await.unwrap();
    let copy = b.node.join(&ticket(&space, Role::Reader).await, None).await.unwrap();
    holds(&copy, "note", &json!({"n": "text"})).await;
    let refused = copy.put("note", json!({"n": "mine"})).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Forbidden, "{refused}");
    assert!(refused.to_string().contains("reader"), "{refused}");
    let refused = copy.invite(InvitationTerms { role: Role::Writer, uses: 1, lasts_ms: 1000 }).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Forbidden, "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_admits_as_many_as_it_says_and_no_more() {
    let (a, b, c) = (Device::start().await, Device::start().await, Device::start().await);
    let space = a.node.create_space("notes", Strings::Scalar).await.unwrap().space;
    let terms = InvitationTerms { role: Role::Writer, uses: 1, lasts_ms: 600_000 };
    let ticket = space.invite(terms).await.unwrap().to_string();
    admitted(&b.node.join(&ticket, None).await.unwrap()).await;
    let refused = c.node.join(&ticket, None).await.unwrap();
    eventually("the refusal", || async { refused.status().await.unwrap().standing == Standing::Refused }).await;
    let problem = refused.status().await.unwrap().joining_problem.unwrap();
    assert!(problem.contains("ask for a new one"), "{problem}");
    assert_eq!(c.node.join(&ticket, None).await.unwrap_err().kind(), ErrorKind::Conflict, "it is here already");
}
