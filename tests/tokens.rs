//! Who may use the API of a node: tokens with scopes, pages of other sites, paths that are none.

use std::path::Path;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, StatusCode, header};
use serde_json::json;

use super::api::Api;
use super::cli::{Ended, Serving, command, run, with_space};

/// Sends a request with `curl`'s plainness: a method, a target, a token.
async fn status(api: &Api, method: Method, target: &str, token: &str) -> StatusCode {
    let mut request = api.request(method, target);
    request.headers_mut().unwrap().insert(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
    api.exchange(request.body(Body::from("{}")).unwrap()).await.status
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_made_used_listed_and_revoked_over_http() {
    let api = Api::with_space().await;
    api.send(Method::POST, "/v1/spaces", Some(json!({"name": "pages"}))).await;
    let request = json!({"scope": "write", "space": "notes", "name": "importer", "lasts_ms": 3_600_000});
    let made = api.send(Method::POST, "/v1/tokens", Some(request)).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    assert_eq!(made.headers[header::CACHE_CONTROL], "no-store");
    let made = made.json();
    let (id, token) = (made["id"].as_str().unwrap(), made["token"].as_str().unwrap());
    assert_eq!((&made["name"], &made["expired"]), (&json!("importer"), &json!(false)));
    let listed = api.get("/v1/tokens").await;
    assert_eq!(listed.json()["tokens"][0]["id"], id);
    assert!(!listed.text.contains(token.rsplit('-').next().unwrap()));

    let target = "/v1/spaces/notes/documents/a";
    assert_eq!(status(&api, Method::PUT, target, token).await, StatusCode::OK);
    assert_eq!(status(&api, Method::GET, target, token).await, StatusCode::OK);
    assert_eq!(status(&api, Method::DELETE, "/v1/spaces/notes", token).await, StatusCode::FORBIDDEN);
    assert_eq!(status(&api, Method::PUT, "/v1/spaces/pages/documents/a", token).await, StatusCode::FORBIDDEN);
    assert_eq!(status(&api, Method::POST, "/v1/tokens", token).await, StatusCode::FORBIDDEN);

    let target = format!("/v1/spaces/notes/changes?token={token}");
    let mut events = api.events_of(&target, None, None).await;
    assert_eq!(events.next().await.unwrap().0, "watching");
    let gone = api.send(Method::DELETE, &format!("/v1/tokens/{id}"), None).await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT);
    let (event, _, problem) = events.next().await.unwrap();
    assert_eq!((event.as_str(), &problem["status"]), ("problem", &json!(401)));
    assert!(events.next().await.is_none());
    assert_eq!(status(&api, Method::GET, "/v1/spaces/notes/documents/a", token).await, StatusCode::UNAUTHORIZED);
    api.send(Method::DELETE, &format!("/v1/tokens/{id}"), None).await.problem(404);
    api.send(Method::DELETE, "/v1/tokens/nonsense", None).await.problem(404);
    for wrong in [
        json!({}),
        json!({"scope": "all"}),
        json!({"scope": "read", "lasts_ms": 0}),
        json!({"scope": "read", "name": ""}),
    ] {
        api.send(Method::POST, "/v1/tokens", Some(wrong)).await.problem(400);
    }
    api.send(Method::POST, "/v1/tokens", Some(json!({"scope": "read", "space": "absent"}))).await.problem(404);
    api.stop().await;
}

#[test]
fn tokens_are_kept_by_commands_with_and_without_a_node_and_stay_out_of_the_log() {
    let data = with_space();
    let data = data.path();
    assert!(run(data, &["token", "list"]).ok().contains("no tokens"));
    let made = command(data).args(["token", "create", "--name", "a dashboard"]).env("SYNCLINE_LOG", "debug").output();
    let made = Ended::new(&made.unwrap());
    let token = made.ok().to_owned();
    let (front, secret) = token.rsplit_once('-').unwrap();
    let id = front.rsplit('-').next().unwrap();
    assert!(made.err.contains(id) && !made.err.contains(secret), "{}", made.err);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(data.join("node/api-tokens")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let listed = run(data, &["token", "list"]).ok().to_owned();
    assert!(listed.contains(id) && listed.contains("read") && listed.contains("a dashboard"), "{listed}");

    let serving = Serving::start(data, &["--api", "127.0.0.1:0"]);
    let url = format!("{}/v1/status", serving.ready["api"].as_str().unwrap());
    assert_eq!(fetch(&url, &token), 200);
    let other =
        run(data, &["token", "create", "--scope", "admin", "--space", "notes", "--expires", "1h", "--json"]).json();
    assert_eq!(fetch(&url, other["token"].as_str().unwrap()), 403);
    assert!(run(data, &["token", "list"]).ok().contains("notes"));
    run(data, &["token", "revoke", id]).ok();
    assert_eq!(fetch(&url, &token), 401);
    run(data, &["token", "revoke", id]).failed(3, "token list");
    run(data, &["token", "create", "--space", "absent"]).failed(3, "`notes`");
    assert_eq!(serving.stop(), 0);
    assert!(!run(data, &["token", "list"]).ok().contains(id));
}

/// The status of a plain request.
fn fetch(url: &str, token: &str) -> u16 {
    use std::io::{Read, Write};
    let rest = url.strip_prefix("http://").unwrap();
    let (host, path) = rest.split_once('/').unwrap();
    let mut stream = std::net::TcpStream::connect(host).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let head =
        format!("GET /{path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_another_site_neither_writes_nor_opens_a_web_socket_nor_rebinds_a_name() {
    let api = Api::with_space().await;
    let target = "/v1/spaces/notes/documents/a";
    let address = api.address();
    let own = format!("http://{address}");
    let send = async |method: Method, name: &'static str, value: &str, upgrade: bool| {
        let mut request = api.request(method, target).header(name, value);
        if upgrade {
            request = request.header(header::CONNECTION, "Upgrade").header(header::UPGRADE, "websocket");
        }
        api.exchange(request.body(Body::from("{}")).unwrap()).await
    };
    let refused = send(Method::PUT, "Origin", "https://evil.example", false).await;
    assert!(refused.problem(403).contains("another origin"));
    assert!(!refused.headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN));
    send(Method::PUT, "Origin", "null", false).await.problem(403);
    send(Method::PUT, "Sec-Fetch-Site", "cross-site", false).await.problem(403);
    send(Method::GET, "Origin", "https://evil.example", true).await.problem(403);
    // A name that was made to point here after the page was loaded: its origin and host agree.
    send(Method::PUT, "Host", "evil.example", false).await.problem(421);
    assert_eq!(api.get(target).await.status, StatusCode::NOT_FOUND, "nothing was written");
    assert_eq!(send(Method::PUT, "Origin", &own, false).await.status, StatusCode::OK);
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tricks_in_keys_are_refused_and_reach_no_file() {
    let api = Api::with_space().await;
    let tricks = [
        "..",
        "../..",
        "../../canary",
        "a/../b",
        "a/./b",
        "%2e%2e",
        "%2e%2e/%2e%2e/canary",
        "%2E%2E%2Fcanary",
        "..%2f..%2fapi.token",
        "%2fetc%2fpasswd",
        "a%00b",
        "%00",
        "a//b",
        "//canary",
        "a/",
        "a%2f",
        "a%2f%2fb",
        "a%0d%0ab",
    ];
    for trick in tricks {
        for method in [Method::GET, Method::PUT, Method::PATCH, Method::DELETE] {
            let body = (method != Method::GET).then(|| json!({"canary": 1}));
            let answer = api.send(method.clone(), &format!("/v1/spaces/notes/documents/{trick}"), body).await;
            assert!(answer.problem(400).contains("key"), "{method} {trick}: {}", answer.text);
            assert!(!answer.text.contains(api.token()), "{method} {trick}");
        }
        for resource in ["history", "conflicts"] {
            let answer = api.get(&format!("/v1/spaces/notes/{resource}/{trick}")).await;
            assert!(answer.problem(400).contains("key"), "{resource} {trick}: {}", answer.text);
        }
        let operation = json!({"op": "put", "key": trick.replace("%2e", ".").replace("%00", "\0"), "value": {}});
        if !trick.contains('%') {
            let body = Some(json!({"operations": [operation]}));
            api.send(Method::POST, "/v1/spaces/notes/transactions", body).await.problem(400);
        }
    }
    for space in ["..", "%2e%2e", "..%2f..", "notes%2f..", "%00"] {
        api.get(&format!("/v1/spaces/{space}/documents")).await.problem(404);
    }
    // An encoded slash is a slash: what a client makes that encodes each segment's text.
    api.put("cities%2FFR%2F1", json!({"n": 1})).await;
    assert_eq!(api.get("/v1/spaces/notes/documents/cities/FR/1").await.json(), json!({"n": 1}));
    let directory = api.stop().await;
    assert!(!has_file(directory.path(), "canary"));
}

fn has_file(directory: &Path, name: &str) -> bool {
    std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap())
        .any(|entry| entry.file_name() == name || entry.path().is_dir() && has_file(&entry.path(), name))
}
