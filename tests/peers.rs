//! Bans of peers and relays that keep named spaces, through the real program.

use serde_json::Value;

use crate::cli::{Serving, eventually, run, with_space};

fn peer(data: &std::path::Path, device: &str) -> Value {
    let list = run(data, &["peers", "--json"]).json();
    let found = list["peers"].as_array().unwrap().iter().find(|peer| peer["device"] == device);
    found.cloned().unwrap_or_default()
}

#[test]
fn a_ban_outlasts_a_restart_until_it_is_ended() {
    let (alice, bob) = (with_space(), tempfile::tempdir().unwrap());
    let (alice, bob) = (alice.path(), bob.path());
    let serving = Serving::start(alice, &["--api", "127.0.0.1:0"]);
    let ticket = run(alice, &["space", "invite", "notes", "--role", "writer"]).ok().to_owned();
    run(bob, &["space", "join", &ticket]).ok();
    let other = Serving::start(bob, &["--api", "127.0.0.1:0"]);
    let device = other.ready["device"].as_str().unwrap().to_owned();
    run(bob, &["connect", serving.address()]).ok();
    run(alice, &["peers", "ban", "nobody"]).failed(5, "nobody");
    let own = serving.ready["device"].as_str().unwrap();
    run(alice, &["peers", "ban", own]).failed(5, "this device itself");
    run(alice, &["peers", "unban", &device]).failed(3, "is not banned");

    run(alice, &["peers", "ban", &device, "--for", "2h"]).ok();
    eventually("the end of the connection", || peer(alice, &device)["connections"] == 0);
    assert_eq!(peer(alice, &device)["banned_by_person"], true);
    let text = run(alice, &["peers"]);
    assert!(text.ok().contains("banned for 1h 59m by a person"), "{text:?}");
    run(alice, &["connect", other.address()]).failed(5, "is banned for another 120 minutes");
    assert_eq!(serving.stop(), 0);

    let serving = Serving::start(alice, &["--api", "127.0.0.1:0"]);
    assert_eq!(
        (&peer(alice, &device)["banned_by_person"], &peer(alice, &device)["connections"]),
        (&true.into(), &0.into())
    );
    run(alice, &["peers", "unban", &device]).ok();
    run(alice, &["connect", other.address()]).ok();
    eventually("a connection", || peer(alice, &device)["connections"] != 0);
    assert_eq!(serving.stop(), 0);
    // Without a node the file alone is changed.
    run(alice, &["peers", "ban", &device]).ok();
    run(alice, &["peers", "unban", &device]).ok();
    run(alice, &["peers", "unban", &device]).failed(3, "is not banned");
}

#[test]
fn a_relay_that_keeps_named_spaces_joins_no_other() {
    let (alice, relay) = (with_space(), tempfile::tempdir().unwrap());
    let (alice, relay) = (alice.path(), relay.path());
    run(alice, &["space", "create", "more"]).ok();
    let id = run(alice, &["space", "show", "notes", "--json"]).json()["id"].as_str().unwrap().to_owned();
    let serving = Serving::start(relay, &["--api", "127.0.0.1:0", "--relay-spaces", &id]);
    let invite = |space: &str| run(alice, &["space", "invite", space, "--role", "relay"]).ok().to_owned();
    run(relay, &["space", "join", &invite("more")]).failed(4, "is none of them");
    run(relay, &["space", "join", &invite("notes")]).ok();
    assert_eq!(serving.stop(), 0);
}
