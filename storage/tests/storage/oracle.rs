//! The log against a plain map: whatever is appended, synced, lost in crashes and read, both say the same.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use syncline_model::{DeviceId, VerifiedRun};
use syncline_storage::{AuthorRange, Position, SpaceLog, Store};

use super::reading::{expected, read_all};
use super::workload::{Author, Machine, Random, shown};

/// Small enough for a log of some runs to have many segments.
const SEGMENT_BYTES: u32 = 1500;
const AUTHORS: usize = 3;

/// How a process ends.
#[derive(Debug, Clone, Copy)]
enum End {
    Closed,
    /// It dies; the system's page cache survives.
    Killed,
    /// The machine loses power; the choices of what survives come from this.
    PowerLost(u64),
}

#[derive(Debug, Clone)]
enum Move {
    /// One append of some runs, each of an author, a number of operations and bytes for each.
    Append(Vec<(usize, usize, usize)>),
    Sync,
    WriteIndex,
    Restart {
        end: End,
        index_lost: bool,
    },
    Read {
        author: usize,
        after: u64,
        through: u64,
        bytes_max: usize,
    },
    Page {
        ranges: Vec<(usize, u64, u64)>,
        bytes_max: usize,
    },
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let end = prop_oneof![Just(End::Closed), Just(End::Killed), any::<u64>().prop_map(End::PowerLost)];
    let range = || (0..AUTHORS, 0u64..30, 0u64..30);
    let run = (0..AUTHORS, 1usize..4, 0usize..500);
    let one = prop_oneof![
        6 => prop::collection::vec(run, 1..4).prop_map(Move::Append),
        4 => Just(Move::Sync),
        1 => Just(Move::WriteIndex),
        2 => (end, prop::bool::weighted(0.3)).prop_map(|(end, index_lost)| Move::Restart { end, index_lost }),
        2 => (range(), 0usize..3000)
            .prop_map(|((author, after, through), bytes_max)| Move::Read { author, after, through, bytes_max }),
        2 => (prop::collection::vec(range(), 1..5), 0usize..3000)
            .prop_map(|(ranges, bytes_max)| Move::Page { ranges, bytes_max }),
    ];
    prop::collection::vec(one, 1..40)
}

/// A log, and what it must hold.
struct Compared {
    machine: Machine,
    open: Option<(Store, SpaceLog)>,
    authors: Vec<Author>,
    /// By author and last sequence, with the place in the order of arrival.
    durable: BTreeMap<(DeviceId, u64), (usize, VerifiedRun)>,
    unsynced: Vec<VerifiedRun>,
}

impl Compared {
    fn new() -> Self {
        let (machine, store, mut log) = Machine::with_log(SEGMENT_BYTES);
        log.gather_index();
        let authors = (0..AUTHORS as u8).map(Author::new).collect();
        Self { machine, open: Some((store, log)), authors, durable: BTreeMap::new(), unsynced: Vec::new() }
    }

    fn log(&mut self) -> &mut SpaceLog {
        &mut self.open.as_mut().expect("the log is open between moves").1
    }

    fn made_durable(&mut self, count: usize) {
        for run in self.unsynced.drain(..count) {
            let place = self.durable.len();
            self.durable.insert((run.author(), run.last()), (place, run));
        }
    }

    /// The durable runs in order of arrival.
    fn arrivals(&self) -> Vec<VerifiedRun> {
        let by_place: BTreeMap<usize, &VerifiedRun> = self.durable.values().map(|(place, run)| (*place, run)).collect();
        by_place.into_values().cloned().collect()
    }

    fn make(&mut self, step: Move) -> Result<(), TestCaseError> {
        match step {
            Move::Append(runs) => {
                let write =
                    |(author, count, bytes): (usize, usize, usize)| self.authors[author].write_joined(count, bytes);
                let runs: Vec<VerifiedRun> = runs.into_iter().map(write).collect();
                let positions = self.log().append(&runs).unwrap();
                prop_assert_eq!(positions.len(), runs.len());
                self.unsynced.extend(runs);
            }
            Move::Sync => {
                self.log().sync().unwrap();
                self.made_durable(self.unsynced.len());
            }
            Move::WriteIndex => self.log().write_index().unwrap(),
            Move::Restart { end, index_lost } => self.restart(end, index_lost)?,
            Move::Read { author, after, through, bytes_max } => self.read(author, after, through, bytes_max)?,
            Move::Page { ranges, bytes_max } => self.page(&ranges, bytes_max)?,
        }
        self.compare()
    }

