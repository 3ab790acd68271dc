//! The guard before a whole API without a socket.

use axum::Router;
use axum::http::{HeaderValue, StatusCode};
use serde_json::Value;
use tower::ServiceExt;

use super::super::openapi;
use super::super::router::guarded;
use super::super::state::ApiState;
use super::*;
use crate::Strings;
use crate::node::tokens::TokenTerms;

const OWNER: &str = "sesame-sesame-16";

/// A node with the spaces `notes` and `pages` behind a guard.
struct Guarded {
    router: Router,
    node: Node,
    _directory: tempfile::TempDir,
    _running: tokio::sync::watch::Sender<bool>,
}

impl Guarded {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let node = Node::builder().data(directory.path()).create(true).offline().start().await.unwrap();
        for name in ["notes", "pages"] {
            node.create_space(name, Strings::default()).await.unwrap();
        }
        let (running, stopping) = tokio::sync::watch::channel(false);
        let gate = Gate { token: ApiToken::new(OWNER), loopback: true, node: node.clone() };
        let router = guarded(ApiState::new(node.clone(), stopping), gate);
        Self { router, node, _directory: directory, _running: running }
    }

    async fn token(&self, scope: TokenScope, space: Option<&str>) -> (TokenId, String) {
        let terms = TokenTerms { scope, space: space.map(str::to_owned), name: None, lasts_ms: None };
        let created = self.node.create_token(terms).await.unwrap();
        (created.info.id, created.reveal().to_owned())
    }

    async fn send(&self, method: &str, path: &str, token: Option<&str>) -> Response {
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "localhost");
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        self.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    /// Sends a request that has to be refused, and gives the detail.
    async fn refused(&self, status: StatusCode, method: &str, path: &str, token: Option<&str>) -> String {
        let answer = self.send(method, path, token).await;
        assert_eq!(answer.status(), status, "{method} {path}");
        let bytes = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        serde_json::from_slice::<Problem>(&bytes).unwrap().detail
    }
}

