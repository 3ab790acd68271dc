//! Which changes make up a document when some claim the same place.
//!
//! Two different changes with one (actor, sequence) cannot both be part of an Automerge document; replicas must
//! agree on one whatever arrives first. The one whose operation causally precedes wins; of concurrent ones the
//! smaller hash. The losers, and all that depend on them, are blocked.
//!
//! The winner is chosen among all candidates, even those whose own dependencies are missing: asking first who could
//! be applied would make two such contests depend on each other's outcome.

use std::collections::{BTreeMap, BTreeSet};

use super::change::{ChangeHash, ChangeHeader};

/// Which changes a document is made of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selection {
    /// The changes to apply, each after its dependencies.
    pub order: Vec<ChangeHash>,
    /// The changes to leave out, by hash.
    pub blocked: BTreeMap<ChangeHash, Blocked>,
}

/// Why a change is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Blocked {
    /// Another change has its (actor, sequence).
    Superseded {
        /// The change that counts instead.
        by: ChangeHash,
    },
    /// It depends on a change that is blocked.
    DependsOnBlocked {
        /// The smallest such dependency.
        dependency: ChangeHash,
    },
    /// It depends on a change that is no candidate.
    MissingDependency {
        /// The smallest such dependency.
        dependency: ChangeHash,
    },
}

/// Selects the changes of one document among all admitted ones.
///
/// `precedes(a, b)` tells whether the operation that carries change `a` is in the causal past of the one that
/// carries `b`; it must be a strict partial order. The result does not depend on the order of `candidates`, and a
/// change given several times counts once.
pub fn select<'a>(
    candidates: impl IntoIterator<Item = &'a ChangeHeader>,
    precedes: impl Fn(&ChangeHash, &ChangeHash) -> bool,
) -> Selection {
    let candidates: BTreeMap<ChangeHash, &ChangeHeader> =
        candidates.into_iter().map(|header| (header.hash, header)).collect();
    let mut selection = Selection { order: Vec::new(), blocked: superseded(&candidates, precedes) };

    let mut waiting: BTreeMap<ChangeHash, usize> = BTreeMap::new();
    let mut dependents: BTreeMap<ChangeHash, Vec<ChangeHash>> = BTreeMap::new();
    // By start and hash, so that the order is the same everywhere and close to the order of making.
    let mut ready: BTreeSet<(u64, ChangeHash)> = BTreeSet::new();
    for (hash, header) in &candidates {
        let dependencies: BTreeSet<&ChangeHash> = header.dependencies.iter().collect();
        for dependency in &dependencies {
            dependents.entry(**dependency).or_default().push(*hash);
        }
        if dependencies.is_empty() {
            ready.insert((header.start_op, *hash));
        }
        waiting.insert(*hash, dependencies.len());
    }
    while let Some((_, hash)) = ready.pop_first() {
        if selection.blocked.contains_key(&hash) {
            continue;
        }
        selection.order.push(hash);
        for dependent in dependents.get(&hash).into_iter().flatten() {
            let Some(left) = waiting.get_mut(dependent) else { continue };
            *left -= 1;
            if *left == 0 {
                ready.extend(candidates.get(dependent).map(|header| (header.start_op, header.hash)));
            }
        }
    }
    block_the_rest(&candidates, &mut selection);
    selection
}

/// Holds the contests for each (actor, sequence) and returns the losers.
fn superseded(
    candidates: &BTreeMap<ChangeHash, &ChangeHeader>,
    precedes: impl Fn(&ChangeHash, &ChangeHash) -> bool,
) -> BTreeMap<ChangeHash, Blocked> {
    let mut places: BTreeMap<(&[u8], u64), Vec<ChangeHash>> = BTreeMap::new();
    for (hash, header) in candidates {
        places.entry((&header.actor, header.sequence)).or_default().push(*hash);
    }
    let mut blocked = BTreeMap::new();
    for rivals in places.values().filter(|rivals| rivals.len() > 1) {
        let is_first = |hash: &&ChangeHash| !rivals.iter().any(|rival| rival != *hash && precedes(rival, hash));
        // The rivals are in ascending order, so the first that none precedes has the smallest hash.
        let winner = rivals.iter().find(is_first).unwrap_or(&rivals[0]);
        let losers = rivals.iter().filter(|hash| *hash != winner);
        blocked.extend(losers.map(|hash| (*hash, Blocked::Superseded { by: *winner })));
    }
    blocked
}

