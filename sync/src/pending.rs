//! Verified runs that cannot be handed over yet, in bounded memory.
//!
//! Nothing here is precious: what is dropped is pulled again when its turn comes. So an overflow is counted and is
//! nobody's fault, and the furthest runs go first since they would wait longest.

use std::collections::BTreeMap;

use syncline_model::{DeviceId, IdPrefix, VerifiedRun};

use crate::event::Path;
use crate::limits::OPERATION_MEMORY_BYTES;

/// A run that waits, and where it came from.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) run: VerifiedRun,
    pub(crate) peer: DeviceId,
    pub(crate) path: Path,
}

/// Waiting runs by author and first sequence.
#[derive(Debug)]
pub(crate) struct Pending {
    authors: BTreeMap<DeviceId, Author>,
    bytes: usize,
    bytes_max: usize,
    bytes_per_author_max: usize,
}

#[derive(Debug, Default)]
struct Author {
    runs: BTreeMap<u64, Held>,
    bytes: usize,
}

impl Pending {
    pub(crate) fn new(bytes_max: usize, bytes_per_author_max: usize) -> Self {
        Self { authors: BTreeMap::new(), bytes: 0, bytes_max, bytes_per_author_max }
    }

    /// Keeps a run, unless one that covers it is kept; returns how many runs were dropped for lack of room.
    pub(crate) fn insert(&mut self, held: Held) -> u64 {
        let (author, first, last) = (held.run.author(), held.run.first(), held.run.last());
        let waiting = self.authors.entry(author).or_default();
        if waiting.runs.range(..=first).any(|(_, other)| other.run.last() >= last) {
            return 0;
        }
        let covered: Vec<u64> = waiting
            .runs
            .range(first..)
            .filter(|(_, other)| other.run.last() <= last)
            .map(|(first, _)| *first)
            .collect();
        for first in covered {
            self.remove(&author, first);
        }
        let size = memory(&held.run);
        let waiting = self.authors.entry(author).or_default();
        waiting.runs.insert(first, held);
        waiting.bytes += size;
        self.bytes += size;
        self.shrink(author)
    }

    /// Takes the author's lowest run out if it begins at or before what follows `head`.
    pub(crate) fn take_next(&mut self, author: &DeviceId, head: u64) -> Option<Held> {
        let (first, _) = self.authors.get(author)?.runs.first_key_value()?;
        let first = *first;
        if first > head + 1 { None } else { self.remove(author, first) }
    }

    /// Takes all runs of an author out, the lowest first.
    pub(crate) fn take_author(&mut self, author: &DeviceId) -> Vec<Held> {
        let Some(waiting) = self.authors.remove(author) else { return Vec::new() };
        self.bytes -= waiting.bytes;
        waiting.runs.into_values().collect()
    }

    /// The authors of waiting runs.
    pub(crate) fn authors(&self) -> Vec<DeviceId> {
        self.authors.keys().copied().collect()
    }

    /// What of an author's log waits here, in order: first and last sequences.
    pub(crate) fn spans(&self, author: &DeviceId) -> Vec<(u64, u64)> {
        let runs = self.authors.get(author).map(|waiting| waiting.runs.values());
        runs.into_iter().flatten().map(|held| (held.run.first(), held.run.last())).collect()
    }

    /// The run of the author's first operation, if it waits here.
    pub(crate) fn beginning(&self, author: &DeviceId) -> Option<&VerifiedRun> {
        self.authors.get(author)?.runs.get(&1).map(|held| &held.run)
    }

    /// The id at `sequence` of an author's log, if a waiting run covers that.
    pub(crate) fn id_at(&self, author: &DeviceId, sequence: u64) -> Option<IdPrefix> {
        let (_, held) = self.authors.get(author)?.runs.range(..=sequence).next_back()?;
        held.run.operation(sequence).map(|operation| operation.id.prefix())
    }

    /// How much memory the runs take.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many runs wait.
    pub(crate) fn runs(&self) -> usize {
        self.authors.values().map(|waiting| waiting.runs.len()).sum()
    }

    fn shrink(&mut self, author: DeviceId) -> u64 {
        let mut dropped = 0;
        while self.authors.get(&author).is_some_and(|waiting| waiting.bytes > self.bytes_per_author_max) {
            dropped += self.drop_furthest(author);
        }
        while self.bytes > self.bytes_max {
            let Some((greatest, _)) = self.authors.iter().max_by_key(|(author, waiting)| (waiting.bytes, **author))
            else {
                break;
            };
            dropped += self.drop_furthest(*greatest);
        }
        dropped
    }

    fn drop_furthest(&mut self, author: DeviceId) -> u64 {
        let furthest = self.authors.get(&author).and_then(|waiting| waiting.runs.last_key_value());
        let furthest = furthest.map(|(first, _)| *first);
        furthest.and_then(|first| self.remove(&author, first)).map_or(0, |_| 1)
    }

    fn remove(&mut self, author: &DeviceId, first: u64) -> Option<Held> {
        let waiting = self.authors.get_mut(author)?;
        let held = waiting.runs.remove(&first)?;
        let size = memory(&held.run);
        waiting.bytes -= size;
        self.bytes -= size;
        if waiting.runs.is_empty() {
            self.authors.remove(author);
        }
        Some(held)
    }
}

/// What a run is taken to need in memory.
pub(crate) fn memory(run: &VerifiedRun) -> usize {
    let dependencies: usize = run.operations().iter().map(|operation| operation.dependencies.len()).sum();
    run.bytes().len() + (run.operations().len() + dependencies) * OPERATION_MEMORY_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{device, log};

    fn held(run: &VerifiedRun) -> Held {
        Held { run: run.clone(), peer: DeviceId([9; 32]), path: Path::Page }
    }

    #[test]
    fn the_furthest_runs_are_dropped_first_and_memory_stays_bounded() {
        let log = log(&device(1), 60, 100);
        let room = memory(&log[0]) * 10 + 20;
        let mut pending = Pending::new(1 << 20, room);
        let dropped: u64 = log.iter().skip(1).rev().map(|run| pending.insert(held(run))).sum();
        assert_eq!(dropped, 49);
        assert!(pending.bytes() <= room);
        assert_eq!(pending.spans(&device(1).id()).last(), Some(&(11, 11)));
    }

    #[test]
    fn many_authors_share_one_bound_and_the_greatest_gives_way() {
        let small = log(&device(1), 3, 100);
        let great = log(&device(2), 30, 100);
        let room = memory(&small[0]) * 12;
        let mut pending = Pending::new(room, 1 << 20);
        for run in small.iter().chain(&great) {
            pending.insert(held(run));
            assert!(pending.bytes() <= room);
        }
        assert_eq!(pending.spans(&device(1).id()).len(), 3);
        assert!(pending.runs() <= 12);
    }

    #[test]
    fn covered_runs_are_kept_once() {
        let log = log(&device(1), 6, 10);
        let (author, joined) = (device(1).id(), VerifiedRun::join(&log[1..5]).unwrap());
        let mut pending = Pending::new(1 << 20, 1 << 20);
        pending.insert(held(&log[2]));
        pending.insert(held(&joined));
        pending.insert(held(&log[3]));
        assert_eq!(pending.spans(&author), [(2, 5)]);
        assert_eq!(pending.id_at(&author, 3), Some(log[2].last_id().prefix()));
        assert!(pending.take_next(&author, 0).is_none());
        assert_eq!(pending.take_next(&author, 1).unwrap().run, joined);
        assert_eq!((pending.bytes(), pending.runs()), (0, 0));
    }
}
