//! What one run is like: who takes part, how the network and the disks behave, what goes wrong.

use syncline_model::{Role, Strings};

use crate::random::Choices;

/// One virtual second, in the unit of all times here.
pub(crate) const SECOND_US: u64 = 1_000_000;
/// One virtual millisecond.
pub(crate) const MILLISECOND_US: u64 = 1_000;

/// One seed in so many is free of faults, so that the checks themselves are seen to hold.
const FAULT_FREE_EVERY: u64 = 5;
/// Ten years in milliseconds: how far a wrong clock may be off in both directions.
const SKEW_MS_MAX: u64 = 10 * 365 * 24 * 3600 * 1000;

/// Everything that a seed decides before the run begins.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// What each device is to be; the first founds the space.
    pub roles: Vec<Role>,
    /// Pairs of devices that connect, the smaller number first.
    pub edges: Vec<(usize, usize)>,
    /// How strings are stored in the space.
    pub strings: Strings,
    /// How long people write and faults happen; then everything heals.
    pub horizon_us: u64,
    /// When each device takes its ticket; zero for the founder.
    pub joins_us: Vec<u64>,
    /// Whether each joining device gets a ticket of its own, for one use.
    pub own_tickets: bool,
    /// How many things people do.
    pub actions: u64,
    /// Shortest and longest way of a message.
    pub latency_us: (u64, u64),
    /// Shortest and longest time of a job on a worker.
    pub job_us: (u64, u64),
    /// Longest time that messages gather before a step.
    pub step_us_max: u64,
    /// How far each device's wall clock is off, in ms.
    pub skews_ms: Vec<i64>,
    /// Bytes after which the log begins a new segment.
    pub segment_bytes: u32,
    /// Bytes of documents kept in memory.
    pub cache_bytes: usize,
    /// How often peers compare vectors.
    pub anti_entropy_ms: u64,
    /// How long the engine waits for an answer.
    pub request_timeout_ms: u64,
    /// Whether very large values are written, for which documents are worked on elsewhere.
    pub large_values: bool,
    /// Whether all devices lose power and start once more before the last look.
    pub restart_at_end: bool,
    /// What goes wrong.
    pub faults: Faults,
}

/// What goes wrong, and how often.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Gossip frames lost, in percent.
    pub gossip_loss: u64,
    /// Gossip frames that arrive twice, in percent.
    pub gossip_duplication: u64,
    /// Requests or answers lost, in percent.
    pub request_loss: u64,
    /// Messages that take ten times as long, in percent.
    pub stragglers: u64,
    /// How often the network parts.
    pub partitions: u64,
    /// Whether partitions may lose one direction only.
    pub asymmetric: bool,
    /// How often a connection is cut.
    pub cuts: u64,
    /// How often a device stops.
    pub crashes: u64,
    /// Whether devices are stopped inside of disk calls.
    pub kills: bool,
    /// Whether disk calls fail.
    pub disk_errors: bool,
    /// Whether an index is lost as a whole.
    pub index_losses: bool,
    /// How often a wall clock is set to something else.
    pub clock_jumps: u64,
}

