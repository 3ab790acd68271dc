//! Planting each bug in turn, to see whether one run of the size that CI does finds it.

use std::io::{self, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use syncline_model::planted::{Bug, acted, plant};
use syncline_simulator::{Detail, Reduction, run};

/// Seeds of one run in CI.
pub(crate) const SEEDS: u64 = 5000;
/// Characters of a violation that are shown.
const CHECK_CHARACTERS_MAX: usize = 140;

/// How bugs are planted.
#[derive(Debug, Clone)]
pub(crate) struct Planting {
    /// The bugs, one after the other.
    pub(crate) bugs: Vec<Bug>,
    /// Each is looked for with the seeds from 0 up to, but not with, this one.
    pub(crate) seeds: u64,
    /// How many seeds run at the same time.
    pub(crate) jobs: usize,
    /// Whether a page for the documentation is written instead of lines for a person who waits.
    pub(crate) markdown: bool,
}

/// What came of one bug.
struct Found {
    bug: Bug,
    /// The first seed that shows it, and what the violated check says.
    caught: Option<(u64, String)>,
    /// How often the code came to where the bug makes a difference.
    acted: u64,
}

/// Finds a bug by its name.
pub(crate) fn parse_bug(name: &str) -> Result<Bug, String> {
    let found = Bug::ALL.iter().copied().find(|bug| bug.name().eq_ignore_ascii_case(name));
    found.ok_or_else(|| format!("there is no such bug; these are: {}", names().join(", ")))
}

fn names() -> Vec<&'static str> {
    Bug::ALL.iter().map(|bug| bug.name()).collect()
}

/// Plants the bugs and tells which are found; true when all are.
pub(crate) fn run_planted(planting: &Planting) -> io::Result<bool> {
    let (started, out) = (Instant::now(), &mut io::stdout().lock());
    let mut all = Vec::new();
    for bug in &planting.bugs {
        let (before, found) = (Instant::now(), look_for(*bug, planting));
        if !planting.markdown {
            print_line(out, &found, planting, before.elapsed().as_secs_f64())?;
        }
        all.push(found);
    }
    plant(None);
    let missed: Vec<&str> = all.iter().filter(|found| found.caught.is_none()).map(|found| found.bug.name()).collect();
    if planting.markdown {
        print_page(out, &all, planting)?;
    } else {
        let (caught, seconds) = (all.len() - missed.len(), started.elapsed().as_secs_f64());
        writeln!(out, "{caught} of {} bugs are caught within {} seeds, {seconds:.0} s", all.len(), planting.seeds)?;
    }
    if !missed.is_empty() {
        writeln!(io::stderr(), "not caught: {}", missed.join(", "))?;
    }
    Ok(missed.is_empty())
}

/// Runs seeds in order until one shows the bug. What it reports does not depend on the number of jobs.
fn look_for(bug: Bug, planting: &Planting) -> Found {
    plant(Some(bug));
    let next = AtomicU64::new(0);
    let first: Mutex<Option<(u64, String)>> = Mutex::default();
    let is_over = || locked(&first).is_some();
    std::thread::scope(|scope| {
        for _ in 0..planting.jobs {
            scope.spawn(|| {
                while !is_over() {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= planting.seeds {
                        break;
                    }
                    let Some(violation) = run(seed, &Reduction::default(), Detail::Hash).violation else { continue };
                    let mut first = locked(&first);
                    // Seeds are given out in order, so whoever still runs an earlier one gets to say it.
                    if first.as_ref().is_none_or(|(earliest, _)| seed < *earliest) {
                        *first = Some((seed, violation));
                    }
                }
            });
        }
    });
    let caught = first.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let acted = acted();
    plant(None);
    // A seed that fails without the bug says nothing about it.
    let caught = caught.filter(|(seed, _)| run(*seed, &Reduction::default(), Detail::Hash).violation.is_none());
    Found { bug, caught, acted }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn print_line(out: &mut impl Write, found: &Found, planting: &Planting, seconds: f64) -> io::Result<()> {
    let name = found.bug.name();
    match &found.caught {
        Some((seed, violation)) => {
            let runs = seed + 1;
            writeln!(out, "{name:<26} caught by seed {seed} ({runs} run, {seconds:.0} s): {}", first_line(violation))
        }
        None => {
            let (runs, acted) = (planting.seeds, found.acted);
            writeln!(out, "{name:<26} NOT CAUGHT ({runs} run, {seconds:.0} s); it had its say {acted} times")
        }
    }?;
    out.flush()
}

fn first_line(violation: &str) -> String {
    // A panic tells its place in one line and its reason in the next.
    let lines: Vec<&str> = violation.lines().take(2).collect();
    let line = lines.join(" ");
    let mut shown: String = line.chars().take(CHECK_CHARACTERS_MAX).collect();
    if shown.len() < line.len() {
        shown.push('…');
    }
    shown
}

fn print_page(out: &mut impl Write, all: &[Found], planting: &Planting) -> io::Result<()> {
    let caught = all.iter().filter(|found| found.caught.is_some()).count();
    writeln!(out, "# Planted bugs\n")?;
    writeln!(
        out,
        "A simulator that finds nothing proves nothing by that. So {} bugs, each of the kind that is",
        all.len()
    )?;
    writeln!(
        out,
        "really made, can be planted in a build for tests: `model/src/planted.rs` lists them. Each is planted"
    )?;
    writeln!(
        out,
        "alone and looked for with the {} seeds of one run in CI; **{caught} of {} are found**.\n",
        planting.seeds,
        all.len()
    )?;
    writeln!(out, "```text")?;
    writeln!(out, "cargo run --release -p syncline-simulator --features planted-bugs -- --planted --markdown")?;
    writeln!(out, "```\n")?;
    writeln!(
        out,
        "This page is what that printed. *Seeds* is how many runs it took, *found by* what the violated check"
    )?;
    writeln!(out, "said; a seed counts only if it passes without the bug.\n")?;
    writeln!(out, "| where | bug | what it does | seeds | found by |")?;
    writeln!(out, "| --- | --- | --- | ---: | --- |")?;
    for Found { bug, caught, acted } in all {
        let layer = format!("{:?}", bug.layer()).to_lowercase();
        let (seeds, by) = match caught {
            Some((seed, violation)) => ((seed + 1).to_string(), first_line(violation).replace('|', "\\|")),
            None => ("–".to_owned(), format!("not found; it had its say {acted} times")),
        };
        writeln!(out, "| {layer} | {} | {} | {seeds} | {by} |", bug.name(), bug.text())?;
    }
    Ok(())
}
