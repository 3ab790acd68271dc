//! Which ranges to ask of which peer.
//!
//! What is missing of an author's log is split at multiples of a run's greatest length, so that several peers can send
//! different stretches and that the runs they join end at the same places. A request packs the ranges of several
//! authors up to an estimate of what a page holds. What is in flight or waits for operations before it counts as
//! covered, so that nothing is asked for twice at a time.

use std::collections::{BTreeMap, BTreeSet};

use syncline_model::limits::RUN_OPERATIONS_MAX;
use syncline_model::planted::{Bug, planted};
use syncline_model::{DeviceId, OperationId};

use crate::event::Replica;
use crate::limits::{RANGES_MAX, WANTED_AUTHORS_MAX};
use crate::messages::Range;
use crate::peer::Peer;
use crate::pending::Pending;

const CHUNK: u64 = RUN_OPERATIONS_MAX as u64;

/// First and last sequences of stretches of logs, by author.
pub(crate) type Spans = BTreeMap<DeviceId, Vec<(u64, u64)>>;

/// Everything that a choice depends on.
pub(crate) struct Planner<'a> {
    pub(crate) now_ms: u64,
    pub(crate) replica: &'a dyn Replica,
    /// Where logs end with what was handed over in this call.
    pub(crate) heads: &'a BTreeMap<DeviceId, (u64, OperationId)>,
    pub(crate) gaps: &'a Pending,
    pub(crate) strangers: &'a Pending,
    /// What is in flight.
    pub(crate) claimed: Spans,
    /// Peers with the authors of whom they hold another log.
    pub(crate) forks: &'a BTreeSet<(DeviceId, DeviceId)>,
    /// Authors whose runs the space does not take.
    pub(crate) refused: &'a BTreeSet<DeviceId>,
}

/// Which authors may be pulled.
pub(crate) enum Choice<'a> {
    /// All that may write, these first.
    WantedFirst(&'a [(DeviceId, u64)]),
    /// Only these.
    WantedOnly(&'a [(DeviceId, u64)]),
    /// All that may write, beginning after this one.
    After(DeviceId),
}

impl Planner<'_> {
    /// The positions that held operations wait for, each with the author up to which to pull.
    ///
    /// An author that the membership does not know yet is pulled for its first operation only: that one names the
    /// admission which it waits for, and the chain goes on from there.
    pub(crate) fn wanted(&self) -> Vec<(DeviceId, u64)> {
        let mut found = Vec::new();
        let mut queue: Vec<(DeviceId, u64)> = self.replica.wanted().into_iter().collect();
        let mut seen = BTreeSet::new();
        while let Some((author, sequence)) = queue.pop() {
            if seen.len() >= WANTED_AUTHORS_MAX || !seen.insert(author) || self.head(&author).0 >= sequence {
                continue;
            }
            if self.replica.may_write(&author) {
                found.push((author, sequence));
            } else if let Some(run) = self.strangers.beginning(&author) {
                let named = run.operations()[0].dependencies.iter();
                queue.extend(named.map(|dependency| (dependency.author, dependency.sequence)));
            } else {
                found.push((author, 1));
            }
        }
        found
    }

    /// The ranges of the next request to a peer, which are claimed with it; empty if there is nothing to ask.
    pub(crate) fn next_request(
        &mut self,
        peer: (&DeviceId, &Peer),
        choice: &Choice<'_>,
        out_of_order: bool,
    ) -> Vec<Range> {
        let mut ranges = Vec::new();
        let mut operations = 0;
        let wanted = match choice {
            Choice::WantedFirst(wanted) | Choice::WantedOnly(wanted) => *wanted,
            Choice::After(_) => &[],
        };
        for (author, through) in wanted {
            // Unless little is to be pulled, the rest of that log comes with it and one signature does for both.
            let whole = matches!(choice, Choice::WantedFirst(_)) && self.replica.may_write(author);
            let through = if whole { u64::MAX } else { *through };
            self.add_author(peer, author, through, out_of_order, &mut ranges, &mut operations);
        }
        let peer_ahead = &peer.1.ahead;
        let order: Box<dyn Iterator<Item = &DeviceId>> = match choice {
            Choice::WantedOnly(_) => return ranges,
            Choice::WantedFirst(_) => Box::new(peer_ahead.keys()),
            Choice::After(author) => Box::new(
                peer_ahead
                    .range(*author..)
                    .map(|(author, _)| author)
                    .filter(move |next| *next != author)
                    .chain(peer_ahead.range(..=*author).map(|(author, _)| author)),
            ),
        };
        for author in order {
            if ranges.len() >= RANGES_MAX || operations >= CHUNK {
                break;
            }
            if self.replica.may_write(author) {
                self.add_author(peer, author, u64::MAX, out_of_order, &mut ranges, &mut operations);
            }
        }
        ranges
    }

    fn head(&self, author: &DeviceId) -> (u64, OperationId) {
        self.heads.get(author).copied().unwrap_or_else(|| self.replica.taken(author))
    }

    fn add_author(
        &mut self,
        (peer_id, peer): (&DeviceId, &Peer),
        author: &DeviceId,
        through: u64,
        out_of_order: bool,
        ranges: &mut Vec<Range>,
        operations: &mut u64,
    ) {
        let Some(ahead) = peer.ahead.get(author) else { return };
        let barred = self.refused.contains(author) || self.forks.contains(&(*peer_id, *author));
        if barred || ahead.pull_from_ms > self.now_ms {
            return;
        }
        let (head, head_id) = self.head(author);
        let last =
            ahead.sequence.min(through).min(self.replica.worth(author)) - u64::from(planted(Bug::RangeEndsEarly));
        let mut covered = self.gaps.spans(author);
        covered.extend(self.strangers.spans(author));
        covered.extend(self.claimed.get(author).into_iter().flatten());
        let mut from = head + 1;
        while ranges.len() < RANGES_MAX && *operations < CHUNK {
            let Some((first, end)) = next_missing(from, last, &covered) else { break };
            let after = first - 1;
            if after != head && !out_of_order {
                break;
            }
            let after_id = match after {
                0 => None,
                _ if after == head => Some(head_id.prefix()),
                _ => self.gaps.id_at(author, after),
            };
            ranges.push(Range { author: *author, after, after_id, through: end });
            *operations += end - after;
            self.claimed.entry(*author).or_default().push((first, end));
            from = end + 1;
        }
    }
}

