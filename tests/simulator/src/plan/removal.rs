//! A run in which nothing goes wrong and one of many members is removed, for the figures.

use std::collections::{BTreeMap, BTreeSet};

use syncline_model::{Role, Strings};
use syncline_sync::Config;

use super::{ActionKind, Ambient, DevicePlan, MILLISECOND_US, NEVER_MS, Plan, PlannedAction, SECOND_US, SpacePlan};
use crate::plan::spaces::Member;
use crate::reduction::Reduction;

/// A calm seed that is nobody else's.
const REMOVAL_SEED: u64 = 2_000_000;
/// Fewest members: the steward, the one who goes, and some who stay.
pub const REMOVAL_MEMBERS_MIN: usize = 4;
/// Most members.
pub const REMOVAL_MEMBERS_MAX: usize = 200;
/// From one device's joining to the next one's.
const JOIN_EVERY_US: u64 = 100 * MILLISECOND_US;
/// From one device's writing to the next one's.
const WRITE_EVERY_US: u64 = 50 * MILLISECOND_US;
/// What is left for all to have everything before the removal, and to hear of it after.
const SETTLE_US: u64 = 5 * SECOND_US;
/// Each device is connected with those that are so many numbers before and behind it.
const STRIDES: [usize; 3] = [1, 7, 23];

impl Plan {
    /// So many members, connected with six others each, write so many documents in all; then the steward removes one.
    /// A message takes 0.5 to 20 virtual milliseconds.
    pub fn removal(members: usize, documents: u64) -> Self {
        let members = members.clamp(REMOVAL_MEMBERS_MIN, REMOVAL_MEMBERS_MAX);
        let action = |index: u64, at_us: u64, device: usize, kind: ActionKind| PlannedAction {
            index,
            at_us,
            device,
            space: 0,
            kind,
        };
        let written_us = members as u64 * JOIN_EVERY_US + SETTLE_US;
        let each = documents.div_ceil(members as u64);
        let fill = |device: usize| {
            let (index, before) = (device as u64, each * device as u64);
            let count = each.min(documents.saturating_sub(before));
            action(index, written_us + index * WRITE_EVERY_US, device, ActionKind::Fill(count))
        };
        let removed_us = written_us + members as u64 * WRITE_EVERY_US + SETTLE_US;
        let removal = action(members as u64, removed_us, 0, ActionKind::Remove(members / 2));
        let engine = Config { anti_entropy_ms: 10_000, request_timeout_ms: 30_000, ..Config::default() };
        Self {
            seed: REMOVAL_SEED,
            reduction: Reduction::default(),
            devices: vec![DevicePlan { skew_ms: 0, liar: None }; members],
            spaces: vec![space_of(members)],
            edges: edges_of(members),
            horizon_us: removed_us + SETTLE_US,
            latency_us: (MILLISECOND_US / 2, 20 * MILLISECOND_US),
            bandwidth: None,
            job_us: (MILLISECOND_US / 10, MILLISECOND_US),
            step_us_max: MILLISECOND_US,
            segment_bytes: 4 << 20,
            reserve_bytes: 64 << 10,
            sector_bytes: 4096,
            cache_bytes: 256 << 10,
            engine,
            witness_after_ms: NEVER_MS,
            large_values: false,
            restart_at_end: false,
            ambient: Ambient::default(),
            faults: Vec::new(),
            actions: (0..members).map(fill).chain([removal]).collect(),
        }
    }
}

fn space_of(members: usize) -> SpacePlan {
    let member = |device: usize| {
        let role = if device == 0 { Role::Steward } else { Role::Writer };
        let parent = device.checked_sub(1).map(|before| before / 2);
        (device, Member { role, joins_us: device as u64 * JOIN_EVERY_US, parent })
    };
    let (members, drawn): (BTreeMap<usize, Member>, BTreeSet<usize>) =
        ((0..members).map(member).collect(), (0..members).collect());
    SpacePlan { strings: Strings::Scalar, steward: 0, own_tickets: false, members, drawn }
}

fn edges_of(members: usize) -> Vec<(usize, usize)> {
    let pair = |a: usize, b: usize| (a.min(b), a.max(b));
    let strides = |a: usize| STRIDES.map(|stride| pair(a, (a + stride) % members));
    let parents = (1..members).map(|device| pair(device, (device - 1) / 2));
    let all: BTreeSet<(usize, usize)> = (0..members).flat_map(strides).chain(parents).collect();
    all.into_iter().filter(|(a, b)| a != b).collect()
}
