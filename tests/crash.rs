//! A writing node that is killed, again and again: every acknowledged write is there after the restart.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

/// How often the node is killed.
const KILLS: usize = 100;
/// Writers at a time, so that commits are shared.
const WRITERS: usize = 4;
/// How long the node lives at least and at most once it is ready.
const LIVES_MS: std::ops::Range<u64> = 5..60;

struct Serving {
    child: Child,
    api: String,
    token: String,
}

impl Serving {
    fn start(data: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_syncline"))
            .env_clear()
            .env("HOME", data)
            .args(["--data", data.to_str().unwrap(), "--log", "error", "--json", "serve", "--no-mdns", "--no-quic"])
            .args(["--listen", "/ip4/127.0.0.1/tcp/0", "--api", "127.0.0.1:0"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let api = ready["api"].as_str().unwrap().trim_start_matches("http://").to_owned();
        let token = std::fs::read_to_string(data.join("api.token")).unwrap().trim().to_owned();
        Self { child, api, token }
    }

    /// Sends a request on a connection that stays open; None when the node is gone.
    fn request(&self, stream: &mut TcpStream, method: &str, path: &str, body: &str) -> Option<(u16, Vec<u8>)> {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            self.api,
            self.token,
            body.len()
        );
        stream.write_all(request.as_bytes()).ok()?;
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).ok()?;
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).ok()?.to_ascii_lowercase();
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok());
        let mut body = vec![0; length?];
        stream.read_exact(&mut body).ok()?;
        Some((status, body))
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.api).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// The keys below a prefix.
    fn keys(&self, prefix: &str) -> BTreeSet<String> {
        let (mut keys, mut after, mut stream) = (BTreeSet::new(), String::new(), self.connect());
        loop {
            let path = format!("/v1/spaces/notes/documents?prefix={prefix}&limit=1000{after}");
            let (status, body) = self.request(&mut stream, "GET", &path, "").unwrap();
            assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
            let page: Value = serde_json::from_slice(&body).unwrap();
            let items = page["documents"].as_array().unwrap();
            keys.extend(items.iter().map(|item| item["key"].as_str().unwrap().to_owned()));
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => return keys,
            }
        }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It may be dead already.
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Writes until the node is gone; returns the acknowledged keys.
fn write(serving: &Serving, round: usize, writer: usize, gone: &AtomicBool) -> Vec<String> {
    let mut acknowledged = Vec::new();
    // On a busy machine the node may be killed before this thread gets to it.
    let Ok(mut stream) = TcpStream::connect(&serving.api) else {
        assert!(gone.load(Ordering::SeqCst), "the node ended by itself");
        return acknowledged;
    };
    stream.set_nodelay(true).unwrap();
    for n in 0.. {
        let key = format!("{round:03}/{writer}/{n:05}");
        let path = format!("/v1/spaces/notes/documents/{key}");
        let body = format!(r#"{{"round":{round},"n":{n},"text":"some words to reach a hundred bytes in all"}}"#);
        match serving.request(&mut stream, "PUT", &path, &body) {
            Some((status, _)) if (200..300).contains(&status) => acknowledged.push(key),
            Some((status, body)) => panic!("{status}: {}", String::from_utf8_lossy(&body)),
            None => {
                assert!(gone.load(Ordering::SeqCst), "the node ended by itself");
                return acknowledged;
            }
        }
    }
    acknowledged
}

#[test]
fn every_acknowledged_write_survives_a_hundred_kills() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path();
    let created = Command::new(env!("CARGO_BIN_EXE_syncline"))
        .args(["--data", data.to_str().unwrap(), "space", "create", "notes"])
        .output()
        .unwrap();
    assert!(created.status.success(), "{created:?}");
    let mut all = BTreeSet::new();
    let mut last: BTreeSet<String> = BTreeSet::new();
    for round in 0..KILLS {
        let mut serving = Serving::start(data);
        let present = serving.keys(&format!("{:03}/", round.saturating_sub(1)));
        let lost: Vec<_> = last.difference(&present).collect();
        assert!(lost.is_empty(), "round {round} lost {lost:?}");
        let gone = AtomicBool::new(false);
        let lives = LIVES_MS.start + (round as u64 * 7919) % (LIVES_MS.end - LIVES_MS.start);
        last = std::thread::scope(|scope| {
            let (watched, flag) = (&serving, &gone);
            let writers: Vec<_> =
                (0..WRITERS).map(|writer| scope.spawn(move || write(watched, round, writer, flag))).collect();
            std::thread::sleep(Duration::from_millis(lives));
            gone.store(true, Ordering::SeqCst);
            let killed = Command::new("kill").arg("-9").arg(watched.child.id().to_string()).status().unwrap();
            assert!(killed.success());
            writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
        });
        serving.kill();
        all.extend(last.iter().cloned());
    }
    let serving = Serving::start(data);
    let present = serving.keys("");
    assert!(all.is_subset(&present), "lost {:?}", all.difference(&present).collect::<Vec<_>>());
    assert!(all.len() > KILLS, "the kills hit a node that writes: {} writes", all.len());
    drop(serving);
    let verified = Command::new(env!("CARGO_BIN_EXE_syncline"))
        .args(["--data", data.to_str().unwrap(), "verify"])
        .output()
        .unwrap();
    assert!(verified.status.success(), "{verified:?}");
}
