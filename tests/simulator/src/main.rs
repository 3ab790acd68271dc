//! The simulator as a program: one seed with its trace, or many with totals.
#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "it tells how long the runs took")]

#[cfg(feature = "planted-bugs")]
mod planted;

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;
use syncline_simulator::{Coverage, Detail, Happening, Outcome, Plan, TAIL_LINES, keep_panics, run};

/// Seeds from which on everything that can happen must have happened.
const COVERED_SEEDS: u64 = 200;
/// Of so many seeds one is run twice, to compare the traces.
const REPEATED_EVERY: u64 = 20;
/// What may be asked instead of one seed.
const INSTEAD_OF_SEED: &[&str] = if cfg!(feature = "planted-bugs") { &["seeds", "planted"] } else { &["seeds"] };
/// Failures after which a range of seeds is given up.
const FAILURES_MAX: usize = 10;

/// Runs whole replicas of a space over a simulated network, disk and clock.
///
/// A run is a function of its seed: the same seed gives the same trace, so that a failure can be looked at again.
/// Everything that is drawn from a seed (who takes part, what goes wrong) is printed with `--seed`.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 120)]
struct Arguments {
    /// Run this seed and print its plan, the end of its trace, and its outcome.
    #[arg(long, value_name = "N", conflicts_with = "seeds", required_unless_present_any = INSTEAD_OF_SEED)]
    seed: Option<u64>,
    /// Run the seeds from A up to, but not with, B and print totals.
    #[arg(long, value_name = "A..B", value_parser = parse_range)]
    seeds: Option<(u64, u64)>,
    /// How many seeds to run at the same time.
    #[arg(long, value_name = "J", default_value_t = default_jobs())]
    jobs: usize,
    /// Print the whole trace instead of its end.
    #[arg(long)]
    trace: bool,
    #[cfg(feature = "planted-bugs")]
    #[command(flatten)]
    planted: PlantedArguments,
}

/// What a build with planted bugs is asked.
#[cfg(feature = "planted-bugs")]
#[derive(Debug, clap::Args)]
struct PlantedArguments {
    /// Plant a bug, or each in turn, and tell whether the seeds find it.
    #[arg(long, value_name = "BUG", num_args = 0..=1, conflicts_with_all = ["seed", "seeds"], value_parser = planted::parse_bug)]
    planted: Option<Option<syncline_model::planted::Bug>>,
    /// How many seeds look for each bug.
    #[arg(long, value_name = "N", default_value_t = planted::SEEDS, requires = "planted")]
    planted_seeds: u64,
    /// Print the page for the documentation.
    #[arg(long, requires = "planted")]
    markdown: bool,
}

#[cfg(feature = "planted-bugs")]
impl PlantedArguments {
    fn planting(&self, jobs: usize) -> Option<planted::Planting> {
        let bugs = match self.planted? {
            Some(bug) => vec![bug],
            None => syncline_model::planted::Bug::ALL.to_vec(),
        };
        Some(planted::Planting { bugs, seeds: self.planted_seeds, jobs, markdown: self.markdown })
    }
}

fn parse_range(text: &str) -> Result<(u64, u64), String> {
    let parse = || {
        let (first, end) = text.split_once("..")?;
        Some((first.parse().ok()?, end.parse().ok()?))
    };
    let range: (u64, u64) = parse().ok_or_else(|| "write two numbers as in 0..1000".to_owned())?;
    if range.0 < range.1 { Ok(range) } else { Err("the second number must be greater than the first".to_owned()) }
}

