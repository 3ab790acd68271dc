//! What one run is like: who takes part in which spaces, how the network and the disks behave, what people do and what
//! goes wrong. All of it is decided before the run begins, each part by a stream of its own.

mod faults;
mod removal;
mod spaces;

use std::collections::BTreeSet;
use std::fmt;

use syncline_model::Role;
use syncline_sync::Config;
use syncline_sync::limits::{GOSSIP_INLINE_BYTES_MAX, PAGE_BYTES_MAX, PAGE_BYTES_MIN, SUMMARY_AUTHORS_FEW};

pub(crate) use faults::{Ambient, FaultKind, PlannedFault};
use faults::{draw_ambient, draw_faults};
pub use removal::{REMOVAL_MEMBERS_MAX, REMOVAL_MEMBERS_MIN};
pub(crate) use spaces::{DevicePlan, LiarKind, SpacePlan};
use spaces::{draw_devices, draw_edges, draw_spaces};

use crate::random::Choices;
use crate::reduction::Reduction;

/// One virtual second, in the unit of all times here.
pub(crate) const SECOND_US: u64 = 1_000_000;
/// One virtual millisecond.
pub(crate) const MILLISECOND_US: u64 = 1_000;

/// One seed in so many is free of faults, so that the checks themselves are seen to hold.
const FAULT_FREE_EVERY: u64 = 5;
/// Ten years in milliseconds: how far a wrong clock may be off in both directions.
const SKEW_MS_MAX: u64 = 10 * 365 * 24 * 3600 * 1000;
/// Most governing acts in one run.
const GOVERNING_ACTS_MAX: u64 = 4;
/// Their indices begin where no other action's are.
const GOVERNING_INDEX: u64 = 1 << 32;
/// Longer than any run.
const NEVER_MS: u64 = 1 << 40;
/// The seeds of large runs, of at least [`LARGE_OPERATIONS`] operations each.
pub const LARGE_SEEDS: std::ops::Range<u64> = 1_000_000..1_000_020;
/// How many operations a large run has at least.
pub const LARGE_OPERATIONS: u64 = 100_000;
/// Bulks of writing in a large run, and transactions in each.
const LARGE_BULKS: u64 = 1700;
/// Transactions of one bulk in a large run.
pub(crate) const LARGE_BULK_WRITES: u64 = 150;

/// Something that somebody does.
#[derive(Debug, Clone)]
pub(crate) struct PlannedAction {
    /// Its place among all actions: the index of its stream.
    pub(crate) index: u64,
    /// When.
    pub(crate) at_us: u64,
    /// Where.
    pub(crate) device: usize,
    /// In which space.
    pub(crate) space: usize,
    /// What.
    pub(crate) kind: ActionKind,
}

/// What somebody does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names say it")]
pub(crate) enum ActionKind {
    WriteOwn,
    WriteShared,
    WritePair,
    Add,
    Burst,
    Revise,
    DeleteOwn,
    Splice,
    Bulk,
    /// Several small documents at once.
    Fill(u64),
    Watch,
    Read,
    ReadOwnWrite,
    /// The steward begins an epoch.
    Rotate,
    /// The steward removes this device.
    Remove(usize),
    /// The steward makes this device a reader.
    Demote(usize),
    /// The steward makes this device the steward.
    HandOver(usize),
    /// This device becomes the steward with the recovery key.
    TakeOver(usize),
}

impl ActionKind {
    /// The device that it concerns beside the one that does it.
    fn target(self) -> Option<usize> {
        match self {
            Self::Remove(target) | Self::Demote(target) | Self::HandOver(target) | Self::TakeOver(target) => {
                Some(target)
            }
            _ => None,
        }
    }
}