    fn restart(&mut self, end: End, index_lost: bool) -> Result<(), TestCaseError> {
        let (store, log) = self.open.take().expect("the log is open between moves");
        let mut sure = self.unsynced.len();
        match end {
            End::Closed => log.close().unwrap(),
            End::Killed => {
                drop((store, log));
                self.machine.disk.restart();
            }
            End::PowerLost(seed) => {
                drop((store, log));
                let mut random = Random(seed);
                self.machine.disk.lose_power(&mut |limit| random.below(limit));
                self.machine.index.lose_power(&mut |limit| random.below(limit));
                sure = 0;
            }
        }
        if index_lost {
            self.machine.index.erase();
        }
        let (store, mut log) = self.machine.reopen(SEGMENT_BYTES);
        let kept = shown(&log).len();
        log.gather_index();
        self.open = Some((store, log));
        let (least, most) = (self.durable.len() + sure, self.durable.len() + self.unsynced.len());
        prop_assert!((least..=most).contains(&kept), "{kept} runs are there, not {least} to {most}");
        self.made_durable(kept - self.durable.len());
        // The others never happened: their authors go on from what is there.
        self.unsynced.clear();
        for author in &mut self.authors {
            let own = (author.id(), 0)..=(author.id(), u64::MAX);
            let last = self.durable.range(own).next_back().map(|(_, (_, run))| run);
            author.go_on_after(last);
        }
        Ok(())
    }

    fn read(&mut self, author: usize, after: u64, through: u64, bytes_max: usize) -> Result<(), TestCaseError> {
        let author = self.authors[author].id();
        let found = self.log().reader().read(&author, after, through, bytes_max).unwrap();
        let held = self.durable.range((author, after.saturating_add(1))..=(author, u64::MAX));
        let held = held.map(|(_, (_, run))| run).filter(|run| after < through && run.first() <= through);
        let (mut wanted, mut bytes) = (Vec::new(), 0);
        for run in held {
            if bytes > bytes_max {
                break;
            }
            bytes += run.bytes().len();
            wanted.push(run.bytes().clone());
        }
        prop_assert_eq!(found.iter().map(|run| run.bytes().clone()).collect::<Vec<_>>(), wanted);
        let at = self.log().reader().run_at(&author, through).unwrap();
        let covering = self.durable.range((author, through)..=(author, u64::MAX)).next().map(|(_, (_, run))| run);
        let covering = covering.filter(|run| run.first() <= through);
        prop_assert_eq!(at.as_ref(), covering.map(|run| &**run));
        Ok(())
    }

    fn page(&mut self, ranges: &[(usize, u64, u64)], bytes_max: usize) -> Result<(), TestCaseError> {
        let range = |&(author, after, through): &(usize, u64, u64)| AuthorRange {
            author: self.authors[author].id(),
            after,
            through,
        };
        let ranges: Vec<AuthorRange> = ranges.iter().map(range).collect();
        let arrivals = self.arrivals();
        let positions: Vec<Position> = shown(self.log()).iter().map(|(position, _)| *position).collect();
        let oracle = positions.into_iter().zip(arrivals).collect();
        prop_assert_eq!(read_all(&self.log().reader(), &ranges, bytes_max), expected(&oracle, &ranges, None));
        Ok(())
    }

    /// What the log shows is what is durable, in order of arrival.
    fn compare(&mut self) -> Result<(), TestCaseError> {
        let arrivals = self.arrivals();
        let operations: usize = arrivals.iter().map(|run| run.operations().len()).sum();
        let wanted: Vec<_> = arrivals.iter().map(|run| (run.author(), run.first(), run.last_id())).collect();
        let log = self.log();
        let found: Vec<_> =
            shown(log).iter().map(|(_, summary)| (summary.author, summary.first, summary.last_id())).collect();
        prop_assert_eq!(found, wanted);
        let stats = log.stats().unwrap();
        prop_assert_eq!((stats.runs, stats.operations), (arrivals.len() as u64, operations as u64));
        prop_assert_eq!(stats.quarantined, 0);
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_log_and_a_map_agree_whatever_is_appended_synced_lost_and_read(moves in moves()) {
        let mut compared = Compared::new();
        for step in moves {
            compared.make(step)?;
        }
        let report = compared.log().reader().verify(&mut |_| {}).unwrap();
        prop_assert!(report.is_sound() && report.unchained.count == 0, "{:?}", report);
    }
}
