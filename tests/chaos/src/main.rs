//! Chaos with real processes: kills, stops, parts and fills Syncline nodes while clients write, then compares.
//!
//! ```text
//! clients ─ HTTP ─▶ five nodes and a relay, each a `syncline serve` of its own ◀─ kill -9, SIGSTOP, SIGTERM, full disk
//!    │                  └─ peers ─▶ fault proxy ─▶ peers                        ◀─ partitions, slow links, cuts
//!    └─ records ──────────────────────────────┐
//! heal, wait ─▶ exports, stores, logs ────────┴─▶ set-full, counter, causal, texts, byte-equal, sound
//! ```

mod client;
mod clients;
mod directory;
mod ending;
mod failure;
mod faults;
mod history;
mod keys;
mod node;
mod observers;
mod proxy;
mod random;
mod setup;
mod stage;
mod world;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{JoinHandle, JoinSet};

use crate::directory::Directory;
use crate::ending::Found;
use crate::failure::Failure;
use crate::node::Process;
use crate::setup::{ON_SMALL_DISK, mount_small_disk, set_up};
use crate::stage::{SmallDisk, Stage, Wanted};
use crate::world::{Phase, World, say};

/// Causal chains that are made at the same time.
const CHAINS: usize = 4;
/// How often progress is told.
const PROGRESS: Duration = Duration::from_secs(5);
/// How long clients may take to end: longer than they wait for an answer.
const CLIENTS_TIMEOUT: Duration = Duration::from_secs(90);
/// How long processes may take to end with this program.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// From this long on, every kind of fault has to have happened, and every check to have had something to check.
const COVERED_MINUTES: f64 = 2.0;
/// The exit code when something was violated, and when no run could be made.
const EXIT_VIOLATED: u8 = 1;
const EXIT_FAILED: u8 = 2;

const AFTER_HELP: &str = "\
The seed decides which faults are drawn, for whom, in which order and with which pauses. Real processes are not \
deterministic: two runs of one seed do not interleave alike, and may not find the same.

Exit codes: 0 all checks held; 1 a check failed, or the run fell short of what was expected of it; 2 no run could be \
made, or it was interrupted.";

/// Kills, stops, parts and fills real Syncline nodes while clients write, then compares what is left.
///
/// Five nodes (a steward, three writers, a reader) and a relay, each in a network namespace of its own if such can be
/// made (root, or user namespaces; `ip`, `unshare`, `mount`), else on loopback. Peers meet through a fault proxy. In
/// the end everything is healed, and every acknowledged write has to be on every node, counters and texts have to add
/// up, effects have to have their causes, exports have to be equal byte by byte, stores sound, and the relay blind.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 120, after_help = AFTER_HELP)]
struct Arguments {
    /// For how long faults happen; starting, healing and checking come on top
    #[arg(long, value_name = "M", default_value_t = 3.0, value_parser = minutes)]
    minutes: f64,
    /// Where the faults are drawn from
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// How many elements a second are added to the set at most, over all nodes
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// How many clients of each writing node add elements at the same time
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=200))]
    clients: u32,
    /// The program under test [default: `syncline` beside this program]
    #[arg(long, value_name = "PATH")]
    syncline: Option<PathBuf>,
    /// An empty directory for data and logs, which is kept [default: a temporary one, kept after a failure]
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Where the nodes run
    #[arg(long, value_enum, default_value = "auto")]
    network: Wanted,
    /// Fail if fewer processes were killed
    #[arg(long, value_name = "N", default_value_t = 0)]
    expect_kills: u64,
    /// Fail if fewer writes were acknowledged
    #[arg(long, value_name = "N", default_value_t = 0)]
    expect_writes: u64,
}

fn minutes(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(minutes) if (0.05..=10_000.0).contains(&minutes) => Ok(minutes),
        _ => Err("write a number of minutes from 0.05 to 10000".to_owned()),
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match enter(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_VIOLATED),
        Err(failure) => {
            say(&format!("error: {failure}"));
            ExitCode::from(EXIT_FAILED)
        }
    }
}

