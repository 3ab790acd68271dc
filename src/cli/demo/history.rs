//! A recorded editing history: what two people typed into one document at the same time.
//!
//! The recording is "friendsforever" from `editing-traces` by Seph Gentle (CC BY 4.0); see `data/README.md`.

use std::io::Read;

use flate2::read::GzDecoder;
use serde::Deserialize;

const RECORDING: &[u8] = include_bytes!("../../../data/friendsforever.json.gz");

/// The recording.
#[derive(Debug, Deserialize)]
pub(super) struct History {
    /// The text after all edits.
    #[serde(rename = "endContent")]
    pub(super) end: String,
    /// The edits, each after those that it builds on.
    #[serde(rename = "txns")]
    pub(super) edits: Vec<Edit>,
}

/// What one person typed at a time.
#[derive(Debug, Deserialize)]
pub(super) struct Edit {
    /// The edits that its author had seen last, by index.
    pub(super) parents: Vec<usize>,
    /// Who typed.
    pub(super) agent: usize,
    /// Position, characters deleted, characters inserted; positions count code points.
    pub(super) patches: Vec<(usize, usize, String)>,
}

/// Most edits that an editor sends at a time.
const BURST_EDITS_MAX: usize = 32;

/// What an editor sends at a time: edits in a row that nobody else saw in part.
#[derive(Debug)]
pub(super) struct Burst {
    /// Who typed.
    pub(super) agent: usize,
    /// The edits that its author had seen last, by index.
    pub(super) parents: Vec<usize>,
    /// Its edits, by index.
    pub(super) edits: Vec<usize>,
}

impl History {
    /// Unpacks the recording.
    pub(super) fn load() -> std::io::Result<Self> {
        let mut text = String::new();
        GzDecoder::new(RECORDING).read_to_string(&mut text)?;
        serde_json::from_str(&text).map_err(std::io::Error::other)
    }

    /// The edits in bursts, each agent's in order.
    pub(super) fn bursts(&self) -> Vec<Burst> {
        let mut seen_by_other = vec![false; self.edits.len()];
        for edit in &self.edits {
            for parent in &edit.parents {
                seen_by_other[*parent] |= self.edits[*parent].agent != edit.agent;
            }
        }
        let mut bursts: Vec<Burst> = Vec::new();
        // The last burst of each agent, as long as it can grow.
        let mut open: [Option<usize>; 2] = [None; 2];
        for (at, edit) in self.edits.iter().enumerate() {
            let growing = open[edit.agent].filter(|burst| {
                let edits = &bursts[*burst].edits;
                edits.last().is_some_and(|last| edit.parents == [*last]) && edits.len() < BURST_EDITS_MAX
            });
            match growing {
                Some(burst) => bursts[burst].edits.push(at),
                None => {
                    open[edit.agent] = Some(bursts.len());
                    bursts.push(Burst { agent: edit.agent, parents: edit.parents.clone(), edits: vec![at] });
                }
            }
            if seen_by_other[at] {
                open[edit.agent] = None;
            }
        }
        bursts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recording_is_whole() {
        let history = History::load().unwrap();
        assert_eq!(history.edits.len(), 26_078);
        assert!(history.edits.iter().enumerate().all(|(at, edit)| edit.parents.iter().all(|parent| *parent < at)));
        assert!(history.edits.iter().all(|edit| edit.agent < 2 && !edit.patches.is_empty()));
    }

    #[test]
    fn every_edit_is_in_one_burst_and_parents_end_theirs() {
        let history = History::load().unwrap();
        let bursts = history.bursts();
        let ends: std::collections::BTreeSet<usize> =
            bursts.iter().filter_map(|burst| burst.edits.last().copied()).collect();
        assert!(bursts.iter().flat_map(|burst| &burst.parents).all(|parent| ends.contains(parent)));
        let mut all: Vec<usize> = bursts.into_iter().flat_map(|burst| burst.edits).collect();
        all.sort_unstable();
        assert_eq!(all, (0..history.edits.len()).collect::<Vec<_>>());
    }
}
