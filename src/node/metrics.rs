//! What a monitoring system reads of the spaces: gauges made from their status at each reading.

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::info::SpaceStatus;

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
