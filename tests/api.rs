//! The HTTP API over a real connection, on a node without a network.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use axum::body::{Body, BodyDataStream, to_bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use futures::StreamExt;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use syncline::Node;
use syncline::api::limits::{BODY_BYTES_MAX, PAGE_MAX};
use syncline::api::{ApiServer, ApiToken, PROBLEM_MEDIA_TYPE, read_address};
use tempfile::TempDir;

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    fn version(&self) -> String {
        self.headers["syncline-version"].to_str().unwrap().to_owned()
    }

    /// Asserts that this is a problem, and gives its detail.
    pub(crate) fn problem(&self, status: u16) -> String {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        assert_eq!(self.headers[header::CONTENT_TYPE], PROBLEM_MEDIA_TYPE);
        let problem = self.json();
        assert_eq!(problem["status"], status);
        assert!(problem["type"].as_str().unwrap().starts_with("urn:syncline:problem:"));
        assert!(!problem["title"].as_str().unwrap().is_empty());
        problem["detail"].as_str().unwrap().to_owned()
    }
}

pub(crate) struct Api {
    node: Node,
    server: ApiServer,
    client: Client<HttpConnector, Body>,
    token: String,
    directory: TempDir,
}

impl Api {
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let node = Node::builder().data(directory.path()).create(true).offline().start().await.unwrap();
        let any = Some("127.0.0.1:0".parse::<SocketAddr>().unwrap());
        let server = ApiServer::start(node.clone(), directory.path(), any).await.unwrap();
        let token = ApiToken::load(directory.path()).unwrap().reveal().to_owned();
        Self { node, server, client: Client::builder(TokioExecutor::new()).build_http(), token, directory }
    }

    /// With a space named `notes`.
    pub(crate) async fn with_space() -> Self {
        let api = Self::start().await;
        let created = api.send(Method::POST, "/v1/spaces", Some(json!({"name": "notes"}))).await;
        assert_eq!(created.status, StatusCode::CREATED, "{}", created.text);
        api
    }

    pub(crate) async fn stop(self) -> TempDir {
        self.server.stop().await;
        self.node.shutdown().await;
        self.directory
    }

    pub(crate) fn request(&self, method: Method, target: &str) -> axum::http::request::Builder {
        let uri = format!("http://{}{target}", self.server.address());
        Request::builder().method(method).uri(uri).header(header::AUTHORIZATION, format!("Bearer {}", self.token))
    }

    pub(crate) async fn exchange(&self, request: Request<Body>) -> Answer {
        let answer = self.client.request(request).await.unwrap();
        let (parts, body) = answer.into_parts();
        let bytes = to_bytes(Body::new(body), usize::MAX).await.unwrap();
        Answer { status: parts.status, headers: parts.headers, text: String::from_utf8(bytes.to_vec()).unwrap() }
    }

    /// The bytes of an answer.
    async fn bytes(&self, method: Method, target: &str, body: Option<Value>) -> Vec<u8> {
        let body = body.map(|body| Body::from(body.to_string())).unwrap_or_default();
        let answer = self.client.request(self.request(method, target).body(body).unwrap()).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()[header::CONTENT_TYPE], "application/octet-stream");
        to_bytes(Body::new(answer.into_body()), usize::MAX).await.unwrap().to_vec()
    }

    pub(crate) async fn send(&self, method: Method, target: &str, body: Option<Value>) -> Answer {
        let body = body.map(|body| Body::from(body.to_string())).unwrap_or_default();
        self.exchange(self.request(method, target).body(body).unwrap()).await
    }

    pub(crate) async fn get(&self, target: &str) -> Answer {
        self.send(Method::GET, target, None).await
    }

    pub(crate) async fn put(&self, key: &str, value: Value) -> Answer {
        let answer = self.send(Method::PUT, &format!("/v1/spaces/notes/documents/{key}"), Some(value)).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        answer
    }

    async fn events(&self, target: &str, last_event_id: Option<&str>) -> Events {
        self.events_of(target, last_event_id, Some(&self.token)).await
    }

    /// A stream, with the token in a header or not.
    pub(crate) async fn events_of(&self, target: &str, last_event_id: Option<&str>, token: Option<&str>) -> Events {
        let uri = format!("http://{}{target}", self.server.address());
        let mut request = Request::builder().uri(uri).header(header::ACCEPT, "text/event-stream");
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some(id) = last_event_id {
            request = request.header("Last-Event-ID", id);
        }
        let answer = self.client.request(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()[header::CONTENT_TYPE], "text/event-stream");
        Events { stream: Body::new(answer.into_body()).into_data_stream(), text: String::new() }
    }

    /// Status and bytes of an answer.
    pub(crate) async fn bytes_of(&self, request: Request<Body>) -> (StatusCode, Vec<u8>) {
        let answer = self.client.request(request).await.unwrap();
        (answer.status(), to_bytes(Body::new(answer.into_body()), usize::MAX).await.unwrap().to_vec())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address()
    }

    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    pub(crate) fn device(&self) -> String {
        self.node.device().to_string()
    }
}

