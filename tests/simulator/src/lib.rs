//! Whole devices under a simulated network, disk and clock: each run is a function of one seed.
//!
//! A run founds one to three spaces, invites devices with any role to them, lets people write and read at all of them
//! while the network parts, messages get lost, disks fail, devices stop inside of disk calls, liars lie, and stewards
//! remove members, hand over and are replaced; then everything heals, and all members must agree on the same operations
//! and documents, with everything in them that was ever acknowledged and that no record cut.
//!
//! The replicas, their logs and documents are the real ones. Simulated are the disk and the index (from the storage
//! crate), the clocks, the network, the workers, and the few things that a node does around its replicas: the hello,
//! the search for a sponsor, and gossip's flooding.
//!
//! `plan` draws what a run is like, `reduction` says what of it is left out, `world` is its queue of events, `device`,
//! `running` and `hosted` are one device and its replicas, `message` what they are told and want, `network`, `faults`,
//! `damage` and `liar` what lies between them and goes wrong, `actions` who writes and reads, `governing` what stewards
//! decide, `answers` what people are told, `ledger` and `texts` what must follow from that, `checks` what must hold,
//! and `shrink` how a failure is told in its shortest form.

mod actions;
mod answers;
mod checks;
mod damage;
mod device;
mod faults;
mod governing;
mod happening;
mod hosted;
mod ledger;
mod liar;
mod message;
mod network;
mod plan;
mod random;
mod reduction;
mod running;
mod shrink;
mod streams;
mod texts;
mod trace;
mod world;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

pub use governing::Revoked;
pub use happening::{Coverage, Happening};
pub use plan::{LARGE_OPERATIONS, LARGE_SEEDS, Plan, REMOVAL_MEMBERS_MAX, REMOVAL_MEMBERS_MIN};
pub use reduction::Reduction;
pub use shrink::{SHRINK_RUNS_LARGE_MAX, SHRINK_RUNS_MAX, shrink};
pub use trace::{Detail, TAIL_LINES};
pub use world::AGREEMENT_US_MAX;

use world::World;

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// What was left out.
    pub reduction: Reduction,
    /// What was violated, if anything was.
    pub violation: Option<String>,
    /// Over all that happened: the same for every run of the seed.
    pub hash: String,
    /// How often each kind of thing happened.
    pub coverage: Coverage,
    /// The trace, as far as it was wanted.
    pub lines: Vec<String>,
    /// Lines of the trace before those that were not kept.
    pub dropped: u64,
    /// Virtual time that passed, in microseconds.
    pub virtual_us: u64,
    /// The longest virtual time from everything having healed to agreement, in microseconds.
    pub agreed_after_us: u64,
    /// How the removals went.
    pub revoked: Vec<Revoked>,
    /// Operations that all devices hold at the end, once each.
    pub operations: u64,
    /// Transactions that were acknowledged.
    pub acknowledged: u64,
    /// Devices that took part.
    pub devices: usize,
}

/// Runs a seed, without what is left out.
pub fn run(seed: u64, reduction: &Reduction, detail: Detail) -> Outcome {
    run_plan(Plan::draw(seed, reduction), detail)
}

/// Runs what was planned.
pub fn run_plan(plan: Plan, detail: Detail) -> Outcome {
    let (seed, reduction) = (plan.seed, plan.reduction.clone());
    let devices = plan.present().len();
    let mut world = World::new(plan, detail);
    let ended = catch_unwind(AssertUnwindSafe(|| world.run()));
    let violation = match ended {
        Ok(Ok(())) => None,
        Ok(Err(violation)) => Some(violation.0),
        Err(_) => Some(format!("a panic: {}", last_panic())),
    };
    let (virtual_us, agreed_after_us, operations) = (world.now_us, world.agreed_after_us, world.operations());
    let acknowledged = world.ledgers.iter().map(ledger::Ledger::acknowledged).sum();
    let revoked = std::mem::take(&mut world.revoked);
    let (hash, coverage, lines, dropped) = world.into_trace().finish();
    Outcome {
        seed,
        reduction,
        violation,
        hash,
        coverage,
        lines,
        dropped,
        virtual_us,
        agreed_after_us,
        revoked,
        operations,
        acknowledged,
        devices,
    }
}

thread_local! {
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Keeps what panics say to be told as a violation, instead of printing it.
pub fn keep_panics() {
    std::panic::set_hook(Box::new(|info| {
        let text = info.to_string();
        // A panic while a thread ends has nobody to tell it to.
        let _ended = LAST_PANIC.try_with(|last| last.replace(text));
    }));
}

fn last_panic() -> String {
    LAST_PANIC.with(|last| last.take())
}