/// The first stretch of `from..=last` that is not covered, cut at the next multiple of a chunk.
pub(crate) fn next_missing(from: u64, last: u64, covered: &[(u64, u64)]) -> Option<(u64, u64)> {
    let mut first = from;
    while let Some((_, end)) = covered.iter().find(|(start, end)| (*start..=*end).contains(&first)) {
        first = end.checked_add(1)?;
    }
    if first > last {
        return None;
    }
    let chunk_end = (first - 1).checked_add(CHUNK - (first - 1) % CHUNK).unwrap_or(last);
    let before_covered = covered.iter().map(|(start, _)| *start).filter(|start| *start > first).min();
    let end = chunk_end.min(last).min(before_covered.map_or(u64::MAX, |start| start - 1));
    Some((first, end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn stretches_end_at_multiples_of_a_run() {
        assert_eq!(next_missing(1, 10_000, &[]), Some((1, 4096)));
        assert_eq!(next_missing(4097, 10_000, &[]), Some((4097, 8192)));
        assert_eq!(next_missing(9000, 10_000, &[]), Some((9000, 10_000)));
        assert_eq!(next_missing(5, 4, &[]), None);
        assert_eq!(next_missing(u64::MAX - 3, u64::MAX - 1, &[]), Some((u64::MAX - 3, u64::MAX - 1)));
    }

    proptest! {
        #[test]
        fn what_is_covered_and_what_is_found_make_up_the_whole(
            last in 1u64..60,
            covered in proptest::collection::vec((1u64..60, 0u64..9), 0..6),
        ) {
            let covered: Vec<(u64, u64)> = covered.into_iter().map(|(start, length)| (start, start + length)).collect();
            let mut found = Vec::new();
            let mut from = 1;
            while let Some((first, end)) = next_missing(from, last, &covered) {
                found.extend(first..=end);
                from = end + 1;
            }
            let expected: Vec<u64> = (1..=last)
                .filter(|sequence| !covered.iter().any(|(start, end)| (*start..=*end).contains(sequence)))
                .collect();
            prop_assert_eq!(found, expected);
        }
    }
}
