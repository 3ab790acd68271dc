//! The simulator as a program: one seed with its trace, or many with totals.
#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "it tells how long the runs took")]

#[cfg(feature = "planted-bugs")]
mod planted;

use std::io::{self, Write};
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;
use syncline_simulator::{
    AGREEMENT_US_MAX, Coverage, Detail, Happening, LARGE_OPERATIONS, LARGE_SEEDS, Outcome, Plan, REMOVAL_MEMBERS_MAX,
    REMOVAL_MEMBERS_MIN, Reduction, Revoked, TAIL_LINES, keep_panics, run, run_plan, shrink,
};

/// Of so many seeds one is run twice, to compare the traces.
const REPEATED_EVERY: u64 = 20;
/// What may be asked instead of one seed.
const INSTEAD_OF_SEED: &[&str] = if cfg!(feature = "planted-bugs") {
    &["seeds", "large", "removal", "planted"]
} else {
    &["seeds", "large", "removal"]
};
/// Failures after which a range of seeds is given up.
const FAILURES_MAX: usize = 10;
/// Failures of a range of seeds that are shrunk.
const SHRUNK_MAX: usize = 3;

/// Runs whole devices of one or more spaces over a simulated network, disk and clock.
///
/// A run is a function of its seed: the same seed gives the same trace, so that a failure can be looked at again.
/// Everything that is drawn from a seed (who takes part, what people do, what goes wrong) is printed with `--seed`.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 120)]
struct Arguments {
    /// Run this seed and print its plan, the end of its trace, and its outcome.
    #[arg(long, value_name = "N", conflicts_with_all = ["seeds", "large"])]
    #[arg(required_unless_present_any = INSTEAD_OF_SEED)]
    seed: Option<u64>,
    /// Leave parts of the plan of --seed out, as in actions=3,5-9; also spaces, devices, faults, ambient.
    #[arg(long, value_name = "PARTS", requires = "seed")]
    without: Vec<String>,
    /// Run the seeds from A up to, but not with, B and print totals.
    #[arg(long, value_name = "A..B", value_parser = parse_range)]
    seeds: Option<(u64, u64)>,
    /// Run the twenty large seeds, of at least 100,000 operations each.
    #[arg(long, conflicts_with = "seeds")]
    large: bool,
    /// Remove one of so many members, where nothing goes wrong, and print how long it took and what was sent.
    #[arg(long, value_name = "MEMBERS", conflicts_with_all = ["seed", "seeds", "large"])]
    #[arg(value_parser = clap::value_parser!(u64).range(REMOVAL_MEMBERS_MIN as u64..=REMOVAL_MEMBERS_MAX as u64))]
    removal: Option<u64>,
    /// How many documents the space of --removal holds.
    #[arg(long, value_name = "N", default_value_t = 10_000, requires = "removal")]
    documents: u64,
    /// How many seeds to run at the same time.
    #[arg(long, value_name = "J", default_value_t = default_jobs())]
    jobs: usize,
    /// Print the whole trace instead of its end.
    #[arg(long)]
    trace: bool,
    /// Do not look for the shortest reproduction of a failure.
    #[arg(long)]
    no_shrink: bool,
    #[cfg(feature = "planted-bugs")]
    #[command(flatten)]
    planted: PlantedArguments,
}