fn default_jobs() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    keep_panics();
    let detail = if arguments.trace { Detail::Whole } else { Detail::Tail };
    #[cfg(feature = "planted-bugs")]
    if let Some(planting) = arguments.planted.planting(arguments.jobs.max(1)) {
        let all_caught = planted::run_planted(&planting).unwrap_or(false);
        return if all_caught { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let succeeded = match (arguments.seed, arguments.seeds) {
        (Some(seed), _) => run_one(seed, detail),
        (None, Some((first, end))) => run_many(first, end, arguments.jobs.max(1), detail),
        (None, None) => Ok(true),
    };
    match succeeded {
        Ok(true) => ExitCode::SUCCESS,
        // Either something was violated, or nobody reads the output any more.
        Ok(false) | Err(_) => ExitCode::FAILURE,
    }
}

fn run_one(seed: u64, detail: Detail) -> io::Result<bool> {
    let out = &mut io::stdout().lock();
    writeln!(out, "{:#?}", Plan::draw(seed))?;
    let outcome = run(seed, detail);
    print_trace(out, &outcome)?;
    let Outcome { hash, virtual_us, operations, devices, .. } = &outcome;
    let seconds = virtual_us / 1_000_000;
    writeln!(out, "seed {seed}: {devices} devices, {operations} operations, {seconds} virtual seconds, trace {hash}")?;
    match &outcome.violation {
        None => writeln!(out, "seed {seed}: all checks held")?,
        Some(violation) => writeln!(out, "seed {seed} FAILED: {violation}")?,
    }
    Ok(outcome.violation.is_none())
}

fn print_trace(out: &mut impl Write, outcome: &Outcome) -> io::Result<()> {
    if outcome.dropped > 0 {
        let dropped = outcome.dropped;
        writeln!(out, "… {dropped} events before the last {TAIL_LINES}; add --trace for all")?;
    }
    outcome.lines.iter().try_for_each(|line| writeln!(out, "{line}"))
}

/// What a range of seeds adds up to.
#[derive(Debug, Default)]
struct Totals {
    runs: u64,
    repeated: u64,
    operations: u64,
    devices: u64,
    virtual_us: u64,
    coverage: Coverage,
    failures: Vec<(u64, String)>,
}

fn run_many(first: u64, end: u64, jobs: usize, detail: Detail) -> io::Result<bool> {
    let started = Instant::now();
    let (next, stop) = (AtomicU64::new(first), AtomicBool::new(false));
    let totals = Mutex::new(Totals::default());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end || stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let ended = run_repeatedly(seed);
                    let mut totals = totals.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    totals.add(ended);
                    stop.fetch_or(totals.failures.len() >= FAILURES_MAX, Ordering::Relaxed);
                }
            });
        }
    });
    let totals = totals.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let out = &mut io::stdout().lock();
    print_failures(out, &totals, detail)?;
    print_coverage(out, &totals.coverage)?;
    let missing = if totals.runs >= COVERED_SEEDS { totals.coverage.missing() } else { Vec::new() };
    for happening in &missing {
        writeln!(out, "FAILED: in {} runs it never happened: {}", totals.runs, happening.text())?;
    }
    print_totals(out, &totals, started, jobs)?;
    Ok(totals.failures.is_empty() && missing.is_empty())
}

/// Runs a seed; some of them twice, since the same seed must give the same trace.
fn run_repeatedly(seed: u64) -> (Outcome, bool) {
    let mut outcome = run(seed, Detail::Hash);
    let again = seed.is_multiple_of(REPEATED_EVERY);
    if again && outcome.violation.is_none() {
        let hash = run(seed, Detail::Hash).hash;
        if hash != outcome.hash {
            let text = format!("two runs of the seed differ: traces {} and {hash}", outcome.hash);
            outcome.violation = Some(text);
        }
    }
    (outcome, again)
}

impl Totals {
    fn add(&mut self, (outcome, again): (Outcome, bool)) {
        self.runs += 1;
        self.repeated += u64::from(again);
        self.operations += outcome.operations;
        self.devices += outcome.devices as u64;
        self.virtual_us += outcome.virtual_us;
        self.coverage.add(&outcome.coverage);
        if let Some(violation) = outcome.violation {
            self.failures.push((outcome.seed, violation));
        }
    }
}

fn print_failures(out: &mut impl Write, totals: &Totals, detail: Detail) -> io::Result<()> {
    for (at, (seed, violation)) in totals.failures.iter().enumerate() {
        if at == 0 || detail == Detail::Whole {
            print_trace(out, &run(*seed, detail))?;
        }
        writeln!(out, "seed {seed} FAILED: {violation}")?;
        writeln!(out, "  again: cargo run --release -p syncline-simulator -- --seed {seed}")?;
    }
    Ok(())
}

fn print_coverage(out: &mut impl Write, coverage: &Coverage) -> io::Result<()> {
    for happening in Happening::ALL {
        writeln!(out, "{:>12}  {}", coverage.times(*happening), happening.text())?;
    }
    Ok(())
}

fn print_totals(out: &mut impl Write, totals: &Totals, started: Instant, jobs: usize) -> io::Result<()> {
    let Totals { runs, repeated, operations, devices, virtual_us, coverage, failures } = totals;
    let times = |happenings: &[Happening]| happenings.iter().map(|one| coverage.times(*one)).sum::<u64>();
    let messages = times(&[
        Happening::RequestSent,
        Happening::RequestAnswered,
        Happening::GossipArrived,
        Happening::GossipDuplicated,
    ]);
    let lost = times(&[Happening::RequestLost, Happening::GossipLost, Happening::Blocked]);
    let stops = times(&[Happening::CrashedPower, Happening::CrashedProcess, Happening::ClosedCleanly]);
    let partitions = times(&[Happening::PartitionSymmetric, Happening::PartitionAsymmetric]);
    let seconds = started.elapsed().as_secs_f64();
    let rate = (runs + repeated) as f64 / seconds / jobs as f64;
    writeln!(
        out,
        "runs {runs} ({repeated} of them twice, with equal traces unless told otherwise), devices {devices}"
    )?;
    writeln!(out, "operations {operations}, messages {messages}, lost {lost}, partitions {partitions}, stops {stops}")?;
    writeln!(
        out,
        "virtual time {} h, real time {seconds:.1} s, {rate:.1} runs per second and core",
        virtual_us / 3_600_000_000
    )?;
    writeln!(out, "failures {}", failures.len())
}
