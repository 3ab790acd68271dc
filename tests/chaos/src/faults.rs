//! What goes wrong, and when: drawn from the seed. Each source of faults is a task with choices of its own.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::failure::Failure;
use crate::node::{Process, Started};
use crate::random::{Choices, Purpose};
use crate::stage::SmallDisk;
use crate::world::{Phase, World};

/// How long a node lives between two faults.
const LIFE_MS: (u64, u64) = (300, 6000);
/// How long a killed or ended node stays away.
const AWAY_MS: (u64, u64) = (0, 500);
/// How long a node is stopped.
const PAUSE_MS: (u64, u64) = (300, 5000);
/// How soon after its start a node is killed that is killed while it starts.
const STARTING_MS: (u64, u64) = (1, 60);
/// The pause between two looks at a living process.
const LOOK: Duration = Duration::from_millis(50);
/// The pause before a node that did not start is started again.
const START_AGAIN: Duration = Duration::from_millis(300);
/// Starts in a row that may fail, while the disk is full.
const FAILED_STARTS_MAX: u32 = 200;

/// The pause between two partitions, and how long they last: shorter than peers need to give each other up.
const CALM_MS: (u64, u64) = (500, 4000);
const PARTITION_MS: (u64, u64) = (500, 8000);
/// How long links are slow, how long every chunk waits then, and how large it may be.
const SLOW_MS: (u64, u64) = (1000, 6000);
const SLOW_DELAY_MS: (u64, u64) = (2, 80);
const SLOW_CHUNK: (u64, u64) = (256, 16 << 10);

/// The pause between two times of a full disk, and how long it stays full.
const ROOM_MS: (u64, u64) = (6000, 16_000);
const FULL_MS: (u64, u64) = (1000, 6000);
/// How much is left then, in KiB: next to nothing, so that a write fails half way; less than the reserve that nodes
/// keep; more than that, but too little to take anything in.
const LEFT_KIB: [u64; 3] = [64, 40 << 10, 100 << 10];
/// The reserve that nodes keep. When it is taken from them all at once, they may end; otherwise they only refuse.
const RESERVE_KIB: u64 = 64 << 10;
/// For so long after the disk has room again, a node may still end of it.
const AFTERMATH: Duration = Duration::from_secs(5);

/// What happens to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ProcessFault {
    Kill {
        away: Duration,
    },
    /// Killed, and once more while it starts again.
    KillStarting {
        away: Duration,
        after: Duration,
    },
    Pause {
        lasts: Duration,
    },
    Restart {
        away: Duration,
    },
}

fn duration(choices: &mut Choices, (low, high): (u64, u64)) -> Duration {
    Duration::from_millis(choices.between(low, high))
}

fn draw(choices: &mut Choices) -> (Duration, ProcessFault) {
    let life = duration(choices, LIFE_MS);
    let away = duration(choices, AWAY_MS);
    let fault = match choices.below(100) {
        0..70 => ProcessFault::Kill { away },
        70..80 => ProcessFault::KillStarting { away, after: duration(choices, STARTING_MS) },
        80..92 => ProcessFault::Pause { lasts: duration(choices, PAUSE_MS) },
        _ => ProcessFault::Restart { away },
    };
    (life, fault)
}

/// Does to one node what is drawn for it until the run heals; gives the process back, as it then is.
pub(crate) async fn torment(world: Arc<World>, mut process: Process) -> Result<Process, Failure> {
    let mut choices = Choices::new(world.seed, Purpose::Process(process.node.number));
    loop {
        let (life, fault) = draw(&mut choices);
        if live(&world, &mut process, life).await? {
            return Ok(process);
        }
        match fault {
            ProcessFault::Kill { away } => kill(&world, &mut process, away).await,
            ProcessFault::KillStarting { away, after } => {
                kill(&world, &mut process, away).await;
                process.spawn()?;
                tokio::time::sleep(after).await;
                if process.kill().await {
                    world.counts.kills.one();
                    world.counts.kills_starting.one();
                }
            }
            ProcessFault::Pause { lasts } => {
                process.pause(true).await;
                world.sleep_unless(Phase::Healing, lasts).await;
                process.pause(false).await;
                world.counts.pauses.one();
                continue;
            }
            ProcessFault::Restart { away } => {
                end(&world, &mut process).await;
                tokio::time::sleep(away).await;
                world.counts.restarts.one();
            }
        }
        start(&world, &mut process).await?;
    }
}

async fn kill(world: &World, process: &mut Process, away: Duration) {
    if process.kill().await {
        world.counts.kills.one();
    }
    tokio::time::sleep(away).await;
}

/// Ends a node cleanly; to end otherwise than with success is a violation.
pub(crate) async fn end(world: &World, process: &mut Process) {
    let squeezed = process.node.squeezed.load(Ordering::SeqCst);
    let status = process.end().await;
    let clean = status.is_some_and(|status| status.success());
    if !clean && !squeezed && !process.node.squeezed.load(Ordering::SeqCst) {
        let how = status.map_or_else(|| "it hung".to_owned(), |status| status.to_string());
        world.violated(format!("{} did not end cleanly on SIGTERM: {how}", process.node.name()));
    }
}

