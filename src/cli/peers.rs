//! Commands on peers: the list with their faults, bans.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::http::Method;
use syncline::api::body::{BanRequest, BannedPeer, Peer, PeerList, PeerStanding};

use super::access::{Access, Target};
use super::arguments::{Peers, PeersCommand};
use super::duration::humane_duration;
use super::failure::Failure;
use super::output::{Output, plain};

pub(super) async fn peers(access: &Access, arguments: Peers, output: &mut Output) -> Result<(), Failure> {
    match arguments.command {
        None | Some(PeersCommand::List) => list(access, output).await,
        Some(PeersCommand::Ban { device, lasts }) => {
            let request = BanRequest { lasts_ms: lasts };
            let banned: BannedPeer = access.send_json(Method::PUT, &ban_of(&device), &request).await?;
            match output.json {
                true => output.json(&banned),
                false => output.line(format_args!("{} is banned for {}", banned.device, humane_duration(lasts))),
            }
        }
        Some(PeersCommand::Unban { device }) => access.order(Method::DELETE, &ban_of(&device)).await,
    }
}

fn ban_of(device: &str) -> Target {
    Target::new(["peers", device, "ban"])
}

async fn list(access: &Access, output: &mut Output) -> Result<(), Failure> {
    let list: PeerList = access.get(&Target::new(["peers"])).await?;
    if output.json {
        return output.json(&list);
    }
    if !access.is_running() {
        return output.line("no node is running, so there are no peers: `syncline serve` starts it");
    }
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    let rows: Vec<Vec<String>> = list.peers.iter().map(|peer| row(peer, now_ms)).collect();
    output.table(&["device", "state", "latency", "score", "agent", "address"], &rows)?;
    for peer in &list.peers {
        for line in conduct(peer, now_ms) {
            output.line(format_args!("{}: {line}", peer.device))?;
        }
    }
    Ok(())
}

fn row(peer: &Peer, now_ms: u64) -> Vec<String> {
    let state = match (peer.state, peer.next_attempt_ms) {
        _ if peer.banned_until_ms.is_some() => banned_text(peer, now_ms),
        (PeerStanding::Connected, _) => "connected".to_owned(),
        (PeerStanding::Connecting, _) => "connecting".to_owned(),
        (PeerStanding::Waiting, Some(wait_ms)) => format!("again in {}", humane_duration(wait_ms)),
        (PeerStanding::Waiting, None) => "waiting".to_owned(),
        (PeerStanding::Disconnected, _) => "disconnected".to_owned(),
    };
    let latency = peer.latency_us.map(|latency_us| format!("{:.1} ms", latency_us as f64 / 1000.0));
    let address = peer.remote_address.as_ref().or(peer.addresses.first());
    vec![
        peer.device.clone(),
        state,
        latency.unwrap_or_default(),
        peer.score.to_string(),
        peer.agent.as_deref().map(plain).unwrap_or_default(),
        address.map(|address| plain(address)).unwrap_or_default(),
    ]
}

fn banned_text(peer: &Peer, now_ms: u64) -> String {
    let left_ms = peer.banned_until_ms.unwrap_or_default().saturating_sub(now_ms);
    format!("banned for {}", humane_duration(left_ms))
}

/// What is held against a peer, in words.
fn conduct(peer: &Peer, now_ms: u64) -> Vec<String> {
    let ago = |at_ms: u64| humane_duration(now_ms.saturating_sub(at_ms));
    let mut lines: Vec<String> = peer
        .faults
        .iter()
        .map(|fault| format!("{} × {}, last {} ago", fault.count, plain(&fault.fault), ago(fault.last_ms)))
        .collect();
    if peer.banned_until_ms.is_some() {
        let by = if peer.banned_by_person { "a person" } else { "this node, for these faults" };
        lines.push(format!("{} by {by}; `syncline peers unban` ends it", banned_text(peer, now_ms)));
    }
    if peer.frames_limited + peer.requests_limited > 0 {
        let (frames, requests) = (peer.frames_limited, peer.requests_limited);
        lines.push(format!("{frames} gossip frames and {requests} requests dropped: more than it may send"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bans_and_faults_are_told_in_words() {
        let peer: Peer = serde_json::from_value(serde_json::json!({
            "device": "abc", "state": "disconnected", "kept": false, "addresses": [], "connections": 0, "protocols": [],
            "score": 50, "faults": [{ "fault": "bad-signature", "count": 2, "last_ms": 40_000 }],
            "banned_until_ms": 160_000, "banned_by_person": false, "frames_limited": 3, "requests_limited": 0,
        }))
        .unwrap();
        assert_eq!(row(&peer, 100_000)[1], "banned for 1m");
        let lines = conduct(&peer, 100_000);
        assert_eq!(lines[0], "2 × bad-signature, last 1m ago");
        assert!(lines[1].contains("for these faults") && lines[2].starts_with("3 gossip frames"), "{lines:?}");
    }
}
