//! Commands on the node itself: device, status, connecting.

use std::path::Path;

use axum::http::Method;
use serde::Serialize;
use syncline::IndexKind;
use syncline::api::body::{ConnectRequest, ConnectedPeer};
use syncline::node::info::{DiskInfo, NodeStatus};

use super::access::{Access, Target};
use super::arguments::IndexArgument;
use super::duration::humane_duration;
use super::failure::{Exit, Failure};
use super::output::{Output, humane_bytes};
use super::spaces::{show, space_row};

/// Who this device is.
#[derive(Debug, Serialize)]
struct DeviceFacts {
    /// The device id.
    device: String,
    /// The libp2p peer id of the same key.
    peer: String,
    /// The public exchange key.
    exchange: String,
    /// The text by which others address the device.
    text: String,
    /// The data directory, when it was just made or asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<String>,
}

impl From<NodeStatus> for DeviceFacts {
    fn from(status: NodeStatus) -> Self {
        let NodeStatus { device, peer, exchange, device_text, .. } = status;
        Self { device, peer, exchange, text: device_text, data: None }
    }
}

pub(super) async fn init(
    access: &Access,
    data: &Path,
    index: Option<IndexArgument>,
    output: &mut Output,
) -> Result<(), Failure> {
    let status: NodeStatus = access.get(&Target::new(["status"])).await?;
    if let Some(wanted) = index.map(IndexKind::from).filter(|wanted| wanted.name() != status.index) {
        let (is, wanted) = (&status.index, wanted.name());
        let failure =
            Failure::new(Exit::Invalid, format!("this directory is a device already, with its index in {is}"));
        return Err(failure.hint(format!("`syncline convert --index {wanted}` changes that")));
    }
    let data = data.display().to_string();
    if output.json {
        return output.json(&DeviceFacts { data: Some(data), ..DeviceFacts::from(status) });
    }
    output.facts(&[("device", status.device), ("peer", status.peer), ("data", data)])
}

pub(super) async fn device(access: &Access, output: &mut Output) -> Result<(), Failure> {
    let status: NodeStatus = access.get(&Target::new(["status"])).await?;
    if output.json {
        return output.json(&DeviceFacts::from(status));
    }
    output.facts(&[("device", status.device), ("exchange key", status.exchange), ("text", status.device_text)])
}

pub(super) async fn status(access: &Access, space: Option<&str>, output: &mut Output) -> Result<(), Failure> {
    if let Some(space) = space {
        return show(access, space, output).await;
    }
    let status: NodeStatus = access.get(&Target::new(["status"])).await?;
    if output.json {
        return output.json(&status);
    }
    let running = if access.is_running() {
        format!("running for {}", humane_duration(status.uptime_ms))
    } else {
        "not running: `syncline serve` starts it".to_owned()
    };
    let traffic = (humane_bytes(status.traffic.received), humane_bytes(status.traffic.sent));
    let mut facts = vec![
        ("device", status.device),
        ("peer", status.peer),
        ("release", status.release),
        ("index", status.index),
        ("node", running),
        ("peers", format!("{} connected", status.connected_peers)),
        ("traffic", format!("{} received, {} sent", traffic.0, traffic.1)),
    ];
    facts.extend(status.disk.iter().flat_map(disk_facts));
    output.facts(&facts)?;
    for address in &status.listening {
        output.line(format_args!("listening on {address}"))?;
    }
    if status.spaces.is_empty() {
        return output.line("no spaces yet: `syncline space create` or `syncline space join` adds one");
    }
    output.line("")?;
    let rows: Vec<Vec<String>> = status.spaces.iter().map(space_row).collect();
    output.table(&["name", "role", "documents", "operations", "size", "members", "id"], &rows)
}

/// What the data directory takes of its disk, in words.
fn disk_facts(disk: &DiskInfo) -> Vec<(&'static str, String)> {
    let mut taken = format!("{} of logs, {} of index", humane_bytes(disk.log), humane_bytes(disk.index));
    taken += &match (disk.reserve, disk.reserve_wanted) {
        (0, 0) => String::new(),
        (0, _) => ", no reserve while there is no room for it".to_owned(),
        (reserve, _) => format!(", {} in reserve", humane_bytes(reserve)),
    };
    if disk.reclaimed > 0 {
        taken += &format!(", {} given back within the logs", humane_bytes(disk.reclaimed));
    }
    if let Some(max) = disk.use_max {
        taken += &format!("; at most {} in all", humane_bytes(max));
    }
    let mut facts = vec![("disk", taken), ("free", humane_bytes(disk.available))];
    facts.extend(disk.no_room.clone().map(|no_room| ("writing", format!("refused: {no_room}"))));
    facts
}

pub(super) async fn connect(access: &Access, address: String, output: &mut Output) -> Result<(), Failure> {
    let request = ConnectRequest { address };
    let connected: ConnectedPeer = access.send_json(Method::POST, &Target::new(["peers"]), &request).await?;
    if output.json { output.json(&connected) } else { output.line(connected.device) }
}
