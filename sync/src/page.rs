//! Building the page that answers a pull, on the side that holds the operations.
//!
//! Stored runs are short: a device that writes one operation at a time stores one run for each. A page joins the
//! neighbouring runs of one author into one, up to a run's limits, so that the receiver checks one signature for all of
//! them and the frames' bytes are saved.

use std::collections::BTreeMap;

use syncline_model::limits::{RUN_BYTES_MAX, RUN_OPERATIONS_MAX};
use syncline_model::planted::{Bug, planted};
use syncline_model::run::encode_joined;
use syncline_model::{DeviceId, Run};

use crate::limits::{PAGE_BYTES_MAX, PAGE_BYTES_MIN};
use crate::messages::{Forked, Page, Range, Response, RunBytes};

/// What joining a run to another one saves at least: its version, author, first, previous, count and signature.
const FRAME_BYTES_MIN: usize = 1 + 32 + 1 + 32 + 1 + 64;

/// What a peer is to be sent: the ranges that are held here, checked for forks and cut at what is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serving {
    /// The ranges to read from the store.
    pub ranges: Vec<Range>,
    /// The log to read them from, when it is not the authors' own.
    log: Option<DeviceId>,
    bytes_max: usize,
    forked: Vec<Forked>,
}

/// Stored runs that will be sent as one.
struct Joined {
    author: DeviceId,
    after: u64,
    runs: Vec<Run>,
    bytes: usize,
    operations: usize,
}

/// How far a range is served.
struct Progress {
    range: Range,
    sent: u64,
    finished: bool,
}

impl Serving {
    pub(crate) fn new(ranges: Vec<Range>, bytes_max: u32, forked: Vec<Forked>) -> Self {
        let bytes_max = usize::try_from(bytes_max).map_or(PAGE_BYTES_MAX, |bytes| bytes.min(PAGE_BYTES_MAX));
        Self { ranges, log: None, bytes_max: bytes_max.max(PAGE_BYTES_MIN), forked }
    }

    /// The same ranges of a branch of their author's log.
    pub(crate) fn of_log(self, log: DeviceId) -> Self {
        Self { log: Some(log), ..self }
    }

    /// The log from which a range is to be read.
    pub fn log(&self, range: &Range) -> DeviceId {
        self.log.unwrap_or(range.author)
    }

    /// Most bytes of runs that the page takes, unless it has one run only.
    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// The response made of stored runs, which come in the order of their arrival.
    ///
    /// Runs that nobody asked for are passed over, and the iterator is left when the page is full, so it may read the
    /// store lazily. A run that ends beyond a range is sent only if no signature ends within the range.
    pub fn page(self, stored: impl IntoIterator<Item = Run>) -> Response {
        let mut by_author: BTreeMap<DeviceId, Vec<Progress>> = BTreeMap::new();
        for range in self.ranges {
            let sent = range.after + u64::from(range.after > 0 && planted(Bug::PageBeginsTooFar));
            by_author.entry(range.author).or_default().push(Progress { range, sent, finished: false });
        }
        let mut unfinished = by_author.values().map(Vec::len).sum::<usize>();
        let (mut joined, mut bytes, mut more) = (Vec::<Joined>::new(), 0, false);
        'stored: for run in stored {
            for progress in by_author.get_mut(&run.author()).into_iter().flatten() {
                if progress.finished || run.first() > progress.sent + 1 || run.last() <= progress.sent {
                    continue;
                }
                if run.last() > progress.range.through && progress.sent > progress.range.after {
                    progress.finished = true;
                    unfinished -= 1;
                    continue;
                }
                if bytes > 0 && bytes + run.bytes().len() > self.bytes_max {
                    more = true;
                    break 'stored;
                }
                bytes += join(&mut joined, progress.sent, run.clone());
                progress.sent = run.last();
                progress.finished = run.last() >= progress.range.through;
                unfinished -= usize::from(progress.finished);
            }
            if unfinished == 0 {
                break;
            }
        }
        if more && planted(Bug::PageCutDropsLastRun) {
            joined.pop();
        }
        let runs = joined.iter().filter_map(Joined::encode).collect();
        Response::Page(Page { runs, forked: self.forked, more })
    }
}

/// Adds a run to the page, to the author's last one if it follows that; returns the bytes it takes.
fn join(joined: &mut Vec<Joined>, after: u64, run: Run) -> usize {
    let operations = (run.last() - after) as usize;
    let whole = run.bytes().len();
    // A run that was fetched again for a damaged one may overlap with those before it; it begins another group.
    let fits = |group: &&mut Joined| {
        group.author == run.author()
            && group.last() == after
            && run.first() == after + 1
            && group.operations + operations <= RUN_OPERATIONS_MAX
            && group.bytes + whole <= RUN_BYTES_MAX
    };
    if let Some(group) = joined.iter_mut().rev().find(fits) {
        group.runs.push(run);
        group.operations += operations;
        group.bytes += whole;
        return whole - FRAME_BYTES_MIN;
    }
    let author = run.author();
    joined.push(Joined { author, after, runs: vec![run], bytes: whole, operations });
    whole
}