/// Method and path of everything that the description names, but for what is open to all.
fn described() -> Vec<(String, String)> {
    let json = serde_json::to_value(openapi::document()).unwrap();
    let paths = json["paths"].as_object().unwrap();
    let operations = |(path, item): (&String, &Value)| {
        let methods = item.as_object().unwrap().keys().map(|method| method.to_uppercase());
        methods.map(|method| (method, path.clone())).collect::<Vec<_>>()
    };
    let all: Vec<_> = paths.iter().flat_map(operations).collect();
    all.into_iter().filter(|(_, path)| !OPEN_PATHS.contains(&path.as_str())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_refuses_whoever_has_no_token_or_too_weak_a_one() {
    let api = Guarded::start().await;
    let (_, reader) = api.token(TokenScope::Read, None).await;
    let (_, writer) = api.token(TokenScope::Write, None).await;
    let (_, admin) = api.token(TokenScope::Admin, None).await;
    let (_, admin_of_pages) = api.token(TokenScope::Admin, Some("pages")).await;
    let described = described();
    assert!(described.len() > 25);
    let mut needed = std::collections::BTreeMap::new();
    for (method, path) in &described {
        let (method, routed) = (method.as_str(), path.replace("{key}", "{*key}"));
        let at = |space: &str| path.replace("{space}", space).replace("{key}", "a").replace("{id}", "aaaaaaaa");
        let target = at("notes");
        api.refused(StatusCode::UNAUTHORIZED, method, &target, None).await;
        api.refused(StatusCode::UNAUTHORIZED, method, &target, Some("sesame-sesame-17")).await;
        let scope = match need(&method.parse().unwrap(), &routed) {
            Need::Space(scope) | Need::Node(scope) => scope,
            Need::Owner => panic!("{method} {path} is not in the table of scopes"),
        };
        *needed.entry(scope).or_insert(0) += 1;
        for (weaker, token) in [(TokenScope::Read, &reader), (TokenScope::Write, &writer)] {
            if weaker < scope {
                let detail = api.refused(StatusCode::FORBIDDEN, method, &target, Some(token)).await;
                assert!(detail.contains(&format!("the scope `{}`", scope.name())), "{method} {path}: {detail}");
            }
        }
        let detail = api.refused(StatusCode::FORBIDDEN, method, &target, Some(&admin_of_pages)).await;
        assert!(detail.contains("space"), "{method} {path}: {detail}");
        // About a space that is not there, so that nothing of this test's goes.
        let token = if scope == TokenScope::Read {
            &reader
        } else if scope == TokenScope::Write {
            &writer
        } else {
            &admin
        };
        let status = api.send(method, &at("absent"), Some(token)).await.status();
        assert!(!matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN), "{method} {path}: {status}");
    }
    assert_eq!(needed.len(), 3, "each scope is needed somewhere: {needed:?}");
    api.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_for_one_space_opens_that_space_by_name_and_by_id() {
    let api = Guarded::start().await;
    let (_, token) = api.token(TokenScope::Read, Some("pages")).await;
    let id = api.node.space("pages").unwrap().id();
    for space in ["pages", &id.to_string(), "p%61ges"] {
        let path = format!("/v1/spaces/{space}/documents");
        assert_eq!(api.send("GET", &path, Some(&token)).await.status(), StatusCode::OK, "{space}");
        assert_eq!(api.send("HEAD", &path, Some(&token)).await.status(), StatusCode::OK, "{space}");
    }
    for path in ["/v1/spaces/absent/documents", "/v1/spaces/%ff/documents", "/v1/spaces", "/v1/status"] {
        api.refused(StatusCode::FORBIDDEN, "GET", path, Some(&token)).await;
    }
    api.refused(StatusCode::NOT_FOUND, "GET", "/v2/anything", Some(&token)).await;
    // A method that does not apply, and so is in no table.
    api.refused(StatusCode::FORBIDDEN, "DELETE", "/v1/status", Some(&token)).await;
    api.refused(StatusCode::METHOD_NOT_ALLOWED, "DELETE", "/v1/status", Some(OWNER)).await;
    api.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn revoking_a_token_ends_streams_and_waiting_requests() {
    let api = Guarded::start().await;
    let (id, token) = api.token(TokenScope::Read, Some("notes")).await;
    let open = |accept: &'static str, query: &str| {
        let mut request = Request::builder().uri(format!("/v1/spaces/notes/changes{query}"));
        for (name, value) in [(header::HOST, "localhost"), (header::ACCEPT, accept)] {
            request = request.header(name, value);
        }
        let request = request.header(header::AUTHORIZATION, format!("Bearer {token}")).body(Body::empty()).unwrap();
        api.router.clone().oneshot(request)
    };
    let stream = open("text/event-stream", "").await.unwrap();
    assert_eq!(stream.status(), StatusCode::OK);
    let mut pieces = stream.into_body().into_data_stream();
    let first = pieces.next().await.unwrap().unwrap();
    assert!(first.starts_with(b"event: watching"), "{first:?}");
    let mut later = api.node.space("notes").unwrap().present_version().await.unwrap();
    later.position += 1000;
    let never = format!("?wait_for={later}&timeout_ms=60000");
    let waiting = tokio::spawn(open("application/json", &never));
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    assert!(!waiting.is_finished());

    let start = Instant::now();
    api.node.revoke_token(id).await.unwrap();
    let last = pieces.next().await.unwrap().unwrap();
    assert!(last.starts_with(b"event: problem\ndata: {"), "{last:?}");
    assert!(pieces.next().await.is_none());
    assert_eq!(waiting.await.unwrap().unwrap().status(), StatusCode::UNAUTHORIZED);
    assert!(start.elapsed() < std::time::Duration::from_secs(5));
    api.refused(StatusCode::UNAUTHORIZED, "GET", "/v1/spaces/notes/changes", Some(&token)).await;
    api.node.shutdown().await;
}

fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in all {
        headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    }
    headers
}

#[test]
fn only_names_that_cannot_be_rebound_are_local() {
    let local = |host: &str| is_local_host(&headers(&[("host", host)]), &Uri::from_static("/v1/status"));
    for host in ["localhost", "LOCALHOST:34570", "127.0.0.1:34570", "127.8.8.8", "[::1]:80", "[::1]"] {
        assert!(local(host), "{host}");
    }
    for host in ["", "evil.example", "localhost.evil.example:80", "192.0.2.1", "[2001:db8::1]:80", "127.0.0.1.nip.io"] {
        assert!(!local(host), "{host}");
    }
    assert!(!is_local_host(&HeaderMap::new(), &Uri::from_static("/")));
    assert!(is_local_host(&HeaderMap::new(), &Uri::from_static("http://localhost:1/")));
    // Each place that names a host has to name this machine.
    assert!(!is_local_host(&headers(&[("host", "localhost")]), &Uri::from_static("http://evil.example/")));
    assert!(!is_local_host(&headers(&[("host", "localhost"), ("host", "evil.example")]), &Uri::from_static("/")));
}

#[test]
fn a_page_of_another_origin_is_told_from_a_program() {
    let same = |origin: &str| {
        let all = headers(&[("host", "localhost:34570"), ("origin", origin)]);
        is_same_origin(&all, &Uri::from_static("/"))
    };
    assert!(same("http://localhost:34570") && same("http://LOCALHOST:34570") && same("https://localhost:34570"));
    for origin in [
        "null",
        "",
        "localhost:34570",
        "http://localhost",
        "http://localhost:1",
        "http://127.0.0.1:34570",
        "http://localhost:34570.evil.example",
        "https://evil.example",
        "file://localhost:34570",
    ] {
        assert!(!same(origin), "{origin}");
    }
    let plain = Uri::from_static("/");
    assert!(is_same_origin(&headers(&[("host", "a")]), &plain));
    assert!(!is_same_origin(&headers(&[("origin", "http://a")]), &plain));
    assert!(is_same_origin(&headers(&[("host", "a"), ("sec-fetch-site", "same-origin")]), &plain));
    assert!(is_same_origin(&headers(&[("host", "a"), ("sec-fetch-site", "none")]), &plain));
    for site in ["cross-site", "same-site", "whatever"] {
        assert!(!is_same_origin(&headers(&[("host", "a"), ("sec-fetch-site", site)]), &plain), "{site}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_other_origins_change_nothing_and_open_no_web_socket() {
    let api = Guarded::start().await;
    let status = async |method: &str, more: &[(&'static str, &str)]| {
        let mut request = Request::builder().method(method).uri("/v1/spaces/notes/documents/a");
        let bearer = format!("Bearer {OWNER}");
        for (name, value) in [("host", "localhost:1"), ("authorization", bearer.as_str())].iter().chain(more) {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from("{}")).unwrap();
        api.router.clone().oneshot(request).await.unwrap().status()
    };
    let (own, other) = (("origin", "http://localhost:1"), ("origin", "https://evil.example"));
    for method in ["PUT", "PATCH", "DELETE"] {
        assert_eq!(status(method, &[other]).await, StatusCode::FORBIDDEN, "{method}");
        assert_eq!(status(method, &[("sec-fetch-site", "cross-site")]).await, StatusCode::FORBIDDEN, "{method}");
        assert_eq!(status(method, &[own]).await, StatusCode::OK, "{method}");
        assert_ne!(status(method, &[]).await, StatusCode::FORBIDDEN, "{method}");
    }
    let socket = [("connection", "Upgrade"), ("upgrade", "WebSocket")];
    assert_eq!(status("GET", &[socket[0], socket[1], other]).await, StatusCode::FORBIDDEN);
    assert_ne!(status("GET", &[socket[0], socket[1], own]).await, StatusCode::FORBIDDEN);
    // What reads is let through: without CORS headers the browser keeps the answer from the page.
    assert_ne!(status("GET", &[other]).await, StatusCode::FORBIDDEN);
    api.node.shutdown().await;
}

#[test]
fn the_token_comes_in_a_header_or_for_reading_in_the_query() {
    let presented = |method: Method, uri: &str, authorization: Option<&str>| {
        let mut request = Request::builder().method(method).uri(uri);
        if let Some(value) = authorization {
            request = request.header(header::AUTHORIZATION, value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        presented(&parts).is_some_and(|secret| ApiToken::new(OWNER).matches(&secret))
    };
    assert!(presented(Method::PUT, "/", Some("Bearer sesame-sesame-16")));
    assert!(presented(Method::PUT, "/", Some("bearer sesame-sesame-16 ")));
    assert!(presented(Method::GET, "/?a=1&token=sesame-sesame%2D16", None));
    assert!(!presented(Method::PUT, "/?token=sesame-sesame-16", None));
    assert!(!presented(Method::GET, "/?token=sesame-sesame-16", Some("Bearer wrong")));
    for wrong in ["", "Bearer", "Bearer ", "Basic sesame-sesame-16", "Bearer sesame-sesame-1"] {
        assert!(!presented(Method::GET, "/", Some(wrong)), "{wrong}");
    }
    assert!(!presented(Method::GET, "/", None));
}
