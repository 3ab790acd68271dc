//! The smallest set of replacements that turns one sequence into another.

use std::ops::Range;

use super::limits::MAX_EDIT_DISTANCE;

/// Replace the elements `old` of the old sequence by the elements `new` of the new one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hunk {
    pub(super) old: Range<usize>,
    pub(super) new: Range<usize>,
}

/// The hunks between two sequences, in ascending order.
///
/// The common start and end are set aside; between them Myers' greedy algorithm ("An O(ND) Difference Algorithm",
/// 1986) finds the fewest insertions and deletions. Past [`MAX_EDIT_DISTANCE`] of them the middle is one hunk, so
/// that two unrelated texts do not cost their product.
pub(super) fn difference<T: PartialEq>(old: &[T], new: &[T]) -> Vec<Hunk> {
    let start = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let (old_rest, new_rest) = (&old[start..], &new[start..]);
    let end = old_rest.iter().rev().zip(new_rest.iter().rev()).take_while(|(a, b)| a == b).count();
    let old_middle = &old_rest[..old_rest.len() - end];
    let new_middle = &new_rest[..new_rest.len() - end];
    if old_middle.is_empty() && new_middle.is_empty() {
        return Vec::new();
    }
    let whole = || vec![Hunk { old: 0..old_middle.len(), new: 0..new_middle.len() }];
    let hunks = if old_middle.is_empty() || new_middle.is_empty() {
        whole()
    } else {
        shortest_edit(old_middle, new_middle).unwrap_or_else(whole)
    };
    let shift = |range: Range<usize>| range.start + start..range.end + start;
    hunks.into_iter().map(|hunk| Hunk { old: shift(hunk.old), new: shift(hunk.new) }).collect()
}

/// The furthest position in the old sequence reached on each diagonal (old minus new position).
struct Frontier {
    furthest: Vec<usize>,
    centre: usize,
}

impl Frontier {
    fn get(&self, diagonal: isize) -> usize {
        self.furthest[self.centre.wrapping_add_signed(diagonal)]
    }

    /// Whether the best path to `diagonal` with `distance` edits ends with an insertion.
    fn comes_by_insertion(&self, diagonal: isize, distance: isize) -> bool {
        diagonal == -distance || (diagonal != distance && self.get(diagonal - 1) < self.get(diagonal + 1))
    }
}

fn shortest_edit<T: PartialEq>(old: &[T], new: &[T]) -> Option<Vec<Hunk>> {
    let most = MAX_EDIT_DISTANCE.min(old.len() + new.len());
    let mut frontier = Frontier { furthest: vec![0; 2 * most + 3], centre: most + 1 };
    let mut trace: Vec<Vec<usize>> = Vec::new();
    for distance in 0..=isize::try_from(most).ok()? {
        trace.push(frontier.furthest.clone());
        for diagonal in (-distance..=distance).step_by(2) {
            let mut x = if frontier.comes_by_insertion(diagonal, distance) {
                frontier.get(diagonal + 1)
            } else {
                frontier.get(diagonal - 1) + 1
            };
            // Off the grid: more deletions than elements, or more insertions.
            let Some(mut y) = x.checked_add_signed(-diagonal) else { continue };
            while x < old.len() && y < new.len() && old[x] == new[y] {
                x += 1;
                y += 1;
            }
            let index = frontier.centre.wrapping_add_signed(diagonal);
            frontier.furthest[index] = x;
            if x >= old.len() && y >= new.len() {
                return Some(walk_back(trace, frontier.centre, old.len(), new.len()));
            }
        }
    }
    None
}

fn walk_back(trace: Vec<Vec<usize>>, centre: usize, old_length: usize, new_length: usize) -> Vec<Hunk> {
    let (mut x, mut y) = (old_length, new_length);
    let mut hunks: Vec<Hunk> = Vec::new();
    for (distance, furthest) in trace.into_iter().enumerate().skip(1).rev() {
        let frontier = Frontier { furthest, centre };
        let diagonal = x as isize - y as isize;
        let inserted = frontier.comes_by_insertion(diagonal, distance as isize);
        let before = if inserted { diagonal + 1 } else { diagonal - 1 };
        let from_x = frontier.get(before);
        let from_y = from_x.wrapping_add_signed(-before);
        let (to_x, to_y) = if inserted { (from_x, from_y + 1) } else { (from_x + 1, from_y) };
        match hunks.last_mut() {
            Some(next) if next.old.start == to_x && next.new.start == to_y => {
                next.old.start = from_x;
                next.new.start = from_y;
            }
            _ => hunks.push(Hunk { old: from_x..to_x, new: from_y..to_y }),
        }
        (x, y) = (from_x, from_y);
    }
    hunks.reverse();
    hunks
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rebuilt(old: &[u8], new: &[u8]) -> Vec<u8> {
        let mut result = old.to_vec();
        for hunk in difference(old, new).into_iter().rev() {
            result.splice(hunk.old, new[hunk.new].iter().copied());
        }
        result
    }

    #[test]
    fn only_what_differs_is_replaced() {
        assert_eq!(difference(b"abcabba", b"abcabba"), vec![]);
        assert_eq!(difference(b"one two", b"one big two"), vec![Hunk { old: 4..4, new: 4..8 }]);
        assert_eq!(difference(b"axcye", b"abcde"), vec![Hunk { old: 1..2, new: 1..2 }, Hunk { old: 3..4, new: 3..4 }]);
    }

    #[test]
    fn unrelated_sequences_become_one_hunk() {
        let (old, new) = (vec![1_u8; 1000], vec![2_u8; 900]);
        assert_eq!(difference(&old, &new), vec![Hunk { old: 0..1000, new: 0..900 }]);
    }

    proptest! {
        #[test]
        fn the_hunks_rebuild_the_new_sequence(
            old in prop::collection::vec(0_u8..4, 0..40),
            new in prop::collection::vec(0_u8..4, 0..40),
        ) {
            prop_assert_eq!(rebuilt(&old, &new), new);
        }
    }
}