/// Everything that a seed decides before the run begins.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// What is left out.
    pub(crate) reduction: Reduction,
    /// The devices.
    pub(crate) devices: Vec<DevicePlan>,
    /// The spaces.
    pub(crate) spaces: Vec<SpacePlan>,
    /// Pairs of devices that connect, the smaller number first.
    pub(crate) edges: Vec<(usize, usize)>,
    /// How long people write and faults happen; then everything heals.
    pub(crate) horizon_us: u64,
    /// Shortest and longest way of a message.
    pub(crate) latency_us: (u64, u64),
    /// Bytes per second of each connection and direction, if that is limited.
    pub(crate) bandwidth: Option<u64>,
    /// Shortest and longest time of a job on a worker.
    pub(crate) job_us: (u64, u64),
    /// Longest time that messages gather before a step.
    pub(crate) step_us_max: u64,
    /// Bytes after which a log begins a new segment.
    pub(crate) segment_bytes: u32,
    /// Bytes of the disk that stay free.
    pub(crate) reserve_bytes: u64,
    /// The unit in which a disk keeps or loses what was not synced.
    pub(crate) sector_bytes: usize,
    /// Bytes of documents kept in memory.
    pub(crate) cache_bytes: usize,
    /// When peers compare vectors, how long they wait, and what counts as large.
    pub(crate) engine: Config,
    /// After how long devices witness what others wrote.
    pub(crate) witness_after_ms: u64,
    /// Whether very large values are written, for which documents are worked on elsewhere.
    pub(crate) large_values: bool,
    /// Whether all devices lose power and start once more before the last look.
    pub(crate) restart_at_end: bool,
    /// What goes wrong all the time.
    pub(crate) ambient: Ambient,
    /// What goes wrong once.
    pub(crate) faults: Vec<PlannedFault>,
    /// What people do.
    pub(crate) actions: Vec<PlannedAction>,
}

impl Plan {
    /// The plan of a seed, without what is left out.
    pub fn draw(seed: u64, reduction: &Reduction) -> Self {
        let mut choices = Choices::new(seed, "plan", 0);
        let large = LARGE_SEEDS.contains(&seed);
        let calm = seed.is_multiple_of(FAULT_FREE_EVERY);
        let count = match choices.below(100) {
            _ if large => choices.between(2, 4),
            0..60 => choices.between(2, 4),
            60..90 => choices.between(5, 8),
            90..98 => choices.between(9, 14),
            _ => choices.between(15, 30),
        } as usize;
        let horizon_us = if large { 120 } else { choices.between(10, 60) } * SECOND_US;
        let devices = draw_devices(seed, count, calm || large);
        let spaces = draw_spaces(seed, &mut choices, &devices, horizon_us, reduction);
        let edges = draw_edges(seed, &mut choices, &devices, &spaces, reduction);
        let slowest = choices.pick(&[2, 20, 200, 900]) * MILLISECOND_US;
        let mut plan = Self {
            seed,
            reduction: reduction.clone(),
            edges,
            horizon_us,
            latency_us: (MILLISECOND_US / 2, slowest),
            bandwidth: [None, None, Some(60_000), Some(1_000_000)][choices.below(4) as usize].filter(|_| !large),
            job_us: (MILLISECOND_US, choices.pick(&[2, 50, 3000]) * MILLISECOND_US),
            step_us_max: choices.pick(&[1, 10, 100]) * MILLISECOND_US,
            segment_bytes: choices.pick(&[4 << 10, 32 << 10, 64 << 20]),
            reserve_bytes: choices.pick(&[64 << 10, 64 << 20]),
            sector_bytes: choices.pick(&[512, 4096]),
            cache_bytes: choices.pick(&[0, 4 << 10, 64 << 20]),
            engine: draw_engine(seed, &mut choices, calm),
            witness_after_ms: Choices::new(seed, "witness", 0).pick(&[2_000, 20_000, NEVER_MS]),
            large_values: choices.chance(6),
            restart_at_end: choices.chance(25),
            ambient: if calm { Ambient::default() } else { draw_ambient(seed, reduction) },
            faults: if calm { Vec::new() } else { draw_faults(seed, count, horizon_us, large, reduction) },
            actions: Vec::new(),
            devices,
            spaces,
        };
        if plan.bandwidth.is_some() {
            // What takes longer than a request may take does not arrive at all.
            (plan.engine.request_timeout_ms, plan.large_values) = (30_000, false);
        }
        if large {
            (plan.segment_bytes, plan.cache_bytes, plan.large_values) = (4 << 20, 64 << 20, false);
            plan.latency_us.1 = plan.latency_us.1.min(20 * MILLISECOND_US);
            plan.job_us = (MILLISECOND_US / 10, MILLISECOND_US);
            plan.step_us_max = plan.step_us_max.min(10 * MILLISECOND_US);
            plan.engine = Config { anti_entropy_ms: plan.engine.anti_entropy_ms.min(10_000), ..Config::default() };
        }
        let actions = if large { LARGE_BULKS } else { choices.between(30, 60) + 20 * count as u64 };
        plan.actions = (0..actions).filter_map(|index| plan.draw_action(index, large)).collect();
        let acts = (0..GOVERNING_ACTS_MAX).filter_map(|index| plan.draw_governing(index));
        plan.actions.extend(acts.collect::<Vec<_>>());
        plan.actions.retain(|action| {
            let members = &plan.spaces[action.space].members;
            !reduction.actions.contains(&action.index)
                && members.contains_key(&action.device)
                && action.kind.target().is_none_or(|target| members.contains_key(&target))
                && plan.devices[action.device].liar.is_none()
        });
        plan.connect_around_removed();
        plan
    }

