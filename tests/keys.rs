//! The device's keys: under a passphrase at rest, and used for bytes of a person's own.

use std::path::{Path, PathBuf};

use axum::body::Body;
use axum::http::{Method, StatusCode, header};
use serde_json::json;

use super::api::Api;
use super::cli::{Serving, command, run, run_with_input, with_space};

/// A file with a passphrase beside the data.
fn passphrase_file(directory: &Path, name: &str, text: &str) -> String {
    let path = directory.join(name);
    std::fs::write(&path, format!("{text}\n")).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Every file that holds keys.
fn key_files(data: &Path) -> Vec<PathBuf> {
    let spaces = std::fs::read_dir(data.join("spaces")).unwrap();
    let of_spaces = spaces.map(|entry| entry.unwrap().path().join("keys"));
    let of_node = ["device.key", "local.key"].map(|name| data.join("node").join(name));
    let files: Vec<PathBuf> = of_node.into_iter().chain(of_spaces).collect();
    assert!(files.len() >= 3);
    files
}

fn only_its_owner_reads(path: &Path) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600, "{}", path.display());
    }
}

#[test]
fn keys_are_put_under_a_passphrase_which_every_opening_then_needs() {
    let (data, beside) = (with_space(), tempfile::tempdir().unwrap());
    let data = data.path();
    run(data, &["put", "notes", "a", r#"{"n":1}"#]).ok();
    let plain: Vec<Vec<u8>> = key_files(data).iter().map(|path| std::fs::read(path).unwrap()).collect();
    let (first, second) = (passphrase_file(beside.path(), "1", "first"), passphrase_file(beside.path(), "2", "second"));
    run(data, &["key", "passphrase"]).failed(2, "--new-passphrase-file");
    assert!(run(data, &["key", "passphrase", "--new-passphrase-file", &first]).ok().contains("under a passphrase now"));
    for (path, before) in key_files(data).iter().zip(&plain) {
        only_its_owner_reads(path);
        let after = std::fs::read(path).unwrap();
        assert!(!after.windows(16).any(|part| before.windows(16).any(|old| old == part)), "{}", path.display());
    }
    only_its_owner_reads(&data.join("node/keyring"));
    let marker = std::fs::read_to_string(data.join("format")).unwrap();
    assert!(marker.contains("format 2"), "an earlier release refuses it by its format: {marker}");

    for wanting in [vec!["get", "notes", "a"], vec!["serve"], vec!["device"], vec!["repair"]] {
        run(data, &wanting).failed(4, "--passphrase-file");
    }
    run(data, &["get", "notes", "a", "--passphrase-file", &second]).failed(4, "not the passphrase");
    assert_eq!(run(data, &["get", "notes", "a", "--json", "--passphrase-file", &first]).ok(), r#"{"n":1}"#);
    let by_variable = command(data).args(["get", "notes", "a"]).env("SYNCLINE_PASSPHRASE", "first").output().unwrap();
    assert!(by_variable.status.success());
    // What is made from now on is sealed too.
    run(data, &["space", "create", "pages", "--passphrase-file", &first]).ok();
    for path in key_files(data) {
        assert!(std::fs::read(&path).unwrap().starts_with(b"syncline key file\n"), "{}", path.display());
        only_its_owner_reads(&path);
    }

    let serving = Serving::start(data, &["--api", "127.0.0.1:0", "--passphrase-file", &first]);
    run(data, &["put", "pages", "b", r#"{"n":2}"#]).ok();
    run(data, &["key", "passphrase", "--remove", "--passphrase-file", &first]).failed(6, "stop the node");
    assert_eq!(serving.stop(), 0);

    // The index may change meanwhile, and the passphrase stays.
    run(data, &["convert", "--index", "redb"]).ok();
    run(data, &["device"]).failed(4, "--passphrase-file");
    let change = ["key", "passphrase", "--passphrase-file", &first, "--new-passphrase-file", &second];
    assert!(run(data, &change).ok().contains("new passphrase"));
    run(data, &change).failed(4, "not the passphrase");
    run(data, &["device", "--passphrase-file", &first]).failed(4, "not the passphrase");
    run(data, &["verify", "--passphrase-file", &second]).ok();
    assert!(run(data, &["repair", "pages", "--passphrase-file", &second]).ok().contains("pages"));
    let (file, lock) = (beside.path().join("backup"), passphrase_file(beside.path(), "3", "third"));
    let file = file.to_str().unwrap();
    run(data, &["backup", file, "--backup-passphrase-file", &lock, "--passphrase-file", &second]).ok();
    run(&beside.path().join("new"), &["restore", file, "--backup-passphrase-file", &lock]).ok();
    assert_eq!(run(&beside.path().join("new"), &["get", "pages", "b", "--json"]).ok(), r#"{"n":2}"#);

    assert!(run(data, &["key", "passphrase", "--remove", "--passphrase-file", &second]).ok().contains("no passphrase"));
    assert_eq!(run(data, &["get", "notes", "a", "--json"]).ok(), r#"{"n":1}"#);
    for (path, before) in key_files(data).iter().zip(&plain).take(2) {
        assert_eq!(&std::fs::read(path).unwrap(), before);
        only_its_owner_reads(path);
    }
    assert!(!data.join("node/keyring").exists());
    assert!(std::fs::read_to_string(data.join("format")).unwrap().contains("format 1\n"));
}

#[test]
fn bytes_are_sealed_for_one_device_and_signed_by_one() {
    let directory = tempfile::tempdir().unwrap();
    let (ada, ben) = (&directory.path().join("ada"), &directory.path().join("ben"));
    for data in [ada, ben] {
        run(data, &["init"]).ok();
    }
    let of_ben = run(ben, &["device", "--json"]).json();
    let (text, id) = (of_ben["text"].as_str().unwrap(), of_ben["device"].as_str().unwrap());
    let (letter, sealed) = (directory.path().join("letter"), directory.path().join("sealed"));
    let (letter, sealed) = (letter.to_str().unwrap(), sealed.to_str().unwrap());
    std::fs::write(letter, b"\x00\xffa letter\n").unwrap();
    let nowhere = &directory.path().join("nowhere");
    run(nowhere, &["bytes", "seal", "--for", text, letter, "--output", sealed]).ok();
    only_its_owner_reads(Path::new(sealed));
    run(nowhere, &["bytes", "seal", "--for", text, letter, "--output", sealed]).failed(5, "exists");
    run(nowhere, &["bytes", "seal", "--for", id, letter]).failed(5, "exchange key");
    run(nowhere, &["bytes", "seal", "--for", &text[..80], letter]).failed(5, "damaged");
    let opened = directory.path().join("opened");
    run(ben, &["bytes", "open", sealed, "--output", opened.to_str().unwrap()]).ok();
    assert_eq!(std::fs::read(&opened).unwrap(), b"\x00\xffa letter\n");
    let piped = run_with_input(nowhere, &["bytes", "seal", "--for", text, "--output"], b"no file is named");
    assert_eq!(piped.code, 2);
    let piped = directory.path().join("piped");
    let piped = piped.to_str().unwrap();
    run_with_input(nowhere, &["bytes", "seal", "--for", text, "--output", piped], b"through a pipe\n").ok();
    assert_eq!(run_with_input(ben, &["bytes", "open"], &std::fs::read(piped).unwrap()).ok(), "through a pipe");
    run(ada, &["bytes", "open", sealed]).failed(5, "another device");
    run(ada, &["bytes", "open", letter]).failed(5, "not sealed bytes");

    let signature = run(ben, &["bytes", "sign", letter]).ok().to_owned();
    let verify = |by: &str, file: &str| run(nowhere, &["bytes", "verify", "--by", by, "--signature", &signature, file]);
    assert!(verify(id, letter).ok().contains(id));
    verify(text, letter).ok();
    verify(id, sealed).failed(5, "does not fit");
    let of_ada = run(ada, &["device", "--json"]).json();
    verify(of_ada["device"].as_str().unwrap(), letter).failed(5, "signed this");
    let spoken = run_with_input(ben, &["bytes", "sign"], b"\x00\xffa letter\n");
    assert_eq!(spoken.ok(), signature);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_go_over_http_as_they_are() {
    let api = Api::start().await;
    let text = api.get("/v1/status").await.json()["device_text"].as_str().unwrap().to_owned();
    let send = async |target: String, body: Vec<u8>| {
        api.bytes_of(api.request(Method::POST, &target).body(Body::from(body)).unwrap()).await
    };
    let (status, sealed) = send(format!("/v1/bytes/seal?for={text}"), b"\xffletter".to_vec()).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(send("/v1/bytes/open".to_owned(), sealed).await, (StatusCode::OK, b"\xffletter".to_vec()));
    assert_eq!(send("/v1/bytes/open".to_owned(), b"letter".to_vec()).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(send("/v1/bytes/seal?for=nobody".to_owned(), b"letter".to_vec()).await.0, StatusCode::BAD_REQUEST);
    // Longer than what any other route takes.
    let long = vec![7; 17 << 20];
    let (status, signed) = send("/v1/bytes/sign".to_owned(), long.clone()).await;
    assert_eq!(status, StatusCode::OK);
    let signed: serde_json::Value = serde_json::from_slice(&signed).unwrap();
    let verify = format!("/v1/bytes/verify?by={text}&signature={}", signed["signature"].as_str().unwrap());
    assert_eq!(send(verify.clone(), long).await.0, StatusCode::OK);
    assert_eq!(send(verify, b"other".to_vec()).await.0, StatusCode::BAD_REQUEST);
    let request =
        api.request(Method::POST, "/v1/bytes/sign").header(header::CONTENT_LENGTH, (65_u64 << 20).to_string());
    let request =
        request.body(Body::from_stream(futures::stream::pending::<Result<axum::body::Bytes, std::io::Error>>()));
    api.exchange(request.unwrap()).await.problem(413);
    assert_eq!(api.get("/v1/status").await.json()["device"], json!(api.device()));
    api.stop().await;
}
