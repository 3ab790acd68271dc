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

impl History {
    /// Unpacks the recording.
    pub(super) fn load() -> std::io::Result<Self> {
        let mut text = String::new();
        GzDecoder::new(RECORDING).read_to_string(&mut text)?;
        serde_json::from_str(&text).map_err(std::io::Error::other)
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
}
