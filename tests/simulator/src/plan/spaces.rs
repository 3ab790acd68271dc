//! Who takes part in which space as what, and who is connected with whom.

use std::collections::{BTreeMap, BTreeSet};

use syncline_model::{Role, Strings};

use super::{SECOND_US, draw_skew};
use crate::random::Choices;
use crate::reduction::Reduction;

/// One device.
#[derive(Debug, Clone)]
pub(crate) struct DevicePlan {
    /// How far its wall clock is off, in ms.
    pub(crate) skew_ms: i64,
    /// Whether it says what is not so.
    pub(crate) liar: Option<LiarKind>,
}

/// What kind of liar a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LiarKind {
    /// An invited member whose messages are tampered with, in so many of a hundred cases.
    Member {
        /// How many.
        percent: u64,
        /// Whether it never sends what it says to hold.
        mute: bool,
    },
    /// A device without an invitation.
    Stranger,
}

/// One device in a space.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    /// What it is to be.
    pub(crate) role: Role,
    /// When it takes its ticket; zero for the steward.
    pub(crate) joins_us: u64,
    /// The member that it is connected with in any case and that may admit it; none for the steward.
    pub(crate) parent: Option<usize>,
}

/// One space.
#[derive(Debug, Clone)]
pub(crate) struct SpacePlan {
    /// How strings are stored.
    pub(crate) strings: Strings,
    /// Who founds it.
    pub(crate) steward: usize,
    /// Whether each joining device gets a ticket of its own, for one use.
    pub(crate) own_tickets: bool,
    /// Who is in it.
    pub(crate) members: BTreeMap<usize, Member>,
    /// Who would be in it if nothing were left out.
    pub(super) drawn: BTreeSet<usize>,
}

impl SpacePlan {
    /// The role of a device in this space.
    pub(crate) fn role(&self, device: usize) -> Option<Role> {
        self.members.get(&device).map(|member| member.role)
    }
}

pub(super) fn draw_devices(seed: u64, count: usize, all_honest: bool) -> Vec<DevicePlan> {
    let mut choices = Choices::new(seed, "liars", 0);
    let wrong_clocks = choices.chance(50) && !all_honest;
    let liars = if all_honest || count < 3 { 0 } else { choices.pick(&[0, 0, 0, 1, 1, 2]).min(count as u64 - 2) };
    let device = |number: usize| {
        let mut choices = Choices::new(seed, "device", number as u64);
        let skew_ms = if wrong_clocks { draw_skew(&mut choices) } else { 0 };
        // The last ones, so that the first found spaces.
        let lies = number as u64 + liars >= count as u64;
        let percent = choices.pick(&[20, 60, 100]);
        let mute = Choices::new(seed, "mute", number as u64).chance(30);
        let kind = if choices.chance(25) { LiarKind::Stranger } else { LiarKind::Member { percent, mute } };
        DevicePlan { skew_ms, liar: lies.then_some(kind) }
    };
    (0..count).map(device).collect()
}

/// The first space has all devices but strangers in it, each further one some of them.
pub(super) fn draw_spaces(
    seed: u64,
    choices: &mut Choices,
    devices: &[DevicePlan],
    horizon_us: u64,
    reduction: &Reduction,
) -> Vec<SpacePlan> {
    let count = choices.pick(&[1, 1, 1, 2, 2, 3]);
    let late = choices.chance(40);
    let mut spaces: Vec<SpacePlan> = (0..count)
        .map(|number| {
            let mut choices = Choices::new(seed, "space", number);
            draw_space(seed, number, &mut choices, devices, late.then_some(horizon_us))
        })
        .collect();
    for (number, space) in (0..).zip(&mut spaces) {
        let steward = space.steward;
        let space_left_out = number > 0 && reduction.spaces.contains(&number);
        let left_out: BTreeSet<usize> = space
            .members
            .keys()
            .copied()
            .filter(|device| space_left_out || (*device != steward && reduction.devices.contains(&(*device as u64))))
            .collect();
        leave_out(space, &left_out);
    }
    spaces
}