pub(crate) struct Events {
    stream: BodyDataStream,
    text: String,
}

impl Events {
    /// The next event: its type, id and data; none at the end.
    pub(crate) async fn next(&mut self) -> Option<(String, String, Value)> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    event.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned()
                };
                let (name, id, data) = (field("event:"), field("id:"), field("data:"));
                self.text = rest.to_owned();
                if data.is_empty() {
                    continue;
                }
                return Some((name, id, serde_json::from_str(&data).unwrap()));
            }
            let chunk = tokio::time::timeout(Duration::from_secs(10), self.stream.next()).await.expect("an event")?;
            self.text.push_str(std::str::from_utf8(&chunk.unwrap()).unwrap());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_health_and_description_are_open_to_all() {
    let api = Api::start().await;
    let bare = |target: &str| {
        Request::builder().uri(format!("http://{}{target}", api.server.address())).body(Body::empty()).unwrap()
    };
    assert_eq!(api.exchange(bare("/healthz")).await.json(), json!({"status": "ok"}));
    let description = api.exchange(bare("/openapi.json")).await.json();
    assert!(description["paths"]["/v1/spaces/{space}/documents/{key}"]["put"].is_object());
    for target in ["/v1/status", "/metrics", "/nothing", "/v1/spaces", "/v1/status?token=wrong"] {
        let answer = api.exchange(bare(target)).await;
        assert!(answer.problem(401).contains("api.token"), "{target}");
        assert!(answer.headers[header::WWW_AUTHENTICATE].to_str().unwrap().starts_with("Bearer"));
    }
    assert_eq!(api.exchange(bare(&format!("/v1/status?token={}", api.token))).await.status, StatusCode::OK);
    assert_eq!(api.get("/v1/status").await.json()["device"], api.node.device().to_string());
    assert!(api.get("/metrics").await.headers[header::CONTENT_TYPE].to_str().unwrap().contains("openmetrics"));
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_for_another_host_is_refused() {
    let api = Api::start().await;
    let request = api.request(Method::GET, "/v1/status").header(header::HOST, "evil.example");
    api.exchange(request.body(Body::empty()).unwrap()).await.problem(421);
    let request = api.request(Method::GET, "/v1/status").header(header::HOST, "localhost:1");
    assert_eq!(api.exchange(request.body(Body::empty()).unwrap()).await.status, StatusCode::OK);
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_served_is_explained() {
    let api = Api::with_space().await;
    assert!(api.get("/v2/status").await.problem(404).contains("/openapi.json"));
    let answer = api.send(Method::DELETE, "/v1/status", None).await;
    answer.problem(405);
    assert!(answer.headers[header::ALLOW].to_str().unwrap().contains("GET"));
    assert!(api.get("/v1/spaces/absent/documents").await.problem(404).contains("`notes`"));
    assert!(api.get("/v1/spaces/notes/documents?limt=3").await.problem(400).contains("limt"));
    assert!(api.get("/v1/spaces/notes/documents/a%ff").await.problem(400).contains("path"));
    let request = api.request(Method::PUT, "/v1/spaces/notes/documents/a").body(Body::from("{\"a\":")).unwrap();
    assert!(api.exchange(request).await.problem(400).contains("column"));
    let deep = format!("{}1{}", "[".repeat(500), "]".repeat(500));
    let request = api.request(Method::PUT, "/v1/spaces/notes/documents/a").body(Body::from(deep)).unwrap();
    api.exchange(request).await.problem(400);
    api.send(Method::PUT, "/v1/spaces/notes/documents/a", Some(json!([1]))).await.problem(400);
    for key in ["a//b", "a/../b", "%0a", &"k".repeat(1025)] {
        let answer = api.send(Method::PUT, &format!("/v1/spaces/notes/documents/{key}"), Some(json!({}))).await;
        assert!(answer.problem(400).contains("key"), "{key}");
    }
    let large = Body::from(vec![b' '; BODY_BYTES_MAX + 1]);
    let request = api.request(Method::PUT, "/v1/spaces/notes/documents/a").body(large).unwrap();
    assert!(api.exchange(request).await.problem(413).contains("MiB"));
    // The body fits, but not what it holds.
    let text = "x".repeat(12 << 20);
    let answer = api.send(Method::PUT, "/v1/spaces/notes/documents/a", Some(json!({"text": text}))).await;
    answer.problem(413);
    api.get("/v1/spaces/notes/documents/a").await.problem(404);
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_are_written_read_and_deleted() {
    let api = Api::with_space().await;
    let written = api.put("cities/FR/00001", json!({"name": "Paris", "n": 1})).await;
    assert_eq!(written.json()["documents"][0]["key"], "cities/FR/00001");
    assert_eq!(written.json()["version"], written.version());
    let target = "/v1/spaces/notes/documents/cities/FR/00001";
    let found = api.get(target).await;
    assert_eq!(found.json(), json!({"name": "Paris", "n": 1}));
    assert_eq!(found.version(), written.version());
    let patched = api.send(Method::PATCH, target, Some(json!({"n": null, "river": "Seine"}))).await;
    assert_eq!(patched.status, StatusCode::OK);
    assert_ne!(patched.version(), written.version());
    assert_eq!(api.get(target).await.json(), json!({"name": "Paris", "river": "Seine"}));
    // A key is the same whether its slashes are encoded or not.
    assert_eq!(api.get("/v1/spaces/notes/documents/cities%2FFR%2F00001").await.json()["river"], "Seine");
    let first = written.json()["documents"][0]["heads"][0].as_str().unwrap().to_owned();
    assert_eq!(api.get(&format!("{target}?at={first}")).await.json()["n"], 1);
    api.get(&format!("{target}?at=zz")).await.problem(400);
    api.get(&format!("{target}?at={}", "00".repeat(32))).await.problem(404);
    assert_eq!(api.send(Method::DELETE, target, None).await.status, StatusCode::OK);
    assert!(api.get(target).await.problem(404).contains("cities/FR/00001"));
    api.put("%C3%A9%20%3F%23", json!({"odd": true})).await;
    assert_eq!(api.get("/v1/spaces/notes/documents").await.json()["documents"], json!([{"key": "é ?#"}]));
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_may_be_empty() {
    let api = Api::with_space().await;
    api.put("a", json!({})).await;
    assert_eq!(api.get("/v1/spaces/notes/documents/a").await.json(), json!({}));
    assert_eq!(api.get("/v1/spaces/notes/documents").await.json()["documents"], json!([{"key": "a"}]));
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_come_in_pages() {
    let api = Api::with_space().await;
    for number in 0..7 {
        api.put(&format!("a/{number}"), json!({"n": number})).await;
    }
    api.put("b/0", json!({"n": 0})).await;
    let (mut keys, mut after) = (Vec::new(), String::new());
    loop {
        let page = api.get(&format!("/v1/spaces/notes/documents?prefix=a/&limit=3&values=true{after}")).await;
        assert!(!page.version().is_empty());
        let page = page.json();
        for document in page["documents"].as_array().unwrap() {
            assert!(document["value"]["n"].is_number());
            keys.push(document["key"].as_str().unwrap().to_owned());
        }
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(keys, (0..7).map(|number| format!("a/{number}")).collect::<Vec<_>>());
    let all = api.get(&format!("/v1/spaces/notes/documents?limit={}", PAGE_MAX * 10)).await.json();
    assert_eq!(all["documents"].as_array().unwrap().len(), 8);
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_waits_for_the_version_that_it_names() {
    let api = Api::with_space().await;
    let version = api.put("a", json!({"n": 1})).await.version();
    let target = "/v1/spaces/notes/documents/a";
    assert_eq!(api.get(&format!("{target}?wait_for={version}")).await.status, StatusCode::OK);
    assert!(api.get(&format!("{target}?wait_for=yesterday")).await.problem(400).contains("yesterday"));
    let foreign = format!("{}-1", "0".repeat(16));
    api.get(&format!("{target}?wait_for={foreign}")).await.problem(400);
    let (incarnation, position) = version.split_once('-').unwrap();
    let next = format!("{incarnation}-{}", position.parse::<u64>().unwrap() + 1);
    let start = Instant::now();
    api.get(&format!("{target}?wait_for={next}&timeout_ms=200")).await.problem(504);
    assert!(start.elapsed() >= Duration::from_millis(200));
    let waiting = format!("/v1/spaces/notes/documents?wait_for={next}&timeout_ms=10000");
    let (read, _) = tokio::join!(api.get(&waiting), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        api.put("b", json!({"n": 1})).await
    });
    assert_eq!(read.json()["documents"].as_array().unwrap().len(), 2);
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_is_made_whole_or_not_at_all() {
    let api = Api::with_space().await;
    let target = "/v1/spaces/notes/transactions";
    let good = json!({"operations": [
        {"op": "put", "key": "a", "value": {"title": "one"}},
        {"op": "splice", "key": "a", "path": "/body", "index": 0, "insert": "helo"},
        {"op": "splice", "key": "a", "path": "/body", "index": 3, "delete": 1, "insert": "lo"},
        {"op": "increment", "key": "b", "path": "/count", "by": 3},
        {"op": "increment", "key": "b", "path": "/count", "by": -1},
        {"op": "merge", "key": "c", "patch": {"x": 1}},
        {"op": "resolve", "key": "a", "path": "/title", "value": "two"},
        {"op": "delete", "key": "c"},
    ]});
    let written = api.send(Method::POST, target, Some(good)).await;
    assert_eq!(written.status, StatusCode::OK, "{}", written.text);
    assert_eq!(api.get("/v1/spaces/notes/documents/a").await.json(), json!({"title": "two", "body": "hello"}));
    assert_eq!(api.get("/v1/spaces/notes/documents/b").await.json(), json!({"count": 2}));
    let bad = json!({"operations": [
        {"op": "put", "key": "a", "value": {"title": "three"}},
        {"op": "increment", "key": "a", "path": "/title", "by": 1},
    ]});
    assert!(api.send(Method::POST, target, Some(bad)).await.problem(400).contains("step 1"));
    assert_eq!(api.get("/v1/spaces/notes/documents/a").await.json()["title"], "two");
    let wrong_key = json!({"operations": [{"op": "delete", "key": "a//b"}]});
    assert!(api.send(Method::POST, target, Some(wrong_key)).await.problem(400).contains("operation 0"));
    let unknown = json!({"operations": [{"op": "explode", "key": "a"}]});
    assert!(api.send(Method::POST, target, Some(unknown)).await.problem(400).contains("explode"));
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_is_edited_as_of_the_heads_that_its_writer_saw() {
    let api = Api::with_space().await;
    let target = "/v1/spaces/notes/transactions";
    let splice = |index: usize, insert: &str, at: &Value| {
        let one = json!({"op": "splice", "key": "a", "path": "/body", "index": index, "insert": insert, "at": at});
        json!({"operations": [one]})
    };
    let made = json!({"operations": [{"op": "splice", "key": "a", "path": "/body", "index": 0, "insert": "helo"}]});
    let seen = api.send(Method::POST, target, Some(made)).await.json()["documents"][0]["heads"].clone();
    let written = api.send(Method::POST, target, Some(splice(3, "l", &seen))).await;
    assert_eq!(written.status, StatusCode::OK, "{}", written.text);
    assert_eq!(api.get("/v1/spaces/notes/documents/a").await.json(), json!({"body": "hello"}));
    let late = api.send(Method::POST, target, Some(splice(0, "x", &seen))).await;
    assert!(late.problem(400).contains("must name the same heads"), "{}", late.text);
    let malformed = api.send(Method::POST, target, Some(splice(0, "x", &json!(["beef"])))).await;
    assert!(malformed.problem(400).contains("`beef`"), "{}", malformed.text);
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_tell_of_each_space() {
    let api = Api::with_space().await;
    for name in ["a", "b"] {
        api.put(name, json!({"n": 1})).await;
    }
    let text = api.get("/metrics").await.text;
    let documents = text.lines().find(|line| line.starts_with("syncline_space_documents{")).unwrap();
    assert!(documents.contains("space=\"notes\"") && documents.ends_with(" 2"), "{documents}");
    assert!(text.lines().any(|line| line.starts_with("syncline_space_log_bytes{") && !line.ends_with(" 0")), "{text}");
    assert!(text.lines().any(|line| line.starts_with("syncline_disk_available_bytes ")), "{text}");
    assert!(text.lines().any(|line| line == "syncline_disk_no_room 0"), "{text}");
    assert_eq!(text.matches("# EOF").count(), 1);
    assert!(text.ends_with("# EOF\n"));
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn history_goes_back_page_by_page() {
    let api = Api::with_space().await;
    for number in 0..5 {
        api.put("a", json!({"n": number})).await;
    }
    let (mut hashes, mut after) = (Vec::new(), String::new());
    loop {
        let page = api.get(&format!("/v1/spaces/notes/history/a?limit=2{after}")).await.json();
        for change in page["changes"].as_array().unwrap() {
            assert_eq!(change["carried_by"]["author"], api.node.device().to_string());
            hashes.push(change["hash"].as_str().unwrap().to_owned());
        }
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(hashes.len(), 5);
    let third = api.get(&format!("/v1/spaces/notes/documents/a?at={}", hashes[2])).await;
    assert_eq!(third.json(), json!({"n": 2}));
    api.get("/v1/spaces/notes/history/absent").await.problem(404);
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_space_without_conflicts_says_so() {
    let api = Api::with_space().await;
    api.put("a", json!({"n": 1})).await;
    assert_eq!(api.get("/v1/spaces/notes/conflicts").await.json()["documents"], json!([]));
    assert_eq!(api.get("/v1/spaces/notes/conflicts/a").await.json()["documents"], json!([]));
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_paged_and_streamed() {
    let api = Api::with_space().await;
    let before = api.put("a/1", json!({"n": 1})).await.version();
    api.put("b/1", json!({"n": 2})).await;
    let middle = api.put("a/2", json!({"n": 3})).await.version();
    let page = api.get(&format!("/v1/spaces/notes/changes?since={before}&prefix=a/")).await.json();
    let keys = |page: &Value| {
        page["changes"].as_array().unwrap().iter().map(|change| change["key"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(keys(&page), ["a/2"]);
    assert_eq!(page["more"], false);
    assert_eq!(page["version"], middle);
    api.get("/v1/spaces/notes/changes?since=never").await.problem(400);

    let mut events = api.events(&format!("/v1/spaces/notes/changes?since={before}&values=true"), None).await;
    let (name, id, _) = events.next().await.unwrap();
    assert_eq!((name.as_str(), id.as_str()), ("watching", before.as_str()));
    let (name, _, change) = events.next().await.unwrap();
    assert_eq!((name.as_str(), &change["key"], &change["value"]["n"]), ("change", &json!("b/1"), &json!(2)));
    let (_, second, change) = events.next().await.unwrap();
    assert_eq!(change["key"], "a/2");
    api.send(Method::DELETE, "/v1/spaces/notes/documents/b/1", None).await;
    let (_, _, change) = events.next().await.unwrap();
    assert_eq!((&change["key"], &change["deleted"]), (&json!("b/1"), &json!(true)));
    drop(events);

    // Nothing is left out by resuming: what came after the id comes again.
    let mut events = api.events("/v1/spaces/notes/changes", Some(&second)).await;
    let (_, id, _) = events.next().await.unwrap();
    assert_eq!(id, second);
    let (_, _, change) = events.next().await.unwrap();
    assert_eq!(change["key"], "a/2");
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn resuming_within_an_operation_on_several_documents_leaves_nothing_out() {
    let api = Api::with_space().await;
    let before = api.put("start", json!({"n": 1})).await.version();
    let operations: Vec<Value> =
        (0..5).map(|number| json!({"op": "put", "key": format!("k/{number}"), "value": {"n": 1}})).collect();
    api.send(Method::POST, "/v1/spaces/notes/transactions", Some(json!({"operations": operations}))).await;
    let mut events = api.events(&format!("/v1/spaces/notes/changes?since={before}"), None).await;
    events.next().await.unwrap();
    events.next().await.unwrap();
    let (_, id, _) = events.next().await.unwrap();
    drop(events);
    let mut events = api.events("/v1/spaces/notes/changes", Some(&id)).await;
    events.next().await.unwrap();
    let mut keys = Vec::new();
    while keys.len() < 5 {
        keys.push(events.next().await.unwrap().2["key"].as_str().unwrap().to_owned());
    }
    assert_eq!(keys, ["k/0", "k/1", "k/2", "k/3", "k/4"]);
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_ends_streams_and_frees_the_port() {
    let api = Api::with_space().await;
    let mut events = api.events("/v1/spaces/notes/changes", None).await;
    events.next().await.unwrap();
    let address = api.server.address();
    let start = Instant::now();
    let directory = api.stop().await;
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    assert!(events.next().await.is_none());
    assert_eq!(read_address(directory.path()).unwrap().pid, 0);
    tokio::net::TcpListener::bind(address).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn spaces_are_made_shown_shared_and_left() {
    let api = Api::start().await;
    let created = api.send(Method::POST, "/v1/spaces", Some(json!({"name": "notes", "strings": "text"}))).await;
    assert_eq!(created.status, StatusCode::CREATED);
    let created = created.json();
    assert!(created["recovery_key"].as_str().unwrap().len() > 20);
    let id = created["id"].as_str().unwrap();
    api.send(Method::POST, "/v1/spaces", Some(json!({"name": "notes"}))).await.problem(409);
    api.send(Method::POST, "/v1/spaces", Some(json!({"name": "a/b"}))).await.problem(400);
    api.send(Method::POST, "/v1/spaces", Some(json!({"nam": "x"}))).await.problem(400);
    let shown = api.get(&format!("/v1/spaces/{id}")).await.json();
    assert_eq!((&shown["name"], &shown["role"]), (&json!("notes"), &json!("steward")));
    assert_eq!(shown["strings"], "text");
    assert_eq!(api.get("/v1/spaces").await.json()["spaces"].as_array().unwrap().len(), 1);
    let members = api.get("/v1/spaces/notes/members").await.json();
    assert_eq!(members["members"][0]["device"], api.node.device().to_string());
    let report = api.send(Method::POST, "/v1/spaces/notes/verify", None).await.json();
    assert_eq!(report["sound"], true, "{report}");
    assert_eq!((&report["signatures"], &report["problems"]), (&report["runs"], &json!([])));
    let told = api.send(Method::POST, "/v1/spaces/notes/verify?progress=true&signatures=sample", None).await;
    assert_eq!(told.headers[header::CONTENT_TYPE], "application/x-ndjson");
    let last: Value = serde_json::from_str(told.text.trim_end().lines().last().unwrap()).unwrap();
    assert_eq!((&last["report"]["sound"], &last["report"]["signatures"]), (&json!(true), &json!(1)));
    api.send(Method::POST, "/v1/spaces/notes/verify?signatures=none", None).await.problem(400);
    api.send(Method::POST, "/v1/spaces/absent/verify?progress=true", None).await.problem(404);

    let invitations = "/v1/spaces/notes/invitations";
    let invitation = api.send(Method::POST, invitations, Some(json!({"role": "reader", "uses": 2}))).await;
    assert_eq!(invitation.status, StatusCode::CREATED);
    let ticket = invitation.json()["ticket"].as_str().unwrap().to_owned();
    assert!(ticket.starts_with("syncline:"));
    for wrong in [
        json!({"role": "steward"}),
        json!({"role": "writer", "uses": 0}),
        json!({"role": "writer", "lasts_ms": 0}),
        json!({"role": "writer", "lasts_ms": u64::MAX}),
        json!({}),
    ] {
        api.send(Method::POST, invitations, Some(wrong)).await.problem(400);
    }
    assert_eq!(api.send(Method::DELETE, "/v1/spaces/notes", None).await.status, StatusCode::NO_CONTENT);
    api.get("/v1/spaces/notes").await.problem(404);
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_that_cannot_be_used_says_why() {
    let api = Api::with_space().await;
    let other = Api::start().await;
    let invite = |lasts_ms: u64| {
        let body = json!({"role": "writer", "lasts_ms": lasts_ms});
        async { api.send(Method::POST, "/v1/spaces/notes/invitations", Some(body)).await.json()["ticket"].clone() }
    };
    let (ticket, short) = (invite(600_000).await, invite(1).await);
    tokio::time::sleep(Duration::from_millis(20)).await;
    let join = |ticket: Value| other.send(Method::POST, "/v1/spaces/join", Some(json!({"ticket": ticket})));
    assert!(join(json!("hello")).await.problem(400).contains("syncline:"));
    let damaged = ticket.as_str().unwrap().trim_end_matches(|_: char| true).to_owned();
    assert!(join(json!(damaged)).await.problem(400).contains("ticket"));
    let cut = &ticket.as_str().unwrap()[..60];
    assert!(join(json!(cut)).await.problem(400).contains("damaged"));
    assert!(join(short).await.problem(400).contains("expired"));
    let own = api.send(Method::POST, "/v1/spaces/join", Some(json!({"ticket": ticket}))).await;
    own.problem(409);
    let joined = join(ticket).await;
    assert_eq!(joined.status, StatusCode::ACCEPTED, "{}", joined.text);
    assert_eq!(joined.json()["standing"], "joining");
    // Not a member yet: nothing can be written.
    let answer = other.send(Method::PUT, "/v1/spaces/notes/documents/a", Some(json!({"n": 1}))).await;
    assert!(answer.status.is_client_error() || answer.status.is_server_error(), "{}", answer.text);
    api.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_network_cannot_connect() {
    let api = Api::start().await;
    assert_eq!(api.get("/v1/peers").await.json(), json!({"peers": []}));
    let connect = |address: &str| api.send(Method::POST, "/v1/peers", Some(json!({"address": address})));
    connect("/ip4/127.0.0.1/tcp/1").await.problem(503);
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_writers_at_once_are_all_served() {
    let api = Api::with_space().await;
    let writers = (0..64).map(|writer| {
        let api = &api;
        async move {
            for number in 0..10 {
                api.put(&format!("w/{writer}/{number}"), json!({"writer": writer, "number": number})).await;
            }
        }
    });
    futures::future::join_all(writers).await;
    let status = api.get("/v1/spaces/notes").await.json();
    assert_eq!(status["documents"], 640);
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_nonsense_harms_nobody() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let api = Api::start().await;
    for bytes in [&b"\x00\xff\r\n\r\n"[..], b"GET / HTTP/9.9\r\n\r\n", &[b'x'; 100_000]] {
        let mut stream = tokio::net::TcpStream::connect(api.server.address()).await.unwrap();
        // The server may close before it has read everything.
        let _sent = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let _read = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await.unwrap();
        assert!(!answer.starts_with(b"HTTP/1.1 2"));
    }
    assert_eq!(api.get("/healthz").await.status, StatusCode::OK);
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_in_use_is_named() {
    let api = Api::start().await;
    let address = api.server.address();
    let other = tempfile::tempdir().unwrap();
    let error = ApiServer::start(api.node.clone(), other.path(), Some(address)).await.unwrap_err();
    assert!(error.to_string().contains(&address.to_string()));
    assert!(!Path::new(&other.path().join("api.address")).exists());
    api.stop().await;
}

#[tokio::test]
async fn a_backup_is_streamed_with_and_without_keys() {
    let api = Api::with_space().await;
    for number in 0..50 {
        api.put(&format!("k/{number}"), json!({"n": number})).await;
    }
    let file = api.directory.path().join("streamed");
    for (method, body, has_keys) in
        [(Method::GET, None, false), (Method::POST, Some(json!({"passphrase": "correct horse"})), true)]
    {
        std::fs::write(&file, api.bytes(method, "/v1/backup", body).await).unwrap();
        let checked = syncline::node::backup::check_backup(&file, &mut |_| {}).unwrap();
        assert_eq!((checked.summary.spaces, checked.has_keys), (1, has_keys));
        assert_eq!(checked.summary.operations, 53, "50 documents behind what founds a space");
    }
    api.send(Method::POST, "/v1/backup", Some(json!({"passphrase": ""}))).await.problem(400);
    api.send(Method::POST, "/v1/backup", Some(json!({}))).await.problem(400);
    let uri = format!("http://{}/v1/backup", api.server.address());
    api.exchange(Request::builder().uri(uri).body(Body::empty()).unwrap()).await.problem(401);
    let metrics = api.get("/metrics").await.text;
    assert!(metrics.contains("syncline_scrubbed_bytes_total") && metrics.contains("syncline_scrub_damaged_runs_total"));
    api.stop().await;
}
