//! What a monitoring system reads of the spaces: gauges made from their status at each reading.

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::info::{DiskInfo, SpaceStatus};

/// Names the space a figure belongs to.
type Labels = [(&'static str, String); 2];
/// Takes one figure from a space's status.
type Figure = fn(&SpaceStatus) -> u64;

/// Name and meaning of each figure of a space.
const FIGURES: [(&str, &str, Figure); 8] = [
    ("documents", "Documents that exist", |space| space.documents),
    ("operations", "Operations held", |space| space.operations),
    ("waiting_operations", "Operations held that wait for others", |space| space.waiting),
    ("unreadable_operations", "Operations that no key on this device opens", |space| space.unreadable),
    ("members", "Members of the space", |space| space.members as u64),
    ("peers", "Connected peers that share the space", |space| space.peers.len() as u64),
    ("peers_in_sync", "Of them those that hold the same operations", |space| {
        space.peers.iter().filter(|peer| peer.in_sync).count() as u64
    }),
    ("missing_operations", "Operations that the peer furthest ahead holds and this device does not", |space| {
        space.peers.iter().map(|peer| peer.behind).max().unwrap_or_default()
    }),
];

/// A registry of the spaces' figures as they are now.
pub(super) fn of_spaces(spaces: &[SpaceStatus]) -> Registry {
    let mut registry = Registry::with_prefix("syncline_space");
    let gauges = |figure: Figure| {
        let family = Family::<Labels, Gauge>::default();
        for space in spaces {
            let labels = [("space", space.name.clone()), ("id", space.id.clone())];
            family.get_or_create(&labels).set(i64::try_from(figure(space)).unwrap_or(i64::MAX));
        }
        family
    };
    for (name, help, figure) in FIGURES {
        registry.register(name, help, gauges(figure));
    }
    registry.register_with_unit("log", "Size of the log on the disk", Unit::Bytes, gauges(|space| space.log_bytes));
    registry
}

/// Takes one figure from what the data directory takes.
type DiskFigure = fn(&DiskInfo) -> u64;

/// Name and meaning of each figure of the disk.
const DISK_FIGURES: [(&str, &str, DiskFigure); 6] = [
    ("log", "Size of the logs of all spaces", |disk| disk.log),
    ("index", "About the size of the index", |disk| disk.index),
    ("reserve", "What is held in reserve for when the disk is full", |disk| disk.reserve),
    ("reserve_wanted", "What is to be held in reserve", |disk| disk.reserve_wanted),
    ("reclaimed", "What was given back within the logs, of damage and of what does not count", |disk| disk.reclaimed),
    ("available", "What is free on the disk", |disk| disk.available),
];

/// A registry of what the data directory takes of its disk now.
pub(super) fn of_disk(disk: Option<&DiskInfo>) -> Registry {
    let mut registry = Registry::with_prefix("syncline_disk");
    let Some(disk) = disk else { return registry };
    let mut add = |name, help, unit: Option<Unit>, value: u64| {
        let gauge: Gauge = Gauge::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        match unit {
            Some(unit) => registry.register_with_unit(name, help, unit, gauge),
            None => registry.register(name, help, gauge),
        }
    };
    for (name, help, figure) in DISK_FIGURES {
        add(name, help, Some(Unit::Bytes), figure(disk));
    }
    if let Some(max) = disk.use_max {
        add("use_max", "What the data directory may take", Some(Unit::Bytes), max);
    }
    add("no_room", "Whether nothing new is taken in for want of room", None, u64::from(disk.no_room.is_some()));
    registry
}