/// Runs; tells whether all was as it should be.
fn enter(arguments: &Arguments) -> Result<bool, Failure> {
    let program = program(arguments)?;
    if !Stage::is_inside() {
        directory::remove_leftovers();
    }
    let stage = Stage::enter(arguments.network)?;
    let mut directory = Directory::make(arguments.keep.as_deref())?;
    let disk = mount_small_disk(stage, directory.path())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::setup("start the runtime", error))?;
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = run(arguments, stage, &program, &directory, disk.clone()) => outcome,
            failure = interrupted() => Err(failure),
        }
    });
    // Ends every task, and with the tasks the processes that they hold.
    runtime.shutdown_timeout(END_TIMEOUT);
    if !matches!(outcome, Ok(true) | Err(Failure::Interrupted)) {
        directory.keep();
    }
    if directory.is_kept() {
        if let Some(disk) = &disk {
            disk.rescue(&directory.path().join("small-disk"))?;
        }
        say(&format!("data and logs are in {}", directory.path().display()));
    }
    outcome
}

fn program(arguments: &Arguments) -> Result<PathBuf, Failure> {
    let path = match &arguments.syncline {
        Some(path) => path.clone(),
        None => {
            let own = std::env::current_exe().map_err(|error| Failure::setup("find this program", error))?;
            own.with_file_name("syncline")
        }
    };
    std::fs::canonicalize(&path).map_err(|_| {
        let path = path.display();
        Failure::Setup(format!("{path} does not exist: run `cargo build --release`, or name another with --syncline"))
    })
}

async fn interrupted() -> Failure {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return Failure::Setup("signals cannot be waited for".to_owned());
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Failure::Interrupted
}

async fn run(
    arguments: &Arguments,
    stage: Stage,
    program: &Path,
    directory: &Directory,
    disk: Option<Arc<SmallDisk>>,
) -> Result<bool, Failure> {
    let Arguments { minutes, seed, rate, clients, .. } = *arguments;
    say(&format!("seed {seed}, {minutes} min, at most {rate} elements/s; network: {}", stage.text()));
    let (world, processes) = set_up(stage, directory.path(), program, seed, clients as usize).await?;
    let has_disk = disk.is_some();
    let working = start_clients(&world, f64::from(rate));
    let torments = processes.into_iter().map(|process| tokio::spawn(faults::torment(world.clone(), process))).collect();
    let links = [tokio::spawn(faults::part(world.clone())), tokio::spawn(faults::strain(world.clone()))];
    let disk = disk.map(|disk| tokio::spawn(faults::fill(world.clone(), disk, ON_SMALL_DISK)));
    watch(&world, Duration::from_secs_f64(minutes * 60.0), &torments).await;

    world.phase.send_replace(Phase::Quiet);
    end_clients(&world, working).await?;
    world.phase.send_replace(Phase::Healing);
    let processes = end_faults(torments, links, disk).await?;
    let found = ending::finish(&world, processes).await?;
    if minutes >= COVERED_MINUTES {
        check_coverage(&world, has_disk);
    }
    Ok(tell(&world, arguments, &found))
}

type Torments = Vec<JoinHandle<Result<Process, Failure>>>;

fn start_clients(world: &Arc<World>, rate: f64) -> JoinSet<()> {
    let mut working = JoinSet::new();
    let streams = world.records.streams.len();
    let every = Duration::from_secs_f64(streams as f64 / rate);
    for stream in 0..streams {
        working.spawn(clients::add_elements(world.clone(), stream, every));
    }
    for node in &world.nodes {
        if node.role.writes() {
            working.spawn(clients::count(world.clone(), node.number));
            working.spawn(clients::write_text(world.clone(), node.number));
        }
        if node.role.reads() {
            working.spawn(observers::observe(world.clone(), node.number));
        }
    }
    for chain in 0..CHAINS {
        working.spawn(clients::make_chains(world.clone(), chain));
    }
    working
}

/// Tells progress for as long as the chaos lasts; ends early when a node cannot be started any more.
async fn watch(world: &World, lasts: Duration, torments: &Torments) {
    let end = tokio::time::Instant::now() + lasts;
    loop {
        let left = end.saturating_duration_since(tokio::time::Instant::now());
        if left.is_zero() || torments.iter().any(JoinHandle::is_finished) {
            return;
        }
        tokio::time::sleep(left.min(PROGRESS)).await;
        let up = world.nodes.iter().filter(|node| node.up.load(Ordering::SeqCst)).count();
        let counts = &world.counts;
        say(&format!(
            "{:>5} s: {up} of {} up, {} writes acknowledged, {} unknown, {} refused, {} kills, {} violations",
            world.started.elapsed().as_secs(),
            world.nodes.len(),
            counts.acknowledged(),
            counts.unknown.now(),
            counts.refused.now(),
            counts.kills.now(),
            world.violations().1,
        ));
    }
}

