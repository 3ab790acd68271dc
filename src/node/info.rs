//! What a node tells about itself, its spaces and its peers: plain values that the library returns, the API sends as
//! JSON and the command line prints.

use serde::{Deserialize, Serialize};
use syncline_model::{Role, Strings};
use syncline_storage::DiskUse;

/// The state of a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct NodeStatus {
    /// The device id.
    pub device: String,
    /// The libp2p peer id of the same key.
    pub peer: String,
    /// The public exchange key, to which secrets for the device are sealed.
    pub exchange: String,
    /// The text by which others address the device: its id and exchange key, joined by its signature.
    pub device_text: String,
    /// The release.
    pub release: String,
    /// Which store keeps the index.
    pub index: String,
    /// Milliseconds since the node started.
    pub uptime_ms: u64,
    /// Multiaddresses it listens on, with the peer id.
    pub listening: Vec<String>,
    /// How many peers are connected.
    pub connected_peers: usize,
    /// Bytes received from and sent to peers.
    pub traffic: TrafficInfo,
    /// What the data directory takes of its disk; none when that cannot be measured now.
    pub disk: Option<DiskInfo>,
    /// The spaces.
    pub spaces: Vec<SpaceStatus>,
}

/// What a data directory takes of its disk, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DiskInfo {
    /// The logs of all spaces.
    pub log: u64,
    /// About what the index takes.
    pub index: u64,
    /// What is held in reserve for when the disk is full; 0 while it is given up.
    pub reserve: u64,
    /// What is to be held in reserve.
    pub reserve_wanted: u64,
    /// What was given back within the logs: damage, and what was dropped.
    pub reclaimed: u64,
    /// What is free on the disk.
    pub available: u64,
    /// What the directory may take; none: no bound.
    pub use_max: Option<u64>,
    /// Why nothing new is taken in, in words; none while there is room.
    pub no_room: Option<String>,
}

impl From<DiskUse> for DiskInfo {
    fn from(disk: DiskUse) -> Self {
        Self {
            log: disk.log_bytes,
            index: disk.index_bytes,
            reserve: disk.reserve_bytes,
            reserve_wanted: disk.reserve_bytes_wanted,
            reclaimed: disk.reclaimed_bytes,
            available: disk.available_bytes,
            use_max: disk.use_bytes_max,
            no_room: disk.no_room.map(|no_room| no_room.to_string()),
        }
    }
}

/// Bytes on the wire.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TrafficInfo {
    /// Bytes received.
    pub received: u64,
    /// Bytes sent.
    pub sent: u64,
}

/// How far a space is with its membership on this device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// A ticket is held; nobody has admitted this device yet.
    Joining,
    /// This device is a member.
    Member,
    /// This device was a member and was removed.
    Removed,
    /// The ticket cannot be used any more; see [`SpaceStatus::joining_problem`].
    Refused,
}

/// The state of one space on this device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SpaceStatus {
    /// The space id.
    pub id: String,
    /// The local name.
    pub name: String,
    /// Whether this device is a member.
    pub standing: Standing,
    /// This device's role, once admitted.
    pub role: Option<String>,
    /// How strings are stored: `scalar` or `text`.
    pub strings: Option<String>,
    /// The present version: a causal token.
    pub version: String,
    /// How many documents exist.
    pub documents: u64,
    /// Operations held.
    pub operations: u64,
    /// Operations that are held but wait for others.
    pub waiting: u64,
    /// Operations that no key on this device opens.
    pub unreadable: u64,
    /// Bytes of the log on disk.
    pub log_bytes: u64,
    /// Damaged stretches of the log that are in quarantine: left out, and fetched again from peers.
    pub quarantined: u64,
    /// How many members the space has.
    pub members: usize,
    /// Peers that share the space, and how far this device is behind them.
    pub peers: Vec<SpacePeer>,
    /// The present epoch: how often the keys were changed, and once for the first ones; 0 before any is known.
    pub epoch: u32,
    /// Whether newcomers are given the keys of what was written before they came.
    pub newcomers_read_history: bool,
    /// Operations that are held and do not count.
    pub uncounted: Vec<UncountedStretch>,
    /// Logs that do not count from some operation on, in words.
    pub problems: Vec<String>,
    /// Why joining has not completed, in words.
    pub joining_problem: Option<String>,
}

/// Operations of a device that are held and do not count: they lie behind a cut, or on a branch of a forked log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct UncountedStretch {
    /// Whose.
    pub device: String,
    /// The first of them, by its number in the device's log.
    pub first: u64,
    /// The last of them.
    pub last: u64,
    /// The last of them as the steward names it to let all of them count: `device:number:operation id`.
    pub head: String,
}

/// A connected peer that shares a space.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SpacePeer {
    /// Its device id.
    pub device: String,
    /// Whether each holds all that the other has told of.
    pub in_sync: bool,
    /// Operations that it holds and this device lacks.
    pub behind: u64,
    /// Whether it gives this device nothing, which is not a member in its eyes.
    pub refuses: bool,
}

/// A member of a space.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct MemberInfo {
    /// The device id.
    pub device: String,
    /// Its role's name.
    pub role: String,
    /// Whether it is this device.
    pub this_device: bool,
    /// The device that admitted it; none for those whom the steward's records name.
    pub admitted_by: Option<String>,
    /// When it was admitted, by the clock of who did, in ms since 1970.
    pub admitted_at_ms: Option<u64>,
    /// How many operations of it are held here.
    pub operations: u64,
    /// Up to which of its operations its log counts, when it was cut or forked.
    pub counts_up_to: Option<u64>,
}

/// What an invitation can still do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum InvitationState {
    /// It admits devices, as long as it has not expired.
    Open,
    /// As many devices have come by it as it was for.
    UsedUp,
    /// It was revoked, or ended by a removal.
    Closed,
}

/// An invitation into a space.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct InvitationInfo {
    /// Its public name; the ticket holds the secret half.
    pub invitation: String,
    /// The role that it gives.
    pub role: String,
    /// How many devices it admits.
    pub uses: u32,
    /// How many members came by it.
    pub used: u32,
    /// When it ends, in ms since 1970.
    pub expires_ms: u64,
    /// What it can still do.
    pub state: InvitationState,
    /// The number of the record that opened it.
    pub record: u64,
}

/// Something that was decided about the members of a space.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct MembershipEvent {
    /// When, by the clock of who decided it, in ms since 1970.
    pub at_ms: u64,
    /// The device that decided it.
    pub by: String,
    /// What: `founded`, `invited`, `admitted`, `removed` and so on.
    pub what: String,
    /// The devices that it concerns.
    pub devices: Vec<String>,
    /// The role that was given.
    pub role: Option<String>,
    /// More about it, in words.
    pub details: String,
    /// The number of the record; none for what a sponsor decided.
    pub record: Option<u64>,
}

/// A new space.
#[derive(Debug, Clone)]
pub struct CreatedSpace {
    /// The space.
    pub space: crate::Space,
    /// The secret that can take the space over when the steward's device is lost. It is shown once and not stored.
    pub recovery_key: String,
}

/// What an invitation gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvitationTerms {
    /// The role.
    pub role: Role,
    /// How many devices it admits.
    pub uses: u32,
    /// For how long, in milliseconds from now.
    pub lasts_ms: u64,
}

/// The word for a way to store strings.
pub fn strings_name(strings: Strings) -> &'static str {
    match strings {
        Strings::Scalar => "scalar",
        Strings::Text => "text",
    }
}
