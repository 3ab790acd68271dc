//! What is left out of a run: how a failing one is told in its shortest form.
//!
//! It is written and read as the program's `--without`, so that a line of `seeds.txt` and a command line are the same.

use std::collections::BTreeSet;
use std::fmt;

use crate::plan::Ambient;

/// The parts of a plan that a run does without.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reduction {
    /// Spaces with everything in them; never the first.
    pub spaces: BTreeSet<u64>,
    /// Devices; a space's steward stays.
    pub devices: BTreeSet<u64>,
    /// Things that people do.
    pub actions: BTreeSet<u64>,
    /// Things that go wrong once.
    pub faults: BTreeSet<u64>,
    /// Things that go wrong all the time, by their place in `Ambient::KINDS`.
    pub ambient: BTreeSet<u64>,
}

/// The kinds of parts, as they are written.
const PARTS: [&str; 5] = ["spaces", "devices", "actions", "faults", "ambient"];

impl Reduction {
    /// The left out parts of one kind, by their place in the list of kinds.
    fn part(&self, at: usize) -> &BTreeSet<u64> {
        [&self.spaces, &self.devices, &self.actions, &self.faults, &self.ambient][at]
    }

    fn part_mut(&mut self, at: usize) -> &mut BTreeSet<u64> {
        let Self { spaces, devices, actions, faults, ambient } = self;
        [spaces, devices, actions, faults, ambient].into_iter().nth(at).expect("there are as many parts as names")
    }

    /// Takes in one text as given to `--without`, such as `actions=3,5-9`.
    ///
    /// # Errors
    /// A sentence that says what would be right.
    pub fn add(&mut self, text: &str) -> Result<(), String> {
        let wrong = || format!("`{text}`: write a list such as actions=3,5-9, of {}", PARTS.join(", "));
        let (name, list) = text.split_once('=').ok_or_else(wrong)?;
        let at = PARTS.iter().position(|part| *part == name).ok_or_else(wrong)?;
        for stretch in list.split(',') {
            if let Some(kind) = Ambient::KINDS.iter().position(|kind| name == "ambient" && *kind == stretch) {
                self.ambient.insert(kind as u64);
                continue;
            }
            let (first, last) = stretch.split_once('-').unwrap_or((stretch, stretch));
            let (first, last) = (first.parse().map_err(|_| wrong())?, last.parse().map_err(|_| wrong())?);
            self.part_mut(at).extend::<std::ops::RangeInclusive<u64>>(first..=last);
        }
        Ok(())
    }

    /// Whether nothing is left out.
    pub fn is_empty(&self) -> bool {
        (0..PARTS.len()).all(|at| self.part(at).is_empty())
    }
}

impl fmt::Display for Reduction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, name) in PARTS.iter().enumerate() {
            let part = self.part(at);
            if part.is_empty() {
                continue;
            }
            let list = match *name {
                "ambient" => part
                    .iter()
                    .filter_map(|kind| Ambient::KINDS.get(*kind as usize))
                    .map(|kind| (*kind).to_owned())
                    .collect(),
                _ => vec![stretches(part)],
            };
            write!(f, " --without {name}={}", list.join(","))?;
        }
        Ok(())
    }
}

/// Numbers as `1,3-5`.
fn stretches(numbers: &BTreeSet<u64>) -> String {
    let mut found: Vec<(u64, u64)> = Vec::new();
    for number in numbers {
        match found.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => found.push((*number, *number)),
        }
    }
    let text = |(first, last): &(u64, u64)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    found.iter().map(text).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reduction_is_read_as_it_is_written() {
        let mut reduction = Reduction::default();
        for text in ["actions=3,5-9,11", "faults=0-2", "devices=4", "ambient=gossip-loss,lies"] {
            reduction.add(text).unwrap();
        }
        let written = reduction.to_string();
        assert_eq!(
            written,
            " --without devices=4 --without actions=3,5-9,11 --without faults=0-2 --without ambient=gossip-loss,lies"
        );
        let mut again = Reduction::default();
        written.split_whitespace().filter(|word| *word != "--without").try_for_each(|word| again.add(word)).unwrap();
        assert_eq!(again, reduction);
        for wrong in ["actions", "action=1", "actions=x", "actions=1-x"] {
            assert!(Reduction::default().add(wrong).is_err(), "{wrong}");
        }
    }
}