    /// Whoever was connected with somebody who may be removed is connected with one who stays, as people see to it.
    fn connect_around_removed(&mut self) {
        for (number, space) in self.spaces.iter().enumerate() {
            let stays = self.last_steward(number);
            let gone: Vec<usize> =
                space.members.keys().copied().filter(|device| self.may_be_removed(number, *device)).collect();
            let beside = |a: &usize| gone.iter().any(|b| self.edges.contains(&(*a.min(b), *a.max(b))));
            let left = space.members.keys().copied().filter(|device| *device != stays && beside(device));
            let added: Vec<(usize, usize)> = left.map(|device| (device.min(stays), device.max(stays))).collect();
            for edge in added {
                if !self.edges.contains(&edge) {
                    self.edges.push(edge);
                }
            }
        }
    }

    /// Who is the steward of a space when all governing is done, and never removed.
    pub(crate) fn last_steward(&self, space: usize) -> usize {
        let taker = self.actions.iter().find_map(|action| match action.kind {
            ActionKind::TakeOver(taker) if action.space == space && self.may_take_over(space, taker) => Some(taker),
            _ => None,
        });
        taker.unwrap_or(self.spaces[space].steward)
    }

    fn may_take_over(&self, space: usize, device: usize) -> bool {
        self.spaces[space].role(device) == Some(Role::Writer) && !self.lies(device)
    }

    /// Whether a device may be removed from a space in the course of the run.
    pub(crate) fn may_be_removed(&self, space: usize, device: usize) -> bool {
        let steward = self.spaces[space].steward;
        let acts = || self.actions.iter().filter(|action| action.space == space).map(|action| action.kind);
        let is_taken_over = self.last_steward(space) != steward;
        device != self.last_steward(space)
            && acts().any(|kind| match kind {
                ActionKind::Remove(target) => target == device,
                ActionKind::HandOver(target) => is_taken_over && target == device,
                ActionKind::TakeOver(_) => is_taken_over && device == steward,
                _ => false,
            })
    }

    /// Whether nothing goes wrong in this run.
    pub(crate) fn is_calm(&self) -> bool {
        self.seed.is_multiple_of(FAULT_FREE_EVERY)
    }

    /// None where a stranger would do it, who is in no space.
    fn draw_action(&self, index: u64, large: bool) -> Option<PlannedAction> {
        let mut choices = Choices::new(self.seed, "action planned", index);
        let at_us = choices.below(self.horizon_us);
        let device = choices.below(self.devices.len() as u64) as usize;
        let spaces: Vec<usize> = self.spaces_drawn_for(device);
        if spaces.is_empty() {
            return None;
        }
        let space = choices.pick(&spaces);
        // Not everybody may write; a steward always may.
        let device = if large && choices.chance(50) { self.spaces[space].steward } else { device };
        let kind = match choices.below(100) {
            0..90 if large => ActionKind::Bulk,
            0..16 => ActionKind::WriteOwn,
            16..30 => ActionKind::WriteShared,
            30..38 => ActionKind::WritePair,
            38..46 => ActionKind::Add,
            46..50 => ActionKind::Burst,
            50..53 => ActionKind::Revise,
            53..58 => ActionKind::DeleteOwn,
            58..70 => ActionKind::Splice,
            70..74 => ActionKind::Watch,
            74..84 => ActionKind::ReadOwnWrite,
            _ => ActionKind::Read,
        };
        Some(PlannedAction { index, at_us, device, space, kind })
    }

    /// What the steward of a space does for it, in one run of three.
    fn draw_governing(&self, number: u64) -> Option<PlannedAction> {
        let mut choices = Choices::new(self.seed, "governing", number);
        let governed = Choices::new(self.seed, "governed", 0).below(3) == 0 && choices.chance(60);
        let space = choices.below(self.spaces.len() as u64) as usize;
        let at_us = choices.below(self.horizon_us);
        let kind = choices.below(100);
        let (index, device) = (GOVERNING_INDEX + number, self.spaces[space].steward);
        let others: Vec<usize> = self.spaces[space].drawn.iter().copied().filter(|other| *other != device).collect();
        if !governed || others.is_empty() {
            return None;
        }
        let target = choices.pick(&others);
        let kind = match kind {
            0..30 => ActionKind::Rotate,
            30..70 => ActionKind::Remove(target),
            70..83 => ActionKind::Demote(target),
            83..92 => ActionKind::HandOver(target),
            _ => ActionKind::TakeOver(target),
        };
        Some(PlannedAction { index, at_us, device, space, kind })
    }