async fn end_clients(world: &World, mut working: JoinSet<()>) -> Result<(), Failure> {
    let all = async {
        while let Some(ended) = working.join_next().await {
            ended.map_err(|error| Failure::setup("run a client", error))?;
        }
        Ok(())
    };
    match tokio::time::timeout(CLIENTS_TIMEOUT, all).await {
        Ok(ended) => ended,
        Err(_) => {
            world.violated(format!("clients hung for {} s", CLIENTS_TIMEOUT.as_secs()));
            working.abort_all();
            Ok(())
        }
    }
}

async fn end_faults(
    torments: Torments,
    links: [JoinHandle<()>; 2],
    disk: Option<JoinHandle<Result<(), Failure>>>,
) -> Result<Vec<Process>, Failure> {
    let broken = |error| Failure::setup("run a source of faults", error);
    for link in links {
        link.await.map_err(broken)?;
    }
    if let Some(disk) = disk {
        disk.await.map_err(broken)??;
    }
    let mut processes = Vec::new();
    for torment in torments {
        processes.push(torment.await.map_err(broken)??);
    }
    Ok(processes)
}

/// A fault that never happened, or a check that had nothing to check, proves nothing.
fn check_coverage(world: &World, has_disk: bool) {
    let counts = &world.counts;
    let mut expected = vec![
        ("a kill", &counts.kills),
        ("a kill during the start", &counts.kills_starting),
        ("a stop", &counts.pauses),
        ("a clean restart", &counts.restarts),
        ("a partition", &counts.partitions),
        ("a partition in one direction", &counts.half_partitions),
        ("a slow link", &counts.slow_links),
        ("a cut connection", &counts.cuts),
        ("an element looked at", &counts.looked_at),
        ("a counter read", &counts.counters_read),
        ("a causal chain", &counts.chains),
        ("a piece of text", &counts.text),
        ("an unknown outcome", &counts.unknown),
    ];
    if has_disk {
        expected.push(("a full disk", &counts.full_disks));
        expected.push(("a write refused for want of room", &counts.refused));
    }
    for (what, count) in expected {
        if count.now() == 0 {
            world.violated(format!("{what} never happened in all the run"));
        }
    }
}

/// Prints the totals; tells whether all was as it should be.
fn tell(world: &World, arguments: &Arguments, found: &Found) -> bool {
    let counts = &world.counts;
    for (what, expected, reached) in [
        ("kills", arguments.expect_kills, counts.kills.now()),
        ("acknowledged writes", arguments.expect_writes, counts.acknowledged()),
    ] {
        if reached < expected {
            world.violated(format!("{reached} {what} instead of the {expected} that were expected"));
        }
    }
    let (violations, number) = world.violations();
    for violation in &violations {
        say(&format!("FAILED: {violation}"));
    }
    if number > violations.len() as u64 {
        say(&format!("FAILED: and {} more", number - violations.len() as u64));
    }
    say(&format!(
        "faults: {} kills ({} during the start), {} stops, {} clean restarts, {} partitions, {} in one direction, \
         {} slow links, {} cuts, {} full disks ({} nodes ended of it)",
        counts.kills.now(),
        counts.kills_starting.now(),
        counts.pauses.now(),
        counts.restarts.now(),
        counts.partitions.now(),
        counts.half_partitions.now(),
        counts.slow_links.now(),
        counts.cuts.now(),
        counts.full_disks.now(),
        counts.ended_full.now(),
    ));
    say(&format!(
        "reads: {} elements looked at, {} counters read, {} causal chains followed to their end",
        counts.looked_at.now(),
        counts.counters_read.now(),
        counts.chains.now(),
    ));
    say(&format!(
        "writes: {} elements, {} additions, {} links, {} pieces of text; {} unknown, {} refused",
        counts.set.now(),
        counts.counter.now(),
        counts.causal.now(),
        counts.text.now(),
        counts.unknown.now(),
        counts.refused.now(),
    ));
    say(&format!(
        "end: {} operations, {} documents on every node, in step {:.1} s after the last node started; {} s in all",
        found.operations,
        found.documents,
        found.in_step_after.as_secs_f64(),
        world.started.elapsed().as_secs(),
    ));
    say(&format!(
        "seed {}: {} kills, {} acknowledged writes, {} lost, {} diverged, {number} violations",
        world.seed,
        counts.kills.now(),
        counts.acknowledged(),
        found.lost,
        found.diverged,
    ));
    number == 0
}
