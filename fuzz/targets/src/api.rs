//! What comes over HTTP and from files of lines: bodies by themselves, whole requests at a node, lines of an import.

use std::cell::RefCell;
use std::io;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, header};
use serde::Serialize;
use serde::de::DeserializeOwned;
use syncline::api::body::{ConnectRequest, InvitationRequest, JoinRequest, NewSpace, Operation, TransactionRequest};
use syncline::documents::{Pointer, Version, parse_hash};
use syncline::lines::Lines;
use syncline::{Node, Strings};
use syncline_model::{DeviceId, DocumentKey, SpaceId};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tower::ServiceExt;

use crate::script::Script;

/// Lines of an import in one transaction.
const LINES_PER_BATCH: usize = 3;
/// Bytes of an answer that are looked at.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Requests that one node gets: its documents pile up, and each is read from there on.
const REQUESTS_MAX: usize = 2000;

/// The body of a request, as each of the types that a route takes: what is read is written and read again as the same.
pub fn body(bytes: &[u8]) -> bool {
    let transaction = read::<TransactionRequest>(bytes);
    let known = transaction.is_some();
    if let Some(request) = transaction {
        let count = request.operations.len();
        if let Ok(steps) = request.into_steps() {
            assert_eq!(steps.len(), count);
        }
    }
    if let Some(request) = read::<InvitationRequest>(bytes)
        && let Ok(terms) = request.terms()
    {
        assert!(terms.uses > 0 && terms.lasts_ms > 0);
    }
    read::<Operation>(bytes);
    known
        | read::<NewSpace>(bytes).is_some()
        | read::<JoinRequest>(bytes).is_some()
        | read::<ConnectRequest>(bytes).is_some()
}

fn read<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(bytes: &[u8]) -> Option<T> {
    let value: T = serde_json::from_slice(bytes).ok()?;
    let written = serde_json::to_vec(&value).expect("what was read can be written");
    assert_eq!(serde_json::from_slice::<T>(&written).as_ref().ok(), Some(&value));
    Some(value)
}

/// Texts that stand in paths, queries and bodies: what is read is printed and read again as the same.
pub fn text(bytes: &[u8]) -> bool {
    fn printed<T: std::str::FromStr + ToString + PartialEq + std::fmt::Debug>(text: &str) -> bool {
        let Ok(value) = text.parse::<T>() else { return false };
        assert_eq!(value.to_string().parse::<T>().ok(), Some(value));
        true
    }
    let Ok(text) = str::from_utf8(bytes) else { return false };
    // All are tried, whatever the first says.
    let read = [
        printed::<Version>(text),
        printed::<Pointer>(text),
        printed::<DocumentKey>(text),
        printed::<DeviceId>(text),
        printed::<SpaceId>(text),
        parse_hash(text).is_some(),
    ];
    read.contains(&true)
}

/// Lines of an import, plain or gzip: they come in order, in batches that are not too long, and end.
pub fn import_lines(bytes: &[u8]) -> bool {
    let source = io::Cursor::new(bytes.to_vec());
    let mut lines = Lines::new(source, LINES_PER_BATCH, &Arc::default()).expect("a slice can be read");
    let mut last = 0;
    while let Ok(Some(batch)) = lines.next_batch() {
        assert!((1..=LINES_PER_BATCH).contains(&batch.lines.len()) && batch.keys.len() <= batch.lines.len());
        for (number, operation) in &batch.lines {
            assert!(*number > last, "lines come in order");
            last = *number;
            let Operation::Put { key, value } = operation else { panic!("{operation:?} is no put") };
            assert!(batch.keys.contains(key) && value.is_object());
        }
    }
    last > 0
}

/// A request at a node with one space, over the table of routes: never an answer that blames the node.
///
/// Script: one byte for the method, the length and bytes of the path with its query, then the body. `@` at the front
/// of a path stands for the routes of the node's one space.
pub fn request(bytes: &[u8]) -> bool {
    thread_local!(static SERVED: RefCell<Option<Served>> = const { RefCell::new(None) });
    let mut script = Script::new(bytes);
    let method =
        [Method::GET, Method::PUT, Method::PATCH, Method::DELETE, Method::POST, Method::HEAD][script.below(6)].clone();
    let Ok(path) = str::from_utf8(script.bytes()) else { return false };
    let path = path.strip_prefix('@').map_or_else(|| path.to_owned(), |rest| format!("/v1/spaces/fuzz/{rest}"));
    // Waiting for a version that never comes, and other spaces than the one, would only cost time.
    if path.contains("timeout_ms") || path.contains("wait_for") || is_about_spaces(&method, &path) {
        return false;
    }
    let request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, "application/json");
    let Ok(request) = request.body(Body::from(script.rest().to_vec())) else { return false };
    SERVED.with_borrow_mut(|served| {
        if served.as_ref().is_none_or(|served| served.requests == REQUESTS_MAX) {
            // The old one ends before the new one begins.
            *served = None;
        }
        served.get_or_insert_with(Served::start).answer(request)
    })
}

/// Whether the request would make, leave or join spaces.
fn is_about_spaces(method: &Method, path: &str) -> bool {
    let path = path.split('?').next().unwrap_or_default();
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    let changes = *method == Method::POST || *method == Method::DELETE;
    changes && matches!(segments.as_slice(), ["v1", "spaces" | "peers"] | ["v1", "spaces", _])
}

/// A node without a network, and the table of routes in front of it.
struct Served {
    routes: Router,
    requests: usize,
    /// Event streams end when it goes.
    _stopping: watch::Sender<bool>,
    // The node's threads end before its directory goes.
    runtime: Runtime,
    _directory: TempDir,
}

impl Served {
    fn start() -> Self {
        // Nothing here has to outlive a power loss, and a disk would sync each write.
        let memory = Path::new("/dev/shm");
        let directory = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let directory = directory.expect("a directory can be made");
        let runtime = Runtime::new().expect("a runtime starts");
        let node = runtime.block_on(async {
            let node = Node::builder().data(directory.path()).create(true).offline().start().await;
            let node = node.expect("a new node starts");
            let space = node.create_space("fuzz", Strings::Scalar).await.expect("a space can be made").space;
            let value = serde_json::json!({"n": 1, "t": "text", "a": [1, {"b": null}]});
            space.put("a", value).await.expect("a document can be put");
            node
        });
        let (stop, stopping) = watch::channel(false);
        let routes = syncline::api::in_process(node, stopping);
        Self { routes, requests: 0, _stopping: stop, runtime, _directory: directory }
    }

    fn answer(&mut self, request: Request<Body>) -> bool {
        self.requests += 1;
        let shown = format!("{} {}", request.method(), request.uri());
        let routes = self.routes.clone();
        self.runtime.block_on(async {
            let answer = routes.oneshot(request).await.unwrap_or_else(|never| match never {});
            let (head, body) = answer.into_parts();
            let body = to_bytes(body, ANSWER_BYTES_MAX).await.expect("the answer is whole");
            let (status, text) = (head.status, String::from_utf8_lossy(&body));
            assert!(!status.is_server_error(), "{shown}: {status} {text}");
            let kind = head.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
            if kind.is_some_and(|kind| kind.ends_with("json")) && !body.is_empty() {
                serde_json::from_slice::<serde_json::Value>(&body).expect("what says it is JSON is");
            }
            status.is_success()
        })
    }
}