    /// The spaces that a device would be in if nothing were left out.
    fn spaces_drawn_for(&self, device: usize) -> Vec<usize> {
        (0..self.spaces.len()).filter(|space| self.spaces[*space].drawn.contains(&device)).collect()
    }

    /// Whether a device takes part.
    pub(crate) fn is_present(&self, device: usize) -> bool {
        self.spaces.iter().any(|space| space.members.contains_key(&device)) || self.is_stranger(device)
    }

    /// Whether a device is in no space and only troubles others.
    pub(crate) fn is_stranger(&self, device: usize) -> bool {
        let left_out = self.reduction.devices.contains(&(device as u64));
        self.devices[device].liar == Some(LiarKind::Stranger) && !left_out
    }

    /// Whether a device says what is not so.
    pub(crate) fn lies(&self, device: usize) -> bool {
        self.devices[device].liar.is_some()
    }

    /// Devices that take part.
    pub fn present(&self) -> BTreeSet<usize> {
        (0..self.devices.len()).filter(|device| self.is_present(*device)).collect()
    }

    /// Whether this is one of the large runs.
    pub(crate) fn is_large(&self) -> bool {
        LARGE_SEEDS.contains(&self.seed)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |us: u64| us / MILLISECOND_US;
        writeln!(f, "plan of seed {}{}", self.seed, self.reduction)?;
        writeln!(
            f,
            "  until {} ms, latency {:?} us, bandwidth {:?}",
            ms(self.horizon_us),
            self.latency_us,
            self.bandwidth
        )?;
        writeln!(
            f,
            "  jobs {:?} us, steps gather {} us, segments {} bytes, reserve {}, sectors {}, cache {}",
            self.job_us, self.step_us_max, self.segment_bytes, self.reserve_bytes, self.sector_bytes, self.cache_bytes
        )?;
        writeln!(
            f,
            "  {:?}, large values {}, restart at the end {}",
            self.engine, self.large_values, self.restart_at_end
        )?;
        writeln!(f, "  all the time: {:?}", self.ambient)?;
        for device in self.present() {
            let DevicePlan { skew_ms, liar } = &self.devices[device];
            let connected: Vec<usize> =
                self.edges.iter().filter(|(a, b)| *a == device || *b == device).map(|(a, b)| a + b - device).collect();
            writeln!(f, "  device #{device}: clock {skew_ms} ms off, connects to {connected:?}, liar {liar:?}")?;
        }
        for (number, space) in self.spaces.iter().enumerate() {
            writeln!(f, "  space {number}: {:?}, own tickets {}", space.strings, space.own_tickets)?;
            for (device, member) in &space.members {
                writeln!(f, "    #{device} {} from {} ms on", member.role.name(), ms(member.joins_us))?;
            }
        }
        for PlannedFault { index, at_us, kind, device } in &self.faults {
            writeln!(f, "  fault {index} at {} ms: {kind:?} (#{device})", ms(*at_us))?;
        }
        if self.is_large() {
            return writeln!(f, "  {} actions", self.actions.len());
        }
        for PlannedAction { index, at_us, device, space, kind } in &self.actions {
            writeln!(f, "  action {index} at {} ms: {kind:?} at #{device} in space {space}", ms(*at_us))?;
        }
        Ok(())
    }
}

/// When engines compare, how long they wait, and what they take for large: mostly little, so that it is met often.
fn draw_engine(seed: u64, choices: &mut Choices, calm: bool) -> Config {
    let (anti_entropy_ms, request_timeout_ms) = (choices.pick(&[1_000, 10_000]), choices.pick(&[2_000, 30_000]));
    let mut choices = Choices::new(seed, "engine", 0);
    // Where nothing is lost, nobody has to compare.
    let anti_entropy_ms = if calm && choices.chance(50) { NEVER_MS } else { anti_entropy_ms };
    Config {
        anti_entropy_ms,
        request_timeout_ms,
        page_bytes_max: choices.pick(&[PAGE_BYTES_MIN, PAGE_BYTES_MAX]),
        gossip_inline_bytes: choices.pick(&[300, 1_000, GOSSIP_INLINE_BYTES_MAX]),
        summary_authors_few: choices.pick(&[0, 2, SUMMARY_AUTHORS_FEW]),
    }
}

/// A clock error of up to ten years.
pub(crate) fn draw_skew(choices: &mut Choices) -> i64 {
    choices.between(0, 2 * SKEW_MS_MAX) as i64 - SKEW_MS_MAX as i64
}