/// What a build with planted bugs is asked.
#[cfg(feature = "planted-bugs")]
#[derive(Debug, clap::Args)]
struct PlantedArguments {
    /// Plant a bug, or each in turn, and tell whether the seeds find it.
    #[arg(long, value_name = "BUG", num_args = 0..=1, conflicts_with_all = ["seed", "seeds"])]
    #[arg(value_parser = planted::parse_bug)]
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

/// The commit that is checked out where this was built.
fn commit() -> String {
    let describe = ["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"];
    let output = Command::new("git").args(describe).output().ok().filter(|output| output.status.success());
    let text = output.and_then(|output| String::from_utf8(output.stdout).ok());
    text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()).unwrap_or_else(|| "unknown".to_owned())
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    keep_panics();
    #[cfg(feature = "planted-bugs")]
    if let Some(planting) = arguments.planted.planting(arguments.jobs.max(1)) {
        let all_caught = planted::run_planted(&planting).unwrap_or(false);
        return if all_caught { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let succeeded = match (arguments.seed, arguments.seeds) {
        _ if arguments.removal.is_some() => run_removal(&arguments),
        (Some(seed), _) => run_one(seed, &arguments),
        (None, Some((first, end))) => run_many(first, end, &arguments),
        (None, None) => run_many(LARGE_SEEDS.start, LARGE_SEEDS.end, &arguments),
    };
    match succeeded {
        Ok(true) => ExitCode::SUCCESS,
        // Either something was violated, or nobody reads the output any more.
        Ok(false) | Err(_) => ExitCode::FAILURE,
    }
}

fn run_removal(arguments: &Arguments) -> io::Result<bool> {
    let (started, out) = (Instant::now(), &mut io::stdout().lock());
    let members = arguments.removal.map_or(REMOVAL_MEMBERS_MIN, |members| members as usize);
    let outcome = run_plan(Plan::removal(members, arguments.documents), Detail::Tail);
    let Outcome { operations, virtual_us, revoked, violation, .. } = &outcome;
    let (seconds, virtual_seconds) = (started.elapsed().as_secs_f64(), *virtual_us as f64 / 1e6);
    writeln!(
        out,
        "commit {}, {operations} operations, {virtual_seconds:.0} virtual seconds in {seconds:.0} s",
        commit()
    )?;
    for Revoked { after_us, sent_bytes, devices } in revoked {
        writeln!(
            out,
            "one of {members} members removed, {} documents: {devices} others who stayed connected have the new keys \
             after {:.1} virtual ms; {:.2} MB sent by all meanwhile",
            arguments.documents,
            *after_us as f64 / 1e3,
            *sent_bytes as f64 / 1e6
        )?;
    }
    if let Some(violation) = violation {
        print_trace(out, &outcome)?;
        writeln!(out, "FAILED: {violation}")?;
    }
    Ok(violation.is_none() && revoked.len() == 1)
}

fn run_one(seed: u64, arguments: &Arguments) -> io::Result<bool> {
    let out = &mut io::stdout().lock();
    let mut reduction = Reduction::default();
    if let Err(wrong) = arguments.without.iter().try_for_each(|text| reduction.add(text)) {
        writeln!(out, "{wrong}")?;
        return Ok(false);
    }
    write!(out, "{}", Plan::draw(seed, &reduction))?;
    let outcome = run(seed, &reduction, if arguments.trace { Detail::Whole } else { Detail::Tail });
    print_trace(out, &outcome)?;
    let Outcome { hash, virtual_us, operations, devices, coverage, .. } = &outcome;
    let (seconds, faults) = (virtual_us / 1_000_000, coverage.faults());
    writeln!(
        out,
        "seed {seed}: {devices} devices, {operations} operations, {faults} injected faults, {seconds} virtual seconds, \
         trace {hash}"
    )?;
    let held = outcome.violation.is_none();
    if held {
        writeln!(out, "seed {seed}: all checks held")?;
    } else {
        print_failure(out, &outcome)?;
        if !arguments.no_shrink {
            print_shrunk(out, outcome)?;
        }
    }
    Ok(held)
}

fn print_trace(out: &mut impl Write, outcome: &Outcome) -> io::Result<()> {
    if outcome.dropped > 0 {
        let dropped = outcome.dropped;
        writeln!(out, "… {dropped} events before the last {TAIL_LINES}; add --trace for all")?;
    }
    outcome.lines.iter().try_for_each(|line| writeln!(out, "{line}"))
}

fn print_failure(out: &mut impl Write, outcome: &Outcome) -> io::Result<()> {
    let Outcome { seed, reduction, violation, .. } = outcome;
    writeln!(out, "seed {seed} FAILED: {}", violation.as_deref().unwrap_or("nothing"))?;
    writeln!(out, "  commit: {}", commit())?;
    writeln!(out, "  again: cargo run --release -p syncline-simulator -- --seed {seed}{reduction}")
}

/// Looks for the shortest reproduction of a failure and prints it, with the end of its trace.
fn print_shrunk(out: &mut impl Write, outcome: Outcome) -> io::Result<()> {
    let before = outcome.reduction.clone();
    let least = shrink(outcome);
    if least.reduction == before {
        return writeln!(out, "  nothing can be left out of it");
    }
    writeln!(out, "the shortest reproduction found:")?;
    write!(out, "{}", Plan::draw(least.seed, &least.reduction))?;
    print_trace(out, &least)?;
    print_failure(out, &least)
}

/// What a range of seeds adds up to.
#[derive(Debug, Default)]
struct Totals {
    runs: u64,
    repeated: u64,
    operations: u64,
    acknowledged: u64,
    devices: u64,
    virtual_us: u64,
    agreed_after_us: u64,
    revoked: Vec<Revoked>,
    coverage: Coverage,
    failures: Vec<Outcome>,
}

fn run_many(first: u64, end: u64, arguments: &Arguments) -> io::Result<bool> {
    let (started, jobs) = (Instant::now(), arguments.jobs.max(1));
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
    let mut totals = totals.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let out = &mut io::stdout().lock();
    print_coverage(out, &totals.coverage)?;
    let missing = totals.coverage.missing(totals.runs);
    for happening in &missing {
        writeln!(out, "FAILED: in {} runs it never happened: {}", totals.runs, happening.text())?;
    }
    let failures = std::mem::take(&mut totals.failures);
    for (at, outcome) in failures.iter().enumerate() {
        let again = run(outcome.seed, &outcome.reduction, if arguments.trace { Detail::Whole } else { Detail::Tail });
        if at == 0 || arguments.trace {
            print_trace(out, &again)?;
        }
        print_failure(out, outcome)?;
        if at < SHRUNK_MAX && !arguments.no_shrink && again.violation.is_some() {
            print_shrunk(out, again)?;
        }
    }
    print_totals(out, &totals, failures.len(), started, jobs)?;
    Ok(failures.is_empty() && missing.is_empty())
}

/// Runs a seed; some of them twice, since the same seed must give the same trace.
fn run_repeatedly(seed: u64) -> (Outcome, bool) {
    let nothing = Reduction::default();
    let mut outcome = run(seed, &nothing, Detail::Hash);
    let again = seed.is_multiple_of(REPEATED_EVERY);
    if again && outcome.violation.is_none() {
        let hash = run(seed, &nothing, Detail::Hash).hash;
        if hash != outcome.hash {
            let text = format!("two runs of the seed differ: traces {} and {hash}", outcome.hash);
            outcome.violation = Some(text);
        }
    }
    if LARGE_SEEDS.contains(&seed) && outcome.operations < LARGE_OPERATIONS && outcome.violation.is_none() {
        let text = format!("a large run has {} operations, fewer than {LARGE_OPERATIONS}", outcome.operations);
        outcome.violation = Some(text);
    }
    (outcome, again)
}

impl Totals {
    fn add(&mut self, (outcome, again): (Outcome, bool)) {
        self.runs += 1;
        self.repeated += u64::from(again);
        self.operations += outcome.operations;
        self.acknowledged += outcome.acknowledged;
        self.devices += outcome.devices as u64;
        self.virtual_us += outcome.virtual_us;
        self.agreed_after_us = self.agreed_after_us.max(outcome.agreed_after_us);
        self.revoked.extend(&outcome.revoked);
        self.coverage.add(&outcome.coverage);
        if outcome.violation.is_some() {
            self.failures.push(outcome);
        }
    }
}

fn print_coverage(out: &mut impl Write, coverage: &Coverage) -> io::Result<()> {
    for happening in Happening::ALL {
        let mark = if happening.is_fault() { '*' } else { ' ' };
        writeln!(out, "{:>12} {mark} {}", coverage.times(*happening), happening.text())?;
    }
    writeln!(out, "{:>12} * injected faults: the sum of those", coverage.faults())
}

fn print_revocations(out: &mut impl Write, revoked: &[Revoked]) -> io::Result<()> {
    let mut all: Vec<u64> = revoked.iter().map(|revoked| revoked.after_us).collect();
    all.sort_unstable();
    let Some(slowest) = all.last() else { return Ok(()) };
    let (median, slowest, count) = (all[all.len() / 2] as f64 / 1e6, *slowest as f64 / 1e6, all.len());
    writeln!(
        out,
        "{count} removals: all who were connected had the new keys after {median:.3} virtual seconds (median), \
         {slowest:.1} at most"
    )
}

fn print_totals(
    out: &mut impl Write,
    totals: &Totals,
    failures: usize,
    started: Instant,
    jobs: usize,
) -> io::Result<()> {
    let Totals { runs, repeated, operations, acknowledged, devices, virtual_us, agreed_after_us, coverage, .. } =
        totals;
    let seconds = started.elapsed().as_secs_f64();
    let rate = (runs + repeated) as f64 / seconds / jobs as f64;
    let (hours, agreed, limit) =
        (virtual_us / 3_600_000_000, *agreed_after_us as f64 / 1e6, AGREEMENT_US_MAX / 1_000_000);
    writeln!(out, "commit {}, {repeated} seeds run twice to compare their traces, {devices} devices", commit())?;
    writeln!(out, "virtual time {hours} h, real time {seconds:.1} s, {rate:.1} runs per second and core")?;
    writeln!(out, "slowest agreement {agreed:.1} virtual seconds after everything healed (limit {limit})")?;
    print_revocations(out, &totals.revoked)?;
    writeln!(out, "seeds            {runs}")?;
    writeln!(out, "injected faults  {}", coverage.faults())?;
    writeln!(out, "operations       {operations}")?;
    writeln!(out, "acknowledged     {acknowledged}")?;
    if failures == 0 {
        writeln!(out, "lost             0")?;
        return writeln!(out, "diverged         0");
    }
    writeln!(out, "FAILED           {failures}")
}