/// Gives a reason to every candidate that is neither ordered nor blocked.
fn block_the_rest(candidates: &BTreeMap<ChangeHash, &ChangeHeader>, selection: &mut Selection) {
    let ordered: BTreeSet<ChangeHash> = selection.order.iter().copied().collect();
    for (hash, header) in candidates {
        if ordered.contains(hash) || selection.blocked.contains_key(hash) {
            continue;
        }
        let missing = header.dependencies.iter().filter(|dependency| !candidates.contains_key(*dependency)).min();
        let reason = match missing {
            Some(dependency) => Blocked::MissingDependency { dependency: *dependency },
            None => {
                let blocked = header.dependencies.iter().filter(|dependency| !ordered.contains(*dependency)).min();
                // Something holds it back, or it would be ordered.
                Blocked::DependsOnBlocked { dependency: blocked.copied().unwrap_or(*hash) }
            }
        };
        selection.blocked.insert(*hash, reason);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(name: u8, actor: u8, sequence: u64, dependencies: &[u8]) -> ChangeHeader {
        ChangeHeader {
            hash: [name; 32],
            actor: vec![actor],
            sequence,
            start_op: u64::from(name) + 1,
            dependencies: dependencies.iter().map(|name| [*name; 32]).collect(),
            operations: 1,
        }
    }

    fn names(selection: &Selection) -> Vec<u8> {
        selection.order.iter().map(|hash| hash[0]).collect()
    }

    #[test]
    fn of_concurrent_rivals_the_smaller_hash_wins_and_dependents_of_the_loser_are_blocked() {
        let all = [header(9, 1, 1, &[]), header(4, 1, 1, &[]), header(10, 2, 1, &[9]), header(11, 3, 1, &[10])];
        let selection = select(&all, |_, _| false);
        assert_eq!(names(&selection), [4]);
        assert_eq!(selection.blocked[&[9; 32]], Blocked::Superseded { by: [4; 32] });
        assert_eq!(selection.blocked[&[10; 32]], Blocked::DependsOnBlocked { dependency: [9; 32] });
        assert_eq!(selection.blocked[&[11; 32]], Blocked::DependsOnBlocked { dependency: [10; 32] });
    }

    #[test]
    fn a_rival_that_precedes_wins_whatever_its_hash() {
        let all = [header(4, 1, 1, &[]), header(9, 1, 1, &[])];
        assert_eq!(names(&select(&all, |a, b| a[0] == 9 && b[0] == 4)), [9]);
    }

    #[test]
    fn what_depends_on_an_absent_change_is_blocked() {
        let all = [header(4, 1, 1, &[77]), header(5, 1, 2, &[4])];
        let selection = select(&all, |_, _| false);
        assert!(selection.order.is_empty());
        assert_eq!(selection.blocked[&[4; 32]], Blocked::MissingDependency { dependency: [77; 32] });
    }

    /// Changes whose dependencies have smaller names, with many rivals.
    fn candidates() -> impl Strategy<Value = Vec<ChangeHeader>> {
        prop::collection::vec((0_u8..3, 1_u64..4, prop::collection::vec(any::<u8>(), 0..3)), 1..30).prop_map(|all| {
            let make = |(name, (actor, sequence, dependencies)): (usize, (u8, u64, Vec<u8>))| {
                let name = name as u8;
                let dependencies: Vec<u8> = dependencies.iter().map(|d| d % 32).filter(|d| *d < name).collect();
                header(name, actor, sequence, &dependencies)
            };
            all.into_iter().enumerate().map(make).collect()
        })
    }

    proptest! {
        #[test]
        fn the_selection_does_not_depend_on_the_order_of_the_candidates(
            (all, shuffled) in candidates().prop_flat_map(|all| (Just(all.clone()), Just(all).prop_shuffle())),
        ) {
            // A strict partial order on hashes that has nothing to do with their size.
            let precedes = |a: &ChangeHash, b: &ChangeHash| a[0] % 4 == b[0] % 4 && a[0] > b[0];
            let selection = select(&all, precedes);
            prop_assert_eq!(&selection, &select(&shuffled, precedes));
            prop_assert_eq!(selection.order.len() + selection.blocked.len(), all.len());
        }

        #[test]
        fn the_order_is_topological_and_holds_one_change_for_each_place(all in candidates()) {
            let by_hash: BTreeMap<_, _> = all.iter().map(|header| (header.hash, header)).collect();
            let (mut applied, mut places) = (BTreeSet::new(), BTreeSet::new());
            for hash in select(&all, |_, _| false).order {
                let header = by_hash[&hash];
                prop_assert!(header.dependencies.iter().all(|dependency| applied.contains(dependency)));
                prop_assert!(places.insert((header.actor.clone(), header.sequence)));
                applied.insert(hash);
            }
        }
    }
}