impl Joined {
    fn last(&self) -> u64 {
        self.runs.last().map_or(self.after, Run::last)
    }

    fn encode(&self) -> Option<RunBytes> {
        if let [run] = self.runs.as_slice()
            && run.first() == self.after + 1
        {
            return Some(RunBytes(run.bytes().clone()));
        }
        let runs: Vec<&Run> = self.runs.iter().collect();
        encode_joined(&runs, self.after).map(|bytes| RunBytes(bytes.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{SPACE, device, log};
    use proptest::prelude::*;
    use syncline_model::{OperationId, VerifiedRun};

    fn range(author: DeviceId, after: u64, through: u64) -> Range {
        Range { author, after, after_id: None, through }
    }

    fn served(ranges: Vec<Range>, bytes_max: usize, stored: &[VerifiedRun]) -> (Vec<Run>, bool) {
        let serving = Serving::new(ranges, bytes_max as u32, Vec::new());
        let Response::Page(page) = serving.page(stored.iter().map(|run| Run::clone(run))) else { panic!("a page") };
        let runs = page.runs.iter().map(|run| Run::decode(SPACE, run.0.clone()).unwrap()).collect::<Vec<_>>();
        for run in &runs {
            run.clone().verify().unwrap();
        }
        (runs, page.more)
    }

    fn spans(runs: &[Run]) -> Vec<(u64, u64)> {
        runs.iter().map(|run| (run.first(), run.last())).collect()
    }

    #[test]
    fn neighbouring_runs_are_joined_across_other_authors_runs() {
        let (a, b) = (device(1), device(2));
        let stored: Vec<_> = log(&a, 20, 100).into_iter().zip(log(&b, 20, 100)).flat_map(|(a, b)| [a, b]).collect();
        let (runs, more) = served(vec![range(a.id(), 4, 15), range(b.id(), 0, 20)], PAGE_BYTES_MAX, &stored);
        assert_eq!(spans(&runs), [(1, 20), (5, 15)]);
        assert!(!more);
    }

    #[test]
    fn a_run_beyond_the_range_is_sent_only_if_nothing_else_is() {
        let log = log(&device(1), 12, 50);
        let stored: Vec<_> = log.chunks(4).map(|runs| VerifiedRun::join(runs).unwrap()).collect();
        let author = device(1).id();
        assert_eq!(spans(&served(vec![range(author, 0, 6)], PAGE_BYTES_MAX, &stored).0), [(1, 4)]);
        assert_eq!(spans(&served(vec![range(author, 4, 6)], PAGE_BYTES_MAX, &stored).0), [(5, 8)]);
        assert_eq!(spans(&served(vec![range(author, 6, 12)], PAGE_BYTES_MAX, &stored).0), [(7, 12)]);
        assert_eq!(spans(&served(vec![range(author, 12, 14)], PAGE_BYTES_MAX, &stored).0), []);
    }

    #[test]
    fn a_run_that_overlaps_with_the_one_before_it_is_sent_from_where_that_ends() {
        let log = log(&device(1), 8, 50);
        let stored = [log[1].clone(), log[2].clone(), VerifiedRun::join(&log).unwrap()];
        let author = device(1).id();
        assert_eq!(spans(&served(vec![range(author, 1, 8)], PAGE_BYTES_MAX, &stored).0), [(2, 3), (4, 8)]);
    }

    #[test]
    fn a_full_page_ends_at_a_run_and_says_so() {
        let stored = log(&device(1), 200, 1000);
        let (runs, more) = served(vec![range(device(1).id(), 0, 200)], PAGE_BYTES_MIN, &stored);
        assert!(more);
        assert_eq!(runs.len(), 1);
        assert!((50..66).contains(&runs[0].last()), "{}", runs[0].last());
        assert!(runs[0].bytes().len() <= PAGE_BYTES_MIN);
    }

    #[test]
    fn one_signature_vouches_for_4096_operations_of_220_bytes() {
        let stored = log(&device(1), 5000, 210);
        let (runs, _) = served(vec![range(device(1).id(), 0, 4096)], PAGE_BYTES_MAX, &stored);
        assert_eq!(spans(&runs), [(1, 4096)]);
    }

    /// Logs as they may be stored: cut into runs anywhere, their runs arriving interleaved.
    fn stored_logs(cuts: &[Vec<usize>], payload: usize, order: &[usize]) -> Vec<VerifiedRun> {
        let mut logs: Vec<std::vec::IntoIter<VerifiedRun>> = Vec::new();
        for (author, lengths) in (1..).zip(cuts) {
            let operations = log(&device(author), lengths.iter().sum::<usize>() as u64, payload);
            let (mut rest, mut runs) = (operations.as_slice(), Vec::new());
            for length in lengths {
                let (run, later) = rest.split_at(*length);
                runs.push(VerifiedRun::join(run).unwrap());
                rest = later;
            }
            logs.push(runs.into_iter());
        }
        let drawn = order.iter().map(|author| author % cuts.len());
        let mut stored: Vec<VerifiedRun> = drawn.filter_map(|author| logs[author].next()).collect();
        stored.extend(logs.into_iter().flatten());
        stored
    }

    /// What a page should bring of one range, by looking at the stored runs one by one: where it gets to.
    fn naive_reach(range: &Range, stored: &[VerifiedRun]) -> u64 {
        let of_author = stored.iter().filter(|run| run.author() == range.author);
        let ends: Vec<u64> = of_author.map(|run| run.last()).filter(|last| *last > range.after).collect();
        let within = ends.iter().copied().filter(|last| *last <= range.through).max();
        within.or(ends.first().copied()).unwrap_or(range.after)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_page_brings_what_a_look_at_each_run_would_choose(
            cuts in prop::collection::vec(prop::collection::vec(1usize..6, 1..8), 1..4),
            order in prop::collection::vec(0usize..4, 0..24),
            wanted in prop::collection::btree_map(0u8..4, (0u64..30, 0u64..30), 1..4),
        ) {
            let stored = stored_logs(&cuts, 40, &order);
            let of = |author: DeviceId| stored.iter().filter(move |run| run.author() == author);
            let held = |author: DeviceId| of(author).map(|run| run.last()).max();
            let ranges: Vec<Range> = wanted
                .iter()
                .map(|(author, (a, b))| range(device(author + 1).id(), *a.min(b), *a.max(b)))
                .filter_map(|range| Some(Range { through: range.through.min(held(range.author)?), ..range }))
                .filter(|range| range.after < range.through)
                .collect();
            let (runs, more) = served(ranges.clone(), PAGE_BYTES_MAX, &stored);
            prop_assert!(!more, "all of it fits");
            for range in &ranges {
                let mut reached = range.after;
                for run in runs.iter().filter(|run| run.author() == range.author) {
                    prop_assert_eq!(run.first(), reached + 1, "runs of an author follow one another");
                    reached = run.last();
                }
                prop_assert_eq!(reached, naive_reach(range, &stored));
            }
            prop_assert!(runs.iter().all(|run| ranges.iter().any(|range| range.author == run.author())));
        }

        #[test]
        fn pages_asked_for_one_after_the_other_bring_each_operation_once(
            cuts in prop::collection::vec(prop::collection::vec(1usize..6, 1..8), 1..4),
            order in prop::collection::vec(0usize..4, 0..24),
            payload in 1usize..40_000,
        ) {
            let stored = stored_logs(&cuts, payload, &order);
            let authors: Vec<DeviceId> = (1..).zip(&cuts).map(|(author, _)| device(author).id()).collect();
            let lasts: Vec<u64> = cuts.iter().map(|lengths| lengths.iter().sum::<usize>() as u64).collect();
            let mut heads = vec![(0, OperationId::ZERO); authors.len()];
            for page in 0.. {
                let lacking = (0..authors.len()).filter(|at| heads[*at].0 < lasts[*at]);
                let ranges: Vec<Range> = lacking.map(|at| range(authors[at], heads[at].0, lasts[at])).collect();
                if ranges.is_empty() {
                    break;
                }
                let (runs, more) = served(ranges, PAGE_BYTES_MIN, &stored);
                let bytes: usize = runs.iter().map(|run| run.bytes().len()).sum();
                prop_assert!(runs.len() == 1 || bytes <= PAGE_BYTES_MIN, "page {}: {} bytes", page, bytes);
                prop_assert!(!runs.is_empty(), "each page goes on");
                for run in &runs {
                    let at = authors.iter().position(|author| *author == run.author()).unwrap();
                    let goes_on = (run.first() - 1, run.previous());
                    prop_assert_eq!(goes_on, heads[at], "it goes on where the last one ended");
                    heads[at] = (run.last(), run.last_id());
                }
                let complete = heads.iter().zip(&lasts).all(|(head, last)| head.0 == *last);
                prop_assert_eq!(more, !complete, "a page says whether it is the last one");
            }
        }
    }

    #[test]
    fn a_run_greater_than_a_page_goes_alone() {
        let stored = log(&device(1), 2, PAGE_BYTES_MAX + 9);
        let (runs, more) = served(vec![range(device(1).id(), 0, 2)], PAGE_BYTES_MAX, &stored);
        assert_eq!(spans(&runs), [(1, 1)]);
        assert!(more);
    }
}