/// Lets a node live, and starts it again if it ends by itself; tells whether the run heals.
async fn live(world: &World, process: &mut Process, life: Duration) -> Result<bool, Failure> {
    let end = tokio::time::Instant::now() + life;
    loop {
        revive(world, process).await?;
        let left = end.saturating_duration_since(tokio::time::Instant::now());
        // While its disk may still be full, somebody has to look after the node.
        let squeezed = process.node.squeezed.load(Ordering::SeqCst);
        if world.sleep_unless(Phase::Healing, left.min(LOOK)).await {
            if !squeezed {
                return Ok(true);
            }
            tokio::time::sleep(LOOK).await;
            continue;
        }
        if left.is_zero() {
            return Ok(false);
        }
    }
}

/// Starts a node that ended by itself.
async fn revive(world: &World, process: &mut Process) -> Result<(), Failure> {
    if let Some(status) = process.ended() {
        ended_by_itself(world, process, &status.to_string());
        start(world, process).await?;
    }
    Ok(())
}

fn ended_by_itself(world: &World, process: &Process, status: &str) {
    if process.node.squeezed.load(Ordering::SeqCst) {
        world.counts.ended_full.one();
    } else {
        world.violated(format!("{} ended by itself: {status}", process.node.name()));
    }
}

/// Starts a node; only while its disk is full may that fail, and is tried again.
pub(crate) async fn start(world: &World, process: &mut Process) -> Result<(), Failure> {
    for _ in 0..FAILED_STARTS_MAX {
        match process.start().await? {
            Started::Ready => return Ok(()),
            Started::Ended(status) => ended_by_itself(world, process, &format!("{status}, before it was ready")),
        }
        tokio::time::sleep(START_AGAIN).await;
    }
    Err(Failure::Setup(format!("{} does not start: see its log", process.node.name())))
}

/// Parts the nodes into two sides, in both directions or in one, again and again.
pub(crate) async fn part(world: Arc<World>) {
    let mut choices = Choices::new(world.seed, Purpose::Partitions);
    let count = world.nodes.len();
    while !world.sleep_unless(Phase::Healing, duration(&mut choices, CALM_MS)).await {
        // Neither nobody nor everybody.
        let side = choices.between(1, (1 << count) - 2);
        let both = choices.chance(50);
        let within = |node: usize| side >> node & 1 == 1;
        let hold = |held: bool| {
            for from in 0..count {
                for to in (0..count).filter(|to| within(from) != within(*to) && (both || within(from))) {
                    world.proxy.hold(from, to, held);
                }
            }
        };
        hold(true);
        (if both { &world.counts.partitions } else { &world.counts.half_partitions }).one();
        world.sleep_unless(Phase::Healing, duration(&mut choices, PARTITION_MS)).await;
        // Some partitions end with connections that are gone instead of merely late.
        if choices.chance(40) {
            for from in 0..count {
                (0..count).filter(|to| within(from) && !within(*to)).for_each(|to| world.proxy.cut(from, to));
            }
        }
        hold(false);
    }
}

/// Makes links slow and closes connections in their middle, again and again.
pub(crate) async fn strain(world: Arc<World>) {
    let mut choices = Choices::new(world.seed, Purpose::Links);
    let count = world.nodes.len();
    while !world.sleep_unless(Phase::Healing, duration(&mut choices, CALM_MS)).await {
        let node = choices.below(count as u64) as usize;
        if choices.chance(50) {
            let other = (node + 1 + choices.below(count as u64 - 1) as usize) % count;
            world.proxy.cut(node, other);
            world.counts.cuts.one();
            continue;
        }
        let (delay, chunk) = (duration(&mut choices, SLOW_DELAY_MS), choices.between(SLOW_CHUNK.0, SLOW_CHUNK.1));
        let slow = |delay: Duration, chunk: u64| {
            for other in (0..count).filter(|other| *other != node) {
                world.proxy.slow(node, other, delay, chunk as usize);
                world.proxy.slow(other, node, delay, chunk as usize);
            }
        };
        slow(delay, chunk);
        world.counts.slow_links.one();
        world.sleep_unless(Phase::Healing, duration(&mut choices, SLOW_MS)).await;
        slow(Duration::ZERO, 0);
    }
}

/// Fills the disk of one node for a while, again and again.
pub(crate) async fn fill(world: Arc<World>, disk: Arc<SmallDisk>, node: usize) -> Result<(), Failure> {
    let mut choices = Choices::new(world.seed, Purpose::Disk);
    let squeezed = &world.nodes[node].squeezed;
    while !world.sleep_unless(Phase::Healing, duration(&mut choices, ROOM_MS)).await {
        let left = LEFT_KIB[choices.below(LEFT_KIB.len() as u64) as usize];
        let lasts = duration(&mut choices, FULL_MS);
        squeezed.store(left < RESERVE_KIB, Ordering::SeqCst);
        // It fails when the node has written more meanwhile than would be left.
        if disk.squeeze(left).is_ok() {
            world.counts.full_disks.one();
            world.sleep_unless(Phase::Healing, lasts).await;
            disk.release()?;
            tokio::time::sleep(AFTERMATH).await;
        }
        squeezed.store(false, Ordering::SeqCst);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_decides_what_happens_to_a_node_and_most_of_it_is_kills() {
        let drawn = |seed: u64| {
            let mut choices = Choices::new(seed, Purpose::Process(2));
            (0..200).map(|_| draw(&mut choices)).collect::<Vec<_>>()
        };
        assert_eq!(drawn(1), drawn(1));
        assert_ne!(drawn(1), drawn(2));
        let kills = drawn(1).iter().filter(|(_, fault)| matches!(fault, ProcessFault::Kill { .. })).count();
        assert!((110..170).contains(&kills), "{kills}");
    }
}