fn draw_space(seed: u64, number: u64, choices: &mut Choices, devices: &[DevicePlan], late: Option<u64>) -> SpacePlan {
    let honest: Vec<usize> = (0..devices.len()).filter(|device| devices[*device].liar.is_none()).collect();
    let steward = if number == 0 { 0 } else { choices.pick(&honest) };
    let (strings, own_tickets) = (if choices.chance(50) { Strings::Scalar } else { Strings::Text }, choices.chance(50));
    let steward_member = Member { role: Role::Steward, joins_us: 0, parent: None };
    let (mut members, mut writers) = (BTreeMap::from([(steward, steward_member)]), vec![steward]);
    for (device, plan) in devices.iter().enumerate() {
        let mut choices = Choices::new(seed, "member", number * 1000 + device as u64);
        let is_in = choices.chance(60) || number == 0;
        if device == steward || !is_in || plan.liar == Some(LiarKind::Stranger) {
            continue;
        }
        let role = match choices.below(10) {
            0 | 1 => Role::Reader,
            2 | 3 => Role::Relay,
            _ => Role::Writer,
        };
        let joins_us = match late {
            Some(horizon_us) if choices.chance(50) => choices.below(horizon_us * 9 / 10),
            _ => choices.below(SECOND_US),
        };
        let parent = Some(choices.pick(&writers));
        if role == Role::Writer && plan.liar.is_none() {
            writers.push(device);
        }
        members.insert(device, Member { role, joins_us, parent });
    }
    let drawn = members.keys().copied().collect();
    SpacePlan { strings, steward, own_tickets, members, drawn }
}

/// Takes members out; who hung on one of them hangs on the next one above.
fn leave_out(space: &mut SpacePlan, left_out: &BTreeSet<usize>) {
    let parents: BTreeMap<usize, Option<usize>> =
        space.members.iter().map(|(device, member)| (*device, member.parent)).collect();
    space.members.retain(|device, _| !left_out.contains(device));
    for member in space.members.values_mut() {
        while let Some(parent) = member.parent.filter(|parent| left_out.contains(parent)) {
            member.parent = parents[&parent];
        }
    }
}

/// Everybody with everybody, or the members' trees with some more edges.
pub(super) fn draw_edges(
    seed: u64,
    choices: &mut Choices,
    devices: &[DevicePlan],
    spaces: &[SpacePlan],
    reduction: &Reduction,
) -> Vec<(usize, usize)> {
    let count = devices.len();
    let mesh = choices.chance(50) && count <= 8;
    let extra_percent = if count <= 8 { 15 } else { 4 };
    let pair = |a: usize, b: usize| (a.min(b), a.max(b));
    let of_space = |space: &SpacePlan| {
        let edges = space.members.iter().filter_map(|(device, member)| Some(pair(*device, member.parent?)));
        edges.collect::<Vec<_>>()
    };
    let trees: BTreeSet<(usize, usize)> = spaces.iter().flat_map(of_space).collect();
    let present = |device: &usize| {
        let stranger = devices[*device].liar == Some(LiarKind::Stranger);
        let left_out = reduction.devices.contains(&(*device as u64));
        spaces.iter().any(|space| space.members.contains_key(device)) || (stranger && !left_out)
    };
    let is_edge = |(a, b): &(usize, usize)| {
        let mut choices = Choices::new(seed, "edge", (a * 64 + b) as u64);
        let stranger = [a, b].iter().any(|device| devices[**device].liar == Some(LiarKind::Stranger));
        let percent = if stranger { 40 } else { extra_percent };
        let both = present(a) && present(b);
        both && (trees.contains(&(*a, *b)) || mesh || choices.chance(percent))
    };
    (0..count).flat_map(|b| (0..b).map(move |a| (a, b))).filter(is_edge).collect()
}
