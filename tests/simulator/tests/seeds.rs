//! A few seeds on every test run, and all that once failed.

use syncline_simulator::{Detail, Outcome, Plan, Reduction, Revoked, keep_panics, run, run_plan, shrink};

/// How many seeds are run beside those that are kept.
const SEEDS: u64 = 60;

fn assert_holds(seed: u64, reduction: &Reduction) -> Outcome {
    let outcome = run(seed, reduction, Detail::Tail);
    if let Some(violation) = &outcome.violation {
        let trace = outcome.lines.join("\n");
        panic!(
            "{trace}\nseed {seed}: {violation}\n\
             again: cargo run --release -p syncline-simulator -- --seed {seed}{reduction}"
        );
    }
    outcome
}

/// A line of `seeds.txt`: a seed, what is left out of it, and after a dash what it showed.
fn parse(line: &str) -> (u64, Reduction) {
    let command = line.split_once(" - ").map_or(line, |(command, _)| command);
    let mut words = command.split_whitespace().filter(|word| *word != "--without");
    let seed = words.next().and_then(|word| word.parse().ok()).expect("each line of seeds.txt begins with a seed");
    let mut reduction = Reduction::default();
    words.try_for_each(|word| reduction.add(word)).expect("what follows the seed is as given to --without");
    (seed, reduction)
}

#[test]
fn all_checks_hold_for_some_seeds() {
    keep_panics();
    for seed in 0..SEEDS {
        assert_holds(seed, &Reduction::default());
    }
}

#[test]
fn all_checks_hold_for_seeds_that_once_failed() {
    for line in include_str!("seeds.txt").lines().filter(|line| !line.starts_with('#')) {
        let (seed, reduction) = parse(line);
        assert_holds(seed, &reduction);
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let nothing = Reduction::default();
    let (first, second) = (run(3, &nothing, Detail::Hash), run(3, &nothing, Detail::Hash));
    assert_eq!(first.hash, second.hash);
    assert_ne!(first.hash, run(4, &nothing, Detail::Hash).hash);
}

#[test]
fn what_is_left_out_does_not_change_the_rest_of_the_plan() {
    let mut reduction = Reduction::default();
    reduction.add("actions=0-3").expect("it is well-formed");
    reduction.add("faults=1").expect("it is well-formed");
    let lines = |reduction: &Reduction| {
        let plan = syncline_simulator::Plan::draw(7, reduction).to_string();
        plan.lines().skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    let (whole, reduced) = (lines(&Reduction::default()), lines(&reduction));
    assert!(reduced.len() < whole.len());
    assert!(reduced.iter().all(|line| whole.contains(line)));
}

#[test]
fn a_run_that_holds_is_not_shrunk() {
    let outcome = run(1, &Reduction::default(), Detail::Hash);
    assert!(shrink(outcome).reduction.is_empty());
}

#[test]
fn a_removal_reaches_everybody_where_nothing_goes_wrong() {
    keep_panics();
    let outcome = run_plan(Plan::removal(12, 60), Detail::Tail);
    assert_eq!(outcome.violation, None);
    // Who opens the space again meanwhile, since it held what was cut, is not counted.
    let [Revoked { devices: 6..=10, after_us, sent_bytes }] = outcome.revoked[..] else {
        panic!("one removal, that the others hear of: {:?}", outcome.revoked);
    };
    assert!(after_us < 1_000_000 && sent_bytes > 10_000, "{after_us} us, {sent_bytes} B");
}
