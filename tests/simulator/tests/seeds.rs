//! A few seeds on every test run, and all that once failed.

use syncline_simulator::{Detail, Outcome, keep_panics, run};

/// How many seeds are run beside those that are kept.
const SEEDS: u64 = 60;

fn assert_holds(seed: u64) -> Outcome {
    let outcome = run(seed, Detail::Tail);
    if let Some(violation) = &outcome.violation {
        let trace = outcome.lines.join("\n");
        panic!("{trace}\nseed {seed}: {violation}\nagain: cargo run --release -p syncline-simulator -- --seed {seed}");
    }
    outcome
}

#[test]
fn all_checks_hold_for_some_seeds() {
    keep_panics();
    for seed in 0..SEEDS {
        assert_holds(seed);
    }
}

#[test]
fn all_checks_hold_for_seeds_that_once_failed() {
    let kept = include_str!("seeds.txt").lines().filter_map(|line| line.split_whitespace().next());
    for seed in kept.filter(|text| !text.starts_with('#')) {
        assert_holds(seed.parse().expect("each line of seeds.txt begins with a seed"));
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let (first, second) = (run(3, Detail::Hash), run(3, Detail::Hash));
    assert_eq!(first.hash, second.hash);
    assert_ne!(first.hash, run(4, Detail::Hash).hash);
}
