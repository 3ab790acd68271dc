//! Reading by author and by arrival, against a plain map.

use proptest::prelude::*;
use syncline_model::{DeviceId, RunSummary, VerifiedRun};
use syncline_storage::{AuthorRange, LogReader, Position, SpaceLog};

use super::workload::{Author, Machine};

/// What was stored, in order of arrival.
pub(crate) type Oracle = Vec<(Position, VerifiedRun)>;

pub(crate) fn expected(oracle: &Oracle, ranges: &[AuthorRange], after: Option<Position>) -> Vec<(Position, u64)> {
    let wanted = |run: &VerifiedRun| {
        ranges.iter().any(|range| {
            range.author == run.author()
                && range.after < range.through
                && run.first() <= range.through
                && run.last() > range.after
        })
    };
    let later = oracle.iter().filter(|(position, run)| Some(*position) > after && wanted(run));
    later.map(|(position, run)| (*position, run.first())).collect()
}

pub(crate) fn read_all(reader: &LogReader, ranges: &[AuthorRange], bytes_max: usize) -> Vec<(Position, u64)> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = reader.read_many(ranges, after, bytes_max).unwrap();
        found.extend(page.runs.iter().map(|stored| (stored.position, stored.run.first())));
        assert!(page.complete || Some(page.reached) > after, "a page goes forward");
        after = Some(page.reached);
        if page.complete {
            return found;
        }
    }
}

fn store(log: &mut SpaceLog, plan: &[(u8, usize, usize)]) -> (Vec<Author>, Oracle) {
    let mut authors: Vec<Author> = (0..4).map(Author::new).collect();
    let mut oracle = Vec::new();
    for (index, (author, count, payload)) in plan.iter().enumerate() {
        let run = authors[usize::from(*author)].write_joined(*count, *payload);
        let position = log.append(std::slice::from_ref(&run)).unwrap()[0];
        oracle.push((position, run));
        if index % 3 == 0 {
            log.sync().unwrap();
        }
    }
    log.sync().unwrap();
    (authors, oracle)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn reads_agree_with_a_plain_map(
        plan in proptest::collection::vec((0u8..4, 1usize..5, 0usize..400), 1..40),
        wanted in proptest::collection::vec((0usize..4, 0u64..40, 0u64..40), 1..6),
        bytes_max in 0usize..5000,
        reopen in any::<bool>(),
    ) {
        let (machine, opened, mut log) = Machine::with_log(4000);
        let (authors, oracle) = store(&mut log, &plan);
        let mut opened = Some((opened, log));
        if reopen {
            opened = None;
            machine.index.erase();
        }
        let (_store, log) = opened.unwrap_or_else(|| machine.reopen(4000));
        let reader = log.reader();
        // Made anew without the index, the last group may be moved: compare by order, then.
        let positions: Vec<Position> = super::workload::shown(&log).iter().map(|(position, _)| *position).collect();
        let oracle: Oracle = positions.into_iter().zip(oracle.into_iter().map(|(_, run)| run)).collect();

        let ranges: Vec<AuthorRange> = wanted
            .iter()
            .map(|&(author, after, through)| AuthorRange { author: authors[author].id(), after, through })
            .collect();
        prop_assert_eq!(read_all(&reader, &ranges, bytes_max), expected(&oracle, &ranges, None));
        for range in &ranges {
            let mut after = range.after;
            let mut found = Vec::new();
            loop {
                let runs = reader.read(&range.author, after, range.through, bytes_max).unwrap();
                let Some(last) = runs.last() else { break };
                let before_last: usize = runs[..runs.len() - 1].iter().map(|run| run.bytes().len()).sum();
                prop_assert!(before_last <= bytes_max);
                after = last.last();
                found.extend(runs.iter().map(|run| run.first()));
            }
            let of_range: Vec<u64> = expected(&oracle, &[*range], None).into_iter().map(|(_, first)| first).collect();
            prop_assert_eq!(found, of_range);
            let covering = oracle.iter().find(|(_, run)| {
                run.author() == range.author && (run.first()..=run.last()).contains(&range.after)
            });
            let at = reader.run_at(&range.author, range.after).unwrap();
            prop_assert_eq!(at.as_ref(), covering.map(|(_, run)| &**run));
        }
    }
}