impl Plan {
    /// The plan of a seed.
    pub fn draw(seed: u64) -> Self {
        let mut choices = Choices::new(seed, "plan");
        let count = choices.pick(&[2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 6, 8]);
        let roles = draw_roles(&mut choices, count);
        let edges = draw_edges(&mut choices, &roles);
        let horizon_us = choices.between(5, 40) * SECOND_US;
        let late = choices.chance(40);
        let join = |choices: &mut Choices, number: usize| match number {
            0 => 0,
            _ if late && choices.chance(50) => choices.between(0, horizon_us * 9 / 10),
            _ => choices.between(0, SECOND_US),
        };
        let joins_us = (0..count).map(|number| join(&mut choices, number)).collect();
        let faults = if seed.is_multiple_of(FAULT_FREE_EVERY) { Faults::default() } else { draw_faults(&mut choices) };
        let wrong_clocks = !seed.is_multiple_of(FAULT_FREE_EVERY) && choices.chance(50);
        let skews_ms = (0..count).map(|_| if wrong_clocks { draw_skew(&mut choices) } else { 0 }).collect();
        let slowest = choices.pick(&[2, 20, 200, 900]) * MILLISECOND_US;
        Self {
            seed,
            roles,
            edges,
            strings: if choices.chance(50) { Strings::Scalar } else { Strings::Text },
            horizon_us,
            joins_us,
            own_tickets: choices.chance(50),
            actions: choices.between(15, 45),
            latency_us: (MILLISECOND_US / 2, slowest),
            job_us: (MILLISECOND_US, choices.pick(&[2, 50, 3000]) * MILLISECOND_US),
            step_us_max: choices.pick(&[1, 10, 100]) * MILLISECOND_US,
            skews_ms,
            segment_bytes: choices.pick(&[4 << 10, 32 << 10, 64 << 20]),
            cache_bytes: choices.pick(&[0, 4 << 10, 64 << 20]),
            anti_entropy_ms: choices.pick(&[1_000, 10_000]),
            request_timeout_ms: choices.pick(&[2_000, 30_000]),
            large_values: choices.chance(6),
            restart_at_end: choices.chance(25),
            faults,
        }
    }

    /// Whether nothing goes wrong in this run.
    pub fn is_fault_free(&self) -> bool {
        self.seed.is_multiple_of(FAULT_FREE_EVERY)
    }
}

/// A clock error of up to ten years.
pub(crate) fn draw_skew(choices: &mut Choices) -> i64 {
    choices.between(0, 2 * SKEW_MS_MAX) as i64 - SKEW_MS_MAX as i64
}

fn draw_roles(choices: &mut Choices, count: usize) -> Vec<Role> {
    let role = |choices: &mut Choices, number: usize| match number {
        0 => Role::Steward,
        _ => match choices.below(10) {
            0 | 1 => Role::Reader,
            2 | 3 => Role::Relay,
            _ => Role::Writer,
        },
    };
    (0..count).map(|number| role(choices, number)).collect()
}

/// Everybody with everybody, or a random tree with some more edges.
///
/// Every device is connected to one that may admit it: joining needs a writer within reach.
fn draw_edges(choices: &mut Choices, roles: &[Role]) -> Vec<(usize, usize)> {
    let pairs = (0..roles.len()).flat_map(|b| (0..b).map(move |a| (a, b)));
    if choices.chance(50) {
        return pairs.collect();
    }
    let writers = |below: usize| (0..below).filter(|number| roles[*number].writes()).collect::<Vec<_>>();
    let tree: Vec<(usize, usize)> = (1..roles.len()).map(|b| (choices.pick(&writers(b)), b)).collect();
    pairs.filter(|pair| tree.contains(pair) || choices.chance(15)).collect()
}

fn draw_faults(choices: &mut Choices) -> Faults {
    // Each kind is off in half of the seeds, so that no kind always hides another.
    let mut often = |values: &[u64]| if choices.chance(50) { choices.pick(values) } else { 0 };
    let (gossip_loss, gossip_duplication) = (often(&[5, 30, 100]), often(&[5, 30]));
    let (request_loss, stragglers) = (often(&[2, 10, 30]), often(&[5, 30]));
    let (partitions, cuts, crashes) = (often(&[1, 2, 4]), often(&[1, 5, 15]), often(&[1, 2, 6]));
    let clock_jumps = often(&[1, 3]);
    Faults {
        gossip_loss,
        gossip_duplication,
        request_loss,
        stragglers,
        partitions,
        asymmetric: choices.chance(50),
        cuts,
        crashes,
        kills: choices.chance(50),
        disk_errors: choices.chance(50),
        index_losses: choices.chance(50),
        clock_jumps,
    }
}
