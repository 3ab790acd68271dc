//! Whole replicas under a simulated network, disk and clock: each run is a function of one seed.
//!
//! A run founds a space at one device, invites the others with any role, lets people write and read at all of them
//! while the network parts, messages get lost and devices stop inside of disk calls; then everything heals, and all
//! devices must agree on the same operations and documents, with everything in them that was ever acknowledged.
//!
//! The replicas, their logs and documents are the real ones. Simulated are the disk and the index (from the storage
//! crate), the clocks, the network, the workers, and the few things that a node does around its replicas: the hello,
//! the search for a sponsor, and gossip's flooding.
//!
//! `plan` draws what a run is like, `world` is its queue of events, `device` and `running` one device,
//! `network` and `faults` what lies between them and goes wrong, `people` who writes and reads, `ledger` what they
//! were told, and `checks` what must hold.

mod checks;
mod device;
mod faults;
mod happening;
mod ledger;
mod network;
mod people;
mod plan;
mod random;
mod running;
mod trace;
mod world;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

pub use happening::{Coverage, Happening};
pub use plan::{Faults, Plan};
pub use trace::{Detail, TAIL_LINES};

use world::World;

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
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
    /// Operations that all devices hold at the end, once each.
    pub operations: u64,
    /// Devices that took part.
    pub devices: usize,
}

/// Runs a seed.
pub fn run(seed: u64, detail: Detail) -> Outcome {
    let plan = Plan::draw(seed);
    let devices = plan.roles.len();
    let mut world = World::new(plan, detail);
    let ended = catch_unwind(AssertUnwindSafe(|| world.run()));
    let violation = match ended {
        Ok(Ok(())) => None,
        Ok(Err(violation)) => Some(violation.0),
        Err(_) => Some(format!("a panic: {}", last_panic())),
    };
    let (virtual_us, operations) = (world.now_us, world.operations());
    let (hash, coverage, lines, dropped) = world.into_trace().finish();
    Outcome { seed, violation, hash, coverage, lines, dropped, virtual_us, operations, devices }
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