#[test]
fn many_wanted_runs_are_read_in_order_of_arrival_too() {
    let (_machine, _store, mut log) = Machine::with_log(1 << 20);
    let plan: Vec<(u8, usize, usize)> = (0..6000).map(|index| ((index % 3) as u8, 1, 20)).collect();
    let (authors, oracle) = store(&mut log, &plan);
    let all = |author: &Author| AuthorRange { author: author.id(), after: 0, through: u64::MAX };
    let ranges: Vec<AuthorRange> = authors[..2].iter().map(all).collect();
    assert_eq!(read_all(&log.reader(), &ranges, 50_000), expected(&oracle, &ranges, None));
    assert_eq!(read_all(&log.reader(), &[], 50_000), []);
}

#[test]
fn both_branches_of_a_fork_are_stored_and_read() {
    let (_machine, _store, mut log) = Machine::with_log(1 << 20);
    let (mut one, mut other) = (Author::new(1), Author::new(1));
    let common = one.write(10);
    other.write(10);
    let (left, right) = (one.write(10), other.write(11));
    log.append(&[common, left.clone(), right.clone()]).unwrap();
    log.sync().unwrap();
    let runs = log.reader().read(&one.id(), 1, 9, 1 << 20).unwrap();
    assert_eq!(runs.iter().map(|run| run.last_id()).collect::<Vec<_>>(), [left.last_id(), right.last_id()]);
    assert_eq!(log.reader().run_at(&one.id(), 2).unwrap().unwrap().last_id(), left.last_id());
    assert_eq!(log.reader().verify(&mut |_| {}).unwrap().unchained.count, 1);
}

#[test]
fn replay_begins_after_a_position_and_hostile_ranges_find_nothing() {
    let (_machine, _store, mut log) = Machine::with_log(1 << 20);
    let (_, oracle) = store(&mut log, &[(0, 1, 5), (1, 2, 5), (0, 3, 5)]);
    let mut seen: Vec<RunSummary> = Vec::new();
    log.replay(Some(oracle[0].0), &mut |_, summary| seen.push(summary)).unwrap();
    assert_eq!(seen, oracle[1..].iter().map(|(_, run)| RunSummary::of(run)).collect::<Vec<_>>());
    let reader = log.reader();
    for (after, through) in [(u64::MAX, u64::MAX), (9, 3), (u64::MAX - 1, u64::MAX), (0, 0)] {
        assert!(reader.read(&oracle[0].1.author(), after, through, 9).unwrap().is_empty());
    }
    assert!(reader.read(&DeviceId([0xff; 32]), 0, u64::MAX, usize::MAX).unwrap().is_empty());
    assert_eq!(reader.run_at(&oracle[0].1.author(), 0).unwrap(), None);
    assert_eq!(reader.run_by_position(Position::from_u64(u64::MAX)).unwrap(), None);
    let page = reader.read_many(&[], Some(Position::from_u64(u64::MAX)), usize::MAX).unwrap();
    assert!(page.complete && page.runs.is_empty());
}

#[test]
fn readers_see_a_consistent_log_while_it_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let options = syncline_storage::OpenOptions { create: true, ..Default::default() };
    let store = syncline_storage::Store::open(directory.path(), options, &mut |_| {}).unwrap();
    store.create_space(super::workload::SPACE, super::workload::INCARNATION, &[]).unwrap();
    let mut log = store.open_space(super::workload::SPACE, &mut |_| {}).unwrap();
    let mut author = Author::new(1);
    let (id, reader) = (author.id(), log.reader());
    let reading = std::thread::spawn(move || {
        let mut last = 0;
        while last < 300 {
            let runs = reader.read(&id, 0, u64::MAX, 1 << 20).unwrap();
            let sequences: Vec<u64> = runs.iter().map(|run| run.first()).collect();
            assert_eq!(sequences, (1..=runs.len() as u64).collect::<Vec<_>>());
            assert!(runs.len() as u64 >= last);
            last = runs.len() as u64;
        }
    });
    for _ in 0..100 {
        log.append(&[author.write(40), author.write(40), author.write(40)]).unwrap();
        log.sync().unwrap();
    }
    reading.join().unwrap();
}
